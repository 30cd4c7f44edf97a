/* memfd_create(2) in a durable image: label, content, size, mode, seals. All objects on one
 * memfd have its inode; the first of them carries it. Mappings refer to the object too (SNAPSHOT_VMA_OBJECT),
 * so one may be here without a selector. Memory on huge pages cannot be written, only mapped (hugetlbfs). */
#include "object/durable.h"
#include "object/kinds.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>

struct memfd_state {
    int64_t offset;
    uint32_t seals;
    uint32_t page_shift; /* of huge pages; 0: ordinary ones */
    uint32_t has_content;
    uint32_t label_length; /* of the text behind this, with its NUL, padded to 8 bytes */
    uint32_t lock_count;   /* behind the text */
    uint32_t reserved;
    uint64_t size;
};

#define ALIGN_8(number)  (((number) + 7) & ~(size_t)7)
#define LABEL_LENGTH_MAX 250 /* without "memfd:" */

/* ---- capture ---- */

static int add_label(struct object_capture *capture, struct memfd_state *state)
{
    static const uint8_t zeros[8];
    static const char prefix[] = "/memfd:";
    const char *label = capture->sight->link + sizeof prefix - 1;
    size_t length = link_length_of_name(capture->sight) - (sizeof prefix - 1);
    state->label_length = (uint32_t)length + 1;
    int r = state_add(capture, label, length);
    return r < 0 ? r : state_add(capture, zeros, ALIGN_8(length + 1) - length);
}

static uint32_t page_shift_of(native_cap_t cap)
{
    struct statfs fs;
    bool is_huge = fstatfs(cap, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC;
    return is_huge ? (uint32_t)__builtin_ctzl((unsigned long)fs.f_bsize) : 0;
}

static int capture_memfd(struct object_capture *capture, struct reseat_error **ret_error)
{
    int seals = fcntl(capture->cap, F_GET_SEALS);
    struct stat stat;
    if (fstat(capture->cap, &stat) < 0)
        return error_errno(ret_error, -errno, "looking at a memfd");
    struct memfd_state state = {
        .offset = capture_offset(capture),
        .seals = seals < 0 ? F_SEAL_SEAL : (uint32_t)seals,
        .page_shift = page_shift_of(capture->cap),
        .has_content = capture_is_first_of_inode(capture),
        .size = (uint64_t)stat.st_size,
    };
    int r = state_add(capture, &state, sizeof state);
    if (r == 0)
        r = add_label(capture, &state);
    if (r == 0)
        r = locks_capture(capture, &state.lock_count);
    if (r == 0 && state.has_content)
        r = content_capture(capture, state.size, ret_error);
    if (r == 0)
        memcpy(capture->state, &state, sizeof state);
    return r;
}

/* ---- check ---- */

static struct memfd_state state_of(const struct object_view *view)
{
    struct memfd_state state;
    view_read(view, &state, sizeof state);
    return state;
}

static size_t locks_offset(const struct memfd_state *state)
{
    return ALIGN_8(sizeof *state + state->label_length);
}

static int check_memfd(const struct object_view *view, struct reseat_error **ret_error)
{
    struct memfd_state state = state_of(view);
    if (state.label_length > LABEL_LENGTH_MAX || !view_has_text(view, sizeof state, state.label_length))
        return view_bad(view, ret_error, "its label is none");
    if (state.page_shift != 0 && (state.page_shift < 12 || state.page_shift > 40))
        return view_bad(view, ret_error, "pages of 2^%u bytes", state.page_shift);
    int r = locks_check(view, locks_offset(&state), state.lock_count, ret_error);
    return r == 0 && state.has_content ? content_check(view, state.size, ret_error) : r;
}

static int judge_memfd(const struct object_view *view, const struct object_options *options,
                       enum object_fate *ret_fate, char **ret_sentence)
{
    (void)options;
    struct object_view first = view_of(view->snapshot, view_next_of_inode(view, 0));
    if (state_of(&first).has_content)
        return 0;
    *ret_fate = OBJECT_LOST;
    return describe_as(ret_sentence, "its content is not in the image");
}

/* ---- recreate ---- */

static int make_memfd(const struct object_making *making, const struct object_view *view,
                      struct reseat_error **ret_error)
{
    struct memfd_state state = state_of(view);
    const char *label = (const char *)view->state + sizeof state;
    bool is_huge = state.page_shift != 0;
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    if (is_huge)
        flags |= MFD_HUGETLB | state.page_shift << MFD_HUGE_SHIFT;
    _cleanup_close_ int fd = memfd_create(label, flags);
    if (fd < 0)
        return error_errno(ret_error, -errno, "making a memfd");
    int r = is_huge ? content_write_mapped(making, view, state.size, fd, ret_error)
                    : content_write(making, view, state.size, fd, ret_error);
    if (r < 0)
        return r;
    if (fchmod(fd, view->row->mode & 0777) < 0 || (state.seals && fcntl(fd, F_ADD_SEALS, state.seals) < 0))
        return error_errno(ret_error, -errno, "giving a memfd its mode and seals");
    return TAKE_FD(fd);
}

/* What memfd_create(2) itself yields does not count as a writer of the file, any other opening of it for
 * writing does, and then it cannot be executed (ETXTBSY). So the first that may read and write is no other.
 */
static int put_memfd(struct object_making *making, object_id_t id, int source, bool is_original)
{
    struct object_view view = view_of(making->snapshot, id);
    struct memfd_state state = state_of(&view);
    unsigned flags = view.row->status_flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_NOATIME);
    int cap = is_original ? fcntl(source, F_DUPFD_CLOEXEC, 0) : making_reopen(source, flags);
    if (cap < 0)
        return is_original ? -errno : cap;
    making_put(making, id, cap);
    if (lseek(cap, state.offset > 0 ? state.offset : 0, SEEK_SET) < 0)
        return -errno;
    return is_original ? making_set_flags(cap, flags) : 0;
}

static bool may_be_original(const struct object_making *making, object_id_t id)
{
    struct object_view view = view_of(making->snapshot, id);
    return (view.row->status_flags & O_ACCMODE) == O_RDWR;
}

static int recreate_memfd(struct object_making *making, const struct object_view *view,
                          struct reseat_error **ret_error)
{
    struct object_view first = view_of(making->snapshot, view_next_of_inode(view, 0));
    struct memfd_state state = state_of(&first);
    native_cap_t given = making->set->caps[view_id(&first)];
    if (given == NATIVE_CAP_INVALID && !state.has_content)
        return view_bad(view, ret_error, "nobody has its content");
    _cleanup_close_ int source = given == NATIVE_CAP_INVALID ? make_memfd(making, &first, ret_error)
                                                             : fcntl(given, F_DUPFD_CLOEXEC, 0);
    if (source < 0)
        return given == NATIVE_CAP_INVALID ? source : -errno;
    bool has_original = given == NATIVE_CAP_INVALID;
    int r = 0;
    for (object_id_t id = 0; r == 0 && (id = view_next_of_inode(view, id));) {
        if (making_has(making, id) || object_is_unwanted(making->options, id))
            continue;
        bool is_original = has_original && may_be_original(making, id);
        r = put_memfd(making, id, source, is_original);
        has_original &= !is_original;
    }
    return r;
}

static int complete_memfd(struct object_making *making, const struct object_view *view, native_cap_t cap,
                          struct reseat_error **ret_error)
{
    (void)making;
    struct memfd_state state = state_of(view);
    return locks_take(view, locks_offset(&state), state.lock_count, cap, ret_error);
}

const struct object_durable memfd_durable = {
    .state_bytes = sizeof(struct memfd_state),
    .capture = capture_memfd,
    .check = check_memfd,
    .judge = judge_memfd,
    .recreate = recreate_memfd,
    .complete = complete_memfd,
};
