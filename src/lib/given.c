/* A twin that still lives has every object of the checkpoint at the very selectors that the image names, and
 * the objects that are only mapped where they were mapped: nobody runs in it who could change that. So what
 * is taken is found by the image, and got by request (native_pd/native_pd.h) or through /proc/PID/map_files.
 *
 * The twin's memory is not taken. What an object has to do with it would not go on in the process that is
 * made from the image, exactly as it would not in a forked copy: the same obstacles are looked for. Nor does
 * a ring: the kernel maps it where it likes (io_uring_get_unmapped_area() refuses every address), and the
 * process knows it at one. */
#include "given.h"

#include "native_pd/native_pd.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

void given_end(struct given *given)
{
    native_pd_free(&given->pd);
    free(given->objects);
    free(given->places);
    obstacles_free(&given->obstacles);
    *given = (struct given){0};
}

/* ---- what can be taken ---- */

static bool is_ring(const struct snapshot *snapshot, uint32_t object)
{
    return strcmp((const char *)snapshot->blobs + snapshot->objects[object - 1].kind_offset, "io_uring") == 0;
}

/* What is in flight, and not here, comes along in its socket. */
static void find_places(struct given *given)
{
    const struct snapshot *snapshot = given->snapshot;
    for (size_t i = snapshot->capabilities_count; i-- > 0;) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        if (!is_ring(snapshot, row->object))
            given->places[row->object].capability = row;
    }
    for (size_t i = 0; i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *row = &snapshot->vmas[i];
        if (row->kind == SNAPSHOT_VMA_OBJECT && row->object)
            given->places[row->object].mapping = row;
    }
}

static uint32_t object_at(const struct snapshot *snapshot, int selector)
{
    for (size_t i = 0; selector >= 0 && i < snapshot->capabilities_count; i++)
        if (snapshot->capabilities[i].selector == (uint32_t)selector)
            return snapshot->capabilities[i].object;
    return 0; /* about the process, not a capability: cold_check() looks at the one to be made */
}

/* What is degraded is taken nevertheless, and said; what would be of no use is for the image to judge. */
static int heed_obstacles(struct given *given, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = given->snapshot;
    _cleanup_(obstacles_free) struct obstacles found = {0};
    int r =
        process_find_obstacles((pid_t)snapshot->process.twin, SNAPSHOT_FORM_COPY, true, &found, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < found.count; i++) {
        uint32_t object = object_at(snapshot, found.items[i].selector);
        if (object && found.items[i].severity >= SEVERITY_LOST)
            given->places[object] = (struct given_place){0};
    }
    for (size_t i = 0; r == 0 && i < found.count; i++) {
        const struct obstacle *item = &found.items[i];
        uint32_t object = object_at(snapshot, item->selector);
        if (object && given->places[object].capability)
            r = obstacles_add(&given->obstacles, item->severity, item->selector, "%s", item->sentence);
    }
    return r < 0 ? error_errno(ret_error, r, "looking at what it holds") : 0;
}

static int list_objects(struct given *given, struct reseat_error **ret_error)
{
    size_t count = given->snapshot->objects_count + 1;
    given->objects = calloc(count, sizeof *given->objects);
    given->places = calloc(count, sizeof *given->places);
    if (!given->objects || !given->places)
        return error_errno(ret_error, -ENOMEM, "looking at what it holds");
    find_places(given);
    int r = heed_obstacles(given, ret_error);
    for (object_id_t id = 1; id < count; id++)
        if (given->places[id].capability || given->places[id].mapping)
            given->objects[given->object_count++] = id;
    return r;
}

int given_find(const struct snapshot *snapshot, struct given *ret_given, struct reseat_error **ret_error)
{
    _cleanup_(given_end) struct given given = {.snapshot = snapshot};
    int r = 0;
    if (snapshot->vmas_count && twin_check(snapshot, NULL) == 0) {
        r = native_pd_open((native_pd_id_t)snapshot->process.twin, &given.pd, ret_error);
        if (r == 0)
            r = list_objects(&given, ret_error);
        if (r < 0)
            return error_prefix(ret_error, r, "the twin %u still lives (drop it to do without)",
                                snapshot->process.twin);
    }
    *ret_given = TAKE_GENERIC(given, (struct given){0});
    return 0;
}

/* ---- taking it ---- */

static int take_mapped(const struct given *given, const struct snapshot_vma *vma, native_cap_t *ret_cap,
                       struct reseat_error **ret_error)
{
    char path[96];
    snprintf(path, sizeof path, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, native_pd_id(given->pd),
             vma->start, vma->end);
    unsigned access = given->snapshot->objects[vma->object - 1].status_flags & O_ACCMODE;
    int fd = open(path, (int)access | O_CLOEXEC);
    if (fd < 0)
        return error_errno(ret_error, -errno, "opening %s", path);
    *ret_cap = fd;
    return 0;
}

static int take(void *userdata, object_id_t object, native_cap_t *ret_cap, struct reseat_error **ret_error)
{
    const struct given *given = userdata;
    const struct given_place *place = &given->places[object];
    if (!place->capability)
        return take_mapped(given, place->mapping, ret_cap, ret_error);
    int r = native_pd_request(given->pd, place->capability->selector, ret_cap, NULL, ret_error);
    if (r == 0 && *ret_cap == NATIVE_CAP_INVALID)
        r = error_set(ret_error, -EBADF, "the twin %d has nothing at selector %u any more",
                      native_pd_id(given->pd), place->capability->selector);
    return r;
}

void given_set_options(struct given *given, struct object_options *options)
{
    options->given = given->objects;
    options->given_count = given->object_count;
    options->take = take;
    options->take_userdata = given;
}

/* ---- what they need ---- */

int given_add_fixups(const struct given *given, struct snapshot *snapshot,
                     bool (*is_kept)(void *userdata, uint32_t selector), void *userdata,
                     struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot fixups = {0};
    int r = snapshot_copy(given->snapshot, &fixups);
    if (r < 0)
        return error_errno(ret_error, r, "looking at what the twin %d holds", native_pd_id(given->pd));
    r = object_find_fixups(native_pd_id(given->pd), &fixups, ret_error);
    for (size_t i = 0; r == 0 && i < fixups.interests_count; i++) {
        const struct snapshot_interest *row = &fixups.interests[i];
        struct snapshot_interest *place = NULL;
        if (!row->action || !is_kept(userdata, row->epoll_selector))
            continue;
        if (!(place = array_append(snapshot->interests, snapshot->interests_count)))
            return error_errno(ret_error, -ENOMEM, "noting selector %u", row->selector);
        *place = *row;
    }
    for (size_t i = 0; r == 0 && i < fixups.positions_count; i++) {
        const struct snapshot_position *row = &fixups.positions[i];
        struct snapshot_position *place = NULL;
        if (!is_kept(userdata, row->selector))
            continue;
        if (!(place = array_append(snapshot->positions, snapshot->positions_count)))
            return error_errno(ret_error, -ENOMEM, "noting selector %u", row->selector);
        *place = *row;
    }
    return r;
}
