/* What is measured: a process of a given size, with so many capabilities and threads, which on request times
 * what only it can time: its own fork(2), and a pass of writes over all its memory.
 *
 * usage: bench-target MEBIBYTES CAPABILITIES THREADS mixed|eventfd CONTENT_MEBIBYTES, with a socket to the
 * bench at selector 3. The memory is in pages of 4 KiB whatever the machine's setting for huge ones: the
 * expensive case of a fork, and the usual one. All threads but the main one sleep. */
#include "rig.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE_BYTES         4096
#define THREAD_STACK_BYTES (64 * 1024)
#define OTHER_BYTES        (64 * 1024 * 1024) /* more than any cache of one processor */
#define LINE_BYTES         64

struct memory {
    volatile char *pages;
    size_t length;
    char last_written;
    volatile const char *other; /* read in order to have nothing of the above in the caches */
};

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* ---- becoming what is asked for ---- */

static void touch_memory(struct memory *memory, size_t length)
{
    memory->length = length;
    memory->pages = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory->pages == MAP_FAILED)
        fail("mapping the memory");
    madvise((void *)memory->pages, length, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < length; i += PAGE_BYTES)
        memory->pages[i] = (char)(i >> 12 | 1);
    /* Shared: a fork has no more to do because of it. */
    memory->other = mmap(NULL, OTHER_BYTES, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory->other == MAP_FAILED)
        fail("mapping other memory");
}

static int open_object(bool mixed, unsigned number)
{
    int ends[2];
    switch (mixed ? number % 10 : 0) {
    case 1:
    case 2:
        return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    case 3:
        return open("/dev/null", O_RDWR | O_CLOEXEC);
    case 4: /* the other end takes the next selector, and the number with it */
        return pipe2(ends, O_CLOEXEC) < 0 ? -1 : ends[1];
    case 6:
        return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0 ? -1 : ends[1];
    case 8:
        return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    case 9:
        return number % 20 == 9 ? epoll_create1(EPOLL_CLOEXEC) : timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC);
    default:
        return eventfd(0, EFD_CLOEXEC);
    }
}

/* Selectors 0 to `count` - 1 are used afterwards, and no others. */
static void open_capabilities(bool mixed, unsigned count)
{
    struct rlimit limit = {count + 64, count + 64};
    if (count > 900 && setrlimit(RLIMIT_NOFILE, &limit) < 0)
        fail("raising the limit of descriptors");
    for (int last = BENCH_SOCKET; last + 1 < (int)count;) {
        last = open_object(mixed, (unsigned)last + 1);
        if (last < 0)
            fail("opening a capability");
        if (last >= (int)count)
            close(last);
    }
}

static void fill_file(int fd, unsigned mebibytes)
{
    static char piece[1 << 20];
    if (fd < 0)
        fail("opening a file");
    for (unsigned i = 0; i < mebibytes; i++) {
        memset(piece, (int)(i % 255 + 1), sizeof piece);
        if (write(fd, piece, sizeof piece) != sizeof piece)
            fail("filling a file");
    }
}

/* What an image has to carry besides memory: behind the other capabilities. */
static void open_contents(unsigned mebibytes)
{
    if (!mebibytes)
        return;
    fill_file(memfd_create("content", MFD_CLOEXEC), mebibytes);
    fill_file(open("/dev/shm", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), mebibytes);
}

static void *sleep_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void start_threads(unsigned count)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES);
    for (unsigned i = 1; i < count; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, sleep_for_ever, NULL) != 0)
            fail("starting a thread");
    }
}

/* ---- what it is asked for ---- */

/* A child that does nothing until it is killed; how long the fork took. Only then may it run: what it does
 * would be measured otherwise. */
static uint64_t fork_child(pid_t *ret_child)
{
    int gate[2];
    char nothing;
    if (pipe2(gate, O_CLOEXEC) < 0)
        fail("making a pipe");
    uint64_t start_ns = now_ns();
    *ret_child = fork();
    uint64_t fork_ns = now_ns() - start_ns;
    if (*ret_child < 0)
        fail("forking");
    if (*ret_child == 0) {
        close(gate[1]);
        while (read(gate[0], &nothing, 1) != 0)
            ;
        for (;;)
            pause();
    }
    close(gate[0]);
    close(gate[1]);
    return fork_ns;
}

static void end_child(pid_t child)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static uint64_t time_fork(void)
{
    pid_t child;
    uint64_t fork_ns = fork_child(&child);
    end_child(child);
    return fork_ns;
}

/* A restored thread may run on another processor than before. So that no pass finds more in the caches than
 * another, all begin with nothing in them. */
static void empty_caches(const struct memory *memory)
{
    for (size_t i = 0; i < OTHER_BYTES; i += LINE_BYTES)
        (void)memory->other[i];
}

/* Also proves that the memory is what it should be. */
static uint64_t time_writes(struct memory *memory)
{
    empty_caches(memory);
    uint64_t start_ns = now_ns();
    for (size_t i = 0; i < memory->length; i += PAGE_BYTES)
        memory->pages[i]++;
    uint64_t pass_ns = now_ns() - start_ns;
    memory->last_written++;
    for (size_t i = 0; i < memory->length; i += PAGE_BYTES)
        if (memory->pages[i] != (char)((char)(i >> 12 | 1) + memory->last_written)) {
            fprintf(stderr, "bench-target: the memory at %zu is not what was written there\n", i);
            exit(1);
        }
    return pass_ns;
}

static uint64_t time_writes_after_fork(struct memory *memory)
{
    pid_t child;
    fork_child(&child);
    uint64_t pass_ns = time_writes(memory);
    end_child(child);
    return pass_ns;
}

static uint64_t answer(struct memory *memory, enum bench_request request)
{
    switch (request) {
    case BENCH_FORK:
        return time_fork();
    case BENCH_WRITE:
        return time_writes(memory);
    case BENCH_FORK_AND_WRITE:
        return time_writes_after_fork(memory);
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 6)
        return 2;
    struct memory memory = {0};
    touch_memory(&memory, strtoul(argv[1], NULL, 10) << 20);
    open_capabilities(strcmp(argv[4], "mixed") == 0, (unsigned)atoi(argv[2]));
    open_contents((unsigned)atoi(argv[5]));
    start_threads((unsigned)atoi(argv[3]));
    uint64_t reply = (uint64_t)getpid();
    uint8_t request;
    do {
        if (write(BENCH_SOCKET, &reply, sizeof reply) != sizeof reply)
            fail("answering");
        if (read(BENCH_SOCKET, &request, 1) != 1)
            return 0; /* the bench has ended */
        reply = answer(&memory, request);
    } while (true);
}
