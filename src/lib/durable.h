/* What a durable image takes besides a twin. */
#pragma once

#include "process/process.h"
#include "snapshot/snapshot.h"

struct image_content;
struct object_freeze;
struct target;

/* The files whose contents are to be written beside the memory. */
struct durable_contents {
    struct image_content *items;
    size_t count;
};

void durable_contents_end(struct durable_contents *contents); /* cleanup function */

/* Adds what an image would not bring back of the objects of a snapshot. `is_running`: it is an outline of a
 * process that runs. */
int durable_judge_objects(const struct snapshot *snapshot, bool is_running, struct obstacles *obstacles,
                          struct reseat_error **ret_error);
/* The same of live process `pid`, before it is stopped. */
int durable_find_obstacles(pid_t pid, struct obstacles *obstacles, struct reseat_error **ret_error);
/* Whether a copy of process `pid` shares memory with it that an image has to store: then it must not run
 * while that is written. */
bool durable_shares_memory(pid_t pid);
/* For an image that is to be all that is left: see object_freeze_connections(). */
int durable_freeze_connections(pid_t pid, const struct snapshot *snapshot, struct object_freeze **ret_freeze,
                               struct reseat_error **ret_error);
/* The capability map and the object table, of a stopped target or of its twin. */
int durable_capture_objects(pid_t pid, struct durable_contents *contents, struct snapshot *snapshot,
                            struct reseat_error **ret_error);
/* Everything else but memory: state, memory map, the objects that are mapped. */
int durable_describe(struct target *twin, struct durable_contents *contents, struct snapshot *snapshot,
                     struct reseat_error **ret_error);
