/* Entry, exception stubs and mode changes of the 64-bit payloads. The link is
 * for 64 bits, the file then made a 32-bit ELF, as multiboot wants it. */
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.text
	.code32
	.globl _start
_start:	cld
	mov $boot_stack + 65536, %esp
	mov %eax, boot_magic
	mov %ebx, boot_info
	/* 4 GiB one to one, 2 MiB pages, open to ring 3 */
	movl $pdpt + 7, pml4
	mov $pd + 7, %eax
	mov $pdpt, %edi
	mov $4, %ecx
1:	mov %eax, (%edi)
	add $4096, %eax
	add $8, %edi
	loop 1b
	mov $0x87, %eax
	mov $pd, %edi
	mov $2048, %ecx
1:	mov %eax, (%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 1b
	mov %cr4, %eax
	or $0x20, %eax
	mov %eax, %cr4
	mov $pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	mov %cr0, %eax
	or $0x80000001, %eax
	mov %eax, %cr0
	lgdt gdt_ptr
	ljmp $8, $1f
	.code64
1:	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	mov $boot_stack + 65536, %rsp
	call rt_init
	call main
	call finish

	.globl rt_try, rt_unwind
rt_try:	movl $1, rt_catching
	mov (%rsp), %rcx
	mov %rcx, context
	lea 8(%rsp), %rdx
	mov %rdx, context + 8
	mov %rbx, context + 16
	mov %rbp, context + 24
	mov %r12, context + 32
	mov %r13, context + 40
	mov %r14, context + 48
	mov %r15, context + 56
	mov $-2, %eax
	ret
rt_unwind:
	mov %edi, %eax
	mov $16, %ecx
	mov %ecx, %ss
	mov %ecx, %ds
	mov %ecx, %es
	mov context + 8, %rsp
	mov context + 16, %rbx
	mov context + 24, %rbp
	mov context + 32, %r12
	mov context + 40, %r13
	mov context + 48, %r14
	mov context + 56, %r15
	push $2
	popf
	jmp *context

	.globl user_at, user_done
user_at:
	mov %rcx, %r8
	push $0x23
	push %rsi
	push %rdx
	push $0x1b
	push %rdi
	mov %r8, %rcx
	mov %r8, %rdi
	iretq
user_done:
	int $0x30
	jmp user_done

	.globl stubs
	.align 16
stubs:
	vector = 0
	.rept 256
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push $0
	.endif
	push $vector
	jmp common
	vector = vector + 1
	.endr
common:	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %rdi
	mov %rsp, %rbx
	pushf
	pop %rsi
	and $-16, %rsp
	cld
	call rt_exception
	mov %rbx, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

	.bss
	.align 4096
	.globl pml4, pdpt, pd
pml4:	.space 4096
pdpt:	.space 4096
pd:	.space 4096 * 4
boot_stack: .space 65536
context: .space 64
