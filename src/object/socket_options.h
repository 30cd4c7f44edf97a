/* Options of sockets in a durable image. Private to the object room. */
#pragma once

#include "object/durable.h"

struct socket_option {
    uint32_t level, option;
    uint32_t length; /* of the value */
    uint32_t reserved;
    uint8_t value[16];
};

/* Adds rows to the state; says how many. */
int socket_options_capture(struct object_capture *capture, uint32_t *ret_count);
int socket_options_check(const struct object_view *view, size_t offset, uint32_t count,
                         struct reseat_error **ret_error);
/* The first `length` bytes of the value of an option; false: it is not there, or shorter. */
bool socket_options_find(const struct object_view *view, size_t offset, uint32_t count, int level, int option,
                         void *ret_value, size_t length);
/* The value of an option that is a number. */
int socket_options_value(const struct object_view *view, size_t offset, uint32_t count, int level, int option,
                         int fallback);
/* Gives a new socket its options, but for those that would be in the way while its queues are filled: these
 * come with socket_options_finish(). */
int socket_options_apply(const struct object_view *view, size_t offset, uint32_t count, native_cap_t cap,
                         struct reseat_error **ret_error);
void socket_options_finish(const struct object_view *view, size_t offset, uint32_t count, native_cap_t cap);
/* A send buffer that is large enough for whatever was in a queue. */
void socket_options_make_room(native_cap_t cap);
