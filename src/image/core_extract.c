/* From an opened file to a snapshot: rows are copied out, never used in place, and no memory is allocated for
 * more of them than the limit of a whole file allows. Rows may be longer than ours (written by a newer
 * version: its first fields are ours) or shorter (by an older one: what it lacks is zero); tables that are
 * missing are empty. */
#include "image/image-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* ---- tables ---- */

/* How many rows a section has, and whether they are of a length that can be read as ours. */
static int count_rows(const Elf64_Shdr *section, const char *name, size_t row_length, size_t *ret_count,
                      struct reseat_error **ret_error)
{
    uint64_t stride = section->sh_entsize;
    if (stride == 0 || stride > CORE_ROW_BYTES_MAX)
        return error_set(ret_error, -EBADMSG, "section %s: rows of %" PRIu64 " bytes", name, stride);
    if (row_length == 1 && stride != 1) /* bytes have no fields to come after them */
        return error_set(ret_error, -EBADMSG, "section %s: rows of %" PRIu64 " bytes, not 1", name, stride);
    uint64_t rest = section->sh_size % stride;
    if (rest != 0)
        return error_set(ret_error, -EBADMSG, "section %s: %" PRIu64 " bytes too short", name, stride - rest);
    *ret_count = section->sh_size / stride;
    return 0;
}

static void copy_rows(const struct core_view *view, int index, size_t count, size_t row_length, uint8_t *rows)
{
    const uint8_t *source = view->contents[index];
    size_t stride = view->sections[index].sh_entsize;
    if (stride == row_length) {
        memcpy(rows, source, count * row_length);
        return;
    }
    for (size_t i = 0; i < count; i++)
        memcpy(rows + i * row_length, source + i * stride, stride < row_length ? stride : row_length);
}

static int extract_process(const struct core_view *view, struct snapshot_process *ret_process,
                           struct reseat_error **ret_error)
{
    int index = core_view_find(view, CORE_SECTION_PROCESS, ret_error);
    if (index < 0)
        return index;
    if (index == 0)
        return error_set(ret_error, -EBADMSG, "section %s: missing", CORE_SECTION_PROCESS);
    size_t count = 0;
    int r = count_rows(&view->sections[index], CORE_SECTION_PROCESS, sizeof *ret_process, &count, ret_error);
    if (r < 0)
        return r;
    if (count != 1)
        return error_set(ret_error, -EBADMSG, "section %s: %zu rows instead of one", CORE_SECTION_PROCESS,
                         count);

    struct snapshot_process process = {0};
    copy_rows(view, index, 1, sizeof process, (uint8_t *)&process);
    if (process.version != SNAPSHOT_VERSION)
        return error_set(ret_error, -EPROTONOSUPPORT,
                         "section %s: written in version %u of the format, this Reseat reads version %d",
                         CORE_SECTION_PROCESS, process.version, SNAPSHOT_VERSION);
    *ret_process = process;
    return 0;
}

/* array_append() takes it that a table has room up to the next power of two. */
static size_t table_capacity(size_t count)
{
    size_t capacity = 1;
    while (capacity < count)
        capacity *= 2;
    return capacity;
}

/* `budget`: bytes that all tables together may still take up. */
static int extract_table(const struct core_view *view, const char *name, size_t row_length, uint64_t *budget,
                         void **ret_rows, size_t *ret_count, struct reseat_error **ret_error)
{
    int index = core_view_find(view, name, ret_error);
    if (index <= 0)
        return index;
    size_t count = 0;
    int r = count_rows(&view->sections[index], name, row_length, &count, ret_error);
    if (r < 0 || count == 0)
        return r;
    if (count > *budget / row_length)
        return error_set(ret_error, -EBADMSG, "section %s: %zu rows are more than any process has", name,
                         count);
    *budget -= count * row_length;
    uint8_t *rows = calloc(table_capacity(count), row_length);
    if (!rows)
        return error_errno(ret_error, -ENOMEM, "section %s: %zu rows", name, count);
    copy_rows(view, index, count, row_length, rows);
    *ret_rows = rows;
    *ret_count = count;
    return 0;
}

int core_view_extract(const struct core_view *view, struct snapshot *ret_snapshot,
                      struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    int r = extract_process(view, &snapshot.process, ret_error);
    if (r < 0)
        return r;
    uint64_t budget = CORE_BYTES_MAX;
#define X(type, name, section)                                                                               \
    void *name = NULL;                                                                                       \
    r = extract_table(view, section, sizeof(type), &budget, &name, &snapshot.name##_count, ret_error);       \
    if (r < 0)                                                                                               \
        return r;                                                                                            \
    snapshot.name = name;
    SNAPSHOT_TABLES(X)
#undef X
    *ret_snapshot = TAKE_GENERIC(snapshot, (struct snapshot){0});
    return 0;
}

/* ---- memory ---- */

static int compare_places(const void *a, const void *b)
{
    const struct snapshot_extent *left = *(const struct snapshot_extent *const *)a;
    const struct snapshot_extent *right = *(const struct snapshot_extent *const *)b;
    return left->file_offset < right->file_offset ? -1 : left->file_offset > right->file_offset;
}

int core_sort_extents(const struct snapshot *snapshot, const struct snapshot_extent ***ret_places,
                      size_t *ret_count)
{
    size_t count = 0;
    const struct snapshot_extent **places =
        calloc(snapshot->extents_count + snapshot->contents_count + 1, sizeof *places);
    if (!places)
        return -ENOMEM;
    for (size_t i = 0; i < snapshot->extents_count; i++)
        places[count++] = &snapshot->extents[i];
    for (size_t i = 0; i < snapshot->contents_count; i++)
        places[count++] = &snapshot->contents[i];
    qsort(places, count, sizeof *places, compare_places);
    *ret_places = places;
    *ret_count = count;
    return 0;
}

int core_view_check_extents(const struct core_view *view, const struct snapshot *snapshot,
                            struct reseat_error **ret_error)
{
    _cleanup_free_ const struct snapshot_extent **places = NULL;
    size_t count = 0;
    int r = core_sort_extents(snapshot, &places, &count);
    if (r < 0)
        return error_errno(ret_error, r, "checking the extents");
    if (count > 0 && !view->memory)
        return error_set(ret_error, -EBADMSG, "section %s: missing", CORE_SECTION_MEMORY);

    const Elf64_Shdr *memory = &view->sections[view->memory];
    uint64_t start = memory->sh_offset, end = start + memory->sh_size;
    for (size_t i = 0; i < count; i++) {
        const struct snapshot_extent *extent = places[i];
        bool is_inside = extent->file_offset >= start && extent->file_offset <= end &&
                         extent->stored_length <= end - extent->file_offset;
        bool is_memory = extent->object == 0;
        if (!is_inside)
            return core_bad_row(ret_error, is_memory ? ".reseat.extent" : ".reseat.content",
                                (size_t)(extent - (is_memory ? snapshot->extents : snapshot->contents)),
                                "overlaps another in the file, or lies outside %s", CORE_SECTION_MEMORY);
        start = extent->file_offset + extent->stored_length;
    }
    return 0;
}
