/* Where every thread of a component starts: its stack is there, its number follows from where its UTCB lies. */
#define COMPONENT_UTCBS 0x40000000
	.text
	.globl _start
_start:
	mov	%gs:0, %rdi
	sub	$COMPONENT_UTCBS, %rdi
	shr	$10, %rdi
	xor	%ebp, %ebp
	call	component_main
	ud2
	.section .note.GNU-stack, "", @progbits
