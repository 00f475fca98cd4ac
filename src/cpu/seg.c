/*
 * Segmentation: logical to linear addresses and the loading of data and stack
 * segment registers (SDM vol. 3, 3.4, 5.3, 5.5-5.7; vol. 2 MOV, LDS).
 *
 * Segment types are checked in protected mode only: real mode and
 * virtual-8086 mode look at limits alone, so that whatever a segment register
 * kept from protected mode ("unreal mode") stays usable.
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

int seg_check(const struct cpu *c, const struct segment *s, bool is64, u64 off, unsigned len, enum seg_access acc)
{
	u64 last = off + len - 1;

	if (is64)
		return lin_canonical(c, off) && lin_canonical(c, last) ? 0 : -1;
	if ((c->cr0 & CR0_PE) && !(c->rflags & FL_VM)) {
		if (s->attr & SEG_UNUSABLE)
			return -1;
		if (acc == SEG_ACC_WRITE && (s->attr & (SEG_TYPE_CODE | SEG_TYPE_RW)) != SEG_TYPE_RW)
			return -1;
		if (acc == SEG_ACC_READ && (s->attr & (SEG_TYPE_CODE | SEG_TYPE_RW)) == SEG_TYPE_CODE)
			return -1;
	}
	if ((s->attr & (SEG_TYPE_CODE | SEG_TYPE_EC)) == SEG_TYPE_EC) /* expand-down data */
		return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu) ? 0 : -1;
	/* A limit of 4 GiB is none: an operand that reaches beyond wraps, as on hardware. */
	return last <= s->limit || s->limit == 0xffffffffu ? 0 : -1;
}

int seg_linear(struct vcpu *v, enum seg_reg seg, u64 off, unsigned len, enum seg_access acc, gva_t *lin)
{
	const struct segment *s = &v->cpu.seg[seg];
	u64 a;

	if (cpu_64bit(&v->cpu)) {
		a = seg >= SEG_FS ? s->base + off : off;
		if (likely(lin_canonical(&v->cpu, a) && lin_canonical(&v->cpu, a + len - 1))) {
			*lin = a;
			return 0;
		}
	} else if (likely(!seg_check(&v->cpu, s, false, off, len, acc))) {
		*lin = (u32)(s->base + off);
		return 0;
	}
	return seg == SEG_SS ? fault_ss(v, 0) : fault_gp(v, 0);
}

u64 dinsn_offset(const struct vcpu *v, const struct dinsn *d)
{
	const u64 *regs = (const u64 *)&v->cpu; /* REG_RIP and REG_NONE have slots there too */
	u64 off = regs[d->base] + regs[d->index] * d->scale + (u64)d->disp;

	if (d->base == REG_RIP)
		off += d->len;
	return trunc_size(off, d->addrsize);
}

static void decode_descriptor(struct descriptor *d)
{
	d->attr = (d->hi >> 8) & 0xf0ff;
	d->base = (d->hi & 0xff000000u) | (d->hi & 0xffu) << 16 | d->lo >> 16;
	d->limit = (d->hi & 0xf0000u) | (d->lo & 0xffffu);
	if (d->attr & SEG_G)
		d->limit = d->limit << 12 | 0xfff;
}

int desc_fetch(struct vcpu *v, u16 sel, bool wide, enum exception vec, u32 ext, struct descriptor *d)
{
	const struct cpu *c = &v->cpu;
	u32 off = sel & 0xfff8u, last = off + (wide ? 15 : 7);
	u32 raw[4];
	u64 base;

	if (sel & 4) {
		if ((c->ldtr.attr & SEG_UNUSABLE) || last > c->ldtr.limit)
			return fault_raise(v, vec, true, sel_err(sel, ext), 0);
		base = c->ldtr.base;
	} else {
		if (last > c->gdtr.limit)
			return fault_raise(v, vec, true, sel_err(sel, ext), 0);
		base = c->gdtr.base;
	}
	d->addr = base + off;
	if (!cpu_long_mode(c))
		d->addr = (u32)d->addr;
	if (lin_read(v, d->addr, raw, wide ? 16 : 8, LIN_SUPERVISOR))
		return FAULT;
	d->lo = raw[0];
	d->hi = raw[1];
	decode_descriptor(d);
	if (wide) {
		/* SDM vol. 3, 3.5 and 8.2.3: the type field of the upper half must be zero */
		if (raw[3] & 0x1f00)
			return fault_raise(v, vec, true, sel_err(sel, ext), 0);
		d->base |= (u64)raw[2] << 32;
	}
	return 0;
}

int seg_fetch(struct vcpu *v, u16 sel, bool wide, enum exception vec, struct descriptor *d)
{
	return desc_fetch(v, sel, wide, vec, 0, d);
}

int desc_set_accessed(struct vcpu *v, struct descriptor *d)
{
	if (likely(d->attr & SEG_TYPE_ACCESSED))
		return 0;
	d->attr |= SEG_TYPE_ACCESSED;
	return lin_or8(v, d->addr + 5, SEG_TYPE_ACCESSED, LIN_SUPERVISOR);
}

void seg_load_real(struct cpu *c, enum seg_reg seg, u16 sel)
{
	struct segment *s = &c->seg[seg];

	if (cpu_v86(c)) {
		seg_set_v86(s, sel);
		return;
	}
	/* Only base and selector change: limit and attributes stay what they were (SDM vol. 3, 9.9). */
	if ((s->attr & (SEG_UNUSABLE | SEG_P)) != SEG_P) {
		s->attr = SEG_ATTR_DATA;
		s->limit = 0xffff;
	}
	s->sel = sel;
	s->base = (u32)sel << 4;
}

static int load_ss(struct vcpu *v, u16 sel)
{
	struct cpu *c = &v->cpu;
	unsigned cpl = cpu_cpl(c);
	struct descriptor d;

	if (sel_null(sel)) {
		if (!cpu_64bit(c) || cpl == 3 || (sel & 3) != cpl)
			return fault_gp(v, 0);
		seg_set_null(&c->seg[SEG_SS], sel, cpl);
		return 0;
	}
	if (desc_fetch(v, sel, false, EXC_GP, 0, &d))
		return FAULT;
	if ((sel & 3) != cpl || !attr_writable_data(d.attr) || attr_dpl(d.attr) != cpl)
		return fault_gp(v, sel_err(sel, 0));
	if (!(d.attr & SEG_P))
		return fault_ss(v, sel_err(sel, 0));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, &c->seg[SEG_SS]);
	return 0;
}

int seg_load(struct vcpu *v, enum seg_reg seg, u16 sel)
{
	struct cpu *c = &v->cpu;
	struct descriptor d;
	unsigned dpl;

	if (cpu_real(c) || (c->rflags & FL_VM)) {
		seg_load_real(c, seg, sel);
		return 0;
	}
	if (seg == SEG_SS)
		return load_ss(v, sel);
	if (sel_null(sel)) {
		seg_set_null(&c->seg[seg], sel, 0);
		return 0;
	}
	if (desc_fetch(v, sel, false, EXC_GP, 0, &d))
		return FAULT;
	dpl = attr_dpl(d.attr);
	if (!attr_readable(d.attr))
		return fault_gp(v, sel_err(sel, 0));
	if (!(attr_is_code(d.attr) && attr_conforming(d.attr)) && ((unsigned)(sel & 3) > dpl || cpu_cpl(c) > dpl))
		return fault_gp(v, sel_err(sel, 0));
	if (!(d.attr & SEG_P))
		return fault_np(v, sel_err(sel, 0));
	if (desc_set_accessed(v, &d))
		return FAULT;
	desc_to_segment(&d, sel, &c->seg[seg]);
	return 0;
}
