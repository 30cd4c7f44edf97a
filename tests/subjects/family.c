/* Children and tracing: refused, because who waits for a child would wait for nobody, and a process has one
 * tracer (ptrace(2), wait(2)). Refused means too that nothing has happened to either. */
#include "subject.h"

#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

/* ---- children ---- */

static void has_a_child(void)
{
    pid_t child = MUST(fork());

    if (child == 0) {
        pause();
        _exit(0);
    }
    be_checkpointed();
    kill(child, SIGKILL);
    CHECK_EQUAL(waitpid(child, NULL, 0), child);
}

static void has_a_dead_child(void)
{
    pid_t child = MUST(fork());
    int status;

    if (child == 0)
        _exit(33);
    MUST(waitid(P_PID, (id_t)child, &(siginfo_t){0}, WEXITED | WNOWAIT));
    be_checkpointed();
    CHECK_EQUAL(waitpid(child, &status, 0), child);
    CHECK_EQUAL(WEXITSTATUS(status), 33);
}

/* ---- ptrace(2): a process has one tracer, and who traces is one ---- */

static void traces_another(void)
{
    pid_t other = (pid_t)receive_number();

    MUST(ptrace(PTRACE_SEIZE, other, 0, 0));
    be_checkpointed();
    CHECK(strtol(value_in("/proc/self/status", "Pid"), NULL, 10) == getpid());
    MUST(ptrace(PTRACE_INTERRUPT, other, 0, 0));
    CHECK_EQUAL(waitpid(other, NULL, __WALL), other);
    MUST(ptrace(PTRACE_DETACH, other, 0, 0));
}

static void be_traced(void)
{
    prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* for kernels with Yama */
    send_number(getpid());
    sleep_ms(3600000);
}

static void traced_by_another(void)
{
    send_number(getpid());
    receive_number();
    be_checkpointed();
    CHECK(strtol(value_in("/proc/self/status", "TracerPid"), NULL, 10) > 0);
}

static void trace(void)
{
    pid_t other = (pid_t)receive_number();

    MUST(ptrace(PTRACE_SEIZE, other, 0, 0));
    send_number(0);
    while (waitpid(other, NULL, __WALL) == other && kill(other, 0) == 0)
        MUST(ptrace(PTRACE_CONT, other, 0, 0) == 0 || errno == ESRCH ? 0 : -1);
    sleep_ms(3600000);
}

const struct subject subjects[] = {
    {"traces-another", traces_another, be_traced, .refused = "all: is tracing"},
    {"traced-by-another", traced_by_another, trace, .fails = "all: traced; install: traced"},
    {"child", has_a_child, .refused = "all: child"},
    {"dead-child", has_a_dead_child, .refused = "all: child"},
    {0},
};
