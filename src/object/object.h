/* Objects: what the capabilities of processes point to. Two questions are answered here: which of many
 * selectors, in one process or several, hold the same object (the object table), and what an object is, in
 * words for people (the kinds, one file per kind or family in kinds/).
 *
 * Nothing here stops a process or changes anything in it. */
#pragma once

#include "base/base.h"
#include "native_pd/native_pd.h"

#include <sys/stat.h>

/* Numbers the objects of one table from 1, in the order in which they were first seen. 0: not identified. */
typedef uint32_t object_id_t;

struct object_entry;
struct object_table;

/* ---- looking at one capability ---- */

/* What can be had on every capability for little, read by object_observe() before the kinds are asked. */
struct object_sight {
    struct object_table *table; /* for what is looked up once for all */
    struct native_pd *pd;
    selector_t selector;

    const char *link;         /* /proc/PID/fd/SEL: a path, or "socket:[5]", "anon_inode:[eventfd]" */
    const char *info;         /* /proc/PID/fdinfo/SEL, see proc_pid_fdinfo(5) */
    unsigned flags;           /* O_*; O_CLOEXEC is that of the selector */
    uint64_t mount_id, inode; /* where the object was opened */
    struct statx_view {
        unsigned mode, links;                  /* 0 unless the link is a path */
        unsigned device_major, device_minor;   /* of the file system that it is on */
        unsigned special_major, special_minor; /* of the device that it is */
    } stat;

    /* Sockets only: the capability as one of ours, until the description is done. */
    native_cap_t cap;
    int domain, type, protocol; /* socket(2); domain 0: not a socket */
};

/* ---- kinds ---- */

/* What has two ends that are two objects: a pipe, a connection. */
struct object_end {
    char key[256];          /* equal at both ends and nowhere else; "" if there is no other end */
    unsigned side;          /* bit 0, bit 1: which end this is; both in one is possible (FIFO, O_RDWR) */
    uint64_t other_inode;   /* of the other end, on the same mount; 0: not known, then: */
    const char *other_link; /* how its link begins */
};

/* Everything that Reseat knows about one kind of object. */
struct object_kind {
    const char *name;
    bool (*match)(const struct object_sight *sight);
    /* A name for people, to be freed. 0 or -ENOMEM: what cannot be found out is left out. */
    int (*describe)(const struct object_sight *sight, char **ret_name);
    /* Optional: a number that two different objects of this kind never share and that an object never
     * changes; it spares them the comparison by the kernel. */
    uint64_t (*distinguish)(const struct object_sight *sight);
    /* Optional: which end of what it is. Leaves *ret_end as it is if there is no other. */
    void (*find_end)(const struct object_sight *sight, struct object_end *ret_end);
    /* How it gets into a durable image and out of it (durable.h); NULL: not at all, a cold restore loses it.
     */
    const struct object_durable *durable;
};

/* The kind of what is seen; never NULL. */
const struct object_kind *object_kind_of(const struct object_sight *sight);

/* ---- the object table ---- */

/* One selector of one process. */
struct object_entry {
    struct native_pd *pd;
    selector_t selector;
    unsigned flags; /* as in struct object_sight */
    const struct object_kind *kind;
    char *name;
    object_id_t object; /* set by object_table_identify() */

    /* Equal for all entries of an object, different for most others: what is compared before the kernel is
     * asked. */
    struct object_mark {
        uint64_t mount_id, inode, class, number;
        uint64_t address; /* of the object, if it is known of all entries of the table; else 0 */
        unsigned access;
    } mark;

    size_t origin;     /* private to holders.c */
    bool is_bystander; /* its process may end, or be out of our reach, without that being an error */
};

/* Entries in the order in which they were added. */
struct object_table {
    struct object_entry *entries;
    size_t count;
    struct unix_peers *unix_peers; /* private to kinds/unix_peers.c */
};

/* Cleanup function; also for a zeroed table. */
void object_table_free(struct object_table *table);

/* Adds every capability of a PD, which must live as long as the table. A selector that is closed meanwhile is
 * left out. -ESRCH: the process has ended; -EPERM. */
int object_table_add(struct object_table *table, struct native_pd *pd, struct reseat_error **ret_error);

/* Gives entries the same object id if and only if they hold the same object. Entries whose selector was
 * closed since are removed. */
int object_table_identify(struct object_table *table, struct reseat_error **ret_error);

/* ---- holders.c: who else on this machine holds them ---- */

struct object_holder {
    size_t entry;      /* index in the table */
    bool is_other_end; /* it holds the other end (of a pipe, of a connection), not the same object */
    native_pd_id_t pid;
    selector_t selector;
    char command[64];
};

struct object_holders {
    struct object_holder *items; /* by entry; the same object before other ends; by PID and selector */
    size_t count;
    unsigned unseen; /* processes that we may not look at */
};

/* Walks all processes of the machine for those that hold an object of the table (at a selector of another
 * process than the entry's) or the other end of one. The table must have been identified. */
int object_find_holders(const struct object_table *table, struct object_holders *ret_holders,
                        struct reseat_error **ret_error);
void object_holders_free(struct object_holders *holders); /* cleanup function */

/* ---- in_use.c ---- */

/* After an install that found a selector in use: an error that says what is there, kind and name as `caps`
 * shows them. Keeps the error that is there if nothing is found there any more. Returns -EEXIST. */
int object_error_in_use(struct native_pd *pd, const struct native_slot *slots, size_t count,
                        struct reseat_error **ret_error);

/* ---- shared.c: what a copy shares with a target that runs on ---- */

struct snapshot;
struct snapshot_extent;

/* The selectors whose objects have a state that moves. */
struct shared_objects {
    int *files, *epolls;
    size_t file_count, epoll_count;
};

/* Finds them, before the stop. */
int object_find_shared(pid_t pid, struct shared_objects *ret_shared, struct reseat_error **ret_error);
/* Notes their state (`positions`, `interests`) and the record locks of the process (`locks`), in the stop. */
int object_capture_shared(pid_t pid, const struct shared_objects *shared, struct snapshot *snapshot,
                          struct reseat_error **ret_error);
void shared_objects_end(struct shared_objects *shared); /* cleanup function */
/* Whether the process holds a record lock (fcntl(2) F_SETLK). An heir holds them without a gap, but nobody
 * can see them any more, so that they are noted for a copy of it that may be made later. */
bool object_has_locks(pid_t pid);
/* Adds the interest set of one epoll instance to `interests`; `proc_fd`: of its process. */
int object_add_interests(int proc_fd, int epoll, struct snapshot *snapshot);
/* The same from its fdinfo text. */
int object_parse_interests(const char *info, int epoll, struct snapshot *snapshot);

/* ---- fixups.c ---- */

/* Adds to the snapshot what the capabilities of a sleeping twin need in the process that is restored from it
 * (`interests`, `reopens`), although the objects stay the same; and how many there are. */
int object_find_fixups(pid_t twin, struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- the durable image: capture.c, judge.c, recreate.c ----
 * The order of a cold restore: object_judge_cold() and the refusal, object_recreate(), then the process is
 * made, object_recreate_late(), every row of `capabilities` is installed, and process_rebuild() does from
 * inside what Reseat cannot do: it finds it in `interests`, `positions`, `owners`, `locks` and `reopens`. */

/* Who takes the contents of files that come back with them (memfds, deleted files): too large for a table,
 * they are read when all else is captured, or as soon as the process they are of may run on. */
struct object_contents {
    /* `file`: ours, on the file of that object, to be kept and closed; `size`: of the file. Negative: an
     * errno. */
    int (*take)(void *userdata, object_id_t object, int file, uint64_t size);
    void *userdata;
};

/* Fills `objects` (each object once, also those in flight inside unix sockets) and `capabilities` (a row a
 * selector; aliases share an object). What was noted in the stop of a process that runs on (`positions`,
 * `interests`) goes before what is so now. `pd` is the twin, or the process itself; `snapshot->process.pid`
 * must already name the process that the snapshot is of. Everything is read through capabilities got by
 * request: no queue is emptied, no position moved. */
int object_capture(struct native_pd *pd, const struct object_contents *contents, struct snapshot *snapshot,
                   struct reseat_error **ret_error);
/* The same without contents, only for object_judge_cold(): quick, whatever the files and queues hold.
 * `freezes`: TCP connections are to be judged as if object_freeze_connections() came first. */
int object_capture_outline(struct native_pd *pd, bool freezes, struct snapshot *snapshot,
                           struct reseat_error **ret_error);
/* After object_capture(): the id of the object behind a mapping (memfd, deleted file), which may have no
 * selector any more; it is added if it is not there. `fd`: ours, open on /proc/PID/map_files/START-END. */
int object_capture_mapped(struct native_pd *pd, int fd, const struct object_contents *contents,
                          struct snapshot *snapshot, object_id_t *ret_object,
                          struct reseat_error **ret_error);

enum object_fate {
    OBJECT_KEPT,      /* the very same object: it was given */
    OBJECT_RECREATED, /* a new object with the same state */
    OBJECT_DEGRADED,  /* a new object with less state */
    OBJECT_LOST,      /* nothing can be put there */
};

struct object_options {
    /* Objects that somebody still holds (a twin), ascending: they are not made anew, but taken from there.
     * Those that speak of the process itself (its pidfd, its files in /proc) are made anew all the same. */
    const object_id_t *given;
    size_t given_count;
    /* A capability of ours on one of them. */
    int (*take)(void *userdata, object_id_t object, native_cap_t *ret_cap, struct reseat_error **ret_error);
    void *take_userdata;
    const object_id_t
        *unwanted; /* something else will be put at all its selectors: neither judged nor made */
    size_t unwanted_count;
    /* The snapshot is an outline of a process that runs: what it has written since is no change. */
    bool is_running;
    bool allows_degraded, allows_lost; /* else -EREMOTEIO and the sentence of the first such capability */
    uint64_t wait_ns; /* how long a number that the dead process still has may be waited for */
    /* Reads what an extent of `contents` holds; NULL: there is none in the snapshot. */
    int (*read_content)(void *userdata, const struct snapshot_extent *extent, uint64_t offset, void *data,
                        size_t length, struct reseat_error **ret_error);
    void *userdata;
};

/* What a cold restore makes of one capability. */
struct object_verdict {
    selector_t selector; /* NATIVE_SELECTOR_END: of none, it is in flight or only mapped */
    object_id_t object;
    enum object_fate fate;
    char *sentence; /* why it is degraded or lost; NULL: nothing to say */
};

struct object_verdicts {
    struct object_verdict *items; /* in the order of `capabilities`, then those of no selector */
    size_t count;
};

void object_verdicts_free(struct object_verdicts *verdicts); /* cleanup function */

/* What would become of each capability of the snapshot here and now. Checks the state of all objects first
 * (the image may be hostile): -EBADMSG. Changes nothing. `options` may be NULL. */
int object_judge_cold(const struct snapshot *snapshot, const struct object_options *options,
                      struct object_verdicts *ret_verdicts, struct reseat_error **ret_error);

/* A native capability for each object. */
struct object_set {
    native_cap_t
        *caps;    /* caps[id], close-on-exec; NATIVE_CAP_INVALID: unwanted, or not there yet (see late) */
    size_t count; /* highest id + 1 */
};

void object_set_end(struct object_set *set); /* cleanup function */

/* Makes all objects, in our own process and with our rights: whose image it is, the caller has judged. Lost
 * ones, if they are allowed, are a placeholder on which every operation fails with EBADF. Also prepares the
 * snapshot for process_rebuild(): actions of `interests`, `positions` for O_ASYNC, `reopens` (whose
 * capabilities are not in the set: nothing is to be installed). */
int object_recreate(struct snapshot *snapshot, const struct object_options *options,
                    struct object_set *ret_set, struct reseat_error **ret_error);
/* Makes those that need the restored process to be there (a pidfd on itself). `pid`: its number here. */
int object_recreate_late(struct object_set *set, const struct snapshot *snapshot, pid_t pid,
                         struct reseat_error **ret_error);

/* Locks on an object of ours that the kernel notes a process for. F_UNLCK: none. */
struct object_own_locks {
    int flock, lease; /* F_RDLCK, F_WRLCK; a lease that is not being broken */
};
struct object_own_locks object_find_own_locks(native_cap_t cap);

/* ---- tcp_freeze.c: TCP connections outlive the process in an image ----
 * Only for a checkpoint that kills the process and keeps no twin; the process stands still. Without it, or
 * where it is not permitted, connections are degraded: reset. */

struct object_freeze;

/* Drops the packets of all TCP connections of `pd` and puts their sockets into repair mode; object_capture()
 * then reads them. What is not permitted here is no error. `process.realtime_ns` names the
 * barrier. */
int object_freeze_connections(struct native_pd *pd, const struct snapshot *snapshot,
                              struct object_freeze **ret_freeze, struct reseat_error **ret_error);
/* The point of no return, right before the process is killed: sockets stay in repair mode, so that they close
 * without a word, and packets go on being dropped. */
void object_freeze_commit(struct object_freeze *freeze);
/* Cleanup function; takes it all back unless it was committed. */
void object_freeze_end(struct object_freeze **freeze);

/* The last thing before the restored process runs (object_recreate() leaves connections in repair mode, so
 * that a restore that fails does not end them): lets connections go on and packets through. */
int object_thaw_connections(const struct object_set *set, const struct snapshot *snapshot,
                            struct reseat_error **ret_error);
/* When an image is dropped: lets packets through again, which tells the peers that nobody is there any more.
 */
void object_forget_connections(const struct snapshot *snapshot);
