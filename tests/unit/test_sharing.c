/* Through the public header alone: who shares what with whom, and what a restore would bring back. Holders
 * are told from those that have the same inode but another object, many at once, also while they come and go.
 */
#include "test_object_subject.h"

#include "reseat.h"

#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#define MANY 300
#define HIGH 600

/* At HIGH and up: eventfds that several have; below: such that only one has. */
static void set_up_many(void *userdata)
{
    const int *shared = userdata;
    for (int i = 0; i < MANY; i++)
        SUBJECT_CHECK(dup2(shared[i], HIGH + i) >= 0);
    for (int i = 3; i < HIGH; i++)
        close(i);
    for (int i = 0; i < MANY; i++)
        SUBJECT_CHECK(eventfd(0, 0) >= 0);
}

static struct reseat_listing *list_sharing(pid_t pid)
{
    struct reseat_listing *listing = NULL;
    struct reseat_error *error = NULL;
    if (reseat_list_sharing(&pid, 1, &listing, &error) < 0)
        fail_with_error("listing", error);
    return listing;
}

static bool is_held_by(const struct reseat_capability *row, pid_t pid, unsigned selector)
{
    for (size_t i = 0; i < row->holder_count; i++)
        if (row->holders[i].pid == pid && row->holders[i].selector == selector)
            return true;
    return false;
}

static void test_many_holders(void **state)
{
    (void)state;
    int shared[MANY];
    for (int i = 0; i < MANY; i++)
        shared[i] = eventfd(0, EFD_CLOEXEC);
    pid_t one = subject_start(set_up_many, shared), other = subject_start(set_up_many, shared);
    struct reseat_listing *listing = list_sharing(one);
    size_t checked = 0;
    for (size_t i = 0; i < listing->count; i++) {
        const struct reseat_capability *row = &listing->capabilities[i];
        bool is_shared = row->selector >= HIGH;
        if (strcmp(row->kind, "eventfd") != 0)
            continue;
        checked++;
        assert_int_equal(row->holder_count, is_shared ? 1 : 0); /* we do not count ourselves */
        if (is_shared)
            assert_true(is_held_by(row, other, row->selector));
    }
    assert_int_equal(checked, 2 * MANY);
    reseat_listing_free(listing);
    subject_stop(one);
    subject_stop(other);
    for (int i = 0; i < MANY; i++)
        close(shared[i]);
}

/* Processes that come and go, and hold what is listed, while it is looked for. */
static void test_holders_that_come_and_go(void **state)
{
    (void)state;
    int shared[MANY];
    for (int i = 0; i < MANY; i++)
        shared[i] = eventfd(0, 0);
    pid_t target = subject_start(set_up_many, shared), churner = fork();
    if (churner == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            pid_t child = fork();
            if (child == 0) {
                usleep(2000);
                _exit(0);
            }
            usleep(500);
            while (waitpid(-1, NULL, WNOHANG) > 0)
                ;
        }
    }
    for (int round = 0; round < 20; round++) {
        struct reseat_listing *listing = list_sharing(target);
        for (size_t i = 0; i < listing->count; i++) {
            const struct reseat_capability *row = &listing->capabilities[i];
            if (row->selector >= HIGH)
                assert_true(is_held_by(row, churner, (unsigned)shared[row->selector - HIGH]));
            else if (strcmp(row->kind, "eventfd") == 0)
                assert_int_equal(row->holder_count, 0);
        }
        reseat_listing_free(listing);
    }
    kill(churner, SIGKILL);
    waitpid(churner, NULL, 0);
    subject_stop(target);
    for (int i = 0; i < MANY; i++)
        close(shared[i]);
}

static void set_up_pidfd(void *userdata)
{
    (void)userdata;
    int own = sys_pidfd_open(getpid());
    SUBJECT_CHECK(own >= 0 && dup2(own, 20) == 20 && close(own) == 0);
}

static const struct reseat_plan_row *row_of(const struct reseat_plan *plan, unsigned selector)
{
    for (size_t i = 0; i < plan->row_count; i++)
        if (plan->rows[i].selector == selector)
            return &plan->rows[i];
    fail_msg("no row of selector %u", selector);
    return NULL;
}

static void test_plan(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_pidfd, NULL);
    struct reseat_plan *plan = NULL;
    struct reseat_error *error = NULL;
    if (reseat_plan(pid, 0, &plan, &error) < 0)
        fail_with_error("planning", error);
    assert_null(plan->live_blocked);
    assert_int_equal(row_of(plan, 20)->live.fate, RESEAT_DEGRADED);
    assert_non_null(strstr(row_of(plan, 20)->live.why, "pidfd on the process itself"));
    assert_string_equal(reseat_fate_name(row_of(plan, 1)->live.fate), "kept");

    const struct reseat_slot twice[] = {{.selector = 20, .policy = RESEAT_SLOT_FAIL},
                                        {.selector = 20, .policy = RESEAT_SLOT_NULL}};
    assert_int_equal(reseat_plan_slots(plan, twice, 2, &error), -EINVAL);
    reseat_error_free(error);
    error = NULL;
    const struct reseat_slot unused = {.selector = 99, .policy = RESEAT_SLOT_KEEP};
    assert_int_equal(reseat_plan_slots(plan, &unused, 1, &error), -EBADF);
    reseat_error_free(error);
    assert_null(plan->live_blocked);
    assert_int_equal(reseat_plan_slots(plan, twice, 1, NULL), 0);
    assert_non_null(plan->live_blocked);
    assert_int_equal(reseat_plan_slots(plan, twice + 1, 1, NULL), 0);
    assert_int_equal(row_of(plan, 20)->live.fate, RESEAT_REPLACED);
    reseat_plan_free(plan);
    subject_stop(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_holders),
        cmocka_unit_test(test_holders_that_come_and_go),
        cmocka_unit_test(test_plan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
