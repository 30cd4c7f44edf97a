/* The state of a file in an image, for the files that write and read it. */
#pragma once

#include "object/durable.h"

enum file_flags {
    FILE_DELETED = 1 << 0,
    FILE_HAS_CONTENT = 1 << 1,
    FILE_OWN_PROC = 1 << 2,   /* the path is relative to /proc/PID of the process itself */
    FILE_OF_PROCESS = 1 << 3, /* below /proc/PID of another one */
};

struct file_state {
    uint64_t size;
    int64_t offset;      /* -1: cannot be positioned */
    int64_t modified_ns; /* FILE_OF_PROCESS: when that started, in clock ticks; 0: it has ended */
    uint32_t flags;
    uint32_t uid, gid;
    uint32_t special_major, special_minor;
    uint32_t path_length; /* of the text behind this, with its NUL */
    uint32_t lock_count;  /* struct lock_state, behind the text at a multiple of 8 */
    uint32_t reserved;
};

struct file_state file_state_of(const struct object_view *view);
const char *file_path_of(const struct object_view *view);
/* Opens once more what `source` is on, for the object of the view. */
int file_put_again(struct object_making *making, const struct object_view *view, native_cap_t source,
                   struct reseat_error **ret_error);

/* Makes the objects on a file or directory that was deleted. */
int file_make_deleted(struct object_making *making, const struct object_view *view,
                      struct reseat_error **ret_error);

/* ---- file_process.c ---- */

/* Whether it is below /proc/PID of another process; notes which. */
bool file_note_process(const struct object_capture *capture, struct file_state *state);
/* Whether it is, and that process has ended. */
bool file_process_has_ended(const struct object_view *view);
bool file_process_can_be_made(const struct object_view *view);
int file_make_of_ended(struct object_making *making, const struct object_view *view,
                       struct reseat_error **ret_error);
