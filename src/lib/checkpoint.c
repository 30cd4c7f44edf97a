/* reseat_checkpoint(): from a live process to a sleeping twin and a directory that speaks of it.
 *
 * The order is what makes it safe to be killed at any point: everything that can be refused is refused before
 * the first thread stops; the directory is complete before the twin is let go; the twin sleeps before the
 * target is killed. Until then the target undoes by itself what was done to it, and the twin ends by itself.
 */
#include "lib-internal.h"

#include "image/image.h"
#include "object/object.h"
#include "target/target.h"
#include "twin/twin.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

int judge_obstacles(const struct obstacles *obstacles, enum reseat_allow allow, reseat_note_fn note,
                    void *userdata, struct reseat_error **ret_error)
{
    static const char *const fates[] = {"", "degraded", "lost", "not permitted by --slot"};
    _cleanup_free_ char *lines = NULL;
    size_t length = 0;
    FILE *text = open_memstream(&lines, &length);
    if (!text)
        return error_errno(ret_error, -ENOMEM, "listing what would not come back");
    for (size_t i = 0; i < obstacles->count; i++) {
        const struct obstacle *item = &obstacles->items[i];
        if ((int)item->severity > (int)allow)
            fprintf(text, "\n  %s: %s", fates[item->severity], item->sentence);
        else if (note)
            note(userdata, item->sentence);
    }
    if (fclose(text) != 0)
        return error_errno(ret_error, -ENOMEM, "listing what would not come back");
    if (!length)
        return 0;
    return error_set(ret_error, -RESEAT_REFUSED,
                     "not everything would come back, and --allow does not permit that:%s", lines);
}

static int check_obstacles(pid_t pid, enum snapshot_form form,
                           const struct reseat_checkpoint_options *options, struct reseat_error **ret_error)
{
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = process_find_obstacles(pid, form, options->flags & RESEAT_LEAVE_RUNNING, &obstacles, ret_error);
    return r < 0 ? r
                 : judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
}

/* `shared`: what a copy will share with the target; NULL: the target will be killed, and the twin is an heir.
 */
static int make_twin(struct target *target, struct snapshot *snapshot, struct image_draft *draft,
                     const struct shared_objects *shared, bool leave_running, struct target *ret_twin,
                     struct reseat_error **ret_error)
{
    int r = target_reserve_mirror(target, twin_scratch_bytes_about(target->thread_count), ret_error);
    if (r == 0)
        r = target_stop(target, ret_error);
    if (r == 0)
        r = process_capture(target, snapshot, ret_error);
    if (r == 0)
        r = object_capture_shared(target->pid, shared, snapshot, ret_error);
    if (r == 0)
        r = target_map_scratch(target, twin_scratch_bytes(snapshot), ret_error);
    if (r == 0)
        r = twin_make(target, snapshot, draft->path, !leave_running, ret_twin, ret_error);
    return r;
}

static int publish(struct target *twin, const struct snapshot *snapshot, struct image_draft *draft,
                   struct reseat_error **ret_error)
{
    int r = image_draft_write(draft, snapshot, ret_error);
    if (r == 0)
        r = image_draft_publish(draft, ret_error);
    if (r < 0)
        return r;
    r = twin_commit(twin, snapshot, ret_error);
    if (r < 0)
        image_remove(draft->path, NULL);
    return r;
}

static int checkpoint(struct target *target, struct snapshot *snapshot, struct image_draft *draft,
                      const struct shared_objects *shared, bool leave_running, uint64_t *ret_pause_ns,
                      struct reseat_error **ret_error)
{
    _cleanup_(twin_discard) struct target twin = TARGET_NONE;
    int r = make_twin(target, snapshot, draft, shared, leave_running, &twin, ret_error);
    uint64_t start_ns = target->stop_ns;
    if (r == 0 && leave_running) {
        *ret_pause_ns = target->go_ns - start_ns;
        target_release(target);
    }
    if (r == 0)
        r = publish(&twin, snapshot, draft, ret_error);
    if (r == 0 && !leave_running) {
        r = sys_pidfd_send_signal(target->pidfd, SIGKILL);
        *ret_pause_ns = now_ns() - start_ns;
        if (r < 0)
            return error_errno(ret_error, r, "killing process %u", snapshot->process.pid);
        target_reap(target);
    }
    if (r == 0)
        target_release(&twin); /* it sleeps: nothing to discard */
    return r;
}

/* Who may trace a process may not always signal it (CAP_SYS_PTRACE without CAP_KILL). */
static int check_may_kill(pid_t pid, struct reseat_error **ret_error)
{
    if (kill(pid, 0) == 0)
        return 0;
    return error_errno(ret_error, -errno,
                       "process %d may be traced by us but not ended, which takes CAP_KILL (or "
                       "--leave-running)",
                       pid);
}

int reseat_checkpoint(pid_t pid, const char *dir, const struct reseat_checkpoint_options *options,
                      struct reseat_checkpoint_result *ret_result, struct reseat_error **ret_error)
{
    static const struct reseat_checkpoint_options usual;
    options = options ? options : &usual;
    bool leave_running = options->flags & RESEAT_LEAVE_RUNNING;
    enum snapshot_form form = leave_running ? SNAPSHOT_FORM_COPY : SNAPSHOT_FORM_HEIR;
    if (!(options->flags & RESEAT_LIVE))
        return error_set(ret_error, -EOPNOTSUPP,
                         "durable images do not exist yet: ask for a live checkpoint (--live)");

    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(image_draft_end) struct image_draft draft = {.parent_fd = -EBADF, .dir_fd = -EBADF};
    int r = process_check_eligible(pid, ret_error);
    if (r == 0 && !leave_running)
        r = check_may_kill(pid, ret_error);
    if (r == 0)
        r = check_obstacles(pid, form, options, ret_error);
    if (r == 0)
        r = image_draft_begin(dir, &draft, ret_error);
    if (r == 0)
        r = process_survey(pid, form, &snapshot, ret_error);
    if (r < 0)
        return r;
    if (leave_running)
        snapshot.process.flags |= SNAPSHOT_LEFT_RUNNING;

    _cleanup_(shared_objects_end) struct shared_objects shared = {0};
    _cleanup_(target_release) struct target target = TARGET_NONE;
    uint64_t pause_ns = 0;
    if (leave_running || object_has_locks(pid))
        r = object_find_shared(pid, &shared, ret_error);
    if (r == 0)
        r = target_seize(pid, &target, ret_error);
    if (r == 0)
        r = checkpoint(&target, &snapshot, &draft, &shared, leave_running, &pause_ns, ret_error);
    if (r < 0)
        return r;
    *ret_result = (struct reseat_checkpoint_result){
        .pid = pid,
        .twin = (pid_t)snapshot.process.twin,
        .pause_ns = pause_ns,
        .threads = (unsigned)snapshot.threads_count,
        .capabilities = snapshot.process.capability_count,
    };
    return 0;
}
