/* Seeing one capability from outside: the symbolic link /proc/PID/fd/SEL, the text /proc/PID/fdinfo/SEL and,
 * if the link is a path, a statx(2) through it. None of these takes the object into our own table, so closing
 * our copy cannot have an effect on it (a flush to a file server, the end of a lock). Only sockets are
 * requested, for the few microseconds that getsockname() takes: there is no other way to ask one in a foreign
 * network namespace, and closing one of several descriptors does nothing to it.
 *
 * The flags come from fdinfo because that alone knows the selector's own close-on-exec flag (seq_show() in
 * fs/proc/fd.c). It also has mount and inode since Linux 5.14. */
#include "object/observe.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

/* ---- the observer ---- */

static int open_directory(pid_t pid, const char *name, int *ret_fd, struct reseat_error **ret_error)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        return error_set(ret_error, -ESRCH, "process %d has ended", pid);
    if (fd < 0)
        return error_errno(ret_error, -errno, "opening %s", path);
    *ret_fd = fd;
    return 0;
}

int observer_open(struct observer *observer, struct object_table *table, struct native_pd *pd,
                  struct reseat_error **ret_error)
{
    observer->table = table;
    observer->pd = pd;
    observer->table_fd = observer->info_fd = -EBADF;
    observer->info_capacity = 4096;
    observer->info = malloc(observer->info_capacity);
    int r = observer->info ? 0 : error_errno(ret_error, -ENOMEM, "looking at process %d", native_pd_id(pd));
    if (r == 0)
        r = open_directory(native_pd_id(pd), "fd", &observer->table_fd, ret_error);
    if (r == 0)
        r = open_directory(native_pd_id(pd), "fdinfo", &observer->info_fd, ret_error);
    if (r < 0)
        observer_close(observer);
    return r;
}

void observer_close(struct observer *observer)
{
    base_close(&observer->table_fd);
    base_close(&observer->info_fd);
    observer->table_fd = observer->info_fd = -EBADF;
    free(observer->info);
    observer->info = NULL;
}

/* ---- the parts of a sight ---- */

/* The text grows with what it describes: an epoll set has a line for each member. */
static int read_all(struct observer *observer, int fd)
{
    for (size_t length = 0;;) {
        ssize_t n = read(fd, observer->info + length, observer->info_capacity - length - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        length += (size_t)n;
        /* The kernel hands out as much as fits, so room that is left means that this was all. */
        if (n == 0 || length < observer->info_capacity - 1) {
            observer->info[length] = '\0';
            return 0;
        }
        char *larger = realloc(observer->info, observer->info_capacity * 2);
        if (!larger)
            return -ENOMEM;
        observer->info = larger;
        observer->info_capacity *= 2;
    }
}

static int read_info(struct observer *observer, const char *name, struct object_sight *sight)
{
    _cleanup_close_ int fd = openat(observer->info_fd, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int r = read_all(observer, fd);
    if (r < 0)
        return r;
    sight->info = observer->info;
    sight->flags = (unsigned)status_number(sight->info, "flags", 8);
    sight->mount_id = status_number(sight->info, "mnt_id", 10);
    sight->inode = status_number(sight->info, "ino", 10);
    return 0;
}

static int read_link(struct observer *observer, const char *name, struct object_sight *sight)
{
    ssize_t length = readlinkat(observer->table_fd, name, observer->link, sizeof observer->link - 1);
    if (length < 0 && errno == ENAMETOOLONG) {
        sight->link = "/(a path of more than 4,095 bytes)";
        return 0;
    }
    if (length < 0)
        return -errno;
    observer->link[length] = '\0';
    sight->link = observer->link;
    return 0;
}

static int read_stat(struct observer *observer, const char *name, struct object_sight *sight)
{
    struct statx buffer;
    /* Without AT_STATX_DONT_SYNC a file server that is away would keep us waiting. */
    int r = statx(observer->table_fd, name, AT_STATX_DONT_SYNC | AT_NO_AUTOMOUNT,
                  STATX_TYPE | STATX_MODE | STATX_NLINK, &buffer);
    if (r < 0)
        return errno == ENOENT || errno == ESRCH ? -errno
                                                 : 0; /* a file system in trouble: shown all the same */
    sight->stat = (struct statx_view){
        .mode = buffer.stx_mode,
        .links = buffer.stx_nlink,
        .device_major = buffer.stx_dev_major,
        .device_minor = buffer.stx_dev_minor,
        .special_major = buffer.stx_rdev_major,
        .special_minor = buffer.stx_rdev_minor,
    };
    return 0;
}

static int socket_option(int fd, int option)
{
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(fd, SOL_SOCKET, option, &value, &length) < 0 ? 0 : value;
}

/* 1; 0 if the selector is unused; -EAGAIN if it holds another object than a moment ago. */
static int request_socket(struct observer *observer, struct object_sight *sight,
                          struct reseat_error **ret_error)
{
    int r = native_pd_request(observer->pd, sight->selector, &sight->cap, NULL, ret_error);
    if (r < 0)
        return r;
    if (sight->cap == NATIVE_CAP_INVALID)
        return 0;
    struct stat stat;
    if (fstat(sight->cap, &stat) < 0 || !S_ISSOCK(stat.st_mode) || stat.st_ino != sight->inode)
        return -EAGAIN;
    sight->domain = socket_option(sight->cap, SO_DOMAIN);
    sight->type = socket_option(sight->cap, SO_TYPE);
    sight->protocol = socket_option(sight->cap, SO_PROTOCOL);
    return 1;
}

/* Links like "pipe:[12]" carry the inode, so that it shows if the object changed between two looks. */
static bool link_contradicts_inode(const struct object_sight *sight)
{
    const char *bracket = link_is_path(sight) ? NULL : strstr(sight->link, ":[");
    char *end;
    unsigned long long inode = bracket ? strtoull(bracket + 2, &end, 10) : 0;
    return bracket && end > bracket + 2 && *end == ']' && inode != sight->inode;
}

/* ---- the sight ---- */

void object_sight_end(struct object_sight *sight)
{
    base_close(&sight->cap);
    sight->cap = NATIVE_CAP_INVALID;
}

static int see_once(struct observer *observer, selector_t selector, struct object_sight *sight,
                    struct reseat_error **ret_error)
{
    char name[16];
    snprintf(name, sizeof name, "%u", selector);
    *sight = (struct object_sight){.table = observer->table,
                                   .pd = observer->pd,
                                   .selector = selector,
                                   .cap = NATIVE_CAP_INVALID};
    int r = read_info(observer, name, sight);
    if (r == 0)
        r = read_link(observer, name, sight);
    if (r == 0 && link_is_path(sight))
        r = read_stat(observer, name, sight);
    if (r == -ENOENT || r == -ESRCH)
        return 0;
    if (r == -EACCES)
        return error_set(ret_error, -EPERM,
                         "process %d has changed its credentials; it is not ours to look at any more",
                         native_pd_id(observer->pd));
    if (r < 0)
        return error_errno(ret_error, r, "looking at selector %u of process %d", selector,
                           native_pd_id(observer->pd));
    if (link_contradicts_inode(sight))
        return -EAGAIN;
    return starts_with(sight->link, "socket:[") ? request_socket(observer, sight, ret_error) : 1;
}

int observer_see(struct observer *observer, selector_t selector, struct object_sight *ret_sight,
                 struct reseat_error **ret_error)
{
    /* A selector whose object changes under our eyes three times in a row is as good as unused. */
    for (int attempt = 0; attempt < 3; attempt++) {
        _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
        int r = see_once(observer, selector, &sight, ret_error);
        if (r == -EAGAIN)
            continue;
        if (r > 0) {
            *ret_sight = sight;
            sight.cap = NATIVE_CAP_INVALID;
        }
        return r;
    }
    return 0;
}

int observer_peek(struct observer *observer, selector_t selector, struct object_sight *ret_sight)
{
    char name[16];
    snprintf(name, sizeof name, "%u", selector);
    *ret_sight = (struct object_sight){.table = observer->table,
                                       .pd = observer->pd,
                                       .selector = selector,
                                       .cap = NATIVE_CAP_INVALID};
    int r = read_info(observer, name, ret_sight);
    return r == -ENOMEM ? r : r == 0;
}
