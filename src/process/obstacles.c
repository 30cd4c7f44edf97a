/* Obstacles: everything about a live process that a restore would not bring back, found before anything is
 * changed. Most of it is silent when it goes wrong: a shell whose children are gone gets ECHILD and reports
 * success, a fixed io_uring buffer reads into dead pages. So each has a sentence that names the PID, the
 * selector, what would happen and what to do.
 *
 * This file holds the list and the course of an inspection; the looking is done by obstacles_*.c, each of
 * which knows one side of a process. All of it reads procfs, kcmp(2) and copies of descriptors
 * (pidfd_getfd(2)); the process runs on meanwhile, so what is found is a photograph of a moving thing.
 * Threads, processes and descriptors that vanish under our eyes are normal; what may not be looked at is an
 * error, never skipped. */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

/* PF_IO_WORKER and PF_USER_WORKER (include/linux/sched.h): threads that the kernel runs inside a process,
 * iou-wrk-*, iou-sqp-*, vhost-*, kvm-nx-*. They run no program and are nobody's to restore. */
#define KERNEL_WORKER_FLAGS 0x4010U

int obstacles_add(struct obstacles *obstacles, enum severity severity, int selector, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *sentence = NULL;
    int length = vasprintf(&sentence, format, arguments);
    va_end(arguments);
    if (length < 0)
        return -ENOMEM;
    struct obstacle *item = array_append(obstacles->items, obstacles->count);
    if (!item) {
        free(sentence);
        return -ENOMEM;
    }
    *item = (struct obstacle){.severity = severity, .selector = selector, .sentence = sentence};
    return 0;
}

void obstacles_free(struct obstacles *obstacles)
{
    for (size_t i = 0; i < obstacles->count; i++)
        free(obstacles->items[i].sentence);
    free(obstacles->items);
    *obstacles = (struct obstacles){0};
}

/* ---- what the obstacles_*.c files have in common ---- */

void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            *text = '?';
}

void name_list_add(struct name_list *list, pid_t pid, const char *name)
{
    size_t used = strlen(list->text);
    list->count++;
    if (sizeof list->text - used < 64 + strlen(name))
        return; /* counted, and said by name_list_finish() */
    list->named++;
    snprintf(list->text + used, sizeof list->text - used, "%s%d (%s)", used ? ", " : "", pid, name);
}

const char *name_list_finish(struct name_list *list)
{
    size_t used = strlen(list->text);
    if (list->named < list->count)
        snprintf(list->text + used, sizeof list->text - used, " and %zu more", list->count - list->named);
    return list->text;
}

void status_copy(const char *status, const char *name, char *ret_value, size_t capacity)
{
    const char *value = status_find(status, name);
    size_t length = value ? strcspn(value, "\n") : 0;
    snprintf(ret_value, capacity, "%.*s", (int)length, value ? value : "");
    make_printable(ret_value);
}

int inspection_read(int dir_fd, const char *path, char **ret_text)
{
    int r = file_read(dir_fd, path, ret_text, NULL);
    return r == -ENOENT ? -ESRCH : r;
}

/* Some files of a process that has ended say EACCES rather than ESRCH. */
static bool has_ended(const struct inspection *inspection)
{
    struct proc_stat stat;
    if (inspection->proc_fd < 0)
        return false;
    int r = proc_stat_read(inspection->proc_fd, &stat);
    return r == 0 ? strchr("ZXx", stat.state) != NULL : r == -ESRCH || r == -ENOENT;
}

int inspection_fail(const struct inspection *inspection, int code, const char *path,
                    struct reseat_error **ret_error)
{
    if (code == -ESRCH || code == -ENOENT || has_ended(inspection))
        return error_set(ret_error, -ESRCH, "%s ended while it was being looked at", inspection->who);
    if (code == -ENOMEM)
        return error_errno(ret_error, code, "Looking at %s", inspection->who);
    return error_errno(ret_error, code,
                       "Reading /proc/%d/%s, without which nobody can say whether %s would come back whole",
                       inspection->pid, path, inspection->who);
}

/* ---- the course of an inspection ---- */

static void inspection_end(struct inspection *inspection)
{
    base_close(&inspection->proc_fd);
    base_close(&inspection->pidfd);
    free(inspection->status);
    free(inspection->tids);
}

/* Its threads, without those that the kernel runs in it and those that are just ending. */
static int list_threads(struct inspection *inspection)
{
    int r = proc_list_numbers(inspection->proc_fd, "task", &inspection->tids, &inspection->tid_count);
    if (r < 0)
        return r;
    size_t kept = 0;
    for (size_t i = 0; i < inspection->tid_count; i++) {
        struct proc_stat stat;
        char path[32];
        snprintf(path, sizeof path, "task/%d", inspection->tids[i]);
        _cleanup_close_ int task_fd = openat(inspection->proc_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        r = task_fd < 0 ? -errno : proc_stat_read(task_fd, &stat);
        if (r == -ENOENT || r == -ESRCH)
            continue;
        if (r < 0)
            return r;
        bool is_worker = stat.flags & KERNEL_WORKER_FLAGS;
        if (is_worker && strncmp(stat.comm, "iou-sqp-", 8) == 0)
            inspection->has_poll_worker = true;
        if (!is_worker && !strchr("ZXx", stat.state))
            inspection->tids[kept++] = inspection->tids[i];
    }
    inspection->tid_count = kept;
    return 0;
}

static int inspection_begin(struct inspection *inspection, struct reseat_error **ret_error)
{
    snprintf(inspection->who, sizeof inspection->who, "PID %d", inspection->pid);
    inspection->proc_fd = proc_open(inspection->pid);
    if (inspection->proc_fd < 0)
        return inspection_fail(inspection, inspection->proc_fd, "", ret_error);
    inspection->pidfd = sys_pidfd_open(inspection->pid);
    if (inspection->pidfd < 0)
        return error_errno(ret_error, inspection->pidfd, "Opening a pidfd on PID %d", inspection->pid);
    int r = proc_stat_read(inspection->proc_fd, &inspection->stat);
    if (r < 0)
        return inspection_fail(inspection, r, "stat", ret_error);
    make_printable(inspection->stat.comm);
    snprintf(inspection->who, sizeof inspection->who, "PID %d (%s)", inspection->pid, inspection->stat.comm);
    r = inspection_read(inspection->proc_fd, "status", &inspection->status);
    if (r < 0)
        return inspection_fail(inspection, r, "status", ret_error);
    r = list_threads(inspection);
    if (r < 0)
        return inspection_fail(inspection, r, "task", ret_error);
    return 0;
}

static int inspect(struct inspection *inspection, struct reseat_error **ret_error)
{
    int r = inspection_begin(inspection, ret_error);
    if (r < 0)
        return r;
    r = find_family_obstacles(inspection, ret_error);
    if (r < 0)
        return r;
    r = find_place_obstacles(inspection, ret_error);
    if (r < 0)
        return r;
    r = find_thread_obstacles(inspection, ret_error);
    if (r < 0)
        return r;
    _cleanup_free_ struct ring_place *rings = NULL;
    size_t ring_count = 0;
    r = find_capability_obstacles(inspection, &rings, &ring_count, ret_error);
    if (r < 0)
        return r;
    return find_memory_obstacles(inspection, rings, ring_count, ret_error);
}

int process_find_obstacles(pid_t pid, enum snapshot_form form, bool leave_running,
                           struct obstacles *ret_obstacles, struct reseat_error **ret_error)
{
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    _cleanup_(inspection_end) struct inspection inspection = {
        .pid = pid,
        .form = form,
        .leave_running = leave_running,
        .proc_fd = -EBADF,
        .pidfd = -EBADF,
        .obstacles = &obstacles,
    };
    int r = inspect(&inspection, ret_error);
    if (r < 0)
        return r;
    *ret_obstacles = obstacles;
    obstacles = (struct obstacles){0};
    return 0;
}
