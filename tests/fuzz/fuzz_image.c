/* Fuzzer of the image reader. A file that gets past the checksums is what is interesting, so they are left
 * out: core_view_verify() is called, but what it says is ignored. Whatever the input, opening, extracting and
 * checking it must come to an end without a wrong access; a snapshot that is accepted must come back
 * unchanged when it is written and read again, this time with checksums; and its memory can be read extent by
 * extent. Every input is read as a stream, too.
 *
 * With libFuzzer:        clang -fsanitize=fuzzer,address,undefined -DFUZZ_LIBFUZZER …
 * As a plain program:    fuzz-image FILE…            runs every file once (a corpus as a regression test)
 *                        fuzz-image --seed DIR       writes a few good files to begin with
 *                        fuzz-image --run SECONDS [SEED [FILE…]]
 *                                                    changes good files at random for so long; what it finds
 * is left in fuzz-image-failed (Meson builds it with sanitizers) */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "image/fields.h"
#include "image/image-internal.h"
#include "image/memory.h"
#include "image/stream.h"

#include <signal.h>
#include <sys/mman.h>
#include <zstd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length);

#define REQUIRE(condition)                                                                                   \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                          \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

#define _cleanup_snapshot_ _cleanup_(snapshot_free)

static uint8_t *encode(const struct snapshot *snapshot, struct core_memory *memory,
                       const uint8_t *memory_bytes, size_t *ret_length)
{
    struct core_layout layout;
    core_layout_make(snapshot, memory, &layout);
    uint8_t *bytes = calloc(1, layout.length), *end = bytes + layout.start;
    REQUIRE(bytes);
    for (size_t i = 0; i < layout.piece_count; i++) {
        memcpy(end, layout.pieces[i].iov_base, layout.pieces[i].iov_len);
        end += layout.pieces[i].iov_len;
    }
    if (memory) {
        memcpy(bytes, &layout.header, sizeof layout.header);
        memcpy(bytes + memory->start, memory_bytes, memory->end - memory->start);
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

/* Every text and every piece of state that a row refers to (fields.h knows where). */
static unsigned touch_fields(const struct snapshot *snapshot)
{
    unsigned sum = 0;
    for (const struct field_table *table = field_tables; table->name; table++) {
        size_t count = 0;
        const uint8_t *rows = table->rows(snapshot, &count);
        for (size_t i = 0; i < count * table->row_bytes; i++)
            sum += rows[i];
    }
    for (size_t i = 0; i < snapshot->vmas_count; i++)
        sum += (unsigned)strlen((const char *)snapshot->blobs + snapshot->vmas[i].path_offset);
    for (size_t i = 0; i < snapshot->objects_count; i++) {
        const struct snapshot_object *object = &snapshot->objects[i];
        sum += (unsigned)strlen((const char *)snapshot->blobs + object->kind_offset);
        sum += (unsigned)strlen((const char *)snapshot->blobs + object->name_offset);
        for (uint64_t byte = 0; byte < object->state_length; byte++)
            sum += snapshot->blobs[object->state_offset + byte];
    }
    return sum;
}

/* What image_read_extent() does, on bytes in memory. */
static unsigned touch_memory(const struct core_view *view, const struct snapshot *snapshot)
{
    static uint8_t stored[CORE_EXTENT_BYTES_MAX], content[CORE_EXTENT_BYTES_MAX];
    unsigned sum = 0;
    _cleanup_free_ const struct snapshot_extent **places = NULL;
    size_t count = 0;
    REQUIRE(core_sort_extents(snapshot, &places, &count) == 0);
    for (size_t i = 0; i < count && i < 64; i++) {
        const struct snapshot_extent *extent = places[i];
        REQUIRE(core_source_read(&view->source, extent->file_offset, stored, extent->stored_length) == 0);
        if (extent->stored_length < extent->length)
            sum += (unsigned)ZSTD_decompress(content, extent->length, stored, extent->stored_length);
        sum += stored[0];
    }
    return sum;
}

/* A snapshot that was accepted, written and read again. */
static void require_round_trip(const struct snapshot *snapshot)
{
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(snapshot, NULL, NULL, &length);
    struct core_source source = {.bytes = bytes, .length = length};
    _cleanup_(core_view_close) struct core_view view = {0};
    _cleanup_snapshot_ struct snapshot again = {0};
    REQUIRE(core_view_open(&source, &view, NULL) == 0);
    REQUIRE(core_view_verify(&view, NULL) == 0);
    REQUIRE(core_view_extract(&view, &again, NULL) == 0);
    REQUIRE(core_check_snapshot(&again, NULL) == 0);
    require_same(snapshot, &again);
}

/* The same bytes as a stream. */
static void receive(const uint8_t *data, size_t length)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    _cleanup_close_ int from = memfd_create("from", MFD_CLOEXEC), to = memfd_create("to", MFD_CLOEXEC);
    REQUIRE(from >= 0 && to >= 0 && fd_write_all(from, data, length) == 0 && lseek(from, 0, SEEK_SET) == 0);
    int r = stream_receive(from, to, &error);
    REQUIRE((r < 0) == (error != NULL));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    _cleanup_error_ struct reseat_error *error = NULL;
    _cleanup_snapshot_ struct snapshot snapshot = {0};
    struct core_source source = {.bytes = data, .length = length};
    _cleanup_(core_view_close) struct core_view view = {0};
    receive(data, length);
    int r = core_view_open(&source, &view, &error);
    if (r >= 0) {
        (void)core_view_verify(&view, &error);
        base_error_free(&error);
        r = core_view_extract(&view, &snapshot, &error);
    }
    if (r >= 0)
        r = core_check_snapshot(&snapshot, &error);
    if (r >= 0)
        r = core_view_check_extents(&view, &snapshot, &error);
    REQUIRE((r < 0) == (error != NULL));
    if (r < 0) {
        REQUIRE(error->code == r && error->message && error->message[0] != '\0');
        return 0;
    }
    static volatile unsigned sink;
    sink = touch(&snapshot) + touch_fields(&snapshot) + touch_memory(&view, &snapshot);
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

/* Two mappings of which three extents are stored, one of them compressed, and the content of an object. */
static void make_memory(struct snapshot *snapshot, struct core_memory *memory, uint8_t *bytes)
{
    const uint64_t base = 0x7f0000000000;
    uint64_t path;
    REQUIRE(snapshot_add_blob(snapshot, "/bin/true", 10, &path) == 0);
    for (uint64_t i = 0; i < 2; i++) {
        struct snapshot_vma *vma = array_append(snapshot->vmas, snapshot->vmas_count);
        *vma = (struct snapshot_vma){.start = base + 0x10000 * i,
                                     .end = base + 0x10000 * i + 0x4000,
                                     .kind = i ? SNAPSHOT_VMA_FILE : SNAPSHOT_VMA_ANONYMOUS,
                                     .path_offset = path,
                                     .page_shift = 12};
    }
    static const uint8_t zeros[4096];
    size_t packed = ZSTD_compress(bytes + 0x2000, 0x1000, zeros, sizeof zeros, 3);
    REQUIRE(!ZSTD_isError(packed));
    const struct snapshot_extent extents[] = {{base, 0x1000, 0x1000, 0x1000, 1, 0, 0},
                                              {base + 0x2000, 0x1000, 0x2000, 0x1000, 2, 0, 0},
                                              {base + 0x10000, 0x1000, 0x3000, packed, 3, 0, 0}};
    for (size_t i = 0; i < COUNT_OF(extents); i++)
        *array_append(snapshot->extents, snapshot->extents_count) = extents[i];
    *array_append(snapshot->objects, snapshot->objects_count) =
        (struct snapshot_object){.id = 1, .kind_offset = path, .name_offset = path};
    *array_append(snapshot->contents, snapshot->contents_count) =
        (struct snapshot_extent){0x1000, 100, 0x3800, 100, 4, 1, 0};
    *memory = (struct core_memory){.start = 0x1000, .end = 0x4000, .notes_length = 16};
    memory->notes = calloc(1, 16);
    for (size_t i = 0; i < 2; i++)
        *array_append(memory->segments, memory->segment_count) = (Elf64_Phdr){.p_type = PT_LOAD,
                                                                              .p_vaddr = base + 0x10000 * i,
                                                                              .p_offset = 0x1000,
                                                                              .p_filesz = 0x2000,
                                                                              .p_memsz = 0x4000};
    *array_append(memory->segments, memory->segment_count) = (Elf64_Phdr){.p_type = PT_NOTE, .p_filesz = 16};
}

struct input {
    uint8_t *bytes;
    size_t length;
};

struct inputs {
    struct input *items;
    size_t count;
};

static void add_input(struct inputs *inputs, const uint8_t *bytes, size_t length)
{
    struct input *input = array_append(inputs->items, inputs->count);
    REQUIRE(input && (input->bytes = malloc(length ? length : 1)));
    memcpy(input->bytes, bytes, length);
    input->length = length;
}

static void add_encoded(struct inputs *inputs, const struct snapshot *snapshot, struct core_memory *memory,
                        const uint8_t *memory_bytes)
{
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(snapshot, memory, memory_bytes, &length);
    add_input(inputs, bytes, length);
}

static void add_stream(struct inputs *inputs)
{
    _cleanup_close_ int fd = memfd_create("stream", MFD_CLOEXEC);
    uint8_t bytes[512];
    REQUIRE(stream_begin(fd) == 0 && stream_write(fd, 0, "some bytes", 10) == 0 &&
            stream_write(fd, 4096, "some more", 9) == 0 && stream_end(fd, 5000) == 0);
    ssize_t length = pread(fd, bytes, sizeof bytes, 0);
    REQUIRE(length > 0);
    add_input(inputs, bytes, (size_t)length);
}

/* Good files of every sort: all tables; as little as there can be; with memory; a stream. */
static void make_seeds(struct inputs *inputs)
{
    _cleanup_snapshot_ struct snapshot snapshot = {0};
    _cleanup_(core_memory_end) struct core_memory memory = {0};
    uint8_t bytes[0x3000] = {1};
    make_seed(&snapshot);
    require_round_trip(&snapshot);
    add_encoded(inputs, &snapshot, NULL, NULL);
    make_memory(&snapshot, &memory, bytes);
    add_encoded(inputs, &snapshot, &memory, bytes);
    snapshot.threads_count = 1;
#define X(type, name, section) snapshot.name##_count = (void *)snapshot.name == (void *)snapshot.threads;
    SNAPSHOT_TABLES(X)
#undef X
    snapshot.threads[0].xstate_length = 0;
    require_round_trip(&snapshot);
    add_encoded(inputs, &snapshot, NULL, NULL);
    add_stream(inputs);
}

static void write_file(const char *path, const uint8_t *bytes, size_t length)
{
    _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || fd_write_all(fd, bytes, length) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        exit(1);
    }
}

static void write_seeds(const char *dir, const struct inputs *inputs)
{
    for (size_t i = 0; i < inputs->count; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/seed-%zu", dir, i);
        write_file(path, inputs->items[i].bytes, inputs->items[i].length);
    }
}

/* ---- changes at random ---- */

static uint64_t chance_state;

static uint64_t chance(uint64_t below)
{
    chance_state ^= chance_state << 13;
    chance_state ^= chance_state >> 7;
    chance_state ^= chance_state << 17;
    return below ? chance_state % below : 0;
}

/* A number that is likely to be at an edge. */
static uint64_t edge(uint64_t length)
{
    static const uint64_t edges[] = {0,          1,          7,          8,          63,
                                     64,         255,        4095,       4096,       4097,
                                     0x10000,    1U << 20,   0x7fffffff, 0x80000000, 0xffffffff,
                                     1ULL << 32, 1ULL << 47, INT64_MAX,  1ULL << 63, UINT64_MAX};
    uint64_t number = chance(4) ? edges[chance(COUNT_OF(edges))] : length;
    return number + chance(3) - 1;
}

static void change_once(uint8_t *bytes, size_t *length, size_t room, const struct inputs *inputs)
{
    size_t at = chance(*length + 1);
    uint64_t number = edge(*length);
    size_t width = 1U << chance(4);
    const struct input *other = &inputs->items[chance(inputs->count)];
    size_t part = chance(64) + 1;
    switch (chance(7)) {
    case 0: /* a bit */
        if (at < *length)
            bytes[at] ^= (uint8_t)(1U << chance(8));
        break;
    case 1: /* a field */
    case 2:
        at &= ~(width - 1);
        if (at + width <= *length)
            memcpy(bytes + at, &number, width);
        break;
    case 3: /* an end */
        *length = at;
        break;
    case 4: /* part of another */
        if (at + part <= *length && part <= other->length)
            memcpy(bytes + at, other->bytes + chance(other->length - part + 1), part);
        break;
    case 5: /* more at the end */
        while (*length < room && part-- > 0)
            bytes[(*length)++] = (uint8_t)chance(256);
        break;
    case 6: /* a little more or less */
        if (at < *length)
            bytes[at] = (uint8_t)(bytes[at] + chance(9) - 4);
        break;
    }
}

/* Left behind by a crash: what the last input was. */
static uint8_t *last_bytes;
static size_t last_length;

static void keep_last(int signal_number)
{
    write_file("fuzz-image-failed", last_bytes, last_length);
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

void __asan_on_error(void); /* called by AddressSanitizer, if that is there */
void __asan_on_error(void)
{
    if (last_bytes)
        write_file("fuzz-image-failed", last_bytes, last_length);
}

static void run_for(uint64_t seconds, uint64_t seed, const struct inputs *inputs)
{
    uint64_t end_ns = now_ns() + seconds * UINT64_C(1000000000), rounds = 0;
    chance_state = seed ? seed : now_ns();
    printf("seed %llu\n", (unsigned long long)chance_state);
    signal(SIGABRT, keep_last);
    for (; now_ns() < end_ns; rounds++) {
        const struct input *input = &inputs->items[chance(inputs->count)];
        size_t room = input->length + 256, length = input->length;
        _cleanup_free_ uint8_t *bytes = malloc(room);
        REQUIRE(bytes);
        memcpy(bytes, input->bytes, length);
        for (uint64_t changes = 1 + chance(6); changes > 0; changes--)
            change_once(bytes, &length, room, inputs);
        _cleanup_free_ uint8_t *exact =
            malloc(length ? length : 1); /* a sanitizer sees every step beyond it */
        REQUIRE(exact);
        memcpy(exact, bytes, length);
        last_bytes = exact;
        last_length = length;
        LLVMFuzzerTestOneInput(exact, length);
        last_bytes = NULL;
    }
    printf("%llu inputs\n", (unsigned long long)rounds);
}

static void add_file(struct inputs *inputs, const char *path)
{
    _cleanup_free_ char *text = NULL;
    size_t length;
    int r = file_read(AT_FDCWD, path, &text, &length);
    if (r < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(-r));
        exit(1);
    }
    add_input(inputs, (uint8_t *)text, length);
}

static void inputs_end(struct inputs *inputs)
{
    for (size_t i = 0; i < inputs->count; i++)
        free(inputs->items[i].bytes);
    free(inputs->items);
}

int main(int argc, char **argv)
{
    _cleanup_(inputs_end) struct inputs inputs = {0};
    bool runs = argc >= 3 && strcmp(argv[1], "--run") == 0,
         seeds = argc == 3 && strcmp(argv[1], "--seed") == 0;
    if (runs || seeds)
        make_seeds(&inputs);
    for (int i = runs ? 4 : 1; i < argc && !seeds; i++)
        add_file(&inputs, argv[i]);
    if (seeds)
        write_seeds(argv[2], &inputs);
    for (size_t i = 0; i < inputs.count; i++)
        LLVMFuzzerTestOneInput(inputs.items[i].bytes, inputs.items[i].length);
    if (runs)
        run_for(strtoull(argv[2], NULL, 10), argc > 3 ? strtoull(argv[3], NULL, 10) : 0, &inputs);
    return 0;
}
#endif
