/*
 * The XSAVE-managed state as the guest sees it (SDM vol. 1, chapter 13).
 *
 * The guest's standard-format layout is one fixed table (Intel's offsets), so
 * that a machine means the same on every host. cpu.fpu holds the same
 * components at the host's offsets (cpu/fpu.h): while it is parked its bytes
 * are authoritative, whatever XSTATE_BV in its header says; which components
 * are in use is computed from the bytes, so that it never depends on what the
 * host happened to track.
 */
#ifndef ECTYPE_CPU_XSTATE_H
#define ECTYPE_CPU_XSTATE_H

#include "cpu/vcpu.h"

#define XSTATE_LEGACY_SIZE 512
#define XSTATE_HEADER 512
#define XSTATE_EXTENDED 576 /* end of legacy area and header */
#define XSTATE_MAX_SIZE 0xa88
#define XCOMP_COMPACT BIT(63)

/* Offsets in the legacy area (SDM vol. 1, table 10-2). */
#define FX_FCW 0
#define FX_FSW 2
#define FX_FTW 4
#define FX_FOP 6
#define FX_FIP 8
#define FX_FDP 16
#define FX_MXCSR 24
#define FX_MXCSR_MASK 28
#define FX_ST 32
#define FX_XMM 160

#define FCW_INIT 0x037f
#define MXCSR_INIT 0x1f80
#define FSW_ES 0x0080
#define FSW_B 0x8000

#define XSTATE_PKRU 9

/* Components the guest may ever be offered. */
#define XSTATE_ALL (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512 | XCR0_PKRU)

/* Layout of extended component 2..9 in the guest's formats; size 0: none. */
static inline unsigned xstate_size(unsigned i)
{
	switch (i) {
	case 2:
		return 256;
	case 5:
		return 64;
	case 6:
		return 512;
	case 7:
		return 1024;
	case XSTATE_PKRU:
		return 8;
	default:
		return 0;
	}
}

static inline unsigned xstate_offset(unsigned i)
{
	switch (i) {
	case 2:
		return 0x240;
	case 5:
		return 0x440;
	case 6:
		return 0x480;
	case 7:
		return 0x680;
	case XSTATE_PKRU:
		return 0xa80;
	default:
		return 0;
	}
}

/* Bytes of an XSAVE area with the components of `mask`. */
static inline unsigned xstate_standard_size(u64 mask)
{
	unsigned size = XSTATE_EXTENDED;

	for (unsigned i = 2; i <= XSTATE_PKRU; i++)
		if ((mask & BIT(i)) && xstate_size(i))
			size = xstate_offset(i) + xstate_size(i);
	return size;
}

/* Offset of component `i` in a compacted area whose XCOMP_BV is `mask`; for
 * i = 63 its whole size. No component we offer asks for 64-byte alignment. */
static inline unsigned xstate_compact_offset(u64 mask, unsigned i)
{
	unsigned off = XSTATE_EXTENDED;

	for (unsigned k = 2; k <= XSTATE_PKRU && k < i; k++)
		if (mask & BIT(k))
			off += xstate_size(k);
	return off;
}

static inline unsigned xstate_compact_size(u64 mask)
{
	return xstate_compact_offset(mask, 63);
}

/* XINUSE of the parked state: components not in their initial configuration
 * (13.6; `mode64` because the upper registers count in 64-bit mode only).
 * MXCSR is not part of it. */
u64 xstate_in_use(const struct cpu *c, bool mode64);

/* MXCSR of the parked image. */
static inline u32 xstate_mxcsr(const struct cpu *c)
{
	u32 v;

	__builtin_memcpy(&v, c->fpu + FX_MXCSR, 4);
	return v;
}

/* The first 24 bytes of the legacy area as the guest stores them: `wide` is
 * the 64-bit form; otherwise 32-bit pointers and zero selectors (CPUID
 * reports FCS and FDS deprecated). */
void xstate_store_x87_head(const struct cpu *c, bool wide, u8 out[24]);
/* Take them over, with what hardware does not store dropped. */
void xstate_load_x87_head(struct cpu *c, bool wide, const u8 in[24]);
/* ST0..ST7 from 128 bytes of a legacy area; the padding is dropped. */
void xstate_load_st(struct cpu *c, const u8 *in);
/* FNINIT without touching the data registers. */
void xstate_fninit(struct cpu *c);
/* Recompute FSW.ES and FSW.B from the exception flags and masks. */
u16 xstate_fsw_summary(u16 fsw, u16 fcw);
/* All of components `mask` to their initial configuration (not MXCSR). */
void xstate_init_components(struct cpu *c, u64 mask, bool mode64);

/* Copies and fills in units of 8 bytes: no libc here. */
static inline void copy_words(void *dst, const void *src, unsigned bytes)
{
	for (unsigned i = 0; i < bytes / 8; i++)
		((u64 *)dst)[i] = ((const u64 *)src)[i];
}
static inline void zero_words(void *dst, unsigned bytes)
{
	for (unsigned i = 0; i < bytes / 8; i++)
		((u64 *)dst)[i] = 0;
}

#endif
