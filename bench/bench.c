/* The numbers to reach: how long a target stands still, how long it takes to come back, what both cost it
 * afterwards, and what the commands and the listing take. Each is measured in rounds on one and the same
 * process, side by side with a floor that the same process or the same machine sets in the same round, so
 * that the ratios hold on a machine that is busy with something else.
 *
 * usage: bench --command build/reseat --target build/bench/bench-target [--rounds N] [--largest MEBIBYTES]
 * [--only heir|copy|writes|commands|listing|native-pd|core|image]. Ends with 0 when everything was measured,
 * whether the bars were met or not. */
#include "core.h"
#include "image.h"
#include "native_pd.h"
#include "reseat.h"
#include "rig.h"
#include "table.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS_USUAL   20
#define ROUNDS_COMMAND 50
#define WAIT_NS        5000000000U
/* A copy of which every page was written to, and the rest of the machine. */
#define MEBIBYTES_FREE(mebibytes) (2 * (mebibytes) + 512)

extern char **environ;

struct bench {
    const char *command, *target;
    const char *only; /* NULL: all parts */
    unsigned rounds, largest;
    char work[64]; /* a directory of our own */
    char dir[80];  /* the checkpoint in it */
    struct table table;
};

static const unsigned sizes[] = {10, 256, 2048}, capability_counts[] = {10, 10000},
                      thread_counts[] = {1, 10, 100};
#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

static double as_us(uint64_t ns)
{
    return (double)ns / 1000;
}

static bool has_memory_for(const struct shape *shape)
{
    _Static_assert(sizeof(unsigned long) == 8, "bytes of memory need 64 bits");
    struct sysinfo info;
    sysinfo(&info);
    return ((info.freeram + info.bufferram) * info.mem_unit >> 20) > MEBIBYTES_FREE(shape->mebibytes);
}

static const char *describe_shape(const struct shape *shape, char *text, size_t size)
{
    snprintf(text, size, "%u MiB, %u capabilities, %u thread%s", shape->mebibytes, shape->capabilities,
             shape->threads, shape->threads == 1 ? "" : "s");
    return text;
}

/* ---- one step ---- */

static void expect_done(int r, const char *what, struct reseat_error *error)
{
    if (r < 0)
        rig_fail("%s: %s", what, error ? reseat_error_message(error) : strerror(-r));
}

static struct reseat_checkpoint_result take_checkpoint(struct bench *bench, struct rig *rig, unsigned flags)
{
    struct reseat_checkpoint_options options = {.flags = RESEAT_LIVE | flags};
    struct reseat_checkpoint_result result;
    struct reseat_error *error = NULL;
    expect_done(reseat_checkpoint(rig->target, bench->dir, &options, &result, &error), "checkpoint", error);
    return result;
}

static struct reseat_restore_result put_back(struct bench *bench, struct rig *rig)
{
    struct reseat_restore_options options = {.wait_ns = WAIT_NS};
    struct reseat_restore_result result;
    struct reseat_error *error = NULL;
    expect_done(reseat_restore(bench->dir, &options, &result, &error), "restore", error);
    close(result.pidfd);
    if (result.pid != rig->target || result.same != result.slots || result.slots != rig->shape.capabilities)
        rig_fail("process %d came back as %d with %u of %u slots", rig->target, result.pid, result.same,
                 result.slots);
    return result;
}

static void drop(struct bench *bench)
{
    struct reseat_error *error = NULL;
    expect_done(reseat_drop(bench->dir, &error), "drop", error);
}

/* Runs a command without output and returns how long it took. */
static uint64_t run_command(char *const argv[])
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    int status = 0;
    uint64_t start_ns = rig_now_ns();
    int r = posix_spawn(&pid, argv[0], &actions, NULL, argv, environ);
    if (r != 0)
        rig_fail("starting %s: %s", argv[0], strerror(r));
    waitpid(pid, &status, 0);
    uint64_t wall_ns = rig_now_ns() - start_ns;
    posix_spawn_file_actions_destroy(&actions);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        rig_fail("%s %s failed", argv[0], argv[1]);
    return wall_ns;
}

/* ---- every shape of target ---- */

typedef void (*shape_fn)(struct bench *bench, const struct shape *shape);

static bool can_measure(const struct bench *bench, const struct shape *shape)
{
    if (shape->mebibytes > bench->largest)
        return false;
    if (has_memory_for(shape))
        return true;
    printf("\nNot measured: %u MiB, for which this machine has too little free memory.\n\n",
           shape->mebibytes);
    return false;
}

static void for_all_shapes(struct bench *bench, shape_fn measure)
{
    for (size_t s = 0; s < COUNT_OF(sizes); s++) {
        struct shape shape = {.mebibytes = sizes[s], .is_mixed = true};
        if (!can_measure(bench, &shape))
            continue;
        for (size_t c = 0; c < COUNT_OF(capability_counts); c++)
            for (size_t t = 0; t < COUNT_OF(thread_counts); t++) {
                shape.capabilities = capability_counts[c];
                shape.threads = thread_counts[t];
                measure(bench, &shape);
            }
    }
}

/* ---- row 1: killing, and restoring from the heir ---- */

static void measure_heir(struct bench *bench, const struct shape *shape)
{
    static struct samples pause, restore, fork;
    pause.count = restore.count = fork.count = 0;
    struct rig rig = rig_start(bench->target, shape);
    for (unsigned round = 0; round < bench->rounds; round++) {
        rig_ask(&rig, BENCH_WRITE);
        samples_add(&fork, as_us(rig_ask(&rig, BENCH_FORK)));
        samples_add(&pause, as_us(take_checkpoint(bench, &rig, 0).pause_ns));
        samples_add(&restore, as_us(put_back(bench, &rig).restore_ns));
    }
    rig_end(&rig);

    char what[80], row[112];
    describe_shape(shape, what, sizeof what);
    struct bar bar = {.us = 1000 + 40 * shape->threads};
    snprintf(bar.text, sizeof bar.text, "≤ %.2f ms", bar.us / 1000);
    snprintf(row, sizeof row, "pause: %s", what);
    table_row(&bench->table, row, &pause, &fork, &bar);
    bar.us = 1000 + 60 * shape->threads;
    snprintf(bar.text, sizeof bar.text, "≤ %.2f ms", bar.us / 1000);
    snprintf(row, sizeof row, "restore: %s", what);
    table_row(&bench->table, row, &restore, &fork, &bar);
}

/* ---- row 2: leaving it running ---- */

static void measure_copy(struct bench *bench, const struct shape *shape)
{
    static struct samples pause, fork;
    pause.count = fork.count = 0;
    struct rig rig = rig_start(bench->target, shape);
    for (unsigned round = 0; round < bench->rounds; round++) {
        /* Both find all pages writable, as in a process that has never forked. */
        rig_ask(&rig, BENCH_WRITE);
        samples_add(&fork, as_us(rig_ask(&rig, BENCH_FORK)));
        rig_ask(&rig, BENCH_WRITE);
        samples_add(&pause, as_us(take_checkpoint(bench, &rig, RESEAT_LEAVE_RUNNING).pause_ns));
        drop(bench);
    }
    rig_end(&rig);

    char what[80];
    struct bar bar = {.us = 1.3 * samples_median(&fork) + 300 + 40 * shape->threads};
    snprintf(bar.text, sizeof bar.text, "≤ 1.3 × + %.2f ms: %.2f ms", (300 + 40 * shape->threads) / 1000.0,
             bar.us / 1000);
    table_row(&bench->table, describe_shape(shape, what, sizeof what), &pause, &fork, &bar);
}

/* ---- row 3: the first writes afterwards ---- */

static void measure_writes(struct bench *bench, unsigned mebibytes)
{
    static struct samples before, after_heir, after_fork, after_copy;
    before.count = after_heir.count = after_fork.count = after_copy.count = 0;
    struct shape shape = {mebibytes, 10, 1, true, 0};
    if (!can_measure(bench, &shape))
        return;
    struct rig rig = rig_start(bench->target, &shape);
    rig_ask(&rig, BENCH_WRITE);
    for (unsigned round = 0; round < bench->rounds; round++) {
        samples_add(&before, as_us(rig_ask(&rig, BENCH_WRITE)));
        take_checkpoint(bench, &rig, 0);
        put_back(bench, &rig);
        samples_add(&after_heir, as_us(rig_ask(&rig, BENCH_WRITE)));
        samples_add(&after_fork, as_us(rig_ask(&rig, BENCH_FORK_AND_WRITE)));
        rig_ask(&rig, BENCH_WRITE);
        take_checkpoint(bench, &rig, RESEAT_LEAVE_RUNNING);
        samples_add(&after_copy, as_us(rig_ask(&rig, BENCH_WRITE)));
        drop(bench);
        rig_ask(&rig, BENCH_WRITE);
    }
    rig_end(&rig);

    char what[80];
    struct bar bar = {.us = 1.5 * samples_median(&before), .text = "≤ 1.5 ×"}, none = {.text = "reported"};
    snprintf(what, sizeof what, "after a restore from the heir: %u MiB", mebibytes);
    table_row(&bench->table, what, &after_heir, &before, &bar);
    snprintf(what, sizeof what, "after --leave-running: %u MiB", mebibytes);
    table_row(&bench->table, what, &after_copy, &before, &none);
    snprintf(what, sizeof what, "after a plain fork: %u MiB", mebibytes);
    table_row(&bench->table, what, &after_fork, &before, &none);
}

/* ---- row 4: the commands ---- */

static void measure_commands(struct bench *bench)
{
    static struct samples checkpoint, restore, nothing;
    struct shape shape = {1, 10, 1, true, 0};
    struct rig rig = rig_start(bench->target, &shape);
    char pid[16], *command = (char *)bench->command;
    snprintf(pid, sizeof pid, "%d", rig.target);
    for (unsigned round = 0; round < ROUNDS_COMMAND; round++) {
        samples_add(&nothing, as_us(run_command((char *[]){command, "--version", NULL})));
        samples_add(&checkpoint, as_us(run_command((char *[]){command, "-q", "checkpoint", "--live", pid,
                                                              "-o", bench->dir, NULL})));
        samples_add(&restore, as_us(run_command((char *[]){command, "-q", "restore", bench->dir, NULL})));
        rig_ask(&rig, BENCH_WRITE);
    }
    rig_end(&rig);
    struct bar bar = {.us = 5000, .text = "≤ 5 ms"};
    table_row(&bench->table, "checkpoint --live", &checkpoint, &nothing, &bar);
    table_row(&bench->table, "restore", &restore, &nothing, &bar);
}

/* ---- the listing ---- */

/* Reads the link of each selector and nothing else. */
static uint64_t time_links(pid_t pid, unsigned count)
{
    char path[32], link[4096];
    snprintf(path, sizeof path, "/proc/%d/fd", pid);
    int fd = open(path, O_PATH | O_CLOEXEC);
    uint64_t start_ns = rig_now_ns();
    for (unsigned i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%u", i);
        if (readlinkat(fd, path, link, sizeof link) < 0)
            rig_fail("reading the link of selector %u of process %d: %s", i, pid, strerror(errno));
    }
    uint64_t pass_ns = rig_now_ns() - start_ns;
    close(fd);
    return pass_ns;
}

static void measure_listing(struct bench *bench, bool is_mixed, double bar_us)
{
    static struct samples listing, links;
    listing.count = links.count = 0;
    struct shape shape = {1, 10000, 1, is_mixed, 0};
    struct rig rig = rig_start(bench->target, &shape);
    for (unsigned round = 0; round < bench->rounds; round++) {
        samples_add(&links, as_us(time_links(rig.target, shape.capabilities)) / shape.capabilities);
        struct reseat_listing *rows;
        struct reseat_error *error = NULL;
        uint64_t start_ns = rig_now_ns();
        expect_done(reseat_list_capabilities(&rig.target, 1, &rows, &error), "listing", error);
        samples_add(&listing, as_us(rig_now_ns() - start_ns) / shape.capabilities);
        if (rows->count != shape.capabilities)
            rig_fail("%zu capabilities were listed, not %u", rows->count, shape.capabilities);
        reseat_listing_free(rows);
    }
    rig_end(&rig);
    struct bar bar = {.us = bar_us};
    snprintf(bar.text, sizeof bar.text, "≤ %.0f µs", bar_us);
    table_row(&bench->table,
              is_mixed ? "one of 10,000 of many kinds" : "one of 10,000, all anonymous (eventfd)", &listing,
              &links, &bar);
}

/* ---- all of it ---- */

/* The value of a line "Word : value" of a file under /proc. */
static void print_line_of(const char *path, const char *word)
{
    char line[256];
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file)) {
        const char *value = strchr(line, ':');
        if (strncmp(line, word, strlen(word)) != 0 || !value)
            continue;
        printf("%.*s", (int)strcspn(value + 2, "\n"), value + 2);
        break;
    }
    if (file)
        fclose(file);
}

static void print_load(const char *when)
{
    double load[3] = {0};
    getloadavg(load, 3);
    printf("load %s %.2f %.2f %.2f", when, load[0], load[1], load[2]);
}

static void print_machine(const struct bench *bench)
{
    struct utsname system;
    char day[32];
    time_t now = time(NULL);
    struct sysinfo info;
    uname(&system);
    sysinfo(&info);
    strftime(day, sizeof day, "%Y-%m-%d", gmtime(&now));
    printf("# Results of make bench\n\n%s, reseat %s. ", day, RESEAT_VERSION);
    printf("Machine: %ld × ", sysconf(_SC_NPROCESSORS_ONLN));
    print_line_of("/proc/cpuinfo", "model name");
    printf(", %lu MiB, %s %s %s; ", info.totalram * info.mem_unit >> 20, system.sysname, system.release,
           system.machine);
    print_load("at the start");
    printf(".\nMedians of %u rounds, with the 10th and the 90th percentile.\n", bench->rounds);
}

static void measure_all_heirs(struct bench *bench)
{
    table_begin("Checkpoint that kills, restore from the heir", "a plain fork() by the same process");
    for_all_shapes(bench, measure_heir);
}

static void measure_all_copies(struct bench *bench)
{
    table_begin("Pause of --leave-running", "a plain fork() by the same process");
    for_all_shapes(bench, measure_copy);
}

static void measure_all_writes(struct bench *bench)
{
    table_begin("First pass of writes over all memory", "the same pass before");
    for (size_t s = 0; s < COUNT_OF(sizes); s++)
        measure_writes(bench, sizes[s]);
}

static void measure_all_commands(struct bench *bench)
{
    table_begin("Wall time of the commands, small process", "the command with --version");
    measure_commands(bench);
}

static void measure_all_listings(struct bench *bench)
{
    table_begin("Listing with names and identities", "one readlinkat(2) in /proc/PID/fd");
    measure_listing(bench, true, 20);
    measure_listing(bench, false, 45);
}

static void measure_all_native_pd(struct bench *bench)
{
    bench_native_pd(bench->target, bench->rounds, &bench->table);
}

static void measure_core(struct bench *bench)
{
    bench_core(bench->command, bench->target, bench->work, bench->rounds, &bench->table);
}

static void measure_all_images(struct bench *bench)
{
    bench_image(bench->command, bench->target, bench->rounds, bench->largest, &bench->table);
}

static const struct part {
    const char *name;
    void (*measure)(struct bench *bench);
} parts[] = {
    {"heir", measure_all_heirs},
    {"copy", measure_all_copies},
    {"writes", measure_all_writes},
    {"commands", measure_all_commands},
    {"listing", measure_all_listings},
    {"native-pd", measure_all_native_pd},
    {"core", measure_core},
    {"image", measure_all_images},
};

static void measure_all(struct bench *bench)
{
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (!bench->only || strcmp(bench->only, parts[i].name) == 0)
            parts[i].measure(bench);
    printf("\n%zu of %zu bars were met; ", bench->table.met, bench->table.bars);
    print_load("at the end");
    printf(".\n");
}

static bool read_arguments(int argc, char **argv, struct bench *bench)
{
    static const struct option options[] = {
        {"command", required_argument, NULL, 'c'}, {"target", required_argument, NULL, 't'},
        {"rounds", required_argument, NULL, 'r'},  {"largest", required_argument, NULL, 'l'},
        {"only", required_argument, NULL, 'o'},    {0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == 'c')
            bench->command = optarg;
        else if (option == 't')
            bench->target = optarg;
        else if (option == 'r')
            bench->rounds = (unsigned)strtoul(optarg, NULL, 10);
        else if (option == 'l')
            bench->largest = (unsigned)strtoul(optarg, NULL, 10);
        else if (option == 'o')
            bench->only = optarg;
        else
            return false;
    }
    bool is_known = !bench->only;
    for (size_t i = 0; bench->only && i < COUNT_OF(parts); i++)
        is_known = is_known || strcmp(bench->only, parts[i].name) == 0;
    return is_known && optind == argc && bench->command && bench->target && bench->rounds > 0 &&
           bench->rounds <= SAMPLES_MAX;
}

int main(int argc, char **argv)
{
    struct bench bench = {.rounds = ROUNDS_USUAL, .largest = UINT_MAX, .work = "/tmp/reseat-bench-XXXXXX"};
    if (!read_arguments(argc, argv, &bench)) {
        fprintf(stderr,
                "usage: bench --command build/reseat --target build/bench/bench-target [--rounds N]\n");
        return 2;
    }
    if (!mkdtemp(bench.work))
        rig_fail("making a directory in /tmp: %s", strerror(errno));
    snprintf(bench.dir, sizeof bench.dir, "%s/checkpoint", bench.work);
    print_machine(&bench);
    measure_all(&bench);
    rmdir(bench.work);
    return 0;
}
