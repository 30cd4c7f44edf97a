/* Places in the file system that an image names. The kernel gave the path without symbolic links in it
 * (proc_pid_fd(5)), so one that is there now has been put there since: it is not followed (openat2(2), Linux
 * 5.6). What is opened is only the place (O_PATH), which has no effect on anything; whoever looks at it then
 * opens what it has looked at, through /proc/self/fd, and nothing else. */
#include "object/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/syscall.h>

int place_open(const char *path, unsigned flags)
{
    struct open_how how = {.flags = O_PATH | O_CLOEXEC | O_NOFOLLOW | flags,
                           .resolve = RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS};
    long fd = syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof how);
    return fd < 0 ? -errno : (int)fd;
}

int place_open_parent(const char *path, const char **ret_name)
{
    const char *slash = strrchr(path, '/');
    char parent[PLACE_PATH_MAX];
    snprintf(parent, sizeof parent, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    *ret_name = slash + 1;
    return place_open(parent, O_DIRECTORY);
}

static bool has_parent_steps(const char *path)
{
    for (const char *part = path; (part = strstr(part, "..")); part += 2)
        if ((part == path || part[-1] == '/') && (part[2] == '/' || part[2] == '\0'))
            return true;
    return false;
}

bool view_has_text(const struct object_view *view, uint64_t offset, uint64_t length)
{
    return length > 0 && view_has(view, offset, length) && view->state[offset + length - 1] == '\0' &&
           strlen((const char *)view->state + offset) == length - 1;
}

bool view_has_path(const struct object_view *view, uint64_t offset, uint64_t length)
{
    const char *path = (const char *)view->state + offset;
    return length <= PLACE_PATH_MAX && view_has_text(view, offset, length) && path[0] == '/' &&
           !has_parent_steps(path);
}

bool view_has_relative_path(const struct object_view *view, uint64_t offset, uint64_t length)
{
    const char *path = (const char *)view->state + offset;
    return length <= PLACE_OWN_PATH_MAX && view_has_text(view, offset, length) && path[0] != '/' &&
           !has_parent_steps(path);
}
