/*
 * Instructions on segment registers, selectors and descriptor-table registers
 * (SDM vol. 2: MOV, PUSH, POP, LDS..LGS, LAR, LSL, VERR, VERW, ARPL, LLDT,
 * SLDT, LTR, STR, LGDT, LIDT, SGDT, SIDT).
 */
#include "cpu/flow.h"
#include "cpu/sys.h"

/* The segment register that a one-byte or 0F opcode without ModRM names. */
static enum seg_reg opcode_seg(const struct dinsn *d)
{
	return (enum seg_reg)((d->opcode >> 3) & 7); /* 06 0E 16 1E, 0F A0, 0F A8 */
}

int sys_mov_to_sreg(struct vcpu *v, const struct dinsn *d)
{
	unsigned seg = d->reg & 7;
	u64 sel;

	if (seg == SEG_CS || seg >= SEG_COUNT)
		return fault_ud(v);
	if (sys_rm_read(v, d, 2, &sel) || seg_load(v, (enum seg_reg)seg, (u16)sel))
		return FAULT;
	sys_advance(v, d);
	if (seg == SEG_SS)
		flow_set_shadow(v, SHADOW_MOV_SS);
	return 0;
}

int sys_mov_from_sreg(struct vcpu *v, const struct dinsn *d)
{
	unsigned seg = d->reg & 7;

	if (seg >= SEG_COUNT)
		return fault_ud(v);
	if (sys_rm_write(v, d, d->is_mem ? 2 : d->opsize, v->cpu.seg[seg].sel))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_push_sreg(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 sel = c->seg[opcode_seg(d)].sel;
	struct stack st;

	stack_current(v, 0, &st);
	if (d->opsize == 4) {
		/* Two bytes are written, the upper two of the slot stay (SDM vol. 2, PUSH). */
		st.sp -= 2;
		if (stack_push(v, &st, &sel, 1, 2))
			return FAULT;
	} else if (stack_push(v, &st, &sel, 1, d->opsize)) {
		return FAULT;
	}
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp);
	sys_advance(v, d);
	return 0;
}

int sys_pop_sreg(struct vcpu *v, const struct dinsn *d)
{
	enum seg_reg seg = opcode_seg(d);
	struct cpu *c = &v->cpu;
	struct stack st;
	u64 sel;

	stack_current(v, 0, &st);
	if (stack_peek(v, &st, 0, &sel, 1, d->opsize) || seg_load(v, seg, (u16)sel))
		return FAULT;
	c->gpr[REG_RSP] = stack_merge(&st, c->gpr[REG_RSP], st.sp + d->opsize);
	sys_advance(v, d);
	if (seg == SEG_SS)
		flow_set_shadow(v, SHADOW_MOV_SS);
	return 0;
}

int sys_load_far_ptr(struct vcpu *v, const struct dinsn *d)
{
	unsigned size = d->opsize;
	enum seg_reg seg;
	u64 off = 0;
	u16 sel;
	gva_t lin;

	if (!d->is_mem)
		return fault_ud(v);
	if (d->map == 0)
		seg = d->opcode == 0xc5 ? SEG_DS : SEG_ES;
	else
		seg = d->opcode == 0xb2 ? SEG_SS : d->opcode == 0xb4 ? SEG_FS : SEG_GS;
	if (sys_mem_linear(v, d, size + 2, SEG_ACC_READ, &lin) || lin_read(v, lin, &off, size, LIN_CPL) ||
	    lin_read(v, lin + size, &sel, 2, LIN_CPL) || seg_load(v, seg, sel))
		return FAULT;
	sys_reg_write(v, d, d->reg, size, off);
	sys_advance(v, d);
	return 0;
}

static bool no_selectors(const struct cpu *c)
{
	return cpu_real(c) || (c->rflags & FL_VM);
}

static int set_zf(struct vcpu *v, const struct dinsn *d, bool zf)
{
	v->cpu.rflags = (v->cpu.rflags & ~FL_ZF) | (zf ? FL_ZF : 0);
	sys_advance(v, d);
	return 0;
}

/*
 * Look at the descriptor of `sel` without loading it: 1 found, 0 not there
 * (null, beyond the table), FAULT on a page fault.
 */
static int look_up(struct vcpu *v, u16 sel, struct descriptor *d)
{
	const struct cpu *c = &v->cpu;
	u32 last = sel | 7u;

	if (sel_null(sel))
		return 0;
	if (sel & 4 ? (c->ldtr.attr & SEG_UNUSABLE) || last > c->ldtr.limit : last > c->gdtr.limit)
		return 0;
	return desc_fetch(v, sel, false, EXC_GP, 0, d) ? FAULT : 1;
}

static bool visible(const struct cpu *c, u16 sel, const struct descriptor *d)
{
	unsigned dpl = attr_dpl(d->attr);

	if (attr_is_code(d->attr) && attr_conforming(d->attr))
		return true;
	return dpl >= cpu_cpl(c) && dpl >= (sel & 3u);
}

/* Bit n: LAR (LSL) accepts system descriptors of type n (SDM vol. 2, tables 3-53 and 3-56). */
#define LAR_TYPES_LEGACY 0x1a3eu
#define LAR_TYPES_LONG 0x1a04u
#define LSL_TYPES_LEGACY 0x0a0eu
#define LSL_TYPES_LONG 0x0a04u

static int lar_lsl(struct vcpu *v, const struct dinsn *d, bool lsl)
{
	struct cpu *c = &v->cpu;
	bool lm = cpu_long_mode(c);
	u32 types = lsl ? (lm ? LSL_TYPES_LONG : LSL_TYPES_LEGACY) : (lm ? LAR_TYPES_LONG : LAR_TYPES_LEGACY);
	struct descriptor desc;
	u64 sel, val;
	int found;

	if (no_selectors(c))
		return fault_ud(v);
	if (sys_rm_read(v, d, 2, &sel))
		return FAULT;
	found = look_up(v, (u16)sel, &desc);
	if (found < 0)
		return FAULT;
	if (!found || !visible(c, (u16)sel, &desc) ||
	    (!(desc.attr & SEG_S) && !(types & (1u << (desc.attr & SEG_TYPE)))))
		return set_zf(v, d, false);
	val = lsl ? desc.limit : desc.hi & 0x00f0ff00u;
	sys_reg_write(v, d, d->reg, d->opsize, val);
	return set_zf(v, d, true);
}

int sys_lar(struct vcpu *v, const struct dinsn *d)
{
	return lar_lsl(v, d, false);
}
int sys_lsl(struct vcpu *v, const struct dinsn *d)
{
	return lar_lsl(v, d, true);
}

static int verify(struct vcpu *v, const struct dinsn *d, bool write)
{
	struct descriptor desc;
	u64 sel;
	int found;

	if (no_selectors(&v->cpu))
		return fault_ud(v);
	if (sys_rm_read(v, d, 2, &sel))
		return FAULT;
	found = look_up(v, (u16)sel, &desc);
	if (found < 0)
		return FAULT;
	return set_zf(v, d,
		      found && visible(&v->cpu, (u16)sel, &desc) &&
			  (write ? attr_writable_data(desc.attr) : attr_readable(desc.attr)));
}

int sys_verr(struct vcpu *v, const struct dinsn *d)
{
	return verify(v, d, false);
}
int sys_verw(struct vcpu *v, const struct dinsn *d)
{
	return verify(v, d, true);
}

int sys_arpl(struct vcpu *v, const struct dinsn *d)
{
	u64 dst, src;

	if (no_selectors(&v->cpu))
		return fault_ud(v);
	if (sys_rm_read(v, d, 2, &dst))
		return FAULT;
	src = sys_reg_read(v, d, d->reg, 2);
	if ((dst & 3) >= (src & 3))
		return set_zf(v, d, false);
	if (sys_rm_write(v, d, 2, (dst & ~3ull) | (src & 3)))
		return FAULT;
	return set_zf(v, d, true);
}

/* The checks LLDT and LTR share; `types`: the acceptable system types, as a bit map. */
static int system_descriptor(struct vcpu *v, u16 sel, u32 types, struct descriptor *d)
{
	if (sel & 4)
		return fault_gp(v, sel_err(sel, 0));
	if (desc_fetch(v, sel, cpu_long_mode(&v->cpu), EXC_GP, 0, d))
		return FAULT;
	if ((d->attr & SEG_S) || !(types & (1u << (d->attr & SEG_TYPE))) || !lin_canonical(&v->cpu, d->base))
		return fault_gp(v, sel_err(sel, 0));
	if (!(d->attr & SEG_P))
		return fault_np(v, sel_err(sel, 0));
	return 0;
}

int sys_lldt(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	struct descriptor desc;
	u64 sel;

	if (no_selectors(c))
		return fault_ud(v);
	if (cpu_cpl(c) != 0)
		return fault_gp(v, 0);
	if (sys_rm_read(v, d, 2, &sel))
		return FAULT;
	if (sel_null((u16)sel)) {
		seg_set_null(&c->ldtr, (u16)sel, 0);
	} else {
		if (system_descriptor(v, (u16)sel, 1u << ST_LDT, &desc))
			return FAULT;
		desc_to_segment(&desc, (u16)sel, &c->ldtr);
	}
	sys_advance(v, d);
	return 0;
}

int sys_ltr(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	struct descriptor desc;
	u64 sel;

	if (no_selectors(c))
		return fault_ud(v);
	if (cpu_cpl(c) != 0)
		return fault_gp(v, 0);
	if (sys_rm_read(v, d, 2, &sel))
		return FAULT;
	if (sel_null((u16)sel))
		return fault_gp(v, 0);
	if (system_descriptor(v, (u16)sel, 1u << ST_TSS32 | (cpu_long_mode(c) ? 0 : 1u << ST_TSS16), &desc) ||
	    lin_or8(v, desc.addr + 5, TSS_BUSY, LIN_SUPERVISOR))
		return FAULT;
	desc_to_segment(&desc, (u16)sel, &c->tr);
	c->tr.attr |= TSS_BUSY;
	sys_advance(v, d);
	return 0;
}

/* User-mode instruction prevention (SDM vol. 3, 2.5, CR4.UMIP). */
static bool umip_forbids(const struct cpu *c)
{
	return (c->cr4 & CR4_UMIP) && cpu_cpl(c) > 0;
}

static int store_selector(struct vcpu *v, const struct dinsn *d, u16 sel)
{
	if (no_selectors(&v->cpu))
		return fault_ud(v);
	if (umip_forbids(&v->cpu))
		return fault_gp(v, 0);
	if (sys_rm_write(v, d, d->is_mem ? 2 : d->opsize, sel))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_sldt(struct vcpu *v, const struct dinsn *d)
{
	return store_selector(v, d, v->cpu.ldtr.sel);
}
int sys_str(struct vcpu *v, const struct dinsn *d)
{
	return store_selector(v, d, v->cpu.tr.sel);
}

static int load_table(struct vcpu *v, const struct dinsn *d, struct table_reg *t)
{
	struct cpu *c = &v->cpu;
	unsigned size = d->mode == CODE_64 ? 8 : 4;
	u64 base = 0;
	u16 limit;
	gva_t lin;

	if (!d->is_mem)
		return fault_ud(v);
	if (cpu_cpl(c) != 0)
		return fault_gp(v, 0);
	if (sys_mem_linear(v, d, size + 2, SEG_ACC_READ, &lin) || lin_read(v, lin, &limit, 2, LIN_CPL) ||
	    lin_read(v, lin + 2, &base, size, LIN_CPL))
		return FAULT;
	if (size == 4 && d->opsize == 2)
		base &= 0xffffff;
	if (!lin_canonical(c, base))
		return fault_gp(v, 0);
	t->base = base;
	t->limit = limit;
	sys_advance(v, d);
	return 0;
}

int sys_lgdt(struct vcpu *v, const struct dinsn *d)
{
	return load_table(v, d, &v->cpu.gdtr);
}
int sys_lidt(struct vcpu *v, const struct dinsn *d)
{
	return load_table(v, d, &v->cpu.idtr);
}

static int store_table(struct vcpu *v, const struct dinsn *d, const struct table_reg *t)
{
	unsigned size = d->mode == CODE_64 ? 8 : 4;
	u8 image[10];
	gva_t lin;

	if (!d->is_mem)
		return fault_ud(v);
	if (umip_forbids(&v->cpu))
		return fault_gp(v, 0);
	if (sys_mem_linear(v, d, size + 2, SEG_ACC_WRITE, &lin))
		return FAULT;
	__builtin_memcpy(image, &t->limit, 2);
	__builtin_memcpy(image + 2, &t->base, 8);
	if (lin_write(v, lin, image, size + 2, LIN_CPL))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_sgdt(struct vcpu *v, const struct dinsn *d)
{
	return store_table(v, d, &v->cpu.gdtr);
}
int sys_sidt(struct vcpu *v, const struct dinsn *d)
{
	return store_table(v, d, &v->cpu.idtr);
}
