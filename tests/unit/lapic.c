/* Local APICs: priorities, destinations, timer, modes, state. Three of them on
 * one bus with a virtual clock, driven through the page and the MSRs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dev/chipset/lapic.h"

#define CPUS 3
#define BASE_ENABLED (LAPIC_DEFAULT_BASE | 0x800)
#define BASE_X2 (LAPIC_DEFAULT_BASE | 0xc00)

struct fixture {
	struct board board;
	struct lapic_bus *bus;
	u64 icount;
	unsigned current;
	u64 tsc_offset;
	unsigned intr[CPUS], nmi[CPUS], init[CPUS], sipi[CPUS];
	u8 sipi_vector, eoi_vector;
	unsigned eois;
	int pic_vector;
};

static void on_intr(void *o, unsigned cpu)
{
	((struct fixture *)o)->intr[cpu]++;
}
static void on_nmi(void *o, unsigned cpu)
{
	((struct fixture *)o)->nmi[cpu]++;
}
static void on_init(void *o, unsigned cpu)
{
	((struct fixture *)o)->init[cpu]++;
}
static void on_sipi(void *o, unsigned cpu, u8 vector)
{
	((struct fixture *)o)->sipi[cpu]++;
	((struct fixture *)o)->sipi_vector = vector;
}
static int on_pic_ack(void *o)
{
	return ((struct fixture *)o)->pic_vector;
}
static void on_eoi(void *o, u8 vector)
{
	((struct fixture *)o)->eoi_vector = vector;
	((struct fixture *)o)->eois++;
}
static u64 tsc_offset(void *o, unsigned cpu)
{
	return ((struct fixture *)o)->tsc_offset;
}
static unsigned current(void *o)
{
	return ((struct fixture *)o)->current;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const struct lapic_wiring w = { .opaque = f,
					.cpus = CPUS,
					.phys_bits = 40,
					.x2apic = true,
					.tsc_deadline = true,
					.intr = on_intr,
					.nmi = on_nmi,
					.init = on_init,
					.sipi = on_sipi,
					.pic_ack = on_pic_ack,
					.eoi = on_eoi,
					.tsc_offset = tsc_offset,
					.current = current };

	f->board.mem = memory_create(1 * MiB, NULL);
	f->board.clock = clock_create(CLOCK_KIND_VIRTUAL, NULL, &f->icount, 2000000000);
	f->bus = lapic_bus_create(&f->board, &w);
	*state = f;
	return f->bus ? 0 : -1;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (struct device *d = f->board.first, *next; d; d = next) {
		next = d->next;
		d->ops->destroy(d);
	}
	clock_destroy(f->board.clock);
	memory_destroy(f->board.mem);
	free(f);
	return 0;
}

static u32 rd(struct fixture *f, unsigned cpu, u32 reg)
{
	u32 v = 0;

	f->current = cpu;
	memory_read(f->board.mem, LAPIC_DEFAULT_BASE + reg, &v, 4);
	return v;
}

static void wr(struct fixture *f, unsigned cpu, u32 reg, u32 val)
{
	f->current = cpu;
	memory_write(f->board.mem, LAPIC_DEFAULT_BASE + reg, &val, 4);
}

static struct lapic *on(struct fixture *f, unsigned cpu)
{
	return lapic_of(f->bus, cpu);
}

static void enable_all(struct fixture *f)
{
	for (unsigned i = 0; i < CPUS; i++)
		wr(f, i, 0xf0, 0x1ff);
}

static bool send(struct fixture *f, u32 dest, bool logical, enum apic_delivery_mode mode, u8 vector)
{
	struct apic_message m = { .dest = dest, .logical = logical, .mode = mode, .vector = vector };

	return lapic_deliver(f->bus, &m);
}

/* Which processors got `vector`, as a mask; acknowledges and ends it. */
static unsigned got(struct fixture *f, u8 vector)
{
	unsigned mask = 0;

	for (unsigned i = 0; i < CPUS; i++) {
		if (!lapic_pending(on(f, i)))
			continue;
		assert_int_equal(lapic_ack(on(f, i)), vector);
		mask |= 1u << i;
		if (lapic_base(on(f, i)) & 0x400)
			assert_int_equal(lapic_msr_write(on(f, i), 0x80b, 0), 0);
		else
			wr(f, i, 0xb0, 0);
	}
	return mask;
}

static void test_reset(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(lapic_base(on(f, 0)), BASE_ENABLED | 0x100);
	assert_int_equal(lapic_base(on(f, 1)), BASE_ENABLED);
	assert_int_equal(rd(f, 2, 0x20), 2u << 24);
	assert_int_equal(rd(f, 0, 0x30), 0x50014);
	assert_int_equal(rd(f, 0, 0xf0), 0xff);
	assert_int_equal(rd(f, 0, 0xe0), 0xffffffff);
	for (u32 reg = 0x320; reg <= 0x370; reg += 0x10)
		assert_int_equal(rd(f, 0, reg), 0x10000);
	/* Soft-disabled: nothing is accepted, LVT masks stay. */
	assert_false(send(f, 0, false, APIC_FIXED, 0x40));
	wr(f, 0, 0x350, 0x700);
	assert_int_equal(rd(f, 0, 0x350), 0x10700);
	lapic_setup_virtual_wire(on(f, 0));
	assert_int_equal(rd(f, 0, 0x350), 0x700);
	assert_int_equal(rd(f, 0, 0x360), 0x400);
}

static void test_priority(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = on(f, 0);

	enable_all(f);
	assert_false(lapic_pending(l));
	assert_int_equal(lapic_ack(l), -1);
	send(f, 0, false, APIC_FIXED, 0x45);
	assert_int_equal(f->intr[0], 1);
	send(f, 0, false, APIC_FIXED, 0x81);
	send(f, 0, false, APIC_FIXED, 0x4f);
	assert_int_equal(rd(f, 0, 0x220), 0x8020);
	assert_int_equal(lapic_ack(l), 0x81);
	assert_int_equal(rd(f, 0, 0xa0), 0x80);
	assert_false(lapic_pending(l)); /* lower class waits */
	wr(f, 0, 0xb0, 0);
	assert_int_equal(lapic_ack(l), 0x4f);
	assert_false(lapic_pending(l)); /* same class waits too */
	wr(f, 0, 0xb0, 0);
	wr(f, 0, 0x80, 0x40);
	assert_false(lapic_pending(l));
	unsigned before = f->intr[0];

	lapic_cr8_write(l, 3);
	assert_true(f->intr[0] > before);
	assert_int_equal(rd(f, 0, 0x80), 0x30);
	assert_int_equal(lapic_cr8_read(l), 3);
	assert_int_equal(lapic_ack(l), 0x45);
	wr(f, 0, 0xb0, 0);
	assert_int_equal(f->eois, 0);
	/* Illegal vector */
	wr(f, 0, 0x370, 0x33);
	send(f, 0, false, APIC_FIXED, 5);
	assert_int_equal(lapic_ack(l), -1); /* 33H is not above TPR 30H */
	lapic_cr8_write(l, 0);
	assert_int_equal(lapic_ack(l), 0x33);
	wr(f, 0, 0x280, 0);
	assert_int_equal(rd(f, 0, 0x280), 0x40);
	wr(f, 0, 0x280, 0);
	assert_int_equal(rd(f, 0, 0x280), 0);
}

static void test_level_eoi(void **state)
{
	struct fixture *f = *state;
	struct apic_message m = { .dest = 1, .level = true, .vector = 0x62 };

	enable_all(f);
	assert_true(lapic_deliver(f->bus, &m));
	assert_int_equal(rd(f, 1, 0x1b0), 4);
	assert_int_equal(lapic_ack(on(f, 1)), 0x62);
	wr(f, 1, 0xb0, 0);
	assert_int_equal(f->eois, 1);
	assert_int_equal(f->eoi_vector, 0x62);
}

static void test_extint(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = on(f, 0);

	f->pic_vector = 0x30;
	lapic_set_lint(l, 0, true);
	assert_false(lapic_pending(l)); /* masked after reset */
	lapic_setup_virtual_wire(l);
	assert_true(lapic_pending(l));
	assert_true(f->intr[0]);
	lapic_cr8_write(l, 15); /* does not hold back ExtINT */
	assert_int_equal(lapic_ack(l), 0x30);
	lapic_set_lint(l, 0, false);
	assert_false(lapic_pending(l));
	lapic_set_lint(l, 1, true);
	assert_int_equal(f->nmi[0], 1);
	/* Without an APIC the pins are INTR and NMI. */
	assert_int_equal(lapic_msr_write(l, 0x1b, LAPIC_DEFAULT_BASE | 0x100), 0);
	lapic_set_lint(l, 1, false);
	lapic_set_lint(l, 1, true);
	assert_int_equal(f->nmi[0], 2);
	lapic_set_lint(l, 0, true);
	assert_true(lapic_pending(l));
	/* LINT0 as a level-triggered fixed interrupt */
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_ENABLED | 0x100), 0);
	wr(f, 0, 0xf0, 0x1ff);
	wr(f, 0, 0x350, 0x8055);
	assert_int_equal(rd(f, 0, 0x350), 0xc055);
	lapic_set_lint(l, 0, true); /* no change */
	assert_int_equal(lapic_ack(l), 0x55);
	wr(f, 0, 0xb0, 0); /* the level stands: again */
	assert_int_equal(lapic_ack(l), 0x55);
	lapic_set_lint(l, 0, false);
	wr(f, 0, 0xb0, 0);
	assert_int_equal(lapic_ack(l), -1);
	assert_int_equal(rd(f, 0, 0x350), 0x8055);
}

static void test_destinations(void **state)
{
	struct fixture *f = *state;

	enable_all(f);
	/* physical */
	send(f, 1, false, APIC_FIXED, 0x50);
	assert_int_equal(got(f, 0x50), 2);
	send(f, 0xff, false, APIC_FIXED, 0x50);
	assert_int_equal(got(f, 0x50), 7);
	assert_false(send(f, 9, false, APIC_FIXED, 0x50));
	/* flat */
	for (unsigned i = 0; i < CPUS; i++)
		wr(f, i, 0xd0, 1u << (24 + i));
	send(f, 5, true, APIC_FIXED, 0x51);
	assert_int_equal(got(f, 0x51), 5);
	send(f, 0xff, true, APIC_FIXED, 0x51);
	assert_int_equal(got(f, 0x51), 7);
	assert_false(send(f, 8, true, APIC_FIXED, 0x51));
	/* cluster: 0 and 1 in cluster 2, 2 in cluster 3 */
	for (unsigned i = 0; i < CPUS; i++)
		wr(f, i, 0xe0, 0x0fffffff);
	wr(f, 0, 0xd0, 0x21000000);
	wr(f, 1, 0xd0, 0x22000000);
	wr(f, 2, 0xd0, 0x31000000);
	send(f, 0x23, true, APIC_FIXED, 0x52);
	assert_int_equal(got(f, 0x52), 3);
	send(f, 0x31, true, APIC_FIXED, 0x52);
	assert_int_equal(got(f, 0x52), 4);
	send(f, 0xf1, true, APIC_FIXED, 0x52);
	assert_int_equal(got(f, 0x52), 5);
	/* lowest priority: the one with the lowest PPR, disabled ones never */
	wr(f, 0, 0x80, 0x40);
	send(f, 0xff, false, APIC_LOWEST_PRIORITY, 0x53);
	assert_int_equal(got(f, 0x53), 2);
	wr(f, 1, 0xf0, 0xff);
	send(f, 0xff, false, APIC_LOWEST_PRIORITY, 0x53);
	assert_int_equal(got(f, 0x53), 4);
	/* MSI */
	assert_true(lapic_msi(f->bus, 0xfee02000, 0x54));
	assert_int_equal(got(f, 0x54), 4);
}

static void test_icr(void **state)
{
	struct fixture *f = *state;

	enable_all(f);
	wr(f, 0, 0x310, 2u << 24);
	wr(f, 0, 0x300, 0x4060);
	assert_int_equal(got(f, 0x60), 4);
	assert_int_equal(rd(f, 0, 0x310), 2u << 24);
	assert_int_equal(rd(f, 0, 0x300), 0x4060);
	wr(f, 1, 0x300, 0x44060); /* self */
	assert_int_equal(got(f, 0x60), 2);
	wr(f, 1, 0x300, 0x84060); /* all */
	assert_int_equal(got(f, 0x60), 7);
	wr(f, 1, 0x300, 0xc4060); /* all but self */
	assert_int_equal(got(f, 0x60), 5);
	wr(f, 0, 0x300, 0xc4400); /* NMI */
	assert_int_equal(f->nmi[0] + f->nmi[1] * 10 + f->nmi[2] * 100, 110);
	wr(f, 0, 0x300, 0xcc500); /* INIT assert, then the de-assert of old */
	wr(f, 0, 0x300, 0xc8500);
	assert_int_equal(f->init[0] + f->init[1] * 10 + f->init[2] * 100, 110);
	wr(f, 0, 0x300, 0xc4699); /* SIPI */
	assert_int_equal(f->sipi[1] + f->sipi[2] * 10, 11);
	assert_int_equal(f->sipi_vector, 0x99);
	wr(f, 0, 0x300, 0x4005); /* illegal vector */
	wr(f, 0, 0x280, 0);
	assert_int_equal(rd(f, 0, 0x280), 0x20);
}

static void run_to(struct fixture *f, u64 ns)
{
	clock_warp(f->board.clock, ns);
	clock_run(f->board.clock);
}

static void test_timer(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = on(f, 0);

	enable_all(f);
	/* one-shot, divided by 16 */
	wr(f, 0, 0x3e0, 3);
	wr(f, 0, 0x320, 0x40);
	wr(f, 0, 0x380, 100);
	assert_int_equal(clock_next_deadline(f->board.clock), 1600);
	run_to(f, 15);
	assert_int_equal(rd(f, 0, 0x390), 100);
	run_to(f, 16);
	assert_int_equal(rd(f, 0, 0x390), 99);
	run_to(f, 1599);
	assert_false(lapic_pending(l));
	assert_int_equal(rd(f, 0, 0x390), 1);
	run_to(f, 1600);
	assert_int_equal(got(f, 0x40), 1);
	assert_int_equal(rd(f, 0, 0x390), 0);
	assert_int_equal(clock_next_deadline(f->board.clock), CLOCK_NEVER);
	/* periodic, undivided; late events merge */
	wr(f, 0, 0x3e0, 0xb);
	wr(f, 0, 0x320, 0x20041);
	wr(f, 0, 0x380, 1000);
	run_to(f, 2600);
	assert_int_equal(got(f, 0x41), 1);
	assert_int_equal(rd(f, 0, 0x390), 1000);
	run_to(f, 5100);
	assert_int_equal(got(f, 0x41), 1);
	assert_int_equal(clock_next_deadline(f->board.clock), 5600);
	assert_int_equal(rd(f, 0, 0x390), 500);
	/* masked: counts, says nothing */
	wr(f, 0, 0x320, 0x30041);
	run_to(f, 6000);
	assert_false(lapic_pending(l));
	assert_int_equal(rd(f, 0, 0x390), 600);
	wr(f, 0, 0x320, 0x20041);
	assert_int_equal(clock_next_deadline(f->board.clock), 6600);
	/* a change of pace keeps the count; what was due is not lost */
	wr(f, 0, 0x3e0, 0);
	assert_int_equal(clock_next_deadline(f->board.clock), 7200);
	clock_warp(f->board.clock, 7300);
	wr(f, 0, 0x380, 0);
	assert_int_equal(got(f, 0x41), 1);
	assert_int_equal(clock_next_deadline(f->board.clock), CLOCK_NEVER);
}

static void test_tsc_deadline(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = on(f, 0);
	u64 v;

	enable_all(f);
	assert_int_equal(lapic_msr_write(l, MSR_IA32_TSC_DEADLINE, 500), 0); /* wrong mode: ignored */
	assert_int_equal(clock_next_deadline(f->board.clock), CLOCK_NEVER);
	wr(f, 0, 0x320, 0x40042);
	f->tsc_offset = 1000;
	assert_int_equal(lapic_msr_write(l, MSR_IA32_TSC_DEADLINE, 3001), 0);
	assert_int_equal(clock_next_deadline(f->board.clock), 1001); /* 2 ticks a ns */
	assert_int_equal(lapic_msr_read(l, MSR_IA32_TSC_DEADLINE, &v), 0);
	assert_int_equal(v, 3001);
	run_to(f, 1000);
	assert_false(lapic_pending(l));
	run_to(f, 1001);
	assert_int_equal(got(f, 0x42), 1);
	assert_int_equal(lapic_msr_read(l, MSR_IA32_TSC_DEADLINE, &v), 0);
	assert_int_equal(v, 0);
	/* past: at once */
	assert_int_equal(lapic_msr_write(l, MSR_IA32_TSC_DEADLINE, 1), 0);
	assert_int_equal(got(f, 0x42), 1);
	/* zero disarms; so does leaving the mode; the TSC may move */
	lapic_msr_write(l, MSR_IA32_TSC_DEADLINE, 100000);
	f->tsc_offset = 50000;
	lapic_tsc_changed(l);
	assert_int_equal(clock_next_deadline(f->board.clock), 25000);
	lapic_msr_write(l, MSR_IA32_TSC_DEADLINE, 0);
	assert_int_equal(clock_next_deadline(f->board.clock), CLOCK_NEVER);
	lapic_msr_write(l, MSR_IA32_TSC_DEADLINE, UINT64_MAX);
	assert_false(lapic_pending(l));
	wr(f, 0, 0x320, 0x42);
	assert_int_equal(clock_next_deadline(f->board.clock), CLOCK_NEVER);
}

static void test_base_transitions(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = on(f, 0);
	u64 v;
	u32 word;

	/* reserved bits, beyond the physical width, EXTD without EN */
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_ENABLED | 1), -1);
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_ENABLED | BIT(40)), -1);
	assert_int_equal(lapic_msr_write(l, 0x1b, LAPIC_DEFAULT_BASE | 0x400), -1);
	assert_int_equal(lapic_msr_read(l, 0x802, &v), -1); /* not in x2APIC mode */
	/* moved */
	for (unsigned i = 1; i < CPUS; i++)
		assert_int_equal(lapic_msr_write(on(f, i), 0x1b, 0xd0000000 | 0x800), 0);
	assert_int_equal(lapic_msr_write(l, 0x1b, 0xd0000000 | 0x900), 0);
	f->current = 0;
	memory_read(f->board.mem, 0xd0000030, &word, 4);
	assert_int_equal(word, 0x50014);
	assert_int_equal(rd(f, 0, 0x30), 0xffffffff);
	/* xAPIC -> x2APIC: kept, LDR derived, page gone */
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_ENABLED | 0x100), 0);
	wr(f, 0, 0xf0, 0x1ff);
	wr(f, 0, 0x80, 0x20);
	for (unsigned i = 0; i < CPUS; i++)
		assert_int_equal(lapic_msr_write(on(f, i), 0x1b, BASE_X2), 0);
	assert_int_equal(rd(f, 0, 0x30), 0xffffffff);
	assert_int_equal(lapic_msr_read(l, 0x808, &v), 0);
	assert_int_equal(v, 0x20);
	assert_int_equal(lapic_msr_read(on(f, 2), 0x80d, &v), 0);
	assert_int_equal(v, 4);
	assert_int_equal(lapic_msr_read(on(f, 2), 0x802, &v), 0);
	assert_int_equal(v, 2);
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_ENABLED), -1); /* x2APIC -> xAPIC */
	assert_int_equal(lapic_msr_write(l, 0x1b, LAPIC_DEFAULT_BASE), 0);
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_X2), -1); /* disabled -> x2APIC */
	assert_int_equal(lapic_msr_write(l, 0x1b, BASE_ENABLED), 0);
	assert_int_equal(rd(f, 0, 0xf0), 0xff); /* reset */
	assert_int_equal(rd(f, 0, 0x80), 0);
	/* INIT keeps the mode */
	lapic_reset(on(f, 1), true);
	assert_int_equal(lapic_base(on(f, 1)), BASE_X2);
	assert_int_equal(lapic_msr_read(on(f, 1), 0x80d, &v), 0);
	assert_int_equal(v, 2);
}

static void test_x2apic(void **state)
{
	struct fixture *f = *state;
	struct lapic *l = on(f, 0);
	u64 v;
	static const u32 not_readable[] = { 0x800, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83f, 0x840, 0x8ff };
	static const u32 not_writable[] = { 0x802, 0x803, 0x80a, 0x80d, 0x80e, 0x810, 0x820, 0x831, 0x839, 0x82f };

	for (unsigned i = 0; i < CPUS; i++) {
		assert_int_equal(lapic_msr_write(on(f, i), 0x1b, BASE_X2), 0);
		assert_int_equal(lapic_msr_write(on(f, i), 0x80f, 0x1ff), 0);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(not_readable); i++)
		assert_int_equal(lapic_msr_read(l, not_readable[i], &v), -1);
	for (unsigned i = 0; i < ARRAY_SIZE(not_writable); i++)
		assert_int_equal(lapic_msr_write(l, not_writable[i], 0), -1);
	assert_int_equal(lapic_msr_write(l, 0x808, 0x100), -1);
	assert_int_equal(lapic_msr_write(l, 0x80b, 1), -1);
	assert_int_equal(lapic_msr_write(l, 0x828, 1), -1);
	assert_int_equal(lapic_msr_write(l, 0x828, 0), 0);
	assert_int_equal(lapic_msr_write(l, 0x832, 0x100), -1);
	assert_int_equal(lapic_msr_write(l, 0x83e, 4), -1);
	assert_int_equal(lapic_msr_write(l, 0x838, BIT(32)), -1);
	assert_int_equal(lapic_msr_write(l, 0x830, BIT(13)), -1);
	/* cluster 0, members 0 and 2 */
	assert_int_equal(lapic_msr_write(on(f, 1), 0x830, 5ull << 32 | 0x870), 0);
	assert_int_equal(got(f, 0x70), 5);
	assert_int_equal(lapic_msr_read(on(f, 1), 0x830, &v), 0);
	assert_int_equal(v, 5ull << 32 | 0x870);
	assert_int_equal(lapic_msr_write(l, 0x830, 0xffffffffull << 32 | 0x71), 0);
	assert_int_equal(got(f, 0x71), 7);
	assert_int_equal(lapic_msr_write(l, 0x830, 0xffull << 32 | 0x71), 0); /* no broadcast */
	assert_int_equal(got(f, 0x71), 0);
	assert_int_equal(lapic_msr_write(l, 0x83f, 0x72), 0);
	assert_int_equal(got(f, 0x72), 1);
	send(f, 0xff, false, APIC_FIXED, 0x73); /* a device's broadcast */
	assert_int_equal(got(f, 0x73), 7);
}

static void save_all(struct fixture *f, struct encoder *e)
{
	enc_init(e);
	for (struct device *d = f->board.first; d; d = d->next)
		d->ops->save(d, e);
}

/* Lent and taken back, an APIC is as before; meanwhile nothing is pending and no timer runs. */
static void test_lend(void **state)
{
	struct fixture *f = *state;
	struct encoder a, b;
	struct apic_state s;
	u64 deadline;

	enable_all(f);
	f->icount = 500;
	wr(f, 0, 0x80, 0x23);
	send(f, 0, false, APIC_FIXED, 0x91);
	send(f, 0, false, APIC_FIXED, 0x45);
	lapic_ack(on(f, 0));
	lapic_set_lint(on(f, 0), 0, true);
	wr(f, 0, 0x320, 0x20041);
	save_all(f, &a);
	lapic_lend(on(f, 0), &s);
	assert_true(lapic_is_lent(on(f, 0)));
	assert_int_equal(s.isr[4], 1 << 17);
	assert_int_equal(s.irr[2], 1 << 5);
	assert_false(lapic_pending(on(f, 0)));
	assert_int_equal(lapic_ack(on(f, 0)), -1);
	assert_true(lapic_extint(on(f, 0)));
	lapic_set_lint(on(f, 0), 0, false);
	assert_int_equal(lapic_extint_ack(on(f, 0)), -1);
	lapic_set_lint(on(f, 0), 0, true);
	lapic_take_back(on(f, 0), &s);
	save_all(f, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	enc_free(&a);
	enc_free(&b);
	/* a timer that runs goes on; one that is due has fired before */
	wr(f, 0, 0x380, 1000);
	deadline = clock_next_deadline(f->board.clock);
	f->icount += 300;
	lapic_lend(on(f, 0), &s);
	assert_true(clock_next_deadline(f->board.clock) == CLOCK_NEVER);
	assert_true(s.count > 0 && s.count < s.init_count);
	lapic_take_back(on(f, 0), &s);
	assert_true(clock_next_deadline(f->board.clock) - deadline + 128 < 256); /* to one tick of the count */
	f->icount = deadline + 1;
	lapic_lend(on(f, 0), &s);
	assert_int_equal(s.irr[2] >> 1 & 1, 1);
	/* what no register has is dropped */
	memset(&s, 0xff, sizeof(s));
	lapic_take_back(on(f, 0), &s);
	save_all(f, &a);
	struct decoder d = { .data = a.data, .len = a.len };

	for (struct device *dev = f->board.first; dev; dev = dev->next)
		assert_int_equal(dev->ops->check(dev, &d), 0);
	enc_free(&a);
}

static void test_save(void **state)
{
	struct fixture *f = *state, *g;
	struct encoder a, b;

	enable_all(f);
	f->icount = 500;
	wr(f, 0, 0x320, 0x20041);
	wr(f, 0, 0x380, 1000);
	send(f, 1, false, APIC_FIXED, 0x91);
	send(f, 1, false, APIC_FIXED, 0x45);
	lapic_ack(on(f, 1));
	lapic_set_lint(on(f, 0), 0, true);
	lapic_msr_write(on(f, 2), 0x1b, BASE_X2);
	save_all(f, &a);
	setup((void **)&g);
	g->icount = 500;
	struct decoder d = { .data = a.data, .len = a.len }, again = d;

	for (struct device *dev = g->board.first; dev; dev = dev->next)
		assert_int_equal(dev->ops->check(dev, &d), 0);
	assert_true(dec_done(&d));
	for (struct device *dev = g->board.first; dev; dev = dev->next)
		dev->ops->load(dev, &again);
	save_all(g, &b);
	assert_int_equal(a.len, b.len);
	assert_memory_equal(a.data, b.data, a.len);
	assert_int_equal(clock_next_deadline(g->board.clock), clock_next_deadline(f->board.clock));
	wr(g, 1, 0xb0, 0);
	assert_int_equal(lapic_ack(on(g, 1)), 0x45);
	/* a damaged record is refused: every byte cut */
	for (size_t len = 0; len < a.len / CPUS; len++) {
		struct decoder cut = { .data = a.data, .len = len };

		assert_int_equal(g->board.first->ops->check(g->board.first, &cut), -1);
	}
	teardown((void **)&g);
	enc_free(&a);
	enc_free(&b);
}

/* EOI by flag: the word is at 1000H of RAM. */
#define FLAG_AT 0x1000

static u8 flag(struct fixture *f)
{
	return memory_ram(f->board.mem)[FLAG_AT];
}

static void clear_flag(struct fixture *f)
{
	memory_ram(f->board.mem)[FLAG_AT] = 0;
}

static void with_flag(struct fixture *f)
{
	memory_map_ram(f->board.mem, 0, 0, MiB, 0, "ram");
	enable_all(f);
	assert_int_equal(lapic_set_pv_eoi(on(f, 0), FLAG_AT | 1), 0);
}

static void test_pv_eoi(void **state)
{
	struct fixture *f = *state;
	struct apic_message level = { .dest = 0, .level = true, .vector = 0x62 };
	struct lapic *l = on(f, 0);

	with_flag(f);
	assert_int_equal(lapic_set_pv_eoi(l, FLAG_AT | 3), -1);
	assert_int_equal(lapic_set_pv_eoi(l, MiB | 1), -1);
	assert_int_equal(lapic_set_pv_eoi(l, LAPIC_DEFAULT_BASE | 1), -1);
	assert_int_equal(lapic_pv_eoi(l), FLAG_AT | 1);
	/* offered, and used */
	send(f, 0, false, APIC_FIXED, 0x45);
	assert_int_equal(lapic_ack(l), 0x45);
	assert_int_equal(flag(f), 1);
	assert_int_equal(rd(f, 0, 0xa0), 0x40);
	clear_flag(f);
	assert_int_equal(rd(f, 0, 0xa0), 0);
	assert_int_equal(rd(f, 0, 0x120), 0);
	/* a level: the IOAPIC wants to hear of it */
	lapic_deliver(f->bus, &level);
	assert_int_equal(lapic_ack(l), 0x62);
	assert_int_equal(flag(f), 0);
	wr(f, 0, 0xb0, 0);
	assert_int_equal(f->eois, 1);
	/* one that waits, a nested one */
	send(f, 0, false, APIC_FIXED, 0x45);
	send(f, 0, false, APIC_FIXED, 0x55);
	assert_int_equal(lapic_ack(l), 0x55);
	assert_int_equal(flag(f), 0);
	send(f, 0, false, APIC_FIXED, 0x65);
	assert_int_equal(lapic_ack(l), 0x65);
	assert_int_equal(flag(f), 0);
	wr(f, 0, 0xb0, 0);
	wr(f, 0, 0xb0, 0);
	assert_int_equal(lapic_ack(l), 0x45);
	assert_int_equal(flag(f), 1);
	/* taken back as another one comes, which the EOI then lets through */
	send(f, 0, false, APIC_FIXED, 0x46);
	assert_int_equal(flag(f), 1); /* from elsewhere: nobody looks yet */
	assert_false(lapic_pending(l));
	assert_int_equal(flag(f), 0);
	unsigned before = f->intr[0];

	wr(f, 0, 0xb0, 0);
	assert_true(f->intr[0] > before);
	/* cleared before anybody looked: EOI came first */
	assert_int_equal(lapic_ack(l), 0x46);
	assert_int_equal(flag(f), 1);
	send(f, 0, false, APIC_FIXED, 0x47);
	clear_flag(f);
	assert_true(lapic_pending(l));
	assert_int_equal(lapic_ack(l), 0x47);
	/* a write ends it too, once; off, and INIT, take it back */
	wr(f, 0, 0xb0, 0);
	assert_int_equal(flag(f), 0);
	assert_int_equal(rd(f, 0, 0x120), 0);
	send(f, 0, false, APIC_FIXED, 0x48);
	assert_int_equal(lapic_ack(l), 0x48);
	assert_int_equal(flag(f), 1);
	assert_int_equal(lapic_set_pv_eoi(l, 0), 0);
	assert_int_equal(flag(f), 0);
	assert_int_equal(rd(f, 0, 0xa0), 0x40);
	wr(f, 0, 0xb0, 0);
	lapic_set_pv_eoi(l, FLAG_AT | 1);
	send(f, 0, false, APIC_FIXED, 0x49);
	assert_int_equal(lapic_ack(l), 0x49);
	lapic_reset(l, true);
	assert_int_equal(flag(f), 0);
	assert_int_equal(lapic_pv_eoi(l), 0);
}

/* Whether somebody looked makes no difference to the stream. */
static void test_pv_eoi_saved(void **state)
{
	struct fixture *f = *state;
	struct encoder unseen, seen;

	with_flag(f);
	send(f, 0, false, APIC_FIXED, 0x45);
	assert_int_equal(lapic_ack(on(f, 0)), 0x45);
	clear_flag(f);
	enc_init(&unseen);
	f->board.first->ops->save(f->board.first, &unseen);
	assert_false(lapic_pending(on(f, 0)));
	enc_init(&seen);
	f->board.first->ops->save(f->board.first, &seen);
	assert_int_equal(unseen.len, seen.len);
	assert_memory_equal(unseen.data, seen.data, seen.len);
	/* open while there is no address: not sound */
	unseen.data[unseen.len - 1] = 1;
	unseen.data[unseen.len - 9] &= ~1;
	struct decoder d = { .data = unseen.data, .len = unseen.len };

	assert_int_equal(f->board.first->ops->check(f->board.first, &d), -1);
	enc_free(&unseen);
	enc_free(&seen);
}

static void test_send_many(void **state)
{
	struct fixture *f = *state;

	enable_all(f);
	assert_int_equal(lapic_send_many(f->bus, 5, 0, 0, 0x41, true), 2);
	assert_int_equal(got(f, 0x41), 5);
	assert_int_equal(lapic_send_many(f->bus, ~0ull, ~0ull, 1, 0x42, true), 2);
	assert_int_equal(got(f, 0x42), 6);
	assert_int_equal(lapic_send_many(f->bus, ~0ull, ~0ull, 3, 0x42, true), 0);
	assert_int_equal(lapic_send_many(f->bus, ~0ull, ~0ull, ~0ull - 30, 0x42, true), 0);
	assert_int_equal(lapic_send_many(f->bus, 4, 0, 0, APIC_NMI << 8, true), 1);
	assert_int_equal(f->nmi[2], 1);
	/* the upper half begins at 32 or 64 */
	lapic_msr_write(on(f, 1), 0x1b, LAPIC_DEFAULT_BASE);
	assert_int_equal(lapic_send_many(f->bus, 7, 0, 0, 0x43, false), 2);
	assert_int_equal(got(f, 0x43), 5);
	wr(f, 2, 0x20, 40u << 24);
	assert_int_equal(lapic_send_many(f->bus, 0, 1 << 8, 0, 0x44, false), 1);
	assert_int_equal(lapic_send_many(f->bus, 0, 1 << 8, 0, 0x44, true), 0);
	assert_int_equal(lapic_send_many(f->bus, 1ull << 40, 0, 0, 0x44, true), 1);
	assert_int_equal(lapic_send_many(f->bus, 1ull << 40, 0, 0, 0x44, false), 0);
	assert_int_equal(lapic_find(f->bus, 40), 2);
	assert_int_equal(lapic_find(f->bus, 1), -1);
	assert_int_equal(lapic_find(f->bus, 1ull << 32), -1);
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_reset), T(test_priority), T(test_level_eoi),    T(test_extint),		 T(test_destinations),
		T(test_icr),   T(test_timer),	 T(test_tsc_deadline), T(test_base_transitions), T(test_x2apic),
		T(test_lend),  T(test_save),	 T(test_pv_eoi),       T(test_pv_eoi_saved),	 T(test_send_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
