/* What the target can see of its own capability space and state, from the inside. */
#include "lib.h"
#include "target.h"

#define PROGRESS_MS 1000

static bool progresses(enum target_thread thread, uint64_t before)
{
    for (unsigned i = 0; i < PROGRESS_MS && control->progress[thread] == before; i++)
        kernel_sleep_us(1000);
    return control->progress[thread] != before;
}

static void check_aliases(void)
{
    static const struct {
        foc_slot_t a, b;
    } same[] = {
        {TARGET_PEER, TARGET_PEER_ALIAS},
        {TARGET_SEMAPHORE_UP, TARGET_SEMAPHORE_ALIAS},
        {TARGET_MEMORY, TARGET_MEMORY_ALIAS},
        {TARGET_FACTORY, TARGET_FACTORY_ALIAS},
    };
    bool is_well = true;
    for (unsigned i = 0; i < COUNT_OF(same); i++)
        is_well = kernel_caps_are_equal(COMPONENT_SLOT_TASK, same[i].a, same[i].b) && is_well;
    report(is_well, "aliases with the same rights are equal");
    report(!kernel_caps_are_equal(COMPONENT_SLOT_TASK, TARGET_PEER, TARGET_PEER_HIGHEST) &&
               !kernel_caps_are_equal(COMPONENT_SLOT_TASK, TARGET_EXIT_GATE, TARGET_EXIT_ALIAS) &&
               !kernel_caps_are_equal(COMPONENT_SLOT_TASK, COMPONENT_SLOT_THREADS, TARGET_SELF_ALIAS),
           "aliases with fewer rights are not");
}

static void check_holes(void)
{
    static const foc_slot_t holes[] = {0, 4, 0x31, 0x4f, 0x52, 0x1233, 0x7ffe, 0x8002, 0xabce, TARGET_FREE};
    bool is_well = true;
    for (unsigned i = 0; i < COUNT_OF(holes); i++)
        is_well = !kernel_cap_is_valid(COMPONENT_SLOT_TASK, holes[i]) && is_well;
    report(is_well, "holes are holes");
}

static void check_conversation(void)
{
    report(converse(TARGET_PEER) && converse(TARGET_PEER_ALIAS) && converse(TARGET_PEER_HIGHEST),
           "the peer answers at selectors %u, %u and %u", TARGET_PEER, TARGET_PEER_ALIAS,
           TARGET_PEER_HIGHEST);
}

static void check_own_gates(void)
{
    static const struct {
        foc_slot_t gate;
        foc_word_t label;
        const char *name;
    } own[] = {
        {TARGET_EXIT_GATE, LABEL_EXIT, "exit gate"},
        {TARGET_EXIT_ALIAS, LABEL_EXIT, "exit gate's alias"},
        {TARGET_SIGNAL_GATE, LABEL_SIGNAL, "signal gate"},
    };
    for (unsigned i = 0; i < COUNT_OF(own); i++) {
        foc_word_t words[2] = {0, 0};
        int r = call(own[i].gate, words, 2);
        report(r == 0 && words[0] == own[i].label, "its %s is served by its own thread, with its label",
               own[i].name);
    }
    report(kernel_cap_is_valid(COMPONENT_SLOT_TASK, TARGET_CONSTRUCTOR_GATE),
           "it holds its constructor gate");
}

static void check_signals(void)
{
    uint64_t before = control->progress[TARGET_INTERRUPT];
    kernel_irq_trigger(TARGET_IRQ);
    report(progresses(TARGET_INTERRUPT, before), "its interrupt reaches the thread that it is attached to");
    before = control->progress[TARGET_INTERRUPT];
    kernel_irq_trigger(TARGET_BLOCKADE_IRQ);
    report(progresses(TARGET_INTERRUPT, before), "its blockade reaches the thread that it is attached to");
    before = control->progress[TARGET_SEMAPHORE];
    kernel_irq_trigger(TARGET_SEMAPHORE_UP);
    report(progresses(TARGET_SEMAPHORE, before), "its semaphore wakes the thread that waits at it");
    report(kernel_semaphore_down(TARGET_SEMAPHORE_ALIAS, FOC_TIMEOUT(1, 1)) != -E_PERM,
           "the semaphore's alias has its rights");
}

/* A factory is good for something only if it makes objects, out of its own memory. */
static void check_factory(void)
{
    int made =
        kernel_create_gate(TARGET_FACTORY, TARGET_FREE, COMPONENT_SLOT_THREADS + TARGET_SERVER, LABEL_SIGNAL);
    foc_word_t words[2] = {0, 0};
    int called = made == 0 ? call(TARGET_FREE, words, 2) : made;
    kernel_destroy(TARGET_FREE);
    report(made == 0 && called == 0 && words[0] == LABEL_SIGNAL &&
               !kernel_cap_is_valid(COMPONENT_SLOT_TASK, TARGET_FREE),
           "its factory makes a gate, which its own thread serves");
}

static void check_memory(void)
{
    foc_word_t words[1] = {0};
    report(call(TARGET_MEMORY, words, 1) == 0 && words[0] == TARGET_MEMORY_PAGES, "its dataspace answers");
    report(shared_memory_is_well(), "what it wrote into its dataspace is there");
    report(private_memory_is_well(), "what it wrote into memory of its own is there");
}

static void check_threads(void)
{
    uint64_t before = control->progress[TARGET_NUMBERS];
    report(progresses(TARGET_NUMBERS, before) && control->number_faults == 0,
           "the registers of the FPU count on, and kept all that was in them (%lu times)",
           control->progress[TARGET_NUMBERS]);
    before = control->progress[TARGET_SERVER];
    report(progresses(TARGET_SERVER, before), "its server is called by the peer");
    report(control->service_faults == 0, "no thread of it saw anything that cannot be");
}

void check_all(void)
{
    check_aliases();
    check_holes();
    check_conversation();
    check_own_gates();
    check_signals();
    check_factory();
    check_memory();
    check_threads();
}
