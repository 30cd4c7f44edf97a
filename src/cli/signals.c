/* What a signal from outside does to the command: nothing but make the library's waiting loops fail with
 * -EINTR (there is no SA_RESTART), so that everything is put back in order by the same code that handles any
 * other failure. See sigaction(2), signal(7). */
#include "cli.h"

/* The only state that is not on somebody's stack: a handler has no other place to write to. */
static volatile sig_atomic_t pending_signal;

static void remember_signal(int number)
{
    pending_signal = number;
}

void signals_install(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct sigaction before, action = {.sa_handler = remember_signal};
        sigemptyset(&action.sa_mask);
        /* Whoever started us with a signal ignored (nohup, a shell's background job) meant it. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
    /* A reader of our output that goes away must not end us in the middle of a restore. */
    signal(SIGPIPE, SIG_IGN);
}

int signals_pending(void)
{
    return pending_signal;
}
