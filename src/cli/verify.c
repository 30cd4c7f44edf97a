/* `reseat verify`: the proof that every slot holds the object that it held. Rests on reseat_verify(). */
#include "cli.h"

#include <stdio.h>

static void free_verification(struct reseat_verification **verification)
{
    reseat_verification_free(*verification);
}

static void print_json(const struct reseat_verification *verification)
{
    struct json_object *document = json_object_new_object();
    json_object_object_add(document, "pid", json_object_new_int(verification->pid));
    json_object_object_add(document, "twin", json_object_new_int(verification->twin));
    json_object_object_add(document, "slots", json_object_new_int64(verification->slots));
    json_object_object_add(document, "same", json_object_new_int64(verification->same));
    struct json_object *differences = json_object_new_array();
    for (size_t i = 0; i < verification->difference_count; i++) {
        struct json_object *difference = json_object_new_object();
        json_object_object_add(difference, "selector",
                               json_object_new_int64(verification->differences[i].selector));
        json_object_object_add(difference, "sentence", json_text(verification->differences[i].sentence));
        json_object_array_add(differences, difference);
    }
    json_object_object_add(document, "differences", differences);
    json_print(document);
}

static void print_text(const struct reseat_verification *verification)
{
    static const struct table_column columns[] = {{"SEL", true}, {"DIFFERENCE", false}};
    printf("%u of %u slots hold the same object\n", verification->same, verification->slots);
    if (verification->difference_count == 0)
        return;
    struct table table = {.columns = columns, .column_count = 2};
    for (size_t i = 0; i < verification->difference_count; i++) {
        table_add(&table, "%u", verification->differences[i].selector);
        table_add(&table, "%s", verification->differences[i].sentence);
    }
    table_print(&table);
    table_free(&table);
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    pid_t pid = 0;
    if (arguments->word_count < 1 || arguments->word_count > 2)
        return usage_error(cli, "verify: give a checkpoint directory and perhaps a PID");
    if (arguments->word_count == 2 && !parse_pid(arguments->words[1], &pid))
        return usage_error(cli, "verify: %s is not a PID", arguments->words[1]);

    _cleanup_(free_verification) struct reseat_verification *verification = NULL;
    struct reseat_error *error = NULL;
    int r = reseat_verify(arguments->words[0], pid, &verification, &error);
    if (r < 0)
        return failure(r, &error);
    if (cli->json)
        print_json(verification);
    else
        print_text(verification);
    bool is_same = verification->same == verification->slots && verification->difference_count == 0;
    return output_flush() && is_same ? CLI_DONE : CLI_FAILED;
}

const struct cli_verb verb_verify = {
    .name = "verify",
    .usage = "DIR [PID]",
    .summary = "compare a process, slot by slot, with a checkpoint's twin",
    .about = "Compares the capability space of a process (the one that was checkpointed, if no PID is given) "
             "with the\n"
             "twin of DIR: is there the same object at every selector? Ends with status 1 and a list if not. "
             "`restore`\n"
             "does this by itself before it lets a process run; this verb is for a checkpoint that was taken "
             "with\n"
             "--leave-running, or restored with --keep.\n"
             "\n"
             "Example:\n"
             "  $ reseat restore --keep /var/tmp/parked && reseat verify /var/tmp/parked\n",
    .run = run,
};
