/* What there is only through core: sessions that are passed on and narrowed, checkpoint and restore without a
 * directory; and capabilities that do not go through a socket. */
#define THROUGH_CORE
#include "test_core_server.h"
#include "test_object_subject.h"

#include "lib/pd_remote.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static struct reseat_pd *connect_to(pid_t pid)
{
    struct reseat_pd *pd = NULL;
    struct reseat_error *error = NULL;
    if (reseat_pd_connect(core_path, pid, &pd, &error) < 0)
        fail_with_error("connecting", error);
    return pd;
}

/* A pointer to the error: it is set after the other arguments have been evaluated, or before. */
static int make_ring(void)
{
    struct io_uring_params parameters = {0};
    return (int)syscall(SYS_io_uring_setup, 4, &parameters);
}

static void set_up_few(void *userdata)
{
    (void)userdata;
    closefrom(0);
    for (int i = 0; i < 3; i++)
        SUBJECT_CHECK(eventfd(0, 0) == i);
}

static void set_up_ring(void *userdata)
{
    set_up_few(userdata);
    int ring = make_ring();
    SUBJECT_CHECK(ring < 0 || dup2(ring, 7) == 7);
    close(ring);
}

static uint64_t inode_of(int fd)
{
    struct stat status;
    assert_int_equal(fstat(fd, &status), 0);
    return status.st_ino;
}

/* ---- errors ---- */

static void says_what_is_wrong_with_the_way_to_core(void **state)
{
    (void)state;
    struct reseat_pd *pd = NULL;
    struct reseat_error *error = NULL;
    assert_int_equal(reseat_pd_connect("/nowhere/at/all", getpid(), &pd, &error), -ENOENT);
    assert_non_null(strstr(reseat_error_message(error), "is core running there"));
    assert_int_equal(reseat_pd_connect(core_path, 0, &pd, &error), -ESRCH);
    assert_int_equal(reseat_pd_connect(core_path, INT32_MAX, &pd, &error), -ESRCH);
    assert_non_null(strstr(reseat_error_message(error), "no process"));
    int ends[2];
    assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), errno);
    close(ends[1]);
    assert_int_equal(reseat_pd_adopt(ends[0], &pd, &error), -EPIPE);
    close(ends[0]);
    assert_null(pd);
    base_error_free(&error);
}

/* Somebody who pretends to be core. */
static void believes_no_answer(void **state)
{
    (void)state;
    static const struct {
        struct protocol_head head;
        size_t length;
    } answers[] = {
        {{PROTOCOL_VERSION, PROTOCOL_INFO, 1, 0, 0, 0, 0}, sizeof(struct protocol_head)},
        {{PROTOCOL_VERSION, PROTOCOL_INFO, 1, 0, 0, 1, 0}, sizeof(struct protocol_head) + 16},
        {{PROTOCOL_VERSION, PROTOCOL_LIST, 1, 0, 0, 0, 0}, sizeof(struct protocol_head) + 8},
        {{PROTOCOL_VERSION + 1, PROTOCOL_INFO, 1, 0, 0, 0, 0}, sizeof(struct protocol_head) + 16},
        {{PROTOCOL_VERSION, PROTOCOL_INFO, 1, 7, 0, 0, 0}, sizeof(struct protocol_head) + 16},
        {{PROTOCOL_VERSION, PROTOCOL_INFO, 1, -5, 0, 99, 0}, sizeof(struct protocol_head) + 16},
        {{PROTOCOL_VERSION, PROTOCOL_INFO, 1, 0, 0, 0, 1}, sizeof(struct protocol_head) + 16},
        {{0}, 3},
    };
    for (size_t i = 0; i < COUNT_OF(answers); i++) {
        struct reseat_pd *pd = NULL;
        struct reseat_error *error = NULL;
        uint8_t bytes[64] = {0};
        int ends[2];
        assert_return_code(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), errno);
        memcpy(bytes, &answers[i].head, sizeof answers[i].head);
        assert_int_equal(send(ends[1], bytes, answers[i].length, 0), answers[i].length);
        assert_true(reseat_pd_adopt(ends[0], &pd, &error) < 0);
        assert_null(pd);
        assert_non_null(error);
        base_error_free(&error);
        close(ends[0]);
        close(ends[1]);
    }
}

/* ---- sessions ---- */

static void a_session_is_narrowed_and_passed_on(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = connect_to(pid), *local = NULL, *narrowed = NULL, *adopted = NULL;
    struct reseat_error *error = NULL;
    unsigned selectors[8], next;
    size_t count;
    const struct reseat_pd_range range = {1, 40};
    const struct reseat_pd_limits limits = {.rights = RESEAT_MAY_LIST | RESEAT_MAY_CLOSE,
                                            .ranges = &range,
                                            .range_count = 1};
    assert_int_equal(reseat_pd_pid(pd), pid);
    must(reseat_pd_narrow(pd, &limits, &narrowed, &error), &error, "narrowing");
    must(reseat_pd_adopt(fcntl(reseat_pd_session(narrowed), F_DUPFD_CLOEXEC, 0), &adopted, &error), &error,
         "taking over");
    reseat_pd_free(narrowed);
    assert_int_equal(reseat_pd_pid(adopted), pid);
    must(reseat_pd_list(adopted, 0, selectors, COUNT_OF(selectors), &count, &next, &error), &error,
         "listing");
    assert_int_equal(count, 2);
    assert_int_equal(selectors[0], 1);
    assert_int_equal(next, RESEAT_SELECTOR_END);
    assert_int_equal(reseat_pd_close(adopted, 0, NULL), -EPERM);
    assert_int_equal(reseat_pd_install(adopted, 0, 30, 0, NULL), -EPERM);
    must(reseat_pd_close(adopted, 1, &error), &error, "closing");
    reseat_pd_free(adopted);
    must(reseat_pd_open(pid, &local, &error), &error, "opening");
    assert_int_equal(reseat_pd_session(local), -1);
    assert_int_equal(reseat_pd_narrow(local, &limits, &narrowed, NULL), -EOPNOTSUPP);
    int order;
    assert_int_equal(reseat_pd_compare(local, 0, pd, 0, &order, NULL), -EINVAL);
    reseat_pd_free(local);
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* ---- what no socket takes ---- */

static void a_ring_is_requested_and_installed(void **state)
{
    (void)state;
    int ring = make_ring();
    if (ring < 0)
        skip();
    pid_t pid = subject_start(set_up_ring, NULL);
    struct reseat_pd *pd = connect_to(pid), *self = connect_to(getpid());
    struct reseat_error *error = NULL;
    struct reseat_pd_slot slots[8];
    int cap = -1, order;
    unsigned next;
    size_t count;
    must(reseat_pd_request(pd, 7, &cap, &next, &error), &error, "requesting a ring");
    assert_true(cap >= 0 && (fcntl(cap, F_GETFD) & FD_CLOEXEC));
    must(reseat_pd_compare(pd, 7, self, (unsigned)cap, &order, &error), &error, "comparing");
    assert_int_equal(order, 0);
    must(reseat_pd_request_many(pd, 0, slots, COUNT_OF(slots), &count, &next, &error), &error,
         "requesting a ring among others");
    assert_int_equal(count, 4);
    must(reseat_pd_compare(pd, 7, self, (unsigned)slots[3].cap, &order, &error), &error, "comparing");
    assert_int_equal(order, 0);
    must(reseat_pd_install(pd, ring, 9, 0, &error), &error, "installing a ring");
    must(reseat_pd_compare(pd, 9, self, (unsigned)ring, &order, &error), &error, "comparing");
    assert_int_equal(order, 0);
    for (size_t i = 0; i < count; i++)
        close(slots[i].cap);
    close(cap);
    close(ring);
    reseat_pd_free(pd);
    reseat_pd_free(self);
    subject_stop(pid);
}

/* By number only from, and to, the process that asks. */
static void nobody_else_is_reached_for(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = connect_to(pid);
    _cleanup_close_ int other = sys_pidfd_open(pid), self = sys_pidfd_open(getpid());
    const struct protocol_fetch fixed = {.selector = 0, .number = 1};
    const struct protocol_slot slot = {20, PROTOCOL_BY_NUMBER | 1 << PROTOCOL_NUMBER_SHIFT};
    const int wrong[] = {other, 0, reseat_pd_session(pd)};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct packet packet = {.cap_count = 0};
        struct protocol_view reply;
        struct remote_request fetch = {.head = {.operation = PROTOCOL_FETCH, .capabilities = 1},
                                       .fixed = &fixed,
                                       .caps = &wrong[i]};
        struct remote_request install = {.head = {.operation = PROTOCOL_INSTALL,
                                                  .count = 1,
                                                  .capabilities = 1},
                                         .items = &slot,
                                         .caps = &wrong[i]};
        assert_int_equal(remote_ask(remote_of(pd), &fetch, &packet, &reply, NULL), -EPERM);
        assert_int_equal(remote_ask(remote_of(pd), &install, &packet, &reply, NULL), -EPERM);
    }
    reseat_pd_free(pd);
    subject_stop(pid);
}

/* ---- checkpoint ---- */

static void count_note(void *userdata, const char *sentence)
{
    assert_true(strlen(sentence) > 0);
    ++*(int *)userdata;
}

static void a_checkpoint_is_a_session(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *pd = connect_to(pid), *twin = NULL, *back = NULL, *kept = NULL;
    struct reseat_error *error = NULL;
    int notes = 0, object = eventfd(3, EFD_CLOEXEC);
    struct reseat_checkpoint_result taken;
    struct reseat_restore_result put;
    const struct reseat_checkpoint_options options = {.note = count_note, .userdata = &notes};
    must(reseat_pd_install(pd, object, 9, 0, &error), &error, "installing");
    must(reseat_pd_checkpoint(pd, &options, &taken, &twin, &error), &error, "checkpoint");
    assert_int_equal(taken.pid, pid);
    assert_int_equal(taken.capabilities, 4);
    assert_int_equal(reseat_pd_pid(twin), taken.twin);
    assert_int_equal(reseat_pd_checkpoint(pd, &options, &taken, &twin, NULL), -ESRCH);
    waitpid(pid, NULL, 0); /* the one that was killed */
    const struct reseat_slot slot = {.selector = 9, .fd = object};
    const struct reseat_restore_options how = {.flags = geteuid() == 0 ? RESEAT_KEEP
                                                                       : RESEAT_KEEP | RESEAT_NEW_PID,
                                               .wait_ns = 5000000000U,
                                               .slots = &slot,
                                               .slot_count = 1};
    must(reseat_pd_restore(twin, &how, &put, &back, &kept, &error), &error, "restore");
    assert_int_equal(put.pid, reseat_pd_pid(back));
    assert_int_equal(put.slots, put.same);
    int cap = -1;
    must(reseat_pd_request(back, 9, &cap, NULL, &error), &error, "requesting");
    assert_int_equal(inode_of(cap), inode_of(object));
    close(cap);
    assert_int_equal(reseat_pd_drop(back, NULL), -EINVAL); /* not a twin */
    must(reseat_pd_drop(kept, &error), &error, "dropping");
    reseat_pd_free(kept);
    reseat_pd_free(twin);
    reseat_pd_free(back);
    reseat_pd_free(pd);
    close(put.pidfd);
    close(object);
    kill(put.pid, SIGKILL);
    waitpid(put.pid, NULL, 0);
}

static void checkpoints_of_local_pds_are_others(void **state)
{
    (void)state;
    pid_t pid = subject_start(set_up_few, NULL);
    struct reseat_pd *local = NULL;
    struct reseat_checkpoint_result taken;
    struct reseat_restore_result put;
    assert_int_equal(reseat_pd_open(pid, &local, NULL), 0);
    assert_int_equal(reseat_pd_checkpoint(local, NULL, &taken, NULL, NULL), -EOPNOTSUPP);
    assert_int_equal(reseat_pd_checkpoint_stream(local, 1, NULL, &taken, NULL), -EOPNOTSUPP);
    assert_int_equal(reseat_pd_restore(local, NULL, &put, NULL, NULL, NULL), -EOPNOTSUPP);
    assert_int_equal(reseat_pd_drop(local, NULL), -EOPNOTSUPP);
    reseat_pd_free(local);
    subject_stop(pid);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_what_is_wrong_with_the_way_to_core),
        cmocka_unit_test(believes_no_answer),
        cmocka_unit_test(a_session_is_narrowed_and_passed_on),
        cmocka_unit_test(a_ring_is_requested_and_installed),
        cmocka_unit_test(nobody_else_is_reached_for),
        cmocka_unit_test(a_checkpoint_is_a_session),
        cmocka_unit_test(checkpoints_of_local_pds_are_others),
    };
    return cmocka_run_group_tests_name("PDs through core", tests, core_start, core_stop);
}
