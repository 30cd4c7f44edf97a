/* Seizing, stopping and letting go of all threads of a process.
 *
 * Seizing does not stop a thread, so it is done first for all; the pause begins with the first
 * PTRACE_INTERRUPT. A thread can create another any time before it stops, and end, and reading task/ may
 * leave out threads when others end meanwhile. So the list is read again until it has nothing unknown in it
 * and is as long as the kernel says that it is. See ptrace(2), and proc_pid_task(5) for the kernel's own
 * workers, which must never be seized. */
#include "target/target.h"
#include "target/target-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/rseq.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

/* PF_IO_WORKER and PF_USER_WORKER, include/linux/sched.h: io_uring's and vhost's threads. */
#define KERNEL_WORKER_FLAGS 0x4010

/* How long a thread may be in an uninterruptible wait before it is believed to stay there. Where many threads
 * come and go on a busy machine, each waits for the memory map for some time. */
#define UNINTERRUPTIBLE_NS 500000000

/* Links that the directory task/ has besides one for each thread (proc_task_getattr() in fs/proc/base.c). */
#define TASK_DIRECTORY_LINKS 2

/* So often a thread is let run on that stands in the vDSO. */
#define VDSO_TRIES     64
#define VDSO_MOMENT_NS 50000L /* for a thread to leave the vDSO, at first; a machine at work takes longer */

/* For how long threads that are counted but not listed are looked for. */
#define CENSUS_TIMEOUT_NS 1000000000U

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

static bool has_leader(const struct target *target)
{
    return target->thread_count && target->threads[0].tid == target->pid;
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
    long r = target_trace(PTRACE_SEIZE, tid, 0, target->trace_options);
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
        target_trace(PTRACE_DETACH, tid, 0, 0);
        return error_errno(ret_error, -ENOMEM, "seizing thread %d", tid);
    }
    thread->is_traced = true;
    if (target->ns_pid != target->pid)
        thread->ns_tid = innermost_tid(target, tid);
    return 1;
}

/* What one reading of the list of threads has shown. */
struct thread_census {
    size_t unknown; /* were not seized; they are now, or had ended, but may have started another first */
    size_t workers; /* the kernel's own */
};

/* Seizes every thread that is not seized yet, and interrupts it at once if that is wanted. A leader that has
 * ended stays in the list, and is nothing new. */
static int seize_new_threads(struct target *target, bool must_interrupt, struct thread_census *ret_census,
                             struct reseat_error **ret_error)
{
    _cleanup_free_ int *tids = NULL;
    size_t count;
    int r = proc_list_numbers(target->proc_fd, "task", &tids, &count);
    if (r < 0)
        return error_errno(ret_error, r == -ENOENT ? -ESRCH : r, "listing the threads of process %d",
                           target->pid);
    struct thread_census census = {0};
    for (size_t i = 0; i < count; i++) {
        if (find_thread(target, tids[i]) || tids[i] == target->pid)
            continue;
        if (is_kernel_worker(target, tids[i])) {
            census.workers++;
            continue;
        }
        census.unknown++;
        r = seize_thread(target, tids[i], ret_error);
        if (r < 0)
            return r;
        if (r > 0 && must_interrupt)
            target_trace(PTRACE_INTERRUPT, tids[i], 0, 0);
    }
    *ret_census = census;
    return 0;
}

/* Whether some thread may still run: the last reading had unknown ones, or the kernel counts more threads
 * than we know, in the links of the directory task/. One that is just ending is counted, too; that takes
 * moments, and after a while it is not waited for any longer. */
static bool may_run_on(struct target *target, const struct thread_census *census, uint64_t *last_found_ns)
{
    static const struct timespec moment = {.tv_nsec = 50000};
    size_t known = target->thread_count + census->workers + TASK_DIRECTORY_LINKS;
    struct stat stat;
    if (census->unknown) {
        *last_found_ns = now_ns();
        return true;
    }
    if (fstatat(target->proc_fd, "task", &stat, 0) < 0 || stat.st_nlink <= known)
        return false;
    nanosleep(&moment, NULL);
    return now_ns() - *last_found_ns < CENSUS_TIMEOUT_NS;
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

int target_check_filter(const char *status, pid_t pid, struct reseat_error **ret_error)
{
    if (!status_number(status, "Seccomp", 10) || may_suspend_filters())
        return 0;
    return error_set(ret_error, -EPERM,
                     "process %d is under a seccomp filter, which we may not suspend: that takes "
                     "CAP_SYS_ADMIN, and no filter on ourselves (run as root, outside any sandbox)",
                     pid);
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

/* Opens a process and finds out how it is to be traced: its number inside, the report signal, its filter. */
static int open_to_trace(pid_t pid, struct target *target, bool must_suspend, struct reseat_error **ret_error)
{
    int r = target_open(pid, target, ret_error);
    if (r < 0)
        return r;
    _cleanup_free_ char *status = NULL;
    r = file_read(target->proc_fd, "status", &status, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "reading the status of process %d", pid);
    uint32_t levels[32];
    size_t level_count = status_ns_pids(status, levels, COUNT_OF(levels));
    if (level_count)
        target->ns_pid = (pid_t)levels[level_count - 1];
    target->report_signal = choose_report_signal(status);
    target->report_is_caught = status_number(status, "SigCgt", 16) >> (target->report_signal - 1) & 1;
    target->trace_options = PTRACE_O_TRACESYSGOOD | filter_options(status);
    return must_suspend ? target_check_filter(status, pid, ret_error) : 0;
}

int target_seize(pid_t pid, struct target *ret_target, struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    int r = open_to_trace(pid, &target, false, ret_error);
    if (r < 0)
        return r;

    struct thread_census census;
    r = seize_thread(&target, pid,
                     ret_error); /* the leader is the first, even if others have lower numbers */
    if (r >= 0)
        r = seize_new_threads(&target, false, &census, ret_error);
    if (r < 0)
        return r;
    if (!has_leader(&target))
        return error_set(ret_error, -ESRCH, "process %d has ended, or its main thread has", pid);
    target.mem_fd = openat(target.proc_fd, "mem", O_RDWR | O_CLOEXEC);
    if (target.mem_fd < 0)
        return error_errno(ret_error, -errno, "opening the memory of process %d", pid);
    target_find_stub_place(&target);
    *ret_target = target;
    target = TARGET_NONE;
    return 0;
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

int target_check_stoppable(pid_t pid, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    _cleanup_free_ int *tids = NULL;
    size_t count = 0;
    int r = proc_fd < 0 ? proc_fd : proc_list_numbers(proc_fd, "task", &tids, &count);
    if (r < 0)
        return error_errno(ret_error, r == -ENOENT ? -ESRCH : r, "listing the threads of process %d", pid);
    struct target target = {.pid = pid, .proc_fd = proc_fd};
    for (size_t i = 0; i < count; i++) {
        struct proc_stat stat;
        uint64_t start_ns = now_ns();
        while (proc_stat_of(tids[i], &stat) == 0 && stat.state == 'D') {
            if (now_ns() - start_ns > UNINTERRUPTIBLE_NS)
                return report_unstoppable(&target, tids[i], ret_error);
            nanosleep(&(struct timespec){.tv_nsec = UNINTERRUPTIBLE_NS / 200}, NULL);
        }
    }
    return 0;
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
        if (target_trace(PTRACE_CONT, thread->tid, 0, (uint64_t)signal) < 0)
            return -ESRCH;
    }
}

int target_interrupt(struct target *target, struct target_thread *thread, struct reseat_error **ret_error)
{
    target_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
    return wait_interrupted(target, thread, ret_error);
}

int target_seize_thread(struct target *target, pid_t tid, struct reseat_error **ret_error)
{
    int r = seize_thread(target, tid, ret_error);
    if (r == 0)
        r = error_set(ret_error, -ESRCH, "thread %d of process %d has ended", tid, target->pid);
    return r < 0 ? r : 0;
}

/* Written back at once, so that an interrupted call is made again even if we die before we let the thread go.
 */
static int read_registers(struct target_thread *thread)
{
    int r = target_get_regs(thread->tid, thread->regs);
    if (r == 0 && arch_make_restartable(thread->regs))
        r = target_set_regs(thread->tid, thread->regs);
    return r;
}

/* A thread that was stopped inside a restartable sequence goes on at its abort address: the kernel would see
 * to that itself, but only as long as the registers are those of the sequence. */
static int leave_restartable_sequence(struct target *target, struct target_thread *thread)
{
    uint64_t descriptor = 0;
    struct rseq_cs section;
    int r = target_read(target, thread->rseq.rseq_abi_pointer + offsetof(struct rseq, rseq_cs), &descriptor,
                        sizeof descriptor);
    if (r < 0 || !descriptor)
        return r;
    if (target_read(target, descriptor, &section, sizeof section) < 0)
        return 0; /* not a sequence that the kernel would accept either */
    if (arch_ip(thread->regs) - section.start_ip < section.post_commit_offset)
        arch_set_ip(thread->regs, section.abort_ip);
    return 0;
}

static int read_state(struct target *target, struct target_thread *thread)
{
    /* A kernel without restartable sequences knows nothing of them. */
    if (target_trace(PTRACE_GET_RSEQ_CONFIGURATION, thread->tid, sizeof thread->rseq,
                     (uint64_t)&thread->rseq) < 0)
        memset(&thread->rseq, 0, sizeof thread->rseq);
    int r = thread->rseq.rseq_abi_pointer ? leave_restartable_sequence(target, thread) : 0;
    if (r < 0)
        return r;
    /* Linux 6.4; before, nobody can tell, and it stays as it is. */
    thread->may_be_dispatched = target_trace(GET_SYSCALL_USER_DISPATCH_CONFIG, thread->tid,
                                             sizeof thread->dispatch, (uint64_t)&thread->dispatch) < 0;
    if (thread->may_be_dispatched)
        thread->dispatch = (struct dispatch_config){0};
    return (int)target_trace(PTRACE_GETSIGMASK, thread->tid, sizeof thread->signal_mask,
                             (uint64_t)&thread->signal_mask);
}

/* Drops threads that have ended from the list. */
static void forget_ended(struct target *target, size_t first)
{
    size_t kept = first;
    for (size_t i = first; i < target->thread_count; i++)
        if (target->threads[i].is_traced)
            target->threads[kept++] = target->threads[i];
    target->thread_count = kept;
}

static void interrupt_threads(struct target *target)
{
    for (size_t i = 0; i < target->thread_count; i++)
        target_trace(PTRACE_INTERRUPT, target->threads[i].tid, 0, 0);
}

/* Waits for the stops of threads that have been interrupted, from the `first` on. */
static int await_stops_from(struct target *target, size_t first, struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = first; r == 0 && i < target->thread_count; i++) {
        if (target->threads[i].is_stopped)
            continue;
        r = wait_interrupted(target, &target->threads[i], ret_error);
        if (r == 0)
            r = read_registers(&target->threads[i]);
        if (r < 0 && r != -ESRCH && ret_error && !*ret_error)
            error_errno(ret_error, r, "reading the registers of thread %d", target->threads[i].tid);
        if (r == -ESRCH)
            r = 0; /* it ended; dropped below */
    }
    if (r < 0)
        return r;
    forget_ended(target, first);
    for (size_t i = first; i < target->thread_count; i++) {
        struct target_thread *thread = &target->threads[i];
        r = read_state(target, thread);
        if (r < 0)
            return error_errno(ret_error, r, "reading the state of thread %d", thread->tid);
        if (!arch_is_supported(thread->regs))
            return error_set(ret_error, -ENOEXEC, "thread %d of process %d runs 32-bit code: not supported",
                             thread->tid, target->pid);
    }
    return 0;
}

int target_seize_leader(pid_t pid, struct target *ret_target, struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    int r = open_to_trace(pid, &target, true, ret_error);
    if (r < 0)
        return r;
    r = target_seize_thread(&target, pid, ret_error);
    if (r < 0)
        return r;
    target.mem_fd = openat(target.proc_fd, "mem", O_RDWR | O_CLOEXEC);
    if (target.mem_fd < 0)
        return error_errno(ret_error, -errno, "opening the memory of process %d", pid);
    interrupt_threads(&target);
    r = await_stops_from(&target, 0, ret_error);
    if (r == 0 && !target.thread_count)
        r = error_set(ret_error, -ESRCH, "process %d has ended", pid);
    if (r < 0)
        return r;
    *ret_target = target;
    target = TARGET_NONE;
    return 0;
}

/* Waits until all threads stand still, those that have come meanwhile, too. */
static int await_all(struct target *target, struct reseat_error **ret_error)
{
    struct thread_census census = {.unknown = 1}; /* who has come since the process was seized */
    uint64_t last_found_ns = now_ns();
    int r = await_stops_from(target, 0, ret_error);
    while (r == 0 && has_leader(target) && may_run_on(target, &census, &last_found_ns)) {
        size_t first = target->thread_count;
        r = seize_new_threads(target, true, &census, ret_error);
        if (r == 0)
            r = await_stops_from(target, first, ret_error);
    }
    return r;
}

int target_stop(struct target *target, struct reseat_error **ret_error)
{
    unsigned tries = 0;
    target->stop_ns = now_ns();
    interrupt_threads(target);
    int r = await_all(target, ret_error);
    while (r == 0 && target->leaves_vdso && tries < VDSO_TRIES &&
           target_run_out_of_vdso(target, VDSO_MOMENT_NS << tries++ / 8))
        r = await_all(target, ret_error);
    if (r < 0)
        return r;
    if (!has_leader(target))
        return error_set(ret_error, -ESRCH,
                         "process %d ended, or executed another program, while it was being stopped",
                         target->pid);
    return 0;
}
