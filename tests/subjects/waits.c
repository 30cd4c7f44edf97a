/* System calls in progress: a thread is blocked in one when it is stopped. Whether it runs on or is put back,
 * the call must go on: no EINTR that no signal handler caused, no wait that ends early. (After a restore a
 * relative wait may start over; it may never be shorter.) signal(7), "Interruption of system calls … by stop
 * signals" lists those that the kernel itself ends because of a stop.
 *
 * Two tables: calls with a time limit, which must last at least that long, and calls that must last until the
 * first thread does what they wait for. Each row becomes a subject of its own. */
#include "subject.h"

#include <linux/aio_abi.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#define LIMIT_MS 1200
#define LIMIT_NS (LIMIT_MS * 1000000ull)

static atomic_int waiting_tid;
static atomic_bool returned;

/* ---- things to wait for ---- */

static int empty_pipe[2], full_pipe[2], epoll, empty_epoll, pair[2], full_pair[2], listener, event, queue_fd;
static atomic_int word; /* of a futex */
static sigset_t one_signal;
static aio_context_t aio;
static const struct timespec limit = {LIMIT_MS / 1000, LIMIT_MS % 1000 * 1000000};
static const struct timeval limit_us = {LIMIT_MS / 1000, LIMIT_MS % 1000 * 1000};
static char byte;
static int64_t number;

static void handle(int signal_number)
{
    (void)signal_number;
}

static void make_sockets(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, full_pair));
    while (send(full_pair[0], &byte, 1, MSG_DONTWAIT) == 1)
        ;
    listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&any, sizeof any));
    MUST(listen(listener, 5));
}

static void set_up(void)
{
    MUST(pipe(empty_pipe));
    MUST(pipe2(full_pipe, O_NONBLOCK));
    while (write(full_pipe[1], &byte, 1) == 1)
        ;
    MUST(fcntl(full_pipe[1], F_SETFL, 0));
    make_sockets();
    event = MUST(eventfd(0, 0));
    epoll = MUST(epoll_create1(0));
    empty_epoll = MUST(epoll_create1(0));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &(struct epoll_event){.events = EPOLLIN}));
    sigemptyset(&one_signal);
    sigaddset(&one_signal, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &one_signal, NULL);
    MUST(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = handle, .sa_flags = SA_RESTART}, NULL));
}

static void set_up_message_queue(void)
{
    char name[64];

    snprintf(name, sizeof name, "/reseat-subject-%d", getpid());
    queue_fd =
        mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &(struct mq_attr){.mq_maxmsg = 2, .mq_msgsize = 8});
    if (queue_fd < 0)
        skip("this kernel has no POSIX message queues");
    mq_unlink(name);
}

static void set_up_aio(void)
{
    if (syscall(SYS_io_setup, 4, &aio) < 0)
        skip("this kernel has no AIO");
}

/* System V objects outlive processes; the peer makes them, sends their number, and removes them in the end.
 */
static int semaphores, messages;

static void make_system_v(void)
{
    sigset_t end;
    int caught;

    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    semaphores = MUST(semget(IPC_PRIVATE, 2, 0600));
    messages = MUST(msgget(IPC_PRIVATE, 0600));
    send_number(semaphores), send_number(messages);
    sigwait(&end, &caught);
    semctl(semaphores, 0, IPC_RMID);
    msgctl(messages, IPC_RMID, NULL);
}

static void set_up_system_v(void)
{
    semaphores = (int)receive_number(), messages = (int)receive_number();
}

/* ---- waiting ---- */

static pthread_t start_blocked(void *(*function)(void *), long system_call)
{
    pthread_t thread = start_thread(function, NULL);

    while (!waiting_tid)
        sleep_ms(1);
    wait_until_blocked(waiting_tid, system_call);
    return thread;
}

static void run_timed(void *(*function)(void *), long system_call)
{
    pthread_t thread = start_blocked(function, system_call);

    be_checkpointed();
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(returned);
}

static void run_woken(void *(*function)(void *), long system_call, void (*wake)(void))
{
    pthread_t thread = start_blocked(function, system_call);

    be_checkpointed();
    sleep_ms(20);
    CHECK(!returned);
    wake();
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(returned);
}

static void check_returned(long result, int error, long expected)
{
    if (expected < 0 ? result != -1 || error != -expected : result != expected)
        fail(__FILE__, __LINE__, "returned %ld (%s), not %ld", result,
             result < 0 ? strerror(error) : "no error", expected);
    returned = true;
}

/* A result below zero stands for -1 with that errno. */
#define TIMED(name, prepare, system_call, expected, call)                                                    \
    static void *name##_thread(void *argument)                                                               \
    {                                                                                                        \
        waiting_tid = thread_id();                                                                           \
        uint64_t began = time_ns(CLOCK_MONOTONIC);                                                           \
        long result = (call);                                                                                \
        int error = errno;                                                                                   \
        uint64_t lasted = time_ns(CLOCK_MONOTONIC) - began;                                                  \
        check_returned(result, error, expected);                                                             \
        if (lasted < LIMIT_NS)                                                                               \
            fail(__FILE__, __LINE__, "lasted %.3f s, not %.3f s", (double)lasted / 1e9, LIMIT_NS / 1e9);     \
        return argument;                                                                                     \
    }                                                                                                        \
    static void name(void)                                                                                   \
    {                                                                                                        \
        set_up();                                                                                            \
        (void)(prepare);                                                                                     \
        run_timed(name##_thread, system_call);                                                               \
    }

#define WOKEN(name, prepare, system_call, expected, call, wake)                                              \
    static void *name##_thread(void *argument)                                                               \
    {                                                                                                        \
        waiting_tid = thread_id();                                                                           \
        long result = (call);                                                                                \
        check_returned(result, errno, expected);                                                             \
        return argument;                                                                                     \
    }                                                                                                        \
    static void name##_wake(void)                                                                            \
    {                                                                                                        \
        (void)(wake);                                                                                        \
    }                                                                                                        \
    static void name(void)                                                                                   \
    {                                                                                                        \
        set_up();                                                                                            \
        (void)(prepare);                                                                                     \
        run_woken(name##_thread, system_call, name##_wake);                                                  \
    }

#define NOTHING (void)0

/* ---- with a time limit ---- */

static struct timespec from_now(clockid_t clock)
{
    uint64_t end = time_ns(clock) + LIMIT_NS;

    return (struct timespec){(time_t)(end / 1000000000), (long)(end % 1000000000)};
}

static struct pollfd poll_empty(void)
{
    return (struct pollfd){empty_pipe[0], POLLIN, 0};
}

static long select_empty(struct timeval timeout)
{
    fd_set set;

    FD_ZERO(&set);
    FD_SET(empty_pipe[0], &set);
    return syscall(SYS_select, empty_pipe[0] + 1, &set, NULL, NULL, &timeout);
}

static void limit_socket(int fd, int option)
{
    MUST(setsockopt(fd, SOL_SOCKET, option, &limit_us, sizeof limit_us));
}

static struct epoll_event ready[4];
static struct io_event completed[4];
#define FUTEX(operation, timeout, mask) syscall(SYS_futex, &word, operation, 0, timeout, NULL, mask)
#define SIGNALS_BYTES                   8

TIMED(nanosleep_, NOTHING, SYS_nanosleep, 0, syscall(SYS_nanosleep, &limit, NULL))
TIMED(clock_nanosleep_, NOTHING, SYS_clock_nanosleep, 0,
      syscall(SYS_clock_nanosleep, CLOCK_BOOTTIME, 0, &limit, NULL))
TIMED(clock_nanosleep_absolute, NOTHING, SYS_clock_nanosleep, 0,
      syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, TIMER_ABSTIME,
              &(struct timespec[]){from_now(CLOCK_MONOTONIC)}, NULL))
TIMED(poll_limited, NOTHING, SYS_poll, 0, syscall(SYS_poll, &(struct pollfd[]){poll_empty()}, 1, LIMIT_MS))
TIMED(ppoll_limited, NOTHING, SYS_ppoll, 0,
      syscall(SYS_ppoll, &(struct pollfd[]){poll_empty()}, 1, &(struct timespec[]){limit}, NULL,
              SIGNALS_BYTES))
TIMED(select_limited, NOTHING, SYS_select, 0, select_empty(limit_us))
TIMED(epoll_limited, NOTHING, SYS_epoll_wait, 0, syscall(SYS_epoll_wait, epoll, ready, 4, LIMIT_MS))
TIMED(epoll_empty_limited, NOTHING, SYS_epoll_pwait, 0,
      syscall(SYS_epoll_pwait, empty_epoll, ready, 4, LIMIT_MS, NULL, SIGNALS_BYTES))
TIMED(epoll_pwait2_limited, NOTHING, SYS_epoll_pwait2, 0,
      syscall(SYS_epoll_pwait2, epoll, ready, 4, &limit, NULL, SIGNALS_BYTES))
TIMED(futex_limited, NOTHING, SYS_futex, -ETIMEDOUT, FUTEX(FUTEX_WAIT_PRIVATE, &limit, 0))
TIMED(futex_absolute, NOTHING, SYS_futex, -ETIMEDOUT,
      FUTEX(FUTEX_WAIT_BITSET_PRIVATE, &(struct timespec[]){from_now(CLOCK_MONOTONIC)},
            FUTEX_BITSET_MATCH_ANY))
TIMED(sigtimedwait_, NOTHING, SYS_rt_sigtimedwait, -EAGAIN,
      syscall(SYS_rt_sigtimedwait, &one_signal, NULL, &limit, SIGNALS_BYTES))
TIMED(recv_limited, limit_socket(pair[0], SO_RCVTIMEO), SYS_recvfrom, -EAGAIN, recv(pair[0], &byte, 1, 0))
TIMED(send_limited, limit_socket(full_pair[0], SO_SNDTIMEO), SYS_sendto, -EAGAIN,
      send(full_pair[0], &byte, 1, 0))
TIMED(accept_limited, limit_socket(listener, SO_RCVTIMEO), SYS_accept, -EAGAIN, accept(listener, NULL, NULL))
TIMED(semtimedop_, set_up_system_v(), SYS_semtimedop, -EAGAIN,
      syscall(SYS_semtimedop, semaphores, &(struct sembuf){0, -1, 0}, 1, &limit))
TIMED(mq_limited, set_up_message_queue(), SYS_mq_timedreceive, -ETIMEDOUT,
      mq_timedreceive(queue_fd, (char *)&number, sizeof number, NULL,
                      &(struct timespec[]){from_now(CLOCK_REALTIME)}[0]))
TIMED(io_getevents_limited, set_up_aio(), SYS_io_getevents, 0,
      syscall(SYS_io_getevents, aio, 1, 4, completed, &limit))

/* ---- until something happens ---- */

/* Each takes back what it did, so that it can be done once more. */
static void write_to(int fd, int64_t value, size_t length)
{
    CHECK_EQUAL(write(fd, &value, length), length);
}

static void add_event(void)
{
    write_to(event, 1, 8);
}

static void wait_returned(void)
{
    while (!returned)
        sleep_ms(1);
}

static void wake_futex(void)
{
    word = 1;
    CHECK_EQUAL(syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 10), 1);
}

static void connect_to_listener(void)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;

    MUST(getsockname(listener, (struct sockaddr *)&address, &length));
    int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&address, length));
}

static void drain(int fd)
{
    char much[65536];

    MUST(recv(fd, much, sizeof much, MSG_DONTWAIT));
}

static long write_when_there_is_room(void)
{
    long n = write(full_pipe[1], &byte, 1);

    MUST(fcntl(full_pipe[1], F_SETFL, O_NONBLOCK)); /* full again, for whoever comes after us */
    while (write(full_pipe[1], &byte, 1) == 1)
        ;
    MUST(fcntl(full_pipe[1], F_SETFL, 0));
    return n;
}

static void make_room_in_pipe(void)
{
    char much[8192];

    CHECK_EQUAL(read(full_pipe[0], much, sizeof much), sizeof much);
}

static long wait_for_handler(int milliseconds)
{
    struct pollfd fd = poll_empty();

    return milliseconds ? poll(&fd, 1, milliseconds) : pause();
}

static void signal_thread(int signal_number)
{
    MUST(syscall(SYS_tgkill, getpid(), waiting_tid, signal_number));
}

static long suspend_and_look_at_mask(void)
{
    sigset_t during, after;

    sigfillset(&during);
    sigdelset(&during, SIGUSR2);
    long result = sigsuspend(&during);
    int error = errno;
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    CHECK(sigismember(&after, SIGUSR1) && !sigismember(&after, SIGHUP));
    errno = error;
    return result;
}

static int locked_file[2]; /* one file, two objects */

static void set_up_file(void)
{
    locked_file[0] = MUST(open(".", O_TMPFILE | O_RDWR, 0600));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", locked_file[0]);
    locked_file[1] = MUST(open(path, O_RDWR));
}

static long operate_ofd_lock(int fd, int type)
{
    return fcntl(fd, F_OFD_SETLKW, &(struct flock){.l_type = (short)type, .l_whence = SEEK_SET});
}

static long lock_and_let_go(bool ofd)
{
    long result = ofd ? operate_ofd_lock(locked_file[1], F_WRLCK) : flock(locked_file[1], LOCK_EX);

    if (ofd)
        MUST(operate_ofd_lock(locked_file[1], F_UNLCK));
    else
        MUST(flock(locked_file[1], LOCK_UN));
    return result;
}

static void lend_lock(bool ofd)
{
    if (ofd)
        MUST(operate_ofd_lock(locked_file[0], F_UNLCK));
    else
        MUST(flock(locked_file[0], LOCK_UN));
    wait_returned();
    if (ofd)
        MUST(operate_ofd_lock(locked_file[0], F_WRLCK));
    else
        MUST(flock(locked_file[0], LOCK_EX));
}

struct message {
    long type;
    char text[8];
};

static long accept_and_close(void)
{
    int fd = accept(listener, NULL, NULL);

    close(fd);
    return fd >= 0;
}

static int unix_listener, unix_client;

static void set_up_full_listener(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    socklen_t length = sizeof address;

    unix_listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(unix_listener, (struct sockaddr *)&address, sizeof(sa_family_t))); /* the kernel finds a name */
    MUST(listen(unix_listener, 0));
    MUST(getsockname(unix_listener, (struct sockaddr *)&address, &length));
    int first = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect(first, (struct sockaddr *)&address, length));
    unix_client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
}

static long connect_when_there_is_room(void)
{
    struct sockaddr_un address;
    socklen_t length = sizeof address;

    MUST(getsockname(unix_listener, (struct sockaddr *)&address, &length));
    return connect(unix_client, (struct sockaddr *)&address, length);
}

static void submit_poll(void)
{
    struct iocb request = {.aio_fildes = (uint32_t)pair[1],
                           .aio_lio_opcode = IOCB_CMD_POLL,
                           .aio_buf = POLLOUT};

    CHECK_EQUAL(syscall(SYS_io_submit, aio, 1, (struct iocb *[]){&request}), 1);
}

static int timer;

static void set_up_timer(uint64_t ns)
{
    timer = timer ? timer : MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    struct itimerspec when = {.it_value = {(time_t)(ns / 1000000000), (long)(ns % 1000000000)}};
    MUST(timerfd_settime(timer, 0, &when, NULL));
}

static char fifo[64];

static void set_up_fifo(void)
{
    snprintf(fifo, sizeof fifo, "fifo-%d", getpid());
    MUST(mkfifo(fifo, 0600));
}

WOKEN(poll_, NOTHING, SYS_poll, 1, syscall(SYS_poll, &(struct pollfd){pair[0], POLLIN, 0}, 1, -1),
      (write_to(pair[1], 0, 1), wait_returned(), drain(pair[0])))
WOKEN(ppoll_, NOTHING, SYS_ppoll, 1,
      syscall(SYS_ppoll, &(struct pollfd){pair[0], POLLIN, 0}, 1, NULL, &one_signal, SIGNALS_BYTES),
      (write_to(pair[1], 0, 1), wait_returned(), drain(pair[0])))
WOKEN(epoll_, NOTHING, SYS_epoll_wait, 1, syscall(SYS_epoll_wait, epoll, ready, 4, -1),
      (add_event(), wait_returned(), (void)read(event, &number, 8)))
WOKEN(epoll_pwait_, NOTHING, SYS_epoll_pwait, 1,
      syscall(SYS_epoll_pwait, epoll, ready, 4, -1, &one_signal, SIGNALS_BYTES),
      (add_event(), wait_returned(), (void)read(event, &number, 8)))
WOKEN(futex_, NOTHING, SYS_futex, 0, FUTEX(FUTEX_WAIT_PRIVATE, NULL, 0), wake_futex())
WOKEN(sigwait_, NOTHING, SYS_rt_sigtimedwait, SIGUSR1,
      syscall(SYS_rt_sigtimedwait, &one_signal, NULL, NULL, SIGNALS_BYTES), signal_thread(SIGUSR1))
WOKEN(pause_, NOTHING, SYS_pause, -EINTR, wait_for_handler(0), signal_thread(SIGUSR2))
WOKEN(poll_handled, NOTHING, SYS_poll, -EINTR, wait_for_handler(20000), signal_thread(SIGUSR2))
WOKEN(sigsuspend_, NOTHING, SYS_rt_sigsuspend, -EINTR, suspend_and_look_at_mask(), signal_thread(SIGUSR2))
WOKEN(read_pipe, NOTHING, SYS_read, 1, read(empty_pipe[0], &byte, 1), write_to(empty_pipe[1], 0, 1))
WOKEN(write_pipe, NOTHING, SYS_write, 1, write_when_there_is_room(), make_room_in_pipe())
WOKEN(read_eventfd, NOTHING, SYS_read, 8, read(event, &number, 8), add_event())
WOKEN(read_timerfd, set_up_timer(1000000000000), SYS_read, 8, read(timer, &number, 8), set_up_timer(1000))
WOKEN(recv_, NOTHING, SYS_recvfrom, 1, recv(pair[0], &byte, 1, 0), write_to(pair[1], 0, 1))
WOKEN(recv_all, NOTHING, SYS_recvfrom, 8, recv(pair[0], &number, 8, MSG_WAITALL), write_to(pair[1], 0, 8))
WOKEN(accept_, NOTHING, SYS_accept, 1, accept_and_close(), connect_to_listener())
WOKEN(connect_, set_up_full_listener(), SYS_connect, 0, connect_when_there_is_room(),
      MUST(accept(unix_listener, NULL, NULL)))
WOKEN(open_fifo, set_up_fifo(), SYS_openat, true, open(fifo, O_RDONLY) >= 0, (MUST(open(fifo, O_WRONLY))))
WOKEN(flock_, (set_up_file(), MUST(flock(locked_file[0], LOCK_EX))), SYS_flock, 0, lock_and_let_go(false),
      lend_lock(false))
WOKEN(ofd_lock, (set_up_file(), MUST(operate_ofd_lock(locked_file[0], F_WRLCK))), SYS_fcntl, 0,
      lock_and_let_go(true), lend_lock(true))
WOKEN(semop_, set_up_system_v(), SYS_semop, 0, syscall(SYS_semop, semaphores, &(struct sembuf){0, -1, 0}, 1),
      MUST(semop(semaphores, &(struct sembuf){0, 1, 0}, 1)))
WOKEN(msgrcv_, set_up_system_v(), SYS_msgrcv, 8, msgrcv(messages, &(struct message){0}, 8, 0, 0),
      MUST(msgsnd(messages, &(struct message){1, "message"}, 8, 0)))
WOKEN(mq_receive_, set_up_message_queue(), SYS_mq_timedreceive, 8,
      mq_receive(queue_fd, (char *)&number, sizeof number, NULL), MUST(mq_send(queue_fd, "message", 8, 0)))
WOKEN(io_getevents_, set_up_aio(), SYS_io_getevents, 1, syscall(SYS_io_getevents, aio, 1, 4, completed, NULL),
      submit_poll())

/* A record lock that another process holds. */
static long lock_record(int type)
{
    return fcntl(locked_file[0], F_SETLKW, &(struct flock){.l_type = (short)type, .l_whence = SEEK_SET});
}

static void set_up_record_lock(void)
{
    set_up_file();
    send_descriptor(locked_file[0]);
    receive_number();
}

static void hold_record_lock(void)
{
    locked_file[0] = receive_descriptor();
    for (;;) {
        MUST(lock_record(F_WRLCK));
        send_number(1);
        receive_number();
        MUST(lock_record(F_UNLCK));
        send_number(0);
        receive_number();
    }
}

static void borrow_record_lock(void)
{
    send_number(0);
    receive_number();
    wait_returned();
    MUST(lock_record(F_UNLCK));
    send_number(1);
    receive_number();
}

WOKEN(record_lock, set_up_record_lock(), SYS_fcntl, 0, lock_record(F_WRLCK), borrow_record_lock())

/* ---- many at a time ---- */

static void *sleep_in_full(void *argument)
{
    uint64_t began = time_ns(CLOCK_MONOTONIC);

    CHECK_EQUAL(nanosleep(&limit, NULL), 0);
    CHECK(time_ns(CLOCK_MONOTONIC) - began >= LIMIT_NS);
    return argument;
}

static void hundred_sleepers(void)
{
    pthread_t threads[100];

    for (int i = 0; i < 100; i++)
        threads[i] = start_thread(sleep_in_full, NULL);
    be_checkpointed();
    for (int i = 0; i < 100; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
}

#define AIO_REFUSED "copy,run-on,keep: asynchronous I/O; cold,held: /[aio]"

const struct subject subjects[] = {
    {"nanosleep", nanosleep_, .new_pid = true},
    {"clock_nanosleep", clock_nanosleep_},
    {"clock_nanosleep-absolute", clock_nanosleep_absolute},
    {"poll-limited", poll_limited},
    {"ppoll-limited", ppoll_limited},
    {"select-limited", select_limited},
    {"epoll-limited", epoll_limited},
    {"epoll-empty-limited", epoll_empty_limited},
    {"epoll_pwait2-limited", epoll_pwait2_limited},
    {"futex-limited", futex_limited},
    {"futex-absolute", futex_absolute},
    {"sigtimedwait", sigtimedwait_},
    {"recv-limited", recv_limited},
    {"send-limited", send_limited, .skip = "cold: how full the buffers of a connection are is not carried"},
    {"accept-limited", accept_limited},
    {"semtimedop", semtimedop_, make_system_v},
    {"mq-limited", mq_limited},
    {"io_getevents-limited", io_getevents_limited, .refused = AIO_REFUSED},
    {"poll", poll_, .new_pid = true, .skip = "beside: both wait for the same byte"},
    {"ppoll", ppoll_},
    {"epoll", epoll_},
    {"epoll_pwait", epoll_pwait_},
    {"futex", futex_},
    {"sigwait", sigwait_},
    {"pause", pause_},
    {"poll-handled", poll_handled},
    {"sigsuspend", sigsuspend_},
    {"read-pipe", read_pipe},
    {"write-pipe", write_pipe},
    {"read-eventfd", read_eventfd},
    {"read-timerfd", read_timerfd},
    {"recv", recv_},
    {"recv-all", recv_all},
    {"accept", accept_, .skip = "cold-twice: its port is not free so soon"},
    {"connect", connect_, .skip = "copy,keep: two processes cannot both connect one socket"},
    {"open-fifo", open_fifo},
    {"flock", flock_},
    {"ofd-lock", ofd_lock},
    {"record-lock", record_lock, hold_record_lock, .refused = "cold: has it, too"},
    {"semop", semop_, make_system_v},
    {"msgrcv", msgrcv_, make_system_v},
    {"mq_receive", mq_receive_},
    {"io_getevents", io_getevents_, .refused = AIO_REFUSED},
    {"hundred-sleepers", hundred_sleepers},
    {0},
};
