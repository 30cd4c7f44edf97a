/* Pipes and FIFOs in a durable image: capacity, what is in it with the boundaries of packets (pipe(7),
 * O_DIRECT), and any number of objects on either end. What is in a pipe is looked at with tee(2) into a pipe
 * of ours, which takes nothing out.
 *
 * All objects of one pipe have its inode; the first of them has the content. When one end is outside the
 * checkpoint, it does not come back: the other sees end of file, or EPIPE, as when everybody there had
 * closed. A FIFO that has a path is opened again, and who else has it open is still there. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

enum pipe_flags {
    PIPE_HUNG_UP = 1 << 0, /* nobody had the other end any more */
    PIPE_DELETED = 1 << 1, /* FIFO without a path */
};

struct pipe_state {
    uint32_t capacity;
    uint32_t flags;
    uint32_t chunk_count; /* as many u32 lengths stand behind this, then the bytes, then the path */
    uint32_t byte_count;
    uint32_t path_length; /* FIFOs: with the NUL */
    uint32_t reserved;
};

#define PIPE_BYTES_MAX (64U << 20)

/* ---- capture ---- */

static bool is_reader(unsigned flags)
{
    return (flags & O_ACCMODE) != O_WRONLY;
}

static bool is_writer(unsigned flags)
{
    return (flags & O_ACCMODE) != O_RDONLY;
}

/* Reads all of our own copy, packet by packet: as many lengths as reads. */
static int read_chunks(int fd, size_t capacity, uint32_t **ret_lengths, uint32_t *ret_count, char **ret_bytes,
                       uint32_t *ret_length)
{
    _cleanup_free_ uint32_t *lengths = NULL;
    _cleanup_free_ char *bytes = malloc(capacity + 1);
    size_t count = 0;
    uint32_t length = 0;
    ssize_t n = 1;
    if (!bytes)
        return -ENOMEM;
    while (length < capacity && (n = read(fd, bytes + length, capacity - length)) > 0) {
        uint32_t *place = array_append(lengths, count);
        if (!place)
            return -ENOMEM;
        *place = (uint32_t)n;
        length += (uint32_t)n;
    }
    if (n < 0 && errno != EAGAIN)
        return -errno;
    *ret_lengths = TAKE_PTR(lengths);
    *ret_bytes = TAKE_PTR(bytes);
    *ret_count = (uint32_t)count;
    *ret_length = length;
    return 0;
}

static int add_content(struct object_capture *capture, struct pipe_state *state)
{
    _cleanup_close_ int source = is_reader(capture->sight->flags)
                                     ? fcntl(capture->cap, F_DUPFD_CLOEXEC, 0)
                                     : making_reopen(capture->cap, O_RDONLY | O_NONBLOCK);
    _cleanup_close_ int read_end = -EBADF, write_end = -EBADF;
    int ends[2], waiting = 0;
    /* A pipe of another user, of which we have the writing end only: its readers are outside. */
    if (source == -EACCES && !is_reader(capture->sight->flags))
        return 0;
    if (source < 0 || ioctl(source, FIONREAD, &waiting) < 0)
        return source < 0 ? source : -errno;
    if (waiting == 0)
        return 0;
    if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    read_end = ends[0];
    write_end = ends[1];
    /* Slots count, not bytes: as many as the original has, or a pipe full of small writes would not fit. */
    if (fcntl(write_end, F_SETPIPE_SZ, state->capacity) < 0)
        return -errno;
    ssize_t n = tee(source, write_end, INT32_MAX, SPLICE_F_NONBLOCK);
    if (n < 0 && errno != EAGAIN)
        return -errno;
    _cleanup_free_ uint32_t *lengths = NULL;
    _cleanup_free_ char *bytes = NULL;
    int r = read_chunks(read_end, (size_t)(n < 0 ? 0 : n), &lengths, &state->chunk_count, &bytes,
                        &state->byte_count);
    if (r == 0)
        r = state_add(capture, lengths, state->chunk_count * sizeof *lengths);
    return r == 0 ? state_add(capture, bytes, state->byte_count) : r;
}

static bool is_hung_up(native_cap_t cap, unsigned flags)
{
    struct pollfd poll_fd = {.fd = cap};
    short wanted = is_reader(flags) ? POLLHUP : POLLERR;
    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & wanted);
}

/* The content through an object that can read; for a pipe that has only writers inside it does not matter,
 * for nobody will ever read it. */
static int capture_ends(struct object_capture *capture, struct pipe_state *state,
                        struct reseat_error **ret_error)
{
    unsigned flags = capture->sight->flags;
    int capacity = fcntl(capture->cap, F_GETPIPE_SZ);
    state->capacity = capacity > 0 ? (uint32_t)capacity : 65536;
    state->flags |= is_hung_up(capture->cap, flags) ? PIPE_HUNG_UP : 0;
    int r = state_add(capture, state, sizeof *state);
    if (r == 0 && capture_is_first_of_inode(capture) && !capture->without_content)
        r = add_content(capture, state);
    /* Only its writers are inside, and it belongs to another user, whose pipe we may not open. */
    if (r == -EACCES || r == -EPERM)
        r = capture_degraded(capture, "we may not look at what is in the pipe: it comes back empty");
    return r < 0 ? error_errno(ret_error, r, "looking at what is in the pipe") : 0;
}

static int capture_pipe(struct object_capture *capture, struct reseat_error **ret_error)
{
    struct pipe_state state = {0};
    int r = capture_ends(capture, &state, ret_error);
    if (capture->state)
        memcpy(capture->state, &state, sizeof state);
    return r;
}

/* Behind the path of a FIFO. */
struct fifo_owner {
    uint32_t uid, gid;
};

static int capture_fifo(struct object_capture *capture, struct reseat_error **ret_error)
{
    struct pipe_state state = {0};
    struct stat stat;
    int r = capture_ends(capture, &state, ret_error);
    if (r < 0)
        return r;
    if (fstat(capture->cap, &stat) < 0)
        return -errno;
    bool is_deleted = stat.st_nlink == 0;
    size_t length = is_deleted ? link_length_of_name(capture->sight) : strlen(capture->sight->link);
    state.flags |= is_deleted ? PIPE_DELETED : 0;
    state.path_length = (uint32_t)length + 1;
    r = state_add(capture, capture->sight->link, length);
    if (r == 0)
        r = state_add(capture, "", 1);
    if (r == 0)
        r = state_add(capture, &(struct fifo_owner){stat.st_uid, stat.st_gid}, sizeof(struct fifo_owner));
    memcpy(capture->state, &state, sizeof state);
    return r;
}

/* ---- check ---- */

static struct pipe_state state_of(const struct object_view *view)
{
    struct pipe_state state;
    view_read(view, &state, sizeof state);
    return state;
}

static size_t bytes_offset(const struct pipe_state *state)
{
    return sizeof *state + state->chunk_count * sizeof(uint32_t);
}

static const char *path_of(const struct object_view *view)
{
    struct pipe_state state = state_of(view);
    return (const char *)view->state + bytes_offset(&state) + state.byte_count;
}

static int check_pipe(const struct object_view *view, struct reseat_error **ret_error)
{
    struct pipe_state state = state_of(view);
    if (state.capacity > PIPE_BYTES_MAX || state.byte_count > state.capacity ||
        state.chunk_count > state.byte_count || !view_has(view, sizeof state, view->length - sizeof state) ||
        !view_has(view, bytes_offset(&state), (uint64_t)state.byte_count + state.path_length))
        return view_bad(view, ret_error, "what is in the pipe is cut off");
    uint64_t sum = 0;
    for (size_t i = 0; i < state.chunk_count; i++) {
        uint32_t length;
        memcpy(&length, view->state + sizeof state + i * sizeof length, sizeof length);
        sum += length;
    }
    if (sum != state.byte_count)
        return view_bad(view, ret_error, "%u bytes in the pipe, %llu in its pieces", state.byte_count,
                        (unsigned long long)sum);
    return 0;
}

static int check_fifo(const struct object_view *view, struct reseat_error **ret_error)
{
    int r = check_pipe(view, ret_error);
    if (r < 0)
        return r;
    struct pipe_state state = state_of(view);
    if (!view_has_path(view, bytes_offset(&state) + state.byte_count, state.path_length))
        return view_bad(view, ret_error, "its path is none");
    return 0;
}

/* ---- judge ---- */

static bool has_end_inside(const struct object_view *view, bool (*is_end)(unsigned flags))
{
    for (object_id_t id = 0; (id = view_next_of_inode(view, id));)
        if (is_end(view->snapshot->objects[id - 1].status_flags))
            return true;
    return false;
}

static int judge_pipe(const struct object_view *view, const struct object_options *options,
                      enum object_fate *ret_fate, char **ret_sentence)
{
    struct pipe_state state = state_of(view);
    unsigned flags = view->row->status_flags;
    if ((is_reader(flags) && is_writer(flags)) || view_may_be_in_flight(view, options))
        return 0;
    if ((state.flags & PIPE_HUNG_UP) || has_end_inside(view, is_reader(flags) ? is_writer : is_reader))
        return 0;
    *ret_fate = OBJECT_DEGRADED;
    return describe_as(ret_sentence,
                       is_reader(flags)
                           ? "the writers are outside the checkpoint: after what is in the pipe comes its end"
                           : "the readers are outside the checkpoint: writing fails with EPIPE");
}

static int open_fifo(const char *path)
{
    _cleanup_close_ int place = place_open(path, 0);
    struct stat stat;
    if (place < 0 || fstat(place, &stat) < 0)
        return place < 0 ? place : -errno;
    if (!S_ISFIFO(stat.st_mode))
        return -ESTALE;
    return making_reopen(place, O_RDWR | O_NONBLOCK); /* does not wait for anybody */
}

static int judge_fifo(const struct object_view *view, const struct object_options *options,
                      enum object_fate *ret_fate, char **ret_sentence)
{
    struct stat stat;
    if (state_of(view).flags & PIPE_DELETED)
        return judge_pipe(view, options, ret_fate, ret_sentence);
    if (lstat(path_of(view), &stat) == 0 && S_ISFIFO(stat.st_mode))
        return 0;
    *ret_fate = OBJECT_LOST;
    return describe_as(ret_sentence, "there is no FIFO at its path any more");
}

/* ---- recreate ---- */

/* Writes the content, each packet by itself if the pipe was in packet mode for any of its writers. */
static int fill(const struct object_view *view, int write_end)
{
    struct pipe_state state = state_of(view);
    bool has_packets = false;
    for (object_id_t id = 0; (id = view_next_of_inode(view, id));)
        has_packets |= (view->snapshot->objects[id - 1].status_flags & O_DIRECT) != 0;
    const uint8_t *lengths = view->state + sizeof state, *bytes = view->state + bytes_offset(&state);
    if (fcntl(write_end, F_SETFL, O_NONBLOCK | (has_packets ? O_DIRECT : 0)) < 0)
        return -errno;
    for (size_t i = 0; i < state.chunk_count; i++) {
        uint32_t length;
        memcpy(&length, lengths + i * sizeof length, sizeof length);
        int r = fd_write_all(write_end, bytes, length);
        if (r < 0)
            return r;
        bytes += length;
    }
    return 0;
}

/* Set by open(2) and not by pipe(2), and seen by fcntl(2) F_GETFL; the C library's O_LARGEFILE is 0. */
#define KERNEL_LARGEFILE 0100000U

/* One more object on a pipe that we hold, with the flags of the row. */
static int put_end(struct object_making *making, object_id_t id, int any_end)
{
    unsigned flags = making->snapshot->objects[id - 1].status_flags;
    int cap = making_reopen(any_end, flags & (O_ACCMODE | O_NONBLOCK));
    if (cap < 0)
        return cap;
    making_put(making, id, cap);
    return making_set_flags(cap, flags); /* packet mode cannot be had by open(2) */
}

/* Opening an end can wait for the other: whoever calls this holds both. */
static int put_ends(struct object_making *making, const struct object_view *view, int any_end)
{
    int r = 0;
    for (object_id_t id = 0; r == 0 && (id = view_next_of_inode(view, id));)
        if (!making_has(making, id) && !object_is_unwanted(making->options, id))
            r = put_end(making, id, any_end);
    return r;
}

/* The two that pipe(2) made are the first of their access that were not opened. */
static int put_first_ends(struct object_making *making, const struct object_view *view, const int ends[2])
{
    bool is_used[2] = {false, false};
    int r = 0;
    for (object_id_t id = 0; r == 0 && (id = view_next_of_inode(view, id));) {
        unsigned flags = making->snapshot->objects[id - 1].status_flags;
        bool is_writing = (flags & O_ACCMODE) == O_WRONLY;
        if ((flags & O_ACCMODE) == O_RDWR || (flags & KERNEL_LARGEFILE) || is_used[is_writing] ||
            making_has(making, id) || object_is_unwanted(making->options, id))
            continue;
        int cap = fcntl(ends[is_writing], F_DUPFD_CLOEXEC, 0);
        if (cap < 0)
            return -errno;
        is_used[is_writing] = true;
        making_put(making, id, cap);
        r = making_set_flags(cap, flags);
    }
    return r;
}

static int make_content(struct object_making *making, const struct object_view *view, int write_end)
{
    struct object_view first = view_of(making->snapshot, view_next_of_inode(view, 0));
    struct pipe_state state = state_of(&first);
    int now = fcntl(write_end, F_GETPIPE_SZ);
    if (now >= 0 && (uint32_t)now != state.capacity && fcntl(write_end, F_SETPIPE_SZ, state.capacity) < 0)
        return -errno;
    return fill(&first, write_end);
}

/* The live ones among the objects of a pipe are on the pipe itself: the rest joins them. */
static native_cap_t given_end(struct object_making *making, const struct object_view *view)
{
    for (object_id_t id = 0; (id = view_next_of_inode(view, id));)
        if (making->set->caps[id] != NATIVE_CAP_INVALID)
            return making->set->caps[id];
    return NATIVE_CAP_INVALID;
}

/* A pipe from pipe(2), with its content, and the objects that are its two ends. */
static int make_pipe(struct object_making *making, const struct object_view *view)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) < 0)
        return -errno;
    _cleanup_close_ int read_end = ends[0], write_end = ends[1];
    int r = make_content(making, view, write_end);
    if (r == 0)
        r = put_first_ends(making, view, ends);
    return r == 0 ? put_ends(making, view, read_end) : r;
}

static int recreate_pipe(struct object_making *making, const struct object_view *view,
                         struct reseat_error **ret_error)
{
    native_cap_t given = given_end(making, view);
    int r = given == NATIVE_CAP_INVALID ? make_pipe(making, view) : put_ends(making, view, given);
    return r < 0 ? error_errno(ret_error, r, "making a pipe") : 0;
}

/* A FIFO that nobody will find: made where it was if the name is free, else in /tmp. */
static int make_nameless_fifo(const char *path)
{
    char other[] = "/tmp/.reseat-XXXXXX", place[64];
    const char *name;
    _cleanup_close_ int parent = place_open_parent(path, &name);
    if (parent >= 0 && mkfifoat(parent, name, 0600) == 0) {
        int fd = open_fifo(path);
        unlinkat(parent, name, 0);
        return fd;
    }
    if (!mkdtemp(other))
        return -errno;
    snprintf(place, sizeof place, "%s/fifo", other);
    int fd = mkfifo(place, 0600) < 0 ? -errno : open_fifo(place);
    unlink(place);
    rmdir(other);
    return fd;
}

/* As they were, if we may; the mode always is, without what sets ids. */
static int give_attributes(const struct object_view *view, int fd)
{
    struct pipe_state state = state_of(view);
    size_t place = bytes_offset(&state) + state.byte_count + state.path_length;
    struct fifo_owner owner;
    if (view_has(view, place, sizeof owner)) {
        memcpy(&owner, view->state + place, sizeof owner);
        (void)!fchown(fd, owner.uid, owner.gid);
    }
    return fchmod(fd, view->row->mode & 01777) < 0 ? -errno : 0;
}

static int recreate_fifo(struct object_making *making, const struct object_view *view,
                         struct reseat_error **ret_error)
{
    bool is_deleted = state_of(view).flags & PIPE_DELETED;
    native_cap_t given = given_end(making, view);
    _cleanup_close_ int fd = -EBADF;
    int r = 0;
    if (given == NATIVE_CAP_INVALID) {
        int waiting = 0;
        fd = is_deleted ? make_nameless_fifo(path_of(view)) : open_fifo(path_of(view));
        if (fd < 0)
            return error_errno(ret_error, fd, "opening FIFO %s again", path_of(view));
        if (is_deleted)
            r = give_attributes(view, fd);
        /* Somebody else may have kept it open, and what was in it is still there. */
        if (r == 0 && ioctl(fd, FIONREAD, &waiting) == 0 && waiting == 0)
            r = make_content(making, view, fd);
        given = fd;
    }
    if (r == 0)
        r = put_ends(making, view, given);
    return r < 0 ? error_errno(ret_error, r, "opening FIFO %s again", path_of(view)) : 0;
}

const struct object_durable pipe_durable = {
    .state_bytes = sizeof(struct pipe_state),
    .capture = capture_pipe,
    .check = check_pipe,
    .judge = judge_pipe,
    .recreate = recreate_pipe,
};
const struct object_durable fifo_durable = {
    .state_bytes = sizeof(struct pipe_state),
    .capture = capture_fifo,
    .check = check_fifo,
    .judge = judge_fifo,
    .recreate = recreate_fifo,
};
