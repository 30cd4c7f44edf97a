/* What the files of the cold room share. */
#pragma once

#include "cold/cold.h"

#define COLD_PAGE_BYTES 4096u
#define COLD_TASK_BYTES 0x7ffffffff000u /* where user addresses end, with four levels of page tables */

/* A text of the snapshot's. */
static inline const char *cold_text(const struct snapshot *snapshot, uint64_t offset)
{
    return (const char *)snapshot->blobs + offset;
}

/* ---- helper.c, birth.c ---- */

/* Where our pages go: the scratch pages, and behind them room for the vDSO and its data while the rest of the
 * memory is exchanged. */
struct cold_place {
    uint64_t scratch, scratch_length;
    uint64_t parking, parking_length;
};

/* What we, the helpers and the child have in common: a shared page. */
struct cold_cradle {
    _Atomic int result;  /* the number of the child in its own namespace, or a negative errno; 0: not yet */
    _Atomic int is_born; /* 1, or a negative errno: the child has its scratch pages */
    _Atomic int has_session; /* the session was made */
    _Atomic int may_begin;   /* the helper, in a new namespace */
    _Atomic int may_go;      /* the helpers: the child is in our hands */
};

/* Where the child is to be born. */
struct cold_family {
    const struct cold_place *place;
    pid_t tracer;
    pid_t number;     /* wanted; 0: any */
    pid_t session;    /* to be made; 0: ours */
    pid_t group;      /* to be joined; 0: its parent's */
    bool makes_group; /* it does not exist any more */
    bool is_child;    /* ours, without a helper */
    bool new_namespace, new_users;
};

/* Clones a helper (its PID; 0: there is none), or says why not. */
pid_t cold_clone_helper(struct cold_cradle *cradle, const struct cold_family *family);

/* Clones the process and takes it in hand: stopped, with scratch pages, killed if we die. *ret_has_session:
 * it is in a session that it may stay in. */
int cold_birth(const struct cold_plan *plan, const struct cold_place *place, uint64_t deadline_ns,
               struct target *ret_process, bool *ret_has_session, uint64_t *ret_free_ns,
               struct reseat_error **ret_error);

/* ---- memory.c ---- */

/* An address that is free in the snapshot and in us, for so many bytes. */
int cold_find_place(const struct snapshot *snapshot, size_t scratch_length, struct cold_place *ret_place,
                    struct reseat_error **ret_error);
/* Takes the process out of our memory, and gives it that of the snapshot. */
int cold_build_memory(const struct cold_plan *plan, const struct cold_place *place, struct target *process,
                      struct reseat_error **ret_error);

/* What is mapped, and what is known of it while it is. */
struct cold_building {
    const struct cold_plan *plan;
    const struct snapshot *snapshot;
    struct target *process;
    struct program_batch batch;
    size_t next_extent;
    bool *is_filled; /* of each mapping: has content in the image that it needs */
};

/* The same for what stays in the process, once all else is where it belongs: out of the way. */
int cold_find_high_place(const struct cold_building *building, uint64_t length, uint64_t *ret_address,
                         struct reseat_error **ret_error);

bool cold_has_guards(void);
bool cold_is_special(const struct snapshot_vma *vma);
/* The lowest address of the vDSO and its data; 0: there are none. */
uint64_t cold_lowest_special(const struct snapshot *map);
/* Moves the vDSO and its data, which keep their distances: what is at `from` goes to `to`. */
void cold_add_special_moves(struct program_batch *batch, const struct snapshot *map, uint64_t from,
                            uint64_t to);

/* ---- content.c ---- */

int cold_fill_memory(struct cold_building *building, struct reseat_error **ret_error);

/* ---- sysv.c ---- */

/* Whether the System V shared memory of a mapping is there, as that of the same key and size. */
bool cold_has_segment(const struct snapshot *snapshot, const struct snapshot_vma *vma);
/* Whether we may give those that are not their old numbers. */
bool cold_may_make_segments(void);
/* Makes them, with their content. */
int cold_make_segments(struct cold_plan *plan, struct reseat_error **ret_error);
/* Once they are attached (or, failed, are not needed): those that go with their last user will. */
void cold_settle_segments(struct cold_plan *plan, bool failed);

/* ---- files.c ---- */

/* Whether mapping `index` is of shared memory that the holder still has: it is taken as it is. */
bool cold_is_held(const struct cold_plan *plan, size_t index);

/* Whether the working directory comes back. */
int cold_check_directory(const struct snapshot *snapshot, struct obstacles *obstacles);

/* ---- vdso.c ---- */

const struct snapshot_vma *cold_find_vdso(const struct snapshot *map);
int cold_place_vdso(const struct cold_building *building, const struct cold_place *place,
                    struct reseat_error **ret_error);

/* Whether the vDSO of the snapshot is this kernel's, or can be bridged to that. */
int cold_check_vdso(const struct cold_plan *plan, struct obstacles *obstacles,
                    struct reseat_error **ret_error);
/* Memory of the snapshot as far as it is in the image; what is not is zero. */
int cold_read_memory(const struct cold_plan *plan, uint64_t address, uint64_t length, void *data,
                     struct reseat_error **ret_error);

/* ---- processor.c ---- */

/* What the processor lacks, and whether the extended state of the threads can be had here. */
int cold_check_processor(const struct snapshot *snapshot, struct obstacles *obstacles,
                         struct reseat_error **ret_error);

/* ---- vdso_bridge.c ---- */

/* Changes the code of a vDSO so that its functions lead to those of another, which will be at `our_address`
 * (ours NULL: to system calls). Fails, and changes nothing, if that is not possible. */
int cold_bridge_vdso(uint8_t *code, size_t length, const uint8_t *ours, size_t our_length,
                     uint64_t our_address, struct reseat_error **ret_error);
