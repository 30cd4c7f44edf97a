/* Classic packet filters of sockets in a durable image (socket(7), SO_ATTACH_FILTER, SO_GET_FILTER). The
 * kernel gives back the program as it was given; a filter in BPF's newer form it does not give back at all.
 */
#include "object/socket_filter.h"

#include <errno.h>
#include <linux/filter.h>
#include <string.h>
#include <sys/socket.h>

#define INSTRUCTIONS_MAX 4096 /* BPF_MAXINSNS */

int socket_filter_capture(struct object_capture *capture, uint32_t *ret_count)
{
    struct sock_filter program[INSTRUCTIONS_MAX];
    socklen_t count = 0;
    *ret_count = 0;
    if (getsockopt(capture->cap, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0)
        return errno == EACCES
                   ? capture_degraded(capture, "it has a filter in a form that the kernel does not "
                                               "give back: it comes back without one")
                   : 0;
    if (count == 0 || count > INSTRUCTIONS_MAX ||
        getsockopt(capture->cap, SOL_SOCKET, SO_GET_FILTER, program, &count) < 0)
        return 0;
    *ret_count = count;
    return state_add(capture, program, count * sizeof program[0]);
}

int socket_filter_check(const struct object_view *view, uint64_t offset, uint32_t count,
                        struct reseat_error **ret_error)
{
    if (count > INSTRUCTIONS_MAX || !view_has(view, offset, (uint64_t)count * SOCKET_FILTER_BYTES))
        return view_bad(view, ret_error, "its filter is cut off");
    return 0;
}

int socket_filter_attach(const struct object_view *view, uint64_t offset, uint32_t count, native_cap_t cap)
{
    struct sock_filter program[INSTRUCTIONS_MAX];
    struct sock_fprog argument = {.len = (unsigned short)count, .filter = program};
    if (count == 0)
        return 0;
    memcpy(program, view->state + offset, count * sizeof program[0]);
    return setsockopt(cap, SOL_SOCKET, SO_ATTACH_FILTER, &argument, sizeof argument) < 0 ? -errno : 0;
}
