/* `reseat request`: runs a command that holds a capability of another process. Rests on reseat_pd_request().
 * The command takes our place (execvp(3)), so that its status, its signals and its terminal are simply its
 * own. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What env(1) and shells say of a command that cannot be run. */
enum { STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127 };

enum { OPTION_TO = 1 };

static const struct cli_option options[] = {
    {OPTION_TO, "to", "N", "the descriptor that CMD has it as (default: 0, its standard input)"},
    CLI_CORE_OPTION,
    {0},
};

/* The capability as a descriptor of ours, close-on-exec. Returns an exit status. */
static int request(const char *core, pid_t pid, unsigned selector, int *ret_cap)
{
    _cleanup_(close_pd) struct reseat_pd *pd = NULL;
    struct reseat_error *error = NULL;
    int status = open_pd(core, pid, &pd);
    if (status != CLI_DONE)
        return status;
    int r = reseat_pd_request(pd, selector, ret_cap, NULL, &error);
    if (r < 0)
        return failure(r, &error);
    if (*ret_cap >= 0)
        return CLI_DONE;
    message("request: selector %u of process %d is unused (`reseat caps %d` lists those in use)", selector,
            pid, pid);
    return CLI_FAILED;
}

/* Only returns if the command cannot be run; the message goes to our own standard error, which may by then be
 * the capability. */
static int become(const char *const *command, int cap, int to)
{
    int errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, to == INT32_MAX ? 0 : to + 1);
    if (errors < 0)
        errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    int r = cap == to ? fcntl(cap, F_SETFD, 0) : dup2(cap, to);
    if (r < 0) {
        message("request: the command cannot have descriptor %d: %s (ulimit -n)", to, strerror(errno));
        return CLI_FAILED;
    }
    if (signals_pending())
        return CLI_INTERRUPTED;
    signals_restore();
    execvp(command[0], (char *const *)command);
    r = errno;
    dup2(errors, STDERR_FILENO);
    message("request: %s cannot be run: %s", command[0], strerror(r));
    return r == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    pid_t pid;
    unsigned selector;
    uint64_t to = 0;
    if (arguments->words_before != 2 || arguments->word_count < 3)
        return usage_error(cli, "request: give a PID, a selector and, behind --, a command");
    if (!parse_pid(arguments->words[0], &pid))
        return usage_error(cli, "request: %s is not a PID", arguments->words[0]);
    if (!parse_selector(arguments->words[1], strlen(arguments->words[1]), &selector))
        return usage_error(cli, "request: %s is not a selector", arguments->words[1]);
    const char *core = NULL;
    for (size_t i = 0; i < arguments->option_count; i++) {
        const char *value = arguments->options[i].value;
        if (arguments->options[i].option->id == OPTION_CORE)
            core = value;
        else if (!parse_number(value, INT32_MAX, &to))
            return usage_error(cli, "request: --to takes a descriptor number, not %s", value);
    }
    int cap = -1;
    int status = request(core, pid, selector, &cap);
    return status == CLI_DONE ? become(arguments->words + 2, cap, (int)to) : status;
}

const struct cli_verb verb_request = {
    .name = "request",
    .usage = "PID SEL [--to N] [--core SOCKET] -- CMD…",
    .summary = "run a command that holds a capability of a process",
    .about =
        "CMD has the very object that is at selector SEL of process PID as its descriptor N: the same "
        "position, the\n"
        "same connection, the same locks. The process is neither stopped nor changed. The status is that of "
        "CMD; 126 or\n"
        "127 if it cannot be run; 1 if there is no such capability. (What CMD reads, the process does not "
        "get.)\n"
        "\n"
        "Example: how many bytes wait in the pipe that is the standard input of process 1234?\n"
        "  $ reseat request 1234 0 -- python3 -c 'import array, fcntl, termios\n"
        "  n = array.array(\"i\", [0]); fcntl.ioctl(0, termios.FIONREAD, n); print(n[0])'\n"
        "Example: shut down a connection that hangs at selector 7\n"
        "  $ reseat request 1234 7 -- python3 -c 'import socket; socket.socket(fileno=0).shutdown(2)'\n",
    .options = options,
    .run = run,
};
