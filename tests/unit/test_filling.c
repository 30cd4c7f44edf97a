/* Through the public header alone: how far a restore from an image says that it has got, in the checking as
 * in the filling of memory and files, and that it can be ended by that. */
#include "test_object_subject.h"

#include "reseat.h"

#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define MEMORY_BYTES (8 << 20)
#define FILE_BYTES   (3 << 20)

static void set_up(void *userdata)
{
    (void)userdata;
    close_range(3, ~0U, 0); /* locks on files that the test was given are not ours to hold twice */
    char *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    SUBJECT_CHECK(memory != MAP_FAILED);
    memset(memory, 'm', MEMORY_BYTES);
    SUBJECT_CHECK(write(memfd_create("file", 0), memory, FILE_BYTES) == FILE_BYTES);
}

struct watch {
    uint64_t done, total;
    unsigned between; /* reports from the second half, before its end */
    bool goes_back;
    bool ends_it; /* in the second half */
};

static int note_progress(void *userdata, uint64_t done, uint64_t total)
{
    struct watch *watch = userdata;
    watch->goes_back |= done < watch->done || (watch->total && total != watch->total);
    watch->done = done;
    watch->total = total;
    watch->between += done > total / 2 && done < total;
    return watch->ends_it && done > total / 2 ? -EINTR : 0;
}

static int restore(const char *dir, struct watch *watch)
{
    struct reseat_restore_options options = {.flags = RESEAT_COLD | RESEAT_NEW_PID | RESEAT_CHILD,
                                             .allow = RESEAT_ALLOW_LOST,
                                             .progress = note_progress,
                                             .progress_userdata = watch};
    struct reseat_restore_result result;
    struct reseat_error *error = NULL;
    int r = reseat_restore(dir, &options, &result, &error);
    if (r < 0 && !watch->ends_it)
        fail_with_error("restoring", error);
    reseat_error_free(error);
    if (r == 0) {
        close(result.pidfd);
        subject_stop(result.pid);
    }
    return r;
}

static void test_progress(void **state)
{
    (void)state;
    char place[] = "/tmp/reseat-filling-XXXXXX", dir[64], core[96];
    struct reseat_checkpoint_options options = {.flags = RESEAT_IMAGE | RESEAT_LEAVE_RUNNING};
    struct reseat_checkpoint_result result;
    struct reseat_error *error = NULL;
    if (geteuid() != 0)
        skip(); /* a number of its own takes CAP_CHECKPOINT_RESTORE */
    assert_non_null(mkdtemp(place));
    snprintf(dir, sizeof dir, "%s/image", place);
    pid_t pid = subject_start(set_up, NULL);
    if (reseat_checkpoint(pid, dir, &options, &result, &error) < 0)
        fail_with_error("checkpointing", error);
    subject_stop(pid);

    struct watch whole = {0}, ended = {.ends_it = true};
    assert_int_equal(restore(dir, &whole), 0);
    assert_true(whole.total >= MEMORY_BYTES + FILE_BYTES && whole.done == whole.total);
    assert_true(whole.between >= FILE_BYTES >> 20 && !whole.goes_back);
    assert_int_equal(restore(dir, &ended), -EINTR);
    assert_true(waitpid(-1, NULL, 0) < 0 && errno == ECHILD); /* nothing was left behind */

    snprintf(core, sizeof core, "%s/%d.core", dir, pid);
    unlink(core);
    rmdir(dir);
    rmdir(place);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_progress)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
