/* What the files of the cold room share. */
#pragma once

#include "cold/cold.h"

#define COLD_PAGE_BYTES 4096u
#define COLD_TASK_BYTES 0x7ffffffff000u /* where user addresses end, with four levels of page tables */

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

/* ---- vdso.c ---- */

/* Whether the vDSO of the snapshot is this kernel's. */
int cold_check_vdso(const struct cold_plan *plan, struct reseat_error **ret_error);
/* Memory of the snapshot as far as it is in the image; what is not is zero. */
int cold_read_memory(const struct cold_plan *plan, uint64_t address, void *data, size_t length,
                     struct reseat_error **ret_error);
