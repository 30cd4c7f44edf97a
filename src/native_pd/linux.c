/* The seam on Linux: a protection domain is a process, its capability space the descriptor table.
 *
 * A PD is a pidfd, which names the process for good, and an open /proc/PID/fd, which is bound to the same
 * process. request is pidfd_getfd(2) (Linux 5.6), compare is kcmp(2) KCMP_FILE, and next is a seek in
 * /proc/PID/fd: the position of an entry there is its number + 2 (fs/proc/fd.c, since the directory exists),
 * so asking for the next used selector costs one lseek and one getdents64 of a single entry, the kernel skips
 * what is unused, and nothing is kept that could be out of date.
 *
 * kcmp() knows processes only by number. Whoever asks it must make sure afterwards that the process still had
 * that number: as long as the pidfd reports no end, it did.
 *
 * See pidfd_open(2), pidfd_getfd(2), kcmp(2), proc_pid_fd(5), ptrace(2) "Ptrace access mode checking". */
#include "native_pd/linux-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <string.h>

void native_pd_free(struct native_pd **pd)
{
    if (!*pd)
        return;
    base_close(&(*pd)->pidfd);
    base_close(&(*pd)->table_fd);
    free(*pd);
    *pd = NULL;
}

native_pd_id_t native_pd_id(const struct native_pd *pd)
{
    return pd->pid;
}

/* ---- is it still there ---- */

bool native_pd_has_ended(const struct native_pd *pd)
{
    if (pd->is_self)
        return false;
    struct pollfd poll_fd = {.fd = pd->pidfd, .events = POLLIN};
    int r;
    do
        r = poll(&poll_fd, 1, 0);
    while (r < 0 && errno == EINTR);
    return r != 0;
}

int native_pd_error_ended(const struct native_pd *pd, struct reseat_error **ret_error)
{
    return error_set(ret_error, -ESRCH, "process %d has ended", pd->pid);
}

/* A process on its way out loses its descriptor table a moment before its pidfd says so, and a main thread
 * that has ended while others run on has none for good. Both look like an empty space; only FDSize, which is
 * never 0 for a table that exists, tells. */
static int check_space_exists(const struct native_pd *pd, struct reseat_error **ret_error)
{
    if (native_pd_has_ended(pd))
        return native_pd_error_ended(pd, ret_error);
    _cleanup_free_ char *status = NULL;
    int r = file_read(pd->table_fd, "../status", &status, NULL);
    if (r == -ENOENT || r == -ESRCH)
        return native_pd_error_ended(pd, ret_error);
    if (r < 0)
        return error_errno(ret_error, r, "reading the status of process %d", pd->pid);
    if (status_number(status, "FDSize", 10) == 0)
        return error_set(ret_error, -ESRCH,
                         "process %d has no capability space any more: it is ending, or its main thread has",
                         pd->pid);
    return 0;
}

/* ---- permission ---- */

/* What Yama, a security module that many distributions switch on, adds to the rules; "" if nothing. */
static const char *yama_sentence(void)
{
    _cleanup_free_ char *scope = NULL;
    if (file_read(AT_FDCWD, "/proc/sys/kernel/yama/ptrace_scope", &scope, NULL) < 0)
        return "";
    switch (scope[0]) {
    case '1':
        return "; kernel.yama.ptrace_scope is 1, so that without CAP_SYS_PTRACE only its ancestors may "
               "(sysctl kernel.yama.ptrace_scope=0 lifts that)";
    case '2':
        return "; kernel.yama.ptrace_scope is 2, so that nobody without CAP_SYS_PTRACE may";
    case '3':
        return "; kernel.yama.ptrace_scope is 3, so that nobody may until the machine is started again";
    default:
        return "";
    }
}

int native_pd_error_permission(pid_t pid, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    _cleanup_free_ char *status = NULL;
    if (proc_fd < 0 || file_read(proc_fd, "status", &status, NULL) < 0 || !status_find(status, "Uid"))
        return error_set(ret_error, -EPERM,
                         "process %d is not ours to trace: that takes the same user and a process that is "
                         "dumpable, or CAP_SYS_PTRACE%s",
                         pid, yama_sentence());
    uid_t owner = (uid_t)status_number(status, "Uid", 10);
    if (owner != getuid())
        return error_set(
            ret_error, -EPERM,
            "process %d belongs to user %u and we are user %u: tracing it takes the same user, or "
            "CAP_SYS_PTRACE (run as root)%s",
            pid, owner, getuid(), yama_sentence());
    return error_set(
        ret_error, -EPERM,
        "process %d is of our user, but not dumpable or with privileges that we lack: tracing it "
        "takes CAP_SYS_PTRACE (run as root)%s",
        pid, yama_sentence());
}

/* pidfd_getfd() checks the permission before it looks for the descriptor, so asking for one that cannot exist
 * asks for the permission alone. */
static int check_permission(const struct native_pd *pd, struct reseat_error **ret_error)
{
    int r = sys_pidfd_getfd(pd->pidfd, INT_MAX);
    switch (r) {
    case -EBADF:
        return 0;
    case -ESRCH:
        return native_pd_error_ended(pd, ret_error);
    case -EPERM:
        return native_pd_error_permission(pd->pid, ret_error);
    default:
        return error_errno(ret_error, r, "asking for permission to trace process %d", pd->pid);
    }
}

/* ---- opening ---- */

static int open_table(struct native_pd *pd, struct reseat_error **ret_error)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/fd", pd->pid);
    pd->table_fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    int r = pd->table_fd < 0 ? -errno : 0;
    /* Seen alive after the open: so the directory is that of our process, not of a later one. */
    if (native_pd_has_ended(pd))
        return native_pd_error_ended(pd, ret_error);
    if (r == -EACCES)
        return error_set(ret_error, -EPERM,
                         "opening %s: to see another user's table, CAP_SYS_PTRACE alone does not do; "
                         "CAP_DAC_READ_SEARCH is needed as well (run as root)",
                         path);
    if (r == -ENOENT)
        return error_set(ret_error, -EPERM,
                         "opening %s: hidden from us (is /proc mounted, for our PID namespace, and without "
                         "hidepid?)",
                         path);
    if (r < 0)
        return error_errno(ret_error, r, "opening %s", path);
    return 0;
}

static int error_open(pid_t pid, int r, struct reseat_error **ret_error)
{
    if (r == -ESRCH)
        return error_set(ret_error, r, "there is no process %d", pid);
    if (r == -EINVAL || r == -ENOENT) /* which of them depends on the kernel's version */
        return error_set(ret_error, -ESRCH, "%d is a thread, not a process", pid);
    return error_errno(ret_error, r, "opening process %d", pid);
}

int native_pd_open(native_pd_id_t pid, struct native_pd **ret_pd, struct reseat_error **ret_error)
{
    if (pid <= 0)
        return error_open(pid, -ESRCH, ret_error);
    _cleanup_(native_pd_free) struct native_pd *pd = malloc(sizeof *pd);
    if (!pd)
        return error_errno(ret_error, -ENOMEM, "opening process %d", pid);
    *pd = (struct native_pd){.pid = pid,
                             .pidfd = sys_pidfd_open(pid),
                             .table_fd = -EBADF,
                             .is_self = pid == getpid()};
    if (pd->pidfd < 0)
        return error_open(pid, pd->pidfd, ret_error);
    int r = check_permission(pd, ret_error);
    if (r < 0)
        return r;
    r = open_table(pd, ret_error);
    if (r < 0)
        return r;
    *ret_pd = TAKE_PTR(pd);
    return 0;
}

/* ---- the operations ---- */

/* What one entry takes whose name is a number, and less than two of them do. */
#define ENTRY_BYTES     32
#define ENTRIES_AT_ONCE 1024

/* The used selectors from `from` on that the kernel hands out in one go, at most `capacity`: how many, 0 at
 * the end. */
static ssize_t list_some(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity)
{
    _Alignas(struct dirent64) char entries[ENTRIES_AT_ONCE * ENTRY_BYTES];
    size_t room = capacity < ENTRIES_AT_ONCE ? capacity : ENTRIES_AT_ONCE, count = 0;
    if (lseek(pd->table_fd, (off_t)from + 2, SEEK_SET) < 0)
        return -errno;
    ssize_t length = getdents64(pd->table_fd, entries, room * ENTRY_BYTES);
    if (length < 0)
        return errno == ENOENT || errno == ESRCH ? 0 : -errno;
    /* Shorter entries than we made room for: there may be more of them than are wanted. */
    for (ssize_t at = 0; at < length && count < capacity;) {
        const struct dirent64 *entry = (const struct dirent64 *)(entries + at);
        selectors[count++] = (selector_t)strtoul(entry->d_name, NULL, 10);
        at += entry->d_reclen;
    }
    return (ssize_t)count;
}

int native_pd_list(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                   size_t *ret_count, struct reseat_error **ret_error)
{
    size_t count = 0;
    while (count < capacity && from < SELECTOR_LIMIT) {
        ssize_t n = list_some(pd, from, selectors + count, capacity - count);
        if (n < 0)
            return error_errno(ret_error, (int)n, "looking for selectors of process %d", pd->pid);
        if (n == 0)
            break;
        count += (size_t)n;
        from = selectors[count - 1] + 1;
    }
    /* The end is only reported of a space that is there, so nothing is missing. */
    int r = count < capacity ? check_space_exists(pd, ret_error) : 0;
    if (r < 0)
        return r;
    *ret_count = count;
    return 0;
}

int native_pd_next(struct native_pd *pd, selector_t from, selector_t *ret_selector,
                   struct reseat_error **ret_error)
{
    selector_t selector;
    size_t count;
    int r = native_pd_list(pd, from, &selector, 1, &count, ret_error);
    if (r == 0)
        *ret_selector = count ? selector : NATIVE_SELECTOR_END;
    return r;
}

static int error_request(const struct native_pd *pd, selector_t selector, int r,
                         struct reseat_error **ret_error)
{
    if (r == -ESRCH)
        return native_pd_error_ended(pd, ret_error);
    if (r == -EPERM) /* it has changed its credentials since we opened it */
        return native_pd_error_permission(pd->pid, ret_error);
    return error_errno(ret_error, r, "requesting selector %u of process %d", selector, pd->pid);
}

int native_pd_request(struct native_pd *pd, selector_t selector, native_cap_t *ret_cap, selector_t *ret_next,
                      struct reseat_error **ret_error)
{
    _cleanup_close_ int cap = selector < SELECTOR_LIMIT ? sys_pidfd_getfd(pd->pidfd, (int)selector) : -EBADF;
    if (cap < 0 && cap != -EBADF)
        return error_request(pd, selector, cap, ret_error);
    int r = 0;
    selector_t next = NATIVE_SELECTOR_END;
    if (ret_next && selector < SELECTOR_LIMIT)
        r = native_pd_next(pd, selector + 1, &next, ret_error);
    else if (cap < 0)
        r = check_space_exists(pd, ret_error);
    if (r < 0)
        return r;
    if (ret_next)
        *ret_next = next;
    *ret_cap = cap < 0 ? NATIVE_CAP_INVALID : TAKE_FD(cap);
    return 0;
}

unsigned native_pd_rights_of(int status_flags)
{
    if (status_flags & O_PATH)
        return 0;
    switch (status_flags & O_ACCMODE) {
    case O_RDONLY:
        return NATIVE_READ;
    case O_WRONLY:
        return NATIVE_WRITE;
    case O_RDWR:
        return NATIVE_READ | NATIVE_WRITE;
    default: /* 3: for ioctl(2) alone, see open(2) */
        return 0;
    }
}

static void close_slots(struct native_slot *slots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        close(slots[i].cap);
}

/* Where a capability is at every number a next one is looked for by asking for it: looking into the directory
 * costs as much as taking it. */
int native_pd_request_many(struct native_pd *pd, selector_t from, struct native_slot *ret_slots,
                           size_t capacity, size_t *ret_count, selector_t *ret_next,
                           struct reseat_error **ret_error)
{
    size_t count = 0;
    selector_t selector = from, next = from;
    int r = 0;
    while (count < capacity && selector < SELECTOR_LIMIT) {
        native_cap_t cap = sys_pidfd_getfd(pd->pidfd, (int)selector);
        if (cap == -EBADF) {
            r = native_pd_next(pd, selector + (selector == next), &next, ret_error);
            if (r < 0 || next == NATIVE_SELECTOR_END)
                break;
            selector = next;
            continue;
        }
        r = cap < 0 ? error_request(pd, selector, cap, ret_error) : 0;
        if (r < 0)
            break;
        ret_slots[count++] = (struct native_slot){.selector = selector,
                                                  .cap = cap,
                                                  .flags = native_pd_rights_of(fcntl(cap, F_GETFL))};
        next = ++selector;
    }
    if (r == 0 && count == capacity)
        r = native_pd_next(pd, selector, &next, ret_error);
    if (r < 0) {
        close_slots(ret_slots, count);
        return r;
    }
    *ret_count = count;
    *ret_next = next < SELECTOR_LIMIT ? next : NATIVE_SELECTOR_END;
    return 0;
}

int native_pd_compare(struct native_pd *a, selector_t selector_a, struct native_pd *b, selector_t selector_b,
                      int *ret_order, struct reseat_error **ret_error)
{
    int r = sys_kcmp(a->pid, b->pid, KCMP_FILE, selector_a, selector_b);
    if (native_pd_has_ended(a))
        return native_pd_error_ended(a, ret_error);
    if (b != a && native_pd_has_ended(b))
        return native_pd_error_ended(b, ret_error);
    if (r == -EPERM)
        return native_pd_error_permission(a->pid, ret_error);
    if (r == -ENOSYS)
        return error_set(ret_error, r,
                         "this kernel cannot compare objects: it was built without kcmp(2) "
                         "(CONFIG_KCMP)");
    if (r < 0)
        return error_errno(ret_error, r, "comparing selector %u of process %d with %u of %d", selector_a,
                           a->pid, selector_b, b->pid);
    *ret_order = r == 0 ? 0 : r == 1 ? -1 : 1;
    return 0;
}
