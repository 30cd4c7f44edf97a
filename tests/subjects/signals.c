/* Signals: what is done about each, what is blocked, what is pending and with what information (sigaction(2),
 * rt_sigqueueinfo(2)), and the state of a process that was stopped by one. */
#include "subject.h"

#include <poll.h>
#include <stdatomic.h>
#include <sys/signalfd.h>
#include <ucontext.h>

static void block(int number)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static bool is_pending(int number)
{
    sigset_t set;

    sigpending(&set);
    return sigismember(&set, number);
}

/* Takes a pending signal; fails if there is none. */
static siginfo_t take(int number)
{
    sigset_t set;
    siginfo_t info;

    sigemptyset(&set);
    sigaddset(&set, number);
    if (sigtimedwait(&set, &info, &(struct timespec){0}) != number)
        fail(__FILE__, __LINE__, "signal %d is not pending: %s", number, strerror(errno));
    return info;
}

static void queue(int number, int value)
{
    MUST(sigqueue(getpid(), number, (union sigval){.sival_int = value}));
}

static void queue_to_thread(int tid, int number, int value)
{
    siginfo_t info = {.si_signo = number, .si_code = SI_QUEUE};

    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_int = value;
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, number, &info));
}

/* ---- handlers ---- */

static volatile sig_atomic_t handled, handled_with_mask;

static void note(int number)
{
    sigset_t mask;

    sigprocmask(SIG_SETMASK, NULL, &mask);
    handled_with_mask = sigismember(&mask, SIGHUP);
    handled = number;
}

static void handlers(void)
{
    static const int flags[] = {0,          SA_RESTART,
                                SA_NODEFER, SA_RESETHAND,
                                SA_ONSTACK, SA_RESTART | SA_NOCLDSTOP};
    struct sigaction wanted[65] = {0};

    for (int number = 1; number < 65; number++) {
        if (number == SIGKILL || number == SIGSTOP || number == 32 || number == 33)
            continue;
        wanted[number].sa_handler = number % 5 == 0 ? SIG_IGN : number % 7 == 0 ? SIG_DFL : note;
        wanted[number].sa_flags = flags[number % 6];
        sigemptyset(&wanted[number].sa_mask);
        if (number % 2)
            sigaddset(&wanted[number].sa_mask, SIGHUP);
        MUST(sigaction(number, &wanted[number], NULL));
        MUST(sigaction(number, NULL, &wanted[number])); /* the library adds a flag */
    }
    be_checkpointed();
    for (int number = 1; number < 65; number++) {
        struct sigaction found;
        if (number == SIGKILL || number == SIGSTOP || number == 32 || number == 33)
            continue;
        MUST(sigaction(number, NULL, &found));
        CHECK(found.sa_handler == wanted[number].sa_handler);
        CHECK_EQUAL(found.sa_flags, wanted[number].sa_flags);
        CHECK_EQUAL(sigismember(&found.sa_mask, SIGHUP), number % 2);
        if (wanted[number].sa_handler != note)
            continue;
        handled = 0;
        raise(number);
        CHECK_EQUAL(handled, number);
        CHECK_EQUAL(handled_with_mask, number % 2);
    }
}

/* A program that ignores or blocks what debuggers use must not get in the way. */
static void trap_and_urgent_are_its_own(void)
{
    signal(SIGTRAP, SIG_IGN);
    MUST(sigaction(SIGURG, &(struct sigaction){.sa_handler = note, .sa_flags = SA_RESTART}, NULL));
    block(SIGTRAP);
    be_checkpointed();
    CHECK_EQUAL(handled, 0);
    raise(SIGURG);
    CHECK_EQUAL(handled, SIGURG);
    struct sigaction found;
    MUST(sigaction(SIGTRAP, NULL, &found));
    CHECK(found.sa_handler == SIG_IGN);
}

static void urgent_is_blocked_and_pending(void)
{
    MUST(sigaction(SIGURG, &(struct sigaction){.sa_handler = note}, NULL));
    block(SIGURG);
    queue(SIGURG, 17);
    be_checkpointed();
    CHECK_EQUAL(handled, 0);
    siginfo_t info = take(SIGURG);
    CHECK_EQUAL(info.si_code, SI_QUEUE);
    CHECK_EQUAL(info.si_value.sival_int, 17);
    CHECK(!is_pending(SIGURG));
}

/* Everything blocked, and each stack and register set of the handler on top of another. */
static volatile bool in_handler;

static void stay_in_handler(int number)
{
    (void)number;
    if (in_handler)
        return;
    in_handler = true;
    be_checkpointed();
}

static void inside_a_handler(void)
{
    uint64_t local[64];

    fill(local, sizeof local, 3);
    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = stay_in_handler}, NULL));
    raise(SIGUSR1);
    CHECK(in_handler);
    CHECK(is_filled(local, sizeof local, 3));
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    CHECK(!sigismember(&mask, SIGUSR1));
}

static void everything_blocked(void)
{
    sigset_t all, found;

    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    be_checkpointed();
    sigprocmask(SIG_SETMASK, NULL, &found);
    for (int number = 1; number < 65; number++)
        if (number != SIGKILL && number != SIGSTOP && number != 32 && number != 33)
            CHECK(sigismember(&found, number));
    sigpending(&found);
    CHECK(sigisemptyset(&found));
}

/* ---- pending ---- */

static void pending_for_the_process(void)
{
    block(SIGUSR1), block(SIGTERM), block(SIGRTMIN + 3);
    kill(getpid(), SIGTERM);
    queue(SIGUSR1, 42);
    queue(SIGRTMIN + 3, 1), queue(SIGRTMIN + 3, 2), queue(SIGRTMIN + 3, 3);
    be_checkpointed();
    siginfo_t info = take(SIGTERM);
    CHECK_EQUAL(info.si_code, SI_USER);
    CHECK_EQUAL(info.si_pid, getpid());
    CHECK_EQUAL(info.si_uid, getuid());
    info = take(SIGUSR1);
    CHECK_EQUAL(info.si_code, SI_QUEUE);
    CHECK_EQUAL(info.si_value.sival_int, 42);
    for (int value = 1; value <= 3; value++)
        CHECK_EQUAL(take(SIGRTMIN + 3).si_value.sival_int, value);
    CHECK(!is_pending(SIGRTMIN + 3) && !is_pending(SIGUSR1) && !is_pending(SIGTERM));
}

static void many_pending(void)
{
    enum { COUNT = 500 };

    for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
        block(number);
    for (int i = 0; i < COUNT; i++)
        queue(SIGRTMIN + i % 10, i);
    be_checkpointed();
    for (int number = 0; number < 10; number++)
        for (int i = number; i < COUNT; i += 10)
            CHECK_EQUAL(take(SIGRTMIN + number).si_value.sival_int, i);
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++)
        CHECK(!is_pending(number));
}

static atomic_int thread, told;

static void *have_own_pending(void *argument)
{
    thread = thread_id();
    while (!told)
        sleep_ms(1);
    CHECK_EQUAL(take(SIGUSR2).si_value.sival_int, 7);
    CHECK_EQUAL(take(SIGRTMIN).si_value.sival_int, 8);
    CHECK_EQUAL(take(SIGRTMIN).si_value.sival_int, 9);
    CHECK(!is_pending(SIGUSR2) && !is_pending(SIGRTMIN));
    told = 2;
    return argument;
}

static void pending_for_a_thread(void)
{
    block(SIGUSR2), block(SIGRTMIN);
    pthread_t other = start_thread(have_own_pending, NULL);
    while (!thread)
        sleep_ms(1);
    queue_to_thread(thread, SIGUSR2, 7);
    queue_to_thread(thread, SIGRTMIN, 8), queue_to_thread(thread, SIGRTMIN, 9);
    queue_to_thread(thread_id(), SIGUSR2, 6);
    be_checkpointed();
    told = 1;
    CHECK_EQUAL(pthread_join(other, NULL), 0);
    CHECK_EQUAL(told, 2);
    CHECK_EQUAL(take(SIGUSR2).si_value.sival_int, 6);
    CHECK(!is_pending(SIGUSR2) && !is_pending(SIGRTMIN));
}

/* As the kernel makes it: si_code is positive, which another process could not send. */
static void pending_from_the_kernel(void)
{
    block(SIGALRM), block(SIGIO), block(SIGPIPE);
    int ends[2];
    MUST(pipe(ends));
    close(ends[0]);
    CHECK(write(ends[1], "x", 1) < 0);
    MUST(fcntl(GO, F_GETFL));
    alarm(1);
    while (!is_pending(SIGALRM))
        sleep_ms(10);
    be_checkpointed();
    CHECK_EQUAL(take(SIGALRM).si_code, SI_KERNEL);
    CHECK_EQUAL(take(SIGPIPE).si_code, SI_USER);
}

static void pending_in_a_signalfd(void)
{
    sigset_t set;
    struct signalfd_siginfo info;

    block(SIGRTMIN + 1);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 1);
    int fd = MUST(signalfd(-1, &set, SFD_CLOEXEC));
    queue(SIGRTMIN + 1, 31);
    be_checkpointed();
    CHECK_EQUAL(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0), 1);
    CHECK_EQUAL(MUST(read(fd, &info, sizeof info)), sizeof info);
    CHECK_EQUAL(info.ssi_int, 31);
}

/* ---- stopped ---- */

static void stopped(void)
{
    be_checkpointed(); /* the runner stops us before, and finds us stopped after */
}

static void *sleep_on(void *argument)
{
    pause();
    return argument;
}

static void stopped_with_threads(void)
{
    for (int i = 0; i < 5; i++)
        start_thread(sleep_on, NULL);
    be_checkpointed();
}

const struct subject subjects[] = {
    {"handlers", handlers, .new_pid = true},
    {"trap-and-urgent", trap_and_urgent_are_its_own},
    {"urgent-pending", urgent_is_blocked_and_pending},
    {"inside-a-handler", inside_a_handler, .new_pid = true},
    {"everything-blocked", everything_blocked, .new_pid = true},
    {"pending-for-the-process", pending_for_the_process},
    {"many-pending", many_pending, .new_pid = true},
    {"pending-for-a-thread", pending_for_a_thread},
    {"pending-from-the-kernel", pending_from_the_kernel},
    {"pending-in-a-signalfd", pending_in_a_signalfd},
    {"stopped", stopped, .stopped = true},
    {"stopped-with-threads", stopped_with_threads, .stopped = true},
    {0},
};
