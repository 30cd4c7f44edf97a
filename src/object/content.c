/* The content of files that have no path any more, and of memfds. It may be large, so it stands in no state:
 * at the capture a file of ours on the same inode is handed to whoever stores it, run by run without the
 * holes, in rows of `contents`; when the object is made anew these are read one after the other. */
#include "object/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#define PIECE_BYTES (1U << 20)

/* The file of our own has a position that SEEK_DATA may move, and may be read whatever the capability may. */
int content_capture(struct object_capture *capture, uint64_t size, struct reseat_error **ret_error)
{
    native_cap_t own = making_reopen(capture->cap, O_RDONLY);
    if (own == -EMFILE || own == -ENFILE)
        return error_errno(ret_error, own, "opening its content, which takes a descriptor for each file");
    if (own < 0)
        return capture_lost(capture, "its content cannot be read (%s)", strerror(-own));
    if (!capture->contents) {
        base_close(&own);
        return 0;
    }
    int r = capture->contents->take(capture->contents->userdata, capture->row + 1, own, size);
    return r < 0 ? error_errno(ret_error, r, "noting its content") : 0;
}

/* The rows of one object: they stand together, in the order of the objects. */
static const struct snapshot_extent *find_extents(const struct object_view *view, size_t *ret_count)
{
    const struct snapshot *snapshot = view->snapshot;
    size_t low = 0, high = snapshot->contents_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (snapshot->contents[middle].object < view_id(view))
            low = middle + 1;
        else
            high = middle;
    }
    while (high < snapshot->contents_count && snapshot->contents[high].object == view_id(view))
        high++;
    *ret_count = high - low;
    return high > low ? &snapshot->contents[low] : NULL;
}

int content_check(const struct object_view *view, uint64_t size, struct reseat_error **ret_error)
{
    size_t count;
    const struct snapshot_extent *extents = find_extents(view, &count);
    if (size > INT64_MAX)
        return view_bad(view, ret_error, "%llu bytes are no size of a file", (unsigned long long)size);
    for (size_t i = 0; i < count; i++)
        if (extents[i].address > size || extents[i].length > size - extents[i].address)
            return view_bad(view, ret_error, "its content goes beyond a file of %llu bytes",
                            (unsigned long long)size);
    return 0;
}

int content_write(const struct object_making *making, const struct object_view *view, uint64_t size,
                  native_cap_t cap, struct reseat_error **ret_error)
{
    size_t count;
    const struct snapshot_extent *extents = find_extents(view, &count);
    _cleanup_free_ uint8_t *piece = malloc(PIECE_BYTES);
    int r = !piece ? -ENOMEM : ftruncate(cap, (off_t)size) < 0 ? -errno : 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        for (uint64_t at = 0; r == 0 && at < extents[i].length; at += PIECE_BYTES) {
            uint64_t left = extents[i].length - at;
            size_t length = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
            r = making->options->read_content(making->options->userdata, &extents[i], at, piece, length,
                                              ret_error);
            if (r < 0)
                return r;
            r = fd_write_at(cap, piece, length, extents[i].address + at);
        }
    return r < 0 ? error_errno(ret_error, r, "writing its content") : 0;
}

int content_write_mapped(const struct object_making *making, const struct object_view *view, uint64_t size,
                         native_cap_t cap, struct reseat_error **ret_error)
{
    size_t count;
    const struct snapshot_extent *extents = find_extents(view, &count);
    if (ftruncate(cap, (off_t)size) < 0)
        return error_errno(ret_error, -errno, "writing its content");
    if (count == 0)
        return 0;
    uint8_t *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cap, 0);
    if (memory == MAP_FAILED)
        return error_errno(ret_error, -errno, "mapping its content");
    int r = 0;
    for (size_t i = 0; r == 0 && i < count; i++)
        r = making->options->read_content(making->options->userdata, &extents[i], 0,
                                          memory + extents[i].address, extents[i].length, ret_error);
    munmap(memory, size);
    return r;
}
