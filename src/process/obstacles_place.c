/* Obstacles in where a process stands: PID namespaces, time namespaces, the service manager above it,
 * keyrings.
 *
 * Rests on NSpid in status and the links in /proc/PID/ns (pid_namespaces(7), time_namespaces(7)),
 * /proc/PID/cgroup (cgroups(7), systemd.kill(5)) and /proc/keys (keyrings(7)). Modern kernels name a process
 * keyring "_pid" without saying of which process, and show it only to its owner: it can be pointed at, not
 * proven, without asking from inside. */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <string.h>

/* ---- namespaces ---- */

static int add_pid_namespace(struct inspection *inspection)
{
    uint32_t pids[SNAPSHOT_NS_LEVELS + 1];
    size_t levels = status_ns_pids(inspection->status, pids, COUNT_OF(pids));
    if (levels > SNAPSHOT_NS_LEVELS)
        return obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s is in a PID namespace more than %d levels deep; it could not get its numbers "
            "back in all of them",
            inspection->who, SNAPSHOT_NS_LEVELS);
    if (levels > 0 && pids[levels - 1] == 1)
        return obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s is the first process (PID 1) of its PID namespace: when it is killed the kernel "
            "kills all others in the namespace, its twin too; checkpoint the program that it "
            "started instead",
            inspection->who);
    return 0;
}

/* Children, and so the twin, would be born into the second namespace of each pair. */
static int add_child_namespace(struct inspection *inspection, const char *own_path, const char *child_path,
                               const char *what)
{
    _cleanup_free_ char *own = NULL, *child = NULL;
    int r = link_read(inspection->proc_fd, own_path, &own);
    if (r == -ENOENT)
        return 0; /* this kernel has no such namespaces */
    if (r < 0)
        return r;
    r = link_read(inspection->proc_fd, child_path, &child);
    if (r < 0 && r != -ENOENT) /* a PID namespace whose first process was not born yet has no link */
        return r;
    if (child && strcmp(strchr(own, '['), strchr(child, '[')) == 0)
        return 0;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, -1,
        "%s has called unshare or setns for a %s namespace that its children are to be born "
        "into: the twin would be born there, and the process could not come back where it is; "
        "there is no way round this",
        inspection->who, what);
}

/* ---- the service manager ---- */

/* The last path component that ends in ".service" wins (a service may have sub-groups of its own), unless it
 * is a user's manager, user@UID.service: what that runs in scopes is not a service. */
static bool path_find_service(const char *path, size_t length, char *ret_service, size_t capacity)
{
    static const char suffix[] = ".service";
    bool found = false;
    for (size_t start = 0, end; start < length; start = end + 1) {
        end = start;
        while (end < length && path[end] != '/')
            end++;
        size_t size = end - start;
        if (size < sizeof suffix || memcmp(path + end - strlen(suffix), suffix, strlen(suffix)) != 0)
            continue;
        found = strncmp(path + start, "user@", 5) != 0;
        snprintf(ret_service, capacity, "%.*s", (int)size, path + start);
    }
    return found;
}

bool cgroup_find_service(const char *cgroup, char *ret_service, size_t capacity)
{
    for (const char *line = cgroup; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        size_t length = strcspn(line, "\n");
        const char *controllers = memchr(line, ':', length);
        const char *path =
            controllers ? memchr(controllers + 1, ':', length - (size_t)(controllers + 1 - line)) : NULL;
        if (!path)
            continue;
        size_t size = (size_t)(path - controllers - 1);
        bool is_systemds = size == 0 || (size == strlen("name=systemd") &&
                                         memcmp(controllers + 1, "name=systemd", size) == 0);
        if (is_systemds &&
            path_find_service(path + 1, length - (size_t)(path + 1 - line), ret_service, capacity))
            return true;
    }
    return false;
}

static int add_service(struct inspection *inspection)
{
    struct proc_stat init, parent;
    if (proc_stat_of(1, &init) < 0 || strcmp(init.comm, "systemd") != 0)
        return 0; /* or hidden from us: then it is not our service either */
    _cleanup_free_ char *cgroup = NULL;
    int r = inspection_read(inspection->proc_fd, "cgroup", &cgroup);
    if (r < 0)
        return r;
    char service[128];
    if (!cgroup_find_service(cgroup, service, sizeof service))
        return 0;
    bool is_main = proc_stat_of(inspection->stat.parent, &parent) == 0 && strcmp(parent.comm, "systemd") == 0;
    return obstacles_add(inspection->obstacles,
                         is_main && !inspection->leave_running ? SEVERITY_LOST : SEVERITY_NOTE, -1,
                         "%s belongs to the systemd service %s: when the service's main process ends, "
                         "systemd kills everything in "
                         "its control group, the twin too, and may start the service anew; set "
                         "KillMode=process and Restart=no for "
                         "it first (systemctl edit %s)",
                         inspection->who, service, service);
}

/* ---- keyrings ---- */

static int add_keyrings(struct inspection *inspection)
{
    _cleanup_free_ char *keys = NULL;
    int r = inspection_read(-EBADF, "/proc/keys", &keys);
    if (r < 0)
        return 0; /* a kernel without keys, or a sandbox that hides them: said nowhere else either */
    uid_t uid = (uid_t)status_number(inspection->status, "Uid", 10);
    for (const char *line = keys; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        unsigned owner;
        char type[16], name[8];
        if (sscanf(line, "%*x %*s %*d %*s %*x %u %*d %15s %4[^:\n]", &owner, type, name) != 3 ||
            owner != uid || strcmp(type, "keyring") != 0 ||
            (strcmp(name, "_pid") != 0 && strcmp(name, "_tid") != 0))
            continue;
        return obstacles_add(
            inspection->obstacles, SEVERITY_NOTE, -1,
            "Some process of user %u has a keyring of its own (%s); if it is %s, the restored "
            "process would start without it",
            uid, name, inspection->who);
    }
    return 0;
}

int find_place_obstacles(struct inspection *inspection, struct reseat_error **ret_error)
{
    int r = add_pid_namespace(inspection);
    if (r == 0)
        r = add_child_namespace(inspection, "ns/pid", "ns/pid_for_children", "PID");
    if (r == 0)
        r = add_child_namespace(inspection, "ns/time", "ns/time_for_children", "time");
    if (r < 0)
        return inspection_fail(inspection, r, "ns", ret_error);
    r = add_service(inspection);
    if (r < 0)
        return inspection_fail(inspection, r, "cgroup", ret_error);
    r = add_keyrings(inspection);
    return r < 0 ? inspection_fail(inspection, r, "status", ret_error) : 0;
}
