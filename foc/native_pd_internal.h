/* Shared by the files that implement the native PD interface on Fiasco.OC. */
#pragma once

#include "native_pd_foc.h"

struct native_pd {
    native_pd_id_t id;
    unsigned generation; /* of the entry in the table of PDs: it changes when the PD ends */
    bool is_used;
};

/* The scratch task that has no memory for a single capability. */
foc_slot_t foc_tight_task(void);
/* Finds out from which size on halving pays; the task must be empty. */
void foc_measure_probing(foc_slot_t task);
bool foc_range_is_empty(foc_slot_t task, selector_t first, unsigned order);
