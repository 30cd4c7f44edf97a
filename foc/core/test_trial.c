/* The trial: a component with five threads is checkpointed, destroyed and made anew while it computes and
 * talks, three ways: left running; with its capabilities kept and put back by the checkpointer, an ordinary
 * task with a PD session; and with its whole capability space kept in the vault. It checks itself from the
 * inside, core checks it from the outside. */
#include "../component/trial.h"
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "check.h"
#include "console.h"
#include "core.h"
#include "space.h"
#include "tests.h"

#define RWS               (NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL)
#define FACTORY_BYTES     0x20000
#define PRIORITY          10
#define START_MS          5000
#define CHECKS_MS         60000
#define SIGNALS_MEANWHILE 1
#define ROUNDS            20u
#define HOLD_MS           50 /* until the server has a request in hand */

static struct component *peer, *target, *checkpointer;
static struct target_control *control;
static struct peer_control *peer_control;
static struct reseat_error *error;
static foc_slot_t peer_gate_side, semaphore, factory;

/* ---- setting up ---- */

/* A capability on our gate without the server's side: what clients get. */
static foc_slot_t client_side(foc_slot_t gate)
{
    foc_slot_t slot = slots_take();
    if (slot)
        kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(gate, 0, FOC_RIGHTS_RWS), FOC_CAP(slot), 0);
    return slot;
}

static int give_dataspace(struct component *component, struct dataspace *dataspace, selector_t selector,
                          selector_t alias)
{
    foc_slot_t side = client_side(dataspace->gate);
    int r = component_give(component, side, selector, RWS, &error);
    if (r == 0 && alias)
        r = component_give(component, side, alias, RWS, &error);
    slots_drop(side);
    return r;
}

/* The second processor, if there is one, is for every second thread. */
static int add_threads(struct component *component, unsigned count)
{
    int r = 0;
    for (unsigned i = 0; i < count && r == 0; i++)
        r = component_add_thread(component, i, i % 2 ? 2 : 1, PRIORITY, &error);
    return r;
}

static int make_peer(const struct foc_kip *kip)
{
    struct dataspace *page;
    int r = component_make(kip, "peer", &peer, &error);
    if (r == 0)
        r = add_threads(peer, PEER_THREADS);
    if (r == 0)
        r = component_add_own(peer, OWN_GATE, PEER_GATE, PEER_SERVER, PEER_LABEL, RWS, true, &error);
    if (r == 0)
        r = dataspace_make(1, &page);
    if (r == 0)
        r = give_dataspace(peer, page, PEER_CONTROL, 0);
    if (r < 0)
        return r;
    peer_control = page->pages;
    peer_gate_side = client_side(component_own(peer, PEER_GATE)->object);
    return 0;
}

/* What the target holds on itself. */
static int give_own(void)
{
    static const struct {
        enum own_kind kind;
        selector_t selector;
        unsigned thread;
        foc_word_t label;
        bool is_shared;
    } own[] = {
        {OWN_GATE, TARGET_EXIT_GATE, TARGET_SERVER, LABEL_EXIT, false},
        {OWN_GATE, TARGET_SIGNAL_GATE, TARGET_SERVER, LABEL_SIGNAL, false},
        {OWN_GATE, TARGET_CONSTRUCTOR_GATE, TARGET_SERVER, LABEL_CONSTRUCTOR, true},
        {OWN_IRQ, TARGET_IRQ, TARGET_INTERRUPT, LABEL_IRQ, true},
        {OWN_IRQ, TARGET_BLOCKADE_IRQ, TARGET_INTERRUPT, LABEL_BLOCKADE, false},
    };
    int r = 0;
    for (unsigned i = 0; i < COUNT_OF(own) && r == 0; i++)
        r = component_add_own(target, own[i].kind, own[i].selector, own[i].thread, own[i].label, RWS,
                              own[i].is_shared, &error);
    if (r == 0)
        r = component_add_alias(target, TARGET_EXIT_GATE, TARGET_EXIT_ALIAS, NATIVE_READ | NATIVE_WRITE,
                                &error);
    if (r == 0)
        r = component_add_alias(target, COMPONENT_SLOT_THREADS, TARGET_SELF_ALIAS, NATIVE_READ, &error);
    return r;
}

/* What the target holds of others. */
static int give_others(void)
{
    struct {
        foc_slot_t slot;
        selector_t selector;
        unsigned flags;
    } others[] = {
        {peer_gate_side, TARGET_PEER, RWS},
        {peer_gate_side, TARGET_PEER_ALIAS, RWS},
        {peer_gate_side, TARGET_PEER_HIGHEST, NATIVE_READ | NATIVE_SPECIAL},
        {factory, TARGET_FACTORY, RWS},
        {factory, TARGET_FACTORY_ALIAS, RWS},
        {semaphore, TARGET_SEMAPHORE_UP, RWS},
        {semaphore, TARGET_SEMAPHORE_ALIAS, RWS},
    };
    int r = 0;
    for (unsigned i = 0; i < COUNT_OF(others) && r == 0; i++)
        r = component_give(target, others[i].slot, others[i].selector, others[i].flags, &error);
    return r;
}

static int make_target(const struct foc_kip *kip)
{
    struct dataspace *memory, *page;
    semaphore = slots_take();
    factory = slots_take();
    int r = kernel_create_semaphore(FOC_SLOT_FACTORY, semaphore);
    core_remember_semaphore(semaphore);
    if (r == 0)
        r = kernel_create_factory(FOC_SLOT_FACTORY, factory, FACTORY_BYTES);
    if (r == 0)
        r = component_make(kip, "target", &target, &error);
    if (r == 0)
        r = add_threads(target, TARGET_THREADS);
    if (r == 0)
        r = give_own();
    if (r == 0)
        r = give_others();
    if (r == 0)
        r = dataspace_make(TARGET_MEMORY_PAGES, &memory);
    if (r == 0)
        r = give_dataspace(target, memory, TARGET_MEMORY, TARGET_MEMORY_ALIAS);
    if (r == 0)
        r = dataspace_make(1, &page);
    if (r == 0)
        r = give_dataspace(target, page, TARGET_CONTROL, 0);
    if (r == 0)
        r = component_give(peer, client_side(component_own(target, TARGET_CONSTRUCTOR_GATE)->object),
                           PEER_CONSTRUCTOR, RWS, &error);
    if (r == 0)
        control = page->pages;
    return r;
}

static int make_checkpointer(const struct foc_kip *kip)
{
    int r = component_make(kip, "checkpointer", &checkpointer, &error);
    if (r == 0)
        r = component_add_thread(checkpointer, 0, 1, PRIORITY, &error);
    return r < 0 ? r : session_make(target, checkpointer, COMPONENT_SLOT_SESSION, &error);
}

/* ---- the checkpointer's turns ---- */

/* Lets it go on to its next rest; returns the value that it rests with. */
static long checkpointer_turn(long *ret_more)
{
    struct thread *thread = &checkpointer->threads[0];
    unsigned seen = thread->exceptions;
    struct foc_registers registers = thread->registers;
    registers.rip += 2; /* over the invalid instruction */
    int r = thread_resume(thread, &registers, &error);
    if (r == 0)
        r = thread_await_stop(thread, seen, START_MS);
    if (r < 0)
        return r;
    if (thread->registers.trap != FOC_TRAP_INVALID_OPCODE)
        return -E_IO;
    *ret_more = (long)thread->registers.rbx;
    return (long)thread->registers.rax;
}

static bool only_session(void)
{
    static const selector_t expected[] = {COMPONENT_SLOT_TASK, COMPONENT_SLOT_SESSION, COMPONENT_SLOT_FAULT,
                                          COMPONENT_SLOT_THREADS};
    selector_t found[8];
    struct native_pd *pd = NULL;
    size_t count = 0;
    int r = native_pd_open(checkpointer->id, &pd, &error);
    if (r == 0)
        r = foc_list_by_probing(pd, 0, found, COUNT_OF(found), &count);
    native_pd_free(&pd);
    return r == 0 && count == COUNT_OF(expected) && __builtin_memcmp(found, expected, sizeof expected) == 0;
}

/* ---- how far the target is ---- */

static uint64_t before[TARGET_THREADS], calls_before, conversations_before;

static void note_progress(void)
{
    for (unsigned i = 0; i < TARGET_THREADS; i++)
        before[i] = control->progress[i];
    calls_before = peer_control->calls;
    conversations_before = peer_control->conversations;
}

static bool all_progressed(void *context)
{
    (void)context;
    for (unsigned i = 0; i < TARGET_THREADS; i++)
        if (i != TARGET_INTERRUPT && control->progress[i] <= before[i])
            return false;
    return peer_control->calls > calls_before && peer_control->conversations > conversations_before;
}

static bool has_checked(void *context)
{
    (void)context;
    return control->command == TARGET_CHECKED;
}

static bool goes_on(const char *when)
{
    note_progress();
    int r = serve_until(all_progressed, NULL, START_MS);
    if (r < 0)
        for (unsigned i = 0; i < TARGET_THREADS; i++)
            print("         target's thread %u: %lu before, %lu now, %s at %lx, %u exceptions\n", i,
                  before[i], control->progress[i],
                  target->threads[i].state == THREAD_STOPPED ? "stopped" : "runs",
                  target->threads[i].registers.rip, target->threads[i].exceptions);
    return check(r == 0, "all threads and both conversations go on %s", when);
}

static void check_from_inside(const char *when)
{
    unsigned reports = target->reports, failures = target->failures;
    control->command = TARGET_CHECK;
    bool is_done = serve_until(has_checked, NULL, CHECKS_MS) == 0;
    control->command = TARGET_RUN;
    checks.passed += target->reports - reports - (target->failures - failures);
    checks.failed += target->failures - failures;
    check(is_done && target->failures == failures && target->reports > reports,
          "the target finds everything right from the inside %s", when);
    check(peer_control->service_faults == 0 && peer_control->client_faults == 0,
          "the peer noticed nothing: no request lost, none twice (%lu requests served, %lu answers got, %lu "
          "calls failed "
          "while the target was not there)",
          peer_control->conversations, peer_control->calls, peer_control->outages);
}

/* ---- the three ways ---- */

static struct checkpoint checkpoint;
static struct space space;

static void say_threads(void)
{
    print(
        "         threads: %u running, %u waiting (wait again), %u repeat a call, %u see a cancelled send\n",
        checkpoint.running, checkpoint.waiting, checkpoint.repeated, checkpoint.interrupted);
}

static void try_leave_running(void)
{
    print("\n         checkpoint, left running\n");
    error = NULL;
    if (!check_result(checkpoint_take(target, &checkpoint, &error), &error,
                      "checkpoint of the running target"))
        return;
    say_threads();
    check_result(checkpoint_let_run(target, &checkpoint, &error), &error, "it is let run again");
    goes_on("behind it");
    checkpoint_free(target, &checkpoint);
    check_from_inside("behind it");
}

/* A server with a request in hand cannot be stopped without its caller losing the answer. */
static void try_refusal(void)
{
    print("\n         a checkpoint that has to be refused\n");
    error = NULL;
    control->holds_answers = 1;
    serve_for(HOLD_MS);
    int r = checkpoint_take(target, &checkpoint, &error);
    control->holds_answers = 0;
    check(r == -E_BUSY, "a server that never waits is refused: %s", error ? error->message : "no sentence");
    goes_on("behind the refusal");
    check_from_inside("behind the refusal");
}

/* While the target is not there: what is sent to it then must not be lost. */
static void destroy(void)
{
    foc_slot_t thread_before = slots_take();
    kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(target->threads[0].slot, 0, FOC_RIGHT_R),
               FOC_CAP(thread_before), 0);
    component_destroy(target);
    check(!kernel_cap_is_valid(FOC_SLOT_TASK, thread_before), "the target is destroyed, its threads with it");
    slots_give(thread_before);
    for (unsigned i = 0; i < SIGNALS_MEANWHILE; i++)
        kernel_irq_trigger(component_own(target, TARGET_IRQ)->object);
    serve_for(20);
}

static bool interrupt_arrived(void *context)
{
    return control->progress[TARGET_INTERRUPT] == *(uint64_t *)context + SIGNALS_MEANWHILE;
}

/* The target was rebuilt and has its capabilities: is it what it was? */
static void conclude(const char *when)
{
    uint64_t interrupts = control->progress[TARGET_INTERRUPT];
    unsigned wrong = space_compare(target, &space, true, &error);
    check(wrong == 0, "core finds its capability space as it was, selector by selector (%zu used, %u wrong)",
          space.count, wrong);
    if (!check_result(checkpoint_start(target, &checkpoint, &error), &error,
                      "its threads start where they were"))
        return;
    goes_on(when);
    check(serve_until(interrupt_arrived, &interrupts, START_MS) == 0,
          "the interrupt that came meanwhile is delivered");
    check_from_inside(when);
    checkpoint_free(target, &checkpoint);
    space_free(&space);
}

static bool take_and_record(void)
{
    error = NULL;
    if (!check_result(checkpoint_take(target, &checkpoint, &error), &error,
                      "checkpoint of the running target"))
        return false;
    say_threads();
    return check_result(space_record(target, &space, &error), &error,
                        "core writes down its capability space");
}

static void try_checkpointer(void)
{
    long more = 0;
    print("\n         capabilities kept by the checkpointer, an ordinary task with a PD session\n");
    check(only_session(), "the checkpointer holds a PD session, and else only what is its own");
    if (!take_and_record())
        return;
    unsigned reports = checkpointer->reports, failures = checkpointer->failures;
    long kept = checkpointer_turn(&more);
    checks.passed += checkpointer->reports - reports - (checkpointer->failures - failures);
    checks.failed += checkpointer->failures - failures;
    check(kept == (long)space.count, "the checkpointer has iterated with request, and keeps %ld of %zu", kept,
          space.count);
    destroy();
    if (!check_result(checkpoint_rebuild(target, &checkpoint, &error), &error, "the target is made anew"))
        return;
    long installed = checkpointer_turn(&more);
    check(installed > 0 && installed + more == kept,
          "the checkpointer has installed %ld; %ld ended with the target, and core made them anew", installed,
          more);
    conclude("after the checkpointer's restore");
    checkpointer_turn(&more); /* drops what it kept */
}

static void try_vault(void)
{
    struct foc_vault vault = {0};
    struct native_pd *pd = NULL;
    print("\n         capabilities kept by the vault\n");
    if (!take_and_record())
        return;
    native_pd_open(target->id, &pd, &error);
    check_result(foc_vault_make(FOC_SLOT_FACTORY, &vault, &error), &error, "a vault is made");
    check_result(foc_vault_fill(&vault, pd, &error), &error,
                 "the capability space is kept in it, by one bulk map");
    native_pd_free(&pd);
    destroy();
    if (!check_result(checkpoint_rebuild(target, &checkpoint, &error), &error, "the target is made anew"))
        return;
    native_pd_open(target->id, &pd, &error);
    uint64_t begin = count_now();
    int r = foc_vault_restore(&vault, pd, &error);
    uint64_t counted = count_now() - begin;
    check_result(r, &error, "and is put back, by one bulk map");
    print("count    restore from the vault, verified: %lu %s\n", counted, count_unit());
    native_pd_free(&pd);
    conclude("after the vault's restore");
    foc_vault_free(&vault);
}

/* One round of it, without words. */
static int restore_once(struct foc_vault *vault, unsigned *ret_wrong)
{
    struct native_pd *pd = NULL;
    int r = space_record(target, &space, &error);
    if (r == 0)
        r = foc_vault_make(FOC_SLOT_FACTORY, vault, &error);
    if (r == 0)
        r = native_pd_open(target->id, &pd, &error);
    if (r == 0)
        r = foc_vault_fill(vault, pd, &error);
    native_pd_free(&pd);
    if (r < 0)
        return r;
    component_destroy(target);
    r = checkpoint_rebuild(target, &checkpoint, &error);
    if (r == 0)
        r = native_pd_open(target->id, &pd, &error);
    if (r == 0)
        r = foc_vault_restore(vault, pd, &error);
    native_pd_free(&pd);
    if (r < 0)
        return r;
    *ret_wrong = space_compare(target, &space, false, &error);
    return checkpoint_start(target, &checkpoint, &error);
}

/* Over and over, so that it is stopped at many places of what it does. */
static void try_often(void)
{
    unsigned done = 0, wrong = 0, waiting = 0, repeated = 0, interrupted = 0;
    print("\n         again and again, with the vault\n");
    for (; done < ROUNDS; done++) {
        struct foc_vault vault = {0};
        unsigned wrong_now = 0;
        error = NULL;
        int r = checkpoint_take(target, &checkpoint, &error);
        waiting += checkpoint.waiting;
        repeated += checkpoint.repeated;
        interrupted += checkpoint.interrupted;
        if (r == 0)
            r = restore_once(&vault, &wrong_now);
        wrong += wrong_now;
        foc_vault_free(&vault);
        checkpoint_free(target, &checkpoint);
        space_free(&space);
        if (r < 0)
            break;
        serve_for(3 + done % 7);
    }
    check(done == ROUNDS,
          "%u of %u times destroyed and made anew%s%s (%u waits were made again, %u calls repeated, %u sends "
          "lost)",
          done, ROUNDS, done < ROUNDS && error ? ": " : "", done < ROUNDS && error ? error->message : "",
          waiting, repeated, interrupted);
    check(wrong == 0, "with not one selector wrong");
    goes_on("after all of them");
    check_from_inside("after all of them");
}

static bool is_ready(void *context)
{
    (void)context;
    return control->is_ready && peer_control->calls > 0 && checkpointer->threads[0].state == THREAD_STOPPED;
}

void test_trial(const struct foc_kip *kip)
{
    print("\n");
    error = NULL;
    if (!check_result(make_peer(kip), &error, "the peer is made") ||
        !check_result(make_target(kip), &error, "the target is made") ||
        !check_result(make_checkpointer(kip), &error, "the checkpointer is made"))
        return;
    check_result(component_start(peer, &error), &error, "the peer is started");
    check_result(component_start(target, &error), &error, "the target is started");
    check_result(component_start(checkpointer, &error), &error, "the checkpointer is started");
    if (!check(serve_until(is_ready, NULL, START_MS) == 0, "all are at work"))
        return;
    goes_on("before anything");
    check_from_inside("before anything");
    try_leave_running();
    try_refusal();
    try_checkpointer();
    try_vault();
    try_often();
}
