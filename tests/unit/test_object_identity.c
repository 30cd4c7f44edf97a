/* Who is the same as whom: two rows of a listing have the same object id if and only if they hold the same
 * object, over dup(2), fork(2) and SCM_RIGHTS, in processes that change while they are looked at, and with
 * those that end. The subjects keep a book, in shared memory, of which object they put where; the listing is
 * checked against it. */
#include "test_object_subject.h"

#include "reseat.h"

#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>

#define PROCESSES      3
#define FIRST_SELECTOR 100
#define SELECTORS      200
#define STEPS          400

struct book {
    unsigned last_object;
    unsigned object_at[PROCESSES][SELECTORS]; /* 0: unused */
    pid_t pids[PROCESSES];
    unsigned random;
};

static struct book *book;

/* ---- in the subjects ---- */

static unsigned random_below(unsigned limit)
{
    book->random = book->random * 1103515245 + 12345;
    return (book->random >> 16) % limit;
}

static int make_random_object(void)
{
    int pair[2];
    switch (random_below(10)) {
    case 0:
        return eventfd(0, 0);
    case 1:
        return epoll_create1(0);
    case 2:
        return timerfd_create(CLOCK_MONOTONIC, 0);
    case 3:
        return open("/dev/null", O_RDONLY);
    case 4:
        return open("/dev/null", O_RDWR);
    case 5:
        return open("/", O_RDONLY | O_DIRECTORY);
    case 6:
        return memfd_create("same name", 0);
    case 7:
        SUBJECT_CHECK(pipe(pair) == 0);
        close(pair[0]);
        return pair[1];
    case 8:
        SUBJECT_CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
        close(pair[0]);
        return pair[1];
    default:
        return inotify_init1(0);
    }
}

/* Puts `fd` at a random selector and enters it as `object`. */
static void place(int process, int fd, unsigned object)
{
    unsigned index = random_below(SELECTORS);
    int selector = (int)(FIRST_SELECTOR + index);
    int flags = random_below(2) ? O_CLOEXEC : 0;
    SUBJECT_CHECK(fd >= 0 && (fd == selector || dup3(fd, selector, flags) >= 0));
    book->object_at[process][index] = object;
}

static void make_and_place(int process)
{
    int fd = make_random_object();
    place(process, fd, ++book->last_object);
    close(fd);
}

static void copy_or_close(int process)
{
    unsigned index = random_below(SELECTORS);
    unsigned object = book->object_at[process][index];
    if (object == 0)
        return;
    if (random_below(3) > 0) {
        place(process, (int)(FIRST_SELECTOR + index), object);
    } else {
        close((int)(FIRST_SELECTOR + index));
        book->object_at[process][index] = 0;
    }
}

static void act_at_random(int process)
{
    for (int step = 0; step < STEPS; step++) {
        if (random_below(3) == 0)
            make_and_place(process);
        else
            copy_or_close(process);
    }
}

static void send_some(int process, int socket_fd)
{
    for (unsigned index = 0; index < SELECTORS; index++) {
        unsigned object = book->object_at[process][index];
        if (object == 0 || random_below(4) > 0)
            continue;
        char room[CMSG_SPACE(sizeof(int))] = {0};
        struct iovec data = {&object, sizeof object};
        struct msghdr message = {.msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = room,
                                 .msg_controllen = sizeof room};
        struct cmsghdr *control = CMSG_FIRSTHDR(&message);
        *control = (struct cmsghdr){.cmsg_level = SOL_SOCKET,
                                    .cmsg_type = SCM_RIGHTS,
                                    .cmsg_len = CMSG_LEN(sizeof(int))};
        int fd = (int)(FIRST_SELECTOR + index);
        memcpy(CMSG_DATA(control), &fd, sizeof fd);
        SUBJECT_CHECK(sendmsg(socket_fd, &message, 0) == sizeof object);
    }
    SUBJECT_CHECK(shutdown(socket_fd, SHUT_WR) == 0);
}

static void receive_all(int process, int socket_fd)
{
    for (;;) {
        unsigned object;
        char room[CMSG_SPACE(sizeof(int))];
        struct iovec data = {&object, sizeof object};
        struct msghdr message = {.msg_iov = &data,
                                 .msg_iovlen = 1,
                                 .msg_control = room,
                                 .msg_controllen = sizeof room};
        ssize_t n = recvmsg(socket_fd, &message, 0);
        if (n == 0)
            return;
        SUBJECT_CHECK(n == sizeof object && CMSG_FIRSTHDR(&message));
        int fd;
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        place(process, fd, object);
        close(fd);
    }
}

/* Process 0 begins, is copied into 1 by fork, and sends some of what it has to 2, which was there before. */
static void set_up_family(void *userdata)
{
    (void)userdata;
    int wire[2], done[2];
    SUBJECT_CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire) == 0 && pipe(done) == 0);
    act_at_random(0);
    memcpy(book->object_at[1], book->object_at[0], sizeof book->object_at[0]);
    book->pids[0] = getpid();
    pid_t copy = fork();
    SUBJECT_CHECK(copy >= 0);
    if (copy == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        act_at_random(1);
        close(done[0]);
        close(done[1]);
        for (;;)
            pause();
    }
    /* The book has one pen: who has it is whoever the others wait for. */
    book->pids[1] = copy;
    close(done[1]);
    char byte;
    SUBJECT_CHECK(read(done[0], &byte, 1) == 0);
    close(done[0]);
    SUBJECT_CHECK(pipe(done) == 0);
    send_some(0, wire[0]);
    pid_t receiver = fork();
    SUBJECT_CHECK(receiver >= 0);
    if (receiver == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int fd = FIRST_SELECTOR; fd < FIRST_SELECTOR + SELECTORS; fd++)
            close(fd); /* so that it has only what it is sent */
        receive_all(2, wire[1]);
        close(done[1]);
        for (;;)
            pause();
    }
    book->pids[2] = receiver;
    close(done[1]);
    SUBJECT_CHECK(read(done[0], &byte, 1) == 0);
}

/* ---- in the test ---- */

static struct reseat_listing *list(const pid_t *pids, size_t count)
{
    struct reseat_listing *listing;
    struct reseat_error *error = NULL;
    if (reseat_list_capabilities(pids, count, &listing, &error) < 0)
        fail_with_error("listing", error);
    return listing;
}

/* What the book says of a row; 0: it is not in the book. */
static unsigned booked(const struct reseat_capability *row)
{
    if (row->selector < FIRST_SELECTOR || row->selector >= FIRST_SELECTOR + SELECTORS)
        return 0;
    for (unsigned process = 0; process < PROCESSES; process++) {
        if (row->pid == book->pids[process])
            return book->object_at[process][row->selector - FIRST_SELECTOR];
    }
    return 0;
}

static void check_against_book(const struct reseat_listing *listing)
{
    size_t in_book = 0, in_listing = 0, same_pairs = 0;
    for (unsigned process = 0; process < PROCESSES; process++) {
        for (unsigned index = 0; index < SELECTORS; index++)
            in_book += book->object_at[process][index] != 0;
    }
    for (size_t i = 0; i < listing->count; i++) {
        const struct reseat_capability *a = &listing->capabilities[i];
        in_listing += booked(a) != 0;
        for (size_t j = 0; booked(a) && j < i; j++) {
            const struct reseat_capability *b = &listing->capabilities[j];
            if (!booked(b))
                continue;
            bool is_same = strcmp(a->object, b->object) == 0;
            same_pairs += is_same;
            if (is_same != (booked(a) == booked(b)))
                fail_msg("%d:%u %s %s and %d:%u %s %s", a->pid, a->selector, a->kind, a->object, b->pid,
                         b->selector, b->kind, b->object);
        }
    }
    assert_int_equal(in_listing, in_book);
    assert_true(same_pairs > 100);
}

static void test_ids_are_identity(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 10; seed++) {
        memset(book, 0, sizeof *book);
        book->random = seed;
        pid_t pid = subject_start(set_up_family, NULL);
        struct reseat_listing *listing = list(book->pids, PROCESSES);
        check_against_book(listing);
        reseat_listing_free(listing);
        subject_stop(pid);
    }
}

/* ---- a process that does not hold still ---- */

#define STEADY 50

/* Selectors 100 to 149 hold 25 objects, each twice; beyond them, one thing after the other comes and goes. */
static void set_up_churn(void *userdata)
{
    for (int i = 0; i < STEADY; i += 2) {
        int fd = timerfd_create(CLOCK_MONOTONIC, 0);
        SUBJECT_CHECK(fd >= 0 && dup2(fd, FIRST_SELECTOR + i) >= 0 && dup2(fd, FIRST_SELECTOR + i + 1) >= 0);
        close(fd);
    }
    pid_t tester = getppid(), churner = fork();
    SUBJECT_CHECK(churner >= 0);
    if (churner > 0) {
        *(pid_t *)userdata = churner;
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    unsigned random = (unsigned)tester;
    for (;;) {
        random = random * 1103515245 + 12345;
        int selector = FIRST_SELECTOR + STEADY + (int)((random >> 16) % 100);
        int fd = random >> 30 == 0 ? socket(AF_UNIX, SOCK_STREAM, 0) : timerfd_create(CLOCK_MONOTONIC, 0);
        if (random >> 28 & 1)
            dup2(fd, selector);
        else
            close(selector);
        close(fd);
    }
}

static void check_steady_part(const struct reseat_listing *listing)
{
    unsigned steady = 0;
    for (size_t i = 0; i < listing->count; i++) {
        const struct reseat_capability *row = &listing->capabilities[i];
        assert_true(i == 0 || row[-1].selector < row->selector);
        if (row->selector < FIRST_SELECTOR || row->selector >= FIRST_SELECTOR + STEADY)
            continue;
        steady++;
        if (row->selector % 2 == 1)
            assert_string_equal(row->object, row[-1].object);
        else if (row->selector > FIRST_SELECTOR)
            assert_string_not_equal(row->object, row[-1].object);
    }
    assert_int_equal(steady, STEADY);
}

static void test_target_that_changes(void **state)
{
    (void)state;
    pid_t *churner = mmap(NULL, sizeof *churner, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(churner, MAP_FAILED);
    pid_t pid = subject_start(set_up_churn, churner);
    for (int round = 0; round < 300; round++) {
        struct reseat_listing *listing = list(churner, 1);
        check_steady_part(listing);
        reseat_listing_free(listing);
    }
    subject_stop(pid);
    munmap(churner, sizeof *churner);
}

/* ---- a process that ends ---- */

#define MANY 2000

static void set_up_many(void *userdata)
{
    (void)userdata;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (int i = 0; i < MANY; i++)
        SUBJECT_CHECK(timerfd_create(CLOCK_MONOTONIC, 0) >= 0);
}

static void kill_after(pid_t pid, long delay_ns)
{
    pid_t killer = fork();
    assert_return_code(killer, errno);
    if (killer > 0)
        return;
    struct timespec delay = {.tv_nsec = delay_ns};
    nanosleep(&delay, NULL);
    kill(pid, SIGKILL);
    _exit(0);
}

/* All or -ESRCH; never a part. */
static void test_target_that_ends(void **state)
{
    (void)state;
    unsigned ended = 0;
    for (long round = 0; round < 40; round++) {
        pid_t pid = subject_start(set_up_many, NULL);
        struct reseat_listing *listing = NULL;
        struct reseat_error *error = NULL;
        kill_after(pid, round * 2500000);
        int r = reseat_list_capabilities(&pid, 1, &listing, &error);
        if (r == 0) {
            assert_true(listing->count >= MANY);
            reseat_listing_free(listing);
        } else {
            assert_int_equal(r, -ESRCH);
            assert_int_equal(error->code, -ESRCH);
            base_error_free(&error);
            ended++;
        }
        subject_stop(pid);
        wait(NULL); /* the killer */
    }
    print_message("%u of 40 ended while they were listed\n", ended);
    assert_true(ended > 0);
}

/* ---- frame ---- */

static int make_book(void **state)
{
    (void)state;
    book = mmap(NULL, sizeof *book, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return book == MAP_FAILED ? -1 : 0;
}

static int close_book(void **state)
{
    (void)state;
    return munmap(book, sizeof *book);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ids_are_identity),
        cmocka_unit_test(test_target_that_changes),
        cmocka_unit_test(test_target_that_ends),
    };
    return cmocka_run_group_tests_name("object: identity", tests, make_book, close_book);
}
