/* From a snapshot back into a process, first half: everything before the point of no return.
 *
 * The leader of a half-made process runs programs that give it back its family, its name, the treatment of
 * its memory and the owners of its capabilities' signals, and that clone its threads. Each thread runs a
 * program of its own that sets up what belongs to it, and waits at a gate, a word on the scratch pages.
 * Nothing that a dying thread would touch in the memory that it shares with the twin (tid address, robust
 * list) is registered yet, so that the half-made process can be killed without a trace. */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define SCRATCH_BASE        (192 * 1024)
#define SCRATCH_A_THREAD    (24 * 1024) /* with room for 11 KiB of extended state */
#define SCRATCH_A_TIMER     2048
#define SCRATCH_A_SIGNAL    512
#define SCRATCH_CREDENTIALS (16U * 1024)
#define FAMILY_CALLS        16
#define HOLDING_BYTES       64 /* of data beside the calls for one row */

size_t process_scratch_bytes(const struct snapshot *snapshot)
{
    size_t bytes = SCRATCH_BASE + snapshot->threads_count * SCRATCH_A_THREAD +
                   snapshot->timers_count * SCRATCH_A_TIMER + snapshot->signals_count * SCRATCH_A_SIGNAL;
    for (size_t i = 0; i < snapshot->credentials_count; i++)
        bytes += SCRATCH_CREDENTIALS + snapshot->credentials[i].credentials.group_count * sizeof(uint32_t);
    return bytes;
}

void seed_end(struct seed *seed)
{
    free(seed->ns_tids);
    free(seed->stops);
    seed->ns_tids = NULL;
    seed->stops = NULL;
}

/* ---- what every thread has for itself ---- */

static void add_alternate_stack(struct program *program, const struct snapshot_thread *row)
{
    struct {
        uint64_t address;
        uint32_t flags, padding;
        uint64_t length;
    } stack = {row->altstack_address, row->altstack_flags & ~(uint32_t)SS_ONSTACK, 0, row->altstack_length};
    if (row->altstack_length)
        program_call(program, "setting the alternate stack", SYS_sigaltstack,
                     scratch_copy(program->scratch, &stack, sizeof stack));
}

void rebuild_add_signals(struct program *program, const struct snapshot *snapshot, uint32_t tid)
{
    for (size_t i = 0; i < snapshot->signals_count; i++) {
        const struct snapshot_signal *row = &snapshot->signals[i];
        if (row->tid != tid)
            continue;
        siginfo_t info;
        memcpy(&info, row->siginfo, sizeof info);
        uint64_t number = (uint64_t)info.si_signo,
                 address = scratch_copy(program->scratch, row->siginfo, sizeof info);
        /* Only a process itself may send what looks like the kernel's own signals. */
        size_t get_pid = program_call(program, NULL, SYS_getpid, 0);
        size_t get_tid = program_call(program, NULL, SYS_gettid, 0);
        size_t queue =
            tid ? program_call(program, "queueing a signal again", SYS_rt_tgsigqueueinfo, 0, 0, number,
                               address)
                : program_call(program, "queueing a signal again", SYS_rt_sigqueueinfo, 0, number, address);
        if (program->is_full)
            return;
        program_set_result_address(program, get_pid, program_argument_address(program, queue, 0));
        if (tid)
            program_set_result_address(program, get_tid, program_argument_address(program, queue, 1));
    }
}

size_t rebuild_signal_calls(const struct snapshot *snapshot, uint32_t tid)
{
    size_t count = 0;
    for (size_t i = 0; i < snapshot->signals_count; i++)
        count += snapshot->signals[i].tid == tid ? REBUILD_SIGNAL_CALLS : 0;
    return count;
}

/* What a thread is born with from the leader is set only where it differs. */
static void add_policies(struct program *program, const struct snapshot_thread *row,
                         const struct snapshot_thread *leader)
{
    if (row->flags & ~leader->flags & SNAPSHOT_THREAD_NO_NEW_PRIVS)
        program_call(program, NULL, SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
    if (row->memory_fault_policy != leader->memory_fault_policy)
        program_call(program, NULL, SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, row->memory_fault_policy);
    if (row->time_stamp_mode != leader->time_stamp_mode)
        program_call(program, NULL, SYS_prctl, PR_SET_TSC, row->time_stamp_mode);
    if (row->memory_policy != leader->memory_policy ||
        memcmp(row->memory_policy_nodes, leader->memory_policy_nodes, sizeof row->memory_policy_nodes) != 0)
        program_call(program, NULL, SYS_set_mempolicy, row->memory_policy,
                     scratch_copy(program->scratch, row->memory_policy_nodes,
                                  sizeof row->memory_policy_nodes),
                     SNAPSHOT_NODE_WORDS * 64);
}

void rebuild_add_thread_setup(struct program *program, const struct snapshot_thread *row,
                              const struct snapshot_thread *leader)
{
    if (row->rseq_address)
        program_call(program, "registering restartable sequences", SYS_rseq, row->rseq_address,
                     row->rseq_length, 0, row->rseq_signature);
    add_alternate_stack(program, row);
    program_call(program, "setting the name", SYS_prctl, PR_SET_NAME,
                 scratch_copy(program->scratch, row->name, sizeof row->name));
    if (row->timer_slack_ns)
        program_call(program, NULL, SYS_prctl, PR_SET_TIMERSLACK, row->timer_slack_ns);
    add_policies(program, row, leader);
    long number;
    uint64_t arguments[6] = {0};
    if (arch_second_tls_call((const uint64_t *)row->regs, &number, arguments))
        program_add(program, "setting the second thread pointer", number, arguments);
}

/* The next descriptor that is opened in the half-made process will be in passing. Its table is also its
 * maker's: the number, which is known because nobody else uses the table, is noted beforehand, in case we are
 * killed before it is closed again. */
int rebuild_note_passing(struct seed *seed, struct reseat_error **ret_error)
{
    _cleanup_free_ int *selectors = NULL;
    size_t count;
    int r = proc_list_numbers(seed->process->proc_fd, "fd", &selectors, &count);
    uint64_t lowest = 0;
    for (size_t i = 0; r >= 0 && i < count && selectors[i] == (int)lowest; i++)
        lowest++;
    if (r >= 0) {
        lowest++;
        r = target_write(seed->process, seed->passing_address, &lowest, sizeof lowest);
    }
    return r < 0 ? error_errno(ret_error, r, "looking for a free selector of process %d", seed->process->pid)
                 : 0;
}

int rebuild_clear_passing(struct seed *seed)
{
    static const uint64_t nothing;
    return target_write(seed->process, seed->passing_address, &nothing, sizeof nothing);
}

/* ---- the family ---- */

static int rebuild_family(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_process *process = &snapshot->process;
    _cleanup_(program_end) struct program program = {0};
    /* With these every program is started from now on; the frame that the last one returns by has no room for
     * them. */
    arch_copy_tls(seed->process->threads[0].regs, (const uint64_t *)snapshot->threads[0].regs);
    int r = program_begin(&program, &seed->process->scratch, 2 * FAMILY_CALLS, 0, ret_error);
    if (r < 0)
        return r;
    if (seed->own_table)
        program_call(&program, "taking a table of its own", SYS_unshare, CLONE_FILES);
    if ((process->flags & SNAPSHOT_LEADS_SESSION) || seed->new_session)
        program_call(&program, "leading a session again", SYS_setsid, 0);
    else if (process->flags & SNAPSHOT_LEADS_GROUP)
        program_call(&program, "leading a process group again", SYS_setpgid, 0, 0);
    if (process->flags & SNAPSHOT_SUBREAPER)
        program_call(&program, "being a child subreaper again", SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
    rebuild_add_thread_setup(&program, &snapshot->threads[0], &snapshot->threads[0]);
    r = program_run_batch(seed->process, &program, ret_error);
    return r < 0 ? r : process_take_terminal(seed, process, 0, ret_error);
}

/* ---- memory and capabilities: only what a twin does not hand on ---- */

static void add_memory_locks(struct program_batch *batch, const struct snapshot_region *row)
{
    if (row->flags & SNAPSHOT_REGION_LOCKED)
        program_call(&batch->program, "locking a memory region again", SYS_mlock2, row->start,
                     row->end - row->start, row->flags & SNAPSHOT_REGION_LOCKED_ONFAULT ? MLOCK_ONFAULT : 0);
}

/* The number that an owner has in the restored process. */
static uint32_t owner_number(const struct seed *seed, const struct snapshot *snapshot,
                             const struct snapshot_owner *row)
{
    for (size_t i = 0; row->type == F_OWNER_TID && i < snapshot->threads_count; i++)
        if (snapshot->threads[i].tid == (uint32_t)row->pid)
            return seed->ns_tids[i];
    return seed->ns_tids[0];
}

static void add_owner(struct program_batch *batch, const struct seed *seed, const struct snapshot *snapshot,
                      const struct snapshot_owner *row)
{
    struct f_owner_ex owner = {row->type, (pid_t)owner_number(seed, snapshot, row)};
    if (seed->is_bare)
        program_call(&batch->program, "setting the signal of a capability again", SYS_fcntl, row->selector,
                     F_SETSIG, (uint64_t)row->signal);
    program_call(&batch->program, "setting the owner of a capability again", SYS_fcntl, row->selector,
                 F_SETOWN_EX, scratch_copy(batch->program.scratch, &owner, sizeof owner));
}

static void remove_interest(struct program_batch *batch, const struct snapshot_interest *row)
{
    if (row->action & SNAPSHOT_INTEREST_REMOVE)
        program_call(&batch->program, NULL, SYS_epoll_ctl, row->epoll_selector, EPOLL_CTL_DEL, row->selector,
                     0);
}

static void add_interest(struct program_batch *batch, const struct snapshot_interest *row)
{
    struct epoll_event event = {.events = row->events, .data.u64 = row->data};
    if (row->action & SNAPSHOT_INTEREST_ADD)
        program_call(&batch->program, "adding to an epoll set again", SYS_epoll_ctl, row->epoll_selector,
                     EPOLL_CTL_ADD, row->selector,
                     scratch_copy(batch->program.scratch, &event, sizeof event));
}

static void add_position(struct program_batch *batch, const struct snapshot_position *row)
{
    struct program *program = &batch->program;
    if (row->offset >= 0)
        program_call(program, NULL, SYS_lseek, row->selector, (uint64_t)row->offset, SEEK_SET);
    program_call(program, NULL, SYS_fcntl, row->selector, F_SETFL, row->status_flags);
}

/* A descriptor on a file of the process under /proc: the old one speaks of a process that is gone. */
static int rebuild_reopen(struct seed *seed, const struct snapshot *snapshot,
                          const struct snapshot_reopen *row, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(program_end) struct program program = {0}, moving = {0};
    uint64_t fd = row->alias_of;
    int r = 0;
    if (row->alias_of == row->selector) {
        char path[256];
        snprintf(path, sizeof path, "/proc/self/%s", (const char *)snapshot->blobs + row->path_offset);
        r = program_begin(&program, scratch, 8, 0, ret_error);
        if (r < 0)
            return r;
        size_t open_call = program_call(&program, "opening a file of its own under /proc again", SYS_openat,
                                        (uint64_t)AT_FDCWD, scratch_copy(scratch, path, strlen(path) + 1),
                                        row->status_flags | O_CLOEXEC);
        r = rebuild_note_passing(seed, ret_error);
        if (r == 0)
            r = program_run_batch(seed->process, &program, ret_error);
        if (r < 0)
            return r;
        fd = (uint64_t)program_result(&program, open_call);
    }
    r = program_begin(&moving, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    if (row->offset > 0)
        program_call(&moving, NULL, SYS_lseek, fd, (uint64_t)row->offset, SEEK_SET);
    const char *what = "putting a file of its own under /proc at its selector";
    if (fd == row->selector) /* which was free */
        program_call(&moving, what, SYS_fcntl, fd, F_SETFD, row->descriptor_flags & FD_CLOEXEC);
    else
        program_call(&moving, what, SYS_dup3, fd, row->selector,
                     row->descriptor_flags & FD_CLOEXEC ? O_CLOEXEC : 0);
    if (row->alias_of == row->selector && fd != row->selector)
        program_call(&moving, NULL, SYS_close, fd);
    r = program_run_batch(seed->process, &moving, ret_error);
    return r < 0 ? r : rebuild_clear_passing(seed);
}

/* When everything is at its selector that is to be watched. */
static int rebuild_interests(struct seed *seed, const struct snapshot *snapshot,
                             struct reseat_error **ret_error)
{
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    int r = program_batch_begin(&batch, seed->process, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->interests_count;
         i++, r = program_batch_room(&batch, HOLDING_BYTES, ret_error))
        add_interest(&batch, &snapshot->interests[i]);
    return r == 0 ? program_batch_run(&batch, ret_error) : r;
}

static int rebuild_memory_locks(struct program_batch *batch, const struct snapshot *snapshot,
                                struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->regions_count;
         i++, r = program_batch_room(batch, HOLDING_BYTES, ret_error))
        add_memory_locks(batch, &snapshot->regions[i]);
    if (r == 0 && (snapshot->process.flags & SNAPSHOT_LOCKS_FUTURE))
        program_call(&batch->program, "locking future memory again", SYS_mlockall, MCL_FUTURE);
    return r;
}

/* A table that is given up for one of its own takes the record locks of an heir with it. */
static bool wants_locks(const struct seed *seed, const struct snapshot *snapshot)
{
    bool gives_up_table = seed->own_table && !seed->is_bare && snapshot->process.form == SNAPSHOT_FORM_HEIR;
    return !gives_up_table && !seed->locks_come_late;
}

static int rebuild_holdings(struct seed *seed, const struct snapshot *snapshot,
                            struct reseat_error **ret_error)
{
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    int r = program_batch_begin(&batch, seed->process, ret_error);
    if (r == 0 && !seed->shares_memory)
        r = rebuild_memory_locks(&batch, snapshot, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->owners_count;
         i++, r = program_batch_room(&batch, HOLDING_BYTES, ret_error))
        add_owner(&batch, seed, snapshot, &snapshot->owners[i]);
    for (size_t i = 0; r == 0 && i < snapshot->interests_count;
         i++, r = program_batch_room(&batch, HOLDING_BYTES, ret_error))
        remove_interest(&batch, &snapshot->interests[i]);
    for (size_t i = 0; r == 0 && i < snapshot->positions_count;
         i++, r = program_batch_room(&batch, HOLDING_BYTES, ret_error))
        add_position(&batch, &snapshot->positions[i]);
    if (r == 0)
        r = program_batch_run(&batch, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->reopens_count; i++)
        r = rebuild_reopen(seed, snapshot, &snapshot->reopens[i], ret_error);
    if (r == 0)
        r = rebuild_interests(seed, snapshot, ret_error);
    return r == 0 && wants_locks(seed, snapshot)
               ? process_take_locks(seed->process, snapshot, seed->renews_locks, ret_error)
               : r;
}

int process_rebuild(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    seed->ns_tids = calloc(snapshot->threads_count, sizeof *seed->ns_tids);
    seed->stops = calloc(snapshot->threads_count, sizeof *seed->stops);
    if (!seed->ns_tids || !seed->stops)
        return error_errno(ret_error, -ENOMEM, "rebuilding process %u", snapshot->process.pid);
    seed->ns_tids[0] = (uint32_t)seed->process->ns_pid;
    int r = seed->is_bare ? rebuild_scores(seed, snapshot, ret_error) : 0;
    if (r == 0 && seed->is_bare)
        r = rebuild_state(seed, snapshot, ret_error);
    if (r == 0)
        r = rebuild_family(seed, snapshot, ret_error);
    if (r == 0)
        r = rebuild_threads(seed, snapshot, ret_error);
    if (r == 0)
        r = rebuild_holdings(seed, snapshot, ret_error);
    if (r == 0)
        r = rebuild_leader_credentials(seed, snapshot, ret_error);
    return r == 0 && seed->is_bare ? rebuild_limits(seed, snapshot, ret_error) : r;
}
