/* A PD that core serves: each operation is one message to the session and its reply (protocol/protocol.h), or
 * several where one would be too long.
 *
 * A wait that a signal interrupts is given up, and with it the answer, not what was asked for: core does that
 * all the same. The answer is recognised by its tag later, and thrown away.
 *
 * See unix(7), pidfd_open(2), proc_pid_mem(5). */
#include "lib/pd_remote.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

_Static_assert((unsigned)RESEAT_CLOEXEC == PROTOCOL_CLOSE_ON_EXEC && (unsigned)RESEAT_READ == PROTOCOL_READ &&
                   (unsigned)RESEAT_WRITE == PROTOCOL_WRITE && (unsigned)RESEAT_REPLACE == PROTOCOL_REPLACE &&
                   RESEAT_SELECTOR_END == PROTOCOL_SELECTOR_END,
               "flags of a slot are the same here and there");
_Static_assert((unsigned)RESEAT_MAY_LIST == PROTOCOL_MAY_LIST &&
                   (unsigned)RESEAT_MAY_REQUEST == PROTOCOL_MAY_REQUEST &&
                   (unsigned)RESEAT_MAY_INSTALL == PROTOCOL_MAY_INSTALL &&
                   (unsigned)RESEAT_MAY_CLOSE == PROTOCOL_MAY_CLOSE &&
                   (unsigned)RESEAT_MAY_CHECKPOINT == PROTOCOL_MAY_CHECKPOINT &&
                   (unsigned)RESEAT_MAY_RESTORE == PROTOCOL_MAY_RESTORE,
               "rights are the same here and there");

/* ---- one message and its reply ---- */

static int error_transport(int r, struct reseat_error **ret_error)
{
    if (r == -EPIPE || r == -ECONNRESET || r == 0)
        return error_set(ret_error, -EPIPE, "core has closed the session, or has ended");
    if (r == -EINTR)
        return error_set(ret_error, r, "interrupted while core was at work, which goes on with it");
    return error_errno(ret_error, r, "talking to core");
}

/* Waits for the reply with that tag. */
static int receive_reply(int socket, const struct protocol_head *request, struct packet *packet,
                         struct protocol_view *ret_reply, struct reseat_error **ret_error)
{
    for (;;) {
        struct pollfd poll_fd = {.fd = socket, .events = POLLIN};
        const char *reason = NULL;
        int r = poll(&poll_fd, 1, -1) < 0 ? -errno : packet_receive(socket, packet, MSG_DONTWAIT);
        if (r == -EAGAIN)
            continue;
        if (r == -EMFILE)
            return error_set(ret_error, r,
                             "there is no room for the capabilities that core has sent: our own "
                             "limit of descriptors (RLIMIT_NOFILE) is reached");
        if (r <= 0)
            return error_transport(r, ret_error);
        r = protocol_decode(packet->bytes, packet->length, packet->cap_count, PROTOCOL_IS_REPLY, ret_reply,
                            &reason);
        /* What core says before it has read anything has no tag of ours. */
        bool is_ours = r < 0 || ret_reply->head->tag == request->tag || ret_reply->head->tag == 0;
        if (is_ours && r == 0 && ret_reply->head->result == 0 &&
            ret_reply->head->operation != request->operation)
            r = -EBADMSG;
        if (r < 0) {
            packet_end(packet);
            return error_set(ret_error, r, "what core has answered is refused: %s",
                             reason ? reason : "it is of another operation");
        }
        if (is_ours)
            return 0;
        packet_end(packet);
    }
}

static int send_request(int socket, const struct remote_request *request, struct reseat_error **ret_error)
{
    const struct protocol_head *head = &request->head;
    const struct iovec pieces[] = {{(void *)head, sizeof *head},
                                   {(void *)request->fixed,
                                    protocol_fixed_bytes(head->operation, PROTOCOL_IS_REQUEST)},
                                   {(void *)request->items,
                                    head->count * protocol_item_bytes(head->operation, PROTOCOL_IS_REQUEST)}};
    int r = packet_send_pieces(socket, pieces, COUNT_OF(pieces), request->caps, head->capabilities, 0);
    return r < 0 ? error_transport(r, ret_error) : 0;
}

int remote_call(int socket, uint32_t tag, struct remote_request *request, struct packet *packet,
                struct protocol_view *ret_reply, struct reseat_error **ret_error)
{
    request->head.version = PROTOCOL_VERSION;
    request->head.tag = tag;
    int r = send_request(socket, request, ret_error);
    if (r < 0 || (request->head.flags & PROTOCOL_MORE))
        return r;
    r = receive_reply(socket, &request->head, packet, ret_reply, ret_error);
    if (r < 0)
        return r;
    r = ret_reply->head->result;
    if (r < 0)
        error_set(ret_error, r, "%.*s", (int)ret_reply->head->count, (const char *)ret_reply->items);
    return r;
}

/* A tag of its own for each request; 0 is core's. */
static uint32_t next_tag(struct remote_pd *pd)
{
    pd->tag += pd->tag + 1 == 0 ? 2 : 1;
    return pd->tag;
}

int remote_ask(struct remote_pd *pd, struct remote_request *request, struct packet *packet,
               struct protocol_view *ret_reply, struct reseat_error **ret_error)
{
    return remote_call(pd->session, next_tag(pd), request, packet, ret_reply, ret_error);
}

struct remote_pd *remote_of(const struct reseat_pd *pd)
{
    return pd->operations == &remote_operations ? (struct remote_pd *)pd : NULL;
}

/* ---- the operations ---- */

static void remote_free(struct reseat_pd *pd)
{
    close(remote_of(pd)->session);
    free(pd);
}

static pid_t remote_pid(const struct reseat_pd *pd)
{
    return remote_of(pd)->pid;
}

static int remote_session(const struct reseat_pd *pd)
{
    return remote_of(pd)->session;
}

static int remote_list(struct reseat_pd *pd, unsigned from, unsigned *selectors, size_t capacity,
                       size_t *ret_count, unsigned *ret_next, struct reseat_error **ret_error)
{
    size_t count = 0;
    unsigned next = from;
    do {
        struct packet packet = {.cap_count = 0};
        struct protocol_view reply;
        size_t wanted = capacity - count;
        const struct protocol_from fixed = {.from = next,
                                            .capacity = wanted < UINT32_MAX ? (uint32_t)wanted : UINT32_MAX};
        struct remote_request request = {.head.operation = PROTOCOL_LIST, .fixed = &fixed};
        int r = capacity == 0 ? error_set(ret_error, -EINVAL, "listing without room for a selector")
                              : remote_ask(remote_of(pd), &request, &packet, &reply, ret_error);
        if (r < 0)
            return r;
        if (reply.head->count > wanted)
            return error_set(ret_error, -EBADMSG, "core has listed more selectors than it was asked for");
        memcpy(selectors + count, reply.items, reply.head->count * sizeof *selectors);
        count += reply.head->count;
        next = ((const struct protocol_next *)reply.fixed)->next;
    } while (count < capacity && next != RESEAT_SELECTOR_END);
    *ret_count = count;
    *ret_next = next;
    return 0;
}

/* What does not go through a socket is put into our own table by core, at a number that we have reserved. */
static int fetch(struct remote_pd *pd, unsigned selector, int *ret_cap, struct reseat_error **ret_error)
{
    _cleanup_close_ int self = sys_pidfd_open(getpid()), place = fcntl(pd->session, F_DUPFD_CLOEXEC, 0);
    struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    if (self < 0 || place < 0)
        return error_errno(ret_error, self < 0 ? self : -errno, "reserving a descriptor");
    const struct protocol_fetch fixed = {.selector = selector, .number = (uint32_t)place};
    struct remote_request request = {.head = {.operation = PROTOCOL_FETCH, .capabilities = 1},
                                     .fixed = &fixed,
                                     .caps = &self};
    int r = remote_ask(pd, &request, &packet, &reply, ret_error);
    if (r == 0)
        *ret_cap = TAKE_FD(place);
    return r;
}

/* One request message; the slots' capabilities are the caller's then. */
static int request_part(struct remote_pd *pd, unsigned from, unsigned flags, struct reseat_pd_slot *slots,
                        size_t capacity, size_t *ret_count, unsigned *ret_next,
                        struct reseat_error **ret_error)
{
    _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    const struct protocol_from fixed = {.from = from, .capacity = (uint32_t)capacity};
    struct remote_request request = {.head = {.operation = PROTOCOL_REQUEST, .flags = flags},
                                     .fixed = &fixed};
    int r = remote_ask(pd, &request, &packet, &reply, ret_error);
    if (r < 0)
        return r;
    const struct protocol_slot *items = reply.items;
    size_t taken = 0, without = 0;
    for (size_t i = 0; i < reply.head->count; i++)
        without += (items[i].flags & PROTOCOL_WITHOUT) != 0;
    if (reply.head->count > capacity || reply.head->count - without != packet.cap_count)
        return error_set(ret_error, -EBADMSG, "core has sent other capabilities than it was asked for");
    for (size_t i = 0; i < reply.head->count; i++) {
        bool has_cap = !(items[i].flags & PROTOCOL_WITHOUT);
        slots[i] =
            (struct reseat_pd_slot){.selector = items[i].selector,
                                    .cap = has_cap ? packet_take(&packet, taken++) : -1,
                                    .flags = items[i].flags & (RESEAT_CLOEXEC | RESEAT_READ | RESEAT_WRITE)};
    }
    *ret_count = reply.head->count;
    *ret_next = ((const struct protocol_next *)reply.fixed)->next;
    return 0;
}

static int remote_request(struct reseat_pd *pd, unsigned selector, int *ret_cap, unsigned *ret_next,
                          struct reseat_error **ret_error)
{
    struct reseat_pd_slot slot;
    size_t count = 0;
    unsigned next;
    int r = request_part(remote_of(pd), selector, PROTOCOL_EXACT, &slot, 1, &count, &next, ret_error);
    if (r < 0)
        return r;
    if (count && slot.cap < 0)
        r = fetch(remote_of(pd), selector, &slot.cap, ret_error);
    if (r < 0)
        return r;
    *ret_cap = count ? slot.cap : -1;
    if (ret_next)
        *ret_next = next;
    return 0;
}

static int remote_request_many(struct reseat_pd *pd, unsigned from, struct reseat_pd_slot *ret_slots,
                               size_t capacity, size_t *ret_count, unsigned *ret_next,
                               struct reseat_error **ret_error)
{
    size_t count = 0;
    int r = capacity ? 0 : error_set(ret_error, -EINVAL, "requesting without room for a capability");
    while (r == 0 && count < capacity && from != RESEAT_SELECTOR_END) {
        size_t wanted = capacity - count, found = 0;
        if (wanted > PROTOCOL_CAPABILITIES_MAX)
            wanted = PROTOCOL_CAPABILITIES_MAX;
        r = request_part(remote_of(pd), from, 0, ret_slots + count, wanted, &found, &from, ret_error);
        for (size_t end = count + found; count < end; count++)
            if (r == 0 && ret_slots[count].cap < 0)
                r = fetch(remote_of(pd), ret_slots[count].selector, &ret_slots[count].cap, ret_error);
    }
    if (r < 0) {
        for (size_t i = 0; i < count; i++)
            base_close(&ret_slots[i].cap);
        return r;
    }
    *ret_count = count;
    *ret_next = from;
    return 0;
}

/* What a socket refuses is sent as a number in our own table, with a pidfd of ours beside it. */
static void send_by_number(struct protocol_slot *items, int *caps, size_t count, int self)
{
    for (size_t i = 0; i < count; i++) {
        if (packet_takes(caps[i]) || caps[i] >= 1 << (32 - PROTOCOL_NUMBER_SHIFT))
            continue;
        items[i].flags |= PROTOCOL_BY_NUMBER | (uint32_t)caps[i] << PROTOCOL_NUMBER_SHIFT;
        caps[i] = self;
    }
}

/* Sends `count` items in parts of at most `most`; only the last is answered. */
static int ask_in_parts(struct remote_pd *pd, unsigned operation, const void *items, const int *caps,
                        size_t count, size_t most, struct reseat_error **ret_error)
{
    size_t item_bytes = protocol_item_bytes(operation, PROTOCOL_IS_REQUEST);
    uint32_t tag = next_tag(pd);
    int r = 0;
    for (size_t done = 0, part; done < count && r == 0; done += part) {
        _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
        struct protocol_view reply;
        part = count - done < most ? count - done : most;
        struct remote_request request = {.head = {.operation = (uint16_t)operation,
                                                  .flags = done + part < count ? PROTOCOL_MORE : 0,
                                                  .count = (uint32_t)part,
                                                  .capabilities = caps ? (uint32_t)part : 0},
                                         .items = (const char *)items + done * item_bytes,
                                         .caps = caps ? caps + done : NULL};
        r = remote_call(pd->session, tag, &request, &packet, &reply, ret_error);
    }
    return r;
}

static int remote_install_many(struct reseat_pd *pd, const struct reseat_pd_slot *slots, size_t count,
                               struct reseat_error **ret_error)
{
    _cleanup_free_ struct protocol_slot *items = reallocarray(NULL, count + 1, sizeof *items);
    _cleanup_free_ int *caps = reallocarray(NULL, count + 1, sizeof *caps);
    bool has_ring = false;
    if (!items || !caps)
        return error_errno(ret_error, -ENOMEM, "installing %zu capabilities", count);
    for (size_t i = 0; i < count; i++) {
        if (slots[i].cap < 0 || fcntl(slots[i].cap, F_GETFD) < 0)
            return error_set(ret_error, -EINVAL,
                             "the capability for selector %u, our descriptor %d, is not open",
                             slots[i].selector, slots[i].cap);
        items[i] = (struct protocol_slot){.selector = slots[i].selector, .flags = slots[i].flags};
        caps[i] = slots[i].cap;
        has_ring |= !packet_takes(slots[i].cap);
    }
    /* All of them first: nothing is to be found out in the middle of the parts. */
    _cleanup_close_ int self = has_ring ? sys_pidfd_open(getpid()) : -EBADF;
    if (self >= 0)
        send_by_number(items, caps, count, self);
    return ask_in_parts(remote_of(pd), PROTOCOL_INSTALL, items, caps, count, PROTOCOL_CAPABILITIES_MAX,
                        ret_error);
}

static int remote_close_many(struct reseat_pd *pd, const unsigned *selectors, size_t count,
                             struct reseat_error **ret_error)
{
    return ask_in_parts(remote_of(pd), PROTOCOL_CLOSE, selectors, NULL, count,
                        (PROTOCOL_MESSAGE_BYTES - sizeof(struct protocol_head)) / sizeof *selectors,
                        ret_error);
}

static int remote_compare(struct reseat_pd *a, unsigned selector_a, struct reseat_pd *b, unsigned selector_b,
                          int *ret_order, struct reseat_error **ret_error)
{
    struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    const struct protocol_pair pair = {selector_a, selector_b};
    struct remote_request request = {.head = {.operation = PROTOCOL_COMPARE,
                                              .count = 1,
                                              .capabilities = a == b ? 0 : 1},
                                     .items = &pair,
                                     .caps = &remote_of(b)->session};
    int r = remote_ask(remote_of(a), &request, &packet, &reply, ret_error);
    if (r < 0)
        return r;
    if (reply.head->count != 1)
        return error_set(ret_error, -EBADMSG, "core has compared other selectors than it was asked for");
    *ret_order = *(const int32_t *)reply.items;
    return 0;
}

const struct reseat_pd_operations remote_operations = {
    .free = remote_free,
    .pid = remote_pid,
    .session = remote_session,
    .list = remote_list,
    .request = remote_request,
    .request_many = remote_request_many,
    .install_many = remote_install_many,
    .close_many = remote_close_many,
    .compare = remote_compare,
};

/* ---- sessions ---- */

int remote_make(int session, pid_t pid, struct reseat_pd **ret_pd, struct reseat_error **ret_error)
{
    struct remote_pd *pd = malloc(sizeof *pd);
    if (!pd)
        return error_errno(ret_error, -ENOMEM, "keeping a session");
    *pd = (struct remote_pd){.public.operations = &remote_operations, .session = session, .pid = pid};
    *ret_pd = &pd->public;
    return 0;
}

/* The PD of the session that came beside a reply, whose fixed part describes it. */
static int adopt_reply(struct packet *packet, const struct protocol_view *reply, struct reseat_pd **ret_pd,
                       struct reseat_error **ret_error)
{
    const struct protocol_session *session = reply->fixed;
    int r = remote_make(packet->caps[0], session->id, ret_pd, ret_error);
    if (r == 0)
        packet_take(packet, 0);
    return r;
}

int reseat_pd_adopt(int session, struct reseat_pd **ret_pd, struct reseat_error **ret_error)
{
    struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    struct remote_request request = {.head.operation = PROTOCOL_INFO};
    int r = remote_call(session, 1, &request, &packet, &reply, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "taking over descriptor %d as a session", session);
    const struct protocol_session *described = reply.fixed;
    return remote_make(session, described->id, ret_pd, ret_error);
}

static int connect_to(const char *path, struct reseat_error **ret_error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char usual[PACKET_PATH_BYTES];
    int r = path ? 0 : packet_usual_path(usual, false);
    path = path ? path : usual;
    if (r < 0 || strlen(path) >= sizeof address.sun_path)
        return error_set(ret_error, -ENAMETOOLONG, "the path of core's socket is too long");
    memcpy(address.sun_path, path, strlen(path) + 1);
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_errno(ret_error, -errno, "making a socket");
    if (connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
        return TAKE_FD(fd);
    r = -errno;
    if (r == -ENOENT || r == -ECONNREFUSED)
        return error_set(ret_error, r,
                         "nobody listens at %s: is core running there (reseat core --socket %s)?", path,
                         path);
    return error_errno(ret_error, r, "connecting to core at %s", path);
}

/* What proves to core that the kernel lets us: opened by ourselves. Without it, its configuration may let us.
 */
static int open_proof(pid_t pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    return open(path, O_RDWR | O_CLOEXEC);
}

int reseat_pd_connect(const char *path, pid_t pid, struct reseat_pd **ret_pd, struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = pid > 0 ? sys_pidfd_open(pid) : -ESRCH;
    if (pidfd == -EINVAL || pidfd == -ENOENT)
        return error_set(ret_error, -ESRCH, "%d is a thread, not a process", pid);
    if (pidfd == -ESRCH)
        return error_set(ret_error, -ESRCH, "there is no process %d", pid);
    if (pidfd < 0)
        return error_errno(ret_error, pidfd, "opening process %d", pid);
    _cleanup_close_ int core = connect_to(path, ret_error), mem = open_proof(pid);
    if (core < 0)
        return core;
    _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    const int caps[] = {pidfd, mem};
    const struct protocol_open fixed = {.rights = PROTOCOL_MAY_ALL};
    struct remote_request request = {.head = {.operation = PROTOCOL_OPEN, .capabilities = mem < 0 ? 1 : 2},
                                     .fixed = &fixed,
                                     .caps = caps};
    int r = remote_call(core, 1, &request, &packet, &reply, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "opening a session of process %d through core", pid);
    return adopt_reply(&packet, &reply, ret_pd, ret_error);
}

int reseat_pd_narrow(struct reseat_pd *pd, const struct reseat_pd_limits *limits,
                     struct reseat_pd **ret_narrowed, struct reseat_error **ret_error)
{
    _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    _Static_assert(sizeof(struct reseat_pd_range) == sizeof(struct protocol_range), "ranges differ");
    if (!remote_of(pd))
        return error_set(
            ret_error, -EOPNOTSUPP,
            "process %d was opened with our own rights, which cannot be narrowed: open it through "
            "core",
            reseat_pd_pid(pd));
    if (limits->range_count > UINT32_MAX / sizeof *limits->ranges)
        return error_set(ret_error, -E2BIG, "narrowing a session to %zu ranges", limits->range_count);
    const struct protocol_narrow fixed = {.rights = limits->rights, .lifetime_ns = limits->lifetime_ns};
    struct remote_request request = {.head = {.operation = PROTOCOL_NARROW,
                                              .count = (uint32_t)limits->range_count},
                                     .fixed = &fixed,
                                     .items = limits->ranges};
    int r = remote_ask(remote_of(pd), &request, &packet, &reply, ret_error);
    return r < 0 ? r : adopt_reply(&packet, &reply, ret_narrowed, ret_error);
}
