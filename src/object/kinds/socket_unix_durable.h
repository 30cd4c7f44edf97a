/* The state of a unix socket in an image, for the files that write and read it. */
#pragma once

#include "object/durable.h"
#include "object/socket_options.h"

#include <sys/un.h>

enum unix_flags {
    UNIX_LISTENING = 1 << 0,
    UNIX_CONNECTED = 1 << 1,
    UNIX_HAS_FACTS = 1 << 2,     /* the kernel's diagnostics knew the socket */
    UNIX_PENDING_ERROR = 1 << 3, /* the next call reports one: the peer ended without reading everything */
    UNIX_FILE_REMOVED = 1 << 4,  /* bound to a path at which it is not any more */
};

struct unix_state {
    uint32_t type;
    uint32_t flags;
    uint32_t shutdown; /* 1: receive, 2: send */
    uint32_t backlog;
    uint64_t peer_inode; /* 0: has ended, or has not accepted yet */
    uint32_t unread;     /* by the peer, in the kernel's measure */
    uint32_t file_mode;  /* of the socket file; 0: not known */
    uint32_t file_uid, file_gid;
    uint32_t name_length, peer_name_length; /* sun_path as it is; abstract names begin with a zero byte */
    uint32_t option_count, waiting_count, message_count;
    uint32_t reserved;
};

/* Behind it, each part at a multiple of 8: name, name of the peer, struct socket_option, inodes (u64) of
 * those who wait to be accepted, messages. A message is this header, then sender, objects (u32) and bytes,
 * padded. */
struct unix_message {
    uint32_t length;
    uint32_t sender_length; /* sun_path */
    uint32_t object_count;
    uint32_t has_credentials;
    uint32_t pid, uid, gid;
    uint32_t reserved;
};

#define UNIX_PEER_ITSELF (-1) /* as PID in the value of SO_PEERCRED: the process itself */

#define UNIX_NAME_MAX    sizeof(((struct sockaddr_un *)0)->sun_path)
#define UNIX_OBJECTS_MAX 253 /* SCM_MAX_FD */
#define ALIGN_8(number)  (((number) + 7) & ~(uint64_t)7)

/* Where the parts stand. */
struct unix_parts {
    struct unix_state state;
    uint64_t name, peer_name, options, waiting, messages;
};

struct unix_message_view {
    struct unix_message header;
    const char *sender;
    const uint8_t *objects, *bytes;
};

struct unix_parts unix_parts_of(const struct object_view *view);
/* The message at `offset`, which moves behind it; false: cut off. */
bool unix_next_message(const struct object_view *view, uint64_t *offset,
                       struct unix_message_view *ret_message);
/* The object of kind "unix" with that inode; 0: none. */
object_id_t unix_find_inode(const struct snapshot *snapshot, uint64_t inode);
/* Whether somebody listens inside for whom this socket waits to be accepted: his id. */
object_id_t unix_find_listener(const struct object_view *view);

/* A path that fills all of sun_path, without a NUL behind it. */
static inline bool unix_is_endless(const uint8_t *name, uint32_t length)
{
    return length >= UNIX_NAME_MAX && name[0] != 0;
}

/* socket_unix_names.c */
socklen_t unix_make_address(const char *name, uint32_t length, struct sockaddr_un *ret_address);
socklen_t unix_own_address(const struct object_view *view, struct sockaddr_un *ret_address);
bool unix_has_name(const struct object_view *view);
bool unix_has_same_name(const struct object_view *a, const struct object_view *b);
/* 0 also if it has none. */
int unix_bind_name(const struct object_view *view, int fd);
/* The file of a socket's absolute name, if it is that socket's. */
void unix_remove_file(const struct object_view *view, int fd);
/* What a socket is bound to, as a place (O_PATH), wherever it is now; -ENOENT: to none. */
int unix_open_file(int fd);
/* Whether a socket with that name can be connected to at a restore by us. */
bool unix_can_be_reached(const struct object_view *view);
/* By which a socket of ours is reached, while `ret_place` is open (negative: by its name). */
socklen_t unix_reachable_address(const struct object_view *view, int cap, int *ret_place,
                                 struct sockaddr_un *ret_address);
/* A socket's file, and nothing else. */
void unix_remove_socket(const char *path);

int unix_capture(struct object_capture *capture, struct reseat_error **ret_error);
int unix_check(const struct object_view *view, struct reseat_error **ret_error);
int unix_judge(const struct object_view *view, const struct object_options *options,
               enum object_fate *ret_fate, char **ret_sentence);
int unix_recreate(struct object_making *making, const struct object_view *view,
                  struct reseat_error **ret_error);
int unix_complete(struct object_making *making, const struct object_view *view, native_cap_t cap,
                  struct reseat_error **ret_error);
int unix_finish(struct object_making *making, const struct object_view *view, native_cap_t cap,
                struct reseat_error **ret_error);
