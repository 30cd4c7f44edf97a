/* Where the bytes of an image go: into a file, each at its place, or into a stream, which says of each piece
 * where it belongs. */
#include "image/memory.h"
#include "image/stream.h"

#include <errno.h>

static int write_file(int fd, uint64_t offset, const uint8_t *data, size_t length)
{
    while (length > 0) {
        ssize_t n = pwrite(fd, data, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int core_sink_write(struct core_sink *sink, uint64_t offset, const void *data, size_t length)
{
    if (!sink->is_stream)
        return write_file(sink->fd, offset, data, length);
    pthread_mutex_lock(&sink->lock);
    int r = stream_write(sink->fd, offset, data, length);
    if (offset + length > sink->end)
        sink->end = offset + length;
    pthread_mutex_unlock(&sink->lock);
    return r;
}
