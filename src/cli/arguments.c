/* The command line taken apart: options by table, and the words between them. getopt_long(3) is not used
 * because it keeps global state, accepts abbreviations (which break scripts when a longer option appears
 * later), and could not say which verb was called wrongly. */
#include "cli.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

static bool has_letter(const struct cli_option *option)
{
    return isalpha(option->id) != 0;
}

static const struct cli_option *find_by_letter(const struct cli_option *const *tables, char letter)
{
    for (; *tables; tables++)
        for (const struct cli_option *option = *tables; option->name; option++)
            if (has_letter(option) && option->id == letter)
                return option;
    return NULL;
}

static const struct cli_option *find_by_name(const struct cli_option *const *tables, const char *name,
                                             size_t length)
{
    for (; *tables; tables++)
        for (const struct cli_option *option = *tables; option->name; option++)
            if (strlen(option->name) == length && memcmp(option->name, name, length) == 0)
                return option;
    return NULL;
}

static void add_option(struct cli_arguments *arguments, const struct cli_option *option, const char *value)
{
    arguments->options[arguments->option_count++] = (struct cli_given){.option = option, .value = value};
}

/* `--name`, `--name=VALUE` or `--name VALUE` (then *at moves on to the value). Returns an exit status. */
static int read_long(const struct cli *cli, int argc, char **argv, int *at,
                     const struct cli_option *const *tables, struct cli_arguments *arguments)
{
    const char *name = argv[*at] + 2;
    size_t length = strcspn(name, "=");
    const struct cli_option *option = find_by_name(tables, name, length);
    const char *value = name[length] == '=' ? name + length + 1 : NULL;
    if (!option)
        return usage_error(cli, "there is no option --%.*s", (int)length, name);
    if (value && !option->value)
        return usage_error(cli, "--%s takes no value", option->name);
    if (option->value && !value) {
        if (*at + 1 >= argc)
            return usage_error(cli, "--%s needs a value: %s", option->name, option->value);
        value = argv[++*at];
    }
    add_option(arguments, option, value);
    return CLI_DONE;
}

/* `-a`, `-ab`, `-oVALUE` or `-o VALUE`. Returns an exit status. */
static int read_short(const struct cli *cli, int argc, char **argv, int *at,
                      const struct cli_option *const *tables, struct cli_arguments *arguments)
{
    for (const char *letter = argv[*at] + 1; *letter; letter++) {
        const struct cli_option *option = find_by_letter(tables, *letter);
        if (!option)
            return usage_error(cli, "there is no option -%c", *letter);
        if (!option->value) {
            add_option(arguments, option, NULL);
            continue;
        }
        const char *value = letter + 1;
        if (!*value && *at + 1 >= argc)
            return usage_error(cli, "-%c needs a value: %s", *letter, option->value);
        add_option(arguments, option, *value ? value : argv[++*at]);
        break;
    }
    return CLI_DONE;
}

static int allocate(struct cli_arguments *arguments, int argc, char **argv)
{
    size_t letters = 0; /* an argument holds at most as many options as it has letters */
    for (int i = 0; i < argc; i++)
        letters += strlen(argv[i]);
    arguments->options = calloc(letters + 1, sizeof *arguments->options);
    arguments->words = calloc((size_t)argc + 1, sizeof *arguments->words);
    if (arguments->options && arguments->words)
        return CLI_DONE;
    message("out of memory");
    return CLI_FAILED;
}

int arguments_read(const struct cli *cli, int argc, char **argv, const struct cli_option *const *tables,
                   bool until_word, struct cli_arguments *arguments, int *ret_end)
{
    bool only_words = false;
    int at = 0;
    int status = allocate(arguments, argc, argv);
    for (; at < argc && status == CLI_DONE; at++) {
        const char *argument = argv[at];
        if (!only_words && strcmp(argument, "--") == 0) {
            only_words = true;
            arguments->words_before = arguments->word_count;
        } else if (!only_words && strncmp(argument, "--", 2) == 0)
            status = read_long(cli, argc, argv, &at, tables, arguments);
        else if (!only_words && argument[0] == '-' && argument[1])
            status = read_short(cli, argc, argv, &at, tables, arguments);
        else if (until_word)
            break;
        else
            arguments->words[arguments->word_count++] = argument;
    }
    if (!only_words)
        arguments->words_before = arguments->word_count;
    *ret_end = at;
    return status;
}

void arguments_free(struct cli_arguments *arguments)
{
    free(arguments->options);
    free(arguments->words);
    *arguments = (struct cli_arguments){0};
}

void options_print(const struct cli_option *options)
{
    for (const struct cli_option *option = options; option && option->name; option++) {
        char left[64];
        snprintf(left, sizeof left, "%c%c%s--%s%s%s", has_letter(option) ? '-' : ' ',
                 has_letter(option) ? option->id : ' ', has_letter(option) ? ", " : "  ", option->name,
                 option->value ? "=" : "", option->value ? option->value : "");
        const char *line = option->help;
        for (const char *indented = left; line; indented = "") {
            int length = (int)strcspn(line, "\n");
            printf("  %-28s %.*s\n", indented, length, line);
            line = line[length] ? line + length + 1 : NULL;
        }
    }
}

/* ---- values ---- */

static bool parse_digits(const char *text, size_t length, uint64_t largest, uint64_t *ret_number)
{
    uint64_t number = 0;
    if (length == 0)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        uint64_t digit = (uint64_t)(text[i] - '0');
        if (number > (largest - digit) / 10)
            return false;
        number = number * 10 + digit;
    }
    *ret_number = number;
    return true;
}

bool parse_number(const char *text, uint64_t largest, uint64_t *ret_number)
{
    return parse_digits(text, strlen(text), largest, ret_number);
}

bool parse_pid(const char *text, pid_t *ret_pid)
{
    const uint64_t largest = 4 << 20; /* PID_MAX_LIMIT, proc_sys_kernel(5) */
    uint64_t number;
    if (!parse_number(text, largest, &number) || number == 0)
        return false;
    *ret_pid = (pid_t)number;
    return true;
}

bool parse_selector(const char *text, size_t length, unsigned *ret_selector)
{
    uint64_t number;
    if (!parse_digits(text, length, INT32_MAX, &number))
        return false;
    *ret_selector = (unsigned)number;
    return true;
}

bool parse_duration(const char *text, uint64_t *ret_ns)
{
    static const struct {
        const char *unit;
        uint64_t ns;
    } units[] = {{"", 1000000000}, {"s", 1000000000}, {"ms", 1000000}};
    size_t digits = strspn(text, "0123456789");
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        uint64_t number;
        if (strcmp(text + digits, units[i].unit) == 0 &&
            parse_digits(text, digits, UINT64_MAX / units[i].ns, &number)) {
            *ret_ns = number * units[i].ns;
            return true;
        }
    }
    return false;
}

bool parse_allow(const char *text, enum reseat_allow *ret_allow)
{
    if (strcmp(text, "degraded") == 0)
        *ret_allow = RESEAT_ALLOW_DEGRADED;
    else if (strcmp(text, "lost") == 0)
        *ret_allow = RESEAT_ALLOW_LOST;
    else
        return false;
    return true;
}
