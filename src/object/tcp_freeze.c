/* Freezing TCP connections, so that an image holds all of them: for a checkpoint that kills the process and
 * keeps no twin. Order is all here.
 *
 *     freeze   packets are dropped from now on (packet_barrier.c), then the sockets enter repair mode
 *     capture  reads them; nothing can change any more
 *     commit   the process is killed: a socket in repair mode closes without a word, and what the peer sends
 *              meets the barrier, not a kernel that would answer with a reset
 *     thaw     new sockets with the same state leave repair mode, the barrier goes, the peer sends again
 *
 * Until the commit all of it can be taken back. The barrier outlives us and is named after the time of
 * the image: whoever drops the image takes it away. */
#include "object/tcp_freeze.h"
#include "object/kinds.h"
#include "object/packet_barrier.h"

#include <errno.h>
#include <linux/tcp.h>
#include <sys/socket.h>

#define BARRIER_NAME_BYTES 64
/* States that can be carried over: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT. */
#define STATES_CARRIED (1U << 1 | 1U << 4 | 1U << 5 | 1U << 8)

struct object_freeze {
    char barrier[BARRIER_NAME_BYTES];
    struct packet_connection *connections;
    native_cap_t *caps; /* of the same connections */
    size_t count, cap_count;
    bool is_committed, has_barrier;
};

static void barrier_name(const struct snapshot *snapshot, char name[static BARRIER_NAME_BYTES])
{
    snprintf(name, BARRIER_NAME_BYTES, "reseat-%llu", (unsigned long long)snapshot->process.realtime_ns);
}

static int set_repair(native_cap_t cap, int value)
{
    return setsockopt(cap, IPPROTO_TCP, TCP_REPAIR, &value, sizeof value) < 0 ? -errno : 0;
}

void object_freeze_end(struct object_freeze **freeze)
{
    struct object_freeze *all = *freeze;
    if (!all)
        return;
    for (size_t i = 0; i < all->cap_count; i++) {
        if (!all->is_committed)
            set_repair(all->caps[i], TCP_REPAIR_OFF_NO_WP);
        base_close(&all->caps[i]);
    }
    if (all->has_barrier && !all->is_committed)
        packet_barrier_remove(all->barrier);
    free(all->caps);
    free(all->connections);
    free(all);
    *freeze = NULL;
}

void object_freeze_commit(struct object_freeze *freeze)
{
    freeze->is_committed = true;
}

/* ---- which connections ---- */

static uint64_t namespace_cookie(int fd)
{
    uint64_t cookie = 0;
    socklen_t length = sizeof cookie;
    return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &length) < 0 ? 0 : cookie;
}

/* A connection of our own network namespace, where our barrier would stand. */
static bool is_connection(native_cap_t cap, struct packet_connection *ret_connection)
{
    struct tcp_info info = {0};
    int protocol = 0;
    socklen_t length = sizeof protocol, info_length = sizeof info;
    _cleanup_close_ int own = -EBADF;
    if (getsockopt(cap, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) < 0 || protocol != IPPROTO_TCP ||
        getsockopt(cap, IPPROTO_TCP, TCP_INFO, &info, &info_length) < 0 ||
        !(1U << info.tcpi_state & STATES_CARRIED))
        return false;
    own = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    socklen_t local_length = sizeof ret_connection->local, peer_length = sizeof ret_connection->peer;
    return own >= 0 && namespace_cookie(own) == namespace_cookie(cap) &&
           getsockname(cap, (struct sockaddr *)&ret_connection->local, &local_length) == 0 &&
           getpeername(cap, (struct sockaddr *)&ret_connection->peer, &peer_length) == 0;
}

/* An empty barrier says whether we may make one. */
bool tcp_can_freeze(native_cap_t cap)
{
    struct packet_connection connection = {0};
    char name[BARRIER_NAME_BYTES];
    snprintf(name, sizeof name, "reseat-asks-%d", getpid());
    if (!is_connection(cap, &connection) || packet_barrier_make(name, NULL, 0) < 0)
        return false;
    packet_barrier_remove(name);
    return true;
}

static int add_connection(struct object_freeze *all, native_cap_t cap)
{
    struct packet_connection connection = {0};
    if (!is_connection(cap, &connection)) {
        base_close(&cap);
        return 0;
    }
    struct packet_connection *place = array_append(all->connections, all->count);
    native_cap_t *cap_place = place ? array_append(all->caps, all->cap_count) : NULL;
    if (!cap_place) {
        base_close(&cap);
        return -ENOMEM;
    }
    *place = connection;
    *cap_place = cap;
    return 0;
}

static int find_connections(struct object_freeze *all, struct native_pd *pd, struct reseat_error **ret_error)
{
    selector_t next = 0;
    int r = native_pd_next(pd, 0, &next, ret_error);
    while (r == 0 && next != NATIVE_SELECTOR_END) {
        native_cap_t cap = NATIVE_CAP_INVALID;
        r = native_pd_request(pd, next, &cap, &next, ret_error);
        if (r < 0)
            return r;
        r = cap == NATIVE_CAP_INVALID ? 0 : add_connection(all, cap);
        if (r < 0)
            error_errno(ret_error, r, "looking for TCP connections");
    }
    return r;
}

/* ---- freezing ---- */

/* What we may not do, or this kernel cannot, is no error: the connections are judged as what they then are.
 */
static bool is_refusal(int r)
{
    return r == -EPERM || r == -EOPNOTSUPP || r == -ENOPROTOOPT || r == -EAFNOSUPPORT;
}

static int enter_repair(struct object_freeze *all)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < all->cap_count; i++)
        r = set_repair(all->caps[i], TCP_REPAIR_ON);
    return r;
}

int object_freeze_connections(struct native_pd *pd, const struct snapshot *snapshot,
                              struct object_freeze **ret_freeze, struct reseat_error **ret_error)
{
    _cleanup_(object_freeze_end) struct object_freeze *all = calloc(1, sizeof *all);
    if (!all)
        return error_errno(ret_error, -ENOMEM, "freezing connections");
    barrier_name(snapshot, all->barrier);
    int r = find_connections(all, pd, ret_error);
    if (r < 0)
        return r;
    if (all->count > 0) {
        r = packet_barrier_make(all->barrier, all->connections, all->count);
        all->has_barrier = r == 0;
        if (r == 0)
            r = enter_repair(all);
        if (r < 0 && !is_refusal(r))
            return error_errno(ret_error, r, "freezing %zu TCP connections", all->count);
        if (r < 0) {
            object_freeze_end(&all);
            all = calloc(1, sizeof *all);
            if (!all)
                return error_errno(ret_error, -ENOMEM, "freezing connections");
        }
    }
    *ret_freeze = TAKE_PTR(all);
    return 0;
}

/* ---- afterwards ---- */

int object_thaw_connections(const struct object_set *set, const struct snapshot *snapshot,
                            struct reseat_error **ret_error)
{
    bool is_frozen = false;
    int first_failure = 0;
    for (object_id_t id = 1; id < set->count; id++) {
        struct object_view view = view_of(snapshot, id);
        if (set->caps[id] == NATIVE_CAP_INVALID || strcmp(view_kind_name(&view), "tcp") != 0)
            continue;
        int r = tcp_thaw(&view, set->caps[id]);
        is_frozen = true;
        if (r < 0 && first_failure == 0)
            first_failure = error_errno(ret_error, r, "letting TCP connection %s go on", view_name(&view));
    }
    if (is_frozen)
        object_forget_connections(snapshot);
    return first_failure;
}

void object_forget_connections(const struct snapshot *snapshot)
{
    char name[BARRIER_NAME_BYTES];
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        struct object_view view = view_of(snapshot, (object_id_t)i + 1);
        if (strcmp(view_kind_name(&view), "tcp") != 0)
            continue;
        barrier_name(snapshot, name);
        packet_barrier_remove(name);
        return;
    }
}
