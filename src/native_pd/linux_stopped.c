/* install into a stopped process, by programs that run inside it.
 *
 * A capability gets into a table as a message does: the target makes a pair of sockets, we take one end
 * (pidfd_getfd(2)) and send through it (SCM_RIGHTS, unix(7)), and the target receives. The kernel chooses the
 * number that it receives at, the lowest free one, and from there it must get to its selector without ever
 * being in the way of another one, and so that nothing can fail any more when the first change is made that
 * cannot be undone. There are three ways for that:
 *
 *   - *Reserve*: all free selectors that are wanted are taken by fcntl(F_DUPFD) of the socket, with the
 * selector as the least number. That gives just that number if it is free, and another if not, and replaces
 * nothing. Then each is received somewhere else and put over its reservation by dup3(2).
 *   - *Plug*, for many in a row: all other free numbers below the highest wanted one are taken. Then what is
 *     received comes in at the wanted selectors, in order. Which numbers are free is only supposed; whether
 * each came in where it should shows afterwards, and if not all is undone and the selectors are reserved.
 *   - *Replace*, for those that are in use: all are received first; the commit is one program of dup3(2).
 *
 * If we die between two steps, the leader, which stands at a report, runs on into the undoing: so all or
 * nothing is installed, whenever we are killed.
 *
 * The process's own threads stand still, so none of its calls can see any of this. A process that shares the
 * table without being a thread of it (clone(2) CLONE_FILES alone) runs on: it can see that numbers are in use
 * for a moment, but what it opens itself is never touched: nothing is closed here but what was received here.
 */
#include "native_pd/linux_delivery.h"

#include <errno.h>
#include <stdlib.h>

/* From so many on it is worth while to suppose something that is true most of the time. */
#define MANY 64

size_t native_pd_most_plugs(size_t count)
{
    return count < MANY ? 0 : count / 4 + MANY;
}

static void delivery_end(struct delivery *delivery)
{
    program_end(&delivery->pair);
    program_end(&delivery->undo);
    base_close(&delivery->ours);
    free(delivery->plugs.items);
    free(delivery->passing.items);
    free(delivery->pending.items);
    free(delivery->held.items);
    free(delivery->parcels);
}

/* ---- who goes which way ---- */

static int compare_parcels(const void *a, const void *b)
{
    selector_t x = ((const struct parcel *)a)->slot->selector, y = ((const struct parcel *)b)->slot->selector;
    return (x > y) - (x < y);
}

/* Mostly they are in order, or the other way round. */
static void sort_parcels(struct parcel *parcels, size_t count)
{
    bool is_reversed = count > 1 && compare_parcels(&parcels[0], &parcels[count - 1]) > 0;
    for (size_t i = 0; is_reversed && i < count / 2; i++) {
        struct parcel parcel = parcels[i];
        parcels[i] = parcels[count - 1 - i];
        parcels[count - 1 - i] = parcel;
    }
    for (size_t i = 1; i < count; i++)
        if (compare_parcels(&parcels[i - 1], &parcels[i]) > 0) {
            qsort(parcels, count, sizeof *parcels, compare_parcels);
            return;
        }
}

bool delivery_wants(const struct delivery *delivery, int number)
{
    const struct native_slot slot = {.selector = (selector_t)number};
    const struct parcel key = {.slot = &slot};
    return bsearch(&key, delivery->parcels, delivery->free_count, sizeof key, compare_parcels) ||
           bsearch(&key, delivery->parcels + delivery->free_count, delivery->count - delivery->free_count,
                   sizeof key, compare_parcels);
}

/* 1, 0, or a negative errno. */
static int is_used(const struct target *target, selector_t selector)
{
    _cleanup_close_ int there = sys_pidfd_getfd(target->pidfd, (int)selector);
    return there >= 0 ? 1 : there == -EBADF ? 0 : there;
}

/* Parts them into those at free selectors and those that replace something. What may replace is supposed to
 * do so if there are many; else it is looked at. */
static int part_parcels(struct delivery *delivery, const struct native_slot *slots, size_t count,
                        bool suppose, struct reseat_error **ret_error)
{
    delivery->parcels = calloc(count, sizeof *delivery->parcels);
    if (!delivery->parcels)
        return error_errno(ret_error, -ENOMEM, "installing %zu capabilities", count);
    delivery->count = count;
    size_t first = 0, last = count;
    for (size_t i = 0; i < count; i++) {
        int used =
            slots[i].flags & NATIVE_REPLACE ? suppose ? 1 : is_used(delivery->target, slots[i].selector) : 0;
        if (used < 0)
            return error_errno(ret_error, used, "looking at selector %u of process %d", slots[i].selector,
                               delivery->target->pid);
        delivery->parcels[used ? --last : first++].slot = &slots[i];
    }
    delivery->free_count = first;
    sort_parcels(delivery->parcels, first);
    sort_parcels(delivery->parcels + first, count - first);
    return 0;
}

/* What would have to be plugged; leaves must_land false if that is too much. */
static int choose_plugs(struct delivery *delivery, const selector_t *used, size_t used_count)
{
    size_t most = native_pd_most_plugs(delivery->free_count), in_use = 0;
    selector_t number = 0;
    for (size_t i = 0; i < delivery->free_count; i++, number++) {
        selector_t selector = delivery->parcels[i].slot->selector;
        for (; number < selector; number++) {
            while (in_use < used_count && used[in_use] < number)
                in_use++;
            if (in_use < used_count && used[in_use] == number)
                continue;
            if (delivery->plugs.count == most)
                return 0;
            int *plug = array_append(delivery->plugs.items, delivery->plugs.count);
            if (!plug)
                return -ENOMEM;
            *plug = (int)number;
        }
    }
    delivery->must_land = true;
    return 0;
}

/* ---- the course of it ---- */

static int deliver(struct delivery *delivery, struct reseat_error **ret_error)
{
    int r = delivery_make_pair(delivery, ret_error);
    if (r == 0)
        r = delivery_prepare(delivery, ret_error);
    if (r == 0)
        r = delivery->must_land ? delivery_plug(delivery, ret_error) : delivery_reserve(delivery, ret_error);
    for (size_t start = 0, done; r == 0 && start < delivery->count; start += done) {
        size_t end = start < delivery->free_count ? delivery->free_count : delivery->count;
        r = delivery_fill(delivery, start, end - start, &done, ret_error);
    }
    if (r == 0 && delivery->free_count < delivery->count)
        r = delivery_replace(delivery, ret_error);
    if (r == 0)
        r = delivery_tidy(delivery, ret_error);
    if (r < 0)
        delivery_undo(delivery);
    return r;
}

/* -EAGAIN: something was supposed that is not so. */
static int try_delivery(struct target *target, const struct native_slot *slots, size_t count,
                        const selector_t *used, size_t used_count, bool suppose, bool *ret_is_refused,
                        struct reseat_error **ret_error)
{
    _cleanup_(delivery_end) struct delivery delivery = {.target = target, .ours = -EBADF};
    int r = part_parcels(&delivery, slots, count, suppose, ret_error);
    if (r == 0 && used && suppose && delivery.free_count >= MANY)
        r = choose_plugs(&delivery, used, used_count);
    if (!delivery.must_land)
        delivery.plugs.count = 0;
    if (r == 0)
        r = deliver(&delivery, ret_error);
    if (delivery.pair_end) /* the leader stands there, and what comes next must not be written over it */
        target->scratch.used = target->scratch.first = delivery.pair_end;
    *ret_is_refused = delivery.is_refused;
    return r;
}

int native_pd_deliver(struct target *target, const struct native_slot *slots, size_t count,
                      const selector_t *used, size_t used_count, struct reseat_error **ret_error)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    bool is_refused = false;
    size_t first = target->scratch.first;
    int r = try_delivery(target, slots, count, used, used_count, count >= MANY, &is_refused, &error);
    if (r == -EAGAIN)
        r = try_delivery(target, slots, count, NULL, 0, false, &is_refused, &error);
    if (r == -EMFILE || is_refused)
        r = native_pd_deliver_by_helper(target, slots, count, &error);
    target->scratch.used = target->scratch.first = first;
    if (r < 0 && ret_error) {
        base_error_free(ret_error);
        *ret_error = TAKE_PTR(error);
    }
    return r;
}

int native_pd_install_stopped(struct target *target, const struct native_slot *slots, size_t count,
                              struct reseat_error **ret_error)
{
    return native_pd_deliver(target, slots, count, NULL, 0, ret_error);
}
