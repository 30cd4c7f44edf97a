/* The capability space of a restore from an image: which objects are taken from a twin, which are made, which
 * are not wanted, and at which selector each of them goes. */
#include "restore_cold.h"

#include "native_pd/linux.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>

const struct reseat_slot *space_wish(const struct cold_restore *restore, uint32_t selector)
{
    return slots_find(restore->options->slots, restore->options->slot_count, selector);
}

bool space_is_used(void *userdata, unsigned selector)
{
    const struct cold_restore *restore = userdata;
    for (size_t i = 0; i < restore->snapshot.capabilities_count; i++)
        if (restore->snapshot.capabilities[i].selector == selector)
            return true;
    return false;
}

/* An object is unwanted if every selector that holds it is given something else, and no mapping is of it. If
 * it was in flight, it is wanted unless the sockets are taken, and it with them. */
static int find_unwanted(struct cold_restore *restore)
{
    const struct snapshot *snapshot = &restore->snapshot;
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        object_id_t id = snapshot->objects[i].id;
        bool is_held = false, is_wanted = false;
        for (size_t j = 0; j < snapshot->capabilities_count; j++) {
            const struct snapshot_capability *row = &snapshot->capabilities[j];
            is_held |= row->object == id;
            is_wanted |= row->object == id && !slot_is_replaced(space_wish(restore, row->selector));
        }
        for (size_t j = 0; j < snapshot->vmas_count; j++)
            is_wanted |= snapshot->vmas[j].kind == SNAPSHOT_VMA_OBJECT && snapshot->vmas[j].object == id;
        object_id_t *one = NULL;
        bool is_unwanted = !is_wanted && (is_held || restore->given.pd);
        if (is_unwanted && !(one = array_append(restore->unwanted, restore->unwanted_count)))
            return -ENOMEM;
        if (one)
            *one = id;
    }
    return 0;
}

static struct object_options object_options(struct cold_restore *restore)
{
    struct object_options options = {
        .unwanted = restore->unwanted,
        .unwanted_count = restore->unwanted_count,
        .allows_degraded = restore->options->allow >= RESEAT_ALLOW_DEGRADED,
        .allows_lost = restore->options->allow >= RESEAT_ALLOW_LOST,
        .wait_ns = restore->options->wait_ns,
        .read_content = filling_read_content,
        .userdata = &restore->filling,
    };
    given_set_options(&restore->given, &options);
    return options;
}

static int add_obstacles_of_given(const struct cold_restore *restore, struct obstacles *obstacles)
{
    const struct obstacles *found = &restore->given.obstacles;
    int r = 0;
    for (size_t i = 0; r == 0 && i < found->count; i++)
        r = obstacles_add(obstacles, found->items[i].severity, found->items[i].selector, "%s",
                          found->items[i].sentence);
    return r;
}

int space_judge(struct cold_restore *restore, struct obstacles *obstacles, struct reseat_error **ret_error)
{
    _cleanup_(object_verdicts_free) struct object_verdicts verdicts = {0};
    restore->is_kept = calloc(restore->snapshot.objects_count + 1, sizeof *restore->is_kept);
    int r = !restore->is_kept || find_unwanted(restore) < 0 || add_obstacles_of_given(restore, obstacles) < 0
                ? error_errno(ret_error, -ENOMEM, "planning the restore")
                : 0;
    struct object_options options = object_options(restore);
    if (r == 0)
        r = object_judge_cold(&restore->snapshot, &options, &verdicts, ret_error);
    for (size_t i = 0; r == 0 && i < verdicts.count; i++) {
        const struct object_verdict *verdict = &verdicts.items[i];
        restore->is_kept[verdict->object] = verdict->fate == OBJECT_KEPT;
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

native_cap_t space_cap(const struct cold_restore *restore, uint32_t object)
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
        const struct reseat_slot *wish = space_wish(restore, row->selector);
        native_cap_t cap = space_cap(restore, row->object);
        if (slot_is_replaced(wish))
            r = add_wish(restore, wish, row->flags);
        else if (cap != NATIVE_CAP_INVALID && !snapshot_is_reopened(snapshot, row->selector))
            r = add_slot(restore, row->selector, row->flags, (int)cap);
    }
    for (size_t i = 0; r == 0 && i < restore->options->slot_count; i++)
        if (!space_is_used(restore, restore->options->slots[i].selector))
            r = add_wish(restore, &restore->options->slots[i], 0);
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        native_cap_t cap = space_cap(restore, vma->object);
        if (vma->kind != SNAPSHOT_VMA_OBJECT || !vma->object || cap == NATIVE_CAP_INVALID)
            continue;
        struct cold_object *object = array_append(restore->mapped, restore->mapped_count);
        if (!object)
            return -ENOMEM;
        *object = (struct cold_object){vma->object, (int)cap};
    }
    return r;
}

/* A removed working directory that the process has at a selector, too, is to be the same one. */
static void use_removed_directory(struct cold_restore *restore)
{
    const struct snapshot *snapshot = &restore->snapshot;
    const char *path = (const char *)snapshot->blobs + snapshot->states[0].directory_offset;
    for (size_t i = 0;
         i < snapshot->objects_count && (snapshot->states[0].flags & SNAPSHOT_STATE_REMOVED_DIRECTORY); i++) {
        const struct snapshot_object *object = &snapshot->objects[i];
        native_cap_t cap = space_cap(restore, object->id);
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

static bool is_kept_at(const struct cold_restore *restore, const struct snapshot_capability *row)
{
    return restore->is_kept[row->object] && !slot_is_replaced(space_wish(restore, row->selector));
}

static bool is_kept_selector(void *userdata, uint32_t selector)
{
    const struct cold_restore *restore = userdata;
    const struct snapshot *snapshot = &restore->snapshot;
    for (size_t i = 0; i < snapshot->capabilities_count; i++)
        if (snapshot->capabilities[i].selector == selector)
            return is_kept_at(restore, &snapshot->capabilities[i]);
    return false;
}

int space_make(struct cold_restore *restore, struct reseat_error **ret_error)
{
    struct object_options options = object_options(restore);
    int r = object_recreate(&restore->snapshot, &options, &restore->objects, ret_error);
    if (r == 0 && restore->given.pd)
        r = given_add_fixups(&restore->given, &restore->snapshot, is_kept_selector, restore, ret_error);
    if (r < 0)
        return r;
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
        native_cap_t cap = space_cap(restore, row->object);
        if (cap != NATIVE_CAP_INVALID && !was_there[row->object] &&
            !snapshot_is_reopened(snapshot, row->selector) &&
            !slot_is_replaced(space_wish(restore, row->selector)))
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

/* Whether there is an object of a kind that locks are put back on; one that was taken has them still. */
static bool may_have_locks(const struct cold_restore *restore, size_t index, native_cap_t cap)
{
    const struct snapshot *snapshot = &restore->snapshot;
    const struct snapshot_capability *row = &snapshot->capabilities[index];
    uint32_t type = snapshot->objects[row->object - 1].mode & S_IFMT;
    return cap != NATIVE_CAP_INVALID && (type == S_IFREG || type == S_IFDIR) &&
           !restore->is_kept[row->object] && !slot_is_replaced(space_wish(restore, row->selector));
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
        native_cap_t cap = space_cap(restore, row->object);
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

int space_complete(struct cold_restore *restore, struct target *process, struct reseat_error **ret_error)
{
    int r = install_late(restore, process, ret_error);
    return r == 0 ? take_locks(restore, process, ret_error) : r;
}

int space_prove(const struct cold_restore *restore, const struct target *process, unsigned *ret_same,
                struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = &restore->snapshot;
    unsigned same = 0;
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        uint32_t selector = snapshot->capabilities[i].selector;
        if (!is_kept_at(restore, &snapshot->capabilities[i]))
            continue;
        if (sys_kcmp(process->pid, restore->twin.pid, KCMP_FILE, selector, selector) != 0)
            return error_set(ret_error, -EUCLEAN,
                             "selector %u would not hold the object that the twin %d has there", selector,
                             restore->twin.pid);
        same++;
    }
    *ret_same = same;
    return 0;
}
