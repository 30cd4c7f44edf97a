/* The interpreter: runs a program of system calls (struct program_call, target.h) with the stack pointer as its
 * program counter, so that a clone whose child is given a stack is a child that is given a program. Uses no memory
 * but the program, no extended registers, and never returns: a program ends in rt_sigreturn, exit or an endless
 * loop. */
    .section .rodata
    .global arch_interpreter, arch_interpreter_end
    .hidden arch_interpreter, arch_interpreter_end
arch_interpreter:
1:  pop %rax                /* number */
    pop %rdi
    pop %rsi
    pop %rdx
    pop %r10
    pop %r8
    pop %r9
    syscall                 /* a new process or thread goes on here, with its own stack pointer */
    pop %rcx                /* result_address */
    mov %rax, (%rcx)
    pop %rcx                /* failure */
    test %rax, %rax
    jns 1b
    jrcxz 1b
    mov %rcx, %rsp
    jmp 1b
arch_interpreter_end:
    .section .note.GNU-stack, "", @progbits
