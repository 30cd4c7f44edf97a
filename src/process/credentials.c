/* Who a thread is: user and group ids, groups, CAP_* sets, securebits. In the kernel they belong to a thread
 * (credentials(7)), and a thread that changes them itself changes nobody else's: so each takes its own, by
 * the last calls before it waits for the others. Here they are read, it is judged whether somebody may take
 * them on, and the calls are made by which that is done. See capabilities(7), prctl(2).
 *
 * A twin hands on those of the main thread, from which all others are cloned again; a process that is made
 * from an image starts with ours. */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define CREDENTIAL_CALLS 160 /* at most, of one thread */

/* ---- reading ---- */

static int read_groups(const char *status, struct snapshot *snapshot,
                       struct snapshot_credentials *credentials)
{
    const char *value = status_find(status, "Groups");
    _cleanup_free_ uint32_t *groups = NULL;
    size_t count = 0;
    while (value) {
        char *end;
        unsigned long group = strtoul(value, &end, 10);
        if (end == value)
            break;
        uint32_t *one = array_append(groups, count);
        if (!one)
            return -ENOMEM;
        *one = (uint32_t)group;
        value = *end == '\n' ? NULL : end + strspn(end, " ");
    }
    credentials->group_count = (uint32_t)count;
    return count ? snapshot_add_blob(snapshot, groups, count * sizeof *groups, &credentials->groups_offset)
                 : 0;
}

int credentials_parse(const char *status, struct snapshot *snapshot,
                      struct snapshot_credentials *ret_credentials)
{
    static const char *const sets[] = {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"};
    struct snapshot_credentials credentials = {0};
    if (!status_ids(status, "Uid", credentials.uids) || !status_ids(status, "Gid", credentials.gids))
        return -EBADMSG;
    for (size_t i = 0; i < SNAPSHOT_PRIVILEGE_SETS; i++)
        credentials.privileges[i] = status_number(status, sets[i], 16);
    int r = read_groups(status, snapshot, &credentials);
    if (r == 0)
        *ret_credentials = credentials;
    return r;
}

static int read_status(int dir_fd, struct snapshot *snapshot, struct snapshot_credentials *ret_credentials)
{
    _cleanup_free_ char *status = NULL;
    int r = dir_fd < 0 ? -errno : file_read(dir_fd, "status", &status, NULL);
    return r < 0 ? r : credentials_parse(status, snapshot, ret_credentials);
}

static bool has_same_groups(const struct snapshot *a, const struct snapshot_credentials *of_a,
                            const struct snapshot *b, const struct snapshot_credentials *of_b)
{
    return of_a->group_count == of_b->group_count &&
           (!of_a->group_count || memcmp(a->blobs + of_a->groups_offset, b->blobs + of_b->groups_offset,
                                         of_a->group_count * sizeof(uint32_t)) == 0);
}

static bool has_same_ids(const struct snapshot *a, const struct snapshot_credentials *of_a,
                         const struct snapshot *b, const struct snapshot_credentials *of_b)
{
    return memcmp(of_a->uids, of_b->uids, sizeof of_a->uids) == 0 &&
           memcmp(of_a->gids, of_b->gids, sizeof of_a->gids) == 0 && has_same_groups(a, of_a, b, of_b);
}

static bool has_same_privileges(const struct snapshot_credentials *a, const struct snapshot_credentials *b)
{
    return memcmp(a->privileges, b->privileges, sizeof a->privileges) == 0 &&
           a->secure_bits == b->secure_bits;
}

/* ---- judging ---- */

static bool have(const struct snapshot_credentials *own, unsigned privilege)
{
    return own->privileges[SNAPSHOT_PRIVILEGES_EFFECTIVE] >> privilege & 1;
}

/* Whether every one of `wanted` is the real, effective or saved one of ours. */
static bool are_ours(const uint32_t wanted[4], const uint32_t ours[4])
{
    for (int i = 0; i < 4; i++)
        if (wanted[i] != ours[0] && wanted[i] != ours[1] && wanted[i] != ours[2])
            return false;
    return true;
}

bool credentials_may_become(const struct snapshot *ours, const struct snapshot_credentials *own,
                            const struct snapshot *snapshot, const struct snapshot_credentials *wanted,
                            const char **ret_what, const char **ret_privilege)
{
    static const enum snapshot_privilege_set sets[] = {SNAPSHOT_PRIVILEGES_PERMITTED,
                                                       SNAPSHOT_PRIVILEGES_EFFECTIVE,
                                                       SNAPSHOT_PRIVILEGES_AMBIENT};
    uint64_t bounding = wanted->privileges[SNAPSHOT_PRIVILEGES_BOUNDING],
             own_bounding = own->privileges[SNAPSHOT_PRIVILEGES_BOUNDING], missing = 0;
    for (size_t i = 0; i < COUNT_OF(sets); i++)
        missing |= wanted->privileges[sets[i]] & ~own->privileges[SNAPSHOT_PRIVILEGES_PERMITTED];
    const struct {
        bool is_refused;
        const char *what, *privilege;
    } rules[] = {
        {!have(own, CAP_SETUID) && !are_ours(wanted->uids, own->uids), "other user ids", "CAP_SETUID"},
        {!have(own, CAP_SETGID) && !are_ours(wanted->gids, own->gids), "other group ids", "CAP_SETGID"},
        {!have(own, CAP_SETGID) && !has_same_groups(ours, own, snapshot, wanted),
         "other supplementary groups", "CAP_SETGID"},
        {missing, "CAP_* privileges", "those"},
        {bounding & ~own_bounding, "a wider bounding set of CAP_* privileges", "those"},
        {bounding != own_bounding && !have(own, CAP_SETPCAP), "a narrower bounding set of CAP_* privileges",
         "CAP_SETPCAP"},
        {wanted->secure_bits != own->secure_bits && !have(own, CAP_SETPCAP), "other securebits",
         "CAP_SETPCAP"},
    };
    for (size_t i = 0; i < COUNT_OF(rules); i++) {
        if (!rules[i].is_refused)
            continue;
        *ret_what = rules[i].what;
        *ret_privilege = rules[i].privilege;
        return false;
    }
    return true;
}

bool process_may_set_login(uint32_t uid)
{
    _cleanup_(snapshot_free) struct snapshot groups = {0};
    _cleanup_close_ int proc_fd = open("/proc/thread-self", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    struct snapshot_credentials own;
    uint32_t ours;
    if (proc_fd < 0 || process_read_login(proc_fd, &ours) < 0)
        return false;
    return ours == uid || ours == UINT32_MAX ||
           (read_status(proc_fd, &groups, &own) == 0 && have(&own, CAP_AUDIT_CONTROL));
}

int credentials_capture_threads(int proc_fd, struct snapshot *snapshot)
{
    struct snapshot_credentials leader;
    const char *what, *privilege;
    int r = read_status(proc_fd, snapshot, &leader);
    for (size_t i = 1; r == 0 && i < snapshot->threads_count; i++) {
        char path[32];
        struct snapshot_credentials own;
        snprintf(path, sizeof path, "task/%u", snapshot->threads[i].tid);
        _cleanup_close_ int task_fd = openat(proc_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        r = read_status(task_fd, snapshot, &own);
        bool is_same =
            r == 0 && has_same_ids(snapshot, &leader, snapshot, &own) && has_same_privileges(&leader, &own);
        /* What it may not become, it is allowed not to be again (obstacles_threads.c). */
        if (r < 0 || is_same || !credentials_may_become(snapshot, &leader, snapshot, &own, &what, &privilege))
            continue;
        struct snapshot_thread_credentials *row =
            array_append(snapshot->credentials, snapshot->credentials_count);
        if (!row)
            return -ENOMEM;
        *row = (struct snapshot_thread_credentials){.tid = snapshot->threads[i].tid, .credentials = own};
    }
    return r;
}

static int refuse(struct reseat_error **ret_error, uint32_t pid, const char *what, const char *privilege)
{
    return error_set(ret_error, -EPERM,
                     "process %u had %s, which we do not have and may not give it (that takes %s)", pid, what,
                     privilege);
}

static const struct snapshot_thread_credentials *find_row(const struct snapshot *snapshot,
                                                          const struct snapshot_thread *thread)
{
    for (size_t i = 0; i < snapshot->credentials_count; i++)
        if (snapshot->credentials[i].tid == thread->tid)
            return &snapshot->credentials[i];
    return NULL;
}

/* Those that a thread is to have; for the securebits only itself could be asked. */
static struct snapshot_credentials find_wanted(const struct snapshot *snapshot,
                                               const struct snapshot_thread *thread)
{
    const struct snapshot_thread_credentials *row = find_row(snapshot, thread);
    if (!row)
        return snapshot->states[0].credentials;
    struct snapshot_credentials wanted = row->credentials;
    wanted.secure_bits = thread->secure_bits;
    return wanted;
}

int process_check_privileges(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    uint32_t pid = snapshot->process.pid;
    const char *what, *privilege;
    _cleanup_(snapshot_free) struct snapshot ours = {0};
    struct snapshot_credentials own;
    _cleanup_close_ int proc_fd = open("/proc/thread-self", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    int r = read_status(proc_fd, &ours, &own);
    if (r < 0)
        return error_errno(ret_error, r, "reading our own credentials");
    int bits = prctl(PR_GET_SECUREBITS);
    own.secure_bits = bits > 0 ? (uint32_t)bits : 0;
    for (size_t i = 0; i < snapshot->threads_count; i++) {
        struct snapshot_credentials wanted = find_wanted(snapshot, &snapshot->threads[i]);
        if (!credentials_may_become(&ours, &own, snapshot, &wanted, &what, &privilege))
            return refuse(ret_error, pid, what, privilege);
    }
    for (int resource = 0; resource < SNAPSHOT_LIMITS; resource++) {
        struct rlimit limit;
        if (getrlimit((__rlimit_resource_t)resource, &limit) == 0 &&
            snapshot->states[0].limits[resource][1] > limit.rlim_max && !have(&own, CAP_SYS_RESOURCE))
            return refuse(ret_error, pid, "higher resource limits", "CAP_SYS_RESOURCE");
    }
    if (snapshot->filters_count && !have(&own, CAP_SYS_ADMIN))
        return refuse(ret_error, pid, "a seccomp filter, which must be suspended at first", "CAP_SYS_ADMIN");
    return 0;
}

/* ---- taking them on ---- */

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

static void add_ids(struct program *program, const struct snapshot *snapshot,
                    const struct snapshot_credentials *wanted)
{
    uint64_t groups = wanted->group_count
                          ? scratch_copy(program->scratch, snapshot->blobs + wanted->groups_offset,
                                         wanted->group_count * sizeof(uint32_t))
                          : 0;
    program_call(program, "setting the supplementary groups", SYS_setgroups, wanted->group_count, groups);
    program_call(program, "setting the group ids", SYS_setresgid, wanted->gids[0], wanted->gids[1],
                 wanted->gids[2]);
    program_call(program, "setting the user ids", SYS_setresuid, wanted->uids[0], wanted->uids[1],
                 wanted->uids[2]);
    if (wanted->gids[3] != wanted->gids[1])
        program_call(program, NULL, SYS_setfsgid, wanted->gids[3]);
    if (wanted->uids[3] != wanted->uids[1])
        program_call(program, NULL, SYS_setfsuid, wanted->uids[3]);
}

/* What is dropped for good goes last: to set securebits takes CAP_SETPCAP, and to raise an ambient privilege
 * takes it as permitted and inheritable. */
static void add_privileges(struct program *program, const struct snapshot_credentials *credentials,
                           const struct snapshot_credentials *own)
{
    const uint64_t *wanted = credentials->privileges, *now = own->privileges;
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
    program_call(program, NULL, SYS_prctl, PR_SET_SECUREBITS, credentials->secure_bits);
    add_capset(program, wanted[SNAPSHOT_PRIVILEGES_EFFECTIVE], wanted[SNAPSHOT_PRIVILEGES_PERMITTED],
               wanted[SNAPSHOT_PRIVILEGES_INHERITABLE]);
}

/* Those that the threads of a half-made process start with: the twin's, or our own. */
static int read_first(const struct seed *seed, const struct snapshot *snapshot, struct snapshot *first,
                      struct snapshot_credentials *ret_credentials, struct reseat_error **ret_error)
{
    /* Not ours as we read them of ourselves: in a user namespace it has more. */
    int r = read_status(seed->process->proc_fd, first, ret_credentials);
    if (r < 0)
        return error_errno(ret_error, r, "reading the credentials of process %d", seed->process->pid);
    int bits = seed->is_bare ? prctl(PR_GET_SECUREBITS) : (int)snapshot->threads[0].secure_bits;
    ret_credentials->secure_bits = bits > 0 ? (uint32_t)bits : 0;
    return 0;
}

size_t rebuild_credential_calls(const struct seed *seed, const struct snapshot *snapshot,
                                const struct snapshot_thread *thread)
{
    return seed->is_bare || find_row(snapshot, thread) ? CREDENTIAL_CALLS : 0;
}

int rebuild_add_credentials(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                            const struct snapshot_thread *thread, struct reseat_error **ret_error)
{
    if (!rebuild_credential_calls(seed, snapshot, thread))
        return 0;
    _cleanup_(snapshot_free) struct snapshot first = {0};
    struct snapshot_credentials own, wanted = find_wanted(snapshot, thread);
    int r = read_first(seed, snapshot, &first, &own, ret_error);
    if (r < 0)
        return r;
    bool same_ids = has_same_ids(&first, &own, snapshot, &wanted);
    if (same_ids && has_same_privileges(&own, &wanted))
        return 0;
    /* A change of ids takes privileges away, unless it is told not to. */
    if (have(&own, CAP_SETPCAP))
        program_call(program, NULL, SYS_prctl, PR_SET_SECUREBITS,
                     own.secure_bits | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS);
    if (!same_ids)
        add_ids(program, snapshot, &wanted);
    add_privileges(program, &wanted, &own);
    return 0;
}

int rebuild_leader_credentials(struct seed *seed, const struct snapshot *snapshot,
                               struct reseat_error **ret_error)
{
    if (!seed->is_bare && !snapshot->credentials_count)
        return 0;
    _cleanup_(program_end) struct program program = {0};
    const struct snapshot_thread *leader = &snapshot->threads[0];
    int r = program_begin(&program, &seed->process->scratch,
                          rebuild_credential_calls(seed, snapshot, leader) + 8, 0, ret_error);
    if (r == 0)
        r = rebuild_add_credentials(&program, seed, snapshot, leader, ret_error);
    if (r < 0)
        return r;
    /* A change of credentials has made it what the system makes of such processes. */
    program_call(&program, NULL, SYS_prctl, PR_SET_DUMPABLE,
                 seed->is_bare ? snapshot->states[0].dumpable == 1
                               : (snapshot->process.flags & SNAPSHOT_DUMPABLE) != 0);
    return program_run_batch(seed->process, &program, ret_error);
}
