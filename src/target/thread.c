/* One traced thread: its registers, its mask, its stops, and the memory that it works on. Thin, over
 * ptrace(2), process_vm_readv(2) and proc_pid_mem(5). */
#include "target/target.h"
#include "target/target-internal.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

#define YIELD_NS 300000 /* how long to wait by yielding before sleeping */
#define SLEEP_NS 100000

long target_trace(int request, pid_t tid, uint64_t address, uint64_t data)
{
    long r = ptrace((enum __ptrace_request)request, tid, address, data);
    return r < 0 ? -errno : r;
}

/* The end of a main thread is told when those of all others have been collected, which no parent does while
 * we trace them. */
static void collect_ends_of_others(pid_t pid)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    _cleanup_free_ int *tids = NULL;
    size_t count = 0;
    struct proc_stat stat;
    if (proc_fd < 0 || proc_stat_read(proc_fd, &stat) < 0 || stat.state != 'Z' ||
        proc_list_numbers(proc_fd, "task", &tids, &count) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        siginfo_t end;
        if (tids[i] != pid)
            waitid(P_PID, (id_t)tids[i], &end, WEXITED | WNOHANG | __WALL);
    }
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
        if (waited_ns < YIELD_NS) {
            sched_yield();
            continue;
        }
        collect_ends_of_others(tid);
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL);
    }
}

int target_get_regs(pid_t tid, uint64_t regs[ARCH_REGS_WORDS])
{
    struct iovec vector = {regs, arch_regs_bytes};
    return (int)target_trace(PTRACE_GETREGSET, tid, 1 /* NT_PRSTATUS */, (uint64_t)&vector);
}

int target_set_regs(pid_t tid, const uint64_t regs[ARCH_REGS_WORDS])
{
    struct iovec vector = {(void *)regs, arch_regs_bytes};
    return (int)target_trace(PTRACE_SETREGSET, tid, 1, (uint64_t)&vector);
}

int target_set_signal_mask(pid_t tid, uint64_t mask)
{
    return (int)target_trace(PTRACE_SETSIGMASK, tid, sizeof mask, (uint64_t)&mask);
}

int target_move_thread(struct target_thread *thread, const uint64_t regs[ARCH_REGS_WORDS], int report_signal)
{
    /* A dispatched thread cannot make system calls for us. */
    if (thread->dispatch.mode) {
        struct dispatch_config off = {0};
        target_trace(SET_SYSCALL_USER_DISPATCH_CONFIG, thread->tid, sizeof off, (uint64_t)&off);
    }
    /* Registers first, then the mask: from where they point the thread puts its mask back by itself. */
    int r = target_set_regs(thread->tid, regs);
    thread->is_moved = true;
    uint64_t mask = program_signal_mask(report_signal);
    if (thread->may_be_dispatched) /* blocked, the kernel would take the handler away to force it */
        mask &= ~(UINT64_C(1) << (SIGSYS - 1));
    return r < 0 ? r : target_set_signal_mask(thread->tid, mask);
}

int target_check_dispatched(const struct target_thread *thread, int signal, struct reseat_error **ret_error)
{
    siginfo_t info;
    if (signal != SIGSYS || target_trace(PTRACE_GETSIGINFO, thread->tid, 0, (uint64_t)&info) < 0 ||
        info.si_code != SYSTEM_CALL_DISPATCHED)
        return 0;
    return error_set(
        ret_error, -EOPNOTSUPP,
        "the system calls of thread %d are dispatched to itself (syscall user dispatch), which can "
        "be switched off for ours from Linux 6.4 on",
        thread->tid);
}

int target_set_options(struct target *target, pid_t tid, unsigned options)
{
    int r = (int)target_trace(PTRACE_SETOPTIONS, tid, 0, options | target->trace_options);
    if (r == 0 && tid == target->pid)
        target->more_options = options;
    return r;
}

int target_set_xstate(pid_t tid, const void *xstate, size_t length)
{
    struct iovec vector = {(void *)xstate, length};
    return (int)target_trace(PTRACE_SETREGSET, tid, arch_xstate_note, (uint64_t)&vector);
}

int target_get_xstate(pid_t tid, void *xstate, size_t *ret_length)
{
    struct iovec vector = {xstate, TARGET_XSTATE_BYTES_MAX};
    int r = (int)target_trace(PTRACE_GETREGSET, tid, arch_xstate_note, (uint64_t)&vector);
    if (r == 0)
        *ret_length = vector.iov_len;
    return r;
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

bool target_run_out_of_vdso(struct target *target, long moment_ns)
{
    bool has_any = false;
    for (size_t i = 0; i < target->thread_count; i++) {
        struct target_thread *thread = &target->threads[i];
        if (arch_ip(thread->regs) - target->vdso_address >= target->vdso_length)
            continue;
        target_trace(PTRACE_CONT, thread->tid, 0, 0);
        thread->is_stopped = false;
        has_any = true;
    }
    if (has_any)
        nanosleep(&(struct timespec){.tv_nsec = moment_ns}, NULL);
    for (size_t i = 0; i < target->thread_count; i++)
        if (!target->threads[i].is_stopped)
            target_trace(PTRACE_INTERRUPT, target->threads[i].tid, 0, 0);
    return has_any;
}
