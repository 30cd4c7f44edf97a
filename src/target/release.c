/* Letting go: every thread runs on as it was, whatever state it is in. What its program did is undone first,
 * by the half of the program that stands behind the report; the scratch pages go last, because the others may
 * still stand on them. See ptrace(2) PTRACE_DETACH. */
#include "target/target.h"
#include "target/target-internal.h"

#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

void target_thread_restore(struct target_thread *thread)
{
    /* First the mask: if we die between the two, the way back that the thread is on sets the same mask again.
     */
    if (thread->is_moved)
        target_set_signal_mask(thread->tid, thread->signal_mask);
    target_set_regs(thread->tid, thread->regs);
    if (thread->is_moved && thread->dispatch.mode)
        target_trace(SET_SYSCALL_USER_DISPATCH_CONFIG, thread->tid, sizeof thread->dispatch,
                     (uint64_t)&thread->dispatch);
    thread->is_moved = false;
}

/* A thread that was killed as it stood still is not there to be detached any more. Its end must be collected,
 * or nobody else is told of it as long as we live. */
static int detach(const struct target_thread *thread)
{
    int status, r = (int)target_trace(PTRACE_DETACH, thread->tid, 0, 0);
    if (r == -ESRCH && target_wait_stop(thread->tid, TARGET_STOP_TIMEOUT_NS, &status) == 0)
        r = (int)target_trace(PTRACE_DETACH, thread->tid, 0, 0);
    return r;
}

int target_thread_release(struct target *target, struct target_thread *thread)
{
    if (!thread->is_traced)
        return 0;
    if (thread->held_signal)
        syscall(SYS_tgkill, target->pid, thread->tid, thread->held_signal);
    if (thread->is_stopped)
        target_thread_restore(thread);
    thread->is_stopped = false;
    thread->is_traced = false;
    return detach(thread);
}

/* A thread that does not stand still cannot be let go: it is stopped once more. */
static void stop_for_release(struct target_thread *thread)
{
    int status;
    if (!thread->is_traced || thread->is_stopped)
        return;
    target_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
    if (target_wait_stop(thread->tid, TARGET_STOP_TIMEOUT_NS, &status) < 0)
        return;
    if (thread->is_moved) {
        thread->is_stopped = true;
        return;
    }
    int signal = status >> 16 ? 0 : WSTOPSIG(status);
    uint64_t regs[ARCH_REGS_WORDS] = {0};
    if (target_get_regs(thread->tid, regs) == 0 && arch_make_restartable(regs))
        target_set_regs(thread->tid, regs);
    target_trace(PTRACE_DETACH, thread->tid, 0, (uint64_t)signal);
    thread->is_traced = false;
}

void target_abandon_thread(struct target *target, struct target_thread *thread)
{
    int status;
    target->keeps_scratch = true;
    if (!thread->is_traced)
        return;
    if (!thread->is_stopped) {
        target_trace(PTRACE_INTERRUPT, thread->tid, 0, 0);
        target_wait_stop(thread->tid, TARGET_STOP_TIMEOUT_NS, &status);
    }
    target_trace(PTRACE_DETACH, thread->tid, 0, 0);
    thread->is_stopped = false;
    thread->is_traced = false;
}

/* Threads whose program did something that must not last stand at a report behind which it is undone. */
static void undo_programs(struct target *target)
{
    for (size_t i = 0; i < target->thread_count; i++) {
        struct target_thread *thread = &target->threads[i];
        struct program undo = {.stop_sp = thread->undo_stop};
        if (thread->undo_stop && thread->is_stopped && program_continue(target, thread, NULL) == 0)
            program_await(target, thread, &undo, NULL);
        thread->undo_stop = 0;
    }
}

void target_let_go(struct target *target)
{
    undo_programs(target);
    for (size_t i = 0; i < target->thread_count; i++)
        stop_for_release(&target->threads[i]);
    /* The leader goes last: it alone can unmap the scratch pages, on which the others may still stand. */
    for (size_t i = target->thread_count; i-- > 1;)
        target_thread_release(target, &target->threads[i]);
    if (target->thread_count) {
        if (target->threads[0].is_traced && target->threads[0].is_stopped && !target->keeps_scratch)
            target_unmap_scratch(target, NULL);
        target_thread_release(target, &target->threads[0]);
    }
    for (size_t i = 0; i < target->birth_count; i++) /* that nobody took over */
        target_trace(PTRACE_DETACH, target->births[i], 0, 0);
    target->go_ns = now_ns();
    target->thread_count = 0;
}

void target_release(struct target *target)
{
    target_let_go(target);
    base_close(&target->pidfd);
    base_close(&target->proc_fd);
    base_close(&target->mem_fd);
    free(target->scratch.mirror);
    free(target->births);
    free(target->threads);
    *target = TARGET_NONE;
}

void target_reap(struct target *target)
{
    for (size_t i = 0; i < target->birth_count; i++)
        while (waitpid(target->births[i], NULL, __WALL) < 0 && errno == EINTR)
            ;
    target->birth_count = 0;
    /* The leader's death is reported only after all other threads are gone. */
    for (size_t i = target->thread_count; i-- > 0;) {
        struct target_thread *thread = &target->threads[i];
        while (thread->is_traced && waitpid(thread->tid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        thread->is_traced = false;
    }
    target->thread_count = 0;
}
