/* The multiboot start, in 32 bits as the boot loader leaves the processor: a header, a stack, C, and then the way into
 * 64-bit mode with the first 4 GiB mapped one to one, which is how the kernel's own boot code wants to be entered
 * (kern boot/amd64/boot.S, boot/bootstrap.cc: no arguments, its info page already filled in).
 * Multiboot Specification 0.6.96, sections 3.1 and 3.2; Intel SDM volume 3, section 9.8.5. */

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 3 /* modules on page boundaries, a memory map */

	.section .multiboot, "a"
	.balign 4
	.long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

	.text
	.globl _start
_start:
	cli
	mov	$stack_end, %esp
	push	%ebx			/* the boot loader's information */
	push	%eax			/* its magic number */
	call	start_main		/* does not return: ends in start_enter */
1:	hlt
	jmp	1b

	/* start_enter(entry): the kernel's entry address is below 4 GiB. */
	.globl start_enter
start_enter:
	mov	4(%esp), %edi
	mov	%cr4, %eax
	or	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	$page_map, %eax
	mov	%eax, %cr3
	mov	$0xc0000080, %ecx	/* EFER */
	rdmsr
	or	$0x100, %eax		/* LME */
	wrmsr
	mov	%cr0, %eax
	or	$0x80000001, %eax	/* paging, protection */
	mov	%eax, %cr0
	lgdt	descriptor_pointer
	ljmp	$8, $long_mode

	.code64
long_mode:
	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	xor	%eax, %eax
	mov	%edi, %edi		/* clears the upper half */
	jmp	*%rdi

	.section .rodata
	.balign 8
descriptors:
	.quad 0
	.quad 0x00af9b000000ffff	/* 64-bit code */
	.quad 0x00cf93000000ffff	/* data */
descriptor_pointer:
	.word . - descriptors - 1
	.long descriptors

	/* One entry for each 512 GiB, four for each GiB, 2048 of 2 MiB. Filled in by start.c. */
	.bss
	.balign 4096
	.globl page_map, page_gigabytes, page_megabytes
page_map:
	.skip 4096
page_gigabytes:
	.skip 4096
page_megabytes:
	.skip 4 * 4096
	.skip 16384
stack_end:

	.section .note.GNU-stack, "", @progbits
