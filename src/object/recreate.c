/* Objects of a snapshot made anew, in our own process, each once.
 *
 * First everything is judged; what is not allowed ends it before anything is made. Then the objects are made
 * in the order of their ids; what belongs together is made by the first of it. When all are there, each is
 * completed: queues are filled (descriptors in flight may be any object, also one that came later, so no
 * order could do without this second pass), locks are taken. Whose other end nobody has inside loses it at
 * last, when what was held for the making is closed: then it sees what it would have seen of a peer that
 * died. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>

/* ---- what kinds call ---- */

void making_put(struct object_making *making, object_id_t object, native_cap_t cap)
{
    base_close(&making->set->caps[object]);
    making->set->caps[object] = cap;
    making->states[object] = MAKING_MADE;
}

bool making_has(const struct object_making *making, object_id_t object)
{
    return making->states[object] != MAKING_NOTHING;
}

bool making_is_lost(const struct object_making *making, object_id_t object)
{
    return making->states[object] == MAKING_LOST;
}

int making_hold(struct object_making *making, native_cap_t cap)
{
    native_cap_t *place = cap < 0 ? NULL : array_append(making->held, making->held_count);
    if (!place) {
        base_close(&cap);
        return cap < 0 ? -EBADF : -ENOMEM;
    }
    *place = cap;
    return 0;
}

int making_reopen(native_cap_t cap, unsigned flags)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", cap);
    int fd = open(path, (int)(flags | O_CLOEXEC | O_NOCTTY));
    return fd < 0 ? -errno : fd;
}

int making_set_flags(native_cap_t cap, unsigned flags)
{
    int now = fcntl(cap, F_GETFL);
    unsigned settable = O_NONBLOCK | O_APPEND | O_DIRECT | O_NOATIME;
    int wanted = (int)(((unsigned)now & ~settable) | (flags & settable));
    if (now < 0 || (now != wanted && fcntl(cap, F_SETFL, wanted) < 0))
        return -errno;
    return 0;
}

/* ---- the set ---- */

static void making_free(struct object_making *making)
{
    deputy_end(&making->deputy);
    for (size_t i = 0; i < making->held_count; i++)
        base_close(&making->held[i]);
    free(making->held);
    free(making->states);
    free(making->partners);
    free(making);
}

static native_cap_t *new_caps(size_t count)
{
    native_cap_t *caps = malloc(count * sizeof *caps);
    for (size_t i = 0; caps && i < count; i++)
        caps[i] = NATIVE_CAP_INVALID;
    return caps;
}

static struct object_making *making_new(struct snapshot *snapshot, const struct object_options *options,
                                        struct object_set *set)
{
    size_t count = snapshot->objects_count + 1;
    struct object_making *making = calloc(1, sizeof *making);
    if (!making)
        return NULL;
    *making = (struct object_making){
        .snapshot = snapshot,
        .options = options,
        .set = set,
        .states = calloc(count, 1),
        .partners = new_caps(count),
    };
    set->caps = new_caps(count);
    set->count = set->caps ? count : 0;
    if (making->states && making->partners && set->caps)
        return making;
    making_free(making);
    return NULL;
}

void object_set_end(struct object_set *set)
{
    for (size_t i = 0; i < set->count; i++)
        base_close(&set->caps[i]);
    free(set->caps);
    *set = (struct object_set){0};
}

/* Every operation on it says EBADF, as it would on a closed selector, but the number stays taken. */
static int make_placeholder(struct object_making *making, object_id_t object)
{
    int fd = open("/dev/null", O_PATH | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    making_put(making, object, fd);
    making->states[object] = MAKING_LOST;
    return 0;
}

/* ---- the passes ---- */

/* The first capability that would come back with less than the options allow. */
static int check_allowed(const struct snapshot *snapshot, const struct object_options *options,
                         struct object_verdicts *ret_verdicts, struct reseat_error **ret_error)
{
    int r = object_judge_cold(snapshot, options, ret_verdicts, ret_error);
    for (size_t i = 0; r == 0 && i < ret_verdicts->count; i++) {
        const struct object_verdict *verdict = &ret_verdicts->items[i];
        bool is_allowed = verdict->fate < OBJECT_DEGRADED || options->allows_lost ||
                          (verdict->fate == OBJECT_DEGRADED && options->allows_degraded);
        if (!is_allowed)
            r = error_set(ret_error, -EREMOTEIO, "%s", verdict->sentence);
    }
    return r;
}

static int take_given(struct object_making *making, struct reseat_error **ret_error)
{
    const struct object_options *options = making->options;
    for (size_t i = 0; i < options->given_count; i++) {
        object_id_t id = options->given[i];
        native_cap_t cap;
        if (id == 0 || id >= making->set->count)
            return error_set(ret_error, -EINVAL, "there is no object %u to be taken over", id);
        struct object_view view = view_of(making->snapshot, id);
        if (object_is_unwanted(options, id) || !object_is_given(options, &view))
            continue;
        int r = options->take(options->take_userdata, id, &cap, ret_error);
        if (r < 0)
            return error_prefix(ret_error, r, "taking over object %u (%s, %s)", id, view_kind_name(&view),
                                view_name(&view));
        making_put(making, id, cap);
        making->states[id] = MAKING_GIVEN;
    }
    return 0;
}

static int make_object(struct object_making *making, object_id_t id, enum object_fate fate,
                       struct reseat_error **ret_error)
{
    struct object_view view = view_of(making->snapshot, id);
    if (making_has(making, id) || object_is_unwanted(making->options, id))
        return 0;
    if (fate == OBJECT_LOST || !view.kind || !view.kind->durable || !view.kind->durable->recreate) {
        int r = make_placeholder(making, id);
        return r < 0 ? error_errno(ret_error, r, "making a placeholder for object %u", id) : 0;
    }
    int r = view.kind->durable->recreate(making, &view, ret_error);
    if (r < 0 && ret_error && !*ret_error)
        error_errno(ret_error, r, "making it");
    return r < 0
               ? error_prefix(ret_error, r, "object %u (%s, %s)", id, view_kind_name(&view), view_name(&view))
               : 0;
}

/* Pass 2 or 3 over one object. */
static int complete_object(struct object_making *making, object_id_t id, bool is_last,
                           struct reseat_error **ret_error)
{
    struct object_view view = view_of(making->snapshot, id);
    if (making->states[id] != MAKING_MADE)
        return 0;
    int (*complete)(struct object_making *, const struct object_view *, native_cap_t,
                    struct reseat_error **) =
        is_last ? view.kind->durable->finish : view.kind->durable->complete;
    int r = complete ? complete(making, &view, making->set->caps[id], ret_error) : 0;
    if (r < 0 && ret_error && !*ret_error)
        error_errno(ret_error, r, "giving it its state");
    return r < 0
               ? error_prefix(ret_error, r, "object %u (%s, %s)", id, view_kind_name(&view), view_name(&view))
               : 0;
}

/* O_ASYNC is set from inside: the kernel notes the number of the descriptor through which it is set. */
static int note_asynchronous(struct object_making *making, struct reseat_error **ret_error)
{
    struct snapshot *snapshot = making->snapshot;
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        unsigned flags = snapshot->objects[row->object - 1].status_flags;
        if (!(flags & O_ASYNC) || making->states[row->object] != MAKING_MADE)
            continue;
        struct snapshot_position *position = array_append(snapshot->positions, snapshot->positions_count);
        if (!position)
            return error_errno(ret_error, -ENOMEM, "noting selector %u", row->selector);
        *position = (struct snapshot_position){.selector = row->selector,
                                               .status_flags = flags & ~(unsigned)O_ACCMODE,
                                               .offset = -1};
    }
    return 0;
}

static int make_all(struct object_making *making, const enum object_fate *fates,
                    struct reseat_error **ret_error)
{
    /* Rows of these two tables that were noted in a stop went into the states: now they say what is to be
     * done inside. */
    making->snapshot->positions_count = making->snapshot->interests_count = 0;
    int r = take_given(making, ret_error);
    object_id_t count = (object_id_t)making->set->count;
    for (object_id_t id = 1; r == 0 && id < count; id++)
        r = make_object(making, id, fates[id], ret_error);
    for (object_id_t id = 1; r == 0 && id < count; id++)
        r = complete_object(making, id, false, ret_error);
    for (object_id_t id = 1; r == 0 && id < count; id++)
        r = complete_object(making, id, true, ret_error);
    return r == 0 ? note_asynchronous(making, ret_error) : r;
}

/* What is of no selector has a verdict only if there is something to say. */
static void sort_fates(const struct snapshot *snapshot, const struct object_verdicts *verdicts,
                       enum object_fate *fates)
{
    for (size_t i = 0; i < snapshot->objects_count; i++)
        fates[i + 1] = OBJECT_RECREATED;
    for (size_t i = 0; i < verdicts->count; i++)
        fates[verdicts->items[i].object] = verdicts->items[i].fate;
}

int object_recreate(struct snapshot *snapshot, const struct object_options *options,
                    struct object_set *ret_set, struct reseat_error **ret_error)
{
    static const struct object_options no_options;
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    options = options ? options : &no_options;
    int r = check_allowed(snapshot, options, &verdicts, ret_error);
    if (r < 0)
        return r;
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_free_ enum object_fate *fates = calloc(snapshot->objects_count + 1, sizeof *fates);
    struct object_making *making = fates ? making_new(snapshot, options, &set) : NULL;
    if (!making)
        return error_errno(ret_error, -ENOMEM, "making %zu objects", snapshot->objects_count);
    sort_fates(snapshot, &verdicts, fates);
    descriptor_limit_raise(); /* each takes one of ours until it is put where it belongs */
    r = make_all(making, fates, ret_error);
    making_free(making);
    if (r < 0)
        return r;
    *ret_set = TAKE_GENERIC(set, (struct object_set){0});
    return 0;
}

int object_recreate_late(struct object_set *set, const struct snapshot *snapshot, pid_t pid,
                         struct reseat_error **ret_error)
{
    for (object_id_t id = 1; id < set->count; id++) {
        struct object_view view = view_of(snapshot, id);
        if (set->caps[id] != NATIVE_CAP_INVALID || !view.kind || !view.kind->durable ||
            !view.kind->durable->late)
            continue;
        int r = view.kind->durable->late(&view, pid, &set->caps[id], ret_error);
        if (r < 0)
            return error_prefix(ret_error, r, "object %u (%s)", id, view_kind_name(&view));
    }
    return 0;
}
