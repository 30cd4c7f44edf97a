/* Control groups (cgroups(7)): where those of another process are to be found here. The kernel names them by
 * hierarchy and path (/proc/PID/cgroup); where the hierarchies are mounted stands in /proc/self/mountinfo. */
#include "process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

/* Whether `list`, with commas, has all words of `wanted`, with commas too. */
static bool has_all(const char *list, const char *wanted)
{
    while (*wanted) {
        size_t length = strcspn(wanted, ",");
        const char *position = list;
        bool is_there = false;
        while (*position && !is_there) {
            size_t word = strcspn(position, ",\n");
            is_there = word == length && strncmp(position, wanted, length) == 0;
            position += word + (position[word] == ',');
            if (*position == '\n')
                break;
        }
        if (!is_there)
            return false;
        wanted += length + (wanted[length] == ',');
    }
    return true;
}

/* Not under something that was mounted later (statx(2), STATX_MNT_ID). */
static bool is_visible(const char *place, unsigned mount)
{
    struct statx status;
    return statx(AT_FDCWD, place, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT, STATX_MNT_ID, &status) == 0 &&
           (!(status.stx_mask & STATX_MNT_ID) || status.stx_mnt_id == mount);
}

/* The mount of a hierarchy: where it is, and which of its groups is at its root. */
static bool find_mount(const char *mounts, const char *controllers, char place[static PATH_MAX],
                       char root[static PATH_MAX])
{
    for (const char *line = mounts; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        const char *end = strstr(line, " - ");
        char type[32], options[512] = "";
        unsigned mount;
        if (!end || sscanf(line, "%u %*d %*s %4095s %4095s", &mount, root, place) != 3 ||
            sscanf(end, " - %31s %*s %511s", type, options) < 1)
            continue;
        bool is_it = *controllers ? strcmp(type, "cgroup") == 0 && has_all(options, controllers)
                                  : strcmp(type, "cgroup2") == 0;
        if (is_it && is_visible(place, mount))
            return true;
    }
    return false;
}

static int visit_line(const char *line, const char *mounts,
                      int (*visit)(void *userdata, const char *line, const char *path), void *userdata)
{
    char place[PATH_MAX], root[PATH_MAX], path[3 * PATH_MAX];
    const char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return 0;
    _cleanup_free_ char *names = strndup(controllers + 1, (size_t)(group - controllers - 1));
    if (!names)
        return -ENOMEM;
    group++;
    size_t root_length = 0;
    bool is_there = find_mount(mounts, names, place, root);
    if (is_there && strcmp(root, "/") != 0) {
        root_length = strlen(root);
        is_there = strncmp(group, root, root_length) == 0;
    }
    if (is_there)
        snprintf(path, sizeof path, "%s%s/cgroup.procs", place, group + root_length);
    return visit(userdata, line, is_there ? path : NULL);
}

int process_visit_control_groups(const char *groups,
                                 int (*visit)(void *userdata, const char *line, const char *path),
                                 void *userdata)
{
    _cleanup_free_ char *ours = NULL, *mounts = NULL, *theirs = strdup(groups);
    if (!theirs)
        return -ENOMEM;
    if (file_read(AT_FDCWD, "/proc/self/cgroup", &ours, NULL) < 0 ||
        file_read(AT_FDCWD, "/proc/self/mountinfo", &mounts, NULL) < 0)
        return 0;
    char *rest = theirs;
    int r = 0;
    for (char *line; r == 0 && (line = strsep(&rest, "\n"));) {
        bool is_same = false;
        size_t length = strlen(line);
        for (const char *our = ours; our && *our && !is_same; our = strchr(our, '\n')) {
            our += *our == '\n';
            is_same = strncmp(our, line, length) == 0 && our[length] == '\n';
        }
        if (!is_same && length)
            r = visit_line(line, mounts, visit, userdata);
    }
    return r;
}
