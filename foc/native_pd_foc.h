/* What core knows of the native PD interface beyond the seam (src/native_pd/native_pd.h): which task a PD is,
 * the vault, the two ways of enumeration, and rights. Slots of core's own capability space come from
 * slots_take(). */
#pragma once

#include "abi/abi.h"
#include "native_pd/native_pd.h"

#include <stdbool.h>

#define FOC_PDS_MAX        16
#define FOC_NATIVE_RIGHTS  (NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL)
#define FOC_SELECTOR_ORDER 16 /* the largest capability space that we look at; how large it is, is probed */

/* ---- slots of our own ---- */

void slots_init(void);
foc_slot_t slots_take(void); /* 0: there is none left */
void slots_give(foc_slot_t slot);
/* Drops what is in the slot and gives it back; 0 and NATIVE_CAP_INVALID are ignored. */
void slots_drop(foc_slot_t slot);
unsigned slots_used(void);

/* ---- PDs ---- */

/* Once, before anything else: makes the scratch tasks. `factory` is core's. */
int foc_native_init(foc_slot_t factory, struct reseat_error **ret_error);
selector_t foc_selector_limit(void); /* the first number that no capability space has */

/* Gives the task in our `slot` the number `id`. It is that PD until foc_pd_forget(). */
int foc_pd_register(native_pd_id_t id, foc_slot_t slot, struct reseat_error **ret_error);
void foc_pd_forget(native_pd_id_t id);

/* Rights W and S of a capability of ours, as NATIVE_*; D and whether it is counted cannot be seen. */
int foc_rights(foc_slot_t slot, unsigned *ret_flags);
bool foc_is_same_object(foc_slot_t a, foc_slot_t b); /* whatever the rights */
/* Its number in the order over all objects: the same for the same object, for as long as that lives. */
int foc_object_number(foc_slot_t slot, unsigned *ret_number);

/* ---- enumeration ---- */

/* Asks for each selector by itself. */
int foc_list_by_probing(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                        size_t *ret_count);
/* Halves: one bulk map of a whole range into a task that has no memory to hold anything tells whether it is
 * empty. */
int foc_list_by_halving(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                        size_t *ret_count);
int foc_find_by_halving(foc_slot_t task, selector_t from, selector_t *ret_selector);

/* ---- the vault: a dormant task that holds a whole capability space, selectors unchanged ---- */

struct foc_vault {
    foc_slot_t task;
};
int foc_vault_make(foc_slot_t factory, struct foc_vault *ret_vault, struct reseat_error **ret_error);
void foc_vault_free(struct foc_vault *vault);
/* One bulk map each. Restore replaces what is at selectors that the vault has; others stay. */
int foc_vault_fill(struct foc_vault *vault, struct native_pd *pd, struct reseat_error **ret_error);
int foc_vault_restore(const struct foc_vault *vault, struct native_pd *pd, struct reseat_error **ret_error);

/* The task behind a PD, for those that compare it with something. 0: it has ended. */
foc_slot_t foc_pd_task(const struct native_pd *pd);
