/* From a sleeping twin back to a process: the twin is taken in hand and clones the half-made process, under
 * the old PID, with the flags that it was cloned with itself. Also its other uses: a copy of it for another
 * restore. */
#include "twin/twin.h"
#include "twin/twin-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <time.h>

#define RETRY_NS       500000
#define FORMER_POLL_NS 200000

static int report_gone(const struct snapshot_process *process, struct reseat_error **ret_error)
{
    return error_set(
        ret_error, -ESRCH,
        "the twin %u of process %u is gone: somebody or something killed it (out of memory, the end of its "
        "control group, a signal)",
        process->twin, process->pid);
}

int twin_check(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_process *process = &snapshot->process;
    bool has_image = snapshot->vmas_count;
    if (!process->twin)
        return error_set(ret_error, -ESRCH, "the checkpoint of process %u has no twin, only an image",
                         process->pid);
    if (!boot_id_is_current(process->boot_id))
        return error_set(ret_error, -ESRCH, "the machine was started again since: the twin is gone%s",
                         has_image ? ", but there is an image" : ", and with it this checkpoint");
    struct proc_stat stat;
    int r = proc_stat_of((pid_t)process->twin, &stat);
    if (r < 0 || stat.start_time != process->twin_start_time || stat.state == 'Z' || stat.state == 'X')
        return report_gone(process, ret_error);
    if (strncmp(stat.comm, TWIN_NAME_PREFIX, strlen(TWIN_NAME_PREFIX)) != 0)
        return error_set(ret_error, -EBADMSG, "process %u is not a twin", process->twin);
    return 0;
}

/* Closes what a restore that was killed has left open in the table that it shared with the twin. */
static int close_passing(struct target *twin, uint64_t selector, uint64_t word_address,
                         struct reseat_error **ret_error)
{
    static const uint64_t nothing;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, &twin->scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    program_call(&program, NULL, SYS_close, selector);
    program_report(&program, twin->report_signal, twin->ns_pid, twin->threads[0].ns_tid);
    program_park(&program);
    r = program_run(twin, &program, ret_error);
    if (r == 0)
        r = target_write(twin, word_address, &nothing, sizeof nothing);
    twin->scratch.used = twin->scratch.first;
    return r;
}

/* A restore that was killed just behind its point of no return leaves a process that completes itself, on
 * these very pages, and ends the twin as its first act; one that was killed before leaves a process that is
 * about to die. Either takes as long as the scheduler pleases, and nothing must be written here until it is
 * over. */
static int await_former_restore(const struct target *twin, const struct snapshot_process *process,
                                struct reseat_error **ret_error)
{
    uint64_t start_ns = now_ns();
    struct proc_stat stat;
    while (proc_stat_of((pid_t)process->pid, &stat) == 0 && stat.state != 'Z' && stat.state != 'X') {
        int order = sys_kcmp(twin->pid, (pid_t)process->pid, KCMP_VM, 0, 0);
        if (proc_stat_of(twin->pid, &stat) < 0 || stat.state == 'Z' || stat.state == 'X')
            return report_gone(process, ret_error);
        if (order != 0)
            return 0; /* somebody else with the number, or gone */
        if (now_ns() - start_ns > TARGET_STOP_TIMEOUT_NS)
            return error_set(
                ret_error, -EBUSY,
                "process %u runs in the memory of the twin %u: another restore of it is under way",
                process->pid, process->twin);
        nanosleep(&(struct timespec){.tv_nsec = FORMER_POLL_NS}, NULL);
    }
    return proc_stat_of(twin->pid, &stat) < 0 || stat.state == 'Z' || stat.state == 'X'
               ? report_gone(process, ret_error)
               : 0;
}

int twin_open(const struct snapshot *snapshot, struct target *ret_twin, struct reseat_error **ret_error)
{
    const struct snapshot_process *process = &snapshot->process;
    int r = twin_check(snapshot, ret_error);
    if (r < 0)
        return r;
    _cleanup_(target_release) struct target twin = TARGET_NONE;
    r = target_seize((pid_t)process->twin, &twin, ret_error);
    if (r == 0)
        r = target_stop(&twin, ret_error);
    if (r == -ESRCH)
        return report_gone(process, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "taking the twin in hand");
    if ((process->flags & SNAPSHOT_FILTERED) && !(twin.trace_options & PTRACE_O_SUSPEND_SECCOMP)) {
        twin.keeps_scratch = true;
        return error_set(ret_error, -EPERM,
                         "the twin %u is under a seccomp filter, and to suspend that takes CAP_SYS_ADMIN "
                         "(and no filter on "
                         "ourselves)",
                         process->twin);
    }
    uint64_t ip = arch_ip(twin.threads[0].regs);
    if (twin.thread_count != 1 || ip < process->scratch_address ||
        ip >= process->scratch_address + (uint64_t)(arch_interpreter_end - arch_interpreter))
        return error_set(ret_error, -EBADMSG, "process %u is not a sleeping twin", process->twin);
    r = target_adopt_scratch(&twin, process->scratch_address, process->scratch_length, process->stub_address,
                             ret_error);
    if (r < 0)
        return r;
    twin.keeps_scratch = true;
    struct twin_header header;
    r = target_read(&twin, process->scratch_address + TWIN_HEADER_OFFSET, &header, sizeof header);
    if (r < 0)
        return error_errno(ret_error, r, "reading the header of the twin %d", twin.pid);
    if (process->form == SNAPSHOT_FORM_HEIR && header.ran_on)
        return error_set(
            ret_error, -ESTALE,
            "process %u was not killed by this checkpoint, because Reseat was killed just then, and has "
            "run on in the memory of its twin: there is nothing to restore; drop it",
            process->pid);
    r = await_former_restore(&twin, process, ret_error);
    if (r < 0)
        return r;
    if (header.report_signal != SIGURG && header.report_signal != SIGWINCH && header.report_signal != SIGCHLD)
        return error_set(ret_error, -EBADMSG, "the header of the twin %d is damaged", twin.pid);
    twin.report_signal = (int)header.report_signal;
    twin.report_is_caught = header.report_is_caught;
    /* It may sleep in a program of an earlier restore that was killed, which is about to be overwritten. */
    struct target_thread *thread = &twin.threads[0];
    arch_enter(thread->regs, scratch_interpreter(&twin.scratch), header.sleep_address);
    r = target_move_thread(thread, thread->regs, 0);
    if (r < 0)
        return error_errno(ret_error, r, "taking the twin %d in hand", twin.pid);
    scratch_take(&twin.scratch, TWIN_RESERVED_BYTES, 16, NULL);
    scratch_begin_part(&twin.scratch);
    if (header.passing)
        r = close_passing(&twin, header.passing - 1,
                          process->scratch_address + TWIN_HEADER_OFFSET +
                              offsetof(struct twin_header, passing),
                          ret_error);
    if (r < 0)
        return r;
    *ret_twin = twin;
    twin = TARGET_NONE;
    return 0;
}

/* ---- cloning under a certain number ---- */

/* Runs the twin's program, which clones once and then goes back to sleep if nobody is there any more. Whether
 * it may is another question: *ret_result is what the kernel has said to it. */
static int clone_once(struct target *twin, uint64_t arguments, const struct snapshot *regions,
                      int64_t *ret_result, struct reseat_error **ret_error)
{
    struct target_thread *thread = &twin->threads[0];
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, &twin->scratch, 8 + 2 * twin_region_marks(regions), 0, ret_error);
    if (r < 0)
        return r;
    twin_add_region_marks(&program, regions, false);
    size_t call = program_call(&program, NULL, SYS_clone3, arguments, sizeof(struct clone_args));
    twin_add_region_marks(&program, regions, true);
    program_report(&program, twin->report_signal, twin->ns_pid, thread->ns_tid);
    program_park(&program);
    r = program_leave(twin, ret_error);
    if (r == 0)
        r = target_flush_scratch(twin, ret_error);
    if (r == 0) {
        r = target_set_options(twin, thread->tid,
                               PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK);
        if (r < 0)
            error_errno(ret_error, r, "tracing what the twin %d clones", twin->pid);
    }
    if (r == 0)
        r = program_start(twin, thread, &program, ret_error);
    if (r == 0)
        r = program_await(twin, thread, &program, ret_error);
    if (r == 0)
        r = target_fetch_scratch(twin, ret_error);
    if (r == 0)
        *ret_result = program_result(&program, call);
    return r;
}

static int wait_a_little(uint64_t deadline_ns)
{
    if (now_ns() >= deadline_ns)
        return -ETIMEDOUT;
    return nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL) < 0 ? -EINTR : 0;
}

static int interrupted(struct reseat_error **ret_error)
{
    return error_set(ret_error, -EINTR,
                     "interrupted while waiting; the twin sleeps on, and nothing has been lost");
}

static int wait_until_free(pid_t pid, uint64_t deadline_ns, struct reseat_error **ret_error)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    while (access(path, F_OK) == 0) {
        int r = wait_a_little(deadline_ns);
        if (r < 0)
            return r == -EINTR ? interrupted(ret_error) : process_report_taken(pid, ret_error);
    }
    return 0;
}

/* What has to be said when the kernel does not let the twin clone. */
static int report_clone(int64_t r, const struct snapshot_process *process, struct reseat_error **ret_error)
{
    if (r == -EPERM)
        return error_set(
            ret_error, -EPERM,
            "the old PID %u cannot be had again: that takes CAP_CHECKPOINT_RESTORE (root, or 'setcap "
            "cap_checkpoint_restore+ep' on reseat); or restore with --new-pid",
            process->pid);
    if (r == -EAGAIN)
        return error_set(
            ret_error, -EAGAIN,
            "the twin could not clone the process: its user has reached RLIMIT_NPROC, its control group "
            "pids.max, or the system its number of threads");
    return error_errno(ret_error, (int)r, "cloning process %u from its twin %u", process->pid, process->twin);
}

/* One attempt to clone the half-made process. If *ret_result is not negative, it is there, and stopped before
 * its first instruction. */
static int clone_seed(struct target *twin, const struct snapshot *snapshot, bool choose,
                      struct target *ret_process, int64_t *ret_result, struct reseat_error **ret_error)
{
    struct scratch *scratch = &twin->scratch;
    static const struct snapshot nothing_marked; /* memory is shared, not forked */
    _cleanup_(program_end) struct program stillborn = {0};
    scratch->used = scratch->first;
    int r = program_begin(&stillborn, scratch, 2, 0, ret_error);
    if (r < 0)
        return r;
    uint64_t stack = program_birth(&stillborn);
    program_call(&stillborn, NULL, SYS_exit_group, 0);
    uint64_t arguments =
        process_clone_arguments(scratch, TWIN_HEIR_FLAGS, stack, 0, choose ? snapshot->process.ns_pids : NULL,
                                snapshot->process.ns_level_count);
    r = clone_once(twin, arguments, &nothing_marked, ret_result, ret_error);
    if (r < 0 || *ret_result < 0)
        return r;
    r = target_take_birth(twin, ret_process, ret_error);
    if (r < 0)
        return r;
    ret_process->ns_pid = (pid_t)*ret_result;
    ret_process->threads[0].ns_tid = (pid_t)*ret_result;
    return 0;
}

/* Without the right to choose a number: see process_choose_next(). */
static int race_for_seed(struct target *twin, const struct snapshot *snapshot, struct seed *seed,
                         struct target *ret_process, struct reseat_error **ret_error)
{
    const struct snapshot_process *process = &snapshot->process;
    seed->must_race = true;
    seed->last_number = process_last_number();
    do {
        if (process_choose_next(twin->pid, process->ns_pids, process->ns_level_count, NULL) < 0)
            return report_clone(-EPERM, process, ret_error);
        int64_t result;
        int r = clone_seed(twin, snapshot, false, ret_process, &result, ret_error);
        if (r == 0 && result < 0)
            r = report_clone(result, process, ret_error);
        if (r < 0)
            return r;
        if (ret_process->pid == (pid_t)process->pid &&
            ret_process->ns_pid == (pid_t)process->ns_pids[process->ns_level_count - 1])
            return 0;
        twin_discard(ret_process);
    } while (now_ns() < seed->deadline_ns);
    return process_report_taken((pid_t)process->pid, ret_error);
}

static int clone_under_old_number(struct target *twin, const struct snapshot *snapshot, struct seed *seed,
                                  struct target *ret_process, uint64_t *ret_free_ns,
                                  struct reseat_error **ret_error)
{
    const struct snapshot_process *process = &snapshot->process;
    int r = wait_until_free((pid_t)process->pid, seed->deadline_ns, ret_error);
    if (r < 0)
        return r;
    for (;;) {
        int64_t result;
        *ret_free_ns = now_ns();
        r = clone_seed(twin, snapshot, true, ret_process, &result, ret_error);
        if (r < 0 || result >= 0)
            return r;
        if (result == -EPERM)
            return race_for_seed(twin, snapshot, seed, ret_process, ret_error);
        if (result != -EEXIST)
            return report_clone(result, process, ret_error);
        /* Right after the end of a process its number stays taken for a moment, and seen by nobody. */
        r = wait_a_little(seed->deadline_ns);
        if (r < 0)
            return r == -EINTR ? interrupted(ret_error)
                               : process_report_taken((pid_t)process->pid, ret_error);
    }
}

uint64_t twin_passing_address(const struct snapshot *snapshot)
{
    return snapshot->process.scratch_address + TWIN_HEADER_OFFSET + offsetof(struct twin_header, passing);
}

int twin_seed(struct target *twin, const struct snapshot *snapshot, bool new_pid, uint64_t wait_ns,
              struct seed *seed, struct target *ret_process, uint64_t *ret_free_ns,
              struct reseat_error **ret_error)
{
    *seed = (struct seed){
        .ns_maker = snapshot->process.ns_twin,
        .shares_memory = snapshot->process.form == SNAPSHOT_FORM_HEIR,
        .has_new_numbers = new_pid,
        .is_filtered = snapshot->process.flags & SNAPSHOT_FILTERED,
        .renews_locks = twin_gave_up_locks(twin, snapshot),
        .deadline_ns = now_ns() + wait_ns,
    };
    int r;
    if (new_pid) {
        int64_t result;
        *ret_free_ns = now_ns();
        r = clone_seed(twin, snapshot, false, ret_process, &result, ret_error);
        if (r == 0 && result < 0)
            r = report_clone(result, &snapshot->process, ret_error);
    } else {
        r = clone_under_old_number(twin, snapshot, seed, ret_process, ret_free_ns, ret_error);
    }
    if (r < 0)
        return r;
    /* Its threads are traced from birth only if they must be. */
    r = target_set_options(ret_process, ret_process->pid,
                           PTRACE_O_EXITKILL | (seed->is_filtered ? PTRACE_O_TRACECLONE : 0));
    if (r < 0)
        return error_errno(ret_error, r, "taking over the new process %d", ret_process->pid);
    scratch_begin_part(&twin->scratch); /* the twin's programs stay as they are */
    ret_process->scratch = twin->scratch;
    ret_process->stub_address = twin->stub_address;
    twin->scratch = (struct scratch){0};
    twin->stub_address = 0;
    /* Only then: to set a signal to its default discards those that are waiting, and our reports with them.
     */
    if (twin->report_is_caught)
        seed->report_action_address = snapshot->process.scratch_address + TWIN_HEADER_OFFSET +
                                      offsetof(struct twin_header, report_action);
    seed->passing_address = twin_passing_address(snapshot);
    seed->process = ret_process;
    return 0;
}

int twin_describe(struct target *twin, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    uint64_t action[TWIN_ACTION_BYTES / sizeof(uint64_t)];
    int r = target_read(twin,
                        snapshot->process.scratch_address + TWIN_HEADER_OFFSET +
                            offsetof(struct twin_header, report_action),
                        action, sizeof action);
    if (r < 0)
        return error_errno(ret_error, r, "reading the header of the twin %d", twin->pid);
    r = target_reserve_mirror(twin, twin->scratch.length - TWIN_HEADER_OFFSET, ret_error);
    if (r < 0)
        return r;
    return process_describe(twin, twin->report_is_caught ? action : NULL, snapshot, ret_error);
}

int twin_copy(struct target *twin, struct snapshot *snapshot, struct target *ret_copy,
              struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    _cleanup_(twin_discard) struct target copy = TARGET_NONE;
    struct scratch *scratch = &twin->scratch;
    uint64_t stack;
    scratch->used = scratch->first;
    int r = twin_build_program(&program, scratch, snapshot, twin->report_signal, 0, &stack, ret_error);
    if (r < 0)
        return r;
    uint64_t arguments = process_clone_arguments(scratch, TWIN_COPY_FLAGS, stack, 0, NULL, 0);
    int64_t result;
    r = clone_once(twin, arguments, snapshot, &result, ret_error);
    if (r == 0 && result < 0)
        r = error_errno(ret_error, (int)result, "copying the twin %d", twin->pid);
    if (r == 0)
        r = target_take_birth(twin, &copy, ret_error);
    if (r == 0)
        r = twin_run_birth(&copy, &program, ret_error);
    if (r == 0)
        r = twin_note(&copy, snapshot->process.scratch_address + TWIN_HEADER_OFFSET, result, snapshot,
                      ret_error);
    if (r < 0)
        return r;
    memcpy(copy.threads[0].regs, twin->threads[0].regs, sizeof copy.threads[0].regs);
    copy.threads[0].signal_mask = ~UINT64_C(0);
    copy.threads[0].is_moved = true;
    scratch->used = scratch->first;
    *ret_copy = copy;
    copy = TARGET_NONE;
    return 0;
}
