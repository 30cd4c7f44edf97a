/* The rig: a target to measure on, and its parent. The parent (the *keeper*) is a process of its own, as in
 * real life, which collects whatever child dies at once: so the number of a killed target is free, and twins
 * leave no zombies. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BENCH_SOCKET 3 /* the target's selector of the socket on which it is asked */

/* What a target can be asked; it answers with nanoseconds. */
enum bench_request {
    BENCH_FORK = 1,           /* how long a fork takes */
    BENCH_WRITE = 2,          /* how long it takes to write to every page */
    BENCH_FORK_AND_WRITE = 3, /* the same right after a fork, whose child lives */
};

struct shape {
    unsigned mebibytes, capabilities, threads;
    bool is_mixed;              /* its capabilities are of many kinds; otherwise eventfds */
    unsigned content_mebibytes; /* of a memfd and of a deleted file, each; 0: it has none */
};

struct rig {
    struct shape shape;
    pid_t keeper, target;
    int socket;
};

/* These end the bench with a message if they fail: without its rig it has nothing to measure. */
struct rig rig_start(const char *program, const struct shape *shape);
uint64_t rig_ask(struct rig *rig, enum bench_request request);
/* Ends the target and all twins that were made of it. */
void rig_end(struct rig *rig);

uint64_t rig_now_ns(void);
void rig_fail(const char *format, ...) __attribute__((__format__(printf, 1, 2), noreturn));
