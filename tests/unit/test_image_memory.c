/* Unit tests of images with memory: what a process has is what is read again, in every way of storing it;
 * every shortened file and every wrong bit is noticed; and what a hostile file says of memory is refused with
 * a sentence that names the place. The process is a child of ours that has mapped one of each. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <xxhash.h>

#include <cmocka.h>

#include "image/image-internal.h"
#include "image/image.h"
#include "image/memory.h"
#include "process/process.h"

#define PAGE       ((size_t)CORE_PAGE_BYTES)
#define FILE_PAGES 16
#if defined __SANITIZE_ADDRESS__ /* ten times as slow */
#define FLIP_STRIDE 13
#else
#define FLIP_STRIDE 1
#endif
#define LARGE_BYTES (160UL << 20) /* more than one place in the file */

static char work_dir[PATH_MAX];

static int make_work_dir(void **state)
{
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(work_dir, sizeof work_dir, "%s/test_memory-XXXXXX", parent ? parent : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int remove_work_dir(void **state)
{
    (void)state;
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", work_dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static void assert_success(int r, struct reseat_error **error)
{
    if (r < 0 || *error)
        fail_msg("%d: %s", r, *error ? (*error)->message : "no message");
}

static void assert_error(int r, int code, struct reseat_error **error, const char *part)
{
    if (!*error)
        fail_msg("no error, although %s was expected (returned %d)", part, r);
    if (!strstr((*error)->message, part))
        fail_msg("\"%s\" does not say \"%s\"", (*error)->message, part);
    assert_int_equal(r, code);
    base_error_free(error);
}

/* ---- the process ---- */

static uint8_t *map(size_t length, int protection, int flags, int fd)
{
    uint8_t *memory = mmap(NULL, length, protection, flags, fd, 0);
    if (memory == MAP_FAILED)
        _exit(1);
    return memory;
}

static void fill_page(uint8_t *page, unsigned number)
{
    for (size_t i = 0; i < PAGE; i++)
        page[i] = (uint8_t)(number + i / 3);
}

static int make_file(const char *name)
{
    uint8_t page[CORE_PAGE_BYTES];
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (unsigned i = 0; i < FILE_PAGES; i++) {
        fill_page(page, 100 + i);
        if (write(fd, page, i + 1 < FILE_PAGES ? PAGE : PAGE / 2) < 0) /* it ends in the middle of a page */
            _exit(1);
    }
    return fd;
}

static void map_private(void)
{
    uint8_t *mixed = map(64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    for (unsigned i = 0; i < 64; i++)
        if (i % 3 == 0)
            fill_page(mixed + i * PAGE, i);
        else if (i % 3 == 1)
            mixed[i * PAGE] = 0; /* its own, and zero */
    uint8_t *hidden = map(4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    fill_page(hidden + PAGE, 7);
    mprotect(hidden, 4 * PAGE, PROT_NONE);
    map(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1); /* never touched */
}

static void map_files(void)
{
    int fd = make_file("mapped");
    uint8_t *file = map(FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd);
    fill_page(file + 2 * PAGE, 1);
    fill_page(file + 3 * PAGE, 2);
    memset(file + 5 * PAGE, 0, PAGE); /* zero, but not as in the file */
    map(FILE_PAGES * PAGE, PROT_READ, MAP_SHARED, fd);
    int gone = make_file("gone");
    file = map(FILE_PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, gone);
    file[PAGE] = 1;
    unlink("gone");
    close(gone);
    close(fd);
}

static void map_shared(void)
{
    uint8_t *shared = map(32 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1);
    for (unsigned i = 0; i < 32; i += 5)
        fill_page(shared + i * PAGE, i);
    /* The same object again, from the middle on (mremap(2): a length of 0 makes another mapping). */
    uint8_t *again = mremap(shared + 16 * PAGE, 0, 16 * PAGE, MREMAP_MAYMOVE);
    if (again == MAP_FAILED || again[4 * PAGE] != shared[20 * PAGE])
        _exit(1);
    /* Written by somebody else: not in the page table of this process. */
    if (fork() == 0) {
        fill_page(shared + 31 * PAGE, 31);
        _exit(0);
    }
    wait(NULL);
}

static void map_large(void)
{
    uint8_t *large =
        map(LARGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
    fill_page(large, 1);
    for (unsigned i = 0; i < 600; i++) /* longer than one extent */
        fill_page(large + (1 << 20) + i * PAGE, i);
    fill_page(large + LARGE_BYTES - 2 * PAGE, 2);
}

/* A child that has mapped all of it and stands still. */
static pid_t start_child(bool with_large)
{
    int ends[2];
    char byte;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends[0]);
        map_private();
        map_files();
        map_shared();
        if (with_large)
            map_large();
        if (write(ends[1], "x", 1) != 1)
            _exit(1);
        for (;;)
            pause();
    }
    close(ends[1]);
    assert_int_equal(read(ends[0], &byte, 1), 1);
    close(ends[0]);
    kill(pid, SIGSTOP); /* its stack is not to change any more either */
    waitpid(pid, NULL, WUNTRACED);
    return pid;
}

static void end_child(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* ---- contents ---- */

#define CONTENT_BYTES (FILE_EXTENTS * 1048576 + 100) /* holes, pages of zeros, and an end within a page */
#define FILE_EXTENTS  3

static struct image_content contents[2];

/* Once for all tests. */
static void open_contents(void)
{
    if (contents[0].size)
        return;
    static const off_t places[] = {0, 5 * 4096, 1048576 - 4096, 1048576, CONTENT_BYTES - 4096};
    uint8_t page[4096] = {0};
    for (uint32_t i = 0; i < 2; i++)
        contents[i] = (struct image_content){i + 1, memfd_create("content", MFD_CLOEXEC), 5};
    assert_int_equal(pwrite(contents[1].fd, "small", 5, 0), 5);
    contents[0].size = CONTENT_BYTES;
    assert_int_equal(ftruncate(contents[0].fd, CONTENT_BYTES), 0);
    assert_int_equal(pwrite(contents[0].fd, page, sizeof page, 2 * 4096), sizeof page);
    for (unsigned i = 0; i < sizeof places / sizeof places[0]; i++) {
        fill_page(page, i);
        assert_int_equal(pwrite(contents[0].fd, page, sizeof page, places[i]), sizeof page);
    }
}

/* Two objects with content; of what kind they are is not of interest here. */
static void add_objects(struct snapshot *snapshot)
{
    uint64_t text;
    assert_int_equal(snapshot_add_blob(snapshot, "memfd", 6, &text), 0);
    for (uint32_t id = 1; id <= 2; id++)
        *array_append(snapshot->objects, snapshot->objects_count) =
            (struct snapshot_object){.id = id, .kind_offset = text, .name_offset = text};
}

/* What is in the image, put together, is what is in the files, and no page of zeros is there. */
static void compare_contents(struct image *image)
{
    static uint8_t found[2][CONTENT_BYTES], expected[CONTENT_BYTES];
    const struct snapshot *snapshot = image_snapshot(image);
    uint64_t stored = 0;
    memset(found, 0, sizeof found);
    for (size_t i = 0; i < snapshot->contents_count; i++) {
        struct reseat_error *error = NULL;
        const struct snapshot_extent *extent = &snapshot->contents[i];
        assert_success(image_read_memory(image, extent, 0, found[extent->object - 1] + extent->address,
                                         extent->length, &error),
                       &error);
        stored += extent->length;
    }
    assert_int_equal(pread(contents[0].fd, expected, CONTENT_BYTES, 0), CONTENT_BYTES);
    assert_memory_equal(found[0], expected, CONTENT_BYTES);
    assert_memory_equal(found[1], "small", 6);
    assert_int_equal(stored, 6 * 4096 - (4096 - 100) + 5);
}

/* A snapshot of it with one thread and the memory map. */
static void make_snapshot(pid_t pid, struct snapshot *snapshot)
{
    struct reseat_error *error = NULL;
    static const uint8_t xstate[832] = {0x7f, 3};
    *snapshot = (struct snapshot){0};
    snapshot->process = (struct snapshot_process){.version = SNAPSHOT_VERSION,
                                                  .form = SNAPSHOT_FORM_HEIR,
                                                  .pid = (uint32_t)pid,
                                                  .ns_level_count = 1,
                                                  .ns_pids = {(uint32_t)pid}};
    struct snapshot_thread *thread = array_append(snapshot->threads, snapshot->threads_count);
    assert_non_null(thread);
    *thread = (struct snapshot_thread){.tid = (uint32_t)pid,
                                       .ns_tids = {(uint32_t)pid},
                                       .xstate_length = sizeof xstate};
    assert_int_equal(snapshot_add_blob(snapshot, xstate, sizeof xstate, &thread->xstate_offset), 0);
    assert_success(process_capture_map(pid, snapshot, &error), &error);
    add_objects(snapshot);
}

#define _cleanup_snapshot_ _cleanup_(snapshot_free)
#define _cleanup_image_    _cleanup_(image_close)

static void write_image(const char *dir, pid_t pid, unsigned flags)
{
    struct reseat_error *error = NULL;
    _cleanup_snapshot_ struct snapshot snapshot;
    _cleanup_(image_draft_end) struct image_draft draft = {0};
    struct image_source source = {.pid = pid, .flags = flags, .contents = contents, .content_count = 2};
    open_contents();
    make_snapshot(pid, &snapshot);
    assert_success(image_draft_begin(dir, &draft, &error), &error);
    assert_success(image_draft_write_memory(&draft, &snapshot, &source, &error), &error);
    assert_success(image_draft_publish(&draft, &error), &error);
}

/* ---- what is read ---- */

static const struct snapshot_extent *extent_at(const struct snapshot *snapshot, uint64_t address)
{
    for (size_t i = 0; i < snapshot->extents_count; i++)
        if (address >= snapshot->extents[i].address &&
            address < snapshot->extents[i].address + snapshot->extents[i].length)
            return &snapshot->extents[i];
    return NULL;
}

static bool is_of_file(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_FILE && !(vma->flags & SNAPSHOT_VMA_STORED);
}

/* What a page is as the mapping is made: zeros, or what is in the file. */
static void page_as_mapped(const struct snapshot *snapshot, const struct snapshot_vma *vma, uint64_t address,
                           uint8_t *page)
{
    memset(page, 0, PAGE);
    if (!is_of_file(vma))
        return;
    int fd = open((const char *)snapshot->blobs + vma->path_offset, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_true(pread(fd, page, PAGE, (off_t)(vma->offset + (address - vma->start))) >= 0);
    close(fd);
}

/* The place in which an alias of shared memory is stored: the first mapping that shows it. */
static uint64_t stored_address(const struct snapshot *snapshot, const struct snapshot_vma *vma,
                               uint64_t address)
{
    uint64_t place = vma->offset + (address - vma->start);
    for (const struct snapshot_vma *other = snapshot->vmas; other < vma; other++)
        if (vma->kind == SNAPSHOT_VMA_SHARED && other->kind == vma->kind && other->inode == vma->inode &&
            place >= other->offset && place < other->offset + (other->end - other->start))
            return other->start + (place - other->offset);
    return address;
}

static bool has_content(const struct snapshot_vma *vma)
{
    return vma->kind != SNAPSHOT_VMA_VVAR && vma->kind != SNAPSHOT_VMA_OTHER;
}

/* Every page of the process is as it would be put back. Returns how many were compared. */
static size_t compare_memory(struct image *image, pid_t pid)
{
    struct reseat_error *error = NULL;
    const struct snapshot *snapshot = image_snapshot(image);
    char path[64];
    size_t compared = 0;
    snprintf(path, sizeof path, "/proc/%d/mem", pid);
    int mem_fd = open(path, O_RDONLY | O_CLOEXEC);
    for (size_t v = 0; v < snapshot->vmas_count; v++) {
        const struct snapshot_vma *vma = &snapshot->vmas[v];
        for (uint64_t at = vma->start; at < vma->end && has_content(vma); at += PAGE) {
            uint8_t expected[CORE_PAGE_BYTES], found[CORE_PAGE_BYTES];
            if (pread(mem_fd, expected, PAGE, (off_t)at) != (ssize_t)PAGE)
                continue; /* behind the end of a file */
            uint64_t stored = stored_address(snapshot, vma, at);
            const struct snapshot_extent *extent = extent_at(snapshot, stored);
            if (extent)
                assert_success(image_read_memory(image, extent, stored - extent->address, found, PAGE,
                                                 &error),
                               &error);
            else
                page_as_mapped(snapshot, vma, at, found);
            if (memcmp(expected, found, PAGE) != 0)
                fail_msg("the page at %" PRIx64 " (kind %u) is not what it was", at, vma->kind);
            compared++;
        }
    }
    close(mem_fd);
    return compared;
}

static void test_memory_comes_back(void **state)
{
    static const unsigned flags[] = {0, IMAGE_COMPRESS, IMAGE_SELF_CONTAINED,
                                     IMAGE_COMPRESS | IMAGE_SELF_CONTAINED};
    (void)state;
    pid_t pid = start_child(true);
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        struct reseat_error *error = NULL;
        _cleanup_image_ struct image *image = NULL;
        char dir[16];
        snprintf(dir, sizeof dir, "image-%zu", i);
        write_image(dir, pid, flags[i]);
        assert_success(image_open(dir, &image, &error), &error);
        assert_true(image_has_memory(image));
        assert_success(image_verify_memory(image, NULL, &error), &error);
        assert_true(compare_memory(image, pid) > 64 + 4 * FILE_PAGES);
        compare_contents(image);
        for (size_t e = 0; e < image_snapshot(image)->extents_count; e++)
            assert_true((flags[i] & IMAGE_COMPRESS) || image_is_plain(&image_snapshot(image)->extents[e]));
    }
    end_child(pid);
}

/* Not more is stored than needed: no page of zeros, no page that is as in its file, no shared page twice. */
static void test_nothing_too_much(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    _cleanup_image_ struct image *image = NULL;
    pid_t pid = start_child(true);
    size_t shared_pages = 0;
    write_image("lean", pid, 0);
    assert_success(image_open("lean", &image, &error), &error);
    const struct snapshot *snapshot = image_snapshot(image);
    for (size_t v = 0; v < snapshot->vmas_count; v++) {
        const struct snapshot_vma *vma = &snapshot->vmas[v];
        const char *path = (const char *)snapshot->blobs + vma->path_offset;
        size_t pages = 0, changed = 0;
        for (uint64_t at = vma->start; at < vma->end; at += PAGE) {
            const struct snapshot_extent *extent = extent_at(snapshot, at);
            uint8_t page[CORE_PAGE_BYTES], usual[CORE_PAGE_BYTES];
            if (!extent)
                continue;
            pages++;
            assert_success(image_read_memory(image, extent, at - extent->address, page, PAGE, &error),
                           &error);
            page_as_mapped(snapshot, vma, at, usual);
            changed += memcmp(page, usual, PAGE) != 0;
        }
        if (vma->kind == SNAPSHOT_VMA_ANONYMOUS || vma->flags & SNAPSHOT_VMA_STORED)
            assert_int_equal(pages, changed);
        if (vma->kind == SNAPSHOT_VMA_SHARED)
            shared_pages += pages;
        if (strstr(path, "/mapped"))
            assert_int_equal(pages, vma->flags & SNAPSHOT_VMA_MAP_SHARED ? 0 : 3);
    }
    assert_int_equal(shared_pages, 8); /* 0, 5, …, 30, and 31 */
    end_child(pid);
}

/* PAGEMAP_SCAN and the page map itself find the same pages. */
static void test_both_ways_of_looking(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    pid_t pid = start_child(true);
    struct page_run *runs[2] = {NULL, NULL};
    size_t counts[2] = {0, 0};
    for (unsigned pass = 0; pass < 4; pass++) {
        unsigned way = pass / 2;
        _cleanup_snapshot_ struct snapshot snapshot;
        _cleanup_(page_scan_end) struct page_scan scan = PAGE_SCAN_NONE;
        struct page_run run;
        make_snapshot(pid, &snapshot);
        assert_success(page_scan_begin(&scan, pid, &snapshot, false, pass % 2, &error), &error);
        scan.has_scan_call = way == 0;
        int r;
        while ((r = page_scan_next(&scan, CORE_EXTENT_BYTES_MAX, &run)) > 0) {
            /* The zero page that a read maps is known only to one of them. */
            struct page_run *last = counts[way] ? &runs[way][counts[way] - 1] : NULL;
            assert_true(run.start < run.end && run.end - run.start <= CORE_EXTENT_BYTES_MAX);
            assert_true(!last || run.start >= last->end || last->vma != run.vma);
            *array_append(runs[way], counts[way]) = run;
        }
        assert_int_equal(r, 0);
    }
    assert_int_equal(counts[0], counts[1]);
    assert_memory_equal(runs[0], runs[1], counts[0] * sizeof *runs[0]);
    free(runs[0]);
    free(runs[1]);
    end_child(pid);
}

/* ---- progress, and its end ---- */

struct watch {
    uint64_t last, total;
    unsigned calls, end_at;
};

static int watch_progress(void *userdata, uint64_t done, uint64_t total)
{
    struct watch *watch = userdata;
    assert_true(done >= watch->last && done <= total);
    watch->last = done;
    watch->total = total;
    return ++watch->calls == watch->end_at ? -EINTR : 0;
}

static void test_progress(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    pid_t pid = start_child(true);
    for (unsigned end_at = 0; end_at < 2; end_at++) {
        _cleanup_snapshot_ struct snapshot snapshot;
        _cleanup_(image_draft_end) struct image_draft draft = {0};
        struct watch watch = {.end_at = end_at};
        struct image_source source = {.pid = pid, .progress = {watch_progress, &watch}};
        make_snapshot(pid, &snapshot);
        assert_success(image_draft_begin("watched", &draft, &error), &error);
        int r = image_draft_write_memory(&draft, &snapshot, &source, &error);
        if (end_at == 0)
            assert_success(r, &error);
        else
            assert_error(r, -EINTR, &error, "writing memory: Interrupted");
        assert_true(watch.calls > 0 && watch.total > 600 * PAGE);
    }
    end_child(pid);
}

/* ---- more mappings than a 16-bit number of program headers ---- */

static void test_many_segments(void **state)
{
    enum { COUNT = 33000 };
    (void)state;
    struct reseat_error *error = NULL;
    _cleanup_image_ struct image *image = NULL;
    int fd = open("sparse", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && ftruncate(fd, 2 * COUNT * (off_t)PAGE) == 0);
    uint8_t *memory = mmap(NULL, 2 * COUNT * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    assert_true(memory != MAP_FAILED);
    for (size_t i = 0; i < COUNT; i++)
        memory[2 * i * PAGE] = 1; /* every second page is its own */
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;)
            pause();
    }
    write_image("many", pid, 0);
    assert_success(image_open("many", &image, &error), &error);
    assert_success(image_verify_memory(image, NULL, &error), &error);
    assert_true(image_snapshot(image)->extents_count >= COUNT);
    Elf64_Ehdr header;
    assert_int_equal(pread(image_file(image), &header, sizeof header, 0), sizeof header);
    assert_int_equal(header.e_phnum, PN_XNUM);
    if (system("command -v readelf >/dev/null") == 0)
        assert_int_equal(system("readelf -lW many/*.core 2>&1 >/dev/null | grep . && exit 1; "
                                "test $(readelf -lW many/*.core | grep -c '^  LOAD') -gt 66000"),
                         0);
    end_child(pid);
    munmap(memory, 2 * COUNT * PAGE);
    close(fd);
}

/* ---- damage ---- */

/* Opens the image and reads all of it; the error is freed, and must have a sentence. */
static int read_all(const char *path)
{
    struct reseat_error *error = NULL;
    _cleanup_image_ struct image *image = NULL;
    int r = image_open_to_look(path, &image, &error);
    if (r == 0)
        r = image_verify_memory(image, NULL, &error);
    assert_true((r < 0) == (error != NULL));
    assert_true(!error || strlen(error->message) > strlen(path));
    base_error_free(&error);
    return r;
}

struct small {
    pid_t pid;
    char path[64];
    int fd;
    uint64_t length, memory_end; /* of the file; where the tables begin */
};

static void make_small(struct small *small)
{
    small->pid = start_child(false);
    write_image("small", small->pid, IMAGE_COMPRESS);
    snprintf(small->path, sizeof small->path, "small/%d.core", small->pid);
    small->fd = open(small->path, O_RDWR | O_CLOEXEC);
    Elf64_Ehdr header;
    assert_int_equal(pread(small->fd, &header, sizeof header, 0), sizeof header);
    struct stat status;
    fstat(small->fd, &status);
    small->length = (uint64_t)status.st_size;
    small->memory_end = header.e_phoff;
    assert_int_equal(read_all(small->path), 0);
}

static void end_small(struct small *small)
{
    end_child(small->pid);
    close(small->fd);
}

static void test_every_truncation(void **state)
{
    (void)state;
    struct small small;
    make_small(&small);
    for (uint64_t length = small.length; length-- > 0;) {
        if (length < small.memory_end && length % PAGE > 1) /* in the memory: around every page */
            continue;
        assert_int_equal(ftruncate(small.fd, (off_t)length), 0);
        if (read_all(small.path) != -EBADMSG)
            fail_msg("a file of %" PRIu64 " of %" PRIu64 " bytes was taken for whole", length, small.length);
    }
    end_small(&small);
}

static void flip(const struct small *small, uint64_t offset, unsigned bit)
{
    uint8_t byte, wrong;
    assert_int_equal(pread(small->fd, &byte, 1, (off_t)offset), 1);
    wrong = (uint8_t)(byte ^ (1U << bit));
    assert_int_equal(pwrite(small->fd, &wrong, 1, (off_t)offset), 1);
    int r = read_all(small->path);
    if (r != -EBADMSG && r != -EPROTONOSUPPORT)
        fail_msg("bit %u of byte %" PRIu64 " of %" PRIu64 " was not noticed (%d)", bit, offset, small->length,
                 r);
    assert_int_equal(pwrite(small->fd, &byte, 1, (off_t)offset), 1);
}

/* Every bit of the header, a bit of every byte of the tables, and bits all over the memory and its holes. */
static void test_flipped_bits(void **state)
{
    (void)state;
    struct small small;
    make_small(&small);
    for (uint64_t offset = 0; offset < sizeof(Elf64_Ehdr); offset++)
        for (unsigned bit = 0; bit < 8; bit++)
            flip(&small, offset, bit);
    for (uint64_t offset = sizeof(Elf64_Ehdr); offset < small.memory_end; offset += 1021)
        flip(&small, offset, (unsigned)random() % 8);
    for (uint64_t offset = small.memory_end; offset < small.length; offset += FLIP_STRIDE)
        flip(&small, offset, (unsigned)random() % 8);
    assert_int_equal(read_all(small.path), 0);
    end_small(&small);
}

/* ---- hostile ---- */

static Elf64_Shdr *sections_of(uint8_t *bytes)
{
    return (Elf64_Shdr *)(bytes + ((Elf64_Ehdr *)bytes)->e_shoff);
}

static Elf64_Phdr *segments_of(uint8_t *bytes)
{
    return (Elf64_Phdr *)(bytes + ((Elf64_Ehdr *)bytes)->e_phoff);
}

static Elf64_Shdr *find_section(uint8_t *bytes, const char *name)
{
    const Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
    Elf64_Shdr *sections = sections_of(bytes);
    const char *names = (char *)bytes + sections[header->e_shstrndx].sh_offset;
    for (size_t i = 1; i < header->e_shnum; i++)
        if (strcmp(names + sections[i].sh_name, name) == 0)
            return &sections[i];
    fail_msg("no section %s", name);
    return NULL;
}

static struct snapshot_extent *extents_of(uint8_t *bytes)
{
    return (struct snapshot_extent *)(bytes + find_section(bytes, ".reseat.extent")->sh_offset);
}

static struct snapshot_extent *contents_of(uint8_t *bytes)
{
    return (struct snapshot_extent *)(bytes + find_section(bytes, ".reseat.content")->sh_offset);
}

static struct snapshot_vma *vmas_of(uint8_t *bytes)
{
    return (struct snapshot_vma *)(bytes + find_section(bytes, ".reseat.vma")->sh_offset);
}

/* The path of the first mapping of a file. */
static char *file_path(uint8_t *bytes)
{
    struct snapshot_vma *vma = vmas_of(bytes);
    while (vma->kind != SNAPSHOT_VMA_FILE)
        vma++;
    return (char *)bytes + find_section(bytes, ".reseat.blob")->sh_offset + vma->path_offset;
}

/* Computes the checksums of headers and tables anew, as docs/image.md tells it. */
static void seal(uint8_t *bytes)
{
    const Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
    const Elf64_Shdr *sections = sections_of(bytes);
    const Elf64_Shdr *own = &sections[header->e_shnum - 1];
    uint64_t *checksums = (uint64_t *)(bytes + own->sh_offset);
    checksums[0] = XXH3_64bits(header, sizeof *header);
    checksums[0] =
        XXH3_64bits_withSeed(segments_of(bytes), header->e_phnum * sizeof(Elf64_Phdr), checksums[0]);
    checksums[0] = XXH3_64bits_withSeed(sections, header->e_shnum * sizeof *sections, checksums[0]);
    for (size_t i = 1; i < header->e_shnum; i++)
        checksums[i] = checksums[i] ? XXH3_64bits(bytes + sections[i].sh_offset, sections[i].sh_size) : 0;
    checksums[own - sections] = 0;
    checksums[own - sections] = XXH3_64bits(checksums, own->sh_size);
}

#define BREAK(name, statement)                                                                               \
    static void name(uint8_t *bytes)                                                                         \
    {                                                                                                        \
        statement;                                                                                           \
    }
BREAK(crooked_extent, extents_of(bytes)->address += 8)
BREAK(empty_extent, extents_of(bytes)->length = 0)
BREAK(endless_extent, extents_of(bytes)->length = 2 << 20)
BREAK(extent_of_nothing, extents_of(bytes)->stored_length = 0)
BREAK(extent_that_grows, extents_of(bytes)->stored_length = extents_of(bytes)->length + 1)
BREAK(extent_twice, extents_of(bytes)[1].address = extents_of(bytes)->address)
BREAK(extent_nowhere, extents_of(bytes)->address = 4096)
BREAK(extent_around, extents_of(bytes)->address = UINT64_MAX - 4095)
BREAK(extents_share, extents_of(bytes)[1].file_offset = extents_of(bytes)->file_offset)
BREAK(extent_in_header, extents_of(bytes)->file_offset = 0)
BREAK(extent_in_tables, extents_of(bytes)->file_offset = ((Elf64_Ehdr *)bytes)->e_phoff)
BREAK(extent_at_the_end, extents_of(bytes)->file_offset = UINT64_MAX - 100)
BREAK(memory_of_object, extents_of(bytes)->object = 1)
BREAK(half_a_page, extents_of(bytes)->length -= 1; extents_of(bytes)->stored_length = 1)
BREAK(crooked_content, contents_of(bytes)->address += 8)
BREAK(empty_content, contents_of(bytes)->length = 0)
BREAK(endless_content, contents_of(bytes)->length = 2 << 20)
BREAK(content_of_nothing, contents_of(bytes)->stored_length = 0)
BREAK(content_that_grows, contents_of(bytes)->stored_length = contents_of(bytes)->length + 1)
BREAK(content_twice, contents_of(bytes)[1].address = contents_of(bytes)->address)
BREAK(content_around, contents_of(bytes)->address = UINT64_MAX - 4095)
BREAK(content_far_out, contents_of(bytes)->address = INT64_MAX - 4095)
BREAK(content_of_nobody, contents_of(bytes)->object = 3)
BREAK(content_of_memory, contents_of(bytes)->object = 0)
BREAK(content_backwards, contents_of(bytes)->object = 2)
BREAK(contents_share, contents_of(bytes)[1].file_offset = contents_of(bytes)->file_offset)
BREAK(content_shares_memory, contents_of(bytes)->file_offset = extents_of(bytes)->file_offset)
BREAK(content_in_header, contents_of(bytes)->file_offset = 0)
BREAK(content_at_the_end, contents_of(bytes)->file_offset = UINT64_MAX - 100)
BREAK(content_without_memory, find_section(bytes, ".reseat.extent")->sh_size = 0;
      find_section(bytes, CORE_SECTION_MEMORY)->sh_name += 1)
BREAK(mapping_backwards, vmas_of(bytes)->end = vmas_of(bytes)->start)
BREAK(crooked_mapping, vmas_of(bytes)->start += 1)
BREAK(mappings_overlap, vmas_of(bytes)[1].start = vmas_of(bytes)->start)
BREAK(unknown_mapping, vmas_of(bytes)->kind = 99)
BREAK(crooked_offset, vmas_of(bytes)->offset = 100)
BREAK(far_offset, vmas_of(bytes)->offset = UINT64_MAX - 4095)
BREAK(odd_pages, vmas_of(bytes)->page_shift = 64)
BREAK(no_path, vmas_of(bytes)->path_offset = UINT64_MAX)
BREAK(path_upwards, strcpy(file_path(bytes), "/a/../b"))
BREAK(path_up_at_the_end, strcpy(file_path(bytes), "/a/.."))
BREAK(path_of_here, strcpy(file_path(bytes), "a/b"))
BREAK(swapped_tables, Elf64_Word name = find_section(bytes, ".reseat.vma")->sh_name;
      Elf64_Shdr *extents = find_section(bytes, ".reseat.extent");
      find_section(bytes, ".reseat.vma")->sh_name = extents->sh_name; extents->sh_name = name)
BREAK(swapped_places, Elf64_Off offset = find_section(bytes, ".reseat.vma")->sh_offset;
      Elf64_Shdr *blobs = find_section(bytes, ".reseat.blob");
      find_section(bytes, ".reseat.vma")->sh_offset = blobs->sh_offset; blobs->sh_offset = offset)
BREAK(no_memory, find_section(bytes, CORE_SECTION_MEMORY)->sh_name += 1)
BREAK(memory_twice,
      find_section(bytes, ".reseat.lock")->sh_name = find_section(bytes, CORE_SECTION_MEMORY)->sh_name)
BREAK(segment_outside, segments_of(bytes)->p_offset = 0; segments_of(bytes)->p_filesz = 1)
BREAK(segment_far_outside, segments_of(bytes)->p_offset = UINT64_MAX - 1; segments_of(bytes)->p_filesz = 4096)
BREAK(segment_too_long, segments_of(bytes)->p_offset = 4096; segments_of(bytes)->p_filesz = 8192;
      segments_of(bytes)->p_memsz = 4096)
BREAK(other_segment, segments_of(bytes)->p_type = PT_DYNAMIC)
BREAK(odd_segments, ((Elf64_Ehdr *)bytes)->e_phentsize = 8)
BREAK(absurd_segments, ((Elf64_Ehdr *)bytes)->e_phnum = PN_XNUM; sections_of(bytes)->sh_info = UINT32_MAX)
BREAK(segments_in_memory, ((Elf64_Ehdr *)bytes)->e_phoff = 4096)

static void test_hostile_memory(void **state)
{
    static const struct {
        void (*change)(uint8_t *bytes);
        const char *message;
    } changes[] = {
        {crooked_extent, "row 0: "},
        {empty_extent, "row 0: 0 bytes"},
        {endless_extent, "are no extent"},
        {extent_of_nothing, "cannot be stored in 0"},
        {extent_that_grows, "cannot be stored in"},
        {extent_twice, "row 1: begins at"},
        {extent_nowhere, "row 0: 1000-"},
        {extent_around, "are no extent"},
        {extents_share, "overlaps another in the file"},
        {extent_in_header, "lies outside .reseat.memory"},
        {extent_in_tables, "lies outside .reseat.memory"},
        {extent_at_the_end, "lies outside .reseat.memory"},
        {memory_of_object, "bytes of object 1 are no memory"},
        {half_a_page, "bytes of object 0 are no memory"},
        {crooked_content, "section .reseat.content: row 0: "},
        {empty_content, "section .reseat.content: row 0: 0 bytes"},
        {endless_content, "are no extent"},
        {content_of_nothing, "cannot be stored in 0"},
        {content_that_grows, "cannot be stored in"},
        {content_twice, "section .reseat.content: row 1: begins at"},
        {content_around, "are no extent"},
        {content_far_out, "are no extent"},
        {content_of_nobody, "there is no object 3"},
        {content_of_memory, "there is no object 0"},
        {content_backwards, "object 1 comes after object 2"},
        {contents_share, "overlaps another in the file"},
        {content_shares_memory, "overlaps another in the file"},
        {content_in_header, "section .reseat.content: row 0: overlaps another in the file"},
        {content_at_the_end, "lies outside .reseat.memory"},
        {content_without_memory, ""},
        {mapping_backwards, "is no mapping"},
        {crooked_mapping, "is no mapping"},
        {mappings_overlap, "begins before the mapping before it ends"},
        {unknown_mapping, "99 is no kind of mapping"},
        {crooked_offset, "100 is no offset"},
        {far_offset, "is no offset"},
        {odd_pages, "pages of 2^64 bytes"},
        {no_path, "lies outside .reseat.blob"},
        {path_upwards, "has .. in it"},
        {path_up_at_the_end, "has .. in it"},
        {path_of_here, "not absolute"},
        {swapped_tables, "section .reseat."},
        {swapped_places, "section .reseat."},
        {no_memory, ""},
        {memory_twice, "is there twice"},
        {segment_outside, "program header 0: is not about memory"},
        {segment_far_outside, "program header 0: is not about memory"},
        {segment_too_long, "program header 0: is not about memory"},
        {other_segment, "program header 0: is not about memory"},
        {odd_segments, "wrong sizes of headers"},
        {absurd_segments, "program header table: lies outside the file"},
        {segments_in_memory, ""},
    };
    (void)state;
    struct small small;
    make_small(&small);
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct reseat_error *error = NULL;
        _cleanup_image_ struct image *image = NULL;
        _cleanup_free_ uint8_t *bytes = malloc(small.length);
        assert_int_equal(pread(small.fd, bytes, small.length, 0), small.length);
        changes[i].change(bytes);
        if (((Elf64_Ehdr *)bytes)->e_phnum != PN_XNUM)
            seal(bytes);
        int fd = open("hostile.core", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        assert_int_equal(fd_write_all(fd, bytes, small.length), 0);
        close(fd);
        assert_error(image_open_to_look("hostile.core", &image, &error), -EBADMSG, &error,
                     changes[i].message);
    }
    end_small(&small);
}

/* ---- streams ---- */

static void test_stream(void **state)
{
    (void)state;
    pid_t pid = start_child(true);
    open_contents();
    for (unsigned flags = 0; flags <= IMAGE_COMPRESS; flags += IMAGE_COMPRESS) {
        struct reseat_error *error = NULL;
        int ends[2];
        assert_int_equal(pipe(ends), 0);
        pid_t writer = fork();
        if (writer == 0) {
            struct snapshot snapshot;
            struct image_source source = {.pid = pid,
                                          .flags = flags,
                                          .contents = contents,
                                          .content_count = 2};
            close(ends[0]);
            make_snapshot(pid, &snapshot);
            _exit(image_stream_write(ends[1], &snapshot, &source, &error) < 0);
        }
        close(ends[1]);
        _cleanup_image_ struct image *image = NULL;
        assert_success(image_open_stream(ends[0], &image, &error), &error);
        assert_success(image_verify_memory(image, NULL, &error), &error);
        assert_true(compare_memory(image, pid) > 64 + 4 * FILE_PAGES);
        compare_contents(image);
        close(ends[0]);
        waitpid(writer, NULL, 0);
    }
    end_child(pid);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_work_dir, remove_work_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_memory_comes_back), TEST(test_nothing_too_much), TEST(test_both_ways_of_looking),
        TEST(test_progress),          TEST(test_many_segments),    TEST(test_every_truncation),
        TEST(test_flipped_bits),      TEST(test_hostile_memory),   TEST(test_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
