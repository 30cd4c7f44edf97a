/* Netlink and packet sockets in a durable image, netlink(7), packet(7): bound again, with options, filter and
 * groups; what else packet sockets have: socket_packet.c. What waits to be read is the kernel's answer to a
 * question or an event of then, and is lost. */
#include "object/kinds.h"
#include "object/kinds/socket_packet.h"
#include "object/socket_filter.h"
#include "object/socket_options.h"

#include <errno.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#ifndef SO_MEMINFO
#define SO_MEMINFO 55
#endif
#ifndef SOL_NETLINK
#define SOL_NETLINK 270
#endif
#define GROUP_WORDS 32

struct link_state {
    uint32_t domain, type, protocol;
    uint32_t port; /* netlink: nl_pid */
    uint32_t is_bound;
    uint32_t groups[GROUP_WORDS]; /* netlink: one bit each, from 1 */
    union {
        char interface[IFNAMSIZ]; /* packet */
        struct {
            uint32_t port, groups;
        } peer; /* netlink: whom it is connected to; zeros: nobody, or the kernel */
    };
    uint32_t option_count, filter_count;
    uint32_t has_facts; /* packet: what socket_packet.c knows stands behind all */
};

/* ---- capture ---- */

static int capture_common(struct object_capture *capture, struct link_state *state)
{
    uint32_t memory[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof memory;
    state->domain = (uint32_t)capture->sight->domain;
    state->type = (uint32_t)capture->sight->type;
    state->protocol = (uint32_t)capture->sight->protocol;
    int r = state_add(capture, state, sizeof *state);
    if (r == 0)
        r = socket_options_capture(capture, &state->option_count);
    if (r == 0)
        r = socket_filter_capture(capture, &state->filter_count);
    if (r == 0 && getsockopt(capture->cap, SOL_SOCKET, SO_MEMINFO, memory, &length) == 0 &&
        memory[SK_MEMINFO_RMEM_ALLOC] > 0)
        r = capture_degraded(capture, "messages wait to be read and will be lost");
    return r;
}

static int capture_netlink(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct link_state state = {0};
    struct sockaddr_nl address = {0}, peer = {0};
    socklen_t length = sizeof address, peer_length = sizeof peer, groups_length = sizeof state.groups;
    if (getsockname(capture->cap, (struct sockaddr *)&address, &length) == 0) {
        state.port = address.nl_pid;
        state.is_bound = address.nl_pid != 0;
        state.groups[0] = address.nl_groups;
    }
    if (getpeername(capture->cap, (struct sockaddr *)&peer, &peer_length) == 0) {
        state.peer.port = peer.nl_pid;
        state.peer.groups = peer.nl_groups;
    }
    getsockopt(capture->cap, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, state.groups, &groups_length);
    int r = capture_common(capture, &state);
    if (r == 0)
        memcpy(capture->state, &state, sizeof state);
    return r;
}

/* The old kind (SOCK_PACKET) has the name of its interface for an address. */
static void read_interface(struct object_capture *capture, struct link_state *state)
{
    union {
        struct sockaddr any;
        struct sockaddr_ll link;
    } address = {0};
    socklen_t length = sizeof address;
    if (getsockname(capture->cap, &address.any, &length) < 0)
        return;
    if (capture->sight->type == SOCK_PACKET) {
        snprintf(state->interface, sizeof state->interface, "%.*s", (int)sizeof address.any.sa_data,
                 address.any.sa_data);
        state->is_bound = state->interface[0] != '\0';
        return;
    }
    state->is_bound = address.link.sll_ifindex != 0;
    state->protocol = ntohs(address.link.sll_protocol);
    if (state->is_bound && !if_indextoname((unsigned)address.link.sll_ifindex, state->interface))
        state->interface[0] = '\0';
}

static int capture_packet(struct object_capture *capture, struct reseat_error **ret_error)
{
    (void)ret_error;
    struct link_state state = {0};
    int r = capture_common(capture, &state);
    read_interface(capture, &state);
    if (r == 0) {
        r = packet_facts_add(capture, &state.protocol);
        state.has_facts = r == 0;
    }
    if (capture->state && capture->length >= sizeof state)
        memcpy(capture->state, &state, sizeof state);
    if (r == -ENOMEM || state.has_facts)
        return r;
    return capture_degraded(capture, "which addresses it listens to and whether it has a ring cannot be "
                                     "found out (another network namespace, or no CONFIG_PACKET_DIAG): it "
                                     "comes back without");
}

/* ---- check ---- */

static struct link_state state_of(const struct object_view *view)
{
    struct link_state state;
    view_read(view, &state, sizeof state);
    return state;
}

static size_t filter_offset(const struct link_state *state)
{
    return sizeof *state + state->option_count * sizeof(struct socket_option);
}

static size_t facts_offset(const struct link_state *state)
{
    return filter_offset(state) + state->filter_count * (size_t)SOCKET_FILTER_BYTES;
}

static int check_link(const struct object_view *view, struct reseat_error **ret_error)
{
    struct link_state state = state_of(view);
    if (state.domain != AF_NETLINK && state.domain != AF_PACKET)
        return view_bad(view, ret_error, "family %u", state.domain);
    if (state.domain == AF_PACKET && !memchr(state.interface, '\0', sizeof state.interface))
        return view_bad(view, ret_error, "the name of its interface does not end");
    int r = socket_options_check(view, sizeof state, state.option_count, ret_error);
    if (r == 0)
        r = socket_filter_check(view, filter_offset(&state), state.filter_count, ret_error);
    if (r == 0 && state.domain == AF_PACKET && state.has_facts)
        r = packet_facts_check(view, facts_offset(&state), ret_error);
    return r;
}

/* ---- recreate ---- */

static int bind_netlink(const struct link_state *state, int fd)
{
    struct sockaddr_nl address = {.nl_family = AF_NETLINK, .nl_pid = state->port};
    /* A port is only a number to tell sockets apart; one that is taken is replaced by another. */
    if (state->is_bound && bind(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        address.nl_pid = 0;
        if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0)
            return -errno;
    }
    for (int group = 1; group <= GROUP_WORDS * 32; group++)
        if ((state->groups[(group - 1) / 32] >> (group - 1) % 32 & 1) &&
            setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) < 0)
            return -errno;
    struct sockaddr_nl peer = {.nl_family = AF_NETLINK,
                               .nl_pid = state->peer.port,
                               .nl_groups = state->peer.groups};
    bool is_connected = peer.nl_pid || peer.nl_groups;
    return is_connected && connect(fd, (struct sockaddr *)&peer, sizeof peer) < 0 ? -errno : 0;
}

static int bind_packet(const struct link_state *state, int fd)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons((uint16_t)state->protocol)};
    if (!state->is_bound)
        return 0;
    if (state->type == SOCK_PACKET) {
        struct sockaddr by_name = {.sa_family = AF_PACKET};
        memcpy(by_name.sa_data, state->interface, sizeof by_name.sa_data);
        return bind(fd, &by_name, sizeof by_name) < 0 ? -errno : 0;
    }
    address.sll_ifindex = (int)if_nametoindex(state->interface);
    if (address.sll_ifindex == 0)
        return -ENODEV;
    return bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

static int recreate_link(struct object_making *making, const struct object_view *view,
                         struct reseat_error **ret_error)
{
    struct link_state state = state_of(view);
    bool is_netlink = state.domain == AF_NETLINK;
    uint32_t protocol = is_netlink ? state.protocol : htons((uint16_t)state.protocol);
    int fd = socket((int)state.domain, (int)state.type | SOCK_CLOEXEC, (int)protocol);
    if (fd < 0)
        return error_errno(ret_error, -errno, "making a socket of family %u, protocol %u", state.domain,
                           state.protocol);
    making_put(making, view_id(view), fd);
    int r = socket_options_apply(view, sizeof state, state.option_count, fd, ret_error);
    if (r < 0)
        return r;
    r = socket_filter_attach(view, filter_offset(&state), state.filter_count, fd);
    if (r == 0)
        r = is_netlink ? bind_netlink(&state, fd) : bind_packet(&state, fd);
    if (r < 0)
        return error_errno(ret_error, r, "binding or connecting it");
    return !is_netlink && state.has_facts ? packet_facts_apply(view, facts_offset(&state), fd, ret_error) : 0;
}

static int finish_link(struct object_making *making, const struct object_view *view, native_cap_t cap,
                       struct reseat_error **ret_error)
{
    (void)making, (void)ret_error;
    struct link_state state = state_of(view);
    socket_options_finish(view, sizeof state, state.option_count, cap);
    return making_set_flags(cap, view->row->status_flags);
}

const struct object_durable netlink_durable = {
    .state_bytes = sizeof(struct link_state),
    .capture = capture_netlink,
    .check = check_link,
    .recreate = recreate_link,
    .finish = finish_link,
};
const struct object_durable packet_durable = {
    .state_bytes = sizeof(struct link_state),
    .capture = capture_packet,
    .check = check_link,
    .recreate = recreate_link,
    .finish = finish_link,
};
