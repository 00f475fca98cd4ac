/*
 * Code that one processor writes and others run (SDM 3A, 9.1.3): functions
 * handed over by a flag and a serializing instruction; stores beside code that
 * runs; instructions replaced under those who run them, by the breakpoint
 * protocol of kernels and by a single store within a cache line.
 *
 * TCG 7.2 with several threads goes on with translations of the old code now
 * and then, behind the single stores and exchanges.
 */
#include "mp.h"

#define VEC_SYNC 0x32
#define BAD (~0ull)

static u8 code[16384] __attribute__((aligned(4096)));
static volatile u64 flag, go, wrong, stale, runs, synced[MP_MAX][8], poked_at, poke_value, least, traps;
static u64 rounds;

static void serialize(void)
{
	u32 r[4];
	cpuid(0, 0, r);
}

static u64 call(ulong at)
{
	u64 v;
	asm volatile("call *%1" : "=a"(v) : "r"(at) : "memory", "cc", "rcx", "rdx");
	return v;
}

/* A function that gives `v`, in one of several forms. */
static void emit(u8 *p, u32 v, u32 form)
{
	static const u8 loop[] = { 0xb9, 3, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc }; /* mov $3,%ecx; 1: dec %ecx; jnz 1b */
	u32 i = 0;

	switch (form % 4) {
	case 1:
		for (; i < 7; i++)
			p[i] = 0x90;
		break;
	case 2:
		for (; i < sizeof(loop); i++)
			p[i] = loop[i];
		break;
	case 3: /* jmp over what is no code */
		p[0] = 0xeb;
		p[1] = 3;
		p[2] = p[3] = p[4] = 0x06;
		i = 5;
		break;
	}
	p[i++] = 0xb8;
	for (u32 k = 0; k < 4; k++)
		p[i++] = v >> 8 * k;
	p[i] = 0xc3;
}

static u32 place(u64 r)
{
	/* within one page, on a page's end, and where the round before was */
	static const u32 at[] = { 0, 0, 16, 4090, 4096 + 64, 0, 4093, 8192 - 3, 300 };
	return at[r % (sizeof(at) / sizeof(at[0]))];
}

/* Functions handed over: each runs round r's after it has seen the flag. */
static void run_handed(ulong n)
{
	for (u64 r = 1; r <= n; r++) {
		while (flag < r)
			pause();
		serialize();
		for (u32 i = 0; i < 3; i++) {
			if (call((ulong)code + place(r)) != (u32)(r * 0x9e3779b1))
				xadd(&wrong, 1);
		}
		synced[me()->n][0] = r;
	}
}

static void handed_over(void)
{
	u64 n = rounds * 10;

	flag = wrong = 0;
	for (u32 i = 1; i < mp_started; i++) {
		synced[i][0] = 0;
		mp_call(i, run_handed, n);
	}
	for (u64 r = 1; r <= n; r++) {
		emit(code + place(r), r * 0x9e3779b1, r / 5);
		asm volatile("" ::: "memory");
		flag = r;
		for (u32 i = 1; i < mp_started; i++) {
			while (synced[i][0] != r)
				pause();
		}
	}
	for (u32 i = 1; i < mp_started; i++)
		mp_wait(i);
	check(nm("%d functions handed over", (int)n), wrong, 0);
}

/* Stores to a page whose other code runs all the time; and what they wrote is run there. */
static void run_beside(ulong at)
{
	u64 n = 0, last = 0;

	while (go) {
		u64 v = call(at);
		if (v != 0x1234)
			xadd(&wrong, 1);
		u64 f = flag;
		if (f != last) {
			serialize();
			/* round f's, or a later one's */
			u64 got = call((ulong)code + 2048);
			if (got < f || got > f + 1)
				xadd(&wrong, 1);
			last = f;
			synced[me()->n][0] = f;
		}
		n++;
	}
	xadd(&runs, n);
}

static void beside(void)
{
	flag = wrong = runs = 0;
	go = 1;
	emit(code + 100, 0x1234, 2);
	emit(code + 2048, 0, 0);
	for (u32 i = 1; i < mp_started; i++) {
		synced[i][0] = 0;
		mp_call(i, run_beside, (ulong)code + 100);
	}
	for (u64 r = 1; r <= rounds * 4; r++) {
		code[1024 + r % 512] = r; /* data, in the page */
		*(volatile u32 *)(code + 2048 + 1) = r;
		asm volatile("" ::: "memory");
		flag = r;
		for (u32 i = 1; i < mp_started; i++) {
			while (synced[i][0] != r)
				pause();
		}
	}
	go = 0;
	for (u32 i = 1; i < mp_started; i++)
		mp_wait(i);
	check("stores beside code that runs", wrong, 0);
	check("it ran", runs > rounds, 1);
}

/*
 * An instruction of five bytes, mov $imm32,%eax, under those who run it.
 * Values are one byte four times, so that parts of two are seen.
 */
static u64 value(u64 r)
{
	return (r % 200 + 1) * 0x01010101;
}

static int breakpoint(struct frame *f)
{
	if (f->vec != BP || f->ip - 1 != poked_at)
		return 0;
	xadd(&traps, 1);
	f->ax = poke_value;
	f->ip = poked_at + 5;
	return 1;
}

static void sync_asked(struct frame *f)
{
	if (f->vec == VEC_SYNC) {
		serialize();
		synced[me()->n][0] = flag;
	}
	apic_write(APIC_EOI, 0);
}

static void sync_all(void)
{
	flag++;
	asm volatile("mfence" ::: "memory");
	icr(0, ICR_TO_OTHERS | ICR_ASSERT | VEC_SYNC);
	serialize();
	for (u32 i = 1; i < mp_started; i++) {
		if (!WAIT_FOR(synced[i][0] == flag)) {
			check(nm("processor %d serializes", i), 0, 1);
			finish();
		}
	}
}

static void run_poked(ulong at)
{
	struct cpu *c = me();
	u64 n = 0;

	c->handler = sync_asked;
	c->mark[0] = 1;
	sti();
	while (go) {
		/* in the middle of a round it is the old or the new; `least` is the round surely done */
		u64 from = least;
		asm volatile("" ::: "memory");
		u64 v = call(at);
		asm volatile("" ::: "memory");
		u64 to = least + 1, r;
		for (r = from; r <= to && v != value(r); r++)
			;
		if (r > to)
			xadd(v && v <= value(199) && v % 0x01010101 == 0 ? &stale : &wrong, 1);
		n++;
	}
	c->handler = 0;
	xadd(&runs, n);
}

static void poke_breakpoint(u8 *p, u64 r)
{
	u64 v = value(r);

	poked_at = (ulong)p;
	poke_value = v;
	asm volatile("mfence" ::: "memory");
	*(volatile u8 *)p = 0xcc;
	sync_all();
	for (u32 i = 0; i < 4; i++)
		((volatile u8 *)p)[1 + i] = v >> 8 * i;
	sync_all();
	*(volatile u8 *)p = 0xb8;
	sync_all();
}

static void poke_store(u8 *p, u64 r)
{
	/* with the instruction behind it: ret */
	asm volatile("movq %1,%0" : "=m"(*(u64 *)p) : "r"(0x9090c300000000b8 | value(r) << 8));
	sync_all();
}

static void poke_xchg(u8 *p, u64 r)
{
	u64 v = 0x9090c300000000b8 | value(r) << 8;
	asm volatile("xchgq %1,%0" : "+m"(*(u64 *)p), "+r"(v)::"memory");
	sync_all();
}

static void poke(const char *name, void (*fn)(u8 *p, u64 r), u32 offset)
{
	u8 *p = code + offset;

	wrong = stale = runs = traps = flag = 0;
	least = 0;
	go = 1;
	mp_trap = breakpoint;
	emit(p, value(0), 0);
	for (u32 i = 1; i < mp_started; i++) {
		synced[i][0] = cpus[i].mark[0] = 0;
		mp_call(i, run_poked, (ulong)p);
		WAIT_FOR(cpus[i].mark[0]);
	}
	for (u64 r = 1; r <= rounds; r++) {
		fn(p, r);
		least = r;
		if (call((ulong)p) != value(r))
			xadd(&stale, 1);
	}
	go = 0;
	for (u32 i = 1; i < mp_started; i++)
		mp_wait(i);
	mp_trap = 0;
	check(nm("%s at %x: never parts of two", name, offset), wrong, 0);
	check(nm("%s at %x: the old one never behind it", name, offset), stale, 0);
	if (fn == poke_breakpoint)
		say("%d breakpoints in %d runs\n", (int)traps, (int)runs);
}

int main(void)
{
	mp_init();
	rounds = mp_option("rounds", 20);
	if (mp_started < 2) {
		skip("one processor");
		return 0;
	}
	handed_over();
	beside();
	poke("breakpoint", poke_breakpoint, 0);
	poke("breakpoint", poke_breakpoint, 61);
	poke("breakpoint", poke_breakpoint, 4094);
	poke("8-byte store", poke_store, 512);
	poke("8-byte store, unaligned", poke_store, 512 + 5);
	poke("8-byte XCHG", poke_xchg, 4096);
	return 0;
}
