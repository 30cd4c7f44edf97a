/* Who gets a session to what.
 *
 * The kernel decides: a client proves that the kernel lets it trace the process by handing over a descriptor
 * of /proc/PID/mem, which can be opened by nobody else (PTRACE_MODE_ATTACH, with all that security modules
 * add to it). What is left to us is to make sure that the two descriptors are what they should be:
 *
 *  1. The pidfd is one (only the kernel makes them, waitid(2) knows them), of a process, not of a thread, and
 *     tells its number here.
 *  2. The other is open for reading at least (not O_PATH, which asks for no permission), on procfs, and of
 * the very inode that /proc/PID/mem is here: same device and number, and, because numbers of procfs come
 * round again, a lock (flock(2)) that is taken on one of them is found held on the other.
 *  3. It was the same process all the time: the pidfd says that it has not ended, after everything was read.
 *
 * That proves that its opener was let in once. A descriptor that was opened before the process executed a
 * set-user-ID program proves nothing about that program; it even refers to the memory of before. So
 *
 *  4. unless the peer has CAP_SYS_PTRACE now, the ids that the process has now must be the peer's, it must be
 *     dumpable, have no capabilities that the peer has not, and its last execve(2) must not have gained
 *     privileges (AT_SECURE). This is the kernel's rule again, as of this moment.
 *
 * From then on the session is bound to this program (execution.c). An administrator's rules come on top
 * (configuration.c).
 *
 * See ptrace(2) "Ptrace access mode checking", proc_pid_mem(5), pidfd_open(2). */
#include "core/core-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#define LOCK_TRIES 200 /* a millisecond each: another worker may be at the same proof */

/* ---- the pidfd ---- */

static int read_pidfd(int pidfd, pid_t *ret_pid, struct reseat_error **ret_error)
{
    int r = pidfd_process(pidfd, ret_pid);
    if (r == -EINVAL)
        return error_set(ret_error, r, "the first descriptor beside open must be a pidfd, and is none");
    if (r == -ESRCH)
        return error_set(ret_error, r,
                         "the process of the pidfd has ended, or is in no PID namespace that core sees");
    return r < 0 ? error_errno(ret_error, r, "reading which process the pidfd is of") : 0;
}

/* ---- the descriptor of /proc/PID/mem ---- */

static int lock_alone(int fd)
{
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK)
            return -errno;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return -EBUSY;
}

/* Whether two descriptors are of one inode, in the kernel's own opinion: a lock on one is in the way of a
 * lock on the other, and not once it is let go. */
static int check_same_inode(int given, int ours, bool *ret_same)
{
    int r = lock_alone(given);
    if (r < 0)
        return r;
    bool is_in_the_way = flock(ours, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
    flock(given, LOCK_UN);
    *ret_same = is_in_the_way && flock(ours, LOCK_EX | LOCK_NB) == 0;
    flock(ours, LOCK_UN);
    return 0;
}

static int error_not_mem(pid_t pid, struct reseat_error **ret_error)
{
    return error_set(
        ret_error, -EPERM,
        "the second descriptor beside open is not /proc/%d/mem of the process that the pidfd is of, "
        "as core sees it (client and core must use the same instance of procfs)",
        pid);
}

/* *ret_rights: what the descriptor is good for: who could, or would, open it for reading only, gets no more.
 */
static int check_mem(pid_t pid, int mem, uint32_t *ret_rights, struct reseat_error **ret_error)
{
    struct statfs filesystem;
    struct stat given, own;
    char path[32];
    int flags = fcntl(mem, F_GETFL);
    bool is_readable = flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != O_WRONLY;
    if (!is_readable || fstatfs(mem, &filesystem) < 0 || filesystem.f_type != PROC_SUPER_MAGIC)
        return error_not_mem(pid, ret_error);
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    _cleanup_close_ int ours = open(path, O_RDONLY | O_CLOEXEC);
    if (ours < 0)
        return error_errno(ret_error, errno == ENOENT ? -ESRCH : -errno, "opening %s ourselves", path);
    if (fstat(mem, &given) < 0 || fstat(ours, &own) < 0 || given.st_dev != own.st_dev ||
        given.st_ino != own.st_ino)
        return error_not_mem(pid, ret_error);
    bool is_same = false;
    int r = check_same_inode(mem, ours, &is_same);
    if (r < 0)
        return error_errno(ret_error, r,
                           "locking %s, to see that it is the same (does somebody hold a lock?)", path);
    if (!is_same)
        return error_not_mem(pid, ret_error);
    *ret_rights = (flags & O_ACCMODE) == O_RDWR ? PROTOCOL_MAY_ALL : PROTOCOL_MAY_READ;
    return 0;
}

/* ---- the present ---- */

static int check_present(pid_t pid, const struct ids *peer, const struct ids *target,
                         const struct execution *execution, struct reseat_error **ret_error)
{
    if (ids_may_trace_anything(peer))
        return 0;
    for (size_t i = 0; i < 3; i++)
        if (target->users[i] != peer->users[i] || target->groups[i] != peer->groups[i])
            return error_set(ret_error, -EPERM,
                             "process %d has the user and group ids %u %u %u and %u %u %u, and the client is "
                             "%u and %u: that takes CAP_SYS_PTRACE",
                             pid, target->users[0], target->users[1], target->users[2], target->groups[0],
                             target->groups[1], target->groups[2], peer->users[1], peer->groups[1]);
    if (!target->is_dumpable || execution_is_secure(execution))
        return error_set(
            ret_error, -EPERM,
            "process %d is not dumpable, or has gained privileges at its last execve: that takes "
            "CAP_SYS_PTRACE",
            pid);
    if (target->is_in_our_namespace && (target->permitted & ~peer->permitted))
        return error_set(
            ret_error, -EPERM,
            "process %d has privileges (CAP_*) that the client has not: that takes CAP_SYS_PTRACE", pid);
    return 0;
}

/* ---- the administrator's rules ---- */

static bool is_member(const struct ids *ids, gid_t group)
{
    for (size_t i = 0; i < ids->supplementary_count; i++)
        if (ids->supplementary[i] == group)
            return true;
    return ids->groups[1] == group;
}

/* All three ids, as more could be had through any of them. */
static bool who_fits(const struct who *who, const struct ids *ids)
{
    for (size_t i = 0; i < 3 && who->user != NOBODY; i++)
        if (ids->users[i] != who->user)
            return false;
    return who->group == (gid_t)-1 || is_member(ids, who->group);
}

static bool rule_fits(const struct rule *rule, const struct ids *peer, const struct ids *target,
                      const char *program)
{
    return who_fits(&rule->client, peer) && who_fits(&rule->target, target) &&
           (!rule->program || (program && strcmp(rule->program, program) == 0));
}

static const struct rule *find_rule(const struct configuration *configuration, const struct ids *peer,
                                    const struct ids *target, pid_t pid)
{
    char path[32];
    _cleanup_free_ char *program = NULL;
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    if (link_read(AT_FDCWD, path, &program) < 0)
        program = NULL;
    for (size_t i = 0; i < configuration->rule_count; i++)
        if (rule_fits(&configuration->rules[i], peer, target, program))
            return &configuration->rules[i];
    return NULL;
}

/* ---- all of it ---- */

/* What the kernel says, as rights. */
static int ask_kernel(pid_t pid, int mem, const struct ids *peer, const struct ids *target,
                      const struct execution *execution, uint32_t *ret_rights,
                      struct reseat_error **ret_error)
{
    if (mem < 0)
        return error_set(
            ret_error, -EPERM,
            "no descriptor of /proc/%d/mem came with it, which the client could not open, and no "
            "rule of core's configuration lets it do without",
            pid);
    int r = check_mem(pid, mem, ret_rights, ret_error);
    return r < 0 ? r : check_present(pid, peer, target, execution, ret_error);
}

static int apply_rules(const struct rule *rule, pid_t pid, int mem, const struct ids *peer,
                       const struct ids *target, struct terms *terms, struct reseat_error **ret_error)
{
    uint32_t rights = PROTOCOL_MAY_ALL;
    if (rule && rule->verdict == RULE_DENY)
        return error_set(ret_error, -EPERM, "core's configuration denies user %u sessions of process %d",
                         peer->users[1], pid);
    if (!rule || rule->verdict == RULE_LIMIT) {
        int r = ask_kernel(pid, mem, peer, target, &terms->execution, &rights, ret_error);
        if (r < 0)
            return r;
    }
    terms->rights = rule ? rights & rule->rights : rights;
    if (rule && rule->lifetime_ns)
        terms->deadline_ns = now_ns() + rule->lifetime_ns;
    return 0;
}

static int error_target(pid_t pid, int r, struct reseat_error **ret_error)
{
    if (r == -EINVAL)
        return error_set(ret_error, r, "the pidfd is of thread %d, not of a process", pid);
    if (r == -ESRCH)
        return error_set(ret_error, r, "process %d has ended", pid);
    if (r == -EACCES || r == -EPERM)
        return error_set(ret_error, -EPERM, "core, which runs as user %u, may not trace process %d itself",
                         geteuid(), pid);
    return error_errno(ret_error, r, "finding out who process %d is", pid);
}

int admission_decide(int connection, const struct configuration *configuration, int pidfd, int mem,
                     const struct protocol_open *request, struct terms *ret_terms,
                     struct reseat_error **ret_error)
{
    _cleanup_(ids_end) struct ids peer = {0}, target = {0};
    struct terms terms = {0};
    int r = read_pidfd(pidfd, &terms.pid, ret_error);
    if (r < 0)
        return r;
    if (request->id != 0 && request->id != terms.pid)
        return error_set(ret_error, -EINVAL, "the pidfd is of process %d, and the message says %d", terms.pid,
                         request->id);
    if (terms.pid == getpid() || terms.pid == getppid())
        return error_set(ret_error, -EPERM, "process %d is core itself", terms.pid);
    r = ids_of_process(terms.pid, &target);
    if (r == 0)
        r = execution_read(terms.pid, &terms.execution);
    if (r < 0)
        return error_target(terms.pid, r, ret_error);
    r = ids_of_peer(connection, &peer);
    if (r < 0)
        return error_errno(ret_error, r, "finding out who the client is");
    terms.owner = peer.users[1];
    r = apply_rules(find_rule(configuration, &peer, &target, terms.pid), terms.pid, mem, &peer, &target,
                    &terms, ret_error);
    if (r < 0)
        return r;
    /* The number may have become another's only if the process of the pidfd has ended. */
    if (pidfd_has_ended(pidfd))
        return error_target(terms.pid, -ESRCH, ret_error);
    const struct protocol_narrow wanted = {.rights = request->rights, .lifetime_ns = request->lifetime_ns};
    r = terms_narrow(&terms, &wanted, NULL, 0, ret_error);
    if (r < 0)
        return r;
    if (terms.rights == 0)
        return error_set(ret_error, -EPERM,
                         "none of the rights asked for on process %d may be given to user %u", terms.pid,
                         terms.owner);
    *ret_terms = terms;
    return 0;
}
