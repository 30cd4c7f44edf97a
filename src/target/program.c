/* Programs: arrays of system calls that the interpreter runs inside the target in one go.
 *
 * A call is seven words of input and two of what then: where the result goes and where to go on after a
 * failure. By default the result replaces the field that says where it goes; pointed elsewhere, it becomes an
 * argument of a later call. Calls that hand out data through pointers can do the same, so the interpreter
 * needs no variables. */
#include "target/target.h"
#include "target/target-internal.h"

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* Below a program: room for a signal handler that runs if we die at the wrong moment. */
#define RED_ZONE_BYTES       512

#define PAGE_BYTES           4096 /* of the interpreter; and room for the report */
#define CALLS_OF_ONE_BATCH   256
#define CALLS_BESIDE_A_BATCH 8 /* the report, and a sleep */
#define CALLS_AT_ONCE        6 /* between two program_batch_room() */

int program_begin(struct program *program, struct scratch *scratch, size_t capacity, size_t tail,
                  struct reseat_error **ret_error)
{
    *program = (struct program){.scratch = scratch, .capacity = capacity};
    scratch_take(scratch, RED_ZONE_BYTES, 16, NULL);
    program->address =
        scratch_take(scratch, capacity * sizeof(struct program_call) + tail, 16, &program->calls);
    program->what = calloc(capacity, sizeof *program->what);
    if (!program->address || !program->what)
        return error_set(ret_error, -ENOSPC,
                         "a program of %zu system calls does not fit on the scratch pages", capacity);
    return 0;
}

void program_end(struct program *program)
{
    free(program->what);
    program->what = NULL;
}

static uint64_t call_address(const struct program *program, size_t call)
{
    return program->address + call * sizeof(struct program_call);
}

uint64_t program_argument_address(const struct program *program, size_t call, unsigned argument)
{
    return call_address(program, call) + offsetof(struct program_call, arguments) +
           argument * sizeof(uint64_t);
}

size_t program_add(struct program *program, const char *what, long number, const uint64_t arguments[6])
{
    if (program->count == program->capacity) {
        program->is_full = true;
        return program->count - 1;
    }
    size_t index = program->count++;
    struct program_call *call = &program->calls[index];
    *call = (struct program_call){.number = (uint64_t)number};
    memcpy(call->arguments, arguments, sizeof call->arguments);
    call->result_address = call_address(program, index) + offsetof(struct program_call, result_address);
    program->what[index] = what;
    return index;
}

void program_set_result_address(struct program *program, size_t call, uint64_t address)
{
    program->calls[call].result_address = address;
}

void program_report(struct program *program, int signal, pid_t ns_pid, pid_t ns_tid)
{
    size_t first = program->count;
    size_t get_pid = 0, get_tid = 0;
    if (!ns_pid)
        get_pid = program_call(program, NULL, SYS_getpid, 0);
    if (!ns_tid)
        get_tid = program_call(program, NULL, SYS_gettid, 0);
    size_t kill =
        program_call(program, NULL, SYS_tgkill, (uint64_t)ns_pid, (uint64_t)ns_tid, (uint64_t)signal);
    if (program->is_full)
        return;
    if (!ns_pid)
        program_set_result_address(program, get_pid, program_argument_address(program, kill, 0));
    if (!ns_tid)
        program_set_result_address(program, get_tid, program_argument_address(program, kill, 1));
    program->stop_sp = call_address(program, kill) + offsetof(struct program_call, result_address);
    for (size_t i = 0; i < first; i++)
        if (program->what[i] && !program->calls[i].failure)
            program->calls[i].failure = call_address(program, first);
}

uint64_t program_birth(struct program *program)
{
    size_t call = program_call(program, NULL, -1, 0);
    return call_address(program, call) + offsetof(struct program_call, result_address);
}

void program_park(struct program *program)
{
    uint64_t *word;
    uint64_t word_address = scratch_take(program->scratch, 2 * sizeof *word, 16, &word);
    size_t wait = program_call(program, NULL, SYS_futex, word_address, FUTEX_WAIT);
    /* There is no call of this number: it always fails, which makes it a jump. */
    size_t again = program_call(program, NULL, -1, 0);
    if (!word_address || program->is_full) {
        program->is_full = true;
        return;
    }
    program_set_result_address(program, wait, word_address + sizeof *word);
    program_set_result_address(program, again, word_address + sizeof *word);
    program->calls[wait].failure = call_address(program, wait);
    program->calls[again].failure = call_address(program, wait);
}

void program_wait_gate(struct program *program, uint64_t gate)
{
    program_call(program, NULL, SYS_futex, gate, FUTEX_WAIT);
}

uint64_t program_return(struct program *program, const uint64_t regs[ARCH_REGS_WORDS], uint64_t signal_mask,
                        const void *xstate, size_t xstate_length)
{
    uint8_t *room;
    uint64_t xstate_address = scratch_take(program->scratch, xstate_length + 64, 64, &room);
    size_t call = program_call(program, NULL, SYS_rt_sigreturn, 0);
    if (!xstate_address || program->is_full) {
        program->is_full = true;
        return 0;
    }
    arch_frame_xstate(room, xstate, xstate_length);
    uint8_t *frame = (uint8_t *)&program->calls[call].arguments[ARCH_FRAME_IN_ARGUMENT];
    size_t stack_offset = arch_frame_build(frame, regs, signal_mask, xstate_address);
    program->capacity = program->count; /* the frame stands where further calls would */
    return program_argument_address(program, call, ARCH_FRAME_IN_ARGUMENT) + stack_offset;
}

int64_t program_result(const struct program *program, size_t call)
{
    uint64_t result = program->calls[call].result_address;
    /* Not run at all: the field still points at itself. */
    if (result == call_address(program, call) + offsetof(struct program_call, result_address))
        return -ECANCELED;
    return (int64_t)result;
}

int program_check(const struct program *program, pid_t pid, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < program->count; i++) {
        int64_t result = program->what[i] ? program_result(program, i) : 0;
        if (result < 0 && result >= -4095 && result != -ECANCELED)
            return error_errno(ret_error, (int)result, "%s, inside process %d", program->what[i], pid);
    }
    return 0;
}

uint64_t program_signal_mask(int report_signal)
{
    return report_signal ? ~(UINT64_C(1) << (report_signal - 1)) : ~UINT64_C(0);
}

static int resume(struct target_thread *thread)
{
    if (ptrace(PTRACE_CONT, thread->tid, NULL, NULL) < 0)
        return -errno;
    thread->is_stopped = false;
    return 0;
}

int program_start(struct target *target, struct target_thread *thread, const struct program *program,
                  struct reseat_error **ret_error)
{
    if (program->is_full)
        return error_set(ret_error, -ENOSPC, "a program for process %d does not fit on the scratch pages",
                         target->pid);
    uint64_t regs[ARCH_REGS_WORDS];
    memcpy(regs, thread->regs, sizeof regs);
    arch_enter(regs, scratch_interpreter(&target->scratch), program->address);
    int r = target_move_thread(thread, regs, target->report_signal);
    if (r == 0)
        r = resume(thread);
    return r < 0 ? error_errno(ret_error, r, "starting a program in thread %d", thread->tid) : 0;
}

int program_continue(struct target *target, struct target_thread *thread, struct reseat_error **ret_error)
{
    (void)target;
    int r = resume(thread);
    return r < 0 ? error_errno(ret_error, r, "continuing the program of thread %d", thread->tid) : 0;
}

/* A process or thread that a traced clone made; it is traced, too, and stands in its first stop. */
static int note_birth(struct target *target, pid_t tid)
{
    unsigned long child;
    if (ptrace(PTRACE_GETEVENTMSG, tid, NULL, &child) < 0)
        return -errno;
    pid_t *birth = array_append(target->births, target->birth_count);
    if (!birth)
        return -ENOMEM;
    *birth = (pid_t)child;
    return 0;
}

int program_await(struct target *target, struct target_thread *thread, const struct program *program,
                  struct reseat_error **ret_error)
{
    for (;;) {
        int status;
        int r = target_wait_stop(thread->tid, TARGET_REPORT_TIMEOUT_NS, &status);
        if (r == -ESRCH) {
            thread->is_traced = false;
            return error_set(ret_error, r, "thread %d of process %d ended while a program ran in it",
                             thread->tid, target->pid);
        }
        if (r < 0)
            return error_errno(ret_error, r, "waiting for the program of thread %d", thread->tid);
        thread->is_stopped = true;
        int event = status >> 16;
        if (event >= PTRACE_EVENT_FORK && event <= PTRACE_EVENT_CLONE) {
            r = note_birth(target, thread->tid);
            if (r < 0)
                return error_errno(ret_error, r, "taking over a child of thread %d", thread->tid);
        }
        int signal = event ? 0 : WSTOPSIG(status);
        if (signal == target->report_signal) {
            uint64_t regs[ARCH_REGS_WORDS];
            r = target_get_regs(thread->tid, regs);
            if (r < 0)
                return error_errno(ret_error, r, "reading the registers of thread %d", thread->tid);
            if (arch_sp(regs) == program->stop_sp)
                return 0;
        }
        r = target_check_dispatched(thread, signal, ret_error);
        if (r < 0)
            return r;
        /* Somebody else's signal (only SIGSTOP and the report signal can get through): it must wait. A ptrace
         * event (a group stop, a clone) is nobody's signal. */
        if (signal)
            thread->held_signal = signal;
        r = resume(thread);
        if (r < 0)
            return error_errno(ret_error, r, "continuing the program of thread %d", thread->tid);
    }
}

int program_leave(struct target *target, struct reseat_error **ret_error)
{
    struct target_thread *leader = &target->threads[0];
    if (!target->keeps_scratch || !leader->is_moved)
        return 0;
    int r = target_move_thread(leader, leader->regs, 0);
    return r < 0 ? error_errno(ret_error, r, "putting thread %d to sleep", leader->tid) : 0;
}

int program_run(struct target *target, const struct program *program, struct reseat_error **ret_error)
{
    struct target_thread *leader = &target->threads[0];
    int r = program_leave(target, ret_error);
    if (r == 0)
        r = target_flush_scratch(target, ret_error);
    if (r == 0)
        r = program_start(target, leader, program, ret_error);
    if (r == 0)
        r = program_await(target, leader, program, ret_error);
    if (r == 0)
        r = target_fetch_scratch(target, ret_error);
    return r == 0 ? program_check(program, target->pid, ret_error) : r;
}

int program_run_batch(struct target *target, struct program *program, struct reseat_error **ret_error)
{
    program_report(program, target->report_signal, 0, 0);
    if (target->keeps_scratch)
        program_park(program); /* a twin goes back to sleep if we die */
    int r = program_run(target, program, ret_error);
    target->scratch.used = target->scratch.first;
    return r;
}

uint64_t scratch_copy(struct scratch *scratch, const void *data, size_t length)
{
    void *mirror;
    uint64_t address = scratch_take(scratch, length, 8, &mirror);
    if (address)
        memcpy(mirror, data, length);
    return address;
}

int program_batch_begin(struct program_batch *batch, struct target *target, struct reseat_error **ret_error)
{
    batch->target = target;
    return program_begin(&batch->program, &target->scratch, CALLS_OF_ONE_BATCH + CALLS_BESIDE_A_BATCH, 0,
                         ret_error);
}

int program_batch_run(struct program_batch *batch, struct reseat_error **ret_error)
{
    int r = batch->program.count ? program_run_batch(batch->target, &batch->program, ret_error) : 0;
    batch->target->scratch.used = batch->target->scratch.first;
    program_end(&batch->program);
    return r;
}

int program_batch_room(struct program_batch *batch, size_t bytes, struct reseat_error **ret_error)
{
    const struct scratch *scratch = &batch->target->scratch;
    size_t left = scratch->length - PAGE_BYTES - scratch->used;
    if (batch->program.count + CALLS_AT_ONCE < CALLS_OF_ONE_BATCH && left > bytes + PAGE_BYTES)
        return 0;
    int r = program_batch_run(batch, ret_error);
    return r == 0 ? program_batch_begin(batch, batch->target, ret_error) : r;
}

void program_batch_end(struct program_batch *batch)
{
    program_end(&batch->program);
}
