/* Core: one request and one install through a session, beside the same without core (reseat_pd_open(), plain
 * pidfd_getfd(2)) and beside what a message with a descriptor costs at all: one that goes to another process
 * through a socket, and comes back (unix(7), SCM_RIGHTS). Each round does each of them OPERATIONS times. */
#include "core.h"
#include "reseat.h"
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define OPERATIONS  50
#define FREE_SLOT   100 /* in targets of 10 capabilities */
#define START_TRIES 5000

extern char **environ;

static void expect_done(int r, const char *what, const struct reseat_error *error)
{
    if (r < 0)
        rig_fail("%s: %s", what, error ? reseat_error_message(error) : strerror(-r));
}

static double each_us(uint64_t start_ns)
{
    return (double)(rig_now_ns() - start_ns) / 1000 / OPERATIONS;
}

/* ---- the floor: a descriptor goes to another process, and comes back ---- */

static int pass(int socket, int fd, bool sends)
{
    char byte = 0, control[CMSG_SPACE(sizeof fd)] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (sends) {
        *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(sizeof fd),
                                   .cmsg_level = SOL_SOCKET,
                                   .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(header), &fd, sizeof fd);
        return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
    }
    if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) <= 0)
        return -EPIPE;
    memcpy(&fd, CMSG_DATA(header), sizeof fd);
    return fd;
}

static _Noreturn void be_echo(int socket)
{
    for (;;) {
        int fd = pass(socket, -1, false);
        if (fd < 0)
            _exit(0);
        pass(socket, fd, true);
        close(fd);
    }
}

static pid_t start_echo(int *ret_socket)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        rig_fail("making a pair of sockets: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0) {
        close(ends[0]);
        be_echo(ends[1]);
    }
    close(ends[1]);
    *ret_socket = ends[0];
    return pid;
}

static double time_echo(int socket, int cap)
{
    uint64_t start_ns = rig_now_ns();
    for (int i = 0; i < OPERATIONS; i++) {
        pass(socket, cap, true);
        close(pass(socket, -1, false));
    }
    return each_us(start_ns);
}

static double time_getfd(pid_t pid)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    uint64_t start_ns = rig_now_ns();
    for (int i = 0; i < OPERATIONS; i++)
        close((int)syscall(SYS_pidfd_getfd, pidfd, 1, 0));
    double us = each_us(start_ns);
    close(pidfd);
    return us;
}

/* ---- what is measured ---- */

static double time_request(struct reseat_pd *pd)
{
    uint64_t start_ns = rig_now_ns();
    for (int i = 0; i < OPERATIONS; i++) {
        struct reseat_error *error = NULL;
        int cap = -1;
        expect_done(reseat_pd_request(pd, 1, &cap, NULL, &error), "request", error);
        close(cap);
    }
    return each_us(start_ns);
}

/* Only the install counts. */
static double time_install(struct reseat_pd *pd, int cap)
{
    uint64_t taken_ns = 0;
    for (int i = 0; i < OPERATIONS; i++) {
        struct reseat_error *error = NULL;
        uint64_t start_ns = rig_now_ns();
        expect_done(reseat_pd_install(pd, cap, FREE_SLOT, 0, &error), "install", error);
        taken_ns += rig_now_ns() - start_ns;
        expect_done(reseat_pd_close(pd, FREE_SLOT, &error), "close", error);
    }
    return (double)taken_ns / 1000 / OPERATIONS;
}

/* ---- core ---- */

static pid_t start_core(const char *command, const char *path)
{
    char *const arguments[] = {(char *)command, "core",      "--socket", (char *)path,
                               "--config",      "/dev/null", NULL};
    pid_t pid;
    int r = posix_spawn(&pid, command, NULL, NULL, arguments, environ);
    if (r != 0)
        rig_fail("starting %s: %s", command, strerror(r));
    for (int i = 0; i < START_TRIES && access(path, F_OK) < 0; i++)
        usleep(1000);
    return pid;
}

void bench_core(const char *command, const char *target, const char *work_directory, unsigned rounds,
                struct table *table)
{
    static struct samples echo, getfd, local_request, request, local_install, install;
    struct shape shape = {1, 10, 1, true, 0};
    struct rig rig = rig_start(target, &shape);
    struct reseat_pd *local, *remote;
    struct reseat_error *error = NULL;
    char path[100];
    int socket, cap = eventfd(0, EFD_CLOEXEC);
    snprintf(path, sizeof path, "%s/core", work_directory);
    pid_t core = start_core(command, path), echo_pid = start_echo(&socket);
    expect_done(reseat_pd_open(rig.target, &local, &error), "opening a PD", error);
    expect_done(reseat_pd_connect(path, rig.target, &remote, &error), "opening a PD through core", error);
    for (unsigned round = 0; round < rounds; round++) {
        samples_add(&echo, time_echo(socket, cap));
        samples_add(&getfd, time_getfd(rig.target));
        samples_add(&local_request, time_request(local));
        samples_add(&request, time_request(remote));
        samples_add(&local_install, time_install(local, cap));
        samples_add(&install, time_install(remote, cap));
    }
    reseat_pd_free(local);
    reseat_pd_free(remote);
    close(socket);
    waitpid(echo_pid, NULL, 0);
    kill(core, SIGTERM);
    waitpid(core, NULL, 0);
    rig_end(&rig);
    struct bar none = {.text = "reported"};
    table_begin("One at a time through core", "a descriptor sent to another process and back");
    table_row(table, "request through core", &request, &echo, &none);
    table_row(table, "the same with our own rights", &local_request, &echo, &none);
    table_row(table, "plain pidfd_getfd(2)", &getfd, &echo, &none);
    table_row(table, "install through core", &install, &echo, &none);
    table_row(table, "the same with our own rights", &local_install, &echo, &none);
}
