/* The memory of a process, and the contents of its objects, written. Little by little: a thread takes the
 * next run of pages (at most 1 MiB), reads it, leaves out pages of zeros, and writes the rest, so that a few
 * buffers are all it takes whatever the size. Several threads do so at once, because reading, checksums and
 * writing each take about as long.
 *
 * Where it goes in the file: a mapping lies there as it lies in memory, so that a program header can say so
 * and a debugger can read it; what is not stored is a hole. Only very large mappings with large holes are
 * divided, and with compression those that a debugger needs least (what is no stack, no file's and larger
 * than 1 MiB): their extents follow each other, and no program header shows them. Nor does one show contents.
 *
 * Rests on process_vm_readv(2); on /proc/PID/mem for pages that the program itself may not read; on XXH3 and
 * ZSTD_compressCCtx. */
#include "image/memory.h"
#include "image/image-internal.h"
#include "image/image.h"
#include "target/arch/arch.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <xxhash.h>
#include <zstd.h>

#define THREADS_MAX     4
#define ALONE_BYTES_MAX (UINT64_C(8) << 20) /* other threads do not pay for less */
#define COMPRESSION     3
#define NOT_PLACED      UINT64_MAX

/* What all threads share; `lock` guards it. */
struct writing {
    pthread_mutex_t lock;
    struct snapshot *snapshot;
    const struct image_source *source;
    struct core_sink *sink;
    int mem_fd;
    struct content_scan contents; /* what is handed out first */
    struct page_scan scan;
    struct memory_layout layout;
    uint64_t done, total; /* bytes, for the progress */
    int result;
    struct reseat_error *error;
};

static void writing_end(struct writing *writing)
{
    pthread_mutex_destroy(&writing->lock);
    page_scan_end(&writing->scan);
    base_close(&writing->mem_fd);
    memory_layout_end(&writing->layout);
    base_error_free(&writing->error);
}

/* What one thread has for itself. */
struct worker {
    struct writing *writing;
    uint8_t *content, *packed;
    size_t packed_room;
    ZSTD_CCtx *context;
    pthread_t thread;
    bool is_started;
    bool reports; /* it alone tells how far it is */
};

/* A run that a thread has taken. */
struct chunk {
    const struct image_content *content; /* NULL: memory */
    uint64_t start, end;
    uint64_t file_offset; /* NOT_PLACED: compressed */
    bool leaves_out_zeros;
};

static int take_content(struct writing *writing, struct chunk *ret_chunk)
{
    struct chunk chunk = {.file_offset = NOT_PLACED, .leaves_out_zeros = true};
    int r = content_scan_next(&writing->contents, CORE_EXTENT_BYTES_MAX, &chunk.content, &chunk.start,
                              &chunk.end);
    if (r <= 0)
        return r;
    uint64_t length = chunk.end - chunk.start;
    if (!writing->layout.compresses)
        chunk.file_offset = memory_layout_append(&writing->layout, length, CORE_PAGE_BYTES);
    writing->done += length;
    *ret_chunk = chunk;
    return 1;
}

static int take_memory(struct writing *writing, struct chunk *ret_chunk)
{
    struct page_run run;
    int r = page_scan_next(&writing->scan, CORE_EXTENT_BYTES_MAX, &run);
    if (r <= 0)
        return r;
    const struct snapshot_vma *vma = &writing->snapshot->vmas[run.vma];
    *ret_chunk = (struct chunk){NULL, run.start, run.end, NOT_PLACED, !memory_is_of_file(vma)};
    if (!memory_layout_compresses(&writing->layout, vma))
        r = memory_layout_place(&writing->layout, &run, &ret_chunk->file_offset);
    writing->done += run.end - run.start;
    return r < 0 ? r : 1;
}

/* Takes the next run: 1, or 0 if there is none. */
static int take_chunk(struct writing *writing, struct chunk *ret_chunk)
{
    int r = take_content(writing, ret_chunk);
    return r == 0 ? take_memory(writing, ret_chunk) : r;
}

/* ---- one run ---- */

/* Sets the result that all threads end with; the first failure is told. */
static int fail(struct writing *writing, int code, const char *format, ...) _printf_(3, 4);
static int fail(struct writing *writing, int code, const char *format, ...)
{
    char sentence[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    pthread_mutex_lock(&writing->lock);
    if (writing->result == 0)
        writing->result = error_errno(&writing->error, code, "%s", sentence);
    pthread_mutex_unlock(&writing->lock);
    return code;
}

/* Page by page, with the right of a tracer to read what the program may not. */
static int read_pages(struct writing *writing, uint64_t address, uint8_t *to, uint64_t length)
{
    for (uint64_t done = 0; done < length; done += CORE_PAGE_BYTES) {
        ssize_t n = pread(writing->mem_fd, to + done, CORE_PAGE_BYTES, (off_t)(address + done));
        if (n == CORE_PAGE_BYTES)
            continue;
        int r = n < 0 ? -errno : -EIO;
        if (!page_is_guard(&writing->scan, address + done))
            return fail(writing, r, "reading the memory at %" PRIx64 " of process %u", address + done,
                        writing->snapshot->process.pid);
        memset(to + done, 0, CORE_PAGE_BYTES);
    }
    return 0;
}

/* What we have written into the process ourselves (target.h) stood where there were zeros. */
static void take_out_stub(const struct snapshot *snapshot, uint64_t address, uint8_t *content,
                          uint64_t length)
{
    uint64_t stub = snapshot->process.stub_address;
    if (stub && stub >= address && stub < address + length) {
        uint64_t left = address + length - stub;
        memset(content + (stub - address), 0, left < ARCH_STUB_BYTES ? left : ARCH_STUB_BYTES);
    }
}

static int read_memory(struct writing *writing, uint64_t address, uint8_t *to, uint64_t length)
{
    struct iovec local = {to, length}, remote = {(void *)(uintptr_t)address, length};
    ssize_t n = process_vm_readv(writing->source->pid, &local, 1, &remote, 1, 0);
    uint64_t done = n < 0 ? 0 : (uint64_t)n & ~(uint64_t)(CORE_PAGE_BYTES - 1);
    int r = done < length ? read_pages(writing, address + done, to + done, length - done) : 0;
    if (r == 0)
        take_out_stub(writing->snapshot, address, to, length);
    return r;
}

/* A file that becomes shorter meanwhile ends in zeros. */
static int read_content(struct writing *writing, const struct chunk *chunk, uint8_t *to, uint64_t length)
{
    uint64_t done = 0;
    while (done < length) {
        ssize_t n = pread(chunk->content->fd, to + done, length - done, (off_t)(chunk->start + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return fail(writing, -errno, "reading the content of object %u", chunk->content->object);
        if (n == 0)
            break;
        done += (uint64_t)n;
    }
    memset(to + done, 0, core_page_up(length) - done);
    return 0;
}

static bool is_zero_page(const uint8_t *page)
{
    uint64_t first;
    memcpy(&first, page, sizeof first);
    return first == 0 && memcmp(page, page + sizeof first, CORE_PAGE_BYTES - sizeof first) == 0;
}

/* Compresses, and takes the next place in the file. What does not get smaller is stored as it is. */
static int pack(struct worker *worker, struct snapshot_extent *extent, const uint8_t **content)
{
    size_t length = ZSTD_compressCCtx(worker->context, worker->packed, worker->packed_room, *content,
                                      extent->length, COMPRESSION);
    if (!ZSTD_isError(length) && length < extent->length) {
        *content = worker->packed;
        extent->stored_length = length;
    }
    pthread_mutex_lock(&worker->writing->lock);
    extent->file_offset = memory_layout_append(&worker->writing->layout, extent->stored_length, 8);
    pthread_mutex_unlock(&worker->writing->lock);
    return 0;
}

static int add_extent(struct snapshot *snapshot, const struct snapshot_extent *extent)
{
    struct snapshot_extent *row = extent->object ? array_append(snapshot->contents, snapshot->contents_count)
                                                 : array_append(snapshot->extents, snapshot->extents_count);
    if (!row)
        return -ENOMEM;
    *row = *extent;
    return 0;
}

/* The bytes of a chunk from `at` on, which stand in `content`. */
static int write_extent(struct worker *worker, const struct chunk *chunk, uint64_t at, uint64_t length,
                        const uint8_t *content)
{
    struct writing *writing = worker->writing;
    struct snapshot_extent extent = {.address = chunk->start + at,
                                     .length = length,
                                     .file_offset = chunk->file_offset + at,
                                     .stored_length = length,
                                     .object = chunk->content ? chunk->content->object : 0};
    if (chunk->file_offset == NOT_PLACED)
        pack(worker, &extent, &content);
    extent.checksum = XXH3_64bits(content, extent.stored_length);
    int r = core_sink_write(writing->sink, extent.file_offset, content, extent.stored_length);
    if (r < 0)
        return fail(writing, r, "writing memory");
    pthread_mutex_lock(&writing->lock);
    r = add_extent(writing->snapshot, &extent);
    pthread_mutex_unlock(&writing->lock);
    return r < 0 ? fail(writing, r, "writing memory") : 0;
}

static int write_chunk(struct worker *worker, const struct chunk *chunk)
{
    struct writing *writing = worker->writing;
    uint64_t length = chunk->end - chunk->start, at = 0;
    int r = chunk->content ? read_content(writing, chunk, worker->content, length)
                           : read_memory(writing, chunk->start, worker->content, length);
    while (r == 0 && at < length) {
        uint64_t end = at;
        while (end < length && !(chunk->leaves_out_zeros && is_zero_page(worker->content + end)))
            end += CORE_PAGE_BYTES;
        if (end > at) /* the end of a file may be within a page */
            r = write_extent(worker, chunk, at, (end < length ? end : length) - at, worker->content + at);
        at = end + CORE_PAGE_BYTES;
    }
    return r;
}

/* ---- the threads ---- */

static int report_progress(struct writing *writing)
{
    const struct image_progress *progress = &writing->source->progress;
    int r = progress->report ? progress->report(progress->userdata, writing->done, writing->total) : 0;
    return r < 0 ? fail(writing, r, "writing memory") : 0;
}

static void *run_worker(void *argument)
{
    struct worker *worker = argument;
    struct writing *writing = worker->writing;
    int r = 1;
    while (r > 0) {
        struct chunk chunk;
        pthread_mutex_lock(&writing->lock);
        r = writing->result < 0 ? writing->result : take_chunk(writing, &chunk);
        pthread_mutex_unlock(&writing->lock);
        if (r < 0)
            fail(writing, r, "looking for the pages of process %u", writing->snapshot->process.pid);
        if (r > 0 && write_chunk(worker, &chunk) < 0)
            r = -EIO;
        if (r > 0 && worker->reports && report_progress(writing) < 0)
            r = -EINTR;
    }
    return NULL;
}

static int begin_worker(struct worker *worker, struct writing *writing)
{
    worker->writing = writing;
    worker->content = malloc(CORE_EXTENT_BYTES_MAX);
    if (writing->source->flags & IMAGE_COMPRESS) {
        worker->packed_room = ZSTD_compressBound(CORE_EXTENT_BYTES_MAX);
        worker->packed = malloc(worker->packed_room);
        worker->context = ZSTD_createCCtx();
        if (!worker->packed || !worker->context)
            return -ENOMEM;
    }
    return worker->content ? 0 : -ENOMEM;
}

static void end_worker(struct worker *worker)
{
    if (worker->is_started)
        pthread_join(worker->thread, NULL);
    free(worker->content);
    free(worker->packed);
    ZSTD_freeCCtx(worker->context);
}

static size_t choose_thread_count(uint64_t total)
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    if (total <= ALONE_BYTES_MAX || processors <= 1)
        return 1;
    return processors < THREADS_MAX ? (size_t)processors : THREADS_MAX;
}

/* Our signals are for the caller's threads. */
static void start_thread(struct worker *worker)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    worker->is_started = pthread_create(&worker->thread, NULL, run_worker, worker) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static int run_workers(struct writing *writing)
{
    struct worker workers[THREADS_MAX] = {0};
    size_t count = choose_thread_count(writing->total);
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = begin_worker(&workers[i], writing);
    workers[0].reports = true;
    for (size_t i = 1; r == 0 && i < count; i++)
        start_thread(&workers[i]); /* if it cannot be had, the others do its part */
    if (r == 0)
        run_worker(&workers[0]);
    for (size_t i = count; i-- > 0;)
        end_worker(&workers[i]);
    return r < 0 ? fail(writing, r, "writing memory") : writing->result;
}

/* ---- what the file says of it ---- */

static int compare_extents(const void *a, const void *b)
{
    const struct snapshot_extent *left = a, *right = b;
    if (left->object != right->object)
        return left->object < right->object ? -1 : 1;
    return left->address < right->address ? -1 : left->address > right->address;
}

static int describe(struct writing *writing, struct core_memory *memory, struct reseat_error **ret_error)
{
    struct snapshot *snapshot = writing->snapshot;
    if (snapshot->extents_count)
        qsort(snapshot->extents, snapshot->extents_count, sizeof snapshot->extents[0], compare_extents);
    if (snapshot->contents_count)
        qsort(snapshot->contents, snapshot->contents_count, sizeof snapshot->contents[0], compare_extents);
    int r = memory_layout_describe(&writing->layout, memory);
    Elf64_Phdr *notes = r == 0 ? array_append(memory->segments, memory->segment_count) : NULL;
    if (!notes)
        return error_errno(ret_error, -ENOMEM, "describing the memory of process %u", snapshot->process.pid);
    r = core_notes_make(snapshot, writing->source->pid, &memory->notes, &memory->notes_length, ret_error);
    *notes = (Elf64_Phdr){.p_type = PT_NOTE, .p_filesz = memory->notes_length, .p_align = 4};
    return r;
}

/* ---- all of it ---- */

void core_memory_end(struct core_memory *memory)
{
    free(memory->segments);
    free(memory->notes);
    *memory = (struct core_memory){0};
}

static int begin_scan(struct writing *writing, bool is_of_shared, struct page_scan *scan,
                      struct reseat_error **ret_error)
{
    page_scan_end(scan);
    return page_scan_begin(scan, writing->source->pid, writing->snapshot,
                           writing->source->flags & IMAGE_SELF_CONTAINED, is_of_shared, ret_error);
}

/* How much there will be, roughly: zeros are not known yet. */
static int count_bytes(struct writing *writing, bool is_of_shared, struct reseat_error **ret_error)
{
    _cleanup_(page_scan_end) struct page_scan scan = PAGE_SCAN_NONE;
    struct page_run run;
    int r = begin_scan(writing, is_of_shared, &scan, ret_error);
    if (r < 0)
        return r;
    while ((r = page_scan_next(&scan, SIZE_MAX / 2, &run)) > 0)
        writing->total += run.end - run.start;
    return r < 0 ? error_errno(ret_error, r, "looking for the pages of process %u",
                               writing->snapshot->process.pid)
                 : 0;
}

static void count_contents(struct writing *writing)
{
    struct content_scan scan = writing->contents;
    const struct image_content *content;
    uint64_t start, end;
    while (content_scan_next(&scan, SIZE_MAX / 2, &content, &start, &end) > 0)
        writing->total += end - start;
}

static int open_memory(struct writing *writing, struct reseat_error **ret_error)
{
    char path[32];
    snprintf(path, sizeof path, "/proc/%d/mem", writing->source->pid);
    writing->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
    if (writing->mem_fd < 0)
        return error_errno(ret_error, -errno, "opening the memory of process %d", writing->source->pid);
    count_contents(writing);
    int r = count_bytes(writing, true, ret_error);
    return r == 0 ? count_bytes(writing, false, ret_error) : r;
}

/* What is shared, or all but that. */
static int write_sort(struct writing *writing, bool is_of_shared, struct reseat_error **ret_error)
{
    int r = begin_scan(writing, is_of_shared, &writing->scan, ret_error);
    if (r < 0)
        return r;
    r = run_workers(writing);
    if (r < 0 && ret_error)
        *ret_error = TAKE_PTR(writing->error);
    return r;
}

int core_memory_write(struct core_sink *sink, struct snapshot *snapshot, const struct image_source *source,
                      struct core_memory *ret_memory, struct reseat_error **ret_error)
{
    _cleanup_(core_memory_end) struct core_memory memory = {0};
    _cleanup_(writing_end) struct writing writing = {
        .lock = PTHREAD_MUTEX_INITIALIZER,
        .snapshot = snapshot,
        .source = source,
        .sink = sink,
        .mem_fd = -EBADF,
        .contents = {.contents = source->contents, .count = source->content_count},
        .scan = PAGE_SCAN_NONE,
        .layout = {.snapshot = snapshot,
                   .compresses = source->flags & IMAGE_COMPRESS,
                   .whole_vma = SIZE_MAX,
                   .next_offset = CORE_PAGE_BYTES},
    };
    free(TAKE_PTR(snapshot->extents));
    free(TAKE_PTR(snapshot->contents));
    snapshot->extents_count = snapshot->contents_count = 0;
    int r = open_memory(&writing, ret_error);
    if (r == 0)
        r = write_sort(&writing, true, ret_error);
    if (r == 0 && source->shared_is_written)
        r = source->shared_is_written(source->userdata, ret_error);
    if (r == 0)
        r = write_sort(&writing, false, ret_error);
    if (r == 0)
        r = describe(&writing, &memory, ret_error);
    if (r == 0)
        *ret_memory = TAKE_GENERIC(memory, (struct core_memory){0});
    return r;
}

int core_write(struct core_sink *sink, struct snapshot *snapshot, const struct image_source *source,
               struct reseat_error **ret_error)
{
    _cleanup_(core_memory_end) struct core_memory memory = {0};
    struct core_layout layout;
    int r = core_check_snapshot(snapshot, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "what was captured cannot be stored");
    r = core_memory_write(sink, snapshot, source, &memory, ret_error);
    if (r == 0)
        r = core_check_snapshot(snapshot, ret_error);
    if (r < 0)
        return r;
    core_layout_make(snapshot, &memory, &layout);
    if (layout.length - layout.start > CORE_BYTES_MAX)
        return error_set(ret_error, -EFBIG, "would have %llu bytes of tables, %llu are allowed",
                         (unsigned long long)(layout.length - layout.start), CORE_BYTES_MAX);
    r = core_layout_sink(&layout, sink);
    return r < 0 ? error_errno(ret_error, r, "writing") : 0;
}
