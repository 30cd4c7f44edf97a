/* The seam on Linux: iteration over sparse and dense capability spaces, request, compare, and what is said
 * when the process is not there or not ours. */
#include "test_object_subject.h"

#include "native_pd/linux.h"
#include "reseat.h"

#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>

#define SPARSE_COUNT 5
static const selector_t sparse[SPARSE_COUNT] = {10, 11, 63, 64, 700};

static void set_up_sparse(void *userdata)
{
    (void)userdata;
    int fd = eventfd(7, 0);
    for (size_t i = 0; i < SPARSE_COUNT; i++)
        SUBJECT_CHECK(dup2(fd, (int)sparse[i]) >= 0);
    SUBJECT_CHECK(dup2(eventfd(7, 0), 64) == 64); /* one is another object */
    for (int other = 0; other < 1000; other++) {
        bool is_wanted = false;
        for (size_t i = 0; i < SPARSE_COUNT; i++)
            is_wanted |= other == (int)sparse[i];
        if (!is_wanted)
            close(other);
    }
}

static struct native_pd *open_pd(pid_t pid)
{
    struct native_pd *pd = NULL;
    struct reseat_error *error = NULL;
    if (native_pd_open(pid, &pd, &error) < 0)
        fail_with_error("opening", error);
    assert_int_equal(native_pd_id(pd), pid);
    return pd;
}

static selector_t next(struct native_pd *pd, selector_t from)
{
    selector_t selector = 12345;
    struct reseat_error *error = NULL;
    if (native_pd_next(pd, from, &selector, &error) < 0)
        fail_with_error("next", error);
    return selector;
}

static void test_next_skips_unused(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_sparse, NULL);
    struct native_pd *pd = open_pd(pid);
    selector_t from = 0;
    for (size_t i = 0; i < SPARSE_COUNT; i++) {
        for (; from <= sparse[i]; from++) /* from every number on the way */
            assert_int_equal(next(pd, from), sparse[i]);
    }
    assert_int_equal(next(pd, 701), NATIVE_SELECTOR_END);
    assert_int_equal(next(pd, 2147483583), NATIVE_SELECTOR_END);
    assert_int_equal(next(pd, INT_MAX), NATIVE_SELECTOR_END);
    assert_int_equal(next(pd, NATIVE_SELECTOR_END - 1), NATIVE_SELECTOR_END);
    assert_int_equal(next(pd, 0), sparse[0]); /* and back */
    native_pd_free(&pd);
    subject_stop(pid);
}

static void test_request_hands_out_the_object(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_sparse, NULL);
    struct native_pd *pd = open_pd(pid), *self = open_pd(getpid());
    selector_t selector = 0, following;
    size_t found = 0;
    for (; selector != NATIVE_SELECTOR_END; selector = following) {
        native_cap_t cap;
        int order;
        assert_int_equal(native_pd_request(pd, selector, &cap, &following, NULL), 0);
        if (selector == 0) { /* unused: no error */
            assert_int_equal(cap, NATIVE_CAP_INVALID);
            continue;
        }
        assert_int_equal(selector, sparse[found++]);
        assert_true(fcntl(cap, F_GETFD) & FD_CLOEXEC); /* it is not handed on by accident */
        assert_int_equal(native_pd_compare(pd, selector, self, (selector_t)cap, &order, NULL), 0);
        assert_int_equal(order, 0);
        close(cap);
    }
    assert_int_equal(found, SPARSE_COUNT);
    native_pd_free(&pd);
    native_pd_free(&self);
    subject_stop(pid);
}

static void test_compare_is_identity_and_order(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_sparse, NULL);
    struct native_pd *pd = open_pd(pid);
    int order, reverse;
    assert_int_equal(native_pd_compare(pd, 10, pd, 700, &order, NULL), 0);
    assert_int_equal(order, 0);
    assert_int_equal(native_pd_compare(pd, 10, pd, 64, &order, NULL), 0);
    assert_int_equal(native_pd_compare(pd, 64, pd, 10, &reverse, NULL), 0);
    assert_true(order == 1 || order == -1);
    assert_int_equal(order, -reverse);
    assert_int_equal(native_pd_compare(pd, 10, pd, 12, &order, NULL), -EBADF);
    native_pd_free(&pd);
    subject_stop(pid);
}

static void test_everything_says_that_it_has_ended(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_sparse, NULL);
    struct native_pd *pd = open_pd(pid);
    kill(pid, SIGKILL);
    siginfo_t info;
    assert_return_code(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), errno);
    for (int reaped = 0; reaped < 2; reaped++) { /* as a zombie, and after that */
        selector_t selector;
        native_cap_t cap;
        int order;
        assert_int_equal(native_pd_next(pd, 0, &selector, NULL), -ESRCH);
        assert_int_equal(native_pd_request(pd, 10, &cap, NULL, NULL), -ESRCH);
        assert_int_equal(native_pd_request(pd, 10, &cap, &selector, NULL), -ESRCH);
        assert_int_equal(native_pd_compare(pd, 10, pd, 11, &order, NULL), -ESRCH);
        waitpid(pid, NULL, 0);
    }
    native_pd_free(&pd);
}

/* A process of root's, looked at by nobody; who is not root looks at init. */
static void test_missing_permission_is_explained(void **state)
{
    (void)state;
    pid_t pid = getuid() == 0 ? subject_start(set_up_sparse, NULL) : 1;
    pid_t looker = fork();
    assert_return_code(looker, errno);
    if (looker == 0) {
        struct native_pd *pd;
        struct reseat_error *error = NULL;
        SUBJECT_CHECK(getuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
        SUBJECT_CHECK(native_pd_open(pid, &pd, &error) == -EPERM);
        SUBJECT_CHECK(strstr(error->message, "CAP_SYS_PTRACE") && strstr(error->message, "user 0"));
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(looker, &status, 0), looker);
    assert_int_equal(status, 0);
    if (pid != 1)
        subject_stop(pid);
}

static void test_numbers_that_are_no_process(void **state)
{
    (void)state;
    struct native_pd *pd = NULL;
    struct reseat_error *error = NULL;
    static const pid_t numbers[] = {0, -1, INT_MIN, INT_MAX};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        assert_int_equal(native_pd_open(numbers[i], &pd, &error), -ESRCH);
        assert_null(pd);
        assert_non_null(strstr(error->message, "no process"));
    }
    base_error_free(&error);
}

/* ---- identities in bulk ---- */

/* Of a kind that has no number of its own, and enough of them that the listing asks for addresses. */
#define MANY_OBJECTS   900
#define FIRST_OF_MANY  200
#define SECOND_OF_MANY (FIRST_OF_MANY + MANY_OBJECTS)

static void set_up_many(void *userdata)
{
    (void)userdata;
    struct rlimit limit = {4096, 4096};
    SUBJECT_CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    for (int i = 0; i < MANY_OBJECTS; i++) {
        int fd = epoll_create1(0);
        SUBJECT_CHECK(fd >= 0 && dup2(fd, FIRST_OF_MANY + i) >= 0);
        /* backwards, so that neighbours are never the same */
        SUBJECT_CHECK(dup2(fd, SECOND_OF_MANY + MANY_OBJECTS - 1 - i) >= 0);
        close(fd);
    }
}

static selector_t alias_of(selector_t selector)
{
    return FIRST_OF_MANY + SECOND_OF_MANY + MANY_OBJECTS - 1 - selector;
}

static void test_identities_are_what_the_kernel_compares(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_many, NULL);
    struct native_pd *pd = open_pd(pid);
    struct native_identity *identities = NULL;
    static selector_t selectors[4096];
    size_t count = 0, listed = 0;
    struct reseat_error *error = NULL;
    int r = native_pd_list_identities(pd, &identities, &count, &error);
    if (r == -EOPNOTSUPP) {
        assert_non_null(strstr(error->message, "BPF"));
        base_error_free(&error);
        native_pd_free(&pd);
        subject_stop(pid);
        skip();
    }
    assert_return_code(r, -r);
    assert_return_code(native_pd_list(pd, 0, selectors, COUNT_OF(selectors), &listed, NULL), 0);
    assert_int_equal(count, listed);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(identities[i].selector, selectors[i]);
        for (size_t j = i < 100 ? 0 : i - 100; j < i; j++) {
            int order = 7;
            assert_return_code(native_pd_compare(pd, identities[i].selector, pd, identities[j].selector,
                                                 &order, NULL),
                               0);
            assert_int_equal(order == 0, identities[i].object == identities[j].object);
        }
    }
    free(identities);
    native_pd_free(&pd);
    subject_stop(pid);
}

/* Two of each, found again in a listing that is long enough to go by addresses where that is permitted. */
static void test_a_long_listing_knows_aliases(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_many, NULL);
    struct reseat_listing *listing = NULL;
    static const char *object_at[SECOND_OF_MANY + MANY_OBJECTS];
    assert_return_code(reseat_list_capabilities(&pid, 1, &listing, NULL), 0);
    for (size_t i = 0; i < listing->count; i++)
        if (listing->capabilities[i].selector < COUNT_OF(object_at))
            object_at[listing->capabilities[i].selector] = listing->capabilities[i].object;
    for (selector_t selector = FIRST_OF_MANY; selector < SECOND_OF_MANY; selector++) {
        assert_string_equal(object_at[selector], object_at[alias_of(selector)]);
        if (selector > FIRST_OF_MANY)
            assert_string_not_equal(object_at[selector], object_at[selector - 1]);
    }
    reseat_listing_free(listing);
    subject_stop(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_next_skips_unused),
        cmocka_unit_test(test_request_hands_out_the_object),
        cmocka_unit_test(test_compare_is_identity_and_order),
        cmocka_unit_test(test_identities_are_what_the_kernel_compares),
        cmocka_unit_test(test_a_long_listing_knows_aliases),
        cmocka_unit_test(test_everything_says_that_it_has_ended),
        cmocka_unit_test(test_missing_permission_is_explained),
        cmocka_unit_test(test_numbers_that_are_no_process),
    };
    return cmocka_run_group_tests_name("native PD on Linux", tests, NULL, NULL);
}
