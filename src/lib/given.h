/* What a restore from an image takes from the twin of the same checkpoint, if that still lives: the objects
 * themselves. Used by the restore, and by the plan of one. */
#pragma once

#include "lib-internal.h"
#include "object/object.h"

/* Where an object is to be had: at a selector or, if it has none (any more), where it is mapped. */
struct given_place {
    const struct snapshot_capability *capability;
    const struct snapshot_vma *mapping;
};

struct given {
    const struct snapshot *snapshot; /* of the image */
    struct native_pd *pd;            /* of the twin; NULL: there is none that lives, and nothing is given */
    object_id_t *objects;            /* those that can be taken, ascending */
    size_t object_count;
    struct given_place *places; /* by object */
    struct obstacles obstacles; /* about what is taken, and works less than it did */
};

/* Finds out whether the twin of this checkpoint lives, and what can be taken from it. What is bound to its
 * memory cannot (a userfaultfd, rings). Stops nothing. `snapshot` must outlive it. */
int given_find(const struct snapshot *snapshot, struct given *ret_given, struct reseat_error **ret_error);
void given_end(struct given *given); /* cleanup function */

/* The part of the options of a cold restore that speaks of what is given. */
void given_set_options(struct given *given, struct object_options *options);

/* Adds to the snapshot what objects that are taken need in the process (`interests`, `positions`), as a
 * restore from the twin does it. `is_kept`: whether the object at a selector is one. */
int given_add_fixups(const struct given *given, struct snapshot *snapshot,
                     bool (*is_kept)(void *userdata, uint32_t selector), void *userdata,
                     struct reseat_error **ret_error);
