/* Obstacles in the threads of a process: what a thread has for itself and would not get back. All restored
 * threads are cloned from the twin's one, so they have its descriptor table, directories, filters and
 * namespaces, and those credentials that it may not change into theirs (credentials.c).
 *
 * Rests on task/TID/status, kcmp(2), the links in task/TID/ns, and task/TID/syscall; about 25 us a thread. A
 * class of difference is one sentence, however many threads show it. Two threads with the same number of
 * different seccomp filters are not told apart: no interface shows that to a process without CAP_SYS_ADMIN.
 */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef IORING_ENTER_REGISTERED_RING
#define IORING_ENTER_REGISTERED_RING (1U << 4) /* Linux 5.18 */
#endif

#define ENDING_FLAG 0x4U /* PF_EXITING */

enum difference {
    DIFFERENT_TABLE,
    DIFFERENT_DIRECTORIES,
    DIFFERENT_CREDENTIALS,
    OWN_CREDENTIALS, /* no obstacle: it takes them on again */
    DIFFERENT_FILTERS,
    DIFFERENT_NAMESPACES,
    HAS_SHADOW_STACK,
    HAS_REGISTERED_RING,
    DIFFERENCE_COUNT,
};

/* What a thread has, what would become of it, what to do. */
static const struct {
    const char *has, *would, *remedy;
} difference_texts[DIFFERENCE_COUNT] = {
    [DIFFERENT_TABLE] = {"a descriptor table of its own",
                         "after a restore it would have the main thread's, and lose its capabilities",
                         "checkpoint the process before that thread calls unshare, or when it has ended"},
    [DIFFERENT_DIRECTORIES] = {"a working directory, root directory and umask of its own",
                               "after a restore it would have the main thread's, and open the wrong files",
                               "checkpoint the process when that thread has ended"},
    [DIFFERENT_CREDENTIALS] =
        {"user or group ids or capability sets (CAP_*) of its own, which the main thread may not take on",
         "after a restore it would run with the main thread's",
         "checkpoint the process when that thread has ended or has its old ids back"},
    [DIFFERENT_FILTERS] = {"seccomp filters other than the main thread's",
                           "after a restore it would run under the main thread's",
                           "checkpoint the process when that thread has ended"},
    [DIFFERENT_NAMESPACES] = {"namespaces other than the main thread's",
                              "after a restore it would be in the main thread's",
                              "checkpoint the process when that thread has ended or is back"},
    [HAS_SHADOW_STACK] =
        {"a shadow stack",
         "it cannot be put back, and the restored process would be killed at its first return",
         "start the program with GLIBC_TUNABLES=glibc.cpu.hwcaps=-SHSTK"},
    [HAS_REGISTERED_RING] =
        {"an io_uring instance registered for itself (IORING_REGISTER_RING_FDS) and waits in it",
         "the registration is lost in a restore, and its calls would fail with EINVAL or EBADF",
         "have the program use the ring by its descriptor"},
};

struct findings {
    size_t count[DIFFERENCE_COUNT];
    int first_tid[DIFFERENCE_COUNT];
};

static void finding_add(struct findings *findings, enum difference difference, int tid)
{
    if (findings->count[difference]++ == 0)
        findings->first_tid[difference] = tid;
}

/* ---- one thread ---- */

static bool status_lines_differ(const char *a, const char *b, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const char *x = status_find(a, names[i]), *y = status_find(b, names[i]);
        size_t length = x ? strcspn(x, "\n") : 0;
        if (!x != !y || (x && strncmp(x, y, length + 1) != 0))
            return true;
    }
    return false;
}

static bool is_filtered(const char *status)
{
    return status_number(status, "Seccomp", 10) != 0;
}

/* A restored thread is cloned with the main thread's credentials, and takes on its own by itself. With other
 * numbers in its user namespace than we see it does not come to the same. */
static bool may_become(const struct inspection *inspection, const char *status)
{
    _cleanup_(snapshot_free) struct snapshot leaders = {0}, threads = {0};
    struct snapshot_credentials leader, thread;
    struct stat theirs, ours;
    const char *what, *privilege;
    return fstatat(inspection->proc_fd, "ns/user", &theirs, 0) == 0 &&
           stat("/proc/self/ns/user", &ours) == 0 && theirs.st_ino == ours.st_ino &&
           credentials_parse(inspection->status, &leaders, &leader) == 0 &&
           credentials_parse(status, &threads, &thread) == 0 &&
           credentials_may_become(&leaders, &leader, &threads, &thread, &what, &privilege);
}

static void compare_status(const struct inspection *inspection, const char *status, int tid,
                           struct findings *findings)
{
    static const char *const credentials[] = {"Uid",    "Gid",    "Groups", "CapInh",
                                              "CapPrm", "CapEff", "CapBnd", "CapAmb"};
    static const char *const filters[] = {"Seccomp", "Seccomp_filters"};
    if (status_lines_differ(inspection->status, status, credentials, COUNT_OF(credentials))) {
        if (may_become(inspection, status))
            finding_add(findings, OWN_CREDENTIALS, tid);
        else
            finding_add(findings, DIFFERENT_CREDENTIALS, tid);
    }
    if (status_lines_differ(inspection->status, status, filters, COUNT_OF(filters)))
        finding_add(findings, DIFFERENT_FILTERS, tid);
}

/* The inode behind a namespace link is the namespace's name; see namespaces(7). PID and user namespaces are
 * the process's, and for a mount namespace of its own a thread first needs directories of its own: found by
 * kcmp. */
static const char *const namespace_names[] = {
    "net", "uts", "ipc", "cgroup", "pid_for_children", "time_for_children"};

static int read_namespaces(int task_fd, uint64_t *ret_inodes)
{
    for (size_t i = 0; i < COUNT_OF(namespace_names); i++) {
        char path[32];
        struct stat stat;
        snprintf(path, sizeof path, "ns/%s", namespace_names[i]);
        if (fstatat(task_fd, path, &stat, 0) == 0)
            ret_inodes[i] = stat.st_ino;
        else if (errno == ENOENT)
            ret_inodes[i] = 0; /* the kernel lacks that kind, or pid_for_children is still empty */
        else
            return -errno;
    }
    return 0;
}

/* task/TID/syscall: "running", or the number and the arguments in hexadecimal. */
static int check_ring_call(int task_fd, int tid, struct findings *findings)
{
    _cleanup_free_ char *text = NULL;
    int r = inspection_read(task_fd, "syscall", &text);
    if (r < 0)
        return r;
    long number;
    unsigned long long flags;
    if (sscanf(text, "%ld %*x %*x %*x %llx", &number, &flags) == 2 && number == SYS_io_uring_enter &&
        (flags & IORING_ENTER_REGISTERED_RING))
        finding_add(findings, HAS_REGISTERED_RING, tid);
    return 0;
}

static int compare_thread(struct inspection *inspection, int tid, int task_fd, const uint64_t *leader_inodes,
                          struct findings *findings)
{
    uint64_t inodes[COUNT_OF(namespace_names)];
    int r = read_namespaces(task_fd, inodes);
    if (r < 0)
        return r;
    if (memcmp(inodes, leader_inodes, sizeof inodes) != 0)
        finding_add(findings, DIFFERENT_NAMESPACES, tid);
    r = sys_kcmp(inspection->pid, tid, KCMP_FILES, 0, 0);
    if (r < 0)
        return r;
    if (r > 0)
        finding_add(findings, DIFFERENT_TABLE, tid);
    r = sys_kcmp(inspection->pid, tid, KCMP_FS, 0, 0);
    if (r < 0)
        return r;
    if (r > 0)
        finding_add(findings, DIFFERENT_DIRECTORIES, tid);
    return 0;
}

/* A thread that is just ending has already given up its table, directories and namespaces, and the links of
 * one that has ended say EACCES. */
static bool is_ending(int task_fd)
{
    struct proc_stat stat;
    return proc_stat_read(task_fd, &stat) < 0 || (stat.flags & ENDING_FLAG) || strchr("ZXx", stat.state);
}

static int look_at_thread(struct inspection *inspection, int tid, int task_fd, const uint64_t *leader_inodes,
                          struct findings *findings, bool *ret_filtered)
{
    _cleanup_free_ char *status = NULL;
    int r = inspection_read(task_fd, "status", &status);
    if (r == 0)
        r = check_ring_call(task_fd, tid, findings);
    if (r == 0 && tid != inspection->pid)
        r = compare_thread(inspection, tid, task_fd, leader_inodes, findings);
    if (r < 0)
        return r;
    compare_status(inspection, status, tid, findings);
    char features[64];
    status_copy(status, "x86_Thread_features", features, sizeof features);
    if (strstr(features, "shstk"))
        finding_add(findings, HAS_SHADOW_STACK, tid);
    *ret_filtered = is_filtered(status);
    return 0;
}

/* Writes whether the thread is under a seccomp filter. -ESRCH: it has gone, nothing is noted of it. */
static int inspect_thread(struct inspection *inspection, int tid, const uint64_t *leader_inodes,
                          struct findings *findings, bool *ret_filtered)
{
    char path[32];
    snprintf(path, sizeof path, "task/%d", tid);
    _cleanup_close_ int task_fd = openat(inspection->proc_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (task_fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    struct findings own = *findings;
    int r = look_at_thread(inspection, tid, task_fd, leader_inodes, &own, ret_filtered);
    if ((r < 0 || memcmp(&own, findings, sizeof own) != 0) && is_ending(task_fd))
        return -ESRCH;
    if (r < 0)
        return r;
    *findings = own;
    return 0;
}

/* ---- seccomp ---- */

/* Whether the kernel lets us suspend filters depends on CAP_SYS_ADMIN in the first user namespace and on our
 * own being unfiltered (kernel/ptrace.c, ptrace_setoptions): trying it on a child of ours is the one sure
 * answer. The child ends without a signal to us, so that a program which uses the library never notices. */
int seccomp_try_suspend(void)
{
    pid_t parent = getpid();
    long child = syscall(SYS_clone, 0, NULL, NULL, NULL, NULL);
    if (child < 0)
        return -errno;
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* we may be killed at any moment, and then it must go too */
        while (getppid() == parent)
            pause();
        _exit(0);
    }
    int r = ptrace(PTRACE_SEIZE, (pid_t)child, NULL, (void *)PTRACE_O_SUSPEND_SECCOMP) < 0 ? -errno : 0;
    kill((pid_t)child, SIGKILL);
    while (waitpid((pid_t)child, NULL, __WALL) < 0 && errno == EINTR)
        ;
    return r;
}

static int add_filter(struct inspection *inspection)
{
    int r = seccomp_try_suspend();
    if (r == 0)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, -1,
        "%s is under a seccomp filter, which we may not suspend (%s): a system call made inside "
        "it would be refused or kill it; run this as root (CAP_SYS_ADMIN), outside any sandbox",
        inspection->who, strerror(-r));
}

/* ---- all threads ---- */

static int add_findings(struct inspection *inspection, const struct findings *findings)
{
    for (size_t i = 0; i < DIFFERENCE_COUNT; i++) {
        if (findings->count[i] == 0 || i == OWN_CREDENTIALS)
            continue;
        char more[64] = "";
        if (findings->count[i] > 1)
            snprintf(more, sizeof more, " (and %zu more of its threads)", findings->count[i] - 1);
        int r = obstacles_add(inspection->obstacles, SEVERITY_LOST, -1, "Thread %d of %s%s has %s; %s; %s",
                              findings->first_tid[i], inspection->who, more, difference_texts[i].has,
                              difference_texts[i].would, difference_texts[i].remedy);
        if (r < 0)
            return r;
    }
    return 0;
}

int find_thread_obstacles(struct inspection *inspection, struct reseat_error **ret_error)
{
    uint64_t leader_inodes[COUNT_OF(namespace_names)];
    int r = read_namespaces(inspection->proc_fd, leader_inodes);
    if (r < 0)
        return inspection_fail(inspection, r, "ns", ret_error);
    struct findings findings = {0};
    bool any_filtered = false;
    for (size_t i = 0; i < inspection->tid_count; i++) {
        bool filtered = false;
        r = inspect_thread(inspection, inspection->tids[i], leader_inodes, &findings, &filtered);
        if (r == -ESRCH)
            continue;
        if (r < 0)
            return inspection_fail(inspection, r, "task", ret_error);
        any_filtered = any_filtered || filtered;
    }
    inspection->obstacles->threads_differ = findings.count[OWN_CREDENTIALS] > 0;
    r = any_filtered ? add_filter(inspection) : 0;
    if (r == 0)
        r = add_findings(inspection, &findings);
    return r < 0 ? inspection_fail(inspection, r, "task", ret_error) : 0;
}
