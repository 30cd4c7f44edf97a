/* Capabilities that cannot go through a socket: the kernel refuses io_uring's descriptors there (SCM_RIGHTS).
 *
 * They stay where they are, and core reaches for them: takes one out of the client that sends an install, and
 * puts one into the client that says fetch. That is done to nobody but the process that has sent the very
 * message: the kernel says which that was (SO_PASSCRED), and the pidfd that came with the message is of the
 * same. As that was sent by a living process, the number is not another's; as the pidfd says that it has not
 * ended, it still is not.
 *
 * It may have executed another program since. With one that has gained privileges by that (AT_SECURE), or is
 * not dumpable, nothing is done.
 *
 * See unix(7), pidfd_getfd(2). */
#include "core/core-internal.h"
#include "native_pd/linux.h"

#include <errno.h>

static int check_sender(const struct work *work, int pidfd, pid_t *ret_pid, struct reseat_error **ret_error)
{
    pid_t pid = 0;
    int r = pidfd_process(pidfd, &pid);
    if (r < 0 || pid != work->packet.sender)
        return error_set(
            ret_error, -EPERM,
            "a capability is asked to be taken or put by number, and what is beside the message for "
            "that is not a pidfd of its sender");
    *ret_pid = pid;
    return 0;
}

/* Whoever sent a message may execute a set-user-ID program before it is read. What that one has at its
 * selectors is not its sender's: nothing is taken from it, and nothing put there. *ret_execution: which
 * program it is. */
static int check_program(pid_t pid, int pidfd, struct execution *ret_execution,
                         struct reseat_error **ret_error)
{
    _cleanup_(ids_end) struct ids ids = {0};
    int r = execution_read(pid, ret_execution);
    if (r == 0)
        r = ids_of_process(pid, &ids);
    if (r == 0 && pidfd_has_ended(pidfd))
        r = -ESRCH;
    if (r < 0)
        return error_errno(ret_error, r, "looking which program process %d executes", pid);
    if (execution_is_secure(ret_execution) || !ids.is_dumpable)
        return error_set(
            ret_error, -EPERM,
            "process %d is not dumpable, or has gained privileges: nothing is taken from it or put "
            "into it by number",
            pid);
    return 0;
}

/* The same program before and after: so it was taken from that one. */
int sender_take(struct work *work, int pidfd, unsigned number, int *ret_cap, struct reseat_error **ret_error)
{
    pid_t pid = 0;
    struct execution before, after;
    int r = check_sender(work, pidfd, &pid, ret_error);
    if (r == 0)
        r = check_program(pid, pidfd, &before, ret_error);
    if (r < 0)
        return r;
    _cleanup_close_ int cap = sys_pidfd_getfd(pidfd, (int)number);
    if (cap < 0)
        return error_errno(ret_error, cap, "taking descriptor %u of process %d, which sent it by number",
                           number, pid);
    r = check_program(pid, pidfd, &after, ret_error);
    if (r == 0 && !execution_is_same(&before, &after))
        r = error_set(ret_error, -ESTALE, "process %d has executed another program meanwhile", pid);
    if (r == 0)
        *ret_cap = TAKE_FD(cap);
    return r;
}

/* ---- fetch ---- */

struct receiver {
    pid_t pid;
    int pidfd;
};

/* Asked while it stands still. */
static int check_receiver(void *userdata, struct reseat_error **ret_error)
{
    const struct receiver *receiver = userdata;
    struct execution execution;
    return check_program(receiver->pid, receiver->pidfd, &execution, ret_error);
}

static int put(struct receiver *receiver, native_cap_t cap, unsigned number, struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    const struct native_slot slot = {.selector = number,
                                     .cap = cap,
                                     .flags = NATIVE_REPLACE | NATIVE_CLOSE_ON_EXEC};
    int r = native_pd_open(receiver->pid, &pd, ret_error);
    if (r < 0)
        return r;
    native_pd_set_guard(pd, check_receiver, receiver);
    return native_pd_install(pd, &slot, 1, ret_error);
}

int operation_fetch(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    const struct protocol_fetch *request = work->request.fixed;
    struct receiver receiver = {.pidfd = work->packet.caps[0]};
    _cleanup_close_ native_cap_t cap = NATIVE_CAP_INVALID;
    (void)reply;
    int r = check_sender(work, receiver.pidfd, &receiver.pid, ret_error);
    if (r == 0 && !terms_allow_selector(&work->job.terms, request->selector))
        r = error_set(ret_error, -EPERM, "this session of process %d does not have selector %u",
                      work->job.terms.pid, request->selector);
    if (r == 0)
        r = native_pd_request(work->pd, request->selector, &cap, NULL, ret_error);
    if (r == 0)
        r = work_check_execution(&work->job.terms, work->pidfd, ret_error);
    if (r == 0 && cap < 0)
        r = error_set(ret_error, -EBADF, "selector %u of process %d is unused", request->selector,
                      work->job.terms.pid);
    if (r == 0)
        r = put(&receiver, cap, request->number, ret_error);
    return r;
}
