/* A restored process on our terminal: we do for it what a shell does for the job that it puts into the
 * foreground with `fg`. The library has made its process group the terminal's foreground group and set the
 * modes that it left behind; from then on we wait for it to end or to stop.
 *
 * We are not its parent, so waitpid(2) is not ours to call: the end is seen at its pidfd, a stop as state T
 * in /proc/PID/stat, looked at 20 times a second. When it stops, the terminal is taken back and our own
 * process group is stopped, so that our shell notices; when the shell continues us, the process is continued.
 * The exit status comes from the pidfd too (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15).
 *
 * If the process is not in our session (it was put on this terminal with --slot), the kernel has no job
 * control over it here: we stay in the foreground and hand on the signals that the terminal sends to us.
 *
 * See tcsetpgrp(3), credentials(7), signalfd(2), pidfd_open(2), ioctl_tty(2). */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const int state_interval_ms = 50;
static const int reaping_wait_ms = 1000;
static const int repaint_wait_ms = 1000;
static const long size_change_ns = 200000000;
static const int stop_wait_ms = 500;

/* ---- what the C library and the headers of Debian 12 lack ---- */

/* include/uapi/linux/pidfd.h, Linux 6.15: struct pidfd_info in its first version. */
struct pidfd_information {
    uint64_t mask, cgroup_id;
    uint32_t pid, tgid, parent;
    uint32_t user_and_group_ids[8];
    int32_t exit_code; /* as waitpid(2) gives it */
};
#define GET_PIDFD_INFORMATION  _IOWR(0xff, 11, struct pidfd_information)
#define PIDFD_INFORMATION_EXIT (UINT64_C(1) << 3)

static void send_signal(const struct attachment *attachment, int number)
{
    syscall(SYS_pidfd_send_signal, attachment->pidfd, number, NULL, 0);
}

/* Continues what a stop of the terminal has stopped: the whole group. */
static void continue_group(const struct attachment *attachment)
{
    if (attachment->group <= 0 || kill(-attachment->group, SIGCONT) < 0)
        send_signal(attachment, SIGCONT);
}

static bool wait_for_end(const struct attachment *attachment, int timeout_ms)
{
    struct pollfd pidfd = {.fd = attachment->pidfd, .events = POLLIN};
    return poll(&pidfd, 1, timeout_ms) > 0;
}

/* ---- what state the process is in ---- */

/* The state letter of proc_pid_stat(5); 0 if there is no such process any more. */
static char read_state(pid_t pid)
{
    char path[32], text[256];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return 0;
    text[length] = '\0';
    const char *behind_name = strrchr(text, ')'); /* the name may hold anything, also a ) */
    return behind_name && behind_name[1] == ' ' ? behind_name[2] : 0;
}

static bool is_stopped(pid_t pid)
{
    return read_state(pid) == 'T';
}

/* Whether the process has a handler of its own for a signal. */
static bool catches_signal(pid_t pid, int number)
{
    char path[32], line[256];
    unsigned long long caught = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *status = fopen(path, "re");
    if (!status)
        return false;
    while (fgets(line, sizeof line, status))
        if (sscanf(line, "SigCgt: %llx", &caught) == 1)
            break;
    fclose(status);
    return caught >> (number - 1) & 1;
}

/* Waits until the process is stopped; false if it has not within the time, or has ended. */
static bool wait_for_stop(const struct attachment *attachment, int timeout_ms)
{
    const int step_ms = 2;
    for (int waited_ms = 0; waited_ms < timeout_ms; waited_ms += step_ms) {
        if (is_stopped(attachment->pid))
            return true;
        if (wait_for_end(attachment, step_ms))
            return false;
    }
    return false;
}

/* ---- the terminal, to and fro ---- */

/* SIGTTOU is blocked meanwhile (attach_prepare), so these work from the background as well. */
static void give_terminal(struct attachment *attachment)
{
    attachment->is_lent = true;
    tcsetattr(attachment->terminal, TCSADRAIN, &attachment->theirs);
    if (attachment->has_job_control)
        tcsetpgrp(attachment->terminal, attachment->group);
}

/* Does nothing if our shell has it: we were continued in the background. */
static void take_terminal(struct attachment *attachment)
{
    if (!attachment->is_lent)
        return;
    attachment->is_lent = false;
    tcsetpgrp(attachment->terminal, getpgrp());
    tcsetattr(attachment->terminal, TCSADRAIN, &attachment->ours);
}

static bool is_foreground(const struct attachment *attachment)
{
    return tcgetpgrp(attachment->terminal) == getpgrp();
}

/* Stops us as the terminal's ^Z would: the whole group, because our shell waits until every process of its
 * job has stopped (sudo, time). Returns when the shell has continued us. */
static void stop_ourselves(void)
{
    sigset_t stop, before;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTSTP);
    kill(0, SIGTSTP);
    sigprocmask(SIG_UNBLOCK, &stop, &before);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

/* The process has stopped: so do we. If we are continued in the background, it goes on without the terminal
 * and gets it in follow_foreground(). */
static void follow_stop(struct attachment *attachment)
{
    if (attachment->is_lent)
        tcgetattr(attachment->terminal, &attachment->theirs);
    take_terminal(attachment);
    stop_ourselves();
    if (is_foreground(attachment)) {
        tcgetattr(attachment->terminal, &attachment->ours);
        give_terminal(attachment);
    }
    continue_group(attachment);
    send_signal(attachment, SIGWINCH); /* the size may have changed meanwhile */
}

/* A shell's `fg` for a job that was running in the background brings us into the foreground without any
 * signal. */
static void follow_foreground(struct attachment *attachment)
{
    if (!attachment->is_lent && is_foreground(attachment))
        give_terminal(attachment);
}

/* Some paint nothing for a size that is the same (emacs), and need a moment for each. */
static void change_size_and_back(int terminal)
{
    struct winsize size, other;
    if (ioctl(terminal, TIOCGWINSZ, &size) < 0 || size.ws_row < 3)
        return;
    other = size;
    other.ws_row--;
    if (ioctl(terminal, TIOCSWINSZ, &other) == 0)
        nanosleep(&(struct timespec){.tv_nsec = size_change_ns}, NULL);
    ioctl(terminal, TIOCSWINSZ, &size);
}

/* What was on the screen is gone, and the terminal's size may be another. A program that catches SIGTSTP is
 * one that cleans up the screen before it stops and paints it again when it continues: make it do so. Others
 * paint it for another size. One that was stopped when it was checkpointed is continued, as by `fg`; that
 * also undoes a stop not yet in effect. */
static void repaint(struct attachment *attachment)
{
    bool was_stopped = is_stopped(attachment->pid);
    continue_group(attachment);
    if (!was_stopped && catches_signal(attachment->pid, SIGTSTP)) {
        send_signal(attachment, SIGTSTP);
        wait_for_stop(attachment, repaint_wait_ms);
        tcsetattr(attachment->terminal, TCSADRAIN, &attachment->theirs);
        continue_group(attachment);
    } else if (catches_signal(attachment->pid, SIGWINCH)) {
        change_size_and_back(attachment->terminal);
    }
    send_signal(attachment, SIGWINCH);
}

/* ---- signals that come to us ---- */

/* Without job control ^Z reaches us instead of the process. Its group may be an orphaned one here, in which
 * SIGTSTP has no effect (credentials(7)), but SIGSTOP has. */
static void hand_on_stop(struct attachment *attachment)
{
    send_signal(attachment, SIGTSTP);
    if (!wait_for_stop(attachment, stop_wait_ms))
        send_signal(attachment, SIGSTOP);
}

/* Hands a signal on to the process; true if it means that the terminal is gone and we are done. */
static bool hand_on_signal(struct attachment *attachment)
{
    struct signalfd_siginfo information;
    if (read(attachment->signal_fd, &information, sizeof information) != sizeof information)
        return false;
    int number = (int)information.ssi_signo;
    /* A terminal signal to a group that the process is in as well: it has it already. */
    bool has_it = information.ssi_code == SI_KERNEL && attachment->group == getpgrp();
    if (number == SIGTSTP)
        hand_on_stop(attachment);
    else if (!has_it)
        send_signal(attachment, number);
    return number == SIGHUP;
}

/* ---- the end ---- */

static bool ask_exit_status(const struct attachment *attachment, int *ret_status)
{
    struct pidfd_information information = {.mask = PIDFD_INFORMATION_EXIT};
    if (ioctl(attachment->pidfd, GET_PIDFD_INFORMATION, &information) < 0 ||
        !(information.mask & PIDFD_INFORMATION_EXIT))
        return false;
    int code = information.exit_code;
    *ret_status = WIFSIGNALED(code) ? 128 + WTERMSIG(code) : WEXITSTATUS(code);
    return true;
}

/* The exit status of the process as a shell gives it. The kernel tells it from the moment at which the parent
 * has taken it; until then the process is a zombie. */
static int read_exit_status(const struct attachment *attachment)
{
    const int step_ms = 10;
    int code; /* a cold restore has made it our own child */
    if (waitpid(attachment->pid, &code, 0) == attachment->pid)
        return WIFSIGNALED(code) ? 128 + WTERMSIG(code) : WEXITSTATUS(code);
    for (int waited_ms = 0; waited_ms < reaping_wait_ms; waited_ms += step_ms) {
        bool is_zombie = read_state(attachment->pid) == 'Z';
        int status;
        if (ask_exit_status(attachment, &status))
            return status;
        if (!is_zombie)
            break;
        poll(NULL, 0, step_ms);
    }
    message("process %d has ended; its exit status is not known here (the kernel tells it from Linux 6.15 "
            "on, once the "
            "parent of the process has taken it)",
            attachment->pid);
    return CLI_DONE;
}

/* ---- the whole ---- */

int attach_prepare(struct attachment *attachment)
{
    static const int signals[] = {SIGINT, SIGQUIT, SIGTERM, SIGHUP, SIGWINCH};
    int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        message("restore: --attach needs a terminal, and there is none: /dev/tty: %s", strerror(errno));
        return CLI_FAILED;
    }
    if (tcgetpgrp(fd) != getpgrp()) {
        message("restore: --attach needs the terminal, and we are in the background");
        close(fd);
        return CLI_FAILED;
    }
    attachment->terminal = fd;
    attachment->is_lent = true; /* the library lends it */
    tcgetattr(fd, &attachment->ours);
    attachment->theirs = attachment->ours;
    sigemptyset(&attachment->signals);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaddset(&attachment->signals, signals[i]);
    sigset_t terminal_output;
    sigemptyset(&terminal_output);
    sigaddset(&terminal_output, SIGTTOU);
    sigprocmask(SIG_BLOCK, &terminal_output, &attachment->signals_before);
    return CLI_DONE;
}

/* From now on signals are read, not handled. */
static void collect_signals(struct attachment *attachment)
{
    if (!attachment->has_job_control)
        sigaddset(&attachment->signals, SIGTSTP);
    sigprocmask(SIG_BLOCK, &attachment->signals, NULL);
    attachment->signal_fd = signalfd(-1, &attachment->signals, SFD_CLOEXEC | SFD_NONBLOCK);
    int number = signals_take(); /* after the last moment at which the restore could have been given up */
    if (number)
        send_signal(attachment, number);
}

int attach_wait(struct attachment *attachment, pid_t pid, int pidfd)
{
    attachment->pid = pid;
    attachment->pidfd = pidfd;
    attachment->group = getpgid(pid);
    attachment->has_job_control = attachment->group > 0 && getsid(pid) == tcgetsid(attachment->terminal);
    tcgetattr(attachment->terminal, &attachment->theirs);
    collect_signals(attachment);
    give_terminal(attachment);
    repaint(attachment);

    struct pollfd events[] = {{.fd = pidfd, .events = POLLIN},
                              {.fd = attachment->signal_fd, .events = POLLIN}};
    for (;;) {
        int count = poll(events, 2, state_interval_ms);
        if (count > 0 && events[0].revents)
            break;
        if (count > 0 && events[1].revents && hand_on_signal(attachment))
            return 128 + SIGHUP;
        if (is_stopped(pid))
            follow_stop(attachment);
        else
            follow_foreground(attachment);
    }
    take_terminal(attachment);
    return read_exit_status(attachment);
}

void attach_end(struct attachment *attachment)
{
    if (attachment->terminal < 0)
        return;
    take_terminal(attachment);
    if (attachment->signal_fd >= 0)
        close(attachment->signal_fd);
    close(attachment->terminal);
    attachment->terminal = -1;
    sigprocmask(SIG_SETMASK, &attachment->signals_before, NULL);
}
