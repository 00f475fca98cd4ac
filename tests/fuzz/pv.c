/*
 * Fuzz target: the paravirtual interface of a machine. Input bytes are what a
 * guest does: registers and hypercalls with any addresses, interrupts taken
 * and ended by flag or by write, words of its structures changed, the TSC
 * written; and what the machine does: turns, sleep, save, check, load.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fuzz.h"

#include "cpu/event.h"
#include "cpu/pv.h"
#include "cpu/sys.h"
#include "machine/internal.h"
#include "machine/pv.h"

static const u32 msrs[] = {
	MSR_KVM_WALL_CLOCK,
	MSR_KVM_SYSTEM_TIME,
	MSR_KVM_WALL_CLOCK_NEW,
	MSR_KVM_SYSTEM_TIME_NEW,
	MSR_KVM_STEAL_TIME,
	MSR_KVM_PV_EOI_EN,
	MSR_KVM_POLL_CONTROL,
	0x4b564d02,
	0x10,
	0x3b,
	0x80b,
	0x830,
	0x808,
	0x1b,
};
static const u64 places[] = { 0x1000, 0x1040, 0x1080, 0x9ffe0, 0xa0000, 0x3fffe0, 0x400000, 0xfee00000, ~0ull << 6 };

static struct machine *m;
static char path[] = "/tmp/ectype-fuzz-rom-XXXXXX"; /* read again by each reset */

static void remove_rom(void)
{
	unlink(path);
}

static void build(void)
{
	static u8 rom[64 * KiB];
	const struct machine_config c = { .name = "fuzz",
					  .memory = 4 * MiB,
					  .cpus = 1,
					  .engine = "interp",
					  .clock = MACHINE_CLOCK_VIRTUAL,
					  .cpu_model = "x86-64-v2",
					  .pv = PV_ALL,
					  .firmware = path };
	int fd = mkstemp(path);
	struct error e;

	memset(rom, 0xf4, sizeof(rom));
	if (fd < 0 || write(fd, rom, sizeof(rom)) != sizeof(rom))
		abort();
	close(fd);
	m = machine_create(&c, &e);
	atexit(remove_rom);
	if (!m) {
		fprintf(stderr, "%s\n", e.text);
		abort();
	}
}

static u64 place(struct input *in)
{
	unsigned n = take(in, 1);

	return n < 2 * ARRAY_SIZE(places) ? places[n / 2] | (n & 1) : take(in, 8);
}

static void reload(struct input *in, struct device *d, bool bad)
{
	struct encoder e;

	enc_init(&e);
	d->ops->save(d, &e);
	for (unsigned i = bad ? 1 + (take(in, 1) & 3) : 0; i; i--)
		e.data[e.len - 1 - take(in, 2) % e.len] = (u8)take(in, 1);
	struct decoder check = { .data = e.data, .len = e.len }, load = check;

	if (d->ops->check(d, &check) == 0)
		d->ops->load(d, &load);
	else
		assert(bad);
	enc_free(&e);
}

static void reload_any(struct input *in, bool bad)
{
	for (struct device *d = m->board.first; d; d = d->next)
		if (!strcmp(d->ops->name, "pv") || !strcmp(d->ops->name, "lapic"))
			reload(in, d, bad);
}

/* Interrupts are taken as an engine does at a boundary with IF set. */
static void take_interrupt(struct vcpu *v)
{
	if (v->hooks->intr_pending(m, 0))
		v->hooks->intr_ack(m, 0);
}

static void step(struct input *in)
{
	struct vcpu *v = machine_vcpu(m, 0);
	u64 val, args[4];
	u32 msr;

	switch (take(in, 1) % 11) {
	case 0:
	case 1:
		msr = msrs[take(in, 1) % ARRAY_SIZE(msrs)];
		(void)!cpu_wrmsr(v, msr, place(in));
		break;
	case 2:
		(void)!cpu_rdmsr(v, msrs[take(in, 1) % ARRAY_SIZE(msrs)], &val);
		break;
	case 3:
		for (unsigned i = 0; i < 4; i++)
			args[i] = place(in);
		val = take(in, 1);
		pv_hypercall(m, 0, val & 15, args, val & 16);
		break;
	case 4:
		take_interrupt(v);
		break;
	case 5:
		args[0] = args[1] = ~0ull;
		args[2] = 0;
		args[3] = take(in, 1);
		pv_hypercall(m, 0, KVM_HC_SEND_IPI, args, true);
		break;
	case 6:
		memory_ram(m->mem)[0x1000 + take(in, 1)] = (u8)take(in, 1);
		break;
	case 7:
		v->icount += take(in, 3);
		pv_preempted(m, 0);
		break;
	case 8:
		pv_enter(m, 0);
		break;
	case 9:
		reload_any(in, false);
		break;
	case 10:
		reload_any(in, true);
		pv_wall_moved(m);
		break;
	}
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct input in = { data, data + size };

	if (!m)
		build();
	while (in.p < in.end)
		step(&in);
	machine_reset(m);
	return 0;
}
