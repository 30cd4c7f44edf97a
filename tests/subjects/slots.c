/* The capability space itself: every selector, what shares one object with what, and the flags of each
 * selector (fcntl(2), dup(2), kcmp(2)). What is behind each object is in the other files: files.c, sockets.c,
 * events.c. */
#include "subject.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>

/* ---- a picture of the whole space ---- */

struct slot {
    int selector, descriptor_flags, status_flags;
    dev_t device;
    ino_t inode;
    long long position;
    char name[64];
};

struct picture {
    struct slot *slots;
    int count;
};

static int by_selector(const void *a, const void *b)
{
    return ((const struct slot *)a)->selector - ((const struct slot *)b)->selector;
}

/* All selectors, without the one of the directory that lists them. */
/* What is made anew from an image has the same state, but another number. */
static struct picture take_picture(void)
{
    struct picture picture = {calloc(20000, sizeof(struct slot)), 0};
    DIR *list = opendir("/proc/self/fd");
    struct stat seen;
    char path[64];

    CHECK(picture.slots && list);
    for (struct dirent *entry; (entry = readdir(list));) {
        int fd = atoi(entry->d_name);
        if (entry->d_name[0] == '.' || fd == dirfd(list))
            continue;
        struct slot *slot = &picture.slots[picture.count++];
        MUST(fstat(fd, &seen));
        *slot = (struct slot){.selector = fd,
                              .descriptor_flags = MUST(fcntl(fd, F_GETFD)),
                              .status_flags = MUST(fcntl(fd, F_GETFL)),
                              .device = seen.st_dev,
                              .inode = seen.st_ino,
                              .position = lseek(fd, 0, SEEK_CUR)};
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        MUST(readlink(path, slot->name, sizeof slot->name - 1));
        if (getenv("SUBJECT_NEW_OBJECTS")) {
            slot->device = slot->inode = 0;
            slot->status_flags &=
                O_ACCMODE | O_APPEND | O_NONBLOCK | O_DIRECT | O_SYNC | O_PATH; /* not how it was opened */
            memset(slot->name + strcspn(slot->name, ":#"), 0, sizeof slot->name - strcspn(slot->name, ":#"));
        }
    }
    closedir(list);
    qsort(picture.slots, (size_t)picture.count, sizeof *picture.slots, by_selector);
    return picture;
}

static void check_picture(struct picture before)
{
    struct picture after = take_picture();

    for (int i = 0; i < before.count && i < after.count; i++) {
        struct slot *was = &before.slots[i], *is = &after.slots[i];
        if (was->selector != is->selector)
            fail(__FILE__, __LINE__, "selector %d was used, now it is %d", was->selector, is->selector);
        if (memcmp(was, is, sizeof *was) != 0)
            fail(__FILE__, __LINE__,
                 "selector %d was %s flags %x %o inode %lu position %lld, now %s %x %o %lu %lld",
                 was->selector, was->name, was->descriptor_flags, was->status_flags, was->inode,
                 was->position, is->name, is->descriptor_flags, is->status_flags, is->inode, is->position);
    }
    CHECK_EQUAL(after.count, before.count);
}

static bool same_object(int a, int b)
{
    long order = syscall(SYS_kcmp, getpid(), getpid(), KCMP_FILE, a, b);

    CHECK(order >= 0);
    return order == 0;
}

static int new_file(void)
{
    return MUST(open(".", O_TMPFILE | O_RDWR, 0600));
}

static int at(int fd, int selector)
{
    if (fd != selector) {
        MUST(dup2(fd, selector));
        close(fd);
    }
    return selector;
}

/* ---- subjects ---- */

static void nothing_but_the_usual(void)
{
    struct picture before = take_picture();

    be_checkpointed();
    check_picture(before);
}

static void scattered(void)
{
    static const int selectors[] = {5, 7, 11, 63, 64, 65, 127, 128, 255, 256, 1000, 1023, 1024, 4096, 9999};

    for (size_t i = 0; i < sizeof selectors / sizeof *selectors; i++) {
        at(new_file(), selectors[i]);
        MUST(fcntl(selectors[i], F_SETFD, i % 2 ? FD_CLOEXEC : 0));
        CHECK_EQUAL(pwrite(selectors[i], &selectors[i], sizeof(int), 0), sizeof(int));
        MUST(lseek(selectors[i], (off_t)i * 10, SEEK_SET));
    }
    struct picture before = take_picture();
    be_checkpointed();
    check_picture(before);
    for (size_t i = 0; i < sizeof selectors / sizeof *selectors; i++) {
        int content;
        CHECK_EQUAL(pread(selectors[i], &content, sizeof content, 0), sizeof content);
        CHECK_EQUAL(content, selectors[i]);
    }
    CHECK_EQUAL(dup(0), PEER); /* the holes are holes */
    CHECK_EQUAL(dup(0), 6);
    CHECK_EQUAL(dup(0), 8);
}

static void aliases(void)
{
    int file = at(new_file(), 20), alias = MUST(dup2(file, 40)), other = at(new_file(), 30), pipe_ends[2];

    MUST(pipe(pipe_ends));
    MUST(fcntl(alias, F_SETFD, FD_CLOEXEC));
    int highest = MUST(fcntl(file, F_DUPFD_CLOEXEC, 5000));
    struct picture before = take_picture();
    be_checkpointed();
    check_picture(before);
    CHECK(same_object(file, alias) && same_object(file, highest) && !same_object(file, other));
    CHECK(!same_object(pipe_ends[0], pipe_ends[1]));
    MUST(lseek(file, 77, SEEK_SET)); /* one position for all that are the same */
    CHECK_EQUAL(lseek(alias, 0, SEEK_CUR), 77);
    CHECK_EQUAL(lseek(other, 0, SEEK_CUR), 0);
    MUST(fcntl(alias, F_SETFL, O_APPEND));
    CHECK(fcntl(highest, F_GETFL) & O_APPEND);
    MUST(fcntl(alias, F_SETFL, 0));
    MUST(lseek(file, 0, SEEK_SET));
}

/* Nothing at 0 and 2: whoever opens something inside must not leave it there. */
static void without_standard_ones(void)
{
    close(STDIN_FILENO);
    close(STDERR_FILENO);
    be_checkpointed();
    CHECK(fcntl(STDIN_FILENO, F_GETFD) < 0 && fcntl(STDERR_FILENO, F_GETFD) < 0);
    CHECK_EQUAL(dup(STDOUT_FILENO), STDIN_FILENO);
    CHECK_EQUAL(dup(STDOUT_FILENO), STDERR_FILENO);
}

/* One of each kind, with flags of all sorts. */
static void kinds(void)
{
    int ends[2];

    MUST(pipe2(ends, O_DIRECT | O_NONBLOCK));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends));
    const long opened[] = {
        MUST(open("/dev/null", O_RDONLY)),
        MUST(open("/dev/zero", O_RDWR | O_NONBLOCK)),
        MUST(open("/dev/urandom", O_RDONLY)),
        MUST(open("/dev/full", O_WRONLY | O_APPEND)),
        MUST(open(".", O_DIRECTORY)),
        MUST(open("/", O_PATH)),
        MUST(open("/etc/passwd", O_PATH | O_NOFOLLOW)),
        MUST(open("/proc/self/exe", O_RDONLY | O_NOATIME)),
        MUST(open("/proc/self/ns/net", O_RDONLY)),
        MUST(open("/proc/1/status", O_RDONLY)),
        MUST(socket(AF_INET, SOCK_DGRAM, 0)),
        MUST(socket(AF_NETLINK, SOCK_RAW, 0)),
        MUST(eventfd(3, 0)),
        MUST(timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK)),
        MUST(epoll_create1(EPOLL_CLOEXEC)),
        MUST(memfd_create("kinds", MFD_CLOEXEC)),
        MUST(posix_openpt(O_RDWR | O_NOCTTY)),
        MUST(syscall(SYS_pidfd_open, getppid(), 0)),
    };
    struct picture before = take_picture();
    be_checkpointed();
    check_picture(before);
    CHECK_EQUAL(before.count, 4 + 4 + (int)(sizeof opened / sizeof *opened));
}

static void as_many_as_there_may_be(void)
{
    struct rlimit limit;

    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max < 20000 ? limit.rlim_max : 20000;
    MUST(setrlimit(RLIMIT_NOFILE, &limit));
    int most = (int)limit.rlim_cur - 100, opened[4], ends[2];
    opened[0] = new_file(), opened[1] = MUST(eventfd(0, 0)), opened[2] = MUST(open("/dev/null", O_RDWR));
    for (int fd = MUST(dup(opened[0])); fd < most;) {
        if (fd % 3 == 0)
            fd = MUST(eventfd(0, 0));
        else if (fd % 3 == 1)
            fd = MUST(dup(opened[fd % 2]));
        else
            MUST(pipe(ends)), fd = ends[1];
    }
    CHECK_EQUAL(write(opened[1], &(uint64_t){5}, 8), 8);
    struct picture before = take_picture();
    CHECK(before.count >= most - 1);
    be_checkpointed();
    check_picture(before);
    CHECK(same_object(opened[0], opened[0]));
}

/* At the very last selector that the limit allows, and with the limit lowered below it afterwards. */
static void above_the_limit(void)
{
    struct rlimit limit;

    at(new_file(), 900);
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    MUST(setrlimit(RLIMIT_NOFILE, &(struct rlimit){50, limit.rlim_max}));
    struct picture before = take_picture();
    be_checkpointed();
    check_picture(before);
    CHECK(dup2(0, 60) < 0 && errno == EBADF);
}

/* No selector below the limit is free: nothing can be opened inside. */
static void full_to_the_limit(void)
{
    struct rlimit limit;

    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    MUST(setrlimit(RLIMIT_NOFILE, &(struct rlimit){32, limit.rlim_max}));
    while (dup(0) >= 0)
        ;
    be_checkpointed();
    CHECK(dup(0) < 0 && errno == EMFILE);
    for (int fd = 0; fd < 32; fd++)
        CHECK(fcntl(fd, F_GETFD) >= 0);
}

/* Others go on opening and closing while it is stopped. */
static volatile bool enough;

static void *open_and_close(void *argument)
{
    int ends[2];

    while (!enough) {
        MUST(pipe(ends));
        CHECK_EQUAL(write(ends[1], "x", 1), 1);
        char byte;
        CHECK_EQUAL(read(ends[0], &byte, 1), 1);
        CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
    }
    return argument;
}

static void coming_and_going(void)
{
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        threads[i] = start_thread(open_and_close, NULL);
    sleep_ms(10);
    be_checkpointed();
    sleep_ms(20);
    enough = true;
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    for (int fd = FIRST_FREE; fd < 40; fd++)
        CHECK(fcntl(fd, F_GETFD) < 0);
}

const struct subject subjects[] = {
    {"usual", nothing_but_the_usual, .new_pid = true},
    {"scattered", scattered, .new_pid = true},
    {"aliases", aliases, .new_pid = true},
    {"without-standard-ones", without_standard_ones},
    {"kinds", kinds},
    {"as-many-as-there-may-be", as_many_as_there_may_be},
    {"above-the-limit", above_the_limit},
    {"full-to-the-limit", full_to_the_limit},
    {"coming-and-going", coming_and_going,
     .skip =
         "copy,keep: what is in a pipe just then is there only once; install: its table is never the same "
         "twice"},
    {0},
};
