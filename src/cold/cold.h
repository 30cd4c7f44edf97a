/* The cold seed: a half-made process that is made of nothing but an image. A child of ours, cloned under the
 * old PID, leaves our memory and is given that of the snapshot: the same mappings at the same addresses,
 * their content, where heap, arguments and program are, the vDSO at its old place. Everything is done by
 * programs that run inside it (target/target.h) from scratch pages at an address that is free in both; what
 * it needs from outside (files that it maps, the image that it reads, the objects of its capability space) it
 * has inherited as descriptors of ours. From there on it is a seed like one that a twin has cloned, and goes
 * through process_rebuild() and process_commit().
 *
 * Never more privileges than the caller's: the kernel would refuse, but cold_check() does so by name, before
 * any process exists. */
#pragma once

#include "process/process.h"
#include "snapshot/snapshot.h"
#include "target/target.h"

/* Where the content of extents comes from. */
struct cold_memory {
    int fd; /* the file that extents stand in, for those that are not compressed; -1: only read() */
    int (*read)(void *userdata, const struct snapshot_extent *extent, uint64_t offset, void *data,
                size_t length, struct reseat_error **ret_error);
    void *userdata;
    /* Told now and then how much more has come to its place; a negative errno ends it. NULL: nobody asks. */
    int (*filled)(void *userdata, uint64_t length);
};

/* One slot of the new capability space: a descriptor of ours goes to a selector. */
struct cold_slot {
    uint32_t selector;
    uint32_t flags; /* FD_CLOEXEC */
    int fd;
};

/* A descriptor of ours for what a mapping of SNAPSHOT_VMA_OBJECT is of. */
struct cold_object {
    uint32_t id;
    int fd;
};

struct cold_plan {
    const struct snapshot *snapshot;
    struct cold_memory memory;
    const struct cold_slot *slots;
    size_t slot_count;
    const struct cold_object *objects;
    size_t object_count;
    pid_t holder; /* a process that still has the memory map of the snapshot (its twin); 0: none */
    bool new_pid;
    bool is_child;      /* it stays our child, in our session */
    bool new_namespace; /* in a new PID namespace with an init of its own, where every number is free */
    uint64_t wait_ns;   /* how long to wait for the number to become free */

    /* Filled by cold_open(). */
    int *vma_fds; /* of each mapping: the file, or the holder's shared memory, that it is of, or -1 */
    int exe_fd, directory_fd, root_fd;

    int *segments; /* of System V shared memory, made for it by cold_seed() */
    size_t segment_count;
};

#define COLD_PLAN_NONE ((struct cold_plan){.exe_fd = -EBADF, .directory_fd = -EBADF, .root_fd = -EBADF})

/* The numbers of a snapshot as they are to be here: those of the innermost PID namespace, which the process
 * knows, in ours. */
void cold_renumber(struct snapshot *snapshot);

/* Gives the threads the extended state that they have in the form of this processor. After cold_check(). */
int cold_adapt_processor(struct snapshot *snapshot, struct reseat_error **ret_error);

/* What would not come back from this image here; without the capability space. Fails (-EPERM, -ENOTSUP, …)
 * where nothing can be allowed: privileges that we do not have, a processor without what the threads use,
 * memory that nobody can map. */
int cold_check(const struct cold_plan *plan, struct obstacles *obstacles, struct reseat_error **ret_error);

/* The same beforehand, of a live process that an image is to be made of: what can be seen of it while it
 * runs.
 */
int cold_check_process(pid_t pid, struct obstacles *obstacles, struct reseat_error **ret_error);

/* Opens what the process needs: files, directories, program. */
int cold_open(struct cold_plan *plan, struct obstacles *obstacles, struct reseat_error **ret_error);
void cold_close(struct cold_plan *plan); /* cleanup function */

/* Makes the half-made process with its memory, its directories and its capability space. */
int cold_seed(struct cold_plan *plan, struct seed *seed, struct target *ret_process, uint64_t *ret_free_ns,
              struct reseat_error **ret_error);
/* Kills a half-made process; cleanup function. */
void cold_discard(struct target *process);
