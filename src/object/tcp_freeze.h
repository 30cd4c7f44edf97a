/* Carrying over TCP connections: what the kind and the freezing share. Private to the object room. */
#pragma once

#include "object/durable.h"

/* Whether object_freeze_connections() could freeze it, if nothing unforeseen comes. */
bool tcp_can_freeze(native_cap_t cap);
/* Lets a connection that was made in repair mode go on. 0 also for what is none. */
int tcp_thaw(const struct object_view *view, native_cap_t cap);
