/* The vault: a dormant task into which a whole capability space is mapped, selectors unchanged, in one bulk
 * map; and out of which it is mapped again in another. It has no thread and no memory, and needs as many
 * pages of the kernel as the space has tables. The counterpart of the twin on Linux.
 *
 * D is not taken along, the server's side of gates is. What the PD held on objects of its own (its task, its
 * threads) ends with them, in the vault too: whoever restores makes them anew and puts them in place
 * afterwards. */
#include "native_pd_internal.h"

#include "base/base.h"
#include "kernel/kernel.h"

static int map_space(foc_slot_t to, foc_slot_t from)
{
    return kernel_map(to, from, FOC_FPAGE_SLOTS(0, FOC_SELECTOR_ORDER, FOC_RIGHTS_RWS), 0, FOC_ITEM_SERVER);
}

int foc_vault_make(foc_slot_t factory, struct foc_vault *ret_vault, struct reseat_error **ret_error)
{
    foc_slot_t task = slots_take();
    if (!task)
        return error_set(ret_error, -E_MFILE, "no slot left for a vault");
    int r = kernel_create_task(factory, task, 0, 0);
    if (r < 0) {
        slots_give(task);
        return error_set(ret_error, r, "making the task of a vault");
    }
    ret_vault->task = task;
    return 0;
}

void foc_vault_free(struct foc_vault *vault)
{
    if (vault->task) {
        kernel_destroy(vault->task);
        slots_give(vault->task);
    }
    vault->task = 0;
}

/* The bulk map says nothing of what it did: every used selector must have arrived. That it is the same object
 * and has the same rights is for those who compare selector by selector. */
static int verify(foc_slot_t from, foc_slot_t to)
{
    selector_t selector = 0;
    while (selector < foc_selector_limit()) {
        foc_find_by_halving(from, selector, &selector);
        if (selector == NATIVE_SELECTOR_END)
            return 0;
        if (!kernel_cap_is_valid(to, selector))
            return -E_IO;
        selector++;
    }
    return 0;
}

int foc_vault_fill(struct foc_vault *vault, struct native_pd *pd, struct reseat_error **ret_error)
{
    foc_slot_t task = foc_pd_task(pd);
    if (!task)
        return error_set(ret_error, -E_SRCH, "PD %d has ended", pd->id);
    int r = map_space(vault->task, task);
    if (r == 0)
        r = verify(task, vault->task);
    return r < 0 ? error_set(ret_error, r, "copying the capability space of PD %d into its vault", pd->id)
                 : 0;
}

int foc_vault_restore(const struct foc_vault *vault, struct native_pd *pd, struct reseat_error **ret_error)
{
    foc_slot_t task = foc_pd_task(pd);
    if (!task)
        return error_set(ret_error, -E_SRCH, "PD %d has ended", pd->id);
    int r = map_space(task, vault->task);
    if (r == 0)
        r = verify(vault->task, task);
    return r < 0 ? error_set(ret_error, r, "copying the vault into the capability space of PD %d", pd->id)
                 : 0;
}
