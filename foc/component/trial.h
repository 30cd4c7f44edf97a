/* What the trial of a checkpoint agrees on: core's test, the target that is destroyed and made anew, and the
 * peer that talks with it and is not to notice. */
#pragma once

#include "component.h"

/* ---- threads of the target ---- */

enum target_thread {
    TARGET_WORKER,    /* computes, and talks with the peer */
    TARGET_SERVER,    /* serves the gates that are the target's own */
    TARGET_INTERRUPT, /* waits for the interrupt that is attached to it */
    TARGET_SEMAPHORE, /* waits at the semaphore */
    TARGET_NUMBERS,   /* computes in the registers of the FPU, and never makes a call */
    TARGET_THREADS,
};

/* ---- its capability space: low, high and scattered, with aliases and holes ---- */

enum target_selector {
    TARGET_SELF_ALIAS = 0x3, /* the first thread, without any rights but reading */
    TARGET_FACTORY = 0x2,    /* a factory of 128 KiB */
    TARGET_FACTORY_ALIAS = 0x7fff,
    TARGET_PEER = 0x30, /* gate of the peer: the conversation */
    TARGET_PEER_ALIAS = 0x1234,
    TARGET_PEER_HIGHEST = 0xffff, /* without W */
    TARGET_EXIT_GATE = 0x50,      /* the four that earlier work lost: these, and a blockade */
    TARGET_SIGNAL_GATE = 0x51,
    TARGET_IRQ = 0x4242,          /* others hold it too: its object is kept */
    TARGET_BLOCKADE_IRQ = 0x4243, /* made anew, and attached again */
    TARGET_CONSTRUCTOR_GATE = 0x9999,
    TARGET_EXIT_ALIAS = 0xabcd, /* without S */
    TARGET_SEMAPHORE_UP = 0x8000,
    TARGET_SEMAPHORE_ALIAS = 0x8001,
    TARGET_MEMORY = 0x200, /* dataspace */
    TARGET_MEMORY_ALIAS = 0xfffe,
    TARGET_CONTROL = 0x201, /* dataspace, shared with core */
    TARGET_FREE = 0x2fff,   /* a hole; used for a moment during the checks */
};

enum target_label {
    LABEL_EXIT = 0x110,
    LABEL_SIGNAL = 0x120,
    LABEL_IRQ = 0x130,
    LABEL_CONSTRUCTOR = 0x140,
    LABEL_BLOCKADE = 0x150,
};

#define TARGET_MEMORY_ADDRESS 0x61000000ul
#define TARGET_MEMORY_PAGES   8

/* ---- the page that target and core share ---- */

enum target_command { TARGET_RUN, TARGET_CHECK, TARGET_CHECKED };

struct target_control {
    volatile uint64_t command; /* enum target_command */
    volatile uint64_t progress[TARGET_THREADS];
    volatile uint64_t number_faults;  /* what the FPU's registers had wrong */
    volatile uint64_t service_faults; /* what the server saw that cannot be */
    volatile uint64_t is_ready;
    volatile uint64_t holds_answers; /* set by core: the server keeps each caller waiting */
};

/* ---- the peer ---- */

enum peer_thread { PEER_SERVER, PEER_CLIENT, PEER_THREADS };
enum peer_selector { PEER_GATE = 0x40, PEER_CONSTRUCTOR = 0x60, PEER_CONTROL = 0x201 };
#define PEER_LABEL 0x210

struct peer_control {
    volatile uint64_t conversations;  /* requests served */
    volatile uint64_t service_faults; /* requests out of order, or sums that do not fit */
    volatile uint64_t calls;          /* answers that the client got */
    volatile uint64_t client_faults;  /* answers that cannot be */
    volatile uint64_t outages;        /* calls that failed while the target was not there */
};

/* The conversation: each request has the next number and something to add; the answer is the sum of all so
 * far. */
struct conversation {
    uint64_t number, value;
};
