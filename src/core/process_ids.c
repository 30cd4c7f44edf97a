/* Who a process, or a peer, is: the numbers that the kernel's own rule for tracing looks at.
 *
 * A peer is what it was when it connected (SO_PEERCRED): that cannot be changed or lent. Its capabilities are
 * not noted by the kernel, only which process it was (SO_PEERPIDFD, Linux 6.5): they are those that this one
 * has now. On older kernels only root counts as having any.
 *
 * See unix(7), credentials(7), user_namespaces(7), ptrace(2) "Ptrace access mode checking". */
#include "core/core-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

bool pidfd_has_ended(int pidfd)
{
    struct pollfd poll_fd = {.fd = pidfd, .events = POLLIN};
    return poll(&poll_fd, 1, 0) != 0;
}

int pidfd_process(int pidfd, pid_t *ret_pid)
{
    siginfo_t info;
    char path[40];
    _cleanup_free_ char *text = NULL;
    if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0 && errno != ECHILD)
        return -EINVAL;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", pidfd);
    int r = file_read(AT_FDCWD, path, &text, NULL);
    const char *value = r < 0 ? NULL : status_find(text, "Pid");
    if (!value)
        return r < 0 ? r : -EINVAL;
    long pid = strtol(value, NULL, 10); /* -1: it has ended; 0: it is in a namespace that we do not see */
    if (pid <= 0 || pidfd_has_ended(pidfd))
        return -ESRCH;
    *ret_pid = (pid_t)pid;
    return 0;
}

void ids_end(struct ids *ids)
{
    free(ids->supplementary);
    *ids = (struct ids){0};
}

static bool read_triple(const char *status, const char *name, unsigned ret_ids[3])
{
    const char *value = status_find(status, name);
    return value && sscanf(value, "%u %u %u", &ret_ids[0], &ret_ids[1], &ret_ids[2]) == 3;
}

static int read_supplementary(const char *status, struct ids *ids)
{
    const char *value = status_find(status, "Groups");
    size_t count = 0;
    while (value && *value && *value != '\n') {
        char *end;
        unsigned long group = strtoul(value, &end, 10);
        if (end == value)
            break;
        gid_t *item = array_append(ids->supplementary, count);
        if (!item)
            return -ENOMEM;
        *item = (gid_t)group;
        value = end + strspn(end, " ");
    }
    ids->supplementary_count = count;
    return 0;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Capabilities in another user namespace say nothing about ours. */
static void read_capabilities(pid_t pid, const char *status, struct ids *ids)
{
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/ns/user", pid);
    ids->is_in_our_namespace = is_same_file(path, "/proc/self/ns/user");
    if (!ids->is_in_our_namespace)
        return;
    ids->permitted = status_number(status, "CapPrm", 16);
    ids->effective = status_number(status, "CapEff", 16);
}

int ids_of_process(pid_t pid, struct ids *ret_ids)
{
    _cleanup_(ids_end) struct ids ids = {0};
    _cleanup_free_ char *status = NULL;
    _cleanup_close_ int proc_fd = proc_open(pid);
    int r = proc_fd < 0 ? proc_fd : file_read(proc_fd, "status", &status, NULL);
    if (r < 0)
        return r == -ENOENT ? -ESRCH : r;
    /* A thread has a directory too, though none that is listed. */
    if (status_number(status, "Tgid", 10) != (uint64_t)pid)
        return -EINVAL;
    if (!read_triple(status, "Uid", ids.users) || !read_triple(status, "Gid", ids.groups))
        return -EBADMSG;
    struct stat owner;
    if (fstat(proc_fd, &owner) < 0)
        return -errno;
    /* procfs gives a process that is not dumpable to root; proc(5). */
    ids.is_dumpable = owner.st_uid == ids.users[1] && owner.st_gid == ids.groups[1];
    read_capabilities(pid, status, &ids);
    r = read_supplementary(status, &ids);
    if (r < 0)
        return r;
    *ret_ids = TAKE_GENERIC(ids, (struct ids){0});
    return 0;
}

/* ---- peers ---- */

/* The capabilities of the process that connected, if the kernel says which it was and it still is there. */
static void read_peer_capabilities(int socket, struct ids *ids)
{
    _cleanup_close_ int pidfd = -EBADF;
    socklen_t length = sizeof pidfd;
    pid_t pid;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &length) < 0) {
        pidfd = -EBADF;
        bool is_old_kernel = errno == ENOPROTOOPT;
        if (is_old_kernel && ids->users[1] == 0)
            ids->permitted = ids->effective = UINT64_MAX;
        ids->is_in_our_namespace = is_old_kernel && ids->users[1] == 0;
        return;
    }
    _cleanup_(ids_end) struct ids process = {0};
    struct execution execution;
    if (pidfd_process(pidfd, &pid) < 0 || execution_read(pid, &execution) < 0 ||
        ids_of_process(pid, &process) < 0 || pidfd_has_ended(pidfd))
        return;
    bool is_secure = execution_is_secure(&execution);
    /* It may have executed something since it connected, and others may have the connection from it:
     * privileges that were gained by an execve do not count, as they may be newer than the connection. */
    if (process.users[1] != ids->users[1] || is_secure)
        return;
    ids->permitted = process.permitted;
    ids->effective = process.effective;
    ids->is_in_our_namespace = process.is_in_our_namespace;
}

static int read_peer_groups(int socket, struct ids *ids)
{
    socklen_t length = 0;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, NULL, &length) == 0 || length == 0)
        return 0;
    if (errno != ERANGE)
        return errno == ENOPROTOOPT ? 0 : -errno;
    ids->supplementary = malloc(length);
    if (!ids->supplementary)
        return -ENOMEM;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERGROUPS, ids->supplementary, &length) < 0)
        return -errno;
    ids->supplementary_count = length / sizeof *ids->supplementary;
    return 0;
}

int ids_of_peer(int socket, struct ids *ret_ids)
{
    _cleanup_(ids_end) struct ids ids = {0};
    struct ucred peer;
    socklen_t length = sizeof peer;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0)
        return -errno;
    for (size_t i = 0; i < 3; i++) {
        ids.users[i] = peer.uid;
        ids.groups[i] = peer.gid;
    }
    int r = read_peer_groups(socket, &ids);
    if (r < 0)
        return r;
    read_peer_capabilities(socket, &ids);
    *ret_ids = TAKE_GENERIC(ids, (struct ids){0});
    return 0;
}

bool ids_may_trace_anything(const struct ids *ids)
{
    return ids->is_in_our_namespace && (ids->effective >> CAP_SYS_PTRACE & 1);
}
