/* What would not come back is found: each test forks a real process with one condition and looks for the
 * sentence, and a plain process has none. A condition that this kernel or this user cannot make is skipped,
 * by name. */
#include "process/obstacles-internal.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/filter.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <linux/capability.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1U << 14)
#endif
#ifndef IORING_ENTER_REGISTERED_RING
#define IORING_ENTER_REGISTERED_RING (1U << 4)
#endif
#define NOBODY 65534

static const enum snapshot_form heir = SNAPSHOT_FORM_HEIR, copy = SNAPSHOT_FORM_COPY;

/* ---- subjects: a process that makes a condition and waits ---- */

/* Makes the condition; returns its selector, -1 if it is not about one, SETUP_IMPOSSIBLE if it cannot be
 * made. */
typedef int setup_fn(void);
#define SETUP_IMPOSSIBLE (-2)

static void wait_for_ever(void)
{
    for (;;)
        pause();
}

static pid_t fork_dying_with_parent(void)
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

static struct subject subject_start(setup_fn *setup)
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

static void subject_end(const struct subject *subject)
{
    kill(subject->pid, SIGKILL);
    waitpid(subject->pid, NULL, 0);
    while (waitpid(-1, NULL, WNOHANG | __WALL) > 0)
        ; /* what it cloned with CLONE_PARENT */
}

static void assert_ok(int r, struct reseat_error *error)
{
    if (r < 0)
        fail_msg("%d: %s", r, error ? error->message : "no message");
}

static const struct obstacle *obstacles_search(const struct obstacles *obstacles, const char *words)
{
    for (size_t i = 0; i < obstacles->count; i++)
        if (strstr(obstacles->items[i].sentence, words))
            return &obstacles->items[i];
    return NULL;
}

static size_t count_grave(const struct obstacles *obstacles)
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

static struct obstacles find(pid_t pid, enum snapshot_form form)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    struct obstacles obstacles = {0};
    int r = process_find_obstacles(pid, form, form == SNAPSHOT_FORM_COPY, &obstacles, &error);
    assert_ok(r, error);
    return obstacles;
}

/* The condition yields exactly this sentence, and nothing else that is grave. */
static void expect(setup_fn *setup, enum snapshot_form form, enum severity severity, const char *words)
{
    struct subject subject = subject_start(setup);
    if (subject.selector == SETUP_IMPOSSIBLE) {
        subject_end(&subject);
        skip();
    }
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

static void expect_nothing(setup_fn *setup, enum snapshot_form form)
{
    struct subject subject = subject_start(setup);
    if (subject.selector == SETUP_IMPOSSIBLE) {
        subject_end(&subject);
        skip();
    }
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, form);
    subject_end(&subject);
    assert_int_equal(count_grave(&obstacles), 0);
}

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

static int make_tracee(void)
{
    pid_t pid = fork_dying_with_parent();
    if (pid == 0)
        wait_for_ever();
    return ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0 ? SETUP_IMPOSSIBLE : -1;
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

/* ---- threads ---- */

static int (*thread_condition)(void);

static void *run_in_thread(void *barrier)
{
    bool possible = thread_condition() >= 0;
    *(bool *)barrier = possible;
    __atomic_store_n((char *)barrier + 1, 1, __ATOMIC_RELEASE);
    wait_for_ever();
    return NULL;
}

static int make_thread(int (*condition)(void))
{
    static char barrier[2];
    pthread_t thread;
    thread_condition = condition;
    pthread_create(&thread, NULL, run_in_thread, barrier);
    while (!__atomic_load_n(&barrier[1], __ATOMIC_ACQUIRE))
        usleep(1000);
    return barrier[0] ? -1 : SETUP_IMPOSSIBLE;
}

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

static int add_filter(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {.len = 1, .filter = &allow};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static int no_condition(void)
{
    return 0;
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

static int make_plain_threads(void)
{
    for (int i = 0; i < 3; i++)
        if (make_thread(no_condition) != -1)
            return SETUP_IMPOSSIBLE;
    return -1;
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

static void test_thread_credentials(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_thread_with_user);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, heir);
    subject_end(&subject);
    if (subject.selector == SETUP_IMPOSSIBLE)
        skip();
    assert_non_null(obstacles_search(&obstacles, "has user or group ids of its own"));
    assert_non_null(obstacles_search(&obstacles, "has capability sets (CAP_*) of its own"));
}

static void test_thread_capabilities(void **state)
{
    (void)state;
    expect(make_thread_with_capabilities, heir, SEVERITY_LOST, "has capability sets (CAP_*) of its own");
}

static void test_filters(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    expect(make_thread_with_filter, heir, SEVERITY_LOST, "has seccomp filters other than");
    expect_nothing(make_filtered_process, heir);
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

/* ---- capabilities ---- */

static int make_perf_event(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                         .size = sizeof attributes,
                                         .config = PERF_COUNT_SW_TASK_CLOCK,
                                         .exclude_kernel = 1};
    int fd = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
    return fd < 0 ? SETUP_IMPOSSIBLE : fd;
}

static int register_userfaultfd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return SETUP_IMPOSSIBLE;
    struct uffdio_api api = {.api = UFFD_API};
    void *region = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register registration = {.range = {.start = (uintptr_t)region, .len = 4096},
                                           .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &registration) < 0)
        return SETUP_IMPOSSIBLE;
    return fd;
}

static int make_userfaultfd_elsewhere(void)
{
    int fd = register_userfaultfd();
    if (fd >= 0 && fork_dying_with_parent() == 0)
        wait_for_ever();
    close(fd);
    return fd < 0 ? SETUP_IMPOSSIBLE : -1;
}

static int make_aio_context(void)
{
    aio_context_t context = 0;
    return syscall(SYS_io_setup, 4, &context) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static int make_virtual_machine(void)
{
    enum { kvm_create_vm = 0xAE01 };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int machine = fd < 0 ? -1 : ioctl(fd, kvm_create_vm, 0);
    return machine < 0 ? SETUP_IMPOSSIBLE : machine;
}

static int make_own_pidfd(void)
{
    int fd = sys_pidfd_open(getpid());
    return fd < 0 ? SETUP_IMPOSSIBLE : fd;
}

static int make_foreign_pidfd(void)
{
    int fd = sys_pidfd_open(getppid());
    return fd < 0 ? SETUP_IMPOSSIBLE : -1;
}

static mqd_t open_queue(int mode)
{
    char name[64];
    snprintf(name, sizeof name, "/reseat-test-%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 16};
    mqd_t queue = mq_open(name, mode | O_CREAT | O_EXCL, 0600, &attributes);
    mq_unlink(name);
    return queue;
}

static int make_queue(void)
{
    return open_queue(O_RDONLY) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static int make_notifying_queue(void)
{
    mqd_t queue = open_queue(O_WRONLY);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    return queue < 0 || mq_notify(queue, &event) < 0 ? SETUP_IMPOSSIBLE : queue;
}

static void test_perf_event(void **state)
{
    (void)state;
    expect(make_perf_event, heir, SEVERITY_DEGRADED, "is a performance counter");
}

static void test_userfaultfd(void **state)
{
    (void)state;
    expect(register_userfaultfd, copy, SEVERITY_LOST, "is a userfaultfd");
    expect_nothing(register_userfaultfd, heir);
    struct subject subject = subject_start(make_userfaultfd_elsewhere);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, copy);
    subject_end(&subject);
    assert_non_null(obstacles_search(&obstacles, "come from another process through a userfaultfd"));
}

static void test_aio(void **state)
{
    (void)state;
    expect(make_aio_context, copy, SEVERITY_LOST, "has 1 asynchronous I/O context (");
    expect_nothing(make_aio_context, heir);
}

static void test_kvm(void **state)
{
    (void)state;
    expect(make_virtual_machine, copy, SEVERITY_LOST, "is a KVM virtual machine");
    expect_nothing(make_virtual_machine, heir);
}

static void test_pidfd(void **state)
{
    (void)state;
    expect(make_own_pidfd, heir, SEVERITY_DEGRADED, "is a pidfd on the process itself");
    expect_nothing(make_foreign_pidfd, heir);
}

static void test_queue(void **state)
{
    (void)state;
    expect_nothing(make_queue, heir);
    expect(make_notifying_queue, heir, SEVERITY_DEGRADED, "is to notify the process (mq_notify)");
}

static int make_huge_page(void)
{
    void *page =
        mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (page == MAP_FAILED)
        return SETUP_IMPOSSIBLE;
    memset(page, 1, 2 << 20);
    _cleanup_free_ char *unused = NULL;
    if (file_read(-EBADF, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", &unused, NULL) < 0 ||
        atoi(unused) != 0)
        return SETUP_IMPOSSIBLE; /* enough are left */
    return -1;
}

static void test_huge_pages(void **state)
{
    (void)state;
    expect(make_huge_page, copy, SEVERITY_LOST, "needs 1 free huge pages of 2048 KiB");
    expect_nothing(make_huge_page, heir);
}

/* ---- io_uring, with plain system calls ---- */

static struct io_uring_params ring_parameters;
static char *ring_memory;
static struct io_uring_sqe *ring_entries;

static int open_ring(unsigned flags)
{
    ring_parameters = (struct io_uring_params){.flags = flags};
    int fd = (int)syscall(SYS_io_uring_setup, 8, &ring_parameters);
    if (fd < 0)
        return SETUP_IMPOSSIBLE;
    ring_memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    ring_entries =
        mmap(NULL, 8 * sizeof *ring_entries, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    return ring_memory == MAP_FAILED || ring_entries == MAP_FAILED ? SETUP_IMPOSSIBLE : fd;
}

static bool submit(int fd, const struct io_uring_sqe *request)
{
    unsigned *tail = (unsigned *)(ring_memory + ring_parameters.sq_off.tail);
    unsigned *array = (unsigned *)(ring_memory + ring_parameters.sq_off.array);
    unsigned slot = *tail & 7;
    ring_entries[slot] = *request;
    array[slot] = slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    return syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0) == 1;
}

static int make_used_ring(void)
{
    int fd = open_ring(0);
    return fd >= 0 && submit(fd, &(struct io_uring_sqe){.opcode = IORING_OP_NOP}) ? -1 : SETUP_IMPOSSIBLE;
}

static int make_ring_in_flight(void)
{
    int fd = open_ring(0), pipe_fds[2];
    if (fd < 0 || pipe(pipe_fds) < 0)
        return SETUP_IMPOSSIBLE;
    struct io_uring_sqe request = {.opcode = IORING_OP_READ,
                                   .fd = pipe_fds[0],
                                   .addr = (uintptr_t)calloc(1, 16),
                                   .len = 16};
    return submit(fd, &request) ? fd : SETUP_IMPOSSIBLE;
}

/* One completion for one request, and yet it waits for more. */
static int make_ring_with_multishot(void)
{
    int fd = open_ring(0), pipe_fds[2];
    if (fd < 0 || pipe(pipe_fds) < 0)
        return SETUP_IMPOSSIBLE;
    struct io_uring_sqe request = {.opcode = IORING_OP_POLL_ADD,
                                   .fd = pipe_fds[0],
                                   .len = IORING_POLL_ADD_MULTI,
                                   .poll32_events = POLLIN};
    if (!submit(fd, &request) || write(pipe_fds[1], "", 1) != 1)
        return SETUP_IMPOSSIBLE;
    syscall(SYS_io_uring_enter, fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    return fd;
}

static int make_polled_ring(void)
{
    return open_ring(IORING_SETUP_SQPOLL);
}

static int make_single_issuer_ring(void)
{
    return open_ring(IORING_SETUP_SINGLE_ISSUER);
}

static int make_deferring_ring(void)
{
    return open_ring(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

static int make_ring_with_buffers(void)
{
    int fd = open_ring(0);
    struct iovec buffer = {.iov_base = calloc(1, 4096), .iov_len = 4096};
    return fd >= 0 && syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0
               ? fd
               : SETUP_IMPOSSIBLE;
}

static int make_ring_with_files(void)
{
    int fd = open_ring(0);
    int files[2] = {0, 1};
    return fd >= 0 && syscall(SYS_io_uring_register, fd, IORING_REGISTER_FILES, files, 2) == 0
               ? -1
               : SETUP_IMPOSSIBLE;
}

static int make_ring_in_own_memory(void)
{
    struct io_uring_params parameters = {.flags = IORING_SETUP_NO_MMAP};
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 0, 8192);
    /* user_addr, Linux 6.5, in the last eight bytes of both */
    memcpy((char *)&parameters.cq_off + sizeof parameters.cq_off - 8, &pages, 8);
    char *entries = pages + 4096;
    memcpy((char *)&parameters.sq_off + sizeof parameters.sq_off - 8, &entries, 8);
    int fd = (int)syscall(SYS_io_uring_setup, 8, &parameters);
    return fd < 0 ? SETUP_IMPOSSIBLE : fd;
}

static unsigned register_ring(int fd)
{
    struct io_uring_rsrc_update update = {.offset = -1U, .data = (unsigned)fd};
    return syscall(SYS_io_uring_register, fd, IORING_REGISTER_RING_FDS, &update, 1) == 1 ? update.offset
                                                                                         : -1U;
}

static int make_ring_without_selector(void)
{
    int fd = open_ring(0);
    if (fd < 0 || register_ring(fd) == -1U)
        return SETUP_IMPOSSIBLE;
    close(fd);
    return -1;
}

static void *wait_in_registered_ring(void *ring_fd)
{
    int fd = *(int *)ring_fd;
    unsigned index = register_ring(fd);
    syscall(SYS_io_uring_enter, index, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING, NULL, 0);
    return NULL;
}

static int make_thread_in_registered_ring(void)
{
    static int fd;
    fd = open_ring(0);
    pthread_t thread;
    if (fd < 0 || pthread_create(&thread, NULL, wait_in_registered_ring, &fd) != 0)
        return SETUP_IMPOSSIBLE;
    usleep(50000);
    return -1;
}

static void test_ring_plain(void **state)
{
    (void)state;
    expect_nothing(make_used_ring, heir);
    expect_nothing(make_used_ring, copy);
    expect_nothing(make_ring_with_files, copy);
}

static void test_ring_in_flight(void **state)
{
    (void)state;
    expect(make_ring_in_flight, heir, SEVERITY_DEGRADED, "with requests in flight (up to 1)");
    expect(make_ring_with_multishot, heir, SEVERITY_DEGRADED, "with requests in flight (up to 1)");
}

static void test_ring_flavours(void **state)
{
    (void)state;
    expect(make_polled_ring, heir, SEVERITY_LOST, "(SQPOLL, thread ");
    expect(make_single_issuer_ring, heir, SEVERITY_LOST, "for one issuer only");
    expect(make_deferring_ring, copy, SEVERITY_LOST, "for one issuer only");
}

static void test_ring_buffers(void **state)
{
    (void)state;
    expect(make_ring_with_buffers, copy, SEVERITY_LOST, "with fixed buffers (1)");
    expect_nothing(make_ring_with_buffers, heir);
}

static void test_ring_own_memory(void **state)
{
    (void)state;
    expect(make_ring_in_own_memory, copy, SEVERITY_LOST, "(NO_MMAP)");
    expect_nothing(make_ring_in_own_memory, heir);
}

static void test_ring_registered(void **state)
{
    (void)state;
    expect(make_ring_without_selector, heir, SEVERITY_LOST, "that is at no selector");
    expect(make_thread_in_registered_ring, heir, SEVERITY_LOST, "(IORING_REGISTER_RING_FDS) and waits in it");
}

/* ---- eligible ---- */

static void expect_refusal(pid_t pid, int code, const char *words)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = process_check_eligible(pid, &error);
    if (!error || !strstr(error->message, words))
        fail_msg("\"%s\" instead of \"%s\"", error ? error->message : "eligible", words);
    assert_int_equal(r, code);
    print_message("    %s\n", error->message);
}

static void test_eligible(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_plain_threads);
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = process_check_eligible(subject.pid, &error);
    subject_end(&subject);
    assert_ok(r, error);
    expect_refusal(subject.pid, -ESRCH, "There is no process ");
    expect_refusal(-1, -EINVAL, "is not the PID of a process");
    expect_refusal(getpid(), -EINVAL, "is the process that is asking");
}

static void test_thread_id(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_plain_threads);
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/task", subject.pid);
    _cleanup_free_ int *tids = NULL;
    size_t count;
    assert_int_equal(proc_list_numbers(-EBADF, path, &tids, &count), 0);
    assert_int_equal(count, 4);
    char words[64];
    snprintf(words, sizeof words, "of process %d, not a process", subject.pid);
    expect_refusal(tids[1], -EINVAL, words);
    subject_end(&subject);
}

static void test_zombie(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    siginfo_t info;
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    expect_refusal(pid, -ESRCH, "is a zombie");
    waitpid(pid, NULL, 0);
}

static void test_kernel_thread(void **state)
{
    (void)state;
    struct proc_stat stat;
    if (proc_stat_of(2, &stat) < 0 || strcmp(stat.comm, "kthreadd") != 0)
        skip();
    expect_refusal(2, -EINVAL, "is a kernel thread");
}

static void test_init(void **state)
{
    (void)state;
    expect_refusal(1, -EINVAL, getpid() == 1 ? "asking" : "is the first process here");
}

static void *wait_as_thread(void *unused)
{
    (void)unused;
    wait_for_ever();
    return NULL;
}

static void test_ended_leader(void **state)
{
    (void)state;
    pid_t pid = fork_dying_with_parent();
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_as_thread, NULL);
        pthread_exit(NULL);
    }
    struct proc_stat stat = {0};
    for (int i = 0; i < 1000 && stat.state != 'Z'; i++) {
        usleep(1000);
        assert_int_equal(proc_stat_of(pid, &stat), 0);
    }
    expect_refusal(pid, -EOPNOTSUPP, "The main thread of ");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_traced(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_tracee);
    if (subject.selector == SETUP_IMPOSSIBLE) {
        subject_end(&subject);
        skip();
    }
    char path[64], words[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", subject.pid, subject.pid);
    _cleanup_free_ char *children = NULL;
    assert_int_equal(file_read(-EBADF, path, &children, NULL), 0);
    snprintf(words, sizeof words, "is being traced by PID %d (test_obstacles)", subject.pid);
    expect_refusal(atoi(children), -EBUSY, words);
    subject_end(&subject);
}

/* A 32-bit program of our own making: pause(2) for ever. */
static int write_small_program(void)
{
    static const uint8_t code[] = {0xb8, 29,   0,    0,   0,
                                   0xcd, 0x80, 0xeb, 0xf7}; /* mov $29,%eax; int $0x80; jmp */
    struct {
        Elf32_Ehdr header;
        Elf32_Phdr segment;
        uint8_t code[16];
    } program = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_386,
                   .e_version = EV_CURRENT,
                   .e_entry = 0x8048000 + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
                   .e_phoff = sizeof(Elf32_Ehdr),
                   .e_ehsize = sizeof(Elf32_Ehdr),
                   .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 1},
        .segment = {.p_type = PT_LOAD, .p_vaddr = 0x8048000, .p_flags = PF_R | PF_X, .p_align = 4096},
    };
    memcpy(program.code, code, sizeof code);
    program.segment.p_filesz = program.segment.p_memsz = sizeof program;
    int fd = memfd_create("small", MFD_CLOEXEC);
    return fd < 0 || write(fd, &program, sizeof program) != sizeof program ? -1 : fd;
}

static void test_32_bit(void **state)
{
    (void)state;
#ifndef __x86_64__
    skip();
#endif
    int fd = write_small_program(), pipe_fds[2];
    assert_true(fd >= 0);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    pid_t pid = fork_dying_with_parent();
    if (pid == 0) {
        syscall(SYS_execveat, fd, "", (char *[]){"small", NULL}, (char *[]){NULL}, AT_EMPTY_PATH);
        if (write(pipe_fds[1], "", 1) < 0) /* no 32-bit programs on this kernel */
            _exit(1);
        _exit(0);
    }
    close(fd);
    close(pipe_fds[1]);
    char byte;
    bool impossible = read(pipe_fds[0], &byte, 1) == 1;
    close(pipe_fds[0]);
    if (!impossible)
        expect_refusal(pid, -EOPNOTSUPP, "is a 32-bit program");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (impossible)
        skip();
}

/* ---- eligible, as an ordinary user ---- */

static void become_nobody(void)
{
    if (syscall(SYS_setgroups, 0, NULL) < 0 || syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) < 0 ||
        syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) < 0)
        _exit(1);
    prctl(PR_SET_DUMPABLE, 1);
}

static int make_nobody(void)
{
    become_nobody();
    return -1;
}

static int make_closed_nobody(void)
{
    become_nobody();
    prctl(PR_SET_DUMPABLE, 0);
    return -1;
}

static int make_powerful_nobody(void)
{
    prctl(PR_SET_KEEPCAPS, 1);
    become_nobody();
    return -1;
}

static int make_filtered_nobody(void)
{
    become_nobody();
    return add_filter() < 0 ? SETUP_IMPOSSIBLE : -1;
}

/* Asks as nobody, in a process of its own; `words` NULL: nothing is in the way. */
static void expect_as_nobody(setup_fn *setup, const char *words)
{
    struct subject subject = subject_start(setup);
    pid_t asker = fork();
    if (asker == 0) {
        become_nobody();
        struct reseat_error *error = NULL;
        int r = process_check_eligible(subject.pid, &error);
        print_message("    %s\n", error ? error->message : "eligible");
        _exit(words ? !(r < 0 && strstr(error->message, words)) : r != 0);
    }
    int status;
    waitpid(asker, &status, 0);
    subject_end(&subject);
    assert_int_equal(status, 0);
}

static void test_permission(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    _cleanup_free_ char *yama = NULL;
    bool is_restricted =
        file_read(-EBADF, "/proc/sys/kernel/yama/ptrace_scope", &yama, NULL) == 0 && atoi(yama) > 0;
    expect_as_nobody(NULL, "is not ours: its real, effective and saved user ids are 0, 0, 0");
    expect_as_nobody(make_nobody, is_restricted ? "kernel.yama.ptrace_scope" : NULL);
    expect_as_nobody(make_closed_nobody, "not dumpable");
    expect_as_nobody(make_powerful_nobody, "has capabilities that we lack");
    if (!is_restricted)
        expect_as_nobody(make_filtered_nobody, "is under a seccomp filter");
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
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_family),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_sharer),
        cmocka_unit_test(test_tracee),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_vfork),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_bustle),
        cmocka_unit_test(test_thread_namespace),
        cmocka_unit_test(test_thread_credentials),
        cmocka_unit_test(test_thread_capabilities),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_filter_as_nobody),
        cmocka_unit_test(test_child_namespaces),
        cmocka_unit_test(test_pid_namespaces),
        cmocka_unit_test(test_service_names),
        cmocka_unit_test(test_keyring),
        cmocka_unit_test(test_perf_event),
        cmocka_unit_test(test_userfaultfd),
        cmocka_unit_test(test_aio),
        cmocka_unit_test(test_kvm),
        cmocka_unit_test(test_pidfd),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_huge_pages),
        cmocka_unit_test(test_ring_plain),
        cmocka_unit_test(test_ring_in_flight),
        cmocka_unit_test(test_ring_flavours),
        cmocka_unit_test(test_ring_buffers),
        cmocka_unit_test(test_ring_own_memory),
        cmocka_unit_test(test_ring_registered),
        cmocka_unit_test(test_eligible),
        cmocka_unit_test(test_thread_id),
        cmocka_unit_test(test_zombie),
        cmocka_unit_test(test_kernel_thread),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_ended_leader),
        cmocka_unit_test(test_traced),
        cmocka_unit_test(test_32_bit),
        cmocka_unit_test(test_permission),
        cmocka_unit_test(test_process_limit),
    };
    prctl(PR_SET_NAME, "test_obstacles"); /* whatever the build calls it: sentences name us */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
