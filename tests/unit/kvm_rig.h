/*
 * One processor without a machine, for tests of the engine kvm: memory, a port and an MMIO page that count, hooks.
 * set_up() ends the program with status 77 where the engine cannot run.
 */
#ifndef ECTYPE_TESTS_UNIT_KVM_RIG_H
#define ECTYPE_TESTS_UNIT_KVM_RIG_H

#include <cpuid.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "cpu/xstate.h"
#include "engine/kvm/kvm.h"
#include "mem/portmap.h"

#define RAM (4 * MiB)
#define CODE 0x8000u
#define STACK 0x7000u

/* ---- what the machine would be ---- */

static struct {
	struct memory *mem;
	struct portmap *ports;
	struct vcpu *v;
	struct cpu_model model;
	u8 out[64]; /* bytes written to port E9H */
	unsigned outs;
	int vectors[8]; /* interrupts that wait, last first */
	unsigned waiting;
	u64 cr8;
	bool triple;
	unsigned nmis;
	void (*on_out)(u8 byte);
} rig;

static u64 hook_tsc(void *m)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (u64)(((unsigned __int128)((u64)t.tv_sec * 1000000000ull + (u64)t.tv_nsec) * rig.model.tsc_hz) /
		     1000000000ull);
}
static bool hook_pending(void *m, unsigned cpu)
{
	return rig.waiting && (u64)(rig.vectors[rig.waiting - 1] >> 4) > rig.cr8;
}
static int hook_ack(void *m, unsigned cpu)
{
	return hook_pending(m, cpu) ? rig.vectors[--rig.waiting] : -1;
}
static u64 hook_cr8(void *m, unsigned cpu)
{
	return rig.cr8;
}
static void hook_set_cr8(void *m, unsigned cpu, u64 v)
{
	rig.cr8 = v;
}
static int hook_msr(void *m, unsigned cpu, u32 msr, u64 *v)
{
	*v = msr == 0x1b ? 0xfee00900 : 0;
	return msr == 0x1b ? 0 : -1;
}
static int hook_set_msr(void *m, unsigned cpu, u32 msr, u64 v)
{
	return -1;
}
static void hook_random(void *m, void *p, size_t n)
{
	memset(p, 0x5a, n);
}
static void hook_triple(void *m, unsigned cpu)
{
	rig.triple = true;
}
static const struct vcpu_hooks hooks = {
	.tsc = hook_tsc,
	.intr_pending = hook_pending,
	.intr_ack = hook_ack,
	.cr8_read = hook_cr8,
	.cr8_write = hook_set_cr8,
	.apic_msr_read = hook_msr,
	.apic_msr_write = hook_set_msr,
	.random = hook_random,
	.triple_fault = hook_triple,
};

static u64 port_in(void *opaque, u64 off, unsigned size)
{
	return 0x1122334455667788ull >> (8 * (rig.outs & 7));
}
static void port_out(void *opaque, u64 off, u64 val, unsigned size)
{
	if (rig.outs < sizeof(rig.out))
		rig.out[rig.outs++] = (u8)val;
	if (rig.on_out)
		rig.on_out((u8)val);
}
static const struct io_ops port_ops = { port_in, port_out, 1, 4 };

static u64 mmio_in(void *opaque, u64 off, unsigned size)
{
	return 0xa5a5a5a500000000ull + off;
}
static void mmio_out(void *opaque, u64 off, u64 val, unsigned size)
{
	port_out(opaque, off, val, size);
}
static const struct io_ops mmio_ops = { mmio_in, mmio_out, 1, 8 };

static void attach(const struct engine_ops *engine)
{
	struct error e = { .text = "" };

	if (engine->vcpu_attach(rig.v, &e))
		fail_msg("%s", e.text);
	rig.v->engine = engine;
	mmu_mode_changed(rig.v);
	cpu_recheck_events(rig.v);
}

static void detach(void)
{
	rig.v->engine->vcpu_detach(rig.v);
	rig.v->engine = NULL;
}

static int set_up(void **state)
{
	struct engine_needs needs = { .limited = false };
	struct engine_verdict why = { .usable = false };
	struct error e = { .text = "" };

	engine_kvm.probe(&why);
	if (!why.usable) {
		printf("skipped: engine kvm: %s\n", why.reason);
		exit(77);
	}
	printf("# %s\n", why.reason);
	memset(&rig, 0, sizeof(rig));
	rig.mem = memory_create(RAM, &e);
	rig.ports = portmap_create();
	rig.v = aligned_alloc(64, (sizeof(*rig.v) + 63) & ~63ull);
	if (!rig.mem || !rig.ports || !rig.v || engine_kvm.needs(&needs, &e) ||
	    cpu_model_init_within(&rig.model, "host", 1, needs.tsc_hz ? needs.tsc_hz : 1000000000, &needs.cpu, &e))
		fail_msg("%s", e.text);
	memset(rig.v, 0, sizeof(*rig.v));
	assert_non_null(memory_map_ram(rig.mem, 0, 0, RAM, 0, "ram"));
	assert_non_null(memory_map_mmio(rig.mem, 0xfd000000, 0x1000, &mmio_ops, NULL, 1, "mmio"));
	assert_int_equal(portmap_add(rig.ports, 0xe9, 1, &port_ops, NULL, "port"), 0);
	rig.v->model = &rig.model;
	rig.v->hooks = &hooks;
	rig.v->mem = rig.mem;
	rig.v->ports = rig.ports;
	rig.v->mmu = mmu_create();
	return rig.v->mmu ? 0 : -1;
}

static int tear_down(void **state)
{
	if (rig.v->engine)
		detach();
	mmu_destroy(rig.v->mmu);
	free(rig.v);
	portmap_destroy(rig.ports);
	memory_destroy(rig.mem);
	return 0;
}

/* ---- comparing ---- */

/* Of an unusable segment only the selector is state; no padding is. */
static void normalise_segment(struct segment *s)
{
	const struct segment was = *s;

	memset(s, 0, sizeof(*s));
	s->sel = was.sel;
	s->attr = was.attr & SEG_UNUSABLE ? SEG_UNUSABLE : was.attr;
	if (was.attr & SEG_UNUSABLE)
		return;
	s->limit = was.limit;
	s->base = was.base;
}

static void normalise_table(struct table_reg *t)
{
	const struct table_reg was = *t;

	memset(t, 0, sizeof(*t));
	t->base = was.base;
	t->limit = was.limit;
}

/* AMD's do while FSW.ES is set only (APM vol. 2, 11.4.4), so KVM loses them there. */
static bool host_saves_x87_pointers(void)
{
	unsigned a, b = 0, c, d;

	__cpuid(0, a, b, c, d);
	return b == signature_INTEL_ebx;
}

static void normalise(struct cpu *c)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		normalise_segment(&c->seg[i]);
	normalise_segment(&c->ldtr);
	normalise_segment(&c->tr);
	normalise_table(&c->gdtr);
	normalise_table(&c->idtr);
	c->tsc_offset = 0;
	c->bios_sign_id = 0; /* loaded by CPUID, which does not leave KVM: made up for when it is read */
	if (!host_saves_x87_pointers()) {
		memset(c->fpu + FX_FOP, 0, 2);
		memset(c->fpu + FX_FIP, 0, 16);
	}
	memset(c->fpu + XSTATE_HEADER, 0, 64);
	memset(c->fpu + FX_MXCSR_MASK, 0, 4);
}

static void assert_same_cpu(const struct cpu *a, const struct cpu *b, const char *what)
{
	static struct cpu x, y;
	const u8 *p = (const u8 *)&x, *q = (const u8 *)&y;

	x = *a;
	y = *b;
	normalise(&x);
	normalise(&y);
	for (size_t i = 0; i < sizeof(x); i++)
		if (p[i] != q[i])
			fail_msg(
			    "%s: byte %zu of struct cpu: %02x and %02x (fpu begins at %zu, seg at %zu, cr0 at %zu, dr at "
			    "%zu, star at %zu, activity at %zu)",
			    what, i, p[i], q[i], offsetof(struct cpu, fpu), offsetof(struct cpu, seg),
			    offsetof(struct cpu, cr0), offsetof(struct cpu, dr), offsetof(struct cpu, star),
			    offsetof(struct cpu, activity));
}

#endif
