/* Runs a command under ptrace(2) and strikes it with a signal at a moment that is chosen to the instruction:
 *
 *   killer [--signal N] [--all | --changes] [--at N [--steps N] [--late MICROSECONDS]] [--entry] -- COMMAND…
 *
 * --at N: when its N-th system call is done (--entry: about to begin). Counted are all calls but those with
 * which it only waits (whose number is chance); --all: those, too; --changes: only calls with which it
 * changes something outside of itself. --steps: so many single instructions later. --late: the call is done,
 * and the command runs on for so many microseconds. Without --at it runs to its end.
 *
 * Says on standard output, in one line, what happened: "struck CALL NAME WHEN status S" or "ended CALLS
 * status S"; S as waitpid(2) has it. That a command which traces others is traced itself does not matter to
 * either. It returns only after the command is gone, and so after the kernel has let go of all that it traced
 * (exit_notify()). */
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SYSCALL_STOP (SIGTRAP | 0x80)

struct name {
    long number;
    const char *name;
};

/* Calls that only pass the time: how many there are differs from run to run. */
static const struct name waiting[] = {
    {SYS_sched_yield, "sched_yield"},
    {SYS_wait4, "wait4"},
    {SYS_clock_nanosleep, "clock_nanosleep"},
    {SYS_nanosleep, "nanosleep"},
    {SYS_clock_gettime, "clock_gettime"},
    {SYS_access, "access"},
    {SYS_poll, "poll"},
};

/* Calls that change something outside of the process that makes them. */
static const struct name changing[] = {
    {SYS_ptrace, "ptrace"},
    {SYS_pwrite64, "pwrite64"},
    {SYS_process_vm_writev, "process_vm_writev"},
    {SYS_write, "write"},
    {SYS_writev, "writev"},
    {SYS_kill, "kill"},
    {SYS_tgkill, "tgkill"},
    {SYS_pidfd_send_signal, "pidfd_send_signal"},
    {SYS_sendmsg, "sendmsg"},
    {SYS_mkdirat, "mkdirat"},
    {SYS_rename, "rename"},
    {SYS_renameat, "renameat"},
    {SYS_renameat2, "renameat2"},
    {SYS_unlink, "unlink"},
    {SYS_unlinkat, "unlinkat"},
    {SYS_rmdir, "rmdir"},
    {SYS_fchown, "fchown"},
    {SYS_ioctl, "ioctl"},
    {SYS_clone, "clone"},
    {SYS_fsync, "fsync"},
    {SYS_sched_setattr, "sched_setattr"},
    {SYS_sched_setaffinity, "sched_setaffinity"},
};

static const char *find(const struct name *names, size_t count, long number)
{
    for (size_t i = 0; i < count; i++)
        if (names[i].number == number)
            return names[i].name;
    return NULL;
}

#define FIND(names, number) find(names, sizeof(names) / sizeof((names)[0]), number)

enum counted { COUNT_ALL, COUNT_USUAL, COUNT_CHANGES };

struct plan {
    int signal;
    enum counted counted;
    long at, steps, late_us;
    bool at_entry;
};

struct strike {
    long call, number;
    unsigned long first_argument;
    const char *when;
};

static void die(const char *what)
{
    fprintf(stderr, "killer: %s: %s\n", what, strerror(errno));
    exit(2);
}

static bool counts(const struct plan *plan, long number)
{
    return plan->counted == COUNT_ALL || (plan->counted == COUNT_CHANGES && FIND(changing, number)) ||
           (plan->counted == COUNT_USUAL && !FIND(waiting, number));
}

static pid_t start(char **command)
{
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        execvp(command[0], command);
        die(command[0]);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFSTOPPED(status))
        die("waiting for the command");
    if (ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL)) < 0)
        die("PTRACE_SETOPTIONS");
    return pid;
}

/* Lets it go on to its next stop; a signal that it gets on the way is delivered. False: it has ended. */
static bool resume(enum __ptrace_request how, pid_t pid, int *ret_status)
{
    int signal = 0;
    for (;;) {
        if (ptrace(how, pid, NULL, (void *)(long)signal) < 0 && errno != ESRCH)
            die("ptrace");
        if (waitpid(pid, ret_status, 0) != pid)
            die("waitpid");
        if (!WIFSTOPPED(*ret_status))
            return false;
        int stop = WSTOPSIG(*ret_status);
        if (stop == SYSCALL_STOP || stop == SIGTRAP)
            return true;
        signal = *ret_status >> 16 ? 0 : stop;
    }
}

static struct user_regs_struct registers(pid_t pid)
{
    struct user_regs_struct regs;
    struct iovec vector = {&regs, sizeof regs};
    if (ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &vector) < 0)
        die("PTRACE_GETREGSET");
    return regs;
}

/* Runs it up to the moment of the strike. False: it ended before, after `strike->call` calls. */
static bool run_up_to(const struct plan *plan, pid_t pid, struct strike *strike, int *ret_status)
{
    while (resume(PTRACE_SYSCALL, pid, ret_status)) {
        struct user_regs_struct regs = registers(pid);
        long number = (long)regs.orig_rax;
        bool is_counted = counts(plan, number);
        strike->call += is_counted;
        bool is_it = is_counted && strike->call == plan->at;
        if (is_it) {
            strike->number = number;
            strike->first_argument = regs.rdi;
        }
        if (is_it && plan->at_entry)
            return true;
        if (!resume(PTRACE_SYSCALL, pid, ret_status))
            return false;
        if (is_it)
            break;
    }
    for (long i = 0; i < plan->steps; i++)
        if (!resume(PTRACE_SINGLESTEP, pid, ret_status))
            return false;
    return WIFSTOPPED(*ret_status);
}

/* The command is not stopped when it is struck: the signal comes while it runs. */
static void let_run(const struct plan *plan, pid_t pid)
{
    struct timespec pause = {plan->late_us / 1000000, plan->late_us % 1000000 * 1000};
    ptrace(PTRACE_CONT, pid, NULL, NULL);
    nanosleep(&pause, NULL);
}

static int strike_it(const struct plan *plan, pid_t pid)
{
    int status;
    if (plan->late_us)
        let_run(plan, pid);
    if (kill(pid, plan->signal) < 0)
        die("kill");
    if (!plan->late_us)
        ptrace(PTRACE_CONT, pid, NULL, NULL);
    for (;;) {
        if (waitpid(pid, &status, 0) != pid)
            die("waitpid");
        if (!WIFSTOPPED(status))
            return status;
        int stop = WSTOPSIG(status);
        ptrace(PTRACE_CONT, pid, NULL, (void *)(long)(stop == SYSCALL_STOP || stop == SIGTRAP ? 0 : stop));
    }
}

static char **parse(char **argument, struct plan *plan)
{
    *plan = (struct plan){.signal = SIGKILL, .counted = COUNT_USUAL};
    for (; *argument && strcmp(*argument, "--") != 0; argument++) {
        if (strcmp(*argument, "--all") == 0) {
            plan->counted = COUNT_ALL;
        } else if (strcmp(*argument, "--changes") == 0) {
            plan->counted = COUNT_CHANGES;
        } else if (strcmp(*argument, "--entry") == 0) {
            plan->at_entry = true;
        } else if (argument[1]) {
            long value = atol(argument[1]);
            if (strcmp(*argument, "--signal") == 0)
                plan->signal = (int)value;
            else if (strcmp(*argument, "--at") == 0)
                plan->at = value;
            else if (strcmp(*argument, "--steps") == 0)
                plan->steps = value;
            else if (strcmp(*argument, "--late") == 0)
                plan->late_us = value;
            else
                return NULL;
            argument++;
        } else {
            return NULL;
        }
    }
    return *argument && argument[1] ? argument + 1 : NULL;
}

int main(int argc, char **argv)
{
    struct plan plan;
    struct strike strike = {0};
    char **command = argc > 1 ? parse(argv + 1, &plan) : NULL;
    if (!command) {
        fprintf(stderr, "usage: killer [--signal N] [--all | --changes] [--at N [--steps N] [--late US]] "
                        "[--entry] -- COMMAND...\n");
        return 2;
    }
    int status;
    pid_t pid = start(command);
    if (!run_up_to(&plan, pid, &strike, &status)) {
        printf("ended %ld status %d\n", strike.call, status);
        return 0;
    }
    status = strike_it(&plan, pid);
    const char *name = FIND(changing, strike.number);
    printf("struck %ld %s(%#lx)[%ld] %s+%ld+%ldus status %d\n", strike.call, name ? name : "other",
           strike.first_argument, strike.number, plan.at_entry ? "entry" : "exit", plan.steps, plan.late_us,
           status);
    return 0;
}
