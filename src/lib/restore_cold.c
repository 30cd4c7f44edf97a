/* A restore from an image: everything that can be refused is refused before any process exists; then the
 * objects are made here, or taken from the twin of the checkpoint if that still lives, the process is made
 * with them, and from there on it is put back like one that a twin has cloned.
 *
 * The twin is in our hands from the beginning to the end, and is used up by the point of no return: the
 * process kills it by itself. If anything fails before, it sleeps on with all that it had. */
#include "restore_cold.h"

#include "image/image.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

static void cold_restore_end(struct cold_restore *restore)
{
    cold_close(&restore->plan);
    object_set_end(&restore->objects);
    given_end(&restore->given);
    if (restore->gave_up_locks && restore->twin.thread_count)
        target_abandon_thread(&restore->twin, &restore->twin.threads[0]);
    target_release(&restore->twin);
    free(restore->is_kept);
    free(restore->unwanted);
    free(restore->slots);
    free(restore->mapped);
    base_close(&restore->null_fd);
    snapshot_free(&restore->snapshot);
    image_close(&restore->image);
}

/* ---- what is asked of the image ---- */

/* Whoever wrote the image decides what the process does; and what files are opened for it is decided with our
 * rights. */
static int check_owner(const struct cold_restore *restore, struct reseat_error **ret_error)
{
    uid_t owner = image_owner(restore->image);
    if (owner == 0 || owner == geteuid())
        return 0;
    return error_set(
        ret_error, -EPERM,
        "%s belongs to user %u: only that user may make a process of it (or give it to root with chown)",
        restore->dir, owner);
}

/* ---- the terminal ---- */

/* Whether an object is the terminal of this path, or the master of it. */
static bool is_terminal(const struct snapshot *snapshot, const struct snapshot_object *object,
                        const char *path, bool *ret_master)
{
    const char *name = (const char *)snapshot->blobs + object->name_offset,
               *master = strstr(name, "master of pts/");
    *ret_master = master != NULL;
    return strcmp(name, path) == 0 ||
           (master && strncmp(path, "/dev/", 5) == 0 && strcmp(master + strlen("master of "), path + 5) == 0);
}

/* Finds the selector at which the controlling terminal is again, or its master: of a pair that is made anew
 * the number is another, and the path leads to somebody else's. */
static void find_terminal(const struct cold_restore *restore, struct seed *seed)
{
    const struct snapshot *snapshot = &restore->snapshot;
    char path[32];
    if (!snapshot->process.tty || !process_terminal_path(snapshot->process.tty, path, sizeof path))
        return;
    for (size_t i = 0; i < snapshot->capabilities_count && !seed->terminal_slot; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        native_cap_t cap = space_cap(restore, row->object);
        if (cap == NATIVE_CAP_INVALID || slot_is_replaced(space_wish(restore, row->selector)) ||
            !isatty((int)cap))
            continue;
        bool is_master;
        for (size_t j = 0; j < snapshot->objects_count; j++)
            if (snapshot->objects[j].id == row->object &&
                is_terminal(snapshot, &snapshot->objects[j], path, &is_master))
                *(is_master ? &seed->terminal_master : &seed->terminal_slot) = row->selector + 1;
    }
}

static bool has_terminal_path(const struct snapshot *snapshot)
{
    char path[32];
    return process_terminal_path(snapshot->process.tty, path, sizeof path) && access(path, R_OK | W_OK) == 0;
}

/* A session leader whose terminal is not to be had, or is another session's by now, comes back without one.
 */
static int judge_terminal(struct cold_restore *restore, struct obstacles *obstacles)
{
    struct snapshot_process *process = &restore->snapshot.process;
    char path[32];
    bool is_there = process->tty && process_terminal_path(process->tty, path, sizeof path);
    if (!(process->flags & SNAPSHOT_LEADS_SESSION) || !is_there)
        return 0;
    bool is_master;
    for (size_t j = 0; j < restore->snapshot.objects_count; j++)
        if (is_terminal(&restore->snapshot, &restore->snapshot.objects[j], path, &is_master))
            return 0; /* it has it, or its master, at a selector: judged there */
    return process_terminal_is_free(process->tty, "") ? 0 : lose_terminal(process, obstacles);
}

/* ---- the course of it ---- */

static int judge(struct cold_restore *restore, struct reseat_error **ret_error)
{
    const struct reseat_restore_options *options = restore->options;
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = slots_check(options->slots, options->slot_count, space_is_used, restore, ret_error);
    if (r == 0)
        r = cold_check(&restore->plan, &obstacles, ret_error);
    if (r == 0)
        r = cold_open(&restore->plan, &obstacles, ret_error);
    if (r == 0 && judge_terminal(restore, &obstacles) < 0)
        r = error_errno(ret_error, -ENOMEM, "looking for the controlling terminal");
    if (r == 0)
        r = space_judge(restore, &obstacles, ret_error);
    if (r < 0)
        return r;
    slots_judge(options->slots, options->slot_count, &obstacles);
    return judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
}

/* ---- the twin ---- */

static bool holds_locks(const struct cold_restore *restore)
{
    return restore->given.pd && restore->snapshot.process.form == SNAPSHOT_FORM_HEIR &&
           restore->snapshot.locks_count;
}

/* As late as it can be. If anything fails from here on, the process is killed before the twin is let go, and
 * the twin takes its locks again. */
static int pass_locks(struct cold_restore *restore, struct target *process, struct reseat_error **ret_error)
{
    if (!holds_locks(restore))
        return 0;
    restore->gave_up_locks = true;
    int r = twin_give_up_locks(&restore->twin, &restore->snapshot, ret_error);
    return r == 0 ? process_take_locks(process, &restore->snapshot, false, ret_error) : r;
}

static int find_twin(struct cold_restore *restore, struct reseat_error **ret_error)
{
    const struct snapshot *stored = image_snapshot(restore->image);
    if (twin_check(stored, NULL) < 0)
        return 0;
    int r = twin_open(stored, &restore->twin, ret_error);
    if (r == 0)
        r = given_find(stored, &restore->given, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r,
                            "taking the objects of process %u from its twin (drop it to do without)",
                            stored->process.pid);
    restore->plan.holder = restore->twin.pid;
    return 0;
}

/* The process has done it already, unless it lives where it cannot see the twin. */
static void end_twin(struct cold_restore *restore)
{
    pid_t pid = restore->twin.pid;
    sys_pidfd_send_signal(restore->twin.pidfd, SIGKILL);
    target_reap(&restore->twin);
    target_release(&restore->twin);
    twin_bury(pid);
}

/* ---- the process ---- */

/* Everything up to the point of no return. */
static int prepare(struct cold_restore *restore, struct seed *seed, struct target *process,
                   uint64_t *ret_free_ns, unsigned *ret_same, struct reseat_error **ret_error)
{
    struct snapshot *snapshot = &restore->snapshot;
    int r = cold_seed(&restore->plan, seed, process, ret_free_ns, ret_error);
    if (r < 0)
        return r;
    seed->locks_come_late = holds_locks(restore);
    if (restore->given.pd && !restore->plan.new_namespace)
        seed->ns_maker = snapshot->process.twin;
    r = space_complete(restore, process, ret_error);
    find_terminal(restore, seed);
    if (!seed->terminal_slot && !seed->terminal_master && !has_terminal_path(snapshot))
        snapshot->process.tty = 0; /* it was lost with the capability, which was said */
    if (r == 0)
        r = process_rebuild(seed, snapshot, ret_error);
    if (r == 0)
        r = object_thaw_connections(&restore->objects, snapshot, ret_error);
    if (r == 0)
        r = space_prove(restore, process, ret_same, ret_error);
    return r == 0 ? pass_locks(restore, process, ret_error) : r;
}

static int make_process(struct cold_restore *restore, struct reseat_restore_result *result,
                        struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = &restore->snapshot;
    _cleanup_(seed_end) struct seed seed = {0};
    _cleanup_(cold_discard) struct target process = TARGET_NONE;
    uint64_t free_ns = 0;
    int r = prepare(restore, &seed, &process, &free_ns, &result->same, ret_error);
    if (r == 0)
        r = process_commit(&seed, snapshot, ret_error);
    if (r < 0)
        return r;
    let_go_restored(&process, restore->options, &snapshot->process, free_ns, result);
    if (restore->given.pd)
        end_twin(restore);
    result->from_image = 1;
    result->slots = (unsigned)snapshot->capabilities_count;
    return 0;
}

static int open_image(struct cold_restore *restore, int stream_fd, struct reseat_error **ret_error)
{
    struct image_progress progress = {filling_report_checked, &restore->filling};
    int r = stream_fd < 0 ? image_open(restore->dir, &restore->image, ret_error)
                          : image_open_stream(stream_fd, &restore->image, ret_error);
    if (r == 0)
        r = check_owner(restore, ret_error);
    if (r == 0 && !image_has_memory(restore->image))
        r = error_set(ret_error, -ENODATA,
                      "%s has no memory in it, only what belongs to a twin (it was taken with --live)",
                      restore->dir);
    if (r == 0)
        r = snapshot_copy(image_snapshot(restore->image), &restore->snapshot) < 0
                ? error_errno(ret_error, -ENOMEM, "%s", restore->dir)
                : image_verify_memory(restore->image, &progress, ret_error);
    return r;
}

int restore_cold(const char *dir, int stream_fd, const struct reseat_restore_options *options,
                 struct reseat_restore_result *result, struct reseat_error **ret_error)
{
    _cleanup_(cold_restore_end) struct cold_restore restore = {
        .dir = dir,
        .options = options,
        .filling = {.options = options},
        .twin = TARGET_NONE,
        .null_fd = -EBADF,
        .plan = COLD_PLAN_NONE,
    };
    int r = open_image(&restore, stream_fd, ret_error);
    if (r < 0)
        return r;
    cold_renumber(&restore.snapshot);
    restore.plan.snapshot = &restore.snapshot;
    restore.filling.image = restore.image;
    restore.plan.memory =
        (struct cold_memory){image_file(restore.image), filling_read, &restore.filling, filling_report};
    restore.plan.new_pid = options->flags & RESEAT_NEW_PID;
    restore.plan.new_namespace = options->flags & RESEAT_NEW_NAMESPACE;
    restore.plan.is_child = options->flags & RESEAT_CHILD;
    restore.plan.wait_ns = options->wait_ns;
    r = stream_fd < 0 ? find_twin(&restore, ret_error) : 0;
    if (r == 0)
        r = judge(&restore, ret_error);
    if (r == 0)
        r = cold_adapt_processor(&restore.snapshot, ret_error);
    if (r == 0)
        r = space_make(&restore, ret_error);
    return r == 0 ? make_process(&restore, result, ret_error) : r;
}
