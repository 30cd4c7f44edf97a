/* Fuzzer of the image reader. A file that gets past the checksums is what is interesting, so they are left
 * out: core_view_verify() is called, but what it says is ignored. Whatever the input, opening, extracting and
 * checking it must come to an end without a wrong access; and a snapshot that is accepted must come back
 * unchanged when it is written and read again, this time with checksums.
 *
 * With libFuzzer:        clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER …
 * As a plain program:    fuzz_image FILE…        runs every file once (a corpus as a regression test)
 *                        fuzz_image --seed DIR   writes a few good files to begin with */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "image/image-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                          \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

#define _cleanup_snapshot_ _cleanup_(snapshot_free)

static uint8_t *encode(const struct snapshot *snapshot, size_t *ret_length)
{
    struct core_layout layout;
    core_layout_make(snapshot, NULL, &layout);
    uint8_t *bytes = malloc(layout.length), *end = bytes;
    REQUIRE(bytes);
    for (size_t i = 0; i < layout.piece_count; i++) {
        memcpy(end, layout.pieces[i].iov_base, layout.pieces[i].iov_len);
        end += layout.pieces[i].iov_len;
    }
    *ret_length = layout.length;
    return bytes;
}

/* Reads what others would read without asking. */
static unsigned touch(const struct snapshot *snapshot)
{
    unsigned sum = (unsigned)strlen(snapshot->process.comm) + (unsigned)strlen(snapshot->process.boot_id);
    for (size_t i = 0; i < snapshot->threads_count; i++) {
        const struct snapshot_thread *thread = &snapshot->threads[i];
        for (uint64_t byte = 0; byte < thread->xstate_length; byte++)
            sum += snapshot->blobs[thread->xstate_offset + byte];
        for (uint32_t byte = 0; byte < thread->affinity_length; byte++)
            sum += thread->affinity[byte];
        for (uint32_t level = 0; level < snapshot->process.ns_level_count; level++)
            sum += thread->ns_tids[level];
        sum += (unsigned)strlen(thread->name);
    }
    for (size_t i = 0; i < snapshot->reopens_count; i++)
        sum += (unsigned)strlen((const char *)snapshot->blobs + snapshot->reopens[i].path_offset);
    return sum;
}

static void require_same(const struct snapshot *a, const struct snapshot *b)
{
    REQUIRE(memcmp(&a->process, &b->process, sizeof a->process) == 0);
#define X(type, name, section)                                                                               \
    REQUIRE(a->name##_count == b->name##_count);                                                             \
    REQUIRE(a->name##_count == 0 || memcmp(a->name, b->name, a->name##_count * sizeof(type)) == 0);
    SNAPSHOT_TABLES(X)
#undef X
}

/* A snapshot that was accepted, written and read again. */
static void require_round_trip(const struct snapshot *snapshot)
{
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(snapshot, &length);
    struct core_source source = {.bytes = bytes, .length = length};
    _cleanup_(core_view_close) struct core_view view = {0};
    _cleanup_snapshot_ struct snapshot again = {0};
    REQUIRE(core_view_open(&source, &view, NULL) == 0);
    REQUIRE(core_view_verify(&view, NULL) == 0);
    REQUIRE(core_view_extract(&view, &again, NULL) == 0);
    REQUIRE(core_check_snapshot(&again, NULL) == 0);
    require_same(snapshot, &again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    _cleanup_snapshot_ struct snapshot snapshot = {0};
    struct core_source source = {.bytes = data, .length = length};
    _cleanup_(core_view_close) struct core_view view = {0};
    int r = core_view_open(&source, &view, &error);
    if (r >= 0) {
        (void)core_view_verify(&view, &error);
        base_error_free(&error);
        r = core_view_extract(&view, &snapshot, &error);
    }
    if (r >= 0)
        r = core_check_snapshot(&snapshot, &error);
    REQUIRE((r < 0) == (error != NULL));
    if (r < 0) {
        REQUIRE(error->code == r && error->message && error->message[0] != '\0');
        return 0;
    }
    static volatile unsigned sink;
    sink = touch(&snapshot);
    (void)sink;
    require_round_trip(&snapshot);
    return 0;
}

#ifndef FUZZ_LIBFUZZER

/* One row in every table, and a second thread. */
static void make_seed(struct snapshot *snapshot)
{
    struct snapshot_process *process = &snapshot->process;
    *process = (struct snapshot_process){.version = SNAPSHOT_VERSION, .form = SNAPSHOT_FORM_HEIR, .pid = 7};
    process->ns_level_count = process->ns_pids[0] = process->parent = 1;
    for (uint32_t i = 0; i < 2; i++) {
        struct snapshot_thread *thread = array_append(snapshot->threads, snapshot->threads_count);
        REQUIRE(thread);
        *thread = (struct snapshot_thread){.tid = 7 + i, .ns_tids = {7 + i}, .xstate_length = 16};
        REQUIRE(snapshot_add_blob(snapshot, "0123456789abcdef", 16, &thread->xstate_offset) == 0);
    }
    uint64_t path;
    REQUIRE(snapshot_add_blob(snapshot, "status", 7, &path) == 0);
    *array_append(snapshot->signals, snapshot->signals_count) = (struct snapshot_signal){8, 0, {1}};
    *array_append(snapshot->timers, snapshot->timers_count) = (struct snapshot_timer){.id = 3, .signal = 14};
    array_append(snapshot->regions, snapshot->regions_count)->end = 4096;
    array_append(snapshot->owners, snapshot->owners_count)->selector = 5;
    *array_append(snapshot->locks, snapshot->locks_count) = (struct snapshot_lock){4, F_WRLCK, 1, 2};
    array_append(snapshot->positions, snapshot->positions_count)->offset = -1;
    array_append(snapshot->interests, snapshot->interests_count)->selector = 6;
    *array_append(snapshot->reopens, snapshot->reopens_count) = (struct snapshot_reopen){9, 0, 0, 9, 0, path};
    *array_append(snapshot->reopens, snapshot->reopens_count) =
        (struct snapshot_reopen){10, 0, 0, 9, 0, path};
}

static void write_seed(const char *dir, const char *name, const struct snapshot *snapshot)
{
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(snapshot, &length);
    _cleanup_close_ int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    _cleanup_close_ int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, bytes, length) < 0) {
        fprintf(stderr, "%s/%s: %s\n", dir, name, strerror(errno));
        exit(1);
    }
}

static void write_seeds(const char *dir)
{
    _cleanup_snapshot_ struct snapshot snapshot = {0};
    make_seed(&snapshot);
    require_round_trip(&snapshot);
    write_seed(dir, "all-tables", &snapshot);
    snapshot.threads_count = 1;
#define X(type, name, section) snapshot.name##_count = (void *)snapshot.name == (void *)snapshot.threads;
    SNAPSHOT_TABLES(X)
#undef X
    snapshot.threads[0].xstate_length = 0;
    require_round_trip(&snapshot);
    write_seed(dir, "one-thread", &snapshot);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--seed") == 0) {
        write_seeds(argv[2]);
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        _cleanup_free_ char *text = NULL;
        size_t length;
        int r = file_read(AT_FDCWD, argv[i], &text, &length);
        if (r < 0) {
            fprintf(stderr, "%s: %s\n", argv[i], strerror(-r));
            return 1;
        }
        /* In memory of exactly its length, so that a sanitizer sees every step beyond it. */
        _cleanup_free_ uint8_t *exact = malloc(length ? length : 1);
        REQUIRE(exact);
        memcpy(exact, text, length);
        LLVMFuzzerTestOneInput(exact, length);
    }
    return 0;
}
#endif
