/* install and close into a live process: everything that can be checked is checked while it runs, then it is
 * stopped once, one batch of programs does the work (linux_stopped.c), and it runs on.
 *
 * All threads are stopped: they share the table, and none must see a number that is used in passing. See
 * ptrace(2), dup3(2), fcntl(2) F_DUPFD, prlimit(2). */
#include "native_pd/linux_delivery.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

/* ---- checks beforehand ---- */

/* Of more capabilities not each is looked at beforehand without need. */
#define CHECKED_MAX 64

static int compare_selectors(const void *a, const void *b)
{
    selector_t x = *(const selector_t *)a, y = *(const selector_t *)b;
    return (x > y) - (x < y);
}

/* The highest of them; -EINVAL if one is given twice. */
static int check_selectors(const selector_t *selectors, size_t count, selector_t *ret_highest,
                           struct reseat_error **ret_error)
{
    _cleanup_free_ selector_t *sorted = reallocarray(NULL, count, sizeof *sorted);
    if (!sorted)
        return error_errno(ret_error, -ENOMEM, "looking at %zu selectors", count);
    memcpy(sorted, selectors, count * sizeof *sorted);
    bool is_ascending = true;
    for (size_t i = 1; i < count && is_ascending; i++)
        is_ascending = sorted[i - 1] < sorted[i];
    if (!is_ascending)
        qsort(sorted, count, sizeof *sorted, compare_selectors);
    for (size_t i = 1; i < count; i++)
        if (sorted[i - 1] == sorted[i])
            return error_set(ret_error, -EINVAL, "selector %u is given twice", sorted[i]);
    *ret_highest = sorted[count - 1];
    return 0;
}

/* The soft limit is what the process's own calls are held to; fs.nr_open is the kernel's. */
static int check_limits(const struct native_pd *pd, selector_t highest, struct reseat_error **ret_error)
{
    _cleanup_free_ char *text = NULL, *limits = NULL;
    unsigned long kernel_limit = 0, own_limit = 0;
    if (file_read(AT_FDCWD, "/proc/sys/fs/nr_open", &text, NULL) == 0)
        kernel_limit = strtoul(text, NULL, 10);
    if (highest >= SELECTOR_LIMIT || (kernel_limit && highest >= kernel_limit))
        return error_set(ret_error, -EMFILE,
                         "there is no selector %u: the kernel allows numbers below %lu (sysctl fs.nr_open)",
                         highest, kernel_limit);
    int r = file_read(pd->table_fd, "../limits", &limits, NULL);
    const char *line = r == 0 ? strstr(limits, "Max open files") : NULL;
    if (line && sscanf(line, "Max open files %lu", &own_limit) == 1 && highest >= own_limit)
        return error_set(
            ret_error, -EBADF,
            "process %d may not have a selector %u: its limit is %lu (RLIMIT_NOFILE; prlimit --pid "
            "%d --nofile=N raises it)",
            pd->pid, highest, own_limit, pd->pid);
    return 0;
}

/* Whether it is open shows at the latest when it is sent, before anything has been changed. */
static int check_cap(const struct native_slot *slot, bool is_one_of_many, struct reseat_error **ret_error)
{
    if (is_one_of_many && slot->cap >= 0 && !(slot->flags & (NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL)))
        return 0;
    int flags = slot->cap < 0 ? -1 : fcntl(slot->cap, F_GETFL);
    if (flags < 0)
        return error_set(ret_error, -EINVAL, "the capability for selector %u, our descriptor %d, is not open",
                         slot->selector, slot->cap);
    unsigned asked = slot->flags & (NATIVE_READ | NATIVE_WRITE), has = native_pd_rights_of(flags);
    if (slot->flags & NATIVE_SPECIAL)
        return error_set(ret_error, -EINVAL, "selector %u: there is no special right on Linux",
                         slot->selector);
    if (asked && asked != has)
        return error_set(
            ret_error, -EACCES,
            "the capability for selector %u is open for %s, not as asked for: on Linux access belongs "
            "to the object, so it must be opened so",
            slot->selector,
            has == (NATIVE_READ | NATIVE_WRITE) ? "reading and writing"
            : has == NATIVE_READ                ? "reading only"
            : has == NATIVE_WRITE               ? "writing only"
                                                : "neither reading nor writing");
    return 0;
}

/* What can be seen beforehand of a process that cannot be taken in hand. */
static int check_process(const struct native_pd *pd, struct reseat_error **ret_error)
{
    if (pd->is_self)
        return error_set(ret_error, -EINVAL,
                         "process %d is the one that asks: it cannot stop itself, and has dup3(2) for that",
                         pd->pid);
    if (native_pd_has_ended(pd))
        return native_pd_error_ended(pd, ret_error);
    _cleanup_free_ char *status = NULL;
    int r = file_read(pd->table_fd, "../status", &status, NULL);
    if (r < 0)
        return native_pd_error_ended(pd, ret_error);
    pid_t tracer = (pid_t)status_number(status, "TracerPid", 10);
    if (tracer)
        return error_set(
            ret_error, -EBUSY,
            "process %d is being traced by process %d, and a process has one tracer at a time: let "
            "that one detach first",
            pd->pid, tracer);
    return target_check_filter(status, pd->pid, ret_error);
}

/* ---- the stop ---- */

void native_pd_set_guard(struct native_pd *pd, native_pd_guard_fn guard, void *userdata)
{
    pd->guard = guard;
    pd->guard_userdata = userdata;
}

/* Stops all threads, with scratch pages. From here to target_release() the process stands still. */
static int take(struct native_pd *pd, size_t scratch_bytes, struct target *ret_target,
                struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    int r = target_check_stoppable(pd->pid, ret_error);
    if (r == 0)
        r = target_seize(pd->pid, &target, ret_error);
    if (r == -EPERM && !native_pd_has_ended(pd))
        return native_pd_error_permission(pd->pid, ret_error);
    /* Seen alive after it was seized by its number: so it is this one, and stays it. */
    if (native_pd_has_ended(pd))
        return native_pd_error_ended(pd, ret_error);
    if (r == 0)
        r = target_reserve_sparse_mirror(&target, scratch_bytes, ret_error);
    if (r == 0)
        r = target_stop(&target, ret_error);
    if (r == 0 && pd->guard)
        r = pd->guard(pd->guard_userdata, ret_error);
    if (r == 0)
        r = target_map_scratch(&target, scratch_bytes, ret_error);
    if (r < 0)
        return r;
    *ret_target = target;
    target = TARGET_NONE;
    return 0;
}

static void let_go(struct native_pd *pd, struct target *target)
{
    uint64_t stop_ns = target->stop_ns;
    target_let_go(target);
    pd->last_stop_ns = stop_ns ? target->go_ns - stop_ns : 0;
}

uint64_t native_pd_last_stop_ns(const struct native_pd *pd)
{
    return pd->last_stop_ns;
}

/* A process that is killed under our hands makes whatever was going on fail in some way. */
static int explain_end(struct native_pd *pd, int r, struct reseat_error **ret_error)
{
    return r < 0 && native_pd_has_ended(pd) ? native_pd_error_ended(pd, ret_error) : r;
}

static int check_install(struct native_pd *pd, const struct native_slot *slots, size_t count,
                         struct reseat_error **ret_error)
{
    _cleanup_free_ selector_t *selectors = reallocarray(NULL, count, sizeof *selectors);
    selector_t highest = 0;
    int r = selectors ? 0 : error_errno(ret_error, -ENOMEM, "installing %zu capabilities", count);
    for (size_t i = 0; r == 0 && i < count; i++) {
        selectors[i] = slots[i].selector;
        r = check_cap(&slots[i], count > CHECKED_MAX, ret_error);
    }
    if (r == 0)
        r = check_selectors(selectors, count, &highest, ret_error);
    if (r == 0)
        r = check_process(pd, ret_error);
    return r == 0 ? check_limits(pd, highest, ret_error) : r;
}

/* The used selectors below the highest that is wanted, if that is not more to look at than what there is to
 * install. Only a supposition: the process runs. */
static selector_t *suppose_used(struct native_pd *pd, const struct native_slot *slots, size_t count,
                                size_t *ret_count)
{
    size_t most = native_pd_most_plugs(count);
    selector_t *used = most ? reallocarray(NULL, most, sizeof *used) : NULL;
    for (size_t i = 0; i < count; i++)
        most = slots[i].flags & NATIVE_REPLACE ? 0 : most;
    if (!used || !most || native_pd_list(pd, 0, used, most, ret_count, NULL) < 0 || *ret_count == most) {
        free(used);
        return NULL;
    }
    return used;
}

int native_pd_install(struct native_pd *pd, const struct native_slot *slots, size_t count,
                      struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    size_t used_count = 0;
    if (count == 0)
        return 0;
    int r = check_install(pd, slots, count, ret_error);
    _cleanup_free_ selector_t *used = r == 0 ? suppose_used(pd, slots, count, &used_count) : NULL;
    if (r == 0)
        r = take(pd, native_pd_scratch_bytes(count), &target, ret_error);
    if (r == 0)
        r = native_pd_deliver(&target, slots, count, used, used_count, ret_error);
    let_go(pd, &target);
    return explain_end(pd, r, ret_error);
}

/* ---- close ---- */

/* Checks that all are used, and only then closes. Behind the report there is only the way back: if we die it
 * does all the same. */
static int build_close(struct target *target, struct program *program, const selector_t *selectors,
                       struct numbers *numbers, struct reseat_error **ret_error)
{
    size_t runs = numbers_count_runs(numbers);
    native_pd_begin_part(target);
    int r =
        program_begin(program, &target->scratch, numbers->count + runs + 4, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < numbers->count; i++)
        program_call(program, "looking at a selector", SYS_fcntl, selectors[i], F_GETFD);
    delivery_add_closing(program, numbers);
    program_report(program, target->report_signal, target->ns_pid, target->threads[0].ns_tid);
    return native_pd_add_way_back(program, &target->threads[0], ret_error);
}

static int close_stopped(struct target *target, const selector_t *selectors, size_t count,
                         struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    _cleanup_free_ int *items = reallocarray(NULL, count, sizeof *items);
    if (!items)
        return error_errno(ret_error, -ENOMEM, "closing %zu selectors", count);
    for (size_t i = 0; i < count; i++)
        items[i] = (int)selectors[i];
    struct numbers numbers = {items, count};
    int r = build_close(target, &program, selectors, &numbers, ret_error);
    if (r < 0)
        return r;
    r = program_run(target, &program, NULL);
    for (size_t i = 0; i < count; i++)
        if (program_result(&program, i) == -EBADF)
            return error_set(ret_error, -EBADF, "selector %u of process %d is unused", selectors[i],
                             target->pid);
    return r < 0 ? error_errno(ret_error, r, "closing %zu selectors of process %d", count, target->pid) : 0;
}

/* What is closed is held by us until the process runs on: whatever the last close of an object has to wait
 * for (a lingering socket, a tape) is waited for by us. */
#define HELD_MAX 512

struct held {
    native_cap_t caps[HELD_MAX];
    size_t count;
};

static void hold(const struct native_pd *pd, const selector_t *selectors, size_t count, struct held *held)
{
    for (size_t i = 0; i < count && held->count < HELD_MAX; i++) {
        native_cap_t cap = sys_pidfd_getfd(pd->pidfd, (int)selectors[i]);
        if (cap >= 0)
            held->caps[held->count++] = cap;
    }
}

static void drop_held(struct held *held)
{
    while (held->count)
        close(held->caps[--held->count]);
}

static int check_close(struct native_pd *pd, const selector_t *selectors, size_t count,
                       struct reseat_error **ret_error)
{
    selector_t highest = 0;
    int r = check_selectors(selectors, count, &highest, ret_error);
    if (r == 0 && highest >= SELECTOR_LIMIT)
        r = error_set(ret_error, -EBADF, "selector %u of process %d is unused: no number is that high",
                      highest, pd->pid);
    return r == 0 ? check_process(pd, ret_error) : r;
}

int native_pd_close(struct native_pd *pd, const selector_t *selectors, size_t count,
                    struct reseat_error **ret_error)
{
    _cleanup_(drop_held) struct held held = {.count = 0};
    _cleanup_(target_release) struct target target = TARGET_NONE;
    if (count == 0)
        return 0;
    int r = check_close(pd, selectors, count, ret_error);
    if (r == 0)
        r = take(pd, native_pd_scratch_bytes(count), &target, ret_error);
    if (r == 0) {
        hold(pd, selectors, count, &held);
        r = close_stopped(&target, selectors, count, ret_error);
    }
    let_go(pd, &target);
    return explain_end(pd, r, ret_error);
}
