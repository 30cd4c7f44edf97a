/* reseat [--json] [-q|-v] VERB …: finds the verb, reads its arguments, calls it. The options that all verbs
 * share may stand before the verb or behind it. */
#include "cli.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* No verb uses these ids for an option of its own. */
enum { OPTION_HELP = 'h', OPTION_QUIET = 'q', OPTION_VERBOSE = 'v', OPTION_JSON = 1000, OPTION_VERSION };

static const struct cli_option global_options[] = {
    {OPTION_JSON, "json", NULL, "print one JSON document instead of text"},
    {OPTION_QUIET, "quiet", NULL, "say nothing but results and errors"},
    {OPTION_VERBOSE, "verbose", NULL, "also say how long the whole command took"},
    {OPTION_HELP, "help", NULL, "explain the command, or the verb, and end"},
    {OPTION_VERSION, "version", NULL, "print the version and end"},
    {0},
};

static const struct cli_verb *const verbs[] = {
    &verb_caps,    &verb_request, &verb_install, &verb_close, &verb_plan, &verb_checkpoint,
    &verb_restore, &verb_show,    &verb_verify,  &verb_list,  &verb_drop, &verb_core,
};

static void print_help(void)
{
    printf("usage: reseat [--json] [-q|-v] VERB …\n"
           "\n"
           "Checkpoints a live process and puts it back: every capability (every file descriptor) comes back "
           "on the\n"
           "same slot, pointing to the same object. (\"Capability\" never means CAP_* here.)\n"
           "\n");
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        printf("  %-12s %s\n", verbs[i]->name, verbs[i]->summary);
    printf("\n");
    options_print(global_options);
    printf(
        "\n"
        "Exit status: 0 done; 1 failed, nothing changed; 2 wrong usage; 3 refused, because something would "
        "not\n"
        "come back as it was and --allow did not permit that; 130 interrupted by a signal, nothing changed.\n"
        "\n"
        "Example: checkpoint process 1234, which ends it, and put it back\n"
        "  $ reseat checkpoint 1234 --live -o parked\n"
        "  $ reseat restore parked\n"
        "\n"
        "`reseat VERB --help` explains a verb.\n");
}

static void print_verb_help(const struct cli_verb *verb)
{
    printf("usage: reseat %s%s%s\n\n%s\n", verb->name, *verb->usage ? " " : "", verb->usage, verb->about);
    options_print(verb->options);
    options_print(global_options);
}

static const struct cli_verb *find_verb(const char *name)
{
    for (size_t i = 0; i < sizeof verbs / sizeof verbs[0]; i++)
        if (strcmp(verbs[i]->name, name) == 0)
            return verbs[i];
    return NULL;
}

/* Takes the shared options out of `arguments` into *cli; what is left is the verb's own. */
static void take_global_options(struct cli *cli, struct cli_arguments *arguments, bool *ret_help,
                                bool *ret_version)
{
    size_t kept = 0;
    for (size_t i = 0; i < arguments->option_count; i++) {
        switch (arguments->options[i].option->id) {
        case OPTION_JSON:
            cli->json = true;
            break;
        case OPTION_QUIET:
            cli->quiet = true;
            break;
        case OPTION_VERBOSE:
            cli->verbose = true;
            break;
        case OPTION_HELP:
            *ret_help = true;
            break;
        case OPTION_VERSION:
            *ret_version = true;
            break;
        default:
            arguments->options[kept++] = arguments->options[i];
        }
    }
    arguments->option_count = kept;
}

/* A descriptor of ours at 0, 1 or 2 would be taken for a standard stream: occupy what is closed. */
static void occupy_standard_streams(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR | O_CLOEXEC) != fd)
            _exit(CLI_FAILED);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

static int run_verb(const struct cli *cli, const struct cli_arguments *arguments)
{
    if (cli->quiet && cli->verbose)
        return usage_error(cli, "-q and -v contradict each other");
    uint64_t start_ns = now_ns();
    signals_install();
    int status = cli->verb->run(cli, arguments);
    char duration[32];
    if (cli->verbose)
        message("%s took %s", cli->verb->name,
                format_duration(now_ns() - start_ns, duration, sizeof duration));
    return status;
}

int main(int argc, char **argv)
{
    const struct cli_option *tables[] = {global_options, NULL, NULL};
    _cleanup_(arguments_free) struct cli_arguments before = {0}, behind = {0};
    struct cli cli = {0};
    bool help = false, version = false;
    int end = 0;

    occupy_standard_streams();
    int status = arguments_read(&cli, argc - 1, argv + 1, tables, true, &before, &end);
    if (status != CLI_DONE)
        return status;
    take_global_options(&cli, &before, &help, &version);
    int verb_at = end + 1;
    if (verb_at < argc) {
        cli.verb = find_verb(argv[verb_at]);
        if (!cli.verb)
            return usage_error(&cli, "there is no verb %s", argv[verb_at]);
        tables[1] = cli.verb->options;
        status = arguments_read(&cli, argc - verb_at - 1, argv + verb_at + 1, tables, false, &behind, &end);
        if (status != CLI_DONE)
            return status;
        take_global_options(&cli, &behind, &help, &version);
    }
    if (!help && !version)
        return cli.verb ? run_verb(&cli, &behind) : usage_error(&cli, "which verb?");
    if (version)
        printf("reseat %s\n", RESEAT_VERSION);
    else if (cli.verb)
        print_verb_help(cli.verb);
    else
        print_help();
    return output_flush() ? CLI_DONE : CLI_FAILED;
}
