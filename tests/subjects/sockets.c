/* Sockets: what is queued stays queued, in both directions; the other end, here the peer, notices nothing;
 * who was waiting to be accepted can be accepted. */
#include "subject.h"

#include <linux/netlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_in address_of(int socket)
{
    struct sockaddr_in address;
    socklen_t length = sizeof address;

    MUST(getsockname(socket, (struct sockaddr *)&address, &length));
    return address;
}

static int bind_to_any(int type)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = MUST(socket(AF_INET, type, 0));

    MUST(bind(fd, (struct sockaddr *)&any, sizeof any));
    return fd;
}

static int connect_to(struct sockaddr_in address)
{
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));

    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    return fd;
}

static void expect_text(int fd, const char *text, int flags)
{
    char found[256] = "";
    size_t length = strlen(text);

    CHECK_EQUAL(recv(fd, found, length, MSG_WAITALL | flags), length);
    CHECK_TEXT(found, text);
}

static void send_text(int fd, const char *text)
{
    CHECK_EQUAL(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

/* ---- a connection to another process ---- */

/* Data is on its way in both directions. The peer answers each word, before, during and after. */
static void connected(int fd)
{
    send_text(fd, "first");
    be_checkpointed();
    expect_text(fd, "1st of all", 0);
    for (int i = 0; i < 3; i++) {
        send_text(fd, "again");
        expect_text(fd, "AGAIN", 0);
    }
    send_text(fd, "first");
}

static void answer(int fd)
{
    char word[8] = "";

    while (recv(fd, word, 5, MSG_WAITALL) == 5)
        send_text(fd, strcmp(word, "first") == 0 ? "1st of all" : "AGAIN");
}

static void tcp(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int yes = 1;

    address.sin_port = (in_port_t)receive_number();
    int fd = connect_to(address);
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes));
    struct sockaddr_in before = address_of(fd);
    connected(fd);
    struct sockaddr_in after = address_of(fd);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    int found = 0;
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &found, &(socklen_t){sizeof found}));
    CHECK(found);
}

static void tcp_peer(void)
{
    int listener = bind_to_any(SOCK_STREAM);

    MUST(listen(listener, 1));
    send_number(address_of(listener).sin_port);
    answer(MUST(accept(listener, NULL, NULL)));
}

static void unix_stream(void)
{
    connected(PEER);
}

static void unix_stream_peer(void)
{
    answer(PEER);
}

/* More than the other side has room for: the rest is sent when it reads. */
static void full_connection(void)
{
    enum { LENGTH = 1 << 20 };
    static char sent[LENGTH];
    int fd = connect_to((struct sockaddr_in){.sin_family = AF_INET,
                                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                             .sin_port = (in_port_t)receive_number()});

    fill(sent, LENGTH, 1);
    ssize_t n = send(fd, sent, LENGTH, MSG_DONTWAIT | MSG_NOSIGNAL);
    CHECK(n > 0);
    be_checkpointed();
    send_number(n);
    CHECK_EQUAL(receive_number(), n);
    MUST(shutdown(fd, SHUT_WR));
    char byte;
    CHECK_EQUAL(recv(fd, &byte, 1, 0), 0);
}

static void read_it_all(void)
{
    static char found[1 << 20], wanted[1 << 20];
    int listener = bind_to_any(SOCK_STREAM);

    MUST(listen(listener, 1));
    send_number(address_of(listener).sin_port);
    int fd = MUST(accept(listener, NULL, NULL));
    ssize_t length = receive_number();
    CHECK_EQUAL(recv(fd, found, (size_t)length, MSG_WAITALL), length);
    fill(wanted, sizeof wanted, 1);
    CHECK(memcmp(found, wanted, (size_t)length) == 0);
    send_number(length);
    CHECK_EQUAL(recv(fd, found, 1, 0), 0); /* and only now the end */
    close(fd);
    pause();
}

/* The end of a connection is seen when the restored process ends, and not before. */
static void end_is_seen_at_the_end(void)
{
    send_text(PEER, "x");
    be_checkpointed();
    send_text(PEER, "y");
}

static void watch_for_the_end(void)
{
    char byte;

    CHECK(recv(PEER, &byte, 1, 0) == 1 && byte == 'x');
    if (recv(PEER, &byte, 1, 0) != 1)
        fail(__FILE__, __LINE__, "the connection ended in between");
    while (recv(PEER, &byte, 1, 0) == 1)
        CHECK_EQUAL(byte, 'y');
}

/* ---- listening ---- */

static void backlog(void)
{
    enum { WAITING = 5 };
    int listener = bind_to_any(SOCK_STREAM), found = 0;

    MUST(listen(listener, 7));
    for (int i = 0; i < WAITING; i++)
        send_text(connect_to(address_of(listener)), "waiting");
    be_checkpointed();
    MUST(getsockopt(listener, SOL_SOCKET, SO_ACCEPTCONN, &found, &(socklen_t){sizeof found}));
    CHECK(found);
    for (int i = 0; i < WAITING; i++) {
        CHECK_EQUAL(poll(&(struct pollfd){listener, POLLIN, 0}, 1, 2000), 1);
        int server = accept(listener, NULL, NULL);
        expect_text(server, "waiting", 0);
        close(server);
    }
    for (int i = 0; i < WAITING; i++)
        send_text(connect_to(address_of(listener)), "waiting");
}

static void unix_listener(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX}, peer_address;
    socklen_t length = sizeof address;
    int listener = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0)),
        client = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));

    MUST(bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)));
    MUST(listen(listener, 3));
    MUST(getsockname(listener, (struct sockaddr *)&address, &length));
    MUST(connect(client, (struct sockaddr *)&address, length));
    send_text(client, "one");
    be_checkpointed();
    int server = accept(listener, NULL, NULL);
    expect_text(server, "one", 0);
    struct ucred credentials;
    MUST(getsockopt(server, SOL_SOCKET, SO_PEERCRED, &credentials, &(socklen_t){sizeof credentials}));
    CHECK_EQUAL(credentials.pid, getpid());
    length = sizeof peer_address;
    MUST(getsockname(server, (struct sockaddr *)&peer_address, &length));
    CHECK(memcmp(&address, &peer_address, length) == 0);
    client = MUST(socket(AF_UNIX, SOCK_SEQPACKET, 0));
    MUST(connect(client, (struct sockaddr *)&address, length));
    send_text(client, "one");
}

/* ---- within the process ---- */

static void pair_with_data(void)
{
    int ends[2], found;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    MUST(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &(int){40000}, sizeof(int)));
    send_text(ends[0], "forth"), send_text(ends[1], "back");
    be_checkpointed();
    MUST(getsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &found, &(socklen_t){sizeof found}));
    CHECK_EQUAL(found, 80000);
    expect_text(ends[1], "forth", 0), expect_text(ends[0], "back", 0);
    send_text(ends[0], "forth"), send_text(ends[1], "back");
}

static void send_to_itself(int udp)
{
    static const char *const texts[] = {"to myself", "", "behind"};
    struct sockaddr_in address = address_of(udp);

    for (size_t i = 0; i < 3; i++)
        CHECK_EQUAL(sendto(udp, texts[i], strlen(texts[i]), 0, (struct sockaddr *)&address, sizeof address),
                    strlen(texts[i]));
}

static void datagrams(void)
{
    int ends[2];

    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    send_text(ends[0], "one"), send_text(ends[0], "another");
    int udp = bind_to_any(SOCK_DGRAM);
    send_to_itself(udp);
    be_checkpointed();
    char found[32] = "";
    CHECK_EQUAL(recv(ends[1], found, sizeof found, 0), 3); /* each by itself */
    CHECK_EQUAL(recv(ends[1], found, sizeof found, 0), 7);
    CHECK_EQUAL(recv(udp, found, sizeof found, 0), 9);
    CHECK_TEXT(found, "to myself");
    CHECK_EQUAL(recv(udp, found, sizeof found, MSG_DONTWAIT), 0);
    CHECK_EQUAL(recv(udp, found, sizeof found, MSG_DONTWAIT), 6);
    send_text(ends[0], "one"), send_text(ends[0], "another");
    send_to_itself(udp);
}

/* Bound, and connected to its own name: a pair of one. */
static void datagrams_to_itself(void)
{
    struct sockaddr_un own = {.sun_family = AF_UNIX};
    socklen_t length = sizeof own;
    int fd = MUST(socket(AF_UNIX, SOCK_DGRAM, 0));

    MUST(bind(fd, (struct sockaddr *)&own, sizeof(sa_family_t)));
    MUST(getsockname(fd, (struct sockaddr *)&own, &length));
    MUST(connect(fd, (struct sockaddr *)&own, length));
    send_text(fd, "waiting");
    be_checkpointed();
    expect_text(fd, "waiting", MSG_DONTWAIT);
    send_text(fd, "new");
    expect_text(fd, "new", MSG_DONTWAIT);
    send_text(fd, "waiting");
}

/* Whom a netlink socket is connected to is where it sends to: to the kernel if it has forgotten. */
static void netlink_to_another(void)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    socklen_t length = sizeof address;
    int receiver = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK)),
        sender = MUST(socket(AF_NETLINK, SOCK_RAW, NETLINK_USERSOCK));
    struct nlmsghdr message = {.nlmsg_len = sizeof message, .nlmsg_type = 0x1234}, found = {0};

    MUST(bind(receiver, (struct sockaddr *)&address, sizeof address));
    MUST(getsockname(receiver, (struct sockaddr *)&address, &length));
    MUST(connect(sender, (struct sockaddr *)&address, sizeof address));
    be_checkpointed();
    CHECK_EQUAL(send(sender, &message, sizeof message, 0), sizeof message);
    CHECK_EQUAL(recv(receiver, &found, sizeof found, MSG_DONTWAIT), sizeof found);
    CHECK_EQUAL(found.nlmsg_type, 0x1234);
}

static void half_closed(void)
{
    int ends[2];
    char byte;

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    MUST(shutdown(ends[0], SHUT_WR));
    be_checkpointed();
    CHECK_EQUAL(recv(ends[1], &byte, 1, 0), 0);
    CHECK(send(ends[0], "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    CHECK_EQUAL(send(ends[1], "x", 1, MSG_NOSIGNAL), 1);
    CHECK_EQUAL(recv(ends[0], &byte, 1, 0), 1);
}

/* ---- descriptors that are in a message: at no selector, held by nobody but the queue ---- */

union descriptor_control {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

/* Sends it away, or takes a look at the one that is there. */
static int pass_descriptor(int socket, int fd)
{
    char byte = 'h';
    union descriptor_control control = {.header = {CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS}};
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};

    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    CHECK_EQUAL(fd >= 0 ? sendmsg(socket, &message, 0) : recvmsg(socket, &message, MSG_PEEK), 1);
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

static void descriptor_in_flight(void)
{
    int ends[2], hidden = MUST(memfd_create("hidden", MFD_CLOEXEC));
    char found[9] = "";

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    CHECK_EQUAL(write(hidden, "treasure", 8), 8);
    close(pass_descriptor(ends[0], hidden));
    be_checkpointed();
    hidden = pass_descriptor(ends[1], -1);
    CHECK_EQUAL(pread(hidden, found, 8, 0), 8);
    CHECK_TEXT(found, "treasure");
}

/* Who holds the other end of a pipe, or of a connection, is in the message. */
static void other_ends_in_flight(void)
{
    int ends[2], pipe_ends[2], inner[2];
    char byte = 0;

    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    MUST(pipe(pipe_ends));
    close(pass_descriptor(ends[0], pipe_ends[0]));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, inner));
    close(pass_descriptor(ends[1], inner[0]));
    be_checkpointed();
    CHECK_EQUAL(write(pipe_ends[1], "p", 1), 1);
    CHECK_EQUAL(write(inner[1], "s", 1), 1);
    pipe_ends[0] = pass_descriptor(ends[1], -1);
    CHECK(read(pipe_ends[0], &byte, 1) == 1 && byte == 'p');
    inner[0] = pass_descriptor(ends[0], -1);
    CHECK(read(inner[0], &byte, 1) == 1 && byte == 's');
}

/* ---- datagram sockets that are shut down ---- */

static void datagrams_shut_down(void)
{
    int sending = bind_to_any(SOCK_DGRAM), receiving = bind_to_any(SOCK_DGRAM);
    int never_connected = bind_to_any(SOCK_DGRAM);
    struct sockaddr_in to_receiving = address_of(receiving), to_sending = address_of(sending);

    MUST(connect(sending, (struct sockaddr *)&to_receiving, sizeof to_receiving));
    MUST(connect(receiving, (struct sockaddr *)&to_sending, sizeof to_sending));
    send_text(sending, "sent before");
    MUST(shutdown(sending, SHUT_WR));
    MUST(shutdown(receiving, SHUT_RD));
    CHECK(shutdown(never_connected, SHUT_RDWR) < 0 && errno == ENOTCONN);
    be_checkpointed();
    CHECK(send(sending, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
    CHECK(sendto(never_connected, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&to_sending, sizeof to_sending) <
              0 &&
          errno == EPIPE);
    struct pollfd is_ended = {.fd = receiving, .events = POLLRDHUP};
    CHECK_EQUAL(poll(&is_ended, 1, 0), 1);
    expect_text(receiving, "sent before", MSG_PEEK);
    send_text(receiving, "the other way");
    struct pollfd arrived = {.fd = sending, .events = POLLIN};
    CHECK_EQUAL(poll(&arrived, 1, 1000), 1);
}

const struct subject subjects[] = {
    {"tcp", tcp, tcp_peer, .skip = "cold-twice: a connection ends only once"},
    {"unix-stream", unix_stream, unix_stream_peer},
    {"full-connection", full_connection, read_it_all,
     .skip = "copy,keep: a connection ends only once; cold-twice: a connection ends only once"},
    {"end-is-seen-at-the-end", end_is_seen_at_the_end, watch_for_the_end},
    {"backlog", backlog, .refused = "cold: wait to be accepted; cold: are reset"},
    {"unix-listener", unix_listener, .refused = "cold: waits to be accepted; cold: waits to be accepted"},
    {"pair-with-data", pair_with_data},
    {"datagrams", datagrams},
    {"datagrams-to-itself", datagrams_to_itself},
    {"netlink-to-another", netlink_to_another},
    {"half-closed", half_closed},
    {"descriptor-in-flight", descriptor_in_flight},
    {"other-ends-in-flight", other_ends_in_flight},
    {"datagrams-shut-down", datagrams_shut_down},
    {0},
};
