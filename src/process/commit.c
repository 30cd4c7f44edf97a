/* From a snapshot back into a process, second half: the point of no return and what comes after it.
 *
 * Until here the half-made process is killed if we die, and the twin has everything. The step over is one
 * ptrace call that takes this protection from the leader. From then on the leader's program needs nobody any
 * more: it kills the twin, starts the timers, opens the gate, and every thread returns to where it was by
 * itself. If we are still there, we stop each thread at its last report, put back what a signal frame cannot
 * carry, and unmap the scratch pages. */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>

#define COMMIT_CALLS 32

/* Linux 6.15: timers are made with the id that they are to have. */
#define PR_TIMER_CREATE_RESTORE_IDS     77
#define PR_TIMER_CREATE_RESTORE_IDS_OFF 0
#define PR_TIMER_CREATE_RESTORE_IDS_ON  1
#define PR_TIMER_CREATE_RESTORE_IDS_GET 2

/* Before that, ids are counted up, and those that are not wanted are made and deleted again. */
#define TIMER_IDS_TO_COUNT 5000

static uint32_t new_ns_tid(const struct seed *seed, const struct snapshot *snapshot, uint32_t ns_tid)
{
    size_t innermost = snapshot->process.ns_level_count - 1;
    for (size_t i = 0; i < snapshot->threads_count; i++)
        if (snapshot->threads[i].ns_tids[innermost] == ns_tid)
            return seed->ns_tids[i];
    return ns_tid;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){(time_t)(ns / 1000000000U), (long)(ns % 1000000000U)};
}

/* How many calls one timer takes; `next_id`: what the kernel would give it where ids are counted. */
static size_t timer_calls(const struct snapshot_timer *row, bool can_choose, int next_id)
{
    return 2 + (can_choose ? 0 : 2 * (size_t)(row->id - next_id));
}

static void add_timer(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                      const struct snapshot_timer *row, bool can_choose, int next_id)
{
    struct scratch *scratch = program->scratch;
    struct sigevent event = {.sigev_notify = row->notify, .sigev_signo = row->signal};
    event.sigev_value.sival_ptr = (void *)row->value;
    if (row->notify & SIGEV_THREAD_ID) /* sigev_notify_thread_id; glibc 2.36 hides the name */
        event._sigev_un._tid = (pid_t)new_ns_tid(seed, snapshot, row->ns_tid);
    uint64_t event_address = scratch_copy(scratch, &event, sizeof event);
    for (int id = next_id; !can_choose && id < row->id; id++) {
        program_call(program, "counting up to the id of a timer", SYS_timer_create, CLOCK_MONOTONIC, 0,
                     scratch_copy(scratch, &id, sizeof id));
        program_call(program, NULL, SYS_timer_delete, (uint64_t)id);
    }
    program_call(program, "making a timer again", SYS_timer_create, (uint64_t)row->clock, event_address,
                 scratch_copy(scratch, &row->id, sizeof row->id));
    struct itimerspec times = {timespec_of(row->interval_ns), timespec_of(row->remaining_ns)};
    if (row->remaining_ns)
        program_call(program, "starting a timer again", SYS_timer_settime, (uint64_t)row->id, 0,
                     scratch_copy(scratch, &times, sizeof times));
}

static int add_timers(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                      bool can_choose)
{
    int next_id = 0;
    if (can_choose)
        program_call(program, "choosing the ids of timers", SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS,
                     PR_TIMER_CREATE_RESTORE_IDS_ON);
    for (size_t i = 0; i < snapshot->timers_count; i++) {
        add_timer(program, seed, snapshot, &snapshot->timers[i], can_choose, next_id);
        next_id = snapshot->timers[i].id + 1;
    }
    if (can_choose)
        program_call(program, NULL, SYS_prctl, PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_OFF);
    return 0;
}

static size_t count_timer_calls(const struct snapshot *snapshot, bool can_choose, int *ret_last_id)
{
    size_t count = 2;
    int next_id = 0;
    for (size_t i = 0; i < snapshot->timers_count; i++) {
        count += timer_calls(&snapshot->timers[i], can_choose, next_id);
        next_id = snapshot->timers[i].id + 1;
    }
    *ret_last_id = next_id - 1;
    return count;
}

static void add_itimers(struct program *program, const struct snapshot_process *process)
{
    for (uint64_t which = 0; which < COUNT_OF(process->itimers); which++) {
        const struct snapshot_itimer *row = &process->itimers[which];
        struct itimerval times = {
            {(time_t)(row->interval_us / 1000000U), (suseconds_t)(row->interval_us % 1000000U)},
            {(time_t)(row->value_us / 1000000U), (suseconds_t)(row->value_us % 1000000U)},
        };
        if (row->value_us)
            program_call(program, "starting an interval timer again", SYS_setitimer, which,
                         scratch_copy(program->scratch, &times, sizeof times));
    }
}

/* The leader's last program: up to the first report it can still fail, behind it stands the way of no return.
 */
static int build_commit(struct seed *seed, const struct snapshot *snapshot, struct program *program,
                        uint64_t *ret_first_stop, struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    const struct snapshot_thread *leader = &snapshot->threads[0];
    bool can_choose = snapshot->timers_count &&
                      prctl(PR_TIMER_CREATE_RESTORE_IDS, PR_TIMER_CREATE_RESTORE_IDS_GET, 0, 0, 0) >= 0;
    int last_id;
    size_t calls = COMMIT_CALLS + REBUILD_RETURN_CALLS + count_timer_calls(snapshot, can_choose, &last_id) +
                   rebuild_signal_calls(snapshot, 0) + rebuild_signal_calls(snapshot, leader->tid);
    if (!can_choose && last_id > TIMER_IDS_TO_COUNT)
        return error_set(
            ret_error, -ENOTSUP,
            "a timer of process %d has the id %d, which takes Linux 6.15 or newer to be made again",
            process->pid, last_id);
    scratch_begin_part(&process->scratch);
    int r = program_begin(program, &process->scratch, calls, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    add_timers(program, seed, snapshot, can_choose);
    rebuild_add_signals(program, snapshot, 0);
    rebuild_add_signals(program, snapshot, leader->tid);
    program_report(program, process->report_signal, 0, 0);
    *ret_first_stop = program->stop_sp;

    if (seed->ns_maker)
        program_call(program, NULL, SYS_kill, seed->ns_maker, SIGKILL);
    add_itimers(program, &snapshot->process);
    if (snapshot->process.parent_death_signal)
        program_call(program, NULL, SYS_prctl, PR_SET_PDEATHSIG, snapshot->process.parent_death_signal);
    /* The gate opens by holding the result of a call that is never zero. */
    program_set_result_address(program, program_call(program, NULL, SYS_getpid, 0), seed->gate_address);
    program_call(program, NULL, SYS_futex, seed->gate_address, FUTEX_WAKE, INT_MAX);
    if (seed->report_action_address)
        program_call(program, NULL, SYS_rt_sigaction, (uint64_t)process->report_signal,
                     seed->report_action_address, 0, 8);
    rebuild_add_return(program, seed, snapshot, leader);
    return 0;
}

/* glibc keeps the number of a thread where the kernel is to clear it; musl has a lock there, which does not
 * look like the old number. */
static void renumber_thread(struct seed *seed, const struct snapshot *snapshot, size_t index)
{
    const struct snapshot_thread *row = &snapshot->threads[index];
    uint32_t noted;
    if (row->tid_address && target_read(seed->process, row->tid_address, &noted, sizeof noted) == 0 &&
        noted == row->ns_tids[snapshot->process.ns_level_count - 1])
        target_write(seed->process, row->tid_address, &seed->ns_tids[index], sizeof noted);
}

/* What a thread is to be when it is let go. */
static int load_thread(struct seed *seed, const struct snapshot *snapshot, size_t index)
{
    struct target_thread *thread = &seed->process->threads[index];
    const struct snapshot_thread *row = &snapshot->threads[index];
    memcpy(thread->regs, row->regs, sizeof thread->regs);
    thread->signal_mask = row->signal_mask;
    thread->dispatch = (struct dispatch_config){row->dispatch_mode, row->dispatch_selector,
                                                row->dispatch_offset, row->dispatch_length};
    thread->is_moved = true;
    if (seed->has_new_numbers)
        renumber_thread(seed, snapshot, index);
    return target_set_xstate(thread->tid, snapshot->blobs + row->xstate_offset, row->xstate_length);
}

/* Takes the protection that kills the half-made process with us: from the threads first, while the leader
 * still has it (one is enough to kill them all), so that the last call is the step. */
static int step_over(struct seed *seed, struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    for (size_t i = process->thread_count; i-- > 0;) {
        if (i > 0 && !seed->is_filtered)
            continue; /* seized later, never had it */
        struct target_thread *thread = &process->threads[i];
        int r = i > 0 ? target_interrupt(process, thread, ret_error) : 0;
        if (r == 0)
            r = target_set_options(process, thread->tid, 0);
        if (r == 0 && i > 0)
            r = program_continue(process, thread, ret_error);
        if (r < 0)
            return error_errno(ret_error, r, "letting go of process %d", process->pid);
    }
    return 0;
}

int process_commit(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    _cleanup_(program_end) struct program program = {0};
    uint64_t first_stop = 0;
    int r = build_commit(seed, snapshot, &program, &first_stop, ret_error);
    if (r < 0)
        return r;
    uint64_t last_stop = program.stop_sp;
    program.stop_sp = first_stop;
    r = program_run(seed->process, &program, ret_error);
    if (r < 0)
        return r;

    r = step_over(seed, ret_error);
    if (r < 0)
        return r;
    /* From here on nothing may fail: the twin is gone. A thread that we cannot help finds its way alone. */
    program_continue(process, &process->threads[0], NULL);
    for (size_t i = 0; i < process->thread_count; i++) {
        struct program report = {.stop_sp = i ? seed->stops[i] : last_stop};
        if (program_await(process, &process->threads[i], &report, NULL) < 0 ||
            load_thread(seed, snapshot, i) < 0)
            target_abandon_thread(process, &process->threads[i]);
    }
    if (snapshot->process.flags & SNAPSHOT_STOPPED)
        sys_pidfd_send_signal(process->pidfd, SIGSTOP);
    return 0;
}
