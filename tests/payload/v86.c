/*
 * Virtual-8086 mode (SDM vol. 3, chapter 20): entry by IRET and by task
 * switch, frames, IOPL-sensitive instructions, the I/O bitmap, VME with its
 * interrupt redirection and virtual interrupt flag (which TCG 7.2 does not have:
 * that part is written from the manual alone).
 */
#include "rt.h"

/* Code is copied here; segments 0x1000 (code, data) and 0x2000 (stack). */
#define CODE ((u8 *)0x10000)
#define CS86 0x1000
#define SS86 0x2000
#define SP86 0xf000
#define STACK(off) (*(volatile u16 *)(SS86 * 16 + (off)))
#define IVT ((volatile u32 *)0)
#define IOPL3 FL_IOPL

#define V(name, insn)                                                                                                  \
	asm(".code16\nv_" #name ": " insn "; hlt\nv_" #name "_end: .code32");                                          \
	extern u8 v_##name[], v_##name##_end[];

/* clang-format off */
V(hlt, "hlt")
V(cli, "cli") V(sti, "sti") V(pushf, "pushf") V(popf, "pushw $0x3246; popf; pushf") V(int21, "int $0x21") V(
    /* clang-format on */
    int3, "int3") V(iret, "pushw $0x3202; pushw %cs; call 1f; 1: popw %ax; addw $6, %ax; pushw %ax; iret; nop")
    V(in, "in $0x80,%al") V(out, "out %al,$0x80") V(ins, "movw $0x80,%dx; insb") V(cr0, "mov %cr0,%eax") V(
	lgdt, "lgdt (0)") V(lar, "lar %ax,%ax") V(sldt, "sldt %ax") V(verr, "verr %ax") V(arpl, "arpl %ax,%ax")
	V(lldt, "lldt %ax") V(ltr, "ltr %ax") V(clts, "clts") V(ud2, "ud2") V(smsw, "smsw %ax") V(
	    sidt, "sidt (0x800)") V(wrmsr, "wrmsr") V(rdmsr, "rdmsr")
	    V(seg,
	      "movw $0x1234,%ax; movw %ax,%ds; movw $0x8765,%ax; movw %ax,%es; movw %ax,%fs; movw $0x1111,%ax; movw %ax,%gs")
		V(memory,
		  "movw $0xabcd,%ax; movw $0x1800,%bx; movw %bx,%ds; movw %ax,(0x10); movw $0x1801,%bx; movw %bx,%es; movw %es:(0),%cx")
		    V(limit, "movl $0x10000,%ebx; movb (%ebx),%al") V(wrap, "movw $0xffff,%bx; movw (%bx),%ax")
			V(pushad, "pushal") V(far, "lcall $0x1000,$0x40; movw $0x77,%bx")
			    V(vecdiv, "xorw %cx,%cx; divw %cx")

				static int run(const u8 *from, const u8 *to, u32 fl)
{
	memcpy(CODE, from, to - from);
	return TRY(asm volatile(
	    "push $0x4444; push $0x3333; push $0x2222; push $0x1000\n" /* gs fs ds es */
	    "push %0; push %1; push %2; push %3; push $0; xor %%ebx,%%ebx; xor %%ecx,%%ecx; iret" ::"r"(SS86),
	    "r"(SP86), "r"(fl | FL_VM | 2), "r"(CS86)
	    : "memory"));
}
#define RUN(name, fl) run(v_##name, v_##name##_end, fl)
#define V_FAULTS(text, vec, err, name, fl) rt_fault(text, RUN(name, fl), vec, err)
/* Ran to its hlt, which faults */
static void ran(const char *name, int v, u32 length)
{
	check(name, v == GP ? last.f.ip : 0x10000u + v, length - 1);
}
#define V_RUNS(text, name, fl) ran(text, RUN(name, fl), v_##name##_end - v_##name)

static void entry(void)
{
	V_FAULTS("hlt", GP, 0, hlt, 0);
	check("frame: VM set", last.f.flags & FL_VM, FL_VM);
	check("frame: CS", last.f.cs & 0xffff, CS86);
	check("frame: IP", last.f.ip, 0);
	check("frame: SS", last.f.ss & 0xffff, SS86);
	check("frame: SP", last.f.sp, SP86);
	check("frame: DS", last.f.v_ds & 0xffff, 0x2222);
	check("frame: ES", last.f.v_es & 0xffff, 0x1000);
	check("frame: FS", last.f.v_fs & 0xffff, 0x3333);
	check("frame: GS", last.f.v_gs & 0xffff, 0x4444);
	check("in the handler VM is clear", last.flags_in & FL_VM, 0);
	check("in the handler: fs is null", last.f.fs & 0xffff, 0);
	check("in the handler: gs is null", last.f.gs & 0xffff, 0);
	check("  SS of ring 0", last.ss_in, KDS);
	V_RUNS("segment loads never fault", seg, 0);
	check("  DS", last.f.v_ds & 0xffff, 0x1234);
	check("  ES", last.f.v_es & 0xffff, 0x8765);
	check("  GS", last.f.v_gs & 0xffff, 0x1111);
	V_RUNS("memory by segment * 16", memory, 0);
	check("  two segments, one place", last.f.cx & 0xffff, 0xabcd);
	V_FAULTS("offset beyond 64 KiB", GP, 0, limit, 0);
	V_FAULTS("word across 64 KiB", GP, 0, wrap, 0);
	V_RUNS("32-bit operands", pushad, 0);
	CODE[0x40] = 0xcb; /* lret */
	V_RUNS("far call", far, 0);
	check("  and return", last.f.bx & 0xffff, 0x77);
	V_FAULTS("an exception", DE, 0, vecdiv, 0);
	check("  VM in its frame", last.f.flags & FL_VM, FL_VM);
}

static void sensitive(void)
{
	V_FAULTS("IOPL 0: cli", GP, 0, cli, 0);
	V_FAULTS("IOPL 0: sti", GP, 0, sti, 0);
	V_FAULTS("IOPL 0: pushf", GP, 0, pushf, 0);
	V_FAULTS("IOPL 0: popf", GP, 0, popf, 0);
	V_FAULTS("IOPL 0: iret", GP, 0, iret, 0);
	V_FAULTS("IOPL 0: int n", GP, 0, int21, 0);
	V_RUNS("IOPL 3: cli", cli, IOPL3 | FL_IF);
	check("  IF clear", last.f.flags & FL_IF, 0);
	V_RUNS("IOPL 3: sti", sti, IOPL3);
	check("  IF set", last.f.flags & FL_IF, FL_IF);
	V_RUNS("IOPL 3: pushf", pushf, IOPL3);
	check("  image without VM and RF", STACK(SP86 - 2), 0x3002);
	V_RUNS("IOPL 3: popf", popf, IOPL3);
	check("  IF taken, IOPL kept", STACK(SP86 - 2), 0x3246);
	V_RUNS("IOPL 3: iret", iret, IOPL3);
	check("  IF taken", last.f.flags & (FL_IF | FL_IOPL | FL_VM), FL_IF | FL_IOPL | FL_VM);
	set_gate(0x21, KCS, stub_of(0x21), A_INTR | A_DPL(3), 0);
	check("IOPL 3: int n through a DPL 3 gate", RUN(int21, IOPL3), 0x21);
	check("  IP behind it", last.f.ip, 2);
	V_FAULTS("IOPL 0: int n is refused whatever the gate", GP, 0, int21, 0);
	reset_gate(0x21);
	V_FAULTS("IOPL 3: int n through a DPL 0 gate", GP, 0x21 * 8 + 2, int21, IOPL3);
	set_gate(BP, KCS, stub_of(BP), A_INTR | A_DPL(3), 0);
	check("IOPL 0: int3 is no int n", RUN(int3, 0), BP);
	reset_gate(BP);
	/* the handler must run in ring 0 */
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_CONF, F_4G));
	set_gate(0x21, SEL(0), stub_of(0x21), A_INTR | A_DPL(3), 0);
	V_FAULTS("a gate to conforming code", GP, SEL(0), int21, IOPL3);
	set_desc(SEL(0), desc(0, 0xfffff, A_P | A_DPL(1) | A_CODE, F_4G));
	set_gate(0x21, SEL(0), stub_of(0x21), A_INTR | A_DPL(3), 0);
	V_FAULTS("a gate to ring 1", GP, SEL(0), int21, IOPL3);
	reset_gate(0x21);

	V_FAULTS("privileged: mov cr0", GP, 0, cr0, IOPL3);
	V_FAULTS("privileged: lgdt", GP, 0, lgdt, IOPL3);
	V_FAULTS("privileged: clts", GP, 0, clts, IOPL3);
	V_FAULTS("privileged: wrmsr", GP, 0, wrmsr, IOPL3);
	V_FAULTS("privileged: rdmsr", GP, 0, rdmsr, IOPL3);
	V_FAULTS("not recognised: lar", UD, 0, lar, IOPL3);
	V_FAULTS("not recognised: sldt", UD, 0, sldt, IOPL3);
	V_FAULTS("not recognised: verr", UD, 0, verr, IOPL3);
	V_FAULTS("not recognised: arpl", UD, 0, arpl, IOPL3);
	V_FAULTS("not recognised: lldt", UD, 0, lldt, IOPL3);
	V_FAULTS("not recognised: ltr", UD, 0, ltr, IOPL3);
	V_RUNS("smsw", smsw, 0);
	V_RUNS("sidt", sidt, 0);
	if (cpuid_reg(7, 0, 2) & 4) {
		set_cr4(cr4() | 0x800);
		V_FAULTS("UMIP: smsw", GP, 0, smsw, 0);
		V_FAULTS("UMIP: sidt", GP, 0, sidt, 0);
		set_cr4(cr4() & ~0x800ul);
	}

	/* the bitmap alone decides, whatever IOPL is */
	V_FAULTS("I/O without a bitmap, IOPL 3", GP, 0, in, IOPL3);
	tss.iomap = (u32)tss.io - (u32)&tss;
	memset(tss.io, 0xff, sizeof(tss.io));
	V_FAULTS("I/O denied, IOPL 3", GP, 0, in, IOPL3);
	V_FAULTS("ins denied", GP, 0, ins, IOPL3);
	tss.io[0x10] = 0xfe;
	V_RUNS("I/O allowed, IOPL 0", in, 0);
	V_RUNS("out allowed", out, 0);
	V_RUNS("ins allowed", ins, 0);
	tss.iomap = sizeof(tss);
}

/* A handler in the real-mode style, at 1000:0100. */
static const u8 handler[] = { 0x9c, 0x5b /* pop bx */, 0xf4 };

static void vme(void)
{
	if (!(cpuid_reg(1, 0, 3) >> 1 & 1)) {
		skip("VME");
		return;
	}
	set_cr4(cr4() | 1);
	/* the redirection bitmap lies in the 32 bytes below the I/O bitmap */
	u32 map = 104 + 32;
	tss.iomap = map;
	memset((u8 *)&tss + map - 32, 0, 32 + 8000);
	IVT[0x21] = CS86 << 16 | 0x100;
	memcpy(CODE + 0x100, handler, sizeof(handler));
	V_RUNS("VME, IOPL 0: cli", cli, FL_IF | FL_VIF);
	check("  VIF clear, IF kept", last.f.flags & (FL_IF | FL_VIF), FL_IF);
	V_RUNS("VME, IOPL 0: sti", sti, FL_IF);
	check("  VIF set", last.f.flags & (FL_IF | FL_VIF), FL_IF | FL_VIF);
	V_FAULTS("VME, VIP set: sti", GP, 0, sti, FL_IF | FL_VIP);
	V_RUNS("VME, IOPL 0: pushf", pushf, FL_IF);
	check("  IF is VIF, IOPL reads 3: VIF clear", STACK(SP86 - 2), 0x3002);
	V_RUNS("VME, IOPL 0: pushf", pushf, FL_IF | FL_VIF);
	check("  VIF set", STACK(SP86 - 2), 0x3202);
	V_RUNS("VME, IOPL 0: popf", popf, FL_IF);
	check("  sets VIF", last.f.flags & FL_VIF, FL_VIF);
	V_FAULTS("VME, VIP set: popf of IF", GP, 0, popf, FL_IF | FL_VIP);
	V_RUNS("VME, IOPL 0: iret", iret, FL_IF);
	check("  sets VIF", last.f.flags & FL_VIF, FL_VIF);
	/* redirected to the program's own handler */
	int v = RUN(int21, FL_IF | FL_VIF);
	check("VME, IOPL 0: int n redirected", v == GP ? last.f.ip : 0, 0x102);
	check("  frame: IP", STACK(SP86 - 6), 2);
	check("  frame: CS", STACK(SP86 - 4), CS86);
	check("  frame: flags with IF from VIF and IOPL 3", STACK(SP86 - 2), 0x3202);
	check("  VIF clear in the handler", last.f.flags & (FL_IF | FL_VIF), FL_IF);
	v = RUN(int21, IOPL3 | FL_IF);
	check("VME, IOPL 3: int n redirected", v == GP ? last.f.ip : 0, 0x102);
	check("  IF clear in the handler", last.f.flags & FL_IF, 0);
	((u8 *)&tss)[104 + 0x21 / 8] = 1 << (0x21 & 7);
	V_FAULTS("VME, IOPL 0: int n not redirected", GP, 0, int21, 0);
	set_gate(0x21, KCS, stub_of(0x21), A_INTR | A_DPL(3), 0);
	check("VME, IOPL 3: int n not redirected", RUN(int21, IOPL3), 0x21);
	reset_gate(0x21);
	set_cr4(cr4() & ~1ul);

	/* protected-mode virtual interrupts: the same for ring 3 */
	extern u8 u_pvi_cli[], u_pvi_sti[];
	set_cr4(cr4() | 2);
	v = TRY(user_at((u32)u_pvi_cli, USER_SP, 2 | FL_IF | FL_VIF, 0));
	check("PVI: cli clears VIF", v == DONE ? last.f.flags & (FL_IF | FL_VIF) : 1, FL_IF);
	v = TRY(user_at((u32)u_pvi_sti, USER_SP, 2 | FL_IF, 0));
	check("PVI: sti sets VIF", v == DONE ? last.f.flags & (FL_IF | FL_VIF) : 1, FL_IF | FL_VIF);
	FAULTS("PVI, VIP set: sti", GP, 0, user_at((u32)u_pvi_sti, USER_SP, 2 | FL_IF | FL_VIP, 0));
	set_cr4(cr4() & ~2ul);
	tss.iomap = sizeof(tss);
}
asm("u_pvi_cli: cli; int $0x30\nu_pvi_sti: sti; int $0x30\n");

static void by_task(void)
{
	static struct tss task;

	memset(&task, 0, 104);
	task.eflags = FL_VM | 2;
	task.cs = CS86;
	task.ss = SS86;
	task.esp = SP86;
	task.ds = 0x7777;
	task.esp0 = INT_SP;
	task.ss0 = KDS;
	task.iomap = 104;
	set_desc(SEL(4), desc((u32)&task, 103, A_TSS, 0));
	CODE[0] = 0xf4;
	FAULTS("task switch into virtual-8086 mode", GP, 0, asm volatile("ljmp %0,$0" ::"i"(SEL(4))));
	check("  CS", last.f.cs & 0xffff, CS86);
	check("  DS", last.f.v_ds & 0xffff, 0x7777);
	load_tss();
	asm volatile("clts");
}

int main(void)
{
	entry();
	sensitive();
	vme();
	by_task();
	return 0;
}
