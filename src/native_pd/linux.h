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

/* Asked when the process of an install or close stands still and nothing in it has been changed: the last
 * moment to refuse. Its failure is that of the operation. */
typedef int (*native_pd_guard_fn)(void *userdata, struct reseat_error **ret_error);
void native_pd_set_guard(struct native_pd *pd, native_pd_guard_fn guard, void *userdata);
/* How long the last install or close kept the process from running. */
uint64_t native_pd_last_stop_ns(const struct native_pd *pd);

/* A selector and which object it holds, as a number that is the same for the same object, while that lives,
 * and different for different ones. Of use only for comparing, within one moment. */
struct native_identity {
    selector_t selector;
    uint64_t object;
};
/* All of a PD, ascending, by BPF: some ten times as fast as asking kcmp(2) for each. The array is the
 * caller's. -EOPNOTSUPP: not permitted, or not to be had here. */
int native_pd_list_identities(struct native_pd *pd, struct native_identity **ret_identities,
                              size_t *ret_count, struct reseat_error **ret_error);
