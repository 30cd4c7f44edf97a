/* install and close, through the library, into live processes of all sorts. What is left in a target is
 * checked against a picture of its table: after an install it is the picture before plus what was asked for,
 * after a failure the picture before. */
#include "test_core_server.h"
#include "test_object_subject.h"

#include "native_pd/native_pd.h"
#include "reseat.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

/* ---- pictures ---- */

#define PICTURE_MAX 40000

/* Selectors, their links and their close-on-exec flags; of one process at a time. */
struct picture {
    size_t count;
    struct {
        unsigned selector;
        bool close_on_exec;
        char link[48];
    } slots[PICTURE_MAX];
};

static void take_picture(pid_t pid, struct picture *picture)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    _cleanup_close_ int proc_fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *numbers = NULL;
    assert_int_equal(proc_list_numbers(proc_fd, "fd", &numbers, &picture->count), 0);
    assert_true(picture->count <= PICTURE_MAX);
    for (size_t i = 0; i < picture->count; i++) {
        _cleanup_free_ char *info = NULL;
        char name[32];
        picture->slots[i].selector = (unsigned)numbers[i];
        snprintf(name, sizeof name, "fd/%d", numbers[i]);
        ssize_t length = readlinkat(proc_fd, name, picture->slots[i].link, sizeof picture->slots[i].link - 1);
        picture->slots[i].link[length < 0 ? 0 : length] = '\0';
        snprintf(name, sizeof name, "fdinfo/%d", numbers[i]);
        assert_int_equal(file_read(proc_fd, name, &info, NULL), 0);
        picture->slots[i].close_on_exec = status_number(info, "flags", 8) & O_CLOEXEC;
    }
}

static void check_same_picture(const struct picture *a, const struct picture *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_int_equal(a->slots[i].selector, b->slots[i].selector);
        assert_int_equal(a->slots[i].close_on_exec, b->slots[i].close_on_exec);
        assert_string_equal(a->slots[i].link, b->slots[i].link);
    }
}

static struct picture before, after;

/* ---- targets ---- */

/* 0, 1, 2 and 10 to 12 are eventfds; limits as they are. */
static void set_up_few(void *userdata)
{
    (void)userdata;
    closefrom(0);
    for (int i = 0; i < 3; i++)
        SUBJECT_CHECK(eventfd(0, 0) == i);
    for (int i = 10; i < 13; i++)
        SUBJECT_CHECK(dup2(0, i) == i);
}

/* Our descriptor and the selector hold the same object. */
static void check_holds(struct reseat_pd *pd, unsigned selector, int cap)
{
    struct reseat_pd *self = open_pd(getpid());
    struct reseat_error *error = NULL;
    int order = 5;
    must(reseat_pd_compare(pd, selector, self, (unsigned)cap, &order, &error), &error, "comparing");
    assert_int_equal(order, 0);
    reseat_pd_free(self);
}

static bool has_close_on_exec(pid_t pid, unsigned selector)
{
    take_picture(pid, &after);
    for (size_t i = 0; i < after.count; i++)
        if (after.slots[i].selector == selector)
            return after.slots[i].close_on_exec;
    fail_msg("selector %u is unused", selector);
    return false;
}

/* ---- one ---- */

static void installs_at_any_free_selector(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = open_pd(pid);
    int cap = eventfd(5, 0);
    for (unsigned selector = 3; selector < 40; selector++) {
        struct reseat_error *error = NULL;
        if (selector >= 10 && selector < 13)
            continue;
        bool close_on_exec = selector % 2;
        take_picture(pid, &before);
        must(reseat_pd_install(pd, cap, selector, close_on_exec ? RESEAT_CLOEXEC : 0, &error), &error,
             "installing");
        check_holds(pd, selector, cap);
        assert_int_equal(has_close_on_exec(pid, selector), close_on_exec);
        assert_int_equal(after.count, before.count + 1);
        must(reseat_pd_close(pd, selector, &error), &error, "closing");
        take_picture(pid, &after);
        check_same_picture(&before, &after);
    }
    close(cap);
    reseat_pd_free(pd);
    subject_stop(pid);
}

static void refuses_an_occupied_selector_and_names_it(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    int cap = eventfd(5, 0);
    take_picture(pid, &before);
    assert_int_equal(reseat_pd_install(pd, cap, 11, 0, &error), -EEXIST);
    assert_non_null(strstr(reseat_error_message(error), "eventfd"));
    assert_non_null(strstr(reseat_error_message(error), "11"));
    base_error_free(&error);
    take_picture(pid, &after);
    check_same_picture(&before, &after);
    must(reseat_pd_install(pd, cap, 11, RESEAT_REPLACE | RESEAT_CLOEXEC, &error), &error, "replacing");
    check_holds(pd, 11, cap);
    assert_true(has_close_on_exec(pid, 11));
    assert_int_equal(after.count, before.count);
    must(reseat_pd_install(pd, cap, 13, RESEAT_REPLACE, &error), &error, "replacing what is free");
    check_holds(pd, 13, cap);
    close(cap);
    reseat_pd_free(pd);
    subject_stop(pid);
}

static void says_which_number_or_access_is_not_possible(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct rlimit limit = {50, 60};
    assert_return_code(prlimit(pid, RLIMIT_NOFILE, &limit, NULL), errno);
    struct reseat_pd *pd = open_pd(pid);
    int cap = open("/dev/null", O_RDONLY | O_CLOEXEC), path = open("/dev/null", O_PATH | O_CLOEXEC);
    struct reseat_error *error = NULL;
    take_picture(pid, &before);
    assert_int_equal(reseat_pd_install(pd, cap, 50, 0, NULL), -EBADF);
    assert_int_equal(reseat_pd_install(pd, cap, 0x7fffffff, 0, NULL), -EMFILE);
    assert_int_equal(reseat_pd_install(pd, cap, RESEAT_SELECTOR_END, 0, NULL), -EMFILE);
    assert_int_equal(reseat_pd_install(pd, cap, 49, RESEAT_WRITE, NULL), -EACCES);
    assert_int_equal(reseat_pd_install(pd, cap, 49, RESEAT_READ | RESEAT_WRITE, NULL), -EACCES);
    assert_int_equal(reseat_pd_install(pd, path, 49, RESEAT_READ, NULL), -EACCES);
    assert_int_equal(reseat_pd_install(pd, 9999, 49, 0, NULL), -EINVAL);
    assert_int_equal(reseat_pd_close(pd, 49, &error), -EBADF);
    assert_non_null(strstr(reseat_error_message(error), "49"));
    base_error_free(&error);
    take_picture(pid, &after);
    check_same_picture(&before, &after);
    must(reseat_pd_install(pd, cap, 49, RESEAT_READ, &error), &error, "installing for reading");
    must(reseat_pd_install(pd, path, 48, 0, &error), &error, "installing O_PATH");
    check_holds(pd, 48, path);
    close(cap);
    close(path);
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* ---- many ---- */

#define MANY 3000

static void set_up_limit(void *userdata)
{
    struct rlimit limit;
    set_up_few(userdata);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void installs_many_or_none(void **state)
{
    (void)state;
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    static struct reseat_pd_slot slots[MANY];
    static unsigned selectors[MANY];
    pid_t pid = subject_start(set_up_limit, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    for (unsigned spread = 1; spread < 5; spread += 3) {
        for (unsigned i = 0; i < MANY; i++) {
            selectors[i] = 13 + spread * i;
            slots[i] =
                (struct reseat_pd_slot){selectors[i], eventfd(i, EFD_CLOEXEC), i % 3 ? RESEAT_CLOEXEC : 0};
            assert_true(slots[i].cap >= 0);
        }
        slots[0].selector = selectors[0] = 3; /* where the kernel would put something first */
        slots[1].selector = selectors[1] = 4;
        take_picture(pid, &before);
        slots[MANY - 1].selector = 12; /* occupied */
        assert_int_equal(reseat_pd_install_many(pd, slots, MANY, NULL), -EEXIST);
        slots[MANY - 1].selector = slots[7].selector;
        assert_int_equal(reseat_pd_install_many(pd, slots, MANY, NULL), -EINVAL);
        take_picture(pid, &after);
        check_same_picture(&before, &after);
        slots[MANY - 1].selector = selectors[MANY - 1];
        must(reseat_pd_install_many(pd, slots, MANY, &error), &error, "installing many");
        take_picture(pid, &after);
        assert_int_equal(after.count, before.count + MANY);
        for (unsigned i = 0; i < MANY; i++)
            check_holds(pd, selectors[i], slots[i].cap);
        /* And the other way round. */
        for (unsigned i = 0; i < MANY; i++)
            slots[i] = (struct reseat_pd_slot){selectors[i], slots[MANY - 1 - i].cap, RESEAT_REPLACE};
        must(reseat_pd_install_many(pd, slots, MANY, &error), &error, "replacing many");
        for (unsigned i = 0; i < MANY; i++)
            check_holds(pd, selectors[i], slots[i].cap);
        selectors[5] = 5000 * spread - 1; /* unused */
        take_picture(pid, &after);
        size_t held = after.count;
        assert_int_equal(reseat_pd_close_many(pd, selectors, MANY, NULL), -EBADF);
        take_picture(pid, &after);
        assert_int_equal(after.count, held);
        selectors[5] = slots[5].selector;
        must(reseat_pd_close_many(pd, selectors, MANY, &error), &error, "closing many");
        take_picture(pid, &after);
        check_same_picture(&before, &after);
        for (unsigned i = 0; i < MANY; i++)
            close(slots[i].cap);
    }
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* ---- what is special ---- */

#define FULL_LIMIT 64

/* Every selector is taken but one. */
static void set_up_full(void *userdata)
{
    int *last_free = userdata;
    struct rlimit limit = {FULL_LIMIT, FULL_LIMIT};
    set_up_few(NULL);
    for (int i = 0; i < FULL_LIMIT; i++)
        if (i != *last_free)
            SUBJECT_CHECK(dup2(0, i) == i);
    SUBJECT_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

static void fills_the_last_free_selector(void **state)
{
    (void)state;
    static const int last_ones[] = {3, 30, FULL_LIMIT - 1};
    for (size_t i = 0; i < COUNT_OF(last_ones); i++) {
        int last = last_ones[i];
        pid_t pid = subject_start(set_up_full, &last);
        struct reseat_pd *pd = open_pd(pid);
        struct reseat_error *error = NULL;
        int cap = eventfd(5, 0);
        must(reseat_pd_install(pd, cap, (unsigned)last, RESEAT_CLOEXEC, &error), &error, "the last one");
        check_holds(pd, (unsigned)last, cap);
        assert_true(has_close_on_exec(pid, (unsigned)last));
        assert_int_equal(after.count, FULL_LIMIT);
        /* Now there is none at all. */
        take_picture(pid, &before);
        assert_int_equal(reseat_pd_install(pd, cap, 7, 0, &error), -EEXIST);
        assert_non_null(strstr(reseat_error_message(error), "eventfd"));
        base_error_free(&error);
        take_picture(pid, &after);
        check_same_picture(&before, &after);
        must(reseat_pd_install(pd, cap, 7, RESEAT_REPLACE, &error), &error, "replacing in a full table");
        check_holds(pd, 7, cap);
        const struct reseat_pd_slot three[] = {{8, cap, RESEAT_REPLACE},
                                               {9, cap, RESEAT_REPLACE | RESEAT_CLOEXEC},
                                               {10, cap, 0}};
        take_picture(pid, &before);
        assert_int_equal(reseat_pd_install_many(pd, three, 3, NULL), -EEXIST);
        take_picture(pid, &after);
        check_same_picture(&before, &after);
        must(reseat_pd_install_many(pd, three, 2, &error), &error, "replacing two in a full table");
        check_holds(pd, 9, cap);
        close(cap);
        reseat_pd_free(pd);
        subject_stop(pid);
    }
}

static int make_ring(void)
{
    struct io_uring_params parameters = {0};
    return (int)syscall(SYS_io_uring_setup, 4, &parameters);
}

static void installs_what_cannot_be_sent(void **state)
{
    (void)state;
    int ring = make_ring(), cap = eventfd(0, EFD_CLOEXEC);
    if (ring < 0)
        skip();
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = open_pd(pid);
    struct reseat_error *error = NULL;
    take_picture(pid, &before);
    must(reseat_pd_install(pd, ring, 20, RESEAT_CLOEXEC, &error), &error, "installing a ring");
    check_holds(pd, 20, ring);
    const struct reseat_pd_slot mixed[] = {{30, cap, 0},
                                           {3, ring, 0},
                                           {11, ring, RESEAT_REPLACE},
                                           {12, cap, 0}};
    assert_int_equal(reseat_pd_install_many(pd, mixed, 4, NULL), -EEXIST);
    must(reseat_pd_install_many(pd, mixed, 3, &error), &error, "installing a ring among others");
    check_holds(pd, 3, ring);
    check_holds(pd, 11, ring);
    check_holds(pd, 30, cap);
    static const unsigned put[] = {3, 20, 30};
    must(reseat_pd_close_many(pd, put, 3, &error), &error, "closing a ring");
    take_picture(pid, &after);
    assert_int_equal(after.count, before.count);
    close(ring);
    close(cap);
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* Those of whom it is not clear that they can be handed on: an epoll instance that watches itself being
 * passed, a socket with a socket in flight, a pidfd, a userfaultfd, a memfd, a namespace. */
static void installs_every_kind(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = open_pd(pid);
    int caps[12], count = 0, pair[2], nested[2];
    int epoll = caps[count++] = epoll_create1(0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, nested), 0);
    struct epoll_event event = {.events = EPOLLIN};
    assert_int_equal(epoll_ctl(epoll, EPOLL_CTL_ADD, pair[0], &event), 0);
    char control[CMSG_SPACE(2 * sizeof(int))] = {0};
    struct iovec vector = {"x", 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    *CMSG_FIRSTHDR(&message) = (struct cmsghdr){CMSG_LEN(2 * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), nested, sizeof nested);
    assert_int_equal(sendmsg(pair[1], &message, 0), 1); /* sockets in flight in a socket that is sent */
    caps[count++] = pair[0];
    caps[count++] = sys_pidfd_open(pid);
    caps[count++] = (int)syscall(SYS_memfd_create, "memory", 0);
    caps[count++] = open("/proc/self/ns/mnt", O_RDONLY);
    caps[count++] = open("/", O_PATH);
    caps[count++] = open("/tmp", O_RDONLY | O_DIRECTORY);
    caps[count++] = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    for (int i = 0; i < count; i++) {
        struct reseat_error *error = NULL;
        if (caps[i] < 0)
            continue;
        must(reseat_pd_install(pd, caps[i], 40 + (unsigned)i, 0, &error), &error, "installing");
        check_holds(pd, 40 + (unsigned)i, caps[i]);
        close(caps[i]);
    }
    close(pair[1]);
    close(nested[0]);
    close(nested[1]);
    reseat_pd_free(pd);
    subject_stop(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(installs_at_any_free_selector),
        cmocka_unit_test(refuses_an_occupied_selector_and_names_it),
        cmocka_unit_test(says_which_number_or_access_is_not_possible),
        cmocka_unit_test(installs_many_or_none),
        cmocka_unit_test(fills_the_last_free_selector),
        cmocka_unit_test(installs_what_cannot_be_sent),
        cmocka_unit_test(installs_every_kind),
    };
    int failed = cmocka_run_group_tests_name("install and close", tests, core_start, core_stop);
    if (failed || getuid() != 0)
        return failed;
    /* Once more as an ordinary user. */
    fflush(NULL);
    if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0)
        return 1;
    prctl(PR_SET_DUMPABLE, 1); /* who has changed its user cannot be traced, nor can its children */
    return cmocka_run_group_tests_name("install and close as an ordinary user", tests, core_start, core_stop);
}
