/* reseat_plan(), reseat_plan_restore(): what a restore would bring back, of each selector and of the rest,
 * without doing anything.
 *
 * Nothing is judged here: the live column is the object table, what process_find_obstacles() finds and what
 * object_find_fixups() would mend; the cold column is what the kinds say of themselves. All of it reads from
 * outside (procfs, kcmp(2), pidfd_getfd(2)), so that the process runs on, also if somebody else traces it.
 */
#include "plan-internal.h"

#include "object/object.h"
#include "image/image.h"
#include "native_pd/native_pd.h"
#include "twin/twin.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>

const char *reseat_fate_name(enum reseat_fate fate)
{
    static const char *const names[] = {"kept", "recreated", "degraded", "lost", "replaced"};
    return (size_t)fate < COUNT_OF(names) ? names[fate] : "?";
}

void reseat_plan_free(struct reseat_plan *public)
{
    struct plan *plan = (struct plan *)public;
    if (!plan)
        return;
    for (size_t i = 0; i < plan->text_count; i++)
        free(plan->texts[i]);
    free(plan->texts);
    free(plan->public.rows);
    free(plan->public.items);
    reseat_listing_free(plan->listing);
    free(plan);
}

static void plan_end(struct plan **plan)
{
    if (*plan)
        reseat_plan_free(&(*plan)->public);
}

/* ---- writing it down ---- */

const char *plan_text(struct plan *plan, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = NULL;
    int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    char **place = length < 0 ? NULL : array_append(plan->texts, plan->text_count);
    if (!place) {
        if (length >= 0)
            free(text);
        return NULL;
    }
    return *place = text;
}

int plan_worsen(struct plan *plan, struct reseat_prospect *prospect, enum reseat_fate fate, const char *why)
{
    const char *text =
        prospect->why ? plan_text(plan, "%s\n%s", prospect->why, why) : plan_text(plan, "%s", why);
    if (!text)
        return -ENOMEM;
    prospect->why = text;
    if (fate > prospect->fate)
        prospect->fate = fate;
    return 0;
}

static int compare_rows(const void *a, const void *b)
{
    unsigned x = ((const struct reseat_plan_row *)a)->selector;
    unsigned y = ((const struct reseat_plan_row *)b)->selector;
    return (x > y) - (x < y);
}

struct reseat_plan_row *plan_row(struct plan *plan, unsigned selector)
{
    struct reseat_plan_row key = {.selector = selector};
    return bsearch(&key, plan->public.rows, plan->public.row_count, sizeof key, compare_rows);
}

static int add_item(struct plan *plan, unsigned restores, enum reseat_fate fate, bool is_note,
                    const char *sentence)
{
    struct reseat_plan_item *item = array_append(plan->public.items, plan->public.item_count);
    if (!item)
        return -ENOMEM;
    *item =
        (struct reseat_plan_item){restores, fate, is_note, sentence ? plan_text(plan, "%s", sentence) : NULL};
    return item->sentence ? 0 : -ENOMEM;
}

static int add_rows(struct plan *plan, pid_t pid, struct reseat_error **ret_error)
{
    int r = reseat_list_capabilities(&pid, 1, &plan->listing, ret_error);
    if (r < 0)
        return r;
    plan->public.rows = calloc(plan->listing->count + 1, sizeof *plan->public.rows);
    if (!plan->public.rows)
        return error_errno(ret_error, -ENOMEM, "planning for process %d", pid);
    for (size_t i = 0; i < plan->listing->count; i++) {
        const struct reseat_capability *capability = &plan->listing->capabilities[i];
        plan->public.rows[i] = (struct reseat_plan_row){.selector = capability->selector,
                                                        .kind = capability->kind,
                                                        .object = capability->object,
                                                        .name = capability->name};
    }
    plan->public.row_count = plan->listing->count;
    return 0;
}

/* ---- the live column ---- */

int plan_add_obstacle(struct plan *plan, const struct obstacle *obstacle, unsigned restores)
{
    static const enum reseat_fate fates[] = {RESEAT_KEPT, RESEAT_DEGRADED, RESEAT_LOST, RESEAT_LOST};
    enum reseat_fate fate = fates[obstacle->severity];
    struct reseat_plan_row *row =
        obstacle->selector < 0 ? NULL : plan_row(plan, (unsigned)obstacle->selector);
    if (row)
        return plan_worsen(plan, restores & RESEAT_LIVE_RESTORE ? &row->live : &row->cold, fate,
                           obstacle->sentence);
    return add_item(plan, restores, fate, obstacle->severity == SEVERITY_NOTE, obstacle->sentence);
}

static int add_obstacles(struct plan *plan, enum snapshot_form form, bool leave_running,
                         struct reseat_error **ret_error)
{
    _cleanup_(obstacles_free) struct obstacles obstacles = {0};
    int r = process_find_obstacles(plan->public.pid, form, leave_running, &obstacles, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < obstacles.count; i++)
        r = plan_add_obstacle(plan, &obstacles.items[i], RESEAT_LIVE_RESTORE | RESEAT_COLD_RESTORE);
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", plan->public.pid) : 0;
}

/* `holder`: the process itself, or its twin; `snapshot`: of the process. */
static int add_fixups(struct plan *plan, pid_t holder, struct snapshot *snapshot,
                      struct reseat_error **ret_error)
{
    int r = object_find_fixups(holder, snapshot, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < snapshot->reopens_count; i++) {
        struct reseat_plan_row *row = plan_row(plan, snapshot->reopens[i].selector);
        if (row)
            r = plan_worsen(
                plan, &row->live, RESEAT_RECREATED,
                "It is a file of the process itself in /proc, which speaks of a process that is gone "
                "then: it is opened again, at the same position");
    }
    return r < 0 ? error_errno(ret_error, r, "planning for process %u", snapshot->process.pid) : 0;
}

/* What a copy shares with the process that runs on. */
static int add_shared(struct plan *plan, struct reseat_error **ret_error)
{
    _cleanup_(shared_objects_end) struct shared_objects shared = {0};
    int r = object_find_shared(plan->public.pid, &shared, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; r == 0 && i < shared.file_count; i++) {
        struct reseat_plan_row *row = plan_row(plan, (unsigned)shared.files[i]);
        if (row)
            r = plan_worsen(
                plan, &row->live, RESEAT_KEPT,
                "The process moves its position while it runs on; that of the checkpoint is put back "
                "unless somebody else holds the object then");
    }
    for (size_t i = 0; r == 0 && i < shared.epoll_count; i++) {
        struct reseat_plan_row *row = plan_row(plan, (unsigned)shared.epolls[i]);
        if (row)
            r = plan_worsen(
                plan, &row->live, RESEAT_KEPT,
                "The process may change its interest set while it runs on; that of the checkpoint is "
                "put back");
    }
    if (r == 0)
        r = add_item(plan, RESEAT_LIVE_RESTORE, RESEAT_KEPT, true,
                     "The process runs on and shares every object with its copy: queues, counters and files "
                     "are wherever it has taken them by then, and no peer sees an end of file until the copy "
                     "is dropped");
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", plan->public.pid) : 0;
}

/* ---- what is not about a selector ---- */

static size_t count_timers(int proc_fd)
{
    _cleanup_free_ char *timers = NULL;
    size_t count = 0;
    if (file_read(proc_fd, "timers", &timers, NULL) < 0)
        return 0; /* a kernel that does not tell */
    for (const char *at = timers; (at = strstr(at, "ID: ")); at++)
        count += at == timers || at[-1] == '\n';
    return count;
}

static int add_threads(struct plan *plan, int proc_fd)
{
    _cleanup_free_ int *tids = NULL;
    size_t count = 0;
    if (proc_list_numbers(proc_fd, "task", &tids, &count) < 0)
        return 0; /* it has ended; the rest has been said */
    const char *text =
        count == 1
            ? plan_text(plan, "Its thread goes on where it was; a system call that waits is made again, "
                              "and a wait for a time begins anew")
            : plan_text(plan,
                        "Its %zu threads go on where they were; system calls that wait are made again, "
                        "and waits for a time begin anew",
                        count);
    return text ? add_item(plan, RESEAT_LIVE_RESTORE | RESEAT_COLD_RESTORE, RESEAT_KEPT, true, text)
                : -ENOMEM;
}

static int add_timers(struct plan *plan, int proc_fd)
{
    size_t count = count_timers(proc_fd);
    if (!count)
        return 0;
    const char *text =
        plan_text(plan, "%zu POSIX timer%s (timer_create): made again, with the time that is left", count,
                  count == 1 ? "" : "s");
    return text ? add_item(plan, RESEAT_LIVE_RESTORE | RESEAT_COLD_RESTORE, RESEAT_RECREATED, true, text)
                : -ENOMEM;
}

static int add_family(struct plan *plan, int proc_fd)
{
    struct proc_stat stat;
    if (plan->public.is_copy || proc_stat_read(proc_fd, &stat) < 0)
        return 0;
    const char *text =
        plan_text(plan,
                  "Its parent, process %d, sees it die and is the parent of the restored process "
                  "again; processor time and start time begin anew",
                  stat.parent);
    return text ? add_item(plan, RESEAT_LIVE_RESTORE, RESEAT_KEPT, true, text) : -ENOMEM;
}

/* What comes back besides capabilities, for completeness; what does not is an obstacle. */
static int add_process(struct plan *plan, pid_t pid, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (proc_fd < 0)
        return error_errno(ret_error, proc_fd, "looking at process %d", pid);
    int r = add_threads(plan, proc_fd);
    if (r == 0)
        r = add_timers(plan, proc_fd);
    if (r == 0 && object_has_locks(pid))
        r = add_item(plan, RESEAT_LIVE_RESTORE, RESEAT_KEPT, true,
                     plan->public.is_copy
                         ? "Its record locks (fcntl F_SETLK) stay with the process that runs "
                           "on and are taken again at the restore, which fails if somebody "
                           "else has them then"
                         : "Its record locks (fcntl F_SETLK) stay held without a gap");
    if (r == 0)
        r = add_family(plan, proc_fd);
    return r < 0 ? error_errno(ret_error, r, "planning for process %d", pid) : 0;
}

/* ---- a live process ---- */

/* What is in the way of a checkpoint altogether is no failure of the plan. -ESRCH and the like are. */
static int check_eligible(struct plan *plan, struct reseat_error **ret_error)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    int r = process_check_eligible(plan->public.pid, &error);
    if (r == 0)
        return 0;
    if (r == -ESRCH || r == -ENOMEM || r == -EINVAL) {
        if (ret_error)
            *ret_error = TAKE_PTR(error);
        return r;
    }
    plan->public.live_blocked = plan_text(plan, "%s", reseat_error_message(error));
    plan->public.cold_blocked = plan->public.live_blocked;
    return plan->public.live_blocked ? 0 : error_errno(ret_error, -ENOMEM, "planning");
}

int reseat_plan(pid_t pid, unsigned flags, struct reseat_plan **ret_plan, struct reseat_error **ret_error)
{
    bool leave_running = flags & RESEAT_PLAN_LEAVE_RUNNING;
    enum snapshot_form form = leave_running ? SNAPSHOT_FORM_COPY : SNAPSHOT_FORM_HEIR;
    _cleanup_(snapshot_free) struct snapshot snapshot = {
        .process = {.pid = (uint32_t)pid, .form = SNAPSHOT_FORM_HEIR}};
    _cleanup_(plan_end) struct plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return error_errno(ret_error, -ENOMEM, "planning for process %d", pid);
    plan->public.pid = pid;
    plan->public.is_copy = leave_running;
    int r = check_eligible(plan, ret_error);
    if (r == 0)
        r = add_rows(plan, pid, ret_error);
    if (r == 0)
        r = add_obstacles(plan, form, leave_running, ret_error);
    if (r == 0)
        r = add_fixups(plan, pid, &snapshot, ret_error);
    if (r == 0 && leave_running)
        r = add_shared(plan, ret_error);
    if (r == 0)
        r = add_process(plan, pid, ret_error);
    if (r == 0)
        r = plan_cold_process(plan, ret_error);
    if (r < 0)
        return r;
    *ret_plan = &TAKE_PTR(plan)->public;
    return 0;
}

/* ---- a checkpoint ---- */

/* What would keep the twin from being restored although it is there. */
static int check_twin(struct plan *plan, const struct snapshot *snapshot)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    struct twin_header header;
    struct proc_stat stat;
    pid_t pid = (pid_t)snapshot->process.pid;
    if (snapshot->process.form == SNAPSHOT_FORM_HEIR &&
        twin_read_header((pid_t)snapshot->process.twin, &header) == 0 && header.ran_on) {
        plan->public.live_blocked =
            "The process was not killed by this checkpoint and has run on in the memory "
            "of its twin: there is nothing to restore; drop it";
        return 0;
    }
    if (proc_stat_of(pid, &stat) < 0)
        return 0;
    process_report_taken(pid, &error);
    return add_item(plan, RESEAT_LIVE_RESTORE | RESEAT_COLD_RESTORE, RESEAT_KEPT, true,
                    reseat_error_message(error));
}

static int plan_twin(struct plan *plan, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    pid_t twin = (pid_t)snapshot->process.twin;
    int r = add_rows(plan, twin, ret_error);
    if (r == 0)
        r = add_fixups(plan, twin, snapshot, ret_error);
    if (r == 0 && check_twin(plan, snapshot) < 0)
        r = error_errno(ret_error, -ENOMEM, "planning");
    return r;
}

int reseat_plan_restore(const char *dir, struct reseat_plan **ret_plan, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot of_twin = {0};
    _cleanup_(image_close) struct image *image = NULL;
    _cleanup_error_ struct reseat_error *no_twin = NULL;
    _cleanup_(plan_end) struct plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return error_errno(ret_error, -ENOMEM, "planning for %s", dir);
    int r = image_open(dir, &image, ret_error);
    if (r < 0)
        return r;
    plan->public.pid = (pid_t)image_snapshot(image)->process.pid;
    plan->public.is_copy = image_snapshot(image)->process.form == SNAPSHOT_FORM_COPY;
    if (open_checkpoint(dir, &of_twin, &no_twin) == 0)
        r = plan_twin(plan, &of_twin, ret_error);
    else
        plan->public.live_blocked = plan_text(plan, "%s", reseat_error_message(no_twin));
    if (r == 0)
        r = plan_cold_checkpoint(plan, image, ret_error);
    if (r < 0)
        return r;
    *ret_plan = &TAKE_PTR(plan)->public;
    return 0;
}
