/* Checks: a sentence with ok or NOT OK before it, and a sum at the end. And counting instructions. */
#pragma once

#include "../base/base.h"

struct checks {
    unsigned passed, failed;
};
extern struct checks checks;

bool check(bool is_well, const char *format, ...) _printf_(2, 3);
/* For functions with an error: its sentence is printed when it failed. (By its address: the call that sets it
 * is an argument too.) */
bool check_result(int r, struct reseat_error *const *error, const char *format, ...) _printf_(3, 4);

/* What the time stamp counter counts. Under QEMU's -icount shift=0 a nanosecond of virtual time passes for
 * each instruction, and the counter counts just that: found out by running a known number of them. */
uint64_t count_now(void);
void count_calibrate(void);
const char *count_unit(void); /* "instructions", or "ticks (…)" */
