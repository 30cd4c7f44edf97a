/* What procfs says of a process, and the process-related system calls that the C library lacks.
 * See proc_pid_status(5), proc_pid_stat(5), pidfd_open(2), pidfd_getfd(2), kcmp(2). */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

int proc_open(pid_t pid)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d", pid);
    int fd = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? -ESRCH : -errno;
    return fd;
}

const char *status_find(const char *status, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = status; line && *line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) == 0 && line[length] == ':') {
            line += length + 1;
            return line + strspn(line, " \t");
        }
    }
    return NULL;
}

void line_copy(const char *text, char *buffer, size_t size)
{
    size_t length = strcspn(text, "\n");
    if (length >= size)
        length = size - 1;
    memcpy(buffer, text, length);
    buffer[length] = '\0';
}

int boot_id_read(char *buffer, size_t size)
{
    _cleanup_free_ char *text = NULL;
    int r = file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", &text, NULL);
    if (r < 0)
        return r;
    line_copy(text, buffer, size);
    return 0;
}

bool boot_id_is_current(const char *boot_id)
{
    char current[40];
    return *boot_id && boot_id_read(current, sizeof current) == 0 && strcmp(current, boot_id) == 0;
}

uint64_t status_number(const char *status, const char *name, int base)
{
    const char *value = status_find(status, name);
    return value ? strtoull(value, NULL, base) : 0;
}

bool status_ids(const char *status, const char *name, uint32_t ids[4])
{
    const char *value = status_find(status, name);
    return value && sscanf(value, "%u %u %u %u", &ids[0], &ids[1], &ids[2], &ids[3]) == 4;
}

size_t status_ns_pids(const char *status, uint32_t *pids, size_t capacity)
{
    const char *value = status_find(status, "NSpid");
    size_t count = 0;
    while (value && count < capacity) {
        value += strspn(value, " \t");
        char *end;
        unsigned long pid = strtoul(value, &end, 10);
        if (end == value)
            break;
        pids[count++] = (uint32_t)pid;
        value = end;
    }
    return count;
}

static int compare_int(const void *a, const void *b)
{
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}

int proc_list_numbers(int dir_fd, const char *path, int **ret_numbers, size_t *ret_count)
{
    int fd = openat(dir_fd, *path ? path : ".", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    _cleanup_closedir_ DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    _cleanup_free_ int *numbers = NULL;
    size_t count = 0;
    bool sorted = true;
    errno = 0;
    for (struct dirent *entry; (entry = readdir(dir)); errno = 0) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9')
            continue;
        int *number = array_append(numbers, count);
        if (!number)
            return -ENOMEM;
        *number = (int)strtol(entry->d_name, NULL, 10);
        sorted = sorted && (count < 2 || number[-1] < number[0]);
    }
    if (errno)
        return -errno;
    if (!sorted)
        qsort(numbers, count, sizeof *numbers, compare_int);
    *ret_numbers = TAKE_PTR(numbers);
    *ret_count = count;
    return 0;
}

int proc_stat_read(int proc_fd, struct proc_stat *ret_stat)
{
    _cleanup_free_ char *text = NULL;
    int r = file_read(proc_fd, "stat", &text, NULL);
    if (r < 0)
        return r;
    /* The name may itself contain blanks and parentheses: it ends at the last one. */
    char *open = strchr(text, '('), *end = strrchr(text, ')');
    if (!open || !end)
        return -EBADMSG;
    struct proc_stat stat = {0};
    snprintf(stat.comm, sizeof stat.comm, "%.*s", (int)(end - open - 1), open + 1);
    unsigned long long start_time;
    int n = sscanf(end + 1, " %c %d %d %d %d %d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                   &stat.state, &stat.parent, &stat.group, &stat.session, &stat.tty, &stat.foreground_group,
                   &stat.flags, &start_time);
    if (n != 8)
        return -EBADMSG;
    stat.start_time = start_time;
    *ret_stat = stat;
    return 0;
}

int proc_stat_of(pid_t pid, struct proc_stat *ret_stat)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (proc_fd < 0)
        return proc_fd;
    return proc_stat_read(proc_fd, ret_stat);
}

static int result_of(long r)
{
    return r < 0 ? -errno : (int)r;
}

int sys_pidfd_open(pid_t pid)
{
    return result_of(syscall(SYS_pidfd_open, pid, 0));
}

int sys_pidfd_getfd(int pidfd, int fd)
{
    return result_of(syscall(SYS_pidfd_getfd, pidfd, fd, 0));
}

int sys_pidfd_send_signal(int pidfd, int signal)
{
    return result_of(syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0));
}

int sys_kcmp(pid_t a, pid_t b, int type, unsigned long index_a, unsigned long index_b)
{
    return result_of(syscall(SYS_kcmp, a, b, type, index_a, index_b));
}
