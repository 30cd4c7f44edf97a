/* Programs, maps, links and type information of bpf(2). The numbers are those that bpftool shows. */
#include "object/kinds.h"

static bool match_bpf(const struct object_sight *sight)
{
    return starts_with(sight->link, "anon_inode:bpf") || strcmp(sight->link, "anon_inode:btf") == 0;
}

static int describe_bpf(const struct object_sight *sight, char **ret_name)
{
    static const struct {
        const char *field, *word;
    } parts[] = {{"map_id", "map"},
                 {"link_id", "link"},
                 {"prog_id", "program"},
                 {"btf_id", "type information"}};
    for (size_t i = 0; i < COUNT_OF(parts); i++) { /* links before programs: a link also names its program */
        if (status_find(sight->info, parts[i].field))
            return describe_as(ret_name, "%s %llu", parts[i].word,
                               (unsigned long long)status_number(sight->info, parts[i].field, 10));
    }
    return describe_as(ret_name, "%s", sight->link + strlen("anon_inode:"));
}

const struct object_kind kind_bpf = {.name = "bpf", .match = match_bpf, .describe = describe_bpf};
