/* Fuzzer of the states of objects. A child holds one of almost every kind; its capability space is captured,
 * and then, again and again, the capture is changed at random where a state or a row of it lies, judged, and
 * made anew. What must not happen: a wrong access (Meson builds this with sanitizers), a hang, or a trace of
 * it outside the sandbox: a root directory, a network and an IPC namespace of its own. Needs root.
 *
 *     fuzz-objects --run SECONDS [SEED]      prints how often; ends with 1 and the seed at the first finding
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "image/image-internal.h"
#include "object/object.h"
#include "../unit/test_object_contents.h"

#define ROUND_SECONDS 20 /* that one round may take */
#define EXIT_MADE     42
#define CHANGES_MOST  6

#define MUST(call)                                                                                           \
    ({                                                                                                       \
        __typeof__(call) value_ = (call);                                                                    \
        if (value_ == (__typeof__(call))-1) {                                                                \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(errno));                  \
            _exit(2);                                                                                        \
        }                                                                                                    \
        value_;                                                                                              \
    })

/* ---- the sandbox ---- */

static void enter_sandbox(void)
{
    char directory[] = "/tmp/reseat-fuzz-XXXXXX", path[64];
    static const char *const parts[] = {"proc", "dev", "dev/pts", "dev/mqueue", "tmp"};
    MUST(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC));
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mkdtemp(directory) ? 0 : -1);
    MUST(mount("tmpfs", directory, "tmpfs", 0, "size=256m"));
    for (size_t i = 0; i < COUNT_OF(parts); i++) {
        snprintf(path, sizeof path, "%s/%s", directory, parts[i]);
        MUST(mkdir(path, 0755));
    }
    MUST(chroot(directory));
    MUST(chdir("/"));
    MUST(mount("proc", "/proc", "proc", 0, NULL));
    MUST(mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666"));
    MUST(symlink("pts/ptmx", "/dev/ptmx"));
    MUST(mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)));
    MUST(mknod("/dev/zero", S_IFCHR | 0666, makedev(1, 5)));
}

/* ---- one of each ---- */

static void make_files(void)
{
    int fd = MUST(open("/tmp/plain", O_CREAT | O_RDWR, 0600));
    MUST(write(fd, "0123456789", 10));
    MUST(flock(fd, LOCK_EX));
    MUST(open("/tmp", O_DIRECTORY));
    MUST(open("/tmp/plain", O_PATH));
    MUST(open("/dev/null", O_RDWR));
    MUST(open("/proc/self/status", O_RDONLY));
    fd = MUST(open("/tmp/gone", O_CREAT | O_RDWR, 0600));
    MUST(pwrite(fd, "far", 3, 100000));
    MUST(unlink("/tmp/gone"));
    MUST(mkfifo("/tmp/fifo", 0600));
    fd = MUST(open("/tmp/fifo", O_RDWR));
    MUST(write(fd, "fifo", 4));
    fd = MUST(memfd_create("memory", MFD_ALLOW_SEALING));
    MUST(write(fd, "memory", 6));
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW));
}

static void make_events(void)
{
    int ends[2];
    struct itimerspec timer = {{1, 0}, {100, 0}};
    sigset_t mask;
    sigfillset(&mask);
    MUST(pipe2(ends, O_DIRECT));
    MUST(write(ends[1], "packet", 6));
    int event = MUST(eventfd(3, 0)), epoll = MUST(epoll_create1(0));
    int clock = MUST(timerfd_create(CLOCK_REALTIME, 0)), notify = MUST(inotify_init1(0));
    MUST(timerfd_settime(clock, 0, &timer, NULL));
    MUST(signalfd(-1, &mask, 0));
    struct epoll_event interest = {.events = EPOLLIN, .data.u64 = 7};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &interest));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &interest));
    int other = MUST(dup(event));
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, other, &interest));
    close(other);
    MUST(inotify_add_watch(notify, "/tmp", IN_CREATE));
    struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = 8};
    mq_open("/fuzz", O_CREAT | O_RDWR, 0600, &attributes);
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY)), unlock = 0;
    MUST(ioctl(master, 0x40045431 /* TIOCSPTLCK */, &unlock));
    MUST(open("/proc/self/ns/net", O_RDONLY));
}

static void make_sockets(void)
{
    int pair[2], packets[2];
    struct sockaddr_un name = {.sun_family = AF_UNIX, .sun_path = "/tmp/socket"};
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    MUST(write(pair[0], "stream", 6));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
    char control[CMSG_SPACE(2 * sizeof(int))] = {0};
    struct iovec piece = {"with", 4};
    struct msghdr message = {.msg_iov = &piece,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *c = CMSG_FIRSTHDR(&message);
    *c = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(c), (int[]){pair[0], packets[1]}, 2 * sizeof(int));
    MUST(sendmsg(packets[0], &message, 0));
    int listener = MUST(socket(AF_UNIX, SOCK_STREAM, 0)), client = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&name, sizeof name));
    MUST(listen(listener, 3));
    MUST(connect(client, (struct sockaddr *)&name, sizeof name));
    int receiver = MUST(socket(AF_INET, SOCK_DGRAM, 0)), sender = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    MUST(bind(receiver, (struct sockaddr *)&address, sizeof address));
    MUST(getsockname(receiver, (struct sockaddr *)&address, &length));
    (void)!sendto(sender, "datagram", 8, 0, (struct sockaddr *)&address, length);
    int waits = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(listen(waits, 5));
    MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    MUST(socket(AF_NETLINK, SOCK_RAW, 0));
}

static pid_t start_subject(void)
{
    int ready[2];
    char byte;
    MUST(pipe2(ready, O_CLOEXEC));
    pid_t pid = MUST(fork());
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ready[0]);
        int end = MUST(fcntl(ready[1], F_DUPFD, 900));
        close_range(3, 899, 0);
        int null = MUST(open("/dev/null", O_RDWR));
        for (int fd = 0; fd < 3; fd++)
            MUST(dup2(null, fd));
        make_files();
        make_events();
        make_sockets();
        (void)!write(end, "r", 1);
        close(end);
        for (;;)
            pause();
    }
    close(ready[1]);
    MUST(read(ready[0], &byte, 1) == 1 ? 0 : -1);
    close(ready[0]);
    return pid;
}

/* ---- changing ---- */

static uint64_t random_state;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static uint64_t below(uint64_t limit)
{
    return limit ? next_random() % limit : 0;
}

static void change_bytes(uint8_t *bytes, size_t length)
{
    static const uint64_t numbers[] = {0,
                                       1,
                                       2,
                                       7,
                                       8,
                                       255,
                                       4096,
                                       65536,
                                       0x7fffffff,
                                       0x80000000,
                                       0xffffffff,
                                       0x7fffffffffffffff,
                                       0xffffffffffffffff};
    if (length == 0)
        return;
    uint64_t number = numbers[below(COUNT_OF(numbers))];
    switch (below(4)) {
    case 0:
        bytes[below(length)] ^= (uint8_t)(1U << below(8));
        return;
    case 1:
        bytes[below(length)] = (uint8_t)next_random();
        return;
    case 2:
        if (length >= 4)
            memcpy(bytes + below(length / 4) * 4, &number, 4);
        return;
    default:
        if (length >= 8)
            memcpy(bytes + below(length / 8) * 8, &number, 8);
    }
}

/* Where things lie is what it was before. */
static void change(struct snapshot *snapshot, const struct snapshot *good)
{
    for (size_t i = 0, count = 1 + below(CHANGES_MOST); i < count; i++) {
        size_t index = below(snapshot->objects_count);
        const struct snapshot_object *was = &good->objects[index];
        struct snapshot_object *row = &snapshot->objects[index];
        if (below(4) > 0) {
            uint64_t most = below(3) ? 128 : was->state_length; /* the beginning is what is interesting */
            change_bytes(snapshot->blobs + was->state_offset,
                         was->state_length < most ? was->state_length : most);
        } else if (below(2) > 0) { /* a relative of another object */
            const struct snapshot_object *other = &good->objects[below(good->objects_count)];
            row->inode = other->inode;
            row->device_major = other->device_major;
            row->device_minor = other->device_minor;
            row->mode = other->mode;
            row->flags = below(3) == 0 ? SNAPSHOT_OBJECT_LOST : row->flags;
        } else if (below(3) == 0) {
            change_bytes((uint8_t *)snapshot->contents,
                         snapshot->contents_count * sizeof snapshot->contents[0]);
        } else if (below(3) > 0) {
            row->kind_offset = good->objects[below(good->objects_count)].kind_offset;
        } else {
            change_bytes((uint8_t *)row, sizeof *row);
        }
    }
}

/* ---- one round, in a child ---- */

/* A copy whose blobs are exactly as long as they say, so that one byte too far is found. */
static void copy_exactly(const struct snapshot *from, struct snapshot *to)
{
    MUST(snapshot_copy(from, to));
    uint8_t *blobs = malloc(from->blobs_count);
    memcpy(blobs, from->blobs, from->blobs_count);
    free(to->blobs);
    to->blobs = blobs;
    to->blobs_room = from->blobs_count;
}

/* Whether it got as far as objects that were made. */
static bool run_round(const struct snapshot *good, struct held_contents *held)
{
    bool is_made = false;
    struct snapshot snapshot = {0};
    struct object_verdicts verdicts = {0};
    struct object_set set = {0};
    struct reseat_error *error = NULL;
    copy_exactly(good, &snapshot);
    change(&snapshot, good);
    alarm(ROUND_SECONDS);
    bool is_readable =
        core_check_objects(&snapshot, &error) == 0 && core_check_contents(&snapshot, &error) == 0;
    if (is_readable && object_judge_cold(&snapshot, NULL, &verdicts, &error) == 0) {
        struct object_options options = {.allows_lost = true,
                                         .read_content = read_held_content,
                                         .userdata = held};
        is_made = object_recreate(&snapshot, &options, &set, &error) == 0;
        if (is_made)
            object_recreate_late(&set, &snapshot, getpid(), &error);
    }
    object_set_end(&set);
    object_verdicts_free(&verdicts);
    base_error_free(&error);
    snapshot_free(&snapshot);
    return is_made;
}

static int run(long seconds, uint64_t seed)
{
    struct snapshot good = {0};
    struct held_contents held = {.snapshot = &good};
    struct reseat_error *error = NULL;
    struct native_pd *pd = NULL;
    uint64_t rounds = 0, made = 0, deadline = now_ns() + (uint64_t)seconds * 1000000000U;
    enter_sandbox();
    pid_t subject = start_subject();
    good.process.pid = (uint32_t)subject;
    if (native_pd_open(subject, &pd, &error) < 0 ||
        object_capture(pd, &(struct object_contents){hold_content, &held}, &good, &error) < 0) {
        fprintf(stderr, "capture: %s\n", error ? error->message : "?");
        return 2;
    }
    kill(subject, SIGKILL);
    waitpid(subject, NULL, 0);
    native_pd_free(&pd);
    for (; now_ns() < deadline; rounds++) {
        int status;
        pid_t child = MUST(fork());
        random_state = seed + rounds * 0x9e3779b97f4a7c15U + 1;
        if (child == 0) {
            _exit(run_round(&good, &held) ? EXIT_MADE : 0);
        }
        waitpid(child, &status, 0);
        made += status == W_EXITCODE(EXIT_MADE, 0);
        if (status != 0 && status != W_EXITCODE(EXIT_MADE, 0)) {
            fprintf(stderr, "found: status 0x%x at seed %llu\n", status,
                    (unsigned long long)(seed + rounds * 0x9e3779b97f4a7c15U));
            return 1;
        }
    }
    printf("%llu rounds with %zu objects, which were made in %llu\n", (unsigned long long)rounds,
           good.objects_count, (unsigned long long)made);
    held_contents_end(&held);
    snapshot_free(&good);
    return 0;
}

int main(int count, char **arguments)
{
    if (count < 3 || strcmp(arguments[1], "--run") != 0) {
        fprintf(stderr, "usage: fuzz-objects --run SECONDS [SEED]\n");
        return 2;
    }
    if (geteuid() != 0) {
        fprintf(stderr, "needs root, for a sandbox\n");
        return 77;
    }
    return run(atol(arguments[2]), count > 3 ? strtoull(arguments[3], NULL, 10) : 1);
}
