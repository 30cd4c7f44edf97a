/* System V objects: they belong to the namespace, not to the process; attachments and what is to be undone
 * when the process ends belong to the process (shmat(2), semop(2)). The peer makes the objects and removes
 * them in the end. */
#include "subject.h"

#include <sys/ipc.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>

static void wait_for_the_end(void)
{
    sigset_t end;
    int caught;

    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    sigwait(&end, &caught);
}

/* ---- shared memory ---- */

static void shared_memory(void)
{
    int id = (int)receive_number();
    char *memory = shmat(id, NULL, 0);
    struct shmid_ds state;

    CHECK(memory != (char *)-1);
    fill(memory, 8192, 1);
    be_checkpointed();
    CHECK(is_filled(memory, 8192, 1));
    MUST(shmctl(id, IPC_STAT, &state));
    CHECK(state.shm_nattch >= 1);
    char *again = shmat(id, NULL, 0);
    memory[0] ^= 1;
    CHECK(again[0] == memory[0] && shmdt(again) == 0);
    memory[0] ^= 1;
}

static void make_shared_memory(void)
{
    int id = MUST(shmget(IPC_PRIVATE, 8192, 0600));

    send_number(id);
    wait_for_the_end();
    shmctl(id, IPC_RMID, NULL);
}

/* ---- what the end of the process undoes ---- */

static void undone_at_the_end(void)
{
    int id = (int)receive_number();

    MUST(semop(id, &(struct sembuf){0, 5, SEM_UNDO}, 1));
    be_checkpointed();
    CHECK_EQUAL(semctl(id, 0, GETVAL), 5);
    send_number(0);
    receive_number();
}

static bool nothing_received(void)
{
    char byte;

    return recv(PEER, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0;
}

/* Five as long as the subject lives, and nothing is undone in between. */
static void watch_semaphore(void)
{
    int id = MUST(semget(IPC_PRIVATE, 1, 0600));
    const char *wrong = NULL;

    MUST(semctl(id, 0, SETVAL, 0));
    send_number(id);
    while (semctl(id, 0, GETVAL) == 0)
        sleep_ms(1);
    while (nothing_received())
        if (semctl(id, 0, GETVAL) != 5)
            wrong = "the operation was undone in between";
    receive_number();
    send_number(0);
    for (int i = 0; i < 2000 && semctl(id, 0, GETVAL) != 0; i++)
        sleep_ms(1);
    if (semctl(id, 0, GETVAL) != 0)
        wrong = "the operation was not undone at the end";
    semctl(id, 0, IPC_RMID);
    if (wrong)
        fail(__FILE__, __LINE__, "%s", wrong);
    wait_for_the_end();
}

const struct subject subjects[] = {
    {"shared-memory", shared_memory, make_shared_memory},
    {"undone-at-the-end", undone_at_the_end, watch_semaphore,
     .skip =
         "copy,keep: what one process has to undo is undone when it ends, and only once; cold,held: what it "
         "has to undo was undone at its end, and nobody can see it"},
    {0},
};
