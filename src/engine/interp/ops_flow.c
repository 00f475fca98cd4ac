/*
 * Near control transfer. In 64-bit mode and in flat 32-bit mode a direct
 * branch inside its page goes straight to the block it once found; all others
 * go through the jump cache. Segmented code takes the *_any handlers, which
 * truncate the target and check it against the CS limit.
 */
#include "engine/interp/ops.h"
#include "engine/interp/typed.h"

#define RSP v->cpu.gpr[REG_RSP]

/* Take direct branch `i`; fast modes only. */
static inline __attribute__((always_inline)) const struct insn *branch(struct vcpu *v, const struct insn *i)
{
	u64 target = i->imm;

	hot(v)->budget += i->left;
	if (likely(i->link))
		return enter_block(v, i->link);
	if (target < PAGE_SIZE) {
		struct block *b = cache_find_near(v, (unsigned)target);

		if (b) {
			((struct insn *)(uintptr_t)i)->link = b;
			return enter_block(v, b);
		}
	}
	target += v->cpu.rip;
	return interp_dispatch(v, hot(v)->mode == BLOCK_64 ? target : (u32)target);
}

static OP(jmp_direct)
{
	return branch(v, i);
}

/* Conditions on hot->flags: AH = SF ZF 0 AF 0 PF 1 CF, AL = OF. */
#define LESS(f) (((f) >> 15 ^ (f)) & 1)
#define COND_0(f) ((f)&1)
#define COND_2(f) ((f)&0x100)
#define COND_4(f) ((f)&0x4000)
#define COND_6(f) ((f)&0x4100)
#define COND_8(f) ((f)&0x8000)
#define COND_10(f) ((f)&0x400)
#define COND_12(f) LESS(f)
#define COND_14(f) (((f)&0x4000) || LESS(f))
#define JCC(n, m)                                                                                                      \
	static OP(jcc_##n)                                                                                             \
	{                                                                                                              \
		unsigned f = hot(v)->flags;                                                                            \
		if (COND_##n(f))                                                                                       \
			return branch(v, i);                                                                           \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(jcc_##m)                                                                                             \
	{                                                                                                              \
		unsigned f = hot(v)->flags;                                                                            \
		if (!(COND_##n(f)))                                                                                    \
			return branch(v, i);                                                                           \
		NEXT;                                                                                                  \
	}
JCC(0, 1)
JCC(2, 3)
JCC(4, 5)
JCC(6, 7)
JCC(8, 9)
JCC(10, 11)
JCC(12, 13)
JCC(14, 15)
const op_fn jcc_near[16] = { jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
			     jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15 };

static OP(call_direct64)
{
	u64 sp = RSP - 8;

	STORE(u64, sp, v->cpu.rip + i->off + i->len);
	RSP = sp;
	return branch(v, i);
}

/* Is `t` canonical for 48 bits? With 57-bit addresses only the slow path knows. */
static inline bool plainly_canonical(u64 t)
{
	return (t + BIT(47)) >> 48 == 0;
}
#define CHECK_TARGET(t)                                                                                                \
	do {                                                                                                           \
		if (unlikely(!plainly_canonical(t)) && !lin_canonical(&v->cpu, (t))) {                                 \
			fault_gp(v, 0);                                                                                \
			return interp_fault(v, i);                                                                     \
		}                                                                                                      \
	} while (0)

static OP(ret_near_64)
{
	u64 sp = RSP;

	LOAD(u64, t, sp);
	CHECK_TARGET(t);
	RSP = sp + 8 + i->imm;
	return interp_dispatch(v, t);
}
static OP(jmp_reg64)
{
	u64 t = R64(i->src);

	CHECK_TARGET(t);
	return interp_dispatch(v, t);
}
static OP(call_reg64)
{
	u64 t = R64(i->src), sp = RSP - 8;

	STORE(u64, sp, v->cpu.rip + i->off + i->len);
	CHECK_TARGET(t); /* hardware finds a fault of the stack first */
	RSP = sp;
	return interp_dispatch(v, t);
}
#define INDIRECT(K)                                                                                                    \
	static OP(jmp_mem64_##K)                                                                                       \
	{                                                                                                              \
		EA_##K(lin, 8, false);                                                                                 \
		LOAD(u64, t, lin);                                                                                     \
		CHECK_TARGET(t);                                                                                       \
		return interp_dispatch(v, t);                                                                          \
	}                                                                                                              \
	static OP(call_mem64_##K)                                                                                      \
	{                                                                                                              \
		EA_##K(lin, 8, false);                                                                                 \
		LOAD(u64, t, lin);                                                                                     \
		u64 sp = RSP - 8;                                                                                      \
		STORE_STACK(u64, sp, v->cpu.rip + i->off + i->len);                                                    \
		CHECK_TARGET(t);                                                                                       \
		RSP = sp;                                                                                              \
		return interp_dispatch(v, t);                                                                          \
	}
FOR_EAS(INDIRECT)
const op_fn jmp_near = jmp_direct, call_near64 = call_direct64, ret_near64 = ret_near_64;
const op_fn jmp_r64 = jmp_reg64, call_r64 = call_reg64;
const op_fn jmp_m64[EA_KINDS] = { jmp_mem64_b, jmp_mem64_s, jmp_mem64_x };
const op_fn call_m64[EA_KINDS] = { call_mem64_b, call_mem64_s, call_mem64_x };

/* Segmented or narrow code. `target` is an instruction pointer; size: operand size. */
static u64 truncate_ip(u64 target, unsigned size)
{
	return size == 2 ? (u16)target : size == 4 ? (u32)target : target;
}
static bool target_ok(struct vcpu *v, u64 target)
{
	if (hot(v)->mode == BLOCK_64 ? lin_canonical(&v->cpu, target) : target <= v->cpu.seg[SEG_CS].limit)
		return true;
	fault_gp(v, 0);
	return false;
}
static const struct insn *go(struct vcpu *v, const struct insn *i, u64 target)
{
	hot(v)->budget += i->left;
	v->cpu.rip = target;
	return interp_continue(v);
}

static OP(jmp_any_op)
{
	u64 t = truncate_ip(v->cpu.rip + i->imm, i->size);

	return target_ok(v, t) ? go(v, i, t) : interp_fault(v, i);
}

static OP(jcc_any_op)
{
	u64 t = truncate_ip(v->cpu.rip + i->imm, i->size);

	if (!condition_of(v, i->cond))
		NEXT;
	return target_ok(v, t) ? go(v, i, t) : interp_fault(v, i);
}

/* JCXZ LOOPNE LOOPE LOOP in i->cond 3 0 1 2; the count's width is the address size. */
static OP(loop_any_op)
{
	u64 t = truncate_ip(v->cpu.rip + i->imm, i->size), c = v->cpu.gpr[REG_RCX];
	bool zf = hot(v)->flags & 0x4000, taken;

	c = i->addrsize == 2 ? (u16)c : i->addrsize == 4 ? (u32)c : c;
	if (i->cond != 3) {
		c = i->addrsize == 2 ? (u16)(c - 1) : i->addrsize == 4 ? (u32)(c - 1) : c - 1;
		taken = c != 0 && (i->cond == 2 || zf == (i->cond == 1));
	} else {
		taken = c == 0;
	}
	if (taken && !target_ok(v, t))
		return interp_fault(v, i);
	if (i->cond != 3) {
		if (i->addrsize == 2)
			R16(REG_RCX * 8) = (u16)c;
		else
			v->cpu.gpr[REG_RCX] = c;
	}
	if (taken)
		return go(v, i, t);
	NEXT;
}

static int push_return(struct vcpu *v, const struct insn *i)
{
	u64 sp = RSP - i->size;

	if (stack_store(v, i, sp, i->size, v->cpu.rip + i->off + i->len))
		return FAULT;
	stack_set_sp(v, sp);
	return 0;
}

static OP(call_any_op)
{
	u64 t = truncate_ip(v->cpu.rip + i->imm, i->size);

	if (!target_ok(v, t) || push_return(v, i))
		return interp_fault(v, i);
	return go(v, i, t);
}

static int ret_target(struct vcpu *v, const struct insn *i)
{
	u64 t;

	if (stack_load(v, i, RSP, i->size, &t) || !target_ok(v, t))
		return FAULT;
	stack_set_sp(v, RSP + i->size + i->imm);
	hot(v)->tmp[2] = t;
	return 0;
}

static OP(ret_any_op)
{
	if (ret_target(v, i))
		return interp_fault(v, i);
	return go(v, i, hot(v)->tmp[2]);
}

/* Indirect through a register (base is none: src) or memory: i->cond 1 for memory. */
static int indirect_target(struct vcpu *v, const struct insn *i)
{
	u64 t;

	if (i->cond) {
		if (interp_ea(v, i, i->size, false) || interp_load(v, i, hot(v)->tmp[7], i->size))
			return FAULT;
		t = hot(v)->tmp[0];
	} else {
		t = R64(i->src);
	}
	t = truncate_ip(t, i->size);
	hot(v)->tmp[2] = t;
	return target_ok(v, t) ? 0 : FAULT;
}

static OP(jmp_rm_any_op)
{
	if (indirect_target(v, i))
		return interp_fault(v, i);
	return go(v, i, hot(v)->tmp[2]);
}

static OP(call_rm_any_op)
{
	if (indirect_target(v, i) || push_return(v, i))
		return interp_fault(v, i);
	return go(v, i, hot(v)->tmp[2]);
}

const op_fn jmp_any = jmp_any_op, jcc_any = jcc_any_op, call_any = call_any_op, ret_any = ret_any_op,
	    jmp_rm_any = jmp_rm_any_op, call_rm_any = call_rm_any_op, loop_any = loop_any_op;
