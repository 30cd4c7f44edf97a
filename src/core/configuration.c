/* The administrator's word on who gets sessions to what: a small file, read whole before anything of it
 * counts.
 *
 *     # rules: the first that fits decides; if none does, the kernel does
 *     deny   target=root client=@wheel
 *     limit  client=* rights=list,request lifetime=1h
 *     grant  client=backup target=postgres program=/usr/lib/postgresql/15/bin/postgres rights=checkpoint
 *     # of one user
 *     sessions 4096
 *
 * deny: no session. limit: what the kernel lets the client do, but these rights at most, and so long at most.
 * grant: these rights, whatever the kernel says.
 *
 * Names of users and groups are looked up when the file is read. */
#include "core/core-internal.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <string.h>

static const struct {
    const char *name;
    uint32_t rights;
} right_names[] = {
    {"list", PROTOCOL_MAY_LIST},
    {"request", PROTOCOL_MAY_REQUEST},
    {"install", PROTOCOL_MAY_INSTALL},
    {"close", PROTOCOL_MAY_CLOSE},
    {"checkpoint", PROTOCOL_MAY_CHECKPOINT},
    {"restore", PROTOCOL_MAY_RESTORE},
    {"read", PROTOCOL_MAY_READ},
    {"all", PROTOCOL_MAY_ALL},
};

bool rights_parse(const char *text, uint32_t *ret_rights)
{
    uint32_t rights = 0;
    for (;;) {
        size_t length = strcspn(text, ","), i = 0;
        while (i < COUNT_OF(right_names) &&
               (strlen(right_names[i].name) != length || memcmp(right_names[i].name, text, length) != 0))
            i++;
        if (i == COUNT_OF(right_names))
            return false;
        rights |= right_names[i].rights;
        if (!text[length])
            break;
        text += length + 1;
    }
    *ret_rights = rights;
    return true;
}

static bool parse_number(const char *text, uint64_t largest, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (!isdigit((unsigned char)text[0]) || *end || errno || number > largest)
        return false;
    *ret_number = number;
    return true;
}

/* "90s", "15min", "2h", "1d"; a bare number is seconds. */
static bool parse_lifetime(const char *text, uint64_t *ret_ns)
{
    static const struct {
        const char *name;
        uint64_t seconds;
    } units[] = {{"", 1}, {"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}};
    char digits[12] = "";
    size_t length = strspn(text, "0123456789");
    uint64_t number;
    if (length >= sizeof digits)
        return false;
    memcpy(digits, text, length);
    if (!parse_number(digits, 1000000000, &number) || number == 0)
        return false;
    for (size_t i = 0; i < COUNT_OF(units); i++) {
        if (strcmp(units[i].name, text + length) == 0) {
            *ret_ns = number * units[i].seconds * 1000000000U;
            return true;
        }
    }
    return false;
}

/* A user's name or number, @ and a group's, or *. */
static bool parse_who(const char *text, struct who *who)
{
    uint64_t number;
    if (strcmp(text, "*") == 0)
        return true;
    if (text[0] == '@') {
        const struct group *group = getgrnam(text + 1);
        if (!group && !parse_number(text + 1, UINT32_MAX - 1, &number))
            return false;
        who->group = group ? group->gr_gid : (gid_t)number;
        return true;
    }
    const struct passwd *user = getpwnam(text);
    if (!user && !parse_number(text, UINT32_MAX - 1, &number))
        return false;
    who->user = user ? user->pw_uid : (uid_t)number;
    return true;
}

static bool is_anybody(const struct who *who)
{
    return who->user == NOBODY && who->group == (gid_t)-1;
}

static bool read_rule_word(struct rule *rule, const char *name, const char *value)
{
    if (strcmp(name, "client") == 0)
        return parse_who(value, &rule->client);
    if (strcmp(name, "target") == 0)
        return parse_who(value, &rule->target);
    if (strcmp(name, "rights") == 0)
        return rights_parse(value, &rule->rights);
    if (strcmp(name, "lifetime") == 0)
        return parse_lifetime(value, &rule->lifetime_ns);
    if (strcmp(name, "program") == 0 && value[0] == '/') {
        free(rule->program);
        return (rule->program = strdup(value)) != NULL;
    }
    return false;
}

static int read_rule(struct configuration *configuration, enum rule_verdict verdict, char *words,
                     struct reseat_error **ret_error)
{
    struct rule *rule = array_append(configuration->rules, configuration->rule_count);
    char *position = NULL;
    if (!rule)
        return error_errno(ret_error, -ENOMEM, "keeping a rule");
    *rule = (struct rule){.verdict = verdict,
                          .client = {NOBODY, (gid_t)-1},
                          .target = {NOBODY, (gid_t)-1},
                          .rights = verdict == RULE_GRANT ? 0 : PROTOCOL_MAY_ALL};
    for (char *word = strtok_r(words, " \t", &position); word; word = strtok_r(NULL, " \t", &position)) {
        char *equals = strchr(word, '=');
        if (!equals)
            return error_set(ret_error, -EINVAL,
                             "%s: client=, target=, program=, rights= or lifetime= is "
                             "expected",
                             word);
        *equals = '\0';
        if (!read_rule_word(rule, word, equals + 1))
            return error_set(ret_error, -EINVAL, "%s=%s is not understood, or there is no such user or group",
                             word, equals + 1);
    }
    /* What is given away without asking the kernel must be said, not left out. */
    if (verdict == RULE_GRANT && (rule->rights == 0 || is_anybody(&rule->client)))
        return error_set(ret_error, -EINVAL, "grant needs rights= and a client=, which is not *");
    return 0;
}

static int read_number(const char *name, char *words, uint64_t *ret_number, struct reseat_error **ret_error)
{
    if (!parse_number(words, 1000000, ret_number) || *ret_number == 0)
        return error_set(ret_error, -EINVAL, "%s: a number from 1 to 1000000 is expected, not \"%s\"", name,
                         words);
    return 0;
}

static int read_line(struct configuration *configuration, char *line, struct reseat_error **ret_error)
{
    line[strcspn(line, "#")] = '\0';
    for (size_t length = strlen(line); length && isspace((unsigned char)line[length - 1]);)
        line[--length] = '\0';
    line += strspn(line, " \t");
    char *words = line + strcspn(line, " \t");
    if (*words)
        *words++ = '\0';
    words += strspn(words, " \t");
    if (!*line)
        return 0;
    if (strcmp(line, "deny") == 0)
        return read_rule(configuration, RULE_DENY, words, ret_error);
    if (strcmp(line, "limit") == 0)
        return read_rule(configuration, RULE_LIMIT, words, ret_error);
    if (strcmp(line, "grant") == 0)
        return read_rule(configuration, RULE_GRANT, words, ret_error);
    if (strcmp(line, "sessions") == 0)
        return read_number(line, words, &configuration->sessions, ret_error);
    if (strcmp(line, "connections") == 0)
        return read_number(line, words, &configuration->connections, ret_error);
    if (strcmp(line, "workers") == 0)
        return read_number(line, words, &configuration->workers, ret_error);
    return error_set(ret_error, -EINVAL,
                     "%s: deny, limit, grant, sessions, connections or workers is expected", line);
}

int configuration_read(const char *path, struct configuration *ret_configuration,
                       struct reseat_error **ret_error)
{
    _cleanup_(configuration_end) struct configuration configuration = {.sessions = 4096,
                                                                       .connections = 256,
                                                                       .workers = 16};
    _cleanup_free_ char *text = NULL;
    int r = path ? file_read(AT_FDCWD, path, &text, NULL) : 0;
    if (r < 0)
        return error_errno(ret_error, r, "%s", path);
    unsigned number = 0;
    for (char *line = text, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        number++;
        r = read_line(&configuration, line, ret_error);
        if (r < 0)
            return error_prefix(ret_error, r, "%s, line %u", path, number);
    }
    *ret_configuration = TAKE_GENERIC(configuration, (struct configuration){0});
    return 0;
}

void configuration_end(struct configuration *configuration)
{
    for (size_t i = 0; i < configuration->rule_count; i++)
        free(configuration->rules[i].program);
    free(configuration->rules);
    *configuration = (struct configuration){0};
}
