/* Objects that tell of events: epoll, eventfd, timerfd, signalfd, inotify, pidfd, userfaultfd, and the two
 * kinds of asynchronous input and output, io_uring and AIO. All must go on telling. */
#include "subject.h"

#include <linux/aio_abi.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

static void put(int fd, uint64_t value)
{
    CHECK_EQUAL(write(fd, &value, 8), 8);
}

static uint64_t get(int fd)
{
    uint64_t value = 0;

    CHECK_EQUAL(read(fd, &value, 8), 8);
    return value;
}

/* ---- epoll ---- */

static void watch(int epoll, int fd, uint32_t events, uint64_t data)
{
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){events, {.u64 = data}}));
}

static void expect_event(int epoll, uint32_t events, uint64_t data)
{
    struct epoll_event found[4];

    CHECK_EQUAL(epoll_wait(epoll, found, 4, 2000), 1);
    CHECK_EQUAL(found[0].events, events);
    CHECK_EQUAL(found[0].data.u64, data);
}

static void expect_none(int epoll)
{
    struct epoll_event found;

    CHECK_EQUAL(epoll_wait(epoll, &found, 1, 0), 0);
}

static void interest_set(void)
{
    int epoll = MUST(epoll_create1(0)), one = MUST(eventfd(0, 0)), other = MUST(eventfd(0, 0));

    watch(epoll, one, EPOLLIN, 0x1111222233334444);
    watch(epoll, other, EPOLLIN | EPOLLET, 2);
    int alias = MUST(dup2(one, 77)); /* one object may be in it twice, by two selectors */
    watch(epoll, alias, EPOLLIN, 3);
    be_checkpointed();
    expect_none(epoll);
    MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, alias, NULL));
    put(one, 1);
    expect_event(epoll, EPOLLIN, 0x1111222233334444);
    get(one);
    put(other, 1);
    expect_event(epoll, EPOLLIN, 2);
    expect_none(epoll); /* edge-triggered */
    get(other);
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, one, &(struct epoll_event){0}) < 0 && errno == EEXIST);
    watch(epoll, alias, EPOLLIN, 3);
}

static void nested_sets(void)
{
    int inner = MUST(epoll_create1(0)), middle = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0));
    int event = MUST(eventfd(0, 0));

    watch(inner, event, EPOLLIN, 1), watch(middle, inner, EPOLLIN, 2), watch(outer, middle, EPOLLIN, 3);
    be_checkpointed();
    put(event, 1);
    expect_event(outer, EPOLLIN, 3), expect_event(middle, EPOLLIN, 2), expect_event(inner, EPOLLIN, 1);
    get(event);
    expect_none(outer);
}

static void one_shot_that_was_used_up(void)
{
    int epoll = MUST(epoll_create1(0)), event = MUST(eventfd(0, 0));

    watch(epoll, event, EPOLLIN | EPOLLONESHOT, 1);
    put(event, 1);
    expect_event(epoll, EPOLLIN, 1);
    be_checkpointed();
    expect_none(epoll);
    MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, event, &(struct epoll_event){EPOLLIN | EPOLLONESHOT, {.u64 = 2}}));
    expect_event(epoll, EPOLLIN, 2);
}

static void ready_before(void)
{
    int epoll = MUST(epoll_create1(0)), event = MUST(eventfd(1, 0));

    watch(epoll, event, EPOLLIN, 1);
    be_checkpointed();
    expect_event(epoll, EPOLLIN, 1);
}

/* What was watched is at no selector any more, but lives on in another process; it cannot be removed, only
 * kept. */
static void watched_but_closed(void)
{
    int epoll = MUST(epoll_create1(0)), event = MUST(eventfd(0, 0));

    send_descriptor(event);
    watch(epoll, event, EPOLLIN, 9);
    close(event);
    be_checkpointed();
    expect_none(epoll);
    send_number(1);
    receive_number();
    expect_event(epoll, EPOLLIN, 9);
    send_number(0);
    receive_number();
}

static void hold_what_was_closed(void)
{
    int event = receive_descriptor();

    for (;; send_number(0))
        if (receive_number())
            put(event, 1);
        else
            get(event);
}

/* ---- signalfd ---- */

static int block_and_make_signalfd(int number)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    return MUST(signalfd(-1, &set, SFD_NONBLOCK));
}

static void take_signal(int fd, int number)
{
    struct signalfd_siginfo info;

    CHECK_EQUAL(read(fd, &info, sizeof info), sizeof info);
    CHECK_EQUAL(info.ssi_signo, number);
}

/* It is bound to the process that added it (epoll keeps its wait queue), and would never wake again. */
static void signalfd_in_a_set(void)
{
    int epoll = MUST(epoll_create1(0)), fd = block_and_make_signalfd(SIGUSR1);

    watch(epoll, fd, EPOLLIN, 5);
    be_checkpointed();
    expect_none(epoll);
    raise(SIGUSR1);
    expect_event(epoll, EPOLLIN, 5);
    take_signal(fd, SIGUSR1);
    expect_none(epoll);
}

static void signalfd_in_a_nested_set(void)
{
    int inner = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0)), fd = block_and_make_signalfd(SIGUSR2);

    watch(inner, fd, EPOLLIN | EPOLLET, 5), watch(outer, inner, EPOLLIN, 6);
    be_checkpointed();
    raise(SIGUSR2);
    expect_event(outer, EPOLLIN, 6);
    expect_event(inner, EPOLLIN, 5);
    take_signal(fd, SIGUSR2);
}

static void *wait_for_event(void *argument)
{
    int *epoll = argument;

    expect_event(*epoll, EPOLLIN, 5);
    return argument;
}

static void signalfd_that_a_thread_waits_for(void)
{
    int epoll = MUST(epoll_create1(0)), fd = block_and_make_signalfd(SIGUSR1);

    watch(epoll, fd, EPOLLIN, 5);
    be_checkpointed();
    pthread_t thread = start_thread(wait_for_event, &epoll);
    sleep_ms(10);
    kill(getpid(), SIGUSR1);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    take_signal(fd, SIGUSR1);
}

/* ---- counters and timers ---- */

static void counter(void)
{
    int plain = MUST(eventfd(0, 0));

    put(plain, 0x123456789);
    be_checkpointed();
    CHECK_EQUAL(get(plain), 0x123456789);
    put(plain, 0x123456789);
}

static void semaphore(void)
{
    need_linux(6, 5, "before, no eventfd says whether it is a semaphore");
    int semaphore = MUST(eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK));

    put(semaphore, 2);
    be_checkpointed();
    CHECK(get(semaphore) == 1 && get(semaphore) == 1);
    uint64_t value;
    CHECK(read(semaphore, &value, 8) < 0 && errno == EAGAIN);
    put(semaphore, 2);
}

static void timers(void)
{
    int fd = MUST(timerfd_create(CLOCK_MONOTONIC, 0)),
        ticking = MUST(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK));
    struct itimerspec left;

    MUST(timerfd_settime(fd, 0, &(struct itimerspec){{5, 0}, {1000, 0}}, NULL));
    MUST(timerfd_settime(ticking, 0, &(struct itimerspec){{0, 20000000}, {0, 20000000}}, NULL));
    sleep_ms(50); /* it has expired, and stands still until that is read */
    be_checkpointed();
    MUST(timerfd_gettime(fd, &left));
    CHECK_EQUAL(left.it_interval.tv_sec, 5);
    CHECK(left.it_value.tv_sec >= 980 && left.it_value.tv_sec < 1000);
    for (int i = 0; i < 2; i++) {
        CHECK_EQUAL(poll(&(struct pollfd){ticking, POLLIN, 0}, 1, 2000), 1);
        CHECK(get(ticking) >= 1);
    }
}

/* ---- inotify ---- */

static void expect_created(int fd, int watch_number, const char *name)
{
    char buffer[512];
    struct inotify_event event;

    close(MUST(open(name, O_CREAT | O_WRONLY, 0600)));
    CHECK_EQUAL(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 2000), 1);
    CHECK(read(fd, buffer, sizeof buffer) > 0);
    memcpy(&event, buffer, sizeof event);
    CHECK_EQUAL(event.wd, watch_number);
    CHECK_TEXT(buffer + sizeof event, name);
    MUST(unlink(name));
}

static void enter_directory_of_its_own(void)
{
    char name[64];

    snprintf(name, sizeof name, "directory-%d", getpid());
    MUST(mkdir(name, 0700));
    MUST(chdir(name));
}

static void directory_watch(void)
{
    char name[64];

    snprintf(name, sizeof name, "watched-%d", getpid());
    enter_directory_of_its_own();
    int fd = MUST(inotify_init1(IN_NONBLOCK)), number = MUST(inotify_add_watch(fd, ".", IN_CREATE));
    be_checkpointed();
    expect_created(fd, number, name);
    CHECK_EQUAL(inotify_add_watch(fd, ".", IN_CREATE), number);
    int another = inotify_add_watch(fd, "/", IN_DELETE_SELF);
    CHECK(another > number);
    MUST(inotify_rm_watch(fd, another));
    char ignored[64];
    CHECK(read(fd, ignored, sizeof ignored) > 0);
}

static void event_that_waits(void)
{
    int fd = MUST(inotify_init1(IN_NONBLOCK));
    char name[64], buffer[512];

    enter_directory_of_its_own();
    MUST(inotify_add_watch(fd, ".", IN_CREATE));
    snprintf(name, sizeof name, "created-%d", getpid());
    close(MUST(open(name, O_CREAT | O_WRONLY, 0600)));
    be_checkpointed();
    CHECK(read(fd, buffer, sizeof buffer) > 0);
    CHECK_TEXT(buffer + sizeof(struct inotify_event), name);
}

/* ---- pidfd ---- */

static void pidfd_of_another(void)
{
    int fd = MUST((int)syscall(SYS_pidfd_open, getppid(), 0));

    be_checkpointed();
    CHECK_EQUAL(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), 0);
    CHECK_EQUAL(poll(&(struct pollfd){fd, POLLIN, 0}, 1, 0), 0);
}

static void pidfd_of_itself(void)
{
    int fd = MUST((int)syscall(SYS_pidfd_open, getpid(), 0));

    be_checkpointed();
    CHECK_EQUAL(syscall(SYS_pidfd_send_signal, fd, 0, NULL, 0), 0);
}

/* ---- a performance counter: of the process that ends ---- */

static void performance_counter(void)
{
    struct perf_event_attr what = {.type = PERF_TYPE_SOFTWARE,
                                   .size = sizeof what,
                                   .config = PERF_COUNT_SW_TASK_CLOCK,
                                   .exclude_kernel = 1};
    int fd = (int)syscall(SYS_perf_event_open, &what, 0, -1, -1, PERF_FLAG_FD_CLOEXEC);

    if (fd < 0)
        skip("this kernel has no performance events for us");
    be_checkpointed();
    uint64_t before = get(fd);
    for (uint64_t end = time_ns(CLOCK_MONOTONIC) + 20000000; time_ns(CLOCK_MONOTONIC) < end;)
        ;
    CHECK(get(fd) > before);
}

/* ---- userfaultfd: bound to the address space ---- */

static void missing_pages_are_filled_in(void)
{
    enum { PAGE = 4096 };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = {.api = UFFD_API};

    if (fd < 0)
        skip("needs the right to make a userfaultfd");
    MUST(ioctl(fd, UFFDIO_API, &api));
    char *region = map_anonymous(8 * PAGE), *source = map_anonymous(PAGE);
    struct uffdio_register all = {.range = {(uintptr_t)region, 8 * PAGE},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    MUST(ioctl(fd, UFFDIO_REGISTER, &all));
    be_checkpointed();
    fill(source, PAGE, 4);
    struct uffdio_copy copy = {.dst = (uintptr_t)region + PAGE, .src = (uintptr_t)source, .len = PAGE};
    CHECK_EQUAL(ioctl(fd, UFFDIO_COPY, &copy), 0);
    CHECK(is_filled(region + PAGE, PAGE, 4));
    CHECK(region_has_flag(region, "um"));
}

/* ---- AIO: bound to the address space ---- */

static void asynchronous_io(void)
{
    aio_context_t context = 0;
    struct io_event event;
    char found[8] = "";
    int fd = MUST(open(".", O_TMPFILE | O_RDWR, 0600));

    if (syscall(SYS_io_setup, 8, &context) < 0)
        skip("this kernel has no AIO");
    CHECK_EQUAL(write(fd, "content", 7), 7);
    be_checkpointed();
    struct iocb request = {.aio_fildes = (uint32_t)fd,
                           .aio_lio_opcode = IOCB_CMD_PREAD,
                           .aio_buf = (uintptr_t)found,
                           .aio_nbytes = 7,
                           .aio_data = 99};
    CHECK_EQUAL(syscall(SYS_io_submit, context, 1, (struct iocb *[]){&request}), 1);
    CHECK_EQUAL(syscall(SYS_io_getevents, context, 1, 1, &event, &(struct timespec){2, 0}), 1);
    CHECK(event.data == 99 && event.res == 7);
    CHECK_TEXT(found, "content");
    CHECK_EQUAL(syscall(SYS_io_destroy, context), 0);
}

/* ---- POSIX message queues ---- */

static mqd_t new_queue(void)
{
    char name[64];

    snprintf(name, sizeof name, "/reseat-events-%d", getpid());
    mqd_t queue =
        mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &(struct mq_attr){.mq_maxmsg = 4, .mq_msgsize = 16});
    if (queue < 0)
        skip("this kernel has no POSIX message queues");
    mq_unlink(name);
    return queue;
}

static void message_queue(void)
{
    mqd_t queue = new_queue();
    char found[16];
    unsigned priority;

    MUST(mq_send(queue, "second", 7, 1));
    MUST(mq_send(queue, "first", 6, 2));
    be_checkpointed();
    CHECK_EQUAL(mq_receive(queue, found, sizeof found, &priority), 6);
    CHECK_TEXT(found, "first");
    CHECK_EQUAL(mq_receive(queue, found, sizeof found, &priority), 7);
    CHECK_EQUAL(priority, 1);
    MUST(mq_send(queue, "second", 7, 1));
    MUST(mq_send(queue, "first", 6, 2));
}

static volatile sig_atomic_t notified;

static void note(int number)
{
    notified = number;
}

static void message_queue_that_notifies(void)
{
    mqd_t queue = new_queue();
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};

    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = note, .sa_flags = SA_RESTART}, NULL));
    MUST(mq_notify(queue, &event));
    be_checkpointed();
    MUST(mq_send(queue, "first", 6, 2));
    for (int i = 0; i < 1000 && !notified; i++)
        sleep_ms(1);
    CHECK_EQUAL(notified, SIGUSR1);
}

const struct subject subjects[] = {
    {"interest-set", interest_set, .new_pid = true},
    {"nested-sets", nested_sets},
    {"one-shot", one_shot_that_was_used_up},
    {"ready-before", ready_before},
    {"watched-but-closed", watched_but_closed, hold_what_was_closed, .refused = "cold: will not be watched"},
    {"signalfd-in-a-set", signalfd_in_a_set, .new_pid = true},
    {"signalfd-in-a-nested-set", signalfd_in_a_nested_set},
    {"signalfd-waited-for", signalfd_that_a_thread_waits_for},
    {"counter", counter},
    {"semaphore", semaphore},
    {"timers", timers, .new_pid = true},
    {"inotify", directory_watch},
    {"inotify-event-that-waits", event_that_waits,
     .skip = "copy,keep: the one event is taken by whoever reads first", .refused = "cold: events wait"},
    {"pidfd", pidfd_of_another},
    {"pidfd-of-itself", pidfd_of_itself, .refused = "live: pidfd"},
    {"performance-counter", performance_counter, .refused = "all: perf_event"},
    {"userfaultfd", missing_pages_are_filled_in,
     .refused = "copy,run-on,keep: userfaultfd; cold,held: userfaultfd"},
    {"aio", asynchronous_io, .refused = "copy,run-on,keep: asynchronous I/O; cold,held: /[aio]"},
    {"message-queue", message_queue, .refused = "cold: messages in it are lost"},
    {"message-queue-notify", message_queue_that_notifies, .refused = "all: mq_notify"},
    {0},
};
