/* The checkpointer: an ordinary task. It holds a PD session of the component that is to be checkpointed, and
 * nothing else that is not its own. It iterates with request and keeps the capabilities; when the component
 * has been destroyed and made anew, it installs them, each at its selector with its rights.
 *
 * What died with the component is empty then in the checkpointer's space too: it was the component's own, and
 * core has made it anew. It waits for its turns with rest(). */
#include "../session.h"
#include "lib.h"

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
        return -E_IO;
    if (FOC_TAG_PROTOCOL(tag) < 0)
        return (int)FOC_TAG_PROTOCOL(tag);
    message.word_count = FOC_TAG_WORDS(tag);
    message.cap_count = FOC_TAG_ITEMS(tag);
    __builtin_memcpy(message.words, utcb->message, message.word_count * sizeof *message.words);
    int r = session_decode(&message, PROTOCOL_IS_REPLY, ret_view, &reason);
    if (r < 0)
        tell("a reply that cannot be read: %s", reason);
    else if (ret_view->head->result < 0)
        tell("refused: %s", (const char *)ret_view->items);
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

static void drop_all(void)
{
    for (unsigned i = 0; i < kept_count; i++)
        kernel_drop(KEPT_SLOT + i);
    kept_count = 0;
}

void component_main(unsigned thread)
{
    (void)thread;
    for (;;) {
        rest(0, 0);
        int r = request_all();
        rest(r < 0 ? r : (long)kept_count, 0);
        unsigned gone = 0;
        r = install_all(&gone);
        rest(r < 0 ? r : (long)(kept_count - gone), gone);
        drop_all();
    }
}
