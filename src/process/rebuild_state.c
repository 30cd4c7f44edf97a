/* What a twin hands on by itself, and a process that is made from an image alone has to be given: what it
 * does with signals, small settings, seccomp filters, limits; and credentials (credentials.c).
 *
 * The order matters. Filters come before the threads, which then have the same ones (as long as we trace them
 * they are suspended). Credentials come last, because everything before may need ours. Limits and scores are
 * set from outside, at the very end. See prctl(2), membarrier(2), seccomp(2). */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define SIGNALS            64
#define PR_SET_MDWE_NUMBER 65 /* Linux 6.3 */

struct kernel_action {
    uint64_t handler, flags, restorer, mask;
};

/* ---- signals and settings ---- */

static const struct snapshot_action *find_action(const struct snapshot *snapshot, uint32_t signal)
{
    static const struct snapshot_action usual;
    for (size_t i = 0; i < snapshot->actions_count; i++)
        if (snapshot->actions[i].signal == signal)
            return &snapshot->actions[i];
    return &usual;
}

/* A handler for our report signal is set at the very end, or it might be called. Not so anything else: to
 * have a signal ignored discards those that wait, and a report of another thread would be one. */
static void add_actions(struct program *program, struct seed *seed, const struct snapshot *snapshot)
{
    uint64_t late_address = seed->report_action_address;
    seed->report_action_address = 0;
    for (uint32_t signal = 1; signal <= SIGNALS; signal++) {
        const struct snapshot_action *row = find_action(snapshot, signal);
        struct kernel_action action = {row->handler, row->flags, row->restorer, row->mask};
        bool has_handler = row->handler > (uintptr_t)SIG_IGN;
        if ((int)signal == seed->process->report_signal && has_handler) {
            memcpy(scratch_mirror(program->scratch, late_address), &action, sizeof action);
            seed->report_action_address = late_address;
        } else if (signal != SIGKILL && signal != SIGSTOP) {
            program_call(program, "setting a signal's action", SYS_rt_sigaction, signal,
                         scratch_copy(program->scratch, &action, sizeof action), 0, 8);
        }
    }
}

static void add_settings(struct program *program, const struct snapshot *snapshot)
{
    const struct snapshot_state *state = &snapshot->states[0];
    program_call(program, "setting the personality", SYS_personality, state->personality);
    for (uint32_t bit = 1; bit; bit <<= 1)
        if (state->barriers & bit)
            program_call(program, "registering for memory barriers", SYS_membarrier, bit);
    if (state->flags & SNAPSHOT_STATE_NO_HUGE_PAGES)
        program_call(program, NULL, SYS_prctl, PR_SET_THP_DISABLE, 1);
    if (state->flags & SNAPSHOT_STATE_IO_FLUSHER)
        program_call(program, NULL, SYS_prctl, PR_SET_IO_FLUSHER, 1);
    if (state->no_write_execute)
        program_call(program, NULL, SYS_prctl, PR_SET_MDWE_NUMBER, state->no_write_execute);
    /* What threads differ in is compared with the leader (rebuild.c); the leader itself has what we have. */
    const struct snapshot_thread *leader = &snapshot->threads[0];
    if (leader->flags & SNAPSHOT_THREAD_NO_NEW_PRIVS)
        program_call(program, "giving up new privileges", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
    if (leader->memory_fault_policy != (uint32_t)prctl(PR_MCE_KILL_GET, 0, 0, 0, 0))
        program_call(program, NULL, SYS_prctl, PR_MCE_KILL, PR_MCE_KILL_SET, leader->memory_fault_policy);
    program_call(program, NULL, SYS_prctl, PR_SET_TSC, leader->time_stamp_mode ? leader->time_stamp_mode : 1);
    program_call(program, NULL, SYS_set_mempolicy, leader->memory_policy,
                 scratch_copy(program->scratch, leader->memory_policy_nodes,
                              sizeof leader->memory_policy_nodes),
                 SNAPSHOT_NODE_WORDS * 64);
}

static int install_filter(struct seed *seed, const struct snapshot *snapshot,
                          const struct snapshot_filter *row, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    struct {
        uint16_t length, padding[3];
        uint64_t code;
    } filter = {.length = (uint16_t)row->length};
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    filter.code = scratch_copy(scratch, snapshot->blobs + row->offset, row->length * UINT64_C(8));
    if (!filter.code)
        return error_set(ret_error, -ENOSPC,
                         "a seccomp filter of %u instructions does not fit on the scratch pages",
                         row->length);
    program_call(&program, "installing a seccomp filter", SYS_seccomp, SECCOMP_SET_MODE_FILTER, row->flags,
                 scratch_copy(scratch, &filter, sizeof filter));
    return program_run_batch(seed->process, &program, ret_error);
}

/* Only the process itself may write it, and only as the number that it is. What cannot be had was said
 * beforehand (cold_check()). */
static int rebuild_login(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_state *state = &snapshot->states[0];
    struct scratch *scratch = &seed->process->scratch;
    uint32_t login;
    char text[16];
    if (!(state->flags & SNAPSHOT_STATE_HAS_LOGIN) ||
        process_read_login(seed->process->proc_fd, &login) < 0 || login == state->login_uid)
        return 0;
    static const char path[] = "/proc/self/loginuid";
    _cleanup_(program_end) struct program opening = {0}, writing = {0};
    int r = program_begin(&opening, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    size_t open_call = program_call(&opening, NULL, SYS_openat, (uint64_t)AT_FDCWD,
                                    scratch_copy(scratch, path, sizeof path), O_WRONLY | O_CLOEXEC);
    r = program_run_batch(seed->process, &opening, ret_error);
    int64_t fd = r < 0 ? -1 : program_result(&opening, open_call);
    if (fd < 0)
        return r;
    r = program_begin(&writing, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    int length = snprintf(text, sizeof text, "%u", state->login_uid);
    program_call(&writing, NULL, SYS_write, (uint64_t)fd, scratch_copy(scratch, text, (size_t)length),
                 (uint64_t)length);
    program_call(&writing, NULL, SYS_close, (uint64_t)fd);
    return program_run_batch(seed->process, &writing, ret_error);
}

int rebuild_state(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(program_end) struct program program = {0};
    scratch_begin_part(scratch);
    seed->report_action_address = scratch_take(scratch, sizeof(struct kernel_action), 8, NULL);
    int r = program_begin(&program, scratch, SIGNALS + 64, 0, ret_error);
    if (r < 0)
        return r;
    size_t kept = scratch->first + sizeof(struct kernel_action);
    add_actions(&program, seed, snapshot);
    add_settings(&program, snapshot);
    r = program_run_batch(seed->process, &program, ret_error);
    scratch->used = kept;
    scratch_begin_part(scratch);
    if (r == 0)
        r = rebuild_login(seed, snapshot, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->filters_count; i++)
        r = install_filter(seed, snapshot, &snapshot->filters[i], ret_error);
    return r;
}

/* ---- from outside ---- */

static int write_setting(int proc_fd, const char *name, int32_t value)
{
    char text[32];
    snprintf(text, sizeof text, "%d", value);
    _cleanup_close_ int fd = openat(proc_fd, name, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
}

/* What could not be had was said beforehand (cold_check()). */
static int enter_control_group(void *userdata, const char *line, const char *path)
{
    char number[16];
    (void)line;
    _cleanup_close_ int fd = path ? open(path, O_WRONLY | O_CLOEXEC) : -EBADF;
    snprintf(number, sizeof number, "%d", *(const pid_t *)userdata);
    if (fd >= 0)
        (void)!write(fd, number, strlen(number));
    return 0;
}

/* Only what differs: an ordinary user may not lower a score, not even to what it is. */
int rebuild_scores(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_state *state = &snapshot->states[0];
    _cleanup_free_ char *score = NULL;
    int proc_fd = seed->process->proc_fd, r = 0;
    process_visit_control_groups((const char *)snapshot->blobs + state->control_groups_offset,
                                 enter_control_group, &seed->process->pid);
    if (file_read(proc_fd, "oom_score_adj", &score, NULL) == 0 &&
        strtol(score, NULL, 10) != state->oom_score_adj)
        r = write_setting(proc_fd, "oom_score_adj", state->oom_score_adj);
    if (r < 0)
        return error_errno(ret_error, r, "setting the out-of-memory score of process %d", seed->process->pid);
    r = write_setting(proc_fd, "coredump_filter", (int32_t)state->core_dump_filter);
    return r < 0 && r != -ENOENT
               ? error_errno(ret_error, r, "setting the core dump filter of process %d", seed->process->pid)
               : 0;
}

/* By itself: to set those of another takes CAP_SYS_RESOURCE once it has other ids. */
/* What we may give it, it may have no right to take any more. What we may not, it is about to be refused. */
static void raise_hard_limits(pid_t pid, const struct snapshot_state *state)
{
    for (int resource = 0; resource < SNAPSHOT_LIMITS; resource++) {
        struct rlimit limit;
        rlim_t wanted = state->limits[resource][1];
        if (prlimit(pid, (enum __rlimit_resource)resource, NULL, &limit) < 0 || limit.rlim_max >= wanted)
            continue;
        limit.rlim_max = wanted;
        prlimit(pid, (enum __rlimit_resource)resource, &limit, NULL);
    }
}

int rebuild_limits(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_state *state = &snapshot->states[0];
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, SNAPSHOT_LIMITS + 8, 0, ret_error);
    if (r < 0)
        return r;
    raise_hard_limits(seed->process->pid, state);
    for (int resource = 0; resource < SNAPSHOT_LIMITS; resource++)
        program_call(&program, "setting a resource limit", SYS_prlimit64, 0, (uint64_t)resource,
                     scratch_copy(scratch, state->limits[resource], sizeof state->limits[resource]), 0);
    return program_run_batch(seed->process, &program, ret_error);
}
