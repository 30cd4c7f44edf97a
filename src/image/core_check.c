/* Whether a snapshot makes sense: every number that others use as an index, a length, a string or a reference
 * is checked here once, so that nobody behind this has to. The reader asks because the file may be hostile,
 * the writer because a checkpoint that cannot be read again must fail while the target still lives.
 *
 * Numbers that only go back into the kernel (addresses, masks, registers) are not judged: the kernel checks
 * them, and their owner may set them anyway. */
#include "image/image-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>

#define PID_MAX         (1U << 22) /* PID_MAX_LIMIT, include/linux/threads.h */
#define SIGNAL_MAX      64U
#define SELECTOR_LIMIT  (1U << 20)
#define PATH_LENGTH_MAX 128U /* below /proc/self */
#define XSTATE_MAX      65536U
#define PAGE_BYTES      4096U

static const struct {
#define X(type, name, section) const char *name;
    SNAPSHOT_TABLES(X)
#undef X
} section_of = {
#define X(type, name, section) .name = section,
    SNAPSHOT_TABLES(X)
#undef X
};

/* ---- errors ---- */

int core_bad_row(struct reseat_error **ret_error, const char *section, size_t row, const char *format, ...)
{
    char sentence[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return error_set(ret_error, -EBADMSG, "section %s: row %zu: %s", section, row, sentence);
}

static _printf_(2, 3) int bad_process(struct reseat_error **ret_error, const char *format, ...)
{
    char sentence[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    return error_set(ret_error, -EBADMSG, "section %s: %s", CORE_SECTION_PROCESS, sentence);
}

/* ---- small questions ---- */

static bool is_terminated(const char *text, size_t capacity)
{
    return memchr(text, '\0', capacity) != NULL;
}

static bool is_pid(uint32_t pid)
{
    return pid > 0 && pid <= PID_MAX;
}

static bool are_pids(const uint32_t *pids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!is_pid(pids[i]))
            return false;
    return true;
}

static bool is_range(uint64_t start, uint64_t length)
{
    return length <= UINT64_MAX - start;
}

void number_set_free(struct number_set *set)
{
    free(set->numbers);
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return left < right ? -1 : left > right;
}

bool number_set_has(const struct number_set *set, uint32_t number)
{
    return set->count > 0 &&
           bsearch(&number, set->numbers, set->count, sizeof number, compare_numbers) != NULL;
}

const uint32_t *number_set_sort(struct number_set *set)
{
    if (set->count > 1)
        qsort(set->numbers, set->count, sizeof set->numbers[0], compare_numbers);
    for (size_t i = 1; i < set->count; i++)
        if (set->numbers[i] == set->numbers[i - 1])
            return &set->numbers[i];
    return NULL;
}

#define _cleanup_set_ _cleanup_(number_set_free)

int core_check_bytes(const struct snapshot *snapshot, const char *section, size_t row, const char *what,
                     uint64_t offset, uint64_t length, struct reseat_error **ret_error)
{
    if (offset > snapshot->blobs_count || length > snapshot->blobs_count - offset)
        return core_bad_row(ret_error, section, row,
                            "%s at %" PRIu64 " of %" PRIu64 " bytes lies outside %s (%zu bytes)", what,
                            offset, length, section_of.blobs, snapshot->blobs_count);
    return 0;
}

int core_check_text(const struct snapshot *snapshot, const char *section, size_t row, const char *what,
                    uint64_t offset, size_t longest, struct reseat_error **ret_error)
{
    if (offset >= snapshot->blobs_count)
        return core_bad_row(ret_error, section, row, "%s at %" PRIu64 " lies outside %s (%zu bytes)", what,
                            offset, section_of.blobs, snapshot->blobs_count);
    const char *text = (const char *)snapshot->blobs + offset;
    if (!is_terminated(text, snapshot->blobs_count - offset))
        return core_bad_row(ret_error, section, row, "the %s at %" PRIu64 " does not end with a NUL", what,
                            offset);
    if (strlen(text) > longest)
        return core_bad_row(ret_error, section, row, "the %s is longer than %zu bytes", what, longest);
    return 0;
}

/* ---- the process ---- */

static int check_process(const struct snapshot_process *process, struct reseat_error **ret_error)
{
    if (process->version != SNAPSHOT_VERSION)
        return bad_process(ret_error, "version %u of the format, not %d", process->version, SNAPSHOT_VERSION);
    if (process->form != SNAPSHOT_FORM_HEIR && process->form != SNAPSHOT_FORM_COPY)
        return bad_process(ret_error, "%u is no form of a twin", process->form);
    if (!is_pid(process->pid))
        return bad_process(ret_error, "%u is no PID", process->pid);
    if (process->ns_level_count < 1 || process->ns_level_count > SNAPSHOT_NS_LEVELS)
        return bad_process(ret_error, "%u levels of PID namespaces, 1 to %d are allowed",
                           process->ns_level_count, SNAPSHOT_NS_LEVELS);
    if (!are_pids(process->ns_pids, process->ns_level_count))
        return bad_process(ret_error, "a PID of its %u namespace levels is none", process->ns_level_count);
    if (process->parent > PID_MAX || process->group > PID_MAX || process->session > PID_MAX ||
        process->twin > PID_MAX || process->ns_twin > PID_MAX)
        return bad_process(ret_error, "parent %u, group %u, session %u, twin %u or %u is no PID",
                           process->parent, process->group, process->session, process->twin,
                           process->ns_twin);
    if (process->parent_death_signal > SIGNAL_MAX)
        return bad_process(ret_error, "%u is no signal", process->parent_death_signal);
    if (!is_terminated(process->comm, sizeof process->comm))
        return bad_process(ret_error, "its name does not end with a NUL");
    if (!is_terminated(process->boot_id, sizeof process->boot_id))
        return bad_process(ret_error, "the boot id does not end with a NUL");
    if (!is_range(process->scratch_address, process->scratch_length))
        return bad_process(ret_error, "the scratch mapping wraps around");
    if (process->capability_count > SELECTOR_LIMIT)
        return bad_process(ret_error, "%u capabilities", process->capability_count);
    return 0;
}

/* ---- threads, signals, timers ---- */

static int check_thread(const struct snapshot *snapshot, size_t row, struct reseat_error **ret_error)
{
    const struct snapshot_thread *thread = &snapshot->threads[row];
    const char *section = section_of.threads;
    if (!is_pid(thread->tid))
        return core_bad_row(ret_error, section, row, "%u is no thread id", thread->tid);
    if (!are_pids(thread->ns_tids, snapshot->process.ns_level_count))
        return core_bad_row(ret_error, section, row, "an id of thread %u in its %u namespace levels is none",
                            thread->tid, snapshot->process.ns_level_count);
    if (thread->xstate_length > XSTATE_MAX || thread->xstate_length % 8 != 0 ||
        thread->xstate_offset % 8 != 0)
        return core_bad_row(ret_error, section, row,
                            "extended state at %" PRIu64 " of %" PRIu64
                            " bytes: at most %u, in multiples of 8",
                            thread->xstate_offset, thread->xstate_length, XSTATE_MAX);
    if (thread->xstate_offset > snapshot->blobs_count ||
        thread->xstate_length > snapshot->blobs_count - thread->xstate_offset)
        return core_bad_row(ret_error, section, row,
                            "extended state at %" PRIu64 " of %" PRIu64 " bytes lies outside %s (%zu bytes)",
                            thread->xstate_offset, thread->xstate_length, section_of.blobs,
                            snapshot->blobs_count);
    if (!is_terminated(thread->name, sizeof thread->name))
        return core_bad_row(ret_error, section, row, "the name of thread %u does not end with a NUL",
                            thread->tid);
    if (thread->affinity_length > sizeof thread->affinity)
        return core_bad_row(ret_error, section, row, "affinity of %u bytes, %zu are allowed",
                            thread->affinity_length, sizeof thread->affinity);
    return 0;
}

/* Also fills the set of thread ids. */
static int check_threads(const struct snapshot *snapshot, struct number_set *ret_tids,
                         struct reseat_error **ret_error)
{
    if (snapshot->threads_count == 0)
        return error_set(ret_error, -EBADMSG, "section %s: no thread", section_of.threads);
    if (snapshot->threads[0].tid != snapshot->process.pid)
        return core_bad_row(ret_error, section_of.threads, 0, "thread %u is not the leader of process %u",
                            snapshot->threads[0].tid, snapshot->process.pid);

    _cleanup_set_ struct number_set tids = {calloc(snapshot->threads_count, sizeof(uint32_t)), 0};
    if (!tids.numbers)
        return error_errno(ret_error, -ENOMEM, "section %s: checking", section_of.threads);
    for (size_t i = 0; i < snapshot->threads_count; i++) {
        int r = check_thread(snapshot, i, ret_error);
        if (r < 0)
            return r;
        tids.numbers[tids.count++] = snapshot->threads[i].tid;
    }
    const uint32_t *twice = number_set_sort(&tids);
    if (twice)
        return error_set(ret_error, -EBADMSG, "section %s: thread %u is there twice", section_of.threads,
                         *twice);
    *ret_tids = TAKE_GENERIC(tids, (struct number_set){0});
    return 0;
}

static int check_signals(const struct snapshot *snapshot, const struct number_set *tids,
                         struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->signals_count; i++) {
        const struct snapshot_signal *signal = &snapshot->signals[i];
        if (signal->tid != 0 && !number_set_has(tids, signal->tid))
            return core_bad_row(ret_error, section_of.signals, i, "for thread %u, which there is not",
                                signal->tid);
        uint32_t number; /* si_signo, the first field */
        memcpy(&number, signal->siginfo, sizeof number);
        if (number == 0 || number > SIGNAL_MAX)
            return core_bad_row(ret_error, section_of.signals, i, "%u is no signal", number);
    }
    return 0;
}

static int check_timers(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    if (snapshot->timers_count == 0)
        return 0;
    _cleanup_set_ struct number_set ids = {calloc(snapshot->timers_count, sizeof(uint32_t)), 0};
    if (!ids.numbers)
        return error_errno(ret_error, -ENOMEM, "section %s: checking", section_of.timers);
    for (size_t i = 0; i < snapshot->timers_count; i++) {
        const struct snapshot_timer *timer = &snapshot->timers[i];
        if (timer->id < 0)
            return core_bad_row(ret_error, section_of.timers, i, "%d is no timer id", timer->id);
        /* Without a notification the kernel has never looked at the signal, nor shall we. */
        if (timer->notify != SIGEV_NONE && (timer->signal < 1 || timer->signal > (int)SIGNAL_MAX))
            return core_bad_row(ret_error, section_of.timers, i, "%d is no signal", timer->signal);
        if (timer->ns_tid > PID_MAX)
            return core_bad_row(ret_error, section_of.timers, i, "%u is no thread id", timer->ns_tid);
        ids.numbers[ids.count++] = (uint32_t)timer->id;
    }
    const uint32_t *twice = number_set_sort(&ids);
    if (twice)
        return error_set(ret_error, -EBADMSG, "section %s: timer %u is there twice", section_of.timers,
                         *twice);
    return 0;
}

/* ---- memory ---- */

static int check_regions(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->regions_count; i++) {
        const struct snapshot_region *region = &snapshot->regions[i];
        if (region->start >= region->end || region->start % PAGE_BYTES != 0 || region->end % PAGE_BYTES != 0)
            return core_bad_row(ret_error, section_of.regions, i, "%" PRIx64 "-%" PRIx64 " is no region",
                                region->start, region->end);
    }
    return 0;
}

/* ---- capabilities ---- */

static int check_selector(const char *section, size_t row, uint32_t selector, struct reseat_error **ret_error)
{
    if (selector >= SELECTOR_LIMIT)
        return core_bad_row(ret_error, section, row, "%u is no selector", selector);
    return 0;
}

static int check_owners(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->owners_count; i++) {
        const struct snapshot_owner *owner = &snapshot->owners[i];
        int r = check_selector(section_of.owners, i, owner->selector, ret_error);
        if (r < 0)
            return r;
        if (owner->type < F_OWNER_TID || owner->type > F_OWNER_PGRP)
            return core_bad_row(ret_error, section_of.owners, i, "%d is no type of owner", owner->type);
        if (owner->signal < 0 || owner->signal > (int)SIGNAL_MAX)
            return core_bad_row(ret_error, section_of.owners, i, "%d is no signal", owner->signal);
    }
    return 0;
}

static int check_locks(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->locks_count; i++) {
        const struct snapshot_lock *lock = &snapshot->locks[i];
        int r = check_selector(section_of.locks, i, lock->selector, ret_error);
        if (r < 0)
            return r;
        if (lock->type != F_RDLCK && lock->type != F_WRLCK)
            return core_bad_row(ret_error, section_of.locks, i, "%d is no type of lock", lock->type);
        if (lock->start < 0 || lock->length < 0 || lock->length > INT64_MAX - lock->start)
            return core_bad_row(ret_error, section_of.locks, i,
                                "%" PRId64 " bytes at %" PRId64 " are no range", lock->length, lock->start);
    }
    return 0;
}

static int check_positions(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->positions_count; i++) {
        const struct snapshot_position *position = &snapshot->positions[i];
        int r = check_selector(section_of.positions, i, position->selector, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_interests(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->interests_count; i++) {
        const struct snapshot_interest *interest = &snapshot->interests[i];
        int r = check_selector(section_of.interests, i, interest->epoll_selector, ret_error);
        if (r < 0)
            return r;
        r = check_selector(section_of.interests, i, interest->selector, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Whether a path below /proc/self stays there. (The kernel's own links on the way are another matter: those
 * are the process's own.) */
static bool is_path_below(const char *path)
{
    if (path[0] == '/')
        return false;
    for (const char *part = path; part; part = strchr(part, '/')) {
        part += strspn(part, "/");
        if (strncmp(part, "..", 2) == 0 && (part[2] == '/' || part[2] == '\0'))
            return false;
    }
    return true;
}

static int check_reopen(const struct snapshot *snapshot, size_t row, struct reseat_error **ret_error)
{
    const struct snapshot_reopen *reopen = &snapshot->reopens[row];
    const char *section = section_of.reopens;
    int r = check_selector(section, row, reopen->selector, ret_error);
    if (r < 0)
        return r;
    r = core_check_text(snapshot, section, row, "path", reopen->path_offset, PATH_LENGTH_MAX, ret_error);
    if (r < 0)
        return r;
    const char *path = (const char *)snapshot->blobs + reopen->path_offset;
    if (!is_path_below(path))
        return core_bad_row(ret_error, section, row, "the path leads out of /proc/self");
    return 0;
}

/* The rows are carried out in their order: an alias comes after the row that opens what it is an alias of. */
static int check_reopens(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    enum { ROLE_NONE, ROLE_OPENED, ROLE_ALIAS };
    if (snapshot->reopens_count == 0)
        return 0;
    _cleanup_free_ uint8_t *roles =
        calloc(SELECTOR_LIMIT, 1); /* of each selector; memory only where touched */
    if (!roles)
        return error_errno(ret_error, -ENOMEM, "section %s: checking", section_of.reopens);
    for (size_t i = 0; i < snapshot->reopens_count; i++) {
        const struct snapshot_reopen *reopen = &snapshot->reopens[i];
        int r = check_reopen(snapshot, i, ret_error);
        if (r < 0)
            return r;
        bool is_alias = reopen->alias_of != reopen->selector;
        if (roles[reopen->selector] != ROLE_NONE)
            return core_bad_row(ret_error, section_of.reopens, i, "selector %u is there twice",
                                reopen->selector);
        if (is_alias && (reopen->alias_of >= SELECTOR_LIMIT || roles[reopen->alias_of] != ROLE_OPENED))
            return core_bad_row(ret_error, section_of.reopens, i,
                                "alias of selector %u, which no row before it opens", reopen->alias_of);
        roles[reopen->selector] = is_alias ? ROLE_ALIAS : ROLE_OPENED;
    }
    return 0;
}

/* ---- all of it ---- */

int core_check_snapshot(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    static int (*const checks[])(const struct snapshot *, struct reseat_error **) = {
        check_timers,       check_regions,      check_owners,        check_locks,
        check_positions,    check_interests,    check_reopens,       core_check_vmas,
        core_check_extents, core_check_objects, core_check_states,   core_check_credentials,
        core_check_actions, core_check_filters, core_check_contents, core_check_machines,
    };
    int r = check_process(&snapshot->process, ret_error);
    if (r < 0)
        return r;
    _cleanup_set_ struct number_set tids = {0};
    r = check_threads(snapshot, &tids, ret_error);
    if (r < 0)
        return r;
    r = check_signals(snapshot, &tids, ret_error);
    for (size_t i = 0; r >= 0 && i < COUNT_OF(checks); i++)
        r = checks[i](snapshot, ret_error);
    return r < 0 ? r : 0;
}
