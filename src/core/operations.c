/* What can be asked of a session: each operation reads its request, which has been decoded, and fills in the
 * reply. What only concerns the protocol and the terms of the session is here; the work is native_pd's. */
#include "core/core-internal.h"
#include "object/object.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

/* As core's own room is limited: of one request that comes in parts. */
#define INSTALL_MAX 16384
#define CLOSE_MAX   1048576

_Static_assert((int)PROTOCOL_CLOSE_ON_EXEC == NATIVE_CLOSE_ON_EXEC && (int)PROTOCOL_READ == NATIVE_READ &&
                   (int)PROTOCOL_WRITE == NATIVE_WRITE && (int)PROTOCOL_SPECIAL == NATIVE_SPECIAL &&
                   (int)PROTOCOL_REPLACE == NATIVE_REPLACE && PROTOCOL_SELECTOR_END == NATIVE_SELECTOR_END,
               "flags of a slot are the same here and there");

#define INSTALL_FLAGS                                                                                        \
    (PROTOCOL_CLOSE_ON_EXEC | PROTOCOL_READ | PROTOCOL_WRITE | PROTOCOL_SPECIAL | PROTOCOL_REPLACE)

static int error_selector(const struct work *work, uint32_t selector, struct reseat_error **ret_error)
{
    return error_set(ret_error, -EPERM, "this session of process %d does not have selector %u",
                     work->job.terms.pid, selector);
}

static int error_items(struct reseat_error **ret_error)
{
    return error_errno(ret_error, -ENOMEM, "keeping the items of the request");
}

/* ---- open, info, narrow ---- */

/* Fixed part and items of a reply that describes a session. */
static int describe(struct reply *reply, unsigned operation, const struct terms *terms,
                    struct reseat_error **ret_error)
{
    struct protocol_session session = terms_describe(terms);
    memcpy(reply_fixed(reply, operation), &session, sizeof session);
    struct protocol_range *ranges = reply_items(reply, operation, terms->range_count);
    if (!ranges)
        return error_items(ret_error);
    memcpy(ranges, terms->ranges, terms->range_count * sizeof *ranges);
    return 0;
}

int operation_open(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    struct terms terms;
    if (work->packet.cap_count == 0)
        return error_set(ret_error, -EINVAL, "open needs a pidfd of the process beside it");
    int mem = work->packet.cap_count > 1 ? work->packet.caps[1] : -EBADF;
    int r = admission_decide(work->socket, work->configuration, work->packet.caps[0], mem,
                             work->request.fixed, &terms, ret_error);
    if (r == 0)
        r = work_make_session(work, &terms, work->packet.caps[0], reply, ret_error);
    if (r == 0)
        r = describe(reply, PROTOCOL_OPEN, &terms, ret_error);
    if (r == 0 && work->verbose)
        fprintf(stderr, "reseat core: session of process %d for user %u, rights %#x\n", terms.pid,
                terms.owner, terms.rights);
    return r;
}

int operation_info(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    return describe(reply, PROTOCOL_INFO, &work->job.terms, ret_error);
}

int operation_narrow(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    const struct protocol_narrow *request = work->request.fixed;
    struct terms terms = work->job.terms;
    int r = request->reserved ? error_set(ret_error, -EINVAL, "narrow: what is reserved must be 0") : 0;
    if (r == 0)
        r = terms_narrow(&terms, request, work->request.items, work->request.head->count, ret_error);
    terms.owner = work->packet.sender_user; /* who makes it, not who gave us the one that it is made of */
    if (r == 0)
        r = work_make_session(work, &terms, work->pidfd, reply, ret_error);
    return r < 0 ? r : describe(reply, PROTOCOL_NARROW, &terms, ret_error);
}

/* ---- list, request ---- */

/* The next used selector that the session has. */
static int next_selector(struct work *work, uint32_t from, uint32_t *ret_next,
                         struct reseat_error **ret_error)
{
    const struct terms *terms = &work->job.terms;
    for (;;) {
        selector_t used = NATIVE_SELECTOR_END;
        from = terms_next(terms, from);
        int r = from == PROTOCOL_SELECTOR_END ? 0 : native_pd_next(work->pd, from, &used, ret_error);
        if (r < 0)
            return r;
        if (used == NATIVE_SELECTOR_END || terms_allow_selector(terms, used)) {
            *ret_next = used;
            return 0;
        }
        from = used;
    }
}

/* Up to `capacity` used selectors that the session has. */
static int list_selectors(struct work *work, uint32_t from, uint32_t *selectors, size_t capacity,
                          size_t *ret_count, struct reseat_error **ret_error)
{
    const struct terms *terms = &work->job.terms;
    size_t count = 0;
    while (count < capacity) {
        size_t found = 0, kept = 0, wanted = capacity - count;
        from = terms_next(terms, from);
        if (from == PROTOCOL_SELECTOR_END)
            break;
        int r = native_pd_list(work->pd, from, selectors + count, wanted, &found, ret_error);
        if (r < 0)
            return r;
        for (size_t i = 0; i < found; i++)
            if (terms_allow_selector(terms, selectors[count + i]))
                selectors[count + kept++] = selectors[count + i];
        if (found == 0)
            break;
        from = selectors[count + found - 1] + 1;
        count += kept;
        if (found < wanted)
            break;
    }
    *ret_count = count;
    return 0;
}

int operation_list(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    const struct protocol_from *request = work->request.fixed;
    struct protocol_next *next = reply_fixed(reply, PROTOCOL_LIST);
    size_t room = (sizeof reply->bytes - reply->length) / sizeof(uint32_t);
    size_t capacity = request->capacity < room ? request->capacity : room, count = 0;
    uint32_t *selectors = (uint32_t *)(reply->bytes + reply->length);
    if (capacity == 0)
        return error_set(ret_error, -EINVAL, "list: room for no selector was asked for");
    int r = list_selectors(work, request->from, selectors, capacity, &count, ret_error);
    if (r < 0)
        return r;
    reply_items(reply, PROTOCOL_LIST, count);
    next->next = PROTOCOL_SELECTOR_END;
    if (count == capacity)
        r = next_selector(work, selectors[count - 1] + 1, &next->next, ret_error);
    return r < 0 ? r : work_check_execution(&work->job.terms, work->pidfd, ret_error);
}

static void add_slot(struct reply *reply, const struct native_slot *slot)
{
    struct protocol_slot *item = reply_items(reply, PROTOCOL_REQUEST, 1);
    *item = (struct protocol_slot){.selector = slot->selector, .flags = slot->flags};
    if (packet_takes(slot->cap)) {
        reply->caps[reply->cap_count++] = slot->cap;
    } else {
        item->flags |= PROTOCOL_WITHOUT;
        close(slot->cap);
    }
}

/* One native request of slots from `from`, which the session has, on; *ret_next: where to go on. */
static int request_some(struct work *work, uint32_t from, uint32_t capacity, bool is_exact,
                        struct reply *reply, uint32_t *ret_next, struct reseat_error **ret_error)
{
    const struct terms *terms = &work->job.terms;
    struct native_slot slots[PROTOCOL_CAPABILITIES_MAX];
    size_t count = 0;
    uint32_t last = is_exact ? from : terms_last(terms, from);
    if (last - from < capacity)
        capacity = last - from + 1;
    int r = native_pd_request_many(work->pd, from, slots, capacity, &count, ret_next, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        if (slots[i].selector <= last)
            add_slot(reply, &slots[i]);
        else
            close(slots[i].cap);
    }
    /* What was closed is asked for again, if it is in another range. */
    if (count && slots[count - 1].selector > last)
        *ret_next = last + 1;
    return 0;
}

int operation_request(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    const struct protocol_from *request = work->request.fixed;
    bool is_exact = work->request.head->flags & PROTOCOL_EXACT;
    struct protocol_next *next = reply_fixed(reply, PROTOCOL_REQUEST);
    uint32_t from = request->from;
    size_t capacity = is_exact ? 1 : request->capacity;
    if (capacity > PROTOCOL_CAPABILITIES_MAX)
        capacity = PROTOCOL_CAPABILITIES_MAX;
    if (capacity == 0)
        return error_set(ret_error, -EINVAL, "request: room for no capability was asked for");
    if (is_exact && !terms_allow_selector(&work->job.terms, from))
        return error_selector(work, from, ret_error);
    int r = 0;
    do {
        from = terms_next(&work->job.terms, from);
        if (from == PROTOCOL_SELECTOR_END)
            break;
        r = request_some(work, from, (uint32_t)(capacity - reply->head.count), is_exact, reply, &from,
                         ret_error);
    } while (r == 0 && !is_exact && from != PROTOCOL_SELECTOR_END && reply->head.count < capacity);
    if (is_exact && request->from != PROTOCOL_SELECTOR_END)
        from = request->from + 1;
    if (r == 0)
        r = next_selector(work, from, &next->next, ret_error);
    return r < 0 ? r : work_check_execution(&work->job.terms, work->pidfd, ret_error);
}

/* ---- install, close ---- */

struct batch {
    struct native_slot *slots; /* their capabilities belong to it */
    size_t count;
};

static void batch_end(struct batch *batch)
{
    for (size_t i = 0; i < batch->count; i++)
        close(batch->slots[i].cap);
    free(batch->slots);
}

static int check_slot(const struct work *work, const struct protocol_slot *slot,
                      struct reseat_error **ret_error)
{
    if (!terms_allow_selector(&work->job.terms, slot->selector))
        return error_selector(work, slot->selector, ret_error);
    bool by_number = slot->flags & PROTOCOL_BY_NUMBER;
    if (!by_number && (slot->flags & ~INSTALL_FLAGS))
        return error_set(ret_error, -EINVAL, "install: selector %u has flags (%#x) that there are not",
                         slot->selector, slot->flags);
    if ((slot->flags & PROTOCOL_REPLACE) && !(work->job.terms.rights & PROTOCOL_MAY_CLOSE))
        return error_set(
            ret_error, -EPERM,
            "this session of process %d is not good for close, and so not for replacing what is at "
            "selector %u",
            work->job.terms.pid, slot->selector);
    return 0;
}

/* The capability of a slot: beside the message, or where the sender has it. */
static int take_cap(struct work *work, const struct protocol_slot *item, size_t index, int *ret_cap,
                    struct reseat_error **ret_error)
{
    if (item->flags & PROTOCOL_BY_NUMBER)
        return sender_take(work, work->packet.caps[index], item->flags >> PROTOCOL_NUMBER_SHIFT, ret_cap,
                           ret_error);
    *ret_cap = packet_take(&work->packet, index);
    return 0;
}

/* Takes the capabilities out of the packet. */
static int take_slots(struct work *work, struct batch *batch, struct reseat_error **ret_error)
{
    const struct protocol_slot *items = work->request.items;
    size_t count = work->request.head->count;
    if (batch->count + count > INSTALL_MAX)
        return error_set(ret_error, -E2BIG, "install: more than %d capabilities at once", INSTALL_MAX);
    for (size_t i = 0; i < count; i++) {
        int cap, r = check_slot(work, &items[i], ret_error);
        if (r == 0)
            r = take_cap(work, &items[i], i, &cap, ret_error);
        if (r < 0)
            return r;
        struct native_slot *slot = array_append(batch->slots, batch->count);
        if (!slot) {
            close(cap);
            return error_items(ret_error);
        }
        *slot = (struct native_slot){items[i].selector, cap, items[i].flags & INSTALL_FLAGS};
    }
    return 0;
}

int operation_install(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    _cleanup_(batch_end) struct batch batch = {0};
    (void)reply;
    int r = take_slots(work, &batch, ret_error);
    while (r == 0 && (work->request.head->flags & PROTOCOL_MORE)) {
        r = work_next_part(work, ret_error);
        if (r == 0)
            r = take_slots(work, &batch, ret_error);
    }
    if (r == 0)
        r = work_claim(work, ret_error);
    if (r < 0 || batch.count == 0)
        return r;
    r = native_pd_install(work->pd, batch.slots, batch.count, ret_error);
    return r == -EEXIST ? object_error_in_use(work->pd, batch.slots, batch.count, ret_error) : r;
}

static int take_selectors(struct work *work, selector_t **selectors, size_t *count,
                          struct reseat_error **ret_error)
{
    const uint32_t *items = work->request.items;
    if (*count + work->request.head->count > CLOSE_MAX)
        return error_set(ret_error, -E2BIG, "close: more than %d selectors at once", CLOSE_MAX);
    for (size_t i = 0; i < work->request.head->count; i++) {
        if (!terms_allow_selector(&work->job.terms, items[i]))
            return error_selector(work, items[i], ret_error);
        selector_t *selector = array_append(*selectors, *count);
        if (!selector)
            return error_items(ret_error);
        *selector = items[i];
    }
    return 0;
}

int operation_close(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    _cleanup_free_ selector_t *selectors = NULL;
    size_t count = 0;
    (void)reply;
    int r = take_selectors(work, &selectors, &count, ret_error);
    while (r == 0 && (work->request.head->flags & PROTOCOL_MORE)) {
        r = work_next_part(work, ret_error);
        if (r == 0)
            r = take_selectors(work, &selectors, &count, ret_error);
    }
    if (r == 0)
        r = work_claim(work, ret_error);
    if (r < 0 || count == 0)
        return r;
    return native_pd_close(work->pd, selectors, count, ret_error);
}

/* ---- compare ---- */

/* The other session of a comparison. */
struct other {
    struct terms terms;
    int pidfd;
    struct native_pd *pd;
};

static void other_end(struct other *other)
{
    base_close(&other->pidfd);
    native_pd_free(&other->pd);
}

/* A session is known by the cookie of its client's end, which the kernel gave to that socket and to no other.
 */
static int open_other(struct work *work, int session, struct other *other, struct reseat_error **ret_error)
{
    struct report report = {.kind = REPORT_FIND};
    struct answer answer;
    socklen_t length = sizeof report.cookie;
    int domain = 0;
    socklen_t domain_length = sizeof domain;
    if (getsockopt(session, SOL_SOCKET, SO_DOMAIN, &domain, &domain_length) < 0 || domain != AF_UNIX ||
        getsockopt(session, SOL_SOCKET, SO_COOKIE, &report.cookie, &length) < 0)
        return error_set(ret_error, -EINVAL, "compare: what came beside it is not a session");
    int r = work_ask(work, &report, -EBADF, &answer, &other->pidfd, ret_error);
    if (r == -ENOENT)
        return error_set(ret_error, -EINVAL, "compare: what came beside it is not a session of this core");
    if (r < 0)
        return error_errno(ret_error, r, "compare: finding the other session");
    other->terms = answer.terms;
    r = terms_check(&other->terms, PROTOCOL_COMPARE, ret_error);
    return r < 0 ? r : work_open_pd(&other->terms, other->pidfd, &other->pd, ret_error);
}

static int compare_pairs(struct work *work, const struct other *other, struct reply *reply,
                         struct reseat_error **ret_error)
{
    const struct protocol_pair *pairs = work->request.items;
    const struct terms *terms = other->pd ? &other->terms : &work->job.terms;
    reply_fixed(reply, PROTOCOL_COMPARE);
    for (size_t i = 0; i < work->request.head->count; i++) {
        if (!terms_allow_selector(&work->job.terms, pairs[i].a))
            return error_selector(work, pairs[i].a, ret_error);
        if (!terms_allow_selector(terms, pairs[i].b))
            return error_selector(work, pairs[i].b, ret_error);
        int32_t *order = reply_items(reply, PROTOCOL_COMPARE, 1);
        int result = 0;
        int r = native_pd_compare(work->pd, pairs[i].a, other->pd ? other->pd : work->pd, pairs[i].b, &result,
                                  ret_error);
        if (r < 0)
            return r;
        *order = result;
    }
    return 0;
}

int operation_compare(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    _cleanup_(other_end) struct other other = {.pidfd = -EBADF};
    int r = 0;
    if (work->packet.cap_count)
        r = open_other(work, work->packet.caps[0], &other, ret_error);
    if (r == 0)
        r = compare_pairs(work, &other, reply, ret_error);
    if (r == 0)
        r = work_check_execution(&work->job.terms, work->pidfd, ret_error);
    if (r == 0 && other.pd)
        r = work_check_execution(&other.terms, other.pidfd, ret_error);
    return r;
}
