/* `reseat plan`: what a restore would bring back. Rests on reseat_plan() and reseat_plan_restore(), which
 * stop and change nothing. */
#include "cli.h"

#include <stdio.h>
#include <string.h>

enum { OPTION_LEAVE_RUNNING = 1, OPTION_SLOT };

static const struct cli_option options[] = {
    {OPTION_LEAVE_RUNNING, "leave-running", NULL,
     "plan for `checkpoint --leave-running`: the process runs on,\nbeside a copy"},
    {OPTION_SLOT, "slot", "SEL=WHAT", "plan for a restore with this option (`reseat restore --help`)"},
    {0},
};

static void free_plan(struct reseat_plan **plan)
{
    reseat_plan_free(*plan);
}

/* ---- JSON ---- */

static struct json_object *json_prospect(const struct reseat_prospect *prospect)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "fate", json_text(reseat_fate_name(prospect->fate)));
    json_object_object_add(object, "why", json_text(prospect->why));
    return object;
}

static struct json_object *json_possible(const char *blocked)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "possible", json_object_new_boolean(!blocked));
    json_object_object_add(object, "why", json_text(blocked));
    return object;
}

static struct json_object *json_item(const struct reseat_plan_item *item)
{
    struct json_object *object = json_object_new_object();
    struct json_object *restores = json_object_new_array();
    if (item->restores & RESEAT_LIVE_RESTORE)
        json_object_array_add(restores, json_text("live"));
    if (item->restores & RESEAT_COLD_RESTORE)
        json_object_array_add(restores, json_text("cold"));
    json_object_object_add(object, "restores", restores);
    json_object_object_add(object, "fate", json_text(item->is_note ? "note" : reseat_fate_name(item->fate)));
    json_object_object_add(object, "why", json_text(item->sentence));
    return object;
}

static void print_json(const struct reseat_plan *plan)
{
    struct json_object *document = json_object_new_object(), *rows = json_object_new_array(),
                       *items = json_object_new_array();
    for (size_t i = 0; i < plan->row_count; i++) {
        const struct reseat_plan_row *row = &plan->rows[i];
        struct json_object *object = json_object_new_object();
        json_object_object_add(object, "selector", json_object_new_int64(row->selector));
        json_object_object_add(object, "kind", json_text(row->kind));
        json_object_object_add(object, "object", json_text(row->object));
        json_object_object_add(object, "name", json_text(row->name));
        json_object_object_add(object, "live", json_prospect(&row->live));
        json_object_object_add(object, "cold", json_prospect(&row->cold));
        json_object_array_add(rows, object);
    }
    for (size_t i = 0; i < plan->item_count; i++)
        json_object_array_add(items, json_item(&plan->items[i]));
    json_object_object_add(document, "pid", json_object_new_int(plan->pid));
    json_object_object_add(document, "form", json_text(plan->is_copy ? "copy" : "heir"));
    json_object_object_add(document, "live", json_possible(plan->live_blocked));
    json_object_object_add(document, "cold", json_possible(plan->cold_blocked));
    json_object_object_add(document, "capabilities", rows);
    json_object_object_add(document, "process", items);
    json_print(document);
}

/* ---- text ---- */

static void print_table(const struct reseat_plan *plan)
{
    static const struct table_column columns[] = {{"SEL", true},   {"KIND", false}, {"OBJECT", false},
                                                  {"LIVE", false}, {"COLD", false}, {"NAME", false}};
    struct table table = {.columns = columns, .column_count = sizeof columns / sizeof columns[0]};
    for (size_t i = 0; i < plan->row_count; i++) {
        const struct reseat_plan_row *row = &plan->rows[i];
        table_add(&table, "%u", row->selector);
        table_add(&table, "%s", row->kind);
        table_add(&table, "%s", row->object);
        table_add(&table, "%s", reseat_fate_name(row->live.fate));
        table_add(&table, "%s", reseat_fate_name(row->cold.fate));
        table_add(&table, "%s", row->name ? row->name : "");
    }
    table_print(&table);
    table_free(&table);
}

/* Why, for every selector that one restore does not simply keep: the same reason once, with its selectors. */
static void print_reasons(const struct reseat_plan *plan, bool live)
{
    for (size_t i = 0; i < plan->row_count; i++) {
        const struct reseat_prospect *first = live ? &plan->rows[i].live : &plan->rows[i].cold;
        bool is_said = !first->why;
        for (size_t before = 0; before < i && !is_said; before++) {
            const struct reseat_prospect *earlier =
                live ? &plan->rows[before].live : &plan->rows[before].cold;
            is_said = earlier->why && strcmp(earlier->why, first->why) == 0;
        }
        if (is_said)
            continue;
        char *text = NULL;
        size_t length = 0, count = 0;
        FILE *stream = open_memstream(&text, &length);
        for (size_t later = i; stream && later < plan->row_count; later++) {
            const struct reseat_prospect *same = live ? &plan->rows[later].live : &plan->rows[later].cold;
            if (same->why && strcmp(same->why, first->why) == 0)
                fprintf(stream, "%s%u", count++ ? ", " : "", plan->rows[later].selector);
        }
        if (stream)
            fclose(stream);
        printf_harmless("  %s, selector%s %s: %s", reseat_fate_name(first->fate), count > 1 ? "s" : "",
                        text ? text : "?", first->why);
        free(text);
    }
}

static void print_restore(const struct reseat_plan *plan, bool live)
{
    const char *blocked = live ? plan->live_blocked : plan->cold_blocked;
    unsigned counts[RESEAT_REPLACED + 1] = {0};
    printf("%s restore: ", live ? "live" : "cold");
    if (blocked)
        printf_harmless("not possible. %s", blocked);
    if (!plan->row_count)
        return;
    for (size_t i = 0; i < plan->row_count; i++)
        counts[live ? plan->rows[i].live.fate : plan->rows[i].cold.fate]++;
    printf("%s%u kept, %u recreated, %u degraded, %u lost", blocked ? "  otherwise: " : "",
           counts[RESEAT_KEPT], counts[RESEAT_RECREATED], counts[RESEAT_DEGRADED], counts[RESEAT_LOST]);
    if (counts[RESEAT_REPLACED])
        printf(", %u replaced", counts[RESEAT_REPLACED]);
    printf("\n");
    print_reasons(plan, live);
}

static void print_items(const struct reseat_plan *plan)
{
    static const char *const concerns[] = {"", " (live)", " (cold)", ""};
    if (plan->item_count)
        printf("besides capabilities:\n");
    for (size_t i = 0; i < plan->item_count; i++) {
        const struct reseat_plan_item *item = &plan->items[i];
        printf_harmless("  %s%s: %s", item->is_note ? "note" : reseat_fate_name(item->fate),
                        concerns[item->restores & 3], item->sentence);
    }
}

/* What the command line asks for. Owns the descriptors that it opened. */
struct wish {
    const char *word;
    unsigned flags;
    struct slot_list slots;
};

static void free_wish(struct wish *wish)
{
    slot_list_free(&wish->slots);
}

static int read_wish(const struct cli *cli, const struct cli_arguments *arguments, struct wish *wish)
{
    if (arguments->word_count != 1)
        return usage_error(cli, "plan: give one PID, or one checkpoint directory");
    wish->word = arguments->words[0];
    int status = CLI_DONE;
    for (size_t i = 0; status == CLI_DONE && i < arguments->option_count; i++) {
        if (arguments->options[i].option->id == OPTION_SLOT)
            status = slot_list_add(cli, &wish->slots, arguments->options[i].value);
        else
            wish->flags |= RESEAT_PLAN_LEAVE_RUNNING;
    }
    return status;
}

static int make_plan(const struct cli *cli, const struct wish *wish, struct reseat_plan **ret_plan)
{
    struct reseat_error *error = NULL;
    bool is_number = strspn(wish->word, "0123456789") == strlen(wish->word); /* ./12 is a directory */
    pid_t pid;
    if (is_number && !parse_pid(wish->word, &pid))
        return usage_error(cli, "plan: %s is not a PID", wish->word);
    if (!is_number && wish->flags)
        return usage_error(cli, "plan: --leave-running is for a PID; a checkpoint has its form already");
    int r = is_number ? reseat_plan(pid, wish->flags, ret_plan, &error)
                      : reseat_plan_restore(wish->word, ret_plan, &error);
    if (r == 0)
        r = reseat_plan_slots(*ret_plan, wish->slots.items, wish->slots.count, &error);
    return r < 0 ? failure(r, &error) : CLI_DONE;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    _cleanup_(free_wish) struct wish wish = {0};
    _cleanup_(free_plan) struct reseat_plan *plan = NULL;
    int status = read_wish(cli, arguments, &wish);
    if (status == CLI_DONE)
        status = make_plan(cli, &wish, &plan);
    if (status != CLI_DONE)
        return status;
    if (cli->json) {
        print_json(plan);
    } else {
        print_table(plan);
        print_restore(plan, true);
        print_restore(plan, false);
        print_items(plan);
    }
    return output_flush() ? CLI_DONE : CLI_FAILED;
}

const struct cli_verb verb_plan = {
    .name = "plan",
    .usage = "PID [--leave-running] | DIR [--slot SEL=WHAT]…",
    .summary = "say what a restore would bring back, and change nothing",
    .about =
        "One line for each capability: what a restore from the twin (LIVE) and one from the image alone "
        "(COLD) would\n"
        "make of it. kept: the very same object. recreated: a new object with the same state. degraded: with "
        "less\n"
        "state. lost: nothing can be put there. Below that why, and what is to be said that is not about a "
        "selector:\n"
        "threads, timers, children. A PID is looked at from outside, and runs on; DIR is a checkpoint. (A "
        "directory whose\n"
        "name is a number: ./12.)\n"
        "\n"
        "The status is 0 whatever would be lost; checkpoint and restore refuse by themselves.\n"
        "\n"
        "Example: would process 1234 come back whole?\n"
        "  $ reseat plan 1234\n"
        "Example: the selectors that a restart of the machine would cost it\n"
        "  $ reseat plan 1234 --json | jq '.capabilities[] | select(.cold.fate == \"lost\") | .selector'\n",
    .options = options,
    .run = run,
};
