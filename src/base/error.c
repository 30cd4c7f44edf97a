/* Errors as values: a code and a sentence that gains context on its way up. */
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

/* Replaces whatever is there: an error is set by whoever fails last on the path that is returned. */
static int set_message(struct reseat_error **ret_error, int code, char *message)
{
    if (!ret_error) {
        free(message);
        return code;
    }
    base_error_free(ret_error);
    struct reseat_error *error = calloc(1, sizeof *error);
    if (error) {
        error->code = code;
        error->message = message;
        *ret_error = error;
    } else {
        free(message);
    }
    return code;
}

static _printf_(1, 0) char *format_message(const char *format, va_list arguments)
{
    char *text = NULL;
    return vasprintf(&text, format, arguments) < 0 ? NULL : text;
}

int error_set(struct reseat_error **ret_error, int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    char *text = format_message(format, arguments);
    va_end(arguments);
    return set_message(ret_error, code, text);
}

int error_errno(struct reseat_error **ret_error, int code, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    _cleanup_free_ char *text = format_message(format, arguments);
    va_end(arguments);
    char *whole = NULL;
    if (asprintf(&whole, "%s: %s", text ? text : "", strerror(-code)) < 0)
        whole = NULL;
    return set_message(ret_error, code, whole);
}

int error_prefix(struct reseat_error **ret_error, int code, const char *format, ...)
{
    if (!ret_error || !*ret_error)
        return code;
    va_list arguments;
    va_start(arguments, format);
    _cleanup_free_ char *text = format_message(format, arguments);
    va_end(arguments);
    char *whole = NULL;
    if (text && asprintf(&whole, "%s: %s", text, (*ret_error)->message) >= 0) {
        free((*ret_error)->message);
        (*ret_error)->message = whole;
    }
    return code;
}

void base_error_free(struct reseat_error **error)
{
    if (!*error)
        return;
    free((*error)->message);
    free(*error);
    *error = NULL;
}
