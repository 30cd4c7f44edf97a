/* What the files of the native PD interface on Linux share. */
#pragma once

#include "native_pd/linux.h"

struct native_pd {
    pid_t pid;
    int pidfd;
    int table_fd;             /* /proc/PID/fd */
    bool is_self;             /* who asks has not ended */
    native_pd_guard_fn guard; /* NULL: none */
    void *guard_userdata;
    uint64_t last_stop_ns;
};

/* All selectors are below this: the most that fs.nr_open can be set to. A position beyond it may be more than
 * procfs can seek to. */
#define SELECTOR_LIMIT 2147483584U

bool native_pd_has_ended(const struct native_pd *pd);
int native_pd_error_ended(const struct native_pd *pd, struct reseat_error **ret_error);
/* Says which permission is missing on `pid`, and what grants it. Returns -EPERM. */
int native_pd_error_permission(pid_t pid, struct reseat_error **ret_error);
/* The rights that the status flags of an object mean (O_ACCMODE, O_PATH). */
unsigned native_pd_rights_of(int status_flags);

/* ---- into a stopped process ---- */

struct program;
struct target_thread;

/* Below each program that the leader runs there must be room for the frame of a signal handler, if one could
 * run: the target's own one for our report signal, with the stack pointer in our program, if we die there.
 * Takes that room; and begins a part with it. */
void native_pd_take_handler_room(struct target *target);
void native_pd_begin_part(struct target *target);
#define NATIVE_PD_HANDLER_BYTES (16 * 1024)

/* One capability on its way. */
struct parcel {
    const struct native_slot *slot;
    const uint64_t *result;  /* in the mirror: what dup3 said */
    int number;              /* where it came in */
    bool came_close_on_exec; /* and with which flag */
};

/* Installs like native_pd_install_stopped(). `used`: selectors that were in use a moment ago, ascending, up
 * to the highest that is wanted; NULL: not known. It makes it faster if it is right. */
int native_pd_deliver(struct target *target, const struct native_slot *slots, size_t count,
                      const selector_t *used, size_t used_count, struct reseat_error **ret_error);
/* How many selectors may have to be plugged for so many capabilities that it is worth while. */
size_t native_pd_most_plugs(size_t count);

/* The same by a helper process. linux_helper.c */
int native_pd_deliver_by_helper(struct target *target, const struct native_slot *slots, size_t count,
                                struct reseat_error **ret_error);
/* What stands at a selector that could not be had: -EEXIST or -EBUSY. */
int native_pd_error_occupied(const struct target *target, selector_t selector,
                             struct reseat_error **ret_error);
/* Ends a program with the way back of a stopped thread. */
int native_pd_add_way_back(struct program *program, struct target_thread *thread,
                           struct reseat_error **ret_error);
