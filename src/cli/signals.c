/* What a signal from outside does to the command: nothing but make the library's waiting loops fail with
 * -EINTR (there is no SA_RESTART), so that everything is put back in order by the same code that handles any
 * other failure.
 *
 * A signal that arrives between two waits would go unnoticed. So from the first one on a timer knocks again,
 * until a wait hears it or the verb has ended.
 *
 * See sigaction(2), signal(7), setitimer(2). */
#include "cli.h"

#include <sys/time.h>

static const int knock_interval_us = 10000;

/* The only state that is not on somebody's stack: a handler has no other place to write to. */
static volatile sig_atomic_t pending_signal;
/* And what a command that takes our place is to find again. */
static struct sigaction pipe_action_before;

static void knock(int number)
{
    (void)number; /* that a wait was interrupted is all there is to it */
}

/* setitimer(2) is a bare system call here, and so may be called in a handler. */
static void remember_signal(int number)
{
    const struct timeval interval = {.tv_usec = knock_interval_us};
    const struct itimerval timer = {.it_interval = interval, .it_value = interval};
    pending_signal = number;
    setitimer(ITIMER_REAL, &timer, NULL);
}

static void handle_signal(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

void signals_install(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    handle_signal(SIGALRM, knock);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction before;
        /* Whoever started us with a signal ignored (nohup, a shell's background job) meant it. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            handle_signal(numbers[i], remember_signal);
    }
    /* A reader of our output that goes away must not end us in the middle of a restore. */
    const struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGPIPE, &ignore, &pipe_action_before);
}

void signals_restore(void)
{
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    sigaction(SIGPIPE, &pipe_action_before, NULL);
}

int signals_pending(void)
{
    return pending_signal;
}

int signals_take(void)
{
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);
    int number = pending_signal;
    pending_signal = 0;
    return number;
}
