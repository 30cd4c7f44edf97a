/* What the files of this room share: one checkpoint file in memory, as it is written (core_layout) and as it
 * is read (core_view), and the checks that a snapshot has to pass on both ways. The format itself is told in
 * docs/image.md. */
#pragma once

#include <elf.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "base/base.h"
#include "snapshot/snapshot.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "rows in memory are rows in the file, and those are little-endian"
#endif

#if defined __x86_64__
#define CORE_MACHINE EM_X86_64
#elif defined __aarch64__
#define CORE_MACHINE EM_AARCH64
#else
#error "unknown ELF machine"
#endif

struct image_source;

#define CORE_BYTES_MAX                     (1ULL << 30) /* of a file, and of the memory that its tables take up */
#define CORE_SECTIONS_MAX                  64 /* of a file that is read; ours has CORE_SECTION_COUNT */
#define CORE_ROW_BYTES_MAX                 65536
#define CORE_SECTION_ALIGNMENT             8

#define CORE_SECTION_PROCESS               ".reseat.process"
#define CORE_SECTION_CHECKSUMS             ".reseat.checksums"
#define CORE_SECTION_NAMES                 ".shstrtab"
#define CORE_SECTION_NOTES                 ".note"
#define CORE_SECTION_MEMORY                ".reseat.memory"

#define CORE_ONE_MORE(type, name, section) +1
#define CORE_TABLE_COUNT                   (0 SNAPSHOT_TABLES(CORE_ONE_MORE))
/* The empty section that ELF begins with, the process, the tables, the names, the checksums. */
#define CORE_SECTION_COUNT (1 + 1 + CORE_TABLE_COUNT + 1 + 1)
/* With memory: also the notes and the memory itself. */
#define CORE_SECTION_COUNT_MAX (CORE_SECTION_COUNT + 2)
#define CORE_PAGE_BYTES        4096U
/* An extent is at most this long, so that reading one takes little memory. */
#define CORE_EXTENT_BYTES_MAX (1U << 20)

static inline uint64_t core_page_up(uint64_t number)
{
    return (number + CORE_PAGE_BYTES - 1) & ~(uint64_t)(CORE_PAGE_BYTES - 1);
}

/* ---- core_layout.c: a snapshot as a file ---- */

/* What a file with memory has besides the tables: where the memory lies in it, what the program headers say,
 * and the notes of a core file. */
struct core_memory {
    uint64_t start, end; /* in the file; page-aligned, the first page is the ELF header's */
    Elf64_Phdr *segments;
    size_t segment_count;
    uint8_t *notes; /* the last segment is of them; its p_offset is set by core_layout_make() */
    size_t notes_length;
};

/* The file as pieces for writev(2), without its memory. They point into this structure and into the snapshot:
 * neither may move. */
struct core_layout {
    Elf64_Ehdr header; /* the first piece, unless there is memory: then it is written at 0, last of all */
    Elf64_Shdr sections[CORE_SECTION_COUNT_MAX];
    uint64_t checksums[CORE_SECTION_COUNT_MAX];
    size_t section_count;
    struct iovec pieces[3 + 2 * CORE_SECTION_COUNT_MAX];
    size_t piece_count;
    uint64_t start;  /* where the pieces go: 0, or behind the memory */
    uint64_t length; /* of the file */
};

/* `memory`: NULL for a file without. */
void core_layout_make(const struct snapshot *snapshot, struct core_memory *memory,
                      struct core_layout *ret_layout);
/* Writes the pieces at the position of the descriptor; uses them up. */
int core_layout_write(struct core_layout *layout, int fd);
/* What stands for the empty section in the checksums. */
uint64_t core_checksum_headers(const Elf64_Ehdr *header, const Elf64_Phdr *segments, size_t segment_count,
                               const Elf64_Shdr *sections, size_t section_count);

/* ---- core_view.c: a file as a snapshot ----
 * Three steps, so that a fuzzer can leave out the second: open (nothing lies outside the file), verify
 * (checksums), extract (rows). Memory is not read here, only where it lies is checked. */

/* Where the bytes of a file come from: a buffer, or (bytes: NULL) a descriptor. */
struct core_source {
    const uint8_t *bytes;
    int fd;
    uint64_t length;
};

/* Exactly `length` bytes; -EBADMSG: the file ends before. */
int core_source_read(const struct core_source *source, uint64_t offset, void *buffer, size_t length);

struct core_view {
    struct core_source source; /* the caller's; must outlive the view */
    Elf64_Ehdr header;
    Elf64_Phdr *segments;
    size_t segment_count;
    Elf64_Shdr sections[CORE_SECTIONS_MAX];
    uint8_t *contents[CORE_SECTIONS_MAX]; /* of all sections but the memory */
    const char *names;                    /* NUL-terminated at its end */
    size_t memory;                        /* index of the section of the memory, 0: none */
};

int core_view_open(const struct core_source *source, struct core_view *ret_view,
                   struct reseat_error **ret_error);
void core_view_close(struct core_view *view); /* cleanup function */
/* The index of a section, 0 if there is none. -EBADMSG: there are two. */
int core_view_find(const struct core_view *view, const char *name, struct reseat_error **ret_error);
int core_view_verify(const struct core_view *view, struct reseat_error **ret_error);
/* core_extract.c. Only well-formed rows: whether they make sense is core_check_snapshot()'s to say. */
int core_view_extract(const struct core_view *view, struct snapshot *ret_snapshot,
                      struct reseat_error **ret_error);
/* The extents of both tables in the order in which they lie in the file. -ENOMEM. */
int core_sort_extents(const struct snapshot *snapshot, const struct snapshot_extent ***ret_places,
                      size_t *ret_count);
/* Whether the extents lie in the section of the memory, none over another. */
int core_view_check_extents(const struct core_view *view, const struct snapshot *snapshot,
                            struct reseat_error **ret_error);

/* ---- core_check.c, core_check_*.c ---- */

/* Whether every number in a snapshot that others use as an index, a length or a reference is one. -EBADMSG,
 * with the section and row named. */
int core_check_snapshot(const struct snapshot *snapshot, struct reseat_error **ret_error);

/* What the checks of single tables are made of. */
int core_bad_row(struct reseat_error **ret_error, const char *section, size_t row, const char *format, ...)
    _printf_(4, 5);
/* A NUL-terminated string in the blobs, at most `longest` bytes long. */
int core_check_text(const struct snapshot *snapshot, const char *section, size_t row, const char *what,
                    uint64_t offset, size_t longest, struct reseat_error **ret_error);
/* Bytes in the blobs. */
int core_check_bytes(const struct snapshot *snapshot, const char *section, size_t row, const char *what,
                     uint64_t offset, uint64_t length, struct reseat_error **ret_error);

/* Numbers in ascending order, to look one up or find one that is there twice: a table may have a million
 * rows. */
struct number_set {
    uint32_t *numbers;
    size_t count;
};

void number_set_free(struct number_set *set); /* cleanup function */
bool number_set_has(const struct number_set *set, uint32_t number);
/* Sorts; returns the first number that is there twice, or NULL. */
const uint32_t *number_set_sort(struct number_set *set);

/* core_check_memory.c */
/* Absolute, without .. in it. */
bool core_is_full_path(const char *path);
int core_check_vmas(const struct snapshot *snapshot, struct reseat_error **ret_error);
int core_check_extents(const struct snapshot *snapshot, struct reseat_error **ret_error);
int core_check_contents(const struct snapshot *snapshot, struct reseat_error **ret_error);
/* core_check_state.c */
int core_check_states(const struct snapshot *snapshot, struct reseat_error **ret_error);
int core_check_actions(const struct snapshot *snapshot, struct reseat_error **ret_error);
int core_check_machines(const struct snapshot *snapshot, struct reseat_error **ret_error);
int core_check_filters(const struct snapshot *snapshot, struct reseat_error **ret_error);
int core_check_credentials(const struct snapshot *snapshot, struct reseat_error **ret_error);

/* core_check_objects.c */
int core_check_objects(const struct snapshot *snapshot, struct reseat_error **ret_error);

/* ---- directory.c: names, entries, and writing one file ---- */

#define DIRECTORY_SUFFIX_BYTES    6 /* of a temporary name */
#define DIRECTORY_TEMPORARY_PART  ".reseat-"
#define DIRECTORY_CORE_NAME_BYTES 32

/* A path without the slashes at its end: with them, O_NOFOLLOW would follow. NULL: out of memory. */
char *directory_strip_slashes(const char *path);
void directory_make_suffix(char ret_suffix[static DIRECTORY_SUFFIX_BYTES + 1]);
/* The PID in "PID.core", or 0. */
pid_t directory_parse_core_name(const char *name);
/* Whether this is what image_replace() calls its file before it renames it: ".PID.core.reseat-XXXXXX". */
bool directory_is_temporary_core_name(const char *name);
/* Another stream over a directory, with a position of its own. NULL: errno. */
DIR *directory_list(int dir_fd);
/* The next entry besides "." and ".."; NULL at the end, with errno 0, or on an error. */
struct dirent *directory_next_entry(DIR *stream);
/* Checks a snapshot and writes it under a name that is not there yet; on failure the name is gone again.
 * `owner`: whom the file shall belong to, NULL: us. */
int directory_write_core(int dir_fd, const char *name, const struct snapshot *snapshot,
                         const struct stat *owner, struct reseat_error **ret_error);

/* The same with the memory of a process; on the disk afterwards. */
int directory_write_memory(int dir_fd, const char *name, struct snapshot *snapshot,
                           const struct image_source *source, struct reseat_error **ret_error);

/* The same with memory that is in another file at the same places; on the disk afterwards. */
int directory_write_tables(int dir_fd, const char *name, const struct snapshot *snapshot,
                           struct core_memory *memory, int from_fd,
                           int (*copy_memory)(int from_fd, int to_fd, uint64_t start, uint64_t end),
                           const struct stat *owner, struct reseat_error **ret_error);

/* ---- stored.c: a directory that is there ---- */

struct stored {
    char *path; /* as the user wrote it */
    int dir_fd;
    struct stat status; /* of the directory */
    pid_t pid;
    char core_name[DIRECTORY_CORE_NAME_BYTES]; /* "PID.core" */
};

#define STORED_NONE ((struct stored){.dir_fd = -EBADF})

int stored_open(const char *dir, struct stored *ret_stored, struct reseat_error **ret_error);
/* Whoever may have written to it. */
int stored_open_to_look(const char *dir, struct stored *ret_stored, struct reseat_error **ret_error);
void stored_close(struct stored *stored); /* cleanup function */
/* Opens PID.core: a regular file of the owner of the directory. */
int stored_open_core(const struct stored *stored, int *ret_fd, uint64_t *ret_length,
                     struct reseat_error **ret_error);

/* ---- draft.c ---- */

/* Renames a directory without replacing anything, on filesystems that do not know RENAME_NOREPLACE. */
int directory_rename_reserving(int parent_fd, const char *from, const char *to);
