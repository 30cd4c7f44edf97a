/* What a process is besides its memory and threads: numbers, places, limits, credentials and the many small
 * settings of prctl(2) and /proc/self. */
#include "subject.h"

#include <grp.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* A file of /proc/self reads the same before and after. */
static void stays_the_same(const char *path)
{
    static char before[65536], after[65536];
    int fd = MUST(open(path, O_RDONLY));
    ssize_t length = MUST(read(fd, before, sizeof before));

    close(fd);
    be_checkpointed();
    fd = MUST(open(path, O_RDONLY));
    CHECK_EQUAL(MUST(read(fd, after, sizeof after)), length);
    close(fd);
    if (memcmp(before, after, (size_t)length) != 0)
        fail(__FILE__, __LINE__, "%s was \"%s\" and is \"%s\"", path, before, after);
}

/* ---- numbers and places ---- */

static void numbers(void)
{
    pid_t pid = getpid(), parent = getppid(), group = getpgrp(), session = getsid(0);

    be_checkpointed();
    CHECK_EQUAL(getpid(), pid);
    CHECK_EQUAL(syscall(SYS_getppid), parent);
    CHECK_EQUAL(getpgrp(), group);
    CHECK_EQUAL(getsid(0), session);
    CHECK_EQUAL(kill(pid, 0), 0);
}

static void working_directory(void)
{
    char name[64];

    snprintf(name, sizeof name, "directory-%d", getpid());
    MUST(mkdir(name, 0700));
    MUST(chdir(name));
    char *before = link_of("/proc/self/cwd");
    struct stat here, after;
    MUST(stat(".", &here));
    be_checkpointed();
    CHECK_TEXT(link_of("/proc/self/cwd"), before);
    MUST(stat(".", &after));
    CHECK(here.st_ino == after.st_ino && here.st_dev == after.st_dev);
}

static void removed_working_directory(void)
{
    char name[64];

    snprintf(name, sizeof name, "directory-%d", getpid());
    MUST(mkdir(name, 0700));
    MUST(chdir(name));
    MUST(chmod(".", 01751));
    if (geteuid() == 0)
        MUST(chown(".", 1234, 5678));
    char *before = link_of("/proc/self/cwd");
    MUST(rmdir(before));
    struct stat here, after;
    MUST(stat(".", &here));
    be_checkpointed();
    MUST(stat(".", &after));
    if (!getenv("SUBJECT_NEW_OBJECTS"))
        CHECK(here.st_ino == after.st_ino && here.st_dev == after.st_dev);
    CHECK(after.st_nlink == 0 && strncmp(link_of("/proc/self/cwd"), before, strlen(before)) == 0);
    CHECK(after.st_mode == here.st_mode && after.st_uid == here.st_uid && after.st_gid == here.st_gid);
}

static void root_directory(void)
{
    char name[64];

    snprintf(name, sizeof name, "root-%d", getpid());
    MUST(mkdir(name, 0755));
    MUST(chroot(name));
    MUST(chdir("/"));
    MUST(mkdir("/only-here", 0700));
    be_checkpointed();
    struct stat seen;
    CHECK_EQUAL(stat("/only-here", &seen), 0);
    CHECK(stat("/proc/self", &seen) < 0);
}

static void umask_stays(void)
{
    umask(0137);
    be_checkpointed();
    CHECK_EQUAL(umask(0), 0137);
}

static void executable(void)
{
    char *before = link_of("/proc/self/exe");

    be_checkpointed();
    CHECK_TEXT(link_of("/proc/self/exe"), before);
}

static void command_line(void)
{
    stays_the_same("/proc/self/cmdline");
}

static void environment(void)
{
    stays_the_same("/proc/self/environ");
}

static void auxiliary_vector(void)
{
    stays_the_same("/proc/self/auxv");
}

/* Its fields 26 to 28 and 45 to 52: where code, stack, data, heap, arguments and environment begin and end.
 */
static void layout(void)
{
    static const int fields[] = {26, 27, 28, 45, 46, 47, 48, 49, 50, 51};
    char *before = strrchr(text_of("/proc/self/stat"), ')') + 2;

    be_checkpointed();
    char *after = strrchr(text_of("/proc/self/stat"), ')') + 2;
    for (int field = 3, i = 0; i < 10; field++) {
        char *one = strsep(&before, " "), *other = strsep(&after, " ");
        if (field != fields[i])
            continue;
        CHECK_TEXT(other, one);
        i++;
    }
}

/* ---- limits ---- */

static void limits(void)
{
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        struct rlimit limit;
        MUST(getrlimit((__rlimit_resource_t)resource, &limit));
        if (limit.rlim_max > 5000 && resource != RLIMIT_AS && resource != RLIMIT_DATA &&
            resource != RLIMIT_STACK)
            limit.rlim_cur = 2000 + (rlim_t)resource; /* enough of each to go on with */
        if (resource == RLIMIT_FSIZE || resource == RLIMIT_MEMLOCK)
            limit.rlim_cur = limit.rlim_max = (1 << 20) + 4096 * (rlim_t)resource;
        MUST(setrlimit((__rlimit_resource_t)resource, &limit));
    }
    stays_the_same("/proc/self/limits");
}

/* Fewer processes than there are: the twin must not fail because of it, or the refusal must say so. */
static void no_more_processes(void)
{
    MUST(setgroups(0, NULL));
    MUST(setresgid(65531, 65531, 65531));
    MUST(setresuid(65531, 65531, 65531));
    MUST(prctl(PR_SET_DUMPABLE, 1));
    MUST(setrlimit(RLIMIT_NPROC, &(struct rlimit){1, 1}));
    be_checkpointed();
    struct rlimit found;
    MUST(getrlimit(RLIMIT_NPROC, &found));
    CHECK(found.rlim_cur == 1 && found.rlim_max == 1);
}

/* ---- small settings ---- */

static void not_dumpable(void)
{
    MUST(prctl(PR_SET_DUMPABLE, 0));
    be_checkpointed();
    CHECK_EQUAL(prctl(PR_GET_DUMPABLE), 0);
}

static volatile sig_atomic_t parent_died;

static void note_parent_death(int number)
{
    parent_died = number;
}

static void parent_death_signal(void)
{
    int found;

    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = note_parent_death, .sa_flags = SA_RESTART},
                   NULL));
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    be_checkpointed();
    MUST(prctl(PR_GET_PDEATHSIG, &found));
    CHECK_EQUAL(found, SIGUSR1);
    CHECK_EQUAL(parent_died, 0);
}

static void child_subreaper(void)
{
    int found;

    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    be_checkpointed();
    MUST(prctl(PR_GET_CHILD_SUBREAPER, &found));
    CHECK_EQUAL(found, 1);
}

static void write_to(const char *path, const char *text)
{
    int fd = MUST(open(path, O_WRONLY));

    CHECK_EQUAL(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void out_of_memory_score(void)
{
    write_to("/proc/self/oom_score_adj", "321");
    stays_the_same("/proc/self/oom_score_adj");
}

/* Who was logged in, for the audit log; set once, it takes CAP_AUDIT_CONTROL to change it. */
static void login(void)
{
    int fd = open("/proc/self/loginuid", O_WRONLY);

    if (fd < 0 || write(fd, "4321", 4) != 4)
        skip("no audit in this kernel, or we may not");
    close(fd);
    stays_the_same("/proc/self/loginuid");
}

static void core_dump_filter(void)
{
    write_to("/proc/self/coredump_filter", "0x5b");
    stays_the_same("/proc/self/coredump_filter");
}

static void personality_stays(void)
{
    MUST(personality(ADDR_NO_RANDOMIZE | SHORT_INODE));
    be_checkpointed();
    CHECK_EQUAL(personality(0xffffffff), ADDR_NO_RANDOMIZE | SHORT_INODE);
}

static void no_huge_pages(void)
{
    MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0));
    be_checkpointed();
    CHECK_EQUAL(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0), 1);
}

static void input_output_priority(void)
{
    enum { OF_PROCESS = 1, BEST_EFFORT = 2 << 13 };

    MUST(syscall(SYS_ioprio_set, OF_PROCESS, 0, BEST_EFFORT | 6));
    be_checkpointed();
    CHECK_EQUAL(syscall(SYS_ioprio_get, OF_PROCESS, 0), BEST_EFFORT | 6);
}

static void input_output_flusher(void)
{
    if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) < 0)
        skip("needs CAP_SYS_RESOURCE");
    be_checkpointed();
    CHECK_EQUAL(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0), 1);
}

static void memory_barriers(void)
{
    enum {
        PRIVATE_EXPEDITED = 1 << 3,
        REGISTER_PRIVATE_EXPEDITED = 1 << 4,
        REGISTER_SYNC_CORE = 1 << 6,
        SYNC_CORE = 1 << 5
    };

    MUST(syscall(SYS_membarrier, REGISTER_PRIVATE_EXPEDITED, 0, 0));
    MUST(syscall(SYS_membarrier, REGISTER_SYNC_CORE, 0, 0));
    be_checkpointed();
    CHECK_EQUAL(syscall(SYS_membarrier, PRIVATE_EXPEDITED, 0, 0), 0);
    CHECK_EQUAL(syscall(SYS_membarrier, SYNC_CORE, 0, 0), 0);
}

static void processor_affinity(void)
{
    cpu_set_t wanted, found;

    CPU_ZERO(&wanted);
    CPU_SET(0, &wanted);
    MUST(sched_setaffinity(0, sizeof wanted, &wanted));
    be_checkpointed();
    MUST(sched_getaffinity(0, sizeof found, &found));
    CHECK(CPU_EQUAL(&found, &wanted));
}

const struct subject subjects[] = {
    {"numbers", numbers},
    {"working-directory", working_directory, .new_pid = true},
    {"removed-working-directory", removed_working_directory},
    {"root-directory", root_directory, .root = true},
    {"umask", umask_stays, .new_pid = true},
    {"executable", executable, .new_pid = true},
    {"command-line", command_line, .new_pid = true},
    {"environment", environment, .new_pid = true},
    {"auxiliary-vector", auxiliary_vector},
    {"layout", layout, .new_pid = true},
    {"limits", limits, .new_pid = true},
    {"no-more-processes", no_more_processes, .root = true, .fails = "all: RLIMIT_NPROC", .alone = true},
    {"not-dumpable", not_dumpable, .new_pid = true},
    {"parent-death-signal", parent_death_signal},
    {"child-subreaper", child_subreaper, .new_pid = true},
    {"oom-score", out_of_memory_score, .new_pid = true},
    {"login", login, .new_pid = true, .root = true},
    {"coredump-filter", core_dump_filter, .new_pid = true},
    {"personality", personality_stays},
    {"no-huge-pages", no_huge_pages},
    {"io-priority", input_output_priority},
    {"io-flusher", input_output_flusher},
    {"memory-barriers", memory_barriers, .new_pid = true},
    {"affinity", processor_affinity, .new_pid = true},
    {0},
};
