/* The native PD interface on Fiasco.OC: the seam of src/native_pd/native_pd.h on a task. Request maps a
 * capability out of the task into a slot of ours, install maps one of ours into it, close unmaps: l4_task_map
 * and l4_task_unmap of the kernel's interface (kern/task.cpp), as in the original proposal for Genode.
 *
 * The kernel calls a map a success that did nothing: from an empty slot, to a selector that no capability
 * space has. And it replaces what is at an occupied selector without a word. So everything is checked before,
 * and every map is verified: what arrived is mapped back and compared, object and rights. D is never handed
 * on: destroying a task that holds a capability with D would destroy the object for everybody. */
#include "native_pd_internal.h"

#include "base/base.h"
#include "kernel/kernel.h"

#define INSTALL_MAX 128 /* at once; callers with more call again */

static int task_of(struct native_pd *pd, foc_slot_t *ret_task, struct reseat_error **ret_error)
{
    *ret_task = foc_pd_task(pd);
    if (!*ret_task)
        return error_set(ret_error, -E_SRCH, "PD %d has ended", pd->id);
    return 0;
}

static unsigned rights_of_flags(unsigned flags)
{
    return FOC_RIGHT_R | (flags & NATIVE_WRITE ? FOC_RIGHT_W : 0u) |
           (flags & NATIVE_SPECIAL ? FOC_RIGHT_S : 0u);
}

/* A copy in a slot of ours of what `task` has at `selector`, with all its rights but D. 0 in *ret_slot: it is
 * empty. */
static int fetch(foc_slot_t task, selector_t selector, foc_slot_t *ret_slot)
{
    *ret_slot = 0;
    if (!kernel_cap_is_valid(task, selector)) /* the kernel would map nothing, and write a warning about it */
        return 0;
    foc_slot_t slot = slots_take();
    if (!slot)
        return -E_MFILE;
    int r = kernel_map(FOC_SLOT_TASK, task, FOC_FPAGE_SLOTS(selector, 0, FOC_RIGHTS_RWS), FOC_CAP(slot),
                       FOC_ITEM_SERVER);
    if (r < 0 || !kernel_cap_is_valid(FOC_SLOT_TASK, slot))
        slots_give(slot);
    else
        *ret_slot = slot;
    return r;
}

/* ---- next, list ---- */

int native_pd_list(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                   size_t *ret_count, struct reseat_error **ret_error)
{
    int r = foc_list_by_halving(pd, from, selectors, capacity, ret_count);
    return r < 0 ? error_set(ret_error, r, "PD %d has ended", pd->id) : 0;
}

int native_pd_next(struct native_pd *pd, selector_t from, selector_t *ret_selector,
                   struct reseat_error **ret_error)
{
    foc_slot_t task;
    int r = task_of(pd, &task, ret_error);
    return r < 0 ? r : foc_find_by_halving(task, from, ret_selector);
}

/* ---- request ---- */

int native_pd_request(struct native_pd *pd, selector_t selector, native_cap_t *ret_cap, selector_t *ret_next,
                      struct reseat_error **ret_error)
{
    foc_slot_t task, slot = 0;
    int r = task_of(pd, &task, ret_error);
    if (r < 0)
        return r;
    if (selector < foc_selector_limit())
        r = fetch(task, selector, &slot);
    if (r < 0)
        return error_set(ret_error, r, "mapping selector %u of PD %d to core", selector, pd->id);
    if (ret_next)
        foc_find_by_halving(task, selector < foc_selector_limit() ? selector + 1 : selector, ret_next);
    *ret_cap = slot ? (native_cap_t)slot : NATIVE_CAP_INVALID;
    return 0;
}

static void give_back(struct native_slot *slots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        slots_drop((foc_slot_t)slots[i].cap);
}

int native_pd_request_many(struct native_pd *pd, selector_t from, struct native_slot *ret_slots,
                           size_t capacity, size_t *ret_count, selector_t *ret_next,
                           struct reseat_error **ret_error)
{
    size_t count = 0;
    foc_slot_t task;
    int r = task_of(pd, &task, ret_error);
    if (r < 0)
        return r;
    while (count < capacity) {
        selector_t selector;
        foc_slot_t slot;
        foc_find_by_halving(task, from, &selector);
        if (selector == NATIVE_SELECTOR_END)
            break;
        from = selector + 1;
        r = fetch(task, selector, &slot);
        if (r == 0 && !slot) /* emptied meanwhile */
            continue;
        if (r == 0) {
            ret_slots[count] = (struct native_slot){.selector = selector, .cap = (native_cap_t)slot};
            r = foc_rights(slot, &ret_slots[count++].flags);
        }
        if (r < 0) {
            give_back(ret_slots, count);
            return error_set(ret_error, r, "mapping selector %u of PD %d to core", selector, pd->id);
        }
    }
    foc_find_by_halving(task, from, ret_next);
    *ret_count = count;
    return 0;
}

/* ---- compare ---- */

static int number_at(struct native_pd *pd, selector_t selector, unsigned *ret_number,
                     struct reseat_error **ret_error)
{
    native_cap_t cap;
    int r = native_pd_request(pd, selector, &cap, NULL, ret_error);
    if (r < 0)
        return r;
    if (cap == NATIVE_CAP_INVALID)
        return error_set(ret_error, -E_BADF, "selector %u of PD %d is unused", selector, pd->id);
    r = foc_object_number((foc_slot_t)cap, ret_number);
    slots_drop((foc_slot_t)cap);
    return r < 0 ? error_set(ret_error, r, "no room to number the object at selector %u of PD %d", selector,
                             pd->id)
                 : 0;
}

int native_pd_compare(struct native_pd *a, selector_t selector_a, struct native_pd *b, selector_t selector_b,
                      int *ret_order, struct reseat_error **ret_error)
{
    unsigned number_a, number_b;
    int r = number_at(a, selector_a, &number_a, ret_error);
    if (r == 0)
        r = number_at(b, selector_b, &number_b, ret_error);
    if (r < 0)
        return r;
    *ret_order = number_a == number_b ? 0 : number_a < number_b ? -1 : 1;
    return 0;
}

/* ---- install ---- */

static int check_rights(const struct native_slot *slot, native_pd_id_t id, struct reseat_error **ret_error)
{
    unsigned has;
    int r = foc_rights((foc_slot_t)slot->cap, &has);
    if (r < 0)
        return error_set(ret_error, r, "looking at the rights of capability %d for selector %u of PD %d",
                         slot->cap, slot->selector, id);
    if (slot->flags & FOC_NATIVE_RIGHTS & ~has)
        return error_set(ret_error, -E_ACCES,
                         "capability %d has not all of the rights asked for at selector %u of PD %d",
                         slot->cap, slot->selector, id);
    return 0;
}

static int check_slot(foc_slot_t task, const struct native_slot *slot, native_pd_id_t id,
                      struct reseat_error **ret_error)
{
    if (slot->selector >= foc_selector_limit())
        return error_set(ret_error, -E_BADF, "PD %d has no selector %u: this kernel's end at %u", id,
                         slot->selector, foc_selector_limit() - 1);
    if (slot->flags & ~(unsigned)(FOC_NATIVE_RIGHTS | NATIVE_REPLACE))
        return error_set(ret_error, -E_INVAL, "flags %x mean nothing for selector %u of PD %d", slot->flags,
                         slot->selector, id);
    if (slot->cap <= 0 || !kernel_cap_is_valid(FOC_SLOT_TASK, (foc_slot_t)slot->cap))
        return error_set(ret_error, -E_BADF, "the capability for selector %u of PD %d is empty",
                         slot->selector, id);
    if (!(slot->flags & NATIVE_REPLACE) && kernel_cap_is_valid(task, slot->selector))
        return error_set(ret_error, -E_EXIST, "selector %u of PD %d is in use", slot->selector, id);
    return check_rights(slot, id, ret_error);
}

static int check_all(foc_slot_t task, const struct native_slot *slots, size_t count, native_pd_id_t id,
                     struct reseat_error **ret_error)
{
    for (size_t i = 0; i < count; i++) {
        for (size_t k = 0; k < i; k++)
            if (slots[k].selector == slots[i].selector)
                return error_set(ret_error, -E_INVAL, "selector %u of PD %d is given twice",
                                 slots[i].selector, id);
        int r = check_slot(task, &slots[i], id, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

static unsigned rights_to_map(const struct native_slot *slot)
{
    unsigned asked = slot->flags & FOC_NATIVE_RIGHTS;
    return asked ? rights_of_flags(asked) : FOC_RIGHTS_RWS; /* none asked for: as they are */
}

/* Is what is at the selector now the capability that was mapped there, object and rights? */
static bool has_arrived(foc_slot_t task, const struct native_slot *slot)
{
    foc_slot_t expected = slots_take(), there = 0;
    bool is_same = false;
    if (expected && fetch(task, slot->selector, &there) == 0 && there &&
        kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(slot->cap, 0, rights_to_map(slot)),
                   FOC_CAP(expected), FOC_ITEM_SERVER) == 0)
        is_same = kernel_caps_are_equal(FOC_SLOT_TASK, expected, there);
    slots_drop(expected);
    slots_drop(there);
    return is_same;
}

static int put(foc_slot_t task, const struct native_slot *slot, native_pd_id_t id,
               struct reseat_error **ret_error)
{
    int r = kernel_map(task, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(slot->cap, 0, rights_to_map(slot)),
                       FOC_CAP(slot->selector), FOC_ITEM_SERVER);
    if (r == -E_NOMEM)
        return error_set(ret_error, r, "PD %d has no memory left for a capability at selector %u", id,
                         slot->selector);
    if (r < 0)
        return error_set(ret_error, r, "mapping capability %d to selector %u of PD %d", slot->cap,
                         slot->selector, id);
    if (!has_arrived(task, slot))
        return error_set(
            ret_error, -E_IO,
            "the kernel says that it mapped capability %d to selector %u of PD %d, but it is not there",
            slot->cap, slot->selector, id);
    return 0;
}

static void clear(foc_slot_t task, selector_t selector)
{
    kernel_unmap(task, FOC_FPAGE_SLOTS(selector, 0, FOC_RIGHTS_FULL), FOC_UNMAP_ALL_SELF);
}

static void undo(foc_slot_t task, const struct native_slot *slot, foc_slot_t before)
{
    if (before)
        kernel_map(task, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(before, 0, FOC_RIGHTS_RWS), FOC_CAP(slot->selector),
                   FOC_ITEM_SERVER);
    else
        clear(task, slot->selector);
}

/* One at a time, remembering what was there, so that a failure can be undone. */
static int put_all(foc_slot_t task, const struct native_slot *slots, size_t count, native_pd_id_t id,
                   struct reseat_error **ret_error)
{
    foc_slot_t before[INSTALL_MAX];
    size_t done = 0;
    int r = 0;
    while (r == 0 && done < count) {
        r = fetch(task, slots[done].selector, &before[done]);
        if (r < 0) {
            error_set(ret_error, r, "keeping what is at selector %u of PD %d", slots[done].selector, id);
            break;
        }
        r = put(task, &slots[done], id, ret_error);
        done++;
    }
    while (done > 0) {
        done--;
        if (r < 0)
            undo(task, &slots[done], before[done]);
        slots_drop(before[done]);
    }
    return r;
}

int native_pd_install(struct native_pd *pd, const struct native_slot *slots, size_t count,
                      struct reseat_error **ret_error)
{
    foc_slot_t task;
    int r = task_of(pd, &task, ret_error);
    if (r < 0)
        return r;
    if (count > INSTALL_MAX)
        return error_set(ret_error, -E_OVERFLOW, "at most %d capabilities can be installed at once in PD %d",
                         INSTALL_MAX, pd->id);
    r = check_all(task, slots, count, pd->id, ret_error);
    return r < 0 ? r : put_all(task, slots, count, pd->id, ret_error);
}

/* ---- close ---- */

int native_pd_close(struct native_pd *pd, const selector_t *selectors, size_t count,
                    struct reseat_error **ret_error)
{
    foc_slot_t task;
    int r = task_of(pd, &task, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        if (selectors[i] >= foc_selector_limit() || !kernel_cap_is_valid(task, selectors[i]))
            return error_set(ret_error, -E_BADF, "selector %u of PD %d is unused", selectors[i], pd->id);
    for (size_t i = 0; i < count; i++) {
        clear(task, selectors[i]);
        if (kernel_cap_is_valid(task, selectors[i]))
            return error_set(ret_error, -E_IO, "the kernel did not unmap selector %u of PD %d", selectors[i],
                             pd->id);
    }
    return 0;
}
