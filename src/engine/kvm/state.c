/*
 * struct cpu into KVM and out of it. KVM keeps some of it in another form;
 * where what comes out means the same as what went in, v->cpu keeps its own
 * (x->seen), so that taking the state out and in again changes nothing.
 */
#include "engine/kvm/kvm.h"

#include <stdlib.h>
#include <string.h>

#include "cpu/msr.h"
#include "cpu/xstate.h"

/* ---- segments ---- */

static struct kvm_segment to_kvm(const struct segment *s, bool long_mode)
{
	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->sel,
		.type = s->attr & SEG_TYPE,
		.s = !!(s->attr & SEG_S),
		.dpl = (s->attr & SEG_DPL) >> SEG_DPL_SHIFT,
		.present = !!(s->attr & SEG_P) && !(s->attr & SEG_UNUSABLE),
		.avl = !!(s->attr & SEG_AVL),
		.l = !!(s->attr & SEG_L) && long_mode, /* without meaning before, and KVM refuses it */
		.db = !!(s->attr & SEG_DB),
		.g = !!(s->attr & SEG_G),
		.unusable = !!(s->attr & SEG_UNUSABLE),
	};
}

static struct segment from_kvm(const struct kvm_segment *k)
{
	u32 attr = k->type | (u32)k->dpl << SEG_DPL_SHIFT;

	attr |= k->s ? SEG_S : 0;
	attr |= k->present ? SEG_P : 0;
	attr |= k->avl ? SEG_AVL : 0;
	attr |= k->l ? SEG_L : 0;
	attr |= k->db ? SEG_DB : 0;
	attr |= k->g ? SEG_G : 0;
	attr |= k->unusable ? SEG_UNUSABLE : 0;
	return (struct segment){ .sel = k->selector, .attr = attr, .limit = k->limit, .base = k->base };
}

static bool same_segment(const struct kvm_segment *a, const struct kvm_segment *b)
{
	if (a->selector != b->selector || a->base != b->base || a->unusable != b->unusable)
		return false;
	/* of an unusable segment nothing else counts, but the privilege level of SS */
	if (a->unusable)
		return a->dpl == b->dpl;
	return a->limit == b->limit && a->type == b->type && a->s == b->s && a->dpl == b->dpl &&
	       a->present == b->present && a->avl == b->avl && a->l == b->l && a->db == b->db && a->g == b->g;
}

static void segment_out(struct segment *s, const struct kvm_segment *k, bool long_mode)
{
	struct kvm_segment ours = to_kvm(s, long_mode);

	if (!same_segment(&ours, k))
		*s = from_kvm(k);
}

static struct kvm_segment *segment_of(struct kvm_sregs *s, unsigned n)
{
	struct kvm_segment *const all[SEG_COUNT] = { [SEG_ES] = &s->es, [SEG_CS] = &s->cs, [SEG_SS] = &s->ss,
						     [SEG_DS] = &s->ds, [SEG_FS] = &s->fs, [SEG_GS] = &s->gs };

	return all[n];
}

/* ---- system registers ---- */

static u64 apic_base(struct vcpu *v)
{
	u64 base = 0;

	if (kvm_keeps_apic(v))
		return kvm_of(v)->apic_base;
	v->hooks->apic_msr_read(v->machine, v->index, MSR_APIC_BASE, &base);
	return base;
}

static void sregs_out(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	struct kvm_sregs s;
	bool long_mode = c->efer & EFER_LMA;

	if (kvm_ioctl(kvm_of(v)->fd, KVM_GET_SREGS, &s))
		return;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segment_out(&c->seg[i], segment_of(&s, i), long_mode);
	segment_out(&c->ldtr, &s.ldt, long_mode);
	segment_out(&c->tr, &s.tr, long_mode);
	c->gdtr = (struct table_reg){ s.gdt.base, s.gdt.limit };
	c->idtr = (struct table_reg){ s.idt.base, s.idt.limit };
	c->cr0 = s.cr0;
	c->cr2 = s.cr2;
	c->cr3 = s.cr3;
	c->cr4 = s.cr4;
	c->efer = s.efer;
	if (kvm_keeps_apic(v)) {
		kvm_of(v)->apic_base = s.apic_base;
		kvm_of(v)->cr8 = (u8)s.cr8;
	}
}

static bool sregs_differ(const struct cpu *a, const struct cpu *b)
{
	return memcmp(a->seg, b->seg, offsetof(struct cpu, xcr0) - offsetof(struct cpu, seg)) || a->efer != b->efer;
}

static int sregs_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	const struct cpu *c = &v->cpu;
	bool long_mode = c->efer & EFER_LMA;
	u64 base = apic_base(v);
	struct kvm_sregs s;

	if (x->seen_valid && base == x->apic_base && !x->cr8_changed && !sregs_differ(c, &x->seen))
		return 0;
	memset(&s, 0, sizeof(s));
	for (unsigned i = 0; i < SEG_COUNT; i++)
		*segment_of(&s, i) = to_kvm(&c->seg[i], long_mode);
	s.ldt = to_kvm(&c->ldtr, long_mode);
	s.tr = to_kvm(&c->tr, long_mode);
	s.gdt = (struct kvm_dtable){ .base = c->gdtr.base, .limit = c->gdtr.limit };
	s.idt = (struct kvm_dtable){ .base = c->idtr.base, .limit = c->idtr.limit };
	s.cr0 = c->cr0;
	s.cr2 = c->cr2;
	s.cr3 = c->cr3;
	s.cr4 = c->cr4;
	/* The lower half of the TPR is lost here; it orders nothing. */
	s.cr8 = kvm_keeps_apic(v) ? x->cr8 : v->hooks->cr8_read(v->machine, v->index);
	x->cr8_changed = false;
	s.efer = c->efer;
	s.apic_base = base;
	x->apic_base = base;
	return kvm_ioctl(x->fd, KVM_SET_SREGS, &s);
}

/* ---- general registers ---- */

static void regs_out(struct vcpu *v)
{
	struct cpu *c = &v->cpu;
	struct kvm_regs r;

	if (kvm_ioctl(kvm_of(v)->fd, KVM_GET_REGS, &r))
		return;
	c->gpr[REG_RAX] = r.rax;
	c->gpr[REG_RCX] = r.rcx;
	c->gpr[REG_RDX] = r.rdx;
	c->gpr[REG_RBX] = r.rbx;
	c->gpr[REG_RSP] = r.rsp;
	c->gpr[REG_RBP] = r.rbp;
	c->gpr[REG_RSI] = r.rsi;
	c->gpr[REG_RDI] = r.rdi;
	memcpy(&c->gpr[8], &r.r8, 8 * sizeof(u64)); /* R8 to R15 */
	c->rip = r.rip;
	c->rflags = r.rflags | FL_FIXED1;
}

static int regs_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	const struct cpu *c = &v->cpu;
	struct kvm_regs r = {
		.rax = c->gpr[REG_RAX],
		.rcx = c->gpr[REG_RCX],
		.rdx = c->gpr[REG_RDX],
		.rbx = c->gpr[REG_RBX],
		.rsp = c->gpr[REG_RSP],
		.rbp = c->gpr[REG_RBP],
		.rsi = c->gpr[REG_RSI],
		.rdi = c->gpr[REG_RDI],
		.rip = c->rip,
		.rflags = c->rflags,
	};

	if (x->seen_valid && !memcmp(c->gpr, x->seen.gpr, sizeof(c->gpr)) && c->rip == x->seen.rip &&
	    c->rflags == x->seen.rflags)
		return 0;
	memcpy(&r.r8, &c->gpr[8], 8 * sizeof(u64));
	return kvm_ioctl(x->fd, KVM_SET_REGS, &r);
}

/* ---- vector state ---- */

#define PKRU_SIZE 4

/* Offset of PKRU in the host's layout, which is that of KVM's image; 0: there is none. */
static unsigned pkru_offset(const struct kvm_host *h)
{
	u32 a, b, c, d;

	if (!(h->xcr0 & XCR0_PKRU))
		return 0;
	__asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(0xd), "c"(XSTATE_PKRU));
	return b && b + PKRU_SIZE <= h->xsave_size ? b : 0;
}

static void component_out(struct cpu *c, const u8 *image, u64 in_use, unsigned i)
{
	unsigned off = fpu_component_offset(i), size = fpu_component_size(i);

	if (in_use & BIT(i))
		memcpy(c->fpu + off, image + off, size);
	else
		memset(c->fpu + off, 0, size);
}

static void x87_out(struct cpu *c, const u8 *image, u64 in_use)
{
	static const u16 fcw = FCW_INIT;

	if (in_use & XCR0_X87) {
		memcpy(c->fpu, image, FX_MXCSR);
		for (unsigned i = 0; i < 8; i++) /* ten bytes each: the padding is no state */
			memcpy(c->fpu + FX_ST + 16 * i, image + FX_ST + 16 * i, 10);
	} else {
		memset(c->fpu, 0, FX_MXCSR);
		for (unsigned i = 0; i < 8; i++)
			memset(c->fpu + FX_ST + 16 * i, 0, 10);
		memcpy(c->fpu + FX_FCW, &fcw, 2);
	}
}

static void fpu_out(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct cpu *c = &v->cpu;
	const u8 *image = x->xsave;
	unsigned pkru = pkru_offset(x->host);
	u64 in_use, ours = fpu_host_components();

	if (kvm_ioctl(x->fd, x->host->xsave_size > sizeof(struct kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, x->xsave))
		return;
	memcpy(&in_use, image + XSTATE_HEADER, 8);
	x87_out(c, image, in_use);
	memcpy(c->fpu + FX_MXCSR, image + FX_MXCSR, 4);
	component_out(c, image, in_use, 1);
	for (unsigned i = 2; i <= 7; i++)
		if (ours & x->host->xcr0 & BIT(i))
			component_out(c, image, in_use, i);
	if (pkru) {
		c->pkru = 0;
		if (in_use & XCR0_PKRU)
			memcpy(&c->pkru, image + pkru, PKRU_SIZE);
	}
}

static int fpu_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	const struct cpu *c = &v->cpu;
	u64 ours = fpu_host_components() & x->host->xcr0, in_use = ours;
	unsigned pkru = pkru_offset(x->host);
	u8 *image = x->xsave;

	if (x->seen_valid && c->pkru == x->seen.pkru && !memcmp(c->fpu, x->seen.fpu, sizeof(c->fpu)))
		return 0;
	memset(image, 0, x->host->xsave_size);
	memcpy(image, c->fpu, FX_MXCSR_MASK);
	for (unsigned i = 0; i < 8; i++)
		memcpy(image + FX_ST + 16 * i, c->fpu + FX_ST + 16 * i, 10);
	for (unsigned i = 1; i <= 7; i++)
		if (ours & BIT(i))
			memcpy(image + fpu_component_offset(i), c->fpu + fpu_component_offset(i),
			       fpu_component_size(i));
	if (pkru) {
		memcpy(image + pkru, &c->pkru, PKRU_SIZE);
		in_use |= XCR0_PKRU;
	}
	memcpy(image + XSTATE_HEADER, &in_use, 8);
	return kvm_ioctl(x->fd, KVM_SET_XSAVE, image);
}

static void xcr0_out(struct vcpu *v)
{
	struct kvm_xcrs k;

	if (v->model->xsave && kvm_ioctl(kvm_of(v)->fd, KVM_GET_XCRS, &k) == 0 && k.nr_xcrs && k.xcrs[0].xcr == 0)
		v->cpu.xcr0 = k.xcrs[0].value;
}

static int xcr0_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_xcrs k = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = v->cpu.xcr0 } };

	if (!v->model->xsave || (x->seen_valid && v->cpu.xcr0 == x->seen.xcr0))
		return 0;
	return kvm_ioctl(x->fd, KVM_SET_XCRS, &k);
}

/* ---- debug registers ---- */

static void dr_out(struct vcpu *v)
{
	struct kvm_debugregs d;

	if (kvm_ioctl(kvm_of(v)->fd, KVM_GET_DEBUGREGS, &d))
		return;
	for (unsigned i = 0; i < 4; i++)
		v->cpu.dr[i] = d.db[i];
	v->cpu.dr[6] = (u32)d.dr6;
	v->cpu.dr[7] = (u32)d.dr7;
}

static int dr_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	const struct cpu *c = &v->cpu;
	struct kvm_debugregs d = { .db = { c->dr[0], c->dr[1], c->dr[2], c->dr[3] }, .dr6 = c->dr[6], .dr7 = c->dr[7] };

	if (x->seen_valid && !memcmp(c->dr, x->seen.dr, sizeof(c->dr)))
		return 0;
	return kvm_ioctl(x->fd, KVM_SET_DEBUGREGS, &d);
}

/* ---- events ---- */

static void shadow_out(struct cpu *c, u8 shadow)
{
	if (shadow & KVM_X86_SHADOW_INT_MOV_SS)
		c->shadow = SHADOW_MOV_SS;
	else
		c->shadow = shadow & KVM_X86_SHADOW_INT_STI ? SHADOW_STI : SHADOW_NONE;
}

static int events_in(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	const struct cpu *c = &v->cpu;
	struct kvm_vcpu_events e = {
		/* where KVM has the APIC, another processor may be sending an NMI */
		.flags = KVM_VCPUEVENT_VALID_SHADOW | (x->has_apic ? 0 : KVM_VCPUEVENT_VALID_NMI_PENDING),
		.nmi.masked = c->nmi_blocked,
	};

	if (x->seen_valid && !x->events_left && c->shadow == x->seen.shadow && c->nmi_blocked == x->seen.nmi_blocked)
		return 0;
	if (c->shadow)
		e.interrupt.shadow = c->shadow == SHADOW_STI ? KVM_X86_SHADOW_INT_STI : KVM_X86_SHADOW_INT_MOV_SS;
	if (kvm_ioctl(x->fd, KVM_SET_VCPU_EVENTS, &e))
		return -1;
	x->events_left = false;
	return 0;
}

void kvm_events_clear(struct vcpu *v)
{
	const struct kvm_vcpu_events none = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING };

	kvm_ioctl(kvm_of(v)->fd, KVM_SET_VCPU_EVENTS, &none);
	kvm_of(v)->events_left = true; /* blocking of NMIs goes in again */
}

/* An event KVM had begun to deliver, or was about to: delivered by software. Faults and traps alike return to RIP. */
static void deliver_left(struct vcpu *v, const struct kvm_vcpu_events *e)
{
	bool soft_exception = e->exception.nr == EXC_BP || e->exception.nr == EXC_OF;

	/* What an instruction raises of itself comes again with the instruction. */
	if ((e->exception.injected || e->exception.pending) && !(soft_exception && e->exception.injected)) {
		if (e->exception.nr == EXC_DB && e->exception.pending) {
			v->cpu.pending_db |= e->exception_has_payload ? e->exception_payload & 0xf00f : 0;
			kvm_reference_prepare(v);
			cpu_take_events(v);
			return;
		}
		kvm_reference_prepare(v);
		cpu_deliver(v, e->exception.nr, EVENT_EXCEPTION, e->exception.has_error_code, e->exception.error_code);
	} else if (e->nmi.injected) {
		kvm_reference_prepare(v);
		cpu_deliver(v, EXC_NMI, EVENT_HARDWARE, false, 0);
		v->cpu.nmi_blocked = true;
	} else if (e->interrupt.injected && !e->interrupt.soft) {
		kvm_reference_prepare(v);
		cpu_deliver(v, e->interrupt.nr, EVENT_HARDWARE, false, 0);
	} else {
		return;
	}
	kvm_of(v)->count[COUNT_FELL_EVENT]++;
	fpu_park(v);
}

/* ---- all of it ---- */

void kvm_export(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	struct kvm_vcpu_events e = { 0 };
	struct cpu *c = &v->cpu;

	if (!x->in_kvm)
		return;
	kvm_complete(v);
	x->count[COUNT_EXPORTS]++;
	if (x->extint_given)
		kvm_settle(v);
	if (x->vm->split)
		kvm_activity_out(v);
	regs_out(v);
	sregs_out(v);
	fpu_out(v);
	xcr0_out(v);
	dr_out(v);
	kvm_msrs_export(v);
	kvm_ioctl(x->fd, KVM_GET_VCPU_EVENTS, &e);
	shadow_out(c, e.interrupt.shadow);
	c->nmi_blocked = e.nmi.masked;
	if (x->has_apic)
		e.nmi.pending = 0; /* KVM keeps it */
	if (e.nmi.pending)
		c->nmi_pending = true;
	x->in_kvm = false;
	/* Not member by member: what KVM does not hold is the same anyway. */
	x->seen = *c;
	x->seen_valid = true;
	x->events_left =
	    e.exception.injected || e.exception.pending || e.interrupt.injected || e.nmi.injected || e.nmi.pending;
	mmu_mode_changed(v);
	if (x->events_left) {
		if (e.exception.nr == EXC_PF && e.exception.pending && e.exception_has_payload)
			c->cr2 = e.exception_payload;
		deliver_left(v, &e);
	}
}

int kvm_import(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);
	u64 tsc_moves;

	if (x->in_kvm)
		return 0;
	x->count[COUNT_IMPORTS]++;
	/* System registers first: the validity of others depends on them. Events last: KVM_SET_REGS drops some. */
	if (sregs_in(v) || regs_in(v) || xcr0_in(v) || fpu_in(v) || dr_in(v) || kvm_msrs_import(v) || events_in(v) ||
	    (x->vm->split && kvm_activity_in(v))) {
		x->seen_valid = false;
		return -1;
	}
	x->seen = v->cpu;
	x->seen_valid = true;
	x->in_kvm = true;
	x->window_known = false;
	tsc_moves = x->count[COUNT_TSC_SET];
	kvm_tsc_follow(v);
	if (x->has_apic)
		kvm_apic_follow(v, x->count[COUNT_TSC_SET] != tsc_moves);
	return 0;
}
