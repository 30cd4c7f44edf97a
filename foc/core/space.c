/* Core's check from the outside: the capability space of a component, selector by selector, against what it
 * was. */
#include "space.h"

#include "../kernel/kernel.h"
#include "console.h"

#define REFERENCE_ID 200

static int record_rights(struct native_pd *pd, struct space *space, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < space->count; i++) {
        native_cap_t cap;
        int r = native_pd_request(pd, space->selectors[i], &cap, NULL, ret_error);
        if (r == 0)
            r = foc_rights((foc_slot_t)cap, &space->flags[i]);
        if (r < 0)
            return r;
        slots_drop((foc_slot_t)cap);
    }
    return 0;
}

int space_record(struct component *component, struct space *ret_space, struct reseat_error **ret_error)
{
    struct native_pd *pd = NULL;
    *ret_space = (struct space){0};
    int r = native_pd_open(component->id, &pd, ret_error);
    if (r == 0)
        r = foc_list_by_halving(pd, 0, ret_space->selectors, SPACE_MAX, &ret_space->count);
    if (r == 0)
        r = record_rights(pd, ret_space, ret_error);
    if (r == 0)
        r = foc_vault_make(FOC_SLOT_FACTORY, &ret_space->reference, ret_error);
    if (r == 0)
        r = foc_vault_fill(&ret_space->reference, pd, ret_error);
    native_pd_free(&pd);
    return r;
}

void space_free(struct space *space)
{
    foc_vault_free(&space->reference);
}

/* What has to be there: the component's own object of today, or what was there before. */
static bool is_expected(struct component *component, struct native_pd *reference, selector_t selector,
                        foc_slot_t found)
{
    struct own *own = component_own(component, selector);
    native_cap_t cap = NATIVE_CAP_INVALID;
    if (own && !own->is_shared)
        return foc_is_same_object(own->object, found);
    if (native_pd_request(reference, selector, &cap, NULL, NULL) < 0 || cap == NATIVE_CAP_INVALID)
        return false;
    bool is_equal = kernel_caps_are_equal(FOC_SLOT_TASK, (foc_slot_t)cap, found);
    slots_drop((foc_slot_t)cap);
    return is_equal;
}

static bool compare_one(struct component *component, struct native_pd *pd, struct native_pd *reference,
                        selector_t selector, unsigned flags)
{
    native_cap_t found = NATIVE_CAP_INVALID;
    unsigned rights = 0;
    const char *wrong = NULL;
    if (native_pd_request(pd, selector, &found, NULL, NULL) < 0 || found == NATIVE_CAP_INVALID)
        wrong = "is empty";
    else if (!is_expected(component, reference, selector, (foc_slot_t)found))
        wrong = "holds another object";
    else if (foc_rights((foc_slot_t)found, &rights) < 0 || rights != flags)
        wrong = "has other rights";
    slots_drop((foc_slot_t)found);
    if (wrong)
        print("core: selector %u of %s %s\n", selector, component->name, wrong);
    return !wrong;
}

/* The used selectors of today, ascending. */
static int list_now(struct native_pd *pd, bool asks_each, selector_t *selectors, size_t *ret_count)
{
    return asks_each ? foc_list_by_probing(pd, 0, selectors, SPACE_MAX, ret_count)
                     : foc_list_by_halving(pd, 0, selectors, SPACE_MAX, ret_count);
}

static unsigned compare_all(struct component *component, const struct space *space, struct native_pd *pd,
                            struct native_pd *reference, const selector_t *now, size_t now_count)
{
    unsigned wrong = 0;
    for (size_t i = 0; i < space->count; i++)
        wrong += !compare_one(component, pd, reference, space->selectors[i], space->flags[i]);
    for (size_t i = 0, k = 0; i < now_count; i++) {
        while (k < space->count && space->selectors[k] < now[i])
            k++;
        if (k < space->count && space->selectors[k] == now[i])
            continue;
        print("core: selector %u of %s is used, and was not\n", now[i], component->name);
        wrong++;
    }
    return wrong;
}

unsigned space_compare(struct component *component, const struct space *space, bool asks_each,
                       struct reseat_error **ret_error)
{
    struct native_pd *pd = NULL, *reference = NULL;
    selector_t now[SPACE_MAX];
    size_t now_count = 0;
    unsigned wrong = 1;
    int r = foc_pd_register(REFERENCE_ID, space->reference.task, ret_error);
    if (r == 0)
        r = native_pd_open(REFERENCE_ID, &reference, ret_error);
    if (r == 0)
        r = native_pd_open(component->id, &pd, ret_error);
    if (r == 0)
        r = list_now(pd, asks_each, now, &now_count);
    if (r == 0)
        wrong = compare_all(component, space, pd, reference, now, now_count);
    foc_pd_forget(REFERENCE_ID);
    native_pd_free(&reference);
    native_pd_free(&pd);
    return wrong;
}
