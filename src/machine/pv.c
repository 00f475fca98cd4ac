/*
 * Paravirtual time, stolen time and MSRs (Linux, Documentation/virt/kvm/x86,
 * msr.rst and cpuid.rst). Hypercalls are in pv_call.c, EOI by flag in the
 * local APIC (dev/chipset/lapic_pv_eoi.c).
 *
 * Time. A processor's structure holds one moment, TSC and nanoseconds since
 * power-on. Guest time and TSC are one count here (dev/clock.h), so factor and
 * shift make exactly 1 of it, and the structure stays true until the guest
 * writes its TSC: it is never brought up to date while the guest runs.
 *
 * Stolen time is time in which a processor could have run and did not:
 *   - with a thread of its own: what has passed, less what the thread ran and
 *     what it slept because the processor was halted. Looked at when the
 *     processor goes on, at most once in STEAL_PERIOD;
 *   - in turns: from the end of a turn to the beginning of the next one. That
 *     is guest time, the same in each run with the virtual clock.
 *
 * What the guest gives as addresses must be RAM, whole and aligned. A bad one
 * is not an error, as in KVM: nothing is written there.
 */
#include "machine/pv.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/linear.h"
#include "cpu/pv.h"
#include "machine/internal.h"
#include "replay/door.h"

#define STEAL_PERIOD 1000000u /* ns; reading the time a thread ran is a system call, some 0.3 us */
#define STEAL_RESERVED 0x3eull
#define POLL_ALLOWED 1ull

struct pv_cpu {
	/* MSRs */
	u64 system_time, steal, poll;
	bool preempted; /* we said so */
	u64 turn_end;	/* guest time at which a turn ended that could have gone on; CLOCK_NEVER: none */
	/* Stolen time of a thread: counted from guest time `since` on, when it had run for `ran`. */
	pthread_t thread;
	u64 since, ran, slept, reported, looked, asleep;
};

struct pv {
	struct device dev;
	struct machine *m;
	u64 wall_clock; /* MSR */
	unsigned count;
	struct pv_cpu cpu[];
};

/* The guest's structure at `gpa`, or NULL. */
static void *area(const struct pv *p, gpa_t gpa, u64 len)
{
	return gpa & 3 ? NULL : memory_ptr(p->m->mem, gpa, len, true);
}

static void written(const struct pv *p, gpa_t gpa, u64 len)
{
	memory_notify_written(p->m->mem, gpa, (unsigned)len);
}

/* Readers take what lies between two reads of the same, even version. */
static u32 begin_update(u32 *version)
{
	u32 odd = (*version + 1) | 1;

	__atomic_store_n(version, odd, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return odd;
}

static void end_update(u32 *version, u32 odd)
{
	__atomic_store_n(version, odd + 1, __ATOMIC_RELEASE);
}

/* ---- time ---- */

/* Do all processors have one TSC? Then the time of one may be computed with the structure of another. */
static bool tsc_in_step(const struct pv *p)
{
	for (unsigned n = 1; n < p->count; n++)
		if (machine_vcpu(p->m, n)->cpu.tsc_offset != machine_vcpu(p->m, 0)->cpu.tsc_offset)
			return false;
	return true;
}

static void write_time(struct pv *p, unsigned n, u8 flags)
{
	gpa_t gpa = p->cpu[n].system_time & ~KVM_MSR_ENABLED;
	struct pvclock_vcpu_time_info *t, now = {
		.tsc_timestamp = clock_tsc(p->m->clock),
		/* 2 * 2^31 / 2^32 = 1 */
		.tsc_to_system_mul = 1u << 31,
		.tsc_shift = 1,
		.flags = flags,
	};

	if (!(p->cpu[n].system_time & KVM_MSR_ENABLED) || !(t = area(p, gpa, sizeof(*t))))
		return;
	now.system_time = now.tsc_timestamp;
	now.tsc_timestamp += machine_vcpu(p->m, n)->cpu.tsc_offset;
	if ((p->m->model.pv_features & PV_CLOCK_STABLE) && tsc_in_step(p))
		now.flags |= PVCLOCK_TSC_STABLE;
	/* The guest clears this one. */
	now.flags |= t->flags & PVCLOCK_GUEST_STOPPED;
	now.version = begin_update(&t->version);
	memcpy((u8 *)t + sizeof(t->version), (u8 *)&now + sizeof(now.version), sizeof(now) - sizeof(now.version));
	end_update(&t->version, now.version);
	written(p, gpa, sizeof(*t));
}

static void write_times(struct pv *p, u8 flags)
{
	for (unsigned n = 0; n < p->count; n++)
		write_time(p, n, flags);
}

/* Every structure says whether the TSCs are in step. */
void pv_tsc_moved(void *machine, unsigned n)
{
	struct machine *m = machine;

	if (m->pv)
		write_times(m->pv, 0);
}

void pv_wall_moved(struct machine *m)
{
	if (m->pv)
		write_times(m->pv, PVCLOCK_GUEST_STOPPED);
}

bool pv_clock_used(const struct machine *m)
{
	for (unsigned n = 0; m->pv && n < m->pv->count; n++)
		if (m->pv->cpu[n].system_time & KVM_MSR_ENABLED)
			return true;
	return false;
}

static void write_wall_clock(struct pv *p)
{
	struct door *door = p->m->door;
	u64 at_zero = door_mode(door) == DOOR_VIRTUAL ? door_wall_epoch(door) * NSEC_PER_SEC
						      : door_wall_ns(door) - clock_now(p->m->clock);
	struct pvclock_wall_clock *w = area(p, p->wall_clock, sizeof(*w));

	if (!w)
		return;
	u32 odd = begin_update(&w->version);

	w->sec = (u32)(at_zero / NSEC_PER_SEC);
	w->nsec = (u32)(at_zero % NSEC_PER_SEC);
	end_update(&w->version, odd);
	written(p, p->wall_clock, sizeof(*w));
}

/* ---- stolen time ---- */

static struct kvm_steal_time *steal_area(const struct pv *p, unsigned n)
{
	u64 msr = p->cpu[n].steal;

	return msr & KVM_MSR_ENABLED ? area(p, msr & ~KVM_MSR_ENABLED, sizeof(struct kvm_steal_time)) : NULL;
}

static void steal_written(const struct pv *p, unsigned n)
{
	written(p, p->cpu[n].steal & ~KVM_MSR_ENABLED, sizeof(struct kvm_steal_time));
}

/* Does the processor have a thread of its own, in real time? */
static bool own_thread(const struct pv *p)
{
	return p->m->cfg.clock == MACHINE_CLOCK_REAL && (p->count == 1 || p->m->group.parallel);
}

static void count_anew(struct pv *p, struct pv_cpu *c, u64 now)
{
	c->thread = pthread_self();
	c->since = c->looked = now;
	c->ran = door_thread_ns(p->m->door);
	c->slept = c->reported = 0;
}

/* Newly stolen from a processor with a thread of its own. Sums are compared, not differences: what one look is wrong
 * by the next one puts right. */
static u64 stolen_from_thread(struct pv *p, struct pv_cpu *c)
{
	u64 now = clock_now(p->m->clock), sum, more;

	if (!c->since || !pthread_equal(c->thread, pthread_self())) {
		count_anew(p, c, now);
		return 0;
	}
	if (now - c->looked < STEAL_PERIOD)
		return 0;
	c->looked = now;
	sum = now - c->since - c->slept - (door_thread_ns(p->m->door) - c->ran);
	more = sum - c->reported;
	if ((s64)sum < 0 || (s64)more <= 0)
		return 0;
	c->reported = sum;
	return more;
}

static u64 stolen_between_turns(struct pv *p, struct pv_cpu *c)
{
	u64 from = c->turn_end;

	c->turn_end = CLOCK_NEVER;
	return from == CLOCK_NEVER ? 0 : clock_now(p->m->clock) - from;
}

static void report_stolen(struct pv *p, unsigned n, u64 ns)
{
	struct kvm_steal_time *s = steal_area(p, n);

	if (!s)
		return;
	u32 odd = begin_update(&s->version);

	s->steal += ns;
	end_update(&s->version, odd);
	steal_written(p, n);
}

/* The flag goes before the first instruction: who asks for a flush after this sees a processor that runs, and sends an
 * IPI. */
static void end_preemption(struct pv *p, unsigned n)
{
	struct kvm_steal_time *s = steal_area(p, n);

	p->cpu[n].preempted = false;
	if (!s)
		return;
	if (__atomic_exchange_n(&s->preempted, 0, __ATOMIC_SEQ_CST) & KVM_VCPU_FLUSH_TLB)
		mmu_flush_all(machine_vcpu(p->m, n));
	steal_written(p, n);
}

void pv_enter(struct machine *m, unsigned n)
{
	struct pv *p = m->pv;
	u64 ns;

	if (!p || m->apics_lent || !(p->cpu[n].steal & KVM_MSR_ENABLED))
		return;
	if (p->cpu[n].preempted)
		end_preemption(p, n);
	ns = own_thread(p) ? stolen_from_thread(p, &p->cpu[n]) : stolen_between_turns(p, &p->cpu[n]);
	if (ns)
		report_stolen(p, n, ns);
}

void pv_preempted(struct machine *m, unsigned n)
{
	struct pv *p = m->pv;
	struct kvm_steal_time *s;

	if (!p || m->apics_lent || !(p->cpu[n].steal & KVM_MSR_ENABLED))
		return;
	if (!own_thread(p))
		p->cpu[n].turn_end = clock_now(m->clock);
	s = steal_area(p, n);
	if (!s)
		return;
	p->cpu[n].preempted = true;
	__atomic_store_n(&s->preempted, KVM_VCPU_PREEMPTED, __ATOMIC_SEQ_CST);
	steal_written(p, n);
}

void pv_sleep(struct machine *m, unsigned n)
{
	if (m->pv && (m->pv->cpu[n].steal & KVM_MSR_ENABLED))
		m->pv->cpu[n].asleep = clock_now(m->clock);
}

void pv_wake(struct machine *m, unsigned n)
{
	struct pv_cpu *c = m->pv ? &m->pv->cpu[n] : NULL;

	if (!c || !c->asleep)
		return;
	c->slept += clock_now(m->clock) - c->asleep;
	c->asleep = 0;
}

static void set_steal(struct pv *p, unsigned n, u64 val)
{
	struct pv_cpu *c = &p->cpu[n];
	struct kvm_steal_time *s;

	c->steal = val;
	c->preempted = false;
	c->turn_end = CLOCK_NEVER;
	c->since = c->asleep = 0;
	s = steal_area(p, n);
	if (!s)
		return;
	s->preempted = 0;
	if (own_thread(p))
		count_anew(p, c, clock_now(p->m->clock));
	report_stolen(p, n, 0); /* an even version */
}

/* ---- lent with the APICs ---- */

void pv_lend(struct machine *m, unsigned n, struct apic_state *s)
{
	if (!m->pv)
		return;
	s->steal_time = m->pv->cpu[n].steal;
	s->poll_control = m->pv->cpu[n].poll;
}

/* What was marked as preempted meanwhile is so no more when it goes on, and a flush asked for is done then. */
void pv_take_back(struct machine *m, unsigned n, const struct apic_state *s)
{
	struct pv_cpu *c = m->pv ? &m->pv->cpu[n] : NULL;

	if (!c)
		return;
	c->steal = s->steal_time & STEAL_RESERVED ? 0 : s->steal_time;
	c->poll = s->poll_control & POLL_ALLOWED;
	c->preempted = true;
	c->turn_end = CLOCK_NEVER;
	c->since = c->asleep = 0;
}

/* ---- polling ---- */

bool pv_may_poll(const struct machine *m, unsigned n)
{
	return !m->pv || (m->pv->cpu[n].poll & POLL_ALLOWED);
}

/* ---- MSRs ---- */

/* The feature that a register belongs to; 0: there is no such register. */
static u32 feature_of(u32 msr)
{
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_SYSTEM_TIME:
		return PV_CLOCK_OLD;
	case MSR_KVM_WALL_CLOCK_NEW:
	case MSR_KVM_SYSTEM_TIME_NEW:
		return PV_CLOCK;
	case MSR_KVM_STEAL_TIME:
		return PV_STEAL_TIME;
	case MSR_KVM_PV_EOI_EN:
		return PV_EOI;
	case MSR_KVM_POLL_CONTROL:
		return PV_POLL_CONTROL;
	default:
		return 0;
	}
}

/* Is the register with the engine? */
static bool is_lent(const struct machine *m, u32 msr)
{
	return m->apics_lent && (msr == MSR_KVM_STEAL_TIME || msr == MSR_KVM_PV_EOI_EN || msr == MSR_KVM_POLL_CONTROL);
}

int pv_msr_read(void *machine, unsigned n, u32 msr, u64 *val)
{
	struct machine *m = machine;
	const struct pv *p = m->pv;

	if (!p || !(m->model.pv_features & feature_of(msr)))
		return -1;
	if (is_lent(m, msr))
		return m->engine->apics->msr_read(machine_vcpu(m, n), msr, val);
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		*val = p->wall_clock;
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		*val = p->cpu[n].system_time;
		return 0;
	case MSR_KVM_STEAL_TIME:
		*val = p->cpu[n].steal;
		return 0;
	case MSR_KVM_PV_EOI_EN:
		*val = lapic_pv_eoi(lapic_of(m->lapics, n));
		return 0;
	default:
		*val = p->cpu[n].poll;
		return 0;
	}
}

int pv_msr_write(void *machine, unsigned n, u32 msr, u64 val)
{
	struct machine *m = machine;
	struct pv *p = m->pv;

	if (!p || !(m->model.pv_features & feature_of(msr)))
		return -1;
	if (is_lent(m, msr))
		return m->engine->apics->msr_write(machine_vcpu(m, n), msr, val);
	switch (msr) {
	case MSR_KVM_WALL_CLOCK:
	case MSR_KVM_WALL_CLOCK_NEW:
		p->wall_clock = val;
		write_wall_clock(p);
		return 0;
	case MSR_KVM_SYSTEM_TIME:
	case MSR_KVM_SYSTEM_TIME_NEW:
		p->cpu[n].system_time = val;
		write_time(p, n, 0);
		return 0;
	case MSR_KVM_STEAL_TIME:
		if (val & STEAL_RESERVED)
			return -1;
		set_steal(p, n, val);
		return 0;
	case MSR_KVM_PV_EOI_EN:
		return lapic_set_pv_eoi(lapic_of(m->lapics, n), val);
	default:
		if (val & ~POLL_ALLOWED)
			return -1;
		p->cpu[n].poll = val;
		return 0;
	}
}

/* ---- the device ---- */

static struct pv *of_device(const struct device *d)
{
	return container_of((struct device *)(uintptr_t)d, struct pv, dev);
}

void pv_init_cpu(struct machine *m, unsigned n)
{
	if (!m->pv)
		return;
	m->pv->cpu[n].system_time = 0;
	set_steal(m->pv, n, 0);
}

static void reset(struct device *d)
{
	struct pv *p = of_device(d);

	p->wall_clock = 0;
	for (unsigned n = 0; n < p->count; n++) {
		pv_init_cpu(p->m, n);
		p->cpu[n].poll = POLL_ALLOWED;
	}
}

/*
 * Section "pv", version 1: the wall clock's MSR, u32 processors, of each the
 * MSRs of system time, stolen time and polling, whether it counts as preempted
 * and since when, and vcpu.kicked. What was stolen is in guest memory. The
 * local APIC saves its own.
 */
static void save(const struct device *d, struct encoder *e)
{
	const struct pv *p = of_device(d);

	enc_begin(e, d->ops->name, 1);
	enc_u64(e, p->wall_clock);
	enc_u32(e, p->count);
	for (unsigned n = 0; n < p->count; n++) {
		enc_u64(e, p->cpu[n].system_time);
		enc_u64(e, p->cpu[n].steal);
		enc_u64(e, p->cpu[n].poll);
		enc_bool(e, p->cpu[n].preempted);
		enc_u64(e, p->cpu[n].turn_end);
		enc_bool(e, machine_vcpu(p->m, n)->kicked);
	}
	enc_end(e);
}

static bool decode_cpu(struct decoder *s, struct pv_cpu *c, bool *kicked)
{
	*c = (struct pv_cpu){ .system_time = dec_u64(s) };
	c->steal = dec_u64(s);
	c->poll = dec_u64(s);
	c->preempted = dec_bool(s);
	c->turn_end = dec_u64(s);
	*kicked = dec_bool(s);
	return !(c->steal & STEAL_RESERVED) && !(c->poll & ~POLL_ALLOWED);
}

static int check(const struct device *d, struct decoder *in)
{
	struct decoder s;
	struct pv_cpu c;
	bool kicked;

	if (!dec_begin(in, d->ops->name, &s) || s.version != 1)
		return -1;
	dec_u64(&s);
	if (dec_u32(&s) != of_device(d)->count)
		return -1;
	for (unsigned n = 0; n < of_device(d)->count; n++)
		if (!decode_cpu(&s, &c, &kicked))
			return -1;
	return dec_done(&s) ? 0 : -1;
}

/* Memory, clock and processors are loaded before. The structures in memory are true still: guest time goes on where it
 * stopped. */
static void load(struct device *d, struct decoder *in)
{
	struct pv *p = of_device(d);
	struct decoder s;
	bool kicked;

	if (!dec_begin(in, d->ops->name, &s))
		return;
	p->wall_clock = dec_u64(&s);
	dec_u32(&s);
	for (unsigned n = 0; n < p->count; n++) {
		decode_cpu(&s, &p->cpu[n], &kicked);
		if (p->cpu[n].turn_end != CLOCK_NEVER)
			p->cpu[n].turn_end = MIN(p->cpu[n].turn_end, clock_now(p->m->clock));
		machine_vcpu(p->m, n)->kicked = kicked;
	}
}

static void destroy(struct device *d)
{
	struct pv *p = of_device(d);

	p->m->pv = NULL;
	free(p);
}

static const struct device_ops ops = {
	.name = "pv",
	.reset = reset,
	.save = save,
	.check = check,
	.load = load,
	.destroy = destroy,
};

int pv_create(struct machine *m, struct error *e)
{
	unsigned count = machine_cpus(m);
	struct pv *p;

	if (!m->model.pv_features)
		return 0;
	assert(!(m->model.pv_features & PV_CLOCK_ALL) || clock_tsc_hz(m->clock) == NSEC_PER_SEC);
	p = calloc(1, sizeof(*p) + count * sizeof(p->cpu[0]));
	if (!p)
		return error_set(e, "not enough host memory");
	p->dev.ops = &ops;
	p->m = m;
	p->count = count;
	m->pv = p;
	reset(&p->dev);
	board_attach(&m->board, &p->dev);
	return 0;
}
