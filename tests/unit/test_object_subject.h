/* A process to look at, for the tests of the object room and of the seam: it sets up its capability space,
 * says so, and sleeps until it is killed. */
#pragma once

#include "base/base.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>

#include <cmocka.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

static inline void fail_with_error(const char *where, const struct reseat_error *error)
{
    fail_msg("%s: %s", where, error ? error->message : "(no message)");
}

/* The error is taken by its address, as the call that sets it is an argument, too. */
static inline void must(int r, struct reseat_error *const *error, const char *what)
{
    if (r < 0)
        fail_with_error(what, *error);
}

/* Inside the subject, where cmocka does not reach: ends it, which the test sees. */
#define SUBJECT_CHECK(condition)                                                                             \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "subject: %s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);       \
            _exit(99);                                                                                       \
        }                                                                                                    \
    } while (0)

/* Runs `set_up` in a child; returns when it is done. Word of that comes through memory, because a pipe would
 * stand in the space that is looked at. */
static inline pid_t subject_start(void (*set_up)(void *userdata), void *userdata)
{
    atomic_int *is_ready =
        mmap(NULL, sizeof *is_ready, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(is_ready, MAP_FAILED);
    pid_t pid = fork();
    assert_return_code(pid, errno);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        set_up(userdata);
        atomic_store(is_ready, 1);
        for (;;)
            pause();
    }
    while (!atomic_load(is_ready)) {
        if (waitpid(pid, NULL, WNOHANG) != 0)
            fail_msg("the subject could not be set up");
        usleep(100);
    }
    munmap(is_ready, sizeof *is_ready);
    return pid;
}

static inline void subject_stop(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}
