/* The birth of a cold seed: a child of ours (or of a helper that goes, so that the process is handed to init
 * or a subreaper like any daemon) is cloned under the wanted number, maps the scratch pages, and waits to be
 * taken in hand. Until it is, the death of its parent is its death; then PTRACE_O_EXITKILL is.
 *
 * Rests on clone3(2) with set_tid, PR_SET_PDEATHSIG and PR_SET_PTRACER (prctl(2)). The child runs our code,
 * but nothing of the C library that has state: it is a fork of a process that may have threads. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define BIRTH_TIMEOUT_NS 10000000000U
#define RETRY_NS         500000

/* What we, the helper and the child have in common. */
struct cradle {
    _Atomic int result;  /* the PID, or a negative errno; 0: not yet */
    _Atomic int is_born; /* 1, or a negative errno: the child has its scratch pages */
    _Atomic int may_go;  /* the helper */
};

static pid_t clone_raw(pid_t number)
{
    struct clone_args arguments = {.exit_signal = SIGCHLD};
    if (number) {
        arguments.set_tid = (uint64_t)&number;
        arguments.set_tid_size = 1;
    }
    return (pid_t)syscall(SYS_clone3, &arguments, sizeof arguments);
}

static _Noreturn void wait_forever(void)
{
    for (;;)
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

/* The scratch pages as target_map_scratch() makes them; the interpreter is written from outside. */
static int map_scratch(const struct cold_place *place)
{
    if (mmap((void *)place->scratch, place->scratch_length, PROT_READ | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_FIXED_NOREPLACE, -1,
             0) != (void *)place->scratch)
        return -errno;
    if (mprotect((void *)(place->scratch + COLD_PAGE_BYTES), place->scratch_length - COLD_PAGE_BYTES,
                 PROT_READ | PROT_WRITE) < 0)
        return -errno;
    return 0;
}

static _Noreturn void be_born(struct cradle *cradle, const struct cold_place *place, pid_t parent,
                              pid_t tracer)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (syscall(SYS_getppid) != parent)
        _exit(1);
    prctl(PR_SET_DUMPABLE, 1); /* or an ordinary user could not trace it */
    prctl(PR_SET_PTRACER, tracer);
    int r = map_scratch(place);
    cradle->is_born = r < 0 ? r : 1;
    wait_forever();
}

static void clone_child(struct cradle *cradle, const struct cold_place *place, pid_t number, pid_t tracer)
{
    pid_t self = (pid_t)syscall(SYS_getpid);
    pid_t pid = clone_raw(number);
    if (pid == 0)
        be_born(cradle, place, self, tracer);
    cradle->result = pid < 0 ? -errno : pid;
}

/* Waits for a word of the cradle to be set. */
static int wait_for(_Atomic int *word, pid_t helper)
{
    uint64_t start_ns = now_ns();
    while (!*word) {
        int status;
        if (helper && waitpid(helper, &status, WNOHANG | __WALL) == helper)
            return *word ? *word : -ECHILD;
        if (now_ns() - start_ns > BIRTH_TIMEOUT_NS)
            return -ETIMEDOUT;
        sched_yield();
    }
    return *word;
}

static int end_helper(struct cradle *cradle, pid_t helper)
{
    cradle->may_go = 1;
    while (helper > 0 && waitpid(helper, NULL, __WALL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* Returns the PID of the child, which may still be on its way to its scratch pages. */
static int clone_with_helper(struct cradle *cradle, const struct cold_place *place, pid_t number,
                             bool is_child, pid_t *ret_helper)
{
    pid_t self = getpid();
    *ret_helper = 0;
    *cradle = (struct cradle){0};
    if (is_child) {
        clone_child(cradle, place, number, self);
        return cradle->result;
    }
    pid_t helper = clone_raw(0);
    if (helper < 0)
        return -errno;
    if (helper == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (syscall(SYS_getppid) != self || syscall(SYS_getpid) == number)
            _exit(1); /* by chance it has the very number: it must go first */
        clone_child(cradle, place, number, self);
        while (cradle->result > 0 && !cradle->may_go)
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        _exit(0);
    }
    int r = wait_for(&cradle->result, helper);
    if (r < 0)
        end_helper(cradle, helper);
    else
        *ret_helper = helper;
    return r;
}

static int report_clone(int r, const struct snapshot_process *process, struct reseat_error **ret_error)
{
    if (r == -EPERM)
        return error_set(
            ret_error, r,
            "the old PID %u cannot be had again: that takes CAP_CHECKPOINT_RESTORE (root, or 'setcap "
            "cap_checkpoint_restore+ep' on reseat); or restore with --new-pid",
            process->pid);
    if (r == -EAGAIN)
        return error_set(
            ret_error, r,
            "process %u could not be cloned: its user has reached RLIMIT_NPROC, its control group "
            "pids.max, or the system its number of threads",
            process->pid);
    return error_errno(ret_error, r, "cloning process %u", process->pid);
}

static int clone_under_number(struct cradle *cradle, const struct cold_plan *plan,
                              const struct cold_place *place, uint64_t deadline_ns, pid_t *ret_helper,
                              uint64_t *ret_free_ns, struct reseat_error **ret_error)
{
    const struct snapshot_process *process = &plan->snapshot->process;
    pid_t number = plan->new_pid ? 0 : (pid_t)process->pid;
    for (;;) {
        *ret_free_ns = now_ns();
        int r = clone_with_helper(cradle, place, number, plan->is_child, ret_helper);
        if (r > 0)
            return r;
        if (r != -EEXIST && r != -ECHILD)
            return report_clone(r, process, ret_error);
        if (now_ns() >= deadline_ns)
            return process_report_taken(number, ret_error);
        if (nanosleep(&(struct timespec){.tv_nsec = RETRY_NS}, NULL) < 0)
            return error_set(ret_error, -EINTR, "interrupted while waiting; nothing has been lost");
    }
}

/* PTRACE_SEIZE, and all that a struct target has. */
static int take_in_hand(pid_t pid, const struct cold_plan *plan, const struct cold_place *place,
                        struct target *process, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    int r = target_open(pid, process, ret_error);
    if (r < 0)
        return r;
    process->trace_options = PTRACE_O_TRACESYSGOOD;
    if (snapshot->process.flags & SNAPSHOT_FILTERED)
        process->trace_options |= PTRACE_O_SUSPEND_SECCOMP;
    process->trace_options |= PTRACE_O_EXITKILL; /* as long as process_commit() has not taken it away */
    r = target_seize_thread(process, pid, ret_error);
    process->trace_options &= ~(unsigned)PTRACE_O_EXITKILL;
    if (r == 0)
        r = target_interrupt(process, &process->threads[0], ret_error);
    if (r == 0)
        r = target_get_regs(pid, process->threads[0].regs);
    if (r < 0)
        return error_errno(ret_error, r, "taking the new process %d in hand", pid);
    process->mem_fd = openat(process->proc_fd, "mem", O_RDWR | O_CLOEXEC);
    if (process->mem_fd < 0)
        return error_errno(ret_error, -errno, "opening the memory of the new process %d", pid);
    if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, pid, sizeof process->threads[0].rseq,
               &process->threads[0].rseq) < 0)
        memset(&process->threads[0].rseq, 0, sizeof process->threads[0].rseq);
    r = target_write(process, place->scratch, arch_interpreter,
                     (size_t)(arch_interpreter_end - arch_interpreter));
    if (r < 0)
        return error_errno(ret_error, r, "writing the interpreter into process %d", pid);
    return target_adopt_scratch(process, place->scratch, place->scratch_length, 0, ret_error);
}

/* What it has of ours and the kernel would still write to, once our memory is gone; and signals for us that
 * have come meanwhile: to ignore one discards it. */
static int leave_registrations(struct target *process, struct reseat_error **ret_error)
{
    static const struct {
        uint64_t handler, flags, restorer, mask;
    } ignore = {.handler = (uintptr_t)SIG_IGN};
    static const struct {
        uint64_t address;
        uint32_t flags, padding;
        uint64_t length;
    } no_stack = {.flags = 2 /* SS_DISABLE; <signal.h> has it too, in another layout */};
    const struct __ptrace_rseq_configuration *rseq = &process->threads[0].rseq;
    struct scratch *scratch = &process->scratch;
    _cleanup_(program_end) struct program program = {0};
    int r = program_begin(&program, scratch, 96, 0, ret_error);
    if (r < 0)
        return r;
    if (rseq->rseq_abi_pointer)
        program_call(&program, "leaving restartable sequences", SYS_rseq, rseq->rseq_abi_pointer,
                     rseq->rseq_abi_size, 1 /* RSEQ_FLAG_UNREGISTER */, rseq->signature);
    program_call(&program, NULL, SYS_set_robust_list, 0, 24);
    program_call(&program, NULL, SYS_set_tid_address, 0);
    program_call(&program, NULL, SYS_sigaltstack, scratch_copy(scratch, &no_stack, sizeof no_stack), 0);
    program_call(&program, NULL, SYS_prctl, PR_SET_PDEATHSIG, 0);
    uint64_t action = scratch_copy(scratch, &ignore, sizeof ignore);
    for (uint64_t number = 1; number <= 64; number++)
        program_call(&program, NULL, SYS_rt_sigaction, number, action, 0, 8);
    r = program_run_batch(process, &program, ret_error);
    memset(&process->threads[0].rseq, 0, sizeof process->threads[0].rseq);
    return r;
}

/* A signal that the program ignores anyway, if there is one, and that does not wait for it already. */
static int choose_report_signal(const struct snapshot *snapshot)
{
    static const int candidates[] = {SIGURG, SIGWINCH, SIGCHLD};
    for (int may_be_set = 0; may_be_set < 2; may_be_set++) {
        for (size_t i = 0; i < COUNT_OF(candidates); i++) {
            bool is_set = false, is_pending = false;
            for (size_t j = 0; j < snapshot->actions_count; j++)
                is_set |= snapshot->actions[j].signal == (uint32_t)candidates[i];
            for (size_t j = 0; j < snapshot->signals_count; j++) {
                int number;
                memcpy(&number, snapshot->signals[j].siginfo, sizeof number);
                is_pending |= number == candidates[i];
            }
            if (!is_pending && (may_be_set || !is_set))
                return candidates[i];
        }
    }
    return SIGURG;
}

static int birth(struct cradle *cradle, const struct cold_plan *plan, const struct cold_place *place,
                 uint64_t deadline_ns, struct target *process, uint64_t *ret_free_ns,
                 struct reseat_error **ret_error)
{
    pid_t helper;
    int pid = clone_under_number(cradle, plan, place, deadline_ns, &helper, ret_free_ns, ret_error);
    if (pid < 0)
        return pid;
    process->report_signal = choose_report_signal(plan->snapshot);
    int report_signal = process->report_signal;
    int r = wait_for(&cradle->is_born, 0);
    if (r < 0)
        r = error_errno(ret_error, r, "waiting for the new process %d", pid);
    else
        r = take_in_hand(pid, plan, place, process, ret_error);
    process->report_signal = report_signal;
    if (r == 0)
        r = leave_registrations(process, ret_error);
    if (r < 0)
        kill(pid, SIGKILL);
    if (r < 0 && !helper)
        waitpid(pid, NULL, __WALL);
    int ended = end_helper(cradle, helper);
    return r == 0 && ended < 0 ? error_errno(ret_error, ended, "waiting for a helper") : r;
}

int cold_birth(const struct cold_plan *plan, const struct cold_place *place, uint64_t deadline_ns,
               struct target *ret_process, uint64_t *ret_free_ns, struct reseat_error **ret_error)
{
    struct cradle *cradle =
        mmap(NULL, sizeof *cradle, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (cradle == MAP_FAILED)
        return error_errno(ret_error, -errno, "making room for the birth of a process");
    /* What is sent to our group meanwhile is not for the child. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = birth(cradle, plan, place, deadline_ns, ret_process, ret_free_ns, ret_error);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(cradle, sizeof *cradle);
    return r;
}

void cold_discard(struct target *process)
{
    if (process->pidfd >= 0) {
        sys_pidfd_send_signal(process->pidfd, SIGKILL);
        target_reap(process);
    }
    target_release(process);
}
