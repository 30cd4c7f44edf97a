/* The list of kinds, in the order in which they are asked, and what several of them share. A new kind is one
 * file in kinds/ and one line here. */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

static const struct object_kind *const kinds[] = {
    &kind_path, /* first: an O_PATH capability is that, whatever it points to */

    &kind_terminal,                                                   /* before other devices */
    &kind_device,    &kind_directory,   &kind_fifo,      &kind_memfd, /* these four before other files: they
                                                                         only look like them */
    &kind_secretmem, &kind_dmabuf,      &kind_mqueue,    &kind_file,

    &kind_pipe,      &kind_unix,        &kind_tcp,       &kind_mptcp,     &kind_sctp,
    &kind_udp,       &kind_ping,        &kind_raw,       &kind_netlink,   &kind_packet,
    &kind_vsock,     &kind_alg,         &kind_socket, /* any other */

    &kind_eventfd,   &kind_timerfd,     &kind_signalfd,  &kind_epoll,     &kind_inotify,
    &kind_fanotify,  &kind_pidfd,       &kind_namespace, &kind_io_uring,  &kind_bpf,
    &kind_perf,      &kind_userfaultfd, &kind_kvm,       &kind_anonymous, /* last: whatever the kernel of
                                                                             tomorrow has */
};

const struct object_kind *object_kind_of(const struct object_sight *sight)
{
    for (size_t i = 0; i < COUNT_OF(kinds) - 1; i++) {
        if (kinds[i]->match(sight))
            return kinds[i];
    }
    return &kind_anonymous;
}

const struct object_kind *object_kind_by_name(const char *name)
{
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (strcmp(kinds[i]->name, name) == 0)
            return kinds[i];
    }
    return NULL;
}

int describe_as(char **ret_name, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *name = NULL;
    int r = vasprintf(&name, format, arguments);
    va_end(arguments);
    if (r < 0)
        return -ENOMEM;
    *ret_name = name;
    return 0;
}

const char *describe_ends(unsigned flags)
{
    switch (flags & O_ACCMODE) {
    case O_RDONLY:
        return "read end";
    case O_WRONLY:
        return "write end";
    default:
        return "both ends";
    }
}
