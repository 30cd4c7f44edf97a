/* What was deleted, out of a durable image: a file with its content, or an empty directory, is made where it
 * was and loses its name at once, so that /proc shows the same; where its name is taken, or its directory is
 * not there any more, one that never had a name takes its place (open(2) O_TMPFILE), or one that had another.
 */
#include "object/kinds/file_durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

/* A new file that has had this name, if the name is free, so that it shows; another one if it is not. */
static int make_nameless_file(const char *path, unsigned flags)
{
    const char *name;
    _cleanup_close_ int parent = place_open_parent(path, &name);
    bool had_no_name = (flags & O_TMPFILE) == O_TMPFILE;
    int fd = parent < 0 || had_no_name
                 ? -1
                 : openat(parent, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0) {
        unlinkat(parent, name, 0);
        return fd;
    }
    char own_parent[32];
    snprintf(own_parent, sizeof own_parent, "/proc/self/fd/%d", parent);
    if (parent >= 0)
        fd = open(own_parent, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    if (fd < 0)
        fd = open("/tmp", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
    return fd < 0 ? -errno : fd;
}

/* Removes it once it is open. */
static int open_directory_once(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int r = fd < 0 ? -errno : fd;
    unlinkat(parent, name, AT_REMOVEDIR);
    return r;
}

static int make_nameless_directory(const char *path)
{
    const char *name;
    char other[] = "/tmp/.reseat-XXXXXX";
    _cleanup_close_ int parent = place_open_parent(path, &name);
    if (parent >= 0 && mkdirat(parent, name, 0700) == 0)
        return open_directory_once(parent, name);
    return mkdtemp(other) ? open_directory_once(AT_FDCWD, other) : -errno;
}

/* Owner and times are as they were if we may; the mode always is. */
static int give_attributes(const struct object_view *view, const struct file_state *state, int fd,
                           struct reseat_error **ret_error)
{
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
                                {.tv_sec = state->modified_ns / 1000000000,
                                 .tv_nsec = (state->modified_ns % 1000000000 + 1000000000) % 1000000000}};
    (void)!fchown(fd, state->uid, state->gid);
    futimens(fd, times);
    /* No set-user-id bit from an image; of a directory, the group's is none. */
    unsigned mask = S_ISDIR(view->row->mode) ? 03777 : 01777;
    return fchmod(fd, view->row->mode & mask) < 0 ? error_errno(ret_error, -errno, "giving it its mode") : 0;
}

/* A new one in its place, with content and attributes. */
static int make_source(const struct object_making *making, const struct object_view *first,
                       struct reseat_error **ret_error)
{
    struct file_state state = file_state_of(first);
    bool is_directory = S_ISDIR(first->row->mode);
    if (!is_directory && !(state.flags & FILE_HAS_CONTENT))
        return view_bad(first, ret_error, "nobody has the content of the deleted file");
    _cleanup_close_ int source = is_directory
                                     ? make_nameless_directory(file_path_of(first))
                                     : make_nameless_file(file_path_of(first), first->row->status_flags);
    int r = source < 0 ? source : 0;
    if (r < 0)
        return error_errno(ret_error, r, "making %s again, which was deleted", file_path_of(first));
    if (!is_directory)
        r = content_write(making, first, state.size, source, ret_error);
    if (r == 0)
        r = give_attributes(first, &state, source, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "making %s again, which was deleted", file_path_of(first));
    return TAKE_FD(source);
}

/* What open(2) made with O_TMPFILE shows that in its flags; another opening of it does not. */
static bool is_source_itself(const struct object_view *view, int source)
{
    unsigned flags = view->row->status_flags;
    return (flags & O_TMPFILE) == O_TMPFILE && (flags & O_ACCMODE) == O_RDWR &&
           ((unsigned)fcntl(source, F_GETFL) & O_TMPFILE) == O_TMPFILE;
}

static int put_source(struct object_making *making, const struct object_view *view, int source)
{
    int cap = fcntl(source, F_DUPFD_CLOEXEC, 0);
    int64_t offset = file_state_of(view).offset;
    if (cap < 0)
        return -errno;
    making_put(making, view_id(view), cap);
    if (offset > 0 && lseek(cap, offset, SEEK_SET) < 0)
        return -errno;
    return making_set_flags(cap, view->row->status_flags);
}

/* All objects on one deleted file are made from the first, which has the content, or which was given. */
int file_make_deleted(struct object_making *making, const struct object_view *view,
                      struct reseat_error **ret_error)
{
    struct object_view first = view_of(making->snapshot, view_next_of_inode(view, 0));
    native_cap_t given = making->set->caps[view_id(&first)];
    _cleanup_close_ int source = given == NATIVE_CAP_INVALID ? make_source(making, &first, ret_error)
                                                             : fcntl(given, F_DUPFD_CLOEXEC, 0);
    int r = source < 0 ? source : 0;
    for (object_id_t id = view_id(&first); r == 0 && id; id = view_next_of_inode(view, id)) {
        struct object_view one = view_of(making->snapshot, id);
        if (making_has(making, id) || object_is_unwanted(making->options, id))
            continue;
        if (id == view_id(&first) && is_source_itself(&one, source))
            r = put_source(making, &one, source);
        else
            r = file_put_again(making, &one, source, ret_error);
    }
    return r;
}
