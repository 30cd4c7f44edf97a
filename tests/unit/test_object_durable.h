/* For the tests of the durable half of the object room: capture a subject, end it, make its objects anew, and
 * have a second process look at them at the old selectors. */
#pragma once

#include "image/image-internal.h"
#include "object/object.h"
#include "snapshot/snapshot.h"
#include "test_object_contents.h"
#include "test_object_subject.h"

#include <fcntl.h>
#include <ftw.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#define MUST(call)                                                                                           \
    ({                                                                                                       \
        __typeof__(call) value_ = (call);                                                                    \
        if (value_ == (__typeof__(call))-1) {                                                                \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(errno));                  \
            _exit(99);                                                                                       \
        }                                                                                                    \
        value_;                                                                                              \
    })
#define EXPECT(condition) SUBJECT_CHECK(condition)

static char durable_directory[64];
static struct held_contents held; /* of the subject that was captured last */

static inline const char *test_directory(void)
{
    return durable_directory;
}

static inline const char *test_path(const char *name)
{
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", durable_directory, name);
    return path;
}

static inline int make_directory(void **state)
{
    (void)state;
    snprintf(durable_directory, sizeof durable_directory, "/tmp/reseat-objects-XXXXXX");
    return mkdtemp(durable_directory) ? 0 : -1;
}

static inline int remove_entry(const char *path, const struct stat *stat, int type, struct FTW *place)
{
    (void)stat, (void)type, (void)place;
    return remove(path);
}

static inline int remove_directory(void **state)
{
    (void)state;
    return nftw(durable_directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

/* A set-up: a network of the test's own. */
static inline int enter_namespace(void **state)
{
    (void)state;
    if (unshare(CLONE_NEWNET) < 0 || system("ip link set lo up") != 0)
        _exit(77); /* skipped: needs root and iproute2 */
    return 0;
}

/* Moves a descriptor to a selector. */
static inline int put_at(int selector, int fd)
{
    MUST(dup2(fd, selector));
    close(fd);
    return selector;
}

static inline bool same_object(int a, int b)
{
    return sys_kcmp(getpid(), getpid(), KCMP_FILE, (unsigned long)a, (unsigned long)b) == 0;
}

static inline const char *link_of_selector(int selector)
{
    static char text[512];
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", selector);
    ssize_t length = readlink(path, text, sizeof text - 1);
    text[length < 0 ? 0 : length] = '\0';
    return text;
}

static inline void run_set_up(void *userdata)
{
    void (*set_up)(void) = *(void (**)(void))userdata;
    /* What the test itself holds is not the subject's; it has its standard error to the end of the set-up. */
    close_range(3, ~0U, 0);
    close(0);
    MUST(open("/dev/null", O_RDWR));
    MUST(dup2(0, 1));
    set_up();
    MUST(dup2(0, 2));
}

static inline int capture_held(struct native_pd *pd, struct snapshot *snapshot, struct reseat_error **error)
{
    held_contents_end(&held);
    held.snapshot = snapshot;
    return object_capture(pd, &(struct object_contents){hold_content, &held}, snapshot, error);
}

/* Options, some of which may be NULL, with the contents. */
static inline int recreate_held(struct snapshot *snapshot, const struct object_options *options,
                                struct object_set *set, struct reseat_error **error)
{
    struct object_options all = options ? *options : (struct object_options){0};
    all.read_content = read_held_content;
    all.userdata = &held;
    return object_recreate(snapshot, &all, set, error);
}

static inline void capture_subject(void (*set_up)(void), struct snapshot *snapshot)
{
    _cleanup_(native_pd_free) struct native_pd *pd = NULL;
    _cleanup_error_ struct reseat_error *error = NULL;
    pid_t pid = subject_start(run_set_up, &set_up);
    snapshot->process.pid = (uint32_t)pid;
    if (native_pd_open(pid, &pd, &error) < 0 || capture_held(pd, snapshot, &error) < 0)
        fail_with_error("capture", error);
    subject_stop(pid);
    if (core_check_objects(snapshot, &error) < 0 || core_check_contents(snapshot, &error) < 0)
        fail_with_error("check", error);
}

static inline object_id_t object_at(const struct snapshot *snapshot, selector_t selector)
{
    for (size_t i = 0; i < snapshot->capabilities_count; i++)
        if (snapshot->capabilities[i].selector == selector)
            return snapshot->capabilities[i].object;
    fail_msg("selector %u is not in the snapshot", selector);
    return 0;
}

static inline enum object_fate fate_of(const struct object_verdicts *verdicts, selector_t selector)
{
    for (size_t i = 0; i < verdicts->count; i++)
        if (verdicts->items[i].selector == selector)
            return verdicts->items[i].fate;
    fail_msg("no verdict on selector %u", selector);
    return OBJECT_LOST;
}

/* In a child: what would be installed into the restored process, from selector 3 on, is put there. Our own
 * capabilities are moved up first, out of the way. */
static inline void install_all(const struct snapshot *snapshot, const struct object_set *set)
{
    for (object_id_t id = 1; id < set->count; id++)
        if (set->caps[id] >= 0)
            set->caps[id] = MUST(fcntl(set->caps[id], F_DUPFD_CLOEXEC, 500));
    for (size_t i = 0; i < snapshot->capabilities_count; i++) {
        const struct snapshot_capability *row = &snapshot->capabilities[i];
        if (row->selector >= 3 && set->caps[row->object] >= 0)
            MUST(dup3(set->caps[row->object], (int)row->selector, row->flags & FD_CLOEXEC ? O_CLOEXEC : 0));
    }
    for (object_id_t id = 1; id < set->count; id++)
        if (set->caps[id] >= 0)
            close(set->caps[id]);
}

static inline void run_look(const struct snapshot *snapshot, struct object_set *set, void (*look)(void))
{
    pid_t pid = fork();
    assert_return_code(pid, errno);
    if (pid == 0) {
        alarm(20);
        install_all(snapshot, set);
        look();
        _exit(0);
    }
    object_set_end(set); /* so that the ends of things are the second process's alone */
    int status;
    assert_return_code(waitpid(pid, &status, 0), errno);
    if (status != 0)
        fail_msg("what was made anew is not what it was (status 0x%x)", status);
}

/* The whole way. Everything must come back whole. */
static inline void expect_recreated(void (*set_up)(void), void (*look)(void))
{
    _cleanup_(snapshot_free) struct snapshot snapshot = {0};
    _cleanup_(object_set_end) struct object_set set = {0};
    _cleanup_error_ struct reseat_error *error = NULL;
    capture_subject(set_up, &snapshot);
    if (recreate_held(&snapshot, NULL, &set, &error) < 0)
        fail_with_error("recreate", error);
    run_look(&snapshot, &set, look);
}
