/* What no call on an internet socket tells about it: which ways it is shut down. Socket diagnostics do
 * (sock_diag(7), CONFIG_INET_UDP_DIAG), asked for all sockets of one port. */
#include "object/inet_diag.h"
#include "object/diag.h"

#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>

struct search {
    uint32_t inode;
    unsigned shutdown;
};

static void take_socket(const void *body, int rest, void *userdata)
{
    struct search *search = userdata;
    const struct inet_diag_msg *message = body;
    if (message->idiag_inode != search->inode)
        return;
    for (const struct rtattr *a = diag_attributes(body, sizeof *message); RTA_OK(a, rest);
         a = RTA_NEXT(a, rest))
        if (a->rta_type == INET_DIAG_SHUTDOWN && RTA_PAYLOAD(a) >= 1)
            search->shutdown = *(const uint8_t *)RTA_DATA(a);
}

unsigned inet_shutdown_read(int domain, int protocol, in_port_t port, uint64_t inode)
{
    struct search search = {.inode = (uint32_t)inode};
    struct inet_diag_req_v2 question = {.sdiag_family = (uint8_t)domain,
                                        .sdiag_protocol = (uint8_t)protocol,
                                        .idiag_states = ~0U,
                                        .id = {.idiag_sport = port}};
    diag_dump(&question, sizeof question, sizeof(struct inet_diag_msg), take_socket, &search);
    return search.shutdown;
}
