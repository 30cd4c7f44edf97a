/* The course of it: a place, a birth, memory, directories, capabilities. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COLD_BASE_BYTES   (192u * 1024)
#define COLD_THREAD_BYTES (16u * 1024)
#define SPARE_DESCRIPTORS 2  /* for circles */
#define RESERVED_BYTES    64 /* for what outlives the programs: a word for descriptors in passing, an action */

void cold_renumber(struct snapshot *snapshot)
{
    struct snapshot_process *process = &snapshot->process;
    size_t innermost = process->ns_level_count - 1;
    if (!innermost)
        return;
    for (size_t i = 0; i < snapshot->threads_count; i++) {
        struct snapshot_thread *thread = &snapshot->threads[i];
        uint32_t before = thread->tid, now = thread->ns_tids[innermost];
        for (size_t j = 0; j < snapshot->signals_count; j++)
            if (snapshot->signals[j].tid == before)
                snapshot->signals[j].tid = now;
        for (size_t j = 0; j < snapshot->owners_count; j++)
            if (snapshot->owners[j].pid == (int32_t)before)
                snapshot->owners[j].pid = (int32_t)now;
        thread->tid = thread->ns_tids[0] = now;
    }
    process->pid = process->ns_pids[0] = process->ns_pids[innermost];
    process->ns_level_count = 1;
}

/* A thread takes its credentials itself. The rest: a filter, an auxiliary vector. */
static size_t scratch_bytes(const struct snapshot *snapshot)
{
    return process_scratch_bytes(snapshot) + COLD_BASE_BYTES +
           snapshot->threads_count *
               (COLD_THREAD_BYTES + snapshot->states[0].credentials.group_count * sizeof(uint32_t));
}

/* ---- directories ---- */

static int change_directories(const struct cold_plan *plan, struct target *process,
                              struct reseat_error **ret_error)
{
    struct scratch *scratch = &process->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, 16, 0, ret_error);
    if (r < 0)
        return r;
    if (plan->root_fd >= 0) {
        program_call(&program, "going to the root directory", SYS_fchdir, (uint64_t)plan->root_fd);
        program_call(&program, "changing the root directory", SYS_chroot, scratch_copy(scratch, ".", 2));
    }
    const char *path = (const char *)plan->snapshot->blobs + plan->snapshot->states[0].directory_offset;
    if (plan->new_namespace) /* by its path: what we have opened belongs to another mount namespace */
        program_call(&program, "going to the working directory", SYS_chdir,
                     scratch_copy(scratch, path, strlen(path) + 1));
    else
        program_call(&program, "going to the working directory", SYS_fchdir, (uint64_t)plan->directory_fd);
    program_call(&program, NULL, SYS_umask, plan->snapshot->states[0].umask);
    return program_run_batch(process, &program, ret_error);
}

/* ---- the capability space ---- */

/* The descriptors that the process has inherited are where they are, each slot wants one of them somewhere
 * else, and a place may be taken by what another slot still needs. */
struct moves {
    struct cold_slot *slots; /* a copy: what has been put in its place has fd -1 */
    size_t count;
    uint32_t *uses; /* of each number: how many slots still need what is there */
    uint32_t limit; /* above all numbers */
};

static void moves_end(struct moves *moves)
{
    free(moves->slots);
    free(moves->uses);
}

static int begin_moves(const struct cold_plan *plan, const int *ours, size_t our_count, struct moves *moves)
{
    moves->count = plan->slot_count;
    moves->limit = our_count ? (uint32_t)ours[our_count - 1] + 1 : 0;
    for (size_t i = 0; i < plan->slot_count; i++)
        if (plan->slots[i].selector >= moves->limit)
            moves->limit = plan->slots[i].selector + 1;
    moves->slots = calloc(plan->slot_count + 1, sizeof *moves->slots);
    moves->uses = calloc(moves->limit + plan->slot_count + 1, sizeof *moves->uses);
    if (!moves->slots || !moves->uses)
        return -ENOMEM;
    for (size_t i = 0; i < plan->slot_count; i++) {
        moves->slots[i] = plan->slots[i];
        moves->uses[plan->slots[i].fd]++;
    }
    return 0;
}

/* Puts one slot in its place if nobody needs what is there. */
static bool move_slot(struct moves *moves, struct cold_slot *slot, struct program *program)
{
    uint32_t fd = (uint32_t)slot->fd, selector = slot->selector;
    uint64_t close_on_exec = slot->flags & 1 /* FD_CLOEXEC */;
    bool is_there = fd == selector;
    if (slot->fd < 0 || moves->uses[selector] != (is_there ? 1 : 0))
        return false;
    if (is_there)
        program_call(program, "keeping a capability at its selector", SYS_fcntl, fd, F_SETFD, close_on_exec);
    else
        program_call(program, "putting a capability at its selector", SYS_dup3, fd, selector,
                     close_on_exec ? O_CLOEXEC : 0);
    if (--moves->uses[fd] == 0 && !is_there)
        program_call(program, NULL, SYS_close, fd);
    slot->fd = -1;
    return true;
}

/* All that is left goes round in circles: one number is freed. */
static void break_circle(struct moves *moves, uint32_t selector, struct program *program)
{
    program_call(program, "putting a capability aside", SYS_dup3, selector, moves->limit, 0);
    for (size_t i = 0; i < moves->count; i++)
        if (moves->slots[i].fd == (int)selector)
            moves->slots[i].fd = (int)moves->limit;
    moves->uses[moves->limit] = moves->uses[selector];
    moves->uses[selector] = 0;
    moves->limit++; /* a second circle may need what the first one is not through with */
}

/* Makes all moves, forward and backward in turn, because most are up or down by the same distance. */
static int make_moves(struct moves *moves, struct program_batch *batch, struct reseat_error **ret_error)
{
    size_t left = moves->count;
    int r = 0;
    for (bool forward = true; r == 0 && left; forward = !forward) {
        size_t before = left;
        for (size_t i = 0; r == 0 && i < moves->count; i++) {
            left -= move_slot(moves, &moves->slots[forward ? i : moves->count - 1 - i], &batch->program);
            r = program_batch_room(batch, 0, ret_error);
        }
        for (size_t i = 0; r == 0 && left == before && i < moves->count; i++)
            if (moves->slots[i].fd >= 0) {
                break_circle(moves, moves->slots[i].selector, &batch->program);
                break;
            }
    }
    return r;
}

/* The process may have as many as it had, and a few more for the moment. */
static int raise_limit(struct target *process, uint64_t needed, struct reseat_error **ret_error)
{
    struct rlimit limit;
    if (prlimit(process->pid, RLIMIT_NOFILE, NULL, &limit) < 0)
        return error_errno(ret_error, -errno, "reading the limits of process %d", process->pid);
    if (limit.rlim_cur >= needed)
        return 0;
    limit.rlim_cur = needed;
    if (limit.rlim_max < needed)
        limit.rlim_max = needed;
    return prlimit(process->pid, RLIMIT_NOFILE, &limit, NULL) < 0
               ? error_errno(ret_error, -errno,
                             "making room for %lu descriptors in process %d (RLIMIT_NOFILE)",
                             (unsigned long)needed, process->pid)
               : 0;
}

static int put_capabilities(const struct cold_plan *plan, struct target *process,
                            struct reseat_error **ret_error)
{
    _cleanup_(moves_end) struct moves moves = {0};
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    _cleanup_free_ int *ours = NULL;
    size_t count;
    int r = proc_list_numbers(process->proc_fd, "fd", &ours, &count);
    if (r == 0)
        r = begin_moves(plan, ours, count, &moves);
    if (r < 0)
        return error_errno(ret_error, r, "listing the descriptors of process %d", process->pid);
    r = raise_limit(process, moves.limit + SPARE_DESCRIPTORS, ret_error);
    if (r == 0)
        r = program_batch_begin(&batch, process, ret_error);
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!moves.uses[ours[i]])
            program_call(&batch.program, "closing a descriptor of ours", SYS_close, (uint64_t)ours[i]);
        r = program_batch_room(&batch, 0, ret_error);
    }
    if (r == 0)
        r = make_moves(&moves, &batch, ret_error);
    return r == 0 ? program_batch_run(&batch, ret_error) : r;
}

/* ---- the course ---- */

static int reserve(struct seed *seed, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    seed->passing_address = scratch_take(scratch, RESERVED_BYTES, 16, NULL);
    int r = target_flush_scratch(seed->process, ret_error);
    scratch_begin_part(scratch);
    return r;
}

/* Memory, directories, capabilities. */
static int build(struct cold_plan *plan, const struct cold_place *place, struct seed *seed,
                 struct reseat_error **ret_error)
{
    struct target *process = seed->process;
    int r = reserve(seed, ret_error);
    if (r == 0)
        r = cold_build_memory(plan, place, process, ret_error);
    if (r == 0)
        r = change_directories(plan, process, ret_error);
    if (r == 0)
        r = put_capabilities(plan, process, ret_error);
    target_find_stub_place(process);
    if (r == 0 && seed->is_filtered)
        r = target_set_options(process, process->pid, PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE);
    return r;
}

int cold_seed(struct cold_plan *plan, struct seed *seed, struct target *ret_process, uint64_t *ret_free_ns,
              struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    struct cold_place place;
    bool has_session = false;
    *seed = (struct seed){
        .is_bare = true,
        .has_new_numbers = plan->new_pid,
        .is_filtered = snapshot->process.flags & SNAPSHOT_FILTERED,
        .deadline_ns = now_ns() + plan->wait_ns,
    };
    int r = cold_make_segments(plan, ret_error);
    if (r == 0)
        r = cold_find_place(snapshot, scratch_bytes(snapshot), &place, ret_error);
    if (r == 0)
        r = cold_birth(plan, &place, seed->deadline_ns, ret_process, &has_session, ret_free_ns, ret_error);
    seed->process = ret_process;
    seed->new_session = !has_session;
    if (r == 0)
        r = build(plan, &place, seed, ret_error);
    cold_settle_segments(plan, r < 0);
    return r;
}
