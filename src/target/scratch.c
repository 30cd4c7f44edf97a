/* The stub and the scratch pages: the first foothold in a target, and the last thing that is taken away
 * again.
 *
 * The stub stands in executable bytes that nothing uses: the zeros at the end of the vDSO, or else of another
 * private executable mapping. ptrace may write there (FOLL_FORCE makes a private copy of the page); the bytes
 * are zeroed again afterwards. See vdso(7), proc_pid_maps(5). */
#include "target/target.h"
#include "target/target-internal.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define PAGE_BYTES           4096
#define STUB_ALIGNMENT       16
#define SPARSE_TOUCHED_BYTES (256 * 1024)

static bool is_zero(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if (bytes[i])
            return false;
    return true;
}

/* Whether the last bytes of this mapping are free for the stub: zero, or the stub of a Reseat that was
 * killed, unless a thread still stands in it. */
static bool has_room(struct target *target, uint64_t end)
{
    uint8_t tail[ARCH_STUB_BYTES];
    uint64_t start = (end - sizeof tail) & ~(uint64_t)(STUB_ALIGNMENT - 1);
    if (target_read(target, start, tail, sizeof tail) < 0)
        return false;
    if (is_zero(tail, sizeof tail))
        return true;
    for (size_t i = 0; i < target->thread_count; i++)
        if (arch_ip(target->threads[i].regs) - start < sizeof tail)
            return false;
    return arch_is_stub(tail);
}

static int find_stub_place(struct target *target, uint64_t *ret_address, struct reseat_error **ret_error)
{
    _cleanup_free_ char *maps = NULL;
    int r = file_read(target->proc_fd, "maps", &maps, NULL);
    if (r < 0)
        return error_errno(ret_error, r, "reading the memory map of process %d", target->pid);
    uint64_t found = 0;
    char *position = maps;
    for (char *line; (line = strsep(&position, "\n")) && *line;) {
        unsigned long start, end;
        char permissions[5];
        if (sscanf(line, "%lx-%lx %4s", &start, &end, permissions) != 3 || strcmp(permissions, "r-xp") != 0)
            continue;
        bool is_vdso = strstr(line, "[vdso]");
        if (is_vdso) {
            target->vdso_address = start;
            target->vdso_length = end - start;
        }
        if ((is_vdso || !found) && has_room(target, end))
            found = end - ARCH_STUB_BYTES;
        if (is_vdso && found)
            break;
    }
    if (!found)
        return error_set(
            ret_error, -ENOSPC,
            "process %d has no unused %d bytes of executable padding (it has no vDSO, or a full one)",
            target->pid, ARCH_STUB_BYTES);
    *ret_address = found & ~(uint64_t)(STUB_ALIGNMENT - 1);
    return 0;
}

void target_find_stub_place(struct target *target)
{
    uint64_t place;
    if (find_stub_place(target, &place, NULL) == 0)
        target->stub_place = place;
}

static int write_stub(struct target *target, struct reseat_error **ret_error)
{
    uint64_t address = target->stub_address;
    if (!address && target->stub_place && has_room(target, target->stub_place + ARCH_STUB_BYTES))
        address = target->stub_place;
    int r = address ? 0 : find_stub_place(target, &address, ret_error);
    if (r < 0)
        return r;
    uint8_t stub[ARCH_STUB_BYTES] = {0};
    struct target_thread *leader = &target->threads[0];
    arch_stub_build(stub, address, leader->regs, leader->signal_mask);
    r = target_write(target, address, stub, sizeof stub);
    if (r < 0)
        return error_errno(ret_error, r, "writing the stub into process %d at %#lx", target->pid,
                           (unsigned long)address);
    target->stub_address = address;
    return 0;
}

/* Runs the leader until it leaves the system call of the stub. Other stops on the way (a group stop, a signal
 * that cannot be blocked) are passed over. */
static int run_to_exit(struct target_thread *leader, struct reseat_error **ret_error)
{
    for (int stops_seen = 0; stops_seen < 2;) {
        if (ptrace(PTRACE_SYSCALL, leader->tid, NULL, NULL) < 0)
            return -errno;
        leader->is_stopped = false;
        int status;
        int r = target_wait_stop(leader->tid, TARGET_STOP_TIMEOUT_NS, &status);
        if (r < 0)
            return r;
        leader->is_stopped = true;
        if (status >> 16)
            continue;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80)) {
            stops_seen++;
            continue;
        }
        r = target_check_dispatched(leader, WSTOPSIG(status), ret_error);
        if (r < 0)
            return r;
        leader->held_signal = WSTOPSIG(status);
    }
    return 0;
}

int64_t target_system_call(struct target *target, long number, const uint64_t arguments[6],
                           struct reseat_error **ret_error)
{
    struct target_thread *leader = &target->threads[0];
    int r = write_stub(target, ret_error);
    if (r < 0)
        return r;
    uint64_t regs[ARCH_REGS_WORDS];
    memcpy(regs, leader->regs, sizeof regs);
    arch_enter_stub(regs, target->stub_address, number, arguments);

    r = target_move_thread(leader, regs, 0);
    if (r == 0)
        r = run_to_exit(leader, ret_error);
    if (r == 0)
        r = target_get_regs(leader->tid, regs);
    if (r < 0 && ret_error && *ret_error)
        return r;
    if (r < 0)
        return error_errno(ret_error, r, "running system call %ld in process %d", number, target->pid);
    return arch_result(regs);
}

static int reserve_mirror(struct target *target, size_t data_length, size_t touched_length,
                          struct reseat_error **ret_error)
{
    size_t length = (data_length + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
    if (target->scratch.mirror && target->scratch.mirror_length >= length)
        return 0;
    uint8_t *mirror = calloc(1, length);
    if (!mirror)
        return error_errno(ret_error, -ENOMEM, "making room for %zu bytes", length);
    explicit_bzero(mirror, touched_length < length ? touched_length : length);
    free(target->scratch.mirror);
    target->scratch.mirror = mirror;
    target->scratch.mirror_length = length;
    return 0;
}

int target_reserve_mirror(struct target *target, size_t data_length, struct reseat_error **ret_error)
{
    return reserve_mirror(target, data_length, data_length, ret_error);
}

int target_reserve_sparse_mirror(struct target *target, size_t data_length, struct reseat_error **ret_error)
{
    return reserve_mirror(target, data_length, SPARSE_TOUCHED_BYTES, ret_error);
}

int target_map_scratch(struct target *target, size_t data_length, struct reseat_error **ret_error)
{
    size_t length = PAGE_BYTES + ((data_length + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1));
    int reserved = target_reserve_mirror(target, data_length, ret_error);
    if (reserved < 0)
        return reserved;
    /* Never writable and executable at once, which some systems forbid. MAP_STACK keeps huge pages away. */
    int64_t address =
        target_system_call(target, SYS_mmap,
                           (const uint64_t[6]){0, length, PROT_READ | PROT_EXEC,
                                               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK,
                                               (uint64_t)-1, 0},
                           ret_error);
    if (address < 0)
        return error_errno(ret_error, (int)address, "mapping %zu bytes in process %d", length, target->pid);
    target->scratch.address = (uint64_t)address;
    target->scratch.length = length;
    target->scratch.used = target->scratch.first = 0;
    int64_t r = target_system_call(target, SYS_mprotect,
                                   (const uint64_t[6]){(uint64_t)address + PAGE_BYTES, length - PAGE_BYTES,
                                                       PROT_READ | PROT_WRITE},
                                   ret_error);
    if (r < 0)
        return error_errno(ret_error, (int)r, "protecting the scratch pages of process %d", target->pid);
    r = target_write(target, (uint64_t)address, arch_interpreter,
                     (size_t)(arch_interpreter_end - arch_interpreter));
    if (r < 0)
        return error_errno(ret_error, (int)r, "writing the interpreter into process %d", target->pid);
    return 0;
}

/* From the exit of the stub's system call into a stop of the kind at which the kernel, when it goes on, makes
 * interrupted system calls again and delivers signals; it does not at a system call's exit. No instruction of
 * the stub is run. */
static void leave_stub(struct target_thread *leader)
{
    int status;
    ptrace(PTRACE_INTERRUPT, leader->tid, NULL, NULL);
    do {
        if (ptrace(PTRACE_CONT, leader->tid, NULL, NULL) < 0 ||
            target_wait_stop(leader->tid, TARGET_STOP_TIMEOUT_NS, &status) < 0)
            return;
        if (!(status >> 16))
            leader->held_signal = WSTOPSIG(status);
    } while (!(status >> 16));
}

int target_unmap_scratch(struct target *target, struct reseat_error **ret_error)
{
    int64_t r = 0;
    if (target->scratch.address)
        r = target_system_call(target, SYS_munmap,
                               (const uint64_t[6]){target->scratch.address, target->scratch.length},
                               ret_error);
    target->scratch.address = 0;
    if (target->stub_address && r == 0) {
        /* The leader stands behind the system call in the stub: put it back before the stub goes. */
        struct target_thread *leader = &target->threads[0];
        leave_stub(leader);
        target_thread_restore(leader);
        static const uint8_t nothing[ARCH_STUB_BYTES];
        r = target_write(target, target->stub_address, nothing, sizeof nothing);
        target->stub_address = 0;
    }
    return r < 0 ? error_errno(ret_error, (int)r, "unmapping the scratch pages of process %d", target->pid)
                 : 0;
}

int target_adopt_scratch(struct target *target, uint64_t address, uint64_t length, uint64_t stub_address,
                         struct reseat_error **ret_error)
{
    uint8_t interpreter[PAGE_BYTES];
    size_t interpreter_length = (size_t)(arch_interpreter_end - arch_interpreter);
    int r = target_read(target, address, interpreter, interpreter_length);
    if (r < 0 || memcmp(interpreter, arch_interpreter, interpreter_length) != 0)
        return error_set(ret_error, -EBADMSG, "process %d has no scratch pages of ours at %#lx", target->pid,
                         (unsigned long)address);
    uint8_t *mirror = calloc(1, length - PAGE_BYTES);
    if (!mirror)
        return error_errno(ret_error, -ENOMEM, "making room for %lu bytes", (unsigned long)length);
    free(target->scratch.mirror);
    target->scratch = (struct scratch){.address = address,
                                       .length = length,
                                       .mirror = mirror,
                                       .mirror_length = length - PAGE_BYTES};
    target->stub_address = stub_address;
    return 0;
}

uint64_t scratch_interpreter(const struct scratch *scratch)
{
    return scratch->address;
}

uint64_t scratch_take(struct scratch *scratch, size_t length, size_t alignment, void *ret_mirror)
{
    size_t offset = (scratch->used + alignment - 1) & ~(alignment - 1);
    if (offset > scratch->length - PAGE_BYTES || length > scratch->length - PAGE_BYTES - offset)
        return 0;
    scratch->used = offset + length;
    memset(scratch->mirror + offset, 0, length);
    if (ret_mirror)
        *(void **)ret_mirror = scratch->mirror + offset;
    return scratch->address + PAGE_BYTES + offset;
}

void *scratch_mirror(struct scratch *scratch, uint64_t address)
{
    return scratch->mirror + (address - scratch->address - PAGE_BYTES);
}

void scratch_begin_part(struct scratch *scratch)
{
    scratch->first = scratch->used;
}

int target_flush_scratch(struct target *target, struct reseat_error **ret_error)
{
    struct scratch *scratch = &target->scratch;
    size_t length = scratch->used - scratch->first;
    struct iovec here = {scratch->mirror + scratch->first, length};
    struct iovec there = {(void *)(scratch->address + PAGE_BYTES + scratch->first), length};
    int r = 0;
    /* Many pages at once; /proc/PID/mem takes them one by one. */
    if (process_vm_writev(target->pid, &here, 1, &there, 1, 0) != (ssize_t)length)
        r = target_write(target, (uint64_t)there.iov_base, here.iov_base, length);
    return r < 0 ? error_errno(ret_error, r, "writing a program into process %d", target->pid) : 0;
}

int target_fetch_scratch(struct target *target, struct reseat_error **ret_error)
{
    struct scratch *scratch = &target->scratch;
    size_t length = scratch->used - scratch->first;
    struct iovec here = {scratch->mirror + scratch->first, length};
    struct iovec there = {(void *)(scratch->address + PAGE_BYTES + scratch->first), length};
    int r = 0;
    if (process_vm_readv(target->pid, &here, 1, &there, 1, 0) != (ssize_t)length)
        r = target_read(target, (uint64_t)there.iov_base, here.iov_base, length);
    return r < 0 ? error_errno(ret_error, r, "reading results from process %d", target->pid) : 0;
}
