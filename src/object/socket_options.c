/* Options of sockets in a durable image: rows of level, number and value. At a restore a row is looked at
 * only if it is in the table below (an image is hostile, and some options have effects of their own), and an
 * option is set only if the new socket has another value: many can be read by everybody and set by few. Sizes
 * of buffers are special: the kernel doubles what it is given, and a size that nobody has set must stay free
 * to adapt itself (SO_BUF_LOCK, Linux 5.14). See socket(7), ip(7), ipv6(7), tcp(7), udp(7), netlink(7). */
#include "object/durable.h"
#include "object/socket_options.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <string.h>
#include <sys/socket.h>

#ifndef SO_BUF_LOCK
#define SO_BUF_LOCK 72
#endif
#ifndef SO_PASSPIDFD
#define SO_PASSPIDFD 76
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#define SNDBUF_LOCKED 1
#define RCVBUF_LOCKED 2

static const struct {
    int level, option;
} known[] = {
    {SOL_SOCKET, SO_REUSEADDR},
    {SOL_SOCKET, SO_REUSEPORT},
    {SOL_SOCKET, SO_KEEPALIVE},
    {SOL_SOCKET, SO_BROADCAST},
    {SOL_SOCKET, SO_OOBINLINE},
    {SOL_SOCKET, SO_DONTROUTE},
    {SOL_SOCKET, SO_NO_CHECK},
    {SOL_SOCKET, SO_MARK},
    {SOL_SOCKET, SO_RCVLOWAT},
    {SOL_SOCKET, SO_LINGER},
    {SOL_SOCKET, SO_RCVTIMEO},
    {SOL_SOCKET, SO_SNDTIMEO},
    {SOL_SOCKET, SO_PASSCRED},
    {SOL_SOCKET, SO_PASSSEC},
    {SOL_SOCKET, SO_PASSPIDFD},
    {SOL_SOCKET, SO_TIMESTAMP},
    {SOL_SOCKET, SO_TIMESTAMPNS},
    {SOL_SOCKET, SO_RXQ_OVFL},
    {SOL_SOCKET, SO_ZEROCOPY},
    {SOL_SOCKET, SO_PEEK_OFF},
    {SOL_SOCKET, SO_BINDTODEVICE},
    {IPPROTO_IP, IP_TOS},
    {SOL_SOCKET, SO_PRIORITY}, /* which IP_TOS sets, too */
    {IPPROTO_IP, IP_TTL},
    {IPPROTO_IP, IP_RECVTOS},
    {IPPROTO_IP, IP_RECVTTL},
    {IPPROTO_IP, IP_PKTINFO},
    {IPPROTO_IP, IP_RECVERR},
    {IPPROTO_IP, IP_RECVORIGDSTADDR},
    {IPPROTO_IP, IP_MTU_DISCOVER},
    {IPPROTO_IP, IP_FREEBIND},
    {IPPROTO_IP, IP_TRANSPARENT},
    {IPPROTO_IP, IP_HDRINCL},
    {IPPROTO_IP, IP_NODEFRAG},
    {IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT},
    {IPPROTO_IP, IP_MULTICAST_TTL},
    {IPPROTO_IP, IP_MULTICAST_LOOP},
    {IPPROTO_IP, IP_MULTICAST_ALL},
    {IPPROTO_IPV6, IPV6_V6ONLY},
    {IPPROTO_IPV6, IPV6_UNICAST_HOPS},
    {IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    {IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    {IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
    {IPPROTO_IPV6, IPV6_RECVTCLASS},
    {IPPROTO_IPV6, IPV6_RECVERR},
    {IPPROTO_IPV6, IPV6_TCLASS},
    {IPPROTO_IPV6, IPV6_MTU_DISCOVER},
    {IPPROTO_IPV6, IPV6_FREEBIND},
    {IPPROTO_IPV6, IPV6_TRANSPARENT},
    {IPPROTO_TCP, TCP_NODELAY},
    {IPPROTO_TCP, TCP_CORK},
    {IPPROTO_TCP, TCP_KEEPIDLE},
    {IPPROTO_TCP, TCP_KEEPINTVL},
    {IPPROTO_TCP, TCP_KEEPCNT},
    {IPPROTO_TCP, TCP_SYNCNT},
    {IPPROTO_TCP, TCP_LINGER2},
    {IPPROTO_TCP, TCP_DEFER_ACCEPT},
    {IPPROTO_TCP, TCP_USER_TIMEOUT},
    {IPPROTO_TCP, TCP_NOTSENT_LOWAT},
    {IPPROTO_TCP, TCP_FASTOPEN},
    {IPPROTO_TCP, TCP_FASTOPEN_CONNECT},
    {IPPROTO_TCP, TCP_SAVE_SYN},
    {IPPROTO_TCP, TCP_CONGESTION},
    {IPPROTO_UDP, UDP_CORK},
    {IPPROTO_UDP, UDP_NO_CHECK6_TX},
    {IPPROTO_UDP, UDP_NO_CHECK6_RX},
    {IPPROTO_UDP, UDP_GRO},
    {IPPROTO_UDP, UDP_SEGMENT},
    {SOL_PACKET, PACKET_VERSION},
    {SOL_PACKET, PACKET_RESERVE},
    {SOL_PACKET, PACKET_AUXDATA},
    {SOL_PACKET, PACKET_ORIGDEV},
    {SOL_PACKET, PACKET_VNET_HDR},
    {SOL_PACKET, PACKET_LOSS},
    {SOL_PACKET, PACKET_TIMESTAMP},
    {SOL_PACKET, PACKET_QDISC_BYPASS},
    {SOL_PACKET, PACKET_IGNORE_OUTGOING},
    {SOL_NETLINK, NETLINK_PKTINFO},
    {SOL_NETLINK, NETLINK_BROADCAST_ERROR},
    {SOL_NETLINK, NETLINK_NO_ENOBUFS},
    {SOL_NETLINK, NETLINK_CAP_ACK},
    {SOL_NETLINK, NETLINK_EXT_ACK},
    {SOL_NETLINK, NETLINK_GET_STRICT_CHK},
};

/* ---- capture ---- */

/* The kernel uses the fields of these for other things in a TCP socket. */
static bool is_multicast(int level, int option)
{
    return (level == IPPROTO_IP && (option == IP_MULTICAST_TTL || option == IP_MULTICAST_LOOP)) ||
           (level == IPPROTO_IPV6 && (option == IPV6_MULTICAST_HOPS || option == IPV6_MULTICAST_LOOP));
}

static bool applies(int level, int option, const struct object_sight *sight)
{
    bool is_v6 = sight->domain == AF_INET6, is_inet = sight->domain == AF_INET || is_v6;
    if (sight->type == SOCK_STREAM && is_multicast(level, option))
        return false;
    switch (level) {
    case SOL_SOCKET:
        return true;
    case IPPROTO_IP:
        return is_inet;
    case IPPROTO_IPV6:
        return is_v6;
    case IPPROTO_TCP:
        return is_inet && sight->protocol == IPPROTO_TCP && sight->type == SOCK_STREAM;
    case IPPROTO_UDP:
        return is_inet && sight->protocol == IPPROTO_UDP;
    case SOL_PACKET:
        return sight->domain == AF_PACKET;
    default:
        return sight->domain == AF_NETLINK;
    }
}

static int add_option(struct object_capture *capture, int level, int option, uint32_t *count)
{
    struct socket_option row = {.level = (uint32_t)level, .option = (uint32_t)option};
    socklen_t length = sizeof row.value;
    if (getsockopt(capture->cap, level, option, row.value, &length) < 0 || length > sizeof row.value)
        return 0;
    row.length = length;
    (*count)++;
    return state_add(capture, &row, sizeof row);
}

int socket_options_capture(struct object_capture *capture, uint32_t *ret_count)
{
    uint32_t count = 0;
    int r = add_option(capture, SOL_SOCKET, SO_BUF_LOCK, &count);
    if (r == 0)
        r = add_option(capture, SOL_SOCKET, SO_SNDBUF, &count);
    if (r == 0)
        r = add_option(capture, SOL_SOCKET, SO_RCVBUF, &count);
    for (size_t i = 0; r == 0 && i < COUNT_OF(known); i++)
        if (applies(known[i].level, known[i].option, capture->sight))
            r = add_option(capture, known[i].level, known[i].option, &count);
    *ret_count = count;
    return r;
}

/* ---- check, restore ---- */

static struct socket_option option_at(const struct object_view *view, size_t offset, size_t index)
{
    struct socket_option row;
    memcpy(&row, view->state + offset + index * sizeof row, sizeof row);
    return row;
}

int socket_options_check(const struct object_view *view, size_t offset, uint32_t count,
                         struct reseat_error **ret_error)
{
    if (!view_has(view, offset, (uint64_t)count * sizeof(struct socket_option)))
        return view_bad(view, ret_error, "%u options are cut off", count);
    for (size_t i = 0; i < count; i++)
        if (option_at(view, offset, i).length > sizeof((struct socket_option *)0)->value)
            return view_bad(view, ret_error, "option %zu is too long", i);
    return 0;
}

bool socket_options_find(const struct object_view *view, size_t offset, uint32_t count, int level, int option,
                         void *ret_value, size_t length)
{
    for (size_t i = 0; i < count; i++) {
        struct socket_option row = option_at(view, offset, i);
        if (row.level != (uint32_t)level || row.option != (uint32_t)option || row.length < length)
            continue;
        memcpy(ret_value, row.value, length);
        return true;
    }
    return false;
}

int socket_options_value(const struct object_view *view, size_t offset, uint32_t count, int level, int option,
                         int fallback)
{
    int value = fallback;
    socket_options_find(view, offset, count, level, option, &value, sizeof value);
    return value;
}

static bool is_known(const struct socket_option *row)
{
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (known[i].level == (int)row->level && known[i].option == (int)row->option)
            return true;
    return false;
}

int socket_options_apply(const struct object_view *view, size_t offset, uint32_t count, native_cap_t cap,
                         struct reseat_error **ret_error)
{
    for (size_t i = 0; i < count; i++) {
        struct socket_option row = option_at(view, offset, i);
        uint8_t now[sizeof row.value] = {0};
        socklen_t length = sizeof now;
        bool comes_last = row.level == SOL_SOCKET && row.option == SO_PEEK_OFF;
        if (comes_last || !is_known(&row) ||
            getsockopt(cap, (int)row.level, (int)row.option, now, &length) < 0 ||
            (length == row.length && memcmp(now, row.value, length) == 0))
            continue;
        if (setsockopt(cap, (int)row.level, (int)row.option, row.value, row.length) < 0)
            return error_errno(ret_error, -errno, "setting option %u of level %u", row.option, row.level);
    }
    return 0;
}

/* The kernel gives back twice what it was given. Without CAP_NET_ADMIN there is a limit (net.core.wmem_max):
 * then as much as is allowed. */
static void set_size(native_cap_t cap, int forced, int option, int doubled)
{
    int size = doubled / 2;
    if (setsockopt(cap, SOL_SOCKET, forced, &size, sizeof size) < 0)
        setsockopt(cap, SOL_SOCKET, option, &size, sizeof size);
}

void socket_options_finish(const struct object_view *view, size_t offset, uint32_t count, native_cap_t cap)
{
    int lock = socket_options_value(view, offset, count, SOL_SOCKET, SO_BUF_LOCK, 0);
    int peek = socket_options_value(view, offset, count, SOL_SOCKET, SO_PEEK_OFF, -1);
    set_size(cap, SO_SNDBUFFORCE, SO_SNDBUF,
             socket_options_value(view, offset, count, SOL_SOCKET, SO_SNDBUF, 0));
    if (lock & RCVBUF_LOCKED)
        set_size(cap, SO_RCVBUFFORCE, SO_RCVBUF,
                 socket_options_value(view, offset, count, SOL_SOCKET, SO_RCVBUF, 0));
    if (peek >= 0)
        setsockopt(cap, SOL_SOCKET, SO_PEEK_OFF, &peek, sizeof peek);
    lock &= SNDBUF_LOCKED | RCVBUF_LOCKED;
    setsockopt(cap, SOL_SOCKET, SO_BUF_LOCK, &lock, sizeof lock);
}

void socket_options_make_room(native_cap_t cap)
{
    set_size(cap, SO_SNDBUFFORCE, SO_SNDBUF, 64 << 20);
}
