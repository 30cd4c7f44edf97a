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

#define CORE_BYTES_MAX                     (1ULL << 30) /* of a file, and of the memory that its tables take up */
#define CORE_SECTIONS_MAX                  64 /* of a file that is read; ours has CORE_SECTION_COUNT */
#define CORE_ROW_BYTES_MAX                 65536
#define CORE_SECTION_ALIGNMENT             8

#define CORE_SECTION_PROCESS               ".reseat.process"
#define CORE_SECTION_CHECKSUMS             ".reseat.checksums"
#define CORE_SECTION_NAMES                 ".shstrtab"

#define CORE_ONE_MORE(type, name, section) +1
#define CORE_TABLE_COUNT                   (0 SNAPSHOT_TABLES(CORE_ONE_MORE))
/* The empty section that ELF begins with, the process, the tables, the names, the checksums. */
#define CORE_SECTION_COUNT (1 + 1 + CORE_TABLE_COUNT + 1 + 1)

/* ---- core_layout.c: a snapshot as a file ---- */

/* The file as pieces for writev(2). They point into this structure and into the snapshot: neither may move.
 */
struct core_layout {
    Elf64_Ehdr header;
    Elf64_Shdr sections[CORE_SECTION_COUNT];
    uint64_t checksums[CORE_SECTION_COUNT];
    size_t section_count;
    size_t next_name; /* in the section names */
    struct iovec pieces[2 + 2 * CORE_SECTION_COUNT];
    size_t piece_count;
    uint64_t length; /* of the file */
};

void core_layout_make(const struct snapshot *snapshot, struct core_layout *ret_layout);
/* Writes the file; uses the pieces up. */
int core_layout_write(struct core_layout *layout, int fd);
/* What stands for the empty section in the checksums. */
uint64_t core_checksum_headers(const Elf64_Ehdr *header, const Elf64_Shdr *sections, size_t section_count);

/* ---- core_view.c: a file as a snapshot ----
 * Three steps, so that a fuzzer can leave out the second: open (nothing lies outside the file), verify
 * (checksums), extract (rows). */

struct core_view {
    const uint8_t *bytes; /* the caller's; must outlive the view */
    size_t length;
    Elf64_Ehdr header;
    Elf64_Shdr sections[CORE_SECTIONS_MAX];
    const char *names; /* NUL-terminated at its end */
};

int core_view_open(const uint8_t *bytes, size_t length, struct core_view *ret_view,
                   struct reseat_error **ret_error);
/* The index of a section, 0 if there is none. -EBADMSG: there are two. */
int core_view_find(const struct core_view *view, const char *name, struct reseat_error **ret_error);
int core_view_verify(const struct core_view *view, struct reseat_error **ret_error);
/* Only well-formed rows: whether they make sense is core_check_snapshot()'s to say. */
int core_view_extract(const struct core_view *view, struct snapshot *ret_snapshot,
                      struct reseat_error **ret_error);

/* ---- core_check.c ---- */

/* Whether every number in a snapshot that others use as an index, a length or a reference is one. -EBADMSG,
 * with the section and row named. */
int core_check_snapshot(const struct snapshot *snapshot, struct reseat_error **ret_error);

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

/* ---- draft.c ---- */

/* Renames a directory without replacing anything, on filesystems that do not know RENAME_NOREPLACE. */
int directory_rename_reserving(int parent_fd, const char *from, const char *to);
