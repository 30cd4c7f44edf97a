/* Processes that have given up system calls: seccomp(2) filters, under which nothing else can be done inside,
 * not even for Reseat, unless it has the kernel look away (PTRACE_O_SUSPEND_SECCOMP); and syscall user
 * dispatch (prctl(2)). */
#include "subject.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <ucontext.h>

#define ALLOW(number)                                                                                        \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

/* read, write, exit and what a check needs; getppid says EPERM; everything else: `otherwise`. */
static void allow_few(unsigned otherwise)
{
    struct sock_filter rows[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_read),
        ALLOW(SYS_write),
        ALLOW(SYS_exit_group),
        ALLOW(SYS_exit),
        ALLOW(SYS_rt_sigreturn),
        ALLOW(SYS_clock_nanosleep),
        ALLOW(SYS_futex),
        ALLOW(SYS_restart_syscall),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_STMT(BPF_RET | BPF_K, otherwise),
    };

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &(struct sock_fprog){sizeof rows / sizeof *rows, rows}));
}

static void check_filtered(void)
{
    CHECK(syscall(SYS_getppid) < 0 && errno == 77);
}

static void refuses(void)
{
    allow_few(SECCOMP_RET_ERRNO | EPERM);
    be_checkpointed();
    check_filtered();
    CHECK(syscall(SYS_getpid) < 0 && errno == EPERM);
}

static void kills(void)
{
    allow_few(SECCOMP_RET_KILL_PROCESS);
    be_checkpointed();
    check_filtered();
}

/* As little as possible: seccomp mode 1, read, write, exit and sigreturn. A twin could not even sleep under
 * it. */
static void strict(void)
{
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT));
    be_checkpointed();
    if (write(STDOUT_FILENO, "ok\n", 3) == 3)
        syscall(SYS_exit, 0); /* exit_group(2) is not allowed */
}

static atomic_bool open_gate;
static atomic_int arrived;

static void *wait_filtered(void *argument)
{
    arrived++;
    while (!open_gate)
        sleep_ms(1);
    check_filtered();
    return argument;
}

/* Each thread has its own filters; here, all have one and one has another on top. */
static void *filter_oneself(void *argument)
{
    allow_few(SECCOMP_RET_ERRNO | EPERM);
    return wait_filtered(argument);
}

static void one_thread_only(void)
{
    pthread_t thread = start_thread(filter_oneself, NULL);

    while (!arrived)
        sleep_ms(1);
    be_checkpointed();
    open_gate = true;
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(syscall(SYS_getppid) > 0);
}

/* All threads have the same one, put on by the first for all (TSYNC). */
static void all_threads(void)
{
    pthread_t threads[5];
    struct sock_filter rows[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ptrace, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };

    for (int i = 0; i < 5; i++)
        threads[i] = start_thread(wait_filtered, NULL);
    while (arrived < 5)
        sleep_ms(1);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    CHECK_EQUAL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC,
                        &(struct sock_fprog){sizeof rows / sizeof *rows, rows}),
                0);
    be_checkpointed();
    check_filtered();
    open_gate = true;
    for (int i = 0; i < 5; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
}

/* ---- syscall user dispatch: calls from outside a range become SIGSYS while the selector byte says so ----
 */

static char dispatch_selector;
static volatile sig_atomic_t dispatched;

static void answer_dispatched(int number, siginfo_t *info, void *context)
{
    (void)number, (void)info;
    dispatch_selector = SYSCALL_DISPATCH_FILTER_ALLOW;
    dispatched++;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = 4711;
}

static void dispatch_to_the_program(void)
{
    MUST(sigaction(SIGSYS, &(struct sigaction){.sa_sigaction = answer_dispatched, .sa_flags = SA_SIGINFO},
                   NULL));
    dispatch_selector = SYSCALL_DISPATCH_FILTER_ALLOW;
    need_linux(6, 4, "before, nobody can see syscall user dispatch");
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &dispatch_selector) < 0)
        skip("this kernel has no syscall user dispatch");
    be_checkpointed();
    CHECK_EQUAL(dispatched, 0);
    dispatch_selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    CHECK_EQUAL(syscall(SYS_getppid), 4711);
    CHECK_EQUAL(dispatched, 1);
}

/* Stopped while every call is blocked: by another thread, as the first one could not wait for the go. */
static volatile bool leave;

static void *spin_blocked(void *argument)
{
    MUST(prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, 0, 0, &dispatch_selector));
    dispatch_selector = SYSCALL_DISPATCH_FILTER_BLOCK;
    while (!leave)
        ;
    CHECK_EQUAL(dispatched, 0);
    CHECK_EQUAL(syscall(SYS_getppid), 4711);
    CHECK_EQUAL(dispatched, 1);
    return argument;
}

static void dispatch_while_blocked(void)
{
    MUST(sigaction(SIGSYS, &(struct sigaction){.sa_sigaction = answer_dispatched, .sa_flags = SA_SIGINFO},
                   NULL));
    need_linux(6, 4, "before, nobody can see syscall user dispatch");
    if (prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_OFF, 0, 0, 0) < 0)
        skip("this kernel has no syscall user dispatch");
    pthread_t thread = start_thread(spin_blocked, NULL);
    sleep_ms(20);
    be_checkpointed();
    leave = true;
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK_EQUAL(dispatched, 1);
}

const struct subject subjects[] = {
    {"refuses", refuses, .new_pid = true},
    {"kills", kills, .new_pid = true},
    {"strict", strict, .fails = "all: seccomp"},
    {"one-thread-only", one_thread_only, .refused = "all: filter"},
    {"all-threads", all_threads},
    {"dispatch", dispatch_to_the_program},
    {"dispatch-blocked", dispatch_while_blocked},
    {0},
};
