/* What the files of the target room share. */
#pragma once

#include "target/target.h"

/* Debian 12's headers have these as enumerators of another name or not at all. */
#define EVENT_STOP                       128 /* PTRACE_EVENT_STOP */
#define SET_SYSCALL_USER_DISPATCH_CONFIG 0x4210
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211

/* ptrace(2), with a negative errno. */
long target_trace(int request, pid_t tid, uint64_t address, uint64_t data);
