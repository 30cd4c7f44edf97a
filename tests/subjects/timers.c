/* Timers: those of setitimer(2), timer_create(2) and alarm(2), with their numbers, what they do and what time
 * remains. Not inherited by a fork. Processor clocks start over (docs/limits.md), so of timers on them only
 * being armed and firing is checked. */
#include "subject.h"

#include <stdatomic.h>
#include <sys/time.h>

#define SECOND 1000000000ull

static atomic_int fired[65];
static atomic_int fired_in, fired_value;

static void note(int number, siginfo_t *info, void *context)
{
    (void)context;
    fired_value = info->si_value.sival_int;
    fired_in = thread_id();
    fired[number]++;
}

static void on(int number)
{
    MUST(sigaction(number, &(struct sigaction){.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART},
                   NULL));
}

/* Whether `seconds` is what remained, less what has gone by: at most what it was, at least 10 s less. */
static void check_remaining(uint64_t now_ns, uint64_t before_ns)
{
    if (now_ns > before_ns || now_ns + 10 * SECOND < before_ns)
        fail(__FILE__, __LINE__, "%.3f s remain; there were %.3f s", (double)now_ns / 1e9,
             (double)before_ns / 1e9);
}

/* ---- the three of setitimer(2) ---- */

static void interval_timers_remain(void)
{
    struct itimerval timer = {{7, 0}, {3000, 0}}, found;

    for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++)
        MUST(setitimer(which, &timer, NULL));
    be_checkpointed();
    for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
        MUST(getitimer(which, &found));
        CHECK_EQUAL(found.it_interval.tv_sec, 7);
        check_remaining((uint64_t)found.it_value.tv_sec * SECOND + (uint64_t)found.it_value.tv_usec * 1000,
                        3000 * SECOND + SECOND / 10); /* processor time is counted in ticks, rounded up */
    }
}

static void interval_timers_fire(void)
{
    static const int signals[] = {SIGALRM, SIGVTALRM, SIGPROF};
    struct itimerval timer = {{0, 20000}, {0, 20000}};

    for (int which = 0; which < 3; which++) {
        on(signals[which]);
        MUST(setitimer(which, &timer, NULL));
    }
    be_checkpointed();
    int before[3] = {fired[SIGALRM], fired[SIGVTALRM], fired[SIGPROF]};
    for (uint64_t end = time_ns(CLOCK_MONOTONIC) + 10 * SECOND; time_ns(CLOCK_MONOTONIC) < end;) {
        bool all = true;
        for (int which = 0; which < 3; which++)
            all &= fired[signals[which]] > before[which];
        if (all)
            return;
    }
    for (int which = 0; which < 3; which++)
        if (fired[signals[which]] <= before[which])
            fail(__FILE__, __LINE__, "signal %d does not come any more", signals[which]);
}

/* A timer with an interval that is over, whose signal nobody could take yet: until then the kernel has
 * stopped it, and shows nothing of it but the interval. It goes on when the signal is taken. */
static void expect_more(int number, int count)
{
    sigset_t set;
    siginfo_t info;

    sigemptyset(&set);
    sigaddset(&set, number);
    for (int i = 0; i < count; i++)
        if (sigtimedwait(&set, &info, &(struct timespec){2, 0}) != number)
            fail(__FILE__, __LINE__, "signal %d came %d times, and no more", number, i);
}

static void block(int number)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void interval_timer_that_waits(void)
{
    block(SIGALRM);
    MUST(setitimer(ITIMER_REAL, &(struct itimerval){{0, 10000}, {0, 1000}}, NULL));
    sleep_ms(20);
    be_checkpointed();
    expect_more(SIGALRM, 4);
}

static void alarm_remains(void)
{
    alarm(500);
    be_checkpointed();
    unsigned left = alarm(0);
    CHECK(left > 490 && left <= 500);
}

static void disarmed_stays_disarmed(void)
{
    struct itimerval found;

    be_checkpointed();
    for (int which = ITIMER_REAL; which <= ITIMER_PROF; which++) {
        MUST(getitimer(which, &found));
        CHECK(found.it_value.tv_sec == 0 && found.it_value.tv_usec == 0);
    }
}

/* ---- timer_create(2), by its numbers, which the library hides ---- */

static int create(clockid_t clock, int notify, int number, int value, int tid)
{
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = number, .sigev_value.sival_int = value};
    int id;

    event._sigev_un._tid = tid;
    MUST(syscall(SYS_timer_create, clock, &event, &id));
    return id;
}

static void set(int id, uint64_t first_ns, uint64_t interval_ns)
{
    struct itimerspec timer = {{(time_t)(interval_ns / SECOND), (long)(interval_ns % SECOND)},
                               {(time_t)(first_ns / SECOND), (long)(first_ns % SECOND)}};

    MUST(syscall(SYS_timer_settime, id, 0, &timer, NULL));
}

static struct itimerspec get(int id)
{
    struct itimerspec found;

    if (syscall(SYS_timer_gettime, id, &found) < 0)
        fail(__FILE__, __LINE__, "timer %d: %s", id, strerror(errno));
    return found;
}

static uint64_t remaining_ns(int id)
{
    struct itimerspec found = get(id);

    return (uint64_t)found.it_value.tv_sec * SECOND + (uint64_t)found.it_value.tv_nsec;
}

static void numbers_with_holes(void)
{
    enum { COUNT = 30 };
    int ids[COUNT];

    for (int i = 0; i < COUNT; i++)
        ids[i] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, i, 0);
    for (int i = 0; i < COUNT; i++) {
        if (i % 3 == 0)
            MUST(syscall(SYS_timer_delete, ids[i]));
        else if (i % 3 == 1)
            set(ids[i], (uint64_t)(1000 + i) * SECOND, (uint64_t)i * SECOND);
    }
    be_checkpointed();
    for (int i = 0; i < COUNT; i++) {
        struct itimerspec found;
        if (i % 3 == 0) {
            CHECK(syscall(SYS_timer_gettime, ids[i], &found) < 0 && errno == EINVAL);
            continue;
        }
        found = get(ids[i]);
        CHECK_EQUAL(found.it_interval.tv_sec, i % 3 == 1 ? i : 0);
        if (i % 3 == 1)
            check_remaining(remaining_ns(ids[i]), (uint64_t)(1000 + i) * SECOND);
        else
            CHECK_EQUAL(remaining_ns(ids[i]), 0);
    }
    int next = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0); /* new ones collide with none */
    for (int i = 0; i < COUNT; i++)
        CHECK(i % 3 == 0 || next != ids[i]);
}

static void clocks(void)
{
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_TAI};
    int ids[4];

    for (int i = 0; i < 4; i++)
        set(ids[i] = create(clocks[i], SIGEV_SIGNAL, SIGUSR1, 0, 0), 2000 * SECOND, 0);
    be_checkpointed();
    for (int i = 0; i < 4; i++)
        check_remaining(remaining_ns(ids[i]), 2000 * SECOND);
}

static void processor_clocks(void)
{
    static const clockid_t clocks[] = {CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID};

    on(SIGUSR1), on(SIGUSR2);
    set(create(clocks[0], SIGEV_SIGNAL, SIGUSR1, 0, 0), SECOND / 50, SECOND / 50);
    set(create(clocks[1], SIGEV_SIGNAL, SIGUSR2, 0, 0), SECOND / 50, SECOND / 50);
    be_checkpointed();
    int before[2] = {fired[SIGUSR1], fired[SIGUSR2]};
    for (uint64_t end = time_ns(CLOCK_MONOTONIC) + 5 * SECOND; time_ns(CLOCK_MONOTONIC) < end;)
        if (fired[SIGUSR1] > before[0] + 1 && fired[SIGUSR2] > before[1] + 1)
            return;
    CHECK(fired[SIGUSR1] > before[0] + 1);
    CHECK(fired[SIGUSR2] > before[1] + 1);
}

static void notifies_nobody(void)
{
    int id = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0, 0);

    set(id, 1000 * SECOND, 3 * SECOND);
    be_checkpointed();
    check_remaining(remaining_ns(id), 1000 * SECOND);
    CHECK_EQUAL(get(id).it_interval.tv_sec, 3);
}

static void fires_with_its_value(void)
{
    on(SIGRTMIN + 2);
    int id = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 2, 4711, 0);
    set(id, SECOND / 50, SECOND / 50);
    be_checkpointed();
    int before = fired[SIGRTMIN + 2];
    fired_value = 0;
    for (int i = 0; i < 500 && fired[SIGRTMIN + 2] < before + 3; i++)
        sleep_ms(10);
    CHECK(fired[SIGRTMIN + 2] >= before + 3);
    CHECK_EQUAL(fired_value, 4711);
}

static atomic_int timed_thread;
static atomic_bool enough;

static void *be_timed(void *argument)
{
    timed_thread = thread_id();
    while (!enough)
        sleep_ms(1);
    return argument;
}

static void tells_one_thread(void)
{
    on(SIGUSR2);
    for (int i = 0; i < 3; i++)
        start_thread(be_timed, NULL);
    while (!timed_thread)
        sleep_ms(1);
    sleep_ms(10);
    int tid = timed_thread;
    set(create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR2, 0, tid), SECOND / 50, SECOND / 50);
    be_checkpointed();
    int before = fired[SIGUSR2];
    for (int i = 0; i < 500 && fired[SIGUSR2] < before + 3; i++)
        sleep_ms(10);
    CHECK(fired[SIGUSR2] >= before + 3);
    CHECK_EQUAL(fired_in, tid);
}

static void posix_timer_that_waits(void)
{
    block(SIGRTMIN + 1);
    int id = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 1, 6, 0);
    set(id, SECOND / 1000, SECOND / 100);
    sleep_ms(20);
    be_checkpointed();
    expect_more(SIGRTMIN + 1, 4);
    CHECK(remaining_ns(id) <= SECOND / 100);
}

/* A timer that is over while nobody looks fires once it can. */
static void over_in_the_meantime(void)
{
    sigset_t set_of_one;

    sigemptyset(&set_of_one);
    sigaddset(&set_of_one, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set_of_one, NULL);
    set(create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 5, 0), SECOND / 1000, 0);
    sleep_ms(20);
    be_checkpointed();
    siginfo_t info;
    CHECK_EQUAL(sigtimedwait(&set_of_one, &info, &(struct timespec){5, 0}), SIGUSR1);
    CHECK_EQUAL(info.si_value.sival_int, 5);
    CHECK(sigtimedwait(&set_of_one, &info, &(struct timespec){0, 50000000}) < 0 && errno == EAGAIN);
}

const struct subject subjects[] = {
    {"interval-timers-remain", interval_timers_remain, .new_pid = true},
    {"interval-timers-fire", interval_timers_fire, .new_pid = true},
    {"interval-timer-that-waits", interval_timer_that_waits},
    {"alarm", alarm_remains, .new_pid = true},
    {"disarmed", disarmed_stays_disarmed},
    {"numbers-with-holes", numbers_with_holes, .new_pid = true},
    {"clocks", clocks},
    {"processor-clocks", processor_clocks},
    {"notifies-nobody", notifies_nobody},
    {"fires-with-its-value", fires_with_its_value},
    {"tells-one-thread", tells_one_thread},
    {"posix-timer-that-waits", posix_timer_that_waits},
    {"over-in-the-meantime", over_in_the_meantime},
    {0},
};
