/* The dispatcher's own: channels, the workers, and the loop. See core.h for the idea. */
#pragma once

#include "core/core-internal.h"

/* A socket with a client behind it: a connection to core itself, or a session. */
struct channel {
    struct channel *next, *previous;
    struct channel *next_waiting;
    int socket;
    int pidfd;       /* session: of its process */
    uint64_t cookie; /* session: of the client's end */
    bool is_session;
    bool is_discarded;         /* to be emptied by a worker, and closed */
    struct protocol_head head; /* of its message, read ahead */
    struct terms terms;        /* connection: only the owner */
};

struct worker {
    pid_t pid;
    int socket;
    bool is_busy;
    struct channel *channel; /* NULL: it is idle, or has one that was discarded */
    uint64_t since_ns, limit_ns;
    uid_t owner;
    pid_t target; /* that it looks at, or stops; 0 */
    bool stops_target;
    bool is_claiming; /* waits until it may stop it */
    bool is_retired;  /* ends when it is idle: the configuration is another */
    bool is_lost;     /* was killed, and has not ended yet */
};

/* How many channels a user has. */
struct user {
    uid_t uid;
    uint64_t sessions, connections;
};

struct listener {
    int socket;
    char *path; /* ours, to be removed at the end; NULL: passed by a service manager */
};

struct dispatcher {
    int epoll, signals;
    struct listener *listeners;
    size_t listener_count;
    bool is_paused; /* the listeners are not watched: there are no descriptors left */
    bool is_verbose;
    struct configuration configuration;
    const char *configuration_path;
    char *checkpoint_directory; /* of a user's own core, or NULL */
    struct channel *channels;
    struct channel *first_waiting, **last_waiting;
    struct worker *workers;
    size_t worker_count;
    struct user *users;
    size_t user_count;
};

/* ---- channels.c ---- */

/* Takes the socket over, in any case. NULL: no memory. */
struct channel *channel_add(struct dispatcher *dispatcher, int socket, uid_t owner, bool is_session);
void channel_close(struct dispatcher *dispatcher, struct channel *channel);
/* The same for one in which something may be queued, such as a file that takes its time to be closed. What a
 * client that is gone has asked for, and that was not begun, is not done: nobody could be told. */
void channel_discard(struct dispatcher *dispatcher, struct channel *channel);
/* It has something to say: it is put behind all that wait for a worker. */
void channel_ready(struct dispatcher *dispatcher, struct channel *channel);
/* Its message is answered: the next one may come. */
void channel_rearm(struct dispatcher *dispatcher, struct channel *channel);
/* Answers in place of a worker that cannot. */
void channel_refuse(struct channel *channel, int code, const char *sentence);
struct channel *channel_find(struct dispatcher *dispatcher, uint64_t cookie);
/* How many of that kind a user has. */
uint64_t *user_count_of(struct dispatcher *dispatcher, uid_t uid, bool sessions);

/* ---- pool.c ---- */

/* Gives waiting channels to workers, as far as there are any. */
void pool_dispatch(struct dispatcher *dispatcher);
/* A worker has something to say, or has ended. */
void pool_hear(struct dispatcher *dispatcher, struct worker *worker);
/* Ends what takes too long, and idle workers that are too many; returns how long to wait at most, in ms. */
int pool_look_after(struct dispatcher *dispatcher);
void pool_collect(struct dispatcher *dispatcher); /* after SIGCHLD */
void pool_retire(struct dispatcher *dispatcher);  /* all of them, when they are idle */
size_t pool_busy(const struct dispatcher *dispatcher);
struct worker *pool_find(struct dispatcher *dispatcher, const void *pointer);
