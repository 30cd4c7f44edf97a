/* Writes down what a command does to the files below a directory: LD_PRELOAD this, RECORD=LOG,
 * RECORD_BELOW=DIR. One line a call, in the order in which the calls were made:
 *
 *     mkdir PATH | create PATH | write PATH OFFSET LENGTH | truncate PATH LENGTH | sync PATH | rename OLD NEW
 * | unlink PATH
 *
 * The functions are those with 64-bit offsets (_FILE_OFFSET_BITS), by which the command calls them.
 *
 * test_power_cut.py plays such a record up to every point and drops what was not synced. */
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* The path of a descriptor, or of a name relative to one. */
static const char *path_of(int dir_fd, const char *name, char path[PATH_MAX])
{
    char link[64];
    if (name && name[0] == '/')
        return strncpy(path, name, PATH_MAX - 1);
    if (dir_fd == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir_fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
    if (name && strcmp(name, ".") != 0)
        snprintf(path + strlen(path), PATH_MAX - strlen(path), "/%s", name);
    return path;
}

static void record(const char *path, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void record(const char *path, const char *format, ...)
{
    const char *log = getenv("RECORD"), *below = getenv("RECORD_BELOW");
    if (!log || !below || strncmp(path, below, strlen(below)) != 0)
        return;
    char line[2 * PATH_MAX + 64];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    int fd = NEXT(open)(log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || NEXT(write)(fd, line, (size_t)length) != length)
        abort();
    close(fd);
}

/* What is recorded is in the order in which it was done. */
#define RECORDED(call, ...)                                                                                  \
    ({                                                                                                       \
        pthread_mutex_lock(&lock);                                                                           \
        __typeof__(call) result_ = call;                                                                     \
        if (result_ >= 0)                                                                                    \
            record(__VA_ARGS__);                                                                             \
        pthread_mutex_unlock(&lock);                                                                         \
        result_;                                                                                             \
    })

int openat(int dir_fd, const char *name, int flags, ...)
{
    char path[PATH_MAX];
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (!(flags & O_CREAT))
        return NEXT(openat)(dir_fd, name, flags, mode);
    path_of(dir_fd, name, path);
    return RECORDED(NEXT(openat)(dir_fd, name, flags, mode), path, "create %s\n", path);
}

int mkdirat(int dir_fd, const char *name, mode_t mode)
{
    char path[PATH_MAX];
    path_of(dir_fd, name, path);
    return RECORDED(NEXT(mkdirat)(dir_fd, name, mode), path, "mkdir %s\n", path);
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    char path[PATH_MAX];
    path_of(fd, NULL, path);
    return RECORDED(NEXT(pwrite)(fd, data, length, offset), path, "write %s %lld %zu\n", path,
                    (long long)offset, length);
}

ssize_t write(int fd, const void *data, size_t length)
{
    char path[PATH_MAX];
    path_of(fd, NULL, path);
    return RECORDED(NEXT(write)(fd, data, length), path, "write %s %lld %zu\n", path,
                    (long long)lseek(fd, 0, SEEK_CUR) - (long long)length, length);
}

ssize_t writev(int fd, const struct iovec *pieces, int count)
{
    char path[PATH_MAX];
    size_t length = 0;
    for (int i = 0; i < count; i++)
        length += pieces[i].iov_len;
    path_of(fd, NULL, path);
    return RECORDED(NEXT(writev)(fd, pieces, count), path, "write %s %lld %zu\n", path,
                    (long long)lseek(fd, 0, SEEK_CUR) - (long long)length, length);
}

int ftruncate(int fd, off_t length)
{
    char path[PATH_MAX];
    path_of(fd, NULL, path);
    return RECORDED(NEXT(ftruncate)(fd, length), path, "truncate %s %lld\n", path, (long long)length);
}

int fsync(int fd)
{
    char path[PATH_MAX];
    path_of(fd, NULL, path);
    return RECORDED(NEXT(fsync)(fd), path, "sync %s\n", path);
}

int renameat2(int old_fd, const char *old_name, int new_fd, const char *new_name, unsigned flags)
{
    char old[PATH_MAX], new[PATH_MAX];
    path_of(old_fd, old_name, old);
    path_of(new_fd, new_name, new);
    return RECORDED(NEXT(renameat2)(old_fd, old_name, new_fd, new_name, flags), old, "rename %s %s\n", old,
                    new);
}

int renameat(int old_fd, const char *old_name, int new_fd, const char *new_name)
{
    char old[PATH_MAX], new[PATH_MAX];
    path_of(old_fd, old_name, old);
    path_of(new_fd, new_name, new);
    return RECORDED(NEXT(renameat)(old_fd, old_name, new_fd, new_name), old, "rename %s %s\n", old, new);
}

int unlinkat(int dir_fd, const char *name, int flags)
{
    char path[PATH_MAX];
    path_of(dir_fd, name, path);
    return RECORDED(NEXT(unlinkat)(dir_fd, name, flags), path, "unlink %s\n", path);
}

ssize_t copy_file_range(int from_fd, off_t *from, int to_fd, off_t *to, size_t length, unsigned flags)
{
    char path[PATH_MAX];
    long long offset = to ? *to : lseek(to_fd, 0, SEEK_CUR);
    path_of(to_fd, NULL, path);
    pthread_mutex_lock(&lock);
    ssize_t n = NEXT(copy_file_range)(from_fd, from, to_fd, to, length, flags);
    if (n > 0)
        record(path, "write %s %lld %zd\n", path, offset, n);
    pthread_mutex_unlock(&lock);
    return n;
}
