/* A snapshot as an ELF core file. The rows of the tables are the bytes of the file (see snapshot.h), so
 * nothing is converted or copied: what is made here is a list of pieces for one writev(2), the headers first,
 * then every table where it already lies in memory. This runs while the target stands still.
 *
 * Every byte is covered by a checksum: one XXH3-64 a section; the entry of the empty first section is that of
 * the headers, the entry of the checksums themselves is computed with itself as zero. What lies between
 * sections is zero, and the reader insists on it. */
#include "image/image-internal.h"
#include "image/memory.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

/* All names that there are; every section finds its own. */
#define NAME_OF_TABLE(type, name, section) section "\0"
static const char section_names[] = "\0" CORE_SECTION_PROCESS "\0" SNAPSHOT_TABLES(NAME_OF_TABLE)
    CORE_SECTION_NAMES "\0" CORE_SECTION_NOTES "\0" CORE_SECTION_MEMORY "\0" CORE_SECTION_CHECKSUMS;

static Elf64_Word name_offset(const char *name)
{
    const char *at = section_names + 1;
    while (strcmp(at, name) != 0)
        at += strlen(at) + 1;
    return (Elf64_Word)(at - section_names);
}

static void add_piece(struct core_layout *layout, const void *data, size_t length)
{
    if (length == 0)
        return;
    layout->pieces[layout->piece_count++] = (struct iovec){.iov_base = (void *)data, .iov_len = length};
    layout->length += length;
}

static Elf64_Shdr *add_section(struct core_layout *layout, const char *name, Elf64_Word type,
                               const void *data, size_t row_count, size_t row_length)
{
    static const uint8_t padding[CORE_SECTION_ALIGNMENT];
    add_piece(layout, padding, -layout->length % CORE_SECTION_ALIGNMENT);

    size_t length = row_count * row_length;
    layout->checksums[layout->section_count] = XXH3_64bits(data, length);
    Elf64_Shdr *section = &layout->sections[layout->section_count++];
    *section = (Elf64_Shdr){
        .sh_name = name_offset(name),
        .sh_type = type,
        .sh_offset = layout->length,
        .sh_size = length,
        .sh_addralign = type == SHT_NOTE ? 4 : CORE_SECTION_ALIGNMENT, /* what notes are padded to */
        .sh_entsize = type == SHT_PROGBITS ? row_length : 0,
    };
    add_piece(layout, data, length);
    return section;
}

/* Its content is written by itself, and each extent has a checksum of its own. */
static void add_memory_section(struct core_layout *layout, const struct core_memory *memory)
{
    layout->sections[layout->section_count++] = (Elf64_Shdr){
        .sh_name = name_offset(CORE_SECTION_MEMORY),
        .sh_type = SHT_PROGBITS,
        .sh_offset = memory->start,
        .sh_size = memory->end - memory->start,
        .sh_addralign = CORE_PAGE_BYTES,
        .sh_entsize = 1,
    };
}

uint64_t core_checksum_headers(const Elf64_Ehdr *header, const Elf64_Phdr *segments, size_t segment_count,
                               const Elf64_Shdr *sections, size_t section_count)
{
    uint64_t checksum = XXH3_64bits(header, sizeof *header);
    if (segment_count)
        checksum = XXH3_64bits_withSeed(segments, segment_count * sizeof *segments, checksum);
    return XXH3_64bits_withSeed(sections, section_count * sizeof *sections, checksum);
}

void core_layout_make(const struct snapshot *snapshot, struct core_memory *memory,
                      struct core_layout *ret_layout)
{
    struct core_layout *layout = ret_layout;
    size_t section_count = memory ? CORE_SECTION_COUNT_MAX : CORE_SECTION_COUNT;
    size_t segment_count = memory ? memory->segment_count : 0;
    *layout = (struct core_layout){.section_count = 1, .start = memory ? memory->end : 0};
    layout->length = layout->start;
    if (!memory)
        add_piece(layout, &layout->header, sizeof layout->header);
    uint64_t segments_offset = segment_count ? layout->length : 0;
    if (memory)
        add_piece(layout, memory->segments, segment_count * sizeof *memory->segments);
    uint64_t sections_offset = layout->length;
    add_piece(layout, layout->sections, section_count * sizeof layout->sections[0]);

    add_section(layout, CORE_SECTION_PROCESS, SHT_PROGBITS, &snapshot->process, 1, sizeof snapshot->process);
#define X(type, name, section)                                                                               \
    add_section(layout, section, SHT_PROGBITS, snapshot->name, snapshot->name##_count, sizeof(type));
    SNAPSHOT_TABLES(X)
#undef X
    if (memory) {
        add_memory_section(layout, memory);
        Elf64_Shdr *notes =
            add_section(layout, CORE_SECTION_NOTES, SHT_NOTE, memory->notes, 1, memory->notes_length);
        memory->segments[segment_count - 1].p_offset = notes->sh_offset;
    }
    size_t names_index = layout->section_count;
    add_section(layout, CORE_SECTION_NAMES, SHT_STRTAB, section_names, 1, sizeof section_names);
    size_t checksums_index = layout->section_count;
    add_section(layout, CORE_SECTION_CHECKSUMS, SHT_PROGBITS, layout->checksums, section_count,
                sizeof layout->checksums[0]);

    layout->header = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE},
        .e_type = ET_CORE,
        .e_machine = CORE_MACHINE,
        .e_version = EV_CURRENT,
        .e_phoff = segments_offset,
        .e_shoff = sections_offset,
        .e_ehsize = sizeof layout->header,
        .e_phentsize = segment_count ? sizeof(Elf64_Phdr) : 0,
        .e_phnum = (Elf64_Half)(segment_count < PN_XNUM ? segment_count : PN_XNUM),
        .e_shentsize = sizeof layout->sections[0],
        .e_shnum = (Elf64_Half)section_count,
        .e_shstrndx = (Elf64_Half)names_index,
    };
    if (segment_count >= PN_XNUM)
        layout->sections[0].sh_info = (Elf64_Word)segment_count;
    layout->checksums[0] = core_checksum_headers(&layout->header, memory ? memory->segments : NULL,
                                                 segment_count, layout->sections, section_count);
    layout->checksums[checksums_index] = 0;
    layout->checksums[checksums_index] =
        XXH3_64bits(layout->checksums, section_count * sizeof layout->checksums[0]);
}

int core_layout_write(struct core_layout *layout, int fd)
{
    struct iovec *piece = layout->pieces, *end = piece + layout->piece_count;
    while (piece < end) {
        ssize_t written = writev(fd, piece, (int)(end - piece));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        /* Short only when the disk is about to be full or a signal came: the next round says which. */
        size_t left = (size_t)written;
        while (piece < end && left >= piece->iov_len)
            left -= piece++->iov_len;
        if (left > 0) {
            piece->iov_base = (char *)piece->iov_base + left;
            piece->iov_len -= left;
        }
    }
    return 0;
}

/* Last of all comes the header, without which it is no ELF file. */
int core_layout_sink(const struct core_layout *layout, struct core_sink *sink)
{
    uint64_t offset = layout->start;
    int r = 0;
    for (size_t i = 0; r == 0 && i < layout->piece_count; i++) {
        r = core_sink_write(sink, offset, layout->pieces[i].iov_base, layout->pieces[i].iov_len);
        offset += layout->pieces[i].iov_len;
    }
    return r == 0 ? core_sink_write(sink, 0, &layout->header, sizeof layout->header) : r;
}
