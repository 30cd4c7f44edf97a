/* A restore from an image under way. Private to restore_cold.c, the course of it, and restore_cold_space.c,
 * the capability space. */
#pragma once

#include "given.h"
#include "lib-internal.h"

#include "cold/cold.h"
#include "native_pd/native_pd.h"
#include "object/object.h"
#include "target/target.h"

struct cold_restore {
    const char *dir;
    const struct reseat_restore_options *options;
    struct image *image;
    struct snapshot snapshot; /* a copy: the numbers in it become those of this place */
    struct filling filling;
    struct target twin; /* in hand, if it still lives */
    struct given given; /* what is taken from it */
    bool gave_up_locks; /* it let go of its record locks, and takes them again when it is left alone */
    struct object_set objects;
    bool *is_kept;         /* by object: it is taken, not made */
    object_id_t *unwanted; /* objects at whose selectors there will be something else */
    size_t unwanted_count;
    struct cold_slot *slots;
    size_t slot_count;
    struct cold_object *mapped;
    size_t mapped_count;
    int null_fd;
    struct cold_plan plan;
};

/* ---- restore_cold_space.c ---- */

const struct reseat_slot *space_wish(const struct cold_restore *restore, uint32_t selector);
bool space_is_used(void *restore, unsigned selector); /* for slots_check() */
native_cap_t space_cap(const struct cold_restore *restore, uint32_t object);
/* What becomes of each capability; notes which are kept. */
int space_judge(struct cold_restore *restore, struct obstacles *obstacles, struct reseat_error **ret_error);
/* Takes or makes the objects, and says which goes where. */
int space_make(struct cold_restore *restore, struct reseat_error **ret_error);
/* What can only be done when the process is there: a pidfd on it, leases. */
int space_complete(struct cold_restore *restore, struct target *process, struct reseat_error **ret_error);
/* The proof, before it runs: what is kept is the very object that the twin holds there. */
int space_prove(const struct cold_restore *restore, const struct target *process, unsigned *ret_same,
                struct reseat_error **ret_error);
