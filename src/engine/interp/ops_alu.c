/*
 * Two-operand arithmetic, unary operations, shifts: registers, immediates and
 * memory. The operation itself and its flags are the host's: each handler
 * runs the very instruction on the operand values.
 */
#include "engine/interp/ops.h"
#include "engine/interp/typed.h"

/* d op= s, new status flags to hot->flags. */
#define FLAGS_OUT "lahf\n\tseto %%al"
#define FLAGS_IN "addb $127, %%al\n\tsahf\n\t"
#define ALU_PLAIN(ins, d, s)                                                                                           \
	do {                                                                                                           \
		u16 f_;                                                                                                \
		__asm__(ins " %[b], %[a]\n\t" FLAGS_OUT : [a] "+r"(d), "=&a"(f_) : [b] "r"(s) : "cc");                 \
		hot(v)->flags = f_;                                                                                    \
	} while (0)
#define ALU_CARRY(ins, d, s)                                                                                           \
	do {                                                                                                           \
		u16 f_ = hot(v)->flags;                                                                                \
		__asm__(FLAGS_IN ins " %[b], %[a]\n\t" FLAGS_OUT : [a] "+r"(d), "+&a"(f_) : [b] "r"(s) : "cc");        \
		hot(v)->flags = f_;                                                                                    \
	} while (0)

/* Memory operand, DO on the value; a slow store that faults must find the old flags. */
#define MODIFY(name, T, K, DO)                                                                                         \
	static OP(name##_##T##K)                                                                                       \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), true);                                                                          \
		RMW_BEGIN(T, p, lin);                                                                                  \
		u16 f0_ = hot(v)->flags;                                                                               \
		T a = *p;                                                                                              \
		DO;                                                                                                    \
		if (unlikely(slow_)) {                                                                                 \
			u16 f1_ = hot(v)->flags;                                                                       \
			hot(v)->flags = f0_;                                                                           \
			if (store_slow(v, i, lin, a, sizeof(T)))                                                       \
				return interp_fault(v, i);                                                             \
			hot(v)->flags = f1_;                                                                           \
		} else {                                                                                               \
			*p = a;                                                                                        \
		}                                                                                                      \
		NEXT;                                                                                                  \
	}

/* The memory forms that write their operand, and those of CMP and TEST that only look. */
#define ALU_MEM_WRITES(name, T, ins, DO, K)                                                                            \
	MODIFY(name##_mr, T, K, T b = RD_##T(i->src); DO(ins, a, b))                                                   \
	MODIFY(name##_mi, T, K, T b = (T)i->imm; DO(ins, a, b))
#define ALU_MEM_LOOKS(name, T, ins, DO, K)                                                                             \
	static OP(name##_mr_##T##K)                                                                                    \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), false);                                                                         \
		LOAD(T, a, lin);                                                                                       \
		T b = RD_##T(i->src);                                                                                  \
		DO(ins, a, b);                                                                                         \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(name##_mi_##T##K)                                                                                    \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), false);                                                                         \
		LOAD(T, a, lin);                                                                                       \
		T b = (T)i->imm;                                                                                       \
		DO(ins, a, b);                                                                                         \
		NEXT;                                                                                                  \
	}

/* Handlers of one operation for one type. `keep`: the result is written; MEM: one of the two above. */
#define ALU_MEM(name, T, ins, DO, keep, MEM, K)                                                                        \
	static OP(name##_rm_##T##K)                                                                                    \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), false);                                                                         \
		LOAD(T, b, lin);                                                                                       \
		T a = RD_##T(i->dst);                                                                                  \
		DO(ins, a, b);                                                                                         \
		if (keep)                                                                                              \
			WR_##T(i->dst, a);                                                                             \
		NEXT;                                                                                                  \
	}                                                                                                              \
	MEM(name, T, ins, DO, K)

#define ALU_TYPE(name, T, ins, DO, keep, MEM)                                                                          \
	static OP(name##_rr_##T)                                                                                       \
	{                                                                                                              \
		T a = RD_##T(i->dst), b = RD_##T(i->src);                                                              \
		DO(ins, a, b);                                                                                         \
		if (keep)                                                                                              \
			WR_##T(i->dst, a);                                                                             \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(name##_ri_##T)                                                                                       \
	{                                                                                                              \
		T a = RD_##T(i->dst), b = (T)i->imm;                                                                   \
		DO(ins, a, b);                                                                                         \
		if (keep)                                                                                              \
			WR_##T(i->dst, a);                                                                             \
		NEXT;                                                                                                  \
	}                                                                                                              \
	ALU_MEM(name, T, ins, DO, keep, MEM, b)                                                                        \
	ALU_MEM(name, T, ins, DO, keep, MEM, s)                                                                        \
	ALU_MEM(name, T, ins, DO, keep, MEM, x)

#define ALU(name, DO, keep, MEM)                                                                                       \
	ALU_TYPE(name, u8, #name "b", DO, keep, MEM)                                                                   \
	ALU_TYPE(name, u16, #name "w", DO, keep, MEM)                                                                  \
	ALU_TYPE(name, u32, #name "l", DO, keep, MEM)                                                                  \
	ALU_TYPE(name, u64, #name "q", DO, keep, MEM)

ALU(add, ALU_PLAIN, true, ALU_MEM_WRITES)
ALU(or, ALU_PLAIN, true, ALU_MEM_WRITES)
ALU(adc, ALU_CARRY, true, ALU_MEM_WRITES)
ALU(sbb, ALU_CARRY, true, ALU_MEM_WRITES)
ALU(and, ALU_PLAIN, true, ALU_MEM_WRITES)
ALU(sub, ALU_PLAIN, true, ALU_MEM_WRITES)
ALU(xor, ALU_PLAIN, true, ALU_MEM_WRITES)
ALU(cmp, ALU_PLAIN, false, ALU_MEM_LOOKS)
ALU(test, ALU_PLAIN, false, ALU_MEM_LOOKS)

#define ALL_ALU(BY, f)                                                                                                 \
	{                                                                                                              \
		BY(add##f), BY(or ##f), BY(adc##f), BY(sbb##f), BY(and##f), BY(sub##f), BY(xor##f), BY(cmp##f),        \
		    BY(test##f)                                                                                        \
	}
const op_fn alu_rr[ALU_OPS][4] = ALL_ALU(BY_SIZE, _rr);
const op_fn alu_ri[ALU_OPS][4] = ALL_ALU(BY_SIZE, _ri);
const op_fn alu_rm[ALU_OPS][4][EA_KINDS] = ALL_ALU(BY_SIZE_EA, _rm);
const op_fn alu_mr[ALU_OPS][4][EA_KINDS] = ALL_ALU(BY_SIZE_EA, _mr);
const op_fn alu_mi[ALU_OPS][4][EA_KINDS] = ALL_ALU(BY_SIZE_EA, _mi);

/* One operand: INC and DEC keep CF, NOT keeps all. */
#define UNARY_DO(ins, d)                                                                                               \
	do {                                                                                                           \
		u16 f_ = hot(v)->flags;                                                                                \
		__asm__(FLAGS_IN ins " %[a]\n\t" FLAGS_OUT : [a] "+r"(d), "+&a"(f_) : : "cc");                         \
		hot(v)->flags = f_;                                                                                    \
	} while (0)

#define UNARY_TYPE(name, T, ins)                                                                                       \
	static OP(name##_r_##T)                                                                                        \
	{                                                                                                              \
		T a = RD_##T(i->dst);                                                                                  \
		UNARY_DO(ins, a);                                                                                      \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	MODIFY(name##_m, T, b, UNARY_DO(ins, a))                                                                       \
	MODIFY(name##_m, T, s, UNARY_DO(ins, a))                                                                       \
	MODIFY(name##_m, T, x, UNARY_DO(ins, a))
#define UNARY(name)                                                                                                    \
	UNARY_TYPE(name, u8, #name "b")                                                                                \
	UNARY_TYPE(name, u16, #name "w")                                                                               \
	UNARY_TYPE(name, u32, #name "l")                                                                               \
	UNARY_TYPE(name, u64, #name "q")
UNARY(inc)
UNARY(dec)
UNARY(neg)
UNARY(not )
const op_fn unary_r[UN_OPS][4] = { BY_SIZE(inc_r), BY_SIZE(dec_r), BY_SIZE(neg_r), BY_SIZE(not_r) };
const op_fn unary_m[UN_OPS][4][EA_KINDS] = { BY_SIZE_EA(inc_m), BY_SIZE_EA(dec_m), BY_SIZE_EA(neg_m),
					     BY_SIZE_EA(not_m) };

/* Shifts. A count of zero leaves the flags alone: they go in and come out. */
#define SHIFT_DO(ins, d, count)                                                                                        \
	do {                                                                                                           \
		u16 f_ = hot(v)->flags;                                                                                \
		__asm__(FLAGS_IN ins " %%cl, %[a]\n\t" FLAGS_OUT : [a] "+r"(d), "+&a"(f_) : "c"((u8)(count)) : "cc");  \
		hot(v)->flags = f_;                                                                                    \
	} while (0)
#define SHIFT_TYPE(name, T, ins)                                                                                       \
	static OP(name##_ri_##T)                                                                                       \
	{                                                                                                              \
		T a = RD_##T(i->dst);                                                                                  \
		SHIFT_DO(ins, a, i->imm);                                                                              \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(name##_rc_##T)                                                                                       \
	{                                                                                                              \
		T a = RD_##T(i->dst);                                                                                  \
		SHIFT_DO(ins, a, v->cpu.gpr[REG_RCX]);                                                                 \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	MODIFY(name##_mi, T, b, SHIFT_DO(ins, a, i->imm))                                                              \
	MODIFY(name##_mi, T, s, SHIFT_DO(ins, a, i->imm))                                                              \
	MODIFY(name##_mi, T, x, SHIFT_DO(ins, a, i->imm))                                                              \
	MODIFY(name##_mc, T, b, SHIFT_DO(ins, a, v->cpu.gpr[REG_RCX]))                                                 \
	MODIFY(name##_mc, T, s, SHIFT_DO(ins, a, v->cpu.gpr[REG_RCX]))                                                 \
	MODIFY(name##_mc, T, x, SHIFT_DO(ins, a, v->cpu.gpr[REG_RCX]))
#define SHIFT(name)                                                                                                    \
	SHIFT_TYPE(name, u8, #name "b")                                                                                \
	SHIFT_TYPE(name, u16, #name "w")                                                                               \
	SHIFT_TYPE(name, u32, #name "l")                                                                               \
	SHIFT_TYPE(name, u64, #name "q")
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)

/*
 * ROL and ROR of a register by an immediate other than 1 leave OF undefined.
 * Many processors keep it then, but not in the form by CL, which the handlers
 * above use: here OF stays what it was.
 */
#define ROTATE_TYPE(name, T, ins)                                                                                      \
	static OP(name##_rk_##T)                                                                                       \
	{                                                                                                              \
		u8 of = (u8)hot(v)->flags;                                                                             \
		T a = RD_##T(i->dst);                                                                                  \
		SHIFT_DO(ins, a, i->imm);                                                                              \
		hot(v)->flags = (u16)((hot(v)->flags & 0xff00) | of);                                                  \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}
#define ROTATE(name)                                                                                                   \
	ROTATE_TYPE(name, u8, #name "b")                                                                               \
	ROTATE_TYPE(name, u16, #name "w")                                                                              \
	ROTATE_TYPE(name, u32, #name "l")                                                                              \
	ROTATE_TYPE(name, u64, #name "q")
ROTATE(rol)
ROTATE(ror)
const op_fn rotate_rk[2][4] = { BY_SIZE(rol_rk), BY_SIZE(ror_rk) };

bool rotate_keeps_of(void)
{
	u32 a = 0x55555555, clear = 0, set = 0x7fffffff;
	bool of0, of1, of2, of3;

	/* with OF clear, then set; from this pattern a rotation that computes OF would set it */
	__asm__("add $0, %[clear]\n\trol $3, %[a]\n\tseto %[of0]\n\t"
		"add $0, %[clear]\n\tror $4, %[a]\n\tseto %[of1]\n\t"
		"add $1, %[set]\n\trol $3, %[a]\n\tseto %[of2]\n\t"
		"sub $1, %[set]\n\tror $4, %[a]\n\tseto %[of3]"
		: [a] "+r"(a), [clear] "+r"(clear), [set] "+r"(set), [of0] "=&q"(of0), [of1] "=&q"(of1),
		  [of2] "=&q"(of2), [of3] "=&q"(of3)
		:
		: "cc");
	return !of0 && !of1 && of2 && of3;
}

/* ModRM.reg 6 is SAL, the same as SHL. */
#define ALL_SHIFT(BY, f)                                                                                               \
	{                                                                                                              \
		BY(rol##f), BY(ror##f), BY(rcl##f), BY(rcr##f), BY(shl##f), BY(shr##f), BY(shl##f), BY(sar##f)         \
	}
const op_fn shift_ri[8][4] = ALL_SHIFT(BY_SIZE, _ri);
const op_fn shift_rc[8][4] = ALL_SHIFT(BY_SIZE, _rc);
const op_fn shift_mi[8][4][EA_KINDS] = ALL_SHIFT(BY_SIZE_EA, _mi);
const op_fn shift_mc[8][4][EA_KINDS] = ALL_SHIFT(BY_SIZE_EA, _mc);
