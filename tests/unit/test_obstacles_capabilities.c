/* Capabilities that would not come back are found, and memory that is bound to one. */
#include "test_obstacles.h"

#include <linux/aio_abi.h>
#include <linux/perf_event.h>
#include <linux/userfaultfd.h>
#include <mqueue.h>
#include <sys/ioctl.h>

static int make_perf_event(void)
{
    struct perf_event_attr attributes = {.type = PERF_TYPE_SOFTWARE,
                                         .size = sizeof attributes,
                                         .config = PERF_COUNT_SW_TASK_CLOCK,
                                         .exclude_kernel = 1};
    int fd = (int)syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0);
    return fd < 0 ? SETUP_IMPOSSIBLE : fd;
}

static int register_userfaultfd(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    if (fd < 0)
        return SETUP_IMPOSSIBLE;
    struct uffdio_api api = {.api = UFFD_API};
    void *region = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register registration = {.range = {.start = (uintptr_t)region, .len = 4096},
                                           .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &registration) < 0)
        return SETUP_IMPOSSIBLE;
    return fd;
}

static int make_userfaultfd_elsewhere(void)
{
    int fd = register_userfaultfd();
    if (fd >= 0 && fork_dying_with_parent() == 0)
        wait_for_ever();
    close(fd);
    return fd < 0 ? SETUP_IMPOSSIBLE : -1;
}

static int make_aio_context(void)
{
    aio_context_t context = 0;
    return syscall(SYS_io_setup, 4, &context) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static int make_virtual_machine(void)
{
    enum { kvm_create_vm = 0xAE01 };
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int machine = fd < 0 ? -1 : ioctl(fd, kvm_create_vm, 0);
    return machine < 0 ? SETUP_IMPOSSIBLE : machine;
}

static int make_own_pidfd(void)
{
    int fd = sys_pidfd_open(getpid());
    return fd < 0 ? SETUP_IMPOSSIBLE : fd;
}

static int make_foreign_pidfd(void)
{
    int fd = sys_pidfd_open(getppid());
    return fd < 0 ? SETUP_IMPOSSIBLE : -1;
}

static mqd_t open_queue(int mode)
{
    char name[64];
    snprintf(name, sizeof name, "/reseat-test-%d", getpid());
    struct mq_attr attributes = {.mq_maxmsg = 1, .mq_msgsize = 16};
    mqd_t queue = mq_open(name, mode | O_CREAT | O_EXCL, 0600, &attributes);
    mq_unlink(name);
    return queue;
}

static int make_queue(void)
{
    return open_queue(O_RDONLY) < 0 ? SETUP_IMPOSSIBLE : -1;
}

static int make_notifying_queue(void)
{
    mqd_t queue = open_queue(O_WRONLY);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    return queue < 0 || mq_notify(queue, &event) < 0 ? SETUP_IMPOSSIBLE : queue;
}

static void test_perf_event(void **state)
{
    (void)state;
    expect(make_perf_event, heir, SEVERITY_DEGRADED, "is a performance counter");
}

static void test_userfaultfd(void **state)
{
    (void)state;
    expect(register_userfaultfd, copy, SEVERITY_LOST, "is a userfaultfd");
    expect_nothing(register_userfaultfd, heir);
    struct subject subject = subject_start(make_userfaultfd_elsewhere);
    _cleanup_(obstacles_free) struct obstacles obstacles = find(subject.pid, copy);
    subject_end(&subject);
    assert_non_null(obstacles_search(&obstacles, "come from another process through a userfaultfd"));
}

static void test_aio(void **state)
{
    (void)state;
    expect(make_aio_context, copy, SEVERITY_LOST, "has 1 asynchronous I/O context (");
    expect_nothing(make_aio_context, heir);
}

static void test_kvm(void **state)
{
    (void)state;
    expect(make_virtual_machine, copy, SEVERITY_LOST, "is a KVM virtual machine");
    expect_nothing(make_virtual_machine, heir);
}

static void test_pidfd(void **state)
{
    (void)state;
    expect(make_own_pidfd, heir, SEVERITY_DEGRADED, "is a pidfd on the process itself");
    expect_nothing(make_foreign_pidfd, heir);
}

static void test_queue(void **state)
{
    (void)state;
    expect_nothing(make_queue, heir);
    expect(make_notifying_queue, heir, SEVERITY_DEGRADED, "is to notify the process (mq_notify)");
}

static int make_huge_page(void)
{
    void *page =
        mmap(NULL, 2 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
    if (page == MAP_FAILED)
        return SETUP_IMPOSSIBLE;
    memset(page, 1, 2 << 20);
    _cleanup_free_ char *unused = NULL;
    if (file_read(-EBADF, "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", &unused, NULL) < 0 ||
        atoi(unused) != 0)
        return SETUP_IMPOSSIBLE; /* enough are left */
    return -1;
}

static void test_huge_pages(void **state)
{
    (void)state;
    expect(make_huge_page, copy, SEVERITY_LOST, "needs 1 free huge pages of 2048 KiB");
    expect_nothing(make_huge_page, heir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_perf_event), cmocka_unit_test(test_userfaultfd), cmocka_unit_test(test_aio),
        cmocka_unit_test(test_kvm),        cmocka_unit_test(test_pidfd),       cmocka_unit_test(test_queue),
        cmocka_unit_test(test_huge_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
