/* What the files of the twin room share. */
#pragma once

#include "twin/twin.h"

/* clone(2) flags: of an heir, and of the process that is cloned from a twin; and of a copy. */
#define TWIN_HEIR_FLAGS (CLONE_VM | CLONE_FILES | CLONE_SYSVSEM | CLONE_PARENT)
#define TWIN_COPY_FLAGS CLONE_PARENT

/* At the start of the data part: the header and the program of the sleep. */
#define TWIN_RESERVED_BYTES 16384
#define TWIN_HEADER_OFFSET  4096                /* behind the page of the interpreter */
#define TWIN_ACTION_BYTES   32                  /* struct sigaction of the kernel */
#define TWIN_MAGIC          "reseat twin 1\0\0" /* 16 bytes with the final NUL */

/* Builds the program of a new twin; action_address: where it puts the action of the report signal, or 0 if
 * that is ignored already; ret_stack: for clone3. */
int twin_build_program(struct program *program, struct scratch *scratch, const struct snapshot *snapshot,
                       int report_signal, uint64_t action_address, uint64_t *ret_stack,
                       struct reseat_error **ret_error);
/* Adds the calls that make marked regions go through a fork (mark: false), or mark them again; and how many.
 */
void twin_add_region_marks(struct program *program, const struct snapshot *snapshot, bool mark);
size_t twin_region_marks(const struct snapshot *snapshot);
/* Lets it run the program that it was born with, up to the report. */
int twin_run_birth(struct target *twin, const struct program *program, struct reseat_error **ret_error);
/* Notes the numbers of a new twin in the snapshot and in its header. */
int twin_note(struct target *twin, uint64_t header_address, int64_t ns_pid, struct snapshot *snapshot,
              struct reseat_error **ret_error);
