/* `reseat install`: puts an object at selectors of a running process: one of ours, a file, or one that
 * another process has. Rests on reseat_pd_install_many(), which does all in one stop. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    OPTION_FROM = 1,
    OPTION_OPEN,
    OPTION_COPY,
    OPTION_REPLACE,
    OPTION_CLOEXEC,
    OPTION_ACCESS,
    OPTION_CREATE
};

static const struct cli_option options[] = {
    {OPTION_FROM, "from", "N", "our descriptor N (default: 0, our standard input)"},
    {OPTION_OPEN, "open", "PATH", "that file, opened here"},
    {OPTION_COPY, "copy", "PID:SEL", "what process PID has at selector SEL"},
    {OPTION_REPLACE, "replace", NULL, "also where something is already"},
    {OPTION_CLOEXEC, "cloexec", NULL,
     "close-on-exec; without it the selector is that only if it was\nand is replaced"},
    {OPTION_ACCESS, "access", "r|w|rw|append",
     "how to open PATH. Default: like what is replaced, writing at\nthe end; else as may be: rw, r or w"},
    {OPTION_CREATE, "create", NULL, "make PATH if it does not exist"},
    CLI_CORE_OPTION,
    {0},
};

#define ACCESS_AS_BEFORE (-1)

/* What the command line asks for. */
struct wish {
    pid_t pid;
    unsigned *selectors;
    size_t count;
    const char *path; /* --open */
    int access;       /* of --open: O_*, or ACCESS_AS_BEFORE */
    bool create;
    bool copies; /* --copy */
    pid_t copy_pid;
    unsigned copy_selector;
    uint64_t from;
    bool replace, cloexec;
    const char *core;
};

static void free_wish(struct wish *wish)
{
    free(wish->selectors);
}

static void free_listing(struct reseat_listing **listing)
{
    reseat_listing_free(*listing);
}

static void close_cap(const int *cap)
{
    if (*cap >= 0)
        close(*cap);
}

/* ---- the command line ---- */

static bool parse_access(const char *text, int *ret_access)
{
    static const struct {
        const char *word;
        int access;
    } words[] = {{"r", O_RDONLY}, {"w", O_WRONLY}, {"rw", O_RDWR}, {"append", O_WRONLY | O_APPEND}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i].word) != 0)
            continue;
        *ret_access = words[i].access;
        return true;
    }
    return false;
}

static bool parse_place(const char *text, pid_t *ret_pid, unsigned *ret_selector)
{
    const char *colon = strchr(text, ':');
    char pid[16];
    if (!colon || (size_t)(colon - text) >= sizeof pid)
        return false;
    snprintf(pid, sizeof pid, "%.*s", (int)(colon - text), text);
    return parse_pid(pid, ret_pid) && parse_selector(colon + 1, strlen(colon + 1), ret_selector);
}

static int read_option(const struct cli *cli, const struct cli_given *given, struct wish *wish)
{
    const char *value = given->value;
    switch (given->option->id) {
    case OPTION_FROM:
        if (!parse_number(value, INT32_MAX, &wish->from))
            return usage_error(cli, "install: --from takes a descriptor number, not %s", value);
        break;
    case OPTION_OPEN:
        wish->path = value;
        break;
    case OPTION_COPY:
        wish->copies = true;
        if (!parse_place(value, &wish->copy_pid, &wish->copy_selector))
            return usage_error(cli, "install: --copy takes PID:SEL, not %s", value);
        break;
    case OPTION_REPLACE:
        wish->replace = true;
        break;
    case OPTION_CLOEXEC:
        wish->cloexec = true;
        break;
    case OPTION_ACCESS:
        if (!parse_access(value, &wish->access))
            return usage_error(cli, "install: --access takes r, w, rw or append, not %s", value);
        break;
    case OPTION_CORE:
        wish->core = value;
        break;
    case OPTION_CREATE:
        wish->create = true;
        break;
    }
    return CLI_DONE;
}

static int read_wish(const struct cli *cli, const struct cli_arguments *arguments, struct wish *wish)
{
    wish->access = ACCESS_AS_BEFORE;
    size_t sources = 0;
    int status = CLI_DONE;
    for (size_t i = 0; status == CLI_DONE && i < arguments->option_count; i++) {
        int id = arguments->options[i].option->id;
        sources += id == OPTION_FROM || id == OPTION_OPEN || id == OPTION_COPY;
        status = read_option(cli, &arguments->options[i], wish);
    }
    if (status != CLI_DONE)
        return status;
    if (sources > 1)
        return usage_error(cli, "install: give one of --from, --open and --copy, once");
    if (!wish->path && (wish->create || wish->access != ACCESS_AS_BEFORE))
        return usage_error(cli,
                           "install: --access and --create are for --open; other objects are as they are");
    if (!wish->path && !wish->copies && !was_inherited((int)wish->from))
        return usage_error(cli,
                           "install: we were not given a descriptor %d (a shell gives one with %d<>FILE)",
                           (int)wish->from, (int)wish->from);
    return read_selectors(cli, arguments, &wish->pid, &wish->selectors, &wish->count);
}

/* ---- what is there now ---- */

/* What the selectors that are to be replaced have, as core tells it: the access of all together. It does not
 * tell close-on-exec. */
static int ask_for_slots(const struct wish *wish, struct reseat_pd *pd, unsigned *ret_access,
                         struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < wish->count; i++) {
        struct reseat_pd_slot now = {.cap = -1};
        size_t count = 0;
        unsigned next;
        r = reseat_pd_request_many(pd, wish->selectors[i], &now, 1, &count, &next, ret_error);
        if (r == 0 && count && now.selector == wish->selectors[i])
            *ret_access |= now.flags & (RESEAT_READ | RESEAT_WRITE);
        close_cap(&now.cap);
    }
    return r;
}

/* What the selectors that are to be replaced have: close-on-exec, and the access of all together. */
static int look_at_slots(const struct wish *wish, struct reseat_pd_slot *slots, unsigned *ret_access,
                         struct reseat_error **ret_error)
{
    _cleanup_(free_listing) struct reseat_listing *listing = NULL;
    int r = reseat_list_capabilities(&wish->pid, 1, &listing, ret_error);
    for (size_t i = 0; r == 0 && i < listing->count; i++) {
        const struct reseat_capability *now = &listing->capabilities[i];
        for (size_t j = 0; j < wish->count; j++) {
            if (wish->selectors[j] != now->selector)
                continue;
            slots[j].flags |= now->cloexec ? RESEAT_CLOEXEC : 0;
            *ret_access |=
                (strchr(now->access, 'r') ? RESEAT_READ : 0) | (strchr(now->access, 'w') ? RESEAT_WRITE : 0);
        }
    }
    return r;
}

/* ---- what is to go there ---- */

/* A negative errno, after a message. */
static int open_file(const struct wish *wish, unsigned access_before)
{
    int access = wish->access;
    const char *like = "";
    if (access == ACCESS_AS_BEFORE && access_before) {
        access = access_before == RESEAT_READ    ? O_RDONLY
                 : access_before == RESEAT_WRITE ? O_WRONLY | O_APPEND
                                                 : O_RDWR;
        like = ", like what it replaces (--access chooses)";
    } else if (access == ACCESS_AS_BEFORE && wish->create) {
        access = O_RDWR;
    }
    int fd = access == ACCESS_AS_BEFORE
                 ? open_readily(wish->path)
                 : open(wish->path, access | O_NOCTTY | O_CLOEXEC | (wish->create ? O_CREAT : 0), 0666);
    int r = fd == -1 ? -errno : fd;
    if (r < 0)
        message("install: %s cannot be opened%s%s%s: %s%s", wish->path,
                access == ACCESS_AS_BEFORE         ? ""
                : (access & O_ACCMODE) == O_RDONLY ? " for reading"
                : (access & O_ACCMODE) == O_WRONLY ? " for writing"
                                                   : " for reading and writing",
                like, "", strerror(-r), r == -ENOENT && !wish->create ? " (--create makes it)" : "");
    return r;
}

static int copy_capability(const struct wish *wish)
{
    _cleanup_(close_pd) struct reseat_pd *source = NULL;
    struct reseat_error *error = NULL;
    int cap = -1;
    if (open_pd(wish->core, wish->copy_pid, &source) != CLI_DONE)
        return -EIO;
    int r = reseat_pd_request(source, wish->copy_selector, &cap, NULL, &error);
    if (r < 0) {
        failure(r, &error);
        return r;
    }
    if (cap < 0)
        message("install: selector %u of process %d, which is to be copied, is unused", wish->copy_selector,
                wish->copy_pid);
    return cap < 0 ? -EBADF : cap;
}

/* A descriptor of ours; `*ret_is_ours`: to be closed. A negative errno, after a message. */
static int get_source(const struct wish *wish, unsigned access_before, bool *ret_is_ours)
{
    *ret_is_ours = wish->path || wish->copies;
    if (wish->path)
        return open_file(wish, access_before);
    return wish->copies ? copy_capability(wish) : (int)wish->from;
}

/* ---- the verb ---- */

static int install(const struct wish *wish, struct reseat_pd *pd, struct reseat_pd_slot *slots)
{
    struct reseat_error *error = NULL;
    unsigned access_before = 0;
    bool is_ours = false;
    int r = !wish->replace ? 0
            : wish->core   ? ask_for_slots(wish, pd, &access_before, &error)
                           : look_at_slots(wish, slots, &access_before, &error);
    if (r < 0)
        return failure(r, &error);
    int cap = get_source(wish, access_before, &is_ours);
    if (cap < 0)
        return signals_pending() ? CLI_INTERRUPTED : CLI_FAILED;
    _cleanup_(close_cap) int to_close = is_ours ? cap : -1;
    for (size_t i = 0; i < wish->count; i++) {
        slots[i].selector = wish->selectors[i];
        slots[i].cap = cap;
        slots[i].flags |= (wish->cloexec ? RESEAT_CLOEXEC : 0) | (wish->replace ? RESEAT_REPLACE : 0);
    }
    r = reseat_pd_install_many(pd, slots, wish->count, &error);
    if (r < 0) {
        int status = failure(r, &error);
        if (r == -EEXIST)
            message("install: --replace asks for that");
        return status;
    }
    return CLI_DONE;
}

static int run(const struct cli *cli, const struct cli_arguments *arguments)
{
    _cleanup_(free_wish) struct wish wish = {0};
    _cleanup_(close_pd) struct reseat_pd *pd = NULL;
    int status = read_wish(cli, arguments, &wish);
    if (status == CLI_DONE)
        status = open_pd(wish.core, wish.pid, &pd);
    if (status != CLI_DONE)
        return status;
    struct reseat_pd_slot *slots = calloc(wish.count + 1, sizeof *slots);
    if (!slots)
        message("out of memory");
    status = slots ? install(&wish, pd, slots) : CLI_FAILED;
    free(slots);
    if (status == CLI_DONE && cli->json)
        print_selectors(wish.pid, "installed", wish.selectors, wish.count);
    output_flush(); /* it is there, even if nobody can be told */
    return status;
}

const struct cli_verb verb_install = {
    .name = "install",
    .usage =
        "PID SEL… [--from N | --open PATH [--access r|w|rw|append] [--create] | --copy PID:SEL] [--replace] "
        "[--cloexec] [--core SOCKET]",
    .summary = "put an object at a selector of a running process",
    .about =
        "The process does not take part; it is stopped for a moment. With several selectors all get the same "
        "object, or\n"
        "none. A selector that is in use is an error that names what is there, unless --replace is given. "
        "The "
        "file of\n"
        "--open is opened here, with our rights, and never truncated. Prints nothing, or with --json where "
        "something was\n"
        "installed.\n"
        "\n"
        "Example: let process 1234 write its output and messages to another file from now on\n"
        "  $ reseat install 1234 1 2 --open other.log --create --replace\n"
        "Example: give process 1234 the listening socket that process 1200 has at selector 3, as its 3\n"
        "  $ reseat install 1234 3 --copy 1200:3\n"
        "Example: give process 1234 this terminal as standard input\n"
        "  $ reseat install 1234 0 --replace\n",
    .options = options,
    .run = run,
};
