/* Record locks (fcntl(2) F_SETLK). Their owner is a descriptor table, and nothing hands them on to another:
 * one table lets them go, the other takes them, and whoever asks in between gets them. The kernel also notes
 * the number of the process that took one, by which a later checkpoint finds it. */
#include "process/process.h"
#include "target/target.h"

#include <fcntl.h>
#include <sys/syscall.h>

void process_add_lock(struct program *program, const char *what, int command, const struct snapshot_lock *row,
                      int type)
{
    struct flock lock = {.l_type = (short)type,
                         .l_whence = SEEK_SET,
                         .l_start = row->start,
                         .l_len = row->length};
    program_call(program, what, SYS_fcntl, row->selector, (uint64_t)command,
                 scratch_copy(program->scratch, &lock, sizeof lock));
}

int process_take_locks(struct target *process, const struct snapshot *snapshot, bool renews,
                       struct reseat_error **ret_error)
{
    _cleanup_(program_batch_end) struct program_batch batch = {0};
    int r = program_batch_begin(&batch, process, ret_error);
    for (size_t i = 0; r == 0 && i < snapshot->locks_count; i++) {
        const struct snapshot_lock *row = &snapshot->locks[i];
        if (renews)
            process_add_lock(&batch.program, NULL, F_SETLK, row, F_UNLCK);
        process_add_lock(&batch.program, "taking a record lock again (somebody else has taken it meanwhile)",
                         F_SETLK, row, row->type);
        r = program_batch_room(&batch, 2 * sizeof(struct flock), ret_error);
    }
    return r == 0 ? program_batch_run(&batch, ret_error) : r;
}
