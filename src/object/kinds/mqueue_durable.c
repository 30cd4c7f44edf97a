/* POSIX message queues in a durable image: they live in the kernel by themselves, with what is in them, until
 * the machine is switched off; they are opened again by their name (mq_overview(7)). A queue that is not
 * there any more is lost: what was in it cannot be looked at without taking it out. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

struct mqueue_state {
    uint32_t name_length; /* of the text behind this, with its NUL; without the slash */
    uint32_t reserved;
};

static int capture_mqueue(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    const char *name = strrchr(capture->sight->link, '/') + 1;
    struct mqueue_state state = {.name_length = (uint32_t)strlen(name) + 1};
    struct stat stat;
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = state_add(capture, name, state.name_length);
    if (r == 0 && (fstat(capture->cap, &stat) < 0 || stat.st_nlink == 0))
        r = capture_lost(capture, "the queue has no name any more");
    return r;
}

static const char *name_of(const struct object_view *view)
{
    return (const char *)view->state + sizeof(struct mqueue_state);
}

static int check_mqueue(const struct object_view *view, struct reseat_error **ret_error)
{
    struct mqueue_state state;
    view_read(view, &state, sizeof state);
    if (state.name_length < 2 || state.name_length > 256 ||
        !view_has(view, sizeof state, state.name_length) || name_of(view)[state.name_length - 1] != '\0' ||
        strchr(name_of(view), '/'))
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
    _cleanup_close_ int fd = open_queue(view);
    if (fd >= 0)
        return 0;
    *ret_fate = OBJECT_LOST;
    return describe_as(ret_sentence, "the queue cannot be opened again: %s", strerror(-fd));
}

static int recreate_mqueue(struct object_making *making, const struct object_view *view,
                           struct reseat_error **ret_error)
{
    (void)ret_error;
    int fd = open_queue(view);
    if (fd < 0)
        return fd;
    making_put(making, view_id(view), fd);
    return 0;
}

const struct object_durable mqueue_durable = {
    .state_bytes = sizeof(struct mqueue_state),
    .capture = capture_mqueue,
    .check = check_mqueue,
    .judge = judge_mqueue,
    .recreate = recreate_mqueue,
};
