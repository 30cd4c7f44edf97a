/* Files and what hangs on their objects: positions, flags, contents that no name leads to, locks, leases,
 * owners of signals. Most of it belongs to the object; a record lock belongs to the descriptor table
 * (fcntl_locking(2)): with an heir it is held all the time, with a copy it has to be taken again. */
#include "subject.h"

#include <dirent.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>

static int new_file(void)
{
    return MUST(open(".", O_TMPFILE | O_RDWR, 0600));
}

/* The same file once more, as another object. */
static int open_again(int fd, int flags)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return MUST(open(path, flags));
}

/* ---- positions and flags ---- */

static void positions(void)
{
    int fd = new_file();

    CHECK_EQUAL(write(fd, "0123456789", 10), 10);
    int other = open_again(fd, O_RDONLY);
    MUST(lseek(fd, 3, SEEK_SET));
    MUST(lseek(other, 8, SEEK_SET));
    be_checkpointed();
    char found[3] = "";
    CHECK_EQUAL(read(fd, found, 2), 2);
    CHECK_TEXT(found, "34");
    CHECK_EQUAL(read(other, found, 2), 2);
    CHECK_TEXT(found, "89");
}

static void status_flags(void)
{
    int fd = new_file(), other = open_again(fd, O_RDWR | O_APPEND);

    MUST(fcntl(fd, F_SETFL, O_NONBLOCK | O_NOATIME));
    be_checkpointed();
    CHECK_EQUAL(fcntl(fd, F_GETFL) & (O_NONBLOCK | O_APPEND | O_NOATIME), O_NONBLOCK | O_NOATIME);
    CHECK_EQUAL(fcntl(other, F_GETFL) & (O_NONBLOCK | O_APPEND), O_APPEND);
    MUST(fcntl(fd, F_SETFL, O_APPEND)); /* in the copy modes, the next one must not find this */
}

static void deleted_file(void)
{
    char name[64];

    snprintf(name, sizeof name, "deleted-%d", getpid());
    int fd = MUST(open(name, O_CREAT | O_RDWR, 0600));
    CHECK_EQUAL(write(fd, "content", 7), 7);
    MUST(unlink(name));
    be_checkpointed();
    char found[8] = "";
    CHECK_EQUAL(pread(fd, found, 7, 0), 7);
    CHECK_TEXT(found, "content");
    struct stat seen;
    MUST(fstat(fd, &seen));
    CHECK_EQUAL(seen.st_nlink, 0);
}

/* Mostly holes: what is in it is far out, and ends within a page. A part of it is mapped. */
static void large_deleted_file(void)
{
    static const off_t size = (5LL << 30) + 100, window = 4LL << 30;
    int fd = new_file(), reading = open_again(fd, O_RDONLY);
    char found[8] = "";

    MUST(ftruncate(fd, size));
    CHECK_EQUAL(pwrite(fd, "begin", 5, 0), 5);
    CHECK_EQUAL(pwrite(fd, "end", 3, size - 3), 3);
    char *shared = MUST(mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, window));
    fill(shared + 4096, 100000, 7);
    be_checkpointed();
    struct stat seen;
    MUST(fstat(reading, &seen));
    CHECK_EQUAL(seen.st_size, size);
    CHECK(seen.st_blocks < (4 << 20) / 512);
    CHECK_EQUAL(pread(reading, found, 5, 0), 5);
    CHECK_TEXT(found, "begin");
    CHECK_EQUAL(pread(fd, found, 8, size - 3), 3);
    CHECK(memcmp(found, "end", 3) == 0);
    CHECK(shared[0] == 0 && is_filled(shared + 4096, 100000, 7) && shared[(1 << 20) - 1] == 0);
    shared[0] = 'x';
    CHECK_EQUAL(pread(reading, found, 1, window), 1);
    CHECK_EQUAL(found[0], 'x');
    shared[0] = 0;
}

static void directory_half_read(void)
{
    DIR *directory = opendir("/usr/bin");
    int before = 0, after = 0;

    CHECK(directory != NULL);
    while (readdir(directory))
        before++;
    rewinddir(directory);
    for (int i = 0; i < 10; i++, after++)
        CHECK(readdir(directory) != NULL);
    be_checkpointed();
    while (readdir(directory))
        after++;
    CHECK_EQUAL(after, before);
}

static void sealed_memory(void)
{
    int fd = MUST(memfd_create("sealed", MFD_ALLOW_SEALING));

    CHECK_EQUAL(write(fd, "wax", 3), 3);
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE));
    be_checkpointed();
    CHECK_EQUAL(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    CHECK(pwrite(fd, "x", 1, 0) < 0 && errno == EPERM);
}

/* ---- pipes ---- */

static void check_pipe(int from, int to, const char *content)
{
    char found[4096] = "";
    size_t length = strlen(content);

    CHECK_EQUAL(read(from, found, sizeof found - 1), length);
    CHECK_TEXT(found, content);
    CHECK_EQUAL(write(to, content, length), length);
}

static void pipe_with_data(void)
{
    int ends[2];

    MUST(pipe(ends));
    MUST(fcntl(ends[0], F_SETPIPE_SZ, 1 << 16));
    CHECK_EQUAL(write(ends[1], "queued", 6), 6);
    be_checkpointed();
    CHECK_EQUAL(fcntl(ends[1], F_GETPIPE_SZ), 1 << 16);
    check_pipe(ends[0], ends[1], "queued");
    MUST(fcntl(ends[0], F_SETFL, O_NONBLOCK));
    check_pipe(ends[0], ends[1], "queued");
}

static void pipe_whose_writer_is_gone(void)
{
    int ends[2];
    char byte;

    MUST(pipe(ends));
    close(ends[1]);
    be_checkpointed();
    CHECK_EQUAL(read(ends[0], &byte, 1), 0);
}

static void fifo(void)
{
    char name[64];

    snprintf(name, sizeof name, "fifo-%d", getpid());
    MUST(mkfifo(name, 0600));
    int both = MUST(open(name, O_RDWR)), reader = MUST(open(name, O_RDONLY));
    CHECK_EQUAL(write(both, "in a fifo", 9), 9);
    be_checkpointed();
    check_pipe(reader, both, "in a fifo");
}

/* ---- locks that belong to an object ---- */

static short ofd_lock_seen_by(int fd)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 5};

    MUST(fcntl(fd, F_OFD_GETLK, &lock));
    return lock.l_type;
}

/* Who holds a lock by flock on it, as the kernel knows. */
static int flock_holder(int fd)
{
    char path[64];
    int holder = -1;

    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    char *line = strstr(text_of(path), "FLOCK");
    CHECK(line && sscanf(line, "FLOCK ADVISORY %*s %d", &holder) == 1);
    return holder;
}

static void whole_file_lock(void)
{
    int fd = new_file(), other = open_again(fd, O_RDWR);

    MUST(flock(fd, LOCK_EX));
    CHECK_EQUAL(flock_holder(fd), getpid());
    be_checkpointed();
    if (getenv("SUBJECT_NEW_OBJECTS"))
        CHECK_EQUAL(flock_holder(fd), getpid());
    CHECK(flock(other, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK);
    MUST(flock(fd, LOCK_UN));
    CHECK_EQUAL(flock(other, LOCK_EX | LOCK_NB), 0);
    MUST(flock(other, LOCK_UN));
    MUST(flock(fd, LOCK_EX));
}

static void object_lock(void)
{
    int fd = new_file(), other = open_again(fd, O_RDWR);

    MUST(fcntl(fd, F_OFD_SETLK,
               &(struct flock){.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 3}));
    be_checkpointed();
    CHECK_EQUAL(ofd_lock_seen_by(other), F_RDLCK);
    CHECK_EQUAL(ofd_lock_seen_by(fd), F_UNLCK);
}

/* ---- record locks, and another process that wants them all the time ---- */

static void lock_record(int fd, short type, off_t start, off_t length)
{
    MUST(fcntl(fd, F_SETLK,
               &(struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length}));
}

static void never_lose_record_lock(void)
{
    int fd = new_file();

    lock_record(fd, F_WRLCK, 0, 100);
    send_descriptor(fd);
    receive_number();
    sleep_ms(5);
    be_checkpointed();
    sleep_ms(20);
}

static void want_record_lock(void)
{
    int fd = receive_descriptor();
    struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 50, .l_len = 1};
    pid_t holder = 0;

    for (send_number(0);;) {
        struct flock seen = lock;
        MUST(fcntl(fd, F_GETLK, &seen));
        holder = seen.l_type == F_UNLCK ? 0 : seen.l_pid;
        if (fcntl(fd, F_SETLK, &lock) < 0)
            continue;
        /* Got it: fair, if the subject has ended, and that it has done so the closed socket says. */
        char byte;
        for (int i = 0; i < 200; i++, sleep_ms(1))
            if (recv(PEER, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
                exit(0);
        fail(__FILE__, __LINE__, "got the lock that process %d held", holder);
    }
}

/* Asked by another process: which of these ranges are locked, and how. */
static const struct {
    short type;
    off_t start, length;
} ranges[] = {{F_WRLCK, 0, 10}, {F_RDLCK, 20, 5}, {F_WRLCK, 1000, 1}, {F_RDLCK, 5000, 0}};
enum { RANGES = sizeof ranges / sizeof *ranges };

static void ask_for_ranges(void)
{
    int fd = receive_descriptor();

    for (;;) {
        receive_number();
        for (int i = 0; i < RANGES; i++) {
            struct flock lock = {.l_type = F_WRLCK,
                                 .l_whence = SEEK_SET,
                                 .l_start = ranges[i].start,
                                 .l_len = 1};
            MUST(fcntl(fd, F_GETLK, &lock));
            send_number(lock.l_type), send_number(lock.l_pid), send_number(lock.l_start),
                send_number(lock.l_len);
        }
    }
}

static void record_locks(void)
{
    int fd = new_file();

    for (int i = 0; i < RANGES; i++)
        lock_record(fd, ranges[i].type, ranges[i].start, ranges[i].length);
    send_descriptor(fd);
    be_checkpointed();
    send_number(0);
    for (int i = 0; i < RANGES; i++) {
        CHECK_EQUAL(receive_number(), ranges[i].type);
        /* The kernel notes the number of who took it in the outermost PID namespace. Where we are in one
         * below, it cannot be the same after a restore, and nobody is named. */
        int64_t holder = receive_number();
        CHECK(holder == getpid() || holder == 0);
        CHECK_EQUAL(receive_number(), ranges[i].start);
        CHECK_EQUAL(receive_number(), ranges[i].length);
    }
}

/* ---- leases and signals of objects ---- */

static volatile sig_atomic_t signalled, signalled_fd;

static void note(int number, siginfo_t *info, void *context)
{
    (void)context;
    signalled_fd = info->si_fd;
    signalled = number;
}

static void on(int number)
{
    MUST(sigaction(number, &(struct sigaction){.sa_sigaction = note, .sa_flags = SA_SIGINFO | SA_RESTART},
                   NULL));
}

static void wait_signalled(int number, int fd)
{
    for (int i = 0; i < 2000 && signalled != number; i++)
        sleep_ms(1);
    CHECK_EQUAL(signalled, number);
    CHECK_EQUAL(signalled_fd, fd);
    signalled = 0;
}

/* The lease is there, and its holder is told when the file is opened by somebody who may not. */
static void lease(void)
{
    char name[64];

    snprintf(name, sizeof name, "leased-%d", getpid());
    close(MUST(open(name, O_CREAT | O_RDWR, 0600)));
    int fd = MUST(open(name, O_RDONLY));
    on(SIGRTMIN + 4);
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 4));
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
        skip("no leases on this file system");
    be_checkpointed();
    CHECK_EQUAL(fcntl(fd, F_GETLEASE), F_RDLCK);
    CHECK(open(name, O_WRONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
    wait_signalled(SIGRTMIN + 4, fd);
    MUST(fcntl(fd, F_SETLEASE, F_UNLCK));
    close(MUST(open(name, O_WRONLY | O_NONBLOCK)));
    MUST(fcntl(fd, F_SETLEASE, F_RDLCK));
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 4)); /* which F_UNLCK has cleared */
}

/* It is being broken: somebody wants to open the file, and the holder has not done anything yet. */
static void broken_lease(void)
{
    char name[64];

    snprintf(name, sizeof name, "broken-%d", getpid());
    int fd = MUST(open(name, O_CREAT | O_RDWR, 0600));
    on(SIGRTMIN + 4);
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 4));
    if (fcntl(fd, F_SETLEASE, F_WRLCK) < 0)
        skip("no leases on this file system");
    CHECK(open(name, O_RDONLY | O_NONBLOCK) < 0 && errno == EWOULDBLOCK);
    wait_signalled(SIGRTMIN + 4, fd);
    be_checkpointed();
    CHECK_EQUAL(signalled, 0);
    CHECK_EQUAL(fcntl(fd, F_GETLEASE), F_RDLCK);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    CHECK(strstr(text_of(path), "BREAKING"));
}

static void told_of_input(void)
{
    int ends[2];
    char byte;

    MUST(pipe(ends));
    on(SIGRTMIN + 5);
    MUST(fcntl(ends[0], F_SETOWN, getpid()));
    MUST(fcntl(ends[0], F_SETSIG, SIGRTMIN + 5));
    MUST(fcntl(ends[0], F_SETFL, O_ASYNC));
    be_checkpointed();
    CHECK_EQUAL(fcntl(ends[0], F_GETOWN), getpid());
    CHECK_EQUAL(fcntl(ends[0], F_GETSIG), SIGRTMIN + 5);
    CHECK_EQUAL(write(ends[1], "x", 1), 1);
    wait_signalled(SIGRTMIN + 5, ends[0]);
    CHECK_EQUAL(read(ends[0], &byte, 1), 1);
}

static volatile sig_atomic_t signalled_thread;

static void note_thread(int number)
{
    signalled_thread = thread_id();
    signalled = number;
}

static void *sleep_on(void *argument)
{
    *(volatile int *)argument = thread_id();
    sleep_ms(3600000);
    return argument;
}

static void one_thread_is_told_of_input(void)
{
    int ends[2];
    volatile int tid = 0;
    char byte;
    struct f_owner_ex owner = {.type = F_OWNER_TID}, found;

    MUST(pipe(ends));
    MUST(sigaction(SIGRTMIN + 6, &(struct sigaction){.sa_handler = note_thread, .sa_flags = SA_RESTART},
                   NULL));
    start_thread(sleep_on, (void *)&tid);
    while (!tid)
        sleep_ms(1);
    owner.pid = tid;
    MUST(fcntl(ends[0], F_SETOWN_EX, &owner));
    MUST(fcntl(ends[0], F_SETSIG, SIGRTMIN + 6));
    MUST(fcntl(ends[0], F_SETFL, O_ASYNC));
    be_checkpointed();
    MUST(fcntl(ends[0], F_GETOWN_EX, &found));
    CHECK(found.type == F_OWNER_TID && found.pid == tid);
    CHECK_EQUAL(write(ends[1], "x", 1), 1);
    for (int i = 0; i < 2000 && !signalled; i++)
        sleep_ms(1);
    CHECK_EQUAL(signalled, SIGRTMIN + 6);
    CHECK_EQUAL(signalled_thread, tid);
    CHECK_EQUAL(read(ends[0], &byte, 1), 1);
}

const struct subject subjects[] = {
    {"positions", positions},
    {"status-flags", status_flags},
    {"deleted-file", deleted_file, .new_pid = true},
    {"deleted-file-large", large_deleted_file},
    {"directory-half-read", directory_half_read},
    {"sealed-memory", sealed_memory, .new_pid = true},
    {"pipe-with-data", pipe_with_data},
    {"pipe-without-writer", pipe_whose_writer_is_gone},
    {"fifo", fifo},
    {"flock", whole_file_lock, .new_pid = true},
    {"ofd-lock", object_lock, .new_pid = true},
    {"record-lock-never-lost", never_lose_record_lock, want_record_lock,
     .skip = "copy,keep: between the end of one process and the restore of its copy nobody holds it; held: "
             "one table lets go of it before the other takes it",
     .refused = "cold: has it, too"},
    {"record-locks", record_locks, ask_for_ranges, .refused = "cold: has it, too"},
    {"lease", lease},
    {"broken-lease", broken_lease},
    {"told-of-input", told_of_input},
    {"one-thread-is-told", one_thread_is_told_of_input},
    {0},
};
