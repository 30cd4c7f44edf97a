/* The seam: one protection domain (PD) and its capability space. Kernel-neutral: nothing here that an
 * implementation for Fiasco.OC could not honour. linux.c implements it on the descriptor table of a process.
 *
 * None of these functions stops the PD or changes anything in it. */
#pragma once

#include "base/base.h"

#include <stdint.h>

typedef unsigned selector_t;
typedef int
    native_cap_t; /* a capability that we hold; on Linux a descriptor of ours, close it with close(2) */

#define NATIVE_SELECTOR_END ((selector_t)-1)
#define NATIVE_CAP_INVALID  (-1)

struct native_pd;

/* Opens the PD of a live process that the caller may trace (PTRACE_MODE_ATTACH_REALCREDS). -ESRCH: no such
 * process; -EPERM: not ours. The PD names this process for good: if it dies, every operation says -ESRCH,
 * whoever gets its number later. Rests on pidfd_open(2). */
int native_pd_open(pid_t pid, struct native_pd **ret_pd, struct reseat_error **ret_error);
void native_pd_free(struct native_pd **pd);
pid_t native_pd_pid(const struct native_pd *pd);

/* The lowest used selector that is `from` or above it, or NATIVE_SELECTOR_END. */
int native_pd_next(struct native_pd *pd, selector_t from, selector_t *ret_selector,
                   struct reseat_error **ret_error);

/* request: the capability at `selector` as one of ours (NATIVE_CAP_INVALID if the selector is unused, no
 * error) and the selector to ask for next (`ret_next` may be NULL). Rests on pidfd_getfd(2). */
int native_pd_request(struct native_pd *pd, selector_t selector, native_cap_t *ret_cap, selector_t *ret_next,
                      struct reseat_error **ret_error);

/* Object identity: 0 if both selectors hold the same object; otherwise -1 or 1 in *ret_order, a total order
 * over all objects of the machine. Rests on kcmp(2) KCMP_FILE. -EBADF: one of them is unused. */
int native_pd_compare(struct native_pd *a, selector_t selector_a, struct native_pd *b, selector_t selector_b,
                      int *ret_order, struct reseat_error **ret_error);

/* install: puts our capability at `selector` of a PD that is stopped in our hands, with scratch pages. What
 * was there is replaced; `close_on_exec` belongs to the slot. No other selector is touched, and numbers that
 * are used in passing are free again afterwards. io_uring's descriptors cannot be sent (-EINVAL). Rests on
 * unix(7) SCM_RIGHTS, dup3(2). */
struct target;
int native_pd_install_stopped(struct target *target, native_cap_t cap, selector_t selector,
                              bool close_on_exec, struct reseat_error **ret_error);
