/* The vDSO: code of the kernel in the process, whose addresses the program keeps (vdso(7)). A process that is
 * made anew has that of this kernel; at the old place it does only if it is the same code, byte for byte. The
 * tail of the last page is not compared: our stub may have stood there. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <string.h>

static const struct snapshot_vma *find_vdso(const struct snapshot *map)
{
    for (size_t i = 0; i < map->vmas_count; i++)
        if (map->vmas[i].kind == SNAPSHOT_VMA_VDSO)
            return &map->vmas[i];
    return NULL;
}

/* Where the data of the kernel begins, relative to the code. */
static uint64_t data_distance(const struct snapshot *map, const struct snapshot_vma *vdso)
{
    for (size_t i = 0; i < map->vmas_count; i++)
        if (map->vmas[i].kind == SNAPSHOT_VMA_VVAR)
            return vdso->start - map->vmas[i].start;
    return 0;
}

int cold_read_memory(const struct cold_plan *plan, uint64_t address, void *data, size_t length,
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

int cold_check_vdso(const struct cold_plan *plan, struct reseat_error **ret_error)
{
    const struct snapshot_vma *theirs = find_vdso(plan->snapshot);
    _cleanup_(snapshot_free) struct snapshot own = {0};
    if (!theirs)
        return 0;
    int r = process_capture_map(getpid(), &own, ret_error);
    if (r < 0)
        return r;
    const struct snapshot_vma *ours = find_vdso(&own);
    size_t length = (size_t)(theirs->end - theirs->start);
    bool is_same = ours && ours->end - ours->start == length && length > ARCH_STUB_BYTES &&
                   data_distance(&own, ours) == data_distance(plan->snapshot, theirs);
    _cleanup_free_ uint8_t *code = is_same ? malloc(length) : NULL;
    if (is_same && !code)
        return error_errno(ret_error, -ENOMEM, "comparing the vDSO");
    if (is_same)
        r = cold_read_memory(plan, theirs->start, code, length, ret_error);
    if (r < 0)
        return r;
    if (is_same && memcmp(code, (const void *)ours->start, length - ARCH_STUB_BYTES - 16) == 0)
        return 0;
    return error_set(
        ret_error, -ENOTSUP,
        "process %u ran on another kernel, whose vDSO (code of the kernel that programs call) is not that "
        "of this one: restore it under the same kernel",
        plan->snapshot->process.pid);
}
