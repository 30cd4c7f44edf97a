/* The part of every subject program that is the same: `PROGRAM --list` prints its table for the runner,
 * `PROGRAM NAME` is the subject, `PROGRAM --peer NAME` its peer. The outcome is one line on standard output:
 * "ok", "FAIL: …" or "skip: …". The environment says at which descriptors the go pipe (SUBJECT_GO) and the
 * peer's socket (SUBJECT_PEER) are. With SUBJECT_SABOTAGE=fork a plain fork goes on instead of the process
 * itself: a subject that does not notice checks nothing that a fork would not keep. */
#include "subject.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#define TEXT_BYTES (4 << 20)

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    char line[2048];
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2)
        length = (int)sizeof line - 2;
    line[length++] = '\n';
    if (write(STDOUT_FILENO, line, (size_t)length) < 0)
        _exit(1);
}

void fail(const char *file, int line, const char *format, ...)
{
    char reason[1500];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    const char *name = strrchr(file, '/');
    say("FAIL: %s:%d: %s", name ? name + 1 : file, line, reason);
    _exit(1);
}

void skip(const char *reason)
{
    say("skip: %s", reason);
    _exit(77);
}

void need_linux(int major, int minor, const char *reason)
{
    struct utsname name;
    int ours = 0, ours_minor = 0;

    MUST(uname(&name));
    sscanf(name.release, "%d.%d", &ours, &ours_minor);
    if (ours < major || (ours == major && ours_minor < minor))
        skip(reason);
}

static void go_on_as_a_fork(void)
{
    pid_t child = MUST(fork());
    int status;

    if (child == 0)
        return;
    MUST(waitpid(child, &status, 0));
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

void be_checkpointed(void)
{
    char byte;

    say("ready");
    /* A read that is interrupted by anything but a signal handler of ours would be Reseat's doing. */
    ssize_t n = read(GO, &byte, 1);
    if (n < 0)
        fail(__FILE__, __LINE__, "reading the go pipe: %s", strerror(errno));
    if (n == 0)
        fail(__FILE__, __LINE__, "the go pipe was closed");
    const char *sabotage = getenv("SUBJECT_SABOTAGE");
    if (sabotage && strcmp(sabotage, "fork") == 0)
        go_on_as_a_fork();
}

/* ---- looking at oneself ---- */

char *text_of(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;

    if (fd < 0)
        fail(__FILE__, __LINE__, "opening %s: %s", path, strerror(errno));
    char *text = malloc(TEXT_BYTES);
    CHECK(text != NULL);
    for (;;) {
        ssize_t n = read(fd, text + length, TEXT_BYTES - 1 - length);
        if (n < 0)
            fail(__FILE__, __LINE__, "reading %s: %s", path, strerror(errno));
        if (n == 0)
            break;
        length += (size_t)n;
    }
    close(fd);
    text[length] = '\0';
    return text;
}

char *value_in(const char *path, const char *name)
{
    size_t length = strlen(name);

    for (char *line = text_of(path); line; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, length) != 0 || line[length] != ':')
            continue;
        char *value = line + length + 1;
        value += strspn(value, " \t");
        value[strcspn(value, "\n")] = '\0';
        return value;
    }
    return strdup("");
}

char *link_of(const char *path)
{
    char *target = calloc(1, 4096);

    CHECK(target != NULL);
    if (readlink(path, target, 4095) < 0)
        fail(__FILE__, __LINE__, "reading the link %s: %s", path, strerror(errno));
    return target;
}

char *region_flags(const void *address)
{
    uintptr_t start, end;
    bool inside = false;

    for (char *line = text_of("/proc/self/smaps"), *next; line; line = next) {
        if ((next = strchr(line, '\n')))
            *next++ = '\0';
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            return line + 8;
    }
    fail(__FILE__, __LINE__, "no region at %p", address);
}

bool region_has_flag(const void *address, const char *flag)
{
    char word[8];

    snprintf(word, sizeof word, " %s ", flag);
    return strstr(region_flags(address), word) != NULL;
}

/* ---- memory ---- */

void *map_anonymous(size_t length)
{
    return MUST(mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static uint64_t mix(uint64_t seed, uint64_t position)
{
    uint64_t value = (seed + 1) * 0x9e3779b97f4a7c15 + position;

    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
    return value ^ (value >> 27);
}

void fill(void *memory, size_t length, uint64_t seed)
{
    uint64_t *words = memory;

    for (size_t i = 0; i < length / sizeof *words; i++)
        words[i] = mix(seed, i);
}

bool is_filled(const void *memory, size_t length, uint64_t seed)
{
    const uint64_t *words = memory;

    for (size_t i = 0; i < length / sizeof *words; i++)
        if (words[i] != mix(seed, i))
            return false;
    return true;
}

static sigjmp_buf after_fault;

static void leave_fault(int number)
{
    (void)number;
    siglongjmp(after_fault, 1);
}

bool reading_faults(const volatile void *address)
{
    struct sigaction on_fault = {.sa_handler = leave_fault}, before;
    volatile bool faulted = true;

    MUST(sigaction(SIGSEGV, &on_fault, &before));
    if (sigsetjmp(after_fault, 1) == 0) {
        (void)*(const volatile char *)address;
        faulted = false;
    }
    MUST(sigaction(SIGSEGV, &before, NULL));
    return faulted;
}

/* ---- threads and time ---- */

pthread_t start_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;

    errno = pthread_create(&thread, NULL, function, argument);
    if (errno)
        fail(__FILE__, __LINE__, "starting a thread: %s", strerror(errno));
    return thread;
}

int thread_id(void)
{
    return (int)syscall(SYS_gettid);
}

void wait_until_blocked(int tid, long system_call)
{
    char path[64];
    long number;

    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", tid);
    for (int tries = 0; tries < 10000; tries++) {
        char *text = text_of(path);
        bool blocked = sscanf(text, "%ld ", &number) == 1 && number == system_call;
        free(text);
        if (blocked)
            return;
        sleep_ms(1);
    }
    fail(__FILE__, __LINE__, "thread %d does not come to block in system call %ld", tid, system_call);
}

uint64_t time_ns(clockid_t clock)
{
    struct timespec now;

    MUST(clock_gettime(clock, &now));
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

void sleep_ms(unsigned milliseconds)
{
    struct timespec rest = {milliseconds / 1000, (long)(milliseconds % 1000) * 1000000};

    while (nanosleep(&rest, &rest) < 0 && errno == EINTR)
        ;
}

void become_child_of(void (*prepare)(void))
{
    prepare();
    if (MUST(fork()) == 0)
        return;
    close(GO);
    for (;;)
        if (wait(NULL) < 0)
            sleep_ms(5);
}

/* ---- to the peer and back ---- */

void send_number(int64_t number)
{
    CHECK_EQUAL(send(PEER, &number, sizeof number, MSG_NOSIGNAL), sizeof number);
}

int64_t receive_number(void)
{
    int64_t number;
    ssize_t n;

    while ((n = recv(PEER, &number, sizeof number, MSG_WAITALL)) < 0 && errno == EINTR)
        ;
    CHECK_EQUAL(n, sizeof number);
    return number;
}

union descriptor_message {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

void send_descriptor(int fd)
{
    char byte = 'd';
    struct iovec data = {&byte, 1};
    union descriptor_message control = {0};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};

    control.header = (struct cmsghdr){CMSG_LEN(sizeof fd), SOL_SOCKET, SCM_RIGHTS};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    MUST(sendmsg(PEER, &message, MSG_NOSIGNAL));
}

int receive_descriptor(void)
{
    char byte;
    int fd;
    struct iovec data = {&byte, 1};
    union descriptor_message control = {0};
    struct msghdr message = {.msg_iov = &data,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof control};

    CHECK_EQUAL(MUST(recvmsg(PEER, &message, MSG_CMSG_CLOEXEC)), 1);
    CHECK_EQUAL(control.header.cmsg_type, SCM_RIGHTS);
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

/* ---- main ---- */

static void list(void)
{
    for (const struct subject *s = subjects; s->name; s++)
        printf("%s\t%s%s%s%s%s%s\t%s\t%s\t%s\n", s->name, s->peer ? "peer " : "",
               s->new_pid ? "new-pid " : "", s->root ? "root " : "", s->below ? "below " : "",
               s->alone ? "alone " : "", s->stopped ? "stopped " : "", s->skip ? s->skip : "",
               s->refused ? s->refused : "", s->fails ? s->fails : "");
}

static const struct subject *find(const char *name)
{
    for (const struct subject *s = subjects; s->name; s++)
        if (strcmp(s->name, name) == 0)
            return s;
    fprintf(stderr, "there is no subject %s\n", name);
    exit(2);
}

/* Moves a descriptor that the environment names to its place. */
static void place(const char *variable, int selector)
{
    const char *value = getenv(variable);

    if (!value)
        return;
    int fd = atoi(value);
    if (fd != selector) {
        MUST(dup2(fd, selector));
        close(fd);
    }
    unsetenv(variable);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list();
        return 0;
    }
    if (argc < 2) {
        fprintf(stderr, "usage: %s --list | NAME | --peer NAME\n", argv[0]);
        return 2;
    }
    bool is_peer = strcmp(argv[1], "--peer") == 0 && argc == 3;
    const struct subject *subject = find(argv[is_peer ? 2 : 1]);

    place("SUBJECT_PEER", PEER);
    if (is_peer) {
        subject->peer();
        return 0;
    }
    place("SUBJECT_GO", GO);
    subject->run();
    say("ok");
    return 0;
}
