/* What the seam has on Linux alone: for rooms that have a process in their hands already. */
#pragma once

#include "base/base.h"
#include "native_pd/native_pd.h"

struct target;

/* install into a process that is stopped in our hands, with scratch pages. What was at the selector is
 * replaced; `close_on_exec` belongs to the slot. No other selector is touched, and numbers that are used in
 * passing are free again afterwards. io_uring's descriptors cannot be sent (-EINVAL). Rests on unix(7)
 * SCM_RIGHTS, dup3(2). */
int native_pd_install_stopped(struct target *target, native_cap_t cap, selector_t selector,
                              bool close_on_exec, struct reseat_error **ret_error);
