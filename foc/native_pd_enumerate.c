/* Which selectors of a task are used. The kernel has no such question, so there are two ways to find out:
 *
 * Probing asks for each of the 65,536 selectors whether it is valid.
 *
 * Halving makes the kernel's bulk map answer for a whole range at once. The range is mapped into a scratch
 * task whose factory has not one page of memory left: a capability table takes a page
 * (kern/obj_space_phys_util.cpp, caps_alloc), so mapping an empty range succeeds, and mapping a range that
 * holds anything fails for want of memory. The scratch task never holds anything, nothing has to be cleaned
 * up, and the kernel skips 128 selectors at a time where there is no table. What remains of a range is
 * probed.
 *
 * A range that the kernel calls full but that turns out empty (the kernel itself has no memory left) costs
 * time only. */
#include "native_pd_foc.h"

#include "base/base.h"
#include "kernel/kernel.h"
#include "native_pd_internal.h"

#define PROBED_ORDER_MIN 2
#define PROBED_ORDER_MAX 9

static unsigned probed_order = PROBED_ORDER_MIN;

bool foc_range_is_empty(foc_slot_t task, selector_t first, unsigned order)
{
    return kernel_map(foc_tight_task(), task, FOC_FPAGE_SLOTS(first, order, FOC_RIGHTS_RWS), FOC_CAP(first),
                      0) == 0;
}

static uint64_t ticks(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* `task` is empty. Each is done once before, and then measured. */
void foc_measure_probing(foc_slot_t task)
{
    foc_range_is_empty(task, 0, FOC_SELECTOR_ORDER - 1);
    kernel_cap_is_valid(task, 0);
    uint64_t begin = ticks();
    foc_range_is_empty(task, 0, FOC_SELECTOR_ORDER - 1);
    uint64_t halving = ticks() - begin;
    begin = ticks();
    kernel_cap_is_valid(task, 0);
    uint64_t probing = ticks() - begin;
    probed_order = PROBED_ORDER_MIN;
    while (probed_order < PROBED_ORDER_MAX && (probing << (probed_order + 1)) < halving)
        probed_order++;
}

static unsigned order_at(selector_t selector)
{
    unsigned order = 0;
    while (order < FOC_SELECTOR_ORDER && !(selector >> order & 1))
        order++;
    return order;
}

static selector_t probe(foc_slot_t task, selector_t from, selector_t end)
{
    while (from < end && !kernel_cap_is_valid(task, from))
        from++;
    return from;
}

/* Goes down where there is something, and up again behind what is empty. */
int foc_find_by_halving(foc_slot_t task, selector_t from, selector_t *ret_selector)
{
    selector_t limit = foc_selector_limit();
    unsigned order = order_at(from);
    while (from < limit) {
        selector_t end = from + (1u << order);
        if (order <= probed_order) {
            from = probe(task, from, end);
            if (from < end) {
                *ret_selector = from;
                return 0;
            }
            order = order_at(from);
        } else if (foc_range_is_empty(task, from, order)) {
            from = end;
            order = order_at(from);
        } else {
            order--;
        }
    }
    *ret_selector = NATIVE_SELECTOR_END;
    return 0;
}

int foc_list_by_halving(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                        size_t *ret_count)
{
    foc_slot_t task = foc_pd_task(pd);
    size_t count = 0;
    if (!task)
        return -E_SRCH;
    while (count < capacity) {
        selector_t selector;
        foc_find_by_halving(task, from, &selector);
        if (selector == NATIVE_SELECTOR_END)
            break;
        selectors[count++] = selector;
        from = selector + 1;
    }
    *ret_count = count;
    return 0;
}

int foc_list_by_probing(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                        size_t *ret_count)
{
    foc_slot_t task = foc_pd_task(pd);
    size_t count = 0;
    if (!task)
        return -E_SRCH;
    for (selector_t limit = foc_selector_limit(); from < limit && count < capacity; from++)
        if (kernel_cap_is_valid(task, from))
            selectors[count++] = from;
    *ret_count = count;
    return 0;
}
