/* Making a twin: one run of programs in all threads of a stopped target. */
#include "twin/twin.h"
#include "twin/twin-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#define TWIN_CALLS       17
#define SIGNAL_SET_BYTES 8
#define SLEEP_CHECK_NS   100000000U
#define SLEEP_STEP_NS    100000
#define SCRATCH_A_MARK   256

size_t twin_scratch_bytes_about(size_t thread_count)
{
    const struct snapshot threads_only = {.threads_count = thread_count};
    return process_scratch_bytes(&threads_only);
}

size_t twin_scratch_bytes(const struct snapshot *snapshot)
{
    return process_scratch_bytes(snapshot) + twin_region_marks(snapshot) * SCRATCH_A_MARK;
}

/* Everything that is needed between building the programs and reading their results. */
struct making {
    struct target *target;
    size_t thread_count; /* of the target, which may have been let go */
    struct snapshot *snapshot;
    bool will_kill;
    struct program twin_program;
    struct program *programs; /* of each thread of the target */
    struct thread_probe *probes;
    struct process_probe process_probe;
    uint64_t *undo_stops; /* of each thread: where it reports that it is as before */
    size_t clone_call;
    uint64_t header_address, sleep_address;
};

static void making_end(struct making *making)
{
    for (size_t i = 0; making->programs && i < making->thread_count; i++)
        program_end(&making->programs[i]);
    program_end(&making->twin_program);
    free(making->undo_stops);
    free(making->programs);
    free(making->probes);
}

/* ---- programs ---- */

/* Regions that a fork would leave out or wipe are unmarked before it and marked again after it, in both. */
void twin_add_region_marks(struct program *program, const struct snapshot *snapshot, bool mark)
{
    for (size_t i = 0; i < snapshot->regions_count; i++) {
        const struct snapshot_region *row = &snapshot->regions[i];
        const char *what = mark ? NULL : "making a memory region go to the twin";
        uint64_t length = row->end - row->start;
        if (row->flags & SNAPSHOT_REGION_DONTFORK)
            program_call(program, what, SYS_madvise, row->start, length, mark ? MADV_DONTFORK : MADV_DOFORK);
        if (row->flags & SNAPSHOT_REGION_WIPEONFORK)
            program_call(program, what, SYS_madvise, row->start, length,
                         mark ? MADV_WIPEONFORK : MADV_KEEPONFORK);
    }
}

size_t twin_region_marks(const struct snapshot *snapshot)
{
    size_t count = 0;
    for (size_t i = 0; i < snapshot->regions_count; i++)
        count += !!(snapshot->regions[i].flags & SNAPSHOT_REGION_DONTFORK) +
                 !!(snapshot->regions[i].flags & SNAPSHOT_REGION_WIPEONFORK);
    return count;
}

int twin_build_program(struct program *program, struct scratch *scratch, const struct snapshot *snapshot,
                       int report_signal, uint64_t action_address, uint64_t *ret_stack,
                       struct reseat_error **ret_error)
{
    static const uint8_t ignore[TWIN_ACTION_BYTES] = {(uint8_t)(uintptr_t)SIG_IGN};
    int r = program_begin(program, scratch, TWIN_CALLS + twin_region_marks(snapshot), 0, ret_error);
    if (r < 0)
        return r;
    char *name;
    uint64_t name_address = scratch_take(scratch, 16, 8, &name);
    if (name_address)
        snprintf(name, 16, TWIN_NAME_PREFIX "%u", snapshot->process.pid % 100000000U);
    *ret_stack = program_birth(program);
    /* A traced process stops at the report even though it ignores it; one that nobody traces any more must
     * not run the handler that it has inherited. The commit of a restore gives the handler back. */
    if (action_address)
        program_call(program, "ignoring the report signal", SYS_rt_sigaction, (uint64_t)report_signal,
                     scratch_copy(scratch, ignore, sizeof ignore), action_address, SIGNAL_SET_BYTES);
    twin_add_region_marks(program, snapshot, true);
    program_call(program, "naming the twin", SYS_prctl, PR_SET_NAME, name_address);
    /* The number of a group or session that has members stays taken: the twin must not be one of them. But
     * who does not lead a session must not leave it: there would be no way back. */
    if (snapshot->process.flags & SNAPSHOT_LEADS_SESSION)
        program_call(program, "moving the twin out of the session", SYS_setsid, 0);
    else if (snapshot->process.flags & SNAPSHOT_LEADS_GROUP)
        program_call(program, "moving the twin out of the process group", SYS_setpgid, 0, 0);
    program_report(program, report_signal, 0, 0);
    /* Only if we die right now; otherwise it is sent to sleep. */
    program_call(program, NULL, SYS_exit_group, 0);
    return 0;
}

/* What a dying thread would do to memory that lives on: clear its TID, mark its robust mutexes. Behind the
 * report this is undone. */
static void add_ending(struct making *making, size_t index)
{
    struct target *target = making->target;
    struct target_thread *thread = &target->threads[index];
    const struct snapshot_thread *row = &making->snapshot->threads[index];
    struct program *program = &making->programs[index];
    struct thread_probe *probe = &making->probes[index];
    if (making->will_kill) {
        program_call(program, NULL, SYS_set_tid_address, 0);
        if (row->robust_list)
            program_call(program, NULL, SYS_set_robust_list, 0, row->robust_list_length);
    }
    program_report(program, target->report_signal, target->ns_pid, thread->ns_tid);
    if (making->will_kill) {
        size_t mark = program_call(program, NULL, SYS_getpid, 0);
        program_set_result_address(program, mark,
                                   making->header_address + offsetof(struct twin_header, ran_on));
        /* What the thread is asked for is written straight to where it will be needed. */
        size_t set = program_call(program, NULL, SYS_set_tid_address, 0);
        probe->tid_address = program_argument_address(program, set, 0);
        program->calls[probe->tid_call].arguments[1] = probe->tid_address;
        if (row->robust_list)
            program_call(program, NULL, SYS_set_robust_list, row->robust_list, row->robust_list_length);
        uint64_t stop_sp = program->stop_sp;
        program_report(program, target->report_signal, target->ns_pid, thread->ns_tid);
        making->undo_stops[index] = program->stop_sp;
        program->stop_sp = stop_sp;
    }
    program_return(program, thread->regs, thread->signal_mask, making->snapshot->blobs + row->xstate_offset,
                   row->xstate_length);
}

static int build_thread_program(struct making *making, size_t index, struct reseat_error **ret_error)
{
    struct program *program = &making->programs[index];
    int r = program_begin(program, &making->target->scratch, PROCESS_THREAD_PROBE_CALLS + 10,
                          PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    process_probe_thread(program, &making->probes[index]);
    add_ending(making, index);
    return 0;
}

static int build_leader_program(struct making *making, struct reseat_error **ret_error)
{
    struct snapshot *snapshot = making->snapshot;
    struct scratch *scratch = &making->target->scratch;
    struct program *program = &making->programs[0];
    uint64_t stack;
    int r = twin_build_program(&making->twin_program, scratch, snapshot, making->target->report_signal,
                               making->target->report_is_caught
                                   ? making->header_address + offsetof(struct twin_header, report_action)
                                   : 0,
                               &stack, ret_error);
    if (r < 0)
        return r;
    size_t calls =
        PROCESS_PROBE_CALLS(snapshot) + PROCESS_THREAD_PROBE_CALLS + 2 * twin_region_marks(snapshot) + 16;
    r = program_begin(program, scratch, calls, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    process_probe_thread(program, &making->probes[0]);
    process_probe(program, snapshot, &making->process_probe);
    twin_add_region_marks(program, snapshot, false);
    uint64_t flags = snapshot->process.form == SNAPSHOT_FORM_HEIR ? TWIN_HEIR_FLAGS : TWIN_COPY_FLAGS;
    uint64_t arguments = process_clone_arguments(scratch, flags, stack, 0, NULL, 0);
    /* If it fails the regions must still be marked again: the failure is looked at later. */
    making->clone_call = program_call(program, NULL, SYS_clone3, arguments, sizeof(struct clone_args));
    twin_add_region_marks(program, snapshot, true);
    add_ending(making, 0);
    if (!arguments)
        program->is_full = true;
    return 0;
}

/* The header, and the sleep: both stay, whatever is put on the scratch pages later. */
static int write_header(struct making *making, const char *dir, struct reseat_error **ret_error)
{
    struct twin_header *header;
    struct scratch *scratch = &making->target->scratch;
    _cleanup_(program_end) struct program sleep = {0};
    making->header_address = scratch_take(scratch, sizeof *header, 16, &header);
    if (!making->header_address || strlen(dir) >= sizeof header->dir)
        return error_set(ret_error, -ENAMETOOLONG, "%s: the path is too long", dir);
    memcpy(header->magic, TWIN_MAGIC, sizeof header->magic);
    header->pid = making->snapshot->process.pid;
    header->report_signal = (uint32_t)making->target->report_signal;
    header->report_is_caught = making->target->report_is_caught;
    strcpy(header->dir, dir);
    int r = program_begin(&sleep, scratch, 4, 0, ret_error);
    if (r < 0)
        return r;
    program_park(&sleep);
    making->sleep_address = sleep.address;
    header->sleep_address = sleep.address;
    scratch_take(scratch, TWIN_RESERVED_BYTES - scratch->used, 1, NULL);
    return 0;
}

/* ---- running them ---- */

int twin_run_birth(struct target *twin, const struct program *program, struct reseat_error **ret_error)
{
    int r = program_continue(twin, &twin->threads[0], ret_error);
    return r == 0 ? program_await(twin, &twin->threads[0], program, ret_error) : r;
}

/* Starts the threads [first, end), so that they work side by side, and waits for each one's report. */
static int run_threads(struct making *making, size_t first, size_t end, struct reseat_error **ret_error)
{
    struct target *target = making->target;
    int r = 0;
    for (size_t i = first; r == 0 && i < end; i++) {
        r = program_start(target, &target->threads[i], &making->programs[i], ret_error);
        if (r == 0)
            target->threads[i].undo_stop = making->undo_stops[i];
    }
    for (size_t i = first; i < end; i++) {
        if (!target->threads[i].is_moved)
            continue; /* was not started */
        int awaited =
            program_await(target, &target->threads[i], &making->programs[i], r == 0 ? ret_error : NULL);
        r = r == 0 ? awaited : r;
    }
    return r;
}

/* The leader, which clones, goes last: after a fork every page that a thread writes to must be copied. */
static int run_programs(struct making *making, struct reseat_error **ret_error)
{
    struct target *target = making->target;
    int r = target_flush_scratch(target, ret_error);
    if (r == 0)
        r = run_threads(making, 1, target->thread_count, ret_error);
    if (r == 0) {
        r = target_set_options(target, target->pid,
                               PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK);
        if (r < 0)
            error_errno(ret_error, r, "tracing what process %d clones", target->pid);
    }
    if (r == 0)
        r = run_threads(making, 0, 1, ret_error);
    if (r == 0)
        r = target_fetch_scratch(target, ret_error);
    return r;
}

static int check_programs(struct making *making, struct reseat_error **ret_error)
{
    struct target *target = making->target;
    for (size_t i = 0; i < target->thread_count; i++) {
        int r = program_check(&making->programs[i], target->pid, ret_error);
        if (r < 0)
            return r;
    }
    int64_t r = program_result(&making->programs[0], making->clone_call);
    if (r == -EAGAIN)
        return error_set(
            ret_error, -EAGAIN,
            "process %d could not clone its twin: its user has reached RLIMIT_NPROC, its control group "
            "pids.max, or the system its number of threads",
            target->pid);
    if (r == -ENOMEM)
        return error_set(ret_error, -ENOMEM,
                         "process %d could not clone its twin: not enough memory for a copy of it",
                         target->pid);
    return r < 0 ? error_errno(ret_error, (int)r, "cloning the twin of process %d", target->pid) : 0;
}

static void read_probes(struct making *making)
{
    for (size_t i = 0; i < making->target->thread_count; i++)
        process_read_thread_probe(&making->programs[i], &making->probes[i], &making->snapshot->threads[i]);
    process_read_probe(&making->programs[0], &making->process_probe, making->snapshot);
}

int twin_note(struct target *twin, uint64_t header_address, int64_t ns_pid, struct snapshot *snapshot,
              struct reseat_error **ret_error)
{
    struct proc_stat stat;
    int r = proc_stat_read(twin->proc_fd, &stat);
    if (r < 0)
        return error_errno(ret_error, r, "reading the state of the twin %d", twin->pid);
    struct snapshot_process *process = &snapshot->process;
    process->twin = (uint32_t)twin->pid;
    process->ns_twin = (uint32_t)ns_pid;
    process->twin_start_time = stat.start_time;
    twin->ns_pid = (pid_t)ns_pid;
    uint32_t number = (uint32_t)twin->pid;
    r = target_write(twin, header_address + offsetof(struct twin_header, twin), &number, sizeof number);
    return r < 0 ? error_errno(ret_error, r, "writing into the twin %d", twin->pid) : 0;
}

int twin_make(struct target *target, struct snapshot *snapshot, const char *dir, bool will_kill, bool lets_go,
              struct target *ret_twin, struct reseat_error **ret_error)
{
    _cleanup_(making_end) struct making making = {
        .target = target,
        .thread_count = target->thread_count,
        .snapshot = snapshot,
        .will_kill = will_kill,
        .programs = calloc(target->thread_count, sizeof *making.programs),
        .probes = calloc(target->thread_count, sizeof *making.probes),
        .undo_stops = calloc(target->thread_count, sizeof *making.undo_stops),
    };
    if (!making.programs || !making.probes || !making.undo_stops)
        return error_errno(ret_error, -ENOMEM, "making a twin of %zu threads", target->thread_count);
    int r = write_header(&making, dir, ret_error);
    if (r == 0)
        r = build_leader_program(&making, ret_error);
    for (size_t i = 1; r == 0 && i < target->thread_count; i++)
        r = build_thread_program(&making, i, ret_error);
    if (r == 0)
        r = run_programs(&making, ret_error);
    if (r < 0)
        return r;

    _cleanup_(twin_discard) struct target twin = TARGET_NONE;
    uint64_t scratch_address = target->scratch.address, scratch_length = target->scratch.length;
    uint64_t stub_address = target->stub_address;
    if (program_result(&making.programs[0], making.clone_call) >= 0)
        r = target_take_birth(target, &twin, ret_error);
    if (r == 0)
        r = check_programs(&making, ret_error);
    if (r < 0)
        return r;
    read_probes(&making);
    r = process_capture_late(target, snapshot, ret_error);
    if (r < 0)
        return r;
    size_t scratch_used = target->scratch.used;
    if (lets_go)
        target_let_go(target);
    r = twin_run_birth(&twin, &making.twin_program, ret_error);
    if (r == 0)
        r = twin_note(&twin, making.header_address, program_result(&making.programs[0], making.clone_call),
                      snapshot, ret_error);
    if (r < 0)
        return r;
    snapshot->process.scratch_address = scratch_address;
    snapshot->process.scratch_length = scratch_length;
    snapshot->process.stub_address = stub_address;
    /* What it is let go with: asleep, deaf to everything but SIGKILL. */
    arch_enter(twin.threads[0].regs, scratch_address, making.sleep_address);
    twin.threads[0].signal_mask = ~UINT64_C(0);
    twin.threads[0].is_moved = true;
    /* What it may be asked later runs behind what the target has there. */
    twin.scratch = (struct scratch){.address = scratch_address,
                                    .length = scratch_length,
                                    .used = scratch_used,
                                    .first = scratch_used};
    twin.stub_address = stub_address;
    twin.keeps_scratch = true;
    twin.report_is_caught = making.target->report_is_caught;
    *ret_twin = twin;
    twin = TARGET_NONE;
    return 0;
}

/* ---- to sleep ---- */

/* Whether it has gone to sleep: inside the futex(2), behind any filter. */
static bool is_asleep(struct target *twin)
{
    struct proc_stat stat;
    _cleanup_free_ char *call = NULL;
    return proc_stat_read(twin->proc_fd, &stat) == 0 && stat.state == 'S' &&
           file_read(twin->proc_fd, "syscall", &call, NULL) == 0 && strtol(call, NULL, 10) == SYS_futex;
}

/* A seccomp filter that was suspended while we held the twin may not let it sleep. */
static int check_sleep(struct target *twin, struct reseat_error **ret_error)
{
    uint64_t start_ns = now_ns();
    struct proc_stat stat;
    while (proc_stat_read(twin->proc_fd, &stat) == 0 && stat.state != 'Z' && stat.state != 'X') {
        if (is_asleep(twin))
            return 0;
        if (now_ns() - start_ns > SLEEP_CHECK_NS)
            return error_set(ret_error, -EPERM, "the seccomp filter does not let the twin sleep in futex(2)");
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_STEP_NS}, NULL);
    }
    return error_set(
        ret_error, -EPERM,
        "the seccomp filter of the process killed its twin, which must be allowed to sleep in futex(2)");
}

int twin_commit(struct target *twin, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    struct target_thread *thread = &twin->threads[0];
    int r = target_set_options(twin, thread->tid, 0);
    if (r == 0)
        r = target_thread_release(twin, thread);
    if (r < 0)
        return error_errno(ret_error, r, "sending the twin %d to sleep", twin->pid);
    return snapshot->process.flags & SNAPSHOT_FILTERED ? check_sleep(twin, ret_error) : 0;
}

void twin_discard(struct target *twin)
{
    if (twin->pidfd >= 0) {
        sys_pidfd_send_signal(twin->pidfd, SIGKILL);
        target_reap(twin);
        twin_bury(twin->pid);
    }
    target_release(twin);
}
