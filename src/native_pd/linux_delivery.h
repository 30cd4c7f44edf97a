/* A delivery: capabilities on their way into a stopped process by messages. linux_stopped.c says how it goes,
 * linux_passage.c has the steps. */
#pragma once

#include "native_pd/linux-internal.h"
#include "target/target.h"

#include <sys/uio.h>

#define NO_NUMBER ((uint64_t)-1)

struct numbers {
    int *items;
    size_t count;
};
int numbers_add(struct numbers *numbers, int number);
/* Sorts them, and counts the runs of consecutive ones. */
size_t numbers_count_runs(struct numbers *numbers);

struct delivery {
    struct target *target;
    struct parcel *parcels; /* those at free selectors first, ascending */
    size_t count, free_count;
    struct numbers plugs; /* free numbers below the highest free selector that are not wanted */
    bool must_land;       /* plugs are to be made, so that each is received at its selector */

    /* Programs that stay where they are until the end. */
    struct program pair; /* makes the pair; behind its report: closes it, reports, goes back */
    struct program undo; /* closes all that was put, then all that is in passing, then the pair */
    uint64_t unmake_address, back_address; /* in `pair` */
    uint64_t tidy_address;                 /* in `undo`: from where only what is in passing is closed */
    uint64_t replaced_address;             /* behind the commit: from where the same is done */
    uint64_t undone_sp;                    /* at the report behind the undoing */
    uint64_t undo_address;                 /* where undoing begins, as far as we have come */

    size_t pair_end; /* of `pair` on the scratch pages */
    size_t areas[3]; /* two areas of the scratch pages for programs, and their end */
    int area;        /* the one that the leader stands in, which must not be touched */

    size_t unread_bytes; /* at the beginning of the next part: have no results, and need not be fetched */

    int ends[2];            /* as the target numbers them: it receives at the first, we send at the second */
    int socket;             /* where it receives in the end */
    int ours;               /* the second, as ours */
    struct numbers passing; /* to be closed before the process runs on */
    struct numbers pending; /* the same, of the last round, which can be closed any time */
    struct numbers held;    /* received so far, and not noted in `undo` */
    bool is_refused;        /* there is something that cannot be sent */
};

/* Each step runs a program, behind whose report the leader would undo everything so far if we die. */
int delivery_make_pair(struct delivery *delivery, struct reseat_error **ret_error);
/* Writes the programs that stay. */
int delivery_prepare(struct delivery *delivery, struct reseat_error **ret_error);
/* Makes sure that nothing is received at a selector that is wanted for something else: by taking them all, or
 * by taking all others. */
int delivery_reserve(struct delivery *delivery, struct reseat_error **ret_error);
int delivery_plug(struct delivery *delivery, struct reseat_error **ret_error);
/* Receives and puts the next ones, at most `count` of those from `first` on: *ret_count. -EAGAIN: one came in
 * where it must not be. */
int delivery_fill(struct delivery *delivery, size_t first, size_t count, size_t *ret_count,
                  struct reseat_error **ret_error);
/* The commit, and its end. */
int delivery_replace(struct delivery *delivery, struct reseat_error **ret_error);
int delivery_tidy(struct delivery *delivery, struct reseat_error **ret_error);
void delivery_undo(struct delivery *delivery);
/* Whether something is to be put there. */
bool delivery_wants(const struct delivery *delivery, int number);

/* ---- pieces of programs ---- */

void delivery_add_jump(struct program *program, uint64_t address);
void delivery_add_report(const struct delivery *delivery, struct program *program);
/* Closes sorted numbers: a call for each run of them. */
void delivery_add_closing(struct program *program, const struct numbers *numbers);

/* Copies an array of int, which stands somewhere when the program comes there, to as many words. */
struct copying {
    struct iovec *pieces;
    uint64_t pieces_address;
    size_t count;
};
int copying_begin(struct copying *copying, struct scratch *scratch, size_t count);
void copying_add(struct copying *copying, uint64_t address);
/* `times`: so many times the whole array, one behind the other. */
void delivery_add_copying(struct program *program, const struct delivery *delivery, const char *what,
                          const struct copying *copying, uint64_t source, size_t times);
/* Begins a part in the area that the leader does not stand in; and how much room there is. */
void delivery_begin_area(struct delivery *delivery);
size_t delivery_room(const struct delivery *delivery);
/* Writes the part, runs a program up to its report, and fetches the part. */
int delivery_run(struct delivery *delivery, const struct program *program, struct reseat_error **ret_error);
/* What a round of so many takes at most on the scratch pages. */
size_t delivery_round_bytes(size_t count);
