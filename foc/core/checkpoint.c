/* Checkpoint of a component: its threads are stopped, and their registers, UTCBs and extended states and the
 * component's private memory are copied. Its capability space is not touched here: that is the business of
 * whoever has a PD session, or of the vault.
 *
 * Stopping: every thread is made to raise an exception before it runs on (l4_thread_ex_regs with a triggered
 * exception). A thread in user mode does at once, a thread in a call of the kernel when the call ends; those
 * that have not after a while are waiting, and their wait is cancelled. restart.c says how that is mended.
 * Threads that serve gates come last, and are stopped only where they wait for a request. */
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "../restart.h"
#include "console.h"
#include "core.h"
#include "scratch.h"

#define CALLS_END_MS      60 /* as long calls of the kernel and of servers may go on before they are cancelled */
#define TRIGGER_MS        2
#define SYSTEM_CALL_BYTES 2
#define STOP_MS           2000
#define SERVER_TRIES      500 /* of finding a server without a request in hand */

static bool is_used(const struct component *component, unsigned number)
{
    return component->threads[number].priority != 0;
}

static bool is_at_system_call(struct component *component, foc_word_t rip)
{
    const unsigned char *first = component_memory(component, rip - SYSTEM_CALL_BYTES);
    const unsigned char *second = component_memory(component, rip - 1);
    return first && second && *first == 0x0f && *second == 0x05;
}

/* ---- stopping ---- */

static bool is_server(const struct component *component, unsigned number)
{
    for (unsigned i = 0; i < component->own_count; i++)
        if (component->own[i].kind == OWN_GATE && component->own[i].thread == number)
            return is_used(component, number);
    return false;
}

static bool has_stopped(const struct component *component, unsigned number)
{
    return component->threads[number].state == THREAD_STOPPED;
}

static bool clients_have_stopped(void *context)
{
    const struct component *component = context;
    for (unsigned i = 0; i < THREADS_MAX; i++)
        if (is_used(component, i) && !is_server(component, i) && !has_stopped(component, i))
            return false;
    return true;
}

static int trigger(struct component *component, unsigned number, foc_word_t flags,
                   struct reseat_error **ret_error)
{
    int r = kernel_thread_ex_regs(component->threads[number].slot, ~0ul, ~0ul, flags | FOC_EX_REGS_EXCEPTION);
    return r < 0 ? error_set(ret_error, r, "stopping thread %u of %s", number, component->name) : 0;
}

/* All that serve nobody and have not stopped yet. */
static int trigger_clients(struct component *component, foc_word_t flags, bool *ret_was_triggered,
                           struct reseat_error **ret_error)
{
    int r = 0;
    for (unsigned i = 0; i < THREADS_MAX && r == 0; i++) {
        ret_was_triggered[i] =
            is_used(component, i) && !is_server(component, i) && !has_stopped(component, i);
        if (ret_was_triggered[i])
            r = trigger(component, i, flags, ret_error);
    }
    return r;
}

/* What they have called has time to answer. They are triggered again and again, because a thread that has not
 * run since it was last let go is still in its exception for the kernel, which ignores the trigger then
 * (kern/thread_object.cpp, ex_regs) and says that all is well. */
static int stop_clients(struct component *component, bool *ret_was_canceled, struct reseat_error **ret_error)
{
    int r = 0;
    for (unsigned waited = 0; r == 0 && waited < CALLS_END_MS && !clients_have_stopped(component);
         waited += TRIGGER_MS) {
        r = trigger_clients(component, 0, ret_was_canceled, ret_error);
        serve_until(clients_have_stopped, component, TRIGGER_MS);
    }
    if (r == 0)
        r = trigger_clients(component, FOC_EX_REGS_CANCEL, ret_was_canceled, ret_error);
    if (r == 0 && serve_until(clients_have_stopped, component, STOP_MS) < 0)
        r = error_set(ret_error, -E_TIMEDOUT, "not all threads of %s stopped", component->name);
    return r;
}

/* Was it waiting for anybody when it was cancelled, or just about to? Then nobody waits for an answer of it.
 */
static bool owes_no_answer(struct component *component, unsigned number)
{
    const struct foc_registers *registers = &component->threads[number].registers;
    bool is_wait = registers->rdx & FOC_OPEN_WAIT;
    if (is_at_system_call(component, registers->rip))
        return is_wait && (registers->rax & FOC_TAG_ERROR);
    return is_at_system_call(component, registers->rip + SYSTEM_CALL_BYTES) && is_wait &&
           !(registers->rdx & FOC_SEND);
}

/* A thread that serves a gate, and has taken a request that it has not answered yet, cannot be stopped there:
 * the kernel's reply capability ends with the thread, and the caller would wait for good. So it is let run on
 * until it is found waiting for the next request. */
static int stop_server(struct component *component, unsigned number, struct reseat_error **ret_error)
{
    struct thread *thread = &component->threads[number];
    for (unsigned try = 0; try < SERVER_TRIES; try++) {
        unsigned seen = thread->exceptions;
        int r = trigger(component, number, FOC_EX_REGS_CANCEL, ret_error);
        if (r < 0)
            return r;
        if (thread_await_stop(thread, seen, STOP_MS) < 0)
            return error_set(ret_error, -E_TIMEDOUT, "thread %u of %s did not stop", number, component->name);
        if (owes_no_answer(component, number))
            return 0;
        struct foc_registers registers = thread->registers;
        r = thread_resume(thread, &registers, ret_error);
        if (r < 0)
            return r;
        serve_for(1 + try % 4);
    }
    return error_set(ret_error, -E_BUSY,
                     "thread %u of %s never waits for a request: who called it would lose the answer", number,
                     component->name);
}

static int stop(struct component *component, bool *ret_was_canceled, struct reseat_error **ret_error)
{
    int r = stop_clients(component, ret_was_canceled, ret_error);
    for (unsigned i = 0; i < THREADS_MAX && r == 0; i++)
        if (is_server(component, i)) {
            r = stop_server(component, i, ret_error);
            ret_was_canceled[i] = true;
        }
    return r;
}

/* ---- threads ---- */

static bool is_semaphore(struct component *component, foc_word_t reference)
{
    struct native_pd *pd = NULL;
    native_cap_t cap = NATIVE_CAP_INVALID;
    bool is_one = false;
    if (native_pd_open(component->id, &pd, NULL) == 0 &&
        native_pd_request(pd, (selector_t)(reference >> FOC_CAP_SHIFT), &cap, NULL, NULL) == 0 &&
        cap != NATIVE_CAP_INVALID) {
        is_one = core_knows_semaphore((foc_slot_t)cap);
        slots_drop((foc_slot_t)cap);
    }
    native_pd_free(&pd);
    return is_one;
}

static void mend_call(struct component *component, unsigned number, struct checkpoint *checkpoint)
{
    struct saved_thread *saved = &checkpoint->threads[number];
    struct foc_utcb *utcb = (struct foc_utcb *)saved->state;
    switch (restart_prepare(&saved->registers, utcb->error,
                            is_at_system_call(component, saved->registers.rip),
                            is_semaphore(component, saved->registers.rdx))) {
    case RESTART_NOT_NEEDED:
        checkpoint->running++;
        return;
    case RESTART_WAIT:
        checkpoint->waiting++;
        break;
    case RESTART_REPEAT:
        checkpoint->repeated++;
        break;
    case RESTART_LOST:
        checkpoint->interrupted++;
        return;
    }
    utcb->error = 0;
}

static int save_threads(struct component *component, const bool *was_canceled, struct checkpoint *checkpoint,
                        struct reseat_error **ret_error)
{
    int r = 0;
    for (unsigned i = 0; i < THREADS_MAX && r == 0; i++) {
        struct saved_thread *saved = &checkpoint->threads[i];
        if (!is_used(component, i) || !has_stopped(component, i))
            continue;
        saved->is_used = true;
        saved->registers = component->threads[i].registers;
        saved->state = pages_take(STATE_PAGES);
        if (!saved->state)
            return error_set(ret_error, -E_NOMEM, "no memory for the state of thread %u of %s", i,
                             component->name);
        r = scratch_save(component, i, saved->state, ret_error);
        if (r == 0 && was_canceled[i])
            mend_call(component, i, checkpoint);
        else
            checkpoint->running++;
    }
    return r;
}

/* ---- memory ---- */

static int save_memory(struct component *component, struct checkpoint *checkpoint,
                       struct reseat_error **ret_error)
{
    for (unsigned i = 0; i < component->region_count; i++) {
        const struct region *region = &component->regions[i];
        if (region->dataspace)
            continue;
        checkpoint->memory[i] = pages_take(region->pages);
        if (!checkpoint->memory[i])
            return error_set(ret_error, -E_NOMEM, "no memory to copy %zu pages at %lx of %s", region->pages,
                             region->start, component->name);
        __builtin_memcpy(checkpoint->memory[i], region->memory, region->pages << FOC_PAGE_SHIFT);
    }
    return 0;
}

static int load_memory(struct component *component, const struct checkpoint *checkpoint,
                       struct reseat_error **ret_error)
{
    for (unsigned i = 0; i < component->region_count; i++) {
        struct region *region = &component->regions[i];
        if (region->dataspace)
            continue;
        region->memory = pages_take(region->pages);
        if (!region->memory)
            return error_set(ret_error, -E_NOMEM, "no memory for %zu pages at %lx of %s", region->pages,
                             region->start, component->name);
        __builtin_memcpy(region->memory, checkpoint->memory[i], region->pages << FOC_PAGE_SHIFT);
    }
    return 0;
}

/* ---- the verbs ---- */

int checkpoint_let_run(struct component *component, const struct checkpoint *checkpoint,
                       struct reseat_error **ret_error)
{
    int r = 0;
    for (unsigned i = 0; i < THREADS_MAX; i++) {
        struct thread *thread = &component->threads[i];
        if (!is_used(component, i) || thread->state != THREAD_STOPPED)
            continue;
        const struct saved_thread *saved = &checkpoint->threads[i];
        struct foc_registers registers = saved->is_used ? saved->registers : thread->registers;
        int resumed = thread_resume(thread, &registers, ret_error);
        r = r < 0 ? r : resumed;
    }
    return r;
}

int checkpoint_take(struct component *component, struct checkpoint *checkpoint,
                    struct reseat_error **ret_error)
{
    bool was_canceled[THREADS_MAX] = {false};
    *checkpoint = (struct checkpoint){0};
    int r = stop(component, was_canceled, ret_error);
    /* Also if not all have stopped: a wait that was cancelled has to be made again when they are let run. */
    int saved = scratch_open(component, r < 0 ? NULL : ret_error);
    if (saved == 0)
        saved = save_threads(component, was_canceled, checkpoint, r < 0 ? NULL : ret_error);
    r = r < 0 ? r : saved;
    if (r == 0)
        r = save_memory(component, checkpoint, ret_error);
    scratch_close(component);
    if (r < 0) {
        checkpoint_let_run(component, checkpoint, NULL);
        checkpoint_free(component, checkpoint);
    }
    return r;
}

/* Objects that others hold were kept: they are bound to the new threads, and come back to their selectors
 * with the capabilities of others. */
static int rebuild_own(struct component *component, struct reseat_error **ret_error)
{
    for (unsigned i = 0; i < component->own_count; i++) {
        struct own *own = &component->own[i];
        if (own->is_shared && own->alias_of >= 0)
            continue;
        int r = own->is_shared
                    ? kernel_gate_bind(own->object, component->threads[own->thread].slot, own->label)
                    : component_make_own(component, own, ret_error);
        if (r < 0)
            return own->is_shared ? error_set(ret_error, r, "binding what is at selector %u of %s again",
                                              own->selector, component->name)
                                  : r;
    }
    return 0;
}

int checkpoint_rebuild(struct component *component, struct checkpoint *checkpoint,
                       struct reseat_error **ret_error)
{
    int r = component_make_task(component, ret_error);
    if (r == 0)
        r = load_memory(component, checkpoint, ret_error);
    for (unsigned i = 0; i < THREADS_MAX && r == 0; i++)
        if (is_used(component, i))
            r = component_make_thread(component, i, ret_error);
    return r < 0 ? r : rebuild_own(component, ret_error);
}

int checkpoint_start(struct component *component, struct checkpoint *checkpoint,
                     struct reseat_error **ret_error)
{
    int r = scratch_open(component, ret_error);
    for (unsigned i = 0; i < THREADS_MAX && r == 0; i++)
        if (is_used(component, i))
            r = scratch_load(component, i, checkpoint->threads[i].state, ret_error);
    scratch_close(component);
    return r < 0 ? r : checkpoint_let_run(component, checkpoint, ret_error);
}

void checkpoint_free(struct component *component, struct checkpoint *checkpoint)
{
    for (unsigned i = 0; i < THREADS_MAX; i++)
        pages_give(checkpoint->threads[i].state, STATE_PAGES);
    for (unsigned i = 0; i < component->region_count; i++)
        pages_give(checkpoint->memory[i], component->regions[i].pages);
    *checkpoint = (struct checkpoint){0};
}
