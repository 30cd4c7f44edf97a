/* Virtual machines and their parts, https://docs.kernel.org/virt/kvm/api.html: "kvm-vm", "kvm-vcpu:0", … Who
 * opened /dev/kvm itself holds a device. */
#include "object/kinds.h"

static bool match_kvm(const struct object_sight *sight)
{
    return starts_with(sight->link, "anon_inode:kvm-") || starts_with(sight->link, "anon_inode:[kvm-");
}

static int describe_kvm(const struct object_sight *sight, char **ret_name)
{
    return describe_as(ret_name, "%s", sight->link + strlen("anon_inode:"));
}

const struct object_kind kind_kvm = {.name = "kvm", .match = match_kvm, .describe = describe_kvm};
