/* The one system call of the kernel, and how a message gets into and out of the UTCB. Registers: rdx
 * capability and operation, rax tag, r8 timeouts, rsi label; the answer comes in rax and rsi; rcx and r11
 * belong to the instruction, and a kernel with isolation leaves its page table in r15 (low_level.h,
 * SAFE_SYSRET) (kern/ia32/64/entry_frame-amd64.cpp, class Syscall_frame; kern/ia32/64/low_level.h,
 * SAVE_STATE_SYSEXIT). */
#pragma once

#include "abi.h"

#include <stddef.h>

/* The UTCB of the running thread. */
static inline struct foc_utcb *foc_utcb(void)
{
    struct foc_utcb *utcb;
    __asm__ volatile("mov %%gs:0, %0" : "=r"(utcb));
    return utcb;
}

/* Sends and receives as `operation` says. The answer's tag; *ret_label (may be NULL) says who sent, in an
 * open wait. */
static inline foc_word_t foc_ipc(foc_word_t cap, unsigned operation, foc_word_t tag, foc_word_t timeouts,
                                 foc_word_t *ret_label)
{
    foc_word_t reference = cap | operation, label = 0;
    register foc_word_t r8 __asm__("r8") = timeouts;
    __asm__ volatile("syscall"
                     : "+a"(tag), "+d"(reference), "+S"(label), "+r"(r8)
                     :
                     : "rcx", "rdi", "r9", "r10", "r11", "r15", "memory");
    if (ret_label)
        *ret_label = label;
    return tag;
}

static inline foc_word_t foc_call(foc_slot_t slot, foc_word_t tag)
{
    return foc_ipc(FOC_CAP(slot), FOC_CALL, tag, FOC_FOREVER, NULL);
}

/* The error of the last IPC, if its tag has FOC_TAG_ERROR. */
static inline unsigned foc_ipc_error(void)
{
    return (unsigned)foc_utcb()->error & FOC_IPC_ERROR_MASK;
}

/* Says in which slot the next message may leave its capability. */
static inline void foc_receive_slot(foc_slot_t slot)
{
    foc_utcb()->buffer_items = FOC_BUFFER_ITEMS(0, 0, 0);
    foc_utcb()->buffers[0] = FOC_CAP(slot) | FOC_ITEM_MAP | FOC_BUFFER_SMALL;
    foc_utcb()->buffers[1] = 0;
}
