/* Whether the memory map and the extents make sense: mappings and extents in ascending order, none over
 * another, whole pages, each extent in one mapping or of one object. What the numbers mean to the kernel
 * (protection, addresses that it does not allow) it checks itself; how long the file of an object is, its
 * kind knows (object_check()). */
#include "image/image-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <string.h>

#define SECTION_VMAS     ".reseat.vma"
#define SECTION_EXTENTS  ".reseat.extent"
#define SECTION_CONTENTS ".reseat.content"
#define PAGE_SHIFT_MIN   12
#define PAGE_SHIFT_MAX   40

static bool are_pages(uint64_t address)
{
    return address % CORE_PAGE_BYTES == 0;
}

/* As the kernel tells it. (Where it leads is looked at when it is opened.) */
bool core_is_full_path(const char *path)
{
    for (const char *part = strchr(path, '/'); part; part = strchr(part + 1, '/'))
        if (strncmp(part, "/../", 4) == 0 || strcmp(part, "/..") == 0)
            return false;
    return path[0] == '/';
}

static int check_vma(const struct snapshot *snapshot, size_t row, struct reseat_error **ret_error)
{
    const struct snapshot_vma *vma = &snapshot->vmas[row];
    if (vma->start >= vma->end || !are_pages(vma->start) || !are_pages(vma->end))
        return core_bad_row(ret_error, SECTION_VMAS, row, "%" PRIx64 "-%" PRIx64 " is no mapping", vma->start,
                            vma->end);
    if (row > 0 && vma->start < vma[-1].end)
        return core_bad_row(ret_error, SECTION_VMAS, row,
                            "%" PRIx64 "-%" PRIx64 " begins before the mapping before it ends", vma->start,
                            vma->end);
    if (vma->kind < SNAPSHOT_VMA_ANONYMOUS || vma->kind > SNAPSHOT_VMA_OTHER)
        return core_bad_row(ret_error, SECTION_VMAS, row, "%u is no kind of mapping", vma->kind);
    if (!are_pages(vma->offset) || vma->offset > INT64_MAX - (vma->end - vma->start))
        return core_bad_row(ret_error, SECTION_VMAS, row, "%" PRIu64 " is no offset", vma->offset);
    if (vma->page_shift < PAGE_SHIFT_MIN || vma->page_shift > PAGE_SHIFT_MAX)
        return core_bad_row(ret_error, SECTION_VMAS, row, "pages of 2^%u bytes", vma->page_shift);
    int r = core_check_text(snapshot, SECTION_VMAS, row, "path", vma->path_offset, PATH_MAX, ret_error);
    if (r == 0 && vma->kind == SNAPSHOT_VMA_FILE &&
        !core_is_full_path((const char *)snapshot->blobs + vma->path_offset))
        return core_bad_row(ret_error, SECTION_VMAS, row, "its path is not absolute, or has .. in it");
    return r;
}

int core_check_vmas(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++)
        r = check_vma(snapshot, i, ret_error);
    return r;
}

/* What is so in both tables. `extents`: all of them. */
static int check_extent(const struct snapshot_extent *extents, size_t row, const char *section,
                        struct reseat_error **ret_error)
{
    const struct snapshot_extent *extent = &extents[row];
    if (extent->length == 0 || extent->length > CORE_EXTENT_BYTES_MAX || !are_pages(extent->address) ||
        extent->address > INT64_MAX - CORE_EXTENT_BYTES_MAX)
        return core_bad_row(ret_error, section, row, "%" PRIu64 " bytes at %" PRIx64 " are no extent",
                            extent->length, extent->address);
    if (extent->stored_length == 0 || extent->stored_length > extent->length)
        return core_bad_row(ret_error, section, row, "%" PRIu64 " bytes cannot be stored in %" PRIu64,
                            extent->length, extent->stored_length);
    if (row > 0 && extent->object == extent[-1].object &&
        extent->address < extent[-1].address + extent[-1].length)
        return core_bad_row(ret_error, section, row,
                            "begins at %" PRIx64 ", before the extent before it ends", extent->address);
    return 0;
}

/* Both tables ascend, so one walk finds the mapping of every extent. */
int core_check_extents(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    size_t v = 0;
    for (size_t i = 0; i < snapshot->extents_count; i++) {
        const struct snapshot_extent *extent = &snapshot->extents[i];
        int r = check_extent(snapshot->extents, i, SECTION_EXTENTS, ret_error);
        if (r < 0)
            return r;
        if (!are_pages(extent->length) || extent->object != 0)
            return core_bad_row(ret_error, SECTION_EXTENTS, i, "%" PRIu64 " bytes of object %u are no memory",
                                extent->length, extent->object);
        while (v < snapshot->vmas_count && snapshot->vmas[v].end <= extent->address)
            v++;
        if (v == snapshot->vmas_count || extent->address < snapshot->vmas[v].start ||
            extent->address + extent->length > snapshot->vmas[v].end)
            return core_bad_row(ret_error, SECTION_EXTENTS, i,
                                "%" PRIx64 "-%" PRIx64 " is not within one mapping", extent->address,
                                extent->address + extent->length);
    }
    return 0;
}

/* Object by object. The end of a file may be anywhere, so the last extent of one need not be whole pages. */
int core_check_contents(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->contents_count; i++) {
        const struct snapshot_extent *extent = &snapshot->contents[i];
        int r = check_extent(snapshot->contents, i, SECTION_CONTENTS, ret_error);
        if (r < 0)
            return r;
        if (extent->object == 0 || extent->object > snapshot->objects_count)
            return core_bad_row(ret_error, SECTION_CONTENTS, i, "there is no object %u", extent->object);
        if (i > 0 && extent->object < extent[-1].object)
            return core_bad_row(ret_error, SECTION_CONTENTS, i, "object %u comes after object %u",
                                extent->object, extent[-1].object);
    }
    return 0;
}
