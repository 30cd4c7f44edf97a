/* The loop that core lives in: it waits for a message and answers it. Messages come through gates whose
 * labels say from whom: page faults and exceptions of components (the kernel sends them in the name of the
 * thread), what components ask of core, PD sessions, dataspaces.
 *
 * An exception is not answered here: the thread is stopped from then on, until thread_resume() sends the
 * answer. The kernel's implicit reply capability is long gone by then, but a thread that waits for the answer
 * to an exception takes it from the thread that it sent it to, however it comes (kern/thread-ipc.cpp,
 * check_sender). */
#include "../abi/ipc.h"
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "../session.h"
#include "console.h"
#include "core.h"

#define SLICE_US     500                 /* how long one wait takes at most */
#define WINDOW_SLOT  0xf000              /* where capabilities arrive that come with a message */
#define REPLY_TIME   FOC_TIMEOUT(625, 5) /* 20 ms: a client that does not take its answer loses it */
#define SEND_TIMEOUT FOC_TIMEOUTS(FOC_FOREVER, REPLY_TIME)

static uint64_t tsc_khz = 1000000;

void serve_init(const struct foc_kip *kip)
{
    if (kip->frequency_khz)
        tsc_khz = kip->frequency_khz;
}

uint64_t now_us(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return ((uint64_t)high << 32 | low) / (tsc_khz / 1000 ? tsc_khz / 1000 : 1);
}

static struct component *component_of(foc_word_t label)
{
    for (unsigned i = 0; i < COMPONENTS_MAX; i++)
        if (components[i].id && components[i].id == (native_pd_id_t)LABEL_COMPONENT(label))
            return &components[i];
    return NULL;
}

/* ---- page faults ---- */

/* Maps the page; the answer is empty. Where there is nothing, a negative protocol makes the kernel raise an
 * exception. */
static foc_word_t serve_page_fault(struct component *component)
{
    foc_word_t address = foc_utcb()->message[0] & ~7ul, rip = foc_utcb()->message[1];
    bool is_write = foc_utcb()->message[0] & FOC_FAULT_WRITE;
    struct region *region = component_region(component, address);
    foc_word_t page = address & ~(FOC_PAGE_SIZE - 1);
    void *memory = component_memory(component, page);
    if (memory && !(is_write && !(region->rights & FOC_MEMORY_W)) &&
        kernel_map(component->task, FOC_SLOT_TASK,
                   FOC_FPAGE(FOC_FPAGE_MEMORY, (foc_word_t)memory, FOC_PAGE_SHIFT, region->rights), page,
                   0) == 0)
        return FOC_TAG(0, 0, 0, 0);
    print("core: %s at %lx: no page to %s at %lx\n", component->name, rip, is_write ? "write" : "read",
          address);
    return FOC_TAG(0, 0, 0, -1);
}

/* ---- exceptions ---- */

static void note_exception(struct component *component, unsigned number)
{
    struct thread *thread = &component->threads[number];
    __builtin_memcpy(&thread->registers, foc_utcb()->message, sizeof thread->registers);
    thread->state = THREAD_STOPPED;
    thread->exceptions++;
    if (thread->registers.trap != FOC_TRAP_TRIGGERED && thread->registers.trap != FOC_TRAP_INVALID_OPCODE)
        print("core: thread %u of %s trapped: %lu (error %lx) at %lx\n", number, component->name,
              thread->registers.trap, thread->registers.error_code, thread->registers.rip);
}

int thread_resume(struct thread *thread, const struct foc_registers *registers,
                  struct reseat_error **ret_error)
{
    thread->state = THREAD_RUNS;
    __builtin_memcpy(foc_utcb()->message, registers, sizeof *registers);
    foc_word_t tag =
        foc_ipc(FOC_CAP(thread->slot), FOC_SEND, FOC_TAG(FOC_EXCEPTION_WORDS, 0, 0, 0), SEND_TIMEOUT, NULL);
    if (tag & FOC_TAG_ERROR)
        return error_set(ret_error, -E_IO, "a thread did not take the answer to its exception (IPC error %u)",
                         foc_ipc_error());
    return 0;
}

struct stop {
    struct thread *thread;
    unsigned seen;
};

static bool has_stopped(void *context)
{
    struct stop *stop = context;
    return stop->thread->state == THREAD_STOPPED && stop->thread->exceptions != stop->seen;
}

int thread_await_stop(struct thread *thread, unsigned seen, unsigned milliseconds)
{
    struct stop stop = {.thread = thread, .seen = seen};
    return serve_until(has_stopped, &stop, milliseconds);
}

/* ---- what components ask of core ---- */

static void copy_text(unsigned first_word, unsigned words, char *text, size_t size)
{
    const char *from = (const char *)&foc_utcb()->message[first_word];
    size_t length = 0, most = words > first_word ? (words - first_word) * sizeof(foc_word_t) : 0;
    while (length < most && length + 1 < size && from[length]) {
        text[length] = from[length];
        length++;
    }
    text[length] = '\0';
}

static int serve_report(struct component *component, unsigned words)
{
    char name[200];
    bool is_well = foc_utcb()->message[1];
    copy_text(2, words, name, sizeof name);
    component->reports++;
    if (!is_well)
        component->failures++;
    print("%s   %s: %s\n", is_well ? "ok    " : "NOT OK", component->name, name);
    return 0;
}

/* Dataspaces go above stacks and below core's scratch pages, where nothing else is. */
static bool is_free(const struct component *component, foc_word_t start, foc_word_t bytes)
{
    if (start % FOC_PAGE_SIZE || start < COMPONENT_CONTROL || start >= COMPONENT_SCRATCH ||
        bytes > COMPONENT_SCRATCH - start)
        return false;
    for (unsigned i = 0; i < component->region_count; i++) {
        const struct region *region = &component->regions[i];
        if (start < region->start + (region->pages << FOC_PAGE_SHIFT) && region->start < start + bytes)
            return false;
    }
    return true;
}

/* A dataspace becomes a region of the component, if what it names is one. Answers its size. */
static int serve_attach(struct component *component)
{
    selector_t selector = (selector_t)foc_utcb()->message[1];
    foc_word_t start = foc_utcb()->message[2];
    unsigned rights = (unsigned)foc_utcb()->message[3] & (FOC_MEMORY_R | FOC_MEMORY_W);
    struct native_pd *pd = NULL;
    native_cap_t cap = NATIVE_CAP_INVALID;
    int r = native_pd_open(component->id, &pd, NULL);
    if (r == 0)
        r = native_pd_request(pd, selector, &cap, NULL, NULL);
    native_pd_free(&pd);
    if (r < 0 || cap == NATIVE_CAP_INVALID)
        return r < 0 ? r : -E_BADF;
    struct dataspace *dataspace = dataspace_by_capability((foc_slot_t)cap);
    slots_drop((foc_slot_t)cap);
    if (!dataspace)
        return -E_INVAL;
    if (component->region_count == REGIONS_MAX)
        return -E_NOSPC;
    if (!is_free(component, start, dataspace->count << FOC_PAGE_SHIFT))
        return -E_EXIST;
    component->regions[component->region_count++] = (struct region){.start = start,
                                                                    .pages = dataspace->count,
                                                                    .memory = dataspace->pages,
                                                                    .rights = FOC_MEMORY_U | rights,
                                                                    .dataspace = dataspace};
    foc_utcb()->message[0] = dataspace->count;
    return 0;
}

static foc_word_t serve_component(struct component *component, foc_word_t tag)
{
    char text[200];
    int r = -E_NOSYS;
    switch (FOC_TAG_WORDS(tag) ? foc_utcb()->message[0] : 0) {
    case COMPONENT_REPORT:
        r = serve_report(component, FOC_TAG_WORDS(tag));
        break;
    case COMPONENT_PRINT:
        copy_text(1, FOC_TAG_WORDS(tag), text, sizeof text);
        print("         %s: %s\n", component->name, text);
        r = 0;
        break;
    case COMPONENT_ATTACH:
        r = serve_attach(component);
        break;
    }
    return FOC_TAG(1, 0, 0, r);
}

static foc_word_t serve_dataspace(unsigned number)
{
    foc_utcb()->message[0] = dataspace_size(number);
    return FOC_TAG(1, 0, 0, 0);
}

/* ---- the loop ---- */

/* Each capability that comes with a message gets a slot of the window. */
static void open_window(void)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->buffer_items = FOC_BUFFER_ITEMS(0, 0, 0);
    for (unsigned i = 0; i < SESSION_CAPABILITIES_MAX; i++)
        utcb->buffers[i] = FOC_CAP(WINDOW_SLOT + i) | FOC_ITEM_MAP | FOC_BUFFER_SMALL;
    utcb->buffers[SESSION_CAPABILITIES_MAX] = 0;
}

static void clear_window(foc_word_t tag)
{
    unsigned items =
        FOC_TAG_ITEMS(tag) < SESSION_CAPABILITIES_MAX ? FOC_TAG_ITEMS(tag) : SESSION_CAPABILITIES_MAX;
    for (unsigned i = 0; i < items; i++)
        kernel_drop(WINDOW_SLOT + i);
}

static void reply(foc_word_t tag)
{
    foc_ipc(0, FOC_SEND | FOC_REPLY, tag, SEND_TIMEOUT, NULL);
}

static void dispatch(foc_word_t label, foc_word_t tag)
{
    struct component *component = component_of(label);
    switch (LABEL_KIND(label)) {
    case LABEL_THREAD:
        if (!component || LABEL_NUMBER(label) >= THREADS_MAX)
            return;
        if (FOC_TAG_PROTOCOL(tag) == FOC_PROTOCOL_EXCEPTION)
            note_exception(component, LABEL_NUMBER(label));
        else if (FOC_TAG_PROTOCOL(tag) == FOC_PROTOCOL_PAGE_FAULT)
            reply(serve_page_fault(component));
        else if (FOC_TAG_PROTOCOL(tag) == COMPONENT_PROTOCOL)
            reply(serve_component(component, tag));
        else
            reply(FOC_TAG(0, 0, 0, -E_PROTO));
        break;
    case LABEL_SESSION:
        reply(session_serve(LABEL_NUMBER(label), tag, WINDOW_SLOT));
        session_sent();
        break;
    case LABEL_DATASPACE:
        reply(serve_dataspace(LABEL_NUMBER(label)));
        break;
    default:
        print("core: a message with label %lx that nobody sends\n", label);
    }
    clear_window(tag);
}

int serve_until(bool (*is_done)(void *), void *context, unsigned milliseconds)
{
    uint64_t end = now_us() + milliseconds * 1000ull;
    while (!is_done || !is_done(context)) {
        foc_word_t label;
        if (now_us() >= end)
            return is_done ? -E_TIMEDOUT : 0;
        open_window();
        foc_word_t tag = foc_ipc(FOC_CAP_SPECIAL, FOC_WAIT, 0,
                                 FOC_TIMEOUTS(FOC_TIMEOUT(SLICE_US, 1), FOC_FOREVER), &label);
        if (!(tag & FOC_TAG_ERROR))
            dispatch(label, tag);
    }
    return 0;
}

void serve_for(unsigned milliseconds)
{
    serve_until(NULL, NULL, milliseconds);
}
