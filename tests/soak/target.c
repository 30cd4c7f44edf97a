/* A target: uses its own selectors, and checks its table all the time. There are four sorts: busy with one
 * thread; with further threads that spin and sleep; mostly asleep; and under a seccomp filter that would kill
 * it for the calls that are made inside it to install something. */
#include "soak.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum sort { SORT_BUSY, SORT_THREADS, SORT_ASLEEP, SORT_FILTERED, SORTS };

struct target {
    struct board *board;
    unsigned index;
    enum sort sort;
    struct chance chance;
    uint64_t own[OWN_END]; /* inode of what is there; 0: unused */
};

/* ---- sorts ---- */

static void set_filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socketpair, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_recvmsg, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_dup3, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_process_vm_readv, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof code / sizeof code[0], code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* None of its waits may be cut short by somebody who stops it. */
static void wait_a_little(struct board *board, long ns)
{
    struct timespec time = {.tv_nsec = ns};
    if (nanosleep(&time, NULL) < 0)
        complain(board, "a target's nanosleep was interrupted: %s", strerror(errno));
    if (poll(NULL, 0, 1) != 0)
        complain(board, "a target's poll was interrupted: %s", strerror(errno));
}

static void *be_thread(void *userdata)
{
    struct board *board = userdata;
    for (unsigned round = 0; !atomic_load(&board->finish); round++) {
        volatile unsigned spin = 0;
        while (round % 4 == 0 && spin < 100000)
            spin = spin + 1;
        wait_a_little(board, 2000000);
    }
    return NULL;
}

/* ---- its own selectors ---- */

static int lowest_free(const struct target *target)
{
    int selector = 3;
    while (selector < OWN_END && target->own[selector])
        selector++;
    return selector;
}

static void check_got(struct target *target, int expected, int got, const char *how)
{
    if (got != expected)
        complain(target->board, "target %u: %s gave %d (%s), %d was the lowest free", target->index, how, got,
                 got < 0 ? strerror(errno) : "", expected);
    if (got >= 3 && got < OWN_END)
        target->own[got] = inode_of(got);
}

static int some_used(struct target *target)
{
    int begin = 3 + (int)chance_below(&target->chance, OWN_END - 3);
    for (int i = 0; i < OWN_END - 3; i++) {
        int selector = 3 + (begin - 3 + i) % (OWN_END - 3);
        if (target->own[selector])
            return selector;
    }
    return -1;
}

static void use_own(struct target *target)
{
    int free = lowest_free(target), used = some_used(target);
    switch (chance_below(&target->chance, 4)) {
    case 0:
        if (free < OWN_END - 10) {
            uint64_t inode = 0;
            check_got(target, free, make_object("own", &inode), "memfd_create");
        }
        break;
    case 1:
        if (free < OWN_END - 10)
            check_got(target, free, open("/dev/null", O_RDONLY | O_CLOEXEC), "open");
        break;
    case 2:
        if (used >= 0 && free < OWN_END - 10)
            check_got(target, free, dup(used), "dup");
        break;
    default:
        if (used >= 0) {
            if (close(used) < 0)
                complain(target->board, "target %u: close of %d: %s", target->index, used, strerror(errno));
            target->own[used] = 0;
        }
    }
}

/* ---- the whole table ---- */

static void check_selector(struct target *target, int selector, bool is_last)
{
    bool is_own = selector < OWN_END;
    bool is_slice = selector >= SLICE_BEGIN && selector < SLICE_END && !is_last;
    if (is_own && selector > 2 && target->own[selector] != inode_of(selector))
        complain(target->board, "target %u: selector %d holds inode %llu, not %llu", target->index, selector,
                 (unsigned long long)inode_of(selector), (unsigned long long)target->own[selector]);
    if (!is_own && !is_slice)
        complain(target->board, "target %u: there is something at selector %d", target->index, selector);
}

/* Reads its own table; `is_last`: nothing of a client may be left. */
static void check_table(struct target *target, bool is_last)
{
    unsigned seen = 0, expected = 0;
    DIR *table = opendir("/proc/self/fd");
    if (!table) {
        complain(target->board, "target %u: opening its table: %s", target->index, strerror(errno));
        return;
    }
    check_got(target, lowest_free(target), dirfd(table), "opendir");
    for (struct dirent *entry; (entry = readdir(table));) {
        if (entry->d_name[0] == '.')
            continue;
        int selector = atoi(entry->d_name);
        check_selector(target, selector, is_last);
        seen += selector > 2 && selector < OWN_END;
    }
    for (int i = 3; i < OWN_END; i++)
        expected += target->own[i] != 0;
    if (seen != expected)
        complain(target->board, "target %u: %u of its own selectors are in use, not %u", target->index, seen,
                 expected);
    target->own[dirfd(table)] = 0;
    closedir(table);
}

_Noreturn void target_run(struct board *board, unsigned index)
{
    struct target target = {.board = board,
                            .index = index,
                            .sort = index % SORTS,
                            .chance = {.state = 1000 + index}};
    pthread_t threads[2];
    size_t thread_count = target.sort == SORT_THREADS ? 2 : 0;
    close_range(3, ~0U, 0);
    for (size_t i = 0; i < thread_count; i++)
        pthread_create(&threads[i], NULL, be_thread, board);
    if (target.sort == SORT_FILTERED)
        set_filter();
    atomic_fetch_add(&board->ready, 1);
    for (unsigned round = 0; !atomic_load(&board->finish); round++) {
        for (int i = 0; i < 20; i++)
            use_own(&target);
        if (round % 8 == 0)
            check_table(&target, false);
        wait_a_little(board, target.sort == SORT_ASLEEP ? 50000000 : 1000000);
        atomic_fetch_add(&board->own_rounds, 1);
    }
    for (size_t i = 0; i < thread_count; i++)
        pthread_join(threads[i], NULL);
    check_table(&target, true);
    _exit(0);
}
