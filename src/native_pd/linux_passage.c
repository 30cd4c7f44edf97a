/* The steps of a delivery (linux_stopped.c says what they are for): programs that the target's leader runs.
 *
 * Three rules make it safe to die between any two of them. Behind each report stands a jump to where
 * everything so far is undone. What the leader stands on is not written to: programs go to two areas in turn.
 * And the undoing closes only numbers that are ours at that very moment, for when we die the other threads
 * run on at once, and a number that we have closed may be theirs a moment later. So its calls have no number
 * (-1) until the kernel or an earlier call has written it there, and what is closed on the way is taken back
 * from them by the same program (disarm()).
 *
 * Numbers are handed on inside by process_vm_readv(2) of oneself, which copies what the kernel has written in
 * one place (the array of int in a control message) to many others (arguments of calls). */
#include "native_pd/linux_delivery.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

/* Of the pair, of the way back with 16 KiB of extended state, and of rests of pages, for three attempts. */
#define BASE_BYTES      (3 * (24 * 1024 + NATIVE_PD_HANDLER_BYTES))
#define AREA_BASE_BYTES 4096

/* What undoes a reservation or plug; and twice the largest program: a round, or a call for each number. */
size_t native_pd_scratch_bytes(size_t count)
{
    size_t calls = (count + native_pd_most_plugs(count)) * sizeof(struct program_call);
    size_t round = delivery_round_bytes(count), area = round > calls ? round : calls;
    return BASE_BYTES + calls + 2 * (area + AREA_BASE_BYTES + 2 * NATIVE_PD_HANDLER_BYTES);
}

/* ---- pieces of programs ---- */

/* The number is that of no call: it always fails, which makes it a jump. */
void delivery_add_jump(struct program *program, uint64_t address)
{
    size_t jump = program_call(program, NULL, -1, 0);
    program->calls[jump].failure = address;
}

/* What is closed here is not to be closed by the call that has this argument any more: its failure is no
 * number either. */
static void disarm(struct program *program, uint64_t argument_address)
{
    size_t call = program_call(program, NULL, -1, 0);
    program_set_result_address(program, call, argument_address);
}

static uint64_t next_address(const struct program *program)
{
    return program->address + program->count * sizeof(struct program_call);
}

void delivery_add_report(const struct delivery *delivery, struct program *program)
{
    const struct target *target = delivery->target;
    program_report(program, target->report_signal, target->ns_pid, target->threads[0].ns_tid);
}

static int compare_numbers(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

int numbers_add(struct numbers *numbers, int number)
{
    int *place = array_append(numbers->items, numbers->count);
    if (!place)
        return -ENOMEM;
    *place = number;
    return 0;
}

size_t numbers_count_runs(struct numbers *numbers)
{
    size_t runs = numbers->count > 0;
    bool is_ascending = true;
    for (size_t i = 1; i < numbers->count && is_ascending; i++)
        is_ascending = numbers->items[i - 1] < numbers->items[i];
    if (!is_ascending)
        qsort(numbers->items, numbers->count, sizeof *numbers->items, compare_numbers);
    for (size_t i = 1; i < numbers->count; i++)
        runs += numbers->items[i] != numbers->items[i - 1] + 1;
    return runs;
}

void delivery_add_closing(struct program *program, const struct numbers *numbers)
{
    for (size_t start = 0, end; start < numbers->count; start = end) {
        for (end = start + 1; end < numbers->count && numbers->items[end] == numbers->items[end - 1] + 1;)
            end++;
        program_call(program, NULL, SYS_close_range, (uint64_t)numbers->items[start],
                     (uint64_t)numbers->items[end - 1], 0);
    }
}

int copying_begin(struct copying *copying, struct scratch *scratch, size_t count)
{
    copying->count = 0;
    copying->pieces_address = scratch_take(scratch, count * sizeof *copying->pieces, 8, &copying->pieces);
    return copying->pieces_address ? 0 : -ENOSPC;
}

void copying_add(struct copying *copying, uint64_t address)
{
    copying->pieces[copying->count++] = (struct iovec){(void *)address, sizeof(int)};
}

/* `times`: so many times the whole array, one behind the other. */
void delivery_add_copying(struct program *program, const struct delivery *delivery, const char *what,
                          const struct copying *copying, uint64_t source, size_t times)
{
    struct iovec sources[2];
    for (size_t i = 0; i < times; i++)
        sources[i] = (struct iovec){(void *)source, copying->count / times * sizeof(int)};
    uint64_t address = scratch_copy(program->scratch, sources, times * sizeof *sources);
    program->is_full |= !address;
    program_call(program, what, SYS_process_vm_readv, (uint64_t)delivery->target->ns_pid,
                 copying->pieces_address, copying->count, address, times);
}

/* Writes the part, runs a program up to its report, and fetches the part. */
int delivery_run(struct delivery *delivery, const struct program *program, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    if (delivery->areas[2] && target->scratch.used > delivery->areas[delivery->area + 1])
        return error_set(ret_error, -ENOSPC, "%zu capabilities do not fit on the scratch pages",
                         delivery->count);
    int r = target_flush_scratch(target, ret_error);
    if (r == 0)
        r = program_start(target, &target->threads[0], program, ret_error);
    if (r == 0)
        r = program_await(target, &target->threads[0], program, ret_error);
    size_t unread = delivery->unread_bytes;
    delivery->unread_bytes = 0;
    target->scratch.first += unread;
    if (r == 0)
        r = target_fetch_scratch(target, ret_error);
    target->scratch.first -= unread;
    return r;
}

/* Fetches a program that stays. */
static int fetch(struct delivery *delivery, struct program *program, struct reseat_error **ret_error)
{
    int r = target_read(delivery->target, program->address, program->calls,
                        program->count * sizeof *program->calls);
    return r < 0 ? error_errno(ret_error, r, "reading results from process %d", delivery->target->pid) : 0;
}

static size_t handler_bytes(const struct target *target)
{
    bool dies_with_us = target->more_options & PTRACE_O_EXITKILL;
    return target->report_is_caught && !dies_with_us ? NATIVE_PD_HANDLER_BYTES : 0;
}

void native_pd_take_handler_room(struct target *target)
{
    size_t room = handler_bytes(target);
    if (room)
        scratch_take(&target->scratch, room, 16, NULL);
}

void native_pd_begin_part(struct target *target)
{
    native_pd_take_handler_room(target);
    scratch_begin_part(&target->scratch);
}

int native_pd_add_way_back(struct program *program, struct target_thread *thread,
                           struct reseat_error **ret_error)
{
    _cleanup_free_ uint8_t *xstate = malloc(TARGET_XSTATE_BYTES_MAX);
    size_t length;
    int r = xstate ? target_get_xstate(thread->tid, xstate, &length) : -ENOMEM;
    if (r < 0)
        return error_errno(ret_error, r, "reading the state of thread %d", thread->tid);
    program_return(program, thread->regs, thread->signal_mask, xstate, length);
    return 0;
}

/* ---- the pair ---- */

static int build_pair(struct delivery *delivery, uint64_t *ret_ends, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    struct program *program = &delivery->pair;
    struct copying copying;
    int r = program_begin(program, &target->scratch, 12, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    uint64_t ends = scratch_take(&target->scratch, 2 * sizeof(int), 8, NULL);
    r = ends ? copying_begin(&copying, &target->scratch, 2) : -ENOSPC;
    if (r < 0)
        return error_errno(ret_error, r, "making room in process %d", target->pid);
    *ret_ends = ends;
    program_call(program, "making a pair of sockets", SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
                 0, ends);
    /* The two closes stand behind the report, at a distance that is known. */
    size_t copy = program->count;
    for (size_t i = 0; i < 2; i++)
        copying_add(&copying, program_argument_address(program, copy + 2 + i, 0));
    delivery_add_copying(program, delivery, "copying numbers", &copying, ends, 1);
    delivery_add_report(delivery, program);
    uint64_t stop_sp = program->stop_sp;
    delivery->unmake_address = next_address(program);
    for (size_t i = 0; i < 2; i++)
        program_call(program, NULL, SYS_close, NO_NUMBER);
    delivery->back_address = next_address(program);
    delivery_add_report(delivery, program);
    delivery->undone_sp = program->stop_sp;
    program->stop_sp = stop_sp;
    return native_pd_add_way_back(program, &target->threads[0], ret_error);
}

int delivery_make_pair(struct delivery *delivery, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    uint64_t ends = 0;
    native_pd_begin_part(target);
    int r = build_pair(delivery, &ends, ret_error);
    if (r == 0)
        r = delivery_run(delivery, &delivery->pair, ret_error);
    delivery->pair_end = target->scratch.used;
    if (r < 0)
        return r;
    delivery->undo_address = delivery->unmake_address;
    r = program_check(&delivery->pair, target->pid, ret_error);
    if (r < 0)
        return r;
    memcpy(delivery->ends, scratch_mirror(&target->scratch, ends), sizeof delivery->ends);
    delivery->socket = delivery->ends[0];
    scratch_begin_part(&target->scratch);
    delivery->ours = sys_pidfd_getfd(target->pidfd, delivery->ends[1]);
    if (delivery->ours < 0)
        return error_errno(ret_error, delivery->ours, "taking a socket of process %d", target->pid);
    return 0;
}

/* Where `pair` has the number that it closes. */
static uint64_t unmake_argument(const struct delivery *delivery, size_t end)
{
    return delivery->unmake_address + end * sizeof(struct program_call) +
           offsetof(struct program_call, arguments);
}

/* ---- programs that stay ---- */

/* The places in `undo`: of each reservation, of each plug, and of a socket that was moved. */
static size_t reserved_count(const struct delivery *delivery)
{
    return delivery->must_land ? 0 : delivery->free_count;
}

static size_t undo_of_plug(const struct delivery *delivery, size_t plug)
{
    return reserved_count(delivery) + plug;
}

static size_t undo_of_socket(const struct delivery *delivery)
{
    return reserved_count(delivery) + delivery->plugs.count;
}

static uint64_t undo_argument(const struct delivery *delivery, size_t place)
{
    return program_argument_address(&delivery->undo, place, 0);
}

static size_t find_free(const struct delivery *delivery, int number)
{
    for (size_t i = 0; i < delivery->free_count; i++)
        if ((int)delivery->parcels[i].slot->selector == number)
            return i;
    return SIZE_MAX;
}

int delivery_prepare(struct delivery *delivery, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    struct program *program = &delivery->undo;
    size_t places = undo_of_socket(delivery) + 1;
    int r = program_begin(program, &target->scratch, places + 1, 0, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < places; i++)
        program_call(program, NULL, SYS_close, NO_NUMBER);
    /* An end that stands at a wanted selector is its reservation, and will be undone as that. */
    for (size_t end = 0; end < 2 && !delivery->must_land; end++) {
        size_t parcel = find_free(delivery, delivery->ends[end]);
        if (parcel != SIZE_MAX)
            program->calls[parcel].arguments[0] = (uint64_t)delivery->ends[end];
    }
    delivery_add_jump(program, delivery->unmake_address);
    delivery->tidy_address = program->address + reserved_count(delivery) * sizeof(struct program_call);
    if (program->is_full)
        r = error_set(ret_error, -ENOSPC, "%zu capabilities do not fit on the scratch pages",
                      delivery->count);
    if (r == 0)
        r = target_flush_scratch(target, ret_error);
    struct scratch *scratch = &target->scratch;
    size_t start = (scratch->used + 63) & ~(size_t)63, half = (scratch->mirror_length - start) / 2;
    delivery->areas[0] = start;
    delivery->areas[1] = start + (half & ~(size_t)63);
    delivery->areas[2] = scratch->mirror_length;
    return r;
}

void delivery_begin_area(struct delivery *delivery)
{
    struct scratch *scratch = &delivery->target->scratch;
    delivery->area ^= 1;
    scratch->used = delivery->areas[delivery->area];
    native_pd_begin_part(delivery->target);
}

size_t delivery_room(const struct delivery *delivery)
{
    return delivery->areas[delivery->area + 1] - delivery->target->scratch.used;
}

/* ---- before anything is received ---- */

static bool is_end(const struct delivery *delivery, int number)
{
    return number == delivery->ends[0] || number == delivery->ends[1];
}

static void add_taking(const struct delivery *delivery, struct program *program, int least, size_t undo)
{
    size_t call =
        program_call(program, NULL, SYS_fcntl, (uint64_t)delivery->ends[0], F_DUPFD_CLOEXEC, (uint64_t)least);
    program_set_result_address(program, call, undo_argument(delivery, undo));
}

/* The end that is not received at goes as soon as we have it, unless it is of use where it stands. */
static void add_leaving(const struct delivery *delivery, struct program *program, size_t end)
{
    program_call(program, NULL, SYS_close, (uint64_t)delivery->ends[end]);
    disarm(program, unmake_argument(delivery, end));
}

/* Runs what was built; the numbers that it took stand in `undo` then. */
static int take_numbers(struct delivery *delivery, struct program *program, bool moves_socket,
                        struct reseat_error **ret_error)
{
    delivery_add_report(delivery, program);
    delivery_add_jump(program, delivery->undo.address);
    int r = delivery_run(delivery, program, ret_error);
    if (r < 0)
        return r;
    delivery->undo_address = delivery->undo.address;
    r = fetch(delivery, &delivery->undo, ret_error);
    if (r < 0)
        return r;
    int64_t socket = moves_socket ? (int64_t)delivery->undo.calls[undo_of_socket(delivery)].arguments[0]
                                  : delivery->ends[0];
    if (socket < 0)
        return error_set(ret_error, -EMFILE, "process %d has no free selector to receive a capability at",
                         delivery->target->pid);
    delivery->socket = (int)socket;
    return numbers_add(&delivery->passing, delivery->socket) < 0
               ? error_errno(ret_error, -ENOMEM, "making room for numbers")
               : 0;
}

int native_pd_error_occupied(const struct target *target, selector_t selector,
                             struct reseat_error **ret_error)
{
    char path[32];
    _cleanup_free_ char *link = NULL;
    snprintf(path, sizeof path, "fd/%u", selector);
    int r = link_read(target->proc_fd, path, &link);
    if (r == 0)
        return error_set(ret_error, -EEXIST,
                         "selector %u of process %d is in use, by %s; close it first, or ask for it to be "
                         "replaced",
                         selector, target->pid, link);
    return error_set(
        ret_error, -EBUSY,
        "selector %u of process %d is being filled by a call under way (it has its number, but no "
        "object yet); try again when that is over",
        selector, target->pid);
}

static int error_reserving(const struct delivery *delivery, selector_t selector, int64_t result,
                           struct reseat_error **ret_error)
{
    pid_t pid = delivery->target->pid;
    if (result == -EINVAL)
        return error_set(ret_error, -EBADF,
                         "process %d may not have a selector %u: that is beyond its limit (RLIMIT_NOFILE)",
                         pid, selector);
    /* EMFILE: everything from there up to the limit is taken, so that itself is, too. */
    if (result >= 0 || result == -EMFILE)
        return native_pd_error_occupied(delivery->target, selector, ret_error);
    return error_errno(ret_error, (int)result, "making room for selector %u in process %d", selector, pid);
}

int delivery_reserve(struct delivery *delivery, struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    bool moves_socket = find_free(delivery, delivery->ends[0]) != SIZE_MAX;
    delivery_begin_area(delivery);
    int r = program_begin(&program, &delivery->target->scratch, delivery->free_count + 12, 0, ret_error);
    if (r < 0)
        return r;
    for (size_t end = 0; end < 2; end++)
        if (find_free(delivery, delivery->ends[end]) != SIZE_MAX)
            disarm(&program, unmake_argument(delivery, end));
    if (find_free(delivery, delivery->ends[1]) == SIZE_MAX)
        add_leaving(delivery, &program, 1);
    for (size_t i = 0; i < delivery->free_count; i++) {
        int selector = (int)delivery->parcels[i].slot->selector;
        if (!is_end(delivery, selector))
            add_taking(delivery, &program, selector, i);
    }
    /* When all wanted ones are taken the lowest free number is none of them. */
    if (moves_socket)
        add_taking(delivery, &program, 0, undo_of_socket(delivery));
    r = take_numbers(delivery, &program, moves_socket, ret_error);
    for (size_t i = 0; i < delivery->free_count && (r == 0 || r == -EMFILE); i++) {
        selector_t selector = delivery->parcels[i].slot->selector;
        int64_t number = (int64_t)delivery->undo.calls[i].arguments[0];
        if (number != selector)
            r = error_reserving(delivery, selector, number, ret_error);
    }
    return r;
}

int delivery_plug(struct delivery *delivery, struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    bool moves_socket = find_free(delivery, delivery->ends[0]) != SIZE_MAX;
    int highest = (int)delivery->parcels[delivery->free_count - 1].slot->selector, r;
    delivery_begin_area(delivery);
    r = program_begin(&program, &delivery->target->scratch, delivery->plugs.count + 12, 0, ret_error);
    if (r < 0)
        return r;
    if (moves_socket)
        add_taking(delivery, &program, highest + 1, undo_of_socket(delivery));
    for (size_t i = 0; i < delivery->plugs.count; i++)
        if (!is_end(delivery, delivery->plugs.items[i]))
            add_taking(delivery, &program, delivery->plugs.items[i], undo_of_plug(delivery, i));
    /* Ends stay where they are if they are plugs themselves. */
    for (size_t end = 2; end-- > 0;)
        if (find_free(delivery, delivery->ends[end]) != SIZE_MAX || delivery->ends[end] > highest)
            if (end == 1 || moves_socket)
                add_leaving(delivery, &program, end);
    r = take_numbers(delivery, &program, moves_socket, ret_error);
    if (r == 0 && find_free(delivery, delivery->ends[1]) == SIZE_MAX && delivery->ends[1] <= highest)
        r = numbers_add(&delivery->passing, delivery->ends[1]);
    for (size_t i = 0; r == 0 && i < delivery->plugs.count; i++) {
        int64_t number = (int64_t)delivery->undo.calls[undo_of_plug(delivery, i)].arguments[0];
        if (number >= 0)
            r = numbers_add(&delivery->passing, (int)number);
    }
    return r;
}
