/* The controlling terminal and its foreground. A session leader takes the terminal again that it had; a job
 * that was in the foreground takes the foreground again, unless somebody else has it by now. See
 * tty_ioctl(4), TIOCSCTTY and TIOCSPGRP; a process in the background may do the latter as long as SIGTTOU is
 * blocked, and everything is. */
#include "process/process.h"
#include "process/rebuild-internal.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

#define PTS_MAJOR_FIRST 136
#define PTS_MAJOR_LAST  143
#define TTY_MAJOR       4

bool process_terminal_path(uint32_t device, char *path, size_t size)
{
    unsigned major_number = major(device), minor_number = minor(device);
    if (major_number >= PTS_MAJOR_FIRST && major_number <= PTS_MAJOR_LAST)
        snprintf(path, size, "/dev/pts/%u", (major_number - PTS_MAJOR_FIRST) * 256 + minor_number);
    else if (major_number == TTY_MAJOR && minor_number < 64)
        snprintf(path, size, "/dev/tty%u", minor_number);
    else if (major_number == TTY_MAJOR)
        snprintf(path, size, "/dev/ttyS%u", minor_number - 64);
    else
        return false;
    return true;
}

bool process_terminal_is_free(uint32_t device, const char *root)
{
    char name[32], path[96];
    if (!process_terminal_path(device, name, sizeof name))
        return true; /* nobody would try */
    snprintf(path, sizeof path, "%s%s", root, name);
    _cleanup_free_ int *pids = NULL;
    size_t count = 0;
    struct stat found;
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_close_ int fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &found) < 0 || found.st_rdev != device)
        return false;
    if (proc_fd >= 0 && proc_list_numbers(proc_fd, "", &pids, &count) < 0)
        count = 0;
    for (size_t i = 0; i < count; i++) {
        struct proc_stat stat;
        if (proc_stat_of(pids[i], &stat) == 0 && (uint32_t)stat.tty == device)
            return false;
    }
    return true;
}

static bool has_members(pid_t group)
{
    return kill(-group, 0) == 0 || errno != ESRCH;
}

/* By number, the dead job's group looks like that of the process that has its PID again. */
static bool wants_terminal(const struct seed *seed, const struct snapshot_process *process, pid_t former)
{
    struct proc_stat now;
    if (process->flags & SNAPSHOT_LEADS_SESSION)
        return process->tty != 0;
    if (!process->tty || !(process->flags & SNAPSHOT_IN_FOREGROUND) ||
        proc_stat_read(seed->process->proc_fd, &now) < 0 || (uint32_t)now.tty != process->tty)
        return false;
    pid_t foreground = now.foreground_group;
    return foreground <= 0 || foreground == now.group || (former && foreground == former) ||
           !has_members(foreground);
}

/* Opens the terminal by its path, in passing, while nothing else runs; and asks for the group of the process.
 */
static int open_terminal(struct seed *seed, const char *path, uint64_t *ret_fd, uint32_t *ret_group,
                         struct reseat_error **ret_error)
{
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(program_end) struct program program = {0};
    size_t open_call = 0;
    int r = program_begin(&program, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    if (!seed->terminal_slot && seed->terminal_master)
        open_call = program_call(&program, "opening the controlling terminal by its master", SYS_ioctl,
                                 seed->terminal_master - 1, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    else if (!seed->terminal_slot)
        open_call =
            program_call(&program, "opening the controlling terminal", SYS_openat, (uint64_t)AT_FDCWD,
                         scratch_copy(scratch, path, strlen(path) + 1), O_RDWR | O_NOCTTY | O_CLOEXEC);
    size_t group_call = program_call(&program, NULL, SYS_getpgid, 0);
    r = seed->terminal_slot ? 0 : rebuild_note_passing(seed, ret_error);
    if (r == 0)
        r = program_run_batch(seed->process, &program, ret_error);
    if (r < 0)
        return r;
    *ret_fd = seed->terminal_slot ? seed->terminal_slot - 1 : (uint64_t)program_result(&program, open_call);
    *ret_group = (uint32_t)program_result(&program, group_call);
    return 0;
}

int process_take_terminal(struct seed *seed, const struct snapshot_process *process, pid_t former,
                          struct reseat_error **ret_error)
{
    char path[32];
    uint64_t fd;
    uint32_t group;
    if (!wants_terminal(seed, process, former) || !process_terminal_path(process->tty, path, sizeof path))
        return 0;
    int r = open_terminal(seed, path, &fd, &group, ret_error);
    if (r < 0)
        return r;
    struct scratch *scratch = &seed->process->scratch;
    _cleanup_(program_end) struct program taking = {0};
    r = program_begin(&taking, scratch, 8, 0, ret_error);
    if (r < 0)
        return r;
    if (process->flags & SNAPSHOT_LEADS_SESSION)
        program_call(&taking, "taking the controlling terminal", SYS_ioctl, fd, TIOCSCTTY, 0);
    if (process->flags & SNAPSHOT_IN_FOREGROUND)
        program_call(&taking, NULL, SYS_ioctl, fd, TIOCSPGRP, scratch_copy(scratch, &group, sizeof group));
    if (!seed->terminal_slot)
        program_call(&taking, "closing the controlling terminal", SYS_close, fd);
    r = program_run_batch(seed->process, &taking, ret_error);
    return r < 0 || seed->terminal_slot ? r : rebuild_clear_passing(seed);
}
