/* Anonymous inodes about which there is no more to say than their name, and everything that no other kind
 * knows: perf_event_open(2), userfaultfd(2), landlock(7), fsopen(2), seccomp_unotify(2), … */
#include "object/kinds.h"

static const char *bare_name(const struct object_sight *sight)
{
    static const char prefix[] = "anon_inode:";
    return sight->link + (starts_with(sight->link, prefix) ? sizeof prefix - 1 : 0);
}

static int describe_bare(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%s", bare_name(sight));
}

static bool match_perf(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[perf_event]") == 0;
}

static bool match_userfaultfd(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[userfaultfd]") == 0;
}

static int describe_userfaultfd(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%llu faults waiting",
                       (unsigned long long)status_number(sight->info, "total", 10));
}

static bool match_anything(const struct object_sight *sight)
{
    (void)sight;
    return true;
}

const struct object_kind kind_perf = {.name = "perf", .match = match_perf, .describe = describe_bare};
const struct object_kind kind_userfaultfd = {.name = "userfaultfd",
                                             .match = match_userfaultfd,
                                             .describe = describe_userfaultfd};
const struct object_kind kind_anonymous = {.name = "anonymous",
                                           .match = match_anything,
                                           .describe = describe_bare};
