/* TCP sockets whose connection is over: what the process is to find of a connection that could not be carried
 * over, or that had ended before. With CAP_NET_ADMIN both ends of the connection are made here in repair mode
 * (see socket_tcp_durable.c), the other one with an address that need not be ours (IP_TRANSPARENT, ip(7)),
 * and that one resets it: the only packet, and it is sent to this machine. Otherwise they are the end of a
 * connection within the machine, whose addresses are others, and which is ended the same way. Either way
 * reading, writing and polling answer as they would. */
#include "object/kinds/socket_inet_durable.h"

#include <errno.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sys/socket.h>

#define LOOPBACK_WAIT_MS 1000
#define TCP_CLOSED       7 /* TCP_CLOSE of <netinet/tcp.h>, which does not go with <linux/tcp.h> */

/* A connection within the machine, of which one end is accepted. */
static int make_loopback(int domain, int *ret_client, int *ret_server)
{
    union inet_name name = {.any.sa_family = (sa_family_t)domain};
    socklen_t length = domain == AF_INET6 ? sizeof name.v6 : sizeof name.v4;
    _cleanup_close_ int listener = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    _cleanup_close_ int client = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (domain == AF_INET6)
        name.v6.sin6_addr = in6addr_loopback;
    else
        name.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || client < 0 || bind(listener, &name.any, length) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, &name.any, &length) < 0 || connect(client, &name.any, length) < 0)
        return -errno;
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (server < 0)
        return -errno;
    *ret_client = TAKE_FD(client);
    *ret_server = server;
    return 0;
}

static void wait_for(int fd, short event)
{
    struct pollfd poll_fd = {.fd = fd, .events = event};
    poll(&poll_fd, 1, LOOPBACK_WAIT_MS);
}

/* ---- with its addresses ---- */

#define SEQUENCE_HERE  1
#define SEQUENCE_THERE 2

static int set_number(int fd, int level, int option, int number)
{
    return setsockopt(fd, level, option, &number, sizeof number) < 0 ? -errno : 0;
}

/* One end, in repair mode and then connected without a packet. */
static int make_end(const struct inet_state *state, bool is_ours, int *ret_fd)
{
    const uint8_t *own = is_ours ? state->local : state->peer, *other = is_ours ? state->peer : state->local;
    union inet_name name, peer;
    memcpy(name.bytes, own, sizeof name.bytes);
    memcpy(peer.bytes, other, sizeof peer.bytes);
    socklen_t length = is_ours ? state->local_length : state->peer_length;
    socklen_t peer_length = is_ours ? state->peer_length : state->local_length;
    _cleanup_close_ int fd = socket((int)state->domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int r = fd < 0 ? -errno : set_number(fd, IPPROTO_TCP, TCP_REPAIR, 1);
    if (r == 0)
        r = set_number(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_SEND_QUEUE);
    if (r == 0)
        r = set_number(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, is_ours ? SEQUENCE_HERE : SEQUENCE_THERE);
    if (r == 0)
        r = set_number(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, TCP_RECV_QUEUE);
    if (r == 0)
        r = set_number(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, is_ours ? SEQUENCE_THERE : SEQUENCE_HERE);
    if (r == 0 && !is_ours)
        r = set_number(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
    if (r == 0 && (bind(fd, &name.any, length) < 0 || connect(fd, &peer.any, peer_length) < 0))
        r = -errno;
    if (r < 0)
        return r; /* in repair mode it goes without a packet */
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int make_with_addresses(const struct inet_state *state, bool is_reset, int *ret_fd)
{
    struct linger at_once = {.l_onoff = 1};
    _cleanup_close_ int here = -EBADF, there = -EBADF;
    if (!state->local_length || !state->peer_length)
        return -ENOTCONN;
    int r = make_end(state, true, &here);
    if (r == 0)
        r = make_end(state, false, &there);
    if (r == 0)
        r = set_number(there, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    if (r < 0)
        return r;
    setsockopt(there, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    base_close(&there);
    there = -EBADF;
    wait_for(here, POLLRDHUP);
    struct tcp_info info = {0};
    int error = 0;
    socklen_t info_length = sizeof info, length = sizeof error;
    if (getsockopt(here, IPPROTO_TCP, TCP_INFO, &info, &info_length) < 0 || info.tcpi_state != TCP_CLOSED)
        return -ETIMEDOUT;
    r = set_number(here, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
    if (r == 0) /* until all that share its port are bound */
        r = set_number(here, SOL_SOCKET, SO_REUSEADDR, 1);
    if (r < 0)
        return r;
    if (!is_reset)
        getsockopt(here, SOL_SOCKET, SO_ERROR, &error, &length); /* which takes it away */
    *ret_fd = TAKE_FD(here);
    return 0;
}

int inet_make_over(const struct object_view *view, bool is_reset, native_cap_t *ret_cap,
                   struct reseat_error **ret_error)
{
    struct linger at_once = {.l_onoff = 1};
    struct inet_state state = inet_parts_of(view).state;
    int client = -EBADF, server = -EBADF;
    if (make_with_addresses(&state, is_reset, ret_cap) == 0)
        return 0;
    int r = make_loopback((int)state.domain, &client, &server);
    if (r < 0)
        return error_errno(ret_error, r, "making a connection that is over");
    if (is_reset)
        setsockopt(server, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    else
        shutdown(client, SHUT_WR);
    close(server);
    wait_for(client, POLLRDHUP);
    *ret_cap = client;
    return 0;
}
