/* The other families of sockets: netlink(7), packet(7), vsock(7), the kernel's ciphers (AF_ALG), and whatever
 * else there is, named by its numbers. Reads no more of an address than the kernel has filled in. */
#include "object/kinds.h"

#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <linux/vm_sockets.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define INTERFACE_TEXT_BYTES 32

static bool match_netlink(const struct object_sight *sight)
{
    return sight->domain == AF_NETLINK;
}

static bool match_packet(const struct object_sight *sight)
{
    return sight->domain == AF_PACKET;
}

static bool match_vsock(const struct object_sight *sight)
{
    return sight->domain == AF_VSOCK;
}

static bool match_alg(const struct object_sight *sight)
{
    return sight->domain == AF_ALG;
}

static bool match_socket(const struct object_sight *sight)
{
    return starts_with(sight->link, "socket:[");
}

static bool read_address(native_cap_t cap, void *address, socklen_t size)
{
    socklen_t length = size;
    return getsockname(cap, address, &length) == 0 && length >= size;
}

static const char *netlink_name(int protocol)
{
    switch (protocol) {
    case NETLINK_ROUTE:
        return "route";
    case NETLINK_SOCK_DIAG:
        return "sock_diag";
    case NETLINK_XFRM:
        return "xfrm";
    case NETLINK_SELINUX:
        return "selinux";
    case NETLINK_AUDIT:
        return "audit";
    case NETLINK_CONNECTOR:
        return "connector";
    case NETLINK_NETFILTER:
        return "netfilter";
    case NETLINK_KOBJECT_UEVENT:
        return "uevent";
    case NETLINK_GENERIC:
        return "generic";
    case NETLINK_CRYPTO:
        return "crypto";
    default:
        return NULL;
    }
}

static int describe_netlink(const struct object_sight *sight, char **ret_name)
{
    char number[24];
    snprintf(number, sizeof number, "protocol %d", sight->protocol);
    const char *protocol = netlink_name(sight->protocol);
    struct sockaddr_nl address;
    if (!read_address(sight->cap, &address, sizeof address))
        return describe_as(ret_name, "%s", protocol ? protocol : number);
    char groups[32] = "";
    if (address.nl_groups)
        snprintf(groups, sizeof groups, ", groups 0x%x", address.nl_groups);
    return describe_as(ret_name, "%s, port %u%s", protocol ? protocol : number, address.nl_pid, groups);
}

/* The interface is one of the socket's network namespace: its name is asked for through the socket. */
static void read_interface_name(native_cap_t cap, int index, char name[static INTERFACE_TEXT_BYTES])
{
    struct ifreq request = {.ifr_ifindex = index};
    if (index == 0)
        snprintf(name, INTERFACE_TEXT_BYTES, "all interfaces");
    else if (ioctl(cap, SIOCGIFNAME, &request) < 0)
        snprintf(name, INTERFACE_TEXT_BYTES, "interface %d", index);
    else
        snprintf(name, INTERFACE_TEXT_BYTES, "%.*s", (int)sizeof request.ifr_name, request.ifr_name);
}

static int describe_packet(const struct object_sight *sight, char **ret_name)
{
    struct sockaddr_ll address;
    /* The kernel gives as much as the hardware address is long. */
    if (!read_address(sight->cap, &address, offsetof(struct sockaddr_ll, sll_addr)))
        return describe_as(ret_name, "%s", sight->link);
    char interface[INTERFACE_TEXT_BYTES];
    read_interface_name(sight->cap, address.sll_ifindex, interface);
    return describe_as(ret_name, "protocol 0x%04x on %s", ntohs(address.sll_protocol), interface);
}

static int describe_vsock(const struct object_sight *sight, char **ret_name)
{
    struct sockaddr_vm address;
    if (!read_address(sight->cap, &address, sizeof address))
        return describe_as(ret_name, "%s", sight->link);
    return describe_as(ret_name, "context %u, port %u", address.svm_cid, address.svm_port);
}

/* One that is bound tells what to by no call. */
static int describe_alg(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%s", sight->link);
}

static int describe_socket(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "family %d, type %d, protocol %d", sight->domain, sight->type,
                       sight->protocol);
}

const struct object_kind kind_netlink = {.name = "netlink",
                                         .match = match_netlink,
                                         .describe = describe_netlink,
                                         .durable = &netlink_durable};
const struct object_kind kind_packet = {.name = "packet",
                                        .match = match_packet,
                                        .describe = describe_packet,
                                        .durable = &packet_durable};
const struct object_kind kind_vsock = {.name = "vsock", .match = match_vsock, .describe = describe_vsock};
const struct object_kind kind_alg = {.name = "alg", .match = match_alg, .describe = describe_alg};
const struct object_kind kind_socket = {.name = "socket", .match = match_socket, .describe = describe_socket};
