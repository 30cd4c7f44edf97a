/* x86-64: registers, the stub, the signal frame. Rests on struct user_regs_struct (sys/user.h), the kernel's
 * arch/x86/kernel/signal.c for restarts, and struct sigcontext, struct _fpx_sw_bytes (asm/sigcontext.h). */
#include "target/arch/arch.h"

#include <asm/prctl.h>
#include <asm/sigcontext.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/user.h>

/* struct ucontext of the kernel; <sys/ucontext.h> clashes with <asm/sigcontext.h>. */
struct kernel_ucontext {
    uint64_t flags, link;
    uint64_t stack_address;
    uint32_t stack_flags, padding;
    uint64_t stack_length;
    struct sigcontext context;
    uint64_t signal_mask;
};

#define UC_FP_XSTATE         1
#define UC_SIGCONTEXT_SS     2
#define UC_STRICT_RESTORE_SS 4

/* include/linux/errno.h: seen in rax only by a tracer. */
#define ERESTARTSYS           512
#define ERESTARTNOINTR        513
#define ERESTARTNOHAND        514
#define ERESTART_RESTARTBLOCK 516

#define CODE_SEGMENT_64       0x33
#define EFLAGS_TRAP           0x100
#define EFLAGS_DIRECTION      0x400
#define SYSCALL_INSN_BYTES    2

const size_t arch_regs_bytes = sizeof(struct user_regs_struct);
const unsigned arch_xstate_note = NT_X86_XSTATE;
_Static_assert(offsetof(struct _fpstate_64, sw_reserved) == ARCH_XSTATE_FEATURES_OFFSET, "another frame");
_Static_assert(sizeof(struct user_regs_struct) <= ARCH_REGS_WORDS * 8, "registers do not fit");

static struct user_regs_struct *user(uint64_t *regs)
{
    return (struct user_regs_struct *)regs;
}

static const struct user_regs_struct *const_user(const uint64_t *regs)
{
    return (const struct user_regs_struct *)regs;
}

uint64_t arch_ip(const uint64_t *regs)
{
    return const_user(regs)->rip;
}

uint64_t arch_sp(const uint64_t *regs)
{
    return const_user(regs)->rsp;
}

int64_t arch_result(const uint64_t *regs)
{
    return (int64_t)const_user(regs)->rax;
}

void arch_set_ip(uint64_t *regs, uint64_t ip)
{
    user(regs)->rip = ip;
}

uint64_t arch_tls(const uint64_t *regs)
{
    return const_user(regs)->fs_base;
}

uint64_t arch_second_tls(const uint64_t *regs)
{
    return const_user(regs)->gs_base;
}

void arch_copy_tls(uint64_t *regs, const uint64_t *from)
{
    user(regs)->fs_base = const_user(from)->fs_base;
    user(regs)->gs_base = const_user(from)->gs_base;
}

bool arch_second_tls_call(const uint64_t *regs, long *ret_number, uint64_t ret_arguments[6])
{
    if (!const_user(regs)->gs_base)
        return false;
    *ret_number = SYS_arch_prctl;
    ret_arguments[0] = ARCH_SET_GS;
    ret_arguments[1] = const_user(regs)->gs_base;
    return true;
}

bool arch_is_supported(const uint64_t *regs)
{
    return const_user(regs)->cs == CODE_SEGMENT_64;
}

long arch_system_call(const uint64_t *regs)
{
    return (long)const_user(regs)->orig_rax;
}

static void leave_system_call(struct user_regs_struct *regs)
{
    regs->orig_rax = (unsigned long long)-1;
    regs->eflags &= ~(unsigned long long)(EFLAGS_TRAP | EFLAGS_DIRECTION);
}

void arch_enter(uint64_t *regs, uint64_t interpreter, uint64_t program)
{
    leave_system_call(user(regs));
    user(regs)->rip = interpreter;
    user(regs)->rsp = program;
}

void arch_enter_stub(uint64_t *regs, uint64_t stub, long number, const uint64_t arguments[6])
{
    struct user_regs_struct *u = user(regs);
    /* The stub leaves the flags as they are, so that they need not be put back. */
    u->orig_rax = (unsigned long long)-1;
    u->rip = stub;
    u->rax = (unsigned long long)number;
    u->rdi = arguments[0];
    u->rsi = arguments[1];
    u->rdx = arguments[2];
    u->r10 = arguments[3];
    u->r8 = arguments[4];
    u->r9 = arguments[5];
}

bool arch_make_restartable(uint64_t *regs)
{
    struct user_regs_struct *u = user(regs);
    long number = (long)u->orig_rax;
    /* close(2) is the exception: the descriptor is gone, whatever it returned. */
    if (number < 0 || number == SYS_close || (int64_t)u->rax != -EINTR)
        return false;
    u->rax = (unsigned long long)-ERESTARTNOHAND;
    return true;
}

void arch_restart_from_start(uint64_t *regs)
{
    struct user_regs_struct *u = user(regs);
    if ((long)u->orig_rax >= 0 && (int64_t)u->rax == -ERESTART_RESTARTBLOCK)
        u->rax = (unsigned long long)-ERESTARTNOHAND;
}

void arch_rewind_system_call(uint64_t *regs)
{
    struct user_regs_struct *u = user(regs);
    if ((long)u->orig_rax < 0)
        return;
    switch (-(int64_t)u->rax) {
    case ERESTARTSYS:
    case ERESTARTNOINTR:
    case ERESTARTNOHAND:
    case ERESTART_RESTARTBLOCK:
        u->rax = u->orig_rax;
        u->rip -= SYSCALL_INSN_BYTES;
    }
    u->orig_rax = (unsigned long long)-1;
}

/* ---- the stub ---- */

struct emitter {
    uint8_t *at;
    uint64_t address;
};

static void emit(struct emitter *e, const void *bytes, size_t length)
{
    memcpy(e->at, bytes, length);
    e->at += length;
    e->address += length;
}

#define EMIT(e, ...) emit(e, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* mov $value, %register; `prefix` and `opcode` choose the register. */
static void emit_load(struct emitter *e, uint8_t prefix, uint8_t opcode, uint64_t value)
{
    EMIT(e, prefix, opcode);
    emit(e, &value, sizeof value);
}

size_t arch_stub_build(uint8_t *stub, uint64_t address, const uint64_t *regs, uint64_t signal_mask)
{
    uint64_t back[ARCH_REGS_WORDS];
    memcpy(back, regs, sizeof back);
    arch_rewind_system_call(back);
    const struct user_regs_struct *u = const_user(back);
    struct emitter e = {stub, address};

    EMIT(&e, 0x0f, 0x05); /* syscall: the one that this is about */
    /* rt_sigprocmask(SIG_SETMASK, &signal_mask, NULL, 8) */
    EMIT(&e, 0xb8, SYS_rt_sigprocmask, 0, 0, 0);
    EMIT(&e, 0xbf, 2, 0, 0, 0);
    EMIT(&e, 0x48, 0x8d, 0x35); /* lea signal_mask(%rip), %rsi */
    uint8_t *mask_displacement = e.at;
    EMIT(&e, 0, 0, 0, 0);
    EMIT(&e, 0xba, 0, 0, 0, 0);
    EMIT(&e, 0x41, 0xba, 8, 0, 0, 0);
    EMIT(&e, 0x0f, 0x05);
    /* All registers that the two calls use or clobber. mov and jmp leave the flags alone. */
    emit_load(&e, 0x48, 0xb8, u->rax);
    emit_load(&e, 0x48, 0xbf, u->rdi);
    emit_load(&e, 0x48, 0xbe, u->rsi);
    emit_load(&e, 0x48, 0xba, u->rdx);
    emit_load(&e, 0x48, 0xb9, u->rcx);
    emit_load(&e, 0x49, 0xb8, u->r8);
    emit_load(&e, 0x49, 0xb9, u->r9);
    emit_load(&e, 0x49, 0xba, u->r10);
    emit_load(&e, 0x49, 0xbb, u->r11);
    EMIT(&e, 0xff, 0x25, 0, 0, 0, 0); /* jmp *0(%rip) */
    emit(&e, &u->rip, 8);
    int32_t displacement = (int32_t)(e.at - (mask_displacement + 4));
    memcpy(mask_displacement, &displacement, 4);
    emit(&e, &signal_mask, 8);
    return (size_t)(e.at - stub);
}

bool arch_is_stub(const uint8_t *bytes)
{
    static const uint8_t beginning[] = {0x0f, 0x05, 0xb8, SYS_rt_sigprocmask, 0, 0, 0, 0xbf, 2, 0, 0, 0,
                                        0x48, 0x8d, 0x35};
    return memcmp(bytes, beginning, sizeof beginning) == 0;
}

/* ---- the signal frame ---- */

size_t arch_frame_build(uint8_t *frame, const uint64_t *regs, uint64_t signal_mask, uint64_t xstate_address)
{
    uint64_t back[ARCH_REGS_WORDS];
    memcpy(back, regs, sizeof back);
    arch_rewind_system_call(back);
    const struct user_regs_struct *u = const_user(back);
    struct kernel_ucontext *uc = (struct kernel_ucontext *)(frame + 8); /* behind the return address */

    *uc = (struct kernel_ucontext){
        .flags = UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS,
        .stack_flags =
            0x7fffffff, /* not valid: the alternate stack stays as it is, unless somebody fills it in */
        .context = {.r8 = u->r8,
                    .r9 = u->r9,
                    .r10 = u->r10,
                    .r11 = u->r11,
                    .r12 = u->r12,
                    .r13 = u->r13,
                    .r14 = u->r14,
                    .r15 = u->r15,
                    .rdi = u->rdi,
                    .rsi = u->rsi,
                    .rbp = u->rbp,
                    .rbx = u->rbx,
                    .rdx = u->rdx,
                    .rax = u->rax,
                    .rcx = u->rcx,
                    .rsp = u->rsp,
                    .rip = u->rip,
                    .eflags = u->eflags,
                    .cs = (uint16_t)u->cs,
                    .ss = (uint16_t)u->ss,
                    .fpstate = (void *)xstate_address},
        .signal_mask = signal_mask,
    };
    return 8 + offsetof(struct kernel_ucontext, stack_address);
}

size_t arch_frame_xstate(uint8_t *room, const void *xstate, size_t length)
{
    memcpy(room, xstate, length);
    struct _fpstate_64 *fp = (struct _fpstate_64 *)room;
    uint64_t features; /* ptrace leaves XCR0 where a frame has struct _fpx_sw_bytes */
    memcpy(&features, (const uint8_t *)xstate + ARCH_XSTATE_FEATURES_OFFSET, sizeof features);
    fp->sw_reserved = (struct _fpx_sw_bytes){
        .magic1 = FP_XSTATE_MAGIC1,
        .extended_size = (uint32_t)length + FP_XSTATE_MAGIC2_SIZE,
        .xfeatures = features,
        .xstate_size = (uint32_t)length,
    };
    uint32_t magic = FP_XSTATE_MAGIC2;
    memcpy(room + length, &magic, sizeof magic);
    return length + sizeof magic;
}
