/* Memory of a snapshot: the blobs grow, and everything is freed table by table. */
#include "snapshot/snapshot.h"

#include <errno.h>
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

void snapshot_free(struct snapshot *snapshot)
{
#define X(type, name, section) free(snapshot->name);
    SNAPSHOT_TABLES(X)
#undef X
    *snapshot = (struct snapshot){0};
}
