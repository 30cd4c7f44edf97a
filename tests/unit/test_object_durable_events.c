/* The durable half of the object room: what is waited on, memory, processes. See test_object_durable.c. */
#include "test_object_durable.h"

#include <linux/memfd.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>

/* ---- eventfd, timerfd, signalfd ---- */

static struct timespec seconds(long s)
{
    return (struct timespec){.tv_sec = s};
}

static void set_up_events(void)
{
    uint64_t most = UINT64_MAX - 1;
    put_at(20, MUST(eventfd(7, EFD_NONBLOCK)));
    put_at(21, MUST(eventfd(2, EFD_SEMAPHORE)));
    put_at(22, MUST(eventfd(0, EFD_NONBLOCK)));
    MUST(write(22, &most, sizeof most));
    put_at(23, MUST(eventfd(0, EFD_NONBLOCK)));

    put_at(30, MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)));
    struct itimerspec relative = {seconds(3), seconds(1000)};
    MUST(timerfd_settime(30, 0, &relative, NULL));
    put_at(31, MUST(timerfd_create(CLOCK_REALTIME, 0)));
    struct itimerspec absolute = {.it_value = seconds(time(NULL) + 5000)};
    MUST(timerfd_settime(31, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &absolute, NULL));
    put_at(32, MUST(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK)));
    put_at(33, MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)));
    struct itimerspec quick = {.it_value = {.tv_nsec = 1}};
    MUST(timerfd_settime(33, 0, &quick, NULL));
    usleep(1000);

    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGRTMIN + 3);
    put_at(40, MUST(signalfd(-1, &mask, SFD_NONBLOCK)));
}

static void look_at_events(void)
{
    uint64_t value;
    EXPECT(read(20, &value, 8) == 8 && value == 7 && read(20, &value, 8) < 0 && errno == EAGAIN);
    EXPECT(read(21, &value, 8) == 8 && value == 1 && read(21, &value, 8) == 8 && value == 1);
    EXPECT(!(fcntl(21, F_GETFL) & O_NONBLOCK));
    EXPECT(read(22, &value, 8) == 8 && value == UINT64_MAX - 1);
    EXPECT(read(23, &value, 8) < 0 && errno == EAGAIN);

    struct itimerspec left;
    EXPECT(timerfd_gettime(30, &left) == 0 && left.it_interval.tv_sec == 3 && left.it_value.tv_sec > 900 &&
           left.it_value.tv_sec < 1000);
    EXPECT(timerfd_gettime(31, &left) == 0 && left.it_value.tv_sec > 4900 && left.it_value.tv_sec < 5000);
    EXPECT(!(fcntl(31, F_GETFL) & O_NONBLOCK));
    EXPECT(timerfd_gettime(32, &left) == 0 && left.it_value.tv_sec == 0 && left.it_value.tv_nsec == 0);
    EXPECT(read(33, &value, 8) == 8 && value == 1);
    char info[512] = "";
    EXPECT(read(MUST(open("/proc/self/fdinfo/31", O_RDONLY)), info, sizeof info - 1) > 0);
    EXPECT(strstr(info, "settime flags: 03") && strstr(info, "clockid: 0"));

    struct signalfd_siginfo got;
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    sigprocmask(SIG_BLOCK, &mask, NULL);
    raise(SIGUSR2);
    EXPECT(read(40, &got, sizeof got) < 0 && errno == EAGAIN);
    raise(SIGUSR1);
    EXPECT(read(40, &got, sizeof got) == sizeof got && got.ssi_signo == SIGUSR1);
}

static void test_events(void **state)
{
    (void)state;
    expect_recreated(set_up_events, look_at_events);
}

/* ---- epoll ---- */

static void watch(int epoll, int fd, unsigned events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

static void set_up_epoll(void)
{
    int pair[2];
    put_at(20, MUST(epoll_create1(0)));
    put_at(21, MUST(epoll_create1(0)));
    put_at(22, MUST(eventfd(1, 0)));
    put_at(23, MUST(eventfd(0, 0)));
    watch(20, 22, EPOLLIN | EPOLLET, 0x1122334455667788);
    watch(20, 23, EPOLLIN, 23);
    watch(21, 20, EPOLLIN, 20);
    /* The number is closed, and the object lives on at another; then the number is used again. */
    MUST(dup2(22, 24));
    watch(20, 24, EPOLLIN, 24);
    close(24);
    MUST(dup2(23, 25));
    watch(20, 25, EPOLLOUT | EPOLLONESHOT, 25);
    MUST(pipe(pair));
    put_at(25, pair[0]);
    put_at(26, pair[1]);
    watch(20, 25, EPOLLIN, 2525);
}

static void look_at_epoll(void)
{
    char info[2048] = "";
    EXPECT(read(MUST(open("/proc/self/fdinfo/20", O_RDONLY)), info, sizeof info - 1) > 0);
    EXPECT(strstr(info, "tfd:       24 events:       19 data:               18"));
    EXPECT(strstr(info, "tfd:       25 events: 4000001c data:               19"));
    struct epoll_event events[8];
    EXPECT(epoll_wait(21, events, 8, 0) == 1 && events[0].data.u64 == 20);
    EXPECT(epoll_wait(20, events, 8, 0) >= 2);
}

/* Interests that are to be added from inside, as process_rebuild() does. */
static const struct snapshot *epoll_snapshot;

static void look_after_adding(void)
{
    size_t inside = 0;
    for (size_t i = 0; i < epoll_snapshot->interests_count; i++) {
        const struct snapshot_interest *row = &epoll_snapshot->interests[i];
        EXPECT(row->action == SNAPSHOT_INTEREST_ADD);
        watch((int)row->epoll_selector, (int)row->selector, row->events, row->data);
        inside++;
    }
    EXPECT(inside == 4);
    look_at_epoll();
}

static void test_epoll(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up_epoll, &snapshot);
    if (recreate_held(&snapshot, NULL, &set, &error) < 0)
        fail_with_error("recreate", error);
    epoll_snapshot = &snapshot;
    run_look(&snapshot, &set, look_after_adding);
}

/* ---- memfd ---- */

static void set_up_memfd(void)
{
    put_at(20, MUST(memfd_create("plain", 0)));
    MUST(pwrite(20, "far away", 8, 10 << 20));
    MUST(lseek(20, 17, SEEK_SET));
    put_at(21, MUST(memfd_create("sealed", MFD_ALLOW_SEALING)));
    MUST(write(21, "sealed", 6));
    MUST(fcntl(21, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    put_at(22, MUST(open("/proc/self/fd/21", O_RDONLY)));
    MUST(dup2(20, 23));
}

static void look_at_memfd(void)
{
    char text[16] = "";
    EXPECT(strcmp(link_of_selector(20), "/memfd:plain (deleted)") == 0);
    EXPECT(lseek(23, 0, SEEK_CUR) == 17 && same_object(20, 23));
    EXPECT(pread(20, text, 8, 10 << 20) == 8 && memcmp(text, "far away", 8) == 0);
    EXPECT(lseek(20, 0, SEEK_DATA) == 10 << 20);
    EXPECT(fcntl(20, F_GET_SEALS) == F_SEAL_SEAL);
    EXPECT(fcntl(21, F_GET_SEALS) == (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    EXPECT(pread(22, text, 8, 0) == 6 && memcmp(text, "sealed", 6) == 0);
    EXPECT((fcntl(22, F_GETFL) & O_ACCMODE) == O_RDONLY);
    EXPECT(pwrite(21, "x", 1, 0) < 0 && errno == EPERM);
}

static void test_memfd(void **state)
{
    (void)state;
    expect_recreated(set_up_memfd, look_at_memfd);
}

/* A memfd that is only mapped. */
static void set_up_mapped(void)
{
    int fd = MUST(memfd_create("mapped", 0));
    MUST(ftruncate(fd, 4096));
    /* Where AddressSanitizer has nothing of its own. */
    char *memory =
        mmap((void *)0x500000000000, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED_NOREPLACE, fd, 0);
    EXPECT(memory != MAP_FAILED);
    memcpy(memory, "mapped", 6);
    close(fd);
}

static void test_mapped(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* needs CAP_CHECKPOINT_RESTORE */
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_error_ struct reseat_error *error = NULL;
    void (*set_up)(void) = set_up_mapped;
    char path[64], text[8] = "";
    object_id_t object, again;
    pid_t pid = subject_start(run_set_up, &set_up);
    snapshot.process.pid = (uint32_t)pid;
    assert_int_equal(native_pd_open(pid, &pd, &error), 0);
    assert_int_equal(capture_held(pd, &snapshot, &error), 0);
    size_t before = snapshot.objects_count;
    snprintf(path, sizeof path, "/proc/%d/map_files/500000000000-500000001000", pid);
    int fd = open(path, O_RDWR);
    assert_return_code(fd, errno);
    if (object_capture_mapped(pd, fd, &(struct object_contents){hold_content, &held}, &snapshot, &object,
                              &error) < 0)
        fail_with_error("capture_mapped", error);
    assert_int_equal(object_capture_mapped(pd, fd, &(struct object_contents){hold_content, &held}, &snapshot,
                                           &again, &error),
                     0);
    close(fd);
    subject_stop(pid);
    assert_int_equal(object, before + 1);
    assert_int_equal(again, object);
    assert_int_equal(recreate_held(&snapshot, NULL, &set, &error), 0);
    assert_int_equal(pread(set.caps[object], text, 6, 0), 6);
    assert_string_equal(text, "mapped");
}

/* ---- inotify ---- */

static void set_up_inotify(void)
{
    put_at(20, MUST(inotify_init1(IN_NONBLOCK)));
    MUST(mkdir(test_path("a"), 0700));
    MUST(mkdir(test_path("b"), 0700));
    EXPECT(inotify_add_watch(20, test_path("a"), IN_CREATE) == 1);
    EXPECT(inotify_add_watch(20, test_directory(), IN_DELETE) == 2);
    MUST(inotify_rm_watch(20, 2));
    EXPECT(inotify_add_watch(20, test_path("b"), IN_CREATE | IN_DELETE) == 3);
    put_at(21, MUST(open(test_path("b/gone"), O_CREAT | O_RDWR, 0600)));
    EXPECT(inotify_add_watch(20, test_path("b/gone"), IN_MODIFY) == 4);
    MUST(unlink(test_path("b/gone")));
    char events[512];
    while (read(20, events, sizeof events) > 0)
        ;
}

static void look_at_inotify(void)
{
    char room[512] __attribute__((aligned(8)));
    const struct inotify_event *event = (const void *)room;
    EXPECT(read(20, room, sizeof room) < 0 && errno == EAGAIN);
    close(MUST(open(test_path("b/new"), O_CREAT | O_WRONLY, 0600)));
    EXPECT(read(20, room, sizeof room) > 0 && event->wd == 3 && event->mask == IN_CREATE);
    EXPECT(strcmp(event->name, "new") == 0);
    MUST(write(21, "x", 1));
    EXPECT(read(20, room, sizeof room) > 0 && event->wd == 4 && event->mask == IN_MODIFY);
    MUST(mkdir(test_path("c"), 0700));
    EXPECT(read(20, room, sizeof room) < 0);
    EXPECT(inotify_add_watch(20, test_path("c"), IN_CREATE) == 5);
}

static void test_inotify(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* needs CAP_DAC_READ_SEARCH */
    expect_recreated(set_up_inotify, look_at_inotify);
}

static void set_up_inotify_events(void)
{
    set_up_inotify();
    close(MUST(open(test_path("a/x"), O_CREAT | O_WRONLY, 0600)));
}

static void test_inotify_events(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* needs CAP_DAC_READ_SEARCH */
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    capture_subject(set_up_inotify_events, &snapshot);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, NULL), 0);
    assert_int_equal(fate_of(&verdicts, 20), OBJECT_DEGRADED);
    for (size_t i = 0; i < verdicts.count; i++)
        if (verdicts.items[i].selector == 20)
            assert_non_null(strstr(verdicts.items[i].sentence, "bytes of events"));
}

/* ---- processes, queues ---- */

static void set_up_processes(void)
{
    put_at(20, MUST((int)syscall(SYS_pidfd_open, getppid(), 0)));
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    put_at(21, MUST((int)syscall(SYS_pidfd_open, child, 0)));
    waitpid(child, NULL, 0);
    put_at(22, MUST((int)syscall(SYS_pidfd_open, getpid(), O_NONBLOCK)));
    put_at(23, MUST(open("/proc/self/ns/net", O_RDONLY)));
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 16};
    mq_unlink("/reseat-durable");
    put_at(24, MUST(mq_open("/reseat-durable", O_CREAT | O_RDWR, 0600, &attributes)));
    MUST(mq_send(24, "kept", 4, 1));
}

static void put_ended_at(int selector, int second)
{
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    put_at(selector, MUST((int)syscall(SYS_pidfd_open, child, 0)));
    put_at(second, MUST((int)syscall(SYS_pidfd_open, child, 0)));
    waitpid(child, NULL, 0);
}

static ino_t inode_at(int selector)
{
    struct stat stat;
    MUST(fstat(selector, &stat));
    return stat.st_ino;
}

static bool has_pidfs(void)
{
    return inode_at(20) != inode_at(30);
}

static void set_up_ended_processes(void)
{
    put_ended_at(20, 21);
    put_ended_at(30, 31);
    put_at(40, MUST(open("/dev/null", has_pidfs() ? O_RDONLY : O_WRONLY)));
}

/* The inode of a pidfd is its process's, also when that has ended. */
static void look_at_ended_processes(void)
{
    EXPECT(!same_object(20, 21) && !same_object(30, 31));
    EXPECT(inode_at(20) == inode_at(21) && inode_at(30) == inode_at(31));
    bool had_pidfs = (fcntl(40, F_GETFL) & O_ACCMODE) == O_RDONLY;
    EXPECT(has_pidfs() == had_pidfs);
    EXPECT(sys_pidfd_send_signal(21, 0) == -ESRCH);
}

static void test_ended_processes(void **state)
{
    (void)state;
    expect_recreated(set_up_ended_processes, look_at_ended_processes);
}

static void test_processes(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up_processes, &snapshot);
    if (recreate_held(&snapshot, NULL, &set, &error) < 0)
        fail_with_error("recreate", error);
    struct pollfd poll_fd = {.fd = set.caps[object_at(&snapshot, 20)], .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 0), 0);
    assert_return_code(sys_pidfd_send_signal(poll_fd.fd, 0), 0);
    poll_fd.fd = set.caps[object_at(&snapshot, 21)];
    assert_int_equal(poll(&poll_fd, 1, 0), 1);
    assert_int_equal(sys_pidfd_send_signal(poll_fd.fd, 0), -ESRCH);
    assert_int_equal(set.caps[object_at(&snapshot, 22)], NATIVE_CAP_INVALID);
    assert_int_equal(object_recreate_late(&set, &snapshot, getpid(), &error), 0);
    assert_int_equal(sys_pidfd_send_signal(set.caps[object_at(&snapshot, 22)], 0), 0);
    char message[16];
    assert_int_equal(mq_receive(set.caps[object_at(&snapshot, 24)], message, sizeof message, NULL), 4);
    mq_unlink("/reseat-durable");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_epoll),
        cmocka_unit_test(test_memfd),
        cmocka_unit_test(test_mapped),
        cmocka_unit_test_setup_teardown(test_inotify, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_inotify_events, make_directory, remove_directory),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_ended_processes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
