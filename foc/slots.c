/* Slots of core's own capability space, handed out by number; none below the initial ones is touched. */
#include "native_pd_foc.h"

#include "base/base.h"
#include "kernel/kernel.h"

#define FIRST_SLOT 0x40
#define LAST_SLOT  0xefff

static struct ranges free_slots;
static unsigned used;

void slots_init(void)
{
    free_slots.count = 0;
    used = 0;
    ranges_add(&free_slots, FIRST_SLOT, LAST_SLOT + 1);
}

foc_slot_t slots_take(void)
{
    uint64_t slot;
    if (!ranges_take(&free_slots, 1, 1, &slot))
        return 0;
    used++;
    return slot;
}

void slots_give(foc_slot_t slot)
{
    if (slot < FIRST_SLOT || slot > LAST_SLOT)
        return;
    used--;
    ranges_add(&free_slots, slot, slot + 1); /* if there are too many pieces, one slot is lost */
}

void slots_drop(foc_slot_t slot)
{
    if (slot < FIRST_SLOT || slot > LAST_SLOT)
        return;
    kernel_drop(slot);
    slots_give(slot);
}

unsigned slots_used(void)
{
    return used;
}
