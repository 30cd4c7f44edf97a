/* The durable half of the object room: a child sets up a capability space, it is captured, the child ends,
 * the objects are made anew here, and a second child, which gets them at the old selectors, looks at them
 * from the inside. So every test has two functions that do not know each other but for the selectors. */
#include "test_object_durable.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

/* ---- files ---- */

static void set_up_files(void)
{
    int fd = MUST(open(test_path("plain"), O_CREAT | O_RDWR, 0600));
    MUST(write(fd, "0123456789", 10));
    MUST(lseek(fd, 4, SEEK_SET));
    put_at(20, fd);
    MUST(dup2(20, 21));
    put_at(22, MUST(open(test_path("plain"), O_RDONLY | O_NONBLOCK)));
    put_at(23, MUST(open(test_directory(), O_DIRECTORY | O_RDONLY)));
    put_at(24, MUST(open(test_path("plain"), O_PATH)));
    put_at(25, MUST(open("/dev/null", O_RDWR)));
    MUST(fcntl(25, F_SETFD, FD_CLOEXEC));
    put_at(26, MUST(open(test_path("log"), O_CREAT | O_WRONLY | O_APPEND, 0600)));
    MUST(flock(20, LOCK_EX));
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 3, .l_len = 2};
    MUST(fcntl(26, F_OFD_SETLK, &range));
}

static void look_at_files(void)
{
    char text[16] = "";
    EXPECT(same_object(20, 21) && !same_object(20, 22));
    EXPECT(lseek(21, 0, SEEK_CUR) == 4);
    EXPECT(read(20, text, sizeof text) == 6 && strcmp(text, "456789") == 0);
    EXPECT((fcntl(22, F_GETFL) & (O_NONBLOCK | O_ACCMODE)) == (O_NONBLOCK | O_RDONLY));
    EXPECT(lseek(22, 0, SEEK_CUR) == 0);
    EXPECT(faccessat(23, "plain", F_OK, 0) == 0);
    EXPECT(fcntl(24, F_GETFL) & O_PATH);
    EXPECT(write(25, "x", 1) == 1);
    EXPECT(fcntl(26, F_GETFL) & O_APPEND);
    EXPECT(flock(22, LOCK_SH | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 4, .l_len = 1};
    int other = MUST(open(test_path("log"), O_WRONLY));
    EXPECT(fcntl(other, F_GETLK, &range) == 0 && range.l_type == F_WRLCK && range.l_start == 3);
}

static void test_files(void **state)
{
    (void)state;
    expect_recreated(set_up_files, look_at_files);
}

static void set_up_deleted(void)
{
    int fd = MUST(open(test_path("gone"), O_CREAT | O_RDWR, 0640));
    MUST(pwrite(fd, "begin", 5, 0));
    MUST(pwrite(fd, "end", 3, 1 << 20));
    put_at(20, fd);
    put_at(21, MUST(open(test_path("gone"), O_RDONLY)));
    MUST(unlink(test_path("gone")));
    MUST(mkdir(test_path("gone-directory"), 0700));
    put_at(22, MUST(open(test_path("gone-directory"), O_DIRECTORY)));
    MUST(rmdir(test_path("gone-directory")));
    put_at(23, MUST(open(test_path("a (deleted)"), O_CREAT | O_RDWR, 0600)));
    fd = MUST(open(test_path("old"), O_CREAT | O_RDWR, 0600));
    MUST(write(fd, "moved", 5));
    put_at(24, fd);
    MUST(rename(test_path("old"), test_path("new")));
    MUST(mkdir(test_path("outer"), 0700));
    MUST(mkdir(test_path("outer/inner"), 0750));
    put_at(25, MUST(open(test_path("outer/inner"), O_DIRECTORY)));
    MUST(rmdir(test_path("outer/inner")));
    MUST(rmdir(test_path("outer")));
    put_at(27, MUST(open(test_path("one-name"), O_CREAT | O_RDWR, 0600)));
    MUST(link(test_path("one-name"), test_path("other-name")));
    MUST(unlink(test_path("one-name")));
    MUST(mkfifo(test_path("gone-fifo"), 0600));
    MUST(chmod(test_path("gone-fifo"), 0751));
    if (geteuid() == 0)
        MUST(chown(test_path("gone-fifo"), 1234, 5678));
    put_at(26, MUST(open(test_path("gone-fifo"), O_RDWR)));
    MUST(unlink(test_path("gone-fifo")));
}

static void look_at_deleted(void)
{
    char text[16] = "";
    struct stat a, b;
    EXPECT(pread(21, text, 5, 0) == 5 && strcmp(text, "begin") == 0);
    EXPECT(pread(20, text, 3, 1 << 20) == 3 && memcmp(text, "end", 3) == 0);
    EXPECT(fstat(20, &a) == 0 && fstat(21, &b) == 0 && a.st_ino == b.st_ino && a.st_nlink == 0);
    EXPECT((a.st_mode & 0777) == 0640 && a.st_blocks < 1024);
    EXPECT(strstr(link_of_selector(20), "/gone (deleted)"));
    EXPECT(fstat(22, &a) == 0 && S_ISDIR(a.st_mode) && a.st_nlink == 0);
    EXPECT(fstat(23, &a) == 0 && a.st_nlink == 1);
    EXPECT(pread(24, text, 5, 0) == 5 && memcmp(text, "moved", 5) == 0);
    EXPECT(fstat(25, &a) == 0 && S_ISDIR(a.st_mode) && a.st_nlink == 0 && (a.st_mode & 0777) == 0750);
    EXPECT(fstat(27, &a) == 0 && stat(test_path("other-name"), &b) == 0 && a.st_ino == b.st_ino);
    EXPECT(fstat(26, &a) == 0 && S_ISFIFO(a.st_mode) && a.st_nlink == 0 && (a.st_mode & 0777) == 0751);
    EXPECT(geteuid() != 0 || (a.st_uid == 1234 && a.st_gid == 5678));
}

static void test_deleted(void **state)
{
    (void)state;
    expect_recreated(set_up_deleted, look_at_deleted);
}

/* ---- files of processes ---- */

static pid_t start_sleeping(void)
{
    pid_t pid = fork();
    while (pid == 0)
        pause();
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void set_up_of_processes(void)
{
    char path[64];
    pid_t ended = start_sleeping();
    snprintf(path, sizeof path, "/proc/%d/status", ended);
    put_at(20, MUST(open(path, O_RDONLY)));
    snprintf(path, sizeof path, "/proc/%d", ended);
    put_at(21, MUST(open(path, O_RDONLY | O_DIRECTORY)));
    end_child(ended);
    snprintf(path, sizeof path, "/proc/%d/status", getppid());
    put_at(22, MUST(open(path, O_RDONLY)));
}

static void look_at_of_processes(void)
{
    char text[64] = "";
    EXPECT(read(20, text, 1) < 0 && errno == ESRCH);
    EXPECT(strstr(link_of_selector(20), "/status"));
    EXPECT(faccessat(21, "status", F_OK, 0) < 0);
    EXPECT(read(22, text, 5) == 5 && memcmp(text, "Name:", 5) == 0);
}

static void test_of_processes(void **state)
{
    (void)state;
    expect_recreated(set_up_of_processes, look_at_of_processes);
}

/* ---- what is judged ---- */

static void set_up_privileged(void)
{
    put_at(20, MUST(open(test_path("set-user-id"), O_CREAT | O_RDWR, 0600)));
    MUST(fchmod(20, 04755));
    MUST(unlink(test_path("set-user-id")));
}

/* No image gives a set-user-id bit: that is said beforehand. */
static void test_privileged(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up_privileged, &snapshot);
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 20), OBJECT_DEGRADED);
}

static void set_up_judged(void)
{
    put_at(20, MUST(open(test_path("shrinks"), O_CREAT | O_RDWR, 0600)));
    MUST(write(20, "12345", 5));
    put_at(21, MUST(open(test_path("vanishes"), O_CREAT | O_RDWR, 0600)));
    put_at(22, MUST(open(test_path("linked"), O_CREAT | O_RDWR, 0600)));
    put_at(23, MUST(open("/dev/zero", O_RDONLY)));
    int ends[2];
    MUST(pipe(ends));
    put_at(24, ends[0]);
    close(ends[1]);
}

static void spoil(void)
{
    MUST(truncate(test_path("shrinks"), 2));
    MUST(unlink(test_path("vanishes")));
    MUST(unlink(test_path("linked")));
    MUST(symlink("/etc/passwd", test_path("linked")));
}

static void test_judged(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    capture_subject(set_up_judged, &snapshot);
    spoil();
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    assert_int_equal(object_judge_cold(&snapshot, NULL, &verdicts, &error), 0);
    assert_int_equal(fate_of(&verdicts, 20), OBJECT_DEGRADED);
    assert_int_equal(fate_of(&verdicts, 21), OBJECT_LOST);
    assert_int_equal(fate_of(&verdicts, 22), OBJECT_LOST);
    assert_int_equal(fate_of(&verdicts, 23), OBJECT_RECREATED);
    assert_int_equal(fate_of(&verdicts, 24), OBJECT_RECREATED); /* it was hung up before */
    _cleanup_(object_set_end) struct object_set set = {0};
    assert_int_equal(recreate_held(&snapshot, NULL, &set, &error), -EREMOTEIO);
    assert_non_null(strstr(error->message, "Selector 2"));
    struct object_options options = {.allows_lost = true};
    assert_int_equal(recreate_held(&snapshot, &options, &set, &error), 0);
    char byte;
    assert_true(read(set.caps[object_at(&snapshot, 22)], &byte, 1) < 0 && errno == EBADF);
}

/* ---- pipes ---- */

static void set_up_pipes(void)
{
    int ends[2];
    MUST(pipe(ends));
    put_at(20, ends[0]);
    put_at(21, ends[1]);
    MUST(fcntl(20, F_SETPIPE_SZ, 1 << 17));
    MUST(write(21, "in the pipe", 11));
    MUST(dup2(21, 22));
    MUST(pipe2(ends, O_DIRECT | O_NONBLOCK));
    put_at(23, ends[0]);
    put_at(24, ends[1]);
    MUST(write(24, "one", 3));
    MUST(write(24, "three", 5));
    put_at(25, MUST(open("/proc/self/fd/20", O_RDONLY | O_NONBLOCK)));
    MUST(mkfifo(test_path("fifo"), 0600));
    put_at(26, MUST(open(test_path("fifo"), O_RDWR)));
    MUST(write(26, "fifo", 4));
    MUST(mkfifo(test_path("lost-fifo"), 0600));
    put_at(27, MUST(open(test_path("lost-fifo"), O_RDWR)));
    put_at(28, MUST(open(test_path("lost-fifo"), O_WRONLY)));
    MUST(write(28, "nameless", 8));
    MUST(unlink(test_path("lost-fifo")));
    MUST(pipe(ends));
    put_at(29, ends[0]);
    MUST(write(ends[1], "last words", 10));
    close(ends[1]);
    MUST(pipe(ends));
    put_at(30, ends[1]);
    close(ends[0]);
    MUST(pipe2(ends, O_NONBLOCK));
    put_at(31, ends[0]);
    put_at(32, ends[1]);
    while (write(32, "full", 4) == 4)
        ;
}

static void look_at_pipes(void)
{
    char text[32] = "";
    EXPECT(same_object(21, 22) && fcntl(22, F_GETPIPE_SZ) == 1 << 17);
    EXPECT(read(25, text, 3) == 3 && memcmp(text, "in ", 3) == 0);
    EXPECT(read(20, text, sizeof text) == 8 && memcmp(text, "the pipe", 8) == 0);
    EXPECT((fcntl(24, F_GETFL) & (O_DIRECT | O_NONBLOCK)) == (O_DIRECT | O_NONBLOCK));
    EXPECT(read(23, text, sizeof text) == 3 && memcmp(text, "one", 3) == 0);
    EXPECT(read(23, text, sizeof text) == 5 && memcmp(text, "three", 5) == 0);
    EXPECT(read(26, text, sizeof text) == 4 && memcmp(text, "fifo", 4) == 0);
    EXPECT(read(27, text, sizeof text) == 8 && memcmp(text, "nameless", 8) == 0);
    EXPECT(strstr(link_of_selector(27), "/lost-fifo (deleted)"));
    EXPECT(access(test_path("lost-fifo"), F_OK) < 0);
    EXPECT(read(29, text, sizeof text) == 10 && read(29, text, sizeof text) == 0);
    signal(SIGPIPE, SIG_IGN);
    EXPECT(write(30, "x", 1) < 0 && errno == EPIPE);
    int waiting;
    EXPECT(ioctl(31, FIONREAD, &waiting) == 0 && waiting == 65536);
    EXPECT(write(32, "x", 1) < 0 && errno == EAGAIN);
}

static void test_pipes(void **state)
{
    (void)state;
    expect_recreated(set_up_pipes, look_at_pipes);
}

/* ---- rows that make no sense ---- */

static void set_up_little(void)
{
    int ends[2];
    MUST(pipe(ends));
}

#define SPOIL(name, statement)                                                                               \
    static void name(struct snapshot *s)                                                                     \
    {                                                                                                        \
        statement;                                                                                           \
    }
SPOIL(object_id, s->objects[1].id = 1)
SPOIL(object_kind, s->objects[1].kind_offset = s->blobs_count)
SPOIL(object_name, s->objects[1].name_offset = UINT64_MAX)
SPOIL(object_state, s->objects[1].state_length = s->blobs_count)
SPOIL(object_flags, s->objects[1].flags = 8)
SPOIL(object_reason, s->objects[1].flags = 1; s->objects[1].reason_offset = s->blobs_count + 1)
SPOIL(capability_none, s->capabilities[1].object = 0)
SPOIL(capability_object, s->capabilities[1].object = (uint32_t)s->objects_count + 1)
SPOIL(capability_selector, s->capabilities[1].selector = 1 << 20)
SPOIL(capability_twice, s->capabilities[1].selector = s->capabilities[0].selector)

static void test_rows(void **state)
{
    (void)state;
    static const struct {
        void (*spoil)(struct snapshot *s);
        const char *words;
    } rows[] = {
        {object_id, "row 1: has the id 1"},
        {object_kind, "row 1: "},
        {object_name, "row 1: "},
        {object_state, "row 1: "},
        {object_flags, "row 1: flags 0x8"},
        {object_reason, "row 1: "},
        {capability_none, "row 1: holds no object"},
        {capability_object, "which there is not"},
        {capability_selector, "1048576 is no selector"},
        {capability_twice, "is there twice"},
    };
    _cleanup_(snapshot_free) struct snapshot good = {0};
    capture_subject(set_up_little, &good);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        _cleanup_(snapshot_free) struct snapshot bad = {0};
        _cleanup_error_ struct reseat_error *error = NULL;
        assert_int_equal(snapshot_copy(&good, &bad), 0);
        rows[i].spoil(&bad);
        assert_int_equal(core_check_objects(&bad, &error), -EBADMSG);
        if (!strstr(error->message, rows[i].words))
            fail_msg("\"%s\" does not say \"%s\"", error->message, rows[i].words);
    }
}

/* What a state says is judged before anything is made. */
static void test_states(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up_files, &snapshot);
    struct snapshot_object *row = &snapshot.objects[object_at(&snapshot, 20) - 1];
    char *path = (char *)memmem(snapshot.blobs + row->state_offset, row->state_length, "/tmp/", 5);
    assert_non_null(path);
    memcpy(path, "/../t", 5);
    assert_int_equal(recreate_held(&snapshot, NULL, &set, &error), -EBADMSG);
    assert_non_null(strstr(error->message, "leads somewhere else"));
    memcpy(path, "/tmp/", 5);
    row->state_length = 10;
    assert_int_equal(recreate_held(&snapshot, NULL, &set, &error), -EBADMSG);
    assert_int_equal(set.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_files, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_deleted, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_privileged, make_directory, remove_directory),
        cmocka_unit_test(test_of_processes),
        cmocka_unit_test_setup_teardown(test_judged, make_directory, remove_directory),
        cmocka_unit_test_setup_teardown(test_pipes, make_directory, remove_directory),
        cmocka_unit_test(test_rows),
        cmocka_unit_test_setup_teardown(test_states, make_directory, remove_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
