/* A plan while it is being made: plan.c has the live column and what is not about selectors, plan_cold.c the
 * cold column. */
#pragma once

#include "lib-internal.h"

struct plan {
    struct reseat_plan public;      /* first, so that a pointer to it is a pointer to the whole */
    struct reseat_listing *listing; /* whose texts the rows use */
    char **texts;                   /* all others */
    size_t text_count;
};

/* A text that lives as long as the plan; NULL: out of memory. */
const char *plan_text(struct plan *plan, const char *format, ...) _printf_(2, 3);
/* The row of a selector, or NULL. */
struct reseat_plan_row *plan_row(struct plan *plan, unsigned selector);
/* One more thing about a prospect: the worst fate counts, every reason is said. */
int plan_worsen(struct plan *plan, struct reseat_prospect *prospect, enum reseat_fate fate, const char *why);
/* An obstacle becomes part of the row that it is about, or an item. `restores`: enum reseat_restore_kind. */
int plan_add_obstacle(struct plan *plan, const struct obstacle *obstacle, unsigned restores);

/* The cold column for a live process, of which an image would be made. */
int plan_cold_process(struct plan *plan, struct reseat_error **ret_error);
struct image;
/* The cold column for a checkpoint; the rows, too, if there are none of a twin. */
int plan_cold_checkpoint(struct plan *plan, struct image *image, struct reseat_error **ret_error);
