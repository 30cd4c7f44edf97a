/* `reseat close`: empties selectors of a running process. Rests on reseat_pd_close_many(), which does all in
 * one stop. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct cli_option options[] = {
    CLI_CORE_OPTION,
    {0},
};

static int close_selectors(const struct cli *cli, const char *core, pid_t pid, const unsigned *selectors,
                           size_t count)
{
    _cleanup_(close_pd) struct reseat_pd *pd = NULL;
    struct reseat_error *error = NULL;
    int status = open_pd(core, pid, &pd);
    if (status != CLI_DONE)
        return status;
    int r = reseat_pd_close_many(pd, selectors, count, &error);
    if (r < 0)
        return failure(r, &error);
    if (cli->json)
        print_selectors(pid, "closed", selectors, count);
    output_flush(); /* they are closed, even if nobody can be told */
    return CLI_DONE;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    pid_t pid;
    unsigned *selectors = NULL;
    size_t count = 0;
    const char *core = arguments->option_count ? arguments->options[0].value : NULL;
    int status = read_selectors(cli, arguments, &pid, &selectors, &count);
    if (status == CLI_DONE)
        status = close_selectors(cli, core, pid, selectors, count);
    free(selectors);
    return status;
}

const struct cli_verb verb_close = {
    .name = "close",
    .usage = "PID SEL… [--core SOCKET]",
    .summary = "close selectors of a running process",
    .about =
        "As if the process had called close(2): the last one to hold the object ends it, a peer sees the "
        "end. All of\n"
        "them or none, in one short stop. The program does not know; what it does with the number "
        "afterwards says EBADF,\n"
        "or meets whatever it opens there next. Prints nothing, or with --json what was closed.\n"
        "\n"
        "Example: close what process 1234 has leaked at 7, 9 and 12\n"
        "  $ reseat close 1234 7 9 12\n"
        "Example: close every deleted file that it holds\n"
        "  $ reseat close 1234 $(reseat caps 1234 | awk '/ \\(deleted\\)$/ { print $1 }')\n",
    .options = options,
    .run = run,
};
