/* The target of the trial: a component with five threads that is destroyed and made anew in the middle of
 * what it does, and checks itself from the inside. It has no code that would know of a checkpoint. */
#include "lib.h"
#include "target.h"

struct target_control *const control = (struct target_control *)COMPONENT_CONTROL;
static uint64_t *const memory = (uint64_t *)TARGET_MEMORY_ADDRESS;

#define PRIVATE_WORDS 8192
static uint64_t private_words[PRIVATE_WORDS]; /* in the program's own memory */
static struct conversation conversation;
static uint64_t expected_sum;
static volatile bool is_prepared;

/* ---- the computation: nothing here can be found out again if a bit of it is lost ---- */

uint64_t pattern(uint64_t index)
{
    return (index + 1) * 0x9e3779b97f4a7c15ull ^ index << 7;
}

static uint64_t mix(uint64_t state)
{
    state ^= state << 13;
    state ^= state >> 7;
    return state ^ state << 17;
}

/* The generator runs twice, from the same seed, in two places of memory and at different times. */
static uint64_t state_now = 88172645463325252ull, state_later = 88172645463325252ull, rounds_now,
                rounds_later;

static bool compute(void)
{
    for (unsigned i = 0; i < 64; i++, rounds_now++)
        state_now = mix(state_now);
    private_words[rounds_now / 64 % PRIVATE_WORDS] = pattern(rounds_now / 64 % PRIVATE_WORDS);
    for (unsigned i = 0; i < 64; i++, rounds_later++)
        state_later = mix(state_later);
    return rounds_now == rounds_later && state_now == state_later;
}

bool private_memory_is_well(void)
{
    for (uint64_t i = 0; i < PRIVATE_WORDS; i++)
        if (private_words[i] != pattern(i))
            return false;
    return true;
}

bool shared_memory_is_well(void)
{
    for (uint64_t i = 0; i < TARGET_MEMORY_PAGES * FOC_PAGE_SIZE / sizeof *memory; i++)
        if (memory[i] != pattern(i))
            return false;
    return true;
}

/* ---- the conversation ---- */

bool converse(foc_slot_t gate)
{
    conversation.number++;
    conversation.value = mix(conversation.number) & 0xffff;
    expected_sum += conversation.value;
    foc_word_t words[2] = {conversation.number, conversation.value};
    return call(gate, words, 2) == 0 && words[0] == conversation.number && words[1] == expected_sum;
}

/* ---- threads ---- */

static void work(void)
{
    static const foc_slot_t gates[] = {TARGET_PEER, TARGET_PEER_ALIAS, TARGET_PEER_HIGHEST};
    bool is_well = true;
    for (uint64_t round = 0;; round++) {
        is_well = compute() && is_well;
        if (round % 8 == 0)
            is_well = converse(gates[round / 8 % COUNT_OF(gates)]) && is_well;
        if (round % 64 == 0)
            kernel_irq_trigger(TARGET_SEMAPHORE_UP);
        control->progress[TARGET_WORKER]++;
        if (control->command == TARGET_CHECK) {
            report(is_well,
                   "the computation and the conversation went on without a slip (%lu rounds, %lu requests)",
                   rounds_now, conversation.number);
            check_all();
            control->command = TARGET_CHECKED;
        }
    }
}

/* Three gates, one thread. Each caller's requests are numbered; the constructor's client may repeat its last
 * one. */
static void serve(void)
{
    uint64_t last = 0, sum = 0, signals = 0;
    foc_word_t words[4], reply[2] = {0, 0};
    unsigned count;
    bool is_reply = false;
    for (;;) {
        foc_word_t label = answer_and_wait(reply, 2, is_reply, words, &count) & ~3ul;
        is_reply = true;
        if (label == LABEL_CONSTRUCTOR) {
            if (words[0] == last + 1)
                sum += words[0];
            else if (words[0] != last)
                control->service_faults++;
            last = words[0];
            reply[0] = last;
            reply[1] = sum;
        } else if (label == LABEL_EXIT || label == LABEL_SIGNAL) {
            reply[0] = label;
            reply[1] = ++signals;
        } else {
            control->service_faults++;
        }
        control->progress[TARGET_SERVER]++;
        while (control->holds_answers)
            ;
    }
}

static void await_interrupts(void)
{
    for (;;) {
        foc_word_t label = 0;
        foc_word_t tag = foc_ipc(FOC_CAP_SPECIAL, FOC_WAIT, 0, FOC_FOREVER, &label);
        if ((tag & FOC_TAG_ERROR) || (label != LABEL_IRQ && label != LABEL_BLOCKADE))
            control->service_faults++;
        else
            control->progress[TARGET_INTERRUPT]++;
    }
}

static void await_semaphore(void)
{
    for (;;)
        if (kernel_semaphore_down(TARGET_SEMAPHORE_UP, FOC_FOREVER) < 0)
            control->service_faults++;
        else
            control->progress[TARGET_SEMAPHORE]++;
}

static void prepare(void)
{
    foc_word_t control_pages, memory_pages;
    int r = attach(TARGET_CONTROL, COMPONENT_CONTROL, FOC_MEMORY_R | FOC_MEMORY_W, &control_pages);
    if (r == 0)
        r = attach(TARGET_MEMORY_ALIAS, TARGET_MEMORY_ADDRESS, FOC_MEMORY_R | FOC_MEMORY_W, &memory_pages);
    report(r == 0 && memory_pages == TARGET_MEMORY_PAGES, "attached its two dataspaces");
    for (uint64_t i = 0; i < TARGET_MEMORY_PAGES * FOC_PAGE_SIZE / sizeof *memory; i++)
        memory[i] = pattern(i);
    for (uint64_t i = 0; i < PRIVATE_WORDS; i++)
        private_words[i] = pattern(i);
    control->is_ready = 1;
    is_prepared = true;
}

/* The other threads touch nothing that the first one has to attach. */
static void await_prepared(void)
{
    while (!is_prepared)
        kernel_sleep_us(500);
}

void component_main(unsigned thread)
{
    if (thread == TARGET_WORKER)
        prepare();
    else
        await_prepared();
    switch (thread) {
    case TARGET_WORKER:
        work();
        break;
    case TARGET_SERVER:
        serve();
        break;
    case TARGET_INTERRUPT:
        await_interrupts();
        break;
    case TARGET_SEMAPHORE:
        await_semaphore();
        break;
    default:
        numbers_run(control);
    }
}
