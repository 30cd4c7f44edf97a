/* The rows of the native PD interface. */
#pragma once

#include "table.h"

void bench_native_pd(const char *target, unsigned rounds, struct table *table);
