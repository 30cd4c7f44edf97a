/* See table.h. A quantile is one of the samples, never something between two. */
#include "table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void samples_add(struct samples *samples, double us)
{
    if (samples->count < SAMPLES_MAX)
        samples->us[samples->count++] = us;
}

static int compare_samples(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double samples_quantile(const struct samples *samples, double part)
{
    static double sorted[SAMPLES_MAX];
    if (!samples->count)
        return 0;
    memcpy(sorted, samples->us, samples->count * sizeof *sorted);
    qsort(sorted, samples->count, sizeof *sorted, compare_samples);
    return sorted[(size_t)(part * (double)(samples->count - 1) + 0.5)];
}

double samples_median(const struct samples *samples)
{
    return samples_quantile(samples, 0.5);
}

/* Three digits that mean something, and the unit. */
static const char *format_time(double us, char *text, size_t size)
{
    if (us < 100)
        snprintf(text, size, "%.*f µs", us < 10 ? 2 : 1, us);
    else if (us < 100000)
        snprintf(text, size, "%.*f ms", us < 10000 ? 2 : 1, us / 1000);
    else
        snprintf(text, size, "%.0f ms", us / 1000);
    return text;
}

void table_begin(const char *heading, const char *floor_text)
{
    printf("\n## %s\n\nFloor: %s.\n\n", heading, floor_text);
    printf("| %-50s | %9s | %9s | %9s | %9s | %6s | %-30s | %-3s |\n", "what", "median", "p10", "p90",
           "floor", "ratio", "bar", "met");
    printf("|%.52s|%.10s:|%.10s:|%.10s:|%.10s:|%.7s:|%.32s|%.5s|\n",
           "----------------------------------------------------", "----------", "----------", "----------",
           "----------", "-------", "--------------------------------", "-----");
}

/* printf counts bytes, and a µ has two. */
static int width_of(const char *text, int columns)
{
    int wide = 0;
    for (; *text; text++)
        wide += (*text & 0xc0) == 0x80;
    return columns + wide;
}

void table_row(struct table *table, const char *what, const struct samples *measured,
               const struct samples *floor, const struct bar *bar)
{
    double median = samples_median(measured), floor_median = samples_median(floor);
    bool met = median <= bar->us;
    char middle[24], low[24], high[24], under[24];
    format_time(median, middle, sizeof middle);
    format_time(samples_quantile(measured, 0.1), low, sizeof low);
    format_time(samples_quantile(measured, 0.9), high, sizeof high);
    format_time(floor_median, under, sizeof under);
    printf("| %-*s | %*s | %*s | %*s | %*s | %6.2f | %-*s | %-3s |\n", width_of(what, 50), what,
           width_of(middle, 9), middle, width_of(low, 9), low, width_of(high, 9), high, width_of(under, 9),
           under, floor_median > 0 ? median / floor_median : 0, width_of(bar->text, 30), bar->text,
           bar->us <= 0 ? "–"
           : met        ? "yes"
                        : "NO");
    fflush(stdout);
    if (bar->us > 0) {
        table->bars++;
        table->met += met;
    }
}
