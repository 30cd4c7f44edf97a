/* The durable half of the object room: terminals. See test_object_durable.c. */
#include "test_object_durable.h"

#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

static void set_up_pair(void)
{
    int master, slave;
    MUST(openpty(&master, &slave, NULL, NULL, NULL));
    put_at(20, master);
    put_at(21, slave);
    char path[64];
    MUST(ptsname_r(20, path, sizeof path) == 0 ? 0 : -1);
    put_at(22, MUST(open(path, O_RDWR | O_NOCTTY | O_NONBLOCK)));
    struct winsize size = {.ws_row = 33, .ws_col = 77};
    MUST(ioctl(21, TIOCSWINSZ, &size));
    struct termios modes;
    MUST(tcgetattr(21, &modes));
    cfmakeraw(&modes);
    modes.c_cc[VINTR] = 7;
    MUST(tcsetattr(21, TCSANOW, &modes));
    if (geteuid() == 0)
        MUST(fchown(21, 1234, 5678));
    MUST(fchmod(21, 0604));
    /* A master whose slave nobody has opened yet, and one whose slave was closed. */
    put_at(23, MUST(posix_openpt(O_RDWR | O_NOCTTY)));
    MUST(openpty(&master, &slave, NULL, NULL, NULL));
    put_at(24, master);
    close(slave);
}

static void look_at_pair(void)
{
    char text[8] = "";
    struct winsize size;
    struct termios modes;
    struct stat stat;
    EXPECT(fstat(21, &stat) == 0 && (stat.st_mode & 07777) == 0604);
    EXPECT(geteuid() != 0 || (stat.st_uid == 1234 && stat.st_gid == 5678));
    EXPECT(ioctl(21, TIOCGWINSZ, &size) == 0 && size.ws_row == 33 && size.ws_col == 77);
    EXPECT(tcgetattr(22, &modes) == 0 && !(modes.c_lflag & ICANON) && modes.c_cc[VINTR] == 7);
    EXPECT(fcntl(22, F_GETFL) & O_NONBLOCK && !(fcntl(21, F_GETFL) & O_NONBLOCK));
    MUST(write(20, "down", 4));
    EXPECT(read(21, text, sizeof text) == 4 && memcmp(text, "down", 4) == 0);
    MUST(write(22, "up", 2));
    EXPECT(read(20, text, sizeof text) == 2 && memcmp(text, "up", 2) == 0);
    int locked = 0;
    EXPECT(ioctl(23, TIOCGPTLCK, &locked) == 0 && locked);
    EXPECT(read(24, text, 1) < 0 && errno == EIO);
}

static void test_pair(void **state)
{
    (void)state;
    expect_recreated(set_up_pair, look_at_pair);
}

/* ---- the other half is outside ---- */

static int outside_slave;

static void set_up_slave(void *userdata)
{
    (void)userdata;
    int slave = MUST(fcntl(outside_slave, F_DUPFD, 300));
    close_range(3, 299, 0);
    close_range((unsigned)slave + 1, ~0U, 0);
    MUST(dup2(slave, 20));
    close(slave);
}

static void capture_terminal_of(void (*set_up)(void *userdata), struct snapshot *snapshot)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_error_ struct reseat_error *error = NULL;
    pid_t pid = subject_start(set_up, NULL);
    snapshot->process.pid = (uint32_t)pid;
    if (native_pd_open(pid, &pd, &error) < 0 || capture_held(pd, snapshot, &error) < 0)
        fail_with_error("capture", error);
    subject_stop(pid);
}

static void test_slave(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    struct object_options options = {.allows_lost = true}; /* what the test itself runs on does not matter */
    int master;
    assert_return_code(openpty(&master, &outside_slave, NULL, NULL, NULL), errno);
    capture_terminal_of(set_up_slave, &snapshot);

    _cleanup_(object_verdicts_free) struct object_verdicts same = {0}, gone = {0};
    assert_int_equal(object_judge_cold(&snapshot, NULL, &same, &error), 0);
    assert_int_equal(fate_of(&same, 20), OBJECT_RECREATED);
    {
        _cleanup_(object_set_end) struct object_set set = {0};
        if (recreate_held(&snapshot, &options, &set, &error) < 0)
            fail_with_error("recreate", error);
        assert_int_equal(write(set.caps[object_at(&snapshot, 20)], "same", 4), 4);
        char text[8] = "";
        assert_int_equal(read(master, text, sizeof text), 4);
        assert_string_equal(text, "same");
    }
    close(master);
    close(outside_slave);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &gone, &error), 0);
    assert_int_equal(fate_of(&gone, 20), OBJECT_DEGRADED);
    _cleanup_(object_set_end) struct object_set set = {0};
    if (recreate_held(&snapshot, &options, &set, &error) < 0)
        fail_with_error("recreate", error);
    char byte;
    assert_int_equal(read(set.caps[object_at(&snapshot, 20)], &byte, 1), 0);
    assert_true(write(set.caps[object_at(&snapshot, 20)], "x", 1) < 0 && errno == EIO);
}

/* ---- the controlling terminal ---- */

static void set_up_controlled(void *userdata)
{
    set_up_slave(userdata);
    MUST(setsid());
    MUST(ioctl(20, TIOCSCTTY, 0));
    put_at(21, MUST(open("/dev/tty", O_RDWR | O_NONBLOCK)));
    close(20);
}

static void test_dev_tty(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    struct object_options options = {.allows_lost = true};
    int master;
    assert_return_code(openpty(&master, &outside_slave, NULL, NULL, NULL), errno);
    capture_terminal_of(set_up_controlled, &snapshot);

    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 21), OBJECT_RECREATED);
    _cleanup_(object_set_end) struct object_set set = {0};
    if (object_recreate(&snapshot, &options, &set, &error) < 0)
        fail_with_error("recreate", error);
    native_cap_t cap = set.caps[object_at(&snapshot, 21)];
    assert_int_equal(write(cap, "here", 4), 4);
    char text[8] = "";
    assert_int_equal(read(master, text, sizeof text), 4);
    assert_string_equal(text, "here");
    assert_true(fcntl(cap, F_GETFL) & O_NONBLOCK);
    close(master);
    close(outside_slave);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pair),
        cmocka_unit_test(test_slave),
        cmocka_unit_test(test_dev_tty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
