/* The course of it: a place, a birth, memory, directories, capabilities. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COLD_BASE_BYTES   (192u * 1024)
#define COLD_THREAD_BYTES (16u * 1024)
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
           snapshot->threads_count * (COLD_THREAD_BYTES + snapshot->states[0].group_count * sizeof(uint32_t));
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

/* The lowest number above all descriptors of ours and all selectors. */
static int find_base(const struct cold_plan *plan, struct target *process, uint64_t *ret_base,
                     struct reseat_error **ret_error)
{
    _cleanup_free_ int *ours = NULL;
    size_t count;
    int r = proc_list_numbers(process->proc_fd, "fd", &ours, &count);
    if (r < 0)
        return error_errno(ret_error, r, "listing the descriptors of process %d", process->pid);
    uint64_t base = count ? (uint64_t)ours[count - 1] + 1 : 0;
    for (size_t i = 0; i < plan->slot_count; i++)
        if (plan->slots[i].selector >= base)
            base = plan->slots[i].selector + 1;
    *ret_base = base;
    struct rlimit limit;
    uint64_t needed = base + plan->slot_count;
    if (prlimit(process->pid, RLIMIT_NOFILE, NULL, &limit) < 0)
        return error_errno(ret_error, -errno, "reading the limits of process %d", process->pid);
    if (limit.rlim_cur >= needed)
        return 0;
    limit.rlim_cur = needed;
    if (limit.rlim_max < needed)
        limit.rlim_max = needed;
    if (prlimit(process->pid, RLIMIT_NOFILE, &limit, NULL) < 0)
        return error_errno(ret_error, -errno, "making room for %lu descriptors in process %d (RLIMIT_NOFILE)",
                           (unsigned long)needed, process->pid);
    return 0;
}

/* First all to where they are in nobody's way, then everything of ours away, then each to its selector. */
static int put_capabilities(const struct cold_plan *plan, struct target *process,
                            struct reseat_error **ret_error)
{
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    uint64_t base = 0;
    int r = find_base(plan, process, &base, ret_error);
    if (r == 0)
        r = program_batch_begin(&batch, process, ret_error);
    for (size_t i = 0; r == 0 && i < plan->slot_count; i++) {
        program_call(&batch.program, "putting a capability aside", SYS_dup3, (uint64_t)plan->slots[i].fd,
                     base + i, 0);
        r = program_batch_room(&batch, 0, ret_error);
    }
    if (r < 0)
        return r;
    program_call(&batch.program, "closing our descriptors", SYS_close_range, 0, base - 1, 0);
    for (size_t i = 0; r == 0 && i < plan->slot_count; i++) {
        program_call(&batch.program, "putting a capability at its selector", SYS_dup3, base + i,
                     plan->slots[i].selector, plan->slots[i].flags & 1 /* FD_CLOEXEC */ ? 02000000 : 0);
        r = program_batch_room(&batch, 0, ret_error);
    }
    program_call(&batch.program, "closing what was put aside", SYS_close_range, base, UINT32_MAX, 0);
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
