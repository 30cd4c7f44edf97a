/* Text without a C library: a printf for the serial line and for error sentences. It writes into a buffer
 * that the caller gives, cuts what does not fit, and always ends it with NUL. */
#include "base.h"

struct output {
    char *text;
    size_t size, length;
};

static void put(struct output *output, char c)
{
    if (output->length + 1 < output->size)
        output->text[output->length++] = c;
}

static void put_padded(struct output *output, const char *text, size_t length, unsigned width, char fill,
                       bool is_left)
{
    for (size_t i = length; !is_left && i < width; i++)
        put(output, fill);
    for (size_t i = 0; i < length; i++)
        put(output, text[i]);
    for (size_t i = length; is_left && i < width; i++)
        put(output, ' ');
}

static size_t number_text(char *text, uint64_t value, unsigned base, bool is_negative)
{
    char reversed[24];
    size_t length = 0, at = 0;
    do {
        reversed[length++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    if (is_negative)
        text[at++] = '-';
    while (length)
        text[at++] = reversed[--length];
    return at;
}

struct conversion {
    bool is_left, is_long;
    char fill;
    unsigned width;
};

/* Reads flags, width and length from behind the percent sign; returns where the letter is. */
static const char *conversion_read(const char *format, struct conversion *conversion)
{
    *conversion = (struct conversion){.fill = ' '};
    for (; *format == '-' || *format == '0'; format++) {
        if (*format == '-')
            conversion->is_left = true;
        else
            conversion->fill = '0';
    }
    for (; *format >= '0' && *format <= '9'; format++)
        conversion->width = conversion->width * 10 + (unsigned)(*format - '0');
    for (; *format == 'l' || *format == 'z'; format++)
        conversion->is_long = true;
    return format;
}

static void put_number(struct output *output, const struct conversion *conversion, uint64_t value,
                       unsigned base, bool is_negative)
{
    char digits[32];
    size_t length = number_text(digits, value, base, is_negative);
    put_padded(output, digits, length, conversion->width, conversion->fill, conversion->is_left);
}

size_t text_format_list(char *text, size_t size, const char *format, va_list arguments)
{
    struct output output = {.text = text, .size = size};
    for (; *format; format++) {
        struct conversion conversion;
        if (*format != '%') {
            put(&output, *format);
            continue;
        }
        format = conversion_read(format + 1, &conversion);
        if (*format == 's') {
            const char *string = va_arg(arguments, const char *);
            size_t length = 0;
            while (string[length])
                length++;
            put_padded(&output, string, length, conversion.width, ' ', conversion.is_left);
        } else if (*format == 'c') {
            put(&output, (char)va_arg(arguments, int));
        } else if (*format == 'd') {
            long value = conversion.is_long ? va_arg(arguments, long) : va_arg(arguments, int);
            put_number(&output, &conversion, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, 10,
                       value < 0);
        } else if (*format == 'u' || *format == 'x') {
            uint64_t value =
                conversion.is_long ? va_arg(arguments, unsigned long) : va_arg(arguments, unsigned);
            put_number(&output, &conversion, value, *format == 'u' ? 10 : 16, false);
        } else if (*format == 'p') {
            put_number(&output, &conversion, (uintptr_t)va_arg(arguments, void *), 16, false);
        } else if (*format == '%') {
            put(&output, '%');
        } else if (!*format) {
            break;
        }
    }
    if (size)
        text[output.length] = '\0';
    return output.length;
}

size_t text_format(char *text, size_t size, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t length = text_format_list(text, size, format, arguments);
    va_end(arguments);
    return length;
}

bool text_equal(const char *a, const char *b)
{
    for (; *a && *a == *b; a++, b++)
        ;
    return *a == *b;
}

void text_base_name(const char *command_line, char *name, size_t size)
{
    size_t length = 0;
    for (; *command_line && *command_line != ' '; command_line++) {
        if (*command_line == '/')
            length = 0;
        else if (length + 1 < size)
            name[length++] = *command_line;
    }
    if (size)
        name[length] = '\0';
}
