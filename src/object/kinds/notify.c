/* Those who are told of what happens in the file system: inotify(7), fanotify(7). fdinfo has one line for
 * each watch; the number of watches is what can be said in a few words, for the kernel keeps inodes and no
 * paths. */
#include "object/kinds.h"

static size_t count_lines(const char *text, const char *prefix)
{
    size_t count = 0;
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        count += starts_with(line, prefix);
    return count;
}

static int describe_watches(size_t count, char **ret_name)
{
    return describe_as(ret_name, "%zu %s", count, count == 1 ? "watch" : "watches");
}

static bool match_inotify(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:inotify") == 0;
}

static int describe_inotify(const struct object_sight *sight, char **ret_name)
{
    return describe_watches(count_lines(sight->info, "inotify wd:"), ret_name);
}

static bool match_fanotify(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[fanotify]") == 0;
}

/* The first line has the flags of the group; marks are on inodes, mounts or file systems. */
static int describe_fanotify(const struct object_sight *sight, char **ret_name)
{
    return describe_watches(count_lines(sight->info, "fanotify ") -
                                count_lines(sight->info, "fanotify flags:"),
                            ret_name);
}

const struct object_kind kind_inotify = {.name = "inotify",
                                         .match = match_inotify,
                                         .describe = describe_inotify,
                                         .durable = &inotify_durable};
const struct object_kind kind_fanotify = {.name = "fanotify",
                                          .match = match_fanotify,
                                          .describe = describe_fanotify};
