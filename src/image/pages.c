/* Which pages of a process have to be stored: those that could not be had otherwise. Of private memory the
 * pages that it has of its own, wherever they are (in memory, swapped out); of a private mapping of a file
 * only those that it has written; of shared memory what the object holds, once, however often it is mapped.
 * What is in a file or in an object of the object table is stored there: of the file that such an object is
 * on, all that is no hole.
 *
 * Rests on PAGEMAP_SCAN (Linux 6.7, Documentation/admin-guide/mm/pagemap.rst), before that on
 * proc_pid_pagemap(5), whose flags (present, swapped, of a file) need no privilege; for shared memory on
 * lseek(2) SEEK_DATA through /proc/PID/map_files, where that may be opened. */
#include "image/image-internal.h"
#include "image/image.h"
#include "image/memory.h"
#include "process/pagemap.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

/* Bits of an entry of pagemap. */
#define ENTRY_GUARD     (UINT64_C(1) << 58)
#define ENTRY_FILE      (UINT64_C(1) << 61)
#define ENTRY_SWAPPED   (UINT64_C(1) << 62)
#define ENTRY_PRESENT   (UINT64_C(1) << 63)

#define ENTRIES_AT_ONCE 8192

int page_scan_begin(struct page_scan *scan, pid_t pid, struct snapshot *snapshot, bool self_contained,
                    bool is_of_shared, struct reseat_error **ret_error)
{
    *scan = (struct page_scan){
        .snapshot = snapshot,
        .self_contained = self_contained,
        .is_of_shared = is_of_shared,
        .proc_fd = proc_open(pid),
        .pagemap_fd = -EBADF,
        .object_fd = -EBADF,
        .has_scan_call = true,
    };
    int r = scan->proc_fd;
    if (r >= 0) {
        scan->pagemap_fd = openat(scan->proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
        r = scan->pagemap_fd < 0 ? -errno : 0;
    }
    return r < 0 ? error_errno(ret_error, r, "opening the page map of process %d", pid) : 0;
}

void page_scan_end(struct page_scan *scan)
{
    base_close(&scan->proc_fd);
    base_close(&scan->pagemap_fd);
    base_close(&scan->object_fd);
    free(scan->entries);
    *scan = PAGE_SCAN_NONE;
}

/* ---- how each mapping is looked at ---- */

static bool is_file(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_FILE || vma->kind == SNAPSHOT_VMA_OBJECT;
}

/* What nobody else keeps: a file without a name that no capability is on. */
static bool is_orphan(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_OBJECT && vma->object == 0;
}

/* Shared with whoever else has it mapped, and in no file. */
static bool is_shared(const struct snapshot_vma *vma)
{
    return vma->kind == SNAPSHOT_VMA_SHARED || vma->kind == SNAPSHOT_VMA_SYSV ||
           (is_orphan(vma) && (vma->flags & SNAPSHOT_VMA_MAP_SHARED));
}

static enum page_method choose_method(const struct page_scan *scan, const struct snapshot_vma *vma)
{
    bool is_hidden = (vma->flags & SNAPSHOT_VMA_GUARD) && vma->kind == SNAPSHOT_VMA_ANONYMOUS;
    if (is_shared(vma) != scan->is_of_shared || is_hidden)
        return PAGE_METHOD_NONE;
    switch (vma->kind) {
    case SNAPSHOT_VMA_VDSO:
        return PAGE_METHOD_ALL;
    case SNAPSHOT_VMA_ANONYMOUS:
        return PAGE_METHOD_OWN;
    case SNAPSHOT_VMA_FILE:
    case SNAPSHOT_VMA_OBJECT:
        if (is_orphan(vma) || (scan->self_contained && vma->kind == SNAPSHOT_VMA_FILE))
            return PAGE_METHOD_ALL;
        return vma->flags & SNAPSHOT_VMA_MAP_SHARED ? PAGE_METHOD_NONE : PAGE_METHOD_OWN;
    case SNAPSHOT_VMA_SHARED:
    case SNAPSHOT_VMA_SYSV:
        return PAGE_METHOD_OBJECT;
    default:
        return PAGE_METHOD_NONE;
    }
}

/* Where the content of a mapping ends: behind the end of a file there is nothing but a bus error. */
static uint64_t content_end(const struct snapshot_vma *vma)
{
    uint64_t length = vma->end - vma->start;
    if (!is_file(vma))
        return vma->end;
    if (vma->file_size <= vma->offset)
        return vma->start;
    uint64_t in_file = core_page_up(vma->file_size - vma->offset);
    return vma->start + (in_file < length ? in_file : length);
}

static bool is_same_object(const struct snapshot_vma *a, const struct snapshot_vma *b)
{
    return a->kind == b->kind && a->device_major == b->device_major && a->device_minor == b->device_minor &&
           a->inode == b->inode;
}

/* The part of [at, end) of a mapping of a shared object that no mapping before it has shown: moves `at` on,
 * and returns where that part ends. */
static uint64_t skip_shown(const struct snapshot *snapshot, const struct snapshot_vma *vma, uint64_t *at)
{
    size_t own = (size_t)(vma - snapshot->vmas);
    uint64_t end = vma->end;
    for (size_t i = 0; i < own && *at < vma->end; i++) {
        const struct snapshot_vma *other = &snapshot->vmas[i];
        if (!is_same_object(other, vma))
            continue;
        uint64_t shown = other->offset, shown_end = shown + (other->end - other->start);
        uint64_t place = vma->offset + (*at - vma->start);
        if (place >= shown && place < shown_end) {
            *at += shown_end - place;
            end = vma->end;
            i = SIZE_MAX; /* from the beginning: another may show what comes next */
        } else if (place < shown && *at + (shown - place) < end) {
            end = *at + (shown - place);
        }
    }
    return end;
}

/* ---- the methods ---- */

/* By the ioctl; 0 if there is no page of its own up to `end`. */
static int find_by_scan(struct page_scan *scan, uint64_t at, uint64_t end, uint64_t *ret_start,
                        uint64_t *ret_end)
{
    struct scan_region region = {0};
    struct scan_arguments arguments = {
        .size = sizeof arguments,
        .start = at,
        .end = end,
        .regions = (uint64_t)(uintptr_t)&region,
        .region_count = 1,
        .category_inverted = SCAN_FILE | SCAN_PFNZERO,
        .category_mask = SCAN_FILE | SCAN_PFNZERO,
        .category_anyof_mask = SCAN_PRESENT | SCAN_SWAPPED,
        .return_mask = SCAN_FILE,
    };
    int r;
    do
        r = ioctl(scan->pagemap_fd, PAGEMAP_SCAN_CALL, &arguments);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    *ret_start = region.start;
    *ret_end = region.end;
    return r > 0;
}

static bool is_own(uint64_t entry)
{
    return (entry & (ENTRY_PRESENT | ENTRY_SWAPPED)) && !(entry & (ENTRY_FILE | ENTRY_GUARD));
}

/* The entries from page `first` on, as many as are kept; sets scan->entry_first. */
static int fill_entries(struct page_scan *scan, uint64_t first, uint64_t count)
{
    if (!scan->entries)
        scan->entries = malloc(ENTRIES_AT_ONCE * sizeof *scan->entries);
    if (!scan->entries)
        return -ENOMEM;
    if (count > ENTRIES_AT_ONCE)
        count = ENTRIES_AT_ONCE;
    ssize_t n = pread(scan->pagemap_fd, scan->entries, count * sizeof *scan->entries,
                      (off_t)(first * sizeof *scan->entries));
    if (n < 0)
        return -errno;
    scan->entry_first = first;
    scan->entry_count = (size_t)n / sizeof *scan->entries;
    return scan->entry_count ? 0 : -EFAULT; /* beyond the address space */
}

/* The entry of a page, read with those behind it up to `end_page`. */
static int read_entry(struct page_scan *scan, uint64_t page, uint64_t end_page, uint64_t *ret_entry)
{
    if (page < scan->entry_first || page - scan->entry_first >= scan->entry_count) {
        int r = fill_entries(scan, page, end_page - page);
        if (r < 0)
            return r;
    }
    *ret_entry = scan->entries[page - scan->entry_first];
    return 0;
}

static int find_by_entries(struct page_scan *scan, uint64_t at, uint64_t end, uint64_t *ret_start,
                           uint64_t *ret_end)
{
    uint64_t page = at / CORE_PAGE_BYTES, end_page = end / CORE_PAGE_BYTES, entry = 0;
    int r = 0;
    for (; page < end_page && (r = read_entry(scan, page, end_page, &entry)) == 0 && !is_own(entry); page++)
        ;
    if (r < 0 || page == end_page)
        return r;
    *ret_start = page * CORE_PAGE_BYTES;
    for (; page < end_page && (r = read_entry(scan, page, end_page, &entry)) == 0 && is_own(entry); page++)
        ;
    *ret_end = page * CORE_PAGE_BYTES;
    return r < 0 ? r : 1;
}

static int find_own(struct page_scan *scan, uint64_t at, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
    if (scan->has_scan_call) {
        int r = find_by_scan(scan, at, end, ret_start, ret_end);
        if (r != -ENOTTY && r != -EINVAL)
            return r;
        scan->has_scan_call = false;
    }
    return find_by_entries(scan, at, end, ret_start, ret_end);
}

/* The next pages of a file in [at, end) that are no hole; all of them if it cannot be asked (then holes are
 * read as zeros). 0: there are none. */
static int find_data(int fd, uint64_t at, uint64_t end, uint64_t *ret_start, uint64_t *ret_end)
{
    off_t data = fd < 0 ? -1 : lseek(fd, (off_t)at, SEEK_DATA);
    if (data < 0 && fd >= 0 && errno == ENXIO)
        return 0; /* a hole up to its end */
    off_t hole = data < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    *ret_start = data < 0 ? at : (uint64_t)data & ~(uint64_t)(CORE_PAGE_BYTES - 1);
    *ret_end = hole <= data || core_page_up((uint64_t)hole) > end ? end : core_page_up((uint64_t)hole);
    return *ret_start < *ret_end;
}

/* What a shared object holds. */
static int find_in_object(struct page_scan *scan, const struct snapshot_vma *vma, uint64_t at, uint64_t end,
                          uint64_t *ret_start, uint64_t *ret_end)
{
    uint64_t shift = vma->start - vma->offset; /* from places in the object to addresses */
    int r = find_data(scan->object_fd, at - shift, end - shift, ret_start, ret_end);
    if (r > 0) {
        *ret_start += shift;
        *ret_end += shift;
    }
    return r;
}

static void open_object(struct page_scan *scan, const struct snapshot_vma *vma)
{
    char link[64];
    snprintf(link, sizeof link, "map_files/%" PRIx64 "-%" PRIx64, vma->start, vma->end);
    base_close(&scan->object_fd);
    scan->object_fd = openat(scan->proc_fd, link, O_RDONLY | O_CLOEXEC);
}

/* ---- going through all of it ---- */

static void begin_vma(struct page_scan *scan)
{
    struct snapshot_vma *vma = &scan->snapshot->vmas[scan->vma];
    scan->method = choose_method(scan, vma);
    scan->at = scan->known_end = vma->start;
    scan->is_begun = true;
    if (scan->method == PAGE_METHOD_OBJECT)
        open_object(scan, vma);
    if (scan->method == PAGE_METHOD_ALL && is_file(vma))
        vma->flags |= SNAPSHOT_VMA_STORED;
}

/* The next run in the mapping at hand. */
static int find_run(struct page_scan *scan, uint64_t *ret_start, uint64_t *ret_end)
{
    const struct snapshot_vma *vma = &scan->snapshot->vmas[scan->vma];
    uint64_t end = scan->method == PAGE_METHOD_ALL ? content_end(vma) : vma->end;
    while (scan->method == PAGE_METHOD_OBJECT && scan->at < vma->end) {
        end = skip_shown(scan->snapshot, vma, &scan->at);
        if (scan->at >= vma->end)
            return 0;
        int r = find_in_object(scan, vma, scan->at, end, ret_start, ret_end);
        if (r != 0)
            return r;
        scan->at = end;
    }
    if (scan->at >= end || scan->method == PAGE_METHOD_NONE || scan->method == PAGE_METHOD_OBJECT)
        return 0;
    if (scan->method == PAGE_METHOD_OWN)
        return find_own(scan, scan->at, end, ret_start, ret_end);
    *ret_start = scan->at;
    *ret_end = end;
    return 1;
}

/* Runs are cut at multiples, so that extents of the same memory begin at the same addresses every time. */
static uint64_t cut_run(uint64_t start, uint64_t end, size_t longest)
{
    uint64_t cut = (start / longest + 1) * longest;
    return end < cut ? end : cut;
}

int page_scan_next(struct page_scan *scan, size_t longest, struct page_run *ret_run)
{
    while (scan->vma < scan->snapshot->vmas_count) {
        if (!scan->is_begun)
            begin_vma(scan);
        /* Found as a whole, handed out in parts. */
        uint64_t start = scan->at, end = scan->known_end;
        int r = start < end ? 1 : find_run(scan, &start, &end);
        if (r < 0)
            return r;
        if (r == 0) {
            scan->vma++;
            scan->is_begun = false;
            continue;
        }
        scan->known_end = end;
        scan->at = end = cut_run(start, end, longest);
        *ret_run = (struct page_run){.vma = scan->vma, .start = start, .end = end};
        return 1;
    }
    return 0;
}

bool page_is_guard(struct page_scan *scan, uint64_t address)
{
    uint64_t entry;
    off_t place = (off_t)(address / CORE_PAGE_BYTES * sizeof entry);
    return pread(scan->pagemap_fd, &entry, sizeof entry, place) == sizeof entry && (entry & ENTRY_GUARD);
}

int content_scan_next(struct content_scan *scan, size_t longest, const struct image_content **ret_content,
                      uint64_t *ret_start, uint64_t *ret_end)
{
    for (; scan->index < scan->count; scan->index++, scan->at = scan->known_end = 0) {
        const struct image_content *content = &scan->contents[scan->index];
        uint64_t start = scan->at, end = scan->known_end;
        if (start >= end && find_data(content->fd, start, content->size, &start, &end) == 0)
            continue;
        scan->known_end = end;
        scan->at = *ret_end = cut_run(start, end, longest);
        *ret_start = start;
        *ret_content = content;
        return 1;
    }
    return 0;
}
