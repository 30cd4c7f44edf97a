/* Where the kernel starts core, in place of sigma0: no stack yet, and the address of the kernel info page in rdi
 * (kern/ia32/64/thread-ia32-64.cpp, user_invoke). */
	.text
	.globl _start
_start:
	lea	core_stack_end(%rip), %rsp
	xor	%ebp, %ebp
	call	core_main
	ud2

	.bss
	.balign 16
	.skip 65536
core_stack_end:
	.section .note.GNU-stack, "", @progbits
