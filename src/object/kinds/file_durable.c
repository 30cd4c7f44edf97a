/* What has a path, in a durable image: files, directories and O_PATH capabilities are opened again by their
 * path, after a look through O_PATH whether that is still what it was; character devices without a state of
 * their own by their number. What was deleted carries its content and is made again: file_deleted.c.
 *
 * The path is resolved without symbolic links (openat2(2), Linux 5.6): the kernel gave it without any, so one
 * that is there now has been put there since. Files of the process itself below /proc are opened from inside
 * the restored process (`reopens`). */
#include "object/kinds/file_durable.h"
#include "object/kinds.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define ALIGN_8(number) (((number) + 7) & ~(size_t)7)
#define NAMES_LOOKED_AT 65536 /* of a directory, for another name of a file */
/* What open(2) is given again. */
#define OPEN_FLAGS (O_ACCMODE | O_APPEND | O_NONBLOCK | O_SYNC | O_DIRECT | O_NOATIME | O_DIRECTORY | O_PATH)

static const char suffix[] = " (deleted)";

/* ---- capture ---- */

/* A name that ends in " (deleted)" may also be the whole name of a file that is there. */
static bool is_deleted(const struct object_sight *sight, const struct stat *stat)
{
    struct stat now;
    if (stat->st_nlink == 0)
        return true;
    return link_is_deleted(sight) &&
           (lstat(sight->link, &now) < 0 || now.st_ino != stat->st_ino || now.st_dev != stat->st_dev);
}

/* Behind "/proc/PID" of the process or its twin; NULL: somewhere else. */
static const char *path_of_own_proc(const struct object_capture *capture)
{
    pid_t own[] = {capture_target(capture), native_pd_id(capture->sight->pd)};
    for (size_t i = 0; i < COUNT_OF(own); i++) {
        char prefix[32];
        size_t length = (size_t)snprintf(prefix, sizeof prefix, "/proc/%d", own[i]);
        if (starts_with(capture->sight->link, prefix) && strchr("/ ", capture->sight->link[length]))
            return capture->sight->link + length + (capture->sight->link[length] == '/');
    }
    return NULL;
}

/* Another name of a file whose name was removed, in the same directory, to be freed; NULL: there is none. */
static char *find_other_name(const struct object_capture *capture, const struct stat *stat)
{
    const char *link = capture->sight->link, *slash = strrchr(link, '/');
    _cleanup_free_ char *parent = slash ? strndup(link, slash == link ? 1 : (size_t)(slash - link)) : NULL;
    DIR *directory = parent ? opendir(parent) : NULL;
    char *found = NULL;
    size_t looked_at = 0;
    struct dirent *entry;
    while (directory && !found && looked_at++ < NAMES_LOOKED_AT && (entry = readdir(directory))) {
        struct stat now;
        if (entry->d_ino == stat->st_ino &&
            fstatat(dirfd(directory), entry->d_name, &now, AT_SYMLINK_NOFOLLOW) == 0 &&
            now.st_ino == stat->st_ino && now.st_dev == stat->st_dev &&
            asprintf(&found, "%s/%s", slash == link ? "" : parent, entry->d_name) < 0)
            found = NULL;
    }
    if (directory)
        closedir(directory);
    return found;
}

static int add_path(struct object_capture *capture, struct file_state *state, const char *path)
{
    size_t length = strlen(path);
    bool has_suffix = length >= sizeof suffix && strcmp(path + length - (sizeof suffix - 1), suffix) == 0;
    if (has_suffix && (state->flags & (FILE_DELETED | FILE_OWN_PROC | FILE_OF_PROCESS)))
        length -= sizeof suffix - 1;
    static const uint8_t zeros[8];
    state->path_length = (uint32_t)length + 1;
    int r = state_add(capture, path, length);
    return r < 0 ? r : state_add(capture, zeros, ALIGN_8(length + 1) - length);
}

static void note_stat(struct file_state *state, const struct stat *stat)
{
    state->size = (uint64_t)stat->st_size;
    state->modified_ns = stat->st_mtim.tv_sec * INT64_C(1000000000) + stat->st_mtim.tv_nsec;
    state->uid = stat->st_uid;
    state->gid = stat->st_gid;
    state->special_major = major(stat->st_rdev);
    state->special_minor = minor(stat->st_rdev);
}

static int capture_deleted(struct object_capture *capture, struct file_state *state, const struct stat *stat,
                           struct reseat_error **ret_error)
{
    if (S_ISDIR(stat->st_mode))
        return 0;
    if (!S_ISREG(stat->st_mode))
        return capture_lost(capture, "it has no path any more");
    if (!capture_is_first_of_inode(capture))
        return 0;
    state->flags |= FILE_HAS_CONTENT;
    int r = content_capture(capture, state->size, ret_error);
    if (r == 0 && stat->st_nlink > 0)
        r = capture_degraded(capture, "its name is gone, but it has another one that cannot be found out: it "
                                      "comes back as a file of its own, with the same content");
    return r;
}

static int capture_file(struct object_capture *capture, struct reseat_error **ret_error)
{
    struct file_state state = {.offset = capture_offset(capture)};
    struct stat stat;
    _cleanup_free_ char *other = NULL;
    const char *own = path_of_own_proc(capture);
    if (fstat(capture->cap, &stat) < 0)
        return error_errno(ret_error, -errno, "looking at a file");
    if (!link_is_path(capture->sight))
        return capture_lost(capture, "it has no path");
    note_stat(&state, &stat);
    if (own)
        state.flags = FILE_OWN_PROC;
    else if (!file_note_process(capture, &state))
        state.flags = is_deleted(capture->sight, &stat) ? FILE_DELETED : 0;
    if ((state.flags & FILE_DELETED) && S_ISREG(stat.st_mode) && stat.st_nlink > 0)
        other = find_other_name(capture, &stat);
    if (other)
        state.flags = 0;
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = add_path(capture, &state, other ? other : own ? own : capture->sight->link);
    if (r == 0)
        r = locks_capture(capture, &state.lock_count);
    if (r == 0 && (state.flags & FILE_DELETED))
        r = capture_deleted(capture, &state, &stat, ret_error);
    memcpy(capture->state, &state, sizeof state);
    return r;
}

/* ---- check ---- */

struct file_state file_state_of(const struct object_view *view)
{
    struct file_state state;
    view_read(view, &state, sizeof state);
    return state;
}

const char *file_path_of(const struct object_view *view)
{
    return (const char *)view->state + sizeof(struct file_state);
}

static size_t locks_offset(const struct file_state *state)
{
    return ALIGN_8(sizeof *state + state->path_length);
}

static int check_file(const struct object_view *view, struct reseat_error **ret_error)
{
    struct file_state state = file_state_of(view);
    bool is_path = state.flags & FILE_OWN_PROC ? view_has_relative_path(view, sizeof state, state.path_length)
                                               : view_has_path(view, sizeof state, state.path_length);
    if (!is_path)
        return view_bad(view, ret_error, "its path is none, or leads somewhere else");
    int r = locks_check(view, locks_offset(&state), state.lock_count, ret_error);
    if (r == 0 && (state.flags & FILE_HAS_CONTENT))
        r = content_check(view, state.size, ret_error);
    return r;
}

/* ---- judge ---- */

static bool is_stateless_device(unsigned device_major, unsigned device_minor)
{
    static const struct {
        unsigned major, minor;
    } devices[] = {{1, 3}, {1, 5}, {1, 7}, {1, 8}, {1, 9}, {10, 232}}; /* null zero full random urandom kvm */
    for (size_t i = 0; i < COUNT_OF(devices); i++)
        if (devices[i].major == device_major && devices[i].minor == device_minor)
            return true;
    return false;
}

static int judge_found(const struct object_view *view, const struct object_options *options,
                       const struct file_state *state, const struct stat *stat, enum object_fate *ret_fate,
                       char **ret_sentence)
{
    if ((stat->st_mode & S_IFMT) != (view->row->mode & S_IFMT)) {
        *ret_fate = OBJECT_LOST;
        return describe_as(ret_sentence, "there is something else at its path now");
    }
    bool is_device = S_ISCHR(stat->st_mode) || S_ISBLK(stat->st_mode);
    if (is_device &&
        (major(stat->st_rdev) != state->special_major || minor(stat->st_rdev) != state->special_minor)) {
        *ret_fate = OBJECT_LOST;
        return describe_as(ret_sentence, "there is another device at its path now");
    }
    bool is_same_size = (uint64_t)stat->st_size == state->size;
    bool may_grow = (view->row->status_flags & O_APPEND) && (uint64_t)stat->st_size > state->size;
    bool is_content_known = !(options && options->is_running) && !(view->row->status_flags & O_PATH);
    if (!S_ISREG(stat->st_mode) || is_same_size || may_grow || !is_content_known)
        return 0;
    *ret_fate = OBJECT_DEGRADED;
    return describe_as(ret_sentence,
                       "the file has changed since: it had %llu bytes and has %llu; the process would "
                       "go on with another content than it knows",
                       (unsigned long long)state->size, (unsigned long long)stat->st_size);
}

/* Whether we may open it the way that the process had it open. */
static bool may_open(const struct object_view *view, int place)
{
    unsigned flags = view->row->status_flags;
    int access_mode = (flags & O_ACCMODE) == O_RDONLY   ? R_OK
                      : (flags & O_ACCMODE) == O_WRONLY ? W_OK
                                                        : R_OK | W_OK;
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", place);
    return (flags & O_PATH) || faccessat(AT_FDCWD, link, access_mode, AT_EACCESS) == 0;
}

static int judge_file(const struct object_view *view, const struct object_options *options,
                      enum object_fate *ret_fate, char **ret_sentence)
{
    struct file_state state = file_state_of(view);
    struct stat stat;
    if ((state.flags & FILE_DELETED) && S_ISREG(view->row->mode)) {
        struct object_view first = view_of(view->snapshot, view_next_of_inode(view, 0));
        bool has_content = file_state_of(&first).flags & FILE_HAS_CONTENT;
        if (has_content && !(view->row->mode & (S_ISUID | S_ISGID)))
            return 0;
        *ret_fate = has_content ? OBJECT_DEGRADED : OBJECT_LOST;
        if (has_content)
            return describe_as(ret_sentence, "it was deleted, and comes back without its set-user-id and "
                                             "set-group-id bits, which no image may give");
        return describe_as(ret_sentence, "it was deleted, and its content is not in the image");
    }
    if (state.flags & (FILE_DELETED | FILE_OWN_PROC))
        return 0;
    if (file_process_has_ended(view)) {
        if (file_process_can_be_made(view))
            return 0;
        *ret_fate = OBJECT_LOST;
        return describe_as(ret_sentence, "the process that it is a file of has ended");
    }
    _cleanup_close_ int place = place_open(file_path_of(view), 0);
    if (place < 0 || fstat(place, &stat) < 0) {
        *ret_fate = OBJECT_LOST;
        return describe_as(ret_sentence,
                           place == -ELOOP ? "a symbolic link has been put into its path since"
                                           : "it cannot be found at its path any more (%s)",
                           strerror(place < 0 ? -place : errno));
    }
    if (!may_open(view, place)) {
        *ret_fate = OBJECT_LOST;
        return describe_as(ret_sentence, "we may not open it as the process had: %s", strerror(errno));
    }
    return judge_found(view, options, &state, &stat, ret_fate, ret_sentence);
}

static int judge_device(const struct object_view *view, const struct object_options *options,
                        enum object_fate *ret_fate, char **ret_sentence)
{
    struct file_state state = file_state_of(view);
    if (S_ISCHR(view->row->mode) && is_stateless_device(state.special_major, state.special_minor))
        return judge_file(view, options, ret_fate, ret_sentence);
    *ret_fate = OBJECT_LOST;
    return describe_as(ret_sentence,
                       "device %u:%u has a state that only the driver knows, and opening it "
                       "could have effects",
                       state.special_major, state.special_minor);
}

/* ---- recreate: what is there ---- */

int file_put_again(struct object_making *making, const struct object_view *view, native_cap_t source,
                   struct reseat_error **ret_error)
{
    struct file_state state = file_state_of(view);
    /* O_TMPFILE has the bit of O_DIRECTORY in it. */
    unsigned flags = view->row->status_flags & OPEN_FLAGS;
    int cap = making_reopen(source, S_ISDIR(view->row->mode) ? flags : flags & ~(unsigned)O_DIRECTORY);
    if (cap < 0)
        return error_errno(ret_error, cap, "opening %s", file_path_of(view));
    making_put(making, view_id(view), cap);
    if (state.offset > 0 && lseek(cap, state.offset, SEEK_SET) < 0 && errno != ESPIPE)
        return error_errno(ret_error, -errno, "putting its position back");
    return 0;
}

/* Opened from inside the restored process; here it stays without a capability. */
static int note_reopen(struct object_making *making, const struct object_view *view)
{
    struct file_state state = file_state_of(view);
    struct snapshot *snapshot = making->snapshot;
    uint64_t path_offset;
    _cleanup_free_ char *path = strdup(file_path_of(view));
    if (!path || snapshot_add_blob(snapshot, path, strlen(path) + 1, &path_offset) < 0)
        return -ENOMEM;
    unsigned flags = snapshot->objects[view->row - view->snapshot->objects].status_flags;
    object_id_t id = view_id(view);
    selector_t first = view_selector(view);
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *capability = &snapshot->capabilities[i];
        struct snapshot_reopen *row;
        if (capability->object != id)
            continue;
        if (!(row = array_append(snapshot->reopens, snapshot->reopens_count)))
            return -ENOMEM;
        *row = (struct snapshot_reopen){.selector = capability->selector,
                                        .status_flags = flags & OPEN_FLAGS,
                                        .descriptor_flags = capability->flags,
                                        .alias_of = first,
                                        .offset = state.offset,
                                        .path_offset = path_offset};
    }
    return 0;
}

static int open_again(struct object_making *making, const struct object_view *view,
                      struct reseat_error **ret_error)
{
    bool is_place = view->row->status_flags & O_PATH;
    unsigned flags = is_place ? view->row->status_flags & (O_DIRECTORY | O_NOFOLLOW) : 0;
    _cleanup_close_ int place = place_open(file_path_of(view), flags);
    struct stat stat;
    if (place < 0 || fstat(place, &stat) < 0)
        return error_errno(ret_error, place < 0 ? place : -errno, "looking for %s", file_path_of(view));
    enum object_fate fate = OBJECT_RECREATED;
    _cleanup_free_ char *sentence = NULL;
    struct file_state state = file_state_of(view);
    int r = judge_found(view, making->options, &state, &stat, &fate, &sentence);
    if (r < 0 || fate == OBJECT_LOST) /* it has changed since the judgement: nothing is opened blindly */
        return error_set(ret_error, r < 0 ? r : -ESTALE, "%s", sentence ? sentence : "out of memory");
    if (!is_place || !(flags & O_NOFOLLOW))
        return file_put_again(making, view, place, ret_error);
    making_put(making, view_id(view), TAKE_FD(place));
    return 0;
}

static int recreate_file(struct object_making *making, const struct object_view *view,
                         struct reseat_error **ret_error)
{
    struct file_state state = file_state_of(view);
    if (state.flags & FILE_OWN_PROC)
        return note_reopen(making, view);
    if (file_process_has_ended(view))
        return file_make_of_ended(making, view, ret_error);
    return state.flags & FILE_DELETED ? file_make_deleted(making, view, ret_error)
                                      : open_again(making, view, ret_error);
}

static int complete_file(struct object_making *making, const struct object_view *view, native_cap_t cap,
                         struct reseat_error **ret_error)
{
    (void)making;
    struct file_state state = file_state_of(view);
    return locks_take(view, locks_offset(&state), state.lock_count, cap, ret_error);
}

static bool is_own_proc(const struct object_view *view)
{
    return file_state_of(view).flags & FILE_OWN_PROC;
}

const struct object_durable file_durable = {
    .state_bytes = sizeof(struct file_state),
    .capture = capture_file,
    .check = check_file,
    .judge = judge_file,
    .recreate = recreate_file,
    .complete = complete_file,
    .needs_process = is_own_proc,
};
const struct object_durable device_durable = {
    .state_bytes = sizeof(struct file_state),
    .capture = capture_file,
    .check = check_file,
    .judge = judge_device,
    .recreate = recreate_file,
    .complete = complete_file,
};
