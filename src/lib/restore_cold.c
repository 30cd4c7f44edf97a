/* A restore from the image alone: everything that can be refused is refused before any process exists; then
 * the objects are made here, the process is made with them, and from there on it is put back like one that a
 * twin has cloned. */
#include "lib-internal.h"

#include "cold/cold.h"
#include "image/image.h"
#include "native_pd/linux.h"
#include "native_pd/native_pd.h"
#include "object/object.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

struct cold_restore {
    const char *dir;
    const struct reseat_restore_options *options;
    struct image *image;
    struct snapshot snapshot; /* a copy: the numbers in it become those of this place */
    struct filling filling;
    struct object_set objects;
    object_id_t *unwanted; /* objects at whose selectors there will be something else */
    size_t unwanted_count;
    struct cold_slot *slots;
    size_t slot_count;
    struct cold_object *mapped;
    size_t mapped_count;
    int null_fd;
    struct cold_plan plan;
};

static void cold_restore_end(struct cold_restore *restore)
{
    cold_close(&restore->plan);
    object_set_end(&restore->objects);
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

static const struct reseat_slot *wish_of(const struct cold_restore *restore, uint32_t selector)
{
    return slots_find(restore->options->slots, restore->options->slot_count, selector);
}

static bool is_used(void *userdata, unsigned selector)
{
    const struct cold_restore *restore = userdata;
    for (size_t i = 0; i < restore->snapshot.capabilities_count; i++)
        if (restore->snapshot.capabilities[i].selector == selector)
            return true;
    return false;
}

/* ---- the capability space ---- */

/* An object is unwanted if every selector that holds it is given something else, and no mapping is of it. */
static int find_unwanted(struct cold_restore *restore)
{
    const struct snapshot *snapshot = &restore->snapshot;
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        object_id_t id = snapshot->objects[i].id;
        bool is_held = false, is_wanted = false;
        for (size_t j = 0; j < snapshot->capabilities_count; j++) {
            const struct snapshot_capability *row = &snapshot->capabilities[j];
            is_held |= row->object == id;
            is_wanted |= row->object == id && !slot_is_replaced(wish_of(restore, row->selector));
        }
        for (size_t j = 0; j < snapshot->vmas_count; j++)
            is_wanted |= snapshot->vmas[j].kind == SNAPSHOT_VMA_OBJECT && snapshot->vmas[j].object == id;
        object_id_t *one = NULL;
        if (is_held && !is_wanted && !(one = array_append(restore->unwanted, restore->unwanted_count)))
            return -ENOMEM;
        if (one)
            *one = id;
    }
    return 0;
}

static struct object_options object_options(struct cold_restore *restore)
{
    return (struct object_options){
        .unwanted = restore->unwanted,
        .unwanted_count = restore->unwanted_count,
        .allows_degraded = restore->options->allow >= RESEAT_ALLOW_DEGRADED,
        .allows_lost = restore->options->allow >= RESEAT_ALLOW_LOST,
        .wait_ns = restore->options->wait_ns,
        .read_content = filling_read_content,
        .userdata = &restore->filling,
    };
}

static int judge_capabilities(struct cold_restore *restore, struct obstacles *obstacles,
                              struct reseat_error **ret_error)
{
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    struct object_options options = object_options(restore);
    int r = object_judge_cold(&restore->snapshot, &options, &verdicts, ret_error);
    for (size_t i = 0; r == 0 && i < verdicts.count; i++) {
        const struct object_verdict *verdict = &verdicts.items[i];
        if (verdict->fate >= OBJECT_DEGRADED && verdict->sentence)
            r = obstacles_add(obstacles, verdict->fate == OBJECT_LOST ? SEVERITY_LOST : SEVERITY_DEGRADED,
                              (int)verdict->selector, "%s", verdict->sentence);
        if (r == 0 && verdict->fate != OBJECT_KEPT)
            r = slots_check_kept(restore->options->slots, restore->options->slot_count, verdict->selector,
                                 "it is made anew from the image", ret_error);
    }
    return r;
}

static int add_slot(struct cold_restore *restore, uint32_t selector, uint32_t flags, int fd)
{
    struct cold_slot *slot = array_append(restore->slots, restore->slot_count);
    if (!slot)
        return -ENOMEM;
    *slot = (struct cold_slot){selector, flags, fd};
    return 0;
}

static native_cap_t cap_of(const struct cold_restore *restore, uint32_t object)
{
    return object < restore->objects.count ? restore->objects.caps[object] : NATIVE_CAP_INVALID;
}

/* Something that is wished for at a selector; 0 also if nothing is to be there. */
static int add_wish(struct cold_restore *restore, const struct reseat_slot *wish, uint32_t flags)
{
    if (wish->policy == RESEAT_SLOT_CLOSE)
        return 0;
    if (wish->policy == RESEAT_SLOT_PUT)
        return add_slot(restore, wish->selector, flags, wish->fd);
    if (restore->null_fd < 0)
        restore->null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    return restore->null_fd < 0 ? -errno : add_slot(restore, wish->selector, flags, restore->null_fd);
}

static int gather_slots(struct cold_restore *restore)
{
    const struct snapshot *snapshot = &restore->snapshot;
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        const struct reseat_slot *wish = wish_of(restore, row->selector);
        native_cap_t cap = cap_of(restore, row->object);
        if (slot_is_replaced(wish))
            r = add_wish(restore, wish, row->flags);
        else if (cap != NATIVE_CAP_INVALID && !snapshot_is_reopened(snapshot, row->selector))
            r = add_slot(restore, row->selector, row->flags, (int)cap);
    }
    for (size_t i = 0; r == 0 && i < restore->options->slot_count; i++)
        if (!is_used(restore, restore->options->slots[i].selector))
            r = add_wish(restore, &restore->options->slots[i], 0);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        native_cap_t cap = cap_of(restore, vma->object);
        if (vma->kind != SNAPSHOT_VMA_OBJECT || !vma->object || cap == NATIVE_CAP_INVALID)
            continue;
        struct cold_object *object = array_append(restore->mapped, restore->mapped_count);
        if (!object)
            return -ENOMEM;
        *object = (struct cold_object){vma->object, (int)cap};
    }
    return r;
}

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
        native_cap_t cap = cap_of(restore, row->object);
        if (cap == NATIVE_CAP_INVALID || slot_is_replaced(wish_of(restore, row->selector)) ||
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

/* Those that could only be made once the process was there. */
static int install_late(struct cold_restore *restore, struct target *process, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = &restore->snapshot;
    bool *was_there = calloc(restore->objects.count + 1, sizeof *was_there);
    _cleanup_free_ void *room = was_there;
    if (!was_there)
        return error_errno(ret_error, -ENOMEM, "making the last objects");
    for (size_t i = 0; i < restore->objects.count; i++)
        was_there[i] = restore->objects.caps[i] != NATIVE_CAP_INVALID;
    int r = object_recreate_late(&restore->objects, snapshot, process->pid, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        native_cap_t cap = cap_of(restore, row->object);
        if (cap != NATIVE_CAP_INVALID && !was_there[row->object] &&
            !snapshot_is_reopened(snapshot, row->selector) &&
            !slot_is_replaced(wish_of(restore, row->selector)))
            r = native_pd_install_stopped(process,
                                          &(struct native_slot){.selector = row->selector,
                                                                .cap = cap,
                                                                .flags = row->flags & FD_CLOEXEC
                                                                             ? NATIVE_CLOSE_ON_EXEC
                                                                             : 0},
                                          1, ret_error);
    }
    return r;
}

/* Whether there is an object of a kind that locks are put back on. */
static bool may_have_locks(const struct cold_restore *restore, size_t index, native_cap_t cap)
{
    const struct snapshot *snapshot = &restore->snapshot;
    const struct snapshot_capability *row = &snapshot->capabilities[index];
    uint32_t type = snapshot->objects[row->object - 1].mode & S_IFMT;
    return cap != NATIVE_CAP_INVALID && (type == S_IFREG || type == S_IFDIR) &&
           !slot_is_replaced(wish_of(restore, row->selector));
}

/* Taken again by the process itself. Who is told that a lease is broken is told a selector as well: that of
 * whoever has taken it last (fcntl(2)). And of a flock the kernel shows who has taken it (/proc/locks), which
 * only who has not got it can become: so it is let go for a moment. */
static int take_locks(struct cold_restore *restore, struct target *process, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = &restore->snapshot;
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    int r = program_batch_begin(&batch, process, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        native_cap_t cap = cap_of(restore, row->object);
        if (!may_have_locks(restore, i, cap))
            continue;
        struct object_own_locks locks = object_find_own_locks(cap);
        if (locks.lease != F_UNLCK)
            program_call(&batch.program, NULL, SYS_fcntl, row->selector, F_SETLEASE, (uint64_t)locks.lease);
        if (locks.flock != F_UNLCK) {
            program_call(&batch.program, NULL, SYS_flock, row->selector, LOCK_UN);
            program_call(&batch.program, "taking a flock again (somebody else has taken it meanwhile)",
                         SYS_flock, row->selector,
                         LOCK_NB | (uint64_t)(locks.flock == F_WRLCK ? LOCK_EX : LOCK_SH));
        }
        r = program_batch_room(&batch, 0, ret_error);
    }
    return r == 0 ? program_batch_run(&batch, ret_error) : r;
}

/* ---- the course of it ---- */

static int judge(struct cold_restore *restore, struct reseat_error **ret_error)
{
    const struct reseat_restore_options *options = restore->options;
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = slots_check(options->slots, options->slot_count, is_used, restore, ret_error);
    if (r == 0)
        r = cold_check(&restore->plan, &obstacles, ret_error);
    if (r == 0)
        r = cold_open(&restore->plan, &obstacles, ret_error);
    if (r == 0 && judge_terminal(restore, &obstacles) < 0)
        r = error_errno(ret_error, -ENOMEM, "looking for the controlling terminal");
    if (r == 0 && find_unwanted(restore) < 0)
        r = error_errno(ret_error, -ENOMEM, "planning the restore");
    if (r == 0)
        r = judge_capabilities(restore, &obstacles, ret_error);
    if (r < 0)
        return r;
    slots_judge(options->slots, options->slot_count, &obstacles);
    return judge_obstacles(&obstacles, options->allow, options->note, options->userdata, ret_error);
}

/* A removed working directory that the process has at a selector, too, is to be the same one. */
static void use_removed_directory(struct cold_restore *restore)
{
    const struct snapshot *snapshot = &restore->snapshot;
    const char *path = (const char *)snapshot->blobs + snapshot->states[0].directory_offset;
    for (size_t i = 0;
         i < snapshot->objects_count && (snapshot->states[0].flags & SNAPSHOT_STATE_REMOVED_DIRECTORY); i++) {
        const struct snapshot_object *object = &snapshot->objects[i];
        native_cap_t cap = cap_of(restore, object->id);
        int fd = cap == NATIVE_CAP_INVALID ||
                         strcmp((const char *)snapshot->blobs + object->name_offset, path) != 0
                     ? -1
                     : fcntl((int)cap, F_DUPFD_CLOEXEC, 0);
        if (fd < 0)
            continue;
        base_close(&restore->plan.directory_fd);
        restore->plan.directory_fd = fd;
    }
}

/* What the twin of the same checkpoint holds (addresses, locks) is not free. */
static int error_making(const struct cold_restore *restore, int r, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = &restore->snapshot;
    if (!snapshot->process.twin || twin_check(snapshot, NULL) < 0)
        return r;
    return error_prefix(ret_error, r,
                        "the twin %u still holds the objects of process %u (restore without --cold, which "
                        "takes them from it, or drop the twin first)",
                        snapshot->process.twin, snapshot->process.pid);
}

static int make_objects(struct cold_restore *restore, struct reseat_error **ret_error)
{
    struct object_options options = object_options(restore);
    int r = object_recreate(&restore->snapshot, &options, &restore->objects, ret_error);
    if (r < 0)
        return error_making(restore, r, ret_error);
    r = gather_slots(restore);
    if (r < 0)
        return error_errno(ret_error, r, "gathering the capabilities of process %u",
                           restore->snapshot.process.pid);
    use_removed_directory(restore);
    restore->plan.slots = restore->slots;
    restore->plan.slot_count = restore->slot_count;
    restore->plan.objects = restore->mapped;
    restore->plan.object_count = restore->mapped_count;
    return 0;
}

static int make_process(struct cold_restore *restore, struct reseat_restore_result *result,
                        struct reseat_error **ret_error)
{
    const struct reseat_restore_options *options = restore->options;
    struct snapshot *snapshot = &restore->snapshot;
    _cleanup_(seed_end) struct seed seed = {0};
    _cleanup_(cold_discard) struct target process = TARGET_NONE;
    uint64_t free_ns = 0;
    int r = cold_seed(&restore->plan, &seed, &process, &free_ns, ret_error);
    if (r == 0)
        r = install_late(restore, &process, ret_error);
    if (r == 0)
        r = take_locks(restore, &process, ret_error);
    find_terminal(restore, &seed);
    if (!seed.terminal_slot && !seed.terminal_master && !has_terminal_path(snapshot))
        snapshot->process.tty = 0; /* it was lost with the capability, which was said */
    if (r == 0)
        r = process_rebuild(&seed, snapshot, ret_error);
    if (r == 0)
        r = object_thaw_connections(&restore->objects, snapshot, ret_error);
    if (r == 0)
        r = process_commit(&seed, snapshot, ret_error);
    if (r < 0)
        return r;
    let_go_restored(&process, options, &snapshot->process, free_ns, result);
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
    _cleanup_(cold_restore_end) struct cold_restore restore = {.dir = dir,
                                                               .options = options,
                                                               .filling = {.options = options},
                                                               .null_fd = -EBADF,
                                                               .plan = COLD_PLAN_NONE};
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
    r = judge(&restore, ret_error);
    if (r == 0)
        r = cold_adapt_processor(&restore.snapshot, ret_error);
    if (r == 0)
        r = make_objects(&restore, ret_error);
    return r == 0 ? make_process(&restore, result, ret_error) : r;
}
