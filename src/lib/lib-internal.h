/* What the files of the library share. */
#pragma once

#include "reseat.h"

#include "process/process.h"
#include "snapshot/snapshot.h"

/* Judges obstacles by what the caller allows: what is allowed becomes a note, the rest an error with one line
 * an item. 0 or -RESEAT_REFUSED. */
int judge_obstacles(const struct obstacles *obstacles, enum reseat_allow allow, reseat_note_fn note,
                    void *userdata, struct reseat_error **ret_error);

/* Reads a checkpoint whose twin is alive, and checks that whoever made the file may speak for the twin. */
int open_checkpoint(const char *dir, struct snapshot *ret_snapshot, struct reseat_error **ret_error);

/* Selectors that cannot hold the same object: those that were given another one, and descriptors on /proc
 * files of the process itself (snapshot->reopens). */
struct exceptions {
    const struct reseat_slot *slots;
    size_t slot_count;
    const struct snapshot *snapshot;
};

/* Compares the selectors of two processes. */
struct comparison {
    unsigned slots, same;
    struct reseat_difference *differences;
    size_t difference_count;
};
int compare_slots(pid_t process, pid_t twin, const struct exceptions *exceptions,
                  struct comparison *ret_comparison, struct reseat_error **ret_error);
void comparison_end(struct comparison *comparison);
