/* Between the end of a TCP socket and the making of its successor no packet of the connection may get
 * through: the kernel would answer that it knows no such connection, and the peer would give it up. A barrier
 * is a table of nf_tables (Linux 3.13, nfnetlink) for each of IPv4 and IPv6, with one rule a connection and
 * direction that drops. Tables do not end with who made them, which is what is wanted here, and they end with
 * the network namespace. What is dropped is sent again by TCP itself.
 *
 * nftables has no manual page of its own for this interface; messages are as in linux/netfilter/nf_tables.h,
 * sent as one batch that takes effect as a whole or not at all. */
#include "object/packet_barrier.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define REPLY_SECONDS  5
#define PRIORITY       (-400) /* before everything else that filters, NF_IP_PRI_RAW_BEFORE_DEFRAG is -450 */
#define MESSAGE_ROOM   1024   /* the largest, a rule, takes about 600 bytes */
#define MESSAGES_FIXED 8

/* A batch of messages that is being written. */
struct batch {
    uint8_t *bytes;
    size_t length, room;
    struct nlmsghdr *message; /* the one that is open */
    uint32_t sequence, answers;
};

/* ---- writing ---- */

static void *append(struct batch *batch, size_t length)
{
    void *place = batch->bytes + batch->length;
    memset(place, 0, NLMSG_ALIGN(length));
    batch->length += NLMSG_ALIGN(length);
    return place;
}

static void begin_message(struct batch *batch, int type, int flags, uint8_t family, uint16_t resource)
{
    struct nlmsghdr *header = append(batch, sizeof *header);
    *header = (struct nlmsghdr){.nlmsg_type = (uint16_t)type,
                                .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags),
                                .nlmsg_seq = ++batch->sequence};
    struct nfgenmsg *body = append(batch, sizeof *body);
    *body = (struct nfgenmsg){.nfgen_family = family, .version = NFNETLINK_V0, .res_id = resource};
    batch->message = header;
    batch->answers += (flags & NLM_F_ACK) != 0;
}

static void end_message(struct batch *batch)
{
    batch->message->nlmsg_len = (uint32_t)(batch->bytes + batch->length - (uint8_t *)batch->message);
}

static void begin_table_message(struct batch *batch, int type, int flags, uint8_t family)
{
    begin_message(batch, NFNL_SUBSYS_NFTABLES << 8 | type, NLM_F_ACK | flags, family, 0);
}

static void add(struct batch *batch, int type, const void *data, size_t length)
{
    struct nlattr *attribute = append(batch, NLA_HDRLEN + length);
    attribute->nla_type = (uint16_t)type;
    attribute->nla_len = (uint16_t)(NLA_HDRLEN + length);
    memcpy((uint8_t *)attribute + NLA_HDRLEN, data, length);
}

static void add_text(struct batch *batch, int type, const char *text)
{
    add(batch, type, text, strlen(text) + 1);
}

static void add_number(struct batch *batch, int type, uint32_t number)
{
    number = htonl(number);
    add(batch, type, &number, sizeof number);
}

static size_t begin_nest(struct batch *batch, int type)
{
    size_t start = batch->length;
    struct nlattr *attribute = append(batch, NLA_HDRLEN);
    attribute->nla_type = (uint16_t)(type | NLA_F_NESTED);
    return start;
}

static void end_nest(struct batch *batch, size_t start)
{
    ((struct nlattr *)(batch->bytes + start))->nla_len = (uint16_t)(batch->length - start);
}

/* ---- expressions: of a rule that is being written ---- */

struct expression {
    size_t element, data;
};

static struct expression begin_expression(struct batch *batch, const char *name)
{
    struct expression expression = {.element = begin_nest(batch, NFTA_LIST_ELEM)};
    add_text(batch, NFTA_EXPR_NAME, name);
    expression.data = begin_nest(batch, NFTA_EXPR_DATA);
    return expression;
}

static void end_expression(struct batch *batch, struct expression expression)
{
    end_nest(batch, expression.data);
    end_nest(batch, expression.element);
}

/* What the register holds must be this. */
static void expect(struct batch *batch, const void *value, size_t length)
{
    struct expression compare = begin_expression(batch, "cmp");
    add_number(batch, NFTA_CMP_SREG, NFT_REG_1);
    add_number(batch, NFTA_CMP_OP, NFT_CMP_EQ);
    size_t data = begin_nest(batch, NFTA_CMP_DATA);
    add(batch, NFTA_DATA_VALUE, value, length);
    end_nest(batch, data);
    end_expression(batch, compare);
}

static void expect_bytes(struct batch *batch, uint32_t base, uint32_t offset, const void *value,
                         size_t length)
{
    struct expression load = begin_expression(batch, "payload");
    add_number(batch, NFTA_PAYLOAD_DREG, NFT_REG_1);
    add_number(batch, NFTA_PAYLOAD_BASE, base);
    add_number(batch, NFTA_PAYLOAD_OFFSET, offset);
    add_number(batch, NFTA_PAYLOAD_LEN, (uint32_t)length);
    end_expression(batch, load);
    expect(batch, value, length);
}

static void expect_tcp(struct batch *batch)
{
    uint8_t protocol = IPPROTO_TCP;
    struct expression load = begin_expression(batch, "meta");
    add_number(batch, NFTA_META_DREG, NFT_REG_1);
    add_number(batch, NFTA_META_KEY, NFT_META_L4PROTO);
    end_expression(batch, load);
    expect(batch, &protocol, sizeof protocol);
}

static void drop(struct batch *batch)
{
    struct expression immediate = begin_expression(batch, "immediate");
    add_number(batch, NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    size_t data = begin_nest(batch, NFTA_IMMEDIATE_DATA);
    size_t verdict = begin_nest(batch, NFTA_DATA_VERDICT);
    add_number(batch, NFTA_VERDICT_CODE, NF_DROP);
    end_nest(batch, verdict);
    end_nest(batch, data);
    end_expression(batch, immediate);
}

/* ---- addresses ---- */

/* An end of a connection as it stands in packets. */
struct packet_end {
    uint8_t family; /* NFPROTO_IPV4, NFPROTO_IPV6 */
    uint8_t address[16];
    in_port_t port;
};

/* IPv4 in IPv6 clothes goes over the wire as IPv4. */
static struct packet_end end_of(const struct sockaddr_storage *name)
{
    struct packet_end end = {0};
    if (name->ss_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)name;
        end = (struct packet_end){.family = NFPROTO_IPV4, .port = v4->sin_port};
        memcpy(end.address, &v4->sin_addr, 4);
        return end;
    }
    const struct sockaddr_in6 *v6 = (const void *)name;
    bool is_mapped = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr);
    end.family = is_mapped ? NFPROTO_IPV4 : NFPROTO_IPV6;
    end.port = v6->sin6_port;
    memcpy(end.address, v6->sin6_addr.s6_addr + (is_mapped ? 12 : 0), is_mapped ? 4 : 16);
    return end;
}

/* ---- tables, chains, rules ---- */

static void add_chain(struct batch *batch, uint8_t family, const char *table, const char *name, uint32_t hook)
{
    begin_table_message(batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE, family);
    add_text(batch, NFTA_CHAIN_TABLE, table);
    add_text(batch, NFTA_CHAIN_NAME, name);
    size_t nest = begin_nest(batch, NFTA_CHAIN_HOOK);
    add_number(batch, NFTA_HOOK_HOOKNUM, hook);
    add_number(batch, NFTA_HOOK_PRIORITY, (uint32_t)PRIORITY);
    end_nest(batch, nest);
    add_text(batch, NFTA_CHAIN_TYPE, "filter");
    end_message(batch);
}

static void add_table(struct batch *batch, uint8_t family, const char *name)
{
    begin_table_message(batch, NFT_MSG_NEWTABLE, NLM_F_CREATE, family);
    add_text(batch, NFTA_TABLE_NAME, name);
    end_message(batch);
    add_chain(batch, family, name, "in", NF_INET_LOCAL_IN);
    add_chain(batch, family, name, "out", NF_INET_LOCAL_OUT);
}

static void add_rule(struct batch *batch, const char *table, const char *chain, const struct packet_end *from,
                     const struct packet_end *to)
{
    bool is_v4 = from->family == NFPROTO_IPV4;
    size_t length = is_v4 ? 4 : 16;
    uint32_t offset =
        is_v4 ? 12 : 8; /* of the sender's address in the header, that of the receiver follows */
    in_port_t ports[2] = {from->port, to->port};
    begin_table_message(batch, NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, from->family);
    add_text(batch, NFTA_RULE_TABLE, table);
    add_text(batch, NFTA_RULE_CHAIN, chain);
    size_t list = begin_nest(batch, NFTA_RULE_EXPRESSIONS);
    expect_tcp(batch);
    expect_bytes(batch, NFT_PAYLOAD_NETWORK_HEADER, offset, from->address, length);
    expect_bytes(batch, NFT_PAYLOAD_NETWORK_HEADER, offset + (uint32_t)length, to->address, length);
    expect_bytes(batch, NFT_PAYLOAD_TRANSPORT_HEADER, 0, ports, sizeof ports);
    drop(batch);
    end_nest(batch, list);
    end_message(batch);
}

/* ---- sending ---- */

static int batch_begin(struct batch *batch, size_t messages)
{
    batch->room = (messages + 2) * MESSAGE_ROOM;
    batch->bytes = malloc(batch->room);
    if (!batch->bytes)
        return -ENOMEM;
    begin_message(batch, NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, htons(NFNL_SUBSYS_NFTABLES));
    end_message(batch);
    return 0;
}

static void batch_free(struct batch *batch)
{
    free(batch->bytes);
}

/* Reads answers until all have come; yields the first error. */
static int read_answers(int netlink_fd, uint32_t expected)
{
    uint8_t *reply = malloc(MESSAGE_ROOM * 64);
    int result = reply ? 0 : -ENOMEM;
    while (reply && expected > 0 && result == 0) {
        ssize_t n = recv(netlink_fd, reply, MESSAGE_ROOM * 64, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            result = -errno;
        size_t rest = n < 0 ? 0 : (size_t)n;
        for (const struct nlmsghdr *m = (const void *)reply; NLMSG_OK(m, rest); m = NLMSG_NEXT(m, rest)) {
            if (m->nlmsg_type != NLMSG_ERROR || m->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr)))
                continue;
            const struct nlmsgerr *answer = NLMSG_DATA(m);
            result = result ? result : answer->error;
            expected--;
        }
    }
    free(reply);
    return result;
}

static int batch_send(struct batch *batch)
{
    begin_message(batch, NFNL_MSG_BATCH_END, 0, AF_UNSPEC, htons(NFNL_SUBSYS_NFTABLES));
    end_message(batch);
    struct timeval patience = {.tv_sec = REPLY_SECONDS};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    _cleanup_close_ int netlink_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
    if (netlink_fd < 0)
        return errno == EPROTONOSUPPORT ? -EOPNOTSUPP : -errno;
    int size = (int)(batch->room + MESSAGE_ROOM);
    setsockopt(netlink_fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    setsockopt(netlink_fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(netlink_fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (sendto(netlink_fd, batch->bytes, batch->length, 0, (struct sockaddr *)&kernel, sizeof kernel) < 0)
        return -errno;
    return read_answers(netlink_fd, batch->answers);
}

int packet_barrier_make(const char *name, const struct packet_connection *connections, size_t count)
{
    _cleanup_(batch_free) struct batch batch = {0};
    int r = batch_begin(&batch, MESSAGES_FIXED + 2 * count);
    if (r < 0)
        return r;
    add_table(&batch, NFPROTO_IPV4, name);
    add_table(&batch, NFPROTO_IPV6, name);
    for (size_t i = 0; i < count; i++) {
        struct packet_end local = end_of(&connections[i].local), peer = end_of(&connections[i].peer);
        add_rule(&batch, name, "in", &peer, &local);
        add_rule(&batch, name, "out", &local, &peer);
    }
    return batch_send(&batch);
}

static int remove_table(uint8_t family, const char *name)
{
    _cleanup_(batch_free) struct batch batch = {0};
    int r = batch_begin(&batch, MESSAGES_FIXED);
    if (r < 0)
        return r;
    begin_table_message(&batch, NFT_MSG_DELTABLE, 0, family);
    add_text(&batch, NFTA_TABLE_NAME, name);
    end_message(&batch);
    r = batch_send(&batch);
    return r == -ENOENT || r == -EOPNOTSUPP ? 0 : r;
}

int packet_barrier_remove(const char *name)
{
    int r = remove_table(NFPROTO_IPV4, name), r6 = remove_table(NFPROTO_IPV6, name);
    return r < 0 ? r : r6;
}
