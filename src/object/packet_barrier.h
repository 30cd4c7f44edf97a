/* A barrier for the packets of single TCP connections. Private to the object room. */
#pragma once

#include "base/base.h"

#include <netinet/in.h>

/* The two ends of a connection, as the process has them. */
struct packet_connection {
    struct sockaddr_storage local, peer;
};

/* Drops every packet of these connections, in both directions, from now on and beyond our own end, until
 * packet_barrier_remove(). `name` names the barrier in this network namespace. -EPERM; -EOPNOTSUPP: a kernel
 * without nf_tables. */
int packet_barrier_make(const char *name, const struct packet_connection *connections, size_t count);
/* 0 also if there is none of that name. */
int packet_barrier_remove(const char *name);
