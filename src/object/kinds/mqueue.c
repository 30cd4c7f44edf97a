/* POSIX message queues, mq_overview(7). mq_open() finds them in a mount of its own, so that their link is
 * "/name"; who opens one below /dev/mqueue gets the same. Only the type of the file system tells them from
 * files, and it is asked for only where the path makes one likely: a file system whose server is away would
 * keep us waiting. */
#include "object/kinds.h"

#include <linux/magic.h>
#include <sys/vfs.h>

#ifndef MQUEUE_MAGIC
#define MQUEUE_MAGIC 0x19800202 /* ipc/mqueue.c */
#endif

static bool is_on_mqueue(const struct object_sight *sight)
{
    char path[48];
    snprintf(path, sizeof path, "/proc/%d/fd/%u", native_pd_id(sight->pd), sight->selector);
    struct statfs fs;
    return statfs(path, &fs) == 0 && fs.f_type == MQUEUE_MAGIC;
}

static bool match_mqueue(const struct object_sight *sight)
{
    if (!S_ISREG(sight->stat.mode) || sight->stat.device_major != 0 || !link_is_path(sight))
        return false;
    bool is_likely = !strchr(sight->link + 1, '/') || starts_with(sight->link, "/dev/mqueue/");
    return is_likely && is_on_mqueue(sight);
}

static int describe_mqueue(const struct object_sight *sight, char **ret_name)
{
    const char *name = strrchr(sight->link, '/');
    return describe_as(ret_name, "%s", name);
}

const struct object_kind kind_mqueue = {.name = "mqueue",
                                        .match = match_mqueue,
                                        .describe = describe_mqueue,
                                        .durable = &mqueue_durable};
