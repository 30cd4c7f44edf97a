/* Pipes, and those that have a path, FIFOs. The number of a pipe is the same at both ends; the ends are two
 * objects. See pipe(7). */
#include "object/kinds.h"

#include <fcntl.h>

static bool match_pipe(const struct object_sight *sight)
{
    return starts_with(sight->link, "pipe:[");
}

static bool match_fifo(const struct object_sight *sight)
{
    return S_ISFIFO(sight->stat.mode);
}

static int describe_pipe(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%s %s", sight->link, describe_ends(sight->flags));
}

static void find_pipe_end(const struct object_sight *sight, struct object_end *ret_end)
{
    unsigned access = sight->flags & O_ACCMODE;
    snprintf(ret_end->key, sizeof ret_end->key, "pipe %llu %llu", (unsigned long long)sight->mount_id,
             (unsigned long long)sight->inode);
    ret_end->side = access == O_RDONLY ? 1 : access == O_WRONLY ? 2 : 3;
    ret_end->other_inode = sight->inode;
}

const struct object_kind kind_pipe = {.name = "pipe",
                                      .match = match_pipe,
                                      .describe = describe_pipe,
                                      .find_end = find_pipe_end,
                                      .durable = &pipe_durable};
const struct object_kind kind_fifo = {.name = "fifo",
                                      .match = match_fifo,
                                      .describe = describe_pipe,
                                      .find_end = find_pipe_end,
                                      .durable = &fifo_durable};
