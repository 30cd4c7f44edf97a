/* `reseat checkpoint`: makes the twin of a process and, as a rule, ends the process by that. Rests on
 * reseat_checkpoint(). */
#include "cli.h"

#include <stdio.h>

enum { OPTION_LIVE = 1, OPTION_LEAVE_RUNNING, OPTION_ALLOW };

static const struct cli_option options[] = {
    {'o', "output", "DIR", "directory to make for the checkpoint; it must not exist yet"},
    {OPTION_LIVE, "live", NULL,
     "keep everything in a twin process and write no memory\n(required: durable images do not exist yet)"},
    {OPTION_LEAVE_RUNNING, "leave-running", NULL, "do not end the process; it runs on after a pause"},
    {OPTION_ALLOW, "allow", "degraded|lost",
     "go on although something would come back with\nless state (degraded), or not at all (lost)"},
    {0},
};

static void print_result(const struct cli *cli, const char *dir, bool runs_on,
                         const struct reseat_checkpoint_result *result)
{
    if (cli->json) {
        struct json_object *document = json_object_new_object();
        json_object_object_add(document, "dir", json_text(dir));
        json_object_object_add(document, "pid", json_object_new_int(result->pid));
        json_object_object_add(document, "twin", json_object_new_int(result->twin));
        json_object_object_add(document, "pause_ns", json_object_new_uint64(result->pause_ns));
        json_object_object_add(document, "threads", json_object_new_int64(result->threads));
        json_object_object_add(document, "capabilities", json_object_new_int64(result->capabilities));
        json_object_object_add(document, "running", json_object_new_boolean(runs_on));
        json_print(document);
        return;
    }
    char pause[32];
    printf("checkpointed %d in %s, %u thread%s, %u capabilities, twin %d%s\n", result->pid,
           format_duration(result->pause_ns, pause, sizeof pause), result->threads,
           result->threads == 1 ? "" : "s", result->capabilities, result->twin,
           runs_on ? ", it runs on" : "");
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    const char *dir = NULL;
    struct reseat_checkpoint_options wanted = {.note = note, .userdata = (void *)cli};
    for (size_t i = 0; i < arguments->option_count; i++) {
        const struct cli_given *given = &arguments->options[i];
        if (given->option->id == 'o')
            dir = given->value;
        else if (given->option->id == OPTION_LIVE)
            wanted.flags |= RESEAT_LIVE;
        else if (given->option->id == OPTION_LEAVE_RUNNING)
            wanted.flags |= RESEAT_LEAVE_RUNNING;
        else if (given->option->id == OPTION_ALLOW && !parse_allow(given->value, &wanted.allow))
            return usage_error(cli, "checkpoint: --allow takes degraded or lost, not %s", given->value);
    }
    pid_t pid;
    if (arguments->word_count != 1)
        return usage_error(cli, "checkpoint: give one PID");
    if (!parse_pid(arguments->words[0], &pid))
        return usage_error(cli, "checkpoint: %s is not a PID", arguments->words[0]);
    if (!dir || !*dir)
        return usage_error(cli, "checkpoint: -o DIR is missing: where shall the checkpoint be?");
    if (!(wanted.flags & RESEAT_LIVE))
        return usage_error(
            cli, "checkpoint: durable images do not exist yet; use --live, which keeps everything in a twin "
                 "process on this machine");

    struct reseat_checkpoint_result result = {0};
    struct reseat_error *error = NULL;
    int r = reseat_checkpoint(pid, dir, &wanted, &result, &error);
    if (r < 0)
        return failure(r, &error);
    print_result(cli, dir, wanted.flags & RESEAT_LEAVE_RUNNING, &result);
    output_flush(); /* the checkpoint is made, even if nobody can be told */
    return CLI_DONE;
}

const struct cli_verb verb_checkpoint = {
    .name = "checkpoint",
    .usage = "PID -o DIR --live [--leave-running] [--allow=degraded|lost]",
    .summary = "checkpoint a process into a directory and end it",
    .about =
        "Stops the process, makes its twin (a dormant process that holds its memory and its whole "
        "capability\n"
        "space, slots and objects as they are) and ends it; `reseat restore DIR` puts it back. With\n"
        "--leave-running the process runs on, and the twin holds a copy-on-write copy of its memory.\n"
        "What would not come back as it was is found before anything is changed, and refused with status 3\n"
        "unless --allow permits it. A failed checkpoint leaves the process running as it was.\n"
        "\n"
        "A twin lives as long as the machine runs and nobody drops it; DIR alone does not survive a reboot.\n"
        "\n"
        "Example: park a server, and bring it back\n"
        "  $ reseat checkpoint 1234 --live -o /var/tmp/parked\n"
        "  $ reseat restore /var/tmp/parked\n",
    .options = options,
    .run = run,
};
