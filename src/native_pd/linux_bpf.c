/* Selectors with the identities of their objects, in bulk: a BPF iterator over the files of one task
 * (bpf_iter__task_file, since Linux 5.8; bound to one task since 6.1) writes a row for each selector. A row
 * has the address of the object in the kernel: two rows that were read while both objects lived are the same
 * object if and only if the addresses are the same. Addresses are for comparing, and are shown to nobody.
 *
 * The program is sixteen instructions, written down here: no compiler for BPF, no library. What it attaches
 * to is found by its name in the kernel's own type information (/sys/kernel/btf/vmlinux). All of it takes
 * CAP_BPF and CAP_PERFMON, and a kernel with CONFIG_DEBUG_INFO_BTF: where that is missing there is
 * -EOPNOTSUPP, and kcmp(2).
 *
 * See bpf(2), Documentation/bpf/bpf_iterators.rst, Documentation/bpf/btf.rst. */
#include "native_pd/linux-internal.h"

#if RESEAT_HAS_BPF

#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/btf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* What the program writes. */
struct row {
    uint64_t address;
    uint64_t selector;
};

/* Where the iterator's context, struct bpf_iter__task_file, has what we read. */
enum { CONTEXT_META = 0, CONTEXT_TASK = 8, CONTEXT_SELECTOR = 16, CONTEXT_FILE = 24, META_SEQ = 0 };

static int bpf(int command, union bpf_attr *attributes)
{
    long r = syscall(SYS_bpf, command, attributes, sizeof *attributes);
    return r < 0 ? -errno : (int)r;
}

/* ---- what to attach to ---- */

/* Bytes that follow the common part of a type; negative: of a sort that this kernel's version is the first to
 * have. */
static long bytes_behind(const struct btf_type *type)
{
    long members = BTF_INFO_VLEN(type->info);
    switch (BTF_INFO_KIND(type->info)) {
    case BTF_KIND_INT:
    case BTF_KIND_VAR:
    case BTF_KIND_DECL_TAG:
        return 4;
    case BTF_KIND_ARRAY:
        return sizeof(struct btf_array);
    case BTF_KIND_STRUCT:
    case BTF_KIND_UNION:
    case BTF_KIND_DATASEC:
    case BTF_KIND_ENUM64:
        return 12 * members;
    case BTF_KIND_ENUM:
    case BTF_KIND_FUNC_PROTO:
        return 8 * members;
    case BTF_KIND_PTR:
    case BTF_KIND_FWD:
    case BTF_KIND_TYPEDEF:
    case BTF_KIND_VOLATILE:
    case BTF_KIND_CONST:
    case BTF_KIND_RESTRICT:
    case BTF_KIND_FUNC:
    case BTF_KIND_FLOAT:
    case BTF_KIND_TYPE_TAG:
        return 0;
    default:
        return -1;
    }
}

/* The number of the function whose name is `sought` (with a NUL in front and behind) in the type information;
 * 0: there is none. Each name stands among the strings once. */
static uint32_t find_function(const char *btf, size_t length, const char *sought, size_t sought_bytes)
{
    struct btf_header header;
    if (length < sizeof header)
        return 0;
    memcpy(&header, btf, sizeof header);
    size_t types = (size_t)header.hdr_len + header.type_off,
           strings = (size_t)header.hdr_len + header.str_off;
    if (header.magic != BTF_MAGIC || types > length || header.type_len > length - types || strings > length ||
        header.str_len > length - strings)
        return 0;
    const char *found = memmem(btf + strings, header.str_len, sought, sought_bytes);
    uint32_t name = found ? (uint32_t)(found + 1 - (btf + strings)) : 0, number = 1;
    for (size_t at = 0; found && at + sizeof(struct btf_type) <= header.type_len; number++) {
        struct btf_type type;
        memcpy(&type, btf + types + at, sizeof type);
        if (type.name_off == name && BTF_INFO_KIND(type.info) == BTF_KIND_FUNC)
            return number;
        long more = bytes_behind(&type);
        if (more < 0)
            return 0;
        at += sizeof type + (size_t)more;
    }
    return 0;
}

/* Mapped, from Linux 6.16 on; to copy the five megabytes takes longer than all else. */
static uint32_t find_iterator(void)
{
    static const char sought[] = "\0bpf_iter_task_file";
    _cleanup_close_ int fd = open("/sys/kernel/btf/vmlinux", O_RDONLY | O_CLOEXEC);
    struct stat file;
    if (fd < 0 || fstat(fd, &file) < 0)
        return 0;
    size_t length = (size_t)file.st_size;
    void *mapped = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
    if (mapped != MAP_FAILED) {
        uint32_t number = find_function(mapped, length, sought, sizeof sought);
        munmap(mapped, length);
        return number;
    }
    _cleanup_free_ char *copied = NULL;
    return fd_read_whole(fd, &copied, &length) < 0 ? 0 : find_function(copied, length, sought, sizeof sought);
}

/* ---- the program ---- */

#define LOAD(width, to, from, where)                                                                         \
    {                                                                                                        \
        .code = BPF_LDX | BPF_MEM | (width), .dst_reg = (to), .src_reg = (from), .off = (where)              \
    }
#define STORE(to, where, from)                                                                               \
    {                                                                                                        \
        .code = BPF_STX | BPF_MEM | BPF_DW, .dst_reg = (to), .src_reg = (from), .off = (where)               \
    }
#define MOVE(to, from)                                                                                       \
    {                                                                                                        \
        .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (to), .src_reg = (from)                              \
    }
#define SET(to, value)                                                                                       \
    {                                                                                                        \
        .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (to), .imm = (value)                                 \
    }
#define ADD(to, value)                                                                                       \
    {                                                                                                        \
        .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = (to), .imm = (value)                                 \
    }
#define SKIP_IF_ZERO(reg, count)                                                                             \
    {                                                                                                        \
        .code = BPF_JMP | BPF_JEQ | BPF_K, .dst_reg = (reg), .off = (count)                                  \
    }
#define CALL(function)                                                                                       \
    {                                                                                                        \
        .code = BPF_JMP | BPF_CALL, .imm = (function)                                                        \
    }
#define EXIT                                                                                                 \
    {                                                                                                        \
        .code = BPF_JMP | BPF_EXIT                                                                           \
    }

static int load_program(uint32_t iterator)
{
    static const struct bpf_insn instructions[] = {
        LOAD(BPF_DW, BPF_REG_2, BPF_REG_1, CONTEXT_FILE),
        SKIP_IF_ZERO(BPF_REG_2, 10), /* the end of the iteration */
        LOAD(BPF_W, BPF_REG_3, BPF_REG_1, CONTEXT_SELECTOR),
        STORE(BPF_REG_10, -(int)sizeof(struct row), BPF_REG_2),
        STORE(BPF_REG_10, -(int)sizeof(uint64_t), BPF_REG_3),
        LOAD(BPF_DW, BPF_REG_1, BPF_REG_1, CONTEXT_META),
        SKIP_IF_ZERO(BPF_REG_1, 5),
        LOAD(BPF_DW, BPF_REG_1, BPF_REG_1, META_SEQ),
        MOVE(BPF_REG_2, BPF_REG_10),
        ADD(BPF_REG_2, -(int)sizeof(struct row)),
        SET(BPF_REG_3, sizeof(struct row)),
        CALL(BPF_FUNC_seq_write),
        SET(BPF_REG_0, 0),
        EXIT,
    };
    union bpf_attr attributes = {
        .prog_type = BPF_PROG_TYPE_TRACING,
        .expected_attach_type = BPF_TRACE_ITER,
        .attach_btf_id = iterator,
        .insns = (uint64_t)instructions,
        .insn_cnt = COUNT_OF(instructions),
        .license = (uint64_t) "Dual MIT/GPL", /* seq_write is for such programs only */
        .prog_name = "reseat_files",
    };
    return bpf(BPF_PROG_LOAD, &attributes);
}

/* A stream of rows of one task's files. */
static int open_iterator(pid_t pid, uint32_t function)
{
    _cleanup_close_ int program = load_program(function);
    if (program < 0)
        return program;
    union bpf_iter_link_info task = {.task = {.tid = (uint32_t)pid}};
    union bpf_attr attributes = {.link_create = {.prog_fd = (uint32_t)program,
                                                 .attach_type = BPF_TRACE_ITER,
                                                 .iter_info = (uint64_t)&task,
                                                 .iter_info_len = sizeof task}};
    _cleanup_close_ int link = bpf(BPF_LINK_CREATE, &attributes);
    if (link < 0)
        return link;
    attributes = (union bpf_attr){.iter_create = {.link_fd = (uint32_t)link}};
    return bpf(BPF_ITER_CREATE, &attributes);
}

int native_pd_list_identities(struct native_pd *pd, struct native_identity **ret_identities,
                              size_t *ret_count, struct reseat_error **ret_error)
{
    uint32_t function = find_iterator();
    _cleanup_close_ int iterator = function ? open_iterator(pd->pid, function) : -EOPNOTSUPP;
    if (iterator < 0)
        return error_set(ret_error, -EOPNOTSUPP,
                         "the files of process %d cannot be iterated over by BPF (that takes CAP_BPF, "
                         "CAP_PERFMON, and a kernel that describes its types): %s",
                         pd->pid, strerror(-iterator));
    _cleanup_free_ char *text = NULL;
    size_t length;
    int r = fd_read_whole(iterator, &text, &length);
    if (r < 0)
        return error_errno(ret_error, r, "iterating over the files of process %d", pd->pid);
    if (native_pd_has_ended(pd)) /* until now the number was its own */
        return native_pd_error_ended(pd, ret_error);
    size_t count = length / sizeof(struct row);
    struct native_identity *identities = reallocarray(NULL, count + 1, sizeof *identities);
    if (!identities)
        return error_errno(ret_error, -ENOMEM, "listing %zu capabilities", count);
    for (size_t i = 0; i < count; i++) {
        struct row row;
        memcpy(&row, text + i * sizeof row, sizeof row);
        identities[i] = (struct native_identity){(selector_t)row.selector, row.address};
    }
    *ret_identities = identities;
    *ret_count = count;
    return 0;
}

#else

#include <errno.h>

int native_pd_list_identities(struct native_pd *pd, struct native_identity **ret_identities,
                              size_t *ret_count, struct reseat_error **ret_error)
{
    (void)ret_identities;
    (void)ret_count;
    return error_set(ret_error, -EOPNOTSUPP,
                     "the files of process %d cannot be iterated over by BPF: built without it", pd->pid);
}

#endif
