/* The durable half of the object room: packet sockets. In a network namespace of its own, whose only
 * interface is the loopback. See test_object_durable.c. */
#include "test_object_durable.h"

#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define LOOPBACK   1
#define GROUP      13
#define RING_BYTES 4096

static void set_packet_option(int selector, int option, int value)
{
    MUST(setsockopt(selector, SOL_PACKET, option, &value, sizeof value));
}

static int packet_option(int selector, int option)
{
    int value = -1;
    socklen_t length = sizeof value;
    MUST(getsockopt(selector, SOL_PACKET, option, &value, &length));
    return value;
}

static int change_membership(int selector, int option, unsigned short type, unsigned char last)
{
    struct packet_mreq membership = {.mr_ifindex = LOOPBACK, .mr_type = type};
    if (type != PACKET_MR_PROMISC)
        membership.mr_alen = 6;
    membership.mr_address[5] = last;
    return setsockopt(selector, SOL_PACKET, option, &membership, sizeof membership);
}

/* Dropping a membership that there is not is no error: the interface has to be asked. The loopback takes
 * everything for one more address, too. */
static bool is_promiscuous(int times)
{
    char command[80];
    snprintf(command, sizeof command, "ip -d link show lo | grep -q 'promiscuity %d '", times);
    return system(command) == 0;
}

static void set_up_packets(void)
{
    struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                  .sll_protocol = htons(ETH_P_IP),
                                  .sll_ifindex = LOOPBACK};
    struct sockaddr by_name = {.sa_family = AF_PACKET, .sa_data = "lo"};
    struct tpacket_req ring = {.tp_block_size = RING_BYTES,
                               .tp_block_nr = 1,
                               .tp_frame_size = 1024,
                               .tp_frame_nr = 4};
    put_at(20, MUST(socket(AF_PACKET, SOCK_RAW, 0)));
    set_packet_option(20, PACKET_VERSION, TPACKET_V2);
    set_packet_option(20, PACKET_AUXDATA, 1);
    MUST(change_membership(20, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, 0));
    MUST(change_membership(20, PACKET_ADD_MEMBERSHIP, PACKET_MR_PROMISC, 0));
    MUST(setsockopt(20, SOL_PACKET, PACKET_RX_RING, &ring, sizeof ring));
    put_at(21, MUST(socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP))));
    MUST(bind(21, (struct sockaddr *)&address, sizeof address));
    set_packet_option(21, PACKET_RESERVE, 8);
    set_packet_option(21, PACKET_ORIGDEV, 1);
    set_packet_option(21, PACKET_FANOUT, GROUP);
    MUST(change_membership(21, PACKET_ADD_MEMBERSHIP, PACKET_MR_UNICAST, 7));
    put_at(22, MUST(socket(AF_PACKET, SOCK_PACKET, htons(ETH_P_ARP))));
    MUST(bind(22, &by_name, sizeof by_name));
}

static void look_at_packets(void)
{
    struct sockaddr_ll address;
    struct sockaddr by_name;
    socklen_t length = sizeof address, name_length = sizeof by_name;
    EXPECT(packet_option(20, PACKET_VERSION) == TPACKET_V2 && packet_option(20, PACKET_AUXDATA) == 1);
    EXPECT(packet_option(20, PACKET_FANOUT) == 0);
    MUST(change_membership(20, PACKET_DROP_MEMBERSHIP, PACKET_MR_PROMISC, 0));
    EXPECT(is_promiscuous(2)); /* it was asked for twice */
    MUST(change_membership(20, PACKET_DROP_MEMBERSHIP, PACKET_MR_PROMISC, 0));
    EXPECT(is_promiscuous(1));
    MUST(change_membership(21, PACKET_DROP_MEMBERSHIP, PACKET_MR_UNICAST, 7));
    EXPECT(is_promiscuous(0));
    EXPECT(mmap(NULL, RING_BYTES, PROT_READ, MAP_SHARED, 20, 0) != MAP_FAILED);
    EXPECT(mmap(NULL, 2 * RING_BYTES, PROT_READ, MAP_SHARED, 20, 0) == MAP_FAILED);
    MUST(getsockname(21, (struct sockaddr *)&address, &length));
    EXPECT(address.sll_ifindex == LOOPBACK && address.sll_protocol == htons(ETH_P_IP));
    EXPECT(packet_option(21, PACKET_RESERVE) == 8 && packet_option(21, PACKET_ORIGDEV) == 1);
    EXPECT((packet_option(21, PACKET_FANOUT) & 0xffff) == GROUP);
    MUST(getsockname(22, &by_name, &name_length));
    EXPECT(strcmp(by_name.sa_data, "lo") == 0);
    EXPECT(mmap(NULL, RING_BYTES, PROT_READ, MAP_SHARED, 21, 0) == MAP_FAILED);
}

static void test_packets(void **state)
{
    (void)state;
    expect_recreated(set_up_packets, look_at_packets);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packets),
    };
    return cmocka_run_group_tests(tests, enter_namespace, NULL);
}
