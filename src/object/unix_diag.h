/* What socket diagnostics know of one unix socket. Private to the object room. */
#pragma once

#include "base/base.h"

struct unix_facts {
    uint8_t state;    /* TCP_ESTABLISHED, TCP_LISTEN, TCP_CLOSE */
    uint8_t shutdown; /* 1: receive, 2: send */
    bool has_peer;
    uint32_t peer;     /* inode; 0 with has_peer: it has ended, or was not accepted yet */
    uint32_t received; /* listening: how many wait to be accepted */
    uint32_t unread;   /* bytes that the peer has not read; listening: the backlog */
    uint32_t file_inode;
    uint32_t *waiting; /* listening: inodes of those who wait to be accepted, the first first */
    size_t waiting_count;
};

/* Of a socket in our network namespace: -ENOENT if there is none. */
int unix_facts_read(uint64_t inode, struct unix_facts *ret_facts);
void unix_facts_end(struct unix_facts *facts); /* cleanup function */
