/* Descriptors on files of /proc/self: they are bound to a process, not to a number, so those of the old
 * process say ESRCH. The restored process finds its own at the same selectors, opened again (proc(5)). */
#include "subject.h"

#include <dirent.h>
#include <sys/epoll.h>
#include <sys/stat.h>

static void expect_in(int fd, const char *text)
{
    char found[8192];
    ssize_t n = pread(fd, found, sizeof found - 1, 0);

    if (n < 0)
        fail(__FILE__, __LINE__, "reading selector %d: %s", fd, strerror(errno));
    found[n] = '\0';
    if (!strstr(found, text))
        fail(__FILE__, __LINE__, "selector %d does not say \"%s\" but \"%.300s\"", fd, text, found);
}

static const char *pid_text(void)
{
    static char text[32];

    snprintf(text, sizeof text, "%d", getpid());
    return text;
}

static void status(void)
{
    int fd = MUST(open("/proc/self/status", O_RDONLY)),
        other = MUST(open("/proc/self/stat", O_RDONLY | O_CLOEXEC));

    be_checkpointed();
    expect_in(fd, pid_text());
    expect_in(other, pid_text());
    CHECK_EQUAL(fcntl(fd, F_GETFD), 0);
    CHECK_EQUAL(fcntl(other, F_GETFD), FD_CLOEXEC);
}

static void position_in_maps(void)
{
    int fd = MUST(open("/proc/self/maps", O_RDONLY));
    char line[100];

    CHECK_EQUAL(read(fd, line, sizeof line), sizeof line);
    off_t position = lseek(fd, 0, SEEK_CUR);
    be_checkpointed();
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), position);
    CHECK(read(fd, line, sizeof line) > 0);
    CHECK_EQUAL(lseek(fd, 0, SEEK_SET), 0);
    expect_in(fd, "/subjects/own");
}

/* Two selectors with one object, and one with its own on the same file. */
static void aliases(void)
{
    int fd = MUST(open("/proc/self/smaps", O_RDONLY)), alias = MUST(dup2(fd, 90));
    int other = MUST(open("/proc/self/smaps", O_RDONLY));

    be_checkpointed();
    MUST(lseek(fd, 0, SEEK_SET));
    MUST(lseek(other, 0, SEEK_SET));
    char some[64];
    CHECK_EQUAL(read(fd, some, sizeof some), sizeof some);
    CHECK(lseek(alias, 0, SEEK_CUR) > 0);
    CHECK_EQUAL(lseek(other, 0, SEEK_CUR), 0);
}

static void memory(void)
{
    static const char secret[] = "found by its address";
    int fd = MUST(open("/proc/self/mem", O_RDWR));
    char found[sizeof secret];

    be_checkpointed();
    CHECK_EQUAL(pread(fd, found, sizeof found, (off_t)(uintptr_t)secret), sizeof found);
    CHECK_TEXT(found, secret);
    static char target[4];
    CHECK_EQUAL(pwrite(fd, "new", 4, (off_t)(uintptr_t)target), 4);
    CHECK_TEXT(target, "new");
}

static void directories(void)
{
    int process = MUST(open("/proc/self", O_RDONLY | O_DIRECTORY)),
        tasks = MUST(open("/proc/self/task", O_PATH));
    int descriptors = MUST(open("/proc/self/fd", O_RDONLY | O_DIRECTORY));

    be_checkpointed();
    int fd = openat(process, "status", O_RDONLY);
    CHECK(fd >= 0);
    expect_in(fd, pid_text());
    CHECK_EQUAL(faccessat(tasks, pid_text(), F_OK, 0), 0);
    struct stat one, other;
    CHECK(fstatat(descriptors, "1", &one, 0) == 0 && fstat(1, &other) == 0);
    CHECK(one.st_ino == other.st_ino);
}

static void one_entry_of_fdinfo(void)
{
    int file = MUST(open(".", O_TMPFILE | O_RDWR, 0600));
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", file);
    int fd = MUST(open(path, O_RDONLY));
    be_checkpointed();
    MUST(lseek(file, 54321, SEEK_SET));
    expect_in(fd, "54321");
    MUST(lseek(file, 0, SEEK_SET));
}

/* In an epoll set: mounts are watched so. */
static void watched(void)
{
    int set = MUST(epoll_create1(0)), fd = MUST(open("/proc/self/mountinfo", O_RDONLY));
    struct epoll_event event = {.events = EPOLLPRI, .data.u32 = 7};
    char path[64];

    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", set);
    be_checkpointed();
    const char *first = strstr(text_of(path), "tfd:");
    CHECK(first && !strstr(first + 1, "tfd:"));
    CHECK_EQUAL(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event), 0);
    expect_in(fd, "/proc");
}

/* Of a thread, through the thread's own directory. */
static volatile int thread;

static void *sleep_on(void *argument)
{
    thread = thread_id();
    sleep_ms(3600000);
    return argument;
}

static void of_a_thread(void)
{
    char path[64], text[32];

    start_thread(sleep_on, NULL);
    while (!thread)
        sleep_ms(1);
    snprintf(path, sizeof path, "/proc/self/task/%d/status", thread);
    snprintf(text, sizeof text, "Pid:\t%d\n", thread);
    int fd = MUST(open(path, O_RDONLY)), own = MUST(open("/proc/thread-self/comm", O_RDWR));
    be_checkpointed();
    expect_in(fd, text);
    expect_in(own, "own");
    CHECK_EQUAL(write(own, "renamed", 7), 7);
    CHECK_TEXT(value_in("/proc/self/status", "Name"), "renamed");
    CHECK_EQUAL(write(own, "own", 3), 3);
}

static void settings(void)
{
    int score = MUST(open("/proc/self/oom_score_adj", O_RDWR)),
        mounts = MUST(open("/proc/self/mountinfo", O_RDONLY));

    be_checkpointed();
    CHECK_EQUAL(pwrite(score, "111", 3, 0), 3);
    CHECK(strncmp(text_of("/proc/self/oom_score_adj"), "111", 3) == 0);
    expect_in(mounts, "/proc");
}

/* It is watched at its number, whatever is behind that now. */
static void expect_watched(int fd)
{
    int epoll = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLPRI};

    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    be_checkpointed();
    CHECK(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) == 0);
}

static void watched_mounts(void)
{
    expect_watched(MUST(open("/proc/self/mountinfo", O_RDONLY)));
}

static void watched_process(void)
{
    expect_watched((int)MUST(syscall(SYS_pidfd_open, getpid(), 0)));
}

const struct subject subjects[] = {
    {"status", status, .new_pid = true},
    {"position-in-maps", position_in_maps},
    {"aliases", aliases},
    {"memory", memory},
    {"directories", directories},
    {"fdinfo", one_entry_of_fdinfo},
    {"watched", watched},
    {"of-a-thread", of_a_thread},
    {"settings", settings},
    {"watched-mounts", watched_mounts},
    {"watched-process", watched_process, .refused = "live: a pidfd on the process itself"},
    {0},
};
