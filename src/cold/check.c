/* What would not come back from an image here, found before any process exists: of an image that is there,
 * and of a live process before an image is made of it and it is killed. */
#include "cold/cold-internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

/* ---- memory ---- */

static int check_mappings(const struct snapshot *snapshot, struct obstacles *obstacles,
                          struct reseat_error **ret_error)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < snapshot->vmas_count; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        const char *path = cold_text(snapshot, vma->path_offset);
        unsigned long start = (unsigned long)vma->start;
        if (vma->end > COLD_TASK_BYTES)
            return error_set(ret_error, -ENOTSUP, "memory at %#lx: above the 47 bits that every process has",
                             start);
        if (vma->protection_key)
            return error_set(ret_error, -ENOTSUP, "memory at %#lx has the protection key %u: not written yet",
                             start, vma->protection_key);
        if (vma->kind == SNAPSHOT_VMA_OTHER)
            r = obstacles_add(
                obstacles, SEVERITY_LOST, -1,
                "memory of %s, mapped at %#lx, cannot be mapped anew: every access will be a fault",
                *path ? path : "a device", start);
        else if (vma->kind == SNAPSHOT_VMA_OBJECT && vma->object == 0 &&
                 (vma->flags & SNAPSHOT_VMA_MAP_SHARED))
            r = obstacles_add(
                obstacles, SEVERITY_NOTE, -1,
                "the file %s, mapped at %#lx, has no name and no selector any more: its content comes "
                "back as shared memory",
                path, start);
        else if ((vma->flags & SNAPSHOT_VMA_GUARD) && !cold_has_guards())
            r = obstacles_add(obstacles, SEVERITY_DEGRADED, -1,
                              "the guard pages at %#lx come back as ordinary ones: this kernel has none",
                              start);
        else if (vma->kind == SNAPSHOT_VMA_SYSV && !cold_has_segment(snapshot, vma) &&
                 !cold_may_make_segments())
            r = obstacles_add(
                obstacles, SEVERITY_DEGRADED, -1,
                "the System V shared memory %lu at %#lx comes back as memory of the process's own",
                (unsigned long)vma->inode, start);
    }
    return r < 0 ? error_errno(ret_error, r, "looking at the memory map") : 0;
}

/* ---- place ---- */

/* Namespaces have no name: after the next boot nobody can tell. The PID namespace is judged by the numbers.
 */
static int check_namespaces(const struct snapshot *snapshot, struct obstacles *obstacles)
{
    uint64_t ours[SNAPSHOT_NAMESPACES];
    _cleanup_close_ int proc_fd = proc_open(getpid());
    if (proc_fd < 0)
        return proc_fd;
    process_read_namespaces(proc_fd, ours);
    int r = 0;
    for (size_t i = 0; r == 0 && boot_id_is_current(snapshot->process.boot_id) && i < SNAPSHOT_NAMESPACES;
         i++) {
        uint64_t theirs = snapshot->states[0].namespaces[i];
        const char *name = process_namespace_names[i];
        if (theirs && ours[i] && theirs != ours[i] && strcmp(name, "pid") != 0)
            r = obstacles_add(
                obstacles, SEVERITY_DEGRADED, -1,
                "it lived in another %s namespace and comes into ours (run reseat inside that one, with "
                "nsenter)",
                name);
    }
    return r;
}

/* Nobody can enter a session; at best one that has ended can be had again (helper.c). */
static int check_session(const struct cold_plan *plan, struct obstacles *obstacles)
{
    const struct snapshot_process *process = &plan->snapshot->process;
    bool is_left = !plan->is_child && !(process->flags & SNAPSHOT_LEADS_SESSION) && !plan->new_namespace &&
                   (uint32_t)getsid(0) != process->session;
    if (!is_left || (!process->tty && (plan->new_pid || getsid((pid_t)process->session) < 0)))
        return 0;
    return obstacles_add(
        obstacles, process->tty ? SEVERITY_DEGRADED : SEVERITY_NOTE, -1,
        process->tty ? "it was a job in session %u, with a terminal: it comes into another session, without "
                       "one (restore it from a shell of that session, or with --attach)"
                     : "it comes into a session of its own: its session %u is somebody else's now",
        process->session);
}

static int check_login(const struct snapshot_state *state, struct obstacles *obstacles)
{
    if (!(state->flags & SNAPSHOT_STATE_HAS_LOGIN) || process_may_set_login(state->login_uid))
        return 0;
    return obstacles_add(obstacles, SEVERITY_NOTE, -1,
                         "the audit log will name our login for it, not user %d: to change that takes "
                         "CAP_AUDIT_CONTROL",
                         (int)state->login_uid);
}

static int check_control_group(void *userdata, const char *line, const char *path)
{
    if (path && access(path, W_OK) == 0)
        return 0;
    return obstacles_add(userdata, SEVERITY_NOTE, -1,
                         "the control group %s is not here, or not ours to use: it comes into ours instead",
                         line);
}

int cold_check(const struct cold_plan *plan, struct obstacles *obstacles, struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = plan->snapshot;
    if (!snapshot->states_count || !snapshot->vmas_count)
        return error_set(
            ret_error, -ENODATA,
            "there is no image of process %u here, only what belongs to its twin (it was taken with "
            "--live)",
            snapshot->process.pid);
    int r = process_check_privileges(snapshot, ret_error);
    if (r == 0)
        r = cold_check_processor(snapshot, obstacles, ret_error);
    if (r == 0)
        r = cold_check_vdso(plan, obstacles, ret_error);
    if (r == 0)
        r = check_mappings(snapshot, obstacles, ret_error);
    if (r < 0)
        return r;
    r = check_namespaces(snapshot, obstacles);
    if (r == 0)
        r = check_session(plan, obstacles);
    if (r == 0)
        r = check_login(&snapshot->states[0], obstacles);
    if (r == 0)
        r = process_visit_control_groups(cold_text(snapshot, snapshot->states[0].control_groups_offset),
                                         check_control_group, obstacles);
    return r < 0 ? error_errno(ret_error, r, "looking at our namespaces and control groups") : 0;
}

/* ---- beforehand ---- */

static int look_at_process(pid_t pid, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (proc_fd < 0)
        return error_errno(ret_error, proc_fd, "looking at process %d", pid);
    int r = process_survey(pid, SNAPSHOT_FORM_HEIR, snapshot, ret_error);
    if (r == 0)
        r = process_capture_map(pid, snapshot, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < snapshot->vmas_count; i++)
        if (snapshot->vmas[i].kind == SNAPSHOT_VMA_OBJECT)
            snapshot->vmas[i].object = UINT32_MAX; /* there will be one */
    struct snapshot_state *state = array_append(snapshot->states, snapshot->states_count);
    r = state ? process_describe_outside(proc_fd, snapshot, state) : -ENOMEM;
    return r < 0 ? error_errno(ret_error, r, "looking at process %d", pid) : 0;
}

int cold_check_process(pid_t pid, struct obstacles *obstacles, struct reseat_error **ret_error)
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    int r = look_at_process(pid, &snapshot, ret_error);
    if (r == 0)
        r = check_mappings(&snapshot, obstacles, ret_error);
    if (r < 0)
        return r;
    r = check_namespaces(&snapshot, obstacles);
    if (r == 0)
        r = cold_check_directory(&snapshot, obstacles);
    return r < 0 ? error_errno(ret_error, r, "looking at what an image of process %d would bring back", pid)
                 : 0;
}
