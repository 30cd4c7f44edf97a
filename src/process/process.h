/* What a process is besides its capabilities: threads, signals, timers, memory treatment, session. Three
 * things to do with it: say beforehand what would not come back (obstacles), capture it into a snapshot, and
 * rebuild it in a half-made process. */
#pragma once

#include "base/base.h"
#include "snapshot/snapshot.h"

/* ---- obstacles.c, obstacles_*.c: what would not come back, found before anything is changed ---- */

enum severity {
    SEVERITY_NOTE = 0, /* worth saying, stops nobody */
    SEVERITY_DEGRADED = 1,
    SEVERITY_LOST = 2,
};

struct obstacle {
    enum severity severity;
    int selector; /* -1: not about one capability */
    char *sentence;
};

struct obstacles {
    struct obstacle *items;
    size_t count;
};

int obstacles_add(struct obstacles *obstacles, enum severity severity, int selector, const char *format, ...)
    _printf_(4, 5);
void obstacles_free(struct obstacles *obstacles);

/* Finds everything about live process `pid` that a restore with this form of twin would not bring back.
 * `leave_running`: the target is not killed. Stops nothing. Fails only if the process cannot be looked at. */
int process_find_obstacles(pid_t pid, enum snapshot_form form, bool leave_running,
                           struct obstacles *ret_obstacles, struct reseat_error **ret_error);

/* Whether the process is one that can be checkpointed at all: live, not a kernel thread, not a zombie,
 * 64-bit, not traced, ours to trace. The error says which permission is missing and what grants it. */
int process_check_eligible(pid_t pid, struct reseat_error **ret_error);
