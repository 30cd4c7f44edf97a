/* The registers of threads that are stopped in the middle of a loop: all general ones and the flags, x87,
 * SSE, AVX, AVX-512 and PKRU. Each thread loads known values, spins without touching them, stores them again
 * and compares. The loop is `mov` and `jrcxz`, which change no flag. */
#include "subject.h"

#include <fenv.h>
#include <immintrin.h>

static volatile uint64_t leave; /* the loops read it with one mov each */

static void spin_checkpoint_compare(void *(*function)(void *), int count)
{
    pthread_t threads[16];

    for (intptr_t i = 0; i < count; i++)
        threads[i] = start_thread(function, (void *)(i + 1));
    sleep_ms(20);
    be_checkpointed();
    sleep_ms(5);
    leave = 1;
    for (int i = 0; i < count; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
}

#define SPIN "1: mov %[leave], %%rcx\n jrcxz 1b\n"

/* ---- general registers and flags ---- */

static void *spin_general(void *argument)
{
    enum { COUNT = 13, CARRY = 1 << 0, SIGN = 1 << 7, DIRECTION = 1 << 10, OVERFLOW = 1 << 11 };
    uint64_t wanted[COUNT + 1], found[COUNT + 1] = {0};
    const uint64_t flags = 0x202 | CARRY | SIGN | DIRECTION | OVERFLOW;
    uint64_t *ends[2] = {wanted, found};

    fill(wanted, sizeof wanted, (uint64_t)argument);
    wanted[COUNT] = flags;
    /* rcx is the loop's, rsp is rsp; of ends[], pushed below, both addresses survive on the stack. */
    __asm__ volatile(
        "sub $128, %%rsp\n" /* the red zone */
        "push %%rbp\n push %%rbx\n"
        "push 8(%[ends])\n"
        "mov (%[ends]), %%rcx\n"
        "push 104(%%rcx)\n popf\n"
        "mov 0(%%rcx), %%rax\n mov 8(%%rcx), %%rbx\n mov 16(%%rcx), %%rdx\n mov 24(%%rcx), %%rsi\n"
        "mov 32(%%rcx), %%rdi\n mov 40(%%rcx), %%rbp\n mov 48(%%rcx), %%r8\n mov 56(%%rcx), %%r9\n"
        "mov 64(%%rcx), %%r10\n mov 72(%%rcx), %%r11\n mov 80(%%rcx), %%r12\n mov 88(%%rcx), %%r13\n"
        "mov 96(%%rcx), %%r14\n" SPIN "mov (%%rsp), %%rcx\n"
        "mov %%rax, 0(%%rcx)\n mov %%rbx, 8(%%rcx)\n mov %%rdx, 16(%%rcx)\n mov %%rsi, 24(%%rcx)\n"
        "mov %%rdi, 32(%%rcx)\n mov %%rbp, 40(%%rcx)\n mov %%r8, 48(%%rcx)\n mov %%r9, 56(%%rcx)\n"
        "mov %%r10, 64(%%rcx)\n mov %%r11, 72(%%rcx)\n mov %%r12, 80(%%rcx)\n mov %%r13, 88(%%rcx)\n"
        "mov %%r14, 96(%%rcx)\n"
        "pushf\n pop %%rax\n mov %%rax, 104(%%rcx)\n cld\n"
        "pop %%rcx\n pop %%rbx\n pop %%rbp\n add $128, %%rsp\n"
        :
        : [ends] "a"(ends), [leave] "m"(leave)
        : "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "cc", "memory");
    for (int i = 0; i <= COUNT; i++)
        CHECK_EQUAL(found[i], wanted[i]);
    return NULL;
}

static void general(void)
{
    spin_checkpoint_compare(spin_general, 8);
}

/* ---- x87 ---- */

static void *spin_x87(void *argument)
{
    const uint16_t control = 0x0a7f; /* round up, 53 bits, all exceptions masked */
    uint16_t found_control;
    double values[8], found[8];

    for (int i = 0; i < 8; i++)
        values[i] = 1.5 * i + (double)(intptr_t)argument;
    __asm__ volatile(
        "fninit\n fldcw %[control]\n"
        "fldl 0(%[values])\n fldl 8(%[values])\n fldl 16(%[values])\n fldl 24(%[values])\n"
        "fldl 32(%[values])\n fldl 40(%[values])\n fldl 48(%[values])\n fldl 56(%[values])\n" SPIN
        "fnstcw %[found_control]\n"
        "fstpl 56(%[found])\n fstpl 48(%[found])\n fstpl 40(%[found])\n fstpl 32(%[found])\n"
        "fstpl 24(%[found])\n fstpl 16(%[found])\n fstpl 8(%[found])\n fstpl 0(%[found])\n fninit\n"
        : [found_control] "=m"(found_control)
        : [control] "m"(control), [values] "r"(values), [found] "r"(found), [leave] "m"(leave)
        : "rcx", "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    CHECK_EQUAL(found_control, control);
    CHECK(memcmp(found, values, sizeof values) == 0);
    return NULL;
}

static void x87(void)
{
    spin_checkpoint_compare(spin_x87, 8);
}

/* ---- vectors ---- */

#define EACH_OF_16(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH_OF_16_TO_31(X)                                                                                  \
    X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define LOAD(instruction, name, bytes, n)  instruction " " #n "*" #bytes "(%[wanted]), %%" #name #n "\n"
#define STORE(instruction, name, bytes, n) instruction " %%" #name #n ", " #n "*" #bytes "(%[found])\n"
#define XMM_LOAD(n)                        LOAD("movups", xmm, 16, n)
#define XMM_STORE(n)                       STORE("movups", xmm, 16, n)
#define YMM_LOAD(n)                        LOAD("vmovups", ymm, 32, n)
#define YMM_STORE(n)                       STORE("vmovups", ymm, 32, n)
#define ZMM_LOAD(n)                        LOAD("vmovups", zmm, 64, n)
#define ZMM_STORE(n)                       STORE("vmovups", zmm, 64, n)
#define EACH_MASK(X)                       X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define MASK_LOAD(n)                       "kmovq 2048+" #n "*8(%[wanted]), %%k" #n "\n"
#define MASK_STORE(n)                      "kmovq %%k" #n ", 2048+" #n "*8(%[found])\n"

#define VECTORS_CLOBBERED                                                                                    \
    "rcx", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",         \
        "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

static void *spin_sse(void *argument)
{
    uint64_t wanted[32], found[32];
    const uint32_t control = 0x7fc0, usual = 0x1f80; /* round to zero, denormals are zero, all masked */
    uint32_t found_control;

    fill(wanted, sizeof wanted, (uint64_t)argument);
    __asm__ volatile("ldmxcsr %[control]\n" EACH_OF_16(XMM_LOAD)
                         SPIN EACH_OF_16(XMM_STORE) "stmxcsr %[found_control]\n ldmxcsr %[usual]\n"
                     : [found_control] "=m"(found_control)
                     : [control] "m"(control), [usual] "m"(usual), [wanted] "r"(wanted), [found] "r"(found),
                       [leave] "m"(leave)
                     : VECTORS_CLOBBERED);
    CHECK_EQUAL(found_control, control);
    CHECK(memcmp(found, wanted, sizeof wanted) == 0);
    return NULL;
}

static void sse(void)
{
    spin_checkpoint_compare(spin_sse, 8);
}

static __attribute__((target("avx"))) void *spin_avx(void *argument)
{
    uint64_t wanted[64], found[64];

    fill(wanted, sizeof wanted, (uint64_t)argument);
    __asm__ volatile(EACH_OF_16(YMM_LOAD) SPIN EACH_OF_16(YMM_STORE) "vzeroupper\n"
                     :
                     : [wanted] "r"(wanted), [found] "r"(found), [leave] "m"(leave)
                     : VECTORS_CLOBBERED);
    CHECK(memcmp(found, wanted, sizeof wanted) == 0);
    return NULL;
}

static void avx(void)
{
    if (!__builtin_cpu_supports("avx"))
        skip("this processor has no AVX");
    spin_checkpoint_compare(spin_avx, 8);
}

static __attribute__((target("avx512f,avx512bw"))) void *spin_avx512(void *argument)
{
    uint64_t wanted[256 + 8], found[256 + 8];

    fill(wanted, sizeof wanted, (uint64_t)argument);
    __asm__ volatile(EACH_OF_16(ZMM_LOAD) EACH_OF_16_TO_31(ZMM_LOAD) EACH_MASK(MASK_LOAD)
                         SPIN EACH_OF_16(ZMM_STORE) EACH_OF_16_TO_31(ZMM_STORE)
                             EACH_MASK(MASK_STORE) "vzeroupper\n"
                     :
                     : [wanted] "r"(wanted), [found] "r"(found), [leave] "m"(leave)
                     : VECTORS_CLOBBERED, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22",
                       "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31", "k1",
                       "k2", "k3", "k4", "k5", "k6", "k7");
    CHECK(memcmp(found, wanted, sizeof wanted) == 0);
    return NULL;
}

static void avx512(void)
{
    if (!__builtin_cpu_supports("avx512bw"))
        skip("this processor has no AVX-512");
    spin_checkpoint_compare(spin_avx512, 8);
}

/* ---- in a system call ---- */

static void controls_while_in_a_system_call(void)
{
    fesetround(FE_DOWNWARD);
    feenableexcept(FE_DIVBYZERO);
    be_checkpointed();
    CHECK_EQUAL(fegetround(), FE_DOWNWARD);
    CHECK_EQUAL(fegetexcept(), FE_DIVBYZERO);
    CHECK_EQUAL((_mm_getcsr() >> 13) & 3, 1);
}

/* ---- protection keys ---- */

static void protection_keys(void)
{
    int key = pkey_alloc(0, PKEY_DISABLE_WRITE);

    if (key < 0)
        skip("this processor has no protection keys");
    char *region = map_anonymous(4096);
    MUST(pkey_mprotect(region, 4096, PROT_READ | PROT_WRITE, key));
    be_checkpointed();
    CHECK_EQUAL(pkey_get(key), PKEY_DISABLE_WRITE);
    pkey_set(key, PKEY_DISABLE_ACCESS);
    CHECK(reading_faults(region));
    int another = MUST(pkey_alloc(0, 0));
    CHECK(another != key);
}

const struct subject subjects[] = {
    {"general", general, .new_pid = true},
    {"x87", x87, .new_pid = true},
    {"sse", sse, .new_pid = true},
    {"avx", avx, .new_pid = true},
    {"avx512", avx512, .new_pid = true},
    {"in-a-system-call", controls_while_in_a_system_call},
    {"protection-keys", protection_keys, .fails = "cold: not written yet"},
    {0},
};
