/* What the rows of a snapshot consist of, as data: name, place and meaning of every field, for those who show
 * an image. docs/image.md tells the same to people. */
#pragma once

#include "snapshot/snapshot.h"

#include <stdbool.h>

enum field_kind {
    FIELD_UNSIGNED,
    FIELD_SIGNED,
    FIELD_ADDRESS, /* shown in hexadecimal, like masks */
    FIELD_TEXT,    /* bytes of the row itself, up to a NUL */
    FIELD_BYTES,   /* bytes of the row itself */
    FIELD_NAME,    /* offset of a NUL-terminated string in the blobs */
    FIELD_BLOB,    /* offset of bytes in the blobs; the next field is how many units there are */
    FIELD_FLAGS,   /* bits with names */
    FIELD_CHOICE,  /* one of several numbers with names */
};

struct field_word {
    uint64_t value;
    const char *word;
};

struct field {
    const char *name;
    enum field_kind kind;
    uint16_t offset, size;          /* of one element, bytes */
    uint16_t count;                 /* elements */
    uint16_t unit;                  /* FIELD_BLOB: bytes of one unit */
    const struct field_word *words; /* FIELD_FLAGS, FIELD_CHOICE; ends with an empty word */
};

struct field_table {
    const char *name; /* plural: "threads" */
    const char *section;
    const struct field *fields; /* ends with an empty one */
    size_t row_bytes;
    const void *(*rows)(const struct snapshot *snapshot, size_t *ret_count);
};

/* All tables but the blobs, the process first; ends with an empty one. */
extern const struct field_table field_tables[];
