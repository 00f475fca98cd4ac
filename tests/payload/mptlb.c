/*
 * Translations of several processors (SDM 3A, 4.10): pages remapped, taken
 * away and protected while others use them, with the shootdown by interrupt
 * that systems do; accessed and dirty flags of an entry that several
 * processors walk (4.8), against locked updates of the same entry.
 */
#include "mp.h"

#define VEC_FLUSH 0x31
#define P_P 1ull
#define P_RW 2ull
#define P_A 0x20ull
#define P_D 0x40ull
#define P_PS 0x80ull
#define P_G 0x100ull
/* 4 KiB pages here, 2 MiB pages there: addresses beyond RAM, mapped to where RAM is. */
#define SMALL 0x40000000ul
#define LARGE 0x40200000ul
#define LARGE_RAM 0x2000000ul /* two pages, of 2 MiB */
#define AT 0x123008ul	      /* the word of them */

extern u64 pd[];
static volatile u64 pt[512] __attribute__((aligned(4096)));
static volatile u64 page[4][512] __attribute__((aligned(4096)));
static volatile u64 acked[MP_MAX][8] __attribute__((aligned(64))); /* [n][0] */
static volatile u64 now, go, bad_value, stale, reads;
static u64 rounds;
/* How the processors flush, in turn. */
enum { BY_INVLPG, BY_CR3, BY_PGE, BY_INVPCID, METHODS };
static volatile u32 method;
static volatile ulong flush_at;
static const char *const method_name[] = { "INVLPG", "CR3", "CR4.PGE", "INVPCID" };

static void flush(void)
{
	struct {
		u64 pcid, address;
	} d = { 0, flush_at };

	switch (method) {
	case BY_INVLPG:
		asm volatile("invlpg (%0)" ::"r"(flush_at) : "memory");
		break;
	case BY_CR3:
		set_cr3(cr3());
		break;
	case BY_PGE:
		set_cr4(cr4() ^ 0x80);
		set_cr4(cr4() ^ 0x80);
		break;
	case BY_INVPCID:
		asm volatile("invpcid %0,%1" ::"m"(d), "r"(2ul) : "memory");
		break;
	}
}

static void flush_asked(struct frame *f)
{
	if (f->vec == VEC_FLUSH) {
		u64 r = now;
		flush();
		acked[me()->n][0] = r;
	}
	apic_write(APIC_EOI, 0);
}

/* Everybody has flushed; the processors from 1 on run something that waits for it. */
static void shootdown(void)
{
	icr(0, ICR_TO_OTHERS | ICR_ASSERT | VEC_FLUSH);
	flush();
	for (u32 n = 1; n < mp_started; n++) {
		if (!WAIT_FOR(acked[n][0] == now)) {
			check(nm("processor %d flushes", n), 0, 1);
			finish();
		}
	}
}

/* What a page holds as round r's: the number, or a function that gives it. */
static u64 content(u64 r, int code)
{
	return code ? 0xb8 | r << 8 | 0xc3ull << 40 : r;
}

#define EXECUTE 1ul
static u64 fetch(ulong at)
{
	u64 v;

	if (!(at & EXECUTE))
		return *(volatile u64 *)at;
	asm volatile("call *%1" : "=a"(v) : "r"(at & ~EXECUTE) : "memory", "cc");
	return v;
}

static void read_on(ulong at)
{
	struct cpu *c = me();
	u64 last = 0, seen = 0, n = 0;

	c->handler = flush_asked;
	c->mark[0] = 1;
	sti();
	while (go) {
		u64 least = acked[c->n][0];
		asm volatile("" ::: "memory");
		u64 v = fetch(at);
		asm volatile("" ::: "memory");
		u64 most = now;
		if (v > most)
			xadd(&bad_value, 1);
		if (v < least)
			xadd(&stale, 1);
		seen += v != last;
		last = v;
		n++;
	}
	c->handler = 0;
	xadd(&reads, seen);
}

static void begin(void (*fn)(ulong), ulong arg)
{
	go = 1;
	for (u32 n = 1; n < mp_started; n++) {
		cpus[n].mark[0] = 0;
		mp_call(n, fn, arg);
		WAIT_FOR(cpus[n].mark[0]);
	}
}

static void end(void)
{
	go = 0;
	for (u32 n = 1; n < mp_started; n++)
		mp_wait(n);
}

/* Global ones, too; and global pages are on behind it. */
static void flush_all(ulong unused)
{
	(void)unused;
	set_cr4(cr4() & ~0x80ul);
	set_cr4(cr4() | 0x80);
}

/* Round r's page holds r. */
static void remap(int large, int code)
{
	bad_value = stale = reads = now = 0;
	for (u32 n = 0; n < MP_MAX; n++)
		acked[n][0] = 0;
	flush_at = large ? LARGE + AT : SMALL;
	u64 global = method == BY_CR3 ? 0 : P_G;
	page[0][0] = *(volatile u64 *)(LARGE_RAM + AT) = content(0, code);
	pt[0] = (ulong)page[0] | P_P | P_RW | P_A | P_D;
	pd[LARGE >> 21] = LARGE_RAM | P_P | P_RW | P_PS | P_A | P_D;
	mp_all(flush_all, 0);
	now = 1;
	page[1][0] = *(volatile u64 *)(LARGE_RAM + (1 << 21) + AT) = content(1, code);
	begin(read_on, flush_at | (code ? EXECUTE : 0));
	for (u64 r = 1; r <= rounds; r++) {
		/* what `now` says may be seen from before the entry is written */
		page[r % 4][0] = content(r, code);
		if (large)
			*(volatile u64 *)(LARGE_RAM + (r % 2 << 21) + AT) = content(r, code);
		now = r;
		asm volatile("mfence" ::: "memory");
		if (large)
			*(volatile u64 *)&pd[LARGE >> 21] =
			    (LARGE_RAM + (r % 2 << 21)) | P_P | P_RW | P_PS | P_A | P_D | global;
		else
			pt[0] = (ulong)page[r % 4] | P_P | P_RW | P_A | P_D | global;
		shootdown();
		if (fetch(flush_at | (code ? EXECUTE : 0)) != r)
			xadd(&stale, 1);
	}
	end();
	check(nm("remap, %s, %s, %s: no value of another page", large ? "2 MiB" : "4 KiB", code ? "code" : "data",
		 method_name[method]),
	      bad_value, 0);
	check(nm("remap, %s, %s, %s: none stale behind the flush", large ? "2 MiB" : "4 KiB", code ? "code" : "data",
		 method_name[method]),
	      stale, 0);
	check(nm("remap, %s, %s, %s: they did see it", large ? "2 MiB" : "4 KiB", code ? "code" : "data",
		 method_name[method]),
	      reads > 0, 1);
}

/* Writers: behind the flush nothing goes to the old page, be the entry another, read-only or not present. */
static volatile u64 faults;
static int page_fault(struct frame *f)
{
	if (f->vec != PF || cr2() - SMALL >= 4096)
		return 0;
	xadd(&faults, 1);
	/* it goes on, or comes again; let the flush in, as a system does that waits for a lock */
	sti();
	for (u32 i = 0; i < 20; i++)
		pause();
	cli();
	return 1;
}

static void write_on(ulong at)
{
	struct cpu *c = me();

	c->handler = flush_asked;
	c->mark[0] = 1;
	sti();
	while (go)
		++*(volatile u64 *)(at + c->n * 8);
	c->handler = 0;
}

static void take_away(const char *how, u64 (*entry)(u32 r), int faulting)
{
	u64 changed = 0, stuck = 0;

	method = BY_INVLPG;
	flush_at = SMALL;
	now = faults = 0;
	memset((void *)page, 0, sizeof(page));
	pt[0] = (ulong)page[0] | P_P | P_RW;
	flush();
	begin(write_on, SMALL);
	mp_trap = page_fault;
	for (u32 r = 1; r <= rounds / 4 + 4; r++) {
		volatile u64 *old = page[(r - 1) % 2];
		u64 copy[MP_MAX];
		now = r;
		asm volatile("mfence" ::: "memory");
		pt[0] = entry(r);
		shootdown();
		for (u32 n = 1; n < mp_started; n++)
			copy[n] = old[n];
		delay(30000);
		for (u32 n = 1; n < mp_started; n++)
			changed += old[n] != copy[n];
		volatile u64 *next = page[r % 2];
		pt[0] = (ulong)next | P_P | P_RW;
		now = r + 1000000;
		shootdown();
		/* processor 1 goes on with the new one */
		u64 was = next[1];
		stuck += !WAIT_FOR(next[1] != was);
	}
	end();
	mp_trap = 0;
	check(nm("%s: nothing is written behind the flush", how), changed, 0);
	check(nm("%s: writers go on", how), stuck, 0);
	if (faulting)
		check(nm("%s: they fault", how), faults > 0, 1);
}

static u64 other(u32 r)
{
	return (ulong)page[2 + r % 2] | P_P | P_RW;
}
static u64 read_only(u32 r)
{
	return (ulong)page[(r - 1) % 2] | P_P;
}
static u64 absent(u32 r)
{
	(void)r;
	return 0;
}

/*
 * An entry's flags are set by the walks of all others, while this processor
 * clears them and counts in the bits that are the system's, by locked
 * operations: the count must come out.
 */
static void walk_on(ulong write)
{
	struct cpu *c = me();

	c->mark[0] = 1;
	sti();
	while (go) {
		asm volatile("invlpg (%0)" ::"r"(SMALL) : "memory");
		if (write)
			((volatile u64 *)SMALL)[c->n] = 1;
		else
			(void)((volatile u64 *)SMALL)[c->n];
	}
}

static void flags_of_entry(int write)
{
	u64 n = rounds * 100, set = 0;

	pt[0] = (ulong)page[0] | P_P | P_RW;
	asm volatile("invlpg (%0)" ::"r"(SMALL) : "memory");
	begin(walk_on, write);
	u64 start = rdtsc();
	/* until a walk has come between, if it takes the others so long to run at all */
	for (u64 i = 0; i < n || (!set && rdtsc() - start < MP_LIMIT); i++) {
		asm volatile("lock addq %1,%0" : "+m"(pt[0]) : "r"(1ull << 52) : "cc");
		if (i % 4 == 0) {
			set += !!(pt[0] & (write ? P_D : P_A));
			asm volatile("lock andq %1,%0" : "+m"(pt[0]) : "r"(~(P_A | P_D)) : "cc");
		}
		/* bits 52 to 58 are the system's */
		if ((i + 1) % 64 == 0) {
			if ((pt[0] >> 52 & 0x7f) != 64) {
				check(nm("flags of an entry, %s: the count beside them", write ? "dirty" : "accessed"),
				      pt[0] >> 52 & 0x7f, 64);
				end();
				return;
			}
			asm volatile("lock andq %1,%0" : "+m"(pt[0]) : "r"(~(0x7full << 52)) : "cc");
		}
	}
	end();
	check(nm("flags of an entry, %s: no locked update is lost", write ? "dirty" : "accessed"),
	      pt[0] & 0x000ffffffffff000ull, (ulong)page[0]);
	check(nm("flags of an entry, %s: they are set again and again", write ? "dirty" : "accessed"), set > 0, 1);
}

/*
 * What a system does to unmap: it exchanges the entry for 0 and then asks the
 * dirty flag whether the page must be written back. A write that came through
 * must be in it, though the writer had the clean entry cached.
 */
static struct barrier both;
static volatile u64 wrote_faulted;
static int lost_fault(struct frame *f)
{
	if (f->vec != PF || cr2() - SMALL >= 4096)
		return 0;
	wrote_faulted = 1;
	f->ip += 3; /* mov %rax,(%rdx) */
	return 1;
}

static void dirty_writer(ulong n)
{
	for (u64 r = 1; r <= n; r++) {
		barrier(&both, 2);
		asm volatile("invlpg (%0)" ::"r"(SMALL) : "memory");
		(void)*(volatile u64 *)SMALL; /* clean, and cached */
		barrier(&both, 2);
		for (u32 i = 0; i < r * 7 % 61; i++)
			asm volatile("");
		asm volatile("mov %0,(%1)" ::"a"(r), "d"(SMALL) : "memory");
		barrier(&both, 2);
	}
}

static void dirty_lost(void)
{
	u64 lost = 0, ghosts = 0, through = 0, clean = 0, n = rounds * 10;

	mp_trap = lost_fault;
	mp_call(1, dirty_writer, n);
	for (u64 r = 1; r <= n; r++) {
		wrote_faulted = 0;
		page[0][0] = 0;
		pt[0] = (ulong)page[0] | P_P | P_RW | P_A;
		barrier(&both, 2);
		barrier(&both, 2);
		for (u32 i = 0; i < r * 11 % 53; i++)
			asm volatile("");
		u64 old = 0;
		asm volatile("xchg %0,%1" : "+r"(old), "+m"(pt[0])::"memory");
		barrier(&both, 2);
		if (page[0][0] == r) {
			through++;
			lost += !(old & P_D);
			ghosts += wrote_faulted;
		} else {
			clean++;
			ghosts += !wrote_faulted;
		}
	}
	mp_wait(1);
	mp_trap = 0;
	say("unmapped under a writer: %d writes came through, %d faulted\n", (int)through, (int)clean);
	check("unmapped under a writer: no write without the dirty flag", lost, 0);
	check("unmapped under a writer: it is written, or it faults", ghosts, 0);
}

int main(void)
{
	mp_init();
	rounds = mp_option("rounds", 30);
	pd[SMALL >> 21] = (ulong)pt | P_P | P_RW;
	if (mp_started < 2) {
		skip("one processor");
		return 0;
	}
	mp_all(flush_all, 0);
	for (method = 0; method < METHODS; method++) {
		if (method == BY_INVPCID && !(cpuid_reg(7, 0, 1) >> 10 & 1)) {
			skip("INVPCID");
			continue;
		}
		for (int kind = 0; kind < 4; kind++)
			remap(kind & 1, kind >> 1);
	}
	take_away("another page", other, 0);
	take_away("read-only", read_only, 1);
	take_away("not present", absent, 1);
	flags_of_entry(0);
	flags_of_entry(1);
	dirty_lost();
	return 0;
}
