/* An ELF core file as a snapshot. The file is hostile until proven otherwise: every offset, size and count is
 * compared with what is really there before it is used, sections may not overlap each other or the headers,
 * and what belongs to no section is zero. No memory is allocated for more rows than the limit of the whole
 * file would allow. Rows are copied out, never used in place.
 *
 * Rows may be longer than ours (written by a newer version: its first fields are ours) or shorter (by an
 * older one: what it lacks is zero). Unknown sections are passed over, missing tables are empty. */
#include "image/image-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

/* ---- open: the headers, and where the sections lie ---- */

static int check_identity(const Elf64_Ehdr *header, struct reseat_error **ret_error)
{
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
        return error_set(ret_error, -EBADMSG, "not an ELF file");
    if (header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_ident[EI_VERSION] != EV_CURRENT || header->e_version != EV_CURRENT)
        return error_set(ret_error, -EBADMSG, "ELF header: not 64-bit little-endian ELF of version 1");
    if (header->e_type != ET_CORE)
        return error_set(ret_error, -EBADMSG, "ELF header: type %u is not that of a core file",
                         header->e_type);
    if (header->e_machine != CORE_MACHINE)
        return error_set(ret_error, -EPROTONOSUPPORT, "ELF header: made on machine type %u, this is %u",
                         header->e_machine, CORE_MACHINE);
    return 0;
}

static int check_header(const Elf64_Ehdr *header, size_t length, struct reseat_error **ret_error)
{
    int r = check_identity(header, ret_error);
    if (r < 0)
        return r;
    if (header->e_phnum != 0)
        return error_set(ret_error, -EPROTONOSUPPORT,
                         "ELF header: has program headers, which this version of Reseat does not write");
    if (header->e_ehsize != sizeof *header || header->e_shentsize != sizeof(Elf64_Shdr))
        return error_set(ret_error, -EBADMSG, "ELF header: wrong sizes of headers");
    if (header->e_shnum < 2 || header->e_shnum > CORE_SECTIONS_MAX)
        return error_set(ret_error, -EBADMSG, "ELF header: %u sections, 2 to %d are allowed", header->e_shnum,
                         CORE_SECTIONS_MAX);
    if (header->e_shstrndx == 0 || header->e_shstrndx >= header->e_shnum)
        return error_set(ret_error, -EBADMSG, "ELF header: section %u of the names does not exist",
                         header->e_shstrndx);
    size_t table_length = header->e_shnum * sizeof(Elf64_Shdr);
    if (header->e_shoff > length || table_length > length - header->e_shoff)
        return error_set(ret_error, -EBADMSG, "section header table: lies outside the file");
    return 0;
}

/* Only names that we know are repeated to the user: others are whatever the file's author liked. */
static const char *describe_section(const struct core_view *view, size_t index, char buffer[static 32])
{
    static const char *const known[] = {CORE_SECTION_PROCESS, CORE_SECTION_CHECKSUMS, CORE_SECTION_NAMES,
#define X(type, name, section) section,
                                        SNAPSHOT_TABLES(X)
#undef X
    };
    if (view->names)
        for (size_t i = 0; i < COUNT_OF(known); i++)
            if (strcmp(view->names + view->sections[index].sh_name, known[i]) == 0)
                return known[i];
    snprintf(buffer, 32, "number %zu", index);
    return buffer;
}

/* Whether the section lies in the file, and is of a type that has bytes there. */
static int check_section(const struct core_view *view, size_t index, struct reseat_error **ret_error)
{
    const Elf64_Shdr *section = &view->sections[index];
    char buffer[32];
    const char *name = describe_section(view, index, buffer);
    if (section->sh_type != (index == view->header.e_shstrndx ? SHT_STRTAB : SHT_PROGBITS))
        return error_set(ret_error, -EBADMSG, "section %s: unexpected type %u", name, section->sh_type);
    if (section->sh_flags != 0)
        return error_set(ret_error, -EBADMSG, "section %s: unexpected flags 0x%" PRIx64, name,
                         section->sh_flags);
    if (section->sh_offset > view->length)
        return error_set(ret_error, -EBADMSG, "section %s: begins after the end of the file", name);
    uint64_t available = view->length - section->sh_offset;
    if (section->sh_size > available)
        return error_set(ret_error, -EBADMSG, "section %s: %" PRIu64 " bytes too short", name,
                         section->sh_size - available);
    return 0;
}

/* Sets view->names once every sh_name is an offset of a NUL-terminated string. */
static int check_names(struct core_view *view, struct reseat_error **ret_error)
{
    size_t index = view->header.e_shstrndx;
    int r = check_section(view, index, ret_error);
    if (r < 0)
        return r;
    uint64_t length = view->sections[index].sh_size;
    const char *names = (const char *)view->bytes + view->sections[index].sh_offset;
    if (length == 0 || names[length - 1] != '\0')
        return error_set(ret_error, -EBADMSG, "section %s: does not end with a NUL", CORE_SECTION_NAMES);
    for (size_t i = 1; i < view->header.e_shnum; i++)
        if (view->sections[i].sh_name >= length)
            return error_set(ret_error, -EBADMSG, "section number %zu: its name lies outside %s", i,
                             CORE_SECTION_NAMES);
    view->names = names;
    return 0;
}

/* A stretch of the file and the section it belongs to; 0: the headers. */
struct extent {
    uint64_t start, end;
    size_t section;
};

static int compare_extents(const void *a, const void *b)
{
    const struct extent *left = a, *right = b;
    return left->start < right->start ? -1 : left->start > right->start;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* Every byte of the file belongs to one header or one section, or is padding: zero, and not at the end. */
static int check_extents(const struct core_view *view, struct reseat_error **ret_error)
{
    struct extent extents[CORE_SECTIONS_MAX + 1];
    size_t count = 0;
    extents[count++] = (struct extent){.start = 0, .end = sizeof view->header};
    extents[count++] = (struct extent){
        .start = view->header.e_shoff,
        .end = view->header.e_shoff + view->header.e_shnum * sizeof(Elf64_Shdr),
    };
    for (size_t i = 1; i < view->header.e_shnum; i++)
        if (view->sections[i].sh_size > 0)
            extents[count++] = (struct extent){
                .start = view->sections[i].sh_offset,
                .end = view->sections[i].sh_offset + view->sections[i].sh_size,
                .section = i,
            };
    qsort(extents, count, sizeof extents[0], compare_extents);

    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        char buffer[32];
        const char *name =
            extents[i].section ? describe_section(view, extents[i].section, buffer) : "headers";
        if (extents[i].start < end)
            return error_set(ret_error, -EBADMSG, "section %s: overlaps what lies before it", name);
        if (!is_zero(view->bytes + end, extents[i].start - end))
            return error_set(ret_error, -EBADMSG, "section %s: the padding before it is not zero", name);
        end = extents[i].end;
    }
    if (end != view->length)
        return error_set(ret_error, -EBADMSG, "%" PRIu64 " bytes after the last section", view->length - end);
    return 0;
}

int core_view_open(const uint8_t *bytes, size_t length, struct core_view *ret_view,
                   struct reseat_error **ret_error)
{
    struct core_view view = {.bytes = bytes, .length = length};
    if (length < sizeof view.header)
        return error_set(ret_error, -EBADMSG, "ELF header: %zu bytes too short", sizeof view.header - length);
    if (length > CORE_BYTES_MAX)
        return error_set(ret_error, -EBADMSG, "%zu bytes long, %llu are allowed", length, CORE_BYTES_MAX);
    memcpy(&view.header, bytes, sizeof view.header);
    int r = check_header(&view.header, length, ret_error);
    if (r < 0)
        return r;
    memcpy(view.sections, bytes + view.header.e_shoff, view.header.e_shnum * sizeof(Elf64_Shdr));
    r = check_names(&view, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 1; i < view.header.e_shnum; i++) {
        r = check_section(&view, i, ret_error);
        if (r < 0)
            return r;
    }
    r = check_extents(&view, ret_error);
    if (r < 0)
        return r;
    *ret_view = view;
    return 0;
}

/* ---- verify ---- */

int core_view_find(const struct core_view *view, const char *name, struct reseat_error **ret_error)
{
    int found = 0;
    for (int i = 1; i < view->header.e_shnum; i++) {
        if (strcmp(view->names + view->sections[i].sh_name, name) != 0)
            continue;
        if (found)
            return error_set(ret_error, -EBADMSG, "section %s: is there twice", name);
        found = i;
    }
    return found;
}

int core_view_verify(const struct core_view *view, struct reseat_error **ret_error)
{
    int own = core_view_find(view, CORE_SECTION_CHECKSUMS, ret_error);
    if (own < 0)
        return own;
    if (own == 0)
        return error_set(ret_error, -EBADMSG, "section %s: missing", CORE_SECTION_CHECKSUMS);

    size_t count = view->header.e_shnum;
    uint64_t checksums[CORE_SECTIONS_MAX];
    if (view->sections[own].sh_size != count * sizeof checksums[0])
        return error_set(ret_error, -EBADMSG, "section %s: %" PRIu64 " bytes for %zu sections",
                         CORE_SECTION_CHECKSUMS, view->sections[own].sh_size, count);
    memcpy(checksums, view->bytes + view->sections[own].sh_offset, count * sizeof checksums[0]);

    uint64_t own_checksum = TAKE_GENERIC(checksums[own], 0);
    if (own_checksum != XXH3_64bits(checksums, count * sizeof checksums[0]))
        return error_set(ret_error, -EBADMSG, "section %s: damaged, its own checksum is wrong",
                         CORE_SECTION_CHECKSUMS);
    if (checksums[0] != core_checksum_headers(&view->header, view->sections, count))
        return error_set(ret_error, -EBADMSG, "headers: damaged, the checksum is wrong");
    for (size_t i = 1; i < count; i++) {
        const Elf64_Shdr *section = &view->sections[i];
        char buffer[32];
        if (i != (size_t)own &&
            checksums[i] != XXH3_64bits(view->bytes + section->sh_offset, section->sh_size))
            return error_set(ret_error, -EBADMSG, "section %s: damaged, the checksum is wrong",
                             describe_section(view, i, buffer));
    }
    return 0;
}

/* ---- extract ---- */

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

static void copy_rows(const struct core_view *view, const Elf64_Shdr *section, size_t count,
                      size_t row_length, uint8_t *rows)
{
    const uint8_t *source = view->bytes + section->sh_offset;
    size_t stride = section->sh_entsize;
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
    copy_rows(view, &view->sections[index], 1, sizeof process, (uint8_t *)&process);
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
    copy_rows(view, &view->sections[index], count, row_length, rows);
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
