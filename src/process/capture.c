/* What a stopped target is asked. Most is seen from outside; the rest (tid address, alternate stack, timers)
 * only the thread itself can be asked, so calls are added to the program that it runs anyway.
 *
 * Rests on ptrace(2) (PEEKSIGINFO, GETREGSET, GET_RSEQ_CONFIGURATION), get_robust_list(2), sched_getattr(2),
 * /proc/PID/timers, PR_GET_TID_ADDRESS (prctl(2)). */
#include "process/process.h"
#include "target/target.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>

#define SIGNALS_AT_ONCE  32
#define LATE_SIGNALS_MAX 64

/* ---- from outside ---- */

static int capture_xstate(struct snapshot *snapshot, struct snapshot_thread *thread)
{
    static _Thread_local uint8_t buffer[TARGET_XSTATE_BYTES_MAX];
    size_t length;
    int r = target_get_xstate((pid_t)thread->tid, buffer, &length);
    if (r < 0)
        return r;
    thread->xstate_length = length;
    return snapshot_add_blob(snapshot, buffer, length, &thread->xstate_offset);
}

void process_capture_scheduling(struct snapshot_thread *row)
{
    pid_t tid = (pid_t)row->tid;
    if (syscall(SYS_sched_getattr, tid, row->scheduling, sizeof row->scheduling, 0) < 0)
        memset(row->scheduling, 0, sizeof row->scheduling);
    long length = syscall(SYS_sched_getaffinity, tid, sizeof row->affinity, row->affinity);
    row->affinity_length = length > 0 ? (uint32_t)length : 0;
    long priority = syscall(SYS_ioprio_get, 1 /* IOPRIO_WHO_PROCESS: one thread */, tid);
    row->io_priority = priority > 0 ? (uint32_t)priority : 0;
}

static int capture_thread(const struct target_thread *thread, struct snapshot *snapshot)
{
    struct snapshot_thread *row = array_append(snapshot->threads, snapshot->threads_count);
    if (!row)
        return -ENOMEM;
    row->tid = (uint32_t)thread->tid;
    row->ns_tids[0] = (uint32_t)thread->tid;
    int r = capture_xstate(snapshot, row);
    if (r < 0)
        return r;
    process_capture_scheduling(row);
    row->signal_mask = thread->signal_mask;
    row->rseq_address = thread->rseq.rseq_abi_pointer;
    row->rseq_length = thread->rseq.rseq_abi_size;
    row->rseq_signature = thread->rseq.signature;
    row->rseq_flags = thread->rseq.flags;
    row->dispatch_mode = thread->dispatch.mode;
    row->dispatch_selector = thread->dispatch.selector;
    row->dispatch_offset = thread->dispatch.offset;
    row->dispatch_length = thread->dispatch.length;
    memcpy(row->regs, thread->regs, sizeof thread->regs);
    arch_restart_from_start(row->regs);
    if (syscall(SYS_get_robust_list, thread->tid, &row->robust_list, &row->robust_list_length) < 0)
        return -errno;
    return 0;
}

/* Numbers of threads in inner PID namespaces, innermost last, as clone3 needs them. */
static int capture_levels(struct target *target, struct snapshot *snapshot)
{
    for (size_t i = 0; snapshot->process.ns_level_count > 1 && i < snapshot->threads_count; i++) {
        char path[48];
        snprintf(path, sizeof path, "task/%u/status", snapshot->threads[i].tid);
        _cleanup_free_ char *status = NULL;
        int r = file_read(target->proc_fd, path, &status, NULL);
        if (r < 0)
            return r;
        status_ns_pids(status, snapshot->threads[i].ns_tids, SNAPSHOT_NS_LEVELS);
    }
    return 0;
}

static int capture_pending(struct snapshot *snapshot, pid_t tid, bool of_process)
{
    siginfo_t infos[SIGNALS_AT_ONCE];
    struct __ptrace_peeksiginfo_args arguments = {
        .flags = of_process ? PTRACE_PEEKSIGINFO_SHARED : 0,
        .nr = SIGNALS_AT_ONCE,
    };
    for (;;) {
        long count = ptrace(PTRACE_PEEKSIGINFO, tid, &arguments, infos);
        if (count < 0)
            return -errno;
        for (long i = 0; i < count; i++) {
            struct snapshot_signal *row = array_append(snapshot->signals, snapshot->signals_count);
            if (!row)
                return -ENOMEM;
            row->tid = of_process ? 0 : (uint32_t)tid;
            memcpy(row->siginfo, &infos[i], sizeof row->siginfo);
        }
        if (count < SIGNALS_AT_ONCE)
            return 0;
        arguments.off += (uint64_t)count;
    }
}

/* Reads /proc/PID/timers: what timer_create was called with. */
static int capture_timers(struct target *target, struct snapshot *snapshot)
{
    _cleanup_free_ char *text = NULL;
    int r = file_read(target->proc_fd, "timers", &text, NULL);
    if (r == -ENOENT)
        return 0; /* a kernel without CONFIG_CHECKPOINT_RESTORE or POSIX timers */
    if (r < 0)
        return r;
    struct snapshot_timer *row = NULL;
    char *position = text;
    for (char *line; (line = strsep(&position, "\n"));) {
        int id, signal, number;
        unsigned long value;
        char how[16], whom[16];
        if (sscanf(line, "ID: %d", &id) == 1) {
            row = array_append(snapshot->timers, snapshot->timers_count);
            if (!row)
                return -ENOMEM;
            row->id = id;
        } else if (row && sscanf(line, "signal: %d/%lx", &signal, &value) == 2) {
            row->signal = signal;
            row->value = value;
        } else if (row && sscanf(line, "notify: %15[a-z]/%15[a-z].%d", how, whom, &number) == 3) {
            row->notify = strcmp(how, "none") == 0 ? SIGEV_NONE : SIGEV_SIGNAL;
            if (strcmp(whom, "tid") == 0) {
                row->notify |= SIGEV_THREAD_ID;
                row->ns_tid = (uint32_t)number;
            }
        } else if (row && sscanf(line, "ClockID: %d", &number) == 1) {
            row->clock = number;
        }
    }
    return 0;
}

static int capture_all_pending(struct target *target, struct snapshot *snapshot)
{
    int r = capture_pending(snapshot, target->pid, true);
    for (size_t i = 0; r == 0 && i < target->thread_count; i++)
        r = capture_pending(snapshot, target->threads[i].tid, false);
    return r;
}

int process_capture(struct target *target, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < target->thread_count; i++) {
        struct target_thread *thread = &target->threads[i];
        int r = capture_thread(thread, snapshot);
        if (r < 0)
            return error_errno(ret_error, r, "capturing thread %d of process %d", thread->tid, target->pid);
    }
    int r = capture_all_pending(target, snapshot);
    if (r == 0)
        r = capture_levels(target, snapshot);
    if (r == 0)
        r = capture_timers(target, snapshot);
    if (r == 0 && (snapshot->process.flags & SNAPSHOT_THREADS_DIFFER))
        r = credentials_capture_threads(target->proc_fd, snapshot);
    return r < 0 ? error_errno(ret_error, r, "capturing process %d", target->pid) : 0;
}

/* ---- from inside ---- */

struct kernel_stack {
    uint64_t address;
    uint32_t flags, padding;
    uint64_t length;
};

/* What get_mempolicy and PR_GET_TSC write. */
struct policy_answer {
    uint32_t memory_policy, time_stamp_mode;
    uint64_t nodes[SNAPSHOT_NODE_WORDS];
};

void process_probe_thread(struct program *program, struct thread_probe *ret_probe)
{
    struct scratch *scratch = program->scratch;
    struct thread_probe probe = {
        .tid_address = scratch_take(scratch, sizeof(uint64_t), 8, NULL),
        .stack_address = scratch_take(scratch, sizeof(struct kernel_stack), 8, NULL),
        .name_address = scratch_take(scratch, 16, 8, NULL),
        .policy_address = scratch_take(scratch, sizeof(struct policy_answer), 8, NULL),
    };
    uint64_t policy = probe.policy_address;
    probe.tid_call = program_call(program, NULL, SYS_prctl, PR_GET_TID_ADDRESS, probe.tid_address);
    program_call(program, "asking for the alternate stack", SYS_sigaltstack, 0, probe.stack_address);
    program_call(program, "asking for the name", SYS_prctl, PR_GET_NAME, probe.name_address);
    probe.slack_call = program_call(program, NULL, SYS_prctl, PR_GET_TIMERSLACK);
    probe.privileges_call = program_call(program, NULL, SYS_prctl, PR_GET_NO_NEW_PRIVS);
    probe.fault_call = program_call(program, NULL, SYS_prctl, PR_MCE_KILL_GET);
    probe.bits_call = program_call(program, NULL, SYS_prctl, PR_GET_SECUREBITS);
    program_call(program, NULL, SYS_prctl, PR_GET_TSC,
                 policy + offsetof(struct policy_answer, time_stamp_mode));
    program_call(program, NULL, SYS_get_mempolicy, policy, policy + offsetof(struct policy_answer, nodes),
                 SNAPSHOT_NODE_WORDS * 64);
    *ret_probe = probe;
}

void process_read_thread_probe(const struct program *program, const struct thread_probe *probe,
                               struct snapshot_thread *ret_thread)
{
    struct scratch *scratch = program->scratch;
    struct kernel_stack stack;
    memcpy(&ret_thread->tid_address, scratch_mirror(scratch, probe->tid_address), sizeof(uint64_t));
    memcpy(&stack, scratch_mirror(scratch, probe->stack_address), sizeof stack);
    memcpy(ret_thread->name, scratch_mirror(scratch, probe->name_address), sizeof ret_thread->name);
    ret_thread->name[sizeof ret_thread->name - 1] = '\0';
    ret_thread->altstack_address = stack.address;
    ret_thread->altstack_length = stack.length;
    ret_thread->altstack_flags = stack.flags;
    int64_t slack = program_result(program, probe->slack_call);
    ret_thread->timer_slack_ns = slack > 0 ? (uint64_t)slack : 0;
    if (program_result(program, probe->privileges_call) > 0)
        ret_thread->flags |= SNAPSHOT_THREAD_NO_NEW_PRIVS;
    ret_thread->memory_fault_policy = (uint32_t)program_result(program, probe->fault_call);
    int64_t bits = program_result(program, probe->bits_call);
    ret_thread->secure_bits = bits > 0 ? (uint32_t)bits : 0;
    const struct policy_answer *policy = scratch_mirror(scratch, probe->policy_address);
    ret_thread->time_stamp_mode = policy->time_stamp_mode;
    ret_thread->memory_policy = policy->memory_policy;
    memcpy(ret_thread->memory_policy_nodes, policy->nodes, sizeof policy->nodes);
}

void process_probe(struct program *program, const struct snapshot *snapshot, struct process_probe *ret_probe)
{
    struct scratch *scratch = program->scratch;
    struct process_probe probe = {
        .itimers_address = scratch_take(scratch, 3 * sizeof(struct itimerval), 8, NULL),
        .timers_address =
            scratch_take(scratch, snapshot->timers_count * sizeof(struct itimerspec) + 8, 8, NULL),
        .flags_address = scratch_take(scratch, 2 * sizeof(uint64_t), 8, NULL),
    };
    for (uint64_t which = 0; which < 3; which++)
        program_call(program, "asking for an interval timer", SYS_getitimer, which,
                     probe.itimers_address + which * sizeof(struct itimerval));
    for (size_t i = 0; i < snapshot->timers_count; i++)
        program_call(program, "asking for a timer", SYS_timer_gettime, (uint64_t)snapshot->timers[i].id,
                     probe.timers_address + i * sizeof(struct itimerspec));
    program_call(program, NULL, SYS_prctl, PR_GET_PDEATHSIG, probe.flags_address);
    program_call(program, NULL, SYS_prctl, PR_GET_CHILD_SUBREAPER, probe.flags_address + 8);
    probe.dumpable_call = program_call(program, NULL, SYS_prctl, PR_GET_DUMPABLE);
    /* A page that we mapped comes out locked after mlockall(MCL_FUTURE), and locked pages cannot be given up.
     */
    probe.locked_call = program_call(program, NULL, SYS_madvise, scratch->address + scratch->length - 4096,
                                     4096, MADV_DONTNEED);
    *ret_probe = probe;
}

void process_read_probe(const struct program *program, const struct process_probe *probe,
                        struct snapshot *snapshot)
{
    struct scratch *scratch = program->scratch;
    struct snapshot_process *process = &snapshot->process;
    const struct itimerval *itimers = scratch_mirror(scratch, probe->itimers_address);
    for (size_t i = 0; i < COUNT_OF(process->itimers); i++) {
        process->itimers[i].interval_us =
            (uint64_t)itimers[i].it_interval.tv_sec * 1000000U + (uint64_t)itimers[i].it_interval.tv_usec;
        process->itimers[i].value_us =
            (uint64_t)itimers[i].it_value.tv_sec * 1000000U + (uint64_t)itimers[i].it_value.tv_usec;
    }
    const struct itimerspec *timers = scratch_mirror(scratch, probe->timers_address);
    for (size_t i = 0; i < snapshot->timers_count; i++) {
        snapshot->timers[i].interval_ns =
            (uint64_t)timers[i].it_interval.tv_sec * 1000000000U + (uint64_t)timers[i].it_interval.tv_nsec;
        snapshot->timers[i].remaining_ns =
            (uint64_t)timers[i].it_value.tv_sec * 1000000000U + (uint64_t)timers[i].it_value.tv_nsec;
    }
    const uint32_t *flags = scratch_mirror(scratch, probe->flags_address);
    process->parent_death_signal = flags[0];
    if (flags[2])
        process->flags |= SNAPSHOT_SUBREAPER;
    if (program_result(program, probe->dumpable_call) == 1)
        process->flags |= SNAPSHOT_DUMPABLE;
    if (program_result(program, probe->locked_call) == -EINVAL)
        process->flags |= SNAPSHOT_LOCKS_FUTURE;
}

/* ---- what has come since ---- */

/* Whether a signal of the process is there: any of this number, or (timer_id >= 0) that of a POSIX timer. */
static bool has_signal(const struct snapshot_signal *signals, size_t count, int signal, int timer_id)
{
    for (size_t i = 0; i < count; i++) {
        siginfo_t info;
        memcpy(&info, signals[i].siginfo, sizeof info);
        bool is_timer = info.si_code == SI_TIMER && info.si_timerid == timer_id;
        if (timer_id >= 0 ? is_timer : signals[i].tid == 0 && info.si_signo == signal)
            return true;
    }
    return false;
}

/* The real interval timer starts again only when its signal is taken. While that is pending it says 0; and if
 * it has fired since it was asked, what it said is over. */
static void correct_real_timer(struct snapshot_itimer *timer, bool was_pending, bool is_pending)
{
    if (!timer->value_us && timer->interval_us)
        timer->value_us = is_pending ? timer->interval_us : 1;
    else if (timer->value_us && is_pending && !was_pending)
        timer->value_us = timer->interval_us;
}

int process_capture_late(struct target *target, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_free_ struct snapshot_signal *early = TAKE_PTR(snapshot->signals);
    size_t early_count = snapshot->signals_count;
    snapshot->signals_count = 0;
    int r = capture_all_pending(target, snapshot);
    if (r < 0)
        return error_errno(ret_error, r, "reading the signals that wait for process %d", target->pid);
    if (snapshot->signals_count > early_count + LATE_SIGNALS_MAX)
        return error_set(ret_error, -EAGAIN, "process %d is being flooded with signals; try again",
                         target->pid);
    const struct snapshot_signal *late = snapshot->signals;
    size_t late_count = snapshot->signals_count;
    correct_real_timer(&snapshot->process.itimers[ITIMER_REAL], has_signal(early, early_count, SIGALRM, -1),
                       has_signal(late, late_count, SIGALRM, -1));
    for (size_t i = 0; i < snapshot->timers_count; i++) {
        struct snapshot_timer *timer = &snapshot->timers[i];
        if (has_signal(late, late_count, 0, timer->id) && !has_signal(early, early_count, 0, timer->id))
            timer->remaining_ns = timer->interval_ns;
    }
    return 0;
}
