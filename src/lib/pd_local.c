/* A PD that we may trace ourselves: the seam (native_pd/native_pd.h) under the names of the library. */
#include "lib/pd-internal.h"

#include "native_pd/native_pd.h"
#include "object/object.h"

#include <errno.h>

/* One structure under two names, so that nothing has to be copied. */
_Static_assert(sizeof(struct reseat_pd_slot) == sizeof(struct native_slot) &&
                   offsetof(struct reseat_pd_slot, selector) == offsetof(struct native_slot, selector) &&
                   offsetof(struct reseat_pd_slot, cap) == offsetof(struct native_slot, cap) &&
                   offsetof(struct reseat_pd_slot, flags) == offsetof(struct native_slot, flags),
               "slots differ");
_Static_assert((int)RESEAT_CLOEXEC == NATIVE_CLOSE_ON_EXEC && (int)RESEAT_READ == NATIVE_READ &&
                   (int)RESEAT_WRITE == NATIVE_WRITE && (int)RESEAT_REPLACE == NATIVE_REPLACE,
               "flags differ");
_Static_assert(RESEAT_SELECTOR_END == NATIVE_SELECTOR_END, "the ends differ");

struct local_pd {
    struct reseat_pd public; /* first, so that a pointer to it is a pointer to the whole */
    struct native_pd *native;
};

static struct native_pd *native_of(const struct reseat_pd *pd)
{
    return ((const struct local_pd *)pd)->native;
}

static void local_free(struct reseat_pd *pd)
{
    native_pd_free(&((struct local_pd *)pd)->native);
    free(pd);
}

static pid_t local_pid(const struct reseat_pd *pd)
{
    return native_pd_id(native_of(pd));
}

static int local_session(const struct reseat_pd *pd)
{
    (void)pd;
    return -1;
}

static int local_list(struct reseat_pd *pd, unsigned from, unsigned *selectors, size_t capacity,
                      size_t *ret_count, unsigned *ret_next, struct reseat_error **ret_error)
{
    size_t count;
    unsigned next = NATIVE_SELECTOR_END;
    int r = native_pd_list(native_of(pd), from, selectors, capacity, &count, ret_error);
    if (r == 0 && count == capacity)
        r = native_pd_next(native_of(pd), count ? selectors[count - 1] + 1 : from, &next, ret_error);
    if (r < 0)
        return r;
    *ret_count = count;
    *ret_next = next;
    return 0;
}

static int local_request(struct reseat_pd *pd, unsigned selector, int *ret_cap, unsigned *ret_next,
                         struct reseat_error **ret_error)
{
    return native_pd_request(native_of(pd), selector, ret_cap, ret_next, ret_error);
}

static int local_request_many(struct reseat_pd *pd, unsigned from, struct reseat_pd_slot *ret_slots,
                              size_t capacity, size_t *ret_count, unsigned *ret_next,
                              struct reseat_error **ret_error)
{
    return native_pd_request_many(native_of(pd), from, (struct native_slot *)ret_slots, capacity, ret_count,
                                  ret_next, ret_error);
}

static int local_install_many(struct reseat_pd *pd, const struct reseat_pd_slot *slots, size_t count,
                              struct reseat_error **ret_error)
{
    const struct native_slot *native_slots = (const struct native_slot *)slots;
    int r = native_pd_install(native_of(pd), native_slots, count, ret_error);
    return r == -EEXIST ? object_error_in_use(native_of(pd), native_slots, count, ret_error) : r;
}

static int local_close_many(struct reseat_pd *pd, const unsigned *selectors, size_t count,
                            struct reseat_error **ret_error)
{
    return native_pd_close(native_of(pd), selectors, count, ret_error);
}

static int local_compare(struct reseat_pd *a, unsigned selector_a, struct reseat_pd *b, unsigned selector_b,
                         int *ret_order, struct reseat_error **ret_error)
{
    return native_pd_compare(native_of(a), selector_a, native_of(b), selector_b, ret_order, ret_error);
}

static const struct reseat_pd_operations local_operations = {
    .free = local_free,
    .pid = local_pid,
    .session = local_session,
    .list = local_list,
    .request = local_request,
    .request_many = local_request_many,
    .install_many = local_install_many,
    .close_many = local_close_many,
    .compare = local_compare,
};

int reseat_pd_open(pid_t pid, struct reseat_pd **ret_pd, struct reseat_error **ret_error)
{
    struct local_pd *pd = calloc(1, sizeof *pd);
    if (!pd)
        return error_errno(ret_error, -ENOMEM, "opening process %d", pid);
    int r = native_pd_open(pid, &pd->native, ret_error);
    if (r < 0) {
        free(pd);
        return r;
    }
    pd->public.operations = &local_operations;
    *ret_pd = &pd->public;
    return 0;
}
