/* Code that stopped threads run for core (stub.S), and where it is: one page of code and STATE_PAGES of
 * buffer, at COMPONENT_SCRATCH in the component, gone again when it is let run. */
#include "scratch.h"

#include "../kernel/kernel.h"

#define CODE          COMPONENT_SCRATCH
#define BUFFER        (COMPONENT_SCRATCH + FOC_PAGE_SIZE)
#define SCRATCH_ORDER 15 /* what is unmapped: code and buffer, and nothing that is the component's */
#define STUB_MS       2000
#define FLAGS_INITIAL 0x202
#define CPUID_XSAVE   (1u << 27) /* leaf 1, ecx: OSXSAVE */

extern char stub_begin[], stub_park[], stub_save[], stub_load[], stub_end[];

static void *code, *buffer;

static bool has_xsave(void)
{
    uint32_t a = 1, b, c = 0, d;
    __asm__("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
    return c & CPUID_XSAVE;
}

static int map_page(struct component *component, void *memory, foc_word_t address, unsigned rights)
{
    return kernel_map(component->task, FOC_SLOT_TASK,
                      FOC_FPAGE(FOC_FPAGE_MEMORY, (foc_word_t)memory, FOC_PAGE_SHIFT, FOC_MEMORY_U | rights),
                      address, 0);
}

int scratch_open(struct component *component, struct reseat_error **ret_error)
{
    int r = 0;
    if (!code)
        code = pages_take(1);
    if (!buffer)
        buffer = pages_take(STATE_PAGES);
    if (!code || !buffer)
        return error_set(ret_error, -E_NOMEM, "no memory for scratch pages");
    __builtin_memcpy(code, stub_begin, (size_t)(stub_end - stub_begin));
    r = map_page(component, code, CODE, FOC_MEMORY_R | FOC_MEMORY_X);
    for (unsigned i = 0; i < STATE_PAGES && r == 0; i++)
        r = map_page(component, (char *)buffer + (i << FOC_PAGE_SHIFT), BUFFER + (i << FOC_PAGE_SHIFT),
                     FOC_MEMORY_R | FOC_MEMORY_W);
    return r < 0 ? error_set(ret_error, r, "mapping scratch pages into %s", component->name) : 0;
}

void scratch_close(struct component *component)
{
    kernel_unmap(component->task,
                 FOC_FPAGE(FOC_FPAGE_MEMORY, COMPONENT_SCRATCH, SCRATCH_ORDER, FOC_MEMORY_RWX),
                 FOC_UNMAP_ALL_SELF);
}

/* Lets the thread run a part of the stub, until its end. */
static int run(struct component *component, unsigned number, const char *part,
               const struct foc_registers *registers, struct reseat_error **ret_error)
{
    struct thread *thread = &component->threads[number];
    unsigned seen = thread->exceptions;
    struct foc_registers given = *registers;
    given.rip = CODE + (foc_word_t)(part - stub_begin);
    given.rflags = FLAGS_INITIAL;
    int r = thread_resume(thread, &given, ret_error);
    if (r < 0)
        return r;
    if (thread_await_stop(thread, seen, STUB_MS) < 0)
        return error_set(ret_error, -E_TIMEDOUT, "thread %u of %s did not come back from core's code", number,
                         component->name);
    if (thread->registers.trap != FOC_TRAP_INVALID_OPCODE || thread->registers.rip < CODE ||
        thread->registers.rip >= CODE + FOC_PAGE_SIZE)
        return error_set(ret_error, -E_IO, "thread %u of %s trapped in core's code (trap %lu at %lx)", number,
                         component->name, thread->registers.trap, thread->registers.rip);
    return 0;
}

static foc_word_t utcb_of(unsigned number)
{
    return COMPONENT_UTCBS + number * FOC_UTCB_BYTES;
}

int scratch_save(struct component *component, unsigned number, void *state, struct reseat_error **ret_error)
{
    struct foc_registers registers = component->threads[number].registers;
    __builtin_memset(buffer, 0, STATE_PAGES << FOC_PAGE_SHIFT);
    registers.rdi = BUFFER;
    registers.rsi = utcb_of(number);
    registers.r8 = has_xsave();
    int r = run(component, number, stub_save, &registers, ret_error);
    if (r == 0)
        __builtin_memcpy(state, buffer, STATE_PAGES << FOC_PAGE_SHIFT);
    return r;
}

int scratch_load(struct component *component, unsigned number, const void *state,
                 struct reseat_error **ret_error)
{
    struct thread *thread = &component->threads[number];
    unsigned seen = thread->exceptions;
    int r = kernel_thread_ex_regs(thread->slot, CODE + (foc_word_t)(stub_park - stub_begin), BUFFER, 0);
    if (r == 0)
        r = kernel_thread_run(FOC_SLOT_SCHEDULER, thread->slot, thread->priority, thread->processors);
    if (r < 0)
        return error_set(ret_error, r, "starting thread %u of %s", number, component->name);
    if (thread_await_stop(thread, seen, STUB_MS) < 0)
        return error_set(ret_error, -E_TIMEDOUT, "thread %u of %s did not start", number, component->name);
    __builtin_memcpy(buffer, state, STATE_PAGES << FOC_PAGE_SHIFT);
    struct foc_registers registers = thread->registers;
    registers.rsi = BUFFER;
    registers.rdi = utcb_of(number);
    registers.r8 = has_xsave();
    return run(component, number, stub_load, &registers, ret_error);
}
