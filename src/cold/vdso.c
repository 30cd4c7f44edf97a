/* The vDSO: code of the kernel in the process, whose addresses the program keeps (vdso(7)). A process that is
 * made anew has that of this kernel; at the old place it does only if it is the same code, byte for byte. The
 * tail of the last page is not compared: our stub may have stood there. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>

const struct snapshot_vma *cold_find_vdso(const struct snapshot *map)
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

int cold_check_vdso(const struct cold_plan *plan, struct reseat_error **ret_error)
{
    const struct snapshot_vma *theirs = cold_find_vdso(plan->snapshot);
    _cleanup_(snapshot_free) struct snapshot own = {0};
    if (!theirs)
        return 0;
    int r = process_capture_map(getpid(), &own, ret_error);
    if (r < 0)
        return r;
    const struct snapshot_vma *ours = cold_find_vdso(&own);
    size_t length = (size_t)(theirs->end - theirs->start);
    bool is_same = ours && ours->end - ours->start == length && length > ARCH_STUB_BYTES &&
                   data_distance(&own, ours) == data_distance(plan->snapshot, theirs);
    _cleanup_free_ uint8_t *code = is_same ? malloc(length) : NULL;
    if (is_same && !code)
        return error_errno(ret_error, -ENOMEM, "comparing the vDSO");
    if (is_same)
        r = cold_read_memory(plan, theirs->start, length, code, ret_error);
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

/* From behind the scratch pages to the old place, with its data at the same distance. */
int cold_place_vdso(const struct cold_building *building, const struct cold_place *place,
                    struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot now = {0};
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    struct target *process = building->process;
    int r = process_capture_map(process->pid, &now, ret_error);
    if (r == 0)
        r = program_batch_begin(&batch, process, ret_error);
    if (r < 0)
        return r;
    const struct snapshot_vma *wanted = cold_find_vdso(building->snapshot), *ours = cold_find_vdso(&now);
    if (wanted && ours)
        cold_add_special_moves(&batch, &now, ours->start, wanted->start);
    else if (place->parking_length)
        program_call(&batch.program, "unmapping the vDSO", SYS_munmap, place->parking, place->parking_length);
    return program_batch_run(&batch, ret_error);
}
