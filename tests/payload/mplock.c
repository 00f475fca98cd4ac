/*
 * Locked instructions of all processors on one operand: aligned, across cache
 * lines, across pages (SDM 3A, 9.1.2); no update may be lost. Locks made of
 * them, with plain stores to let go (9.2.2), with and without PAUSE.
 */
#include "mp.h"

static u8 memory[3 * 4096] __attribute__((aligned(4096)));
static struct barrier start;
static volatile u64 *word; /* what they are at */
static volatile u64 sum, sum2, wrong;
static u64 rounds, all_rounds;

static const struct {
	const char *name;
	u32 at;
} where[] = { { "aligned", 256 }, { "unaligned", 256 + 3 }, { "across lines", 256 + 61 }, { "across pages", 4093 } };

/* Each of these works on `word` for `rounds` rounds; the judge looks at it behind. */
static void do_xadd(struct cpu *c)
{
	u64 s = 0;
	(void)c;
	for (u64 i = 0; i < rounds; i++)
		s += xadd(word, 1);
	xadd(&sum, s);
}
static void judge_xadd(const char *name)
{
	u64 n = rounds * mp_started;
	check(nm("%s: the total", name), *word, n);
	check(nm("%s: each value once", name), sum, n * (n - 1) / 2);
}

#define SIMPLE(fn, insn)                                                                                               \
	static void fn(struct cpu *c)                                                                                  \
	{                                                                                                              \
		(void)c;                                                                                               \
		for (u64 i = 0; i < rounds; i++)                                                                       \
			asm volatile(insn : "+m"(*word)::"memory", "cc", "rax", "rbx", "rcx", "rdx");                  \
	}
SIMPLE(do_incq, "lock incq %0")
SIMPLE(do_incl, "lock incl %0")
SIMPLE(do_incw, "lock incw %0")
SIMPLE(do_add, "lock addq $1,%0")
SIMPLE(do_sub, "lock subq $-1,%0")
SIMPLE(do_adc, "stc; lock adcq $0,%0")
SIMPLE(do_xaddl, "mov $1,%%eax; lock xaddl %%eax,%0")
SIMPLE(do_xaddw, "mov $1,%%eax; lock xaddw %%ax,%0")
SIMPLE(do_cmpxchg, "mov %0,%%rax; 1: lea 1(%%rax),%%rcx; lock cmpxchgq %%rcx,%0; jnz 1b")
SIMPLE(do_cmpxchgl, "mov %0,%%eax; 1: lea 1(%%rax),%%ecx; lock cmpxchgl %%ecx,%0; jnz 1b")
/* the first comparison fails, and loads */
SIMPLE(do_cmpxchg8b, "mov $-1,%%eax; mov %%eax,%%edx; 1: mov %%eax,%%ebx; mov %%edx,%%ecx; add $1,%%ebx;"
		     "adc $0,%%ecx; lock cmpxchg8b %0; jnz 1b")
SIMPLE(do_cmpxchg16b, "mov $-1,%%rax; mov %%rax,%%rdx; 1: lea 1(%%rax),%%rbx; lea 1(%%rdx),%%rcx;"
		      "lock cmpxchg16b %0; jnz 1b")
static u64 mask_of(u64 v, u32 bits)
{
	return bits == 64 ? v : v & ((1ull << bits) - 1);
}
static u32 bits;
static void judge_count(const char *name)
{
	check(name, mask_of(*word, bits), mask_of(rounds * mp_started, bits));
	if (bits == 64 && word == (u64 *)(memory + 512))
		check(nm("%s: the upper half", name), word[1], rounds * mp_started);
}

/* Each turns its own bits over an even number of times, with OR, AND, XOR, BTS, BTR, BTC. */
static void do_bits(struct cpu *c)
{
	u64 mine = 1ull << (c->n % 32) | 1ull << (32 + c->n % 32), bad = 0;

	if (c->n >= 32)
		return;
	for (u64 i = 0; i < rounds; i++) {
		u8 was;
		asm volatile("lock orq %1,%0" : "+m"(*word) : "r"(mine) : "memory", "cc");
		bad += (*word & mine) != mine;
		asm volatile("lock xorq %1,%0" : "+m"(*word) : "r"(mine) : "memory", "cc");
		bad += (*word & mine) != 0;
		asm volatile("lock btsq %2,%0; setc %1" : "+m"(*word), "=q"(was) : "r"((u64)c->n) : "memory", "cc");
		bad += was;
		asm volatile("lock btcq %2,%0; setc %1"
			     : "+m"(*word), "=q"(was)
			     : "r"(32 + (u64)c->n)
			     : "memory", "cc");
		bad += was;
		bad += (*word & mine) != mine;
		asm volatile("lock btrq %2,%0; setc %1" : "+m"(*word), "=q"(was) : "r"((u64)c->n) : "memory", "cc");
		bad += !was;
		asm volatile("lock andq %1,%0" : "+m"(*word) : "r"(~mine) : "memory", "cc");
		bad += (*word & mine) != 0;
	}
	if (bad)
		xadd(&wrong, bad);
}
static void judge_bits(const char *name)
{
	check(name, wrong, 0);
	check(nm("%s: all are off", name), *word, 0);
}

/* Values go round by XCHG, none is lost or doubled: the sum of what all hold stays. XCHG locks by itself. */
static void do_xchg(struct cpu *c)
{
	u64 v = (c->n + 1) * 0x0101010101010101, ok = 0;

	for (u64 i = 0; i < rounds; i++) {
		asm volatile("xchgq %0,%1" : "+r"(v), "+m"(*word)::"memory");
		ok += v == (v & 0xff) * 0x0101010101010101; /* never parts of two */
	}
	xadd(&sum, v & 0xff);
	xadd(&wrong, rounds - ok);
}
static void judge_xchg(const char *name)
{
	check(nm("%s: none lost or doubled", name), sum + (*word & 0xff), (u64)mp_started * (mp_started + 1) / 2);
	check(nm("%s: never parts of two", name), wrong, 0);
}

/* NOT and NEG: an even number of each. */
static void do_not(struct cpu *c)
{
	(void)c;
	for (u64 i = 0; i < rounds / 2 * 2; i++)
		asm volatile("lock notq %0" : "+m"(*word)::"memory", "cc");
}
static void judge_not(const char *name)
{
	check(name, *word, 0);
}

static const struct {
	const char *name;
	void (*run)(struct cpu *c);
	void (*judge)(const char *name);
	u32 bits;
} ops[] = {
	{ "XADD", do_xadd, judge_xadd, 64 },
	{ "INC, 8 bytes", do_incq, judge_count, 64 },
	{ "INC, 4 bytes", do_incl, judge_count, 32 },
	{ "INC, 2 bytes", do_incw, judge_count, 16 },
	{ "ADD", do_add, judge_count, 64 },
	{ "SUB", do_sub, judge_count, 64 },
	{ "ADC", do_adc, judge_count, 64 },
	{ "XADD, 4 bytes", do_xaddl, judge_count, 32 },
	{ "XADD, 2 bytes", do_xaddw, judge_count, 16 },
	{ "CMPXCHG, 8 bytes", do_cmpxchg, judge_count, 64 },
	{ "CMPXCHG, 4 bytes", do_cmpxchgl, judge_count, 32 },
	{ "CMPXCHG8B", do_cmpxchg8b, judge_count, 64 },
	{ "OR, AND, XOR, BTS, BTR, BTC", do_bits, judge_bits, 64 },
	{ "XCHG", do_xchg, judge_xchg, 64 },
	{ "NOT", do_not, judge_not, 64 },
};

static void (*running)(struct cpu *c);
static void run_op(ulong unused)
{
	(void)unused;
	barrier(&start, mp_started);
	running(me());
}

static void one(const char *name, void (*run)(struct cpu *c), void (*judge)(const char *name), u32 at, u32 width)
{
	memset(memory, 0, sizeof(memory));
	word = (volatile u64 *)(memory + at);
	/* hosts make locks across lines dear on purpose, a fifth of a millisecond each */
	rounds = at % 64 > 56 ? all_rounds / 16 + 1 : all_rounds;
	sum = sum2 = wrong = 0;
	bits = width;
	running = run;
	mp_all(run_op, 0);
	judge(name);
}

/* Locks: two words that belong together, changed by plain instructions inside. */
static volatile u64 lock_word, ticket_next, ticket_now, first, second, torn;

static void spin_pause(void)
{
	u64 v;
	for (;;) {
		v = 1;
		asm volatile("xchg %0,%1" : "+r"(v), "+m"(lock_word)::"memory");
		if (!v)
			return;
		while (lock_word)
			pause();
	}
}
static void spin_plain(void)
{
	u8 taken;
	do
		asm volatile("lock btsq $0,%0; setc %1" : "+m"(lock_word), "=q"(taken)::"memory", "cc");
	while (taken);
}
static void spin_cmpxchg(void)
{
	u64 old;
	do {
		old = 0;
		asm volatile("lock cmpxchgq %2,%1" : "+a"(old), "+m"(lock_word) : "r"(1ul) : "memory", "cc");
		if (old)
			pause();
	} while (old);
}
static void spin_off(void)
{
	asm volatile("" ::: "memory");
	lock_word = 0;
}
static void ticket_on(void)
{
	u64 mine = xadd(&ticket_next, 1);
	while (ticket_now != mine)
		pause();
	asm volatile("" ::: "memory");
}
static void ticket_off(void)
{
	asm volatile("" ::: "memory");
	ticket_now = ticket_now + 1;
}

/* MCS: each waits at a word of its own. */
static struct mcs {
	struct mcs *volatile next;
	volatile u64 locked;
} __attribute__((aligned(64))) mcs[MP_MAX], *volatile mcs_tail;
static void mcs_on(void)
{
	struct mcs *m = &mcs[me()->n], *before = m;

	m->next = 0;
	m->locked = 1;
	asm volatile("xchg %0,%1" : "+r"(before), "+m"(mcs_tail)::"memory");
	if (!before)
		return;
	before->next = m;
	while (m->locked)
		pause();
}
static void mcs_off(void)
{
	struct mcs *m = &mcs[me()->n], *old = m;

	if (!m->next) {
		asm volatile("lock cmpxchgq %2,%1" : "+a"(old), "+m"(mcs_tail) : "r"(0ul) : "memory", "cc");
		if (old == m)
			return;
		while (!m->next)
			pause();
	}
	asm volatile("" ::: "memory");
	m->next->locked = 0;
}

/* Dekker's algorithm as Peterson has it, of two processors: store, MFENCE, load. */
static volatile u64 want[2][8], turn;
static void peterson_on(void)
{
	u32 i = me()->n;

	want[i][0] = 1;
	turn = !i;
	asm volatile("mfence" ::: "memory");
	while (want[!i][0] && turn == !i)
		pause();
}
static void peterson_off(void)
{
	asm volatile("" ::: "memory");
	want[me()->n][0] = 0;
}

static void (*lock_on)(void), (*lock_off)(void);
static u32 lockers;
static u64 lock_rounds;
static void contend(ulong unused)
{
	(void)unused;
	if (me()->n >= lockers)
		return;
	barrier(&start, lockers);
	for (u64 i = 0; i < lock_rounds; i++) {
		lock_on();
		asm volatile("" ::: "memory");
		u64 a = first, b = second;
		if (a != b)
			torn++;
		first = a + 1;
		for (u32 k = 0; k < i % 7; k++)
			asm volatile("");
		second = b + 1;
		asm volatile("" ::: "memory");
		lock_off();
	}
}

static void lock(const char *name, void (*on)(void), void (*off)(void), u32 n, u64 count)
{
	lock_on = on;
	lock_off = off;
	lockers = n < mp_started ? n : mp_started;
	lock_rounds = count;
	first = second = torn = lock_word = ticket_next = ticket_now = turn = 0;
	mp_all(contend, 0);
	check(nm("%s: nobody else is inside", name), torn, 0);
	check(nm("%s: nothing is lost", name), first, lockers * count);
}

int main(void)
{
	mp_init();
	all_rounds = mp_option("rounds", 1000);
	for (u32 i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		for (u32 w = 0; w < sizeof(where) / sizeof(where[0]); w++) {
			char name[64];
			const char *s = nm("%s, %s", ops[i].name, where[w].name);
			for (u32 k = 0; k < sizeof(name) && (name[k] = s[k]); k++)
				;
			one(name, ops[i].run, ops[i].judge, where[w].at, ops[i].bits);
		}
	}
	one("CMPXCHG16B", do_cmpxchg16b, judge_count, 512, 64);
	u64 n = all_rounds / 4;
	lock("spin lock, XCHG, PAUSE", spin_pause, spin_off, MP_MAX, n);
	lock("spin lock, BTS, no PAUSE", spin_plain, spin_off, MP_MAX, n);
	lock("spin lock, CMPXCHG", spin_cmpxchg, spin_off, MP_MAX, n);
	/* these hand over to one that may not run: fewer rounds */
	lock("ticket lock", ticket_on, ticket_off, MP_MAX, n / 8);
	lock("MCS lock", mcs_on, mcs_off, MP_MAX, n / 8);
	if (mp_started > 1)
		lock("Peterson's lock", peterson_on, peterson_off, 2, n);
	return 0;
}
