/* Files that the process has without a capability: those that it maps, its program, its directories. They are
 * opened here, and compared with what they were: by size and time, and on the same machine and boot also by
 * device and inode. The process maps them by descriptors that it has inherited from us.
 *
 * A shared mapping of a file is the file, as it is now: Reseat does not copy files. A private one of a file
 * that has changed would be another program.
 *
 * What a twin that still lives has (the holder) is to be had even if its path leads nowhere any more, and
 * shared memory that never had one: through /proc/PID/map_files, cwd and exe (proc(5)). */
#include "cold/cold-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* What a file was. */
struct identity {
    uint64_t inode, size;
    int64_t modified_ns;
    uint32_t device_major, device_minor;
};

/* NULL, or what is not as it was. */
static const char *find_change(const struct stat *now, const struct identity *before, bool same_boot)
{
    int64_t modified_ns = now->st_mtim.tv_sec * INT64_C(1000000000) + now->st_mtim.tv_nsec;
    if (!S_ISREG(now->st_mode))
        return "is no regular file any more";
    if ((uint64_t)now->st_size != before->size)
        return "has another size";
    if (modified_ns != before->modified_ns)
        return "has been written to since";
    bool is_same = now->st_ino == before->inode && major(now->st_dev) == before->device_major &&
                   minor(now->st_dev) == before->device_minor;
    return same_boot && !is_same ? "is another file of the same size and time" : NULL;
}

/* O_NONBLOCK: a FIFO that has taken its place must not hold us up. */
static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* A magic link below /proc/PID of the holder. */
static int open_held(const struct cold_plan *plan, const char *name, int flags)
{
    char path[96];
    if (!plan->holder)
        return -ENOENT;
    snprintf(path, sizeof path, "/proc/%d/%s", plan->holder, name);
    return open_file(path, flags);
}

/* What it has mapped where the mapping was, opened to be mapped in the same way. */
static int open_held_mapping(const struct cold_plan *plan, const struct snapshot_vma *vma, int flags)
{
    char name[64];
    snprintf(name, sizeof name, "map_files/%" PRIx64 "-%" PRIx64, vma->start, vma->end);
    return open_held(plan, name, flags);
}

/* ---- mapped files ---- */

static bool is_of_file(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_FILE && !(vma->flags & SNAPSHOT_VMA_STORED);
}

static int access_of(const struct snapshot_vma *vma)
{
    return (vma->flags & SNAPSHOT_VMA_MAP_SHARED) && (vma->flags & SNAPSHOT_VMA_MAY_WRITE) ? O_RDWR
                                                                                           : O_RDONLY;
}

/* An earlier mapping of the same file, opened in the same way. */
static bool find_opened(const struct cold_plan *plan, size_t index, int *ret_fd)
{
    const struct snapshot *snapshot = plan->snapshot;
    const struct snapshot_vma *vma = &snapshot->vmas[index];
    for (size_t i = index; i-- > 0;) {
        const struct snapshot_vma *other = &snapshot->vmas[i];
        if (is_of_file(other) && other->inode == vma->inode && access_of(other) == access_of(vma) &&
            plan->vma_fds[i] >= 0 &&
            strcmp(cold_text(snapshot, other->path_offset), cold_text(snapshot, vma->path_offset)) == 0) {
            *ret_fd = plan->vma_fds[i];
            return true;
        }
    }
    return false;
}

static struct identity identity_of(const struct snapshot_vma *vma)
{
    return (struct identity){vma->inode, vma->file_size, vma->modified_ns, vma->device_major,
                             vma->device_minor};
}

static bool is_as_it_was(const struct snapshot_vma *vma, int fd, bool same_boot)
{
    struct stat now;
    const struct identity before = identity_of(vma);
    return fd >= 0 && fstat(fd, &now) == 0 && !find_change(&now, &before, same_boot);
}

/* Removed or replaced since, but the holder still has it. */
static void use_held(const struct cold_plan *plan, const struct snapshot_vma *vma, bool same_boot, int *fd)
{
    _cleanup_close_ int held = open_held_mapping(plan, vma, access_of(vma));
    if (!is_as_it_was(vma, held, same_boot))
        return;
    base_close(fd);
    *fd = TAKE_FD(held);
}

static int judge_mapped(const struct snapshot_vma *vma, const char *path, int fd, bool same_boot,
                        struct obstacles *obstacles)
{
    struct stat now;
    if (fstat(fd, &now) < 0)
        return -errno;
    const struct identity before = identity_of(vma);
    const char *change = find_change(&now, &before, same_boot);
    if (!change)
        return 0;
    bool is_shared = vma->flags & SNAPSHOT_VMA_MAP_SHARED;
    bool is_shorter = (uint64_t)now.st_size < before.size || !S_ISREG(now.st_mode);
    return obstacles_add(obstacles,
                         !is_shared   ? SEVERITY_LOST
                         : is_shorter ? SEVERITY_DEGRADED
                                      : SEVERITY_NOTE,
                         -1, "the file %s, which is mapped at %#lx, %s", path, (unsigned long)vma->start,
                         change);
}

static int open_mapped(struct cold_plan *plan, size_t index, bool same_boot, struct obstacles *obstacles,
                       struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    const struct snapshot_vma *vma = &snapshot->vmas[index];
    const char *path = cold_text(snapshot, vma->path_offset);
    if (!is_of_file(vma) || find_opened(plan, index, &plan->vma_fds[index]))
        return 0;
    int fd = open_file(path, access_of(vma));
    if (!is_as_it_was(vma, fd, same_boot))
        use_held(plan, vma, same_boot, &fd);
    if (fd < 0)
        return error_errno(
            ret_error, fd,
            "opening %s, which process %u maps (the image refers to it; take the checkpoint with "
            "--self-contained to have it in the image)",
            path, snapshot->process.pid);
    plan->vma_fds[index] = fd;
    int r = judge_mapped(vma, path, fd, same_boot, obstacles);
    return r < 0 ? error_errno(ret_error, r, "looking at %s", path) : 0;
}

/* ---- shared memory ---- */

static bool is_shared(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_SHARED;
}

bool cold_is_held(const struct cold_plan *plan, size_t index)
{
    return is_shared(&plan->snapshot->vmas[index]) && plan->vma_fds && plan->vma_fds[index] >= 0;
}

/* All of it, or none: what is one object for the process must be one object again. */
static void open_shared(struct cold_plan *plan)
{
    const struct snapshot *snapshot = plan->snapshot;
    bool is_whole = plan->holder;
    for (size_t i = 0; is_whole && i < snapshot->vmas_count; i++)
        if (is_shared(&snapshot->vmas[i])) {
            plan->vma_fds[i] = open_held_mapping(plan, &snapshot->vmas[i], O_RDWR);
            is_whole = plan->vma_fds[i] >= 0;
        }
    for (size_t i = 0; !is_whole && i < snapshot->vmas_count; i++)
        if (is_shared(&snapshot->vmas[i])) {
            base_close(&plan->vma_fds[i]);
            plan->vma_fds[i] = -1;
        }
}

/* ---- program and directories ---- */

static bool may_set_program(void)
{
    _cleanup_free_ char *status = NULL;
    enum { SYS_RESOURCE = 24, SYS_ADMIN = 21, CHECKPOINT_RESTORE = 40 };
    if (file_read(AT_FDCWD, "/proc/thread-self/status", &status, NULL) < 0)
        return false;
    uint64_t effective = status_number(status, "CapEff", 16);
    return effective &
           (UINT64_C(1) << SYS_RESOURCE | UINT64_C(1) << SYS_ADMIN | UINT64_C(1) << CHECKPOINT_RESTORE);
}

static int open_program(struct cold_plan *plan, bool same_boot, struct obstacles *obstacles,
                        struct reseat_error **ret_error)
{
    const struct snapshot_state *state = &plan->snapshot->states[0];
    const char *path = cold_text(plan->snapshot, state->exe_offset);
    const struct identity before = {state->exe_inode, state->exe_size, state->exe_modified_ns,
                                    state->exe_device_major, state->exe_device_minor};
    struct stat now;
    if (!may_set_program())
        return obstacles_add(obstacles, SEVERITY_NOTE, -1,
                             "/proc/%u/exe will be reseat, not %s: to set it takes CAP_CHECKPOINT_RESTORE",
                             plan->snapshot->process.pid, path);
    int fd = open_held(plan, "exe", O_RDONLY);
    if (fd < 0 && !(state->flags & SNAPSHOT_STATE_REMOVED_EXE))
        fd = open_file(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &now) < 0 || find_change(&now, &before, same_boot)) {
        base_close(&fd);
        return obstacles_add(obstacles, SEVERITY_NOTE, -1,
                             "/proc/%u/exe will be reseat: the file %s is not there any more, or another one",
                             plan->snapshot->process.pid, path);
    }
    plan->exe_fd = fd;
    (void)ret_error;
    return 0;
}

/* Where we may not give it its owner it keeps us, and a mode that lets nobody else in. */
static void give_attributes(const struct snapshot_state *state, int fd)
{
    if (state->directory_mode && fchown(fd, state->directory_uid, state->directory_gid) == 0)
        (void)!fchmod(fd, state->directory_mode & 03777);
}

/* A directory that was removed while the process was in it: made, opened and removed again, under its old
 * name if that is free. */
static int open_removed(const struct snapshot_state *state, const char *path)
{
    static const char deleted[] = " (deleted)";
    char name[4200];
    size_t length = strlen(path), suffix = sizeof deleted - 1;
    if (length > suffix && strcmp(path + length - suffix, deleted) == 0)
        length -= suffix;
    snprintf(name, sizeof name, "%.*s", (int)length, path);
    if (mkdir(name, 0700) < 0) {
        snprintf(name, sizeof name, "/tmp/reseat-XXXXXX");
        if (!mkdtemp(name))
            return -errno;
    }
    int fd = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = fd < 0 ? -errno : fd;
    rmdir(name);
    if (r >= 0)
        give_attributes(state, fd);
    return r;
}

int cold_check_directory(const struct snapshot *snapshot, struct obstacles *obstacles)
{
    const struct snapshot_state *state = &snapshot->states[0];
    if (!(state->flags & SNAPSHOT_STATE_REMOVED_DIRECTORY))
        return 0;
    return obstacles_add(
        obstacles, state->directory_mode ? SEVERITY_NOTE : SEVERITY_DEGRADED, -1,
        "the working directory %s had been removed: another removed directory takes its place",
        cold_text(snapshot, state->directory_offset));
}

/* By its path (NULL: it has none any more), or else the holder's. */
static int open_directory(const struct cold_plan *plan, const char *path, const char *held)
{
    int fd = path ? open_file(path, O_PATH | O_DIRECTORY) : -ENOENT;
    int of_holder = fd < 0 ? open_held(plan, held, O_PATH | O_DIRECTORY) : -ENOENT;
    return of_holder >= 0 ? of_holder : fd;
}

static int open_directories(struct cold_plan *plan, struct obstacles *obstacles,
                            struct reseat_error **ret_error)
{
    const struct snapshot_state *state = &plan->snapshot->states[0];
    const char *path = cold_text(plan->snapshot, state->directory_offset);
    const char *root = cold_text(plan->snapshot, state->root_offset);
    bool is_removed = state->flags & SNAPSHOT_STATE_REMOVED_DIRECTORY;
    if (state->flags & SNAPSHOT_STATE_OTHER_ROOT) {
        plan->root_fd = open_directory(plan, root, "root");
        if (plan->root_fd < 0)
            return error_errno(ret_error, plan->root_fd, "opening %s, the root directory of process %u", root,
                               plan->snapshot->process.pid);
    }
    plan->directory_fd = open_directory(plan, is_removed ? NULL : path, "cwd");
    if (plan->directory_fd >= 0)
        return 0;
    if (!is_removed)
        return error_errno(ret_error, plan->directory_fd, "opening %s, the working directory of process %u",
                           path, plan->snapshot->process.pid);
    plan->directory_fd = open_removed(state, path);
    if (plan->directory_fd < 0)
        return error_errno(ret_error, plan->directory_fd, "making a working directory in place of %s", path);
    return cold_check_directory(plan->snapshot, obstacles);
}

int cold_open(struct cold_plan *plan, struct obstacles *obstacles, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    bool same_boot = boot_id_is_current(snapshot->process.boot_id);
    plan->vma_fds = malloc((snapshot->vmas_count + 1) * sizeof *plan->vma_fds);
    if (!plan->vma_fds)
        return error_errno(ret_error, -ENOMEM, "opening the files of process %u", snapshot->process.pid);
    for (size_t i = 0; i < snapshot->vmas_count; i++)
        plan->vma_fds[i] = -1;
    int r = 0;
    open_shared(plan);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++)
        r = open_mapped(plan, i, same_boot, obstacles, ret_error);
    if (r == 0)
        r = open_program(plan, same_boot, obstacles, ret_error);
    return r == 0 ? open_directories(plan, obstacles, ret_error) : r;
}

void cold_close(struct cold_plan *plan)
{
    for (size_t i = 0; plan->vma_fds && i < plan->snapshot->vmas_count; i++) {
        int fd = plan->vma_fds[i];
        for (size_t j = i; fd >= 0 && j < plan->snapshot->vmas_count; j++)
            if (plan->vma_fds[j] == fd)
                plan->vma_fds[j] = -1; /* shared with other mappings */
        base_close(&fd);
    }
    free(TAKE_PTR(plan->vma_fds));
    base_close(&plan->exe_fd);
    base_close(&plan->directory_fd);
    base_close(&plan->root_fd);
    plan->exe_fd = plan->directory_fd = plan->root_fd = -EBADF;
}
