/* The rows of core: what one request and one install cost when somebody else does them. */
#pragma once

#include "table.h"

void bench_core(const char *command, const char *target, const char *work_directory, unsigned rounds,
                struct table *table);
