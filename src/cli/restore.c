/* `reseat restore`: puts a process back from its checkpoint, with other objects at some slots if that is
 * wanted, and on our terminal if that is wanted. Rests on reseat_restore(); what happens on the terminal is
 * in attach.c. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    OPTION_SLOT = 1,
    OPTION_KEEP,
    OPTION_NEW_PID,
    OPTION_ATTACH,
    OPTION_WAIT,
    OPTION_ALLOW,
    OPTION_COLD,
    OPTION_NEW_NAMESPACE,
    OPTION_TWIN
};

static const struct cli_option options[] = {
    {OPTION_SLOT, "slot", "SEL=WHAT",
     "what is to become of selector SEL. PATH: that file instead of\nwhat was there; fd:N: our descriptor N; "
     "null: /dev/null;\nclose: nothing. keep: refuse unless it is the same object;\nfail: refuse if it would "
     "come back degraded or lost"},
    {OPTION_KEEP, "keep", NULL, "keep a twin, for another restore"},
    {OPTION_COLD, "cold", NULL,
     "make the process anew from the image, even if the twin lives:\nof that only the objects are taken"},
    {OPTION_NEW_NAMESPACE, "new-namespace", NULL,
     "from the image, in a new PID namespace, where the old PID is\nfree; needs no privilege"},
    {OPTION_NEW_PID, "new-pid", NULL, "restore under a fresh PID"},
    {OPTION_ATTACH, "attach", NULL,
     "give the process our terminal, wait for it as a shell's fg\ndoes, and end with its exit status"},
    {OPTION_WAIT, "wait", "T", "how long to wait for the PID to become free: 5, 5s, 500ms\n(default: 5s)"},
    {OPTION_ALLOW, "allow", "degraded|lost",
     "go on although something would come back with\nless state (degraded), or not at all (lost)"},
    {OPTION_TWIN, "twin", "PID", "with --core: the twin, instead of a directory"},
    CLI_CORE_OPTION,
    {0},
};

static const uint64_t usual_wait_ns = 5 * 1000000000ULL;

/* What the command line asks for. Owns the descriptors that it opened. */
struct wishes {
    struct reseat_restore_options library;
    struct slot_list slots;
    bool attach;
    const char *core; /* NULL: with our own rights */
    pid_t twin;       /* through core */
};

static void free_wishes(struct wishes *wishes)
{
    slot_list_free(&wishes->slots);
}

static int read_wishes(const struct cli *cli, const struct cli_arguments *arguments, struct wishes *wishes)
{
    struct reseat_restore_options *library = &wishes->library;
    *library =
        (struct reseat_restore_options){.wait_ns = usual_wait_ns, .note = note, .userdata = (void *)cli};
    for (size_t i = 0; i < arguments->option_count; i++) {
        const char *value = arguments->options[i].value;
        int status = CLI_DONE;
        switch (arguments->options[i].option->id) {
        case OPTION_SLOT:
            status = slot_list_add(cli, &wishes->slots, value);
            break;
        case OPTION_KEEP:
            library->flags |= RESEAT_KEEP;
            break;
        case OPTION_COLD:
            library->flags |= RESEAT_COLD;
            break;
        case OPTION_NEW_NAMESPACE:
            library->flags |= RESEAT_NEW_NAMESPACE;
            break;
        case OPTION_NEW_PID:
            library->flags |= RESEAT_NEW_PID;
            break;
        case OPTION_ATTACH:
            wishes->attach = true;
            library->flags |= RESEAT_CHILD;
            break;
        case OPTION_WAIT:
            if (!parse_duration(value, &library->wait_ns))
                status =
                    usage_error(cli, "restore: --wait takes a time such as 5, 5s or 500ms, not %s", value);
            break;
        case OPTION_CORE:
            wishes->core = value;
            break;
        case OPTION_TWIN:
            if (!parse_pid(value, &wishes->twin))
                status = usage_error(cli, "restore: %s is not a PID", value);
            break;
        case OPTION_ALLOW:
            if (!parse_allow(value, &library->allow))
                status = usage_error(cli, "restore: --allow takes degraded or lost, not %s", value);
            break;
        }
        if (status != CLI_DONE)
            return status;
    }
    if ((library->flags & RESEAT_NEW_PID) && (library->flags & RESEAT_NEW_NAMESPACE))
        return usage_error(cli, "restore: --new-namespace is for the old PID, which --new-pid contradicts");
    library->slots = wishes->slots.items;
    library->slot_count = wishes->slots.count;
    return CLI_DONE;
}

static void print_json(const char *dir, const struct reseat_restore_result *result)
{
    struct json_object *document = json_object_new_object();
    json_object_object_add(document, "dir", json_text(dir));
    json_object_object_add(document, "pid", json_object_new_int(result->pid));
    json_object_object_add(document, "source", json_text(result->from_image ? "image" : "twin"));
    json_object_object_add(document, "restore_ns", json_object_new_uint64(result->restore_ns));
    json_object_object_add(document, "slots", json_object_new_int64(result->slots));
    json_object_object_add(document, "same", json_object_new_int64(result->same));
    json_print(document);
}

static void print_text(const struct reseat_restore_result *result)
{
    char duration[32];
    if (result->from_image) {
        printf("restored %d from its image in %s, %u slots", result->pid,
               format_duration(result->restore_ns, duration, sizeof duration), result->slots);
        if (result->same) /* a twin still lived */
            printf(", %u of them hold the same object", result->same);
        printf("\n");
        return;
    }
    printf("restored %d in %s, %u of %u slots hold the same object\n", result->pid,
           format_duration(result->restore_ns, duration, sizeof duration), result->same, result->slots);
}

/* From a twin that core has made, and with its rights. */
static int run_through_core(const struct cli *cli, const struct wishes *wishes)
{
    if (!wishes->core || !wishes->twin)
        return usage_error(cli, "restore: --core and --twin go together, and without a directory");
    if (wishes->attach || (wishes->library.flags & (RESEAT_COLD | RESEAT_NEW_NAMESPACE)))
        return usage_error(cli, "restore: --attach, --cold and --new-namespace are not for --core");
    _cleanup_(close_pd) struct reseat_pd *twin = NULL;
    struct reseat_restore_result result = {.pidfd = -1};
    struct reseat_error *error = NULL;
    int r = reseat_pd_connect(wishes->core, wishes->twin, &twin, &error);
    if (r == 0)
        r = reseat_pd_restore(twin, &wishes->library, &result, NULL, NULL, &error);
    if (r < 0)
        return failure(r, &error);
    close(result.pidfd);
    if (cli->json)
        print_json(NULL, &result);
    else
        print_text(&result);
    output_flush();
    return CLI_DONE;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    _cleanup_(free_wishes) struct wishes wishes = {0};
    int status = read_wishes(cli, arguments, &wishes);
    if (status != CLI_DONE)
        return status;
    if (wishes.core || wishes.twin)
        return arguments->word_count ? usage_error(cli, "restore: a directory is not for --core and --twin")
                                     : run_through_core(cli, &wishes);
    if (arguments->word_count != 1)
        return usage_error(cli, "restore: give one checkpoint directory");
    const char *dir = arguments->words[0];
    bool is_stream = strcmp(dir, "-") == 0;
    if (is_stream && (isatty(STDIN_FILENO) || !was_inherited(STDIN_FILENO)))
        return usage_error(cli, "restore: - reads an image from standard input, which is %s",
                           was_inherited(STDIN_FILENO) ? "a terminal" : "closed");
    _cleanup_(attach_end) struct attachment attachment = {.terminal = -1, .signal_fd = -1};
    if (wishes.attach) {
        status = attach_prepare(&attachment);
        if (status != CLI_DONE)
            return status;
        wishes.library.terminal = attachment.terminal;
    }

    struct reseat_restore_result result = {.pidfd = -1};
    struct reseat_error *error = NULL;
    _cleanup_(progress_end) struct progress progress;
    progress_begin(&progress, cli, "reading memory");
    wishes.library.progress = progress_report;
    wishes.library.progress_userdata = &progress;
    int r = is_stream ? reseat_restore_stream(STDIN_FILENO, &wishes.library, &result, &error)
                      : reseat_restore(dir, &wishes.library, &result, &error);
    progress_end(&progress);
    if (r < 0) {
        attach_end(&attachment); /* the terminal is ours again before we write on it */
        return failure(r, &error);
    }
    if (cli->json)
        print_json(dir, &result);
    else if (!wishes.attach) /* the process draws on this terminal now */
        print_text(&result);
    output_flush(); /* the process runs, even if nobody can be told */
    if (wishes.attach)
        status = attach_wait(&attachment, result.pid, result.pidfd);
    if (result.pidfd >= 0)
        close(result.pidfd);
    return status;
}

const struct cli_verb verb_restore = {
    .name = "restore",
    .usage =
        "DIR|- [--slot SEL=PATH|fd:N|keep|close|null|fail]… [--cold] [--new-namespace] [--keep] [--new-pid] "
        "[--attach] "
        "[--wait T] "
        "[--allow=degraded|lost] | --twin PID --core SOCKET …",
    .summary = "put a process back: same PID, same slots, same objects",
    .about =
        "Makes the process again from the twin of DIR, compares slot by slot that every selector has "
        "the object\n"
        "that it had, lets it run, and prints its PID. That uses up the twin, and DIR with it, unless "
        "--keep is\n"
        "given. Where there is no twin any more, or with --cold, the process is made anew from the image "
        "in DIR,\n"
        "which stays. With --cold a twin that still lives gives the objects that it holds, and is used up; "
        "to "
        "make\n"
        "all anew, `drop` it first. With - instead of DIR, from what `reseat checkpoint -o -` writes, read "
        "from "
        "standard input.\n"
        "If it fails, the checkpoint is as good as before.\n"
        "\n"
        "Example: put a process back, its log now going elsewhere\n"
        "  $ reseat restore /var/tmp/parked --slot 2=/var/log/other.log\n"
        "Example: continue an editor, checkpointed from another terminal, on this one\n"
        "  $ reseat restore --attach vim.ckpt --slot 0=fd:0 --slot 1=fd:1 --slot 2=fd:2\n",
    .options = options,
    .run = run,
};
