/* A processor that is not the one that the image was made on: what it lacks, and extended state that it lays
 * out otherwise. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* How the image lays extended state out. One of before that was recorded can only be of our own sort. */
static struct arch_xstate_layout layout_of(const struct snapshot *snapshot)
{
    struct arch_xstate_layout layout;
    arch_xstate_layout(&layout);
    if (snapshot->machines_count) {
        const struct snapshot_machine *machine = &snapshot->machines[0];
        layout.components = machine->xstate_components;
        memcpy(layout.offsets, machine->xstate_offsets, sizeof layout.offsets);
        memcpy(layout.lengths, machine->xstate_lengths, sizeof layout.lengths);
    }
    return layout;
}

static bool is_of_our_sort(const struct snapshot_thread *thread, const struct arch_xstate_layout *layout)
{
    struct arch_xstate_layout ours;
    arch_xstate_layout(&ours);
    size_t length = arch_xstate_length();
    return !length || (thread->xstate_length == length && memcmp(&ours, layout, sizeof ours) == 0);
}

static int error_other_sort(const struct snapshot_thread *thread, struct reseat_error **ret_error)
{
    return error_set(ret_error, -ENOTSUP,
                     "the extended state of thread %u was laid out by another sort of processor (%" PRIu64
                     " bytes, %zu here)",
                     thread->tid, thread->xstate_length, arch_xstate_length());
}

static const uint8_t *xstate_of(const struct snapshot *snapshot, const struct snapshot_thread *thread)
{
    return snapshot->blobs + thread->xstate_offset;
}

static int check_thread(const struct snapshot *snapshot, const struct snapshot_thread *thread,
                        struct reseat_error **ret_error)
{
    struct arch_xstate_layout layout = layout_of(snapshot);
    const char *missing = arch_missing_xstate(xstate_of(snapshot, thread), thread->xstate_length, &layout);
    if (missing)
        return error_set(ret_error, -ENOTSUP,
                         "thread %u has extended state that the processor of this machine has not: %s",
                         thread->tid, missing);
    if (is_of_our_sort(thread, &layout) || boot_id_is_current(snapshot->process.boot_id))
        return 0;
    size_t length = arch_xstate_length();
    _cleanup_free_ uint8_t *converted = malloc(length);
    if (!converted)
        return error_errno(ret_error, -ENOMEM, "looking at the extended state of thread %u", thread->tid);
    bool can_convert =
        snapshot->machines_count &&
        arch_xstate_convert(xstate_of(snapshot, thread), thread->xstate_length, &layout, converted, length);
    return can_convert ? 0 : error_other_sort(thread, ret_error);
}

int cold_check_processor(const struct snapshot *snapshot, struct obstacles *obstacles,
                         struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->threads_count; i++)
        r = check_thread(snapshot, &snapshot->threads[i], ret_error);
    if (r < 0)
        return r;
    _cleanup_free_ char *missing = process_missing_features(snapshot);
    r = !missing   ? -ENOMEM
        : *missing ? obstacles_add(
                         obstacles, SEVERITY_DEGRADED, -1,
                         "the processor of this machine lacks what the old one had: %s; if the process uses "
                         "it, as it may have found when it started, it is killed (SIGILL)",
                         missing)
                   : 0;
    return r < 0 ? error_errno(ret_error, r, "comparing processors") : 0;
}

int cold_adapt_processor(struct snapshot *snapshot, struct reseat_error **ret_error)
{
    struct arch_xstate_layout layout = layout_of(snapshot);
    size_t length = arch_xstate_length();
    for (size_t i = 0; i < snapshot->threads_count; i++) {
        struct snapshot_thread *thread = &snapshot->threads[i];
        if (is_of_our_sort(thread, &layout))
            continue;
        _cleanup_free_ uint8_t *converted = malloc(length);
        uint64_t offset;
        if (!converted)
            return error_errno(ret_error, -ENOMEM, "converting the extended state of thread %u", thread->tid);
        if (!arch_xstate_convert(xstate_of(snapshot, thread), thread->xstate_length, &layout, converted,
                                 length))
            return error_other_sort(thread, ret_error);
        int r = snapshot_add_blob(snapshot, converted, length, &offset);
        if (r < 0)
            return error_errno(ret_error, r, "converting the extended state of thread %u", thread->tid);
        thread->xstate_offset = offset;
        thread->xstate_length = length;
    }
    return 0;
}
