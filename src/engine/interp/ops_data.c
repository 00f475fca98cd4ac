/*
 * Moves, extensions, conditional moves and sets, and the small register-only
 * instructions.
 */
#include "engine/interp/ops.h"
#include "engine/interp/typed.h"

/* Restores the guest's status flags in the host and runs `ins`. */
#define WITH_FLAGS(ins, ...) __asm__("addb $127, %%al\n\tsahf\n\t" ins __VA_ARGS__)

/* Bit cc of entry (SF:ZF:0:AF:0:PF:1:CF << 1 | OF): is condition cc true? */
#define C_CF(n) ((n) >> 1 & 1)
#define C_PF(n) ((n) >> 3 & 1)
#define C_ZF(n) ((n) >> 7 & 1)
#define C_SF(n) ((n) >> 8 & 1)
#define C_OF(n) ((n)&1)
#define C_PAIR(k, x) ((x) ? 1u << (2 * (k)) : 2u << (2 * (k)))
#define C1(n)                                                                                                          \
	(C_PAIR(0, C_OF(n)) | C_PAIR(1, C_CF(n)) | C_PAIR(2, C_ZF(n)) | C_PAIR(3, C_CF(n) | C_ZF(n)) |                 \
	 C_PAIR(4, C_SF(n)) | C_PAIR(5, C_PF(n)) | C_PAIR(6, C_SF(n) ^ C_OF(n)) |                                      \
	 C_PAIR(7, C_ZF(n) | (C_SF(n) ^ C_OF(n))))
#define C4(n) C1(n), C1((n) + 1), C1((n) + 2), C1((n) + 3)
#define C16(n) C4(n), C4((n) + 4), C4((n) + 8), C4((n) + 12)
#define C64(n) C16(n), C16((n) + 16), C16((n) + 32), C16((n) + 48)
static const u16 condition_table[512] = { C64(0), C64(64), C64(128), C64(192), C64(256), C64(320), C64(384), C64(448) };

/* Value of condition i->cond under the guest's flags. */
static inline __attribute__((always_inline)) bool condition(struct vcpu *v, unsigned cc)
{
	u16 f = hot(v)->flags;

	return condition_table[(f >> 7 & 0x1fe) | (f & 1)] >> cc & 1;
}

bool condition_of(struct vcpu *v, unsigned cc)
{
	return condition(v, cc);
}

#define MOV_REG(T)                                                                                                     \
	static OP(movrr_##T)                                                                                           \
	{                                                                                                              \
		WR_##T(i->dst, RD_##T(i->src));                                                                        \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(movri_##T)                                                                                           \
	{                                                                                                              \
		WR_##T(i->dst, i->imm);                                                                                \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(xchgrr_##T)                                                                                          \
	{                                                                                                              \
		T a = RD_##T(i->dst), b = RD_##T(i->src);                                                              \
		WR_##T(i->dst, b);                                                                                     \
		WR_##T(i->src, a);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(cmovrr_##T)                                                                                          \
	{                                                                                                              \
		T b = condition(v, i->cond) ? RD_##T(i->src) : RD_##T(i->dst);                                         \
		WR_##T(i->dst, b); /* a 32-bit CMOV clears the upper half either way */                                \
		NEXT;                                                                                                  \
	}
FOR_SIZES(MOV_REG)
const op_fn mov_rr[4] = BY_SIZE(movrr), mov_ri[4] = BY_SIZE(movri), xchg_rr[4] = BY_SIZE(xchgrr);
const op_fn cmov_rr[4] = BY_SIZE(cmovrr);

#define MOV_MEM(K, T)                                                                                                  \
	static OP(movrm_##T##K)                                                                                        \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), false);                                                                         \
		LOAD(T, a, lin);                                                                                       \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(movmr_##T##K)                                                                                        \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), true);                                                                          \
		STORE(T, lin, RD_##T(i->src));                                                                         \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(movmi_##T##K)                                                                                        \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), true);                                                                          \
		STORE(T, lin, i->imm);                                                                                 \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(cmovrm_##T##K)                                                                                       \
	{                                                                                                              \
		EA_##K(lin, sizeof(T), false);                                                                         \
		LOAD(T, a, lin);                                                                                       \
		T b = condition(v, i->cond) ? a : RD_##T(i->dst);                                                      \
		WR_##T(i->dst, b);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(lea_##T##K)                                                                                          \
	{                                                                                                              \
		WR_##T(i->dst, LEA_##K);                                                                               \
		NEXT;                                                                                                  \
	}
/* LEA knows no segment: only the address size matters. */
static inline u64 lea_any(struct vcpu *v, const struct insn *i)
{
	u64 off = ea_fast(v, i);

	return i->addrsize == 8 ? off : i->addrsize == 4 ? (u32)off : (u16)off;
}
#define LEA_b ea_base(v, i)
#define LEA_s ea_fast(v, i)
#define LEA_x lea_any(v, i)
#define MOV_MEMS(T) FOR_EAS(MOV_MEM, T)
FOR_SIZES(MOV_MEMS)
const op_fn mov_rm[4][EA_KINDS] = BY_SIZE_EA(movrm), mov_mr[4][EA_KINDS] = BY_SIZE_EA(movmr);
const op_fn mov_mi[4][EA_KINDS] = BY_SIZE_EA(movmi), cmov_rm[4][EA_KINDS] = BY_SIZE_EA(cmovrm);
const op_fn lea_r[4][EA_KINDS] = BY_SIZE_EA(lea);

/* MOVZX, MOVSX, MOVSXD: S is the source type as extended, U its unsigned twin. */
#define EXT_MEM(K, name, S, U, T)                                                                                      \
	static OP(name##_m_##U##T##K)                                                                                  \
	{                                                                                                              \
		EA_##K(lin, sizeof(U), false);                                                                         \
		LOAD(U, a, lin);                                                                                       \
		WR_##T(i->dst, (T)(S)a);                                                                               \
		NEXT;                                                                                                  \
	}
#define EXT(name, S, U, T)                                                                                             \
	static OP(name##_r_##U##T)                                                                                     \
	{                                                                                                              \
		WR_##T(i->dst, (T)(S)RD_##U(i->src));                                                                  \
		NEXT;                                                                                                  \
	}                                                                                                              \
	FOR_EAS(EXT_MEM, name, S, U, T)
EXT(movzx, u8, u8, u16)
EXT(movzx, u8, u8, u32)
EXT(movzx, u8, u8, u64)
EXT(movzx, u16, u16, u16)
EXT(movzx, u16, u16, u32)
EXT(movzx, u16, u16, u64)
EXT(movsx, s8, u8, u16)
EXT(movsx, s8, u8, u32)
EXT(movsx, s8, u8, u64)
EXT(movsx, s16, u16, u16)
EXT(movsx, s16, u16, u32)
EXT(movsx, s16, u16, u64)
EXT(movsx, s32, u32, u16)
EXT(movsx, s32, u32, u32)
EXT(movsx, s32, u32, u64)
#define EXT_R(n, U)                                                                                                    \
	{                                                                                                              \
		NULL, n##_r_##U##u16, n##_r_##U##u32, n##_r_##U##u64                                                   \
	}
#define EXT_M(n, U)                                                                                                    \
	{                                                                                                              \
		{ NULL }, BY_EA(n##_m_##U##u16), BY_EA(n##_m_##U##u32), BY_EA(n##_m_##U##u64)                          \
	}
const op_fn movzx_rr[2][4] = { EXT_R(movzx, u8), EXT_R(movzx, u16) };
const op_fn movsx_rr[3][4] = { EXT_R(movsx, u8), EXT_R(movsx, u16), EXT_R(movsx, u32) };
const op_fn movzx_rm[2][4][EA_KINDS] = { EXT_M(movzx, u8), EXT_M(movzx, u16) };
const op_fn movsx_rm[3][4][EA_KINDS] = { EXT_M(movsx, u8), EXT_M(movsx, u16), EXT_M(movsx, u32) };

static OP(setcc_reg)
{
	R8(i->dst) = condition(v, i->cond);
	NEXT;
}
const op_fn setcc_r = setcc_reg;
#define SETCC_MEM(K)                                                                                                   \
	static OP(setcc_mem_##K)                                                                                       \
	{                                                                                                              \
		EA_##K(lin, 1, true);                                                                                  \
		STORE(u8, lin, condition(v, i->cond));                                                                 \
		NEXT;                                                                                                  \
	}
FOR_EAS(SETCC_MEM)
const op_fn setcc_m[EA_KINDS] = { setcc_mem_b, setcc_mem_s, setcc_mem_x };

/* BSWAP of 16 bits clears the register on hardware (documented as undefined). */
static OP(bswap_16)
{
	R16(i->dst) = 0;
	NEXT;
}
static OP(bswap_32)
{
	R64(i->dst) = __builtin_bswap32(R32(i->dst));
	NEXT;
}
static OP(bswap_64)
{
	R64(i->dst) = __builtin_bswap64(R64(i->dst));
	NEXT;
}
const op_fn bswap_r[4] = { NULL, bswap_16, bswap_32, bswap_64 };

#define IMUL(T, sfx)                                                                                                   \
	static OP(imulrr_##T)                                                                                          \
	{                                                                                                              \
		T a = RD_##T(i->dst), b = RD_##T(i->src);                                                              \
		u16 f = hot(v)->flags;                                                                                 \
		WITH_FLAGS("imul" sfx " %[b], %[a]\n\tlahf\n\tseto %%al",                                              \
			   : [a] "+r"(a), "+&a"(f)                                                                     \
			   : [b] "r"(b)                                                                                \
			   : "cc");                                                                                    \
		hot(v)->flags = f;                                                                                     \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}                                                                                                              \
	static OP(imulrri_##T)                                                                                         \
	{                                                                                                              \
		T a = RD_##T(i->src), b = (T)i->imm;                                                                   \
		u16 f = hot(v)->flags;                                                                                 \
		WITH_FLAGS("imul" sfx " %[b], %[a]\n\tlahf\n\tseto %%al",                                              \
			   : [a] "+r"(a), "+&a"(f)                                                                     \
			   : [b] "r"(b)                                                                                \
			   : "cc");                                                                                    \
		hot(v)->flags = f;                                                                                     \
		WR_##T(i->dst, a);                                                                                     \
		NEXT;                                                                                                  \
	}
IMUL(u16, "w")
IMUL(u32, "l")
IMUL(u64, "q")
const op_fn imul_rr[4] = { NULL, imulrr_u16, imulrr_u32, imulrr_u64 };
const op_fn imul_rri[4] = { NULL, imulrri_u16, imulrri_u32, imulrri_u64 };

static OP(nop)
{
	NEXT;
}
const op_fn op_nop = nop;

/* CBW CWDE CDQE by destination size; CWD CDQ CQO likewise. */
static OP(cbw_16)
{
	v->cpu.gpr[REG_RAX] = (v->cpu.gpr[REG_RAX] & ~0xffffull) | (u16)(s8)v->cpu.gpr[REG_RAX];
	NEXT;
}
static OP(cbw_32)
{
	v->cpu.gpr[REG_RAX] = (u32)(s16)v->cpu.gpr[REG_RAX];
	NEXT;
}
static OP(cbw_64)
{
	v->cpu.gpr[REG_RAX] = (u64)(s32)v->cpu.gpr[REG_RAX];
	NEXT;
}
static OP(cwd_16)
{
	u16 hi = (s16)v->cpu.gpr[REG_RAX] < 0 ? 0xffff : 0;

	v->cpu.gpr[REG_RDX] = (v->cpu.gpr[REG_RDX] & ~0xffffull) | hi;
	NEXT;
}
static OP(cwd_32)
{
	v->cpu.gpr[REG_RDX] = (s32)v->cpu.gpr[REG_RAX] < 0 ? 0xffffffffu : 0;
	NEXT;
}
static OP(cwd_64)
{
	v->cpu.gpr[REG_RDX] = (s64)v->cpu.gpr[REG_RAX] < 0 ? ~0ull : 0;
	NEXT;
}
const op_fn op_cbw[4] = { NULL, cbw_16, cbw_32, cbw_64 };
const op_fn op_cwd[4] = { NULL, cwd_16, cwd_32, cwd_64 };

static OP(lahf_)
{
	R8(1) = (u8)((hot(v)->flags >> 8) & 0xd5) | 2; /* AH */
	NEXT;
}
static OP(sahf_)
{
	hot(v)->flags = (u16)((((R8(1) & 0xd5) | 2) << 8) | (hot(v)->flags & 1));
	NEXT;
}
static OP(clc)
{
	hot(v)->flags &= (u16)~0x100;
	NEXT;
}
static OP(stc)
{
	hot(v)->flags |= 0x100;
	NEXT;
}
static OP(cmc)
{
	hot(v)->flags ^= 0x100;
	NEXT;
}
static OP(cld)
{
	v->cpu.rflags &= ~FL_DF;
	NEXT;
}
static OP(std)
{
	v->cpu.rflags |= FL_DF;
	NEXT;
}
static OP(salc)
{
	R8(0) = hot(v)->flags & 0x100 ? 0xff : 0;
	NEXT;
}
const op_fn op_lahf = lahf_, op_sahf = sahf_, op_clc = clc, op_stc = stc, op_cmc = cmc, op_cld = cld, op_std = std,
	    op_salc = salc;

/* XLAT: the memory operand is [rBX + AL]; interp_ea() adds AL. */
static OP(xlat)
{
	EA_x(lin, 1, false);
	LOAD(u8, a, lin);
	R8(0) = a;
	NEXT;
}
const op_fn op_xlat = xlat;

static OP(touch)
{
	EA_x(lin, 1, false);
	LOAD(u8, a, lin);
	(void)a;
	NEXT;
}
const op_fn op_touch = touch;

/* Decimal adjustment (not available to a 64-bit host): SDM vol. 2. */
static u16 flags_of_byte(u8 r, bool cf, bool af)
{
	unsigned fl = 2u | cf | (af ? 0x10u : 0) | (r ? 0 : 0x40u) | (r & 0x80u);

	if (!__builtin_parity(r))
		fl |= 4;
	return (u16)(fl << 8);
}

static OP(bcd_adjust_unpacked)
{
	bool add = i->cond == 0;
	u8 al = R8(0);
	unsigned fl = hot(v)->flags >> 8;
	u16 ax = R16(0);

	if ((al & 15) > 9 || (fl & 0x10)) {
		ax = (u16)(add ? ax + 0x106 : ax - 6 - 0x100);
		fl |= 0x11;
	} else {
		fl &= ~0x11u;
	}
	R16(0) = ax & 0xff0f;
	hot(v)->flags = (u16)(fl << 8) | (hot(v)->flags & 1);
	NEXT;
}
static OP(bcd_adjust_packed)
{
	bool add = i->cond == 2;
	u8 old = R8(0), al = old;
	unsigned fl = hot(v)->flags >> 8;
	bool cf0 = fl & 1, cf = false, af = false;

	if ((old & 15) > 9 || (fl & 0x10)) {
		cf = cf0 || (add ? old > 0xf9 : old < 6);
		al = (u8)(add ? al + 6 : al - 6);
		af = true;
	}
	if (old > 0x99 || cf0) {
		al = (u8)(add ? al + 0x60 : al - 0x60);
		cf = true;
	}
	R8(0) = al;
	hot(v)->flags = flags_of_byte(al, cf, af);
	NEXT;
}
static OP(bcd_aam)
{
	u8 base = (u8)i->imm, al = R8(0);

	if (!base) {
		fault_raise(v, EXC_DE, false, 0, 0);
		return interp_fault(v, i);
	}
	R16(0) = (u16)((al / base) << 8 | al % base);
	hot(v)->flags = flags_of_byte(R8(0), false, false);
	NEXT;
}
static OP(bcd_aad)
{
	R16(0) = (u8)(R8(0) + R8(1) * (u8)i->imm);
	hot(v)->flags = flags_of_byte(R8(0), false, false);
	NEXT;
}
const op_fn op_bcd[6] = {
	bcd_adjust_unpacked, bcd_adjust_unpacked, bcd_adjust_packed, bcd_adjust_packed, bcd_aam, bcd_aad
};
