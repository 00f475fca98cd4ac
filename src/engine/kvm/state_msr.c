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
 * TSC move ours. */
static const struct {
	u32 base, count;
	u32 flags;
} direct[] = {
	{ MSR_EFER, 1, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE },
	{ MSR_FS_BASE, 3, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE }, /* GS_BASE, KERNEL_GS_BASE */
	{ MSR_SPEC_CTRL, 1, KVM_MSR_FILTER_READ | KVM_MSR_FILTER_WRITE },
	{ MSR_TSC, 1, KVM_MSR_FILTER_READ },
};

static bool in_state(const struct kvm_vcpu *x, u32 msr)
{
	for (unsigned i = 0; i < x->host->msrs; i++)
		if (x->host->msr[i] == msr)
			return true;
	return false;
}

bool kvm_msr_inside(const struct vcpu *v, u32 msr)
{
	if (msr == MSR_SPEC_CTRL) /* not every KVM has it */
		return in_state(v->engine_data, msr);
	for (unsigned i = 0; i < ARRAY_SIZE(direct); i++)
		if (msr - direct[i].base < direct[i].count && (direct[i].flags & KVM_MSR_FILTER_WRITE))
			return true;
	return false;
}

int kvm_set_msr_filter(int vm_fd)
{
	static const u8 all = 0xff;
	struct kvm_msr_filter f = { .flags = KVM_MSR_FILTER_DEFAULT_DENY };
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_SIZE(direct); i++)
		f.ranges[n++] = (struct kvm_msr_filter_range){
			.flags = direct[i].flags, .nmsrs = direct[i].count, .base = direct[i].base, .bitmap = (u8 *)&all
		};
	return kvm_ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, &f);
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
	} else if (in_state(kvm_of(v), msr)) {
		append(&l, msr, *field(&v->cpu, msr));
		set(kvm_of(v), &l);
	}
}

/* ---- time ---- */

/*
 * The guest reads the TSC without an exit: KVM adds an offset to the host's
 * (and scales it). The machine's clock is CLOCK_MONOTONIC, which NTP slews, and
 * which stands still while the machine is paused: so whenever the state goes
 * in, KVM's value is compared with the machine's and put right if it is off by
 * more than the comparison itself may be. The guest has run nothing since
 * tsc_last, so that a step back to any later value is none it can see.
 */
#define TSC_SLACK 100000 /* of a second */

static bool set_offset(const struct kvm_vcpu *x, u64 move)
{
	u64 offset = 0;
	struct kvm_device_attr a = { .group = KVM_VCPU_TSC_CTRL,
				     .attr = KVM_VCPU_TSC_OFFSET,
				     .addr = (u64)(uintptr_t)&offset };

	if (kvm_ioctl(x->fd, KVM_GET_DEVICE_ATTR, &a))
		return false;
	offset += move;
	return kvm_ioctl(x->fd, KVM_SET_DEVICE_ATTR, &a) == 0;
}

static bool set_value(const struct kvm_vcpu *x, struct msr_list *l, u64 value)
{
	l->entry[0].data = value;
	return set(x, l);
}

/* Is the TSC that was read now where it was set a moment ago? That moment may be long on a busy host. */
static bool took(const struct msr_list *l, u64 expected, u64 slack)
{
	s64 late = (s64)(l->entry[0].data - expected);

	return late >= -(s64)slack && late < (s64)(1000 * slack);
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

void kvm_tsc_follow(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct msr_list l = { .head.nmsrs = 0 };
	u64 is, be, off;
	u64 slack = v->model->tsc_hz / TSC_SLACK;
	bool moved = v->cpu.tsc_offset != x->tsc_offset;

	append(&l, MSR_TSC, 0);
	if (!get(x, &l))
		return;
	is = l.entry[0].data;
	be = vcpu_tsc(v);
	x->tsc_offset = v->cpu.tsc_offset;
	if (!moved && (s64)(be - x->tsc_last) < 0)
		be = x->tsc_last;
	off = be - is;
	if (!moved && (s64)off <= (s64)slack && (s64)off >= -(s64)slack)
		return;
	x->count[COUNT_TSC_SET]++;
	if (x->tsc_stuck || !(set_offset(x, off) || set_value(x, &l, be)) || !get(x, &l) || !took(&l, is + off, slack))
		adopt(v, off);
}
