/* Unix sockets out of a durable image, second half: making them.
 *
 * Pass 1 makes sockets: both ends of a connection at once; an end that has the name of a listener inside is
 * made by connecting to it and accepting, which is the only way to get that name. An end whose peer is
 * outside gets a partner of ours, which is closed at last. Pass 2 fills queues: what was received is sent
 * once more, by the peer, or by a socket that has the name of the sender; and connects those who wait to be
 * accepted, in their order. Pass 3 does what would have been in the way: shutdown, backlog, sizes of buffers,
 * removed files. See unix(7). */
#include "object/kinds.h"
#include "object/kinds/socket_unix_durable.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#ifndef SCM_CREDENTIALS
#define SCM_CREDENTIALS 2
#endif

/* ---- pass 1 ---- */

/* In whose name a socket's peer has done its part, which is what this one tells of it. `view` NULL, or one
 * of which it is not known: the process itself. */
static struct deputy_principal principal_of(const struct object_making *making,
                                            const struct object_view *view)
{
    const struct snapshot *snapshot = making->snapshot;
    struct ucred own = {.pid = UNIX_PEER_ITSELF, .uid = (uid_t)-1, .gid = (gid_t)-1}, peer = own;
    if (snapshot->states_count) {
        own.uid = snapshot->states[0].credentials.uids[1];
        own.gid = snapshot->states[0].credentials.gids[1];
    }
    struct unix_parts parts = view ? unix_parts_of(view) : (struct unix_parts){0};
    if (!view || !socket_options_find(view, parts.options, parts.state.option_count, SOL_SOCKET, SO_PEERCRED,
                                      &peer, sizeof peer))
        peer = own;
    if (peer.pid == UNIX_PEER_ITSELF)
        peer.pid = (pid_t)snapshot->process.pid;
    return (struct deputy_principal){peer, now_ns() + making->options->wait_ns};
}

static int new_socket(const struct object_view *view)
{
    int fd = socket(AF_UNIX, (int)unix_parts_of(view).state.type | SOCK_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

/* Takes the socket over; gives it its options. */
static int put_socket(struct object_making *making, const struct object_view *view, int fd,
                      struct reseat_error **ret_error)
{
    struct unix_parts parts = unix_parts_of(view);
    making_put(making, view_id(view), fd);
    socket_options_make_room(fd);
    return socket_options_apply(view, parts.options, parts.state.option_count, fd, ret_error);
}

static int make_single(struct object_making *making, const struct object_view *view,
                       struct reseat_error **ret_error)
{
    struct unix_state state = unix_parts_of(view).state;
    _cleanup_close_ int fd = new_socket(view);
    int r = fd < 0 ? fd : unix_bind_name(view, fd);
    if (r == -EADDRINUSE)
        return error_set(ret_error, r, "its name is in use: somebody else is bound to it");
    if (r < 0)
        return error_errno(ret_error, r, "binding it");
    /* As many as may be are let in before the backlog is what it was. */
    struct deputy_principal listener = principal_of(making, view);
    if (state.flags & UNIX_LISTENING)
        r = deputy_listen(&making->deputy, &listener, fd, SOMAXCONN);
    if (r < 0)
        return error_errno(ret_error, r, "listening");
    return put_socket(making, view, TAKE_FD(fd), ret_error);
}

/* The listener inside whose name this end has. */
static object_id_t find_namesake(const struct object_view *view)
{
    for (object_id_t id = 1; unix_has_name(view) && id <= view->snapshot->objects_count; id++) {
        struct object_view other = view_of(view->snapshot, id);
        if (!view_is_usable(&other) || strcmp(view_kind_name(&other), "unix") != 0 ||
            !unix_has_same_name(view, &other))
            continue;
        if (unix_parts_of(&other).state.flags & UNIX_LISTENING)
            return id;
    }
    return 0;
}

/* Makes a connection through a listener: ret_ends[0] is that of `accepted`. `client`: NULL if it is to have
 * no name. */
static int connect_through(struct object_making *making, const struct object_view *listener,
                           const struct object_view *accepted, const struct object_view *client,
                           int ret_ends[2], struct reseat_error **ret_error)
{
    struct sockaddr_un address;
    int r = 0;
    if (!making_has(making, view_id(listener)))
        r = make_single(making, listener, ret_error);
    if (r < 0)
        return r;
    int listening = making->set->caps[view_id(listener)];
    _cleanup_close_ int fd = new_socket(listener);
    if (fd >= 0 && client)
        r = unix_bind_name(client, fd);
    _cleanup_close_ int place = -EBADF;
    socklen_t length = unix_reachable_address(listener, listening, &place, &address);
    struct deputy_principal connecting = principal_of(making, accepted);
    if (fd < 0)
        r = fd;
    if (r == 0)
        r = deputy_connect(&making->deputy, &connecting, fd, &address, length);
    if (r < 0)
        return error_errno(ret_error, r, "connecting to its listener");
    int end = accept4(listening, NULL, NULL, SOCK_CLOEXEC);
    if (end < 0)
        return error_errno(ret_error, -errno, "accepting from its listener");
    ret_ends[0] = end;
    ret_ends[1] = TAKE_FD(fd);
    return 0;
}

/* The name of an end that no listener inside has given it: if it is free. The file is the listener's, except
 * where there is none. */
static void try_bind(const struct object_view *view, int fd)
{
    struct unix_state state = unix_parts_of(view).state;
    bool is_own_file = state.type == SOCK_DGRAM && !(state.flags & UNIX_FILE_REMOVED);
    if (unix_has_name(view) && unix_bind_name(view, fd) == 0 && !is_own_file)
        unix_remove_file(view, fd);
}

static bool is_listener_usable(const struct object_making *making, object_id_t listener)
{
    return listener && !object_is_unwanted(making->options, listener) &&
           making->states[listener] != MAKING_GIVEN && !making_is_lost(making, listener);
}

/* Both ends: [0] of the first, [1] of the second, which may be nobody's (`second` NULL). */
static int make_ends(struct object_making *making, const struct object_view *first,
                     const struct object_view *second, int ret_ends[2], struct reseat_error **ret_error)
{
    object_id_t of_first = find_namesake(first), of_second = second ? find_namesake(second) : 0;
    if (is_listener_usable(making, of_first)) {
        struct object_view listener = view_of(making->snapshot, of_first);
        return connect_through(making, &listener, first, second, ret_ends, ret_error);
    }
    if (is_listener_usable(making, of_second)) {
        struct object_view listener = view_of(making->snapshot, of_second);
        int ends[2];
        int r = connect_through(making, &listener, second, first, ends, ret_error);
        if (r == 0) {
            ret_ends[0] = ends[1];
            ret_ends[1] = ends[0];
        }
        return r;
    }
    struct deputy_principal maker = principal_of(making, first);
    int r = deputy_pair(&making->deputy, &maker, (int)unix_parts_of(first).state.type, ret_ends);
    if (r < 0)
        return error_errno(ret_error, r, "making a pair");
    try_bind(first, ret_ends[0]);
    if (second)
        try_bind(second, ret_ends[1]);
    return 0;
}

static int make_connected(struct object_making *making, const struct object_view *view, object_id_t peer,
                          struct reseat_error **ret_error)
{
    struct object_view other = peer ? view_of(making->snapshot, peer) : *view;
    int ends[2];
    int r = make_ends(making, view, peer ? &other : NULL, ends, ret_error);
    if (r < 0)
        return r;
    if (peer && !object_is_unwanted(making->options, peer)) {
        r = put_socket(making, &other, ends[1], ret_error);
    } else {
        socket_options_make_room(ends[1]);
        making->partners[view_id(view)] = ends[1];
        r = making_hold(making, ends[1]);
    }
    int r_own = put_socket(making, view, ends[0], ret_error);
    return r < 0 ? r : r_own;
}

/* The peer has this one for its peer, too, and is another: not itself, by its own name. */
static bool is_mutual(const struct object_view *view, object_id_t peer)
{
    if (!peer || peer == view_id(view))
        return false;
    struct object_view other = view_of(view->snapshot, peer);
    return unix_parts_of(&other).state.peer_inode == view->row->inode;
}

int unix_recreate(struct object_making *making, const struct object_view *view,
                  struct reseat_error **ret_error)
{
    struct unix_state state = unix_parts_of(view).state;
    if (!(state.flags & UNIX_CONNECTED) || unix_find_listener(view))
        return make_single(making, view, ret_error);
    object_id_t peer = unix_find_inode(view->snapshot, state.peer_inode);
    if (is_mutual(view, peer) && making_has(making, peer)) /* a given one: it cannot be joined */
        return make_connected(making, view, 0, ret_error);
    if (is_mutual(view, peer))
        return make_connected(making, view, peer, ret_error);
    /* Packets go to whoever has the name: connected in pass 2. */
    if (state.type == SOCK_DGRAM && state.peer_name_length)
        return make_single(making, view, ret_error);
    return make_connected(making, view, 0, ret_error);
}

/* ---- pass 2 ---- */

static int send_message(int sender, const struct sockaddr_un *to, socklen_t to_length,
                        const struct unix_message_view *message, const int *fds, bool with_credentials)
{
    union {
        struct cmsghdr align;
        char room[CMSG_SPACE(UNIX_OBJECTS_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    } control = {0};
    struct iovec piece = {(void *)message->bytes, message->header.length};
    struct msghdr header = {.msg_name = to_length ? (void *)to : NULL,
                            .msg_namelen = to_length,
                            .msg_iov = &piece,
                            .msg_iovlen = 1,
                            .msg_control = &control,
                            .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&header);
    size_t used = 0, fds_bytes = message->header.object_count * sizeof(int);
    if (fds_bytes) {
        *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_RIGHTS,
                              .cmsg_len = CMSG_LEN(fds_bytes)};
        memcpy(CMSG_DATA(c), fds, fds_bytes);
        used += CMSG_SPACE(fds_bytes);
        c = (struct cmsghdr *)(control.room + used);
    }
    if (with_credentials) {
        struct ucred credentials = {(pid_t)message->header.pid, message->header.uid, message->header.gid};
        *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                              .cmsg_type = SCM_CREDENTIALS,
                              .cmsg_len = CMSG_LEN(sizeof credentials)};
        memcpy(CMSG_DATA(c), &credentials, sizeof credentials);
        used += CMSG_SPACE(sizeof credentials);
    }
    header.msg_controllen = used;
    header.msg_control = used ? &control : NULL;
    ssize_t n = sendmsg(sender, &header, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0)
        return -errno;
    /* The rest of a long piece of a stream. */
    size_t sent = (size_t)n;
    while (sent < message->header.length) {
        n = send(sender, message->bytes + sent, message->header.length - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        sent += (size_t)n;
    }
    return 0;
}

/* A socket that has the name of the sender, which is free or that of an object inside; an unnamed one if it
 * is neither. */
static int find_sender(struct object_making *making, const struct unix_message_view *message,
                       bool *ret_is_new)
{
    struct sockaddr_un address;
    uint32_t name_length = message->header.sender_length;
    socklen_t length = unix_make_address(message->sender, name_length, &address);
    *ret_is_new = false;
    for (object_id_t id = 1; name_length && id < making->set->count; id++) {
        struct object_view other = view_of(making->snapshot, id);
        struct sockaddr_un theirs;
        if (making->states[id] != MAKING_MADE || strcmp(view_kind_name(&other), "unix") != 0)
            continue;
        if (unix_parts_of(&other).state.type == SOCK_DGRAM && unix_own_address(&other, &theirs) == length &&
            memcmp(&address, &theirs, length) == 0)
            return making->set->caps[id];
    }
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    *ret_is_new = true;
    if (fd >= 0 && name_length && bind(fd, (struct sockaddr *)&address, length) == 0 && address.sun_path[0])
        unix_remove_socket(address.sun_path);
    return fd < 0 ? -errno : fd;
}

static int fill_with(struct object_making *making, const struct object_view *view, int sender,
                     bool is_connected, const struct unix_message_view *message)
{
    int fds[UNIX_OBJECTS_MAX];
    struct sockaddr_un own;
    _cleanup_close_ int place = -EBADF, placeholder = open("/dev/null", O_PATH | O_CLOEXEC);
    socklen_t length = 0;
    if (!is_connected)
        length = unix_reachable_address(view, making->set->caps[view_id(view)], &place, &own);
    for (size_t i = 0; i < message->header.object_count; i++) {
        uint32_t object;
        memcpy(&object, message->objects + i * sizeof object, sizeof object);
        fds[i] = making->set->caps[object];
        if (fds[i] < 0)
            fds[i] = placeholder; /* as was said: has_unmade() */
        if (fds[i] < 0)
            return -EBADF;
    }
    int r = -EPERM;
    if (message->header.has_credentials)
        r = send_message(sender, &own, length, message, fds, true);
    if (r == -EPERM || r == -ESRCH) /* not ours to give, or the sender is no more: ours stand there */
        r = send_message(sender, &own, length, message, fds, false);
    return r;
}

static int fill_queue(struct object_making *making, const struct object_view *view,
                      struct reseat_error **ret_error)
{
    struct unix_parts parts = unix_parts_of(view);
    uint64_t offset = parts.messages;
    object_id_t peer = unix_find_inode(view->snapshot, parts.state.peer_inode);
    int partner = making->partners[view_id(view)];
    if (partner < 0 && peer && making->states[peer] == MAKING_MADE)
        partner = making->set->caps[peer];
    /* Of a pair of packets nobody but the other end may send, named or not. */
    bool is_connected =
        partner >= 0 && (parts.state.type != SOCK_DGRAM || !unix_has_name(view) || is_mutual(view, peer));
    struct unix_message_view message;
    int r = 0;
    for (size_t i = 0; r == 0 && i < parts.state.message_count; i++) {
        bool is_new = false;
        if (!unix_next_message(view, &offset, &message))
            return view_bad(view, ret_error, "message %zu is cut off", i);
        int sender = is_connected ? partner : find_sender(making, &message, &is_new);
        if (sender < 0)
            return error_errno(ret_error, sender, "finding a sender for what is queued");
        socket_options_make_room(sender);
        r = fill_with(making, view, sender, is_connected, &message);
        if (is_new)
            close(sender);
        if (r < 0)
            return error_errno(ret_error, r, "queueing message %zu of %u again", i,
                               parts.state.message_count);
    }
    return 0;
}

/* One that waits to be accepted: a socket inside, or one whose other side is closed already. */
static int connect_one(struct object_making *making, const struct object_view *listener, uint64_t inode,
                       const struct sockaddr_un *address, socklen_t length)
{
    object_id_t client = unix_find_inode(listener->snapshot, inode);
    struct deputy_principal connecting = principal_of(making, NULL);
    _cleanup_close_ int ended = -EBADF;
    if (client && making->states[client] == MAKING_MADE)
        return deputy_connect(&making->deputy, &connecting, making->set->caps[client], address, length);
    if (inode)
        return 0;
    ended = new_socket(listener);
    int r = ended < 0 ? ended : making_set_flags(ended, O_NONBLOCK);
    return r < 0 ? r : deputy_connect(&making->deputy, &connecting, ended, address, length);
}

/* Those who wait to be accepted, the first first. */
static int connect_waiting(struct object_making *making, const struct object_view *view,
                           struct reseat_error **ret_error)
{
    struct unix_parts parts = unix_parts_of(view);
    struct sockaddr_un address;
    _cleanup_close_ int place = -EBADF;
    socklen_t length = unix_reachable_address(view, making->set->caps[view_id(view)], &place, &address);
    for (size_t i = 0; i < parts.state.waiting_count; i++) {
        uint64_t inode;
        memcpy(&inode, view->state + parts.waiting + i * sizeof inode, sizeof inode);
        int r = connect_one(making, view, inode, &address, length);
        if (r < 0)
            return error_errno(ret_error, r, "connecting who waits to be accepted");
    }
    return 0;
}

/* To the peer inside, whatever has become of its name; or to a name that somebody may have. If nobody has it,
 * to a socket that is about to end: then sending fails as it would have. */
static int connect_packets(struct object_making *making, const struct object_view *view, object_id_t peer,
                           int fd)
{
    struct unix_parts parts = unix_parts_of(view);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_close_ int place = -EBADF;
    socklen_t length = unix_make_address((const char *)view->state + parts.peer_name,
                                         parts.state.peer_name_length, &address);
    if (peer && making->states[peer] == MAKING_MADE) {
        struct object_view other = view_of(making->snapshot, peer);
        length = unix_reachable_address(&other, making->set->caps[peer], &place, &address);
    }
    if (connect(fd, (struct sockaddr *)&address, length) == 0)
        return 0;
    _cleanup_close_ int dead = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    length = sizeof any;
    if (dead < 0 || bind(dead, (struct sockaddr *)&any, sizeof(sa_family_t)) < 0 ||
        getsockname(dead, (struct sockaddr *)&any, &length) < 0 ||
        connect(fd, (struct sockaddr *)&any, length) < 0)
        return -errno;
    return 0;
}

int unix_complete(struct object_making *making, const struct object_view *view, native_cap_t cap,
                  struct reseat_error **ret_error)
{
    struct unix_state state = unix_parts_of(view).state;
    if (state.flags & UNIX_LISTENING)
        return connect_waiting(making, view, ret_error);
    int r = fill_queue(making, view, ret_error);
    object_id_t peer = unix_find_inode(view->snapshot, state.peer_inode);
    if (r < 0 || state.type != SOCK_DGRAM || !(state.flags & UNIX_CONNECTED) || is_mutual(view, peer) ||
        !state.peer_name_length)
        return r;
    r = connect_packets(making, view, peer, cap);
    return r < 0 ? error_errno(ret_error, r, "connecting it") : 0;
}

/* ---- pass 3 ---- */

int unix_finish(struct object_making *making, const struct object_view *view, native_cap_t cap,
                struct reseat_error **ret_error)
{
    struct unix_parts parts = unix_parts_of(view);
    const struct unix_state *state = &parts.state;
    bool has_partner = making->partners[view_id(view)] >= 0;
    /* A partner that ends without having read everything leaves an error behind. */
    if ((state->flags & UNIX_PENDING_ERROR) && has_partner)
        (void)!send(cap, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (state->shutdown && !has_partner && state->shutdown <= 3)
        shutdown(cap, (int)state->shutdown - 1);
    struct deputy_principal listener = principal_of(making, view);
    int r = state->flags & UNIX_LISTENING
                ? deputy_listen(&making->deputy, &listener, cap, (int)state->backlog)
                : 0;
    if (r < 0)
        return error_errno(ret_error, r, "listening");
    if (state->flags & UNIX_FILE_REMOVED)
        unix_remove_file(view, cap);
    socket_options_finish(view, parts.options, state->option_count, cap);
    return making_set_flags(cap, view->row->status_flags);
}

const struct object_durable unix_durable = {
    .state_bytes = sizeof(struct unix_state),
    .capture = unix_capture,
    .check = unix_check,
    .judge = unix_judge,
    .recreate = unix_recreate,
    .complete = unix_complete,
    .finish = unix_finish,
};
