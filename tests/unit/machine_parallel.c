/*
 * Processors on threads of their own, with an engine that runs no guest code
 * but does to the machine what engines do: interrupts sent and taken, halts,
 * the world stopped. Others pause the machine meanwhile, and stop it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "machine/internal.h"

#define CPUS 4u
#define CALLS 300u
#define MSR_SVR 0x80f
#define MSR_EOI 0x80b
#define MSR_ICR 0x830
#define VECTOR 0x40u

static char rom_path[] = "/tmp/ectype-test-rom-XXXXXX";
static _Atomic u32 running[CPUS], sent, taken, nmis, stray;
static u32 left, right; /* equal to those inside the world */

static void take_interrupt(struct vcpu *v)
{
	vcpu_clear(v, EV_INTR);
	while (v->hooks->intr_pending(v->machine, v->index)) {
		int vector = v->hooks->intr_ack(v->machine, v->index);

		if (vector != (int)VECTOR)
			atomic_fetch_add(&stray, 1);
		v->hooks->apic_msr_write(v->machine, v->index, MSR_EOI, 0);
		atomic_fetch_add(&taken, 1);
		v->cpu.activity = ACT_RUNNING;
	}
}

static void stop_world(struct vcpu *v)
{
	world_stop(v->group->world, v->index);
	left++;
	usleep(1);
	right++;
	world_go(v->group->world, v->index);
}

static void step(struct vcpu *v)
{
	u64 n = v->icount++;

	if (left != right)
		atomic_fetch_add(&stray, 1);
	if (n % 64 == v->index)
		v->hooks->apic_msr_write(v->machine, v->index, MSR_ICR, (u64)((v->index + 1) % CPUS) << 32 | VECTOR);
	if (n % 64 == v->index)
		atomic_fetch_add(&sent, 1);
	if (n % 4096 == 100) /* NMI to all others */
		v->hooks->apic_msr_write(v->machine, v->index, MSR_ICR, 3 << 18 | APIC_NMI << 8);
	if (n % 1024 == 200 + v->index)
		stop_world(v);
	if (n % 512 == 300 + v->index)
		v->cpu.activity = ACT_HALTED;
}

static enum vcpu_exit run(struct vcpu *v, const struct run_budget *b)
{
	enum vcpu_exit why;

	atomic_store(&running[v->index], 1);
	for (;;) {
		if (v->event & EV_WORLD) {
			vcpu_clear(v, EV_WORLD);
			world_yield(v->group->world, v->index);
		}
		if (v->event & EV_NMI) {
			vcpu_clear(v, EV_NMI);
			v->cpu.nmi_pending = false;
			v->cpu.activity = ACT_RUNNING;
			atomic_fetch_add(&nmis, 1);
		}
		if ((v->event & EV_INTR) || v->cpu.activity == ACT_HALTED)
			take_interrupt(v);
		why = VCPU_EXIT_EVENT;
		if (v->event & (EV_KICK | EV_TIMER | EV_RESET))
			break;
		why = VCPU_EXIT_HALT;
		if (v->cpu.activity != ACT_RUNNING)
			break;
		step(v);
	}
	atomic_store(&running[v->index], 0);
	return why;
}

/* Everybody is at a boundary, and goes on running when this returns. */
static void look(void *opaque)
{
	struct machine *m = opaque;

	for (unsigned i = 0; i < CPUS; i++) {
		if (atomic_load(&running[i]))
			atomic_fetch_add(&stray, 1);
		m->cpu[i].v->cpu.activity = ACT_RUNNING;
	}
}

static void *caller(void *opaque)
{
	struct machine *m = opaque;

	for (unsigned i = 0; i < CALLS; i++) {
		machine_call(m, look, m);
		usleep(i % 8 * 300);
	}
	machine_stop(m);
	return NULL;
}

static struct machine *create(void)
{
	static const struct engine_ops fake = { .name = "fake", .caps = ENGINE_SMP, .run = run };
	static u8 rom[64 * KiB];
	struct machine_config c = { .name = "test",
				    .memory = 4 * MiB,
				    .cpus = CPUS,
				    .engine = "interp",
				    .clock = MACHINE_CLOCK_REAL,
				    .cpu_model = "host",
				    .firmware = rom_path };
	FILE *f = fopen(rom_path, "w");
	struct error e;

	memset(rom, 0xf4, sizeof(rom));
	assert_non_null(f);
	assert_int_equal(fwrite(rom, 1, sizeof(rom), f), sizeof(rom));
	fclose(f);
	struct machine *m = machine_create(&c, &e);

	if (!m)
		fail_msg("%s", e.text);
	for (unsigned i = 0; i < CPUS; i++) {
		struct vcpu *v = m->cpu[i].v;
		u64 base;

		v->engine = &fake;
		v->cpu.activity = ACT_RUNNING;
		v->cpu.rflags |= FL_IF;
		assert_int_equal(v->hooks->apic_msr_read(m, i, MSR_IA32_APIC_BASE, &base), 0);
		assert_int_equal(v->hooks->apic_msr_write(m, i, MSR_IA32_APIC_BASE, base | 0xc00), 0);
		assert_int_equal(v->hooks->apic_msr_write(m, i, MSR_SVR, 0x1ff), 0);
	}
	m->group.parallel = true;
	m->group.world = &m->world;
	return m;
}

static void test_all(void **state)
{
	struct machine *m = create();
	struct machine_result r;
	pthread_t t;

	/* twice: the threads begin anew */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&t, NULL, caller, m), 0);
		machine_run(m, &r);
		pthread_join(t, NULL);
		assert_int_equal(r.end, MACHINE_END_STOPPED);
	}
	assert_int_equal(stray, 0);
	assert_int_equal(left, right);
	assert_true(left > 0 && nmis > 0 && taken > 0 && taken <= sent);
	for (unsigned i = 0; i < CPUS; i++)
		assert_true(machine_vcpu(m, i)->icount > 1000);
	machine_destroy(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(test_all) };
	int fd = mkstemp(rom_path), ret;

	close(fd);
	ret = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(rom_path);
	return ret;
}
