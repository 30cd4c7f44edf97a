/* The snapshot: the one plain value that flows through everything. Captured from a stopped target, written
 * beside a twin, read again, rebuilt from. Rows are fixed-size, fixed-width and padded by hand, because a row
 * in memory *is* a row in the file (little-endian, sections `.reseat.*` with their sh_entsize; see
 * image/image.h). New fields go to the end of a row, so that an older, shorter row still reads: what it lacks
 * is zero.
 *
 * Numbers of processes and threads are as the PID namespace of Reseat sees them, unless `ns_` stands before
 * them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SNAPSHOT_VERSION        2
#define SNAPSHOT_NS_LEVELS      8   /* PID namespaces within each other; the kernel allows 32 */
#define SNAPSHOT_AFFINITY_BYTES 128 /* 1,024 processors */
#define SNAPSHOT_NODE_WORDS     16  /* 1,024 memory nodes */
#define SNAPSHOT_TERMIOS_BYTES  44  /* struct termios2 */

enum snapshot_form {
    SNAPSHOT_FORM_HEIR = 1, /* the twin shares memory and table with the target, which was killed */
    SNAPSHOT_FORM_COPY = 2, /* the twin has copies of its own */
};

enum snapshot_process_flags {
    SNAPSHOT_STOPPED = 1 << 0, /* by a signal, when it was checkpointed */
    SNAPSHOT_LEADS_GROUP = 1 << 1,
    SNAPSHOT_LEADS_SESSION = 1 << 2,
    SNAPSHOT_IN_FOREGROUND = 1 << 3, /* its group was the terminal's foreground group */
    SNAPSHOT_SUBREAPER = 1 << 4,
    SNAPSHOT_FILTERED = 1 << 5, /* has a seccomp filter */
    SNAPSHOT_LEFT_RUNNING = 1 << 6,
    SNAPSHOT_LOCKS_FUTURE = 1 << 7, /* mlockall(MCL_FUTURE) */
    SNAPSHOT_HAS_TERMIOS = 1 << 8,
    SNAPSHOT_DUMPABLE = 1 << 9,        /* PR_GET_DUMPABLE was 1 */
    SNAPSHOT_THREADS_DIFFER = 1 << 10, /* some may have credentials of their own */
};

struct snapshot_itimer {
    uint64_t interval_us, value_us;
};

struct snapshot_process {
    uint32_t version; /* SNAPSHOT_VERSION */
    uint32_t form;
    uint32_t flags;
    uint32_t pid;
    uint32_t ns_level_count; /* 1: only our own PID namespace */
    uint32_t ns_pids[SNAPSHOT_NS_LEVELS];
    uint32_t parent, group, session;
    uint32_t tty; /* device number of the controlling terminal, 0: none */
    uint32_t parent_death_signal;
    char comm[16];

    /* The twin. */
    uint32_t twin;
    uint32_t ns_twin; /* in its innermost PID namespace */
    uint64_t twin_start_time;
    char boot_id[40];
    uint64_t scratch_address, scratch_length; /* our mapping in the twin's memory */
    uint64_t stub_address;                    /* see target/target.h */

    uint64_t realtime_ns; /* when the checkpoint was taken */
    struct snapshot_itimer itimers[3];
    uint8_t termios[SNAPSHOT_TERMIOS_BYTES];
    uint32_t capability_count;
};

enum snapshot_thread_flags {
    SNAPSHOT_THREAD_NO_NEW_PRIVS = 1 << 0,
};

struct snapshot_thread {
    uint32_t tid;
    uint32_t flags;
    uint32_t ns_tids[SNAPSHOT_NS_LEVELS];
    uint64_t regs[32]; /* as PTRACE_GETREGSET NT_PRSTATUS gives them; a system call in progress is set to be
                          made again */
    uint64_t xstate_offset, xstate_length; /* in blobs; NT_X86_XSTATE */
    uint64_t signal_mask;
    uint64_t robust_list, robust_list_length;
    uint64_t tid_address;
    uint64_t altstack_address, altstack_length;
    uint32_t altstack_flags, rseq_length;
    uint64_t rseq_address;
    uint32_t rseq_signature, rseq_flags;
    uint64_t dispatch_mode, dispatch_selector, dispatch_offset, dispatch_length; /* syscall user dispatch */
    uint64_t timer_slack_ns;
    char name[16];
    uint8_t scheduling[56]; /* struct sched_attr */
    uint32_t affinity_length;
    uint32_t secure_bits; /* PR_GET_SECUREBITS */
    uint8_t affinity[SNAPSHOT_AFFINITY_BYTES];
    uint32_t time_stamp_mode, memory_fault_policy; /* PR_GET_TSC, PR_MCE_KILL_GET */
    uint32_t memory_policy, io_priority;           /* get_mempolicy(2), ioprio_get(2) */
    uint64_t memory_policy_nodes[SNAPSHOT_NODE_WORDS];
};

/* A signal that waits to be delivered. */
struct snapshot_signal {
    uint32_t tid; /* 0: to the process */
    uint32_t reserved;
    uint8_t siginfo[128];
};

/* A POSIX timer, timer_create(2). */
struct snapshot_timer {
    int32_t id;
    int32_t clock;
    int32_t notify; /* SIGEV_* */
    int32_t signal;
    uint64_t value;  /* sigev_value */
    uint32_t ns_tid; /* SIGEV_THREAD_ID */
    uint32_t reserved;
    uint64_t interval_ns, remaining_ns; /* remaining 0: not armed */
};

enum snapshot_region_flags {
    SNAPSHOT_REGION_DONTFORK = 1 << 0,
    SNAPSHOT_REGION_WIPEONFORK = 1 << 1,
    SNAPSHOT_REGION_LOCKED = 1 << 2,
    SNAPSHOT_REGION_LOCKED_ONFAULT = 1 << 3,
};

/* A region whose treatment a fork changes (copy form only). */
struct snapshot_region {
    uint64_t start, end;
    uint32_t flags;
    uint32_t reserved;
};

/* Whom a capability sends signals to: F_SETOWN_EX, F_SETSIG. */
struct snapshot_owner {
    uint32_t selector;
    int32_t type; /* F_OWNER_* */
    int32_t pid;  /* as we see it */
    int32_t signal;
};

/* A POSIX record lock; the copy has to take it again. */
struct snapshot_lock {
    uint32_t selector;
    int32_t type; /* F_RDLCK, F_WRLCK */
    int64_t start, length;
};

/* Position and status flags of a file (copy form: the target that runs on moves them). */
struct snapshot_position {
    uint32_t selector;
    uint32_t status_flags;
    int64_t offset; /* -1: cannot be positioned */
};

enum snapshot_interest_action {
    SNAPSHOT_INTEREST_REMOVE = 1 << 0,
    SNAPSHOT_INTEREST_ADD = 1 << 1,
};

/* One entry of an epoll interest set as it was (copy form), and what is to be done about it at a restore. */
struct snapshot_interest {
    uint32_t epoll_selector;
    uint32_t selector;
    uint32_t events;
    uint32_t action; /* found out at the restore; 0 in a file */
    uint64_t data;
};

/* A descriptor on a procfs file of the process itself: opened again in the restored process. */
struct snapshot_reopen {
    uint32_t selector;
    uint32_t status_flags;
    uint32_t descriptor_flags;
    uint32_t alias_of; /* selector that is opened first, or itself */
    int64_t offset;
    uint64_t path_offset; /* in blobs: NUL-terminated, relative to /proc/self */
};

/* ---- what only a durable image needs: a twin holds all of this by itself ---- */

enum snapshot_vma_kind {
    SNAPSHOT_VMA_ANONYMOUS = 1, /* private */
    SNAPSHOT_VMA_FILE = 2,      /* of a file with a path, private or shared */
    SNAPSHOT_VMA_SHARED = 3,    /* shared anonymous: `inode` says which mappings are of one object */
    SNAPSHOT_VMA_OBJECT = 4,    /* of an object in the object table (memfd, deleted file): `object` */
    SNAPSHOT_VMA_SYSV = 5,      /* System V shared memory */
    SNAPSHOT_VMA_VDSO = 6,      /* with its data pages: SNAPSHOT_VMA_VVAR */
    SNAPSHOT_VMA_VVAR = 7,
    SNAPSHOT_VMA_OTHER = 8, /* of a device or an anonymous inode: cannot be mapped anew */
};

enum snapshot_vma_flags {
    SNAPSHOT_VMA_MAP_SHARED = 1 << 0,
    SNAPSHOT_VMA_GROWS_DOWN = 1 << 1,
    SNAPSHOT_VMA_NORESERVE = 1 << 2,
    SNAPSHOT_VMA_HUGETLB = 1 << 3,
    SNAPSHOT_VMA_DONTFORK = 1 << 4,
    SNAPSHOT_VMA_WIPEONFORK = 1 << 5,
    SNAPSHOT_VMA_DONTDUMP = 1 << 6,
    SNAPSHOT_VMA_HUGEPAGE = 1 << 7,
    SNAPSHOT_VMA_NOHUGEPAGE = 1 << 8,
    SNAPSHOT_VMA_MERGEABLE = 1 << 9,
    SNAPSHOT_VMA_SEQUENTIAL = 1 << 10,
    SNAPSHOT_VMA_RANDOM = 1 << 11,
    SNAPSHOT_VMA_LOCKED = 1 << 12,
    SNAPSHOT_VMA_LOCKED_ONFAULT = 1 << 13,
    SNAPSHOT_VMA_STORED = 1 << 14, /* what of it is not in an extent is zero, not as in the file */
    SNAPSHOT_VMA_MAY_WRITE =
        1 << 15, /* mprotect(2) may make it writable: a shared one's file is open for that */
    SNAPSHOT_VMA_DROPPABLE = 1 << 16, /* MAP_DROPPABLE, Linux 6.11 */
    SNAPSHOT_VMA_GUARD = 1 << 17,     /* every access is a fault: MADV_GUARD_INSTALL, Linux 6.13 */
};

/* One mapping, ascending. */
struct snapshot_vma {
    uint64_t start, end;
    uint64_t offset; /* in the file or object */
    uint32_t protection;
    uint32_t flags;
    uint32_t kind;
    uint32_t object; /* SNAPSHOT_VMA_OBJECT: an id of the object table */
    uint32_t device_major, device_minor;
    uint64_t inode;
    uint64_t file_size;
    int64_t modified_ns;
    uint64_t
        path_offset; /* in blobs: NUL-terminated; of anonymous memory: the name that it was given, or "" */
    uint32_t protection_key;
    uint32_t page_shift; /* of huge pages (SNAPSHOT_VMA_HUGETLB) */
};

/* A run of memory (`extents`), or of a file that an object is on and that comes back with its content
 * (`contents`), which is stored. What is in no extent is as the mapping is made, or a hole of the file. */
struct snapshot_extent {
    uint64_t address, length;            /* in the file: from its beginning */
    uint64_t file_offset, stored_length; /* in the core file; shorter than `length`: compressed */
    uint64_t checksum;                   /* XXH3 of what is stored */
    uint32_t object;                     /* whose content it is, an id of the object table; 0: memory */
    uint32_t reserved;
};

/* The capability map. */
struct snapshot_capability {
    uint32_t selector;
    uint32_t object; /* id in the object table */
    uint32_t flags;  /* FD_CLOEXEC */
    uint32_t reserved;
};

enum snapshot_object_flags {
    SNAPSHOT_OBJECT_DEGRADED = 1 << 0, /* found at the capture: will be made anew with less state */
    SNAPSHOT_OBJECT_LOST = 1 << 1,     /* cannot be made anew */
    SNAPSHOT_OBJECT_GONE = 1 << 2,     /* only in an outline: closed while it was looked at */
    SNAPSHOT_OBJECT_QUEUED = 1 << 3,   /* only in an outline: there may be descriptors in flight in it */
};

/* The object table: each object once, whoever holds it. Ids are 1, 2, 3, … in the order of the rows. */
struct snapshot_object {
    uint32_t id;                         /* from 1 */
    uint32_t status_flags;               /* O_* with the access mode */
    uint64_t kind_offset;                /* in blobs: the name of its kind, NUL-terminated */
    uint64_t name_offset;                /* in blobs: what it is, for people */
    uint64_t state_offset, state_length; /* in blobs: what its kind captured (docs/image.md) */
    uint32_t device_major, device_minor;
    uint64_t inode;
    uint32_t flags;         /* enum snapshot_object_flags */
    uint32_t mode;          /* st_mode */
    uint64_t reason_offset; /* in blobs: why it was found degraded or lost, NUL-terminated */
};

/* What the process does with a signal: struct sigaction of the kernel. */
struct snapshot_action {
    uint32_t signal;
    uint32_t reserved;
    uint64_t handler, flags, restorer, mask;
};

enum snapshot_state_flags {
    SNAPSHOT_STATE_NO_HUGE_PAGES = 1 << 0, /* PR_SET_THP_DISABLE */
    SNAPSHOT_STATE_IO_FLUSHER = 1 << 1,    /* PR_SET_IO_FLUSHER */
    SNAPSHOT_STATE_REMOVED_DIRECTORY = 1 << 2,
    SNAPSHOT_STATE_REMOVED_EXE = 1 << 3,
    SNAPSHOT_STATE_OTHER_ROOT = 1 << 4, /* chroot(2) */
    SNAPSHOT_STATE_HAS_LOGIN = 1 << 5,  /* login_uid is known */
};

/* Indices of snapshot_credentials.privileges: the CAP_* sets, as in /proc/PID/status. */
enum snapshot_privilege_set {
    SNAPSHOT_PRIVILEGES_INHERITABLE,
    SNAPSHOT_PRIVILEGES_PERMITTED,
    SNAPSHOT_PRIVILEGES_EFFECTIVE,
    SNAPSHOT_PRIVILEGES_BOUNDING,
    SNAPSHOT_PRIVILEGES_AMBIENT,
    SNAPSHOT_PRIVILEGE_SETS,
};

/* Who a thread is: credentials(7), which in the kernel are each thread's own. */
struct snapshot_credentials {
    uint32_t uids[4], gids[4]; /* real, effective, saved, of the file system */
    uint64_t groups_offset;    /* in blobs: group_count u32 */
    uint32_t group_count;
    uint32_t secure_bits; /* PR_GET_SECUREBITS */
    uint64_t privileges[SNAPSHOT_PRIVILEGE_SETS];
};

/* A thread that is somebody else than its process (struct snapshot_state): setresuid(2) and the like, called
 * past the C library, which would have all threads do it. */
struct snapshot_thread_credentials {
    uint32_t tid;
    uint32_t reserved;
    struct snapshot_credentials credentials;
};

#define SNAPSHOT_NAMESPACES 8 /* cgroup, ipc, mnt, net, pid, time, user, uts */
#define SNAPSHOT_LIMITS     16

/* Where code, heap, arguments, … begin and end: struct prctl_mm_map (PR_SET_MM_MAP, prctl(2)). */
struct snapshot_layout {
    uint64_t start_code, end_code, start_data, end_data, start_brk, brk, start_stack;
    uint64_t arg_start, arg_end, env_start, env_end;
};

/* What a process is besides its threads, memory and capabilities: one row, or none in a live checkpoint. */
struct snapshot_state {
    uint32_t flags;
    uint32_t umask;
    struct snapshot_credentials credentials; /* of the main thread */
    uint64_t limits[SNAPSHOT_LIMITS][2];     /* soft, hard; by RLIMIT_* */
    struct snapshot_layout layout;
    uint64_t auxv_offset, auxv_length;                  /* in blobs */
    uint64_t directory_offset, root_offset, exe_offset; /* in blobs: paths, NUL-terminated */
    uint32_t exe_device_major, exe_device_minor;
    uint64_t exe_inode, exe_size;
    int64_t exe_modified_ns;
    uint32_t personality;
    uint32_t dumpable; /* PR_GET_DUMPABLE */
    int32_t oom_score_adj;
    uint32_t core_dump_filter;
    uint32_t barriers;                        /* registrations: MEMBARRIER_CMD_REGISTER_* */
    uint32_t no_write_execute;                /* PR_GET_MDWE */
    uint64_t namespaces[SNAPSHOT_NAMESPACES]; /* their inodes */
    uint64_t control_groups_offset;           /* in blobs: /proc/PID/cgroup, NUL-terminated */
    uint32_t login_uid; /* /proc/PID/loginuid: for the audit log; UINT32_MAX: not logged in */
    /* st_mode, owner of a working directory that was removed; 0: it only cannot be reached by its path */
    uint32_t directory_mode, directory_uid, directory_gid;
};

/* A seccomp filter, in the order in which they were installed. */
struct snapshot_filter {
    uint64_t offset; /* in blobs: `length` struct sock_filter of 8 bytes */
    uint32_t length;
    uint32_t flags; /* SECCOMP_FILTER_FLAG_* */
};

/* Every table of a snapshot: X(type, plural name, section). */
/* The machine that an image was made on. */
struct snapshot_machine {
    char kernel_release[64];
    uint64_t features_offset;   /* in blobs: what the processor has that programs use, with spaces between */
    uint64_t xstate_components; /* of the extended state of threads, a bit each */
    uint32_t xstate_offsets[32], xstate_lengths[32]; /* where each stands in it */
};

#define SNAPSHOT_TABLES(X)                                                                                   \
    X(struct snapshot_thread, threads, ".reseat.thread")                                                     \
    X(struct snapshot_signal, signals, ".reseat.signal")                                                     \
    X(struct snapshot_timer, timers, ".reseat.timer")                                                        \
    X(struct snapshot_region, regions, ".reseat.region")                                                     \
    X(struct snapshot_owner, owners, ".reseat.owner")                                                        \
    X(struct snapshot_lock, locks, ".reseat.lock")                                                           \
    X(struct snapshot_position, positions, ".reseat.position")                                               \
    X(struct snapshot_interest, interests, ".reseat.interest")                                               \
    X(struct snapshot_reopen, reopens, ".reseat.reopen")                                                     \
    X(struct snapshot_vma, vmas, ".reseat.vma")                                                              \
    X(struct snapshot_extent, extents, ".reseat.extent")                                                     \
    X(struct snapshot_capability, capabilities, ".reseat.capability")                                        \
    X(struct snapshot_object, objects, ".reseat.object")                                                     \
    X(struct snapshot_extent, contents, ".reseat.content")                                                   \
    X(struct snapshot_action, actions, ".reseat.action")                                                     \
    X(struct snapshot_state, states, ".reseat.state")                                                        \
    X(struct snapshot_filter, filters, ".reseat.filter")                                                     \
    X(struct snapshot_thread_credentials, credentials, ".reseat.credential")                                 \
    X(struct snapshot_machine, machines, ".reseat.machine")                                                  \
    X(uint8_t, blobs, ".reseat.blob")

struct snapshot {
    struct snapshot_process process;
#define X(type, name, section)                                                                               \
    type *name;                                                                                              \
    size_t name##_count;
    SNAPSHOT_TABLES(X)
#undef X
    size_t blobs_room; /* bytes allocated; 0: as many as are used */
};

/* Adds bytes to `blobs` (aligned to 8) and says where. -ENOMEM. */
int snapshot_add_blob(struct snapshot *snapshot, const void *data, size_t length, uint64_t *ret_offset);
/* Whether what is at that selector is a file of the process itself below /proc, and opened again. */
bool snapshot_is_reopened(const struct snapshot *snapshot, uint32_t selector);
/* A copy of everything. -ENOMEM. */
int snapshot_copy(const struct snapshot *snapshot, struct snapshot *ret_copy);
void snapshot_free(struct snapshot *snapshot);
