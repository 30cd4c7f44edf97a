/* The capability space of a process as tables of a snapshot: each object once, with the state from which a
 * cold restore makes it anew.
 *
 * The object table says which selectors hold the same object, and gives the ids. Then the objects are looked
 * at one after the other, each through a capability of ours (pidfd_getfd(2)) that is closed again; only what
 * is found in flight inside unix sockets, which no selector holds, stays with us until it has been captured,
 * too. Objects are shared with the twin and perhaps with a process that runs on: a kind only reads, peeks and
 * duplicates (recv(2) MSG_PEEK, tee(2), pread(2)). */
#include "object/durable.h"
#include "object/kinds.h"
#include "object/observe.h"
#include "object/outside.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>

/* Where an object is to be had. */
struct place {
    struct native_pd *pd;
    selector_t selector;
    native_cap_t own; /* in flight: what we hold; else NATIVE_CAP_INVALID */
};

struct capturing {
    struct snapshot *snapshot;
    bool without_content, freezes;
    const struct object_contents *contents;
    struct native_pd *pd, *self;
    struct object_table table, own_table;
    struct observer observer, own_observer;
    struct outside outside;
    struct place *places; /* of each row of snapshot->objects that was added here */
    size_t places_count, first_row;
};

static void capturing_end(struct capturing *all)
{
    for (size_t i = 0; i < all->places_count; i++)
        base_close(&all->places[i].own);
    free(all->places);
    observer_close(&all->observer);
    observer_close(&all->own_observer);
    object_table_free(&all->table);
    object_table_free(&all->own_table);
    outside_free(&all->outside);
    native_pd_free(&all->self);
}

static int capturing_begin(struct capturing *all, struct reseat_error **ret_error)
{
    all->observer.table_fd = all->observer.info_fd = -EBADF;
    all->own_observer.table_fd = all->own_observer.info_fd = -EBADF;
    all->first_row = all->snapshot->objects_count;
    int r = native_pd_open(getpid(), &all->self, ret_error);
    if (r == 0)
        r = observer_open(&all->own_observer, &all->own_table, all->self, ret_error);
    if (r == 0)
        r = observer_open(&all->observer, &all->table, all->pd, ret_error);
    return r;
}

/* ---- what kinds call ---- */

int state_add(struct object_capture *capture, const void *data, size_t length)
{
    uint8_t *larger = realloc(capture->state, capture->length + length + 1);
    if (!larger)
        return -ENOMEM;
    capture->state = larger;
    if (length)
        memcpy(larger + capture->length, data, length);
    capture->length += length;
    return 0;
}

static int _printf_(3, 0)
    note_finding(struct object_capture *capture, uint32_t flag, const char *format, va_list arguments)
{
    struct snapshot_object *row = &capture->snapshot->objects[capture->row];
    _cleanup_free_ char *sentence = NULL;
    uint32_t queued = row->flags & SNAPSHOT_OBJECT_QUEUED;
    if ((row->flags & ~queued) >= flag)
        return 0;
    if (vasprintf(&sentence, format, arguments) < 0)
        return -ENOMEM;
    row->flags = flag | queued;
    return snapshot_add_blob(capture->snapshot, sentence, strlen(sentence) + 1, &row->reason_offset);
}

int capture_degraded(struct object_capture *capture, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int r = note_finding(capture, SNAPSHOT_OBJECT_DEGRADED, format, arguments);
    va_end(arguments);
    return r;
}

int capture_lost(struct object_capture *capture, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int r = note_finding(capture, SNAPSHOT_OBJECT_LOST, format, arguments);
    va_end(arguments);
    return r;
}

int64_t capture_offset(const struct object_capture *capture)
{
    const struct snapshot *snapshot = capture->snapshot;
    for (size_t i = 0; i < snapshot->positions_count; i++)
        if (snapshot->positions[i].selector == capture->sight->selector)
            return snapshot->positions[i].offset;
    return lseek(capture->cap, 0, SEEK_CUR);
}

pid_t capture_target(const struct object_capture *capture)
{
    return (pid_t)capture->snapshot->process.pid;
}

bool capture_is_first_of_inode(const struct object_capture *capture)
{
    struct object_view own = view_of(capture->snapshot, capture->row + 1);
    for (object_id_t id = 1; id <= capture->row; id++) {
        const struct snapshot_object *row = &capture->snapshot->objects[id - 1];
        if (row->inode != own.row->inode || row->device_major != own.row->device_major ||
            row->device_minor != own.row->device_minor || row->mode != own.row->mode)
            continue;
        struct object_view other = view_of(capture->snapshot, id);
        if (view_is_usable(&other) && other.kind->durable == own.kind->durable)
            return false;
    }
    return true;
}

/* ---- rows ---- */

static int add_object(struct capturing *all, struct place place, const char *kind, const char *name,
                      unsigned flags, object_id_t *ret_object)
{
    struct snapshot *snapshot = all->snapshot;
    struct place *item = array_append(all->places, all->places_count);
    struct snapshot_object *row = array_append(snapshot->objects, snapshot->objects_count);
    if (!item || !row)
        return -ENOMEM;
    *item = place;
    row->id = (uint32_t)snapshot->objects_count;
    row->status_flags = flags & ~(unsigned)O_CLOEXEC;
    int r = snapshot_add_blob(snapshot, kind, strlen(kind) + 1, &row->kind_offset);
    if (r == 0)
        r = snapshot_add_blob(snapshot, name, strlen(name) + 1, &row->name_offset);
    *ret_object = row->id;
    return r;
}

static int add_capability(struct capturing *all, const struct object_entry *entry)
{
    struct snapshot *snapshot = all->snapshot;
    object_id_t object = entry->object + (object_id_t)all->first_row;
    if (object > snapshot->objects_count) {
        struct place place = {entry->pd, entry->selector, NATIVE_CAP_INVALID};
        int r = add_object(all, place, entry->kind->name, entry->name, entry->flags, &object);
        if (r < 0)
            return r;
    }
    struct snapshot_capability *row = array_append(snapshot->capabilities, snapshot->capabilities_count);
    if (!row)
        return -ENOMEM;
    *row = (struct snapshot_capability){
        .selector = entry->selector,
        .object = object,
        .flags = entry->flags & O_CLOEXEC ? FD_CLOEXEC : 0,
    };
    return 0;
}

static int add_capability_space(struct capturing *all, struct reseat_error **ret_error)
{
    int r = object_table_add(&all->table, all->pd, ret_error);
    if (r == 0)
        r = object_table_identify(&all->table, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < all->table.count; i++)
        r = add_capability(all, &all->table.entries[i]);
    return r < 0 ? error_errno(ret_error, r, "listing the objects of process %d", native_pd_id(all->pd)) : 0;
}

/* Adds what we hold ourselves; takes the descriptor over. */
static int add_own(struct capturing *all, native_cap_t cap, object_id_t *ret_object,
                   struct reseat_error **ret_error)
{
    _cleanup_close_ native_cap_t own = cap;
    _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
    int r = observer_see(&all->own_observer, (selector_t)own, &sight, ret_error);
    if (r <= 0)
        return r < 0 ? r : error_set(ret_error, -EBADF, "an object went away while it was looked at");
    const struct object_kind *kind = object_kind_of(&sight);
    _cleanup_free_ char *name = NULL;
    r = kind->describe(&sight, &name);
    if (r == 0)
        r = add_object(all, (struct place){all->self, (selector_t)own, own}, kind->name, name, sight.flags,
                       ret_object);
    if (r < 0)
        return error_errno(ret_error, r, "noting an object in flight");
    (void)TAKE_FD(own);
    return 0;
}

int capture_reference(struct object_capture *capture, native_cap_t cap, object_id_t *ret_object,
                      struct reseat_error **ret_error)
{
    struct capturing *all = capture->all;
    for (size_t i = 0; i < all->places_count; i++) {
        const struct place *place = &all->places[i];
        int r = sys_kcmp(native_pd_id(place->pd), getpid(), KCMP_FILE, place->selector, (unsigned long)cap);
        if (r != 0)
            continue;
        *ret_object = (object_id_t)(all->first_row + i + 1);
        return 0;
    }
    int own = fcntl(cap, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return error_errno(ret_error, -errno, "keeping an object in flight");
    return add_own(all, own, ret_object, ret_error);
}

static bool is_watched(const struct object_capture *capture, const struct place *place,
                       struct kcmp_epoll_slot *slot)
{
    return syscall(SYS_kcmp, native_pd_id(place->pd), native_pd_id(capture->sight->pd), KCMP_EPOLL_TFD,
                   place->selector, slot) == 0;
}

/* Usually what the number holds now; but it may have been closed since and the object live on elsewhere. */
object_id_t capture_find_watched(const struct object_capture *capture, selector_t selector,
                                 unsigned occurrence)
{
    const struct capturing *all = capture->all;
    struct kcmp_epoll_slot slot = {capture->sight->selector, selector, occurrence};
    const struct snapshot *snapshot = all->snapshot;
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        struct place holder = {.pd = all->pd, .selector = selector};
        if (row->selector == selector && is_watched(capture, &holder, &slot))
            return row->object;
    }
    for (size_t i = 0; i < all->places_count; i++)
        if (is_watched(capture, &all->places[i], &slot))
            return (object_id_t)(all->first_row + i + 1);
    return 0;
}

/* A process that runs closes and opens while an outline is drawn. */
static int note_gone(struct object_capture *capture, const char *what)
{
    if (!capture->without_content)
        return capture_lost(capture, "%s", what);
    capture->snapshot->objects[capture->row].flags = SNAPSHOT_OBJECT_GONE;
    return 0;
}

/* ---- one object ---- */

static int finish_object(struct object_capture *capture)
{
    struct snapshot_object *row = &capture->snapshot->objects[capture->row];
    uint64_t offset = 0;
    int r = snapshot_add_blob(capture->snapshot, capture->state ? capture->state : (const uint8_t *)"",
                              capture->length, &offset);
    row->state_offset = offset;
    row->state_length = capture->length;
    return r;
}

static int note_inode(struct object_capture *capture)
{
    struct snapshot_object *row = &capture->snapshot->objects[capture->row];
    const pid_t inside[] = {capture_target(capture), native_pd_id(capture->all->pd)};
    struct stat stat;
    if (fstat(capture->cap, &stat) < 0)
        return 0;
    row->device_major = major(stat.st_dev);
    row->device_minor = minor(stat.st_dev);
    row->inode = stat.st_ino;
    row->mode = stat.st_mode;
    pid_t holder = outside_find(&capture->all->outside, inside, capture->sight->link, &stat);
    if (!holder)
        return 0;
    return capture_degraded(capture, "process %d has it, too: after a restore the two have nothing in common",
                            holder);
}

static int capture_seen(struct object_capture *capture, struct reseat_error **ret_error)
{
    const struct object_kind *kind = object_kind_of(capture->sight);
    const struct snapshot_object *row = &capture->snapshot->objects[capture->row];
    /* Asked first: whatever is noted may move the blobs. */
    bool is_same_kind = strcmp(kind->name, (const char *)capture->snapshot->blobs + row->kind_offset) == 0;
    int r = note_inode(capture);
    if (r < 0)
        return r;
    if (!is_same_kind)
        r = note_gone(capture, "the selector held something else a moment later");
    else if (!kind->durable)
        r = capture_lost(capture, "objects of the kind \"%s\" cannot be made anew", kind->name);
    else
        r = kind->durable->capture(capture, ret_error);
    if (r == 0)
        r = finish_object(capture);
    free(capture->state);
    capture->state = NULL;
    return r;
}

static int capture_object(struct capturing *all, size_t index, struct reseat_error **ret_error)
{
    struct place place = all->places[index];
    bool is_own = place.pd == all->self;
    _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
    _cleanup_close_ native_cap_t cap = NATIVE_CAP_INVALID;
    struct object_capture capture = {
        .all = all,
        .sight = &sight,
        .contents = all->contents,
        .snapshot = all->snapshot,
        .row = (uint32_t)(all->first_row + index),
        .without_content = all->without_content,
        .freezes = all->freezes,
    };
    int r = observer_see(is_own ? &all->own_observer : &all->observer, place.selector, &sight, ret_error);
    if (r > 0)
        r = native_pd_request(place.pd, place.selector, &cap, NULL, ret_error);
    if (r < 0)
        return r;
    if (cap == NATIVE_CAP_INVALID)
        return note_gone(&capture, "the selector was closed a moment later");
    capture.cap = cap;
    r = capture_seen(&capture, ret_error);
    if (r < 0 && ret_error && !*ret_error)
        error_errno(ret_error, r, "reading the state of the object");
    return r < 0 ? error_prefix(ret_error, r, "selector %u of process %d (%s)", place.selector,
                                native_pd_id(place.pd), sight.link)
                 : 0;
}

static bool comes_last(const struct capturing *all, size_t index)
{
    struct object_view view = view_of(all->snapshot, (object_id_t)(all->first_row + index + 1));
    return view.kind && view.kind->durable && view.kind->durable->comes_last;
}

static int capture_all(struct capturing *all, struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < all->places_count; i++) /* the list grows meanwhile */
        if (!comes_last(all, i))
            r = capture_object(all, i, ret_error);
    for (size_t i = 0; r == 0 && i < all->places_count; i++)
        if (comes_last(all, i))
            r = capture_object(all, i, ret_error);
    return r;
}

/* ---- all of it ---- */

static int capture_process(struct capturing *all, struct reseat_error **ret_error)
{
    int r = capturing_begin(all, ret_error);
    if (r == 0)
        r = add_capability_space(all, ret_error);
    return r == 0 ? capture_all(all, ret_error) : r;
}

int object_capture(struct native_pd *pd, const struct object_contents *contents, struct snapshot *snapshot,
                   struct reseat_error **ret_error)
{
    _cleanup_(capturing_end) struct capturing all = {.snapshot = snapshot, .pd = pd, .contents = contents};
    return capture_process(&all, ret_error);
}

int object_capture_outline(struct native_pd *pd, bool freezes, struct snapshot *snapshot,
                           struct reseat_error **ret_error)
{
    _cleanup_(capturing_end) struct capturing all = {.snapshot = snapshot,
                                                     .pd = pd,
                                                     .without_content = true,
                                                     .freezes = freezes};
    return capture_process(&all, ret_error);
}

/* ---- what is only mapped ---- */

static bool is_file_kind(const char *name)
{
    return strcmp(name, "file") == 0 || strcmp(name, "memfd") == 0;
}

/* An object of this file that can be mapped in the same way as one with these flags. */
static object_id_t find_inode(const struct snapshot *snapshot, const struct stat *stat, int flags)
{
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        const struct snapshot_object *row = &snapshot->objects[i];
        unsigned access = row->status_flags & O_ACCMODE;
        bool is_fit = !(row->status_flags & O_PATH) &&
                      (access == O_RDWR || (access == O_RDONLY && (flags & O_ACCMODE) == O_RDONLY));
        if (is_fit && row->inode == stat->st_ino && row->device_major == major(stat->st_dev) &&
            row->device_minor == minor(stat->st_dev) &&
            is_file_kind((const char *)snapshot->blobs + row->kind_offset))
            return row->id;
    }
    return 0;
}

int object_capture_mapped(struct native_pd *pd, int fd, const struct object_contents *contents,
                          struct snapshot *snapshot, object_id_t *ret_object, struct reseat_error **ret_error)
{
    struct stat stat;
    if (fstat(fd, &stat) < 0)
        return error_errno(ret_error, -errno, "looking at a mapped file");
    *ret_object = find_inode(snapshot, &stat, fcntl(fd, F_GETFL));
    if (*ret_object)
        return 0;
    _cleanup_(capturing_end) struct capturing all = {.snapshot = snapshot, .pd = pd, .contents = contents};
    int r = capturing_begin(&all, ret_error);
    int own = r == 0 ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -EBADF;
    if (r == 0)
        r = own < 0 ? error_errno(ret_error, -errno, "keeping a mapped file")
                    : add_own(&all, own, ret_object, ret_error);
    return r == 0 ? capture_all(&all, ret_error) : r;
}
