/* A checkpoint directory that is there: opened, replaced in one step, removed. No symbolic link is
 * followed at its last component or inside it, nothing is believed that somebody else than its owner could
 * have written, and nothing is removed that is not ours. */
#include "image/image.h"
#include "image/image-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

void stored_close(struct stored *stored)
{
    free(stored->path);
    base_close(&stored->dir_fd);
}

/* ---- opening ---- */

/* Whoever owns the checkpoint decides what the restored process does: that must be root or the caller. (Root
 * learns the owner from image_read() and compares it with the owner of the process.) */
static int check_trust(const struct stat *status, const char *place, struct reseat_error **ret_error)
{
    uid_t caller = geteuid();
    if (caller != 0 && status->st_uid != caller && status->st_uid != 0)
        return error_set(ret_error, -EPERM, "%s: belongs to user %u, neither to you nor to root", place,
                         status->st_uid);
    if (status->st_mode & (S_IWGRP | S_IWOTH))
        return error_set(ret_error, -EPERM,
                         "%s: others may write to it (mode %03o), so its content cannot be trusted", place,
                         status->st_mode & 0777);
    return 0;
}

static int open_directory(struct stored *stored, bool only_looks, struct reseat_error **ret_error)
{
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC | (only_looks ? 0 : O_NOFOLLOW);
    stored->dir_fd = open(stored->path, flags);
    if (stored->dir_fd < 0) {
        int r = -errno;
        struct stat status;
        if ((r == -ENOTDIR || r == -ELOOP) && lstat(stored->path, &status) == 0 && S_ISLNK(status.st_mode))
            return error_set(ret_error, r, "%s: is a symbolic link; name the checkpoint directory itself",
                             stored->path);
        if (r == -ENOTDIR && lstat(stored->path, &status) == 0)
            return error_set(ret_error, r,
                             "%s: is no directory; a checkpoint is the directory with its .core "
                             "file in it",
                             stored->path);
        return error_errno(ret_error, r, "%s", stored->path);
    }
    if (fstat(stored->dir_fd, &stored->status) < 0)
        return error_errno(ret_error, -errno, "%s", stored->path);
    return only_looks ? 0 : check_trust(&stored->status, stored->path, ret_error);
}

static bool ends_with_core(const char *name)
{
    size_t length = strlen(name);
    return length >= 5 && strcmp(name + length - 5, ".core") == 0;
}

/* Finds the one PID.core; sets pid and core_name. */
static int find_core(struct stored *stored, struct reseat_error **ret_error)
{
    _cleanup_closedir_ DIR *stream = directory_list(stored->dir_fd);
    if (!stream)
        return error_errno(ret_error, -errno, "%s: listing", stored->path);
    struct dirent *entry;
    while ((entry = directory_next_entry(stream))) {
        if (!ends_with_core(entry->d_name))
            continue;
        if (stored->pid != 0)
            return error_set(ret_error, -EBADMSG, "%s: has more than one .core file", stored->path);
        stored->pid = directory_parse_core_name(entry->d_name);
        if (stored->pid == 0)
            return error_set(ret_error, -EBADMSG, "%s: has a .core file that is not named after a PID",
                             stored->path);
        snprintf(stored->core_name, sizeof stored->core_name, "%d.core", stored->pid);
    }
    if (errno != 0)
        return error_errno(ret_error, -errno, "%s: listing", stored->path);
    if (stored->pid == 0)
        return error_set(ret_error, -ENOENT, "%s: no checkpoint in this directory", stored->path);
    return 0;
}

static int open_stored(const char *dir, bool only_looks, struct stored *ret_stored,
                       struct reseat_error **ret_error)
{
    _cleanup_(stored_close) struct stored stored = {.path = directory_strip_slashes(dir), .dir_fd = -EBADF};
    if (!stored.path)
        return error_errno(ret_error, -ENOMEM, "%s", dir);
    int r = open_directory(&stored, only_looks, ret_error);
    if (r < 0)
        return r;
    r = find_core(&stored, ret_error);
    if (r < 0)
        return r;
    *ret_stored = TAKE_GENERIC(stored, (struct stored){.dir_fd = -EBADF});
    return 0;
}

int stored_open(const char *dir, struct stored *ret_stored, struct reseat_error **ret_error)
{
    return open_stored(dir, false, ret_stored, ret_error);
}

int stored_open_to_look(const char *dir, struct stored *ret_stored, struct reseat_error **ret_error)
{
    return open_stored(dir, true, ret_stored, ret_error);
}

/* ---- the file ---- */

int stored_open_core(const struct stored *stored, int *ret_fd, uint64_t *ret_length,
                     struct reseat_error **ret_error)
{
    _cleanup_close_ int fd =
        openat(stored->dir_fd, stored->core_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 && errno == ELOOP)
        return error_set(ret_error, -ELOOP, "is a symbolic link");
    struct stat status;
    if (fd < 0 || fstat(fd, &status) < 0)
        return error_errno(ret_error, -errno, "opening");
    if (!S_ISREG(status.st_mode))
        return error_set(ret_error, -EBADMSG, "is not a regular file");
    if (status.st_uid != stored->status.st_uid)
        return error_set(ret_error, -EPERM, "belongs to user %u, its directory to user %u", status.st_uid,
                         stored->status.st_uid);
    int r = check_trust(&status, "the file", ret_error);
    if (r < 0)
        return r;
    *ret_length = (uint64_t)status.st_size;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

/* ---- replacing ---- */

/* The same memory at the same places, its holes included. */
static int copy_memory(int from_fd, int to_fd, uint64_t start, uint64_t end)
{
    while (start < end) {
        off_t data = lseek(from_fd, (off_t)start, SEEK_DATA);
        if (data < 0)
            return errno == ENXIO ? 0 : -errno; /* only holes to the end */
        off_t hole = lseek(from_fd, data, SEEK_HOLE);
        uint64_t part_end = hole < 0 || (uint64_t)hole > end ? end : (uint64_t)hole;
        loff_t from = data, to = data;
        while ((uint64_t)from < part_end) {
            ssize_t n = copy_file_range(from_fd, &from, to_fd, &to, part_end - (uint64_t)from, 0);
            if (n <= 0)
                return n < 0 ? -errno : -EBADMSG;
        }
        start = (uint64_t)data > part_end ? (uint64_t)data : part_end;
    }
    return 0;
}

/* Writes the core file anew with other tables, and the memory that it has. */
static int rewrite_core(const struct stored *stored, const char *name, const struct core_view *view,
                        const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const Elf64_Shdr *section = &view->sections[view->memory];
    int notes = core_view_find(view, CORE_SECTION_NOTES, ret_error);
    if (notes < 0)
        return notes;
    struct core_memory memory = {
        .start = section->sh_offset,
        .end = section->sh_offset + section->sh_size,
        .segments = view->segments,
        .segment_count = view->segment_count,
        .notes = view->contents[notes],
        .notes_length = view->sections[notes].sh_size,
    };
    int r = core_check_snapshot(snapshot, ret_error);
    if (r == 0)
        r = core_view_check_extents(view, snapshot, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "what was captured cannot be stored");
    return directory_write_tables(stored->dir_fd, name, snapshot, &memory, view->source.fd, copy_memory,
                                  &stored->status, ret_error);
}

/* With the memory of the file that is there, if it has any. */
static int write_replacement(const struct stored *stored, const char *name, const struct snapshot *snapshot,
                             struct reseat_error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    struct core_source source = {0};
    _cleanup_(core_view_close) struct core_view view = {0};
    if (snapshot->vmas_count == 0)
        return directory_write_core(stored->dir_fd, name, snapshot, &stored->status, ret_error);
    int r = stored_open_core(stored, &fd, &source.length, ret_error);
    source.fd = fd;
    if (r == 0)
        r = core_view_open(&source, &view, ret_error);
    if (r == 0 && (!view.memory || !view.segment_count))
        r = error_set(ret_error, -EBADMSG, "has no memory any more");
    return r < 0 ? r : rewrite_core(stored, name, &view, snapshot, ret_error);
}

int image_replace(const char *dir, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_(stored_close) struct stored stored = {.dir_fd = -EBADF};
    int r = stored_open(dir, &stored, ret_error);
    if (r < 0)
        return r;
    if (snapshot->process.pid != (uint32_t)stored.pid)
        return error_set(ret_error, -EINVAL, "%s/%s: cannot be replaced by a checkpoint of process %u",
                         stored.path, stored.core_name, snapshot->process.pid);

    char suffix[DIRECTORY_SUFFIX_BYTES + 1], temporary_name[2 * DIRECTORY_CORE_NAME_BYTES];
    directory_make_suffix(suffix);
    snprintf(temporary_name, sizeof temporary_name, ".%s" DIRECTORY_TEMPORARY_PART "%s", stored.core_name,
             suffix);
    r = write_replacement(&stored, temporary_name, snapshot, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "%s/%s", stored.path, temporary_name);
    if (renameat(stored.dir_fd, temporary_name, stored.dir_fd, stored.core_name) < 0) {
        r = -errno;
        unlinkat(stored.dir_fd, temporary_name, 0);
        return error_errno(ret_error, r, "%s/%s: replacing", stored.path, stored.core_name);
    }
    return 0;
}

/* ---- removing ---- */

/* A kernel's core dump may have the same name: what is removed must at least have our form. */
static int check_is_ours(const struct stored *stored, struct reseat_error **ret_error)
{
    _cleanup_close_ int fd = -EBADF;
    struct core_source source = {0};
    _cleanup_(core_view_close) struct core_view view = {0};
    int r = stored_open_core(stored, &fd, &source.length, ret_error);
    source.fd = fd;
    if (r >= 0)
        r = core_view_open(&source, &view, ret_error);
    if (r >= 0 && core_view_find(&view, CORE_SECTION_PROCESS, ret_error) == 0)
        r = error_set(ret_error, -EBADMSG, "section %s: missing", CORE_SECTION_PROCESS);
    return r < 0 ? error_prefix(ret_error, r, "%s/%s: not removed", stored->path, stored->core_name) : 0;
}

/* Removes our files; *ret_foreign is the name of something else that is there, or NULL. */
static int remove_ours(const struct stored *stored, char **ret_foreign, struct reseat_error **ret_error)
{
    _cleanup_closedir_ DIR *stream = directory_list(stored->dir_fd);
    if (!stream)
        return error_errno(ret_error, -errno, "%s: listing", stored->path);
    _cleanup_free_ char *foreign = NULL;
    struct dirent *entry;
    while ((entry = directory_next_entry(stream))) {
        const char *name = entry->d_name;
        bool is_ours = strcmp(name, stored->core_name) == 0 || directory_is_temporary_core_name(name);
        if (is_ours && unlinkat(stored->dir_fd, name, 0) < 0 && errno != ENOENT && errno != EISDIR)
            return error_errno(ret_error, -errno, "%s/%s: removing", stored->path, name);
        if (!is_ours && !foreign)
            foreign = strdup(name);
    }
    if (errno != 0)
        return error_errno(ret_error, -errno, "%s: listing", stored->path);
    *ret_foreign = TAKE_PTR(foreign);
    return 0;
}

int image_remove(const char *dir, struct reseat_error **ret_error)
{
    _cleanup_(stored_close) struct stored stored = {.dir_fd = -EBADF};
    int r = stored_open(dir, &stored, ret_error);
    if (r < 0)
        return r;
    r = check_is_ours(&stored, ret_error);
    if (r < 0)
        return r;
    _cleanup_free_ char *foreign = NULL;
    r = remove_ours(&stored, &foreign, ret_error);
    if (r < 0)
        return r;
    if (foreign)
        return error_set(
            ret_error, -ENOTEMPTY,
            "%s: the checkpoint in it is removed, but the directory is left, because it also has %s",
            stored.path, foreign);
    /* rmdir(2) does not take "."; the last component is no symbolic link, it was opened with O_NOFOLLOW. */
    _cleanup_free_ char *real_path = realpath(stored.path, NULL);
    if (!real_path || rmdir(real_path) < 0)
        return error_errno(ret_error, -errno, "%s: removing the directory", stored.path);
    return 0;
}
