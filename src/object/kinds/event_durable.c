/* eventfd(2), timerfd_create(2) and signalfd(2) in a durable image. All that there is to them stands in
 * fdinfo; a timer's expirations that have not been read are put back by TFD_IOC_SET_TICKS (Linux 3.17,
 * kernels built for checkpoints).
 *
 * A timer goes on with what was left of it, unless it was set to an absolute time of a clock that still runs:
 * that of the wall always does, the others within one boot. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

#ifndef TFD_IOC_SET_TICKS
#define TFD_IOC_SET_TICKS _IOW('T', 0, uint64_t)
#endif

#define NANOSECONDS 1000000000

static unsigned nonblock_of(const struct object_view *view)
{
    return view->row->status_flags & O_NONBLOCK;
}

/* ---- eventfd ---- */

struct eventfd_state {
    uint64_t count;
    uint32_t is_semaphore;
    uint32_t reserved;
};

static int capture_eventfd(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct eventfd_state state = {
        .count = status_number(capture->sight->info, "eventfd-count", 16),
        .is_semaphore = status_number(capture->sight->info, "eventfd-semaphore", 10) != 0,
    };
    return state_add(capture, &state, sizeof state);
}

static int recreate_eventfd(struct object_making *making, const struct object_view *view,
                            struct reseat_error **ret_error)
{
    (void)ret_error;
    struct eventfd_state state;
    view_read(view, &state, sizeof state);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | (state.is_semaphore ? EFD_SEMAPHORE : 0));
    if (fd < 0)
        return -errno;
    making_put(making, view_id(view), fd);
    if (state.count == UINT64_MAX) /* an overflow by the kernel itself; a write can do one less */
        state.count--;
    if (state.count && write(fd, &state.count, sizeof state.count) != sizeof state.count)
        return -errno;
    return making_set_flags(fd, view->row->status_flags);
}

const struct object_durable eventfd_durable = {
    .state_bytes = sizeof(struct eventfd_state),
    .capture = capture_eventfd,
    .recreate = recreate_eventfd,
};

/* ---- timerfd ---- */

struct timerfd_state {
    uint32_t clock;
    uint32_t flags; /* TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET */
    uint64_t ticks;
    int64_t remaining_ns; /* 0: not armed */
    int64_t interval_ns;
    int64_t clock_ns; /* what the clock showed at the capture */
};

static int64_t parse_ns(const char *info, const char *field)
{
    const char *text = status_find(info, field);
    long long seconds = 0, nanoseconds = 0;
    if (!text || sscanf(text, "(%lld, %lld)", &seconds, &nanoseconds) != 2)
        return 0;
    return seconds > INT32_MAX ? INT64_MAX / 2 : seconds * NANOSECONDS + nanoseconds;
}

static int64_t clock_ns(uint32_t clock)
{
    struct timespec now;
    return clock_gettime((clockid_t)clock, &now) < 0 ? 0 : now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static int capture_timerfd(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    const char *info = capture->sight->info;
    struct timerfd_state state = {
        .clock = (uint32_t)status_number(info, "clockid", 10),
        .flags = (uint32_t)status_number(info, "settime flags", 8),
        .ticks = status_number(info, "ticks", 10),
        .remaining_ns = parse_ns(info, "it_value"),
        .interval_ns = parse_ns(info, "it_interval"),
    };
    /* One that has expired and was not read yet stands still, and goes on with its interval when it is read.
     */
    if (!state.remaining_ns && state.ticks)
        state.remaining_ns = state.interval_ns;
    state.clock_ns = clock_ns(state.clock);
    return state_add(capture, &state, sizeof state);
}

static int check_timerfd(const struct object_view *view, struct reseat_error **ret_error)
{
    struct timerfd_state state;
    view_read(view, &state, sizeof state);
    if (state.remaining_ns < 0 || state.interval_ns < 0 || state.clock_ns < 0 ||
        state.remaining_ns > INT64_MAX - state.clock_ns)
        return view_bad(view, ret_error, "a negative time");
    return 0;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = ns / NANOSECONDS, .tv_nsec = ns % NANOSECONDS};
}

static int arm(const struct object_view *view, const struct timerfd_state *state, int fd)
{
    bool is_wall = state->clock == CLOCK_REALTIME || state->clock == CLOCK_REALTIME_ALARM;
    bool is_absolute = (state->flags & TFD_TIMER_ABSTIME) &&
                       (is_wall || boot_id_is_current(view->snapshot->process.boot_id));
    int64_t value = state->remaining_ns + (is_absolute ? state->clock_ns : 0);
    int flags = is_absolute ? (int)state->flags & (TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) : 0;
    struct itimerspec spec = {timespec_of(state->interval_ns), timespec_of(value)};
    return timerfd_settime(fd, flags, &spec, NULL) < 0 ? -errno : 0;
}

static int recreate_timerfd(struct object_making *making, const struct object_view *view,
                            struct reseat_error **ret_error)
{
    struct timerfd_state state;
    view_read(view, &state, sizeof state);
    int fd = timerfd_create((int)state.clock, TFD_CLOEXEC | (nonblock_of(view) ? TFD_NONBLOCK : 0));
    if (fd < 0)
        return -errno;
    making_put(making, view_id(view), fd);
    int r = state.remaining_ns ? arm(view, &state, fd) : 0;
    if (r == 0 && state.ticks && ioctl(fd, TFD_IOC_SET_TICKS, &state.ticks) < 0)
        r = errno == ENOTTY ? error_set(ret_error, -ENOTTY,
                                        "the kernel was built without CONFIG_CHECKPOINT_RESTORE: expirations "
                                        "of a timer cannot be put back")
                            : -errno;
    return r;
}

const struct object_durable timerfd_durable = {
    .state_bytes = sizeof(struct timerfd_state),
    .capture = capture_timerfd,
    .check = check_timerfd,
    .recreate = recreate_timerfd,
};

/* ---- signalfd ---- */

struct signalfd_state {
    uint64_t mask;
};

static int capture_signalfd(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct signalfd_state state = {status_number(capture->sight->info, "sigmask", 16)};
    return state_add(capture, &state, sizeof state);
}

/* It reads the signals of whoever reads it: nothing ties it to us. */
static int recreate_signalfd(struct object_making *making, const struct object_view *view,
                             struct reseat_error **ret_error)
{
    (void)ret_error;
    struct signalfd_state state;
    view_read(view, &state, sizeof state);
    long fd = syscall(SYS_signalfd4, -1, &state.mask, sizeof state.mask, O_CLOEXEC | nonblock_of(view));
    if (fd < 0)
        return -errno;
    making_put(making, view_id(view), (int)fd);
    return 0;
}

const struct object_durable signalfd_durable = {
    .state_bytes = sizeof(struct signalfd_state),
    .capture = capture_signalfd,
    .recreate = recreate_signalfd,
};
