/* Durable images: how long one takes to be written to tmpfs and to be read, how much memory Reseat itself
 * needs for it, and how large it is on the disk.
 *
 * Floors, of the same target in the same round: process_vm_readv(2) of all its memory into a new file of the
 * same tmpfs that is mapped (the least that must be done to have it there), and into one small buffer again
 * and again (what reading alone takes). For reading: a plain read(2) of the file into one buffer. */
#include "image.h"
#include "reseat.h"
#include "rig.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHUNK_BYTES      (1UL << 20)
#define MEMORY_MEBIBYTES 64

extern char **environ;

struct bench_image {
    const char *command;
    struct rig rig;
    char work[64], dir[80];
};

static double as_us(uint64_t ns)
{
    return (double)ns / 1000;
}

static void expect_done(int r, const char *what, struct reseat_error *error)
{
    if (r < 0)
        rig_fail("%s: %s", what, error ? reseat_error_message(error) : strerror(-r));
}

/* ---- floors ---- */

struct stretch {
    uintptr_t start;
    size_t length;
};

/* Where the memory of the target is: a mapping of this size. */
static struct stretch find_memory(pid_t pid, unsigned mebibytes)
{
    char path[32], line[512];
    struct stretch found = {0, 0};
    snprintf(path, sizeof path, "/proc/%d/maps", pid);
    FILE *maps = fopen(path, "re");
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx rw-p", &start, &end) == 2 && end - start >= (size_t)mebibytes << 20 &&
            (!found.length || end - start < found.length))
            found = (struct stretch){start, (size_t)mebibytes << 20};
    }
    if (maps)
        fclose(maps);
    return found;
}

/* Into `to`, or (NULL) into one buffer. */
static uint64_t time_readv(pid_t pid, const struct stretch *memory, uint8_t *to)
{
    static uint8_t buffer[CHUNK_BYTES];
    uint64_t start_ns = rig_now_ns();
    for (size_t at = 0; at < memory->length; at += CHUNK_BYTES) {
        size_t length = memory->length - at < CHUNK_BYTES ? memory->length - at : CHUNK_BYTES;
        struct iovec local = {to ? to + at : buffer, length}, remote = {(void *)(memory->start + at), length};
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != (ssize_t)length)
            rig_fail("process_vm_readv: %s", strerror(errno));
    }
    return rig_now_ns() - start_ns;
}

static uint64_t time_readv_to_file(const struct bench_image *bench, const struct stretch *memory)
{
    char path[96];
    snprintf(path, sizeof path, "%s/floor", bench->work);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)memory->length) < 0)
        rig_fail("%s: %s", path, strerror(errno));
    uint64_t start_ns = rig_now_ns();
    uint8_t *to = mmap(NULL, memory->length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (to == MAP_FAILED)
        rig_fail("%s: %s", path, strerror(errno));
    time_readv(bench->rig.target, memory, to);
    uint64_t ns = rig_now_ns() - start_ns;
    munmap(to, memory->length);
    close(fd);
    unlink(path);
    return ns;
}

static uint64_t time_read(const char *path)
{
    static uint8_t buffer[CHUNK_BYTES];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t start_ns = rig_now_ns();
    while (read(fd, buffer, sizeof buffer) > 0)
        ;
    uint64_t ns = rig_now_ns() - start_ns;
    close(fd);
    return ns;
}

/* ---- images ---- */

static void core_path(const struct bench_image *bench, char path[static 112])
{
    snprintf(path, 112, "%s/%d.core", bench->dir, bench->rig.target);
}

static void remove_image(const struct bench_image *bench)
{
    char path[112];
    core_path(bench, path);
    unlink(path);
    rmdir(bench->dir);
}

static uint64_t take_image(struct bench_image *bench, unsigned flags)
{
    struct reseat_checkpoint_options options = {.flags = RESEAT_IMAGE | RESEAT_LEAVE_RUNNING | flags};
    struct reseat_checkpoint_result result;
    struct reseat_error *error = NULL;
    uint64_t start_ns = rig_now_ns();
    expect_done(reseat_checkpoint(bench->rig.target, bench->dir, &options, &result, &error),
                "writing an image", error);
    return rig_now_ns() - start_ns;
}

static uint64_t check_image(const struct bench_image *bench)
{
    struct reseat_error *error = NULL;
    uint64_t start_ns = rig_now_ns();
    expect_done(reseat_check_memory(bench->dir, NULL, NULL, &error), "reading an image", error);
    return rig_now_ns() - start_ns;
}

/* From the call to the process running; it is ended again. */
static uint64_t restore_image(const struct bench_image *bench)
{
    struct reseat_restore_options options = {.flags = RESEAT_COLD | RESEAT_NEW_PID | RESEAT_CHILD,
                                             .allow = RESEAT_ALLOW_LOST,
                                             .wait_ns = 1000000000};
    struct reseat_restore_result result;
    struct reseat_error *error = NULL;
    uint64_t start_ns = rig_now_ns();
    expect_done(reseat_restore(bench->dir, &options, &result, &error), "restoring from an image", error);
    uint64_t ns = rig_now_ns() - start_ns;
    kill(result.pid, SIGKILL);
    waitpid(result.pid, NULL, 0);
    close(result.pidfd);
    return ns;
}

/* A plain read(2) of the whole file into new memory, which is what a restore cannot do without. */
static uint64_t time_read_whole(const char *path)
{
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status) < 0)
        rig_fail("%s: %s", path, strerror(errno));
    uint64_t start_ns = rig_now_ns();
    uint8_t *to =
        mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ssize_t n = 0;
    for (off_t at = 0; to != MAP_FAILED && at < status.st_size; at += n)
        if ((n = pread(fd, to + at, (size_t)(status.st_size - at), at)) <= 0)
            rig_fail("%s: %s", path, strerror(errno));
    uint64_t ns = rig_now_ns() - start_ns;
    munmap(to, (size_t)status.st_size);
    close(fd);
    return ns;
}

static void measure_times(struct bench_image *bench, unsigned rounds, const struct stretch *memory,
                          struct table *table)
{
    static struct samples writing, to_file, to_buffer, reading, plain, restoring, whole;
    writing.count = to_file.count = to_buffer.count = reading.count = plain.count = 0;
    restoring.count = whole.count = 0;
    char path[112], row[112];
    core_path(bench, path);
    for (unsigned round = 0; round < rounds; round++) {
        samples_add(&to_buffer, as_us(time_readv(bench->rig.target, memory, NULL)));
        samples_add(&to_file, as_us(time_readv_to_file(bench, memory)));
        samples_add(&writing, as_us(take_image(bench, 0)));
        samples_add(&plain, as_us(time_read(path)));
        samples_add(&reading, as_us(check_image(bench)));
        samples_add(&whole, as_us(time_read_whole(path)));
        samples_add(&restoring, as_us(restore_image(bench)));
        remove_image(bench);
    }
    struct bar bar = {.us = samples_median(&to_file) / 0.6, .text = "≥ 60 % of it"},
               none = {.text = "reported"};
    snprintf(row, sizeof row, "writing %zu MiB: of process_vm_readv to tmpfs", memory->length >> 20);
    table_row(table, row, &writing, &to_file, &bar);
    snprintf(row, sizeof row, "writing %zu MiB: of process_vm_readv alone", memory->length >> 20);
    table_row(table, row, &writing, &to_buffer, &none);
    snprintf(row, sizeof row, "reading and checking %zu MiB: of read(2)", memory->length >> 20);
    table_row(table, row, &reading, &plain, &none);
    snprintf(row, sizeof row, "cold restore of %zu MiB: of read(2) into new memory", memory->length >> 20);
    table_row(table, row, &restoring, &whole, &none);
}

/* ---- sizes ---- */

/* The most memory that the command has had. */
static long memory_of_command(const struct bench_image *bench, const char *option)
{
    char pid[16];
    struct rusage usage;
    int status;
    pid_t child;
    snprintf(pid, sizeof pid, "%d", bench->rig.target);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    char *arguments[] = {
        (char *)bench->command, "-q",           "checkpoint", pid, "-o", (char *)bench->dir, "--image",
        "--leave-running",      (char *)option, NULL};
    if (posix_spawn(&child, bench->command, &actions, NULL, arguments, environ) != 0 ||
        wait4(child, &status, 0, &usage) != child || status != 0)
        rig_fail("%s checkpoint has failed", bench->command);
    posix_spawn_file_actions_destroy(&actions);
    return usage.ru_maxrss;
}

/* `mebibytes`: of all that is stored. */
static void measure_size(struct bench_image *bench, unsigned mebibytes, const char *option)
{
    char path[112];
    struct stat status;
    long kibibytes = memory_of_command(bench, option);
    core_path(bench, path);
    if (stat(path, &status) < 0)
        rig_fail("%s: %s", path, strerror(errno));
    double stored = (double)status.st_blocks * 512 / (1 << 20);
    printf("| %6u MiB | %8u MiB | %-10s | %8.1f MiB | %3s | %8.1f MiB | %6.2f |\n",
           bench->rig.shape.mebibytes, 2 * bench->rig.shape.content_mebibytes, option ? option : "",
           (double)kibibytes / 1024, kibibytes <= MEMORY_MEBIBYTES * 1024 ? "yes" : "NO", stored,
           stored / mebibytes);
    remove_image(bench);
}

/* ---- all of it ---- */

static struct bench_image begin(const char *command, const char *target, unsigned mebibytes,
                                unsigned content_mebibytes)
{
    struct shape shape = {mebibytes, 10, 1, true, content_mebibytes};
    struct bench_image bench = {.command = command, .rig = rig_start(target, &shape)};
    snprintf(bench.work, sizeof bench.work, "/dev/shm/reseat-bench-XXXXXX");
    if (!mkdtemp(bench.work))
        rig_fail("%s: %s", bench.work, strerror(errno));
    snprintf(bench.dir, sizeof bench.dir, "%s/image", bench.work);
    rig_ask(&bench.rig, BENCH_WRITE);
    return bench;
}

static void end(struct bench_image *bench)
{
    rmdir(bench->work);
    rig_end(&bench->rig);
}

static bool has_room(unsigned mebibytes)
{
    struct sysinfo info;
    sysinfo(&info);
    return ((info.freeram + info.bufferram) * info.mem_unit >> 20) > 3UL * mebibytes + 512;
}

/* Mebibytes; content: of a memfd and of a deleted file, each. */
struct size {
    unsigned memory, content;
};

static void measure_sizes(const char *command, const char *target, const struct size *sizes, size_t count)
{
    printf("\n| memory     | contents     | option     | own memory   | ≤ %d MiB | on the disk  | of it  |\n",
           MEMORY_MEBIBYTES);
    printf("|-----------:|-------------:|------------|-------------:|----------|-------------:|-------:|\n");
    for (size_t i = 0; i < count; i++) {
        unsigned all = sizes[i].memory + 2 * sizes[i].content;
        if (!has_room(all))
            return;
        struct bench_image bench = begin(command, target, sizes[i].memory, sizes[i].content);
        measure_size(&bench, all, NULL);
        measure_size(&bench, all, "--compress");
        end(&bench);
    }
}

void bench_image(const char *command, const char *target, unsigned rounds, unsigned largest,
                 struct table *table)
{
    static const unsigned timed[] = {10, 256, 1024};
    static const struct size sized[] = {{10, 0}, {10, 1024}, {1024, 0}, {4096, 0}};
    /* First, while we ourselves are small: what a process has had before its exec counts, too. */
    printf("\n## Durable images: sizes\n");
    measure_sizes(command, target, sized, sizeof sized / sizeof sized[0]);
    table_begin("Durable images, to tmpfs", "the same memory by process_vm_readv(2), see bench/image.c");
    for (size_t i = 0; i < sizeof timed / sizeof timed[0] && timed[i] <= largest && has_room(timed[i]); i++) {
        struct bench_image bench = begin(command, target, timed[i], 0);
        struct stretch memory = find_memory(bench.rig.target, timed[i]);
        measure_times(&bench, rounds, &memory, table);
        end(&bench);
    }
}
