/* See rt.h. */
#include "rt.h"
#include <stdarg.h>

struct last last;
struct tss tss;
u32 boot_magic, boot_info;
u8 user_stack[8192] __attribute__((aligned(4096))), int_stack[8192] __attribute__((aligned(4096)));
int (*rt_hook)(struct frame *f);
int rt_catching;
static int failures, checks;
extern u8 stubs[];
void rt_unwind(ulong vec) __attribute__((noreturn));
void rt_exception(struct frame *f, ulong fl);
void rt_init(void);

#ifdef __x86_64__
#define CODE_FLAGS F_L
struct gate {
	u16 off0, sel;
	u8 ist, access;
	u16 off1;
	u32 off2, zero;
};
#else
#define CODE_FLAGS F_4G
struct gate {
	u16 off0, sel;
	u8 ist, access;
	u16 off1;
};
#endif
static struct gate idt[256];
/* Flat segments, spelled out since the entry code needs them before any C runs. */
u64 gdt[64] = {
	0,
#ifdef __x86_64__
	0x00af9b000000ffff,
	0x00cf93000000ffff,
	0x00affb000000ffff,
	0x00cff3000000ffff,
#else
	0x00cf9b000000ffff,
	0x00cf93000000ffff,
	0x00cffb000000ffff,
	0x00cff3000000ffff,
#endif
};
struct desc_ptr gdt_ptr = { sizeof(gdt) - 1, (ulong)gdt };
struct desc_ptr idt_ptr = { sizeof(idt) - 1, (ulong)idt };

void *memset(void *p, int c, ulong n)
{
	u8 *d = p;
	while (n--) {
		*d++ = c;
		asm volatile("");
	}
	return p;
}

void *memcpy(void *to, const void *from, ulong n)
{
	u8 *d = to;
	const u8 *s = from;
	while (n--) {
		*d++ = *s++;
		asm volatile("");
	}
	return to;
}

static void put(char c)
{
	while (!(inb(0x3fd) & 0x20))
		;
	outb(0x3f8, c);
}

static char *number(char *p, u64 v, unsigned base)
{
	char tmp[24];
	int n = 0;

	do {
		/* 64 by 32 bits without a library's help */
		u32 hi = v >> 32, lo = v, q1 = hi / base, r = hi % base, q0;
		asm("divl %4" : "=a"(q0), "=d"(r) : "a"(lo), "d"(r), "r"(base) : "cc");
		tmp[n++] = "0123456789abcdef"[r];
		v = (u64)q1 << 32 | q0;
	} while (v);
	while (n)
		*p++ = tmp[--n];
	return p;
}

static void format(char *p, const char *end, const char *fmt, va_list ap)
{
	for (; *fmt && p < end - 24; fmt++) {
		if (*fmt != '%') {
			*p++ = *fmt;
			continue;
		}
		switch (*++fmt) {
		case 's':
			for (const char *s = va_arg(ap, const char *); *s && p < end - 24;)
				*p++ = *s++;
			break;
		case 'd': {
			int v = va_arg(ap, int);
			if (v < 0)
				*p++ = '-';
			p = number(p, v < 0 ? -(u64)v : (u64)v, 10);
			break;
		}
		case 'x':
			p = number(p, va_arg(ap, u32), 16);
			break;
		case 'l':
			fmt++;
			p = number(p, va_arg(ap, u64), 16);
			break;
		}
	}
	*p = 0;
}

void say(const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	format(line, line + sizeof(line), fmt, ap);
	va_end(ap);
	for (char *p = line; *p; p++)
		put(*p);
}

const char *nm(const char *fmt, ...)
{
	static char line[200];
	va_list ap;

	va_start(ap, fmt);
	format(line, line + sizeof(line), fmt, ap);
	va_end(ap);
	return line;
}

void check(const char *name, u64 got, u64 want)
{
	checks++;
	if (got == want) {
		say("PASS %s\n", name);
	} else {
		failures++;
		say("FAIL %s: got %lx, expected %lx\n", name, got, want);
	}
}

void skip(const char *name)
{
	say("SKIP %s\n", name);
}

void rt_fault(const char *name, int got, int want, ulong want_err)
{
	ulong err = got >= 0 && got < 32 ? last.f.err : 0;

	checks++;
	if (got == want && err == want_err) {
		say("PASS %s\n", name);
		return;
	}
	failures++;
	say("FAIL %s: got vector %d error %lx, expected %d error %lx (ip %lx)\n", name, got, (u64)err, want,
	    (u64)want_err, (u64)last.f.ip);
}

void finish(void)
{
	say("DONE %d checks, %d failed\n", checks, failures);
	outl(0xf4, failures ? 1 : 0);
	for (;;)
		asm volatile("cli; hlt");
}

void rt_caught(void)
{
	rt_catching = 0;
}

u64 desc(u32 base, u32 limit, u8 access, u8 flags)
{
	return (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 | (u64)(limit >> 16 & 15) << 48 |
	       (u64)flags << 52 | (u64)(base >> 24) << 56;
}

void set_desc(unsigned sel, u64 d)
{
	((volatile u64 *)gdt)[sel / 8] = d;
}

u64 get_desc(unsigned sel)
{
	return ((volatile u64 *)gdt)[sel / 8];
}

void set_gate(unsigned vec, unsigned sel, ulong off, u8 access, u8 ist)
{
	volatile struct gate *g = &idt[vec];

	g->off0 = off;
	g->sel = sel;
	g->ist = ist;
	g->access = access;
	g->off1 = off >> 16;
#ifdef __x86_64__
	g->off2 = off >> 32;
	g->zero = 0;
#endif
}

ulong stub_of(unsigned vec)
{
	return (ulong)stubs + 16 * vec;
}

void reset_gate(unsigned vec)
{
	set_gate(vec, KCS, stub_of(vec), A_INTR | (vec == DONE ? A_DPL(3) : 0), 0);
}

void load_tss(void)
{
	set_desc(TSS_SEL, desc((ulong)&tss, sizeof(tss) - 1, A_TSS, 0));
#ifdef __x86_64__
	set_desc(TSS_SEL + 8, (ulong)&tss >> 32);
#endif
	asm volatile("ltr %w0" ::"r"(TSS_SEL));
}

void user(const void *fn, ulong arg)
{
	ulong *sp = (ulong *)USER_SP;

	/* a C function finds its argument and returns to user_done */
#ifndef __x86_64__
	*--sp = arg;
#endif
	*--sp = (ulong)user_done;
	user_at((ulong)fn, (ulong)sp, 2, arg);
}

/* From the stubs: `fl` is EFLAGS as the gate left it. */
void rt_exception(struct frame *f, ulong fl)
{
	struct frame copy;

	if (rt_hook && rt_hook(f))
		return;
	/* no further than the frame reaches: its tail is there only after a change of privilege */
	copy = *f;
	last.f = copy;
	last.vec = f->vec;
	last.cr2 = cr2();
	last.dr6 = dr6();
	last.dr7 = dr7();
	last.flags_in = fl;
	last.sp_in = (ulong)&f->err;
	asm volatile("mov %%cs,%0; mov %%ss,%1" : "=r"(last.cs_in), "=r"(last.ss_in));
	if (!rt_catching) {
		say("FAIL unexpected exception %d error %lx at %lx, cr2 %lx\n", (int)f->vec, (u64)f->err, (u64)f->ip,
		    (u64)last.cr2);
		failures++;
		finish();
	}
	rt_unwind(f->vec);
}

void rt_init(void)
{
	outb(0x3f9, 0);
	outb(0x3fb, 3);
	for (unsigned i = 0; i < 256; i++)
		reset_gate(i);
	lidt(&idt_ptr);
#ifdef __x86_64__
	tss.rsp[0] = INT_SP;
#else
	tss.esp0 = INT_SP;
	tss.ss0 = KDS;
#endif
	tss.iomap = sizeof(tss);
	load_tss();
	asm volatile("lldt %w0" ::"r"(0));
	/* no interrupt but those a test asks for */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	set_cr0(cr0() | 0x20); /* NE */
}
