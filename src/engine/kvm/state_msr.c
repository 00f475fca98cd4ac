/*
 * MSRs and the TSC. KVM holds those that instructions use (SYSCALL, SYSENTER,
 * SWAPGS, RDTSCP, RDPID) and SPEC_CTRL. The guest reaches a few without an
 * exit; the filter denies all others, which so come out and go to cpu_rdmsr()
 * and cpu_wrmsr(): one answer in every engine.
 */
#include "engine/kvm/kvm.h"

#include <string.h>

#include "base/log.h"
#include "cpu/msr.h"
#include "cpu/pv.h"

#define MSR_TSC_DEADLINE 0x6e0
#define MSR_X2APIC 0x800
#define X2APIC_MSRS 0x100

const u32 kvm_state_msrs[] = {
	MSR_STAR,	  MSR_LSTAR,	    MSR_CSTAR, MSR_SFMASK,  MSR_KERNEL_GS_BASE, MSR_SYSENTER_CS,
	MSR_SYSENTER_ESP, MSR_SYSENTER_EIP, MSR_PAT,   MSR_TSC_AUX, MSR_SPEC_CTRL,
};
const unsigned kvm_state_msr_count = ARRAY_SIZE(kvm_state_msrs);

static u64 *field(struct cpu *c, u32 msr)
{
	switch (msr) {
	case MSR_STAR:
		return &c->star;
	case MSR_LSTAR:
		return &c->lstar;
	case MSR_CSTAR:
		return &c->cstar;
	case MSR_SFMASK:
		return &c->sfmask;
	case MSR_KERNEL_GS_BASE:
		return &c->kernel_gs_base;
	case MSR_SYSENTER_CS:
		return &c->sysenter_cs;
	case MSR_SYSENTER_ESP:
		return &c->sysenter_esp;
	case MSR_SYSENTER_EIP:
		return &c->sysenter_eip;
	case MSR_PAT:
		return &c->pat;
	case MSR_TSC_AUX:
		return &c->tsc_aux;
	default:
		return &c->spec_ctrl;
	}
}

/* MSRs of the state that the CPU model has. */
static bool in_model(const struct vcpu *v, u32 msr)
{
	if (msr == MSR_TSC_AUX)
		return v->model->rdtscp || v->model->rdpid;
	return msr != MSR_SPEC_CTRL || v->model->spec_ctrl_supported;
}

/* What the guest reaches directly: what kernels write all the time, and EFER, which only KVM can check. Writes of the
 * TSC move ours. Where KVM keeps the APIC, its registers (those of x2APIC mode cannot be filtered), and what of the
 * paravirtual interface goes with it. */
#define BOTH (KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE)
static const struct direct {
	u32 base, count;
	u32 flags;
	bool apic;
	u32 pv; /* PV_* that it is part of */
} direct[] = {
	{ MSR_EFER, 1, BOTH, false, 0 },
	{ MSR_FS_BASE, 3, BOTH, false, 0 }, /* GS_BASE, KERNEL_GS_BASE */
	{ MSR_SPEC_CTRL, 1, BOTH, false, 0 },
	{ MSR_TSC, 1, KVM_MSR_FILTER_READ, false, 0 },
	{ MSR_APIC_BASE, 1, BOTH, true, 0 },
	{ MSR_TSC_DEADLINE, 1, BOTH, true, 0 },
	{ MSR_KVM_PV_EOI_EN, 1, BOTH, true, PV_EOI },
	{ MSR_KVM_STEAL_TIME, 1, BOTH, true, PV_STEAL_TIME },
	{ MSR_KVM_POLL_CONTROL, 1, BOTH, true, PV_POLL_CONTROL },
};

static bool is_direct(const struct direct *d, bool split, const struct kvm_host *h, const struct cpu_model *m)
{
	if ((d->apic && !split) || (d->pv & ~m->pv_features))
		return false;
	return d->base != MSR_KVM_STEAL_TIME || h->steal;
}

static bool in_state(const struct kvm_vcpu *x, u32 msr)
{
	for (unsigned i = 0; i < x->host->msrs; i++)
		if (x->host->msr[i] == msr)
			return true;
	return false;
}

bool kvm_msr_inside(const struct vcpu *v, u32 msr)
{
	const struct kvm_vcpu *x = v->engine_data;

	if (msr == MSR_SPEC_CTRL) /* not every KVM has it */
		return in_state(x, msr);
	if (x->vm->split && msr >= MSR_X2APIC && msr < MSR_X2APIC + X2APIC_MSRS)
		return true;
	for (unsigned i = 0; i < ARRAY_SIZE(direct); i++)
		if (msr - direct[i].base < direct[i].count && (direct[i].flags & KVM_MSR_FILTER_WRITE))
			return is_direct(&direct[i], x->vm->split, x->host, v->model);
	return false;
}

int kvm_set_msr_filter(const struct kvm_vm *vm, const struct kvm_host *h, const struct cpu_model *m)
{
	static const u8 all = 0xff;
	struct kvm_msr_filter f = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
	unsigned n = 0;

	_Static_assert(ARRAY_SIZE(direct) <= KVM_MSR_FILTER_MAX_RANGES, "a range each");
	for (unsigned i = 0; i < ARRAY_SIZE(direct); i++)
		if (is_direct(&direct[i], vm->split, h, m))
			f.ranges[n++] = (struct kvm_msr_filter_range){ .flags = direct[i].flags,
								       .nmsrs = direct[i].count,
								       .base = direct[i].base,
								       .bitmap = (u8 *)&all };
	return kvm_ioctl(vm->fd, KVM_X86_SET_MSR_FILTER, &f);
}

struct msr_list {
	struct kvm_msrs head;
	struct kvm_msr_entry entry[KVM_MSRS_MAX + 1];
};

static bool get(const struct kvm_vcpu *x, struct msr_list *l)
{
	return kvm_ioctl(x->fd, KVM_GET_MSRS, l) == (int)l->head.nmsrs;
}

static bool set(const struct kvm_vcpu *x, const struct msr_list *l)
{
	return kvm_ioctl(x->fd, KVM_SET_MSRS, l) == (int)l->head.nmsrs;
}

static void append(struct msr_list *l, u32 msr, u64 value)
{
	l->entry[l->head.nmsrs++] = (struct kvm_msr_entry){ .index = msr, .data = value };
}

bool kvm_get_msr(const struct kvm_vcpu *x, u32 msr, u64 *val)
{
	struct msr_list l = { .head.nmsrs = 0 };

	append(&l, msr, 0);
	if (!get(x, &l))
		return false;
	*val = l.entry[0].data;
	return true;
}

bool kvm_put_msr(const struct kvm_vcpu *x, u32 msr, u64 val)
{
	struct msr_list l = { .head.nmsrs = 0 };

	append(&l, msr, val);
	return set(x, &l);
}

void kvm_msrs_export(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct msr_list l = { .head.nmsrs = 0 };

	append(&l, MSR_TSC, 0);
	for (unsigned i = 0; i < x->host->msrs; i++)
		if (in_model(v, x->host->msr[i]))
			append(&l, x->host->msr[i], 0);
	if (!get(x, &l))
		return;
	x->tsc_last = l.entry[0].data;
	for (unsigned i = 1; i < l.head.nmsrs; i++)
		*field(&v->cpu, l.entry[i].index) = l.entry[i].data;
}

int kvm_msrs_import(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct msr_list l = { .head.nmsrs = 0 };

	for (unsigned i = 0; i < x->host->msrs; i++) {
		u32 msr = x->host->msr[i];
		u64 value = *field(&v->cpu, msr);

		if (in_model(v, msr) && !(x->seen_valid && value == *field(&x->seen, msr)))
			append(&l, msr, value);
	}
	return !l.head.nmsrs || set(x, &l) ? 0 : -1;
}

void kvm_msr_written(struct vcpu *v, u32 msr)
{
	struct msr_list l = { .head.nmsrs = 0 };

	if (msr == MSR_TSC || msr == MSR_TSC_ADJUST) {
		kvm_tsc_follow(v);
		if (kvm_keeps_apic(v))
			kvm_apic_follow(v, true);
	} else if (in_state(kvm_of(v), msr)) {
		append(&l, msr, *field(&v->cpu, msr));
		set(kvm_of(v), &l);
	}
}

/* ---- time ---- */

/*
 * The guest reads the TSC without an exit: KVM adds an offset to the host's
 * (and scales it). One offset for all processors, beside what each one's own
 * WRMSR adds, so that their TSCs agree to the tick. The machine's clock is
 * CLOCK_MONOTONIC, which NTP slews, and which stands still while the machine is
 * paused: whenever a processor's state goes in, KVM's value is compared with
 * the machine's, and where it is off by more than a millisecond, the offset is
 * made anew for all. A processor never goes back behind what it read last.
 */
#define TSC_SLACK 1000 /* of a second */

static bool tsc_attr(const struct kvm_vcpu *x, unsigned long request, u64 *offset)
{
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL,
				     .attr = KVM_VCPU_TSC_OFFSET,
				     .addr = (u64)(uintptr_t)offset };

	return kvm_ioctl(x->fd, request, &a) == 0;
}

/* A KVM that gives the guest the host's TSC as it is (software emulation does): the processor's offset follows it. */
static void adopt(struct vcpu *v, u64 off)
{
	struct kvm_vcpu *x = kvm_of(v);

	if (!x->tsc_stuck)
		log_info("kvm", "this host's KVM does not set the guest's TSC: the guest sees the host's");
	x->tsc_stuck = true;
	v->cpu.tsc_offset -= off;
	x->tsc_offset = x->seen.tsc_offset = v->cpu.tsc_offset;
}

static bool within(u64 off, u64 slack)
{
	return (s64)off <= (s64)slack && (s64)off >= -(s64)slack;
}

/* The TSC was moved by `off`, and reads `late` more than that: has KVM done it? A change within the slack cannot be
 * told from none. */
static bool took(u64 off, u64 late, u64 slack)
{
	u64 size = (s64)off < 0 ? -off : off;

	return size <= slack || ((s64)late >= -(s64)slack && (s64)late < (s64)(size / 2));
}

/* KVM's TSC, with KVM's offset `have`, is `off` short of the machine's: what is KVM's offset to be? */
static u64 shared_offset(struct vcpu *v, u64 have, u64 off, u64 slack)
{
	struct kvm_vm *vm = kvm_of(v)->vm;
	u64 want;

	pthread_mutex_lock(&vm->lock);
	if (!vm->tsc_known || !within(have + off - (vm->tsc_offset + v->cpu.tsc_offset), slack)) {
		vm->tsc_offset = have + off - v->cpu.tsc_offset;
		vm->tsc_known = true;
	}
	want = vm->tsc_offset + v->cpu.tsc_offset;
	pthread_mutex_unlock(&vm->lock);
	return want;
}

void kvm_tsc_follow(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	u64 slack = v->model->tsc_hz / TSC_SLACK, have = 0, is, be, off, now;
	bool moved = v->cpu.tsc_offset != x->tsc_offset, attr = tsc_attr(x, KVM_GET_DEVICE_ATTR, &have);

	if (!kvm_get_msr(x, MSR_TSC, &is))
		return;
	be = vcpu_tsc(v);
	x->tsc_offset = v->cpu.tsc_offset;
	if (!moved && (s64)(be - x->tsc_last) < 0)
		be = x->tsc_last;
	off = be - is;
	if (attr && !x->tsc_stuck)
		off = shared_offset(v, have, off, slack) - have;
	else if (!moved && within(off, slack))
		return;
	if (!off)
		return;
	x->count[COUNT_TSC_SET]++;
	have += off;
	if (x->tsc_stuck || !(attr ? tsc_attr(x, KVM_SET_DEVICE_ATTR, &have) : kvm_put_msr(x, MSR_TSC, is + off)) ||
	    !kvm_get_msr(x, MSR_TSC, &now)) {
		adopt(v, off);
		return;
	}
	if (!took(off, now - is - off, slack))
		adopt(v, off);
}
