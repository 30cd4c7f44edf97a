/* Processes and threads with a number of our choice: clone3(2) with set_tid, and ns_last_pid where the
 * process that clones has no CAP_CHECKPOINT_RESTORE itself (pid_namespaces(7)). */
#include "process/process.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define CHILD_STACK_BYTES                                                                                    \
    16 /* clone3 wants a size; the program that the child runs begins where the stack ends */

uint64_t process_clone_arguments(struct scratch *scratch, uint64_t flags, uint64_t stack, uint64_t tls,
                                 const uint32_t *levels, size_t level_count)
{
    struct clone_args *arguments;
    uint64_t address = scratch_take(scratch, sizeof *arguments, 8, &arguments);
    uint32_t *numbers;
    uint64_t numbers_address = scratch_take(scratch, (level_count + 1) * sizeof *numbers, 8, &numbers);
    if (!address || !numbers_address)
        return 0;
    *arguments = (struct clone_args){
        .flags = flags,
        .stack = stack - CHILD_STACK_BYTES,
        .stack_size = CHILD_STACK_BYTES,
        .tls = tls,
    };
    if (levels) {
        for (size_t i = 0; i < level_count; i++)
            numbers[i] = levels[level_count - 1 - i];
        arguments->set_tid = numbers_address;
        arguments->set_tid_size = level_count;
    }
    return address;
}

static int write_last_pid(uint32_t number)
{
    _cleanup_close_ int fd = open("/proc/sys/kernel/ns_last_pid", O_WRONLY | O_CLOEXEC);
    char text[16];
    int length = snprintf(text, sizeof text, "%u", number - 1);
    if (fd < 0)
        return -errno;
    return write(fd, text, (size_t)length) == length ? 0 : -errno;
}

static bool in_our_namespace(pid_t pid)
{
    char path[48];
    struct stat ours, theirs;
    snprintf(path, sizeof path, "/proc/%d/ns/pid", pid);
    return stat("/proc/self/ns/pid", &ours) == 0 && stat(path, &theirs) == 0 && ours.st_ino == theirs.st_ino;
}

/* The file speaks of the PID namespace of whoever writes it: a child of ours goes there. */
static int write_last_pid_inside(pid_t pid, uint32_t number)
{
    pid_t outer = fork();
    if (outer == 0) {
        int pidfd = sys_pidfd_open(pid);
        if (pidfd < 0 || setns(pidfd, CLONE_NEWPID) < 0)
            _exit(errno);
        pid_t inner = fork();
        if (inner == 0)
            _exit(-write_last_pid(number));
        int status = 0;
        waitpid(inner, &status, 0);
        _exit(inner < 0 ? errno : WEXITSTATUS(status));
    }
    int status = 0;
    if (outer < 0 || waitpid(outer, &status, 0) < 0)
        return -errno;
    return -WEXITSTATUS(status);
}

int process_choose_next(pid_t pid, const uint32_t *levels, size_t level_count,
                        struct reseat_error **ret_error)
{
    /* Innermost first: the helpers that write there use up numbers of the outer ones. */
    int r = 0;
    if (!in_our_namespace(pid))
        r = write_last_pid_inside(pid, levels[level_count - 1]);
    if (r == 0 && level_count > 2)
        r = -ENOTSUP;
    if (r == 0)
        r = write_last_pid(levels[0]);
    if (r < 0)
        return error_errno(
            ret_error, r,
            "choosing the number %u for a process that may not do so itself (writing "
            "/proc/sys/kernel/ns_last_pid); it takes CAP_CHECKPOINT_RESTORE or root, or restore with "
            "--new-pid",
            levels[0]);
    return 0;
}

uint32_t process_last_number(void)
{
    _cleanup_free_ char *text = NULL;
    return file_read(AT_FDCWD, "/proc/sys/kernel/ns_last_pid", &text, NULL) < 0
               ? 0
               : (uint32_t)strtoul(text, NULL, 10);
}

void process_reset_last_number(uint32_t number)
{
    if (number)
        write_last_pid(number + 1);
}

int process_report_taken(pid_t number, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(number);
    _cleanup_free_ char *status = NULL;
    if (proc_fd < 0 || file_read(proc_fd, "status", &status, NULL) < 0)
        return error_set(
            ret_error, -EEXIST,
            "the number %d is still taken, as that of a process group or session that has members; end "
            "those, or restore with --new-pid",
            number);
    struct proc_stat stat = {.comm = "?"}, parent = {.comm = "?"};
    pid_t process = (pid_t)status_number(status, "Tgid", 10);
    proc_stat_of(process, &stat);
    proc_stat_of(stat.parent, &parent);
    if (process != number)
        return error_set(
            ret_error, -EEXIST,
            "the number %d is taken by a thread of process %d '%s'; end that, or restore with --new-pid",
            number, process, stat.comm);
    if (stat.state == 'Z')
        return error_set(
            ret_error, -EEXIST,
            "PID %d is still taken by the dead process '%s', which its parent %d '%s' has not collected "
            "yet; wait longer with --wait, or restore with --new-pid",
            number, stat.comm, stat.parent, parent.comm);
    return error_set(
        ret_error, -EEXIST,
        "PID %d is taken by the process '%s' (started by %d '%s'); end it, or restore with --new-pid", number,
        stat.comm, stat.parent, parent.comm);
}
