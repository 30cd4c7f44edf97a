/* Checks and counts. */
#include "check.h"

#include "console.h"

#define LOOP_ROUNDS    100000u
#define LOOP_TOLERANCE (LOOP_ROUNDS / 10) /* the timer's interrupts, which come in between */

struct checks checks;
static bool counts_instructions;

static void say(bool is_well, const char *format, va_list arguments, const struct reseat_error *error)
{
    char text[300];
    text_format_list(text, sizeof text, format, arguments);
    if (is_well)
        checks.passed++;
    else
        checks.failed++;
    print("%s   %s%s%s\n", is_well ? "ok    " : "NOT OK", text, error ? ": " : "",
          error ? error->message : "");
}

bool check(bool is_well, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(is_well, format, arguments, NULL);
    va_end(arguments);
    return is_well;
}

bool check_result(int r, struct reseat_error *const *error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    say(r >= 0, format, arguments, r < 0 ? *error : NULL);
    va_end(arguments);
    return r >= 0;
}

uint64_t count_now(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* A loop of two instructions a round. */
void count_calibrate(void)
{
    uint64_t rounds = LOOP_ROUNDS, begin = count_now();
    __asm__ volatile("1: dec %0; jnz 1b" : "+r"(rounds) : : "cc");
    uint64_t counted = count_now() - begin;
    counts_instructions = counted >= 2 * LOOP_ROUNDS && counted <= 2 * LOOP_ROUNDS + LOOP_TOLERANCE;
}

const char *count_unit(void)
{
    return counts_instructions ? "instructions" : "ticks (run with -icount shift=0 for instructions)";
}
