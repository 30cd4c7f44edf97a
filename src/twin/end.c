/* Finding twins, and ending them without leaving a zombie.
 *
 * A twin is a child of the target's parent, which never asked for one. When it ends that parent is sent a
 * SIGCHLD like for any child; a shell or an init collects whatever child has died, but many programs wait
 * only for children that they know. For those the twin is collected by a wait4(2) that runs inside the
 * parent, through the stub. */
#include "twin/twin.h"
#include "twin/twin-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define BURIAL_GRACE_NS 2000000
#define BURIAL_STEP_NS  200000
#define END_TIMEOUT_NS  5000000000U
#define ASLEEP_WAIT_NS  100000000U
#define PAGE_BYTES      4096

/* It sleeps in the interpreter, which stands on the page before the header. Right after it was let go it may
 * not do so yet: the file then says "running". */
static int find_sleep(int proc_fd, uint64_t *ret_ip)
{
    uint64_t start_ns = now_ns();
    do {
        _cleanup_free_ char *call = NULL;
        unsigned long ip;
        if (file_read(proc_fd, "syscall", &call, NULL) < 0)
            return -ENOENT;
        if (strrchr(call, ' ') && sscanf(strrchr(call, ' '), " 0x%lx", &ip) == 1) {
            *ret_ip = ip;
            return 0;
        }
        nanosleep(&(struct timespec){.tv_nsec = BURIAL_STEP_NS}, NULL);
    } while (now_ns() - start_ns < ASLEEP_WAIT_NS);
    return -ENOENT;
}

int twin_read_header(pid_t pid, struct twin_header *ret_header)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    struct proc_stat stat;
    if (proc_fd < 0 || proc_stat_read(proc_fd, &stat) < 0 ||
        strncmp(stat.comm, TWIN_NAME_PREFIX, strlen(TWIN_NAME_PREFIX)) != 0 || stat.state == 'Z')
        return -ENOENT;
    uint64_t ip;
    int r = find_sleep(proc_fd, &ip);
    if (r < 0)
        return r;
    _cleanup_close_ int mem_fd = openat(proc_fd, "mem", O_RDONLY | O_CLOEXEC);
    uint64_t address = (ip & ~(uint64_t)(PAGE_BYTES - 1)) + TWIN_HEADER_OFFSET;
    struct twin_header header;
    if (mem_fd < 0 || pread(mem_fd, &header, sizeof header, (off_t)address) != sizeof header ||
        memcmp(header.magic, TWIN_MAGIC, sizeof header.magic) != 0)
        return -ENOENT;
    header.dir[sizeof header.dir - 1] = '\0';
    *ret_header = header;
    return 0;
}

/* The number that a dead process has in the PID namespace of its parent. */
static uint32_t number_for_parent(pid_t pid, pid_t parent)
{
    uint32_t levels[32];
    size_t depth = 1;
    _cleanup_close_ int parent_fd = proc_open(parent), dead_fd = proc_open(pid);
    _cleanup_free_ char *parent_status = NULL, *dead_status = NULL;
    if (parent_fd >= 0 && file_read(parent_fd, "status", &parent_status, NULL) == 0)
        depth = status_ns_pids(parent_status, levels, COUNT_OF(levels));
    if (dead_fd < 0 || file_read(dead_fd, "status", &dead_status, NULL) < 0)
        return (uint32_t)pid;
    size_t count = status_ns_pids(dead_status, levels, COUNT_OF(levels));
    return depth && depth <= count ? levels[depth - 1] : (uint32_t)pid;
}

static void collect_inside(pid_t pid, pid_t parent)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    uint32_t number = number_for_parent(pid, parent);
    if (target_seize_leader(parent, &target, NULL) < 0)
        return; /* not ours to trace, or traced by another: it stays until the parent ends */
    target_system_call(&target, SYS_wait4, (const uint64_t[6]){number, 0, WNOHANG | __WALL}, NULL);
}

void twin_bury(pid_t twin)
{
    uint64_t start_ns = now_ns();
    struct proc_stat stat;
    while (proc_stat_of(twin, &stat) == 0 && (stat.state == 'Z' || stat.state == 'X')) {
        if (stat.parent <= 1)
            return; /* init collects everything */
        if (now_ns() - start_ns > BURIAL_GRACE_NS) {
            if (stat.parent != getpid())
                collect_inside(twin, stat.parent);
            return;
        }
        nanosleep(&(struct timespec){.tv_nsec = BURIAL_STEP_NS}, NULL);
    }
}

int twin_end(pid_t twin, uint64_t start_time, struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = sys_pidfd_open(twin);
    struct proc_stat stat;
    if (pidfd < 0 || proc_stat_of(twin, &stat) < 0 || (start_time && stat.start_time != start_time))
        return error_set(ret_error, -ESRCH, "the twin %d is gone already", twin);
    int r = sys_pidfd_send_signal(pidfd, SIGKILL);
    if (r < 0)
        return error_errno(ret_error, r, "ending the twin %d", twin);
    struct pollfd waiting = {.fd = pidfd, .events = POLLIN};
    uint64_t start_ns = now_ns();
    while ((r = poll(&waiting, 1, 10)) <= 0 && now_ns() - start_ns < END_TIMEOUT_NS)
        ;
    if (r <= 0)
        return error_set(ret_error, -ETIMEDOUT, "the twin %d does not end", twin);
    twin_bury(twin);
    return 0;
}
