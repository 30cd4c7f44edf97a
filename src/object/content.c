/* The content of files that have no path any more, and of memfds: carried in the state of their object, run
 * by run, without the holes (lseek(2) SEEK_DATA). It is read by pread(2) through a capability of ours, so
 * nobody's position moves. What is larger than CONTENT_BYTES_MAX is not carried: the tables of an image are
 * in memory as a whole. */
#include "object/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define CONTENT_BYTES_MAX (256ULL << 20)
#define PIECE_BYTES       (1U << 20)

struct runs {
    struct content_run *items;
    size_t count;
    uint64_t length; /* of all */
};

/* Where there is data. A file system that does not know says: everywhere. */
static int find_runs(native_cap_t cap, uint64_t size, struct runs *runs)
{
    for (uint64_t position = 0; position < size;) {
        off_t start = lseek(cap, (off_t)position, SEEK_DATA), end = (off_t)size;
        if (start < 0 && errno == ENXIO)
            return 0;
        if (start < 0)
            start = (off_t)position;
        else
            end = lseek(cap, start, SEEK_HOLE);
        if (end <= start)
            return -EIO;
        struct content_run *run = array_append(runs->items, runs->count);
        if (!run)
            return -ENOMEM;
        *run = (struct content_run){(uint64_t)start, (uint64_t)(end - start)};
        runs->length += run->length;
        position = (uint64_t)end;
    }
    return 0;
}

static int read_run(struct object_capture *capture, native_cap_t cap, const struct content_run *run)
{
    size_t begin = capture->length;
    uint8_t *larger = realloc(capture->state, begin + run->length + 1);
    if (!larger)
        return -ENOMEM;
    capture->state = larger;
    memset(larger + begin, 0, run->length); /* a file that becomes shorter meanwhile ends in zeros */
    for (uint64_t done = 0; done < run->length;) {
        uint64_t piece = run->length - done < PIECE_BYTES ? run->length - done : PIECE_BYTES;
        ssize_t n = pread(cap, larger + begin + done, piece, (off_t)(run->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (uint64_t)n;
    }
    capture->length += run->length;
    return 0;
}

/* A file of our own over the same inode: whose position SEEK_DATA moves, and which may be read. */
int content_capture(struct object_capture *capture, native_cap_t cap, struct reseat_error **ret_error)
{
    _cleanup_close_ native_cap_t own = making_reopen(cap, O_RDONLY);
    struct runs runs = {0};
    struct stat stat;
    if (own < 0 || fstat(own, &stat) < 0)
        return capture_lost(capture, "its content cannot be read (%s)", strerror(own < 0 ? -own : errno));
    int r = find_runs(own, (uint64_t)stat.st_size, &runs);
    _cleanup_free_ struct content_run *items = runs.items;
    if (r == 0 && runs.length > CONTENT_BYTES_MAX)
        return capture_lost(capture, "it has no path, and its content of %llu MiB is too large to be carried",
                            (unsigned long long)(runs.length >> 20));
    if (r == 0 && capture->without_content)
        runs.count = 0;
    struct content_header header = {.size = (uint64_t)stat.st_size, .run_count = (uint32_t)runs.count};
    if (r == 0)
        r = state_add(capture, &header, sizeof header);
    if (r == 0)
        r = state_add(capture, items, runs.count * sizeof *items);
    for (size_t i = 0; r == 0 && i < runs.count; i++)
        r = read_run(capture, own, &items[i]);
    return r < 0 ? error_errno(ret_error, r, "reading its content") : 0;
}

/* Reads the header; yields where the runs begin, or 0 if they are not all there. */
static size_t read_header(const struct object_view *view, size_t offset, struct content_header *ret_header)
{
    if (!view_has(view, offset, sizeof *ret_header))
        return 0;
    memcpy(ret_header, view->state + offset, sizeof *ret_header);
    size_t runs = offset + sizeof *ret_header;
    bool are_there = view_has(view, runs, ret_header->run_count * sizeof(struct content_run));
    return are_there ? runs : 0;
}

int content_check(const struct object_view *view, size_t offset, size_t *ret_end,
                  struct reseat_error **ret_error)
{
    struct content_header header;
    size_t runs = read_header(view, offset, &header);
    if (!runs || header.size > INT64_MAX)
        return view_bad(view, ret_error, "the content is cut off");
    uint64_t data = runs + header.run_count * sizeof(struct content_run), lowest = 0;
    for (size_t i = 0; i < header.run_count; i++) {
        struct content_run run;
        memcpy(&run, view->state + runs + i * sizeof run, sizeof run);
        if (run.offset < lowest || run.offset > header.size || run.length > header.size - run.offset)
            return view_bad(view, ret_error, "run %zu of the content is outside a file of %llu bytes", i,
                            (unsigned long long)header.size);
        if (!view_has(view, data, run.length))
            return view_bad(view, ret_error, "run %zu of the content is cut off", i);
        lowest = run.offset + run.length;
        data += run.length;
    }
    *ret_end = data;
    return 0;
}

int content_write(const struct object_view *view, size_t offset, native_cap_t cap)
{
    struct content_header header;
    size_t runs = read_header(view, offset, &header);
    const uint8_t *data = view->state + runs + header.run_count * sizeof(struct content_run);
    if (ftruncate(cap, (off_t)header.size) < 0)
        return -errno;
    for (size_t i = 0; i < header.run_count; i++) {
        struct content_run run;
        memcpy(&run, view->state + runs + i * sizeof run, sizeof run);
        for (uint64_t done = 0; done < run.length;) {
            ssize_t n = pwrite(cap, data + done, run.length - done, (off_t)(run.offset + done));
            if (n < 0 && errno == EINTR)
                continue;
            if (n <= 0)
                return n < 0 ? -errno : -EIO;
            done += (uint64_t)n;
        }
        data += run.length;
    }
    return 0;
}
