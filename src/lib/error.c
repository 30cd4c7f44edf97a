/* Errors as the caller sees them. */
#include "reseat.h"

#include "base/base.h"

int reseat_error_code(const struct reseat_error *error)
{
    return error ? error->code : 0;
}

const char *reseat_error_message(const struct reseat_error *error)
{
    return error && error->message ? error->message : "out of memory";
}

void reseat_error_free(struct reseat_error *error)
{
    base_error_free(&error);
}
