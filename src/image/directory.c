/* What the makers and the readers of checkpoint directories have in common: the names in them, their entries,
 * and how one file is written.
 *
 * A file without memory is not synced to the disk. It is the description of a twin, a process of this boot:
 * after a power cut there is no twin that it could describe, and an fsync(2) would take longer than the whole
 * pause of the target. One with memory is: file, directory, and then the name that it gets. */
#include "image/image-internal.h"
#include "image/image.h"
#include "image/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/random.h>

/* ---- names ---- */

char *directory_strip_slashes(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        length--;
    return strndup(path, length);
}

void directory_make_suffix(char ret_suffix[static DIRECTORY_SUFFIX_BYTES + 1])
{
    static const char letters[64] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    uint64_t chance;
    /* Chance only makes the name free, O_EXCL makes it safe: early in the boot, the time is good enough. */
    if (getrandom(&chance, sizeof chance, GRND_NONBLOCK) != sizeof chance)
        chance = now_ns();
    for (size_t i = 0; i < DIRECTORY_SUFFIX_BYTES; i++, chance /= sizeof letters)
        ret_suffix[i] = letters[chance % sizeof letters];
    ret_suffix[DIRECTORY_SUFFIX_BYTES] = '\0';
}

pid_t directory_parse_core_name(const char *name)
{
    if (name[0] < '1' || name[0] > '9')
        return 0;
    char *end;
    errno = 0;
    long pid = strtol(name, &end, 10);
    return errno == 0 && pid <= INT_MAX && strcmp(end, ".core") == 0 ? (pid_t)pid : 0;
}

bool directory_is_temporary_core_name(const char *name)
{
    char core_name[DIRECTORY_CORE_NAME_BYTES];
    const char *part = strstr(name, DIRECTORY_TEMPORARY_PART);
    if (name[0] != '.' || !part || (size_t)(part - name) > sizeof core_name)
        return false;
    snprintf(core_name, sizeof core_name, "%.*s", (int)(part - name - 1), name + 1);
    return directory_parse_core_name(core_name) > 0 &&
           strlen(part) == strlen(DIRECTORY_TEMPORARY_PART) + DIRECTORY_SUFFIX_BYTES;
}

DIR *directory_list(int dir_fd)
{
    _cleanup_close_ int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = fd < 0 ? NULL : fdopendir(fd);
    if (stream)
        TAKE_FD(fd);
    return stream;
}

struct dirent *directory_next_entry(DIR *stream)
{
    struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(stream);
    } while (entry && (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
    return entry;
}

/* ---- one file ---- */

/* Gives a file of ours to `owner`, if that is somebody else. */
static int hand_over(int fd, const struct stat *owner)
{
    if (!owner || owner->st_uid == geteuid())
        return 0;
    return fchown(fd, owner->st_uid, owner->st_gid) < 0 ? -errno : 0;
}

static int create_core(int dir_fd, const char *name, const struct stat *owner, int *ret_fd)
{
    _cleanup_close_ int fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : hand_over(fd, owner);
    if (r < 0 && fd >= 0)
        unlinkat(dir_fd, name, 0);
    if (r == 0)
        *ret_fd = TAKE_FD(fd);
    return r;
}

int directory_write_core(int dir_fd, const char *name, const struct snapshot *snapshot,
                         const struct stat *owner, struct reseat_error **ret_error)
{
    /* What could not be read again must not be written: the target would be killed for nothing. */
    int r = core_check_snapshot(snapshot, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "what was captured cannot be stored");
    struct core_layout layout;
    core_layout_make(snapshot, NULL, &layout);
    if (layout.length > CORE_BYTES_MAX)
        return error_set(ret_error, -EFBIG, "would be %llu bytes long, %llu are allowed",
                         (unsigned long long)layout.length, CORE_BYTES_MAX);

    _cleanup_close_ int fd = -EBADF;
    r = create_core(dir_fd, name, owner, &fd);
    if (r < 0)
        return error_errno(ret_error, r, "creating");
    r = core_layout_write(&layout, fd);
    if (r >= 0 && close(TAKE_FD(fd)) < 0) /* quotas and network filesystems may say it only now */
        r = -errno;
    if (r < 0) {
        unlinkat(dir_fd, name, 0);
        return error_errno(ret_error, r, "writing");
    }
    return 0;
}

int directory_write_memory(int dir_fd, const char *name, struct snapshot *snapshot,
                           const struct image_source *source, struct reseat_error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    int r = create_core(dir_fd, name, NULL, &fd);
    if (r < 0)
        return error_errno(ret_error, r, "creating");
    struct core_sink sink = {.fd = fd, .lock = PTHREAD_MUTEX_INITIALIZER};
    r = core_write(&sink, snapshot, source, ret_error);
    if (r == 0 && (fsync(fd) < 0 || fsync(dir_fd) < 0))
        r = error_errno(ret_error, -errno, "syncing to the disk");
    if (r < 0)
        unlinkat(dir_fd, name, 0);
    return r;
}

int directory_write_tables(int dir_fd, const char *name, const struct snapshot *snapshot,
                           struct core_memory *memory, int from_fd,
                           int (*copy_memory)(int from_fd, int to_fd, uint64_t start, uint64_t end),
                           const struct stat *owner, struct reseat_error **ret_error)
{
    struct core_layout layout;
    _cleanup_close_ int fd = -EBADF;
    int r = create_core(dir_fd, name, owner, &fd);
    if (r < 0)
        return error_errno(ret_error, r, "creating");
    struct core_sink sink = {.fd = fd};
    core_layout_make(snapshot, memory, &layout);
    r = copy_memory(from_fd, fd, memory->start, memory->end);
    if (r == 0)
        r = core_layout_sink(&layout, &sink);
    if (r == 0 && (fsync(fd) < 0 || fsync(dir_fd) < 0))
        r = -errno;
    if (r < 0) {
        unlinkat(dir_fd, name, 0);
        return error_errno(ret_error, r, "writing");
    }
    return 0;
}
