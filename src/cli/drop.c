/* `reseat drop`: ends twins and so lets go of what they held. Rests on reseat_drop() and reseat_drop_twin().
 */
#include "cli.h"

#include <stdio.h>

enum { OPTION_TWIN = 1 };

static const struct cli_option options[] = {
    {OPTION_TWIN, "twin", "PID", "end this twin, which has no directory (see `reseat list`)"},
    CLI_CORE_OPTION,
    {0},
};

/* The worst of two exit statuses: an interruption counts most. */
static int worse(int a, int b)
{
    return a > b ? a : b;
}

/* `core` NULL: with our own rights. */
static int drop_twin(const char *core, pid_t twin, struct reseat_error **ret_error)
{
    if (!core)
        return reseat_drop_twin(twin, ret_error);
    _cleanup_(close_pd) struct reseat_pd *pd = NULL;
    int r = reseat_pd_connect(core, twin, &pd, ret_error);
    return r < 0 ? r : reseat_pd_drop(pd, ret_error);
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    const char *core = NULL;
    size_t twin_count = 0;
    pid_t twin;
    for (size_t i = 0; i < arguments->option_count; i++) {
        const struct cli_given *given = &arguments->options[i];
        if (given->option->id == OPTION_CORE)
            core = given->value;
        else if (!parse_pid(given->value, &twin))
            return usage_error(cli, "drop: %s is not a PID", given->value);
        else
            twin_count++;
    }
    if (arguments->word_count + twin_count == 0)
        return usage_error(cli, "drop: which checkpoint?");
    if (core && arguments->word_count)
        return usage_error(cli, "drop: with --core twins are dropped: --twin PID");

    struct json_object *dropped = json_object_new_array();
    int status = CLI_DONE;
    for (size_t i = 0; i < arguments->option_count && status != CLI_INTERRUPTED; i++) {
        struct reseat_error *error = NULL;
        if (arguments->options[i].option->id != OPTION_TWIN)
            continue;
        parse_pid(arguments->options[i].value, &twin);
        int r = drop_twin(core, twin, &error);
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
    .usage = "DIR… | --twin PID [--core SOCKET]",
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
