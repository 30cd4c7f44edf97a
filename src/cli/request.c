/* `reseat request`: runs a command that holds a capability of another process. Rests on reseat_pd_request().
 * The command takes our place (execvp(3)), so that its status, its signals and its terminal are simply its
 * own. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* What env(1) and shells say of a command that cannot be run. */
enum { STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127 };

enum { OPTION_TO = 1 };

static const struct cli_option options[] = {
    {OPTION_TO, "to", "N", "the descriptor that CMD has it as (default: 0, its standard input)"},
    CLI_CORE_OPTION,
    {0},
};

/* One capability, and the descriptor that the command has it as. */
struct hand_over {
    unsigned selector;
    int to;
    int cap; /* ours, close-on-exec; -1: not there yet */
};

struct wish {
    pid_t pid;
    const char *core;
    struct hand_over *items;
    size_t count;
};

static void free_wish(struct wish *wish)
{
    for (size_t i = 0; i < wish->count; i++)
        if (wish->items[i].cap >= 0)
            close(wish->items[i].cap);
    free(wish->items);
}

/* ---- the command line ---- */

/* SEL or SEL:N; without N `*to` is left as it is. */
static bool parse_hand_over(const char *text, struct hand_over *item)
{
    const char *colon = strchr(text, ':');
    uint64_t to = (uint64_t)item->to;
    if (!parse_selector(text, colon ? (size_t)(colon - text) : strlen(text), &item->selector) ||
        (colon && !parse_number(colon + 1, INT32_MAX - 1, &to)))
        return false;
    item->to = (int)to;
    return true;
}

static int check_targets(const struct cli *cli, const struct wish *wish)
{
    for (size_t i = 0; i < wish->count; i++)
        for (size_t before = 0; before < i; before++)
            if (wish->items[before].to == wish->items[i].to)
                return usage_error(cli,
                                   "request: selectors %u and %u would both become descriptor %d: say with "
                                   "SEL:N what each is to be",
                                   wish->items[before].selector, wish->items[i].selector, wish->items[i].to);
    return CLI_DONE;
}

static int read_wish(const struct cli *cli, const struct cli_arguments *arguments, struct wish *wish)
{
    uint64_t to = 0;
    if (arguments->words_before < 2 || arguments->word_count == arguments->words_before)
        return usage_error(cli, "request: give a PID, a selector and, behind --, a command");
    if (!parse_pid(arguments->words[0], &wish->pid))
        return usage_error(cli, "request: %s is not a PID", arguments->words[0]);
    for (size_t i = 0; i < arguments->option_count; i++) {
        const char *value = arguments->options[i].value;
        if (arguments->options[i].option->id == OPTION_CORE)
            wish->core = value;
        else if (!parse_number(value, INT32_MAX - 1, &to))
            return usage_error(cli, "request: --to takes a descriptor number, not %s", value);
    }
    wish->items = calloc(arguments->words_before, sizeof *wish->items);
    if (!wish->items) {
        message("out of memory");
        return CLI_FAILED;
    }
    for (size_t i = 1; i < arguments->words_before; i++) {
        struct hand_over *item = &wish->items[wish->count++];
        *item = (struct hand_over){.to = (int)to, .cap = -1};
        if (!parse_hand_over(arguments->words[i], item))
            return usage_error(cli, "request: %s is neither a selector nor SEL:N", arguments->words[i]);
    }
    return check_targets(cli, wish);
}

/* ---- the capabilities ---- */

static int request_one(const struct wish *wish, struct reseat_pd *pd, struct hand_over *item)
{
    struct reseat_error *error = NULL;
    int r = reseat_pd_request(pd, item->selector, &item->cap, NULL, &error);
    if (r < 0)
        return failure(r, &error);
    if (item->cap >= 0)
        return CLI_DONE;
    message("request: selector %u of process %d is unused (`reseat caps %d` lists those in use)",
            item->selector, wish->pid, wish->pid);
    return CLI_FAILED;
}

static int request(struct wish *wish)
{
    _cleanup_(close_pd) struct reseat_pd *pd = NULL;
    int status = open_pd(wish->core, wish->pid, &pd);
    for (size_t i = 0; status == CLI_DONE && i < wish->count; i++)
        status = request_one(wish, pd, &wish->items[i]);
    return status;
}

/* ---- the command ---- */

static int fail_to_place(int to)
{
    message("request: the command cannot have descriptor %d: %s (ulimit -n)", to, strerror(errno));
    return CLI_FAILED;
}

static bool is_target(const struct wish *wish, int fd)
{
    for (size_t i = 0; i < wish->count; i++)
        if (wish->items[i].to == fd)
            return true;
    return false;
}

/* Another descriptor of the same, which is none of those that the command is to have. */
static int duplicate_aside(const struct wish *wish, int fd)
{
    for (int from = 0;;) {
        int copy = fcntl(fd, F_DUPFD_CLOEXEC, from);
        if (copy < 0 || !is_target(wish, copy))
            return copy;
        close(copy);
        from = copy + 1;
    }
}

/* Puts every capability where the command is to have it. First all are moved out of the way of all. */
static int place(struct wish *wish)
{
    struct rlimit limit;
    for (size_t i = 0; i < wish->count; i++) { /* while standard error is still ours */
        errno = EBADF;
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)wish->items[i].to >= limit.rlim_cur)
            return fail_to_place(wish->items[i].to);
    }
    for (size_t i = 0; i < wish->count; i++) {
        int moved = duplicate_aside(wish, wish->items[i].cap);
        if (moved < 0)
            return fail_to_place(wish->items[i].to);
        close(wish->items[i].cap);
        wish->items[i].cap = moved;
    }
    for (size_t i = 0; i < wish->count; i++)
        if (dup2(wish->items[i].cap, wish->items[i].to) < 0)
            return fail_to_place(wish->items[i].to);
    return CLI_DONE;
}

/* Only returns if the command cannot be run; the message goes to our own standard error, which may by then be
 * a capability. */
static int become(const char *const *command, struct wish *wish)
{
    int errors = duplicate_aside(wish, STDERR_FILENO);
    int status = errors < 0 ? fail_to_place(wish->items[0].to) : place(wish);
    if (status == CLI_DONE && signals_pending())
        status = CLI_INTERRUPTED;
    if (status == CLI_DONE) {
        signals_restore();
        execvp(command[0], (char *const *)command);
        int error = errno;
        status = error == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
        dup2(errors, STDERR_FILENO);
        message("request: %s cannot be run: %s", command[0], strerror(error));
    }
    if (errors >= 0)
        close(errors);
    return status;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    _cleanup_(free_wish) struct wish wish = {0};
    int status = read_wish(cli, arguments, &wish);
    if (status == CLI_DONE)
        status = request(&wish);
    return status == CLI_DONE ? become(arguments->words + arguments->words_before, &wish) : status;
}

const struct cli_verb verb_request = {
    .name = "request",
    .usage = "PID SEL[:N]… [--to N] [--core SOCKET] -- CMD…",
    .summary = "run a command that holds capabilities of a process",
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
        "  $ reseat request 1234 7 -- python3 -c 'import socket; socket.socket(fileno=0).shutdown(2)'\n"
        "Example: give both listening sockets, at 6 and 7, to a successor that knows socket activation\n"
        "  $ reseat request 1234 6:3 7:4 -- sh -c 'LISTEN_FDS=2 LISTEN_PID=$$ exec new-server'\n",
    .options = options,
    .run = run,
};
