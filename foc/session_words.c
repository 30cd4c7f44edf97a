/* A message of the native PD protocol in words: message registers carry eight bytes each, so what is behind
 * the last item of four bytes is padding, which the protocol itself does not know. */
#include "session.h"

static size_t expected_bytes(const struct protocol_head *head, unsigned direction)
{
    if (direction == PROTOCOL_IS_REPLY && head->result < 0)
        return sizeof *head + head->count;
    size_t item = protocol_item_bytes(head->operation, direction);
    if (head->count > SESSION_WORDS_MAX * sizeof(uint64_t))
        return 0;
    return sizeof *head + protocol_fixed_bytes(head->operation, direction) + head->count * item;
}

static unsigned words_of(size_t bytes)
{
    return (unsigned)((bytes + sizeof(uint64_t) - 1) / sizeof(uint64_t));
}

struct protocol_head *session_begin(struct session_message *message, unsigned operation, uint32_t tag)
{
    struct protocol_head *head = (struct protocol_head *)message->words;
    __builtin_memset(message, 0, sizeof *message);
    head->version = PROTOCOL_VERSION;
    head->operation = (uint16_t)operation;
    head->tag = tag;
    return head;
}

void *session_body(struct session_message *message, size_t offset)
{
    return (char *)message->words + sizeof(struct protocol_head) + offset;
}

void session_end(struct session_message *message, unsigned direction, unsigned count, unsigned caps)
{
    struct protocol_head *head = (struct protocol_head *)message->words;
    head->count = count;
    head->capabilities = caps;
    message->cap_count = caps;
    message->word_count = words_of(expected_bytes(head, direction));
}

int session_decode(const struct session_message *message, unsigned direction, struct protocol_view *ret_view,
                   const char **ret_reason)
{
    const struct protocol_head *head = (const struct protocol_head *)message->words;
    size_t length = message->word_count * sizeof(uint64_t);
    if (length >= sizeof *head) {
        size_t expected = expected_bytes(head, direction);
        if (words_of(expected) == message->word_count)
            length = expected;
    }
    return protocol_decode(message->words, length, message->cap_count, (enum protocol_direction)direction,
                           ret_view, ret_reason);
}
