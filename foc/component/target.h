/* The parts of the target that have files of their own: its checks, and the thread that lives in the FPU. */
#pragma once

#include "trial.h"

#include <stdbool.h>

extern struct target_control *const control;

uint64_t pattern(uint64_t index);
bool private_memory_is_well(void);
bool shared_memory_is_well(void);
bool converse(foc_slot_t gate);

/* Everything that can be checked from the inside, each reported to core by a sentence. */
void check_all(void);

/* Computes in the registers of x87, SSE and, if the processor has it, AVX; never returns, never makes a call.
 * What it finds wrong it counts in control->number_faults. */
_Noreturn void numbers_run(struct target_control *shared);
