/* An ELF core file, opened and looked through. It is hostile until proven otherwise: every offset, size and
 * count is compared with what is really there before it is used, sections may not overlap each other or the
 * headers, and what belongs to no section is zero. Unknown sections are passed over.
 *
 * A file with memory is large: headers and tables are read from it, memory is not. Its section must hold all
 * that the program headers say is in the file. */
#include "image/image-internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

#define PADDING_BYTES_MAX (1U << 20)

/* ---- where the bytes come from ---- */

int core_source_read(const struct core_source *source, uint64_t offset, void *buffer, size_t length)
{
    if (offset > source->length || length > source->length - offset)
        return -EBADMSG;
    if (source->bytes) {
        memcpy(buffer, source->bytes + offset, length);
        return 0;
    }
    for (uint8_t *to = buffer; length > 0;) {
        ssize_t n = pread(source->fd, to, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EBADMSG;
        to += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

static int read_source(const struct core_view *view, uint64_t offset, void *buffer, size_t length,
                       struct reseat_error **ret_error)
{
    int r = core_source_read(&view->source, offset, buffer, length);
    if (r == -EBADMSG)
        return error_set(ret_error, r, "became shorter while it was read");
    return r < 0 ? error_errno(ret_error, r, "reading") : 0;
}

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

static int check_header(const Elf64_Ehdr *header, uint64_t length, struct reseat_error **ret_error)
{
    int r = check_identity(header, ret_error);
    if (r < 0)
        return r;
    if (header->e_ehsize != sizeof *header || header->e_shentsize != sizeof(Elf64_Shdr) ||
        (header->e_phnum != 0 && header->e_phentsize != sizeof(Elf64_Phdr)))
        return error_set(ret_error, -EBADMSG, "ELF header: wrong sizes of headers");
    if (header->e_shnum < 2 || header->e_shnum > CORE_SECTIONS_MAX)
        return error_set(ret_error, -EBADMSG,
                         "not a core file of a checkpoint: it has %u sections, 2 to %d are allowed",
                         header->e_shnum, CORE_SECTIONS_MAX);
    if (header->e_shstrndx == 0 || header->e_shstrndx >= header->e_shnum)
        return error_set(ret_error, -EBADMSG, "ELF header: section %u of the names does not exist",
                         header->e_shstrndx);
    size_t table_length = header->e_shnum * sizeof(Elf64_Shdr);
    if (header->e_shoff > length || table_length > length - header->e_shoff)
        return error_set(ret_error, -EBADMSG, "section header table: lies outside the file");
    return 0;
}

/* The program headers. More than fit into e_phnum are counted in the first section header, elf(5). */
static int read_segments(struct core_view *view, struct reseat_error **ret_error)
{
    const Elf64_Ehdr *header = &view->header;
    uint64_t count = header->e_phnum == PN_XNUM ? view->sections[0].sh_info : header->e_phnum;
    if (count == 0)
        return 0;
    uint64_t length = view->source.length;
    if (header->e_phoff > length || count > (length - header->e_phoff) / sizeof(Elf64_Phdr))
        return error_set(ret_error, -EBADMSG, "program header table: lies outside the file");
    if (count > CORE_BYTES_MAX / sizeof(Elf64_Phdr))
        return error_set(ret_error, -EBADMSG, "program header table: %" PRIu64 " of them", count);
    view->segments = calloc(count, sizeof *view->segments);
    if (!view->segments)
        return error_errno(ret_error, -ENOMEM, "%" PRIu64 " program headers", count);
    view->segment_count = count;
    return read_source(view, header->e_phoff, view->segments, count * sizeof *view->segments, ret_error);
}

/* Only names that we know are repeated to the user: others are whatever the file's author liked. */
static const char *describe_section(const struct core_view *view, size_t index, char buffer[static 32])
{
    static const char *const known[] = {CORE_SECTION_PROCESS, CORE_SECTION_CHECKSUMS, CORE_SECTION_NAMES,
                                        CORE_SECTION_NOTES,   CORE_SECTION_MEMORY,
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
    bool is_names = index == view->header.e_shstrndx;
    if (section->sh_type != (is_names ? SHT_STRTAB : SHT_PROGBITS) &&
        (is_names || section->sh_type != SHT_NOTE))
        return error_set(ret_error, -EBADMSG, "section %s: unexpected type %u", name, section->sh_type);
    if (section->sh_flags != 0)
        return error_set(ret_error, -EBADMSG, "section %s: unexpected flags 0x%" PRIx64, name,
                         section->sh_flags);
    if (section->sh_offset > view->source.length)
        return error_set(ret_error, -EBADMSG, "section %s: begins after the end of the file", name);
    uint64_t available = view->source.length - section->sh_offset;
    if (section->sh_size > available)
        return error_set(ret_error, -EBADMSG, "section %s: %" PRIu64 " bytes too short", name,
                         section->sh_size - available);
    return 0;
}

static int load_section(struct core_view *view, size_t index, uint64_t *budget,
                        struct reseat_error **ret_error)
{
    const Elf64_Shdr *section = &view->sections[index];
    char buffer[32];
    if (section->sh_size > *budget)
        return error_set(ret_error, -EBADMSG, "section %s: %" PRIu64 " bytes are more than any process needs",
                         describe_section(view, index, buffer), section->sh_size);
    *budget -= section->sh_size;
    view->contents[index] = malloc(section->sh_size ? section->sh_size : 1);
    if (!view->contents[index])
        return error_errno(ret_error, -ENOMEM, "section %s: %" PRIu64 " bytes",
                           describe_section(view, index, buffer), section->sh_size);
    return read_source(view, section->sh_offset, view->contents[index], section->sh_size, ret_error);
}

/* Sets view->names once every sh_name is an offset of a NUL-terminated string. */
static int check_names(struct core_view *view, uint64_t *budget, struct reseat_error **ret_error)
{
    size_t index = view->header.e_shstrndx;
    int r = check_section(view, index, ret_error);
    if (r == 0)
        r = load_section(view, index, budget, ret_error);
    if (r < 0)
        return r;
    uint64_t length = view->sections[index].sh_size;
    const char *names = (const char *)view->contents[index];
    if (length == 0 || names[length - 1] != '\0')
        return error_set(ret_error, -EBADMSG, "section %s: does not end with a NUL", CORE_SECTION_NAMES);
    for (size_t i = 1; i < view->header.e_shnum; i++)
        if (view->sections[i].sh_name >= length)
            return error_set(ret_error, -EBADMSG, "section number %zu: its name lies outside %s", i,
                             CORE_SECTION_NAMES);
    view->names = names;
    return 0;
}

/* A core file of a debugger or of the kernel: said before something in it is called wrong. */
static int check_origin(const struct core_view *view, struct reseat_error **ret_error)
{
    for (size_t i = 1; i < view->header.e_shnum; i++)
        if (strcmp(view->names + view->sections[i].sh_name, CORE_SECTION_PROCESS) == 0)
            return 0;
    return error_set(ret_error, -EBADMSG, "not a core file of a checkpoint: it has no section %s",
                     CORE_SECTION_PROCESS);
}

static int load_sections(struct core_view *view, struct reseat_error **ret_error)
{
    uint64_t budget = CORE_BYTES_MAX;
    int r = check_names(view, &budget, ret_error);
    if (r == 0)
        r = check_origin(view, ret_error);
    for (size_t i = 1; r == 0 && i < view->header.e_shnum; i++)
        r = check_section(view, i, ret_error);
    if (r < 0)
        return r;
    int memory = core_view_find(view, CORE_SECTION_MEMORY, ret_error);
    if (memory < 0)
        return memory;
    view->memory = (size_t)memory;
    for (size_t i = 1; r == 0 && i < view->header.e_shnum; i++)
        if (i != view->memory && !view->contents[i])
            r = load_section(view, i, &budget, ret_error);
    return r;
}

/* A stretch of the file and what it is. */
struct stretch {
    uint64_t start, end;
    size_t section; /* 0: headers */
};

static int compare_stretches(const void *a, const void *b)
{
    const struct stretch *left = a, *right = b;
    return left->start < right->start ? -1 : left->start > right->start;
}

static bool is_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (bytes[i] != 0)
            return false;
    return true;
}

/* What lies between two stretches is not much, and zero. */
static int check_padding(const struct core_view *view, uint64_t start, uint64_t end, const char *name,
                         struct reseat_error **ret_error)
{
    uint8_t padding[CORE_PAGE_BYTES];
    if (end - start > PADDING_BYTES_MAX)
        return error_set(ret_error, -EBADMSG, "section %s: %" PRIu64 " bytes of nothing before it", name,
                         end - start);
    while (start < end) {
        size_t length = end - start < sizeof padding ? end - start : sizeof padding;
        int r = read_source(view, start, padding, length, ret_error);
        if (r < 0)
            return r;
        if (!is_zero(padding, length))
            return error_set(ret_error, -EBADMSG, "section %s: the padding before it is not zero", name);
        start += length;
    }
    return 0;
}

/* Every byte of the file belongs to one header or one section, or is padding: zero, and not at the end. */
static int check_stretches(const struct core_view *view, struct reseat_error **ret_error)
{
    struct stretch stretches[CORE_SECTIONS_MAX + 3];
    size_t count = 0;
    stretches[count++] = (struct stretch){.start = 0, .end = sizeof view->header};
    stretches[count++] = (struct stretch){
        .start = view->header.e_shoff,
        .end = view->header.e_shoff + view->header.e_shnum * sizeof(Elf64_Shdr),
    };
    if (view->segment_count)
        stretches[count++] = (struct stretch){
            .start = view->header.e_phoff,
            .end = view->header.e_phoff + view->segment_count * sizeof(Elf64_Phdr),
        };
    for (size_t i = 1; i < view->header.e_shnum; i++)
        if (view->sections[i].sh_size > 0)
            stretches[count++] = (struct stretch){
                .start = view->sections[i].sh_offset,
                .end = view->sections[i].sh_offset + view->sections[i].sh_size,
                .section = i,
            };
    qsort(stretches, count, sizeof stretches[0], compare_stretches);

    uint64_t end = 0;
    for (size_t i = 0; i < count; i++) {
        char buffer[32];
        size_t section = stretches[i].section;
        const char *name = section ? describe_section(view, section, buffer) : "headers";
        if (stretches[i].start < end)
            return error_set(ret_error, -EBADMSG, "section %s: overlaps what lies before it", name);
        int r = check_padding(view, end, stretches[i].start, name, ret_error);
        if (r < 0)
            return r;
        end = stretches[i].end;
    }
    if (end != view->source.length)
        return error_set(ret_error, -EBADMSG, "%" PRIu64 " bytes after the last section",
                         view->source.length - end);
    return 0;
}

/* What the program headers say is in the file lies in the section of the memory or in that of the notes. */
static int check_segments(const struct core_view *view, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < view->segment_count; i++) {
        const Elf64_Phdr *segment = &view->segments[i];
        bool is_found = segment->p_type == PT_LOAD && segment->p_filesz == 0;
        for (size_t s = 1; !is_found && s < view->header.e_shnum; s++) {
            const Elf64_Shdr *section = &view->sections[s];
            bool is_kind = segment->p_type == PT_LOAD
                               ? s == view->memory
                               : segment->p_type == PT_NOTE && section->sh_type == SHT_NOTE;
            is_found = is_kind && segment->p_offset >= section->sh_offset &&
                       segment->p_offset - section->sh_offset <= section->sh_size &&
                       segment->p_filesz <= section->sh_size - (segment->p_offset - section->sh_offset);
        }
        bool is_too_long = segment->p_type == PT_LOAD && segment->p_filesz > segment->p_memsz;
        if (!is_found || is_too_long)
            return error_set(ret_error, -EBADMSG,
                             "program header %zu: is not about memory or notes of the file", i);
    }
    return 0;
}

void core_view_close(struct core_view *view)
{
    for (size_t i = 0; i < COUNT_OF(view->contents); i++)
        free(view->contents[i]);
    free(view->segments);
    *view = (struct core_view){0};
}

int core_view_open(const struct core_source *source, struct core_view *ret_view,
                   struct reseat_error **ret_error)
{
    _cleanup_(core_view_close) struct core_view view = {.source = *source};
    if (source->length < sizeof view.header)
        return error_set(ret_error, -EBADMSG, "ELF header: %" PRIu64 " bytes too short",
                         sizeof view.header - source->length);
    int r = read_source(&view, 0, &view.header, sizeof view.header, ret_error);
    if (r == 0)
        r = check_header(&view.header, source->length, ret_error);
    if (r == 0)
        r = read_source(&view, view.header.e_shoff, view.sections, view.header.e_shnum * sizeof(Elf64_Shdr),
                        ret_error);
    if (r == 0)
        r = read_segments(&view, ret_error);
    if (r == 0)
        r = load_sections(&view, ret_error);
    if (r == 0)
        r = check_stretches(&view, ret_error);
    if (r == 0)
        r = check_segments(&view, ret_error);
    if (r < 0)
        return r;
    *ret_view = TAKE_GENERIC(view, (struct core_view){0});
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
    memcpy(checksums, view->contents[own], count * sizeof checksums[0]);

    uint64_t own_checksum = TAKE_GENERIC(checksums[own], 0);
    if (own_checksum != XXH3_64bits(checksums, count * sizeof checksums[0]))
        return error_set(ret_error, -EBADMSG, "section %s: damaged, its own checksum is wrong",
                         CORE_SECTION_CHECKSUMS);
    if (checksums[0] !=
        core_checksum_headers(&view->header, view->segments, view->segment_count, view->sections, count))
        return error_set(ret_error, -EBADMSG, "headers: damaged, the checksum is wrong");
    for (size_t i = 1; i < count; i++) {
        const Elf64_Shdr *section = &view->sections[i];
        char buffer[32];
        if (i == (size_t)own)
            continue;
        /* Of the memory each extent has its own. */
        uint64_t expected = i == view->memory ? 0 : XXH3_64bits(view->contents[i], section->sh_size);
        if (checksums[i] != expected)
            return error_set(ret_error, -EBADMSG, "section %s: damaged, the checksum is wrong",
                             describe_section(view, i, buffer));
    }
    return 0;
}
