/* Lets a test of the PD interface run a second time, through core: with THROUGH_CORE a core is started for
 * the whole program, and any_pd_open() connects to it; without, it opens the process itself. So a test is
 * written once. */
#pragma once

#include "base/base.h"
#include "core/core.h"
#include "reseat.h"
#include "test_object_subject.h"

#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define CORE_DIRECTORY "/tmp/reseat-test-core-XXXXXX"
static char core_directory[sizeof CORE_DIRECTORY];
static char core_path[sizeof core_directory + 8];
static pid_t core_pid;

static inline int core_start(void **state)
{
    (void)state;
#ifdef THROUGH_CORE
    memcpy(core_directory, CORE_DIRECTORY, sizeof core_directory);
    if (!mkdtemp(core_directory))
        return -1;
    snprintf(core_path, sizeof core_path, "%s/socket", core_directory);
    core_pid = fork();
    if (core_pid == 0) {
        char checkpoints[sizeof core_path + 16];
        snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", core_directory);
        const struct core_options options = {.socket_path = core_path,
                                             .configuration_path = "/dev/null",
                                             .checkpoint_directory = checkpoints};
        struct reseat_error *error = NULL;
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        int r = core_run(&options, &error);
        if (r < 0)
            fprintf(stderr, "core: %s\n", error->message);
        _exit(r < 0);
    }
    for (int i = 0; i < 5000 && access(core_path, F_OK) < 0; i++)
        usleep(1000);
#endif
    return 0;
}

static inline int core_stop(void **state)
{
    (void)state;
    if (core_pid > 0) {
        kill(core_pid, SIGTERM);
        waitpid(core_pid, NULL, 0);
        core_pid = 0;
        char checkpoints[sizeof core_path + 16];
        snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", core_directory);
        rmdir(checkpoints);
        rmdir(core_directory); /* with its socket gone, it is empty */
    }
    return 0;
}

static inline int any_pd_open(pid_t pid, struct reseat_pd **ret_pd, struct reseat_error **ret_error)
{
    return core_pid > 0 ? reseat_pd_connect(core_path, pid, ret_pd, ret_error)
                        : reseat_pd_open(pid, ret_pd, ret_error);
}

static inline struct reseat_pd *open_pd(pid_t pid)
{
    struct reseat_pd *pd = NULL;
    struct reseat_error *error = NULL;
    must(any_pd_open(pid, &pd, &error), &error, "opening");
    return pd;
}
