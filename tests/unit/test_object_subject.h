/* A process to look at, for the tests of the object room and of the seam: it sets up its capability space,
 * says so, and sleeps until it is killed. */
#pragma once

#include "base/base.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>

#include <cmocka.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static inline void fail_with_error(const char *where, const struct reseat_error *error)
{
    fail_msg("%s: %s", where, error ? error->message : "(no message)");
}

/* Inside the subject, where cmocka does not reach: ends it, which the test sees as "not ready". */
#define SUBJECT_CHECK(condition)                                                                             \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "subject: %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);       \
            _exit(99);                                                                                       \
        }                                                                                                    \
    } while (0)

/* Runs `set_up` in a child; returns when it is done. */
static inline pid_t subject_start(void (*set_up)(void *userdata), void *userdata)
{
    int ready[2];
    assert_return_code(pipe(ready), errno);
    pid_t pid = fork();
    assert_return_code(pid, errno);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ready[0]);
        set_up(userdata);
        SUBJECT_CHECK(write(ready[1], "r", 1) == 1);
        close(ready[1]);
        for (;;)
            pause();
    }
    close(ready[1]);
    char byte = 0;
    ssize_t n = read(ready[0], &byte, 1);
    /* The subject closes its end right after, so that the space does not change under the test. */
    char end;
    if (n == 1)
        n += read(ready[0], &end, 1);
    close(ready[0]);
    if (n != 1)
        fail_msg("the subject was not ready");
    return pid;
}

static inline void subject_stop(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}
