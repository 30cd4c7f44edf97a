/* Some calls note the number of the descriptor through which they are made, and show it later: epoll_ctl(2)
 * in the key of an interest, F_SETLEASE and O_ASYNC in the si_fd of a signal (fcntl(2)). What is to look as
 * if the process had made the call must be made at the process's number; a thread with a descriptor table of
 * its own (unshare(2) CLONE_FILES) can put anything at any number without being in anybody's way. */
#include "object/at_selector.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

struct errand {
    native_cap_t cap;
    selector_t selector;
    int other;
    int (*act)(int fd, int other, const void *userdata);
    const void *userdata;
    int result;
};

static void *run(void *argument)
{
    struct errand *errand = argument;
    int number = (int)errand->selector, other = errand->other;
    errand->result = -EBADF;
    if (unshare(CLONE_FILES) < 0) {
        errand->result = -errno;
        return NULL;
    }
    if (other == number) /* out of the way */
        other = fcntl(other, F_DUPFD_CLOEXEC, number + 1);
    if (errand->cap != number && dup2(errand->cap, number) < 0)
        errand->result = -errno;
    else
        errand->result = errand->act(number, other, errand->userdata);
    return NULL;
}

/* Numbers may be above our own limit. */
static int raise_limit(selector_t selector)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || (rlim_t)selector + 2 <= limit.rlim_cur)
        return 0;
    limit.rlim_cur = (rlim_t)selector + 2;
    limit.rlim_max = limit.rlim_max < limit.rlim_cur ? limit.rlim_cur : limit.rlim_max;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

int at_selector(native_cap_t cap, selector_t selector, int other,
                int (*act)(int fd, int other, const void *userdata), const void *userdata)
{
    struct errand errand = {cap, selector, other, act, userdata, 0};
    pthread_t thread;
    int r = raise_limit(selector);
    if (r < 0)
        return r;
    r = pthread_create(&thread, NULL, run, &errand);
    if (r != 0)
        return -r;
    pthread_join(thread, NULL);
    return errand.result;
}
