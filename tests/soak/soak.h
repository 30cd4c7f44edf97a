/* The soak of core: clients do random things to targets, each in a range of selectors that is its own, and
 * know what the answer must be; targets use their own lowest selectors all the while, and know what is in
 * them.
 *
 *     0..2                     standard streams
 *     3..OWN_END - 1           the target's own: it opens, duplicates and closes, and must always get the
 * lowest free number, as if nobody else were there SLICE_BEGIN + …          SLICE_LENGTH selectors for each
 * client, who alone puts something there
 *
 * Nothing may ever be anywhere else. */
#pragma once

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define TARGETS      8
#define CLIENTS      8
#define OWN_END      100
#define SLICE_BEGIN  200
#define SLICE_LENGTH 16
#define SLICE_END    (SLICE_BEGIN + CLIENTS * SLICE_LENGTH)

/* Shared by all processes. */
struct board {
    pid_t targets[TARGETS];
    atomic_int ready;  /* targets that are there */
    atomic_int finish; /* clients are done, and have closed what they had put */
    atomic_int errors;
    atomic_uint operations; /* done by clients */
    atomic_uint own_rounds; /* by targets */
};

/* What went wrong; the soak goes on, and fails. */
void complain(struct board *board, const char *format, ...) __attribute__((__format__(printf, 2, 3)));

struct chance {
    uint64_t state;
};
uint32_t chance_below(struct chance *chance, uint32_t below);

/* An object that can be recognised: its inode number. */
int make_object(const char *name, uint64_t *ret_inode);
uint64_t inode_of(int fd);

_Noreturn void target_run(struct board *board, unsigned index);
/* Returns the exit status. */
int client_run(struct board *board, unsigned index, const char *core, unsigned long operations,
               uint64_t seed);
