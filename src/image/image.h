/* The checkpoint directory and its files. One process is one file `PID.core`, an ELF core file (ET_CORE)
 * whose tables stand in sections `.reseat.*`: fixed-size little-endian records with sh_entsize, each table
 * with a checksum. A directory appears whole or not at all: made under a temporary name, renamed.
 *
 * A file is hostile until proven otherwise: image_read() reads nothing outside the buffer, believes no count,
 * and hands out a snapshot whose every offset and reference has been checked. */
#pragma once

#include "base/base.h"
#include "snapshot/snapshot.h"

/* How far something long has got; asked for often. A negative errno ends it with that. */
struct image_progress {
    int (*report)(void *userdata, uint64_t done, uint64_t total); /* bytes; NULL: nobody wants to know */
    void *userdata;
};

enum image_flags {
    IMAGE_COMPRESS = 1 << 0,       /* memory, with zstd */
    IMAGE_SELF_CONTAINED = 1 << 1, /* also what is in the files that are mapped */
};

/* A file that an object is on, and that comes back with its content. */
struct image_content {
    uint32_t object; /* id in the object table */
    int fd;          /* ours, with a position of its own */
    uint64_t size;
};

/* Where the memory of an image comes from. */
struct image_source {
    pid_t pid; /* the stopped target, or its twin: ours to trace, and not running */
    unsigned flags;
    const struct image_content *contents;
    size_t content_count;
    struct image_progress progress; /* called by the thread that writes */
    /* Called when the memory is written that a copy shares with the process that it is of, and the contents:
     * that may run from now on. Not 0: the writing ends with that. NULL: nobody waits for it. */
    int (*shared_is_written)(void *userdata, struct reseat_error **ret_error);
    void *userdata;
};

/* A checkpoint directory that is being made. `struct image_draft draft = {0};` is one that is not begun:
 * image_draft_end() does nothing with it. */
struct image_draft {
    int parent_fd;        /* the directory that `dir` is in */
    int dir_fd;           /* the temporary directory */
    char *name;           /* the last part of the final path */
    char *temporary_name; /* beside it, hidden */
    char *path;           /* the final path, absolute */
    bool is_durable;      /* has been written with memory, and synced */
};

/* Makes the temporary directory (mode 0700) beside the final place, and removes those that were left of
 * earlier attempts. -EEXIST: `dir` is there already. */
int image_draft_begin(const char *dir, struct image_draft *ret_draft, struct reseat_error **ret_error);
/* Writes PID.core (mode 0600) into a draft, without memory. -EBADMSG: the snapshot is not one that
 * image_read() would accept, so nothing is written. Not synced to the disk: what it describes, the twin, does
 * not survive this boot. */
int image_draft_write(struct image_draft *draft, const struct snapshot *snapshot,
                      struct reseat_error **ret_error);
/* The same with the memory that the rows of snapshot->vmas speak of, and the contents; fills
 * snapshot->extents and snapshot->contents. File and directory are on the disk afterwards, and
 * image_draft_publish() sees to it that the name is, too. Takes little memory whatever the size. */
int image_draft_write_memory(struct image_draft *draft, struct snapshot *snapshot,
                             const struct image_source *source, struct reseat_error **ret_error);
/* The same into a stream (docs/image.md). */
int image_stream_write(int fd, struct snapshot *snapshot, const struct image_source *source,
                       struct reseat_error **ret_error);
/* Gives the draft its final name, without replacing anything (renameat2(2) RENAME_NOREPLACE, with link-free
 * fallback). Afterwards image_draft_end() only frees. */
int image_draft_publish(struct image_draft *draft, struct reseat_error **ret_error);
/* Removes a draft that was not published, and frees; cleanup function. */
void image_draft_end(struct image_draft *draft);
/* Removes our drafts in a directory whose makers were killed; those for a directory called `name` only,
 * unless it is NULL. What cannot be removed stays, without a word. */
void image_remove_left_drafts(int parent_fd, const char *name);

/* Reads the snapshot of a directory. -ENOENT: no such directory, or no checkpoint in it; -EBADMSG: damaged,
 * with the place named; -EPROTONOSUPPORT: of another version or machine; -ENOTDIR, -ELOOP: a symbolic link;
 * -EPERM: written to by anybody else than its owner, or owned by somebody whom the caller should not trust
 * (neither root nor the caller; for root: anybody but root and the owner of the process, checked later with
 * *ret_owner). Nothing else is known of the numbers in it than that they are in range: `twin` may be any PID.
 */
int image_read(const char *dir, struct snapshot *ret_snapshot, uid_t *ret_owner,
               struct reseat_error **ret_error);

/* ---- an image that is read: the snapshot, and memory as far as it is asked for ---- */

struct image;

/* As image_read(), and keeps the file open for its memory. */
int image_open(const char *dir, struct image **ret_image, struct reseat_error **ret_error);
/* An image that is only to be looked at, whoever it belongs to: a directory, or the file itself. */
int image_open_to_look(const char *path, struct image **ret_image, struct reseat_error **ret_error);
/* The image that comes in a stream; kept in a file without a name in $TMPDIR (or /var/tmp) until it is
 * closed.
 */
int image_open_stream(int fd, struct image **ret_image, struct reseat_error **ret_error);
void image_close(struct image **image); /* cleanup function */
const struct snapshot *image_snapshot(const struct image *image);
uid_t image_owner(const struct image *image);
/* Whether there is memory in it; without, only a twin makes it of use. */
bool image_has_memory(const struct image *image);
/* Reads all memory once and compares the checksums, also that nothing but zeros lies where no extent is.
 * -EBADMSG: damaged, with the address named. To be asked before any process is made. */
int image_verify_memory(struct image *image, const struct image_progress *progress,
                        struct reseat_error **ret_error);
/* The whole content of an extent, which belongs to the image and lasts until the next call: read,
 * checksum compared, decompressed. */
int image_read_extent(struct image *image, const struct snapshot_extent *extent, const void **ret_content,
                      struct reseat_error **ret_error);
/* `length` bytes of an extent from `offset` on. */
int image_read_memory(struct image *image, const struct snapshot_extent *extent, uint64_t offset,
                      void *buffer, size_t length, struct reseat_error **ret_error);
/* Whether the bytes of an extent are in the file as they were in memory, at file_offset of
 * image_file(): then they may be read from there, once they have been verified. */
bool image_is_plain(const struct snapshot_extent *extent);
int image_file(const struct image *image);

/* ---- a directory that is there ---- */

/* Replaces PID.core of an existing directory in one step (written beside it, renamed, given to the owner of
 * the directory). -EINVAL: the snapshot is of another PID. */
int image_replace(const char *dir, const struct snapshot *snapshot, struct reseat_error **ret_error);
/* Removes the files of a checkpoint directory that are ours, and the directory. -ENOTEMPTY: something else is
 * in it; ours is removed all the same. */
int image_remove(const char *dir, struct reseat_error **ret_error);
