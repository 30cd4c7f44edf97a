/* The durable half of the object room: what unix sockets tell of their peers (SO_PEERCRED), and peers that
 * have gone before they were accepted. See test_object_durable.c. */
#include "test_object_durable.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

static struct ucred *noted; /* by selector; shared with the processes that set up and look */

static void note(int selector)
{
    socklen_t length = sizeof *noted;
    MUST(getsockopt(selector, SOL_SOCKET, SO_PEERCRED, &noted[selector], &length));
}

/* In a child that shares the table, and has another user, or only another number. */
static void in_a_child(void (*make)(void), uid_t user)
{
    pid_t pid = (pid_t)MUST(syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0));
    if (pid == 0) {
        MUST(syscall(SYS_setresgid, user + 1, user + 1, user + 1));
        MUST(syscall(SYS_setresuid, user, user, user));
        make();
        _exit(0);
    }
    MUST(waitpid(pid, NULL, 0));
}

static void make_pair(void)
{
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends));
    put_at(20, ends[0]);
    put_at(21, ends[1]);
}

static void make_listener(void)
{
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    put_at(22, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(bind(22, (struct sockaddr *)&any, sizeof(sa_family_t)));
    MUST(listen(22, 3));
}

static void connect_it(void)
{
    struct sockaddr_un address;
    socklen_t length = sizeof address;
    put_at(23, MUST(socket(AF_UNIX, SOCK_STREAM, 0)));
    MUST(getsockname(22, (struct sockaddr *)&address, &length));
    MUST(connect(23, (struct sockaddr *)&address, length));
}

static void set_up_peers(void)
{
    in_a_child(make_pair, 1234);
    in_a_child(make_listener, 2345);
    connect_it();
    put_at(24, MUST(accept(22, NULL, NULL)));
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends));
    put_at(25, ends[0]);
    put_at(26, ends[1]);
    for (int selector = 20; selector <= 26; selector++)
        note(selector);
    EXPECT(noted[20].uid == 1234 && noted[21].gid == 1235 && noted[20].pid != getpid());
    EXPECT(noted[22].uid == 2345 && noted[23].uid == 2345 && noted[24].pid == getpid());
    EXPECT(noted[25].pid == getpid());
}

static void look_at_peers(void)
{
    for (int selector = 20; selector <= 26; selector++) {
        struct ucred peer;
        socklen_t length = sizeof peer;
        MUST(getsockopt(selector, SOL_SOCKET, SO_PEERCRED, &peer, &length));
        EXPECT(memcmp(&peer, &noted[selector], sizeof peer) == 0);
    }
    /* They still talk. */
    char byte = 0;
    MUST(write(20, "a", 1));
    EXPECT(read(21, &byte, 1) == 1 && byte == 'a');
    MUST(write(23, "b", 1));
    EXPECT(read(24, &byte, 1) == 1 && byte == 'b');
    connect_it();
    EXPECT(accept(22, NULL, NULL) >= 0);
}

static void test_peers(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip(); /* only root may be others */
    noted = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(noted, MAP_FAILED);
    expect_recreated(set_up_peers, look_at_peers);
}

/* ---- gone before they were accepted ---- */

static void set_up_gone(void)
{
    make_listener();
    connect_it();
    MUST(write(23, "lost", 4));
    close(23);
    connect_it();
}

static void look_at_gone(void)
{
    char byte;
    int first = MUST(accept(22, NULL, NULL)), second = MUST(accept(22, NULL, NULL));
    EXPECT(read(first, &byte, 1) == 0);
    MUST(write(23, "c", 1));
    EXPECT(read(second, &byte, 1) == 1 && byte == 'c');
}

static void test_gone(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    struct object_options options = {.allows_degraded = true};
    capture_subject(set_up_gone, &snapshot);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 22), OBJECT_DEGRADED);
    if (object_recreate(&snapshot, &options, &set, &error) < 0)
        fail_with_error("recreate", error);
    run_look(&snapshot, &set, look_at_gone);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_peers),
        cmocka_unit_test(test_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
