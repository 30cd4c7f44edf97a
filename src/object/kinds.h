/* The kinds, for kinds.c to list and for their own files to share helpers. Private to the object room. */
#pragma once

#include "object/object.h"

#include <string.h>

/* One line per kind; the order in which they are asked is that of the list in kinds.c. */
extern const struct object_kind kind_path, kind_directory, kind_file, kind_device, kind_terminal;
extern const struct object_kind kind_pipe, kind_fifo, kind_mqueue, kind_memfd, kind_secretmem, kind_dmabuf;
extern const struct object_kind kind_unix, kind_tcp, kind_mptcp, kind_sctp, kind_udp, kind_ping, kind_raw;
extern const struct object_kind kind_netlink, kind_packet, kind_vsock, kind_alg, kind_socket;
extern const struct object_kind kind_eventfd, kind_timerfd, kind_signalfd, kind_epoll, kind_inotify;
extern const struct object_kind kind_fanotify, kind_pidfd, kind_namespace, kind_io_uring, kind_bpf, kind_perf;
extern const struct object_kind kind_userfaultfd, kind_kvm, kind_anonymous;

/* How those that can be made anew are: kinds/NAME_durable.c. */
extern const struct object_durable file_durable, device_durable, pipe_durable, fifo_durable;
extern const struct object_durable eventfd_durable, timerfd_durable, signalfd_durable, epoll_durable;
extern const struct object_durable memfd_durable, pidfd_durable, namespace_durable, inotify_durable;
extern const struct object_durable mqueue_durable, unix_durable, inet_durable, tcp_durable, netlink_durable;
extern const struct object_durable packet_durable, terminal_durable;

/* Name from a format: 0 or -ENOMEM. */
int describe_as(char **ret_name, const char *format, ...) _printf_(2, 3);
/* "read end", "write end", "both ends" of something with two ends. */
const char *describe_ends(unsigned flags);

static inline bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static inline bool link_is_path(const struct object_sight *sight)
{
    return sight->link[0] == '/';
}

/* The file of an object that has a name only in parentheses after it was removed, or never had one. */
static inline bool link_is_deleted(const struct object_sight *sight)
{
    static const char suffix[] = " (deleted)";
    size_t length = strlen(sight->link);
    return length >= sizeof suffix && strcmp(sight->link + length - (sizeof suffix - 1), suffix) == 0;
}

/* The link without what the kernel puts behind the name of a file that was removed: its length. */
static inline size_t link_length_of_name(const struct object_sight *sight)
{
    static const char suffix[] = " (deleted)";
    return strlen(sight->link) - (link_is_deleted(sight) ? sizeof suffix - 1 : 0);
}

/* ---- unix_peers.c ---- */

/* Inode of the socket at the other end of unix socket `inode`; 0: none, or not to be found out. `cap` is any
 * socket of the same network namespace. */
uint64_t unix_peer_inode(struct object_table *table, native_cap_t cap, uint64_t inode);
void unix_peers_free(struct unix_peers **peers);
