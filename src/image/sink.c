/* Where the bytes of an image go: into a file, each at its place, or into a stream, which says of each piece
 * where it belongs. */
#include "image/memory.h"
#include "image/stream.h"

int core_sink_write(struct core_sink *sink, uint64_t offset, const void *data, size_t length)
{
    if (!sink->is_stream)
        return fd_write_at(sink->fd, data, length, offset);
    pthread_mutex_lock(&sink->lock);
    int r = stream_write(sink->fd, offset, data, length);
    if (offset + length > sink->end)
        sink->end = offset + length;
    pthread_mutex_unlock(&sink->lock);
    return r;
}
