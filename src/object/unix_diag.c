/* What no call on a unix socket tells about it: its peer, which ways it is shut down, how much its peer has
 * not read, who waits to be accepted. Socket diagnostics do (sock_diag(7), CONFIG_UNIX_DIAG), asked for one
 * inode. */
#include "object/unix_diag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <string.h>
#include <sys/socket.h>

#define REPLY_BYTES 65536

void unix_facts_end(struct unix_facts *facts)
{
    free(facts->waiting);
    *facts = (struct unix_facts){0};
}

static int ask(int netlink_fd, uint64_t inode)
{
    struct {
        struct nlmsghdr header;
        struct unix_diag_req body;
    } question = {
        .header = {.nlmsg_len = sizeof question,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST},
        .body = {.sdiag_family = AF_UNIX,
                 .udiag_states = ~0U,
                 .udiag_ino = (uint32_t)inode,
                 .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_ICONS | UDIAG_SHOW_RQLEN | UDIAG_SHOW_VFS,
                 .udiag_cookie = {~0U, ~0U}},
    };
    return send(netlink_fd, &question, sizeof question, 0) < 0 ? -errno : 0;
}

static int take_waiting(const struct rtattr *attribute, struct unix_facts *facts)
{
    size_t count = RTA_PAYLOAD(attribute) / sizeof(uint32_t);
    facts->waiting = calloc(count + 1, sizeof *facts->waiting);
    if (!facts->waiting)
        return -ENOMEM;
    memcpy(facts->waiting, RTA_DATA(attribute), count * sizeof(uint32_t));
    facts->waiting_count = count;
    return 0;
}

static int take_attribute(const struct rtattr *attribute, struct unix_facts *facts)
{
    const void *data = RTA_DATA(attribute);
    switch (attribute->rta_type) {
    case UNIX_DIAG_PEER:
        memcpy(&facts->peer, data, sizeof facts->peer);
        facts->has_peer = true;
        return 0;
    case UNIX_DIAG_SHUTDOWN:
        facts->shutdown = *(const uint8_t *)data;
        return 0;
    case UNIX_DIAG_RQLEN:
        memcpy(&facts->received, data, sizeof facts->received);
        memcpy(&facts->unread, (const uint8_t *)data + sizeof facts->received, sizeof facts->unread);
        return 0;
    case UNIX_DIAG_VFS:
        memcpy(&facts->file_inode, data, sizeof facts->file_inode);
        return 0;
    case UNIX_DIAG_ICONS:
        return facts->waiting ? 0 : take_waiting(attribute, facts);
    default:
        return 0;
    }
}

int unix_facts_read(uint64_t inode, struct unix_facts *ret_facts)
{
    _cleanup_close_ int netlink_fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    _cleanup_free_ struct nlmsghdr *reply = malloc(REPLY_BYTES);
    if (netlink_fd < 0 || !reply)
        return -ENOMEM;
    int r = ask(netlink_fd, inode);
    ssize_t length = r < 0 ? r : recv(netlink_fd, reply, REPLY_BYTES, 0);
    if (length < 0)
        return r < 0 ? r : -errno;
    if (!NLMSG_OK(reply, (size_t)length) || reply->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        reply->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
        return -ENOENT;
    const struct unix_diag_msg *body = NLMSG_DATA(reply);
    struct unix_facts facts = {.state = body->udiag_state};
    const char *attributes = (const char *)body + NLMSG_ALIGN(sizeof *body);
    int rest = (int)(reply->nlmsg_len - NLMSG_SPACE(sizeof *body));
    for (const struct rtattr *a = (const void *)attributes; r == 0 && RTA_OK(a, rest); a = RTA_NEXT(a, rest))
        r = take_attribute(a, &facts);
    if (r < 0) {
        unix_facts_end(&facts);
        return r;
    }
    *ret_facts = facts;
    return 0;
}
