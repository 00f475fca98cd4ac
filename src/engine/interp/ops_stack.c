/*
 * PUSH, POP, LEAVE, PUSHA, POPA. The 64-bit forms are flat and inline; every
 * other stack goes through stack_access(), which knows SS and its size.
 */
#include "engine/interp/ops.h"
#include "engine/interp/typed.h"

#define RSP v->cpu.gpr[REG_RSP]

static OP(push64_reg)
{
	u64 lin = RSP - 8;

	STORE(u64, lin, R64(i->src));
	RSP = lin;
	NEXT;
}
static OP(push64_imm)
{
	u64 lin = RSP - 8;

	STORE(u64, lin, i->imm);
	RSP = lin;
	NEXT;
}
static OP(pop64_reg)
{
	u64 lin = RSP;

	LOAD(u64, a, lin);
	RSP = lin + 8;
	R64(i->dst) = a; /* POP RSP: the loaded value wins */
	NEXT;
}
/* The operand is read before RSP moves. SLOW paths of the two accesses differ in segment. */
#define PUSH_MEM(K)                                                                                                    \
	static OP(push64_mem_##K)                                                                                      \
	{                                                                                                              \
		EA_##K(lin, 8, false);                                                                                 \
		LOAD(u64, a, lin);                                                                                     \
		u64 sp = RSP - 8;                                                                                      \
		STORE_STACK(u64, sp, a);                                                                               \
		RSP = sp;                                                                                              \
		NEXT;                                                                                                  \
	}
FOR_EAS(PUSH_MEM)
static OP(leave_64)
{
	u64 lin = v->cpu.gpr[REG_RBP];

	LOAD(u64, a, lin);
	RSP = lin + 8;
	v->cpu.gpr[REG_RBP] = a;
	NEXT;
}
const op_fn push_r64 = push64_reg, push_i64 = push64_imm, pop_r64 = pop64_reg, leave64 = leave_64;
const op_fn push_m64[EA_KINDS] = { push64_mem_b, push64_mem_s, push64_mem_x };

/* Out-of-line stack access: v->tmp[1] is stored or tmp[0] loaded at SS:off. */
int stack_store(struct vcpu *v, const struct insn *i, u64 off, unsigned size, u64 val)
{
	gva_t lin;

	sync_icount(v, i);
	if (cpu_stack_size(&v->cpu) == 2)
		off = (u16)off;
	else if (cpu_stack_size(&v->cpu) == 4)
		off = (u32)off;
	if (seg_linear(v, SEG_SS, off, size, SEG_ACC_WRITE, &lin) || mmu_write(v, lin, &val, size))
		return FAULT;
	if (v->event)
		break_after(v, i);
	return 0;
}

int stack_load(struct vcpu *v, const struct insn *i, u64 off, unsigned size, u64 *val)
{
	gva_t lin;

	sync_icount(v, i);
	if (cpu_stack_size(&v->cpu) == 2)
		off = (u16)off;
	else if (cpu_stack_size(&v->cpu) == 4)
		off = (u32)off;
	*val = 0;
	if (seg_linear(v, SEG_SS, off, size, SEG_ACC_READ, &lin) || mmu_read(v, lin, val, size))
		return FAULT;
	if (v->event)
		break_after(v, i);
	return 0;
}

void stack_set_sp(struct vcpu *v, u64 sp)
{
	switch (cpu_stack_size(&v->cpu)) {
	case 2:
		R16(REG_RSP * 8) = (u16)sp;
		break;
	case 4:
		RSP = (u32)sp;
		break;
	default:
		RSP = sp;
		break;
	}
}

static u64 reg_of_size(struct vcpu *v, unsigned off, unsigned size)
{
	return size == 2 ? R16(off) : size == 4 ? R32(off) : R64(off);
}
static void set_reg_of_size(struct vcpu *v, unsigned off, unsigned size, u64 val)
{
	if (size == 2)
		R16(off) = (u16)val;
	else
		R64(off) = size == 4 ? (u32)val : val;
}

static int do_push(struct vcpu *v, const struct insn *i, u64 val)
{
	if (stack_store(v, i, RSP - i->size, i->size, val))
		return FAULT;
	stack_set_sp(v, RSP - i->size);
	return 0;
}

static int do_pop_reg(struct vcpu *v, const struct insn *i)
{
	u64 val;

	if (stack_load(v, i, RSP, i->size, &val))
		return FAULT;
	stack_set_sp(v, RSP + i->size);
	set_reg_of_size(v, i->dst, i->size, val);
	return 0;
}

static int do_push_mem(struct vcpu *v, const struct insn *i)
{
	u64 val = 0;

	if (interp_ea(v, i, i->size, false) || interp_load(v, i, hot(v)->tmp[7], i->size))
		return FAULT;
	val = hot(v)->tmp[0];
	return do_push(v, i, val);
}

/* POP m: an address that uses rSP sees it already incremented (SDM vol. 2, POP). */
static int do_pop_mem(struct vcpu *v, const struct insn *i)
{
	u64 val, sp = RSP;

	if (stack_load(v, i, sp, i->size, &val))
		return FAULT;
	stack_set_sp(v, sp + i->size);
	hot(v)->tmp[1] = val;
	if (interp_ea(v, i, i->size, true) || interp_store(v, i, hot(v)->tmp[7], i->size)) {
		RSP = sp;
		return FAULT;
	}
	return 0;
}

static int do_leave(struct vcpu *v, const struct insn *i)
{
	u64 val, bp = v->cpu.gpr[REG_RBP];

	if (stack_load(v, i, bp, i->size, &val))
		return FAULT;
	stack_set_sp(v, bp + i->size);
	set_reg_of_size(v, REG_RBP * 8, i->size, val);
	return 0;
}

static int do_pusha(struct vcpu *v, const struct insn *i)
{
	u64 sp = RSP;

	for (unsigned r = 0; r < 8; r++)
		if (stack_store(v, i, sp - (u64)(r + 1) * i->size, i->size, reg_of_size(v, r * 8, i->size)))
			return FAULT;
	stack_set_sp(v, sp - 8ull * i->size);
	return 0;
}

static int do_popa(struct vcpu *v, const struct insn *i)
{
	u64 sp = RSP, val[8];

	for (unsigned r = 8; r-- > 0;)
		if (stack_load(v, i, sp + (7 - r) * i->size, i->size, &val[r]))
			return FAULT;
	for (unsigned r = 0; r < 8; r++)
		if (r != REG_RSP)
			set_reg_of_size(v, r * 8, i->size, val[r]);
	stack_set_sp(v, sp + 8ull * i->size);
	return 0;
}

#define WRAP(name, call)                                                                                               \
	static OP(name##_op)                                                                                           \
	{                                                                                                              \
		if (call)                                                                                              \
			return interp_fault(v, i);                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	const op_fn name = name##_op;
WRAP(push_r, do_push(v, i, reg_of_size(v, i->src, i->size)))
WRAP(push_i, do_push(v, i, i->imm))
WRAP(push_m, do_push_mem(v, i))
WRAP(pop_r, do_pop_reg(v, i))
WRAP(pop_m, do_pop_mem(v, i))
WRAP(leave_any, do_leave(v, i))
WRAP(pusha, do_pusha(v, i))
WRAP(popa, do_popa(v, i))
