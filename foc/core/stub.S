/* Code that core lets a stopped thread run on a page of its own, to reach what only the thread itself can: its UTCB (which
 * cannot be mapped elsewhere) and its extended state. Position-independent; each part ends in an invalid instruction,
 * whose exception says that it is done.
 *
 *	save: rdi buffer, rsi UTCB; load: rsi buffer, rdi UTCB; r8: nonzero if the processor has XSAVE.
 * The buffer is the UTCB, then the extended state.
 *
 * The kernel switches the FPU when it is used (#NM). QEMU 7.2 emulates XSAVE and XRSTOR without that exception, so they
 * would see another thread's registers: an FPU instruction that does nothing goes first. */
	.text
	.globl stub_begin, stub_park, stub_save, stub_load, stub_end
stub_begin:
stub_park:
	ud2

stub_save:
	mov	$128, %ecx
	rep movsq
	mov	$-1, %eax
	mov	%eax, %edx
	fnop
	test	%r8, %r8
	jz	1f
	xsave64	(%rdi)
	ud2
1:	fxsave64 (%rdi)
	ud2

/* All but two words that are the kernel's: the UTCB's own address, and its free marker. */
stub_load:
	mov	$63, %ecx
	rep movsq
	add	$8, %rsi
	add	$8, %rdi
	mov	$60, %ecx
	rep movsq
	add	$8, %rsi
	add	$8, %rdi
	mov	$3, %ecx
	rep movsq
	mov	$-1, %eax
	mov	%eax, %edx
	fnop
	test	%r8, %r8
	jz	1f
	xrstor64 (%rsi)
	ud2
1:	fxrstor64 (%rsi)
	ud2
stub_end:
	.section .note.GNU-stack, "", @progbits
