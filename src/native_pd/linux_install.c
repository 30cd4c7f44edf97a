/* install, for a PD that is already stopped: the target makes a pair of sockets, we take one end and send the
 * capability through it, the target receives it and moves it to its selector. See unix(7), dup3(2). */
#include "native_pd/linux.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* Room for one descriptor in a control message. */
union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
};

static int send_capability(int socket, native_cap_t cap)
{
    char byte = 0;
    struct iovec vector = {&byte, 1};
    union control control = {0};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control.bytes};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof cap);
    memcpy(CMSG_DATA(header), &cap, sizeof cap);
    return sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 ? -errno : 0;
}

/* The two ends as the target numbers them. */
static int make_sockets(struct target *target, int ret_ends[2], struct reseat_error **ret_error)
{
    struct scratch *scratch = &target->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    int *ends;
    uint64_t address = scratch_take(scratch, 2 * sizeof *ends, 8, &ends);
    program_call(&program, "making a pair of sockets", SYS_socketpair, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0,
                 address);
    r = program_run_batch(target, &program, ret_error);
    if (r == 0)
        memcpy(ret_ends, ends, 2 * sizeof *ends);
    return r;
}

/* The number at which the target received what was sent to it. */
static int receive(struct target *target, int end, int *ret_fd, struct reseat_error **ret_error)
{
    struct scratch *scratch = &target->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    char byte = 0;
    union control empty = {0}, *control;
    uint64_t control_address = scratch_take(scratch, sizeof empty, 8, &control);
    struct iovec vector = {(void *)scratch_copy(scratch, &byte, 1), 1};
    struct msghdr message = {.msg_iov = (void *)scratch_copy(scratch, &vector, sizeof vector),
                             .msg_iovlen = 1,
                             .msg_control = (void *)control_address,
                             .msg_controllen = sizeof empty.bytes};
    program_call(&program, "receiving a capability", SYS_recvmsg, (uint64_t)end,
                 scratch_copy(scratch, &message, sizeof message), MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    r = program_run_batch(target, &program, ret_error);
    if (r < 0)
        return r;
    if (control->header.cmsg_type != SCM_RIGHTS || control->header.cmsg_len != CMSG_LEN(sizeof(int)))
        return error_set(ret_error, -EMFILE, "process %d has no free selector to receive a capability at",
                         target->pid);
    memcpy(ret_fd, CMSG_DATA(&control->header), sizeof *ret_fd);
    return 0;
}

static int move_and_close(struct target *target, int fd, selector_t selector, bool close_on_exec,
                          const int ends[2], struct reseat_error **ret_error)
{
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, &target->scratch, 12, 0, ret_error);
    if (r < 0)
        return r;
    if (fd >= 0) {
        program_call(&program, "putting a capability at its selector", SYS_dup3, (uint64_t)fd, selector,
                     close_on_exec ? O_CLOEXEC : 0);
        program_call(&program, NULL, SYS_close, (uint64_t)fd);
    }
    program_call(&program, NULL, SYS_close, (uint64_t)ends[0]);
    program_call(&program, NULL, SYS_close, (uint64_t)ends[1]);
    return program_run_batch(target, &program, ret_error);
}

int native_pd_install_stopped(struct target *target, native_cap_t cap, selector_t selector,
                              bool close_on_exec, struct reseat_error **ret_error)
{
    int ends[2], fd = -1;
    int r = make_sockets(target, ends, ret_error);
    if (r < 0)
        return r;
    _cleanup_close_ int ours = sys_pidfd_getfd(target->pidfd, ends[1]);
    r = ours < 0 ? ours : send_capability(ours, cap);
    if (r < 0)
        error_errno(ret_error, r, "sending a capability for selector %u to process %d", selector,
                    target->pid);
    else
        r = receive(target, ends[0], &fd, ret_error);
    int moved = move_and_close(target, fd, selector, close_on_exec, ends, r == 0 ? ret_error : NULL);
    return r < 0 ? r : moved;
}
