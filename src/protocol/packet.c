/* Packets on Linux. What is received is believed in nothing: neither in its length, nor that only descriptors
 * are beside it, nor in how many. See unix(7), cmsg(3), recvmsg(2) (MSG_TRUNC, MSG_CTRUNC). */
#include "protocol/packet.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

union control {
    char bytes[CMSG_SPACE(PROTOCOL_CAPABILITIES_MAX * sizeof(int)) + CMSG_SPACE(sizeof(struct ucred))];
    struct cmsghdr header;
};

int packet_send_pieces(int socket, const struct iovec *pieces, size_t piece_count, const int *caps,
                       size_t cap_count, int flags)
{
    union control control;
    struct msghdr message = {.msg_iov = (struct iovec *)pieces, .msg_iovlen = piece_count};
    if (cap_count > PROTOCOL_CAPABILITIES_MAX)
        return -E2BIG;
    if (cap_count) {
        size_t length = cap_count * sizeof *caps;
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(length);
        memset(control.bytes, 0, message.msg_controllen);
        control.header =
            (struct cmsghdr){.cmsg_len = CMSG_LEN(length), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), caps, length);
    }
    ssize_t n;
    do
        n = sendmsg(socket, &message, flags | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int packet_send(int socket, const void *bytes, size_t length, const int *caps, size_t cap_count, int flags)
{
    struct iovec piece = {(void *)bytes, length};
    return packet_send_pieces(socket, &piece, 1, caps, cap_count, flags);
}

static void take_control(struct packet *packet, struct msghdr *message)
{
    struct cmsghdr *header;
    for (header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
        struct ucred credentials;
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_CREDENTIALS &&
            header->cmsg_len == CMSG_LEN(sizeof credentials)) {
            memcpy(&credentials, CMSG_DATA(header), sizeof credentials);
            packet->sender = credentials.pid;
            packet->sender_user = credentials.uid;
        }
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(header) + i * sizeof fd, sizeof fd);
            if (packet->cap_count < PROTOCOL_CAPABILITIES_MAX)
                packet->caps[packet->cap_count++] = fd;
            else
                close(fd);
        }
    }
}

/* An empty packet and the end of all packets look the same to recvmsg(2). */
static bool is_end(int socket)
{
    struct pollfd poll_fd = {.fd = socket, .events = POLLIN | POLLRDHUP};
    return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLHUP | POLLRDHUP));
}

int packet_receive(int socket, struct packet *packet, int flags)
{
    union control control;
    struct iovec vector = {packet->bytes, sizeof packet->bytes};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof control.bytes};
    packet->cap_count = 0;
    packet->length = 0;
    packet->sender = 0;
    packet->sender_user = (uid_t)-1;
    ssize_t n;
    do
        n = recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? 0 : -errno;
    take_control(packet, &message);
    if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        packet_end(packet);
        return message.msg_flags & MSG_TRUNC ? -EMSGSIZE : -EMFILE;
    }
    packet->length = (size_t)n;
    return n > 0 || packet->cap_count > 0 || !is_end(socket);
}

void packet_end(struct packet *packet)
{
    for (size_t i = 0; i < packet->cap_count; i++)
        base_close(&packet->caps[i]);
    packet->cap_count = 0;
}

int packet_take(struct packet *packet, size_t index)
{
    return TAKE_FD(packet->caps[index]);
}

bool packet_takes(int cap)
{
    char path[40];
    _cleanup_free_ char *name = NULL;
    snprintf(path, sizeof path, "/proc/self/fd/%d", cap);
    return link_read(AT_FDCWD, path, &name) < 0 || strcmp(name, "anon_inode:[io_uring]") != 0;
}

static int put_path(char path[static PACKET_PATH_BYTES], const char *directory, const char *name)
{
    int length = snprintf(path, PACKET_PATH_BYTES, "%s%s", directory, name);
    return length >= PACKET_PATH_BYTES ? -ENAMETOOLONG : 0;
}

int packet_usual_path(char ret_path[static PACKET_PATH_BYTES], bool is_core)
{
    const char *given = is_core ? NULL : secure_getenv("RESEAT_CORE");
    const char *runtime = secure_getenv("XDG_RUNTIME_DIR");
    if (given && *given)
        return put_path(ret_path, given, "");
    if (geteuid() == 0 || (!is_core && !runtime))
        return put_path(ret_path, "/run/reseat/core", "");
    if (!runtime)
        return -ENOENT;
    int r = put_path(ret_path, runtime, "/reseat-core");
    if (!is_core && (r < 0 || access(ret_path, F_OK) < 0))
        return put_path(ret_path, "/run/reseat/core", "");
    return r;
}
