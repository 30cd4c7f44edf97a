/* The cold column of a plan: what a restore from the image alone would make of each capability. The kinds say
 * it of themselves (object_judge_cold()), of the objects of a live process as they would stand in its image,
 * or of an image that is there; cold_check() and cold_open() say what else is in the way of that here and
 * now.
 */
#include "given.h"
#include "plan-internal.h"

#include "cold/cold.h"
#include "image/image.h"
#include "native_pd/native_pd.h"
#include "object/object.h"

#include <errno.h>
#include <string.h>

/* What a verdict says of a row without the words that the row itself has, so that what is said of many
 * selectors can be said once. */
static const char *reason_of(const struct reseat_plan_row *row, const char *sentence)
{
    _cleanup_free_ char *prefix = NULL;
    int length = asprintf(&prefix, "Selector %u (%s, %s): ", row->selector, row->kind, row->name);
    if (length < 0) {
        prefix = NULL;
        return sentence;
    }
    return strncmp(sentence, prefix, (size_t)length) == 0 ? sentence + length : sentence;
}

/* `snapshot`: with objects and capabilities, of the process (which is running) or of its image; `given`: by
 * the twin of that. */
static int add_cold(struct plan *plan, const struct snapshot *snapshot, struct given *given, bool is_running,
                    struct reseat_error **ret_error)
{
    struct object_options options = {.is_running = is_running};
    static const enum reseat_fate fates[] = {RESEAT_KEPT, RESEAT_RECREATED, RESEAT_DEGRADED, RESEAT_LOST};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    given_set_options(given, &options);
    int r = object_judge_cold(snapshot, &options, &verdicts, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < plan->public.row_count; i++)
        plan->public.rows[i].cold.fate = RESEAT_LOST; /* opened since the snapshot, if nothing is said */
    for (size_t i = 0; r == 0 && i < verdicts.count; i++) {
        const struct object_verdict *verdict = &verdicts.items[i];
        struct reseat_plan_row *row = plan_row(plan, verdict->selector);
        if (!row)
            continue;
        row->cold.fate = fates[verdict->fate];
        if (verdict->fate == OBJECT_KEPT)
            row->cold.why = "The twin still lives: it is taken from there";
        if (verdict->sentence)
            r = plan_worsen(plan, &row->cold, fates[verdict->fate], reason_of(row, verdict->sentence));
    }
    for (size_t i = 0; r == 0 && i < given->obstacles.count; i++)
        r = plan_add_obstacle(plan, &given->obstacles.items[i], RESEAT_COLD_RESTORE);
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", plan->public.pid) : 0;
}

/* What is not about a capability. An image that nobody could restore is one that is not made. */
static int add_foresight(struct plan *plan)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = cold_check_process(plan->public.pid, &obstacles, &error);
    if (r < 0)
        plan->public.cold_blocked = plan_text(plan, "%s", reseat_error_message(error));
    r = r < 0 && !plan->public.cold_blocked ? -ENOMEM : 0;
    for (size_t i = 0; r == 0 && i < obstacles.count; i++)
        r = plan_add_obstacle(plan, &obstacles.items[i], RESEAT_COLD_RESTORE);
    return r;
}

int plan_cold_process(struct plan *plan, struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_(snapshot_free) struct snapshot snapshot = {.process = {.pid = (uint32_t)plan->public.pid}};
    int r = native_pd_open(plan->public.pid, &pd, ret_error);
    if (r == 0)
        r = object_capture_outline(pd, false, &snapshot, ret_error);
    struct given nothing = {0};
    if (r == 0)
        r = add_cold(plan, &snapshot, &nothing, true, ret_error);
    if (r < 0)
        return r;
    r = add_foresight(plan);
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", plan->public.pid) : 0;
}

/* ---- a checkpoint ---- */

/* The rows as the image has them, for a checkpoint whose twin is gone. */
static int add_rows_of_image(struct plan *plan, const struct snapshot *snapshot)
{
    const char *texts = (const char *)snapshot->blobs;
    plan->public.rows = calloc(snapshot->capabilities_count + 1, sizeof *plan->public.rows);
    if (!plan->public.rows)
        return -ENOMEM;
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *capability = &snapshot->capabilities[i];
        const struct snapshot_object *object = &snapshot->objects[capability->object - 1];
        struct reseat_plan_row *row = &plan->public.rows[plan->public.row_count++];
        *row = (struct reseat_plan_row){
            .selector = capability->selector,
            .kind = plan_text(plan, "%s", texts + object->kind_offset),
            .object = plan_text(plan, "o%u", object->id),
            .name = plan_text(plan, "%s", texts + object->name_offset),
            .live = {.fate = RESEAT_LOST},
        };
        if (!row->kind || !row->object || !row->name)
            return -ENOMEM;
    }
    return 0;
}

static void add_no_cold(struct plan *plan, const char *why)
{
    for (size_t i = 0; i < plan->public.row_count; i++)
        plan->public.rows[i].cold.fate = RESEAT_LOST;
    plan->public.cold_blocked = why;
}

/* What is in the way here and now, besides the capability space: files that have changed, privileges that we
 * lack. Opens files and nothing else. */
static int add_place(struct plan *plan, struct image *image, const struct given *given)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    _cleanup_(cold_close) struct cold_plan place = COLD_PLAN_NONE;
    struct filling filling = {.image = image};
    place.snapshot = image_snapshot(image);
    place.holder = given->pd ? native_pd_id(given->pd) : 0;
    place.memory = (struct cold_memory){image_file(image), filling_read, &filling, NULL};
    int r = cold_check(&place, &obstacles, &error);
    if (r == 0)
        r = cold_open(&place, &obstacles, &error);
    if (r < 0)
        plan->public.cold_blocked = plan_text(plan, "%s", reseat_error_message(error));
    r = r == -ENOMEM || (r < 0 && !plan->public.cold_blocked) ? -ENOMEM : 0;
    for (size_t i = 0; r == 0 && i < obstacles.count; i++)
        r = plan_add_obstacle(plan, &obstacles.items[i], RESEAT_COLD_RESTORE);
    return r;
}

int plan_cold_checkpoint(struct plan *plan, struct image *image, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = image_snapshot(image);
    bool has_image = image_has_memory(image),
         is_trusted = image_owner(image) == 0 || image_owner(image) == geteuid();
    _cleanup_(given_end) struct given given = {0};
    int r = plan->public.rows ? 0 : add_rows_of_image(plan, snapshot);
    if (!has_image)
        add_no_cold(plan, "The checkpoint was taken with --live: it has no image, everything is in its twin");
    else if (!is_trusted) /* nothing that it names is opened with our rights */
        add_no_cold(plan, "The image belongs to another user: only that user may make a process of it");
    if (r < 0)
        return error_errno(ret_error, r, "planning for process %d", plan->public.pid);
    if (!has_image || !is_trusted)
        return 0;
    r = given_find(snapshot, &given, ret_error);
    if (r < 0)
        return r;
    r = add_place(plan, image, &given);
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", plan->public.pid)
                 : add_cold(plan, snapshot, &given, false, ret_error);
}
