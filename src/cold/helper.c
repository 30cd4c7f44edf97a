/* The helper that clones a cold seed, and then goes: so the process is handed to init or a subreaper, like
 * any daemon. Everything here runs in forks of ours, which may have threads: nothing of the C library that
 * has state, only system calls and words of a shared page, the cradle.
 *
 * Who is cloned, each by the one before it and only if it is wanted:
 *
 *   helper      a child of ours; in a new PID namespace it is its init, and stays until the process has ended
 *   session     with the number of the session that the process was in, when its leader is gone: leads it,
 * and goes group       the same for its process group the child   maps the scratch pages, and waits to be
 * taken in hand
 *
 * Until then the death of a parent is the death of its child (PR_SET_PDEATHSIG), later PTRACE_O_EXITKILL sees
 * to that. Rests on clone3(2) with set_tid, setsid(2), pid_namespaces(7), user_namespaces(7). */
#include "cold/cold-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

#define STEP_NS 100000

static pid_t clone_raw(pid_t number, uint64_t flags)
{
    struct clone_args arguments = {.flags = flags, .exit_signal = SIGCHLD};
    if (number) {
        arguments.set_tid = (uint64_t)&number;
        arguments.set_tid_size = 1;
    }
    long r = syscall(SYS_clone3, &arguments, sizeof arguments);
    return r < 0 ? -errno : (pid_t)r;
}

static pid_t own_number(void)
{
    return (pid_t)syscall(SYS_getpid);
}

static void rest(void)
{
    nanosleep(&(struct timespec){.tv_nsec = STEP_NS}, NULL);
}

/* In a fork: ends with its parent; at once, if that has ended meanwhile. */
static void end_with(pid_t parent)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (syscall(SYS_getppid) != parent)
        _exit(1);
}

/* ---- the child ---- */

/* The scratch pages as target_map_scratch() makes them; the interpreter is written from outside. */
static int map_scratch(const struct cold_place *place)
{
    if (mmap((void *)place->scratch, place->scratch_length, PROT_READ | PROT_EXEC,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK | MAP_FIXED_NOREPLACE, -1,
             0) != (void *)place->scratch)
        return -errno;
    if (mprotect((void *)(place->scratch + COLD_PAGE_BYTES), place->scratch_length - COLD_PAGE_BYTES,
                 PROT_READ | PROT_WRITE) < 0)
        return -errno;
    return 0;
}

static _Noreturn void be_born(struct cold_cradle *cradle, const struct cold_family *family, pid_t parent)
{
    /* In a new PID namespace the parent of an init's child is seen as 1, and has the same number for us. */
    end_with(parent);
    if (family->group)
        setpgid(0, family->group);
    prctl(PR_SET_DUMPABLE, 1); /* or an ordinary user could not trace it */
    prctl(PR_SET_PTRACER, family->tracer);
    int r = map_scratch(family->place);
    cradle->is_born = r < 0 ? r : 1;
    for (;;)
        syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

/* A process that only lends its number to a group. */
static pid_t lead_group(const struct cold_family *family)
{
    pid_t self = own_number();
    pid_t leader = clone_raw(family->group, 0);
    if (leader == 0) {
        end_with(self);
        setpgid(0, 0);
        for (;;)
            syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
    }
    while (leader > 0 && getpgid(leader) != leader)
        rest();
    return leader;
}

static void clone_child(struct cold_cradle *cradle, const struct cold_family *family)
{
    pid_t self = own_number();
    pid_t leader = family->makes_group ? lead_group(family) : 0;
    pid_t pid = clone_raw(family->number, 0);
    if (pid == 0)
        be_born(cradle, family, self);
    cradle->result = pid;
    while (pid > 0 && !cradle->is_born)
        rest();
    if (leader > 0) {
        kill(leader, SIGKILL);
        waitpid(leader, NULL, __WALL);
    }
}

/* ---- the session ---- */

/* Whether somebody could be made who leads it. */
static bool clone_in_session(struct cold_cradle *cradle, const struct cold_family *family)
{
    pid_t self = own_number();
    pid_t leader = clone_raw(family->session, 0);
    if (leader < 0)
        return false;
    if (leader == 0) {
        end_with(self);
        setsid();
        cradle->has_session = 1;
        clone_child(cradle, family);
        while (cradle->result > 0 && !cradle->may_go)
            rest();
        _exit(0);
    }
    /* Its end is the end of its session's leader only: the child is handed to whoever collects orphans. */
    while (waitpid(leader, NULL, __WALL) < 0 && errno == EINTR)
        ;
    return true;
}

/* ---- a namespace ---- */

static int mount_proc(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
        return -errno;
    return 0;
}

/* The init of a namespace: collects what ends in it, and ends with the process that it is for. */
static _Noreturn void be_init(struct cold_cradle *cradle, pid_t process)
{
    siginfo_t ended = {0};
    while (!cradle->may_go)
        rest();
    prctl(PR_SET_PDEATHSIG, 0);
    prctl(PR_SET_NAME, "reseat-init");
    syscall(SYS_close_range, 0, UINT32_MAX, 0);
    for (;;) {
        ended.si_pid = 0;
        if (waitid(P_ALL, 0, &ended, WEXITED | __WALL) < 0 && errno == ECHILD)
            _exit(0);
        if (ended.si_pid == process)
            _exit(ended.si_code == CLD_EXITED ? ended.si_status : 128 + ended.si_status);
    }
}

static _Noreturn void help(struct cold_cradle *cradle, const struct cold_family *family, pid_t parent)
{
    if (!family->new_namespace) {
        end_with(parent);
        if (own_number() == family->number || own_number() == (pid_t)family->session)
            _exit(1); /* by chance it has the very number: it must go first */
    } else {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        while (!cradle->may_begin) /* its users are mapped from outside */
            rest();
        int r = mount_proc();
        if (r < 0) {
            cradle->result = r;
            _exit(1);
        }
    }
    if (!family->session || !clone_in_session(cradle, family))
        clone_child(cradle, family);
    if (family->new_namespace && cradle->result > 0)
        be_init(cradle, cradle->result);
    while (cradle->result > 0 && !cradle->may_go)
        rest();
    _exit(0);
}

pid_t cold_clone_helper(struct cold_cradle *cradle, const struct cold_family *family)
{
    pid_t self = getpid();
    *cradle = (struct cold_cradle){0};
    if (family->is_child) {
        clone_child(cradle, family);
        return 0;
    }
    uint64_t flags = family->new_namespace ? CLONE_NEWPID | (family->new_users ? CLONE_NEWUSER : 0) : 0;
    pid_t helper = clone_raw(0, flags);
    if (helper == 0)
        help(cradle, family, self);
    return helper;
}
