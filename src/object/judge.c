/* What a cold restore would make of each capability: said by `plan`, and before a checkpoint or a restore
 * does something that was not allowed. Two things decide: what was found when the object was captured (the
 * row's flags), and what is so here and now (is the file there, is the right to do it). */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>

void object_verdicts_free(struct object_verdicts *verdicts)
{
    for (size_t i = 0; i < verdicts->count; i++)
        free(verdicts->items[i].sentence);
    free(verdicts->items);
    *verdicts = (struct object_verdicts){0};
}

static int compare_ids(const void *a, const void *b)
{
    object_id_t x = *(const object_id_t *)a, y = *(const object_id_t *)b;
    return (x > y) - (x < y);
}

bool object_is_given(const struct object_options *options, const struct object_view *view)
{
    object_id_t id = view_id(view);
    if (!options || !options->given_count ||
        !bsearch(&id, options->given, options->given_count, sizeof id, compare_ids))
        return false;
    const struct object_durable *durable = view->kind ? view->kind->durable : NULL;
    return !(durable && durable->needs_process && durable->needs_process(view));
}

bool object_is_unwanted(const struct object_options *options, object_id_t object)
{
    for (size_t i = 0; options && i < options->unwanted_count; i++)
        if (options->unwanted[i] == object)
            return true;
    return false;
}

/* What the capture found, and then what the kind finds here, if that is worse. */
static int judge_object(const struct object_view *view, const struct object_options *options,
                        enum object_fate *ret_fate, char **ret_sentence)
{
    const struct snapshot_object *row = view->row;
    enum object_fate fate = row->flags & SNAPSHOT_OBJECT_LOST       ? OBJECT_LOST
                            : row->flags & SNAPSHOT_OBJECT_DEGRADED ? OBJECT_DEGRADED
                                                                    : OBJECT_RECREATED;
    _cleanup_free_ char *sentence = NULL;
    int r = 0;
    if (fate != OBJECT_RECREATED)
        r = describe_as(&sentence, "%s", (const char *)view->snapshot->blobs + row->reason_offset);
    bool is_known = view->kind && view->kind->durable;
    if (r == 0 && fate != OBJECT_LOST && !is_known) {
        fate = OBJECT_LOST;
        free(TAKE_PTR(sentence));
        r = describe_as(&sentence, "objects of the kind \"%s\" cannot be made anew", view_kind_name(view));
    }
    if (r == 0 && fate != OBJECT_LOST && view->kind->durable->judge) {
        enum object_fate here = OBJECT_RECREATED;
        _cleanup_free_ char *why = NULL;
        r = view->kind->durable->judge(view, options, &here, &why);
        if (r == 0 && here >= fate && why) { /* the kind knows more than that somebody else has it, too */
            fate = here;
            free(sentence);
            sentence = TAKE_PTR(why);
        }
    }
    if (r < 0)
        return r;
    *ret_fate = fate;
    *ret_sentence = TAKE_PTR(sentence);
    return 0;
}

/* A verdict on each object, those in flight included: verdicts[id]. */
static int judge_objects(const struct snapshot *snapshot, const struct object_options *options,
                         struct object_verdict *verdicts, struct reseat_error **ret_error)
{
    for (object_id_t id = 1; id <= snapshot->objects_count; id++) {
        struct object_view view = view_of(snapshot, id);
        struct object_verdict *verdict = &verdicts[id];
        verdict->object = id;
        verdict->fate = OBJECT_RECREATED;
        if ((view.row->flags & SNAPSHOT_OBJECT_GONE) || object_is_unwanted(options, id))
            continue;
        if (object_is_given(options, &view)) {
            verdict->fate = OBJECT_KEPT;
            continue;
        }
        int r = judge_object(&view, options, &verdict->fate, &verdict->sentence);
        if (r < 0)
            return error_errno(ret_error, r, "judging object %u (%s)", id, view_kind_name(&view));
    }
    return 0;
}

/* "Selector 5 (pipe, pipe:[12] read end): why". */
static int add_verdict(struct object_verdicts *verdicts, const struct snapshot *snapshot,
                       const struct snapshot_capability *row, const struct object_verdict *of_object)
{
    struct object_view view = view_of(snapshot, row->object);
    struct object_verdict *verdict = array_append(verdicts->items, verdicts->count);
    if (!verdict)
        return -ENOMEM;
    *verdict = *of_object;
    verdict->selector = row->selector;
    if (!of_object->sentence)
        return 0;
    verdict->sentence = NULL;
    return describe_as(&verdict->sentence, "Selector %u (%s, %s): %s", row->selector, view_kind_name(&view),
                       view_name(&view), of_object->sentence);
}

/* What no selector holds: in flight, or only mapped. Said only if there is something to say. */
static int add_verdict_without_selector(struct object_verdicts *verdicts, const struct snapshot *snapshot,
                                        const struct object_verdict *of_object)
{
    struct object_view view = view_of(snapshot, of_object->object);
    if (!of_object->sentence || view_selector(&view) != NATIVE_SELECTOR_END)
        return 0;
    bool is_mapped = false;
    for (size_t i = 0; i < snapshot->vmas_count; i++)
        is_mapped |=
            snapshot->vmas[i].kind == SNAPSHOT_VMA_OBJECT && snapshot->vmas[i].object == of_object->object;
    struct object_verdict *verdict = array_append(verdicts->items, verdicts->count);
    if (!verdict)
        return -ENOMEM;
    *verdict = *of_object;
    verdict->selector = NATIVE_SELECTOR_END;
    verdict->sentence = NULL;
    return describe_as(&verdict->sentence, "%s (%s, %s): %s",
                       is_mapped ? "A mapping" : "A descriptor in flight", view_kind_name(&view),
                       view_name(&view), of_object->sentence);
}

static void free_sentences(struct object_verdict **verdicts, size_t count)
{
    for (size_t i = 0; *verdicts && i < count; i++)
        free((*verdicts)[i].sentence);
    free(*verdicts);
}

int object_judge_cold(const struct snapshot *snapshot, const struct object_options *options,
                      struct object_verdicts *ret_verdicts, struct reseat_error **ret_error)
{
    int r = object_check(snapshot, ret_error);
    if (r < 0)
        return r;
    size_t count = snapshot->objects_count + 1;
    struct object_verdict *of_objects = calloc(count, sizeof *of_objects);
    if (!of_objects)
        return error_errno(ret_error, -ENOMEM, "judging %zu objects", count);
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    r = judge_objects(snapshot, options, of_objects, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        r = add_verdict(&verdicts, snapshot, row, &of_objects[row->object]);
        if (r < 0)
            error_errno(ret_error, r, "judging selector %u", row->selector);
    }
    for (object_id_t id = 1; r == 0 && id < count; id++) {
        r = add_verdict_without_selector(&verdicts, snapshot, &of_objects[id]);
        if (r < 0)
            error_errno(ret_error, r, "judging object %u", id);
    }
    free_sentences(&of_objects, count);
    if (r < 0)
        return r;
    *ret_verdicts = TAKE_GENERIC(verdicts, (struct object_verdicts){0});
    return 0;
}
