/*
 * Debug registers and single-stepping (SDM vol. 3, chapter 18): which
 * conditions are faults and which traps, what DR6 says, GD, DE, RF.
 *
 * TCG 7.2 differs from the manual in: ICEBP (#UD), RF in the frame of an
 * instruction breakpoint, MOV SS holding one back.
 */
#include "rt.h"

static volatile u32 word, other;
#define DR7_FIXED 0x400ul
#define DR6_CLEAR 0xffff0ff0ul
#define EN(n) (2ul << ((n)*2)) /* Gn */
#define RW(n, rw, len) ((ulong)((rw) | (len) << 2) << (16 + (n)*4))
#define W 1
#define IO 2
#define ANY 3
#define LEN1 0
#define LEN2 1
#define LEN4 3
#define LEN8 2

extern u8 l1[], l2[], l3[], l4[], l5[], l6[], l7[], l8[], l9[], l10[], l11[], l12[], l13[];

static void registers(void)
{
	set_dr7(0);
	check("dr7: fixed bit", dr7(), DR7_FIXED);
	set_dr6(0);
	check("dr6: fixed bits", dr6(), DR6_CLEAR);
	set_dr6(0xe00f);
	check("dr6: status bits can be written", dr6(), DR6_CLEAR | 0xe00f);
	set_dr6(DR6_CLEAR);
	set_dr0(0x12345678);
	check("dr0", dr0(), 0x12345678);
	set_dr3((ulong)-1);
	check("dr3", dr3(), (ulong)-1);
	set_cr4(cr4() & ~8ul);
	ulong v = 0;
	RUNS("dr4 is dr6 with CR4.DE clear", asm volatile("mov %%db4,%0" : "=r"(v)));
	set_cr4(cr4() | 8);
	FAULTS("dr4 with CR4.DE set", UD, 0, asm volatile("mov %%db4,%0" : "=r"(v)));
	FAULTS("dr5 with CR4.DE set", UD, 0, asm volatile("mov %0,%%db5" ::"r"(v)));
#ifdef __x86_64__
	FAULTS("dr7 upper half", GP, 0, set_dr7(1ul << 32));
	FAULTS("dr6 upper half", GP, 0, set_dr6(1ul << 40));
#endif
	set_dr7(0);
}

static void stepping(void)
{
	int v;

	set_dr6(DR6_CLEAR);
	v = TRY(asm volatile("pushf; orl $0x100,(%%" R "sp); popf; nop; .globl l1; l1: nop; nop" ::: "memory", "cc"));
	check("TF: #DB", v, DB);
	check("TF: after the instruction that follows popf", last.f.ip, (ulong)l1);
	check("TF: dr6 says single step", last.dr6, DR6_CLEAR | 0x4000);
	check("TF: pushed", last.f.flags & FL_TF, FL_TF);
	check("TF: clear in the handler", last.flags_in & FL_TF, 0);

	v = TRY(asm volatile("mov %%ss,%%eax; pushf; orl $0x100,(%%" R
			     "sp); popf; mov %%eax,%%ss; nop; .globl l2; l2: nop" ::
				 : "eax", "memory", "cc"));
	check("TF: mov ss holds the trap back", v == DB ? last.f.ip : 0, (ulong)l2);

	static u8 buf[4];
	v = TRY(
	    asm volatile("pushf; orl $0x100,(%%" R "sp); popf; .globl l3; l3: rep stosb" ::"D"(buf), "c"(3ul), "a"(0)
			 : "memory", "cc"));
	check("TF: rep stosb traps after each iteration", v == DB ? last.f.ip : 0, (ulong)l3);
	check("TF: rep stosb count", last.f.cx, 2);

	v = TRY(asm volatile("pushf; orl $0x100,(%%" R "sp); popf; ud2" ::: "memory", "cc"));
	check("TF: a fault comes first", v, UD);
	check("TF: pushed by the fault", last.f.flags & FL_TF, FL_TF);

	set_dr6(DR6_CLEAR);
	v = TRY(asm volatile(".byte 0xf1; .globl l4; l4: nop"));
	check("icebp: #DB", v, DB);
	check("icebp: is a trap", last.f.ip, (ulong)l4);
	check("icebp: dr6 unchanged", last.dr6, DR6_CLEAR);
	v = TRY(asm volatile("int3; .globl l5; l5: nop"));
	check("int3: #BP", v, BP);
	check("int3: is a trap", last.f.ip, (ulong)l5);
}

static int hits;
static int resume_hook(struct frame *f)
{
	if (f->vec != DB)
		return 0;
	hits++;
	f->flags |= FL_RF;
	return 1;
}

static void instruction(void)
{
	int v;

	set_dr0((ulong)l6);
	set_dr7(EN(0));
	set_dr6(DR6_CLEAR);
	v = TRY(asm volatile(".globl l6; l6: incl %0" : "+m"(word)));
	check("instruction breakpoint: #DB", v, DB);
	check("instruction breakpoint: is a fault", last.f.ip, (ulong)l6);
	check("instruction breakpoint: nothing done", word, 0);
	check("instruction breakpoint: dr6 B0", last.dr6, DR6_CLEAR | 1);
	/* SDM vol. 3, 2.3: every fault pushes RF set but this one; the handler must set it */
	check("instruction breakpoint: RF is not pushed", last.f.flags & FL_RF, 0);

	rt_hook = resume_hook;
	set_dr0((ulong)l7);
	asm volatile("mov $3,%%ecx; .globl l7; l7: incl %0; loop l7" : "+m"(word)::"ecx");
	rt_hook = 0;
	check("RF: resumed past the breakpoint", word, 3);
	check("RF: cleared by the instruction, hit again each time", hits, 3);
	set_dr7(0);
	RUNS("disabled breakpoint", asm volatile("jmp 1f; 1: nop"));

	word = 0;
	set_dr1((ulong)l13);
	set_dr7(EN(1) | RW(1, 0, 0));
	v = TRY(asm volatile("mov %%ss,%%eax; mov %%eax,%%ss; .globl l13; l13: incl %0" : "+m"(word)::"eax"));
	check("mov ss holds an instruction breakpoint back", v, NONE);
	check("  and the instruction ran", word, 1);
	set_dr7(0);
}

static void data(void)
{
	int v;

	set_dr6(DR6_CLEAR);
	set_dr1((ulong)&word);
	word = 0;
	set_dr7(EN(1) | RW(1, W, LEN4));
	v = TRY(asm volatile("movl $7,%0; .globl l8; l8: nop" : "=m"(word)));
	check("write breakpoint: #DB", v, DB);
	check("write breakpoint: is a trap", last.f.ip, (ulong)l8);
	check("write breakpoint: the write is done", word, 7);
	check("write breakpoint: dr6 B1", last.dr6, DR6_CLEAR | 2);
	check("write breakpoint: no RF", last.f.flags & FL_RF, 0);
	RUNS("write breakpoint: a read passes", (void)word);
	RUNS("write breakpoint: the next word passes", asm volatile("movl $1,%0" : "=m"(other)));
	FAULTS("write breakpoint: one byte of four", DB, 0,
	       asm volatile("movb $1,%0"
			    : "=m"(((volatile u8 *)&word)[3]));
	       asm volatile("nop"));
	FAULTS("write breakpoint: a wider write that overlaps", DB, 0,
	       asm volatile("movl $1,%0; nop"
			    : "=m"(*(u32 *)((u8 *)&word - 2))));
	set_dr7(EN(1) | RW(1, ANY, LEN2));
	set_dr6(DR6_CLEAR);
	FAULTS("access breakpoint: a read", DB, 0, asm volatile("movw %0,%%ax; nop" ::"m"(word) : "eax"));
	RUNS("access breakpoint: behind its length", asm volatile("movb %0,%%al; nop" ::"m"(((u8 *)&word)[2]) : "eax"));
	set_dr2((ulong)&other);
	set_dr7(EN(1) | RW(1, W, LEN4) | EN(2) | RW(2, W, LEN4));
	set_dr6(DR6_CLEAR);
	v = TRY(asm volatile("movl $7,%0; .globl l9; l9: nop" : "=m"(word)));
	check("two breakpoints, one hit", v == DB ? last.dr6 & 15 : 99, 2);
	set_dr6(DR6_CLEAR);
	v = TRY(asm volatile("pushf; orl $0x100,(%%" R "sp); popf; movl $7,%0; .globl l10; l10: nop"
			     : "=m"(word)::"memory", "cc"));
	check("data breakpoint and single step together", v == DB ? last.dr6 : 0, DR6_CLEAR | 0x4002);
	set_dr7(0);
	set_dr6(DR6_CLEAR);
#ifdef __x86_64__
	static volatile u64 quad __attribute__((aligned(8)));
	set_dr3((ulong)&quad);
	set_dr7(EN(3) | RW(3, W, LEN8));
	FAULTS("8-byte breakpoint: its last byte", DB, 0,
	       asm volatile("movb $1,%0; nop"
			    : "=m"(((volatile u8 *)&quad)[7])));
	set_dr7(0);
#endif
}

static void io_and_gd(void)
{
	int v;

	set_cr4(cr4() | 8);
	set_dr6(DR6_CLEAR);
	set_dr2(0x80);
	set_dr7(EN(2) | RW(2, IO, LEN1));
	v = TRY(asm volatile("outb %%al,$0x80; .globl l11; l11: nop" ::: "memory"));
	check("I/O breakpoint: #DB", v, DB);
	check("I/O breakpoint: is a trap", last.f.ip, (ulong)l11);
	check("I/O breakpoint: dr6 B2", last.dr6 & 0xf, 4);
	RUNS("I/O breakpoint: another port", outb(0x84, 0));
	set_dr7(0);

	set_dr6(DR6_CLEAR);
	set_dr7(0x2000);
	v = TRY(asm volatile(".globl l12; l12: mov %%db0,%%" R "ax" ::: "eax"));
	check("GD: #DB", v, DB);
	check("GD: is a fault", last.f.ip, (ulong)l12);
	check("GD: dr6 BD", last.dr6 & 0x2000, 0x2000);
	check("GD: clear in the handler", last.dr7 & 0x2000, 0);
	set_dr7(0);
	set_dr6(DR6_CLEAR);
}

int main(void)
{
	registers();
	stepping();
	instruction();
	data();
	io_and_gd();
	return 0;
}
