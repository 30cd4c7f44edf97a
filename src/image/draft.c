/* A checkpoint directory in the making: created under a hidden name beside its final place, filled, and
 * renamed, so that it is there whole or not at all. Its maker has it locked; one that nobody has locked was
 * left by a maker that was killed, and the next one removes it. Rests on renameat2(2) with RENAME_NOREPLACE
 * and flock(2). */
#include "image/image.h"
#include "image/image-internal.h"
#include "image/memory.h"
#include "image/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#define TEMPORARY_TRIES 64 /* names, before giving up */
/* Between being made and being locked, a draft looks like one that was left: for less than this. */
#define LEFT_SECONDS_MIN 10

/* Divides "/a/b/c" into "/a/b/" and "c", and "c" into "." and "c". */
static int split_path(const char *dir, char **ret_parent, char **ret_name, struct reseat_error **ret_error)
{
    _cleanup_free_ char *path = directory_strip_slashes(dir);
    if (!path)
        return error_errno(ret_error, -ENOMEM, "%s", dir);
    if (path[0] == '\0')
        return error_set(ret_error, -EINVAL, "the name of the checkpoint directory is empty");
    const char *slash = strrchr(path, '/'), *last = slash ? slash + 1 : path;
    if (last[0] == '\0' || strcmp(last, ".") == 0 || strcmp(last, "..") == 0)
        return error_set(ret_error, -EEXIST, "%s: exists already; a checkpoint goes into a new directory",
                         dir);
    _cleanup_free_ char *parent = slash ? strndup(path, (size_t)(last - path)) : strdup(".");
    _cleanup_free_ char *name = strdup(last);
    if (!name || !parent)
        return error_errno(ret_error, -ENOMEM, "%s", dir);
    *ret_parent = TAKE_PTR(parent);
    *ret_name = TAKE_PTR(name);
    return 0;
}

/* Sets draft->temporary_name and draft->dir_fd. */
static int make_temporary_directory(struct image_draft *draft)
{
    int r = -EEXIST;
    for (int i = 0; i < TEMPORARY_TRIES && r == -EEXIST; i++) {
        char suffix[DIRECTORY_SUFFIX_BYTES + 1];
        directory_make_suffix(suffix);
        char name[NAME_MAX + 1];
        int shown = NAME_MAX - 1 - (int)strlen(DIRECTORY_TEMPORARY_PART) - DIRECTORY_SUFFIX_BYTES;
        snprintf(name, sizeof name, ".%.*s" DIRECTORY_TEMPORARY_PART "%s", shown, draft->name, suffix);
        r = mkdirat(draft->parent_fd, name, 0700) < 0 ? -errno : 0;
        if (r >= 0 && !(draft->temporary_name = strdup(name))) {
            unlinkat(draft->parent_fd, name, AT_REMOVEDIR);
            r = -ENOMEM;
        }
    }
    if (r < 0)
        return r;
    draft->dir_fd =
        openat(draft->parent_fd, draft->temporary_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (draft->dir_fd < 0)
        return -errno;
    flock(draft->dir_fd, LOCK_EX | LOCK_NB); /* a file system without locks: this one is never removed */
    return 0;
}

/* Everything in an unpublished draft is ours. */
static void remove_draft(int parent_fd, const char *name, int dir_fd)
{
    _cleanup_closedir_ DIR *stream = dir_fd < 0 ? NULL : directory_list(dir_fd);
    struct dirent *entry;
    while (stream && (entry = directory_next_entry(stream)))
        unlinkat(dir_fd, entry->d_name, 0);
    unlinkat(parent_fd, name, AT_REMOVEDIR);
}

/* Whether `entry` is what make_temporary_directory() makes of `name`. */
static bool is_draft_name(const char *entry, const char *name)
{
    const char *part = strrchr(entry, '.');
    bool is_draft = entry[0] == '.' && part &&
                    strncmp(part, DIRECTORY_TEMPORARY_PART, strlen(DIRECTORY_TEMPORARY_PART)) == 0 &&
                    strlen(part) == strlen(DIRECTORY_TEMPORARY_PART) + DIRECTORY_SUFFIX_BYTES;
    size_t length = is_draft ? (size_t)(part - entry - 1) : 0;
    return is_draft && (!name || (strncmp(entry + 1, name, length) == 0 && strlen(name) == length));
}

static bool is_left(int dir_fd)
{
    struct stat status;
    return fstat(dir_fd, &status) == 0 && status.st_uid == geteuid() &&
           time(NULL) - status.st_mtime >= LEFT_SECONDS_MIN && flock(dir_fd, LOCK_EX | LOCK_NB) == 0;
}

void image_remove_left_drafts(int parent_fd, const char *name)
{
    _cleanup_closedir_ DIR *stream = directory_list(parent_fd);
    struct dirent *entry;
    while (stream && (entry = directory_next_entry(stream))) {
        if (!is_draft_name(entry->d_name, name))
            continue;
        _cleanup_close_ int dir_fd =
            openat(parent_fd, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (dir_fd >= 0 && is_left(dir_fd))
            remove_draft(parent_fd, entry->d_name, dir_fd);
    }
}

int image_draft_begin(const char *dir, struct image_draft *ret_draft, struct reseat_error **ret_error)
{
    _cleanup_(image_draft_end) struct image_draft draft = {.parent_fd = -EBADF, .dir_fd = -EBADF};
    _cleanup_free_ char *parent = NULL;
    int r = split_path(dir, &parent, &draft.name, ret_error);
    if (r < 0)
        return r;
    _cleanup_free_ char *real_parent = realpath(parent, NULL);
    if (!real_parent)
        return error_errno(ret_error, -errno, "%s: the directory that it is to be made in", dir);
    if (asprintf(&draft.path, "%s/%s", strcmp(real_parent, "/") == 0 ? "" : real_parent, draft.name) < 0) {
        draft.path = NULL;
        return error_errno(ret_error, -ENOMEM, "%s", dir);
    }
    draft.parent_fd = open(real_parent, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (draft.parent_fd < 0)
        return error_errno(ret_error, -errno, "%s: the directory that it is to be made in", dir);
    struct stat status;
    if (fstatat(draft.parent_fd, draft.name, &status, AT_SYMLINK_NOFOLLOW) == 0)
        return error_set(ret_error, -EEXIST, "%s: exists already; a checkpoint goes into a new directory",
                         dir);
    if (errno != ENOENT)
        return error_errno(ret_error, -errno, "%s", dir);
    image_remove_left_drafts(draft.parent_fd, draft.name);
    r = make_temporary_directory(&draft);
    if (r < 0)
        return error_errno(ret_error, r, "%s: making a directory beside it", dir);
    *ret_draft = TAKE_GENERIC(draft, (struct image_draft){0});
    return 0;
}

int image_draft_write(struct image_draft *draft, const struct snapshot *snapshot,
                      struct reseat_error **ret_error)
{
    char name[DIRECTORY_CORE_NAME_BYTES];
    snprintf(name, sizeof name, "%u.core", snapshot->process.pid);
    int r = directory_write_core(draft->dir_fd, name, snapshot, NULL, ret_error);
    return r < 0 ? error_prefix(ret_error, r, "%s/%s", draft->path, name) : 0;
}

int image_draft_write_memory(struct image_draft *draft, struct snapshot *snapshot,
                             const struct image_source *source, struct reseat_error **ret_error)
{
    char name[DIRECTORY_CORE_NAME_BYTES];
    snprintf(name, sizeof name, "%u.core", snapshot->process.pid);
    int r = directory_write_memory(draft->dir_fd, name, snapshot, source, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "%s/%s", draft->path, name);
    draft->is_durable = true;
    return 0;
}

int image_stream_write(int fd, struct snapshot *snapshot, const struct image_source *source,
                       struct reseat_error **ret_error)
{
    struct core_sink sink = {.fd = fd, .is_stream = true, .lock = PTHREAD_MUTEX_INITIALIZER};
    int r = stream_begin(fd);
    if (r < 0)
        return error_errno(ret_error, r, "writing the stream");
    r = core_write(&sink, snapshot, source, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "the stream");
    r = stream_end(fd, sink.end);
    return r < 0 ? error_errno(ret_error, r, "writing the stream") : 0;
}

/* So that the new name is there after a power cut. */
static int sync_parent(const struct image_draft *draft)
{
    _cleanup_close_ int fd = openat(draft->parent_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int directory_rename_reserving(int parent_fd, const char *from, const char *to)
{
    /* mkdir(2) never takes a name that is there, and rename(2) of a directory replaces an empty one only:
     * what is replaced is the directory that was made here. */
    if (mkdirat(parent_fd, to, 0700) < 0)
        return -errno;
    if (renameat(parent_fd, from, parent_fd, to) == 0)
        return 0;
    int r = -errno;
    unlinkat(parent_fd, to, AT_REMOVEDIR);
    return r;
}

int image_draft_publish(struct image_draft *draft, struct reseat_error **ret_error)
{
    int r = 0;
    if (renameat2(draft->parent_fd, draft->temporary_name, draft->parent_fd, draft->name, RENAME_NOREPLACE) <
        0)
        r = -errno;
    if (r == -EINVAL || r == -ENOSYS)
        r = directory_rename_reserving(draft->parent_fd, draft->temporary_name, draft->name);
    if (r == -EEXIST)
        return error_set(ret_error, r, "%s: somebody else has made it in the meantime", draft->path);
    if (r < 0)
        return error_errno(ret_error, r, "%s: renaming the finished directory to it", draft->path);
    base_free(&draft->temporary_name);
    draft->temporary_name = NULL;
    r = draft->is_durable ? sync_parent(draft) : 0;
    return r < 0 ? error_errno(ret_error, r, "%s: syncing its name to the disk", draft->path) : 0;
}

void image_draft_end(struct image_draft *draft)
{
    if (!draft->name) /* never begun */
        return;
    if (draft->temporary_name)
        remove_draft(draft->parent_fd, draft->temporary_name, draft->dir_fd);
    base_close(&draft->dir_fd);
    base_close(&draft->parent_fd);
    free(draft->temporary_name);
    free(draft->name);
    free(draft->path);
    *draft = (struct image_draft){0};
}
