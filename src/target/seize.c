/* Seizing, stopping and letting go of all threads of a process.
 *
 * Seizing does not stop a thread, so it is done first for all; the pause begins with the first
 * PTRACE_INTERRUPT. A thread that was seized can be created a sibling any time before it stops, so the list
 * is read again until nothing new appears. See ptrace(2), and proc_pid_task(5) for the kernel's own workers,
 * which must never be seized. */
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

/* Debian 12's headers have these as enumerators of another name or not at all. */
#define EVENT_STOP                       128 /* PTRACE_EVENT_STOP */
#define SET_SYSCALL_USER_DISPATCH_CONFIG 0x4210
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211

/* PF_IO_WORKER and PF_USER_WORKER, include/linux/sched.h: io_uring's and vhost's threads. */
#define KERNEL_WORKER_FLAGS 0x4010

#define YIELD_NS            300000 /* how long to wait by yielding before sleeping */
#define SLEEP_NS            100000

static long trace(int request, pid_t tid, uint64_t address, uint64_t data)
{
    long r = ptrace((enum __ptrace_request)request, tid, address, data);
    return r < 0 ? -errno : r;
}

int target_open(pid_t pid, struct target *ret_target, struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = sys_pidfd_open(pid);
    if (pidfd < 0)
        return error_errno(ret_error, pidfd, "opening process %d", pid);
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (proc_fd < 0)
        return error_errno(ret_error, proc_fd, "opening /proc/%d", pid);
    *ret_target = TARGET_NONE;
    ret_target->pid = pid;
    ret_target->ns_pid = pid;
    ret_target->report_signal = SIGURG;
    ret_target->pidfd = TAKE_FD(pidfd);
    ret_target->proc_fd = TAKE_FD(proc_fd);
    return 0;
}

struct target_thread *target_add_thread(struct target *target, pid_t tid)
{
    struct target_thread *thread = array_append(target->threads, target->thread_count);
    if (thread) {
        thread->tid = tid;
        thread->ns_tid = tid;
    }
    return thread;
}

static struct target_thread *find_thread(struct target *target, pid_t tid)
{
    for (size_t i = 0; i < target->thread_count; i++)
        if (target->threads[i].tid == tid)
            return &target->threads[i];
    return NULL;
}

static bool is_kernel_worker(struct target *target, pid_t tid)
{
    char path[32];
    snprintf(path, sizeof path, "task/%d", tid);
    _cleanup_close_ int task_fd = openat(target->proc_fd, path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    struct proc_stat stat;
    return task_fd >= 0 && proc_stat_read(task_fd, &stat) == 0 && (stat.flags & KERNEL_WORKER_FLAGS);
}

/* The number of a thread in its own PID namespace; only looked up if the process lives in another one than
 * ours. */
static pid_t innermost_tid(struct target *target, pid_t tid)
{
    char path[48];
    snprintf(path, sizeof path, "task/%d/status", tid);
    _cleanup_free_ char *status = NULL;
    uint32_t levels[32];
    if (file_read(target->proc_fd, path, &status, NULL) < 0)
        return tid;
    size_t count = status_ns_pids(status, levels, COUNT_OF(levels));
    return count ? (pid_t)levels[count - 1] : tid;
}

static int seize_thread(struct target *target, pid_t tid, struct reseat_error **ret_error)
{
    long r = trace(PTRACE_SEIZE, tid, 0, target->trace_options);
    if (r == -ESRCH)
        return 0; /* it ended meanwhile */
    if (r == -EPERM) {
        /* The kernel says the same for a thread that is exiting and for one that is not ours. */
        struct proc_stat stat;
        if (proc_stat_of(tid, &stat) < 0 || stat.state == 'Z' || stat.state == 'X')
            return 0;
    }
    if (r < 0)
        return error_errno(ret_error, (int)r, "seizing thread %d of process %d", tid, target->pid);
    struct target_thread *thread = target_add_thread(target, tid);
    if (!thread) {
        trace(PTRACE_DETACH, tid, 0, 0);
        return error_errno(ret_error, -ENOMEM, "seizing thread %d", tid);
    }
    thread->is_traced = true;
    if (target->ns_pid != target->pid)
        thread->ns_tid = innermost_tid(target, tid);
    return 1;
}

/* Seizes every thread that is not seized yet; returns how many. */
static int seize_new_threads(struct target *target, struct reseat_error **ret_error)
{
    _cleanup_free_ int *tids = NULL;
    size_t count;
    int r = proc_list_numbers(target->proc_fd, "task", &tids, &count);
    if (r < 0)
        return error_errno(ret_error, r == -ENOENT ? -ESRCH : r, "listing the threads of process %d",
                           target->pid);
    int seized = 0;
    for (size_t i = 0; i < count; i++) {
        if (find_thread(target, tids[i]) || is_kernel_worker(target, tids[i]))
            continue;
        r = seize_thread(target, tids[i], ret_error);
        if (r < 0)
            return r;
        seized += r;
    }
    return seized;
}

/* PTRACE_O_SUSPEND_SECCOMP takes CAP_SYS_ADMIN, and a tracer that has no filter of its own. */
static bool may_suspend_filters(void)
{
    _cleanup_free_ char *status = NULL;
    return file_read(AT_FDCWD, "/proc/thread-self/status", &status, NULL) == 0 &&
           (status_number(status, "CapEff", 16) >> CAP_SYS_ADMIN & 1) &&
           status_number(status, "Seccomp", 10) == 0;
}

static unsigned filter_options(const char *status)
{
    return status_number(status, "Seccomp", 10) && may_suspend_filters() ? PTRACE_O_SUSPEND_SECCOMP : 0;
}

/* A report signal must not be waiting already, or ours would merge with it; one that has a handler would run
 * it if we die at the wrong moment, which is harmless but avoidable. */
static int choose_report_signal(const char *status)
{
    uint64_t pending = status_number(status, "SigPnd", 16) | status_number(status, "ShdPnd", 16);
    uint64_t caught = status_number(status, "SigCgt", 16);
    static const int candidates[] = {SIGURG, SIGWINCH, SIGCHLD};
    for (int may_be_caught = 0; may_be_caught < 2; may_be_caught++) {
        for (size_t i = 0; i < COUNT_OF(candidates); i++) {
            uint64_t bit = UINT64_C(1) << (candidates[i] - 1);
            if (!(pending & bit) && (may_be_caught || !(caught & bit)))
                return candidates[i];
        }
    }
    return SIGURG;
}

int target_seize(pid_t pid, struct target *ret_target, struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    int r = target_open(pid, &target, ret_error);
    if (r < 0)
        return r;

    _cleanup_free_ char *status = NULL;
    r = file_read(target.proc_fd, "status", &status, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "reading the status of process %d", pid);
    uint32_t levels[32];
    size_t level_count = status_ns_pids(status, levels, COUNT_OF(levels));
    if (level_count)
        target.ns_pid = (pid_t)levels[level_count - 1];
    target.report_signal = choose_report_signal(status);
    target.report_is_caught = status_number(status, "SigCgt", 16) >> (target.report_signal - 1) & 1;
    target.trace_options = PTRACE_O_TRACESYSGOOD | filter_options(status);

    r = seize_thread(&target, pid,
                     ret_error); /* the leader is the first, even if others have lower numbers */
    if (r >= 0)
        r = seize_new_threads(&target, ret_error);
    if (r < 0)
        return r;
    if (!target.thread_count || target.threads[0].tid != pid)
        return error_set(ret_error, -ESRCH, "process %d has ended, or its main thread has", pid);
    target.mem_fd = openat(target.proc_fd, "mem", O_RDWR | O_CLOEXEC);
    if (target.mem_fd < 0)
        return error_errno(ret_error, -errno, "opening the memory of process %d", pid);
    target_find_stub_place(&target);
    *ret_target = target;
    target = TARGET_NONE;
    return 0;
}

int target_wait_stop(pid_t tid, uint64_t timeout_ns, int *ret_status)
{
    uint64_t start_ns = now_ns();
    for (;;) {
        int status;
        pid_t r = waitpid(tid, &status, __WALL | WNOHANG);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return -ESRCH;
        if (r == tid) {
            if (!WIFSTOPPED(status))
                return -ESRCH;
            *ret_status = status;
            return 0;
        }
        uint64_t waited_ns = now_ns() - start_ns;
        if (waited_ns > timeout_ns)
            return -ETIMEDOUT;
        if (waited_ns < YIELD_NS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    }
}

int target_get_regs(pid_t tid, uint64_t regs[ARCH_REGS_WORDS])
{
    struct iovec vector = {regs, arch_regs_bytes};
    return (int)trace(PTRACE_GETREGSET, tid, 1 /* NT_PRSTATUS */, (uint64_t)&vector);
}

int target_set_regs(pid_t tid, const uint64_t regs[ARCH_REGS_WORDS])
{
    struct iovec vector = {(void *)regs, arch_regs_bytes};
    return (int)trace(PTRACE_SETREGSET, tid, 1, (uint64_t)&vector);
}

int target_set_signal_mask(pid_t tid, uint64_t mask)
{
    return (int)trace(PTRACE_SETSIGMASK, tid, sizeof mask, (uint64_t)&mask);
}

/* Says where a thread hangs that does not stop. */
static int report_unstoppable(struct target *target, pid_t tid, struct reseat_error **ret_error)
{
    char path[48];
    snprintf(path, sizeof path, "task/%d/wchan", tid);
    _cleanup_free_ char *where = NULL;
    if (file_read(target->proc_fd, path, &where, NULL) < 0)
        where = NULL;
    struct proc_stat stat = {.state = '?'};
    proc_stat_of(tid, &stat);
    return error_set(
        ret_error, -ETIMEDOUT,
        "thread %d of process %d does not stop (state %c, waits in %s): it may be in a vfork(2) or in "
        "an uninterruptible wait; try again when that is over",
        tid, target->pid, stat.state, where && *where ? where : "an unknown place");
}

/* Waits until the thread stands in the stop that we asked for. A signal that was on its way is delivered
 * first: the stop then finds the thread at the first instruction of the handler. */
static int wait_interrupted(struct target *target, struct target_thread *thread,
                            struct reseat_error **ret_error)
{
    for (;;) {
        int status;
        int r = target_wait_stop(thread->tid, TARGET_STOP_TIMEOUT_NS, &status);
        if (r == -ETIMEDOUT)
            return report_unstoppable(target, thread->tid, ret_error);
        if (r < 0) {
            thread->is_traced = false;
            return r;
        }
        if (status >> 16 == EVENT_STOP) {
            thread->is_stopped = true;
            return 0;
        }
        int signal = status >> 16 ? 0 : WSTOPSIG(status);
        if (trace(PTRACE_CONT, thread->tid, 0, (uint64_t)signal) < 0)
            return -ESRCH;
    }
}

int target_move_thread(struct target_thread *thread, const uint64_t regs[ARCH_REGS_WORDS], int report_signal)
{
    /* A dispatched thread cannot make system calls for us. */
    if (thread->dispatch.mode) {
        struct dispatch_config off = {0};
        trace(SET_SYSCALL_USER_DISPATCH_CONFIG, thread->tid, sizeof off, (uint64_t)&off);
    }
    /* Registers first, then the mask: from where they point the thread puts its mask back by itself. */
    int r = target_set_regs(thread->tid, regs);
    thread->is_moved = true;
    return r < 0 ? r : target_set_signal_mask(thread->tid, program_signal_mask(report_signal));
}

int target_set_options(struct target *target, pid_t tid, unsigned options)
{
    return (int)trace(PTRACE_SETOPTIONS, tid, 0, options | target->trace_options);
}

int target_interrupt(struct target *target, struct target_thread *thread, struct reseat_error **ret_error)
{
    trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
    return wait_interrupted(target, thread, ret_error);
}

int target_set_xstate(pid_t tid, const void *xstate, size_t length)
{
    struct iovec vector = {(void *)xstate, length};
    return (int)trace(PTRACE_SETREGSET, tid, arch_xstate_note, (uint64_t)&vector);
}

int target_seize_thread(struct target *target, pid_t tid, struct reseat_error **ret_error)
{
    int r = seize_thread(target, tid, ret_error);
    if (r == 0)
        r = error_set(ret_error, -ESRCH, "thread %d of process %d has ended", tid, target->pid);
    return r < 0 ? r : 0;
}

static int read_state(struct target_thread *thread)
{
    int r = target_get_regs(thread->tid, thread->regs);
    if (r < 0)
        return r;
    /* Written back at once, so that the call is made again even if we die before we let the thread go. */
    if (arch_make_restartable(thread->regs))
        target_set_regs(thread->tid, thread->regs);
    /* Linux 6.4; before, nobody can tell, and it stays as it is. */
    if (trace(GET_SYSCALL_USER_DISPATCH_CONFIG, thread->tid, sizeof thread->dispatch,
              (uint64_t)&thread->dispatch) < 0)
        thread->dispatch = (struct dispatch_config){0};
    return (int)trace(PTRACE_GETSIGMASK, thread->tid, sizeof thread->signal_mask,
                      (uint64_t)&thread->signal_mask);
}

static int stop_threads_from(struct target *target, size_t first, struct reseat_error **ret_error)
{
    for (size_t i = first; i < target->thread_count; i++)
        trace(PTRACE_INTERRUPT, target->threads[i].tid, 0, 0);
    for (size_t i = first; i < target->thread_count; i++) {
        struct target_thread *thread = &target->threads[i];
        int r = wait_interrupted(target, thread, ret_error);
        if (r == -ESRCH)
            continue; /* it ended; dropped below */
        if (r < 0)
            return r;
        r = read_state(thread);
        if (r < 0)
            return error_errno(ret_error, r, "reading the registers of thread %d", thread->tid);
        if (!arch_is_supported(thread->regs))
            return error_set(ret_error, -ENOEXEC, "thread %d of process %d runs 32-bit code: not supported",
                             thread->tid, target->pid);
    }
    size_t kept = first;
    for (size_t i = first; i < target->thread_count; i++)
        if (target->threads[i].is_traced)
            target->threads[kept++] = target->threads[i];
    target->thread_count = kept;
    return 0;
}

int target_seize_leader(pid_t pid, struct target *ret_target, struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    int r = target_open(pid, &target, ret_error);
    if (r < 0)
        return r;
    target.trace_options = PTRACE_O_TRACESYSGOOD | (may_suspend_filters() ? PTRACE_O_SUSPEND_SECCOMP : 0);
    r = target_seize_thread(&target, pid, ret_error);
    if (r < 0)
        return r;
    target.mem_fd = openat(target.proc_fd, "mem", O_RDWR | O_CLOEXEC);
    if (target.mem_fd < 0)
        return error_errno(ret_error, -errno, "opening the memory of process %d", pid);
    r = stop_threads_from(&target, 0, ret_error);
    if (r == 0 && !target.thread_count)
        r = error_set(ret_error, -ESRCH, "process %d has ended", pid);
    if (r < 0)
        return r;
    *ret_target = target;
    target = TARGET_NONE;
    return 0;
}

int target_stop(struct target *target, struct reseat_error **ret_error)
{
    target->stop_ns = now_ns();
    size_t first = 0;
    for (;;) {
        int r = stop_threads_from(target, first, ret_error);
        if (r < 0)
            return r;
        first = target->thread_count;
        r = seize_new_threads(target, ret_error);
        if (r < 0)
            return r;
        if (r == 0)
            break;
    }
    if (!target->thread_count || target->threads[0].tid != target->pid)
        return error_set(ret_error, -ESRCH,
                         "process %d ended, or executed another program, while it was being stopped",
                         target->pid);
    return 0;
}

void target_thread_restore(struct target_thread *thread)
{
    /* First the mask: if we die between the two, the way back that the thread is on sets the same mask again.
     */
    if (thread->is_moved)
        target_set_signal_mask(thread->tid, thread->signal_mask);
    target_set_regs(thread->tid, thread->regs);
    if (thread->is_moved && thread->dispatch.mode)
        trace(SET_SYSCALL_USER_DISPATCH_CONFIG, thread->tid, sizeof thread->dispatch,
              (uint64_t)&thread->dispatch);
    thread->is_moved = false;
}

int target_thread_release(struct target *target, struct target_thread *thread)
{
    if (!thread->is_traced)
        return 0;
    if (thread->held_signal)
        syscall(SYS_tgkill, target->pid, thread->tid, thread->held_signal);
    if (thread->is_stopped)
        target_thread_restore(thread);
    thread->is_stopped = false;
    thread->is_traced = false;
    return (int)trace(PTRACE_DETACH, thread->tid, 0, 0);
}

/* A thread that does not stand still cannot be let go: it is stopped once more. */
static void stop_for_release(struct target_thread *thread)
{
    int status;
    if (!thread->is_traced || thread->is_stopped)
        return;
    trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
    if (target_wait_stop(thread->tid, TARGET_STOP_TIMEOUT_NS, &status) < 0)
        return;
    if (thread->is_moved) {
        thread->is_stopped = true;
        return;
    }
    int signal = status >> 16 ? 0 : WSTOPSIG(status);
    uint64_t regs[ARCH_REGS_WORDS] = {0};
    if (target_get_regs(thread->tid, regs) == 0 && arch_make_restartable(regs))
        target_set_regs(thread->tid, regs);
    trace(PTRACE_DETACH, thread->tid, 0, (uint64_t)signal);
    thread->is_traced = false;
}

void target_abandon_thread(struct target *target, struct target_thread *thread)
{
    int status;
    target->keeps_scratch = true;
    if (!thread->is_traced)
        return;
    if (!thread->is_stopped) {
        trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
        target_wait_stop(thread->tid, TARGET_STOP_TIMEOUT_NS, &status);
    }
    trace(PTRACE_DETACH, thread->tid, 0, 0);
    thread->is_stopped = false;
    thread->is_traced = false;
}

/* Threads whose program did something that must not last stand at a report behind which it is undone. */
static void undo_programs(struct target *target)
{
    for (size_t i = 0; i < target->thread_count; i++) {
        struct target_thread *thread = &target->threads[i];
        struct program undo = {.stop_sp = thread->undo_stop};
        if (thread->undo_stop && thread->is_stopped && program_continue(target, thread, NULL) == 0)
            program_await(target, thread, &undo, NULL);
        thread->undo_stop = 0;
    }
}

void target_let_go(struct target *target)
{
    undo_programs(target);
    for (size_t i = 0; i < target->thread_count; i++)
        stop_for_release(&target->threads[i]);
    /* The leader goes last: it alone can unmap the scratch pages, on which the others may still stand. */
    for (size_t i = target->thread_count; i-- > 1;)
        target_thread_release(target, &target->threads[i]);
    if (target->thread_count) {
        if (target->threads[0].is_traced && target->threads[0].is_stopped && !target->keeps_scratch)
            target_unmap_scratch(target, NULL);
        target_thread_release(target, &target->threads[0]);
    }
    target->go_ns = now_ns();
    target->thread_count = 0;
}

void target_release(struct target *target)
{
    target_let_go(target);
    base_close(&target->pidfd);
    base_close(&target->proc_fd);
    base_close(&target->mem_fd);
    free(target->scratch.mirror);
    free(target->births);
    free(target->threads);
    *target = TARGET_NONE;
}

void target_reap(struct target *target)
{
    /* The leader's death is reported only after all other threads are gone. */
    for (size_t i = target->thread_count; i-- > 0;) {
        struct target_thread *thread = &target->threads[i];
        while (thread->is_traced && waitpid(thread->tid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        thread->is_traced = false;
    }
    target->thread_count = 0;
}

int target_read(struct target *target, uint64_t address, void *data, size_t length)
{
    /* Cheaper than /proc/PID/mem, but it respects protections. */
    struct iovec here = {data, length}, there = {(void *)address, length};
    if (process_vm_readv(target->pid, &here, 1, &there, 1, 0) == (ssize_t)length)
        return 0;
    ssize_t n = pread(target->mem_fd, data, length, (off_t)address);
    return n == (ssize_t)length ? 0 : n < 0 ? -errno : -EFAULT;
}

int target_write(struct target *target, uint64_t address, const void *data, size_t length)
{
    ssize_t n = pwrite(target->mem_fd, data, length, (off_t)address);
    return n == (ssize_t)length ? 0 : n < 0 ? -errno : -EFAULT;
}
