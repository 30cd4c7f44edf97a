/* Rings of requests, io_uring(7). The kernel tells the sizes in fdinfo if it is built to and the ring is not
 * in use at that very moment. */
#include "object/kinds.h"

static bool match_io_uring(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[io_uring]") == 0;
}

static int describe_io_uring(const struct object_sight *sight, char **ret_name)
{
    if (!status_find(sight->info, "SqMask"))
        return describe_as(ret_name, "ring");
    const char *poller = status_find(sight->info, "SqThread");
    bool has_poller = poller && strtol(poller, NULL, 10) >= 0;
    return describe_as(ret_name, "ring of %llu, %llu files and %llu buffers registered%s",
                       (unsigned long long)status_number(sight->info, "SqMask", 16) + 1,
                       (unsigned long long)status_number(sight->info, "UserFiles", 10),
                       (unsigned long long)status_number(sight->info, "UserBufs", 10),
                       has_poller ? ", with a polling thread" : "");
}

const struct object_kind kind_io_uring = {.name = "io_uring",
                                          .match = match_io_uring,
                                          .describe = describe_io_uring};
