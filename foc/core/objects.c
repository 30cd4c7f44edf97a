/* Dataspaces: memory as an object. A dataspace is some pages behind a gate that core serves; who holds the
 * gate's capability may have them attached at an address of its own (serve.c, COMPONENT_ATTACH), and may ask
 * how many they are. The memory belongs to the object, not to a component: it outlives a component that is
 * destroyed and made anew. */
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "core.h"

#define SEMAPHORES_MAX 8

static struct dataspace dataspaces[DATASPACES_MAX];
static foc_slot_t semaphores[SEMAPHORES_MAX];

int dataspace_make(size_t pages, struct dataspace **ret_dataspace)
{
    for (unsigned i = 0; i < DATASPACES_MAX; i++) {
        struct dataspace *dataspace = &dataspaces[i];
        if (dataspace->gate)
            continue;
        dataspace->gate = slots_take();
        dataspace->count = pages;
        dataspace->pages = pages_take(pages);
        if (!dataspace->gate || !dataspace->pages)
            return -E_NOMEM;
        int r = kernel_create_gate(FOC_SLOT_FACTORY, dataspace->gate, FOC_SLOT_THREAD,
                                   LABEL(LABEL_DATASPACE, 0, i));
        if (r < 0)
            return r;
        *ret_dataspace = dataspace;
        return 0;
    }
    return -E_NOSPC;
}

size_t dataspace_size(unsigned number)
{
    return number < DATASPACES_MAX && dataspaces[number].gate ? dataspaces[number].count : 0;
}

struct dataspace *dataspace_by_capability(foc_slot_t slot)
{
    for (unsigned i = 0; i < DATASPACES_MAX; i++)
        if (dataspaces[i].gate && foc_is_same_object(dataspaces[i].gate, slot))
            return &dataspaces[i];
    return NULL;
}

void core_remember_semaphore(foc_slot_t slot)
{
    for (unsigned i = 0; i < SEMAPHORES_MAX; i++)
        if (!semaphores[i]) {
            semaphores[i] = slot;
            return;
        }
}

bool core_knows_semaphore(foc_slot_t slot)
{
    for (unsigned i = 0; i < SEMAPHORES_MAX; i++)
        if (semaphores[i] && foc_is_same_object(semaphores[i], slot))
            return true;
    return false;
}
