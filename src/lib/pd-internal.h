/* What is behind a struct reseat_pd: a PD of this machine that we may trace ourselves (pd_local.c), or one
 * that core serves (pd_remote.c). Each begins with a struct reseat_pd and fills in this table. */
#pragma once

#include "reseat.h"

struct reseat_pd_operations {
    void (*free)(struct reseat_pd *pd);
    pid_t (*pid)(const struct reseat_pd *pd);
    int (*session)(const struct reseat_pd *pd);
    /* As the functions of the same names in reseat.h; the single forms are made of them. */
    int (*list)(struct reseat_pd *pd, unsigned from, unsigned *selectors, size_t capacity, size_t *ret_count,
                unsigned *ret_next, struct reseat_error **ret_error);
    int (*request)(struct reseat_pd *pd, unsigned selector, int *ret_cap, unsigned *ret_next,
                   struct reseat_error **ret_error); /* ret_next may be NULL */
    int (*request_many)(struct reseat_pd *pd, unsigned from, struct reseat_pd_slot *ret_slots,
                        size_t capacity, size_t *ret_count, unsigned *ret_next,
                        struct reseat_error **ret_error);
    int (*install_many)(struct reseat_pd *pd, const struct reseat_pd_slot *slots, size_t count,
                        struct reseat_error **ret_error);
    int (*close_many)(struct reseat_pd *pd, const unsigned *selectors, size_t count,
                      struct reseat_error **ret_error);
    /* Both PDs have this table. */
    int (*compare)(struct reseat_pd *a, unsigned selector_a, struct reseat_pd *b, unsigned selector_b,
                   int *ret_order, struct reseat_error **ret_error);
};

struct reseat_pd {
    const struct reseat_pd_operations *operations;
};
