/* The bridge from the vDSO of one kernel to that of another: each function of the old code becomes a jump to
 * the same function of the new one; what the new one lacks becomes a system call.
 *
 * The old code comes from an image, and nothing in it is believed: every offset is looked at before it is
 * used. What stands between the functions is never run again, so a jump may be longer than the function that
 * it replaces, but not reach into the next. Rests on elf(5), vdso(7). */
#include "cold/cold-internal.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

/* What is known of an ELF image in memory. */
struct vdso_image {
    const uint8_t *bytes;
    size_t length;
    uint64_t base; /* the address that it is linked for */
    size_t symbols, symbol_count, names, names_length;
};

/* Whether there are `count` things of `size` bytes at an offset. */
static bool is_inside(const struct vdso_image *image, uint64_t offset, uint64_t count, size_t size)
{
    return offset <= image->length && count <= (image->length - offset) / size;
}

static Elf64_Sym symbol_at(const struct vdso_image *image, size_t index)
{
    Elf64_Sym symbol;
    memcpy(&symbol, image->bytes + image->symbols + index * sizeof symbol, sizeof symbol);
    return symbol;
}

/* The name of a function, and where it is; NULL: the symbol is no function of the image. */
static const char *function_at(const struct vdso_image *image, size_t index, size_t *ret_offset)
{
    Elf64_Sym symbol = symbol_at(image, index);
    if (ELF64_ST_TYPE(symbol.st_info) != STT_FUNC || symbol.st_shndx == SHN_UNDEF ||
        symbol.st_name >= image->names_length || symbol.st_value - image->base >= image->length)
        return NULL;
    const char *name = (const char *)image->bytes + image->names + symbol.st_name;
    *ret_offset = (size_t)(symbol.st_value - image->base);
    return memchr(name, '\0', image->names_length - symbol.st_name) ? name : NULL;
}

/* Names begin where symbols end: so linkers lay them out, and nothing else says how many symbols there are
 * for sure (there may be a DT_HASH, a DT_GNU_HASH, or both). */
static bool read_dynamic(struct vdso_image *image, uint64_t offset, uint64_t length)
{
    uint64_t symbols = 0, names = 0, names_length = 0;
    if (!is_inside(image, offset, length, 1))
        return false;
    for (size_t i = 0; i < length / sizeof(Elf64_Dyn); i++) {
        Elf64_Dyn entry;
        memcpy(&entry, image->bytes + offset + i * sizeof entry, sizeof entry);
        if (entry.d_tag == DT_NULL)
            break;
        if (entry.d_tag == DT_SYMTAB)
            symbols = entry.d_un.d_ptr - image->base;
        else if (entry.d_tag == DT_STRTAB)
            names = entry.d_un.d_ptr - image->base;
        else if (entry.d_tag == DT_STRSZ)
            names_length = entry.d_un.d_val;
    }
    if (!symbols || symbols >= names || !is_inside(image, names, names_length, 1))
        return false;
    image->symbols = (size_t)symbols;
    image->symbol_count = (size_t)(names - symbols) / sizeof(Elf64_Sym);
    image->names = (size_t)names;
    image->names_length = (size_t)names_length;
    return true;
}

static bool read_image(const uint8_t *bytes, size_t length, struct vdso_image *ret_image)
{
    struct vdso_image image = {.bytes = bytes, .length = length};
    Elf64_Ehdr header;
    Elf64_Phdr dynamic = {0};
    if (length < sizeof header)
        return false;
    memcpy(&header, bytes, sizeof header);
    if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof(Elf64_Phdr) ||
        !is_inside(&image, header.e_phoff, header.e_phnum, sizeof(Elf64_Phdr)))
        return false;
    for (size_t i = 0; i < header.e_phnum; i++) {
        Elf64_Phdr segment;
        memcpy(&segment, bytes + header.e_phoff + i * sizeof segment, sizeof segment);
        if (segment.p_type == PT_LOAD)
            image.base = segment.p_vaddr - segment.p_offset;
        else if (segment.p_type == PT_DYNAMIC)
            dynamic = segment;
    }
    *ret_image = image;
    return dynamic.p_filesz && read_dynamic(ret_image, dynamic.p_offset, dynamic.p_filesz);
}

static bool find_function(const struct vdso_image *image, const char *name, size_t *ret_offset)
{
    for (size_t i = 0; i < image->symbol_count; i++) {
        const char *other = function_at(image, i, ret_offset);
        if (other && strcmp(other, name) == 0)
            return true;
    }
    return false;
}

/* How many bytes there are from a function to the next one, or to the end. */
static size_t room_at(const struct vdso_image *image, size_t offset)
{
    size_t end = image->length, other;
    for (size_t i = 0; i < image->symbol_count; i++)
        if (function_at(image, i, &other) && other > offset && other < end)
            end = other;
    return end - offset;
}

/* What is to stand at the place of a function of that name. */
static size_t build_function(const char *name, const struct vdso_image *ours, uint64_t our_address,
                             bool *ret_is_jump, uint8_t code[ARCH_SUBSTITUTE_BYTES])
{
    size_t offset;
    *ret_is_jump = ours->bytes && find_function(ours, name, &offset);
    return *ret_is_jump ? arch_jump_build(code, our_address + offset) : arch_substitute_build(code, name);
}

int cold_bridge_vdso(uint8_t *code, size_t length, const uint8_t *ours, size_t our_length,
                     uint64_t our_address, struct reseat_error **ret_error)
{
    _cleanup_free_ uint8_t *result = malloc(length + 1);
    struct vdso_image old, new = {0};
    size_t count = 0;
    if (!result)
        return error_errno(ret_error, -ENOMEM, "building a bridge to the vDSO");
    if (!read_image(code, length, &old))
        return error_set(ret_error, -EBADMSG, "the vDSO in the image is not an ELF file with functions");
    if (ours && !read_image(ours, our_length, &new))
        return error_set(ret_error, -ENOTSUP, "the vDSO of this kernel is not an ELF file with functions");
    memcpy(result, code, length);
    /* Functions have several names, and one that the new vDSO knows is enough: jumps come last. */
    for (int jumps = 0; jumps < 2; jumps++)
        for (size_t i = 0; i < old.symbol_count; i++) {
            uint8_t piece[ARCH_SUBSTITUTE_BYTES];
            size_t offset;
            bool is_jump;
            const char *name = function_at(&old, i, &offset);
            size_t piece_length = name ? build_function(name, &new, our_address, &is_jump, piece) : 0;
            if (!name || is_jump != jumps)
                continue;
            if (piece_length > room_at(&old, offset))
                return error_set(ret_error, -ENOTSUP,
                                 "function %.64s of the vDSO in the image has no room for a jump", name);
            memcpy(result + offset, piece, piece_length);
            count++;
        }
    if (!count)
        return error_set(ret_error, -EBADMSG, "the vDSO in the image has no functions");
    memcpy(code, result, length);
    return 0;
}
