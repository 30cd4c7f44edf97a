/* `reseat list`: the checkpoints on this machine that can be restored, each with its twin. Rests on
 * reseat_list_twins(). */
#include "cli.h"

#include <stdio.h>

static void print_json(const struct reseat_twin *twins, size_t count)
{
    struct json_object *rows = json_object_new_array();
    for (size_t i = 0; i < count; i++) {
        struct json_object *row = json_object_new_object();
        json_object_object_add(row, "dir", json_text(twins[i].dir));
        json_object_object_add(row, "pid", json_object_new_int(twins[i].pid));
        json_object_object_add(row, "twin", json_object_new_int(twins[i].twin));
        json_object_object_add(row, "age_ns", json_object_new_uint64(twins[i].age_ns));
        json_object_object_add(row, "private_bytes", json_object_new_uint64(twins[i].private_bytes));
        json_object_object_add(row, "capabilities", json_object_new_int64(twins[i].capabilities));
        json_object_object_add(row, "running", json_object_new_boolean(twins[i].target_runs));
        json_object_array_add(rows, row);
    }
    json_print(rows);
}

static void print_table(const struct reseat_twin *twins, size_t count)
{
    static const struct table_column columns[] = {{"DIR", false}, {"PID", true},     {"TWIN", true},
                                                  {"AGE", true},  {"PRIVATE", true}, {"CAPS", true}};
    struct table table = {.columns = columns, .column_count = sizeof columns / sizeof columns[0]};
    for (size_t i = 0; i < count; i++) {
        char age[32], private_size[32];
        table_add(&table, "%s", twins[i].dir ? twins[i].dir : "-");
        table_add(&table, "%d", twins[i].pid);
        table_add(&table, "%d", twins[i].twin);
        table_add(&table, "%s", format_duration(twins[i].age_ns, age, sizeof age));
        table_add(&table, "%s", format_bytes(twins[i].private_bytes, private_size, sizeof private_size));
        table_add(&table, "%u", twins[i].capabilities);
    }
    table_print(&table);
    table_free(&table);
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    if (arguments->word_count > 0)
        return usage_error(cli, "list: takes no arguments, but there is %s", arguments->words[0]);
    struct reseat_twin *twins = NULL;
    size_t count = 0;
    struct reseat_error *error = NULL;
    int r = reseat_list_twins(&twins, &count, &error);
    if (r < 0)
        return failure(r, &error);
    if (cli->json)
        print_json(twins, count);
    else
        print_table(twins, count);
    reseat_twins_free(twins, count);
    return output_flush() ? CLI_DONE : CLI_FAILED;
}

const struct cli_verb verb_list = {
    .name = "list",
    .usage = "",
    .summary = "list the checkpoints that have a live twin",
    .about =
        "One line for each twin that we may see: its checkpoint directory, the PID that was checkpointed, "
        "the PID\n"
        "of the twin, how old it is, the memory that it alone holds, and how many capabilities it holds. A "
        "twin\n"
        "with - for a directory was left behind by a Reseat that was killed; `reseat drop --twin` ends it.\n"
        "\n"
        "Example:\n"
        "  $ reseat list --json | jq -r '.[].dir'\n",
    .run = run,
};
