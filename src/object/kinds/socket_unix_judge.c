/* Unix sockets out of a durable image, first half: where the parts of the state stand, whether they are all
 * there, who belongs to whom, and what of it a restore would not bring back. */
#include "object/kinds.h"
#include "object/kinds/socket_unix_durable.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/stat.h>

struct unix_parts unix_parts_of(const struct object_view *view)
{
    struct unix_parts parts;
    view_read(view, &parts.state, sizeof parts.state);
    parts.name = sizeof parts.state;
    parts.peer_name = parts.name + ALIGN_8(parts.state.name_length);
    parts.options = parts.peer_name + ALIGN_8(parts.state.peer_name_length);
    parts.waiting = parts.options + parts.state.option_count * sizeof(struct socket_option);
    parts.messages = parts.waiting + parts.state.waiting_count * sizeof(uint64_t);
    return parts;
}

bool unix_next_message(const struct object_view *view, uint64_t *offset,
                       struct unix_message_view *ret_message)
{
    struct unix_message_view message;
    if (!view_has(view, *offset, sizeof message.header))
        return false;
    memcpy(&message.header, view->state + *offset, sizeof message.header);
    if (message.header.sender_length > UNIX_NAME_MAX || message.header.object_count > UNIX_OBJECTS_MAX)
        return false;
    uint64_t sender = *offset + sizeof message.header;
    uint64_t objects = sender + message.header.sender_length;
    uint64_t bytes = objects + message.header.object_count * sizeof(uint32_t);
    if (!view_has(view, bytes, message.header.length))
        return false;
    if (unix_is_endless(view->state + sender, message.header.sender_length))
        return false;
    message.sender = (const char *)view->state + sender;
    message.objects = view->state + objects;
    message.bytes = view->state + bytes;
    *offset = ALIGN_8(bytes + message.header.length);
    *ret_message = message;
    return true;
}

static int check_messages(const struct object_view *view, const struct unix_parts *parts,
                          struct reseat_error **ret_error)
{
    uint64_t offset = parts->messages;
    for (size_t i = 0; i < parts->state.message_count; i++) {
        struct unix_message_view message;
        if (!unix_next_message(view, &offset, &message))
            return view_bad(view, ret_error, "message %zu is cut off", i);
        for (size_t o = 0; o < message.header.object_count; o++) {
            uint32_t object;
            memcpy(&object, message.objects + o * sizeof object, sizeof object);
            if (object == 0 || object > view->snapshot->objects_count)
                return view_bad(view, ret_error, "message %zu has object %u in it, which there is not", i,
                                object);
        }
    }
    return 0;
}

int unix_check(const struct object_view *view, struct reseat_error **ret_error)
{
    struct unix_parts parts = unix_parts_of(view);
    const struct unix_state *state = &parts.state;
    if (state->type != SOCK_STREAM && state->type != SOCK_DGRAM && state->type != SOCK_SEQPACKET)
        return view_bad(view, ret_error, "type %u", state->type);
    if (state->name_length > UNIX_NAME_MAX || state->peer_name_length > UNIX_NAME_MAX ||
        !view_has(view, parts.options, 0))
        return view_bad(view, ret_error, "a name is cut off");
    if (unix_is_endless(view->state + parts.name, state->name_length) ||
        unix_is_endless(view->state + parts.peer_name, state->peer_name_length))
        return view_bad(view, ret_error, "a path does not end");
    int r = socket_options_check(view, parts.options, state->option_count, ret_error);
    if (r == 0 && !view_has(view, parts.waiting, state->waiting_count * (uint64_t)sizeof(uint64_t)))
        r = view_bad(view, ret_error, "%u waiting connections are cut off", state->waiting_count);
    return r == 0 ? check_messages(view, &parts, ret_error) : r;
}

/* ---- who belongs to whom ---- */

object_id_t unix_find_inode(const struct snapshot *snapshot, uint64_t inode)
{
    for (size_t i = 0; inode && i < snapshot->objects_count; i++) {
        const struct snapshot_object *row = &snapshot->objects[i];
        if (row->inode != inode)
            continue;
        struct object_view view = view_of(snapshot, row->id);
        if (view_is_usable(&view) && strcmp(view_kind_name(&view), "unix") == 0)
            return row->id;
    }
    return 0;
}

static uint64_t waiting_at(const struct object_view *view, const struct unix_parts *parts, size_t index)
{
    uint64_t inode;
    memcpy(&inode, view->state + parts->waiting + index * sizeof inode, sizeof inode);
    return inode;
}

object_id_t unix_find_listener(const struct object_view *view)
{
    struct unix_parts own = unix_parts_of(view);
    if (!(own.state.flags & UNIX_CONNECTED) || own.state.peer_inode || own.state.shutdown == 3)
        return 0;
    for (object_id_t id = 1; id <= view->snapshot->objects_count; id++) {
        struct object_view other = view_of(view->snapshot, id);
        if (!view_is_usable(&other) || strcmp(view_kind_name(&other), "unix") != 0)
            continue;
        struct unix_parts parts = unix_parts_of(&other);
        for (size_t i = 0; i < parts.state.waiting_count; i++)
            if (waiting_at(&other, &parts, i) == view->row->inode)
                return id;
    }
    return 0;
}

/* ---- judge ---- */

static int say(enum object_fate fate, enum object_fate *ret_fate, char **ret_sentence, const char *text)
{
    *ret_fate = fate;
    return describe_as(ret_sentence, "%s", text);
}

static int judge_listening(const struct object_view *view, const struct unix_parts *parts,
                           enum object_fate *ret_fate, char **ret_sentence)
{
    size_t outside = 0, ended = 0;
    for (size_t i = 0; i < parts->state.waiting_count; i++) {
        uint64_t inode = waiting_at(view, parts, i);
        ended += inode == 0;
        outside += inode && unix_find_inode(view->snapshot, inode) == 0;
    }
    if (outside == 0 && ended == 0)
        return 0;
    *ret_fate = OBJECT_DEGRADED;
    if (outside == 0)
        return describe_as(ret_sentence,
                           "%zu of %u connections that wait to be accepted have been closed on the other "
                           "side already: what was sent through them is lost",
                           ended, parts->state.waiting_count);
    return describe_as(ret_sentence,
                       "%zu of %u connections that wait to be accepted come from outside the "
                       "checkpoint: they are closed",
                       outside, parts->state.waiting_count);
}

static int judge_packets(const struct object_view *view, const struct unix_parts *parts,
                         const struct object_options *options, enum object_fate *ret_fate,
                         char **ret_sentence)
{
    bool is_connected = parts->state.flags & UNIX_CONNECTED;
    if (!is_connected || view_may_be_in_flight(view, options) || parts->state.peer_name_length ||
        !parts->state.peer_inode || unix_find_inode(view->snapshot, parts->state.peer_inode))
        return 0;
    return say(OBJECT_DEGRADED, ret_fate, ret_sentence,
               "its other end is outside the checkpoint: sending fails with ECONNREFUSED");
}

/* Whether something is under way in it that is not there when its queue is filled. */
static bool has_unmade(const struct object_view *view, const struct unix_parts *parts,
                       const struct object_options *options)
{
    uint64_t offset = parts->messages;
    struct unix_message_view message;
    for (size_t i = 0; i < parts->state.message_count && unix_next_message(view, &offset, &message); i++)
        for (size_t o = 0; o < message.header.object_count; o++) {
            uint32_t object;
            memcpy(&object, message.objects + o * sizeof object, sizeof object);
            struct object_view other = view_of(view->snapshot, object);
            bool needs_process = view_is_usable(&other) && other.kind->durable->needs_process &&
                                 other.kind->durable->needs_process(&other);
            if (needs_process || object_is_unwanted(options, object))
                return true;
        }
    return false;
}

int unix_judge(const struct object_view *view, const struct object_options *options,
               enum object_fate *ret_fate, char **ret_sentence)
{
    struct unix_parts parts = unix_parts_of(view);
    const struct unix_state *state = &parts.state;
    if ((!(state->flags & UNIX_CONNECTED) || state->type == SOCK_DGRAM) && !unix_can_be_reached(view))
        return say(OBJECT_LOST, ret_fate, ret_sentence,
                   "its file was removed and its name cannot be had again, so that those inside who talk to "
                   "it cannot be connected again without CAP_NET_ADMIN");
    if (has_unmade(view, &parts, options))
        return say(
            OBJECT_DEGRADED, ret_fate, ret_sentence,
            "a descriptor that is under way in it is on the process itself (or replaced by --slot): it "
            "arrives as one on which every operation fails");
    if (state->flags & UNIX_LISTENING)
        return judge_listening(view, &parts, ret_fate, ret_sentence);
    if (state->type == SOCK_DGRAM)
        return judge_packets(view, &parts, options, ret_fate, ret_sentence);
    if (!(state->flags & UNIX_CONNECTED) || (!state->peer_inode && state->shutdown == 3))
        return 0;
    if (state->peer_inode)
        return unix_find_inode(view->snapshot, state->peer_inode) || view_may_be_in_flight(view, options)
                   ? 0
                   : say(OBJECT_DEGRADED, ret_fate, ret_sentence,
                         "its other end is outside the checkpoint: it reads as end of file");
    if (!unix_find_listener(view))
        return say(OBJECT_DEGRADED, ret_fate, ret_sentence,
                   "it waits to be accepted by a process outside the checkpoint: it reads as end of file");
    return state->unread == 0 ? 0
                              : say(OBJECT_DEGRADED, ret_fate, ret_sentence,
                                    "it waits to be accepted, and what it has sent already is lost");
}
