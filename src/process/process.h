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
    SEVERITY_FORBIDDEN = 3, /* degraded or lost, where the caller permits neither, whatever he allows */
};

struct obstacle {
    enum severity severity;
    int selector; /* -1: not about one capability */
    char *sentence;
};

struct obstacles {
    struct obstacle *items;
    size_t count;
    bool threads_differ; /* no obstacle: some have credentials of their own (SNAPSHOT_THREADS_DIFFER) */
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

/* ---- survey.c: what can be read before the stop ---- */

/* Fills the process row (numbers, family, terminal), the treatment of regions by a fork (copy form) and whom
 * the capabilities send signals to. */
int process_survey(pid_t pid, enum snapshot_form form, struct snapshot *snapshot,
                   struct reseat_error **ret_error);

/* Only the treatment of regions, of any live process. */
int process_survey_regions(pid_t pid, struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- machine.c ---- */

/* The machine that this is, for an image. */
int process_describe_machine(struct snapshot *snapshot, struct reseat_error **ret_error);
/* What the processor of the image's machine had and ours has not, with spaces between. NULL: out of memory.
 */
char *process_missing_features(const struct snapshot *snapshot);

/* ---- map.c: the memory map, for a durable image ---- */

/* Fills `vmas`: every mapping of process `pid` (the stopped target, or its twin at leisure), ascending,
 * without our own scratch pages. Of files also what is needed to recognise them later. Which object a mapping
 * of SNAPSHOT_VMA_OBJECT is of (`object`) is for the object room to fill in. */
int process_capture_map(pid_t pid, struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- describe.c: what else a process is, for a durable image ---- */

struct target;
struct program;
struct scratch;

/* Fills `states`, `actions` and `filters`: everything that a twin holds by itself. Asked of the twin at
 * leisure, which is stopped and has scratch pages to run a program on. `report_action`: what the process does
 * with the report signal (struct snapshot_action without its number), if the twin does not do it itself; or
 * NULL. */
int process_describe(struct target *holder, const uint64_t report_action[4], struct snapshot *snapshot,
                     struct reseat_error **ret_error);
/* The part of it that procfs says of any process, running or not. */
int process_describe_outside(int proc_fd, struct snapshot *snapshot, struct snapshot_state *state);
/* The namespaces of a process, by inode; 0: not known. */
void process_read_namespaces(int proc_fd, uint64_t namespaces[SNAPSHOT_NAMESPACES]);
/* The user who has logged in, for the audit log: UINT32_MAX if nobody has. -ENOENT: a kernel without that. */
int process_read_login(int proc_fd, uint32_t *ret_uid);
/* Whether a process of ours can be given this one (with CAP_AUDIT_CONTROL, or if we have not logged in). */
bool process_may_set_login(uint32_t uid);
extern const char *const process_namespace_names[SNAPSHOT_NAMESPACES];

/* ---- credentials.c ---- */

/* From the text of a status file (proc_pid_status(5)); groups become a blob of the snapshot. Without
 * securebits, which only a thread itself can be asked for. -EBADMSG: not such a text. */
int credentials_parse(const char *status, struct snapshot *snapshot,
                      struct snapshot_credentials *ret_credentials);
/* Fills `credentials` with those of all threads that are not as the main thread. */
int credentials_capture_threads(int proc_fd, struct snapshot *snapshot);
/* Whether a thread with `own` credentials (whose groups are in `ours`) may take on the `wanted` ones; if not,
 * what it may not, and the privilege that this takes. */
bool credentials_may_become(const struct snapshot *ours, const struct snapshot_credentials *own,
                            const struct snapshot *snapshot, const struct snapshot_credentials *wanted,
                            const char **ret_what, const char **ret_privilege);
/* What the process of an image would have that we may not give it: -EPERM. */
int process_check_privileges(const struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- capture.c: what a stopped target is asked ---- */

/* From outside, by ptrace and procfs: registers, extended state, masks, pending signals, timers' ids,
 * scheduling. */
int process_capture(struct target *target, struct snapshot *snapshot, struct reseat_error **ret_error);

/* The scheduling and the processors of thread row->tid, read into the row. */
void process_capture_scheduling(struct snapshot_thread *row);

/* Where the answers of one thread's probe stand on the scratch pages. */
struct thread_probe {
    uint64_t tid_address, stack_address, name_address, policy_address; /* where the answers will stand */
    size_t tid_call, slack_call, privileges_call, fault_call, bits_call;
};

#define PROCESS_THREAD_PROBE_CALLS 9
/* Adds the calls that ask a thread what cannot be seen from outside. */
void process_probe_thread(struct program *program, struct thread_probe *ret_probe);
void process_read_thread_probe(const struct program *program, const struct thread_probe *probe,
                               struct snapshot_thread *ret_thread);

/* The same for the process, asked through its leader. */
struct process_probe {
    uint64_t itimers_address, timers_address, flags_address;
    size_t locked_call, dumpable_call;
};

#define PROCESS_PROBE_CALLS(snapshot) (16 + (snapshot)->timers_count)
void process_probe(struct program *program, const struct snapshot *snapshot, struct process_probe *ret_probe);
void process_read_probe(const struct program *program, const struct process_probe *probe,
                        struct snapshot *snapshot);

/* Signals that have come, and timers that have fired, since the target was captured and asked. The last thing
 * that is read while it stands still. */
int process_capture_late(struct target *target, struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- rebuild*.c: from a snapshot back into a process ---- */

/* A half-made process: a leader that is stopped at its first instruction, with scratch pages, which is killed
 * if we die. What it already has of the snapshot is what its maker handed on. */
struct seed {
    struct target *process;
    uint32_t ns_maker;  /* the process that it was cloned from and replaces, killed by the commit; 0: none */
    bool shares_memory; /* with the process of the snapshot: locked regions are still locked */
    bool has_new_numbers; /* another PID than in the snapshot, and other TIDs */
    bool own_table;       /* its table is not to stay its maker's: something else will be put at some slots */
    bool must_race;       /* it may not choose numbers itself: process_choose_next() does */
    bool is_bare; /* made from an image: it has memory and capabilities of the snapshot, and nothing else */
    /* is_bare: 1 + the selector that has its controlling terminal, or the master of that; 0: by its path. */
    uint32_t terminal_slot, terminal_master;
    bool new_session;     /* is_bare: it is to lead a session, whatever it did before */
    bool locks_come_late; /* somebody holds its record locks: process_take_locks() is called afterwards */
    bool renews_locks;    /* its maker had let go of them once, and has taken them again since, or not */
    bool is_filtered; /* threads must be traced from birth, or their seccomp filter could not be suspended */

    uint64_t deadline_ns; /* until when a number that is taken is waited for */
    uint32_t last_number; /* must_race: what the next number was counted from before */

    /* Kept between rebuild and commit. */
    uint64_t report_action_address; /* what the program does with our report signal, which its maker ignores;
                                       or 0 */
    uint64_t passing_address; /* a word that its maker sees: 1 + a selector that is used in passing, or 0 */
    uint32_t *ns_tids;        /* of each thread of the snapshot, in the innermost namespace */
    uint64_t gate_address;
    uint64_t *stops; /* the stack pointer at each thread's last report */
};

/* ---- cgroup.c: control groups, cgroups(7) ---- */

/* For each control group in `groups` (/proc/PID/cgroup of another time) that is not ours: calls visit() with
 * the path of its cgroup.procs, or with NULL if it is not to be found here. Stops when that is not 0, and
 * returns it. */
int process_visit_control_groups(const char *groups,
                                 int (*visit)(void *userdata, const char *line, const char *path),
                                 void *userdata);

/* Bytes of scratch pages that a restore takes. */
size_t process_scratch_bytes(const struct snapshot *snapshot);
void seed_end(struct seed *seed); /* cleanup function; frees only its own memory */

/* Everything but letting it run: family, names, capabilities' owners, threads. Afterwards all threads but the
 * leader wait at a gate and the leader is stopped; if we die now the process dies, and the maker still has
 * everything. */
int process_rebuild(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error);
/* The point of no return: the maker is killed, timers start, the gate opens, every thread goes to where it
 * was. */
int process_commit(struct seed *seed, const struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- locks.c: record locks, whose owner is a table ---- */

struct snapshot_lock;
/* Adds a call with a lock of this type (F_UNLCK: let go of). */
void process_add_lock(struct program *program, const char *what, int command, const struct snapshot_lock *row,
                      int type);
/* Takes those of the snapshot. Those that the table of the process holds already (an heir's) stay as they
 * are; `renews`: unless it was not the process of the snapshot that took them, then they are let go before.
 */
int process_take_locks(struct target *process, const struct snapshot *snapshot, bool renews,
                       struct reseat_error **ret_error);

/* Takes the controlling terminal (session leader) or its foreground (job) for the process of the seed, if the
 * process of the snapshot had it and nobody else has taken it; `former`: a group that may have it meanwhile,
 * or 0. */
int process_take_terminal(struct seed *seed, const struct snapshot_process *process, pid_t former,
                          struct reseat_error **ret_error);
/* The path that a terminal of this device number usually has; false: none. */
bool process_terminal_path(uint32_t device, char *path, size_t size);
/* Whether a session leader could take it: it can be opened at its path below `root`, and no session has it.
 */
bool process_terminal_is_free(uint32_t device, const char *root);
/* How many living members process group `group` has, but one. */
int process_count_members(pid_t group, pid_t except, size_t *ret_count, struct reseat_error **ret_error);
/* Moves all living members of process group `from`, but one, into the group of `to`. */
int process_move_members(pid_t from, pid_t to, pid_t except, struct reseat_error **ret_error);
/* Makes `levels` (outermost PID namespace first, at most two) the numbers that the kernel tries next for a
 * child of `pid` (ns_last_pid): the way to a certain PID where the process that clones may not choose it. */
int process_choose_next(pid_t pid, const uint32_t *levels, size_t level_count,
                        struct reseat_error **ret_error);
/* What the kernel gave last in our PID namespace, 0 if that cannot be read; and its putting back, so that new
 * processes do not run into the numbers that we have just used. */
uint32_t process_last_number(void);
void process_reset_last_number(uint32_t number);
/* Says who has a number that is not free. Returns -EEXIST. */
int process_report_taken(pid_t number, struct reseat_error **ret_error);
/* clone_args (clone3(2)) on the scratch pages: its address. `levels`: set_tid, outermost first; NULL: any
 * number. */
uint64_t process_clone_arguments(struct scratch *scratch, uint64_t flags, uint64_t stack, uint64_t tls,
                                 const uint32_t *levels, size_t level_count);
