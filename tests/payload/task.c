/*
 * Hardware task switches (SDM vol. 3, chapter 8): JMP, CALL, IRET and task
 * gates; busy bits, back links, NT, TS, the T bit; faults before the switch
 * (in the old task) and after it (in the new one).
 *
 * TCG 7.2 differs from the manual in: the T bit (ignored), a stack beyond its
 * limit (not noticed), #TS for a task gate that names an LDT selector,
 * #NP for a new SS that is not present, the EIP of a new task that could not start.
 */
#include "rt.h"

static struct tss task[2];
static u8 task_stack[2][4096] __attribute__((aligned(16)));
static struct {
	u32 off;
	u16 sel;
} __attribute__((packed)) far;
#define T0 SEL(0) /* the first task's TSS descriptor */
#define T1 SEL(1)
#define GATE SEL(2)

static volatile u32 seen[8];
static u32 busy(unsigned sel)
{
	return get_desc(sel) >> 40 & 0xff;
}
static u32 tr(void)
{
	u32 v;
	asm volatile("str %0" : "=r"(v));
	return v;
}

static void describe(unsigned n, void (*entry)(void))
{
	struct tss *t = &task[n];

	memset(t, 0, 104);
	t->esp0 = INT_SP;
	t->ss0 = KDS;
	t->eip = (u32)entry;
	t->eflags = 2;
	t->esp = (u32)task_stack[n] + 4000;
	t->cs = KCS;
	t->ss = t->ds = t->es = t->fs = t->gs = KDS;
	t->eax = 0xa0;
	t->edi = 0xd1;
	t->cr3 = cr3();
	t->iomap = 104;
	set_desc(SEL(n), desc((u32)t, 103, A_TSS, 0));
}

/* Back to the boot task whatever happened: make it available and load it anew. */
static void home(void)
{
	load_tss();
	asm volatile("clts");
	set_desc(T0, (get_desc(T0) & ~(2ull << 40)));
	set_desc(T1, (get_desc(T1) & ~(2ull << 40)));
}

static void task_jump_back(void)
{
	for (;;) {
		seen[0] = tr();
		seen[1] = flags();
		seen[2] = cr0();
		seen[3] = busy(TSS_SEL);
		seen[4] = busy(T0);
		seen[5] = task[0].link;
		asm volatile("ljmp $0x28,$0");
		seen[6]++;
	}
}

static void task_iret(void)
{
	for (;;) {
		seen[0] = tr();
		seen[1] = flags();
		seen[2] = cr0();
		seen[3] = busy(TSS_SEL);
		seen[4] = busy(T0);
		seen[5] = task[0].link;
		asm volatile("iret");
		seen[6]++;
	}
}

static void go_jmp(u32 sel)
{
	far.sel = sel;
	asm volatile("ljmp *%0" ::"m"(far) : "memory");
}
static void go_call(u32 sel)
{
	far.sel = sel;
	asm volatile("lcall *%0" ::"m"(far) : "memory");
}

static void switches(void)
{
	describe(0, task_jump_back);
	memset((void *)seen, 0, sizeof(seen));
	u32 b = 0x1234, s = 0x5678;
	asm volatile("clts");
	RUNS("jmp to a TSS and back", go_jmp(T0));
	check("  TR in the new task", seen[0], T0);
	check("  NT clear", seen[1] & FL_NT, 0);
	check("  CR0.TS set", seen[2] & 8, 8);
	check("  the old task is available", seen[3], A_TSS);
	check("  the new task is busy", seen[4], A_TSS_BUSY);
	check("  no back link", seen[5], 0);
	check("  TR after the return", tr(), TSS_SEL);
	check("  this task is busy again", busy(TSS_SEL), A_TSS_BUSY);
	check("  the other is available", busy(T0), A_TSS);
	check("  CR0.TS set by the way back", cr0() & 8, 8);
	asm volatile("clts");
	asm volatile("mov $0x1234,%%ebx; mov $0x5678,%%esi; ljmp *%2"
		     : "=b"(b), "=S"(s)
		     : "m"(far)
		     : "memory", "eax", "ecx", "edx", "edi");
	check("registers come back", b << 16 | s, 0x12345678);
	check("  and were saved in the TSS", tss.ebx << 16 | tss.esi, 0x12345678);

	describe(0, task_iret);
	memset((void *)seen, 0, sizeof(seen));
	RUNS("call to a TSS, iret back", go_call(T0));
	check("  TR in the new task", seen[0], T0);
	check("  NT set", seen[1] & FL_NT, FL_NT);
	check("  the old task stays busy", seen[3], A_TSS_BUSY);
	check("  the new task is busy", seen[4], A_TSS_BUSY);
	check("  back link", seen[5], TSS_SEL);
	check("  after iret it is available", busy(T0), A_TSS);
	check("  NT clear in its saved flags", task[0].eflags & FL_NT, 0);
	check("  NT clear here", flags() & FL_NT, 0);
	RUNS("once more: it goes on behind its iret", go_call(T0));
	check("  it did", seen[6], 1);

	describe(0, task_iret);
	set_desc(GATE, (u64)T0 << 16 | (u64)(A_TASK | A_DPL(3)) << 40);
	memset((void *)seen, 0, sizeof(seen));
	RUNS("call through a task gate", go_call(GATE));
	check("  TR", seen[0], T0);
	describe(0, task_iret);
	set_gate(0x31, T0, 0, A_TASK, 0);
	memset((void *)seen, 0, sizeof(seen));
	RUNS("int n through a task gate", asm volatile("int $0x31"));
	check("  TR", seen[0], T0);
	check("  back link", seen[5], TSS_SEL);
	check("  the saved EIP is behind the int", tss.eip != 0, 1);
	reset_gate(0x31);
}

extern u8 t_error[];
/* the same, giving the broken task its stack back (EBX and the flat SS) */
extern u8 t_stack[];
asm("t_stack: pop seen+28; movl $1f,tss+32; mov tss+52,%eax; mov %eax,tss+56; movw $16,tss+80; iret; jmp t_stack\n"
    "1: int $0x32\n");
asm("t_error: pop seen+28; movl $1f,tss+32; iret; jmp t_error\n1: int $0x32\n");

static void exceptions(void)
{
	describe(1, 0);
	task[1].eip = (u32)t_error;
	set_gate(GP, T1, 0, A_TASK, 0);
	seen[7] = 0xffff;
	int v = TRY(asm volatile("mov %0,%%ds" ::"r"(0x200)));
	check("#GP through a task gate", v, 0x32);
	check("  error code on the task's stack", seen[7], 0x200);
	check("  CS:EIP of the fault saved", tss.cs, KCS);
	reset_gate(GP);
	home();
	describe(1, 0);
	task[1].eip = (u32)t_error;
	set_gate(DF, T1, 0, A_TASK, 0);
	set_gate(DE, KDS, 0, A_INTR, 0);
	seen[7] = 0xffff;
	v = TRY(asm volatile("divl %%ecx" ::"a"(1), "c"(0), "d"(0)));
	check("#DF through a task gate", v, 0x32);
	check("  error code 0", seen[7], 0);
	reset_gate(DE);
	reset_gate(DF);
	home();
	/* a broken ESP: only a task gate gets out of this */
	describe(1, 0);
	task[1].eip = (u32)t_stack;
	set_gate(DF, T1, 0, A_TASK, 0);
	set_desc(SEL(5), desc(0, 0x0fff, A_P | A_DATA, F_32));
	v = TRY(asm volatile("mov %%esp,%%ebx; mov %0,%%ss; mov $0x2000,%%esp; ud2" ::"r"(SEL(5)) : "ebx"));
	check("#UD without a stack: #SS, then #DF, by task gate", v, 0x32);
	reset_gate(DF);
	home();
}

#define U(name, insn)                                                                                                  \
	asm("u_" #name ": " insn "; int $0x30");                                                                       \
	extern u8 u_##name[];
U(call, "lcall *(%ecx)")
U(iret, "pushf; orl $0x4000,(%esp); popf; iret")

/*
 * Segments that the new task cannot load: the fault comes in the new task,
 * whose stack may be among them, so its handler is a task as well.
 */
extern u8 t_segment[];
asm("t_segment: pop seen+28; ljmp $0x28,$0; jmp t_segment");

static void new_segment(const char *name, void *field, u32 sel, int vec, u32 err)
{
	describe(0, task_iret);
	*(u32 *)field = sel;
	describe(1, 0);
	task[1].eip = (u32)t_segment;
	set_gate(vec, T1, 0, A_TASK, 0);
	seen[7] = 0xffff;
	int v = TRY(go_jmp(T0));
	check(nm("new task: %s: error code", name), v == NONE ? seen[7] : 0xdead0000u | v, err);
	check(nm("new task: %s: raised in the new task", name), task[1].link, T0);
	check(nm("new task: %s: before its first instruction", name), task[0].eip, (u32)task_iret);
	reset_gate(vec);
	home();
}

static void new_segments(void)
{
	set_desc(SEL(6), desc(0, 0xfffff, A_DATA, F_4G));
	set_desc(SEL(7), desc(0, 0xfffff, A_CODE, F_4G));
	new_segment("DS beyond the GDT", &task[0].ds, 0x200, TS, 0x200);
	new_segment("ES not present", &task[0].es, SEL(6), NP, SEL(6));
	new_segment("FS a TSS", &task[0].fs, T1, TS, T1);
	new_segment("SS with RPL 3", &task[0].ss, KDS | 3, TS, KDS);
	new_segment("SS null", &task[0].ss, 0, TS, 0);
	new_segment("SS not present", &task[0].ss, SEL(6), SS, SEL(6));
	new_segment("CS is data", &task[0].cs, KDS, TS, KDS);
	new_segment("CS null", &task[0].cs, 0, TS, 0);
	new_segment("CS not present", &task[0].cs, SEL(7), NP, SEL(7));
	new_segment("LDT is none", &task[0].ldt, KDS, TS, KDS);
}

static void refusals(void)
{
	describe(0, task_iret);
	FAULTS("jmp to the running task", GP, TSS_SEL, go_jmp(TSS_SEL));
	set_desc(T0, get_desc(T0) | 2ull << 40);
	FAULTS("jmp to a busy task", GP, T0, go_jmp(T0));
	FAULTS("call to a busy task", GP, T0, go_call(T0));
	set_desc(T0, desc((u32)&task[0], 103, A_TSS & ~A_P, 0));
	FAULTS("jmp to a task not present", NP, T0, go_jmp(T0));
	set_desc(T0, desc((u32)&task[0], 102, A_TSS, 0));
	FAULTS("a TSS too short", TS, T0, go_jmp(T0));
	describe(0, task_iret);
	far.sel = T0;
	FAULTS("ring 3: TSS of DPL 0", GP, T0, user(u_call, (u32)&far));
	set_desc(GATE, (u64)T0 << 16 | (u64)(A_TASK) << 40);
	far.sel = GATE;
	FAULTS("ring 3: task gate of DPL 0", GP, GATE, user(u_call, (u32)&far));
	set_desc(GATE, (u64)T0 << 16 | (u64)(A_TASK & ~A_P) << 40);
	FAULTS("task gate not present", NP, GATE, go_call(GATE));
	set_desc(GATE, (u64)KDS << 16 | (u64)A_TASK << 40);
	FAULTS("task gate to data", GP, KDS, go_call(GATE));
	set_desc(GATE, (u64)0x4 << 16 | (u64)A_TASK << 40);
	FAULTS("task gate to an LDT selector", GP, 4, go_call(GATE));
	/* IRET with NT: the back link must name a busy TSS */
	tss.link = T0;
	FAULTS("iret with NT to a task that is not busy", TS, T0,
	       asm volatile("pushf; orl $0x4000,(%esp); popf; iret"));
	tss.link = 0;
	FAULTS("iret with NT to null", TS, 0, asm volatile("pushf; orl $0x4000,(%esp); popf; iret"));
	tss.link = KDS;
	FAULTS("iret with NT to data", TS, KDS, asm volatile("pushf; orl $0x4000,(%esp); popf; iret"));
	tss.link = 0;

	new_segments();
	describe(0, task_iret);
	task[0].trap = 1;
	set_dr6(0xffff0ff0);
	FAULTS("T bit: #DB in the new task", DB, 0, go_jmp(T0));
	check("  dr6 BT", last.dr6 & 0x8000, 0x8000);
	check("  before its first instruction", last.f.ip, (u32)task_iret);
	home();
	/* a task in ring 3 */
	describe(0, 0);
	task[0].eip = (u32)user_done;
	task[0].cs = UCS;
	task[0].ss = task[0].ds = task[0].es = task[0].fs = task[0].gs = UDS;
	FAULTS("a task in ring 3", DONE, 0, go_jmp(T0));
	check("  CS", last.f.cs, UCS);
	home();
}

int main(void)
{
	switches();
	exceptions();
	refusals();
	return 0;
}
