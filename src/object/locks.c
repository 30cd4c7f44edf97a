/* Locks that belong to an object, and so are the image's to carry: flock(2), open file description locks and
 * leases (fcntl(2)). fdinfo lists those of the description that it is about (proc_pid_fdinfo(5), "lock:").
 * POSIX record locks belong to the process and stand in `locks` of the snapshot. A lock that somebody else
 * has taken meanwhile is an error.
 *
 * A lease that is being broken (somebody has opened the file, and its holder is to lower the lease or let it
 * go within /proc/sys/fs/lease-break-time) is taken as it was before, and broken again. */
#include "object/at_selector.h"
#include "object/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>

/* "lock:	1: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF", "lock:	1: LEASE  BREAKING  UNLCK 1234
 * …": what a lease that is being broken is to become. */
static bool parse_lock(const char *line, struct lock_state *ret_lock)
{
    char kind[16], mode[16], access[16], end[24];
    long long start;
    char head[256];
    line_copy(line, head, sizeof head);
    if (sscanf(head, "lock: %*d: %15s %15s %15s %*d %*s %lld %23s", kind, mode, access, &start, end) != 5)
        return false;
    int lock_kind = strcmp(kind, "FLOCK") == 0      ? LOCK_FLOCK
                    : strcmp(kind, "OFDLCK") == 0   ? LOCK_OFD
                    : strcmp(kind, "LEASE") != 0    ? 0
                    : strcmp(mode, "BREAKING") == 0 ? LOCK_BREAKING
                                                    : LOCK_LEASE;
    *ret_lock = (struct lock_state){
        .kind = lock_kind,
        .type = strcmp(access, "WRITE") == 0   ? F_WRLCK
                : strcmp(access, "UNLCK") == 0 ? F_UNLCK
                                               : F_RDLCK,
        .start = start,
        .length = strcmp(end, "EOF") == 0 ? 0 : strtoll(end, NULL, 10) - start + 1,
    };
    return lock_kind != 0;
}

int locks_capture(struct object_capture *capture, uint32_t *ret_count)
{
    uint32_t count = 0;
    int r = 0;
    for (const char *line = capture->sight->info; r == 0 && (line = strstr(line, "lock:")); line += 5) {
        struct lock_state lock;
        if (!parse_lock(line, &lock))
            continue;
        r = state_add(capture, &lock, sizeof lock);
        count++;
    }
    *ret_count = count;
    return r;
}

static struct lock_state read_lock(const struct object_view *view, size_t offset, size_t index)
{
    struct lock_state lock;
    memcpy(&lock, view->state + offset + index * sizeof lock, sizeof lock);
    return lock;
}

int locks_check(const struct object_view *view, size_t offset, uint32_t count,
                struct reseat_error **ret_error)
{
    if (!view_has(view, offset, (uint64_t)count * sizeof(struct lock_state)))
        return view_bad(view, ret_error, "%u locks are cut off", count);
    for (size_t i = 0; i < count; i++) {
        struct lock_state lock = read_lock(view, offset, i);
        bool is_range = lock.start >= 0 && lock.length >= 0 && lock.length <= INT64_MAX - lock.start;
        int other_type = lock.kind == LOCK_BREAKING ? F_UNLCK : F_WRLCK;
        if (lock.kind < LOCK_FLOCK || lock.kind > LOCK_BREAKING || !is_range ||
            (lock.type != F_RDLCK && lock.type != other_type))
            return view_bad(view, ret_error, "lock %zu is none", i);
    }
    return 0;
}

/* The signal that a lease is broken with names the number of its descriptor. */
static int take_lease(int fd, int other, const void *userdata)
{
    (void)other;
    const struct lock_state *lock = userdata;
    return fcntl(fd, F_SETLEASE, lock->type) < 0 ? -errno : 0;
}

/* What it was before the kernel does not say; a lease on a file that is open for writing was one for writing,
 * and only such a one can be lowered. Nobody is told (F_SETOWN): its holder was. */
static int take_broken_lease(int fd, int other, const void *userdata)
{
    (void)other;
    const struct lock_state *lock = userdata;
    bool was_for_writing = lock->type == F_RDLCK || (fcntl(fd, F_GETFL) & O_ACCMODE) != O_RDONLY;
    char path[48];
    snprintf(path, sizeof path, "/proc/thread-self/fd/%d", fd);
    if (fcntl(fd, F_SETLEASE, was_for_writing ? F_WRLCK : F_RDLCK) < 0 || fcntl(fd, F_SETOWN, 0) < 0)
        return -errno;
    _cleanup_close_ int breaking =
        open(path, (lock->type == F_RDLCK ? O_RDONLY : O_WRONLY) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (breaking >= 0)
        return -ESTALE; /* it did not stand in the way */
    return errno == EWOULDBLOCK ? 0 : -errno;
}

static int take_lock(native_cap_t cap, selector_t selector, const struct lock_state *lock)
{
    struct flock range = {.l_type = (short)lock->type,
                          .l_whence = SEEK_SET,
                          .l_start = lock->start,
                          .l_len = lock->length};
    int r;
    if (lock->kind == LOCK_FLOCK)
        r = flock(cap, (lock->type == F_WRLCK ? LOCK_EX : LOCK_SH) | LOCK_NB);
    else if (lock->kind == LOCK_OFD)
        r = fcntl(cap, F_OFD_SETLK, &range);
    else
        return at_selector(cap, selector == NATIVE_SELECTOR_END ? (selector_t)cap : selector, -1,
                           lock->kind == LOCK_LEASE ? take_lease : take_broken_lease, lock);
    return r < 0 ? -errno : 0;
}

int locks_take(const struct object_view *view, size_t offset, uint32_t count, native_cap_t cap,
               struct reseat_error **ret_error)
{
    static const char *const words[] = {
        [LOCK_FLOCK] = "flock", [LOCK_OFD] = "OFD lock", [LOCK_LEASE] = "lease", [LOCK_BREAKING] = "lease"};
    for (size_t i = 0; i < count; i++) {
        struct lock_state lock = read_lock(view, offset, i);
        int r = take_lock(cap, view_selector(view), &lock);
        if (r == -EAGAIN || r == -EACCES)
            return error_set(ret_error, -EBUSY,
                             "its %s cannot be taken again: somebody else has taken one on that file "
                             "meanwhile (see /proc/locks)",
                             words[lock.kind]);
        if (r < 0)
            return error_errno(ret_error, r, "taking its %s again", words[lock.kind]);
    }
    return 0;
}

struct object_own_locks object_find_own_locks(native_cap_t cap)
{
    struct object_own_locks found = {.flock = F_UNLCK, .lease = F_UNLCK};
    char path[48];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", cap);
    _cleanup_free_ char *info = NULL;
    if (file_read(AT_FDCWD, path, &info, NULL) < 0)
        return found;
    for (const char *line = info; (line = strstr(line, "lock:")); line += 5) {
        struct lock_state lock;
        if (!parse_lock(line, &lock))
            continue;
        if (lock.kind == LOCK_FLOCK)
            found.flock = lock.type;
        else if (lock.kind == LOCK_LEASE)
            found.lease = lock.type;
    }
    return found;
}
