/* Who else holds the pipes, sockets and nameless files of a process: one walk over all processes that we may
 * look at (proc_pid_fd(5), proc_pid_maps(5)). What is made anew is made for the restored process alone, so a
 * process that shares it now will not share it then, and that has to be said. Inodes are compared, not
 * descriptions: a pipe that somebody else has opened once more is shared, too. Sleeping twins do not count.
 */
#include "object/outside.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/sysmacros.h>

void outside_free(struct outside *outside)
{
    free(outside->items);
    *outside = (struct outside){0};
}

static bool is_nameless(const char *link)
{
    static const char suffix[] = " (deleted)";
    size_t length = strlen(link);
    return link[0] == '/' && length >= sizeof suffix &&
           strcmp(link + length - (sizeof suffix - 1), suffix) == 0;
}

static void add(struct outside *outside, struct outside_entry entry)
{
    struct outside_entry *place = array_append(outside->items, outside->count);
    if (place)
        *place = entry;
}

static void add_link(struct outside *outside, pid_t pid, int table_fd, const char *name)
{
    _cleanup_free_ char *link = NULL;
    struct stat stat;
    unsigned long long inode;
    if (link_read(table_fd, name, &link) < 0)
        return;
    if (sscanf(link, "pipe:[%llu]", &inode) == 1)
        add(outside, (struct outside_entry){'p', 0, inode, pid});
    else if (sscanf(link, "socket:[%llu]", &inode) == 1)
        add(outside, (struct outside_entry){'s', 0, inode, pid});
    else if (is_nameless(link) && fstatat(table_fd, name, &stat, 0) == 0)
        add(outside, (struct outside_entry){'f', stat.st_dev, stat.st_ino, pid});
}

/* "7f00-7f01 rw-s 0000 00:01 1234   /memfd:name (deleted)" */
static void add_mappings(struct outside *outside, pid_t pid, int proc_fd)
{
    _cleanup_free_ char *maps = NULL;
    if (file_read(proc_fd, "maps", &maps, NULL) < 0)
        return;
    char *rest = maps;
    for (char *line; (line = strsep(&rest, "\n"));) {
        unsigned device_major, device_minor;
        unsigned long long inode;
        char flags[8];
        if (strstr(line, " (deleted)") &&
            sscanf(line, "%*s %7s %*s %x:%x %llu", flags, &device_major, &device_minor, &inode) == 4 &&
            flags[3] == 's')
            add(outside, (struct outside_entry){'f', makedev(device_major, device_minor), inode, pid});
    }
}

static void add_process(struct outside *outside, pid_t pid)
{
    _cleanup_close_ int proc_fd = proc_open(pid), table_fd = -EBADF;
    struct proc_stat stat;
    _cleanup_free_ int *selectors = NULL;
    size_t count = 0;
    if (proc_fd < 0 || proc_stat_read(proc_fd, &stat) < 0 || strncmp(stat.comm, "reseat:", 7) == 0 ||
        proc_list_numbers(proc_fd, "fd", &selectors, &count) < 0 ||
        (table_fd = openat(proc_fd, "fd", O_DIRECTORY | O_RDONLY | O_CLOEXEC)) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%d", selectors[i]);
        add_link(outside, pid, table_fd, name);
    }
    add_mappings(outside, pid, proc_fd);
}

static int compare(const void *a, const void *b)
{
    const struct outside_entry *x = a, *y = b;
    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    if (x->inode != y->inode)
        return x->inode < y->inode ? -1 : 1;
    return (x->device > y->device) - (x->device < y->device);
}

static void look_around(struct outside *outside, const pid_t except[2])
{
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t count = 0;
    outside->is_read = true;
    if (proc_fd < 0 || proc_list_numbers(proc_fd, "", &pids, &count) < 0)
        return;
    for (size_t i = 0; i < count; i++)
        if (pids[i] != except[0] && pids[i] != except[1] && pids[i] != getpid())
            add_process(outside, pids[i]);
    if (outside->count)
        qsort(outside->items, outside->count, sizeof *outside->items, compare);
}

pid_t outside_find(struct outside *outside, const pid_t except[2], const char *link, const struct stat *stat)
{
    struct outside_entry wanted = {0, 0, stat->st_ino, 0};
    if (strncmp(link, "pipe:[", 6) == 0)
        wanted.class = 'p';
    else if (strncmp(link, "socket:[", 8) == 0)
        wanted.class = 's';
    else if (S_ISREG(stat->st_mode) && stat->st_nlink == 0)
        wanted = (struct outside_entry){'f', stat->st_dev, stat->st_ino, 0};
    else
        return 0;
    if (!outside->is_read)
        look_around(outside, except);
    struct outside_entry *found =
        outside->count ? bsearch(&wanted, outside->items, outside->count, sizeof wanted, compare) : NULL;
    return found ? found->pid : 0;
}
