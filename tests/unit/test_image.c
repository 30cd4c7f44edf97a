/* Unit tests of the image room: what is written is read again unchanged; whatever else a file or a directory
 * may be, it is refused with a sentence that names the place. Hostile files are made by breaking a good one
 * and computing its checksums anew, with code of this file's own, from docs/image.md. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <sys/wait.h>
#include <xxhash.h>

#include <cmocka.h>

#include "image/fields.h"
#include "image/image-internal.h"
#include "image/image.h"

#define PID          1234
#define SOMEBODY     12345 /* a user that is not root */
#define SOMEBODY_TWO 12346

/* ---- a directory to work in ---- */

static char work_dir[PATH_MAX];

static int make_work_dir(void **state)
{
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(work_dir, sizeof work_dir, "%s/test_image-XXXXXX", parent ? parent : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int remove_work_dir(void **state)
{
    (void)state;
    char command[PATH_MAX + 16];
    snprintf(command, sizeof command, "rm -rf '%s'", work_dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static size_t count_entries(const char *dir)
{
    size_t count = 0;
    DIR *stream = opendir(dir);
    assert_non_null(stream);
    while (readdir(stream))
        count++;
    closedir(stream);
    return count - 2;
}

static bool exists(const char *path)
{
    struct stat status;
    return lstat(path, &status) == 0;
}

static void write_file(const char *path, const void *data, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(fd_write_all(fd, data, length), 0);
    close(fd);
}

/* ---- errors ---- */

/* Checks code and sentence, and frees. */
static void assert_error(int r, int code, struct reseat_error **error, const char *part)
{
    if (!*error)
        fail_msg("no error, although %s was expected (returned %d)", part, r);
    if (!strstr((*error)->message, part))
        fail_msg("\"%s\" does not say \"%s\"", (*error)->message, part);
    assert_int_equal(r, code);
    assert_int_equal((*error)->code, code);
    base_error_free(error);
}

static void assert_success(int r, struct reseat_error **error)
{
    if (r < 0 || *error)
        fail_msg("%d: %s", r, *error ? (*error)->message : "no message");
}

/* ---- snapshots ---- */

static void fill(void *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)random();
}

static uint32_t below(uint32_t limit)
{
    return (uint32_t)random() % limit;
}

static void fill_pids(uint32_t *pids)
{
    for (size_t i = 0; i < SNAPSHOT_NS_LEVELS; i++)
        pids[i] = 1 + below(1 << 22);
}

static void make_process(struct snapshot_process *process)
{
    fill(process, sizeof *process);
    process->version = SNAPSHOT_VERSION;
    process->form = SNAPSHOT_FORM_HEIR + below(2);
    process->pid = PID;
    process->ns_level_count = 1 + below(SNAPSHOT_NS_LEVELS);
    fill_pids(process->ns_pids);
    process->parent = below(1 << 22);
    process->group = below(1 << 22);
    process->session = below(1 << 22);
    process->twin = below(1 << 22);
    process->ns_twin = below(1 << 22);
    process->parent_death_signal = below(65);
    process->comm[15] = '\0';
    process->boot_id[39] = '\0';
    process->scratch_address >>= 1;
    process->scratch_length >>= 1;
    process->capability_count = below(1000);
}

static void add_threads(struct snapshot *snapshot, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct snapshot_thread *thread = array_append(snapshot->threads, snapshot->threads_count);
        fill(thread, sizeof *thread);
        thread->tid = PID + (uint32_t)i;
        fill_pids(thread->ns_tids);
        thread->name[15] = '\0';
        thread->affinity_length = below(sizeof thread->affinity + 1);
        uint8_t xstate[512];
        fill(xstate, sizeof xstate);
        thread->xstate_length = below(sizeof xstate / 8 + 1) * 8;
        snapshot_add_blob(snapshot, xstate, thread->xstate_length, &thread->xstate_offset);
    }
}

static void add_signals_and_timers(struct snapshot *snapshot, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct snapshot_signal *signal = array_append(snapshot->signals, snapshot->signals_count);
        fill(signal, sizeof *signal);
        signal->tid = below(2) ? 0 : PID + below((uint32_t)snapshot->threads_count);
        memcpy(signal->siginfo, &(int){1 + (int)below(64)}, sizeof(int));
        struct snapshot_timer *timer = array_append(snapshot->timers, snapshot->timers_count);
        fill(timer, sizeof *timer);
        timer->id = (int)i * 3;
        timer->notify =
            i % 3 == 2 ? SIGEV_NONE : SIGEV_SIGNAL; /* with SIGEV_NONE the signal may be anything */
        timer->signal = timer->notify == SIGEV_NONE ? timer->signal : 1 + (int)below(64);
        timer->ns_tid = below(1 << 22);
    }
}

static void add_regions(struct snapshot *snapshot, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct snapshot_region *region = array_append(snapshot->regions, snapshot->regions_count);
        region->start = (1 + (uint64_t)below(1 << 30)) * 4096;
        region->end = region->start + (1 + (uint64_t)below(1 << 20)) * 4096;
        region->flags = below(16);
    }
}

static void add_capabilities(struct snapshot *snapshot, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        *array_append(snapshot->owners, snapshot->owners_count) =
            (struct snapshot_owner){below(1 << 20), (int)below(3), (int)below(1000) - 500, (int)below(65)};
        *array_append(snapshot->locks, snapshot->locks_count) =
            (struct snapshot_lock){below(1 << 20), below(2) ? F_RDLCK : F_WRLCK, below(1 << 30),
                                   below(1 << 30)};
        *array_append(snapshot->positions, snapshot->positions_count) =
            (struct snapshot_position){below(1 << 20), below(1 << 30), (int64_t)below(1 << 30) - 1};
        *array_append(snapshot->interests, snapshot->interests_count) =
            (struct snapshot_interest){below(1 << 20), below(1 << 20), below(1 << 30), below(2),
                                       (uint64_t)random()};
    }
}

static void add_reopens(struct snapshot *snapshot, size_t count)
{
    static const char *const paths[] = {"", "status", "task/..1234/comm", "net//dev"};
    for (size_t i = 0; i < count; i++) {
        uint64_t offset;
        const char *path = paths[below(COUNT_OF(paths))];
        assert_int_equal(snapshot_add_blob(snapshot, path, strlen(path) + 1, &offset), 0);
        *array_append(snapshot->reopens, snapshot->reopens_count) =
            (struct snapshot_reopen){(uint32_t)i * 2, 0, FD_CLOEXEC, i % 3 == 2 ? 0 : (uint32_t)i * 2, -1,
                                     offset};
    }
}

static void add_credentials(struct snapshot *snapshot, size_t count)
{
    uint32_t groups[8];
    fill(groups, sizeof groups);
    for (size_t i = 0; i < count; i++) {
        struct snapshot_thread_credentials *row =
            array_append(snapshot->credentials, snapshot->credentials_count);
        fill(row, sizeof *row);
        row->tid = snapshot->threads[1 + i].tid;
        row->credentials.group_count = below(COUNT_OF(groups));
        snapshot_add_blob(snapshot, groups, row->credentials.group_count * sizeof *groups,
                          &row->credentials.groups_offset);
    }
}

static void make_snapshot(struct snapshot *snapshot, size_t rows)
{
    *snapshot = (struct snapshot){0};
    make_process(&snapshot->process);
    add_threads(snapshot, 1 + rows);
    add_signals_and_timers(snapshot, rows);
    add_regions(snapshot, rows);
    add_capabilities(snapshot, rows);
    add_reopens(snapshot, rows);
    add_credentials(snapshot, rows);
}

static void assert_same_snapshot(const struct snapshot *a, const struct snapshot *b)
{
    assert_memory_equal(&a->process, &b->process, sizeof a->process);
#define X(type, name, section)                                                                               \
    assert_int_equal(a->name##_count, b->name##_count);                                                      \
    if (a->name##_count > 0)                                                                                 \
        assert_memory_equal(a->name, b->name, a->name##_count * sizeof(type));
    SNAPSHOT_TABLES(X)
#undef X
}

#define _cleanup_snapshot_ _cleanup_(snapshot_free)
#define _cleanup_draft_    _cleanup_(image_draft_end)

/* ---- files in memory ---- */

static uint8_t *encode(const struct snapshot *snapshot, size_t *ret_length)
{
    struct core_layout layout;
    core_layout_make(snapshot, NULL, &layout);
    uint8_t *bytes = malloc(layout.length), *end = bytes;
    assert_non_null(bytes);
    for (size_t i = 0; i < layout.piece_count; i++) {
        memcpy(end, layout.pieces[i].iov_base, layout.pieces[i].iov_len);
        end += layout.pieces[i].iov_len;
    }
    assert_int_equal(end - bytes, layout.length);
    *ret_length = layout.length;
    return bytes;
}

static int decode(const uint8_t *bytes, size_t length, struct snapshot *ret_snapshot,
                  struct reseat_error **ret_error)
{
    struct core_source source = {.bytes = bytes, .length = length};
    _cleanup_(core_view_close) struct core_view view = {0};
    int r = core_view_open(&source, &view, ret_error);
    if (r >= 0)
        r = core_view_verify(&view, ret_error);
    if (r >= 0)
        r = core_view_extract(&view, ret_snapshot, ret_error);
    return r < 0 ? r : core_check_snapshot(ret_snapshot, ret_error);
}

static Elf64_Shdr *section_headers(uint8_t *bytes)
{
    return (Elf64_Shdr *)(bytes + ((Elf64_Ehdr *)bytes)->e_shoff);
}

static Elf64_Shdr *find_section(uint8_t *bytes, const char *name)
{
    const Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
    Elf64_Shdr *sections = section_headers(bytes);
    const char *names = (char *)bytes + sections[header->e_shstrndx].sh_offset;
    for (size_t i = 1; i < header->e_shnum; i++)
        if (strcmp(names + sections[i].sh_name, name) == 0)
            return &sections[i];
    fail_msg("no section %s", name);
    return NULL;
}

/* Computes the checksums anew, as far as there is something to compute them of. */
static void seal(uint8_t *bytes, size_t length)
{
    const Elf64_Ehdr *header = (Elf64_Ehdr *)bytes;
    const Elf64_Shdr *sections = section_headers(bytes);
    const Elf64_Shdr *own = &sections[header->e_shnum - 1]; /* the last one in what we write */
    uint64_t *checksums = (uint64_t *)(bytes + own->sh_offset);
    checksums[0] =
        XXH3_64bits_withSeed(sections, header->e_shnum * sizeof *sections, XXH3_64bits(header, 64));
    for (size_t i = 1; i < header->e_shnum; i++)
        if (sections[i].sh_offset <= length && sections[i].sh_size <= length - sections[i].sh_offset)
            checksums[i] = XXH3_64bits(bytes + sections[i].sh_offset, sections[i].sh_size);
    checksums[own - sections] = 0;
    checksums[own - sections] = XXH3_64bits(checksums, own->sh_size);
}

/* A checkpoint directory made through the front door. */
static void make_checkpoint(const char *dir, const struct snapshot *snapshot)
{
    struct reseat_error *error = NULL;
    _cleanup_draft_ struct image_draft draft = {0};
    assert_success(image_draft_begin(dir, &draft, &error), &error);
    assert_success(image_draft_write(&draft, snapshot, &error), &error);
    assert_success(image_draft_publish(&draft, &error), &error);
}

static void make_any_checkpoint(const char *dir)
{
    _cleanup_snapshot_ struct snapshot snapshot;
    make_snapshot(&snapshot, 2);
    make_checkpoint(dir, &snapshot);
}

static void assert_read_fails(const char *dir, int code, const char *part)
{
    struct reseat_error *error = NULL;
    struct snapshot snapshot;
    uid_t owner;
    assert_error(image_read(dir, &snapshot, &owner, &error), code, &error, part);
}

/* ---- tests: the way there and back ---- */

static void test_round_trip(void **state)
{
    (void)state;
    for (size_t rows = 0; rows < 70; rows++) {
        _cleanup_snapshot_ struct snapshot before, after = {0};
        struct reseat_error *error = NULL;
        uid_t owner = SOMEBODY;
        make_snapshot(&before, rows);
        make_checkpoint("round", &before);
        assert_success(image_read("round", &after, &owner, &error), &error);
        assert_same_snapshot(&before, &after);
        assert_int_equal(owner, geteuid());
        /* Tables that were read can grow like others (a sanitizer would see it). */
        add_regions(&after, 3);
        add_threads(&after, 3);
        assert_success(image_remove("round", &error), &error);
        assert_int_equal(count_entries("."), 0);
    }
}

static void test_modes_and_paths(void **state)
{
    (void)state;
    char expected[PATH_MAX + 16];
    struct stat status;
    _cleanup_snapshot_ struct snapshot snapshot, after = {0};
    make_snapshot(&snapshot, 1);
    mode_t old_mask = umask(0);
    {
        struct reseat_error *error = NULL;
        _cleanup_draft_ struct image_draft draft = {0};
        assert_success(image_draft_begin("./plain//", &draft, &error), &error);
        snprintf(expected, sizeof expected, "%s/plain", work_dir);
        assert_string_equal(draft.path, expected);
        assert_false(exists("plain"));
        assert_success(image_draft_write(&draft, &snapshot, &error), &error);
        assert_success(image_draft_publish(&draft, &error), &error);
        assert_int_equal(fstat(draft.dir_fd, &status), 0);
    }
    umask(old_mask);
    assert_int_equal(status.st_mode, S_IFDIR | 0700);
    assert_int_equal(stat("plain/1234.core", &status), 0);
    assert_int_equal(status.st_mode, S_IFREG | 0600);
    assert_int_equal(count_entries("."), 1);
    assert_int_equal(count_entries("plain"), 1);
    struct reseat_error *error = NULL;
    assert_success(image_read("plain///", &after, NULL, &error), &error);
    assert_int_equal(chdir("plain"), 0);
    assert_success(image_remove(".", &error), &error);
    assert_int_equal(chdir(work_dir), 0);
    assert_int_equal(count_entries("."), 0);
}

static void test_long_name(void **state)
{
    (void)state;
    char name[NAME_MAX + 1] = {0};
    memset(name, 'x', NAME_MAX);
    make_any_checkpoint(name);
    assert_true(exists(name));
    struct reseat_error *error = NULL;
    assert_success(image_remove(name, &error), &error);
}

/* Whether a program finds nothing to complain about; it says so on either stream. */
static void assert_silent(const char *command)
{
    char line[512];
    FILE *output = popen(command, "r");
    assert_non_null(output);
    while (fgets(line, sizeof line, output))
        if (strcasestr(line, "warning") || strcasestr(line, "error") || strcasestr(line, "invalid") ||
            strcasestr(line, "corrupt"))
            fail_msg("%s: %s", command, line);
    assert_int_equal(pclose(output), 0);
}

static void test_readelf(void **state)
{
    (void)state;
    if (system("command -v readelf >/dev/null") != 0)
        skip();
    make_any_checkpoint("elf");
    assert_silent("readelf -aW elf/1234.core 2>&1");
    assert_silent("readelf -x .reseat.process -p .shstrtab elf/1234.core 2>&1");
    if (system("command -v eu-readelf >/dev/null") == 0)
        assert_silent("eu-readelf -a elf/1234.core 2>&1");
}

/* Every byte of every row has a name, or is reserved. */
static void test_fields(void **state)
{
    static const struct {
        const char *table;
        size_t reserved;
    } reserved[] = {{"signals", 4}, {"timers", 4},      {"regions", 4}, {"capabilities", 4},
                    {"actions", 4}, {"credentials", 4}, {"extents", 4}, {"contents", 4}};
    (void)state;
    size_t count = 0;
    for (const struct field_table *table = field_tables; table->name; table++, count++) {
        size_t covered = 0, end = 0;
        for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
            if (strcmp(reserved[i].table, table->name) == 0)
                covered = reserved[i].reserved;
        for (const struct field *field = table->fields; field->name; field++) {
            assert_true(field->offset >= end);
            end = field->offset + (size_t)field->size * field->count;
            covered += (size_t)field->size * field->count;
        }
        if (covered != table->row_bytes || end > table->row_bytes)
            fail_msg("%s: fields of %zu bytes in rows of %zu", table->name, covered, table->row_bytes);
    }
    assert_int_equal(count, CORE_TABLE_COUNT + 1);
}

/* A pipe that is read slowly and a timer that interrupts: writev(2) comes back short, in the middle of any
 * piece. */
static void on_alarm(int signal)
{
    (void)signal;
}

static void test_short_writes(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot;
    make_snapshot(&snapshot, 3000);
    size_t length;
    _cleanup_free_ uint8_t *expected = encode(&snapshot, &length);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t writer = fork();
    if (writer == 0) {
        struct core_layout layout;
        sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
        setitimer(ITIMER_REAL, &(struct itimerval){{0, 300}, {0, 300}}, NULL);
        core_layout_make(&snapshot, NULL, &layout);
        _exit(core_layout_write(&layout, ends[1]) == 0 ? 0 : 1);
    }
    close(ends[1]);
    uint8_t chunk[5000];
    size_t offset = 0;
    ssize_t n;
    while ((n = read(ends[0], chunk, sizeof chunk)) > 0) {
        assert_true(offset + (size_t)n <= length);
        assert_memory_equal(chunk, expected + offset, n);
        offset += (size_t)n;
        poll(NULL, 0, 1);
    }
    close(ends[0]);
    assert_int_equal(offset, length);
    int status;
    assert_int_equal(waitpid(writer, &status, 0), writer);
    assert_int_equal(status, 0);
}

/* ---- tests: damage ---- */

static void test_every_truncation(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot;
    make_snapshot(&snapshot, 1);
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(&snapshot, &length);
    for (size_t shorter = 0; shorter < length; shorter++) {
        _cleanup_free_ uint8_t *part = malloc(shorter ? shorter : 1); /* exact: a sanitizer sees overreads */
        memcpy(part, bytes, shorter);
        _cleanup_snapshot_ struct snapshot after = {0};
        struct reseat_error *error = NULL;
        assert_error(decode(part, shorter, &after, &error), -EBADMSG, &error, "");
    }
}

static void test_every_flipped_bit(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot;
    make_snapshot(&snapshot, 1);
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(&snapshot, &length);
    for (size_t bit = 0; bit < length * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        _cleanup_snapshot_ struct snapshot after = {0};
        _cleanup_error_ struct reseat_error *error = NULL;
        int r = decode(bytes, length, &after, &error);
        if (r >= 0 || !error || error->message[0] == '\0')
            fail_msg("bit %zu of byte %zu may be flipped", bit % 8, bit / 8);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    _cleanup_snapshot_ struct snapshot after = {0};
    struct reseat_error *error = NULL;
    assert_success(decode(bytes, length, &after, &error), &error);
}

static void test_damage_is_located(void **state)
{
    (void)state;
    make_any_checkpoint("damaged");
    char *bytes;
    size_t length;
    assert_int_equal(file_read(AT_FDCWD, "damaged/1234.core", &bytes, &length), 0);
    const Elf64_Shdr *threads = find_section((uint8_t *)bytes, ".reseat.thread");
    bytes[threads->sh_offset + 5] ^= 1;
    write_file("damaged/1234.core", bytes, length);
    assert_read_fails("damaged", -EBADMSG,
                      "damaged/1234.core: section .reseat.thread: damaged, the checksum is wrong");
    write_file("damaged/1234.core", bytes, length - 3);
    assert_read_fails("damaged", -EBADMSG, "damaged/1234.core: section .reseat.checksums: 3 bytes too short");
    write_file("damaged/1234.core", bytes, 0);
    assert_read_fails("damaged", -EBADMSG, "damaged/1234.core: ELF header: 64 bytes too short");
    free(bytes);
}

/* ---- tests: hostile structure, with right checksums ---- */

static void no_elf(uint8_t *bytes)
{
    bytes[0] = 'E';
}
static void wrong_class(uint8_t *bytes)
{
    bytes[EI_CLASS] = ELFCLASS32;
}
static void executable(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_type = ET_EXEC;
}
static void other_machine(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_machine = EM_RISCV;
}
static void program_headers(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_phnum = 1;
    ((Elf64_Ehdr *)bytes)->e_phentsize = sizeof(Elf64_Phdr);
    ((Elf64_Ehdr *)bytes)->e_phoff = UINT64_MAX - 8;
}
static void one_byte_headers(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_shentsize = 1;
}
static void no_sections(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_shnum = 0;
}
static void absurd_sections(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_shnum = 65535;
}
static void more_sections_than_bytes(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_shnum = CORE_SECTIONS_MAX;
    ((Elf64_Ehdr *)bytes)->e_shoff += 4096;
}
static void headers_far_away(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_shoff = UINT64_MAX - 63;
}
static void names_nowhere(uint8_t *bytes)
{
    ((Elf64_Ehdr *)bytes)->e_shstrndx = CORE_SECTION_COUNT;
}
static void names_without_end(uint8_t *bytes)
{
    Elf64_Shdr *names = find_section(bytes, ".shstrtab");
    bytes[names->sh_offset + names->sh_size - 1] = 'x';
}
static void name_outside(uint8_t *bytes)
{
    Elf64_Shdr *names = find_section(bytes, ".shstrtab");
    find_section(bytes, ".reseat.lock")->sh_name = (Elf64_Word)names->sh_size;
}
static void without_bytes(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_type = SHT_NOBITS;
}
static void compressed(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_flags = SHF_COMPRESSED;
}
static void begins_outside(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_offset = UINT64_MAX;
}
static void ends_outside(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_size = UINT64_MAX;
}
static void wraps_around(uint8_t *bytes)
{
    Elf64_Shdr *section = find_section(bytes, ".reseat.lock");
    section->sh_size = UINT64_MAX - section->sh_offset + 65;
}
static void overlaps_another(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_offset = find_section(bytes, ".reseat.thread")->sh_offset;
}
static void overlaps_headers(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_offset = 0;
}
static void overlaps_section_headers(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_offset = 64 + 8;
}
static void hidden_bytes(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_size -= sizeof(struct snapshot_lock);
}
static void twice(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_name = find_section(bytes, ".reseat.owner")->sh_name;
}
static void no_process(uint8_t *bytes)
{
    find_section(bytes, ".reseat.process")->sh_name = 0;
}
static void many_processes(uint8_t *bytes)
{
    find_section(bytes, ".reseat.process")->sh_entsize = 8;
}
static void no_rows(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_entsize = 0;
}
static void huge_rows(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_entsize = UINT64_MAX;
}
static void half_rows(uint8_t *bytes)
{
    find_section(bytes, ".reseat.lock")->sh_entsize = 25;
}
static void wide_bytes(uint8_t *bytes)
{
    find_section(bytes, ".reseat.blob")->sh_entsize = 8;
}
static void later_version(uint8_t *bytes)
{
    uint32_t version = SNAPSHOT_VERSION + 1;
    memcpy(bytes + find_section(bytes, ".reseat.process")->sh_offset, &version, sizeof version);
}

static const struct {
    void (*spoil)(uint8_t *bytes);
    int code;
    const char *message;
} structures[] = {
    {no_elf, -EBADMSG, "not an ELF file"},
    {wrong_class, -EBADMSG, "not 64-bit"},
    {executable, -EBADMSG, "type 2 is not that of a core file"},
    {other_machine, -EPROTONOSUPPORT, "made on machine type 243"},
    {program_headers, -EBADMSG, "program header table: lies outside the file"},
    {one_byte_headers, -EBADMSG, "wrong sizes of headers"},
    {no_sections, -EBADMSG, "0 sections"},
    {absurd_sections, -EBADMSG, "65535 sections"},
    {more_sections_than_bytes, -EBADMSG, "section header table: lies outside the file"},
    {headers_far_away, -EBADMSG, "section header table: lies outside the file"},
    {names_nowhere, -EBADMSG, "of the names does not exist"},
    {names_without_end, -EBADMSG, "does not end with a NUL"},
    {name_outside, -EBADMSG, "its name lies outside"},
    {without_bytes, -EBADMSG, "section .reseat.lock: unexpected type 8"},
    {compressed, -EBADMSG, "section .reseat.lock: unexpected flags 0x800"},
    {begins_outside, -EBADMSG, "section .reseat.lock: begins after the end"},
    {ends_outside, -EBADMSG, "section .reseat.lock: 18446744"},
    {wraps_around, -EBADMSG, "section .reseat.lock: 18446744"},
    {overlaps_another, -EBADMSG, "overlaps"},
    {overlaps_headers, -EBADMSG, "overlaps what lies before it"},
    {overlaps_section_headers, -EBADMSG, "section .reseat.lock: overlaps"},
    {hidden_bytes, -EBADMSG, "the padding before it is not zero"},
    {twice, -EBADMSG, "section .reseat.owner: is there twice"},
    {no_process, -EBADMSG, "it has no section .reseat.process"},
    {many_processes, -EBADMSG, "rows instead of one"},
    {no_rows, -EBADMSG, "section .reseat.lock: rows of 0 bytes"},
    {huge_rows, -EBADMSG, "section .reseat.lock: rows of 18446744073709551615 bytes"},
    {half_rows, -EBADMSG, "section .reseat.lock: 2 bytes too short"},
    {wide_bytes, -EBADMSG, "section .reseat.blob: rows of 8 bytes, not 1"},
    {later_version, -EPROTONOSUPPORT, "version 3 of the format, this Reseat reads version 2"},
};

static void test_hostile_structures(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(structures); i++) {
        _cleanup_snapshot_ struct snapshot snapshot, after = {0};
        make_snapshot(&snapshot, 2);
        size_t length;
        _cleanup_free_ uint8_t *bytes = encode(&snapshot, &length);
        const Elf64_Ehdr sound = *(Elf64_Ehdr *)bytes;
        structures[i].spoil(bytes);
        /* Where the way to the sections itself is broken, nobody gets as far as the checksums. */
        if (memcmp(&sound, bytes, sizeof sound) == 0)
            seal(bytes, length);
        struct reseat_error *error = NULL;
        int r = decode(bytes, length, &after, &error);
        assert_error(r, structures[i].code, &error, structures[i].message);
    }
}

/* A few bytes that claim to be a billion rows, each of which would take up hundreds of bytes. */
static void test_no_memory_for_tiny_rows(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot, after = {0};
    make_snapshot(&snapshot, 0);
    _cleanup_free_ uint8_t *much = calloc(1, 4 << 20);
    assert_int_equal(snapshot_add_blob(&snapshot, much, 4 << 20, &(uint64_t){0}), 0);
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(&snapshot, &length);
    Elf64_Shdr *blobs = find_section(bytes, ".reseat.blob"), *threads = find_section(bytes, ".reseat.thread");
    threads->sh_name = TAKE_GENERIC(blobs->sh_name, threads->sh_name);
    assert_int_equal(blobs->sh_entsize, 1);
    seal(bytes, length);
    struct reseat_error *error = NULL;
    assert_error(decode(bytes, length, &after, &error), -EBADMSG, &error,
                 "rows are more than any process has");
}

static void test_bytes_after_the_end(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot, after = {0};
    make_snapshot(&snapshot, 1);
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(&snapshot, &length);
    bytes = realloc(bytes, length + 7);
    memset(bytes + length, 0, 7);
    struct reseat_error *error = NULL;
    assert_error(decode(bytes, length + 7, &after, &error), -EBADMSG, &error,
                 "7 bytes after the last section");
}

/* ---- tests: rows of other lengths, sections of other versions ---- */

/* A copy of a good file in which one section has rows of another length and moves to the end. */
static uint8_t *resize_rows(const uint8_t *bytes, size_t length, const char *name, size_t row_length,
                            size_t *ret_length)
{
    Elf64_Shdr *old = find_section((uint8_t *)bytes, name);
    size_t count = old->sh_size / old->sh_entsize, start = (length + 7) & ~(size_t)7;
    uint8_t *larger = calloc(1, start + count * row_length);
    memcpy(larger, bytes, length);
    memset(larger + old->sh_offset, 0, old->sh_size);
    for (size_t i = 0; i < count; i++) {
        uint8_t *row = larger + start + i * row_length;
        memset(row, 0xee, row_length);
        memcpy(row, bytes + old->sh_offset + i * old->sh_entsize,
               row_length < old->sh_entsize ? row_length : old->sh_entsize);
    }
    Elf64_Shdr *section = find_section(larger, name);
    section->sh_offset = start;
    section->sh_entsize = row_length;
    section->sh_size = count * row_length;
    *ret_length = start + section->sh_size;
    seal(larger, *ret_length);
    return larger;
}

static void test_longer_rows(void **state)
{
    (void)state;
    static const char *const sections[] = {".reseat.thread", ".reseat.process", ".reseat.reopen"};
    for (size_t i = 0; i < COUNT_OF(sections); i++) {
        _cleanup_snapshot_ struct snapshot before, after = {0};
        make_snapshot(&before, 5);
        size_t length, new_length;
        _cleanup_free_ uint8_t *bytes = encode(&before, &length);
        size_t row_length = find_section(bytes, sections[i])->sh_entsize + 8;
        _cleanup_free_ uint8_t *longer = resize_rows(bytes, length, sections[i], row_length, &new_length);
        struct reseat_error *error = NULL;
        assert_success(decode(longer, new_length, &after, &error), &error);
        assert_same_snapshot(&before, &after);
    }
}

static void test_shorter_rows(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot before, after = {0};
    make_snapshot(&before, 5);
    size_t length, new_length, row_length = offsetof(struct snapshot_thread, scheduling);
    _cleanup_free_ uint8_t *bytes = encode(&before, &length);
    _cleanup_free_ uint8_t *shorter = resize_rows(bytes, length, ".reseat.thread", row_length, &new_length);
    struct reseat_error *error = NULL;
    assert_success(decode(shorter, new_length, &after, &error), &error);
    for (size_t i = 0; i < before.threads_count; i++)
        memset((uint8_t *)&before.threads[i] + row_length, 0, sizeof before.threads[i] - row_length);
    assert_same_snapshot(&before, &after);
}

static void test_unknown_and_missing_sections(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot before, after = {0};
    make_snapshot(&before, 5);
    size_t length;
    _cleanup_free_ uint8_t *bytes = encode(&before, &length);
    find_section(bytes, ".reseat.lock")->sh_name += 3; /* "seat.lock", which we do not know */
    seal(bytes, length);
    struct reseat_error *error = NULL;
    assert_success(decode(bytes, length, &after, &error), &error);
    before.locks_count = 0;
    assert_same_snapshot(&before, &after);
}

/* ---- tests: snapshots that make no sense ---- */

#define SPOIL(name, statement)                                                                               \
    static void name(struct snapshot *s)                                                                     \
    {                                                                                                        \
        statement;                                                                                           \
    }
SPOIL(no_form, s->process.form = 3)
SPOIL(no_pid, s->process.pid = 0)
SPOIL(large_pid, s->process.pid = UINT32_MAX)
SPOIL(no_levels, s->process.ns_level_count = 0)
SPOIL(many_levels, s->process.ns_level_count = SNAPSHOT_NS_LEVELS + 1)
SPOIL(no_ns_pid, s->process.ns_pids[0] = 0)
SPOIL(large_twin, s->process.twin = (1 << 22) + 1)
SPOIL(large_death_signal, s->process.parent_death_signal = 65)
SPOIL(long_comm, memset(s->process.comm, 'x', 16))
SPOIL(long_boot_id, memset(s->process.boot_id, 'x', 40))
SPOIL(scratch_wraps, s->process.scratch_address = s->process.scratch_length = UINT64_MAX)
SPOIL(many_capabilities, s->process.capability_count = UINT32_MAX)
SPOIL(no_threads, s->threads_count = 0)
SPOIL(no_leader, s->threads[0].tid = 99)
SPOIL(no_tid, s->threads[2].tid = 0)
SPOIL(same_tid, s->threads[2].tid = s->threads[1].tid)
SPOIL(no_ns_tid, s->threads[1].ns_tids[0] = 0)
SPOIL(odd_xstate, s->threads[1].xstate_length = 4)
SPOIL(large_xstate, s->threads[1].xstate_length = 65536 + 8)
SPOIL(xstate_outside, s->threads[1].xstate_offset = UINT64_MAX - 7)
SPOIL(xstate_too_long, s->threads[1].xstate_length = 65536)
SPOIL(long_thread_name, memset(s->threads[1].name, 'x', 16))
SPOIL(long_affinity, s->threads[1].affinity_length = sizeof s->threads[1].affinity + 1)
SPOIL(signal_for_nobody, s->signals[1].tid = 99)
SPOIL(no_signal, memset(s->signals[1].siginfo, 0, 4))
SPOIL(large_signal, memset(s->signals[1].siginfo, 0xff, 4))
SPOIL(negative_timer, s->timers[1].id = -1)
SPOIL(same_timer, s->timers[1].id = s->timers[0].id)
SPOIL(timer_signal, s->timers[1].signal = 65)
SPOIL(timer_thread, s->timers[1].ns_tid = UINT32_MAX)
SPOIL(empty_region, s->regions[1].end = s->regions[1].start)
SPOIL(odd_region, s->regions[1].start++)
SPOIL(owner_selector, s->owners[1].selector = 1 << 20)
SPOIL(owner_type, s->owners[1].type = 3)
SPOIL(owner_signal, s->owners[1].signal = -1)
SPOIL(lock_selector, s->locks[1].selector = 1 << 20)
SPOIL(lock_type, s->locks[1].type = F_UNLCK)
SPOIL(lock_start, s->locks[1].start = -1)
SPOIL(lock_wraps, s->locks[1].start = s->locks[1].length = INT64_MAX)
SPOIL(position_selector, s->positions[1].selector = 1 << 20)
SPOIL(interest_epoll, s->interests[1].epoll_selector = 1 << 20)
SPOIL(interest_selector, s->interests[1].selector = UINT32_MAX)
SPOIL(reopen_selector, s->reopens[1].selector = UINT32_MAX)
SPOIL(reopen_twice, s->reopens[1].selector = s->reopens[1].alias_of = s->reopens[0].selector)
SPOIL(reopen_alias, s->reopens[1].alias_of = 77)
SPOIL(reopen_alias_of_alias, s->reopens[1].alias_of = 4)
SPOIL(reopen_alias_too_early, s->reopens[1].alias_of = s->reopens[3].selector)
SPOIL(reopen_alias_far_away, s->reopens[1].alias_of = UINT32_MAX)
SPOIL(path_outside, s->reopens[1].path_offset = s->blobs_count)
SPOIL(path_far_away, s->reopens[1].path_offset = UINT64_MAX)

static void set_path(struct snapshot *snapshot, const char *path, size_t length)
{
    assert_int_equal(snapshot_add_blob(snapshot, path, length, &snapshot->reopens[1].path_offset), 0);
}
SPOIL(path_without_end, set_path(s, "status", 6))
SPOIL(path_too_long, char path[200]; memset(path, 'x', 199); path[199] = '\0'; set_path(s, path, 200))
SPOIL(path_absolute, set_path(s, "/etc/shadow", 12))
SPOIL(path_up, set_path(s, "..", 3))
SPOIL(path_up_later, set_path(s, "task//../../1/mem", 18))

static const struct {
    void (*spoil)(struct snapshot *snapshot);
    const char *message;
} meanings[] = {
    {no_form, "section .reseat.process: 3 is no form"},
    {no_pid, "section .reseat.process: 0 is no PID"},
    {large_pid, "section .reseat.process: 4294967295 is no PID"},
    {no_levels, "section .reseat.process: 0 levels"},
    {many_levels, "section .reseat.process: 9 levels"},
    {no_ns_pid, "section .reseat.process: a PID of its"},
    {large_twin, "section .reseat.process: parent"},
    {large_death_signal, "section .reseat.process: 65 is no signal"},
    {long_comm, "section .reseat.process: its name does not end"},
    {long_boot_id, "section .reseat.process: the boot id does not end"},
    {scratch_wraps, "section .reseat.process: the scratch mapping"},
    {many_capabilities, "section .reseat.process: 4294967295 capabilities"},
    {no_threads, "section .reseat.thread: no thread"},
    {no_leader, "section .reseat.thread: row 0: thread 99 is not the leader of process 1234"},
    {no_tid, "section .reseat.thread: row 2: 0 is no thread id"},
    {same_tid, "section .reseat.thread: thread 1235 is there twice"},
    {no_ns_tid, "section .reseat.thread: row 1: an id of thread 1235"},
    {odd_xstate, "section .reseat.thread: row 1: extended state at"},
    {large_xstate, "section .reseat.thread: row 1: extended state at"},
    {xstate_outside, "lies outside .reseat.blob"},
    {xstate_too_long, "lies outside .reseat.blob"},
    {long_thread_name, "section .reseat.thread: row 1: the name of thread 1235"},
    {long_affinity, "section .reseat.thread: row 1: affinity of "},
    {signal_for_nobody, "section .reseat.signal: row 1: for thread 99"},
    {no_signal, "section .reseat.signal: row 1: 0 is no signal"},
    {large_signal, "section .reseat.signal: row 1: 4294967295 is no signal"},
    {negative_timer, "section .reseat.timer: row 1: -1 is no timer id"},
    {same_timer, "section .reseat.timer: timer 0 is there twice"},
    {timer_signal, "section .reseat.timer: row 1: 65 is no signal"},
    {timer_thread, "section .reseat.timer: row 1: 4294967295 is no thread id"},
    {empty_region, "section .reseat.region: row 1: "},
    {odd_region, "section .reseat.region: row 1: "},
    {owner_selector, "section .reseat.owner: row 1: 1048576 is no selector"},
    {owner_type, "section .reseat.owner: row 1: 3 is no type"},
    {owner_signal, "section .reseat.owner: row 1: -1 is no signal"},
    {lock_selector, "section .reseat.lock: row 1: 1048576 is no selector"},
    {lock_type, "section .reseat.lock: row 1: 2 is no type"},
    {lock_start, "section .reseat.lock: row 1: "},
    {lock_wraps, "section .reseat.lock: row 1: "},
    {position_selector, "section .reseat.position: row 1: 1048576 is no selector"},
    {interest_epoll, "section .reseat.interest: row 1: 1048576 is no selector"},
    {interest_selector, "section .reseat.interest: row 1: 4294967295 is no selector"},
    {reopen_selector, "section .reseat.reopen: row 1: 4294967295 is no selector"},
    {reopen_twice, "section .reseat.reopen: row 1: selector 0 is there twice"},
    {reopen_alias, "section .reseat.reopen: row 1: alias of selector 77"},
    {reopen_alias_of_alias, "section .reseat.reopen: row 1: alias of selector 4"},
    {reopen_alias_too_early, "section .reseat.reopen: row 1: alias of selector 6, which no row before"},
    {reopen_alias_far_away, "section .reseat.reopen: row 1: alias of selector 4294967295"},
    {path_outside, "section .reseat.reopen: row 1: path at"},
    {path_far_away, "section .reseat.reopen: row 1: path at 18446744073709551615 lies outside"},
    {path_without_end, "section .reseat.reopen: row 1: the path at"},
    {path_too_long, "section .reseat.reopen: row 1: the path is longer than 128 bytes"},
    {path_absolute, "section .reseat.reopen: row 1: the path leads out"},
    {path_up, "section .reseat.reopen: row 1: the path leads out"},
    {path_up_later, "section .reseat.reopen: row 1: the path leads out"},
};

static void test_hostile_meanings(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(meanings); i++) {
        _cleanup_snapshot_ struct snapshot snapshot, after = {0};
        make_snapshot(&snapshot, 5);
        meanings[i].spoil(&snapshot);
        size_t length;
        _cleanup_free_ uint8_t *bytes = encode(&snapshot, &length);
        struct reseat_error *error = NULL;
        assert_error(decode(bytes, length, &after, &error), -EBADMSG, &error, meanings[i].message);

        /* And it is not even written. */
        _cleanup_draft_ struct image_draft draft = {0};
        assert_success(image_draft_begin("senseless", &draft, &error), &error);
        assert_error(image_draft_write(&draft, &snapshot, &error), -EBADMSG, &error, meanings[i].message);
        assert_int_equal(count_entries(draft.temporary_name), 0);
    }
    assert_int_equal(count_entries("."), 0);
}

/* ---- tests: the directory ---- */

static void test_what_is_not_a_checkpoint(void **state)
{
    (void)state;
    assert_read_fails("nothing", -ENOENT, "nothing: No such file");
    write_file("file", "x", 1);
    assert_read_fails("file", -ENOTDIR, "file: is no directory");
    assert_int_equal(mkdir("empty", 0700), 0);
    assert_read_fails("empty", -ENOENT, "empty: no checkpoint in this directory");
    write_file("empty/readme", "x", 1);
    assert_read_fails("empty", -ENOENT, "empty: no checkpoint in this directory");
    static const char *const names[] = {"x.core",           ".core",  "0.core", "01.core",
                                        "99999999999.core", "1 .core"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[64];
        snprintf(path, sizeof path, "empty/%s", names[i]);
        write_file(path, "x", 1);
        assert_read_fails("empty", -EBADMSG, "not named after a PID");
        assert_int_equal(unlink(path), 0);
    }
    make_any_checkpoint("two");
    write_file("two/1235.core", "x", 1);
    assert_read_fails("two", -EBADMSG, "two: has more than one .core file");
    assert_int_equal(unlink("two/1235.core"), 0);
    assert_int_equal(rename("two/1234.core", "two/1235.core"), 0);
    assert_read_fails("two", -EBADMSG, "two/1235.core: section .reseat.process: is about process 1234");
}

static void test_too_long(void **state)
{
    (void)state;
    make_any_checkpoint("long");
    assert_int_equal(truncate("long/1234.core", (1LL << 30) + 1), 0);
    assert_read_fails("long", -EBADMSG, "bytes after the last section");
}

static void test_symbolic_links(void **state)
{
    (void)state;
    make_any_checkpoint("real");
    assert_int_equal(symlink("real", "link"), 0);
    static const char *const dirs[] = {"link", "link/", "./link//"};
    for (size_t i = 0; i < COUNT_OF(dirs); i++) {
        struct reseat_error *error = NULL;
        struct snapshot snapshot;
        int r = image_read(dirs[i], &snapshot, NULL, &error);
        assert_true(r == -ENOTDIR || r == -ELOOP);
        assert_error(r, r, &error, "link: is a symbolic link");
        r = image_remove(dirs[i], &error);
        assert_true(r == -ENOTDIR || r == -ELOOP);
        assert_error(r, r, &error, "link: is a symbolic link");
    }
    assert_int_equal(rename("real/1234.core", "elsewhere"), 0);
    assert_int_equal(symlink("../elsewhere", "real/1234.core"), 0);
    assert_read_fails("real", -ELOOP, "real/1234.core: is a symbolic link");
    struct reseat_error *error = NULL;
    assert_error(image_remove("real", &error), -ELOOP, &error, "not removed: is a symbolic link");
    assert_true(exists("elsewhere"));
}

static void test_no_regular_file(void **state)
{
    (void)state;
    assert_int_equal(mkdir("odd", 0700), 0);
    assert_int_equal(mkfifo("odd/1234.core", 0600), 0);
    alarm(10); /* a read(2) of it would wait for ever */
    assert_read_fails("odd", -EBADMSG, "odd/1234.core: is not a regular file");
    alarm(0);
    assert_int_equal(unlink("odd/1234.core"), 0);
    assert_int_equal(mkdir("odd/1234.core", 0700), 0);
    assert_read_fails("odd", -EBADMSG, "odd/1234.core: is not a regular file");
}

static void test_writable_by_others(void **state)
{
    (void)state;
    make_any_checkpoint("open");
    static const mode_t modes[] = {0620, 0602, 0666};
    for (size_t i = 0; i < COUNT_OF(modes); i++) {
        assert_int_equal(chmod("open/1234.core", modes[i]), 0);
        assert_read_fails("open", -EPERM, "open/1234.core: the file: others may write to it");
        assert_int_equal(chmod("open/1234.core", 0644), 0);
        assert_int_equal(chmod("open", modes[i] | 0100), 0);
        assert_read_fails("open", -EPERM, "open: others may write to it");
        assert_int_equal(chmod("open", 0755), 0);
    }
    _cleanup_snapshot_ struct snapshot after = {0};
    struct reseat_error *error = NULL;
    assert_success(image_read("open", &after, NULL, &error), &error);
}

static void test_owners(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    make_any_checkpoint("owned");
    assert_int_equal(chown("owned/1234.core", SOMEBODY, SOMEBODY), 0);
    assert_read_fails("owned", -EPERM, "owned/1234.core: belongs to user 12345, its directory to user 0");

    /* Root reads what belongs to anybody, and is told whose it is. */
    assert_int_equal(chown("owned", SOMEBODY, SOMEBODY), 0);
    struct reseat_error *error = NULL;
    uid_t owner = 0;
    {
        _cleanup_snapshot_ struct snapshot after = {0};
        assert_success(image_read("owned", &after, &owner, &error), &error);
        assert_int_equal(owner, SOMEBODY);
        /* What root replaces, stays theirs. */
        assert_success(image_replace("owned", &after, &error), &error);
    }
    struct stat status;
    assert_int_equal(stat("owned/1234.core", &status), 0);
    assert_int_equal(status.st_uid, SOMEBODY);
    assert_int_equal(status.st_gid, SOMEBODY);

    /* Others read their own and root's, but no third party's. */
    assert_int_equal(chmod(".", 0755), 0);
    assert_int_equal(chmod("owned", 0755), 0);
    assert_int_equal(chmod("owned/1234.core", 0644), 0);
    assert_int_equal(seteuid(SOMEBODY_TWO), 0);
    assert_read_fails("owned", -EPERM, "owned: belongs to user 12345, neither to you nor to root");
    assert_int_equal(seteuid(0), 0);
    static const uid_t trusted[] = {SOMEBODY_TWO, 0};
    for (size_t i = 0; i < COUNT_OF(trusted); i++) {
        _cleanup_snapshot_ struct snapshot after = {0};
        assert_int_equal(chown("owned", trusted[i], 0), 0);
        assert_int_equal(chown("owned/1234.core", trusted[i], 0), 0);
        assert_int_equal(seteuid(SOMEBODY_TWO), 0);
        assert_success(image_read("owned", &after, &owner, &error), &error);
        assert_int_equal(seteuid(0), 0);
        assert_int_equal(owner, trusted[i]);
    }
}

/* ---- tests: drafts ---- */

static void test_place_is_taken(void **state)
{
    (void)state;
    assert_int_equal(mkdir("dir", 0700), 0);
    write_file("file", "x", 1);
    assert_int_equal(symlink("nowhere", "dangling"), 0);
    static const char *const taken[] = {"dir", "dir/", "file", "dangling", ".", "..", "/", "dir/.", "dir/.."};
    for (size_t i = 0; i < COUNT_OF(taken); i++) {
        struct reseat_error *error = NULL;
        struct image_draft draft = {0};
        assert_error(image_draft_begin(taken[i], &draft, &error), -EEXIST, &error, "exists already");
    }
    struct reseat_error *error = NULL;
    struct image_draft draft = {0};
    assert_error(image_draft_begin("", &draft, &error), -EINVAL, &error, "empty");
    assert_error(image_draft_begin("no/where", &draft, &error), -ENOENT, &error,
                 "no/where: the directory that");
    assert_error(image_draft_begin("file/x", &draft, &error), -ENOTDIR, &error, "file/x");
    image_draft_end(&draft);
    assert_int_equal(count_entries("."), 3);
}

static void test_draft_is_dropped(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot;
    make_snapshot(&snapshot, 1);
    struct reseat_error *error = NULL;
    struct image_draft draft = {0};
    assert_success(image_draft_begin("dropped", &draft, &error), &error);
    assert_success(image_draft_write(&draft, &snapshot, &error), &error);
    assert_error(image_draft_write(&draft, &snapshot, &error), -EEXIST, &error, "1234.core: creating");
    assert_int_equal(strncmp(draft.temporary_name, ".dropped.reseat-", 16), 0);
    assert_int_equal(strlen(draft.temporary_name), 16 + 6);
    assert_int_equal(count_entries("."), 1);
    image_draft_end(&draft);
    assert_int_equal(count_entries("."), 0);
    image_draft_end(&draft); /* ended once more: nothing happens */
}

static void make_left_draft(const char *name, time_t age)
{
    char path[64];
    struct timespec times[2] = {{.tv_sec = time(NULL) - age}, {.tv_sec = time(NULL) - age}};
    assert_int_equal(mkdir(name, 0700), 0);
    snprintf(path, sizeof path, "%s/1.core", name);
    write_file(path, "x", 1);
    assert_int_equal(utimensat(AT_FDCWD, name, times, 0), 0);
}

/* Of a maker that was killed; others' names, one being made, and a young one stay. */
static void test_left_drafts_go(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    struct timespec times[2] = {{.tv_sec = 1}, {.tv_sec = 1}};
    _cleanup_draft_ struct image_draft making = {0}, draft = {0};
    assert_success(image_draft_begin("left", &making, &error), &error);
    assert_int_equal(utimensat(AT_FDCWD, making.temporary_name, times, 0), 0);
    make_left_draft(".left.reseat-aBc123", 60);
    make_left_draft(".left.reseat-aBc124", 0);
    make_left_draft(".left.reseat-aBc12", 60);
    make_left_draft(".lefty.reseat-aBc123", 60);
    make_left_draft("left.reseat-aBc123", 60);
    assert_success(image_draft_begin("left", &draft, &error), &error);
    assert_int_equal(access(".left.reseat-aBc123", F_OK), -1);
    assert_int_equal(count_entries("."), 6);
    int dir_fd = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    image_remove_left_drafts(dir_fd, NULL);
    close(dir_fd);
    assert_int_equal(access(".lefty.reseat-aBc123", F_OK), -1);
    assert_int_equal(count_entries("."), 5);
}

static void test_place_is_taken_meanwhile(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    {
        _cleanup_snapshot_ struct snapshot snapshot;
        make_snapshot(&snapshot, 1);
        _cleanup_draft_ struct image_draft draft = {0};
        assert_success(image_draft_begin("race", &draft, &error), &error);
        assert_success(image_draft_write(&draft, &snapshot, &error), &error);
        assert_int_equal(mkdir("race", 0755), 0);
        assert_error(image_draft_publish(&draft, &error), -EEXIST, &error, "race: somebody else has made it");
    }
    assert_int_equal(count_entries("."), 1);
    assert_int_equal(count_entries("race"), 0);
    struct stat status;
    assert_int_equal(stat("race", &status), 0);
    assert_int_equal(status.st_mode & 0777, 0755);
}

/* For filesystems without RENAME_NOREPLACE. */
static void test_rename_reserving(void **state)
{
    (void)state;
    assert_int_equal(mkdir("from", 0700), 0);
    write_file("from/x", "x", 1);
    assert_int_equal(mkdir("taken", 0700), 0);
    assert_int_equal(directory_rename_reserving(AT_FDCWD, "from", "taken"), -EEXIST);
    assert_int_equal(directory_rename_reserving(AT_FDCWD, "missing", "to"), -ENOENT);
    assert_false(exists("to"));
    assert_int_equal(directory_rename_reserving(AT_FDCWD, "from", "to"), 0);
    assert_true(exists("to/x"));
    assert_false(exists("from"));
}

/* Runs in a process of its own, on a filesystem of 64 KiB that nobody else sees. */
static int fill_small_filesystem(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", work_dir, "tmpfs", 0, "size=64k") < 0 || chdir(work_dir) < 0)
        return 77;
    static uint8_t much[256 << 10];
    struct snapshot snapshot;
    make_snapshot(&snapshot, 1);
    snapshot_add_blob(&snapshot, much, sizeof much, &(uint64_t){0});
    struct reseat_error *error = NULL;
    struct image_draft draft = {0};
    if (image_draft_begin("full", &draft, &error) < 0)
        return 1;
    if (image_draft_write(&draft, &snapshot, &error) != -ENOSPC)
        return 2;
    if (!strstr(error->message, "full/1234.core: writing: No space left on device"))
        return 3;
    if (exists("full") || faccessat(draft.dir_fd, "1234.core", F_OK, 0) == 0)
        return 4;
    image_draft_end(&draft);
    snapshot_free(&snapshot);
    base_error_free(&error);
    DIR *stream = opendir(".");
    return directory_next_entry(stream) ? 5 : 0;
}

static void test_no_space(void **state)
{
    (void)state;
    int status;
    pid_t child = fork();
    if (child == 0)
        _exit(fill_small_filesystem());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A limit that lets the first part through: the rest is not written, and nothing stays. */
static void test_partly_written(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot snapshot;
    make_snapshot(&snapshot, 10);
    struct reseat_error *error = NULL;
    make_checkpoint("limited", &snapshot);
    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){3000, before.rlim_max}), 0);
    int r = image_replace("limited", &snapshot, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_error(r, -EFBIG, &error, "writing: File too large");
    assert_int_equal(count_entries("limited"), 1);
    _cleanup_snapshot_ struct snapshot after = {0};
    assert_success(image_read("limited", &after, NULL, &error), &error);
    assert_same_snapshot(&snapshot, &after);
}

/* ---- tests: replacing and removing ---- */

static void test_replace(void **state)
{
    (void)state;
    _cleanup_snapshot_ struct snapshot first, second, after = {0};
    make_snapshot(&first, 3);
    make_snapshot(&second, 4);
    make_checkpoint("kept", &first);
    struct reseat_error *error = NULL;
    assert_success(image_replace("kept", &second, &error), &error);
    assert_int_equal(count_entries("kept"), 1);
    assert_success(image_read("kept", &after, NULL, &error), &error);
    assert_same_snapshot(&second, &after);

    second.process.pid = second.threads[0].tid = 7;
    assert_error(image_replace("kept", &second, &error), -EINVAL, &error,
                 "kept/1234.core: cannot be replaced by a checkpoint of process 7");
    second.process.pid = second.threads[0].tid = PID;
    second.process.form = 0;
    assert_error(image_replace("kept", &second, &error), -EBADMSG, &error, "0 is no form of a twin");
    assert_int_equal(count_entries("kept"), 1);
    assert_error(image_replace("missing", &first, &error), -ENOENT, &error, "missing");
}

static void test_remove(void **state)
{
    (void)state;
    struct reseat_error *error = NULL;
    assert_error(image_remove("missing", &error), -ENOENT, &error, "missing");
    make_any_checkpoint("gone");
    write_file("gone/.1234.core.reseat-aZ09-_", "x", 1); /* from an image_replace() that was killed */
    assert_success(image_remove("gone/", &error), &error);
    assert_int_equal(count_entries("."), 0);
}

static void test_remove_leaves_what_is_not_ours(void **state)
{
    (void)state;
    static const char *const foreign[] = {"notes", "1234.core.reseat-abcdef", ".x.core.reseat-abcdef",
                                          ".1234.core.reseat-abcdefg", ".reseat-abcdef"};
    for (size_t i = 0; i < COUNT_OF(foreign); i++) {
        char path[64];
        struct reseat_error *error = NULL;
        make_any_checkpoint("mixed");
        snprintf(path, sizeof path, "mixed/%s", foreign[i]);
        write_file(path, "x", 1);
        assert_error(image_remove("mixed", &error), -ENOTEMPTY, &error, foreign[i]);
        assert_int_equal(count_entries("mixed"), 1);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(rmdir("mixed"), 0);
    }
}

static void test_remove_leaves_a_core_dump(void **state)
{
    (void)state;
    Elf64_Ehdr dump = {.e_ident = ELFMAG "\2\1\1", .e_type = ET_CORE, .e_machine = CORE_MACHINE};
    dump.e_version = EV_CURRENT;
    dump.e_phnum = 1;
    assert_int_equal(mkdir("dumps", 0700), 0);
    write_file("dumps/1234.core", &dump, sizeof dump);
    struct reseat_error *error = NULL;
    assert_error(image_remove("dumps", &error), -EBADMSG, &error, "dumps/1234.core: not removed");
    assert_true(exists("dumps/1234.core"));
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, make_work_dir, remove_work_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_modes_and_paths),
        TEST(test_long_name),
        TEST(test_readelf),
        TEST(test_fields),
        TEST(test_short_writes),
        TEST(test_every_truncation),
        TEST(test_every_flipped_bit),
        TEST(test_damage_is_located),
        TEST(test_hostile_structures),
        TEST(test_no_memory_for_tiny_rows),
        TEST(test_bytes_after_the_end),
        TEST(test_longer_rows),
        TEST(test_shorter_rows),
        TEST(test_unknown_and_missing_sections),
        TEST(test_hostile_meanings),
        TEST(test_what_is_not_a_checkpoint),
        TEST(test_too_long),
        TEST(test_symbolic_links),
        TEST(test_no_regular_file),
        TEST(test_writable_by_others),
        TEST(test_owners),
        TEST(test_place_is_taken),
        TEST(test_draft_is_dropped),
        TEST(test_left_drafts_go),
        TEST(test_place_is_taken_meanwhile),
        TEST(test_rename_reserving),
        TEST(test_no_space),
        TEST(test_partly_written),
        TEST(test_replace),
        TEST(test_remove),
        TEST(test_remove_leaves_what_is_not_ours),
        TEST(test_remove_leaves_a_core_dump),
    };
    srandom(1); /* the same rows in every run */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
