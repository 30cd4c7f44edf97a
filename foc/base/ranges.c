/* What is free in an interval of numbers: sorted, disjoint, never adjacent pieces. Used for pages and for
 * slots of capability spaces. First fit; small and predictable rather than fast. */
#include "base.h"

static void piece_delete(struct ranges *ranges, unsigned index)
{
    ranges->count--;
    for (unsigned i = index; i < ranges->count; i++)
        ranges->range[i] = ranges->range[i + 1];
}

static int piece_insert(struct ranges *ranges, unsigned index, uint64_t start, uint64_t end)
{
    if (ranges->count == RANGES_MAX)
        return -E_NOSPC;
    for (unsigned i = ranges->count; i > index; i--)
        ranges->range[i] = ranges->range[i - 1];
    ranges->range[index].start = start;
    ranges->range[index].end = end;
    ranges->count++;
    return 0;
}

int ranges_add(struct ranges *ranges, uint64_t start, uint64_t end)
{
    if (start >= end)
        return 0;
    unsigned i = 0;
    while (i < ranges->count && ranges->range[i].end < start)
        i++;
    /* Swallow everything that overlaps or touches. */
    while (i < ranges->count && ranges->range[i].start <= end) {
        start = ranges->range[i].start < start ? ranges->range[i].start : start;
        end = ranges->range[i].end > end ? ranges->range[i].end : end;
        piece_delete(ranges, i);
    }
    return piece_insert(ranges, i, start, end);
}

int ranges_remove(struct ranges *ranges, uint64_t start, uint64_t end)
{
    if (start >= end)
        return 0;
    for (unsigned i = 0; i < ranges->count; i++) {
        uint64_t piece_start = ranges->range[i].start, piece_end = ranges->range[i].end;
        if (piece_end <= start || piece_start >= end)
            continue;
        if (piece_start < start && piece_end > end) {
            int r = piece_insert(ranges, i + 1, end, piece_end);
            if (r < 0)
                return r;
            ranges->range[i].end = start;
        } else if (piece_start < start) {
            ranges->range[i].end = start;
        } else if (piece_end > end) {
            ranges->range[i].start = end;
        } else {
            piece_delete(ranges, i--);
        }
    }
    return 0;
}

bool ranges_take(struct ranges *ranges, uint64_t count, uint64_t alignment, uint64_t *ret_start)
{
    for (unsigned i = 0; i < ranges->count; i++) {
        uint64_t start = (ranges->range[i].start + alignment - 1) / alignment * alignment;
        if (start > ranges->range[i].end || ranges->range[i].end - start < count)
            continue;
        if (ranges_remove(ranges, start, start + count) < 0)
            continue; /* would need one more piece than there is room for */
        *ret_start = start;
        return true;
    }
    return false;
}

uint64_t ranges_total(const struct ranges *ranges)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < ranges->count; i++)
        total += ranges->range[i].end - ranges->range[i].start;
    return total;
}
