/* A snapshot as an ELF core file. The rows of the tables are the bytes of the file (see snapshot.h), so
 * nothing is converted or copied: what is made here is a list of pieces for one writev(2), the headers first,
 * then every table where it already lies in memory. This runs while the target stands still.
 *
 * Every byte is covered by a checksum: one XXH3-64 a section; the entry of the empty first section is that of
 * the headers, the entry of the checksums themselves is computed with itself as zero. What lies between
 * sections is zero, and the reader insists on it. */
#include "image/image-internal.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

/* In the order in which core_layout_make() adds the sections. */
#define NAME_OF_TABLE(type, name, section) section "\0"
static const char section_names[] = "\0" CORE_SECTION_PROCESS "\0" SNAPSHOT_TABLES(NAME_OF_TABLE)
    CORE_SECTION_NAMES "\0" CORE_SECTION_CHECKSUMS;

static void add_piece(struct core_layout *layout, const void *data, size_t length)
{
    if (length == 0)
        return;
    layout->pieces[layout->piece_count++] = (struct iovec){.iov_base = (void *)data, .iov_len = length};
    layout->length += length;
}

static void add_section(struct core_layout *layout, Elf64_Word type, const void *data, size_t row_count,
                        size_t row_length)
{
    static const uint8_t padding[CORE_SECTION_ALIGNMENT];
    add_piece(layout, padding, -layout->length % CORE_SECTION_ALIGNMENT);

    size_t length = row_count * row_length;
    layout->checksums[layout->section_count] = XXH3_64bits(data, length);
    layout->sections[layout->section_count++] = (Elf64_Shdr){
        .sh_name = (Elf64_Word)layout->next_name,
        .sh_type = type,
        .sh_offset = layout->length,
        .sh_size = length,
        .sh_addralign = CORE_SECTION_ALIGNMENT,
        .sh_entsize = type == SHT_STRTAB ? 0 : row_length,
    };
    layout->next_name += strlen(section_names + layout->next_name) + 1;
    add_piece(layout, data, length);
}

uint64_t core_checksum_headers(const Elf64_Ehdr *header, const Elf64_Shdr *sections, size_t section_count)
{
    return XXH3_64bits_withSeed(sections, section_count * sizeof *sections,
                                XXH3_64bits(header, sizeof *header));
}

void core_layout_make(const struct snapshot *snapshot, struct core_layout *ret_layout)
{
    struct core_layout *layout = ret_layout;
    *layout = (struct core_layout){.section_count = 1, .next_name = 1};
    add_piece(layout, &layout->header, sizeof layout->header);
    add_piece(layout, layout->sections, sizeof layout->sections);

    add_section(layout, SHT_PROGBITS, &snapshot->process, 1, sizeof snapshot->process);
#define X(type, name, section)                                                                               \
    add_section(layout, SHT_PROGBITS, snapshot->name, snapshot->name##_count, sizeof(type));
    SNAPSHOT_TABLES(X)
#undef X
    size_t names_index = layout->section_count;
    add_section(layout, SHT_STRTAB, section_names, 1, sizeof section_names);
    size_t checksums_index = layout->section_count;
    add_section(layout, SHT_PROGBITS, layout->checksums, CORE_SECTION_COUNT, sizeof layout->checksums[0]);

    layout->header = (Elf64_Ehdr){
        .e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT, ELFOSABI_NONE},
        .e_type = ET_CORE,
        .e_machine = CORE_MACHINE,
        .e_version = EV_CURRENT,
        .e_shoff = sizeof layout->header,
        .e_ehsize = sizeof layout->header,
        .e_shentsize = sizeof layout->sections[0],
        .e_shnum = CORE_SECTION_COUNT,
        .e_shstrndx = (Elf64_Half)names_index,
    };
    layout->checksums[0] = core_checksum_headers(&layout->header, layout->sections, CORE_SECTION_COUNT);
    layout->checksums[checksums_index] = 0;
    layout->checksums[checksums_index] = XXH3_64bits(layout->checksums, sizeof layout->checksums);
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
