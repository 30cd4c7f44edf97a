/* core_run(): sets everything up, and the dispatcher's loop.
 *
 * The loop does one small thing for each event, and never waits for anybody: accept, put into the queue, give
 * to a worker, take back. See epoll_wait(2), signalfd(2), unix(7). */
#include "core/dispatcher.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define CONFIGURATION_PATH "/etc/reseat/core.conf"
#define BACKLOG            128
#define EVENTS             64
#define WORKER_PLACES      128
/* How long nobody is accepted when there are no descriptors left, if nothing else happens. */
#define PAUSE_MS 100
/* How long running operations are waited for at the end. */
#define END_TIMEOUT_NS 10000000000U

static int error_memory(struct reseat_error **ret_error)
{
    return error_errno(ret_error, -ENOMEM, "starting core");
}

/* ---- the sockets ---- */

static int add_listener(struct dispatcher *dispatcher, int socket, const char *path)
{
    struct listener *listener = array_append(dispatcher->listeners, dispatcher->listener_count);
    char *copy = path ? strdup(path) : NULL;
    if (!listener || (path && !copy)) {
        close(socket);
        return -ENOMEM;
    }
    *listener = (struct listener){socket, copy};
    return 0;
}

/* A socket that is left of a core that was killed may be replaced; one that somebody listens at may not. */
static int check_stale(const struct sockaddr_un *address, struct reseat_error **ret_error)
{
    struct stat status;
    if (lstat(address->sun_path, &status) < 0)
        return errno == ENOENT ? 0 : error_errno(ret_error, -errno, "%s", address->sun_path);
    if (!S_ISSOCK(status.st_mode))
        return error_set(ret_error, -EEXIST, "%s: is there, and is not a socket", address->sun_path);
    _cleanup_close_ int probe = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connect(probe, (const struct sockaddr *)address, sizeof *address) == 0 || errno != ECONNREFUSED)
        return error_set(ret_error, -EADDRINUSE, "%s: somebody listens there already", address->sun_path);
    return 0;
}

/* Under another name first, so that whoever finds the socket finds somebody listening. */
static int bind_and_listen(int fd, const struct sockaddr_un *address)
{
    struct sockaddr_un temporary = {.sun_family = AF_UNIX};
    int length =
        snprintf(temporary.sun_path, sizeof temporary.sun_path, "%s.%d", address->sun_path, getpid());
    bool is_direct = (size_t)length >= sizeof temporary.sun_path;
    const struct sockaddr_un *at = is_direct ? address : &temporary;
    if (unlink(at->sun_path) < 0 && errno != ENOENT)
        return -errno;
    mode_t mask = umask(geteuid() == 0 ? 0111 : 0177);
    int r = bind(fd, (const struct sockaddr *)at, sizeof *at) < 0 ? -errno : 0;
    umask(mask);
    if (r < 0)
        return r;
    if (listen(fd, BACKLOG) < 0 || (!is_direct && rename(at->sun_path, address->sun_path) < 0)) {
        r = -errno;
        unlink(at->sun_path);
    }
    return r;
}

/* Everybody may ask; what they get is another matter. A user's own core is for that user. */
static int listen_at(struct dispatcher *dispatcher, const char *path, struct reseat_error **ret_error)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return error_set(ret_error, -ENAMETOOLONG, "%s: a socket's path may have %zu bytes", path,
                         sizeof address.sun_path - 1);
    memcpy(address.sun_path, path, strlen(path) + 1);
    _cleanup_free_ char *copy = strdup(path);
    if (!copy)
        return error_memory(ret_error);
    if (mkdir(dirname(copy), 0755) < 0 && errno != EEXIST)
        return error_errno(ret_error, -errno, "making the directory of %s", path);
    int r = check_stale(&address, ret_error);
    if (r < 0)
        return r;
    _cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = fd < 0 ? -errno : bind_and_listen(fd, &address);
    if (r < 0)
        return error_errno(ret_error, r, "%s: making the socket", path);
    r = add_listener(dispatcher, TAKE_FD(fd), path);
    if (r < 0)
        unlink(path);
    return r < 0 ? error_memory(ret_error) : 0;
}

/* Sockets of a service manager: listening ones of the right kind, or it is a mistake in a unit. */
static int adopt(struct dispatcher *dispatcher, int fd, struct reseat_error **ret_error)
{
    int type = 0, listens = 0;
    socklen_t length = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0 || type != SOCK_SEQPACKET ||
        !listens)
        return error_set(
            ret_error, -EINVAL,
            "descriptor %d, passed by the service manager, is no listening SOCK_SEQPACKET socket "
            "(ListenSequentialPacket= makes one)",
            fd);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    return add_listener(dispatcher, fd, NULL) < 0 ? error_memory(ret_error) : 0;
}

static int make_listeners(struct dispatcher *dispatcher, const char *path, struct reseat_error **ret_error)
{
    int passed = systemd_listen_fds();
    if (passed < 0)
        return error_errno(ret_error, passed, "taking the sockets that LISTEN_FDS speaks of");
    int r = 0;
    for (int i = 0; i < passed && r == 0; i++)
        r = adopt(dispatcher, 3 + i, ret_error);
    if (passed > 0)
        return r;
    char usual[PACKET_PATH_BYTES];
    if (!path) {
        r = packet_usual_path(usual, true);
        if (r < 0)
            return error_set(ret_error, r,
                             "where is core to listen? XDG_RUNTIME_DIR is not set: give --socket");
        path = usual;
    }
    return listen_at(dispatcher, path, ret_error);
}

static void watch_listeners(struct dispatcher *dispatcher, bool watched)
{
    for (size_t i = 0; i < dispatcher->listener_count; i++) {
        struct listener *listener = &dispatcher->listeners[i];
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = listener};
        epoll_ctl(dispatcher->epoll, watched ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener->socket, &event);
    }
    dispatcher->is_paused = !watched;
}

/* ---- connections ---- */

static void refuse_connection(int socket, const char *sentence)
{
    struct channel channel = {.socket = socket};
    channel_refuse(&channel, -EDQUOT, sentence);
    close(socket);
}

static void accept_one(struct dispatcher *dispatcher, struct listener *listener)
{
    struct ucred peer;
    socklen_t length = sizeof peer;
    int fd = accept4(listener->socket, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0) {
        /* No descriptors left: whoever waits is accepted later. */
        if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
            watch_listeners(dispatcher, false);
        return;
    }
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
        close(fd);
        return;
    }
    const uint64_t *count = user_count_of(dispatcher, peer.uid, false);
    if (!count || *count >= dispatcher->configuration.connections)
        refuse_connection(fd, "this user has as many connections to core as one may have");
    else
        channel_add(dispatcher, fd, peer.uid, false);
}

/* ---- signals ---- */

static int take_signals(struct dispatcher *dispatcher, struct reseat_error **ret_error)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_DFL); /* whoever started us may have had it ignored */
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return error_errno(ret_error, -errno, "blocking signals");
    dispatcher->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return dispatcher->signals < 0 ? error_errno(ret_error, -errno, "asking for signals") : 0;
}

/* A file with a mistake changes nothing. */
static void reload(struct dispatcher *dispatcher)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    struct configuration configuration = {0};
    if (configuration_read(dispatcher->configuration_path, &configuration, &error) < 0) {
        fprintf(stderr, "reseat core: the configuration stays as it was: %s\n", error ? error->message : "?");
        return;
    }
    configuration.checkpoint_directory = dispatcher->configuration.checkpoint_directory;
    configuration_end(&dispatcher->configuration);
    dispatcher->configuration = configuration;
    pool_retire(dispatcher);
}

/* Returns whether it was one that ends us. */
static bool handle_signal(struct dispatcher *dispatcher)
{
    struct signalfd_siginfo info;
    if (read(dispatcher->signals, &info, sizeof info) != sizeof info)
        return false;
    if (info.ssi_signo == SIGCHLD)
        pool_collect(dispatcher);
    if (info.ssi_signo == SIGHUP)
        reload(dispatcher);
    return info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT;
}

/* ---- the loop ---- */

static struct listener *find_listener(struct dispatcher *dispatcher, const void *pointer)
{
    for (size_t i = 0; i < dispatcher->listener_count; i++)
        if (pointer == &dispatcher->listeners[i])
            return &dispatcher->listeners[i];
    return NULL;
}

static void handle_channel(struct dispatcher *dispatcher, struct channel *channel, uint32_t events)
{
    if (events & (EPOLLHUP | EPOLLERR))
        channel_discard(dispatcher, channel);
    else
        channel_ready(dispatcher, channel);
}

/* Returns whether it was a signal that ends us. */
static bool handle_event(struct dispatcher *dispatcher, const struct epoll_event *event)
{
    void *pointer = event->data.ptr;
    struct worker *worker = pool_find(dispatcher, pointer);
    struct listener *listener = find_listener(dispatcher, pointer);
    if (pointer == dispatcher)
        return handle_signal(dispatcher);
    if (worker)
        pool_hear(dispatcher, worker);
    else if (listener)
        accept_one(dispatcher, listener);
    else
        handle_channel(dispatcher, pointer, event->events);
    return false;
}

/* One round: what has happened, then what is to be given out. Returns whether it is the last. */
static bool run_round(struct dispatcher *dispatcher)
{
    struct epoll_event events[EVENTS];
    bool is_last = false;
    int timeout_ms = pool_look_after(dispatcher);
    if (dispatcher->is_paused) { /* there may be room again */
        watch_listeners(dispatcher, true);
        timeout_ms = timeout_ms < PAUSE_MS ? timeout_ms : PAUSE_MS;
    }
    int count = epoll_wait(dispatcher->epoll, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++)
        is_last |= handle_event(dispatcher, &events[i]);
    pool_dispatch(dispatcher);
    return is_last;
}

static void finish(struct dispatcher *dispatcher)
{
    uint64_t deadline_ns = now_ns() + END_TIMEOUT_NS;
    systemd_notify("STOPPING=1");
    if (!dispatcher->is_paused)
        watch_listeners(dispatcher, false);
    pool_retire(dispatcher);
    while (pool_busy(dispatcher) && now_ns() < deadline_ns) {
        struct epoll_event event;
        if (epoll_wait(dispatcher->epoll, &event, 1, 100) != 1)
            continue;
        struct worker *worker = pool_find(dispatcher, event.data.ptr);
        if (worker)
            pool_hear(dispatcher, worker);
        else if (event.data.ptr == dispatcher)
            handle_signal(dispatcher);
    }
}

static void end(struct dispatcher *dispatcher)
{
    for (size_t i = 0; i < dispatcher->worker_count; i++)
        base_close(&dispatcher->workers[i].socket);
    while (dispatcher->channels)
        channel_close(dispatcher, dispatcher->channels);
    for (size_t i = 0; i < dispatcher->listener_count; i++) {
        struct listener *listener = &dispatcher->listeners[i];
        if (listener->path)
            unlink(listener->path);
        free(listener->path);
        close(listener->socket);
    }
    free(dispatcher->listeners);
    free(dispatcher->workers);
    free(dispatcher->users);
    base_close(&dispatcher->epoll);
    base_close(&dispatcher->signals);
    configuration_end(&dispatcher->configuration);
    free(dispatcher->checkpoint_directory);
}

/* Root's in /run, a user's own where the user's sockets are. NULL: there is no such place. */
static const char *choose_checkpoint_directory(struct dispatcher *dispatcher,
                                               const struct core_options *options)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    if (options->checkpoint_directory)
        return options->checkpoint_directory;
    if (geteuid() == 0)
        return "/run/reseat/checkpoints";
    if (runtime && asprintf(&dispatcher->checkpoint_directory, "%s/reseat-checkpoints", runtime) < 0)
        dispatcher->checkpoint_directory = NULL;
    return dispatcher->checkpoint_directory;
}

static int set_up(struct dispatcher *dispatcher, const struct core_options *options,
                  struct reseat_error **ret_error)
{
    dispatcher->configuration_path = options->configuration_path;
    if (!dispatcher->configuration_path && access(CONFIGURATION_PATH, F_OK) == 0)
        dispatcher->configuration_path = CONFIGURATION_PATH;
    int r = configuration_read(dispatcher->configuration_path, &dispatcher->configuration, ret_error);
    dispatcher->configuration.checkpoint_directory = choose_checkpoint_directory(dispatcher, options);
    if (r == 0)
        r = take_signals(dispatcher, ret_error);
    if (r == 0)
        r = privileges_reduce(ret_error);
    if (r < 0)
        return r;
    dispatcher->workers = calloc(WORKER_PLACES, sizeof *dispatcher->workers);
    if (!dispatcher->workers)
        return error_memory(ret_error);
    dispatcher->worker_count = WORKER_PLACES;
    for (size_t i = 0; i < WORKER_PLACES; i++)
        dispatcher->workers[i].socket = -EBADF;
    dispatcher->epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = dispatcher};
    if (dispatcher->epoll < 0 || epoll_ctl(dispatcher->epoll, EPOLL_CTL_ADD, dispatcher->signals, &event) < 0)
        return error_errno(ret_error, -errno, "watching for events");
    r = make_listeners(dispatcher, options->socket_path, ret_error);
    if (r == 0)
        watch_listeners(dispatcher, true);
    return r;
}

int core_run(const struct core_options *options, struct reseat_error **ret_error)
{
    _cleanup_(end) struct dispatcher dispatcher = {.epoll = -EBADF,
                                                   .signals = -EBADF,
                                                   .is_verbose = options->verbose};
    dispatcher.last_waiting = &dispatcher.first_waiting;
    int r = set_up(&dispatcher, options, ret_error);
    if (r < 0)
        return r;
    systemd_notify("READY=1");
    while (!run_round(&dispatcher))
        ;
    finish(&dispatcher);
    return 0;
}
