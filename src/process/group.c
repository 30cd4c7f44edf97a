/* Members of a process group. The number of a group stays taken while it has members, and a process cannot be
 * given it back as its PID; so when the leader of a group is restored, the others are moved into the twin's
 * group for that moment, and then into the group that the restored leader leads. A process may only move
 * itself (setpgid(2)): the call runs inside each of them, through the stub. Members are of one session, which
 * a group never leaves. */
#include "process/process.h"
#include "target/target.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>

/* The number of a group leader as process `member` sees it: they may live in PID namespaces of different
 * depth. */
static uint32_t number_for(pid_t leader, pid_t member)
{
    uint32_t leaders[SNAPSHOT_NS_LEVELS], members[SNAPSHOT_NS_LEVELS];
    _cleanup_close_ int leader_fd = proc_open(leader), member_fd = proc_open(member);
    _cleanup_free_ char *leader_status = NULL, *member_status = NULL;
    if (leader_fd < 0 || member_fd < 0 || file_read(leader_fd, "status", &leader_status, NULL) < 0 ||
        file_read(member_fd, "status", &member_status, NULL) < 0)
        return 0;
    size_t leader_depth = status_ns_pids(leader_status, leaders, COUNT_OF(leaders));
    size_t depth = status_ns_pids(member_status, members, COUNT_OF(members));
    return depth && depth <= leader_depth ? leaders[depth - 1] : 0;
}

static int move_member(pid_t member, pid_t to, struct reseat_error **ret_error)
{
    _cleanup_(target_release) struct target target = TARGET_NONE;
    uint32_t number = number_for(to, member);
    if (!number)
        return 0; /* it has ended */
    int r = target_seize_leader(member, &target, ret_error);
    if (r == -ESRCH)
        return 0;
    if (r < 0)
        return error_prefix(ret_error, r, "moving process %d out of the process group", member);
    int64_t result = target_system_call(&target, SYS_setpgid, (const uint64_t[6]){0, number}, ret_error);
    return result < 0 ? error_errno(ret_error, (int)result, "moving process %d into the process group %d",
                                    member, to)
                      : 0;
}

/* The living members of a group, but one. */
static int list_members(pid_t group, pid_t except, int **ret_pids, size_t *ret_count,
                        struct reseat_error **ret_error)
{
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t count, kept = 0;
    int r = proc_fd < 0 ? -errno : proc_list_numbers(proc_fd, "", &pids, &count);
    if (r < 0)
        return error_errno(ret_error, r, "listing the processes in /proc");
    for (size_t i = 0; i < count; i++) {
        struct proc_stat stat;
        if (pids[i] != except && getpgid(pids[i]) == group && proc_stat_of(pids[i], &stat) == 0 &&
            stat.state != 'Z' && stat.state != 'X')
            pids[kept++] = pids[i];
    }
    *ret_pids = TAKE_PTR(pids);
    *ret_count = kept;
    return 0;
}

int process_count_members(pid_t group, pid_t except, size_t *ret_count, struct reseat_error **ret_error)
{
    _cleanup_free_ int *pids = NULL;
    return list_members(group, except, &pids, ret_count, ret_error);
}

int process_move_members(pid_t from, pid_t to, pid_t except, struct reseat_error **ret_error)
{
    _cleanup_free_ int *pids = NULL;
    size_t count;
    int r = list_members(from, except, &pids, &count, ret_error);
    for (size_t i = 0; r == 0 && i < count; i++)
        r = move_member(pids[i], to, ret_error);
    return r;
}
