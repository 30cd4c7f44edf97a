/* Whether the capability map and the object table make sense: ids that are the numbers of the rows, texts
 * that end, states that lie in the blobs, selectors that are there once and hold an object that there is.
 * What the states themselves say only their kinds can judge: object_judge_cold() and object_recreate() have
 * them do it before anything is made. */
#include "image/image-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>

#define SECTION_CAPABILITIES ".reseat.capability"
#define SECTION_OBJECTS      ".reseat.object"
#define SECTION_VMAS         ".reseat.vma"
#define SELECTOR_LIMIT       (1U << 20)
#define KIND_LENGTH_MAX      32
#define NAME_LENGTH_MAX      (2 * PATH_MAX)
#define OBJECTS_MAX          (1U << 21)

static int check_object(const struct snapshot *snapshot, size_t row, struct reseat_error **ret_error)
{
    const struct snapshot_object *object = &snapshot->objects[row];
    if (object->id != row + 1)
        return core_bad_row(ret_error, SECTION_OBJECTS, row, "has the id %u", object->id);
    if (object->flags & ~(uint32_t)(SNAPSHOT_OBJECT_DEGRADED | SNAPSHOT_OBJECT_LOST))
        return core_bad_row(ret_error, SECTION_OBJECTS, row, "flags 0x%x", object->flags);
    int r = core_check_text(snapshot, SECTION_OBJECTS, row, "kind", object->kind_offset, KIND_LENGTH_MAX,
                            ret_error);
    if (r == 0)
        r = core_check_text(snapshot, SECTION_OBJECTS, row, "name", object->name_offset, NAME_LENGTH_MAX,
                            ret_error);
    if (r == 0 && object->flags)
        r = core_check_text(snapshot, SECTION_OBJECTS, row, "reason", object->reason_offset, NAME_LENGTH_MAX,
                            ret_error);
    if (r == 0)
        r = core_check_bytes(snapshot, SECTION_OBJECTS, row, "state", object->state_offset,
                             object->state_length, ret_error);
    return r;
}

static int check_objects(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    if (snapshot->objects_count > OBJECTS_MAX)
        return error_set(ret_error, -EBADMSG, "section %s: %zu objects, %u are allowed", SECTION_OBJECTS,
                         snapshot->objects_count, OBJECTS_MAX);
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->objects_count; i++)
        r = check_object(snapshot, i, ret_error);
    return r;
}

static int check_reference(const struct snapshot *snapshot, const char *section, size_t row, uint32_t object,
                           struct reseat_error **ret_error)
{
    if (object > snapshot->objects_count)
        return core_bad_row(ret_error, section, row, "object %u, which there is not", object);
    return 0;
}

static int check_capabilities(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_(number_set_free) struct number_set selectors = {calloc(snapshot->capabilities_count + 1,
                                                                     sizeof(uint32_t)),
                                                              0};
    if (!selectors.numbers)
        return error_errno(ret_error, -ENOMEM, "section %s: checking", SECTION_CAPABILITIES);
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *capability = &snapshot->capabilities[i];
        if (capability->selector >= SELECTOR_LIMIT)
            return core_bad_row(ret_error, SECTION_CAPABILITIES, i, "%u is no selector",
                                capability->selector);
        if (capability->object == 0)
            return core_bad_row(ret_error, SECTION_CAPABILITIES, i, "holds no object");
        int r = check_reference(snapshot, SECTION_CAPABILITIES, i, capability->object, ret_error);
        if (r < 0)
            return r;
        selectors.numbers[selectors.count++] = capability->selector;
    }
    const uint32_t *twice = number_set_sort(&selectors);
    if (twice)
        return error_set(ret_error, -EBADMSG, "section %s: selector %u is there twice", SECTION_CAPABILITIES,
                         *twice);
    return 0;
}

int core_check_objects(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    int r = check_objects(snapshot, ret_error);
    if (r == 0)
        r = check_capabilities(snapshot, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++)
        if (snapshot->vmas[i].kind == SNAPSHOT_VMA_OBJECT)
            r = check_reference(snapshot, SECTION_VMAS, i, snapshot->vmas[i].object, ret_error);
    return r;
}
