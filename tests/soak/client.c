/* A client: does one random thing after the other through sessions of all targets, and knows what must come
 * of it, because nobody else uses its selectors. */
#include "soak.h"

#include "reseat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define REQUEST_MOST 400

struct client {
    struct board *board;
    unsigned index;
    const char *core;
    struct chance chance;
    struct reseat_pd *pds[TARGETS];
    /* What must be at its selectors. */
    uint64_t inodes[TARGETS][SLICE_LENGTH]; /* 0: unused */
    bool close_on_exec[TARGETS][SLICE_LENGTH];
};

static unsigned selector_of(const struct client *client, unsigned place)
{
    return SLICE_BEGIN + client->index * SLICE_LENGTH + place;
}

/* Complains unless the result is the one that it must be. */
static bool check(struct client *client, unsigned target, const char *what, int expected, int r,
                  struct reseat_error *error)
{
    if (r != expected)
        complain(client->board, "client %u, target %u: %s gave %d (%s) instead of %d", client->index, target,
                 what, r, error ? reseat_error_message(error) : "", expected);
    reseat_error_free(error);
    return r == expected;
}

static bool connect_to(struct client *client, unsigned target)
{
    struct reseat_error *error = NULL;
    struct reseat_pd *pd = NULL;
    int r = reseat_pd_connect(client->core, client->board->targets[target], &pd, &error);
    if (!check(client, target, "connect", 0, r, error))
        return false;
    reseat_pd_free(client->pds[target]);
    client->pds[target] = pd;
    return true;
}

/* ---- looking ---- */

/* Those of the selectors that are its own must be those in use. */
static void check_listed(struct client *client, unsigned target, const unsigned *selectors, size_t count)
{
    bool seen[SLICE_LENGTH] = {false};
    for (size_t i = 0; i < count; i++) {
        if (i > 0 && selectors[i] <= selectors[i - 1])
            complain(client->board, "client %u, target %u: the list does not ascend", client->index, target);
        unsigned place = selectors[i] - selector_of(client, 0);
        if (place < SLICE_LENGTH)
            seen[place] = true;
    }
    for (unsigned place = 0; place < SLICE_LENGTH; place++)
        if (seen[place] != (client->inodes[target][place] != 0))
            complain(client->board, "client %u, target %u: selector %u is %s", client->index, target,
                     selector_of(client, place), seen[place] ? "listed, and unused" : "used, and not listed");
}

static void do_list(struct client *client, unsigned target)
{
    unsigned selectors[1024], next;
    size_t count = 0;
    struct reseat_error *error = NULL;
    int r = reseat_pd_list(client->pds[target], 0, selectors, 1024, &count, &next, &error);
    if (check(client, target, "list", 0, r, error))
        check_listed(client, target, selectors, count);
}

static void do_request(struct client *client, unsigned target)
{
    unsigned place = chance_below(&client->chance, SLICE_LENGTH), next;
    int cap = -1;
    struct reseat_error *error = NULL;
    int r = reseat_pd_request(client->pds[target], selector_of(client, place), &cap, &next, &error);
    if (!check(client, target, "request", 0, r, error))
        return;
    uint64_t inode = cap < 0 ? 0 : inode_of(cap);
    if (inode != client->inodes[target][place])
        complain(client->board, "client %u, target %u: selector %u holds inode %llu, not %llu", client->index,
                 target, selector_of(client, place), (unsigned long long)inode,
                 (unsigned long long)client->inodes[target][place]);
    if (cap >= 0)
        close(cap);
}

/* The flag of the slot, as procfs shows it. */
static void check_close_on_exec(struct client *client, unsigned target, unsigned place)
{
    char path[64], line[64];
    unsigned flags = 0;
    snprintf(path, sizeof path, "/proc/%d/fdinfo/%u", client->board->targets[target],
             selector_of(client, place));
    FILE *info = fopen(path, "re");
    while (info && fgets(line, sizeof line, info) && sscanf(line, "flags: %o", &flags) != 1)
        ;
    if (!info || !!(flags & O_CLOEXEC) != client->close_on_exec[target][place])
        complain(client->board, "client %u, target %u: close-on-exec of selector %u is wrong", client->index,
                 target, selector_of(client, place));
    if (info)
        fclose(info);
}

static void do_request_many(struct client *client, unsigned target)
{
    static struct reseat_pd_slot slots[REQUEST_MOST];
    unsigned selectors[REQUEST_MOST], next,
        from = chance_below(&client->chance, 2) ? 0 : selector_of(client, 0);
    size_t count = 0;
    struct reseat_error *error = NULL;
    int r = reseat_pd_request_many(client->pds[target], from, slots, REQUEST_MOST, &count, &next, &error);
    if (!check(client, target, "request of many", 0, r, error))
        return;
    for (size_t i = 0; i < count; i++) {
        selectors[i] = slots[i].selector;
        unsigned place = slots[i].selector - selector_of(client, 0);
        if (place < SLICE_LENGTH && inode_of(slots[i].cap) != client->inodes[target][place])
            complain(client->board, "client %u, target %u: selector %u is not what was put there",
                     client->index, target, slots[i].selector);
        if (place < SLICE_LENGTH)
            check_close_on_exec(client, target, place);
        close(slots[i].cap);
    }
    check_listed(client, target, selectors, count);
}

static void do_compare(struct client *client, unsigned target)
{
    unsigned other = chance_below(&client->chance, TARGETS);
    unsigned a = chance_below(&client->chance, SLICE_LENGTH), b = chance_below(&client->chance, SLICE_LENGTH);
    uint64_t x = client->inodes[target][a], y = client->inodes[other][b];
    int order = 7;
    struct reseat_error *error = NULL;
    int r = reseat_pd_compare(client->pds[target], selector_of(client, a), client->pds[other],
                              selector_of(client, b), &order, &error);
    if (check(client, target, "compare", x && y ? 0 : -EBADF, r, error) && r == 0 && (order == 0) != (x == y))
        complain(client->board, "client %u: compare says %d of inodes %llu and %llu", client->index, order,
                 (unsigned long long)x, (unsigned long long)y);
}

/* ---- changing ---- */

/* A new object, or one that is at some selector already. */
static int some_object(struct client *client, uint64_t *ret_inode)
{
    unsigned target = chance_below(&client->chance, TARGETS),
             place = chance_below(&client->chance, SLICE_LENGTH);
    int cap = -1;
    if (chance_below(&client->chance, 3) == 0 && client->inodes[target][place] &&
        reseat_pd_request(client->pds[target], selector_of(client, place), &cap, NULL, NULL) == 0 &&
        cap >= 0) {
        *ret_inode = inode_of(cap);
        return cap;
    }
    return make_object("client", ret_inode);
}

/* One to four at once; all of them or none. */
static void do_install(struct client *client, unsigned target)
{
    struct reseat_pd_slot slots[4];
    uint64_t inodes[4];
    size_t count = 1 + (chance_below(&client->chance, 3) == 0 ? chance_below(&client->chance, 4) : 0);
    unsigned first = chance_below(&client->chance, SLICE_LENGTH - 4);
    bool replaces = chance_below(&client->chance, 3) == 0, is_occupied = false;
    struct reseat_error *error = NULL;
    for (size_t i = 0; i < count; i++) {
        slots[i] = (struct reseat_pd_slot){.selector = selector_of(client, first + (unsigned)i),
                                           .cap = some_object(client, &inodes[i]),
                                           .flags = (chance_below(&client->chance, 2) ? RESEAT_CLOEXEC : 0) |
                                                    (replaces ? RESEAT_REPLACE : 0)};
        is_occupied |= client->inodes[target][first + i] != 0;
    }
    int r = reseat_pd_install_many(client->pds[target], slots, count, &error);
    check(client, target, "install", is_occupied && !replaces ? -EEXIST : 0, r, error);
    for (size_t i = 0; i < count; i++) {
        if (r == 0) {
            client->inodes[target][first + i] = inodes[i];
            client->close_on_exec[target][first + i] = slots[i].flags & RESEAT_CLOEXEC;
        }
        close(slots[i].cap);
    }
}

static void do_close(struct client *client, unsigned target)
{
    unsigned selectors[4], first = chance_below(&client->chance, SLICE_LENGTH - 4);
    size_t count = 1 + (chance_below(&client->chance, 3) == 0 ? chance_below(&client->chance, 4) : 0);
    bool all_used = true;
    struct reseat_error *error = NULL;
    for (size_t i = 0; i < count; i++) {
        selectors[i] = selector_of(client, first + (unsigned)i);
        all_used &= client->inodes[target][first + i] != 0;
    }
    int r = reseat_pd_close_many(client->pds[target], selectors, count, &error);
    check(client, target, "close", all_used ? 0 : -EBADF, r, error);
    for (size_t i = 0; i < count && r == 0; i++)
        client->inodes[target][first + i] = 0;
}

/* ---- sessions ---- */

static void do_narrow(struct client *client, unsigned target)
{
    const struct reseat_pd_range range = {selector_of(client, 0), selector_of(client, SLICE_LENGTH - 1)};
    const struct reseat_pd_limits limits = {.rights = RESEAT_MAY_LIST | RESEAT_MAY_CLOSE,
                                            .lifetime_ns = 60000000000U,
                                            .ranges = &range,
                                            .range_count = 1};
    struct reseat_pd *narrowed = NULL;
    struct reseat_error *error = NULL;
    int r = reseat_pd_narrow(client->pds[target], &limits, &narrowed, &error);
    if (!check(client, target, "narrow", 0, r, error))
        return;
    unsigned selectors[SLICE_LENGTH + 1], next;
    size_t count = 0;
    int cap;
    error = NULL;
    r = reseat_pd_list(narrowed, 0, selectors, SLICE_LENGTH + 1, &count, &next, &error);
    if (check(client, target, "list of a narrowed session", 0, r, error)) {
        check_listed(client, target, selectors, count);
        if (count && (selectors[0] < range.first || selectors[count - 1] > range.last))
            complain(client->board, "client %u: a narrowed session lists others", client->index);
    }
    check(client, target, "request without the right", -EPERM,
          reseat_pd_request(narrowed, range.first, &cap, NULL, NULL), NULL);
    check(client, target, "close outside", -EPERM, reseat_pd_close(narrowed, 1, NULL), NULL);
    reseat_pd_free(narrowed);
}

/* As somebody who was handed the session. */
static void do_adopt(struct client *client, unsigned target)
{
    int copy = fcntl(reseat_pd_session(client->pds[target]), F_DUPFD_CLOEXEC, 0);
    struct reseat_pd *pd = NULL;
    struct reseat_error *error = NULL;
    int r = reseat_pd_adopt(copy, &pd, &error);
    if (!check(client, target, "adopt", 0, r, error)) {
        close(copy);
        return;
    }
    if (reseat_pd_pid(pd) != client->board->targets[target])
        complain(client->board, "client %u: the session handed on is of %d", client->index,
                 reseat_pd_pid(pd));
    reseat_pd_free(client->pds[target]);
    client->pds[target] = pd;
}

static void do_reconnect(struct client *client, unsigned target)
{
    connect_to(client, target);
}

/* ---- all of it ---- */

static const struct {
    void (*run)(struct client *client, unsigned target);
    unsigned weight;
} things[] = {{do_list, 8},   {do_request, 20}, {do_request_many, 4}, {do_compare, 15}, {do_install, 25},
              {do_close, 18}, {do_narrow, 4},   {do_adopt, 3},        {do_reconnect, 3}};

static void do_something(struct client *client)
{
    unsigned target = chance_below(&client->chance, TARGETS), choice = chance_below(&client->chance, 100);
    size_t i = 0;
    while (choice >= things[i].weight)
        choice -= things[i++].weight;
    things[i].run(client, target);
    atomic_fetch_add(&client->board->operations, 1);
}

static void clear(struct client *client)
{
    for (unsigned target = 0; target < TARGETS; target++) {
        do_list(client, target);
        for (unsigned place = 0; place < SLICE_LENGTH; place++) {
            struct reseat_error *error = NULL;
            if (!client->inodes[target][place])
                continue;
            int r = reseat_pd_close(client->pds[target], selector_of(client, place), &error);
            check(client, target, "closing at the end", 0, r, error);
        }
        reseat_pd_free(client->pds[target]);
    }
}

int client_run(struct board *board, unsigned index, const char *core, unsigned long operations, uint64_t seed)
{
    struct client client = {.board = board, .index = index, .core = core, .chance = {.state = seed}};
    for (unsigned target = 0; target < TARGETS; target++)
        if (!connect_to(&client, target))
            return 1;
    for (unsigned long i = 0; i < operations; i++)
        do_something(&client);
    clear(&client);
    return 0;
}
