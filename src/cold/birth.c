/* The birth of a cold seed, from our side: a helper (helper.c) clones it under the wanted number, where it is
 * to live; we take it in hand, and take from it what it has of ours and the kernel would write to. See
 * ptrace(2). */
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

/* ---- session and group ---- */

/* Somebody of this group is in our session, so that it can be joined. */
static bool can_join(uint32_t group)
{
    return group && getsid((pid_t)group) == getsid(0) && getpgid((pid_t)group) == (pid_t)group;
}

/* If we are in its old session, it stays there, as a job of ours does. Otherwise it must not depend on our
 * terminal: if the number of its old session is free it gets that again, or one of its own. */
static void choose_family(const struct cold_plan *plan, struct cold_family *family, bool *ret_stays)
{
    const struct snapshot_process *process = &plan->snapshot->process;
    bool leads_session = process->flags & SNAPSHOT_LEADS_SESSION,
         leads_group = process->flags & SNAPSHOT_LEADS_GROUP;
    bool is_ours = (uint32_t)getsid(0) == process->session && !plan->new_namespace;
    *ret_stays = leads_session || is_ours || plan->is_child;
    if (leads_session || plan->is_child)
        return;
    if (!is_ours && !plan->new_pid)
        family->session = (pid_t)process->session;
    if (leads_group || process->group == process->session ||
        (is_ours && (uint32_t)getpgrp() == process->group))
        return;
    if (is_ours ? can_join(process->group) || !plan->new_pid : family->session != 0)
        family->group = (pid_t)process->group;
    family->makes_group = family->group && !plan->new_pid && !(is_ours && can_join(process->group));
}

/* ---- users of a new namespace ---- */

static int write_map(pid_t pid, const char *name, const char *text)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
}

/* Only ourselves, under the same number. */
static int map_users(pid_t helper)
{
    char text[64];
    snprintf(text, sizeof text, "%u %u 1\n", geteuid(), geteuid());
    int r = write_map(helper, "uid_map", text);
    if (r == 0)
        r = write_map(helper, "setgroups", "deny");
    snprintf(text, sizeof text, "%u %u 1\n", getegid(), getegid());
    return r == 0 ? write_map(helper, "gid_map", text) : r;
}

/* The number by which we know the child that a helper has cloned in another PID namespace. */
static int find_outside(pid_t helper, pid_t inside, pid_t *ret_pid)
{
    _cleanup_free_ int *pids = NULL;
    size_t count;
    uint64_t ours[SNAPSHOT_NAMESPACES], theirs[SNAPSHOT_NAMESPACES];
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC),
                        helper_fd = proc_open(helper);
    if (proc_fd < 0 || helper_fd < 0 || proc_list_numbers(proc_fd, "", &pids, &count) < 0)
        return -ESRCH;
    process_read_namespaces(helper_fd, ours);
    for (size_t i = 0; i < count; i++) {
        uint32_t levels[32];
        _cleanup_close_ int fd = proc_open(pids[i]);
        _cleanup_free_ char *status = NULL;
        size_t depth = fd < 0 || file_read(fd, "status", &status, NULL) < 0
                           ? 0
                           : status_ns_pids(status, levels, COUNT_OF(levels));
        if (!depth || levels[depth - 1] != (uint32_t)inside)
            continue;
        process_read_namespaces(fd, theirs);
        if (memcmp(ours, theirs, sizeof ours) == 0) {
            *ret_pid = pids[i];
            return 0;
        }
    }
    return -ESRCH;
}

/* ---- the birth ---- */

static int end_helper(struct cold_cradle *cradle, pid_t helper, bool stays)
{
    cradle->may_go = 1;
    while (helper > 0 && !stays && waitpid(helper, NULL, __WALL) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* One attempt: the PID of the child as we see it, or a negative errno. */
static int clone_once(struct cold_cradle *cradle, const struct cold_family *family, pid_t *ret_helper)
{
    pid_t helper = cold_clone_helper(cradle, family), pid = 0;
    *ret_helper = 0;
    if (helper < 0)
        return helper;
    int r = helper && family->new_users ? map_users(helper) : 0;
    cradle->may_begin = 1;
    if (r == 0)
        r = wait_for(&cradle->result, helper);
    if (r > 0 && family->new_namespace) {
        pid = r;
        r = find_outside(helper, pid, &pid);
        r = r < 0 ? r : pid;
    }
    if (r < 0 && helper) {
        kill(helper, SIGKILL);
        end_helper(cradle, helper, false);
    } else {
        *ret_helper = helper;
    }
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

static int clone_under_number(struct cold_cradle *cradle, const struct cold_family *family,
                              const struct cold_plan *plan, uint64_t deadline_ns, pid_t *ret_helper,
                              uint64_t *ret_free_ns, struct reseat_error **ret_error)
{
    for (;;) {
        *ret_free_ns = now_ns();
        int r = clone_once(cradle, family, ret_helper);
        if (r > 0)
            return r;
        if (r != -EEXIST && r != -ECHILD)
            return report_clone(r, &plan->snapshot->process, ret_error);
        if (now_ns() >= deadline_ns)
            return process_report_taken(family->number, ret_error);
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

static int birth(struct cold_cradle *cradle, const struct cold_plan *plan, const struct cold_family *family,
                 uint64_t deadline_ns, struct target *process, uint64_t *ret_free_ns,
                 struct reseat_error **ret_error)
{
    pid_t helper;
    int pid = clone_under_number(cradle, family, plan, deadline_ns, &helper, ret_free_ns, ret_error);
    if (pid < 0)
        return pid;
    int report_signal = choose_report_signal(plan->snapshot);
    int r = wait_for(&cradle->is_born, 0);
    if (r < 0)
        r = error_errno(ret_error, r, "waiting for the new process %d", pid);
    else
        r = take_in_hand(pid, plan, family->place, process, ret_error);
    process->report_signal = report_signal;
    process->ns_pid = cradle->result;
    if (process->thread_count)
        process->threads[0].ns_tid = cradle->result;
    if (r == 0)
        r = leave_registrations(process, ret_error);
    if (r < 0)
        kill(pid, SIGKILL);
    if (r < 0 && !helper)
        waitpid(pid, NULL, __WALL);
    int ended = end_helper(cradle, helper, family->new_namespace);
    return r == 0 && ended < 0 ? error_errno(ret_error, ended, "waiting for a helper") : r;
}

int cold_birth(const struct cold_plan *plan, const struct cold_place *place, uint64_t deadline_ns,
               struct target *ret_process, bool *ret_has_session, uint64_t *ret_free_ns,
               struct reseat_error **ret_error)
{
    struct cold_family family = {
        .place = place,
        .tracer = getpid(),
        .number = plan->new_pid ? 0 : (pid_t)plan->snapshot->process.pid,
        .is_child = plan->is_child && !plan->new_namespace,
        .new_namespace = plan->new_namespace,
        .new_users = plan->new_namespace && geteuid() != 0,
    };
    bool stays;
    choose_family(plan, &family, &stays);
    struct cold_cradle *cradle =
        mmap(NULL, sizeof *cradle, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (cradle == MAP_FAILED)
        return error_errno(ret_error, -errno, "making room for the birth of a process");
    /* What is sent to our group meanwhile is not for the child. */
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int r = birth(cradle, plan, &family, deadline_ns, ret_process, ret_free_ns, ret_error);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    *ret_has_session = stays || cradle->has_session;
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
