/* What threads hold and wait for when they are stopped: mutexes of all kinds and conditions. A thread that
 * the kernel ends marks its robust mutexes in memory that an heir shares (set_robust_list(2)): nothing of
 * that may be seen. */
#include "subject.h"

static volatile bool held, let_go;

static pthread_mutex_t *make_mutex(int type, int robustness, int protocol)
{
    static pthread_mutex_t mutexes[8];
    static int count;
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, type);
    pthread_mutexattr_setrobust(&attributes, robustness);
    pthread_mutexattr_setprotocol(&attributes, protocol);
    pthread_mutex_init(&mutexes[count], &attributes);
    return &mutexes[count++];
}

static void *hold(void *mutex)
{
    CHECK_EQUAL(pthread_mutex_lock(mutex), 0);
    held = true;
    while (!let_go)
        sleep_ms(1);
    CHECK_EQUAL(pthread_mutex_unlock(mutex), 0);
    return NULL;
}

/* Another thread holds it over the checkpoint: it is held afterwards, lets go, and then it is ours. */
static void held_by_another(pthread_mutex_t *mutex)
{
    pthread_t holder = start_thread(hold, mutex);

    while (!held)
        sleep_ms(1);
    be_checkpointed();
    CHECK_EQUAL(pthread_mutex_trylock(mutex), EBUSY);
    let_go = true;
    CHECK_EQUAL(pthread_mutex_lock(mutex), 0); /* EOWNERDEAD if the kernel has marked it */
    CHECK_EQUAL(pthread_mutex_unlock(mutex), 0);
    CHECK_EQUAL(pthread_join(holder, NULL), 0);
}

static void plain(void)
{
    held_by_another(make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE));
}

static void robust(void)
{
    held_by_another(make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE));
}

static void checking(void)
{
    held_by_another(make_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE));
}

/* The kernel keeps the owner of one that is waited for (FUTEX_LOCK_PI), so it must be told again. */
static void inheriting_priority(void)
{
    held_by_another(make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_INHERIT));
}

/* The robust list itself is there again: a thread that ends holding a mutex is found out. */
static void *die_holding(void *mutex)
{
    CHECK_EQUAL(pthread_mutex_lock(mutex), 0);
    held = true;
    while (!let_go)
        sleep_ms(1);
    return NULL;
}

static void robust_list_works_afterwards(void)
{
    pthread_mutex_t *mutex = make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE);
    pthread_t holder = start_thread(die_holding, mutex);

    while (!held)
        sleep_ms(1);
    be_checkpointed();
    let_go = true;
    CHECK_EQUAL(pthread_join(holder, NULL), 0);
    CHECK_EQUAL(pthread_mutex_lock(mutex), EOWNERDEAD);
    CHECK_EQUAL(pthread_mutex_consistent(mutex), 0);
    CHECK_EQUAL(pthread_mutex_unlock(mutex), 0);
}

static void held_by_the_first_thread(void)
{
    pthread_mutex_t *mutex = make_mutex(PTHREAD_MUTEX_ERRORCHECK, PTHREAD_MUTEX_ROBUST, PTHREAD_PRIO_NONE);

    CHECK_EQUAL(pthread_mutex_lock(mutex), 0);
    be_checkpointed();
    CHECK_EQUAL(pthread_mutex_lock(mutex), EDEADLK);
    CHECK_EQUAL(pthread_mutex_unlock(mutex), 0);
}

/* ---- in memory that another process shares: there the mark would be seen by others ---- */

static void robust_and_shared(void)
{
    int fd = MUST(memfd_create("mutex", MFD_CLOEXEC));
    MUST(ftruncate(fd, 4096));
    pthread_mutex_t *mutex = MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    pthread_mutexattr_t attributes;

    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(mutex, &attributes);
    CHECK_EQUAL(pthread_mutex_lock(mutex), 0);
    send_descriptor(fd);
    receive_number();
    be_checkpointed();
    sleep_ms(20);
    CHECK_EQUAL(pthread_mutex_unlock(mutex), 0);
}

/* Would get it at once, with EOWNERDEAD, if the kernel thought that its owner had died. */
static void robust_and_shared_peer(void)
{
    pthread_mutex_t *mutex =
        MUST(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, receive_descriptor(), 0));

    send_number(0);
    CHECK_EQUAL(pthread_mutex_lock(mutex), 0);
    CHECK_EQUAL(pthread_mutex_unlock(mutex), 0);
}

/* ---- waiting ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int value, waiting, woken;

static void *wait_for_value(void *argument)
{
    pthread_mutex_lock(&mutex);
    waiting++;
    while (value == 0)
        CHECK_EQUAL(pthread_cond_wait(&changed, &mutex), 0);
    woken++;
    pthread_mutex_unlock(&mutex);
    return argument;
}

static void conditions(void)
{
    enum { WAITERS = 12 };
    pthread_t threads[WAITERS];

    for (int i = 0; i < WAITERS; i++)
        threads[i] = start_thread(wait_for_value, NULL);
    for (bool all = false; !all; sleep_ms(1)) {
        pthread_mutex_lock(&mutex);
        all = waiting == WAITERS;
        pthread_mutex_unlock(&mutex);
    }
    be_checkpointed();
    pthread_mutex_lock(&mutex);
    CHECK_EQUAL(woken, 0);
    value = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < WAITERS; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    CHECK_EQUAL(woken, WAITERS);
}

static void *queue_for_mutex(void *argument)
{
    pthread_mutex_lock(&mutex);
    value++;
    pthread_mutex_unlock(&mutex);
    return argument;
}

static void queue_at_a_mutex(void)
{
    enum { WAITERS = 12 };
    pthread_t threads[WAITERS];

    pthread_mutex_lock(&mutex);
    for (int i = 0; i < WAITERS; i++)
        threads[i] = start_thread(queue_for_mutex, NULL);
    sleep_ms(20);
    be_checkpointed();
    CHECK_EQUAL(value, 0);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < WAITERS; i++)
        CHECK_EQUAL(pthread_join(threads[i], NULL), 0);
    CHECK_EQUAL(value, WAITERS);
}

static void *join(void *thread)
{
    CHECK_EQUAL(pthread_join(*(pthread_t *)thread, NULL), 0);
    woken++;
    return NULL;
}

/* The kernel must clear the tid word of the thread that ends afterwards (set_tid_address(2)), or the join
 * hangs. */
static void join_under_way(void)
{
    pthread_mutex_t *unused = make_mutex(PTHREAD_MUTEX_NORMAL, PTHREAD_MUTEX_STALLED, PTHREAD_PRIO_NONE);
    pthread_t first = start_thread(hold, unused);
    pthread_t second = start_thread(join, &first);

    while (!held)
        sleep_ms(1);
    sleep_ms(10);
    be_checkpointed();
    let_go = true;
    CHECK_EQUAL(pthread_join(second, NULL), 0);
    CHECK_EQUAL(woken, 1);
}

const struct subject subjects[] = {
    {"plain", plain, .new_pid = true},
    {"robust", robust},
    {"checking", checking},
    {"inheriting-priority", inheriting_priority},
    {"robust-list", robust_list_works_afterwards},
    {"held-by-the-first-thread", held_by_the_first_thread},
    {"robust-and-shared", robust_and_shared, robust_and_shared_peer,
     .skip = "copy,keep: two processes cannot both unlock what is locked once",
     .refused = "cold: has it, too"},
    {"conditions", conditions, .new_pid = true},
    {"queue", queue_at_a_mutex, .new_pid = true},
    {"join-under-way", join_under_way},
    {0},
};
