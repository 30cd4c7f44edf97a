/* The bridge between two vDSOs, run in our own process: a copy of ours stands for that of an image. */
#include "cold/cold-internal.h"
#include "reseat.h"

#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <cmocka.h>

/* Our vDSO, and a copy of it that can be changed and called. */
struct copy {
    const uint8_t *ours;
    size_t length;
    uint8_t *code;
};

static int make_copy(void **state)
{
    struct copy *copy = calloc(1, sizeof *copy);
    _cleanup_(snapshot_free) struct snapshot map = {0};
    assert_non_null(copy);
    *state = copy;
    if (process_capture_map(getpid(), &map, NULL) < 0 || !cold_find_vdso(&map))
        return 0;
    const struct snapshot_vma *vdso = cold_find_vdso(&map);
    copy->ours = (const uint8_t *)vdso->start;
    copy->length = (size_t)(vdso->end - vdso->start);
    copy->code =
        mmap(NULL, copy->length, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(copy->code, MAP_FAILED);
    memcpy(copy->code, copy->ours, copy->length);
    return 0;
}

static int end_copy(void **state)
{
    struct copy *copy = *state;
    if (copy->code)
        munmap(copy->code, copy->length);
    free(copy);
    return 0;
}

static struct copy *need_copy(void **state)
{
    struct copy *copy = *state;
    if (!copy->code)
        skip();
    return copy;
}

/* Where a function is in the copy; NULL: our vDSO has none of that name. */
static void *function_in(const struct copy *copy, const char *name)
{
    void *vdso = dlopen("linux-vdso.so.1", RTLD_NOW | RTLD_NOLOAD);
    void *function = vdso ? dlvsym(vdso, name, "LINUX_2.6") : NULL;
    if (vdso)
        dlclose(vdso);
    return function ? copy->code + ((const uint8_t *)function - copy->ours) : NULL;
}

static bool bridge(const struct copy *copy, const uint8_t *ours)
{
    return cold_bridge_vdso(copy->code, copy->length, ours, copy->length, (uint64_t)ours, NULL) == 0;
}

/* All that can be asked of it, compared with what the C library says. */
static void check_functions(const struct copy *copy)
{
    int (*gettime)(clockid_t, struct timespec *) = function_in(copy, "__vdso_clock_gettime");
    int (*getres)(clockid_t, struct timespec *) = function_in(copy, "__vdso_clock_getres");
    int (*of_day)(struct timeval *, void *) = function_in(copy, "__vdso_gettimeofday");
    time_t (*seconds)(time_t *) = function_in(copy, "__vdso_time");
    int (*cpu)(unsigned *, unsigned *, void *) = function_in(copy, "__vdso_getcpu");
    struct timespec before, now, after, resolution;
    struct timeval day;
    unsigned processor = UINT32_MAX, node = UINT32_MAX;
    assert_non_null(gettime);
    clock_gettime(CLOCK_MONOTONIC, &before);
    assert_int_equal(gettime(CLOCK_MONOTONIC, &now), 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    assert_true(before.tv_sec <= now.tv_sec && now.tv_sec <= after.tv_sec);
    assert_true(gettime((clockid_t)77, &now) < 0);
    assert_int_equal(of_day(&day, NULL), 0);
    assert_true(labs(day.tv_sec - time(NULL)) <= 1 && labs(seconds(NULL) - time(NULL)) <= 1);
    assert_true(!getres || (getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_nsec == 1));
    assert_int_equal(cpu(&processor, &node, NULL), 0);
    assert_true(processor < (unsigned)sysconf(_SC_NPROCESSORS_CONF) && node < 1024);
}

/* getrandom came with Linux 6.11. */
static void check_getrandom(const struct copy *copy, bool has_states)
{
    ssize_t (*getrandom)(void *, size_t, unsigned, void *, size_t) = function_in(copy, "__vdso_getrandom");
    uint8_t bytes[64] = {0}, zero[64] = {0}, parameters[64];
    if (!getrandom)
        return;
    assert_int_equal(getrandom(NULL, 0, 0, parameters, (size_t)-1), has_states ? 0 : -ENOSYS);
    if (has_states)
        return;
    assert_int_equal(getrandom(bytes, sizeof bytes, 0, NULL, 0), sizeof bytes);
    assert_memory_not_equal(bytes, zero, sizeof bytes);
}

static void test_jumps(void **state)
{
    struct copy *copy = need_copy(state);
    assert_true(bridge(copy, copy->ours));
    check_functions(copy);
    check_getrandom(copy, true);
}

static void test_system_calls(void **state)
{
    struct copy *copy = need_copy(state);
    assert_true(bridge(copy, NULL));
    check_functions(copy);
    check_getrandom(copy, false);
}

static void test_bridge_to_a_bridge(void **state)
{
    struct copy *copy = need_copy(state);
    assert_true(bridge(copy, copy->ours) && bridge(copy, NULL) && bridge(copy, copy->ours));
    check_functions(copy);
}

/* Whatever is wrong with it, nothing outside of it is read or written (by AddressSanitizer and the pages
 * around it), and what is refused is left as it was. */
static void test_hostile(void **state)
{
    struct copy *copy = need_copy(state);
    unsigned refused = 0, tried = 0;
    for (size_t length = 0; length < copy->length; length += length < 4096 ? 8 : 512) {
        _cleanup_free_ uint8_t *piece = malloc(length + 1), *before = malloc(length + 1);
        memcpy(piece, copy->ours, length);
        memcpy(before, piece, length);
        if (cold_bridge_vdso(piece, length, copy->ours, copy->length, 0, NULL) < 0) {
            assert_memory_equal(piece, before, length);
            refused++;
        }
    }
    assert_true(refused > 64); /* half of its symbols are not enough */
    for (size_t at = 0; at < 0x800 && at < copy->length; at++, tried++) {
        static const uint8_t values[] = {0, 0x7f, 0xff};
        for (size_t i = 0; i < COUNT_OF(values); i++) {
            _cleanup_free_ uint8_t *piece = malloc(copy->length);
            memcpy(piece, copy->ours, copy->length);
            piece[at] = values[i];
            cold_bridge_vdso(piece, copy->length, copy->ours, copy->length, 0, NULL);
        }
    }
    assert_true(tried > 0);
}

/* Functions that stand too close for a jump. */
static void test_no_room(void **state)
{
    struct copy *copy = need_copy(state);
    Elf64_Ehdr header;
    memcpy(&header, copy->code, sizeof header);
    uint64_t first = 0;
    for (size_t i = 0; i < header.e_shnum; i++) {
        Elf64_Shdr section;
        memcpy(&section, copy->code + header.e_shoff + i * sizeof section, sizeof section);
        for (size_t j = 0; section.sh_type == SHT_DYNSYM && j < section.sh_size / sizeof(Elf64_Sym); j++) {
            Elf64_Sym *symbol = (Elf64_Sym *)(copy->code + section.sh_offset) + j;
            if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC && first)
                symbol->st_value = first + 8;
            else if (ELF64_ST_TYPE(symbol->st_info) == STT_FUNC)
                first = symbol->st_value;
        }
    }
    struct reseat_error *error = NULL;
    int r = cold_bridge_vdso(copy->code, copy->length, copy->ours, copy->length, 0, &error);
    assert_int_equal(r, -ENOTSUP);
    assert_non_null(strstr(reseat_error_message(error), "has no room"));
    reseat_error_free(error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_jumps, make_copy, end_copy),
        cmocka_unit_test_setup_teardown(test_system_calls, make_copy, end_copy),
        cmocka_unit_test_setup_teardown(test_bridge_to_a_bridge, make_copy, end_copy),
        cmocka_unit_test_setup_teardown(test_hostile, make_copy, end_copy),
        cmocka_unit_test_setup_teardown(test_no_room, make_copy, end_copy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
