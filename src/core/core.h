/* Core: the service that hands out PD sessions. It listens at a SOCK_SEQPACKET unix socket, opens sessions
 * for clients whom the kernel lets trace a process, and serves request, install, close and the rest of them
 * (protocol/protocol.h, docs/protocol.md).
 *
 * One process, the *dispatcher*, holds all sessions and waits. It reads no message, and touches no descriptor
 * of a client: whatever has something to say is given to a *worker*, a forked process that reads one message,
 * does it, answers it, and is free for the next. So a target that cannot be stopped, a file whose close(2)
 * never returns, or a fault in a decoder costs one worker and one session, and nobody else waits for it. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

struct reseat_error;

struct core_options {
    const char *socket_path;          /* NULL: the usual place; not used if systemd passes a socket */
    const char *configuration_path;   /* NULL: /etc/reseat/core.conf, if it is there */
    const char *checkpoint_directory; /* NULL: the usual place, made when it is needed */
    bool verbose;                     /* a line on standard error for each session and refusal */
};

/* Serves until SIGTERM or SIGINT. SIGHUP: reads the configuration again. Expects a process with one thread.
 */
int core_run(const struct core_options *options, struct reseat_error **ret_error);
