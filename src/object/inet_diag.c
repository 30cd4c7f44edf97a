/* What no call on an internet socket tells about it: which ways it is shut down. Socket diagnostics do
 * (sock_diag(7), CONFIG_INET_UDP_DIAG), asked for all sockets of one port. */
#include "object/inet_diag.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <sys/socket.h>

#define REPLY_BYTES 32768 /* what the kernel puts into one message of a dump at most */

static int ask(int netlink_fd, int domain, int protocol, in_port_t port)
{
    struct {
        struct nlmsghdr header;
        struct inet_diag_req_v2 body;
    } question = {
        .header = {.nlmsg_len = sizeof question,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = (uint8_t)domain,
                 .sdiag_protocol = (uint8_t)protocol,
                 .idiag_states = ~0U,
                 .id = {.idiag_sport = port}},
    };
    return send(netlink_fd, &question, sizeof question, 0) < 0 ? -errno : 0;
}

static void take_socket(const struct nlmsghdr *message, uint64_t inode, unsigned *shutdown)
{
    const struct inet_diag_msg *body = NLMSG_DATA(message);
    if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY || message->nlmsg_len < NLMSG_LENGTH(sizeof *body) ||
        body->idiag_inode != (uint32_t)inode)
        return;
    int rest = (int)(message->nlmsg_len - NLMSG_SPACE(sizeof *body));
    const void *attributes = (const char *)body + NLMSG_ALIGN(sizeof *body);
    for (const struct rtattr *a = attributes; RTA_OK(a, rest); a = RTA_NEXT(a, rest))
        if (a->rta_type == INET_DIAG_SHUTDOWN && RTA_PAYLOAD(a) >= 1)
            *shutdown = *(const uint8_t *)RTA_DATA(a);
}

unsigned inet_shutdown_read(int domain, int protocol, in_port_t port, uint64_t inode)
{
    _cleanup_close_ int netlink_fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    _cleanup_free_ struct nlmsghdr *reply = malloc(REPLY_BYTES);
    unsigned shutdown = 0;
    if (netlink_fd < 0 || !reply || ask(netlink_fd, domain, protocol, port) < 0)
        return 0;
    for (;;) {
        ssize_t length = recv(netlink_fd, reply, REPLY_BYTES, 0);
        if (length <= 0)
            return shutdown;
        size_t rest = (size_t)length;
        for (const struct nlmsghdr *m = reply; NLMSG_OK(m, rest); m = NLMSG_NEXT(m, rest)) {
            if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR)
                return shutdown;
            take_socket(m, inode, &shutdown);
        }
    }
}
