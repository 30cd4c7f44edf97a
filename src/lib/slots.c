/* What is to become of single selectors in a restore (--slot): the one place that knows the policies, for
 * whatever puts a process back. A policy says one of three things of a selector: that something else goes
 * there (a descriptor of the caller, /dev/null, nothing), that the restore is to be refused unless the very
 * object comes back (keep), or unless the object comes back whole (fail), whatever --allow permits elsewhere.
 */
#include "plan-internal.h"

#include "native_pd/linux.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

const struct reseat_slot *slots_find(const struct reseat_slot *slots, size_t count, unsigned selector)
{
    for (size_t i = 0; i < count; i++)
        if (slots[i].selector == selector)
            return &slots[i];
    return NULL;
}

bool slot_is_replaced(const struct reseat_slot *slot)
{
    return slot && (slot->policy == RESEAT_SLOT_PUT || slot->policy == RESEAT_SLOT_CLOSE ||
                    slot->policy == RESEAT_SLOT_NULL);
}

bool slots_replace_any(const struct reseat_slot *slots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (slot_is_replaced(&slots[i]))
            return true;
    return false;
}

bool slots_must_keep_any(const struct reseat_slot *slots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!slot_is_replaced(&slots[i]))
            return true;
    return false;
}

/* ---- before anything is changed ---- */

static int check_slot(const struct reseat_slot *slots, size_t index, bool (*is_used)(void *, unsigned),
                      void *userdata, struct reseat_error **ret_error)
{
    const struct reseat_slot *slot = &slots[index];
    if (slots_find(slots, index, slot->selector))
        return error_set(ret_error, -EINVAL, "selector %u is given twice", slot->selector);
    switch (slot->policy) {
    case RESEAT_SLOT_PUT:
        if (fcntl(slot->fd, F_GETFD) < 0)
            return error_errno(ret_error, -errno, "descriptor %d of ours, for selector %u", slot->fd,
                               slot->selector);
        return 0;
    case RESEAT_SLOT_NULL:
        return 0;
    case RESEAT_SLOT_KEEP:
    case RESEAT_SLOT_CLOSE:
    case RESEAT_SLOT_FAIL:
        if (!is_used(userdata, slot->selector))
            return error_set(ret_error, -EBADF,
                             "selector %u was unused when the process was checkpointed: there is nothing to "
                             "%s there",
                             slot->selector, slot->policy == RESEAT_SLOT_CLOSE ? "close" : "keep");
        return 0;
    }
    return error_set(ret_error, -EINVAL, "selector %u is given a policy that does not exist", slot->selector);
}

int slots_check(const struct reseat_slot *slots, size_t count,
                bool (*is_used)(void *userdata, unsigned selector), void *userdata,
                struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = check_slot(slots, i, is_used, userdata, ret_error);
    return r;
}

/* Whether `selector` is used in the process whose /proc/PID is `*userdata`. */
bool slots_used_in_process(void *userdata, unsigned selector)
{
    char path[32];
    snprintf(path, sizeof path, "fd/%u", selector);
    return faccessat(*(int *)userdata, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

int slots_check_kept(const struct reseat_slot *slots, size_t count, unsigned selector, const char *why,
                     struct reseat_error **ret_error)
{
    const struct reseat_slot *slot = slots_find(slots, count, selector);
    if (!slot || slot->policy != RESEAT_SLOT_KEEP)
        return 0;
    return error_set(ret_error, -RESEAT_REFUSED,
                     "selector %u would not hold the same object, which --slot %u=keep asks for: %s",
                     selector, selector, why);
}

void slots_judge(const struct reseat_slot *slots, size_t count, struct obstacles *obstacles)
{
    size_t kept = 0;
    for (size_t i = 0; i < obstacles->count; i++) {
        struct obstacle item = obstacles->items[i];
        const struct reseat_slot *slot =
            item.selector < 0 ? NULL : slots_find(slots, count, (unsigned)item.selector);
        if (slot_is_replaced(slot)) {
            free(item.sentence); /* it is not to come back anyway */
            continue;
        }
        if (slot && item.severity > SEVERITY_NOTE)
            item.severity = SEVERITY_FORBIDDEN;
        obstacles->items[kept++] = item;
    }
    obstacles->count = kept;
}

/* ---- in a plan ---- */

static bool is_in_plan(void *userdata, unsigned selector)
{
    return plan_row(userdata, selector) != NULL;
}

/* What one kind of restore makes of a row that something is wished for; it may refuse the whole. */
static int plan_slot(struct plan *plan, const struct reseat_slot *slot, struct reseat_prospect *prospect,
                     const char **blocked)
{
    if (slot_is_replaced(slot)) {
        *prospect = (struct reseat_prospect){.fate = RESEAT_REPLACED};
        return 0;
    }
    enum reseat_fate worst = slot->policy == RESEAT_SLOT_KEEP ? RESEAT_KEPT : RESEAT_RECREATED;
    if (*blocked || prospect->fate <= worst)
        return 0;
    *blocked = plan_text(plan, "Selector %u would be %s, which --slot %u=%s does not permit", slot->selector,
                         reseat_fate_name(prospect->fate), slot->selector,
                         slot->policy == RESEAT_SLOT_KEEP ? "keep" : "fail");
    return *blocked ? 0 : -ENOMEM;
}

int reseat_plan_slots(struct reseat_plan *public, const struct reseat_slot *slots, size_t count,
                      struct reseat_error **ret_error)
{
    struct plan *plan = (struct plan *)public;
    int r = slots_check(slots, count, is_in_plan, plan, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < count; i++) {
        struct reseat_plan_row *row = plan_row(plan, slots[i].selector);
        if (row)
            r = plan_slot(plan, &slots[i], &row->live, &public->live_blocked);
        if (row && r == 0)
            r = plan_slot(plan, &slots[i], &row->cold, &public->cold_blocked);
    }
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", public->pid) : 0;
}

/* ---- in the half-made process ---- */

static bool is_close_on_exec(struct target *process, unsigned selector)
{
    char path[32];
    _cleanup_free_ char *info = NULL;
    snprintf(path, sizeof path, "fdinfo/%u", selector);
    return file_read(process->proc_fd, path, &info, NULL) == 0 &&
           (status_number(info, "flags", 8) & O_CLOEXEC);
}

static int close_selectors(struct target *process, const struct reseat_slot *slots, size_t count,
                           struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, &process->scratch, count + 4, 0, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++)
        if (slots[i].policy == RESEAT_SLOT_CLOSE)
            program_call(&program, "closing a selector", SYS_close, slots[i].selector);
    return program.count ? program_run_batch(process, &program, ret_error) : 0;
}

/* Close-on-exec stays as it was at the selector. */
int slots_apply(struct target *process, const struct reseat_slot *slots, size_t count,
                struct reseat_error **ret_error)
{
    _cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    _cleanup_free_ struct native_slot *wanted = calloc(count + 1, sizeof *wanted);
    size_t wanted_count = 0;
    if (!wanted || null < 0)
        return error_errno(ret_error, null < 0 ? -errno : -ENOMEM, "opening /dev/null for %zu slots", count);
    for (size_t i = 0; i < count; i++) {
        const struct reseat_slot *slot = &slots[i];
        if (slot->policy != RESEAT_SLOT_PUT && slot->policy != RESEAT_SLOT_NULL)
            continue;
        wanted[wanted_count++] =
            (struct native_slot){.selector = slot->selector,
                                 .cap = slot->policy == RESEAT_SLOT_PUT ? slot->fd : null,
                                 .flags =
                                     NATIVE_REPLACE |
                                     (is_close_on_exec(process, slot->selector) ? NATIVE_CLOSE_ON_EXEC : 0)};
    }
    int r = wanted_count ? native_pd_install_stopped(process, wanted, wanted_count, ret_error) : 0;
    return r == 0 ? close_selectors(process, slots, count, ret_error) : r;
}
