/* Errors as values without a heap: a few places that are used in turn. An error is made where something
 * failed, gets context on its way up and is printed at once, so the places never run out in practice; if they
 * do, the oldest sentence is written over, never the code that the function returned. */
#include "base.h"

#define ERROR_PLACES 8

static struct reseat_error places[ERROR_PLACES];
static unsigned next_place;

int error_set(struct reseat_error **ret_error, int code, const char *format, ...)
{
    if (!ret_error)
        return code;
    struct reseat_error *error = &places[next_place++ % ERROR_PLACES];
    error->code = code;
    va_list arguments;
    va_start(arguments, format);
    text_format_list(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    *ret_error = error;
    return code;
}

int error_prefix(struct reseat_error **ret_error, int code, const char *format, ...)
{
    if (!ret_error || !*ret_error)
        return code;
    struct reseat_error *inner = *ret_error, *error = &places[next_place++ % ERROR_PLACES];
    if (error == inner) /* all places hold older errors: take the one behind */
        error = &places[next_place++ % ERROR_PLACES];
    va_list arguments;
    va_start(arguments, format);
    size_t length = text_format_list(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    error->code = inner->code;
    text_format(error->message + length, sizeof error->message - length, ": %s", inner->message);
    *ret_error = error;
    return code;
}
