/* The kernel's objects as functions: each sends one message to a kernel object and turns the answer into 0 or
 * a negative errno. `slot` is always a slot of the caller's own capability space. */
#pragma once

#include "../abi/abi.h"

#include <stdbool.h>
#include <stddef.h>

/* ---- factory: makes an object and puts its first capability, with all rights, into `slot` ---- */

int kernel_create_task(foc_slot_t factory, foc_slot_t slot, foc_word_t utcb_area, unsigned utcb_order);
int kernel_create_thread(foc_slot_t factory, foc_slot_t slot);
int kernel_create_gate(foc_slot_t factory, foc_slot_t slot, foc_slot_t thread, foc_word_t label);
int kernel_create_irq(foc_slot_t factory, foc_slot_t slot);
int kernel_create_semaphore(foc_slot_t factory, foc_slot_t slot);
int kernel_create_factory(foc_slot_t factory, foc_slot_t slot, foc_word_t limit_bytes);

/* ---- task: the protection domain ---- */

/* Maps the flexpage of `from` into `to`, at `base` (an address or FOC_CAP(slot)); `attributes`:
 * FOC_ITEM_SERVER, … The kernel says success where nothing was mapped: see native_pd_foc.c. */
int kernel_map(foc_slot_t to, foc_slot_t from, foc_word_t fpage, foc_word_t base, foc_word_t attributes);
/* Takes the flexpage away from `task`. With `flags` FOC_UNMAP_DELETE objects are destroyed where D is held.
 */
int kernel_unmap(foc_slot_t task, foc_word_t fpage, foc_word_t flags);
bool kernel_cap_is_valid(foc_slot_t task, foc_slot_t slot);
/* Same object (for a gate: and the same side of it) and the same rights W and S. */
bool kernel_caps_are_equal(foc_slot_t task, foc_slot_t a, foc_slot_t b);
/* Destroys the object in `slot` of our own, for everybody, and empties the slot. */
int kernel_destroy(foc_slot_t slot);
/* Empties a slot of our own; the object lives on if somebody else holds it. */
int kernel_drop(foc_slot_t slot);

/* ---- thread ---- */

/* Puts the thread into the task. Pager and exception handler are slots of that task. */
int kernel_thread_bind(foc_slot_t thread, foc_slot_t task, foc_word_t utcb, foc_slot_t pager,
                       foc_slot_t handler);
/* Reads and sets where the thread is; ~0: leave it. `flags`: FOC_EX_REGS_*. */
int kernel_thread_ex_regs(foc_slot_t thread, foc_word_t rip, foc_word_t rsp, foc_word_t flags);
/* Lets it be scheduled, on one of the processors of the mask. */
int kernel_thread_run(foc_slot_t scheduler, foc_slot_t thread, foc_word_t priority, foc_word_t processors);
/* Which processors are there. */
int kernel_processors(foc_slot_t scheduler, foc_word_t *ret_mask);
void kernel_yield(void);
void kernel_sleep_us(unsigned microseconds);

/* ---- what signals arrive through ---- */

int kernel_gate_bind(foc_slot_t gate, foc_slot_t thread, foc_word_t label); /* interrupts too */
int kernel_gate_label(foc_slot_t gate, foc_word_t *ret_label);              /* needs the server's side */
int kernel_irq_detach(foc_slot_t irq);
int kernel_irq_trigger(foc_slot_t irq); /* semaphores: up */
int kernel_semaphore_down(foc_slot_t semaphore, foc_word_t receive_timeout);
