/* What a durable image takes besides a twin: everything that the twin holds by itself, put down in tables by
 * the rooms that know it. */
#include "durable.h"
#include "lib-internal.h"

#include "cold/cold.h"
#include "image/image.h"
#include "native_pd/native_pd.h"
#include "object/object.h"
#include "target/target.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

/* ---- what an image would not bring back ---- */

int durable_judge_objects(const struct snapshot *snapshot, bool is_running, struct obstacles *obstacles,
                          struct reseat_error **ret_error)
{
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    struct object_options options = {.is_running = is_running};
    int r = object_judge_cold(snapshot, &options, &verdicts, ret_error);
    for (size_t i = 0; r == 0 && i < verdicts.count; i++) {
        const struct object_verdict *verdict = &verdicts.items[i];
        if (verdict->fate < OBJECT_DEGRADED || !verdict->sentence)
            continue;
        r = obstacles_add(obstacles, verdict->fate == OBJECT_LOST ? SEVERITY_LOST : SEVERITY_DEGRADED,
                          (int)verdict->selector, "%s", verdict->sentence);
        if (r < 0)
            error_errno(ret_error, r, "judging what an image of process %u would bring back",
                        snapshot->process.pid);
    }
    return r;
}

int durable_find_obstacles(pid_t pid, struct obstacles *obstacles, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot outline = {0};
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    outline.process.pid = (uint32_t)pid;
    int r = native_pd_open(pid, &pd, ret_error);
    if (r == 0)
        r = object_capture_outline(pd, true, &outline, ret_error);
    if (r == 0)
        r = durable_judge_objects(&outline, true, obstacles, ret_error);
    return r == 0 ? cold_check_process(pid, obstacles, ret_error) : r;
}

/* A line of /proc/PID/maps: shared, and of no file that has a name. */
static bool is_shared_line(const char *line)
{
    char permissions[8] = "", path[32] = "";
    if (sscanf(line, "%*s %7s %*s %*s %*s %31s", permissions, path) < 1 || permissions[3] != 's')
        return false;
    return strncmp(path, "/SYSV", 5) == 0 || strncmp(path, "/memfd:", 7) == 0 ||
           strncmp(path, "[anon_shmem:", 12) == 0 || strstr(line, " (deleted)") != NULL ||
           strncmp(path, "/anon_hugepage", 14) == 0;
}

bool durable_shares_memory(pid_t pid)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    _cleanup_free_ char *maps = NULL;
    if (proc_fd < 0 || file_read(proc_fd, "maps", &maps, NULL) < 0)
        return true;
    char *rest = maps;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (is_shared_line(line))
            return true;
    return false;
}

/* ---- what the rooms say ---- */

int durable_freeze_connections(pid_t pid, const struct snapshot *snapshot, struct object_freeze **ret_freeze,
                               struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    int r = native_pd_open(pid, &pd, ret_error);
    return r == 0 ? object_freeze_connections(pd, snapshot, ret_freeze, ret_error) : r;
}

void durable_contents_end(struct durable_contents *contents)
{
    for (size_t i = 0; i < contents->count; i++)
        base_close(&contents->items[i].fd);
    free(contents->items);
}

static int take_content(void *userdata, object_id_t object, int file, uint64_t size)
{
    struct durable_contents *contents = userdata;
    struct image_content *item = array_append(contents->items, contents->count);
    if (!item) {
        base_close(&file);
        return -ENOMEM;
    }
    *item = (struct image_content){object, file, size};
    return 0;
}

int durable_capture_objects(pid_t pid, struct durable_contents *contents, struct snapshot *snapshot,
                            struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    int r = native_pd_open(pid, &pd, ret_error);
    descriptor_limit_raise();
    if (r == 0)
        r = object_capture(pd, &(struct object_contents){take_content, contents}, snapshot, ret_error);
    return r < 0 ? error_prefix(ret_error, r, "describing the capabilities") : 0;
}

/* Shared memory without a file that there nevertheless is a capability on, or another mapping as of a file
 * (by /proc/PID/map_files): all of these must come back as one object. */
static bool is_shared_of_object(const struct snapshot *snapshot, const struct snapshot_vma *vma)
{
    if (vma->kind != SNAPSHOT_VMA_SHARED || (vma->flags & SNAPSHOT_VMA_HUGETLB))
        return false;
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        const struct snapshot_object *row = &snapshot->objects[i];
        if (row->inode == vma->inode && row->device_major == vma->device_major &&
            row->device_minor == vma->device_minor && !(row->flags & SNAPSHOT_OBJECT_LOST))
            return true;
    }
    return false;
}

static int capture_mapping(pid_t pid, struct native_pd *pd, struct durable_contents *contents,
                           struct snapshot *snapshot, struct snapshot_vma *vma,
                           struct reseat_error **ret_error)
{
    char link[96];
    snprintf(link, sizeof link, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid, vma->start, vma->end);
    bool may_write = (vma->flags & SNAPSHOT_VMA_MAP_SHARED) && (vma->flags & SNAPSHOT_VMA_MAY_WRITE);
    _cleanup_close_ int fd = open(link, (may_write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    object_id_t object = 0;
    struct stat stat;
    int r = 0;
    if (fd >= 0)
        r = object_capture_mapped(pd, fd, &(struct object_contents){take_content, contents}, snapshot,
                                  &object, ret_error);
    if (r == 0 && object && vma->kind == SNAPSHOT_VMA_SHARED && fstat(fd, &stat) == 0) {
        vma->kind = SNAPSHOT_VMA_OBJECT;
        vma->file_size = (uint64_t)stat.st_size;
    }
    if (vma->kind == SNAPSHOT_VMA_OBJECT)
        vma->object = object;
    return r;
}

/* The objects behind mappings of files without a name, which may have no selector any more. Without the right
 * to open what is mapped (CAP_CHECKPOINT_RESTORE) their content is stored as memory. */
static int capture_mapped(pid_t pid, struct durable_contents *contents, struct snapshot *snapshot,
                          struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    int r = native_pd_open(pid, &pd, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++)
        if (snapshot->vmas[i].kind == SNAPSHOT_VMA_OBJECT)
            r = capture_mapping(pid, pd, contents, snapshot, &snapshot->vmas[i], ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++)
        if (is_shared_of_object(snapshot, &snapshot->vmas[i]))
            r = capture_mapping(pid, pd, contents, snapshot, &snapshot->vmas[i], ret_error);
    return r;
}

int durable_describe(struct target *twin, struct durable_contents *contents, struct snapshot *snapshot,
                     struct reseat_error **ret_error)
{
    int r = twin_describe(twin, snapshot, ret_error);
    if (r == 0)
        r = process_describe_machine(snapshot, ret_error);
    if (r == 0)
        r = process_capture_map(twin->pid, snapshot, ret_error);
    return r == 0 ? capture_mapped(twin->pid, contents, snapshot, ret_error) : r;
}
