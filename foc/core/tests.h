/* The tests that core runs, one after the other. */
#pragma once

#include "../abi/abi.h"

void test_native(void);
void test_trial(const struct foc_kip *kip);
