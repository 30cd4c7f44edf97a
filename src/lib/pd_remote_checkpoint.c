/* Checkpoint and restore through core: the client's side. The twin's session comes back as a PD like any
 * other; what core had to say is handed to the caller's function for notes. */
#include "lib/pd_remote.h"

#include <errno.h>
#include <string.h>

static int error_local(const struct reseat_pd *pd, const char *instead, struct reseat_error **ret_error)
{
    return error_set(ret_error, -EOPNOTSUPP, "process %d was opened with our own rights: %s is for that",
                     reseat_pd_pid(pd), instead);
}

static void hand_on_notes(const struct protocol_view *reply, reseat_note_fn note, void *userdata)
{
    _cleanup_free_ char *text = note ? strndup(reply->items, reply->head->count) : NULL;
    char *position = NULL;
    for (char *line = text ? strtok_r(text, "\n", &position) : NULL; line;
         line = strtok_r(NULL, "\n", &position))
        note(userdata, line);
}

/* A PD around the session that is capability `index` of the packet; NULL where the caller wants none. */
static int take_session(struct packet *packet, size_t index, pid_t pid, struct reseat_pd **ret_pd,
                        struct reseat_error **ret_error)
{
    if (!ret_pd)
        return 0;
    int r = remote_make(packet->caps[index], pid, ret_pd, ret_error);
    if (r == 0)
        packet_take(packet, index);
    return r;
}

/* ---- checkpoint ---- */

/* `stream` negative: a twin. */
static int checkpoint(struct reseat_pd *pd, int stream, const struct reseat_checkpoint_options *options,
                      struct reseat_checkpoint_result *ret_result, struct reseat_pd **ret_twin,
                      struct reseat_error **ret_error)
{
    static const struct reseat_checkpoint_options usual;
    _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    options = options ? options : &usual;
    const struct protocol_checkpoint fixed = {.flags = (stream >= 0 ? PROTOCOL_IMAGE : 0) |
                                                       (options->flags & RESEAT_LEAVE_RUNNING
                                                            ? PROTOCOL_LEAVE_RUNNING
                                                            : 0),
                                              .allow = options->allow};
    struct remote_request request = {.head = {.operation = PROTOCOL_CHECKPOINT, .capabilities = stream >= 0},
                                     .fixed = &fixed,
                                     .caps = &stream};
    int r = remote_ask(remote_of(pd), &request, &packet, &reply, ret_error);
    if (r < 0)
        return r;
    const struct protocol_checkpointed *done = reply.fixed;
    if (packet.cap_count != (stream < 0))
        return error_set(ret_error, -EBADMSG, "core has answered without a session of the twin");
    r = take_session(&packet, 0, done->twin, ret_twin, ret_error);
    if (r < 0)
        return r;
    hand_on_notes(&reply, options->note, options->userdata);
    *ret_result = (struct reseat_checkpoint_result){.pid = done->id,
                                                    .twin = done->twin,
                                                    .pause_ns = done->pause_ns,
                                                    .threads = done->threads,
                                                    .capabilities = done->capabilities,
                                                    .memory_bytes = done->memory_bytes};
    return 0;
}

int reseat_pd_checkpoint(struct reseat_pd *pd, const struct reseat_checkpoint_options *options,
                         struct reseat_checkpoint_result *ret_result, struct reseat_pd **ret_twin,
                         struct reseat_error **ret_error)
{
    return remote_of(pd) ? checkpoint(pd, -1, options, ret_result, ret_twin, ret_error)
                         : error_local(pd, "reseat_checkpoint()", ret_error);
}

int reseat_pd_checkpoint_stream(struct reseat_pd *pd, int fd, const struct reseat_checkpoint_options *options,
                                struct reseat_checkpoint_result *ret_result, struct reseat_error **ret_error)
{
    if (!remote_of(pd))
        return error_local(pd, "reseat_checkpoint_stream()", ret_error);
    if (fd < 0)
        return error_set(ret_error, -EBADF, "checkpointing process %d into descriptor %d", reseat_pd_pid(pd),
                         fd);
    return checkpoint(pd, fd, options, ret_result, NULL, ret_error);
}

/* ---- restore, drop ---- */

/* More would not fit into a message; more objects than PROTOCOL_CAPABILITIES_MAX core finds missing. */
#define CHOICES_MAX 1024

static int ask_restore(struct reseat_pd *twin, const struct reseat_restore_options *options,
                       struct packet *packet, struct protocol_view *ret_reply,
                       struct reseat_error **ret_error)
{
    _cleanup_free_ struct protocol_choice *choices =
        reallocarray(NULL, options->slot_count + 1, sizeof *choices);
    int caps[PROTOCOL_CAPABILITIES_MAX];
    size_t cap_count = 0;
    if (options->slot_count > CHOICES_MAX)
        return error_set(ret_error, -E2BIG,
                         "restoring with %zu choices for selectors through core: %d are possible",
                         options->slot_count, CHOICES_MAX);
    if (!choices)
        return error_errno(ret_error, -ENOMEM, "restoring through core");
    for (size_t i = 0; i < options->slot_count; i++) {
        const struct reseat_slot *slot = &options->slots[i];
        choices[i] = (struct protocol_choice){.selector = slot->selector, .policy = slot->policy};
        if (slot->policy == RESEAT_SLOT_PUT && cap_count < PROTOCOL_CAPABILITIES_MAX)
            caps[cap_count++] = slot->fd;
    }
    const struct protocol_restore fixed = {.flags = (options->flags & RESEAT_KEEP ? PROTOCOL_KEEP : 0) |
                                                    (options->flags & RESEAT_NEW_PID ? PROTOCOL_NEW_ID : 0),
                                           .allow = options->allow,
                                           .wait_ns = options->wait_ns};
    struct remote_request request = {.head = {.operation = PROTOCOL_RESTORE,
                                              .count = (uint32_t)options->slot_count,
                                              .capabilities = (uint32_t)cap_count},
                                     .fixed = &fixed,
                                     .items = choices,
                                     .caps = caps};
    return remote_ask(remote_of(twin), &request, packet, ret_reply, ret_error);
}

int reseat_pd_restore(struct reseat_pd *twin, const struct reseat_restore_options *options,
                      struct reseat_restore_result *ret_result, struct reseat_pd **ret_pd,
                      struct reseat_pd **ret_kept, struct reseat_error **ret_error)
{
    static const struct reseat_restore_options usual = {.wait_ns = 5000000000U};
    _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    struct reseat_pd *pd = NULL, *kept = NULL;
    options = options ? options : &usual;
    if (!remote_of(twin))
        return error_local(twin, "reseat_restore()", ret_error);
    int r = ask_restore(twin, options, &packet, &reply, ret_error);
    if (r < 0)
        return r;
    const struct protocol_restored *done = reply.fixed;
    r = take_session(&packet, 0, done->id, ret_pd ? &pd : NULL, ret_error);
    if (r == 0 && packet.cap_count > 2)
        r = take_session(&packet, 2, done->twin, ret_kept ? &kept : NULL, ret_error);
    if (r < 0) {
        reseat_pd_free(pd);
        return r;
    }
    hand_on_notes(&reply, options->note, options->userdata);
    *ret_result = (struct reseat_restore_result){.pid = done->id,
                                                 .restore_ns = done->restore_ns,
                                                 .slots = done->slots,
                                                 .same = done->same,
                                                 .pidfd = packet_take(&packet, 1)};
    if (ret_pd)
        *ret_pd = pd;
    if (ret_kept)
        *ret_kept = kept;
    return 0;
}

int reseat_pd_drop(struct reseat_pd *twin, struct reseat_error **ret_error)
{
    _cleanup_(packet_end) struct packet packet = {.cap_count = 0};
    struct protocol_view reply;
    struct remote_request request = {.head.operation = PROTOCOL_DROP};
    if (!remote_of(twin))
        return error_local(twin, "reseat_drop_twin()", ret_error);
    return remote_ask(remote_of(twin), &request, &packet, &reply, ret_error);
}
