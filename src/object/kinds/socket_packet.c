/* What packet sockets have besides an address, packet(7): which addresses their interfaces are to listen to
 * for them, rings, and the group of sockets that share packets among themselves (PACKET_FANOUT). No call on
 * the socket tells the first two, socket diagnostics do (CONFIG_PACKET_DIAG). What is in a ring is lost; so
 * is its memory for a process that has it mapped, which is said where memory is judged. */
#include "object/kinds/socket_packet.h"
#include "object/diag.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/packet_diag.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>

#define MEMBERSHIPS_MAX      4096
#define MEMBERSHIP_COUNT_MAX 4096 /* how often it was asked for; once more is the same to the network */

/* Stands behind options and filter; then as many memberships. */
struct packet_facts {
    uint32_t membership_count;
    uint32_t fanout; /* value of PACKET_FANOUT; 0: none, or one of the first group in the first mode */
    uint32_t has_fanout;
    uint32_t copy_threshold;
    struct packet_diag_ring receive, send; /* no blocks: none */
};

struct packet_membership {
    char interface[IFNAMSIZ];
    uint32_t count;
    uint16_t type, length;
    uint8_t address[32];
};

/* struct packet_mreq has room for 8 bytes of address, hardware for more. */
struct long_membership {
    int index;
    uint16_t type, length;
    uint8_t address[32];
};

/* ---- capture ---- */

struct search {
    struct object_capture *capture;
    struct packet_facts facts;
    uint32_t protocol;
    struct packet_membership *memberships;
    size_t count;
    int result; /* -ENOENT: not found yet */
};

static void take_memberships(struct search *search, const struct rtattr *attribute)
{
    const struct packet_diag_mclist *entries = RTA_DATA(attribute);
    for (size_t i = 0; i < RTA_PAYLOAD(attribute) / sizeof *entries; i++) {
        struct packet_membership *row = array_append(search->memberships, search->count);
        if (!row) {
            search->result = -ENOMEM;
            return;
        }
        *row = (struct packet_membership){.count = entries[i].pdmc_count,
                                          .type = entries[i].pdmc_type,
                                          .length = entries[i].pdmc_alen};
        memcpy(row->address, entries[i].pdmc_addr, sizeof row->address);
        if (!if_indextoname(entries[i].pdmc_index, row->interface))
            row->interface[0] = '\0';
    }
}

static void take_attribute(struct search *search, const struct rtattr *a)
{
    if (a->rta_type == PACKET_DIAG_MCLIST)
        take_memberships(search, a);
    else if (a->rta_type == PACKET_DIAG_RX_RING && RTA_PAYLOAD(a) >= sizeof search->facts.receive)
        memcpy(&search->facts.receive, RTA_DATA(a), sizeof search->facts.receive);
    else if (a->rta_type == PACKET_DIAG_TX_RING && RTA_PAYLOAD(a) >= sizeof search->facts.send)
        memcpy(&search->facts.send, RTA_DATA(a), sizeof search->facts.send);
    else if (a->rta_type == PACKET_DIAG_FANOUT)
        search->facts.has_fanout = 1;
    else if (a->rta_type == PACKET_DIAG_INFO && RTA_PAYLOAD(a) >= sizeof(struct packet_diag_info))
        search->facts.copy_threshold = ((const struct packet_diag_info *)RTA_DATA(a))->pdi_copy_thresh;
}

static void take_socket(const void *body, int rest, void *userdata)
{
    struct search *search = userdata;
    const struct packet_diag_msg *message = body;
    if (message->pdiag_ino != (uint32_t)search->capture->sight->inode)
        return;
    search->protocol = message->pdiag_num;
    search->result = 0;
    for (const struct rtattr *a = diag_attributes(body, sizeof *message); RTA_OK(a, rest);
         a = RTA_NEXT(a, rest))
        take_attribute(search, a);
}

int packet_facts_add(struct object_capture *capture, uint32_t *ret_protocol)
{
    struct search search = {.capture = capture, .result = -ENOENT};
    struct packet_diag_req question = {
        .sdiag_family = AF_PACKET,
        .pdiag_show = PACKET_SHOW_INFO | PACKET_SHOW_MCLIST | PACKET_SHOW_RING_CFG | PACKET_SHOW_FANOUT,
    };
    int r = diag_dump(&question, sizeof question, sizeof(struct packet_diag_msg), take_socket, &search);
    socklen_t length = sizeof search.facts.fanout;
    if (r == 0)
        r = search.result;
    if (r == 0 && search.facts.has_fanout &&
        getsockopt(capture->cap, SOL_PACKET, PACKET_FANOUT, &search.facts.fanout, &length) < 0)
        r = -errno;
    search.facts.membership_count = (uint32_t)search.count;
    if (r == 0)
        r = state_add(capture, &search.facts, sizeof search.facts);
    if (r == 0)
        r = state_add(capture, search.memberships, search.count * sizeof *search.memberships);
    free(search.memberships);
    if (r == 0)
        *ret_protocol = search.protocol;
    return r;
}

/* ---- restore ---- */

int packet_facts_check(const struct object_view *view, size_t offset, struct reseat_error **ret_error)
{
    struct packet_facts facts;
    struct packet_membership row;
    if (!view_has(view, offset, sizeof facts))
        return view_bad(view, ret_error, "its rings are cut off");
    memcpy(&facts, view->state + offset, sizeof facts);
    if (facts.membership_count > MEMBERSHIPS_MAX ||
        !view_has(view, offset + sizeof facts, facts.membership_count * (uint64_t)sizeof row))
        return view_bad(view, ret_error, "its memberships are cut off");
    for (size_t i = 0; i < facts.membership_count; i++) {
        memcpy(&row, view->state + offset + sizeof facts + i * sizeof row, sizeof row);
        if (!memchr(row.interface, '\0', sizeof row.interface) || row.length > sizeof row.address)
            return view_bad(view, ret_error, "membership %zu has no end", i);
    }
    return 0;
}

static int join(int fd, const struct packet_membership *row)
{
    struct long_membership membership = {.index = (int)if_nametoindex(row->interface),
                                         .type = row->type,
                                         .length = row->length};
    memcpy(membership.address, row->address, sizeof membership.address);
    for (uint32_t i = 0; i < row->count && i < MEMBERSHIP_COUNT_MAX; i++)
        if (setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &membership, sizeof membership) < 0)
            return -errno;
    return 0;
}

static int make_ring(int fd, int option, const struct packet_diag_ring *ring)
{
    struct tpacket_req3 request = {.tp_block_size = ring->pdr_block_size,
                                   .tp_block_nr = ring->pdr_block_nr,
                                   .tp_frame_size = ring->pdr_frame_size,
                                   .tp_frame_nr = ring->pdr_frame_nr,
                                   .tp_retire_blk_tov = ring->pdr_retire_tmo,
                                   .tp_sizeof_priv = ring->pdr_sizeof_priv,
                                   .tp_feature_req_word = ring->pdr_features};
    if (ring->pdr_block_nr == 0)
        return 0;
    int version = TPACKET_V1;
    socklen_t length = sizeof version;
    getsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, &length);
    length = version == TPACKET_V3 ? sizeof request : sizeof(struct tpacket_req);
    return setsockopt(fd, SOL_PACKET, option, &request, length) < 0 ? -errno : 0;
}

int packet_facts_apply(const struct object_view *view, size_t offset, int fd, struct reseat_error **ret_error)
{
    struct packet_facts facts;
    memcpy(&facts, view->state + offset, sizeof facts);
    for (size_t i = 0; i < facts.membership_count; i++) {
        struct packet_membership row;
        memcpy(&row, view->state + offset + sizeof facts + i * sizeof row, sizeof row);
        int r = join(fd, &row);
        if (r < 0)
            return error_errno(ret_error, r, "listening to the addresses that it listened to on %s",
                               row.interface);
    }
    int threshold = (int)facts.copy_threshold;
    if (threshold)
        setsockopt(fd, SOL_PACKET, PACKET_COPY_THRESH, &threshold, sizeof threshold);
    int r = make_ring(fd, PACKET_RX_RING, &facts.receive);
    if (r == 0)
        r = make_ring(fd, PACKET_TX_RING, &facts.send);
    if (r < 0)
        return error_errno(ret_error, r, "making its rings");
    if (facts.has_fanout && setsockopt(fd, SOL_PACKET, PACKET_FANOUT, &facts.fanout, sizeof facts.fanout) < 0)
        return error_errno(ret_error, -errno, "joining those that share its packets");
    return 0;
}
