/*
 * 64-bit mode: canonical addresses, segments without bases and limits, 16-byte
 * descriptors, call gates, compatibility mode, IRETQ, IST and double faults,
 * SYSCALL, SYSENTER, SWAPGS, FSGSBASE (SDM vol. 3, 5.8, 6.14, 7.7; vol. 2).
 *
 * TCG 7.2 differs from the manual in: canonical addresses (a #PF or nothing
 * instead of #GP or #SS), EXT in error codes, error codes of IDT entries
 * (vector times 16), null SS with an RPL, a far call to L and D, a 16-bit TSS,
 * CF after SYSCALL, where a bad SYSRET faults.
 */
#include "rt.h"

#define BAD 0x8000000000000000ul
#define EDGE 0x0000800000000000ul
extern u64 pml4[];
static struct {
	u64 off;
	u16 sel;
} __attribute__((packed)) far64;
static struct {
	u32 off;
	u16 sel;
} __attribute__((packed)) far32;

static u8 fault_stack[4096] __attribute__((aligned(16)));

static void canonical(void)
{
	/* with such a stack only an IST takes the fault */
	tss.ist[3] = (ulong)fault_stack + sizeof(fault_stack);
	set_gate(SS, KCS, stub_of(SS), A_INTR, 4);
	set_gate(GP, KCS, stub_of(GP), A_INTR, 4);
	set_gate(PF, KCS, stub_of(PF), A_INTR, 4);
	FAULTS("read", GP, 0, asm volatile("mov (%0),%%al" ::"r"(BAD) : "eax"));
	FAULTS("write", GP, 0, asm volatile("movb $0,(%0)" ::"r"(BAD)));
	FAULTS("first address that is not canonical", GP, 0, asm volatile("mov (%0),%%al" ::"r"(EDGE) : "eax"));
	FAULTS("last address that is not canonical", GP, 0,
	       asm volatile("mov (%0),%%al" ::"r"(0xffff7ffffffffffful)
			    : "eax"));
	FAULTS("last canonical of the lower half: #PF", PF, 0, asm volatile("mov (%0),%%al" ::"r"(EDGE - 1) : "eax"));
	FAULTS("first canonical of the upper half: #PF", PF, 0,
	       asm volatile("mov (%0),%%al" ::"r"(0xffff800000000000ul)
			    : "eax"));
	FAULTS("through rbp: #SS", SS, 0, asm volatile("xchg %%rbp,%0; mov (%%rbp),%%al" ::"r"(BAD) : "eax"));
	FAULTS("through rsp: #SS", SS, 0, asm volatile("mov %0,%%rsp; mov (%%rsp),%%al" ::"r"(BAD) : "eax"));
	FAULTS("push", SS, 0, asm volatile("mov %0,%%rsp; push %%rax" ::"r"(BAD)));
	FAULTS("pop", SS, 0, asm volatile("mov %0,%%rsp; pop %%rax" ::"r"(BAD) : "eax"));
	FAULTS("call with such a stack", SS, 0, asm volatile("mov %0,%%rsp; call 1f; 1:" ::"r"(BAD)));
	FAULTS("jmp", GP, 0, asm volatile("jmp *%0" ::"r"(BAD)));
	FAULTS("call", GP, 0, asm volatile("call *%0" ::"r"(BAD)));
	FAULTS("ret", GP, 0, asm volatile("push %0; ret" ::"r"(BAD)));
	FAULTS("iretq", GP, 0, asm volatile("push $0x10; push %%rsp; push $2; push $8; push %0; iretq" ::"r"(BAD)));
	FAULTS("lretq", GP, 0, asm volatile("push $8; push %0; lretq" ::"r"(BAD)));
	FAULTS("movs", GP, 0, asm volatile("movsb" ::"S"(BAD), "D"(&far64) : "memory"));
	FAULTS("stos across the edge", GP, 0, asm volatile("stosl" ::"D"(EDGE), "a"(0) : "memory"));
	FAULTS("xlat", GP, 0, asm volatile("xlat" ::"b"(BAD), "a"(0)));
	FAULTS("prefetch of it is nothing", NONE, 0, asm volatile("prefetcht0 (%0)" ::"r"(BAD)));
	FAULTS("invlpg of it is nothing", NONE, 0, asm volatile("invlpg (%0)" ::"r"(BAD)));
	FAULTS("lea of it is nothing", NONE, 0, asm volatile("lea (%0),%%rax" ::"r"(BAD) : "rax"));
	struct desc_ptr bad = { 0xfff, BAD };
	FAULTS("lgdt: base", GP, 0, asm volatile("lgdt %0; lgdt %1" ::"m"(bad), "m"(gdt_ptr)));
	FAULTS("lidt: base", GP, 0, asm volatile("lidt %0; lidt %1" ::"m"(bad), "m"(idt_ptr)));
}

extern u8 f_lretq[], f_lretl[], c_inc[], u_lcallq[], k_gate[], u_far32[];
asm("f_lretq: lretq\n"
    "f_lretl: lretl\n"
    "u_lcallq: mov %rsp,%rbx; rex.w lcall *(%rcx); sub %rsp,%rbx; mov %cs,%edx; int $0x30\n"
    "k_gate: mov %rsp,%r8; mov %ss,%r9d; mov %cs,%r10d; mov (%rsp),%r11; mov 8(%rsp),%r12; mov 16(%rsp),%r13; "
    "mov 24(%rsp),%r14; lretq\n"
    /* in compatibility mode 40h is inc %eax and addresses have 32 bits */
    ".code32\n"
    "c_inc: xor %eax,%eax; .byte 0x40; .byte 0x40; mov $0xffffffff,%edx; lea 2(%edx),%edx; lret\n"
    ".code64\n"
    "u_far32: lcall *(%rcx); mov %cs,%ebx; int $0x30\n");

static void segments(void)
{
	static u8 buf[16] __attribute__((aligned(16)));

	buf[0] = 0x5a;
	set_desc(SEL(0), desc(0x1000, 0, A_P | A_DATA, 0));
	u8 a;
	asm volatile("mov %2,%%ds; movb (%1),%0; mov %3,%%ds" : "=&r"(a) : "r"(buf), "r"(SEL(0)), "r"(KDS));
	check("ds: base and limit are ignored", a, 0x5a);
	RUNS("ds: null works", asm volatile("mov %0,%%ds; movb (%1),%%al; mov %2,%%ds" ::"r"(0), "r"(buf), "r"(KDS)
					    : "eax"));
	RUNS("ss: null in ring 0", asm volatile("mov %0,%%ss; push %%rax; pop %%rax; mov %1,%%ss" ::"r"(0), "r"(KDS)));
	FAULTS("ss: null with RPL 3 in ring 0", GP, 0, asm volatile("mov %0,%%ss" ::"r"(3)));
	wrmsr(0xc0000100, (ulong)buf - 0x100);
	asm volatile("movb %%fs:(%1),%0" : "=r"(a) : "r"(0x100ul));
	check("fs: base from its MSR", a, 0x5a);
	set_desc(SEL(1), desc((u32)(ulong)buf - 0x200, 0, A_P | A_DATA, 0));
	asm volatile("mov %2,%%fs; movb %%fs:(%1),%0" : "=r"(a) : "r"(0x200ul), "r"(SEL(1)));
	check("fs: base from its descriptor, no limit", a, 0x5a);
	check("  and the MSR shows it", rdmsr(0xc0000100), (u32)(ulong)buf - 0x200);
	wrmsr(0xc0000101, 0x1111);
	wrmsr(0xc0000102, 0x2222);
	asm volatile("swapgs");
	check("swapgs: GS base", rdmsr(0xc0000101), 0x2222);
	check("swapgs: the other", rdmsr(0xc0000102), 0x1111);
	asm volatile("mov %0,%%fs; mov %0,%%gs" ::"r"(0));
	/* Intel clears the base with a null selector, AMD keeps it */
	set_cr4(cr4() & ~0x10000ul);
	FAULTS("rdfsbase without CR4.FSGSBASE", UD, 0, asm volatile(".byte 0xf3, 0x48, 0x0f, 0xae, 0xc0" ::: "rax"));
	if (cpuid_reg(7, 0, 1) & 1) {
		set_cr4(cr4() | 0x10000);
		ulong b;
		asm volatile("wrfsbase %1; rdfsbase %0" : "=r"(b) : "r"(0xffff800000001234ul));
		check("wrfsbase, rdfsbase", b, 0xffff800000001234);
		FAULTS("wrgsbase: not canonical", GP, 0, asm volatile("wrgsbase %0" ::"r"(BAD)));
		set_cr4(cr4() & ~0x10000ul);
	}
	/* limits of far jumps: a code segment with L and D set is refused */
	set_desc(SEL(2), desc(0, 0xfffff, A_P | A_CODE, 0xe));
	far64.off = (ulong)f_lretq;
	far64.sel = SEL(2);
	FAULTS("far call to L and D", GP, SEL(2), asm volatile("rex.w lcall *%0" ::"m"(far64) : "memory"));
	far64.sel = KCS;
	RUNS("far call, 64-bit offset", asm volatile("rex.w lcall *%0" ::"m"(far64) : "memory"));
	far32.off = (u32)(ulong)f_lretl;
	far32.sel = KCS;
	RUNS("far call, 32-bit offset", asm volatile("lcall *%0" ::"m"(far32) : "memory"));
	far64.off = BAD;
	FAULTS("far jmp, not canonical", GP, 0, asm volatile("rex.w ljmp *%0" ::"m"(far64) : "memory"));
	/* compatibility mode */
	set_desc(SEL(3), desc(0, 0xfffff, A_P | A_CODE, F_4G));
	far32.off = (u32)(ulong)c_inc;
	far32.sel = SEL(3);
	u32 eax, edx;
	/* its lret pops two dwords, and its push is of dwords */
	asm volatile("lcall *%2" : "=a"(eax), "=d"(edx) : "m"(far32) : "memory", "cc");
	check("compatibility mode: 40h is inc", eax, 2);
	check("compatibility mode: lea in 32 bits", edx, 1);
	set_desc(SEL(4), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_4G));
	far32.sel = SEL(4);
	RUNS_IN_USER("ring 3: compatibility mode and back", user(u_far32, (ulong)&far32));
	check("  CS", last.f.bx, UCS);
	FAULTS("ltr: busy", GP, TSS_SEL, asm volatile("ltr %w0" ::"r"(TSS_SEL)));
	set_desc(SEL(5), desc(0, 0x67, A_TSS, 0));
	set_desc(SEL(6), 0x0000010000000000); /* type not zero in the upper half */
	FAULTS("ltr: upper half with a type", GP, SEL(5), asm volatile("ltr %w0" ::"r"(SEL(5))));
	set_desc(SEL(6), 0);
	set_desc(SEL(5), desc(0, 0x67, 0x81, 0)); /* 16-bit TSS */
	FAULTS("ltr: a 16-bit TSS", GP, SEL(5), asm volatile("ltr %w0" ::"r"(SEL(5))));
	load_tss();
	set_desc(SEL(5), desc((u32)(ulong)&gdt[1], 7, A_LDT, 0));
	set_desc(SEL(6), 0);
	RUNS("lldt: 16-byte descriptor", asm volatile("lldt %w0" ::"r"(SEL(5))));
	RUNS("fs from the LDT", asm volatile("mov %0,%%fs" ::"r"(4 | 0 << 3)); asm volatile("mov %0,%%fs" ::"r"(0)));
	asm volatile("lldt %w0" ::"r"(0));
}

static void set_call_gate(unsigned sel, u32 target, ulong off, u8 access)
{
	set_desc(sel, (off & 0xffff) | (u64)target << 16 | (u64)access << 40 | (u64)(off >> 16 & 0xffff) << 48);
	set_desc(sel + 8, off >> 32);
}

static void call_gates(void)
{
	far64.off = 0;
	far64.sel = SEL(8) | 3;
	set_call_gate(SEL(8), KCS, (ulong)k_gate, A_CALL | A_DPL(3));
	RUNS_IN_USER("call gate to ring 0", user(u_lcallq, (ulong)&far64));
	check("  stack pointer from the TSS", last.f.r8, INT_SP - 32);
	check("  SS is null with RPL 0", last.f.r9, 0);
	check("  CS", last.f.r10, KCS);
	check("  caller's CS", last.f.r12 & 0xffff, UCS);
	check("  caller's RSP", last.f.r13, last.f.sp);
	check("  caller's SS", last.f.r14 & 0xffff, UDS);
	check("  back in ring 3", last.f.dx, UCS);
	check("  both stacks even", last.f.bx, 0);
	set_call_gate(SEL(8), KCS, (ulong)k_gate, A_CALL);
	FAULTS("call gate of DPL 0 from ring 3", GP, SEL(8), user(u_lcallq, (ulong)&far64));
	set_call_gate(SEL(8), KCS, (ulong)k_gate, (A_CALL | A_DPL(3)) & ~A_P);
	FAULTS("call gate not present", NP, SEL(8), user(u_lcallq, (ulong)&far64));
	set_desc(SEL(10), desc(0, 0xfffff, A_P | A_CODE, F_4G));
	set_call_gate(SEL(8), SEL(10), (ulong)k_gate, A_CALL | A_DPL(3));
	FAULTS("call gate to 32-bit code", GP, SEL(10), user(u_lcallq, (ulong)&far64));
	set_call_gate(SEL(8), KCS, BAD, A_CALL | A_DPL(3));
	FAULTS("call gate to an address that is not canonical", GP, 0, user(u_lcallq, (ulong)&far64));
	set_call_gate(SEL(8), KCS, (ulong)k_gate, A_CALL | A_DPL(3));
	set_desc(SEL(9), 0x0000010000000000);
	FAULTS("call gate: upper half with a type", GP, SEL(8), user(u_lcallq, (ulong)&far64));
	far64.sel = KCS;
	FAULTS("ring 3: far call to ring 0 code", GP, KCS, user(u_lcallq, (ulong)&far64));
}

#define U(name, insn)                                                                                                  \
	asm("u_" #name ": " insn "; int $0x30");                                                                       \
	extern u8 u_##name[];
/* clang-format off */
U(int31, "int $0x31")
U(ud2, "ud2") U(swapgs, "swapgs") U(sysret, "sysretq") U(hlt, "hlt") U(rdmsr, "rdmsr") U(cr8, "mov %cr8,%rax")
    /* clang-format on */
    U(iret0, "mov %rsp,%rax; push $0x10; push %rax; push $2; push $8; push $0; iretq")
	U(ss0, "xor %eax,%eax; mov %eax,%ss") U(xsetbv, "xor %ecx,%ecx; xsetbv") U(wrmsr, "wrmsr")
	    U(invpcid, "invlpg (%rax)")

		static void interrupts(void)
{
	static u8 ist_stack[4096] __attribute__((aligned(16)));
	ulong ist = (ulong)ist_stack + sizeof(ist_stack);
	int v;

	/* the stack is aligned, SS:RSP always pushed */
	v = TRY(asm volatile("sub $3,%rsp; int $0x31"));
	check("int from ring 0 on an odd stack", v, 0x31);
	check("  the frame is on 16 bytes", (last.sp_in + 8 + 40) & 15, 0);
	check("  SS pushed", last.f.ss, KDS);
	check("  RSP pushed", (last.f.sp + 3) & 7, 0);
	tss.ist[2] = ist;
	set_gate(0x31, KCS, stub_of(0x31), A_INTR, 3);
	v = TRY(asm volatile("int $0x31"));
	check("IST from ring 0", v == 0x31 ? last.sp_in : 0, ist - 48);
	v = TRY(user(u_int31, 0));
	check("IST gate keeps its DPL", v == GP ? last.f.err : 0, 0x31 * 8 + 2);
	set_gate(0x31, KCS, stub_of(0x31), A_INTR | A_DPL(3), 3);
	v = TRY(user(u_int31, 0));
	check("IST from ring 3", v == 0x31 ? last.sp_in : 0, ist - 48);
	check("  SS is null in ring 0", last.ss_in, 0);
	tss.ist[2] = ist - 5;
	v = TRY(asm volatile("int $0x31"));
	check("IST is aligned down", v == 0x31 ? last.sp_in : 0, ist - 16 - 48);
	reset_gate(0x31);
	FAULTS("ring 3: int n of DPL 0", GP, 0x31 * 8 + 2, user(u_int31, 0));
	set_gate(0x31, KCS, BAD, A_INTR, 0);
	FAULTS("gate to an address that is not canonical", GP, 0, asm volatile("int $0x31"));
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_CODE, F_4G));
	set_gate(0x31, SEL(0), stub_of(0x31), A_INTR, 0);
	FAULTS("gate to 32-bit code", GP, SEL(0), asm volatile("int $0x31"));
	set_gate(0x31, KCS, stub_of(0x31), A_TASK, 0);
	FAULTS("task gates are none in 64-bit mode", GP, 0x31 * 8 + 2, asm volatile("int $0x31"));
	set_gate(0x31, KCS, stub_of(0x31), A_INTR & ~A_P, 0);
	FAULTS("gate not present", NP, 0x31 * 8 + 2, asm volatile("int $0x31"));
	reset_gate(0x31);
	set_gate(UD, KDS, stub_of(UD), A_INTR, 0);
	FAULTS("#UD with a bad gate: EXT", GP, KDS | 1, asm volatile("ud2"));
	reset_gate(UD);
	set_gate(DE, KDS, stub_of(DE), A_INTR, 0);
	FAULTS("#DE with a bad gate: #DF", DF, 0, asm volatile("divl %%ecx" ::"a"(1), "c"(0), "d"(0)));
	reset_gate(DE);
	set_gate(PF, KCS, stub_of(PF), A_INTR & ~A_P, 0);
	FAULTS("#PF with a gate not present: #DF", DF, 0, asm volatile("mov (%0),%%al" ::"r"(EDGE - 1) : "eax"));
	reset_gate(PF);
	/* a stack that is not there */
	tss.ist[0] = ist;
	set_gate(DF, KCS, stub_of(DF), A_INTR, 1);
	FAULTS("#UD with a missing stack: #DF on its IST", DF, 0,
	       asm volatile("mov %0,%%rsp; ud2" ::"r"(EDGE - 0x1000)));
	check("  RSP pushed", last.f.sp, EDGE - 0x1000);
	FAULTS("int n with a stack that is not canonical: #SS, its stack too, #DF", DF, 0,
	       asm volatile("mov %0,%%rsp; int $0x31" ::"r"(BAD)));
	tss.rsp[0] = BAD;
	FAULTS("ring 3, inner stack not canonical: #SS, then #DF", DF, 0, user(u_ud2, 0));
	tss.rsp[0] = INT_SP;
	reset_gate(DF);
	/* IRETQ */
	FAULTS("iretq to ring 3 with a null stack", GP, 0,
	       asm volatile("push $0; push $0; push $2; push $0x1b; push $0; iretq"));
	FAULTS("iretq to ring 3 with SS of ring 0", GP, KDS,
	       asm volatile("push $0x10; push $0; push $2; push $0x1b; push $0; iretq"));
	FAULTS("iretq to data", GP, KDS, asm volatile("push $0x10; push %rsp; push $2; push $0x10; push $0; iretq"));
	RUNS("iretq to ring 0 with a null SS",
	     asm volatile("mov %rsp,%rax; push $0; push %rax; push $2; push $8; push $1f; iretq; 1: "
			  "mov $16,%eax; mov %eax,%ss"));
	FAULTS(
	    "iretq with NT", GP, 0,
	    asm volatile(
		"mov %rsp,%rax; push $0x10; push %rax; push $2; push $8; push $1f; pushf; orl $0x4000,(%rsp); popf; iretq; "
		"1: nop"));
	FAULTS("ring 3: iretq to ring 0", GP, KCS, user(u_iret0, 0));
	FAULTS("ring 3: swapgs", GP, 0, user(u_swapgs, 0));
	FAULTS("ring 3: hlt", GP, 0, user(u_hlt, 0));
	FAULTS("ring 3: mov from cr8", GP, 0, user(u_cr8, 0));
	FAULTS("ring 3: null ss", GP, 0, user(u_ss0, 0));
	FAULTS("ring 3: rdmsr", GP, 0, user(u_rdmsr, 0));
	FAULTS("ring 3: wrmsr", GP, 0, user(u_wrmsr, 0));
	FAULTS("ring 3: invlpg", GP, 0, user(u_invpcid, 0));
	if (cpuid_reg(1, 0, 2) >> 26 & 1) {
		set_cr4(cr4() | 0x40000);
		FAULTS("ring 3: xsetbv", GP, 0, user(u_xsetbv, 0));
		set_cr4(cr4() & ~0x40000ul);
	}
}

extern u8 k_syscall[], k_syscall32[], k_enter[], u_syscall_next[], u_sysenter_next[], k_sysret_bad[], k_left[];
/* clang-format off */
U(syscall, "mov $0x1234,%ebx; syscall; u_syscall_next: mov %cs,%edx; mov %ss,%esi; pushf; pop %rdi")
U(left, "syscall; ret")
U(sysenter, "mov %rsp,%rcx; lea u_sysenter_next(%rip),%rdx; sysenter; u_sysenter_next: mov %cs,%ebx; mov %ss,%esi")
/* clang-format on */
asm("k_syscall: mov %rcx,%r8; mov %r11,%r9; mov %cs,%r10d; mov %ss,%r12d; pushf; pop %r13; mov %rsp,%r14; sysretq\n"
    "k_syscall32: mov %cs,%r10d; lea 1f(%rip),%rcx; sysretl\n"
    ".code32\n1: mov %cs,%ebx; mov %ss,%esi; int $0x30\n.code64\n"
    "k_left: call 1f; cli; int $0x30; 1: sysretq\n"
    "k_sysret_bad: mov $1,%ecx; shl $63,%rcx; sysretq\n"
    "k_enter: mov %cs,%r8d; mov %ss,%r9d; mov %rsp,%r10; pushf; pop %r11; rex.w sysexit\n");

static void fast_calls(void)
{
	/* ring 3 of SYSRET: base + 16 | 3 is 64-bit code, base + 8 | 3 the stack, base | 3 32-bit code */
	set_desc(SEL(12), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_4G));
	set_desc(SEL(13), desc(0, 0xfffff, A_P | A_DPL(3) | A_DATA, F_4G));
	set_desc(SEL(14), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_L));
	wrmsr(0xc0000081, (u64)(SEL(12) | 3) << 48 | (u64)KCS << 32);
	wrmsr(0xc0000082, (ulong)k_syscall);
	wrmsr(0xc0000084, FL_IF | FL_DF | FL_TF);
	FAULTS("syscall without EFER.SCE", UD, 0, user(u_syscall, 0));
	FAULTS("sysret without EFER.SCE", UD, 0, asm volatile("sysretq"));
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	RUNS_IN_USER("syscall, sysretq", user_at((ulong)u_syscall, USER_SP, 2 | FL_IF | FL_DF | FL_CF | FL_IOPL, 0));
	check("  rcx", last.f.r8, (ulong)u_syscall_next);
	check("  r11", last.f.r9, 2 | FL_IF | FL_DF | FL_CF | FL_IOPL);
	check("  kernel CS", last.f.r10, KCS);
	check("  kernel SS", last.f.r12, KCS + 8);
	check("  SFMASK cleared flags", last.f.r13, 2 | FL_CF | FL_IOPL);
	check("  the stack is the caller's", last.f.r14, USER_SP);
	check("  user CS", last.f.dx, SEL(14) | 3);
	check("  user SS", last.f.si, SEL(13) | 3);
	check("  flags come back", last.f.di, 2 | FL_IF | FL_DF | FL_CF | FL_IOPL);
	wrmsr(0xc0000082, (ulong)k_syscall32);
	RUNS_IN_USER("syscall, sysretl", user(u_syscall, 0));
	check("  user CS is 32-bit code", last.f.bx & 0xffff, SEL(12) | 3);
	check("  user SS", last.f.si & 0xffff, SEL(13) | 3);
	wrmsr(0xc0000082, (ulong)k_left);
	FAULTS("ring 3: a return that the kernel's call left is still ring 3's", GP, 0, user(u_left, 0));
	wrmsr(0xc0000082, (ulong)k_sysret_bad);
	/* in ring 0 on Intel's, in ring 3 on AMD's processors */
	FAULTS("sysret to an address that is not canonical", GP, 0, user(u_syscall, 0));
	FAULTS("ring 3: sysret", GP, 0, user(u_sysret, 0));
	u32 vendor[4];
	cpuid(0, 0, vendor);
	if (vendor[1] == 0x68747541) { /* "Auth": AMD has no SYSENTER in long mode */
		FAULTS("sysenter in long mode, AMD", UD, 0, user(u_sysenter, 0));
		return;
	}
	wrmsr(0x174, KCS);
	wrmsr(0x175, INT_SP - 4096);
	wrmsr(0x176, (ulong)k_enter);
	/* SYSEXIT to 64-bit code takes CS + 32 | 3 and CS + 40 | 3; the first is the TSS's place, which is loaded
	 * already */
	RUNS("sysexit selectors", set_desc(KCS + 32, desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_L)));
	int v = TRY(user(u_sysenter, 0));
	check("sysenter, sysexit", v, DONE);
	check("  kernel CS", last.f.r8, KCS);
	check("  kernel SS", last.f.r9, KCS + 8);
	check("  kernel RSP", last.f.r10, INT_SP - 4096);
	check("  user CS", last.f.bx, (KCS + 32) | 3);
	check("  user SS", last.f.si, (KCS + 40) | 3);
	load_tss();
	wrmsr(0x174, 0);
	FAULTS("sysenter with a null CS", GP, 0, user(u_sysenter, 0));
}

int main(void)
{
	segments();
	call_gates();
	interrupts();
	fast_calls();
	canonical();
	return 0;
}
