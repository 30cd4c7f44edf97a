/* The native PD interface: request and install of 10,000 and of one, and how long one install stops a process
 * of many threads. The floors are what a program would do that has the other side's help: one SCM_RIGHTS
 * transfer (unix(7)) of as many within this process, and pidfd_getfd(2), each in the same round. */
#include "native_pd.h"
#include "native_pd/linux.h"
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#define MANY             9000 /* twice as many must be allowed to this process where the hard limit is 20,000 */
#define MESSAGE_CAPS_MAX 253
#define FIRST_FREE       100 /* in targets of 10 capabilities */

static int caps[MANY], copies[MANY];

static double as_us(uint64_t ns)
{
    return (double)ns / 1000;
}

static void expect_done(int r, const char *what, const struct reseat_error *error)
{
    if (r < 0)
        rig_fail("%s: %s", what, error ? error->message : strerror(-r));
}

static struct native_pd *open_pd(const struct rig *rig)
{
    struct native_pd *pd;
    struct reseat_error *error = NULL;
    expect_done(native_pd_open(rig->target, &pd, &error), "opening a PD", error);
    return pd;
}

/* ---- floors ---- */

static size_t transfer_some(const int ends[2], const int *from, int *to, size_t count)
{
    char byte = 0, control[CMSG_SPACE(MESSAGE_CAPS_MAX * sizeof(int))] = {0};
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = CMSG_SPACE(count * sizeof(int))};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)),
                               .cmsg_level = SOL_SOCKET,
                               .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), from, count * sizeof(int));
    if (sendmsg(ends[0], &message, 0) < 0)
        rig_fail("sending %zu descriptors: %s", count, strerror(errno));
    message.msg_controllen = sizeof control;
    if (recvmsg(ends[1], &message, MSG_CMSG_CLOEXEC) < 0 || message.msg_flags & MSG_CTRUNC)
        rig_fail("receiving %zu descriptors", count);
    memcpy(to, CMSG_DATA(header), count * sizeof(int));
    return count;
}

static uint64_t time_transfer(size_t count)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        rig_fail("making a pair of sockets: %s", strerror(errno));
    uint64_t start_ns = rig_now_ns();
    for (size_t done = 0; done < count;)
        done += transfer_some(ends, caps + done, copies + done,
                              count - done < MESSAGE_CAPS_MAX ? count - done : MESSAGE_CAPS_MAX);
    uint64_t pass_ns = rig_now_ns() - start_ns;
    for (size_t i = 0; i < count; i++)
        close(copies[i]);
    close(ends[0]);
    close(ends[1]);
    return pass_ns;
}

static uint64_t time_getfd(pid_t pid, unsigned first, size_t count)
{
    int pidfd = sys_pidfd_open(pid);
    uint64_t start_ns = rig_now_ns();
    for (size_t i = 0; i < count; i++)
        copies[i] = sys_pidfd_getfd(pidfd, (int)(first + i));
    uint64_t pass_ns = rig_now_ns() - start_ns;
    for (size_t i = 0; i < count; i++) {
        if (copies[i] < 0)
            rig_fail("taking selector %zu of process %d: %s", first + i, pid, strerror(-copies[i]));
        close(copies[i]);
    }
    close(pidfd);
    return pass_ns;
}

/* ---- request ---- */

static uint64_t time_request(struct native_pd *pd, size_t count)
{
    static struct native_slot slots[MANY];
    struct reseat_error *error = NULL;
    size_t found;
    selector_t next;
    uint64_t start_ns = rig_now_ns();
    int r = native_pd_request_many(pd, 0, slots, count, &found, &next, &error);
    uint64_t pass_ns = rig_now_ns() - start_ns;
    expect_done(r, "requesting", error);
    if (found != count)
        rig_fail("%zu capabilities were found, not %zu", found, count);
    for (size_t i = 0; i < found; i++)
        close(slots[i].cap);
    return pass_ns;
}

static uint64_t time_list(struct native_pd *pd, size_t expected)
{
    static selector_t selectors[MANY];
    struct reseat_error *error = NULL;
    size_t found;
    uint64_t start_ns = rig_now_ns();
    int r = native_pd_list(pd, 0, selectors, expected, &found, &error);
    uint64_t pass_ns = rig_now_ns() - start_ns;
    expect_done(r, "listing", error);
    if (found != expected)
        rig_fail("%zu selectors were found, not %zu", found, expected);
    return pass_ns;
}

/* Selectors and identities by BPF; 0: not permitted here. */
static uint64_t time_identities(struct native_pd *pd, size_t expected)
{
    struct native_identity *identities;
    size_t found;
    uint64_t start_ns = rig_now_ns();
    if (native_pd_list_identities(pd, &identities, &found, NULL) < 0)
        return 0;
    uint64_t pass_ns = rig_now_ns() - start_ns;
    free(identities);
    if (found != expected)
        rig_fail("%zu identities were found, not %zu", found, expected);
    return pass_ns;
}

static void measure_request(const char *target, unsigned rounds, struct table *table)
{
    static struct samples many, list, identities, getfd, transfer;
    many.count = list.count = identities.count = getfd.count = transfer.count = 0;
    struct shape shape = {1, MANY, 1, true, 0};
    struct rig rig = rig_start(target, &shape);
    struct native_pd *pd = open_pd(&rig);
    for (unsigned round = 0; round < rounds; round++) {
        samples_add(&transfer, as_us(time_transfer(MANY)));
        samples_add(&many, as_us(time_request(pd, MANY)));
        samples_add(&getfd, as_us(time_getfd(rig.target, 0, MANY)));
        samples_add(&list, as_us(time_list(pd, MANY)));
        uint64_t pass_ns = time_identities(pd, MANY);
        if (pass_ns)
            samples_add(&identities, as_us(pass_ns));
    }
    native_pd_free(&pd);
    rig_end(&rig);
    struct bar bar = {.us = 6 * samples_median(&transfer), .text = "≤ 6 ×"}, none = {.text = "reported"};
    table_row(table, "request 9,000, target untouched", &many, &transfer, &bar);
    table_row(table, "the same by plain pidfd_getfd(2)", &getfd, &transfer, &none);
    table_row(table, "list 9,000 selectors", &list, &transfer, &none);
    struct bar each = {.us = 0.5 * MANY, .text = "≤ 0.5 µs each"};
    if (identities.count)
        table_row(table, "list 9,000 with identities, by BPF", &identities, &transfer, &each);
}

/* ---- install ---- */

/* Installs `count` at every `spread`-th selector; then again over what is there; then closes them. */
struct passes {
    uint64_t install_ns, replace_ns, close_ns;
};

static struct passes time_install(struct native_pd *pd, size_t count, unsigned spread)
{
    static struct native_slot slots[MANY];
    static selector_t selectors[MANY];
    struct reseat_error *error = NULL;
    struct passes passes;
    for (size_t i = 0; i < count; i++) {
        selectors[i] = FIRST_FREE + spread * (unsigned)i;
        slots[i] = (struct native_slot){selectors[i], caps[i], NATIVE_CLOSE_ON_EXEC};
    }
    uint64_t start_ns = rig_now_ns();
    expect_done(native_pd_install(pd, slots, count, &error), "installing", error);
    passes.install_ns = rig_now_ns() - start_ns;
    for (size_t i = 0; i < count; i++)
        slots[i].flags |= NATIVE_REPLACE;
    start_ns = rig_now_ns();
    expect_done(native_pd_install(pd, slots, count, &error), "replacing", error);
    passes.replace_ns = rig_now_ns() - start_ns;
    start_ns = rig_now_ns();
    expect_done(native_pd_close(pd, selectors, count, &error), "closing", error);
    passes.close_ns = rig_now_ns() - start_ns;
    return passes;
}

static void measure_install(const char *target, unsigned rounds, struct table *table)
{
    static struct samples dense, sparse, replace, closing, transfer;
    dense.count = sparse.count = replace.count = closing.count = transfer.count = 0;
    struct shape shape = {1, 10, 1, true, 0};
    struct rig rig = rig_start(target, &shape);
    struct native_pd *pd = open_pd(&rig);
    for (unsigned round = 0; round < rounds; round++) {
        samples_add(&transfer, as_us(time_transfer(MANY)));
        struct passes passes = time_install(pd, MANY, 1);
        samples_add(&dense, as_us(passes.install_ns));
        samples_add(&replace, as_us(passes.replace_ns));
        samples_add(&closing, as_us(passes.close_ns));
        passes = time_install(pd, MANY, 2);
        samples_add(&sparse, as_us(passes.install_ns));
    }
    native_pd_free(&pd);
    rig_end(&rig);
    struct bar bar = {.us = 3 * samples_median(&transfer), .text = "≤ 3 ×"}, none = {.text = "reported"};
    table_row(table, "install 9,000 in a row", &dense, &transfer, &bar);
    table_row(table, "install 9,000 at every second selector", &sparse, &transfer, &bar);
    table_row(table, "replace 9,000", &replace, &transfer, &bar);
    table_row(table, "close 9,000", &closing, &transfer, &none);
}

/* ---- one ---- */

static void measure_one(const char *target, unsigned rounds, unsigned threads, struct table *table)
{
    static struct samples stop, whole, request, getfd, transfer;
    stop.count = whole.count = request.count = getfd.count = transfer.count = 0;
    struct shape shape = {1, 10, threads, true, 0};
    struct rig rig = rig_start(target, &shape);
    struct native_pd *pd = open_pd(&rig);
    for (unsigned round = 0; round < rounds; round++) {
        samples_add(&transfer, as_us(time_transfer(1)));
        samples_add(&getfd, as_us(time_getfd(rig.target, 0, 1)));
        samples_add(&request, as_us(time_request(pd, 1)));
        samples_add(&whole, as_us(time_install(pd, 1, 1).install_ns));
        samples_add(&stop, as_us(native_pd_last_stop_ns(pd)));
    }
    native_pd_free(&pd);
    rig_end(&rig);
    char what[80];
    struct bar bar = {.us = 500 + 20 * threads}, none = {.text = "reported"};
    snprintf(bar.text, sizeof bar.text, "≤ %.2f ms", bar.us / 1000);
    if (threads == 1) {
        table_row(table, "request one", &request, &transfer, &none);
        table_row(table, "one plain pidfd_getfd(2)", &getfd, &transfer, &none);
    }
    snprintf(what, sizeof what, "install one, %u thread%s", threads, threads == 1 ? "" : "s");
    table_row(table, what, &whole, &transfer, &none);
    snprintf(what, sizeof what, "of that the target stands still, %u thread%s", threads,
             threads == 1 ? "" : "s");
    table_row(table, what, &stop, &transfer, &bar);
}

void bench_native_pd(const char *target, unsigned rounds, struct table *table)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (size_t i = 0; i < MANY; i++)
        if ((caps[i] = eventfd(0, EFD_CLOEXEC)) < 0)
            rig_fail("opening descriptor %zu: %s (RLIMIT_NOFILE is %llu)", i, strerror(errno),
                     (unsigned long long)limit.rlim_cur);
    table_begin("The native PD interface, many", "one SCM_RIGHTS transfer of as many");
    measure_request(target, rounds, table);
    measure_install(target, rounds, table);
    table_begin("The native PD interface, one", "one SCM_RIGHTS transfer of one");
    for (unsigned threads = 1; threads <= 100; threads *= 10)
        measure_one(target, rounds, threads, table);
    for (size_t i = 0; i < MANY; i++)
        close(caps[i]);
}
