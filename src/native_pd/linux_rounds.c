/* The second half of a delivery (linux_stopped.c says what it is for): capabilities are sent and received in
 * rounds of some messages, what is to be replaced is replaced, and what was used in passing goes. The rules
 * are those of linux_passage.c. */
#include "native_pd/linux_delivery.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define MESSAGE_CAPS_MAX   253 /* SCM_MAX_FD */
#define ROUND_MESSAGES_MAX 8
#define ROUND_CAPS_MAX     (ROUND_MESSAGES_MAX * MESSAGE_CAPS_MAX)

/* What one capability takes on the scratch pages: moving it, leaving the number it came in at, its share of
 * the message; and a round without them. */
#define CAP_BYTES        (2 * sizeof(struct program_call) + 2 * sizeof(struct iovec) + sizeof(int))
#define ROUND_BASE_BYTES 8192

/* Room for as many descriptors as a message can have. */
union control {
    char bytes[CMSG_SPACE(MESSAGE_CAPS_MAX * sizeof(int))];
    struct cmsghdr header;
};

/* A round of capabilities that all go the same way. */
struct round {
    struct delivery *delivery;
    size_t first, count; /* parcels */
    bool moves;          /* they are reserved; the others stay where they came in, for now or for good */
    struct program program;
    struct program leaving;           /* behind its report: closes what came in */
    int *numbers[ROUND_MESSAGES_MAX]; /* in the mirror: where each message came in */
    size_t message_count;
};

size_t delivery_round_bytes(size_t count)
{
    return ROUND_BASE_BYTES + (count < ROUND_CAPS_MAX ? count : ROUND_CAPS_MAX) * CAP_BYTES;
}

/* How many fit into a round on the pages that are left. */
static size_t round_size(const struct delivery *delivery, size_t count)
{
    size_t room = delivery_room(delivery);
    size_t fits = room > ROUND_BASE_BYTES ? (room - ROUND_BASE_BYTES) / CAP_BYTES : 0;
    size_t most = fits < ROUND_CAPS_MAX ? fits : ROUND_CAPS_MAX;
    return count < most ? count : most;
}

static bool wants_close_on_exec(const struct delivery *delivery, size_t index)
{
    return delivery->parcels[index].slot->flags & NATIVE_CLOSE_ON_EXEC;
}

/* ---- sending ---- */

static int send_message(int socket, const struct parcel *parcels, size_t count)
{
    char byte = 0;
    struct iovec vector = {&byte, 1};
    union control control = {0};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)),
                                      .cmsg_level = SOL_SOCKET,
                                      .cmsg_type = SCM_RIGHTS};
    for (size_t i = 0; i < count; i++)
        memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &parcels[i].slot->cap, sizeof(int));
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

static int error_sending(struct delivery *delivery, const struct parcel *parcels, size_t count, int r,
                         struct reseat_error **ret_error)
{
    delivery->is_refused = r == -EINVAL || r == -ETOOMANYREFS;
    if (count > 1)
        return error_errno(ret_error, r, "sending %zu capabilities to process %d", count,
                           delivery->target->pid);
    return error_errno(ret_error, r, "sending the capability for selector %u to process %d",
                       parcels->slot->selector, delivery->target->pid);
}

/* ---- building ---- */

static size_t message_size(const struct round *round, size_t most)
{
    size_t left = most - round->count;
    return left < MESSAGE_CAPS_MAX ? left : MESSAGE_CAPS_MAX;
}

/* The message is received; its numbers go to the calls that close them, and to those that move them. */
static int add_message(struct round *round, size_t first, size_t count, struct reseat_error **ret_error)
{
    struct delivery *delivery = round->delivery;
    struct program *program = &round->program;
    struct scratch *scratch = program->scratch;
    struct iovec vector = {(void *)scratch_take(scratch, 8, 8, NULL), 1};
    union control *control;
    size_t control_bytes = CMSG_SPACE(count * sizeof(int));
    uint64_t control_address = scratch_take(scratch, control_bytes, 8, &control);
    struct msghdr message = {.msg_iov = (void *)scratch_copy(scratch, &vector, sizeof vector),
                             .msg_iovlen = 1,
                             .msg_control = (void *)control_address,
                             .msg_controllen = control_bytes};
    uint64_t message_address = scratch_copy(scratch, &message, sizeof message);
    struct copying copying;
    if (!message_address || copying_begin(&copying, scratch, (round->moves ? 2 : 1) * count) < 0)
        return error_set(ret_error, -ENOSPC, "%zu capabilities do not fit on the scratch pages", count);
    memset(control, 0xff, control_bytes); /* what is not received must not be taken for a number */
    round->numbers[round->message_count++] = (int *)CMSG_DATA(&control->header);
    bool close_on_exec = round->moves || wants_close_on_exec(delivery, first);
    program_call(program, NULL, SYS_recvmsg, (uint64_t)delivery->socket, message_address,
                 MSG_DONTWAIT | (close_on_exec ? MSG_CMSG_CLOEXEC : 0));
    for (size_t i = 0; i < count; i++) {
        size_t leave = program_call(&round->leaving, NULL, SYS_close, NO_NUMBER);
        copying_add(&copying, program_argument_address(&round->leaving, leave, 0));
        delivery->parcels[first + i].came_close_on_exec = close_on_exec;
    }
    for (size_t i = 0; round->moves && i < count; i++)
        copying_add(&copying, program_argument_address(program, program->count + 1 + i, 0));
    delivery_add_copying(program, delivery, NULL, &copying, control_address + CMSG_LEN(0),
                         round->moves ? 2 : 1);
    for (size_t i = first; round->moves && i < first + count; i++) {
        struct parcel *parcel = &delivery->parcels[i];
        size_t move = program_call(program, NULL, SYS_dup3, NO_NUMBER, parcel->slot->selector,
                                   wants_close_on_exec(delivery, i) ? O_CLOEXEC : 0);
        parcel->result = &program->calls[move].result_address;
    }
    return 0;
}

static int begin_round(struct round *round, size_t most, struct reseat_error **ret_error)
{
    struct delivery *delivery = round->delivery;
    struct scratch *scratch = &delivery->target->scratch;
    size_t messages = most / MESSAGE_CAPS_MAX + 1;
    size_t start = scratch->used;
    int r =
        program_begin(&round->leaving, scratch, most + numbers_count_runs(&delivery->held) + 1, 0, ret_error);
    native_pd_take_handler_room(delivery->target);
    delivery->unread_bytes = scratch->used - start; /* nothing in it is a result */
    if (r == 0)
        r = program_begin(&round->program, scratch,
                          numbers_count_runs(&delivery->pending) + 2 * messages + (round->moves ? most : 0) +
                              5,
                          0, ret_error);
    if (r == 0)
        delivery_add_closing(&round->program, &delivery->pending);
    return r;
}

/* Sends as much as fits and may be under way at once, and builds the program that receives it. */
static int build_round(struct round *round, size_t most, struct reseat_error **ret_error)
{
    struct delivery *delivery = round->delivery;
    int r = begin_round(round, most, ret_error);
    while (r == 0 && round->count < most) {
        size_t size = message_size(round, most), first = round->first + round->count;
        int sent = send_message(delivery->ours, delivery->parcels + first, size);
        if (sent < 0 && round->count) /* too much is under way: the rest in the next round */
            break;
        if (sent < 0)
            return error_sending(delivery, delivery->parcels + first, size, sent, ret_error);
        r = add_message(round, first, size, ret_error);
        round->count += size;
    }
    if (r < 0)
        return r;
    delivery_add_report(delivery, &round->program);
    delivery_add_jump(&round->program, round->leaving.address);
    delivery_add_closing(&round->leaving, &delivery->held);
    delivery_add_jump(&round->leaving, delivery->undo.address);
    if (round->program.is_full || round->leaving.is_full)
        return error_set(ret_error, -ENOSPC, "%zu capabilities do not fit on the scratch pages",
                         round->count);
    return 0;
}

/* ---- checking ---- */

/* The number that a parcel came in at must be its selector, or none that is wanted. */
static int check_number(const struct round *round, struct parcel *parcel, int number,
                        struct reseat_error **ret_error)
{
    const struct delivery *delivery = round->delivery;
    pid_t pid = delivery->target->pid;
    selector_t selector = parcel->slot->selector;
    bool is_free = round->first < delivery->free_count;
    if (number < 0)
        return error_set(ret_error, -EMFILE,
                         "process %d has too few free selectors to receive capabilities at", pid);
    if (is_free && !round->moves ? number != (int)selector : !is_free && delivery_wants(delivery, number))
        return error_set(ret_error, -EAGAIN, "selector %d of process %d was not expected to be free", number,
                         pid);
    int64_t result = round->moves ? (int64_t)*parcel->result : selector;
    if (result == -EBUSY)
        return native_pd_error_occupied(delivery->target, selector, ret_error);
    if (result != selector)
        return error_errno(ret_error, result < 0 ? (int)result : -EUCLEAN,
                           "putting a capability at selector %u of process %d", selector, pid);
    return 0;
}

static int check_round(struct round *round, struct reseat_error **ret_error)
{
    struct delivery *delivery = round->delivery;
    struct numbers *numbers = round->moves ? &delivery->pending : &delivery->held;
    int r = 0;
    for (size_t i = 0; r == 0 && i < round->count; i++) {
        struct parcel *parcel = &delivery->parcels[round->first + i];
        parcel->number = round->numbers[i / MESSAGE_CAPS_MAX][i % MESSAGE_CAPS_MAX];
        r = check_number(round, parcel, parcel->number, ret_error);
        if (r == 0 && numbers_add(numbers, parcel->number) < 0)
            r = error_errno(ret_error, -ENOMEM, "making room for numbers");
    }
    return r;
}

int delivery_fill(struct delivery *delivery, size_t first, size_t count, size_t *ret_count,
                  struct reseat_error **ret_error)
{
    struct round round = {.delivery = delivery,
                          .first = first,
                          .moves = first < delivery->free_count && !delivery->must_land};
    delivery_begin_area(delivery);
    int r = build_round(&round, round_size(delivery, count), ret_error);
    if (r == 0)
        r = delivery_run(delivery, &round.program, ret_error);
    if (r == 0) {
        delivery->undo_address = round.leaving.address; /* until the next one stands there */
        delivery->pending.count = 0;
        r = check_round(&round, ret_error);
    }
    *ret_count = round.count;
    program_end(&round.program);
    program_end(&round.leaving);
    return r;
}

/* ---- the end ---- */

/* Where those that replace something came in. */
static int received_numbers(const struct delivery *delivery, struct numbers *numbers)
{
    int r = 0;
    for (size_t i = delivery->free_count; r == 0 && i < delivery->count; i++)
        r = numbers_add(numbers, delivery->parcels[i].number);
    return r;
}

/* From here on what is left behind is tidied, if we die, and not undone. */
static int build_replace(struct delivery *delivery, struct program *program, const struct numbers *received,
                         size_t runs, struct reseat_error **ret_error)
{
    int r = program_begin(program, &delivery->target->scratch,
                          delivery->count - delivery->free_count + runs + 6, 0, ret_error);
    for (size_t i = delivery->free_count; r == 0 && i < delivery->count; i++)
        program_call(program, NULL, SYS_dup3, (uint64_t)delivery->parcels[i].number,
                     delivery->parcels[i].slot->selector, wants_close_on_exec(delivery, i) ? O_CLOEXEC : 0);
    if (r < 0)
        return r;
    delivery_add_report(delivery, program);
    delivery->replaced_address = program->address + program->count * sizeof(struct program_call);
    delivery_add_closing(program, received);
    delivery_add_jump(program, delivery->tidy_address);
    return 0;
}

/* Nothing can fail here: what is replaced is there, and what replaces it as well. If something does all the
 * same, because somebody who shares the table has meddled, what has been replaced stays so. */
int delivery_replace(struct delivery *delivery, struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    struct numbers received = {0};
    delivery_begin_area(delivery);
    int r = received_numbers(delivery, &received);
    if (r < 0)
        r = error_errno(ret_error, r, "making room for numbers");
    else
        r = build_replace(delivery, &program, &received, numbers_count_runs(&received), ret_error);
    free(received.items);
    if (r == 0)
        r = delivery_run(delivery, &program, ret_error);
    if (r == 0)
        delivery->undo_address = delivery->replaced_address;
    for (size_t i = delivery->free_count; r == 0 && i < delivery->count; i++) {
        selector_t selector = delivery->parcels[i].slot->selector;
        int64_t result = program_result(&program, i - delivery->free_count);
        if (result != selector)
            r = error_errno(ret_error, result < 0 ? (int)result : -EUCLEAN,
                            "replacing selector %u of process %d", selector, delivery->target->pid);
    }
    return r;
}

/* Whether it came in at its selector with another flag than it is to have; that is changed only when it is
 * sure that it is there. */
static bool needs_flag(const struct delivery *delivery, size_t index)
{
    return delivery->must_land && index < delivery->free_count &&
           wants_close_on_exec(delivery, index) != delivery->parcels[index].came_close_on_exec;
}

static void add_flags(struct program *program, const struct delivery *delivery)
{
    for (size_t i = 0; i < delivery->free_count; i++)
        if (needs_flag(delivery, i))
            program_call(program, NULL, SYS_fcntl, delivery->parcels[i].slot->selector, F_SETFD,
                         wants_close_on_exec(delivery, i) ? FD_CLOEXEC : 0);
}

int delivery_tidy(struct delivery *delivery, struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    size_t flags = 0;
    int r = received_numbers(delivery, &delivery->passing);
    for (size_t i = 0; r == 0 && i < delivery->pending.count; i++)
        r = numbers_add(&delivery->passing, delivery->pending.items[i]);
    if (r < 0)
        return error_errno(ret_error, r, "making room for numbers");
    for (size_t i = 0; i < delivery->free_count; i++)
        flags += needs_flag(delivery, i);
    delivery_begin_area(delivery);
    r = program_begin(&program, &delivery->target->scratch,
                      numbers_count_runs(&delivery->passing) + flags + 6, 0, ret_error);
    if (r < 0)
        return r;
    add_flags(&program, delivery);
    delivery_add_closing(&program, &delivery->passing);
    delivery_add_report(delivery, &program);
    delivery_add_jump(&program, delivery->back_address);
    return delivery_run(delivery, &program, ret_error);
}

void delivery_undo(struct delivery *delivery)
{
    struct target *target = delivery->target;
    struct program undoing = {.address = delivery->undo_address, .stop_sp = delivery->undone_sp};
    if (delivery->undo_address && program_start(target, &target->threads[0], &undoing, NULL) == 0)
        program_await(target, &target->threads[0], &undoing, NULL);
}
