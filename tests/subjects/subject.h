/* What every subject is written with.
 *
 * A subject is a function that sets something up, calls be_checkpointed(), and then checks that it finds
 * everything as it was. What happens in be_checkpointed() is up to the runner (tests/reseat_test/matrix.py):
 * nothing at all; the process is checkpointed and killed and put back; it is checkpointed and runs on; all of
 * this twice. The subject cannot tell, which is the point.
 *
 *     static void umask_stays(void)
 *     {
 *         umask(0137);
 *         be_checkpointed();
 *         CHECK(umask(0) == 0137);
 *     }
 *     const struct subject subjects[] = {{"umask", umask_stays}, {0}};
 *
 * In some modes two processes, one after the other, come out of one be_checkpointed() and share their
 * objects. So a check leaves an object as it found it: it peeks, or puts back what it took. */
#pragma once

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* ---- the table of a file's subjects; ends with a row without a name ---- */

struct subject {
    const char *name;
    void (*run)(void);
    /* A second process that the runner starts beside it and does not checkpoint; the two have a socket pair
     * at PEER. It is ended by SIGTERM when the subject is through, or by itself; it fails by CHECK(). */
    void (*peer)(void);
    /* "MODE,MODE: reason" — modes that do not apply; several are separated by ';'. */
    const char *skip;
    /* "MODE,MODE: words" — modes in which Reseat must refuse with status 3 and a sentence that has these
     * words, and must leave the process running as it was. "all" stands for every mode, "live" for all that
     * need a twin, "cold" for those that do not. */
    const char *refused;
    /* The same for what cannot be checkpointed at all, or not just now: status 1. */
    const char *fails;
    bool new_pid; /* is also put back under a fresh PID (a program that knows its PID cannot be) */
    bool root;    /* can be set up by root only */
    bool below;   /* has called become_child_of(): what is checkpointed is the last of its line */
    bool alone;   /* is put back with the help of ns_last_pid, which others must not move meanwhile */
    bool stopped; /* the runner stops it (SIGSTOP) before and finds it stopped after */
};
extern const struct subject subjects[];

/* ---- what the runner gives it ---- */

enum {
    GO = 3,   /* a pipe from which be_checkpointed() reads one byte */
    PEER = 4, /* the socket to the peer, if there is one */
    FIRST_FREE = 5,
};

/* Says that all is set up, and returns when the runner says to go on. */
void be_checkpointed(void);

/* ---- checking ---- */

/* Ends the process with the outcome. Can be called by any thread. */
_Noreturn void fail(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
_Noreturn void skip(const char *reason);
/* Skips on a kernel before that, which lacks what the reason says. */
void need_linux(int major, int minor, const char *reason);

#define CHECK(condition)                                                                                     \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            fail(__FILE__, __LINE__, "not so: %s (errno: %s)", #condition, strerror(errno));                 \
    } while (0)
#define CHECK_EQUAL(found, expected)                                                                         \
    do {                                                                                                     \
        long long found_ = (long long)(found), expected_ = (long long)(expected);                            \
        if (found_ != expected_)                                                                             \
            fail(__FILE__, __LINE__, "%s is %lld (0x%llx), not %lld (0x%llx)", #found, found_, found_,       \
                 expected_, expected_);                                                                      \
    } while (0)
#define CHECK_TEXT(found, expected)                                                                          \
    do {                                                                                                     \
        const char *found_ = (found), *expected_ = (expected);                                               \
        if (strcmp(found_, expected_) != 0)                                                                  \
            fail(__FILE__, __LINE__, "%s is \"%s\", not \"%s\"", #found, found_, expected_);                 \
    } while (0)
/* For set-up: the value of a call that returns -1 if it fails. */
#define MUST(call)                                                                                           \
    ({                                                                                                       \
        __typeof__(call) value_ = (call);                                                                    \
        if (value_ == (__typeof__(call))-1)                                                                  \
            fail(__FILE__, __LINE__, "cannot %s: %s", #call, strerror(errno));                               \
        value_;                                                                                              \
    })

/* ---- looking at oneself ---- */

/* The whole text of a file; never freed. */
char *text_of(const char *path);
/* The value of a line "Name:\tvalue" in a file like /proc/self/status, "" if there is none; never freed. */
char *value_in(const char *path, const char *name);
/* Where a link points; never freed. */
char *link_of(const char *path);
/* The VmFlags line of the region that has this address (proc_pid_smaps(5)). */
char *region_flags(const void *address);
bool region_has_flag(const void *address, const char *flag);

/* ---- memory ---- */

void *map_anonymous(size_t length);
/* Fills with a pattern that depends on the seed and every position; says whether it is still that. */
void fill(void *memory, size_t length, uint64_t seed);
bool is_filled(const void *memory, size_t length, uint64_t seed);
/* Whether reading this byte is a segmentation fault. */
bool reading_faults(const volatile void *address);

/* ---- threads and time ---- */

pthread_t start_thread(void *(*function)(void *), void *argument);
int thread_id(void);
/* Returns when thread `tid` of this process sleeps in that system call. */
void wait_until_blocked(int tid, long system_call);
uint64_t time_ns(clockid_t clock);
void sleep_ms(unsigned milliseconds);

/* Returns in a child; this process calls prepare() before, and stays and reaps. Before any be_checkpointed().
 */
void become_child_of(void (*prepare)(void));

/* ---- passing things to the peer and back, over PEER ---- */

void send_number(int64_t number);
int64_t receive_number(void);
void send_descriptor(int fd);
int receive_descriptor(void);
