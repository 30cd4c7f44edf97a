/* Who a process is: user and group ids, capability sets (capabilities(7), which are CAP_* and have nothing to
 * do with our word), securebits; and threads that have such things, or a table or directory, for themselves.
 */
#include "subject.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sched.h>
#include <sys/prctl.h>

static struct {
    uid_t uid[3];
    gid_t gid[3];
    gid_t groups[64];
    int group_count;
    struct __user_cap_data_struct capabilities[2];
    uint64_t bounding, ambient;
    int securebits, keepcaps, no_new_privs, dumpable;
} credentials[2];

static void read_credentials(int which)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};

    __typeof__(&credentials[0]) c = &credentials[which];
    MUST(getresuid(&c->uid[0], &c->uid[1], &c->uid[2]));
    MUST(getresgid(&c->gid[0], &c->gid[1], &c->gid[2]));
    c->group_count = MUST(getgroups(64, c->groups));
    MUST(syscall(SYS_capget, &header, c->capabilities));
    for (int i = 0; i < 64; i++) {
        c->bounding |= (uint64_t)(prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1) << i;
        c->ambient |= (uint64_t)(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1) << i;
    }
    c->securebits = prctl(PR_GET_SECUREBITS);
    c->keepcaps = prctl(PR_GET_KEEPCAPS);
    c->no_new_privs = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    c->dumpable = prctl(PR_GET_DUMPABLE);
}

static void credentials_stay(void)
{
    read_credentials(0);
    be_checkpointed();
    read_credentials(1);
    CHECK(memcmp(credentials[0].uid, credentials[1].uid, sizeof credentials[0].uid) == 0);
    CHECK(memcmp(credentials[0].gid, credentials[1].gid, sizeof credentials[0].gid) == 0);
    CHECK_EQUAL(credentials[1].group_count, credentials[0].group_count);
    CHECK(memcmp(credentials[0].groups, credentials[1].groups, sizeof credentials[0].groups) == 0);
    CHECK(memcmp(credentials[0].capabilities, credentials[1].capabilities,
                 sizeof credentials[0].capabilities) == 0);
    CHECK_EQUAL(credentials[1].bounding, credentials[0].bounding);
    CHECK_EQUAL(credentials[1].ambient, credentials[0].ambient);
    CHECK_EQUAL(credentials[1].securebits, credentials[0].securebits);
    CHECK_EQUAL(credentials[1].keepcaps, credentials[0].keepcaps);
    CHECK_EQUAL(credentials[1].no_new_privs, credentials[0].no_new_privs);
    CHECK_EQUAL(credentials[1].dumpable, credentials[0].dumpable);
}

static void drop_root(void)
{
    MUST(setgroups(3, (gid_t[]){7, 42, 65000}));
    MUST(setresgid(65532, 65533, 65534));
    MUST(setresuid(65532, 65532, 65532));
}

/* A daemon: nothing of root is left, and it is not dumpable, so that /proc/PID belongs to root. */
static void dropped_root(void)
{
    drop_root();
    credentials_stay();
    CHECK(setuid(0) < 0 && errno == EPERM);
}

static void *sleep_for_long(void *argument)
{
    sleep_ms(3600000);
    return argument;
}

static void dropped_root_with_threads(void)
{
    for (int i = 0; i < 10; i++)
        start_thread(sleep_for_long, NULL);
    drop_root();
    credentials_stay();
}

/* A few capabilities in each set, and one raised in the ambient one. */
static void some_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{0}};
    const uint32_t bind = 1u << CAP_NET_BIND_SERVICE, raw = 1u << CAP_NET_RAW, kill_others = 1u << CAP_KILL;

    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0));
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT));
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    drop_root();
    sets[0].permitted = bind | raw | kill_others, sets[0].inheritable = bind | raw, sets[0].effective = bind;
    MUST(syscall(SYS_capset, &header, sets));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
    credentials_stay();
}

/* Different real, effective and saved numbers: it could become root again. */
static void may_return_to_root(void)
{
    MUST(setresgid(100, 200, 0));
    MUST(setresuid(100, 200, 0));
    credentials_stay();
    CHECK_EQUAL(seteuid(0), 0);
}

static void no_new_privileges(void)
{
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    credentials_stay();
    CHECK_EQUAL(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
}

/* ---- what one thread has for itself, although the threads of a process usually share it ---- */

static volatile bool differs;

static void *differ(void *setting)
{
    ((void (*)(void))setting)();
    differs = true;
    return sleep_for_long(NULL);
}

static void with_a_thread_that_differs(void (*setting)(void))
{
    start_thread(differ, (void *)setting);
    while (!differs)
        sleep_ms(1);
    be_checkpointed();
}

/* Past the C library, which would have all threads do it. */
static void set_other_credentials(void)
{
    MUST(syscall(SYS_setresuid, 1234, 1234, 0));
}

static void drop_root_alone(void)
{
    MUST(syscall(SYS_setgroups, 3, (gid_t[]){7, 42, 65000}));
    MUST(syscall(SYS_setresgid, 65532, 65533, 65534));
    MUST(syscall(SYS_setresuid, 65532, 65532, 65532));
}

static void act_for_a_user_on_files(void)
{
    MUST(syscall(SYS_setgroups, 1, (gid_t[]){100}));
    syscall(SYS_setfsgid, 100);
    syscall(SYS_setfsuid, 1000);
}

static void keep_one_capability(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct sets[2] = {{0}};
    sets[0].permitted = sets[0].effective = sets[0].inheritable = 1u << CAP_NET_BIND_SERVICE;
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0));
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_NOROOT));
    MUST(syscall(SYS_setresuid, 65532, 65532, 65532));
    MUST(syscall(SYS_capset, &header, sets));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
}

static void change_nothing(void)
{
}

/* What the kernel says that the calling thread is. */
static void describe_thread(char *text, size_t size)
{
    char line[4096];
    size_t length = 0;
    FILE *status = fopen("/proc/thread-self/status", "r");
    CHECK(status != NULL);
    while (fgets(line, sizeof line, status))
        if (strncmp(line, "Uid", 3) == 0 || strncmp(line, "Gid", 3) == 0 || strncmp(line, "Groups", 6) == 0 ||
            strncmp(line, "Cap", 3) == 0)
            length += (size_t)snprintf(text + length, size - length, "%s", line);
    fclose(status);
    snprintf(text + length, size - length, "securebits %d, dumpable %d\n", prctl(PR_GET_SECUREBITS),
             prctl(PR_GET_DUMPABLE));
}

static void (*const own_settings[])(void) = {
    set_other_credentials, drop_root_alone, act_for_a_user_on_files, keep_one_capability, change_nothing,
};
#define OWN_SETTINGS (sizeof own_settings / sizeof own_settings[0])

static pthread_barrier_t barrier;

static void *stay_as_set(void *setting)
{
    char before[2048], after[2048];
    own_settings[(intptr_t)setting]();
    pthread_barrier_wait(&barrier); /* all have theirs */
    pthread_barrier_wait(&barrier);
    describe_thread(before, sizeof before);
    pthread_barrier_wait(&barrier); /* all have looked */
    pthread_barrier_wait(&barrier); /* checkpointed */
    describe_thread(after, sizeof after);
    CHECK_TEXT(after, before);
    pthread_barrier_wait(&barrier);
    return NULL;
}

static void threads_stay_as_set(int dumpable)
{
    char before[2048], after[2048];
    MUST(pthread_barrier_init(&barrier, NULL, OWN_SETTINGS + 1));
    for (intptr_t i = 0; i < (intptr_t)OWN_SETTINGS; i++)
        start_thread(stay_as_set, (void *)i);
    pthread_barrier_wait(&barrier);
    MUST(prctl(PR_SET_DUMPABLE, dumpable));
    pthread_barrier_wait(&barrier);
    describe_thread(before, sizeof before);
    pthread_barrier_wait(&barrier);
    be_checkpointed();
    describe_thread(after, sizeof after);
    CHECK_TEXT(after, before);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
}

static void thread_credentials(void)
{
    threads_stay_as_set(1);
}

static void thread_credentials_not_dumpable(void)
{
    threads_stay_as_set(0);
}

/* The main thread cannot become what the other one still is. */
static void root_is_left_to_a_thread(void)
{
    start_thread(sleep_for_long, NULL);
    drop_root_alone();
    be_checkpointed();
}

static void set_other_table(void)
{
    MUST(unshare(CLONE_FILES));
}

static void set_other_directory(void)
{
    MUST(unshare(CLONE_FS));
    MUST(chdir("/"));
}

static void thread_table(void)
{
    with_a_thread_that_differs(set_other_table);
}

static void thread_directory(void)
{
    with_a_thread_that_differs(set_other_directory);
}

const struct subject subjects[] = {
    {"dropped-root", dropped_root, .root = true, .alone = true, .new_pid = true},
    {"dropped-root-threads", dropped_root_with_threads, .root = true, .alone = true},
    {"some-capabilities", some_capabilities, .root = true, .alone = true},
    {"may-return-to-root", may_return_to_root, .root = true, .alone = true},
    {"no-new-privileges", no_new_privileges},
    {"thread-credentials", thread_credentials, .root = true, .new_pid = true},
    {"thread-credentials-closed", thread_credentials_not_dumpable, .root = true},
    {"root-left-to-a-thread", root_is_left_to_a_thread, .root = true, .refused = "all: user or group ids"},
    {"thread-table", thread_table, .refused = "all: table"},
    {"thread-directory", thread_directory, .refused = "all: directory"},
    {0},
};
