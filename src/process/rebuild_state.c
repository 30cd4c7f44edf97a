/* What a twin hands on by itself, and a process that is made from an image alone has to be given: what it
 * does with signals, small settings, seccomp filters, credentials, limits.
 *
 * The order matters. Filters come before the threads, which then have the same ones (as long as we trace them
 * they are suspended). Credentials come last, thread by thread, because everything before may need ours: in
 * the kernel they belong to a thread (credentials(7)), and a thread that changes them itself changes nobody
 * else's. Limits and scores are set from outside, at the very end. See capabilities(7), prctl(2),
 * membarrier(2), seccomp(2). */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
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

/* ---- our own credentials, which the half-made process has at first ---- */

struct credentials {
    struct snapshot_state ids; /* uids, gids, group_count, privileges, secure_bits */
    uint32_t *groups;
};

static void credentials_free(struct credentials *credentials)
{
    free(credentials->groups);
}

static int read_own(int proc_fd, struct credentials *own, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    int r = proc_fd < 0 ? -errno : process_read_credentials(proc_fd, &snapshot, &own->ids);
    if (r < 0)
        return error_errno(ret_error, r, "reading our own credentials");
    int bits = prctl(PR_GET_SECUREBITS);
    own->ids.secure_bits = bits > 0 ? (uint32_t)bits : 0;
    own->groups = calloc(own->ids.group_count + 1, sizeof *own->groups);
    if (!own->groups)
        return error_errno(ret_error, -ENOMEM, "reading our own credentials");
    if (own->ids.group_count)
        memcpy(own->groups, snapshot.blobs + own->ids.groups_offset,
               own->ids.group_count * sizeof *own->groups);
    return 0;
}

static bool have(const struct credentials *own, unsigned privilege)
{
    return own->ids.privileges[SNAPSHOT_PRIVILEGES_EFFECTIVE] >> privilege & 1;
}

static bool has_same_groups(const struct credentials *own, const struct snapshot *snapshot)
{
    const struct snapshot_state *state = &snapshot->states[0];
    return own->ids.group_count == state->group_count &&
           (!state->group_count || memcmp(own->groups, snapshot->blobs + state->groups_offset,
                                          state->group_count * sizeof(uint32_t)) == 0);
}

/* Whether every one of `wanted` is the real, effective or saved one of ours. */
static bool are_ours(const uint32_t wanted[4], const uint32_t ours[4])
{
    for (int i = 0; i < 4; i++)
        if (wanted[i] != ours[0] && wanted[i] != ours[1] && wanted[i] != ours[2])
            return false;
    return true;
}

static int refuse(struct reseat_error **ret_error, uint32_t pid, const char *what, const char *privilege)
{
    return error_set(ret_error, -EPERM,
                     "process %u had %s, which we do not have and may not give it (that takes %s)", pid, what,
                     privilege);
}

int process_check_privileges(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    static const struct {
        enum snapshot_privilege_set set;
        const char *what;
    } sets[] = {
        {SNAPSHOT_PRIVILEGES_PERMITTED, "CAP_* privileges"},
        {SNAPSHOT_PRIVILEGES_EFFECTIVE, "CAP_* privileges"},
        {SNAPSHOT_PRIVILEGES_AMBIENT, "ambient CAP_* privileges"},
    };
    const struct snapshot_state *state = &snapshot->states[0];
    uint32_t pid = snapshot->process.pid;
    _cleanup_(credentials_free) struct credentials own = {0};
    _cleanup_close_ int proc_fd = open("/proc/thread-self", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    int r = read_own(proc_fd, &own, ret_error);
    if (r < 0)
        return r;
    if (!have(&own, CAP_SETUID) && !are_ours(state->uids, own.ids.uids))
        return refuse(ret_error, pid, "other user ids", "CAP_SETUID");
    if (!have(&own, CAP_SETGID) && !are_ours(state->gids, own.ids.gids))
        return refuse(ret_error, pid, "other group ids", "CAP_SETGID");
    if (!have(&own, CAP_SETGID) && !has_same_groups(&own, snapshot))
        return refuse(ret_error, pid, "other supplementary groups", "CAP_SETGID");
    for (size_t i = 0; i < COUNT_OF(sets); i++)
        if (state->privileges[sets[i].set] & ~own.ids.privileges[SNAPSHOT_PRIVILEGES_PERMITTED])
            return refuse(ret_error, pid, sets[i].what, "those");
    uint64_t bounding = state->privileges[SNAPSHOT_PRIVILEGES_BOUNDING],
             own_bounding = own.ids.privileges[SNAPSHOT_PRIVILEGES_BOUNDING];
    if (bounding & ~own_bounding)
        return refuse(ret_error, pid, "a wider bounding set of CAP_* privileges", "those");
    if (bounding != own_bounding && !have(&own, CAP_SETPCAP))
        return refuse(ret_error, pid, "a narrower bounding set of CAP_* privileges", "CAP_SETPCAP");
    if (state->secure_bits != own.ids.secure_bits && !have(&own, CAP_SETPCAP))
        return refuse(ret_error, pid, "other securebits", "CAP_SETPCAP");
    for (int resource = 0; resource < SNAPSHOT_LIMITS; resource++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)resource, &limit) == 0 &&
            state->limits[resource][1] > limit.rlim_max && !have(&own, CAP_SYS_RESOURCE))
            return refuse(ret_error, pid, "higher resource limits", "CAP_SYS_RESOURCE");
    }
    if (snapshot->filters_count && !have(&own, CAP_SYS_ADMIN))
        return refuse(ret_error, pid, "a seccomp filter, which must be suspended at first", "CAP_SYS_ADMIN");
    return 0;
}

/* ---- credentials ---- */

struct capability_sets {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[2];
};

static void add_capset(struct program *program, uint64_t effective, uint64_t permitted, uint64_t inheritable)
{
    struct capability_sets sets = {.header = {.version = _LINUX_CAPABILITY_VERSION_3}};
    for (int i = 0; i < 2; i++)
        sets.data[i] =
            (struct __user_cap_data_struct){(uint32_t)(effective >> 32 * i), (uint32_t)(permitted >> 32 * i),
                                            (uint32_t)(inheritable >> 32 * i)};
    uint64_t address = scratch_copy(program->scratch, &sets, sizeof sets);
    program_call(program, "setting CAP_* privileges", SYS_capset, address,
                 address + offsetof(struct capability_sets, data));
}

static void add_ids(struct program *program, const struct snapshot *snapshot)
{
    const struct snapshot_state *state = &snapshot->states[0];
    program_call(program, "setting the supplementary groups", SYS_setgroups, state->group_count,
                 state->group_count ? scratch_copy(program->scratch, snapshot->blobs + state->groups_offset,
                                                   state->group_count * sizeof(uint32_t))
                                    : 0);
    program_call(program, "setting the group ids", SYS_setresgid, state->gids[0], state->gids[1],
                 state->gids[2]);
    program_call(program, "setting the user ids", SYS_setresuid, state->uids[0], state->uids[1],
                 state->uids[2]);
    if (state->gids[3] != state->gids[1])
        program_call(program, NULL, SYS_setfsgid, state->gids[3]);
    if (state->uids[3] != state->uids[1])
        program_call(program, NULL, SYS_setfsuid, state->uids[3]);
}

/* What is dropped for good goes last: to set securebits takes CAP_SETPCAP, and to raise an ambient privilege
 * takes it as permitted and inheritable. */
static void add_privileges(struct program *program, const struct snapshot_state *state,
                           const struct snapshot_state *own)
{
    const uint64_t *wanted = state->privileges, *now = own->privileges;
    uint64_t dropped = now[SNAPSHOT_PRIVILEGES_BOUNDING] & ~wanted[SNAPSHOT_PRIVILEGES_BOUNDING];
    for (uint64_t privilege = 0; privilege < 64; privilege++)
        if (dropped >> privilege & 1)
            program_call(program, "dropping a privilege from the bounding set", SYS_prctl, PR_CAPBSET_DROP,
                         privilege);
    add_capset(program, now[SNAPSHOT_PRIVILEGES_EFFECTIVE], now[SNAPSHOT_PRIVILEGES_PERMITTED],
               wanted[SNAPSHOT_PRIVILEGES_INHERITABLE]);
    program_call(program, NULL, SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL);
    for (uint64_t privilege = 0; privilege < 64; privilege++)
        if (wanted[SNAPSHOT_PRIVILEGES_AMBIENT] >> privilege & 1)
            program_call(program, "raising an ambient privilege", SYS_prctl, PR_CAP_AMBIENT,
                         PR_CAP_AMBIENT_RAISE, privilege);
    program_call(program, NULL, SYS_prctl, PR_SET_SECUREBITS, state->secure_bits);
    add_capset(program, wanted[SNAPSHOT_PRIVILEGES_EFFECTIVE], wanted[SNAPSHOT_PRIVILEGES_PERMITTED],
               wanted[SNAPSHOT_PRIVILEGES_INHERITABLE]);
}

int rebuild_add_credentials(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                            struct reseat_error **ret_error)
{
    _cleanup_(credentials_free) struct credentials own = {
        0}; /* in a user namespace it has more than we have */
    const struct snapshot_state *state = &snapshot->states[0];
    int r = read_own(seed->process->proc_fd, &own, ret_error);
    if (r < 0)
        return r;
    bool same_ids = memcmp(state->uids, own.ids.uids, sizeof state->uids) == 0 &&
                    memcmp(state->gids, own.ids.gids, sizeof state->gids) == 0 &&
                    has_same_groups(&own, snapshot);
    bool same_privileges = memcmp(state->privileges, own.ids.privileges, sizeof state->privileges) == 0 &&
                           state->secure_bits == own.ids.secure_bits;
    if (same_ids && same_privileges)
        return 0;
    /* A change of ids takes privileges away, unless it is told not to. */
    if (have(&own, CAP_SETPCAP))
        program_call(program, NULL, SYS_prctl, PR_SET_SECUREBITS,
                     own.ids.secure_bits | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS);
    if (!same_ids)
        add_ids(program, snapshot);
    add_privileges(program, state, &own.ids);
    return 0;
}

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
    for (size_t i = 0; r == 0 && i < snapshot->filters_count; i++)
        r = install_filter(seed, snapshot, &snapshot->filters[i], ret_error);
    return r;
}

int rebuild_leader_credentials(struct seed *seed, const struct snapshot *snapshot,
                               struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, &seed->process->scratch, REBUILD_CREDENTIAL_CALLS + 8, 0, ret_error);
    if (r == 0)
        r = rebuild_add_credentials(&program, seed, snapshot, ret_error);
    /* A change of credentials has made it what the system makes of such processes. */
    program_call(&program, NULL, SYS_prctl, PR_SET_DUMPABLE, snapshot->states[0].dumpable == 1);
    return r == 0 ? program_run_batch(seed->process, &program, ret_error) : r;
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
int rebuild_limits(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_state *state = &snapshot->states[0];
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, SNAPSHOT_LIMITS + 8, 0, ret_error);
    if (r < 0)
        return r;
    for (int resource = 0; resource < SNAPSHOT_LIMITS; resource++)
        program_call(&program, "setting a resource limit", SYS_prlimit64, 0, (uint64_t)resource,
                     scratch_copy(scratch, state->limits[resource], sizeof state->limits[resource]), 0);
    return program_run_batch(seed->process, &program, ret_error);
}
