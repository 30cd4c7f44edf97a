/* What the files of the client of core share: a session, and how it is asked. */
#pragma once

#include "lib/pd-internal.h"
#include "protocol/packet.h"

struct remote_pd {
    struct reseat_pd public; /* first, so that a pointer to it is a pointer to the whole */
    int session;
    pid_t pid; /* as core sees it */
    uint32_t tag;
};

extern const struct reseat_pd_operations remote_operations;

/* NULL: the PD is not one that core serves. */
struct remote_pd *remote_of(const struct reseat_pd *pd);

struct remote_request {
    struct protocol_head head; /* operation, flags, count, capabilities; the rest is filled in */
    const void *fixed, *items;
    const int *caps;
};

/* Sends a request and waits for its reply, into `packet`, whose descriptors are the caller's. A negative
 * result is returned, with core's sentence. With PROTOCOL_MORE there is no reply. */
int remote_call(int socket, uint32_t tag, struct remote_request *request, struct packet *packet,
                struct protocol_view *ret_reply, struct reseat_error **ret_error);
int remote_ask(struct remote_pd *pd, struct remote_request *request, struct packet *packet,
               struct protocol_view *ret_reply, struct reseat_error **ret_error);
/* A PD around a session, which belongs to it on success. */
int remote_make(int session, pid_t pid, struct reseat_pd **ret_pd, struct reseat_error **ret_error);
