/* The native PD interface on the real kernel: a bare task, without threads or memory, whose capability space
 * is filled, read, compared, emptied; and everything that has to be refused. */
#include "../kernel/kernel.h"
#include "../native_pd_internal.h"
#include "check.h"
#include "console.h"
#include "tests.h"

#define PD_ID         100
#define TIGHT_ID      101
#define MANY          40
#define SELECTORS_MAX 512

static foc_slot_t irq, gate, semaphore;
static struct native_pd *pd;
static struct reseat_error *error;

static int install_one(native_cap_t cap, selector_t selector, unsigned flags)
{
    struct native_slot slot = {.selector = selector, .cap = cap, .flags = flags};
    error = NULL;
    return native_pd_install(pd, &slot, 1, &error);
}

/* The sentence of the error is part of what a refusal has to give. */
static void check_refused(int r, int code, const char *what)
{
    check(r == code && error, "%s: %s", what, error ? error->message : "no sentence");
    error = NULL;
}

static bool prepare(void)
{
    foc_slot_t task = slots_take();
    irq = slots_take();
    gate = slots_take();
    semaphore = slots_take();
    return check(kernel_create_task(FOC_SLOT_FACTORY, task, 0, 0) == 0 &&
                     kernel_create_irq(FOC_SLOT_FACTORY, irq) == 0 &&
                     kernel_create_gate(FOC_SLOT_FACTORY, gate, FOC_SLOT_THREAD, 0x40) == 0 &&
                     kernel_create_semaphore(FOC_SLOT_FACTORY, semaphore) == 0,
                 "the kernel makes a task, an interrupt, a gate and a semaphore") &&
           check_result(foc_pd_register(PD_ID, task, &error), &error, "the task is a PD") &&
           check_result(native_pd_open(PD_ID, &pd, &error), &error, "it can be opened by its number");
}

/* ---- install, request ---- */

static void test_single(void)
{
    native_cap_t cap = NATIVE_CAP_INVALID;
    selector_t next = 0;
    check_result(install_one((native_cap_t)irq, 5, 0), &error, "an interrupt is installed at selector 5");
    check_result(install_one((native_cap_t)gate, 0xffff, 0), &error, "a gate is installed at selector 65535");
    check(native_pd_request(pd, 5, &cap, &next, &error) == 0 && cap != NATIVE_CAP_INVALID && next == 0xffff,
          "request hands it out, and says that selector 65535 is next");
    check(foc_is_same_object((foc_slot_t)cap, irq), "it is the same object");
    check(!foc_is_same_object((foc_slot_t)cap, gate), "and not another one");
    slots_drop((foc_slot_t)cap);
    check(native_pd_request(pd, 6, &cap, &next, &error) == 0 && cap == NATIVE_CAP_INVALID && next == 0xffff,
          "request of an unused selector hands out nothing, and says what is next");
    check(native_pd_request(pd, 0xffff, &cap, &next, &error) == 0 && next == NATIVE_SELECTOR_END,
          "behind the last one there is no next");
    slots_drop((foc_slot_t)cap);
}

static void test_refusals(void)
{
    foc_slot_t empty = slots_take();
    check_refused(install_one((native_cap_t)gate, 5, 0), -E_EXIST, "an occupied selector is refused");
    check_result(install_one((native_cap_t)gate, 5, NATIVE_REPLACE), &error, "it can be replaced");
    check_refused(install_one((native_cap_t)gate, 0x10000, 0), -E_BADF,
                  "a selector that does not exist is refused");
    check_refused(install_one((native_cap_t)empty, 7, 0), -E_BADF, "an empty source is refused");
    struct native_slot twice[2] = {{.selector = 9, .cap = (native_cap_t)gate},
                                   {.selector = 9, .cap = (native_cap_t)irq}};
    error = NULL;
    check_refused(native_pd_install(pd, twice, 2, &error), -E_INVAL, "a selector given twice is refused");
    selector_t unused = 8;
    error = NULL;
    check_refused(native_pd_close(pd, &unused, 1, &error), -E_BADF, "closing an unused selector is refused");
    slots_give(empty);
}

static void test_all_or_none(void)
{
    struct native_slot slots[3] = {{.selector = 20, .cap = (native_cap_t)gate},
                                   {.selector = 5, .cap = (native_cap_t)irq},
                                   {.selector = 21, .cap = (native_cap_t)irq}};
    selector_t found = 0;
    error = NULL;
    check(native_pd_install(pd, slots, 3, &error) == -E_EXIST && native_pd_next(pd, 6, &found, &error) == 0 &&
              found == 0xffff,
          "of several, none is installed if one cannot be");
}

/* ---- rights ---- */

static void test_rights(void)
{
    static const unsigned combinations[] = {NATIVE_READ, NATIVE_READ | NATIVE_WRITE,
                                            NATIVE_READ | NATIVE_SPECIAL,
                                            NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL};
    bool are_exact = true;
    for (unsigned i = 0; i < COUNT_OF(combinations); i++) {
        struct native_slot found;
        size_t count;
        selector_t next;
        are_exact = install_one((native_cap_t)semaphore, 0x100 + i, combinations[i]) == 0 &&
                    native_pd_request_many(pd, 0x100 + i, &found, 1, &count, &next, &error) == 0 &&
                    count == 1 && found.selector == 0x100 + i && found.flags == combinations[i] && are_exact;
        if (i == 0)
            check_refused(install_one(found.cap, 0x180, NATIVE_READ | NATIVE_WRITE), -E_ACCES,
                          "rights that the capability has not are refused");
        slots_drop((foc_slot_t)found.cap);
    }
    check(are_exact, "the four combinations of rights are installed, and recovered exactly");
    int order = 1;
    check(native_pd_compare(pd, 0x100, pd, 0x103, &order, &error) == 0 && order == 0,
          "compare sees the same object behind different rights");
    int there = 0, back = 0;
    check(native_pd_compare(pd, 0x100, pd, 5, &there, &error) == 0 &&
              native_pd_compare(pd, 5, pd, 0x100, &back, &error) == 0 && there == -back && there != 0,
          "compare orders different objects");
    check_refused(native_pd_compare(pd, 0x100, pd, 6, &order, &error), -E_BADF,
                  "compare refuses an unused selector");
}

/* The server's side of a gate is a right too: it goes along, and can be left behind. */
static void test_server_side(void)
{
    foc_slot_t client = slots_take();
    native_cap_t with = NATIVE_CAP_INVALID, without = NATIVE_CAP_INVALID;
    foc_word_t label = 0;
    kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(gate, 0, FOC_RIGHTS_RWS), FOC_CAP(client), 0);
    check(install_one((native_cap_t)gate, 0x300, 0) == 0 &&
              install_one((native_cap_t)client, 0x301, 0) == 0 &&
              native_pd_request(pd, 0x300, &with, NULL, &error) == 0 &&
              native_pd_request(pd, 0x301, &without, NULL, &error) == 0 &&
              kernel_caps_are_equal(FOC_SLOT_TASK, (foc_slot_t)with, gate) &&
              kernel_caps_are_equal(FOC_SLOT_TASK, (foc_slot_t)without, client) &&
              !kernel_caps_are_equal(FOC_SLOT_TASK, (foc_slot_t)with, (foc_slot_t)without) &&
              foc_is_same_object((foc_slot_t)with, (foc_slot_t)without),
          "both sides of a gate go through unchanged, and are the same object");
    check(kernel_gate_label((foc_slot_t)with, &label) == 0 && label == 0x40,
          "the server's side says the gate's label");
    slots_drop((foc_slot_t)with);
    slots_drop((foc_slot_t)without);
    slots_drop(client);
}

/* ---- enumeration ---- */

static selector_t by_probing[SELECTORS_MAX], by_halving[SELECTORS_MAX], in_copy[SELECTORS_MAX];

static bool same_lists(const selector_t *a, size_t a_count, const selector_t *b, size_t b_count)
{
    return a_count == b_count && __builtin_memcmp(a, b, a_count * sizeof *a) == 0;
}

static void test_enumeration(void)
{
    size_t probed = 0, halved = 0, copied = 0;
    struct foc_vault scratch = {0};
    uint64_t begin = count_now();
    foc_list_by_probing(pd, 0, by_probing, SELECTORS_MAX, &probed);
    uint64_t probing = count_now() - begin;
    begin = count_now();
    foc_list_by_halving(pd, 0, by_halving, SELECTORS_MAX, &halved);
    uint64_t halving = count_now() - begin;
    check(probed > 0 && same_lists(by_probing, probed, by_halving, halved),
          "both enumerations find the same %zu selectors", probed);

    check_result(foc_vault_make(FOC_SLOT_FACTORY, &scratch, &error), &error, "a scratch task is made");
    begin = count_now();
    int r = kernel_map(scratch.task, foc_pd_task(pd), FOC_FPAGE_SLOTS(0, FOC_SELECTOR_ORDER, FOC_RIGHTS_RWS),
                       0, FOC_ITEM_SERVER);
    uint64_t bulk = count_now() - begin;
    for (selector_t from = 0; copied < SELECTORS_MAX;) {
        foc_find_by_halving(scratch.task, from, &from);
        if (from == NATIVE_SELECTOR_END)
            break;
        in_copy[copied++] = from++;
    }
    check(r == 0 && same_lists(by_probing, probed, in_copy, copied),
          "one bulk map has copied them all into the scratch task, selectors unchanged");
    foc_vault_free(&scratch);
    print("count    enumeration of %u selectors, %zu used, in %s:\n", foc_selector_limit(), probed,
          count_unit());
    print("count       probing each selector                          %10lu\n", probing);
    print("count       bulk map of the whole space into a scratch task%10lu\n", bulk);
    print("count       halving with bulk maps into a full scratch task%10lu\n", halving);
}

static void test_many(void)
{
    struct native_slot slots[MANY], found[MANY + 8];
    selector_t selectors[MANY], next;
    size_t count;
    error = NULL;
    for (unsigned i = 0; i < MANY; i++)
        slots[i] =
            (struct native_slot){.selector = 0x4000 + i * 0x2a7, .cap = (native_cap_t)(i % 2 ? gate : irq)};
    check_result(native_pd_install(pd, slots, MANY, &error), &error, "%d capabilities are installed at once",
                 MANY);
    bool are_there = native_pd_request_many(pd, 0x4000, found, MANY + 8, &count, &next, &error) == 0;
    are_there = are_there && count == MANY + 1 && next == NATIVE_SELECTOR_END; /* and 65535 */
    for (unsigned i = 0; are_there && i < MANY; i++)
        are_there = found[i].selector == slots[i].selector &&
                    foc_is_same_object((foc_slot_t)found[i].cap, (foc_slot_t)slots[i].cap);
    check(are_there, "and requested at once, each at its selector");
    for (unsigned i = 0; i < count; i++)
        slots_drop((foc_slot_t)found[i].cap);
    for (unsigned i = 0; i < MANY; i++)
        selectors[i] = slots[i].selector;
    check(native_pd_close(pd, selectors, MANY, &error) == 0 &&
              native_pd_next(pd, 0x4000, &next, &error) == 0 && next == 0xffff,
          "and closed at once");
}

/* ---- what one operation costs ---- */

static void count_operations(void)
{
    foc_slot_t slot = slots_take();
    foc_slot_t task = foc_pd_task(pd);
    uint64_t begin = count_now();
    kernel_map(FOC_SLOT_TASK, task, FOC_FPAGE_SLOTS(5, 0, FOC_RIGHTS_RWS), FOC_CAP(slot), FOC_ITEM_SERVER);
    uint64_t map = count_now() - begin;
    begin = count_now();
    kernel_cap_is_valid(task, 5);
    uint64_t valid = count_now() - begin;
    slots_drop(slot);
    native_cap_t cap;
    begin = count_now();
    native_pd_request(pd, 5, &cap, NULL, &error);
    uint64_t request = count_now() - begin;
    begin = count_now();
    install_one(cap, 0x555, 0);
    uint64_t install = count_now() - begin;
    slots_drop((foc_slot_t)cap);
    print("count    one l4_task_map %lu, one l4_task_cap_valid %lu; a request %lu, a checked and verified "
          "install %lu\n",
          map, valid, request, install);
}

/* ---- exhausted memory, ended PDs ---- */

static void test_exhausted(void)
{
    struct native_pd *tight = NULL;
    struct native_slot slot = {.selector = 1, .cap = (native_cap_t)irq};
    selector_t selector = 0;
    error = NULL;
    foc_pd_register(TIGHT_ID, foc_tight_task(), &error);
    native_pd_open(TIGHT_ID, &tight, &error);
    check_refused(native_pd_install(tight, &slot, 1, &error), -E_NOMEM, "exhausted memory is an error");
    check(native_pd_next(tight, 0, &selector, &error) == 0 && selector == NATIVE_SELECTOR_END,
          "and nothing is left behind there");
    foc_pd_forget(TIGHT_ID);
    check_refused(native_pd_next(tight, 0, &selector, &error), -E_SRCH, "a PD that has ended is an error");
    native_pd_free(&tight);
    check_refused(native_pd_open(TIGHT_ID, &tight, &error), -E_SRCH, "and cannot be opened");
}

/* A destroyed task must not have taken with it what it was given: D is never handed on. */
static void test_destroy(void)
{
    foc_slot_t task = foc_pd_task(pd);
    foc_pd_forget(PD_ID);
    kernel_destroy(task);
    slots_give(task);
    check(kernel_cap_is_valid(FOC_SLOT_TASK, irq) && kernel_cap_is_valid(FOC_SLOT_TASK, gate) &&
              kernel_cap_is_valid(FOC_SLOT_TASK, semaphore) && kernel_irq_trigger(irq) == 0,
          "objects outlive a PD that held them");
    native_pd_free(&pd);
    kernel_destroy(irq);
    kernel_destroy(gate);
    kernel_destroy(semaphore);
}

void test_native(void)
{
    if (!prepare())
        return;
    test_single();
    test_refusals();
    test_all_or_none();
    test_rights();
    test_server_side();
    test_many();
    test_enumeration();
    count_operations();
    test_exhausted();
    test_destroy();
}
