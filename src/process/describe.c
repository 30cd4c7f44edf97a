/* What a process is besides threads, memory and capabilities, as rows of a durable image: credentials,
 * limits, directories, the layout of its memory, what it does with signals, its seccomp filters. A twin has
 * inherited all of it, so the twin is asked, at leisure.
 *
 * Rests on proc_pid_status(5), proc_pid_stat(5) (where code, stack and heap begin), proc_pid_auxv(5),
 * prlimit(2), PTRACE_SECCOMP_GET_FILTER in ptrace(2); and on a program for what only the process itself can
 * be asked: rt_sigaction(2), brk(2), PR_GET_SECUREBITS, PR_GET_IO_FLUSHER, PR_GET_MDWE, membarrier(2). */
#include "process/process.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/membarrier.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define SIGNALS           64
#define SIGNAL_SET_BYTES  8
#define FILTERS_MAX       256
#define LIMIT_NAME_BYTES  26   /* of a line of /proc/PID/limits */
#define FILTER_LENGTH_MAX 4096 /* BPF_MAXINSNS */
#define DELETED           " (deleted)"

/* Newer than the headers of Debian 12. */
#define PR_GET_MDWE_NUMBER           66 /* Linux 6.3 */
#define MEMBARRIER_GET_REGISTRATIONS 512

/* Before Linux 6.3 nobody says what a process has registered for; but only who has may use it. (Whoever is to
 * be reached by MEMBARRIER_CMD_GLOBAL_EXPEDITED cannot be told from others.) */
static const struct {
    uint64_t use;
    uint32_t registration;
} barriers_of_kinds[] = {
    {MEMBARRIER_CMD_PRIVATE_EXPEDITED, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED},
    {MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE},
    {MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ},
};

struct kernel_action {
    uint64_t handler, flags, restorer, mask;
};

/* ---- what procfs says ---- */

static int add_text(struct snapshot *snapshot, const char *text, uint64_t *ret_offset)
{
    return snapshot_add_blob(snapshot, text, strlen(text) + 1, ret_offset);
}

static int describe_status(int proc_fd, struct snapshot *snapshot, struct snapshot_state *state)
{
    _cleanup_free_ char *status = NULL;
    int r = file_read(proc_fd, "status", &status, NULL);
    if (r < 0)
        return r;
    state->umask = (uint32_t)status_number(status, "Umask", 8);
    if (status_find(status, "THP_enabled") && !status_number(status, "THP_enabled", 10))
        state->flags |= SNAPSHOT_STATE_NO_HUGE_PAGES;
    return credentials_parse(status, snapshot, &state->credentials);
}

/* A line of /proc/PID/limits, which everybody may read, other than prlimit(2): its numbers stand behind 26
 * bytes of name. */
static bool read_limit(const char *text, const char *name, uint64_t values[2])
{
    const char *line = strstr(text, name);
    if (!line || strlen(line) < LIMIT_NAME_BYTES)
        return false;
    const char *position = line + LIMIT_NAME_BYTES;
    for (int i = 0; i < 2; i++) {
        position += strspn(position, " ");
        bool is_unlimited = strncmp(position, "unlimited", strlen("unlimited")) == 0;
        values[i] = is_unlimited ? UINT64_MAX : strtoull(position, NULL, 10);
        position += strcspn(position, " \n");
    }
    return true;
}

static int describe_limits(int proc_fd, struct snapshot_state *state)
{
    static const char *const names[SNAPSHOT_LIMITS] = {
        [RLIMIT_CPU] = "Max cpu time",
        [RLIMIT_FSIZE] = "Max file size",
        [RLIMIT_DATA] = "Max data size",
        [RLIMIT_STACK] = "Max stack size",
        [RLIMIT_CORE] = "Max core file size",
        [RLIMIT_RSS] = "Max resident set",
        [RLIMIT_NPROC] = "Max processes",
        [RLIMIT_NOFILE] = "Max open files",
        [RLIMIT_MEMLOCK] = "Max locked memory",
        [RLIMIT_AS] = "Max address space",
        [RLIMIT_LOCKS] = "Max file locks",
        [RLIMIT_SIGPENDING] = "Max pending signals",
        [RLIMIT_MSGQUEUE] = "Max msgqueue size",
        [RLIMIT_NICE] = "Max nice priority",
        [RLIMIT_RTPRIO] = "Max realtime priority",
        [RLIMIT_RTTIME] = "Max realtime timeout",
    };
    _Static_assert(RLIM_NLIMITS == SNAPSHOT_LIMITS, "another number of limits");
    _cleanup_free_ char *text = NULL;
    int r = file_read(proc_fd, "limits", &text, NULL);
    for (int resource = 0; r == 0 && resource < SNAPSHOT_LIMITS; resource++)
        if (!read_limit(text, names[resource], state->limits[resource]))
            r = -EBADMSG;
    return r;
}

/* The fields of /proc/PID/stat that say where things are; counted from 1, the name is the second. */
static int describe_layout(int proc_fd, struct snapshot_layout *layout)
{
    const struct {
        int field;
        uint64_t *value;
    } wanted[] = {
        {26, &layout->start_code}, {27, &layout->end_code}, {28, &layout->start_stack},
        {45, &layout->start_data}, {46, &layout->end_data}, {47, &layout->start_brk},
        {48, &layout->arg_start},  {49, &layout->arg_end},  {50, &layout->env_start},
        {51, &layout->env_end},
    };
    _cleanup_free_ char *stat = NULL;
    int r = file_read(proc_fd, "stat", &stat, NULL);
    if (r < 0)
        return r;
    char *position = strrchr(stat, ')');
    if (!position)
        return -EBADMSG;
    position += 2;
    size_t next = 0;
    for (int field = 3; next < COUNT_OF(wanted); field++) {
        const char *text = strsep(&position, " ");
        if (!text)
            return -EBADMSG;
        if (field == wanted[next].field)
            *wanted[next++].value = strtoull(text, NULL, 10);
    }
    return 0;
}

static int describe_directories(int proc_fd, struct snapshot *snapshot, struct snapshot_state *state)
{
    _cleanup_free_ char *directory = NULL, *root = NULL, *exe = NULL;
    int r = link_read(proc_fd, "cwd", &directory);
    if (r == 0)
        r = link_read(proc_fd, "root", &root);
    if (r == 0)
        r = link_read(proc_fd, "exe", &exe);
    struct stat here, by_path, ours;
    if (r == 0 && fstatat(proc_fd, "cwd", &here, 0) < 0)
        r = -errno;
    if (r < 0)
        return r;
    if (stat(directory, &by_path) < 0 || by_path.st_dev != here.st_dev || by_path.st_ino != here.st_ino) {
        state->flags |= SNAPSHOT_STATE_REMOVED_DIRECTORY;
        state->directory_mode = here.st_nlink == 0 ? here.st_mode : 0;
        state->directory_uid = here.st_uid;
        state->directory_gid = here.st_gid;
    }
    if (fstatat(proc_fd, "root", &here, 0) < 0 || stat("/", &ours) < 0 || here.st_dev != ours.st_dev ||
        here.st_ino != ours.st_ino)
        state->flags |= SNAPSHOT_STATE_OTHER_ROOT;
    if (fstatat(proc_fd, "exe", &here, 0) < 0)
        return -errno;
    if (stat(exe, &by_path) < 0 || by_path.st_dev != here.st_dev || by_path.st_ino != here.st_ino)
        state->flags |= SNAPSHOT_STATE_REMOVED_EXE;
    state->exe_device_major = major(here.st_dev);
    state->exe_device_minor = minor(here.st_dev);
    state->exe_inode = here.st_ino;
    state->exe_size = (uint64_t)here.st_size;
    state->exe_modified_ns = here.st_mtim.tv_sec * INT64_C(1000000000) + here.st_mtim.tv_nsec;
    r = add_text(snapshot, directory, &state->directory_offset);
    if (r == 0)
        r = add_text(snapshot, root, &state->root_offset);
    return r == 0 ? add_text(snapshot, exe, &state->exe_offset) : r;
}

static uint64_t read_number(int proc_fd, const char *name, int base)
{
    _cleanup_free_ char *text = NULL;
    return file_read(proc_fd, name, &text, NULL) < 0 ? 0 : (uint64_t)strtoll(text, NULL, base);
}

int process_read_login(int proc_fd, uint32_t *ret_uid)
{
    _cleanup_free_ char *text = NULL;
    int r = file_read(proc_fd, "loginuid", &text, NULL);
    if (r == 0)
        *ret_uid = (uint32_t)strtoul(text, NULL, 10);
    return r;
}

void process_read_namespaces(int proc_fd, uint64_t namespaces[SNAPSHOT_NAMESPACES])
{
    for (size_t i = 0; i < SNAPSHOT_NAMESPACES; i++) {
        char path[32];
        struct stat entry;
        snprintf(path, sizeof path, "ns/%s", process_namespace_names[i]);
        namespaces[i] = fstatat(proc_fd, path, &entry, 0) < 0 ? 0 : entry.st_ino;
    }
}

const char *const process_namespace_names[SNAPSHOT_NAMESPACES] = {"cgroup", "ipc",  "mnt",  "net",
                                                                  "pid",    "time", "user", "uts"};

int process_describe_outside(int proc_fd, struct snapshot *snapshot, struct snapshot_state *state)
{
    int r = describe_status(proc_fd, snapshot, state);
    if (r == 0)
        r = describe_limits(proc_fd, state);
    if (r == 0)
        r = describe_layout(proc_fd, &state->layout);
    if (r == 0)
        r = describe_directories(proc_fd, snapshot, state);
    _cleanup_free_ char *auxv = NULL;
    size_t auxv_length = 0;
    if (r == 0)
        r = file_read(proc_fd, "auxv", &auxv, &auxv_length);
    if (r == 0)
        r = snapshot_add_blob(snapshot, auxv, auxv_length, &state->auxv_offset);
    state->auxv_length = auxv_length;
    _cleanup_free_ char *groups = NULL;
    if (r == 0)
        r = add_text(snapshot, file_read(proc_fd, "cgroup", &groups, NULL) < 0 ? "" : groups,
                     &state->control_groups_offset);
    if (process_read_login(proc_fd, &state->login_uid) == 0)
        state->flags |= SNAPSHOT_STATE_HAS_LOGIN;
    state->personality = (uint32_t)read_number(proc_fd, "personality", 16);
    state->oom_score_adj = (int32_t)read_number(proc_fd, "oom_score_adj", 10);
    state->core_dump_filter = (uint32_t)read_number(proc_fd, "coredump_filter", 16);
    process_read_namespaces(proc_fd, state->namespaces);
    return r;
}

/* ---- what only itself can be asked ---- */

static int describe_inside(struct target *holder, const uint64_t report_action[4], struct snapshot *snapshot,
                           struct snapshot_state *state, struct reseat_error **ret_error)
{
    struct scratch *scratch = &holder->scratch;
    _cleanup_(program_end) struct program program = {0};
    uint64_t actions = scratch_take(scratch, SIGNALS * sizeof(struct kernel_action), 8, NULL);
    int r = program_begin(&program, scratch, SIGNALS + 16, 0, ret_error);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < SIGNALS; i++)
        program_call(&program, NULL, SYS_rt_sigaction, i + 1, 0, actions + i * sizeof(struct kernel_action),
                     SIGNAL_SET_BYTES);
    size_t brk_call = program_call(&program, "asking where the heap ends", SYS_brk, 0);
    size_t bits_call = program_call(&program, NULL, SYS_prctl, PR_GET_SECUREBITS);
    size_t dumpable_call = program_call(&program, NULL, SYS_prctl, PR_GET_DUMPABLE);
    size_t flusher_call = program_call(&program, NULL, SYS_prctl, PR_GET_IO_FLUSHER);
    size_t mdwe_call = program_call(&program, NULL, SYS_prctl, PR_GET_MDWE_NUMBER);
    size_t barrier_call = program_call(&program, NULL, SYS_membarrier, MEMBARRIER_GET_REGISTRATIONS);
    for (size_t i = 0; i < COUNT_OF(barriers_of_kinds); i++)
        program_call(&program, NULL, SYS_membarrier, barriers_of_kinds[i].use);
    r = program_run_batch(holder, &program, ret_error);
    if (r < 0)
        return r;
    const struct kernel_action *found = scratch_mirror(scratch, actions);
    for (uint32_t i = 0; i < SIGNALS; i++) {
        struct kernel_action action = found[i];
        if (report_action && (int)i + 1 == holder->report_signal)
            memcpy(&action, report_action, sizeof action);
        if (!action.handler && !action.flags && !action.mask)
            continue; /* the default */
        struct snapshot_action *row = array_append(snapshot->actions, snapshot->actions_count);
        if (!row)
            return error_errno(ret_error, -ENOMEM, "noting the signal handlers of process %d", holder->pid);
        *row = (struct snapshot_action){.signal = i + 1,
                                        .handler = action.handler,
                                        .flags = action.flags,
                                        .restorer = action.restorer,
                                        .mask = action.mask};
    }
    int64_t bits = program_result(&program, bits_call), dumpable = program_result(&program, dumpable_call),
            mdwe = program_result(&program, mdwe_call), barriers = program_result(&program, barrier_call);
    state->layout.brk = (uint64_t)program_result(&program, brk_call);
    state->credentials.secure_bits = bits > 0 ? (uint32_t)bits : 0;
    state->dumpable = dumpable > 0 ? (uint32_t)dumpable : 0;
    state->no_write_execute = mdwe > 0 ? (uint32_t)mdwe : 0;
    state->barriers = barriers > 0 ? (uint32_t)barriers : 0;
    for (size_t i = 0; barriers < 0 && i < COUNT_OF(barriers_of_kinds); i++)
        if (program_result(&program, barrier_call + 1 + i) == 0)
            state->barriers |= barriers_of_kinds[i].registration;
    if (program_result(&program, flusher_call) > 0)
        state->flags |= SNAPSHOT_STATE_IO_FLUSHER;
    return 0;
}

/* ---- seccomp ---- */

static int describe_filter(pid_t tid, size_t index, struct snapshot *snapshot)
{
    struct sock_filter_bytes {
        uint8_t bytes[8];
    } * code;
    long length = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, NULL);
    if (length < 0)
        return -errno;
    if (length > FILTER_LENGTH_MAX)
        return -E2BIG;
    _cleanup_free_ void *room = code = calloc((size_t)length, sizeof *code);
    if (!room)
        return -ENOMEM;
    if (ptrace(PTRACE_SECCOMP_GET_FILTER, tid, index, code) != length)
        return -errno;
    struct __ptrace_seccomp_metadata {
        uint64_t filter_off, flags;
    } metadata = {.filter_off = index};
    if (ptrace(PTRACE_SECCOMP_GET_METADATA, tid, sizeof metadata, &metadata) < 0)
        metadata.flags = 0; /* before Linux 4.16 */
    struct snapshot_filter *row = array_append(snapshot->filters, snapshot->filters_count);
    if (!row)
        return -ENOMEM;
    row->length = (uint32_t)length;
    row->flags = (uint32_t)metadata.flags;
    return snapshot_add_blob(snapshot, code, (size_t)length * sizeof *code, &row->offset);
}

/* The first is the oldest. */
static int describe_filters(struct target *holder, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    int r = 0;
    if (!(snapshot->process.flags & SNAPSHOT_FILTERED))
        return 0;
    for (size_t i = 0; r == 0; i++)
        r = i < FILTERS_MAX ? describe_filter(holder->pid, i, snapshot) : -E2BIG;
    if (r == -ENOENT && snapshot->filters_count)
        return 0;
    return error_errno(
        ret_error, r,
        "reading the seccomp filters of process %u (which takes CAP_SYS_ADMIN, and no filter on "
        "ourselves)",
        snapshot->process.pid);
}

int process_describe(struct target *holder, const uint64_t report_action[4], struct snapshot *snapshot,
                     struct reseat_error **ret_error)
{
    struct snapshot_state *state = array_append(snapshot->states, snapshot->states_count);
    if (!state)
        return error_errno(ret_error, -ENOMEM, "describing process %u", snapshot->process.pid);
    int r = process_describe_outside(holder->proc_fd, snapshot, state);
    if (r < 0)
        return error_errno(ret_error, r, "describing process %u", snapshot->process.pid);
    r = describe_inside(holder, report_action, snapshot, state, ret_error);
    return r < 0 ? r : describe_filters(holder, snapshot, ret_error);
}
