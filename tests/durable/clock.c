/* A process that asks for the time through the vDSO, and is killed if that makes a system call. For each line
 * that it reads it compares all ways to ask with each other, and answers with two clocks, and what is wrong.
 * `freely`: system calls are all right. */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define KILL_FOR(number)                                                                                     \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)

static void forbid_asking_the_kernel(void)
{
    static struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILL_FOR(SYS_clock_gettime),
        KILL_FOR(SYS_gettimeofday),
        KILL_FOR(SYS_time),
        KILL_FOR(SYS_getcpu),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0) {
        perror("seccomp");
        exit(1);
    }
}

static long long milliseconds(clockid_t clock)
{
    struct timespec now;
    if (clock_gettime(clock, &now) < 0)
        return -1;
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

/* Whether it is less than two seconds after; clocks of a coarse sort are a little behind. */
static int is_soon_after(long long before, long long after)
{
    return after >= before - 20 && after < before + 2000;
}

static const char *find_wrong(void)
{
    static long long last;
    long long precise = milliseconds(CLOCK_MONOTONIC);
    if (precise < last)
        return "the clock went back";
    last = precise;
    if (!is_soon_after(precise, milliseconds(CLOCK_MONOTONIC_COARSE)))
        return "CLOCK_MONOTONIC_COARSE";
    long long real = milliseconds(CLOCK_REALTIME);
    struct timeval of_day;
    if (gettimeofday(&of_day, NULL) < 0 ||
        !is_soon_after(real, of_day.tv_sec * 1000LL + of_day.tv_usec / 1000))
        return "gettimeofday";
    if (!is_soon_after(real - 1000, time(NULL) * 1000LL))
        return "time";
    struct timespec resolution;
    if (clock_getres(CLOCK_MONOTONIC, &resolution) < 0 || resolution.tv_nsec != 1)
        return "clock_getres";
    if (sched_getcpu() < 0 || sched_getcpu() >= sysconf(_SC_NPROCESSORS_CONF))
        return "getcpu";
    return NULL;
}

int main(int argc, char **argv)
{
    char line[64];
    if (argc < 2 || strcmp(argv[1], "freely") != 0)
        forbid_asking_the_kernel();
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        const char *wrong = find_wrong();
        printf("%lld %lld %s\n", milliseconds(CLOCK_MONOTONIC), milliseconds(CLOCK_REALTIME),
               wrong ? wrong : "right");
        fflush(stdout);
    }
    return 0;
}
