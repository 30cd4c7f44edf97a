/* Sockets of the internet families, ip(7), tcp(7), udp(7), raw(7): named by their two addresses. */
#include "object/kinds.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

union inet_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
    struct sockaddr_storage room;
};

#define ADDRESS_TEXT_BYTES (INET6_ADDRSTRLEN + sizeof "[%4294967295]:65535")

static bool is_inet(const struct object_sight *sight)
{
    return sight->domain == AF_INET || sight->domain == AF_INET6;
}

static bool is_protocol(const struct object_sight *sight, int protocol)
{
    return is_inet(sight) && sight->protocol == protocol && sight->type != SOCK_RAW;
}

static bool match_tcp(const struct object_sight *sight)
{
    return is_protocol(sight, IPPROTO_TCP);
}

static bool match_mptcp(const struct object_sight *sight)
{
    return is_protocol(sight, IPPROTO_MPTCP);
}

static bool match_sctp(const struct object_sight *sight)
{
    return is_protocol(sight, IPPROTO_SCTP);
}

static bool match_udp(const struct object_sight *sight)
{
    return is_protocol(sight, IPPROTO_UDP) || is_protocol(sight, IPPROTO_UDPLITE);
}

/* Echo requests without the right to raw sockets, icmp(7). */
static bool match_ping(const struct object_sight *sight)
{
    return is_protocol(sight, IPPROTO_ICMP) || is_protocol(sight, IPPROTO_ICMPV6);
}

static bool match_raw(const struct object_sight *sight)
{
    return is_inet(sight) && sight->type == SOCK_RAW;
}

static unsigned port_of(const union inet_address *address)
{
    return ntohs(address->any.sa_family == AF_INET6 ? address->v6.sin6_port : address->v4.sin_port);
}

/* "127.0.0.1", "[fe80::1%2]" */
static void print_host(const union inet_address *address, char text[static ADDRESS_TEXT_BYTES])
{
    char host[INET6_ADDRSTRLEN] = "?";
    if (address->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &address->v4.sin_addr, host, sizeof host);
        snprintf(text, ADDRESS_TEXT_BYTES, "%s", host);
        return;
    }
    inet_ntop(AF_INET6, &address->v6.sin6_addr, host, sizeof host);
    if (address->v6.sin6_scope_id)
        snprintf(text, ADDRESS_TEXT_BYTES, "[%s%%%u]", host, address->v6.sin6_scope_id);
    else
        snprintf(text, ADDRESS_TEXT_BYTES, "[%s]", host);
}

static void print_address(const union inet_address *address, char text[static ADDRESS_TEXT_BYTES])
{
    print_host(address, text);
    size_t length = strlen(text);
    snprintf(text + length, ADDRESS_TEXT_BYTES - length, ":%u", port_of(address));
}

static void unmap_v4(union inet_address *address)
{
    if (address->any.sa_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&address->v6.sin6_addr))
        return;
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = address->v6.sin6_port};
    memcpy(&v4.sin_addr, &address->v6.sin6_addr.s6_addr[12], sizeof v4.sin_addr);
    address->v4 = v4;
}

static bool is_listening(native_cap_t cap)
{
    int value = 0;
    socklen_t length = sizeof value;
    return getsockopt(cap, SOL_SOCKET, SO_ACCEPTCONN, &value, &length) == 0 && value;
}

static int describe_inet(const struct object_sight *sight, char **ret_name)
{
    union inet_address local, peer;
    socklen_t local_length = sizeof local, peer_length = sizeof peer;
    char local_text[ADDRESS_TEXT_BYTES], peer_text[ADDRESS_TEXT_BYTES];
    if (getsockname(sight->cap, &local.any, &local_length) < 0)
        return describe_as(ret_name, "%s", sight->link);
    print_address(&local, local_text);
    if (is_listening(sight->cap))
        return describe_as(ret_name, "listening on %s", local_text);
    if (getpeername(sight->cap, &peer.any, &peer_length) == 0) {
        print_address(&peer, peer_text);
        return describe_as(ret_name, "%s -> %s", local_text, peer_text);
    }
    if (port_of(&local) == 0)
        return describe_as(ret_name, "not bound");
    return describe_as(ret_name, sight->type == SOCK_STREAM ? "%s, not connected" : "%s", local_text);
}

/* Raw sockets have a protocol where others have ports. */
static int describe_raw(const struct object_sight *sight, char **ret_name)
{
    union inet_address local, peer;
    socklen_t local_length = sizeof local, peer_length = sizeof peer;
    char local_text[ADDRESS_TEXT_BYTES], peer_text[ADDRESS_TEXT_BYTES];
    if (getsockname(sight->cap, &local.any, &local_length) < 0)
        return describe_as(ret_name, "protocol %d", sight->protocol);
    print_host(&local, local_text);
    if (getpeername(sight->cap, &peer.any, &peer_length) < 0)
        return describe_as(ret_name, "protocol %d on %s", sight->protocol, local_text);
    print_host(&peer, peer_text);
    return describe_as(ret_name, "protocol %d, %s -> %s", sight->protocol, local_text, peer_text);
}

/* Both ends are on this machine if another socket of the same network namespace has the same two addresses
 * the other way round. An IPv4 address in IPv6 clothes is the IPv4 address. */
static void find_inet_end(const struct object_sight *sight, struct object_end *ret_end)
{
    union inet_address local, peer;
    socklen_t local_length = sizeof local, peer_length = sizeof peer, cookie_length = sizeof(uint64_t);
    char texts[2][ADDRESS_TEXT_BYTES];
    uint64_t cookie = 0;
    if (getsockname(sight->cap, &local.any, &local_length) < 0 ||
        getpeername(sight->cap, &peer.any, &peer_length) < 0 ||
        getsockopt(sight->cap, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &cookie_length) < 0)
        return;
    unmap_v4(&local);
    unmap_v4(&peer);
    print_address(&local, texts[0]);
    print_address(&peer, texts[1]);
    bool is_first = strcmp(texts[0], texts[1]) < 0;
    snprintf(ret_end->key, sizeof ret_end->key, "tcp %llu %s %s", (unsigned long long)cookie,
             texts[is_first ? 0 : 1], texts[is_first ? 1 : 0]);
    ret_end->side = is_first ? 1 : 2;
    ret_end->other_link = "socket:[";
}

const struct object_kind kind_tcp = {.name = "tcp",
                                     .match = match_tcp,
                                     .describe = describe_inet,
                                     .find_end = find_inet_end,
                                     .durable = &tcp_durable};
const struct object_kind kind_mptcp = {.name = "mptcp", .match = match_mptcp, .describe = describe_inet};
const struct object_kind kind_sctp = {.name = "sctp", .match = match_sctp, .describe = describe_inet};
const struct object_kind kind_udp = {.name = "udp",
                                     .match = match_udp,
                                     .describe = describe_inet,
                                     .durable = &inet_durable};
const struct object_kind kind_ping = {.name = "ping",
                                      .match = match_ping,
                                      .describe = describe_inet,
                                      .durable = &inet_durable};
const struct object_kind kind_raw = {.name = "raw",
                                     .match = match_raw,
                                     .describe = describe_raw,
                                     .durable = &inet_durable};
