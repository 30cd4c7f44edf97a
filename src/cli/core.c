/* `reseat core`: the service. Rests on core_run(), the one thing that the command does without the library.
 */
#include "cli.h"

#include "core.h"

enum { OPTION_SOCKET = 's', OPTION_CONFIGURATION = 'c', OPTION_CHECKPOINTS = 256 };

static const struct cli_option options[] = {
    {OPTION_SOCKET, "socket", "PATH",
     "listen there (root: /run/reseat/core, others: $XDG_RUNTIME_DIR/reseat-core)"},
    {OPTION_CONFIGURATION, "config", "FILE",
     "who gets sessions to what (/etc/reseat/core.conf, if it is there)"},
    {OPTION_CHECKPOINTS, "checkpoints", "DIR",
     "keep the checkpoints that clients ask for there (root: /run/reseat/checkpoints, others:\n"
     "$XDG_RUNTIME_DIR/reseat-checkpoints)"},
    {0},
};

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    struct core_options core = {.verbose = cli->verbose};
    if (arguments->word_count > 0)
        return usage_error(cli, "core: takes no arguments, but there is %s", arguments->words[0]);
    for (size_t i = 0; i < arguments->option_count; i++) {
        const struct cli_given *given = &arguments->options[i];
        if (given->option->id == OPTION_SOCKET)
            core.socket_path = given->value;
        else if (given->option->id == OPTION_CHECKPOINTS)
            core.checkpoint_directory = given->value;
        else
            core.configuration_path = given->value;
    }
    struct reseat_error *error = NULL;
    int r = core_run(&core, &error);
    return r < 0 ? failure(r, &error) : CLI_DONE;
}

const struct cli_verb verb_core = {
    .name = "core",
    .usage = "[--socket PATH] [--config FILE] [--checkpoints DIR]",
    .summary = "serve sessions of processes to others",
    .about =
        "Listens at a socket, and opens PD sessions: a client that may trace a process (which the kernel "
        "decides,\n"
        "and the configuration may widen or narrow) is given a descriptor through which its capabilities can "
        "be\n"
        "listed, requested, installed, closed and compared, and which it may pass on, narrowed if it likes.\n"
        "Runs in the foreground until SIGTERM; SIGHUP reads the configuration again. Takes the socket that "
        "a\n"
        "service manager passes (LISTEN_FDS). With -v, a line on standard error for each session and "
        "refusal.\n"
        "\n"
        "Example: a core of one's own, for one's own processes\n"
        "  $ reseat core --socket /tmp/core &\n"
        "  $ RESEAT_CORE=/tmp/core examples/pd_client.py list 1234\n",
    .options = options,
    .run = run,
};
