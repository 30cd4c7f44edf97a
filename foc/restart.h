/* What becomes of a system call that was cancelled because its thread was to be stopped. */
#pragma once

#include "abi/abi.h"

#include <stdbool.h>

enum restart {
    RESTART_NOT_NEEDED, /* the thread was not in a call, or the call had ended */
    RESTART_WAIT,       /* waits again: nothing was lost */
    RESTART_REPEAT,     /* calls again: whoever serves it sees the request twice */
    RESTART_LOST, /* the kernel has kept nothing to do it again with: the thread sees an IPC error, "canceled"
                   */
};

/* Looks at the registers of a thread whose IPC was cancelled, and sets them so that the call is made again.
 * `error`: of its UTCB; `is_at_system_call`: the instruction before rip is one; `is_semaphore`: what it
 * called is. */
enum restart restart_prepare(struct foc_registers *registers, foc_word_t error, bool is_at_system_call,
                             bool is_semaphore);
