/* Who else on the machine holds the objects of a table, and who holds their other ends: a walk over all
 * processes that we may look at, which stops and changes nothing.
 *
 * Cheap first: of every selector only the info text is read (mount and inode, /proc/PID/fdinfo/SEL since
 * Linux 5.14); what has the place of a listed object, or of the other end of one, is looked at like a listed
 * one; and of these the kernel is asked which are the same, by the object table itself. That is done for some
 * hundred processes at a time, because each that is compared takes two descriptors of ours.
 *
 * What holds an object without a selector is not found: messages on their way through a socket, memory
 * mappings, rings with registered files, threads with a table of their own. */
#include "object/kinds.h"
#include "object/observe.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#define KERNEL_THREAD_FLAG 0x00200000U /* PF_KTHREAD, include/linux/sched.h */
#define BATCH_PROCESSES    100
#define SPARE_DESCRIPTORS  16 /* for looking, and for pivots of the comparison */
#define NO_ORIGIN          ((size_t)-1)

struct place {
    uint64_t mount_id, inode;
};

/* Which end an entry of the listed table, or of the batch, is. */
struct entry_end {
    size_t entry;
    struct object_end end;
};

struct search {
    const struct object_table *listed;
    struct object_table looking; /* without entries: what sights are looked up in */
    struct place *places;        /* where listed objects and their other ends are; sorted */
    size_t place_count;
    struct entry_end *ends; /* of the listed entries, sorted by key */
    size_t end_count;
    const char *links[2]; /* how the links of other ends begin whose place is not known */

    struct native_pd **pds; /* of this batch */
    size_t pd_count, pd_limit;
    struct object_table candidates;
    struct object_holders *found;
};

void object_holders_free(struct object_holders *holders)
{
    free(holders->items);
    *holders = (struct object_holders){0};
}

static void search_drop_batch(struct search *search)
{
    for (size_t i = 0; i < search->pd_count; i++)
        native_pd_free(&search->pds[i]);
    free(TAKE_PTR(search->pds));
    search->pd_count = 0;
    object_table_free(&search->candidates);
}

static void search_end(struct search *search)
{
    search_drop_batch(search);
    object_table_free(&search->looking);
    free(search->places);
    free(search->ends);
}

/* ---- what is looked for ---- */

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    if (x->inode != y->inode)
        return x->inode < y->inode ? -1 : 1;
    return (x->mount_id > y->mount_id) - (x->mount_id < y->mount_id);
}

static int compare_ends(const void *a, const void *b)
{
    const struct entry_end *x = a, *y = b;
    return strcmp(x->end.key, y->end.key);
}

static int add_place(struct search *search, uint64_t mount_id, uint64_t inode)
{
    struct place *place = array_append(search->places, search->place_count);
    if (!place)
        return -ENOMEM;
    *place = (struct place){mount_id, inode};
    return 0;
}

static void add_link(struct search *search, const char *link)
{
    size_t i = 0;
    while (i < COUNT_OF(search->links) && search->links[i] && strcmp(search->links[i], link) != 0)
        i++;
    if (i < COUNT_OF(search->links))
        search->links[i] = link;
}

/* The end of a listed entry is looked for once more, now that it is known that somebody asks. */
static int add_listed(struct search *search, size_t index, struct observer *observer)
{
    const struct object_entry *entry = &search->listed->entries[index];
    int r = add_place(search, entry->mark.mount_id, entry->mark.inode);
    if (r < 0 || !entry->kind->find_end)
        return r;
    _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
    if (observer_see(observer, entry->selector, &sight, NULL) <= 0 || object_kind_of(&sight) != entry->kind)
        return 0; /* closed, or another object, meanwhile */
    struct object_end end = {0};
    entry->kind->find_end(&sight, &end);
    if (!*end.key)
        return 0;
    struct entry_end *row = array_append(search->ends, search->end_count);
    if (!row)
        return -ENOMEM;
    *row = (struct entry_end){.entry = index, .end = end};
    if (!end.other_inode)
        add_link(search, end.other_link);
    return end.other_inode ? add_place(search, sight.mount_id, end.other_inode) : 0;
}

static int prepare(struct search *search, struct reseat_error **ret_error)
{
    _cleanup_(observer_close) struct observer observer = {.table_fd = -EBADF, .info_fd = -EBADF};
    int r = 0;
    for (size_t i = 0; r == 0 && i < search->listed->count; i++) {
        if (observer.pd != search->listed->entries[i].pd) {
            observer_close(&observer);
            r = observer_open(&observer, &search->looking, search->listed->entries[i].pd, ret_error);
            if (r < 0)
                return r;
        }
        r = add_listed(search, i, &observer);
    }
    if (r < 0)
        return error_errno(ret_error, r, "looking for other holders");
    if (search->place_count)
        qsort(search->places, search->place_count, sizeof *search->places, compare_places);
    if (search->end_count)
        qsort(search->ends, search->end_count, sizeof *search->ends, compare_ends);
    return 0;
}

/* ---- what is found ---- */

static int add_holder(struct search *search, size_t index, bool is_other_end,
                      const struct object_entry *candidate)
{
    struct object_holder *holder = array_append(search->found->items, search->found->count);
    if (!holder)
        return -ENOMEM;
    *holder = (struct object_holder){.entry = index,
                                     .is_other_end = is_other_end,
                                     .pid = native_pd_id(candidate->pd),
                                     .selector = candidate->selector};
    const struct object_holder *previous = search->found->count > 1 ? holder - 1 : NULL;
    struct proc_stat stat;
    if (previous && previous->pid == holder->pid)
        memcpy(holder->command, previous->command, sizeof holder->command);
    else if (proc_stat_of(holder->pid, &stat) == 0)
        snprintf(holder->command, sizeof holder->command, "%s", stat.comm);
    return 0;
}

static int add_other_ends(struct search *search, const struct object_end *end,
                          const struct object_entry *candidate)
{
    struct entry_end key = {.end = *end};
    const struct entry_end *row =
        search->end_count ? bsearch(&key, search->ends, search->end_count, sizeof key, compare_ends) : NULL;
    if (!row)
        return 0;
    while (row > search->ends && compare_ends(row - 1, &key) == 0)
        row--;
    unsigned wanted = ((end->side & 1) << 1) | (end->side >> 1);
    for (int r = 0; row < search->ends + search->end_count && compare_ends(row, &key) == 0; row++) {
        bool is_itself = search->listed->entries[row->entry].selector == candidate->selector &&
                         native_pd_id(search->listed->entries[row->entry].pd) == native_pd_id(candidate->pd);
        if ((row->end.side & wanted) && !is_itself)
            r = add_holder(search, row->entry, true, candidate);
        if (r < 0)
            return r;
    }
    return 0;
}

static int compare_entry_marks(const void *a, const void *b)
{
    return object_mark_compare(&((const struct object_entry *)a)->mark,
                               &((const struct object_entry *)b)->mark);
}

/* One listed entry of every object that may be the same as a candidate, and all candidates. */
static int fill_comparison(struct search *search, struct object_table *both)
{
    struct object_table *candidates = &search->candidates;
    qsort(candidates->entries, candidates->count, sizeof *candidates->entries, compare_entry_marks);
    object_id_t last =
        0; /* ids are given by appearance: the first entry of an object has a new highest one */
    for (size_t i = 0; i < search->listed->count; i++) {
        const struct object_entry *entry = &search->listed->entries[i];
        if (entry->object <= last)
            continue;
        last = entry->object;
        if (!bsearch(entry, candidates->entries, candidates->count, sizeof *entry, compare_entry_marks))
            continue;
        struct object_entry *copy = array_append(both->entries, both->count);
        if (!copy)
            return -ENOMEM;
        *copy = *entry;
        copy->name = NULL;
        copy->origin = i;
    }
    for (size_t i = 0; both->count && i < candidates->count; i++) {
        struct object_entry *copy = array_append(both->entries, both->count);
        if (!copy)
            return -ENOMEM;
        *copy = candidates->entries[i];
    }
    return 0;
}

/* Writes down who holds the listed object `object`: a candidate, for every entry of another process. */
static int add_sharer(struct search *search, object_id_t object, const struct object_entry *candidate)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < search->listed->count; i++) {
        const struct object_entry *entry = &search->listed->entries[i];
        if (entry->object == object && native_pd_id(entry->pd) != native_pd_id(candidate->pd))
            r = add_holder(search, i, false, candidate);
    }
    return r;
}

/* Asks the kernel which candidates of the batch are listed objects. */
static int judge_batch(struct search *search, struct reseat_error **ret_error)
{
    _cleanup_(object_table_free) struct object_table both = {0};
    if (!search->candidates.count)
        return 0;
    int r = fill_comparison(search, &both);
    if (r < 0)
        return error_errno(ret_error, r, "looking for other holders");
    r = object_table_identify(&both, ret_error);
    if (r < 0)
        return r;
    _cleanup_free_ object_id_t *listed = calloc(both.count + 1, sizeof *listed);
    r = listed ? 0 : -ENOMEM;
    for (size_t i = 0; r == 0 && i < both.count; i++) { /* the listed ones stand first */
        const struct object_entry *entry = &both.entries[i];
        if (!entry->is_bystander)
            listed[entry->object] = search->listed->entries[entry->origin].object;
        else if (listed[entry->object])
            r = add_sharer(search, listed[entry->object], entry);
    }
    return r < 0 ? error_errno(ret_error, r, "looking for other holders") : 0;
}

/* ---- the walk ---- */

static bool is_candidate(const struct search *search, const struct object_sight *peek,
                         const struct observer *observer)
{
    struct place place = {peek->mount_id, peek->inode};
    if (search->place_count &&
        bsearch(&place, search->places, search->place_count, sizeof place, compare_places))
        return true;
    if (!search->links[0])
        return false;
    char name[16], link[16] = "";
    snprintf(name, sizeof name, "%u", peek->selector);
    if (readlinkat(observer->table_fd, name, link, sizeof link - 1) < 0)
        return false;
    for (size_t i = 0; i < COUNT_OF(search->links) && search->links[i]; i++)
        if (starts_with(link, search->links[i]))
            return true;
    return false;
}

/* 0, also for what cannot be looked at. */
static int look_at_selector(struct search *search, struct observer *observer, selector_t selector)
{
    struct object_sight peek;
    int r = observer_peek(observer, selector, &peek);
    if (r <= 0)
        return r;
    if (!is_candidate(search, &peek, observer))
        return 0;
    _cleanup_(object_sight_end) struct object_sight sight = {.cap = NATIVE_CAP_INVALID};
    if (observer_see(observer, selector, &sight, NULL) <= 0)
        return 0;
    struct object_entry *candidate = array_append(search->candidates.entries, search->candidates.count);
    if (!candidate)
        return -ENOMEM;
    const struct object_kind *kind = object_kind_of(&sight);
    *candidate = (struct object_entry){.pd = sight.pd,
                                       .selector = selector,
                                       .flags = sight.flags,
                                       .kind = kind,
                                       .mark = object_mark_of(&sight, kind),
                                       .origin = NO_ORIGIN,
                                       .is_bystander = true};
    struct object_end end = {0};
    if (kind->find_end && search->end_count)
        kind->find_end(&sight, &end);
    return *end.key ? add_other_ends(search, &end, candidate) : 0;
}

static int look_at_process(struct search *search, struct native_pd *pd)
{
    _cleanup_(observer_close) struct observer observer = {.table_fd = -EBADF, .info_fd = -EBADF};
    int r = observer_open(&observer, &search->looking, pd, NULL);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    for (selector_t selector = 0; r == 0; selector++) {
        if (native_pd_next(pd, selector, &selector, NULL) < 0 || selector == NATIVE_SELECTOR_END)
            break;
        r = look_at_selector(search, &observer, selector);
    }
    return r;
}

/* A process without a capability space, which therefore holds nothing. */
static bool holds_nothing(pid_t pid)
{
    struct proc_stat stat;
    return proc_stat_of(pid, &stat) < 0 || (stat.flags & KERNEL_THREAD_FLAG) || strchr("ZXx", stat.state);
}

static int visit(struct search *search, pid_t pid, struct reseat_error **ret_error)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    int r = native_pd_open(pid, &pd, NULL);
    if (r == -ENOMEM || r == -EMFILE || r == -ENFILE)
        return error_errno(ret_error, r, "looking for other holders in process %d", pid);
    if (r < 0) {
        search->found->unseen += !holds_nothing(pid);
        return 0;
    }
    size_t before = search->candidates.count;
    r = look_at_process(search, pd);
    if (r < 0)
        return error_errno(ret_error, r, "looking for other holders in process %d", pid);
    if (search->candidates.count == before)
        return 0;
    struct native_pd **kept = array_append(search->pds, search->pd_count);
    if (!kept) {
        search->candidates.count = before;
        return error_errno(ret_error, -ENOMEM, "looking for other holders");
    }
    *kept = TAKE_PTR(pd);
    return 0;
}

static int compare_holders(const void *a, const void *b)
{
    const struct object_holder *x = a, *y = b;
    if (x->entry != y->entry)
        return x->entry < y->entry ? -1 : 1;
    if (x->is_other_end != y->is_other_end)
        return x->is_other_end ? 1 : -1;
    if (x->pid != y->pid)
        return x->pid < y->pid ? -1 : 1;
    return (x->selector > y->selector) - (x->selector < y->selector);
}

/* How many processes may be compared at a time, with two descriptors of ours each. */
static int choose_batch(struct search *search, struct reseat_error **ret_error)
{
    _cleanup_free_ int *used = NULL;
    struct rlimit limit = {.rlim_cur = 1024};
    size_t count = 0;
    int r = proc_list_numbers(AT_FDCWD, "/proc/self/fd", &used, &count);
    if (r < 0)
        return error_errno(ret_error, r, "listing our own descriptors");
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < count + SPARE_DESCRIPTORS + 2)
        return error_set(ret_error, -EMFILE,
                         "looking for other holders takes more descriptors than our limit of %llu has left "
                         "(ulimit -n)",
                         (unsigned long long)limit.rlim_cur);
    size_t most = (size_t)(limit.rlim_cur - count - SPARE_DESCRIPTORS) / 2;
    search->pd_limit = most < BATCH_PROCESSES ? most : BATCH_PROCESSES;
    return 0;
}

static int walk(struct search *search, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t count = 0;
    int r = proc_fd < 0 ? -errno : proc_list_numbers(proc_fd, "", &pids, &count);
    if (r < 0)
        return error_errno(ret_error, r, "listing the processes in /proc");
    for (size_t i = 0; r == 0 && i < count; i++) {
        if (pids[i] != getpid()) /* what we have of it is gone in a moment */
            r = visit(search, pids[i], ret_error);
        if (r == 0 && (search->pd_count == search->pd_limit || i + 1 == count)) {
            r = judge_batch(search, ret_error);
            search_drop_batch(search);
        }
    }
    return r;
}

int object_find_holders(const struct object_table *table, struct object_holders *ret_holders,
                        struct reseat_error **ret_error)
{
    _cleanup_(object_holders_free) struct object_holders found = {0};
    _cleanup_(search_end) struct search search = {.listed = table, .found = &found};
    int r = choose_batch(&search, ret_error);
    if (r == 0)
        r = prepare(&search, ret_error);
    if (r == 0)
        r = walk(&search, ret_error);
    if (r < 0)
        return r;
    if (found.count)
        qsort(found.items, found.count, sizeof *found.items, compare_holders);
    *ret_holders = found;
    found = (struct object_holders){0};
    return 0;
}
