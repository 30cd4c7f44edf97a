/* Installs and closes capabilities in a process, to be killed in the middle of it:
 *
 *   installer install|replace|ring|close PID FIRST COUNT
 *
 * Eventfds at COUNT selectors from FIRST on, over what is there (replace), an io_uring instance at the first
 * of them (ring). Ends with 0, or with 1 and a sentence. */
#include "reseat.h"

#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define COUNT_MAX 1000

static int make_ring(void)
{
    struct io_uring_params parameters = {0};
    return (int)syscall(SYS_io_uring_setup, 4, &parameters);
}

int main(int argc, char **argv)
{
    static struct reseat_pd_slot slots[COUNT_MAX];
    static unsigned selectors[COUNT_MAX];
    struct reseat_error *error = NULL;
    struct reseat_pd *pd = NULL;
    if (argc != 5)
        return 2;
    unsigned first = (unsigned)atoi(argv[3]), count = (unsigned)atoi(argv[4]);
    int cap = eventfd(0, EFD_CLOEXEC), ring = strcmp(argv[1], "ring") == 0 ? make_ring() : -1;
    for (unsigned i = 0; i < count && i < COUNT_MAX; i++) {
        selectors[i] = first + i;
        slots[i] = (struct reseat_pd_slot){first + i, i == 0 && ring >= 0 ? ring : cap,
                                           strcmp(argv[1], "replace") == 0 ? RESEAT_REPLACE : 0};
    }
    int r = reseat_pd_open(atoi(argv[2]), &pd, &error);
    if (r == 0)
        r = strcmp(argv[1], "close") == 0 ? reseat_pd_close_many(pd, selectors, count, &error)
                                          : reseat_pd_install_many(pd, slots, count, &error);
    if (r < 0)
        fprintf(stderr, "%s\n", reseat_error_message(error));
    return r < 0;
}
