/* What has a path: regular files, directories, devices, and O_PATH capabilities, which are only places in the
 * tree. The name is the path as the kernel tells it from our root directory; " (deleted)" stands behind it if
 * the file has none any more. See proc_pid_fd(5). */
#include "object/kinds.h"

#include <fcntl.h>

static int describe_path(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%s", sight->link);
}

static bool match_path(const struct object_sight *sight)
{
    return sight->flags & O_PATH;
}

static bool match_directory(const struct object_sight *sight)
{
    return S_ISDIR(sight->stat.mode);
}

static bool match_device(const struct object_sight *sight)
{
    return S_ISCHR(sight->stat.mode) || S_ISBLK(sight->stat.mode);
}

/* Also a file of which statx() said nothing. */
static bool match_file(const struct object_sight *sight)
{
    return link_is_path(sight) && (S_ISREG(sight->stat.mode) || sight->stat.mode == 0);
}

const struct object_kind kind_path = {.name = "path",
                                      .match = match_path,
                                      .describe = describe_path,
                                      .durable = &file_durable};
const struct object_kind kind_directory = {.name = "directory",
                                           .match = match_directory,
                                           .describe = describe_path,
                                           .durable = &file_durable};
const struct object_kind kind_device = {.name = "device",
                                        .match = match_device,
                                        .describe = describe_path,
                                        .durable = &device_durable};
const struct object_kind kind_file = {.name = "file",
                                      .match = match_file,
                                      .describe = describe_path,
                                      .durable = &file_durable};
