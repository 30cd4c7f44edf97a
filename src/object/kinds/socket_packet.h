/* What packet sockets have besides an address. Private to the object room. */
#pragma once

#include "object/durable.h"

/* The protocol of a socket and whether the kernel tells of it at all; in the order of this machine. */
int packet_facts_add(struct object_capture *capture, uint32_t *ret_protocol);
int packet_facts_check(const struct object_view *view, size_t offset, struct reseat_error **ret_error);
/* Memberships, rings, and then the group that shares its packets. The socket is bound. */
int packet_facts_apply(const struct object_view *view, size_t offset, int fd,
                       struct reseat_error **ret_error);
