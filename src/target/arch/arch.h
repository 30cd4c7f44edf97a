/* What differs from processor to processor: the interpreter (the only assembly), the stub, the signal frame,
 * and what registers mean. One folder per architecture implements this header. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARCH_REGS_WORDS 32 /* the general registers as PTRACE_GETREGSET NT_PRSTATUS gives them, padded */

extern const size_t arch_regs_bytes;    /* how many of them there really are */
extern const unsigned arch_xstate_note; /* the NT_* of the extended state */

/* The interpreter: position-independent, uses the stack pointer as program counter, see program.c. */
extern const unsigned char arch_interpreter[];
extern const unsigned char arch_interpreter_end[];

uint64_t arch_ip(const uint64_t *regs);
uint64_t arch_sp(const uint64_t *regs);
int64_t arch_result(const uint64_t *regs);
void arch_set_ip(uint64_t *regs, uint64_t ip);
/* The register that points to thread-local storage, and the second one of that sort, if any. */
uint64_t arch_tls(const uint64_t *regs);
uint64_t arch_second_tls(const uint64_t *regs);

/* Gives registers the thread pointers of others. */
void arch_copy_tls(uint64_t *regs, const uint64_t *from);

/* The system call that sets the second one, for a way back that ptrace does not help with; false: nothing to
 * set. */
bool arch_second_tls_call(const uint64_t *regs, long *ret_number, uint64_t ret_arguments[6]);

/* Whether these are the registers of a program that we can handle (64-bit, ordinary code segment). */
bool arch_is_supported(const uint64_t *regs);
/* The number of the system call that the thread was stopped in, or -1. */
long arch_system_call(const uint64_t *regs);

/* Registers at the entry of a program (the thread is not in a system call any more). */
void arch_enter(uint64_t *regs, uint64_t interpreter, uint64_t program);
/* Registers at the stub, about to make a system call. */
void arch_enter_stub(uint64_t *regs, uint64_t stub, long number, const uint64_t arguments[6]);

/* A system call that ended with EINTR merely because we stopped the thread is set to be made again (unless a
 * handler runs first): the kernel does that itself when it sees -ERESTARTNOHAND there. Says whether anything
 * had to be changed. */
bool arch_make_restartable(uint64_t *regs);
/* For another process than the one that was in the call: what the kernel would continue from a restart block
 * is made again from the start. */
void arch_restart_from_start(uint64_t *regs);
/* The registers with which the call is really made again, for a way back that the kernel does not help with.
 */
void arch_rewind_system_call(uint64_t *regs);

/* The stub for a thread with these registers and mask, to stand at `address`. Returns its length, at most
 * ARCH_STUB_BYTES. */
#define ARCH_STUB_BYTES 192
/* Whether these ARCH_STUB_BYTES bytes are a stub. */
bool arch_is_stub(const uint8_t *bytes);
size_t arch_stub_build(uint8_t *stub, uint64_t address, const uint64_t *regs, uint64_t signal_mask);

/* The frame for rt_sigreturn at `frame`, whose extended state stands at address xstate_address. Returns the
 * offset of the stack_t in it. */
size_t arch_frame_build(uint8_t *frame, const uint64_t *regs, uint64_t signal_mask, uint64_t xstate_address);
/* Turns extended state as ptrace gives it into what a frame holds; `room` has at least length + 64 bytes.
 * Returns the length. */
size_t arch_frame_xstate(uint8_t *room, const void *xstate, size_t length);
/* Where the frame begins, relative to the last argument of the rt_sigreturn call in a program. */
#define ARCH_FRAME_IN_ARGUMENT 5

/* Names the sets of instructions that the processor has and programs use, with spaces between. */
#define ARCH_FEATURES_BYTES 2048
void arch_features(char text[ARCH_FEATURES_BYTES]);

/* Where the components of the extended state stand, as ptrace gives it: processors differ in that. */
#define ARCH_XSTATE_COMPONENTS      32
#define ARCH_XSTATE_FEATURES_OFFSET 464 /* where ptrace says which there are */
struct arch_xstate_layout {
    uint64_t components; /* that are there: a bit each */
    uint32_t offsets[ARCH_XSTATE_COMPONENTS], lengths[ARCH_XSTATE_COMPONENTS]; /* of those above the second */
};
void arch_xstate_layout(struct arch_xstate_layout *ret_layout);
/* Names what extended state of that layout is in use that this processor has not; NULL: nothing. */
const char *arch_missing_xstate(const void *xstate, size_t length, const struct arch_xstate_layout *layout);
/* Extended state of that layout in ours, what this processor has not left out; false: that is not possible.
 */
bool arch_xstate_convert(const uint8_t *xstate, size_t length, const struct arch_xstate_layout *layout,
                         uint8_t *result, size_t result_length);
/* How long the extended state is on this machine as ptrace gives and takes it; 0: not known. */
size_t arch_xstate_length(void);

/* Code for the place of a function that the program calls: a jump to another address, or what does the same
 * by a system call (of a function that is not known: fails with ENOSYS). Returns its length. */
#define ARCH_JUMP_BYTES       14
#define ARCH_SUBSTITUTE_BYTES 32 /* at most */
size_t arch_jump_build(uint8_t *code, uint64_t to);
size_t arch_substitute_build(uint8_t *code, const char *function);
