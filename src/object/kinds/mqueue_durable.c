/* POSIX message queues in a durable image: they live in the kernel by themselves, with what is in them, until
 * the machine is switched off, and are opened again by their name (mq_overview(7)). One that has no name, or
 * is not there any more, is made anew, empty: what was in it cannot be looked at without taking it out. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sys/stat.h>
#include <sys/syscall.h>

enum mqueue_flags { MQUEUE_REMOVED = 1 << 0 };

struct mqueue_state {
    uint32_t flags;
    uint32_t mode;
    uint64_t most_messages, message_bytes, waiting;
    uint32_t name_length; /* of the text behind this, with its NUL; without the slash */
    uint32_t reserved;
};

/* The kernel forgets a notification with the process that asked for it. */
static bool notifies(const struct object_capture *capture)
{
    char text[160];
    _cleanup_close_ int fd = making_reopen(capture->cap, O_RDONLY);
    ssize_t length = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
    text[length < 0 ? 0 : length] = '\0';
    const char *notified = strstr(text, "NOTIFY_PID:");
    return notified && strtol(notified + strlen("NOTIFY_PID:"), NULL, 10) == capture_target(capture);
}

static int capture_mqueue(struct object_capture *capture, struct reseat_error **ret_error)
{
    const char *name = strrchr(capture->sight->link, '/') + 1;
    struct mq_attr attributes;
    struct stat stat;
    /* The number of a queue's descriptor is a descriptor. */
    if (fstat(capture->cap, &stat) < 0 || mq_getattr(capture->cap, &attributes) < 0)
        return error_errno(ret_error, -errno, "looking at a message queue");
    struct mqueue_state state = {.flags = stat.st_nlink == 0 ? MQUEUE_REMOVED : 0,
                                 .mode = stat.st_mode & 0777,
                                 .most_messages = (uint64_t)attributes.mq_maxmsg,
                                 .message_bytes = (uint64_t)attributes.mq_msgsize,
                                 .waiting = (uint64_t)attributes.mq_curmsgs};
    size_t length = strlen(name);
    if (state.flags & MQUEUE_REMOVED)
        length -= strlen(capture->sight->link) - link_length_of_name(capture->sight);
    state.name_length = (uint32_t)length + 1;
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = state_add(capture, name, length);
    if (r == 0)
        r = state_add(capture, "", 1);
    if (r == 0 && notifies(capture))
        r = capture_degraded(capture, "it is to notify the process (mq_notify), which the kernel forgets");
    return r;
}

static struct mqueue_state state_of(const struct object_view *view)
{
    struct mqueue_state state;
    view_read(view, &state, sizeof state);
    return state;
}

static const char *name_of(const struct object_view *view)
{
    return (const char *)view->state + sizeof(struct mqueue_state);
}

static int check_mqueue(const struct object_view *view, struct reseat_error **ret_error)
{
    struct mqueue_state state = state_of(view);
    if (state.name_length < 2 || state.name_length > 256 ||
        !view_has_text(view, sizeof state, state.name_length) || strchr(name_of(view), '/'))
        return view_bad(view, ret_error, "its name is none");
    return 0;
}

static int open_queue(const struct object_view *view)
{
    unsigned flags = view->row->status_flags & (O_ACCMODE | O_NONBLOCK);
    long fd = syscall(SYS_mq_open, name_of(view), flags | O_CLOEXEC, 0, NULL);
    return fd < 0 ? -errno : (int)fd;
}

static int judge_mqueue(const struct object_view *view, const struct object_options *options,
                        enum object_fate *ret_fate, char **ret_sentence)
{
    (void)options;
    struct mqueue_state state = state_of(view);
    _cleanup_close_ int fd = state.flags & MQUEUE_REMOVED ? -ENOENT : open_queue(view);
    if (fd >= 0 || (fd == -ENOENT && state.waiting == 0))
        return 0;
    *ret_fate = fd == -ENOENT ? OBJECT_DEGRADED : OBJECT_LOST;
    if (fd == -ENOENT)
        return describe_as(ret_sentence, "the queue is made anew, and the %llu messages in it are lost",
                           (unsigned long long)state.waiting);
    return describe_as(ret_sentence, "the queue cannot be opened again: %s", strerror(-fd));
}

/* The first object of the queue makes it; a name that was removed is removed again at the end. */
static int make_queue(const struct object_view *view)
{
    struct mqueue_state state = state_of(view);
    struct mq_attr attributes = {.mq_maxmsg = (long)state.most_messages,
                                 .mq_msgsize = (long)state.message_bytes};
    unsigned flags = view->row->status_flags & (O_ACCMODE | O_NONBLOCK);
    mode_t mask = umask(0);
    long fd =
        syscall(SYS_mq_open, name_of(view), flags | O_CLOEXEC | O_CREAT | O_EXCL, state.mode, &attributes);
    int r = fd < 0 ? -errno : (int)fd;
    umask(mask);
    return r;
}

static int recreate_mqueue(struct object_making *making, const struct object_view *view,
                           struct reseat_error **ret_error)
{
    bool is_first = view_next_of_inode(view, 0) == view_id(view);
    bool is_removed = state_of(view).flags & MQUEUE_REMOVED;
    int fd = is_first && is_removed ? make_queue(view) : open_queue(view);
    if (fd == -ENOENT)
        fd = make_queue(view);
    if (fd < 0)
        return error_errno(ret_error, fd, "making message queue /%s again", name_of(view));
    making_put(making, view_id(view), fd);
    return 0;
}

static int finish_mqueue(struct object_making *making, const struct object_view *view, native_cap_t cap,
                         struct reseat_error **ret_error)
{
    (void)making, (void)cap, (void)ret_error;
    if (state_of(view).flags & MQUEUE_REMOVED)
        syscall(SYS_mq_unlink, name_of(view));
    return 0;
}

const struct object_durable mqueue_durable = {
    .state_bytes = sizeof(struct mqueue_state),
    .capture = capture_mqueue,
    .check = check_mqueue,
    .judge = judge_mqueue,
    .recreate = recreate_mqueue,
    .finish = finish_mqueue,
};
