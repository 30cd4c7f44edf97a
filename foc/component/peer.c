/* The peer of the trial. Its first thread serves a gate: it sums up what clients tell it, and insists that
 * each request has the number after the last one, so that a request that came twice or was lost would show.
 * Its second thread is a client of a gate that the target serves, and insists the same of the answers.
 * Neither is told of the checkpoint. */
#include "lib.h"
#include "trial.h"

static struct peer_control *const control = (struct peer_control *)COMPONENT_CONTROL;
static volatile bool is_prepared;

static void serve(void)
{
    uint64_t last = 0, sum = 0;
    foc_word_t words[4], reply[2] = {0, 0};
    unsigned count;
    bool is_reply = false;
    for (;;) {
        answer_and_wait(reply, 2, is_reply, words, &count);
        is_reply = true;
        if (count != 2 || words[0] != last + 1)
            control->service_faults++;
        last = words[0];
        sum += words[1];
        reply[0] = last;
        reply[1] = sum;
        control->conversations++;
    }
}

/* A call that failed is made again, with the same number. */
static void be_client(void)
{
    uint64_t number = 1;
    for (;;) {
        foc_word_t words[2] = {number, 0};
        if (call(PEER_CONSTRUCTOR, words, 2) < 0) {
            control->outages++;
            kernel_sleep_us(1000);
            continue;
        }
        if (words[0] != number || words[1] != number * (number + 1) / 2)
            control->client_faults++;
        control->calls++;
        number++;
        kernel_sleep_us(500);
    }
}

static void prepare(void)
{
    foc_word_t pages;
    if (attach(PEER_CONTROL, COMPONENT_CONTROL, FOC_MEMORY_R | FOC_MEMORY_W, &pages) < 0)
        report(false, "has no control page");
    is_prepared = true;
}

void component_main(unsigned thread)
{
    if (thread == PEER_SERVER) {
        prepare();
        serve();
    }
    while (!is_prepared)
        kernel_sleep_us(500);
    be_client();
}
