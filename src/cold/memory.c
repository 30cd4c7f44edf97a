/* Memory: a forked child of ours leaves our memory, and gets that of the snapshot.
 *
 * The vDSO and its data are the only mappings that cannot be made anew; they wait behind the scratch pages
 * while everything else goes (munmap(2)) and comes (mmap(2)). Content is read by the process itself, straight
 * from the image into its memory, into mappings that are writable as long as that takes. Several mappings of
 * one shared anonymous object are made from one by mremap(2) with an old length of 0, which makes another
 * mapping of the same pages. At the end PR_SET_MM_MAP (prctl(2), needs CONFIG_CHECKPOINT_RESTORE) says where
 * heap, arguments, environment and the auxiliary vector are, and which file is /proc/PID/exe. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/mman.h>
#include <linux/prctl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define MAP_DROPPABLE_NUMBER 0x08 /* Linux 6.11 */
#define GUARD_INSTALL_NUMBER 102  /* Linux 6.13 */
#define LOWEST_ADDRESS       0x10000000u
#define MARGIN_BYTES         (16u << 20) /* from other mappings, some of which grow */

/* One piece of address space that is taken. */
struct piece {
    uint64_t start, end;
};

struct pieces {
    struct piece *items;
    size_t count;
};

static void pieces_free(struct pieces *pieces)
{
    free(pieces->items);
}

static int compare_pieces(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

static int add_pieces(struct pieces *pieces, const struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->vmas_count; i++) {
        struct piece *piece = array_append(pieces->items, pieces->count);
        if (!piece)
            return -ENOMEM;
        *piece = (struct piece){snapshot->vmas[i].start, snapshot->vmas[i].end};
    }
    return 0;
}

/* The lowest gap that holds so many bytes with a margin on both sides; 0: none. */
static uint64_t find_gap(struct pieces *pieces, uint64_t length)
{
    uint64_t at = LOWEST_ADDRESS;
    if (pieces->count)
        qsort(pieces->items, pieces->count, sizeof pieces->items[0], compare_pieces);
    for (size_t i = 0; i <= pieces->count; i++) {
        uint64_t start = i < pieces->count ? pieces->items[i].start : COLD_TASK_BYTES;
        if (start > at && start - at >= length + 2 * MARGIN_BYTES)
            return at + MARGIN_BYTES;
        if (i < pieces->count && pieces->items[i].end > at)
            at = pieces->items[i].end;
    }
    return 0;
}

/* The lowest address of the highest gap: where no heap grows up to, and no stack down to. */
static uint64_t find_high_gap(struct pieces *pieces, uint64_t length)
{
    uint64_t end = COLD_TASK_BYTES;
    if (pieces->count)
        qsort(pieces->items, pieces->count, sizeof pieces->items[0], compare_pieces);
    for (size_t i = pieces->count; i-- > 0; end = pieces->items[i].start) {
        uint64_t start = pieces->items[i].end + COLD_PAGE_BYTES;
        uint64_t margin = end == COLD_TASK_BYTES ? COLD_PAGE_BYTES : MARGIN_BYTES;
        if (start < end && end - start >= length + margin)
            return start;
    }
    return 0;
}

/* MADV_GUARD_INSTALL. */
bool cold_has_guards(void)
{
    void *page = mmap(NULL, COLD_PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return false;
    bool has_guards = madvise(page, COLD_PAGE_BYTES, GUARD_INSTALL_NUMBER) == 0;
    munmap(page, COLD_PAGE_BYTES);
    return has_guards;
}

bool cold_is_special(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_VDSO || vma->kind == SNAPSHOT_VMA_VVAR;
}

int cold_find_place(const struct snapshot *snapshot, size_t scratch_length, struct cold_place *ret_place,
                    struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot own = {0};
    _cleanup_(pieces_free) struct pieces taken = {0};
    scratch_length = (scratch_length + COLD_PAGE_BYTES - 1) & ~(size_t)(COLD_PAGE_BYTES - 1);
    int r = process_capture_map(getpid(), &own, ret_error);
    if (r < 0)
        return r;
    uint64_t parking = 0;
    for (size_t i = 0; i < own.vmas_count; i++)
        parking += cold_is_special(&own.vmas[i]) ? own.vmas[i].end - own.vmas[i].start : 0;
    r = add_pieces(&taken, &own);
    if (r == 0)
        r = add_pieces(&taken, snapshot);
    uint64_t address = r < 0 ? 0 : find_gap(&taken, scratch_length + parking);
    if (!address)
        return error_errno(ret_error, -ENOMEM, "looking for room in the address space of process %u",
                           snapshot->process.pid);
    *ret_place = (struct cold_place){address, scratch_length, address + scratch_length, parking};
    return 0;
}

int cold_find_high_place(const struct cold_building *building, uint64_t length, uint64_t *ret_address,
                         struct reseat_error **ret_error)
{
    _cleanup_(pieces_free) struct pieces taken = {0};
    int r = add_pieces(&taken, building->snapshot);
    *ret_address = r < 0 ? 0 : find_high_gap(&taken, length);
    return *ret_address ? 0
                        : error_errno(ret_error, -ENOMEM, "looking for room for the vDSO of process %u",
                                      building->snapshot->process.pid);
}

/* ---- out of our memory ---- */

void cold_add_special_moves(struct program_batch *batch, const struct snapshot *map, uint64_t from,
                            uint64_t to)
{
    for (size_t i = 0; i < map->vmas_count; i++) {
        const struct snapshot_vma *vma = &map->vmas[i];
        uint64_t length = vma->end - vma->start;
        if (cold_is_special(vma))
            program_call(&batch->program, "moving the vDSO", SYS_mremap, vma->start, length, length,
                         MREMAP_MAYMOVE | MREMAP_FIXED, vma->start - from + to);
    }
}

uint64_t cold_lowest_special(const struct snapshot *map)
{
    for (size_t i = 0; i < map->vmas_count; i++)
        if (cold_is_special(&map->vmas[i]))
            return map->vmas[i].start;
    return 0;
}

static int leave_memory(const struct cold_place *place, struct target *process,
                        struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot own = {0};
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    int r = process_capture_map(process->pid, &own, ret_error);
    if (r == 0)
        r = program_batch_begin(&batch, process, ret_error);
    if (r < 0)
        return r;
    uint64_t end = place->parking + place->parking_length;
    cold_add_special_moves(&batch, &own, cold_lowest_special(&own), place->parking);
    program_call(&batch.program, "leaving our memory", SYS_munmap, 0, place->scratch);
    program_call(&batch.program, "leaving our memory", SYS_munmap, end, COLD_TASK_BYTES - end);
    return program_batch_run(&batch, ret_error);
}

/* ---- mappings ---- */

static void building_end(struct cold_building *building)
{
    program_batch_end(&building->batch);
    free(building->is_filled);
}

/* Both are ascending. */
static bool has_content(struct cold_building *building, const struct snapshot_vma *vma)
{
    const struct snapshot *snapshot = building->snapshot;
    while (building->next_extent < snapshot->extents_count) {
        const struct snapshot_extent *extent = &snapshot->extents[building->next_extent];
        if (extent->address + extent->length > vma->start)
            return extent->address < vma->end;
        building->next_extent++;
    }
    return false;
}

static uint64_t map_flags(const struct snapshot_vma *vma)
{
    uint64_t flags = MAP_FIXED_NOREPLACE | (vma->flags & SNAPSHOT_VMA_MAP_SHARED  ? MAP_SHARED
                                            : vma->flags & SNAPSHOT_VMA_DROPPABLE ? MAP_DROPPABLE_NUMBER
                                                                                  : MAP_PRIVATE);
    if (vma->flags & SNAPSHOT_VMA_GROWS_DOWN)
        flags |= MAP_GROWSDOWN;
    if (vma->flags & SNAPSHOT_VMA_NORESERVE)
        flags |= MAP_NORESERVE;
    if ((vma->flags & SNAPSHOT_VMA_HUGETLB) && vma->kind != SNAPSHOT_VMA_OBJECT)
        flags |= MAP_HUGETLB | (uint64_t)vma->page_shift << MAP_HUGE_SHIFT;
    return flags;
}

static int object_fd(const struct cold_plan *plan, uint32_t id)
{
    for (size_t i = 0; i < plan->object_count; i++)
        if (plan->objects[i].id == id)
            return plan->objects[i].fd;
    return -1;
}

/* The file that a mapping is of: a descriptor that the process has inherited; -1: none. */
static int mapped_fd(const struct cold_building *building, size_t index)
{
    const struct snapshot_vma *vma = &building->snapshot->vmas[index];
    if (vma->kind == SNAPSHOT_VMA_OBJECT && vma->object)
        return object_fd(building->plan, vma->object);
    return building->plan->vma_fds ? building->plan->vma_fds[index] : -1;
}

/* While content is read into it, it is writable. */
static uint64_t first_protection(const struct cold_building *building, size_t index)
{
    const struct snapshot_vma *vma = &building->snapshot->vmas[index];
    return building->is_filled[index] ? PROT_READ | PROT_WRITE : vma->protection;
}

/* The whole segment; of what follows it is only protected. */
static void add_segment(struct cold_building *building, const struct snapshot_vma *vma)
{
    struct program *program = &building->batch.program;
    if (vma->offset == 0)
        program_call(program, "attaching System V shared memory", SYS_shmat, vma->inode, vma->start,
                     SHM_EXEC);
    program_call(program, "protecting System V shared memory", SYS_mprotect, vma->start,
                 vma->end - vma->start, vma->protection);
}

static void add_mapping(struct cold_building *building, size_t index)
{
    const struct snapshot_vma *vma = &building->snapshot->vmas[index];
    int fd = mapped_fd(building, index);
    uint64_t flags = map_flags(vma) | (fd < 0 ? MAP_ANONYMOUS : 0);
    program_call(&building->batch.program, "mapping memory", SYS_mmap, vma->start, vma->end - vma->start,
                 first_protection(building, index), flags, (uint64_t)fd, fd < 0 ? 0 : vma->offset);
}

/* ---- shared anonymous memory ---- */

static bool is_alias(const struct snapshot_vma *a, const struct snapshot_vma *b)
{
    return a->kind == b->kind && a->inode == b->inode && a->device_major == b->device_major &&
           a->device_minor == b->device_minor;
}

/* All mappings of the object that mapping `first` is of are made from one that is put where there is room. */
static int add_shared(struct cold_building *building, size_t first, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = building->snapshot;
    const struct snapshot_vma *vma = &snapshot->vmas[first];
    struct program_batch *batch = &building->batch;
    _cleanup_(pieces_free) struct pieces taken = {0};
    uint64_t object_end = 0;
    for (size_t i = 0; i < first; i++)
        if (is_alias(vma, &snapshot->vmas[i]))
            return 0; /* was made with that one */
    for (size_t i = first; i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *other = &snapshot->vmas[i];
        uint64_t end = other->offset + (other->end - other->start);
        if (is_alias(vma, other) && end > object_end)
            object_end = end;
    }
    int r = add_pieces(&taken, snapshot);
    struct piece *ours = r == 0 ? array_append(taken.items, taken.count) : NULL;
    if (!ours)
        return error_errno(ret_error, -ENOMEM, "mapping shared memory");
    *ours =
        (struct piece){building->process->scratch.address,
                       building->process->scratch.address + building->process->scratch.length + MARGIN_BYTES};
    uint64_t place = find_gap(&taken, object_end);
    if (vma->flags & SNAPSHOT_VMA_HUGETLB)
        place &= ~((UINT64_C(1) << vma->page_shift) - 1);
    program_call(&batch->program, "mapping shared memory", SYS_mmap, place, object_end,
                 PROT_READ | PROT_WRITE, map_flags(vma) | MAP_ANONYMOUS, (uint64_t)-1, 0);
    for (size_t i = first; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *other = &snapshot->vmas[i];
        if (!is_alias(vma, other))
            continue;
        uint64_t length = other->end - other->start;
        program_call(&batch->program, "mapping shared memory once more", SYS_mremap, place + other->offset, 0,
                     length, MREMAP_MAYMOVE | MREMAP_FIXED, other->start);
        program_call(&batch->program, "protecting shared memory", SYS_mprotect, other->start, length,
                     first_protection(building, i));
        r = program_batch_room(batch, 0, ret_error);
    }
    program_call(&batch->program, "unmapping shared memory", SYS_munmap, place, object_end);
    return r;
}

/* ---- treatment ---- */

static void add_advice(struct program_batch *batch, const struct snapshot_vma *vma, uint32_t flag,
                       uint64_t advice)
{
    if (vma->flags & flag)
        program_call(&batch->program, NULL, SYS_madvise, vma->start, vma->end - vma->start, advice);
}

static void add_early_advice(struct program_batch *batch, const struct snapshot_vma *vma)
{
    add_advice(batch, vma, SNAPSHOT_VMA_HUGEPAGE, MADV_HUGEPAGE);
    add_advice(batch, vma, SNAPSHOT_VMA_NOHUGEPAGE, MADV_NOHUGEPAGE);
}

static int map_all(struct cold_building *building, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = building->snapshot;
    int r = program_batch_begin(&building->batch, building->process, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        bool is_filled = has_content(building, vma) && !cold_is_held(building->plan, i) &&
                         !(vma->kind == SNAPSHOT_VMA_SYSV && cold_has_segment(snapshot, vma));
        /* Guards are as what is around them, so that it all becomes one mapping. */
        building->is_filled[i] =
            is_filled || ((vma->flags & SNAPSHOT_VMA_GUARD) && vma->kind == SNAPSHOT_VMA_ANONYMOUS);
    }
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        if (cold_is_special(vma))
            continue;
        if (vma->kind == SNAPSHOT_VMA_SYSV && cold_has_segment(snapshot, vma))
            add_segment(building, vma);
        else if ((vma->kind == SNAPSHOT_VMA_SHARED && !cold_is_held(building->plan, i)) ||
                 vma->kind == SNAPSHOT_VMA_SYSV ||
                 (vma->kind == SNAPSHOT_VMA_OBJECT && mapped_fd(building, i) < 0 &&
                  (vma->flags & SNAPSHOT_VMA_MAP_SHARED)))
            r = add_shared(building, i, ret_error);
        else
            add_mapping(building, i);
        if (r == 0)
            r = program_batch_room(&building->batch, 0, ret_error);
        add_early_advice(&building->batch, vma);
    }
    return r == 0 ? program_batch_run(&building->batch, ret_error) : r;
}

/* What stays as long as the mapping does, now that its content is there. */
static int treat_all(struct cold_building *building, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = building->snapshot;
    struct program_batch *batch = &building->batch;
    int r = program_batch_begin(batch, building->process, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        uint64_t length = vma->end - vma->start;
        if (cold_is_special(vma))
            continue;
        if (vma->protection != first_protection(building, i))
            program_call(&batch->program, "protecting memory", SYS_mprotect, vma->start, length,
                         vma->protection);
        r = program_batch_room(batch, 0, ret_error);
        add_advice(batch, vma, SNAPSHOT_VMA_MERGEABLE, MADV_MERGEABLE);
        add_advice(batch, vma, SNAPSHOT_VMA_SEQUENTIAL, MADV_SEQUENTIAL);
        add_advice(batch, vma, SNAPSHOT_VMA_RANDOM, MADV_RANDOM);
        add_advice(batch, vma, SNAPSHOT_VMA_DONTDUMP, MADV_DONTDUMP);
        add_advice(batch, vma, SNAPSHOT_VMA_DONTFORK, MADV_DONTFORK);
        if (r == 0)
            r = program_batch_room(batch, 0, ret_error);
        add_advice(batch, vma, SNAPSHOT_VMA_WIPEONFORK, MADV_WIPEONFORK);
        if (vma->flags & SNAPSHOT_VMA_LOCKED)
            program_call(&batch->program, "locking memory", SYS_mlock2, vma->start, length,
                         vma->flags & SNAPSHOT_VMA_LOCKED_ONFAULT ? MLOCK_ONFAULT : 0);
        const char *name = (const char *)snapshot->blobs + vma->path_offset;
        if (vma->kind == SNAPSHOT_VMA_ANONYMOUS && *name && strlen(name) < 80)
            program_call(&batch->program, NULL, SYS_prctl, PR_SET_VMA, PR_SET_VMA_ANON_NAME, vma->start,
                         length, scratch_copy(batch->program.scratch, name, strlen(name) + 1));
        add_advice(batch, vma, SNAPSHOT_VMA_GUARD,
                   GUARD_INSTALL_NUMBER); /* last: nothing can be locked then */
        if (r == 0)
            r = program_batch_room(batch, 128, ret_error);
    }
    return r == 0 ? program_batch_run(batch, ret_error) : r;
}

/* ---- the end of it ---- */

/* The child has it already then, and the kernel refuses to exchange a program that is mapped (EBUSY). */
static bool is_own_program(int fd)
{
    struct stat own, wanted;
    return stat("/proc/self/exe", &own) == 0 && fstat(fd, &wanted) == 0 && own.st_dev == wanted.st_dev &&
           own.st_ino == wanted.st_ino;
}

static int set_layout(const struct cold_building *building, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = building->snapshot;
    const struct snapshot_state *state = &snapshot->states[0];
    const struct snapshot_layout *layout = &state->layout;
    struct target *process = building->process;
    struct scratch *scratch = &process->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    int exe_fd = building->plan->exe_fd;
    struct prctl_mm_map map = {
        .start_code = layout->start_code,
        .end_code = layout->end_code,
        .start_data = layout->start_data,
        .end_data = layout->end_data,
        .start_brk = layout->start_brk,
        .brk = layout->brk,
        .start_stack = layout->start_stack,
        .arg_start = layout->arg_start,
        .arg_end = layout->arg_end,
        .env_start = layout->env_start,
        .env_end = layout->env_end,
        .auxv = (void *)scratch_copy(scratch, snapshot->blobs + state->auxv_offset, state->auxv_length),
        .auxv_size = (uint32_t)state->auxv_length,
        .exe_fd = exe_fd < 0 || is_own_program(exe_fd) ? (uint32_t)-1 : (uint32_t)exe_fd,
    };
    program_call(&program, "saying where heap, arguments and program are (PR_SET_MM_MAP)", SYS_prctl,
                 PR_SET_MM, PR_SET_MM_MAP, scratch_copy(scratch, &map, sizeof map), sizeof map);
    return program_run_batch(process, &program, ret_error);
}

int cold_build_memory(const struct cold_plan *plan, const struct cold_place *place, struct target *process,
                      struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    _cleanup_(building_end) struct cold_building building = {
        .plan = plan,
        .snapshot = snapshot,
        .process = process,
        .is_filled = calloc(snapshot->vmas_count + 1, sizeof(bool)),
    };
    if (!building.is_filled)
        return error_errno(ret_error, -ENOMEM, "building the memory of process %u", snapshot->process.pid);
    int r = leave_memory(place, process, ret_error);
    if (r == 0)
        r = map_all(&building, ret_error);
    if (r == 0)
        r = cold_fill_memory(&building, ret_error);
    if (r == 0)
        r = treat_all(&building, ret_error);
    if (r == 0)
        r = cold_place_vdso(&building, place, ret_error);
    return r == 0 ? set_layout(&building, ret_error) : r;
}
