/* install and close into processes that are at work: they open, spin, wait, are signalled, share their table
 * with another process, are under a filter, or die in the middle. What they see of it they check themselves.
 */
#include "test_core_server.h"
#include "test_object_subject.h"

#include "reseat.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

#define MANY 300

/* Between a target and its test. */
static struct shared {
    atomic_int stop;
    atomic_ulong opened, spun, ticked, signalled, accepted, waited;
    atomic_int reserved; /* the number that an accept has taken */
} * shared;

/* One, many, over what is there, and all away again, from selector `first` on. */
static void install_and_close(struct reseat_pd *pd, unsigned first, int cap)
{
    static struct reseat_pd_slot slots[MANY];
    static unsigned selectors[MANY];
    struct reseat_error *error = NULL;
    for (unsigned i = 0; i < MANY; i++) {
        selectors[i] = first + i;
        slots[i] = (struct reseat_pd_slot){first + i, cap, i % 2 ? RESEAT_CLOEXEC : 0};
    }
    must(reseat_pd_install(pd, cap, first, 0, &error), &error, "installing one");
    must(reseat_pd_install(pd, cap, first, RESEAT_REPLACE, &error), &error, "replacing one");
    must(reseat_pd_close(pd, first, &error), &error, "closing one");
    must(reseat_pd_install_many(pd, slots, MANY, &error), &error, "installing many");
    for (unsigned i = 0; i < MANY; i++)
        slots[i].flags = RESEAT_REPLACE;
    must(reseat_pd_install_many(pd, slots, MANY, &error), &error, "replacing many");
    must(reseat_pd_close_many(pd, selectors, MANY, &error), &error, "closing many");
}

/* Ends a target by asking it to; it must find that all is well. */
static void end_target(pid_t pid)
{
    int status;
    atomic_store(&shared->stop, 1);
    for (int waited = 0; waitpid(pid, &status, WNOHANG) == 0; waited++) {
        if (waited > 20000)
            fail_msg("the target does not end");
        usleep(1000);
    }
    assert_int_equal(status, 0);
}

static int set_up_shared(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared == MAP_FAILED;
}

static int tear_down_shared(void **state)
{
    (void)state;
    return munmap(shared, sizeof *shared);
}

/* ---- at work ---- */

static void on_signal(int signal)
{
    atomic_fetch_add(signal == SIGALRM ? &shared->ticked : &shared->signalled, 1);
}

static void *spin(void *unused)
{
    while (!atomic_load(&shared->stop))
        atomic_fetch_add(&shared->spun, 1);
    return unused;
}

/* Waits of which none may ever be interrupted: this thread is sent no signal. */
static void *wait_all_the_time(void *unused)
{
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event;
    sigset_t none;
    sigemptyset(&none);
    while (!atomic_load(&shared->stop)) {
        SUBJECT_CHECK(epoll_wait(epoll, &event, 1, 2) == 0);
        SUBJECT_CHECK(nanosleep(&(struct timespec){.tv_nsec = 700000}, NULL) == 0);
        SUBJECT_CHECK(poll(NULL, 0, 1) == 0);
        SUBJECT_CHECK(sigtimedwait(&none, NULL, &(struct timespec){.tv_nsec = 300000}) < 0 &&
                      errno == EAGAIN);
        atomic_fetch_add(&shared->waited, 1);
    }
    return unused;
}

/* Opens all the time, alone in this process, so that it must get the same numbers again and again. */
static void *open_all_the_time(void *unused)
{
    int first = open("/dev/null", O_RDONLY);
    close(first);
    while (!atomic_load(&shared->stop)) {
        int ends[2], file = open("/dev/null", O_RDONLY);
        SUBJECT_CHECK(file == first);
        SUBJECT_CHECK(dup(file) == first + 1);
        SUBJECT_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        SUBJECT_CHECK(ends[0] == first + 2 && ends[1] == first + 3);
        for (int i = 0; i < 4; i++)
            SUBJECT_CHECK(close(first + i) == 0);
        atomic_fetch_add(&shared->opened, 1);
    }
    _exit(0);
    return unused;
}

static void start_thread(void *(*function)(void *))
{
    pthread_t thread;
    SUBJECT_CHECK(pthread_create(&thread, NULL, function, NULL) == 0);
}

static void set_up_at_work(void *unused)
{
    (void)unused;
    closefrom(3);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGRTMIN, &action, NULL);
    sigset_t signals, before;
    sigemptyset(&signals);
    sigaddset(&signals, SIGALRM);
    sigaddset(&signals, SIGRTMIN);
    pthread_sigmask(SIG_BLOCK, &signals, &before);
    start_thread(wait_all_the_time);
    while (!atomic_load(&shared->waited)) /* its epoll has a number now */
        usleep(100);
    start_thread(open_all_the_time);
    start_thread(spin);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    struct itimerval often = {{0, 1000}, {0, 1000}};
    setitimer(ITIMER_REAL, &often, NULL);
}

static void a_process_at_work_notices_nothing(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_at_work, NULL);
    struct reseat_pd *pd = open_pd(pid);
    int cap = eventfd(0, EFD_CLOEXEC);
    unsigned long sent = 0;
    for (int round = 0; round < 15; round++) {
        for (int i = 0; i < 10; i++)
            sent += sigqueue(pid, SIGRTMIN, (union sigval){0}) == 0;
        install_and_close(pd, 100, cap);
        unsigned long opened = shared->opened, spun = shared->spun, waited = shared->waited,
                      ticked = shared->ticked;
        for (int i = 0; i < 20000 && (shared->opened == opened || shared->spun == spun ||
                                      shared->waited == waited || shared->ticked == ticked);
             i++) {
            if (waitpid(pid, NULL, WNOHANG) != 0)
                fail_msg("the target has ended");
            usleep(1000);
        }
        assert_true(shared->opened > opened && shared->spun > spun && shared->waited > waited &&
                    shared->ticked > ticked);
    }
    for (int i = 0; i < 10000 && shared->signalled != sent; i++)
        usleep(1000);
    assert_int_equal(shared->signalled, sent); /* none is lost, none comes twice */
    close(cap);
    reseat_pd_free(pd);
    end_target(pid);
}

/* ---- calls under way ---- */

static int listen_in_abstract(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    SUBJECT_CHECK(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 5) == 0);
    return fd;
}

static int connect_to_abstract(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "%s", name);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static int listener = -1;

/* accept(2) takes a number first and then waits for somebody to connect. */
static void *accept_one(void *unused)
{
    int connection = accept(listener, NULL, NULL);
    SUBJECT_CHECK(connection >= 0);
    atomic_store(&shared->accepted, (unsigned long)connection);
    return unused;
}

static void name_listener(char name[64])
{
    snprintf(name, 64, "reseat-test-%d-%u", getppid(), getuid());
}

static void set_up_accepting(void *unused)
{
    (void)unused;
    char name[64];
    name_listener(name);
    closefrom(3);
    listener = listen_in_abstract(name);
    start_thread(accept_one);
    usleep(50000);
    int following = dup(listener);
    atomic_store(&shared->reserved, following - 1);
    close(following);
}

static void wait_accepted(void)
{
    for (int i = 0; i < 10000 && !shared->accepted; i++)
        usleep(1000);
}

static void a_call_under_way_takes_another_number(void **state)
{
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "reseat-test-%d-%u", getpid(), getuid());
    pid_t pid = subject_start(set_up_accepting, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    int cap = eventfd(0, EFD_CLOEXEC);
    must(reseat_pd_install(pd, cap, (unsigned)shared->reserved, 0, &error), &error, "installing");
    close(connect_to_abstract(name));
    wait_accepted();
    assert_int_equal(shared->accepted, shared->reserved + 1);
    close(cap);
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* vfork(2): stands still until its child has ended or executed something. */
static void *vfork_for_long(void *unused)
{
    while (!atomic_load(&shared->stop)) {
        pid_t child = vfork();
        if (child == 0) {
            for (volatile int i = 0; i < 2000 && !atomic_load(&shared->stop); i++)
                syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = 10000000}, NULL);
            _exit(0);
        }
    }
    return unused;
}

/* Notes how long it was stopped at most. */
static void *watch_the_clock(void *unused)
{
    for (uint64_t before = now_ns(), now; !atomic_load(&shared->stop); before = now) {
        usleep(500);
        now = now_ns();
        if (now - before > shared->waited)
            atomic_store(&shared->waited, now - before);
    }
    return unused;
}

static void set_up_vfork(void *unused)
{
    (void)unused;
    closefrom(3);
    start_thread(watch_the_clock);
    start_thread(vfork_for_long);
    usleep(50000);
}

static void who_cannot_be_stopped_stops_nobody(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_vfork, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    int cap = eventfd(0, EFD_CLOEXEC);
    atomic_store(&shared->waited, 0);
    assert_int_equal(reseat_pd_install(pd, cap, 50, 0, &error), -ETIMEDOUT);
    assert_non_null(strstr(reseat_error_message(error), "vfork"));
    base_error_free(&error);
    usleep(5000);
    assert_true(shared->waited < 1000000000); /* without a look beforehand it would be two seconds */
    atomic_store(&shared->stop, 1);
    close(cap);
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* ---- a table that is shared without being a thread ---- */

static int accept_in_sharer(void *unused)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    accept_one(unused);
    return 0;
}

static int open_in_sharer(void *unused)
{
    (void)unused;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    while (!atomic_load(&shared->stop)) {
        int own = eventfd(77, EFD_NONBLOCK);
        uint64_t count = 0;
        SUBJECT_CHECK(own >= 0);
        sched_yield();
        /* Still what it was, and still ours. */
        SUBJECT_CHECK(read(own, &count, sizeof count) == sizeof count && count == 77);
        SUBJECT_CHECK(close(own) == 0);
        atomic_fetch_add(&shared->opened, 1);
    }
    return 0;
}

static pid_t start_sharer(int (*function)(void *))
{
    static _Alignas(16) char stack[65536];
    pid_t pid = clone(function, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL);
    SUBJECT_CHECK(pid > 0);
    return pid;
}

static void set_up_sharing_accept(void *unused)
{
    (void)unused;
    char name[64];
    name_listener(name);
    closefrom(3);
    listener = listen_in_abstract(name);
    start_sharer(accept_in_sharer);
    usleep(50000);
    int following = dup(listener);
    atomic_store(&shared->reserved, following - 1);
    close(following);
}

static void what_a_sharer_is_opening_is_busy(void **state)
{
    (void)state;
    char name[64];
    snprintf(name, sizeof name, "reseat-test-%d-%u", getpid(), getuid());
    pid_t pid = subject_start(set_up_sharing_accept, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    int cap = eventfd(0, EFD_CLOEXEC);
    unsigned reserved = (unsigned)shared->reserved;
    for (unsigned replace = 0; replace <= RESEAT_REPLACE; replace += RESEAT_REPLACE) {
        assert_int_equal(reseat_pd_install(pd, cap, reserved, replace, &error), -EBUSY);
        assert_non_null(strstr(reseat_error_message(error), "under way"));
        base_error_free(&error);
    }
    assert_int_equal(reseat_pd_close(pd, reserved, NULL), -EBADF);
    const struct reseat_pd_slot two[] = {{30, cap, 0}, {reserved, cap, 0}};
    assert_int_equal(reseat_pd_install_many(pd, two, 2, NULL), -EBUSY);
    int none = 0;
    must(reseat_pd_request(pd, 30, &none, NULL, &error), &error, "requesting");
    assert_int_equal(none, -1);
    close(connect_to_abstract(name));
    wait_accepted();
    assert_int_equal(shared->accepted, reserved);
    close(cap);
    reseat_pd_free(pd);
    subject_stop(pid);
}

static pid_t sharer;

static void *end_with_sharer(void *unused)
{
    int status;
    SUBJECT_CHECK(waitpid(sharer, &status, 0) == sharer && status == 0);
    _exit(0);
    return unused;
}

static void set_up_sharing(void *unused)
{
    (void)unused;
    closefrom(3);
    sharer = start_sharer(open_in_sharer);
    start_thread(end_with_sharer);
    while (!atomic_load(&shared->opened))
        usleep(100);
}

static void what_a_sharer_opens_is_left_alone(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_sharing, NULL);
    struct reseat_pd *pd = open_pd(pid);
    int cap = eventfd(0, EFD_CLOEXEC);
    for (int round = 0; round < 30; round++)
        install_and_close(pd, 400, cap);
    unsigned selectors[8], next;
    size_t count;
    assert_int_equal(reseat_pd_list(pd, 3, selectors, 8, &count, &next, NULL), 0);
    assert_in_range(count, 0, 1); /* what the sharer has just now, anywhere */
    close(cap);
    reseat_pd_free(pd);
    end_target(pid);
}

/* ---- under a filter ---- */

#define KILL_FOR(number)                                                                                     \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static void set_up_filtered(void *unused)
{
    (void)unused;
    closefrom(3);
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILL_FOR(SYS_socketpair),
        KILL_FOR(SYS_recvmsg),
        KILL_FOR(SYS_fcntl),
        KILL_FOR(SYS_dup3),
        KILL_FOR(SYS_mmap),
        KILL_FOR(SYS_close),
        KILL_FOR(SYS_clone3),
        KILL_FOR(SYS_seccomp),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {COUNT_OF(code), code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    SUBJECT_CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

static void a_filter_is_suspended_or_refused(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_filtered, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    int cap = eventfd(0, EFD_CLOEXEC);
    int ring = (int)syscall(SYS_io_uring_setup, 4, &(struct { char bytes[120]; }){{0}});
    if (getuid() == 0) {
        install_and_close(pd, 50, cap);
        if (ring >= 0)
            must(reseat_pd_install(pd, ring, 20, 0, &error), &error, "installing a ring");
    } else {
        assert_int_equal(reseat_pd_install(pd, cap, 20, 0, &error), -EPERM);
        assert_non_null(strstr(reseat_error_message(error), "seccomp"));
        base_error_free(&error);
        assert_int_equal(reseat_pd_close(pd, 1, NULL), -EPERM);
    }
    usleep(10000);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0); /* it lives */
    close(cap);
    close(ring);
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* ---- dying ---- */

static void *kill_later(void *data)
{
    const pid_t *pid_and_delay = data;
    usleep((useconds_t)pid_and_delay[1]);
    kill(pid_and_delay[0], SIGKILL);
    return NULL;
}

static void set_up_nothing(void *unused)
{
    (void)unused;
    closefrom(3);
}

static void a_target_that_dies_is_gone(void **state)
{
    (void)state;
    int cap = eventfd(0, EFD_CLOEXEC), succeeded = 0;
    for (int round = 0; round < 60; round++) {
        pid_t pid_and_delay[2] = {subject_start(set_up_nothing, NULL), round * 20};
        struct reseat_pd *pd = open_pd(pid_and_delay[0]);
        pthread_t killer;
        pthread_create(&killer, NULL, kill_later, pid_and_delay);
        int r = 0;
        for (int i = 0; r == 0 && i < 100000; i++) {
            struct reseat_error *error = NULL;
            r = reseat_pd_install(pd, cap, 100, RESEAT_REPLACE, &error);
            if (r < 0 && r != -ESRCH)
                fail_with_error("installing into a dying process", error);
            base_error_free(&error);
            succeeded += r == 0;
        }
        assert_int_equal(r, -ESRCH);
        assert_int_equal(reseat_pd_close(pd, 100, NULL), -ESRCH);
        pthread_join(killer, NULL);
        waitpid(pid_and_delay[0], NULL, 0);
        reseat_pd_free(pd);
    }
    assert_true(succeeded > 0);
    close(cap);
}

static int run_all(const char *name)
{
#define WITH_SHARED(test) cmocka_unit_test_setup_teardown(test, set_up_shared, tear_down_shared)
    const struct CMUnitTest tests[] = {
        WITH_SHARED(a_process_at_work_notices_nothing),  WITH_SHARED(a_call_under_way_takes_another_number),
        WITH_SHARED(who_cannot_be_stopped_stops_nobody), WITH_SHARED(what_a_sharer_is_opening_is_busy),
        WITH_SHARED(what_a_sharer_opens_is_left_alone),  WITH_SHARED(a_filter_is_suspended_or_refused),
        WITH_SHARED(a_target_that_dies_is_gone),
    };
    return cmocka_run_group_tests_name(name, tests, core_start, core_stop);
}

int main(void)
{
    int failed = run_all("install into busy processes");
    if (failed || getuid() != 0)
        return failed;
    fflush(NULL);
    if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
        return 1;
    prctl(PR_SET_DUMPABLE, 1); /* who has changed its user cannot be traced, nor can its children */
    return run_all("the same as an ordinary user");
}
