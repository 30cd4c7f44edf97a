/* Obstacles in the memory map: kernel objects that are known by a region only, and regions that a forked copy
 * does not get right.
 *
 * For the heir /proc/PID/maps is enough. The copy needs the VmFlags of smaps (proc_pid_smaps(5)), which walks
 * the page tables: about 40 ms for 2 GiB of touched memory, while the target runs. An io_uring instance has
 * an inode of its own (all kernels that we support), so a ring that is mapped at no selector, or at a
 * selector and mapped nowhere, shows. */
#include "process/obstacles-internal.h"

#include <errno.h>
#include <string.h>

#define HUGE_SIZES 4 /* x86-64 has two, AArch64 four */

struct region {
    unsigned long long start, end, inode;
    const char *name; /* ends with the line */
    /* smaps only */
    const char *flags;
    uint64_t page_kib, private_huge_kib;
};

struct huge_need {
    uint64_t page_kib, pages;
};

struct memory_findings {
    unsigned long long faulting_start; /* first region that a userfaultfd watches */
    unsigned long long lost_ring;      /* inode of the last ring without a selector */
    size_t aio_count, faulting_count;
    struct huge_need huge[HUGE_SIZES];
};

static bool region_has_flag(const struct region *region, const char *flag)
{
    for (const char *word = region->flags; word && *word && *word != '\n'; word += 3)
        if (strncmp(word, flag, 2) == 0)
            return true;
    return false;
}

static void note_huge_pages(struct memory_findings *findings, const struct region *region)
{
    if (!region_has_flag(region, "ht") || region_has_flag(region, "sh") || region->page_kib == 0)
        return;
    uint64_t pages = region->private_huge_kib / region->page_kib;
    for (size_t i = 0; pages > 0 && i < HUGE_SIZES; i++) {
        struct huge_need *need = &findings->huge[i];
        if (need->page_kib != 0 && need->page_kib != region->page_kib)
            continue;
        need->page_kib = region->page_kib;
        need->pages += pages;
        return;
    }
}

/* A ring that is mapped must be at a selector too. It has two mappings, side by side: one sentence for both.
 */
static int note_ring(struct inspection *inspection, const struct region *region, struct ring_place *rings,
                     size_t ring_count, struct memory_findings *findings)
{
    bool found = region->inode == findings->lost_ring;
    for (size_t i = 0; i < ring_count; i++)
        if (rings[i].inode == region->inode)
            found = rings[i].mapped = true;
    if (found)
        return 0;
    findings->lost_ring = region->inode;
    return obstacles_add(
        inspection->obstacles, SEVERITY_LOST, -1,
        "%s has an io_uring instance mapped at 0x%llx that is at no selector: it is registered "
        "with a thread (IORING_REGISTER_RING_FDS), which a restore loses, or was closed; have the "
        "program keep its descriptor and use that",
        inspection->who, region->start);
}

static int note_region(struct inspection *inspection, const struct region *region, struct ring_place *rings,
                       size_t ring_count, struct memory_findings *findings)
{
    static const char ring_name[] = "anon_inode:[io_uring]", aio_name[] = "/[aio]";
    if (strncmp(region->name, aio_name, strlen(aio_name)) == 0)
        findings->aio_count++;
    bool is_faulting =
        region_has_flag(region, "um") || region_has_flag(region, "uw") || region_has_flag(region, "ui");
    if (is_faulting && findings->faulting_count++ == 0)
        findings->faulting_start = region->start;
    note_huge_pages(findings, region);
    if (strncmp(region->name, ring_name, strlen(ring_name)) != 0)
        return 0;
    return note_ring(inspection, region, rings, ring_count, findings);
}

/* ---- reading the map ---- */

/* A line "start-end perms offset device inode name" begins a region; smaps adds lines "Word: value". */
static bool parse_region(const char *line, struct region *ret_region)
{
    char head[128]; /* what is before the name fits */
    int name_at = 0;
    struct region region = {0};
    line_copy(line, head, sizeof head);
    if (sscanf(head, "%llx-%llx %*s %*x %*s %llu %n", &region.start, &region.end, &region.inode, &name_at) !=
        3)
        return false;
    region.name = line + name_at; /* %n skips all blanks: at the end of the line if there is none */
    *ret_region = region;
    return true;
}

static void parse_detail(const char *line, struct region *region)
{
    if (strncmp(line, "VmFlags: ", 9) == 0)
        region->flags = line + 9;
    else if (strncmp(line, "KernelPageSize:", 15) == 0)
        region->page_kib = strtoull(line + 15, NULL, 10);
    else if (strncmp(line, "Private_Hugetlb:", 16) == 0)
        region->private_huge_kib = strtoull(line + 16, NULL, 10);
}

static int note_regions(struct inspection *inspection, const char *map, struct ring_place *rings,
                        size_t ring_count, struct memory_findings *findings)
{
    struct region region = {.name = ""}, next;
    for (const char *line = map; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        bool is_detail = *line >= 'A' && *line <= 'Z';
        if (is_detail) {
            parse_detail(line, &region);
        } else if (parse_region(line, &next)) {
            int r = note_region(inspection, &region, rings, ring_count, findings);
            if (r < 0)
                return r;
            region = next;
        }
    }
    return note_region(inspection, &region, rings, ring_count, findings);
}

/* ---- huge pages ---- */

static uint64_t read_huge_number(uint64_t page_kib, const char *name)
{
    char path[96];
    snprintf(path, sizeof path, "/sys/kernel/mm/hugepages/hugepages-%llukB/%s", (unsigned long long)page_kib,
             name);
    _cleanup_free_ char *text = NULL;
    return file_read(-EBADF, path, &text, NULL) < 0 ? 0 : strtoull(text, NULL, 10);
}

static uint64_t free_huge_pages(uint64_t page_kib)
{
    uint64_t unused = read_huge_number(page_kib, "free_hugepages");
    uint64_t reserved = read_huge_number(page_kib, "resv_hugepages");
    uint64_t allowed = read_huge_number(page_kib, "nr_overcommit_hugepages");
    uint64_t surplus = read_huge_number(page_kib, "surplus_hugepages");
    return (unused > reserved ? unused - reserved : 0) + (allowed > surplus ? allowed - surplus : 0);
}

static int add_huge_pages(struct inspection *inspection, const struct memory_findings *findings)
{
    for (size_t i = 0; i < HUGE_SIZES && findings->huge[i].pages > 0; i++) {
        const struct huge_need *need = &findings->huge[i];
        uint64_t available = free_huge_pages(need->page_kib);
        if (available >= need->pages)
            continue;
        int r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s needs %llu free huge pages of %llu KiB for a copy of its private ones, and there are %llu: "
            "when the target writes to them the copy would silently get zeroes instead; raise "
            "/sys/kernel/mm/hugepages/hugepages-%llukB/nr_hugepages by %llu",
            inspection->who, (unsigned long long)need->pages, (unsigned long long)need->page_kib,
            (unsigned long long)available, (unsigned long long)need->page_kib,
            (unsigned long long)(need->pages - available));
        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- what a forked copy breaks ---- */

static int add_copy_obstacles(struct inspection *inspection, const struct ring_place *rings,
                              size_t ring_count, const struct memory_findings *findings)
{
    int r = 0;
    if (findings->aio_count > 0)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s has %zu asynchronous I/O context%s (io_setup): a copy of the memory does not have "
            "them, and io_submit would fail with EINVAL; checkpoint it without leaving it running "
            "and without keeping a copy",
            inspection->who, findings->aio_count, findings->aio_count == 1 ? "" : "s");
    if (r == 0 && findings->faulting_count > 0 && !inspection->has_userfaultfd)
        r = obstacles_add(
            inspection->obstacles, SEVERITY_LOST, -1,
            "%s has %zu region%s, the first at 0x%llx, whose missing pages come from another process "
            "through a userfaultfd: the restored process would silently find zeroes there; checkpoint "
            "it without leaving it running and without keeping a copy",
            inspection->who, findings->faulting_count, findings->faulting_count == 1 ? "" : "s",
            findings->faulting_start);
    for (size_t i = 0; r == 0 && i < ring_count; i++)
        if (!rings[i].mapped)
            r = obstacles_add(
                inspection->obstacles, SEVERITY_LOST, rings[i].selector,
                "Selector %d of %s is an io_uring instance that is mapped nowhere: its rings lie in the "
                "program's own memory (NO_MMAP), of which the kernel goes on using the target's pages, "
                "and the restored process would wait for ever; checkpoint it without leaving it running "
                "and without keeping a copy",
                rings[i].selector, inspection->who);
    return r == 0 ? add_huge_pages(inspection, findings) : r;
}

int find_memory_obstacles(struct inspection *inspection, struct ring_place *rings, size_t ring_count,
                          struct reseat_error **ret_error)
{
    bool is_copy = inspection->form == SNAPSHOT_FORM_COPY;
    const char *path = is_copy ? "smaps" : "maps";
    _cleanup_free_ char *map = NULL;
    int r = inspection_read(inspection->proc_fd, path, &map);
    if (r < 0)
        return inspection_fail(inspection, r, path, ret_error);
    struct memory_findings findings = {0};
    r = note_regions(inspection, map, rings, ring_count, &findings);
    if (r == 0 && is_copy)
        r = add_copy_obstacles(inspection, rings, ring_count, &findings);
    return r < 0 ? inspection_fail(inspection, r, path, ret_error) : 0;
}
