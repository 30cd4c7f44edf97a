/* `reseat checkpoint`: makes the twin of a process, an image, or both and, as a rule, ends the process by
 * that. Rests on reseat_checkpoint() and reseat_checkpoint_stream(). */
#include "cli.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    OPTION_LIVE = 1,
    OPTION_IMAGE,
    OPTION_LEAVE_RUNNING,
    OPTION_COMPRESS,
    OPTION_SELF_CONTAINED,
    OPTION_ALLOW
};

static const struct cli_option options[] = {
    {'o', "output", "DIR",
     "directory to make for the checkpoint; it must not exist yet\n"
     "(-: a stream to standard output, which `reseat restore -` reads)"},
    {OPTION_LIVE, "live", NULL, "keep everything in a twin process and write no memory"},
    {OPTION_IMAGE, "image", NULL, "leave no twin: everything is in DIR"},
    {OPTION_LEAVE_RUNNING, "leave-running", NULL, "do not end the process; it runs on after a pause"},
    {OPTION_COMPRESS, "compress", NULL, "compress the memory in the image (zstd)"},
    {OPTION_SELF_CONTAINED, "self-contained", NULL,
     "also store what is in the files that are mapped\n(programs, libraries)"},
    {OPTION_ALLOW, "allow", "degraded|lost",
     "go on although something would come back with\nless state (degraded), or not at all (lost)"},
    CLI_CORE_OPTION,
    {0},
};

/* What the command line asks for. */
struct wish {
    struct reseat_checkpoint_options library;
    const char *dir;  /* "-": a stream; NULL: through core, the twin alone */
    const char *core; /* NULL: with our own rights */
};

static struct json_object *describe(const char *dir, bool runs_on,
                                    const struct reseat_checkpoint_result *result)
{
    struct json_object *document = json_object_new_object();
    json_object_object_add(document, "dir", json_text(dir));
    json_object_object_add(document, "pid", json_object_new_int(result->pid));
    json_object_object_add(document, "twin", result->twin ? json_object_new_int(result->twin) : NULL);
    json_object_object_add(document, "pause_ns", json_object_new_uint64(result->pause_ns));
    json_object_object_add(document, "threads", json_object_new_int64(result->threads));
    json_object_object_add(document, "capabilities", json_object_new_int64(result->capabilities));
    json_object_object_add(document, "memory_bytes", json_object_new_uint64(result->memory_bytes));
    json_object_object_add(document, "running", json_object_new_boolean(runs_on));
    return document;
}

/* Into `stream`: standard output may be taken by the image itself. */
static void print_text(FILE *stream, bool runs_on, const struct reseat_checkpoint_result *result)
{
    char pause[32], memory[32];
    fprintf(stream, "checkpointed %d in %s, %u thread%s, %u capabilities", result->pid,
            format_duration(result->pause_ns, pause, sizeof pause), result->threads,
            result->threads == 1 ? "" : "s", result->capabilities);
    if (result->memory_bytes)
        fprintf(stream, ", %s of memory", format_bytes(result->memory_bytes, memory, sizeof memory));
    if (result->twin)
        fprintf(stream, ", twin %d", result->twin);
    fputs(runs_on ? ", it runs on\n" : "\n", stream);
}

/* Core makes no directories, and of images only streams. Returns an exit status. */
static int check_core(const struct cli *cli, const struct wish *wish)
{
    if (wish->dir && strcmp(wish->dir, "-") != 0)
        return usage_error(cli,
                           "checkpoint: through core the checkpoint is the twin, and no directory is made: "
                           "leave out -o (or -o - for an image)");
    if (wish->library.flags & (RESEAT_COMPRESS | RESEAT_SELF_CONTAINED))
        return usage_error(cli, "checkpoint: --compress and --self-contained are not for --core");
    if (!wish->dir && (wish->library.flags & RESEAT_IMAGE))
        return usage_error(cli, "checkpoint: an image through core goes to standard output: -o -");
    return CLI_DONE;
}

/* Reads the options into *wish. Returns an exit status. */
static int read_options(const struct cli *cli, const struct cli_arguments *arguments, struct wish *wish)
{
    struct reseat_checkpoint_options *wanted = &wish->library;
    static const struct {
        int option;
        unsigned flag;
    } flags[] = {
        {OPTION_LIVE, RESEAT_LIVE},
        {OPTION_IMAGE, RESEAT_IMAGE},
        {OPTION_LEAVE_RUNNING, RESEAT_LEAVE_RUNNING},
        {OPTION_COMPRESS, RESEAT_COMPRESS},
        {OPTION_SELF_CONTAINED, RESEAT_SELF_CONTAINED},
    };
    for (size_t i = 0; i < arguments->option_count; i++) {
        const struct cli_given *given = &arguments->options[i];
        for (size_t f = 0; f < sizeof flags / sizeof flags[0]; f++)
            if (given->option->id == flags[f].option)
                wanted->flags |= flags[f].flag;
        if (given->option->id == 'o')
            wish->dir = given->value;
        else if (given->option->id == OPTION_CORE)
            wish->core = given->value;
        else if (given->option->id == OPTION_ALLOW && !parse_allow(given->value, &wanted->allow))
            return usage_error(cli, "checkpoint: --allow takes degraded or lost, not %s", given->value);
    }
    if (wish->core) {
        int status = check_core(cli, wish);
        if (status != CLI_DONE || !wish->dir)
            return status;
    }
    if (!wish->dir || !*wish->dir)
        return usage_error(cli, "checkpoint: -o DIR is missing: where shall the checkpoint be?");
    if ((wanted->flags & RESEAT_LIVE) &&
        (wanted->flags & (RESEAT_IMAGE | RESEAT_COMPRESS | RESEAT_SELF_CONTAINED)))
        return usage_error(cli, "checkpoint: --live writes no image, so that --image, --compress and "
                                "--self-contained contradict it");
    if (strcmp(wish->dir, "-") != 0)
        return CLI_DONE;
    if (wanted->flags & RESEAT_LIVE)
        return usage_error(cli, "checkpoint: a twin cannot be sent into a stream; leave out --live");
    if (cli->json)
        return usage_error(cli, "checkpoint: standard output is the stream; there is no room for JSON");
    if (!was_inherited(STDOUT_FILENO)) /* the process would be ended for an image in /dev/null */
        return usage_error(cli, "checkpoint: -o - writes an image to standard output, which is closed");
    if (isatty(STDOUT_FILENO))
        return usage_error(cli, "checkpoint: -o - writes an image to standard output, which is a terminal");
    return CLI_DONE;
}

static int carry_out(const struct wish *wish, pid_t pid, struct reseat_checkpoint_result *ret_result,
                     struct reseat_error **ret_error)
{
    bool is_stream = wish->dir && strcmp(wish->dir, "-") == 0;
    if (!wish->core)
        return is_stream ? reseat_checkpoint_stream(pid, STDOUT_FILENO, &wish->library, ret_result, ret_error)
                         : reseat_checkpoint(pid, wish->dir, &wish->library, ret_result, ret_error);
    _cleanup_(close_pd) struct reseat_pd *pd = NULL, *twin = NULL;
    int r = reseat_pd_connect(wish->core, pid, &pd, ret_error);
    if (r < 0)
        return r;
    return is_stream ? reseat_pd_checkpoint_stream(pd, STDOUT_FILENO, &wish->library, ret_result, ret_error)
                     : reseat_pd_checkpoint(pd, &wish->library, ret_result, &twin, ret_error);
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    pid_t pid;
    _cleanup_(progress_end) struct progress progress = {0};
    progress_begin(&progress, cli, "writing memory");
    struct wish wish = {.library = {.note = note,
                                    .userdata = (void *)cli,
                                    .progress = progress_report,
                                    .progress_userdata = &progress}};
    if (arguments->word_count != 1)
        return usage_error(cli, "checkpoint: give one PID");
    if (!parse_pid(arguments->words[0], &pid))
        return usage_error(cli, "checkpoint: %s is not a PID", arguments->words[0]);
    int status = read_options(cli, arguments, &wish);
    if (status != CLI_DONE)
        return status;

    bool is_stream = wish.dir && strcmp(wish.dir, "-") == 0;
    bool runs_on = wish.library.flags & RESEAT_LEAVE_RUNNING;
    struct reseat_checkpoint_result result = {0};
    struct reseat_error *error = NULL;
    int r = carry_out(&wish, pid, &result, &error);
    progress_end(&progress);
    if (r < 0)
        return failure(r, &error);
    if (cli->json)
        json_print(describe(wish.dir, runs_on, &result));
    else if (!is_stream || !cli->quiet)
        print_text(is_stream ? stderr : stdout, runs_on, &result);
    output_flush(); /* the checkpoint is made, even if nobody can be told */
    return CLI_DONE;
}

const struct cli_verb verb_checkpoint = {
    .name = "checkpoint",
    .usage = "PID -o DIR|- [--live|--image] [--leave-running] [--compress] [--self-contained] "
             "[--allow=degraded|lost] [--core SOCKET]",
    .summary = "checkpoint a process into a directory and end it",
    .about =
        "Stops the process, makes its twin (a dormant process that holds its memory and its whole "
        "capability\n"
        "space, slots and objects as they are), writes an image into DIR, and ends it; `reseat restore DIR` "
        "puts it\n"
        "back: from the twin as long as that lives, else from the image. With --leave-running the process "
        "runs on,\n"
        "and the twin holds a copy-on-write copy of its memory.\n"
        "What would not come back as it was is found before anything is changed, and refused with status 3\n"
        "unless --allow permits it. A failed checkpoint leaves the process running as it was: it is ended "
        "only when\n"
        "the image is safely on the disk.\n"
        "\n"
        "A twin lives as long as the machine runs and nobody drops it; with --live, DIR is of no use "
        "without it.\n"
        "DIR/PID.core is a core file: gdb PROGRAM DIR/PID.core shows the threads and their stacks.\n"
        "\n"
        "Example: park a server, and bring it back\n"
        "  $ reseat checkpoint 1234 --live -o /var/tmp/parked\n"
        "  $ reseat restore /var/tmp/parked\n"
        "Through core (--core), for those who may not do it themselves, the checkpoint is the twin alone:\n"
        "`reseat restore --twin PID --core SOCKET` puts the process back.\n"
        "\n"
        "Example: move a process to another machine\n"
        "  $ reseat checkpoint 1234 -o - | ssh host reseat restore -\n",
    .options = options,
    .run = run,
};
