/* The ground floor of the freestanding part: text, memory, ELF files, pages. Nothing here issues a kernel
 * call, so all of it is also compiled into host programs that test it (tests/unit/test_foc_*.c). */
#pragma once

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define COUNT_OF(array)           (sizeof(array) / sizeof((array)[0]))
#define _printf_(position, first) __attribute__((__format__(printf, position, first)))

/* Errors have the numbers of Linux on both kernels, so that one protocol serves both. */
enum {
    E_PERM = 1,
    E_NOENT = 2,
    E_SRCH = 3,
    E_IO = 5,
    E_BADF = 9,
    E_AGAIN = 11,
    E_NOMEM = 12,
    E_ACCES = 13,
    E_BUSY = 16,
    E_EXIST = 17,
    E_INVAL = 22,
    E_MFILE = 24,
    E_NOSPC = 28,
    E_RANGE = 34,
    E_NOSYS = 38,
    E_PROTO = 71,
    E_OVERFLOW = 75,
    E_TIMEDOUT = 110,
};

/* ---- text: a small printf that knows %s %c %d %u %x %p %%, with l and z, width, 0 and - ---- */

/* Always ends the text with NUL; returns its length, cut to the room. */
size_t text_format_list(char *text, size_t size, const char *format, va_list arguments);
size_t text_format(char *text, size_t size, const char *format, ...) _printf_(3, 4);
bool text_equal(const char *a, const char *b);
/* The last part of a module's first word: "kernel" of "/boot/kernel -x". */
void text_base_name(const char *command_line, char *name, size_t size);

/* ---- errors: a code and a sentence, as in the rest of the project, but without a heap ---- */

struct reseat_error {
    int code; /* negative errno */
    char message[232];
};

/* Both return `code`. The caller owns no memory: the error is one of a few that are used in turn. */
int error_set(struct reseat_error **ret_error, int code, const char *format, ...) _printf_(3, 4);
int error_prefix(struct reseat_error **ret_error, int code, const char *format, ...) _printf_(3, 4);

/* ---- ELF programs for x86-64, as boot modules ---- */

struct elf_segment {
    uint64_t virtual_address, physical_address;
    uint64_t memory_bytes, file_bytes;
    const unsigned char *data;
    bool is_writable, is_executable;
};

/* Checks the headers against the size of the file: every later look at a segment is inside of it. */
bool elf_is_program(const void *file, size_t size);
uint64_t elf_entry(const void *file);
/* The loadable segment with this number, counted over loadable ones only; false: there are fewer. */
bool elf_segment(const void *file, unsigned number, struct elf_segment *ret_segment);

/* ---- ranges: what is free in an interval of numbers (pages, slots), first fit ---- */

#define RANGES_MAX 256
struct ranges {
    unsigned count;
    struct {
        uint64_t start, end; /* end is the first one behind */
    } range[RANGES_MAX];
};

int ranges_add(struct ranges *ranges, uint64_t start,
               uint64_t end); /* makes free; -E_NOSPC: too many pieces */
int ranges_remove(struct ranges *ranges, uint64_t start,
                  uint64_t end); /* makes used, whatever of it was free */
/* `count` adjacent ones, aligned to `alignment`; false: there are none. */
bool ranges_take(struct ranges *ranges, uint64_t count, uint64_t alignment, uint64_t *ret_start);
uint64_t ranges_total(const struct ranges *ranges);
