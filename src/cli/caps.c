/* `reseat caps`: lists capability spaces. Rests on reseat_list_capabilities() and reseat_list_sharing(),
 * which stop nothing. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OPTION_SHARED = 1 };

static const struct cli_option options[] = {
    {OPTION_SHARED, "shared", NULL,
     "also say who else on the machine holds each object, and who\nholds the other end of a pipe or a "
     "connection"},
    {0},
};

/* How many holders stand in a row for people. */
static const size_t holders_shown = 4;

static void free_listing(struct reseat_listing **listing)
{
    reseat_listing_free(*listing);
}

/* The words of `flags` as a JSON array. */
static struct json_object *json_words(const char *flags)
{
    struct json_object *words = json_object_new_array();
    for (const char *word = flags; word && *word;) {
        size_t length = strcspn(word, " ");
        json_object_array_add(words, json_object_new_string_len(word, (int)length));
        word += length + strspn(word + length, " ");
    }
    return words;
}

static struct json_object *json_holders(const struct reseat_holder *holders, size_t count)
{
    struct json_object *list = json_object_new_array();
    for (size_t i = 0; i < count; i++) {
        struct json_object *holder = json_object_new_object();
        json_object_object_add(holder, "pid", json_object_new_int(holders[i].pid));
        json_object_object_add(holder, "selector", json_object_new_int64(holders[i].selector));
        json_object_object_add(holder, "command", json_text(holders[i].command));
        json_object_array_add(list, holder);
    }
    return list;
}

static void print_json(const struct reseat_listing *listing, bool shared)
{
    struct json_object *rows = json_object_new_array();
    for (size_t i = 0; i < listing->count; i++) {
        const struct reseat_capability *capability = &listing->capabilities[i];
        struct json_object *row = json_object_new_object();
        json_object_object_add(row, "pid", json_object_new_int(capability->pid));
        json_object_object_add(row, "selector", json_object_new_int64(capability->selector));
        json_object_object_add(row, "kind", json_text(capability->kind));
        json_object_object_add(row, "object", json_text(capability->object));
        json_object_object_add(row, "access", json_text(capability->access));
        json_object_object_add(row, "cloexec", json_object_new_boolean(capability->cloexec));
        json_object_object_add(row, "flags", json_words(capability->flags));
        json_object_object_add(row, "name", json_text(capability->name));
        if (shared) {
            json_object_object_add(row, "holders",
                                   json_holders(capability->holders, capability->holder_count));
            json_object_object_add(row, "other_ends",
                                   json_holders(capability->other_ends, capability->other_end_count));
        }
        json_object_array_add(rows, row);
    }
    json_print(rows);
}

/* One word for the FLAGS column, so that a line can be taken apart at white space. */
static void add_flags(struct table *table, const struct reseat_capability *capability)
{
    char text[256];
    const char *flags = capability->flags ? capability->flags : "";
    bool both = capability->cloexec && *flags;
    snprintf(text, sizeof text, "%s%s%s", capability->cloexec ? "cloexec" : "", both ? "," : "", flags);
    for (char *space = text; (space = strchr(space, ' '));)
        *space = ',';
    table_add(table, "%s", *text ? text : "-");
}

/* One word: "12:1(cat),13:0(less),+3". */
static void add_holders(struct table *table, const struct reseat_holder *holders, size_t count, bool all)
{
    char *text = NULL;
    size_t length = 0, shown = all || count <= holders_shown ? count : holders_shown - 1;
    FILE *stream = open_memstream(&text, &length);
    for (size_t i = 0; stream && i < shown; i++) {
        char command[64];
        snprintf(command, sizeof command, "%s", holders[i].command);
        for (char *space = command; (space = strpbrk(space, " \t\n"));)
            *space = '_';
        fprintf(stream, "%s%d:%u(%s)", i ? "," : "", holders[i].pid, holders[i].selector, command);
    }
    if (stream && shown < count)
        fprintf(stream, ",+%zu", count - shown);
    if (stream)
        fclose(stream);
    table_add(table, "%s", text && *text ? text : "-");
    free(text);
}

static void print_table(const struct cli *cli, const struct reseat_listing *listing, bool with_pid,
                        bool shared)
{
    static const struct table_column all[] = {{"PID", true},           {"SEL", true},        {"KIND", false},
                                              {"OBJECT", false},       {"ACCESS", false},    {"FLAGS", false},
                                              {"HELD_ALSO_BY", false}, {"OTHER_END", false}, {"NAME", false}};
    struct table_column columns[sizeof all / sizeof all[0]];
    size_t count = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        bool is_pid = i == 0, is_of_sharing = i == 6 || i == 7;
        if ((!is_pid || with_pid) && (!is_of_sharing || shared))
            columns[count++] = all[i];
    }
    struct table table = {.columns = columns, .column_count = count};
    for (size_t i = 0; i < listing->count; i++) {
        const struct reseat_capability *capability = &listing->capabilities[i];
        if (with_pid)
            table_add(&table, "%d", capability->pid);
        table_add(&table, "%u", capability->selector);
        table_add(&table, "%s", capability->kind);
        table_add(&table, "%s", capability->object);
        table_add(&table, "%s", capability->access);
        add_flags(&table, capability);
        if (shared) {
            add_holders(&table, capability->holders, capability->holder_count, cli->verbose);
            add_holders(&table, capability->other_ends, capability->other_end_count, cli->verbose);
        }
        table_add(&table, "%s", capability->name ? capability->name : "");
    }
    table_print(&table);
    table_free(&table);
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    if (arguments->word_count == 0)
        return usage_error(cli, "caps: which process?");
    pid_t *pids = calloc(arguments->word_count, sizeof *pids);
    for (size_t i = 0; pids && i < arguments->word_count; i++) {
        if (!parse_pid(arguments->words[i], &pids[i])) {
            free(pids);
            return usage_error(cli, "caps: %s is not a PID", arguments->words[i]);
        }
    }
    _cleanup_(free_listing) struct reseat_listing *listing = NULL;
    struct reseat_error *error = NULL;
    bool shared = arguments->option_count > 0; /* there is only this one option */
    int r = !pids    ? -ENOMEM
            : shared ? reseat_list_sharing(pids, arguments->word_count, &listing, &error)
                     : reseat_list_capabilities(pids, arguments->word_count, &listing, &error);
    free(pids);
    if (r < 0)
        return failure(r, &error);
    if (cli->json)
        print_json(listing, shared);
    else
        print_table(cli, listing, arguments->word_count > 1, shared);
    if (listing->unseen && !cli->quiet)
        message("%u process%s could not be looked at and may hold some of this too%s", listing->unseen,
                listing->unseen == 1 ? "" : "es", geteuid() == 0 ? "" : " (root may look at more)");
    return output_flush() ? CLI_DONE : CLI_FAILED;
}

const struct cli_verb verb_caps = {
    .name = "caps",
    .usage = "PID… [--shared]",
    .summary = "list the capability space of processes",
    .about =
        "One line for each capability: its selector (the descriptor number), the kind of object, a short id\n"
        "of the object, the access it gives, its flags and a name. Two lines, also of different processes,\n"
        "have the same OBJECT if and only if both point to the same object: the same open file description,\n"
        "as after dup(2), fork(2) or passing through a socket. Stops nothing and changes nothing.\n"
        "\n"
        "--shared adds two columns of PID:SEL(COMMAND): other processes that hold the same object, and "
        "those\n"
        "that hold the other end of a pipe, FIFO, pseudo terminal, unix socket, or TCP connection within "
        "this\n"
        "machine. Four are shown, all with -v.\n"
        "\n"
        "Example: who shares what between a shell and its child?\n"
        "  $ reseat caps $$ 1234\n"
        "Example: the selectors of all sockets of process 1234\n"
        "  $ reseat caps --json 1234 | jq '.[] | select(.kind == \"tcp\") | .selector'\n"
        "Example: who holds the other end of the pipe at selector 1 of process 1234?\n"
        "  $ reseat caps 1234 --shared\n",
    .options = options,
    .run = run,
};
