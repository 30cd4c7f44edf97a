/* Selectors and what goes there, as the command line says it: for the verbs that put something there. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

int open_readily(const char *path)
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

bool was_inherited(int fd)
{
    int flags = fcntl(fd, F_GETFD);
    return flags >= 0 && !(flags & FD_CLOEXEC);
}

/* What is not a path has no slash: ./keep is a file. */
static bool read_policy(const char *text, enum reseat_slot_policy *ret_policy)
{
    static const struct {
        const char *word;
        enum reseat_slot_policy policy;
    } words[] = {{"keep", RESEAT_SLOT_KEEP},
                 {"close", RESEAT_SLOT_CLOSE},
                 {"null", RESEAT_SLOT_NULL},
                 {"fail", RESEAT_SLOT_FAIL}};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (strcmp(text, words[i].word) != 0)
            continue;
        *ret_policy = words[i].policy;
        return true;
    }
    return false;
}

/* *ret_is_ours: the descriptor was opened here. */
static int read_slot(const struct cli *cli, const char *text, struct reseat_slot *ret_slot, bool *ret_is_ours)
{
    const char *verb = cli->verb->name, *value = strchr(text, '=');
    struct reseat_slot slot = {.fd = -1, .policy = RESEAT_SLOT_PUT};
    bool is_ours = false;
    if (!value || !parse_selector(text, (size_t)(value - text), &slot.selector) || !value[1])
        return usage_error(cli, "%s: --slot takes SEL=PATH, SEL=fd:N, SEL=keep, close, null or fail, not %s",
                           verb, text);
    value++;
    if (strncmp(value, "fd:", 3) == 0) {
        uint64_t number;
        if (!parse_number(value + 3, INT32_MAX, &number))
            return usage_error(cli, "%s: --slot %s: %s is not a descriptor number", verb, text, value + 3);
        slot.fd = (int)number;
        if (!was_inherited(slot.fd))
            return usage_error(
                cli, "%s: --slot %s: we were not given a descriptor %d (a shell gives one with %d<>FILE)",
                verb, text, slot.fd, slot.fd);
    } else if (!read_policy(value, &slot.policy)) {
        slot.fd = open_readily(value);
        is_ours = true;
        if (slot.fd < 0) {
            message("%s: %s, for selector %u, cannot be opened: %s", verb, value, slot.selector,
                    strerror(-slot.fd));
            return CLI_FAILED;
        }
    }
    *ret_slot = slot;
    *ret_is_ours = is_ours;
    return CLI_DONE;
}

int slot_list_add(const struct cli *cli, struct slot_list *list, const char *text)
{
    struct reseat_slot slot;
    bool is_ours = false;
    int status = read_slot(cli, text, &slot, &is_ours);
    if (status != CLI_DONE)
        return status;
    struct reseat_slot *items = reallocarray(list->items, list->count + 1, sizeof *items);
    bool *all_ours = reallocarray(list->is_ours, list->count + 1, sizeof *all_ours);
    list->items = items ? items : list->items;
    list->is_ours = all_ours ? all_ours : list->is_ours;
    if (!items || !all_ours) {
        message("out of memory");
        return CLI_FAILED;
    }
    list->items[list->count] = slot;
    list->is_ours[list->count++] = is_ours;
    for (size_t i = 0; i + 1 < list->count; i++)
        if (list->items[i].selector == slot.selector)
            return usage_error(cli, "%s: --slot is given twice for selector %u", cli->verb->name,
                               slot.selector);
    return CLI_DONE;
}

void slot_list_free(struct slot_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        if (list->is_ours[i])
            close(list->items[i].fd);
    free(list->items);
    free(list->is_ours);
    *list = (struct slot_list){0};
}

int read_selectors(const struct cli *cli, const struct cli_arguments *arguments, pid_t *ret_pid,
                   unsigned **ret_selectors, size_t *ret_count)
{
    const char *verb = cli->verb->name;
    if (arguments->word_count < 2)
        return usage_error(cli, "%s: give a PID and a selector", verb);
    if (!parse_pid(arguments->words[0], ret_pid))
        return usage_error(cli, "%s: %s is not a PID", verb, arguments->words[0]);
    *ret_count = arguments->word_count - 1;
    *ret_selectors = calloc(*ret_count, sizeof **ret_selectors);
    if (!*ret_selectors) {
        message("out of memory");
        return CLI_FAILED;
    }
    for (size_t i = 0; i < *ret_count; i++) {
        const char *word = arguments->words[i + 1];
        if (!parse_selector(word, strlen(word), &(*ret_selectors)[i]))
            return usage_error(cli, "%s: %s is not a selector", verb, word);
        for (size_t before = 0; before < i; before++)
            if ((*ret_selectors)[before] == (*ret_selectors)[i])
                return usage_error(cli, "%s: selector %s is given twice", verb, word);
    }
    return CLI_DONE;
}

int open_pd(const char *core, pid_t pid, struct reseat_pd **ret_pd)
{
    struct reseat_error *error = NULL;
    int r = core ? reseat_pd_connect(core, pid, ret_pd, &error) : reseat_pd_open(pid, ret_pd, &error);
    return r < 0 ? failure(r, &error) : CLI_DONE;
}

void close_pd(struct reseat_pd **pd)
{
    reseat_pd_free(*pd);
}

void print_selectors(pid_t pid, const char *done, const unsigned *selectors, size_t count)
{
    struct json_object *document = json_object_new_object(), *list = json_object_new_array();
    for (size_t i = 0; i < count; i++)
        json_object_array_add(list, json_object_new_int64(selectors[i]));
    json_object_object_add(document, "pid", json_object_new_int(pid));
    json_object_object_add(document, done, list);
    json_print(document);
}
