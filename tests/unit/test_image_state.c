/* Unit tests of what a hostile image may say of a process's state: credentials, actions of signals, filters,
 * paths. One sound snapshot, one wrong number in it at a time, and the sentence that names its place. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "image/image-internal.h"

#define PID 1234

static uint64_t add_bytes(struct snapshot *snapshot, const void *bytes, size_t length)
{
    uint64_t offset;
    assert_int_equal(snapshot_add_blob(snapshot, bytes, length, &offset), 0);
    return offset;
}

static uint64_t add_text(struct snapshot *snapshot, const char *text)
{
    return add_bytes(snapshot, text, strlen(text) + 1);
}

static void make_sound(struct snapshot *snapshot)
{
    static const uint32_t groups[] = {4, 20, 24};
    static const uint64_t code[] = {6};
    *snapshot = (struct snapshot){
        .process = {.version = SNAPSHOT_VERSION,
                    .form = SNAPSHOT_FORM_HEIR,
                    .pid = PID,
                    .ns_level_count = 1,
                    .ns_pids = {PID}},
    };
    for (uint32_t i = 0; i < 4; i++)
        *array_append(snapshot->threads, snapshot->threads_count) =
            (struct snapshot_thread){.tid = PID + i, .ns_tids = {PID + i}};
    uint64_t groups_offset = add_bytes(snapshot, groups, sizeof groups);
    *array_append(snapshot->states, snapshot->states_count) = (struct snapshot_state){
        .credentials = {.groups_offset = groups_offset, .group_count = COUNT_OF(groups)},
        .directory_offset = add_text(snapshot, "/home"),
        .root_offset = add_text(snapshot, "/"),
        .exe_offset = add_text(snapshot, "/bin/true"),
        .control_groups_offset = add_text(snapshot, "0::/\n"),
    };
    for (uint32_t i = 1; i < 4; i += 2)
        *array_append(snapshot->credentials, snapshot->credentials_count) =
            (struct snapshot_thread_credentials){.tid = PID + i,
                                                 .credentials = {.groups_offset = groups_offset,
                                                                 .group_count = i}};
    for (uint32_t i = 1; i < 3; i++)
        *array_append(snapshot->actions, snapshot->actions_count) = (struct snapshot_action){.signal = i};
    uint64_t code_offset = add_bytes(snapshot, code, sizeof code);
    for (int i = 0; i < 2; i++)
        *array_append(snapshot->filters, snapshot->filters_count) =
            (struct snapshot_filter){.offset = code_offset, .length = 1};
}

/* ---- one wrong number ---- */

static void two_states(struct snapshot *s)
{
    *array_append(s->states, s->states_count) = s->states[0];
}
static void many_groups(struct snapshot *s)
{
    s->states[0].credentials.group_count = 65537;
}
static void groups_outside(struct snapshot *s)
{
    s->states[0].credentials.groups_offset = s->blobs_count;
}
static void groups_wrap(struct snapshot *s)
{
    s->states[0].credentials.groups_offset = UINT64_MAX - 3;
}
static void long_auxv(struct snapshot *s)
{
    s->states[0].auxv_length = 1025;
}
static void auxv_outside(struct snapshot *s)
{
    s->states[0].auxv_length = 1000;
}
static void open_text(struct snapshot *s)
{
    s->blobs[s->blobs_count - 1] = 1, s->states[0].exe_offset = s->blobs_count - 1;
}
static void no_full_path(struct snapshot *s)
{
    s->states[0].root_offset = add_text(s, "home");
}
static void path_upwards(struct snapshot *s)
{
    s->states[0].exe_offset = add_text(s, "/bin/../x");
}
static void text_outside(struct snapshot *s)
{
    s->states[0].directory_offset = UINT64_MAX;
}
static void nobodys(struct snapshot *s)
{
    s->credentials[1].tid = 99;
}
static void main_threads(struct snapshot *s)
{
    s->credentials[0].tid = PID;
}
static void same_twice(struct snapshot *s)
{
    s->credentials[1].tid = PID + 1;
}
static void other_order(struct snapshot *s)
{
    s->credentials[0].tid = PID + 3, s->credentials[1].tid = PID + 1;
}
static void many_of_its_own(struct snapshot *s)
{
    s->credentials[1].credentials.group_count = 65537;
}
static void its_own_outside(struct snapshot *s)
{
    s->credentials[1].credentials.groups_offset = s->blobs_count - 4;
}
static void no_signal(struct snapshot *s)
{
    s->actions[0].signal = 0;
}
static void large_signal(struct snapshot *s)
{
    s->actions[1].signal = 65;
}
static void signal_twice(struct snapshot *s)
{
    s->actions[1].signal = 1;
}
static void empty_filter(struct snapshot *s)
{
    s->filters[1].length = 0;
}
static void long_filter(struct snapshot *s)
{
    s->filters[1].length = 4097;
}
static void filter_outside(struct snapshot *s)
{
    s->filters[1].offset = s->blobs_count;
}
static void many_filters(struct snapshot *s)
{
    while (s->filters_count <= 256)
        *array_append(s->filters, s->filters_count) = s->filters[0];
}

static const struct {
    void (*spoil)(struct snapshot *snapshot);
    const char *sentence;
} wrongs[] = {
    {two_states, "section .reseat.state: row 1: a process has one state"},
    {many_groups, "section .reseat.state: row 0: 65537 groups"},
    {groups_outside, "section .reseat.state: row 0: "},
    {groups_wrap, "section .reseat.state: row 0: "},
    {long_auxv, "section .reseat.state: row 0: an auxiliary vector of 1025 bytes"},
    {auxv_outside, "section .reseat.state: row 0: "},
    {open_text, "section .reseat.state: row 0: "},
    {no_full_path, "section .reseat.state: row 0: a path in it is not absolute"},
    {path_upwards, "section .reseat.state: row 0: a path in it is not absolute"},
    {text_outside, "section .reseat.state: row 0: "},
    {nobodys, "section .reseat.credential: row 1: there is no thread 99 here"},
    {main_threads, "section .reseat.credential: row 0: there is no thread 1234 here"},
    {same_twice, "section .reseat.credential: row 1: there is no thread 1235 here"},
    {other_order, "section .reseat.credential: row 1: there is no thread 1235 here"},
    {many_of_its_own, "section .reseat.credential: row 1: 65537 groups"},
    {its_own_outside, "section .reseat.credential: row 1: "},
    {no_signal, "section .reseat.action: row 0: signal 0 behind signal 0"},
    {large_signal, "section .reseat.action: row 1: signal 65"},
    {signal_twice, "section .reseat.action: row 1: signal 1 behind signal 1"},
    {empty_filter, "section .reseat.filter: row 1: a filter of 0 instructions"},
    {long_filter, "section .reseat.filter: row 1: a filter of 4097 instructions"},
    {filter_outside, "section .reseat.filter: row 1: "},
    {many_filters, "section .reseat.filter: row 256: "},
};

static void test_sound(void **state)
{
    (void)state;
    _cleanup_(snapshot_free) struct snapshot snapshot;
    struct reseat_error *error = NULL;
    make_sound(&snapshot);
    if (core_check_snapshot(&snapshot, &error) < 0)
        fail_msg("%s", error->message);
}

static void test_wrong(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(wrongs); i++) {
        _cleanup_(snapshot_free) struct snapshot snapshot;
        _cleanup_error_ struct reseat_error *error = NULL;
        make_sound(&snapshot);
        wrongs[i].spoil(&snapshot);
        assert_int_equal(core_check_snapshot(&snapshot, &error), -EBADMSG);
        if (!strstr(error->message, wrongs[i].sentence))
            fail_msg("\"%s\" does not say \"%s\"", error->message, wrongs[i].sentence);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_wrong),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
