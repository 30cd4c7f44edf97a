/* TCP in a durable image. What listens or is not connected is bound again. A connection is carried over by
 * the kernel's repair mode (tcp(7) has no word of it; TCP_REPAIR, Linux 3.5, CAP_NET_ADMIN), in which a
 * socket's sequence numbers, queues, window and options can be read and set, and in which it opens and closes
 * without a packet. It can be carried over if nothing has happened to it since it was read: if it was frozen
 * (tcp_freeze.c). Otherwise the process finds it reset by the peer.
 *
 * A side that has said its last word (FIN) is made as one that has not, and says it again. */
#include "object/kinds.h"
#include "object/kinds/socket_inet_durable.h"
#include "object/tcp_freeze.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define TCP_ESTABLISHED    1
#define TCP_SYN_SENT       2
#define TCP_FIN_WAIT1      4
#define TCP_FIN_WAIT2      5
#define TCP_TIME_WAIT      6
#define TCP_CLOSE          7
#define TCP_CLOSE_WAIT     8
#define TCP_LAST_ACK       9
#define TCP_CLOSING        11

#define OPTION_MSS         2 /* of the protocol: TCPOPT_* */
#define OPTION_WINDOW      3
#define OPTION_SACK        4
#define OPTION_TIMESTAMP   8
#define QUEUE_BYTES_MAX    (1U << 30)
#define QUEUE_PIECE_BYTES  32768
#define OLD_SOCKET_WAIT_NS UINT64_C(3000000000)

struct tcp_state {
    uint32_t state;   /* TCP_ESTABLISHED, … */
    uint32_t options; /* TCPI_OPT_* */
    uint32_t send_scale, receive_scale;
    uint32_t mss, timestamp;
    uint32_t send_sequence, receive_sequence; /* of the first byte in the queue */
    uint32_t send_length, unsent_length, receive_length;
    uint32_t has_window;
    struct tcp_repair_window window;
    uint32_t reserved;
    /* then the bytes of the two queues */
};

/* ---- capture ---- */

static int read_info(native_cap_t cap, struct tcp_info *ret_info)
{
    socklen_t length = sizeof *ret_info;
    memset(ret_info, 0, sizeof *ret_info);
    return getsockopt(cap, IPPROTO_TCP, TCP_INFO, ret_info, &length) < 0 ? -errno : 0;
}

static int get_number(native_cap_t cap, int option, uint32_t *ret_number)
{
    socklen_t length = sizeof *ret_number;
    return getsockopt(cap, IPPROTO_TCP, option, ret_number, &length) < 0 ? -errno : 0;
}

static int set_number(native_cap_t cap, int option, uint32_t number)
{
    return setsockopt(cap, IPPROTO_TCP, option, &number, sizeof number) < 0 ? -errno : 0;
}

/* Adds what is in a queue. In repair mode both can be peeked at. */
static int add_queue(struct object_capture *capture, uint32_t queue, uint32_t *ret_next, uint32_t *ret_length)
{
    int waiting = 0;
    int r = set_number(capture->cap, TCP_REPAIR_QUEUE, queue);
    if (r == 0)
        r = get_number(capture->cap, TCP_QUEUE_SEQ, ret_next);
    if (r == 0 && ioctl(capture->cap, queue == TCP_SEND_QUEUE ? SIOCOUTQ : SIOCINQ, &waiting) < 0)
        r = -errno;
    if (r < 0)
        return r;
    _cleanup_free_ uint8_t *bytes = malloc((size_t)waiting + 1);
    if (!bytes)
        return -ENOMEM;
    ssize_t n = waiting ? recv(capture->cap, bytes, (size_t)waiting + 1, MSG_PEEK | MSG_DONTWAIT) : 0;
    if (n < 0 && errno != EAGAIN)
        return -errno;
    *ret_length = n < 0 ? 0 : (uint32_t)n;
    return state_add(capture, bytes, *ret_length);
}

static int add_connection(struct object_capture *capture, const struct tcp_info *info)
{
    struct tcp_state state = {.state = info->tcpi_state,
                              .options = info->tcpi_options,
                              .send_scale = info->tcpi_snd_wscale,
                              .receive_scale = info->tcpi_rcv_wscale};
    size_t place = capture->length;
    int unacknowledged = 0, unsent = 0;
    socklen_t length = sizeof state.window;
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = get_number(capture->cap, TCP_MAXSEG, &state.mss);
    if (r == 0 && (info->tcpi_options & TCPI_OPT_TIMESTAMPS))
        r = get_number(capture->cap, TCP_TIMESTAMP, &state.timestamp);
    if (r == 0 &&
        (ioctl(capture->cap, SIOCOUTQ, &unacknowledged) < 0 || ioctl(capture->cap, SIOCOUTQNSD, &unsent) < 0))
        r = -errno;
    state.has_window = getsockopt(capture->cap, IPPROTO_TCP, TCP_REPAIR_WINDOW, &state.window, &length) == 0;
    if (r == 0)
        r = add_queue(capture, TCP_SEND_QUEUE, &state.send_sequence, &state.send_length);
    if (r == 0)
        r = add_queue(capture, TCP_RECV_QUEUE, &state.receive_sequence, &state.receive_length);
    set_number(capture->cap, TCP_REPAIR_QUEUE, TCP_NO_QUEUE);
    /* The kernel tells where the queues end. A FIN takes a number, too: the first byte not acknowledged it
     * is, or, if it is acknowledged, the last number there was. */
    state.send_sequence -= (uint32_t)unacknowledged + (info->tcpi_state == TCP_FIN_WAIT2);
    state.receive_sequence -= state.receive_length;
    state.unsent_length = (uint32_t)unsent < state.send_length ? (uint32_t)unsent : state.send_length;
    memcpy(capture->state + place, &state, sizeof state);
    return r;
}

/* The peer, which getpeername(2) does not say of a socket that is not connected (any more, or yet). */
static void note_peer(const struct object_capture *capture, struct inet_state *state)
{
    state->peer_length = state->domain == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    if (getsockopt(capture->cap, SOL_SOCKET, SO_PEERNAME, state->peer, &state->peer_length) < 0)
        state->peer_length = 0;
}

/* A closed socket that was connected before has the other side's end to show; a new one has not. */
static void note_end(const struct object_capture *capture, const struct tcp_info *info,
                     struct inet_state *state)
{
    struct pollfd poll_fd = {.fd = capture->cap, .events = POLLRDHUP};
    poll(&poll_fd, 1, 0);
    bool is_closed = info->tcpi_state == TCP_CLOSE && (poll_fd.revents & (POLLRDHUP | POLLERR));
    if (!is_closed && info->tcpi_state != TCP_TIME_WAIT && info->tcpi_state != TCP_LAST_ACK &&
        info->tcpi_state != TCP_CLOSING)
        return;
    state->flags = (state->flags & ~(uint32_t)INET_CONNECTED) | INET_ENDED;
    note_peer(capture, state);
    state->flags |= poll_fd.revents & POLLERR ? INET_ERROR : 0;
}

static int capture_tcp(struct object_capture *capture, struct reseat_error **ret_error)
{
    struct inet_state state = {0};
    struct tcp_info info;
    uint32_t is_frozen = 0;
    int r = read_info(capture->cap, &info);
    if (r == 0)
        r = inet_capture_common(capture, &state);
    if (r < 0)
        return error_errno(ret_error, r, "reading the state of a TCP socket");
    if (state.flags & INET_LISTENING) {
        state.waiting = info.tcpi_unacked; /* for a listener these two say something else */
        state.backlog = info.tcpi_sacked;
    }
    int unread = 0;
    note_end(capture, &info, &state);
    if ((state.flags & INET_ENDED) && ioctl(capture->cap, SIOCINQ, &unread) == 0 && unread > 0)
        r = capture_degraded(capture, "its connection has ended, and %d bytes that it has not read are lost",
                             unread);
    if ((state.flags & INET_CONNECTED) && get_number(capture->cap, TCP_REPAIR, &is_frozen) == 0 &&
        is_frozen) {
        state.flags |= INET_FROZEN;
        r = add_connection(capture, &info);
    }
    if (capture->freezes && (state.flags & INET_CONNECTED) && tcp_can_freeze(capture->cap))
        state.flags |= INET_TO_BE_FROZEN;
    if (info.tcpi_state == TCP_SYN_SENT) {
        note_peer(capture, &state);
        state.flags |= state.peer_length ? INET_CONNECTING : 0;
    }
    memcpy(capture->state, &state, sizeof state);
    return r < 0 ? error_errno(ret_error, r, "reading a TCP connection in repair mode") : 0;
}

/* ---- check, judge ---- */

static struct tcp_state tcp_state_of(const struct object_view *view, uint64_t offset)
{
    struct tcp_state state;
    memcpy(&state, view->state + offset, sizeof state);
    return state;
}

static int check_tcp(const struct object_view *view, struct reseat_error **ret_error)
{
    int r = inet_check_common(view, ret_error);
    struct inet_parts parts = inet_parts_of(view);
    if (r < 0 || !(parts.state.flags & INET_FROZEN))
        return r;
    if (!view_has(view, parts.rest, sizeof(struct tcp_state)))
        return view_bad(view, ret_error, "its connection is cut off");
    struct tcp_state state = tcp_state_of(view, parts.rest);
    if (state.send_length > QUEUE_BYTES_MAX || state.receive_length > QUEUE_BYTES_MAX ||
        state.unsent_length > state.send_length ||
        !view_has(view, parts.rest + sizeof state, (uint64_t)state.send_length + state.receive_length))
        return view_bad(view, ret_error, "what is queued in its connection is cut off");
    return 0;
}

static bool is_carried_state(uint32_t state)
{
    return state == TCP_ESTABLISHED || state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 ||
           state == TCP_CLOSE_WAIT;
}

static bool may_repair(uint32_t domain)
{
    _cleanup_close_ int fd = socket((int)domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    return fd >= 0 && set_number(fd, TCP_REPAIR, 1) == 0;
}

/* Why a connection cannot be carried over here; NULL: it can. */
static const char *find_hindrance(const struct object_view *view, const struct object_options *options)
{
    struct inet_parts parts = inet_parts_of(view);
    if (parts.state.flags & INET_TO_BE_FROZEN)
        return NULL;
    if (!(parts.state.flags & INET_FROZEN) && options && options->is_running)
        return "that takes CAP_NET_ADMIN, nf_tables, and a checkpoint with --image that kills the process";
    if (!(parts.state.flags & INET_FROZEN))
        return "it was not frozen when the image was made (that takes CAP_NET_ADMIN, nf_tables, and a "
               "checkpoint that kills the process and keeps no twin)";
    if (!is_carried_state(tcp_state_of(view, parts.rest).state))
        return "it was being closed";
    _cleanup_close_ int fd = socket((int)parts.state.domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || !may_repair(parts.state.domain))
        return "we may not (that takes CAP_NET_ADMIN and a kernel with CONFIG_CHECKPOINT_RESTORE)";
    if (parts.local.any.sa_family == AF_INET6)
        parts.local.v6.sin6_port = 0;
    else
        parts.local.v4.sin_port = 0;
    if (bind(fd, &parts.local.any, parts.state.local_length) < 0)
        return "its address is not one of this machine";
    return NULL;
}

static int judge_tcp(const struct object_view *view, const struct object_options *options,
                     enum object_fate *ret_fate, char **ret_sentence)
{
    struct inet_state state = inet_parts_of(view).state;
    if (state.flags & INET_LISTENING) {
        if (state.waiting == 0)
            return 0;
        *ret_fate = OBJECT_DEGRADED;
        return describe_as(ret_sentence, "%u connections that wait to be accepted are reset", state.waiting);
    }
    if ((state.flags & INET_ENDED) && state.peer_length && !may_repair(state.domain)) {
        *ret_fate = OBJECT_DEGRADED;
        return describe_as(ret_sentence, "its connection has ended, and without CAP_NET_ADMIN it forgets "
                                         "which addresses it had");
    }
    const char *hindrance = state.flags & INET_CONNECTED ? find_hindrance(view, options) : NULL;
    if (!hindrance)
        return 0;
    *ret_fate = OBJECT_DEGRADED;
    return describe_as(ret_sentence,
                       "the connection cannot be carried over: %s; it reads as reset by the peer", hindrance);
}

/* ---- recreate ---- */

static int set_sequence(int fd, uint32_t queue, uint32_t sequence)
{
    int r = set_number(fd, TCP_REPAIR_QUEUE, queue);
    return r == 0 ? set_number(fd, TCP_QUEUE_SEQ, sequence) : r;
}

static int set_options(int fd, const struct tcp_state *state)
{
    struct tcp_repair_opt options[4];
    size_t count = 0;
    options[count++] = (struct tcp_repair_opt){OPTION_MSS, state->mss};
    if (state->options & TCPI_OPT_SACK)
        options[count++] = (struct tcp_repair_opt){OPTION_SACK, 0};
    if (state->options & TCPI_OPT_WSCALE)
        options[count++] =
            (struct tcp_repair_opt){OPTION_WINDOW, state->send_scale | state->receive_scale << 16};
    if (state->options & TCPI_OPT_TIMESTAMPS)
        options[count++] = (struct tcp_repair_opt){OPTION_TIMESTAMP, 0};
    if (setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, options, (socklen_t)(count * sizeof options[0])) < 0)
        return -errno;
    return state->options & TCPI_OPT_TIMESTAMPS ? set_number(fd, TCP_TIMESTAMP, state->timestamp) : 0;
}

static int fill_queue(int fd, uint32_t queue, const uint8_t *bytes, size_t length)
{
    int r = set_number(fd, TCP_REPAIR_QUEUE, queue);
    while (r == 0 && length > 0) {
        size_t piece = length < QUEUE_PIECE_BYTES ? length : QUEUE_PIECE_BYTES;
        ssize_t n = send(fd, bytes, piece, MSG_DONTWAIT);
        if (n < 0)
            return -errno;
        bytes += n;
        length -= (size_t)n;
    }
    return r;
}

static int make_room(int fd)
{
    int size = 64 << 20;
    socket_options_make_room(fd);
    return setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) < 0 ? -errno : 0;
}

/* The process of a stream may still be about to end, and with it the old socket. */
static int connect_when_free(int fd, const struct inet_parts *parts)
{
    for (uint64_t deadline = now_ns() + OLD_SOCKET_WAIT_NS;;) {
        if (connect(fd, &parts->peer.any, parts->state.peer_length) == 0)
            return 0;
        if (errno != EADDRNOTAVAIL || now_ns() > deadline)
            return -errno;
        usleep(5000);
    }
}

/* Leaves the socket in repair mode: until the process is complete, it is to be able to go without a word. */
static int carry_over(const struct object_view *view, int fd, const char **ret_step)
{
    struct inet_parts parts = inet_parts_of(view);
    struct tcp_state state = tcp_state_of(view, parts.rest);
    const uint8_t *queued = view->state + parts.rest + sizeof state;
    int r;
#define STEP(what, call)                                                                                     \
    *ret_step = (what);                                                                                      \
    r = (call);                                                                                              \
    if (r < 0)                                                                                               \
        return r == -1 ? -errno : r;
    STEP("entering repair mode", set_number(fd, TCP_REPAIR, 1))
    STEP("setting the sending sequence", set_sequence(fd, TCP_SEND_QUEUE, state.send_sequence))
    STEP("setting the receiving sequence", set_sequence(fd, TCP_RECV_QUEUE, state.receive_sequence))
    STEP("binding", bind(fd, &parts.local.any, parts.state.local_length))
    STEP("connecting", connect_when_free(fd, &parts))
    STEP("setting the connection's options", set_options(fd, &state))
    STEP("making room for the queues", make_room(fd))
    STEP("filling the receive queue",
         fill_queue(fd, TCP_RECV_QUEUE, queued + state.send_length, state.receive_length))
    STEP("filling the send queue",
         fill_queue(fd, TCP_SEND_QUEUE, queued, state.send_length - state.unsent_length))
    STEP("leaving the queues", set_number(fd, TCP_REPAIR_QUEUE, TCP_NO_QUEUE))
#undef STEP
    /* Without it the peer tells the window with its next packet. */
    if (state.has_window)
        setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_WINDOW, &state.window, sizeof state.window);
    return 0;
}

static int recreate_connection(struct object_making *making, const struct object_view *view,
                               struct reseat_error **ret_error)
{
    struct inet_parts parts = inet_parts_of(view);
    const char *step = "";
    int fd;
    if (!(parts.state.flags & INET_FROZEN) || find_hindrance(view, making->options)) {
        int r = inet_make_over(view, true, &fd, ret_error);
        if (r == 0)
            making_put(making, view_id(view), fd);
        return r;
    }
    fd = socket((int)parts.state.domain, SOCK_STREAM | SOCK_CLOEXEC, (int)parts.state.protocol);
    if (fd < 0)
        return error_errno(ret_error, -errno, "making a TCP socket");
    making_put(making, view_id(view), fd);
    int r = socket_options_apply(view, parts.options, parts.state.option_count, fd, ret_error);
    if (r < 0)
        return r;
    r = carry_over(view, fd, &step);
    return r < 0 ? error_errno(ret_error, r, "carrying over its connection: %s", step) : 0;
}

static int recreate_tcp(struct object_making *making, const struct object_view *view,
                        struct reseat_error **ret_error)
{
    struct inet_parts parts = inet_parts_of(view);
    native_cap_t cap;
    if (parts.state.flags & INET_CONNECTED)
        return recreate_connection(making, view, ret_error);
    int r = parts.state.flags & INET_ENDED
                ? inet_make_over(view, parts.state.flags & INET_ERROR, &cap, ret_error)
                : inet_make(view, &cap, ret_error);
    if (r < 0)
        return r;
    making_put(making, view_id(view), cap);
    if ((parts.state.flags & INET_LISTENING) && listen(cap, (int)parts.state.backlog) < 0)
        return errno == EADDRINUSE
                   ? error_set(ret_error, -EADDRINUSE,
                               "somebody else listens on its address; find out who with ss -ltnp")
                   : error_errno(ret_error, -errno, "listening");
    return 0;
}

/* Without waiting for the answer. When there is one already, and it is no, then the process is to find an
 * error, as it would have. */
static int connect_again(struct object_making *making, const struct object_view *view, native_cap_t *cap,
                         struct reseat_error **ret_error)
{
    struct inet_parts parts = inet_parts_of(view);
    int r = making_set_flags(*cap, O_NONBLOCK), refused;
    if (r < 0)
        return r;
    if (connect(*cap, &parts.peer.any, parts.state.peer_length) == 0 || errno == EINPROGRESS)
        return 0;
    r = inet_make_over(view, true, &refused, ret_error);
    if (r < 0)
        return r;
    making_put(making, view_id(view), refused);
    *cap = refused;
    return 0;
}

static int finish_tcp(struct object_making *making, const struct object_view *view, native_cap_t cap,
                      struct reseat_error **ret_error)
{
    int r =
        inet_parts_of(view).state.flags & INET_CONNECTING ? connect_again(making, view, &cap, ret_error) : 0;
    return r < 0 ? r : inet_finish(making, view, cap, ret_error);
}

/* ---- letting it go on ---- */

/* The buffer has its own size again by now, and what is queued may take more of it than it took before: it
 * stands there in other pieces. */
static int send_unsent(const struct object_view *view, const struct tcp_state *state, native_cap_t cap)
{
    struct inet_parts parts = inet_parts_of(view);
    const uint8_t *unsent =
        view->state + parts.rest + sizeof *state + state->send_length - state->unsent_length;
    int r = 0;
    if (state->unsent_length == 0)
        return 0;
    socket_options_make_room(cap);
    for (size_t sent = 0; r == 0 && sent < state->unsent_length;) {
        ssize_t n = send(cap, unsent + sent, state->unsent_length - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            r = -errno;
        else
            sent += (size_t)n;
    }
    socket_options_finish(view, parts.options, parts.state.option_count, cap);
    return r;
}

int tcp_thaw(const struct object_view *view, native_cap_t cap)
{
    struct inet_parts parts = inet_parts_of(view);
    uint32_t is_frozen = 0;
    if (!(parts.state.flags & INET_FROZEN) || get_number(cap, TCP_REPAIR, &is_frozen) < 0 || !is_frozen)
        return 0;
    struct tcp_state state = tcp_state_of(view, parts.rest);
    int r = set_number(cap, TCP_REPAIR, TCP_REPAIR_OFF);
    /* Leaving repair mode takes this option away. */
    int reuse =
        socket_options_value(view, parts.options, parts.state.option_count, SOL_SOCKET, SO_REUSEADDR, 0);
    setsockopt(cap, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof reuse);
    if (r == 0)
        r = send_unsent(view, &state, cap);
    bool has_ended_sending = state.state == TCP_FIN_WAIT1 || state.state == TCP_FIN_WAIT2;
    if (r == 0 && has_ended_sending)
        shutdown(cap, SHUT_WR);
    if (r == 0 && state.state == TCP_CLOSE_WAIT)
        shutdown(cap, SHUT_RD);
    return r;
}

const struct object_durable tcp_durable = {
    .state_bytes = sizeof(struct inet_state),
    .capture = capture_tcp,
    .check = check_tcp,
    .judge = judge_tcp,
    .recreate = recreate_tcp,
    .finish = finish_tcp,
};
