/* The iterator, as a property: asking for every number one by one, going from used selector to used selector,
 * and taking many at once give the same, and the same as /proc, of a capability space at rest; of one that
 * changes at random all the time, each of them gives every capability that was there from the beginning to
 * the end exactly once, as the same object, and nothing twice. */
#include "test_object_subject.h"

#include "reseat.h"

#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define NUMBERS   700 /* below which everything happens */
#define ROUNDS    60
#define PART_MOST 40

/* Between a target and its test. */
static struct shared {
    atomic_int may_rest;
    atomic_int rests;
    unsigned seed;
    bool is_stable[NUMBERS];
} * shared;

static uint64_t random_state;

static unsigned random_below(unsigned limit)
{
    random_state = random_state * 6364136223846793005U + 1442695040888963407U;
    return (unsigned)(random_state >> 33) % limit;
}

static void *change_for_ever(void *unused)
{
    for (;;) {
        int number = (int)random_below(NUMBERS);
        if (!shared->is_stable[number] && close(number) < 0)
            dup2(0, number);
        if (atomic_load(&shared->may_rest)) {
            atomic_store(&shared->rests, 1);
            while (atomic_load(&shared->may_rest))
                usleep(200);
            atomic_store(&shared->rests, 0);
        }
    }
    return unused;
}

/* Stable selectors hold eventfds whose count is their number; the others come and go as copies of selector 0.
 */
static void set_up_changing(void *unused)
{
    (void)unused;
    random_state = shared->seed;
    closefrom(0);
    for (int i = 0; i < NUMBERS; i++) {
        shared->is_stable[i] = i == 0 || random_below(3) == 0;
        if (!shared->is_stable[i])
            continue;
        int fd = eventfd((unsigned)i, EFD_NONBLOCK);
        SUBJECT_CHECK(fd == i || (dup2(fd, i) == i && close(fd) == 0));
    }
    pthread_t thread;
    SUBJECT_CHECK(pthread_create(&thread, NULL, change_for_ever, NULL) == 0);
}

/* ---- ways to go through it ---- */

/* What was found: how often, and the object at a stable selector as its count. */
struct found {
    unsigned times[NUMBERS];
    int64_t object[NUMBERS]; /* -1: not looked at */
};

static struct reseat_pd *pd;

/* An eventfd's count says which object it is. It is in fdinfo, so that nobody has to take it. */
static void note(struct found *found, unsigned selector, int cap)
{
    assert_in_range(selector, 0, NUMBERS - 1);
    found->times[selector]++;
    if (cap < 0)
        return;
    char path[64];
    _cleanup_free_ char *info = NULL;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", cap);
    assert_int_equal(file_read(-1, path, &info, NULL), 0);
    found->object[selector] = (int64_t)status_number(info, "eventfd-count", 16);
    close(cap);
}

static void go_by_counting(struct found *found)
{
    for (unsigned selector = 0; selector < NUMBERS; selector++) {
        struct reseat_error *error = NULL;
        int cap = -2;
        must(reseat_pd_request(pd, selector, &cap, NULL, &error), &error, "requesting");
        if (cap >= 0)
            note(found, selector, cap);
    }
}

static void go_by_next(struct found *found)
{
    for (unsigned selector = 0, next; selector != RESEAT_SELECTOR_END; selector = next) {
        struct reseat_error *error = NULL;
        int cap = -2;
        must(reseat_pd_request(pd, selector, &cap, &next, &error), &error, "requesting");
        assert_true(next > selector);
        if (cap >= 0)
            note(found, selector, cap);
    }
}

static void go_by_list(struct found *found)
{
    for (unsigned from = 0, next; from != RESEAT_SELECTOR_END; from = next) {
        unsigned selectors[PART_MOST];
        size_t count, capacity = 1 + random_below(PART_MOST);
        struct reseat_error *error = NULL;
        must(reseat_pd_list(pd, from, selectors, capacity, &count, &next, &error), &error, "listing");
        assert_true(next > from && count <= capacity && (count == capacity || next == RESEAT_SELECTOR_END));
        for (size_t i = 0; i < count; i++) {
            assert_true(selectors[i] >= from && (i == 0 || selectors[i] > selectors[i - 1]));
            note(found, selectors[i], -1);
        }
    }
}

static void go_by_many(struct found *found)
{
    for (unsigned from = 0, next; from != RESEAT_SELECTOR_END; from = next) {
        struct reseat_pd_slot slots[PART_MOST];
        size_t count, capacity = 1 + random_below(PART_MOST);
        struct reseat_error *error = NULL;
        must(reseat_pd_request_many(pd, from, slots, capacity, &count, &next, &error), &error, "requesting");
        assert_true(next > from && count <= capacity && (count == capacity || next == RESEAT_SELECTOR_END));
        for (size_t i = 0; i < count; i++) {
            assert_true(slots[i].selector >= from && (i == 0 || slots[i].selector > slots[i - 1].selector));
            assert_int_equal(slots[i].flags, RESEAT_READ | RESEAT_WRITE);
            note(found, slots[i].selector, slots[i].cap);
        }
    }
}

static void go_by_proc(struct found *found)
{
    _cleanup_close_ int proc_fd = proc_open(reseat_pd_pid(pd));
    _cleanup_free_ int *numbers = NULL;
    size_t count;
    assert_int_equal(proc_list_numbers(proc_fd, "fd", &numbers, &count), 0);
    for (size_t i = 0; i < count; i++)
        note(found, (unsigned)numbers[i], -1);
}

static const struct way {
    const char *name;
    void (*go)(struct found *found);
} ways[] = {
    {"counting", go_by_counting}, {"next", go_by_next},  {"list", go_by_list},
    {"many", go_by_many},         {"/proc", go_by_proc},
};

static struct found go(const struct way *way)
{
    struct found found = {0};
    memset(found.object, -1, sizeof found.object);
    way->go(&found);
    return found;
}

static void check_stable(const struct way *way, const struct found *found)
{
    for (unsigned i = 0; i < NUMBERS; i++) {
        if (found->times[i] > 1)
            fail_msg("%s: selector %u came %u times", way->name, i, found->times[i]);
        if (shared->is_stable[i] && found->times[i] != 1)
            fail_msg("%s: selector %u was there all the while, and did not come", way->name, i);
        if (found->object[i] >= 0 && found->object[i] != (shared->is_stable[i] ? i : 0))
            fail_msg("%s: selector %u came as the object of %lld", way->name, i, (long long)found->object[i]);
    }
}

/* ---- the tests ---- */

static pid_t target;

static int start_target(void **state)
{
    (void)state;
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(shared, MAP_FAILED);
    random_state = shared->seed = (unsigned)time(NULL) * 1000003U + (unsigned)getpid();
    print_message("seed %u\n", shared->seed);
    target = subject_start(set_up_changing, NULL);
    struct reseat_error *error = NULL;
    must(reseat_pd_open(target, &pd, &error), &error, "opening");
    return 0;
}

static int end_target(void **state)
{
    (void)state;
    reseat_pd_free(pd);
    subject_stop(target);
    return munmap(shared, sizeof *shared);
}

static void stable_ones_come_exactly_once(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++)
        for (size_t i = 0; i < COUNT_OF(ways); i++) {
            struct found found = go(&ways[i]);
            check_stable(&ways[i], &found);
        }
}

static void all_ways_agree_at_rest(void **state)
{
    (void)state;
    for (int round = 0; round < ROUNDS; round++) {
        atomic_store(&shared->may_rest, 1);
        while (!atomic_load(&shared->rests))
            usleep(100);
        struct found first = go(&ways[0]);
        check_stable(&ways[0], &first);
        for (size_t i = 1; i < COUNT_OF(ways); i++) {
            struct found found = go(&ways[i]);
            check_stable(&ways[i], &found);
            for (unsigned number = 0; number < NUMBERS; number++)
                if (found.times[number] != first.times[number])
                    fail_msg("selector %u: %s found it %u times, %s %u times", number, ways[0].name,
                             first.times[number], ways[i].name, found.times[number]);
        }
        atomic_store(&shared->may_rest, 0);
        while (atomic_load(&shared->rests))
            usleep(100);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(stable_ones_come_exactly_once, start_target, end_target),
        cmocka_unit_test_setup_teardown(all_ways_agree_at_rest, start_target, end_target),
    };
    return cmocka_run_group_tests_name("the iterator", tests, NULL, NULL);
}
