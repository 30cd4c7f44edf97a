/* The notes of a core file: what gdb(1) and others know of a process besides its memory. Nothing here is read
 * by Reseat, which has tables of its own; the same values stand there.
 *
 * The thread ids are those of the innermost PID namespace, because that is what the C library of the program
 * knows its threads by (libthread_db compares them). Layouts: struct elf_prstatus, elf_prpsinfo
 * (sys/procfs.h), NT_FILE as in the kernel's fs/binfmt_elf.c. */
#include "image/image-internal.h"
#include "image/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <string.h>
#include <sys/procfs.h>

#define FPREGS_BYTES 512 /* struct user_fpregs_struct, with which the extended state begins */
#define SIGINFO_TYPE 0x53494749U
#define FILE_TYPE    0x46494c45U

struct notes {
    uint8_t *bytes;
    size_t length, room;
    bool is_full; /* memory ran out */
};

static void notes_end(struct notes *notes)
{
    free(notes->bytes);
}

static void add_bytes(struct notes *notes, const void *data, size_t length)
{
    size_t padded = (length + 3) & ~(size_t)3;
    if (notes->length + padded > notes->room) {
        size_t room = 2 * (notes->length + padded);
        uint8_t *larger = realloc(notes->bytes, room);
        if (!larger) {
            notes->is_full = true;
            return;
        }
        notes->bytes = larger;
        notes->room = room;
    }
    memset(notes->bytes + notes->length, 0, padded);
    if (length)
        memcpy(notes->bytes + notes->length, data, length);
    notes->length += padded;
}

static void add_note(struct notes *notes, const char *owner, uint32_t type, const void *data, size_t length)
{
    Elf64_Nhdr header = {
        .n_namesz = (Elf64_Word)strlen(owner) + 1,
        .n_descsz = (Elf64_Word)length,
        .n_type = type,
    };
    add_bytes(notes, &header, sizeof header);
    add_bytes(notes, owner, header.n_namesz);
    add_bytes(notes, data, length);
}

/* ---- threads ---- */

static uint32_t inner_number(const uint32_t *numbers, const struct snapshot *snapshot)
{
    return numbers[snapshot->process.ns_level_count - 1];
}

static void add_thread(struct notes *notes, const struct snapshot *snapshot, size_t index)
{
    const struct snapshot_thread *thread = &snapshot->threads[index];
    const uint8_t *xstate = snapshot->blobs + thread->xstate_offset;
    uint8_t siginfo[sizeof snapshot->signals->siginfo] = {0};
    struct elf_prstatus status = {
        .pr_sighold = thread->signal_mask,
        .pr_pid = (pid_t)inner_number(thread->ns_tids, snapshot),
        .pr_ppid = (pid_t)snapshot->process.parent,
        .pr_pgrp = (pid_t)snapshot->process.group,
        .pr_sid = (pid_t)snapshot->process.session,
        .pr_fpvalid = thread->xstate_length >= FPREGS_BYTES,
    };
    for (size_t i = 0; i < snapshot->signals_count; i++) {
        uint32_t number;
        memcpy(&number, snapshot->signals[i].siginfo, sizeof number);
        if (snapshot->signals[i].tid == thread->tid || (index == 0 && snapshot->signals[i].tid == 0))
            status.pr_sigpend |= 1UL << (number - 1);
    }
    memcpy(status.pr_reg, thread->regs, sizeof status.pr_reg);
    add_note(notes, "CORE", NT_PRSTATUS, &status, sizeof status);
    if (thread->xstate_length >= FPREGS_BYTES)
        add_note(notes, "CORE", NT_FPREGSET, xstate, FPREGS_BYTES);
#if defined __x86_64__
    add_note(notes, "LINUX", NT_X86_XSTATE, xstate, thread->xstate_length);
#endif
    add_note(notes, "CORE", SIGINFO_TYPE, siginfo, sizeof siginfo); /* it was not ended by a signal */
}

/* ---- the process ---- */

static void add_process(struct notes *notes, const struct snapshot *snapshot, int proc_fd)
{
    const struct snapshot_process *process = &snapshot->process;
    _cleanup_free_ char *arguments = NULL, *status = NULL;
    size_t length = 0;
    struct elf_prpsinfo info = {
        .pr_sname = process->flags & SNAPSHOT_STOPPED ? 'T' : 'S',
        .pr_state = process->flags & SNAPSHOT_STOPPED ? 3 : 1,
        .pr_pid = (pid_t)inner_number(process->ns_pids, snapshot),
        .pr_ppid = (pid_t)process->parent,
        .pr_pgrp = (pid_t)process->group,
        .pr_sid = (pid_t)process->session,
    };
    if (file_read(proc_fd, "status", &status, NULL) == 0) {
        info.pr_uid = (uid_t)status_number(status, "Uid", 10);
        info.pr_gid = (gid_t)status_number(status, "Gid", 10);
    }
    memcpy(info.pr_fname, process->comm, sizeof info.pr_fname - 1);
    if (file_read(proc_fd, "cmdline", &arguments, &length) == 0)
        for (size_t i = 0; i + 1 < length && i + 1 < sizeof info.pr_psargs; i++)
            info.pr_psargs[i] = (char)(arguments[i] ? arguments[i] : ' ');
    add_note(notes, "CORE", NT_PRPSINFO, &info, sizeof info);
}

static void add_auxv(struct notes *notes, const struct snapshot *snapshot, int proc_fd)
{
    _cleanup_free_ char *auxv = NULL;
    size_t length = 0;
    if (snapshot->states_count && snapshot->states[0].auxv_length)
        add_note(notes, "CORE", NT_AUXV, snapshot->blobs + snapshot->states[0].auxv_offset,
                 snapshot->states[0].auxv_length);
    else if (file_read(proc_fd, "auxv", &auxv, &length) == 0)
        add_note(notes, "CORE", NT_AUXV, auxv, length);
}

/* ---- the mapped files ---- */

static bool is_of_file(const struct snapshot *snapshot, const struct snapshot_vma *vma)
{
    const char *path = (const char *)snapshot->blobs + vma->path_offset;
    return (vma->kind == SNAPSHOT_VMA_FILE || vma->kind == SNAPSHOT_VMA_OBJECT) && path[0];
}

static void add_files(struct notes *notes, const struct snapshot *snapshot)
{
    uint64_t count = 0;
    _cleanup_(notes_end) struct notes rows = {0};
    for (size_t i = 0; i < snapshot->vmas_count; i++)
        count += is_of_file(snapshot, &snapshot->vmas[i]);
    uint64_t head[2] = {count, CORE_PAGE_BYTES};
    add_bytes(&rows, head, sizeof head);
    _cleanup_free_ char *names = NULL;
    size_t names_length = 0;
    FILE *stream = open_memstream(&names, &names_length);
    for (size_t i = 0; stream && i < snapshot->vmas_count && count > 0; i++) {
        const struct snapshot_vma *vma = &snapshot->vmas[i];
        if (!is_of_file(snapshot, vma))
            continue;
        uint64_t row[3] = {vma->start, vma->end, vma->offset / CORE_PAGE_BYTES};
        add_bytes(&rows, row, sizeof row);
        const char *path = (const char *)snapshot->blobs + vma->path_offset;
        fwrite(path, 1, strlen(path) + 1, stream);
        count--;
    }
    if (!stream || fclose(stream) != 0)
        rows.is_full = true;
    size_t length = rows.length;
    add_bytes(&rows, names, names_length);
    if (rows.is_full)
        notes->is_full = true;
    else
        add_note(notes, "CORE", FILE_TYPE, rows.bytes, length + names_length);
}

int core_notes_make(const struct snapshot *snapshot, pid_t pid, uint8_t **ret_notes, size_t *ret_length,
                    struct reseat_error **ret_error)
{
    _cleanup_(notes_end) struct notes notes = {0};
    _cleanup_close_ int proc_fd = proc_open(pid);
    if (proc_fd < 0)
        return error_errno(ret_error, proc_fd, "opening process %d", pid);
    /* In the order of the kernel: the first thread, the process, then the other threads. */
    add_thread(&notes, snapshot, 0);
    add_process(&notes, snapshot, proc_fd);
    add_auxv(&notes, snapshot, proc_fd);
    add_files(&notes, snapshot);
    for (size_t i = 1; i < snapshot->threads_count; i++)
        add_thread(&notes, snapshot, i);
    if (notes.is_full)
        return error_errno(ret_error, -ENOMEM, "describing %zu threads for a debugger",
                           snapshot->threads_count);
    *ret_notes = TAKE_PTR(notes.bytes);
    *ret_length = notes.length;
    return 0;
}
