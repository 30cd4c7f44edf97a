/* The durable half of the object room: unix sockets. See test_object_durable.c. */
#include "test_object_durable.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

/* ---- helpers ---- */

static void pair_at(int type, int a, int b)
{
    int ends[2];
    MUST(socketpair(AF_UNIX, type, 0, ends));
    put_at(a, ends[0]);
    put_at(b, ends[1]);
}

static socklen_t address_of(const char *name, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (name[0] == '@') {
        memcpy(address->sun_path + 1, name + 1, strlen(name) - 1);
        return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
    }
    snprintf(address->sun_path, sizeof address->sun_path, "%s", name);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
}

static void bound_at(int selector, int type, const char *name)
{
    struct sockaddr_un address;
    socklen_t length = address_of(name, &address);
    put_at(selector, MUST(socket(AF_UNIX, type, 0)));
    MUST(bind(selector, (struct sockaddr *)&address, length));
}

static int connect_to(int selector, const char *name)
{
    struct sockaddr_un address;
    socklen_t length = address_of(name, &address);
    return connect(selector, (struct sockaddr *)&address, length);
}

static void send_fds(int socket, const char *text, const int *fds, size_t count)
{
    char control[CMSG_SPACE(8 * sizeof(int))] = {0};
    struct iovec piece = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    MUST(sendmsg(socket, &message, 0));
}

/* Receives at most `length` bytes; what descriptors come go to `fds`. */
static int receive(int socket, char *text, size_t length, int *fds, struct sockaddr_un *from)
{
    char control[CMSG_SPACE(8 * sizeof(int))] = {0};
    struct iovec piece = {text, length};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control,
                             .msg_name = from,
                             .msg_namelen = from ? sizeof *from : 0};
    memset(text, 0, length);
    ssize_t n = recvmsg(socket, &message, MSG_DONTWAIT);
    EXPECT(n >= 0);
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    if (!c)
        return 0;
    int count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(c), (size_t)count * sizeof(int));
    return count;
}

static void expect_received(int socket, const char *text)
{
    char found[64];
    int fds[8];
    EXPECT(receive(socket, found, sizeof found - 1, fds, NULL) == 0);
    if (strcmp(found, text) != 0)
        fprintf(stderr, "received \"%s\", not \"%s\"\n", found, text);
    EXPECT(strcmp(found, text) == 0);
}

/* ---- pairs ---- */

static void set_up_pairs(void)
{
    pair_at(SOCK_STREAM | SOCK_NONBLOCK, 20, 21);
    MUST(write(20, "to 21", 5));
    MUST(write(21, "to ", 3));
    MUST(write(21, "20", 2));
    MUST(dup2(20, 22));
    pair_at(SOCK_SEQPACKET, 23, 24);
    MUST(write(23, "one", 3));
    MUST(write(23, "two", 3));
    pair_at(SOCK_DGRAM, 25, 26);
    MUST(write(25, "datagram", 8));
    MUST(send(25, "", 0, 0));
    MUST(write(25, "after an empty one", 18));
    pair_at(SOCK_STREAM, 27, 28);
    MUST(write(28, "last words", 10));
    close(28);
    pair_at(SOCK_STREAM, 29, 30);
    MUST(write(29, "half", 4));
    MUST(shutdown(29, SHUT_WR));
    pair_at(SOCK_STREAM, 31, 32);
    MUST(write(31, "unread", 6));
    close(32); /* leaves ECONNRESET behind */
    int size = 12345;
    MUST(setsockopt(20, SOL_SOCKET, SO_SNDBUF, &size, sizeof size));
    struct timeval timeout = {.tv_sec = 7};
    MUST(setsockopt(21, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout));
    pair_at(SOCK_STREAM | SOCK_NONBLOCK, 33, 34);
    char block[4096];
    memset(block, 'f', sizeof block);
    while (write(33, block, sizeof block) > 0)
        ;
}

static void look_at_pairs(void)
{
    char text[32] = "";
    EXPECT(same_object(20, 22) && (fcntl(20, F_GETFL) & O_NONBLOCK));
    expect_received(21, "to 21");
    expect_received(20, "to 20");
    MUST(write(22, "again", 5));
    expect_received(21, "again");
    expect_received(24, "one");
    expect_received(24, "two");
    EXPECT(recv(24, text, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
    expect_received(26, "datagram");
    expect_received(26, "");
    expect_received(26, "after an empty one");
    EXPECT(read(27, text, sizeof text) == 10 && read(27, text, sizeof text) == 0);
    EXPECT(send(27, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    expect_received(30, "half");
    EXPECT(read(30, text, sizeof text) == 0 && send(29, "x", 1, MSG_NOSIGNAL) < 0);
    MUST(write(30, "other way", 9));
    expect_received(29, "other way");
    EXPECT(read(31, text, 1) < 0 && errno == ECONNRESET);
    int size;
    socklen_t length = sizeof size;
    EXPECT(getsockopt(20, SOL_SOCKET, SO_SNDBUF, &size, &length) == 0 && size == 2 * 12345);
    struct timeval timeout;
    length = sizeof timeout;
    EXPECT(getsockopt(21, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length) == 0 && timeout.tv_sec == 7);
    size_t total = 0;
    char block[4096];
    for (ssize_t n; (n = read(34, block, sizeof block)) > 0; total += (size_t)n)
        EXPECT(block[0] == 'f' && block[n - 1] == 'f');
    EXPECT(total >= 100000);
}

static void test_pairs(void **state)
{
    (void)state;
    expect_recreated(set_up_pairs, look_at_pairs);
}

/* ---- descriptors in flight ---- */

static void set_up_flight(void)
{
    int ends[2], fds[3];
    pair_at(SOCK_STREAM, 20, 21);
    MUST(pipe(ends));
    put_at(22, ends[1]);
    fds[0] = ends[0];
    fds[1] = MUST(eventfd(5, 0));
    fds[2] = 22;
    MUST(write(20, "before", 6));
    send_fds(20, "with", fds, 3);
    MUST(write(20, "after", 5));
    close(ends[0]);
    close(fds[1]);
    MUST(write(22, "in the pipe", 11));
    /* A socket in flight that itself has a descriptor in flight, and a socket in its own queue. */
    pair_at(SOCK_DGRAM, 30, 31);
    pair_at(SOCK_SEQPACKET, 40, 41);
    fds[0] = 31;
    send_fds(40, "outer", fds, 1);
    fds[0] = MUST(eventfd(9, 0));
    fds[1] = 41;
    send_fds(30, "inner", fds, 2);
    close(fds[0]);
    close(31);
}

static void look_at_flight(void)
{
    char text[32] = "";
    int fds[8];
    uint64_t value;
    EXPECT(receive(21, text, 6, fds, NULL) == 0 && strcmp(text, "before") == 0);
    EXPECT(receive(21, text, sizeof text, fds, NULL) == 3 && strcmp(text, "with") == 0);
    EXPECT(same_object(fds[2], 22) && read(fds[1], &value, 8) == 8 && value == 5);
    EXPECT(read(fds[0], text, sizeof text) == 11 && memcmp(text, "in the pipe", 11) == 0);
    expect_received(21, "after");
    EXPECT(receive(41, text, sizeof text, fds, NULL) == 1 && strcmp(text, "outer") == 0);
    int inner = fds[0];
    EXPECT(receive(inner, text, sizeof text, fds, NULL) == 2 && strcmp(text, "inner") == 0);
    EXPECT(read(fds[0], &value, 8) == 8 && value == 9 && same_object(fds[1], 41));
    MUST(write(30, "still connected", 15));
    expect_received(inner, "still connected");
}

static void test_flight(void **state)
{
    (void)state;
    expect_recreated(set_up_flight, look_at_flight);
}

static void set_up_own_flight(void)
{
    pair_at(SOCK_STREAM, 20, 21);
    int fds[] = {MUST(sys_pidfd_open(getpid())), MUST(open("/proc/self/status", O_RDONLY))};
    send_fds(20, "own", fds, 2);
    close(fds[0]);
    close(fds[1]);
}

static void look_at_own_flight(void)
{
    char text[32] = "";
    int fds[8];
    EXPECT(receive(21, text, sizeof text, fds, NULL) == 2 && strcmp(text, "own") == 0);
    EXPECT(read(fds[1], text, 1) < 0 && errno == EBADF);
    EXPECT(sys_pidfd_send_signal(fds[0], 0) == -EBADF);
}

/* What is on the process itself cannot be under way in a queue that is filled before there is a process. */
static void test_own_flight(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up_own_flight, &snapshot);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 21), OBJECT_DEGRADED);
    struct object_options options = {.allows_degraded = true};
    if (object_recreate(&snapshot, &options, &set, &error) < 0)
        fail_with_error("recreate", error);
    run_look(&snapshot, &set, look_at_own_flight);
}

/* ---- names ---- */

static void set_up_names(void)
{
    bound_at(20, SOCK_STREAM, test_path("listener"));
    MUST(chmod(test_path("listener"), 0640));
    MUST(listen(20, 5));
    put_at(21, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(connect_to(21, test_path("listener")));
    put_at(22, MUST(accept(20, NULL, NULL)));
    MUST(write(21, "question", 8));
    /* Two who wait, the first with a name. */
    bound_at(23, SOCK_STREAM, "@reseat-first");
    MUST(connect_to(23, test_path("listener")));
    put_at(24, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(connect_to(24, test_path("listener")));

    bound_at(30, SOCK_DGRAM, "@reseat-receiver");
    bound_at(31, SOCK_DGRAM, "@reseat-sender");
    MUST(connect_to(31, "@reseat-receiver"));
    MUST(write(31, "named", 5));
    put_at(32, MUST(socket(AF_UNIX, SOCK_DGRAM, 0)));
    MUST(connect_to(32, "@reseat-receiver"));
    MUST(write(32, "nameless", 8));
    bound_at(33, SOCK_DGRAM, "@reseat-gone");
    MUST(connect_to(33, "@reseat-receiver"));
    MUST(write(33, "gone", 4));
    close(33);
}

static void look_at_names(void)
{
    char text[32];
    int fds[8];
    struct sockaddr_un address, from;
    socklen_t length = sizeof address;
    struct stat stat;
    EXPECT(lstat(test_path("listener"), &stat) == 0 && (stat.st_mode & 07777) == 0640);
    expect_received(22, "question");
    EXPECT(getsockname(22, (struct sockaddr *)&address, &length) == 0);
    EXPECT(strcmp(address.sun_path, test_path("listener")) == 0);
    length = sizeof address;
    EXPECT(getpeername(21, (struct sockaddr *)&address, &length) == 0);
    EXPECT(strcmp(address.sun_path, test_path("listener")) == 0);
    length = sizeof address;
    int first = MUST(accept(20, (struct sockaddr *)&address, &length));
    EXPECT(memcmp(address.sun_path, "\0reseat-first", 13) == 0);
    int second = MUST(accept(20, NULL, NULL));
    MUST(write(23, "first", 5));
    expect_received(first, "first");
    MUST(write(second, "second", 6));
    expect_received(24, "second");
    MUST(fcntl(20, F_SETFL, O_NONBLOCK));
    EXPECT(accept(20, NULL, NULL) < 0 && errno == EAGAIN);

    EXPECT(receive(30, text, sizeof text, fds, &from) == 0 && strcmp(text, "named") == 0);
    EXPECT(memcmp(from.sun_path, "\0reseat-sender", 14) == 0);
    EXPECT(receive(30, text, sizeof text, fds, NULL) == 0 && strcmp(text, "nameless") == 0);
    EXPECT(receive(30, text, sizeof text, fds, &from) == 0 && strcmp(text, "gone") == 0);
    EXPECT(memcmp(from.sun_path, "\0reseat-gone", 12) == 0);
    MUST(write(32, "more", 4));
    expect_received(30, "more");
}

static void test_names(void **state)
{
    (void)state;
    expect_recreated(set_up_names, look_at_names);
}

/* ---- names that are taken, or lie nowhere ---- */

static void bind_to(int selector, const char *name)
{
    struct sockaddr_un address;
    socklen_t length = address_of(name, &address);
    MUST(bind(selector, (struct sockaddr *)&address, length));
}

static void set_up_removed(void)
{
    /* A named pair of packets, with itself in its queues. */
    int fds[2] = {20, 21};
    pair_at(SOCK_DGRAM, 20, 21);
    bind_to(20, "@reseat-pair-0");
    bind_to(21, "@reseat-pair-1");
    send_fds(20, "20 to 21", &fds[0], 1);
    send_fds(20, "21 to 21", &fds[1], 1);
    send_fds(21, "20 to 20", &fds[0], 1);
    /* Two of one name in a directory that is no more, and who sends to them. */
    MUST(mkdir(test_path("no-more"), 0700));
    for (int i = 30; i < 34; i += 2) {
        bound_at(i, SOCK_DGRAM, test_path("no-more/packets"));
        put_at(i + 1, MUST(socket(AF_UNIX, SOCK_DGRAM, 0)));
        MUST(connect_to(i + 1, test_path("no-more/packets")));
        MUST(unlink(test_path("no-more/packets")));
    }
    MUST(write(31, "queued", 6));
    /* A listener there, with a connection and one that waits. */
    bound_at(34, SOCK_STREAM, test_path("no-more/stream"));
    MUST(listen(34, 3));
    put_at(35, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(connect_to(35, test_path("no-more/stream")));
    put_at(36, MUST(accept(34, NULL, NULL)));
    put_at(37, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(connect_to(37, test_path("no-more/stream")));
    MUST(unlink(test_path("no-more/stream")));
    MUST(rmdir(test_path("no-more")));
    /* One in whose place there is a FIFO, and one in whose place there is another socket. */
    bound_at(40, SOCK_DGRAM, test_path("fifo"));
    MUST(unlink(test_path("fifo")));
    MUST(mkfifo(test_path("fifo"), 0600));
    bound_at(41, SOCK_STREAM, test_path("twice"));
    MUST(unlink(test_path("twice")));
    bound_at(42, SOCK_STREAM, test_path("twice"));
    MUST(listen(42, 1));
}

static void expect_name(int selector, const char *name)
{
    struct sockaddr_un expected, found = {0};
    socklen_t length = sizeof found, expected_length = address_of(name, &expected);
    EXPECT(getsockname(selector, (struct sockaddr *)&found, &length) == 0 && length == expected_length);
    EXPECT(memcmp(&found, &expected, length) == 0);
}

static void look_at_removed(void)
{
    char text[16];
    int fds[8];
    struct stat stat;
    expect_name(20, "@reseat-pair-0");
    expect_name(21, "@reseat-pair-1");
    EXPECT(receive(21, text, sizeof text, fds, NULL) == 1 && same_object(fds[0], 20));
    EXPECT(receive(21, text, sizeof text, fds, NULL) == 1 && same_object(fds[0], 21));
    EXPECT(receive(20, text, sizeof text, fds, NULL) == 1 && same_object(fds[0], 20));
    expect_name(30, test_path("no-more/packets"));
    expect_name(32, test_path("no-more/packets"));
    expect_received(30, "queued");
    MUST(write(31, "to 30", 5));
    MUST(write(33, "to 32", 5));
    expect_received(30, "to 30");
    expect_received(32, "to 32");
    expect_name(36, test_path("no-more/stream"));
    MUST(write(36, "accepted", 8));
    expect_received(35, "accepted");
    int accepted = MUST(accept(34, NULL, NULL));
    MUST(write(37, "waited", 6));
    expect_received(accepted, "waited");
    EXPECT(lstat(test_path("no-more"), &stat) < 0 && errno == ENOENT);
    expect_name(40, test_path("fifo"));
    EXPECT(lstat(test_path("fifo"), &stat) == 0 && S_ISFIFO(stat.st_mode));
    expect_name(41, test_path("twice"));
    int client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(connect_to(client, test_path("twice")));
    MUST(accept(42, NULL, NULL));
}

static void test_removed(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* who connects to a socket without a file needs CAP_NET_ADMIN */
    expect_recreated(set_up_removed, look_at_removed);
}

/* Ordinary users cannot connect to what has no file: that is said beforehand. */
static void test_removed_of_user(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up_removed, &snapshot);
    uid_t before = geteuid();
    if (before == 0)
        assert_return_code(seteuid(65534), errno);
    int r = object_judge_cold(&snapshot, NULL, &verdicts, &error);
    assert_return_code(seteuid(before), errno);
    assert_int_equal(r, 0);
    assert_int_equal(fate_of(&verdicts, 30), OBJECT_LOST);
    assert_int_equal(fate_of(&verdicts, 34), OBJECT_LOST);
    assert_int_equal(fate_of(&verdicts, 40), OBJECT_LOST);
    assert_int_equal(fate_of(&verdicts, 20), OBJECT_RECREATED);
    assert_int_equal(fate_of(&verdicts, 42), OBJECT_RECREATED);
}

/* A file that was moved is not where the name says. */
static void set_up_moved(void)
{
    bound_at(20, SOCK_STREAM, test_path("before"));
    MUST(listen(20, 1));
    MUST(rename(test_path("before"), test_path("after")));
}

static void test_moved(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    if (geteuid() != 0)
        skip(); /* where it is needs CAP_NET_ADMIN, too */
    capture_subject(set_up_moved, &snapshot);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 20), OBJECT_DEGRADED);
}

/* ---- credentials ---- */

static void set_up_credentials(void)
{
    int yes = 1;
    pair_at(SOCK_DGRAM, 20, 21);
    MUST(setsockopt(21, SOL_SOCKET, SO_PASSCRED, &yes, sizeof yes));
    char control[CMSG_SPACE(sizeof(struct ucred))] = {0};
    struct iovec piece = {"who", 3};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){CMSG_LEN(sizeof(struct ucred)), SOL_SOCKET, SCM_CREDENTIALS};
    struct ucred credentials = {getppid(), 0, 0};
    memcpy(CMSG_DATA(c), &credentials, sizeof credentials);
    MUST(sendmsg(20, &message, 0));
}

static void look_at_credentials(void)
{
    int yes = 0;
    socklen_t length = sizeof yes;
    EXPECT(getsockopt(21, SOL_SOCKET, SO_PASSCRED, &yes, &length) == 0 && yes == 1);
    char control[CMSG_SPACE(sizeof(struct ucred))] = {0}, text[8] = "";
    struct iovec piece = {text, sizeof text};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    EXPECT(recvmsg(21, &message, MSG_DONTWAIT) == 3 && strcmp(text, "who") == 0);
    struct ucred credentials;
    EXPECT(CMSG_FIRSTHDR(&message) && CMSG_FIRSTHDR(&message)->cmsg_type == SCM_CREDENTIALS);
    memcpy(&credentials, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof credentials);
    EXPECT(credentials.pid == getppid());
}

static void test_credentials(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* only root may name another sender */
    expect_recreated(set_up_credentials, look_at_credentials);
}

/* ---- what is outside ---- */

static int outside_end, outside_listener;

static void set_up_outside(void)
{
    put_at(20, MUST(dup(outside_end)));
    put_at(21, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(connect_to(21, "@reseat-outside"));
    MUST(write(21, "lost", 4));
    put_at(22, MUST(socket(AF_UNIX, SOCK_DGRAM, 0)));
    MUST(connect_to(22, "@reseat-outside-packets"));
    bound_at(23, SOCK_STREAM, "@reseat-inside");
    MUST(listen(23, 3));
    close_range(3, 19, 0);
    close_range(24, ~0U, 0);
}

/* The set-up runs in a child that has closed everything: what is outside is held up there, at a number that
 * it keeps. */
static void run_outside(void *userdata)
{
    (void)userdata;
    close(0);
    MUST(open("/dev/null", O_RDWR));
    MUST(dup2(0, 1));
    set_up_outside();
    MUST(dup2(0, 2));
}

static void test_outside(void **state)
{
    (void)state;
    int ends[2];
    struct sockaddr_un address;
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), errno);
    outside_end = ends[0];
    outside_listener = socket(AF_UNIX, SOCK_STREAM, 0);
    socklen_t length = address_of("@reseat-outside", &address);
    assert_return_code(bind(outside_listener, (struct sockaddr *)&address, length), errno);
    assert_return_code(listen(outside_listener, 3), errno);
    int packets = socket(AF_UNIX, SOCK_DGRAM, 0);
    length = address_of("@reseat-outside-packets", &address);
    assert_return_code(bind(packets, (struct sockaddr *)&address, length), errno);

    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_error_ struct reseat_error *error = NULL;
    pid_t pid = subject_start(run_outside, NULL);
    int waiting = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_return_code(connect_to(waiting, "@reseat-inside"), errno);
    snapshot.process.pid = (uint32_t)pid;
    assert_int_equal(native_pd_open(pid, &pd, &error), 0);
    if (capture_held(pd, &snapshot, &error) < 0)
        fail_with_error("capture", error);
    subject_stop(pid);
    close(ends[0]);

    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 20), OBJECT_DEGRADED);
    assert_int_equal(fate_of(&verdicts, 21), OBJECT_DEGRADED);
    assert_int_equal(fate_of(&verdicts, 22), OBJECT_RECREATED);
    assert_int_equal(fate_of(&verdicts, 23), OBJECT_DEGRADED);
    _cleanup_(object_set_end) struct object_set set = {0};
    struct object_options options = {.allows_degraded = true};
    if (recreate_held(&snapshot, &options, &set, &error) < 0)
        fail_with_error("recreate", error);
    char text[16] = "";
    assert_int_equal(read(set.caps[object_at(&snapshot, 20)], text, 1), 0);
    assert_int_equal(send(set.caps[object_at(&snapshot, 20)], text, 1, MSG_NOSIGNAL), -1);
    assert_int_equal(read(set.caps[object_at(&snapshot, 21)], text, 1), 0);
    assert_int_equal(send(set.caps[object_at(&snapshot, 22)], "hello", 5, 0), 5);
    assert_int_equal(recv(packets, text, sizeof text, MSG_DONTWAIT), 5);
    close(ends[1]);
    close(packets);
    close(waiting);
    close(outside_listener);
}

/* ---- looking leaves no trace ---- */

static void set_up_much(void)
{
    int peek = 2;
    set_up_pairs();
    close_range(20, 60, 0);
    set_up_flight();
    pair_at(SOCK_STREAM, 50, 51);
    MUST(write(50, "0123456789", 10));
    MUST(setsockopt(51, SOL_SOCKET, SO_PEEK_OFF, &peek, sizeof peek));
    int ends[2];
    MUST(pipe(ends));
    put_at(60, ends[0]);
    put_at(61, ends[1]);
    MUST(write(61, "in the pipe", 11));
}

/* Captured twice, a process that runs has the same state twice. */
static void test_undisturbed(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot first = {0}, second = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_error_ struct reseat_error *error = NULL;
    void (*set_up)(void) = set_up_much;
    pid_t pid = subject_start(run_set_up, &set_up);
    first.process.pid = second.process.pid = (uint32_t)pid;
    if (native_pd_open(pid, &pd, &error) < 0 || capture_held(pd, &first, &error) < 0 ||
        capture_held(pd, &second, &error) < 0)
        fail_with_error("capture", error);
    subject_stop(pid);
    assert_int_equal(first.objects_count, second.objects_count);
    for (size_t i = 0; i < first.objects_count; i++) {
        const struct snapshot_object *a = &first.objects[i], *b = &second.objects[i];
        assert_int_equal(a->state_length, b->state_length);
        assert_memory_equal(first.blobs + a->state_offset, second.blobs + b->state_offset, a->state_length);
    }
}

/* ---- live ones ---- */

static void set_up_given(void)
{
    int ends[2];
    pair_at(SOCK_STREAM, 20, 21);
    MUST(pipe(ends));
    put_at(22, ends[0]);
    put_at(23, ends[1]);
}

static int take_live(void *userdata, object_id_t object, native_cap_t *ret_cap,
                     struct reseat_error **ret_error)
{
    (void)object, (void)ret_error;
    *ret_cap = fcntl(*(native_cap_t *)userdata, F_DUPFD_CLOEXEC, 0);
    return 0;
}

/* One end of the pipe still lives: the other joins it. */
static void test_given(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_error_ struct reseat_error *error = NULL;
    _cleanup_close_ native_cap_t live = NATIVE_CAP_INVALID;
    void (*set_up)(void) = set_up_given;
    pid_t pid = subject_start(run_set_up, &set_up);
    snapshot.process.pid = (uint32_t)pid;
    assert_int_equal(native_pd_open(pid, &pd, &error), 0);
    assert_int_equal(capture_held(pd, &snapshot, &error), 0);
    assert_int_equal(native_pd_request(pd, 23, &live, NULL, &error), 0);
    subject_stop(pid);
    object_id_t given = object_at(&snapshot, 23);
    struct object_options options = {.given = &given,
                                     .given_count = 1,
                                     .take = take_live,
                                     .take_userdata = &live};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    assert_int_equal(object_judge_cold(&snapshot, &options, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 23), OBJECT_KEPT);
    _cleanup_(object_set_end) struct object_set set = {0};
    if (recreate_held(&snapshot, &options, &set, &error) < 0)
        fail_with_error("recreate", error);
    char text[8] = "";
    assert_int_equal(write(live, "live", 4), 4);
    assert_int_equal(read(set.caps[object_at(&snapshot, 22)], text, sizeof text), 4);
    assert_string_equal(text, "live");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs),
        cmocka_unit_test(test_flight),
        cmocka_unit_test(test_own_flight),
        cmocka_unit_test_setup_teardown(test_names, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_removed, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_removed_of_user, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_moved, make_directory, remove_directory),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_outside),
        cmocka_unit_test(test_undisturbed),
        cmocka_unit_test(test_given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
