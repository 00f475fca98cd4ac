/*
 * The paravirtual interface of a machine: what reaches it through registers
 * and hypercalls, the structures in guest memory, kicks, state. The payload
 * pv64 tests the same from inside.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <pthread.h>
#include <unistd.h>

#include "cpu/pv.h"
#include "cpu/sys.h"
#include "machine/internal.h"
#include "machine/pv.h"
#include "mem/mmu.h"
#include "replay/door.h"

#define ROM_SIZE (64 * KiB)
#define RAM (4 * MiB)
#define AT 0x2000ull

static char rom_path[] = "/tmp/ectype-test-rom-XXXXXX";

/* `code` runs in real mode at F000:0000, the reset vector jumps there. */
static struct machine *create(enum machine_clock clock, u32 pv, const char *code, size_t n)
{
	static const u8 jump[] = { 0xea, 0x00, 0x00, 0x00, 0xf0 };
	static u8 rom[ROM_SIZE];
	const struct machine_config c = { .name = "test",
					  .memory = RAM,
					  .cpus = 1,
					  .engine = "interp",
					  .clock = clock,
					  .cpu_model = "host",
					  .pv = pv,
					  .firmware = rom_path,
					  .debug_exit = true,
					  .no_reboot = true };
	FILE *f = fopen(rom_path, "w");
	struct error e;

	memset(rom, 0xf4, sizeof(rom));
	memcpy(rom, code, n);
	memcpy(rom + ROM_SIZE - 16, jump, sizeof(jump));
	assert_non_null(f);
	assert_int_equal(fwrite(rom, 1, sizeof(rom), f), sizeof(rom));
	fclose(f);
	struct machine *m = machine_create(&c, &e);

	if (!m)
		fail_msg("%s", e.text);
	return m;
}

static struct machine *idle_machine(enum machine_clock clock, u32 pv)
{
	return create(clock, pv, "\xf4", 1);
}

static int wrmsr(struct machine *m, u32 msr, u64 val)
{
	return cpu_wrmsr(machine_vcpu(m, 0), msr, val);
}

static u64 rdmsr(struct machine *m, u32 msr)
{
	u64 val;

	assert_int_equal(cpu_rdmsr(machine_vcpu(m, 0), msr, &val), 0);
	return val;
}

static u64 call(struct machine *m, u64 nr, u64 a, u64 b)
{
	const u64 args[4] = { a, b };

	return pv_hypercall(m, 0, nr, args, true);
}

static void *ram(struct machine *m, gpa_t gpa)
{
	return memory_ram(m->mem) + gpa;
}

static struct device *pv_device(struct machine *m)
{
	for (struct device *d = m->board.first; d; d = d->next)
		if (!strcmp(d->ops->name, "pv"))
			return d;
	return NULL;
}

static void test_offer(void **state)
{
	struct machine *m = idle_machine(MACHINE_CLOCK_VIRTUAL, 0);
	u32 r[4];
	u64 val;

	assert_null(pv_device(m));
	assert_int_equal(wrmsr(m, MSR_KVM_SYSTEM_TIME_NEW, AT | 1), FAULT);
	pv_enter(m, 0);
	pv_preempted(m, 0);
	assert_true(pv_may_poll(m, 0));
	machine_destroy(m);
	/* a part alone: no register and no call of the others */
	m = idle_machine(MACHINE_CLOCK_VIRTUAL, PV_STEAL_TIME);
	cpu_cpuid(machine_vcpu(m, 0), 0x40000000, 0, r);
	assert_memory_equal(r + 1, "KVMKVMKVM\0\0\0", 12);
	cpu_cpuid(machine_vcpu(m, 0), 0x40000001, 0, r);
	assert_int_equal(r[0], PV_STEAL_TIME);
	cpu_cpuid(machine_vcpu(m, 0), 0x40000100, 0, r);
	assert_memory_equal(r + 1, "EctypeEctype", 12);
	assert_int_equal(wrmsr(m, MSR_KVM_SYSTEM_TIME_NEW, AT | 1), FAULT);
	assert_int_equal(wrmsr(m, MSR_KVM_SYSTEM_TIME, AT | 1), FAULT);
	assert_int_equal(wrmsr(m, MSR_KVM_PV_EOI_EN, AT | 1), FAULT);
	assert_int_equal(cpu_rdmsr(machine_vcpu(m, 0), MSR_KVM_POLL_CONTROL, &val), FAULT);
	assert_int_equal(wrmsr(m, MSR_KVM_STEAL_TIME, AT | 1), 0);
	assert_int_equal(call(m, KVM_HC_KICK_CPU, 0, 0), -KVM_ENOSYS);
	assert_int_equal(call(m, KVM_HC_SEND_IPI, 1, 0), -KVM_ENOSYS);
	assert_int_equal(call(m, KVM_HC_SCHED_YIELD, 0, 0), -KVM_ENOSYS);
	assert_int_equal(call(m, KVM_HC_CLOCK_PAIRING, AT, 0), -KVM_ENOSYS);
	machine_destroy(m);
}

static u64 time_by(const struct pvclock_vcpu_time_info *t, u64 tsc)
{
	u64 d = tsc - t->tsc_timestamp;

	d = t->tsc_shift < 0 ? d >> -t->tsc_shift : d << t->tsc_shift;
	return t->system_time + (u64)((unsigned __int128)d * t->tsc_to_system_mul >> 32);
}

static void test_time(void **state)
{
	struct machine *m = idle_machine(MACHINE_CLOCK_VIRTUAL, PV_ALL);
	struct vcpu *v = machine_vcpu(m, 0);
	struct pvclock_vcpu_time_info *t = ram(m, AT);
	struct pvclock_wall_clock *w = ram(m, AT + 64);
	u32 version;

	v->icount = 123456789;
	t->version = 7;
	assert_int_equal(wrmsr(m, MSR_KVM_SYSTEM_TIME_NEW, AT | 1), 0);
	assert_int_equal(t->version & 1, 0);
	assert_int_equal(t->flags, PVCLOCK_TSC_STABLE);
	assert_int_equal(time_by(t, vcpu_tsc(v)), 123456789);
	v->icount += 1ull << 40;
	assert_int_equal(time_by(t, vcpu_tsc(v)), 123456789 + (1ull << 40));
	/* the TSC is written: another structure, the same time */
	version = t->version;
	assert_int_equal(wrmsr(m, 0x10, 5), 0);
	assert_int_equal(vcpu_tsc(v), 5);
	assert_int_not_equal(t->version, version);
	assert_int_equal(time_by(t, 5), 123456789 + (1ull << 40));
	assert_int_equal(time_by(t, 1005), 123457789 + (1ull << 40));
	/* the guest clears the mark of a stop, an update keeps it */
	pv_wall_moved(m);
	assert_int_equal(t->flags, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
	assert_int_equal(wrmsr(m, 0x3b, 77), 0);
	assert_int_equal(t->flags, PVCLOCK_TSC_STABLE | PVCLOCK_GUEST_STOPPED);
	t->flags = 0;
	assert_int_equal(wrmsr(m, 0x3b, 78), 0);
	assert_int_equal(t->flags, PVCLOCK_TSC_STABLE);
	/* of the virtual clock: 2020-01-01 */
	assert_int_equal(wrmsr(m, MSR_KVM_WALL_CLOCK, AT + 64), 0);
	assert_int_equal(rdmsr(m, MSR_KVM_WALL_CLOCK_NEW), AT + 64);
	assert_int_equal(w->sec, 1577836800);
	assert_int_equal(w->nsec, 0);
	/* INIT: the structure is the guest's again */
	pv_init_cpu(m, 0);
	version = t->version;
	pv_wall_moved(m);
	assert_int_equal(t->version, version);
	machine_destroy(m);
}

/* Nothing is written where no RAM is, nor across its end, nor by half. */
static void test_bad_addresses(void **state)
{
	static const u64 bad[] = { RAM - 8,	   RAM,	    RAM + 4096, 0xa0000,     0xfee00000, 0xffff0000,
				   0xfffffffff000, BIT(63), ~0ull - 63, 0xa0000 - 8, AT + 2 };
	struct machine *m = idle_machine(MACHINE_CLOCK_VIRTUAL, PV_ALL);
	u8 *before = malloc(RAM);

	memset(memory_ram(m->mem), 0x5a, RAM);
	memcpy(before, memory_ram(m->mem), RAM);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(wrmsr(m, MSR_KVM_SYSTEM_TIME_NEW, bad[i] | 1), 0);
		assert_int_equal(wrmsr(m, MSR_KVM_WALL_CLOCK_NEW, bad[i]), 0);
		(void)wrmsr(m, MSR_KVM_PV_EOI_EN, bad[i] | 1);
		if (!(bad[i] & 63))
			assert_int_equal(wrmsr(m, MSR_KVM_STEAL_TIME, bad[i] | 1), 0);
		pv_preempted(m, 0);
		pv_enter(m, 0);
		pv_wall_moved(m);
		if (bad[i] % 4 == 0)
			assert_int_equal(call(m, KVM_HC_CLOCK_PAIRING, bad[i], 0), -KVM_EFAULT);
	}
	assert_memory_equal(before, memory_ram(m->mem), RAM);
	free(before);
	machine_destroy(m);
}

static void test_turns(void **state)
{
	struct machine *m = idle_machine(MACHINE_CLOCK_VIRTUAL, PV_ALL);
	struct vcpu *v = machine_vcpu(m, 0);
	struct kvm_steal_time *s = ram(m, AT);
	u64 flushes;

	s->preempted = KVM_VCPU_PREEMPTED | KVM_VCPU_FLUSH_TLB;
	s->version = 9;
	s->steal = 1000;
	assert_int_equal(wrmsr(m, MSR_KVM_STEAL_TIME, AT | 2 | 1), FAULT);
	assert_int_equal(wrmsr(m, MSR_KVM_STEAL_TIME, AT | 1), 0);
	assert_int_equal(s->preempted, 0);
	assert_int_equal(s->version & 1, 0);
	flushes = v->mmu->flushes;
	v->icount += 100;
	pv_enter(m, 0);
	assert_int_equal(s->steal, 1000);
	pv_preempted(m, 0);
	assert_int_equal(s->preempted, KVM_VCPU_PREEMPTED);
	v->icount += 250;
	pv_enter(m, 0);
	assert_int_equal(s->preempted, 0);
	assert_int_equal(s->steal, 1250);
	assert_int_equal(v->mmu->flushes, flushes);
	/* another processor wants its TLB flushed */
	pv_preempted(m, 0);
	s->preempted |= KVM_VCPU_FLUSH_TLB;
	pv_enter(m, 0);
	assert_int_equal(s->preempted, 0);
	assert_int_equal(v->mmu->flushes, flushes + 1);
	/* what the guest writes into a processor that runs is not looked at */
	s->preempted = KVM_VCPU_FLUSH_TLB;
	pv_enter(m, 0);
	assert_int_equal(v->mmu->flushes, flushes + 1);
	assert_int_equal(wrmsr(m, MSR_KVM_STEAL_TIME, AT), 0);
	pv_preempted(m, 0);
	assert_int_equal(s->preempted, KVM_VCPU_FLUSH_TLB);
	machine_destroy(m);
}

/* A thread of its own: sleep for a halted processor is not stolen, any other is. */
static void test_thread(void **state)
{
	struct machine *m = idle_machine(MACHINE_CLOCK_REAL, PV_ALL);
	struct kvm_steal_time *s = ram(m, AT);
	u64 slept;

	clock_start(m->clock);
	assert_int_equal(wrmsr(m, MSR_KVM_STEAL_TIME, AT | 1), 0);
	usleep(30000);
	pv_enter(m, 0);
	assert_true(s->steal > 25000000);
	slept = s->steal;
	usleep(30000);
	pv_enter(m, 0);
	assert_true(s->steal > slept + 25000000);
	slept = clock_now(m->clock);
	pv_sleep(m, 0);
	usleep(400000);
	pv_wake(m, 0);
	u64 before = s->steal;

	pv_enter(m, 0);
	assert_true(s->steal >= before && s->steal - before < clock_now(m->clock) - slept - 300000000);
	machine_destroy(m);
}

/* ---- kicks ---- */

/* cli; hlt; mov al, 11h; out f4h, al */
#define HALT "\xfa\xf4\xb0\x11\xe6\xf4\xf4"

static void kick(void *m)
{
	call(m, KVM_HC_KICK_CPU, 0, 0);
}

static void *kick_soon(void *m)
{
	usleep(30000);
	machine_call(m, kick, m);
	return NULL;
}

static void test_kicks(void **state)
{
	for (unsigned i = 0; i < 4; i++) {
		enum machine_clock clock = i & 1 ? MACHINE_CLOCK_REAL : MACHINE_CLOCK_VIRTUAL;
		struct machine *m = create(clock, PV_ALL, HALT, sizeof(HALT) - 1);
		struct machine_result r;
		pthread_t t;

		if (i < 2)
			kick(m);
		else
			pthread_create(&t, NULL, kick_soon, m);
		machine_run(m, &r);
		if (i >= 2)
			pthread_join(t, NULL);
		assert_int_equal(r.end, MACHINE_END_DEBUG_EXIT);
		assert_int_equal(r.exit_code, 0x23);
		assert_false(machine_vcpu(m, 0)->kicked);
		machine_destroy(m);
	}
	/* one kick, one HLT */
	struct machine *m = create(MACHINE_CLOCK_VIRTUAL, PV_ALL, "\xfa\xf4\xf4", 3);
	struct machine_result r;

	kick(m);
	machine_run_until(m, 1000, &r);
	assert_int_equal(r.end, MACHINE_END_HALTED);
	assert_int_equal(machine_vcpu(m, 0)->icount, 4);
	machine_destroy(m);
}

/* ---- state ---- */

static struct encoder saved(struct machine *m)
{
	struct encoder e;

	enc_init(&e);
	pv_device(m)->ops->save(pv_device(m), &e);
	return e;
}

static void test_state(void **state)
{
	struct machine *a = idle_machine(MACHINE_CLOCK_VIRTUAL, PV_ALL), *b;
	struct pvclock_vcpu_time_info *t;
	struct encoder ea, eb;

	wrmsr(a, MSR_KVM_SYSTEM_TIME_NEW, AT | 1);
	wrmsr(a, MSR_KVM_WALL_CLOCK_NEW, AT + 64);
	wrmsr(a, MSR_KVM_STEAL_TIME, (AT + 128) | 1);
	wrmsr(a, MSR_KVM_POLL_CONTROL, 0);
	pv_preempted(a, 0);
	kick(a);
	ea = saved(a);
	b = idle_machine(MACHINE_CLOCK_VIRTUAL, PV_ALL);
	t = ram(b, AT);

	struct decoder d = { .data = ea.data, .len = ea.len };
	struct decoder again = d;

	assert_int_equal(pv_device(b)->ops->check(pv_device(b), &d), 0);
	assert_int_equal(t->version, 0);
	pv_device(b)->ops->load(pv_device(b), &again);
	assert_int_equal(t->version, 0); /* memory is loaded apart, and true */
	assert_true(machine_vcpu(b, 0)->kicked);
	assert_false(pv_may_poll(b, 0));
	assert_int_equal(rdmsr(b, MSR_KVM_STEAL_TIME), (AT + 128) | 1);
	eb = saved(b);
	assert_int_equal(ea.len, eb.len);
	assert_memory_equal(ea.data, eb.data, ea.len);
	for (size_t len = 0; len < ea.len; len++) {
		struct decoder cut = { .data = ea.data, .len = len };

		assert_int_equal(pv_device(b)->ops->check(pv_device(b), &cut), -1);
	}
	/* another count of processors; reserved bits of stolen time and polling */
	static const struct {
		unsigned from_end;
		u8 val;
	} bad[] = { { 38, 2 }, { 26, 2 }, { 18, 2 }, { 10, 2 }, { 1, 2 } };

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		u8 *at = ea.data + ea.len - bad[i].from_end, old = *at;
		struct decoder damaged = { .data = ea.data, .len = ea.len };

		*at = bad[i].val;
		assert_int_equal(pv_device(b)->ops->check(pv_device(b), &damaged), -1);
		*at = old;
	}
	/* reset */
	machine_reset(b);
	assert_int_equal(rdmsr(b, MSR_KVM_SYSTEM_TIME_NEW), 0);
	assert_int_equal(rdmsr(b, MSR_KVM_POLL_CONTROL), 1);
	assert_false(machine_vcpu(b, 0)->kicked);
	enc_free(&ea);
	enc_free(&eb);
	machine_destroy(a);
	machine_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_offer), cmocka_unit_test(test_time),   cmocka_unit_test(test_bad_addresses),
		cmocka_unit_test(test_turns), cmocka_unit_test(test_thread), cmocka_unit_test(test_kicks),
		cmocka_unit_test(test_state),
	};
	int failed, fd = mkstemp(rom_path);

	if (fd < 0)
		return 1;
	close(fd);
	failed = cmocka_run_group_tests(tests, NULL, NULL);
	unlink(rom_path);
	return failed;
}
