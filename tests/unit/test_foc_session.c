/* PD sessions of core on Fiasco.OC, on the host: its messages go through the decoder and back, and behind
 * them is a capability space that is an array. */
#include "session.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ID    7
#define LIMIT 1000

/* ---- a native PD of numbers ---- */

struct native_pd {
    native_pd_id_t id;
};
static struct native_pd the_pd = {ID};
static struct {
    native_cap_t cap; /* 0: unused */
    unsigned flags;
} space[LIMIT];
static bool is_gone;

int native_pd_open(native_pd_id_t id, struct native_pd **ret_pd, struct reseat_error **ret_error)
{
    if (is_gone || id != ID)
        return error_set(ret_error, -E_SRCH, "there is no PD with number %d", id);
    *ret_pd = &the_pd;
    return 0;
}

void native_pd_free(struct native_pd **pd)
{
    *pd = NULL;
}

int native_pd_next(struct native_pd *pd, selector_t from, selector_t *ret_selector,
                   struct reseat_error **ret_error)
{
    (void)pd, (void)ret_error;
    while (from < LIMIT && !space[from].cap)
        from++;
    *ret_selector = from < LIMIT ? from : NATIVE_SELECTOR_END;
    return 0;
}

int native_pd_list(struct native_pd *pd, selector_t from, selector_t *selectors, size_t capacity,
                   size_t *ret_count, struct reseat_error **ret_error)
{
    size_t count = 0;
    for (; count < capacity; from = selectors[count++] + 1) {
        native_pd_next(pd, from, &selectors[count], ret_error);
        if (selectors[count] == NATIVE_SELECTOR_END)
            break;
    }
    *ret_count = count;
    return 0;
}

int native_pd_request_many(struct native_pd *pd, selector_t from, struct native_slot *slots, size_t capacity,
                           size_t *ret_count, selector_t *ret_next, struct reseat_error **ret_error)
{
    selector_t selectors[SESSION_CAPABILITIES_MAX];
    assert_true(capacity <= SESSION_CAPABILITIES_MAX);
    native_pd_list(pd, from, selectors, capacity, ret_count, ret_error);
    for (size_t i = 0; i < *ret_count; i++) {
        slots[i] = (struct native_slot){selectors[i], space[selectors[i]].cap, space[selectors[i]].flags};
        from = selectors[i] + 1;
    }
    return native_pd_next(pd, from, ret_next, ret_error);
}

int native_pd_install(struct native_pd *pd, const struct native_slot *slots, size_t count,
                      struct reseat_error **ret_error)
{
    for (size_t i = 0; i < count; i++) {
        if (slots[i].selector >= LIMIT)
            return error_set(ret_error, -E_BADF, "PD %d has no selector %u", pd->id, slots[i].selector);
        if (space[slots[i].selector].cap && !(slots[i].flags & NATIVE_REPLACE))
            return error_set(ret_error, -E_EXIST, "selector %u of PD %d is in use", slots[i].selector,
                             pd->id);
    }
    for (size_t i = 0; i < count; i++) {
        space[slots[i].selector].cap = slots[i].cap;
        space[slots[i].selector].flags = slots[i].flags & ~(unsigned)NATIVE_REPLACE;
    }
    return 0;
}

int native_pd_close(struct native_pd *pd, const selector_t *selectors, size_t count,
                    struct reseat_error **ret_error)
{
    for (size_t i = 0; i < count; i++)
        if (selectors[i] >= LIMIT || !space[selectors[i]].cap)
            return error_set(ret_error, -E_BADF, "selector %u of PD %d is unused", selectors[i], pd->id);
    for (size_t i = 0; i < count; i++)
        space[selectors[i]].cap = 0;
    return 0;
}

int native_pd_compare(struct native_pd *a, selector_t selector_a, struct native_pd *b, selector_t selector_b,
                      int *ret_order, struct reseat_error **ret_error)
{
    (void)b;
    if (selector_a >= LIMIT || selector_b >= LIMIT || !space[selector_a].cap || !space[selector_b].cap)
        return error_set(ret_error, -E_BADF, "a selector of PD %d is unused", a->id);
    *ret_order =
        (space[selector_a].cap > space[selector_b].cap) - (space[selector_a].cap < space[selector_b].cap);
    return 0;
}

/* ---- talking ---- */

static const struct session full = {.id = ID, .rights = PROTOCOL_MAY_ALL};
static struct session_message request, reply;
static struct protocol_view view;

/* Sends `request`; the reply must be one that the protocol allows. Returns its result. */
static int exchange(const struct session *session)
{
    const char *reason = NULL;
    session_answer(session, &request, &reply);
    int r = session_decode(&reply, PROTOCOL_IS_REPLY, &view, &reason);
    if (r < 0)
        print_message("%s\n", reason);
    assert_int_equal(r, 0);
    assert_int_equal(view.head->tag, ((struct protocol_head *)request.words)->tag);
    return view.head->result;
}

static int ask_from(unsigned operation, uint32_t from, uint32_t capacity, uint32_t flags)
{
    struct protocol_head *head = session_begin(&request, operation, 77);
    head->flags = flags;
    *(struct protocol_from *)session_body(&request, 0) = (struct protocol_from){from, capacity};
    session_end(&request, PROTOCOL_IS_REQUEST, 0, 0);
    return exchange(&full);
}

static int ask_install(const struct protocol_slot *slots, unsigned count)
{
    session_begin(&request, PROTOCOL_INSTALL, 78);
    memcpy(session_body(&request, 0), slots, count * sizeof *slots);
    session_end(&request, PROTOCOL_IS_REQUEST, count, count);
    for (unsigned i = 0; i < count; i++)
        request.caps[i] = 100 + (int)i;
    return exchange(&full);
}

static int set_up(void **state)
{
    (void)state;
    memset(space, 0, sizeof space);
    is_gone = false;
    for (unsigned i = 0; i < 40; i++) {
        space[i * 3].cap = 50 + (int)i;
        space[i * 3].flags = NATIVE_READ | (i % 2 ? NATIVE_WRITE : 0u);
    }
    space[1].cap = space[0].cap; /* an alias */
    return 0;
}

/* ---- tests ---- */

static void test_info(void **state)
{
    (void)state;
    session_begin(&request, PROTOCOL_INFO, 1);
    session_end(&request, PROTOCOL_IS_REQUEST, 0, 0);
    assert_int_equal(exchange(&full), 0);
    assert_int_equal(((const struct protocol_session *)view.fixed)->id, ID);
    assert_int_equal(((const struct protocol_session *)view.fixed)->rights, PROTOCOL_MAY_ALL);
}

static void test_list(void **state)
{
    (void)state;
    assert_int_equal(ask_from(PROTOCOL_LIST, 0, 3, 0), 0);
    const uint32_t *selectors = view.items;
    assert_int_equal(view.head->count, 3); /* an odd count: half a word is padding */
    assert_int_equal(selectors[2], 3);
    assert_int_equal(((const struct protocol_next *)view.fixed)->next, 6);
    assert_int_equal(ask_from(PROTOCOL_LIST, 0, UINT32_MAX, 0), 0);
    assert_int_equal(view.head->count, 41);
    assert_int_equal(((const struct protocol_next *)view.fixed)->next, PROTOCOL_SELECTOR_END);
}

static void test_list_is_long(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 300; i++)
        space[i].cap = 1;
    uint32_t from = 0, found = 0;
    while (from != PROTOCOL_SELECTOR_END) {
        assert_int_equal(ask_from(PROTOCOL_LIST, from, 200, 0), 0);
        for (unsigned i = 0; i < view.head->count; i++)
            assert_int_equal(((const uint32_t *)view.items)[i], found++);
        from = ((const struct protocol_next *)view.fixed)->next;
    }
    assert_int_equal(found, 300);
}

/* The iterator: everything once, with rights and capabilities. */
static void test_request(void **state)
{
    (void)state;
    uint32_t from = 0, found = 0;
    while (from != PROTOCOL_SELECTOR_END) {
        assert_int_equal(ask_from(PROTOCOL_REQUEST, from, 100, 0), 0);
        const struct protocol_slot *slots = view.items;
        assert_int_equal(reply.cap_count, view.head->count);
        assert_true(reply.word_count + 2 * reply.cap_count <= SESSION_WORDS_MAX);
        for (unsigned i = 0; i < view.head->count; i++, found++) {
            assert_int_equal(reply.caps[i], space[slots[i].selector].cap);
            assert_int_equal(slots[i].flags, space[slots[i].selector].flags);
        }
        from = ((const struct protocol_next *)view.fixed)->next;
    }
    assert_int_equal(found, 41);
}

static void test_request_exact(void **state)
{
    (void)state;
    assert_int_equal(ask_from(PROTOCOL_REQUEST, 2, 1, PROTOCOL_EXACT), 0);
    assert_int_equal(view.head->count, 0);
    assert_int_equal(((const struct protocol_next *)view.fixed)->next, 3);
    assert_int_equal(ask_from(PROTOCOL_REQUEST, 3, 5, PROTOCOL_EXACT), 0);
    assert_int_equal(view.head->count, 1);
    assert_int_equal(((const struct protocol_next *)view.fixed)->next, 6);
    assert_int_equal(reply.caps[0], space[3].cap);
}

static void test_install(void **state)
{
    (void)state;
    struct protocol_slot slots[] = {{500, PROTOCOL_READ}, {501, PROTOCOL_READ | PROTOCOL_WRITE}};
    assert_int_equal(ask_install(slots, 2), 0);
    assert_int_equal(space[500].cap, 100);
    assert_int_equal(space[501].cap, 101);
    assert_int_equal(space[501].flags, NATIVE_READ | NATIVE_WRITE);
    assert_int_equal(ask_install(slots, 2), -E_EXIST);
    assert_memory_equal(view.items, "selector 500 of PD 7 is in use", 30);
    slots[0].flags |= PROTOCOL_REPLACE;
    slots[1].flags |= PROTOCOL_REPLACE;
    assert_int_equal(ask_install(slots, 2), 0);
}

static void test_close_and_compare(void **state)
{
    (void)state;
    session_begin(&request, PROTOCOL_COMPARE, 3);
    const struct protocol_pair pairs[] = {{0, 1}, {0, 3}, {3, 0}};
    memcpy(session_body(&request, 0), pairs, sizeof pairs);
    session_end(&request, PROTOCOL_IS_REQUEST, 3, 0);
    assert_int_equal(exchange(&full), 0);
    const int32_t *orders = view.items;
    assert_int_equal(orders[0], 0);
    assert_int_equal(orders[1], -1);
    assert_int_equal(orders[2], 1);

    session_begin(&request, PROTOCOL_CLOSE, 4);
    const uint32_t selectors[] = {0, 1, 3};
    memcpy(session_body(&request, 0), selectors, sizeof selectors);
    session_end(&request, PROTOCOL_IS_REQUEST, 3, 0);
    assert_int_equal(exchange(&full), 0);
    assert_int_equal(space[0].cap, 0);
    assert_int_equal(exchange(&full), -E_BADF);
}

static void test_refusals(void **state)
{
    (void)state;
    struct session reader = {.id = ID, .rights = PROTOCOL_MAY_READ},
                   other = {.id = 8, .rights = PROTOCOL_MAY_ALL};
    struct protocol_slot slot = {500, PROTOCOL_READ};
    ask_install(&slot, 1);
    assert_int_equal(exchange(&reader), -E_PERM);
    assert_int_equal(exchange(&other), -E_SRCH);
    ((struct protocol_head *)request.words)->flags = PROTOCOL_MORE;
    assert_int_equal(exchange(&full), -95);
    is_gone = true;
    assert_int_equal(ask_from(PROTOCOL_LIST, 0, 1, 0), -E_SRCH);
}

/* What cannot be a message gets a refusal that is one, and changes nothing. */
static void test_hostile(void **state)
{
    (void)state;
    srand(3);
    for (unsigned round = 0; round < 200000; round++) {
        struct protocol_slot slot = {900, PROTOCOL_READ};
        session_begin(&request, 1 + (unsigned)rand() % (PROTOCOL_OPERATIONS_END + 2), 5);
        memcpy(session_body(&request, 0), &slot, sizeof slot);
        session_end(&request, PROTOCOL_IS_REQUEST, 1, (unsigned)rand() % 3);
        for (unsigned i = 0; i < 3; i++)
            ((unsigned char *)request.words)[(unsigned)rand() % 64] = (unsigned char)rand();
        request.word_count = (unsigned)rand() % (SESSION_WORDS_MAX + 1);
        request.cap_count = (unsigned)rand() % (SESSION_CAPABILITIES_MAX + 1);
        session_answer(&full, &request, &reply);
        const char *reason;
        assert_int_equal(session_decode(&reply, PROTOCOL_IS_REPLY, &view, &reason), 0);
        assert_true(reply.word_count + 2 * reply.cap_count <= SESSION_WORDS_MAX);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_info, set_up),
        cmocka_unit_test_setup(test_list, set_up),
        cmocka_unit_test_setup(test_list_is_long, set_up),
        cmocka_unit_test_setup(test_request, set_up),
        cmocka_unit_test_setup(test_request_exact, set_up),
        cmocka_unit_test_setup(test_install, set_up),
        cmocka_unit_test_setup(test_close_and_compare, set_up),
        cmocka_unit_test_setup(test_refusals, set_up),
        cmocka_unit_test_setup(test_hostile, set_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
