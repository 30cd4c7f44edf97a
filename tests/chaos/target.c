/* What Reseat is killed over: a program that knows from the inside whether anything has happened to it.
 *
 *   target counting | threads | handlers | filtered | parent IN OUT
 *
 * Whenever it reads a line it answers with one: "COUNT ok unavoidable=N", or what is not as it was in the
 * place of "ok". COUNT only grows. What it looks at: its numbers and family, descriptors, signal mask,
 * handlers, pending signals, alternate stack, robust list and tid address, timers, a pattern in memory; that
 * no system call was interrupted for no reason and no sleep was too short. `threads` has, besides the leader
 * that polls, threads
 *  - that spins with a pattern in all general and SSE registers and in the red zone of its stack,
 *  - that holds a robust mutex for ever and waits in read(2); another that sees that it is held, not "owner
 * died",
 *  - that sleeps in nanosleep(2); that waits in pause(2) for the leader's signals; that waits on a condition;
 *  - that waits in epoll_wait(2): to be stopped is enough for that to say EINTR (signal(7)), which is
 * unavoidable; and the leader makes and joins short-lived threads.
 *
 * `handlers` has handlers for signals that nobody sends it: one that Reseat sends may come if nobody is there
 * any more to take it (unavoidable), but never to the twin. `filtered` has a seccomp filter that refuses,
 * with an error, what Reseat needs and the program does not. `parent` starts a `counting` one with the
 * descriptors IN and OUT as standard input and output, and waits for that child and no other, as many
 * programs do. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PATTERN_WORDS  65536
#define SELECTORS_SEEN 128
#define POLL_MS        2
#define SLEEP_NS       3000000
#define TICK_NS        5000000
#define SPIN_ROUNDS    20000      /* about a millisecond */
#define QUIET_NS       2000000000 /* a thread that does nothing for so long is stuck */
#define TICK_SIGNAL    (SIGRTMIN + 1)
#define PAUSE_SIGNAL   SIGUSR1

/* ---- complaints ---- */

static pthread_mutex_t complaint_lock = PTHREAD_MUTEX_INITIALIZER;
static char complaints[4096];

static void __attribute__((format(printf, 1, 2))) complain(const char *format, ...)
{
    pthread_mutex_lock(&complaint_lock);
    size_t length = strlen(complaints);
    if (length < sizeof complaints - 200) {
        length += (size_t)snprintf(complaints + length, 8, "; ");
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(complaints + length, 190, format, arguments);
        va_end(arguments);
    }
    pthread_mutex_unlock(&complaint_lock);
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000U + (uint64_t)now.tv_nsec;
}

/* Called after every system call that waits. */
static void check_wait(const char *name, long result)
{
    if (result < 0)
        complain("%s: %s", name, strerror(errno));
}

/* ---- what stays as it is ---- */

/* All that the program can be asked about itself, as plain bytes to be compared. */
struct self {
    pid_t pid, parent, group, session;
    uint64_t mask, pending;
    uint64_t robust_list, tid_address;
    uint64_t stack_address, stack_length;
    uint64_t handlers[65];
    int selectors[SELECTORS_SEEN]; /* descriptor flags, or -1 */
    uint64_t timer_interval_ns;
    char name[16];
};

static timer_t ticks_timer;
static bool has_timer;

static void look_at_self(struct self *self)
{
    memset(self, 0, sizeof *self);
    self->pid = getpid();
    self->parent = getppid();
    self->group = getpgrp();
    self->session = getsid(0);
    syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &self->mask, sizeof self->mask);
    syscall(SYS_rt_sigpending, &self->pending, sizeof self->pending);
    self->pending &= ~(UINT64_C(1) << (TICK_SIGNAL - 1)); /* may just be on its way */
    size_t length;
    syscall(SYS_get_robust_list, 0, &self->robust_list, &length);
    prctl(PR_GET_TID_ADDRESS, &self->tid_address);
    stack_t stack;
    sigaltstack(NULL, &stack);
    self->stack_address = (uint64_t)stack.ss_sp;
    self->stack_length = stack.ss_size;
    for (int number = 1; number < 65; number++) {
        struct sigaction action;
        if (sigaction(number, NULL, &action) == 0)
            self->handlers[number] = (uint64_t)action.sa_handler + (uint64_t)action.sa_flags;
    }
    for (int fd = 0; fd < SELECTORS_SEEN; fd++)
        self->selectors[fd] = fcntl(fd, F_GETFD);
    struct itimerspec times;
    if (has_timer && timer_gettime(ticks_timer, &times) == 0)
        self->timer_interval_ns = (uint64_t)times.it_interval.tv_nsec;
    prctl(PR_GET_NAME, self->name);
}

static struct self at_start;
static volatile sig_atomic_t unwanted;

static void on_unwanted(int number)
{
    if (getpid() == at_start.pid)
        unwanted++;
    else
        complain("the twin ran the handler of signal %d", number);
}

static void check_self(void)
{
    struct self now;
    look_at_self(&now);
    if (memcmp(&now, &at_start, sizeof now) == 0)
        return;
#define CHECK(field)                                                                                         \
    if (memcmp(&now.field, &at_start.field, sizeof now.field) != 0)                                          \
    complain("%s is %#llx, was %#llx", #field, (unsigned long long)now.field,                                \
             (unsigned long long)at_start.field)
    CHECK(pid);
    CHECK(parent);
    CHECK(group);
    CHECK(session);
    CHECK(mask);
    CHECK(pending);
    CHECK(robust_list);
    CHECK(tid_address);
    CHECK(stack_address);
    CHECK(stack_length);
    CHECK(timer_interval_ns);
    for (int i = 0; i < 65; i++)
        CHECK(handlers[i]);
    for (int i = 0; i < SELECTORS_SEEN; i++)
        if (now.selectors[i] != at_start.selectors[i])
            complain("selector %d is %d, was %d", i, now.selectors[i], at_start.selectors[i]);
    if (strcmp(now.name, at_start.name) != 0)
        complain("name is %s, was %s", now.name, at_start.name);
}

/* ---- memory ---- */

static uint64_t *pattern;

static void fill_pattern(void)
{
    pattern = malloc(PATTERN_WORDS * sizeof *pattern);
    for (uint64_t i = 0; i < PATTERN_WORDS; i++)
        pattern[i] = i * 0x9e3779b97f4a7c15;
}

static void check_pattern(void)
{
    for (uint64_t i = 0; i < PATTERN_WORDS; i++)
        if (pattern[i] != i * 0x9e3779b97f4a7c15) {
            complain("word %lu of the pattern is %#lx", (unsigned long)i, (unsigned long)pattern[i]);
            return;
        }
}

/* ---- threads ---- */

struct worker {
    const char *name;
    void (*run)(struct worker *);
    pthread_t thread;
    volatile uint64_t rounds;
};

static volatile sig_atomic_t ticks, pauses;

static void on_tick(int number)
{
    (void)number;
    ticks++;
}

static void on_pause_signal(int number)
{
    (void)number;
    pauses++;
}

/* All general registers but the stack pointer, all SSE registers, the red zone: filled, left alone for
 * `rounds` rounds, compared. Returns which differ: bit 0 general, 1 SSE, 2 red zone. */
uint64_t spin(uint64_t rounds);
asm(".text\n"
    ".globl spin\n"
    "spin:\n"
    "push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "mov $0x11110\\n, %rax\n"
    "movq %rax, %xmm\\n\n"
    "punpcklqdq %xmm\\n, %xmm\\n\n"
    ".endr\n"
    ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "movq $0x22220\\n, -8*\\n(%rsp)\n"
    ".endr\n"
    "mov $101, %rax; mov $102, %rbx; mov $103, %rcx; mov $104, %rdx; mov $105, %rsi; mov $106, %rbp\n"
    "mov $108, %r8; mov $109, %r9; mov $110, %r10; mov $111, %r11; mov $112, %r12; mov $113, %r13\n"
    "mov $114, %r14; mov $115, %r15\n"
    "1: pause\n"
    "dec %rdi\n"
    "jnz 1b\n"
    "xor $101, %rax; xor $102, %rbx; xor $103, %rcx; xor $104, %rdx; xor $105, %rsi; xor $106, %rbp\n"
    "xor $108, %r8; xor $109, %r9; xor $110, %r10; xor $111, %r11; xor $112, %r12; xor $113, %r13\n"
    "xor $114, %r14; xor $115, %r15\n"
    "or %rbx, %rax; or %rcx, %rax; or %rdx, %rax; or %rsi, %rax; or %rbp, %rax; or %r8, %rax; or %r9, %rax\n"
    "or %r10, %rax; or %r11, %rax; or %r12, %rax; or %r13, %rax; or %r14, %rax; or %r15, %rax\n"
    "xor %edi, %edi\n"
    "test %rax, %rax\n"
    "setnz %dil\n"
    "xor %ecx, %ecx\n"
    ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "mov $0x11110\\n, %rdx\n"
    "movq %xmm\\n, %rax\n"
    "xor %rdx, %rax\n"
    "or %rax, %rcx\n"
    "psrldq $8, %xmm\\n\n"
    "movq %xmm\\n, %rax\n"
    "xor %rdx, %rax\n"
    "or %rax, %rcx\n"
    ".endr\n"
    "xor %eax, %eax\n"
    "test %rcx, %rcx\n"
    "setnz %al\n"
    "lea (%rdi,%rax,2), %rdi\n"
    "xor %ecx, %ecx\n"
    ".irp n,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
    "mov -8*\\n(%rsp), %rax\n"
    "xor $0x22220\\n, %rax\n"
    "or %rax, %rcx\n"
    ".endr\n"
    "xor %eax, %eax\n"
    "test %rcx, %rcx\n"
    "setnz %al\n"
    "lea (%rdi,%rax,4), %rax\n"
    "pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
    "ret\n");

static void run_spinner(struct worker *self)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, TICK_SIGNAL);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    for (;; self->rounds++) {
        uint64_t wrong = spin(SPIN_ROUNDS);
        if (wrong)
            complain("registers have changed: %#lx", (unsigned long)wrong);
        nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL); /* a tick may interrupt it */
    }
}

static pthread_mutex_t held; /* robust */
static volatile bool is_held;
static int poke_pipe[2];

static void run_holder(struct worker *self)
{
    pthread_mutex_lock(&held);
    is_held = true;
    for (;; self->rounds++) {
        char byte;
        check_wait("read", read(poke_pipe[0], &byte, 1));
    }
}

static void run_watcher(struct worker *self)
{
    for (;; self->rounds++) {
        int r = is_held ? pthread_mutex_trylock(&held) : EBUSY;
        if (r != EBUSY)
            complain("the robust mutex: %s", strerror(r));
        if (r == 0 || r == EOWNERDEAD)
            pthread_mutex_unlock(&held);
        uint64_t start_ns = now_ns();
        check_wait("nanosleep", nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL));
        if (now_ns() - start_ns < SLEEP_NS)
            complain("a sleep was too short");
    }
}

static void run_pauser(struct worker *self)
{
    for (;; self->rounds++) {
        sig_atomic_t before = pauses;
        pause();
        if (pauses == before)
            complain("pause returned without a signal");
    }
}

static pthread_mutex_t turn_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn_changed = PTHREAD_COND_INITIALIZER;
static uint64_t turn;

static void run_waiter(struct worker *self)
{
    for (;; self->rounds++) {
        pthread_mutex_lock(&turn_lock);
        while (turn % 2 == 0)
            pthread_cond_wait(&turn_changed, &turn_lock);
        turn++;
        pthread_cond_broadcast(&turn_changed);
        pthread_mutex_unlock(&turn_lock);
    }
}

static int epoll_set;
static volatile uint64_t epoll_interrupted;

static void run_epoll(struct worker *self)
{
    struct epoll_event event;
    for (;; self->rounds++)
        if (epoll_wait(epoll_set, &event, 1, 5) < 0) {
            if (errno == EINTR)
                epoll_interrupted++;
            else
                complain("epoll_wait: %s", strerror(errno));
        }
}

static struct worker workers[] = {
    {.name = "spinner", .run = run_spinner}, {.name = "holder", .run = run_holder},
    {.name = "watcher", .run = run_watcher}, {.name = "pauser", .run = run_pauser},
    {.name = "waiter", .run = run_waiter},   {.name = "epoll", .run = run_epoll},
};

#define WORKER_COUNT (sizeof workers / sizeof workers[0])

static void *run_worker(void *data)
{
    struct worker *worker = data;
    worker->run(worker);
    return NULL;
}

static void start_threads(void)
{
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&held, &robust);
    signal(TICK_SIGNAL, on_tick);
    signal(PAUSE_SIGNAL, on_pause_signal);
    if (pipe2(poke_pipe, O_CLOEXEC) < 0 || (epoll_set = epoll_create1(EPOLL_CLOEXEC)) < 0)
        exit(3);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, TICK_SIGNAL);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    for (size_t i = 0; i < WORKER_COUNT; i++)
        if (pthread_create(&workers[i].thread, NULL, run_worker, &workers[i]) != 0)
            exit(3);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = TICK_SIGNAL};
    if (timer_create(CLOCK_MONOTONIC, &event, &ticks_timer) < 0 ||
        timer_settime(ticks_timer, 0, &(struct itimerspec){{0, TICK_NS}, {0, TICK_NS}}, NULL) < 0)
        exit(3);
    has_timer = true;
}

static void *run_briefly(void *data)
{
    return data;
}

/* What the leader does with the threads every now and then. */
static void drive_threads(uint64_t count)
{
    pthread_kill(workers[3].thread, PAUSE_SIGNAL);
    check_wait("write", write(poke_pipe[1], "x", 1));
    pthread_mutex_lock(&turn_lock);
    while (turn % 2 == 1)
        pthread_cond_wait(&turn_changed, &turn_lock);
    turn++;
    pthread_cond_broadcast(&turn_changed);
    pthread_mutex_unlock(&turn_lock);
    static int counting;
    pthread_t brief;
    void *result = NULL;
    if (count % 16)
        return;
    if (pthread_create(&brief, NULL, run_briefly, &counting) != 0 || pthread_join(brief, &result) != 0 ||
        result != &counting)
        complain("a short-lived thread went wrong");
}

/* Every thread and the timer must have moved within the next two seconds. */
static void await_threads(void)
{
    uint64_t rounds[WORKER_COUNT], start_ns = now_ns(), count = 16;
    sig_atomic_t ticks_before = ticks;
    for (size_t i = 0; i < WORKER_COUNT; i++)
        rounds[i] = workers[i].rounds;
    for (;; count++) {
        const char *stuck = ticks == ticks_before ? "timer" : NULL;
        for (size_t i = 0; i < WORKER_COUNT; i++)
            if (workers[i].rounds == rounds[i])
                stuck = workers[i].name;
        if (!stuck)
            return;
        if (now_ns() - start_ns > QUIET_NS) {
            complain("%s is stuck", stuck);
            return;
        }
        drive_threads(count);
        poll(NULL, 0, 1);
    }
}

/* ---- the filter ---- */

#define REFUSE(number)                                                                                       \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (number), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static void filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        REFUSE(SYS_clone),
        REFUSE(SYS_clone3),
        REFUSE(SYS_fork),
        REFUSE(SYS_vfork),
        REFUSE(SYS_execve),
        REFUSE(SYS_mmap),
        REFUSE(SYS_mprotect),
        REFUSE(SYS_ptrace),
        REFUSE(SYS_setsid),
        REFUSE(SYS_timer_create),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        exit(3);
}

/* ---- the parent ---- */

static pid_t start_child(char **argv)
{
    int in = atoi(argv[2]), out = atoi(argv[3]);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(in, STDIN_FILENO);
        dup2(out, STDOUT_FILENO);
        close(in);
        close(out);
        execl(argv[0], argv[0], "counting", NULL);
    }
    if (pid <= 0)
        exit(3);
    close(in);
    close(out);
    return pid;
}

/* ---- the leader ---- */

static volatile uint64_t counted, counted_again;

static void answer(bool has_threads)
{
    char line[256];
    check_wait("read", read(STDIN_FILENO, line, sizeof line) > 0 ? 0 : -1);
    check_self();
    check_pattern();
    if (has_threads)
        await_threads();
    printf("%llu %s", (unsigned long long)counted, *complaints ? complaints + 2 : "ok");
    printf(" unavoidable=%llu\n", (unsigned long long)epoll_interrupted + (unsigned long long)unwanted);
    fflush(stdout);
    *complaints = '\0';
    epoll_interrupted = 0;
    unwanted = 0;
}

int main(int argc, char **argv)
{
    const char *kind = argc > 1 ? argv[1] : "counting";
    bool has_threads = strcmp(kind, "threads") == 0;
    static char alternate_stack[65536];
    stack_t stack = {.ss_sp = alternate_stack, .ss_size = sizeof alternate_stack};
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigaltstack(&stack, NULL);
    fill_pattern();
    if (open("/proc/self/status", O_RDONLY) < 0) /* has to be opened again by a restore */
        return 3;
    if (has_threads)
        start_threads();
    if (strcmp(kind, "handlers") == 0) {
        signal(SIGURG, on_unwanted);
        signal(SIGWINCH, on_unwanted);
        signal(SIGCHLD, on_unwanted);
    }
    if (strcmp(kind, "filtered") == 0)
        filter();
    pid_t child = strcmp(kind, "parent") == 0 && argc > 3 ? start_child(argv) : 0;
    look_at_self(&at_start);
    for (;;) {
        if (counted != counted_again)
            complain("counted %llu and %llu", (unsigned long long)counted, (unsigned long long)counted_again);
        counted++;
        counted_again++;
        if (has_threads)
            drive_threads(counted);
        if (child && waitpid(child, NULL, WNOHANG) < 0 && errno != ECHILD)
            complain("waitpid: %s", strerror(errno));
        struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
        int r = poll(&input, 1, POLL_MS);
        check_wait("poll", r);
        if (r > 0 && input.revents & POLLIN)
            answer(has_threads);
        else if (r > 0)
            return 0;
    }
}
