/* reseat_show(): everything that an image says, value by value. What there is to say stands in
 * image/fields.h; here numbers are taken out of rows, and texts and bytes out of the blobs. */
#include "lib-internal.h"

#include "image/fields.h"
#include "image/image.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define LIST_MAX 64 /* elements of the longest field */

struct showing {
    const struct snapshot *snapshot;
    reseat_shown_fn function;
    void *userdata;
    struct reseat_shown shown;
    uint64_t numbers[LIST_MAX];
    char name[64];
};

static uint64_t element(const uint8_t *row, const struct field *field, size_t index, bool is_signed)
{
    uint32_t narrow;
    uint64_t wide;
    const uint8_t *at = row + field->offset + index * field->size;
    if (field->size == sizeof wide) {
        memcpy(&wide, at, sizeof wide);
        return wide;
    }
    memcpy(&narrow, at, sizeof narrow);
    return is_signed ? (uint64_t)(int64_t)(int32_t)narrow : narrow;
}

static int tell_text(struct showing *showing, const char *text)
{
    showing->shown.kind = RESEAT_SHOWN_TEXT;
    showing->shown.text = text;
    return showing->function(showing->userdata, &showing->shown);
}

static int tell_bytes(struct showing *showing, const uint8_t *bytes, size_t length)
{
    static const char digits[] = "0123456789abcdef";
    _cleanup_free_ char *text = malloc(2 * length + 1);
    if (!text)
        return -ENOMEM;
    for (size_t i = 0; i < length; i++) {
        text[2 * i] = digits[bytes[i] >> 4];
        text[2 * i + 1] = digits[bytes[i] & 15];
    }
    text[2 * length] = '\0';
    return tell_text(showing, text);
}

/* Offsets have been checked where something is behind them; a row of another kind may have none. */
static int tell_blob(struct showing *showing, const struct field *field, const uint8_t *row)
{
    const struct snapshot *snapshot = showing->snapshot;
    uint64_t offset = element(row, field, 0, false);
    uint64_t length = element(row, field + 1, 0, false) * field->unit;
    bool is_there = offset <= snapshot->blobs_count && length <= snapshot->blobs_count - offset;
    return tell_bytes(showing, snapshot->blobs + (is_there ? offset : 0), is_there ? length : 0);
}

static int tell_name(struct showing *showing, const struct field *field, const uint8_t *row)
{
    const struct snapshot *snapshot = showing->snapshot;
    uint64_t offset = element(row, field, 0, false);
    /* The first blob is no text: 0 means that there is none. */
    bool is_there = offset > 0 && offset < snapshot->blobs_count &&
                    memchr(snapshot->blobs + offset, '\0', snapshot->blobs_count - offset);
    return tell_text(showing, is_there ? (const char *)snapshot->blobs + offset : "");
}

static int tell_words(struct showing *showing, const struct field *field, uint64_t value)
{
    char text[512] = "";
    size_t length = 0;
    bool is_choice = field->kind == FIELD_CHOICE;
    for (const struct field_word *word = field->words; word->word; word++) {
        if (is_choice ? value != word->value : !(value & word->value))
            continue;
        length +=
            (size_t)snprintf(text + length, sizeof text - length, "%s%s", length ? " " : "", word->word);
        value &= is_choice ? 0 : ~word->value;
        if (is_choice)
            return tell_text(showing, text);
    }
    if (value || is_choice)
        snprintf(text + length, sizeof text - length, "%s%#" PRIx64, length ? " " : "", value);
    return tell_text(showing, text);
}

static int tell_numbers(struct showing *showing, const struct field *field, const uint8_t *row)
{
    bool is_signed = field->kind == FIELD_SIGNED;
    size_t count = field->count < LIST_MAX ? field->count : LIST_MAX;
    for (size_t i = 0; i < count; i++)
        showing->numbers[i] = element(row, field, i, is_signed);
    showing->shown.numbers = showing->numbers;
    showing->shown.number_count = count;
    showing->shown.kind = count > 1   ? RESEAT_SHOWN_LIST
                          : is_signed ? RESEAT_SHOWN_SIGNED
                                      : RESEAT_SHOWN_NUMBER;
    return showing->function(showing->userdata, &showing->shown);
}

static int tell_address(struct showing *showing, const struct field *field, const uint8_t *row)
{
    char text[LIST_MAX * 20] = "";
    size_t length = 0;
    for (size_t i = 0; i < field->count && i < LIST_MAX; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "%s%#" PRIx64, i ? " " : "",
                                   element(row, field, i, false));
    return tell_text(showing, text);
}

/* "path_offset" is where the path stands: what is shown is the path. */
static void set_name(struct showing *showing, const struct field *field)
{
    static const char suffix[] = "_offset";
    snprintf(showing->name, sizeof showing->name, "%s", field->name);
    size_t length = strlen(showing->name);
    bool is_reference = field->kind == FIELD_NAME || field->kind == FIELD_BLOB;
    if (is_reference && length >= sizeof suffix &&
        strcmp(showing->name + length - (sizeof suffix - 1), suffix) == 0)
        showing->name[length - (sizeof suffix - 1)] = '\0';
    else if (is_reference)
        snprintf(showing->name, sizeof showing->name, "content");
    showing->shown.field = showing->name;
}

static int tell_field(struct showing *showing, const struct field *field, const uint8_t *row)
{
    set_name(showing, field);
    switch (field->kind) {
    case FIELD_ADDRESS:
        return tell_address(showing, field, row);
    case FIELD_TEXT: {
        char text[256] = "";
        memcpy(text, row + field->offset, field->size < sizeof text ? field->size : sizeof text - 1);
        return tell_text(showing, text);
    }
    case FIELD_BYTES:
        return tell_bytes(showing, row + field->offset, field->size);
    case FIELD_NAME:
        return tell_name(showing, field, row);
    case FIELD_BLOB:
        return tell_blob(showing, field, row);
    case FIELD_FLAGS:
    case FIELD_CHOICE:
        return tell_words(showing, field, element(row, field, 0, false));
    default:
        return tell_numbers(showing, field, row);
    }
}

static int tell_table(struct showing *showing, const struct field_table *table)
{
    size_t count = 0;
    const uint8_t *rows = table->rows(showing->snapshot, &count);
    showing->shown =
        (struct reseat_shown){.kind = RESEAT_SHOWN_TABLE, .table = table->name, .row_count = count};
    int r = showing->function(showing->userdata, &showing->shown);
    for (size_t i = 0; r == 0 && i < count && table->row_bytes > 1; i++) {
        showing->shown.row = i;
        for (const struct field *field = table->fields; r == 0 && field->name; field++) {
            r = tell_field(showing, field, rows + i * table->row_bytes);
            field += field->kind == FIELD_BLOB; /* the length has been told */
        }
    }
    return r;
}

int reseat_show(const char *path, reseat_shown_fn shown, void *userdata, struct reseat_error **ret_error)
{
    _cleanup_(image_close) struct image *image = NULL;
    int r = image_open_to_look(path, &image, ret_error);
    if (r < 0)
        return r;
    struct showing showing = {.snapshot = image_snapshot(image), .function = shown, .userdata = userdata};
    for (const struct field_table *table = field_tables; r == 0 && table->name; table++)
        r = tell_table(&showing, table);
    return r < 0 ? error_errno(ret_error, r, "showing %s", path) : 0;
}

int reseat_check_memory(const char *path, reseat_progress_fn progress, void *userdata,
                        struct reseat_error **ret_error)
{
    _cleanup_(image_close) struct image *image = NULL;
    struct image_progress report = {progress, userdata};
    int r = image_open_to_look(path, &image, ret_error);
    return r < 0 ? r : image_verify_memory(image, &report, ret_error);
}
