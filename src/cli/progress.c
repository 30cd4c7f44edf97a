/* How far the reading or writing of memory has got: one line on standard error, if that is a terminal and it
 * takes longer than half a second; and the way on which a signal ends it. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define FIRST_NS 500000000U /* nothing is said before */
#define STEP_NS  100000000U
#define BAR      30 /* characters */

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

void progress_begin(struct progress *progress, const struct cli *cli, const char *what)
{
    *progress = (struct progress){.what = what, .start_ns = now_ns()};
    progress->is_wanted = isatty(STDERR_FILENO) && !cli->quiet;
}

static void draw(const struct progress *progress, uint64_t done, uint64_t total, uint64_t passed_ns)
{
    char bar[BAR + 1], amount[32], left[32] = "";
    int filled = (int)((double)done / (double)total * BAR);
    for (int i = 0; i < BAR; i++)
        bar[i] = i < filled ? '#' : '.';
    bar[BAR] = '\0';
    uint64_t left_ns = (uint64_t)((double)passed_ns / (double)done * (double)(total - done));
    fprintf(stderr, "\r%s [%s] %3u %% of %s, %s left\033[K", progress->what, bar,
            (unsigned)((double)done / (double)total * 100), format_bytes(total, amount, sizeof amount),
            format_duration(left_ns, left, sizeof left));
    fflush(stderr);
}

int progress_report(void *userdata, uint64_t done, uint64_t total)
{
    struct progress *progress = userdata;
    if (signals_pending())
        return -EINTR;
    uint64_t now = now_ns(), passed_ns = now - progress->start_ns;
    if (!progress->is_wanted || passed_ns < FIRST_NS || now - progress->drawn_ns < STEP_NS || !done ||
        done > total)
        return 0;
    progress->drawn_ns = now;
    draw(progress, done, total, passed_ns);
    return 0;
}

void progress_end(struct progress *progress)
{
    if (progress->drawn_ns)
        fprintf(stderr, "\r\033[K");
    progress->drawn_ns = 0;
}
