/* Whether a process can be checkpointed at all. Each answer that is no says what was found, of which PID, why
 * that is in the way and what to do.
 *
 * Rests on /proc/PID/status and stat, the ELF header of /proc/PID/exe, and, for permission, on a real attempt
 * that has no effect: pidfd_getfd(2) of a selector that cannot exist asks the kernel the same question as
 * PTRACE_SEIZE (PTRACE_MODE_ATTACH_REALCREDS, "Ptrace access mode checking" in ptrace(2)). Only when the
 * answer is no are the rules of that page gone through one by one, to find which of them it was. */
#include "process/obstacles-internal.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define KERNEL_THREAD_FLAG 0x00200000U /* PF_KTHREAD */
#define CAP_SYS_PTRACE_BIT (UINT64_C(1) << 19)
#define GRANT                                                                                                \
    "run this as root (sudo), or give the command the capability once and for all: setcap "                  \
    "cap_sys_ptrace,cap_checkpoint_restore+ep on its file"

struct candidate {
    pid_t pid;
    int proc_fd;
    char *status;
    struct proc_stat stat;
    char who[96];
};

static void candidate_end(struct candidate *candidate)
{
    base_close(&candidate->proc_fd);
    free(candidate->status);
}

static int fail_ended(const struct candidate *candidate, int code, struct reseat_error **ret_error)
{
    if (code == -ENOENT || code == -ESRCH)
        return error_set(ret_error, -ESRCH, "There is no process %d (any more)", candidate->pid);
    return error_errno(ret_error, code, "Looking at %s", candidate->who);
}

/* ---- what it is ---- */

static int check_number(struct candidate *candidate, struct reseat_error **ret_error)
{
    snprintf(candidate->who, sizeof candidate->who, "PID %d", candidate->pid);
    if (candidate->pid <= 0)
        return error_set(ret_error, -EINVAL, "%d is not the PID of a process", candidate->pid);
    candidate->proc_fd = proc_open(candidate->pid);
    if (candidate->proc_fd < 0)
        return fail_ended(candidate, candidate->proc_fd, ret_error);
    int r = inspection_read(candidate->proc_fd, "status", &candidate->status);
    if (r == 0)
        r = proc_stat_read(candidate->proc_fd, &candidate->stat);
    if (r < 0)
        return fail_ended(candidate, r, ret_error);
    make_printable(candidate->stat.comm);
    snprintf(candidate->who, sizeof candidate->who, "PID %d (%s)", candidate->pid, candidate->stat.comm);
    pid_t process = (pid_t)status_number(candidate->status, "Tgid", 10);
    if (process == getpid())
        return error_set(ret_error, -EINVAL, "%s is the process that is asking: it cannot stop itself",
                         candidate->who);
    if (process != candidate->pid)
        return error_set(
            ret_error, -EINVAL,
            "%d is a thread (%s) of process %d, not a process: use PID %d, all its threads belong to it",
            candidate->pid, candidate->stat.comm, process, process);
    return 0;
}

/* How many of its threads run on although the leader has ended; a negative errno. */
static int count_live_threads(const struct candidate *candidate)
{
    _cleanup_free_ int *tids = NULL;
    size_t count = 0;
    int r = proc_list_numbers(candidate->proc_fd, "task", &tids, &count), live = 0;
    if (r < 0)
        return r == -ENOENT || r == -ESRCH ? 0 : r;
    for (size_t i = 0; i < count; i++) {
        struct proc_stat stat;
        if (proc_stat_of(tids[i], &stat) == 0 && !strchr("ZXx", stat.state))
            live++;
    }
    return live;
}

static int check_kind(struct candidate *candidate, struct reseat_error **ret_error)
{
    if (candidate->stat.flags & KERNEL_THREAD_FLAG)
        return error_set(
            ret_error, -EINVAL,
            "%s is a kernel thread: it has no memory and no capabilities, there is nothing to checkpoint",
            candidate->who);
    if (strchr("ZXx", candidate->stat.state)) {
        int live = count_live_threads(candidate);
        if (live < 0)
            return fail_ended(candidate, live, ret_error);
        if (live > 0)
            return error_set(ret_error, -EOPNOTSUPP,
                             "The main thread of %s has ended, %d other thread%s run%s on: such a process "
                             "cannot be stopped "
                             "as a whole, and no process can be made with an ended main thread",
                             candidate->who, live, live == 1 ? "" : "s", live == 1 ? "s" : "");
        return error_set(
            ret_error, -ESRCH,
            "%s is a zombie: it has ended, and its parent %d has not asked yet how; there is nothing "
            "left to checkpoint",
            candidate->who, candidate->stat.parent);
    }
    if (candidate->pid == 1)
        return error_set(
            ret_error, -EINVAL,
            "%s is the first process here: when it is killed, everything else in its PID namespace is "
            "killed with it, us too",
            candidate->who);
    return 0;
}

static int check_tracer(const struct candidate *candidate, struct reseat_error **ret_error)
{
    pid_t tracer = (pid_t)status_number(candidate->status, "TracerPid", 10);
    if (tracer == 0)
        return 0;
    struct proc_stat stat = {.comm = "name hidden"};
    proc_stat_of(tracer, &stat);
    make_printable(stat.comm);
    return error_set(
        ret_error, -EBUSY,
        "%s is being traced by PID %d (%s), and a process has one tracer at a time: let that one "
        "detach or end first",
        candidate->who, tracer, stat.comm);
}

/* ---- whether we may ---- */

static bool ids_match(const unsigned *ids, unsigned ours)
{
    return ids[0] == ours && ids[1] == ours && ids[2] == ours;
}

static int read_yama_scope(void)
{
    _cleanup_free_ char *text = NULL;
    return file_read(-EBADF, "/proc/sys/kernel/yama/ptrace_scope", &text, NULL) < 0 ? 0 : atoi(text);
}

static int explain_ids(const struct candidate *candidate, struct reseat_error **ret_error)
{
    uint32_t uids[4], gids[4];
    if (!status_ids(candidate->status, "Uid", uids) || !status_ids(candidate->status, "Gid", gids) ||
        (ids_match(uids, getuid()) && ids_match(gids, getgid())))
        return 0;
    return error_set(
        ret_error, -EPERM,
        "%s is not ours: its real, effective and saved user ids are %u, %u, %u and its group ids %u, %u, "
        "%u, we are user %u in group %u; all must be the same, or CAP_SYS_PTRACE is needed: " GRANT,
        candidate->who, uids[0], uids[1], uids[2], gids[0], gids[1], gids[2], getuid(), getgid());
}

/* The capability that it has and we lack, as a number in linux/capability.h. */
static int explain_capabilities(const struct candidate *candidate, const char *own_status,
                                struct reseat_error **ret_error)
{
    uint64_t missing =
        status_number(candidate->status, "CapPrm", 16) & ~status_number(own_status, "CapPrm", 16);
    if (!missing)
        return 0;
    return error_set(
        ret_error, -EPERM,
        "%s has capabilities that we lack (CAP_* mask %llx, see capsh --decode): CAP_SYS_PTRACE is "
        "needed to trace a more powerful process: " GRANT,
        candidate->who, (unsigned long long)missing);
}

static int explain_yama(const struct candidate *candidate, struct reseat_error **ret_error)
{
    switch (read_yama_scope()) {
    case 1:
        return error_set(ret_error, -EPERM,
                         "%s is not a child of ours, and this machine allows only children to be traced "
                         "(kernel.yama.ptrace_scope is 1); CAP_SYS_PTRACE is needed: " GRANT
                         ", or set sysctl kernel.yama.ptrace_scope=0",
                         candidate->who);
    case 2:
        return error_set(
            ret_error, -EPERM,
            "This machine lets nobody trace %s without CAP_SYS_PTRACE (kernel.yama.ptrace_scope is "
            "2): " GRANT,
            candidate->who);
    case 3:
        return error_set(
            ret_error, -EPERM,
            "Nobody may trace %s on this machine, not even root (kernel.yama.ptrace_scope is 3), until "
            "it is started again with another setting",
            candidate->who);
    default:
        return 0;
    }
}

/* Not dumpable (PR_SET_DUMPABLE in prctl(2)): its files in /proc then belong to root, whoever it runs as
 * (the directory itself does not). */
static int explain_dumpable(const struct candidate *candidate, struct reseat_error **ret_error)
{
    struct stat stat;
    uint32_t uids[4];
    if (fstatat(candidate->proc_fd, "status", &stat, 0) < 0 || !status_ids(candidate->status, "Uid", uids) ||
        stat.st_uid == uids[1])
        return 0;
    return error_set(
        ret_error, -EPERM,
        "%s is ours, but closed to its own user (not dumpable: it had other ids or a program file that "
        "may not be read, or asked for it): CAP_SYS_PTRACE is needed: " GRANT,
        candidate->who);
}

static int explain_refusal(const struct candidate *candidate, struct reseat_error **ret_error)
{
    _cleanup_free_ char *own_status = NULL;
    int r = file_read(-EBADF, "/proc/thread-self/status", &own_status, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "Reading our own capabilities");
    bool is_powerful = status_number(own_status, "CapEff", 16) & CAP_SYS_PTRACE_BIT;
    if (!is_powerful) {
        r = explain_ids(candidate, ret_error);
        if (r == 0)
            r = explain_capabilities(candidate, own_status, ret_error);
        if (r == 0)
            r = explain_dumpable(candidate, ret_error);
    }
    if (r == 0 && (!is_powerful || read_yama_scope() == 3))
        r = explain_yama(candidate, ret_error);
    if (r < 0)
        return r;
    return error_set(
        ret_error, -EPERM,
        "We may not trace %s%s: it is in another user namespace, or a security module (AppArmor, "
        "SELinux) or the sandbox that we run in forbids it; " GRANT ", outside of it",
        candidate->who, is_powerful ? " although we have CAP_SYS_PTRACE" : "");
}

static int check_permission(const struct candidate *candidate, struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = sys_pidfd_open(candidate->pid);
    if (pidfd < 0)
        return fail_ended(candidate, pidfd, ret_error);
    _cleanup_close_ int none = sys_pidfd_getfd(pidfd, INT_MAX);
    if (none >= 0 || none == -EBADF)
        return 0;
    return none == -EPERM ? explain_refusal(candidate, ret_error) : fail_ended(candidate, none, ret_error);
}

/* ---- whether its state allows it ---- */

static int check_word_size(const struct candidate *candidate, struct reseat_error **ret_error)
{
    Elf64_Ehdr header;
    _cleanup_close_ int fd = openat(candidate->proc_fd, "exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_errno(ret_error, -errno, "Reading the program file of %s (/proc/%d/exe)", candidate->who,
                           candidate->pid);
    ssize_t n = pread(fd, &header, sizeof header, 0);
    if (n < 0)
        return error_errno(ret_error, -errno, "Reading the program file of %s (/proc/%d/exe)", candidate->who,
                           candidate->pid);
    if (n < (ssize_t)sizeof header || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 ||
        header.e_ident[EI_CLASS] == ELFCLASS64)
        return 0;
    return error_set(ret_error, -EOPNOTSUPP,
                     "%s is a%s program: only 64-bit ones can be checkpointed; use a 64-bit build of it",
                     candidate->who, header.e_machine == EM_X86_64 ? "n x32" : " 32-bit");
}

/* Without CAP_SYS_ADMIN a filter cannot be suspended, and the first system call inside would kill the target.
 */
static int check_filter(const struct candidate *candidate, struct reseat_error **ret_error)
{
    if (status_number(candidate->status, "Seccomp", 10) == 0)
        return 0;
    int r = seccomp_try_suspend();
    if (r == 0)
        return 0;
    return error_set(
        ret_error, -EPERM,
        "%s is under a seccomp filter, and we may not suspend that (%s): CAP_SYS_ADMIN is needed, and "
        "no filter on ourselves; run this as root (sudo), outside any sandbox",
        candidate->who, strerror(-r));
}

static bool is_spawn_call(long number)
{
    return number == SYS_vfork || number == SYS_clone || number == SYS_clone3;
}

/* A thread inside vfork(2) waits uninterruptibly (state D) and cannot be stopped. The child that it waits for
 * runs in its memory. */
static int check_vfork(const struct candidate *candidate, int tid, struct reseat_error **ret_error)
{
    char path[48];
    snprintf(path, sizeof path, "task/%d/syscall", tid);
    _cleanup_free_ char *call = NULL, *children = NULL;
    if (inspection_read(candidate->proc_fd, path, &call) < 0 || !is_spawn_call(strtol(call, NULL, 10)))
        return 0;
    snprintf(path, sizeof path, "task/%d/children", tid);
    if (inspection_read(candidate->proc_fd, path, &children) < 0)
        return 0;
    char *end;
    for (const char *number = children;; number = end) {
        long child = strtol(number, &end, 10);
        if (end == number)
            return 0;
        if (sys_kcmp(candidate->pid, (pid_t)child, KCMP_VM, 0, 0) == 0)
            return error_set(
                ret_error, -EBUSY,
                "Thread %d of %s is in a vfork: it stands still until its child %ld executes a program "
                "or ends, and cannot be stopped meanwhile; try again when the child has done so",
                tid, candidate->who, child);
    }
}

static int check_threads(const struct candidate *candidate, struct reseat_error **ret_error)
{
    _cleanup_free_ int *tids = NULL;
    size_t count = 0;
    int r = proc_list_numbers(candidate->proc_fd, "task", &tids, &count);
    if (r < 0)
        return fail_ended(candidate, r, ret_error);
    for (size_t i = 0; i < count; i++) {
        struct proc_stat stat;
        if (proc_stat_of(tids[i], &stat) < 0 || stat.state != 'D')
            continue;
        r = check_vfork(candidate, tids[i], ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

int process_check_eligible(pid_t pid, struct reseat_error **ret_error)
{
    _cleanup_(candidate_end) struct candidate candidate = {.pid = pid, .proc_fd = -EBADF};
    int r = check_number(&candidate, ret_error);
    if (r == 0)
        r = check_kind(&candidate, ret_error);
    if (r == 0)
        r = check_tracer(&candidate, ret_error);
    if (r == 0)
        r = check_permission(&candidate, ret_error);
    if (r == 0)
        r = check_word_size(&candidate, ret_error);
    if (r == 0)
        r = check_filter(&candidate, ret_error);
    return r == 0 ? check_threads(&candidate, ret_error) : r;
}
