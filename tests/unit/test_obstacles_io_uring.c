/* Rings (io_uring) that would not go on are found; with plain system calls. */
#include "test_obstacles.h"

#include <linux/io_uring.h>
#include <poll.h>

#ifndef IORING_SETUP_NO_MMAP
#define IORING_SETUP_NO_MMAP (1U << 14)
#endif
#ifndef IORING_ENTER_REGISTERED_RING
#define IORING_ENTER_REGISTERED_RING (1U << 4)
#endif

static struct io_uring_params ring_parameters;
static char *ring_memory;
static struct io_uring_sqe *ring_entries;

static int open_ring(unsigned flags)
{
    ring_parameters = (struct io_uring_params){.flags = flags};
    int fd = (int)syscall(SYS_io_uring_setup, 8, &ring_parameters);
    if (fd < 0)
        return SETUP_IMPOSSIBLE;
    ring_memory = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQ_RING);
    ring_entries =
        mmap(NULL, 8 * sizeof *ring_entries, PROT_READ | PROT_WRITE, MAP_SHARED, fd, IORING_OFF_SQES);
    return ring_memory == MAP_FAILED || ring_entries == MAP_FAILED ? SETUP_IMPOSSIBLE : fd;
}

static bool submit(int fd, const struct io_uring_sqe *request)
{
    unsigned *tail = (unsigned *)(ring_memory + ring_parameters.sq_off.tail);
    unsigned *array = (unsigned *)(ring_memory + ring_parameters.sq_off.array);
    unsigned slot = *tail & 7;
    ring_entries[slot] = *request;
    array[slot] = slot;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    return syscall(SYS_io_uring_enter, fd, 1, 0, 0, NULL, 0) == 1;
}

static int make_used_ring(void)
{
    int fd = open_ring(0);
    return fd >= 0 && submit(fd, &(struct io_uring_sqe){.opcode = IORING_OP_NOP}) ? -1 : SETUP_IMPOSSIBLE;
}

static int make_ring_in_flight(void)
{
    int fd = open_ring(0), pipe_fds[2];
    if (fd < 0 || pipe(pipe_fds) < 0)
        return SETUP_IMPOSSIBLE;
    struct io_uring_sqe request = {.opcode = IORING_OP_READ,
                                   .fd = pipe_fds[0],
                                   .addr = (uintptr_t)calloc(1, 16),
                                   .len = 16};
    return submit(fd, &request) ? fd : SETUP_IMPOSSIBLE;
}

/* One completion for one request, and yet it waits for more. */
static int make_ring_with_multishot(void)
{
    int fd = open_ring(0), pipe_fds[2];
    if (fd < 0 || pipe(pipe_fds) < 0)
        return SETUP_IMPOSSIBLE;
    struct io_uring_sqe request = {.opcode = IORING_OP_POLL_ADD,
                                   .fd = pipe_fds[0],
                                   .len = IORING_POLL_ADD_MULTI,
                                   .poll32_events = POLLIN};
    if (!submit(fd, &request) || write(pipe_fds[1], "", 1) != 1)
        return SETUP_IMPOSSIBLE;
    syscall(SYS_io_uring_enter, fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0);
    return fd;
}

static int make_polled_ring(void)
{
    return open_ring(IORING_SETUP_SQPOLL);
}

static int make_single_issuer_ring(void)
{
    return open_ring(IORING_SETUP_SINGLE_ISSUER);
}

static int make_deferring_ring(void)
{
    return open_ring(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
}

static int make_ring_with_buffers(void)
{
    int fd = open_ring(0);
    struct iovec buffer = {.iov_base = calloc(1, 4096), .iov_len = 4096};
    return fd >= 0 && syscall(SYS_io_uring_register, fd, IORING_REGISTER_BUFFERS, &buffer, 1) == 0
               ? fd
               : SETUP_IMPOSSIBLE;
}

static int make_ring_with_files(void)
{
    int fd = open_ring(0);
    int files[2] = {0, 1};
    return fd >= 0 && syscall(SYS_io_uring_register, fd, IORING_REGISTER_FILES, files, 2) == 0
               ? -1
               : SETUP_IMPOSSIBLE;
}

static int make_ring_in_own_memory(void)
{
    struct io_uring_params parameters = {.flags = IORING_SETUP_NO_MMAP};
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(pages, 0, 8192);
    /* user_addr, Linux 6.5, in the last eight bytes of both */
    memcpy((char *)&parameters.cq_off + sizeof parameters.cq_off - 8, &pages, 8);
    char *entries = pages + 4096;
    memcpy((char *)&parameters.sq_off + sizeof parameters.sq_off - 8, &entries, 8);
    int fd = (int)syscall(SYS_io_uring_setup, 8, &parameters);
    return fd < 0 ? SETUP_IMPOSSIBLE : fd;
}

static unsigned register_ring(int fd)
{
    struct io_uring_rsrc_update update = {.offset = -1U, .data = (unsigned)fd};
    return syscall(SYS_io_uring_register, fd, IORING_REGISTER_RING_FDS, &update, 1) == 1 ? update.offset
                                                                                         : -1U;
}

static int make_ring_without_selector(void)
{
    int fd = open_ring(0);
    if (fd < 0 || register_ring(fd) == -1U)
        return SETUP_IMPOSSIBLE;
    close(fd);
    return -1;
}

static void *wait_in_registered_ring(void *ring_fd)
{
    int fd = *(int *)ring_fd;
    unsigned index = register_ring(fd);
    syscall(SYS_io_uring_enter, index, 0, 1, IORING_ENTER_GETEVENTS | IORING_ENTER_REGISTERED_RING, NULL, 0);
    return NULL;
}

static int make_thread_in_registered_ring(void)
{
    static int fd;
    fd = open_ring(0);
    pthread_t thread;
    if (fd < 0 || pthread_create(&thread, NULL, wait_in_registered_ring, &fd) != 0)
        return SETUP_IMPOSSIBLE;
    usleep(50000);
    return -1;
}

static void test_ring_plain(void **state)
{
    (void)state;
    expect_nothing(make_used_ring, heir);
    expect_nothing(make_used_ring, copy);
    expect_nothing(make_ring_with_files, copy);
}

static void test_ring_in_flight(void **state)
{
    (void)state;
    expect(make_ring_in_flight, heir, SEVERITY_DEGRADED, "with requests in flight (up to 1)");
    expect(make_ring_with_multishot, heir, SEVERITY_DEGRADED, "with requests in flight (up to 1)");
}

static void test_ring_flavours(void **state)
{
    (void)state;
    expect(make_polled_ring, heir, SEVERITY_LOST, "(SQPOLL, thread ");
    expect(make_single_issuer_ring, heir, SEVERITY_LOST, "for one issuer only");
    expect(make_deferring_ring, copy, SEVERITY_LOST, "for one issuer only");
}

static void test_ring_buffers(void **state)
{
    (void)state;
    expect(make_ring_with_buffers, copy, SEVERITY_LOST, "with fixed buffers (1)");
    expect_nothing(make_ring_with_buffers, heir);
}

static void test_ring_own_memory(void **state)
{
    (void)state;
    expect(make_ring_in_own_memory, copy, SEVERITY_LOST, "(NO_MMAP)");
    expect_nothing(make_ring_in_own_memory, heir);
}

static void test_ring_registered(void **state)
{
    (void)state;
    expect(make_ring_without_selector, heir, SEVERITY_LOST, "that is at no selector");
    expect(make_thread_in_registered_ring, heir, SEVERITY_LOST, "(IORING_REGISTER_RING_FDS) and waits in it");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ring_plain),      cmocka_unit_test(test_ring_in_flight),
        cmocka_unit_test(test_ring_flavours),   cmocka_unit_test(test_ring_buffers),
        cmocka_unit_test(test_ring_own_memory), cmocka_unit_test(test_ring_registered),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
