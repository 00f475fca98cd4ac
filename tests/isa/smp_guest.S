/* Guest programs of smp_test.c. Each ends in HLT, or in UD2 if something is wrong. */
	.intel_syntax noprefix
	.section .rodata
	.macro program name
	.globl smp_\name
smp_\name:
	.endm
	.macro end_program name
	.globl smp_\name\()_end
smp_\name\()_end:
	.endm

/* RDI: shared page, with another one behind it; RSI: times. Each counter is counted up by a locked access of its own
 * kind. */
program count
1:	lock inc qword ptr [rdi]
	mov eax, 1
	lock xadd [rdi + 8], rax
	mov rax, [rdi + 16]
2:	lea rdx, [rax + 1]
	lock cmpxchg [rdi + 16], rdx
	jne 2b
	mov r14d, 1
	lock xadd [rdi + 40], r14
3:	mov eax, 1
	xchg [rdi + 24], eax
	test eax, eax
	jz 4f
	pause
	jmp 3b
4:	inc qword ptr [rdi + 32]
	mov dword ptr [rdi + 24], 0
	test esi, 15
	jnz 6f
	lock inc qword ptr [rdi + 0xffc]	/* across the end of the page */
	mov eax, 64
5:	lock bts word ptr [rdi + 48], ax	/* bit 0 of the word at 56, a lock */
	jc 5b
	inc qword ptr [rdi + 64]
	mov word ptr [rdi + 56], 0
6:	dec rsi
	jnz 1b
	hlt
end_program count

/* RDI: shared, +0 the round that was written, from +64 on 64 bytes a reader: the round it has seen. RBX: code that
 * returns the round. RSI: rounds. RBP: where the reader answers. */
program reader
	mov r12d, 1
1:	cmp [rdi], r12d
	je 2f
	pause
	jmp 1b
2:	push rbx
	xor eax, eax
	cpuid
	pop rbx
	call rbx
	cmp eax, r12d
	jne 3f
	mov [rbp], r12d
	inc r12d
	cmp r12d, esi
	jbe 1b
	hlt
3:	ud2
end_program reader

/* R8: readers. The immediate of the code at RBX is one byte in. */
program writer
	mov r12d, 1
1:	mov [rbx + 1], r12d
	mov [rdi], r12d
	mov r9, r8
	lea rax, [rdi + 64]
2:	cmp [rax], r12d
	je 3f
	pause
	jmp 2b
3:	add rax, 64
	dec r9
	jnz 2b
	inc r12d
	cmp r12d, esi
	jbe 1b
	hlt
end_program writer

/* No handshake: what the code at RBX returns never decreases, and is ESI once [RDI] says that all was written. */
program follow
	xor ebp, ebp
1:	mov r12d, [rdi]
	call rbx
	cmp eax, ebp
	jb 3f
	mov ebp, eax
	test r12d, r12d
	jz 1b
	cmp eax, esi
	jne 3f
	hlt
3:	ud2
end_program follow

program lead
	mov r12d, 1
1:	mov [rbx + 1], r12d
	mov ecx, 500
2:	pause
	dec ecx
	jnz 2b
	inc r12d
	cmp r12d, esi
	jbe 1b
	mov dword ptr [rdi], 1
	hlt
end_program lead

/* Message passing and store buffering: [RDI], [RDI + 64] and results at RBP; RSI rounds, R8D which of the two. */
program order
	mov r12d, 1
1:	lea rax, [rdi + 128]		/* meet */
	mov edx, 1
	lock xadd [rax], edx
	lea ecx, [r12 + r12]
2:	mov edx, [rax]
	cmp edx, ecx
	jb 2b
	test r8d, r8d
	jnz 3f
	mov [rdi], r12d
	mfence
	mov edx, [rdi + 64]
	jmp 4f
3:	mov [rdi + 64], r12d
	mfence
	mov edx, [rdi]
4:	mov [rbp + r12 * 4], edx
	inc r12d
	cmp r12d, esi
	jbe 1b
	hlt
end_program order

	.section .note.GNU-stack, "", @progbits
