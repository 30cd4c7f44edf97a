/* The frames of a stream. Each has a checksum over its header and what follows, so that damage is seen before
 * anything is believed; order and number of the frames are the writer's business. Holes are not sent. The
 * receiver makes a file of it and reads that like any other: all checks are there. */
#include "image/stream.h"
#include "image/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>
#include <xxhash.h>

#define STREAM_MAGIC    "RESEAT-STREAM\r\n" /* with its NUL 16 bytes; a changed line end is noticed */
#define STREAM_VERSION  1
#define FRAME_BYTES_MAX (1U << 20)
#define FILE_BYTES_MAX  (INT64_MAX / 2)

enum frame_type {
    FRAME_DATA = 1,
    FRAME_END = 2,
};

struct stream_header {
    char magic[16];
    uint32_t version, reserved;
    uint64_t checksum; /* of the fields before */
};

struct frame_header {
    uint32_t type;
    uint32_t length;   /* of what follows */
    uint64_t offset;   /* in the file; FRAME_END: its length */
    uint64_t checksum; /* XXH3 of what follows, with the XXH3 of the fields before as seed */
};

static uint64_t checksum_frame(const struct frame_header *header, const void *data)
{
    return XXH3_64bits_withSeed(data, header->length,
                                XXH3_64bits(header, offsetof(struct frame_header, checksum)));
}

/* ---- writing ---- */

int stream_begin(int fd)
{
    struct stream_header header = {.magic = STREAM_MAGIC, .version = STREAM_VERSION};
    header.checksum = XXH3_64bits(&header, offsetof(struct stream_header, checksum));
    return fd_write_all(fd, &header, sizeof header);
}

static int write_frame(int fd, enum frame_type type, uint64_t offset, const void *data, uint32_t length)
{
    struct frame_header header = {.type = type, .length = length, .offset = offset};
    header.checksum = checksum_frame(&header, data);
    int r = fd_write_all(fd, &header, sizeof header);
    return r < 0 || length == 0 ? r : fd_write_all(fd, data, length);
}

int stream_write(int fd, uint64_t offset, const void *data, size_t length)
{
    const uint8_t *bytes = data;
    int r = 0;
    while (r == 0 && length > 0) {
        uint32_t part = length < FRAME_BYTES_MAX ? (uint32_t)length : FRAME_BYTES_MAX;
        r = write_frame(fd, FRAME_DATA, offset, bytes, part);
        bytes += part;
        offset += part;
        length -= part;
    }
    return r;
}

int stream_end(int fd, uint64_t length)
{
    return write_frame(fd, FRAME_END, length, "", 0);
}

/* ---- receiving ---- */

static int read_exactly(int fd, void *buffer, size_t length, struct reseat_error **ret_error)
{
    for (uint8_t *to = buffer; length > 0;) {
        ssize_t n = read(fd, to, length);
        if (n < 0) /* also EINTR: nobody knows how long the other side would let us wait */
            return error_errno(ret_error, -errno, "reading the stream");
        if (n == 0)
            return error_set(ret_error, -EBADMSG, "the stream ends before the image is complete");
        to += n;
        length -= (size_t)n;
    }
    return 0;
}

static int receive_header(int fd, struct reseat_error **ret_error)
{
    struct stream_header header;
    int r = read_exactly(fd, &header, sizeof header, ret_error);
    if (r < 0)
        return r;
    if (memcmp(header.magic, STREAM_MAGIC, sizeof header.magic) != 0)
        return error_set(ret_error, -EBADMSG, "this is not a stream of `reseat checkpoint -o -`");
    if (header.checksum != XXH3_64bits(&header, offsetof(struct stream_header, checksum)))
        return error_set(ret_error, -EBADMSG, "the stream is damaged at its beginning");
    if (header.version != STREAM_VERSION)
        return error_set(ret_error, -EPROTONOSUPPORT, "a stream of version %u, this Reseat reads version %d",
                         header.version, STREAM_VERSION);
    return 0;
}

/* The next frame; its content goes to `data`. */
static int receive_frame(int fd, uint64_t number, struct frame_header *header, uint8_t *data,
                         struct reseat_error **ret_error)
{
    int r = read_exactly(fd, header, sizeof *header, ret_error);
    if (r < 0)
        return r;
    if (header->length > FRAME_BYTES_MAX || header->offset > FILE_BYTES_MAX)
        return error_set(ret_error, -EBADMSG,
                         "the stream is damaged at frame %" PRIu64 ": %u bytes at %" PRIu64, number,
                         header->length, header->offset);
    r = read_exactly(fd, data, header->length, ret_error);
    if (r < 0)
        return r;
    if (header->checksum != checksum_frame(header, data))
        return error_set(ret_error, -EBADMSG, "the stream is damaged at frame %" PRIu64 ": wrong checksum",
                         number);
    if (header->type != FRAME_DATA && (header->type != FRAME_END || header->length != 0))
        return error_set(ret_error, -EBADMSG, "the stream has a frame of unknown type %u", header->type);
    return 0;
}

int stream_receive(int from_fd, int to_fd, struct reseat_error **ret_error)
{
    struct core_sink file = {.fd = to_fd};
    _cleanup_free_ uint8_t *data = malloc(FRAME_BYTES_MAX);
    if (!data)
        return error_errno(ret_error, -ENOMEM, "receiving a stream");
    int r = receive_header(from_fd, ret_error);
    for (uint64_t number = 1; r == 0; number++) {
        struct frame_header header;
        r = receive_frame(from_fd, number, &header, data, ret_error);
        if (r < 0)
            return r;
        if (header.type == FRAME_END)
            return ftruncate(to_fd, (off_t)header.offset) < 0
                       ? error_errno(ret_error, -errno, "keeping what the stream brings")
                       : 0;
        r = core_sink_write(&file, header.offset, data, header.length);
        if (r < 0)
            error_errno(ret_error, r, "keeping what the stream brings");
    }
    return r;
}
