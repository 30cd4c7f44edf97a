/* The workers: as many as there is work, not more than one user's share for one user, one at a time for one
 * stopped process, and none for longer than its operation may take.
 *
 * A worker that does not come back is killed. Whatever it had stopped runs on then (target/target.h). If not
 * even that ends it, because the kernel does not let it go, it stays counted, and its session is answered and
 * closed without it.
 *
 * See fork(2), prctl(2), close_range(2). */
#include "core/dispatcher.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define IDLE_WORKERS_MAX    4
#define IDLE_NS             10000000000U
#define LIMIT_QUICK_NS      10000000000U
#define LIMIT_STOPPING_NS   30000000000U
#define LIMIT_CHECKPOINT_NS 300000000000U

/* ---- starting and ending them ---- */

/* Keeps nothing of the dispatcher but the socket to it. */
static _Noreturn void be_worker(struct dispatcher *dispatcher, int socket)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    /* The terminal's and the service manager's signals are for the dispatcher; we end when it has. */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGALRM, SIG_DFL);
    if (dup2(socket, 3) < 0)
        _exit(1);
    fcntl(3, F_SETFD, FD_CLOEXEC);
    close_range(4, ~0U, 0);
    worker_serve(3, &dispatcher->configuration, dispatcher->is_verbose);
    _exit(0);
}

static struct worker *free_place(struct dispatcher *dispatcher)
{
    for (size_t i = 0; i < dispatcher->worker_count; i++)
        if (dispatcher->workers[i].pid == 0)
            return &dispatcher->workers[i];
    return NULL;
}

static struct worker *start_worker(struct dispatcher *dispatcher)
{
    struct worker *worker = free_place(dispatcher);
    int ends[2];
    if (!worker || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return NULL;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = worker};
    pid_t pid = epoll_ctl(dispatcher->epoll, EPOLL_CTL_ADD, ends[0], &event) < 0 ? -1 : fork();
    if (pid == 0)
        be_worker(dispatcher, ends[1]);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return NULL;
    }
    *worker = (struct worker){.pid = pid, .socket = ends[0], .since_ns = now_ns()};
    return worker;
}

/* It ends by itself when it sees that we are gone. */
static void let_go(struct worker *worker)
{
    base_close(&worker->socket);
    worker->socket = -EBADF;
    worker->is_lost = true;
}

/* The session of a worker that will not answer any more. */
static void give_up_channel(struct dispatcher *dispatcher, struct worker *worker, int code,
                            const char *sentence)
{
    struct channel *channel = TAKE_PTR(worker->channel);
    if (!channel)
        return;
    channel_refuse(channel, code, sentence);
    channel_discard(dispatcher, channel);
}

void pool_collect(struct dispatcher *dispatcher)
{
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        struct worker *worker = &dispatcher->workers[i];
        if (worker->pid == 0 || waitpid(worker->pid, NULL, WNOHANG) != worker->pid)
            continue;
        give_up_channel(dispatcher, worker, -EIO,
                        "core's worker for this operation has ended unexpectedly; the session is closed");
        base_close(&worker->socket);
        *worker = (struct worker){.socket = -EBADF};
    }
}

void pool_retire(struct dispatcher *dispatcher)
{
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        struct worker *worker = &dispatcher->workers[i];
        worker->is_retired = true;
        if (worker->pid && !worker->is_busy && !worker->is_lost)
            let_go(worker);
    }
}

size_t pool_busy(const struct dispatcher *dispatcher)
{
    size_t busy = 0;
    for (size_t i = 0; i < dispatcher->worker_count; i++)
        busy += dispatcher->workers[i].pid && dispatcher->workers[i].is_busy;
    return busy;
}

struct worker *pool_find(struct dispatcher *dispatcher, const void *pointer)
{
    const struct worker *worker = pointer;
    bool is_worker = worker >= dispatcher->workers && worker < dispatcher->workers + dispatcher->worker_count;
    return is_worker ? (struct worker *)worker : NULL;
}

/* ---- giving out work ---- */

static uint64_t limit_of(unsigned operation)
{
    switch (operation) {
    case PROTOCOL_INSTALL:
    case PROTOCOL_CLOSE:
    case PROTOCOL_FETCH:
        return LIMIT_STOPPING_NS;
    case PROTOCOL_CHECKPOINT:
    case PROTOCOL_RESTORE:
    case PROTOCOL_DROP:
        return LIMIT_CHECKPOINT_NS;
    default:
        return LIMIT_QUICK_NS;
    }
}

static bool looks_at_target(unsigned operation)
{
    return operation == PROTOCOL_LIST || operation == PROTOCOL_REQUEST || operation == PROTOCOL_COMPARE ||
           operation == PROTOCOL_FETCH;
}

static bool stops_target(unsigned operation)
{
    return operation == PROTOCOL_INSTALL || operation == PROTOCOL_CLOSE || operation == PROTOCOL_CHECKPOINT ||
           operation == PROTOCOL_RESTORE || operation == PROTOCOL_DROP;
}

/* Whether a user may have one more. Half of those that are free are kept for others, so that whoever comes
 * finds one, however many are at it already. */
static bool has_share(const struct dispatcher *dispatcher, uid_t owner)
{
    uint64_t own = 0, free_places = 0;
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        const struct worker *worker = &dispatcher->workers[i];
        bool is_taken = worker->pid && (worker->is_busy || worker->is_lost);
        free_places += !is_taken;
        own += is_taken && worker->owner == owner;
    }
    return own < dispatcher->configuration.workers && own <= free_places / 2;
}

/* A process can be stopped by one at a time; and who looks at it meanwhile would see selectors that are used
 * in passing. So there is one who stops it, or any number who look, in the order in which they came: `before`
 * are the processes that somebody who came earlier waits to stop. */
struct claims {
    pid_t before[64];
    size_t count;
};

static void claim(struct claims *claims, pid_t target)
{
    if (claims->count < COUNT_OF(claims->before))
        claims->before[claims->count++] = target;
}

static bool is_claimed(const struct claims *claims, pid_t target)
{
    for (size_t i = 0; i < claims->count; i++)
        if (claims->before[i] == target)
            return true;
    return false;
}

static bool is_in_use(const struct dispatcher *dispatcher, pid_t target, bool only_stopped)
{
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        const struct worker *worker = &dispatcher->workers[i];
        if (worker->pid && worker->is_busy && worker->target == target &&
            (worker->stops_target || !only_stopped))
            return true;
    }
    return false;
}

/* What comes in parts does not stop its process before the last of them is there. */
static bool stops_at_once(const struct channel *channel)
{
    return channel->is_session && !channel->is_discarded && stops_target(channel->head.operation) &&
           !(channel->head.flags & PROTOCOL_MORE);
}

static bool looks(const struct channel *channel)
{
    return channel->is_session && !channel->is_discarded && looks_at_target(channel->head.operation);
}

static bool must_wait(const struct dispatcher *dispatcher, const struct channel *channel,
                      const struct claims *claims)
{
    bool stops = stops_at_once(channel);
    if (!stops && !looks(channel))
        return false;
    return is_claimed(claims, channel->terms.pid) || is_in_use(dispatcher, channel->terms.pid, !stops);
}

static void answer(struct worker *worker, const struct answer *content, int fd)
{
    packet_send(worker->socket, content, sizeof *content, &fd, fd >= 0, MSG_DONTWAIT);
}

/* Workers that have all parts now. */
static void grant_claims(struct dispatcher *dispatcher, struct claims *claims)
{
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        struct worker *worker = &dispatcher->workers[i];
        if (!worker->pid || !worker->is_claiming || !worker->channel)
            continue;
        pid_t target = worker->channel->terms.pid;
        if (is_in_use(dispatcher, target, false)) {
            claim(claims, target);
            continue;
        }
        worker->is_claiming = false;
        worker->target = target;
        worker->stops_target = true;
        answer(worker, &(struct answer){.result = 0}, -EBADF);
    }
}

static struct worker *idle_worker(struct dispatcher *dispatcher, const struct channel *channel)
{
    size_t count = 0;
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        struct worker *worker = &dispatcher->workers[i];
        if (worker->pid && !worker->is_busy && !worker->is_lost && !worker->is_retired)
            return worker;
        count += worker->pid != 0;
    }
    /* Tidying up can wait until one is free. */
    return channel->is_discarded && count >= IDLE_WORKERS_MAX ? NULL : start_worker(dispatcher);
}

static void give(struct dispatcher *dispatcher, struct worker *worker, struct channel *channel)
{
    struct job job = {.is_session = channel->is_session,
                      .is_discarded = channel->is_discarded,
                      .terms = channel->terms};
    const int fds[] = {channel->socket, channel->pidfd};
    worker->is_busy = true;
    worker->channel = channel;
    worker->owner = channel->terms.owner;
    worker->since_ns = now_ns();
    worker->limit_ns = limit_of(channel->head.operation);
    worker->is_claiming = false;
    worker->stops_target = stops_at_once(channel);
    worker->target = worker->stops_target || looks(channel) ? channel->terms.pid : 0;
    int r = packet_send(worker->socket, &job, sizeof job, fds, channel->pidfd >= 0 ? 2 : 1, MSG_DONTWAIT);
    if (r < 0) {
        kill(worker->pid, SIGKILL);
        let_go(worker);
        give_up_channel(dispatcher, worker, r,
                        "core's worker cannot be given this operation; the session is closed");
    } else if (channel->is_discarded) {
        worker->channel = NULL;
        channel_close(dispatcher, channel); /* the worker's copy is the last */
    }
}

void pool_dispatch(struct dispatcher *dispatcher)
{
    struct channel **place = &dispatcher->first_waiting;
    struct claims claims = {.count = 0};
    uid_t without_share = NOBODY; /* who was found to have none: of many who wait, it is mostly the same */
    grant_claims(dispatcher, &claims);
    while (*place) {
        struct channel *channel = *place;
        uid_t owner = channel->terms.owner;
        struct worker *worker = NULL;
        if (owner != without_share && !has_share(dispatcher, owner))
            without_share = owner;
        if (owner != without_share && !must_wait(dispatcher, channel, &claims))
            worker = idle_worker(dispatcher, channel);
        if (!worker) {
            if (stops_at_once(channel))
                claim(&claims, channel->terms.pid);
            place = &channel->next_waiting;
            continue;
        }
        *place = channel->next_waiting;
        if (!*place)
            dispatcher->last_waiting = place;
        give(dispatcher, worker, channel);
    }
    dispatcher->last_waiting = place;
}

/* ---- hearing from them ---- */

static int make_session(struct dispatcher *dispatcher, const struct terms *terms, int *pidfd, int *ret_end)
{
    int ends[2];
    uint64_t cookie;
    socklen_t length = sizeof cookie;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    _cleanup_close_ int client = ends[1];
    static const int on = 1;
    /* Each message is to say whose it is: see sender.c. */
    if (setsockopt(ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0 ||
        getsockopt(client, SOL_SOCKET, SO_COOKIE, &cookie, &length) < 0) {
        close(ends[0]);
        return -errno;
    }
    struct channel *channel = channel_add(dispatcher, ends[0], terms->owner, true);
    if (!channel)
        return -ENOMEM;
    channel->terms = *terms;
    channel->cookie = cookie;
    channel->pidfd = TAKE_FD(*pidfd);
    *ret_end = TAKE_FD(client);
    return 0;
}

static void answer_make(struct dispatcher *dispatcher, struct worker *worker, const struct report *report,
                        int *pidfd)
{
    const uint64_t *count = user_count_of(dispatcher, report->terms.owner, true);
    struct answer reply = {.limit = dispatcher->configuration.sessions};
    _cleanup_close_ int end = -EBADF;
    if (!count || *pidfd < 0)
        reply.result = count ? -EBADF : -ENOMEM;
    else if (*count >= dispatcher->configuration.sessions)
        reply.result = -EDQUOT;
    else
        reply.result = make_session(dispatcher, &report->terms, pidfd, &end);
    answer(worker, &reply, end);
}

static void answer_find(struct dispatcher *dispatcher, struct worker *worker, const struct report *report)
{
    const struct channel *channel = channel_find(dispatcher, report->cookie);
    struct answer reply = {.result = channel ? 0 : -ENOENT};
    if (channel)
        reply.terms = channel->terms;
    answer(worker, &reply, channel ? channel->pidfd : -EBADF);
}

static void take_back(struct dispatcher *dispatcher, struct worker *worker, bool is_closed)
{
    struct channel *channel = TAKE_PTR(worker->channel);
    worker->is_busy = worker->is_claiming = false;
    worker->since_ns = now_ns();
    worker->target = 0;
    if (channel && is_closed)
        channel_discard(dispatcher, channel);
    else if (channel)
        channel_rearm(dispatcher, channel);
    if (worker->is_retired)
        let_go(worker);
}

void pool_hear(struct dispatcher *dispatcher, struct worker *worker)
{
    static struct packet packet;
    struct report report;
    if (!worker->pid || worker->socket < 0)
        return;
    int r = packet_receive(worker->socket, &packet, MSG_DONTWAIT);
    if (r == -EAGAIN)
        return;
    if (r <= 0 || packet.length != sizeof report) {
        kill(worker->pid, SIGKILL); /* it ends, and SIGCHLD says the rest */
        let_go(worker);
        return;
    }
    memcpy(&report, packet.bytes, sizeof report);
    int fd = packet.cap_count ? packet_take(&packet, 0) : -EBADF;
    switch (report.kind) {
    case REPORT_DONE:
        take_back(dispatcher, worker, report.is_closed);
        break;
    case REPORT_MAKE:
        answer_make(dispatcher, worker, &report, &fd);
        break;
    case REPORT_CLAIM:
        worker->is_claiming = true; /* granted in this round, or a later one */
        break;
    case REPORT_FIND:
        answer_find(dispatcher, worker, &report);
        break;
    }
    base_close(&fd);
    packet_end(&packet);
}

/* ---- time ---- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

int pool_look_after(struct dispatcher *dispatcher)
{
    uint64_t now = now_ns(), next = now + 60000000000U;
    size_t idle = 0;
    for (size_t i = 0; i < dispatcher->worker_count; i++) {
        struct worker *worker = &dispatcher->workers[i];
        if (!worker->pid || worker->is_lost)
            continue;
        if (worker->is_busy && now - worker->since_ns >= worker->limit_ns) {
            kill(worker->pid, SIGKILL);
            let_go(worker);
            give_up_channel(dispatcher, worker, -ETIMEDOUT,
                            "the operation took too long, and was given up; the session is closed");
        } else if (worker->is_busy) {
            next = earlier(next, worker->since_ns + worker->limit_ns);
        } else if (++idle > IDLE_WORKERS_MAX && now - worker->since_ns >= IDLE_NS) {
            let_go(worker);
        } else if (idle > IDLE_WORKERS_MAX) {
            next = earlier(next, worker->since_ns + IDLE_NS);
        }
    }
    return (int)((next - now) / 1000000U) + 1;
}
