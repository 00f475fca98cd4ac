/*
 * Interrupts between processors and to each of them: fixed, lowest priority
 * and NMI, shorthands, physical and logical destinations in xAPIC and x2APIC
 * mode, held and masked, in service; from the IOAPIC; timers (SDM 3A, chapter
 * 11).
 *
 * TCG 7.2 differs from the manual in: no x2APIC, no TSC deadline; lowest
 * priority does not look at priorities, and a cluster's broadcast reaches nobody
 * (`qemu=1` leaves these out). KVM's APIC sends a lowest-priority message to
 * nobody if a processor that is not there is addressed with others, and does
 * not look at priorities either (`kvm=1`).
 */
#include "mp.h"

#define ALL ((mp_started == 64 ? 0 : 1ull << mp_started) - 1)
#define BIT(n) (1ull << (n))
#define PAUSE_TICKS 100000 /* what comes where it must not has come by then */

static u32 before[MP_MAX];
static u64 storm_rounds;

static void snapshot(u32 vec)
{
	for (u32 n = 0; n < mp_started; n++)
		before[n] = cpus[n].seen[vec];
}

/* Those of `who` have taken `vec` once since snapshot(), the others not. */
static void taken_by(const char *name, u32 vec, u64 who)
{
	u64 got = 0, twice = 0;

	for (u32 n = 0; n < mp_started; n++) {
		if (who >> n & 1)
			WAIT_FOR(cpus[n].seen[vec] != before[n]);
	}
	delay(PAUSE_TICKS);
	for (u32 n = 0; n < mp_started; n++) {
		got |= (u64)(cpus[n].seen[vec] != before[n]) << n;
		twice |= (u64)(cpus[n].seen[vec] - before[n] > 1) << n;
	}
	if (twice)
		check(nm("%s: once", name), twice, 0);
	check(name, got, who);
}

/* Send from any processor. */
static u32 send_dest, send_low;
static void send(ulong unused)
{
	(void)unused;
	icr(send_dest, send_low);
}

static void send_from(u32 n, u32 dest, u32 low)
{
	send_dest = dest;
	send_low = low | ICR_ASSERT;
	mp_call(n, send, 0);
	mp_wait(n);
}

static const char *mode(void)
{
	return x2apic() ? "x2APIC" : "xAPIC";
}

static void physical(void)
{
	u64 bad = 0;

	for (u32 from = 0; from < mp_started; from++) {
		if (from > 2 && from != mp_started - 1)
			continue;
		for (u32 to = 0; to < mp_started; to++) {
			u32 vec = 0x40 + to;
			snapshot(vec);
			send_from(from, cpus[to].apic, ICR_FIXED | vec);
			if (!WAIT_FOR(cpus[to].seen[vec] == before[to] + 1))
				bad++;
			for (u32 n = 0; n < mp_started; n++)
				bad += n != to && cpus[n].seen[vec] != before[n];
		}
	}
	check(nm("%s: fixed, physical, from and to any", mode()), bad, 0);
	snapshot(0x45);
	send_from(0, x2apic() ? ~0u : 0xff, ICR_FIXED | 0x45);
	taken_by(nm("%s: fixed, physical, broadcast", mode()), 0x45, ALL);
	if (!x2apic()) {
		snapshot(0x46);
		send_from(0, 0xfe, ICR_FIXED | 0x46);
		taken_by("xAPIC: an ID that nobody has", 0x46, 0);
	}
}

static void shorthands(void)
{
	u32 last = mp_started - 1;

	for (u32 from = 0; from <= last; from += last ? last : 1) {
		snapshot(0x50);
		send_from(from, 0, ICR_TO_SELF | 0x50);
		taken_by(nm("%s: shorthand self, from %d", mode(), from), 0x50, BIT(from));
		snapshot(0x51);
		send_from(from, 0, ICR_TO_ALL | 0x51);
		taken_by(nm("%s: shorthand all, from %d", mode(), from), 0x51, ALL);
		snapshot(0x52);
		send_from(from, cpus[0].apic, ICR_TO_OTHERS | 0x52);
		taken_by(nm("%s: shorthand all but self, from %d", mode(), from), 0x52, ALL & ~BIT(from));
		snapshot(NMI);
		send_from(from, 0, ICR_TO_OTHERS | ICR_NMI);
		taken_by(nm("%s: NMI to all but self, from %d", mode(), from), NMI, ALL & ~BIT(from));
	}
	if (x2apic()) {
		snapshot(0x53);
		wrmsr(0x83f, 0x53);
		taken_by("x2APIC: SELF IPI", 0x53, BIT(0));
	}
}

/* Logical destinations: those whose LDR answers, of up to 8 processors. */
static u64 logical_masks(u32 cluster, u32 members)
{
	u64 who = 0;

	for (u32 n = 0; n < mp_started && n < 60; n++) {
		if (n / 4 == cluster && (members >> (n % 4) & 1))
			who |= BIT(n);
	}
	return who;
}

static void flat(void)
{
	u64 bad = 0, first = mp_started < 8 ? ALL : 0xff;

	for (u32 m = 0; m < 256; m += m < 16 ? 1 : 15) {
		u32 vec = 0x60;
		snapshot(vec);
		icr(m, ICR_FIXED | ICR_LOGICAL | ICR_ASSERT | vec);
		/* FFH is everybody */
		u64 who = m == 0xff ? ALL : m & first;
		for (u32 n = 0; n < mp_started; n++) {
			if (who >> n & 1)
				bad += !WAIT_FOR(cpus[n].seen[vec] == before[n] + 1);
		}
		for (u32 n = 0; n < mp_started; n++)
			bad += !(who >> n & 1) && cpus[n].seen[vec] != before[n];
	}
	check("xAPIC: logical, flat", bad, 0);
}

static void to_cluster(ulong unused)
{
	u32 n = me()->n;

	(void)unused;
	apic_write(APIC_DFR, 0x0fffffff);
	apic_write(APIC_LDR, n < 60 ? (n / 4) << 28 | 1u << (24 + n % 4) : 0);
}

static void to_flat(ulong unused)
{
	(void)unused;
	apic_setup();
}

static void cluster(void)
{
	u64 bad = 0;

	mp_all(to_cluster, 0);
	for (u32 c = 0; c < 15 && c <= mp_started / 4; c++) {
		for (u32 m = 0; m < 16; m++) {
			u32 vec = 0x61;
			u64 who = logical_masks(c, m);
			snapshot(vec);
			icr(c << 4 | m, ICR_FIXED | ICR_LOGICAL | ICR_ASSERT | vec);
			for (u32 n = 0; n < mp_started; n++) {
				if (who >> n & 1)
					bad += !WAIT_FOR(cpus[n].seen[vec] == before[n] + 1);
			}
			for (u32 n = 0; n < mp_started; n++)
				bad += !(who >> n & 1) && cpus[n].seen[vec] != before[n];
		}
	}
	check("xAPIC: logical, cluster", bad, 0);
	if (mp_option("qemu", 0)) {
		mp_all(to_flat, 0);
		return;
	}
	snapshot(0x62);
	icr(0xff, ICR_FIXED | ICR_LOGICAL | ICR_ASSERT | 0x62);
	taken_by("xAPIC: logical, cluster, broadcast", 0x62, ALL);
	mp_all(to_flat, 0);
}

static void x2_logical(void)
{
	u64 bad = 0;

	for (u32 m = 1; m < 0x10000; m = m < 16 ? m + 1 : m * 2 + 1) {
		for (u32 c = 0; c <= cpus[mp_started - 1].apic >> 4; c++) {
			u32 vec = 0x63;
			snapshot(vec);
			icr(c << 16 | (m & 0xffff), ICR_FIXED | ICR_LOGICAL | ICR_ASSERT | vec);
			for (u32 n = 0; n < mp_started; n++) {
				u32 id = cpus[n].apic;
				if (id >> 4 == c && (m >> (id & 15) & 1))
					bad += !WAIT_FOR(cpus[n].seen[vec] == before[n] + 1);
			}
			for (u32 n = 0; n < mp_started; n++) {
				u32 id = cpus[n].apic;
				bad += !(id >> 4 == c && (m >> (id & 15) & 1)) && cpus[n].seen[vec] != before[n];
			}
		}
	}
	check("x2APIC: logical", bad, 0);
	snapshot(0x64);
	icr(~0u, ICR_FIXED | ICR_LOGICAL | ICR_ASSERT | 0x64);
	taken_by("x2APIC: logical, broadcast", 0x64, ALL);
}

static void set_tpr(ulong tpr)
{
	apic_write(APIC_TPR, tpr);
}

static void lowest(void)
{
	u64 total = 0, first = mp_started < 8 ? ALL : 0xff, wrong = 0;
	u32 dest = !x2apic() ? (u32)first : mp_option("kvm", 0) ? (u32)(ALL & 0xffff) : 0xffff;

	snapshot(0x68);
	for (u32 i = 0; i < 50; i++) {
		u64 want = i + 1;
		icr(dest, ICR_LOWEST | ICR_LOGICAL | ICR_ASSERT | 0x68);
		WAIT_FOR(({
			total = 0;
			for (u32 n = 0; n < mp_started; n++)
				total += cpus[n].seen[0x68] - before[n];
			total >= want;
		}));
	}
	check(nm("%s: lowest priority: one takes it", mode()), total, 50);
	if (mp_option("qemu", 0) || mp_option("kvm", 0)) {
		skip("lowest priority: the one");
		return;
	}
	for (u32 chosen = 0; chosen < mp_started && chosen < 8; chosen++) {
		for (u32 n = 0; n < mp_started; n++) {
			mp_call(n, set_tpr, n == chosen ? 0 : 0x50);
			mp_wait(n);
		}
		snapshot(0x69);
		icr(dest, ICR_LOWEST | ICR_LOGICAL | ICR_ASSERT | 0x69);
		wrong += !WAIT_FOR(cpus[chosen].seen[0x69] == before[chosen] + 1);
	}
	mp_all(set_tpr, 0);
	check(nm("%s: lowest priority: that with the lowest", mode()), wrong, 0);
}

/* Held: by IF, by priority, by what is in service. The target runs one of
 * these and says in mark[] how far it is; the BSP says when to go on. */
static volatile u32 stage;
static u8 order[16];
static volatile u32 ordered;

static void note(struct frame *f)
{
	if (ordered < sizeof(order))
		order[ordered] = f->vec;
	ordered++;
	apic_write(APIC_EOI, 0);
}

static void hold(ulong how)
{
	struct cpu *c = me();

	cli();
	c->handler = note;
	if (how == 1)
		apic_write(APIC_TPR, 0x70);
	if (how == 2)
		asm volatile("mov %0,%%cr8" ::"r"(7ul));
	if (how)
		sti();
	stage = 1;
	while (stage != 2)
		pause();
	c->mark[0] = apic_bit(APIC_IRR, 0x65);
	c->mark[1] = ordered;
	stage = 3;
	while (stage != 4)
		pause();
	if (how == 1)
		apic_write(APIC_TPR, 0);
	if (how == 2)
		asm volatile("mov %0,%%cr8" ::"r"(0ul));
	sti();
	for (u32 i = 0; i < 100; i++)
		pause();
	c->mark[2] = ordered;
	c->handler = 0;
}

static void held(u32 n)
{
	static const char *const by[] = { "IF", "TPR", "CR8" };
	struct cpu *c = &cpus[n];

	for (ulong how = 0; how < 3; how++) {
		stage = 0;
		ordered = 0;
		mp_call(n, hold, how);
		WAIT_FOR(stage == 1);
		icr(c->apic, ICR_ASSERT | 0x45);
		icr(c->apic, ICR_ASSERT | 0x65);
		icr(c->apic, ICR_ASSERT | 0x55);
		icr(c->apic, ICR_ASSERT | 0x65);
		if (how) {
			icr(c->apic, ICR_ASSERT | 0x85);
			check(nm("%s: above the priority it is taken", by[how]), WAIT_FOR(ordered), 1);
		}
		delay(PAUSE_TICKS);
		stage = 2;
		WAIT_FOR(stage == 3);
		check(nm("%s: %s holds interrupts", mode(), by[how]), c->mark[1], how ? 1 : 0);
		check(nm("%s: %s: they are in IRR", mode(), by[how]), c->mark[0], 1);
		stage = 4;
		mp_wait(n);
		u32 at = how ? 1 : 0;
		check(nm("%s: %s: each once, the highest first", mode(), by[how]),
		      (u64)c->mark[2] << 24 | order[at] << 16 | order[at + 1] << 8 | order[at + 2],
		      (u64)(3 + at) << 24 | 0x655545);
	}
}

/* In service: each processor ends its own. */
static void no_eoi(struct frame *f)
{
	struct cpu *c = me();

	if (f->vec == 0x71) {
		c->mark[0]++;
		sti();
		while (c->mark[1] != 1)
			pause();
		cli();
		c->mark[2] = c->seen[0x72];
		c->mark[3] = c->seen[0x81];
		c->mark[4] = apic_bit(APIC_ISR, 0x71);
		while (c->mark[1] != 2)
			pause();
		c->mark[5] = apic_bit(APIC_ISR, 0x71);
	}
	apic_write(APIC_EOI, 0);
}

static void service(ulong unused)
{
	struct cpu *c = me();

	(void)unused;
	c->handler = no_eoi;
	c->mark[6] = 1;
	sti();
	while (c->mark[1] != 3)
		pause();
	for (u32 i = 0; i < 100; i++)
		pause();
	c->handler = 0;
}

static void in_service(void)
{
	u32 n, last = mp_started - 1;

	if (mp_started < 3)
		return;
	for (n = 1; n <= last; n++) {
		for (u32 i = 0; i < 8; i++)
			cpus[n].mark[i] = 0;
		mp_call(n, service, 0);
		WAIT_FOR(cpus[n].mark[6]);
	}
	u32 seen72 = cpus[1].seen[0x72], seen81 = cpus[1].seen[0x81], last72 = cpus[last].seen[0x72];
	for (n = 1; n <= last; n++) {
		icr(cpus[n].apic, ICR_ASSERT | 0x71);
		WAIT_FOR(cpus[n].mark[0]);
	}
	icr(cpus[1].apic, ICR_ASSERT | 0x72);
	icr(cpus[1].apic, ICR_ASSERT | 0x81);
	check(nm("%s: in service: a higher class is nested", mode()), WAIT_FOR(cpus[1].seen[0x81] == seen81 + 1), 1);
	delay(PAUSE_TICKS);
	cpus[1].mark[1] = 1;
	WAIT_FOR(cpus[1].mark[4]);
	check(nm("%s: in service: the same class waits", mode()), cpus[1].mark[2], seen72);
	cpus[1].mark[1] = 2;
	check(nm("%s: ended: what waited comes", mode()), WAIT_FOR(cpus[1].seen[0x72] == seen72 + 1), 1);
	/* the last one is still in service */
	icr(cpus[last].apic, ICR_ASSERT | 0x72);
	delay(PAUSE_TICKS);
	check(nm("%s: another's end of interrupt is not mine", mode()), cpus[last].seen[0x72], last72);
	for (n = 2; n <= last; n++) {
		cpus[n].mark[1] = 1;
		WAIT_FOR(cpus[n].mark[4]);
		cpus[n].mark[1] = 2;
	}
	for (n = 1; n <= last; n++)
		WAIT_FOR(cpus[n].mark[5]);
	check(nm("%s: and it is in service to its own", mode()), cpus[last].mark[5], 1);
	for (n = 1; n <= last; n++) {
		cpus[n].mark[1] = 3;
		mp_wait(n);
	}
	check(nm("%s: the last one's comes then", mode()), cpus[last].seen[0x72], last72 + 1);
}

/* NMIs: to a halted processor with interrupts off, and not within one. */
static volatile u32 nmi_depth, nmi_nested, nmi_go;
static void nmi_slow(struct frame *f)
{
	if (f->vec != NMI) {
		apic_write(APIC_EOI, 0);
		return;
	}
	nmi_nested += nmi_depth++;
	while (!nmi_go)
		pause();
	nmi_depth--;
}

static void off_and_halted(ulong slow)
{
	struct cpu *c = me();

	cli();
	if (slow)
		c->handler = nmi_slow;
	c->mark[0] = 1;
	asm volatile("hlt" ::: "memory");
	if (slow) {
		/* the second one, held during the first */
		for (u32 i = 0; i < 100; i++)
			pause();
	}
	c->mark[1] = c->seen[NMI];
	c->handler = 0;
	c->mark[0] = 2;
}

static void nmis(u32 n)
{
	struct cpu *c = &cpus[n];
	u32 seen = c->seen[NMI];

	c->mark[0] = 0;
	mp_call(n, off_and_halted, 0);
	WAIT_FOR(c->mark[0] == 1);
	delay(PAUSE_TICKS);
	icr(c->apic, ICR_ASSERT | 0x70);
	delay(PAUSE_TICKS);
	check("halted with interrupts off: no fixed interrupt wakes", c->mark[0], 1);
	icr(c->apic, ICR_ASSERT | ICR_NMI);
	check("halted with interrupts off: an NMI wakes", WAIT_FOR(c->mark[0] == 2), 1);
	check("one NMI", c->mark[1], seen + 1);
	mp_wait(n);
	c->mark[0] = 0;
	nmi_go = nmi_nested = 0;
	mp_call(n, off_and_halted, 1);
	WAIT_FOR(c->mark[0] == 1);
	icr(c->apic, ICR_ASSERT | ICR_NMI);
	WAIT_FOR(nmi_depth == 1);
	for (u32 i = 0; i < 3; i++)
		icr(c->apic, ICR_ASSERT | ICR_NMI);
	delay(PAUSE_TICKS);
	nmi_go = 1;
	WAIT_FOR(c->mark[0] == 2);
	check("NMIs within one wait for its IRET", nmi_nested, 0);
	check("and are one then", c->mark[1], seen + 3);
	mp_wait(n);
}

/* The PIT through pin 2 of the IOAPIC, to each. */
static void ioapic(u32 reg, u32 v)
{
	*(volatile u32 *)(ulong)mp_ioapic = reg;
	*(volatile u32 *)(mp_ioapic + 0x10ul) = v;
}

static void routed(void)
{
	u32 bad = 0, astray = 0, pin = 0x10 + 2 * 2;
	u32 count = 1193182 / 500;

	outb(0x43, 0x34);
	outb(0x40, count & 0xff);
	outb(0x40, count >> 8);
	for (u32 to = 0; to < mp_started; to++) {
		snapshot(0xc0 + to);
		ioapic(pin, 0x10000);
		ioapic(pin + 1, cpus[to].apic << 24);
		ioapic(pin, 0xc0 + to);
		bad += !WAIT_FOR(cpus[to].seen[0xc0 + to] >= before[to] + 3);
		ioapic(pin, 0x10000);
		delay(PAUSE_TICKS);
		for (u32 n = 0; n < mp_started; n++)
			astray += n != to && cpus[n].seen[0xc0 + to] != before[n];
	}
	check("IOAPIC: to each processor, physical", bad, 0);
	check("IOAPIC: to no other", astray, 0);
	if (x2apic())
		return;
	bad = 0;
	for (u32 to = 0; to < mp_started && to < 8; to++) {
		snapshot(0xd0 + to);
		ioapic(pin + 1, 1u << (24 + to));
		ioapic(pin, 0x8d0 + to);
		bad += !WAIT_FOR(cpus[to].seen[0xd0 + to] >= before[to] + 3);
		ioapic(pin, 0x10000);
		delay(PAUSE_TICKS);
		for (u32 n = 0; n < mp_started; n++)
			bad += n != to && cpus[n].seen[0xd0 + to] != before[n];
	}
	check("IOAPIC: logical, fixed", bad, 0);
	snapshot(0x92);
	ioapic(pin + 1, 0xffu << 24);
	ioapic(pin, 0x992);
	u32 total = 0;
	WAIT_FOR(({
		total = 0;
		for (u32 n = 0; n < mp_started; n++)
			total += cpus[n].seen[0x92] - before[n];
		total >= 5;
	}));
	ioapic(pin, 0x10000);
	check("IOAPIC: logical, lowest priority", total >= 5, 1);
	outb(0x43, 0x30);
}

/* Timers, all at once: each counts for itself. */
static void timer_one_shot(ulong unused)
{
	struct cpu *c = me();
	u32 seen = c->seen[0xa0];

	(void)unused;
	sti();
	apic_write(APIC_DIVIDE, 0xb); /* by 1 */
	apic_write(APIC_TIMER, 0xa0);
	for (u32 i = 1; i <= storm_rounds; i++) {
		/* one that is over at once, too */
		apic_write(APIC_INITIAL, i % 2 ? 1 : 20000 * (c->n + 1));
		/* the count is short if one does not come */
		if (!WAIT_FOR(c->seen[0xa0] == seen + i))
			break;
	}
	delay(PAUSE_TICKS);
	c->mark[1] = c->seen[0xa0] - seen;
	apic_write(APIC_TIMER, 0x10000);
}

static void timer_periodic(ulong unused)
{
	struct cpu *c = me();
	u32 seen = c->seen[0xa1];

	(void)unused;
	sti();
	apic_write(APIC_TIMER, 0x200a1);
	apic_write(APIC_INITIAL, 200000);
	/* halted between */
	while (c->seen[0xa1] - seen < 10) {
		cli();
		if (c->seen[0xa1] - seen < 10)
			asm volatile("sti; hlt" ::: "memory");
		sti();
	}
	apic_write(APIC_TIMER, 0x10000);
	apic_write(APIC_INITIAL, 0);
	seen = c->seen[0xa1];
	delay(PAUSE_TICKS);
	c->mark[0] = c->seen[0xa1] - seen;
}

static void timer_deadline(ulong unused)
{
	struct cpu *c = me();
	u32 seen = c->seen[0xa2];
	u64 early = 0;

	(void)unused;
	sti();
	apic_write(APIC_TIMER, 0x400a2);
	asm volatile("mfence" ::: "memory");
	for (u32 i = 1; i <= 5; i++) {
		u64 when = rdtsc() + 100000 * (c->n + 1);
		wrmsr(MSR_TSC_DEADLINE, when);
		cli();
		while (c->seen[0xa2] != seen + i) {
			asm volatile("sti; hlt" ::: "memory");
			cli();
		}
		sti();
		early += rdtsc() < when;
	}
	/* one that is taken back in time never comes; again where the host let it pass meanwhile */
	u32 came = c->seen[0xa2] - seen;
	u64 when;
	do {
		seen = c->seen[0xa2];
		when = rdtsc() + 200000;
		wrmsr(MSR_TSC_DEADLINE, when);
		wrmsr(MSR_TSC_DEADLINE, 0);
	} while (rdtsc() >= when);
	delay(2 * PAUSE_TICKS);
	c->mark[0] = early;
	c->mark[1] = came + (c->seen[0xa2] - seen);
	apic_write(APIC_TIMER, 0x10000);
}

static u64 sum_of(u32 mark)
{
	u64 s = 0;
	for (u32 n = 0; n < mp_started; n++)
		s += cpus[n].mark[mark];
	return s;
}

static void timers(void)
{
	mp_all(timer_one_shot, 0);
	check(nm("%s: timers, one-shot, on all at once", mode()), sum_of(1), storm_rounds * mp_started);
	mp_all(timer_periodic, 0);
	check(nm("%s: timers, periodic: none after its end", mode()), sum_of(0), 0);
	if (!(cpuid_reg(1, 0, 2) >> 24 & 1)) {
		skip("TSC deadline");
		return;
	}
	mp_all(timer_deadline, 0);
	check(nm("%s: TSC deadlines: none early", mode()), sum_of(0), 0);
	check(nm("%s: TSC deadlines: as many as were set", mode()), sum_of(1), 5 * mp_started);
}

/* Interrupts sent to and fro by all at once: none is lost while it is waited for. */
static void storm(ulong unused)
{
	struct cpu *c = me();
	u32 seed = c->n * 7919 + 1;

	(void)unused;
	sti();
	for (u64 i = 0; i < storm_rounds; i++) {
		seed = seed * 1103515245 + 12345;
		struct cpu *to = &cpus[(seed >> 8) % mp_started];
		u32 vec = 0xb0 + (c->n & 31); /* one vector for each sender: theirs do not fall into one */
		u32 had = to->seen[vec];
		icr(to->apic, ICR_ASSERT | vec);
		if (!WAIT_FOR(to->seen[vec] != had))
			c->mark[2]++;
	}
}

int main(void)
{
	mp_init();
	if (mp_started > 16) {
		/* vectors and waits are for less */
		skip("more than 16 processors");
		return 0;
	}
	storm_rounds = mp_option("rounds", 200);
	for (u32 mode = 0; mode < 2; mode++) {
		if (mode && !has_x2apic()) {
			skip("x2APIC");
			break;
		}
		if (mode)
			mp_all(x2apic_enter, 0);
		physical();
		shorthands();
		if (mode) {
			x2_logical();
		} else {
			flat();
			cluster();
		}
		lowest();
		if (mp_started > 1) {
			held(mp_started - 1);
			nmis(1);
		}
		in_service();
		routed();
		timers();
		for (u32 n = 0; n < mp_started; n++)
			cpus[n].mark[2] = 0;
		mp_all(storm, 0);
		check(nm("%d interrupts of each to any", (int)storm_rounds), sum_of(2), 0);
	}
	u64 spurious = 0;
	for (u32 n = 0; n < mp_started; n++)
		spurious += cpus[n].seen[VEC_SPURIOUS];
	check("no spurious interrupt", spurious, 0);
	return 0;
}
