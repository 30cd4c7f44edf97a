/* TCP sockets whose connection is over: what the process is to find of a connection that could not be carried
 * over, or that had ended before. They are the end of a connection within the machine that is ended the same
 * way, so that reading, writing and polling answer as they would. */
#include "object/kinds/socket_inet_durable.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#define LOOPBACK_WAIT_MS 1000

/* A connection within the machine, of which one end is accepted. */
static int make_loopback(int domain, int *ret_client, int *ret_server)
{
    union inet_name name = {.any.sa_family = (sa_family_t)domain};
    socklen_t length = domain == AF_INET6 ? sizeof name.v6 : sizeof name.v4;
    _cleanup_close_ int listener = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    _cleanup_close_ int client = socket(domain, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (domain == AF_INET6)
        name.v6.sin6_addr = in6addr_loopback;
    else
        name.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (listener < 0 || client < 0 || bind(listener, &name.any, length) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, &name.any, &length) < 0 || connect(client, &name.any, length) < 0)
        return -errno;
    int server = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (server < 0)
        return -errno;
    *ret_client = TAKE_FD(client);
    *ret_server = server;
    return 0;
}

static void wait_for(int fd, short event)
{
    struct pollfd poll_fd = {.fd = fd, .events = event};
    poll(&poll_fd, 1, LOOPBACK_WAIT_MS);
}

int inet_make_over(const struct object_view *view, bool is_reset, native_cap_t *ret_cap,
                   struct reseat_error **ret_error)
{
    struct linger at_once = {.l_onoff = 1};
    int client = -EBADF, server = -EBADF;
    int r = make_loopback((int)inet_parts_of(view).state.domain, &client, &server);
    if (r < 0)
        return error_errno(ret_error, r, "making a connection that is over");
    if (is_reset)
        setsockopt(server, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    else
        shutdown(client, SHUT_WR);
    close(server);
    wait_for(client, POLLRDHUP);
    *ret_cap = client;
    return 0;
}
