/* Asking the kernel about all sockets of a family (sock_diag(7)). Private to the object room. */
#pragma once

#include "base/base.h"

#include <linux/netlink.h>

/* Sends the body of a question (struct inet_diag_req_v2, packet_diag_req, …) and hands each answer on that
 * has at least `length` bytes. 0: all of them; or a negative errno. */
int diag_dump(const void *question, size_t question_length, size_t length,
              void (*take)(const void *body, int attributes_length, void *userdata), void *userdata);
/* The attributes behind a body of that length. */
static inline const void *diag_attributes(const void *body, size_t length)
{
    return (const char *)body + NLMSG_ALIGN(length);
}
