/* Terminals: consoles, serial lines, and both halves of pseudo terminals. Told by their device numbers, which
 * are assigned for good (Documentation/admin-guide/devices.txt); isatty() would mean to send an ioctl to
 * every unknown device. */
#include "object/kinds.h"

#include <fcntl.h>
#include <linux/major.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

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

/* The place of the slave in its file system, asked of a master: opened as a place only, which neither opens
 * the slave nor needs it to be unlocked (TIOCGPTPEER, Linux 4.13). There may be several devpts. */
static void find_slave(const struct object_sight *sight, struct stat *ret_stat)
{
    _cleanup_close_ native_cap_t master = NATIVE_CAP_INVALID;
    if (native_pd_request(sight->pd, sight->selector, &master, NULL, NULL) < 0 || master < 0)
        return;
    _cleanup_close_ int slave = ioctl(master, TIOCGPTPEER, O_PATH | O_NOCTTY | O_CLOEXEC);
    if (slave < 0 || fstat(slave, ret_stat) < 0)
        *ret_stat = (struct stat){0};
}

/* Any process may have the other half, opened by a path of its own mount namespace. */
static void find_pty_end(const struct object_sight *sight, struct object_end *ret_end)
{
    bool is_master = is_pty_master(sight) && status_find(sight->info, "tty-index");
    unsigned device_major = sight->stat.device_major, device_minor = sight->stat.device_minor;
    uint64_t inode = sight->inode;
    if (is_master) {
        struct stat slave = {0};
        find_slave(sight, &slave);
        device_major = major(slave.st_dev);
        device_minor = minor(slave.st_dev);
        inode = slave.st_ino;
    }
    bool is_slave =
        sight->stat.special_major >= PTS_MAJOR_FIRST && sight->stat.special_major <= PTS_MAJOR_LAST;
    if (!inode || !(is_master || is_slave))
        return;
    snprintf(ret_end->key, sizeof ret_end->key, "pty %u:%u %llu", device_major, device_minor,
             (unsigned long long)inode);
    ret_end->side = is_master ? 1 : 2;
    ret_end->other_link = "/dev/pt";
}

const struct object_kind kind_terminal = {.name = "terminal",
                                          .match = match_terminal,
                                          .describe = describe_terminal,
                                          .durable = &terminal_durable,
                                          .find_end = find_pty_end};
