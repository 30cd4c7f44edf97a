/* What the seam has on Linux alone: for rooms that have a process in their hands already. */
#pragma once

#include "base/base.h"
#include "native_pd/native_pd.h"

struct target;

/* native_pd_install() into a process that is stopped in our hands, all threads of it, with scratch pages that
 * have native_pd_scratch_bytes() of room left. What fails has been undone; the leader then stands in the
 * program that it was stopped in. */
int native_pd_install_stopped(struct target *target, const struct native_slot *slots, size_t count,
                              struct reseat_error **ret_error);
/* Room that `count` capabilities take. More are installed in less room, in more steps. */
size_t native_pd_scratch_bytes(size_t count);
