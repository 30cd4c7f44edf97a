/* checkpoint, restore, drop: for clients that have neither privileges nor a directory.
 *
 * The checkpoint of a client is a session of the twin. What the twin does not hold by itself is in a
 * directory of core's own, which no client ever names, reads or writes: so none of a client's file system
 * rights are needed, and none of core's are lent. That it cannot be touched also decides whether a restore
 * can be believed. A checkpoint file says which PID and which group it is to have, which limits and
 * priorities; core would carry all of that out with its own privileges. So it restores from nothing but its
 * own files.
 *
 * An image goes into a descriptor that the client has opened. Core does not restore from an image: a client
 * has all that it takes, and its own privileges are the right ones for it.
 *
 * Which directory belongs to a twin is written in the twin (struct twin_header). That is believed only as far
 * as the directory is one of core's own and says the same. */
#include "core/core-internal.h"
#include "image/image.h"
#include "reseat.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

/* A client may not hold a worker for longer by its restore than this. */
#define WAIT_MAX_NS 60000000000U
/* As many as a message has room for. */
#define CHOICES_MAX (PROTOCOL_MESSAGE_BYTES / sizeof(struct protocol_choice))

/* ---- notes ---- */

/* Sentences for the client, a line each; what does not fit into the reply is left out. */
struct notes {
    size_t length;
    char text[8192];
};

static void add_note(void *userdata, const char *sentence)
{
    struct notes *notes = userdata;
    size_t length = strlen(sentence);
    if (length + 1 > sizeof notes->text - notes->length)
        return;
    memcpy(notes->text + notes->length, sentence, length);
    notes->text[notes->length + length] = '\n';
    notes->length += length + 1;
}

static void put_notes(struct reply *reply, unsigned operation, const struct notes *notes)
{
    void *items = reply_items(reply, operation, notes->length);
    if (items)
        memcpy(items, notes->text, notes->length);
}

/* ---- core's own directory ---- */

static int error_directory(const struct work *work, int r, struct reseat_error **ret_error)
{
    if (!work->configuration->checkpoint_directory)
        return error_set(
            ret_error, -EOPNOTSUPP,
            "this core has no place for checkpoints (XDG_RUNTIME_DIR is not set, and there is no "
            "--checkpoints)");
    return error_errno(ret_error, r, "%s: core's directory for checkpoints",
                       work->configuration->checkpoint_directory);
}

/* Ours, and nobody else's: what is in it is believed. */
static int make_directory(const struct work *work, struct reseat_error **ret_error)
{
    const char *path = work->configuration->checkpoint_directory;
    struct stat status;
    if (!path)
        return error_directory(work, 0, ret_error);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_directory(work, -errno, ret_error);
    if (lstat(path, &status) < 0)
        return error_directory(work, -errno, ret_error);
    bool is_ours = S_ISDIR(status.st_mode) && status.st_uid == geteuid() && !(status.st_mode & 0077);
    return is_ours ? 0 : error_directory(work, -EPERM, ret_error);
}

/* Of a twin that was ended without core. */
static bool is_left(const char *path)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    uid_t owner;
    return image_read(path, &snapshot, &owner, NULL) == 0 && twin_check(&snapshot, NULL) == -ESRCH;
}

/* What clients leave behind goes when the next one comes: they could make the directory grow otherwise, by
 * ending the twins themselves. So do drafts of workers that were ended. */
static void remove_left(const struct work *work)
{
    const char *directory = work->configuration->checkpoint_directory;
    _cleanup_closedir_ DIR *stream = opendir(directory);
    if (!stream)
        return;
    image_remove_left_drafts(dirfd(stream), NULL);
    for (struct dirent *entry; (entry = readdir(stream));) {
        char path[PATH_MAX];
        if (entry->d_name[0] != '.' &&
            snprintf(path, sizeof path, "%s/%s", directory, entry->d_name) < PATH_MAX && is_left(path))
            image_remove(path, NULL);
    }
}

static int name_checkpoint(const struct work *work, char path[static PATH_MAX])
{
    static unsigned number; /* of this worker */
    int length = snprintf(path, PATH_MAX, "%s/%d-%d-%llx-%u", work->configuration->checkpoint_directory,
                          work->job.terms.pid, getpid(), (unsigned long long)now_ns(), number++);
    return length >= PATH_MAX ? -ENAMETOOLONG : 0;
}

/* The directory of the twin of this session. */
static int find_checkpoint(const struct work *work, char path[static PATH_MAX],
                           struct reseat_error **ret_error)
{
    static struct twin_header header;
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    const char *directory = work->configuration->checkpoint_directory;
    pid_t twin = work->job.terms.pid;
    uid_t owner;
    int r = make_directory(work, ret_error);
    if (r < 0)
        return r;
    r = twin_read_header(twin, &header);
    const char *slash = r < 0 ? NULL : strrchr(header.dir, '/');
    if (!slash || slash[1] == '\0' || slash[1] == '.')
        return error_set(ret_error, -EINVAL, "process %d is not a twin", twin);
    if (snprintf(path, PATH_MAX, "%s%s", directory, slash) >= PATH_MAX ||
        image_read(path, &snapshot, &owner, NULL) < 0 || snapshot.process.twin != (uint32_t)twin ||
        twin_check(&snapshot, NULL) < 0)
        return error_set(ret_error, -EPERM,
                         "twin %d was not made by this core: it is restored by whoever has its directory",
                         twin);
    return 0;
}

/* ---- checkpoint ---- */

static int check_still_meant(void *userdata, struct reseat_error **ret_error)
{
    const struct work *work = userdata;
    return work_check_execution(&work->job.terms, work->pidfd, ret_error);
}

/* A session of another process than that of the session at work, as far as that one goes; `pidfd` of it was
 * open while it was certainly there. */
static int make_session_of(struct work *work, pid_t pid, struct reply *reply, struct reseat_error **ret_error)
{
    struct terms terms = work->job.terms;
    _cleanup_close_ int pidfd = sys_pidfd_open(pid);
    int r = pidfd < 0 ? pidfd : execution_read(pid, &terms.execution);
    if (r < 0)
        return error_errno(ret_error, r, "opening process %d, to make a session of it", pid);
    terms.pid = pid;
    terms.owner = work->packet.sender_user;
    return work_make_session(work, &terms, pidfd, reply, ret_error);
}

static int check_stream(const struct work *work, bool is_image, struct reseat_error **ret_error)
{
    if (is_image != (work->packet.cap_count == 1))
        return error_set(ret_error, -EINVAL,
                         "checkpoint: a descriptor must be beside it if, and only if, an image is asked for");
    int flags = is_image ? fcntl(work->packet.caps[0], F_GETFL) : O_WRONLY;
    if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) == O_RDONLY)
        return error_set(ret_error, -EBADF,
                         "checkpoint: the descriptor for the image is not open for writing");
    return 0;
}

static int take_checkpoint(struct work *work, const struct reseat_checkpoint_options *options, bool is_image,
                           struct reseat_checkpoint_result *ret_result, struct reseat_error **ret_error)
{
    char path[PATH_MAX];
    pid_t pid = work->job.terms.pid;
    if (is_image)
        return reseat_checkpoint_stream(pid, work->packet.caps[0], options, ret_result, ret_error);
    int r = make_directory(work, ret_error);
    if (r < 0)
        return r;
    remove_left(work);
    r = name_checkpoint(work, path);
    return r < 0 ? error_directory(work, r, ret_error)
                 : reseat_checkpoint(pid, path, options, ret_result, ret_error);
}

int operation_checkpoint(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    static struct notes notes;
    const struct protocol_checkpoint *request = work->request.fixed;
    bool is_image = request->flags & PROTOCOL_IMAGE;
    notes.length = 0;
    const struct reseat_checkpoint_options options = {.flags = (is_image ? RESEAT_IMAGE : RESEAT_LIVE) |
                                                               (request->flags & PROTOCOL_LEAVE_RUNNING
                                                                    ? RESEAT_LEAVE_RUNNING
                                                                    : 0),
                                                      .allow = request->allow,
                                                      .note = add_note,
                                                      .userdata = &notes,
                                                      .check = check_still_meant,
                                                      .check_userdata = work};
    struct reseat_checkpoint_result result;
    if ((request->flags & ~(PROTOCOL_IMAGE | PROTOCOL_LEAVE_RUNNING)) || request->allow > RESEAT_ALLOW_LOST)
        return error_set(ret_error, -EINVAL, "checkpoint: flags or allow are not ones that there are");
    int r = check_stream(work, is_image, ret_error);
    if (r == 0)
        r = take_checkpoint(work, &options, is_image, &result, ret_error);
    if (r == 0 && !is_image)
        r = make_session_of(work, result.twin, reply, ret_error);
    if (r < 0)
        return r;
    struct protocol_checkpointed *done = reply_fixed(reply, PROTOCOL_CHECKPOINT);
    *done = (struct protocol_checkpointed){.id = result.pid,
                                           .twin = result.twin,
                                           .pause_ns = result.pause_ns,
                                           .memory_bytes = result.memory_bytes,
                                           .threads = result.threads,
                                           .capabilities = result.capabilities};
    put_notes(reply, PROTOCOL_CHECKPOINT, &notes);
    return 0;
}

/* ---- restore, drop ---- */

/* The twin that a restore has kept in the directory. */
static int kept_twin(const char *path, pid_t *ret_twin, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    uid_t owner;
    int r = image_read(path, &snapshot, &owner, ret_error);
    if (r == 0)
        *ret_twin = (pid_t)snapshot.process.twin;
    return r;
}

static int restore(struct work *work, const char *path, const struct reseat_slot *slots, struct notes *notes,
                   struct reseat_restore_result *ret_result, struct reseat_error **ret_error)
{
    const struct protocol_restore *request = work->request.fixed;
    const struct reseat_restore_options options = {
        .flags = (request->flags & PROTOCOL_KEEP ? RESEAT_KEEP : 0) |
                 (request->flags & PROTOCOL_NEW_ID ? RESEAT_NEW_PID : 0),
        .allow = request->allow,
        .wait_ns = request->wait_ns < WAIT_MAX_NS ? request->wait_ns : WAIT_MAX_NS,
        .slots = slots,
        .slot_count = work->request.head->count,
        .note = add_note,
        .userdata = notes};
    return reseat_restore(path, &options, ret_result, ret_error);
}

_Static_assert((int)PROTOCOL_PUT == RESEAT_SLOT_PUT && (int)PROTOCOL_KEEP_SLOT == RESEAT_SLOT_KEEP &&
                   (int)PROTOCOL_CLOSE_SLOT == RESEAT_SLOT_CLOSE &&
                   (int)PROTOCOL_NULL_SLOT == RESEAT_SLOT_NULL && (int)PROTOCOL_FAIL_SLOT == RESEAT_SLOT_FAIL,
               "policies are the same here and there");

/* The choices of the request, with the descriptors that came for them. */
static int read_choices(struct work *work, struct reseat_slot *slots, struct reseat_error **ret_error)
{
    const struct protocol_choice *choices = work->request.items;
    size_t used = 0;
    for (size_t i = 0; i < work->request.head->count; i++) {
        bool is_put = choices[i].policy == PROTOCOL_PUT;
        if (choices[i].policy >= PROTOCOL_POLICIES_END || (is_put && used == work->packet.cap_count))
            return error_set(
                ret_error, -EINVAL,
                "restore: what is to become of selector %u is not said, or its capability is missing",
                choices[i].selector);
        slots[i] = (struct reseat_slot){.selector = choices[i].selector,
                                        .fd = is_put ? work->packet.caps[used++] : -1,
                                        .policy = (enum reseat_slot_policy)choices[i].policy};
    }
    return used == work->packet.cap_count
               ? 0
               : error_set(ret_error, -EINVAL, "restore: more capabilities came with it than it takes");
}

int operation_restore(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    static struct notes notes;
    char path[PATH_MAX];
    const struct protocol_restore *request = work->request.fixed;
    struct reseat_slot slots[CHOICES_MAX];
    struct reseat_restore_result result;
    pid_t twin = 0;
    notes.length = 0;
    if ((request->flags & ~(PROTOCOL_KEEP | PROTOCOL_NEW_ID)) || request->allow > RESEAT_ALLOW_LOST)
        return error_set(ret_error, -EINVAL, "restore: flags or allow are not ones that there are");
    int r = read_choices(work, slots, ret_error);
    if (r == 0)
        r = find_checkpoint(work, path, ret_error);
    if (r == 0)
        r = restore(work, path, slots, &notes, &result, ret_error);
    if (r < 0)
        return r;
    /* From here on it is done; what is missing in the reply is the client's loss alone. */
    r = make_session_of(work, result.pid, reply, ret_error);
    if (r < 0) {
        close(result.pidfd);
        return error_prefix(ret_error, r, "process %d is restored, but", result.pid);
    }
    reply->caps[reply->cap_count++] = result.pidfd;
    if ((request->flags & PROTOCOL_KEEP) && kept_twin(path, &twin, ret_error) == 0 &&
        make_session_of(work, twin, reply, ret_error) < 0)
        add_note(&notes, "the twin was kept, but no session of it could be made");
    struct protocol_restored *done = reply_fixed(reply, PROTOCOL_RESTORE);
    *done = (struct protocol_restored){.id = result.pid,
                                       .twin = twin,
                                       .restore_ns = result.restore_ns,
                                       .slots = result.slots,
                                       .same = result.same};
    put_notes(reply, PROTOCOL_RESTORE, &notes);
    return 0;
}

int operation_drop(struct work *work, struct reply *reply, struct reseat_error **ret_error)
{
    char path[PATH_MAX];
    (void)reply;
    int r = find_checkpoint(work, path, ret_error);
    return r < 0 ? r : reseat_drop(path, ret_error);
}
