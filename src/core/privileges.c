/* What core gives up before it hears the first client.
 *
 * As root it keeps the capabilities (CAP_*) that its operations need and no others, nor can it get them back:
 * the bounding set is reduced too, and nothing that it executes gains any. Its memory cannot be read by
 * others of its user, and leaves no core file.
 *
 * What it deliberately does not do is confine itself by a system call filter, or by Landlock. A tracer under
 * a seccomp filter may not suspend that of its target (PTRACE_O_SUSPEND_SECCOMP is refused, ptrace(2)), and a
 * process with a Landlock domain may trace only those inside it. With either, install, close and checkpoint
 * would be refused for every target that has a filter, or for all. And it would gain little: whoever may
 * trace everything can have everything done by others. So the rule is to give the service few rights on files
 * by its unit (docs/systemd/), and to read no message of a client in the process that holds all sessions.
 *
 * See capabilities(7), prctl(2), capset(2). */
#include "core/core-internal.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef CAP_CHECKPOINT_RESTORE
#define CAP_CHECKPOINT_RESTORE 40
#endif

/* What each is for. */
static const int needed[] = {
    CAP_SYS_PTRACE,         /* pidfd_getfd, ptrace, kcmp, /proc/PID/mem of others */
    CAP_DAC_READ_SEARCH,    /* /proc/PID/fd of others */
    CAP_DAC_OVERRIDE,       /* /proc/PID/mem of others, for writing */
    CAP_SYS_ADMIN,          /* suspending a target's seccomp filter; ns_last_pid */
    CAP_KILL,               /* checkpoint: ending the target */
    CAP_CHECKPOINT_RESTORE, /* restore: the same PID */
    CAP_SYS_RESOURCE,       /* restore: limits above one's own */
    CAP_SYS_NICE,           /* restore: scheduling */
};

static bool is_needed(int capability)
{
    for (size_t i = 0; i < COUNT_OF(needed); i++)
        if (needed[i] == capability)
            return true;
    return false;
}

static int reduce_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {0};
    if (syscall(SYS_capget, &header, data) < 0)
        return -errno;
    /* Takes CAP_SETPCAP; who has not that, has no full bounding set to lose either. */
    for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; capability++)
        if (!is_needed(capability))
            prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    uint64_t keep = 0;
    for (size_t i = 0; i < COUNT_OF(needed); i++)
        keep |= UINT64_C(1) << needed[i];
    for (unsigned i = 0; i < 2; i++) {
        data[i].permitted &= (uint32_t)(keep >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0;
    }
    header.pid = 0;
    return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

/* Each session takes two descriptors. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int privileges_reduce(struct reseat_error **ret_error)
{
    raise_descriptor_limit();
    setrlimit(RLIMIT_CORE, &(struct rlimit){0});
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_errno(ret_error, -errno, "giving up the gaining of privileges");
    int r = reduce_capabilities();
    return r < 0 ? error_errno(ret_error, r, "giving up privileges that core does not need") : 0;
}
