/* Fuzzer of the decoder of messages. The first byte of the input chooses the direction, the second how many
 * capabilities came beside it; the rest is the packet. Whatever it is, decoding it must come to an end
 * without a wrong access; what is accepted is what it says, to the byte, and everything that core then reads
 * of it is inside.
 *
 * With libFuzzer:        clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER …
 * As a plain program:    fuzz_protocol FILE…          runs every file once (a corpus as a regression test)
 *                        fuzz_protocol --seed DIR     writes a good message of each kind to begin with
 *                        fuzz_protocol --random N     N changed good messages, the same ones each time */
#include "base/base.h"
#include "protocol/protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                          \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

static bool is_known_error(int r)
{
    return r == -EBADMSG || r == -EMSGSIZE || r == -EPROTONOSUPPORT || r == -EOPNOTSUPP;
}

static void require_consistent(const struct protocol_view *view, const uint8_t *message, size_t length,
                               size_t capabilities, enum protocol_direction direction)
{
    const struct protocol_head *head = view->head;
    size_t fixed = head->result < 0 ? 0 : protocol_fixed_bytes(head->operation, direction);
    size_t each = head->result < 0 ? 1 : protocol_item_bytes(head->operation, direction);
    REQUIRE((const uint8_t *)head == message);
    REQUIRE(head->version == PROTOCOL_VERSION && head->capabilities == capabilities);
    REQUIRE((view->fixed != NULL) == (fixed != 0));
    REQUIRE(view->items == message + sizeof *head + fixed);
    REQUIRE(sizeof *head + fixed + head->count * each == length);
    REQUIRE(direction == PROTOCOL_IS_REPLY || head->result == 0);
    REQUIRE(direction == PROTOCOL_IS_REPLY || head->operation < PROTOCOL_OPERATIONS_END);
}

/* As core would. */
static unsigned touch(const struct protocol_view *view, const uint8_t *end)
{
    unsigned sum = 0;
    for (const uint8_t *byte = view->fixed ? view->fixed : view->items; byte < end; byte++)
        sum += *byte;
    return sum + (unsigned)strlen(protocol_operation_name(view->head->operation)) +
           protocol_right_needed(view->head->operation);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    if (length < 2)
        return 0;
    enum protocol_direction direction = data[0] & 1 ? PROTOCOL_IS_REPLY : PROTOCOL_IS_REQUEST;
    size_t capabilities = data[1];
    length -= 2;
    /* In memory of exactly its length, so that a sanitizer sees every step beyond it; malloc(3) aligns. */
    uint8_t *message = malloc(length ? length : 1);
    REQUIRE(message);
    memcpy(message, data + 2, length);
    struct protocol_view view = {0};
    const char *reason = NULL;
    int r = protocol_decode(message, length, capabilities, direction, &view, &reason);
    if (r < 0) {
        REQUIRE(is_known_error(r) && reason && *reason && !view.head);
    } else {
        require_consistent(&view, message, length, capabilities, direction);
        static volatile unsigned sink;
        sink = touch(&view, message + length);
        (void)sink;
    }
    free(message);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

#define SEED_ITEMS     3
#define INPUT_BYTES    512
#define MUTATIONS_MOST 6

/* A good message, as an input: returns its length. */
static size_t make_seed(unsigned operation, enum protocol_direction direction, bool is_error,
                        uint8_t input[INPUT_BYTES])
{
    size_t fixed = is_error ? 0 : protocol_fixed_bytes(operation, direction);
    size_t each = is_error ? 1 : protocol_item_bytes(operation, direction);
    struct protocol_head head = {.version = PROTOCOL_VERSION,
                                 .operation = (uint16_t)operation,
                                 .tag = 7,
                                 .result = is_error ? -EPERM : 0,
                                 .count = each ? SEED_ITEMS : 0};
    memset(input, 0, INPUT_BYTES);
    input[0] = direction;
    size_t length = sizeof head + fixed + head.count * each;
    /* As many capabilities as the decoder wants: found out by asking it. */
    for (head.capabilities = 0; head.capabilities <= SEED_ITEMS + 2; head.capabilities++) {
        struct protocol_view view;
        _Alignas(8) uint8_t message[INPUT_BYTES] = {0};
        memcpy(message, &head, sizeof head);
        if (protocol_decode(message, length, head.capabilities, direction, &view, NULL) == 0)
            break;
    }
    REQUIRE(head.capabilities <= SEED_ITEMS + 2);
    input[1] = (uint8_t)head.capabilities;
    memcpy(input + 2, &head, sizeof head);
    return 2 + length;
}

/* Calls `with` for every good message. */
static void for_each_seed(void (*with)(const char *name, const uint8_t *input, size_t length, void *userdata),
                          void *userdata)
{
    uint8_t input[INPUT_BYTES];
    char name[64];
    for (unsigned operation = PROTOCOL_OPEN; operation < PROTOCOL_OPERATIONS_END; operation++) {
        for (unsigned kind = 0; kind < 3; kind++) {
            static const char *const kinds[] = {"request", "reply", "error"};
            size_t length =
                make_seed(operation, kind ? PROTOCOL_IS_REPLY : PROTOCOL_IS_REQUEST, kind == 2, input);
            snprintf(name, sizeof name, "%s-%s", protocol_operation_name(operation), kinds[kind]);
            with(name, input, length, userdata);
        }
    }
}

static void write_seed(const char *name, const uint8_t *input, size_t length, void *dir)
{
    _cleanup_close_ int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    _cleanup_close_ int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, input, length) < 0) {
        fprintf(stderr, "%s/%s: %s\n", (const char *)dir, name, strerror(errno));
        exit(1);
    }
}

struct randomly {
    uint64_t state;
    unsigned long rounds;
};

static uint32_t chance(struct randomly *randomly, uint32_t below)
{
    randomly->state = randomly->state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(randomly->state >> 33) % below;
}

static void change(struct randomly *randomly, uint8_t *input, size_t *length)
{
    static const uint32_t numbers[] = {0, 1, 2, 253, 254, 4096, 0x7fffffff, 0x80000000, 0xffffffff};
    size_t at = chance(randomly, (uint32_t)*length);
    uint32_t number = numbers[chance(randomly, COUNT_OF(numbers))];
    switch (chance(randomly, 4)) {
    case 0:
        input[at] = (uint8_t)chance(randomly, 256);
        break;
    case 1:
        input[at] ^= (uint8_t)(1U << chance(randomly, 8));
        break;
    case 2:
        at = 2 + (at & ~(size_t)3);
        if (at + sizeof number <= *length)
            memcpy(input + at, &number, sizeof number);
        break;
    default:
        *length = 1 + chance(randomly, INPUT_BYTES - 1);
    }
}

static void run_changed(const char *name, const uint8_t *seed, size_t seed_length, void *userdata)
{
    (void)name;
    struct randomly *randomly = userdata;
    LLVMFuzzerTestOneInput(seed, seed_length);
    for (unsigned long round = 0; round < randomly->rounds; round++) {
        uint8_t input[INPUT_BYTES];
        size_t length = seed_length;
        memcpy(input, seed, INPUT_BYTES);
        for (uint32_t i = chance(randomly, MUTATIONS_MOST); i > 0; i--)
            change(randomly, input, &length);
        LLVMFuzzerTestOneInput(input, length);
    }
}

static int run_file(const char *path)
{
    _cleanup_free_ char *text = NULL;
    size_t length;
    int r = file_read(AT_FDCWD, path, &text, &length);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        return 1;
    }
    LLVMFuzzerTestOneInput((const uint8_t *)text, length);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--seed") == 0) {
        for_each_seed(write_seed, argv[2]);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--random") == 0) {
        unsigned long kinds = 3 * (PROTOCOL_OPERATIONS_END - 1);
        struct randomly randomly = {.state = 1, .rounds = strtoul(argv[2], NULL, 10) / kinds};
        for_each_seed(run_changed, &randomly);
        return 0;
    }
    int status = 0;
    for (int i = 1; i < argc; i++)
        status |= run_file(argv[i]);
    return status;
}
#endif
