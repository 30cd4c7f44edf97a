/* The command `reseat`: one file per verb over libreseat, of which it uses the public header and nothing
 * else, so that whatever the command does a user of the library can do. What the verbs share stands here: how
 * they are described, how their arguments are read, how results and messages are written, and what a signal
 * does. */
#pragma once

#include "reseat.h"

#include <json-c/json.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <termios.h>

#define _cleanup_(function)       __attribute__((cleanup(function)))
#define _printf_(position, first) __attribute__((__format__(printf, position, first)))

enum cli_status {
    CLI_DONE = 0,
    CLI_FAILED = 1,  /* nothing was changed */
    CLI_USAGE = 2,   /* we were called wrongly */
    CLI_REFUSED = 3, /* something would not come back as it was, and --allow did not permit that */
    CLI_INTERRUPTED = 130,
};

/* ---- arguments.c: what the command line says ---- */

/* An option. `id` is what a verb recognises it by and, if it is a letter, its short form too. */
struct cli_option {
    int id;
    const char *name;
    const char *value; /* what its value is called in the help; NULL: it takes none */
    const char *help;  /* may have several lines */
};

struct cli_given {
    const struct cli_option *option;
    const char *value;
};

/* A command line taken apart: options in the order given, and all other words. */
struct cli_arguments {
    struct cli_given *options;
    size_t option_count;
    const char **words; /* ends with NULL */
    size_t word_count;
    size_t words_before; /* of these in front of `--`; all if there is none */
};

/* What every verb is given besides its arguments: the options that all verbs understand. */
struct cli {
    const struct cli_verb *verb;
    bool json;
    bool quiet;
    bool verbose;
};

/* A verb: what the help says of it, and its function, which returns the exit status. */
struct cli_verb {
    const char *name;
    const char *usage; /* behind "reseat NAME " */
    const char *summary;
    const char *about;                /* paragraphs and examples for --help */
    const struct cli_option *options; /* ends with an empty one; NULL: none */
    int (*run)(const struct cli *cli, const struct cli_arguments *arguments);
};

extern const struct cli_verb verb_caps, verb_request, verb_install, verb_close, verb_plan, verb_checkpoint,
    verb_restore, verb_show, verb_verify, verb_list, verb_drop, verb_core;

/* Takes `argv` apart after the option tables given (NULL-terminated list of them) into `arguments`, which the
 * caller frees in any case; with `until_word` only up to the first word, whose position is *ret_end. Options
 * may stand before and behind words; all behind `--` are words. Returns an exit status, with a message if it
 * is not CLI_DONE. */
int arguments_read(const struct cli *cli, int argc, char **argv, const struct cli_option *const *tables,
                   bool until_word, struct cli_arguments *arguments, int *ret_end);
void arguments_free(struct cli_arguments *arguments);
void options_print(const struct cli_option *options);

/* Numbers are digits and nothing else; all return false for anything that is not one, or too large. */
bool parse_number(const char *text, uint64_t largest, uint64_t *ret_number);
bool parse_pid(const char *text, pid_t *ret_pid);
bool parse_selector(const char *text, size_t length, unsigned *ret_selector);
bool parse_duration(const char *text, uint64_t *ret_ns); /* 5, 5s, 500ms */
bool parse_allow(const char *text, enum reseat_allow *ret_allow);

/* ---- slots.c: what goes to a selector ---- */

/* Opens a file with as much access as we may have: a descriptor or a negative errno. Neither makes a file nor
 * a controlling terminal; a FIFO is opened for both directions and so does not wait for another process. */
int open_readily(const char *path);
/* Whether descriptor `fd` was handed to us by whoever started us: what we open ourselves is close-on-exec. */
bool was_inherited(int fd);
/* The --slot options of a command line. Owns the descriptors that were opened for it. */
struct slot_list {
    struct reseat_slot *items;
    bool *is_ours; /* for each: opened here */
    size_t count;
};

/* Adds SEL=PATH, SEL=fd:N, SEL=keep, close, null or fail. Returns an exit status. */
int slot_list_add(const struct cli *cli, struct slot_list *list, const char *text);
void slot_list_free(struct slot_list *list); /* cleanup function */

/* The words of a verb that takes a PID and, behind it, selectors, each once. The array is to be freed in any
 * case. Returns an exit status. */
int read_selectors(const struct cli *cli, const struct cli_arguments *arguments, pid_t *ret_pid,
                   unsigned **ret_selectors, size_t *ret_count);
/* The option of verbs that work on a PD, and what it asks for: through core at that socket, or (NULL) with
 * our own rights. Returns an exit status. */
#define OPTION_CORE 256
#define CLI_CORE_OPTION                                                                                      \
    {                                                                                                        \
        OPTION_CORE, "core", "SOCKET", "through the service core that listens there, with its rights"        \
    }
int open_pd(const char *core, pid_t pid, struct reseat_pd **ret_pd);
void close_pd(struct reseat_pd **pd); /* cleanup function */
/* As JSON: {"pid": …, "DONE": [selectors]}. */
void print_selectors(pid_t pid, const char *done, const unsigned *selectors, size_t count);

/* ---- progress.c ---- */

struct progress {
    const char *what; /* "writing memory" */
    uint64_t start_ns, drawn_ns;
    bool is_wanted;
};

void progress_begin(struct progress *progress, const struct cli *cli, const char *what);
/* A reseat_progress_fn; `userdata` is the struct progress. */
int progress_report(void *userdata, uint64_t done, uint64_t total);
/* Takes the line away; cleanup function. */
void progress_end(struct progress *progress);

/* ---- output.c: messages, tables, JSON ---- */

/* "reseat: …" on standard error, once for each line of the text; control characters made harmless. */
void message(const char *format, ...) _printf_(1, 2);
/* A message with the verb's usage line behind it; returns CLI_USAGE. */
int usage_error(const struct cli *cli, const char *format, ...) _printf_(2, 3);
/* Prints what the library says of its failure `code`, frees it, returns the exit status. */
int failure(int code, struct reseat_error **error);
/* A reseat_note_fn; `userdata` is the struct cli. */
void note(void *userdata, const char *sentence);

/* Lines on standard output, indented after the first like the text; control characters made harmless. */
void printf_harmless(const char *format, ...) _printf_(1, 2);

struct table_column {
    const char *name;
    bool is_number; /* aligned to the right */
};

struct table {
    const struct table_column *columns;
    size_t column_count;
    char **cells; /* row by row */
    size_t cell_count;
};

void table_add(struct table *table, const char *format, ...) _printf_(2, 3);
/* Prints all rows, aligned, under the names of the columns. */
void table_print(const struct table *table);
void table_free(struct table *table);

/* Durations and sizes for people: "0.42 ms", "3 min", "1.2 MiB"; the text is written into `buffer`. */
const char *format_duration(uint64_t ns, char *buffer, size_t size);
const char *format_bytes(uint64_t bytes, char *buffer, size_t size);

/* A JSON string of bytes that may not be UTF-8 (file names): what is not, becomes U+FFFD. NULL becomes null.
 */
struct json_object *json_text(const char *text);
/* Prints the document on standard output and frees it. */
void json_print(struct json_object *document);

/* Makes sure that all that was printed has arrived; false, with a message, if not. */
bool output_flush(void);

/* ---- signals.c ---- */

/* From now on SIGINT, SIGTERM and SIGHUP only interrupt the library where it waits, which then fails with
 * -EINTR and so puts everything back in order. */
void signals_install(void);
/* The last signal of those that has come; 0: none. */
int signals_pending(void);
/* For a command that takes our place: what it inherits is as we found it (execve(2) itself takes away
 * handlers). */
void signals_restore(void);
/* The same as signals_pending(), and the end of interrupting: the signal is dealt with. */
int signals_take(void);

/* ---- attach.c: a process on our terminal ---- */

/* Our terminal while a process has it. */
struct attachment {
    int terminal; /* descriptor of our controlling terminal */
    pid_t pid, group;
    int pidfd;
    bool has_job_control; /* the process is in our session: the foreground can be handed to and fro */
    bool is_lent;         /* the process may have the terminal: to be taken back */
    struct termios ours, theirs;
    sigset_t signals; /* that we take from `signal_fd` meanwhile */
    sigset_t signals_before;
    int signal_fd;
};

/* Opens our terminal and remembers its modes. Prints a message and returns an exit status on failure, else 0.
 */
int attach_prepare(struct attachment *attachment);
/* Waits for process `pid`, whose terminal is now ours, like a shell's `fg`; returns its exit status as a
 * shell does. */
int attach_wait(struct attachment *attachment, pid_t pid, int pidfd);
/* Takes the terminal back and frees. */
void attach_end(struct attachment *attachment);
