/* What the files of the target room share. */
#pragma once

#include "target/target.h"

/* Debian 12's headers have these as enumerators of another name or not at all. */
#define EVENT_STOP                       128 /* PTRACE_EVENT_STOP */
#define SET_SYSCALL_USER_DISPATCH_CONFIG 0x4210
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211

#define SYSTEM_CALL_DISPATCHED           2 /* SYS_USER_DISPATCH */

/* Whether a signal in a thread that runs system calls of ours says that it cannot: -EOPNOTSUPP. */
int target_check_dispatched(const struct target_thread *thread, int signal, struct reseat_error **ret_error);
/* ptrace(2), with a negative errno. */
long target_trace(int request, pid_t tid, uint64_t address, uint64_t data);

/* Lets the stopped threads that stand in the vDSO run on for a moment, and says whether there were any: they
 * have been interrupted again. */
bool target_run_out_of_vdso(struct target *target, long moment_ns);
