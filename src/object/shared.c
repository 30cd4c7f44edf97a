/* What a copy shares with a target that runs on, and so must be remembered as it was: positions and status
 * flags of files, interest sets of epoll instances. And what it does not have although the target has it:
 * record locks, whose owner is the descriptor table. Which selectors to look at is found out before the
 * target stops; looking at them is all that is done while it stands still. Rests on pidfd_getfd(2), lseek(2),
 * proc_pid_fdinfo(5), proc_locks(5). */
#include "object/object.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void shared_objects_end(struct shared_objects *shared)
{
    free(shared->files);
    free(shared->epolls);
    *shared = (struct shared_objects){0};
}

static int note(int **selectors, size_t *count, int selector)
{
    int *place = array_append_item((void **)selectors, count, sizeof **selectors);
    if (!place)
        return -ENOMEM;
    *place = selector;
    return 0;
}

/* Anonymous inodes have no file type: only for them the name is asked for. */
static bool is_epoll(int proc_fd, int selector)
{
    char path[32];
    _cleanup_free_ char *link = NULL;
    snprintf(path, sizeof path, "fd/%d", selector);
    return link_read(proc_fd, path, &link) == 0 && strcmp(link, "anon_inode:[eventpoll]") == 0;
}

int object_find_shared(pid_t pid, struct shared_objects *ret_shared, struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = sys_pidfd_open(pid), proc_fd = proc_open(pid);
    _cleanup_(shared_objects_end) struct shared_objects shared = {0};
    _cleanup_free_ int *selectors = NULL;
    size_t count = 0;
    int r = pidfd < 0 ? pidfd : proc_fd < 0 ? proc_fd : proc_list_numbers(proc_fd, "fd", &selectors, &count);
    for (size_t i = 0; r == 0 && i < count; i++) {
        _cleanup_close_ int copy = sys_pidfd_getfd(pidfd, selectors[i]);
        struct stat stat;
        if (copy < 0 || fstat(copy, &stat) < 0)
            continue;
        if (S_ISREG(stat.st_mode) || S_ISDIR(stat.st_mode))
            r = note(&shared.files, &shared.file_count, selectors[i]);
        else if (!(stat.st_mode & S_IFMT) && is_epoll(proc_fd, selectors[i]))
            r = note(&shared.epolls, &shared.epoll_count, selectors[i]);
    }
    if (r < 0)
        return error_errno(ret_error, r, "reading the capabilities of process %d", pid);
    *ret_shared = shared;
    shared = (struct shared_objects){0};
    return 0;
}

static int capture_positions(int pidfd, const struct shared_objects *shared, struct snapshot *snapshot)
{
    for (size_t i = 0; i < shared->file_count; i++) {
        _cleanup_close_ int copy = sys_pidfd_getfd(pidfd, shared->files[i]);
        int flags = copy < 0 ? -1 : fcntl(copy, F_GETFL);
        if (flags < 0 || (flags & O_PATH))
            continue;
        struct snapshot_position *row = array_append(snapshot->positions, snapshot->positions_count);
        if (!row)
            return -ENOMEM;
        *row = (struct snapshot_position){.selector = (uint32_t)shared->files[i],
                                          .status_flags = (uint32_t)flags,
                                          .offset = lseek(copy, 0, SEEK_CUR)};
    }
    return 0;
}

static int read_info(int proc_fd, int selector, char **ret_info)
{
    char path[32];
    snprintf(path, sizeof path, "fdinfo/%d", selector);
    return file_read(proc_fd, path, ret_info, NULL);
}

int object_parse_interests(const char *info, int epoll, struct snapshot *snapshot)
{
    for (const char *line = info; (line = strstr(line, "tfd:")); line += 4) {
        int selector;
        unsigned events;
        unsigned long long data;
        char start[128];
        line_copy(line, start, sizeof start);
        if (sscanf(start, "tfd: %d events: %x data: %llx", &selector, &events, &data) != 3)
            continue;
        struct snapshot_interest *row = array_append(snapshot->interests, snapshot->interests_count);
        if (!row)
            return -ENOMEM;
        *row = (struct snapshot_interest){.epoll_selector = (uint32_t)epoll,
                                          .selector = (uint32_t)selector,
                                          .events = events,
                                          .data = data};
    }
    return 0;
}

int object_add_interests(int proc_fd, int epoll, struct snapshot *snapshot)
{
    _cleanup_free_ char *info = NULL;
    int r = read_info(proc_fd, epoll, &info);
    return r < 0 ? r : object_parse_interests(info, epoll, snapshot);
}

/* One line of fdinfo: "lock:	1: POSIX  ADVISORY  WRITE 1234 fe:00:5678 0 EOF". Those of other tables are
 * not there; the number is that of whoever took it for this one, and 0 if that has another in this PID
 * namespace by now. */
static int add_lock(const char *line, const struct snapshot_position *file, struct snapshot *snapshot)
{
    char kind[16], access[16], end[24];
    long long start;
    if (sscanf(line, "lock: %*d: %15s %*s %15s %*d %*s %lld %23s", kind, access, &start, end) != 4 ||
        strcmp(kind, "POSIX") != 0)
        return 0;
    bool writes = strcmp(access, "WRITE") == 0;
    /* The lock belongs to the file, whichever selector it was taken through: one that may take it is found.
     */
    if ((file->status_flags & O_ACCMODE) == (unsigned)(writes ? O_RDONLY : O_WRONLY))
        return 0;
    struct snapshot_lock *row = array_append(snapshot->locks, snapshot->locks_count);
    if (!row)
        return -ENOMEM;
    *row = (struct snapshot_lock){
        .selector = file->selector,
        .type = writes ? F_WRLCK : F_RDLCK,
        .start = start,
        .length = strcmp(end, "EOF") == 0 ? 0 : strtoll(end, NULL, 10) - start + 1,
    };
    return 0;
}

bool object_has_locks(pid_t pid)
{
    _cleanup_free_ char *locks = NULL;
    if (file_read(AT_FDCWD, "/proc/locks", &locks, NULL) < 0)
        return false;
    char *position = locks;
    for (char *line; (line = strsep(&position, "\n"));) {
        int owner;
        if (sscanf(line, "%*d: POSIX %*s %*s %d", &owner) == 1 && owner == pid)
            return true;
    }
    return false;
}

/* Whether anybody has a record lock on the file: we ask whether we could lock all of it. Reading /proc/locks
 * for that would wait for an RCU grace period, milliseconds in which the target stands still. */
static bool may_be_locked(int pidfd, int selector)
{
    _cleanup_close_ int copy = sys_pidfd_getfd(pidfd, selector);
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    return copy >= 0 && (fcntl(copy, F_GETLK, &lock) < 0 || lock.l_type != F_UNLCK);
}

static int capture_locks(pid_t pid, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid), pidfd = sys_pidfd_open(pid);
    for (size_t i = 0; i < snapshot->positions_count; i++) {
        _cleanup_free_ char *info = NULL;
        if (!may_be_locked(pidfd, (int)snapshot->positions[i].selector))
            continue;
        int r = read_info(proc_fd, (int)snapshot->positions[i].selector, &info);
        char *position = info;
        for (char *line; r == 0 && (line = strsep(&position, "\n"));)
            r = add_lock(line, &snapshot->positions[i], snapshot);
        if (r < 0)
            return error_errno(ret_error, r, "reading the record locks of process %d", pid);
    }
    return 0;
}

int object_capture_shared(pid_t pid, const struct shared_objects *shared, struct snapshot *snapshot,
                          struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = sys_pidfd_open(pid), proc_fd = proc_open(pid);
    int r = pidfd < 0 ? pidfd : proc_fd < 0 ? proc_fd : capture_positions(pidfd, shared, snapshot);
    for (size_t i = 0; r == 0 && i < shared->epoll_count; i++)
        r = object_add_interests(proc_fd, shared->epolls[i], snapshot);
    if (r < 0)
        return error_errno(ret_error, r, "reading the state of the capabilities of process %d", pid);
    return capture_locks(pid, snapshot, ret_error);
}
