/* A few pages of a component's address space that core uses while the component is stopped: code that its
 * threads run for core, and buffers for their state. */
#pragma once

#include "core.h"

int scratch_open(struct component *component, struct reseat_error **ret_error);
void scratch_close(struct component *component);
/* `state` is STATE_PAGES. The thread is stopped before and after. */
int scratch_save(struct component *component, unsigned number, void *state, struct reseat_error **ret_error);
/* Starts a thread that has not run yet, and loads its state. It is stopped afterwards. */
int scratch_load(struct component *component, unsigned number, const void *state,
                 struct reseat_error **ret_error);
