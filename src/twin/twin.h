/* The twin: a dormant process made inside a stopped target that holds its memory and its whole capability
 * space.
 *
 * Two forms. The *heir* is cloned with CLONE_VM | CLONE_FILES: it shares both, costs nothing whatever the
 * size, and is all that is left when the target is killed. The *copy* is a fork, for a target that runs on.
 * Either is cloned with CLONE_PARENT, so that what is restored from it is again a child of the target's
 * parent.
 *
 * A twin sleeps in a futex(2) that nobody wakes, with every signal blocked: only SIGKILL ends it, and nothing
 * makes it run the program a second time. Its name (comm) is "reseat:" and the PID of the target. */
#pragma once

#include "process/process.h"
#include "snapshot/snapshot.h"
#include "target/target.h"

#define TWIN_NAME_PREFIX "reseat:"

/* What stands first in the data part of a twin's scratch pages, so that it can be found without its
 * directory. */
struct twin_header {
    char magic[16];
    uint32_t pid, twin;
    uint64_t ran_on; /* heir: not zero when the target was not killed after all, and runs on in this memory */
    uint64_t sleep_address;
    uint64_t passing; /* 1 + a selector that a restore that was killed may have left open, or 0 */
    uint32_t report_signal,
        report_is_caught;      /* then ignored by the twin, lest it ever run the program's handler */
    uint8_t report_action[32]; /* struct sigaction of the kernel: what the program does with it */
    char dir[4096];
    uint64_t gave_up_locks; /* heir: not zero once twin_give_up_locks() was called */
};

/* How many bytes of scratch this checkpoint takes, and a later restore. */
size_t twin_scratch_bytes_about(size_t thread_count);
size_t twin_scratch_bytes(const struct snapshot *snapshot);

/* Makes a twin in a stopped target that has scratch pages, and asks the target everything that only it can
 * answer (both in one run of programs), into the snapshot. Afterwards every thread of the target stands at a
 * report behind which it undoes what was done to it; the twin stands still, too, and ends if we die.
 * `will_kill`: the threads are prepared for being killed while their memory lives on. `lets_go`: the target
 * runs on as soon as it has done its part. */
int twin_make(struct target *target, struct snapshot *snapshot, const char *dir, bool will_kill, bool lets_go,
              struct target *ret_twin, struct reseat_error **ret_error);
/* Lets a new twin go to sleep: from now on it lives on without us. For a filtered one it is made sure that
 * its filter lets it sleep. */
int twin_commit(struct target *twin, const struct snapshot *snapshot, struct reseat_error **ret_error);
/* Kills a twin that has not been committed, or is held, and waits for its end. */
void twin_discard(struct target *twin);

/* Takes a sleeping twin in hand: stopped, its scratch pages adopted. -ESRCH: it is gone. target_release()
 * puts it back to sleep. */
int twin_open(const struct snapshot *snapshot, struct target *ret_twin, struct reseat_error **ret_error);
/* Whether the twin of a snapshot is alive: 0, or -ESRCH with the reason. */
int twin_check(const struct snapshot *snapshot, struct reseat_error **ret_error);
/* Asks a twin in hand what it holds by itself, for a durable image: process_describe(). */
int twin_describe(struct target *twin, struct snapshot *snapshot, struct reseat_error **ret_error);
/* Makes a copy of a twin in hand, for another restore; its numbers go into the snapshot. Not committed yet.
 */
int twin_copy(struct target *twin, struct snapshot *snapshot, struct target *ret_copy,
              struct reseat_error **ret_error);
/* Clones the half-made process from a twin in hand, under the old PID (`new_pid`: any). Waits up to wait_ns
 * for the number to become free. ret_free_ns: when it was. The scratch pages go over to the process. */
int twin_seed(struct target *twin, const struct snapshot *snapshot, bool new_pid, uint64_t wait_ns,
              struct seed *seed, struct target *ret_process, uint64_t *ret_free_ns,
              struct reseat_error **ret_error);
/* A twin in hand lets go of its record locks, so that another process can take them. It then stands at a
 * report behind which it takes them again, and sleeps: that is what it does if we die, or if
 * target_abandon_thread() leaves it to its program. */
int twin_give_up_locks(struct target *twin, const struct snapshot *snapshot, struct reseat_error **ret_error);
bool twin_gave_up_locks(struct target *twin, const struct snapshot *snapshot);
/* Where the word `passing` of its header stands in the twin (see struct seed). */
uint64_t twin_passing_address(const struct snapshot *snapshot);
/* Kills a sleeping twin by number and sees to it that no zombie is left. */
int twin_end(pid_t twin, uint64_t start_time, struct reseat_error **ret_error);
/* A dead twin that its parent does not collect is collected for it, by a wait4(2) inside the parent. */
void twin_bury(pid_t twin);

/* Reads the header of process `pid` if it is a twin; -ENOENT if it is not (or not ours to see). */
int twin_read_header(pid_t pid, struct twin_header *ret_header);
