/* ELF programs (64-bit, x86-64, little endian) as they lie in memory as boot modules: elf(5), System V ABI.
 * Everything is checked once, against the size of the module, before any of it is used. Compiled for 32 bits
 * too: the multiboot start loads the kernel with it. Relocation, dynamic linking and sections are not looked
 * at. */
#include "base.h"

#define SEGMENTS_MAX 64

struct header {
    unsigned char identification[16];
    uint16_t type, machine;
    uint32_t version;
    uint64_t entry, segments_offset, sections_offset;
    uint32_t flags;
    uint16_t header_bytes, segment_bytes, segment_count, section_bytes, section_count, names;
};

struct segment {
    uint32_t type, flags;
    uint64_t offset, virtual_address, physical_address, file_bytes, memory_bytes, alignment;
};

enum { TYPE_EXECUTABLE = 2, MACHINE_X86_64 = 62, SEGMENT_LOAD = 1, FLAG_X = 1, FLAG_W = 2 };

static const struct segment *segment_at(const void *file, unsigned index)
{
    const struct header *header = file;
    return (const struct segment *)((const unsigned char *)file + header->segments_offset) + index;
}

static bool segment_is_sound(const struct segment *segment, size_t size)
{
    return segment->offset <= size && segment->file_bytes <= size - segment->offset &&
           segment->file_bytes <= segment->memory_bytes &&
           segment->virtual_address + segment->memory_bytes >= segment->virtual_address &&
           segment->physical_address + segment->memory_bytes >= segment->physical_address;
}

bool elf_is_program(const void *file, size_t size)
{
    const struct header *header = file;
    if (size < sizeof *header || header->identification[0] != 0x7f || header->identification[1] != 'E' ||
        header->identification[2] != 'L' || header->identification[3] != 'F')
        return false;
    if (header->identification[4] != 2 || header->identification[5] != 1 || header->type != TYPE_EXECUTABLE ||
        header->machine != MACHINE_X86_64)
        return false;
    if (header->segment_bytes != sizeof(struct segment) || header->segment_count > SEGMENTS_MAX ||
        header->segments_offset % 8 != 0 || header->segments_offset > size ||
        header->segment_count * sizeof(struct segment) > size - header->segments_offset)
        return false;
    for (unsigned i = 0; i < header->segment_count; i++)
        if (segment_at(file, i)->type == SEGMENT_LOAD && !segment_is_sound(segment_at(file, i), size))
            return false;
    return true;
}

uint64_t elf_entry(const void *file)
{
    return ((const struct header *)file)->entry;
}

bool elf_segment(const void *file, unsigned number, struct elf_segment *ret_segment)
{
    const struct header *header = file;
    for (unsigned i = 0; i < header->segment_count; i++) {
        const struct segment *segment = segment_at(file, i);
        if (segment->type != SEGMENT_LOAD || segment->memory_bytes == 0 || number-- != 0)
            continue;
        *ret_segment = (struct elf_segment){
            .virtual_address = segment->virtual_address,
            .physical_address = segment->physical_address,
            .memory_bytes = segment->memory_bytes,
            .file_bytes = segment->file_bytes,
            .data = (const unsigned char *)file + segment->offset,
            .is_writable = segment->flags & FLAG_W,
            .is_executable = segment->flags & FLAG_X,
        };
        return true;
    }
    return false;
}
