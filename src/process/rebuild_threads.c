/* Threads of a half-made process: each is cloned with a program of its own that sets up what belongs to it,
 * says that it is there, and waits at the gate; behind the gate it registers what a dying thread would touch,
 * reports, and returns to where it was. */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <linux/sched.h>
#include <sched.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#define THREAD_CALLS         (1 + REBUILD_SETUP_CALLS + 2 + REBUILD_RETURN_CALLS)
#define THREAD_START_WAIT_NS 2000000000U
#define RETRY_NS             500000
#define THREAD_FLAGS                                                                                         \
    (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_SETTLS)

void rebuild_add_return(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                        const struct snapshot_thread *row)
{
    program_call(program, NULL, SYS_set_tid_address, row->tid_address);
    if (row->robust_list)
        program_call(program, NULL, SYS_set_robust_list, row->robust_list, row->robust_list_length);
    program_report(program, seed->process->report_signal, 0, 0);
    program_return(program, (const uint64_t *)row->regs, row->signal_mask,
                   snapshot->blobs + row->xstate_offset, row->xstate_length);
}

/* One thread that is to be: its program, and the clone_args to make it. */
struct thread_plan {
    struct program program;
    uint64_t arguments_address;
    uint64_t present_address; /* not zero: set up, and waiting at the gate */
    pid_t tid;                /* as we see it */
};

static void thread_plans_free(struct thread_plan **plans)
{
    free(*plans);
}

static int plan_thread(struct seed *seed, const struct snapshot *snapshot, size_t index,
                       struct thread_plan *plan, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    const struct snapshot_thread *row = &snapshot->threads[index];
    struct program *program = &plan->program;
    program_end(program);
    size_t calls = THREAD_CALLS + rebuild_signal_calls(snapshot, row->tid) +
                   rebuild_credential_calls(seed, snapshot, row);
    int r = program_begin(program, scratch, calls, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    uint64_t stack = program_birth(program);
    rebuild_add_thread_setup(program, row, &snapshot->threads[0]);
    rebuild_add_signals(program, snapshot, row->tid);
    r = rebuild_add_credentials(program, seed, snapshot, row, ret_error);
    if (r < 0)
        return r;
    plan->present_address = scratch_take(scratch, sizeof(uint64_t), 8, NULL);
    program_set_result_address(program, program_call(program, NULL, SYS_gettid, 0), plan->present_address);
    program_wait_gate(program, seed->gate_address);
    rebuild_add_return(program, seed, snapshot, row);
    bool choose = !seed->has_new_numbers && !seed->must_race;
    plan->arguments_address =
        process_clone_arguments(scratch, THREAD_FLAGS, stack, arch_tls((const uint64_t *)row->regs),
                                choose ? row->ns_tids : NULL, snapshot->process.ns_level_count);
    if (program->is_full || !plan->present_address || !plan->arguments_address)
        return error_set(ret_error, -ENOSPC, "the program of thread %u does not fit on the scratch pages",
                         row->tid);
    return 0;
}

/* Has the leader clone the planned threads [first, end), as many as it can; notes their numbers. Returns how
 * many, and through ret_failure why it stopped there (0: it did not). */
static int64_t clone_some(struct seed *seed, const struct thread_plan *plans, size_t first, size_t end,
                          int *ret_failure, struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, &process->scratch, end - first + 8, 0, ret_error);
    if (r < 0)
        return r;
    for (size_t i = first; i < end; i++)
        program_call(&program, "cloning a thread under its number", SYS_clone3, plans[i].arguments_address,
                     sizeof(struct clone_args));
    r = program_run_batch(process, &program, NULL);
    int64_t count = 0;
    for (size_t i = first; i < end && program_result(&program, i - first) > 0; i++, count++)
        seed->ns_tids[i] = (uint32_t)program_result(&program, i - first);
    *ret_failure = r;
    return count;
}

/* Right after the end of a process the numbers of its threads stay taken for a moment, and seen by nobody. */
static int clone_threads(struct seed *seed, const struct snapshot *snapshot, const struct thread_plan *plans,
                         size_t first, size_t end, struct reseat_error **ret_error)
{
    for (;;) {
        int failure = 0;
        int64_t count = clone_some(seed, plans, first, end, &failure, ret_error);
        if (count < 0)
            return (int)count;
        first += (size_t)count;
        if (first == end && failure == 0)
            return 0;
        uint32_t tid = snapshot->threads[first < end ? first : end - 1].tid;
        if (failure == -EEXIST && now_ns() >= seed->deadline_ns)
            return process_report_taken((pid_t)tid, ret_error);
        if (failure != -EEXIST)
            return error_errno(ret_error, failure, "cloning thread %u of process %u", tid,
                               snapshot->process.pid);
        nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL);
    }
}

/* Threads that were traced from birth stand in their first stop: they go on with their programs. */
static int start_births(struct target *process, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < process->birth_count; i++) {
        int status;
        int r = target_wait_stop(process->births[i], TARGET_STOP_TIMEOUT_NS, &status);
        if (r == 0 && ptrace(PTRACE_CONT, process->births[i], NULL, NULL) < 0)
            r = -errno;
        if (r < 0)
            return error_errno(ret_error, r, "starting thread %d", process->births[i]);
    }
    return 0;
}

static int wait_present(struct seed *seed, const struct thread_plan *plan, struct reseat_error **ret_error)
{
    uint64_t start_ns = now_ns(), present = 0;
    while (!present) {
        int r = target_read(seed->process, plan->present_address, &present, sizeof present);
        if (r < 0)
            return error_errno(ret_error, r, "looking for the threads of process %d", seed->process->pid);
        if (!present && now_ns() - start_ns > THREAD_START_WAIT_NS)
            return error_set(ret_error, -ETIMEDOUT, "a thread of process %d did not start",
                             seed->process->pid);
        if (!present)
            sched_yield();
    }
    return 0;
}

/* The number that we know a thread of the half-made process by; 0 if it has none of this number inside. */
static pid_t outer_number(struct target *process, uint32_t ns_tid)
{
    _cleanup_free_ int *tids = NULL;
    size_t count;
    if (process->ns_pid == process->pid)
        return (pid_t)ns_tid;
    if (proc_list_numbers(process->proc_fd, "task", &tids, &count) < 0)
        return 0;
    for (size_t i = 0; i < count; i++) {
        char path[48];
        uint32_t levels[32];
        _cleanup_free_ char *status = NULL;
        snprintf(path, sizeof path, "task/%d/status", tids[i]);
        size_t depth = file_read(process->proc_fd, path, &status, NULL) < 0
                           ? 0
                           : status_ns_pids(status, levels, COUNT_OF(levels));
        if (depth && levels[depth - 1] == ns_tid)
            return tids[i];
    }
    return 0;
}

/* Has a superfluous thread in hand, and stopped: either it was traced from birth, or it is seized now. */
static int hold_thread(struct seed *seed, pid_t tid, struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    int status;
    if (!seed->is_filtered) {
        int r = target_seize_thread(process, tid, ret_error);
        return r < 0 ? r : target_interrupt(process, &process->threads[process->thread_count - 1], ret_error);
    }
    process->birth_count--; /* the last one */
    int r = target_wait_stop(tid, TARGET_STOP_TIMEOUT_NS, &status);
    if (r < 0)
        return error_errno(ret_error, r, "waiting for the superfluous thread %d", tid);
    struct target_thread *thread = target_add_thread(process, tid);
    if (!thread)
        return error_errno(ret_error, -ENOMEM, "holding the superfluous thread %d", tid);
    thread->is_traced = thread->is_stopped = true;
    return 0;
}

/* Ends a thread that came out with another number than it should have. */
static int discard_thread(struct seed *seed, uint32_t ns_tid, struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    struct scratch *scratch = &process->scratch;
    _cleanup_(program_end) struct program program = {0};
    pid_t tid = outer_number(process, ns_tid);
    scratch_begin_part(scratch);
    int r = program_begin(&program, scratch, 1, 0, ret_error);
    if (r == 0 && !tid)
        r = error_set(ret_error, -ESRCH, "the superfluous thread %u has gone by itself", ns_tid);
    if (r == 0)
        r = hold_thread(seed, tid, ret_error);
    if (r < 0)
        return r;
    struct target_thread *thread = &process->threads[process->thread_count - 1];
    program_call(&program, NULL, SYS_exit, 0);
    r = target_flush_scratch(process, ret_error);
    if (r == 0)
        r = target_get_regs(tid, thread->regs);
    if (r == 0)
        r = program_start(process, thread, &program, ret_error);
    int status;
    if (r == 0 && target_wait_stop(tid, TARGET_STOP_TIMEOUT_NS, &status) != -ESRCH)
        r = error_set(ret_error, -ETIMEDOUT, "ending the superfluous thread %d", tid);
    if (r == 0)
        process->thread_count--;
    return r;
}

/* Without the right to choose: the number is made the next one to be given, and whoever comes between is
 * waited out. */
static int race_for_thread(struct seed *seed, const struct snapshot *snapshot, size_t index,
                           struct thread_plan *plan, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    uint32_t wanted = snapshot->threads[index].ns_tids[snapshot->process.ns_level_count - 1];
    scratch_begin_part(scratch);
    size_t start = scratch->used;
    do {
        scratch->first = scratch->used = start; /* a thread that was discarded needs its program no more */
        int r = plan_thread(seed, snapshot, index, plan, ret_error);
        if (r == 0)
            r = target_flush_scratch(seed->process, ret_error);
        scratch_begin_part(scratch);
        if (r == 0)
            r = process_choose_next(seed->process->pid, snapshot->threads[index].ns_tids,
                                    snapshot->process.ns_level_count, ret_error);
        if (r == 0)
            r = clone_threads(seed, snapshot, plan - index, index, index + 1, ret_error);
        if (r < 0 || seed->ns_tids[index] == wanted)
            return r;
        r = discard_thread(seed, seed->ns_tids[index], ret_error);
        if (r < 0)
            return r;
    } while (now_ns() < seed->deadline_ns);
    return process_report_taken((pid_t)snapshot->threads[index].tid, ret_error);
}

static int plan_and_clone_all(struct seed *seed, const struct snapshot *snapshot, struct thread_plan *plans,
                              struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    int r = 0;
    if (seed->must_race) {
        for (size_t i = 1; r == 0 && i < snapshot->threads_count; i++)
            r = race_for_thread(seed, snapshot, i, &plans[i], ret_error);
        return r;
    }
    scratch_begin_part(scratch);
    for (size_t i = 1; r == 0 && i < snapshot->threads_count; i++)
        r = plan_thread(seed, snapshot, i, &plans[i], ret_error);
    if (r == 0)
        r = target_flush_scratch(seed->process, ret_error);
    scratch_begin_part(scratch);
    if (r == 0 && snapshot->threads_count > 1)
        r = clone_threads(seed, snapshot, plans, 1, snapshot->threads_count, ret_error);
    return r;
}

/* Finds out which thread as we see it is which one inside. */
static int match_numbers(struct seed *seed, const struct snapshot *snapshot, struct thread_plan *plans,
                         struct reseat_error **ret_error)
{
    for (size_t i = 1; i < snapshot->threads_count; i++) {
        /* At every level, unless it is an image's, which goes into another PID namespace. */
        bool is_chosen = !seed->has_new_numbers && !seed->must_race &&
                         !(seed->is_bare && seed->process->ns_pid != seed->process->pid);
        plans[i].tid =
            is_chosen ? (pid_t)snapshot->threads[i].tid : outer_number(seed->process, seed->ns_tids[i]);
        if (!plans[i].tid)
            return error_set(ret_error, -ESRCH, "thread %u of process %d has ended", seed->ns_tids[i],
                             seed->process->pid);
    }
    return 0;
}

/* From outside, because it may take our privileges; only what differs from what the thread was born with. */
static int rebuild_scheduling(pid_t tid, const struct snapshot_thread *row, struct reseat_error **ret_error)
{
    struct snapshot_thread now = {.tid = (uint32_t)tid};
    process_capture_scheduling(&now);
    if (memcmp(now.scheduling, row->scheduling, sizeof now.scheduling) != 0 && row->scheduling[0] &&
        syscall(SYS_sched_setattr, tid, row->scheduling, 0) < 0)
        return error_errno(ret_error, -errno, "setting the scheduling of thread %d", tid);
    if (now.io_priority != row->io_priority && syscall(SYS_ioprio_set, 1, tid, row->io_priority) < 0)
        return error_errno(ret_error, -errno, "setting the I/O priority of thread %d", tid);
    if (row->affinity_length && memcmp(now.affinity, row->affinity, sizeof now.affinity) != 0 &&
        syscall(SYS_sched_setaffinity, tid, row->affinity_length, row->affinity) < 0)
        return error_errno(ret_error, -errno, "setting the processors of thread %d", tid);
    return 0;
}

static int take_thread(struct seed *seed, const struct snapshot_thread *row, const struct thread_plan *plan,
                       struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    int r = wait_present(seed, plan, ret_error);
    if (r < 0)
        return r;
    if (!seed->is_filtered)
        return target_seize_thread(process, plan->tid, ret_error);
    struct target_thread *thread = target_add_thread(process, plan->tid);
    if (!thread)
        return error_errno(ret_error, -ENOMEM, "taking over thread %u", row->tid);
    thread->is_traced = true;
    return 0;
}

static int clone_and_take(struct seed *seed, const struct snapshot *snapshot, struct thread_plan *plans,
                          struct reseat_error **ret_error)
{
    int r = plan_and_clone_all(seed, snapshot, plans, ret_error);
    if (r == 0)
        r = start_births(seed->process, ret_error);
    if (r == 0)
        r = match_numbers(seed, snapshot, plans, ret_error);
    for (size_t i = 1; r == 0 && i < snapshot->threads_count; i++) {
        r = take_thread(seed, &snapshot->threads[i], &plans[i], ret_error);
        seed->stops[i] = plans[i].program.stop_sp;
    }
    for (size_t i = 0; r == 0 && i < snapshot->threads_count; i++)
        r = rebuild_scheduling(seed->process->threads[i].tid, &snapshot->threads[i], ret_error);
    return r;
}

int rebuild_threads(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(thread_plans_free) struct thread_plan *plans = calloc(snapshot->threads_count, sizeof *plans);
    scratch_begin_part(scratch);
    seed->gate_address = scratch_take(scratch, sizeof(uint64_t), 8, NULL);
    if (!plans || !seed->gate_address)
        return error_errno(ret_error, -ENOMEM, "rebuilding %zu threads", snapshot->threads_count);
    int r = target_flush_scratch(seed->process, ret_error);
    if (r == 0)
        r = clone_and_take(seed, snapshot, plans, ret_error);
    for (size_t i = 0; i < snapshot->threads_count; i++)
        program_end(&plans[i].program);
    return r;
}
