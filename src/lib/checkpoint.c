/* reseat_checkpoint(): from a live process to a sleeping twin, an image, or both, and a directory that speaks
 * of them.
 *
 * The order is what makes it safe to be killed at any point: everything that can be refused is refused before
 * the first thread stops; the directory is complete, and on the disk if it has an image, before the twin is
 * let go; the twin sleeps before the target is killed. Until then the target undoes by itself what was done
 * to it, and the twin ends by itself.
 *
 * An image is written from the twin. A target that is to be killed stands still meanwhile; one that runs on
 * has been let go, or is as soon as what it shares with its twin nevertheless is written: memory
 * (durable_shares_memory()), and files whose contents are stored. */
#include "durable.h"
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

/* One checkpoint under way. */
struct checkpoint {
    const struct reseat_checkpoint_options *options;
    pid_t pid;
    int stream_fd; /* negative: into the directory of `draft` */
    bool is_durable, leaves_running;
    bool lets_go_early; /* as soon as there is a twin */
    struct snapshot snapshot;
    struct image_draft draft;
    struct shared_objects shared; /* what a copy will share with the target */
    struct target target;
    struct durable_contents contents;
    struct object_freeze *freeze; /* TCP connections that the image is to carry over */
    uint64_t pause_ns;
};

static void checkpoint_end(struct checkpoint *checkpoint)
{
    object_freeze_end(&checkpoint->freeze);
    target_release(&checkpoint->target);
    durable_contents_end(&checkpoint->contents);
    shared_objects_end(&checkpoint->shared);
    image_draft_end(&checkpoint->draft);
    snapshot_free(&checkpoint->snapshot);
}

/* ---- before anything is stopped ---- */

/* Who may trace a process may not always signal it (CAP_SYS_PTRACE without CAP_KILL). */
static int check_may_kill(pid_t pid, struct reseat_error **ret_error)
{
    if (kill(pid, 0) == 0)
        return 0;
    if (errno == ESRCH)
        return error_set(ret_error, -ESRCH, "process %d has ended", pid);
    return error_errno(ret_error, -errno,
                       "process %d may be traced by us but not ended, which takes CAP_KILL (or "
                       "--leave-running)",
                       pid);
}

/* What is said of a capability is said of the very object that a twin hands on. An image has it made anew,
 * which is judged by itself. */
static void forget_capabilities(struct obstacles *obstacles)
{
    size_t kept = 0;
    for (size_t i = 0; i < obstacles->count; i++) {
        if (obstacles->items[i].selector < 0)
            obstacles->items[kept++] = obstacles->items[i];
        else
            free(obstacles->items[i].sentence);
    }
    obstacles->count = kept;
}

static int check_obstacles(const struct checkpoint *checkpoint, enum snapshot_form form,
                           bool *ret_threads_differ, struct reseat_error **ret_error)
{
    const struct reseat_checkpoint_options *options = checkpoint->options;
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = process_find_obstacles(checkpoint->pid, form, checkpoint->leaves_running, &obstacles, ret_error);
    if (options->flags & RESEAT_IMAGE)
        forget_capabilities(&obstacles);
    /* If an image is all that is left, what it cannot bring back is lost. Where the process runs on it is for
     * the restore to ask. */
    if (r == 0 && (options->flags & RESEAT_IMAGE) && !checkpoint->leaves_running)
        r = durable_find_obstacles(checkpoint->pid, &obstacles, ret_error);
    *ret_threads_differ = obstacles.threads_differ;
    return r < 0 ? r
                 : judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
}

static int check_flags(unsigned flags, struct reseat_error **ret_error)
{
    if ((flags & RESEAT_LIVE) && (flags & (RESEAT_IMAGE | RESEAT_COMPRESS | RESEAT_SELF_CONTAINED)))
        return error_set(ret_error, -EINVAL, "a live checkpoint has no image");
    return 0;
}

static int look(struct checkpoint *checkpoint, const char *dir, struct reseat_error **ret_error)
{
    pid_t pid = checkpoint->pid;
    enum snapshot_form form = checkpoint->leaves_running ? SNAPSHOT_FORM_COPY : SNAPSHOT_FORM_HEIR;
    bool threads_differ = false;
    int r = process_check_eligible(pid, ret_error);
    if (r == 0 && !checkpoint->leaves_running)
        r = check_may_kill(pid, ret_error);
    if (r == 0)
        r = check_obstacles(checkpoint, form, &threads_differ, ret_error);
    if (r == 0 && dir)
        r = image_draft_begin(dir, &checkpoint->draft, ret_error);
    if (r == 0)
        r = process_survey(pid, form, &checkpoint->snapshot, ret_error);
    if (r < 0)
        return r;
    if (checkpoint->leaves_running)
        checkpoint->snapshot.process.flags |= SNAPSHOT_LEFT_RUNNING;
    if (threads_differ)
        checkpoint->snapshot.process.flags |= SNAPSHOT_THREADS_DIFFER;
    checkpoint->lets_go_early =
        checkpoint->leaves_running && !(checkpoint->is_durable && durable_shares_memory(pid));
    if (checkpoint->leaves_running || checkpoint->is_durable || object_has_locks(pid))
        r = object_find_shared(pid, &checkpoint->shared, ret_error);
    return r;
}

/* ---- while it stands still ---- */

static void let_go(struct checkpoint *checkpoint)
{
    checkpoint->pause_ns = checkpoint->target.stop_ns;
    target_let_go(&checkpoint->target);
    checkpoint->pause_ns = checkpoint->target.go_ns - checkpoint->pause_ns;
    target_release(&checkpoint->target);
}

static int make_twin(struct checkpoint *checkpoint, struct target *ret_twin, struct reseat_error **ret_error)
{
    struct target *target = &checkpoint->target;
    struct snapshot *snapshot = &checkpoint->snapshot;
    const char *dir = checkpoint->draft.path ? checkpoint->draft.path : "";
    int r = target_reserve_mirror(target, twin_scratch_bytes_about(target->thread_count), ret_error);
    if (r == 0)
        r = target_stop(target, ret_error);
    if (r == 0 && checkpoint->options->check)
        r = checkpoint->options->check(checkpoint->options->check_userdata, ret_error);
    if (r == 0)
        r = process_capture(target, snapshot, ret_error);
    if (r == 0)
        r = object_capture_shared(target->pid, &checkpoint->shared, snapshot, ret_error);
    /* Queues and positions move as soon as the target runs. */
    if (r == 0 && checkpoint->is_durable && checkpoint->leaves_running)
        r = durable_capture_objects(target->pid, &checkpoint->contents, snapshot, ret_error);
    checkpoint->lets_go_early &= checkpoint->contents.count == 0;
    if (r == 0)
        r = target_map_scratch(target, twin_scratch_bytes(snapshot), ret_error);
    if (r == 0)
        r = twin_make(target, snapshot, dir, !checkpoint->leaves_running, checkpoint->lets_go_early, ret_twin,
                      ret_error);
    if (r == 0 && checkpoint->lets_go_early)
        let_go(checkpoint);
    return r;
}

/* ---- from the twin ---- */

/* From now on nothing that the target does changes what is to be written. */
static int shared_is_written(void *userdata, struct reseat_error **ret_error)
{
    struct checkpoint *checkpoint = userdata;
    (void)ret_error;
    if (checkpoint->leaves_running && !checkpoint->lets_go_early)
        let_go(checkpoint);
    return 0;
}

/* The process ran on while its objects were judged (check_obstacles()), and may have opened others since. Now
 * that it stands still, the verdict is final. */
static int judge_again(const struct checkpoint *checkpoint, struct reseat_error **ret_error)
{
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = durable_judge_objects(&checkpoint->snapshot, false, &obstacles, ret_error);
    return r < 0 ? r : judge_obstacles(&obstacles, checkpoint->options->allow, NULL, NULL, ret_error);
}

static int describe(struct checkpoint *checkpoint, struct target *twin, struct reseat_error **ret_error)
{
    struct snapshot *snapshot = &checkpoint->snapshot;
    bool is_image_alone = !checkpoint->leaves_running && (checkpoint->options->flags & RESEAT_IMAGE);
    int r = 0;
    if (is_image_alone)
        r = durable_freeze_connections(twin->pid, snapshot, &checkpoint->freeze, ret_error);
    if (r == 0 && !checkpoint->leaves_running)
        r = durable_capture_objects(twin->pid, &checkpoint->contents, snapshot, ret_error);
    if (r == 0)
        r = durable_describe(twin, &checkpoint->contents, snapshot, ret_error);
    if (r == 0 && is_image_alone)
        r = judge_again(checkpoint, ret_error);
    return r;
}

static int write_image(struct checkpoint *checkpoint, struct target *twin, struct reseat_error **ret_error)
{
    struct snapshot *snapshot = &checkpoint->snapshot;
    unsigned flags = checkpoint->options->flags;
    struct image_source source = {
        .pid = twin->pid,
        .flags = (flags & RESEAT_COMPRESS ? IMAGE_COMPRESS : 0) |
                 (flags & RESEAT_SELF_CONTAINED ? IMAGE_SELF_CONTAINED : 0),
        .progress = {checkpoint->options->progress, checkpoint->options->progress_userdata},
        .shared_is_written = shared_is_written,
        .userdata = checkpoint,
    };
    int r = describe(checkpoint, twin, ret_error);
    if (r < 0)
        return r;
    source.contents = checkpoint->contents.items;
    source.content_count = checkpoint->contents.count;
    if (flags & RESEAT_IMAGE)
        snapshot->process.twin = snapshot->process.ns_twin = 0;
    if (checkpoint->stream_fd >= 0)
        return image_stream_write(checkpoint->stream_fd, snapshot, &source, ret_error);
    return image_draft_write_memory(&checkpoint->draft, snapshot, &source, ret_error);
}

static int publish(struct checkpoint *checkpoint, struct target *twin, struct reseat_error **ret_error)
{
    struct image_draft *draft = &checkpoint->draft;
    int r = checkpoint->is_durable ? write_image(checkpoint, twin, ret_error)
                                   : image_draft_write(draft, &checkpoint->snapshot, ret_error);
    if (r == 0 && draft->path)
        r = image_draft_publish(draft, ret_error);
    if (r < 0 || (checkpoint->options->flags & RESEAT_IMAGE))
        return r;
    r = twin_commit(twin, &checkpoint->snapshot, ret_error);
    if (r < 0)
        image_remove(draft->path, NULL);
    return r;
}

static int kill_target(struct checkpoint *checkpoint, struct reseat_error **ret_error)
{
    struct target *target = &checkpoint->target;
    if (checkpoint->freeze)
        object_freeze_commit(checkpoint->freeze);
    int r = sys_pidfd_send_signal(target->pidfd, SIGKILL);
    checkpoint->pause_ns = now_ns() - target->stop_ns;
    if (r < 0)
        return error_errno(ret_error, r, "killing process %d", checkpoint->pid);
    target_reap(target);
    return 0;
}

static int carry_out(struct checkpoint *checkpoint, struct reseat_error **ret_error)
{
    _cleanup_(twin_discard) struct target twin = TARGET_NONE;
    int r = target_seize(checkpoint->pid, &checkpoint->target, ret_error);
    checkpoint->target.leaves_vdso = checkpoint->is_durable;
    if (r == 0)
        r = make_twin(checkpoint, &twin, ret_error);
    if (r == 0)
        r = publish(checkpoint, &twin, ret_error);
    if (r < 0)
        return r;
    if (!checkpoint->leaves_running)
        r = kill_target(checkpoint, ret_error);
    if (r == 0 && !(checkpoint->options->flags & RESEAT_IMAGE))
        target_release(&twin); /* it sleeps: nothing to discard */
    return r;
}

/* `dir` or, if it is NULL, `stream_fd`. */
static int take(pid_t pid, const char *dir, int stream_fd, const struct reseat_checkpoint_options *options,
                struct reseat_checkpoint_result *ret_result, struct reseat_error **ret_error)
{
    _cleanup_(checkpoint_end) struct checkpoint checkpoint = {
        .options = options,
        .pid = pid,
        .stream_fd = stream_fd,
        .is_durable = !(options->flags & RESEAT_LIVE),
        .leaves_running = options->flags & RESEAT_LEAVE_RUNNING,
        .draft = {.parent_fd = -EBADF, .dir_fd = -EBADF},
        .target = TARGET_NONE,
    };
    int r = check_flags(options->flags, ret_error);
    if (r == 0)
        r = look(&checkpoint, dir, ret_error);
    if (r == 0)
        r = carry_out(&checkpoint, ret_error);
    if (r < 0)
        return r;
    const struct snapshot *snapshot = &checkpoint.snapshot;
    *ret_result = (struct reseat_checkpoint_result){
        .pid = pid,
        .twin = (pid_t)snapshot->process.twin,
        .pause_ns = checkpoint.pause_ns,
        .threads = (unsigned)snapshot->threads_count,
        .capabilities = snapshot->process.capability_count,
    };
    for (size_t i = 0; i < snapshot->extents_count; i++)
        ret_result->memory_bytes += snapshot->extents[i].length;
    return 0;
}

int reseat_checkpoint(pid_t pid, const char *dir, const struct reseat_checkpoint_options *options,
                      struct reseat_checkpoint_result *ret_result, struct reseat_error **ret_error)
{
    static const struct reseat_checkpoint_options usual;
    return take(pid, dir, -1, options ? options : &usual, ret_result, ret_error);
}

int reseat_checkpoint_stream(pid_t pid, int fd, const struct reseat_checkpoint_options *options,
                             struct reseat_checkpoint_result *ret_result, struct reseat_error **ret_error)
{
    struct reseat_checkpoint_options wanted = options ? *options : (struct reseat_checkpoint_options){0};
    wanted.flags |= RESEAT_IMAGE;
    return take(pid, NULL, fd, &wanted, ret_result, ret_error);
}
