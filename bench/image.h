/* The rows of durable images. */
#pragma once

#include "table.h"

/* Images are written to a directory of our own in `tmpfs` (/dev/shm). */
void bench_image(const char *command, const char *target, unsigned rounds, unsigned largest,
                 struct table *table);
