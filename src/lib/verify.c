/* reseat_verify(): compares a process with the twin of a checkpoint. */
#include "lib-internal.h"

#include "image/image.h"
#include "object/object.h"
#include "twin/twin.h"

#include <errno.h>

static int check_owner(const struct snapshot *snapshot, const char *dir, uid_t owner,
                       struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open((pid_t)snapshot->process.twin);
    _cleanup_free_ char *status = NULL;
    int r = proc_fd < 0 ? proc_fd : file_read(proc_fd, "status", &status, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "reading the status of the twin %u", snapshot->process.twin);
    unsigned real, effective, saved;
    const char *ids = status_find(status, "Uid");
    bool runs_as_owner = ids && sscanf(ids, "%u %u %u", &real, &effective, &saved) == 3 && real == owner &&
                         effective == owner && saved == owner;
    if (owner != 0 && !runs_as_owner && owner != geteuid())
        return error_set(
            ret_error, -EPERM,
            "%s belongs to user %u, who is not the one that the twin %u runs as: not to be trusted", dir,
            owner, snapshot->process.twin);
    return 0;
}

int open_checkpoint(const char *dir, struct snapshot *ret_snapshot, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    uid_t owner;
    int r = image_read(dir, &snapshot, &owner, ret_error);
    if (r < 0)
        return r;
    r = twin_check(&snapshot, ret_error);
    if (r == 0)
        r = check_owner(&snapshot, dir, owner, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "%s", dir);
    *ret_snapshot = snapshot;
    snapshot = (struct snapshot){0};
    return 0;
}

int reseat_verify(const char *dir, pid_t pid, struct reseat_verification **ret_verification,
                  struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    int r = open_checkpoint(dir, &snapshot, ret_error);
    if (r < 0)
        return r;
    pid = pid ? pid : (pid_t)snapshot.process.pid;
    struct proc_stat stat;
    r = proc_stat_of(pid, &stat);
    if (r < 0 || stat.state == 'Z')
        return error_set(ret_error, -ESRCH, "%s: process %d does not run", dir, pid);
    r = object_find_fixups((pid_t)snapshot.process.twin, &snapshot, ret_error);
    if (r < 0)
        return r;
    struct reseat_verification *verification = calloc(1, sizeof *verification);
    if (!verification)
        return error_errno(ret_error, -ENOMEM, "verifying process %d", pid);
    struct comparison comparison;
    struct exceptions exceptions = {.snapshot = &snapshot};
    r = compare_slots(pid, (pid_t)snapshot.process.twin, &exceptions, &comparison, ret_error);
    if (r < 0) {
        free(verification);
        return r;
    }
    *verification = (struct reseat_verification){
        .pid = pid,
        .twin = (pid_t)snapshot.process.twin,
        .slots = comparison.slots,
        .same = comparison.same,
        .differences = comparison.differences,
        .difference_count = comparison.difference_count,
    };
    *ret_verification = verification;
    return 0;
}

void reseat_verification_free(struct reseat_verification *verification)
{
    if (verification)
        free(verification->differences);
    free(verification);
}
