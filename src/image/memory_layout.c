/* Where memory lies in an image's file. A mapping lies there as it lies in memory, so that a program header
 * can say so and a debugger can read it; what is not stored is a hole. Only very large mappings with large
 * holes are divided, and with compression those that a debugger needs least (what is no stack, no file's and
 * larger than 1 MiB): their extents follow each other, and no program header shows them. */
#include "image/memory.h"
#include "image/image-internal.h"
#include "image/image.h"
#include "target/arch/arch.h"

#include <errno.h>
#include <sys/mman.h>

#define WHOLE_BYTES_MAX                                                                                      \
    (UINT64_C(64) << 20) /* up to this size a mapping has its place in the file, holes and all */
#define GAP_BYTES_MAX   WHOLE_BYTES_MAX /* in a larger one, a hole up to this size is a hole in the file */
#define PLAIN_BYTES_MAX (UINT64_C(1) << 20) /* never compressed up to this size */

/* A stretch of a mapping that lies in the file as it lies in memory. */
struct placement {
    size_t vma;
    uint64_t start, end, file_offset;
};

/* ---- where a run goes in the file ---- */

bool memory_is_of_file(const struct snapshot_vma *vma)
{
    return (vma->kind == SNAPSHOT_VMA_FILE || vma->kind == SNAPSHOT_VMA_OBJECT) &&
           !(vma->flags & SNAPSHOT_VMA_STORED);
}

static bool has_stack(const struct snapshot *snapshot, const struct snapshot_vma *vma)
{
    for (size_t i = 0; i < snapshot->threads_count; i++) {
        uint64_t sp = arch_sp(snapshot->threads[i].regs);
        if (sp >= vma->start && sp < vma->end)
            return true;
    }
    return false;
}

bool memory_layout_compresses(const struct memory_layout *layout, const struct snapshot_vma *vma)
{
    uint64_t length = vma->end - vma->start;
    if (!layout->compresses || length <= PLAIN_BYTES_MAX)
        return false;
    return length > WHOLE_BYTES_MAX || (!memory_is_of_file(vma) && !has_stack(layout->snapshot, vma));
}

static struct placement *add_placement(struct memory_layout *layout, size_t vma, uint64_t start, uint64_t end,
                                       uint64_t file_offset)
{
    struct placement *placement = array_append(layout->placements, layout->placement_count);
    if (placement)
        *placement = (struct placement){vma, start, end, file_offset};
    return placement;
}

/* In a mapping that has its place. Of one of a file only what is stored is shown: the rest a debugger reads
 * from the file itself. */
static struct placement *place_whole(struct memory_layout *layout, const struct page_run *run)
{
    const struct snapshot_vma *vma = &layout->snapshot->vmas[run->vma];
    if (layout->whole_vma != run->vma) {
        layout->whole_vma = run->vma;
        layout->whole_offset = core_page_up(layout->next_offset);
        layout->next_offset = layout->whole_offset + (vma->end - vma->start);
        if (!memory_is_of_file(vma))
            return add_placement(layout, run->vma, vma->start, vma->end, layout->whole_offset);
    }
    return add_placement(layout, run->vma, run->start, run->end,
                         layout->whole_offset + (run->start - vma->start));
}

static struct placement *place_part(struct memory_layout *layout, const struct page_run *run,
                                    struct placement *last)
{
    const struct snapshot_vma *vma = &layout->snapshot->vmas[run->vma];
    uint64_t gap_max = memory_is_of_file(vma) ? 0 : GAP_BYTES_MAX;
    if (last && run->start - last->end <= gap_max) {
        last->end = run->end;
    } else {
        uint64_t start = !last && run->start - vma->start <= gap_max ? vma->start : run->start;
        last = add_placement(layout, run->vma, start, run->end, core_page_up(layout->next_offset));
    }
    if (last)
        layout->next_offset = last->file_offset + (last->end - last->start);
    return last;
}

int memory_layout_place(struct memory_layout *layout, const struct page_run *run, uint64_t *ret_file_offset)
{
    const struct snapshot_vma *vma = &layout->snapshot->vmas[run->vma];
    struct placement *last =
        layout->placement_count ? &layout->placements[layout->placement_count - 1] : NULL;
    if (last && last->vma != run->vma)
        last = NULL;
    bool is_whole = vma->end - vma->start <= WHOLE_BYTES_MAX;
    if (is_whole && last && run->start <= last->end)
        last->end = run->end > last->end ? run->end : last->end; /* follows, or lies within */
    else
        last = is_whole ? place_whole(layout, run) : place_part(layout, run, last);
    if (!last)
        return -ENOMEM;
    *ret_file_offset = last->file_offset + (run->start - last->start);
    return 0;
}

/* ---- what the file says of it ---- */

/* What is shared was placed first. */
static int compare_placements(const void *a, const void *b)
{
    const struct placement *left = a, *right = b;
    if (left->vma != right->vma)
        return left->vma < right->vma ? -1 : 1;
    return left->start < right->start ? -1 : left->start > right->start;
}

static int add_segment(struct core_memory *memory, const struct snapshot_vma *vma, uint64_t start,
                       uint64_t end, uint64_t file_offset, bool is_in_file)
{
    if (start >= end)
        return 0;
    Elf64_Phdr *segment = array_append(memory->segments, memory->segment_count);
    if (!segment)
        return -ENOMEM;
    *segment = (Elf64_Phdr){
        .p_type = PT_LOAD,
        .p_flags = (Elf64_Word)((vma->protection & PROT_READ ? PF_R : 0) |
                                (vma->protection & PROT_WRITE ? PF_W : 0) |
                                (vma->protection & PROT_EXEC ? PF_X : 0)),
        .p_offset = file_offset,
        .p_vaddr = start,
        .p_filesz = is_in_file ? end - start : 0,
        .p_memsz = end - start,
        .p_align = CORE_PAGE_BYTES,
    };
    return 0;
}

/* Memory that the process could read although it has never touched it: zeros. */
static bool is_blank(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_ANONYMOUS && (vma->protection & PROT_READ) &&
           vma->end - vma->start <= WHOLE_BYTES_MAX;
}

/* One mapping: what lies in the file, and what does not. */
static int add_segments_of(struct memory_layout *layout, size_t vma_index, size_t *next,
                           struct core_memory *memory)
{
    const struct snapshot_vma *vma = &layout->snapshot->vmas[vma_index];
    uint64_t at = vma->start;
    int r = 0;
    for (; r == 0 && *next < layout->placement_count; (*next)++) {
        const struct placement *placement = &layout->placements[*next];
        if (placement->vma != vma_index)
            break;
        r = add_segment(memory, vma, at, placement->start, memory->start, false);
        if (r == 0)
            r = add_segment(memory, vma, placement->start, placement->end, placement->file_offset, true);
        at = placement->end;
    }
    if (r < 0 || at > vma->start || memory_layout_compresses(layout, vma) || !is_blank(vma))
        return r < 0 ? r : add_segment(memory, vma, at, vma->end, memory->start, false);
    uint64_t offset = core_page_up(layout->next_offset);
    layout->next_offset = offset + (vma->end - vma->start);
    return add_segment(memory, vma, vma->start, vma->end, offset, true);
}

uint64_t memory_layout_append(struct memory_layout *layout, uint64_t length, uint64_t alignment)
{
    uint64_t offset = (layout->next_offset + alignment - 1) & ~(alignment - 1);
    layout->next_offset = offset + length;
    return offset;
}

int memory_layout_describe(struct memory_layout *layout, struct core_memory *memory)
{
    if (layout->placement_count)
        qsort(layout->placements, layout->placement_count, sizeof layout->placements[0], compare_placements);
    memory->start = CORE_PAGE_BYTES;
    size_t next = 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < layout->snapshot->vmas_count; i++)
        r = add_segments_of(layout, i, &next, memory);
    memory->end = core_page_up(layout->next_offset);
    return r;
}

void memory_layout_end(struct memory_layout *layout)
{
    free(layout->placements);
}
