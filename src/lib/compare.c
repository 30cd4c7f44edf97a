/* Slot by slot: whether two processes hold the same objects at the same selectors. If they share one table
 * there is one thing to ask (kcmp(2) KCMP_FILES); otherwise every selector is compared. */
#include "lib-internal.h"

#include <errno.h>
#include <linux/kcmp.h>
#include <string.h>

struct selectors {
    int *numbers;
    size_t count;
};

static void selectors_end(struct selectors *selectors)
{
    free(selectors->numbers);
}

static int list_selectors(pid_t pid, struct selectors *ret_selectors, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    int r = proc_fd < 0 ? proc_fd
                        : proc_list_numbers(proc_fd, "fd", &ret_selectors->numbers, &ret_selectors->count);
    return r < 0 ? error_errno(ret_error, r, "listing the capabilities of process %d", pid) : 0;
}

static bool is_replaced(const struct exceptions *exceptions, int selector)
{
    return slot_is_replaced(slots_find(exceptions->slots, exceptions->slot_count, (unsigned)selector));
}

/* The file of the restored process in the place of that of the dead one: the same as far as it can be. */
static bool is_reopened(const struct exceptions *exceptions, int selector)
{
    for (size_t i = 0; i < exceptions->snapshot->reopens_count; i++)
        if (exceptions->snapshot->reopens[i].selector == (unsigned)selector)
            return true;
    return false;
}

static int add_difference(struct comparison *comparison, int selector, const char *sentence)
{
    struct reseat_difference *row = array_append(comparison->differences, comparison->difference_count);
    if (!row)
        return -ENOMEM;
    *row = (struct reseat_difference){(unsigned)selector, sentence};
    return 0;
}

/* Walks both ascending lists side by side. */
static int compare_lists(pid_t process, pid_t twin, const struct selectors *now, const struct selectors *then,
                         const struct exceptions *exceptions, struct comparison *comparison)
{
    size_t a = 0, b = 0;
    while (a < now->count || b < then->count) {
        int here = a < now->count ? now->numbers[a] : INT32_MAX;
        int there = b < then->count ? then->numbers[b] : INT32_MAX;
        int selector = here < there ? here : there, r = 0;
        a += here == selector;
        b += there == selector;
        if (is_replaced(exceptions, selector))
            continue;
        comparison->slots++;
        if (here < there)
            r = add_difference(comparison, selector, "in use now, but not when it was checkpointed");
        else if (there < here)
            r = add_difference(comparison, selector, "unused now");
        else if (is_reopened(exceptions, selector) ||
                 sys_kcmp(process, twin, KCMP_FILE, (unsigned long)selector, (unsigned long)selector) == 0)
            comparison->same++;
        else
            r = add_difference(comparison, selector, "holds another object");
        if (r < 0)
            return r;
    }
    return 0;
}

int compare_slots(pid_t process, pid_t twin, const struct exceptions *exceptions,
                  struct comparison *ret_comparison, struct reseat_error **ret_error)
{
    /* One table: there is nothing to walk through. */
    unsigned count = exceptions->snapshot->process.capability_count;
    if (sys_kcmp(process, twin, KCMP_FILES, 0, 0) == 0) {
        *ret_comparison = (struct comparison){.slots = count, .same = count};
        return 0;
    }
    _cleanup_(selectors_end) struct selectors now = {0}, then = {0};
    _cleanup_(comparison_end) struct comparison comparison = {0};
    int r = list_selectors(process, &now, ret_error);
    if (r == 0)
        r = list_selectors(twin, &then, ret_error);
    if (r < 0)
        return r;
    r = compare_lists(process, twin, &now, &then, exceptions, &comparison);
    if (r < 0)
        return error_errno(ret_error, r, "comparing the capabilities of process %d", process);
    *ret_comparison = comparison;
    comparison = (struct comparison){0};
    return 0;
}

void comparison_end(struct comparison *comparison)
{
    free(comparison->differences);
    comparison->differences = NULL;
}
