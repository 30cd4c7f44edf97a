/* reseat_list_twins(), reseat_drop(): what is asleep on this machine, and its end. A twin is found by its
 * name and its header, so that one whose Reseat was killed before its directory was there is found as well.
 */
#include "lib-internal.h"

#include "image/image.h"
#include "object/object.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

static uint64_t age_of(const struct proc_stat *stat)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    uint64_t now_age_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
    uint64_t start_ns = stat->start_time * (1000000000U / (uint64_t)sysconf(_SC_CLK_TCK));
    return now_age_ns > start_ns ? now_age_ns - start_ns : 0;
}

static uint64_t private_bytes_of(int proc_fd)
{
    _cleanup_free_ char *rollup = NULL;
    if (file_read(proc_fd, "smaps_rollup", &rollup, NULL) < 0)
        return 0;
    return (status_number(rollup, "Private_Dirty", 10) + status_number(rollup, "Private_Clean", 10)) * 1024;
}

/* Whether the directory that a twin's header names still speaks of this twin. */
static bool is_twin_of(const char *dir, pid_t twin)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    uid_t owner;
    return image_read(dir, &snapshot, &owner, NULL) == 0 && snapshot.process.twin == (uint32_t)twin;
}

static int describe_twin(pid_t pid, const struct twin_header *header, struct reseat_twin *ret_twin)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    struct proc_stat stat, target;
    _cleanup_free_ int *selectors = NULL;
    size_t count;
    if (proc_fd < 0 || proc_stat_read(proc_fd, &stat) < 0 ||
        proc_list_numbers(proc_fd, "fd", &selectors, &count) < 0)
        return -ESRCH;
    char *dir = is_twin_of(header->dir, pid) ? strdup(header->dir) : NULL;
    *ret_twin = (struct reseat_twin){
        .dir = dir,
        .pid = (pid_t)header->pid,
        .twin = pid,
        .age_ns = age_of(&stat),
        .private_bytes = private_bytes_of(proc_fd),
        .capabilities = (unsigned)count,
        .target_runs = proc_stat_of((pid_t)header->pid, &target) == 0 && target.state != 'Z',
    };
    return 0;
}

int reseat_list_twins(struct reseat_twin **ret_twins, size_t *ret_count, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t pid_count;
    int r = proc_fd < 0 ? -errno : proc_list_numbers(proc_fd, "", &pids, &pid_count);
    if (r < 0)
        return error_errno(ret_error, r, "listing the processes in /proc");
    struct reseat_twin *twins = NULL;
    size_t count = 0;
    for (size_t i = 0; i < pid_count; i++) {
        struct twin_header header;
        struct reseat_twin twin;
        if (twin_read_header(pids[i], &header) < 0 || describe_twin(pids[i], &header, &twin) < 0)
            continue;
        struct reseat_twin *row = array_append(twins, count);
        if (!row) {
            free(twin.dir);
            reseat_twins_free(twins, count);
            return error_errno(ret_error, -ENOMEM, "listing twins");
        }
        *row = twin;
    }
    *ret_twins = twins;
    *ret_count = count;
    return 0;
}

void reseat_twins_free(struct reseat_twin *twins, size_t count)
{
    for (size_t i = 0; i < count; i++)
        free(twins[i].dir);
    free(twins);
}

int reseat_drop(const char *dir, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = open_checkpoint(dir, &snapshot, &error);
    if (r == 0)
        r = twin_end((pid_t)snapshot.process.twin, snapshot.process.twin_start_time, &error);
    /* A twin that is gone already (killed, or the machine was started again) needs no end. */
    if (r < 0 && r != -ESRCH) {
        if (ret_error)
            *ret_error = TAKE_PTR(error);
        return r;
    }
    _cleanup_(snapshot_free) struct snapshot stored = {0};
    uid_t owner;
    bool is_read = image_read(dir, &stored, &owner, NULL) == 0;
    if (is_read) /* the peers of connections that an image has waited with learn that nobody will come */
        object_forget_connections(&stored);
    return is_read && stored.vmas_count > 0 ? 0 : image_remove(dir, ret_error); /* an image stays */
}

int reseat_drop_twin(pid_t twin, struct reseat_error **ret_error)
{
    struct twin_header header;
    if (twin_read_header(twin, &header) < 0)
        return error_set(ret_error, -ENOENT, "process %d is not a sleeping twin, or not one of ours", twin);
    if (is_twin_of(header.dir, twin))
        return error_set(ret_error, -EBUSY, "the twin %d belongs to %s: drop that", twin, header.dir);
    return twin_end(twin, 0, ret_error);
}
