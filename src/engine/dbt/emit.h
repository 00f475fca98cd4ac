/*
 * Host code emission: the few encodings the translator makes by itself.
 * Guest instructions are rewritten byte by byte in rewrite.c. None of these
 * host instructions touches the flags: they are the guest's. Also used where the guest's vector state is live.
 */
#ifndef ECTYPE_ENGINE_DBT_EMIT_H
#define ECTYPE_ENGINE_DBT_EMIT_H

#include "engine/dbt/clone.h"

/* Where code is written: through the writable view; `rx` - `rw` leads to the
 * address it runs at. Writing beyond `end` is counted, not done. */
struct emit {
	u8 *p, *end;
	bool overflow;
	ptrdiff_t to_rx;
	struct fixes *fixes; /* NULL: not noted */
};

/* What is put next depends on where the block is. */
static inline void note_fix(struct emit *e, enum fix_kind kind)
{
	if (e->fixes)
		fix_note(e->fixes, kind, e->p);
}

#define TRAMPOLINES_SIZE 8192 /* at the beginning of the code cache */

/* Host registers by number. */
enum {
	H_RAX,
	H_RCX,
	H_RDX,
	H_RBX,
	H_RSP,
	H_RBP,
	H_RSI,
	H_RDI,
	H_R8,
	H_R12 = 12,
	H_R13,
	H_R14,
	H_R15,
};

static inline void put(struct emit *e, unsigned b)
{
	if (e->p < e->end)
		*e->p++ = (u8)b;
	else
		e->overflow = true;
}
/* `n` <= 8 bytes, the first one lowest. What lies behind them, up to `end`, may be overwritten. */
static inline void put_chunk(struct emit *e, u64 bytes, unsigned n)
{
	u8 *p = e->p;

	if (likely(e->end - p >= 8)) {
		__builtin_memcpy(p, &bytes, 8);
		e->p = p + n;
		return;
	}
	for (; n; n--, bytes >>= 8)
		put(e, bytes & 0xff);
}
static inline void put_bytes(struct emit *e, const u8 *b, unsigned n)
{
	if (__builtin_constant_p(n) && n <= 8) {
		u64 all = 0;

		__builtin_memcpy(&all, b, n);
		put_chunk(e, all, n);
		return;
	}
	for (unsigned k = 0; k < n; k++)
		put(e, b[k]);
}
static inline void put32(struct emit *e, u32 v)
{
	put_chunk(e, v, 4);
}
static inline void put64(struct emit *e, u64 v)
{
	put_chunk(e, v, 8);
}
static inline bool fits8(s64 v)
{
	return v >= -128 && v <= 127;
}
static inline bool fits32(s64 v)
{
	return v == (s32)v;
}

/* An encoding being put together: `n` <= 8 bytes, the first one lowest. */
struct chunk {
	u64 bytes;
	unsigned n;
};
static inline void add8(struct chunk *c, unsigned b)
{
	c->bytes |= (u64)(u8)b << (8 * c->n);
	c->n++;
}
/* REX, if any of its bits is set, and the opcode. */
static inline struct chunk opcode_chunk(unsigned rex_bits, unsigned op)
{
	if (rex_bits)
		return (struct chunk){ 0x40 | rex_bits | op << 8, 2 };
	return (struct chunk){ op, 1 };
}
/* ... and a displacement, mod being 0 for none, 1 for 8 bits, 2 for 32. */
static inline void put_with_disp(struct emit *e, struct chunk c, unsigned mod, s32 disp)
{
	if (mod < 2) {
		c.bytes |= mod ? (u64)(u8)disp << (8 * c.n) : 0;
		put_chunk(e, c.bytes, c.n + mod);
		return;
	}
	put_chunk(e, c.bytes, c.n);
	put32(e, (u32)disp);
}

/* ModRM, SIB and displacement of [base + disp]; any base. */
static inline void put_operand(struct emit *e, struct chunk c, unsigned reg, unsigned base, s32 disp)
{
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : fits8(disp) ? 1 : 2;

	add8(&c, mod << 6 | (reg & 7) << 3 | (base & 7));
	if ((base & 7) == 4)
		add8(&c, 0x24);
	put_with_disp(e, c, mod, disp);
}
static inline void put_base_disp(struct emit *e, unsigned reg, unsigned base, s32 disp)
{
	put_operand(e, (struct chunk){ 0, 0 }, reg, base, disp);
}
/* [base + index * 2^scale + disp] */
static inline void put_indexed(struct emit *e, struct chunk c, unsigned reg, unsigned base, unsigned index,
			       unsigned scale, s32 disp)
{
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : fits8(disp) ? 1 : 2;

	add8(&c, mod << 6 | (reg & 7) << 3 | 4);
	add8(&c, scale << 6 | (index & 7) << 3 | (base & 7));
	put_with_disp(e, c, mod, disp);
}
static inline void put_base_index_disp(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale,
				       s32 disp)
{
	put_indexed(e, (struct chunk){ 0, 0 }, reg, base, index, scale, disp);
}

/* The same, always with a displacement of 32 bits. */
static inline void put_base_index_disp32(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale,
					 s32 disp)
{
	put(e, 2 << 6 | (reg & 7) << 3 | 4);
	put(e, scale << 6 | (index & 7) << 3 | (base & 7));
	put32(e, (u32)disp);
}

/* One-byte opcodes with a 64-bit (w) or 32-bit operand. */
static inline void op_rr(struct emit *e, bool w, unsigned op, unsigned reg, unsigned rm)
{
	struct chunk c = opcode_chunk(w << 3 | (reg >> 3) << 2 | rm >> 3, op);

	add8(&c, 0xc0 | (reg & 7) << 3 | (rm & 7));
	put_chunk(e, c.bytes, c.n);
}
static inline void op_rm(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base, s32 disp)
{
	put_operand(e, opcode_chunk(w << 3 | (reg >> 3) << 2 | base >> 3, op), reg, base, disp);
}
static inline void op_rmx(struct emit *e, bool w, unsigned op, unsigned reg, unsigned base, unsigned index,
			  unsigned scale, s32 disp)
{
	put_indexed(e, opcode_chunk(w << 3 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3, op), reg, base, index,
		    scale, disp);
}
/* gs:[disp]: a field of struct vcpu. */
static inline void put_gs_operand(struct emit *e, unsigned reg, u32 disp)
{
	put_chunk(e, (reg & 7) << 3 | 4 | 0x25 << 8 | (u64)disp << 16, 6);
}
static inline void op_gs(struct emit *e, bool w, unsigned op, unsigned reg, u32 disp)
{
	unsigned rex = w << 3 | (reg >> 3) << 2;

	if (rex)
		put_chunk(e, 0x65 | (0x40 | rex) << 8 | op << 16, 3);
	else
		put_chunk(e, 0x65 | op << 8, 2);
	put_gs_operand(e, reg, disp);
}

static inline void mov_rr(struct emit *e, unsigned dst, unsigned src)
{
	op_rr(e, true, 0x89, src, dst);
}
static inline void load_gs(struct emit *e, unsigned dst, u32 disp)
{
	op_gs(e, true, 0x8b, dst, disp);
}
static inline void store_gs(struct emit *e, unsigned src, u32 disp)
{
	op_gs(e, true, 0x89, src, disp);
}
static inline void lea(struct emit *e, unsigned dst, unsigned base, s32 disp)
{
	op_rm(e, true, 0x8d, dst, base, disp);
}
/* mov dst, imm in the shortest form */
static inline void mov_imm(struct emit *e, unsigned dst, u64 imm)
{
	if (imm == (u32)imm) {
		if (dst >> 3)
			put_chunk(e, 0x41 | (0xb8 | (dst & 7)) << 8 | imm << 16, 6);
		else
			put_chunk(e, 0xb8 | (dst & 7) | imm << 8, 5);
	} else if (fits32((s64)imm)) {
		put_chunk(e, 0x48 | dst >> 3 | 0xc7 << 8 | (u64)(0xc0 | (dst & 7)) << 16 | (u64)(u32)imm << 24, 7);
	} else {
		put_chunk(e, 0x48 | dst >> 3 | (0xb8 | (dst & 7)) << 8, 2);
		put64(e, imm);
	}
}
/* mov dst, a linear address that moves with the block */
static inline void mov_lin(struct emit *e, unsigned dst, u64 lin)
{
	u8 *at = e->p + 2;

	mov_imm(e, dst, lin);
	if (!e->fixes)
		return;
	if (lin == (u32)lin || fits32((s64)lin))
		e->fixes->none = true;
	else
		fix_note(e->fixes, FIX_LIN, at);
}
/* mov dword gs:[disp], imm */
static inline void mov_gs_imm32(struct emit *e, u32 disp, u32 imm)
{
	put_chunk(e, 0x65 | 0xc7 << 8, 2);
	put_gs_operand(e, 0, disp);
	put32(e, imm);
}
/* The host's flags = gs:[disp], as LAHF and SETO leave them; clobbers RCX. */
static inline void put_restore_flags(struct emit *e, u32 disp)
{
	mov_rr(e, H_RCX, H_RAX);
	put_bytes(e, (const u8[]){ 0x65, 0x0f, 0xb7 }, 3); /* movzx eax, word gs:[flags] */
	put_gs_operand(e, H_RAX, disp);
	put_bytes(e, (const u8[]){ 0x04, 0x7f, 0x9e }, 3); /* add al, 127 ; sahf */
	mov_rr(e, H_RAX, H_RCX);
}
static inline void mov_gs_fix(struct emit *e, u32 disp, enum fix_kind kind, u32 imm)
{
	mov_gs_imm32(e, disp, imm);
	if (e->fixes)
		fix_note(e->fixes, kind, e->p - 4);
}
/* rorx dst, src, n (64 bit) */
static inline void rorx(struct emit *e, unsigned dst, unsigned src, unsigned n)
{
	u64 b = (dst >> 3 ? 0 : 0x80) | 0x40 | (src >> 3 ? 0 : 0x20) | 3;

	/* W1 vvvv=1111 L0 pp=F2 */
	put_chunk(e, 0xc4 | b << 8 | 0xf0fb0000 | (u64)(0xc0 | (dst & 7) << 3 | (src & 7)) << 32 | (u64)n << 40, 6);
}
/* pext dst32, src32, dword gs:[disp] */
static inline void pext_gs(struct emit *e, unsigned dst, unsigned src, u32 disp)
{
	u64 b = (dst >> 3 ? 0 : 0x80) | 0x60 | 2, v = (~src & 15) << 3 | 2; /* W0 L0 pp=F3 */

	put_chunk(e, 0x65 | 0xc4 << 8 | b << 16 | v << 24 | 0xf5ull << 32, 5);
	put_gs_operand(e, dst, disp);
}
/* pext dst, src, qword gs:[disp] */
static inline void pext64_gs(struct emit *e, unsigned dst, unsigned src, u32 disp)
{
	put(e, 0x65);
	put(e, 0xc4);
	put(e, (dst >> 3 ? 0 : 0x80) | 0x60 | 2);
	put(e, 0x80 | (~src & 15) << 3 | 2); /* W1 L0 pp=F3 */
	put(e, 0xf5);
	put_gs_operand(e, dst, disp);
}
/* pdep dst32, src32, dword gs:[disp] */
static inline void pdep_gs(struct emit *e, unsigned dst, unsigned src, u32 disp)
{
	u64 b = (dst >> 3 ? 0 : 0x80) | 0x60 | 2, v = (~src & 15) << 3 | 3; /* W0 L0 pp=F2 */

	put_chunk(e, 0x65 | 0xc4 << 8 | b << 16 | v << 24 | 0xf5ull << 32, 5);
	put_gs_operand(e, dst, disp);
}
/* jmp or call (op E9H, E8H) to `target`, an address in the executable view */
static inline void jump(struct emit *e, unsigned op, const u8 *target)
{
	put(e, op);
	if (e->fixes && (size_t)(target - e->fixes->trampolines) < TRAMPOLINES_SIZE)
		fix_note(e->fixes, FIX_TRAMPOLINE, e->p);
	put32(e, (u32)(target - (e->p + e->to_rx + 4)));
}

#endif
