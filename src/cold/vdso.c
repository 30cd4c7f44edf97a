/* The vDSO: code of the kernel in the process, whose addresses the program keeps (vdso(7)). A process that is
 * made anew has that of this kernel. If it is the same code, byte for byte, it is moved to the old place; the
 * tail of the last page is not compared: our stub may have stood there. If not, the old code is put there as
 * ordinary memory, with each function leading to that of this kernel, which goes where there is room
 * (vdso_bridge.c). Nothing reads the data of the old kernel then, and nobody may: its place is kept, without
 * access. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define LENGTH_MAX  65536u
#define BRIDGE_NAME "vdso of another kernel"

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

static size_t length_of(const struct snapshot_vma *vma)
{
    return vma ? (size_t)(vma->end - vma->start) : 0;
}

/* Both vDSOs: that of the snapshot, and that of this kernel, where it is in us. */
struct vdso_pair {
    struct snapshot own_map;
    const struct snapshot_vma *theirs, *ours; /* NULL: there is none */
    uint8_t *code;                            /* of theirs, out of the image */
    bool is_same;
};

static void vdso_pair_end(struct vdso_pair *pair)
{
    snapshot_free(&pair->own_map);
    free(pair->code);
}

static int read_pair(const struct cold_plan *plan, struct vdso_pair *pair, struct reseat_error **ret_error)
{
    int r = process_capture_map(getpid(), &pair->own_map, ret_error);
    if (r < 0)
        return r;
    pair->theirs = cold_find_vdso(plan->snapshot);
    pair->ours = cold_find_vdso(&pair->own_map);
    size_t length = length_of(pair->theirs);
    if (!length)
        return 0;
    if (length > LENGTH_MAX || length <= ARCH_STUB_BYTES + 16)
        return error_set(ret_error, -EBADMSG, "a vDSO of %zu bytes in the image", length);
    pair->code = malloc(length);
    if (!pair->code)
        return error_errno(ret_error, -ENOMEM, "comparing the vDSO");
    r = cold_read_memory(plan, pair->theirs->start, length, pair->code, ret_error);
    pair->is_same =
        r == 0 && length_of(pair->ours) == length &&
        data_distance(&pair->own_map, pair->ours) == data_distance(plan->snapshot, pair->theirs) &&
        memcmp(pair->code, (const void *)pair->ours->start, length - ARCH_STUB_BYTES - 16) == 0;
    return r;
}

/* Turns the code of the image into the bridge to our own vDSO, which will be at `address`. */
static int build_bridge(const struct vdso_pair *pair, uint64_t address, struct reseat_error **ret_error)
{
    return cold_bridge_vdso(pair->code, length_of(pair->theirs),
                            pair->ours ? (const uint8_t *)pair->ours->start : NULL, length_of(pair->ours),
                            address, ret_error);
}

int cold_check_vdso(const struct cold_plan *plan, struct obstacles *obstacles,
                    struct reseat_error **ret_error)
{
    _cleanup_(vdso_pair_end) struct vdso_pair pair = {0};
    const struct snapshot *snapshot = plan->snapshot;
    int r = read_pair(plan, &pair, ret_error);
    if (r < 0 || !pair.theirs || pair.is_same)
        return r;
    for (size_t i = 0; i < snapshot->threads_count; i++)
        if (arch_ip(snapshot->threads[i].regs) - pair.theirs->start < length_of(pair.theirs))
            return error_set(ret_error, -ENOTSUP,
                             "thread %u stood in the vDSO (code of the kernel that programs call) of another "
                             "kernel, and can only go on under that one",
                             snapshot->threads[i].tid);
    r = build_bridge(&pair, 0, ret_error);
    if (r < 0)
        return r;
    const char *release = snapshot->machines_count ? snapshot->machines[0].kernel_release : "";
    return obstacles_add(obstacles, SEVERITY_NOTE, -1,
                         "it ran under another kernel%s%s, whose vDSO leads to that of this one now",
                         *release ? ", Linux " : "", release);
}

/* Takes the place of the old data and the old code: the first is not to be looked at. */
static void add_old_place(struct program_batch *batch, const struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        if (cold_is_special(vma))
            program_call(&batch->program, "keeping the place of the old vDSO", SYS_mmap, vma->start,
                         vma->end - vma->start,
                         vma->kind == SNAPSHOT_VMA_VDSO ? PROT_READ | PROT_WRITE : PROT_NONE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, (uint64_t)-1, 0);
    }
}

static int place_bridge(const struct cold_building *building, struct vdso_pair *pair,
                        const struct snapshot *now, struct reseat_error **ret_error)
{
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    struct target *process = building->process;
    const struct snapshot_vma *ours = cold_find_vdso(now), *theirs = pair->theirs;
    uint64_t first = cold_lowest_special(now), place = 0;
    int r = ours ? cold_find_high_place(building, ours->end - first, &place, ret_error) : 0;
    if (r == 0)
        r = build_bridge(pair, ours ? ours->start - first + place : 0, ret_error);
    if (r == 0)
        r = program_batch_begin(&batch, process, ret_error);
    if (r < 0)
        return r;
    add_old_place(&batch, building->snapshot);
    cold_add_special_moves(&batch, now, first, place);
    r = program_batch_run(&batch, ret_error);
    if (r == 0 && (r = target_write(process, theirs->start, pair->code, length_of(theirs))) < 0)
        error_errno(ret_error, r, "writing the vDSO of process %d", process->pid);
    if (r == 0)
        r = program_batch_begin(&batch, process, ret_error);
    if (r < 0)
        return r;
    program_call(&batch.program, "protecting the old vDSO", SYS_mprotect, theirs->start, length_of(theirs),
                 theirs->protection);
    program_call(&batch.program, NULL, SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, theirs->start,
                 length_of(theirs), scratch_copy(batch.program.scratch, BRIDGE_NAME, sizeof BRIDGE_NAME));
    return program_batch_run(&batch, ret_error);
}

/* From behind the scratch pages, with its data at the same distance. */
int cold_place_vdso(const struct cold_building *building, const struct cold_place *place,
                    struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot now = {0};
    _cleanup_(vdso_pair_end) struct vdso_pair pair = {0};
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    int r = process_capture_map(building->process->pid, &now, ret_error);
    if (r == 0)
        r = read_pair(building->plan, &pair, ret_error);
    if (r == 0 && pair.theirs && !pair.is_same)
        return place_bridge(building, &pair, &now, ret_error);
    if (r == 0)
        r = program_batch_begin(&batch, building->process, ret_error);
    if (r < 0)
        return r;
    if (pair.theirs)
        cold_add_special_moves(&batch, &now, cold_find_vdso(&now)->start, pair.theirs->start);
    else if (place->parking_length)
        program_call(&batch.program, "unmapping the vDSO", SYS_munmap, place->parking, place->parking_length);
    return program_batch_run(&batch, ret_error);
}
