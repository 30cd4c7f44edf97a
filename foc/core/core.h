/* Core: the first task. It has all memory and all of the kernel's initial objects, makes components out of
 * boot modules, is their pager, hands out PD sessions, and can destroy a component and make it anew.
 *
 * One thread does everything, in a loop that waits for messages (serve.c); whoever must wait for something to
 * happen runs that loop meanwhile. */
#pragma once

#include "../abi/abi.h"
#include "../base/base.h"
#include "../component/component.h"
#include "native_pd/native_pd.h"

#define COMPONENTS_MAX 8
#define THREADS_MAX    COMPONENT_THREADS_MAX
#define REGIONS_MAX    16
#define OWN_MAX        24
#define DATASPACES_MAX 8
#define STATE_PAGES    2 /* of a thread: its UTCB, then its extended state */

/* ---- pages of physical memory, which core sees one to one ---- */

int pages_init(const struct foc_kip *kip);
void *pages_take(size_t count); /* zeroed; NULL: none left */
void pages_give(void *pages, size_t count);
size_t pages_free(void);

/* ---- modules ---- */

const struct foc_module *module_find(const struct foc_kip *kip, const char *name);

/* ---- labels: how a message says through which gate it came. The two low bits are the rights of the sender.
 * ---- */

enum label_kind { LABEL_THREAD = 1, LABEL_SESSION = 2, LABEL_DATASPACE = 3 };
#define LABEL(kind, component, number)                                                                       \
    ((foc_word_t)(kind) << 24 | (foc_word_t)(component) << 16 | (foc_word_t)(number) << 4)
#define LABEL_KIND(label)      ((unsigned)((label) >> 24 & 15))
#define LABEL_COMPONENT(label) ((unsigned)((label) >> 16 & 255))
#define LABEL_NUMBER(label)    ((unsigned)((label) >> 4 & 0xfff))

/* ---- dataspaces: memory behind a gate that core serves ---- */

struct dataspace {
    foc_slot_t gate; /* 0: unused */
    void *pages;
    size_t count;
};
int dataspace_make(size_t pages, struct dataspace **ret_dataspace);
size_t dataspace_size(unsigned number); /* by the number in the gate's label; 0: there is none */
struct dataspace *dataspace_by_capability(foc_slot_t slot); /* NULL: it is none */

/* Semaphores that core made for somebody: a wait at one is made again in its own way. */
void core_remember_semaphore(foc_slot_t slot);
bool core_knows_semaphore(foc_slot_t slot);

/* ---- components ---- */

struct region {
    foc_word_t start;
    size_t pages;
    void *memory; /* ours, one to one */
    unsigned rights;
    struct dataspace *dataspace; /* NULL: private, captured with the component */
};

enum thread_state { THREAD_RUNS, THREAD_STOPPED };

struct thread {
    foc_slot_t slot;                 /* 0: unused, or its component is destroyed */
    foc_word_t processors, priority; /* a mask; priority 0: unused */
    enum thread_state state;
    struct foc_registers registers; /* of a stopped one */
    unsigned exceptions;            /* how many it sent so far */
};

/* What a component holds on itself: it dies with the component, and is made anew. */
enum own_kind { OWN_TASK, OWN_THREAD, OWN_GATE, OWN_IRQ };
struct own {
    enum own_kind kind;
    selector_t selector;
    unsigned thread;   /* itself, or that serves the gate, or that the interrupt is attached to */
    foc_word_t label;  /* gate, interrupt */
    unsigned flags;    /* NATIVE_* rights of the capability */
    bool is_shared;    /* others hold it: the object is kept, and bound again */
    int alias_of;      /* number of the entry whose object this is another selector of; -1: of none */
    foc_slot_t object; /* core's capability on it */
};

struct component {
    native_pd_id_t id; /* 0: unused */
    char name[16];
    foc_slot_t task;
    foc_slot_t factory; /* that it was made with */
    foc_word_t entry;
    struct thread threads[THREADS_MAX];
    foc_slot_t fault_gates[THREADS_MAX]; /* outlive the task: a restored thread finds its own again */
    struct region regions[REGIONS_MAX];
    unsigned region_count;
    struct own own[OWN_MAX];
    unsigned own_count;
    unsigned reports, failures;
};

extern struct component components[COMPONENTS_MAX];
extern foc_word_t processors_online;

/* From a boot module: task, memory, first thread (not yet running), pager. */
int component_make(const struct foc_kip *kip, const char *module, struct component **ret_component,
                   struct reseat_error **ret_error);
/* One more thread, not yet running. Its capability goes to COMPONENT_SLOT_THREADS + number. */
int component_add_thread(struct component *component, unsigned number, foc_word_t processors,
                         foc_word_t priority, struct reseat_error **ret_error);
/* A gate, interrupt, … of the component's own. */
int component_add_own(struct component *component, enum own_kind kind, selector_t selector, unsigned thread,
                      foc_word_t label, unsigned flags, bool is_shared, struct reseat_error **ret_error);
/* One more selector of what sits at `of`. */
int component_add_alias(struct component *component, selector_t of, selector_t selector, unsigned flags,
                        struct reseat_error **ret_error);
struct own *component_own(struct component *component, selector_t selector); /* NULL: not its own */
/* Installs a capability of ours. */
int component_give(struct component *component, foc_slot_t slot, selector_t selector, unsigned flags,
                   struct reseat_error **ret_error);
int component_start(struct component *component, struct reseat_error **ret_error);
struct region *component_region(struct component *component, foc_word_t address);
/* Where core sees a byte of the component's memory; NULL: there is none. */
void *component_memory(struct component *component, foc_word_t address);
/* The parts that a restore needs singly (component.c). */
int component_make_task(struct component *component, struct reseat_error **ret_error);
int component_make_thread(struct component *component, unsigned number, struct reseat_error **ret_error);
int component_make_own(struct component *component, struct own *own, struct reseat_error **ret_error);
int component_make_fault_gate(struct component *component, unsigned number, struct reseat_error **ret_error);
/* Destroys threads, own objects that are not shared, and the task. Memory, fault gates and shared objects
 * stay. */
void component_destroy(struct component *component);

/* ---- serving: pages, exceptions, PD sessions, what components ask of core ---- */

void serve_init(const struct foc_kip *kip);
/* Serves messages until `is_done` says so; -E_TIMEDOUT: not within the time. */
int serve_until(bool (*is_done)(void *), void *context, unsigned milliseconds);
void serve_for(unsigned milliseconds);
uint64_t now_us(void);
/* Lets a stopped thread go on with these registers. */
int thread_resume(struct thread *thread, const struct foc_registers *registers,
                  struct reseat_error **ret_error);
int thread_await_stop(struct thread *thread, unsigned seen, unsigned milliseconds);

/* ---- PD sessions ---- */

int session_make(struct component *target, struct component *client, selector_t selector,
                 struct reseat_error **ret_error);
/* Answers the message in our UTCB, whose capabilities came into the slots from `window` on: puts the reply
 * there and returns its tag. */
foc_word_t session_serve(unsigned number, foc_word_t tag, foc_slot_t window);
void session_sent(void); /* the reply was sent: drops the capabilities that went with it */

/* ---- checkpoint ---- */

struct saved_thread {
    bool is_used;
    struct foc_registers registers;
    unsigned char *state; /* STATE_PAGES: UTCB, extended state */
};
struct checkpoint {
    struct saved_thread threads[THREADS_MAX];
    void *memory[REGIONS_MAX];                        /* copies of private regions */
    unsigned running, waiting, repeated, interrupted; /* threads, by what they were doing */
};

int checkpoint_take(struct component *component, struct checkpoint *checkpoint,
                    struct reseat_error **ret_error);
/* Task, memory, threads (stopped), own objects. Then the capabilities of others are installed, then: start.
 */
int checkpoint_rebuild(struct component *component, struct checkpoint *checkpoint,
                       struct reseat_error **ret_error);
int checkpoint_start(struct component *component, struct checkpoint *checkpoint,
                     struct reseat_error **ret_error);
/* Lets the stopped component go on as it was. */
int checkpoint_let_run(struct component *component, const struct checkpoint *checkpoint,
                       struct reseat_error **ret_error);
void checkpoint_free(struct component *component, struct checkpoint *checkpoint);
