/* Who else on the machine holds what will be made anew. Private to the object room. */
#pragma once

#include "base/base.h"

#include <sys/stat.h>
#include <sys/types.h>

struct outside_entry {
    char class;   /* 'p' pipe, 's' socket, 'f' file without a name */
    dev_t device; /* of a file */
    uint64_t inode;
    pid_t pid;
};

struct outside {
    struct outside_entry *items; /* sorted */
    size_t count;
    bool is_read;
};

/* A process that holds the pipe, socket or nameless file behind `link` (/proc/PID/fd/SEL) and `stat`; 0: none
 * that we can see. Looks around once; `except`: the process in question, its twin. */
pid_t outside_find(struct outside *outside, const pid_t except[2], const char *link, const struct stat *stat);
void outside_free(struct outside *outside);
