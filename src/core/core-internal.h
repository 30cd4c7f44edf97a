/* What the files of core share: what a session is good for, what dispatcher and worker say to each other, and
 * who may have which session. */
#pragma once

#include "base/base.h"
#include "core/core.h"
#include "native_pd/native_pd.h"
#include "protocol/packet.h"
#include "protocol/protocol.h"

/* ---- execution.c: which program a process executes ---- */

/* The auxiliary vector that the kernel made at execve(2). Equal: it has executed none since. */
struct execution {
    uint32_t length;
    uint8_t vector[508];
};

int execution_read(pid_t pid, struct execution *ret_execution);
bool execution_is_same(const struct execution *a, const struct execution *b);
/* Whether the kernel took it for one that gains privileges (AT_SECURE). */
bool execution_is_secure(const struct execution *execution);

/* ---- terms.c: what a session is good for ---- */

#define TERMS_RANGES_MAX 64

/* A plain value. The dispatcher keeps it, a worker is sent a copy. */
struct terms {
    pid_t pid;
    uid_t owner; /* who had it made: whom it counts to */
    uint32_t rights;
    uint32_t range_count; /* 0: all selectors */
    uint64_t deadline_ns; /* as now_ns(); 0: none */
    struct execution execution;
    struct protocol_range ranges[TERMS_RANGES_MAX]; /* ascending, apart */
};

/* The lowest selector that is inside and not below `from`; PROTOCOL_SELECTOR_END: none. */
uint32_t terms_next(const struct terms *terms, uint32_t from);
bool terms_allow_selector(const struct terms *terms, uint32_t selector);
/* The last of the selectors from `selector`, which is inside, that are inside without a gap. */
uint32_t terms_last(const struct terms *terms, uint32_t selector);
bool terms_allow_all(const struct terms *terms);
/* Takes away whatever is not in `narrow` and the ranges. -EINVAL: a range that is none; -E2BIG: too many of
 * them. */
int terms_narrow(struct terms *terms, const struct protocol_narrow *narrow,
                 const struct protocol_range *ranges, size_t range_count, struct reseat_error **ret_error);
/* Whether the time is over, and whether it has the right for the operation. */
int terms_check(const struct terms *terms, unsigned operation, struct reseat_error **ret_error);
struct protocol_session terms_describe(const struct terms *terms);

/* ---- configuration.c ---- */

enum rule_verdict { RULE_DENY, RULE_LIMIT, RULE_GRANT };

#define NOBODY ((uid_t)-1)

/* Who a rule is about; all of it must fit. */
struct who {
    uid_t user;  /* NOBODY: any */
    gid_t group; /* (gid_t)-1: any */
};

struct rule {
    enum rule_verdict verdict;
    struct who client, target;
    char *program; /* path of the target's; NULL: any */
    uint32_t rights;
    uint64_t lifetime_ns;
};

struct configuration {
    struct rule *rules;
    size_t rule_count;
    uint64_t sessions, connections, workers; /* of one user */
    const char *checkpoint_directory;        /* not from the file; NULL: none is possible */
};

int configuration_read(const char *path, struct configuration *ret_configuration,
                       struct reseat_error **ret_error);
void configuration_end(struct configuration *configuration); /* cleanup function */
bool rights_parse(const char *text, uint32_t *ret_rights);

/* ---- process_ids.c: who somebody is ---- */

/* The number of the process that a pidfd is of, as we see it. -EINVAL: it is no pidfd; -ESRCH: it has ended,
 * or cannot be seen. */
int pidfd_process(int pidfd, pid_t *ret_pid);
/* Whether the process of a pidfd has. As long as it has not, its number is its own. */
bool pidfd_has_ended(int pidfd);

struct ids {
    uid_t users[3];  /* real, effective, saved; of a peer: thrice the effective one */
    gid_t groups[3]; /* likewise */
    gid_t *supplementary;
    size_t supplementary_count;
    uint64_t permitted, effective; /* CAP_*, as far as they count in our user namespace */
    bool is_in_our_namespace;      /* user namespace */
    bool is_dumpable;
};

int ids_of_process(pid_t pid, struct ids *ret_ids);
/* Of who connected: as the kernel noted it then (SO_PEERCRED, SO_PEERGROUPS), with the capabilities that the
 * process has now, if it still is the one (SO_PEERPIDFD). */
int ids_of_peer(int socket, struct ids *ret_ids);
void ids_end(struct ids *ids); /* cleanup function */
bool ids_may_trace_anything(const struct ids *ids);

/* ---- admission.c: who gets a session ---- */

/* Decides about an open request. `pidfd` and `mem` (-EBADF: none) are what came from the client: nothing is
 * believed of them. On success *ret_terms is what the session is good for. */
int admission_decide(int connection, const struct configuration *configuration, int pidfd, int mem,
                     const struct protocol_open *request, struct terms *ret_terms,
                     struct reseat_error **ret_error);

/* ---- between dispatcher and worker ---- */

/* To a worker; beside it the socket, and for a session the pidfd. */
struct job {
    bool is_session; /* else a connection, whose only message is open */
    bool is_discarded;
    struct terms terms;
};

/* From a worker. */
struct report {
    enum {
        REPORT_DONE,
        REPORT_MAKE,  /* a session with `terms`; beside it the pidfd. Answer: its client's end */
        REPORT_CLAIM, /* its process is to be stopped now. Answered when nobody else is at it */
        REPORT_FIND,  /* the session whose client's end has `cookie`. Answer: its terms, its pidfd */
    } kind;
    bool is_closed; /* done: nothing more will come, or may: discard it */
    uint64_t cookie;
    struct terms terms;
};

struct answer {
    int result; /* 0; -EDQUOT, -ENOENT, … */
    uint64_t limit;
    struct terms terms;
};

/* Serves jobs until the dispatcher's end of `dispatcher` is closed. */
void worker_serve(int dispatcher, const struct configuration *configuration, bool verbose);

/* ---- operations.c ---- */

/* One message at work. */
struct work {
    int dispatcher, socket, pidfd;
    const struct configuration *configuration;
    bool verbose;
    struct job job;
    struct packet packet;
    struct protocol_view request;
    struct native_pd *pd;
    bool must_close; /* when it is answered */
    bool came_in_parts;
    bool is_closed;
};

/* The reply in the making. Its descriptors belong to it. */
struct reply {
    union {
        struct protocol_head head;
        _Alignas(8) uint8_t bytes[PROTOCOL_MESSAGE_BYTES];
    };
    size_t length;
    int caps[PROTOCOL_CAPABILITIES_MAX];
    size_t cap_count;
};

/* Room for the fixed part; items follow behind it. */
void *reply_fixed(struct reply *reply, unsigned operation);
/* Room for `count` more items, or NULL: they do not fit. */
void *reply_items(struct reply *reply, unsigned operation, size_t count);
int reply_send(struct work *work, struct reply *reply);
void reply_end(struct reply *reply); /* cleanup function */

int operation_open(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_info(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_narrow(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_list(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_request(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_install(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_close(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_compare(struct work *work, struct reply *reply, struct reseat_error **ret_error);

/* sender.c: what cannot go through a socket is taken out of the process that sent the message, and put there.
 */
int sender_take(struct work *work, int pidfd, unsigned number, int *ret_cap, struct reseat_error **ret_error);
int operation_fetch(struct work *work, struct reply *reply, struct reseat_error **ret_error);

/* checkpoints.c */
int operation_checkpoint(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_restore(struct work *work, struct reply *reply, struct reseat_error **ret_error);
int operation_drop(struct work *work, struct reply *reply, struct reseat_error **ret_error);

/* Opens the PD of a session: the same process, executing the same program as when it was opened. */
int work_open_pd(const struct terms *terms, int pidfd, struct native_pd **ret_pd,
                 struct reseat_error **ret_error);
/* Once more, after the operation: whether what was read was still that program's. */
int work_check_execution(const struct terms *terms, int pidfd, struct reseat_error **ret_error);
/* The next part of a request that comes in several (PROTOCOL_MORE). */
int work_next_part(struct work *work, struct reseat_error **ret_error);
/* To be called before the process is stopped: what came in parts has waited for them, not for its turn. */
int work_claim(struct work *work, struct reseat_error **ret_error);
/* Asks the dispatcher; *ret_fd is what came with the answer. */
int work_ask(struct work *work, const struct report *report, int fd, struct answer *ret_answer, int *ret_fd,
             struct reseat_error **ret_error);
/* Makes a session and puts it beside the reply. */
int work_make_session(struct work *work, const struct terms *terms, int pidfd, struct reply *reply,
                      struct reseat_error **ret_error);

/* ---- privileges.c ---- */

/* Gives up all that core does not need; before the first client is heard. */
int privileges_reduce(struct reseat_error **ret_error);

/* ---- systemd.c ---- */

/* The sockets that a service manager passed (LISTEN_FDS): how many; they begin at descriptor 3. */
int systemd_listen_fds(void);
/* Tells the service manager (NOTIFY_SOCKET), if there is one. */
void systemd_notify(const char *state);
