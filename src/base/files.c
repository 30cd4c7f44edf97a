/* Files, links, time, growing arrays and cleanup functions: thin, without policy. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

void base_free(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

void base_close(const int *fd)
{
    if (*fd < 0)
        return;
    int saved_errno = errno;
    close(*fd);
    errno = saved_errno;
}

void base_fclose(FILE **file)
{
    if (*file)
        fclose(*file);
}

void base_closedir(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

void descriptor_limit_raise(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int fd_read_whole(int fd, char **ret_text, size_t *ret_length)
{
    _cleanup_free_ char *text = NULL;
    size_t length = 0, capacity = 4096;
    for (;;) {
        char *larger = realloc(text, capacity);
        if (!larger)
            return -ENOMEM;
        text = larger;
        ssize_t n = read(fd, text + length, capacity - length - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        length += (size_t)n;
        if (capacity - length < 2)
            capacity *= 2;
    }
    text[length] = '\0';
    *ret_text = TAKE_PTR(text);
    if (ret_length)
        *ret_length = length;
    return 0;
}

int file_read(int dir_fd, const char *path, char **ret_text, size_t *ret_length)
{
    _cleanup_close_ int fd = openat(dir_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    return fd_read_whole(fd, ret_text, ret_length);
}

int fd_write_all(int fd, const void *data, size_t length)
{
    const char *bytes = data;
    while (length > 0) {
        ssize_t n = write(fd, bytes, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

int fd_write_at(int fd, const void *data, size_t length, uint64_t offset)
{
    for (const uint8_t *from = data; length > 0;) {
        ssize_t n = pwrite(fd, from, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        from += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return 0;
}

int link_read(int dir_fd, const char *path, char **ret_target)
{
    for (size_t capacity = 256;; capacity *= 2) {
        _cleanup_free_ char *target = malloc(capacity);
        if (!target)
            return -ENOMEM;
        ssize_t n = readlinkat(dir_fd, path, target, capacity);
        if (n < 0)
            return -errno;
        if ((size_t)n < capacity) {
            target[n] = '\0';
            *ret_target = TAKE_PTR(target);
            return 0;
        }
    }
}

uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

void *array_append_item(void **items, size_t *count, size_t item_size)
{
    bool is_full = (*count & (*count - 1)) == 0; /* 0 or a power of two */
    if (is_full) {
        size_t capacity = *count ? *count * 2 : 1;
        void *larger = reallocarray(*items, capacity, item_size);
        if (!larger)
            return NULL;
        *items = larger;
    }
    void *item = (char *)*items + *count * item_size;
    memset(item, 0, item_size);
    (*count)++;
    return item;
}
