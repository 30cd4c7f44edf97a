/* What a process in our hands clones while PTRACE_O_TRACECLONE is set: traced from birth, in its first stop.
 * See ptrace(2). */
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ptrace.h>

int target_take_birth(struct target *parent, struct target *ret_child, struct reseat_error **ret_error)
{
    if (parent->birth_count != 1)
        return error_set(ret_error, -ECHILD, "process %d did not clone the one process that it should have",
                         parent->pid);
    pid_t pid = parent->births[0];
    parent->birth_count = 0;
    _cleanup_(target_release) struct target child = TARGET_NONE;
    int status;
    int r = target_wait_stop(pid, TARGET_STOP_TIMEOUT_NS, &status);
    if (r < 0)
        return error_errno(ret_error, r, "waiting for the new process %d", pid);
    r = target_open(pid, &child, ret_error);
    if (r < 0)
        return r;
    struct target_thread *thread = target_add_thread(&child, pid);
    child.mem_fd = openat(child.proc_fd, "mem", O_RDWR | O_CLOEXEC);
    if (!thread || child.mem_fd < 0)
        return error_errno(ret_error, thread ? -errno : -ENOMEM, "opening the memory of the new process %d",
                           pid);
    thread->is_traced = true;
    thread->is_stopped = true;
    child.trace_options = parent->trace_options;
    child.report_signal = parent->report_signal;
    r = target_set_options(&child, pid, PTRACE_O_EXITKILL);
    if (r == 0)
        r = target_get_regs(pid, thread->regs);
    if (r < 0)
        return error_errno(ret_error, r, "taking over the new process %d", pid);
    *ret_child = child;
    child = TARGET_NONE;
    return 0;
}
