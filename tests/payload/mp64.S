/* Where processors start after a SIPI: real mode, straight to 64-bit mode, then
 * the stack of their own. The code is copied to the page of the vector; the
 * words at F00H there say what it found (struct mp_entry). */
	.text
	.globl mp_tramp, mp_tramp_end, mp_tramp_page
	.code16
mp_tramp:
	mov %cs, %ax
	mov %ax, %ds
	mov %ax, %ss
	mov $0xf00, %sp
	pushfl
	popl 0xf04
	cli
	mov %edx, 0xf08
	mov %cr0, %eax
	mov %eax, 0xf0c
	xor %eax, %eax
	mov %cs, %ax
	mov %eax, 0xf10
	lock incl 0xf00
	xor %edi, %edi
	mov 0xe00, %eax		/* CR4 */
	mov %eax, %cr4
	mov 0xe04, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx
	rdmsr
	or $0x100, %eax
	wrmsr
	lgdtl 0xe10
	mov 0xe08, %eax		/* CR0, with PE and PG */
	mov %eax, %cr0
	ljmpl $8, $mp_entry
	/* NMI in real mode, through the vector table */
	.globl mp_tramp_nmi
mp_tramp_nmi:
	lock incl %cs:0xf14
	iretw
mp_tramp_end:

	.code64
mp_entry:
	mov $16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	mov $1, %eax
	cpuid
	shr $24, %ebx
	mov $cpus, %edi
	mov $64, %ecx
1:	cmp %ebx, 16(%rdi)
	je 2f
	add mp_cpu_size, %rdi
	dec %ecx
	jnz 1b
	jmp mp_lost
2:	mov 8(%rdi), %rsp
	lidt idt_ptr
	mov %rdi, %rax
	mov %rdi, %rdx
	shr $32, %rdx
	mov $0xc0000101, %ecx
	wrmsr
	call mp_main
mp_lost:
	cli
	hlt
	jmp mp_lost
