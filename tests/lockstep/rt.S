/*
 * What a random program (generate.py) stands on: 64-bit mode, page tables, an
 * exception handler that repairs or skips, a periodic APIC timer, the way into
 * user mode and back, and a checksum at the end.
 *
 * The program is `body`. It may use every register; RSP must be a stack at
 * body's end, R14 is the arena. An exception at an address listed in .extable
 * goes on at the address beside it; a page fault in the arena or its alias is
 * repaired in the page table and repeated; any other ends the run with status
 * (7FH << 1) | 1. A program that comes to its end leaves with (10H << 1) | 1.
 */
	.intel_syntax noprefix
	.section .multiboot, "a"
	.align 4
	.long 0x1badb002, 3, -(0x1badb002 + 3)

	.set ARENA_PHYS, 0x800000
	.set APIC, 0xfee00000

	.text
	.code32
	.globl _start
_start:	cld
	mov esp, offset stack_top
	/* 4 GiB one to one in 2 MiB pages, open to ring 3 */
	mov dword ptr [pml4], offset pdpt + 7
	mov eax, offset pd + 7
	mov edi, offset pdpt
	mov ecx, 4
1:	mov [edi], eax
	add eax, 4096
	add edi, 8
	loop 1b
	mov eax, 0x87
	mov edi, offset pd
	mov ecx, 2048
1:	mov [edi], eax
	add eax, 0x200000
	add edi, 8
	loop 1b
	/* 40000000H arena, 40200000H the same frames again, 40400000H function pages */
	mov dword ptr [pd + 4096], offset arena_pt + 7
	mov dword ptr [pd + 4096 + 8], offset alias_pt + 7
	mov dword ptr [pd + 4096 + 16], offset fn_pt + 7
	/* 40600000H: the first 4 MiB again, the program's own code among them */
	mov dword ptr [pd + 4096 + 24], 0x87
	mov dword ptr [pd + 4096 + 32], 0x200087
	mov eax, ARENA_PHYS + 7
	mov edi, offset arena_pt
	mov ecx, 512
1:	mov [edi], eax
	mov [edi + 4096], eax
	add eax, 4096
	add edi, 8
	loop 1b
	mov eax, offset fn_frames + 7
	mov edi, offset fn_pt
	mov ecx, 8
1:	mov [edi], eax
	add eax, 4096
	add edi, 8
	loop 1b
	/* a second address space: the arena's frames in another order, all else the same tables */
	mov esi, offset pd + 4096
	mov edi, offset other_pd
	mov ecx, 1024
	rep movsd
	mov dword ptr [other_pd], offset other_pt + 7
	mov esi, offset pdpt
	mov edi, offset other_pdpt
	mov ecx, 1024
	rep movsd
	mov dword ptr [other_pdpt + 8], offset other_pd + 7
	mov dword ptr [other_pml4], offset other_pdpt + 7
	xor ecx, ecx
1:	mov eax, ecx
	cmp ecx, 256			/* not where stacks may lie */
	jae 2f
	xor eax, 3
2:	mov eax, [arena_pt + eax * 8]
	mov [other_pt + ecx * 8], eax
	inc ecx
	cmp ecx, 512
	jb 1b
	mov eax, cr4
	or eax, 0x40620			/* PAE, OSFXSR, OSXMMEXCPT, OSXSAVE */
	mov cr4, eax
	mov eax, offset pml4
	mov cr3, eax
	mov ecx, 0xc0000080
	rdmsr
	or eax, 0x901			/* NXE, LME, SCE */
	wrmsr
	mov eax, cr0
	and eax, 0xfffffff3
	or eax, 0x80010023		/* PG, WP, NE, MP, PE */
	mov cr0, eax
	lgdt [gdt_ptr]
	ljmp 8, offset 1f
	.code64
1:	.if PCID
	mov rax, cr4
	bts rax, 17
	mov cr4, rax
	.endif
	mov eax, 16
	mov ds, eax
	mov es, eax
	mov ss, eax
	xor eax, eax
	mov fs, eax
	mov gs, eax
	mov rsp, offset stack_top
	xor ecx, ecx
	xor edx, edx
	mov eax, 7
	xsetbv

	/* IDT: every vector on stack 1 of the TSS; 3, 4, 80H, 81H open to ring 3 */
	mov rdi, offset idt
	mov rsi, offset stubs
	xor ecx, ecx
1:	mov rax, rsi
	mov [rdi], ax
	mov word ptr [rdi + 2], 8
	mov word ptr [rdi + 4], 0x8e01
	cmp ecx, 3
	je 2f
	cmp ecx, 0x80
	jne 3f
2:	mov word ptr [rdi + 4], 0xee01
3:	shr rax, 16
	mov [rdi + 6], ax
	add rdi, 16
	add rsi, 16
	inc ecx
	cmp ecx, 256
	jb 1b
	lidt [idt_ptr]
	mov rax, offset tss
	mov [gdt + 0x32], ax
	shr eax, 16
	mov [gdt + 0x34], al
	mov [gdt + 0x37], ah
	mov rax, offset int_top
	mov [tss + 4], rax
	mov [tss + 0x24], rax
	mov word ptr [tss + 0x66], 0x68	/* no I/O bitmap */
	mov eax, 0x30
	ltr ax

	/* SYSCALL: kernel 08H; SYSRET: user 28H and 20H */
	mov ecx, 0xc0000081
	xor eax, eax
	mov edx, 0x00180008
	wrmsr
	inc ecx
	mov eax, offset syscall_entry
	xor edx, edx
	wrmsr
	mov ecx, 0xc0000084
	mov eax, 0x700
	wrmsr
	mov ecx, 0xc0000100		/* FS and GS in the arena */
	mov eax, 0x40010003
	wrmsr
	inc ecx
	mov eax, 0x40020005
	wrmsr
	inc ecx
	mov eax, 0x40030007
	wrmsr

	mov al, 0xff
	out 0x21, al
	out 0xa1, al
	mov edi, APIC
	mov dword ptr [rdi + 0xf0], 0x1ff
	mov dword ptr [rdi + 0x3e0], 0xb
	mov dword ptr [rdi + 0x320], 0x20040
	mov dword ptr [rdi + 0x380], TIMER_COUNT

	/* something to compute with: a generator over the arena and the registers */
	mov r14d, 0x40001000
	mov rax, SEED
	mov rcx, 6364136223846793005
	xor edx, edx
1:	imul rax, rcx
	add rax, 0x1234567
	mov [r14 + rdx * 8], rax
	inc edx
	cmp edx, 0x22000
	jb 1b
	mov rbx, [r14 + 8]
	mov rbp, [r14 + 16]
	mov rsi, [r14 + 24]
	mov rdi, [r14 + 32]
	mov r8, [r14 + 40]
	mov r9, [r14 + 48]
	mov r10, [r14 + 56]
	mov r11, [r14 + 64]
	mov r12, [r14 + 72]
	mov r13, [r14 + 80]
	xor r15d, r15d
	fninit
	sti
	call body
	cli
	cld
	mov [saved], rax
	mov eax, offset pml4
	mov cr3, rax
	mov rax, [saved]

	/* the registers into memory, memory into a sum */
	mov [saved], rax
	mov [saved + 8], rcx
	mov [saved + 16], rdx
	mov [saved + 24], rbx
	mov [saved + 32], rbp
	mov [saved + 40], rsi
	mov [saved + 48], rdi
	mov [saved + 56], r8
	mov [saved + 64], r9
	mov [saved + 72], r10
	mov [saved + 80], r11
	mov [saved + 88], r12
	mov [saved + 96], r13
	pushfq
	pop qword ptr [saved + 104]
	fnsave [saved + 128]
	.irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
	vmovups [saved + 256 + 32 * \n], ymm\n
	.endr
	xor eax, eax
	mov rbx, 6364136223846793005
	mov esi, offset saved
	mov ecx, (saved_end - saved) / 8
	call sum
	mov esi, 0x40000000
	mov ecx, 0x200000 / 8
	call sum
	mov esi, offset arena_pt
	mov ecx, 4 * 512
	call sum
	call print
	mov eax, 0x10
	jmp leave
print:	mov ecx, 16			/* RAX and a new line to the serial port */
	mov edx, 0x3f8
1:	rorx rax, rax, 60
	mov rbx, rax
	and eax, 15
	mov al, [digits + rax]
	out dx, al
	mov rax, rbx
	loop 1b
	mov al, 10
	out dx, al
	ret
sum:	xor rax, [rsi]
	imul rax, rbx
	rorx rax, rax, 47
	add rsi, 8
	dec ecx
	jnz sum
	ret
fail:	.irp n, 32, 40, 48, 56, 72	/* vector, error, RIP, CS, RSP; CR2 */
	mov rax, [rsp + \n]
	call print
	.endr
	mov rax, cr2
	call print
	mov eax, 0x7f
leave:	out 0xf4, eax
	cli
	hlt

syscall_entry:
	swapgs
	push r11
	popfq				/* TF and IF as they were */
	jmp rcx

	.align 16
stubs:
	vector = 0
	.rept 256
	.align 16
	.if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21)
	push 0
	.endif
	push vector
	jmp common
	vector = vector + 1
	.endr
common:	push rax
	push rcx
	push rdx
	push rbx
	/* [rsp + 32] vector, error, RIP, CS, RFLAGS, RSP, SS */
	mov rax, [hash]
	mov rbx, 6364136223846793005
	.irp n, 32, 40, 48, 56, 64, 72
	xor rax, [rsp + \n]
	imul rax, rbx
	rorx rax, rax, 51
	.endr
	mov [hash], rax
	mov ecx, [rsp + 32]
	inc qword ptr [counts + rcx * 8]
	cmp ecx, 0x40
	je timer
	inc qword ptr [total]
	cmp qword ptr [total], 2000000
	ja fail
	cmp ecx, 14
	je page_fault
	cmp ecx, 1
	je 8f
	cmp ecx, 3
	je 8f
	cmp ecx, 0x80
	je 8f
lookup:	mov rax, [rsp + 48]
	mov ecx, offset extable
1:	cmp ecx, offset extable_end
	jae fail
	cmp [rcx], rax
	je 2f
	add ecx, 16
	jmp 1b
2:	mov rax, [rcx + 8]
	mov [rsp + 48], rax
8:	pop rbx
	pop rdx
	pop rcx
	pop rax
	add rsp, 16
	iretq
timer:	mov eax, APIC
	mov dword ptr [rax + 0xb0], 0
	jmp 8b
page_fault:
	mov rax, cr2
	xor [hash], rax
	mov rcx, rax
	shr rcx, 22
	cmp rcx, 0x40000000 >> 22
	jne lookup
	mov ecx, eax
	shr ecx, 12
	and ecx, 1023
	cmp ecx, 512
	jae 1f
	mov rbx, cr3
	test ebx, 4096
	jz 1f
	add ecx, (other_pt - arena_pt) / 8
1:	or qword ptr [arena_pt + rcx * 8], 7
	btr qword ptr [arena_pt + rcx * 8], 63
	invlpg [rax]
	mov byte ptr [tables_changed], 1
	jmp 8b
switch_space:
	/* the other space, PCID 1 if there are PCIDs; what is cached of it is kept if no table changed since */
	mov r13, cr3
	xor r13, other_pml4_bits
	.if PCID
	cmp byte ptr [tables_changed], 0
	jne 1f
	bts r13, 63
	.endif
1:	mov byte ptr [tables_changed], 0
	mov cr3, r13
	ret

	.data
	.globl hash
digits:	.ascii "0123456789abcdef"
	.align 16
gdt:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff, 0x00affb000000ffff
	.quad 0x0000890000000067, 0
gdt_ptr: .word . - gdt - 1
	.quad gdt
idt_ptr: .word 4095
	.quad idt

tables_changed: .byte 0

	.set other_pml4_bits, 4096 + PCID
	.bss
	.align 8192
	.globl arena_pt, alias_pt, fn_pt
pml4:	.space 4096
other_pml4: .space 4096
other_pdpt: .space 4096
other_pd: .space 4096
pdpt:	.space 4096
pd:	.space 4096 * 4
arena_pt: .space 4096
alias_pt: .space 4096
fn_pt:	.space 4096
other_pt: .space 4096
idt:	.space 4096
tss:	.space 128
int_stack: .space 8192
int_top:
stack:	.space 65536
stack_top:
	.align 64
saved:	.space 832
hash:	.quad 0
total:	.quad 0
counts:	.space 256 * 8
saved_end:

	.section .data.extable, "aw"
extable:
	.text
	.include "body.inc"
	.section .data.extable, "aw"
extable_end:
