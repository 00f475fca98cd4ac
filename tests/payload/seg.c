/*
 * 32-bit segmentation and privilege (SDM vol. 3, chapters 3, 5 and 6): segment
 * loads, limits, far transfers, call gates, gates of the IDT, double faults,
 * instructions that ring 3 may not run, the I/O bitmap, SYSENTER.
 *
 * TCG 7.2 differs from the manual in: limits and types at use (none checked),
 * a null DS at use, LTR of null, EXT in error codes, #TS instead of #SS for an
 * inner stack that is not present.
 */
#include "rt.h"

static u8 buf[8192] __attribute__((aligned(4096)));
static struct {
	u32 off;
	u16 sel;
} __attribute__((packed)) far;

static void load_ds(u32 sel)
{
	asm volatile("mov %0,%%ds; push %1; pop %%ds" ::"r"(sel), "i"(KDS));
}
static void load_ss(u32 sel)
{
	asm volatile("cli; mov %0,%%ss; mov %1,%%ss" ::"r"(sel), "r"(KDS));
}
static void ljmp(u32 sel, u32 off)
{
	far.off = off;
	far.sel = sel;
	asm volatile("ljmp *%0" ::"m"(far) : "memory");
}
static void lcall(u32 sel, u32 off)
{
	far.off = off;
	far.sel = sel;
	asm volatile("lcall *%0" ::"m"(far) : "memory", "eax", "edx", "ecx");
}
extern u8 f_lret[], f_lret8[], f_mark[], f_jump_back[];
asm("f_lret: lret\n"
    "f_jump_back: ljmp $8,$1f; 1: ret\n");

#define AT(sel, insn, off)                                                                                             \
	asm volatile("mov %0,%%ds; " insn "; push $16; pop %%ds" ::"r"(sel), "c"(off) : "eax", "memory")

static void loads(void)
{
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_XCODE, F_4G));
	set_desc(SEL(1), desc(0, 0xfffff, A_P | A_CODE, F_4G));
	set_desc(SEL(2), desc(0, 0xfffff, A_DATA, F_4G)); /* not present */
	set_desc(SEL(3), desc(0, 0xfffff, A_P | A_RODATA, F_4G));
	set_desc(SEL(4), desc(0, 0xfffff, A_P | A_DPL(3) | A_DATA, F_4G));
	set_desc(SEL(5), desc(0, 0xfff, A_LDT | A_P, 0));
	set_desc(SEL(6), desc(0, 0xfffff, A_P | A_CONF, F_4G));
	set_desc(SEL(7), desc(0, 0xfffff, A_P | A_DATA, F_4G));

	RUNS("ds: null", asm volatile("mov %0,%%ds; push %1; pop %%ds" ::"r"(0), "i"(KDS)));
	RUNS("ds: null with RPL 3", load_ds(3));
	FAULTS("ds null: use", GP, 0, AT(0, "mov (%%ecx),%%eax", buf));
	FAULTS("ss: null", GP, 0, load_ss(0));
	FAULTS("ds: beyond the GDT", GP, 0x200, load_ds(0x200));
	FAULTS("ds: beyond the GDT, RPL not in the error code", GP, 0x200, load_ds(0x203));
	FAULTS("ds: LDT selector without an LDT", GP, 0xc, load_ds(0xf));
	FAULTS("ds: execute-only code", GP, SEL(0), load_ds(SEL(0)));
	RUNS("ds: readable code", load_ds(SEL(1)));
	FAULTS("ds: not present", NP, SEL(2), load_ds(SEL(2)));
	FAULTS("ss: not present", SS, SEL(2), load_ss(SEL(2)));
	FAULTS("ss: read-only", GP, SEL(3), load_ss(SEL(3)));
	FAULTS("ss: code", GP, SEL(1), load_ss(SEL(1)));
	FAULTS("ss: DPL 3", GP, SEL(4), load_ss(SEL(4)));
	FAULTS("ss: RPL 3", GP, KDS, load_ss(KDS | 3));
	RUNS("ds: DPL 3 from ring 0", load_ds(SEL(4)));
	FAULTS("ds: a system descriptor", GP, TSS_SEL, load_ds(TSS_SEL));
	FAULTS("ds: DPL 0, RPL 3", GP, KDS, load_ds(KDS | 3));
	RUNS("ds: conforming code, RPL 3", load_ds(SEL(6) | 3));
	check("accessed bit clear", get_desc(SEL(7)) >> 40 & 1, 0);
	load_ds(SEL(7));
	check("accessed bit set by the load", get_desc(SEL(7)) >> 40 & 1, 1);
	FAULTS("pop ds", GP, 0x200, asm volatile("push $0x200; pop %ds"));
	FAULTS("lds", GP, 0x200, far.off = 0; far.sel = 0x200; asm volatile("lds %0,%%eax" ::"m"(far) : "eax"));
	FAULTS("lss", GP, 0, far.off = 0; far.sel = 0; asm volatile("lss %0,%%esp" ::"m"(far)));
	RUNS("lldt null", asm volatile("lldt %w0" ::"r"(0)));
	FAULTS("lldt of data", GP, KDS, asm volatile("lldt %w0" ::"r"(KDS)));
	FAULTS("lldt with TI", GP, 4, asm volatile("lldt %w0" ::"r"(4)));
	set_desc(SEL(5), desc((u32)&gdt[1], 23, A_LDT & ~A_P, 0));
	FAULTS("lldt not present", NP, SEL(5), asm volatile("lldt %w0" ::"r"(SEL(5))));
	set_desc(SEL(5), desc((u32)&gdt[1], 23, A_LDT | A_P, 0));
	RUNS("lldt", asm volatile("lldt %w0" ::"r"(SEL(5))));
	RUNS("ds from the LDT", load_ds(0xc)); /* entry 1: kernel data */
	FAULTS("ds beyond the LDT", GP, 0x1c, load_ds(0x1c));
	asm volatile("lldt %w0" ::"r"(0));
	FAULTS("ltr null", GP, 0, asm volatile("ltr %w0" ::"r"(0)));
	load_tss();
	FAULTS("ltr busy", GP, TSS_SEL, asm volatile("ltr %w0" ::"r"(TSS_SEL)));
	check("the loaded TSS is busy", get_desc(TSS_SEL) >> 40 & 0xff, A_TSS_BUSY);
	FAULTS("ltr of data", GP, KDS, asm volatile("ltr %w0" ::"r"(KDS)));
}

#define AT_SS(insn)                                                                                                    \
	asm volatile("mov %%esp,%%edx; mov %0,%%ss; " insn                                                             \
		     "; mov $16,%%eax; mov %%eax,%%ss; mov %%edx,%%esp" ::"r"(SEL(1)),                                 \
		     "c"(0x2000000)                                                                                    \
		     : "eax", "edx", "memory")

static void limits(void)
{
	set_desc(SEL(0), desc((u32)buf, 0xfff, A_P | A_DATA, F_32));
	RUNS("limit: last byte", AT(SEL(0), "movb (%%ecx),%%al", 0xfff));
	RUNS("limit: last word", AT(SEL(0), "movw (%%ecx),%%ax", 0xffe));
	RUNS("limit: last dword", AT(SEL(0), "movl (%%ecx),%%eax", 0xffc));
	FAULTS("limit: byte behind", GP, 0, AT(SEL(0), "movb (%%ecx),%%al", 0x1000));
	FAULTS("limit: word across", GP, 0, AT(SEL(0), "movw (%%ecx),%%ax", 0xfff));
	FAULTS("limit: dword across", GP, 0, AT(SEL(0), "movl (%%ecx),%%eax", 0xffd));
	FAULTS("limit: write behind", GP, 0, AT(SEL(0), "movb %%al,(%%ecx)", 0x1000));
	FAULTS("limit: the offset wraps", GP, 0, AT(SEL(0), "movl (%%ecx),%%eax", 0xffffffff));
	/* a stack segment that ends above the stack, so that the exception finds room */
	set_desc(SEL(1), desc(0, 0x1fff, A_P | A_DATA, F_4G));
	FAULTS("limit through ss: #SS", SS, 0, AT_SS("movl %%ss:(%%ecx),%%eax"));
	FAULTS("limit through ebp: #SS", SS, 0, AT_SS("xchg %%ecx,%%ebp; mov (%%ebp),%%eax; xchg %%ecx,%%ebp"));
	RUNS("an 80-bit operand's end within the limit", AT(SEL(0), "fldt (%%ecx); fninit", 0xff6));
	FAULTS("an 80-bit operand's end beyond the limit", GP, 0, AT(SEL(0), "fldt (%%ecx)", 0xff7));
	set_desc(SEL(1), desc((u32)buf, 0, A_P | A_DATA, F_4G));
	RUNS("granularity: limit 0 is a page", AT(SEL(1), "movl (%%ecx),%%eax", 0xffc));
	FAULTS("granularity: not more", GP, 0, AT(SEL(1), "movb (%%ecx),%%al", 0x1000));
	set_desc(SEL(2), desc((u32)buf - 0x1000, 0xfff, A_P | A_DOWN, F_32));
	RUNS("expand-down: above the limit", AT(SEL(2), "movb (%%ecx),%%al", 0x1000));
	FAULTS("expand-down: at the limit", GP, 0, AT(SEL(2), "movb (%%ecx),%%al", 0xfff));
	FAULTS("expand-down: dword across the limit", GP, 0, AT(SEL(2), "movl (%%ecx),%%eax", 0xffd));
	RUNS("expand-down, 32 bits: above 64 KiB", AT(SEL(2), "movb (%%ecx),%%al", 0x20000));
	set_desc(SEL(2), desc((u32)buf - 0x1000, 0xfff, A_P | A_DOWN, 0));
	FAULTS("expand-down, 16 bits: 64 KiB is the end", GP, 0, AT(SEL(2), "movb (%%ecx),%%al", 0x10000));
	FAULTS("expand-down, 16 bits: across the end", GP, 0, AT(SEL(2), "movl (%%ecx),%%eax", 0xfffe));
	RUNS("expand-down, 16 bits: at the end", AT(SEL(2), "movb (%%ecx),%%al", 0xffff));
	set_desc(SEL(3), desc(0, 0xfffff, A_P | A_RODATA, F_4G));
	FAULTS("write to read-only data", GP, 0, AT(SEL(3), "movb %%al,(%%ecx)", buf));
	set_desc(SEL(4), desc(0, 0xfffff, A_P | A_CODE, F_4G));
	FAULTS("write to readable code", GP, 0, AT(SEL(4), "movb %%al,(%%ecx)", buf));
	FAULTS("write through cs", GP, 0, asm volatile("movb %%al,%%cs:(%0)" ::"r"(buf) : "memory"));
	/* base and wrap-around: base + offset is taken modulo 2^32 */
	set_desc(SEL(5), desc((u32)buf + 0x1000, 0xfffff, A_P | A_DATA, F_4G));
	*(volatile u32 *)buf = 0xabcd1234;
	u32 a;
	asm volatile("mov %1,%%ds; mov (%2),%0; push $16; pop %%ds" : "=&r"(a) : "r"(SEL(5)), "r"(-0x1000));
	check("base and offset wrap", a, 0xabcd1234);
}

/*
 * Reads and writes through FS and GS, by the same code whatever descriptor they
 * hold. They are loaded each time: the handler of a fault leaves them flat.
 */
static __attribute__((noinline)) u32 through_fs(unsigned sel, u32 off)
{
	u32 a;

	asm volatile("mov %2,%%fs; movl %%fs:(%1),%0; addl $1,%%fs:(%1)" : "=&r"(a) : "r"(off), "r"(sel) : "memory");
	return a;
}
static __attribute__((noinline)) u32 through_gs(unsigned sel, u32 more)
{
	u32 a;

	asm volatile("mov %2,%%gs; movl %%gs:0x14,%0; addl %1,%0; movb %b0,%%gs:0x17"
		     : "=&q"(a)
		     : "r"(more), "r"(sel)
		     : "memory");
	return a;
}
static __attribute__((noinline)) void push_through_gs(unsigned sel, u32 off)
{
	asm volatile("mov %0,%%gs; push %%gs:(%1); pop %%edx" ::"r"(sel), "r"(off) : "edx", "memory");
}

static void fs_gs_limits(void)
{
	volatile u32 *word = (volatile u32 *)buf;

	set_desc(SEL(0), desc((u32)buf, 0xfffff, A_P | A_DATA, F_4G));
	set_desc(SEL(1), desc((u32)buf, 0x17, A_P | A_DATA, F_32));
	set_desc(SEL(2), desc((u32)buf, 0x16, A_P | A_DATA, F_32));
	set_desc(SEL(3), desc((u32)buf, 0x1fff, A_P | A_RODATA, F_32));
	set_desc(SEL(4), desc((u32)buf + 64, 0xfffff, A_P | A_DATA, F_4G));
	for (unsigned round = 0; round < 3; round++) { /* code that is new, and code that is known */
		word[5] = 1000 + round;
		word[15] = 77;
		check("fs without a limit", through_fs(SEL(0), 20), 1000 + round);
		check("gs without a limit", through_gs(SEL(0), 1), 1002 + round);
		word[5] = 500;
		check("fs, last dword", through_fs(SEL(1), 20), 500);
		check("gs, last dword and byte", through_gs(SEL(1), 3), 504);
		FAULTS("fs: dword across the limit", GP, 0, through_fs(SEL(1), 21));
		FAULTS("fs: negative offset beyond the limit", GP, 0, through_fs(SEL(1), -4));
		FAULTS("gs: push of a dword across the limit", GP, 0, push_through_gs(SEL(1), 21));
		RUNS("gs: push of a dword up to the limit", push_through_gs(SEL(1), 20));
		FAULTS("gs: a limit one byte smaller", GP, 0, through_gs(SEL(2), 3));
		FAULTS("fs: write to read-only data", GP, 0, through_fs(SEL(3), 20));
		check("fs: base and negative offset wrap", through_fs(SEL(4), -4), 77);
		check("fs: written there", word[15], 78);
		FAULTS("fs: null selector", GP, 0, through_fs(0, 20));
		FAULTS("gs: null selector", GP, 0, through_gs(0, 0));
	}
	asm volatile("mov %0,%%fs; mov %0,%%gs" ::"r"(16));
}

extern u8 u_lcall[], u_lret0[], u_iret0[], f_conf[], u_segs[];
asm("u_lcall: lcall *(%ecx); int $0x30\n"
    "u_lret0: push $8; push $f_lret; lret\n"
    "u_iret0: push $2; push $8; push $f_lret; iret\n"
    "f_conf: mov %cs,%ebx; cli; lret\n"
    "u_segs: mov %es,%ebx; mov %fs,%edx; mov %gs,%esi; int $0x30\n");

static void transfers(void)
{
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_4G));
	set_desc(SEL(1), desc(0, 0xfffff, A_P | A_CONF, F_4G));
	set_desc(SEL(2), desc(0, 0xfffff, A_CODE, F_4G));
	set_desc(SEL(3), desc((u32)f_lret, 0xf, A_P | A_CODE, F_32));
	set_desc(SEL(4), desc(0, 0xfffff, A_P | A_DPL(3) | A_CONF, F_4G));
	RUNS("far call, same privilege", lcall(KCS, (u32)f_lret));
	RUNS("far call with a base", lcall(SEL(3), 0));
	FAULTS("far call to null", GP, 0, lcall(0, 0));
	FAULTS("far jmp to null", GP, 0, ljmp(0, 0));
	FAULTS("far jmp beyond the GDT", GP, 0x200, ljmp(0x200, 0));
	FAULTS("far jmp to data", GP, KDS, ljmp(KDS, 0));
	FAULTS("far jmp to DPL 3 code", GP, SEL(0), ljmp(SEL(0), (u32)f_lret));
	FAULTS("far jmp, RPL 3", GP, KCS, ljmp(KCS | 3, (u32)f_lret));
	FAULTS("far jmp not present", NP, SEL(2), ljmp(SEL(2), 0));
	FAULTS("far jmp beyond the limit", GP, 0, ljmp(SEL(3), 0x10));
	FAULTS("far call to conforming code of less privilege", GP, SEL(4), lcall(SEL(4), (u32)f_lret));
	RUNS("far call to conforming code", lcall(SEL(1), (u32)f_lret));
	FAULTS("lret to null", GP, 0, asm volatile("push $0; push $f_lret; lret"));
	FAULTS("lret to data", GP, KDS, asm volatile("push $0x10; push $f_lret; lret"));
	FAULTS("lret to DPL 3 code without RPL 3", GP, SEL(0),
	       asm volatile("push %0; push $f_lret; lret" ::"r"(SEL(0))));
	FAULTS("iret to not present", NP, SEL(2), asm volatile("push $2; push %0; push $f_lret; iret" ::"r"(SEL(2))));
	FAULTS("iret beyond the limit", GP, 0, asm volatile("push $2; push %0; push $0x20; iret" ::"r"(SEL(3))));
	FAULTS("iret to ring 3 with a ring 0 stack", GP, KDS,
	       asm volatile("push $0x10; push $0; push $2; push $0x1b; push $0; iret"));
	FAULTS("iret to ring 3 with a null stack", GP, 0,
	       asm volatile("push $0; push $0; push $2; push $0x1b; push $0; iret"));
	/* 16-bit far call pushes two words and cuts EIP */
	set_desc(SEL(5), desc((u32)f_lret, 0xffff, A_P | A_CODE, 0));
	set_desc(SEL(6), desc((u32)f_lret, 0xffff, A_P | A_CODE, F_32));

	far.off = (u32)f_lret;
	far.sel = KCS;
	FAULTS("ring 3: far call to ring 0 code", GP, KCS, user(u_lcall, (u32)&far));
	far.sel = SEL(1);
	RUNS_IN_USER("ring 3: far call to conforming ring 0 code", user(u_lcall, (u32)&far));
	check("  and back in ring 3", last.f.cs, UCS);
	far.off = (u32)f_conf;
	FAULTS("conforming code keeps ring 3", GP, 0, user(u_lcall, (u32)&far));
	check("  CS has RPL 3", last.f.bx, SEL(1) | 3);
	FAULTS("ring 3: lret to ring 0", GP, KCS, user(u_lret0, 0));
	FAULTS("ring 3: iret to ring 0", GP, KCS, user(u_iret0, 0));
	/* returning to ring 3 voids data segments it may not have */
	asm volatile("mov %0,%%es; mov %0,%%fs" ::"r"(KDS));
	asm volatile("mov %0,%%gs" ::"r"(SEL(1)));
	int v = TRY(asm volatile("push $0x23; push %0; push $2; push $0x1b; push $u_segs; iret" ::"r"(USER_SP)));
	check("iret to ring 3", v, DONE);
	check("  a ring 0 data segment becomes null", last.f.bx | last.f.dx, 0);
	check("  conforming code stays in gs", last.f.si, SEL(1));
}

static volatile u32 gate_args[4], gate_cs, gate_ss, gate_esp;
extern u8 k_gate[], u_gate[], u_gate_jmp[];
asm("k_gate: "
    "mov %ss,%eax; push %ds; mov $16,%edx; mov %edx,%ds; mov %eax,gate_ss\n"
    "mov %cs,%eax; mov %eax,gate_cs\n"
    "mov 12(%esp),%eax; mov %eax,gate_args; mov 16(%esp),%eax; mov %eax,gate_args+4\n"
    "mov 20(%esp),%eax; mov %eax,gate_args+8; mov 24(%esp),%eax; mov %eax,gate_args+12\n"
    "mov %esp,gate_esp; pop %ds; lret $8\n"
    "u_gate: mov %esp,%esi; push $0x1111; push $0x2222; lcall *(%ecx); mov %esp,%ebx; sub %esi,%ebx; mov %cs,%edx; int $0x30\n"
    "u_gate_jmp: ljmp *(%ecx); int $0x30\n");

static void set_call_gate(unsigned sel, u32 target, u32 off, u8 access, u8 params)
{
	set_desc(sel, (off & 0xffff) | target << 16 | (u64)params << 32 | (u64)access << 40 | (u64)(off >> 16) << 48);
}

static void call_gates(void)
{
	far.off = 0xdeadbeef; /* a gate ignores it */
	far.sel = SEL(8) | 3;
	set_call_gate(SEL(8), KCS, (u32)k_gate, A_CALL | A_DPL(3), 2);
	RUNS_IN_USER("call gate to ring 0", user(u_gate, (u32)&far));
	check("  runs with", gate_cs, KCS);
	check("  the stack of", gate_ss, KDS);
	check("  at the place the TSS names", gate_esp, INT_SP - 4 * 7);
	check("  parameter 2", gate_args[0], 0x2222);
	check("  parameter 1", gate_args[1], 0x1111);
	check("  the caller's stack pointer", gate_args[2], USER_SP - 8 - 8);
	check("  the caller's stack segment", gate_args[3], UDS);
	check("  lret n releases both stacks", last.f.bx, 0);
	check("  and comes back to ring 3", last.f.dx, UCS);
	FAULTS("jmp through a call gate to ring 0", GP, KCS, user(u_gate_jmp, (u32)&far));
	set_call_gate(SEL(8), KCS, (u32)k_gate, A_CALL, 2);
	FAULTS("call gate of DPL 0 from ring 3", GP, SEL(8), user(u_gate, (u32)&far));
	set_call_gate(SEL(8), KCS, (u32)k_gate, (A_CALL | A_DPL(3)) & ~A_P, 2);
	FAULTS("call gate not present", NP, SEL(8), user(u_gate, (u32)&far));
	set_call_gate(SEL(8), 0, (u32)k_gate, A_CALL | A_DPL(3), 2);
	FAULTS("call gate to null", GP, 0, user(u_gate, (u32)&far));
	set_call_gate(SEL(8), KDS, (u32)k_gate, A_CALL | A_DPL(3), 2);
	FAULTS("call gate to data", GP, KDS, user(u_gate, (u32)&far));
	set_desc(SEL(9), desc(0, 0xfffff, A_CODE, F_4G));
	set_call_gate(SEL(8), SEL(9), (u32)k_gate, A_CALL | A_DPL(3), 2);
	FAULTS("call gate to code not present", NP, SEL(9), user(u_gate, (u32)&far));
	set_desc(SEL(9), desc(0, 0xff, A_P | A_CODE, F_32));
	set_call_gate(SEL(8), SEL(9), 0x100, A_CALL | A_DPL(3), 2);
	FAULTS("call gate beyond the limit", GP, 0, user(u_gate, (u32)&far));
	set_call_gate(SEL(8), KCS, (u32)f_lret, A_CALL, 0);
	RUNS("call gate, same privilege", lcall(SEL(8), 0));
	set_call_gate(SEL(8), KCS, (u32)k_gate, A_CALL | A_DPL(3), 2);
	/* Bad inner stacks: ring 1's, since the handler of the fault that follows needs ring 0's. */
	set_desc(SEL(10), desc(0, 0xfffff, A_P | A_DPL(1) | A_CODE, F_4G));
	set_call_gate(SEL(8), SEL(10) | 1, (u32)f_lret, A_CALL | A_DPL(3), 2);
	tss.ss1 = 0;
	tss.esp1 = INT_SP - 4096;
	FAULTS("inner stack null", TS, 0, user(u_gate, (u32)&far));
	tss.ss1 = KDS;
	FAULTS("inner stack of another privilege", TS, KDS, user(u_gate, (u32)&far));
	set_desc(SEL(11), desc(0, 0xfffff, A_P | A_DPL(1) | A_RODATA, F_4G));
	tss.ss1 = SEL(11) | 1;
	FAULTS("inner stack read-only", TS, SEL(11), user(u_gate, (u32)&far));
	set_desc(SEL(11), desc(0, 0xfffff, A_DPL(1) | A_DATA, F_4G));
	FAULTS("inner stack not present", SS, SEL(11), user(u_gate, (u32)&far));
	set_desc(SEL(11), desc(0, 0xfffff, A_P | A_DPL(1) | A_DATA, F_4G));
	tss.ss1 = SEL(11);
	FAULTS("inner stack with the wrong RPL", TS, SEL(11), user(u_gate, (u32)&far));
	set_desc(SEL(11), desc(0, 0x3, A_P | A_DPL(1) | A_DATA, F_32));
	tss.ss1 = SEL(11) | 1;
	FAULTS("inner stack too small", SS, SEL(11), user(u_gate, (u32)&far));
	tss.ss1 = 0x204 | 1;
	FAULTS("inner stack in no LDT", TS, 0x204, user(u_gate, (u32)&far));
}

#define U(name, insn)                                                                                                  \
	asm("u_" #name ": " insn "; int $0x30");                                                                       \
	extern u8 u_##name[];

/* clang-format off */
U(int31, "int $0x31")
U(int3, "int3")
U(ud2, "ud2")
/* clang-format on */
static volatile u32 hook_flags;

static void gates(void)
{
	struct desc_ptr small = { 8 * 0x31 - 1, idt_ptr.base };
	struct desc_ptr to_0x28 = { 8 * 0x28 - 1, idt_ptr.base };

	FAULTS("ring 3: int n of DPL 0", GP, 0x31 * 8 + 2, user(u_int31, 0));
	RUNS_IN_USER("ring 3: int n of DPL 3", user(user_done, 0));
	FAULTS("ring 3: int3 of DPL 0", GP, 3 * 8 + 2, user(u_int3, 0));
	FAULTS("ring 3: an exception needs no DPL", UD, 0, user(u_ud2, 0));
	check("  stack segment of the frame", last.f.ss, UDS);
	check("  stack pointer of the frame", last.f.sp, USER_SP - 8);
	check("  handler's stack", last.ss_in, KDS);
	check("int n: vector", TRY(asm volatile("int $0x31")), 0x31);
	lidt(&small);
	FAULTS("int n beyond the IDT", GP, 0x31 * 8 + 2, asm volatile("int $0x31"));
	lidt(&to_0x28);
	FAULTS("int n far beyond the IDT", GP, 0xff * 8 + 2, asm volatile("int $0xff"));
	lidt(&idt_ptr);
	set_gate(0x31, KCS, stub_of(0x31), A_INTR & ~A_P, 0);
	FAULTS("int n: gate not present", NP, 0x31 * 8 + 2, asm volatile("int $0x31"));
	set_gate(0x31, KCS, stub_of(0x31), A_P | A_LDT, 0);
	FAULTS("int n: no gate at all", GP, 0x31 * 8 + 2, asm volatile("int $0x31"));
	set_gate(0x31, KCS, stub_of(0x31), A_CALL, 0);
	FAULTS("int n: a call gate", GP, 0x31 * 8 + 2, asm volatile("int $0x31"));
	set_gate(0x31, 0, stub_of(0x31), A_INTR, 0);
	FAULTS("int n: gate to null", GP, 0, asm volatile("int $0x31"));
	set_gate(0x31, KDS, stub_of(0x31), A_INTR, 0);
	FAULTS("int n: gate to data", GP, KDS, asm volatile("int $0x31"));
	set_gate(0x31, 0x200, stub_of(0x31), A_INTR, 0);
	FAULTS("int n: gate beyond the GDT", GP, 0x200, asm volatile("int $0x31"));
	set_desc(SEL(0), desc(0, 0xfffff, A_CODE, F_4G));
	set_gate(0x31, SEL(0), stub_of(0x31), A_INTR, 0);
	FAULTS("int n: gate to code not present", NP, SEL(0), asm volatile("int $0x31"));
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_DPL(3) | A_CODE, F_4G));
	FAULTS("int n: gate to code of less privilege", GP, SEL(0), asm volatile("int $0x31"));
	set_desc(SEL(0), desc(0, 0xff, A_P | A_CODE, F_32));
	FAULTS("int n: gate beyond the code's limit", GP, 0, asm volatile("int $0x31"));

	set_gate(0x31, KCS, stub_of(0x31), A_TRAP, 0);
	int v = TRY(asm volatile("sti; nop; int $0x31"));
	check("trap gate leaves IF", v == 0x31 ? last.flags_in & FL_IF : 1, FL_IF);
	reset_gate(0x31);
	v = TRY(asm volatile("sti; nop; int $0x31"));
	check("interrupt gate clears IF", v == 0x31 ? last.flags_in & FL_IF : 1, 0);
	check("  and pushes it set", last.f.flags & FL_IF, FL_IF);
	v = TRY(asm volatile("pushf; orl $0x4000,(%esp); popf; int $0x31"));
	check("gates clear NT", v == 0x31 ? last.flags_in & FL_NT : 1, 0);
	check("  and push it set", last.f.flags & FL_NT, FL_NT);

	/* while an exception is delivered: EXT is set; contributory after benign is handled one by one */
	set_gate(UD, KDS, stub_of(UD), A_INTR, 0);
	FAULTS("#UD with a bad gate: #GP, EXT", GP, KDS | 1, asm volatile("ud2"));
	set_gate(UD, KCS, stub_of(UD), A_INTR & ~A_P, 0);
	FAULTS("#UD with a gate not present: #NP, EXT", NP, UD * 8 + 3, asm volatile("ud2"));
	reset_gate(UD);
	set_gate(BP, KCS, stub_of(BP), A_INTR & ~A_P, 0);
	FAULTS("int3 with a gate not present: no EXT", NP, BP * 8 + 2, asm volatile("int3"));
	reset_gate(BP);
	set_gate(DE, KDS, stub_of(DE), A_INTR, 0);
	FAULTS("#DE with a bad gate: #DF", DF, 0, asm volatile("divl %%ecx" ::"a"(1), "c"(0), "d"(0)));
	reset_gate(DE);
	set_gate(GP, KCS, stub_of(GP), A_INTR & ~A_P, 0);
	FAULTS("#GP with a gate not present: #DF", DF, 0, load_ds(0x200));
	reset_gate(GP);
	set_gate(NP, KCS, stub_of(NP), A_INTR & ~A_P, 0);
	set_gate(0x31, KCS, stub_of(0x31), A_INTR & ~A_P, 0);
	FAULTS("int n, #NP, #NP: #DF", DF, 0, asm volatile("int $0x31"));
	reset_gate(NP);
	reset_gate(0x31);
	/* 16-bit gates push words */
	set_desc(SEL(1), desc(0, 0xfffff, A_P | A_CODE, F_4G));
}

static u32 lar(u32 sel, int *zf)
{
	u32 v = 0xaaaaaaaa;
	u8 z;

	asm volatile("lar %2,%0; setz %1" : "+r"(v), "=q"(z) : "r"(sel) : "cc");
	*zf = z;
	return v;
}
static u32 lsl(u32 sel, int *zf)
{
	u32 v = 0xaaaaaaaa;
	u8 z;

	asm volatile("lsl %2,%0; setz %1" : "+r"(v), "=q"(z) : "r"(sel) : "cc");
	*zf = z;
	return v;
}
static int verr(u32 sel)
{
	u8 z;
	asm volatile("verr %w1; setz %0" : "=q"(z) : "r"(sel) : "cc");
	return z;
}
static int verw(u32 sel)
{
	u8 z;
	asm volatile("verw %w1; setz %0" : "=q"(z) : "r"(sel) : "cc");
	return z;
}

/* clang-format off */
U(lar_k, "xor %eax,%eax; mov $8,%edx; lar %edx,%eax; setz %bl; verr %dx; setz %bh; lsl %edx,%eax; setz %al")
/* clang-format on */

static void queries(void)
{
	int z;

	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_XCODE, F_4G));
	set_desc(SEL(1), desc(0, 0x123, A_P | A_RODATA, F_32));
	set_call_gate(SEL(2), KCS, 0, A_CALL, 0);
	check("lar of code (limit bits undefined)", lar(KCS, &z) & 0xf0ff00, 0x00c09b00);
	check("lar: ZF", z, 1);
	check("lsl of code", lsl(KCS, &z), 0xffffffff);
	check("lsl in bytes", lsl(SEL(1), &z), 0x123);
	check("lsl: ZF", z, 1);
	check("lar null: unchanged", lar(0, &z), 0xaaaaaaaa);
	check("lar null: ZF", z, 0);
	lar(0x200, &z);
	check("lar beyond the GDT", z, 0);
	check("lar of a call gate", lar(SEL(2), &z) & 0xff00, 0x8c00);
	check("  ZF", z, 1);
	lsl(SEL(2), &z);
	check("lsl of a call gate", z, 0);
	check("lar of the TSS", lar(TSS_SEL, &z) & 0xff00, 0x8b00);
	set_gate(0x31, KCS, 0, A_INTR, 0);
	set_desc(SEL(3), desc(0, 0, A_INTR, 0));
	lar(SEL(3), &z);
	check("lar of an interrupt gate", z, 0);
	reset_gate(0x31);
	check("verr code", verr(KCS), 1);
	check("verr execute-only", verr(SEL(0)), 0);
	check("verw data", verw(KDS), 1);
	check("verw read-only", verw(SEL(1)), 0);
	check("verw code", verw(KCS), 0);
	check("verr of a TSS", verr(TSS_SEL), 0);
	check("verr with RPL above DPL", verr(KDS | 3), 0);
	RUNS_IN_USER("ring 3: lar, verr, lsl run", user(u_lar_k, 0));
	check("  and deny ring 0 code", (last.f.bx & 0xffff) | (last.f.ax & 0xff) << 16, 0);
	u32 a = 0x10, b = 0x1b;
	u8 zf;
	asm volatile("arpl %w2,%w0; setz %1" : "+r"(a), "=q"(zf) : "r"(b) : "cc");
	check("arpl raises", a << 1 | zf, 0x13 << 1 | 1);
	b = 1;
	asm volatile("arpl %w2,%w0; setz %1" : "+r"(a), "=q"(zf) : "r"(b) : "cc");
	check("arpl does not lower", a << 1 | zf, 0x13 << 1);
}

/* clang-format off */
U(hlt, "hlt")
U(lgdt, "lgdt gdt_ptr") U(lidt, "lidt idt_ptr") U(lldt, "lldt %ax") U(ltr, "ltr %ax") U(clts, "clts")
    /* clang-format on */
    U(lmsw, "lmsw %ax") U(cr0r, "mov %cr0,%eax") U(cr3w, "mov %eax,%cr3") U(dr0r, "mov %db0,%eax")
	U(dr7w, "mov %eax,%db7") U(wrmsr, "wrmsr") U(rdmsr, "rdmsr") U(invlpg, "invlpg (%eax)") U(invd, "invd")
	    U(wbinvd, "wbinvd") U(cli, "cli") U(in, "in $0x80,%al") U(out, "out %al,$0x80")
		U(in4, "mov $0x7e,%edx; in %dx,%eax") U(ins, "mov $buf,%edi; mov $0x80,%edx; insb")
		    U(outs, "mov $buf,%esi; mov $0x80,%edx; outsb") U(sgdt, "sub $8,%esp; sgdt (%esp)")
			U(sidt, "sub $8,%esp; sidt (%esp)") U(sldt, "sldt %eax") U(str, "str %eax") U(smsw, "smsw %eax")
			    U(rdtsc, "rdtsc") U(rdpmc, "xor %ecx,%ecx; rdpmc") U(sysexit, "sysexit")
				U(in_hi, "mov $0xffff,%edx; in %dx,%al")

				    static const struct test {
	const char *name;
	u8 *code;
} all[] = {
	{ "hlt", u_hlt },	     { "lgdt", u_lgdt },	  { "lidt", u_lidt },	 { "lldt", u_lldt },
	{ "ltr", u_ltr },	     { "clts", u_clts },	  { "lmsw", u_lmsw },	 { "mov from cr0", u_cr0r },
	{ "mov to cr3", u_cr3w },    { "mov from dr0", u_dr0r },  { "mov to dr7", u_dr7w }, { "wrmsr", u_wrmsr },
	{ "rdmsr", u_rdmsr },	     { "invlpg", u_invlpg },	  { "invd", u_invd },	 { "wbinvd", u_wbinvd },
	{ "cli", u_cli },	     { "in", u_in },		  { "out", u_out },	 { "ins", u_ins },
	{ "outs", u_outs },	     { "rdpmc", u_rdpmc },	  { "sysexit", u_sysexit },
}, open[] = { { "sgdt", u_sgdt }, { "sidt", u_sidt }, { "sldt", u_sldt }, { "str", u_str }, { "smsw", u_smsw } };

static void privileged(void)
{
	for (unsigned i = 0; i < sizeof(all) / sizeof(all[0]); i++)
		FAULTS(nm("ring 3: %s", all[i].name), GP, 0, user(all[i].code, 0));
	for (unsigned i = 0; i < 5; i++)
		RUNS_IN_USER(nm("ring 3: %s", open[i].name), user(open[i].code, 0));
	if (cpuid_reg(7, 0, 2) & 4) {
		set_cr4(cr4() | 0x800);
		for (unsigned i = 0; i < 5; i++)
			FAULTS(nm("ring 3, UMIP: %s", open[i].name), GP, 0, user(open[i].code, 0));
		set_cr4(cr4() & ~0x800ul);
	} else {
		skip("UMIP");
	}
	RUNS_IN_USER("ring 3: rdtsc", user(u_rdtsc, 0));
	set_cr4(cr4() | 4);
	FAULTS("ring 3, CR4.TSD: rdtsc", GP, 0, user(u_rdtsc, 0));
	RUNS("ring 0, CR4.TSD: rdtsc", asm volatile("rdtsc" ::: "eax", "edx"));
	set_cr4(cr4() & ~4ul);

	RUNS_IN_USER("ring 3, IOPL 3: in", user_at((u32)u_in, USER_SP, 2 | FL_IOPL, 0));
	tss.iomap = (u32)tss.io - (u32)&tss;
	memset(tss.io, 0xff, sizeof(tss.io));
	FAULTS("I/O bitmap: denied", GP, 0, user(u_in, 0));
	tss.io[0x80 / 8] = 0xfe;
	RUNS_IN_USER("I/O bitmap: allowed", user(u_in, 0));
	FAULTS("I/O bitmap: one of four bytes denied", GP, 0, user(u_in4, 0));
	tss.io[0x80 / 8] = 0xfc;
	tss.io[0x78 / 8] = 0x3f;
	RUNS_IN_USER("I/O bitmap: four bytes over two of its bytes", user(u_in4, 0));
	tss.io[0x1fff] = 0x7f;
	RUNS_IN_USER("I/O bitmap: the last port", user(u_in_hi, 0));
	/* the byte behind the last is read too: without it the access is denied */
	set_desc(TSS_SEL, desc((u32)&tss, sizeof(tss) - 2, A_TSS, 0));
	asm volatile("ltr %w0" ::"r"(TSS_SEL));
	FAULTS("I/O bitmap: without its last byte", GP, 0, user(u_in_hi, 0));
	set_desc(TSS_SEL, desc((u32)&tss, tss.iomap + 0x10, A_TSS, 0));
	asm volatile("ltr %w0" ::"r"(TSS_SEL));
	FAULTS("I/O bitmap: beyond the TSS", GP, 0, user(u_in, 0));
	tss.iomap = sizeof(tss);
	load_tss();
}

/* clang-format off */
U(sysenter, "mov %esp,%ebp; mov $1f,%edx; mov %esp,%ecx; sysenter; 1: mov %cs,%ebx; mov %ss,%esi")
/* clang-format on */
extern u8 k_sysenter[], k_sysenter_stop[];
asm("k_sysenter: mov %cs,%eax; mov %ss,%edi; mov $0x23,%ebx; sysexit\n"
    "k_sysenter_stop: mov %esp,%eax; pushf; pop %ebx; int $0x31");

static void sysenter(void)
{
	/* SYSEXIT takes the selectors at +16 and +24: code and data of ring 3 must follow */
	RUNS("sysenter MSRs", wrmsr(0x174, KCS); wrmsr(0x175, INT_SP - 2048); wrmsr(0x176, (u32)k_sysenter));
	RUNS_IN_USER("sysenter, sysexit", user(u_sysenter, 0));
	check("  CS", last.f.bx, UCS);
	check("  SS", last.f.si, UDS);
	check("  kernel CS", last.f.ax, KCS);
	check("  kernel SS", last.f.di, KDS);
	wrmsr(0x176, (u32)k_sysenter_stop);
	check("sysenter stays in ring 0", TRY(user_at((u32)u_sysenter, USER_SP, 2 | FL_IOPL | FL_IF, 0)), 0x31);
	check("  stack", last.f.ax, INT_SP - 2048);
	check("  IF cleared", last.f.bx & FL_IF, 0);
	wrmsr(0x174, 0);
	FAULTS("sysenter with a null CS", GP, 0, user(u_sysenter, 0));
	FAULTS("sysexit with a null CS", GP, 0, asm volatile("sysexit"));
}

int main(void)
{
	loads();
	limits();
	fs_gs_limits();
	transfers();
	call_gates();
	gates();
	queries();
	privileged();
	sysenter();
	return 0;
}
