/* The object table: who is the same as whom. Capabilities are first marked with what never differs between
 * two of the same object (mount, inode, access mode, the number that some kinds have for themselves) and
 * sorted by that. What remains in one bucket, above all anonymous inodes, which all share one inode, is
 * sorted by the order that the kernel gives to objects, kcmp(2): n log n questions instead of n².
 *
 * The processes run on meanwhile, and what a selector holds may change between two questions. A sort that
 * compares entries with each other goes wrong for all of them if one changes. So every question is one
 * between an entry and a pivot that we hold ourselves, one at a time and only for the time of a pass through
 * its bucket: then an entry that changes can be wrong only about itself. A selector that turns out to be
 * closed drops out. */
#include "object/object.h"
#include "object/kinds.h"
#include "object/observe.h"
#include "native_pd/linux.h"

#include <errno.h>
#include <fcntl.h>

#define OBJECT_GONE ((object_id_t)-1)

static void entry_free(struct object_entry *entry)
{
    free(entry->name);
}

void object_table_free(struct object_table *table)
{
    for (size_t i = 0; i < table->count; i++)
        entry_free(&table->entries[i]);
    free(table->entries);
    unix_peers_free(&table->unix_peers);
    *table = (struct object_table){0};
}

/* ---- adding ---- */

/* FNV-1a: not the shortest way to tell names apart, but the shortest to write. A collision only costs
 * questions. */
static uint64_t hash_text(const char *text)
{
    uint64_t hash = 0xcbf29ce484222325;
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3;
    return hash;
}

struct object_mark object_mark_of(const struct object_sight *sight, const struct object_kind *kind)
{
    return (struct object_mark){
        .mount_id = sight->mount_id,
        .inode = sight->inode,
        /* A path changes when the file is renamed; the name of an anonymous inode never does. */
        .class = starts_with(sight->link, "anon_inode:") ? hash_text(sight->link) : 0,
        .number = kind->distinguish ? kind->distinguish(sight) : 0,
        .access = sight->flags & (O_ACCMODE | O_PATH),
    };
}

static int add_sight(struct object_table *table, const struct object_sight *sight)
{
    const struct object_kind *kind = object_kind_of(sight);
    _cleanup_free_ char *name = NULL;
    int r = kind->describe(sight, &name);
    if (r < 0)
        return r;
    struct object_entry *entry = array_append(table->entries, table->count);
    if (!entry)
        return -ENOMEM;
    *entry = (struct object_entry){
        .pd = sight->pd,
        .selector = sight->selector,
        .flags = sight->flags,
        .kind = kind,
        .name = TAKE_PTR(name),
        .mark = object_mark_of(sight, kind),
    };
    return 0;
}

static int add_selector(struct object_table *table, struct observer *observer, selector_t selector,
                        struct reseat_error **ret_error)
{
    _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
    int r = observer_see(observer, selector, &sight, ret_error);
    if (r <= 0)
        return r;
    r = add_sight(table, &sight);
    if (r < 0)
        return error_errno(ret_error, r, "listing process %d", native_pd_id(observer->pd));
    return 0;
}

int object_table_add(struct object_table *table, struct native_pd *pd, struct reseat_error **ret_error)
{
    _cleanup_(observer_close) struct observer observer = {.table_fd = -EBADF, .info_fd = -EBADF};
    int r = observer_open(&observer, table, pd, ret_error);
    selector_t selector = 0;
    while (r == 0) {
        r = native_pd_next(pd, selector, &selector, ret_error);
        if (r < 0 || selector == NATIVE_SELECTOR_END)
            break; /* the end is only reported of a process that lives, so nothing is missing */
        r = add_selector(table, &observer, selector++, ret_error);
    }
    return r;
}

/* ---- identifying ---- */

/* A list of entries that is being sorted. */
typedef struct object_entry *entry_ref;

int object_mark_compare(const struct object_mark *x, const struct object_mark *y)
{
#define COMPARE(field)                                                                                       \
    if (x->field != y->field)                                                                                \
        return x->field < y->field ? -1 : 1;
    COMPARE(inode)
    COMPARE(class)
    COMPARE(number)
    COMPARE(mount_id)
    COMPARE(access)
    COMPARE(address)
#undef COMPARE
    return 0;
}

static int compare_marks(const void *a, const void *b)
{
    return object_mark_compare(&(*(const entry_ref *)a)->mark, &(*(const entry_ref *)b)->mark);
}

static bool is_gone(const struct object_entry *entry)
{
    return entry->object == OBJECT_GONE;
}

/* What is needed to number the objects of one bucket after the other. */
struct numbering {
    struct native_pd *self;  /* our own capability space, where the pivots are */
    entry_ref *room;         /* as large as the largest bucket */
    object_id_t last_object; /* the highest number given */
};

/* Turns a failure about an entry into its being gone, where that is what it means. */
static int forgive(struct object_entry *entry, int r, struct reseat_error **ret_error)
{
    bool is_out_of_reach = r == -ESRCH || r == -EPERM || r == -EACCES;
    if (r != -EBADF && !(entry->is_bystander && is_out_of_reach))
        return r;
    if (ret_error)
        base_error_free(ret_error);
    entry->object = OBJECT_GONE;
    return 0;
}

/* Compares an entry with an object that we hold. The entry may be gone, which it is marked as; we are not. */
static int compare_with_pivot(struct numbering *numbering, struct object_entry *entry, native_cap_t pivot,
                              int *ret_order, struct reseat_error **ret_error)
{
    int r = native_pd_compare(entry->pd, entry->selector, numbering->self, (selector_t)pivot, ret_order,
                              ret_error);
    return forgive(entry, r, ret_error);
}

/* Gives its number to the object in the middle of the list and to all entries that hold it, and leaves the
 * others, those that are less in front of those that are greater. */
static int number_one_object(struct numbering *numbering, entry_ref *list, size_t count, size_t *ret_less,
                             size_t *ret_greater, struct reseat_error **ret_error)
{
    entry_ref first = list[count / 2];
    _cleanup_close_ native_cap_t pivot = NATIVE_CAP_INVALID;
    int r = forgive(first, native_pd_request(first->pd, first->selector, &pivot, NULL, ret_error), ret_error);
    if (r < 0)
        return r;
    first->object = pivot == NATIVE_CAP_INVALID ? OBJECT_GONE : ++numbering->last_object;
    size_t less = 0, greater = 0;
    for (size_t i = 0; i < count; i++) {
        int order = 1; /* without a pivot all others are left as they are */
        if (list[i] == first)
            continue;
        if (pivot != NATIVE_CAP_INVALID)
            r = compare_with_pivot(numbering, list[i], pivot, &order, ret_error);
        if (r < 0)
            return r;
        if (is_gone(list[i]))
            continue;
        if (order < 0)
            list[less++] = list[i];
        else if (order > 0)
            numbering->room[greater++] = list[i];
        else
            list[i]->object = first->object;
    }
    memcpy(list + less, numbering->room, greater * sizeof *list);
    *ret_less = less;
    *ret_greater = greater;
    return 0;
}

/* Quicksort, of which only the equal ones are of interest. The smaller part is left to the recursion, which
 * so cannot go deeper than log2 of the count. */
static int number_bucket(struct numbering *numbering, entry_ref *list, size_t count,
                         struct reseat_error **ret_error)
{
    while (count > 1) {
        size_t less, greater;
        int r = number_one_object(numbering, list, count, &less, &greater, ret_error);
        if (r < 0)
            return r;
        bool is_less_smaller = less < greater;
        r = is_less_smaller ? number_bucket(numbering, list, less, ret_error)
                            : number_bucket(numbering, list + less, greater, ret_error);
        if (r < 0)
            return r;
        list += is_less_smaller ? less : 0;
        count = is_less_smaller ? greater : less;
    }
    if (count == 1)
        list[0]->object = ++numbering->last_object;
    return 0;
}

static int number_buckets(entry_ref *list, entry_ref *room, size_t count, struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *self = NULL;
    int r = native_pd_open(getpid(), &self, ret_error);
    struct numbering numbering = {.self = self, .room = room};
    for (size_t start = 0, end; r == 0 && start < count; start = end) {
        for (end = start + 1; end < count && compare_marks(&list[start], &list[end]) == 0;)
            end++;
        r = number_bucket(&numbering, list + start, end - start, ret_error);
    }
    return r;
}

static void remove_gone(struct object_table *table)
{
    size_t kept = 0;
    for (size_t i = 0; i < table->count; i++) {
        if (is_gone(&table->entries[i]))
            entry_free(&table->entries[i]);
        else
            table->entries[kept++] = table->entries[i];
    }
    table->count = kept;
}

/* Objects were numbered as the buckets came; people get them in the order of appearance. */
static int number_by_appearance(struct object_table *table, size_t highest)
{
    _cleanup_free_ object_id_t *ids = calloc(highest + 1, sizeof *ids);
    if (!ids)
        return -ENOMEM;
    object_id_t last = 0;
    for (size_t i = 0; i < table->count; i++) {
        object_id_t *id = &ids[table->entries[i].object];
        if (*id == 0)
            *id = ++last;
        table->entries[i].object = *id;
    }
    return 0;
}

/* ---- by address ---- */

/* From so many on it pays to ask for all addresses at once, which takes a few milliseconds to set up. */
#define ADDRESSES_PAY 1000

/* Notes the addresses of the entries of one PD, which begin at `first`; returns where they end. */
static int note_addresses(struct object_table *table, size_t first, size_t *ret_end)
{
    struct native_pd *pd = table->entries[first].pd;
    _cleanup_free_ struct native_identity *identities = NULL;
    size_t count, next = 0, i;
    int r = native_pd_list_identities(pd, &identities, &count, NULL);
    if (r < 0)
        return r;
    for (i = first; i < table->count && table->entries[i].pd == pd; i++) {
        struct object_entry *entry = &table->entries[i];
        while (next < count && identities[next].selector < entry->selector)
            next++;
        bool is_there = next < count && identities[next].selector == entry->selector;
        entry->mark.address = is_there ? identities[next].object : 0;
    }
    *ret_end = i;
    return 0;
}

/* Then entries with the same mark are the same object, but for one that has ended and another that has taken
 * its address since: they are still compared by the kernel, each with one of them, and different ones never.
 */
static void mark_addresses(struct object_table *table)
{
    int r = table->count < ADDRESSES_PAY ? -EOPNOTSUPP : 0;
    for (size_t i = 0; r == 0 && i < table->count;)
        r = note_addresses(table, i, &i);
    for (size_t i = 0; r < 0 && i < table->count; i++)
        table->entries[i].mark.address = 0;
}

int object_table_identify(struct object_table *table, struct reseat_error **ret_error)
{
    size_t count = table->count;
    mark_addresses(table);
    _cleanup_free_ entry_ref *list = calloc(count + 1, sizeof *list), *room = calloc(count + 1, sizeof *room);
    if (!list || !room)
        return error_errno(ret_error, -ENOMEM, "comparing %zu capabilities", count);
    for (size_t i = 0; i < count; i++) {
        list[i] = &table->entries[i];
        list[i]->object = 0;
    }
    qsort(list, count, sizeof *list, compare_marks);
    int r = number_buckets(list, room, count, ret_error);
    if (r < 0)
        return r;
    remove_gone(table);
    r = number_by_appearance(table, count);
    if (r < 0)
        return error_errno(ret_error, r, "comparing %zu capabilities", count);
    return 0;
}
