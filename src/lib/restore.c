/* reseat_restore(): from a sleeping twin back to the process.
 *
 * Until process_commit() steps over, the twin has everything and the half-made process dies with us;
 * afterwards the process completes itself, with or without us. What can fail therefore comes before. */
#include "lib-internal.h"

#include "image/image.h"
#include "object/object.h"
#include "process/process.h"
#include "target/target.h"
#include "twin/twin.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

/* ---- --keep ---- */

/* What an heir had for itself, its copy will share with the process that is restored. */
static int note_shared(struct target *twin, struct snapshot *kept, struct reseat_error **ret_error)
{
    _cleanup_(shared_objects_end) struct shared_objects shared = {0};
    int r = object_find_shared(twin->pid, &shared, ret_error);
    /* Noted already, for its record locks. */
    free(TAKE_PTR(kept->positions));
    free(TAKE_PTR(kept->interests));
    kept->positions_count = kept->interests_count = 0;
    return r < 0 ? r : object_capture_shared(twin->pid, &shared, kept, ret_error);
}

/* Makes a copy of the twin that stays when the twin itself is used up; not yet noted in the directory. */
static int keep_copy(struct target *twin, const char *dir, const struct reseat_restore_options *options,
                     struct snapshot *kept, struct target *ret_copy, struct reseat_error **ret_error)
{
    uid_t owner;
    int r = image_read(dir, kept, &owner, ret_error);
    if (r < 0)
        return r;
    if (kept->process.form == SNAPSHOT_FORM_HEIR) {
        _cleanup_(obstacles_free) struct obstacles obstacles = {0};
        r = process_find_obstacles(twin->pid, SNAPSHOT_FORM_COPY, true, &obstacles, ret_error);
        slots_judge(options->slots, options->slot_count, &obstacles);
        if (r == 0)
            r = judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
        if (r == 0)
            r = process_survey_regions(twin->pid, kept, ret_error);
        if (r == 0)
            r = note_shared(twin, kept, ret_error);
        kept->process.form = SNAPSHOT_FORM_COPY;
    }
    return r < 0 ? r : twin_copy(twin, kept, ret_copy, ret_error);
}

/* ---- the terminal ---- */

static void set_modes(int terminal, const struct snapshot_process *process)
{
    struct termios2 modes;
    memcpy(&modes, process->termios, sizeof modes);
    if (process->flags & SNAPSHOT_HAS_TERMIOS)
        ioctl(terminal, TCSETS2, &modes); /* ENOTTY where it is none */
}

/* Puts the process into the foreground of a terminal, with the modes that it had set; another terminal that
 * was put at a slot gets the modes, too. */
static void hand_over_terminal(const struct reseat_restore_options *options,
                               const struct snapshot_process *process, pid_t pid)
{
    struct proc_stat stat;
    sigset_t stop_signal, before;
    /* We may be in the background ourselves by then. */
    sigemptyset(&stop_signal);
    sigaddset(&stop_signal, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &stop_signal, &before);
    for (size_t i = 0; i < options->slot_count; i++)
        if (options->slots[i].policy == RESEAT_SLOT_PUT)
            set_modes(options->slots[i].fd, process);
    if (options->terminal > 0 && proc_stat_of(pid, &stat) == 0) {
        pid_t group = stat.group;
        if (ioctl(options->terminal, TIOCSPGRP, &group) < 0 && options->note)
            options->note(options->userdata,
                          "the process is of another session: it does not get the terminal's keys for "
                          "interrupting and stopping");
        set_modes(options->terminal, process);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void let_go_restored(struct target *process, const struct reseat_restore_options *options,
                     const struct snapshot_process *row, uint64_t free_ns,
                     struct reseat_restore_result *result)
{
    result->pid = process->pid;
    result->pidfd = fcntl(process->pidfd, F_DUPFD_CLOEXEC, 0);
    hand_over_terminal(options, row, process->pid);
    target_release(process);
    result->restore_ns = now_ns() - free_ns;
}

/* ---- the course of it ---- */

/* What does not come back at selectors for which it must: those that keep and fail are wanted for. As far as
 * it shows in the sleeping twin; what its target alone had (a pidfd on itself) was said at the checkpoint. */
static int check_must_keep(struct target *twin, const struct snapshot *snapshot,
                           const struct reseat_restore_options *options, struct reseat_error **ret_error)
{
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    if (!slots_must_keep_any(options->slots, options->slot_count))
        return 0;
    int r = process_find_obstacles(twin->pid, (enum snapshot_form)snapshot->process.form, true, &obstacles,
                                   ret_error);
    if (r < 0)
        return r;
    slots_judge(options->slots, options->slot_count, &obstacles);
    for (size_t i = 0; i < obstacles.count; i++)
        if (obstacles.items[i].severity != SEVERITY_FORBIDDEN)
            obstacles.items[i].severity = SEVERITY_NOTE; /* was allowed at the checkpoint */
    return judge_obstacles(&obstacles, options->allow, NULL, NULL, ret_error);
}

/* What is wanted at single selectors, against what the checkpoint has. */
static int check_slots(struct target *twin, const struct snapshot *snapshot,
                       const struct reseat_restore_options *options, struct reseat_error **ret_error)
{
    int r =
        slots_check(options->slots, options->slot_count, slots_used_in_process, &twin->proc_fd, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->reopens_count; i++)
        r = slots_check_kept(options->slots, options->slot_count, snapshot->reopens[i].selector,
                             "it is a file of the process itself in /proc, which is opened again", ret_error);
    return r < 0 ? r : check_must_keep(twin, snapshot, options, ret_error);
}

/* What is put at slots in place of what was there must not be in the twin's table as well: the twin keeps
 * what it has until the end. So the process gets a table of its own then; but the owner of record locks is
 * the table. */
static int choose_table(const struct snapshot *snapshot, const struct reseat_restore_options *options,
                        bool *ret_own_table, struct reseat_error **ret_error)
{
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    bool is_renumbered =
        (options->flags & RESEAT_NEW_PID) && snapshot->reopens_count; /* /proc/PID is another */
    *ret_own_table = slots_replace_any(options->slots, options->slot_count) || is_renumbered;
    if (*ret_own_table && snapshot->process.form == SNAPSHOT_FORM_HEIR && snapshot->locks_count)
        obstacles_add(&obstacles, SEVERITY_LOST, (int)snapshot->locks[0].selector,
                      "the record locks (fcntl F_SETLK) of process %u, for example on the file at selector "
                      "%u, are let go "
                      "of by a restore with %s",
                      snapshot->process.pid, snapshot->locks[0].selector,
                      is_renumbered ? "--new-pid" : "--slot");
    slots_judge(options->slots, options->slot_count, &obstacles);
    return judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
}

/* The proof, before it runs: every selector holds what the twin holds. */
static int prove(struct target *process, struct target *twin, const struct snapshot *snapshot,
                 const struct reseat_restore_options *options, struct reseat_restore_result *result,
                 struct reseat_error **ret_error)
{
    _cleanup_(comparison_end) struct comparison comparison = {0};
    struct exceptions exceptions = {options->slots, options->slot_count, snapshot};
    int r = compare_slots(process->pid, twin->pid, &exceptions, &comparison, ret_error);
    if (r < 0)
        return r;
    if (comparison.same != comparison.slots)
        return error_set(ret_error, -EUCLEAN,
                         "only %u of %u slots would hold the same object (selector %u: %s)", comparison.same,
                         comparison.slots, comparison.differences[0].selector,
                         comparison.differences[0].sentence);
    result->slots = comparison.slots;
    result->same = comparison.same;
    return 0;
}

static bool leads_group(const struct snapshot *snapshot)
{
    return (snapshot->process.flags & (SNAPSHOT_LEADS_GROUP | SNAPSHOT_LEADS_SESSION)) ==
           SNAPSHOT_LEADS_GROUP;
}

/* Members of the group that the process led keep its number taken (while it still runs, they are its): they
 * go into the twin's group, which is in the foreground of their terminal for that time if theirs was. */
static int free_group(struct target *twin, const struct snapshot *snapshot, bool *ret_moved,
                      struct reseat_error **ret_error)
{
    struct proc_stat stat;
    struct seed holder = {.process = twin, .passing_address = twin_passing_address(snapshot)};
    pid_t pid = (pid_t)snapshot->process.pid;
    size_t count = 0, moved_before = 0;
    *ret_moved = false;
    if (!leads_group(snapshot) || (proc_stat_of(pid, &stat) == 0 && stat.state != 'Z'))
        return 0;
    int r = process_count_members(pid, pid, &count, ret_error);
    if (r == 0)
        r = process_count_members(twin->pid, twin->pid, &moved_before, ret_error);
    if (r == 0 && count)
        r = process_take_terminal(&holder, &snapshot->process, pid, ret_error);
    if (r == 0 && count)
        r = process_move_members(pid, twin->pid, pid, ret_error);
    *ret_moved = count + moved_before > 0;
    return r;
}

/* And into the group of the process that is back; also those whom a restore that was killed has moved. */
static int fill_group(struct seed *seed, struct target *twin, const struct snapshot *snapshot,
                      struct reseat_error **ret_error)
{
    /* The terminal first: who is moved makes its read again, and in the background that would stop it. */
    int r = process_take_terminal(seed, &snapshot->process, twin->pid, ret_error);
    return r < 0 ? r : process_move_members(twin->pid, seed->process->pid, twin->pid, ret_error);
}

int lose_terminal(struct snapshot_process *process, struct obstacles *obstacles)
{
    char path[32] = "";
    process_terminal_path(process->tty, path, sizeof path);
    process->tty = 0;
    return obstacles_add(
        obstacles, SEVERITY_DEGRADED, -1,
        "its controlling terminal %s is not there, or another session's: it comes back without one", path);
}

/* A window is closed when the process in it has ended. */
static int check_terminal(const struct target *twin, struct snapshot *snapshot,
                          const struct reseat_restore_options *options, struct reseat_error **ret_error)
{
    struct snapshot_process *process = &snapshot->process;
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    char root[32];
    snprintf(root, sizeof root, "/proc/%d/root", twin->pid);
    if (!(process->flags & SNAPSHOT_LEADS_SESSION) || !process->tty ||
        process_terminal_is_free(process->tty, root))
        return 0;
    if (lose_terminal(process, &obstacles) < 0)
        return error_errno(ret_error, -ENOMEM, "looking for the controlling terminal");
    return judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
}

/* Everything up to the point of no return. A failure kills the half-made process; the twin goes back to
 * sleep. */
static int prepare(struct target *twin, struct snapshot *snapshot,
                   const struct reseat_restore_options *options, struct seed *seed, struct target *process,
                   uint64_t *ret_free_ns, struct reseat_restore_result *result,
                   struct reseat_error **ret_error)
{
    bool moved = false, own_table = false;
    int r = object_find_fixups(twin->pid, snapshot, ret_error);
    if (r == 0)
        r = check_slots(twin, snapshot, options, ret_error);
    if (r == 0)
        r = choose_table(snapshot, options, &own_table, ret_error);
    if (r == 0)
        r = check_terminal(twin, snapshot, options, ret_error);
    if (r == 0)
        r = free_group(twin, snapshot, &moved, ret_error);
    if (r == 0)
        r = twin_seed(twin, snapshot, options->flags & RESEAT_NEW_PID, options->wait_ns, seed, process,
                      ret_free_ns, ret_error);
    seed->own_table = own_table;
    if (r == 0)
        r = process_rebuild(seed, snapshot, ret_error);
    if (r == 0 && moved)
        r = fill_group(seed, twin, snapshot, ret_error);
    if (seed->must_race)
        process_reset_last_number(seed->last_number);
    if (r == 0)
        r = prove(process, twin, snapshot, options, result, ret_error);
    if (r == 0)
        r = slots_apply(process, options->slots, options->slot_count, ret_error);
    return r;
}

/* The process is there; now what is left of the checkpoint. An image stays. */
static void clear_up(const char *dir, bool has_image, struct target *twin, struct target *copy,
                     const struct snapshot *kept, const struct reseat_restore_options *options)
{
    pid_t twin_pid = twin->pid;
    target_reap(twin);
    target_release(twin);
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = 0;
    if (copy) {
        r = image_replace(dir, kept, &error);
        if (r == 0)
            r = twin_commit(copy, kept, &error);
        if (r == 0)
            target_release(copy);
    }
    if ((!copy || r < 0) && !has_image)
        image_remove(dir, r < 0 ? NULL : &error);
    if (error && options->note)
        options->note(options->userdata, reseat_error_message(error));
    twin_bury(twin_pid);
}

static int restore(const char *dir, struct snapshot *snapshot, const struct reseat_restore_options *options,
                   struct reseat_restore_result *result, struct reseat_error **ret_error)
{
    bool keep = options->flags & RESEAT_KEEP;
    _cleanup_(snapshot_free) struct snapshot kept = {0};
    _cleanup_(seed_end) struct seed seed = {0};
    _cleanup_(target_release) struct target twin = TARGET_NONE;
    _cleanup_(twin_discard) struct target copy = TARGET_NONE, process = TARGET_NONE;
    uint64_t free_ns = 0;

    int r = twin_open(snapshot, &twin, ret_error);
    if (r == 0 && keep)
        r = keep_copy(&twin, dir, options, &kept, &copy, ret_error);
    if (r == 0)
        r = prepare(&twin, snapshot, options, &seed, &process, &free_ns, result, ret_error);
    if (r == 0)
        r = process_commit(&seed, snapshot, ret_error);
    if (r < 0)
        return r;

    let_go_restored(&process, options, &snapshot->process, free_ns, result);
    clear_up(dir, snapshot->vmas_count > 0, &twin, keep ? &copy : NULL, &kept, options);
    return 0;
}

/* The twin if it lives, else the image. */
static int choose_source(const char *dir, const struct reseat_restore_options *options, bool *ret_cold,
                         struct reseat_error **ret_error)
{
    _cleanup_(image_close) struct image *image = NULL;
    *ret_cold = options->flags & (RESEAT_COLD | RESEAT_NEW_NAMESPACE);
    if (*ret_cold && (options->flags & RESEAT_KEEP))
        return error_set(ret_error, -EINVAL, "an image is kept anyway: a cold restore has no twin to keep");
    if (*ret_cold)
        return 0;
    int r = image_open(dir, &image, ret_error);
    if (r == 0)
        *ret_cold = image_has_memory(image) && twin_check(image_snapshot(image), NULL) < 0;
    return r;
}

static const struct reseat_restore_options usual_options = {.wait_ns = 5000000000U};

int reseat_restore(const char *dir, const struct reseat_restore_options *options,
                   struct reseat_restore_result *ret_result, struct reseat_error **ret_error)
{
    options = options ? options : &usual_options;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    struct reseat_restore_result result = {.pidfd = -1};
    bool is_cold;
    int r = choose_source(dir, options, &is_cold, ret_error);
    if (r == 0 && is_cold)
        r = restore_cold(dir, -1, options, &result, ret_error);
    else if (r == 0)
        r = open_checkpoint(dir, &snapshot, ret_error);
    if (r == 0 && !is_cold)
        r = restore(dir, &snapshot, options, &result, ret_error);
    if (r < 0)
        return r;
    *ret_result = result;
    return 0;
}

int reseat_restore_stream(int fd, const struct reseat_restore_options *options,
                          struct reseat_restore_result *ret_result, struct reseat_error **ret_error)
{
    struct reseat_restore_result result = {.pidfd = -1};
    int r = restore_cold("the stream", fd, options ? options : &usual_options, &result, ret_error);
    if (r == 0)
        *ret_result = result;
    return r;
}
