/* What the native PD interface needs before it can serve: scratch slots, a scratch task without memory, and
 * how large capability spaces are on this kernel. And the table of PDs: which task has which number. */
#include "native_pd_internal.h"

#include "base/base.h"
#include "kernel/kernel.h"

#define TIGHT_BYTES      0x10000 /* to begin with: a task takes about six pages, whatever the configuration */
#define TIGHT_BYTES_MAX  0x80000
#define TIGHT_STEP       0x2000
#define SMALLEST_FILLING 64 /* bytes: below the size of any kernel object */

static struct {
    native_pd_id_t id;
    foc_slot_t task; /* 0: free */
    unsigned generation;
} table[FOC_PDS_MAX];
static struct native_pd opened[4 * FOC_PDS_MAX];

static foc_slot_t tight_task, tight_factory;
static selector_t selector_limit;

foc_slot_t foc_tight_task(void)
{
    return tight_task;
}

selector_t foc_selector_limit(void)
{
    return selector_limit;
}

/* Takes what is left of a factory's memory by making factories in it, large ones first. They stay: the memory
 * that they hold is what the task shall not have. */
static int use_up(foc_slot_t factory)
{
    for (foc_word_t bytes = TIGHT_BYTES_MAX; bytes >= SMALLEST_FILLING; bytes /= 2)
        for (;;) {
            foc_slot_t slot = slots_take();
            if (!slot)
                return -E_MFILE;
            if (kernel_create_factory(factory, slot, bytes) == 0)
                continue;
            slots_give(slot);
            break;
        }
    return 0;
}

/* A task of a factory that could just pay for it. How much that is depends on the kernel: tried. */
static int make_tight_task(foc_slot_t factory, struct reseat_error **ret_error)
{
    int r = -E_NOMEM;
    tight_task = slots_take();
    tight_factory = slots_take();
    if (!tight_task || !tight_factory)
        return error_set(ret_error, -E_MFILE, "no slots left for the scratch task");
    for (foc_word_t bytes = TIGHT_BYTES; bytes <= TIGHT_BYTES_MAX; bytes += TIGHT_STEP) {
        r = kernel_create_factory(factory, tight_factory, bytes);
        if (r < 0)
            break;
        r = kernel_create_task(tight_factory, tight_task, 0, 0);
        if (r == 0)
            break;
        kernel_destroy(tight_factory);
    }
    if (r < 0)
        return error_set(ret_error, r, "the kernel made no scratch task, even with %u KiB",
                         TIGHT_BYTES_MAX / 1024);
    r = use_up(tight_factory);
    if (r < 0)
        return error_set(ret_error, r, "no slots left to use up the memory of the scratch task");
    if (kernel_map(tight_task, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(FOC_SLOT_TASK, 0, FOC_RIGHTS_RWS), FOC_CAP(1),
                   0) == 0)
        return error_set(ret_error, -E_INVAL, "the scratch task without memory could hold a capability");
    return 0;
}

/* The kernel reports success for a map to a selector that does not exist, so look whether something came. */
static int probe_limit(foc_slot_t factory, struct reseat_error **ret_error)
{
    foc_slot_t task = slots_take();
    if (!task || kernel_create_task(factory, task, 0, 0) < 0)
        return error_set(ret_error, -E_NOMEM, "no scratch task to probe the size of capability spaces");
    selector_limit = 0;
    for (unsigned order = 4; order <= FOC_SELECTOR_ORDER; order++) {
        foc_slot_t last = (1u << order) - 1;
        kernel_map(task, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(FOC_SLOT_TASK, 0, FOC_RIGHTS_RWS), FOC_CAP(last), 0);
        if (!kernel_cap_is_valid(task, last))
            break;
        selector_limit = 1u << order;
    }
    kernel_destroy(task);
    slots_give(task);
    if (!selector_limit)
        return error_set(ret_error, -E_INVAL, "the kernel has no capability spaces as we know them");
    return 0;
}

int foc_native_init(foc_slot_t factory, struct reseat_error **ret_error)
{
    int r = probe_limit(factory, ret_error);
    if (r == 0)
        r = make_tight_task(factory, ret_error);
    if (r == 0)
        foc_measure_probing(tight_task);
    return r;
}

int foc_pd_register(native_pd_id_t id, foc_slot_t slot, struct reseat_error **ret_error)
{
    unsigned place = FOC_PDS_MAX;
    for (unsigned i = 0; i < FOC_PDS_MAX; i++) {
        if (table[i].task && table[i].id == id)
            return error_set(ret_error, -E_EXIST, "there is a PD with number %d already", id);
        if (!table[i].task)
            place = i;
    }
    if (place == FOC_PDS_MAX)
        return error_set(ret_error, -E_NOSPC, "no room for one more PD: %d are known", FOC_PDS_MAX);
    table[place].id = id;
    table[place].task = slot;
    table[place].generation++;
    return 0;
}

void foc_pd_forget(native_pd_id_t id)
{
    for (unsigned i = 0; i < FOC_PDS_MAX; i++)
        if (table[i].task && table[i].id == id)
            table[i].task = 0;
}

foc_slot_t foc_pd_task(const struct native_pd *pd)
{
    for (unsigned i = 0; i < FOC_PDS_MAX; i++)
        if (table[i].task && table[i].id == pd->id && table[i].generation == pd->generation)
            return table[i].task;
    return 0;
}

int native_pd_open(native_pd_id_t id, struct native_pd **ret_pd, struct reseat_error **ret_error)
{
    unsigned known = FOC_PDS_MAX;
    for (unsigned i = 0; i < FOC_PDS_MAX; i++)
        if (table[i].task && table[i].id == id)
            known = i;
    if (known == FOC_PDS_MAX)
        return error_set(ret_error, -E_SRCH, "there is no PD with number %d", id);
    for (unsigned i = 0; i < COUNT_OF(opened); i++)
        if (!opened[i].is_used) {
            opened[i] = (struct native_pd){.id = id, .generation = table[known].generation, .is_used = true};
            *ret_pd = &opened[i];
            return 0;
        }
    return error_set(ret_error, -E_NOSPC, "opening PD %d: %zu are open", id, COUNT_OF(opened));
}

void native_pd_free(struct native_pd **pd)
{
    if (*pd)
        (*pd)->is_used = false;
    *pd = NULL;
}

native_pd_id_t native_pd_id(const struct native_pd *pd)
{
    return pd->id;
}
