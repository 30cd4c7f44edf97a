/* Messages to the kernel's objects. Every operation is an IPC call to the capability of the object: word 0
 * says which, a typed item behind the words names another object by its slot. The answer's tag carries the
 * result as its protocol, a negative number being an error (class L4_err, whose numbers are those of Linux).
 * Rests on the files named in abi.h. */
#include "kernel.h"

#include "../abi/ipc.h"
#include "../base/base.h"

static int answer(foc_word_t tag)
{
    if (tag & FOC_TAG_ERROR) {
        switch (foc_ipc_error()) {
        case FOC_IPC_NOT_EXISTENT:
            return -E_SRCH;
        case FOC_IPC_TIMEOUT:
        case FOC_IPC_RECEIVE_TIMEOUT:
            return -E_TIMEDOUT;
        case FOC_IPC_MAP_FAILED:
            return -E_NOMEM;
        default:
            return -E_IO;
        }
    }
    long result = FOC_TAG_PROTOCOL(tag);
    return result < 0 ? (int)result : 0;
}

/* Puts the capability of an object behind the words of the message. */
static void put_item(unsigned words, foc_slot_t slot)
{
    foc_utcb()->message[words] = FOC_ITEM_MAP;
    foc_utcb()->message[words + 1] = FOC_FPAGE_SLOTS(slot, 0, FOC_RIGHTS_FULL);
}

static int create(foc_slot_t factory, foc_slot_t slot, enum foc_protocol kind, unsigned words, unsigned items)
{
    foc_receive_slot(slot);
    foc_utcb()->message[0] = (foc_word_t)(long)kind;
    return answer(foc_call(factory, FOC_TAG(words, items, 0, FOC_PROTOCOL_FACTORY)));
}

/* Arguments of a factory follow each other as type and value; the type is not looked at (kern/factory.cpp).
 */
int kernel_create_task(foc_slot_t factory, foc_slot_t slot, foc_word_t utcb_area, unsigned utcb_order)
{
    foc_utcb()->message[1] = 0;
    foc_utcb()->message[2] =
        utcb_order ? FOC_FPAGE(FOC_FPAGE_MEMORY, utcb_area, utcb_order, FOC_MEMORY_RWX) : 0;
    return create(factory, slot, FOC_PROTOCOL_TASK, 3, 0);
}

int kernel_create_thread(foc_slot_t factory, foc_slot_t slot)
{
    return create(factory, slot, FOC_PROTOCOL_THREAD, 1, 0);
}

int kernel_create_gate(foc_slot_t factory, foc_slot_t slot, foc_slot_t thread, foc_word_t label)
{
    foc_utcb()->message[1] = 0;
    foc_utcb()->message[2] = label;
    put_item(3, thread);
    return create(factory, slot, FOC_PROTOCOL_GATE, 3, 1);
}

int kernel_create_irq(foc_slot_t factory, foc_slot_t slot)
{
    return create(factory, slot, FOC_PROTOCOL_IRQ_SENDER, 1, 0);
}

int kernel_create_semaphore(foc_slot_t factory, foc_slot_t slot)
{
    return create(factory, slot, FOC_PROTOCOL_SEMAPHORE, 1, 0);
}

int kernel_create_factory(foc_slot_t factory, foc_slot_t slot, foc_word_t limit_bytes)
{
    foc_utcb()->message[1] = 0;
    foc_utcb()->message[2] = limit_bytes;
    return create(factory, slot, FOC_PROTOCOL_FACTORY, 3, 0);
}

int kernel_map(foc_slot_t to, foc_slot_t from, foc_word_t fpage, foc_word_t base, foc_word_t attributes)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = FOC_TASK_MAP;
    utcb->message[1] = base | attributes | FOC_ITEM_MAP;
    utcb->message[2] = fpage;
    put_item(3, from);
    return answer(foc_call(to, FOC_TAG(3, 1, 0, FOC_PROTOCOL_TASK)));
}

int kernel_unmap(foc_slot_t task, foc_word_t fpage, foc_word_t flags)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = FOC_TASK_UNMAP;
    utcb->message[1] = flags;
    utcb->message[2] = fpage;
    return answer(foc_call(task, FOC_TAG(3, 0, 0, FOC_PROTOCOL_TASK)));
}

bool kernel_cap_is_valid(foc_slot_t task, foc_slot_t slot)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = FOC_TASK_CAP_INFO;
    utcb->message[1] = FOC_CAP(slot);
    return FOC_TAG_PROTOCOL(foc_call(task, FOC_TAG(2, 0, 0, FOC_PROTOCOL_TASK))) > 0;
}

bool kernel_caps_are_equal(foc_slot_t task, foc_slot_t a, foc_slot_t b)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = FOC_TASK_CAP_INFO;
    utcb->message[1] = FOC_CAP(a);
    utcb->message[2] = FOC_CAP(b);
    return FOC_TAG_PROTOCOL(foc_call(task, FOC_TAG(3, 0, 0, FOC_PROTOCOL_TASK))) > 0;
}

int kernel_destroy(foc_slot_t slot)
{
    return kernel_unmap(FOC_SLOT_TASK, FOC_FPAGE_SLOTS(slot, 0, FOC_RIGHTS_FULL),
                        FOC_UNMAP_ALL_SELF | FOC_UNMAP_DELETE | FOC_UNMAP_OTHERS);
}

int kernel_drop(foc_slot_t slot)
{
    return kernel_unmap(FOC_SLOT_TASK, FOC_FPAGE_SLOTS(slot, 0, FOC_RIGHTS_FULL), FOC_UNMAP_ALL_SELF);
}

int kernel_thread_bind(foc_slot_t thread, foc_slot_t task, foc_word_t utcb, foc_slot_t pager,
                       foc_slot_t handler)
{
    struct foc_utcb *own = foc_utcb();
    own->message[0] = FOC_THREAD_CONTROL | FOC_CONTROL_PAGER | FOC_CONTROL_EXCEPTION | FOC_CONTROL_BIND;
    own->message[1] = FOC_CAP(pager);
    own->message[2] = FOC_CAP(handler);
    own->message[3] = 0;
    own->message[4] = 0;
    own->message[5] = utcb;
    put_item(FOC_CONTROL_WORDS, task);
    return answer(foc_call(thread, FOC_TAG(FOC_CONTROL_WORDS, 1, 0, FOC_PROTOCOL_THREAD)));
}

int kernel_thread_ex_regs(foc_slot_t thread, foc_word_t rip, foc_word_t rsp, foc_word_t flags)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = FOC_THREAD_EX_REGS | flags;
    utcb->message[1] = rip;
    utcb->message[2] = rsp;
    return answer(foc_call(thread, FOC_TAG(3, 0, 0, FOC_PROTOCOL_THREAD)));
}

int kernel_thread_run(foc_slot_t scheduler, foc_slot_t thread, foc_word_t priority, foc_word_t processors)
{
    struct foc_utcb *utcb = foc_utcb();
    utcb->message[0] = FOC_SCHEDULER_RUN;
    utcb->message[1] = 0; /* first processor of the mask, and its granularity */
    utcb->message[2] = processors;
    utcb->message[3] = priority;
    utcb->message[4] = 0; /* the kernel's time slice */
    put_item(5, thread);
    return answer(foc_call(scheduler, FOC_TAG(5, 1, 0, FOC_PROTOCOL_SCHEDULER)));
}

int kernel_processors(foc_slot_t scheduler, foc_word_t *ret_mask)
{
    foc_utcb()->message[0] = FOC_SCHEDULER_INFO;
    foc_utcb()->message[1] = 0;
    int r = answer(foc_call(scheduler, FOC_TAG(2, 0, 0, FOC_PROTOCOL_SCHEDULER)));
    if (r < 0)
        return r;
    *ret_mask = foc_utcb()->message[0];
    return 0;
}

/* A receive from oneself that times out (kern/thread-ipc.cpp, do_receive_wait). */
void kernel_yield(void)
{
    foc_ipc(FOC_CAP_SPECIAL, FOC_RECEIVE, 0, FOC_TIMEOUTS(FOC_TIMEOUT(1, 1), FOC_FOREVER), NULL);
}

void kernel_sleep_us(unsigned microseconds)
{
    unsigned exponent = 1;
    for (microseconds /= 2; microseconds > 1023; microseconds /= 2)
        exponent++;
    foc_ipc(FOC_CAP_SPECIAL, FOC_RECEIVE, 0, FOC_TIMEOUTS(FOC_TIMEOUT(microseconds, exponent), FOC_FOREVER),
            NULL);
}

int kernel_gate_bind(foc_slot_t gate, foc_slot_t thread, foc_word_t label)
{
    foc_utcb()->message[0] = FOC_GATE_BIND;
    foc_utcb()->message[1] = label;
    put_item(2, thread);
    return answer(foc_call(gate, FOC_TAG(2, 1, 0, FOC_PROTOCOL_GATE)));
}

int kernel_gate_label(foc_slot_t gate, foc_word_t *ret_label)
{
    foc_utcb()->message[0] = FOC_GATE_INFO;
    int r = answer(foc_call(gate, FOC_TAG(1, 0, 0, FOC_PROTOCOL_GATE)));
    if (r < 0)
        return r;
    *ret_label = foc_utcb()->message[0];
    return 0;
}

int kernel_irq_detach(foc_slot_t irq)
{
    foc_utcb()->message[0] = FOC_IRQ_DETACH;
    return answer(foc_call(irq, FOC_TAG(1, 0, 0, FOC_PROTOCOL_IRQ_SENDER)));
}

/* Sent, not called: the kernel does not answer, and leaves the tag as it was unless the send fails. */
int kernel_irq_trigger(foc_slot_t irq)
{
    foc_utcb()->message[0] = FOC_IRQ_TRIGGER;
    foc_word_t tag = foc_ipc(FOC_CAP(irq), FOC_SEND, FOC_TAG(1, 0, 0, FOC_PROTOCOL_IRQ), FOC_FOREVER, NULL);
    return tag & FOC_TAG_ERROR ? answer(tag) : 0;
}

int kernel_semaphore_down(foc_slot_t semaphore, foc_word_t receive_timeout)
{
    foc_utcb()->message[0] = FOC_SEMAPHORE_DOWN;
    return answer(foc_ipc(FOC_CAP(semaphore), FOC_CALL, FOC_TAG(1, 0, 0, FOC_PROTOCOL_SEMAPHORE),
                          FOC_TIMEOUTS(receive_timeout, FOC_FOREVER), NULL));
}
