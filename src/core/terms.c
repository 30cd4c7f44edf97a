/* What a session is good for: rights, selectors, time. Sessions can only be narrowed, so that who passes one
 * on never gives more than it has. */
#include "core/core-internal.h"

#include <errno.h>
#include <string.h>

uint32_t terms_next(const struct terms *terms, uint32_t from)
{
    if (!terms->range_count)
        return from;
    for (uint32_t i = 0; i < terms->range_count; i++)
        if (from <= terms->ranges[i].last)
            return from > terms->ranges[i].first ? from : terms->ranges[i].first;
    return PROTOCOL_SELECTOR_END;
}

bool terms_allow_selector(const struct terms *terms, uint32_t selector)
{
    return terms_next(terms, selector) == selector;
}

uint32_t terms_last(const struct terms *terms, uint32_t selector)
{
    for (uint32_t i = 0; i < terms->range_count; i++)
        if (selector <= terms->ranges[i].last)
            return terms->ranges[i].last;
    return PROTOCOL_SELECTOR_END - 1;
}

bool terms_allow_all(const struct terms *terms)
{
    return terms->range_count == 0;
}

static int compare_ranges(const void *a, const void *b)
{
    uint32_t x = ((const struct protocol_range *)a)->first, y = ((const struct protocol_range *)b)->first;
    return (x > y) - (x < y);
}

/* Sorts, and joins what overlaps; returns how many are left. */
static size_t tidy_ranges(struct protocol_range *ranges, size_t count)
{
    size_t kept = 0;
    qsort(ranges, count, sizeof *ranges, compare_ranges);
    for (size_t i = 0; i < count; i++) {
        if (kept && ranges[i].first <= ranges[kept - 1].last) {
            if (ranges[i].last > ranges[kept - 1].last)
                ranges[kept - 1].last = ranges[i].last;
        } else {
            ranges[kept++] = ranges[i];
        }
    }
    return kept;
}

/* Those parts of `ranges` that `terms` has too, into `both`; returns how many, at most capacity + 1. */
static size_t intersect(const struct terms *terms, const struct protocol_range *ranges, size_t count,
                        struct protocol_range *both, size_t capacity)
{
    static const struct protocol_range everything = {0, PROTOCOL_SELECTOR_END - 1};
    const struct protocol_range *own = terms->range_count ? terms->ranges : &everything;
    size_t own_count = terms->range_count ? terms->range_count : 1, found = 0;
    for (size_t i = 0; i < own_count; i++) {
        for (size_t k = 0; k < count; k++) {
            uint32_t first = own[i].first > ranges[k].first ? own[i].first : ranges[k].first;
            uint32_t last = own[i].last < ranges[k].last ? own[i].last : ranges[k].last;
            if (first > last)
                continue;
            if (found == capacity)
                return capacity + 1;
            both[found++] = (struct protocol_range){first, last};
        }
    }
    return found;
}

static int narrow_ranges(struct terms *terms, const struct protocol_range *ranges, size_t count,
                         struct reseat_error **ret_error)
{
    struct protocol_range given[TERMS_RANGES_MAX], both[TERMS_RANGES_MAX];
    if (count > TERMS_RANGES_MAX)
        return error_set(ret_error, -E2BIG, "narrowing a session to %zu ranges of selectors: %d are possible",
                         count, TERMS_RANGES_MAX);
    for (size_t i = 0; i < count; i++) {
        if (ranges[i].first > ranges[i].last || ranges[i].last == PROTOCOL_SELECTOR_END)
            return error_set(ret_error, -EINVAL, "narrowing a session: %u to %u is no range of selectors",
                             ranges[i].first, ranges[i].last);
        given[i] = ranges[i];
    }
    size_t found = intersect(terms, given, tidy_ranges(given, count), both, TERMS_RANGES_MAX);
    if (found > TERMS_RANGES_MAX)
        return error_set(ret_error, -E2BIG,
                         "narrowing a session: together with those that it has already, these are more than "
                         "%d ranges of selectors",
                         TERMS_RANGES_MAX);
    if (found == 0)
        return error_set(ret_error, -EINVAL,
                         "narrowing a session: none of the selectors given is one of its own");
    memcpy(terms->ranges, both, found * sizeof *both);
    terms->range_count = (uint32_t)found;
    return 0;
}

int terms_narrow(struct terms *terms, const struct protocol_narrow *narrow,
                 const struct protocol_range *ranges, size_t range_count, struct reseat_error **ret_error)
{
    if (range_count) {
        int r = narrow_ranges(terms, ranges, range_count, ret_error);
        if (r < 0)
            return r;
    }
    terms->rights &= narrow->rights;
    if (narrow->lifetime_ns != PROTOCOL_FOREVER) {
        uint64_t now = now_ns(), deadline;
        if (__builtin_add_overflow(now, narrow->lifetime_ns, &deadline))
            deadline = UINT64_MAX;
        if (!terms->deadline_ns || deadline < terms->deadline_ns)
            terms->deadline_ns = deadline;
    }
    return 0;
}

int terms_check(const struct terms *terms, unsigned operation, struct reseat_error **ret_error)
{
    uint32_t needed = protocol_right_needed(operation);
    if (terms->deadline_ns && now_ns() >= terms->deadline_ns)
        return error_set(ret_error, -EKEYEXPIRED, "the time of this session of process %d is over",
                         terms->pid);
    if ((terms->rights & needed) != needed)
        return error_set(ret_error, -EPERM, "this session of process %d is not good for %s", terms->pid,
                         protocol_operation_name(operation));
    if ((needed & (PROTOCOL_MAY_CHECKPOINT | PROTOCOL_MAY_RESTORE)) && !terms_allow_all(terms))
        return error_set(ret_error, -EPERM,
                         "this session of process %d has some selectors only, and %s takes all of them",
                         terms->pid, protocol_operation_name(operation));
    return 0;
}

struct protocol_session terms_describe(const struct terms *terms)
{
    uint64_t now = now_ns(), left = 0;
    if (terms->deadline_ns)
        left = terms->deadline_ns > now ? terms->deadline_ns - now : 1;
    return (struct protocol_session){.id = terms->pid, .rights = terms->rights, .lifetime_ns = left};
}
