/* What would not come back of threads is found: tables, directories, namespaces, credentials and filters of
 * their own. */
#include "test_obstacles.h"

#include <linux/capability.h>
#include <sched.h>

static int unshare_table(void)
{
    return unshare(CLONE_FILES);
}

static int unshare_directories(void)
{
    return unshare(CLONE_FS);
}

static int unshare_network(void)
{
    return unshare(CLONE_NEWNET);
}

static int change_user(void)
{
    return (int)syscall(SYS_setresuid, -1, NOBODY, -1);
}

static int drop_capability(void)
{
    return prctl(PR_CAPBSET_DROP, CAP_SYS_BOOT, 0, 0, 0);
}

static int make_thread_with_table(void)
{
    return make_thread(unshare_table);
}

static int make_thread_with_directories(void)
{
    return make_thread(unshare_directories);
}

static int make_thread_with_network(void)
{
    return make_thread(unshare_network);
}

static int make_thread_with_user(void)
{
    return geteuid() == 0 ? make_thread(change_user) : SETUP_IMPOSSIBLE;
}

static int make_thread_with_capabilities(void)
{
    return geteuid() == 0 ? make_thread(drop_capability) : SETUP_IMPOSSIBLE;
}

static int make_thread_with_filter(void)
{
    return make_thread(add_filter);
}

static int make_filtered_process(void)
{
    return add_filter() < 0 ? SETUP_IMPOSSIBLE : -1;
}

static void test_threads(void **state)
{
    (void)state;
    expect_nothing(make_plain_threads, copy);
    expect(make_thread_with_table, heir, SEVERITY_LOST, "has a descriptor table of its own");
    expect(make_thread_with_directories, heir, SEVERITY_LOST, "has a working directory, root directory");
}

static void *end_at_once(void *unused)
{
    return unused;
}

/* Threads and descriptors that come and go all the time. */
static void *bustle(void *unused)
{
    for (;;) {
        pthread_t thread;
        int pipe_fds[2];
        if (pipe(pipe_fds) == 0) {
            close(pipe_fds[0]);
            close(pipe_fds[1]);
        }
        if (pthread_create(&thread, NULL, end_at_once, NULL) == 0)
            pthread_join(thread, NULL);
    }
    return unused;
}

static int make_bustle(void)
{
    pthread_t threads[4];
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        pthread_create(&threads[i], NULL, bustle, NULL);
    return -1;
}

static void test_bustle(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_bustle);
    size_t grave = 0;
    for (int i = 0; i < 1500; i++) {
        _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, i % 2 ? heir : copy);
        _cleanup_error_ struct reseat_error *error = NULL;
        grave += count_grave(&obstacles);
        int r = process_check_eligible(subject.pid, &error);
        assert_ok(r, error);
    }
    subject_end(&subject);
    assert_int_equal(grave, 0);
}

static void test_thread_namespace(void **state)
{
    (void)state;
    expect(make_thread_with_network, heir, SEVERITY_LOST, "has namespaces other than");
}

/* They take them on again by themselves, if the main thread may. */
static void expect_own_credentials(setup_fn *setup)
{
    struct subject subject = subject_start(setup);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, heir);
    subject_end(&subject);
    if (subject.selector == SETUP_IMPOSSIBLE)
        skip();
    assert_int_equal(count_grave(&obstacles), 0);
    assert_true(obstacles.threads_differ);
}

static int leave_root_to_a_thread(void)
{
    int r = make_plain_threads();
    if (geteuid() != 0)
        return SETUP_IMPOSSIBLE;
    become_nobody();
    return r;
}

static void test_thread_credentials(void **state)
{
    (void)state;
    expect_own_credentials(make_thread_with_user);
    expect_own_credentials(make_thread_with_capabilities);
    expect(leave_root_to_a_thread, heir, SEVERITY_LOST, "which the main thread may not take on");
}

static void test_filters(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    expect(make_thread_with_filter, heir, SEVERITY_LOST, "has seccomp filters other than");
    expect_nothing(make_filtered_process, heir);
}

/* An ordinary user looks at a filtered process of their own. */
static void test_filter_as_nobody(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    struct subject subject = subject_start(make_filtered_nobody);
    pid_t asker = fork();
    if (asker == 0) {
        become_nobody();
        struct obstacles obstacles = {0};
        int r = process_find_obstacles(subject.pid, heir, false, &obstacles, NULL);
        const struct obstacle *found = obstacles_search(&obstacles, "which we may not suspend");
        _exit(r != 0 || !found || found->severity != SEVERITY_LOST);
    }
    int status;
    waitpid(asker, &status, 0);
    subject_end(&subject);
    assert_int_equal(status, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),          cmocka_unit_test(test_bustle),
        cmocka_unit_test(test_thread_namespace), cmocka_unit_test(test_thread_credentials),
        cmocka_unit_test(test_filters),          cmocka_unit_test(test_filter_as_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
