/* pidfds and namespaces in a durable image. A pidfd on the process itself is made when the restored process
 * is there; one on another process is opened again if that still runs, which its start time tells; one on a
 * process that has ended is a pidfd on a process that has ended. A namespace is opened again if some process
 * still lives in it. See pidfd_open(2), namespaces(7). */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- pidfd ---- */

enum pidfd_flags {
    PIDFD_ITSELF = 1 << 0,
    PIDFD_ENDED = 1 << 1,
};

struct pidfd_state {
    uint32_t flags;
    uint32_t pid;
    uint64_t start_time; /* clock ticks since boot; with the PID it names a process for good */
};

static bool is_thread_of(pid_t pid, pid_t tid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d", pid, tid);
    return access(path, F_OK) == 0;
}

static int capture_pidfd(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    const char *value = status_find(capture->sight->info, "Pid");
    long pid = value ? strtol(value, NULL, 10) : -1;
    pid_t target = capture_target(capture);
    struct proc_stat stat = {0};
    struct pidfd_state state = {0};
    if (pid == target)
        state.flags = PIDFD_ITSELF;
    else if (pid <= 0 || proc_stat_of((pid_t)pid, &stat) < 0)
        state.flags = PIDFD_ENDED;
    state.pid = pid > 0 ? (uint32_t)pid : 0;
    state.start_time = stat.start_time;
    int r = state_add(capture, &state, sizeof state);
    if (r == 0 && pid == 0)
        r = capture_lost(capture, "it is a pidfd on a process of another PID namespace");
    if (r == 0 && pid > 0 && pid != target && is_thread_of(target, (pid_t)pid))
        r = capture_lost(capture, "it is a pidfd on a single thread of the process itself");
    return r;
}

static bool is_running(const struct pidfd_state *state)
{
    struct proc_stat stat;
    return !(state->flags & PIDFD_ENDED) && proc_stat_of((pid_t)state->pid, &stat) == 0 &&
           stat.start_time == state->start_time;
}

static int open_pidfd(pid_t pid, unsigned flags)
{
    /* O_NONBLOCK is PIDFD_NONBLOCK, O_EXCL is PIDFD_THREAD (Linux 6.9). */
    long fd = syscall(SYS_pidfd_open, pid, flags & (O_NONBLOCK | O_EXCL));
    return fd < 0 ? -errno : (int)fd;
}

static struct pidfd_state pidfd_state_of(const struct object_view *view)
{
    struct pidfd_state state;
    view_read(view, &state, sizeof state);
    return state;
}

static int put_pidfd(struct object_making *making, const struct object_view *view, pid_t pid)
{
    int fd = open_pidfd(pid, view->row->status_flags);
    if (fd < 0)
        return fd;
    making_put(making, view_id(view), fd);
    return 0;
}

/* All on the same ended process, which the inode tells (pidfs, Linux 6.9; before, all pidfds have one): on a
 * child that ends and is waited for. */
static int put_ended(struct object_making *making, const struct object_view *view)
{
    struct pidfd_state state = pidfd_state_of(view);
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        syscall(SYS_exit_group, 0);
    int r = pid < 0 ? -errno : 0;
    for (object_id_t id = 0; r == 0 && (id = view_next_of_inode(view, id));) {
        struct object_view one = view_of(making->snapshot, id);
        struct pidfd_state other = pidfd_state_of(&one);
        if (memcmp(&other, &state, sizeof state) == 0 && !making_has(making, id) &&
            !object_is_unwanted(making->options, id))
            r = put_pidfd(making, &one, pid);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return r;
}

static int recreate_pidfd(struct object_making *making, const struct object_view *view,
                          struct reseat_error **ret_error)
{
    (void)ret_error;
    struct pidfd_state state = pidfd_state_of(view);
    if (state.flags & PIDFD_ITSELF)
        return 0; /* late */
    return is_running(&state) ? put_pidfd(making, view, (pid_t)state.pid) : put_ended(making, view);
}

static bool is_on_itself(const struct object_view *view)
{
    return pidfd_state_of(view).flags & PIDFD_ITSELF;
}

static int make_pidfd_late(const struct object_view *view, pid_t pid, native_cap_t *ret_cap,
                           struct reseat_error **ret_error)
{
    int fd = open_pidfd(pid, view->row->status_flags);
    if (fd < 0)
        return error_errno(ret_error, fd, "opening a pidfd on process %d", pid);
    *ret_cap = fd;
    return 0;
}

const struct object_durable pidfd_durable = {
    .state_bytes = sizeof(struct pidfd_state),
    .capture = capture_pidfd,
    .recreate = recreate_pidfd,
    .late = make_pidfd_late,
    .needs_process = is_on_itself,
};

/* ---- namespaces ---- */

struct namespace_state {
    char type[8]; /* "net" */
};

static int capture_namespace(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct namespace_state state = {0};
    snprintf(state.type, sizeof state.type, "%.*s", (int)strcspn(capture->sight->link, ":"),
             capture->sight->link);
    return state_add(capture, &state, sizeof state);
}

static int check_namespace(const struct object_view *view, struct reseat_error **ret_error)
{
    static const char *const types[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
    struct namespace_state state;
    view_read(view, &state, sizeof state);
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (strncmp(state.type, types[i], sizeof state.type) == 0)
            return 0;
    return view_bad(view, ret_error, "no type of namespace");
}

static int open_if_same(const struct object_view *view, const char *path)
{
    struct stat stat;
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &stat) < 0 || stat.st_ino != view->row->inode)
        return -ENOENT;
    return TAKE_FD(fd);
}

static int find_namespace(const struct object_view *view)
{
    struct namespace_state state;
    view_read(view, &state, sizeof state);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/ns/%.7s", state.type);
    int fd = open_if_same(view, path);
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t count = 0;
    if (fd >= 0 || proc_fd < 0 || proc_list_numbers(proc_fd, "", &pids, &count) < 0)
        return fd;
    for (size_t i = 0; fd < 0 && i < count; i++) {
        snprintf(path, sizeof path, "/proc/%d/ns/%.7s", pids[i], state.type);
        fd = open_if_same(view, path);
    }
    return fd;
}

static int judge_namespace(const struct object_view *view, const struct object_options *options,
                           enum object_fate *ret_fate, char **ret_sentence)
{
    (void)options;
    _cleanup_close_ int fd = find_namespace(view);
    if (fd >= 0)
        return 0;
    *ret_fate = OBJECT_LOST;
    return describe_as(ret_sentence, "no process that we may look at lives in that namespace any more");
}

static int recreate_namespace(struct object_making *making, const struct object_view *view,
                              struct reseat_error **ret_error)
{
    (void)ret_error;
    int fd = find_namespace(view);
    if (fd < 0)
        return fd;
    making_put(making, view_id(view), fd);
    return 0;
}

const struct object_durable namespace_durable = {
    .state_bytes = sizeof(struct namespace_state),
    .capture = capture_namespace,
    .check = check_namespace,
    .judge = judge_namespace,
    .recreate = recreate_namespace,
};
