/* One question to the kernel's socket diagnostics, and all of its answers. */
#include "object/diag.h"

#include <errno.h>
#include <linux/sock_diag.h>
#include <string.h>
#include <sys/socket.h>

#define QUESTION_BYTES 128
#define REPLY_BYTES    32768 /* what the kernel puts into one message of a dump at most */

static int ask(int netlink_fd, const void *question, size_t length)
{
    struct {
        struct nlmsghdr header;
        char body[QUESTION_BYTES];
    } message = {.header = {.nlmsg_len = (uint32_t)NLMSG_LENGTH(length),
                            .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                            .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP}};
    memcpy(message.body, question, length);
    return send(netlink_fd, &message, message.header.nlmsg_len, 0) < 0 ? -errno : 0;
}

int diag_dump(const void *question, size_t question_length, size_t length,
              void (*take)(const void *body, int attributes_length, void *userdata), void *userdata)
{
    _cleanup_close_ int netlink_fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    _cleanup_free_ struct nlmsghdr *reply = malloc(REPLY_BYTES);
    if (netlink_fd < 0 || !reply)
        return -ENOMEM;
    int r = ask(netlink_fd, question, question_length);
    while (r == 0) {
        ssize_t n = recv(netlink_fd, reply, REPLY_BYTES, 0);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        size_t rest = (size_t)n;
        for (const struct nlmsghdr *m = reply; NLMSG_OK(m, rest); m = NLMSG_NEXT(m, rest)) {
            if (m->nlmsg_type == NLMSG_DONE)
                return 0;
            if (m->nlmsg_type == NLMSG_ERROR)
                return -EOPNOTSUPP;
            if (m->nlmsg_type == SOCK_DIAG_BY_FAMILY && m->nlmsg_len >= NLMSG_LENGTH(length))
                take(NLMSG_DATA(m), (int)(m->nlmsg_len - NLMSG_LENGTH(length)), userdata);
        }
    }
    return r;
}
