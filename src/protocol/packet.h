/* How messages of the protocol travel on Linux: one packet of a SOCK_SEQPACKET unix socket each, with the
 * capabilities as descriptors beside it. For core and client alike. Rests on unix(7), SCM_RIGHTS. */
#pragma once

#include "base/base.h"
#include "protocol/protocol.h"

/* A packet as it came. Its descriptors belong to it. */
struct packet {
    _Alignas(8) uint8_t bytes[PROTOCOL_MESSAGE_BYTES];
    size_t length;
    int caps[PROTOCOL_CAPABILITIES_MAX];
    size_t cap_count;
    /* Who sent it, as the kernel says if the receiver has asked for it (SO_PASSCRED); 0, -1: it does not. */
    pid_t sender;
    uid_t sender_user;
};

/* Without waiting unless `flags` says so (0 or MSG_DONTWAIT). 0, or a negative errno: -EAGAIN, -EPIPE,
 * -EINVAL: one of the descriptors cannot be sent. */
int packet_send(int socket, const void *bytes, size_t length, const int *caps, size_t cap_count, int flags);
/* The same for a message in pieces. */
struct iovec;
int packet_send_pieces(int socket, const struct iovec *pieces, size_t piece_count, const int *caps,
                       size_t cap_count, int flags);
/* Takes the next packet. 1: there is one; 0: the other end is closed, and none is left. -EMSGSIZE: it was
 * longer than a message may be; -EMFILE: there was no room for its descriptors; both have consumed it, and
 * hold nothing. -EAGAIN. */
int packet_receive(int socket, struct packet *ret_packet, int flags);
/* Closes the descriptors; cleanup function. The struct may be used again. */
void packet_end(struct packet *packet);
/* Hands out descriptor `index`, once. */
int packet_take(struct packet *packet, size_t index);

/* Whether a socket takes it: not io_uring's descriptors. */
bool packet_takes(int cap);

#define PACKET_PATH_BYTES 108 /* of an address, unix(7) */

/* Where core usually listens: /run/reseat/core, or for an ordinary user's own core (`is_core`)
 * $XDG_RUNTIME_DIR/reseat-core. A client takes $RESEAT_CORE, the user's own if it is there, root's. -ENOENT:
 * there is no XDG_RUNTIME_DIR; -ENAMETOOLONG. */
int packet_usual_path(char ret_path[static PACKET_PATH_BYTES], bool is_core);
