/* Files below /proc/PID of another process, in a durable image (proc(5)). They are bound to a process, not to
 * a number, so the path alone could lead to somebody else's by now: the state has the start time, which with
 * the number names a process for good. Of one that has ended, files say ESRCH: so does one of a child that is
 * made for it, under the old number if that is free, and has ended. */
#include "object/kinds/file_durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

static const char prefix[] = "/proc/";

/* The number in "/proc/6/status"; *ret_rest: what is behind it, "/status". 0: it is none. */
static pid_t number_in(const char *path, const char **ret_rest)
{
    char *rest;
    if (!starts_with(path, prefix))
        return 0;
    long number = strtol(path + sizeof prefix - 1, &rest, 10);
    *ret_rest = rest;
    return number > 0 && number <= INT32_MAX && strchr("/ ", *rest) ? (pid_t)number : 0;
}

static bool is_proc(native_cap_t cap)
{
    struct statfs statfs;
    return fstatfs(cap, &statfs) == 0 && statfs.f_type == PROC_SUPER_MAGIC;
}

bool file_note_process(const struct object_capture *capture, struct file_state *state)
{
    const char *rest;
    struct proc_stat stat;
    pid_t number = number_in(capture->sight->link, &rest);
    if (!number || !is_proc(capture->cap))
        return false;
    bool is_running = !link_is_deleted(capture->sight) && proc_stat_of(number, &stat) == 0;
    state->flags = FILE_OF_PROCESS;
    state->modified_ns = is_running ? (int64_t)stat.start_time : 0;
    return true;
}

bool file_process_has_ended(const struct object_view *view)
{
    struct file_state state = file_state_of(view);
    struct proc_stat stat;
    const char *rest;
    pid_t number = state.flags & FILE_OF_PROCESS ? number_in(file_path_of(view), &rest) : 0;
    return number && (!state.modified_ns || proc_stat_of(number, &stat) < 0 ||
                      stat.start_time != (uint64_t)state.modified_ns);
}

/* Which files a child of ours has, too. */
bool file_process_can_be_made(const struct object_view *view)
{
    const char *rest = "";
    char path[PLACE_OWN_PATH_MAX];
    number_in(file_path_of(view), &rest);
    bool is_one_of_many = starts_with(rest, "/task/") || starts_with(rest, "/fd") ||
                          starts_with(rest, "/map_files/") || starts_with(rest, "/ns/");
    int length = snprintf(path, sizeof path, "/proc/self%s", rest);
    return !is_one_of_many && length < (int)sizeof path && faccessat(AT_FDCWD, path, F_OK, AT_EACCESS) == 0;
}

/* Sleeps until it is killed, or we end. */
static pid_t clone_child(pid_t number)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD, .set_tid = (uint64_t)&number, .set_tid_size = 1};
    pid_t parent = getpid();
    long pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid < 0) {
        arguments.set_tid = arguments.set_tid_size = 0;
        pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    }
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (getppid() == parent)
            pause();
        _exit(0);
    }
    return pid < 0 ? -errno : (pid_t)pid;
}

int file_make_of_ended(struct object_making *making, const struct object_view *view,
                       struct reseat_error **ret_error)
{
    const char *rest;
    char path[PLACE_OWN_PATH_MAX];
    pid_t pid = clone_child(number_in(file_path_of(view), &rest));
    if (pid < 0)
        return error_errno(ret_error, pid, "making a process that has ended");
    snprintf(path, sizeof path, "/proc/%d%s", pid, rest);
    _cleanup_close_ int place = open(path, O_PATH | O_CLOEXEC);
    int r = place < 0 ? error_errno(ret_error, -errno, "opening %s", path)
                      : file_put_again(making, view, place, ret_error);
    kill(pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    return r;
}
