/* The memory map of a process as rows: what is mapped where, how, and of which file. Read from the twin at
 * leisure, because smaps is slow where there is much memory.
 *
 * Rests on proc_pid_smaps(5) (headers, VmFlags, ProtectionKey, KernelPageSize) and /proc/PID/map_files, which
 * leads to the very file that is mapped even if its name is gone, where we may use it
 * (CAP_CHECKPOINT_RESTORE); otherwise the file is looked up by its path and believed if device and inode are
 * those of the mapping. Guard pages (madvise(2) MADV_GUARD_INSTALL), which no line of smaps tells of, become
 * rows of their own, where PAGEMAP_SCAN knows them. */
#include "process/pagemap.h"
#include "process/process.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define DELETED        " (deleted)"
#define PAGE_SHIFT_MIN 12

/* One mapping as smaps tells it. */
struct map_reader {
    int proc_fd, pagemap_fd; /* the latter only while the kernel can tell guards */
    struct snapshot_vma vma;
    uint64_t resident_bytes;
    bool has_vma, is_deleted;
    char *path; /* "" if it has none */
};

static void map_reader_end(struct map_reader *reader)
{
    base_close(&reader->proc_fd);
    base_close(&reader->pagemap_fd);
    free(reader->path);
}

static bool starts_with(const char *text, const char *beginning)
{
    return strncmp(text, beginning, strlen(beginning)) == 0;
}

/* The kernel writes a newline in a path as \012, and nothing else that way. */
static void unescape(char *path)
{
    char *out = path;
    for (const char *in = path; *in;) {
        bool is_newline = starts_with(in, "\\012");
        *out++ = is_newline ? '\n' : *in;
        in += is_newline ? 4 : 1;
    }
    *out = '\0';
}

static bool strip_suffix(char *text, const char *suffix)
{
    size_t length = strlen(text), suffix_length = strlen(suffix);
    if (length < suffix_length || strcmp(text + length - suffix_length, suffix) != 0)
        return false;
    text[length - suffix_length] = '\0';
    return true;
}

/* ---- what kind of mapping ---- */

/* By its path, as far as that says it; 0: a file. */
static uint32_t kind_by_name(const struct map_reader *reader)
{
    const char *path = reader->path;
    bool is_shared = reader->vma.flags & SNAPSHOT_VMA_MAP_SHARED;
    if (strcmp(path, "[vdso]") == 0)
        return SNAPSHOT_VMA_VDSO;
    if (starts_with(path, "[vvar"))
        return SNAPSHOT_VMA_VVAR;
    if (strcmp(path, "[heap]") == 0 || starts_with(path, "[stack") || starts_with(path, "[anon:") || !*path)
        return SNAPSHOT_VMA_ANONYMOUS;
    if (starts_with(path, "[anon_shmem:"))
        return SNAPSHOT_VMA_SHARED;
    /* Both are made without a file, which the kernel makes up. */
    if (strcmp(path, "/anon_hugepage") == 0)
        return is_shared ? SNAPSHOT_VMA_SHARED : SNAPSHOT_VMA_ANONYMOUS;
    if (strcmp(path, "/dev/zero") == 0 && reader->is_deleted) /* a private one is of what others map shared */
        return is_shared ? SNAPSHOT_VMA_SHARED : SNAPSHOT_VMA_OBJECT;
    if (starts_with(path, "/SYSV") && reader->is_deleted)
        return SNAPSHOT_VMA_SYSV;
    if (starts_with(path, "/memfd:"))
        return SNAPSHOT_VMA_OBJECT;
    return path[0] == '/' && !starts_with(path, "/[") ? 0 : SNAPSHOT_VMA_OTHER;
}

/* The file that is mapped, if we can get at it. Says whether there still is a path to it. */
static int find_file(const struct map_reader *reader, struct stat *ret_stat, bool *ret_has_path)
{
    const struct snapshot_vma *vma = &reader->vma;
    struct stat by_path;
    char link[64];
    snprintf(link, sizeof link, "map_files/%" PRIx64 "-%" PRIx64, vma->start, vma->end);
    bool is_there = stat(reader->path, &by_path) == 0;
    if (fstatat(reader->proc_fd, link, ret_stat, 0) == 0) {
        *ret_has_path = is_there && by_path.st_dev == ret_stat->st_dev && by_path.st_ino == ret_stat->st_ino;
        return 0;
    }
    /* On some filesystems (btrfs, overlayfs) the device is not the one that stat(2) tells. */
    if (!is_there || by_path.st_ino != vma->inode)
        return -ENOENT;
    *ret_stat = by_path;
    *ret_has_path = true;
    return 0;
}

static void describe_file(struct map_reader *reader)
{
    struct snapshot_vma *vma = &reader->vma;
    struct stat file;
    bool has_path;
    if (find_file(reader, &file, &has_path) < 0) {
        vma->kind = SNAPSHOT_VMA_OBJECT; /* the file has no name any more */
        vma->file_size = vma->offset + (vma->end - vma->start);
        return;
    }
    vma->device_major = major(file.st_dev);
    vma->device_minor = minor(file.st_dev);
    vma->inode = file.st_ino;
    vma->file_size = (uint64_t)file.st_size;
    vma->modified_ns = file.st_mtim.tv_sec * INT64_C(1000000000) + file.st_mtim.tv_nsec;
    bool is_zero_device = S_ISCHR(file.st_mode) && file.st_rdev == makedev(1, 5);
    if (is_zero_device)
        vma->kind = vma->flags & SNAPSHOT_VMA_MAP_SHARED ? SNAPSHOT_VMA_SHARED : SNAPSHOT_VMA_ANONYMOUS;
    else if (!S_ISREG(file.st_mode))
        vma->kind = SNAPSHOT_VMA_OTHER;
    else
        vma->kind = has_path ? SNAPSHOT_VMA_FILE : SNAPSHOT_VMA_OBJECT;
}

/* ---- one mapping ---- */

static int read_header(struct map_reader *reader, const char *line)
{
    unsigned long start, end, offset, inode;
    unsigned device_major, device_minor;
    char permissions[5];
    int path_start = 0;
    if (sscanf(line, "%lx-%lx %4s %lx %x:%x %lu %n", &start, &end, permissions, &offset, &device_major,
               &device_minor, &inode, &path_start) != 7)
        return -EBADMSG;
    free(reader->path);
    reader->path = strdup(line + path_start);
    if (!reader->path)
        return -ENOMEM;
    reader->path[strcspn(reader->path, "\n")] = '\0';
    unescape(reader->path);
    /* A file may really be called so; then it has a name that stat(2) finds, with a space in it. */
    struct stat unused;
    reader->is_deleted = stat(reader->path, &unused) < 0 && strip_suffix(reader->path, DELETED);
    reader->vma = (struct snapshot_vma){
        .start = start,
        .end = end,
        .offset = offset,
        .protection =
            (uint32_t)((permissions[0] == 'r' ? PROT_READ : 0) | (permissions[1] == 'w' ? PROT_WRITE : 0) |
                       (permissions[2] == 'x' ? PROT_EXEC : 0)),
        .flags = permissions[3] == 's' ? SNAPSHOT_VMA_MAP_SHARED : 0,
        .device_major = device_major,
        .device_minor = device_minor,
        .inode = inode,
    };
    reader->has_vma = true;
    return 0;
}

static void read_flags(struct snapshot_vma *vma, const char *line)
{
    static const struct {
        const char *mnemonic;
        uint32_t flag;
    } known[] = {
        {" mw", SNAPSHOT_VMA_MAY_WRITE},      {" gd", SNAPSHOT_VMA_GROWS_DOWN},
        {" nr", SNAPSHOT_VMA_NORESERVE},      {" ht", SNAPSHOT_VMA_HUGETLB},
        {" dc", SNAPSHOT_VMA_DONTFORK},       {" wf", SNAPSHOT_VMA_WIPEONFORK},
        {" dd", SNAPSHOT_VMA_DONTDUMP},       {" dp", SNAPSHOT_VMA_DROPPABLE},
        {" hg", SNAPSHOT_VMA_HUGEPAGE},       {" nh", SNAPSHOT_VMA_NOHUGEPAGE},
        {" mg", SNAPSHOT_VMA_MERGEABLE},      {" sr", SNAPSHOT_VMA_SEQUENTIAL},
        {" rr", SNAPSHOT_VMA_RANDOM},         {" lo", SNAPSHOT_VMA_LOCKED},
        {" lf", SNAPSHOT_VMA_LOCKED_ONFAULT},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (strstr(line, known[i].mnemonic))
            vma->flags |= known[i].flag;
}

static void read_line(struct map_reader *reader, const char *line)
{
    uint64_t value = status_number(line, "ProtectionKey", 10);
    if (value)
        reader->vma.protection_key = (uint32_t)value;
    if (starts_with(line, "Rss:"))
        reader->resident_bytes = status_number(line, "Rss", 10) * 1024;
    value = status_number(line, "KernelPageSize", 10);
    if (value > 4)
        reader->vma.page_shift = (uint32_t)(63 - __builtin_clzll(value * 1024));
    if (starts_with(line, "VmFlags:"))
        read_flags(&reader->vma, line);
    /* Some kernels do not say (" lf") that pages are locked when they are there; but else all would be. */
    struct snapshot_vma *vma = &reader->vma;
    if ((vma->flags & SNAPSHOT_VMA_LOCKED) && (vma->protection & PROT_READ) &&
        reader->resident_bytes < vma->end - vma->start)
        vma->flags |= SNAPSHOT_VMA_LOCKED_ONFAULT;
}

/* The part of a name that is given to anonymous memory (PR_SET_VMA_ANON_NAME); "" if there is none. */
static void keep_given_name(char *path)
{
    const char *given = starts_with(path, "[anon:")         ? path + strlen("[anon:")
                        : starts_with(path, "[anon_shmem:") ? path + strlen("[anon_shmem:")
                                                            : "";
    memmove(path, given, strlen(given) + 1);
    strip_suffix(path, "]");
}

static int add_row(struct map_reader *reader, struct snapshot *snapshot, uint64_t start, uint64_t end,
                   uint32_t more_flags)
{
    if (start >= end)
        return 0;
    struct snapshot_vma *row = array_append(snapshot->vmas, snapshot->vmas_count);
    if (!row)
        return -ENOMEM;
    *row = reader->vma;
    row->start = start;
    row->end = end;
    row->flags |= more_flags;
    bool has_offset = row->kind != SNAPSHOT_VMA_ANONYMOUS;
    row->offset = has_offset ? row->offset + (start - reader->vma.start) : 0;
    return snapshot_add_blob(snapshot, reader->path, strlen(reader->path) + 1, &row->path_offset);
}

/* The next run of guards before `end`; false if there is none. */
static bool find_guards(struct map_reader *reader, uint64_t start, uint64_t end,
                        struct scan_region *ret_guards)
{
    struct scan_arguments arguments = {
        .size = sizeof arguments,
        .start = start,
        .end = end,
        .regions = (uint64_t)(uintptr_t)ret_guards,
        .region_count = 1,
        .category_mask = SCAN_GUARD,
        .return_mask = SCAN_GUARD,
    };
    if (reader->pagemap_fd < 0 || start >= end)
        return false;
    int r;
    do
        r = ioctl(reader->pagemap_fd, PAGEMAP_SCAN_CALL, &arguments);
    while (r < 0 && errno == EINTR);
    if (r < 0)
        base_close(&reader->pagemap_fd);
    return r > 0;
}

static int add_rows(struct map_reader *reader, struct snapshot *snapshot, uint64_t start, uint64_t end)
{
    struct scan_region guards;
    int r = 0;
    uint32_t kind = reader->vma.kind;
    bool is_asked = kind == SNAPSHOT_VMA_ANONYMOUS || kind == SNAPSHOT_VMA_FILE;
    while (r == 0 && is_asked && find_guards(reader, start, end, &guards)) {
        r = add_row(reader, snapshot, start, guards.start, 0);
        if (r == 0)
            r = add_row(reader, snapshot, guards.start, guards.end, SNAPSHOT_VMA_GUARD);
        start = guards.end;
    }
    return r == 0 ? add_row(reader, snapshot, start, end, 0) : r;
}

/* The mapping that was read becomes a row, or two if our scratch pages lie in the middle of it: the kernel
 * makes one mapping of two that are next to each other and alike. */
static int finish(struct map_reader *reader, struct snapshot *snapshot)
{
    struct snapshot_vma *vma = &reader->vma;
    if (!reader->has_vma || strcmp(reader->path, "[vsyscall]") == 0)
        return 0;
    reader->has_vma = false;
    vma->kind = kind_by_name(reader);
    if (!vma->kind || vma->kind == SNAPSHOT_VMA_OBJECT)
        describe_file(reader);
    struct shmid_ds segment;
    if (vma->kind == SNAPSHOT_VMA_SYSV && shmctl((int)vma->inode, IPC_STAT, &segment) == 0)
        vma->file_size = segment.shm_segsz;
    if (vma->kind == SNAPSHOT_VMA_ANONYMOUS || vma->kind == SNAPSHOT_VMA_SHARED)
        keep_given_name(reader->path);
    if (!(vma->flags & SNAPSHOT_VMA_HUGETLB))
        vma->page_shift = PAGE_SHIFT_MIN;
    uint64_t ours = snapshot->process.scratch_address, ours_end = ours + snapshot->process.scratch_length;
    if (vma->end <= ours || vma->start >= ours_end)
        return add_rows(reader, snapshot, vma->start, vma->end);
    int r = add_rows(reader, snapshot, vma->start, ours > vma->start ? ours : vma->start);
    return r < 0 ? r : add_rows(reader, snapshot, ours_end, vma->end);
}

int process_capture_map(pid_t pid, struct snapshot *snapshot, struct reseat_error **ret_error)
{
    _cleanup_(map_reader_end) struct map_reader reader = {.proc_fd = proc_open(pid), .pagemap_fd = -EBADF};
    if (reader.proc_fd < 0)
        return error_errno(ret_error, reader.proc_fd, "opening process %d", pid);
    reader.pagemap_fd = openat(reader.proc_fd, "pagemap", O_RDONLY | O_CLOEXEC);
    int fd = openat(reader.proc_fd, "smaps", O_RDONLY | O_CLOEXEC);
    _cleanup_fclose_ FILE *smaps = fd < 0 ? NULL : fdopen(fd, "r");
    if (!smaps)
        return error_errno(ret_error, -errno, "reading the memory map of process %u", snapshot->process.pid);
    free(TAKE_PTR(snapshot->vmas));
    snapshot->vmas_count = 0;
    _cleanup_free_ char *line = NULL;
    size_t capacity = 0;
    int r = 0;
    while (r == 0 && getline(&line, &capacity, smaps) > 0) {
        bool is_header = strchr("0123456789abcdef", line[0]);
        r = is_header ? finish(&reader, snapshot) : 0;
        if (r == 0 && is_header)
            r = read_header(&reader, line);
        else if (r == 0)
            read_line(&reader, line);
    }
    if (r == 0)
        r = finish(&reader, snapshot);
    return r < 0 ? error_errno(ret_error, r, "reading the memory map of process %u", snapshot->process.pid)
                 : 0;
}
