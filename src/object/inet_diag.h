/* What socket diagnostics know of an internet socket. Private to the object room. */
#pragma once

#include "base/base.h"

#include <netinet/in.h>

/* Which ways a bound socket of our network namespace is shut down (1: receive, 2: send); 0 also if the kernel
 * does not say. `port`: what it is bound to, in the order of the net; 0: any. */
unsigned inet_shutdown_read(int domain, int protocol, in_port_t port, uint64_t inode);
