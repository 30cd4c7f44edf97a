/* Restartable sequences (linux/rseq.h): the registration that the C library made is there for every thread,
 * and a sequence that was stopped in its middle is aborted, never continued: the sum of counters shows it. */
#include "subject.h"

#include <sched.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/rseq.h>

static struct rseq *area(void)
{
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static void need_rseq(void)
{
    if (__rseq_size == 0)
        skip("the C library has registered no rseq area");
}

/* The kernel says EBUSY if exactly this is registered, EINVAL if something else is; without, it would
 * register. */
static bool is_registered(void)
{
    return syscall(SYS_rseq, area(), 32, 0, RSEQ_SIG) < 0 && errno == EBUSY;
}

static void *stay_registered(void *argument)
{
    volatile int *go = argument;

    CHECK(is_registered());
    ++*go;
    while (*go != 100)
        sleep_ms(1);
    CHECK(is_registered());
    CHECK(area()->cpu_id < (unsigned)sysconf(_SC_NPROCESSORS_CONF));
    return NULL;
}

static void registered(void)
{
    volatile int arrived[4] = {0};
    pthread_t threads[4];

    need_rseq();
    CHECK(is_registered());
    for (int i = 0; i < 4; i++) {
        threads[i] = start_thread(stay_registered, (void *)&arrived[i]);
        while (!arrived[i])
            sleep_ms(1);
    }
    be_checkpointed();
    CHECK(is_registered());
    for (int i = 0; i < 4; i++) {
        arrived[i] = 100;
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    }
}

/* ---- counters of each processor, without a lock ---- */

enum { PROCESSORS = 1024, DWELL = 200 };
static struct {
    volatile int64_t count;
    char apart[56];
} counters[PROCESSORS];
static atomic_bool enough;
static atomic_long total;

/* One attempt to add 1 to the counter of the processor that we are on: load, dwell long enough that a stop
 * comes in between, store. Returns whether it was carried out; if it was interrupted, nothing was stored. */
static bool try_to_count(void)
{
    struct rseq *rseq = area();
    int done;

    __asm__ volatile(".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
                     "3: .long 0, 0\n .quad 1f, (2f - 1f), 4f\n .popsection\n"
                     "lea 3b(%%rip), %%rax\n mov %%rax, %[rseq_cs]\n"
                     "1: mov %[cpu], %%eax\n cmp %[max], %%eax\n jae 4f\n"
                     "shl $6, %%rax\n add %[counters], %%rax\n"
                     "mov (%%rax), %%rdx\n inc %%rdx\n"
                     "mov %[dwell], %%ecx\n 5: dec %%ecx\n jnz 5b\n"
                     "mov %%rdx, (%%rax)\n"
                     "2: mov $1, %[done]\n jmp 6f\n"
                     ".long %c[signature]\n"
                     "4: mov $0, %[done]\n"
                     "6:\n"
                     : [rseq_cs] "=m"(rseq->rseq_cs), [done] "=&r"(done)
                     : [cpu] "m"(rseq->cpu_id), [max] "i"(PROCESSORS), [counters] "r"(counters),
                       [dwell] "i"(DWELL), [signature] "i"(RSEQ_SIG)
                     : "rax", "rcx", "rdx", "cc", "memory");
    return done;
}

static void *count(void *argument)
{
    long mine = 0;

    while (!enough)
        mine += try_to_count();
    total += mine;
    return argument;
}

static void counters_add_up(void)
{
    enum { THREADS = 6 };
    pthread_t threads[THREADS];
    int64_t sum = 0;

    need_rseq();
    _Static_assert(sizeof counters[0] == 64, "the sequence shifts by 6");
    for (int i = 0; i < THREADS; i++)
        threads[i] = start_thread(count, NULL);
    sleep_ms(20);
    be_checkpointed();
    sleep_ms(50);
    enough = true;
    for (int i = 0; i < THREADS; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    for (int i = 0; i < PROCESSORS; i++)
        sum += counters[i].count;
    CHECK(sum > 0);
    CHECK_EQUAL(sum, total);
}

/* ---- stopped inside for certain: the sequence lasts until it is aborted ---- */

static atomic_bool inside, out;
static volatile uint64_t forever;

static void *stay_inside(void *argument)
{
    struct rseq *rseq = area();
    int done;

    inside = true;
    do {
        __asm__ volatile(".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
                         "3: .long 0, 0\n .quad 1f, (2f - 1f), 4f\n .popsection\n"
                         "lea 3b(%%rip), %%rax\n mov %%rax, %[rseq_cs]\n"
                         "1: mov %[forever], %%rcx\n jrcxz 1b\n"
                         "2: mov $1, %[done]\n jmp 6f\n"
                         ".long %c[signature]\n"
                         "4: mov $0, %[done]\n"
                         "6:\n"
                         : [rseq_cs] "=m"(rseq->rseq_cs), [done] "=&r"(done)
                         : [forever] "m"(forever), [signature] "i"(RSEQ_SIG)
                         : "rcx", "cc", "memory");
        total += !done;
    } while (!done);
    out = true;
    return argument;
}

static void stopped_inside(void)
{
    need_rseq();
    pthread_t thread = start_thread(stay_inside, NULL);
    while (!inside)
        sleep_ms(1);
    sleep_ms(10);
    be_checkpointed();
    sleep_ms(10);
    forever = 1;
    CHECK_EQUAL(pthread_join(thread, NULL), 0);
    CHECK(out);
}

const struct subject subjects[] = {
    {"registered", registered, .new_pid = true},
    {"counters", counters_add_up, .new_pid = true},
    {"stopped-inside", stopped_inside, .new_pid = true},
    {0},
};
