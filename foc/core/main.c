/* Core's beginning and end: it looks at the machine, prepares itself, runs its tests and ends the machine
 * with their result. */
#include "../kernel/kernel.h"
#include "../native_pd_foc.h"
#include "check.h"
#include "console.h"
#include "core.h"
#include "tests.h"

/* Above all components: core must be able to stop one that never waits. */
#define CORE_PRIORITY 200

_Noreturn void core_main(const struct foc_kip *kip);

static void give_up(const struct reseat_error *error, const char *what)
{
    print("core: %s%s%s\n", what, error ? ": " : "", error ? error->message : "");
    console_exit(false);
}

static void introduce(const struct foc_kip *kip)
{
    unsigned processors = 0;
    for (unsigned i = 0; i < 64; i++)
        processors += processors_online >> i & 1;
    print("\nReseat on Fiasco.OC: core, in place of sigma0\n");
    print("         kernel: version %x, %u processor%s, debugger: %s\n", kip->version, processors,
          processors == 1 ? "" : "s", kernel_cap_is_valid(FOC_SLOT_TASK, FOC_SLOT_DEBUGGER) ? "yes" : "no");
    print("         memory: %zu MiB free; counting %s\n", pages_free() >> 8, count_unit());
}

void core_main(const struct foc_kip *kip)
{
    struct reseat_error *error = NULL;
    if (console_open() < 0)
        console_exit(false);
    if (!kip || kip->magic != FOC_KIP_MAGIC)
        give_up(NULL, "not started as sigma0: there is no kernel info page");
    serve_init(kip);
    slots_init();
    count_calibrate();
    if (pages_init(kip) < 0)
        give_up(NULL, "the kernel info page describes no free memory");
    if (kernel_processors(FOC_SLOT_SCHEDULER, &processors_online) < 0)
        processors_online = 1;
    kernel_thread_run(FOC_SLOT_SCHEDULER, FOC_SLOT_THREAD, CORE_PRIORITY, 1);
    introduce(kip);
    if (foc_native_init(FOC_SLOT_FACTORY, &error) < 0)
        give_up(error, "cannot prepare the native PD interface");
    test_native();
    test_trial(kip);
    print("%u passed, %u failed\n", checks.passed, checks.failed);
    console_exit(checks.failed == 0 && checks.passed > 0);
}
