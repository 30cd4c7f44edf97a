/* soak CORE OPERATIONS SEED: runs the soak (soak.h) through the core that listens at socket CORE. Status 0 if
 * all was as it must be. */
#include "soak.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define COMPLAINTS_SHOWN 20

void complain(struct board *board, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (atomic_fetch_add(&board->errors, 1) < COMPLAINTS_SHOWN)
        fprintf(stderr, "soak: %s\n", text);
}

uint32_t chance_below(struct chance *chance, uint32_t below)
{
    chance->state = chance->state * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)(chance->state >> 33) % below;
}

uint64_t inode_of(int fd)
{
    struct stat status;
    return fstat(fd, &status) < 0 ? 0 : status.st_ino;
}

int make_object(const char *name, uint64_t *ret_inode)
{
    int fd = memfd_create(name, MFD_CLOEXEC);
    if (fd >= 0)
        *ret_inode = inode_of(fd);
    return fd;
}

static pid_t start_target(struct board *board, unsigned index)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    target_run(board, index);
}

static pid_t start_client(struct board *board, unsigned index, const char *core, unsigned long operations,
                          uint64_t seed)
{
    pid_t pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(client_run(board, index, core, operations, seed + index));
}

/* Waits for `count` processes; each must end with status 0. */
static void wait_for(struct board *board, const pid_t *pids, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++) {
        int status = -1;
        waitpid(pids[i], &status, 0);
        if (status != 0)
            complain(board, "%s %zu (PID %d) ended with status %#x", what, i, pids[i], status);
    }
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: soak CORE OPERATIONS SEED\n");
        return 2;
    }
    struct board *board =
        mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (board == MAP_FAILED)
        return 1;
    unsigned long operations = strtoul(argv[2], NULL, 10);
    pid_t clients[CLIENTS];
    for (unsigned i = 0; i < TARGETS; i++)
        board->targets[i] = start_target(board, i);
    while (atomic_load(&board->ready) < TARGETS)
        usleep(1000);
    for (unsigned i = 0; i < CLIENTS; i++)
        clients[i] = start_client(board, i, argv[1], operations / CLIENTS, strtoull(argv[3], NULL, 10));
    wait_for(board, clients, CLIENTS, "client");
    atomic_store(&board->finish, 1);
    wait_for(board, board->targets, TARGETS, "target");
    printf("%u operations, %u rounds of targets, %d complaints\n", atomic_load(&board->operations),
           atomic_load(&board->own_rounds), atomic_load(&board->errors));
    return atomic_load(&board->errors) != 0;
}
