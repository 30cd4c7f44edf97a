/* The fields of every row of a snapshot. A field that is added to snapshot.h is added here, or nobody sees
 * it: the unit test counts the bytes. */
#include "image/fields.h"
#include "image/image-internal.h"

#include <stddef.h>

#define FIELD(type, member, kind_, unit_, words_)                                                            \
    {                                                                                                        \
        .name = #member, .kind = kind_, .offset = offsetof(struct type, member),                             \
        .size = sizeof(((struct type *)0)->member), .count = 1, .unit = unit_, .words = words_               \
    }
#define FIELDS(type, member, kind_, element)                                                                 \
    {                                                                                                        \
        .name = #member, .kind = kind_, .offset = offsetof(struct type, member), .size = sizeof(element),    \
        .count = sizeof(((struct type *)0)->member) / (sizeof(element))                                      \
    }

/* ---- words ---- */

static const struct field_word process_flags_words[] = {
    {SNAPSHOT_STOPPED, "stopped"},
    {SNAPSHOT_LEADS_GROUP, "leads-group"},
    {SNAPSHOT_LEADS_SESSION, "leads-session"},
    {SNAPSHOT_IN_FOREGROUND, "in-foreground"},
    {SNAPSHOT_SUBREAPER, "subreaper"},
    {SNAPSHOT_FILTERED, "filtered"},
    {SNAPSHOT_LEFT_RUNNING, "left-running"},
    {SNAPSHOT_LOCKS_FUTURE, "locks-future"},
    {SNAPSHOT_HAS_TERMIOS, "has-termios"},
    {SNAPSHOT_DUMPABLE, "dumpable"},
    {SNAPSHOT_THREADS_DIFFER, "threads-differ"},
    {0},
};

static const struct field_word form_words[] = {
    {SNAPSHOT_FORM_HEIR, "heir"},
    {SNAPSHOT_FORM_COPY, "copy"},
    {0},
};

static const struct field_word thread_flags_words[] = {
    {SNAPSHOT_THREAD_NO_NEW_PRIVS, "no-new-privs"},
    {0},
};

static const struct field_word region_flags_words[] = {
    {SNAPSHOT_REGION_DONTFORK, "dontfork"},
    {SNAPSHOT_REGION_WIPEONFORK, "wipeonfork"},
    {SNAPSHOT_REGION_LOCKED, "locked"},
    {SNAPSHOT_REGION_LOCKED_ONFAULT, "locked-onfault"},
    {0},
};

static const struct field_word vma_kind_words[] = {
    {SNAPSHOT_VMA_ANONYMOUS, "anonymous"}, {SNAPSHOT_VMA_FILE, "file"},   {SNAPSHOT_VMA_SHARED, "shared"},
    {SNAPSHOT_VMA_OBJECT, "object"},       {SNAPSHOT_VMA_SYSV, "sysv"},   {SNAPSHOT_VMA_VDSO, "vdso"},
    {SNAPSHOT_VMA_VVAR, "vvar"},           {SNAPSHOT_VMA_OTHER, "other"}, {0},
};

static const struct field_word vma_flags_words[] = {
    {SNAPSHOT_VMA_MAP_SHARED, "shared"},
    {SNAPSHOT_VMA_GROWS_DOWN, "grows-down"},
    {SNAPSHOT_VMA_NORESERVE, "noreserve"},
    {SNAPSHOT_VMA_HUGETLB, "hugetlb"},
    {SNAPSHOT_VMA_DONTFORK, "dontfork"},
    {SNAPSHOT_VMA_WIPEONFORK, "wipeonfork"},
    {SNAPSHOT_VMA_DONTDUMP, "dontdump"},
    {SNAPSHOT_VMA_HUGEPAGE, "hugepage"},
    {SNAPSHOT_VMA_NOHUGEPAGE, "nohugepage"},
    {SNAPSHOT_VMA_MERGEABLE, "mergeable"},
    {SNAPSHOT_VMA_SEQUENTIAL, "sequential"},
    {SNAPSHOT_VMA_RANDOM, "random"},
    {SNAPSHOT_VMA_LOCKED, "locked"},
    {SNAPSHOT_VMA_LOCKED_ONFAULT, "locked-onfault"},
    {SNAPSHOT_VMA_STORED, "stored"},
    {SNAPSHOT_VMA_MAY_WRITE, "may-write"},
    {SNAPSHOT_VMA_DROPPABLE, "droppable"},
    {SNAPSHOT_VMA_GUARD, "guard"},
    {0},
};

static const struct field_word protection_words[] = {
    {1, "r"},
    {2, "w"},
    {4, "x"},
    {0},
};

static const struct field_word object_flags_words[] = {
    {SNAPSHOT_OBJECT_DEGRADED, "degraded"},
    {SNAPSHOT_OBJECT_LOST, "lost"},
    {0},
};

static const struct field_word state_flags_words[] = {
    {SNAPSHOT_STATE_NO_HUGE_PAGES, "no-huge-pages"},
    {SNAPSHOT_STATE_IO_FLUSHER, "io-flusher"},
    {SNAPSHOT_STATE_REMOVED_DIRECTORY, "removed-directory"},
    {SNAPSHOT_STATE_REMOVED_EXE, "removed-exe"},
    {SNAPSHOT_STATE_OTHER_ROOT, "other-root"},
    {SNAPSHOT_STATE_HAS_LOGIN, "has-login"},
    {0},
};

static const struct field_word slot_flags_words[] = {
    {1, "close-on-exec"},
    {0},
};

static const struct field_word lock_type_words[] = {
    {0, "read"},
    {1, "write"},
    {0},
};

static const struct field_word owner_type_words[] = {
    {0, "thread"},
    {1, "process"},
    {2, "group"},
    {0},
};

/* ---- fields ---- */

static const struct field process_fields[] = {
    FIELD(snapshot_process, version, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, form, FIELD_CHOICE, 0, form_words),
    FIELD(snapshot_process, flags, FIELD_FLAGS, 0, process_flags_words),
    FIELD(snapshot_process, pid, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, ns_level_count, FIELD_UNSIGNED, 0, NULL),
    FIELDS(snapshot_process, ns_pids, FIELD_UNSIGNED, uint32_t),
    FIELD(snapshot_process, parent, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, group, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, session, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, tty, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_process, parent_death_signal, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, comm, FIELD_TEXT, 0, NULL),
    FIELD(snapshot_process, twin, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, ns_twin, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, twin_start_time, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, boot_id, FIELD_TEXT, 0, NULL),
    FIELD(snapshot_process, scratch_address, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_process, scratch_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_process, stub_address, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_process, realtime_ns, FIELD_UNSIGNED, 0, NULL),
    FIELDS(snapshot_process, itimers, FIELD_UNSIGNED, uint64_t),
    FIELD(snapshot_process, termios, FIELD_BYTES, 0, NULL),
    FIELD(snapshot_process, capability_count, FIELD_UNSIGNED, 0, NULL),
    {0},
};

static const struct field threads_fields[] = {
    FIELD(snapshot_thread, tid, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, flags, FIELD_FLAGS, 0, thread_flags_words),
    FIELDS(snapshot_thread, ns_tids, FIELD_UNSIGNED, uint32_t),
    FIELDS(snapshot_thread, regs, FIELD_ADDRESS, uint64_t),
    FIELD(snapshot_thread, xstate_offset, FIELD_BLOB, 1, NULL),
    FIELD(snapshot_thread, xstate_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, signal_mask, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, robust_list, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, robust_list_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, tid_address, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, altstack_address, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, altstack_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, altstack_flags, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, rseq_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, rseq_address, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, rseq_signature, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, rseq_flags, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, dispatch_mode, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, dispatch_selector, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, dispatch_offset, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, dispatch_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, timer_slack_ns, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, name, FIELD_TEXT, 0, NULL),
    FIELD(snapshot_thread, scheduling, FIELD_BYTES, 0, NULL),
    FIELD(snapshot_thread, affinity_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, secure_bits, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_thread, affinity, FIELD_BYTES, 0, NULL),
    FIELD(snapshot_thread, time_stamp_mode, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, memory_fault_policy, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, memory_policy, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_thread, io_priority, FIELD_UNSIGNED, 0, NULL),
    FIELDS(snapshot_thread, memory_policy_nodes, FIELD_ADDRESS, uint64_t),
    {0},
};

static const struct field signals_fields[] = {
    FIELD(snapshot_signal, tid, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_signal, siginfo, FIELD_BYTES, 0, NULL),
    {0},
};

static const struct field timers_fields[] = {
    FIELD(snapshot_timer, id, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_timer, clock, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_timer, notify, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_timer, signal, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_timer, value, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_timer, ns_tid, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_timer, interval_ns, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_timer, remaining_ns, FIELD_UNSIGNED, 0, NULL),
    {0},
};

static const struct field regions_fields[] = {
    FIELD(snapshot_region, start, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_region, end, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_region, flags, FIELD_FLAGS, 0, region_flags_words),
    {0},
};

static const struct field owners_fields[] = {
    FIELD(snapshot_owner, selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_owner, type, FIELD_CHOICE, 0, owner_type_words),
    FIELD(snapshot_owner, pid, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_owner, signal, FIELD_SIGNED, 0, NULL),
    {0},
};

static const struct field locks_fields[] = {
    FIELD(snapshot_lock, selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_lock, type, FIELD_CHOICE, 0, lock_type_words),
    FIELD(snapshot_lock, start, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_lock, length, FIELD_SIGNED, 0, NULL),
    {0},
};

static const struct field positions_fields[] = {
    FIELD(snapshot_position, selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_position, status_flags, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_position, offset, FIELD_SIGNED, 0, NULL),
    {0},
};

static const struct field interests_fields[] = {
    FIELD(snapshot_interest, epoll_selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_interest, selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_interest, events, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_interest, action, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_interest, data, FIELD_ADDRESS, 0, NULL),
    {0},
};

static const struct field reopens_fields[] = {
    FIELD(snapshot_reopen, selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_reopen, status_flags, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_reopen, descriptor_flags, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_reopen, alias_of, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_reopen, offset, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_reopen, path_offset, FIELD_NAME, 0, NULL),
    {0},
};

static const struct field vmas_fields[] = {
    FIELD(snapshot_vma, start, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_vma, end, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_vma, offset, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_vma, protection, FIELD_FLAGS, 0, protection_words),
    FIELD(snapshot_vma, flags, FIELD_FLAGS, 0, vma_flags_words),
    FIELD(snapshot_vma, kind, FIELD_CHOICE, 0, vma_kind_words),
    FIELD(snapshot_vma, object, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_vma, device_major, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_vma, device_minor, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_vma, inode, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_vma, file_size, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_vma, modified_ns, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_vma, path_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_vma, protection_key, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_vma, page_shift, FIELD_UNSIGNED, 0, NULL),
    {0},
};

static const struct field extents_fields[] = {
    FIELD(snapshot_extent, address, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_extent, length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_extent, file_offset, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_extent, stored_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_extent, checksum, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_extent, object, FIELD_UNSIGNED, 0, NULL),
    {0},
};

static const struct field capabilities_fields[] = {
    FIELD(snapshot_capability, selector, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_capability, object, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_capability, flags, FIELD_FLAGS, 0, slot_flags_words),
    {0},
};

static const struct field objects_fields[] = {
    FIELD(snapshot_object, id, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_object, status_flags, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_object, kind_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_object, name_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_object, state_offset, FIELD_BLOB, 1, NULL),
    FIELD(snapshot_object, state_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_object, device_major, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_object, device_minor, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_object, inode, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_object, flags, FIELD_FLAGS, 0, object_flags_words),
    FIELD(snapshot_object, mode, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_object, reason_offset, FIELD_NAME, 0, NULL),
    {0},
};

static const struct field actions_fields[] = {
    FIELD(snapshot_action, signal, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_action, handler, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_action, flags, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_action, restorer, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_action, mask, FIELD_ADDRESS, 0, NULL),
    {0},
};

/* Of a row that has a struct snapshot_credentials of that name. */
#define CREDENTIALS_FIELDS(type)                                                                             \
    FIELDS(type, credentials.uids, FIELD_UNSIGNED, uint32_t),                                                \
        FIELDS(type, credentials.gids, FIELD_UNSIGNED, uint32_t),                                            \
        FIELD(type, credentials.groups_offset, FIELD_BLOB, 4, NULL),                                         \
        FIELD(type, credentials.group_count, FIELD_UNSIGNED, 0, NULL),                                       \
        FIELD(type, credentials.secure_bits, FIELD_ADDRESS, 0, NULL),                                        \
        FIELDS(type, credentials.privileges, FIELD_ADDRESS, uint64_t)

static const struct field states_fields[] = {
    FIELD(snapshot_state, flags, FIELD_FLAGS, 0, state_flags_words),
    FIELD(snapshot_state, umask, FIELD_ADDRESS, 0, NULL),
    CREDENTIALS_FIELDS(snapshot_state),
    FIELDS(snapshot_state, limits, FIELD_UNSIGNED, uint64_t),
    FIELD(snapshot_state, layout.start_code, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.end_code, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.start_data, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.end_data, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.start_brk, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.brk, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.start_stack, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.arg_start, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.arg_end, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.env_start, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, layout.env_end, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, auxv_offset, FIELD_BLOB, 1, NULL),
    FIELD(snapshot_state, auxv_length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, directory_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_state, root_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_state, exe_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_state, exe_device_major, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, exe_device_minor, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, exe_inode, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, exe_size, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, exe_modified_ns, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_state, personality, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, dumpable, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, oom_score_adj, FIELD_SIGNED, 0, NULL),
    FIELD(snapshot_state, core_dump_filter, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, barriers, FIELD_ADDRESS, 0, NULL),
    FIELD(snapshot_state, no_write_execute, FIELD_UNSIGNED, 0, NULL),
    FIELDS(snapshot_state, namespaces, FIELD_UNSIGNED, uint64_t),
    FIELD(snapshot_state, control_groups_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_state, login_uid, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, directory_mode, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, directory_uid, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_state, directory_gid, FIELD_UNSIGNED, 0, NULL),
    {0},
};

static const struct field filters_fields[] = {
    FIELD(snapshot_filter, offset, FIELD_BLOB, 8, NULL),
    FIELD(snapshot_filter, length, FIELD_UNSIGNED, 0, NULL),
    FIELD(snapshot_filter, flags, FIELD_ADDRESS, 0, NULL),
    {0},
};

static const struct field credentials_fields[] = {
    FIELD(snapshot_thread_credentials, tid, FIELD_UNSIGNED, 0, NULL),
    CREDENTIALS_FIELDS(snapshot_thread_credentials),
    {0},
};

static const struct field machines_fields[] = {
    FIELD(snapshot_machine, kernel_release, FIELD_TEXT, 0, NULL),
    FIELD(snapshot_machine, features_offset, FIELD_NAME, 0, NULL),
    FIELD(snapshot_machine, xstate_components, FIELD_ADDRESS, 0, NULL),
    FIELDS(snapshot_machine, xstate_offsets, FIELD_UNSIGNED, uint32_t),
    FIELDS(snapshot_machine, xstate_lengths, FIELD_UNSIGNED, uint32_t),
    {0},
};

/* ---- tables ---- */

static const void *process_rows(const struct snapshot *snapshot, size_t *ret_count)
{
    *ret_count = 1;
    return &snapshot->process;
}

#define X(type, name, section)                                                                               \
    static const void *name##_rows(const struct snapshot *snapshot, size_t *ret_count)                       \
    {                                                                                                        \
        *ret_count = snapshot->name##_count;                                                                 \
        return snapshot->name;                                                                               \
    }
SNAPSHOT_TABLES(X)
#undef X

static const struct field blobs_fields[] = {
    {.name = "bytes", .kind = FIELD_BYTES, .size = 1, .count = 1},
    {0},
};

const struct field_table field_tables[] = {
    {"process", CORE_SECTION_PROCESS, process_fields, sizeof(struct snapshot_process), process_rows},
    {"threads", ".reseat.thread", threads_fields, sizeof(struct snapshot_thread), threads_rows},
    {"signals", ".reseat.signal", signals_fields, sizeof(struct snapshot_signal), signals_rows},
    {"timers", ".reseat.timer", timers_fields, sizeof(struct snapshot_timer), timers_rows},
    {"regions", ".reseat.region", regions_fields, sizeof(struct snapshot_region), regions_rows},
    {"owners", ".reseat.owner", owners_fields, sizeof(struct snapshot_owner), owners_rows},
    {"locks", ".reseat.lock", locks_fields, sizeof(struct snapshot_lock), locks_rows},
    {"positions", ".reseat.position", positions_fields, sizeof(struct snapshot_position), positions_rows},
    {"interests", ".reseat.interest", interests_fields, sizeof(struct snapshot_interest), interests_rows},
    {"reopens", ".reseat.reopen", reopens_fields, sizeof(struct snapshot_reopen), reopens_rows},
    {"vmas", ".reseat.vma", vmas_fields, sizeof(struct snapshot_vma), vmas_rows},
    {"extents", ".reseat.extent", extents_fields, sizeof(struct snapshot_extent), extents_rows},
    {"capabilities", ".reseat.capability", capabilities_fields, sizeof(struct snapshot_capability),
     capabilities_rows},
    {"objects", ".reseat.object", objects_fields, sizeof(struct snapshot_object), objects_rows},
    {"contents", ".reseat.content", extents_fields, sizeof(struct snapshot_extent), contents_rows},
    {"actions", ".reseat.action", actions_fields, sizeof(struct snapshot_action), actions_rows},
    {"states", ".reseat.state", states_fields, sizeof(struct snapshot_state), states_rows},
    {"filters", ".reseat.filter", filters_fields, sizeof(struct snapshot_filter), filters_rows},
    {"credentials", ".reseat.credential", credentials_fields, sizeof(struct snapshot_thread_credentials),
     credentials_rows},
    {"machines", ".reseat.machine", machines_fields, sizeof(struct snapshot_machine), machines_rows},
    {"blobs", ".reseat.blob", blobs_fields, 1, blobs_rows},
    {0},
};
