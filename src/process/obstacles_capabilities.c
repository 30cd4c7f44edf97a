/* Obstacles in the capability space: descriptors whose object is tied to the process itself, so that even the
 * very same object does not work after a restore.
 *
 * One pass over /proc/PID/fd; the link text says what a descriptor is (proc_pid_fd(5)), and only the few
 * special ones are looked at closer, through fdinfo or through a copy of ours (pidfd_getfd(2)). Ordinary
 * files, sockets and pipes cost one readlinkat(2). */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/vfs.h>

#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202 /* ipc/mqueue.c */
#endif

/* Enough of a link to know what it is; what is longer is a path. */
#define LINK_BYTES 64

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* ---- pidfd: names the process that died, not the one that came back ---- */

static bool is_own_thread(const struct inspection *inspection, int tid)
{
    for (size_t i = 0; i < inspection->tid_count; i++)
        if (inspection->tids[i] == tid)
            return true;
    return false;
}

static int check_pidfd(struct inspection *inspection, int selector)
{
    char path[32];
    snprintf(path, sizeof path, "fdinfo/%d", selector);
    _cleanup_free_ char *fdinfo = NULL;
    int r = inspection_read(inspection->proc_fd, path, &fdinfo);
    if (r < 0)
        return r;
    if (!is_own_thread(inspection, (int)status_number(fdinfo, "Pid", 10)))
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_DEGRADED, selector,
        "Selector %d of %s is a pidfd on the process itself: it stays with the process that is "
        "killed, shows its end, and says ESRCH ever after; have the program open it again after "
        "the restore",
        selector, inspection->who);
}

/* ---- message queue: the notification is the process's, mq_notify(3) ---- */

/* The state line of a queue's file, mq_overview(7). Opened anew where we may, else read through a copy of the
 * descriptor (pread: the position is the target's too). -ENODATA: not a message queue. */
static int read_queue(struct inspection *inspection, int selector, char *ret_text, size_t capacity)
{
    char path[32];
    snprintf(path, sizeof path, "fd/%d", selector);
    _cleanup_close_ int path_fd = openat(inspection->proc_fd, path, O_PATH | O_CLOEXEC);
    if (path_fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    struct statfs statfs;
    if (fstatfs(path_fd, &statfs) < 0)
        return -errno;
    if (statfs.f_type != MQUEUE_MAGIC)
        return -ENODATA;
    _cleanup_close_ int fd = openat(inspection->proc_fd, path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        fd = sys_pidfd_getfd(inspection->pidfd, selector);
    if (fd < 0)
        return fd == -EBADF ? -ESRCH : fd;
    ssize_t n = pread(fd, ret_text, capacity - 1, 0);
    if (n < 0)
        return errno == EBADF ? -EACCES : -errno; /* a copy of a write-only descriptor */
    ret_text[n] = '\0';
    return 0;
}

static int check_queue(struct inspection *inspection, int selector, const char *link)
{
    char text[160];
    int r = read_queue(inspection, selector, text, sizeof text);
    if (r == -ENODATA)
        return 0;
    if (r == -EACCES)
        return obstacles_add(
            inspection->obstacles, SEVERITY_DEGRADED, selector,
            "Selector %d of %s is the message queue %s, which we may not read: if the process "
            "has asked it for notification (mq_notify), that would be lost; run this as root",
            selector, inspection->who, link);
    if (r < 0)
        return r;
    const char *notified = strstr(text, "NOTIFY_PID:");
    if (!notified || strtol(notified + strlen("NOTIFY_PID:"), NULL, 10) != inspection->pid)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_DEGRADED, selector,
        "Selector %d of %s is the message queue %s, which is to notify the process (mq_notify): "
        "the kernel forgets that when the process is killed, and no notification would come; "
        "have the program ask for it again after the restore",
        selector, inspection->who, link);
}

/* ---- what a forked copy of the memory breaks ---- */

static int add_lost_in_copy(struct inspection *inspection, int selector, const char *what, const char *would)
{
    if (inspection->form != SNAPSHOT_FORM_COPY)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, selector,
        "Selector %d of %s is %s, which belongs to the process's own memory and not to a copy of "
        "it: %s; checkpoint it without leaving it running and without keeping a copy",
        selector, inspection->who, what, would);
}

static int check_selector(struct inspection *inspection, int selector, const char *link)
{
    if (link[0] == '/' && (starts_with(link, "/dev/mqueue/") || !strchr(link + 1, '/')))
        return check_queue(inspection, selector, link);
    if (starts_with(link, "pidfd:") || starts_with(link, "anon_inode:[pidfd]"))
        return check_pidfd(inspection, selector);
    if (starts_with(link, "anon_inode:[perf_event]"))
        return obstacles_add(
            inspection->obstacles, SEVERITY_DEGRADED, selector,
            "Selector %d of %s is a performance counter (perf_event): it counts for the process "
            "that is killed, and would stand still after the restore; have the program open it "
            "again then",
            selector, inspection->who);
    if (starts_with(link, "anon_inode:[userfaultfd]")) {
        inspection->has_userfaultfd = true;
        return add_lost_in_copy(inspection, selector, "a userfaultfd",
                                "the restored process would silently find zeroes where pages are missing");
    }
    if (starts_with(link, "anon_inode:kvm-vm"))
        return add_lost_in_copy(inspection, selector, "a KVM virtual machine",
                                "every call on it would fail with EIO");
    if (starts_with(link, "anon_inode:kvm-vcpu"))
        return add_lost_in_copy(inspection, selector, "a processor of a KVM virtual machine",
                                "every call on it would fail with EIO");
    return 0;
}

/* Reads the beginning of the link of a selector. -ESRCH: the selector is gone. */
static int read_selector(int fd_dir, int selector, char *ret_link)
{
    char name[16];
    snprintf(name, sizeof name, "%d", selector);
    ssize_t n = readlinkat(fd_dir, name, ret_link, LINK_BYTES - 1);
    if (n < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    ret_link[n] = '\0';
    make_printable(ret_link);
    return 0;
}

static int check_ring(struct inspection *inspection, int selector, struct ring_place **rings,
                      size_t *ring_count, struct reseat_error **ret_error)
{
    uint64_t inode;
    int r = find_ring_obstacles(inspection, selector, &inode, ret_error);
    if (r < 0)
        return r == -ESRCH ? 0 : r;
    struct ring_place *place = array_append(*rings, *ring_count);
    if (!place)
        return error_errno(ret_error, -ENOMEM, "Looking at %s", inspection->who);
    *place = (struct ring_place){.inode = inode, .selector = selector};
    return 0;
}

int find_capability_obstacles(struct inspection *inspection, struct ring_place **ret_rings,
                              size_t *ret_ring_count, struct reseat_error **ret_error)
{
    _cleanup_close_ int fd_dir = openat(inspection->proc_fd, "fd", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (fd_dir < 0)
        return inspection_fail(inspection, -errno, "fd", ret_error);
    _cleanup_free_ int *selectors = NULL;
    size_t count = 0;
    int r = proc_list_numbers(fd_dir, "", &selectors, &count);
    if (r < 0)
        return inspection_fail(inspection, r, "fd", ret_error);
    _cleanup_free_ struct ring_place *rings = NULL;
    size_t ring_count = 0;
    for (size_t i = 0; i < count; i++) {
        char link[LINK_BYTES];
        r = read_selector(fd_dir, selectors[i], link);
        if (r == 0 && starts_with(link, "anon_inode:[io_uring]")) {
            r = check_ring(inspection, selectors[i], &rings, &ring_count, ret_error);
            if (r < 0)
                return r;
        } else if (r == 0) {
            r = check_selector(inspection, selectors[i], link);
        }
        if (r == -ESRCH)
            continue; /* closed meanwhile */
        if (r < 0)
            return error_errno(ret_error, r, "Looking at selector %d of %s", selectors[i], inspection->who);
    }
    *ret_rings = TAKE_PTR(rings);
    *ret_ring_count = ring_count;
    return 0;
}
