/* PAGEMAP_SCAN of /proc/PID/pagemap, Linux 6.7 (Documentation/admin-guide/mm/pagemap.rst), as in linux/fs.h,
 * which the headers that we are built with may not have. */
#pragma once

#include <linux/ioctl.h>
#include <stdint.h>

struct scan_region {
    uint64_t start, end, categories;
};

struct scan_arguments {
    uint64_t size, flags, start, end, walk_end, regions, region_count, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

#define PAGEMAP_SCAN_CALL _IOWR('f', 16, struct scan_arguments)
#define SCAN_FILE         (1U << 2)
#define SCAN_PRESENT      (1U << 3)
#define SCAN_SWAPPED      (1U << 4)
#define SCAN_PFNZERO      (1U << 5)
#define SCAN_GUARD        (1U << 8) /* MADV_GUARD_INSTALL; later than the rest */
