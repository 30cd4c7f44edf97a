/* What a processor has that programs use: sets of instructions by the names that /proc/cpuinfo has for them,
 * and the layout of the extended state. Rests on CPUID (leaves 1, 7, 0xd, 0x80000001, 0x80000008) and XCR0:
 * instructions whose registers the kernel has not switched on are not there. */
#include "target/arch/arch.h"

#include <cpuid.h>
#include <string.h>
#include <sys/auxv.h>

#define XCR0_LEGACY         0x3u /* x87 and SSE, which all have */
#define XCR0_AVX            0x6u
#define XCR0_AVX512         0xe6u
#define XCR0_AMX            0x60000u
#define HWCAP_FSGSBASE      2u /* AT_HWCAP2 */

#define XSTATE_LEGACY_BYTES 512 /* x87 and SSE */
#define XSTATE_HEADER_BYTES 64
#define XSTATE_BYTES_MIN    (XSTATE_LEGACY_BYTES + XSTATE_HEADER_BYTES)
#define COMPONENT_PKRU      9
#define PKRU_DEFAULT        0x55555554u /* all keys but the first are without access */

enum register_index { EAX, EBX, ECX, EDX };

/* One bit of CPUID. */
struct feature {
    const char *name;
    uint32_t leaf, subleaf;
    uint8_t index, bit;
    uint32_t needs; /* components of the extended state */
};

static const struct feature features[] = {
    {"pni", 1, 0, ECX, 0, 0},
    {"pclmulqdq", 1, 0, ECX, 1, 0},
    {"ssse3", 1, 0, ECX, 9, 0},
    {"fma", 1, 0, ECX, 12, XCR0_AVX},
    {"cx16", 1, 0, ECX, 13, 0},
    {"sse4_1", 1, 0, ECX, 19, 0},
    {"sse4_2", 1, 0, ECX, 20, 0},
    {"movbe", 1, 0, ECX, 22, 0},
    {"popcnt", 1, 0, ECX, 23, 0},
    {"aes", 1, 0, ECX, 25, 0},
    {"xsave", 1, 0, ECX, 27, 0},
    {"avx", 1, 0, ECX, 28, XCR0_AVX},
    {"f16c", 1, 0, ECX, 29, XCR0_AVX},
    {"rdrand", 1, 0, ECX, 30, 0},
    {"bmi1", 7, 0, EBX, 3, 0},
    {"avx2", 7, 0, EBX, 5, XCR0_AVX},
    {"bmi2", 7, 0, EBX, 8, 0},
    {"rtm", 7, 0, EBX, 11, 0},
    {"avx512f", 7, 0, EBX, 16, XCR0_AVX512},
    {"avx512dq", 7, 0, EBX, 17, XCR0_AVX512},
    {"rdseed", 7, 0, EBX, 18, 0},
    {"adx", 7, 0, EBX, 19, 0},
    {"avx512ifma", 7, 0, EBX, 21, XCR0_AVX512},
    {"clflushopt", 7, 0, EBX, 23, 0},
    {"clwb", 7, 0, EBX, 24, 0},
    {"avx512cd", 7, 0, EBX, 28, XCR0_AVX512},
    {"sha_ni", 7, 0, EBX, 29, 0},
    {"avx512bw", 7, 0, EBX, 30, XCR0_AVX512},
    {"avx512vl", 7, 0, EBX, 31, XCR0_AVX512},
    {"avx512vbmi", 7, 0, ECX, 1, XCR0_AVX512},
    {"waitpkg", 7, 0, ECX, 5, 0},
    {"avx512_vbmi2", 7, 0, ECX, 6, XCR0_AVX512},
    {"gfni", 7, 0, ECX, 8, 0},
    {"vaes", 7, 0, ECX, 9, XCR0_AVX},
    {"vpclmulqdq", 7, 0, ECX, 10, XCR0_AVX},
    {"avx512_vnni", 7, 0, ECX, 11, XCR0_AVX512},
    {"avx512_bitalg", 7, 0, ECX, 12, XCR0_AVX512},
    {"avx512_vpopcntdq", 7, 0, ECX, 14, XCR0_AVX512},
    {"rdpid", 7, 0, ECX, 22, 0},
    {"movdiri", 7, 0, ECX, 27, 0},
    {"movdir64b", 7, 0, ECX, 28, 0},
    {"avx512_4vnniw", 7, 0, EDX, 2, XCR0_AVX512},
    {"avx512_4fmaps", 7, 0, EDX, 3, XCR0_AVX512},
    {"avx512_vp2intersect", 7, 0, EDX, 8, XCR0_AVX512},
    {"serialize", 7, 0, EDX, 14, 0},
    {"tsxldtrk", 7, 0, EDX, 16, 0},
    {"amx_bf16", 7, 0, EDX, 22, XCR0_AMX},
    {"avx512_fp16", 7, 0, EDX, 23, XCR0_AVX512},
    {"amx_tile", 7, 0, EDX, 24, XCR0_AMX},
    {"amx_int8", 7, 0, EDX, 25, XCR0_AMX},
    {"sha512", 7, 1, EAX, 0, XCR0_AVX},
    {"sm3", 7, 1, EAX, 1, XCR0_AVX},
    {"sm4", 7, 1, EAX, 2, XCR0_AVX},
    {"avx_vnni", 7, 1, EAX, 4, XCR0_AVX},
    {"avx512_bf16", 7, 1, EAX, 5, XCR0_AVX512},
    {"cmpccxadd", 7, 1, EAX, 7, 0},
    {"amx_fp16", 7, 1, EAX, 21, XCR0_AMX},
    {"avx_ifma", 7, 1, EAX, 23, XCR0_AVX},
    {"avx_vnni_int8", 7, 1, EDX, 4, XCR0_AVX},
    {"avx_ne_convert", 7, 1, EDX, 5, XCR0_AVX},
    {"amx_complex", 7, 1, EDX, 8, XCR0_AMX},
    {"avx_vnni_int16", 7, 1, EDX, 10, XCR0_AVX},
    {"avx10", 7, 1, EDX, 19, XCR0_AVX},
    {"xsaveopt", 0xd, 1, EAX, 0, 0},
    {"xsavec", 0xd, 1, EAX, 1, 0},
    {"xgetbv1", 0xd, 1, EAX, 2, 0},
    {"lahf_lm", 0x80000001, 0, ECX, 0, 0},
    {"abm", 0x80000001, 0, ECX, 5, 0},
    {"sse4a", 0x80000001, 0, ECX, 6, 0},
    {"xop", 0x80000001, 0, ECX, 11, XCR0_AVX},
    {"fma4", 0x80000001, 0, ECX, 16, XCR0_AVX},
    {"tbm", 0x80000001, 0, ECX, 21, 0},
    {"mmxext", 0x80000001, 0, EDX, 22, 0},
    {"rdtscp", 0x80000001, 0, EDX, 27, 0},
    {"3dnowext", 0x80000001, 0, EDX, 30, 0},
    {"3dnow", 0x80000001, 0, EDX, 31, 0},
    {"clzero", 0x80000008, 0, EBX, 0, 0},
};

static bool read_leaf(uint32_t leaf, uint32_t subleaf, unsigned words[4])
{
    return __get_cpuid_count(leaf, subleaf, &words[EAX], &words[EBX], &words[ECX], &words[EDX]);
}

/* Which components of the extended state the kernel has switched on. */
static uint64_t read_xcr0(void)
{
    unsigned words[4];
    uint32_t low, high;
    if (!read_leaf(1, 0, words) || !(words[ECX] & bit_OSXSAVE))
        return XCR0_LEGACY;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

static size_t add_word(char *text, size_t room, size_t length, const char *word)
{
    size_t more = strlen(word) + (length ? 1 : 0);
    if (length + more >= room)
        return length;
    if (length)
        text[length++] = ' ';
    strcpy(text + length, word);
    return length + strlen(word);
}

void arch_features(char text[ARCH_FEATURES_BYTES])
{
    uint64_t components = read_xcr0();
    size_t length = 0;
    text[0] = '\0';
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        const struct feature *feature = &features[i];
        unsigned words[4];
        if (read_leaf(feature->leaf, feature->subleaf, words) &&
            (words[feature->index] >> feature->bit & 1) && (components & feature->needs) == feature->needs)
            length = add_word(text, ARCH_FEATURES_BYTES, length, feature->name);
    }
    if (getauxval(AT_HWCAP2) & HWCAP_FSGSBASE) /* which the kernel switches on */
        add_word(text, ARCH_FEATURES_BYTES, length, "fsgsbase");
}

/* ---- extended state ---- */

void arch_xstate_layout(struct arch_xstate_layout *ret_layout)
{
    *ret_layout = (struct arch_xstate_layout){.components = read_xcr0()};
    for (uint32_t i = 2; i < ARCH_XSTATE_COMPONENTS; i++) {
        unsigned words[4];
        if (!(ret_layout->components >> i & 1) || !read_leaf(0xd, i, words))
            continue;
        ret_layout->lengths[i] = words[EAX];
        ret_layout->offsets[i] = words[EBX];
    }
}

size_t arch_xstate_length(void)
{
    /* EBX is the size of the standard form for the components that are on in XCR0. */
    unsigned words[4];
    return read_leaf(0xd, 0, words) ? words[EBX] : 0;
}

static uint64_t components_in_use(const uint8_t *xstate, size_t length)
{
    uint64_t in_use = 0;
    if (length >= XSTATE_BYTES_MIN)
        memcpy(&in_use, xstate + XSTATE_LEGACY_BYTES, sizeof in_use); /* XSTATE_BV */
    return in_use;
}

/* Protection keys as every thread has them at first say nothing: no key is in use, or it would be missed. */
static bool has_no_keys(const uint8_t *xstate, size_t length, const struct arch_xstate_layout *layout)
{
    uint32_t offset = layout->offsets[COMPONENT_PKRU], rights;
    if (offset < XSTATE_BYTES_MIN || offset > length || length - offset < sizeof rights)
        return false;
    memcpy(&rights, xstate + offset, sizeof rights);
    return rights == PKRU_DEFAULT;
}

const char *arch_missing_xstate(const void *xstate, size_t length, const struct arch_xstate_layout *layout)
{
    static const struct {
        uint64_t bits;
        const char *name;
    } known[] = {
        {1 << 2, "AVX"},  {3 << 3, "MPX"}, {7 << 5, "AVX-512"}, {1 << 9, "PKU"}, {1 << 11, "shadow stacks"},
        {3 << 17, "AMX"},
    };
    uint64_t missing = components_in_use(xstate, length) & ~read_xcr0();
    if ((missing >> COMPONENT_PKRU & 1) && has_no_keys(xstate, length, layout))
        missing &= ~(UINT64_C(1) << COMPONENT_PKRU);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (missing & known[i].bits)
            return known[i].name;
    return missing ? "a component of no name" : NULL;
}

static bool has_component(const struct arch_xstate_layout *layout, uint32_t component, size_t length)
{
    uint32_t offset = layout->offsets[component];
    return offset >= XSTATE_BYTES_MIN && offset <= length && layout->lengths[component] <= length - offset;
}

bool arch_xstate_convert(const uint8_t *xstate, size_t length, const struct arch_xstate_layout *layout,
                         uint8_t *result, size_t result_length)
{
    struct arch_xstate_layout ours;
    arch_xstate_layout(&ours);
    uint64_t in_use = components_in_use(xstate, length) & ours.components;
    if (length < XSTATE_BYTES_MIN || result_length < XSTATE_BYTES_MIN)
        return false;
    memset(result, 0, result_length);
    memcpy(result, xstate, XSTATE_LEGACY_BYTES);
    for (uint32_t i = 2; i < ARCH_XSTATE_COMPONENTS; i++) {
        if (!(in_use >> i & 1))
            continue;
        if (!has_component(layout, i, length) || !has_component(&ours, i, result_length) ||
            layout->lengths[i] != ours.lengths[i])
            return false;
        memcpy(result + ours.offsets[i], xstate + layout->offsets[i], ours.lengths[i]);
    }
    uint32_t rights = PKRU_DEFAULT;
    bool gets_keys = (ours.components & ~layout->components) >> COMPONENT_PKRU & 1;
    if (gets_keys && has_component(&ours, COMPONENT_PKRU, result_length)) {
        memcpy(result + ours.offsets[COMPONENT_PKRU], &rights, sizeof rights);
        in_use |= UINT64_C(1) << COMPONENT_PKRU;
    }
    memcpy(result + XSTATE_LEGACY_BYTES, &in_use, sizeof in_use);
    /* Where a signal frame says which components it has, ptrace says which there are. */
    memcpy(result + ARCH_XSTATE_FEATURES_OFFSET, &ours.components, sizeof ours.components);
    return true;
}
