/* A process in our hands. Seize all its threads, stop them, run *programs* of system calls inside, let go.
 *
 * The rule that shapes everything here: Reseat may be killed at any instruction, and the target must then run
 * on as if nothing had been. When a tracer dies its tracees simply resume with whatever registers they have.
 * So at no moment may a thread have registers from which it would not find back by itself:
 *
 *  - The *stub* (arch.h): some 150 bytes in unused, executable padding (the tail of the vDSO), which make one
 *    system call and then put back signal mask and registers and jump to where the thread was. It maps and
 * unmaps the scratch pages.
 *  - The *interpreter* on the scratch pages runs a program, an array of system calls. Every program that a
 * thread of the target runs ends by undoing what it did and returning through rt_sigreturn(2) from a frame
 * that we wrote beforehand.
 *  - A program reports to us by sending its own thread a signal that is ignored by default: a traced thread
 * stops at it, an untraced one falls through. There is no single step and no breakpoint anywhere.
 *
 * Rests on ptrace(2) (PTRACE_SEIZE, PTRACE_INTERRUPT), proc_pid_mem(5). */
#pragma once

#include "base/base.h"
#include "target/arch/arch.h"

#include <sys/ptrace.h>

/* How long a thread may take to stop. A vfork(2) in progress blocks its thread for as
 * long as it lasts. */
#define TARGET_STOP_TIMEOUT_NS 2000000000U
/* How long a program may take to its report: a fork of much memory takes seconds. */
#define TARGET_REPORT_TIMEOUT_NS 20000000000U

/* Syscall user dispatch (struct ptrace_sud_config): while a program of ours runs in the thread it is off, and
 * of all that we change this alone does not come back by itself if we die just then. */
struct dispatch_config {
    uint64_t mode, selector, offset, length;
};

struct target_thread {
    pid_t tid;
    pid_t ns_tid; /* in its innermost PID namespace */
    bool is_traced;
    bool is_stopped;
    bool is_moved;      /* its registers are ours: they must be put back before it is let go */
    uint64_t undo_stop; /* where it reports that it has undone what its program did; 0: nothing to undo */
    int held_signal;    /* arrived while a program ran; sent again when it is let go */
    uint64_t regs[ARCH_REGS_WORDS]; /* as at the stop, with an interrupted system call set to be made again */
    uint64_t signal_mask;
    struct dispatch_config dispatch;
    bool may_be_dispatched;                  /* this kernel does not say (before Linux 6.4) */
    struct __ptrace_rseq_configuration rseq; /* restartable sequences; all zero: not registered */
};

/* Our pages in the target: first the interpreter (read, execute), then data (read, write), of which we keep a
 * mirror that is filled, written in one go, and fetched again for the results. */
struct scratch {
    uint64_t address, length; /* of the whole mapping; 0: none */
    uint8_t *mirror;          /* of the data part */
    size_t mirror_length;
    size_t used;  /* bytes of the data part that are taken */
    size_t first; /* where the part begins that is written and fetched: what stands before is in use */
};

struct target {
    pid_t pid;
    pid_t ns_pid;
    int pidfd, proc_fd, mem_fd;
    unsigned trace_options; /* PTRACE_O_* of all threads */
    unsigned more_options;  /* of the leader, as last set by target_set_options() */
    int report_signal;
    bool report_is_caught;         /* the program has a handler for it */
    struct target_thread *threads; /* the first is the leader */
    size_t thread_count;
    uint64_t stub_address;              /* 0: not written */
    uint64_t stub_place;                /* where it would fit; 0: not looked for */
    uint64_t vdso_address, vdso_length; /* found together with that */
    bool leaves_vdso; /* to be stopped where no thread stands in the vDSO, which another kernel has otherwise
                       */
    struct scratch scratch;
    bool keeps_scratch; /* a twin: its pages stay when it is let go */
    pid_t *births;      /* what its programs cloned while PTRACE_O_TRACECLONE was set */
    size_t birth_count;
    uint64_t go_ns;   /* when the last thread was let go */
    uint64_t stop_ns; /* when the first thread was asked to stop, or 0 */
};

#define TARGET_NONE ((struct target){.pidfd = -EBADF, .proc_fd = -EBADF, .mem_fd = -EBADF})

/* ---- seize.c, thread.c, release.c ---- */

/* Seizes all threads, which run on for the moment; a seccomp filter is suspended while they are, if we may.
 * -EPERM: not ours; -ESRCH: gone. */
int target_seize(pid_t pid, struct target *ret_target, struct reseat_error **ret_error);
/* Seizes and stops the leader alone, for one system call through the stub. */
int target_seize_leader(pid_t pid, struct target *ret_target, struct reseat_error **ret_error);
/* Before anything is seized: whether all threads can be stopped now. The others would stand still for as long
 * as one cannot, and that one could not be let go. -ETIMEDOUT: one stays in an uninterruptible wait. */
int target_check_stoppable(pid_t pid, struct reseat_error **ret_error);
/* Stops all threads, including those that appear meanwhile, and reads their registers and signal masks.
 * -ETIMEDOUT: a thread does not stop (named, with what it waits in). */
int target_stop(struct target *target, struct reseat_error **ret_error);
/* Lets every thread run on as it was: scratch unmapped, registers and masks put back, detached. Cleanup
 * function; in any state, also when the target has died. */
void target_release(struct target *target);
/* Gives a stopped thread the registers and the mask that stand in its struct. */
void target_thread_restore(struct target_thread *thread);
/* The same, and lets it go. */
int target_thread_release(struct target *target, struct target_thread *thread);
/* Lets a thread go on with whatever program it is in; the scratch pages then stay. */
void target_abandon_thread(struct target *target, struct target_thread *thread);
/* The first half of target_release(): every thread runs on, detached; the struct is still there, and what was
 * fetched from the scratch pages. */
void target_let_go(struct target *target);
/* After the target was killed: collects its threads, so that its parent can. */
void target_reap(struct target *target);
/* Waits for the next stop of a traced thread: its wait status, or -ETIMEDOUT, or -ESRCH if it is gone. */
int target_wait_stop(pid_t tid, uint64_t timeout_ns, int *ret_status);
/* Adds a thread to the struct. NULL: out of memory. */
struct target_thread *target_add_thread(struct target *target, pid_t tid);
/* Opens pidfd and procfs of `pid` in a struct without threads. */
int target_open(pid_t pid, struct target *ret_target, struct reseat_error **ret_error);
int target_read(struct target *target, uint64_t address, void *data, size_t length);
int target_write(struct target *target, uint64_t address, const void *data, size_t length);
int target_get_regs(pid_t tid, uint64_t regs[ARCH_REGS_WORDS]);
int target_set_regs(pid_t tid, const uint64_t regs[ARCH_REGS_WORDS]);
int target_set_signal_mask(pid_t tid, uint64_t mask);
/* Gives a stopped thread registers of ours and blocks all signals but `report_signal` (0: all). */
int target_move_thread(struct target_thread *thread, const uint64_t regs[ARCH_REGS_WORDS], int report_signal);

int target_set_xstate(pid_t tid, const void *xstate, size_t length);
/* Into TARGET_XSTATE_BYTES_MAX bytes. */
int target_get_xstate(pid_t tid, void *xstate, size_t *ret_length);
#define TARGET_XSTATE_BYTES_MAX 65536 /* AMX has 11 KiB */
/* Whether a seccomp filter, if the process has one, can be kept from our system calls in it. -EPERM: no. */
int target_check_filter(const char *status, pid_t pid, struct reseat_error **ret_error);
/* PTRACE_O_* on top of those that the target was seized with. */
int target_set_options(struct target *target, pid_t tid, unsigned options);
/* Seizes one more thread, which runs on. */
int target_seize_thread(struct target *target, pid_t tid, struct reseat_error **ret_error);
/* Stops a seized thread, without reading its registers. */
int target_interrupt(struct target *target, struct target_thread *thread, struct reseat_error **ret_error);

/* ---- birth.c ---- */

/* The one process that a program of `parent` has just cloned: stopped before its first instruction, killed if
 * we die. */
int target_take_birth(struct target *parent, struct target *ret_child, struct reseat_error **ret_error);

/* ---- scratch.c ---- */

/* One system call by the leader through the stub. Returns its result or a negative errno. */
int64_t target_system_call(struct target *target, long number, const uint64_t arguments[6],
                           struct reseat_error **ret_error);
/* Looks for the place of the stub while the target runs: one thing less to do when it stands still. */
void target_find_stub_place(struct target *target);
/* Makes the mirror ready while the target still runs: fresh memory costs a page fault a page. The sparse one
 * is for much room of which little will probably be used: only its beginning is made ready. */
int target_reserve_mirror(struct target *target, size_t data_length, struct reseat_error **ret_error);
int target_reserve_sparse_mirror(struct target *target, size_t data_length, struct reseat_error **ret_error);
int target_map_scratch(struct target *target, size_t data_length, struct reseat_error **ret_error);
/* Unmaps it and clears the stub. */
int target_unmap_scratch(struct target *target, struct reseat_error **ret_error);
/* Takes over a scratch mapping that is there already (a twin's). */
int target_adopt_scratch(struct target *target, uint64_t address, uint64_t length, uint64_t stub_address,
                         struct reseat_error **ret_error);
/* Room in the data part: its address in the target, and through ret_mirror where to write it here. 0: no
 * room. */
uint64_t scratch_take(struct scratch *scratch, size_t length, size_t alignment, void *ret_mirror);
/* Our view of an address in the data part. */
void *scratch_mirror(struct scratch *scratch, uint64_t address);
uint64_t scratch_interpreter(const struct scratch *scratch);
/* Begins a new part behind all that is taken; what stands before is not touched any more. */
void scratch_begin_part(struct scratch *scratch);
/* The current part is written to, or read from, the target. */
int target_flush_scratch(struct target *target, struct reseat_error **ret_error);
int target_fetch_scratch(struct target *target, struct reseat_error **ret_error);

/* ---- program.c ---- */

/* One system call of a program, as the interpreter reads it. */
struct program_call {
    uint64_t number, arguments[6];
    uint64_t result_address; /* where the result goes; at first this field itself */
    uint64_t failure;        /* where to go on if the result is negative; 0: with the next call */
};

struct program {
    struct scratch *scratch;
    uint64_t address;
    struct program_call *calls; /* in the mirror */
    const char **what;          /* what each call does, for the error; NULL: may fail */
    size_t count, capacity;
    uint64_t stop_sp; /* the stack pointer at the (last) report */
    bool is_full;     /* a call did not fit, or memory ran out: the program must not be run */
};

/* Room for `capacity` calls and, behind them, `tail` bytes for a frame. */
int program_begin(struct program *program, struct scratch *scratch, size_t capacity, size_t tail,
                  struct reseat_error **ret_error);
void program_end(struct program *program); /* cleanup function; frees only what is ours */
/* Adds a call and returns its index. `what`: "setting the name" — if the call fails, the program goes on with
 * the next report, and the failure is an error with this text; NULL: a failure does not matter. */
size_t program_add(struct program *program, const char *what, long number, const uint64_t arguments[6]);
#define program_call(program, what, number, ...)                                                             \
    program_add(program, what, number, (const uint64_t[6]){__VA_ARGS__})
/* Adds the report, at which a traced thread stops; ids in the innermost PID namespace, 0: found out by the
 * program. */
void program_report(struct program *program, int signal, pid_t ns_pid, pid_t ns_tid);
/* Begins the program of a child: returns the stack pointer to give to clone3(2). */
uint64_t program_birth(struct program *program);
/* Adds an endless sleep that nothing but SIGKILL ends. */
void program_park(struct program *program);
/* Adds a wait until the word at `gate` is not zero. */
void program_wait_gate(struct program *program, uint64_t gate);
/* Adds the way back: rt_sigreturn to the given registers, mask and extended state (NULL: taken as it is at
 * the run; then length is 0). Returns the address of the frame's stack_t, for sigaltstack to fill in. */
uint64_t program_return(struct program *program, const uint64_t regs[ARCH_REGS_WORDS], uint64_t signal_mask,
                        const void *xstate, size_t xstate_length);
uint64_t program_argument_address(const struct program *program, size_t call, unsigned argument);
void program_set_result_address(struct program *program, size_t call, uint64_t address);
/* After target_fetch_scratch(): the result of a call. */
int64_t program_result(const struct program *program, size_t call);
/* The first call that failed and may not: sets the error; 0 if there is none. */
int program_check(const struct program *program, pid_t pid, struct reseat_error **ret_error);

/* Points a stopped thread at a program and lets it run; it is then waited for with program_await(). */
int program_start(struct target *target, struct target_thread *thread, const struct program *program,
                  struct reseat_error **ret_error);
int program_await(struct target *target, struct target_thread *thread, const struct program *program,
                  struct reseat_error **ret_error);
/* Lets a thread that stands at a report go on to the next report of the same program. */
int program_continue(struct target *target, struct target_thread *thread, struct reseat_error **ret_error);
/* A twin that stands at the report of an earlier program goes back to its sleep, before another program is
 * written over that one: if we died in between it would run on in the middle of something else. */
int program_leave(struct target *target, struct reseat_error **ret_error);
/* The usual way for the leader: writes the part, runs the program up to its report, fetches the results,
 * checks them. */
int program_run(struct target *target, const struct program *program, struct reseat_error **ret_error);
/* The same for a program that is not needed any more afterwards: adds the report, and frees the part. */
int program_run_batch(struct target *target, struct program *program, struct reseat_error **ret_error);
/* A growing list of calls for the leader, which is run whenever it is full. */
struct program_batch {
    struct target *target;
    struct program program;
};
int program_batch_begin(struct program_batch *batch, struct target *target, struct reseat_error **ret_error);
/* Runs what there is if the next few calls, with so many bytes of data beside them, might not fit. */
int program_batch_room(struct program_batch *batch, size_t bytes, struct reseat_error **ret_error);
int program_batch_run(struct program_batch *batch, struct reseat_error **ret_error);
void program_batch_end(struct program_batch *batch); /* cleanup function */
/* A copy of the data on the scratch pages: its address; 0: no room. */
uint64_t scratch_copy(struct scratch *scratch, const void *data, size_t length);
/* Mask of a thread that runs a program: everything blocked but the report. */
uint64_t program_signal_mask(int report_signal);
/* Bytes behind a program for the way back, without the extended state. */
#define PROGRAM_RETURN_BYTES 1024
