/* The memory map: contents, treatment and identity of every region. Contents come back without being copied
 * (heir) or copy-on-write; what a fork would drop, wipe or unlock must be as before (madvise(2), mlock(2),
 * proc_pid_smaps(5)). */
#include "subject.h"

#include <alloca.h>
#include <sys/wait.h>

#define PAGE 4096

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08 /* Linux 6.11 */
#endif

/* ---- contents ---- */

static void contents(void)
{
    enum { REGIONS = 16, LENGTH = 1 << 20 };
    static char data[LENGTH] = "initialised", zero[LENGTH];
    char *regions[REGIONS], on_stack[8 * PAGE], *in_heap = malloc(64 * PAGE);

    for (int i = 0; i < REGIONS; i++)
        fill(regions[i] = map_anonymous(LENGTH), LENGTH, (uint64_t)i);
    fill(data, LENGTH, 100), fill(zero, LENGTH, 101);
    fill(on_stack, sizeof on_stack, 102), fill(in_heap, 64 * PAGE, 103);
    be_checkpointed();
    for (int i = 0; i < REGIONS; i++)
        CHECK(is_filled(regions[i], LENGTH, (uint64_t)i));
    CHECK(is_filled(data, LENGTH, 100) && is_filled(zero, LENGTH, 101));
    CHECK(is_filled(on_stack, sizeof on_stack, 102) && is_filled(in_heap, 64 * PAGE, 103));
    for (int i = 0; i < REGIONS; i++) {
        fill(regions[i], LENGTH, (uint64_t)i + 50);
        CHECK(is_filled(regions[i], LENGTH, (uint64_t)i + 50));
    }
    fill(on_stack, sizeof on_stack, 104);
    CHECK(is_filled(on_stack, sizeof on_stack, 104));
}

static void untouched_pages_are_zero(void)
{
    enum { LENGTH = 64 << 20 };
    char *region = map_anonymous(LENGTH);

    region[LENGTH / 2] = 1;
    be_checkpointed();
    for (size_t i = 0; i < LENGTH; i += PAGE)
        CHECK_EQUAL(region[i], i == LENGTH / 2);
}

static void private_file_pages(void)
{
    int fd = MUST(memfd_create("original", MFD_CLOEXEC));
    MUST(ftruncate(fd, 4 * PAGE));
    char *private = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));

    private[0] = 'p';
    be_checkpointed();
    CHECK_EQUAL(private[0], 'p');
    CHECK_EQUAL(private[PAGE], 0);
    CHECK_EQUAL(MUST(pwrite(fd, "n", 1, 2 * PAGE)), 1); /* not yet copied: the file's page shows through */
    CHECK_EQUAL(private[2 * PAGE], 'n');
    private[3 * PAGE] = 'x';
    char byte;
    CHECK_EQUAL(MUST(pread(fd, &byte, 1, 3 * PAGE)), 1);
    CHECK_EQUAL(byte, 0);
}

/* ---- the map ---- */

static char map_before[2 << 20], map_after[2 << 20];

/* Without a buffer of our own in the map itself. */
static void read_map(char *text, size_t size)
{
    int fd = MUST(open("/proc/self/maps", O_RDONLY));
    ssize_t n;

    while ((n = MUST(read(fd, text, size - 1))) > 0)
        text += n, size -= (size_t)n;
    *text = '\0';
    close(fd);
}

static void map_has_no_region_more_or_less(void)
{
    char *hole = map_anonymous(3 * PAGE);

    MUST(munmap(hole + PAGE, PAGE));
    MUST(mprotect(hole, PAGE, PROT_READ | PROT_EXEC));
    read_map(map_before, sizeof map_before); /* twice: the first may still make the stack grow */
    read_map(map_before, sizeof map_before);
    be_checkpointed();
    read_map(map_after, sizeof map_after);
    CHECK_TEXT(map_after, map_before);
}

static void fifteen_hundred_regions(void)
{
    enum { REGIONS = 1500 };
    static const int protections[] = {PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC, PROT_NONE};
    char *area = map_anonymous((size_t)REGIONS * PAGE);

    for (int i = 0; i < REGIONS; i++) {
        fill(area + i * PAGE, PAGE, (uint64_t)i);
        MUST(mprotect(area + i * PAGE, PAGE, protections[i % 4]));
    }
    read_map(map_before, sizeof map_before);
    read_map(map_before, sizeof map_before);
    be_checkpointed();
    read_map(map_after, sizeof map_after);
    CHECK_TEXT(map_after, map_before);
    for (int i = 0; i < REGIONS; i++) {
        MUST(mprotect(area + i * PAGE, PAGE, PROT_READ | PROT_WRITE));
        CHECK(is_filled(area + i * PAGE, PAGE, (uint64_t)i));
    }
}

static void guards_still_guard(void)
{
    char *area = map_anonymous(3 * PAGE);

    MUST(mprotect(area, PAGE, PROT_NONE));
    MUST(mprotect(area + 2 * PAGE, PAGE, PROT_NONE));
    be_checkpointed();
    CHECK(reading_faults(area));
    CHECK(!reading_faults(area + PAGE));
    CHECK(reading_faults(area + 2 * PAGE));
}

/* Guards that no mapping of their own tells of (MADV_GUARD_INSTALL, Linux 6.13). */
static void installed_guards_still_guard(void)
{
    enum { GUARD_INSTALL = 102 };
    char *area = map_anonymous(8 * PAGE);

    fill(area, 8 * PAGE, 9);
    if (madvise(area, PAGE, GUARD_INSTALL) < 0)
        skip("this kernel has no MADV_GUARD_INSTALL");
    MUST(madvise(area + 3 * PAGE, 2 * PAGE, GUARD_INSTALL));
    read_map(map_before, sizeof map_before);
    read_map(map_before, sizeof map_before);
    be_checkpointed();
    read_map(map_after, sizeof map_after);
    CHECK_TEXT(map_after, map_before);
    for (int i = 0; i < 8; i++)
        CHECK_EQUAL(reading_faults(area + i * PAGE), i == 0 || i == 3 || i == 4);
    fill(area + PAGE, 2 * PAGE, 9);
    CHECK(is_filled(area + PAGE, 2 * PAGE, 9));
}

/* In a private mapping of a file, here of the program itself. */
static void guards_in_a_file_still_guard(void)
{
    enum { GUARD_INSTALL = 102 };
    int fd = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    char *area = MUST(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));

    fill(area, 2 * PAGE, 9);
    if (madvise(area + PAGE, PAGE, GUARD_INSTALL) < 0)
        skip("this kernel has no guards in mappings of files");
    be_checkpointed();
    CHECK(is_filled(area, PAGE, 9));
    CHECK(reading_faults(area + PAGE));
    CHECK(!reading_faults(area + 2 * PAGE));
}

static void break_grows_from_where_it_was(void)
{
    MUST(sbrk(16 * PAGE));
    char *end = sbrk(0);
    fill(end - 16 * PAGE, 16 * PAGE, 7);
    be_checkpointed();
    CHECK(sbrk(0) == end);
    CHECK(sbrk(8 * PAGE) == end);
    CHECK(is_filled(end - 16 * PAGE, 16 * PAGE, 7));
    fill(end, 8 * PAGE, 8);
    CHECK(sbrk(-8 * PAGE) == end + 8 * PAGE);
    CHECK(reading_faults(end));
}

static void __attribute__((noinline)) use_stack(void)
{
    enum { DEPTH = 4 << 20 };
    char *deep = alloca(DEPTH);

    fill(deep, DEPTH, 5);
    CHECK(is_filled(deep, DEPTH, 5));
}

static void stack_still_grows(void)
{
    be_checkpointed();
    use_stack();
}

/* ---- what a fork treats in its own way ---- */

static void not_for_forks(void)
{
    char *region = map_anonymous(64 * PAGE);

    fill(region, 64 * PAGE, 1);
    MUST(madvise(region + 8 * PAGE, 16 * PAGE, MADV_DONTFORK));
    be_checkpointed();
    CHECK(is_filled(region, 64 * PAGE, 1));
    CHECK(!region_has_flag(region, "dc"));
    CHECK(region_has_flag(region + 8 * PAGE, "dc"));
    CHECK(!region_has_flag(region + 24 * PAGE, "dc"));
    fill(region, 64 * PAGE, 2);
    CHECK(is_filled(region, 64 * PAGE, 2));
}

static void wiped_in_forks(void)
{
    char *region = map_anonymous(64 * PAGE);

    fill(region, 64 * PAGE, 1);
    MUST(madvise(region + 8 * PAGE, 16 * PAGE, MADV_WIPEONFORK));
    be_checkpointed();
    CHECK(is_filled(region, 64 * PAGE, 1));
    CHECK(!region_has_flag(region, "wf"));
    CHECK(region_has_flag(region + 8 * PAGE, "wf"));
    CHECK(!region_has_flag(region + 24 * PAGE, "wf"));
}

/* Adjacent regions with different treatment, so that marking one too far would be seen. */
static void mixed_treatment(void)
{
    enum { REGIONS = 60 };
    char *area = map_anonymous((size_t)REGIONS * PAGE);

    fill(area, (size_t)REGIONS * PAGE, 1);
    for (int i = 0; i < REGIONS; i++) {
        if (i % 3 == 1)
            MUST(madvise(area + i * PAGE, PAGE, MADV_DONTFORK));
        if (i % 3 == 2)
            MUST(madvise(area + i * PAGE, PAGE, MADV_WIPEONFORK));
        if (i % 6 == 1)
            MUST(mprotect(area + i * PAGE, PAGE, PROT_NONE));
    }
    be_checkpointed();
    for (int i = 0; i < REGIONS; i++) {
        CHECK_EQUAL(region_has_flag(area + i * PAGE, "dc"), i % 3 == 1);
        CHECK_EQUAL(region_has_flag(area + i * PAGE, "wf"), i % 3 == 2);
    }
    for (int i = 0; i < REGIONS; i++)
        MUST(mprotect(area + i * PAGE, PAGE, PROT_READ));
    CHECK(is_filled(area, (size_t)REGIONS * PAGE, 1));
}

/* ---- locked ---- */

static long locked_kib(void)
{
    return strtol(value_in("/proc/self/status", "VmLck"), NULL, 10);
}

static void locked_region(void)
{
    char *region = map_anonymous(32 * PAGE);

    MUST(mlock(region + PAGE, 16 * PAGE));
    MUST(mlock2(region + 20 * PAGE, 4 * PAGE, MLOCK_ONFAULT));
    region[20 * PAGE] = 1; /* two of them are there, and two are not */
    region[21 * PAGE] = 1;
    long before = locked_kib();
    be_checkpointed();
    CHECK_EQUAL(locked_kib(), before);
    CHECK(!region_has_flag(region, "lo"));
    CHECK(region_has_flag(region + PAGE, "lo"));
    CHECK(region_has_flag(region + 20 * PAGE, "lo"));
    CHECK(!region_has_flag(region + 24 * PAGE, "lo"));
    unsigned char resident[24];
    MUST(mincore(region, 24 * PAGE, resident));
    for (int i = 1; i < 17; i++)
        CHECK(resident[i] & 1);
    CHECK((resident[20] & 1) && (resident[21] & 1));
    CHECK(!(resident[22] & 1) && !(resident[23] & 1));
}

static void all_future_memory_is_locked(void)
{
    char *early = map_anonymous(4 * PAGE);

    MUST(mlockall(MCL_FUTURE));
    char *late = map_anonymous(4 * PAGE);
    be_checkpointed();
    CHECK(!region_has_flag(early, "lo"));
    CHECK(region_has_flag(late, "lo"));
    CHECK(region_has_flag(map_anonymous(7 * PAGE), "lo"));
    MUST(munlockall());
    CHECK(!region_has_flag(late, "lo"));
    CHECK(!region_has_flag(map_anonymous(9 * PAGE), "lo"));
}

static void all_memory_is_locked(void)
{
    MUST(mlockall(MCL_CURRENT | MCL_FUTURE));
    char *region = map_anonymous(8 * PAGE);
    fill(region, 8 * PAGE, 3);
    be_checkpointed();
    CHECK(is_filled(region, 8 * PAGE, 3));
    CHECK(region_has_flag(region, "lo"));
    CHECK(region_has_flag(&locked_kib, "lo"));
    CHECK(region_has_flag(map_anonymous(5 * PAGE), "lo"));
}

/* ---- shared ---- */

/* The peer maps the same object: what either writes, the other sees. */
static void shared_with_another_process(void)
{
    int fd = MUST(memfd_create("shared", MFD_CLOEXEC));
    MUST(ftruncate(fd, PAGE));
    volatile long *shared = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));

    send_descriptor(fd);
    close(fd);
    shared[0] = 41;
    CHECK_EQUAL(receive_number(), 41);
    be_checkpointed();
    long now = shared[0] + 1;
    shared[0] = now;
    send_number(now);
    CHECK_EQUAL(receive_number(), now);
    CHECK_EQUAL(shared[1], now * 2);
}

static void shared_with_another_process_peer(void)
{
    volatile long *shared =
        MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, receive_descriptor(), 0));

    while (shared[0] != 41)
        sleep_ms(1);
    for (send_number(41);;) {
        receive_number();
        shared[1] = shared[0] * 2;
        send_number(shared[0]);
    }
}

/* The same object at two addresses; only mremap(2) with length 0 can tell that it is still one. */
static void shared_anonymous_is_one_object(void)
{
    char *first = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    char *second = MUST(mremap(first, 0, 4 * PAGE, MREMAP_MAYMOVE));

    fill(first, 4 * PAGE, 1);
    be_checkpointed();
    CHECK(first != second && is_filled(second, 4 * PAGE, 1));
    fill(second, 4 * PAGE, 2);
    CHECK(is_filled(first, 4 * PAGE, 2));
    char *third = MUST(mremap(first, 0, 4 * PAGE, MREMAP_MAYMOVE));
    CHECK(is_filled(third, 4 * PAGE, 2));
    fill(first, 4 * PAGE, 1);
}

/* Opened through /proc/self/map_files, it is mapped privately as well: what is written shows in all three. */
static void shared_anonymous_is_a_file_too(void)
{
    char *shared = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    char path[96], found = 0;

    fill(shared, 2 * PAGE, 1);
    snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (long)shared, (long)shared + 4 * PAGE);
    int fd = open(path, O_RDWR);
    if (fd < 0 && errno == EPERM)
        skip("opening what is mapped takes CAP_CHECKPOINT_RESTORE");
    MUST(fd);
    char *private = MUST(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, PAGE));
    private[PAGE] = 'p';
    be_checkpointed();
    CHECK(is_filled(shared, 2 * PAGE, 1) && memcmp(private, shared + PAGE, PAGE) == 0);
    CHECK_EQUAL(private[PAGE], 'p');
    CHECK_EQUAL(shared[2 * PAGE], 0);
    shared[3 * PAGE] = 's';
    CHECK_EQUAL(private[2 * PAGE], 's');
    CHECK_EQUAL(pread(fd, &found, 1, 3 * PAGE), 1);
    CHECK_EQUAL(found, 's');
    shared[3 * PAGE] = 0;
}

/* The only selector left may only read, the mapping may write. */
static void memfd_is_kept_for_reading(void)
{
    int fd = MUST(memfd_create("two ways", 0));
    char path[32], found = 0;

    MUST(ftruncate(fd, PAGE));
    char *shared = MUST(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int reading = MUST(open(path, O_RDONLY));
    close(fd);
    be_checkpointed();
    shared[1] = 'w';
    CHECK_EQUAL(pread(reading, &found, 1, 1), 1);
    CHECK_EQUAL(found, 'w');
    CHECK(write(reading, "x", 1) < 0 && errno == EBADF);
}

static bool runs(int fd)
{
    static char *const none[] = {"true", NULL};
    int status;
    pid_t child = MUST(fork());

    if (child == 0) {
        syscall(SYS_execveat, fd, "", none, none + 1, 0x1000 /* AT_EMPTY_PATH */);
        _exit(errno);
    }
    MUST(waitpid(child, &status, 0));
    return status == 0;
}

/* What memfd_create(2) yields counts as no writer: it can be executed (not so, ETXTBSY, if opened anew). */
static void memfd_can_be_executed(void)
{
    int fd = MUST(memfd_create("program", 0));

    CHECK_EQUAL(write(fd, "#!/bin/true", 11), 11);
    CHECK(runs(fd));
    be_checkpointed();
    CHECK(runs(fd));
    CHECK_EQUAL(lseek(fd, 0, SEEK_CUR), 11);
}

/* More data than fits into tables, most of it pages of zeros; mapped, and at a selector. */
static void large_memfd(void)
{
    enum { LENGTH = 300 << 20 };
    int fd = MUST(memfd_create("large", MFD_CLOEXEC));

    MUST(ftruncate(fd, LENGTH + 100));
    char *shared = MUST(mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    for (size_t i = 0; i < LENGTH; i += PAGE)
        shared[i] = 0;
    for (size_t i = 0; i < LENGTH; i += 50 << 20)
        fill(shared + i, 3 * PAGE, i);
    CHECK_EQUAL(pwrite(fd, "end", 3, LENGTH + 97), 3);
    be_checkpointed();
    char found[4] = "";
    for (size_t i = 0; i < LENGTH; i += PAGE)
        CHECK(i % (50 << 20) < 3 * PAGE || shared[i] == 0);
    for (size_t i = 0; i < LENGTH; i += 50 << 20)
        CHECK(is_filled(shared + i, 3 * PAGE, i));
    CHECK_EQUAL(pread(fd, found, 4, LENGTH + 97), 3);
    CHECK_TEXT(found, "end");
    shared[200 << 20] ^= 1; /* still one object */
    CHECK_EQUAL(pread(fd, found, 1, 200 << 20), 1);
    CHECK_EQUAL(found[0], shared[200 << 20]);
    shared[200 << 20] ^= 1;
}

/* ---- advice ---- */

static void advice(void)
{
    static const struct {
        int advice;
        const char *flag;
    } rows[] = {{MADV_HUGEPAGE, "hg"},   {MADV_NOHUGEPAGE, "nh"}, {MADV_RANDOM, "rr"},
                {MADV_SEQUENTIAL, "sr"}, {MADV_DONTDUMP, "dd"},   {MADV_MERGEABLE, "mg"}};
    enum { ROWS = sizeof rows / sizeof *rows, LENGTH = 4 << 20 };
    char *regions[ROWS];
    bool had[ROWS];

    for (int i = 0; i < ROWS; i++) {
        regions[i] = map_anonymous(LENGTH);
        madvise(regions[i], LENGTH, rows[i].advice); /* a kernel may be built without some */
        fill(regions[i], LENGTH, (uint64_t)i);
        had[i] = region_has_flag(regions[i], rows[i].flag);
    }
    CHECK(had[2] && had[3] && had[4]);
    be_checkpointed();
    for (int i = 0; i < ROWS; i++) {
        CHECK(is_filled(regions[i], LENGTH, (uint64_t)i));
        CHECK_EQUAL(region_has_flag(regions[i], rows[i].flag), had[i]);
    }
}

/* Pages of a pool with no page to spare: a fork that copies would run out of them without a word. */
static void huge_pages_of_a_pool(void)
{
    enum { LENGTH = 2 << 20 };
    char *huge = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);

    if (huge == MAP_FAILED)
        skip("no huge pages are reserved (vm.nr_hugepages)");
    fill(huge, LENGTH, 1);
    be_checkpointed();
    CHECK(is_filled(huge, LENGTH, 1));
    fill(huge, LENGTH, 2);
    CHECK(is_filled(huge, LENGTH, 2));
}

/* The kernel may take its pages at any time, and gives none to a child (MAP_DROPPABLE, Linux 6.11). */
static void may_be_dropped(void)
{
    char *region = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_ANONYMOUS | MAP_DROPPABLE, -1, 0);

    if (region == MAP_FAILED)
        skip("this kernel has no MAP_DROPPABLE");
    be_checkpointed();
    CHECK(region_has_flag(region, "dp"));
    fill(region, 8 * PAGE, 3);
}

const struct subject subjects[] = {
    {"contents", contents, .new_pid = true},
    {"untouched-pages-are-zero", untouched_pages_are_zero, .new_pid = true},
    {"private-file-pages", private_file_pages},
    {"map", map_has_no_region_more_or_less, .new_pid = true},
    {"1500-regions", fifteen_hundred_regions, .new_pid = true},
    {"guards", guards_still_guard, .new_pid = true},
    {"installed-guards", installed_guards_still_guard, .new_pid = true},
    {"guards-in-a-file", guards_in_a_file_still_guard, .new_pid = true},
    {"break", break_grows_from_where_it_was, .new_pid = true},
    {"stack-grows", stack_still_grows},
    {"dontfork", not_for_forks, .new_pid = true},
    {"wipeonfork", wiped_in_forks, .new_pid = true},
    {"droppable", may_be_dropped, .new_pid = true},
    {"mixed-treatment", mixed_treatment, .new_pid = true},
    {"mlock", locked_region, .new_pid = true},
    {"mlockall-future", all_future_memory_is_locked, .new_pid = true},
    {"mlockall", all_memory_is_locked},
    {"shared", shared_with_another_process, shared_with_another_process_peer,
     .skip = "cold: nobody can tell that another process maps it too"},
    {"shared-anonymous", shared_anonymous_is_one_object},
    {"shared-anonymous-file", shared_anonymous_is_a_file_too},
    {"memfd-for-reading", memfd_is_kept_for_reading},
    {"memfd-program", memfd_can_be_executed},
    {"memfd-large", large_memfd},
    {"advice", advice},
    {"huge-pages", huge_pages_of_a_pool},
    {0},
};
