/* libreseat: checkpoint and restore of live processes in which the capability space never goes wrong.
 *
 * Functions return 0 or a negative errno, take an optional `struct reseat_error **` last (a code and a
 * sentence for people), and write results through `ret_` parameters only on success. A function that fails
 * has changed nothing: the target runs on as it was. "Capability" here is a file descriptor slot's content,
 * never CAP_*.
 *
 * Structures of options begin with zero-initialised fields: `struct reseat_checkpoint_options o = {0};` asks
 * for the usual. The library keeps no global state; calls from several threads on different processes are
 * fine. A call uses ptrace(2), so its thread must not already be tracing the target. */
#ifndef RESEAT_H
#define RESEAT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RESEAT_VERSION "0.1.0"

/* The library is built with everything else hidden. */
#define RESEAT_API __attribute__((visibility("default")))

/* ---- errors ---- */

struct reseat_error;
/* The negative errno. */
RESEAT_API int reseat_error_code(const struct reseat_error *error);
/* What failed, on which PID and selector, why, and what to do about it. Lives as long as the error. For
 * RESEAT_REFUSED one line an item. */
RESEAT_API const char *reseat_error_message(const struct reseat_error *error);
RESEAT_API void reseat_error_free(struct reseat_error *error);

/* The code (as -RESEAT_REFUSED) of an operation that was refused because something would not come back as it
 * was, and the caller did not allow that. */
#define RESEAT_REFUSED 131 /* ENOTRECOVERABLE */

enum reseat_allow {
    RESEAT_ALLOW_NOTHING = 0,
    RESEAT_ALLOW_DEGRADED = 1, /* things may come back with less state */
    RESEAT_ALLOW_LOST = 2,     /* things may be missing afterwards */
};

/* Called for each thing worth saying that is not an error (what was allowed to degrade, what to look out
 * for). */
typedef void (*reseat_note_fn)(void *userdata, const char *sentence);

/* ---- capability spaces ---- */

/* A selector of some process. */
struct reseat_holder {
    pid_t pid;
    unsigned selector;
    const char *command; /* the name of the process; "" if it has ended */
};

struct reseat_capability {
    pid_t pid;
    unsigned selector;
    const char *kind;   /* "file", "directory", "pipe", "tcp", "unix", "epoll", … */
    const char *object; /* short id; equal in two rows of one listing if and only if it is the same object */
    const char *access; /* "r", "w", "rw", or "-" for O_PATH */
    int cloexec;
    const char *flags; /* further status flags for people: "nonblock append" */
    const char *name;  /* what it is, for people */

    /* Only by reseat_list_sharing(). */
    const struct reseat_holder *holders; /* other processes that hold this object */
    size_t holder_count;
    const struct reseat_holder *other_ends; /* who holds the other end: of a pipe, a FIFO, a pty, a unix
                                               socket, a TCP connection within this machine */
    size_t other_end_count;
};

struct reseat_listing {
    struct reseat_capability *capabilities;
    size_t count;
    unsigned unseen; /* reseat_list_sharing(): processes that we may not look at, and that may be holders */
};

/* Lists the capability spaces of one or more live processes, ordered by position in `pids`, then by selector.
 * Stops nothing. -EPERM: a process that the caller may not trace. */
RESEAT_API int reseat_list_capabilities(const pid_t *pids, size_t count, struct reseat_listing **ret_listing,
                                        struct reseat_error **ret_error);
/* The same, and who else on the machine holds each object or its other end. */
RESEAT_API int reseat_list_sharing(const pid_t *pids, size_t count, struct reseat_listing **ret_listing,
                                   struct reseat_error **ret_error);
RESEAT_API void reseat_listing_free(struct reseat_listing *listing);

/* ---- the native PD interface ----
 * A PD (protection domain) is a process with its capability space; a selector is a descriptor number. request
 * hands out capabilities, install puts them where they are wanted, in any live process that the caller may
 * trace, running or stopped, which does not take part. A PD is used by one thread at a time. */

#define RESEAT_SELECTOR_END ((unsigned)-1)

struct reseat_pd;

/* Opens the PD of process `pid` with the caller's own rights. It is this process for good: when it has ended,
 * every call says -ESRCH, whoever gets its number later. */
RESEAT_API int reseat_pd_open(pid_t pid, struct reseat_pd **ret_pd, struct reseat_error **ret_error);
/* The same through core, the service that listens at socket `path` (NULL: where it usually is). What core
 * lets us do is asked of the kernel with our own rights, and of its configuration. */
RESEAT_API int reseat_pd_connect(const char *path, pid_t pid, struct reseat_pd **ret_pd,
                                 struct reseat_error **ret_error);
/* Takes over a PD session that somebody handed us: a descriptor, which belongs to the PD afterwards. */
RESEAT_API int reseat_pd_adopt(int session, struct reseat_pd **ret_pd, struct reseat_error **ret_error);
RESEAT_API void reseat_pd_free(struct reseat_pd *pd);
RESEAT_API pid_t reseat_pd_pid(const struct reseat_pd *pd);
/* The descriptor of a PD that came through core, to be passed on; -1 for one opened with our own rights. */
RESEAT_API int reseat_pd_session(const struct reseat_pd *pd);

/* What a session can be narrowed to before it is passed on. */
enum reseat_pd_rights {
    RESEAT_MAY_LIST = 1 << 0, /* and compare */
    RESEAT_MAY_REQUEST = 1 << 1,
    RESEAT_MAY_INSTALL = 1 << 2,
    RESEAT_MAY_CLOSE = 1 << 3,
    RESEAT_MAY_CHECKPOINT = 1 << 4,
    RESEAT_MAY_RESTORE = 1 << 5, /* of a twin's session: whoever has it decides what the process does */
    RESEAT_MAY_ALL = (1 << 6) - 1,
};

struct reseat_pd_range {
    unsigned first, last; /* both inside */
};

struct reseat_pd_limits {
    unsigned rights;      /* enum reseat_pd_rights */
    uint64_t lifetime_ns; /* from now on; 0: as before */
    const struct reseat_pd_range *ranges;
    size_t range_count; /* 0: the selectors as before */
};

/* Another session of the same process, which is good for nothing that this one is not: the rights that both
 * have, the selectors that both have, the earlier end. Only of PDs that came through core. */
RESEAT_API int reseat_pd_narrow(struct reseat_pd *pd, const struct reseat_pd_limits *limits,
                                struct reseat_pd **ret_narrowed, struct reseat_error **ret_error);

enum reseat_slot_flags {
    /* FD_CLOEXEC of the slot, for install. request does not report it (reseat_list_capabilities() does): it
     * belongs to the selector, and asking for it costs six times as much as the capability. */
    RESEAT_CLOEXEC = 1 << 0,
    /* The access mode of the object. request reports it; an install that asks for other access than the
     * object has is -EACCES; none asked for: as it is. */
    RESEAT_READ = 1 << 1,
    RESEAT_WRITE = 1 << 2,
    RESEAT_REPLACE = 1 << 8, /* install: what is at the selector may be replaced */
};

struct reseat_pd_slot {
    unsigned selector;
    int cap; /* a descriptor of ours */
    unsigned flags;
};

/* Up to `capacity` used selectors from `from` on, ascending; *ret_next: where to go on, or
 * RESEAT_SELECTOR_END. Who goes on until the end gets every selector that is used all the while exactly once,
 * whatever else changes. */
RESEAT_API int reseat_pd_list(struct reseat_pd *pd, unsigned from, unsigned *selectors, size_t capacity,
                              size_t *ret_count, unsigned *ret_next, struct reseat_error **ret_error);
/* The capability at `selector` as a descriptor of ours, or -1 in *ret_cap if the selector is unused;
 * *ret_next (may be NULL) is the next used selector above it, or RESEAT_SELECTOR_END. */
RESEAT_API int reseat_pd_request(struct reseat_pd *pd, unsigned selector, int *ret_cap, unsigned *ret_next,
                                 struct reseat_error **ret_error);
/* The capabilities at used selectors from `from` on, at most `capacity`, which the caller owns, with their
 * access. */
RESEAT_API int reseat_pd_request_many(struct reseat_pd *pd, unsigned from, struct reseat_pd_slot *ret_slots,
                                      size_t capacity, size_t *ret_count, unsigned *ret_next,
                                      struct reseat_error **ret_error);
/* Puts capability `cap` at `selector`. -EEXIST: in use (the error says by what), and RESEAT_REPLACE is not
 * given; -EBUSY: being filled by a call under way; -EBADF, -EMFILE: no such selector is allowed; -EACCES:
 * other access than the object has; -EPERM: no right. The caller keeps its own descriptor. */
RESEAT_API int reseat_pd_install(struct reseat_pd *pd, int cap, unsigned selector, unsigned flags,
                                 struct reseat_error **ret_error);
/* Many in one stop: all or none. */
RESEAT_API int reseat_pd_install_many(struct reseat_pd *pd, const struct reseat_pd_slot *slots, size_t count,
                                      struct reseat_error **ret_error);
/* Empties a selector. -EBADF: it is unused. */
RESEAT_API int reseat_pd_close(struct reseat_pd *pd, unsigned selector, struct reseat_error **ret_error);
RESEAT_API int reseat_pd_close_many(struct reseat_pd *pd, const unsigned *selectors, size_t count,
                                    struct reseat_error **ret_error);
/* 0 in *ret_order if both selectors hold the same object, otherwise -1 or 1: a total order over all objects
 * of the machine. -EBADF: one of them is unused. Both PDs opened, or both of the same core. */
RESEAT_API int reseat_pd_compare(struct reseat_pd *a, unsigned selector_a, struct reseat_pd *b,
                                 unsigned selector_b, int *ret_order, struct reseat_error **ret_error);

/* ---- checkpoint ---- */

enum reseat_checkpoint_flags {
    RESEAT_LIVE = 1 << 0,           /* twin only: nothing is written but what the twin does not hold */
    RESEAT_LEAVE_RUNNING = 1 << 1,  /* do not kill the target */
    RESEAT_IMAGE = 1 << 2,          /* image only: no twin is left */
    RESEAT_COMPRESS = 1 << 3,       /* the memory in the image */
    RESEAT_SELF_CONTAINED = 1 << 4, /* also store what is in the files that are mapped */
};

/* Called now and then while memory is written or read. Not 0: end it with that (a negative errno). */
typedef int (*reseat_progress_fn)(void *userdata, uint64_t done_bytes, uint64_t total_bytes);

struct reseat_checkpoint_options {
    unsigned flags;
    enum reseat_allow allow;
    reseat_note_fn note;
    void *userdata;
    reseat_progress_fn progress; /* NULL: nobody wants to know */
    void *progress_userdata;
    /* Asked when the process stands still and nothing has been done to it, the last moment to refuse (with a
     * negative errno): whether it is still the one that was meant. NULL: not asked. */
    int (*check)(void *userdata, struct reseat_error **ret_error);
    void *check_userdata;
};

struct reseat_checkpoint_result {
    pid_t pid, twin;   /* twin 0: none is left */
    uint64_t pause_ns; /* from the first thread stopped to the target killed or its last thread let go */
    unsigned threads, capabilities;
    uint64_t memory_bytes; /* stored in the image, before compression; 0: no image */
};

/* Checkpoints process `pid` into the new directory `dir`: both a twin, which a restore on this machine uses,
 * and an image, from which the process can be made anew when there is no twin any more. The target is killed
 * unless RESEAT_LEAVE_RUNNING; not before the image is safely on the disk. */
RESEAT_API int reseat_checkpoint(pid_t pid, const char *dir, const struct reseat_checkpoint_options *options,
                                 struct reseat_checkpoint_result *ret_result,
                                 struct reseat_error **ret_error);
/* The same into a stream: an image, and no twin is left. The target is killed when all of it has been
 * written to descriptor `fd`. */
RESEAT_API int reseat_checkpoint_stream(pid_t pid, int fd, const struct reseat_checkpoint_options *options,
                                        struct reseat_checkpoint_result *ret_result,
                                        struct reseat_error **ret_error);

/* ---- restore ---- */

enum reseat_restore_flags {
    RESEAT_KEEP = 1 << 0,    /* keep a copy twin for another restore */
    RESEAT_NEW_PID = 1 << 1, /* under a fresh PID */
    RESEAT_COLD = 1 << 2,    /* from the image, even if there is a twin: of that only the objects are taken */
    RESEAT_NEW_NAMESPACE = 1 << 4, /* from the image: in a new PID namespace (and user namespace, for an
                                      ordinary user), where the old numbers are free; implies RESEAT_COLD */
    RESEAT_CHILD =
        1 << 3, /* from the image: it stays the caller's child, and in its session; else it is handed to
                   init or a subreaper. (From a twin it is always the child of its old parent.) */
};

/* What is to become of one selector. */
enum reseat_slot_policy {
    RESEAT_SLOT_PUT = 0, /* another object goes there: the caller's descriptor `fd` */
    RESEAT_SLOT_KEEP,    /* refuse the restore unless it is the very same object */
    RESEAT_SLOT_CLOSE,   /* nothing: it is unused afterwards */
    RESEAT_SLOT_NULL,    /* /dev/null */
    RESEAT_SLOT_FAIL,    /* refuse the restore if it would come back degraded or lost, whatever `allow` is */
};

struct reseat_slot {
    unsigned selector;
    int fd;
    enum reseat_slot_policy policy;
};

struct reseat_restore_options {
    unsigned flags;
    enum reseat_allow allow;
    uint64_t wait_ns; /* how long to wait for the PID to become free */
    const struct reseat_slot *slots;
    size_t slot_count;
    int terminal; /* > 0: a terminal to hand over to the process before it runs on (foreground group, modes)
                   */
    reseat_note_fn note;
    void *userdata;
    reseat_progress_fn progress; /* while memory is read; NULL: nobody wants to know */
    void *progress_userdata;
};

struct reseat_restore_result {
    pid_t pid;
    uint64_t restore_ns;  /* from the PID being free to the process running */
    unsigned slots, same; /* of `slots` selectors `same` hold the same object as before */
    int pidfd;            /* of the restored process; the caller closes it */
    int from_image; /* not from a twin: objects are new ones, but for `same` if a twin still held them */
};

RESEAT_API int reseat_restore(const char *dir, const struct reseat_restore_options *options,
                              struct reseat_restore_result *ret_result, struct reseat_error **ret_error);
/* The same from what reseat_checkpoint_stream() has written, read from descriptor `fd` up to its end. It is
 * kept in a file without a name in $TMPDIR (or /var/tmp) meanwhile. */
RESEAT_API int reseat_restore_stream(int fd, const struct reseat_restore_options *options,
                                     struct reseat_restore_result *ret_result,
                                     struct reseat_error **ret_error);

/* ---- checkpoint and restore through core ----
 *
 * The checkpoint is the twin, and a session of it is what makes it yours: neither a directory nor any
 * privilege is needed. Only of PDs that came through core (-EOPNOTSUPP). Of the flags of a checkpoint
 * RESEAT_LEAVE_RUNNING counts, of those of a restore RESEAT_KEEP and RESEAT_NEW_PID. */

RESEAT_API int reseat_pd_checkpoint(struct reseat_pd *pd, const struct reseat_checkpoint_options *options,
                                    struct reseat_checkpoint_result *ret_result, struct reseat_pd **ret_twin,
                                    struct reseat_error **ret_error);
/* As reseat_checkpoint_stream(): an image into descriptor `fd`, and no twin. */
RESEAT_API int reseat_pd_checkpoint_stream(struct reseat_pd *pd, int fd,
                                           const struct reseat_checkpoint_options *options,
                                           struct reseat_checkpoint_result *ret_result,
                                           struct reseat_error **ret_error);
/* *ret_pd (may be NULL): the process that is back. *ret_kept (may be NULL): with RESEAT_KEEP, the twin for
 * the next time; `twin` is used up. */
RESEAT_API int reseat_pd_restore(struct reseat_pd *twin, const struct reseat_restore_options *options,
                                 struct reseat_restore_result *ret_result, struct reseat_pd **ret_pd,
                                 struct reseat_pd **ret_kept, struct reseat_error **ret_error);
/* Ends a twin. */
RESEAT_API int reseat_pd_drop(struct reseat_pd *twin, struct reseat_error **ret_error);

/* ---- plan ---- */

/* What becomes of something in a restore. */
enum reseat_fate {
    RESEAT_KEPT = 0,      /* the very same object */
    RESEAT_RECREATED = 1, /* a new object with the same state */
    RESEAT_DEGRADED = 2,  /* less state; `why` says which */
    RESEAT_LOST = 3,      /* nothing can be put there */
    RESEAT_REPLACED = 4,  /* something else goes there, or nothing, because that is asked for */
};
RESEAT_API const char *reseat_fate_name(enum reseat_fate fate); /* "kept", "recreated", … */

struct reseat_prospect {
    enum reseat_fate fate;
    const char *why; /* a sentence or several lines; NULL: nothing to say */
};

/* One selector: what a restore from the twin (live) and one from the image alone (cold) make of it. */
struct reseat_plan_row {
    unsigned selector;
    const char *kind, *object, *name; /* as in struct reseat_capability */
    struct reseat_prospect live, cold;
};

enum reseat_restore_kind { RESEAT_LIVE_RESTORE = 1 << 0, RESEAT_COLD_RESTORE = 1 << 1 };

/* Something that is not about one selector: threads, timers, children, … */
struct reseat_plan_item {
    unsigned restores; /* enum reseat_restore_kind: which it concerns */
    enum reseat_fate fate;
    int is_note; /* worth saying, but stops nobody */
    const char *sentence;
};

struct reseat_plan {
    pid_t pid;
    int is_copy; /* the live column is about the copy form: the process runs on */
    /* Why there can be no such restore, or no checkpoint for it, as things are now; NULL: there can. */
    const char *live_blocked, *cold_blocked;
    struct reseat_plan_row *rows; /* by selector */
    size_t row_count;
    struct reseat_plan_item *items;
    size_t item_count;
};

enum reseat_plan_flags {
    RESEAT_PLAN_LEAVE_RUNNING = 1 << 0, /* for a checkpoint that leaves the process running */
};

/* What a checkpoint of live process `pid` and its restore would bring back. Neither stops the process nor
 * changes anything in it, also when it is traced by somebody else. */
RESEAT_API int reseat_plan(pid_t pid, unsigned flags, struct reseat_plan **ret_plan,
                           struct reseat_error **ret_error);
/* The same of a checkpoint that has been taken. */
RESEAT_API int reseat_plan_restore(const char *dir, struct reseat_plan **ret_plan,
                                   struct reseat_error **ret_error);
/* What the plan becomes if the restore is asked for these slots: rows are replaced, or a restore that a
 * policy would refuse is not possible. -EBADF: a policy for a selector that is unused. */
RESEAT_API int reseat_plan_slots(struct reseat_plan *plan, const struct reseat_slot *slots, size_t count,
                                 struct reseat_error **ret_error);
RESEAT_API void reseat_plan_free(struct reseat_plan *plan);

/* ---- show ---- */

enum reseat_shown_kind {
    RESEAT_SHOWN_TABLE,  /* a table begins: `table`, `row_count`; its fields follow, row by row */
    RESEAT_SHOWN_NUMBER, /* `numbers[0]` */
    RESEAT_SHOWN_SIGNED, /* the same as an int64_t */
    RESEAT_SHOWN_TEXT,   /* `text`: also addresses ("0x7f…"), masks, and bytes in hexadecimal */
    RESEAT_SHOWN_LIST,   /* `numbers`, `number_count` of them */
};

/* One value of an image. What it means: docs/image.md. Lives until the function returns. */
struct reseat_shown {
    enum reseat_shown_kind kind;
    const char *table; /* "process", "threads", "vmas", … */
    size_t row, row_count;
    const char *field; /* "tid" */
    const uint64_t *numbers;
    size_t number_count;
    const char *text;
};

/* Not 0: end it with that (a negative errno). */
typedef int (*reseat_shown_fn)(void *userdata, const struct reseat_shown *shown);

/* Calls `shown` for everything that is in the image `path` (a checkpoint directory or its file) but the
 * memory itself. The image is checked like for a restore, but whose it is does not matter. */
RESEAT_API int reseat_show(const char *path, reseat_shown_fn shown, void *userdata,
                           struct reseat_error **ret_error);
/* Reads all memory of an image and compares checksums. -EBADMSG: damaged, with the place named. */
RESEAT_API int reseat_check_memory(const char *path, reseat_progress_fn progress, void *userdata,
                                   struct reseat_error **ret_error);

/* ---- verify, list, drop ---- */

struct reseat_difference {
    unsigned selector;
    const char *sentence;
};

struct reseat_verification {
    pid_t pid, twin;
    unsigned slots, same;
    struct reseat_difference *differences;
    size_t difference_count;
};

/* Compares process `pid` (0: the one that the checkpoint was taken of) slot by slot with the twin of `dir`.
 */
RESEAT_API int reseat_verify(const char *dir, pid_t pid, struct reseat_verification **ret_verification,
                             struct reseat_error **ret_error);
RESEAT_API void reseat_verification_free(struct reseat_verification *verification);

struct reseat_twin {
    char *dir; /* NULL: a twin without a directory (Reseat was killed in the middle) */
    pid_t pid, twin;
    uint64_t age_ns;
    uint64_t private_bytes;
    unsigned capabilities;
    int target_runs; /* the process itself is alive */
};

/* The checkpoints on this machine that have a live twin and that the caller may see. */
RESEAT_API int reseat_list_twins(struct reseat_twin **ret_twins, size_t *ret_count,
                                 struct reseat_error **ret_error);
RESEAT_API void reseat_twins_free(struct reseat_twin *twins, size_t count);

/* Ends the twin of `dir`, and so lets go of what it held; removes the directory unless it has an image. */
RESEAT_API int reseat_drop(const char *dir, struct reseat_error **ret_error);
/* The same for a twin without a directory. */
RESEAT_API int reseat_drop_twin(pid_t twin, struct reseat_error **ret_error);

#ifdef __cplusplus
}
#endif
#endif
