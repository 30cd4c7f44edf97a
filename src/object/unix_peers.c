/* Who is at the other end of a unix socket. No call on the socket tells it; the kernel's socket diagnostics
 * do (sock_diag(7), the module unix_diag, UDIAG_SHOW_PEER). It is asked once per table, for all sockets of
 * our network namespace at once: a question about a single inode makes the kernel walk through all of them.
 *
 * A socket of another network namespace, or made after we asked, has an unknown peer; so has every socket on
 * a kernel without these diagnostics. */
#include "object/kinds.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <sys/socket.h>

#define REPLY_BYTES 32768 /* what the kernel puts into one message of a dump at most */

struct peer {
    uint64_t inode, peer_inode;
};

struct unix_peers {
    uint64_t namespace_cookie;
    struct peer *items; /* by inode */
    size_t count;
};

void unix_peers_free(struct unix_peers **peers)
{
    if (!*peers)
        return;
    free((*peers)->items);
    free(*peers);
    *peers = NULL;
}

/* Names a network namespace for as long as the machine runs (Linux 5.14); 0: not known. */
static uint64_t namespace_cookie(int socket_fd)
{
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return getsockopt(socket_fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) < 0 ? 0 : cookie;
}

static int send_question(int netlink_fd)
{
    struct {
        struct nlmsghdr header;
        struct unix_diag_req body;
    } question = {
        .header = {.nlmsg_len = sizeof question,
                   .nlmsg_type = SOCK_DIAG_BY_FAMILY,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP},
        .body = {.sdiag_family = AF_UNIX, .udiag_states = ~0U, .udiag_show = UDIAG_SHOW_PEER},
    };
    return send(netlink_fd, &question, sizeof question, 0) < 0 ? -errno : 0;
}

static int add_peer(struct unix_peers *peers, const struct nlmsghdr *message)
{
    if (message->nlmsg_type != SOCK_DIAG_BY_FAMILY ||
        message->nlmsg_len < NLMSG_LENGTH(sizeof(struct unix_diag_msg)))
        return 0;
    const struct unix_diag_msg *body = NLMSG_DATA(message);
    const char *attributes = (const char *)body + NLMSG_ALIGN(sizeof *body);
    int rest = (int)(message->nlmsg_len - NLMSG_SPACE(sizeof *body));
    for (const struct rtattr *a = (const void *)attributes; RTA_OK(a, rest); a = RTA_NEXT(a, rest)) {
        if (a->rta_type != UNIX_DIAG_PEER || RTA_PAYLOAD(a) < sizeof(uint32_t))
            continue;
        struct peer *peer = array_append(peers->items, peers->count);
        if (!peer)
            return -ENOMEM;
        uint32_t peer_inode;
        memcpy(&peer_inode, RTA_DATA(a), sizeof peer_inode);
        *peer = (struct peer){.inode = body->udiag_ino, .peer_inode = peer_inode};
    }
    return 0;
}

/* Takes in one datagram of the answer: 1 if more are to come. */
static int read_answer(int netlink_fd, void *buffer, struct unix_peers *peers)
{
    ssize_t length = recv(netlink_fd, buffer, REPLY_BYTES, 0);
    if (length < 0)
        return errno == EINTR ? 1 : -errno;
    size_t rest = (size_t)length;
    for (const struct nlmsghdr *m = buffer; NLMSG_OK(m, rest); m = NLMSG_NEXT(m, rest)) {
        if (m->nlmsg_type == NLMSG_DONE || m->nlmsg_type == NLMSG_ERROR)
            return 0;
        int r = add_peer(peers, m);
        if (r < 0)
            return r;
    }
    return length > 0;
}

static int compare_peers(const void *a, const void *b)
{
    uint64_t x = ((const struct peer *)a)->inode, y = ((const struct peer *)b)->inode;
    return (x > y) - (x < y);
}

/* As many as can be had: an answer that breaks off is an answer all the same. */
static void read_peers(struct unix_peers *peers)
{
    _cleanup_close_ int netlink_fd = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
    _cleanup_free_ void *buffer = malloc(REPLY_BYTES);
    if (netlink_fd < 0 || !buffer || send_question(netlink_fd) < 0)
        return;
    peers->namespace_cookie = namespace_cookie(netlink_fd);
    int r;
    do
        r = read_answer(netlink_fd, buffer, peers);
    while (r > 0);
    if (peers->count > 0)
        qsort(peers->items, peers->count, sizeof *peers->items, compare_peers);
}

uint64_t unix_peer_inode(struct object_table *table, native_cap_t cap, uint64_t inode)
{
    if (!table->unix_peers) {
        table->unix_peers = calloc(1, sizeof *table->unix_peers);
        if (!table->unix_peers)
            return 0;
        read_peers(table->unix_peers);
    }
    struct unix_peers *peers = table->unix_peers;
    if (peers->count == 0 || namespace_cookie(cap) != peers->namespace_cookie)
        return 0;
    struct peer key = {.inode = inode};
    struct peer *found = bsearch(&key, peers->items, peers->count, sizeof key, compare_peers);
    return found ? found->peer_inode : 0;
}
