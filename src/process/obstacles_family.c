/* Obstacles in a process's surroundings: processes that hang on it or hold its number.
 *
 * One pass over /proc reads everybody's status (proc_pid_status(5), about 8 us each) and asks getsid(2) and
 * getpgid(2); all questions are then put to that list. A number that is still a session's or a group's cannot
 * be given to a process: clone3(2) with set_tid says EEXIST for as long as one member lives, zombies
 * included. TracerPid is the thread that traces, not its process. Tracees are looked for among the leaders of
 * processes only: who traces some threads of a process without its leader is not found. */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <linux/major.h>
#include <string.h>
#include <sys/sysmacros.h>

#define KERNEL_THREAD_FLAG   0x00200000U /* PF_KTHREAD, include/linux/sched.h */
#define CAP_SYS_ADMIN_BIT    (UINT64_C(1) << 21)
#define CAP_SYS_RESOURCE_BIT (UINT64_C(1) << 24)

struct neighbour {
    pid_t pid, parent, tracer, session, group;
    uint64_t thread_count;
    uid_t real_uid;
    bool has_memory; /* neither a zombie nor a kernel thread */
    char name[32];   /* as in status, with ", zombie" where that is so */
};

struct neighbours {
    struct neighbour *items;
    size_t count;
    bool complete; /* false: procfs hides other users' processes from us (hidepid) */
};

static void neighbours_free(struct neighbours *neighbours)
{
    free(neighbours->items);
}

static struct neighbour *neighbours_find(struct neighbours *neighbours, pid_t pid)
{
    for (size_t i = 0; i < neighbours->count; i++)
        if (neighbours->items[i].pid == pid)
            return &neighbours->items[i];
    return NULL;
}

/* ---- reading them ---- */

static void neighbour_fill(struct neighbour *neighbour, const char *status)
{
    neighbour->parent = (pid_t)status_number(status, "PPid", 10);
    neighbour->tracer = (pid_t)status_number(status, "TracerPid", 10);
    neighbour->session = getsid(neighbour->pid);
    neighbour->group = getpgid(neighbour->pid);
    neighbour->thread_count = status_number(status, "Threads", 10);
    neighbour->real_uid = (uid_t)status_number(status, "Uid", 10);
    neighbour->has_memory = status_find(status, "VmSize") != NULL;
    status_copy(status, "Name", neighbour->name, sizeof neighbour->name - strlen(", zombie"));
    const char *state = status_find(status, "State");
    if (state && *state == 'Z')
        strcat(neighbour->name, ", zombie");
}

/* Kernel threads, half of all processes on an idle machine, have no memory, are in no session, and nobody's
 * relatives: for them three cheap calls take the place of reading a status. PID 2 is their parent, kthreadd,
 * in the first PID namespace; elsewhere they are not seen at all. */
static bool has_kernel_threads(void)
{
    struct proc_stat stat;
    return proc_stat_of(2, &stat) == 0 && (stat.flags & KERNEL_THREAD_FLAG);
}

static bool is_kernel_thread(pid_t pid)
{
    return getsid(pid) == 0 && getpgid(pid) == 0 && sys_kcmp(2, pid, KCMP_VM, 0, 0) == 0;
}

static int neighbours_read(const struct inspection *inspection, struct neighbours *neighbours)
{
    pid_t self = inspection->pid;
    /* An init that has made no session leaves its children in none either. */
    bool skip = inspection->stat.session != 0 && has_kernel_threads();
    _cleanup_close_ int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (proc_fd < 0)
        return -errno;
    _cleanup_free_ int *pids = NULL;
    size_t count = 0;
    int r = proc_list_numbers(proc_fd, "", &pids, &count);
    if (r < 0)
        return r;
    neighbours->complete = count > 0 && pids[0] == 1;
    for (size_t i = 0; i < count; i++) {
        if (pids[i] == self || (skip && is_kernel_thread(pids[i])))
            continue;
        char path[32];
        snprintf(path, sizeof path, "%d/status", pids[i]);
        _cleanup_free_ char *status = NULL;
        r = inspection_read(proc_fd, path, &status);
        if (r == -ESRCH)
            continue;
        if (r < 0 && r != -EACCES && r != -EPERM)
            return r;
        struct neighbour *neighbour = array_append(neighbours->items, neighbours->count);
        if (!neighbour)
            return -ENOMEM;
        neighbour->pid = pids[i];
        if (status) {
            neighbour_fill(neighbour, status);
            continue;
        }
        neighbours->complete = false; /* hidepid=1: there, but closed */
        neighbour->session = getsid(pids[i]);
        neighbour->group = getpgid(pids[i]);
        strcpy(neighbour->name, "hidden");
    }
    return 0;
}

/* Children that hidepid keeps from us are still listed by number in task/TID/children (CONFIG_PROC_CHILDREN,
 * which every distribution sets). */
static int add_hidden_children(struct inspection *inspection, struct neighbours *neighbours)
{
    for (size_t i = 0; i < inspection->tid_count; i++) {
        char path[48];
        snprintf(path, sizeof path, "task/%d/children", inspection->tids[i]);
        _cleanup_free_ char *text = NULL;
        int r = inspection_read(inspection->proc_fd, path, &text);
        if (r == -ESRCH)
            continue;
        if (r < 0)
            return r;
        char *end;
        for (const char *number = text;; number = end) {
            long pid = strtol(number, &end, 10);
            if (end == number)
                break;
            struct neighbour *child = neighbours_find(neighbours, (pid_t)pid);
            if (!child && (child = array_append(neighbours->items, neighbours->count)))
                strcpy(child->name, "hidden");
            if (!child)
                return -ENOMEM;
            child->pid = (pid_t)pid;
            child->parent = inspection->pid;
        }
    }
    return 0;
}

/* ---- the questions ---- */

static int add_children(struct inspection *inspection, const struct neighbours *neighbours)
{
    struct name_list living = {0}, dead = {0};
    for (size_t i = 0; i < neighbours->count; i++) {
        const struct neighbour *neighbour = &neighbours->items[i];
        if (neighbour->parent == inspection->pid)
            name_list_add(strstr(neighbour->name, ", zombie") ? &dead : &living, neighbour->pid,
                          neighbour->name);
    }
    int r = 0;
    if (living.count > 0)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s has %zu living child process%s: %s; the restored process would not be their "
            "parent, its wait calls would fail with ECHILD, and they would lose their parent; end "
            "them first, or wait until they have ended",
            inspection->who, living.count, living.count == 1 ? "" : "es", name_list_finish(&living));
    if (r == 0 && dead.count > 0)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s has %zu ended child process%s for which it has not waited yet: %s; the restored "
            "process would never learn how they ended, its wait calls would fail with ECHILD; try "
            "again when it has waited for them",
            inspection->who, dead.count, dead.count == 1 ? "" : "es", name_list_finish(&dead));
    return r;
}

static int compare_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

static int add_tracees(struct inspection *inspection, const struct neighbours *neighbours)
{
    struct name_list tracees = {0};
    for (size_t i = 0; i < neighbours->count; i++) {
        int tracer = neighbours->items[i].tracer;
        if (tracer &&
            bsearch(&tracer, inspection->tids, inspection->tid_count, sizeof *inspection->tids, compare_int))
            name_list_add(&tracees, neighbours->items[i].pid, neighbours->items[i].name);
    }
    if (tracees.count == 0)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, -1,
        "%s is tracing %s; the restored process would no longer be the tracer, and the traced "
        "would be set free or killed; let it detach first",
        inspection->who, name_list_finish(&tracees));
}

static int add_members(struct inspection *inspection, const struct neighbours *neighbours)
{
    bool leads_session = inspection->stat.session == inspection->pid;
    if (!leads_session && inspection->stat.group != inspection->pid)
        return 0; /* the numbers are somebody else's, and stay taken by the twin or its fellows: fine */
    struct name_list members = {0};
    for (size_t i = 0; i < neighbours->count; i++) {
        const struct neighbour *neighbour = &neighbours->items[i];
        /* A group lies within one session, so the members of the session are all there are. Those of a group
         * can be moved out of the way (process/group.c), if they are ours to trace. */
        if ((leads_session ? neighbour->session : neighbour->group) == inspection->pid &&
            (leads_session || process_check_eligible(neighbour->pid, NULL) < 0))
            name_list_add(&members, neighbour->pid, neighbour->name);
    }
    if (members.count == 0)
        return 0;
    const char *what = leads_session ? "session" : "process group";
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, -1,
        "%s leads a %s with %zu other member%s: %s; while they live the number %d stays taken "
        "by the %s and cannot be given to the restored process; end them first, or checkpoint "
        "one of them instead",
        inspection->who, what, members.count, members.count == 1 ? "" : "s", name_list_finish(&members),
        inspection->pid, what);
}

/* A terminal that is no pty hangs up when its session leader ends: its descriptors say EIO ever after. */
static int add_hangup(struct inspection *inspection, const struct neighbours *neighbours)
{
    (void)neighbours;
    unsigned device = major((unsigned)inspection->stat.tty);
    bool is_pty =
        device >= UNIX98_PTY_SLAVE_MAJOR && device < UNIX98_PTY_SLAVE_MAJOR + UNIX98_PTY_MAJOR_COUNT;
    if (inspection->leave_running || !inspection->stat.tty || is_pty ||
        inspection->stat.session != inspection->pid)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, -1,
        "%s leads a session on a terminal that is not a pty: when it is killed the kernel hangs the "
        "terminal up, and its descriptors on it fail with EIO; leave it running instead",
        inspection->who);
}

/* Whether a thread is inside vfork(2) shows as a child that runs in our memory. */
static int add_sharer(struct inspection *inspection, const struct neighbour *neighbour, bool memory,
                      bool table)
{
    const char *what = memory && table ? "its memory and its descriptor table"
                       : memory        ? "its memory"
                                       : "its descriptor table";
    if (memory && neighbour->parent == inspection->pid)
        return obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s shares %s with its child %d (%s): most likely it is inside a vfork and stands "
            "still until that child executes a program or ends; it cannot be stopped meanwhile, "
            "try again when the child has done so",
            inspection->who, what, neighbour->pid, neighbour->name);
    if (inspection->form == SNAPSHOT_FORM_COPY)
        return obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s shares %s with process %d (%s); the restored process would have a copy of its "
            "own, and what one of them changes the other would no longer see; checkpoint it "
            "without leaving it running, or end the other process first",
            inspection->who, what, neighbour->pid, neighbour->name);
    return obstacles_add(
        inspection->obstacles, SEVERITY_DEGRADED, -1,
        "%s shares %s with process %d (%s), which is not stopped: until the restore it goes on "
        "changing what was checkpointed; stop or end the other process first",
        inspection->who, what, neighbour->pid, neighbour->name);
}

static int add_sharers(struct inspection *inspection, const struct neighbours *neighbours)
{
    for (size_t i = 0; i < neighbours->count; i++) {
        const struct neighbour *neighbour = &neighbours->items[i];
        if (!neighbour->has_memory)
            continue;
        /* Who may not be looked at by us is no clone of a process that may. */
        bool memory = sys_kcmp(inspection->pid, neighbour->pid, KCMP_VM, 0, 0) == 0;
        bool table = sys_kcmp(inspection->pid, neighbour->pid, KCMP_FILES, 0, 0) == 0;
        if (!memory && !table)
            continue;
        int r = add_sharer(inspection, neighbour, memory, table);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The twin is one more process of the target's user. The superuser and the two capabilities are exempt from
 * RLIMIT_NPROC, see setrlimit(2). */
static int add_process_limit(struct inspection *inspection, const struct neighbours *neighbours)
{
    uid_t uid = (uid_t)status_number(inspection->status, "Uid", 10);
    uint64_t effective = status_number(inspection->status, "CapEff", 16);
    if (uid == 0 || (effective & (CAP_SYS_ADMIN_BIT | CAP_SYS_RESOURCE_BIT)))
        return 0;
    _cleanup_free_ char *limits = NULL;
    int r = inspection_read(inspection->proc_fd, "limits", &limits);
    if (r < 0)
        return r;
    const char *line = strstr(limits, "Max processes");
    unsigned long long limit;
    if (!line || sscanf(line + strlen("Max processes"), "%llu", &limit) != 1)
        return 0; /* unlimited */
    uint64_t used = inspection->tid_count;
    for (size_t i = 0; i < neighbours->count; i++)
        if (neighbours->items[i].real_uid == uid)
            used += neighbours->items[i].thread_count;
    if (used + 1 + inspection->tid_count <= limit)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_NOTE, -1,
        "%s may have %llu processes and threads with all others of user %u, who has %llu now: "
        "there may be no room for the twin or for the restored threads; raise the limit with "
        "prlimit --nproc",
        inspection->who, limit, uid, (unsigned long long)used);
}

static int check_kcmp(struct inspection *inspection, struct reseat_error **ret_error)
{
    int r = sys_kcmp(inspection->pid, inspection->pid, KCMP_VM, 0, 0);
    if (r >= 0)
        return 0;
    return error_errno(ret_error, r, "Comparing %s with its neighbours by kcmp%s", inspection->who,
                       r == -ENOSYS ? " (the kernel needs CONFIG_KCMP or CONFIG_CHECKPOINT_RESTORE)" : "");
}

int find_family_obstacles(struct inspection *inspection, struct reseat_error **ret_error)
{
    int r = check_kcmp(inspection, ret_error);
    if (r < 0)
        return r;
    _cleanup_(neighbours_free) struct neighbours neighbours = {0};
    r = neighbours_read(inspection, &neighbours);
    if (r == 0 && !neighbours.complete)
        r = add_hidden_children(inspection, &neighbours);
    if (r < 0)
        return error_errno(ret_error, r, "Looking for the relatives of %s in /proc", inspection->who);
    if (!neighbours.complete)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_NOTE, -1,
            "Other users' processes are hidden from us in /proc (hidepid): whether one of them is "
            "traced by %s or is in its session cannot be seen",
            inspection->who);
    int (*const questions[])(struct inspection *, const struct neighbours *) = {
        add_children, add_tracees, add_members, add_hangup, add_sharers, add_process_limit,
    };
    for (size_t i = 0; r == 0 && i < COUNT_OF(questions); i++)
        r = questions[i](inspection, &neighbours);
    return r < 0 ? inspection_fail(inspection, r, "limits", ret_error) : 0;
}
