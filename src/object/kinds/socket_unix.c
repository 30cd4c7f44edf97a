/* Sockets between processes of one machine, unix(7). Each end is named by its path, if it is bound, and by
 * its inode in brackets, so that the two ends of a connection can be found in a listing:
 * "/run/x.sock [81] -> [80]" is what the server has, "[80] -> /run/x.sock [81]" what the client has. */
#include "object/kinds.h"

#include <ctype.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Every byte may become "\x00". */
#define UNIX_NAME_BYTES (4 * sizeof(struct sockaddr_un) + 1)
#define UNIX_END_BYTES  (UNIX_NAME_BYTES + sizeof " [18446744073709551615]")

static bool match_unix(const struct object_sight *sight)
{
    return sight->domain == AF_UNIX;
}

/* An abstract name may have any bytes, and zeros at its end count. */
static void print_abstract(const char *name, size_t length, char *text)
{
    *text++ = '@';
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)name[i];
        text += sprintf(text, isprint(byte) && byte != '\\' ? "%c" : "\\x%02x", byte);
    }
    *text = '\0';
}

/* "" if the socket is not bound. */
static void print_name(const struct sockaddr_un *address, socklen_t length, char text[static UNIX_NAME_BYTES])
{
    size_t name_length =
        length > offsetof(struct sockaddr_un, sun_path) ? length - offsetof(struct sockaddr_un, sun_path) : 0;
    text[0] = '\0';
    if (name_length > sizeof address->sun_path)
        name_length = sizeof address->sun_path;
    if (name_length > 0 && address->sun_path[0] == '\0')
        print_abstract(address->sun_path + 1, name_length - 1, text);
    else
        snprintf(text, UNIX_NAME_BYTES, "%.*s", (int)name_length, address->sun_path);
}

/* Inode 0: not known. */
static void print_end(const struct sockaddr_un *address, socklen_t length, uint64_t inode,
                      char text[static UNIX_END_BYTES])
{
    char name[UNIX_NAME_BYTES];
    print_name(address, length, name);
    if (inode)
        snprintf(text, UNIX_END_BYTES, "%s%s[%llu]", name, *name ? " " : "", (unsigned long long)inode);
    else
        snprintf(text, UNIX_END_BYTES, "%s", *name ? name : "[?]");
}

static const char *type_words(int type)
{
    switch (type) {
    case SOCK_DGRAM:
        return ", datagrams";
    case SOCK_SEQPACKET:
        return ", packets";
    default:
        return "";
    }
}

static int describe_unix(const struct object_sight *sight, char **ret_name)
{
    struct sockaddr_un local, peer;
    socklen_t local_length = sizeof local, peer_length = sizeof peer, value_length = sizeof(int);
    char local_text[UNIX_END_BYTES], peer_text[UNIX_END_BYTES];
    int is_listening = 0;
    if (getsockname(sight->cap, (struct sockaddr *)&local, &local_length) < 0)
        local_length = 0;
    print_end(&local, local_length, sight->inode, local_text);
    getsockopt(sight->cap, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &value_length);
    if (is_listening)
        return describe_as(ret_name, "listening on %s%s", local_text, type_words(sight->type));
    if (getpeername(sight->cap, (struct sockaddr *)&peer, &peer_length) < 0)
        return describe_as(ret_name, "%s%s", local_text, type_words(sight->type));
    uint64_t peer_inode = unix_peer_inode(sight->table, sight->cap, sight->inode);
    print_end(&peer, peer_length, peer_inode, peer_text);
    return describe_as(ret_name, "%s -> %s%s", local_text, peer_text, type_words(sight->type));
}

static void find_unix_end(const struct object_sight *sight, struct object_end *ret_end)
{
    uint64_t own = sight->inode, other = unix_peer_inode(sight->table, sight->cap, own);
    if (!other)
        return;
    bool is_first = own < other;
    snprintf(ret_end->key, sizeof ret_end->key, "unix %llu %llu",
             (unsigned long long)(is_first ? own : other), (unsigned long long)(is_first ? other : own));
    ret_end->side = is_first ? 1 : 2;
    ret_end->other_inode = other;
}

const struct object_kind kind_unix = {.name = "unix",
                                      .match = match_unix,
                                      .describe = describe_unix,
                                      .find_end = find_unix_end,
                                      .durable = &unix_durable};
