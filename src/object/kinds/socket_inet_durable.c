/* Sockets of the internet families in a durable image: TCP that listens or is not connected, UDP, raw and
 * ping sockets are bound again with their options. Datagrams that wait to be read are sent once more, from
 * the address of their sender, if that is an address of this machine; they are looked at with MSG_PEEK and
 * SO_PEEK_OFF. TCP connections: socket_tcp_durable.c. Memberships in multicast groups cannot be read from a
 * socket, nor can what else is only given to a driver. */
#include "object/kinds/socket_inet_durable.h"
#include "object/inet_diag.h"
#include "object/kinds.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#define ALIGN_8(number)    (((number) + 7) & ~(uint64_t)7)
#define DATAGRAM_BYTES_MAX 65536

/* ---- what all have ---- */

unsigned inet_port(const union inet_name *name)
{
    return ntohs(name->any.sa_family == AF_INET6 ? name->v6.sin6_port : name->v4.sin_port);
}

static bool is_any_address(const union inet_name *name)
{
    return name->any.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&name->v6.sin6_addr)
                                           : name->v4.sin_addr.s_addr == htonl(INADDR_ANY);
}

/* Then IP_FREEBIND was set when it was bound, or the address has gone since. A TCP connection may not be put
 * back to such a one: only its peer could tell. */
static bool is_foreign(const struct inet_state *state)
{
    union inet_name name;
    if (!state->local_length || (state->type == SOCK_STREAM && (state->flags & INET_CONNECTED)))
        return false;
    memcpy(name.bytes, state->local, sizeof name.bytes);
    if (name.any.sa_family == AF_INET6)
        name.v6.sin6_port = 0;
    else
        name.v4.sin_port = 0;
    if (is_any_address(&name))
        return false;
    _cleanup_close_ int fd = socket((int)state->domain, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && bind(fd, &name.any, state->local_length) < 0 && errno == EADDRNOTAVAIL;
}

int inet_capture_common(struct object_capture *capture, struct inet_state *state)
{
    const struct object_sight *sight = capture->sight;
    int listening = 0;
    socklen_t length = sizeof listening;
    state->domain = (uint32_t)sight->domain;
    state->type = (uint32_t)sight->type;
    state->protocol = (uint32_t)sight->protocol;
    state->local_length = sizeof state->local;
    state->peer_length = sizeof state->peer;
    if (getsockopt(capture->cap, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 && listening)
        state->flags |= INET_LISTENING;
    if (getsockname(capture->cap, (struct sockaddr *)state->local, &state->local_length) < 0)
        state->local_length = 0;
    if (getpeername(capture->cap, (struct sockaddr *)state->peer, &state->peer_length) < 0)
        state->peer_length = 0;
    else
        state->flags |= INET_CONNECTED;
    if (is_foreign(state))
        state->flags |= INET_FOREIGN;
    int r = state_add(capture, state, sizeof *state);
    if (r == 0)
        r = socket_options_capture(capture, &state->option_count);
    return r == 0 ? socket_filter_capture(capture, &state->filter_count) : r;
}

struct inet_parts inet_parts_of(const struct object_view *view)
{
    struct inet_parts parts;
    view_read(view, &parts.state, sizeof parts.state);
    memcpy(parts.local.bytes, parts.state.local, sizeof parts.local.bytes);
    memcpy(parts.peer.bytes, parts.state.peer, sizeof parts.peer.bytes);
    parts.options = sizeof parts.state;
    parts.filter = parts.options + parts.state.option_count * sizeof(struct socket_option);
    parts.rest = parts.filter + parts.state.filter_count * (uint64_t)SOCKET_FILTER_BYTES;
    return parts;
}

int inet_check_common(const struct object_view *view, struct reseat_error **ret_error)
{
    struct inet_parts parts = inet_parts_of(view);
    const struct inet_state *state = &parts.state;
    if ((state->domain != AF_INET && state->domain != AF_INET6) || state->local_length > sizeof parts.local ||
        state->peer_length > sizeof parts.peer)
        return view_bad(view, ret_error, "family %u, addresses of %u and %u bytes", state->domain,
                        state->local_length, state->peer_length);
    if ((state->local_length && parts.local.any.sa_family != state->domain) ||
        (state->peer_length && parts.peer.any.sa_family != state->domain))
        return view_bad(view, ret_error, "an address of another family");
    int r = socket_options_check(view, parts.options, state->option_count, ret_error);
    return r == 0 ? socket_filter_check(view, parts.filter, state->filter_count, ret_error) : r;
}

static bool is_bound(const struct inet_parts *parts)
{
    bool has_ports = parts->state.type != SOCK_RAW;
    return parts->state.local_length &&
           (has_ports ? inet_port(&parts->local) != 0 : !is_any_address(&parts->local));
}

/* ---- binding ---- */

/* Options that count while something is bound may have been taken back since; what one of a port has, all of
 * it are given for the time being. A TCP connection shares the port of its listener, and takes it first if
 * it comes first. */
static int sharing_option(const struct object_view *view, int option)
{
    struct inet_parts parts = inet_parts_of(view);
    int is_set = socket_options_value(view, parts.options, parts.state.option_count, SOL_SOCKET, option, 0);
    for (object_id_t id = 1; !is_set && id <= view->snapshot->objects_count; id++) {
        struct object_view other = view_of(view->snapshot, id);
        if (!view_is_usable(&other) || id == view_id(view) ||
            strcmp(view_kind_name(&other), view_kind_name(view)) != 0)
            continue;
        struct inet_parts parts_there = inet_parts_of(&other);
        if (parts_there.state.protocol != parts.state.protocol ||
            inet_port(&parts_there.local) != inet_port(&parts.local))
            continue;
        is_set = socket_options_value(&other, parts_there.options, parts_there.state.option_count, SOL_SOCKET,
                                      option, 0) ||
                 (option == SO_REUSEADDR && (parts_there.state.flags & (INET_FROZEN | INET_ENDED)));
    }
    return is_set != 0;
}

static void put_option(native_cap_t cap, int level, int option, int value)
{
    setsockopt(cap, level, option, &value, sizeof value);
}

void inet_put_back_sharing(const struct object_view *view, native_cap_t cap)
{
    struct inet_parts parts = inet_parts_of(view);
    static const int options[] = {SO_REUSEADDR, SO_REUSEPORT};
    for (size_t i = 0; i < COUNT_OF(options); i++) {
        int value =
            socket_options_value(view, parts.options, parts.state.option_count, SOL_SOCKET, options[i], -1);
        if (value >= 0 && !(parts.state.flags & INET_CONNECTED && parts.state.type == SOCK_STREAM))
            put_option(cap, SOL_SOCKET, options[i], value);
    }
}

static int bind_it(const struct object_view *view, int fd)
{
    struct inet_parts parts = inet_parts_of(view);
    if (parts.state.type != SOCK_RAW) {
        put_option(fd, SOL_SOCKET, SO_REUSEADDR, sharing_option(view, SO_REUSEADDR));
        put_option(fd, SOL_SOCKET, SO_REUSEPORT, sharing_option(view, SO_REUSEPORT));
    }
    if (!(parts.state.flags & INET_FOREIGN))
        return bind(fd, &parts.local.any, parts.state.local_length) < 0 ? -errno : 0;
    int was_free = 0;
    socklen_t length = sizeof was_free;
    if (getsockopt(fd, IPPROTO_IP, IP_FREEBIND, &was_free, &length) < 0)
        return -errno;
    put_option(fd, IPPROTO_IP, IP_FREEBIND, 1);
    int r = bind(fd, &parts.local.any, parts.state.local_length) < 0 ? -errno : 0;
    put_option(fd, IPPROTO_IP, IP_FREEBIND, was_free);
    return r;
}

int inet_make(const struct object_view *view, native_cap_t *ret_cap, struct reseat_error **ret_error)
{
    struct inet_parts parts = inet_parts_of(view);
    const struct inet_state *state = &parts.state;
    _cleanup_close_ int fd =
        socket((int)state->domain, (int)state->type | SOCK_CLOEXEC, (int)state->protocol);
    if (fd < 0)
        return error_errno(ret_error, -errno, "making a socket of family %u, type %u, protocol %u",
                           state->domain, state->type, state->protocol);
    int r = socket_options_apply(view, parts.options, state->option_count, fd, ret_error);
    if (r < 0)
        return r;
    if (is_bound(&parts))
        r = bind_it(view, fd);
    if (r == -EADDRINUSE)
        return error_set(ret_error, r,
                         "its address is in use; find out by whom with ss -lptun, and end that first");
    if (r < 0)
        return error_errno(ret_error, r, "binding it to its address");
    r = socket_filter_attach(view, parts.filter, state->filter_count, fd);
    if (r < 0)
        return error_errno(ret_error, r, "attaching its filter");
    *ret_cap = TAKE_FD(fd);
    return 0;
}

/* ---- datagrams ---- */

/* An empty datagram does not move the offset, but is passed over from now on, as one that was peeked at. */
static int add_datagrams(struct object_capture *capture, struct inet_state *state)
{
    static const uint8_t zeros[8];
    _cleanup_free_ uint8_t *bytes = malloc(DATAGRAM_BYTES_MAX);
    int r = bytes ? 0 : -ENOMEM;
    for (int offset = 0; r == 0;) {
        struct inet_message message = {.sender_length = sizeof message.sender};
        if (setsockopt(capture->cap, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof offset) < 0)
            return 0; /* raw and ping sockets do not know it */
        ssize_t n = recvfrom(capture->cap, bytes, DATAGRAM_BYTES_MAX, MSG_PEEK | MSG_DONTWAIT,
                             (struct sockaddr *)message.sender, &message.sender_length);
        if (n < 0)
            break; /* nothing more, or an error that waits: that is not ours to take */
        message.length = (uint32_t)n;
        state->message_count++;
        offset += (int)n;
        r = state_add(capture, &message, sizeof message);
        if (r == 0)
            r = state_add(capture, bytes, message.length);
        if (r == 0)
            r = state_add(capture, zeros, ALIGN_8(message.length) - message.length);
    }
    return r;
}

static int capture_datagrams(struct object_capture *capture, struct inet_state *state)
{
    int before = -1;
    socklen_t length = sizeof before;
    if (capture->without_content || getsockopt(capture->cap, SOL_SOCKET, SO_PEEK_OFF, &before, &length) < 0)
        return 0;
    int r = add_datagrams(capture, state);
    setsockopt(capture->cap, SOL_SOCKET, SO_PEEK_OFF, &before, sizeof before);
    return r;
}

static uint32_t read_shutdown(const struct object_capture *capture, const struct inet_state *state)
{
    union inet_name name;
    memcpy(name.bytes, state->local, sizeof name.bytes);
    unsigned port = state->local_length ? inet_port(&name) : 0;
    return inet_shutdown_read((int)state->domain, (int)state->protocol, htons((uint16_t)port),
                              capture->sight->inode);
}

static int capture_inet(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct inet_state state = {0};
    int r = inet_capture_common(capture, &state);
    if (r == 0 && state.type == SOCK_DGRAM)
        r = capture_datagrams(capture, &state);
    if (r == 0 && state.type == SOCK_DGRAM)
        state.shutdown = read_shutdown(capture, &state);
    if (r == 0)
        memcpy(capture->state, &state, sizeof state);
    return r;
}

static bool next_message(const struct object_view *view, uint64_t *offset, struct inet_message *ret_message,
                         const uint8_t **ret_bytes)
{
    if (!view_has(view, *offset, sizeof *ret_message))
        return false;
    memcpy(ret_message, view->state + *offset, sizeof *ret_message);
    uint64_t bytes = *offset + sizeof *ret_message;
    if (!view_has(view, bytes, ret_message->length) ||
        ret_message->sender_length > sizeof ret_message->sender)
        return false;
    *ret_bytes = view->state + bytes;
    *offset = bytes + ALIGN_8((uint64_t)ret_message->length);
    return true;
}

static int check_inet(const struct object_view *view, struct reseat_error **ret_error)
{
    struct inet_message message;
    const uint8_t *bytes;
    int r = inet_check_common(view, ret_error);
    if (r < 0)
        return r;
    struct inet_parts parts = inet_parts_of(view);
    uint64_t offset = parts.rest;
    for (size_t i = 0; i < parts.state.message_count; i++)
        if (!next_message(view, &offset, &message, &bytes))
            return view_bad(view, ret_error, "datagram %zu is cut off", i);
    return 0;
}

/* Whether we may send from that address: it is one of this machine. */
static int bind_as(const struct inet_message *message, int domain, bool with_port)
{
    union inet_name name;
    int yes = 1;
    memcpy(name.bytes, message->sender, sizeof name.bytes);
    if (!with_port && name.any.sa_family == AF_INET6)
        name.v6.sin6_port = 0;
    else if (!with_port)
        name.v4.sin_port = 0;
    int fd = socket(domain, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
        bind(fd, &name.any, message->sender_length) == 0)
        return fd;
    int r = -errno;
    base_close(&fd);
    return r;
}

static int judge_inet(const struct object_view *view, const struct object_options *options,
                      enum object_fate *ret_fate, char **ret_sentence)
{
    (void)options;
    struct inet_parts parts = inet_parts_of(view);
    struct inet_message message;
    const uint8_t *bytes;
    uint64_t offset = parts.rest;
    size_t foreign = 0;
    for (size_t i = 0; i < parts.state.message_count && next_message(view, &offset, &message, &bytes); i++) {
        _cleanup_close_ int fd = bind_as(&message, (int)parts.state.domain, false);
        foreign += fd < 0;
    }
    if (foreign == 0)
        return 0;
    *ret_fate = OBJECT_DEGRADED;
    return describe_as(ret_sentence,
                       "%zu of %u datagrams that it has not read came from other machines and are lost",
                       foreign, parts.state.message_count);
}

static int recreate_inet(struct object_making *making, const struct object_view *view,
                         struct reseat_error **ret_error)
{
    struct inet_parts parts = inet_parts_of(view);
    native_cap_t cap;
    int r = inet_make(view, &cap, ret_error);
    if (r < 0)
        return r;
    making_put(making, view_id(view), cap);
    if ((parts.state.flags & INET_CONNECTED) && connect(cap, &parts.peer.any, parts.state.peer_length) < 0)
        return error_errno(ret_error, -errno, "connecting it");
    return 0;
}

/* The socket inside that has the sender's address sends; else one of ours, for the moment. */
static int find_sender(struct object_making *making, const struct object_view *view,
                       const struct inet_message *message, bool *ret_is_new)
{
    *ret_is_new = false;
    for (object_id_t id = 1; id < making->set->count; id++) {
        struct object_view other = view_of(making->snapshot, id);
        if (making->states[id] != MAKING_MADE || strcmp(view_kind_name(&other), view_kind_name(view)) != 0)
            continue;
        struct inet_parts parts = inet_parts_of(&other);
        if (parts.state.local_length == message->sender_length &&
            memcmp(parts.local.bytes, message->sender, message->sender_length) == 0)
            return making->set->caps[id];
    }
    *ret_is_new = true;
    return bind_as(message, (int)inet_parts_of(view).state.domain, true);
}

static int complete_inet(struct object_making *making, const struct object_view *view, native_cap_t cap,
                         struct reseat_error **ret_error)
{
    (void)cap, (void)ret_error;
    struct inet_parts parts = inet_parts_of(view);
    struct inet_message message;
    const uint8_t *bytes;
    uint64_t offset = parts.rest;
    union inet_name to = parts.local;
    if (is_any_address(&to) && to.any.sa_family == AF_INET)
        to.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (is_any_address(&to))
        to.v6.sin6_addr = in6addr_loopback;
    for (size_t i = 0; i < parts.state.message_count && next_message(view, &offset, &message, &bytes); i++) {
        bool is_new;
        int sender = find_sender(making, view, &message, &is_new);
        if (sender < 0)
            continue; /* judged: lost */
        /* As with every datagram, nobody learns whether it arrives. */
        (void)!sendto(sender, bytes, message.length, MSG_DONTWAIT, &to.any, parts.state.local_length);
        if (is_new)
            close(sender);
    }
    return 0;
}

int inet_finish(struct object_making *making, const struct object_view *view, native_cap_t cap,
                struct reseat_error **ret_error)
{
    (void)making, (void)ret_error;
    struct inet_parts parts = inet_parts_of(view);
    inet_put_back_sharing(view, cap);
    socket_options_finish(view, parts.options, parts.state.option_count, cap);
    return making_set_flags(cap, view->row->status_flags);
}

/* The kernel notes it although it says ENOTCONN. */
static int finish_inet(struct object_making *making, const struct object_view *view, native_cap_t cap,
                       struct reseat_error **ret_error)
{
    uint32_t ways = inet_parts_of(view).state.shutdown & 3;
    if (ways)
        shutdown(cap, (int)ways - 1);
    return inet_finish(making, view, cap, ret_error);
}

const struct object_durable inet_durable = {
    .state_bytes = sizeof(struct inet_state),
    .capture = capture_inet,
    .check = check_inet,
    .judge = judge_inet,
    .recreate = recreate_inet,
    .complete = complete_inet,
    .finish = finish_inet,
};
