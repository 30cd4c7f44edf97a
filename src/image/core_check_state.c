/* Whether state, signal actions and filters make sense (beside core_check.c): everything in them that is an
 * offset, a count or an index. Ids, privileges and limits are not judged here but where they are to be put
 * back, against those of the caller (process_check_privileges()). */
#include "image/image-internal.h"

#include <limits.h>
#include <inttypes.h>
#include <string.h>

#define SECTION_MACHINES    ".reseat.machine"
#define FEATURES_MAX        4096
#define SECTION_STATES      ".reseat.state"
#define SECTION_CREDENTIALS ".reseat.credential"
#define SECTION_ACTIONS     ".reseat.action"
#define SECTION_FILTERS     ".reseat.filter"
#define SIGNAL_MAX          64
#define GROUPS_MAX          65536 /* NGROUPS_MAX of the kernel */
#define AUXV_BYTES_MAX      1024
#define FILTER_LENGTH_MAX   4096 /* BPF_MAXINSNS */
#define FILTERS_MAX         256
#define CONTROL_GROUPS_MAX  65536

static int check_groups(const struct snapshot *snapshot, const char *section, size_t row,
                        const struct snapshot_credentials *credentials, struct reseat_error **ret_error)
{
    if (credentials->group_count > GROUPS_MAX)
        return core_bad_row(ret_error, section, row, "%u groups", credentials->group_count);
    return core_check_bytes(snapshot, section, row, "groups", credentials->groups_offset,
                            credentials->group_count * UINT64_C(4), ret_error);
}

static int check_state(const struct snapshot *snapshot, const struct snapshot_state *state,
                       struct reseat_error **ret_error)
{
    if (snapshot->states_count != 1)
        return core_bad_row(ret_error, SECTION_STATES, 1, "a process has one state");
    if (state->auxv_length > AUXV_BYTES_MAX)
        return core_bad_row(ret_error, SECTION_STATES, 0, "an auxiliary vector of %" PRIu64 " bytes",
                            state->auxv_length);
    int r = check_groups(snapshot, SECTION_STATES, 0, &state->credentials, ret_error);
    if (r == 0)
        r = core_check_bytes(snapshot, SECTION_STATES, 0, "auxiliary vector", state->auxv_offset,
                             state->auxv_length, ret_error);
    if (r == 0)
        r = core_check_text(snapshot, SECTION_STATES, 0, "working directory", state->directory_offset,
                            PATH_MAX, ret_error);
    if (r == 0)
        r = core_check_text(snapshot, SECTION_STATES, 0, "root directory", state->root_offset, PATH_MAX,
                            ret_error);
    if (r == 0)
        r = core_check_text(snapshot, SECTION_STATES, 0, "control groups", state->control_groups_offset,
                            CONTROL_GROUPS_MAX, ret_error);
    if (r == 0)
        r = core_check_text(snapshot, SECTION_STATES, 0, "program", state->exe_offset, PATH_MAX, ret_error);
    const uint64_t paths[] = {state->directory_offset, state->root_offset, state->exe_offset};
    for (size_t i = 0; r == 0 && i < COUNT_OF(paths); i++)
        if (!core_is_full_path((const char *)snapshot->blobs + paths[i]))
            r = core_bad_row(ret_error, SECTION_STATES, 0, "a path in it is not absolute, or has .. in it");
    return r;
}

int core_check_states(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    return snapshot->states_count ? check_state(snapshot, &snapshot->states[0], ret_error) : 0;
}

/* In the order of the threads, and not of the main thread, whose the process's are. */
int core_check_credentials(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    size_t thread = 1;
    for (size_t i = 0; i < snapshot->credentials_count; i++) {
        const struct snapshot_thread_credentials *row = &snapshot->credentials[i];
        while (thread < snapshot->threads_count && snapshot->threads[thread].tid != row->tid)
            thread++;
        if (thread++ >= snapshot->threads_count)
            return core_bad_row(ret_error, SECTION_CREDENTIALS, i, "there is no thread %u here", row->tid);
        int r = check_groups(snapshot, SECTION_CREDENTIALS, i, &row->credentials, ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

int core_check_actions(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    uint32_t last = 0;
    for (size_t i = 0; i < snapshot->actions_count; i++) {
        uint32_t signal = snapshot->actions[i].signal;
        if (signal > SIGNAL_MAX || signal <= last)
            return core_bad_row(ret_error, SECTION_ACTIONS, i, "signal %u behind signal %u", signal, last);
        last = signal;
    }
    return 0;
}

int core_check_filters(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    for (size_t i = 0; i < snapshot->filters_count; i++) {
        const struct snapshot_filter *filter = &snapshot->filters[i];
        if (i >= FILTERS_MAX || filter->length == 0 || filter->length > FILTER_LENGTH_MAX)
            return core_bad_row(ret_error, SECTION_FILTERS, i, "a filter of %u instructions", filter->length);
        int r = core_check_bytes(snapshot, SECTION_FILTERS, i, "filter", filter->offset,
                                 filter->length * UINT64_C(8), ret_error);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Where components of the extended state stand is judged when one is looked at: there has to be room. */
int core_check_machines(const struct snapshot *snapshot, struct reseat_error **ret_error)
{
    const struct snapshot_machine *machine = snapshot->machines;
    if (snapshot->machines_count > 1)
        return core_bad_row(ret_error, SECTION_MACHINES, 1, "an image is of one machine");
    if (!machine)
        return 0;
    if (!memchr(machine->kernel_release, '\0', sizeof machine->kernel_release))
        return core_bad_row(ret_error, SECTION_MACHINES, 0, "the release of the kernel has no end");
    return core_check_text(snapshot, SECTION_MACHINES, 0, "features", machine->features_offset, FEATURES_MAX,
                           ret_error);
}
