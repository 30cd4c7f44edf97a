/* What cannot be checkpointed at all is refused with its reason: each test makes a real process of that sort.
 */
#include "test_obstacles.h"

#include <elf.h>

static void expect_refusal(pid_t pid, int code, const char *words)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = process_check_eligible(pid, &error);
    if (!error || !strstr(error->message, words))
        fail_msg("\"%s\" instead of \"%s\"", error ? error->message : "eligible", words);
    assert_int_equal(r, code);
    print_message("    %s\n", error->message);
}

static void test_eligible(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_plain_threads);
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = process_check_eligible(subject.pid, &error);
    subject_end(&subject);
    assert_ok(r, error);
    expect_refusal(subject.pid, -ESRCH, "There is no process ");
    expect_refusal(-1, -EINVAL, "is not the PID of a process");
    expect_refusal(getpid(), -EINVAL, "is the process that is asking");
}

static void test_thread_id(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_plain_threads);
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/task", subject.pid);
    _cleanup_free_ int *tids = NULL;
    size_t count;
    assert_int_equal(proc_list_numbers(-EBADF, path, &tids, &count), 0);
    assert_int_equal(count, 4);
    char words[64];
    snprintf(words, sizeof words, "of process %d, not a process", subject.pid);
    expect_refusal(tids[1], -EINVAL, words);
    subject_end(&subject);
}

static void test_zombie(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0)
        _exit(0);
    siginfo_t info;
    waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT);
    expect_refusal(pid, -ESRCH, "is a zombie");
    waitpid(pid, NULL, 0);
}

static void test_kernel_thread(void **state)
{
    (void)state;
    struct proc_stat stat;
    if (proc_stat_of(2, &stat) < 0 || strcmp(stat.comm, "kthreadd") != 0)
        skip();
    expect_refusal(2, -EINVAL, "is a kernel thread");
}

static void test_init(void **state)
{
    (void)state;
    expect_refusal(1, -EINVAL, getpid() == 1 ? "asking" : "is the first process here");
}

static void *wait_as_thread(void *unused)
{
    (void)unused;
    wait_for_ever();
    return NULL;
}

static void test_ended_leader(void **state)
{
    (void)state;
    pid_t pid = fork_dying_with_parent();
    if (pid == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, wait_as_thread, NULL);
        pthread_exit(NULL);
    }
    struct proc_stat stat = {0};
    for (int i = 0; i < 1000 && stat.state != 'Z'; i++) {
        usleep(1000);
        assert_int_equal(proc_stat_of(pid, &stat), 0);
    }
    expect_refusal(pid, -EOPNOTSUPP, "The main thread of ");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_traced(void **state)
{
    (void)state;
    struct subject subject = subject_start(make_tracee);
    if (subject.selector == SETUP_IMPOSSIBLE) {
        subject_end(&subject);
        skip();
    }
    char path[64], words[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/children", subject.pid, subject.pid);
    _cleanup_free_ char *children = NULL;
    assert_int_equal(file_read(-EBADF, path, &children, NULL), 0);
    snprintf(words, sizeof words, "is being traced by PID %d (test_obstacles)", subject.pid);
    expect_refusal(atoi(children), -EBUSY, words);
    subject_end(&subject);
}

/* A 32-bit program of our own making: pause(2) for ever. */
static int write_small_program(void)
{
    static const uint8_t code[] = {0xb8, 29,   0,    0,   0,
                                   0xcd, 0x80, 0xeb, 0xf7}; /* mov $29,%eax; int $0x80; jmp */
    struct {
        Elf32_Ehdr header;
        Elf32_Phdr segment;
        uint8_t code[16];
    } program = {
        .header = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_EXEC,
                   .e_machine = EM_386,
                   .e_version = EV_CURRENT,
                   .e_entry = 0x8048000 + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
                   .e_phoff = sizeof(Elf32_Ehdr),
                   .e_ehsize = sizeof(Elf32_Ehdr),
                   .e_phentsize = sizeof(Elf32_Phdr),
                   .e_phnum = 1},
        .segment = {.p_type = PT_LOAD, .p_vaddr = 0x8048000, .p_flags = PF_R | PF_X, .p_align = 4096},
    };
    memcpy(program.code, code, sizeof code);
    program.segment.p_filesz = program.segment.p_memsz = sizeof program;
    int fd = memfd_create("small", MFD_CLOEXEC);
    return fd < 0 || write(fd, &program, sizeof program) != sizeof program ? -1 : fd;
}

static void test_32_bit(void **state)
{
    (void)state;
#ifndef __x86_64__
    skip();
#endif
    int fd = write_small_program(), pipe_fds[2];
    assert_true(fd >= 0);
    assert_int_equal(pipe2(pipe_fds, O_CLOEXEC), 0);
    pid_t pid = fork_dying_with_parent();
    if (pid == 0) {
        syscall(SYS_execveat, fd, "", (char *[]){"small", NULL}, (char *[]){NULL}, AT_EMPTY_PATH);
        if (write(pipe_fds[1], "", 1) < 0) /* no 32-bit programs on this kernel */
            _exit(1);
        _exit(0);
    }
    close(fd);
    close(pipe_fds[1]);
    char byte;
    bool impossible = read(pipe_fds[0], &byte, 1) == 1;
    close(pipe_fds[0]);
    if (!impossible)
        expect_refusal(pid, -EOPNOTSUPP, "is a 32-bit program");
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    if (impossible)
        skip();
}

/* ---- eligible, as an ordinary user ---- */

static int make_nobody(void)
{
    become_nobody();
    return -1;
}

static int make_closed_nobody(void)
{
    become_nobody();
    prctl(PR_SET_DUMPABLE, 0);
    return -1;
}

static int make_powerful_nobody(void)
{
    prctl(PR_SET_KEEPCAPS, 1);
    become_nobody();
    return -1;
}

/* Asks as nobody, in a process of its own; `words` NULL: nothing is in the way. */
static void expect_as_nobody(setup_fn *setup, const char *words)
{
    struct subject subject = subject_start(setup);
    pid_t asker = fork();
    if (asker == 0) {
        become_nobody();
        struct reseat_error *error = NULL;
        int r = process_check_eligible(subject.pid, &error);
        print_message("    %s\n", error ? error->message : "eligible");
        _exit(words ? !(r < 0 && strstr(error->message, words)) : r != 0);
    }
    int status;
    waitpid(asker, &status, 0);
    subject_end(&subject);
    assert_int_equal(status, 0);
}

static void test_permission(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    _cleanup_free_ char *yama = NULL;
    bool is_restricted =
        file_read(-EBADF, "/proc/sys/kernel/yama/ptrace_scope", &yama, NULL) == 0 && atoi(yama) > 0;
    expect_as_nobody(NULL, "is not ours: its real, effective and saved user ids are 0, 0, 0");
    expect_as_nobody(make_nobody, is_restricted ? "kernel.yama.ptrace_scope" : NULL);
    expect_as_nobody(make_closed_nobody, "not dumpable");
    expect_as_nobody(make_powerful_nobody, "has capabilities that we lack");
    if (!is_restricted)
        expect_as_nobody(make_filtered_nobody, "is under a seccomp filter");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_eligible),   cmocka_unit_test(test_thread_id),
        cmocka_unit_test(test_zombie),     cmocka_unit_test(test_kernel_thread),
        cmocka_unit_test(test_init),       cmocka_unit_test(test_ended_leader),
        cmocka_unit_test(test_traced),     cmocka_unit_test(test_32_bit),
        cmocka_unit_test(test_permission),
    };
    prctl(PR_SET_NAME, "test_obstacles"); /* whatever the build calls it: sentences name us */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
