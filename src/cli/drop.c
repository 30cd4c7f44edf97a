/* `reseat drop`: ends twins and so lets go of what they held. Rests on reseat_drop() and reseat_drop_twin().
 */
#include "cli.h"

#include <stdio.h>

enum { OPTION_TWIN = 1 };

static const struct cli_option options[] = {
    {OPTION_TWIN, "twin", "PID", "end this twin, which has no directory (see `reseat list`)"},
    {0},
};

/* The worst of two exit statuses: an interruption counts most. */
static int worse(int a, int b)
{
    return a > b ? a : b;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    if (arguments->word_count + arguments->option_count == 0)
        return usage_error(cli, "drop: which checkpoint?");
    pid_t twin;
    for (size_t i = 0; i < arguments->option_count; i++)
        if (!parse_pid(arguments->options[i].value, &twin))
            return usage_error(cli, "drop: %s is not a PID", arguments->options[i].value);

    struct json_object *dropped = json_object_new_array();
    int status = CLI_DONE;
    for (size_t i = 0; i < arguments->option_count && status != CLI_INTERRUPTED; i++) {
        struct reseat_error *error = NULL;
        parse_pid(arguments->options[i].value, &twin);
        int r = reseat_drop_twin(twin, &error);
        if (r < 0)
            status = worse(status, failure(r, &error));
        else
            json_object_array_add(dropped, json_object_new_int(twin));
    }
    for (size_t i = 0; i < arguments->word_count && status != CLI_INTERRUPTED; i++) {
        struct reseat_error *error = NULL;
        int r = reseat_drop(arguments->words[i], &error);
        if (r < 0)
            status = worse(status, failure(r, &error));
        else
            json_object_array_add(dropped, json_text(arguments->words[i]));
    }
    if (cli->json)
        json_print(dropped);
    else
        json_object_put(dropped);
    output_flush();
    return status;
}

const struct cli_verb verb_drop = {
    .name = "drop",
    .usage = "DIR… | --twin PID",
    .summary = "end the twin of a checkpoint; without an image, remove its directory, too",
    .about = "What the twin alone held on to is let go by that: connections close, deleted files vanish, "
             "locks are free.\n"
             "With several directories all are tried, and the status is 1 if one failed. Prints nothing, or "
             "with --json\n"
             "an array of what was dropped.\n"
             "\n"
             "Example:\n"
             "  $ reseat drop /var/tmp/parked\n",
    .options = options,
    .run = run,
};
