/* What the obstacles_*.c files share: one inspection of one process. Each of them looks at one side of it and
 * adds sentences; none stops the process or changes anything in it. */
#pragma once

#include "process/process.h"

struct inspection {
    pid_t pid;
    enum snapshot_form form;
    bool leave_running;

    int proc_fd; /* /proc/PID: goes stale, and every read fails, when the process ends */
    int pidfd;
    struct proc_stat stat;
    char *status; /* text of /proc/PID/status */
    int *tids;    /* its threads, ascending, without the kernel's own workers */
    size_t tid_count;
    char who[96]; /* "PID 12 (redis-server)": how every sentence begins or goes on */

    bool has_poll_worker; /* the kernel runs an iou-sqp-* thread in it */
    bool has_userfaultfd; /* at a selector of its own */
    struct obstacles *obstacles;
};

/* An io_uring instance that has a selector. */
struct ring_place {
    uint64_t inode;
    int selector;
    bool mapped; /* found in the memory map */
};

/* A process chooses its name, and the names of its queues: no control character of it reaches a terminal. */
void make_printable(char *text);

/* A list of processes for people, "12 (vim), 15 (sleep) and 3 more". */
struct name_list {
    char text[512];
    size_t count, named; /* added, and of these in the text */
};
void name_list_add(struct name_list *list, pid_t pid, const char *name);
/* Its text, with how many did not fit. */
const char *name_list_finish(struct name_list *list);

/* The value of a line of a status text, as the blank-free name that people read ("Name"), cut to fit. */
void status_copy(const char *status, const char *name, char *ret_value, size_t capacity);
/* A file of a thread or process that may have gone meanwhile: -ESRCH for every way in which that shows. */
int inspection_read(int dir_fd, const char *path, char **ret_text);
/* Says which file of the process could not be read, and what that means. */
int inspection_fail(const struct inspection *inspection, int code, const char *path,
                    struct reseat_error **ret_error);

/* obstacles_family.c: children, tracees, members of its session and group, sharers of its memory */
int find_family_obstacles(struct inspection *inspection, struct reseat_error **ret_error);
/* obstacles_threads.c: threads with something of their own, seccomp, shadow stacks, registered rings */
int find_thread_obstacles(struct inspection *inspection, struct reseat_error **ret_error);
/* obstacles_place.c: PID namespaces, the service manager, keyrings */
int find_place_obstacles(struct inspection *inspection, struct reseat_error **ret_error);
/* obstacles_memory.c: AIO contexts, userfaultfd, huge pages, rings without a selector */
int find_memory_obstacles(struct inspection *inspection, struct ring_place *rings, size_t ring_count,
                          struct reseat_error **ret_error);
/* obstacles_capabilities.c; hands out the io_uring instances that it met */
int find_capability_obstacles(struct inspection *inspection, struct ring_place **ret_rings,
                              size_t *ret_ring_count, struct reseat_error **ret_error);
/* obstacles_io_uring.c: one ring; writes its inode */
int find_ring_obstacles(struct inspection *inspection, int selector, uint64_t *ret_inode,
                        struct reseat_error **ret_error);

/* The systemd service in a /proc/PID/cgroup text: its name in `ret_service`, or false. Exposed for its test.
 */
bool cgroup_find_service(const char *cgroup, char *ret_service, size_t capacity);
/* obstacles_threads.c's question, also asked by eligible.c: 0 if this process may suspend a filter (a real
 * attempt, on a child of ours), else the negative errno. */
int seccomp_try_suspend(void);
