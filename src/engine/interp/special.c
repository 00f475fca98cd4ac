/*
 * The few vector instructions whose memory access is not one operand: gathers
 * and scatters, VMASKMOV and MASKMOVDQU, MOVDIR64B. The vector state is parked
 * for them and worked on in the image; what moves is bytes, nothing is
 * computed.
 */
#include "cpu/xstate.h"
#include "engine/interp/special.h"
#include "engine/interp/vector.h"

static const struct special *special_of(const struct insn *i)
{
	return (const struct special *)(const void *)i->d;
}

static bool enabled(struct vcpu *v, const struct insn *i)
{
	return hot(v)->fpu_ok >> i->fpu & 1;
}

static bool element_active(struct vcpu *v, const struct special *s, unsigned n)
{
	if (s->opmask)
		return vector_opmask(&v->cpu, s->mask_reg) >> n & 1;
	return *vector_byte(&v->cpu, s->mask_reg, (n + 1) * s->element - 1) & 0x80;
}

static void element_done(struct vcpu *v, const struct special *s, unsigned n)
{
	if (s->opmask)
		vector_set_opmask(&v->cpu, s->mask_reg, vector_opmask(&v->cpu, s->mask_reg) & ~BIT(n));
	else
		for (unsigned b = 0; b < s->element; b++)
			*vector_byte(&v->cpu, s->mask_reg, n * s->element + b) = 0;
}

static s64 index_value(struct vcpu *v, const struct special *s, unsigned n)
{
	u64 x = 0;

	for (unsigned b = 0; b < s->index_size; b++)
		x |= (u64)*vector_byte(&v->cpu, s->index_reg, n * s->index_size + b) << (8 * b);
	return s->index_size == 4 ? (s32)x : (s64)x;
}

static int element_lin(struct vcpu *v, const struct insn *i, const struct special *s, u64 ea, bool write, gva_t *lin)
{
	hot(v)->tmp[6] = i->addrsize == 8 ? ea : i->addrsize == 4 ? (u32)ea : (u16)ea;
	if (interp_segment(v, i, s->element, write))
		return FAULT;
	*lin = hot(v)->tmp[7];
	return interp_stack_canonical(v, i, *lin, s->element);
}

/* What an instruction that a fault stops halfway leaves behind: a vector mask
 * holds all ones for the elements that remain; once an element was loaded the
 * destination is cleared above them. */
static int gather_stopped(struct vcpu *v, const struct special *s, bool any)
{
	if (!s->opmask) {
		for (unsigned at = 0; at < s->vector; at += s->element) {
			bool active = *vector_byte(&v->cpu, s->mask_reg, at + s->element - 1) & 0x80;

			for (unsigned b = 0; b < s->element; b++)
				*vector_byte(&v->cpu, s->mask_reg, at + b) = active ? 0xff : 0;
		}
		vector_clear_from(&v->cpu, s->mask_reg, s->vector);
	}
	if (any && !s->store)
		vector_clear_from(&v->cpu, s->value_reg, s->vector);
	vector_touched(&v->cpu);
	return FAULT;
}

static int gather_element(struct vcpu *v, const struct insn *i, const struct special *s, unsigned n)
{
	u64 ea = R64(i->base) + ((u64)index_value(v, s, n) << i->shift) + (u64)i->disp;
	u8 buf[8];
	gva_t lin;

	if (element_lin(v, i, s, ea, s->store, &lin))
		return FAULT;
	if (s->store) {
		for (unsigned b = 0; b < s->element; b++)
			buf[b] = *vector_byte(&v->cpu, s->value_reg, n * s->element + b);
		return mmu_write(v, lin, buf, s->element);
	}
	if (mmu_read(v, lin, buf, s->element))
		return FAULT;
	for (unsigned b = 0; b < s->element; b++)
		*vector_byte(&v->cpu, s->value_reg, n * s->element + b) = buf[b];
	return 0;
}

/* Elements in order, each done for good before the next: a fault leaves the
 * mask saying what remains (SDM vol. 2, VPGATHERDD). */
static int gather(struct vcpu *v, const struct insn *i)
{
	const struct special *s = special_of(i);
	bool any = false;

	if (!enabled(v, i))
		return interp_unit_fault(v, i->fpu);
	fpu_park(v);
	sync_icount(v, i);
	for (unsigned n = 0; n < s->count; n++) {
		if (!element_active(v, s, n))
			continue;
		if (gather_element(v, i, s, n))
			return gather_stopped(v, s, any);
		element_done(v, s, n);
		any = true;
	}
	if (s->opmask)
		vector_set_opmask(&v->cpu, s->mask_reg, 0);
	else
		vector_clear_from(&v->cpu, s->mask_reg, 0);
	if (!s->store)
		vector_clear_from(&v->cpu, s->value_reg, s->vlen);
	vector_touched(&v->cpu);
	return 0;
}

/* VMASKMOVPS/PD, VPMASKMOVD/Q: masked-off elements are neither read nor checked. */
static int masked_move(struct vcpu *v, const struct insn *i)
{
	const struct special *s = special_of(i);
	u64 active = 0, one = BIT(s->element) - 1;
	u8 buf[32] = { 0 };
	gva_t base;

	if (!enabled(v, i))
		return interp_unit_fault(v, i->fpu);
	fpu_park(v);
	sync_icount(v, i);
	if (interp_ea(v, i, s->element, s->store))
		return FAULT;
	base = hot(v)->tmp[7];
	for (unsigned n = 0; n < s->count; n++)
		if (element_active(v, s, n))
			active |= one << (n * s->element);
	if (s->store && interp_probe_masked(v, i, base, active))
		return FAULT;
	for (unsigned at = 0; at < s->count * s->element; at += s->element) {
		if (!(active >> at & 1))
			continue;
		for (unsigned b = 0; b < s->element && s->store; b++)
			buf[at + b] = *vector_byte(&v->cpu, s->value_reg, at + b);
		if (interp_stack_canonical(v, i, base + at, s->element) ||
		    (s->store ? mmu_write(v, base + at, buf + at, s->element)
			      : mmu_read(v, base + at, buf + at, s->element)))
			return FAULT;
	}
	if (!s->store) {
		for (unsigned b = 0; b < s->count * s->element; b++)
			*vector_byte(&v->cpu, s->value_reg, b) = buf[b];
		vector_clear_from(&v->cpu, s->value_reg, s->vlen);
		vector_touched(&v->cpu);
	}
	return 0;
}

static const u8 *byte_operand(struct vcpu *v, const struct special *s, unsigned reg, unsigned n)
{
	return s->mmx ? vector_mmx(&v->cpu, reg) + n : vector_byte(&v->cpu, reg, n);
}

/* MASKMOVQ, MASKMOVDQU: bytes of the source whose mask byte has its sign set
 * go to DS:rDI. As on hardware halves of 8 bytes, the upper first, are checked
 * as a whole, whatever the mask, each with an offset of its own that wraps; a fault
 * finds the MMX state entered. */
static int masked_bytes(struct vcpu *v, const struct insn *i)
{
	const struct special *s = special_of(i);
	gva_t base[2];

	if (!enabled(v, i))
		return interp_unit_fault(v, i->fpu);
	fpu_park(v);
	sync_icount(v, i);
	if (s->mmx && (v->cpu.fpu[FX_FSW] & FSW_ES))
		return fault_raise(v, EXC_MF, false, 0, 0);
	if (s->mmx)
		vector_enter_mmx(&v->cpu);
	for (unsigned half = s->count; half; half -= 8)
		if (element_lin(v, i, s, v->cpu.gpr[REG_RDI] + half - 8, true, &base[half / 8 - 1]) ||
		    lin_probe_write(v, base[half / 8 - 1], 8, LIN_CPL))
			return FAULT;
	for (unsigned n = 0; n < s->count; n++)
		if ((*byte_operand(v, s, s->mask_reg, n) & 0x80) &&
		    mmu_write(v, lin_operand(&v->cpu, base[n / 8] + n % 8), byte_operand(v, s, s->value_reg, n), 1))
			return FAULT;
	return 0;
}

/* MOVDIR64B: 64 bytes from the ModRM operand to ES:[reg], which must be aligned. */
static int movdir64b(struct vcpu *v, const struct insn *i)
{
	const struct special *s = special_of(i);
	u64 to = v->cpu.gpr[s->d.reg];
	u8 *buf = interp_of(v)->bounce;
	gva_t lin;

	sync_icount(v, i);
	to = i->addrsize == 8 ? to : i->addrsize == 4 ? (u32)to : (u16)to;
	if (interp_ea(v, i, 64, false) || interp_stack_canonical(v, i, hot(v)->tmp[7], 64) ||
	    mmu_read(v, hot(v)->tmp[7], buf, 64))
		return FAULT;
	if (hot(v)->mode == BLOCK_64)
		lin = to;
	else if (seg_linear(v, SEG_ES, to, 64, SEG_ACC_WRITE, &lin))
		return FAULT;
	if (lin & 63)
		return fault_gp(v, 0);
	return mmu_write(v, lin, buf, 64);
}

#define SPECIAL(name)                                                                                                  \
	static OP(name##_op)                                                                                           \
	{                                                                                                              \
		if (name(v, i))                                                                                        \
			return interp_fault(v, i);                                                                     \
		if (v->event)                                                                                          \
			break_after(v, i);                                                                             \
		NEXT;                                                                                                  \
	}                                                                                                              \
	const op_fn special_##name = name##_op;
SPECIAL(gather)
SPECIAL(masked_move)
SPECIAL(masked_bytes)
SPECIAL(movdir64b)
