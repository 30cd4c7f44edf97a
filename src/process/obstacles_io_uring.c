/* Obstacles in one io_uring instance. A plain idle ring goes on in a restored process; these do not:
 *
 * - SQPOLL: the kernel thread that polls it dies with its process, io_uring_enter(2) then says EOWNERDEAD;
 * - SINGLE_ISSUER, and DEFER_TASKRUN which requires it: only the task that made the ring may use it (EEXIST);
 * - requests in flight: cancelled with the process that made them (ECANCELED);
 * - in a forked copy: fixed buffers are pinned pages of the target, data goes to pages that the copy does not
 *   see, without a word; a ring in the program's own memory (NO_MMAP, Linux 6.5) likewise. Registered files
 * go on.
 *
 * Tried on Linux 6.18 with both forms. Rests on fdinfo (io_uring/fdinfo.c; complete only when the kernel got
 * the ring's lock, so it is read again until it is) and on io_uring_register(2) through a copy of the
 * descriptor: asking for the list of operations changes nothing, and says EEXIST where we are not the one
 * issuer. */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define RING_READ_TRIES 50
/* On Linux 6.1 (6.18 no longer) the text looks complete without the lock too, only that no polling thread is
 * in it: where the process has such a thread, a ring without one is looked at a few times. */
#define THREAD_READ_TRIES  10
#define RING_READ_PAUSE_NS 500000

struct ring {
    uint64_t inode;
    bool complete;
    int poll_thread; /* -1: none */
    uint64_t buffers;
    uint32_t submitted, completed;
    uint32_t polls, overflows;
};

/* Lines that are indented and stand below "section:". */
static uint32_t count_below(const char *fdinfo, const char *section)
{
    const char *line = status_find(fdinfo, section);
    uint32_t count = 0;
    if (!line)
        return 0;
    /* status_find() may have skipped the line break's blanks only, so the section's own line ends here. */
    for (line += strcspn(line, "\n"); line[0] == '\n' && line[1] == ' '; line += 1 + strcspn(line + 1, "\n"))
        count++;
    return count;
}

static void ring_parse(const char *fdinfo, struct ring *ret_ring)
{
    const char *thread = status_find(fdinfo, "SqThread");
    *ret_ring = (struct ring){
        .inode = status_number(fdinfo, "ino", 10),
        .complete = thread && status_find(fdinfo, "PollList"),
        .poll_thread = thread ? (int)strtol(thread, NULL, 10) : -1,
        .buffers = status_number(fdinfo, "UserBufs", 10),
        .submitted = (uint32_t)status_number(fdinfo, "CachedSqHead", 10),
        .completed = (uint32_t)status_number(fdinfo, "CachedCqTail", 10),
        .polls = count_below(fdinfo, "PollList"),
        .overflows = count_below(fdinfo, "CqOverflowList"),
    };
}

static int ring_read(struct inspection *inspection, int selector, struct ring *ret_ring)
{
    char path[32];
    snprintf(path, sizeof path, "fdinfo/%d", selector);
    for (int i = 0; i < RING_READ_TRIES; i++) {
        _cleanup_free_ char *fdinfo = NULL;
        int r = inspection_read(inspection->proc_fd, path, &fdinfo);
        if (r < 0)
            return r;
        ring_parse(fdinfo, ret_ring);
        bool may_hide_thread =
            inspection->has_poll_worker && ret_ring->poll_thread < 0 && i < THREAD_READ_TRIES;
        if (ret_ring->complete && !may_hide_thread)
            break;
        nanosleep(&(struct timespec){.tv_nsec = RING_READ_PAUSE_NS}, NULL);
    }
    return 0;
}

/* 1: only its maker may use the ring; 0: anybody; else a negative errno, not known. */
static int ring_has_single_issuer(struct inspection *inspection, int selector)
{
    _cleanup_close_ int ring_fd = sys_pidfd_getfd(inspection->pidfd, selector);
    if (ring_fd < 0)
        return ring_fd == -EBADF ? -ESRCH : ring_fd;
    struct io_uring_probe probe = {0};
    if (syscall(SYS_io_uring_register, ring_fd, IORING_REGISTER_PROBE, &probe, 0) == 0)
        return 0;
    switch (errno) {
    case EEXIST:
        return 1;
    case EPERM: /* a seccomp filter of ours, as containers have */
    case ENOSYS:
        return -errno;
    default: /* restricted (EACCES) and the like: found out after the issuer was checked */
        return 0;
    }
}

static int add_in_flight(struct inspection *inspection, int selector, const struct ring *ring)
{
    /* Multishot requests complete more than once, so the difference alone may be zero or negative while one
     * waits; those that wait for readiness are in the poll list. */
    int32_t difference = (int32_t)(ring->submitted - ring->completed - ring->overflows);
    uint32_t in_flight = difference > 0 ? (uint32_t)difference : 0;
    if (in_flight < ring->polls)
        in_flight = ring->polls;
    if (in_flight == 0)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_DEGRADED, selector,
        "Selector %d of %s is an io_uring instance with requests in flight (up to %u): they would "
        "complete with ECANCELED, and the program has to make them again; try again when it is "
        "idle",
        selector, inspection->who, in_flight);
}

static int add_issuer(struct inspection *inspection, int selector)
{
    int r = ring_has_single_issuer(inspection, selector);
    if (r == 0)
        return 0;
    if (r == 1)
        return obstacles_add(
            inspection->obstacles, SEVERITY_LOST, selector,
            "Selector %d of %s is an io_uring instance for one issuer only (SINGLE_ISSUER, "
            "DEFER_TASKRUN): it would refuse the restored process with EEXIST; have the program "
            "make it without these flags",
            selector, inspection->who);
    if (r != -EPERM && r != -ENOSYS)
        return r;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, selector,
        "Selector %d of %s is an io_uring instance, and we may not ask it whether it has a "
        "single issuer (io_uring_register: %s): if so, it would refuse the restored process; run "
        "this outside the sandbox that forbids that",
        selector, inspection->who, strerror(-r));
}

static int add_ring(struct inspection *inspection, int selector, const struct ring *ring)
{
    if (!ring->complete)
        return obstacles_add(
            inspection->obstacles, SEVERITY_LOST, selector,
            "Selector %d of %s is an io_uring instance that is too busy to be looked at: its "
            "requests would be cancelled, and it may not go on; try again when it is idle",
            selector, inspection->who);
    int r = 0;
    if (ring->poll_thread >= 0)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, selector,
            "Selector %d of %s is an io_uring instance with a kernel thread of its own (SQPOLL, "
            "thread %d) that ends with the process: the restored one would get EOWNERDEAD; have the "
            "program make it without that flag",
            selector, inspection->who, ring->poll_thread);
    if (r == 0 && ring->buffers > 0 && inspection->form == SNAPSHOT_FORM_COPY)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, selector,
            "Selector %d of %s is an io_uring instance with fixed buffers (%llu): they stay with the "
            "target's pages, and what the restored process reads into them would silently not "
            "arrive; checkpoint it without leaving it running and without keeping a copy",
            selector, inspection->who, (unsigned long long)ring->buffers);
    if (r == 0)
        r = add_in_flight(inspection, selector, ring);
    return r == 0 ? add_issuer(inspection, selector) : r;
}

int find_ring_obstacles(struct inspection *inspection, int selector, uint64_t *ret_inode,
                        struct reseat_error **ret_error)
{
    struct ring ring;
    int r = ring_read(inspection, selector, &ring);
    if (r == 0)
        r = add_ring(inspection, selector, &ring);
    if (r == -ESRCH)
        return error_set(ret_error, r, "Selector %d of %s was closed meanwhile", selector, inspection->who);
    if (r < 0)
        return error_errno(ret_error, r, "Looking at the io_uring instance at selector %d of %s", selector,
                           inspection->who);
    *ret_inode = ring.inode;
    return 0;
}
