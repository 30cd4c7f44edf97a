/* System V shared memory (shmop(2)) is an object of the machine, not of the process: if the segment is still
 * there, the process is attached to it again, and finds in it what others have written meanwhile. If it is
 * not, it is made anew with its key and number (/proc/sys/kernel/shm_next_id, which takes
 * CAP_CHECKPOINT_RESTORE) and its content; and if it has gone in this very boot, it was one that goes with
 * its last user, and will again. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/shm.h>

#define MODE 0600

static key_t key_of(const struct snapshot *snapshot, const struct snapshot_vma *vma)
{
    const char *path = (const char *)snapshot->blobs + vma->path_offset;
    return strlen(path) > strlen("/SYSV") ? (key_t)strtoul(path + strlen("/SYSV"), NULL, 16) : IPC_PRIVATE;
}

static uint64_t pages(uint64_t bytes)
{
    return (bytes + COLD_PAGE_BYTES - 1) / COLD_PAGE_BYTES;
}

/* Its exact size, if that was known (process/map.c), or what is mapped of it. */
static size_t size_of(const struct snapshot *snapshot, const struct snapshot_vma *vma)
{
    uint64_t size = 0;
    for (size_t i = 0; i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *other = &snapshot->vmas[i];
        uint64_t end = other->offset + (other->end - other->start);
        if (other->kind == SNAPSHOT_VMA_SYSV && other->inode == vma->inode && end > size)
            size = end;
    }
    bool is_exact = vma->file_size && pages(vma->file_size) >= pages(size);
    return is_exact ? vma->file_size : size;
}

bool cold_has_segment(const struct snapshot *snapshot, const struct snapshot_vma *vma)
{
    struct shmid_ds segment;
    return vma->inode <= INT32_MAX && shmctl((int)vma->inode, IPC_STAT, &segment) == 0 &&
           segment.shm_perm.__key == key_of(snapshot, vma) &&
           pages(segment.shm_segsz) >= pages(size_of(snapshot, vma));
}

bool cold_may_make_segments(void)
{
    _cleanup_close_ int fd = open("/proc/sys/kernel/shm_next_id", O_WRONLY | O_CLOEXEC);
    return fd >= 0;
}

/* Reads what the image has of it straight into the new segment. */
static int fill_segment(const struct cold_plan *plan, const struct snapshot_vma *wanted, uint8_t *memory,
                        struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        if (vma->kind == SNAPSHOT_VMA_SYSV && vma->inode == wanted->inode)
            r = cold_read_memory(plan, vma->start, vma->end - vma->start, memory + vma->offset, ret_error);
    }
    return r;
}

static int make_segment(struct cold_plan *plan, const struct snapshot_vma *vma,
                        struct reseat_error **ret_error)
{
    char number[16];
    snprintf(number, sizeof number, "%u", (unsigned)vma->inode);
    _cleanup_close_ int fd = open("/proc/sys/kernel/shm_next_id", O_WRONLY | O_CLOEXEC);
    if (fd >= 0)
        (void)!write(fd, number, strlen(number));
    int id = shmget(key_of(plan->snapshot, vma), size_of(plan->snapshot, vma), IPC_CREAT | IPC_EXCL | MODE);
    if (id < 0)
        return error_errno(ret_error, -errno, "making System V shared memory of key %#x",
                           (unsigned)key_of(plan->snapshot, vma));
    int *made = array_append(plan->segments, plan->segment_count);
    void *memory = made ? shmat(id, NULL, 0) : (void *)-1;
    if (made)
        *made = id;
    int r = memory == (void *)-1
                ? error_errno(ret_error, made ? -errno : -ENOMEM, "attaching System V shared memory %d", id)
                : fill_segment(plan, vma, memory, ret_error);
    if (r == 0 && (uint64_t)id != vma->inode)
        r = error_set(ret_error, -EEXIST,
                      "System V shared memory cannot have its number %u again, which is taken",
                      (unsigned)vma->inode);
    if (memory != (void *)-1)
        shmdt(memory);
    return r;
}

int cold_make_segments(struct cold_plan *plan, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        if (vma->kind == SNAPSHOT_VMA_SYSV && !cold_has_segment(snapshot, vma) && cold_may_make_segments())
            r = make_segment(plan, vma, ret_error);
    }
    return r;
}

void cold_settle_segments(struct cold_plan *plan, bool failed)
{
    for (size_t i = 0; i < plan->segment_count; i++)
        if (failed || boot_id_is_current(plan->snapshot->process.boot_id))
            shmctl(plan->segments[i], IPC_RMID, NULL); /* with its last user */
    free(TAKE_PTR(plan->segments));
    plan->segment_count = 0;
}
