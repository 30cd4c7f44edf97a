/* The seam: one protection domain (PD) and its capability space, with the operations that this project began
 * with: request, an iterator that hands out capabilities, and install, which puts one at a chosen selector.
 *
 * Kernel-neutral and freestanding: nothing here that an implementation for Fiasco.OC could not honour.
 * linux*.c implement it on the descriptor table of a process, foc/native_pd_foc.c on a task. Functions
 * return 0 or a negative errno, set the error on every failure (it may be NULL), and write through `ret_`
 * parameters only on success.
 *
 * Next, list, request and compare neither stop the PD nor change anything in it. Install and close change
 * exactly the selectors that they are given; on Linux they stop the process for one short moment, whatever
 * the count. The forms that take many do the work; a single one is a count of one. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct reseat_error;

typedef unsigned selector_t;
/* A capability that we hold. Linux: a descriptor of ours, to be closed with close(2). Fiasco.OC: a selector
 * of core's own capability space. */
typedef int native_cap_t;
/* What a PD is called outside. Linux: the PID. Fiasco.OC: the number that core gave to the component. */
typedef int native_pd_id_t;

#define NATIVE_SELECTOR_END ((selector_t)-1)
#define NATIVE_CAP_INVALID  (-1)

enum native_slot_flags {
    /* Linux: FD_CLOEXEC of the slot. For install; request does not report it, because it belongs to the
     * selector, not to the capability, and asking for it would cost six times as much as the capability. */
    NATIVE_CLOSE_ON_EXEC = 1 << 0,
    /* Rights. Linux: they belong to the object (access mode); request reports them, and an install that asks
     * for others than the object has is -EACCES (none asked for: as they are). Fiasco.OC: they belong to the
     * capability, and install maps it with those asked for. */
    NATIVE_READ = 1 << 1,
    NATIVE_WRITE = 1 << 2,
    NATIVE_SPECIAL = 1 << 3, /* Fiasco.OC: the S right */
    NATIVE_REPLACE = 1 << 8, /* install: what is at the selector may be replaced; else -EEXIST */
};

struct native_slot {
    selector_t selector;
    native_cap_t cap;
    unsigned flags; /* enum native_slot_flags */
};

struct native_pd;

/* Opens a PD. It is this one for good: when it has ended, every operation says -ESRCH, whoever gets its
 * number later. Linux: a live process that the caller may trace (PTRACE_MODE_ATTACH_REALCREDS); rests on
 * pidfd_open(2). -ESRCH: there is none; -EPERM: not ours. */
int native_pd_open(native_pd_id_t id, struct native_pd **ret_pd, struct reseat_error **ret_error);
void native_pd_free(struct native_pd **pd); /* cleanup function */
native_pd_id_t native_pd_id(const struct native_pd *pd);

/* The lowest used selector that is `from` or above it, or NATIVE_SELECTOR_END. */
int native_pd_next(struct native_pd *pd, selector_t from, selector_t *ret_selector,
                   struct reseat_error **ret_error);
/* Many at once: up to `capacity` used selectors from `from` on, ascending. Fewer than `capacity`: there are
 * no more. A selector that is used from the beginning to the end of an iteration is listed exactly once,
 * whatever else changes meanwhile. */
int native_pd_list(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                   size_t *ret_count, struct reseat_error **ret_error);

/* request: the capability at `selector` as one of ours (NATIVE_CAP_INVALID if the selector is unused, no
 * error) and the selector to ask for next (`ret_next` may be NULL). Linux: pidfd_getfd(2). */
int native_pd_request(struct native_pd *pd, selector_t selector, native_cap_t *ret_cap, selector_t *ret_next,
                      struct reseat_error **ret_error);
/* Many at once: the capabilities at used selectors from `from` on, at most `capacity` of them, which the
 * caller owns, with the rights that they give; *ret_next: where to go on, or NATIVE_SELECTOR_END. On failure
 * none is held.
 */
int native_pd_request_many(struct native_pd *pd, selector_t from, struct native_slot *ret_slots,
                           size_t capacity, size_t *ret_count, selector_t *ret_next,
                           struct reseat_error **ret_error);

/* Object identity: 0 if both selectors hold the same object; otherwise -1 or 1 in *ret_order, a total order
 * over all objects of the machine. Linux: kcmp(2) KCMP_FILE. -EBADF: one of them is unused. */
int native_pd_compare(struct native_pd *a, selector_t selector_a, struct native_pd *b, selector_t selector_b,
                      int *ret_order, struct reseat_error **ret_error);

/* install: puts capabilities of ours at chosen selectors, all or none, in one stop. The caller keeps its own.
 * Numbers that are used in passing are never seen by the PD's own calls. -EEXIST: a selector is in use (the
 * error names what is there) and NATIVE_REPLACE was not given; -EBUSY: it is being filled by a call under
 * way; -EBADF, -EMFILE: no such selector is allowed in this PD; -EACCES: other rights than the object has;
 * -EPERM: no right over the PD; -EINVAL: a selector is given twice. */
int native_pd_install(struct native_pd *pd, const struct native_slot *slots, size_t count,
                      struct reseat_error **ret_error);
/* close: empties selectors, all or none, in one stop. -EBADF: one of them is unused. */
int native_pd_close(struct native_pd *pd, const selector_t *selectors, size_t count,
                    struct reseat_error **ret_error);
