/* Acting on an object as if it stood at a certain selector. Private to the object room. */
#pragma once

#include "object/durable.h"

/* Calls `act` with `cap` at the number `selector` (and `other`, if it is not negative, at a number of ours),
 * in a thread that has a copy of our descriptor table for itself. For what notes the number of the descriptor
 * through which it is done: interests, leases, O_ASYNC. Returns what `act` does. */
int at_selector(native_cap_t cap, selector_t selector, int other,
                int (*act)(int fd, int other, const void *userdata), const void *userdata);
