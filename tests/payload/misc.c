/*
 * Instructions that must not exist, prefixes, lengths, code that changes
 * under the processor, division, x87 and SSE availability.
 *
 * TCG 7.2 differs from the manual in: LOCK on instructions that do not take it
 * (mov, bt), REX before another prefix, unmasked SSE exceptions (never
 * raised), reserved bits of MXCSR.
 */
#include "rt.h"

#define CODE(...) asm volatile(".byte " #__VA_ARGS__ ::: "eax", "ebx", "memory", "cc")
static volatile u32 word;

static void undefined(void)
{
	FAULTS("ud2", UD, 0, asm volatile("ud2"));
	FAULTS("ud1", UD, 0, CODE(0x0f, 0xb9, 0xc0));
	FAULTS("ud0", UD, 0, CODE(0x0f, 0xff, 0xc0));
	FAULTS("lea of a register", UD, 0, CODE(0x8d, 0xc0));
	FAULTS("mov to cs", UD, 0, CODE(0x8e, 0xc8));
	FAULTS("mov from segment register 6", UD, 0, CODE(0x8c, 0xf0));
	FAULTS("group 4, /2", UD, 0, CODE(0xfe, 0xd0));
	FAULTS("group 5, /7", UD, 0, CODE(0xff, 0xf8));
	FAULTS("far call through a register", UD, 0, CODE(0xff, 0xd8));
	FAULTS("cmpxchg8b of a register", UD, 0, CODE(0x0f, 0xc7, 0xc8));
	FAULTS("mov to cr1", UD, 0, CODE(0x0f, 0x22, 0xc8));
	FAULTS("mov from cr7", UD, 0, CODE(0x0f, 0x20, 0xf8));
	FAULTS("invlpg of a register", UD, 0, CODE(0x0f, 0x01, 0xf8 + 7)); /* 0f 01 ff: reserved */
	FAULTS("lidt of a register", UD, 0, CODE(0x0f, 0x01, 0xdd + 2));   /* 0f 01 df: invlpga, SVM is off */
	FAULTS("rsm outside SMM", UD, 0, CODE(0x0f, 0xaa));
#ifdef __x86_64__
	FAULTS("64-bit: push es", UD, 0, CODE(0x06));
	FAULTS("64-bit: pop ds", UD, 0, CODE(0x1f));
	FAULTS("64-bit: daa", UD, 0, CODE(0x27));
	FAULTS("64-bit: aaa", UD, 0, CODE(0x37));
	FAULTS("64-bit: pusha", UD, 0, CODE(0x60));
	FAULTS("64-bit: popa", UD, 0, CODE(0x61));
	FAULTS("64-bit: group 1 at 82h", UD, 0, CODE(0x82, 0xc0, 1));
	FAULTS("64-bit: far call", UD, 0, CODE(0x9a, 0, 0, 0, 0, 0, 0));
	FAULTS("64-bit: into", UD, 0, CODE(0xce));
	FAULTS("64-bit: aam", UD, 0, CODE(0xd4, 10));
	FAULTS("64-bit: salc", UD, 0, CODE(0xd6));
	FAULTS("64-bit: far jmp", UD, 0, CODE(0xea, 0, 0, 0, 0, 0, 0));
	ulong a;
	asm volatile("mov $-1,%%rax; mov $1,%%eax" : "=a"(a));
	check("64-bit: a 32-bit result clears the upper half", a, 1);
#endif
}

static void lock_prefix(void)
{
	FAULTS("lock mov", UD, 0, CODE(0xf0, 0x89, 0xc0));
	FAULTS("lock add to a register", UD, 0, CODE(0xf0, 0x01, 0xc0));
	FAULTS("lock nop", UD, 0, CODE(0xf0, 0x90));
	FAULTS("lock cmp", UD, 0, asm volatile(".byte 0xf0; cmpl $1,%0" ::"m"(word) : "cc"));
	FAULTS("lock bt", UD, 0, asm volatile(".byte 0xf0; btl $1,%0" ::"m"(word) : "cc"));
	FAULTS("lock add to a register from memory", UD, 0,
	       asm volatile(".byte 0xf0; addl %0,%%eax" ::"m"(word)
			    : "eax", "cc"));
	FAULTS("lock mov to memory", UD, 0, asm volatile(".byte 0xf0; movl %%eax,%0" : "=m"(word)));
	word = 1;
	RUNS("lock add", asm volatile("lock addl $2,%0" : "+m"(word)));
	RUNS("lock bts", asm volatile("lock btsl $4,%0" : "+m"(word)));
	RUNS("lock not", asm volatile("lock notl %0" : "+m"(word)));
	RUNS("lock xadd", asm volatile("lock xaddl %%eax,%0" : "+m"(word) : "a"(1)));
	check("locked operations", word, ~0x13u + 1);
}

static void length(void)
{
	RUNS("15 bytes",
	     CODE(0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90));
	FAULTS("16 bytes", GP, 0,
	       CODE(0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x90));
	FAULTS("16 bytes with an immediate", GP, 0,
	       CODE(0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0x3e, 0xb8, 0, 0, 0, 0));
}

static void division(void)
{
	extern u8 d1[];
	int v = TRY(asm volatile(".globl d1; d1: divl %%ecx" ::"a"(1), "d"(0), "c"(0)));
	check("div by zero", v, DE);
	check("div by zero is a fault", last.f.ip, (ulong)d1);
	FAULTS("div overflow", DE, 0, asm volatile("divl %%ecx" ::"a"(0), "d"(5), "c"(5)));
	FAULTS("idiv of the most negative", DE, 0, asm volatile("idivl %%ecx" ::"a"(0x80000000), "d"(-1), "c"(-1)));
	FAULTS("div of a byte", DE, 0, asm volatile("divb %%cl" ::"a"(0x1000), "c"(0x10)));
	RUNS("div of a byte that fits", asm volatile("divb %%cl" ::"a"(0xfff), "c"(0x10)));
#ifdef __x86_64__
	FAULTS("64-bit idiv of the most negative", DE, 0,
	       asm volatile("idivq %%rcx" ::"a"(1ul << 63), "d"(-1ul), "c"(-1ul)));
#else
	FAULTS("aam 0", DE, 0, CODE(0xd4, 0));
	extern u8 d2[], d3[];
	v = TRY(asm volatile("movb $0x7f,%%al; incb %%al; into; .globl d2; d2: nop" ::: "eax", "cc"));
	check("into with OF", v, OF);
	check("into is a trap", last.f.ip, (ulong)d2);
	RUNS("into without OF", asm volatile("xor %%eax,%%eax; into" ::: "eax", "cc"));
	static int bounds[2] = { 3, 7 };
	RUNS("bound at its upper limit", asm volatile("bound %%eax,%0" ::"m"(bounds), "a"(7)));
	v = TRY(asm volatile(".globl d3; d3: bound %%eax,%0" ::"m"(bounds), "a"(8)));
	check("bound above", v, BR);
	check("bound is a fault", last.f.ip, (ulong)d3);
	FAULTS("bound below", BR, 0, asm volatile("bound %%eax,%0" ::"m"(bounds), "a"(2)));
#endif
}

static void self_modifying(void)
{
	u32 a = 0;

	/* the immediate of the very next instruction */
	asm volatile("mov $1f+1,%%" R "bx; movl $0x12345678,(%%" R "bx); 1: mov $0,%%eax" : "=a"(a)::"ebx", "memory");
	check("code: the next instruction rewritten", a, 0x12345678);
	/* eight turns, each with code the turn before wrote */
	asm volatile("mov $1f+1,%%" R "bx; xor %%eax,%%eax; mov $8,%%ecx\n"
		     "2: .byte 0xeb, 0x00\n"
		     "1: add $1,%%eax\n"
		     "incb 1(%%" R "bx); loop 2b"
		     : "=&a"(a)::"ebx", "ecx", "memory", "cc");
	/* 83 c0 ib: the byte at 1b+2 goes 1, 2, ... 8 */
	check("code: a loop rewritten in each turn", a, 36);
	/* an opcode, in a page of its own, executed many times before and after */
	static u8 code[8192] __attribute__((aligned(4096)));
	u8 *p = code + 100;
	u32 sum = 0;
	for (int i = 0; i < 1000; i++) {
		p[0] = i & 1 ? 0x48 : 0x40; /* 32-bit: inc, dec */
#ifdef __x86_64__
		p[0] = 0xff;
		p[1] = i & 1 ? 0xc8 : 0xc0;
		p[2] = 0xc3;
#else
		p[1] = 0xc3;
#endif
		asm volatile("call *%2" : "=a"(sum) : "a"(sum), "r"(p) : "memory", "cc");
		if (i % 3 == 0)
			sum += 1;
	}
	check("code: opcode rewritten a thousand times", sum, 334);
	/* an instruction across two pages, its second half rewritten */
	p = code + 4094;
	p[0] = 0xb8;
	p[5] = 0xc3;
	for (u32 i = 0, bad = 0; i < 4; i++) {
		*(volatile u32 *)(p + 1) = i * 0x01010101;
		asm volatile("call *%1" : "=a"(a) : "r"(p) : "memory", "cc");
		bad += a != i * 0x01010101;
		if (i == 3)
			check("code: an instruction across pages", bad, 0);
	}
	/* a string instruction that writes over the code behind it */
	asm volatile("mov $1f,%%" R "di; mov $0x40,%%al; mov $3,%%ecx; rep stosb; xor %%eax,%%eax; jmp 1f; 1: "
#ifdef __x86_64__
		     "nop; nop; nop; .byte 0xff, 0xc0"
#else
		     "nop; nop; nop"
#endif
		     : "=a"(a)::"edi", "ecx", "memory", "cc");
	/* in 64-bit mode 40h is a REX prefix of the inc, three of them are fine */
	check("code: rewritten by rep stosb", a, sizeof(ulong) == 8 ? 1 : 3);
}

static void fpu(void)
{
	ulong old = cr0(), old4 = cr4();
	u32 mxcsr = 0x1f80;

	set_cr0(old | 8);
	FAULTS("CR0.TS: x87", NM, 0, asm volatile("fnop"));
	FAULTS("CR0.TS: MMX", NM, 0, asm volatile("pxor %mm0,%mm0"));
	RUNS("CR0.TS without MP: wait", set_cr0(old & ~2ul); set_cr0((old & ~2ul) | 8); asm volatile("fwait"));
	set_cr0(old | 2 | 8);
	FAULTS("CR0.TS and MP: wait", NM, 0, asm volatile("fwait"));
	asm volatile("clts");
	RUNS("clts", asm volatile("fnop"));
	set_cr0(old | 4);
	FAULTS("CR0.EM: x87", NM, 0, asm volatile("fnop"));
	FAULTS("CR0.EM: MMX", UD, 0, asm volatile("pxor %mm0,%mm0"));
	set_cr0(old & ~0xcul);
	set_cr4(old4 & ~0x600ul);
	FAULTS("CR4.OSFXSR clear: SSE", UD, 0, asm volatile("xorps %xmm0,%xmm0"));
	set_cr4(old4 | 0x200);
	RUNS("CR4.OSFXSR set: SSE", asm volatile("xorps %xmm0,%xmm0"));
	set_cr0((old & ~4ul) | 8);
	FAULTS("CR0.TS: SSE", NM, 0, asm volatile("xorps %xmm0,%xmm0"));
	set_cr0((old & ~8ul) | 4);
	FAULTS("CR0.EM: SSE", UD, 0, asm volatile("xorps %xmm0,%xmm0"));
	set_cr0(old & ~0xcul);
	/* an unmasked exception: the next x87 instruction reports it */
	u16 cw = 0x37b; /* ZM clear */
	asm volatile("fninit; fldcw %0" ::"m"(cw));
	FAULTS("#MF at the next waiting instruction", MF, 0,
	       asm volatile("fldz; fld1; fdivp %st,%st(1); fldz; fdivrp; fwait"));
	asm volatile("fnclex; fninit");
	mxcsr = 0x1d80; /* ZM clear */
	asm volatile("ldmxcsr %0" ::"m"(mxcsr));
	static const float fs[2] = { 1, 0 };
	FAULTS("SSE exception without OSXMMEXCPT: #UD", UD, 0,
	       asm volatile("movss %0,%%xmm0; divss %1,%%xmm0" ::"m"(fs[0]), "m"(fs[1])));
	set_cr4(old4 | 0x600);
	asm volatile("ldmxcsr %0" ::"m"(mxcsr));
	FAULTS("SSE exception with OSXMMEXCPT: #XM", XM, 0,
	       asm volatile("movss %0,%%xmm0; divss %1,%%xmm0" ::"m"(fs[0]), "m"(fs[1])));
	mxcsr = 0x1f80;
	asm volatile("ldmxcsr %0" ::"m"(mxcsr));
	mxcsr = 0x80000000;
	FAULTS("ldmxcsr: reserved bits", GP, 0, asm volatile("ldmxcsr %0" ::"m"(mxcsr)));
	static u8 odd[64] __attribute__((aligned(64)));
	FAULTS("movaps of an odd address", GP, 0, asm volatile("movaps %0,%%xmm0" ::"m"(odd[4])));
	RUNS("movups of an odd address", asm volatile("movups %0,%%xmm0" ::"m"(odd[4])));
	static u8 area[576] __attribute__((aligned(64)));
	RUNS("fxsave", asm volatile("fxsave %0" : "=m"(area)));
	FAULTS("fxsave at an odd address", GP, 0, asm volatile("fxsave %0" : "=m"(area[8])));
	*(u32 *)(area + 24) = 0xffffffff;
	FAULTS("fxrstor: reserved bits of MXCSR", GP, 0, asm volatile("fxrstor %0" ::"m"(area)));
	set_cr4(old4);
	set_cr0(old);
}

#ifdef __x86_64__
static void void_rex(void)
{
	ulong a = -1ul;

	asm volatile(".byte 0x48, 0x66, 0xb8, 0x34, 0x12; nop; nop; nop; nop" : "+a"(a));
	check("64-bit: a prefix behind REX voids it", a, 0xffffffffffff1234);
}
#endif

int main(void)
{
	undefined();
	lock_prefix();
	length();
	division();
	self_modifying();
	fpu();
#ifdef __x86_64__
	void_rex();
#endif
	return 0;
}
