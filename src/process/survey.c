/* What can be read of a process while it still runs, so that the pause is spared it: family, controlling
 * terminal, treatment of memory regions by a fork, owners of capabilities' signals. Rests on
 * proc_pid_status(5), proc_pid_smaps(5) (VmFlags), F_GETOWN_EX in fcntl(2). */
#include "process/process.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

static int survey_family(int proc_fd, struct snapshot_process *process, struct reseat_error **ret_error)
{
    struct proc_stat stat;
    int r = proc_stat_read(proc_fd, &stat);
    if (r < 0)
        return error_errno(ret_error, r, "reading the state of process %u", process->pid);
    process->parent = (uint32_t)stat.parent;
    process->group = (uint32_t)stat.group;
    process->session = (uint32_t)stat.session;
    process->tty = (uint32_t)stat.tty;
    snprintf(process->comm, sizeof process->comm, "%.15s", stat.comm);
    if (process->group == process->pid)
        process->flags |= SNAPSHOT_LEADS_GROUP;
    if (process->session == process->pid)
        process->flags |= SNAPSHOT_LEADS_SESSION;
    if (stat.tty && stat.foreground_group == stat.group)
        process->flags |= SNAPSHOT_IN_FOREGROUND;
    if (stat.state == 'T')
        process->flags |= SNAPSHOT_STOPPED;
    return 0;
}

/* The modes of the terminal that it was started on, for a restore that hands over a terminal. */
static void survey_terminal(int pidfd, struct snapshot_process *process)
{
    for (int fd = 0; fd < 3; fd++) {
        _cleanup_close_ int copy = sys_pidfd_getfd(pidfd, fd);
        struct termios2 modes;
        _Static_assert(sizeof modes == SNAPSHOT_TERMIOS_BYTES, "struct termios2 has another size");
        if (copy < 0 || ioctl(copy, TCGETS2, &modes) < 0)
            continue;
        memcpy(process->termios, &modes, sizeof modes);
        process->flags |= SNAPSHOT_HAS_TERMIOS;
        return;
    }
}

/* Only owners that die with the process are noted: itself, its threads, the group that it leads. */
static bool is_own(int proc_fd, const struct snapshot_process *process, const struct f_owner_ex *owner)
{
    if (owner->pid <= 0)
        return false;
    if (owner->type == F_OWNER_PID ||
        (owner->type == F_OWNER_PGRP && (process->flags & SNAPSHOT_LEADS_GROUP)))
        return owner->pid == (pid_t)process->pid;
    char path[32];
    snprintf(path, sizeof path, "task/%d", owner->pid);
    return owner->type == F_OWNER_TID && faccessat(proc_fd, path, F_OK, 0) == 0;
}

static int survey_owners(int proc_fd, int pidfd, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_free_ int *selectors = NULL;
    size_t count;
    int r = proc_list_numbers(proc_fd, "fd", &selectors, &count);
    if (r < 0)
        return error_errno(ret_error, r, "listing the capabilities of process %u", snapshot->process.pid);
    snapshot->process.capability_count = (uint32_t)count;
    for (size_t i = 0; i < count; i++) {
        _cleanup_close_ int copy = sys_pidfd_getfd(pidfd, selectors[i]);
        struct f_owner_ex owner;
        if (copy < 0 || fcntl(copy, F_GETOWN_EX, &owner) < 0 || !is_own(proc_fd, &snapshot->process, &owner))
            continue;
        struct snapshot_owner *row = array_append(snapshot->owners, snapshot->owners_count);
        if (!row)
            return error_errno(ret_error, -ENOMEM, "noting the owner of selector %d", selectors[i]);
        *row = (struct snapshot_owner){.selector = (uint32_t)selectors[i],
                                       .type = owner.type,
                                       .pid = owner.pid,
                                       .signal = fcntl(copy, F_GETSIG)};
    }
    return 0;
}

/* The flags that matter to a fork, from a VmFlags line. */
static uint32_t region_flags(const char *line)
{
    static const struct {
        const char *mnemonic;
        uint32_t flag;
    } known[] = {
        {" dc", SNAPSHOT_REGION_DONTFORK},
        {" wf", SNAPSHOT_REGION_WIPEONFORK},
        {" lo", SNAPSHOT_REGION_LOCKED},
        {" lf", SNAPSHOT_REGION_LOCKED_ONFAULT},
    };
    uint32_t flags = 0;
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (strstr(line, known[i].mnemonic))
            flags |= known[i].flag;
    /* What the kernel may drop at any time (MAP_DROPPABLE, Linux 6.11) is always wiped: no one can have it
     * kept. */
    if (strstr(line, " dp"))
        flags &= ~SNAPSHOT_REGION_WIPEONFORK;
    /* Device memory and the like is never inherited, and nobody can ask for it to be. */
    return strstr(line, " io") || strstr(line, " pf") ? 0 : flags;
}

int process_survey_regions(pid_t pid, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (proc_fd < 0)
        return error_errno(ret_error, proc_fd, "opening process %d", pid);
    free(snapshot->regions);
    snapshot->regions = NULL;
    snapshot->regions_count = 0;
    int fd = openat(proc_fd, "smaps", O_RDONLY | O_CLOEXEC);
    _cleanup_fclose_ FILE *smaps = fd < 0 ? NULL : fdopen(fd, "r");
    if (!smaps)
        return error_errno(ret_error, -errno, "reading the memory map of process %u", snapshot->process.pid);
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    unsigned long start = 0, end = 0;
    while (getline(&line, &capacity, smaps) > 0) {
        unsigned long a, b;
        if (sscanf(line, "%lx-%lx ", &a, &b) == 2) {
            start = a;
            end = b;
        } else if (strncmp(line, "VmFlags:", 8) == 0 && region_flags(line)) {
            struct snapshot_region *row = array_append(snapshot->regions, snapshot->regions_count);
            if (!row)
                return error_errno(ret_error, -ENOMEM, "noting a memory region");
            *row = (struct snapshot_region){.start = start, .end = end, .flags = region_flags(line)};
        }
    }
    return 0;
}

int process_survey(pid_t pid, enum snapshot_form form, struct snapshot *snapshot,
                   struct reseat_error **ret_error)
{
    _cleanup_close_ int pidfd = sys_pidfd_open(pid);
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (pidfd < 0 || proc_fd < 0)
        return error_errno(ret_error, pidfd < 0 ? pidfd : proc_fd, "opening process %d", pid);
    struct snapshot_process *process = &snapshot->process;
    process->version = SNAPSHOT_VERSION;
    process->form = form;
    process->pid = (uint32_t)pid;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    process->realtime_ns = (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;

    _cleanup_free_ char *status = NULL;
    int r = file_read(proc_fd, "status", &status, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "reading the status of process %d", pid);
    process->ns_level_count = (uint32_t)status_ns_pids(status, process->ns_pids, SNAPSHOT_NS_LEVELS);
    if (status_number(status, "Seccomp", 10))
        process->flags |= SNAPSHOT_FILTERED;
    r = boot_id_read(process->boot_id, sizeof process->boot_id);
    if (r < 0)
        return error_errno(ret_error, r, "reading the boot id");
    r = survey_family(proc_fd, process, ret_error);
    if (r == 0)
        r = survey_owners(proc_fd, pidfd, snapshot, ret_error);
    if (r == 0 && form == SNAPSHOT_FORM_COPY)
        r = process_survey_regions(pid, snapshot, ret_error);
    survey_terminal(pidfd, process);
    return r;
}
