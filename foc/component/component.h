/* What core and the components that it starts agree on: where a component finds what, and how it asks core
 * for something. */
#pragma once

#include "../abi/abi.h"

#define COMPONENT_THREADS_MAX 8

/* ---- selectors of every component ---- */

enum component_slot {
    COMPONENT_SLOT_TASK = 1,
    COMPONENT_SLOT_FACTORY = 2,    /* if it has one */
    COMPONENT_SLOT_SESSION = 5,    /* the checkpointer's PD session */
    COMPONENT_SLOT_FAULT = 0x10,   /* + thread: pager, exception handler, and what it asks core with */
    COMPONENT_SLOT_THREADS = 0x20, /* + thread */
};

/* ---- memory ---- */

#define COMPONENT_UTCBS       0x40000000ul /* one after the other, by number of the thread */
#define COMPONENT_UTCB_ORDER  13
#define COMPONENT_STACKS      0x50000000ul
#define COMPONENT_STACK_PAGES 4
#define COMPONENT_STACK_STEP  0x10000ul
#define COMPONENT_CONTROL     0x60000000ul /* the page that core shares with it */
#define COMPONENT_SCRATCH     0x70000000ul /* core's, during a checkpoint and a restore; not the component's */
#define COMPONENT_LINK        0x10000000ul /* programs are linked to here, and below the UTCBs */

/* A thread starts at the program's entry with its number in rdi; core passes it on the stack, where the
 * kernel lets it set nothing but the stack pointer. */

/* ---- what a component asks its fault gate for: word 0 ---- */

enum component_request {
    COMPONENT_REPORT = 1, /* word 1: is it well? then text: the name of a check */
    COMPONENT_PRINT,      /* text from word 1 on */
    COMPONENT_ATTACH, /* word 1: selector of a dataspace, 2: address, 3: FOC_MEMORY_* rights; answers pages */
};
#define COMPONENT_PROTOCOL 1 /* of the message's tag; answers have it with 0 or a negative errno */

/* A component that has nothing to do until core goes on says so by an invalid instruction, with a value in
 * rax. */
