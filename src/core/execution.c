/* Which program a process executes: told apart by the auxiliary vector that the kernel keeps of each
 * execve(2), proc_pid_auxv(5).
 *
 * A session must not outlive the program that it was opened for: a process that the client may trace can
 * execute a set-user-ID program, which it may not. Nothing names an execution. But the vector has AT_SECURE,
 * which the kernel sets whenever an execve gains privileges, and addresses that it chose by chance. No
 * session is opened to somebody without CAP_SYS_PTRACE for a vector with AT_SECURE set; so one that is equal
 * to that of the opening says that no privileges have been gained. A program can change its own vector
 * (prctl(PR_SET_MM_AUXV)), but never what the kernel makes of the next one.
 *
 * Reading it touches no memory of the process, so that nobody can make us wait here. */
#include "core/core-internal.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>

#define EXECVE_TRIES 200 /* a millisecond each */

static bool find(const struct execution *execution, uint64_t type, uint64_t *ret_value)
{
    Elf64_auxv_t entry;
    for (size_t at = 0; at + sizeof entry <= execution->length; at += sizeof entry) {
        memcpy(&entry, execution->vector + at, sizeof entry);
        if (entry.a_type == type) {
            *ret_value = entry.a_un.a_val;
            return true;
        }
    }
    return false;
}

static int read_vector(const char *path, struct execution *ret_execution)
{
    _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    struct execution execution = {0};
    ssize_t n = read(fd, execution.vector, sizeof execution.vector);
    if (n < 0)
        return -errno;
    if (n == 0) /* no memory any more, or a thread of the kernel */
        return -ESRCH;
    execution.length = (uint32_t)n;
    *ret_execution = execution;
    return 0;
}

/* In the middle of an execve(2) the new memory is there, and its vector not yet: AT_EXECFN is among the last.
 */
int execution_read(pid_t pid, struct execution *ret_execution)
{
    char path[32];
    uint64_t name;
    snprintf(path, sizeof path, "/proc/%d/auxv", pid);
    int r = read_vector(path, ret_execution);
    for (int i = 0; i < EXECVE_TRIES && r == 0 && !find(ret_execution, AT_EXECFN, &name); i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        r = read_vector(path, ret_execution);
    }
    return r;
}

bool execution_is_same(const struct execution *a, const struct execution *b)
{
    return a->length == b->length && memcmp(a->vector, b->vector, a->length) == 0;
}

bool execution_is_secure(const struct execution *execution)
{
    uint64_t is_secure;
    return !find(execution, AT_SECURE, &is_secure) || is_secure; /* without: not a vector as we know it */
}
