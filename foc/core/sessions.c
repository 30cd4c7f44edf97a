/* PD sessions over IPC: which gate is whose session, and how a message of the protocol gets out of message
 * registers and into them. What it means is decided in session.c. */
#include "../abi/ipc.h"
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "../session.h"
#include "core.h"

#define SESSIONS_MAX 4

static struct session sessions[SESSIONS_MAX];
static unsigned session_count;
static struct session_message request, answer; /* too large for the stack to be pleasant */

int session_make(struct component *target, struct component *client, selector_t selector,
                 struct reseat_error **ret_error)
{
    if (session_count == SESSIONS_MAX)
        return error_set(ret_error, -E_NOSPC, "%d PD sessions exist already", SESSIONS_MAX);
    foc_slot_t gate = slots_take(), side = slots_take();
    int r = gate && side ? kernel_create_gate(FOC_SLOT_FACTORY, gate, FOC_SLOT_THREAD,
                                              LABEL(LABEL_SESSION, client->id, session_count))
                         : -E_MFILE;
    if (r == 0)
        r = kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(gate, 0, FOC_RIGHTS_RWS), FOC_CAP(side),
                       0);
    if (r < 0)
        return error_set(ret_error, r, "making the gate of a PD session of %s", target->name);
    sessions[session_count++] =
        (struct session){.id = target->id,
                         .rights = PROTOCOL_MAY_READ | PROTOCOL_MAY_INSTALL | PROTOCOL_MAY_CLOSE};
    /* With S: through a gate without it, no capability that comes or goes keeps its own S
     * (kern/thread-ipc.cpp). */
    return component_give(client, side, selector, NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL, ret_error);
}

/* What came: words, then items of two words each; an item that brought nothing leaves its slot of the window
 * empty. */
static int take_request(foc_word_t tag, foc_slot_t window)
{
    request.word_count = FOC_TAG_WORDS(tag);
    request.cap_count = FOC_TAG_ITEMS(tag);
    if (request.word_count > SESSION_WORDS_MAX || request.cap_count > SESSION_CAPABILITIES_MAX)
        return -E_OVERFLOW;
    __builtin_memcpy(request.words, foc_utcb()->message, request.word_count * sizeof *request.words);
    for (unsigned i = 0; i < request.cap_count; i++)
        request.caps[i] = (native_cap_t)(window + i);
    return 0;
}

foc_word_t session_serve(unsigned number, foc_word_t tag, foc_slot_t window)
{
    answer.cap_count = 0;
    if (number >= session_count || take_request(tag, window) < 0)
        return FOC_TAG(0, 0, 0, -E_PROTO);
    session_answer(&sessions[number], &request, &answer);
    struct foc_utcb *utcb = foc_utcb();
    __builtin_memcpy(utcb->message, answer.words, answer.word_count * sizeof *answer.words);
    foc_word_t *item = &utcb->message[answer.word_count];
    for (unsigned i = 0; i < answer.cap_count; i++) {
        *item++ = FOC_ITEM_MAP | FOC_ITEM_SERVER;
        *item++ = FOC_FPAGE_SLOTS(answer.caps[i], 0, FOC_RIGHTS_RWS);
    }
    return FOC_TAG(answer.word_count, answer.cap_count, 0, COMPONENT_PROTOCOL);
}

void session_sent(void)
{
    for (unsigned i = 0; i < answer.cap_count; i++)
        slots_drop((foc_slot_t)answer.caps[i]);
    answer.cap_count = 0;
}
