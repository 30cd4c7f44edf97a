/* The ground floor: errors as values, resources that clean up after themselves, and the few helpers for
 * files, arrays and procfs that every room above needs. Nothing here knows what a checkpoint is.
 *
 * Convention of the whole project: a function returns 0 (or a count) or a negative errno; it writes results
 * through `ret_` parameters only on success; a function with an error parameter sets it on every failure. */
#pragma once

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>

/* ---- resources ---- */

#define _cleanup_(function)       __attribute__((cleanup(function)))
#define _cleanup_free_            _cleanup_(base_free)
#define _cleanup_close_           _cleanup_(base_close)
#define _cleanup_fclose_          _cleanup_(base_fclose)
#define _cleanup_closedir_        _cleanup_(base_closedir)
#define _cleanup_error_           _cleanup_(base_error_free)
#define _printf_(position, first) __attribute__((__format__(printf, position, first)))

/* Hands a resource on: yields its value and leaves the "nothing" value behind for the cleanup. */
#define TAKE_GENERIC(variable, nothing)                                                                      \
    ({                                                                                                       \
        __typeof__(variable) taken_ = (variable);                                                            \
        (variable) = (nothing);                                                                              \
        taken_;                                                                                              \
    })
#define TAKE_FD(fd)     TAKE_GENERIC(fd, -EBADF)
#define TAKE_PTR(ptr)   TAKE_GENERIC(ptr, NULL)

#define COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

void base_free(void *pointer_to_pointer);
void base_close(const int *fd);
void base_fclose(FILE **file);
void base_closedir(DIR **dir);

/* ---- errors ---- */

/* A code (negative errno) and one sentence for people. Made by the function that failed, prefixed with
 * context on its way up, printed once, by the command. */
struct reseat_error {
    int code;
    char *message;
};

/* Both return `code`, so that `return error_set(...)` reads well; `ret_error` may be NULL. error_errno() ends
 * the sentence with the text of the errno, error_set() leaves it as written. */
int error_set(struct reseat_error **ret_error, int code, const char *format, ...) _printf_(3, 4);
int error_errno(struct reseat_error **ret_error, int code, const char *format, ...) _printf_(3, 4);
/* Puts "context: " in front of an error that came from below; returns its code. */
int error_prefix(struct reseat_error **ret_error, int code, const char *format, ...) _printf_(3, 4);
void base_error_free(struct reseat_error **error);

/* ---- files ---- */

/* Whole file as a NUL-terminated string (procfs files have no size: read until the end). */
int file_read(int dir_fd, const char *path, char **ret_text, size_t *ret_length);
int fd_read_whole(int fd, char **ret_text, size_t *ret_length);
int fd_write_all(int fd, const void *data, size_t length);
int fd_write_at(int fd, const void *data, size_t length, uint64_t offset);
/* The target of a symbolic link as a string of its own. */
int link_read(int dir_fd, const char *path, char **ret_target);

/* As many descriptors as we may have (RLIMIT_NOFILE). */
void descriptor_limit_raise(void);

/* ---- time ---- */

uint64_t now_ns(void); /* CLOCK_MONOTONIC, nanoseconds */

/* ---- arrays ----
 * `items` grows by doubling whenever `count` is a power of two, so no capacity needs to be kept. Yields a
 * pointer to the new, zeroed last item, or NULL (out of memory, nothing changed). */
#define array_append(items, count)                                                                           \
    ((__typeof__(items))array_append_item((void **)&(items), &(count), sizeof *(items)))
void *array_append_item(void **items, size_t *count, size_t item_size);

/* ---- procfs ---- */

/* Directory descriptor of /proc/PID. -ESRCH if there is no such process. */
int proc_open(pid_t pid);
/* Value of `name` ("Uid", "NSpid") in the text of a status file: points behind the colon and white space. */
const char *status_find(const char *status, const char *name);
/* The same as a number in the given base; 0 if the line is missing. */
uint64_t status_number(const char *status, const char *name, int base);
/* The four of "Uid" or "Gid": real, effective, saved, of the file system. */
bool status_ids(const char *status, const char *name, uint32_t ids[4]);
/* The numbers of NSpid, outermost PID namespace first; returns how many, at most `capacity`. */
size_t status_ns_pids(const char *status, uint32_t *pids, size_t capacity);
/* The number of this boot (random(4)), which a checkpoint notes; `size` of 37 bytes is enough. */
int boot_id_read(char *buffer, size_t size);
/* Whether it is this boot in which `boot_id` was noted. No, if that is empty or nothing can be read. */
bool boot_id_is_current(const char *boot_id);
/* Copies what stands from `text` to the end of its line, cut to the size. For sscanf(3), which looks for the
 * end of all that it is given: line by line through a text of megabytes, that takes minutes. */
void line_copy(const char *text, char *buffer, size_t size);
/* All entries of a procfs directory that are numbers ("task", "fd", "" for processes), ascending. */
int proc_list_numbers(int dir_fd, const char *path, int **ret_numbers, size_t *ret_count);

/* What /proc/PID/stat says, see proc_pid_stat(5). */
struct proc_stat {
    char comm[64];
    char state;
    int parent, group, session, tty, foreground_group;
    unsigned flags;      /* PF_*, include/linux/sched.h */
    uint64_t start_time; /* clock ticks since boot: with the PID it names a process for good */
};
int proc_stat_read(int proc_fd, struct proc_stat *ret_stat);
/* proc_stat_read() by number; -ESRCH if there is none. */
int proc_stat_of(pid_t pid, struct proc_stat *ret_stat);

/* ---- system calls that the C library of Debian 12 does not wrap ---- */

int sys_pidfd_open(pid_t pid);
int sys_pidfd_getfd(int pidfd, int fd);
int sys_pidfd_send_signal(int pidfd, int signal);
/* kcmp(2): 0 same, 1 less, 2 greater, 3 not the same and not ordered, or a negative errno. */
int sys_kcmp(pid_t a, pid_t b, int type, unsigned long index_a, unsigned long index_b);
