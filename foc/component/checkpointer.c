/* The checkpointer: an ordinary task. It holds a PD session of the component that is to be checkpointed, and
 * nothing else that is not its own. It iterates with request and keeps the capabilities; when the component
 * has been destroyed and made anew, it installs them, each at its selector with its rights.
 *
 * What died with the component is empty then in the checkpointer's space too: it was the component's own, and
 * core has made it anew. It waits for its turns with rest(). */
#include "../session.h"
#include "lib.h"
#include "trial.h"

#define KEPT_MAX  256
#define KEPT_SLOT 0x100 /* capabilities lie from here on in our own space */

static struct protocol_slot kept[KEPT_MAX];
static unsigned kept_count;
static struct session_message message;

/* Sends the message with `caps` capabilities of ours from `first` on, and receives what comes into the slots
 * from `arriving` on. */
static int exchange(const foc_slot_t *caps, foc_slot_t arriving, struct protocol_view *ret_view)
{
    struct foc_utcb *utcb = foc_utcb();
    const char *reason;
    __builtin_memcpy(utcb->message, message.words, message.word_count * sizeof *message.words);
    foc_word_t *item = &utcb->message[message.word_count];
    for (unsigned i = 0; i < message.cap_count; i++) {
        *item++ = FOC_ITEM_MAP | FOC_ITEM_SERVER;
        *item++ = FOC_FPAGE_SLOTS(caps[i], 0, FOC_RIGHTS_RWS);
    }
    utcb->buffer_items = FOC_BUFFER_ITEMS(0, 0, 0);
    for (unsigned i = 0; i < SESSION_CAPABILITIES_MAX; i++)
        utcb->buffers[i] = FOC_CAP(arriving + i) | FOC_ITEM_MAP | FOC_BUFFER_SMALL;
    utcb->buffers[SESSION_CAPABILITIES_MAX] = 0;
    foc_word_t tag = foc_call(COMPONENT_SLOT_SESSION,
                              FOC_TAG(message.word_count, message.cap_count, 0, COMPONENT_PROTOCOL));
    if (tag & FOC_TAG_ERROR)
        return -E_IO; /* too many capabilities, or core is gone */
    if (FOC_TAG_PROTOCOL(tag) < 0)
        return (int)FOC_TAG_PROTOCOL(tag);
    message.word_count = FOC_TAG_WORDS(tag);
    message.cap_count = FOC_TAG_ITEMS(tag);
    __builtin_memcpy(message.words, utcb->message, message.word_count * sizeof *message.words);
    int r = session_decode(&message, PROTOCOL_IS_REPLY, ret_view, &reason);
    if (r < 0)
        tell("a reply that cannot be read: %s", reason);
    return r < 0 ? r : ret_view->head->result;
}

/* Asks for the capabilities from `from` on; they arrive behind those that are kept already. */
static int request(uint32_t from, uint32_t *ret_next)
{
    struct protocol_view view;
    session_begin(&message, PROTOCOL_REQUEST, from);
    *(struct protocol_from *)session_body(&message, 0) =
        (struct protocol_from){.from = from, .capacity = SESSION_CAPABILITIES_MAX};
    session_end(&message, PROTOCOL_IS_REQUEST, 0, 0);
    if (kept_count + SESSION_CAPABILITIES_MAX > KEPT_MAX)
        return -E_NOSPC;
    int r = exchange(NULL, KEPT_SLOT + kept_count, &view);
    if (r < 0)
        return r;
    __builtin_memcpy(&kept[kept_count], view.items, view.head->count * sizeof *kept);
    kept_count += view.head->count;
    *ret_next = ((const struct protocol_next *)view.fixed)->next;
    return 0;
}

static int request_all(void)
{
    uint32_t from = 0;
    int r = 0;
    while (r == 0 && from != PROTOCOL_SELECTOR_END)
        r = request(from, &from);
    return r;
}

static int install(const struct protocol_slot *slots, const foc_slot_t *caps, unsigned count)
{
    struct protocol_view view;
    session_begin(&message, PROTOCOL_INSTALL, 0);
    __builtin_memcpy(session_body(&message, 0), slots, count * sizeof *slots);
    session_end(&message, PROTOCOL_IS_REQUEST, count, count);
    return exchange(caps, KEPT_SLOT + KEPT_MAX, &view);
}

/* In groups of as many as a message holds. */
static int install_all(unsigned *ret_gone)
{
    struct protocol_slot slots[SESSION_CAPABILITIES_MAX];
    foc_slot_t caps[SESSION_CAPABILITIES_MAX];
    unsigned count = 0;
    for (unsigned i = 0; i < kept_count; i++) {
        if (!kernel_cap_is_valid(COMPONENT_SLOT_TASK, KEPT_SLOT + i)) {
            (*ret_gone)++;
        } else {
            slots[count] = kept[i];
            caps[count++] = KEPT_SLOT + i;
        }
        if (count == 0 || (count < SESSION_CAPABILITIES_MAX && i + 1 < kept_count))
            continue;
        int r = install(slots, caps, count);
        if (r < 0)
            return r;
        count = 0;
    }
    return 0;
}

/* ---- what else a session is good for ---- */

static int ask(unsigned operation, uint32_t flags, const void *body, size_t bytes, unsigned count,
               struct protocol_view *ret_view)
{
    struct protocol_head *head = session_begin(&message, operation, 1);
    head->flags = flags;
    __builtin_memcpy(session_body(&message, 0), body, bytes);
    session_end(&message, PROTOCOL_IS_REQUEST, count, 0);
    return exchange(NULL, KEPT_SLOT + KEPT_MAX, ret_view);
}

static bool list_agrees(void)
{
    struct protocol_view view;
    uint32_t from = 0, found = 0;
    bool agrees = true;
    while (from != PROTOCOL_SELECTOR_END) {
        struct protocol_from asked = {.from = from, .capacity = 10};
        if (ask(PROTOCOL_LIST, 0, &asked, sizeof asked, 0, &view) < 0)
            return false;
        for (unsigned i = 0; i < view.head->count; i++, found++)
            agrees =
                agrees && found < kept_count && ((const uint32_t *)view.items)[i] == kept[found].selector;
        from = ((const struct protocol_next *)view.fixed)->next;
    }
    return agrees && found == kept_count;
}

/* Each with those behind it, a few pairs a message. The capabilities that were kept must say the same as the
 * session: the kernel compares rights too, so only pairs with the same rights can be held against each other.
 */
static bool compare_agrees(unsigned *ret_aliases)
{
    struct protocol_view view;
    for (unsigned i = 0; i < kept_count; i++)
        for (unsigned k = i + 1; k < kept_count; k++) {
            struct protocol_pair pairs[2] = {{kept[i].selector, kept[k].selector},
                                             {kept[k].selector, kept[i].selector}};
            if (ask(PROTOCOL_COMPARE, 0, pairs, sizeof pairs, 2, &view) < 0)
                return false;
            const int32_t *orders = view.items;
            if (orders[0] != -orders[1])
                return false;
            *ret_aliases += orders[0] == 0;
            if (kept[i].flags == kept[k].flags &&
                (orders[0] == 0) != kernel_caps_are_equal(COMPONENT_SLOT_TASK, KEPT_SLOT + i, KEPT_SLOT + k))
                return false;
        }
    return true;
}

static void try_refusals(void)
{
    struct protocol_view view;
    uint32_t unused = TARGET_FREE;
    foc_slot_t cap = KEPT_SLOT;
    struct protocol_slot occupied = kept[0], beyond = {.selector = 0x10000, .flags = PROTOCOL_READ};
    report(install(&occupied, &cap, 1) == -E_EXIST, "an occupied selector is refused through the session");
    report(install(&beyond, &cap, 1) == -E_BADF,
           "a selector that does not exist is refused through the session");
    cap = KEPT_SLOT + KEPT_MAX + SESSION_CAPABILITIES_MAX; /* empty */
    struct protocol_slot fresh = {.selector = TARGET_FREE, .flags = PROTOCOL_READ};
    report(install(&fresh, &cap, 1) == -E_BADF, "an empty source is refused through the session");
    report(ask(PROTOCOL_CLOSE, 0, &unused, sizeof unused, 1, &view) == -E_BADF,
           "closing an unused selector is refused through the session");
    session_begin(&message, 0x7777, 1);
    message.word_count = 5;
    report(exchange(NULL, KEPT_SLOT + KEPT_MAX, &view) < 0, "a message that is none is refused");
}

static void try_install_and_close(void)
{
    struct protocol_view view;
    struct protocol_slot fresh = {.selector = TARGET_FREE, .flags = PROTOCOL_READ};
    struct protocol_from asked = {.from = TARGET_FREE, .capacity = 1};
    uint32_t selector = TARGET_FREE;
    foc_slot_t cap = KEPT_SLOT;
    bool is_well = install(&fresh, &cap, 1) == 0 &&
                   ask(PROTOCOL_REQUEST, PROTOCOL_EXACT, &asked, sizeof asked, 0, &view) == 0 &&
                   view.head->count == 1 &&
                   ((const struct protocol_slot *)view.items)->flags == PROTOCOL_READ;
    kernel_drop(KEPT_SLOT + KEPT_MAX);
    is_well = is_well && ask(PROTOCOL_CLOSE, 0, &selector, sizeof selector, 1, &view) == 0 &&
              ask(PROTOCOL_REQUEST, PROTOCOL_EXACT, &asked, sizeof asked, 0, &view) == 0 &&
              view.head->count == 0;
    report(is_well, "one is installed with fewer rights, requested, and closed, in the stopped target");
}

static void try_session(void)
{
    struct protocol_view view;
    unsigned aliases = 0;
    report(ask(PROTOCOL_INFO, 0, NULL, 0, 0, &view) == 0 &&
               ((const struct protocol_session *)view.fixed)->id > 0,
           "the session says what it is of");
    report(list_agrees(), "list names the selectors that request went over");
    bool agrees = compare_agrees(&aliases);
    report(agrees && aliases > 0, "compare says of each two what the kernel says (%u pairs are aliases)",
           aliases);
    try_refusals();
    try_install_and_close();
}

static void drop_all(void)
{
    for (unsigned i = 0; i < kept_count; i++)
        kernel_drop(KEPT_SLOT + i);
    kept_count = 0;
}

void component_main(unsigned thread)
{
    bool has_tried = false;
    (void)thread;
    for (;;) {
        rest(0, 0);
        int r = request_all();
        if (r == 0 && !has_tried)
            try_session();
        has_tried = true;
        rest(r < 0 ? r : (long)kept_count, 0);
        unsigned gone = 0;
        r = install_all(&gone);
        rest(r < 0 ? r : (long)(kept_count - gone), gone);
        drop_all();
    }
}
