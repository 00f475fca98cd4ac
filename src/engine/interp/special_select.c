/*
 * Recognises the instructions of special.c and records what their handlers
 * need. Ordinary C (Zydis): runs with the guest's vector state parked.
 */
#include "engine/interp/special.h"
#include "engine/interp/thunk.h"

static u8 reg_id(const ZydisDecodedOperand *o)
{
	return (u8)ZydisRegisterGetId(o->reg.value);
}

static struct special *keep(struct vcpu *v, struct insn *i, const struct dinsn *d)
{
	struct special *s = cache_alloc(interp_of(v), sizeof(*s));

	*s = (struct special){ .d = *d };
	i->d = &s->d;
	return s;
}
_Static_assert(offsetof(struct special, d) == 0, "insn->d points at the whole record");

static bool gather_or_scatter(const ZydisDecodedInstruction *z)
{
	return z->meta.category == ZYDIS_CATEGORY_AVX2GATHER || z->meta.category == ZYDIS_CATEGORY_GATHER ||
	       z->meta.category == ZYDIS_CATEGORY_SCATTER;
}

static bool select_gather(struct vcpu *v, struct insn *i, const struct dinsn *d, const ZydisDecodedInstruction *z,
			  const ZydisDecodedOperand *ops)
{
	bool evex = z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX;
	struct special *s = keep(v, i, d);
	const ZydisDecodedOperand *m = NULL;
	unsigned index_bytes, n;

	for (unsigned k = 0; k < z->operand_count; k++)
		if (ops[k].type == ZYDIS_OPERAND_TYPE_MEMORY)
			m = &ops[k];
	if (!m)
		return false;
	s->evex = evex;
	s->opmask = evex;
	s->store = z->meta.category == ZYDIS_CATEGORY_SCATTER;
	s->index_reg = (u8)ZydisRegisterGetId(m->mem.index);
	s->value_reg = reg_id(&ops[s->store ? (evex ? 2 : 1) : 0]);
	s->mask_reg = evex ? (u8)ZydisRegisterGetId(z->avx.mask.reg) : reg_id(&ops[2]);
	s->element = (evex ? z->raw.evex.W : z->raw.vex.W) ? 8 : 4;
	/* opcodes 90H 92H A0H A2H: dword indices; the odd ones: qword */
	s->index_size = z->opcode & 1 ? 8 : 4;
	n = z->avx.vector_length / 8u;
	index_bytes = ZydisRegisterGetWidth(ZYDIS_MACHINE_MODE_LONG_64, m->mem.index) / 8u;
	s->count = (u8)MIN(n / MAX(s->element, s->index_size), index_bytes / s->index_size);
	s->vlen = (u8)(s->count * s->element);
	s->vector = (u8)n;
	i->shift = z->raw.sib.scale; /* a dinsn does not show it: its index is no general register */
	i->index = REG_NONE * 8;
	i->fn = special_gather;
	return true;
}

bool select_special(struct vcpu *v, struct insn *i, const struct dinsn *d, const ZydisDecodedInstruction *z,
		    const ZydisDecodedOperand *ops)
{
	struct special *s;

	if (gather_or_scatter(z))
		return select_gather(v, i, d, z, ops);
	switch (z->mnemonic) {
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
		s = keep(v, i, d);
		s->store = ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY;
		s->value_reg = reg_id(&ops[s->store ? 2 : 0]);
		s->mask_reg = reg_id(&ops[1]);
		s->element =
		    z->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD || z->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ ? 8 : 4;
		s->vlen = (u8)(z->avx.vector_length / 8u);
		s->count = s->vlen / s->element;
		i->fn = special_masked_move;
		return true;
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
		s = keep(v, i, d);
		s->mmx = z->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ;
		s->element = 1;
		s->count = s->mmx ? 8 : 16;
		s->value_reg = d->reg & (s->mmx ? 7 : 15);
		s->mask_reg = d->rm & (s->mmx ? 7 : 15);
		i->seg = d->seg;
		i->fn = special_masked_bytes;
		return true;
	case ZYDIS_MNEMONIC_MOVDIR64B:
		keep(v, i, d);
		i->fn = special_movdir64b;
		return true;
	default:
		return false;
	}
}
