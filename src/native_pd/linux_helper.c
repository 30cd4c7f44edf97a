/* install into a stopped process by a helper: for what cannot be sent as a message (SCM_RIGHTS refuses
 * io_uring), and for tables that have no number to spare for receiving at. Slower for each capability, but it
 * needs no number in passing at all.
 *
 * The kernel can put an object at a chosen number of another process's table in one case: the supervisor of a
 * seccomp filter may do so for a process that waits for its answer (SECCOMP_IOCTL_NOTIF_ADDFD with
 * SECCOMP_ADDFD_FLAG_SETFD, seccomp_unotify(2), Linux 5.9). The filter must not be the target's, and the
 * descriptor of the supervisor must not appear in its table. So the target clones a helper of two threads:
 *
 *   - the first parts with the table (close_range(2) CLOSE_RANGE_UNSHARE: an empty one of its own), and there
 *     makes the filter, for both threads (SECCOMP_FILTER_FLAG_TSYNC), of which we take the listener;
 *   - the second still shares the target's table. It makes the one call that the filter reports, exit_group,
 * and while it waits for our answer we put the capabilities where they are wanted. The answer is SIGKILL.
 *
 * The helper is a child of the target that its wait(2) does not see (no signal at its end), is killed if we
 * die, and is waited for by the target before anything else runs. Also if we die: what was put at free
 * selectors is then closed again. Of selectors that are replaced those that we came to stay replaced. */
#include "native_pd/linux_delivery.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define BIRTH_STACK_BYTES 256
#define FIRST_FLAGS       (CLONE_VM | CLONE_FILES)
#define SECOND_FLAGS      (CLONE_VM | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD)
#define NOTICE_TIMEOUT_MS 2000

struct helper {
    struct target *target;
    struct wish {
        const struct native_slot *slot;
        native_cap_t former; /* what is there, to be replaced; -1: nothing */
        bool had_close_on_exec, is_put;
    } * wishes;
    size_t count;
    struct program leader, first, second;
    bool is_started;                /* the leader stands at its report */
    size_t filter_call, close_call; /* of the first thread */
    size_t wait_call;               /* of the leader; has the helper's number, in the target's namespace */
    uint64_t undo_address, back_address, undone_sp;
    struct target process; /* its first thread */
    pid_t second_tid;
    int listener;
    uint64_t notice; /* the id of the call that waits; 0: none */
};

/* ---- programs ---- */

static uint64_t clone_arguments(struct scratch *scratch, uint64_t flags, uint64_t stack)
{
    struct clone_args arguments = {.flags = flags,
                                   .stack = stack - BIRTH_STACK_BYTES,
                                   .stack_size = BIRTH_STACK_BYTES};
    return scratch_copy(scratch, &arguments, sizeof arguments);
}

/* Without an answer, because we have died, exit_group fails and exit does it. */
static int build_second(struct helper *helper, uint64_t *ret_stack, struct reseat_error **ret_error)
{
    int r = program_begin(&helper->second, &helper->target->scratch, 4, 0, ret_error);
    if (r < 0)
        return r;
    *ret_stack = program_birth(&helper->second);
    program_call(&helper->second, NULL, SYS_exit_group, 0);
    program_call(&helper->second, NULL, SYS_exit, 0);
    return 0;
}

static uint64_t filter_address(struct scratch *scratch)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {COUNT_OF(code), (void *)scratch_copy(scratch, code, sizeof code)};
    return scratch_copy(scratch, &filter, sizeof filter);
}

static int build_first(struct helper *helper, uint64_t *ret_stack, struct reseat_error **ret_error)
{
    struct target *target = helper->target;
    struct program *program = &helper->first;
    uint64_t stack;
    int r = build_second(helper, &stack, ret_error);
    if (r == 0)
        r = program_begin(program, &target->scratch, 16, 0, ret_error);
    if (r < 0)
        return r;
    *ret_stack = program_birth(program);
    /* A traced process stops at the report even though it ignores it. */
    static const uint64_t ignore[4] = {(uint64_t)(uintptr_t)SIG_IGN};
    program_call(program, "ignoring a signal in the helper", SYS_rt_sigaction,
                 (uint64_t)target->report_signal, scratch_copy(&target->scratch, ignore, sizeof ignore), 0,
                 sizeof(uint64_t));
    program_call(program, "making a thread in the helper", SYS_clone3,
                 clone_arguments(&target->scratch, SECOND_FLAGS, stack), sizeof(struct clone_args));
    program_call(program, "giving the helper a table of its own", SYS_close_range, 0, ~0U,
                 CLOSE_RANGE_UNSHARE);
    program_call(program, "keeping the helper from new privileges", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1);
    helper->filter_call =
        program_call(program, "making a seccomp filter in the helper", SYS_seccomp, SECCOMP_SET_MODE_FILTER,
                     SECCOMP_FILTER_FLAG_NEW_LISTENER | SECCOMP_FILTER_FLAG_TSYNC |
                         SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
                     filter_address(&target->scratch));
    program_report(program, target->report_signal, 0, 0);
    /* Only if we die: then nobody must wait for an answer. It is the listener alone that goes: if it was not
     * made, the table may still be the target's. */
    helper->close_call = program_call(program, NULL, SYS_close, NO_NUMBER);
    program_set_result_address(program, helper->filter_call,
                               program_argument_address(program, helper->close_call, 0));
    program_call(program, NULL, SYS_exit, 0);
    return 0;
}

/* waitid(2) takes a number that is none for an error, and wait4(2) would take it for a process group. */
static void add_wait(struct program *program, uint64_t ns_pid)
{
    program_call(program, NULL, SYS_waitid, P_PID, ns_pid, 0, WEXITED | __WCLONE);
}

static int build_leader(struct helper *helper, struct reseat_error **ret_error)
{
    struct target *target = helper->target;
    struct target_thread *thread = &target->threads[0];
    struct program *program = &helper->leader;
    uint64_t stack;
    int r = build_first(helper, &stack, ret_error);
    if (r == 0)
        r = program_begin(program, &target->scratch, helper->count + 8, PROGRAM_RETURN_BYTES, ret_error);
    if (r < 0)
        return r;
    size_t clone =
        program_call(program, "making a helper process", SYS_clone3,
                     clone_arguments(&target->scratch, FIRST_FLAGS, stack), sizeof(struct clone_args));
    program_report(program, target->report_signal, target->ns_pid, thread->ns_tid);
    uint64_t stop_sp = program->stop_sp;
    helper->wait_call = program->count;
    helper->undo_address = program->address + program->count * sizeof(struct program_call);
    add_wait(program, 0);
    program_set_result_address(program, clone, program_argument_address(program, helper->wait_call, 1));
    for (size_t i = 0; i < helper->count; i++)
        if (helper->wishes[i].former < 0)
            program_call(program, NULL, SYS_close, helper->wishes[i].slot->selector);
    helper->back_address = program->address + program->count * sizeof(struct program_call);
    program_report(program, target->report_signal, target->ns_pid, thread->ns_tid);
    helper->undone_sp = program->stop_sp;
    program->stop_sp = stop_sp;
    return native_pd_add_way_back(program, thread, ret_error);
}

/* ---- making the helper ---- */

static int run_leader(struct helper *helper, struct reseat_error **ret_error)
{
    struct target *target = helper->target;
    unsigned options = target->more_options;
    native_pd_begin_part(target);
    int r = build_leader(helper, ret_error);
    if (r == 0)
        r = target_flush_scratch(target, ret_error);
    if (r < 0)
        return r;
    r = target_set_options(target, target->pid, options | PTRACE_O_TRACECLONE);
    if (r < 0)
        return error_errno(ret_error, r, "tracing what process %d clones", target->pid);
    r = program_start(target, &target->threads[0], &helper->leader, ret_error);
    if (r == 0)
        r = program_await(target, &target->threads[0], &helper->leader, ret_error);
    helper->is_started = r == 0;
    target_set_options(target, target->pid, options);
    if (r == 0)
        r = target_fetch_scratch(target, ret_error);
    int64_t result = (int64_t)helper->leader.calls[helper->wait_call].arguments[1];
    if (r == 0 && result < 0)
        r = error_errno(ret_error, (int)result, "making a helper process, inside process %d", target->pid);
    return r;
}

/* Runs the first thread up to its report. The second is born on the way, and stands still. */
static int run_first(struct helper *helper, struct reseat_error **ret_error)
{
    struct target *process = &helper->process;
    int r = target_take_birth(helper->target, process, ret_error);
    if (r == 0)
        r = target_set_options(process, process->pid, PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE);
    if (r == 0)
        r = program_continue(process, &process->threads[0], ret_error);
    if (r == 0)
        r = program_await(process, &process->threads[0], &helper->first, ret_error);
    if (r == 0)
        r = target_fetch_scratch(helper->target, ret_error);
    if (r == 0)
        r = program_check(&helper->first, helper->target->pid, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "installing what cannot be sent as a message");
    int64_t listener = (int64_t)helper->first.calls[helper->close_call].arguments[0];
    if (listener < 0)
        return error_errno(
            ret_error, (int)listener,
            "installing what cannot be sent as a message: making a seccomp filter in a helper of "
            "process %d",
            helper->target->pid);
    helper->listener = sys_pidfd_getfd(process->pidfd, (int)listener);
    if (helper->listener < 0 || process->birth_count != 1)
        return error_errno(ret_error, helper->listener < 0 ? helper->listener : -ECHILD,
                           "taking the listener of a helper of process %d", helper->target->pid);
    return 0;
}

/* Lets the second thread make its call. The filters of the target hold for it, or ours would be suspended as
 * well; no filter forbids exit_group. */
static int run_second(struct helper *helper, struct reseat_error **ret_error)
{
    pid_t tid = helper->second_tid = helper->process.births[0];
    int status;
    helper->process.birth_count = 0;
    int r = target_wait_stop(tid, TARGET_STOP_TIMEOUT_NS, &status);
    if (r == 0 && ptrace(PTRACE_SETOPTIONS, tid, NULL, PTRACE_O_EXITKILL) < 0)
        r = -errno;
    if (r == 0 && ptrace(PTRACE_CONT, tid, NULL, NULL) < 0)
        r = -errno;
    return r < 0 ? error_errno(ret_error, r, "starting a helper thread of process %d", helper->target->pid)
                 : 0;
}

/* Structures of the kernel's size, which may be larger than ours. */
static int receive_notice(struct helper *helper, struct reseat_error **ret_error)
{
    struct seccomp_notif_sizes sizes;
    struct pollfd poll_fd = {.fd = helper->listener, .events = POLLIN};
    int r = poll(&poll_fd, 1, NOTICE_TIMEOUT_MS) == 1 ? 0 : -ETIMEDOUT;
    if (r == 0 && syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
        r = -errno;
    _cleanup_free_ struct seccomp_notif *notice = r == 0 ? calloc(1, sizes.seccomp_notif) : NULL;
    if (r == 0 && !notice)
        r = -ENOMEM;
    if (r == 0 && ioctl(helper->listener, SECCOMP_IOCTL_NOTIF_RECV, notice) < 0)
        r = -errno;
    if (r < 0)
        return error_errno(ret_error, r, "waiting for the helper of process %d", helper->target->pid);
    helper->notice = notice->id;
    return 0;
}

/* ---- using it ---- */

static int put(const struct helper *helper, native_cap_t cap, selector_t selector, bool close_on_exec)
{
    struct seccomp_notif_addfd request = {.id = helper->notice,
                                          .flags = SECCOMP_ADDFD_FLAG_SETFD,
                                          .srcfd = (uint32_t)cap,
                                          .newfd = selector,
                                          .newfd_flags = close_on_exec ? O_CLOEXEC : 0};
    return ioctl(helper->listener, SECCOMP_IOCTL_NOTIF_ADDFD, &request) < 0 ? -errno : 0;
}

static int put_all(struct helper *helper, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < helper->count; i++) {
        struct wish *wish = &helper->wishes[i];
        selector_t selector = wish->slot->selector;
        int r = put(helper, wish->slot->cap, selector, wish->slot->flags & NATIVE_CLOSE_ON_EXEC);
        if (r == -EBUSY)
            return native_pd_error_occupied(helper->target, selector, ret_error);
        if (r < 0)
            return error_errno(ret_error, r, "putting a capability at selector %u of process %d", selector,
                               helper->target->pid);
        wish->is_put = true;
    }
    return 0;
}

static void put_back(struct helper *helper)
{
    for (size_t i = 0; i < helper->count; i++) {
        struct wish *wish = &helper->wishes[i];
        if (wish->is_put && wish->former >= 0)
            put(helper, wish->former, wish->slot->selector, wish->had_close_on_exec);
        wish->is_put = false;
    }
}

/* Ends both threads, whatever they are at, and collects them; the target is then the only one to wait for it.
 */
static void end_helper(struct helper *helper)
{
    struct target *process = &helper->process;
    if (process->pidfd >= 0) {
        sys_pidfd_send_signal(process->pidfd, SIGKILL);
        if (helper->second_tid)
            while (waitpid(helper->second_tid, NULL, __WALL) < 0 && errno == EINTR)
                ;
        target_reap(process);
    }
    target_release(process);
    base_close(&helper->listener);
    helper->listener = -EBADF;
}

/* Either undoes or completes: the leader goes on at one of the two places behind its report. */
static int finish(struct helper *helper, bool undo, struct reseat_error **ret_error)
{
    struct target *target = helper->target;
    struct program undoing = {.address = helper->undo_address, .stop_sp = helper->undone_sp};
    _cleanup_(program_end) struct program program = {0};
    uint64_t ns_pid = helper->leader.calls[helper->wait_call].arguments[1];
    if (undo) {
        int r = program_start(target, &target->threads[0], &undoing, ret_error);
        return r < 0 ? r : program_await(target, &target->threads[0], &undoing, ret_error);
    }
    target->scratch.used = target->scratch.first;
    int r = program_begin(&program, &target->scratch, 6, 0, ret_error);
    if (r < 0)
        return r;
    add_wait(&program, ns_pid);
    program_report(&program, target->report_signal, target->ns_pid, target->threads[0].ns_tid);
    size_t jump = program_call(&program, NULL, -1, 0);
    program.calls[jump].failure = helper->back_address;
    return program_run(target, &program, ret_error);
}

/* What is at the selectors: the helper would replace it without asking. */
static int look(struct helper *helper, const struct native_slot *slots, struct reseat_error **ret_error)
{
    struct target *target = helper->target;
    for (size_t i = 0; i < helper->count; i++) {
        struct wish *wish = &helper->wishes[i];
        *wish = (struct wish){.slot = &slots[i], .former = NATIVE_CAP_INVALID};
        int former = sys_pidfd_getfd(target->pidfd, (int)slots[i].selector);
        if (former < 0 && former != -EBADF)
            return error_errno(ret_error, former, "looking at selector %u of process %d", slots[i].selector,
                               target->pid);
        wish->former = former;
        if (former >= 0 && !(slots[i].flags & NATIVE_REPLACE))
            return native_pd_error_occupied(target, slots[i].selector, ret_error);
        char path[32];
        _cleanup_free_ char *info = NULL;
        snprintf(path, sizeof path, "fdinfo/%u", slots[i].selector);
        if (former >= 0 && file_read(target->proc_fd, path, &info, NULL) == 0)
            wish->had_close_on_exec = status_number(info, "flags", 8) & O_CLOEXEC;
    }
    return 0;
}

static int use_helper(struct helper *helper, struct reseat_error **ret_error)
{
    int r = run_leader(helper, ret_error);
    if (r == 0)
        r = run_first(helper, ret_error);
    if (r == 0)
        r = run_second(helper, ret_error);
    if (r == 0)
        r = receive_notice(helper, ret_error);
    if (r == 0)
        r = put_all(helper, ret_error);
    if (r < 0)
        put_back(helper);
    end_helper(helper);
    native_pd_begin_part(helper->target);
    int finished = helper->is_started ? finish(helper, r < 0, r == 0 ? ret_error : NULL) : 0;
    return r < 0 ? r : finished;
}

int native_pd_deliver_by_helper(struct target *target, const struct native_slot *slots, size_t count,
                                struct reseat_error **ret_error)
{
    struct helper helper = {.target = target, .count = count, .listener = -EBADF};
    helper.process = TARGET_NONE;
    helper.wishes = calloc(count, sizeof *helper.wishes);
    for (size_t i = 0; helper.wishes && i < count; i++)
        helper.wishes[i].former = NATIVE_CAP_INVALID;
    int r = helper.wishes ? look(&helper, slots, ret_error)
                          : error_errno(ret_error, -ENOMEM, "installing %zu capabilities", count);
    if (r == 0)
        r = use_helper(&helper, ret_error);
    for (size_t i = 0; helper.wishes && i < count; i++)
        base_close(&helper.wishes[i].former);
    free(helper.wishes);
    program_end(&helper.leader);
    program_end(&helper.first);
    program_end(&helper.second);
    return r;
}
