/* Namespaces and control groups: the restored process is in the ones that it was in (namespaces(7),
 * cgroups(7)), and its number is right in every PID namespace that it can be seen from. */
#include "subject.h"

#include <linux/capability.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static const char *const kinds[] = {
    "cgroup", "ipc", "mnt", "net", "pid", "pid_for_children", "time", "time_for_children", "user", "uts"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void stay_in_all_namespaces(void)
{
    char path[64], *before[KINDS];

    for (int i = 0; i < KINDS; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        before[i] = link_of(path);
    }
    be_checkpointed();
    for (int i = 0; i < KINDS; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", kinds[i]);
        CHECK_TEXT(link_of(path), before[i]);
    }
}

static void its_own(void)
{
    char name[64];

    MUST(unshare(CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWCGROUP));
    MUST(sethostname("subject", 7));
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 && errno == EINVAL)
        skip("/ is not a mount point, as in a chroot");
    MUST(mount("subject", "/mnt", "tmpfs", 0, NULL));
    int fd = MUST(open("/mnt/only-here", O_CREAT | O_RDWR, 0600));
    close(fd);
    stay_in_all_namespaces();
    MUST(gethostname(name, sizeof name));
    CHECK_TEXT(name, "subject");
    CHECK_EQUAL(access("/mnt/only-here", F_OK), 0);
}

static void write_to(const char *path, const char *text)
{
    int fd = MUST(open(path, O_WRONLY));

    CHECK_EQUAL(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

/* Drops what a user namespace of one's own gives, but one has not outside: an image of it would need that. */
static void keep_only(const struct __user_cap_data_struct before[2])
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

    for (unsigned long i = 0; prctl(PR_CAPBSET_READ, i) >= 0; i++)
        if (!(before[i / 32].permitted >> i % 32 & 1))
            MUST(prctl(PR_CAPBSET_DROP, i));
    MUST(syscall(SYS_capset, &header, before));
}

/* Root in a user namespace, and somebody else outside. */
static void its_own_users(void)
{
    char map[64];
    uid_t uid = getuid();
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct before[2];

    MUST(syscall(SYS_capget, &header, before));

    if (unshare(CLONE_NEWUSER) < 0) /* EPERM also in a chroot */
        skip("may not make a user namespace");
    MUST(prctl(PR_SET_DUMPABLE, 1));
    snprintf(map, sizeof map, "0 %u 1", uid);
    write_to("/proc/self/uid_map", map);
    keep_only(before);
    stay_in_all_namespaces();
    CHECK_EQUAL(getuid(), 0);
    CHECK(setuid(uid + 1) < 0);
}

/* ---- PID namespaces ---- */

static void new_pid_namespace(void)
{
    MUST(unshare(CLONE_NEWPID));
}

static void nothing(void)
{
}

/* The first of the line stays outside, its child is the namespace's init, and its grandchild returns. */
static void below_another_init(void)
{
    become_child_of(new_pid_namespace);
    become_child_of(nothing);
}

static void in_a_pid_namespace(void)
{
    below_another_init();
    CHECK_EQUAL(getpid(), 2);
    be_checkpointed();
    CHECK_EQUAL(syscall(SYS_getpid), 2);
    CHECK_EQUAL(syscall(SYS_getppid), 1);
    CHECK_EQUAL(thread_id(), 2);
}

static atomic_int done;
static atomic_bool open_gate;

static void *keep_number(void *argument)
{
    int tid = thread_id();

    done++;
    while (!open_gate)
        sleep_ms(1);
    CHECK_EQUAL(thread_id(), tid);
    CHECK_EQUAL(syscall(SYS_tgkill, getpid(), tid, 0), 0);
    done--;
    return argument;
}

static void threads_in_two_pid_namespaces(void)
{
    pthread_t threads[8];

    below_another_init();
    below_another_init();
    CHECK_EQUAL(getpid(), 2);
    for (int i = 0; i < 8; i++)
        threads[i] = start_thread(keep_number, NULL);
    while (done < 8)
        sleep_ms(1);
    be_checkpointed();
    CHECK_EQUAL(getpid(), 2);
    open_gate = true;
    for (int i = 0; i < 8; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    CHECK_EQUAL(done, 0);
}

static void init_of_a_pid_namespace(void)
{
    become_child_of(new_pid_namespace);
    CHECK_EQUAL(getpid(), 1);
    be_checkpointed();
    CHECK_EQUAL(getpid(), 1);
}

static void children_go_elsewhere(void)
{
    MUST(unshare(CLONE_NEWPID));
    be_checkpointed();
}

/* It dropped root inside, so that the twin cannot ask for a number. */
static void in_a_pid_namespace_without_root(void)
{
    below_another_init();
    MUST(setresgid(65531, 65531, 65531));
    MUST(setresuid(65531, 65531, 65531));
    be_checkpointed();
    CHECK_EQUAL(syscall(SYS_getpid), 2);
    CHECK_EQUAL(getuid(), 65531);
}

/* ---- control groups ---- */

static char group[256];

/* A group below our own in the unified hierarchy; the peer makes it and removes it in the end. */
static void control_group(void)
{
    char path[300], before[4096];

    if (recv(PEER, group, sizeof group, 0) <= 1)
        skip("there is no unified control group hierarchy that we may write to");
    snprintf(path, sizeof path, "%s/cgroup.procs", group);
    write_to(path, "0");
    snprintf(before, sizeof before, "%s", text_of("/proc/self/cgroup"));
    be_checkpointed();
    CHECK_TEXT(text_of("/proc/self/cgroup"), before);
    CHECK(strstr(before, "reseat-subject-") != NULL);
}

static void make_control_group(void)
{
    static const char *const roots[] = {"/sys/fs/cgroup/unified", "/sys/fs/cgroup"};
    sigset_t end;
    int caught;

    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    for (int i = 0; i < 2 && !group[0]; i++) {
        snprintf(group, sizeof group, "%s/cgroup.controllers", roots[i]);
        bool is_unified = access(group, F_OK) == 0;
        /* Not named after our PID, which subjects in PID namespaces beside ours have as well. */
        snprintf(group, sizeof group, "%s/reseat-subject-XXXXXX", roots[i]);
        if (!is_unified || !mkdtemp(group))
            group[0] = '\0';
    }
    CHECK(send(PEER, group, strlen(group) + 1, 0) > 0);
    sigwait(&end, &caught);
    for (int tries = 0; group[0] && rmdir(group) < 0 && tries < 2000; tries++)
        sleep_ms(1);
}

const struct subject subjects[] = {
    {"its-own", its_own, .root = true, .new_pid = true, .refused = "cold,held: namespace"},
    {"its-own-users", its_own_users, .refused = "cold,held: namespace"},
    {"pid", in_a_pid_namespace, .root = true, .below = true, .fails = "cold,held: is taken"},
    {"pid-twice", threads_in_two_pid_namespaces, .root = true, .below = true, .fails = "cold,held: is taken"},
    {"pid-without-root", in_a_pid_namespace_without_root, .root = true, .below = true, .alone = true,
     .fails = "cold,held: is taken"},
    {"init", init_of_a_pid_namespace, .root = true, .below = true, .refused = "all: first process"},
    {"children-elsewhere", children_go_elsewhere, .root = true, .refused = "all: namespace"},
    {"control-group", control_group, make_control_group, .root = true},
    {0},
};
