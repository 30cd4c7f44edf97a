/* Another processor: extended state that it lays out otherwise, instructions that it lacks. */
#include "process/process.h"
#include "target/arch/arch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define AVX          2u
#define PKRU         9u
#define AVX_BYTES    256u
#define LEGACY_BYTES 512u
#define STATE_BYTES  4096u

/* Extended state as no processor lays it out. */
static struct arch_xstate_layout make_foreign(uint8_t state[STATE_BYTES], uint64_t in_use)
{
    struct arch_xstate_layout layout = {.components = 7 | 1 << PKRU};
    layout.offsets[AVX] = 1024;
    layout.lengths[AVX] = AVX_BYTES;
    layout.offsets[PKRU] = 2048;
    layout.lengths[PKRU] = 8;
    for (size_t i = 0; i < STATE_BYTES; i++)
        state[i] = (uint8_t)(i * 7 >> 3);
    memcpy(state + LEGACY_BYTES, &in_use, sizeof in_use);
    uint32_t rights = 0x55555554;
    memcpy(state + 2048, &rights, sizeof rights);
    return layout;
}

static bool has_avx(void)
{
    struct arch_xstate_layout ours;
    arch_xstate_layout(&ours);
    return ours.components >> AVX & 1;
}

static void test_layout(void **state)
{
    (void)state;
    struct arch_xstate_layout ours;
    arch_xstate_layout(&ours);
    for (uint32_t i = 2; i < ARCH_XSTATE_COMPONENTS; i++)
        if (ours.components >> i & 1)
            assert_true(ours.offsets[i] + ours.lengths[i] <= arch_xstate_length());
    if (has_avx())
        assert_true(ours.offsets[AVX] == 576 && ours.lengths[AVX] == AVX_BYTES);
}

static void test_convert(void **state)
{
    (void)state;
    uint8_t foreign[STATE_BYTES], result[STATE_BYTES];
    struct arch_xstate_layout layout = make_foreign(foreign, 7 | 1 << PKRU), ours;
    size_t length = arch_xstate_length();
    if (!has_avx())
        skip();
    arch_xstate_layout(&ours);
    assert_true(arch_xstate_convert(foreign, STATE_BYTES, &layout, result, length));
    assert_memory_equal(result, foreign, ARCH_XSTATE_FEATURES_OFFSET);
    assert_memory_equal(result + ours.offsets[AVX], foreign + 1024, AVX_BYTES);
    uint64_t in_use, there;
    memcpy(&in_use, result + LEGACY_BYTES, sizeof in_use);
    memcpy(&there, result + ARCH_XSTATE_FEATURES_OFFSET, sizeof there);
    assert_int_equal(in_use, (7 | 1 << PKRU) & ours.components);
    assert_int_equal(there, ours.components);
    assert_null(arch_missing_xstate(result, length, &ours));
}

/* Of what is not in use nothing is looked at, and protection keys that nobody has used are not missed. */
static void test_not_in_use(void **state)
{
    (void)state;
    uint8_t foreign[STATE_BYTES], result[STATE_BYTES];
    struct arch_xstate_layout layout = make_foreign(foreign, 3 | 1 << PKRU), ours;
    arch_xstate_layout(&ours);
    layout.offsets[AVX] = UINT32_MAX;
    assert_true(arch_xstate_convert(foreign, STATE_BYTES, &layout, result, arch_xstate_length()));
    assert_null(arch_missing_xstate(foreign, STATE_BYTES, &layout));
    if (ours.components >> PKRU & 1)
        return;
    foreign[2048] = 0;
    assert_string_equal(arch_missing_xstate(foreign, STATE_BYTES, &layout), "PKU");
    layout.offsets[PKRU] = STATE_BYTES - 2;
    assert_string_equal(arch_missing_xstate(foreign, STATE_BYTES, &layout), "PKU");
}

static void test_hostile(void **state)
{
    (void)state;
    static const uint32_t wrong[][2] = {{0, AVX_BYTES},
                                        {511, AVX_BYTES},
                                        {575, AVX_BYTES},
                                        {STATE_BYTES, AVX_BYTES},
                                        {STATE_BYTES - 255, 256},
                                        {UINT32_MAX, 256},
                                        {1024, UINT32_MAX},
                                        {1024, 255},
                                        {1024, 0}};
    uint8_t foreign[STATE_BYTES], result[STATE_BYTES];
    if (!has_avx())
        skip();
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct arch_xstate_layout layout = make_foreign(foreign, 7);
        layout.offsets[AVX] = wrong[i][0];
        layout.lengths[AVX] = wrong[i][1];
        assert_false(arch_xstate_convert(foreign, STATE_BYTES, &layout, result, arch_xstate_length()));
    }
    struct arch_xstate_layout layout = make_foreign(foreign, 7);
    assert_false(arch_xstate_convert(foreign, LEGACY_BYTES, &layout, result, arch_xstate_length()));
    assert_false(arch_xstate_convert(foreign, STATE_BYTES, &layout, result, LEGACY_BYTES));
}

/* What is recorded of this machine is not missing on it; what is added to that is. */
static void test_features(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_free_ char *none = process_missing_features(&snapshot);
    assert_string_equal(none, "");
    assert_int_equal(process_describe_machine(&snapshot, NULL), 0);
    struct snapshot_machine *machine = &snapshot.machines[0];
    assert_non_null(strchr(machine->kernel_release, '.'));
    const char *ours = (const char *)snapshot.blobs + machine->features_offset;
    assert_non_null(strstr(ours, "cx16")); /* every 64-bit processor of the last twenty years */
    _cleanup_free_ char *missing = process_missing_features(&snapshot);
    assert_string_equal(missing, "");
    char more[2 * ARCH_FEATURES_BYTES];
    snprintf(more, sizeof more, "avx9000f  %s telepathy cx1", ours);
    assert_int_equal(snapshot_add_blob(&snapshot, more, strlen(more) + 1, &machine->features_offset), 0);
    _cleanup_free_ char *some = process_missing_features(&snapshot);
    assert_string_equal(some, "avx9000f telepathy cx1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),  cmocka_unit_test(test_convert),  cmocka_unit_test(test_not_in_use),
        cmocka_unit_test(test_hostile), cmocka_unit_test(test_features),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
