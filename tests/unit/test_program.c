/* Taking a process in hand: programs run inside a real child, and the ways in which they end. */
#include "target/target.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <cmocka.h>

/* A child that counts in shared memory, so that it can be seen whether it runs. */
struct child {
    pid_t pid;
    volatile unsigned long *count;
};

static void *wait_for_ever(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

static int start_with_threads(void **state, unsigned thread_count)
{
    struct child *child = calloc(1, sizeof *child);
    assert_non_null(child);
    child->count =
        mmap(NULL, sizeof *child->count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    child->pid = fork();
    if (child->pid == 0) {
        pthread_t thread;
        while (thread_count-- > 0)
            pthread_create(&thread, NULL, wait_for_ever, NULL);
        for (;; ++*child->count)
            usleep(100);
    }
    *state = child;
    return 0;
}

static int start_child(void **state)
{
    return start_with_threads(state, 0);
}

static int end_child(void **state)
{
    struct child *child = *state;
    kill(child->pid, SIGKILL);
    waitpid(child->pid, NULL, 0);
    munmap((void *)child->count, sizeof *child->count);
    free(child);
    return 0;
}

static int start_child_with_threads(void **state)
{
    return start_with_threads(state, 4);
}

static void check_runs(const struct child *child)
{
    unsigned long before = *child->count;
    for (int i = 0; i < 1000 && *child->count == before; i++)
        usleep(1000);
    assert_true(*child->count > before);
}

static char *maps_of(pid_t pid)
{
    char path[32], *maps;
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    assert_int_equal(file_read(-1, path, &maps, NULL), 0);
    return maps;
}

static struct target take(const struct child *child)
{
    struct target target;
    struct reseat_error *error = NULL;
    assert_int_equal(target_seize(child->pid, &target, &error), 0);
    assert_int_equal(target_stop(&target, &error), 0);
    return target;
}

static void wait_until_it_counts(const struct child *child)
{
    while (*child->count < 2)
        usleep(100);
}

/* A process that is killed ends at once, whoever holds its threads. */
static void sees_the_end_of_all_threads(void **state)
{
    struct child *child = *state;
    wait_until_it_counts(child);
    struct target target;
    _cleanup_error_ struct reseat_error *error = NULL;
    assert_int_equal(target_seize(child->pid, &target, NULL), 0);
    assert_int_equal(target.thread_count, 5);
    kill(child->pid, SIGKILL);
    uint64_t start_ns = now_ns();
    assert_int_equal(target_stop(&target, &error), -ESRCH);
    target_release(&target);
    assert_true(now_ns() - start_ns < 2000000000U);
    assert_int_equal(kill(child->pid, 0), -1);
}

static void collects_the_end_of_a_stopped_process(void **state)
{
    struct child *child = *state;
    wait_until_it_counts(child);
    struct target target = take(child);
    kill(child->pid, SIGKILL);
    uint64_t start_ns = now_ns();
    target_release(&target);
    assert_true(now_ns() - start_ns < 2000000000U);
    assert_int_equal(kill(child->pid, 0), -1);
}

static void leaves_nothing(void **state)
{
    struct child *child = *state;
    _cleanup_free_ char *before = maps_of(child->pid);
    for (int i = 0; i < 20; i++) {
        struct target target = take(child);
        assert_int_equal(target_map_scratch(&target, 65536, NULL), 0);
        target_release(&target);
    }
    check_runs(child);
    _cleanup_free_ char *after = maps_of(child->pid);
    assert_string_equal(before, after);
}

static void hands_results_on(void **state)
{
    struct child *child = *state;
    struct target target = take(child);
    assert_int_equal(target_map_scratch(&target, 65536, NULL), 0);
    struct program program;
    assert_int_equal(program_begin(&program, &target.scratch, 16, 0, NULL), 0);
    size_t get_pid = program_call(&program, NULL, SYS_getpid, 0);
    size_t get_group = program_call(&program, "asking for the group", SYS_getpgid, 0);
    program_set_result_address(&program, get_pid, program_argument_address(&program, get_group, 0));
    assert_int_equal(program_run_batch(&target, &program, NULL), 0);
    assert_int_equal(program_result(&program, get_group), getpgid(child->pid));
    program_end(&program);
    target_release(&target);
    check_runs(child);
}

static void stops_at_a_failure(void **state)
{
    struct child *child = *state;
    struct target target = take(child);
    struct reseat_error *error = NULL;
    assert_int_equal(target_map_scratch(&target, 65536, NULL), 0);
    struct program program;
    assert_int_equal(program_begin(&program, &target.scratch, 16, 0, NULL), 0);
    program_call(&program, NULL, SYS_close, 12345); /* may fail */
    program_call(&program, "closing what is not open", SYS_close, 12346);
    size_t never = program_call(&program, NULL, SYS_getpid, 0);
    assert_int_equal(program_run_batch(&target, &program, &error), -EBADF);
    assert_non_null(strstr(error->message, "closing what is not open"));
    assert_int_equal(program_result(&program, never), -ECANCELED);
    base_error_free(&error);
    program_end(&program);
    target_release(&target);
    check_runs(child);
}

static void refuses_what_does_not_fit(void **state)
{
    struct child *child = *state;
    struct target target = take(child);
    struct reseat_error *error = NULL;
    assert_int_equal(target_map_scratch(&target, 8192, NULL), 0);
    struct program program;
    assert_int_equal(program_begin(&program, &target.scratch, 100000, 0, &error), -ENOSPC);
    program_end(&program);
    assert_int_equal(program_begin(&program, &target.scratch, 2, 0, &error), 0);
    for (int i = 0; i < 3; i++)
        program_call(&program, NULL, SYS_getpid, 0);
    assert_int_equal(program_start(&target, &target.threads[0], &program, &error), -ENOSPC);
    base_error_free(&error);
    program_end(&program);
    target_release(&target);
    check_runs(child);
}

/* A tracer that dies while the child stands anywhere in a program: it finds back by itself. */
static void outlives_its_tracer(void **state)
{
    struct child *child = *state;
    for (int moment = 0; moment < 3; moment++) {
        pid_t tracer = fork();
        if (tracer == 0) {
            struct target target = take(child);
            target_map_scratch(&target, 65536, NULL);
            struct target_thread *leader = &target.threads[0];
            static uint8_t xstate[16384];
            size_t length = 0;
            struct program program;
            program_begin(&program, &target.scratch, 16, PROGRAM_RETURN_BYTES, NULL);
            program_call(&program, NULL, SYS_getpid, 0);
            program_report(&program, target.report_signal, target.ns_pid, leader->ns_tid);
            program_call(&program, NULL, SYS_getpid, 0);
            program_return(&program, leader->regs, leader->signal_mask, xstate, length);
            target_flush_scratch(&target, NULL);
            if (moment > 0)
                program_start(&target, leader, &program, NULL);
            if (moment > 1)
                program_await(&target, leader, &program, NULL);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(tracer, &status, 0), tracer);
        assert_true(WIFEXITED(status));
        check_runs(child);
    }
}

/* What the processor says of its extended state is what ptrace gives. */
static void knows_the_extended_state(void **state)
{
    (void)state;
    uint8_t xstate[65536];
    pid_t pid = fork();
    if (pid == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
    struct iovec vector = {xstate, sizeof xstate};
    assert_int_equal(ptrace(PTRACE_GETREGSET, pid, arch_xstate_note, &vector), 0);
    assert_int_equal(vector.iov_len, arch_xstate_length());
    struct arch_xstate_layout layout;
    arch_xstate_layout(&layout);
    assert_null(arch_missing_xstate(xstate, vector.iov_len, &layout));
    uint64_t in_use = UINT64_C(1) << 18 | UINT64_C(1) << 40; /* one that no processor has yet */
    memcpy(xstate + 512, &in_use, sizeof in_use);
    assert_non_null(arch_missing_xstate(xstate, vector.iov_len, &layout));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(sees_the_end_of_all_threads, start_child_with_threads, end_child),
        cmocka_unit_test_setup_teardown(collects_the_end_of_a_stopped_process, start_child_with_threads,
                                        end_child),
        cmocka_unit_test_setup_teardown(leaves_nothing, start_child, end_child),
        cmocka_unit_test_setup_teardown(hands_results_on, start_child, end_child),
        cmocka_unit_test_setup_teardown(stops_at_a_failure, start_child, end_child),
        cmocka_unit_test_setup_teardown(refuses_what_does_not_fit, start_child, end_child),
        cmocka_unit_test_setup_teardown(outlives_its_tracer, start_child, end_child),
        cmocka_unit_test(knows_the_extended_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
