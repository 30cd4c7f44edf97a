/* The content of memory: what the process can read itself from the image (its extents as they were in memory)
 * it reads straight to where it belongs, many extents in one run; what is compressed is unpacked here, and
 * written there. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/syscall.h>

#define COPY_BYTES (1u << 20)
#define READS_AT_ONCE                                                                                        \
    200 /* a read is of 1 MiB at most: a slow disk takes its time, and a program has 20 s                    \
         */

/* The mapping that an extent is in: both ascend, so the search goes on where it was. */
static const struct snapshot_vma *mapping_of(const struct snapshot *snapshot, size_t *position,
                                             uint64_t address)
{
    while (*position < snapshot->vmas_count && snapshot->vmas[*position].end <= address)
        ++*position;
    return &snapshot->vmas[*position]; /* there is one: checked when the image was opened */
}

/* What is in the image only to be looked at: the vDSO, and memory of others that is still there. */
static bool is_not_needed(const struct cold_plan *plan, size_t *position,
                          const struct snapshot_extent *extent)
{
    const struct snapshot_vma *vma = mapping_of(plan->snapshot, position, extent->address);
    return cold_is_special(vma) || cold_is_held(plan, *position) ||
           (vma->kind == SNAPSHOT_VMA_SYSV && cold_has_segment(plan->snapshot, vma));
}

static bool reads_itself(const struct cold_plan *plan, const struct snapshot_extent *extent)
{
    return plan->memory.fd >= 0 && extent->stored_length == extent->length;
}

/* What the process cannot read itself: unpacked here, and written there. */
static int write_extent(const struct cold_building *building, const struct snapshot_extent *extent,
                        void *buffer, struct reseat_error **ret_error)
{
    const struct cold_memory *memory = &building->plan->memory;
    for (uint64_t offset = 0; offset < extent->length;) {
        uint64_t left = extent->length - offset;
        size_t length = left < COPY_BYTES ? (size_t)left : COPY_BYTES;
        int r = memory->read(memory->userdata, extent, offset, buffer, length, ret_error);
        if (r < 0)
            return r;
        r = target_write(building->process, extent->address + offset, buffer, length);
        if (r < 0)
            return error_errno(ret_error, r, "writing the memory of process %d at %#" PRIx64,
                               building->process->pid, extent->address + offset);
        offset += length;
    }
    return 0;
}

/* Runs what is there. A read of a file somewhere else (9p, FUSE) may get less than it asked for: then it is
 * ours to read. */
static int run_reads(struct cold_building *building, const struct snapshot_extent *const *extents,
                     size_t count, void *buffer, struct reseat_error **ret_error)
{
    struct program *program = &building->batch.program;
    bool is_short[READS_AT_ONCE] = {false};
    int r = program_run_batch(building->process, program, ret_error);
    for (size_t i = 0; r == 0 && i < count; i++)
        is_short[i] = program_result(program, i) != (int64_t)extents[i]->length;
    program_end(program);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (is_short[i])
            r = write_extent(building, extents[i], buffer, ret_error);
    return r;
}

/* Says that so much more is there, and counts anew. */
static int tell_filled(const struct cold_building *building, uint64_t *length,
                       struct reseat_error **ret_error)
{
    const struct cold_memory *memory = &building->plan->memory;
    int r = memory->filled ? memory->filled(memory->userdata, *length) : 0;
    *length = 0;
    return r < 0 ? error_errno(ret_error, r, "filling memory") : 0;
}

int cold_fill_memory(struct cold_building *building, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = building->snapshot;
    _cleanup_free_ void *buffer = malloc(COPY_BYTES);
    const struct snapshot_extent *extents[READS_AT_ONCE];
    size_t calls = 0, position = 0;
    uint64_t filled = 0;
    int r = buffer ? program_batch_begin(&building->batch, building->process, ret_error)
                   : error_errno(ret_error, -ENOMEM, "reading memory");
    for (size_t i = 0; r == 0 && i < snapshot->extents_count; i++) {
        const struct snapshot_extent *extent = &snapshot->extents[i];
        filled += extent->length;
        if (is_not_needed(building->plan, &position, extent))
            continue;
        if (!reads_itself(building->plan, extent)) {
            r = write_extent(building, extent, buffer, ret_error);
            if (r == 0)
                r = tell_filled(building, &filled, ret_error);
            continue;
        }
        program_call(&building->batch.program, "reading memory from the image", SYS_pread64,
                     (uint64_t)building->plan->memory.fd, extent->address, extent->length,
                     extent->file_offset);
        extents[calls++] = extent;
        if (calls < READS_AT_ONCE)
            continue;
        r = run_reads(building, extents, calls, buffer, ret_error);
        calls = 0;
        if (r == 0)
            r = tell_filled(building, &filled, ret_error);
        if (r == 0)
            r = program_batch_begin(&building->batch, building->process, ret_error);
    }
    if (r == 0)
        r = run_reads(building, extents, calls, buffer, ret_error);
    return r == 0 ? tell_filled(building, &filled, ret_error) : r;
}

int cold_read_memory(const struct cold_plan *plan, uint64_t address, uint64_t length, void *data,
                     struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    memset(data, 0, length);
    for (size_t i = 0; i < snapshot->extents_count; i++) {
        const struct snapshot_extent *extent = &snapshot->extents[i];
        uint64_t start = extent->address > address ? extent->address : address;
        uint64_t end = extent->address + extent->length;
        end = end < address + length ? end : address + length;
        if (start >= end)
            continue;
        int r = plan->memory.read(plan->memory.userdata, extent, start - extent->address,
                                  (uint8_t *)data + (start - address), (size_t)(end - start), ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}
