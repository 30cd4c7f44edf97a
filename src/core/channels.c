/* Channels: the sockets with clients behind them, who they count to, and in which order they are served.
 *
 * Each is watched for one event at a time (EPOLLONESHOT): from the moment that a message is there until it is
 * answered. So whoever sends a thousand requests has one of them in work, and waits behind everybody else for
 * the next; and what is not yet taken stays in the sender's socket, where the kernel limits it.
 *
 * See epoll(7), unix(7). */
#include "core/dispatcher.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* ---- users ---- */

static struct user *find_user(struct dispatcher *dispatcher, uid_t uid)
{
    struct user *unused = NULL;
    for (size_t i = 0; i < dispatcher->user_count; i++) {
        struct user *user = &dispatcher->users[i];
        if (user->uid == uid)
            return user;
        if (!user->sessions && !user->connections)
            unused = user;
    }
    if (!unused)
        unused = array_append(dispatcher->users, dispatcher->user_count);
    if (unused)
        *unused = (struct user){.uid = uid};
    return unused;
}

uint64_t *user_count_of(struct dispatcher *dispatcher, uid_t uid, bool sessions)
{
    struct user *user = find_user(dispatcher, uid);
    if (!user)
        return NULL;
    return sessions ? &user->sessions : &user->connections;
}

/* ---- adding and closing ---- */

static int watch(struct dispatcher *dispatcher, struct channel *channel, int operation)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLONESHOT, .data.ptr = channel};
    return epoll_ctl(dispatcher->epoll, operation, channel->socket, &event) < 0 ? -errno : 0;
}

struct channel *channel_add(struct dispatcher *dispatcher, int socket, uid_t owner, bool is_session)
{
    uint64_t *count = user_count_of(dispatcher, owner, is_session);
    struct channel *channel = count ? calloc(1, sizeof *channel) : NULL;
    if (channel) {
        channel->socket = socket;
        if (watch(dispatcher, channel, EPOLL_CTL_ADD) < 0) {
            free(channel);
            channel = NULL;
        }
    }
    if (!channel) {
        close(socket);
        return NULL;
    }
    channel->pidfd = -EBADF;
    channel->is_session = is_session;
    channel->terms.owner = owner;
    channel->next = dispatcher->channels;
    if (channel->next)
        channel->next->previous = channel;
    dispatcher->channels = channel;
    (*count)++;
    return channel;
}

void channel_close(struct dispatcher *dispatcher, struct channel *channel)
{
    uint64_t *count = user_count_of(dispatcher, channel->terms.owner, channel->is_session);
    if (count)
        (*count)--;
    if (channel->previous)
        channel->previous->next = channel->next;
    else
        dispatcher->channels = channel->next;
    if (channel->next)
        channel->next->previous = channel->previous;
    close(channel->socket);
    base_close(&channel->pidfd);
    free(channel);
}

void channel_discard(struct dispatcher *dispatcher, struct channel *channel)
{
    shutdown(channel->socket, SHUT_RDWR); /* the client sees the end now, whoever else holds this socket */
    channel->is_discarded = true;
    channel_ready(dispatcher, channel);
}

/* ---- its turn ---- */

/* Reading ahead without room for descriptors leaves them where they are. */
static void read_ahead(struct channel *channel)
{
    channel->head = (struct protocol_head){0};
    ssize_t n = recv(channel->socket, &channel->head, sizeof channel->head, MSG_PEEK | MSG_DONTWAIT);
    if (n < (ssize_t)sizeof channel->head)
        channel->head = (struct protocol_head){0};
}

void channel_ready(struct dispatcher *dispatcher, struct channel *channel)
{
    read_ahead(channel);
    channel->next_waiting = NULL;
    *dispatcher->last_waiting = channel;
    dispatcher->last_waiting = &channel->next_waiting;
}

void channel_rearm(struct dispatcher *dispatcher, struct channel *channel)
{
    if (watch(dispatcher, channel, EPOLL_CTL_MOD) < 0)
        channel_discard(dispatcher, channel);
}

void channel_refuse(struct channel *channel, int code, const char *sentence)
{
    struct protocol_head head = {.version = PROTOCOL_VERSION,
                                 .operation = channel->head.operation,
                                 .tag = channel->head.tag,
                                 .result = code,
                                 .count = (uint32_t)strlen(sentence)};
    const struct iovec pieces[] = {{&head, sizeof head}, {(void *)sentence, head.count}};
    packet_send_pieces(channel->socket, pieces, COUNT_OF(pieces), NULL, 0, MSG_DONTWAIT);
}

struct channel *channel_find(struct dispatcher *dispatcher, uint64_t cookie)
{
    for (struct channel *channel = dispatcher->channels; channel; channel = channel->next)
        if (channel->is_session && channel->cookie == cookie)
            return channel;
    return NULL;
}
