/* `reseat restore`: puts a process back from its checkpoint, with other objects at some slots if that is
 * wanted, and on our terminal if that is wanted. Rests on reseat_restore(); what happens on the terminal is
 * in attach.c. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { OPTION_SLOT = 1, OPTION_KEEP, OPTION_NEW_PID, OPTION_ATTACH, OPTION_WAIT, OPTION_ALLOW };

static const struct cli_option options[] = {
    {OPTION_SLOT, "slot", "SEL=PATH",
     "put the file PATH at selector SEL instead of what was there,\nor SEL=fd:N: our descriptor N"},
    {OPTION_KEEP, "keep", NULL, "keep a twin, for another restore"},
    {OPTION_NEW_PID, "new-pid", NULL, "restore under a fresh PID"},
    {OPTION_ATTACH, "attach", NULL,
     "give the process our terminal, wait for it as a shell's fg\ndoes, and end with its exit status"},
    {OPTION_WAIT, "wait", "T", "how long to wait for the PID to become free: 5, 5s, 500ms\n(default: 5s)"},
    {OPTION_ALLOW, "allow", "degraded|lost",
     "go on although something would come back with\nless state (degraded), or not at all (lost)"},
    {0},
};

static const uint64_t usual_wait_ns = 5 * 1000000000ULL;

/* What the command line asks for. Owns the descriptors that it opened. */
struct wishes {
    struct reseat_restore_options library;
    struct reseat_slot *slots;
    bool *is_ours; /* for each slot: opened by us */
    size_t slot_count;
    bool attach;
};

static void free_wishes(struct wishes *wishes)
{
    for (size_t i = 0; i < wishes->slot_count; i++)
        if (wishes->is_ours[i])
            close(wishes->slots[i].fd);
    free(wishes->slots);
    free(wishes->is_ours);
}

/* With as much access as we may have. Neither makes a file nor a controlling terminal; a FIFO is opened for
 * both directions and so does not wait for another process. */
static int open_for_slot(const char *path)
{
    static const int ways[] = {O_RDWR, O_RDONLY, O_WRONLY};
    int first_error = 0;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        int fd = open(path, ways[i] | O_NOCTTY | O_CLOEXEC | (ways[i] == O_RDWR ? 0 : O_NONBLOCK));
        if (fd >= 0) {
            if (ways[i] != O_RDWR)
                fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
            return fd;
        }
        if (errno != EACCES && errno != EROFS && errno != EISDIR && errno != EPERM && errno != ETXTBSY)
            return -errno;
        if (!first_error)
            first_error = errno;
    }
    return -first_error;
}

/* Whether descriptor `fd` was handed to us by whoever started us: what we open ourselves is close-on-exec. */
static bool was_inherited(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

/* Reads one `SEL=PATH` or `SEL=fd:N` into the next slot. Returns an exit status. */
static int add_slot(const struct cli *cli, struct wishes *wishes, const char *text)
{
    const char *value = strchr(text, '=');
    unsigned selector;
    if (!value || !parse_selector(text, (size_t)(value - text), &selector) || !value[1])
        return usage_error(cli, "restore: --slot takes SEL=PATH or SEL=fd:N, not %s", text);
    for (size_t i = 0; i < wishes->slot_count; i++)
        if (wishes->slots[i].selector == selector)
            return usage_error(cli, "restore: --slot is given twice for selector %u", selector);
    value++;
    int fd;
    bool is_ours = strncmp(value, "fd:", 3) != 0;
    if (is_ours) {
        fd = open_for_slot(value);
        if (fd < 0) {
            message("restore: %s, for selector %u, cannot be opened: %s", value, selector, strerror(-fd));
            return CLI_FAILED;
        }
    } else {
        uint64_t number;
        if (!parse_number(value + 3, INT32_MAX, &number))
            return usage_error(cli, "restore: --slot %s: %s is not a descriptor number", text, value + 3);
        fd = (int)number;
        if (!was_inherited(fd))
            return usage_error(
                cli,
                "restore: --slot %s: we were not given a descriptor %d (a shell gives one with %d<>FILE)",
                text, fd, fd);
    }
    wishes->slots[wishes->slot_count] = (struct reseat_slot){.selector = selector, .fd = fd};
    wishes->is_ours[wishes->slot_count++] = is_ours;
    return CLI_DONE;
}

static int read_wishes(const struct cli *cli, const struct cli_arguments *arguments, struct wishes *wishes)
{
    struct reseat_restore_options *library = &wishes->library;
    *library =
        (struct reseat_restore_options){.wait_ns = usual_wait_ns, .note = note, .userdata = (void *)cli};
    wishes->slots = calloc(arguments->option_count + 1, sizeof *wishes->slots);
    wishes->is_ours = calloc(arguments->option_count + 1, sizeof *wishes->is_ours);
    if (!wishes->slots || !wishes->is_ours) {
        message("out of memory");
        return CLI_FAILED;
    }
    for (size_t i = 0; i < arguments->option_count; i++) {
        const char *value = arguments->options[i].value;
        int status = CLI_DONE;
        switch (arguments->options[i].option->id) {
        case OPTION_SLOT:
            status = add_slot(cli, wishes, value);
            break;
        case OPTION_KEEP:
            library->flags |= RESEAT_KEEP;
            break;
        case OPTION_NEW_PID:
            library->flags |= RESEAT_NEW_PID;
            break;
        case OPTION_ATTACH:
            wishes->attach = true;
            break;
        case OPTION_WAIT:
            if (!parse_duration(value, &library->wait_ns))
                status =
                    usage_error(cli, "restore: --wait takes a time such as 5, 5s or 500ms, not %s", value);
            break;
        case OPTION_ALLOW:
            if (!parse_allow(value, &library->allow))
                status = usage_error(cli, "restore: --allow takes degraded or lost, not %s", value);
            break;
        }
        if (status != CLI_DONE)
            return status;
    }
    library->slots = wishes->slots;
    library->slot_count = wishes->slot_count;
    return CLI_DONE;
}

static void print_json(const char *dir, const struct reseat_restore_result *result)
{
    struct json_object *document = json_object_new_object();
    json_object_object_add(document, "dir", json_text(dir));
    json_object_object_add(document, "pid", json_object_new_int(result->pid));
    json_object_object_add(document, "restore_ns", json_object_new_uint64(result->restore_ns));
    json_object_object_add(document, "slots", json_object_new_int64(result->slots));
    json_object_object_add(document, "same", json_object_new_int64(result->same));
    json_print(document);
}

static void print_text(const struct reseat_restore_result *result)
{
    char duration[32];
    printf("restored %d in %s, %u of %u slots hold the same object\n", result->pid,
           format_duration(result->restore_ns, duration, sizeof duration), result->same, result->slots);
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    if (arguments->word_count != 1)
        return usage_error(cli, "restore: give one checkpoint directory");
    const char *dir = arguments->words[0];
    _cleanup_(free_wishes) struct wishes wishes = {0};
    int status = read_wishes(cli, arguments, &wishes);
    if (status != CLI_DONE)
        return status;
    _cleanup_(attach_end) struct attachment attachment = {.terminal = -1, .signal_fd = -1};
    if (wishes.attach) {
        status = attach_prepare(&attachment);
        if (status != CLI_DONE)
            return status;
        wishes.library.terminal = attachment.terminal;
    }

    struct reseat_restore_result result = {.pidfd = -1};
    struct reseat_error *error = NULL;
    int r = reseat_restore(dir, &wishes.library, &result, &error);
    if (r < 0) {
        attach_end(&attachment); /* the terminal is ours again before we write on it */
        return failure(r, &error);
    }
    if (cli->json)
        print_json(dir, &result);
    else if (!wishes.attach) /* the process draws on this terminal now */
        print_text(&result);
    output_flush(); /* the process runs, even if nobody can be told */
    if (wishes.attach)
        status = attach_wait(&attachment, result.pid, result.pidfd);
    if (result.pidfd >= 0)
        close(result.pidfd);
    return status;
}

const struct cli_verb verb_restore = {
    .name = "restore",
    .usage =
        "DIR [--slot SEL=PATH|SEL=fd:N]… [--keep] [--new-pid] [--attach] [--wait T] [--allow=degraded|lost]",
    .summary = "put a process back: same PID, same slots, same objects",
    .about = "Makes the process again from the twin of DIR, compares slot by slot that every selector has "
             "the object\n"
             "that it had, lets it run, and prints its PID. That uses up the twin, and DIR with it, unless "
             "--keep is\n"
             "given. If it fails, the checkpoint is as good as before.\n"
             "\n"
             "Example: put a process back, its log now going elsewhere\n"
             "  $ reseat restore /var/tmp/parked --slot 2=/var/log/other.log\n"
             "Example: continue an editor, checkpointed from another terminal, on this one\n"
             "  $ reseat restore --attach vim.ckpt --slot 0=fd:0 --slot 1=fd:1 --slot 2=fd:2\n",
    .options = options,
    .run = run,
};
