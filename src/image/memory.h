/* What the makers of an image share about memory: which pages (pages.c), the notes of a core file
 * (core_notes.c), and where bytes go (sink.c). */
#pragma once

#include "base/base.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <pthread.h>

/* ---- pages.c ---- */

enum page_method {
    PAGE_METHOD_NONE,   /* nothing is stored */
    PAGE_METHOD_OWN,    /* pages of its own: present or swapped, not of a file */
    PAGE_METHOD_OBJECT, /* what the shared object holds */
    PAGE_METHOD_ALL,    /* every page */
};

struct page_scan {
    struct snapshot *snapshot; /* mappings that are stored as a whole are marked in it */
    bool self_contained;
    bool is_of_shared; /* only memory that a copy shares with the process it is of; otherwise all but that */
    int proc_fd, pagemap_fd;
    int object_fd; /* of the shared object of the mapping at hand */
    bool has_scan_call;
    size_t vma; /* at hand */
    bool is_begun;
    enum page_method method;
    uint64_t at;
    uint64_t known_end; /* of the run that `at` is in; not beyond `at`: nothing is known */
    uint64_t *entries;  /* of pagemap */
    uint64_t entry_first;
    size_t entry_count;
};

#define PAGE_SCAN_NONE ((struct page_scan){.proc_fd = -EBADF, .pagemap_fd = -EBADF, .object_fd = -EBADF})

/* Pages next to each other in one mapping. */
struct page_run {
    size_t vma;
    uint64_t start, end;
};

/* Of one of the two sorts of memory: all pages are found by two scans. */
int page_scan_begin(struct page_scan *scan, pid_t pid, struct snapshot *snapshot, bool self_contained,
                    bool is_of_shared, struct reseat_error **ret_error);
void page_scan_end(struct page_scan *scan); /* cleanup function */
/* The next run, at most `longest` bytes, ascending; 1, 0 at the end, or a negative errno. */
int page_scan_next(struct page_scan *scan, size_t longest, struct page_run *ret_run);
/* Whether a page that cannot be read is a guard (MADV_GUARD_INSTALL, Linux 6.13). */
bool page_is_guard(struct page_scan *scan, uint64_t address);

struct image_content;

/* The same for the contents of objects: which pages of their files are no holes. */
struct content_scan {
    const struct image_content *contents;
    size_t count, index; /* of all; the one at hand */
    uint64_t at, known_end;
};

/* The next run, at most `longest` bytes, whole pages up to the end of the file; 1 or, at the end, 0. */
int content_scan_next(struct content_scan *scan, size_t longest, const struct image_content **ret_content,
                      uint64_t *ret_start, uint64_t *ret_end);

/* ---- core_notes.c ---- */

/* The notes of a core file: NT_PRSTATUS, NT_FPREGSET, … of each thread, NT_PRPSINFO, NT_AUXV, NT_FILE. What
 * the snapshot does not say of the process is read from process `pid`, its twin. */
int core_notes_make(const struct snapshot *snapshot, pid_t pid, uint8_t **ret_notes, size_t *ret_length,
                    struct reseat_error **ret_error);

/* ---- sink.c: where the bytes of a file go ---- */

/* A file that can be written anywhere, or a stream, which carries what would be written and where. */
struct core_sink {
    int fd;
    bool is_stream;
    pthread_mutex_t lock; /* stream: one frame after the other; and: */
    uint64_t end;         /* the length of the file so far */
};

/* May be called by several threads at once. */
int core_sink_write(struct core_sink *sink, uint64_t offset, const void *data, size_t length);

/* ---- memory_layout.c: where memory lies in the file ---- */

struct core_memory;
struct placement;

struct memory_layout {
    const struct snapshot *snapshot;
    bool compresses;
    struct placement *placements;
    size_t placement_count;
    size_t whole_vma; /* the mapping at hand, if it has its place: */
    uint64_t whole_offset;
    uint64_t next_offset;
};

/* Whether what is not stored of a mapping is as in its file. */
bool memory_is_of_file(const struct snapshot_vma *vma);
/* Whether a mapping is compressed; its extents are then appended, and otherwise placed. */
bool memory_layout_compresses(const struct memory_layout *layout, const struct snapshot_vma *vma);
/* The place of a run; runs of one mapping come in ascending order. -ENOMEM. */
int memory_layout_place(struct memory_layout *layout, const struct page_run *run, uint64_t *ret_file_offset);
/* The next place at a multiple of `alignment`, for what no program header shows. */
uint64_t memory_layout_append(struct memory_layout *layout, uint64_t length, uint64_t alignment);
/* Where memory begins and ends in the file, and a program header for each stretch of it. -ENOMEM. */
int memory_layout_describe(struct memory_layout *layout, struct core_memory *memory);
void memory_layout_end(struct memory_layout *layout); /* cleanup function */

/* ---- memory.c ---- */

struct image_source;

/* Writes the memory of a process and the contents of its objects, extent by extent, into a sink, from offset
 * CORE_PAGE_BYTES on. The extents go into the snapshot, and into *ret_memory what the file has to say of it.
 */
int core_memory_write(struct core_sink *sink, struct snapshot *snapshot, const struct image_source *source,
                      struct core_memory *ret_memory, struct reseat_error **ret_error);
void core_memory_end(struct core_memory *memory); /* cleanup function */
struct core_layout;

/* core_layout.c: writes the tables and headers of a file with memory. */
int core_layout_sink(const struct core_layout *layout, struct core_sink *sink);
/* All of a file with memory. */
int core_write(struct core_sink *sink, struct snapshot *snapshot, const struct image_source *source,
               struct reseat_error **ret_error);
