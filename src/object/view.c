/* Reading the states of objects in a snapshot, which may be a hostile one: core_check_snapshot() has seen to
 * it that rows refer to what is there; what the states say is checked here and by the kinds, before anything
 * is made. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <stdarg.h>

struct object_view view_of(const struct snapshot *snapshot, object_id_t object)
{
    const struct snapshot_object *row = &snapshot->objects[object - 1];
    return (struct object_view){
        .snapshot = snapshot,
        .row = row,
        .kind = object_kind_by_name((const char *)snapshot->blobs + row->kind_offset),
        .state = snapshot->blobs + row->state_offset,
        .length = row->state_length,
    };
}

object_id_t view_id(const struct object_view *view)
{
    return view->row->id;
}

const char *view_kind_name(const struct object_view *view)
{
    return (const char *)view->snapshot->blobs + view->row->kind_offset;
}

const char *view_name(const struct object_view *view)
{
    return (const char *)view->snapshot->blobs + view->row->name_offset;
}

void view_read(const struct object_view *view, void *ret_state, size_t length)
{
    memset(ret_state, 0, length);
    memcpy(ret_state, view->state, view->length < length ? view->length : length);
}

int view_bad(const struct object_view *view, struct reseat_error **ret_error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    _cleanup_free_ char *sentence = NULL;
    if (vasprintf(&sentence, format, arguments) < 0)
        sentence = NULL;
    va_end(arguments);
    return error_set(ret_error, -EBADMSG, "object %u (%s): %s", view_id(view), view_kind_name(view),
                     sentence ? sentence : "bad state");
}

bool view_has(const struct object_view *view, uint64_t offset, uint64_t length)
{
    return offset <= view->length && length <= view->length - offset;
}

bool view_is_usable(const struct object_view *view)
{
    return view->kind && view->kind->durable &&
           !(view->row->flags & (SNAPSHOT_OBJECT_LOST | SNAPSHOT_OBJECT_GONE));
}

object_id_t view_next_of_inode(const struct object_view *view, object_id_t after)
{
    for (object_id_t id = after + 1; id <= view->snapshot->objects_count; id++) {
        const struct snapshot_object *row = &view->snapshot->objects[id - 1];
        if (row->inode != view->row->inode || row->device_major != view->row->device_major ||
            row->device_minor != view->row->device_minor || row->mode != view->row->mode)
            continue;
        struct object_view other = view_of(view->snapshot, id);
        if (view_is_usable(&other) && other.kind->durable == view->kind->durable)
            return id;
    }
    return 0;
}

bool view_may_be_in_flight(const struct object_view *view, const struct object_options *options)
{
    const struct snapshot *snapshot = view->snapshot;
    bool is_queued = false;
    for (size_t i = 0; options && options->is_running && i < snapshot->objects_count; i++)
        is_queued |= snapshot->objects[i].flags & SNAPSHOT_OBJECT_QUEUED;
    return is_queued;
}

/* The first selector that holds an object, NATIVE_SELECTOR_END if none does. */
selector_t view_selector(const struct object_view *view)
{
    const struct snapshot *snapshot = view->snapshot;
    for (size_t i = 0; i < snapshot->capabilities_count; i++)
        if (snapshot->capabilities[i].object == view_id(view))
            return snapshot->capabilities[i].selector;
    return NATIVE_SELECTOR_END;
}

int object_check(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        struct object_view view = view_of(snapshot, (object_id_t)i + 1);
        if (!view_is_usable(&view))
            continue; /* nobody will look into the state */
        if (view.length < view.kind->durable->state_bytes)
            return view_bad(&view, ret_error, "a state of %zu bytes, %zu are needed", view.length,
                            view.kind->durable->state_bytes);
        int r = view.kind->durable->check ? view.kind->durable->check(&view, ret_error) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}
