/* Process group, session and controlling terminal (credentials(7), tty_ioctl(4)). A number stays taken while
 * a group or session has it, so the twin has to stand in another one, and neither may be seen afterwards. */
#include "subject.h"

#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>

/* ---- without a terminal ---- */

static void daemon_that_leads_its_session(void)
{
    MUST(setsid());
    be_checkpointed();
    CHECK_EQUAL(getsid(0), getpid());
    CHECK_EQUAL(getpgrp(), getpid());
    CHECK(setsid() < 0 && errno == EPERM);
    CHECK(open("/dev/tty", O_RDWR) < 0 && errno == ENXIO);
}

static void leader_of_a_group(void)
{
    pid_t session = getsid(0);

    MUST(setpgid(0, 0));
    be_checkpointed();
    CHECK_EQUAL(getpgrp(), getpid());
    CHECK_EQUAL(getsid(0), session);
    CHECK(setsid() < 0 && errno == EPERM);
}

/* A signal to the group reaches all its members, before and after. */
static volatile sig_atomic_t told;

static void note(int number)
{
    told = number;
}

static void on_usr1(void)
{
    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = note, .sa_flags = SA_RESTART}, NULL));
}

static void member_of_anothers_group(void)
{
    on_usr1();
    pid_t group = (pid_t)receive_number();
    MUST(setpgid(0, group));
    be_checkpointed();
    CHECK_EQUAL(getpgrp(), group);
    send_number(0);
    receive_number();
    sleep_ms(20);
    CHECK_EQUAL(told, SIGUSR1);
}

static void lead_a_group(void)
{
    on_usr1();
    MUST(setpgid(0, 0));
    for (send_number(getpid());;) {
        receive_number();
        MUST(kill(0, SIGUSR1));
        send_number(0);
    }
}

static void leader_with_a_member(void)
{
    on_usr1();
    MUST(setpgid(0, 0));
    send_number(getpid());
    receive_number();
    be_checkpointed();
    CHECK_EQUAL(getpgrp(), getpid());
    send_number(0);
    CHECK_EQUAL(receive_number(), getpid());
    MUST(kill(0, SIGUSR1));
    CHECK_EQUAL(receive_number(), SIGUSR1);
    CHECK_EQUAL(told, SIGUSR1);
}

static void be_a_member(void)
{
    on_usr1();
    MUST(setpgid(0, (pid_t)receive_number()));
    for (send_number(0);; told = 0) {
        receive_number();
        send_number(getpgrp());
        while (!told)
            sleep_ms(1);
        send_number(told);
    }
}

/* ---- with a terminal, whose other end is with the peer ---- */

static int terminal;

static void make_odd(void)
{
    struct termios modes;

    MUST(tcgetattr(terminal, &modes));
    modes.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    modes.c_iflag |= IUTF8 | IXANY;
    modes.c_cc[VINTR] = 7; /* ^G */
    modes.c_cc[VMIN] = 1;
    MUST(tcsetattr(terminal, TCSANOW, &modes));
    MUST(ioctl(terminal, TIOCSWINSZ, &(struct winsize){33, 111, 5, 6}));
}

static void check_terminal(pid_t session, pid_t foreground)
{
    struct termios modes;
    struct winsize size;
    int again;

    CHECK_EQUAL(tcgetsid(terminal), session);
    CHECK_EQUAL(tcgetpgrp(terminal), foreground);
    CHECK((again = open("/dev/tty", O_RDWR | O_CLOEXEC)) >= 0);
    CHECK_EQUAL(tcgetpgrp(again), foreground);
    close(again);
    MUST(tcgetattr(terminal, &modes));
    CHECK(!(modes.c_lflag & (ICANON | ECHO)) && (modes.c_iflag & IUTF8) && (modes.c_iflag & IXANY));
    CHECK_EQUAL(modes.c_cc[VINTR], 7);
    MUST(ioctl(terminal, TIOCGWINSZ, &size));
    CHECK(size.ws_row == 33 && size.ws_col == 111);
}

/* What is written arrives at the other end, and what is typed there arrives here, ^G as a signal. */
static void talk_through_terminal(void)
{
    char word[8] = "";

    CHECK_EQUAL(write(terminal, "hello", 5), 5);
    CHECK_EQUAL(receive_number(), 5);
    CHECK_EQUAL(read(terminal, word, 5), 5);
    CHECK_TEXT(word, "typed");
    send_number(0);
    for (int i = 0; i < 1000 && told != SIGINT; i++)
        sleep_ms(1);
    CHECK_EQUAL(told, SIGINT);
}

static void hold_the_other_end(void)
{
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY));
    char word[8] = "";

    CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
    int slave = MUST(open(ptsname(master), O_RDWR | O_NOCTTY));
    for (send_descriptor(slave);;) {
        CHECK_EQUAL(read(master, word, 5), 5);
        CHECK_TEXT(word, "hello");
        CHECK_EQUAL(write(master, "typed", 5), 5);
        send_number(5);
        receive_number();
        CHECK_EQUAL(write(master, "\7", 1), 1);
    }
}

static void leader_with_terminal(void)
{
    MUST(sigaction(SIGINT, &(struct sigaction){.sa_handler = note, .sa_flags = SA_RESTART}, NULL));
    MUST(setsid());
    terminal = receive_descriptor();
    MUST(ioctl(terminal, TIOCSCTTY, 0));
    make_odd();
    be_checkpointed();
    CHECK_EQUAL(getsid(0), getpid());
    check_terminal(getpid(), getpid());
    talk_through_terminal();
}

/* Both halves are inside, with something on its way in each direction. */
static void both_ends(void)
{
    int master = MUST(posix_openpt(O_RDWR | O_NOCTTY)), number;
    char found[16] = "";

    CHECK(grantpt(master) == 0 && unlockpt(master) == 0);
    terminal = MUST(open(ptsname(master), O_RDWR | O_NOCTTY));
    make_odd();
    MUST(ioctl(master, TIOCGPTN, &number));
    CHECK_EQUAL(write(master, "typed", 5), 5);
    CHECK_EQUAL(write(terminal, "shown", 5), 5);
    be_checkpointed();
    int after;
    MUST(ioctl(master, TIOCGPTN, &after));
    CHECK_EQUAL(after, number);
    CHECK_EQUAL(read(terminal, found, 5), 5);
    CHECK_TEXT(found, "typed");
    CHECK_EQUAL(read(master, found, 5), 5);
    CHECK_TEXT(found, "shown");
    CHECK_EQUAL(write(master, "typed", 5), 5);
    CHECK_EQUAL(write(terminal, "shown", 5), 5);
}

/* ---- a job of a shell ---- */

static void be_a_shell(void)
{
    MUST(setsid());
    terminal = receive_descriptor();
    MUST(ioctl(terminal, TIOCSCTTY, 0));
}

static void job_in_the_foreground(void)
{
    become_child_of(be_a_shell);
    pid_t session = getsid(0);
    MUST(setpgid(0, 0));
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(terminal, getpgrp()));
    MUST(sigaction(SIGINT, &(struct sigaction){.sa_handler = note, .sa_flags = SA_RESTART}, NULL));
    make_odd();
    be_checkpointed();
    CHECK_EQUAL(getsid(0), session);
    CHECK_EQUAL(getpgrp(), getpid());
    CHECK_EQUAL(getppid(), session);
    check_terminal(session, getpid());
    talk_through_terminal();
}

static void job_in_the_background(void)
{
    become_child_of(be_a_shell);
    pid_t session = getsid(0);
    MUST(setpgid(0, 0));
    be_checkpointed();
    CHECK_EQUAL(getpgrp(), getpid());
    CHECK_EQUAL(tcgetpgrp(terminal), session);
    CHECK_EQUAL(tcgetsid(terminal), session);
}

/* A group of which only a member is left: its number is nobody's PID. */
static pid_t dead_group;

static void leave_a_group_without_leader(void)
{
    int hold[2];
    char byte;

    MUST(pipe(hold));
    dead_group = MUST(fork());
    if (dead_group == 0) {
        close(hold[1]);
        if (read(hold[0], &byte, 1) < 0)
            _exit(1);
        _exit(0);
    }
    MUST(setpgid(dead_group, dead_group));
    if (MUST(fork()) == 0) {
        MUST(setpgid(0, dead_group));
        close(hold[0]), close(hold[1]);
        while (kill(dead_group, 0) == 0)
            sleep_ms(1);
        return;
    }
    close(hold[0]), close(hold[1]);
    close(GO);
    for (;;)
        if (wait(NULL) < 0)
            sleep_ms(5);
}

static void group_without_leader(void)
{
    leave_a_group_without_leader();
    CHECK_EQUAL(getpgrp(), dead_group);
    be_checkpointed();
    CHECK_EQUAL(getpgrp(), dead_group);
    CHECK(kill(dead_group, 0) < 0 && errno == ESRCH);
}

#define SHARED_TERMINAL .peer = hold_the_other_end

const struct subject subjects[] = {
    {"daemon", daemon_that_leads_its_session},
    {"group-leader", leader_of_a_group},
    {"group-member", member_of_anothers_group, lead_a_group},
    {"group-leader-with-member", leader_with_a_member, be_a_member, .fails = "cold,held: is still taken"},
    {"terminal", leader_with_terminal, SHARED_TERMINAL},
    {"both-ends", both_ends, .new_pid = true, .skip = "beside: both would take the same input",
     .refused = "cold: have not been read"},
    {"job-in-foreground", job_in_the_foreground, SHARED_TERMINAL, .below = true,
     .refused = "cold,held: session"},
    {"job-in-background", job_in_the_background, SHARED_TERMINAL, .below = true,
     .refused = "cold,held: session"},
    {"group-without-leader", group_without_leader, .below = true},
    {0},
};
