/* A twin that lets go of its record locks for another process, and takes them again if nothing comes of that.
 */
#include "twin/twin.h"
#include "twin/twin-internal.h"

#include <errno.h>
#include <fcntl.h>

#define CALLS_BESIDE_LOCKS 16 /* a report, and a sleep */

static uint64_t mark_address(const struct snapshot *snapshot)
{
    return snapshot->process.scratch_address + TWIN_HEADER_OFFSET +
           offsetof(struct twin_header, gave_up_locks);
}

int twin_give_up_locks(struct target *twin, const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    static const uint64_t yes = 1;
    _cleanup_(program_end) struct program program = {0};
    int r =
        program_begin(&program, &twin->scratch, 2 * snapshot->locks_count + CALLS_BESIDE_LOCKS, 0, ret_error);
    if (r < 0)
        return r;
    for (size_t i = 0; i < snapshot->locks_count; i++)
        process_add_lock(&program, "letting go of a record lock", F_SETLK, &snapshot->locks[i], F_UNLCK);
    program_report(&program, twin->report_signal, twin->ns_pid, twin->threads[0].ns_tid);
    /* Who shall have had them meanwhile is killed with us, or by us: it is waited for. */
    for (size_t i = 0; i < snapshot->locks_count; i++)
        process_add_lock(&program, NULL, F_SETLKW, &snapshot->locks[i], snapshot->locks[i].type);
    program_park(&program);
    r = target_write(twin, mark_address(snapshot), &yes, sizeof yes);
    return r < 0 ? error_errno(ret_error, r, "writing the header of the twin %d", twin->pid)
                 : program_run(twin, &program, ret_error);
}

bool twin_gave_up_locks(struct target *twin, const struct snapshot *snapshot)
{
    uint64_t mark;
    return target_read(twin, mark_address(snapshot), &mark, sizeof mark) < 0 || mark;
}
