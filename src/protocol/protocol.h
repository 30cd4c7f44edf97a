/* The native PD protocol: what is said between a client and core, the service that hands out PD sessions.
 * One definition for core and client on Linux, and for core on Fiasco.OC; docs/protocol.md explains it to
 * somebody who writes a client in another language.
 *
 * A message is words, with capabilities beside them. Linux: one packet of a SOCK_SEQPACKET socket, and
 * descriptors (unix(7), SCM_RIGHTS). Fiasco.OC: message registers, and typed items. Words are fixed-size
 * little-endian structures without padding:
 *
 *     head | fixed part of the operation | head.count items of one size
 *
 * and nothing behind. Every request is answered by one reply of the same operation and tag. A reply with a
 * negative result has no fixed part: its items are the bytes of a sentence for people.
 *
 * Freestanding: only <stdint.h> and <stddef.h>, and no byte order but the one that both kernels have. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION          1
#define PROTOCOL_CAPABILITIES_MAX 253   /* beside one message; Linux: SCM_MAX_FD */
#define PROTOCOL_MESSAGE_BYTES    16384 /* at most; Fiasco.OC: what fits into the message registers */
#define PROTOCOL_SELECTOR_END     0xffffffffU
#define PROTOCOL_FOREVER          0 /* as a lifetime */

/* Numbers are for good: new operations are added at the end. */
enum protocol_operation {
    PROTOCOL_OPEN = 1, /* to core itself; all others to a session */
    PROTOCOL_INFO,
    PROTOCOL_NARROW,
    PROTOCOL_LIST,
    PROTOCOL_REQUEST,
    PROTOCOL_INSTALL,
    PROTOCOL_CLOSE,
    PROTOCOL_COMPARE,
    PROTOCOL_CHECKPOINT,
    PROTOCOL_RESTORE,
    PROTOCOL_DROP,
    PROTOCOL_FETCH, /* Linux only */
    PROTOCOL_OPERATIONS_END,
};

/* In the head of a request. */
enum protocol_flags {
    /* install, close: more of the same follows, with the same tag; nothing is done, and nothing is answered,
     * until a part comes that has not this flag. So more than one message can hold is done in one stop. */
    PROTOCOL_MORE = 1U << 0,
    /* request: only the capability at `from`, if there is one, instead of the first used ones from there. */
    PROTOCOL_EXACT = 1U << 1,
};

/* What a session is good for; a session can be narrowed to fewer, never widened. */
enum protocol_rights {
    PROTOCOL_MAY_LIST = 1U << 0, /* list, and compare with another session that may too */
    PROTOCOL_MAY_REQUEST = 1U << 1,
    PROTOCOL_MAY_INSTALL = 1U << 2,
    PROTOCOL_MAY_CLOSE = 1U << 3,
    PROTOCOL_MAY_CHECKPOINT = 1U << 4, /* of the whole PD: only sessions that have all selectors */
    PROTOCOL_MAY_RESTORE = 1U << 5,    /* likewise; restore and drop, of a session of a twin */
    PROTOCOL_MAY_READ = PROTOCOL_MAY_LIST | PROTOCOL_MAY_REQUEST,
    PROTOCOL_MAY_ALL = (1U << 6) - 1,
};

struct protocol_head {
    uint16_t version;
    uint16_t operation;    /* enum protocol_operation */
    uint32_t tag;          /* of the client's choice; comes back in the reply */
    int32_t result;        /* reply: 0 or a negative errno (numbers of Linux); request: 0 */
    uint32_t flags;        /* request: enum protocol_flags; reply: 0 */
    uint32_t count;        /* items behind the fixed part */
    uint32_t capabilities; /* beside the message */
};

/* ---- fixed parts and items ---- */

/* The same bits as enum native_slot_flags. */
enum protocol_slot_flags {
    PROTOCOL_CLOSE_ON_EXEC = 1U << 0,
    PROTOCOL_READ = 1U << 1,
    PROTOCOL_WRITE = 1U << 2,
    PROTOCOL_SPECIAL = 1U << 3,
    PROTOCOL_REPLACE = 1U << 8, /* install */
    /* Reply of request: the selector is used, but its capability cannot travel beside a message (Linux:
     * io_uring's descriptors through a socket), and none is there for this slot. See fetch. */
    PROTOCOL_WITHOUT = 1U << 9,
    /* install, Linux: the capability cannot travel. What is beside the message for this slot is a pidfd of
     * the process that sends it, and the capability is descriptor `flags >> PROTOCOL_NUMBER_SHIFT` of that
     * one. */
    PROTOCOL_BY_NUMBER = 1U << 10,
};

#define PROTOCOL_NUMBER_SHIFT 12

/* The capabilities beside the message are those of the slots, in the same order. */
struct protocol_slot {
    uint32_t selector;
    uint32_t flags; /* enum protocol_slot_flags */
};

struct protocol_range {
    uint32_t first, last; /* both inside */
};

struct protocol_pair {
    uint32_t a, b;
};

/* Request of list and request. */
struct protocol_from {
    uint32_t from;
    uint32_t capacity; /* at most as many */
};

/* Reply of list (items: selectors, uint32_t) and of request (items: slots, with capabilities). */
struct protocol_next {
    uint32_t next; /* where to go on, or PROTOCOL_SELECTOR_END */
    uint32_t reserved;
};

/* Request of open. Beside it on Linux: a pidfd of the process and, unless core's configuration lets this
 * client do without, a descriptor of its /proc/PID/mem that the client could open. Fiasco.OC: nothing. */
struct protocol_open {
    int32_t id;           /* Fiasco.OC: the number of the component. Linux: 0, the pidfd says it */
    uint32_t rights;      /* those wanted; the session has those of them that the client may have */
    uint64_t lifetime_ns; /* of the session; PROTOCOL_FOREVER */
};

/* Request of narrow; items: ranges of selectors, none: as before. */
struct protocol_narrow {
    uint32_t rights;
    uint32_t reserved;
    uint64_t lifetime_ns;
};

/* Reply of open and narrow (the session is beside it) and of info; items: the ranges of selectors that it is
 * good for, none: all. */
struct protocol_session {
    int32_t id; /* what the PD is called; Linux: the PID as core sees it */
    uint32_t rights;
    uint64_t lifetime_ns; /* what is left of it; PROTOCOL_FOREVER */
};

/* install: items are slots, with a capability for each; close: items are selectors, uint32_t. Neither has
 * a fixed part; nor have their replies, which have no items either. */

/* Request of fetch, Linux: for a capability that cannot travel. Beside it: a pidfd of the process that sends
 * it. Core puts the capability at `selector` of the session into that process, at descriptor `number`, in
 * place of what is there; it is stopped for that. Nothing in the reply. */
struct protocol_fetch {
    uint32_t selector, number;
};

/* compare: no fixed part; items are pairs. Beside it: another session, which the second ones of the pairs
 * belong to; or nothing: all of them are of this one. The reply has an int32_t for each pair: 0 same object,
 * otherwise -1 or 1, a total order. */

enum protocol_checkpoint_flags {
    PROTOCOL_LEAVE_RUNNING = 1U << 0,
    /* No twin is left. An image goes into the descriptor beside the message: a file or pipe, open for
       writing. */
    PROTOCOL_IMAGE = 1U << 1,
};

/* Request of checkpoint. Nothing is beside it, or with PROTOCOL_IMAGE the descriptor. */
struct protocol_checkpoint {
    uint32_t flags; /* enum protocol_checkpoint_flags */
    uint32_t allow; /* enum reseat_allow */
};

/* Its reply; beside it, unless there is none, a session of the twin, which is the checkpoint. Items: bytes of
 * notes, a line each. */
struct protocol_checkpointed {
    int32_t id, twin;
    uint64_t pause_ns;
    uint64_t memory_bytes; /* in the image */
    uint32_t threads, capabilities;
};

enum protocol_restore_flags {
    PROTOCOL_KEEP = 1U << 0,
    PROTOCOL_NEW_ID = 1U << 1,
};

enum protocol_policy {
    PROTOCOL_PUT = 0, /* another object, whose capability is beside the message, in the order of the items */
    PROTOCOL_KEEP_SLOT,
    PROTOCOL_CLOSE_SLOT,
    PROTOCOL_NULL_SLOT,
    PROTOCOL_FAIL_SLOT,
    PROTOCOL_POLICIES_END,
};

/* What is to become of one selector, as enum reseat_slot_policy. */
struct protocol_choice {
    uint32_t selector;
    uint32_t policy; /* enum protocol_policy */
};

/* Request of restore, to a session of a twin that core has made; items: choices. */
struct protocol_restore {
    uint32_t flags; /* enum protocol_restore_flags */
    uint32_t allow;
    uint64_t wait_ns;
};

/* Its reply; beside it: a session of the PD, a descriptor of the process (pidfd), and with PROTOCOL_KEEP a
 * session of the twin that was kept. Items: bytes of notes, a line each. */
struct protocol_restored {
    int32_t id, twin;
    uint64_t restore_ns;
    uint32_t slots, same;
};

/* drop, to a session of a twin that core has made: ends it. Nothing in the request, nothing in the reply. */

/* ---- decoding ---- */

/* A message that was checked: pointers into it, so it must stay. */
struct protocol_view {
    const struct protocol_head *head;
    const void *fixed; /* structure of the operation; NULL if it has none, or the result is negative */
    const void *items; /* head->count of them */
};

enum protocol_direction { PROTOCOL_IS_REQUEST, PROTOCOL_IS_REPLY };

/* Believes nothing: version, operation, flags, length of every part, number of capabilities that came beside
 * it. `message` must be aligned to 8 bytes. 0, or -EBADMSG, -EPROTONOSUPPORT, -EOPNOTSUPP, -EMSGSIZE with a
 * constant text in *ret_reason. */
int protocol_decode(const void *message, size_t length, size_t capabilities,
                    enum protocol_direction direction, struct protocol_view *ret_view,
                    const char **ret_reason);

/* Bytes that the fixed part of a message takes, and one item; 0 if there are none. */
size_t protocol_fixed_bytes(unsigned operation, enum protocol_direction direction);
size_t protocol_item_bytes(unsigned operation, enum protocol_direction direction);

/* What an operation is called ("install"), and the right that it needs; "?" and 0 if there is none. */
const char *protocol_operation_name(unsigned operation);
uint32_t protocol_right_needed(unsigned operation);
