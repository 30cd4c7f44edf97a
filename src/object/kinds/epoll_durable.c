/* epoll(7) in a durable image: its interest set, with the object behind each number.
 *
 * The kernel keys an interest by the file and the number under which it was added, and a number may have been
 * closed or reused since while the object lives on elsewhere; kcmp(2) KCMP_EPOLL_TFD says which object it is.
 * Interests whose number still holds their object are added inside the restored process (`interests` of the
 * snapshot), because a signalfd listens to the signals of whoever adds it. The others are added here
 * (at_selector.c). */
#include "object/at_selector.h"
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <sys/epoll.h>

struct epoll_state {
    uint32_t interest_count;
    uint32_t reserved;
};

struct epoll_interest {
    uint32_t selector; /* the number, whatever it holds now */
    uint32_t object;
    uint32_t events;
    uint32_t reserved;
    uint64_t data;
};

#define SELECTOR_LIMIT (1U << 20)

/* ---- capture ---- */

/* How often the number has come already: two interests may have the same one. */
static unsigned count_before(const struct snapshot *found, size_t index)
{
    unsigned count = 0;
    for (size_t i = 0; i < index; i++)
        count += found->interests[i].selector == found->interests[index].selector;
    return count;
}

static int add_interest(struct object_capture *capture, const struct snapshot *found, size_t index,
                        struct epoll_state *state, size_t *missing)
{
    const struct snapshot_interest *row = &found->interests[index];
    struct epoll_interest interest = {
        .selector = row->selector,
        .object = capture_find_watched(capture, row->selector, count_before(found, index)),
        .events = row->events,
        .data = row->data,
    };
    if (!interest.object) {
        (*missing)++;
        return 0;
    }
    state->interest_count++;
    return state_add(capture, &interest, sizeof interest);
}

/* What was noted while a process that runs on stood still; the set may have changed since. */
static int noted_interests(const struct object_capture *capture, struct snapshot *found)
{
    const struct snapshot *snapshot = capture->snapshot;
    for (size_t i = 0; i < snapshot->interests_count; i++) {
        if (snapshot->interests[i].epoll_selector != capture->sight->selector)
            continue;
        struct snapshot_interest *row = array_append(found->interests, found->interests_count);
        if (!row)
            return -ENOMEM;
        *row = snapshot->interests[i];
    }
    return 0;
}

static int capture_epoll(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct epoll_state state = {0};
    _cleanup_(snapshot_free) struct snapshot found = {0};
    size_t missing = 0;
    int r = noted_interests(capture, &found);
    if (r == 0 && found.interests_count == 0)
        r = object_parse_interests(capture->sight->info, (int)capture->sight->selector, &found);
    if (r == 0)
        r = state_add(capture, &state, sizeof state);
    for (size_t i = 0; r == 0 && i < found.interests_count; i++)
        r = add_interest(capture, &found, i, &state, &missing);
    if (r == 0)
        memcpy(capture->state, &state, sizeof state);
    if (r == 0 && missing)
        r = capture_degraded(capture,
                             "%zu of the %zu descriptors that it watches were closed by the process, "
                             "but somebody else still holds the objects: they will not be watched",
                             missing, found.interests_count);
    return r;
}

/* ---- check ---- */

static struct epoll_interest interest_of(const struct object_view *view, size_t index)
{
    struct epoll_interest interest;
    memcpy(&interest, view->state + sizeof(struct epoll_state) + index * sizeof interest, sizeof interest);
    return interest;
}

static int check_epoll(const struct object_view *view, struct reseat_error **ret_error)
{
    struct epoll_state state;
    view_read(view, &state, sizeof state);
    if (!view_has(view, sizeof state, (uint64_t)state.interest_count * sizeof(struct epoll_interest)))
        return view_bad(view, ret_error, "%u interests are cut off", state.interest_count);
    for (size_t i = 0; i < state.interest_count; i++) {
        struct epoll_interest interest = interest_of(view, i);
        if (interest.selector >= SELECTOR_LIMIT || interest.object == 0 ||
            interest.object > view->snapshot->objects_count || interest.object == view_id(view))
            return view_bad(view, ret_error, "interest %zu is in number %u, object %u", i, interest.selector,
                            interest.object);
    }
    return 0;
}

/* ---- recreate ---- */

static int recreate_epoll(struct object_making *making, const struct object_view *view,
                          struct reseat_error **ret_error)
{
    (void)ret_error;
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0)
        return -errno;
    making_put(making, view_id(view), fd);
    return making_set_flags(fd, view->row->status_flags);
}

static int add_at_number(int fd, int epoll, const void *userdata)
{
    const struct epoll_interest *interest = userdata;
    struct epoll_event event = {.events = interest->events, .data.u64 = interest->data};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static bool holds(const struct snapshot *snapshot, selector_t selector, object_id_t object)
{
    for (size_t i = 0; i < snapshot->capabilities_count; i++)
        if (snapshot->capabilities[i].selector == selector)
            return snapshot->capabilities[i].object == object;
    return false;
}

static int note_inside(struct object_making *making, selector_t epoll, const struct epoll_interest *interest)
{
    struct snapshot *snapshot = making->snapshot;
    struct snapshot_interest *row = array_append(snapshot->interests, snapshot->interests_count);
    if (!row)
        return -ENOMEM;
    *row = (struct snapshot_interest){.epoll_selector = epoll,
                                      .selector = interest->selector,
                                      .events = interest->events,
                                      .data = interest->data,
                                      .action = SNAPSHOT_INTEREST_ADD};
    return 0;
}

static int complete_epoll(struct object_making *making, const struct object_view *view, native_cap_t cap,
                          struct reseat_error **ret_error)
{
    struct epoll_state state;
    selector_t own = view_selector(view);
    view_read(view, &state, sizeof state);
    for (size_t i = 0; i < state.interest_count; i++) {
        struct epoll_interest interest = interest_of(view, i);
        bool is_inside =
            own != NATIVE_SELECTOR_END && holds(view->snapshot, interest.selector, interest.object);
        native_cap_t watched = making->set->caps[interest.object];
        if (making_is_lost(making, interest.object))
            continue;
        int r = 0;
        if (is_inside)
            r = note_inside(making, own, &interest);
        else if (watched != NATIVE_CAP_INVALID)
            r = at_selector(watched, interest.selector, cap, add_at_number, &interest);
        if (r < 0 && r != -EPERM) /* what cannot be watched has become something else */
            return error_errno(ret_error, r, "watching number %u again", interest.selector);
    }
    return 0;
}

const struct object_durable epoll_durable = {
    .state_bytes = sizeof(struct epoll_state),
    .comes_last = true,
    .capture = capture_epoll,
    .check = check_epoll,
    .recreate = recreate_epoll,
    .complete = complete_epoll,
};
