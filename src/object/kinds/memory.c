/* Memory that can be held like a file: memfd_create(2), memfd_secret(2), buffers shared between devices
 * (Documentation/driver-api/dma-buf.rst). They live in file systems that nobody can mount or name; what looks
 * like a path is only a label. */
#include "object/kinds.h"

/* No device behind the file system, and a label that a file in the root directory could have only there. */
static bool is_label(const struct object_sight *sight, const char *prefix)
{
    return S_ISREG(sight->stat.mode) && sight->stat.device_major == 0 && starts_with(sight->link, prefix);
}

static bool match_memfd(const struct object_sight *sight)
{
    return is_label(sight, "/memfd:") && sight->stat.links == 0;
}

static bool match_secretmem(const struct object_sight *sight)
{
    return is_label(sight, "/secretmem") && link_is_deleted(sight) && sight->stat.links == 1;
}

static bool match_dmabuf(const struct object_sight *sight)
{
    return is_label(sight, "/dmabuf:") && status_find(sight->info, "exp_name");
}

static int describe_memfd(const struct object_sight *sight, char **ret_name)
{
    static const char suffix[] = " (deleted)";
    const char *label = sight->link + 1;
    size_t length = strlen(label) - (link_is_deleted(sight) ? sizeof suffix - 1 : 0);
    return describe_as(ret_name, "%.*s", (int)length, label);
}

static int describe_secretmem(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "secretmem:[%llu]", (unsigned long long)sight->inode);
}

static int describe_dmabuf(const struct object_sight *sight, char **ret_name)
{
    const char *exporter = status_find(sight->info, "exp_name");
    return describe_as(ret_name, "%s, %llu bytes of %.*s", sight->link + 1,
                       (unsigned long long)status_number(sight->info, "size", 10),
                       (int)strcspn(exporter, "\n"), exporter);
}

const struct object_kind kind_memfd = {.name = "memfd",
                                       .match = match_memfd,
                                       .describe = describe_memfd,
                                       .durable = &memfd_durable};
const struct object_kind kind_secretmem = {.name = "secretmem",
                                           .match = match_secretmem,
                                           .describe = describe_secretmem};
const struct object_kind kind_dmabuf = {.name = "dmabuf", .match = match_dmabuf, .describe = describe_dmabuf};
