/* A thread whose whole state is in registers of the FPU: a counter that is kept as an integer, as a double in
 * SSE and as an extended double in x87, which must agree; constants in other registers, which must stay; and
 * a rounding mode that no program has by itself. All in assembly, so that no compiler keeps a copy in memory.
 */
#include "lib.h"
#include "target.h"

#define MXCSR_ROUND_UP 0x5f80     /* exceptions masked, rounding up */
#define X87_ROUND_DOWN 0x077f     /* extended precision, exceptions masked, rounding down */
#define CPUID_AVX      (3u << 27) /* leaf 1, ecx: OSXSAVE and AVX */

static const double ones[4] __attribute__((aligned(32))) = {1.0, 1.0, 1.0, 1.0};
static const uint64_t marks[4] __attribute__((aligned(32))) = {0x0123456789abcdef, 0xfedcba9876543210,
                                                               0xa5a5a5a5deadbeef, 0x0f1e2d3c4b5a6978};

static bool has_avx(void)
{
    uint32_t a = 1, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return (c & CPUID_AVX) == CPUID_AVX;
}

/* rbx counts; xmm0 counts; st(0) counts; xmm9 (ymm9 with AVX) holds marks. r12: faults, r13: progress. */
void numbers_run(struct target_control *shared)
{
    uint32_t mxcsr = MXCSR_ROUND_UP;
    uint16_t control_word = X87_ROUND_DOWN;
    uint64_t scratch[4] __attribute__((aligned(32)));
    __asm__ volatile(
        "	ldmxcsr	%[mxcsr]\n"
        "	fninit\n"
        "	fldcw	%[word]\n"
        "	fldz\n"
        "	xorpd	%%xmm0, %%xmm0\n"
        "	movdqa	(%[marks]), %%xmm9\n"
        "	test	%[avx], %[avx]\n"
        "	jz	1f\n"
        "	vmovdqa	(%[marks]), %%ymm9\n"
        "1:	xor	%%ebx, %%ebx\n"
        /* One more, in three places. */
        "2:	inc	%%rbx\n"
        "	addsd	(%[ones]), %%xmm0\n"
        "	fld1\n"
        "	faddp\n"
        /* Do they agree? */
        "	cvtsd2si %%xmm0, %%rax\n"
        "	cmp	%%rax, %%rbx\n"
        "	jne	9f\n"
        "	fld	%%st(0)\n"
        "	fistpq	(%[scratch])\n"
        "	cmp	(%[scratch]), %%rbx\n"
        "	jne	9f\n"
        /* Are the marks and the modes still there? */
        "	test	%[avx], %[avx]\n"
        "	jz	3f\n"
        "	vmovdqa	%%ymm9, (%[scratch])\n"
        "	mov	24(%[marks]), %%rax\n"
        "	cmp	%%rax, 24(%[scratch])\n"
        "	jne	9f\n"
        "	jmp	4f\n"
        "3:	movdqa	%%xmm9, (%[scratch])\n"
        "4:	mov	8(%[marks]), %%rax\n"
        "	cmp	%%rax, 8(%[scratch])\n"
        "	jne	9f\n"
        "	mov	(%[marks]), %%rax\n"
        "	cmp	%%rax, (%[scratch])\n"
        "	jne	9f\n"
        "	stmxcsr	(%[scratch])\n"
        "	mov	(%[scratch]), %%eax\n"
        "	and	$0xffc0, %%eax\n"
        "	cmp	%[rounding], %%eax\n"
        "	jne	9f\n"
        "	fnstcw	(%[scratch])\n"
        "	cmpw	%[down], (%[scratch])\n"
        "	jne	9f\n"
        "	incq	(%[progress])\n"
        "	jmp	2b\n"
        "9:	incq	(%[faults])\n"
        "	jmp	2b\n"
        :
        : [mxcsr] "m"(mxcsr), [word] "m"(control_word), [ones] "r"(ones), [marks] "r"(marks),
          [avx] "r"((uint64_t)has_avx()), [scratch] "r"(scratch), [faults] "r"(&shared->number_faults),
          [progress] "r"(&shared->progress[TARGET_NUMBERS]), [rounding] "i"(MXCSR_ROUND_UP & 0xffc0),
          [down] "i"(X87_ROUND_DOWN)
        : "rax", "rbx", "memory", "cc");
    __builtin_unreachable();
}
