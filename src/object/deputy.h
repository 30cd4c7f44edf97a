/* Unix sockets made by somebody else than us. Private to the object room. */
#pragma once

#include "base/base.h"

#include <sys/socket.h>
#include <sys/un.h>

/* One at a time; all zero: none yet. */
struct deputy {
    pid_t pid;
    int pidfd, channel[2];
    struct ucred credentials;
};

struct deputy_principal {
    struct ucred credentials; /* pid 0: any number */
    uint64_t deadline_ns;     /* now_ns(): until then a number that a zombie still has is waited for */
};

/* As socketpair(2), listen(2), connect(2), with these credentials as far as they can be had: a number that
 * somebody lives under, or that we may not give, is replaced by another. 0, or a negative errno. */
int deputy_pair(struct deputy *deputy, const struct deputy_principal *principal, int type, int ret_ends[2]);
int deputy_listen(struct deputy *deputy, const struct deputy_principal *principal, int fd, int backlog);
int deputy_connect(struct deputy *deputy, const struct deputy_principal *principal, int fd,
                   const struct sockaddr_un *address, socklen_t length);
void deputy_end(struct deputy *deputy); /* cleanup function */
