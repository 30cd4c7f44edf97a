/* Memory of a snapshot: the blobs grow, and everything is freed table by table. */
#include "snapshot/snapshot.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int snapshot_add_blob(struct snapshot *snapshot, const void *data, size_t length, uint64_t *ret_offset)
{
    size_t offset = (snapshot->blobs_count + 7) & ~(size_t)7;
    uint8_t *larger = snapshot->blobs;
    if (offset + length > snapshot->blobs_room) {
        size_t room = 2 * (offset + length);
        larger = realloc(snapshot->blobs, room);
        if (!larger)
            return -ENOMEM;
        snapshot->blobs_room = room;
    }
    memset(larger + snapshot->blobs_count, 0, offset - snapshot->blobs_count);
    memcpy(larger + offset, data, length);
    snapshot->blobs = larger;
    snapshot->blobs_count = offset + length;
    *ret_offset = offset;
    return 0;
}

/* Room for as many as an array of that many that has grown one by one (array_append()). */
static size_t array_capacity(size_t count)
{
    size_t capacity = 1;
    while (capacity < count)
        capacity *= 2;
    return capacity;
}

/* NULL for nothing, as an empty table has it. */
static void *copy_rows(const void *rows, size_t count, size_t row_bytes, bool *is_full)
{
    void *copy = count ? reallocarray(NULL, array_capacity(count), row_bytes) : NULL;
    if (copy)
        memcpy(copy, rows, count * row_bytes);
    else if (count)
        *is_full = true;
    return copy;
}

int snapshot_copy(const struct snapshot *snapshot, struct snapshot *ret_copy)
{
    struct snapshot copy = {.process = snapshot->process};
    bool is_full = false;
#define X(type, name, section)                                                                               \
    copy.name = copy_rows(snapshot->name, snapshot->name##_count, sizeof *copy.name, &is_full);              \
    copy.name##_count = snapshot->name##_count;
    SNAPSHOT_TABLES(X)
#undef X
    if (is_full) {
        snapshot_free(&copy);
        return -ENOMEM;
    }
    *ret_copy = copy;
    return 0;
}

void snapshot_free(struct snapshot *snapshot)
{
#define X(type, name, section) free(snapshot->name);
    SNAPSHOT_TABLES(X)
#undef X
    *snapshot = (struct snapshot){0};
}

bool snapshot_is_reopened(const struct snapshot *snapshot, uint32_t selector)
{
    for (size_t i = 0; i < snapshot->reopens_count; i++)
        if (snapshot->reopens[i].selector == selector)
            return true;
    return false;
}
