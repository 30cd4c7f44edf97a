/* Names of unix sockets at a restore, unix(7): binding to them, where they are free or only a dead socket's
 * file stands there; taking such files away. A socket whose file was removed has a name that may be another's
 * by now, or lie in a directory that is no more: it is bound below a root directory of its own, chroot(2), in
 * which the same name is free. Sockets inside are reached not by name but by what they are bound to
 * (SIOCUNIXFILE, Linux 4.13; needs CAP_NET_ADMIN). */
#include "object/kinds/socket_unix_durable.h"
#include "object/unix_diag.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE 0x89e0
#endif

socklen_t unix_make_address(const char *name, uint32_t length, struct sockaddr_un *ret_address)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret_address->sun_path, name, length);
    bool is_path = length && name[0];
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + (is_path && length < UNIX_NAME_MAX));
}

socklen_t unix_own_address(const struct object_view *view, struct sockaddr_un *ret_address)
{
    struct unix_parts parts = unix_parts_of(view);
    return unix_make_address((const char *)view->state + parts.name, parts.state.name_length, ret_address);
}

bool unix_has_name(const struct object_view *view)
{
    return unix_parts_of(view).state.name_length > 0;
}

bool unix_has_same_name(const struct object_view *a, const struct object_view *b)
{
    struct sockaddr_un x, y;
    socklen_t length = unix_own_address(a, &x);
    return unix_own_address(b, &y) == length && memcmp(&x, &y, length) == 0;
}

/* A path that begins at the working directory of the process is bound there. */
static int enter_directory(const struct snapshot *snapshot, int *ret_before)
{
    *ret_before = -EBADF;
    if (snapshot->states_count == 0)
        return 0;
    const char *directory = (const char *)snapshot->blobs + snapshot->states[0].directory_offset;
    *ret_before = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    return *ret_before < 0 || chdir(directory) < 0 ? -errno : 0;
}

static void leave_directory(int before)
{
    if (before >= 0 && fchdir(before) < 0)
        abort(); /* we would take other files for ours */
}

/* Removes a socket's file, and nothing else: it is looked at and removed in one and the same directory. (A
 * program's name for a socket may lead through symbolic links, unlike what the kernel tells of files.) */
void unix_remove_socket(const char *path)
{
    struct stat stat;
    char parent[UNIX_NAME_MAX + 2];
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    snprintf(parent, sizeof parent, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    _cleanup_close_ int directory = open(parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (directory >= 0 && fstatat(directory, name, &stat, AT_SYMLINK_NOFOLLOW) == 0 && S_ISSOCK(stat.st_mode))
        unlinkat(directory, name, 0);
}

/* Nobody is behind a socket file if a socket of another type is told so: a live one says EPROTOTYPE, and does
 * not notice. */
static bool is_dead_socket(const struct sockaddr_un *address, socklen_t length, uint32_t type)
{
    struct stat stat;
    _cleanup_close_ int probe =
        socket(AF_UNIX, (type == SOCK_DGRAM ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return lstat(address->sun_path, &stat) == 0 && S_ISSOCK(stat.st_mode) && probe >= 0 &&
           connect(probe, (const struct sockaddr *)address, length) < 0 && errno == ECONNREFUSED;
}

/* Through a descriptor on the file, so that nobody can put another one in its place. */
static void give_file_attributes(const struct unix_state *state, const char *path)
{
    char link[32];
    struct stat stat;
    _cleanup_close_ int place = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (place < 0 || fstat(place, &stat) < 0 || !S_ISSOCK(stat.st_mode) || !state->file_mode)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", place);
    (void)!chmod(link, state->file_mode & 0777);
    (void)!chown(link, state->file_uid, state->file_gid);
}

/* Where only the file of a dead socket is in the way, it is taken away. */
static int bind_once(const struct object_view *view, const struct sockaddr_un *address, socklen_t length,
                     int fd)
{
    uint32_t type = unix_parts_of(view).state.type;
    int r = bind(fd, (const struct sockaddr *)address, length) < 0 ? -errno : 0;
    if (r == -EADDRINUSE && address->sun_path[0] && is_dead_socket(address, length, type)) {
        unix_remove_socket(address->sun_path);
        r = bind(fd, (const struct sockaddr *)address, length) < 0 ? -errno : 0;
    }
    return r;
}

#define GARBAGE_TRIES 20
#define GARBAGE_NS    5000000

/* Sockets that were in each other's queues when their process ended have their names until the kernel has
 * collected them, which it begins to do, in the background, when a unix socket is closed. */
static int bind_here(const struct object_view *view, int fd)
{
    struct unix_state state = unix_parts_of(view).state;
    struct sockaddr_un address;
    socklen_t length = unix_own_address(view, &address);
    int r = bind_once(view, &address, length, fd);
    for (int i = 0; r == -EADDRINUSE && i < GARBAGE_TRIES; i++) {
        int other = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        base_close(&other);
        nanosleep(&(struct timespec){.tv_nsec = GARBAGE_NS}, NULL);
        r = bind_once(view, &address, length, fd);
    }
    if (r == 0 && address.sun_path[0])
        give_file_attributes(&state, address.sun_path);
    return r;
}

/* ---- names that are taken, or lie nowhere ---- */

int unix_open_file(int fd)
{
    int place = ioctl(fd, SIOCUNIXFILE);
    return place < 0 ? -errno : place;
}

socklen_t unix_reachable_address(const struct object_view *view, int cap, int *ret_place,
                                 struct sockaddr_un *ret_address)
{
    struct sockaddr_un own;
    socklen_t length = unix_own_address(view, &own);
    *ret_place = own.sun_path[0] ? unix_open_file(cap) : -EBADF;
    if (*ret_place < 0) {
        *ret_address = own;
        return length;
    }
    char path[32];
    int path_length = snprintf(path, sizeof path, "/proc/self/fd/%d", *ret_place);
    return unix_make_address(path, (uint32_t)path_length, ret_address);
}

/* Without a file it is reached only by who may ask for what it is bound to; else by its name, while that is
 * free. */
bool unix_can_be_reached(const struct object_view *view)
{
    struct sockaddr_un address;
    struct stat stat;
    unix_own_address(view, &address);
    if (!(unix_parts_of(view).state.flags & UNIX_FILE_REMOVED) || !address.sun_path[0])
        return true;
    _cleanup_close_ int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (probe < 0 || unix_open_file(probe) != -EPERM)
        return true;
    char *slash = strrchr(address.sun_path, '/');
    if (!slash || lstat(address.sun_path, &stat) == 0)
        return false;
    slash[slash == address.sun_path] = '\0';
    return faccessat(AT_FDCWD, address.sun_path, W_OK, AT_EACCESS) == 0;
}

/* Makes the directories of a path, or removes them again, the innermost first. */
static void each_directory(char *path, bool is_removing)
{
    char *first = path + strspn(path, "/"), *slash = first;
    for (; !is_removing && (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        mkdir(path, 0700);
    }
    while (is_removing && (slash = strrchr(first, '/'))) {
        *slash = '\0';
        rmdir(path);
    }
}

/* In a process of its own, which has nothing but this to do with its root directory: its exit status. */
static int bind_below(const char *root, struct sockaddr_un *address, socklen_t length, int fd)
{
    if (chroot(root) < 0 && (errno != EPERM || unshare(CLONE_NEWUSER) < 0 || chroot(root) < 0))
        return errno;
    if (chdir("/") < 0)
        return errno;
    char path[sizeof address->sun_path + 1] = "";
    memcpy(path, address->sun_path, sizeof address->sun_path);
    each_directory(path, false);
    int r = bind(fd, (struct sockaddr *)address, length) < 0 ? errno : 0;
    unlink(path);
    each_directory(path, true);
    return r;
}

static int bind_elsewhere(struct sockaddr_un *address, socklen_t length, int fd)
{
    char root[] = "/tmp/.reseat-XXXXXX";
    if (!mkdtemp(root))
        return -errno;
    int status, r = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(bind_below(root, address, length, fd));
    if (pid < 0)
        r = -errno;
    while (pid > 0 && (r = waitpid(pid, &status, 0) < 0 ? -errno : 0) == -EINTR)
        ;
    rmdir(root);
    if (pid < 0 || r < 0)
        return r;
    return WIFEXITED(status) ? -WEXITSTATUS(status) : -EIO;
}

int unix_bind_name(const struct object_view *view, int fd)
{
    struct sockaddr_un address;
    int before = -EBADF, r = 0;
    if (!unix_has_name(view))
        return 0;
    socklen_t length = unix_own_address(view, &address);
    bool is_removed = address.sun_path[0] && (unix_parts_of(view).state.flags & UNIX_FILE_REMOVED);
    /* Only who can reach it without its file: if we may not, that is said before it is bound. */
    if (is_removed && unix_open_file(fd) != -EPERM && bind_elsewhere(&address, length, fd) == 0)
        return 0;
    if (address.sun_path[0] && address.sun_path[0] != '/')
        r = enter_directory(view->snapshot, &before);
    if (r == 0)
        r = bind_here(view, fd);
    leave_directory(before);
    base_close(&before);
    return r < 0 && is_removed ? bind_elsewhere(&address, length, fd) : r;
}

/* At its path may stand the file of another socket. */
void unix_remove_file(const struct object_view *view, int fd)
{
    _cleanup_(unix_facts_end) struct unix_facts facts = {0};
    struct sockaddr_un address;
    struct stat own, found;
    unix_own_address(view, &address);
    if (address.sun_path[0] == '/' && fstat(fd, &own) == 0 && unix_facts_read(own.st_ino, &facts) == 0 &&
        lstat(address.sun_path, &found) == 0 && (uint32_t)found.st_ino == facts.file_inode)
        unix_remove_socket(address.sun_path);
}
