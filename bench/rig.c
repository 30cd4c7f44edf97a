/* Starting targets under a keeper, and asking them. See rig.h; children of a process:
 * /proc/PID/task/TID/children in proc_pid_task(5). */
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t rig_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

void rig_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

/* ---- the keeper ---- */

/* Twins hear no signal but this one. A handler: only what signal-safety(7) allows. */
static void kill_children(int signal)
{
    (void)signal;
    char text[4096];
    int fd = open("/proc/thread-self/children", O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    text[length > 0 ? length : 0] = '\0';
    pid_t pid = 0;
    for (const char *digit = text; *digit; digit++) {
        if (*digit >= '0' && *digit <= '9') {
            pid = pid * 10 + (*digit - '0');
            continue;
        }
        if (pid > 0)
            kill(pid, SIGKILL);
        pid = 0;
    }
    _exit(0);
}

static _Noreturn void run_target(const char *program, const struct shape *shape, int socket)
{
    char size[16], capabilities[16], threads[16], contents[16];
    snprintf(size, sizeof size, "%u", shape->mebibytes);
    snprintf(capabilities, sizeof capabilities, "%u", shape->capabilities);
    snprintf(threads, sizeof threads, "%u", shape->threads);
    snprintf(contents, sizeof contents, "%u", shape->content_mebibytes);
    if (dup2(socket, BENCH_SOCKET) == BENCH_SOCKET && close_range(BENCH_SOCKET + 1, ~0U, 0) == 0)
        execl(program, program, size, capabilities, threads, shape->is_mixed ? "mixed" : "eventfd", contents,
              NULL);
    fprintf(stderr, "bench: starting %s: %s\n", program, strerror(errno));
    _exit(1);
}

static _Noreturn void keep(const char *program, const struct shape *shape, int socket, pid_t bench)
{
    struct sigaction ending = {.sa_handler = kill_children};
    sigaction(SIGTERM, &ending, NULL);
    sigaction(SIGINT, &ending, NULL);
    sigaction(SIGHUP, &ending, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != bench)
        _exit(1);
    pid_t target = fork();
    if (target == 0)
        run_target(program, shape, socket);
    close(socket);
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
    _exit(0);
}

/* ---- the bench's side ---- */

static uint64_t receive(struct rig *rig)
{
    uint64_t reply;
    ssize_t n = read(rig->socket, &reply, sizeof reply);
    if (n != sizeof reply)
        rig_fail("the target %d of %u MiB, %u capabilities and %u threads has ended", rig->target,
                 rig->shape.mebibytes, rig->shape.capabilities, rig->shape.threads);
    return reply;
}

struct rig rig_start(const char *program, const struct shape *shape)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        rig_fail("making a socket: %s", strerror(errno));
    struct rig rig = {.shape = *shape, .socket = ends[0]};
    pid_t bench = getpid();
    fflush(NULL);
    rig.keeper = fork();
    if (rig.keeper < 0)
        rig_fail("forking: %s", strerror(errno));
    if (rig.keeper == 0)
        keep(program, shape, ends[1], bench);
    close(ends[1]);
    rig.target = (pid_t)receive(&rig);
    return rig;
}

uint64_t rig_ask(struct rig *rig, enum bench_request request)
{
    uint8_t byte = (uint8_t)request;
    if (send(rig->socket, &byte, 1, MSG_NOSIGNAL) != 1)
        rig_fail("the target %d has ended", rig->target);
    return receive(rig);
}

void rig_end(struct rig *rig)
{
    kill(rig->keeper, SIGTERM);
    waitpid(rig->keeper, NULL, 0);
    close(rig->socket);
}
