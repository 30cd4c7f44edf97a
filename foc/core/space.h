/* A capability space written down, so that another one can be held against it. */
#pragma once

#include "../native_pd_foc.h"
#include "core.h"

#define SPACE_MAX 128

struct space {
    selector_t selectors[SPACE_MAX];
    unsigned flags[SPACE_MAX]; /* rights */
    size_t count;
    struct foc_vault reference; /* the capabilities themselves */
};

int space_record(struct component *component, struct space *ret_space, struct reseat_error **ret_error);
/* What is the component's own must be the object that it has now, everything else the object that it was;
 * rights as they were, and nothing at other selectors: each of the 65,536 is asked, or, unless `asks_each`,
 * they are enumerated by halving. Returns how many selectors are wrong, and prints each. */
unsigned space_compare(struct component *component, const struct space *space, bool asks_each,
                       struct reseat_error **ret_error);
void space_free(struct space *space);
