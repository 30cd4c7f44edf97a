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

/* rebuild_state.c: what only a seed that is made from an image (seed->is_bare) has to be given. Signals,
 * settings and filters, before the threads are cloned. */
int rebuild_state(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error);
/* Out-of-memory score and the like, from outside; and last the limits. */
int rebuild_scores(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error);
int rebuild_limits(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error);

/* credentials.c: adds the calls by which a thread takes its credentials, if it was not cloned with them, and
 * how many that takes at most. */
int rebuild_add_credentials(struct program *program, const struct seed *seed, const struct snapshot *snapshot,
                            const struct snapshot_thread *thread, struct reseat_error **ret_error);
size_t rebuild_credential_calls(const struct seed *seed, const struct snapshot *snapshot,
                                const struct snapshot_thread *thread);
/* At the very end, when all others have theirs. */
int rebuild_leader_credentials(struct seed *seed, const struct snapshot *snapshot,
                               struct reseat_error **ret_error);

/* The next descriptor that is opened in the half-made process will be in passing: noted for the case that we
 * are killed before it is closed again, and the note taken back. */
int rebuild_note_passing(struct seed *seed, struct reseat_error **ret_error);
int rebuild_clear_passing(struct seed *seed);
