/* Talking to core and to others: messages of a few words. */
#include "lib.h"

static foc_slot_t fault_gate(void)
{
    return COMPONENT_SLOT_FAULT + ((foc_word_t)foc_utcb() - COMPONENT_UTCBS) / FOC_UTCB_BYTES;
}

static void send_text(foc_word_t request, foc_word_t first, unsigned words, const char *text, size_t length)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = request;
    utcb->message[1] = first;
    __builtin_memcpy(&utcb->message[words], text, length + 1);
    words += (unsigned)(length / sizeof(foc_word_t)) + 1;
    foc_call(fault_gate(), FOC_TAG(words, 0, 0, COMPONENT_PROTOCOL));
}

void report(bool is_well, const char *format, ...)
{
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    size_t length = text_format_list(text, sizeof text, format, arguments);
    va_end(arguments);
    send_text(COMPONENT_REPORT, is_well, 2, text, length);
}

void tell(const char *format, ...)
{
    char text[200];
    va_list arguments;
    va_start(arguments, format);
    size_t length = text_format_list(text, sizeof text, format, arguments);
    va_end(arguments);
    send_text(COMPONENT_PRINT, 0, 1, text, length);
}

int attach(foc_slot_t selector, foc_word_t address, unsigned rights, foc_word_t *ret_pages)
{
    foc_word_t words[4] = {COMPONENT_ATTACH, selector, address, rights};
    int r = call(fault_gate(), words, COUNT_OF(words));
    if (r == 0)
        *ret_pages = words[0];
    return r;
}

void rest(long value, long more)
{
    __asm__ volatile("ud2" : : "a"(value), "b"(more) : "memory");
}

int call(foc_slot_t slot, foc_word_t *words, unsigned count)
{
    struct foc_utcb *utcb = foc_utcb();
    for (unsigned i = 0; i < count; i++)
        utcb->message[i] = words[i];
    foc_word_t tag = foc_call(slot, FOC_TAG(count, 0, 0, COMPONENT_PROTOCOL));
    if (tag & FOC_TAG_ERROR)
        return foc_ipc_error() == FOC_IPC_NOT_EXISTENT ? -E_SRCH : -E_IO;
    for (unsigned i = 0; i < count && i < FOC_TAG_WORDS(tag); i++)
        words[i] = utcb->message[i];
    return FOC_TAG_PROTOCOL(tag) < 0 ? (int)FOC_TAG_PROTOCOL(tag) : 0;
}

foc_word_t answer_and_wait(const foc_word_t *reply, unsigned count, bool is_reply, foc_word_t *ret_words,
                           unsigned *ret_count)
{
    struct foc_utcb *utcb = foc_utcb();
    foc_word_t label = 0, tag;
    for (unsigned i = 0; i < count; i++)
        utcb->message[i] = reply[i];
    if (is_reply) /* a client that is gone takes no answer: the wait comes anyway */
        foc_ipc(0, FOC_SEND | FOC_REPLY, FOC_TAG(count, 0, 0, COMPONENT_PROTOCOL),
                FOC_TIMEOUTS(FOC_FOREVER, FOC_TIMEOUT(625, 5)), NULL);
    do
        tag = foc_ipc(FOC_CAP_SPECIAL, FOC_WAIT, 0, FOC_FOREVER, &label);
    while (tag & FOC_TAG_ERROR);
    *ret_count = FOC_TAG_WORDS(tag);
    for (unsigned i = 0; i < *ret_count && i < 4; i++)
        ret_words[i] = utcb->message[i];
    return label;
}
