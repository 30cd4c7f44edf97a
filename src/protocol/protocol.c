/* Decoding of messages: the only place where bytes from outside become numbers that others rely on. It is
 * driven by one table of the operations and knows nothing of what they do.
 *
 * Freestanding, like the header, so that core on Fiasco.OC checks its messages with the same code. */
#include "protocol/protocol.h"

#include <stdbool.h>

/* Numbers of Linux, also where there is no <errno.h>. */
#define ERROR_BAD_MESSAGE       (-74) /* EBADMSG */
#define ERROR_TOO_LONG          (-90) /* EMSGSIZE */
#define ERROR_UNKNOWN_VERSION   (-93) /* EPROTONOSUPPORT */
#define ERROR_UNKNOWN_OPERATION (-95) /* EOPNOTSUPP */

/* How many capabilities go with a message: `base` at least, `per_item` more for each item; and those that may
 * be there or not: up to `more`, and up to `more_per_item` for each item. */
struct part {
    uint16_t fixed_bytes, item_bytes;
    uint8_t base, per_item, more, more_per_item;
};

struct operation {
    const char *name;
    uint32_t right;
    uint32_t flags; /* that its request may have */
    struct part request, reply;
};

#define BYTES(type) sizeof(struct protocol_##type)

static const struct operation operations[PROTOCOL_OPERATIONS_END] = {
    [PROTOCOL_OPEN] = {"open",
                       0,
                       0,
                       {.fixed_bytes = BYTES(open), .more = 2},
                       {.fixed_bytes = BYTES(session), .item_bytes = BYTES(range), .base = 1}},
    [PROTOCOL_INFO] = {"info", 0, 0, {0}, {.fixed_bytes = BYTES(session), .item_bytes = BYTES(range)}},
    [PROTOCOL_NARROW] = {"narrow",
                         0,
                         0,
                         {.fixed_bytes = BYTES(narrow), .item_bytes = BYTES(range)},
                         {.fixed_bytes = BYTES(session), .item_bytes = BYTES(range), .base = 1}},
    [PROTOCOL_LIST] = {"list",
                       PROTOCOL_MAY_LIST,
                       0,
                       {.fixed_bytes = BYTES(from)},
                       {.fixed_bytes = BYTES(next), .item_bytes = sizeof(uint32_t)}},
    [PROTOCOL_REQUEST] = {"request",
                          PROTOCOL_MAY_REQUEST,
                          PROTOCOL_EXACT,
                          {.fixed_bytes = BYTES(from)},
                          {.fixed_bytes = BYTES(next), .item_bytes = BYTES(slot), .more_per_item = 1}},
    [PROTOCOL_INSTALL] =
        {"install", PROTOCOL_MAY_INSTALL, PROTOCOL_MORE, {.item_bytes = BYTES(slot), .per_item = 1}, {0}},
    [PROTOCOL_CLOSE] = {"close", PROTOCOL_MAY_CLOSE, PROTOCOL_MORE, {.item_bytes = sizeof(uint32_t)}, {0}},
    [PROTOCOL_COMPARE] = {"compare",
                          PROTOCOL_MAY_LIST,
                          0,
                          {.item_bytes = BYTES(pair), .more = 1},
                          {.item_bytes = sizeof(int32_t)}},
    [PROTOCOL_CHECKPOINT] = {"checkpoint",
                             PROTOCOL_MAY_CHECKPOINT,
                             0,
                             {.fixed_bytes = BYTES(checkpoint), .more = 1},
                             {.fixed_bytes = BYTES(checkpointed), .item_bytes = 1, .more = 1}},
    [PROTOCOL_RESTORE] = {"restore",
                          PROTOCOL_MAY_RESTORE,
                          0,
                          {.fixed_bytes = BYTES(restore), .item_bytes = BYTES(choice), .more_per_item = 1},
                          {.fixed_bytes = BYTES(restored), .item_bytes = 1, .base = 2, .more = 1}},
    [PROTOCOL_DROP] = {"drop", PROTOCOL_MAY_RESTORE, 0, {0}, {0}},
    [PROTOCOL_FETCH] = {"fetch", PROTOCOL_MAY_REQUEST, 0, {.fixed_bytes = BYTES(fetch), .base = 1}, {0}},
};

static const struct part error_part = {.item_bytes = 1};

static const struct operation *find_operation(unsigned number)
{
    return number < PROTOCOL_OPERATIONS_END && operations[number].name ? &operations[number] : NULL;
}

static const struct part *part_of(const struct operation *operation, enum protocol_direction direction)
{
    return direction == PROTOCOL_IS_REQUEST ? &operation->request : &operation->reply;
}

size_t protocol_fixed_bytes(unsigned number, enum protocol_direction direction)
{
    const struct operation *operation = find_operation(number);
    return operation ? part_of(operation, direction)->fixed_bytes : 0;
}

size_t protocol_item_bytes(unsigned number, enum protocol_direction direction)
{
    const struct operation *operation = find_operation(number);
    return operation ? part_of(operation, direction)->item_bytes : 0;
}

const char *protocol_operation_name(unsigned number)
{
    const struct operation *operation = find_operation(number);
    return operation ? operation->name : "?";
}

uint32_t protocol_right_needed(unsigned number)
{
    const struct operation *operation = find_operation(number);
    return operation ? operation->right : 0;
}

static int refuse(int code, const char *reason, const char **ret_reason)
{
    if (ret_reason)
        *ret_reason = reason;
    return code;
}

/* Nothing is multiplied before it is known to be small. */
static int check_parts(const struct protocol_head *head, size_t length, size_t capabilities,
                       const struct part *part, const char **ret_reason)
{
    size_t rest = length - sizeof *head;
    if (rest < part->fixed_bytes)
        return refuse(ERROR_BAD_MESSAGE, "it is shorter than its operation needs", ret_reason);
    rest -= part->fixed_bytes;
    if (head->count > rest || head->count * (size_t)part->item_bytes != rest)
        return refuse(ERROR_BAD_MESSAGE, "its length is not that of the items which it says it has",
                      ret_reason);
    if (head->capabilities != capabilities)
        return refuse(ERROR_BAD_MESSAGE, "other capabilities came with it than it says", ret_reason);
    size_t needed = part->base + head->count * (size_t)part->per_item;
    size_t possible = needed + part->more + head->count * (size_t)part->more_per_item;
    if (capabilities < needed || capabilities > possible)
        return refuse(ERROR_BAD_MESSAGE, "more or fewer capabilities came with it than its operation takes",
                      ret_reason);
    return 0;
}

int protocol_decode(const void *message, size_t length, size_t capabilities,
                    enum protocol_direction direction, struct protocol_view *ret_view,
                    const char **ret_reason)
{
    const struct protocol_head *head = message;
    if (length > PROTOCOL_MESSAGE_BYTES)
        return refuse(ERROR_TOO_LONG, "it is longer than a message may be", ret_reason);
    if (length < sizeof *head)
        return refuse(ERROR_BAD_MESSAGE, "it is shorter than a head", ret_reason);
    if (head->version != PROTOCOL_VERSION)
        return refuse(ERROR_UNKNOWN_VERSION, "it is of another version of the protocol", ret_reason);
    bool is_error = direction == PROTOCOL_IS_REPLY && head->result < 0;
    if (head->result != 0 && !is_error)
        return refuse(ERROR_BAD_MESSAGE, "its result is not one that it can have", ret_reason);
    /* What is refused may be an operation that nobody knows. */
    const struct operation *operation = find_operation(head->operation);
    if (!operation && !is_error)
        return refuse(ERROR_UNKNOWN_OPERATION, "there is no such operation", ret_reason);
    uint32_t flags = direction == PROTOCOL_IS_REQUEST ? operation->flags : 0;
    if (head->flags & ~flags)
        return refuse(ERROR_BAD_MESSAGE, "it has flags that its operation has not", ret_reason);
    const struct part *part = is_error ? &error_part : part_of(operation, direction);
    int r = check_parts(head, length, capabilities, part, ret_reason);
    if (r < 0)
        return r;
    const char *behind = (const char *)message + sizeof *head;
    ret_view->head = head;
    ret_view->fixed = part->fixed_bytes ? behind : NULL;
    ret_view->items = behind + part->fixed_bytes;
    return 0;
}
