/* Reading what procfs says of one capability. Private to the object room. */
#pragma once

#include "object/object.h"

/* Looks at one process; its buffers hold the strings of the last sight. */
struct observer {
    struct object_table *table;
    struct native_pd *pd;
    int table_fd, info_fd; /* /proc/PID/fd, /proc/PID/fdinfo */
    char *info;
    size_t info_capacity;
    char link[4097]; /* the kernel gives no more than a page */
};

int observer_open(struct observer *observer, struct object_table *table, struct native_pd *pd,
                  struct reseat_error **ret_error);
void observer_close(struct observer *observer);

/* Sees what is at `selector`: 1; 0 if it is unused (any more). Valid until the next sight. */
int observer_see(struct observer *observer, selector_t selector, struct object_sight *ret_sight,
                 struct reseat_error **ret_error);
/* Reads only the info of `selector`, with flags, mount and inode: 1; 0 if it is unused or not to be read. */
int observer_peek(struct observer *observer, selector_t selector, struct object_sight *ret_sight);
/* The mark of what is seen: never differs between two sights of one object. */
struct object_mark object_mark_of(const struct object_sight *sight, const struct object_kind *kind);
int object_mark_compare(const struct object_mark *a, const struct object_mark *b);
/* Cleanup function: lets go of the capability that a sight of a socket holds. */
void object_sight_end(struct object_sight *sight);
