/* Unix sockets into a durable image: addresses, options, who is at the other end, who waits to be accepted,
 * and what is queued, with the boundaries of packets, senders, credentials, and the descriptors in flight,
 * which are objects of the snapshot like all others.
 *
 * The queue is looked at with MSG_PEEK. What lies behind the first message is reached through SO_PEEK_OFF
 * (Linux 3.4), which is the object's own and is put back. */
#include "object/kinds.h"
#include "object/kinds/socket_unix_durable.h"
#include "object/unix_diag.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#ifndef SCM_CREDENTIALS
#define SCM_CREDENTIALS 2
#endif

static int pad(struct object_capture *capture)
{
    static const uint8_t zeros[8];
    return state_add(capture, zeros, ALIGN_8(capture->length) - capture->length);
}

static int add_padded(struct object_capture *capture, const void *data, size_t length)
{
    int r = state_add(capture, data, length);
    return r < 0 ? r : pad(capture);
}

/* ---- the queue ---- */

#define FIRST_ROOM_BYTES (1U << 18)

/* One look at the queue. */
struct peek {
    size_t room, length, whole_length;
    uint8_t *bytes;
    struct sockaddr_un sender;
    socklen_t sender_length;
    int fds[UNIX_OBJECTS_MAX];
    size_t fd_count;
    bool has_credentials;
    struct ucred credentials;
};

static void peek_drop(struct peek *peek)
{
    for (size_t i = 0; i < peek->fd_count; i++)
        base_close(&peek->fds[i]);
    peek->fd_count = 0;
}

static void peek_end(struct peek *peek)
{
    peek_drop(peek);
    free(peek->bytes);
}

static void take_control(struct msghdr *message, struct peek *peek)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET)
            continue;
        if (c->cmsg_type == SCM_RIGHTS) {
            peek->fd_count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(peek->fds, CMSG_DATA(c), peek->fd_count * sizeof(int));
        } else if (c->cmsg_type == SCM_CREDENTIALS) {
            peek->has_credentials = true;
            memcpy(&peek->credentials, CMSG_DATA(c), sizeof peek->credentials);
        }
    }
}

/* Looks at up to `length` bytes `offset` bytes from the front. 0: nothing there. */
static int look(native_cap_t cap, int offset, size_t length, struct peek *peek)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(sizeof peek->fds) + CMSG_SPACE(sizeof(struct ucred)) + 256];
    } control;
    struct iovec piece = {peek->bytes, length};
    struct msghdr message = {.msg_name = &peek->sender,
                             .msg_namelen = sizeof peek->sender,
                             .msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};
    peek_drop(peek);
    peek->has_credentials = false;
    if (setsockopt(cap, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) < 0)
        return -errno;
    ssize_t n = recvmsg(cap, &message, MSG_PEEK | MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == ECONNRESET || errno == ENOTCONN || errno == EINVAL ? 0 : -errno;
    peek->whole_length = (size_t)n;
    peek->length = (size_t)n < length ? (size_t)n : length;
    peek->sender_length = message.msg_namelen;
    take_control(&message, peek);
    return 1;
}

/* The same with as much room as it takes: for a stream, more than is queued. */
static int look_whole(native_cap_t cap, int offset, bool is_stream, struct peek *peek)
{
    for (;;) {
        int r = look(cap, offset, peek->room, peek);
        if (r <= 0 || peek->whole_length < peek->room || (!is_stream && peek->whole_length == peek->room))
            return r;
        size_t room = is_stream ? 2 * peek->room : peek->whole_length;
        uint8_t *larger = realloc(peek->bytes, room);
        if (!larger)
            return -ENOMEM;
        peek->bytes = larger;
        peek->room = room;
    }
}

/* A stream: leaves in the peek what comes before the message with the descriptors, if something does. Where
 * that begins no call says, and a peek at less has the descriptors, too (seen on Linux 6.18: it walks on with
 * nothing left to copy). But a message that cannot be copied whole ends a peek before it; so its last byte is
 * to go where no memory is. */
static int cut_before_fds(native_cap_t cap, int offset, struct peek *peek)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), room = (peek->length + page - 1) / page * page;
    uint8_t *memory = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED || mprotect(memory + room, page, PROT_NONE) < 0)
        return -errno;
    ssize_t n = -1;
    if (setsockopt(cap, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) == 0)
        n = recv(cap, memory + room - (peek->length - 1), peek->length, MSG_PEEK | MSG_DONTWAIT);
    int r = n < 0 && errno != EFAULT ? -errno : 1; /* EFAULT: nothing comes before it */
    munmap(memory, room + page);
    if (r > 0 && n > 0) {
        peek_drop(peek);
        peek->length = (size_t)n;
    }
    return r;
}

static int add_objects(struct object_capture *capture, const struct peek *peek,
                       struct reseat_error **ret_error)
{
    uint32_t objects[UNIX_OBJECTS_MAX];
    for (size_t i = 0; i < peek->fd_count; i++) {
        int r = capture_reference(capture, peek->fds[i], &objects[i], ret_error);
        if (r < 0)
            return r;
    }
    return state_add(capture, objects, peek->fd_count * sizeof objects[0]);
}

static uint32_t name_length(socklen_t length)
{
    size_t path = offsetof(struct sockaddr_un, sun_path);
    if (length <= path)
        return 0;
    return length - path > UNIX_NAME_MAX ? (uint32_t)UNIX_NAME_MAX : (uint32_t)(length - path);
}

/* The end of a path does not count, those of an abstract name do. A path that has no end is none for us. */
static uint32_t trim_name(const struct sockaddr_un *address, uint32_t length)
{
    if (!length || !address->sun_path[0])
        return length;
    length = (uint32_t)strnlen(address->sun_path, length);
    return length < UNIX_NAME_MAX ? length : 0;
}

static int add_message(struct object_capture *capture, const struct peek *peek,
                       struct reseat_error **ret_error)
{
    struct unix_message header = {
        .length = (uint32_t)peek->length,
        .sender_length = trim_name(&peek->sender, name_length(peek->sender_length)),
        .object_count = (uint32_t)peek->fd_count,
        .has_credentials = peek->has_credentials && peek->credentials.pid > 0,
        .pid = (uint32_t)peek->credentials.pid,
        .uid = peek->credentials.uid,
        .gid = peek->credentials.gid,
    };
    int r = state_add(capture, &header, sizeof header);
    if (r == 0)
        r = state_add(capture, peek->sender.sun_path, header.sender_length);
    if (r == 0)
        r = add_objects(capture, peek, ret_error);
    return r == 0 ? add_padded(capture, peek->bytes, peek->length) : r;
}

static int capture_queue(struct object_capture *capture, struct unix_state *state,
                         struct reseat_error **ret_error)
{
    _cleanup_(peek_end) struct peek peek = {.room = FIRST_ROOM_BYTES, .bytes = malloc(FIRST_ROOM_BYTES)};
    bool is_stream = state->type == SOCK_STREAM;
    size_t offset = 0;
    int r = peek.bytes ? 1 : -ENOMEM;
    while (r > 0) {
        r = look_whole(capture->cap, (int)offset, is_stream, &peek);
        if (r > 0 && is_stream && peek.fd_count && peek.length > 1)
            r = cut_before_fds(capture->cap, (int)offset, &peek);
        /* An end of file looks like an empty packet; a real empty packet is shown once. */
        bool is_end = r > 0 && peek.length == 0 && (is_stream || (state->shutdown & 1));
        if (r <= 0 || is_end)
            break;
        r = add_message(capture, &peek, ret_error);
        state->message_count++;
        offset += peek.length;
        if (r == 0)
            r = 1;
    }
    return r < 0 ? r : 0;
}

/* The peek offset is what the program has set: nobody else may find another one. */
static int capture_queue_unseen(struct object_capture *capture, struct unix_state *state,
                                struct reseat_error **ret_error)
{
    int before = -1;
    socklen_t length = sizeof before;
    if (getsockopt(capture->cap, SOL_SOCKET, SO_PEEK_OFF, &before, &length) < 0)
        return -errno;
    int r = capture_queue(capture, state, ret_error);
    setsockopt(capture->cap, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before);
    return r;
}

/* ---- the rest ---- */

/* Also notes whether it is connected. */
static int add_names(struct object_capture *capture, struct unix_state *state)
{
    struct sockaddr_un local, peer;
    socklen_t local_length = sizeof local, peer_length = sizeof peer;
    if (getsockname(capture->cap, (struct sockaddr *)&local, &local_length) == 0)
        state->name_length = trim_name(&local, name_length(local_length));
    if (getpeername(capture->cap, (struct sockaddr *)&peer, &peer_length) == 0) {
        state->flags |= UNIX_CONNECTED;
        state->peer_name_length = trim_name(&peer, name_length(peer_length));
    }
    int r = add_padded(capture, local.sun_path, state->name_length);
    return r == 0 ? add_padded(capture, peer.sun_path, state->peer_name_length) : r;
}

/* The file is not at the name: it was removed, or it is somewhere else, where we cannot put it. */
static int note_file_gone(struct object_capture *capture, struct unix_state *state)
{
    struct stat stat;
    _cleanup_close_ int place = unix_open_file(capture->cap);
    state->flags |= UNIX_FILE_REMOVED;
    if (place < 0 || fstat(place, &stat) < 0 || stat.st_nlink == 0)
        return 0;
    return capture_degraded(capture, "its file is not where it was bound (it was moved, or the process has "
                                     "changed its directory): it comes back without a file, and nobody can "
                                     "connect to it");
}

static int note_file(struct object_capture *capture, const struct unix_facts *facts, struct unix_state *state)
{
    const char *name = (const char *)capture->state + sizeof *state;
    char path[UNIX_NAME_MAX + 64];
    struct stat stat;
    if (state->name_length == 0 || name[0] == '\0')
        return 0;
    /* A relative one was bound in a directory that may have changed since. */
    if (name[0] != '/' && facts->file_inode == 0)
        return 0;
    if (name[0] == '/')
        snprintf(path, sizeof path, "%.*s", (int)state->name_length, name);
    else
        snprintf(path, sizeof path, "/proc/%d/cwd/%.*s", capture_target(capture), (int)state->name_length,
                 name);
    bool is_there = lstat(path, &stat) == 0 && S_ISSOCK(stat.st_mode) &&
                    (facts->file_inode == 0 || (uint32_t)stat.st_ino == facts->file_inode);
    if (!is_there)
        return note_file_gone(capture, state);
    state->file_mode = stat.st_mode & 07777;
    state->file_uid = stat.st_uid;
    state->file_gid = stat.st_gid;
    return 0;
}

static int note_facts(struct object_capture *capture, struct unix_state *state)
{
    _cleanup_(unix_facts_end) struct unix_facts facts = {0};
    struct pollfd poll_fd = {.fd = capture->cap};
    if (poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & POLLERR))
        state->flags |= UNIX_PENDING_ERROR;
    int listening = 0, r = unix_facts_read(capture->sight->inode, &facts);
    socklen_t length = sizeof listening;
    getsockopt(capture->cap, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length);
    state->flags |= listening ? UNIX_LISTENING : 0;
    int r_file = note_file(capture, &facts, state);
    if (r_file < 0)
        return r_file;
    if (r < 0) {
        state->backlog = 128;
        return capture_degraded(capture, "the kernel does not say who is at its other end (another network "
                                         "namespace, or no CONFIG_UNIX_DIAG)");
    }
    state->flags |= UNIX_HAS_FACTS;
    if (capture->without_content && !listening && facts.received > 0)
        capture->snapshot->objects[capture->row].flags |= SNAPSHOT_OBJECT_QUEUED;
    state->shutdown = facts.shutdown;
    state->backlog = facts.unread;
    state->unread = facts.unread;
    state->peer_inode = facts.peer;
    state->waiting_count = (uint32_t)facts.waiting_count;
    for (size_t i = 0; r == 0 && i < facts.waiting_count; i++) {
        uint64_t inode = facts.waiting[i];
        r = state_add(capture, &inode, sizeof inode);
    }
    return r;
}

/* Whom the kernel names as its peer: a row beside the options. The process's own number is told apart, as it
 * may be restored under another one. */
static int add_peer(struct object_capture *capture, struct unix_state *state)
{
    struct socket_option row = {.level = SOL_SOCKET, .option = SO_PEERCRED, .length = sizeof(struct ucred)};
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(capture->cap, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0 || peer.uid == (uid_t)-1)
        return 0;
    if (peer.pid == capture_target(capture))
        peer.pid = UNIX_PEER_ITSELF;
    memcpy(row.value, &peer, sizeof peer);
    state->option_count++;
    return state_add(capture, &row, sizeof row);
}

int unix_capture(struct object_capture *capture, struct reseat_error **ret_error)
{
    struct unix_state state = {.type = (uint32_t)capture->sight->type};
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = add_names(capture, &state);
    if (r == 0)
        r = socket_options_capture(capture, &state.option_count);
    if (r == 0)
        r = add_peer(capture, &state);
    if (r == 0)
        r = note_facts(capture, &state);
    if (r == 0 && !(state.flags & UNIX_LISTENING) && !capture->without_content)
        r = capture_queue_unseen(capture, &state, ret_error);
    if (r == 0)
        memcpy(capture->state, &state, sizeof state);
    return r;
}
