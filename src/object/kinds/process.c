/* Capabilities on processes and on what they live in: pidfd_open(2), namespaces(7). */
#include "object/kinds.h"

#include <fcntl.h>

/* Since Linux 6.9 they may have a file system of their own, and with it a number. */
static bool match_pidfd(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[pidfd]") == 0 || starts_with(sight->link, "pidfd:[");
}

/* The name of a process, "?" if it has none any more. */
static void read_process_name(int pid, char *name, size_t size)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    _cleanup_free_ char *text = NULL;
    bool is_known = file_read(AT_FDCWD, path, &text, NULL) >= 0;
    snprintf(name, size, "%.*s", is_known ? (int)strcspn(text, "\n") : 1, is_known ? text : "?");
}

static int describe_pidfd(const struct object_sight *sight, char **ret_name)
{
    const char *value = status_find(sight->info, "Pid");
    long pid = value ? strtol(value, NULL, 10) : -1;
    if (pid < 0)
        return describe_as(ret_name, "a process that has ended");
    if (pid == 0)
        return describe_as(ret_name, "a process of another PID namespace");
    char name[64];
    read_process_name((int)pid, name, sizeof name);
    return describe_as(ret_name, "process %ld (%s)", pid, name);
}

/* "net:[4026531840]": the type and the number. */
static bool match_namespace(const struct object_sight *sight)
{
    static const char *const types[] = {"cgroup:[", "ipc:[",  "mnt:[",  "net:[",
                                        "pid:[",    "time:[", "user:[", "uts:["};
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        if (starts_with(sight->link, types[i]))
            return true;
    }
    return false;
}

static int describe_namespace(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%s", sight->link);
}

const struct object_kind kind_pidfd = {.name = "pidfd",
                                       .match = match_pidfd,
                                       .describe = describe_pidfd,
                                       .durable = &pidfd_durable};
const struct object_kind kind_namespace = {.name = "namespace",
                                           .match = match_namespace,
                                           .describe = describe_namespace,
                                           .durable = &namespace_durable};
