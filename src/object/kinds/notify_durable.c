/* inotify(7) in a durable image: its watches, with their numbers. fdinfo has an inode and a file handle for
 * each; the handle is opened (open_by_handle_at(2), needs CAP_DAC_READ_SEARCH) and the path read from
 * /proc/self/fd. What has no path any more may be what another object of the process is on: then that is
 * watched. Events that wait to be read cannot be looked at, only counted: they are lost. Watches are put back
 * when everything else is there, so that they do not see it being made.
 *
 * The kernel gives out watch numbers one after the other, so one is reached by adding and removing until it
 * comes up; what that leaves in the queue is read away. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

struct inotify_state {
    uint32_t watch_count;
    uint32_t queued_bytes;
};

/* Stands behind it, each followed by its path, padded to 8 bytes. */
struct inotify_watch {
    int32_t number;
    uint32_t mask;
    uint64_t inode;
    uint32_t path_length; /* with the NUL; 0: not found out */
    uint32_t device;      /* in the kernel's own form */
};

#define ALIGN_8(number)      (((number) + 7) & ~(size_t)7)
#define WATCH_NUMBER_MAX     (1 << 18) /* so many numbers are tried */
#define LINE_BYTES           512
#define HANDLE_BYTES         64 /* as the kernel shows */
#define DEVICE_MAJOR(device) ((device) >> 20)
#define DEVICE_MINOR(device) ((device)&0xfffffU)
#define DRAIN_EVERY          1000 /* fs.inotify.max_queued_events is larger */

/* ---- capture ---- */

struct handle_text {
    unsigned type, length;
    char hex[2 * HANDLE_BYTES + 1];
};

static int open_mount(unsigned device_major, unsigned device_minor, size_t skip)
{
    _cleanup_free_ char *mounts = NULL;
    if (file_read(AT_FDCWD, "/proc/self/mountinfo", &mounts, NULL) < 0)
        return -ENOENT;
    char *position = mounts;
    for (char *line; (line = strsep(&position, "\n"));) {
        unsigned found_major, found_minor;
        char path[4096];
        if (sscanf(line, "%*d %*d %u:%u %*s %4095s", &found_major, &found_minor, path) != 3 ||
            found_major != device_major || found_minor != device_minor || skip-- > 0)
            continue;
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
    }
    return -ENOENT;
}

/* The path of an inode on that mount, "" if there is none. */
static bool path_of_handle(int mount_fd, const struct handle_text *text, char path[static 4096])
{
    union {
        struct file_handle handle;
        char room[sizeof(struct file_handle) + HANDLE_BYTES];
    } u = {.handle = {.handle_bytes = text->length, .handle_type = (int)text->type}};
    for (unsigned i = 0; i < text->length && i < HANDLE_BYTES; i++) {
        unsigned byte;
        if (sscanf(text->hex + 2 * i, "%2x", &byte) != 1)
            return false;
        u.handle.f_handle[i] = (unsigned char)byte;
    }
    _cleanup_close_ int fd = open_by_handle_at(mount_fd, &u.handle, O_PATH | O_CLOEXEC);
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = fd < 0 ? -1 : readlink(link, path, 4095);
    if (length <= 0)
        return false;
    path[length] = '\0';
    return path[0] == '/' && access(path, F_OK) == 0;
}

static bool find_path(unsigned device, const struct handle_text *text, char path[static 4096])
{
    for (size_t skip = 0; text->length <= HANDLE_BYTES; skip++) {
        _cleanup_close_ int mount_fd = open_mount(DEVICE_MAJOR(device), DEVICE_MINOR(device), skip);
        if (mount_fd == -ENOENT)
            return false;
        if (mount_fd >= 0 && path_of_handle(mount_fd, text, path))
            return true;
    }
    return false;
}

static int add_watch(struct object_capture *capture, const char *line, struct inotify_state *state)
{
    static const uint8_t zeros[8];
    unsigned number, device, mask;
    unsigned long long inode;
    struct handle_text text = {0};
    char path[4096] = "";
    char text_of_line[LINE_BYTES];
    line_copy(line, text_of_line, sizeof text_of_line);
    int n = sscanf(text_of_line,
                   "inotify wd:%x ino:%llx sdev:%x mask:%x ignored_mask:%*x fhandle-bytes:%x "
                   "fhandle-type:%x f_handle:%128s",
                   &number, &inode, &device, &mask, &text.length, &text.type, text.hex);
    if (n < 4)
        return 0;
    bool is_found = n == 7 && find_path(device, &text, path);
    struct inotify_watch watch = {.number = (int32_t)number,
                                  .mask = mask,
                                  .inode = inode,
                                  .path_length = is_found ? (uint32_t)strlen(path) + 1 : 0,
                                  .device = device};
    int r = state_add(capture, &watch, sizeof watch);
    if (r == 0)
        r = state_add(capture, path, watch.path_length);
    state->watch_count++;
    return r == 0 ? state_add(capture, zeros, ALIGN_8(watch.path_length) - watch.path_length) : r;
}

static int capture_inotify(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    int queued = 0;
    struct inotify_state state = {0};
    if (ioctl(capture->cap, FIONREAD, &queued) < 0)
        queued = 0;
    state.queued_bytes = (uint32_t)queued;
    int r = state_add(capture, &state, sizeof state);
    for (const char *line = capture->sight->info; r == 0 && (line = strstr(line, "inotify wd:")); line++)
        r = add_watch(capture, line, &state);
    if (r == 0)
        memcpy(capture->state, &state, sizeof state);
    if (r == 0 && queued > 0)
        r = capture_degraded(capture, "%d bytes of events wait to be read and will be lost", queued);
    return r;
}

/* ---- check, judge ---- */

/* The next watch of the state; false: no more of them. Moves the offset behind it. */
static bool next_watch(const struct object_view *view, size_t *offset, struct inotify_watch *ret_watch,
                       const char **ret_path)
{
    if (!view_has(view, *offset, sizeof *ret_watch))
        return false;
    memcpy(ret_watch, view->state + *offset, sizeof *ret_watch);
    size_t text = *offset + sizeof *ret_watch;
    if (!view_has(view, text, ALIGN_8((uint64_t)ret_watch->path_length)))
        return false;
    *ret_path = (const char *)view->state + text;
    *offset = text + ALIGN_8((uint64_t)ret_watch->path_length);
    return true;
}

static int check_inotify(const struct object_view *view, struct reseat_error **ret_error)
{
    struct inotify_state state;
    struct inotify_watch watch;
    const char *path;
    size_t offset = sizeof state;
    view_read(view, &state, sizeof state);
    for (size_t i = 0; i < state.watch_count; i++) {
        if (!next_watch(view, &offset, &watch, &path))
            return view_bad(view, ret_error, "watch %zu of %u is cut off", i, state.watch_count);
        uint64_t place = (uint64_t)((const uint8_t *)path - view->state);
        if (watch.number < 1 || (watch.path_length && !view_has_path(view, place, watch.path_length)))
            return view_bad(view, ret_error, "watch %zu is none", i);
    }
    return 0;
}

/* The object of the snapshot that is on what is watched; 0: none. */
static object_id_t find_watched(const struct object_view *view, const struct inotify_watch *watch)
{
    for (object_id_t id = 1; id <= view->snapshot->objects_count; id++) {
        struct object_view other = view_of(view->snapshot, id);
        if (other.row->inode == watch->inode && other.row->device_major == DEVICE_MAJOR(watch->device) &&
            other.row->device_minor == DEVICE_MINOR(watch->device) &&
            (S_ISREG(other.row->mode) || S_ISDIR(other.row->mode)) && view_is_usable(&other))
            return id;
    }
    return 0;
}

static int judge_inotify(const struct object_view *view, const struct object_options *options,
                         enum object_fate *ret_fate, char **ret_sentence)
{
    (void)options;
    struct inotify_state state;
    struct inotify_watch watch;
    const char *path;
    size_t offset = sizeof state;
    view_read(view, &state, sizeof state);
    while (next_watch(view, &offset, &watch, &path)) {
        _cleanup_close_ int fd = watch.path_length ? place_open(path, 0) : -EBADF;
        bool is_there = fd >= 0 || (!watch.path_length && find_watched(view, &watch));
        if (is_there && watch.number <= WATCH_NUMBER_MAX)
            continue;
        *ret_fate = OBJECT_DEGRADED;
        if (!watch.path_length)
            return describe_as(ret_sentence,
                               is_there ? "the number of its watch %d is too high to be reached"
                                        : "of its watch %d the path cannot be found out: it will be missing, "
                                          "as if what it watches had been removed",
                               watch.number);
        return describe_as(ret_sentence,
                           fd < 0 ? "what it watches at %s is not there any more"
                                  : "the number of its watch on %s is too high to be reached",
                           path);
    }
    return 0;
}

/* ---- recreate ---- */

static void drain(int fd)
{
    char events[4096];
    while (read(fd, events, sizeof events) > 0)
        ;
}

/* Adds a watch until it has its number. */
static int reach_number(int fd, const char *path, const struct inotify_watch *watch)
{
    for (int tries = 0;; tries++) {
        int number = inotify_add_watch(fd, path, watch->mask & ~(uint32_t)IN_DONT_FOLLOW);
        if (number < 0)
            return -errno;
        if (number == watch->number)
            return 0;
        inotify_rm_watch(fd, number);
        if (number > watch->number)
            return -EEXIST;
        if (tries % DRAIN_EVERY == 0)
            drain(fd);
    }
}

struct watch_place {
    struct inotify_watch watch;
    const char *path;
};

static int compare_watches(const void *a, const void *b)
{
    const struct watch_place *x = a, *y = b;
    return (x->watch.number > y->watch.number) - (x->watch.number < y->watch.number);
}

/* A descriptor on what is watched. */
static int open_watched(const struct object_making *making, const struct object_view *view,
                        const struct watch_place *place)
{
    if (place->watch.path_length)
        return place_open(place->path, 0);
    object_id_t id = find_watched(view, &place->watch);
    if (!id || making_is_lost(making, id) || making->set->caps[id] == NATIVE_CAP_INVALID)
        return -ENOENT;
    int fd = fcntl(making->set->caps[id], F_DUPFD_CLOEXEC, 0);
    return fd < 0 ? -errno : fd;
}

/* In ascending order of their numbers. */
static int add_watches(const struct object_making *making, const struct object_view *view, int fd)
{
    struct watch_place *places = NULL, next;
    size_t count = 0, offset = sizeof(struct inotify_state);
    int r = 0;
    while (r == 0 && next_watch(view, &offset, &next.watch, &next.path)) {
        struct watch_place *place = array_append(places, count);
        if (place)
            *place = next;
        else
            r = -ENOMEM;
    }
    if (r == 0 && count)
        qsort(places, count, sizeof *places, compare_watches);
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (places[i].watch.number > WATCH_NUMBER_MAX)
            continue;
        _cleanup_close_ int watched = open_watched(making, view, &places[i]);
        char link[32];
        snprintf(link, sizeof link, "/proc/self/fd/%d", watched);
        if (watched >= 0)
            r = reach_number(fd, link, &places[i].watch);
    }
    free(places);
    drain(fd);
    return r;
}

static int recreate_inotify(struct object_making *making, const struct object_view *view,
                            struct reseat_error **ret_error)
{
    (void)ret_error;
    int fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (fd < 0)
        return -errno;
    making_put(making, view_id(view), fd);
    return 0;
}

static int finish_inotify(struct object_making *making, const struct object_view *view, native_cap_t cap,
                          struct reseat_error **ret_error)
{
    int r = add_watches(making, view, cap);
    if (r < 0)
        return error_errno(ret_error, r, "adding its watches again");
    return making_set_flags(cap, view->row->status_flags);
}

const struct object_durable inotify_durable = {
    .state_bytes = sizeof(struct inotify_state),
    .capture = capture_inotify,
    .check = check_inotify,
    .judge = judge_inotify,
    .recreate = recreate_inotify,
    .finish = finish_inotify,
};
