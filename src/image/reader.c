/* An image that is open for reading: its snapshot, checked, and its memory, read extent by extent, so that
 * little of ours is needed however large it is. Each extent is compared with its checksum whenever it is
 * read: the file may have been damaged since it was looked at first.
 *
 * Rests on XXH3 (xxhash.h), ZSTD_decompress (zstd.h), lseek(2) SEEK_DATA. */
#include "image/image-internal.h"
#include "image/image.h"
#include "image/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <xxhash.h>
#include <zstd.h>

struct image {
    char *place; /* for messages: DIR/PID.core */
    struct core_source source;
    int fd;
    uid_t owner;
    uint64_t memory_start, memory_end; /* in the file */
    struct snapshot snapshot;
    uint8_t *stored, *content;             /* of one extent: as in the file; decompressed */
    const struct snapshot_extent *current; /* the extent whose content is in `stored` or `content` */
};

/* ---- opening ---- */

void image_close(struct image **image_pointer)
{
    struct image *image = *image_pointer;
    if (!image)
        return;
    free(image->place);
    free(image->stored);
    free(image->content);
    base_close(&image->fd);
    snapshot_free(&image->snapshot);
    free(image);
    *image_pointer = NULL;
}

static int decode(struct image *image, pid_t pid, struct reseat_error **ret_error)
{
    _cleanup_(core_view_close) struct core_view view = {0};
    int r = core_view_open(&image->source, &view, ret_error);
    if (r == 0)
        r = core_view_verify(&view, ret_error);
    if (r == 0)
        r = core_view_extract(&view, &image->snapshot, ret_error);
    if (r == 0)
        r = core_check_snapshot(&image->snapshot, ret_error);
    if (r == 0)
        r = core_view_check_extents(&view, &image->snapshot, ret_error);
    if (r < 0)
        return r;
    if (pid && image->snapshot.process.pid != (uint32_t)pid)
        return error_set(ret_error, -EBADMSG, "section %s: is about process %u", CORE_SECTION_PROCESS,
                         image->snapshot.process.pid);
    if (view.memory) {
        image->memory_start = view.sections[view.memory].sh_offset;
        image->memory_end = image->memory_start + view.sections[view.memory].sh_size;
    }
    return 0;
}

int image_open(const char *dir, struct image **ret_image, struct reseat_error **ret_error)
{
    _cleanup_(stored_close) struct stored stored = STORED_NONE;
    _cleanup_(image_close) struct image *image = calloc(1, sizeof *image);
    if (!image)
        return error_errno(ret_error, -ENOMEM, "%s", dir);
    image->fd = -EBADF;
    int r = stored_open(dir, &stored, ret_error);
    if (r < 0)
        return r;
    if (asprintf(&image->place, "%s/%s", stored.path, stored.core_name) < 0) {
        image->place = NULL;
        return error_errno(ret_error, -ENOMEM, "%s", dir);
    }
    image->owner = stored.status.st_uid;
    r = stored_open_core(&stored, &image->fd, &image->source.length, ret_error);
    image->source.fd = image->fd;
    if (r == 0)
        r = decode(image, stored.pid, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "%s", image->place);
    *ret_image = TAKE_PTR(image);
    return 0;
}

static int open_file_to_look(const char *path, struct image *image, struct reseat_error **ret_error)
{
    struct stat status;
    image->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (image->fd < 0 || fstat(image->fd, &status) < 0)
        return error_errno(ret_error, -errno, "opening");
    if (!S_ISREG(status.st_mode))
        return error_set(ret_error, -EBADMSG, "is not a regular file");
    image->owner = status.st_uid;
    image->source = (struct core_source){.fd = image->fd, .length = (uint64_t)status.st_size};
    return 0;
}

int image_open_to_look(const char *path, struct image **ret_image, struct reseat_error **ret_error)
{
    _cleanup_(stored_close) struct stored stored = STORED_NONE;
    _cleanup_(image_close) struct image *image = calloc(1, sizeof *image);
    struct stat status;
    if (!image)
        return error_errno(ret_error, -ENOMEM, "%s", path);
    image->fd = -EBADF;
    bool is_directory = stat(path, &status) == 0 && S_ISDIR(status.st_mode);
    int r = is_directory ? stored_open_to_look(path, &stored, ret_error) : 0;
    if (r < 0)
        return r;
    if (asprintf(&image->place, "%s%s%s", path, is_directory ? "/" : "", stored.core_name) < 0) {
        image->place = NULL;
        return error_errno(ret_error, -ENOMEM, "%s", path);
    }
    r = open_file_to_look(image->place, image, ret_error);
    if (r == 0)
        r = decode(image, 0, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "%s", image->place);
    *ret_image = TAKE_PTR(image);
    return 0;
}

/* A file without a name: nobody else sees it, and it goes when it is closed. */
static int open_nameless(struct reseat_error **ret_error)
{
    const char *place = getenv("TMPDIR");
    place = place && *place ? place : "/var/tmp";
    int fd = open(place, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR))
        return fd < 0 ? error_errno(ret_error, -errno, "%s: making a file for the stream", place) : fd;
    fd = memfd_create("reseat-stream", MFD_CLOEXEC); /* a filesystem that has no such files */
    return fd < 0 ? error_errno(ret_error, -errno, "making a file for the stream") : fd;
}

int image_open_stream(int fd, struct image **ret_image, struct reseat_error **ret_error)
{
    _cleanup_(image_close) struct image *image = calloc(1, sizeof *image);
    if (!image)
        return error_errno(ret_error, -ENOMEM, "reading a stream");
    image->fd = -EBADF;
    image->place = strdup("the stream");
    if (!image->place)
        return error_errno(ret_error, -ENOMEM, "reading a stream");
    image->owner = geteuid();
    image->fd = open_nameless(ret_error);
    if (image->fd < 0)
        return image->fd;
    int r = stream_receive(fd, image->fd, ret_error);
    if (r < 0)
        return r;
    off_t length = lseek(image->fd, 0, SEEK_END);
    image->source = (struct core_source){.fd = image->fd, .length = length < 0 ? 0 : (uint64_t)length};
    r = decode(image, 0, ret_error);
    if (r < 0)
        return error_prefix(ret_error, r, "%s", image->place);
    *ret_image = TAKE_PTR(image);
    return 0;
}

const struct snapshot *image_snapshot(const struct image *image)
{
    return &image->snapshot;
}

uid_t image_owner(const struct image *image)
{
    return image->owner;
}

bool image_has_memory(const struct image *image)
{
    return image->snapshot.vmas_count > 0;
}

int image_file(const struct image *image)
{
    return image->fd;
}

int image_read(const char *dir, struct snapshot *ret_snapshot, uid_t *ret_owner,
               struct reseat_error **ret_error)
{
    _cleanup_(image_close) struct image *image = NULL;
    int r = image_open(dir, &image, ret_error);
    if (r < 0)
        return r;
    if (ret_owner)
        *ret_owner = image->owner;
    *ret_snapshot = TAKE_GENERIC(image->snapshot, (struct snapshot){0});
    return 0;
}

/* ---- memory ---- */

bool image_is_plain(const struct snapshot_extent *extent)
{
    return extent->stored_length == extent->length;
}

static int damaged(const struct image *image, const struct snapshot_extent *extent, const char *how,
                   struct reseat_error **ret_error)
{
    char what[64] = "memory";
    if (extent->object)
        snprintf(what, sizeof what, "content of object %u", extent->object);
    return error_set(ret_error, -EBADMSG, "%s: the %s at %" PRIx64 "-%" PRIx64 " is damaged: %s",
                     image->place, what, extent->address, extent->address + extent->length, how);
}

static int allocate_buffers(struct image *image)
{
    if (!image->stored)
        image->stored = malloc(CORE_EXTENT_BYTES_MAX);
    if (!image->content)
        image->content = malloc(CORE_EXTENT_BYTES_MAX);
    return image->stored && image->content ? 0 : -ENOMEM;
}

int image_read_extent(struct image *image, const struct snapshot_extent *extent, const void **ret_content,
                      struct reseat_error **ret_error)
{
    *ret_content = image_is_plain(extent) ? image->stored : image->content;
    if (image->current == extent)
        return 0;
    image->current = NULL;
    int r = allocate_buffers(image);
    if (r == 0)
        r = core_source_read(&image->source, extent->file_offset, image->stored, extent->stored_length);
    if (r == -EBADMSG)
        return damaged(image, extent, "the file has become shorter", ret_error);
    if (r < 0)
        return error_errno(ret_error, r, "%s: reading memory", image->place);
    if (XXH3_64bits(image->stored, extent->stored_length) != extent->checksum)
        return damaged(image, extent, "the checksum is wrong", ret_error);
    if (!image_is_plain(extent) && ZSTD_decompress(image->content, extent->length, image->stored,
                                                   extent->stored_length) != extent->length)
        return damaged(image, extent, "it cannot be decompressed", ret_error);
    *ret_content = image_is_plain(extent) ? image->stored : image->content;
    image->current = extent;
    return 0;
}

int image_read_memory(struct image *image, const struct snapshot_extent *extent, uint64_t offset,
                      void *buffer, size_t length, struct reseat_error **ret_error)
{
    const void *content;
    if (offset > extent->length || length > extent->length - offset)
        return error_set(ret_error, -EINVAL, "%s: %zu bytes at %" PRIu64 " are not in an extent of %" PRIu64,
                         image->place, length, offset, extent->length);
    int r = image_read_extent(image, extent, &content, ret_error);
    if (r == 0)
        memcpy(buffer, (const uint8_t *)content + offset, length);
    return r;
}

/* ---- all of it ---- */

/* Between extents there are only holes, or zeros. */
static int verify_gap(struct image *image, uint64_t start, uint64_t end, struct reseat_error **ret_error)
{
    while (start < end) {
        off_t data = lseek(image->fd, (off_t)start, SEEK_DATA);
        if ((data < 0 && errno == ENXIO) || data >= (off_t)end)
            return 0;
        if (data > (off_t)start)
            start = (uint64_t)data;
        size_t length = end - start < CORE_EXTENT_BYTES_MAX ? end - start : CORE_EXTENT_BYTES_MAX;
        int r = core_source_read(&image->source, start, image->stored, length);
        if (r < 0)
            return error_errno(ret_error, r, "%s: reading memory", image->place);
        for (size_t i = 0; i < length; i++)
            if (image->stored[i] != 0)
                return error_set(ret_error, -EBADMSG,
                                 "%s: damaged: the byte at %" PRIu64 " of the file belongs to no memory",
                                 image->place, start + i);
        start += length;
    }
    return 0;
}

int image_verify_memory(struct image *image, const struct image_progress *progress,
                        struct reseat_error **ret_error)
{
    const struct snapshot *snapshot = &image->snapshot;
    size_t count = 0;
    if (allocate_buffers(image) < 0)
        return error_errno(ret_error, -ENOMEM, "%s: reading memory", image->place);
    image->current = NULL;
    _cleanup_free_ const struct snapshot_extent **places = NULL;
    int r = core_sort_extents(snapshot, &places, &count);
    if (r < 0)
        return error_errno(ret_error, r, "%s: reading memory", image->place);

    uint64_t end = image->memory_start, done = 0, total = 0;
    for (size_t i = 0; i < count; i++)
        total += places[i]->length;
    for (size_t i = 0; i < count; i++) {
        const void *content;
        r = verify_gap(image, end, places[i]->file_offset, ret_error);
        image->current = NULL;
        if (r == 0)
            r = image_read_extent(image, places[i], &content, ret_error);
        end = places[i]->file_offset + places[i]->stored_length;
        done += places[i]->length;
        if (r == 0 && progress && progress->report) {
            r = progress->report(progress->userdata, done, total);
            if (r < 0)
                error_errno(ret_error, r, "%s: reading memory", image->place);
        }
        if (r < 0)
            return r;
    }
    image->current = NULL;
    return verify_gap(image, end, image->memory_end, ret_error);
}
