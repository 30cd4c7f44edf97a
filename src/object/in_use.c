/* Who holds a selector that somebody else wants: the sentence for -EEXIST. */
#include "object/object.h"
#include "object/kinds.h"
#include "object/observe.h"

#include <errno.h>

/* 1 if the selector is in use, and the error then says by what. */
static int describe_holder(struct observer *observer, selector_t selector, struct reseat_error **ret_error)
{
    _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
    _cleanup_free_ char *name = NULL;
    int r = observer_see(observer, selector, &sight, NULL);
    if (r <= 0)
        return r;
    const struct object_kind *kind = object_kind_of(&sight);
    r = kind->describe(&sight, &name);
    if (r < 0)
        return r;
    error_set(
        ret_error, -EEXIST,
        "selector %u of process %d is in use: it holds %s %s; close it first, or ask for it to be replaced",
        selector, native_pd_id(observer->pd), kind->name, name ? name : "");
    return 1;
}

int object_error_in_use(struct native_pd *pd, const struct native_slot *slots, size_t count,
                        struct reseat_error **ret_error)
{
    _cleanup_(object_table_free) struct object_table table = {0};
    _cleanup_(observer_close) struct observer observer = {.table_fd = -EBADF, .info_fd = -EBADF};
    int r = observer_open(&observer, &table, pd, NULL);
    for (size_t i = 0; r == 0 && i < count; i++)
        if (!(slots[i].flags & NATIVE_REPLACE))
            r = describe_holder(&observer, slots[i].selector, ret_error);
    return -EEXIST;
}
