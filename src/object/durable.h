/* How the kinds get into a durable image and out of it. Private to the object room.
 *
 * A kind says what it needs in a *state*, a blob with a fixed layout of its own (docs/image.md), which begins
 * with a struct and may have text and bytes behind it. Capture writes it; check decides whether every length
 * and reference in it is one (the image is hostile); judge says what a restore would make of it here;
 * recreate makes the object, in our own process; complete does what needs all objects to be there: queues
 * with descriptors in flight, locks. What belongs together (the ends of a pipe, a pair of sockets) is made by
 * whichever of them comes first. */
#pragma once

#include "object/deputy.h"
#include "object/object.h"
#include "snapshot/snapshot.h"

/* ---- capture ---- */

struct capturing;

/* One object that is being captured. */
struct object_capture {
    struct capturing *all;
    const struct object_sight *sight; /* its first selector, or ours if it is in flight */
    native_cap_t cap;
    const struct object_contents *contents; /* NULL: nobody wants any */
    struct snapshot *snapshot;
    uint32_t row;         /* of the object in snapshot->objects */
    bool without_content; /* only an outline is wanted */
    bool freezes;         /* and connections would be frozen */
    uint8_t *state;
    size_t length;
};

/* Adds to the end of the state. -ENOMEM. */
int state_add(struct object_capture *capture, const void *data, size_t length);
/* The object will come back with less state, or not at all; a second, worse finding replaces a first. */
int capture_degraded(struct object_capture *capture, const char *format, ...) _printf_(2, 3);
int capture_lost(struct object_capture *capture, const char *format, ...) _printf_(2, 3);
/* The object that `cap` of ours holds: an id, if need be a new one (then `cap` is kept, and captured later).
 * For descriptors in flight. */
int capture_reference(struct object_capture *capture, native_cap_t cap, object_id_t *ret_object,
                      struct reseat_error **ret_error);
/* Whether no object before this one that is made the same way has the same inode. */
/* The object behind entry `occurrence` of number `selector` in the interest set that is being captured; 0:
 * nobody inside holds it. */
object_id_t capture_find_watched(const struct object_capture *capture, selector_t selector,
                                 unsigned occurrence);
/* Where it is: as it was noted in the stop of a process that runs on, or else as it is; -1: cannot be
 * positioned. */
int64_t capture_offset(const struct object_capture *capture);
bool capture_is_first_of_inode(const struct object_capture *capture);
pid_t capture_target(const struct object_capture *capture);

/* ---- an object of a snapshot ---- */

struct object_view {
    const struct snapshot *snapshot;
    const struct snapshot_object *row;
    const struct object_kind *kind; /* NULL: unknown */
    const uint8_t *state;
    size_t length;
};

object_id_t view_id(const struct object_view *view);
struct object_view view_of(const struct snapshot *snapshot, object_id_t object);
const char *view_kind_name(const struct object_view *view);
const char *view_name(const struct object_view *view);
/* The struct at the beginning of the state, what an older, shorter one lacks as zero. */
void view_read(const struct object_view *view, void *ret_state, size_t length);
/* -EBADMSG, with kind and object named. */
int view_bad(const struct object_view *view, struct reseat_error **ret_error, const char *format, ...)
    _printf_(3, 4);
/* Whether the state has that many bytes there. */
bool view_has(const struct object_view *view, uint64_t offset, uint64_t length);
/* Whether what has no selector here may be in flight: an outline does not look into queues. The last word is
 * said when the process stands still. */
bool view_may_be_in_flight(const struct object_view *view, const struct object_options *options);
selector_t
view_selector(const struct object_view *view); /* the first that holds it, or NATIVE_SELECTOR_END */
/* Every state of a snapshot: -EBADMSG. */
int object_check(const struct snapshot *snapshot, struct reseat_error **ret_error);
bool object_is_unwanted(const struct object_options *options, object_id_t object);
/* Whether it is given, and of use. Its state must have been checked. */
bool object_is_given(const struct object_options *options, const struct object_view *view);
/* Whether its state was checked and may be read: it has a kind that can make it, and is not lost. */
bool view_is_usable(const struct object_view *view);
/* The next usable object after `after` (0: the first) with the same inode that is made the same way; 0: none.
 */
object_id_t view_next_of_inode(const struct object_view *view, object_id_t after);

/* ---- place.c: paths in an image ---- */

#define PLACE_PATH_MAX     4096
#define PLACE_OWN_PATH_MAX 128 /* below /proc/self */

/* Whether the state has a text of that length there, its NUL included; one that is an absolute path without
 * "..", or a relative one. */
bool view_has_text(const struct object_view *view, uint64_t offset, uint64_t length);
bool view_has_path(const struct object_view *view, uint64_t offset, uint64_t length);
bool view_has_relative_path(const struct object_view *view, uint64_t offset, uint64_t length);
/* A place in the tree, without symbolic links on the way, and without touching what is there. */
int place_open(const char *path, unsigned flags);
/* The directory of an absolute path, and the name in it. */
int place_open_parent(const char *path, const char **ret_name);

/* ---- recreate ---- */

enum making_state { MAKING_NOTHING = 0, MAKING_MADE, MAKING_GIVEN, MAKING_LOST };

struct object_making {
    struct snapshot *snapshot;
    const struct object_options *options;
    struct object_set *set;
    native_cap_t *held; /* to be closed when all is done: other ends of what has none inside */
    size_t held_count;
    uint8_t *states;        /* per object: enum making_state */
    native_cap_t *partners; /* per object: the other end of a socket that has none inside, held by us */
    struct deputy deputy;   /* who makes unix sockets in the name of others */
};

/* Puts a capability that was made into the set; takes it over. */
void making_put(struct object_making *making, object_id_t object, native_cap_t cap);
bool making_has(const struct object_making *making, object_id_t object);
bool making_is_lost(const struct object_making *making, object_id_t object); /* a placeholder stands for it */
/* Keeps a descriptor until every object is complete; takes it over. */
int making_hold(struct object_making *making, native_cap_t cap);
/* Opens what a descriptor of ours is on once more: another object with flags of its own. */
int making_reopen(native_cap_t cap, unsigned flags);
/* Status flags that can be set afterwards: O_NONBLOCK, O_APPEND, O_DIRECT, O_NOATIME. */
int making_set_flags(native_cap_t cap, unsigned flags);

struct object_durable {
    size_t state_bytes; /* of the struct at the beginning */
    bool comes_last;    /* is captured when all others have been: it refers to them */
    int (*capture)(struct object_capture *capture, struct reseat_error **ret_error);
    /* All optional. */
    int (*check)(const struct object_view *view, struct reseat_error **ret_error);
    int (*judge)(const struct object_view *view, const struct object_options *options,
                 enum object_fate *ret_fate, char **ret_sentence);
    int (*recreate)(struct object_making *making, const struct object_view *view,
                    struct reseat_error **ret_error);
    int (*complete)(struct object_making *making, const struct object_view *view, native_cap_t cap,
                    struct reseat_error **ret_error);
    /* When all are complete: what would have been in the way before. */
    int (*finish)(struct object_making *making, const struct object_view *view, native_cap_t cap,
                  struct reseat_error **ret_error);
    int (*late)(const struct object_view *view, pid_t pid, native_cap_t *ret_cap,
                struct reseat_error **ret_error);
    /* Whether it can only be made when the restored process is there: late(), or from inside. */
    bool (*needs_process)(const struct object_view *view);
};

/* The kind of that name, or NULL. */
const struct object_kind *object_kind_by_name(const char *name);

/* ---- content.c: what is in a file that comes back with its content ---- */

/* Has the content of the object's file, of `size` bytes, taken. */
int content_capture(struct object_capture *capture, uint64_t size, struct reseat_error **ret_error);
/* Whether what is stored of it fits into a file of `size` bytes. */
int content_check(const struct object_view *view, uint64_t size, struct reseat_error **ret_error);
/* Gives a new, empty file that size, and the content. */
int content_write(const struct object_making *making, const struct object_view *view, uint64_t size,
                  native_cap_t cap, struct reseat_error **ret_error);
/* The same for one that can only be mapped (hugetlbfs). */
int content_write_mapped(const struct object_making *making, const struct object_view *view, uint64_t size,
                         native_cap_t cap, struct reseat_error **ret_error);

/* ---- locks.c: flock, OFD locks and leases, which belong to the object ---- */

struct lock_state {
    int32_t kind; /* enum lock_kind */
    int32_t type; /* F_RDLCK, F_WRLCK; of LOCK_BREAKING what it is to become: F_RDLCK, F_UNLCK */
    int64_t start, length;
};

enum lock_kind { LOCK_FLOCK = 1, LOCK_OFD = 2, LOCK_LEASE = 3, LOCK_BREAKING = 4 };

/* Adds the locks of the sight to the state; says how many. */
int locks_capture(struct object_capture *capture, uint32_t *ret_count);
int locks_check(const struct object_view *view, size_t offset, uint32_t count,
                struct reseat_error **ret_error);
int locks_take(const struct object_view *view, size_t offset, uint32_t count, native_cap_t cap,
               struct reseat_error **ret_error);
