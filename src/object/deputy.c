/* Calls made with the credentials of somebody else. What a unix socket tells of its peer (SO_PEERCRED,
 * unix(7)) the kernel notes when the connection is made, of whoever makes the call: number, effective user
 * and group. So the call is made by a *deputy*: a fork of ours under that number (clone3(2), set_tid), with
 * that user and group, which shares our descriptor table and does what it is asked until another is needed.
 * The number that was noted stays in the socket when the deputy has ended.
 *
 * Files are looked up with our own rights all the same (setfsuid(2)). A fork of a process that may have
 * threads: only system calls in it. */
#include "object/deputy.h"

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define STEP_NS 1000000

enum task { TASK_PAIR, TASK_LISTEN, TASK_CONNECT };

/* Goes there and back: the table of descriptors is one. */
struct request {
    enum task task;
    int fd, number; /* number: type, or backlog */
    struct sockaddr_un address;
    socklen_t length;
    int ends[2];
    int result;
};

static void carry_out(struct request *request)
{
    int r = -1;
    switch (request->task) {
    case TASK_PAIR:
        r = socketpair(AF_UNIX, request->number | SOCK_CLOEXEC, 0, request->ends);
        break;
    case TASK_LISTEN:
        r = listen(request->fd, request->number);
        break;
    case TASK_CONNECT:
        r = connect(request->fd, (const struct sockaddr *)&request->address, request->length);
        break;
    }
    request->result = r < 0 ? -errno : 0;
}

/* ---- the deputy ---- */

/* The C library would change all threads. What may not be, is not. */
static void become(const struct ucred *credentials)
{
    uid_t our_user = (uid_t)syscall(SYS_geteuid);
    gid_t our_group = (gid_t)syscall(SYS_getegid);
    syscall(SYS_setresgid, -1, credentials->gid, -1);
    syscall(SYS_setfsgid, our_group);
    syscall(SYS_setresuid, -1, credentials->uid, -1);
    syscall(SYS_setfsuid, our_user);
}

static _Noreturn void serve(int channel, const struct ucred *credentials, pid_t parent)
{
    struct request request;
    become(credentials);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* after that: the kernel forgets it when credentials change */
    if (syscall(SYS_getppid) != parent)
        _exit(1);
    while (recv(channel, &request, sizeof request, 0) == sizeof request) {
        carry_out(&request);
        if (send(channel, &request, sizeof request, MSG_NOSIGNAL) != sizeof request)
            break;
    }
    _exit(0);
}

static pid_t clone_deputy(pid_t number, int *ret_pidfd)
{
    struct clone_args arguments = {.flags = CLONE_FILES | CLONE_FS | CLONE_PIDFD,
                                   .pidfd = (uint64_t)ret_pidfd};
    if (number) {
        arguments.set_tid = (uint64_t)&number;
        arguments.set_tid_size = 1;
    }
    long r = syscall(SYS_clone3, &arguments, sizeof arguments);
    return r < 0 ? -errno : (pid_t)r;
}

static bool is_zombie(pid_t pid)
{
    struct proc_stat stat;
    return proc_stat_of(pid, &stat) == 0 && stat.state == 'Z';
}

static pid_t clone_under_number(const struct deputy_principal *principal, int *ret_pidfd)
{
    pid_t number = principal->credentials.pid, pid;
    while ((pid = clone_deputy(number, ret_pidfd)) == -EEXIST && is_zombie(number) &&
           now_ns() < principal->deadline_ns)
        nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
    return pid < 0 ? clone_deputy(0, ret_pidfd) : pid;
}

void deputy_end(struct deputy *deputy)
{
    if (deputy->pid <= 0)
        return;
    sys_pidfd_send_signal(deputy->pidfd, SIGKILL);
    while (waitpid(deputy->pid, NULL, __WALL) < 0 && errno == EINTR)
        ;
    base_close(&deputy->pidfd);
    base_close(&deputy->channel[0]);
    base_close(&deputy->channel[1]);
    *deputy = (struct deputy){0};
}

static int appoint(struct deputy *deputy, const struct deputy_principal *principal)
{
    const struct ucred *credentials = &principal->credentials;
    if (deputy->pid > 0 && memcmp(&deputy->credentials, credentials, sizeof *credentials) == 0)
        return 0;
    deputy_end(deputy);
    struct deputy next = {.pidfd = -EBADF, .credentials = *credentials};
    pid_t parent = (pid_t)syscall(SYS_getpid);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, next.channel) < 0)
        return -errno;
    next.pid = clone_under_number(principal, &next.pidfd);
    if (next.pid == 0)
        serve(next.channel[1], credentials, parent);
    if (next.pid < 0) {
        base_close(&next.channel[0]);
        base_close(&next.channel[1]);
        return next.pid;
    }
    *deputy = next;
    return 0;
}

/* The channel does not end with the deputy, whose table is ours. */
static int ask(struct deputy *deputy, const struct deputy_principal *principal, struct request *request)
{
    int r = appoint(deputy, principal);
    if (r < 0)
        return r;
    struct pollfd ends[] = {{.fd = deputy->channel[0], .events = POLLIN},
                            {.fd = deputy->pidfd, .events = POLLIN}};
    if (send(deputy->channel[0], request, sizeof *request, MSG_NOSIGNAL) != sizeof *request)
        return -EIO;
    while ((r = poll(ends, COUNT_OF(ends), -1)) < 0 && errno == EINTR)
        ;
    if (r < 0 || !(ends[0].revents & POLLIN) ||
        recv(deputy->channel[0], request, sizeof *request, MSG_DONTWAIT) != sizeof *request) {
        deputy_end(deputy);
        return -ECHILD;
    }
    return request->result;
}

/* ---- what it is asked to do ---- */

int deputy_pair(struct deputy *deputy, const struct deputy_principal *principal, int type, int ret_ends[2])
{
    struct request request = {.task = TASK_PAIR, .number = type};
    int r = ask(deputy, principal, &request);
    if (r < 0)
        return r;
    ret_ends[0] = request.ends[0];
    ret_ends[1] = request.ends[1];
    return 0;
}

int deputy_listen(struct deputy *deputy, const struct deputy_principal *principal, int fd, int backlog)
{
    struct request request = {.task = TASK_LISTEN, .fd = fd, .number = backlog};
    return ask(deputy, principal, &request);
}

int deputy_connect(struct deputy *deputy, const struct deputy_principal *principal, int fd,
                   const struct sockaddr_un *address, socklen_t length)
{
    struct request request = {.task = TASK_CONNECT, .fd = fd, .address = *address, .length = length};
    return ask(deputy, principal, &request);
}
