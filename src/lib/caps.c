/* The listing of capability spaces, for people and programs: reseat_list_capabilities(),
 * reseat_list_sharing(). The work is done by
 * the object table (object/object.h); here its entries become the rows of the public interface, each with the
 * texts that it points to. */
#include "reseat.h"

#include "object/object.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

/* Room for all words of print_flags(). */
#define FLAGS_TEXT_BYTES 64

struct row_text {
    char object[16];
    char flags[FLAGS_TEXT_BYTES];
    char *name;
};

/* What a listing is inside: its rows point to texts of the same number. */
struct listing {
    struct reseat_listing public; /* first, so that a pointer to it is a pointer to the whole */
    struct row_text *texts;
    struct object_holders found;
    struct reseat_holder *holders; /* of all rows, one after the other; their names stand in `found` */
};

/* ---- one row ---- */

static const char *access_text(unsigned flags)
{
    if (flags & O_PATH)
        return "-";
    switch (flags & O_ACCMODE) {
    case O_RDONLY:
        return "r";
    case O_WRONLY:
        return "w";
    case O_RDWR:
        return "rw";
    default: /* 3: for ioctl(2) alone, see open(2) */
        return "-";
    }
}

static void print_flags(unsigned flags, char text[static FLAGS_TEXT_BYTES])
{
    static const struct {
        unsigned mask;
        const char *word;
    } words[] = {
        {O_APPEND, "append"}, {O_NONBLOCK, "nonblock"}, {O_ASYNC, "async"},     {O_DIRECT, "direct"},
        {O_SYNC, "sync"},     {O_DSYNC, "dsync"},       {O_NOATIME, "noatime"},
    };
    size_t length = 0;
    text[0] = '\0';
    for (size_t i = 0; i < COUNT_OF(words); i++) {
        bool is_covered = words[i].mask == O_DSYNC && (flags & O_SYNC) == O_SYNC; /* O_SYNC has its bit too */
        if ((flags & words[i].mask) == words[i].mask && !is_covered)
            length += (size_t)snprintf(text + length, FLAGS_TEXT_BYTES - length, "%s%s", length ? " " : "",
                                       words[i].word);
    }
}

static void fill_row(struct reseat_capability *row, struct row_text *text, struct object_entry *entry)
{
    snprintf(text->object, sizeof text->object, "o%u", entry->object);
    print_flags(entry->flags, text->flags);
    text->name = TAKE_PTR(entry->name);
    *row = (struct reseat_capability){
        .pid = native_pd_id(entry->pd),
        .selector = entry->selector,
        .kind = entry->kind->name,
        .object = text->object,
        .access = access_text(entry->flags),
        .cloexec = (entry->flags & O_CLOEXEC) != 0,
        .flags = text->flags,
        .name = text->name,
    };
}

/* ---- the listing ---- */

void reseat_listing_free(struct reseat_listing *public)
{
    struct listing *listing = (struct listing *)public;
    if (!listing)
        return;
    for (size_t i = 0; i < listing->public.count; i++)
        free(listing->texts[i].name);
    free(listing->texts);
    free(listing->holders);
    object_holders_free(&listing->found);
    free(listing->public.capabilities);
    free(listing);
}

/* Takes the names out of the table. */
static struct listing *listing_of(struct object_table *table)
{
    struct listing *listing = calloc(1, sizeof *listing);
    if (!listing)
        return NULL;
    listing->public.capabilities = calloc(table->count + 1, sizeof *listing->public.capabilities);
    listing->texts = calloc(table->count + 1, sizeof *listing->texts);
    if (!listing->public.capabilities || !listing->texts) {
        reseat_listing_free(&listing->public);
        return NULL;
    }
    for (size_t i = 0; i < table->count; i++)
        fill_row(&listing->public.capabilities[i], &listing->texts[i], &table->entries[i]);
    listing->public.count = table->count;
    return listing;
}

/* ---- the processes ---- */

struct pd_list {
    struct native_pd **items;
    size_t count;
};

static void pd_list_free(struct pd_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        native_pd_free(&list->items[i]);
    free(list->items);
}

/* All are opened before any is looked at: one that is not ours is found out at once. */
static int open_all(const pid_t *pids, size_t count, struct pd_list *list, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < count; i++) {
        struct native_pd **pd = array_append(list->items, list->count);
        if (!pd)
            return error_errno(ret_error, -ENOMEM, "listing %zu processes", count);
        int r = native_pd_open(pids[i], pd, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Gives each row its holders, which `found` has in the order of the rows. */
static int add_holders(struct listing *listing, struct object_holders *found)
{
    listing->found = *found;
    *found = (struct object_holders){0};
    listing->public.unseen = listing->found.unseen;
    listing->holders = calloc(listing->found.count + 1, sizeof *listing->holders);
    if (!listing->holders)
        return -ENOMEM;
    for (size_t i = 0; i < listing->found.count; i++) {
        const struct object_holder *holder = &listing->found.items[i];
        struct reseat_capability *row = &listing->public.capabilities[holder->entry];
        listing->holders[i] = (struct reseat_holder){holder->pid, holder->selector, holder->command};
        const struct reseat_holder **first = holder->is_other_end ? &row->other_ends : &row->holders;
        size_t *count = holder->is_other_end ? &row->other_end_count : &row->holder_count;
        if (!(*count)++)
            *first = &listing->holders[i];
    }
    return 0;
}

static int list(const pid_t *pids, size_t count, bool with_holders, struct reseat_listing **ret_listing,
                struct reseat_error **ret_error)
{
    _cleanup_(pd_list_free) struct pd_list pds = {0};
    _cleanup_(object_table_free) struct object_table table = {0};
    _cleanup_(object_holders_free) struct object_holders holders = {0};
    int r = open_all(pids, count, &pds, ret_error);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = object_table_add(&table, pds.items[i], ret_error);
    if (r == 0)
        r = object_table_identify(&table, ret_error);
    if (r == 0 && with_holders)
        r = object_find_holders(&table, &holders, ret_error);
    if (r < 0)
        return r;
    struct listing *listing = listing_of(&table);
    if (listing && add_holders(listing, &holders) < 0) {
        reseat_listing_free(&listing->public);
        listing = NULL;
    }
    if (!listing)
        return error_errno(ret_error, -ENOMEM, "listing %zu capabilities", table.count);
    *ret_listing = &listing->public;
    return 0;
}

int reseat_list_capabilities(const pid_t *pids, size_t count, struct reseat_listing **ret_listing,
                             struct reseat_error **ret_error)
{
    return list(pids, count, false, ret_listing, ret_error);
}

int reseat_list_sharing(const pid_t *pids, size_t count, struct reseat_listing **ret_listing,
                        struct reseat_error **ret_error)
{
    return list(pids, count, true, ret_listing, ret_error);
}
