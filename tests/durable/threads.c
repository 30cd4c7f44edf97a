/* A process whose stacks are known: each thread goes to the bottom of its own chain of functions and stays
 * there, one of them inside the vDSO most of the time, one in a callback out of a shared library. For tests
 * that look at an image with a debugger. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DEEP      __attribute__((noinline, noclone))
#define BARRIER() __asm__ volatile("" ::: "memory") /* no tail call: every frame stays */
#define MEMORY    (3 << 20)

char marker[32] = "as in the program";
static pthread_barrier_t all_there;
static volatile int never; /* so that no compiler knows that nothing comes back */

static void say_there(void)
{
    pthread_barrier_wait(&all_there);
}

DEEP static void sleep_at_the_bottom(void)
{
    say_there();
    while (!never)
        pause();
}

DEEP static void sleep_deeper(int depth)
{
    if (depth == 0)
        sleep_at_the_bottom();
    else
        sleep_deeper(depth - 1);
    BARRIER();
}

DEEP static void *run_sleeper(void *unused)
{
    sleep_deeper(3);
    BARRIER();
    return unused;
}

DEEP static void ask_the_time(void)
{
    struct timespec now;
    say_there();
    while (!never)
        clock_gettime(CLOCK_MONOTONIC, &now);
}

DEEP static void *run_clock(void *unused)
{
    ask_the_time();
    BARRIER();
    return unused;
}

DEEP static int compare_for_ever(const void *a, const void *b)
{
    (void)a;
    (void)b;
    say_there();
    while (!never)
        pause();
    return 0;
}

DEEP static void *run_callback(void *unused)
{
    int numbers[] = {2, 1};
    qsort(numbers, 2, sizeof numbers[0], compare_for_ever);
    BARRIER();
    return unused;
}

int main(void)
{
    static void *(*const runs[])(void *) = {run_sleeper, run_clock, run_callback};
    pthread_t thread;
    char *memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < MEMORY; i += 2 * 4096) /* every second page */
        snprintf(memory + i, 32, "page %d", i / 4096);
    strcpy(marker, "written since");
    pthread_barrier_init(&all_there, NULL, 4);
    for (unsigned i = 0; i < sizeof runs / sizeof runs[0]; i++)
        pthread_create(&thread, NULL, runs[i], NULL);
    say_there();
    printf("ready %p\n", (void *)memory);
    fflush(stdout);
    sleep_deeper(1); /* the barrier will never be full again */
    return 0;
}
