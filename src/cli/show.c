/* `reseat show`: what is in an image, for people (one table after the other, aligned) or as JSON (all of it).
 * Rests on reseat_show() and reseat_check_memory(). */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define COLUMNS_MAX 64
#define CELL_BYTES  40 /* longer texts are cut in a table */
#define LINE_BYTES  90 /* and in a line of their own, unless everything is wanted (-v) */
#define EXTENTS     "extents"
#define CONTENTS    "contents"

enum { OPTION_CHECK = 1 };

static const struct cli_option options[] = {
    {OPTION_CHECK, "check", NULL, "also read all memory and compare its checksums"},
    {0},
};

struct show {
    const struct cli *cli;
    /* Text: */
    const char *name; /* of the table at hand; NULL: none yet */
    struct table table;
    struct table_column columns[COLUMNS_MAX];
    char names[COLUMNS_MAX][32];
    size_t row_count, last_row;
    bool is_wide;
    bool has_printed;
    /* JSON: */
    struct json_object *document, *rows, *row;
};

/* ---- for people ---- */

static void print_value(char *text, size_t size, const struct reseat_shown *shown)
{
    size_t length = 0;
    text[0] = '\0';
    if (shown->kind == RESEAT_SHOWN_TEXT)
        snprintf(text, size, "%s", *shown->text ? shown->text : "-");
    else if (shown->kind == RESEAT_SHOWN_SIGNED)
        snprintf(text, size, "%lld", (long long)shown->numbers[0]);
    for (size_t i = 0; shown->kind != RESEAT_SHOWN_TEXT && shown->kind != RESEAT_SHOWN_SIGNED &&
                       i < shown->number_count && length < size;
         i++)
        length += (size_t)snprintf(text + length, size - length, "%s%llu", i ? " " : "",
                                   (unsigned long long)shown->numbers[i]);
}

static void finish_table(struct show *show)
{
    if (!show->name)
        return;
    if (show->table.cell_count) {
        printf("%s%s\n", show->has_printed ? "\n" : "", show->name);
        show->has_printed = true;
        table_print(&show->table);
    }
    table_free(&show->table);
    show->table = (struct table){0};
    show->name = NULL;
}

static void begin_table(struct show *show, const struct reseat_shown *shown)
{
    finish_table(show);
    /* Where memory lies in the file is a long list that says little. */
    bool is_of_places = strcmp(shown->table, EXTENTS) == 0 || strcmp(shown->table, CONTENTS) == 0;
    if (!show->cli->verbose && is_of_places)
        return;
    show->name = shown->table;
    show->row_count = shown->row_count;
    show->table.columns = show->columns;
}

/* The first row tells which columns there are; of a wide one it is the only shape that fits. */
static void add_column(struct show *show, const struct reseat_shown *shown)
{
    size_t index = show->table.column_count++;
    char *name = show->names[index];
    snprintf(name, sizeof show->names[0], "%s", shown->field);
    for (char *letter = name; *letter; letter++)
        *letter = *letter >= 'a' && *letter <= 'z' ? (char)(*letter - 'a' + 'A') : *letter;
    bool is_number = shown->kind == RESEAT_SHOWN_NUMBER || shown->kind == RESEAT_SHOWN_SIGNED;
    show->columns[index] = (struct table_column){name, is_number};
}

static void add_cell(struct show *show, const struct reseat_shown *shown)
{
    char value[4096];
    print_value(value, sizeof value, shown);
    size_t most = !show->is_wide ? CELL_BYTES : show->cli->verbose ? sizeof value - 1 : LINE_BYTES;
    bool is_cut = strlen(value) > most;
    table_add(&show->table, "%.*s%s", (int)most, value, is_cut ? "…" : "");
}

static int show_text(void *userdata, const struct reseat_shown *shown)
{
    static const struct table_column pair[] = {{"FIELD", false}, {"VALUE", false}};
    /* So many fields that a row stands below itself, one field a line. */
    static const char *const wide[] = {"process", "threads", "states", NULL};
    struct show *show = userdata;
    if (signals_pending())
        return -EINTR;
    if (shown->kind == RESEAT_SHOWN_TABLE) {
        begin_table(show, shown);
        show->is_wide = false;
        for (size_t i = 0; wide[i]; i++)
            show->is_wide |= strcmp(wide[i], shown->table) == 0;
        if (show->is_wide) {
            show->table.columns = pair;
            show->table.column_count = 2;
        }
        return 0;
    }
    if (!show->name)
        return 0;
    if (show->is_wide) {
        if (shown->row > 0 && shown->row != show->last_row) {
            table_add(&show->table, " ");
            table_add(&show->table, " ");
        }
        table_add(&show->table, "%s", shown->field);
    } else if (shown->row == 0 && show->table.column_count < COLUMNS_MAX) {
        add_column(show, shown);
    }
    show->last_row = shown->row;
    add_cell(show, shown);
    return 0;
}

/* ---- for programs ---- */

static struct json_object *json_value(const struct reseat_shown *shown)
{
    switch (shown->kind) {
    case RESEAT_SHOWN_TEXT:
        return json_text(shown->text);
    case RESEAT_SHOWN_SIGNED:
        return json_object_new_int64((int64_t)shown->numbers[0]);
    case RESEAT_SHOWN_LIST: {
        struct json_object *list = json_object_new_array();
        for (size_t i = 0; i < shown->number_count; i++)
            json_object_array_add(list, json_object_new_uint64(shown->numbers[i]));
        return list;
    }
    default:
        return json_object_new_uint64(shown->numbers[0]);
    }
}

static int show_json(void *userdata, const struct reseat_shown *shown)
{
    struct show *show = userdata;
    if (shown->kind == RESEAT_SHOWN_TABLE) {
        show->rows = json_object_new_array();
        show->row = NULL;
        show->last_row = (size_t)-1;
        json_object_object_add(show->document, shown->table, show->rows);
        return 0;
    }
    if (!show->row || shown->row != show->last_row) {
        show->row = json_object_new_object();
        json_object_array_add(show->rows, show->row);
        show->last_row = shown->row;
    }
    json_object_object_add(show->row, shown->field, json_value(shown));
    return 0;
}

/* ---- the verb ---- */

static int check_memory(const struct cli *cli, const char *path)
{
    struct reseat_error *error = NULL;
    _cleanup_(progress_end) struct progress progress;
    progress_begin(&progress, cli, "reading memory");
    int r = reseat_check_memory(path, progress_report, &progress, &error);
    progress_end(&progress);
    return r < 0 ? failure(r, &error) : CLI_DONE;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    if (arguments->word_count != 1)
        return usage_error(cli, "show: give one checkpoint directory, or the file in it");
    struct show show = {.cli = cli, .document = cli->json ? json_object_new_object() : NULL};
    struct reseat_error *error = NULL;
    int r = reseat_show(arguments->words[0], cli->json ? show_json : show_text, &show, &error);
    if (r < 0) {
        table_free(&show.table);
        json_object_put(show.document);
        return failure(r, &error);
    }
    if (cli->json)
        json_print(show.document);
    else
        finish_table(&show);
    bool is_printed = output_flush();
    int status = arguments->option_count ? check_memory(cli, arguments->words[0]) : CLI_DONE;
    return status == CLI_DONE && !is_printed ? CLI_FAILED : status;
}

const struct cli_verb verb_show = {
    .name = "show",
    .usage = "DIR|FILE [--check]",
    .summary = "show what is in an image",
    .about =
        "Prints every table of the image: process, threads, signals, timers, memory map, capabilities, "
        "objects, …\n"
        "docs/image.md says what the fields mean. With -v also where each piece of memory and content lies "
        "in the file. With\n"
        "--json everything, as one object with an array a table. The memory itself is for a debugger:\n"
        "gdb PROGRAM DIR/PID.core.\n"
        "\n"
        "Example: which files it had mapped\n"
        "  $ reseat show ckpt --json | jq -r '.vmas[].path' | sort -u\n",
    .options = options,
    .run = run,
};
