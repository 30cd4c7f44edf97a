/* Packet filters of sockets in a durable image. Private to the object room. */
#pragma once

#include "object/durable.h"

#define SOCKET_FILTER_BYTES 8 /* of one instruction, struct sock_filter */

/* Adds the instructions to the state; says how many. */
int socket_filter_capture(struct object_capture *capture, uint32_t *ret_count);
int socket_filter_check(const struct object_view *view, uint64_t offset, uint32_t count,
                        struct reseat_error **ret_error);
int socket_filter_attach(const struct object_view *view, uint64_t offset, uint32_t count, native_cap_t cap);
