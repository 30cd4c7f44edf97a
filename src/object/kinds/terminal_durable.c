/* Terminals in a durable image. If both halves of a pseudo terminal are inside, the pair is made anew, with
 * modes, window size and locks; it gets another number, which is the kernel's to choose (ptmx(4)). A terminal
 * whose other half is outside is opened again if it is still the same one: same device, same file, not made
 * since. If not, it is hung up: reading gives its end, writing fails with EIO, as when a window was closed.
 *
 * /dev/tty is no terminal, but another name for one: it comes back under that one's own name.
 *
 * What is in a terminal's queues cannot be looked at. Consoles and serial lines are not opened again, because
 * that has effects of its own. */
#include "object/durable.h"
#include "object/kinds.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/major.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

enum terminal_flags {
    TERMINAL_MASTER = 1 << 0,
    TERMINAL_PTY = 1 << 1, /* slave half */
    TERMINAL_HAS_MODES = 1 << 2,
    TERMINAL_LOCKED = 1 << 3,
    TERMINAL_PACKETS = 1 << 4,
    TERMINAL_EXCLUSIVE = 1 << 5,
    TERMINAL_USED_OUTSIDE = 1 << 7, /* a process outside has the slave half */
    TERMINAL_HUNG_UP = 1 << 6,      /* the other half is gone */
};

struct terminal_state {
    uint32_t flags;
    uint32_t number; /* of the pty */
    uint32_t special_major, special_minor;
    uint64_t inode;
    int64_t changed_ns;   /* st_ctime: when it was made, or changed hands */
    uint8_t modes[44];    /* struct termios2 */
    uint32_t uid;         /* of its file; the mode of that stands in the row */
    uint16_t window[4];   /* struct winsize */
    uint32_t path_length; /* of the text behind this, with its NUL */
    uint32_t gid;
};

/* Set by open(2), not by TIOCGPTPEER; the C library's O_LARGEFILE is 0. */
#define KERNEL_LARGEFILE 0100000U
#define PTS_MAJOR_FIRST  136
#define PTS_MAJOR_LAST   143

/* ---- capture ---- */

static bool is_pty_slave(dev_t device)
{
    return major(device) >= PTS_MAJOR_FIRST && major(device) <= PTS_MAJOR_LAST;
}

static unsigned pty_number(dev_t device)
{
    return (major(device) - PTS_MAJOR_FIRST) * 256 + minor(device);
}

static void note_modes(native_cap_t cap, struct terminal_state *state)
{
    struct termios2 modes;
    int value = 0;
    _Static_assert(sizeof modes == sizeof state->modes, "struct termios2 has another size");
    if (ioctl(cap, TCGETS2, &modes) == 0) {
        memcpy(state->modes, &modes, sizeof state->modes);
        state->flags |= TERMINAL_HAS_MODES;
    }
    ioctl(cap, TIOCGWINSZ, state->window);
    if (ioctl(cap, TIOCGEXCL, &value) == 0 && value)
        state->flags |= TERMINAL_EXCLUSIVE;
    if (!(state->flags & TERMINAL_MASTER))
        return;
    unsigned number = 0;
    if (ioctl(cap, TIOCGPTN, &number) == 0)
        state->number = number;
    if (ioctl(cap, TIOCGPTLCK, &value) == 0 && value)
        state->flags |= TERMINAL_LOCKED;
    if (ioctl(cap, TIOCGPKT, &value) == 0 && value)
        state->flags |= TERMINAL_PACKETS;
}

/* Whether a process other than the target and its twin has the slave half of a pty open. */
static bool is_slave_used(const struct object_capture *capture, unsigned number)
{
    char wanted[32];
    snprintf(wanted, sizeof wanted, "/dev/pts/%u", number);
    _cleanup_close_ int proc_fd = open("/proc", O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    _cleanup_free_ int *pids = NULL;
    size_t pid_count = 0;
    if (proc_fd < 0 || proc_list_numbers(proc_fd, "", &pids, &pid_count) < 0)
        return false;
    for (size_t i = 0; i < pid_count; i++) {
        char path[48];
        _cleanup_free_ int *selectors = NULL;
        size_t count = 0;
        snprintf(path, sizeof path, "%d/fd", pids[i]);
        if (pids[i] == capture_target(capture) || pids[i] == native_pd_id(capture->sight->pd) ||
            proc_list_numbers(proc_fd, path, &selectors, &count) < 0)
            continue;
        for (size_t j = 0; j < count; j++) {
            _cleanup_free_ char *link = NULL;
            snprintf(path, sizeof path, "%d/fd/%d", pids[i], selectors[j]);
            if (link_read(proc_fd, path, &link) == 0 && strcmp(link, wanted) == 0)
                return true;
        }
    }
    return false;
}

/* The pty that /dev/tty was opened for, by its path in the target's root; to be freed. NULL: it is not
 * /dev/tty, or stands for something else. */
static char *path_behind_dev_tty(const struct object_capture *capture, struct stat *stat)
{
    unsigned device = 0;
    if (major(stat->st_rdev) != TTYAUX_MAJOR || minor(stat->st_rdev) != 0 ||
        ioctl(capture->cap, TIOCGDEV, &device) < 0 || !is_pty_slave(device))
        return NULL;
    char place[64], *path = NULL;
    struct stat found;
    unsigned number = pty_number(device);
    snprintf(place, sizeof place, "/proc/%d/root/dev/pts/%u", native_pd_id(capture->sight->pd), number);
    if (lstat(place, &found) < 0 || found.st_rdev != device || asprintf(&path, "/dev/pts/%u", number) < 0)
        return NULL;
    *stat = found;
    return path;
}

static int capture_terminal(struct object_capture *capture, struct reseat_error **ret_error)
{
    struct terminal_state state = {0};
    struct stat stat;
    int waiting = 0;
    if (fstat(capture->cap, &stat) < 0)
        return error_errno(ret_error, -errno, "looking at a terminal");
    _cleanup_free_ char *own_path = path_behind_dev_tty(capture, &stat);
    const char *path = own_path ? own_path : capture->sight->link;
    state.special_major = major(stat.st_rdev);
    state.special_minor = minor(stat.st_rdev);
    state.inode = stat.st_ino;
    state.changed_ns = stat.st_ctim.tv_sec * INT64_C(1000000000) + stat.st_ctim.tv_nsec;
    state.uid = stat.st_uid;
    state.gid = stat.st_gid;
    if (state.special_major == TTYAUX_MAJOR && state.special_minor == 2)
        state.flags |= TERMINAL_MASTER;
    if (is_pty_slave(stat.st_rdev)) {
        state.flags |= TERMINAL_PTY;
        state.number = pty_number(stat.st_rdev);
    }
    note_modes(capture->cap, &state);
    struct pollfd poll_fd = {.fd = capture->cap};
    if (poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & POLLHUP))
        state.flags |= TERMINAL_HUNG_UP;
    if ((state.flags & TERMINAL_MASTER) && is_slave_used(capture, state.number))
        state.flags |= TERMINAL_USED_OUTSIDE;
    state.path_length = (uint32_t)strlen(path) + 1;
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = state_add(capture, path, state.path_length);
    if (r == 0 && ioctl(capture->cap, FIONREAD, &waiting) == 0 && waiting > 0)
        r = capture_degraded(capture, "%d bytes in it have not been read and are lost", waiting);
    return r;
}

/* ---- check, judge ---- */

static struct terminal_state state_of(const struct object_view *view)
{
    struct terminal_state state;
    view_read(view, &state, sizeof state);
    return state;
}

static const char *path_of(const struct object_view *view)
{
    return (const char *)view->state + sizeof(struct terminal_state);
}

static int check_terminal(const struct object_view *view, struct reseat_error **ret_error)
{
    struct terminal_state state = state_of(view);
    if (!view_has_path(view, sizeof state, state.path_length))
        return view_bad(view, ret_error, "its path is none");
    return 0;
}

/* The next object after `after` that is a half of this pty. */
static object_id_t next_half(const struct object_view *view, object_id_t after, bool is_master)
{
    struct terminal_state own = state_of(view);
    for (object_id_t id = after + 1; id <= view->snapshot->objects_count; id++) {
        struct object_view other = view_of(view->snapshot, id);
        if (!view_is_usable(&other) || strcmp(view_kind_name(&other), "terminal") != 0)
            continue;
        struct terminal_state state = state_of(&other);
        if (state.number == own.number && (state.flags & (is_master ? TERMINAL_MASTER : TERMINAL_PTY)))
            return id;
    }
    return 0;
}

/* /dev/pts/N, if that is still what it was. Looked at through O_PATH before it is opened. */
static int open_same(const struct object_view *view)
{
    struct terminal_state state = state_of(view);
    struct stat stat;
    if (!(state.flags & TERMINAL_PTY) || (state.flags & TERMINAL_HUNG_UP))
        return -ENXIO;
    _cleanup_close_ int place = place_open(path_of(view), 0);
    if (place < 0 || fstat(place, &stat) < 0)
        return place < 0 ? place : -errno;
    int64_t changed_ns = stat.st_ctim.tv_sec * INT64_C(1000000000) + stat.st_ctim.tv_nsec;
    if (!S_ISCHR(stat.st_mode) || major(stat.st_rdev) != state.special_major ||
        minor(stat.st_rdev) != state.special_minor || stat.st_ino != state.inode ||
        changed_ns != state.changed_ns)
        return -ESTALE;
    return making_reopen(place, view->row->status_flags & (O_ACCMODE | O_NONBLOCK | O_APPEND));
}

static int judge_terminal(const struct object_view *view, const struct object_options *options,
                          enum object_fate *ret_fate, char **ret_sentence)
{
    (void)options;
    struct terminal_state state = state_of(view);
    bool is_master = state.flags & TERMINAL_MASTER;
    if (!is_master && !(state.flags & TERMINAL_PTY)) {
        *ret_fate = OBJECT_DEGRADED;
        return describe_as(ret_sentence,
                           "%s is not opened again, because that has effects of its own: it is "
                           "hung up, unless --slot gives another terminal",
                           path_of(view));
    }
    if (state.flags & TERMINAL_USED_OUTSIDE) {
        *ret_fate = OBJECT_DEGRADED;
        return describe_as(ret_sentence, "the processes that use its terminal are outside the checkpoint: it "
                                         "reads as if they had ended");
    }
    if ((state.flags & TERMINAL_HUNG_UP) || is_master || next_half(view, 0, true))
        return 0;
    _cleanup_close_ int fd = open_same(view);
    if (fd >= 0)
        return 0;
    *ret_fate = OBJECT_DEGRADED;
    return describe_as(ret_sentence, "its terminal is not there any more: it is hung up, unless --slot gives "
                                     "another one");
}

/* ---- recreate ---- */

static int give_modes(const struct terminal_state *state, int fd)
{
    struct termios2 modes;
    memcpy(&modes, state->modes, sizeof modes);
    if ((state->flags & TERMINAL_HAS_MODES) && ioctl(fd, TCSETS2, &modes) < 0)
        return -errno;
    return ioctl(fd, TIOCSWINSZ, state->window) < 0 ? -errno : 0;
}

/* The slave half's file, which whoever logs in is given, or mesg(1) closes to others. What we may not give,
 * it does not get: who may open it is then up to the system's own rule for new ones. */
static void give_owner(const struct object_view *view, int slave)
{
    for (object_id_t id = 0; slave >= 0 && (id = next_half(view, id, false));) {
        struct object_view of_slave = view_of(view->snapshot, id);
        struct terminal_state state = state_of(&of_slave);
        if (of_slave.row->inode != state.inode)
            continue; /* the row is that of /dev/tty */
        if (fchown(slave, state.uid, state.gid) == 0)
            (void)!fchmod(slave, of_slave.row->mode & 0777);
        return;
    }
}

/* Opens the slave half. TIOCGPTPEER would note O_CLOEXEC among the flags of the object, where fdinfo shows it
 * for the selector's. */
static int open_slave(int master, unsigned flags)
{
    int slave = ioctl(master, TIOCGPTPEER, (int)flags | O_NOCTTY);
    return slave < 0 || fcntl(slave, F_SETFD, FD_CLOEXEC) < 0 ? -1 : slave;
}

/* A new pair; the slave half is opened through the master, so that nobody can put another in its place
 * (TIOCGPTPEER, Linux 4.13). */
static int make_pair(bool with_slave, int *ret_master, int *ret_slave)
{
    int unlock = 0;
    _cleanup_close_ int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (master < 0 || ioctl(master, TIOCSPTLCK, &unlock) < 0)
        return -errno;
    /* Opened once and closed, it would be hung up. */
    int slave = with_slave ? open_slave(master, O_RDWR) : -EBADF;
    if (with_slave && slave < 0)
        return -errno;
    *ret_master = TAKE_FD(master);
    *ret_slave = slave;
    return 0;
}

static int put_half(struct object_making *making, object_id_t id, int source, int master)
{
    unsigned flags = making->snapshot->objects[id - 1].status_flags &
                     (O_ACCMODE | O_NONBLOCK | O_APPEND | KERNEL_LARGEFILE);
    /* Another object on the slave half is opened like the first; of a master there is only one. */
    int cap = source == master ? fcntl(master, F_DUPFD_CLOEXEC, 0) : open_slave(master, flags);
    if (cap < 0)
        return -errno;
    making_put(making, id, cap);
    return making_set_flags(cap, flags);
}

static int put_halves(struct object_making *making, const struct object_view *view, int master, int slave,
                      bool of_master)
{
    int r = 0;
    for (object_id_t id = 0; r == 0 && (id = next_half(view, id, of_master));)
        if (!making_has(making, id) && !object_is_unwanted(making->options, id))
            r = put_half(making, id, of_master ? master : slave, master);
    return r;
}

static int recreate_pair(struct object_making *making, const struct object_view *view)
{
    struct terminal_state state = state_of(view);
    bool was_opened = next_half(view, 0, false) || (state.flags & (TERMINAL_HUNG_UP | TERMINAL_USED_OUTSIDE));
    int master, slave, packets = 1, locked = 1;
    int r = make_pair(was_opened, &master, &slave);
    if (r < 0)
        return r;
    r = making_hold(making, master);
    if (r == 0 && slave >= 0)
        r = making_hold(making, slave);
    if (r == 0)
        r = give_modes(&state, master);
    give_owner(view, slave);
    if (r == 0)
        r = put_halves(making, view, master, slave, true);
    if (r == 0)
        r = put_halves(making, view, master, slave, false);
    object_id_t first_master = next_half(view, 0, true);
    struct object_view of_master = first_master ? view_of(making->snapshot, first_master) : *view;
    unsigned flags = first_master ? state_of(&of_master).flags : 0;
    if (r == 0 && (flags & TERMINAL_PACKETS) && ioctl(master, TIOCPKT, &packets) < 0)
        r = -errno;
    if (r == 0 && (flags & TERMINAL_LOCKED) && ioctl(master, TIOCSPTLCK, &locked) < 0)
        r = -errno;
    if (r == 0 && slave >= 0 && (state.flags & TERMINAL_EXCLUSIVE) && ioctl(slave, TIOCEXCL) < 0)
        r = -errno;
    return r;
}

/* The master goes, and the slave is hung up. */
static int recreate_hung_up(struct object_making *making, const struct object_view *view)
{
    struct terminal_state state = state_of(view);
    int master, slave;
    int r = make_pair(true, &master, &slave);
    if (r < 0)
        return r;
    making_put(making, view_id(view), slave);
    give_modes(&state, slave);
    close(master);
    return 0;
}

static int recreate_terminal(struct object_making *making, const struct object_view *view,
                             struct reseat_error **ret_error)
{
    struct terminal_state state = state_of(view);
    bool is_master = state.flags & TERMINAL_MASTER;
    int r = 0;
    if (is_master || next_half(view, 0, true)) {
        r = recreate_pair(making, view);
    } else {
        int fd = open_same(view);
        if (fd >= 0)
            making_put(making, view_id(view), fd);
        else
            r = recreate_hung_up(making, view);
    }
    return r < 0 ? error_errno(ret_error, r, "making a terminal") : 0;
}

const struct object_durable terminal_durable = {
    .state_bytes = sizeof(struct terminal_state),
    .capture = capture_terminal,
    .check = check_terminal,
    .judge = judge_terminal,
    .recreate = recreate_terminal,
};
