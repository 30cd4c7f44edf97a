/* A thread that waits in an IPC when it is to be stopped is brought out of it by cancelling (thread-ipc.cpp:
 * do_ipc_receive, commit_error). Its registers then still say what it asked for: rdx the capability and the
 * operation, r8 the timeouts; and rax, for a wait that was cancelled, the tag with the error flag added. So
 * the call can be made again: rip goes back over the two bytes of the instruction, rax gets its tag back.
 *
 * A wait for anybody is made again without its send phase, which was over. A wait for the answer to a call
 * cannot be: the server's reply capability went with the cancelling. That call is made again as a whole. A
 * cancelled send phase leaves no tag at all (do_ipc): the thread sees the error, which programs for this
 * kernel must expect anyway. Semaphores leave no tag either, but theirs is always the same.
 *
 * Timeouts that are relative start over. */
#include "restart.h"

#define SYSTEM_CALL_BYTES 2

static enum restart again(struct foc_registers *registers, foc_word_t tag, enum restart how)
{
    registers->rip -= SYSTEM_CALL_BYTES;
    registers->rax = tag;
    return how;
}

enum restart restart_prepare(struct foc_registers *registers, foc_word_t error, bool is_at_system_call,
                             bool is_semaphore)
{
    if (!is_at_system_call || !(registers->rax & FOC_TAG_ERROR))
        return RESTART_NOT_NEEDED;
    foc_word_t tag = registers->rax & ~FOC_TAG_ERROR;
    error &= FOC_IPC_ERROR_MASK;
    if (error == FOC_IPC_CANCELED)
        return RESTART_LOST;
    if (error != FOC_IPC_RECEIVE_CANCELED)
        return RESTART_NOT_NEEDED;
    if (is_semaphore)
        return again(registers, FOC_TAG(1, 0, 0, FOC_PROTOCOL_SEMAPHORE), RESTART_WAIT);
    if (registers->rdx & FOC_OPEN_WAIT) {
        registers->rdx &= ~(foc_word_t)(FOC_SEND | FOC_REPLY);
        return again(registers, tag, RESTART_WAIT);
    }
    return again(registers, tag, registers->rdx & FOC_SEND ? RESTART_REPEAT : RESTART_WAIT);
}
