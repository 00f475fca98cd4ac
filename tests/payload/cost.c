/*
 * What sensitive instructions cost: not a test, run by hand (docs/sensitive.md). For
 * each a loop is timed with RDTSC, an empty loop's time taken off, the least of
 * several runs printed in ticks of the guest's TSC. Needs --clock real.
 */
#include "rt.h"

#define LOOPS 20000
#define TIMES 9

static u64 tsc(void)
{
	u32 lo, hi;

	asm volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (u64)hi << 32 | lo;
}

#define TIME(body)                                                                                                     \
	({                                                                                                             \
		u64 best = ~0ull;                                                                                      \
		for (int run = 0; run < TIMES; run++) {                                                                \
			u64 t = tsc();                                                                                 \
			asm volatile("mov %0, %%r8d; 1: " body " dec %%r8d; jnz 1b"                                    \
				     :                                                                                 \
				     : "i"(LOOPS), "m"(idt_ptr), "m"(iret_frame)                                       \
				     : "rax", "rcx", "rdx", "rbx", "r8", "r9", "r10", "r11", "memory", "cc");          \
			t = tsc() - t;                                                                                 \
			if (t < best)                                                                                  \
				best = t;                                                                              \
		}                                                                                                      \
		(best * 10) / LOOPS;                                                                                   \
	})

static u64 empty;
u64 iret_frame[5];

static void show(const char *name, u64 tenths)
{
	tenths = tenths > empty ? tenths - empty : 0;
	say("%s %d\n", name, (int)(tenths / 10));
}
#define COST(name, body) show(name, TIME(body))

/* In ring 3: RDI holds the loop count; the kernel's side returns at once. */
asm(".globl u_calls, k_entry\n"
    "u_calls: mov %rdi, %r8\n"
    "1: syscall\n"
    "dec %r8\n"
    "jnz 1b\n"
    "ret\n"
    "k_entry: sysretq\n"
    "k_full: swapgs\n"
    "mov %rsp, %r9; mov $int_stack + 8192, %esp\n"
    "push %rcx; push %r11; call 2f; sti; cli; pop %r11; pop %rcx\n"
    "mov %r9, %rsp; swapgs; sysretq\n"
    "2: call 3f; ret\n"
    "3: ret\n");
extern u8 u_calls[], k_entry[], k_full[];

static void calls(const char *name, u8 *entry)
{
	u64 best = ~0ull;

	wrmsr(0xc0000082, (ulong)entry);
	for (int run = 0; run < TIMES; run++) {
		u64 t = tsc();

		int v = TRY(user(u_calls, LOOPS));
		t = tsc() - t;
		if (v != DONE)
			say("vector %d at %x\n", v, (u32)last.f.ip);
		if (t < best)
			best = t;
	}
	show(name, best * 10 / LOOPS);
}

static int back(struct frame *f)
{
	return f->vec == 0x31;
}

int main(void)
{
	ulong cr4;

	set_desc(SEL(12), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_4G));
	set_desc(SEL(13), desc(0, 0xfffff, A_P | A_DPL(3) | A_DATA, F_4G));
	set_desc(SEL(14), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_L));
	wrmsr(0xc0000081, (u64)(SEL(12) | 3) << 48 | (u64)KCS << 32);
	wrmsr(0xc0000080, rdmsr(0xc0000080) | 1);
	wrmsr(0xc0000084, FL_IF);
	asm volatile("mov %%cr4, %0" : "=r"(cr4));
	cr4 |= 1ul << 16; /* FSGSBASE */
	asm volatile("mov %0, %%cr4" : : "r"(cr4));

	empty = TIME("");
	say("ticks of the guest's TSC; empty loop %d tenths\n", (int)empty);
	COST("cli", "cli;");
	COST("sti, nop, cli", "sti; nop; cli;");
	COST("pushfq, pop", "pushfq; pop %%rax;");
	COST("pushfq, popfq", "pushfq; popfq;");
	COST("stac, clac", "stac; clac;");
	COST("cld", "cld;");
	COST("swapgs", "swapgs;");
	COST("rdfsbase", "rdfsbase %%rax;");
	COST("wrfsbase", "wrfsbase %%rbx;");
	COST("rdtsc", "rdtsc;");
	COST("rdtscp", "rdtscp;");
	COST("mov from cr2", "mov %%cr2, %%rax;");
	COST("mov from cr3", "mov %%cr3, %%rax;");
	COST("mov to cr3", "mov %%cr3, %%rax; mov %%rax, %%cr3;");
	COST("invlpg", "invlpg (%%rsp);");
	COST("rdmsr FS_BASE", "mov $0xc0000100, %%ecx; rdmsr;");
	COST("wrmsr FS_BASE", "mov $0xc0000100, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; wrmsr;");
	COST("in 80H", "in $0x80, %%al;");
	COST("mov from sreg", "mov %%ds, %%eax;");
	COST("mov to ds", "mov $0x10, %%eax; mov %%eax, %%ds;");
	COST("cpuid", "xor %%eax, %%eax; cpuid;");
	COST("iretq, same level",
	     "mov %%rsp, %%rax; push $0x10; push %%rax; pushfq; push $8; lea 2f(%%rip), %%rax; push %%rax; iretq; 2:");
	set_gate(0x31, KCS, stub_of(0x31), A_INTR | A_DPL(3), 0);
	rt_hook = back;
	COST("int and its handler", "int $0x31;");
	rt_hook = 0;
	calls("syscall, sysret", k_entry);
	calls("syscall, swapgs twice, sti, cli, 4 calls, sysret", k_full);
	finish();
}
