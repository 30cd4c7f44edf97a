/* The kernel-neutral parts of core on Fiasco.OC, on the host: text, free ranges, ELF programs, and how a call
 * that was cancelled is made again. */
#include "base/base.h"
#include "restart.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* ---- text ---- */

static void assert_text(const char *expected, const char *format, ...)
{
    char text[64];
    va_list arguments;
    va_start(arguments, format);
    size_t length = text_format_list(text, sizeof text, format, arguments);
    va_end(arguments);
    assert_string_equal(text, expected);
    assert_int_equal(length, strlen(expected));
}

static void test_format(void **state)
{
    (void)state;
    assert_text("", "");
    assert_text("a 1 -2 ff %", "%s %u %d %x %%", "a", 1u, -2, 255u);
    assert_text("18446744073709551615", "%lu", ~0ul);
    assert_text("-9223372036854775808", "%ld", (long)(1ul << 63));
    assert_text("   42|42   |00042", "%5u|%-5u|%05u", 42u, 42u, 42u);
    assert_text("ab   |   ab", "%-5s|%5s", "ab", "ab");
    assert_text("x", "%c", 'x');
    assert_text("7", "%zu", (size_t)7);
    assert_text("end", "end%");
}

static void test_format_is_cut(void **state)
{
    (void)state;
    char text[4] = "xxx";
    assert_int_equal(text_format(text, sizeof text, "%s", "abcdef"), 3);
    assert_string_equal(text, "abc");
    assert_int_equal(text_format(text, 1, "%u", 123u), 0);
    assert_string_equal(text, "");
    assert_int_equal(text_format(NULL, 0, "%u", 123u), 0);
}

static void test_names(void **state)
{
    (void)state;
    char name[8];
    text_base_name("/boot/dir/core -serial", name, sizeof name);
    assert_string_equal(name, "core");
    text_base_name("longer-than-room", name, sizeof name);
    assert_string_equal(name, "longer-");
    assert_true(text_equal("a", "a"));
    assert_false(text_equal("a", "ab"));
    assert_false(text_equal("ab", "a"));
}

static void test_errors(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    assert_int_equal(error_set(NULL, -E_BUSY, "nobody listens"), -E_BUSY);
    assert_int_equal(error_set(&error, -E_EXIST, "selector %u is in use", 5u), -E_EXIST);
    assert_int_equal(error->code, -E_EXIST);
    assert_int_equal(error_prefix(&error, -E_EXIST, "PD %d", 7), -E_EXIST);
    assert_string_equal(error->message, "PD 7: selector 5 is in use");
}

/* ---- ranges ---- */

static void test_ranges(void **state)
{
    (void)state;
    struct ranges ranges = {0};
    uint64_t start;
    assert_false(ranges_take(&ranges, 1, 1, &start));
    assert_int_equal(ranges_add(&ranges, 10, 20), 0);
    assert_int_equal(ranges_add(&ranges, 30, 40), 0);
    assert_int_equal(ranges_add(&ranges, 20, 30), 0); /* closes the gap */
    assert_int_equal(ranges.count, 1);
    assert_int_equal(ranges_total(&ranges), 30);
    assert_int_equal(ranges_remove(&ranges, 15, 17), 0);
    assert_int_equal(ranges.count, 2);
    assert_true(ranges_take(&ranges, 8, 8, &start));
    assert_int_equal(start, 24); /* the first place that is aligned and large enough */
    assert_int_equal(ranges_remove(&ranges, 0, 100), 0);
    assert_int_equal(ranges.count, 0);
}

/* Against a plain array, for a long time. */
static void test_ranges_at_random(void **state)
{
    (void)state;
    enum { SIZE = 200 };
    struct ranges ranges = {0};
    bool is_free[SIZE] = {false};
    srand(1);
    for (unsigned round = 0; round < 20000; round++) {
        unsigned start = (unsigned)rand() % SIZE, end = start + (unsigned)rand() % (SIZE - start + 1);
        bool adds = rand() % 2;
        assert_int_equal(adds ? ranges_add(&ranges, start, end) : ranges_remove(&ranges, start, end), 0);
        for (unsigned i = start; i < end; i++)
            is_free[i] = adds;
        unsigned total = 0;
        for (unsigned i = 0; i < SIZE; i++)
            total += is_free[i];
        assert_int_equal(ranges_total(&ranges), total);
        for (unsigned i = 0; i < ranges.count; i++) {
            assert_true(ranges.range[i].start < ranges.range[i].end);
            assert_true(i == 0 || ranges.range[i - 1].end < ranges.range[i].start);
            assert_true(is_free[ranges.range[i].start] && is_free[ranges.range[i].end - 1]);
        }
    }
}

static void test_ranges_are_full(void **state)
{
    (void)state;
    struct ranges ranges = {0};
    for (unsigned i = 0; i < RANGES_MAX; i++)
        assert_int_equal(ranges_add(&ranges, i * 10, i * 10 + 5), 0);
    assert_int_equal(ranges_add(&ranges, RANGES_MAX * 10, RANGES_MAX * 10 + 5), -E_NOSPC);
    assert_int_equal(ranges_remove(&ranges, 2, 3), -E_NOSPC);
    assert_int_equal(ranges_total(&ranges), RANGES_MAX * 5);
}

/* ---- ELF ---- */

/* A header and two segments, of which one is loaded; offsets as elf(5) says. */
static size_t make_program(unsigned char *file)
{
    memset(file, 0, 512);
    memcpy(file,
           "\x7f"
           "ELF\x02\x01\x01",
           7);
    *(uint16_t *)(file + 16) = 2;
    *(uint16_t *)(file + 18) = 62;
    *(uint64_t *)(file + 24) = 0x10000010;
    *(uint64_t *)(file + 32) = 64;
    *(uint16_t *)(file + 54) = 56;
    *(uint16_t *)(file + 56) = 2;
    unsigned char *segment = file + 64 + 56;
    *(uint32_t *)segment = 1;
    *(uint32_t *)(segment + 4) = 5;
    *(uint64_t *)(segment + 8) = 256;
    *(uint64_t *)(segment + 16) = 0x10000000;
    *(uint64_t *)(segment + 24) = 0x20000000;
    *(uint64_t *)(segment + 32) = 16;
    *(uint64_t *)(segment + 40) = 4096;
    return 512;
}

static void test_elf(void **state)
{
    (void)state;
    unsigned char file[512] __attribute__((aligned(8)));
    size_t size = make_program(file);
    struct elf_segment segment;
    assert_true(elf_is_program(file, size));
    assert_int_equal(elf_entry(file), 0x10000010);
    assert_true(elf_segment(file, 0, &segment));
    assert_int_equal(segment.virtual_address, 0x10000000);
    assert_int_equal(segment.physical_address, 0x20000000);
    assert_int_equal(segment.memory_bytes, 4096);
    assert_ptr_equal(segment.data, file + 256);
    assert_true(segment.is_executable);
    assert_false(segment.is_writable);
    assert_false(elf_segment(file, 1, &segment));
}

static void test_elf_is_hostile(void **state)
{
    (void)state;
    unsigned char file[512] __attribute__((aligned(8)));
    size_t size = make_program(file);
    for (size_t length = 0; length < 256 + 16; length++)
        assert_false(elf_is_program(file, length));
    assert_true(elf_is_program(file, 256 + 16));
    static const struct {
        size_t offset;
        uint64_t value;
    } wrong[] = {
        {32, ~0ull},           {32, 65},           {64 + 56 + 8, ~0ull},
        {64 + 56 + 32, ~0ull}, {64 + 56 + 40, 1},  {64 + 56 + 16, ~0ull},
        {64 + 56 + 24, ~0ull}, {64 + 56 + 8, 497},
    };
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        make_program(file);
        *(uint64_t *)(file + wrong[i].offset) = wrong[i].value;
        assert_false(elf_is_program(file, size));
    }
    /* Whatever is in it: a file that is taken has its segments inside. */
    srand(2);
    for (unsigned round = 0; round < 100000; round++) {
        make_program(file);
        for (unsigned i = 0; i < 3; i++)
            file[(unsigned)rand() % 176] = (unsigned char)rand();
        struct elf_segment segment;
        if (!elf_is_program(file, size))
            continue;
        for (unsigned i = 0; elf_segment(file, i, &segment); i++)
            assert_true(segment.data >= file && segment.data + segment.file_bytes <= file + size &&
                        segment.file_bytes <= segment.memory_bytes);
    }
}

/* ---- calls that are made again ---- */

static void test_restart(void **state)
{
    (void)state;
    const foc_word_t tag = FOC_TAG(3, 1, 0, 7);
    struct foc_registers registers = {.rip = 0x1002,
                                      .rax = tag | FOC_TAG_ERROR,
                                      .rdx = FOC_CAP(9) | FOC_REPLY_AND_WAIT};
    assert_int_equal(restart_prepare(&registers, FOC_IPC_RECEIVE_CANCELED, true, false), RESTART_WAIT);
    assert_int_equal(registers.rip, 0x1000);
    assert_int_equal(registers.rax, tag);
    assert_int_equal(registers.rdx, FOC_CAP(9) | FOC_WAIT); /* the answer was sent already */

    registers =
        (struct foc_registers){.rip = 0x1002, .rax = tag | FOC_TAG_ERROR, .rdx = FOC_CAP(9) | FOC_CALL};
    assert_int_equal(restart_prepare(&registers, FOC_IPC_RECEIVE_CANCELED, true, false), RESTART_REPEAT);
    assert_int_equal(registers.rdx, FOC_CAP(9) | FOC_CALL);

    registers = (struct foc_registers){.rip = 0x1002, .rax = FOC_TAG_ERROR, .rdx = FOC_CAP(9) | FOC_CALL};
    assert_int_equal(restart_prepare(&registers, FOC_IPC_RECEIVE_CANCELED, true, true), RESTART_WAIT);
    assert_int_equal(registers.rax, FOC_TAG(1, 0, 0, FOC_PROTOCOL_SEMAPHORE));
}

static void test_restart_is_not_needed(void **state)
{
    (void)state;
    const struct foc_registers before = {.rip = 0x1002, .rax = FOC_TAG_ERROR, .rdx = FOC_CAP(9) | FOC_CALL};
    struct foc_registers registers = before;
    assert_int_equal(restart_prepare(&registers, FOC_IPC_RECEIVE_CANCELED, false, false), RESTART_NOT_NEEDED);
    assert_int_equal(restart_prepare(&registers, FOC_IPC_RECEIVE_TIMEOUT, true, false), RESTART_NOT_NEEDED);
    assert_int_equal(restart_prepare(&registers, FOC_IPC_CANCELED, true, false), RESTART_LOST);
    registers.rax = 0;
    assert_int_equal(restart_prepare(&registers, FOC_IPC_RECEIVE_CANCELED, true, false), RESTART_NOT_NEEDED);
    registers.rax = before.rax;
    assert_memory_equal(&registers, &before, sizeof before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format),
        cmocka_unit_test(test_format_is_cut),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_ranges_at_random),
        cmocka_unit_test(test_ranges_are_full),
        cmocka_unit_test(test_elf),
        cmocka_unit_test(test_elf_is_hostile),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_restart_is_not_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
