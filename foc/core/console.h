/* The serial line and the way out: QEMU's isa-debug-exit device, whose status is value * 2 + 1. */
#pragma once

#include "../base/base.h"

int console_open(void);
void print(const char *format, ...) _printf_(1, 2);
_Noreturn void console_exit(bool is_success);
