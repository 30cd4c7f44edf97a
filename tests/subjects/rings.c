/* io_uring, by its system calls (io_uring_setup(2)): an idle plain ring goes on; one that cannot go on is
 * refused by name before anything is killed. */
#include "subject.h"

#include <linux/io_uring.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/uio.h>

#ifndef IORING_SETUP_SINGLE_ISSUER
#define IORING_SETUP_SINGLE_ISSUER (1U << 12)
#define IORING_SETUP_DEFER_TASKRUN (1U << 13)
#endif

static struct {
    int fd;
    struct io_uring_params params;
    char *rings;
    struct io_uring_sqe *entries;
} ring;

static void set_up(unsigned flags)
{
    ring.params = (struct io_uring_params){.flags = flags};
    ring.fd = (int)syscall(SYS_io_uring_setup, 8, &ring.params);
    if (ring.fd < 0)
        skip("this kernel does not let us make an io_uring");
    size_t submissions = ring.params.sq_off.array + ring.params.sq_entries * sizeof(uint32_t);
    size_t completions = ring.params.cq_off.cqes + ring.params.cq_entries * sizeof(struct io_uring_cqe);
    CHECK(ring.params.features & IORING_FEAT_SINGLE_MMAP);
    ring.rings = MUST(mmap(NULL, submissions > completions ? submissions : completions,
                           PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING));
    ring.entries = MUST(mmap(NULL, ring.params.sq_entries * sizeof(struct io_uring_sqe),
                             PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQES));
}

static _Atomic uint32_t *field(uint32_t offset)
{
    return (_Atomic uint32_t *)(ring.rings + offset);
}

static void submit(const struct io_uring_sqe *entry)
{
    uint32_t tail = *field(ring.params.sq_off.tail), place = tail & *field(ring.params.sq_off.ring_mask);

    ring.entries[place] = *entry;
    *field(ring.params.sq_off.array + place * 4) = place;
    *field(ring.params.sq_off.tail) = tail + 1;
    CHECK_EQUAL(syscall(SYS_io_uring_enter, ring.fd, 1, 0, 0, NULL, 0), 1);
}

struct completion {
    uint64_t user_data;
    int res;
};

/* The next completion, by value: the kernel may use its place again as soon as the head has moved. */
static struct completion complete(void)
{
    uint32_t head = *field(ring.params.cq_off.head);

    while (head == *field(ring.params.cq_off.tail))
        CHECK(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) >= 0);
    struct io_uring_cqe *all = (struct io_uring_cqe *)(ring.rings + ring.params.cq_off.cqes);
    const struct io_uring_cqe *entry = &all[head & *field(ring.params.cq_off.ring_mask)];
    struct completion found = {entry->user_data, entry->res};
    *field(ring.params.cq_off.head) = head + 1;
    return found;
}

static void read_and_write_through_ring(void)
{
    int file = MUST(open(".", O_TMPFILE | O_RDWR, 0600));
    char found[8] = "";

    submit(&(struct io_uring_sqe){
        .opcode = IORING_OP_WRITE, .fd = file, .addr = (uintptr_t) "content", .len = 7, .user_data = 1});
    struct completion completion = complete();
    CHECK(completion.user_data == 1 && completion.res == 7);
    submit(&(struct io_uring_sqe){
        .opcode = IORING_OP_READ, .fd = file, .addr = (uintptr_t)found, .len = 7, .user_data = 2});
    completion = complete();
    CHECK(completion.user_data == 2 && completion.res == 7);
    CHECK_TEXT(found, "content");
    close(file);
}

static void never_used(void)
{
    set_up(0);
    be_checkpointed();
    read_and_write_through_ring();
}

static void idle(void)
{
    set_up(0);
    for (int i = 0; i < 100; i++)
        read_and_write_through_ring();
    be_checkpointed();
    for (int i = 0; i < 100; i++)
        read_and_write_through_ring();
}

/* A completion that nobody has taken is in the ring still. */
static void completed_but_not_taken(void)
{
    set_up(0);
    submit(&(struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = 77});
    be_checkpointed();
    struct completion completion = complete();
    CHECK_EQUAL(completion.user_data, 77);
    read_and_write_through_ring();
    submit(&(struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = 77});
}

static void in_flight(void)
{
    int event = MUST(eventfd(0, 0));
    static uint64_t value;

    set_up(0);
    submit(&(struct io_uring_sqe){
        .opcode = IORING_OP_READ, .fd = event, .addr = (uintptr_t)&value, .len = 8, .user_data = 3});
    be_checkpointed();
    CHECK_EQUAL(write(event, &(uint64_t){9}, 8), 8);
    struct completion completion = complete();
    CHECK(completion.user_data == 3 && completion.res == 8 && value == 9);
}

static void with_a_kernel_thread(void)
{
    set_up(IORING_SETUP_SQPOLL);
    be_checkpointed();
}

static void for_a_single_issuer(void)
{
    set_up(IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    be_checkpointed();
    submit(&(struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = 1});
    CHECK_EQUAL(complete().user_data, 1);
}

static void fixed_buffers(void)
{
    static char buffer[8192] __attribute__((aligned(4096)));
    int file = MUST(open(".", O_TMPFILE | O_RDWR, 0600));

    set_up(0);
    struct iovec one = {buffer, sizeof buffer};
    MUST(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_BUFFERS, &one, 1));
    CHECK_EQUAL(write(file, "content", 7), 7);
    be_checkpointed();
    submit(&(struct io_uring_sqe){
        .opcode = IORING_OP_READ_FIXED, .fd = file, .addr = (uintptr_t)buffer, .len = 7, .user_data = 4});
    CHECK_EQUAL(complete().res, 7);
    CHECK_TEXT(buffer, "content");
}

static void fixed_files(void)
{
    int file = MUST(open(".", O_TMPFILE | O_RDWR, 0600));
    static char found[8];

    set_up(0);
    CHECK_EQUAL(write(file, "content", 7), 7);
    MUST(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &file, 1));
    be_checkpointed();
    submit(&(struct io_uring_sqe){.opcode = IORING_OP_READ,
                                  .flags = IOSQE_FIXED_FILE,
                                  .fd = 0,
                                  .addr = (uintptr_t)found,
                                  .len = 7,
                                  .user_data = 4});
    CHECK_EQUAL(complete().res, 7);
    CHECK_TEXT(found, "content");
}

static void tells_an_eventfd(void)
{
    int event = MUST(eventfd(0, 0));

    set_up(0);
    MUST(syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_EVENTFD, &event, 1));
    be_checkpointed();
    submit(&(struct io_uring_sqe){.opcode = IORING_OP_NOP, .user_data = 1});
    uint64_t count = 0;
    CHECK_EQUAL(read(event, &count, 8), 8);
    CHECK_EQUAL(complete().user_data, 1);
}

const struct subject subjects[] = {
    {"never-used", never_used, .new_pid = true,
     .skip = "beside: two processes cannot both take from one ring", .refused = "cold,held: io_uring"},
    {"idle", idle, .refused = "cold,held: io_uring"},
    {"completed-but-not-taken", completed_but_not_taken, .refused = "cold,held: io_uring"},
    {"in-flight", in_flight, .refused = "live: in flight; cold: io_uring"},
    {"kernel-thread", with_a_kernel_thread, .refused = "live: SQPOLL; cold: io_uring"},
    {"single-issuer", for_a_single_issuer, .refused = "live: SINGLE_ISSUER; cold: io_uring"},
    {"fixed-buffers", fixed_buffers, .refused = "copy,run-on,keep: fixed buffers; cold,held: io_uring"},
    {"fixed-files", fixed_files, .refused = "cold,held: io_uring"},
    {"eventfd", tells_an_eventfd, .refused = "cold,held: io_uring"},
    {0},
};
