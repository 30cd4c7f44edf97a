/* What a sleeping twin's capabilities need in the process that is restored from it, although the objects are
 * the same: descriptors on /proc files of the process itself, which speak of a process that is gone, are
 * opened again, and watched again; and a signalfd in an epoll set has to be added again, because the set
 * listens to the signals of the process that added it. So has a pidfd on a process that has ended: if it is
 * one on the process itself, a restore from an image puts a new one in its place. Rests on proc_pid_fd(5),
 * proc_pid_fdinfo(5), fs/eventpoll.c and fs/signalfd.c of the kernel. */
#include "object/object.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>

#define DELETED " (deleted)"

struct fixups {
    pid_t twin;
    int proc_fd;
    struct snapshot *snapshot;
    int *epolls, *renewed; /* the latter: to be added to epoll sets again, if it is in any */
    size_t epolls_count, renewed_count;
};

static void fixups_end(struct fixups *fixups)
{
    base_close(&fixups->proc_fd);
    free(fixups->epolls);
    free(fixups->renewed);
}

static int read_info(struct fixups *fixups, int selector, char **ret_info)
{
    char path[32];
    snprintf(path, sizeof path, "fdinfo/%d", selector);
    return file_read(fixups->proc_fd, path, ret_info, NULL);
}

/* The same object is opened once and put at all its selectors. */
static uint32_t alias_of(struct fixups *fixups, uint32_t selector)
{
    struct snapshot *snapshot = fixups->snapshot;
    for (size_t i = 0; i < snapshot->reopens_count; i++)
        if (sys_kcmp(fixups->twin, fixups->twin, KCMP_FILE, snapshot->reopens[i].selector, selector) == 0)
            return snapshot->reopens[i].selector;
    return selector;
}

static int note_reopen(struct fixups *fixups, int selector, const char *path)
{
    _cleanup_free_ char *info = NULL;
    int r = read_info(fixups, selector, &info);
    if (r < 0)
        return r;
    size_t length = strlen(path);
    if (length >= strlen(DELETED) && strcmp(path + length - strlen(DELETED), DELETED) == 0)
        length -= strlen(DELETED);
    _cleanup_free_ char *relative = strndup(path + (*path == '/'), length - (*path == '/'));
    struct snapshot_reopen row = {.selector = (uint32_t)selector};
    if (!relative ||
        snapshot_add_blob(fixups->snapshot, relative, strlen(relative) + 1, &row.path_offset) < 0)
        return -ENOMEM;
    uint64_t flags = status_number(info, "flags", 8);
    row.status_flags = (uint32_t)(flags & ~(uint64_t)(O_CLOEXEC | O_CREAT | O_EXCL | O_TRUNC));
    row.descriptor_flags = flags & O_CLOEXEC ? FD_CLOEXEC : 0;
    row.offset = (int64_t)status_number(info, "pos", 10);
    for (size_t i = 0; i < fixups->snapshot->positions_count; i++)
        if (fixups->snapshot->positions[i].selector == row.selector)
            row.offset = fixups->snapshot->positions[i].offset; /* the target that ran on has moved it */
    row.alias_of = alias_of(fixups, row.selector);
    struct snapshot_reopen *place = array_append(fixups->snapshot->reopens, fixups->snapshot->reopens_count);
    if (!place)
        return -ENOMEM;
    *place = row;
    return 0;
}

static int note_renewed(struct fixups *fixups, int selector)
{
    int *place = array_append(fixups->renewed, fixups->renewed_count);
    if (place)
        *place = selector;
    return place ? 0 : -ENOMEM;
}

static int sort_pidfd(struct fixups *fixups, int selector)
{
    _cleanup_free_ char *info = NULL;
    int r = read_info(fixups, selector, &info);
    const char *pid = r == 0 ? status_find(info, "Pid") : NULL;
    return pid && *pid == '-' ? note_renewed(fixups, selector) : r;
}

static int sort_selector(struct fixups *fixups, int selector, const char *own_prefix)
{
    char path[32];
    snprintf(path, sizeof path, "fd/%d", selector);
    _cleanup_free_ char *link = NULL;
    int r = link_read(fixups->proc_fd, path, &link);
    if (r < 0)
        return r;
    size_t length = strlen(own_prefix);
    if (strncmp(link, own_prefix, length) == 0 &&
        (link[length] == '/' || link[length] == '\0' || link[length] == ' ')) {
        r = note_reopen(fixups, selector, link + length);
        return r == 0 ? note_renewed(fixups, selector) : r;
    }
    if (strcmp(link, "anon_inode:[signalfd]") == 0)
        return note_renewed(fixups, selector);
    if (strcmp(link, "anon_inode:[pidfd]") == 0 || strncmp(link, "pidfd:", 6) == 0)
        return sort_pidfd(fixups, selector);
    if (strcmp(link, "anon_inode:[eventpoll]") != 0)
        return 0;
    int *place = array_append(fixups->epolls, fixups->epolls_count);
    if (place)
        *place = selector;
    return place ? 0 : -ENOMEM;
}

static bool is_renewed(const struct fixups *fixups, int selector)
{
    for (size_t i = 0; i < fixups->renewed_count; i++)
        if (fixups->renewed[i] == selector)
            return true;
    return false;
}

/* ---- epoll ---- */

static bool is_same_interest(const struct snapshot_interest *a, const struct snapshot_interest *b)
{
    return a->epoll_selector == b->epoll_selector && a->selector == b->selector;
}

/* What is to be done so that a set is again what it was: what is there now against what was noted. */
static int compare_interests(struct fixups *fixups, const struct snapshot *now)
{
    struct snapshot *snapshot = fixups->snapshot;
    size_t noted_count = snapshot->interests_count;
    for (size_t i = 0; i < noted_count; i++)
        snapshot->interests[i].action = SNAPSHOT_INTEREST_ADD;
    for (size_t i = 0; i < now->interests_count; i++) {
        const struct snapshot_interest *is = &now->interests[i];
        struct snapshot_interest *was = NULL;
        for (size_t n = 0; n < noted_count && !was; n++) {
            size_t guess = (i + n) % noted_count; /* usually nothing has changed, and the order is the same */
            if (is_same_interest(&snapshot->interests[guess], is))
                was = &snapshot->interests[guess];
        }
        if (was) {
            bool is_unchanged = was->events == is->events && was->data == is->data;
            was->action = is_unchanged ? 0 : SNAPSHOT_INTEREST_REMOVE | SNAPSHOT_INTEREST_ADD;
            continue;
        }
        struct snapshot_interest *row = array_append(snapshot->interests, snapshot->interests_count);
        if (!row)
            return -ENOMEM;
        *row = *is;
        /* An heir's sets are as they were: nobody could change them. */
        row->action = snapshot->process.form == SNAPSHOT_FORM_COPY ? SNAPSHOT_INTEREST_REMOVE : 0;
    }
    for (size_t i = 0; i < snapshot->interests_count; i++)
        if (snapshot->interests[i].action != SNAPSHOT_INTEREST_REMOVE &&
            is_renewed(fixups, (int)snapshot->interests[i].selector))
            snapshot->interests[i].action = SNAPSHOT_INTEREST_REMOVE | SNAPSHOT_INTEREST_ADD;
    return 0;
}

static int find_interest_fixups(struct fixups *fixups)
{
    bool is_copy = fixups->snapshot->process.form == SNAPSHOT_FORM_COPY;
    for (size_t i = 0; i < fixups->snapshot->interests_count; i++)
        fixups->snapshot->interests[i].action = 0; /* whatever the file says */
    if (!is_copy && !fixups->renewed_count)
        return 0;
    _cleanup_(snapshot_free) struct snapshot now = {0};
    for (size_t i = 0; i < fixups->epolls_count; i++) {
        int r = object_add_interests(fixups->proc_fd, fixups->epolls[i], &now);
        if (r < 0)
            return r;
    }
    return compare_interests(fixups, &now);
}

/* ---- positions ---- */

/* Whether a process other than the twin (and we) holds the object: to move its position would move it there,
 * too. */
static bool is_held_elsewhere(struct fixups *fixups, uint32_t selector)
{
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t pid_count = 0;
    if (proc_fd < 0 || proc_list_numbers(proc_fd, "", &pids, &pid_count) < 0)
        return true;
    for (size_t i = 0; i < pid_count; i++) {
        char path[32];
        _cleanup_free_ int *selectors = NULL;
        size_t count;
        snprintf(path, sizeof path, "%d/fd", pids[i]);
        if (pids[i] == fixups->twin || pids[i] == getpid() ||
            proc_list_numbers(proc_fd, path, &selectors, &count) < 0)
            continue;
        for (size_t s = 0; s < count; s++)
            if (sys_kcmp(fixups->twin, pids[i], KCMP_FILE, selector, (unsigned long)selectors[s]) == 0)
                return true;
    }
    return false;
}

/* Keeps only the rows that have something to put back and nobody to disturb. */
static void find_position_fixups(struct fixups *fixups)
{
    struct snapshot *snapshot = fixups->snapshot;
    _cleanup_close_ int pidfd = sys_pidfd_open(fixups->twin);
    size_t kept = 0;
    for (size_t i = 0; i < snapshot->positions_count; i++) {
        struct snapshot_position *row = &snapshot->positions[i];
        _cleanup_close_ int copy = sys_pidfd_getfd(pidfd, (int)row->selector);
        if (copy < 0 ||
            (lseek(copy, 0, SEEK_CUR) == row->offset && fcntl(copy, F_GETFL) == (int)row->status_flags) ||
            is_held_elsewhere(fixups, row->selector))
            continue;
        snapshot->positions[kept++] = *row;
    }
    snapshot->positions_count = kept;
}

int object_find_fixups(pid_t twin, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_(
        fixups_end) struct fixups fixups = {.twin = twin, .proc_fd = proc_open(twin), .snapshot = snapshot};
    _cleanup_free_ int *selectors = NULL;
    size_t count = 0;
    char own_prefix[32];
    snprintf(own_prefix, sizeof own_prefix, "/proc/%u", snapshot->process.pid);
    int r = fixups.proc_fd < 0 ? fixups.proc_fd : proc_list_numbers(fixups.proc_fd, "fd", &selectors, &count);
    snapshot->process.capability_count = (uint32_t)count;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = sort_selector(&fixups, selectors[i], own_prefix);
    if (r == 0)
        r = find_interest_fixups(&fixups);
    if (r == 0)
        find_position_fixups(&fixups);
    return r < 0 ? error_errno(ret_error, r, "reading the capabilities of the twin %d", twin) : 0;
}
