/* Terminals: consoles, serial lines, and both halves of pseudo terminals. Told by their device numbers, which
 * are assigned for good (Documentation/admin-guide/devices.txt); isatty() would mean to send an ioctl to
 * every unknown device. */
#include "object/kinds.h"

#include <linux/major.h>

#define PTS_MAJOR_FIRST 136 /* UNIX98_PTY_SLAVE_MAJOR, eight of them */
#define PTS_MAJOR_LAST  143

static bool is_pty_master(const struct object_sight *sight)
{
    return sight->stat.special_major == TTYAUX_MAJOR && sight->stat.special_minor == 2;
}

static bool match_terminal(const struct object_sight *sight)
{
    if (!S_ISCHR(sight->stat.mode))
        return false;
    unsigned major = sight->stat.special_major;
    switch (major) {
    case TTY_MAJOR:    /* also ttyS* */
    case TTYAUX_MAJOR: /* tty, console, ptmx */
    case 166:          /* ttyACM* */
    case 188:          /* ttyUSB* */
    case 204:          /* serial ports of small machines */
    case 229:          /* hvc*, consoles of virtual machines */
        return true;
    default:
        return major >= PTS_MAJOR_FIRST && major <= PTS_MAJOR_LAST;
    }
}

static int describe_terminal(const struct object_sight *sight, char **ret_name)
{
    if (is_pty_master(sight) && status_find(sight->info, "tty-index"))
        return describe_as(ret_name, "%s, master of pts/%u", sight->link,
                           (unsigned)status_number(sight->info, "tty-index", 10));
    return describe_as(ret_name, "%s", sight->link);
}

const struct object_kind kind_terminal = {.name = "terminal",
                                          .match = match_terminal,
                                          .describe = describe_terminal,
                                          .durable = &terminal_durable};
