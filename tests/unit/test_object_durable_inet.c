/* The durable half of the object room: internet sockets, and a TCP connection between two network namespaces
 * that outlives its process. See test_object_durable.c. Runs in a network namespace of its own. */
#include "test_object_durable.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>

static struct sockaddr_in address_v4(const char *host, unsigned port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    inet_pton(AF_INET, host, &address.sin_addr);
    return address;
}

static int number_option(int fd, int level, int option)
{
    int value = -1;
    socklen_t length = sizeof value;
    EXPECT(getsockopt(fd, level, option, &value, &length) == 0);
    return value;
}

static void set_option(int fd, int level, int option, int value)
{
    MUST(setsockopt(fd, level, option, &value, sizeof value));
}

/* ---- bound sockets ---- */

static void set_up_bound(void)
{
    struct sockaddr_in address = address_v4("127.0.0.1", 7001);
    put_at(20, MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)));
    set_option(20, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(20, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(20, IPPROTO_TCP, TCP_KEEPIDLE, 77);
    MUST(bind(20, (struct sockaddr *)&address, sizeof address));
    MUST(listen(20, 17));
    struct sockaddr_in6 address6 = {.sin6_family = AF_INET6, .sin6_port = htons(7002)};
    put_at(21, MUST(socket(AF_INET6, SOCK_STREAM, 0)));
    set_option(21, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    MUST(bind(21, (struct sockaddr *)&address6, sizeof address6));
    MUST(listen(21, 3));
    put_at(22, MUST(socket(AF_INET, SOCK_STREAM, 0)));

    put_at(30, MUST(socket(AF_INET, SOCK_DGRAM, 0)));
    address = address_v4("127.0.0.1", 7003);
    MUST(bind(30, (struct sockaddr *)&address, sizeof address));
    put_at(31, MUST(socket(AF_INET, SOCK_DGRAM, 0)));
    set_option(31, IPPROTO_IP, IP_TTL, 33);
    MUST(connect(31, (struct sockaddr *)&address, sizeof address));
    MUST(write(31, "first", 5));
    MUST(write(31, "second", 6));
    put_at(32, MUST(socket(AF_INET, SOCK_DGRAM, 0)));
    set_option(32, SOL_SOCKET, SO_BROADCAST, 1);
    put_at(33, MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)));
    put_at(34, MUST(socket(AF_NETLINK, SOCK_RAW, 0)));
}

static void look_at_bound(void)
{
    EXPECT(number_option(20, SOL_SOCKET, SO_REUSEADDR) == 1 &&
           number_option(20, IPPROTO_TCP, TCP_NODELAY) == 1);
    EXPECT(number_option(20, IPPROTO_TCP, TCP_KEEPIDLE) == 77);
    EXPECT(number_option(20, SOL_SOCKET, SO_ACCEPTCONN) == 1 && (fcntl(20, F_GETFL) & O_NONBLOCK));
    struct tcp_info info;
    socklen_t length = sizeof info;
    EXPECT(getsockopt(20, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 && info.tcpi_sacked == 17);
    struct sockaddr_in address = address_v4("127.0.0.1", 7001), from;
    int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&address, sizeof address));
    struct pollfd poll_fd = {.fd = 20, .events = POLLIN};
    EXPECT(poll(&poll_fd, 1, 5000) == 1 && accept(20, NULL, NULL) >= 0);
    EXPECT(number_option(21, IPPROTO_IPV6, IPV6_V6ONLY) == 1);
    EXPECT(number_option(22, SOL_SOCKET, SO_ACCEPTCONN) == 0);

    char text[16] = "";
    struct sockaddr_in sender;
    socklen_t sender_length = sizeof sender;
    length = sizeof from;
    EXPECT(recvfrom(30, text, sizeof text, MSG_DONTWAIT, (struct sockaddr *)&from, &length) == 5);
    EXPECT(memcmp(text, "first", 5) == 0 && getsockname(31, (struct sockaddr *)&sender, &sender_length) == 0);
    EXPECT(from.sin_port == sender.sin_port && from.sin_addr.s_addr == sender.sin_addr.s_addr);
    EXPECT(recv(30, text, sizeof text, MSG_DONTWAIT) == 6 && memcmp(text, "second", 6) == 0);
    EXPECT(number_option(31, IPPROTO_IP, IP_TTL) == 33);
    MUST(write(31, "third", 5));
    EXPECT(recv(30, text, sizeof text, MSG_DONTWAIT) == 5);
    EXPECT(number_option(32, SOL_SOCKET, SO_BROADCAST) == 1);
    EXPECT(number_option(33, SOL_SOCKET, SO_TYPE) == SOCK_RAW);
    EXPECT(number_option(34, SOL_SOCKET, SO_DOMAIN) == AF_NETLINK);
}

static void test_bound(void **state)
{
    (void)state;
    expect_recreated(set_up_bound, look_at_bound);
}

/* ---- options that were taken back once they had had their effect ---- */

static void bind_at(int fd, int type, const char *host, unsigned port, int level, int option)
{
    struct sockaddr_in address = address_v4(host, port);
    put_at(fd, MUST(socket(AF_INET, type, 0)));
    set_option(fd, level, option, 1);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address));
}

static void set_up_taken_back(void)
{
    for (int fd = 20; fd < 23; fd++) {
        bind_at(fd, SOCK_STREAM, "0.0.0.0", 7010, SOL_SOCKET, SO_REUSEPORT);
        MUST(listen(fd, 5));
    }
    set_option(20, SOL_SOCKET, SO_REUSEPORT, 0);
    set_option(22, SOL_SOCKET, SO_REUSEPORT, 0);
    bind_at(23, SOCK_DGRAM, "127.0.0.1", 7010, SOL_SOCKET, SO_REUSEADDR);
    bind_at(24, SOCK_DGRAM, "127.0.0.1", 7010, SOL_SOCKET, SO_REUSEADDR);
    set_option(23, SOL_SOCKET, SO_REUSEADDR, 0);
    bind_at(25, SOCK_DGRAM, "192.0.2.77", 7011, IPPROTO_IP, IP_FREEBIND);
    bind_at(26, SOCK_STREAM, "192.0.2.77", 7011, IPPROTO_IP, IP_FREEBIND);
    set_option(26, IPPROTO_IP, IP_FREEBIND, 0);
}

static void look_at_taken_back(void)
{
    for (int fd = 20; fd < 23; fd++) {
        EXPECT(number_option(fd, SOL_SOCKET, SO_REUSEPORT) == (fd == 21));
        EXPECT(number_option(fd, SOL_SOCKET, SO_REUSEADDR) == 0);
        EXPECT(number_option(fd, SOL_SOCKET, SO_ACCEPTCONN) == 1);
    }
    EXPECT(number_option(23, SOL_SOCKET, SO_REUSEADDR) == 0);
    EXPECT(number_option(24, SOL_SOCKET, SO_REUSEADDR) == 1);
    EXPECT(number_option(24, SOL_SOCKET, SO_REUSEPORT) == 0);
    EXPECT(number_option(25, IPPROTO_IP, IP_FREEBIND) == 1);
    EXPECT(number_option(26, IPPROTO_IP, IP_FREEBIND) == 0);
    struct sockaddr_in address;
    socklen_t length = sizeof address;
    EXPECT(getsockname(26, (struct sockaddr *)&address, &length) == 0);
    EXPECT(address.sin_addr.s_addr == address_v4("192.0.2.77", 0).sin_addr.s_addr &&
           ntohs(address.sin_port) == 7011);
}

static void test_taken_back(void **state)
{
    (void)state;
    expect_recreated(set_up_taken_back, look_at_taken_back);
}

/* ---- connections that are over ---- */

static void loopback_at(int client, int server)
{
    struct sockaddr_in address = address_v4("127.0.0.1", 0);
    socklen_t length = sizeof address;
    int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    MUST(listen(listener, 1));
    MUST(getsockname(listener, (struct sockaddr *)&address, &length));
    put_at(client, MUST(socket(AF_INET, SOCK_STREAM, 0)));
    MUST(connect(client, (struct sockaddr *)&address, sizeof address));
    put_at(server, MUST(accept(listener, NULL, NULL)));
    close(listener);
}

static struct ended_names {
    struct sockaddr_in own, peer;
} * names_of; /* by selector; shared with the processes that set up and look */

static struct ended_names read_names(int selector)
{
    struct ended_names names = {0};
    socklen_t own_length = sizeof names.own, peer_length = sizeof names.peer;
    MUST(getsockname(selector, (struct sockaddr *)&names.own, &own_length));
    MUST(getsockopt(selector, SOL_SOCKET, SO_PEERNAME, &names.peer, &peer_length));
    return names;
}

static void set_up_ended(void)
{
    loopback_at(20, 120);
    MUST(shutdown(20, SHUT_WR));
    close(120);
    loopback_at(21, 121);
    struct linger at_once = {.l_onoff = 1};
    MUST(setsockopt(121, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    close(121);
    loopback_at(22, 122);
    MUST(setsockopt(122, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once));
    close(122);
    usleep(20000);
    EXPECT(number_option(22, SOL_SOCKET, SO_ERROR) == ECONNRESET);
    for (int selector = 20; selector <= 22; selector++)
        names_of[selector] = read_names(selector);
}

static void look_at_ended(void)
{
    char byte;
    EXPECT(read(20, &byte, 1) == 0 && send(20, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    EXPECT(read(21, &byte, 1) < 0 && errno == ECONNRESET && read(21, &byte, 1) == 0);
    EXPECT(read(22, &byte, 1) == 0);
    for (int selector = 20; selector <= 22; selector++) {
        struct ended_names names = read_names(selector);
        EXPECT(memcmp(&names, &names_of[selector], sizeof names) == 0);
    }
}

static void test_ended(void **state)
{
    (void)state;
    names_of = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(names_of, MAP_FAILED);
    expect_recreated(set_up_ended, look_at_ended);
}

/* ---- connections that are being made ---- */

static void set_up_connecting(void)
{
    struct sockaddr_in address = address_v4("127.0.0.1", 7200);
    put_at(20, MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)));
    EXPECT(connect(20, (struct sockaddr *)&address, sizeof address) < 0 && errno == EINPROGRESS);
    address.sin_port = htons(7201);
    put_at(21, MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0)));
    EXPECT(connect(21, (struct sockaddr *)&address, sizeof address) < 0 && errno == EINPROGRESS);
}

static void look_at_connecting(void)
{
    struct pollfd poll_fd = {.fd = 20, .events = POLLOUT};
    EXPECT(poll(&poll_fd, 1, 10000) == 1 && number_option(20, SOL_SOCKET, SO_ERROR) == 0);
    EXPECT(send(20, "x", 1, MSG_NOSIGNAL) == 1 && (fcntl(20, F_GETFL) & O_NONBLOCK));
    poll_fd.fd = 21;
    EXPECT(poll(&poll_fd, 1, 10000) == 1 && number_option(21, SOL_SOCKET, SO_ERROR) != 0);
}

/* One that lets nobody in, because somebody waits already. */
static void listen_and_be_full(unsigned port, int fds[3])
{
    struct sockaddr_in address = address_v4("127.0.0.1", port);
    for (size_t i = 0; i < 3; i++)
        assert_return_code(fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), errno);
    assert_return_code(bind(fds[0], (struct sockaddr *)&address, sizeof address), errno);
    assert_return_code(listen(fds[0], 0), errno);
    for (size_t i = 1; i < 3; i++)
        (void)!connect(fds[i], (struct sockaddr *)&address, sizeof address);
}

/* One of the two lets them in afterwards, the other one is gone. */
static void test_connecting(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    int staying[3], going[3];
    listen_and_be_full(7200, staying);
    listen_and_be_full(7201, going);
    capture_subject(set_up_connecting, &snapshot);
    for (size_t i = 0; i < 3; i++)
        close(going[i]);
    for (int i = 0, fd; i < 3 && (fd = accept4(staying[0], NULL, NULL, SOCK_CLOEXEC)) >= 0; i++)
        close(fd);
    if (object_recreate(&snapshot, NULL, &set, &error) < 0)
        fail_with_error("recreate", error);
    run_look(&snapshot, &set, look_at_connecting);
    for (size_t i = 0; i < 3; i++)
        close(staying[i]);
}

/* ---- connections ---- */

#define HERE  "10.99.0.1"
#define THERE "10.99.0.2"

static _printf_(1, 2) void run_command(const char *format, ...)
{
    char command[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command, sizeof command, format, arguments);
    va_end(arguments);
    MUST(system(command) == 0 ? 0 : -1);
}

/* The peer: connects from its own namespace, says something, and later says more and listens. */
static void be_peer(int control)
{
    struct sockaddr_in address = address_v4(HERE, 7100);
    char byte, text[64] = "";
    MUST(unshare(CLONE_NEWNET));
    MUST(write(control, "n", 1));
    MUST(read(control, &byte, 1)); /* the wire is laid */
    run_command("ip addr add " THERE "/24 dev vb && ip link set vb up");
    MUST(write(control, "u", 1));
    MUST(read(control, &byte, 1)); /* somebody listens */
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    MUST(write(fd, "to be read, ", 12));
    MUST(write(control, "c", 1));
    MUST(read(control, &byte, 1)); /* it is gone */
    MUST(write(fd, "sent meanwhile", 14));
    usleep(600000); /* long enough to be sent several times */
    EXPECT(number_option(fd, SOL_SOCKET, SO_ERROR) == 0);
    MUST(write(control, "s", 1));
    for (size_t length = 0; length < 24;) {
        ssize_t n = MUST(read(fd, text + length, sizeof text - 1 - length));
        EXPECT(n > 0);
        length += (size_t)n;
    }
    EXPECT(strcmp(text, "from before, from after.") == 0);
    EXPECT(read(fd, text, 1) == 0);
    _exit(0);
}

static void expect_byte(int control, char expected)
{
    char byte = 0;
    struct pollfd poll_fd = {.fd = control, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 20000), 1);
    assert_int_equal(read(control, &byte, 1), 1);
    assert_int_equal(byte, expected);
}

static pid_t start_peer(int *ret_control)
{
    int ends[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), errno);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        be_peer(ends[1]);
    }
    close(ends[1]);
    *ret_control = ends[0];
    expect_byte(ends[0], 'n');
    run_command("ip link add va type veth peer name vb netns %d", pid);
    run_command("ip addr add " HERE "/24 dev va && ip link set va up");
    assert_int_equal(write(ends[0], "l", 1), 1);
    expect_byte(ends[0], 'u');
    return pid;
}

static void set_up_server(void)
{
    struct sockaddr_in address = address_v4("0.0.0.0", 7100);
    put_at(21, MUST(socket(AF_INET, SOCK_STREAM, 0)));
    set_option(21, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(21, (struct sockaddr *)&address, sizeof address));
    MUST(listen(21, 1));
}

static void serve(void *userdata)
{
    (void)userdata;
    run_set_up(&(void (*)(void)){set_up_server});
}

/* Accepts in the subject: it stands still, so a second one, which has inherited the listener, does it. */
static int server_control;

static void set_up_connection(void)
{
    MUST(write(server_control, "l", 1));
    put_at(20, MUST(accept(21, NULL, NULL)));
    MUST(write(20, "from before, ", 13));
    set_option(20, IPPROTO_TCP, TCP_NODELAY, 1);
}

static void serve_connection(void *userdata)
{
    (void)userdata;
    int control = MUST(fcntl(server_control, F_DUPFD, 300));
    close_range(3, 299, 0);
    close(0);
    MUST(open("/dev/null", O_RDWR));
    MUST(dup2(0, 1));
    server_control = control;
    set_up_server();
    set_up_connection();
    close(control);
    close_range(301, ~0U, 0);
    MUST(dup2(0, 2));
}

static void look_at_connection(void)
{
    char text[64] = "";
    for (size_t length = 0; length < 26;) {
        ssize_t n = MUST(read(20, text + length, sizeof text - 1 - length));
        EXPECT(n > 0);
        length += (size_t)n;
    }
    EXPECT(strcmp(text, "to be read, sent meanwhile") == 0);
    EXPECT(number_option(20, IPPROTO_TCP, TCP_NODELAY) == 1);
    MUST(write(20, "from after.", 11));
    struct sockaddr_in peer;
    socklen_t length = sizeof peer;
    EXPECT(getpeername(20, (struct sockaddr *)&peer, &length) == 0);
    EXPECT(peer.sin_addr.s_addr == address_v4(THERE, 0).sin_addr.s_addr);
}

static void test_connection(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_(object_freeze_end) struct object_freeze *freeze = NULL;
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    int status;
    pid_t peer = start_peer(&server_control);
    pid_t pid = subject_start(serve_connection, NULL);
    expect_byte(server_control, 'c');
    snapshot.process.pid = (uint32_t)pid;
    snapshot.process.realtime_ns = 1234;
    assert_int_equal(native_pd_open(pid, &pd, &error), 0);
    if (object_freeze_connections(pd, &snapshot, &freeze, &error) < 0 ||
        capture_held(pd, &snapshot, &error) < 0)
        fail_with_error("capture", error);
    object_freeze_commit(freeze);
    subject_stop(pid);
    object_freeze_end(&freeze);
    assert_int_equal(write(server_control, "g", 1), 1);
    expect_byte(server_control, 's');

    if (recreate_held(&snapshot, NULL, &set, &error) < 0 ||
        object_thaw_connections(&set, &snapshot, &error) < 0)
        fail_with_error("recreate", error);
    run_look(&snapshot, &set, look_at_connection);
    assert_return_code(waitpid(peer, &status, 0), errno);
    assert_int_equal(status, 0);
    close(server_control);
}

/* Not frozen: the process finds a reset. */
static void test_reset(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    pid_t pid = subject_start(serve, NULL);
    struct sockaddr_in address = address_v4("127.0.0.1", 7100);
    int client = socket(AF_INET, SOCK_STREAM, 0);
    assert_return_code(connect(client, (struct sockaddr *)&address, sizeof address), errno);
    snapshot.process.pid = (uint32_t)pid;
    assert_int_equal(native_pd_open(pid, &pd, &error), 0);
    assert_int_equal(capture_held(pd, &snapshot, &error), 0);
    subject_stop(pid);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 21), OBJECT_DEGRADED); /* somebody waits to be accepted */
    close(client);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bound),      cmocka_unit_test(test_taken_back), cmocka_unit_test(test_ended),
        cmocka_unit_test(test_connecting), cmocka_unit_test(test_connection), cmocka_unit_test(test_reset),
    };
    return cmocka_run_group_tests(tests, enter_namespace, NULL);
}
