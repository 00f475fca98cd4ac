/*
 * EFLAGS: which bits POPF and IRET may change at which privilege (SDM vol. 2,
 * POPF, table 4-15), CLI and STI, alignment checks, and the interrupt shadows
 * of STI and MOV SS (SDM vol. 3, 6.8.3).
 *
 * TCG 7.2 differs from the manual in: alignment checks (none), VM, VIF and VIP
 * in an IRET from ring 3.
 */
#include "rt.h"

#define BASE 0x2ul
#define ARITH 0x8d5ul

static ulong popf_pushf(ulong in)
{
	ulong out;

	asm volatile("pushf; push %1; popf; pushf; pop %0; popf" : "=&r"(out) : "r"(in) : "memory", "cc");
	return out;
}

static void kernel_popf(void)
{
	check("popf: every flag clear", popf_pushf(0), BASE);
	check("popf: every flag but TF set; RF, VM, VIF, VIP stay clear", popf_pushf(0x3ffeff & ~FL_NT),
	      BASE | ARITH | FL_IF | FL_DF | FL_IOPL | FL_AC | FL_ID);
	check("popf: NT", popf_pushf(FL_NT), BASE | FL_NT);
	check("popf: reserved bits", popf_pushf(0xffc0802a), BASE);
	ulong out;
	asm volatile("pushf; push %1; popf; pushw $0x0400; popfw; pushf; pop %0; popf"
		     : "=&r"(out)
		     : "r"((ulong)FL_ID | FL_AC | FL_CF)
		     : "memory", "cc");
	check("popfw leaves the upper half", out, BASE | FL_ID | FL_AC | FL_DF);
	asm volatile("pushf; mov $0xff,%%al; mov $0xff,%%ah; sahf; pushf; pop %0; popf"
		     : "=&r"(out)::"eax", "cc", "memory");
	check("sahf writes five flags", out & 0xff, 0xd7);
}

/* Ring 3: pops the flags in CX, leaves what pushf then says in BX. */
extern u8 u_popf[], u_iret[], u_cli[], u_sti[], u_popfw[];
asm("u_popf: push %" R "cx; popf; pushf; pop %" R "bx; int $0x30\n"
    "u_popfw: push %cx; popfw; pushf; pop %" R "bx; int $0x30\n"
    "u_cli: cli; int $0x30\n"
    "u_sti: sti; int $0x30\n");
#ifdef __x86_64__
asm("u_iret: mov %rsp,%rax; push $0x23; push %rax; push %rcx; push $0x1b; lea 1f(%rip),%rax; push %rax; iretq; 1: pushf; "
    "pop %rbx; int $0x30");
#else
asm("u_iret: push %ecx; push $0x1b; push $1f; iret; 1: pushf; pop %ebx; int $0x30");
#endif

static ulong from_user(const void *code, ulong start, ulong in)
{
	int v = TRY(user_at((ulong)code, USER_SP, start, in));

	return v == DONE ? last.f.bx & 0xffffffff : (ulong)v << 24;
}

static void user_flags(void)
{
	const ulong all = 0x3ffeff & ~FL_NT;

	check("ring 3, IOPL 0: popf leaves IF and IOPL", from_user(u_popf, 2, all),
	      BASE | ARITH | FL_DF | FL_AC | FL_ID);
	check("ring 3, IOPL 0: popf does not clear IF", from_user(u_popf, 2 | FL_IF, 0), BASE | FL_IF);
	check("ring 3, IOPL 3: popf sets IF", from_user(u_popf, 2 | FL_IOPL, FL_IF), BASE | FL_IF | FL_IOPL);
	check("ring 3, IOPL 3: popf clears IF, leaves IOPL", from_user(u_popf, 2 | FL_IF | FL_IOPL, 0), BASE | FL_IOPL);
	check("ring 3, IOPL 0: popfw leaves IF and IOPL", from_user(u_popfw, 2 | FL_IF, 0xbeff), BASE | 0xad5 | FL_DF);
#ifndef __x86_64__
	check("ring 3: iret does not enter virtual-8086 mode", from_user(u_iret, 2, FL_VM), BASE);
#endif
	check("ring 3, IOPL 0: iret leaves IF and IOPL", from_user(u_iret, 2, all & ~FL_VM),
	      BASE | ARITH | FL_DF | FL_AC | FL_ID);
	check("ring 3, IOPL 0: iret does not clear IF", from_user(u_iret, 2 | FL_IF, 0), BASE | FL_IF);
	check("ring 3, IOPL 3: iret clears IF, leaves IOPL", from_user(u_iret, 2 | FL_IF | FL_IOPL, 0), BASE | FL_IOPL);
	FAULTS("ring 3, IOPL 0: cli", GP, 0, user(u_cli, 0));
	FAULTS("ring 3, IOPL 0: sti", GP, 0, user(u_sti, 0));
	FAULTS("ring 3, IOPL 2: cli", GP, 0, user_at((ulong)u_cli, USER_SP, 2 | 0x2000, 0));
	RUNS_IN_USER("ring 3, IOPL 3: cli", user_at((ulong)u_cli, USER_SP, 2 | FL_IOPL | FL_IF, 0));
	check("  and IF is clear", last.f.flags & FL_IF, 0);
	RUNS_IN_USER("ring 3, IOPL 3: sti", user_at((ulong)u_sti, USER_SP, 2 | FL_IOPL, 0));
	check("  and IF is set", last.f.flags & FL_IF, FL_IF);
	check("the gate cleared IF", last.flags_in & FL_IF, 0);
}

static u8 data[64] __attribute__((aligned(64)));
extern u8 u_load4[], u_load2[], u_load1[], u_store4[], u_push[], u_load8[];
asm("u_load4: mov (%" R "cx),%eax; int $0x30\n"
    "u_load2: movw (%" R "cx),%ax; int $0x30\n"
    "u_load1: movb (%" R "cx),%al; int $0x30\n"
    "u_store4: mov %eax,(%" R "cx); int $0x30\n"
    "u_load8: movq (%" R "cx),%mm0; int $0x30\n"
    "u_push: lea 1(%" R "sp),%" R "sp; push %" R "ax; int $0x30");

static void alignment(void)
{
	const ulong ac = 2 | FL_AC;

	set_cr0(cr0() | 0x40000);
	FAULTS("AC: dword at 1", AC, 0, user_at((ulong)u_load4, USER_SP, ac, (ulong)data + 1));
	FAULTS("AC: dword at 2", AC, 0, user_at((ulong)u_load4, USER_SP, ac, (ulong)data + 2));
	RUNS_IN_USER("AC: dword at 4", user_at((ulong)u_load4, USER_SP, ac, (ulong)data + 4));
	FAULTS("AC: word at 1", AC, 0, user_at((ulong)u_load2, USER_SP, ac, (ulong)data + 1));
	RUNS_IN_USER("AC: word at 2", user_at((ulong)u_load2, USER_SP, ac, (ulong)data + 2));
	RUNS_IN_USER("AC: byte at 1", user_at((ulong)u_load1, USER_SP, ac, (ulong)data + 1));
	FAULTS("AC: dword store at 3", AC, 0, user_at((ulong)u_store4, USER_SP, ac, (ulong)data + 3));
	FAULTS("AC: push on an odd stack", AC, 0, user_at((ulong)u_push, USER_SP, ac, 0));
	RUNS_IN_USER("EFLAGS.AC clear: dword at 1", user_at((ulong)u_load4, USER_SP, 2, (ulong)data + 1));
	RUNS("ring 0 with AC: dword at 1", set_flags(ac); (void)*(volatile u32 *)(data + 1); set_flags(2));
	set_cr0(cr0() & ~0x40000ul);
	RUNS_IN_USER("CR0.AM clear: dword at 1", user_at((ulong)u_load4, USER_SP, ac, (ulong)data + 1));
}

/* A pending interrupt: the local APIC sends itself vector 0x41. */
#define APIC(r) (*(volatile u32 *)(ulong)(0xfee00000 + (r)))
#define PEND() (APIC(0x310) = 0, APIC(0x300) = 0x40041, (void)APIC(0x300))
static void eoi(void)
{
	APIC(0xb0) = 0;
}

#define SHADOW(name, code)                                                                                             \
	do {                                                                                                           \
		extern u8 after_##name[];                                                                              \
		int v;                                                                                                 \
		PEND();                                                                                                \
		v = TRY(asm volatile(code ::: "eax", "memory", "cc"));                                                 \
		check(#name ": vector", v, 0x41);                                                                      \
		check(#name ": taken after the right instruction", last.f.ip, (ulong)after_##name);                    \
		eoi();                                                                                                 \
	} while (0)

static int count_0x41;
static int count_hook(struct frame *f)
{
	if (f->vec != 0x41)
		return 0;
	count_0x41++;
	eoi();
	return 1;
}

static void shadows(void)
{
	wrmsr(0x1b, rdmsr(0x1b) | 0x800);
	APIC(0xf0) = 0x1ff;
	APIC(0x80) = 0;
	SHADOW(sti_shadow, "cli; sti; nop; .globl after_sti_shadow; after_sti_shadow: nop; nop; nop; cli");
	SHADOW(popf_no_shadow,
	       "cli; pushf; orl $0x200,(%%" R "sp); popf; .globl after_popf_no_shadow; after_popf_no_shadow: nop; "
	       "nop; nop; cli");
	SHADOW(second_sti_no_shadow,
	       "sti; sti; .globl after_second_sti_no_shadow; after_second_sti_no_shadow: nop; nop; cli");
	rt_hook = count_hook;
	PEND();
	asm volatile("sti; cli");
	asm volatile("nop; nop");
	check("sti; cli lets no interrupt in", count_0x41, 0);
	asm volatile("sti; nop; nop; cli");
	check("the interrupt was still pending", count_0x41, 1);
	PEND();
	asm volatile("sti; hlt; cli");
	check("sti; hlt wakes", count_0x41, 2);
	/* hlt goes on behind the instruction */
	PEND();
	asm volatile("sti; nop; nop; cli");
	check("an interrupt is delivered once", count_0x41, 3);
	rt_hook = 0;
}

int main(void)
{
	kernel_popf();
	user_flags();
	alignment();
	shadows();
	return 0;
}
