/* What the files of rebuild share. */
#pragma once

#include "process/process.h"
#include "target/target.h"

/* Adds the calls that give a thread what belongs to it alone. */
#define REBUILD_SETUP_CALLS 12
void rebuild_add_thread_setup(struct program *program, const struct snapshot_thread *row,
                              const struct snapshot_thread *leader);
/* Adds the calls that queue the signals of a thread (tid 0: of the process) again, and how many that takes.
 */
#define REBUILD_SIGNAL_CALLS 3
void rebuild_add_signals(struct program *program, const struct snapshot *snapshot, uint32_t tid);
size_t rebuild_signal_calls(const struct snapshot *snapshot, uint32_t tid);

/* rebuild_threads.c: clones all threads, which then wait at the gate. */
int rebuild_threads(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error);
/* Adds the last calls of a thread: the report, and the way back to where it was. */
#define REBUILD_RETURN_CALLS 8
void rebuild_add_return(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                        const struct snapshot_thread *row);

/* The next descriptor that is opened in the half-made process will be in passing: noted for the case that we
 * are killed before it is closed again, and the note taken back. */
int rebuild_note_passing(struct seed *seed, struct reseat_error **ret_error);
int rebuild_clear_passing(struct seed *seed);
