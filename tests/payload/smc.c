/*
 * Self- and cross-modifying code (SDM vol. 3, 9.1.3 and 12.6): a store to the
 * address that code runs at takes effect with the next instruction; one
 * through another linear address with the next serializing instruction.
 */
#include "rt.h"

typedef u64 made(u64 arg);

static u8 page[4 * 4096] __attribute__((aligned(4096)));
static u8 *at;

static void begin(unsigned off)
{
	at = page + off;
}
static void bytes(const void *b, unsigned n)
{
	for (unsigned k = 0; k < n; k++)
		*at++ = ((const u8 *)b)[k];
}
#define CODE(...) bytes((const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ }))
static void imm32(u32 v)
{
	bytes(&v, 4);
}
/* displacement of a RIP-relative operand whose instruction ends `tail` bytes behind it */
static void rel(const u8 *to, unsigned tail)
{
	imm32((u32)(to - (at + 4 + tail)));
}
static u64 run(unsigned off, u64 arg)
{
	return ((made *)(void *)(page + off))(arg);
}

/* Calls with arguments that change must each give `f(arg)`. */
#define EACH(name, off, want)                                                                                          \
	do {                                                                                                           \
		u64 wrong = 0;                                                                                         \
		for (u64 arg = 1; arg <= 100; arg++)                                                                   \
			wrong += run(off, arg) != (want);                                                              \
		check(name, wrong, 0);                                                                                 \
	} while (0)

static void next_instruction(unsigned gap)
{
	begin(0);
	CODE(0x89, 0x3d); /* mov [rip + x], edi: the constant behind */
	imm32(gap + 1);
	for (unsigned k = 0; k < gap; k++)
		CODE(0x90);
	CODE(0xb8, 0, 0, 0, 0, 0xc3); /* mov eax, 0; ret */
}

static void own_code(void)
{
	next_instruction(0);
	EACH("a store rewrites the next instruction", 0, arg);
	next_instruction(20);
	EACH("a later instruction of the same run", 0, arg);
	next_instruction(200);
	EACH("one three lines behind", 0, arg);

	begin(0);
	CODE(0xf0, 0x01, 0x3d, 1, 0, 0, 0); /* lock add [rip + 1], edi */
	CODE(0xb8, 0, 0, 0, 0, 0xc3);
	EACH("lock add", 0, arg * (arg + 1) / 2);
	begin(0);
	CODE(0x89, 0xf8, 0x87, 0x05, 1, 0, 0, 0); /* mov eax, edi; xchg [rip + 1], eax */
	CODE(0xb8, 0, 0, 0, 0, 0xc3);
	EACH("xchg", 0, arg);
	begin(0);
	CODE(0x8b, 0x05, 9, 0, 0, 0);		  /* mov eax, [rip + 9] */
	CODE(0xf0, 0x0f, 0xb1, 0x3d, 1, 0, 0, 0); /* lock cmpxchg [rip + 1], edi */
	CODE(0xb8, 0, 0, 0, 0, 0xc3);
	EACH("cmpxchg", 0, arg);

	begin(0);
	CODE(0x49, 0x89, 0xe0, 0x48, 0x8d, 0x25, 9, 0, 0, 0); /* mov r8, rsp; lea rsp, [rip + 9] */
	CODE(0x57, 0xb8, 0, 0, 0, 0, 0x90, 0x90, 0x90);	      /* push rdi: over mov eax, 0; nop; nop; nop */
	CODE(0x4c, 0x89, 0xc4, 0xc3);			      /* mov rsp, r8; ret */
	u64 wrong = 0;
	for (u64 k = 1; k <= 100; k++)
		wrong += run(0, 0x9090900000000000 | k << 8 | 0xb8) != k;
	check("push", wrong, 0);
}

static void loops(void)
{
	begin(0);
	CODE(0x31, 0xc0);				      /* xor eax, eax */
	CODE(0x81, 0x05, 1, 0, 0, 0, 7, 0, 0, 0);	      /* top: add dword [rip + 1], 7 */
	CODE(0x05, 0, 0, 0, 0, 0x83, 0xef, 0x01, 0x75, 0xec); /* add eax, 0; sub edi, 1; jnz top */
	CODE(0xc3);
	check("a loop that rewrites its own constant", run(0, 1000), 7 * 1000 * 1001 / 2);

	begin(0);
	CODE(0x31, 0xc0);
	CODE(0x01, 0x3d, 12, 0, 0, 0);			/* top: add [rip + x], edi */
	CODE(0x83, 0xef, 0x01, 0x75, 0xf5);		/* sub edi, 1; jnz top */
	CODE(0x8b, 0x05, 1, 0, 0, 0, 0xc3, 0, 0, 0, 0); /* mov eax, [rip + x]; ret; x */
	check("data in the line of the loop", run(0, 1000), 500500);

	/* the loop's branch becomes two NOPs when the count is 500 */
	begin(0);
	CODE(0x31, 0xc0);
	CODE(0x83, 0xc0, 0x01);				/* top: add eax, 1 */
	CODE(0x3d, 0xf4, 1, 0, 0, 0x75, 9);		/* cmp eax, 500; jne over */
	CODE(0x66, 0xc7, 0x05, 3, 0, 0, 0, 0x90, 0x90); /* mov word [rip + 3], 9090h */
	CODE(0x83, 0xef, 0x01, 0x75, 0xe8, 0xc3);	/* over: sub edi, 1; jnz top; ret */
	check("a loop ended by rewriting its branch", run(0, 1000), 500);
}

static void strings(void)
{
	static const u8 patch[] = { 0xb8, 42, 0, 0, 0, 0xc3 };

	/* rdi = count: rep movsb to the bytes behind it */
	begin(0);
	CODE(0x89, 0xf9, 0x48, 0x8d, 0x3d, 9, 0, 0, 0); /* mov ecx, edi; lea rdi, [rip + 9] */
	CODE(0x48, 0x8d, 0x35);				/* lea rsi, [rip + patch] */
	rel(page + 2048, 0);
	CODE(0xf3, 0xa4, 0xb8, 1, 0, 0, 0, 0xc3);
	for (unsigned k = 0; k < sizeof(patch); k++)
		page[2048 + k] = patch[k];
	check("rep movsb: not yet", run(0, 0), 1);
	check("rep movsb over what follows it", run(0, 6), 42);
	page[2049] = 43;
	check("again", run(0, 6), 43);
	begin(0);
	CODE(0x89, 0xf9, 0xfd, 0x48, 0x8d, 0x3d, 16, 0, 0, 0); /* mov ecx, edi; std; lea rdi, its last byte */
	CODE(0x48, 0x8d, 0x35);
	rel(page + 2048 + 5, 0);
	CODE(0xf3, 0xa4, 0xfc, 0x90, 0xb8, 1, 0, 0, 0, 0xc3); /* rep movsb; cld; nop */
	page[2049] = 44;
	check("rep movsb downwards", run(0, 6), 44);
	for (unsigned round = 0; round < 3; round++) {
		void *to = page;
		ulong n = 512;

		begin(128);
		CODE(0xb8, (u8)round, 0, 0, 0, 0xc3);
		check("a page that is filled again", run(128, 0), round);
		asm volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(0xc3c3c3c3c3c3c3c3) : "memory");
		check("by rep stosq", run(128, 5) != round || round == 0, 1);
	}
}

static void across(void)
{
	u64 wrong = 0;

	/* the constant lies in two pages, and is rewritten by one store that crosses */
	begin(4096 - 3);
	CODE(0xb8, 0, 0, 0, 0, 0xc3);
	for (u32 k = 1; k < 100; k++) {
		*(volatile u32 *)(page + 4096 - 2) = k * 0x01010101;
		wrong += run(4096 - 3, 0) != k * 0x01010101u;
	}
	check("an instruction in two pages", wrong, 0);
	wrong = 0;
	for (u32 k = 1; k < 100; k++) {
		*(volatile u16 *)(page + 4096) = (u16)k;
		wrong += run(4096 - 3, 0) >> 16 != k;
	}
	check("its half in the second page", wrong, 0);
	wrong = 0;
	begin(8192 - 2);
	CODE(0xb0, 1, 0x04, 1, 0x0f, 0xb6, 0xc0, 0xc3); /* mov al, 1; | add al, 1; movzx eax, al; ret */
	for (u32 k = 1; k < 100; k++) {
		*(volatile u32 *)(page + 8192 - 1) = 0x000400 | (k & 0x7f) | (k & 0x7f) << 16 | 0x0f000000;
		wrong += run(8192 - 2, 0) != (u8)(2 * (k & 0x7f));
	}
	check("a store into the last line of one page and the first of the next", wrong, 0);
	wrong = 0;
	begin(64 - 1);
	CODE(0xb8, 0, 0, 0, 0, 0xc3);
	for (u64 k = 1; k < 100; k++) {
		*(volatile u64 *)(page + 60) = k << 32 | 0xb8909090;
		wrong += run(63, 0) != k || run(60, 0) != k;
	}
	check("a store across two lines", wrong, 0);
}

/* The code that a return leads to, rewritten by the function that returns. */
static void returns(void)
{
	begin(0);
	CODE(0xe8, 59, 0, 0, 0);      /* call +64 */
	CODE(0xb8, 0, 0, 0, 0, 0xc3); /* mov eax, 0; ret */
	begin(64);
	CODE(0x89, 0x3d); /* mov [rip + x], edi */
	rel(page + 6, 0);
	CODE(0xc3);
	EACH("what a return leads to", 0, arg);
	begin(2048);
	CODE(0x89, 0x3d);
	rel(page + 6, 0);
	CODE(0xc3);
	begin(0);
	CODE(0xff, 0x15);
	rel(page + 1024, 0);
	CODE(0xb8, 0, 0, 0, 0, 0xc3);
	*(u8 *volatile *)(page + 1024) = page + 2048;
	begin(2048);
	CODE(0x89, 0x3d);
	rel(page + 7, 0);
	CODE(0xc3);
	EACH("of an indirect call", 0, arg);
}

/* Functions side by side, each rewritten while the others stay. */
static void neighbours(void)
{
	u64 wrong = 0;

	for (u32 k = 0; k < 2000; k++) {
		unsigned off = (k * 7 & 63) * 16;

		begin(off);
		CODE(0x8d, 0x87); /* lea eax, [rdi + k] */
		imm32(k);
		CODE(0xc3);
		wrong += run(off, 1) != k + 1;
		wrong += run(off, 2) != k + 2;
		if (k >= 64)
			wrong += run(((k * 7 + 7) & 63) * 16, 0) != k - 63;
	}
	check("64 functions of one page", wrong, 0);
	wrong = 0;
	for (u32 k = 0; k < 200; k++) { /* instructions of other lengths */
		begin(0);
		if (k % 3 == 0)
			CODE(0xb8, (u8)k, 0, 0, 0);
		else if (k % 3 == 1)
			CODE(0x31, 0xc0, 0xb0, (u8)k);
		else
			CODE(0x48, 0xc7, 0xc0, (u8)k, 0, 0, 0, 0x90, 0x90, 0x85, 0xc0);
		CODE(0xc3);
		wrong += run(0, 0) != k;
	}
	check("other instructions each time", wrong, 0);
}

#define ALIAS 0x80000000ul

static void serialize(void)
{
	u32 a = 0, c = 0;

	asm volatile("cpuid" : "+a"(a), "+c"(c)::"ebx", "edx", "memory");
}

static void aliases(void)
{
	u64 *pml4 = (u64 *)(cr3() & ~0xfffull), *pdpt = (u64 *)(pml4[0] & ~0xfffull);
	u64 *pd = (u64 *)(pdpt[ALIAS >> 30] & ~0xfffull), *slot = &pd[(ALIAS >> 21) & 511], old = *slot;
	ulong frame = (ulong)page & ~0x1ffffful;
	u8 *other = (u8 *)(ALIAS + ((ulong)page - frame));
	u64 wrong = 0;

	*slot = (old & 0xfff) | frame;
	asm volatile("invlpg (%0)" ::"r"(ALIAS) : "memory");
	begin(256);
	CODE(0x8d, 0x87, 0, 0, 0, 0, 0xc3);
	for (u32 k = 0; k < 200; k++) {
		*(volatile u32 *)(other + 258) = k;
		serialize();
		wrong += run(256, 1) != k + 1;
		wrong += ((made *)(void *)(other + 256))(2) != k + 2;
		*(volatile u32 *)(page + 258) = k + 1000;
		serialize();
		wrong += ((made *)(void *)(other + 256))(3) != k + 1003;
	}
	check("through another linear address", wrong, 0);
	*slot = old;
	asm volatile("invlpg (%0)" ::"r"(ALIAS) : "memory");
}

static void vectors(void)
{
	u8 patch[16] __attribute__((aligned(16))) = { 0xb8, 0, 0, 0, 0, 0xc3 };
	u64 wrong = 0;

	set_cr0((cr0() & ~0xcul) | 2);
	set_cr4(cr4() | 0x600);
	begin(0);
	CODE(0x0f, 0x10, 0x07, 0x0f, 0x11, 0x05, 0, 0, 0, 0); /* movups xmm0, [rdi]; movups [rip], xmm0 */
	at += 16;
	for (unsigned k = 1; k < 100; k++) {
		patch[1] = (u8)k;
		wrong += run(0, (ulong)patch) != k;
	}
	check("movups", wrong, 0);
}

static unsigned steps;

static int count_steps(struct frame *f)
{
	if (f->vec != DB)
		return 0;
	steps++;
	return 1;
}

static void stepping(void)
{
	next_instruction(0);
	rt_hook = count_steps;
	for (u64 arg = 1; arg < 4; arg++) {
		u64 got, f = (ulong)page;

		steps = 0;
		asm volatile("pushf; orl $0x100,(%%rsp); popf; call *%2; pushf; andl $~0x100,(%%rsp); popf"
			     : "=&a"(got)
			     : "D"(arg), "r"(f)
			     : "memory", "cc");
		check("while single-stepping", got, arg);
		check("steps", steps, 7);
	}
	rt_hook = 0;
}

int main(void)
{
	own_code();
	loops();
	strings();
	across();
	returns();
	neighbours();
	aliases();
	vectors();
	stepping();
	return 0;
}
