/* Entry, exception stubs and mode changes of the 32-bit payloads. */
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 4, 18		/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long _start

	.text
	.globl _start
_start:	cld
	mov $boot_stack + 65536, %esp
	mov %eax, boot_magic
	mov %ebx, boot_info
	lgdt gdt_ptr
	ljmp $8, $1f
1:	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	call rt_init
	call main
	call finish

	.globl rt_try, rt_unwind
rt_try:	movl $1, rt_catching
	mov (%esp), %ecx
	mov %ecx, context
	lea 4(%esp), %edx
	mov %edx, context + 4
	mov %ebx, context + 8
	mov %esi, context + 12
	mov %edi, context + 16
	mov %ebp, context + 20
	mov $-2, %eax
	ret
/* Back to rt_try()'s caller with the vector as its result. */
rt_unwind:
	mov 4(%esp), %eax
	mov $16, %ecx
	mov %ecx, %ss
	mov context + 4, %esp
	mov %ecx, %ds
	mov %ecx, %es
	mov %ecx, %fs
	mov %ecx, %gs
	mov context + 8, %ebx
	mov context + 12, %esi
	mov context + 16, %edi
	mov context + 20, %ebp
	push $2
	popf
	jmp *context

/* user_at(ip, sp, flags, arg) */
	.globl user_at, user_done
user_at:
	mov 4(%esp), %eax
	mov 8(%esp), %edx
	mov 12(%esp), %ebx
	mov 16(%esp), %ecx
	mov %ecx, %edi
	push $0x23
	push %edx
	push %ebx
	push $0x1b
	push %eax
	mov $0x23, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	iret
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
common:	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %esp, %ebx
	pushf
	pop %edx
	push %edx
	push %ebx
	cld
	call rt_exception
	mov %ebx, %esp
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

	.bss
	.align 16
context: .space 32
	.align 4096
boot_stack: .space 65536
