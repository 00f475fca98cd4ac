/*
 * The vector registers in the parked image, for instructions that access
 * memory element by element. fpu_park() first.
 */
#ifndef ECTYPE_ENGINE_INTERP_VECTOR_H
#define ECTYPE_ENGINE_INTERP_VECTOR_H

#include "cpu/fpu.h"
#include "engine/interp/interp.h"

#define VECTOR_HEADER 512 /* XSTATE_BV in the XSAVE header, SDM vol. 1, 13.4.2 */

/* Byte `n` (0..63) of vector register `reg` (0..31). Bytes above what the host
 * has land in no component and are never asked for. */
static inline u8 *vector_byte(struct cpu *c, unsigned reg, unsigned n)
{
	if (reg >= 16)
		return c->fpu + fpu_component_offset(7) + 64 * (reg - 16) + n;
	if (n < 16)
		return c->fpu + 160 + 16 * reg + n;
	if (n < 32)
		return c->fpu + fpu_component_offset(2) + 16 * reg + (n - 16);
	return c->fpu + fpu_component_offset(6) + 32 * reg + (n - 32);
}

/* Clear register `reg` from byte `from` to its end. */
static inline void vector_clear_from(struct cpu *c, unsigned reg, unsigned from)
{
	unsigned end = fpu_host_components() & XCR0_ZMM_HI256 ? 64 : 32;

	for (unsigned n = from; n < end; n++)
		*vector_byte(c, reg, n) = 0;
}

static inline u64 vector_opmask(const struct cpu *c, unsigned k)
{
	return *(const u64 *)(const void *)(c->fpu + fpu_component_offset(5) + 8 * k);
}
static inline void vector_set_opmask(struct cpu *c, unsigned k, u64 val)
{
	*(u64 *)(void *)(c->fpu + fpu_component_offset(5) + 8 * k) = val;
}

/* The image was changed: every component it holds counts when it is loaded. */
static inline void vector_touched(struct cpu *c)
{
	*(u64 *)(void *)(c->fpu + VECTOR_HEADER) |= fpu_host_components();
}

static inline u8 *vector_mmx(struct cpu *c, unsigned reg)
{
	/* MMn is physical register n; the image is in stack order (SDM vol. 1, 10.5.1) */
	unsigned top = c->fpu[3] >> 3 & 7;

	return c->fpu + 32 + 16 * ((reg - top) & 7);
}
/* TOP becomes 0: the data registers, in stack order in the image, change places. */
static inline void vector_clear_top(struct cpu *c)
{
	u8 copy[128];
	unsigned top = c->fpu[3] >> 3 & 7;

	for (unsigned n = 0; n < 128; n++)
		copy[n] = c->fpu[32 + n];
	for (unsigned r = 0; r < 8; r++)
		for (unsigned n = 0; n < 16; n++)
			c->fpu[32 + 16 * r + n] = copy[16 * ((r - top) & 7) + n];
	c->fpu[3] &= (u8)~0x38;
}

/* What every MMX instruction does to the x87 state: TOP 0, all tags valid. */
static inline void vector_enter_mmx(struct cpu *c)
{
	vector_clear_top(c);
	c->fpu[4] = 0xff;
	*(u64 *)(void *)(c->fpu + VECTOR_HEADER) |= XCR0_X87;
}

#endif
