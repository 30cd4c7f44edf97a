/* The native PD interface of the library: reseat_pd_*(). Everything is done by the operations of the PD
 * (pd-internal.h); here the single forms become those that take many. */
#include "lib/pd-internal.h"

#include "base/base.h"

#include <errno.h>

void reseat_pd_free(struct reseat_pd *pd)
{
    if (pd)
        pd->operations->free(pd);
}

pid_t reseat_pd_pid(const struct reseat_pd *pd)
{
    return pd->operations->pid(pd);
}

int reseat_pd_session(const struct reseat_pd *pd)
{
    return pd->operations->session(pd);
}

int reseat_pd_list(struct reseat_pd *pd, unsigned from, unsigned *selectors, size_t capacity,
                   size_t *ret_count, unsigned *ret_next, struct reseat_error **ret_error)
{
    return pd->operations->list(pd, from, selectors, capacity, ret_count, ret_next, ret_error);
}

int reseat_pd_request(struct reseat_pd *pd, unsigned selector, int *ret_cap, unsigned *ret_next,
                      struct reseat_error **ret_error)
{
    return pd->operations->request(pd, selector, ret_cap, ret_next, ret_error);
}

int reseat_pd_request_many(struct reseat_pd *pd, unsigned from, struct reseat_pd_slot *ret_slots,
                           size_t capacity, size_t *ret_count, unsigned *ret_next,
                           struct reseat_error **ret_error)
{
    return pd->operations->request_many(pd, from, ret_slots, capacity, ret_count, ret_next, ret_error);
}

int reseat_pd_install(struct reseat_pd *pd, int cap, unsigned selector, unsigned flags,
                      struct reseat_error **ret_error)
{
    const struct reseat_pd_slot slot = {.selector = selector, .cap = cap, .flags = flags};
    return reseat_pd_install_many(pd, &slot, 1, ret_error);
}

int reseat_pd_install_many(struct reseat_pd *pd, const struct reseat_pd_slot *slots, size_t count,
                           struct reseat_error **ret_error)
{
    return pd->operations->install_many(pd, slots, count, ret_error);
}

int reseat_pd_close(struct reseat_pd *pd, unsigned selector, struct reseat_error **ret_error)
{
    return reseat_pd_close_many(pd, &selector, 1, ret_error);
}

int reseat_pd_close_many(struct reseat_pd *pd, const unsigned *selectors, size_t count,
                         struct reseat_error **ret_error)
{
    return pd->operations->close_many(pd, selectors, count, ret_error);
}

int reseat_pd_compare(struct reseat_pd *a, unsigned selector_a, struct reseat_pd *b, unsigned selector_b,
                      int *ret_order, struct reseat_error **ret_error)
{
    if (a->operations != b->operations)
        return error_set(
            ret_error, -EINVAL,
            "comparing selectors of processes %d and %d: both must be opened with our own rights, "
            "or both through core",
            reseat_pd_pid(a), reseat_pd_pid(b));
    return a->operations->compare(a, selector_a, b, selector_b, ret_order, ret_error);
}
