/* Components: a boot module becomes a task with memory, threads and a pager. Memory is mapped when it is
 * touched, by the pager in serve.c, from regions that are noted here.
 *
 * What a component holds on itself is made by core and noted (struct own), with the selector where it sits:
 * that is what has to be made anew when the component is, while everything else is a capability of others and
 * is put back. */
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "core.h"

struct component components[COMPONENTS_MAX];
foc_word_t processors_online;

#define FREED_BYTE 0xdd /* memory of a destroyed component: whoever still uses it shall notice */

/* ---- memory ---- */

struct region *component_region(struct component *component, foc_word_t address)
{
    for (unsigned i = 0; i < component->region_count; i++) {
        struct region *region = &component->regions[i];
        if (address >= region->start && address - region->start < region->pages << FOC_PAGE_SHIFT)
            return region;
    }
    return NULL;
}

void *component_memory(struct component *component, foc_word_t address)
{
    struct region *region = component_region(component, address);
    return region && region->memory ? (char *)region->memory + (address - region->start) : NULL;
}

static struct region *add_region(struct component *component, foc_word_t start, size_t pages, unsigned rights)
{
    if (component->region_count == REGIONS_MAX)
        return NULL;
    void *memory = pages_take(pages);
    if (!memory)
        return NULL;
    struct region *region = &component->regions[component->region_count++];
    *region = (struct region){.start = start, .pages = pages, .memory = memory, .rights = rights};
    return region;
}

static int load(struct component *component, const struct foc_module *module, foc_word_t *ret_entry,
                struct reseat_error **ret_error)
{
    const void *file = (const void *)module->start;
    struct elf_segment segment;
    if (!elf_is_program(file, module->end - module->start))
        return error_set(ret_error, -E_INVAL, "module %s is not an ELF program for x86-64", component->name);
    for (unsigned i = 0; elf_segment(file, i, &segment); i++) {
        foc_word_t start = segment.virtual_address & ~(FOC_PAGE_SIZE - 1);
        foc_word_t end = segment.virtual_address + segment.memory_bytes;
        if (start < COMPONENT_LINK || end > COMPONENT_UTCBS || component_region(component, start))
            return error_set(ret_error, -E_INVAL, "segment %u of module %s lies where no program may lie", i,
                             component->name);
        struct region *region =
            add_region(component, start, (end - start + FOC_PAGE_SIZE - 1) >> FOC_PAGE_SHIFT,
                       FOC_MEMORY_U | FOC_MEMORY_R | (segment.is_writable ? FOC_MEMORY_W : 0u) |
                           (segment.is_executable ? FOC_MEMORY_X : 0u));
        if (!region)
            return error_set(ret_error, -E_NOMEM, "no memory for segment %u of module %s", i,
                             component->name);
        __builtin_memcpy((char *)region->memory + (segment.virtual_address - start), segment.data,
                         segment.file_bytes);
    }
    *ret_entry = elf_entry(file);
    return 0;
}

/* ---- capabilities ---- */

int component_give(struct component *component, foc_slot_t slot, selector_t selector, unsigned flags,
                   struct reseat_error **ret_error)
{
    struct native_pd *pd = NULL;
    struct native_slot given = {.selector = selector, .cap = (native_cap_t)slot, .flags = flags};
    int r = native_pd_open(component->id, &pd, ret_error);
    if (r == 0)
        r = native_pd_install(pd, &given, 1, ret_error);
    native_pd_free(&pd);
    return r;
}

static int make_own_object(struct component *component, struct own *own)
{
    foc_slot_t thread = component->threads[own->thread].slot;
    if (own->alias_of >= 0) {
        own->object = component->own[own->alias_of].object;
        return 0;
    }
    if (own->kind == OWN_TASK || own->kind == OWN_THREAD) {
        own->object = own->kind == OWN_TASK ? component->task : thread;
        return 0;
    }
    if (own->object) /* shared: it was kept */
        return kernel_gate_bind(own->object, thread, own->label);
    foc_slot_t slot = slots_take();
    if (!slot)
        return -E_MFILE;
    int r = own->kind == OWN_GATE ? kernel_create_gate(FOC_SLOT_FACTORY, slot, thread, own->label)
                                  : kernel_create_irq(FOC_SLOT_FACTORY, slot);
    if (r == 0 && own->kind == OWN_IRQ)
        r = kernel_gate_bind(slot, thread, own->label);
    if (r < 0)
        slots_drop(slot);
    else
        own->object = slot;
    return r;
}

int component_make_own(struct component *component, struct own *own, struct reseat_error **ret_error)
{
    int r = make_own_object(component, own);
    if (r < 0)
        return error_set(ret_error, r, "making the object for selector %u of %s", own->selector,
                         component->name);
    return component_give(component, own->object, own->selector, own->flags, ret_error);
}

struct own *component_own(struct component *component, selector_t selector)
{
    for (unsigned i = 0; i < component->own_count; i++)
        if (component->own[i].selector == selector)
            return &component->own[i];
    return NULL;
}

static int add_own(struct component *component, struct own own, struct reseat_error **ret_error)
{
    if (component->own_count == OWN_MAX)
        return error_set(ret_error, -E_NOSPC, "%s has too many objects of its own", component->name);
    component->own[component->own_count] = own;
    int r = component_make_own(component, &component->own[component->own_count], ret_error);
    if (r == 0)
        component->own_count++;
    return r;
}

int component_add_alias(struct component *component, selector_t of, selector_t selector, unsigned flags,
                        struct reseat_error **ret_error)
{
    struct own *original = component_own(component, of);
    if (!original)
        return error_set(ret_error, -E_NOENT, "selector %u of %s holds nothing of its own", of,
                         component->name);
    struct own own = *original;
    own.selector = selector;
    own.flags = flags;
    own.alias_of = (int)(original - component->own);
    return add_own(component, own, ret_error);
}

int component_add_own(struct component *component, enum own_kind kind, selector_t selector, unsigned thread,
                      foc_word_t label, unsigned flags, bool is_shared, struct reseat_error **ret_error)
{
    struct own own = {.kind = kind,
                      .selector = selector,
                      .thread = thread,
                      .label = label,
                      .flags = flags,
                      .is_shared = is_shared,
                      .alias_of = -1};
    return add_own(component, own, ret_error);
}

/* ---- task and threads ---- */

int component_make_task(struct component *component, struct reseat_error **ret_error)
{
    component->task = slots_take();
    if (!component->task)
        return error_set(ret_error, -E_MFILE, "no slot left for the task of %s", component->name);
    int r = kernel_create_task(component->factory, component->task, COMPONENT_UTCBS, COMPONENT_UTCB_ORDER);
    if (r < 0) {
        slots_give(component->task);
        component->task = 0;
        return error_set(ret_error, r, "making the task of %s", component->name);
    }
    return foc_pd_register(component->id, component->task, ret_error);
}

int component_make_thread(struct component *component, unsigned number, struct reseat_error **ret_error)
{
    struct thread *thread = &component->threads[number];
    thread->slot = slots_take();
    thread->state = THREAD_RUNS;
    int r = thread->slot ? kernel_create_thread(component->factory, thread->slot) : -E_MFILE;
    if (r == 0)
        r = kernel_thread_bind(thread->slot, component->task, COMPONENT_UTCBS + number * FOC_UTCB_BYTES,
                               COMPONENT_SLOT_FAULT + number, COMPONENT_SLOT_FAULT + number);
    return r < 0 ? error_set(ret_error, r, "making thread %u of %s", number, component->name) : 0;
}

int component_make_fault_gate(struct component *component, unsigned number, struct reseat_error **ret_error)
{
    foc_slot_t slot = slots_take();
    int r = slot ? kernel_create_gate(FOC_SLOT_FACTORY, slot, FOC_SLOT_THREAD,
                                      LABEL(LABEL_THREAD, component->id, number))
                 : -E_MFILE;
    if (r < 0)
        return error_set(ret_error, r, "making the gate of thread %u of %s", number, component->name);
    /* What the component gets is the client's side: it can send, and not have the gate bound to itself. */
    foc_slot_t side = slots_take();
    if (side)
        r = kernel_map(FOC_SLOT_TASK, FOC_SLOT_TASK, FOC_FPAGE_SLOTS(slot, 0, FOC_RIGHTS_RWS), FOC_CAP(side),
                       0);
    component->fault_gates[number] = side;
    return !side || r < 0
               ? error_set(ret_error, -E_MFILE, "making the gate of thread %u of %s", number, component->name)
               : component_give(component, side, COMPONENT_SLOT_FAULT + number,
                                NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL, ret_error);
}

int component_add_thread(struct component *component, unsigned number, foc_word_t processors,
                         foc_word_t priority, struct reseat_error **ret_error)
{
    struct thread *thread = &component->threads[number];
    if (!add_region(component, COMPONENT_STACKS + number * COMPONENT_STACK_STEP, COMPONENT_STACK_PAGES,
                    FOC_MEMORY_U | FOC_MEMORY_R | FOC_MEMORY_W))
        return error_set(ret_error, -E_NOMEM, "no memory for the stack of thread %u of %s", number,
                         component->name);
    thread->processors = processors & processors_online ? processors & processors_online : 1;
    thread->priority = priority;
    int r = component_make_fault_gate(component, number, ret_error);
    if (r == 0)
        r = component_make_thread(component, number, ret_error);
    if (r == 0)
        r = component_add_own(component, OWN_THREAD, COMPONENT_SLOT_THREADS + number, number, 0,
                              NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL, false, ret_error);
    return r;
}

/* ---- components ---- */

static struct component *find_free(void)
{
    for (unsigned i = 0; i < COMPONENTS_MAX; i++)
        if (!components[i].id)
            return &components[i];
    return NULL;
}

int component_make(const struct foc_kip *kip, const char *module_name, struct component **ret_component,
                   struct reseat_error **ret_error)
{
    struct component *component = find_free();
    const struct foc_module *module = module_find(kip, module_name);
    if (!component)
        return error_set(ret_error, -E_NOSPC, "%d components are running already", COMPONENTS_MAX);
    if (!module)
        return error_set(ret_error, -E_NOENT, "there is no boot module %s", module_name);
    *component =
        (struct component){.id = (native_pd_id_t)(component - components) + 1, .factory = FOC_SLOT_FACTORY};
    text_base_name(module_name, component->name, sizeof component->name);
    foc_word_t entry = 0;
    int r = load(component, module, &entry, ret_error);
    if (r == 0)
        r = component_make_task(component, ret_error);
    if (r == 0)
        r = component_add_own(component, OWN_TASK, COMPONENT_SLOT_TASK, 0, 0,
                              NATIVE_READ | NATIVE_WRITE | NATIVE_SPECIAL, false, ret_error);
    if (r < 0)
        return r;
    component->entry = entry;
    *ret_component = component;
    return 0;
}

int component_start(struct component *component, struct reseat_error **ret_error)
{
    for (unsigned i = 0; i < THREADS_MAX; i++) {
        struct thread *thread = &component->threads[i];
        if (!thread->slot)
            continue;
        foc_word_t stack =
            COMPONENT_STACKS + i * COMPONENT_STACK_STEP + (COMPONENT_STACK_PAGES << FOC_PAGE_SHIFT);
        int r = kernel_thread_ex_regs(thread->slot, component->entry, stack, 0);
        if (r == 0)
            r = kernel_thread_run(FOC_SLOT_SCHEDULER, thread->slot, thread->priority, thread->processors);
        if (r < 0)
            return error_set(ret_error, r, "starting thread %u of %s", i, component->name);
    }
    return 0;
}

static void free_memory(struct component *component)
{
    for (unsigned i = 0; i < component->region_count; i++) {
        struct region *region = &component->regions[i];
        if (region->dataspace)
            continue;
        __builtin_memset(region->memory, FREED_BYTE, region->pages << FOC_PAGE_SHIFT);
        pages_give(region->memory, region->pages);
        region->memory = NULL;
    }
}

void component_destroy(struct component *component)
{
    foc_pd_forget(component->id);
    for (unsigned i = 0; i < component->own_count; i++) {
        struct own *own = &component->own[i];
        if (own->kind == OWN_IRQ && own->is_shared && own->alias_of < 0)
            kernel_irq_detach(own->object); /* signals that come now wait in it */
        if (own->kind == OWN_TASK || own->kind == OWN_THREAD || own->is_shared || own->alias_of >= 0)
            continue;
        kernel_destroy(own->object);
        slots_give(own->object);
        own->object = 0;
    }
    for (unsigned i = 0; i < THREADS_MAX; i++)
        if (component->threads[i].slot) {
            kernel_destroy(component->threads[i].slot);
            slots_give(component->threads[i].slot);
            component->threads[i].slot = 0;
        }
    kernel_destroy(component->task);
    slots_give(component->task);
    component->task = 0;
    free_memory(component);
}
