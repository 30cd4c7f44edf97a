/* Pipes, and those that have a path, FIFOs. The number of a pipe is the same at both ends; the ends are two
 * objects. See pipe(7). */
#include "object/kinds.h"

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

const struct object_kind kind_pipe = {"pipe", match_pipe, describe_pipe, NULL};
const struct object_kind kind_fifo = {"fifo", match_fifo, describe_pipe, NULL};
