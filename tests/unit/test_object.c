/* What an object is, in words: a subject that holds one of each kind is listed with
 * reseat_list_capabilities(), and every row must say what the subject made. Kinds that this machine does not
 * let us make are skipped by name. */
#include "test_object_subject.h"

#include "reseat.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <mqueue.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/un.h>

#define FIRST_SELECTOR 100
#define EXPECTED_MOST  80

/* What the subject says it has made. Shared with the test. */
struct expectation {
    unsigned selector;
    char kind[24], access[4], flags[24], name[256];
    bool is_prefix; /* only the beginning of the name is known */
    bool cloexec;
};

struct expectations {
    struct expectation items[EXPECTED_MOST];
    unsigned count, skipped;
};

static char test_directory[64];

/* ---- in the subject ---- */

/* Moves `fd` to the next selector and expects it to be listed there. Not made (-1): skipped, with a word. */
static _printf_(5, 6) struct expectation *expect(struct expectations *all, int fd, const char *kind,
                                                 const char *access, const char *name, ...)
{
    static struct expectation nothing;
    if (fd < 0) {
        fprintf(stderr, "skipped: %s (%s)\n", kind, strerror(errno));
        all->skipped++;
        return &nothing;
    }
    SUBJECT_CHECK(all->count < EXPECTED_MOST);
    struct expectation *item = &all->items[all->count];
    item->selector = FIRST_SELECTOR + all->count++;
    SUBJECT_CHECK(dup2(fd, (int)item->selector) >= 0);
    close(fd);
    snprintf(item->kind, sizeof item->kind, "%s", kind);
    snprintf(item->access, sizeof item->access, "%s", access);
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(item->name, sizeof item->name, name, arguments);
    va_end(arguments);
    return item;
}

static const char *path_of(const char *name)
{
    static char path[sizeof test_directory + 32];
    snprintf(path, sizeof path, "%s/%s", test_directory, name);
    return path;
}

static unsigned long long inode_of(int fd)
{
    struct stat stat;
    SUBJECT_CHECK(fstat(fd, &stat) == 0);
    return stat.st_ino;
}

static void set_up_files(struct expectations *all)
{
    const char *path = path_of("plain");
    SUBJECT_CHECK(path); /* lest the compiler, with sanitizers, suppose that there may be none */
    int fd = open(path, O_CREAT | O_RDWR | O_APPEND, 0600);
    struct expectation *item = expect(all, fd, "file", "rw", "%s", path);
    snprintf(item->flags, sizeof item->flags, "append");

    fd = open(path, O_RDONLY);
    item = expect(all, fd, "file", "r", "%s", path);
    SUBJECT_CHECK(fcntl((int)item->selector, F_SETFD, FD_CLOEXEC) == 0);
    item->cloexec = true;

    path = path_of("gone");
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    SUBJECT_CHECK(unlink(path) == 0);
    expect(all, fd, "file", "w", "%s (deleted)", path);

    path = path_of("memfd:liar"); /* looks like one, to who only looks at the name */
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    SUBJECT_CHECK(unlink(path) == 0);
    expect(all, fd, "file", "w", "%s (deleted)", path);

    expect(all, open(test_directory, O_RDONLY | O_DIRECTORY), "directory", "r", "%s", test_directory);
    expect(all, open(path_of("plain"), O_PATH), "path", "-", "%s", path_of("plain"));
    expect(all, open("/dev/null", O_RDWR), "device", "rw", "/dev/null");

    path = path_of("fifo");
    SUBJECT_CHECK(mkfifo(path, 0600) == 0);
    expect(all, open(path, O_RDWR), "fifo", "rw", "%s both ends", path);
}

static void set_up_terminal(struct expectations *all)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    char *slave_path = master < 0 || unlockpt(master) < 0 ? NULL : ptsname(master);
    int slave = slave_path ? open(slave_path, O_RDWR | O_NOCTTY) : -1;
    expect(all, slave, "terminal", "rw", "%s", slave_path ? slave_path : "");
    struct expectation *item = expect(all, master, "terminal", "rw", "/dev/");
    item->is_prefix = true;
}

static void set_up_pipe(struct expectations *all)
{
    int ends[2];
    SUBJECT_CHECK(pipe2(ends, O_NONBLOCK) == 0);
    unsigned long long inode = inode_of(ends[0]);
    struct expectation *item = expect(all, ends[0], "pipe", "r", "pipe:[%llu] read end", inode);
    snprintf(item->flags, sizeof item->flags, "nonblock");
    item = expect(all, ends[1], "pipe", "w", "pipe:[%llu] write end", inode);
    snprintf(item->flags, sizeof item->flags, "nonblock");
}

static void set_up_memory(struct expectations *all)
{
    expect(all, memfd_create("hello (deleted)", 0), "memfd", "rw", "memfd:hello (deleted)");
    int fd = (int)syscall(SYS_memfd_secret, 0);
    expect(all, fd, "secretmem", "rw", "secretmem:[%llu]", fd < 0 ? 0 : inode_of(fd));
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 8};
    char name[32];
    snprintf(name, sizeof name, "/reseat-test-%d", getpid());
    int queue = mq_open(name, O_CREAT | O_RDWR, 0600, &attributes);
    mq_unlink(name);
    expect(all, queue, "mqueue", "rw", "%s (deleted)", name)->cloexec = false;
}

/* To the loopback address and a port that the kernel chooses. */
static int bind_to(int fd, int family)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = in6addr_loopback};
    return family == AF_INET ? bind(fd, (struct sockaddr *)&v4, sizeof v4)
                             : bind(fd, (struct sockaddr *)&v6, sizeof v6);
}

static unsigned port_of(int fd)
{
    struct sockaddr_in6 address; /* the port is at the same place in both families */
    socklen_t length = sizeof address;
    SUBJECT_CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    return ntohs(address.sin6_port);
}

static void set_up_tcp(struct expectations *all, int family, const char *host)
{
    int listener = socket(family, SOCK_STREAM, 0);
    if (listener < 0 || bind_to(listener, family) < 0) {
        expect(all, -1, host, "", "%s", "");
        return;
    }
    SUBJECT_CHECK(listen(listener, 5) == 0);
    int client = socket(family, SOCK_STREAM, 0);
    struct sockaddr_storage address;
    socklen_t length = sizeof address;
    SUBJECT_CHECK(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    SUBJECT_CHECK(connect(client, (struct sockaddr *)&address, length) == 0);
    int server = accept(listener, NULL, NULL);
    SUBJECT_CHECK(server >= 0);
    unsigned server_port = port_of(listener), client_port = port_of(client);
    expect(all, listener, "tcp", "rw", "listening on %s:%u", host, server_port);
    expect(all, client, "tcp", "rw", "%s:%u -> %s:%u", host, client_port, host, server_port);
    expect(all, server, "tcp", "rw", "%s:%u -> %s:%u", host, server_port, host, client_port);
    expect(all, socket(family, SOCK_STREAM, 0), "tcp", "rw", "not bound");
}

static void set_up_other_sockets(struct expectations *all)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    SUBJECT_CHECK(bind_to(fd, AF_INET) == 0);
    expect(all, fd, "udp", "rw", "127.0.0.1:%u", port_of(fd));
    expect(all, socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), "raw", "rw", "protocol 1 on 0.0.0.0");
    struct sockaddr_nl address = {.nl_family = AF_NETLINK};
    socklen_t length = sizeof address;
    fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    SUBJECT_CHECK(bind(fd, (struct sockaddr *)&address, length) == 0);
    SUBJECT_CHECK(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    expect(all, fd, "netlink", "rw", "route, port %u", address.nl_pid);
    expect(all, socket(AF_PACKET, SOCK_RAW, htons(0x0800)), "packet", "rw",
           "protocol 0x0800 on all interfaces");
}

static void set_up_unix(struct expectations *all)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path_of("socket"));
    int listener = socket(AF_UNIX, SOCK_STREAM, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    SUBJECT_CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 &&
                  listen(listener, 5) == 0);
    SUBJECT_CHECK(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    int server = accept(listener, NULL, NULL);
    SUBJECT_CHECK(server >= 0);
    unsigned long long client_inode = inode_of(client), server_inode = inode_of(server);
    expect(all, listener, "unix", "rw", "listening on %s [%llu]", address.sun_path, inode_of(listener));
    expect(all, client, "unix", "rw", "[%llu] -> %s [%llu]", client_inode, address.sun_path, server_inode);
    expect(all, server, "unix", "rw", "%s [%llu] -> [%llu]", address.sun_path, server_inode, client_inode);

    int pair[2];
    SUBJECT_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    unsigned long long a = inode_of(pair[0]), b = inode_of(pair[1]);
    expect(all, pair[0], "unix", "rw", "[%llu] -> [%llu], packets", a, b);
    expect(all, pair[1], "unix", "rw", "[%llu] -> [%llu], packets", b, a);

    struct sockaddr_un abstract = {.sun_family = AF_UNIX};
    int length = snprintf(abstract.sun_path + 1, sizeof abstract.sun_path - 1, "reseat\001%d", getpid());
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    SUBJECT_CHECK(bind(fd, (struct sockaddr *)&abstract,
                       (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) == 0);
    expect(all, fd, "unix", "rw", "@reseat\\x01%d [%llu], datagrams", getpid(), inode_of(fd));
}

static void set_up_events(struct expectations *all)
{
    int fd = eventfd(18, EFD_SEMAPHORE);
    expect(all, fd, "eventfd", "rw", "count 18, semaphore");
    struct itimerspec time = {.it_value = {.tv_sec = 1000},
                              .it_interval = {.tv_sec = 2, .tv_nsec = 500000000}};
    fd = timerfd_create(CLOCK_MONOTONIC, 0);
    SUBJECT_CHECK(timerfd_settime(fd, 0, &time, NULL) == 0);
    expect(all, fd, "timerfd", "rw", "monotonic, 999.")->is_prefix = true;
    expect(all, timerfd_create(CLOCK_REALTIME, 0), "timerfd", "rw", "realtime, not armed");

    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGTERM);
    expect(all, signalfd(-1, &mask, 0), "signalfd", "rw", "SIGINT, SIGTERM");
    sigfillset(&mask);
    sigdelset(&mask, SIGCHLD);
    /* The C library never lets its own two signals into a mask. */
    expect(all, signalfd(-1, &mask, 0), "signalfd", "rw", "all signals but SIGCHLD, signal 32, signal 33");

    int epoll = epoll_create1(0), large_epoll = epoll_create1(0);
    expect(all, epoll_create1(0), "epoll", "rw", "watches nothing");
    struct epoll_event event = {.events = EPOLLIN};
    for (int selector = 311; selector >= 300; selector--) {
        int member = dup2(eventfd(0, 0), selector);
        SUBJECT_CHECK(member == selector && epoll_ctl(large_epoll, EPOLL_CTL_ADD, member, &event) == 0);
        SUBJECT_CHECK(selector > 301 || epoll_ctl(epoll, EPOLL_CTL_ADD, member, &event) == 0);
    }
    expect(all, epoll, "epoll", "rw", "watches 300, 301");
    expect(all, large_epoll, "epoll", "rw", "watches 300, 301, 302, 303, 304, 305, 306, 307, … (12)");

    fd = inotify_init1(0);
    SUBJECT_CHECK(inotify_add_watch(fd, "/", IN_CREATE) >= 0 &&
                  inotify_add_watch(fd, test_directory, IN_CREATE) >= 0);
    expect(all, fd, "inotify", "r", "2 watches");
    fd = fanotify_init(FAN_CLASS_NOTIF, O_RDONLY);
    if (fd >= 0)
        SUBJECT_CHECK(fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, test_directory) == 0);
    expect(all, fd, "fanotify", "rw", "1 watch");
}

static void set_up_process(struct expectations *all)
{
    prctl(PR_SET_NAME, "a (subject)");
    expect(all, sys_pidfd_open(getpid()), "pidfd", "rw", "process %d (a (subject))", getpid())->cloexec =
        false;
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    int fd = sys_pidfd_open(child);
    SUBJECT_CHECK(waitpid(child, NULL, 0) == child);
    expect(all, fd, "pidfd", "rw", "a process that has ended");
    char link[64] = "";
    SUBJECT_CHECK(readlink("/proc/self/ns/uts", link, sizeof link - 1) > 0);
    expect(all, open("/proc/self/ns/uts", O_RDONLY), "namespace", "r", "%s", link);
}

static void set_up_rare(struct expectations *all)
{
    struct io_uring_params ring = {0};
    expect(all, (int)syscall(SYS_io_uring_setup, 8, &ring), "io_uring", "rw", "ring of ")->is_prefix = true;
    union bpf_attr map = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 8, .max_entries = 1};
    expect(all, (int)syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map), "bpf", "rw", "map ")->is_prefix =
        true;
    struct perf_event_attr perf = {.type = PERF_TYPE_SOFTWARE, .size = sizeof perf, .exclude_kernel = 1};
    expect(all, (int)syscall(SYS_perf_event_open, &perf, 0, -1, -1, 0), "perf", "rw", "[perf_event]");
    expect(all, (int)syscall(SYS_userfaultfd, 1), "userfaultfd", "r", "0 faults waiting");
    expect(all, (int)syscall(430 /* fsopen */, "tmpfs", 0), "anonymous", "rw", "[fscontext]");
}

static void set_up_all(void *userdata)
{
    struct expectations *all = userdata;
    set_up_files(all);
    set_up_terminal(all);
    set_up_pipe(all);
    set_up_memory(all);
    set_up_tcp(all, AF_INET, "127.0.0.1");
    set_up_tcp(all, AF_INET6, "[::1]");
    set_up_other_sockets(all);
    set_up_unix(all);
    set_up_events(all);
    set_up_process(all);
    set_up_rare(all);
}

/* ---- in the test ---- */

static const struct reseat_capability *find_row(const struct reseat_listing *listing, unsigned selector)
{
    for (size_t i = 0; i < listing->count; i++) {
        if (listing->capabilities[i].selector == selector)
            return &listing->capabilities[i];
    }
    return NULL;
}

static void check_row(const struct expectation *expected, const struct reseat_capability *row)
{
    if (!row)
        fail_msg("selector %u (%s) is missing", expected->selector, expected->kind);
    print_message("%3u %-12s %-2s %s\n", row->selector, row->kind, row->access, row->name);
    assert_string_equal(row->kind, expected->kind);
    assert_string_equal(row->access, expected->access);
    assert_string_equal(row->flags, expected->flags);
    assert_int_equal(row->cloexec, expected->cloexec);
    if (expected->is_prefix)
        assert_memory_equal(row->name, expected->name, strlen(expected->name));
    else
        assert_string_equal(row->name, expected->name);
}

static size_t count_own_capabilities(void)
{
    _cleanup_free_ int *numbers = NULL;
    size_t count;
    assert_return_code(proc_list_numbers(AT_FDCWD, "/proc/self/fd", &numbers, &count), errno);
    return count;
}

static void test_every_kind_is_described(void **state)
{
    struct expectations *all = *state;
    pid_t subject = subject_start(set_up_all, all);
    size_t own_before = count_own_capabilities();
    struct reseat_listing *listing;
    struct reseat_error *error = NULL;
    if (reseat_list_capabilities(&subject, 1, &listing, &error) < 0)
        fail_with_error("listing", error);
    assert_int_equal(count_own_capabilities(), own_before);
    assert_true(all->count > 35); /* of about 50; the rest may be missing on a small machine */
    for (unsigned i = 0; i < all->count; i++)
        check_row(&all->items[i], find_row(listing, all->items[i].selector));
    reseat_listing_free(listing);
    subject_stop(subject);
}

/* In the order asked for, each row with its PID; our own process is one like others. */
static void test_several_processes_keep_their_order(void **state)
{
    pid_t a = subject_start(set_up_all, *state);
    pid_t pids[] = {a, getpid(), a};
    struct reseat_listing *listing;
    struct reseat_error *error = NULL;
    if (reseat_list_capabilities(pids, 3, &listing, &error) < 0)
        fail_with_error("listing", error);
    size_t starts[4] = {0}, changes = 0; /* where the rows of each process begin */
    for (size_t i = 1; i < listing->count; i++) {
        const struct reseat_capability *row = &listing->capabilities[i];
        if (row->selector <= row[-1].selector && ++changes < 3)
            starts[changes] = i;
        assert_int_equal(row->pid, pids[changes]);
    }
    assert_int_equal(changes, 2);
    /* The same process twice: the same objects twice. */
    assert_int_equal(listing->count - starts[2], starts[1]);
    for (size_t i = 0; i < starts[1]; i++)
        assert_string_equal(listing->capabilities[i].object, listing->capabilities[starts[2] + i].object);
    reseat_listing_free(listing);
    subject_stop(a);
}

static void test_no_such_process(void **state)
{
    pid_t subject = subject_start(set_up_all, *state);
    subject_stop(subject);
    struct reseat_listing *listing = NULL;
    struct reseat_error *error = NULL;
    assert_int_equal(reseat_list_capabilities(&subject, 1, &listing, &error), -ESRCH);
    assert_null(listing);
    assert_int_equal(error->code, -ESRCH);
    assert_non_null(strstr(error->message, "there is no process"));
    base_error_free(&error);
}

/* ---- frame ---- */

static int make_room(void **state)
{
    snprintf(test_directory, sizeof test_directory, "/tmp/reseat-test-object-XXXXXX");
    if (!mkdtemp(test_directory))
        return -1;
    *state =
        mmap(NULL, sizeof(struct expectations), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return *state == MAP_FAILED ? -1 : 0;
}

static int clear_room(void **state)
{
    static const char *const names[] = {"plain", "fifo", "socket"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        unlink(path_of(names[i]));
    munmap(*state, sizeof(struct expectations));
    return rmdir(test_directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_kind_is_described, make_room, clear_room),
        cmocka_unit_test_setup_teardown(test_several_processes_keep_their_order, make_room, clear_room),
        cmocka_unit_test_setup_teardown(test_no_such_process, make_room, clear_room),
    };
    return cmocka_run_group_tests_name("object: kinds and names", tests, NULL, NULL);
}
