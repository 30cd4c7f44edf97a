/* Every thread comes back under its number, with all that is its own: stack and TLS, name, affinity,
 * scheduling, signal mask, alternate stack, base registers, timer slack (clone(2), prctl(2), sched(7),
 * arch_prctl(2)). */
#include "subject.h"

#include <asm/prctl.h>
#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef SS_AUTODISARM
#define SS_AUTODISARM (1U << 31)
#endif
#define SCHED_FLAG_RESET_ON_FORK 0x01

/* linux/sched/types.h cannot be included beside sched.h. */
struct sched_attr {
    uint32_t size, sched_policy;
    uint64_t sched_flags;
    int32_t sched_nice;
    uint32_t sched_priority;
    uint64_t sched_runtime, sched_deadline, sched_period;
    uint32_t sched_util_min, sched_util_max;
};

enum { MANY = 200 };

/* A gate at which threads wait for be_checkpointed() to be over: a futex, by way of a mutex and a condition.
 */
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    int arrived;
    bool open;
} gate = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, false};

static void wait_at_gate(void)
{
    pthread_mutex_lock(&gate.mutex);
    gate.arrived++;
    pthread_cond_broadcast(&gate.changed);
    while (!gate.open)
        pthread_cond_wait(&gate.changed, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
}

/* Runs `count` threads; all of them wait at the gate while we are checkpointed, and are joined afterwards. */
static void with_threads(int count, void *(*function)(void *))
{
    pthread_t threads[MANY];

    for (intptr_t i = 0; i < count; i++)
        threads[i] = start_thread(function, (void *)i);
    pthread_mutex_lock(&gate.mutex);
    while (gate.arrived < count)
        pthread_cond_wait(&gate.changed, &gate.mutex);
    pthread_mutex_unlock(&gate.mutex);
    be_checkpointed();
    pthread_mutex_lock(&gate.mutex);
    gate.open = true;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.mutex);
    for (intptr_t i = 0; i < count; i++) {
        void *result;
        errno = pthread_join(threads[i], &result);
        CHECK(errno == 0 && (intptr_t)result == i);
    }
}

/* ---- numbers, stacks, TLS ---- */

static _Thread_local struct {
    intptr_t number;
    int tid;
    char name[16];
} mine;

static void *remember_and_compare(void *argument)
{
    uint64_t on_stack[128];
    char name[16];
    pthread_t self = pthread_self();

    mine.number = (intptr_t)argument;
    mine.tid = thread_id();
    fill(on_stack, sizeof on_stack, (uint64_t)mine.number);
    snprintf(mine.name, sizeof mine.name, "thread %ld", (long)mine.number);
    pthread_setname_np(self, mine.name);
    wait_at_gate();
    CHECK_EQUAL(mine.number, (intptr_t)argument);
    CHECK_EQUAL(thread_id(), mine.tid);
    CHECK(pthread_self() == self);
    CHECK(is_filled(on_stack, sizeof on_stack, (uint64_t)mine.number));
    pthread_getname_np(pthread_self(), name, sizeof name);
    CHECK_TEXT(name, mine.name);
    return argument;
}

static int count_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    int count = 0;

    for (struct dirent *entry; (entry = readdir(tasks));)
        count += entry->d_name[0] != '.';
    closedir(tasks);
    return count;
}

static void ten_threads(void)
{
    with_threads(10, remember_and_compare);
}

static void two_hundred_threads(void)
{
    with_threads(MANY, remember_and_compare);
    CHECK_EQUAL(count_threads(), 1); /* pthread_join(3) has waited for the kernel, not only for the library */
}

/* The numbers are in another order than those of a fresh process would be, and have holes. */
static void *pass(void *argument)
{
    return argument;
}

static void numbers_with_holes(void)
{
    for (int i = 0; i < 20; i++)
        pthread_join(start_thread(pass, NULL), NULL);
    pthread_t early = start_thread(remember_and_compare, (void *)99);
    for (int i = 0; i < 20; i++)
        pthread_join(start_thread(pass, NULL), NULL);
    with_threads(3, remember_and_compare);
    pthread_join(early, NULL);
}

/* A signal to one thread reaches that thread. */
static atomic_int reached;

static void note_reached(int number)
{
    (void)number;
    reached = thread_id();
}

static void *answer_signal(void *argument)
{
    int *tid = argument;

    *tid = thread_id();
    while (!reached)
        sleep_ms(1);
    return NULL;
}

static void can_be_signalled(void)
{
    volatile int tid = 0;
    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = note_reached, .sa_flags = SA_RESTART}, NULL));
    pthread_t thread = start_thread(answer_signal, (void *)&tid);
    while (!tid)
        sleep_ms(1);
    be_checkpointed();
    CHECK_EQUAL(pthread_kill(thread, SIGUSR1), 0);
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK_EQUAL(reached, tid);
}

/* ---- what each has of its own ---- */

static void *own_affinity(void *argument)
{
    cpu_set_t wanted, found;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);

    CPU_ZERO(&wanted);
    CPU_SET((size_t)((intptr_t)argument % processors), &wanted);
    MUST(sched_setaffinity(0, sizeof wanted, &wanted));
    wait_at_gate();
    MUST(sched_getaffinity(0, sizeof found, &found));
    CHECK(CPU_EQUAL(&found, &wanted));
    return argument;
}

static void affinity(void)
{
    with_threads(4, own_affinity);
}

static void *own_scheduling(void *argument)
{
    static const struct sched_attr wanted[] = {
        {.size = sizeof *wanted, .sched_policy = SCHED_OTHER, .sched_nice = 7},
        {.size = sizeof *wanted, .sched_policy = SCHED_BATCH, .sched_nice = 3},
        {.size = sizeof *wanted, .sched_policy = SCHED_IDLE, .sched_nice = 0},
        {.size = sizeof *wanted,
         .sched_policy = SCHED_OTHER,
         .sched_nice = 1,
         .sched_flags = SCHED_FLAG_RESET_ON_FORK},
        {.size = sizeof *wanted, .sched_policy = SCHED_FIFO, .sched_priority = 2},
        {.size = sizeof *wanted, .sched_policy = SCHED_RR, .sched_priority = 1},
        {.size = sizeof *wanted, .sched_policy = SCHED_OTHER, .sched_nice = -5},
    };
    struct sched_attr before = {0}, after = {0};
    size_t row = (size_t)(intptr_t)argument % (sizeof wanted / sizeof *wanted);

    /* The last three need a privilege; without it, the thread keeps what it has. */
    if (syscall(SYS_sched_setattr, 0, &wanted[row], 0) < 0 && row < 4)
        fail(__FILE__, __LINE__, "cannot set row %zu: %s", row, strerror(errno));
    MUST(syscall(SYS_sched_getattr, 0, &before, sizeof before, 0));
    wait_at_gate();
    MUST(syscall(SYS_sched_getattr, 0, &after, sizeof after, 0));
    CHECK_EQUAL(after.sched_policy, before.sched_policy);
    CHECK_EQUAL(after.sched_nice, before.sched_nice);
    CHECK_EQUAL(after.sched_priority, before.sched_priority);
    CHECK_EQUAL(after.sched_flags, before.sched_flags);
    return argument;
}

static void scheduling(void)
{
    with_threads(7, own_scheduling);
}

static void *own_mask(void *argument)
{
    sigset_t wanted, found;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGRTMIN + (int)(intptr_t)argument);
    sigaddset(&wanted, SIGHUP);
    pthread_sigmask(SIG_SETMASK, &wanted, NULL);
    wait_at_gate();
    pthread_sigmask(SIG_SETMASK, NULL, &found);
    for (int number = 1; number < 65; number++)
        if (number != 32 && number != 33)
            CHECK_EQUAL(sigismember(&found, number), sigismember(&wanted, number));
    return argument;
}

static void signal_masks(void)
{
    with_threads(8, own_mask);
}

static _Thread_local char *alternate;
static _Thread_local bool was_on_alternate;

static void look_where_we_are(int number)
{
    char here;

    (void)number;
    was_on_alternate = &here >= alternate && &here < alternate + 65536;
}

static void *own_alternate_stack(void *argument)
{
    stack_t found, wanted = {.ss_sp = alternate = map_anonymous(65536), .ss_size = 65536};

    wanted.ss_flags = (intptr_t)argument % 2 ? (int)SS_AUTODISARM : 0;
    if (argument)
        MUST(sigaltstack(&wanted, NULL));
    wait_at_gate();
    MUST(sigaltstack(NULL, &found));
    if (argument) {
        CHECK(found.ss_sp == wanted.ss_sp && found.ss_size == wanted.ss_size &&
              found.ss_flags == wanted.ss_flags);
        pthread_kill(pthread_self(), SIGUSR2);
        CHECK(was_on_alternate);
    } else {
        CHECK_EQUAL(found.ss_flags, SS_DISABLE);
    }
    return argument;
}

static void alternate_stacks(void)
{
    MUST(sigaction(SIGUSR2, &(struct sigaction){.sa_handler = look_where_we_are, .sa_flags = SA_ONSTACK},
                   NULL));
    with_threads(5, own_alternate_stack);
}

static void *own_base_registers(void *argument)
{
    unsigned long fs_before, fs, gs;
    char area[64];

    MUST(syscall(SYS_arch_prctl, ARCH_SET_GS, area));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs_before));
    area[5] = 55;
    wait_at_gate();
    MUST(syscall(SYS_arch_prctl, ARCH_GET_GS, &gs));
    MUST(syscall(SYS_arch_prctl, ARCH_GET_FS, &fs));
    CHECK(gs == (unsigned long)area && fs == fs_before);
    char byte;
    __asm__ volatile("movb %%gs:5, %0" : "=q"(byte));
    CHECK_EQUAL(byte, 55);
    return argument;
}

static void base_registers(void)
{
    with_threads(4, own_base_registers);
}

static void *own_timer_slack(void *argument)
{
    unsigned long wanted = 70000 + 1000 * (unsigned long)(intptr_t)argument;

    MUST(prctl(PR_SET_TIMERSLACK, wanted));
    wait_at_gate();
    CHECK_EQUAL(prctl(PR_GET_TIMERSLACK), wanted);
    MUST(prctl(PR_SET_TIMERSLACK, 0)); /* back to the default, which a thread has from the one that made it */
    CHECK_EQUAL(prctl(PR_GET_TIMERSLACK), 50000);
    return argument;
}

static void timer_slack(void)
{
    with_threads(4, own_timer_slack);
}

static void *own_no_new_privileges(void *argument)
{
    if (argument)
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    wait_at_gate();
    CHECK_EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), argument != NULL);
    return argument;
}

static void no_new_privileges(void)
{
    with_threads(2, own_no_new_privileges);
}

/* PR_SET_TSC, PR_SET_SPECULATION_CTRL and the like are of a thread, too; of them this one can be asked of any
 * processor. */
static void *own_tsc(void *argument)
{
    int found;

    if (argument)
        MUST(prctl(PR_SET_TSC, PR_TSC_SIGSEGV));
    wait_at_gate();
    MUST(prctl(PR_GET_TSC, &found));
    CHECK_EQUAL(found, argument ? PR_TSC_SIGSEGV : PR_TSC_ENABLE);
    return argument;
}

static void time_stamp_counter(void)
{
    with_threads(2, own_tsc);
}

static void *own_memory_policy(void *argument)
{
    enum { PREFER_LOCAL = 4 };
    int policy;

    if (argument && syscall(SYS_set_mempolicy, PREFER_LOCAL, NULL, 0) < 0)
        skip("this kernel has no memory policies");
    wait_at_gate();
    if (syscall(SYS_get_mempolicy, &policy, NULL, 0, NULL, 0) == 0)
        CHECK_EQUAL(policy, argument ? PREFER_LOCAL : 0);
    return argument;
}

static void memory_policy(void)
{
    with_threads(2, own_memory_policy);
}

/* ---- the first thread is one of them ---- */

static void first_thread(void)
{
    struct sched_attr before = {0}, after = {0};
    stack_t stack = {.ss_sp = map_anonymous(65536), .ss_size = 65536}, found;
    char name[16];

    MUST(sigaltstack(&stack, NULL));
    MUST(prctl(PR_SET_NAME, "a (name) of 15"));
    MUST(prctl(PR_SET_TIMERSLACK, 123456));
    MUST(setpriority(PRIO_PROCESS, 0, 4));
    MUST(syscall(SYS_sched_getattr, 0, &before, sizeof before, 0));
    be_checkpointed();
    MUST(sigaltstack(NULL, &found));
    CHECK(found.ss_sp == stack.ss_sp);
    MUST(prctl(PR_GET_NAME, name));
    CHECK_TEXT(name, "a (name) of 15");
    CHECK_TEXT(value_in("/proc/self/status", "Name"), "a (name) of 15");
    CHECK_EQUAL(prctl(PR_GET_TIMERSLACK), 123456);
    MUST(syscall(SYS_sched_getattr, 0, &after, sizeof after, 0));
    CHECK_EQUAL(after.sched_nice, 4);
    CHECK_EQUAL(after.sched_policy, before.sched_policy);
    CHECK_EQUAL(thread_id(), getpid());
}

/* ---- coming and going ---- */

static atomic_bool enough;
static atomic_long started, ended;

static void *count_and_end(void *argument)
{
    ended++;
    return argument;
}

static void *start_and_join(void *argument)
{
    while (!enough) {
        started++;
        pthread_join(start_thread(count_and_end, NULL), NULL);
    }
    return argument;
}

static void coming_and_going(void)
{
    pthread_t starters[4];

    for (int i = 0; i < 4; i++)
        starters[i] = start_thread(start_and_join, NULL);
    sleep_ms(20);
    be_checkpointed();
    long so_far = ended;
    sleep_ms(50);
    CHECK(ended > so_far);
    enough = true;
    for (int i = 0; i < 4; i++)
        CHECK_EQUAL(pthread_join(starters[i], NULL), 0);
    CHECK_EQUAL(started, ended);
    CHECK_EQUAL(count_threads(), 1);
}

/* Relays: every thread starts the next one and ends, so that the list of threads is out of date before it is
 * read. A thread that runs on unseen while all others are stopped is lost, and its relay comes to a halt. */
enum { RELAYS = 48, RELAY_STACK_BYTES = 64 * 1024 };

static struct relay {
    atomic_long passed;
    atomic_bool over;
} relays[RELAYS];

static void *pass_on(void *argument)
{
    struct relay *relay = argument;
    pthread_attr_t attributes;
    pthread_t next;

    relay->passed++;
    if (enough) {
        relay->over = true;
        return NULL;
    }
    CHECK_EQUAL(pthread_attr_init(&attributes), 0);
    CHECK_EQUAL(pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED), 0);
    CHECK_EQUAL(pthread_attr_setstacksize(&attributes, RELAY_STACK_BYTES), 0);
    CHECK_EQUAL(pthread_create(&next, &attributes, pass_on, relay), 0);
    return NULL;
}

static void each_starts_the_next(void)
{
    long before[RELAYS];

    for (int i = 0; i < RELAYS; i++)
        pthread_detach(start_thread(pass_on, &relays[i]));
    sleep_ms(20);
    be_checkpointed();
    for (int i = 0; i < RELAYS; i++)
        before[i] = relays[i].passed;
    for (int i = 0, waited = 0; i < RELAYS; i++) {
        for (; relays[i].passed == before[i] && waited < 5000; waited++)
            sleep_ms(1);
        CHECK(relays[i].passed > before[i]);
    }
    enough = true;
    for (int i = 0; i < RELAYS; i++)
        while (!relays[i].over)
            sleep_ms(1);
}

/* Threads that are at work and never in a system call. */
static void *work(void *argument)
{
    volatile uint64_t *sum = argument;
    uint64_t expected = 0;

    for (uint64_t i = 0; !enough; i++) {
        *sum += i * i;
        expected += i * i;
    }
    CHECK(*sum == expected);
    return NULL;
}

static void at_work(void)
{
    static uint64_t sums[6][8];
    pthread_t threads[6];

    for (int i = 0; i < 6; i++)
        threads[i] = start_thread(work, &sums[i]);
    sleep_ms(20);
    be_checkpointed();
    sleep_ms(50);
    enough = true;
    for (int i = 0; i < 6; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
}

/* The first thread has ended and the others go on: nothing can be injected into it, and /proc shows a zombie.
 */
static void *go_on_without_first(void *argument)
{
    sleep_ms(20); /* until it is gone */
    be_checkpointed();
    CHECK(thread_id() != getpid());
    CHECK(strstr(value_in("/proc/self/status", "State"), "Z") != NULL);
    if (write(STDOUT_FILENO, "ok\n", 3) == 3)
        _exit(0);
    return argument;
}

static void first_thread_has_ended(void)
{
    start_thread(go_on_without_first, NULL);
    pthread_exit(NULL);
}

const struct subject subjects[] = {
    {"ten", ten_threads},
    {"two-hundred", two_hundred_threads},
    {"numbers-with-holes", numbers_with_holes},
    {"can-be-signalled", can_be_signalled},
    {"affinity", affinity, .new_pid = true},
    {"scheduling", scheduling, .new_pid = true},
    {"signal-masks", signal_masks, .new_pid = true},
    {"alternate-stacks", alternate_stacks},
    {"base-registers", base_registers, .new_pid = true},
    {"timer-slack", timer_slack, .new_pid = true},
    {"no-new-privileges", no_new_privileges},
    {"time-stamp-counter", time_stamp_counter},
    {"memory-policy", memory_policy},
    {"first", first_thread},
    {"coming-and-going", coming_and_going},
    {"each-starts-the-next", each_starts_the_next},
    {"at-work", at_work},
    {"first-has-ended", first_thread_has_ended, .fails = "all: main thread; install: ended"},
    {0},
};
