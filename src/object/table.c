/* The object table: who is the same as whom. Capabilities are first marked with what never differs between
 * two of the same object (mount, inode, access mode, the number that some kinds have for themselves) and
 * sorted by that. What remains in one bucket, above all anonymous inodes, which all share one inode, is
 * sorted by the order that the kernel gives to objects, kcmp(2): n log n questions instead of n².
 *
 * The processes run on meanwhile. A selector that turns out to be closed drops out. One that is closed and
 * used again between two questions can put that entry, and no other, with the wrong object. */
#include "object/object.h"
#include "object/kinds.h"
#include "object/observe.h"

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

static struct object_mark mark_of(const struct object_sight *sight, const struct object_kind *kind)
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
        .mark = mark_of(sight, kind),
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
        return error_errno(ret_error, r, "listing process %d", native_pd_pid(observer->pd));
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

static int compare_marks(const void *a, const void *b)
{
    const struct object_mark *x = &(*(const entry_ref *)a)->mark, *y = &(*(const entry_ref *)b)->mark;
#define COMPARE(field)                                                                                       \
    if (x->field != y->field)                                                                                \
        return x->field < y->field ? -1 : 1;
    COMPARE(inode)
    COMPARE(class)
    COMPARE(number)
    COMPARE(mount_id)
    COMPARE(access)
#undef COMPARE
    return 0;
}

static bool is_gone(const struct object_entry *entry)
{
    return entry->object == OBJECT_GONE;
}

/* Finds out by comparing the entry with itself. */
static int notice_if_gone(struct object_entry *entry, struct reseat_error **ret_error)
{
    int order,
        r = native_pd_compare(entry->pd, entry->selector, entry->pd, entry->selector, &order, ret_error);
    if (r != -EBADF)
        return r;
    if (ret_error)
        base_error_free(ret_error);
    entry->object = OBJECT_GONE;
    return 0;
}

/* The kernel's order. If one of the two turns out to be gone, it is marked as such and the order means
 * nothing. */
static int compare_objects(struct object_entry *a, struct object_entry *b, int *ret_order,
                           struct reseat_error **ret_error)
{
    int r = native_pd_compare(a->pd, a->selector, b->pd, b->selector, ret_order, ret_error);
    if (r != -EBADF)
        return r;
    if (ret_error)
        base_error_free(ret_error);
    *ret_order = 0;
    r = notice_if_gone(a, ret_error);
    return r < 0 ? r : notice_if_gone(b, ret_error);
}

/* Merges two sorted runs. Entries that are gone are put out as they come up, so that the order among the
 * others holds, whatever disappears and when. */
static int merge(entry_ref *a, size_t a_count, entry_ref *b, size_t b_count, entry_ref *out,
                 struct reseat_error **ret_error)
{
    while (a_count > 0 && b_count > 0) {
        int order = 0, r = 0;
        if (is_gone(*a))
            order = -1;
        else if (is_gone(*b))
            order = 1;
        else
            r = compare_objects(*a, *b, &order, ret_error);
        if (r < 0)
            return r;
        if (order <= 0) {
            *out++ = *a++;
            a_count--;
        } else {
            *out++ = *b++;
            b_count--;
        }
    }
    memcpy(out, a_count ? a : b, (a_count + b_count) * sizeof *out);
    return 0;
}

/* Merge sort, because it asks the fewest questions, and one that may go wrong, which qsort() has no word for.
 * Leaves the result in `list`; `room` has as many places. */
static int sort_bucket(entry_ref *list, entry_ref *room, size_t count, struct reseat_error **ret_error)
{
    for (size_t run = 1; run < count; run *= 2) {
        for (size_t start = 0; start < count; start += 2 * run) {
            size_t a_count = count - start < run ? count - start : run;
            size_t rest = count - start - a_count, b_count = rest < run ? rest : run;
            int r = merge(list + start, a_count, list + start + a_count, b_count, room + start, ret_error);
            if (r < 0)
                return r;
        }
        memcpy(list, room, count * sizeof *list);
    }
    return 0;
}

/* Whether the entry at `index` of a sorted bucket is the same object as the one before it, or, as far as
 * those are gone, the ones before that. */
static int is_same_as_before(entry_ref *list, size_t index, bool *ret_same, struct reseat_error **ret_error)
{
    *ret_same = false;
    for (size_t before = index; before-- > 0 && !is_gone(list[index]);) {
        int order = 0, r = 0;
        if (!is_gone(list[before]))
            r = compare_objects(list[before], list[index], &order, ret_error);
        if (r < 0)
            return r;
        if (is_gone(list[before]))
            continue;
        *ret_same = order == 0;
        return 0;
    }
    return 0;
}

/* Numbers the objects of a bucket, from *group on. */
static int number_bucket(entry_ref *list, entry_ref *room, size_t count, object_id_t *group,
                         struct reseat_error **ret_error)
{
    int r = sort_bucket(list, room, count, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < count; i++) {
        bool is_same;
        r = is_same_as_before(list, i, &is_same, ret_error);
        if (r < 0)
            return r;
        if (is_gone(list[i]))
            continue;
        if (!is_same)
            (*group)++;
        list[i]->object = *group;
    }
    return 0;
}

static int number_groups(entry_ref *list, entry_ref *room, size_t count, struct reseat_error **ret_error)
{
    object_id_t group = 0;
    for (size_t start = 0, end; start < count; start = end) {
        for (end = start + 1; end < count && compare_marks(&list[start], &list[end]) == 0;)
            end++;
        int r = number_bucket(list + start, room, end - start, &group, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
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

/* Group numbers are in the kernel's order; people get them in the order of appearance. */
static int number_by_appearance(struct object_table *table)
{
    _cleanup_free_ object_id_t *ids = calloc(table->count + 1, sizeof *ids); /* groups count from 1 */
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

int object_table_identify(struct object_table *table, struct reseat_error **ret_error)
{
    size_t count = table->count;
    _cleanup_free_ entry_ref *list = calloc(count + 1, sizeof *list), *room = calloc(count + 1, sizeof *room);
    if (!list || !room)
        return error_errno(ret_error, -ENOMEM, "comparing %zu capabilities", count);
    for (size_t i = 0; i < count; i++) {
        list[i] = &table->entries[i];
        list[i]->object = 0;
    }
    qsort(list, count, sizeof *list, compare_marks);
    int r = number_groups(list, room, count, ret_error);
    if (r < 0)
        return r;
    remove_gone(table);
    r = number_by_appearance(table);
    if (r < 0)
        return error_errno(ret_error, r, "comparing %zu capabilities", count);
    return 0;
}
