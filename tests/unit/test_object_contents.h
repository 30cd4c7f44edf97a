/* The contents of objects without an image, for tests of the object room alone: what a capture hands over is
 * kept open, rows of `contents` stand for what is no hole in it, and are read from there. */
#pragma once

#include "object/object.h"
#include "snapshot/snapshot.h"

#include <errno.h>
#include <unistd.h>

#define HELD_BYTES (1U << 20) /* a row, at most */

struct held_contents {
    struct snapshot *snapshot;
    int *files; /* file_offset of a row is an index */
    size_t count;
};

static inline void held_contents_end(struct held_contents *held)
{
    for (size_t i = 0; i < held->count; i++)
        base_close(&held->files[i]);
    free(held->files);
    *held = (struct held_contents){0};
}

static inline int hold_content(void *userdata, object_id_t object, int file, uint64_t size)
{
    struct held_contents *held = userdata;
    int *place = array_append(held->files, held->count);
    if (!place)
        return -ENOMEM;
    *place = file;
    off_t at = 0;
    while ((at = lseek(file, at, SEEK_DATA)) >= 0) {
        struct snapshot *snapshot = held->snapshot;
        struct snapshot_extent *row = array_append(snapshot->contents, snapshot->contents_count);
        if (!row)
            return -ENOMEM;
        uint64_t start = (uint64_t)at & ~(uint64_t)4095, end = (uint64_t)lseek(file, at, SEEK_HOLE);
        end = end < start + HELD_BYTES ? end : start + HELD_BYTES;
        end = end < size ? end : size;
        *row = (struct snapshot_extent){start, end - start, held->count - 1, end - start, 0, object, 0};
        at = (off_t)end;
    }
    return 0;
}

static inline int read_held_content(void *userdata, const struct snapshot_extent *extent, uint64_t offset,
                                    void *data, size_t length, struct reseat_error **ret_error)
{
    const struct held_contents *held = userdata;
    ssize_t n = extent->file_offset >= held->count ? -1
                                                   : pread(held->files[extent->file_offset], data, length,
                                                           (off_t)(extent->address + offset));
    return n == (ssize_t)length ? 0 : error_set(ret_error, -EIO, "reading a content");
}
