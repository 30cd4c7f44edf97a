/* What the files of the library share. */
#pragma once

#include "reseat.h"

#include "process/process.h"
#include "snapshot/snapshot.h"

/* Judges obstacles by what the caller allows: what is allowed becomes a note, the rest an error with one line
 * an item. 0 or -RESEAT_REFUSED. */
int judge_obstacles(const struct obstacles *obstacles, enum reseat_allow allow, reseat_note_fn note,
                    void *userdata, struct reseat_error **ret_error);

/* ---- slots.c: what is to become of single selectors ---- */

/* The wish about a selector, or NULL. */
const struct reseat_slot *slots_find(const struct reseat_slot *slots, size_t count, unsigned selector);
/* Whether something else, or nothing, is to be there (slot may be NULL). */
bool slot_is_replaced(const struct reseat_slot *slot);
bool slots_replace_any(const struct reseat_slot *slots, size_t count);
/* Whether something must come back, or the restore be refused. */
bool slots_must_keep_any(const struct reseat_slot *slots, size_t count);
/* Checks the list before anything is changed; `is_used`: whether a selector was used at the checkpoint. */
int slots_check(const struct reseat_slot *slots, size_t count,
                bool (*is_used)(void *userdata, unsigned selector), void *userdata,
                struct reseat_error **ret_error);
/* An `is_used` that asks a live process: userdata points to a descriptor of its /proc/PID. */
bool slots_used_in_process(void *userdata, unsigned selector);
/* 0, or -RESEAT_REFUSED if RESEAT_SLOT_KEEP is wanted for a selector that gets another object, and why. */
int slots_check_kept(const struct reseat_slot *slots, size_t count, unsigned selector, const char *why,
                     struct reseat_error **ret_error);
/* Takes out obstacles about selectors that are replaced anyway, and makes those forbidden that a wish does
 * not permit, whatever is allowed elsewhere. Before judge_obstacles(). */
void slots_judge(const struct reseat_slot *slots, size_t count, struct obstacles *obstacles);

struct target;
/* Puts into a stopped process, with a table of its own, what is wanted in place of what is there. */
int slots_apply(struct target *process, const struct reseat_slot *slots, size_t count,
                struct reseat_error **ret_error);

/* restore.c: has a session leader come back without its controlling terminal, and says so. */
int lose_terminal(struct snapshot_process *process, struct obstacles *obstacles);

/* restore.c: lets a process go that has been put back, with the terminal, and notes it in the result.
 * `free_ns`: when its number was free. */
void let_go_restored(struct target *process, const struct reseat_restore_options *options,
                     const struct snapshot_process *row, uint64_t free_ns,
                     struct reseat_restore_result *result);
/* restore_cold.c: from the image alone, that of a directory or (stream_fd >= 0) one that comes in a stream.
 */
int restore_cold(const char *dir, int stream_fd, const struct reseat_restore_options *options,
                 struct reseat_restore_result *result, struct reseat_error **ret_error);

/* ---- filling.c ---- */

struct image;
struct snapshot_extent;

/* How far a restore from an image has got. */
struct filling {
    struct image *image;
    const struct reseat_restore_options *options; /* whose progress is told; NULL: nobody's */
    uint64_t done, total;                         /* bytes */
};

/* The report of a struct image_progress, and what a struct cold_memory and object_recreate() ask for;
 * `userdata`: a struct filling. */
int filling_report_checked(void *userdata, uint64_t done, uint64_t total);
int filling_report(void *userdata, uint64_t length);
int filling_read(void *userdata, const struct snapshot_extent *extent, uint64_t offset, void *data,
                 size_t length, struct reseat_error **ret_error);
int filling_read_content(void *userdata, const struct snapshot_extent *extent, uint64_t offset, void *data,
                         size_t length, struct reseat_error **ret_error);

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
