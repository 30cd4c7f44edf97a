/* `reseat caps`: lists capability spaces. Rests on reseat_list_capabilities(), which stops nothing. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

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

static void print_json(const struct reseat_listing *listing)
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

static void print_table(const struct reseat_listing *listing, bool with_pid)
{
    static const struct table_column columns[] = {{"PID", true},     {"SEL", true},     {"KIND", false},
                                                  {"OBJECT", false}, {"ACCESS", false}, {"FLAGS", false},
                                                  {"NAME", false}};
    size_t left_out = with_pid ? 0 : 1;
    struct table table = {.columns = columns + left_out,
                          .column_count = sizeof columns / sizeof columns[0] - left_out};
    for (size_t i = 0; i < listing->count; i++) {
        const struct reseat_capability *capability = &listing->capabilities[i];
        if (with_pid)
            table_add(&table, "%d", capability->pid);
        table_add(&table, "%u", capability->selector);
        table_add(&table, "%s", capability->kind);
        table_add(&table, "%s", capability->object);
        table_add(&table, "%s", capability->access);
        add_flags(&table, capability);
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
    int r = pids ? reseat_list_capabilities(pids, arguments->word_count, &listing, &error) : -ENOMEM;
    free(pids);
    if (r < 0)
        return failure(r, &error);
    if (cli->json)
        print_json(listing);
    else
        print_table(listing, arguments->word_count > 1);
    return output_flush() ? CLI_DONE : CLI_FAILED;
}

const struct cli_verb verb_caps = {
    .name = "caps",
    .usage = "PID…",
    .summary = "list the capability space of processes",
    .about =
        "One line for each capability: its selector (the descriptor number), the kind of object, a short id\n"
        "of the object, the access it gives, its flags and a name. Two lines, also of different processes,\n"
        "have the same OBJECT if and only if both point to the same object: the same open file description,\n"
        "as after dup(2), fork(2) or passing through a socket. Stops nothing and changes nothing.\n"
        "\n"
        "Example: who shares what between a shell and its child?\n"
        "  $ reseat caps $$ 1234\n"
        "Example: the selectors of all sockets of process 1234\n"
        "  $ reseat caps --json 1234 | jq '.[] | select(.kind == \"tcp\") | .selector'\n",
    .run = run,
};
