/*
 * Local APICs in KVM: the registers' image both ways, and a real APIC of the
 * kernel's that is taken, asked, and given back. The latter are skipped where
 * KVM is not there or does not split its interrupt controller.
 */
#include "kvm_rig.h"

#include "cpu/msr.h"
#include "cpu/pv.h"

#define BASE 0xfee00900ull
#define X2 0xfee00d00ull
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)

static u64 seed = 0x243f6a8885a308d3ull;

static u64 rnd(void)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed;
}

/* As a guest could have made it; the vector of an LVT entry in use is legal, and no timer fires soon. */
static struct apic_state random_apic(bool x2)
{
	static const u32 mode[] = { 0, PERIODIC, DEADLINE };
	struct apic_state s = { .base = x2 ? X2 : BASE };

	s.tpr = rnd() & 0xff;
	s.ldr = x2 ? 1 : (u32)rnd() & 0xff000000;
	s.dfr = x2 ? 0xffffffff : rnd() & 1 ? 0xffffffff : 0x0fffffff;
	s.svr = 0x100 | (rnd() & 0xff);
	s.icr = (rnd() & 0xccfff) | (x2 ? rnd() << 32 : rnd() << 56);
	for (unsigned i = 0; i < APIC_LVTS; i++)
		s.lvt[i] = 0x10 | (u32)(rnd() & 0xef) | (rnd() & 1) << 16;
	s.lvt[0] |= mode[rnd() % 3];
	for (unsigned i = 0; i < 8; i++) {
		s.isr[i] = (u32)(rnd() & rnd() & rnd());
		s.irr[i] = (u32)(rnd() & rnd());
		s.tmr[i] = (u32)rnd();
	}
	s.isr[0] &= 0xffff0000;
	s.irr[0] &= 0xffff0000;
	s.tmr[0] &= 0xffff0000;
	s.divide = (rnd() & 3) | (rnd() & 1) << 3;
	if (s.lvt[0] & DEADLINE) {
		s.tsc_deadline = rnd() & 1 ? (1ull << 62) + (rnd() >> 4) : 0;
	} else {
		s.init_count = 0x80000000 | (u32)rnd();
		s.count = s.lvt[0] & PERIODIC || rnd() & 1 ? s.init_count - (u32)rnd() % 0x10000000 : 0;
	}
	return s;
}

static void assert_same_apic(const struct apic_state *a, const struct apic_state *b, u32 slack, const char *what)
{
	struct apic_state x = *a, y = *b;

	if (x.count != y.count && x.count > y.count && x.count - y.count < slack)
		y.count = x.count;
	if (x.base & BIT(10))
		x.id = y.id = 0;
	for (size_t i = 0; i < sizeof(x); i++)
		if (((u8 *)&x)[i] != ((u8 *)&y)[i])
			fail_msg(
			    "%s: byte %zu of struct apic_state: %02x and %02x (icr at %zu, lvt %zu, isr %zu, irr %zu, "
			    "init_count %zu: %x %x, count %x %x)",
			    what, i, ((u8 *)&x)[i], ((u8 *)&y)[i], offsetof(struct apic_state, icr),
			    offsetof(struct apic_state, lvt), offsetof(struct apic_state, isr),
			    offsetof(struct apic_state, irr), offsetof(struct apic_state, init_count), x.init_count,
			    y.init_count, x.count, y.count);
}

static void test_page(void **state)
{
	for (unsigned n = 0; n < 2000; n++) {
		struct apic_state s = random_apic(n & 1), t = { .base = s.base, .tsc_deadline = s.tsc_deadline };
		struct kvm_lapic_state page;
		char what[32];
		u32 hidden;

		s.id = s.base & BIT(10) ? 0 : rnd() & 0xff;
		snprintf(what, sizeof(what), "state %u", n);
		kvm_apic_to_page(&s, &page, &hidden);
		kvm_page_to_apic(&page, hidden, &t);
		assert_same_apic(&s, &t, 0, what);
	}
}

/* Offsets and shifts of the page, one by one: the round trip alone would not see them. */
static void test_page_layout(void **state)
{
	struct apic_state s = { .base = BASE, .id = 5, .tpr = 0x21, .svr = 0x1ff, .icr = 7ull << 56 | 0x4041 };
	struct kvm_lapic_state page;
	u32 hidden, val;

	s.irr[2] = 8;
	s.lvt[3] = 0x700;
	s.init_count = 100;
	s.count = 40;
	kvm_apic_to_page(&s, &page, &hidden);
	assert_int_equal(hidden, 0);
#define AT(off, want) (memcpy(&val, page.regs + (off), 4), assert_int_equal(val, want))
	AT(0x20, 5u << 24);
	AT(0x80, 0x21);
	AT(0xf0, 0x1ff);
	AT(0x220, 8);
	AT(0x300, 0x4041);
	AT(0x310, 7u << 24);
	AT(0x350, 0x700);
	AT(0x380, 100);
	AT(0x390, 40);
	s.count = 0; /* a one-shot timer that has run out is not told of */
	kvm_apic_to_page(&s, &page, &hidden);
	assert_int_equal(hidden, 100);
	AT(0x380, 0);
	s.lvt[0] = PERIODIC;
	kvm_apic_to_page(&s, &page, &hidden);
	assert_int_equal(hidden, 0);
	AT(0x380, 100);
#undef AT
}

/* ---- with KVM ---- */

static struct vcpu *alone[1];
static struct vcpu_group group = { .count = 1, .vcpu = alone };
static struct vcpu_hooks kept;
static bool lent;
static int pic; /* a vector that the 8259s have; -1: none */
static u8 ended;

static bool hook_lent(void *m)
{
	return lent;
}
static void hook_back(void *m)
{
	fail_msg("not asked for here");
}
static bool hook_extint(void *m, unsigned cpu)
{
	return pic >= 0;
}
static int hook_extint_ack(void *m, unsigned cpu)
{
	int vector = pic;

	pic = -1;
	return vector;
}
static void hook_eoi(void *m, unsigned cpu, u8 vector)
{
	ended = vector;
}

static int set_up_split(void **state)
{
	int ret = set_up(state);

	kept = hooks;
	kept.apics_lent = hook_lent;
	kept.apics_back = hook_back;
	kept.extint = hook_extint;
	kept.extint_ack = hook_extint_ack;
	kept.apic_eoi = hook_eoi;
	alone[0] = rig.v;
	rig.v->group = &group;
	rig.v->hooks = &kept;
	lent = false;
	pic = -1;
	ended = 0;
	if (!kvm_host(NULL)->splits) {
		print_message("# skipped: this KVM does not split its interrupt controller\n");
		skip();
	}
	attach(&engine_kvm);
	return ret;
}

static int tear_down_split(void **state)
{
	if (rig.v->engine)
		detach();
	rig.v->group = NULL;
	return tear_down(state);
}

static void take_apic(const struct apic_state *s)
{
	struct error e = { .text = "" };

	if (kvm_apics.take(rig.v, s, &e))
		fail_msg("%s", e.text);
	lent = true;
}

static struct apic_state give_apic(void)
{
	struct apic_state s;

	kvm_apics.settle(rig.v);
	kvm_apics.give(rig.v, &s);
	lent = false;
	return s;
}

static void reset(const u8 *code, size_t len)
{
	struct vcpu *v = rig.v;

	memset(memory_ram(rig.mem), 0, RAM);
	memcpy(memory_ram(rig.mem) + CODE, code, len);
	rig.outs = 0;
	cpu_reset(v, false);
	xstate_fninit(&v->cpu);
	v->cpu.seg[SEG_CS].sel = 0;
	v->cpu.seg[SEG_CS].base = 0;
	v->cpu.rip = CODE;
	v->cpu.gpr[REG_RSP] = STACK;
	mmu_mode_changed(v);
}

static bool in_software(void)
{
	struct engine_verdict why = { .usable = false };

	engine_kvm.probe(&why);
	return !why.advisable;
}

static const u8 hlt[] = { 0xf4 };

static void test_round_trip(void **state)
{
	static struct cpu before;

	reset(hlt, sizeof(hlt));
	for (unsigned n = 0; n < 300; n++) {
		struct apic_state s = random_apic(n & 1), t;
		char what[32];

		snprintf(what, sizeof(what), "state %u", n);
		/* a processor that halts with interrupts off takes nothing */
		rig.v->cpu.activity = n & 2 ? ACT_HALTED : n & 4 ? ACT_WAIT_FOR_SIPI : ACT_RUNNING;
		before = rig.v->cpu;
		take_apic(&s);
		t = give_apic();
		assert_same_apic(&s, &t, 100000000, what);
		assert_same_cpu(&before, &rig.v->cpu, what);
		assert_int_equal(rig.v->cpu.activity, before.activity);
	}
}

static bool requested(const struct apic_state *s, u8 vector)
{
	return s->irr[vector / 32] >> vector % 32 & 1;
}

static struct apic_state armed(u32 lvt, u32 count)
{
	return (struct apic_state){
		.base = BASE,
		.dfr = 0xffffffff,
		.svr = 0x1ff,
		.lvt = { lvt, 0x10000, 0x10000, 0x10000, 0x10000, 0x10000 },
		.init_count = count,
		.count = count,
		.divide = 0xb, /* by 1 */
	};
}

/* A timer that runs out while nothing runs is neither lost nor doubled, whenever the APIC changes hands. */
static void test_timers(void **state)
{
	struct apic_state s, t;

	reset(hlt, sizeof(hlt));
	s = armed(0x41, 2000000);
	take_apic(&s);
	usleep(10000);
	t = give_apic();
	assert_true(requested(&t, 0x41));
	assert_int_equal(t.count, 0);
	assert_int_equal(t.init_count, 2000000);
	t.irr[2] = 0; /* taken, and ended */
	take_apic(&t);
	usleep(10000);
	t = give_apic();
	assert_false(requested(&t, 0x41));
	assert_int_equal(t.init_count, 2000000);

	s = armed(0x41 | PERIODIC, 3000000);
	take_apic(&s);
	usleep(20000);
	t = give_apic();
	assert_true(requested(&t, 0x41));
	assert_true(t.count > 0 && t.count <= 3000000);

	s = armed(0x41 | DEADLINE, 0);
	s.tsc_deadline = hook_tsc(NULL) + 1;
	take_apic(&s);
	usleep(5000);
	t = give_apic();
	/* either it is requested, or still to be */
	assert_true(requested(&t, 0x41) != (t.tsc_deadline != 0));
	s.tsc_deadline = 1ull << 62;
	take_apic(&s);
	t = give_apic();
	assert_false(requested(&t, 0x41));
	assert_true(t.tsc_deadline == 1ull << 62);
}

/* From deadline mode to counts and back: KVM forgets counts as the mode changes. */
static void test_timer_modes(void **state)
{
	static const u32 mode[] = { DEADLINE, PERIODIC, DEADLINE, 0, PERIODIC };

	reset(hlt, sizeof(hlt));
	for (unsigned i = 0; i < ARRAY_SIZE(mode); i++) {
		struct apic_state s = armed(0x10041 | mode[i], mode[i] == DEADLINE ? 0 : 0xf0000000), t;

		s.tsc_deadline = mode[i] == DEADLINE ? 1ull << 62 : 0;
		take_apic(&s);
		t = give_apic();
		assert_same_apic(&s, &t, 100000000, "mode");
	}
}

/* Real mode: vectors 31H and 41H count in BX and CX, NMI in BP; STI, HLT for ever. */
static const u8 wait_code[] = {
	0xfb, 0xf4, 0xeb, 0xfc, /* sti; hlt; jmp -4 */
};
static const u8 handlers[] = {
	0x43, 0xb0, 0x31, 0xe6, 0xe9, 0xcf, /* inc bx; mov al, 31h; out 0e9h, al; iret */
	0x41, 0xb0, 0x41, 0xe6, 0xe9, 0xcf, /* the same with cx and 41h */
	0x45, 0xb0, 0x02, 0xe6, 0xe9, 0xcf, /* bp, 2 */
};

static void set_vector(u8 vector, u16 ip)
{
	u16 entry[2] = { ip, 0 };

	memcpy(memory_ram(rig.mem) + 4 * vector, entry, sizeof(entry));
}

static void leave(u8 byte)
{
	vcpu_raise(rig.v, EV_KICK);
}

static void *kick_later(void *opaque)
{
	usleep(200000);
	vcpu_raise(rig.v, EV_KICK);
	engine_kvm.kick(rig.v);
	return NULL;
}

/* Until the next byte at the port, or for 0.2 s. */
static enum vcpu_exit run_for_a_while(void)
{
	const struct run_budget forever = { .insns = UINT64_MAX };
	enum vcpu_exit why;
	pthread_t thread;

	vcpu_clear(rig.v, EV_KICK);
	rig.on_out = leave;
	assert_int_equal(pthread_create(&thread, NULL, kick_later, NULL), 0);
	why = engine_kvm.run(rig.v, &forever);
	pthread_join(thread, NULL);
	rig.on_out = NULL;
	return why;
}

static void wait_program(void)
{
	reset(wait_code, sizeof(wait_code));
	memcpy(memory_ram(rig.mem) + 0x9000, handlers, sizeof(handlers));
	set_vector(0x31, 0x9000);
	set_vector(0x41, 0x9006);
	set_vector(2, 0x900c);
}

/* A halt lasts in KVM until a message, the 8259s or an NMI end it; what is in service is so afterwards. */
static void test_interrupts(void **state)
{
	struct apic_state s = armed(0x10000, 0);
	const struct apic_msi fixed = { 0xfee00000, 0x4041 }, nmi = { 0xfee00000, 0x4400 };

	wait_program();
	s.lvt[3] = 0x700; /* LINT0: ExtINT */
	take_apic(&s);
	assert_int_equal(run_for_a_while(), VCPU_EXIT_EVENT);
	assert_int_equal(rig.outs, 0);
	assert_int_equal(rig.v->cpu.activity, ACT_HALTED);
	assert_true(kvm_apics.deliver(rig.v, &fixed));
	run_for_a_while();
	assert_int_equal(rig.outs, 1);
	assert_int_equal(rig.out[0], 0x41);
	pic = 0x31;
	run_for_a_while();
	assert_int_equal(rig.outs, 2);
	assert_int_equal(rig.out[1], 0x31);
	assert_int_equal(pic, -1);
	assert_true(kvm_apics.deliver(rig.v, &nmi));
	run_for_a_while();
	assert_int_equal(rig.outs, 3);
	assert_int_equal(rig.out[2], 2);
	s = give_apic();
	if (!in_software()) /* such a KVM ends interrupts by itself */
		assert_int_equal(s.isr[2], 2);
	/* the same priority waits, and comes when that is over, in another pair of hands */
	s.isr[2] = 2;
	take_apic(&s);
	assert_true(kvm_apics.deliver(rig.v, &fixed));
	run_for_a_while();
	assert_int_equal(rig.outs, 3);
	s = give_apic();
	assert_int_equal(s.isr[2], 2);
	assert_int_equal(s.irr[2], 2);
	s.isr[2] = 0;
	take_apic(&s);
	run_for_a_while();
	assert_int_equal(rig.outs, 4);
	assert_int_equal(rig.out[3], 0x41);
	give_apic();
}

/* What is on its way when the APIC is given back comes with it: an NMI, an INIT, a message, a kick. */
static void test_in_flight(void **state)
{
	struct apic_state s = armed(0x10000, 0);
	const struct apic_msi fixed = { 0xfee00000, 0x4041 }, nmi = { 0xfee00000, 0x4400 },
			      init = { 0xfee00000, 0x4500 }, sipi = { 0xfee00000, 0x4612 };

	wait_program();
	take_apic(&s);
	assert_true(kvm_apics.deliver(rig.v, &nmi));
	assert_true(kvm_apics.deliver(rig.v, &fixed));
	s = give_apic();
	assert_true(rig.v->cpu.nmi_pending);
	assert_true(requested(&s, 0x41));
	assert_int_equal(rig.v->cpu.rip, CODE);
	rig.v->cpu.nmi_pending = false;
	take_apic(&s);
	s = give_apic();
	assert_false(rig.v->cpu.nmi_pending);
	assert_true(requested(&s, 0x41));

	rig.v->index = 0;
	take_apic(&s);
	assert_true(kvm_apics.deliver(rig.v, &init));
	assert_true(kvm_apics.deliver(rig.v, &sipi));
	s = give_apic();
	/* processor 0 starts at the reset vector by itself; of an INIT the APIC is as new */
	assert_int_equal(rig.v->cpu.gpr[REG_RSP], 0);
	assert_false(requested(&s, 0x41));
	assert_int_equal(s.svr, 0xff);
}

/* An interrupt that comes level-triggered: its EOI is told where a route asks for it. */
static void test_eoi(void **state)
{
	struct apic_state s = armed(0x10000, 0);
	struct apic_routes r = { .used = 1u << 9, .pin[9] = { 0xfee00000, 0xc041 } };
	static const u8 code[] = {
		0x66, 0xb9, 0x0b, 0x08, 0, 0, 0x66, 0x31, 0xc0, 0x66, 0x31, 0xd2, 0x0f, 0x30, /* ecx 80bh, wrmsr */
		0xe6, 0xe9, 0xf4,							      /* out; hlt */
	};

	if (!rig.model.x2apic)
		skip();
	reset(code, sizeof(code));
	s.base = X2;
	s.isr[2] = s.tmr[2] = 2;
	take_apic(&s);
	kvm_apics.set_routes(rig.v, &r);
	run_for_a_while();
	assert_int_equal(rig.outs, 1);
	s = give_apic();
	assert_int_equal(ended, 0x41);
	assert_int_equal(s.isr[2], 0);
}

int main(void)
{
	const struct CMUnitTest pure[] = {
		cmocka_unit_test(test_page),
		cmocka_unit_test(test_page_layout),
	};
	const struct CMUnitTest live[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, set_up_split, tear_down_split),
		cmocka_unit_test_setup_teardown(test_timers, set_up_split, tear_down_split),
		cmocka_unit_test_setup_teardown(test_timer_modes, set_up_split, tear_down_split),
		cmocka_unit_test_setup_teardown(test_interrupts, set_up_split, tear_down_split),
		cmocka_unit_test_setup_teardown(test_in_flight, set_up_split, tear_down_split),
		cmocka_unit_test_setup_teardown(test_eoi, set_up_split, tear_down_split),
	};
	int failed = cmocka_run_group_tests(pure, NULL, NULL);

	return failed + cmocka_run_group_tests(live, NULL, NULL);
}
