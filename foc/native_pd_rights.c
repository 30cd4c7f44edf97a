/* What a capability is: its object, and its rights. The kernel answers one question only, whether two
 * capabilities of one task are equal in object and in the rights W and S (kern/task.cpp, sys_caps_equal). So
 * a capability is mapped to scratch slots of our own with fewer rights, and the copies are compared: without
 * any, two copies are equal if and only if the object is the same; a copy that lost S is equal to the
 * original if and only if that had no S.
 *
 * For a gate the server's side is a right too, which shows in the comparison (kern/ipc_gate.cpp, downgrade):
 * it is taken away for comparing objects, and kept everywhere else.
 *
 * Not seen: D, and whether a capability keeps its object alive. */
#include "native_pd_internal.h"

#include "base/base.h"
#include "kernel/kernel.h"

#define OBJECTS_MAX 512

/* Every object that was ever asked for a number, by a capability that does not keep it alive. */
static foc_slot_t objects[OBJECTS_MAX];

static int copy(foc_slot_t slot, foc_slot_t to, unsigned rights, foc_word_t attributes)
{
    int r =
        kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(slot, 0, rights), FOC_CAP(to), attributes);
    if (r < 0)
        return r;
    return kernel_cap_is_valid(FOC_SLOT_TASK, to) ? 0 : -E_BADF;
}

static int has_right(foc_slot_t slot, foc_slot_t scratch, unsigned right, bool *ret_has)
{
    int r = copy(slot, scratch, FOC_RIGHTS_RWS & ~right, FOC_ITEM_SERVER);
    if (r < 0)
        return r;
    *ret_has = !kernel_caps_are_equal(FOC_SLOT_TASK, slot, scratch);
    kernel_drop(scratch);
    return 0;
}

int foc_rights(foc_slot_t slot, unsigned *ret_flags)
{
    bool has_w = false, has_s = false;
    foc_slot_t scratch = slots_take();
    if (!scratch)
        return -E_MFILE;
    int r = has_right(slot, scratch, FOC_RIGHT_W, &has_w);
    if (r == 0)
        r = has_right(slot, scratch, FOC_RIGHT_S, &has_s);
    slots_give(scratch);
    if (r < 0)
        return r;
    *ret_flags = NATIVE_READ | (has_w ? NATIVE_WRITE : 0u) | (has_s ? NATIVE_SPECIAL : 0u);
    return 0;
}

bool foc_is_same_object(foc_slot_t a, foc_slot_t b)
{
    foc_slot_t copy_a = slots_take(), copy_b = slots_take();
    bool is_same = copy_a && copy_b && copy(a, copy_a, FOC_RIGHT_R, FOC_ITEM_WEAK) == 0 &&
                   copy(b, copy_b, FOC_RIGHT_R, FOC_ITEM_WEAK) == 0 &&
                   kernel_caps_are_equal(FOC_SLOT_TASK, copy_a, copy_b);
    slots_drop(copy_a);
    slots_drop(copy_b);
    return is_same;
}

int foc_object_number(foc_slot_t slot, unsigned *ret_number)
{
    foc_slot_t bare = slots_take();
    if (!bare)
        return -E_MFILE;
    int r = copy(slot, bare, FOC_RIGHT_R, FOC_ITEM_WEAK);
    unsigned place = OBJECTS_MAX;
    for (unsigned i = 0; r == 0 && i < OBJECTS_MAX; i++) {
        if (objects[i] && kernel_caps_are_equal(FOC_SLOT_TASK, objects[i], bare)) {
            *ret_number = i;
            slots_drop(bare);
            return 0;
        }
        bool is_free = !objects[i] || !kernel_cap_is_valid(FOC_SLOT_TASK, objects[i]);
        if (is_free && place == OBJECTS_MAX)
            place = i;
    }
    if (r == 0 && place == OBJECTS_MAX)
        r = -E_NOSPC;
    if (r < 0) {
        slots_drop(bare);
        return r;
    }
    slots_drop(objects[place]);
    objects[place] = bare;
    *ret_number = place;
    return 0;
}
