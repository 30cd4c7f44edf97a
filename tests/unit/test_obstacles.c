/* What would not come back of a process as a whole is found: its family, its place (namespaces, service,
 * keyring), its limits. A plain process has none of it. */
#include "test_obstacles.h"

#include <sched.h>
#include <linux/keyctl.h>
#include <sys/resource.h>

static void test_plain(void **state)
{
    (void)state;
    expect_nothing(NULL, heir);
    expect_nothing(NULL, copy);
}

static void test_gone(void **state)
{
    (void)state;
    struct subject subject = subject_start(NULL);
    subject_end(&subject);
    _cleanup_error_ struct reseat_error *error = NULL;
    struct obstacles obstacles;
    assert_int_equal(process_find_obstacles(subject.pid, heir, false, &obstacles, &error), -ESRCH);
    assert_non_null(error);
}

/* ---- family ---- */

static int make_child(void)
{
    if (fork_dying_with_parent() == 0)
        wait_for_ever();
    return -1;
}

static int make_zombie(void)
{
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    siginfo_t info;
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    return -1;
}

static int wait_in_clone(void *unused)
{
    (void)unused;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    wait_for_ever();
    return 0;
}

static pid_t clone_waiting(int flags)
{
    enum { stack_bytes = 65536 };
    char *stack = mmap(NULL, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return clone(wait_in_clone, stack + stack_bytes, flags | SIGCHLD, NULL);
}

static int make_memory_sharer(void)
{
    return clone_waiting(CLONE_VM | CLONE_PARENT) < 0 ? SETUP_IMPOSSIBLE : -1;
}

/* A member that is not our child: its parent has ended. It dies when this test does not clean up, by an
 * alarm. */
static void fork_orphan(void)
{
    int pipe_fds[2];
    if (pipe(pipe_fds) < 0)
        _exit(1);
    pid_t middle = fork();
    if (middle == 0) {
        if (fork() == 0) {
            close(pipe_fds[0]);
            alarm(10);
            char byte = 0;
            if (write(pipe_fds[1], &byte, 1) != 1)
                _exit(1);
            wait_for_ever();
        }
        _exit(0);
    }
    waitpid(middle, NULL, 0);
    char byte;
    if (read(pipe_fds[0], &byte, 1) != 1)
        _exit(1);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
}

static int make_session_member(void)
{
    setsid();
    fork_orphan();
    return -1;
}

static int make_group_member(void)
{
    setpgid(0, 0);
    fork_orphan();
    return -1;
}

static int make_lone_leader(void)
{
    setsid();
    return -1;
}

static void kill_orphans(pid_t group)
{
    kill(-group, SIGKILL);
}

static void expect_member(setup_fn *setup, const char *words)
{
    struct subject subject = subject_start(setup);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, heir);
    kill_orphans(subject.pid);
    subject_end(&subject);
    const struct obstacle *found = obstacles_search(&obstacles, words);
    assert_int_equal(count_grave(&obstacles), 1);
    assert_non_null(found);
    assert_int_equal(found->severity, SEVERITY_LOST);
    assert_non_null(strstr(found->sentence, "(test_obstacles)"));
}

static void test_family(void **state)
{
    (void)state;
    expect(make_child, heir, SEVERITY_LOST, "1 living child process: ");
    expect(make_child, copy, SEVERITY_LOST, "1 living child process: ");
    expect(make_zombie, heir, SEVERITY_LOST, ", zombie)");
}

static int make_rude_child(void)
{
    prctl(PR_SET_NAME, "a\033[2J\n(b)");
    return make_child();
}

static void test_names(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_rude_child);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, heir);
    subject_end(&subject);
    const struct obstacle *found = obstacles_search(&obstacles, " (a?[2J?(b)) has 1 living child");
    assert_non_null(found);
    assert_null(strpbrk(found->sentence, "\033\n"));
}

static void test_sharer(void **state)
{
    (void)state;
    expect(make_memory_sharer, copy, SEVERITY_LOST, "shares its memory with process ");
    expect(make_memory_sharer, heir, SEVERITY_DEGRADED, "shares its memory with process ");
}

static void test_tracee(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_tracee);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, heir);
    subject_end(&subject);
    if (subject.selector == SETUP_IMPOSSIBLE)
        skip();
    assert_non_null(obstacles_search(&obstacles, " is tracing "));
}

static void test_members(void **state)
{
    (void)state;
    expect_member(make_session_member, "leads a session with 1 other member: ");
    expect_nothing(make_group_member, heir); /* they are moved out of the way at the restore */
    expect_nothing(make_lone_leader, heir);
}

/* vfork(2) itself may not return twice from here: clone(2) with its flags, on another stack, is the same. */
static void *clone_like_vfork(void *unused)
{
    (void)unused;
    clone_waiting(CLONE_VM | CLONE_VFORK);
    return NULL;
}

static int make_vfork(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, clone_like_vfork, NULL);
    usleep(50000);
    return -1;
}

static void test_vfork(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_vfork);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, heir);
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = process_check_eligible(subject.pid, &error);
    subject_end(&subject);
    const struct obstacle *found = obstacles_search(&obstacles, "inside a vfork");
    assert_non_null(found);
    assert_int_equal(found->severity, SEVERITY_LOST);
    assert_int_equal(r, -EBUSY);
    assert_non_null(strstr(error->message, "is in a vfork"));
}

/* ---- the place ---- */

static int unshare_pid_namespace(void)
{
    return unshare(CLONE_NEWPID) < 0 ? SETUP_IMPOSSIBLE : -1;
}

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
static int unshare_time_namespace(void)
{
    return unshare(CLONE_NEWTIME) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static void test_child_namespaces(void **state)
{
    (void)state;
    expect(unshare_pid_namespace, heir, SEVERITY_LOST, "for a PID namespace that its children");
    expect(unshare_time_namespace, heir, SEVERITY_LOST, "for a time namespace that its children");
}

static void expect_namespace_depth(int depth, const char *words)
{
    /* Each level's first process clones the next; all but the innermost only wait. */
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    pid_t outer = fork_dying_with_parent();
    if (outer == 0) {
        for (int level = 0; level < depth; level++) {
            pid_t pid = (pid_t)syscall(SYS_clone, CLONE_NEWPID | SIGCHLD, NULL, NULL, NULL, NULL);
            if (pid < 0)
                _exit(1);
            if (pid > 0)
                wait_for_ever();
            prctl(PR_SET_PDEATHSIG, SIGKILL);
        }
        if (write(pipe_fds[1], "", 1) != 1)
            _exit(1);
        wait_for_ever();
    }
    close(pipe_fds[1]);
    char byte;
    ssize_t n = read(pipe_fds[0], &byte, 1);
    close(pipe_fds[0]);
    pid_t innermost = outer;
    for (int level = 0; level < depth && n == 1; level++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/task/%d/children", innermost, innermost);
        _cleanup_free_ char *children = NULL;
        n = file_read(-EBADF, path, &children, NULL) < 0 ? 0 : 1;
        innermost = n == 1 ? atoi(children) : outer;
    }
    struct obstacles obstacles = {0};
    if (n == 1)
        obstacles = find(innermost, heir);
    struct subject subject = {.pid = outer};
    subject_end(&subject);
    bool found = obstacles_search(&obstacles, words);
    obstacles_free(&obstacles);
    if (n != 1)
        skip();
    assert_true(found);
}

static void test_pid_namespaces(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    expect_namespace_depth(1, "is the first process (PID 1) of its PID namespace");
    expect_namespace_depth(SNAPSHOT_NS_LEVELS, "levels deep");
}

static void test_service_names(void **state)
{
    (void)state;
    static const struct {
        const char *cgroup, *service;
    } cases[] = {
        {"0::/system.slice/redis.service\n", "redis.service"},
        {"0::/system.slice/redis.service/worker\n", "redis.service"},
        {"4:memory:/x.service\n1:name=systemd:/system.slice/cron.service\n", "cron.service"},
        {"0::/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service\n", "foo.service"},
        {"0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope\n", NULL},
        {"4:memory:/x.service\n0::/user.slice/session-1.scope\n", NULL},
        {"0::/\n", NULL},
        {"0::/.service\n", NULL},
        {"nonsense\n0:\n", NULL},
        {"", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        char service[64] = "";
        assert_int_equal(cgroup_find_service(cases[i].cgroup, service, sizeof service),
                         cases[i].service != NULL);
        if (cases[i].service)
            assert_string_equal(service, cases[i].service);
    }
}

static int make_process_keyring(void)
{
    return syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_PROCESS_KEYRING, 1) < 0 ? SETUP_IMPOSSIBLE
                                                                                       : -1;
}

static void test_keyring(void **state)
{
    (void)state;
    expect(make_process_keyring, heir, SEVERITY_NOTE, "has a keyring of its own (_pid)");
}

static int make_limited_nobody(void)
{
    struct rlimit limit = {.rlim_cur = 1, .rlim_max = 1};
    become_nobody();
    return setrlimit(RLIMIT_NPROC, &limit) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static void test_process_limit(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    expect(make_limited_nobody, heir, SEVERITY_NOTE, "may have 1 processes and threads");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_family),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_sharer),
        cmocka_unit_test(test_tracee),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_vfork),
        cmocka_unit_test(test_child_namespaces),
        cmocka_unit_test(test_pid_namespaces),
        cmocka_unit_test(test_service_names),
        cmocka_unit_test(test_keyring),
        cmocka_unit_test(test_process_limit),
    };
    prctl(PR_SET_NAME, "test_obstacles"); /* whatever the build calls it: sentences name us */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
