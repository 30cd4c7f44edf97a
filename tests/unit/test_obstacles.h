/* For tests of what would not come back: forks a real process that makes one condition and waits, and looks
 * for the sentence that says it. A condition that this kernel or this user cannot make is skipped, by name.
 */
#pragma once

#include "process/obstacles-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#define NOBODY 65534

static const enum snapshot_form heir = SNAPSHOT_FORM_HEIR, copy = SNAPSHOT_FORM_COPY;

/* Makes the condition; returns its selector, -1 if it is not about one, SETUP_IMPOSSIBLE if it cannot be
 * made. */
typedef int setup_fn(void);
#define SETUP_IMPOSSIBLE (-2)

static inline void wait_for_ever(void)
{
    for (;;)
        pause();
}

static inline pid_t fork_dying_with_parent(void)
{
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
    }
    return pid;
}

struct subject {
    pid_t pid;
    int selector;
};

static inline struct subject subject_start(setup_fn *setup)
{
    int pipe_fds[2];
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    struct subject subject = {.pid = fork_dying_with_parent()};
    assert_true(subject.pid >= 0);
    if (subject.pid == 0) {
        close(pipe_fds[0]);
        int selector = setup ? setup() : -1;
        if (write(pipe_fds[1], &selector, sizeof selector) < 0)
            _exit(1);
        wait_for_ever();
    }
    close(pipe_fds[1]);
    ssize_t n = read(pipe_fds[0], &subject.selector, sizeof subject.selector);
    close(pipe_fds[0]);
    assert_int_equal(n, sizeof subject.selector);
    return subject;
}

static inline void subject_end(const struct subject *subject)
{
    kill(subject->pid, SIGKILL);
    waitpid(subject->pid, NULL, 0);
    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
        ; /* what it cloned with CLONE_PARENT */
}

static inline struct subject subject_start_or_skip(setup_fn *setup)
{
    struct subject subject = subject_start(setup);
    if (subject.selector == SETUP_IMPOSSIBLE) {
        subject_end(&subject);
        skip();
    }
    return subject;
}

static inline void assert_ok(int r, struct reseat_error *error)
{
    if (r < 0)
        fail_msg("%d: %s", r, error ? error->message : "no message");
}

static inline const struct obstacle *obstacles_search(const struct obstacles *obstacles, const char *words)
{
    for (size_t i = 0; i < obstacles->count; i++)
        if (strstr(obstacles->items[i].sentence, words))
            return &obstacles->items[i];
    return NULL;
}

static inline size_t count_grave(const struct obstacles *obstacles)
{
    size_t count = 0;
    for (size_t i = 0; i < obstacles->count; i++) {
        if (obstacles->items[i].severity == SEVERITY_NOTE)
            continue;
        count++;
        print_message("    %s\n", obstacles->items[i].sentence);
    }
    return count;
}

static inline struct obstacles find(pid_t pid, enum snapshot_form form)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    struct obstacles obstacles = {0};
    int r = process_find_obstacles(pid, form, form == SNAPSHOT_FORM_COPY, &obstacles, &error);
    assert_ok(r, error);
    return obstacles;
}

/* The condition yields exactly this sentence, and nothing else that is grave. */
static inline void expect(setup_fn *setup, enum snapshot_form form, enum severity severity, const char *words)
{
    struct subject subject = subject_start_or_skip(setup);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, form);
    subject_end(&subject);
    const struct obstacle *found = obstacles_search(&obstacles, words);
    size_t grave = count_grave(&obstacles);
    if (!found)
        fail_msg("no sentence with \"%s\"", words);
    assert_int_equal(found->severity, severity);
    assert_int_equal(found->selector, subject.selector);
    assert_int_equal(grave, severity == SEVERITY_NOTE ? 0 : 1);
    char pid_words[32];
    snprintf(pid_words, sizeof pid_words, "PID %d (", subject.pid);
    assert_non_null(strstr(found->sentence, pid_words));
}

static inline void expect_nothing(setup_fn *setup, enum snapshot_form form)
{
    struct subject subject = subject_start_or_skip(setup);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, form);
    subject_end(&subject);
    assert_int_equal(count_grave(&obstacles), 0);
}

/* ---- conditions that several tests make ---- */

static inline int make_tracee(void)
{
    pid_t pid = fork_dying_with_parent();
    if (pid == 0)
        wait_for_ever();
    return ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static inline int add_filter(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = 1, .filter = &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static inline void become_nobody(void)
{
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) < 0 ||
        syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) < 0)
        _exit(1);
    prctl(PR_SET_DUMPABLE, 1);
}

static inline int make_filtered_nobody(void)
{
    become_nobody();
    return add_filter() < 0 ? SETUP_IMPOSSIBLE : -1;
}

struct thread_setup {
    int (*condition)(void); /* negative: cannot be made */
    bool is_possible;
    atomic_bool is_done;
};

static inline void *run_in_thread(void *argument)
{
    struct thread_setup *setup = argument;
    setup->is_possible = setup->condition() >= 0;
    atomic_store(&setup->is_done, true);
    wait_for_ever();
    return NULL;
}

static inline int make_thread(int (*condition)(void))
{
    struct thread_setup setup = {.condition = condition};
    pthread_t thread;
    if (pthread_create(&thread, NULL, run_in_thread, &setup) != 0)
        return SETUP_IMPOSSIBLE;
    while (!atomic_load(&setup.is_done))
        usleep(1000);
    return setup.is_possible ? -1 : SETUP_IMPOSSIBLE;
}

static inline int no_condition(void)
{
    return 0;
}

static inline int make_plain_threads(void)
{
    for (int i = 0; i < 3; i++)
        if (make_thread(no_condition) != -1)
            return SETUP_IMPOSSIBLE;
    return -1;
}
