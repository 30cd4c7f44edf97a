/* What the command says: messages on standard error, results on standard output, as an aligned table for
 * people or as one JSON document for programs. Names come from other processes and may hold anything: control
 * characters are shown as ? so that no process can drive the terminal of whoever looks at it. */
#include "cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- text ---- */

/* How many bytes at `text` are one well-formed UTF-8 character (RFC 3629); 0: none. */
static size_t utf8_length(const char *text)
{
    const unsigned char *byte = (const unsigned char *)text;
    if (byte[0] < 0x80)
        return byte[0] != 0;
    size_t length = byte[0] < 0xc2 ? 0 : byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : byte[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((byte[i] & 0xc0) != 0x80)
            return 0;
    bool is_overlong = (byte[0] == 0xe0 && byte[1] < 0xa0) || (byte[0] == 0xf0 && byte[1] < 0x90);
    bool is_surrogate = byte[0] == 0xed && byte[1] >= 0xa0;
    bool is_beyond = byte[0] == 0xf4 && byte[1] >= 0x90;
    return is_overlong || is_surrogate || is_beyond ? 0 : length;
}

static bool is_control(const char *text, size_t length)
{
    const unsigned char *byte = (const unsigned char *)text;
    return (length == 1 && (byte[0] < 0x20 || byte[0] == 0x7f)) ||
           (length == 2 && byte[0] == 0xc2 && byte[1] < 0xa0); /* U+0080 to U+009F */
}

/* Replaces control characters, and bytes that are no characters, by ?. */
static void make_harmless(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        size_t length = utf8_length(from);
        if (length == 0 || is_control(from, length)) {
            *to++ = '?';
            from += length ? length : 1;
        } else {
            memmove(to, from, length);
            to += length;
            from += length;
        }
    }
    *to = '\0';
}

static size_t count_characters(const char *text)
{
    size_t count = 0;
    for (; *text; text++)
        count += (*text & 0xc0) != 0x80;
    return count;
}

/* ---- messages ---- */

static _printf_(1, 0) void message_list(const char *format, va_list arguments)
{
    char *text = NULL;
    if (vasprintf(&text, format, arguments) < 0)
        return;
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (!*line)
            continue;
        make_harmless(line);
        fprintf(stderr, "reseat: %s\n", line);
    }
    free(text);
}

void message(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    message_list(format, arguments);
    va_end(arguments);
}

void printf_harmless(const char *format, ...)
{
    va_list arguments;
    char *text = NULL;
    va_start(arguments, format);
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    char *rest = text;
    const char *indent = "";
    for (char *line; (line = strsep(&rest, "\n")); indent = "    ") {
        make_harmless(line);
        printf("%s%s\n", indent, line);
    }
    free(text);
}

int usage_error(const struct cli *cli, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    message_list(format, arguments);
    va_end(arguments);
    if (cli->verb)
        fprintf(stderr, "usage: reseat %s%s%s\n", cli->verb->name, *cli->verb->usage ? " " : "",
                cli->verb->usage);
    else
        fprintf(stderr, "usage: reseat [--json] [-q|-v] VERB …   (reseat --help lists the verbs)\n");
    return CLI_USAGE;
}

int failure(int code, struct reseat_error **error)
{
    const char *text = *error ? reseat_error_message(*error) : NULL;
    bool is_interrupted = code == -EINTR && signals_pending();
    if (text)
        message("%s", text);
    else if (!is_interrupted)
        message("%s", strerror(-code));
    if (is_interrupted)
        message("interrupted by %s; nothing was changed", signals_pending() == SIGINT    ? "SIGINT"
                                                          : signals_pending() == SIGTERM ? "SIGTERM"
                                                                                         : "SIGHUP");
    reseat_error_free(*error);
    *error = NULL;
    return is_interrupted ? CLI_INTERRUPTED : code == -RESEAT_REFUSED ? CLI_REFUSED : CLI_FAILED;
}

void note(void *userdata, const char *sentence)
{
    const struct cli *cli = userdata;
    if (!cli->quiet)
        message("note: %s", sentence);
}

/* ---- tables ---- */

void table_add(struct table *table, const char *format, ...)
{
    char *text = NULL;
    va_list arguments;
    va_start(arguments, format);
    if (vasprintf(&text, format, arguments) < 0)
        text = NULL;
    va_end(arguments);
    if ((table->cell_count & (table->cell_count - 1)) == 0) { /* 0 or a power of two: full */
        size_t capacity = table->cell_count < 64 ? 64 : table->cell_count * 2;
        char **larger = reallocarray(table->cells, capacity, sizeof *larger);
        if (!larger) {
            free(text);
            return;
        }
        table->cells = larger;
    }
    if (text)
        make_harmless(text);
    table->cells[table->cell_count++] = text;
}

static void print_cell(const char *text, const struct table_column *column, size_t width, bool is_last)
{
    int padding = (int)(width - count_characters(text));
    if (column->is_number)
        printf("%*s%s", padding, "", text);
    else
        printf("%s%*s", text, is_last ? 0 : padding, "");
    fputs(is_last ? "\n" : "  ", stdout);
}

static bool wants_colour(void)
{
    const char *terminal = getenv("TERM");
    return isatty(STDOUT_FILENO) && !getenv("NO_COLOR") && terminal && strcmp(terminal, "dumb") != 0;
}

void table_print(const struct table *table)
{
    size_t columns = table->column_count;
    size_t *widths = calloc(columns, sizeof *widths);
    if (!widths)
        return;
    for (size_t i = 0; i < columns; i++)
        widths[i] = count_characters(table->columns[i].name);
    for (size_t i = 0; i < table->cell_count; i++) {
        size_t width = table->cells[i] ? count_characters(table->cells[i]) : 0;
        if (width > widths[i % columns])
            widths[i % columns] = width;
    }
    bool in_colour = wants_colour();
    fputs(in_colour ? "\033[1m" : "", stdout);
    for (size_t i = 0; i < columns; i++) {
        bool is_last = i + 1 == columns;
        if (is_last && in_colour)
            printf("%s\033[0m\n", table->columns[i].name);
        else
            print_cell(table->columns[i].name, &table->columns[i], widths[i], is_last);
    }
    for (size_t i = 0; i < table->cell_count; i++)
        print_cell(table->cells[i] ? table->cells[i] : "?", &table->columns[i % columns], widths[i % columns],
                   i % columns == columns - 1);
    free(widths);
}

void table_free(struct table *table)
{
    for (size_t i = 0; i < table->cell_count; i++)
        free(table->cells[i]);
    free(table->cells);
}

const char *format_duration(uint64_t ns, char *buffer, size_t size)
{
    double seconds = (double)ns / 1e9;
    if (ns < 10000000U)
        snprintf(buffer, size, "%.2f ms", seconds * 1e3);
    else if (ns < 1000000000U)
        snprintf(buffer, size, "%.0f ms", seconds * 1e3);
    else if (seconds < 120)
        snprintf(buffer, size, "%.0f s", seconds);
    else if (seconds < 120 * 60)
        snprintf(buffer, size, "%.0f min", seconds / 60);
    else if (seconds < 48 * 3600)
        snprintf(buffer, size, "%.0f h", seconds / 3600);
    else
        snprintf(buffer, size, "%.0f d", seconds / 86400);
    return buffer;
}

const char *format_bytes(uint64_t bytes, char *buffer, size_t size)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double amount = (double)bytes / 1024;
    size_t unit = 0;
    for (; amount >= 1024 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        amount /= 1024;
    snprintf(buffer, size, "%.*f %s", unit == 0 || amount >= 100 ? 0 : 1, amount, units[unit]);
    return buffer;
}

/* ---- JSON ---- */

struct json_object *json_text(const char *text)
{
    static const char replacement[] = "\xef\xbf\xbd"; /* U+FFFD */
    if (!text)
        return NULL;
    char *clean = malloc(strlen(text) * (sizeof replacement - 1) + 1);
    if (!clean)
        return NULL;
    char *to = clean;
    while (*text) {
        size_t length = utf8_length(text);
        const char *character = length ? text : replacement;
        size_t size = length ? length : sizeof replacement - 1;
        memcpy(to, character, size);
        to += size;
        text += length ? length : 1;
    }
    *to = '\0';
    struct json_object *string = json_object_new_string(clean);
    free(clean);
    return string;
}

void json_print(struct json_object *document)
{
    const int flags = JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE;
    printf("%s\n", json_object_to_json_string_ext(document, flags));
    json_object_put(document);
}

bool output_flush(void)
{
    int failed = fflush(stdout) != 0 || ferror(stdout);
    if (failed)
        message("the result could not be written to standard output: %s", strerror(errno));
    return !failed;
}
