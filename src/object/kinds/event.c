/* What a program waits on besides files and sockets: eventfd(2), timerfd_create(2), signalfd(2), epoll(7).
 * All are anonymous inodes, told by their link; their state stands in fdinfo, proc_pid_fdinfo(5). */
#include "object/kinds.h"

#include <errno.h>
#include <signal.h>
#include <time.h>

static bool match_eventfd(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[eventfd]") == 0;
}

static bool match_timerfd(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[timerfd]") == 0;
}

static bool match_signalfd(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[signalfd]") == 0;
}

static bool match_epoll(const struct object_sight *sight)
{
    return strcmp(sight->link, "anon_inode:[eventpoll]") == 0;
}

/* ---- eventfd ---- */

static int describe_eventfd(const struct object_sight *sight, char **ret_name)
{
    bool is_semaphore = status_number(sight->info, "eventfd-semaphore", 10) != 0;
    return describe_as(ret_name, "count %llu%s",
                       (unsigned long long)status_number(sight->info, "eventfd-count", 16),
                       is_semaphore ? ", semaphore" : "");
}

/* Every eventfd has a number of its own as long as it lives (Linux 5.2). */
static uint64_t distinguish_eventfd(const struct object_sight *sight)
{
    return status_number(sight->info, "eventfd-id", 10);
}

/* ---- timerfd ---- */

static const char *clock_name(uint64_t clock)
{
    switch (clock) {
    case CLOCK_REALTIME:
        return "realtime";
    case CLOCK_MONOTONIC:
        return "monotonic";
    case CLOCK_BOOTTIME:
        return "boottime";
    case CLOCK_REALTIME_ALARM:
        return "realtime alarm";
    case CLOCK_BOOTTIME_ALARM:
        return "boottime alarm";
    default:
        return "unknown clock";
    }
}

static struct timespec parse_time(const char *info, const char *field)
{
    const char *text = status_find(info, field);
    long long seconds = 0;
    long nanoseconds = 0;
    if (!text || sscanf(text, "(%lld, %ld)", &seconds, &nanoseconds) != 2)
        seconds = nanoseconds = 0;
    return (struct timespec){.tv_sec = (time_t)seconds, .tv_nsec = nanoseconds};
}

static int describe_timerfd(const struct object_sight *sight, char **ret_name)
{
    const char *clock = clock_name(status_number(sight->info, "clockid", 10));
    struct timespec left = parse_time(sight->info, "it_value");
    struct timespec interval = parse_time(sight->info, "it_interval");
    if (left.tv_sec == 0 && left.tv_nsec == 0)
        return describe_as(ret_name, "%s, not armed", clock);
    char every[64] = "";
    if (interval.tv_sec != 0 || interval.tv_nsec != 0)
        snprintf(every, sizeof every, ", every %lld.%03ld s", (long long)interval.tv_sec,
                 interval.tv_nsec / 1000000);
    return describe_as(ret_name, "%s, %lld.%03ld s left%s", clock, (long long)left.tv_sec,
                       left.tv_nsec / 1000000, every);
}

/* ---- signalfd ---- */

#define SIGNAL_COUNT 64

static void print_signal(FILE *out, int signal)
{
    const char *name = sigabbrev_np(signal);
    if (name)
        fprintf(out, "SIG%s", name);
    else
        fprintf(out, "signal %d", signal);
}

/* All signals of a mask, or, if they are most, those that it lacks. */
static int describe_mask(uint64_t mask, char **ret_name)
{
    bool is_most = __builtin_popcountll(mask) > SIGNAL_COUNT / 2;
    if (mask == 0)
        return describe_as(ret_name, "no signals");
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return -ENOMEM;
    fputs(is_most ? "all signals" : "", out);
    const char *separator = is_most ? " but " : "";
    for (int signal = 1; signal <= SIGNAL_COUNT; signal++) {
        bool is_set = mask >> (signal - 1) & 1;
        if (is_set == is_most || (is_most && (signal == SIGKILL || signal == SIGSTOP))) /* never in a mask */
            continue;
        fputs(separator, out);
        print_signal(out, signal);
        separator = ", ";
    }
    if (fclose(out) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret_name = text;
    return 0;
}

static int describe_signalfd(const struct object_sight *sight, char **ret_name)
{
    return describe_mask(status_number(sight->info, "sigmask", 16), ret_name);
}

/* ---- epoll ---- */

#define MEMBERS_SHOWN 8

/* Keeps the lowest few, in order. */
static void keep_lowest(long kept[static MEMBERS_SHOWN], size_t count, long member)
{
    size_t place = count < MEMBERS_SHOWN ? count : MEMBERS_SHOWN;
    for (; place > 0 && kept[place - 1] > member; place--) {
        if (place < MEMBERS_SHOWN)
            kept[place] = kept[place - 1];
    }
    if (place < MEMBERS_SHOWN)
        kept[place] = member;
}

/* fdinfo has a line "tfd: 5 …" for each member: the selector under which it was added. Their order is the
 * kernel's own. */
static int describe_epoll(const struct object_sight *sight, char **ret_name)
{
    long kept[MEMBERS_SHOWN];
    size_t count = 0, length = 0;
    for (const char *line = sight->info; (line = strstr(line, "tfd:")); line += 4)
        keep_lowest(kept, count++, strtol(line + 4, NULL, 10));
    if (count == 0)
        return describe_as(ret_name, "watches nothing");
    char members[MEMBERS_SHOWN * 16];
    for (size_t i = 0; i < count && i < MEMBERS_SHOWN; i++)
        length +=
            (size_t)snprintf(members + length, sizeof members - length, "%s%d", i ? ", " : "", (int)kept[i]);
    if (count > MEMBERS_SHOWN)
        return describe_as(ret_name, "watches %s, … (%zu)", members, count);
    return describe_as(ret_name, "watches %s", members);
}

const struct object_kind kind_eventfd = {.name = "eventfd",
                                         .match = match_eventfd,
                                         .describe = describe_eventfd,
                                         .distinguish = distinguish_eventfd,
                                         .durable = &eventfd_durable};
const struct object_kind kind_timerfd = {.name = "timerfd",
                                         .match = match_timerfd,
                                         .describe = describe_timerfd,
                                         .durable = &timerfd_durable};
const struct object_kind kind_signalfd = {.name = "signalfd",
                                          .match = match_signalfd,
                                          .describe = describe_signalfd,
                                          .durable = &signalfd_durable};
const struct object_kind kind_epoll = {.name = "epoll",
                                       .match = match_epoll,
                                       .describe = describe_epoll,
                                       .durable = &epoll_durable};
