/* install into a stopped process, by programs that run inside it.
 *
 * A capability gets into a table as a message does: the target makes a pair of sockets, we take one end
 * (pidfd_getfd(2)) and send through it (SCM_RIGHTS, unix(7)), and the target receives. The kernel chooses the
 * number that it receives at, the lowest free one, so everything goes on from there to its selector. In order
 * that numbers used in passing are never selectors that are wanted, and that nothing can fail any more when
 * the first change is made, all wanted selectors are *reserved* first: fcntl(F_DUPFD) of the socket with the
 * selector as the least number gives just that number if it is free, and another if not, and replaces
 * nothing.
 *
 *   1. make the pair                        undone by: closing it
 *   2. reserve the selectors that are free  undone by: closing them
 *   3. in rounds: receive, dup3(2) each over its reservation, close the numbers in passing
 *   4. in the last of them: the selectors to be replaced, and the socket is closed: this commits
 *
 * If we die between two steps the leader, which stands at a report, runs on into the undoing: so all or
 * nothing is installed, whenever we are killed, as long as what is replaced fits into one round.
 * Numbers are handed on inside by process_vm_readv(2) of oneself, which copies what the kernel has written
 * there (an array of int) into the arguments of later calls: nobody has to be there to do it.
 *
 * The process's own threads stand still, so none of its calls can see any of this. A process that shares the
 * table without being a thread of it (clone(2) CLONE_FILES alone) runs on: it can see that numbers are in use
 * for a moment, but what it opens itself is never touched: nothing is closed here but what was received here.
 */
#include "native_pd/linux-internal.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#define MESSAGE_CAPS_MAX 253 /* SCM_MAX_FD */
#define ROUND_CAPS_MAX   (4 * MESSAGE_CAPS_MAX)

/* What one capability takes on the scratch pages: reserving, and undoing that; moving, with its share of a
 * message. */
#define RESERVE_BYTES    (2 * sizeof(struct program_call))
#define MOVE_BYTES       (2 * sizeof(struct program_call) + 2 * sizeof(struct iovec) + 8)
#define ROUND_BASE_BYTES 2048
#define BASE_BYTES       (24 * 1024) /* the pair, the way back with 16 KiB of extended state */

/* Room for as many descriptors as a message can have. */
union control {
    char bytes[CMSG_SPACE(MESSAGE_CAPS_MAX * sizeof(int))];
    struct cmsghdr header;
};

struct delivery {
    struct target *target;
    struct parcel *parcels; /* those at free selectors first */
    size_t count, free_count;

    struct program pair, reserve;
    uint64_t unmake_address; /* in `pair`: where it is closed, and the way back */
    uint64_t back_address;   /* in `pair`: the way back */
    uint64_t undone_sp;      /* at the report behind the undoing */
    uint64_t undo_address;   /* of what has been reached: where to go on if we die */
    int ends[2];             /* as the target numbers them: it receives at the first, we send at the second */
    int socket;              /* where it receives in the end */
    int ours;                /* the second, as ours */
    bool is_refused;         /* there is something that cannot be sent */
};

size_t native_pd_scratch_bytes(size_t count)
{
    size_t round = count < ROUND_CAPS_MAX ? count : ROUND_CAPS_MAX;
    return BASE_BYTES + count * RESERVE_BYTES + 2 * ROUND_BASE_BYTES + round * MOVE_BYTES + 4096;
}

/* ---- pieces of programs ---- */

/* The number is that of no call: it always fails, which makes it a jump. */
static void add_jump(struct program *program, uint64_t address)
{
    size_t jump = program_call(program, NULL, -1, 0);
    program->calls[jump].failure = address;
}

static uint64_t next_address(const struct program *program)
{
    return program->address + program->count * sizeof(struct program_call);
}

/* Copies `count` ints that stand at `source` when the program comes here, each to `copies` words. */
struct copying {
    struct iovec *pieces;
    uint64_t pieces_address;
    size_t count;
};

static int begin_copying(struct copying *copying, struct scratch *scratch, size_t count)
{
    copying->count = 0;
    copying->pieces_address = scratch_take(scratch, count * sizeof *copying->pieces, 8, &copying->pieces);
    return copying->pieces_address ? 0 : -ENOSPC;
}

static void add_piece(struct copying *copying, uint64_t address)
{
    copying->pieces[copying->count++] = (struct iovec){(void *)address, sizeof(int)};
}

static void add_copying(struct program *program, const struct delivery *delivery, const char *what,
                        const struct copying *copying, uint64_t source, size_t times)
{
    struct iovec sources[2];
    for (size_t i = 0; i < times; i++)
        sources[i] = (struct iovec){(void *)source, copying->count / times * sizeof(int)};
    uint64_t address = scratch_copy(program->scratch, sources, times * sizeof *sources);
    if (!address)
        program->is_full = true;
    program_call(program, what, SYS_process_vm_readv, (uint64_t)delivery->target->ns_pid,
                 copying->pieces_address, copying->count, address, times);
}

/* ---- 1. the pair ---- */

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

static int build_pair(struct delivery *delivery, uint64_t *ret_ends, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    struct target_thread *leader = &target->threads[0];
    struct program *program = &delivery->pair;
    struct copying copying;
    int r = program_begin(program, &target->scratch, 12, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    uint64_t ends = scratch_take(&target->scratch, 2 * sizeof(int), 8, NULL);
    r = ends ? begin_copying(&copying, &target->scratch, 2) : -ENOSPC;
    if (r < 0)
        return error_errno(ret_error, r, "making room in process %d", target->pid);
    *ret_ends = ends;
    program_call(program, "making a pair of sockets", SYS_socketpair, AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC,
                 0, ends);
    size_t copy = program->count;
    program_call(program, NULL, -1, 0); /* its place */
    program_report(program, target->report_signal, target->ns_pid, leader->ns_tid);
    uint64_t stop_sp = program->stop_sp;
    delivery->unmake_address = next_address(program);
    for (size_t i = 0; i < 2; i++)
        add_piece(&copying,
                  program_argument_address(program, program_call(program, NULL, SYS_close, -1U), 0));
    size_t end = program->count;
    program->count = copy;
    add_copying(program, delivery, "copying numbers", &copying, ends, 1);
    program->calls[copy].failure = program->calls[0].failure;
    program->count = end;
    delivery->back_address = next_address(program);
    program_report(program, target->report_signal, target->ns_pid, leader->ns_tid);
    delivery->undone_sp = program->stop_sp;
    program->stop_sp = stop_sp;
    return native_pd_add_way_back(program, leader, ret_error);
}

static int make_pair(struct delivery *delivery, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    uint64_t ends = 0;
    int r = build_pair(delivery, &ends, ret_error);
    if (r == 0)
        r = target_flush_scratch(target, ret_error);
    if (r == 0)
        r = program_start(target, &target->threads[0], &delivery->pair, ret_error);
    if (r == 0)
        r = program_await(target, &target->threads[0], &delivery->pair, ret_error);
    delivery->undo_address = delivery->unmake_address;
    if (r == 0)
        r = target_fetch_scratch(target, ret_error);
    if (r == 0)
        r = program_check(&delivery->pair, target->pid, ret_error);
    if (r < 0)
        return r;
    memcpy(delivery->ends, scratch_mirror(&target->scratch, ends), sizeof delivery->ends);
    delivery->socket = delivery->ends[0];
    scratch_begin_part(&target->scratch);
    delivery->ours = sys_pidfd_getfd(target->pidfd, delivery->ends[1]);
    return delivery->ours < 0
               ? error_errno(ret_error, delivery->ours, "taking a socket of process %d", target->pid)
               : 0;
}

/* ---- 2. reserving ---- */

static bool is_end(const struct delivery *delivery, selector_t selector)
{
    return (int)selector == delivery->ends[0] || (int)selector == delivery->ends[1];
}

static bool is_wanted(const struct delivery *delivery, int number)
{
    for (size_t i = 0; i < delivery->free_count; i++)
        if ((int)delivery->parcels[i].slot->selector == number)
            return true;
    return false;
}

/* Each call's result goes into the argument of the close that undoes it. */
static int build_reserve(struct delivery *delivery, size_t *ret_socket_call, uint64_t *ret_undo_address,
                         struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    struct program *program = &delivery->reserve;
    size_t capacity = delivery->free_count + delivery->count + 12;
    int r = program_begin(program, &target->scratch, capacity, 0, ret_error);
    if (r < 0)
        return r;
    bool must_move = is_wanted(delivery, delivery->ends[0]);
    /* An end that stands at a wanted selector is its reservation. */
    if (!is_wanted(delivery, delivery->ends[1]))
        program_call(program, NULL, SYS_close, (uint64_t)delivery->ends[1]);
    size_t first = program->count;
    for (size_t i = 0; i < delivery->free_count; i++) {
        selector_t selector = delivery->parcels[i].slot->selector;
        if (!is_end(delivery, selector))
            program_call(program, NULL, SYS_fcntl, (uint64_t)delivery->ends[0], F_DUPFD_CLOEXEC, selector);
    }
    /* When all wanted ones are taken the lowest free number is none of them. */
    if (must_move)
        program_call(program, NULL, SYS_fcntl, (uint64_t)delivery->ends[0], F_DUPFD_CLOEXEC, 0);
    size_t end = program->count;
    for (size_t i = delivery->free_count; i < delivery->count; i++) {
        size_t get = program_call(program, NULL, SYS_fcntl, delivery->parcels[i].slot->selector, F_GETFD);
        delivery->parcels[i].result = &program->calls[get].result_address;
    }
    program_report(program, target->report_signal, target->ns_pid, target->threads[0].ns_tid);
    uint64_t undo_address = next_address(program);
    size_t place = 0;
    for (size_t call = first; call < end; call++) {
        size_t undo = program_call(program, NULL, SYS_close, -1U);
        program_set_result_address(program, call, program_argument_address(program, undo, 0));
        while (place < delivery->free_count && is_end(delivery, delivery->parcels[place].slot->selector))
            place++;
        if (place < delivery->free_count)
            delivery->parcels[place++].reserved = &program->calls[undo].arguments[0];
        else
            *ret_socket_call = undo;
    }
    add_jump(program, delivery->unmake_address);
    *ret_undo_address = undo_address;
    return 0;
}

/* What stands at a selector that could not be had. */
int native_pd_error_occupied(const struct target *target, selector_t selector,
                             struct reseat_error **ret_error)
{
    char path[32];
    _cleanup_free_ char *link = NULL;
    snprintf(path, sizeof path, "fd/%u", selector);
    int r = link_read(target->proc_fd, path, &link);
    if (r == 0)
        return error_set(
            ret_error, -EEXIST,
            "selector %u of process %d is in use, by %s; close it first, or ask for it to be replaced",
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
    if (result >= 0)
        return native_pd_error_occupied(delivery->target, selector, ret_error);
    if (result == -EINVAL)
        return error_set(ret_error, -EBADF,
                         "process %d may not have a selector %u: that is beyond its limit (RLIMIT_NOFILE)",
                         pid, selector);
    if (result == -EMFILE) /* everything from there up to the limit is taken, so that itself is, too */
        return native_pd_error_occupied(delivery->target, selector, ret_error);
    return error_errno(ret_error, (int)result, "making room for selector %u in process %d", selector, pid);
}

static int check_reserved(const struct delivery *delivery, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < delivery->free_count; i++) {
        const struct parcel *parcel = &delivery->parcels[i];
        int64_t got = parcel->reserved ? (int64_t)*parcel->reserved : parcel->slot->selector;
        if (got != parcel->slot->selector)
            return error_reserving(delivery, parcel->slot->selector, got, ret_error);
    }
    return 0;
}

static int run_next(struct delivery *delivery, const struct program *program, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    int r = target_flush_scratch(target, ret_error);
    if (r < 0)
        return r;
    r = program_start(target, &target->threads[0], program, ret_error);
    if (r == 0)
        r = program_await(target, &target->threads[0], program, ret_error);
    return r < 0 ? r : target_fetch_scratch(target, ret_error);
}

static int reserve(struct delivery *delivery, struct reseat_error **ret_error)
{
    size_t socket_call = SIZE_MAX;
    uint64_t undo_address;
    int r = build_reserve(delivery, &socket_call, &undo_address, ret_error);
    if (r == 0)
        r = run_next(delivery, &delivery->reserve, ret_error);
    if (r == 0)
        delivery->undo_address = undo_address;
    if (r == 0)
        r = check_reserved(delivery, ret_error);
    if (r < 0)
        return r;
    for (size_t i = delivery->free_count; i < delivery->count; i++)
        delivery->parcels[i].had_close_on_exec = *delivery->parcels[i].result & FD_CLOEXEC;
    if (socket_call != SIZE_MAX)
        delivery->socket = (int)delivery->reserve.calls[socket_call].arguments[0];
    scratch_begin_part(&delivery->target->scratch);
    if (delivery->socket < 0)
        return error_set(ret_error, -EMFILE, "process %d has no free selector to receive a capability at",
                         delivery->target->pid);
    return 0;
}

/* ---- 3. rounds ---- */

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

/* Receiving one message, and everything that is done with it. */
static int add_message(struct delivery *delivery, struct program *program, struct parcel *parcels,
                       size_t count, struct reseat_error **ret_error)
{
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
    if (!message_address || begin_copying(&copying, scratch, 2 * count) < 0)
        return error_set(ret_error, -ENOSPC, "%zu capabilities do not fit on the scratch pages", count);
    memset(control, 0xff, control_bytes); /* what is not received must not be taken for a number */
    program_call(program, NULL, SYS_recvmsg, (uint64_t)delivery->socket, message_address,
                 MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    size_t copy = program->count;
    program_call(program, NULL, -1, 0);
    for (size_t i = 0; i < count; i++) {
        const struct native_slot *slot = parcels[i].slot;
        size_t move = program_call(program, NULL, SYS_dup3, -1U, slot->selector,
                                   slot->flags & NATIVE_CLOSE_ON_EXEC ? O_CLOEXEC : 0);
        parcels[i].result = &program->calls[move].result_address;
        add_piece(&copying, program_argument_address(program, move, 0));
    }
    for (size_t i = 0; i < count; i++)
        add_piece(&copying,
                  program_argument_address(program, program_call(program, NULL, SYS_close, -1U), 0));
    size_t end = program->count;
    program->count = copy;
    add_copying(program, delivery, NULL, &copying, control_address + CMSG_LEN(0), 2);
    program->count = end;
    return 0;
}

/* How many fit into a round on the pages that are left. */
static size_t round_size(const struct delivery *delivery, size_t count)
{
    const struct scratch *scratch = &delivery->target->scratch;
    size_t room = scratch->mirror_length - scratch->used;
    size_t fits = room > 2 * ROUND_BASE_BYTES ? (room - 2 * ROUND_BASE_BYTES) / MOVE_BYTES : 0;
    size_t most = fits < ROUND_CAPS_MAX ? fits : ROUND_CAPS_MAX;
    return count < most ? count : most;
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

static int check_round(const struct delivery *delivery, struct parcel *parcels, size_t count,
                       struct reseat_error **ret_error)
{
    for (size_t i = 0; i < count; i++)
        parcels[i].is_put = (int64_t)*parcels[i].result == parcels[i].slot->selector;
    for (size_t i = 0; i < count; i++) {
        selector_t selector = parcels[i].slot->selector;
        int64_t result = (int64_t)*parcels[i].result;
        if (parcels[i].is_put)
            continue;
        if (result == -EBADF)
            return error_set(ret_error, -EMFILE,
                             "process %d has no free selector left to receive a capability at",
                             delivery->target->pid);
        if (result == -EBUSY)
            return native_pd_error_occupied(delivery->target, selector, ret_error);
        return error_errno(ret_error, result < 0 ? (int)result : -EUCLEAN,
                           "putting a capability at selector %u of process %d", selector,
                           delivery->target->pid);
    }
    return 0;
}

/* As many as fit and can be sent at once: *ret_count. */
static int run_round(struct delivery *delivery, struct parcel *parcels, size_t count, bool may_be_last,
                     size_t *ret_count, struct reseat_error **ret_error)
{
    struct target *target = delivery->target;
    _cleanup_(program_end) struct program program = {0};
    target->scratch.used = target->scratch.first;
    size_t most = round_size(delivery, count), done = 0;
    int r = program_begin(&program, &target->scratch, 2 * most + 2 * (most / MESSAGE_CAPS_MAX + 1) + 12, 0,
                          ret_error);
    while (r == 0 && done < most) {
        size_t size = most - done < MESSAGE_CAPS_MAX ? most - done : MESSAGE_CAPS_MAX;
        int sent = send_message(delivery->ours, parcels + done, size);
        if (sent < 0 && done) /* too much is on its way: the rest in the next round */
            break;
        if (sent < 0)
            return error_sending(delivery, parcels, size, sent, ret_error);
        r = add_message(delivery, &program, parcels + done, size, ret_error);
        done += size;
    }
    if (r < 0)
        return r;
    bool is_last = may_be_last && done == count;
    if (is_last)
        program_call(&program, NULL, SYS_close, (uint64_t)delivery->socket);
    program_report(&program, target->report_signal, target->ns_pid, target->threads[0].ns_tid);
    add_jump(&program, is_last ? delivery->back_address : delivery->undo_address);
    r = run_next(delivery, &program, ret_error);
    if (r == 0)
        r = check_round(delivery, parcels, done, ret_error);
    *ret_count = done;
    return r;
}

/* ---- the whole ---- */

static void delivery_end(struct delivery *delivery)
{
    program_end(&delivery->pair);
    program_end(&delivery->reserve);
    base_close(&delivery->ours);
    for (size_t i = 0; delivery->parcels && i < delivery->count; i++)
        base_close(&delivery->parcels[i].former);
    free(delivery->parcels);
}

/* The free ones first: what is replaced cannot be reserved, and is what the commit is. */
static int sort_parcels(struct delivery *delivery, const struct native_slot *slots, size_t count,
                        struct reseat_error **ret_error)
{
    delivery->parcels = calloc(count, sizeof *delivery->parcels);
    if (!delivery->parcels)
        return error_errno(ret_error, -ENOMEM, "installing %zu capabilities", count);
    delivery->count = count;
    size_t first = 0, last = count;
    for (size_t i = 0; i < count; i++) {
        native_cap_t former = -EBADF;
        if (slots[i].flags & NATIVE_REPLACE)
            former = sys_pidfd_getfd(delivery->target->pidfd, (int)slots[i].selector);
        struct parcel *parcel = &delivery->parcels[former >= 0 ? --last : first++];
        *parcel = (struct parcel){.slot = &slots[i], .is_occupied = former >= 0, .former = former};
        if (former < 0 && former != -EBADF)
            return error_errno(ret_error, former, "looking at selector %u of process %d", slots[i].selector,
                               delivery->target->pid);
    }
    delivery->free_count = first;
    return 0;
}

/* Puts back what was replaced; says nothing if that fails, too. */
static void put_back(struct delivery *delivery)
{
    size_t count = 0;
    _cleanup_free_ struct parcel *parcels = calloc(delivery->count, sizeof *parcels);
    _cleanup_free_ struct native_slot *slots = calloc(delivery->count, sizeof *slots);
    for (size_t i = delivery->free_count; parcels && slots && i < delivery->count; i++) {
        const struct parcel *parcel = &delivery->parcels[i];
        if (!parcel->is_put)
            continue;
        slots[count] = (struct native_slot){.selector = parcel->slot->selector,
                                            .cap = parcel->former,
                                            .flags = parcel->had_close_on_exec ? NATIVE_CLOSE_ON_EXEC : 0};
        parcels[count] = (struct parcel){.slot = &slots[count], .former = -EBADF};
        count++;
    }
    int r = 0;
    for (size_t start = 0, done; r == 0 && start < count; start += done)
        r = run_round(delivery, parcels + start, count - start, false, &done, NULL);
}

static void undo(struct delivery *delivery)
{
    struct target *target = delivery->target;
    struct program undoing = {.address = delivery->undo_address, .stop_sp = delivery->undone_sp};
    if (!delivery->undo_address)
        return;
    put_back(delivery);
    if (program_start(target, &target->threads[0], &undoing, NULL) == 0)
        program_await(target, &target->threads[0], &undoing, NULL);
}

static int deliver(struct delivery *delivery, struct reseat_error **ret_error)
{
    int r = make_pair(delivery, ret_error);
    if (r == 0)
        r = reserve(delivery, ret_error);
    for (size_t start = 0, done; r == 0 && start < delivery->count; start += done)
        r = run_round(delivery, delivery->parcels + start, delivery->count - start, true, &done, ret_error);
    if (r < 0)
        undo(delivery);
    return r;
}

/* What is not to be replaced must be unused: whoever fills a slot by a message finds out by reserving it, the
 * helper would replace what is there. */
static int check_unused(const struct delivery *delivery, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < delivery->free_count; i++) {
        selector_t selector = delivery->parcels[i].slot->selector;
        _cleanup_close_ int there = sys_pidfd_getfd(delivery->target->pidfd, (int)selector);
        if (there >= 0)
            return native_pd_error_occupied(delivery->target, selector, ret_error);
        if (there != -EBADF)
            return error_errno(ret_error, there, "looking at selector %u of process %d", selector,
                               delivery->target->pid);
    }
    return 0;
}

int native_pd_install_stopped(struct target *target, const struct native_slot *slots, size_t count,
                              struct reseat_error **ret_error)
{
    _cleanup_(delivery_end) struct delivery delivery = {.target = target, .ours = -EBADF};
    size_t first = target->scratch.first;
    int r = sort_parcels(&delivery, slots, count, ret_error);
    if (r == 0)
        r = deliver(&delivery, ret_error);
    target->scratch.used = target->scratch.first = first;
    if (r == -EMFILE || delivery.is_refused) {
        r = check_unused(&delivery, ret_error);
        if (r == 0)
            r = native_pd_deliver_by_helper(target, delivery.parcels, count, ret_error);
        if (r == 0 && ret_error)
            base_error_free(ret_error);
        target->scratch.used = target->scratch.first = first;
    }
    return r;
}
