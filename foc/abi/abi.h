/* What of the Fiasco.OC (L4Re microkernel) ABI for amd64 this project uses, and nothing else: numbers,
 * layouts and register conventions, written down from the kernel's sources and manual, no header of which is
 * copied.
 *
 * References are to files of the public kernel repository (github.com/kernkonzept/fiasco, state of June 2026,
 * paths below its src/), where the constant is defined. The same facts are described for users of the kernel
 * in the L4Re reference manual, chapters "Kernel Interface API" and "UTCB". */
#pragma once

#include <stdint.h>

typedef uint64_t foc_word_t;   /* a machine word: 64 bits */
typedef foc_word_t foc_slot_t; /* number of a slot in a capability space, not shifted */

#define FOC_PAGE_SHIFT 12
#define FOC_PAGE_SIZE  (1ul << FOC_PAGE_SHIFT)

/* ---- capability selectors: a slot number, and what to do there (abi/l4_types.cpp, class L4_obj_ref) ---- */

#define FOC_CAP_SHIFT 12
#define FOC_CAP(slot) ((foc_word_t)(slot) << FOC_CAP_SHIFT)

enum foc_operation {
    FOC_SEND = 1,
    FOC_RECEIVE = 2,
    FOC_OPEN_WAIT = 4,
    FOC_REPLY = 8,
    FOC_CALL = FOC_SEND | FOC_RECEIVE,
    FOC_WAIT = FOC_RECEIVE | FOC_OPEN_WAIT,
    FOC_REPLY_AND_WAIT = FOC_SEND | FOC_RECEIVE | FOC_OPEN_WAIT | FOC_REPLY,
};
#define FOC_CAP_SPECIAL (1ul << 11) /* L4_obj_ref::Invalid: names the calling thread itself */

/* ---- slots that a first task finds filled (kern/globals.cpp, class Initial_kobjects) ---- */

enum foc_initial_slot {
    FOC_SLOT_TASK = 1,
    FOC_SLOT_FACTORY = 2,
    FOC_SLOT_THREAD = 3,
    FOC_SLOT_SCHEDULER = 7,
    FOC_SLOT_DEBUGGER = 10, /* filled in kernels with a debugger (CONFIG_RT_DBG) */
};

/* ---- message tag (class L4_msg_tag): words 0-5, items 6-11, flags 12-15, protocol above ---- */

#define FOC_TAG(words, items, flags, protocol)                                                               \
    ((foc_word_t)(words) | (foc_word_t)(items) << 6 | (foc_word_t)(flags) |                                  \
     (foc_word_t)(long)(protocol) << 16)
#define FOC_TAG_WORDS(tag)    ((unsigned)((tag)&63))
#define FOC_TAG_ITEMS(tag)    ((unsigned)((tag) >> 6 & 63))
#define FOC_TAG_PROTOCOL(tag) ((long)(tag) >> 16)
#define FOC_TAG_ERROR         0x8000ul

/* L4_msg_tag::Protocol. The name of gates (Label_kobject, "kobject") is that of their server's side too. */
enum foc_protocol {
    FOC_PROTOCOL_IRQ = -1,
    FOC_PROTOCOL_PAGE_FAULT = -2,
    FOC_PROTOCOL_EXCEPTION = -5,
    FOC_PROTOCOL_GATE = -10,
    FOC_PROTOCOL_TASK = -11,
    FOC_PROTOCOL_THREAD = -12,
    FOC_PROTOCOL_SCHEDULER = -14,
    FOC_PROTOCOL_FACTORY = -15,
    FOC_PROTOCOL_IRQ_SENDER = -18,
    FOC_PROTOCOL_SEMAPHORE = -20,
};

/* ---- timeouts (class L4_timeout, L4_timeout_pair): receive in bits 0-15, send in 16-31 ---- */

#define FOC_FOREVER 0ul
/* mantissa << exponent microseconds; mantissa below 1024, exponent below 32 and not 0 */
#define FOC_TIMEOUT(mantissa, exponent) ((foc_word_t)(exponent) << 10 | (foc_word_t)(mantissa))
#define FOC_TIMEOUTS(receive, send)     ((receive) | (foc_word_t)(send) << 16)

/* ---- errors of an IPC, in the UTCB (abi/l4_error.cpp). Those of a kernel object are the protocol of its
 * answer. ---- */

enum foc_ipc_error {
    FOC_IPC_TIMEOUT = 2,
    FOC_IPC_RECEIVE_TIMEOUT = 3,
    FOC_IPC_NOT_EXISTENT = 4,
    FOC_IPC_CANCELED = 6,
    FOC_IPC_RECEIVE_CANCELED = 7,
    FOC_IPC_MAP_FAILED = 16,
    FOC_IPC_ERROR_MASK = 31,
};

/* ---- flexpages (abi/l4_fpage.cpp): rights 0-3, type 4-5, order 6-11, page or slot number from 12 ---- */

enum foc_fpage_type { FOC_FPAGE_MEMORY = 1, FOC_FPAGE_IO = 2, FOC_FPAGE_OBJECT = 3 };
#define FOC_FPAGE(type, address, order, rights)                                                              \
    ((foc_word_t)(address) | (foc_word_t)(order) << 6 | (foc_word_t)(type) << 4 | (foc_word_t)(rights))
#define FOC_FPAGE_SLOTS(slot, order, rights) FOC_FPAGE(FOC_FPAGE_OBJECT, FOC_CAP(slot), order, rights)

/* L4_fpage::Rights */
enum foc_rights {
    FOC_RIGHT_W = 1, /* capabilities */
    FOC_RIGHT_S = 2,
    FOC_RIGHT_R = 4,
    FOC_RIGHTS_RWS = 7,
    FOC_RIGHTS_FULL = 15,
    FOC_MEMORY_X = 1, /* memory */
    FOC_MEMORY_W = 2,
    FOC_MEMORY_R = 4,
    FOC_MEMORY_U = 8,
    FOC_MEMORY_RWX = 15,
};

/* ---- message items (abi/l4_msg_item.cpp) ---- */

#define FOC_ITEM_MAP     8ul    /* L4_msg_item::Map; a hot spot goes above bit 12 */
#define FOC_ITEM_WEAK    0x10ul /* L4_snd_item::C_weak_ref: does not keep the object alive */
#define FOC_ITEM_SERVER  0xe0ul /* C_obj_specific_rights: for a gate, its server's side */
#define FOC_BUFFER_SMALL 2ul    /* L4_buf_item: one slot, in the same word */
#define FOC_BUFFER_ITEMS(memory, io, object)                                                                 \
    ((foc_word_t)(memory) | (foc_word_t)(io) << 5 | (foc_word_t)(object) << 10)

/* ---- UTCB (abi/l4_types.cpp, class Utcb): 1 KiB each, the kernel's message registers ---- */

#define FOC_MESSAGE_WORDS 63
#define FOC_BUFFER_WORDS  58
#define FOC_UTCB_BYTES    1024ul

struct foc_utcb {
    foc_word_t message[FOC_MESSAGE_WORDS];
    foc_word_t self; /* its own address; %gs:0 (kern/ia32/64/context-ia32-64.cpp, arch_setup_utcb_ptr) */
    foc_word_t buffer_items;
    foc_word_t buffers[FOC_BUFFER_WORDS];
    foc_word_t error;
    foc_word_t free_marker;
    foc_word_t user[3];
};
_Static_assert(sizeof(struct foc_utcb) == FOC_UTCB_BYTES, "layout of the UTCB");

/* ---- operations: word 0 of a message to a kernel object ---- */

enum foc_task_operation { FOC_TASK_MAP = 0, FOC_TASK_UNMAP = 1, FOC_TASK_CAP_INFO = 2 }; /* kern/task.cpp */
#define FOC_UNMAP_ALL_SELF 0x80000000ul /* class L4_map_mask: here too, not only what was mapped on */
#define FOC_UNMAP_DELETE   0x40000000ul /* destroy the object, where the capability has D */
#define FOC_UNMAP_OTHERS   0x00000002ul

enum foc_thread_operation { FOC_THREAD_CONTROL = 0, FOC_THREAD_EX_REGS = 1 }; /* kern/thread.cpp */
#define FOC_CONTROL_PAGER     0x0010000ul
#define FOC_CONTROL_BIND      0x0200000ul
#define FOC_CONTROL_EXCEPTION 0x1000000ul
#define FOC_CONTROL_WORDS     6
#define FOC_EX_REGS_CANCEL    0x10000ul
#define FOC_EX_REGS_EXCEPTION 0x20000ul

enum foc_scheduler_operation { FOC_SCHEDULER_INFO = 0, FOC_SCHEDULER_RUN = 1 }; /* kern/scheduler.cpp */
/* kern/ipc_gate.cpp; interrupts are bound in the same way, kern/irq.cpp */
enum foc_gate_operation { FOC_GATE_BIND = 0x10, FOC_GATE_INFO = 0x11 };
enum foc_irq_operation { FOC_IRQ_DETACH = 1, FOC_IRQ_TRIGGER = 2 }; /* kern/irq.cpp */
enum foc_semaphore_operation { FOC_SEMAPHORE_DOWN = 0 };            /* kern/semaphore.cpp */

/* ---- exception messages (kern/ia32/64/trap_state-amd64.cpp: Trex; class L4_exception_ipc) ---- */

#define FOC_EXCEPTION_WORDS     26
#define FOC_TRAP_INVALID_OPCODE 6
#define FOC_TRAP_TRIGGERED      0xff /* not a processor's: thread-ia32.cpp, ex_regs with FOC_EX_REGS_EXCEPTION */

struct foc_registers {
    foc_word_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, fault_address, rbx, rdx, rcx, rax;
    foc_word_t trap, error_code;
    foc_word_t rip, cs, rflags, rsp, ss;
    foc_word_t fs_base, gs_base;
    uint16_t ds, es, fs, gs;
};
_Static_assert(sizeof(struct foc_registers) == FOC_EXCEPTION_WORDS * sizeof(foc_word_t),
               "layout of exceptions");

/* Page fault messages: word 0 is the address, its low bits say what was tried (kern/ia32/paging-ia32.cpp,
 * PF::addr_to_msgword0); word 1 is the instruction pointer. */
#define FOC_FAULT_WRITE 2ul

/* ---- kernel info page (abi/kip.cpp, abi/amd64/kip-amd64.cpp) ---- */

#define FOC_KIP_MAGIC 0x4be6344cu

struct foc_kip {
    uint32_t magic, version;
    uint8_t version_strings; /* their offset, in units of 16 bytes */
    uint8_t fill_0[3];
    uint8_t system_calls, node, fill_1[2];
    uint64_t sigma0_ip, root_ip;
    volatile uint64_t clock_us;
    uint64_t frequency_khz;
    uint64_t acpi_rsdp, device_tree;
    uint64_t user_pointer; /* what a boot loader tells the first tasks */
    uint64_t test_counter;
    uint32_t granularity, memory_offset, memory_count, fill_2;
    uint64_t fill_3[2];
    char platform[16];
    uint32_t is_multiprocessor, fill_4[3];
};
_Static_assert(sizeof(struct foc_kip) == 0x90, "layout of the kernel info page");

struct foc_memory {   /* class Mem_desc */
    foc_word_t start; /* bits 0-3 type, 4-7 subtype, 9 virtual, 10.. start */
    foc_word_t last;  /* the last byte, low ten bits taken as ones */
};
enum foc_memory_type {
    FOC_MEMORY_CONVENTIONAL = 1,
    FOC_MEMORY_RESERVED = 2,
    FOC_MEMORY_DEDICATED = 3, /* sigma0's own */
    FOC_MEMORY_BOOTLOADER = 0xe,
};
#define FOC_MEMORY_TYPE(m)       ((m)->start & 15)
#define FOC_MEMORY_IS_VIRTUAL(m) ((m)->start >> 9 & 1)
#define FOC_MEMORY_START(m)      ((m)->start & ~0x3fful)
#define FOC_MEMORY_LAST(m)       ((m)->last | 0x3fful)

/* What the kernel's usual boot loader leaves at user_pointer (L4Re, l4mod.h): we leave the same, so that core
 * can be started by either. */
struct foc_modules {
    uint64_t flags, command_line, modules;
    uint32_t count, fill;
    uint64_t vbe_control, vbe_mode;
};
struct foc_module {
    uint64_t flags, start, end, name; /* physical addresses; end is the first byte behind */
};
