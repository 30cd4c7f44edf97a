/* The state of an internet socket in an image, and what the files about it share. */
#pragma once

#include "object/durable.h"
#include "object/socket_filter.h"
#include "object/socket_options.h"

#include <netinet/in.h>

enum inet_flags {
    INET_LISTENING = 1 << 0,
    INET_CONNECTED = 1 << 1,
    INET_TO_BE_FROZEN = 1 << 3, /* TCP, only in an outline */
    INET_ENDED = 1 << 4,        /* TCP: both sides have said all, or one has reset it */
    INET_ERROR = 1 << 5,        /* … and the process does not know of the reset yet */
    INET_FOREIGN = 1 << 6,      /* it is bound to an address that this machine does not have */
    INET_CONNECTING = 1 << 7,   /* TCP: its peer has not answered yet */
    INET_FROZEN = 1 << 2,       /* TCP: a struct tcp_state stands behind all; no packet has come since */
};

union inet_name {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    uint8_t bytes[32];
};

struct inet_state {
    uint32_t domain, type, protocol;
    uint32_t flags;
    uint32_t backlog;
    uint32_t waiting; /* TCP: connections that nobody has accepted */
    uint32_t local_length, peer_length;
    uint8_t local[32], peer[32];
    uint32_t option_count;  /* struct socket_option, behind this */
    uint32_t filter_count;  /* instructions of 8 bytes, behind them */
    uint32_t message_count; /* struct inet_message, behind them */
    uint32_t shutdown;      /* UDP; 1: receive, 2: send */
};

/* A datagram that has not been read; its bytes behind it, padded to 8. */
struct inet_message {
    uint32_t length;
    uint32_t sender_length;
    uint8_t sender[32];
};

struct inet_parts {
    struct inet_state state;
    union inet_name local, peer;
    uint64_t options, filter, rest;
};

struct inet_parts inet_parts_of(const struct object_view *view);
unsigned inet_port(const union inet_name *name);
/* What all internet sockets have; the caller adds what is behind, and writes the state to the beginning. */
int inet_capture_common(struct object_capture *capture, struct inet_state *state);
int inet_check_common(const struct object_view *view, struct reseat_error **ret_error);
/* A socket with options, bound. It may be left with other reuse options than it had, until all that share its
 * port are bound: then inet_put_back_sharing(). */
int inet_make(const struct object_view *view, native_cap_t *ret_cap, struct reseat_error **ret_error);
void inet_put_back_sharing(const struct object_view *view, native_cap_t cap);
/* The last step of every internet socket: sharing and options as they were, then its flags. */
int inet_finish(struct object_making *making, const struct object_view *view, native_cap_t cap,
                struct reseat_error **ret_error);
/* A TCP socket whose connection is over: reset by the peer, or ended by both sides in peace. */
int inet_make_over(const struct object_view *view, bool is_reset, native_cap_t *ret_cap,
                   struct reseat_error **ret_error);
