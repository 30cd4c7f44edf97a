/* Samples, their medians and spread, and the table of results: one row a measurement, with its floor and its
 * bar, as Markdown that also reads as it is. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define SAMPLES_MAX 1000

struct samples {
    double us[SAMPLES_MAX];
    size_t count;
};

void samples_add(struct samples *samples, double us);
/* The sample below which this part of them lies: 0.5 is the median. 0 if there are none. */
double samples_quantile(const struct samples *samples, double part);
double samples_median(const struct samples *samples);

struct table {
    size_t bars, met;
};

/* What a measurement is held against. */
struct bar {
    double us; /* 0: none, the row only reports */
    char text[64];
};

/* Begins a part of the table with a heading, and says what the floor of its rows is. */
void table_begin(const char *heading, const char *floor_text);
void table_row(struct table *table, const char *what, const struct samples *measured,
               const struct samples *floor, const struct bar *bar);
