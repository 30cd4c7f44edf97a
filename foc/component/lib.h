/* What programs of components share: how they talk to core, and to each other. */
#pragma once

#include "../abi/ipc.h"
#include "../base/base.h"
#include "../kernel/kernel.h"
#include "component.h"

void component_main(unsigned thread); /* the program's own */

/* To core, through the fault gate of the running thread. */
void report(bool is_well, const char *format, ...) _printf_(2, 3);
void tell(const char *format, ...) _printf_(1, 2);
int attach(foc_slot_t selector, foc_word_t address, unsigned rights, foc_word_t *ret_pages);
/* Stops until core lets us go on, which it does behind this; `value` and `more` are for core to see. */
void rest(long value, long more);

/* A call of up to four words; the answer's words replace them. 0 or a negative errno. */
int call(foc_slot_t slot, foc_word_t *words, unsigned count);
/* Waits for a message, having answered the one before with `count` words if there is `is_reply`. */
foc_word_t answer_and_wait(const foc_word_t *reply, unsigned count, bool is_reply, foc_word_t *ret_words,
                           unsigned *ret_count);
