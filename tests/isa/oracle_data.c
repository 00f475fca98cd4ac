/*
 * Random numbers and operand values: half of them taken from the corners where
 * arithmetic goes wrong.
 */
#include <string.h>

#include "cpu/xstate.h"
#include "oracle.h"

/* splitmix64 */
u64 rng_next(struct rng *r)
{
	u64 z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return z ^ z >> 31;
}

u64 rng_value(struct rng *r)
{
	u64 x = rng_next(r);

	switch (rng_below(r, 10)) {
	case 0:
		return 0;
	case 1:
		return ~0ull;
	case 2:
		return x & 0xff;
	case 3:
		return 1ull << (x & 63);
	case 4:
		return (1ull << (x & 63)) - 1;
	case 5:
		return -(x & 0xff);
	case 6:
		return x >> (x & 63);
	default:
		return x;
	}
}

static const u16 half_values[] = { 0x0000, 0x8000, 0x3c00, 0xbc00, 0x0001, 0x8001, 0x03ff, 0x0400,
				   0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x7e00, 0xfe00, 0x7d00, 0x7c01 };
static const u32 single_values[] = { 0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x00000001, 0x80000001,
				     0x007fffff, 0x00800000, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000,
				     0x7fc00000, 0xffc00000, 0x7fa00000, 0x4f000000, 0xcf000000, 0x5f000000,
				     0x3f000000, 0x3fffffff, 0x4b7fffff, 0x7f800001 };
static const u64 double_values[] = { 0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff0000000000000,
				     0x0000000000000001, 0x8000000000000001, 0x000fffffffffffff, 0x0010000000000000,
				     0x7fefffffffffffff, 0xffefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000,
				     0x7ff8000000000000, 0xfff8000000000000, 0x7ff4000000000000, 0x41e0000000000000,
				     0xc1e0000000000000, 0x43e0000000000000, 0xc3e0000000000000, 0x3fe0000000000000,
				     0x3fefffffffffffff, 0x36a0000000000000, 0x47efffffffffffff, 0x7ff0000000000001 };

/* Floats of moderate size too, so that sums and products are not all infinite. */
static u64 float_value(struct rng *r, unsigned bits)
{
	u64 x = rng_next(r);

	if (rng_percent(r, 40)) {
		if (bits == 16)
			return half_values[x % ARRAY_SIZE(half_values)];
		if (bits == 32)
			return single_values[x % ARRAY_SIZE(single_values)];
		return double_values[x % ARRAY_SIZE(double_values)];
	}
	if (rng_percent(r, 50)) {
		if (bits == 16)
			return (x & 0x83ff) | (12 + (x >> 32) % 8) << 10;
		if (bits == 32)
			return (x & 0x807fffff) | (u64)(120 + (x >> 32) % 16) << 23;
		return (x & 0x800fffffffffffff) | (1015 + (x >> 52 & 0x7ff) % 16) << 52;
	}
	return x;
}

void rng_fill(struct rng *r, u8 *p, unsigned n)
{
	unsigned type = (unsigned)rng_below(r, 8), step = type == 0 ? 2 : type == 1 ? 4 : 8;

	for (unsigned at = 0; at < n; at += step) {
		u64 x;

		switch (type) {
		case 0:
			x = float_value(r, 16);
			break;
		case 1:
			x = float_value(r, 32);
			break;
		case 2:
			x = float_value(r, 64);
			break;
		case 3:
			x = rng_value(r);
			break;
		case 4:
			x = (u32)rng_value(r) | rng_value(r) << 32;
			break;
		default:
			x = rng_next(r);
			break;
		}
		memcpy(p + at, &x, step);
	}
}

static void x87_value(struct rng *r, u8 *p)
{
	u64 mant = rng_next(r);
	u16 exp = (u16)rng_next(r);

	switch (rng_below(r, 8)) {
	case 0:
		mant = 0;
		exp &= 0x8000;
		break;
	case 1:
		mant = 1ull << 63;
		exp = (exp & 0x8000) | 0x3fff;
		break;
	case 2:
		mant = 1ull << 63;
		exp = (exp & 0x8000) | 0x7fff;
		break; /* infinity */
	case 3:
		exp |= 0x7fff;
		mant |= (mant & 1) << 63;
		break; /* NaN, pseudo-NaN */
	case 4:
		exp &= 0x8000;
		break; /* denormal, pseudo-denormal */
	case 5:
		break; /* unnormal perhaps */
	default:
		mant |= 1ull << 63;
		exp = (u16)((exp & 0x8000) | (0x3fff - 20 + (exp & 63)));
		break;
	}
	memcpy(p, &mant, 8);
	memcpy(p + 8, &exp, 2);
}

static void x87_state(struct rng *r, u8 *image, bool mmx)
{
	u16 fcw = 0x037f, fsw = 0, fop;
	u64 fip = CODE_LIN + rng_below(r, 8192), fdp = DATA_LIN + rng_below(r, 65536);

	if (rng_percent(r, 60))
		fcw = (u16)((rng_next(r) & 0x0f00) | 0x7f);
	if (rng_percent(r, 12))
		fcw &= (u16) ~(rng_next(r) & 0x3f);
	if (rng_percent(r, 50))
		fsw = (u16)(rng_next(r) & 0x7f7f);
	if (rng_percent(r, 85))
		fsw &= (u16) ~(0x3f & ~fcw); /* no exception pends */
	if (mmx)
		fsw &= (u16)~0x3800;
	fsw = xstate_fsw_summary(fsw, fcw);
	fop = (u16)(rng_next(r) & 0x7ff);
	memcpy(image + FX_FCW, &fcw, 2);
	memcpy(image + FX_FSW, &fsw, 2);
	image[FX_FTW] = rng_percent(r, 40) ? 0xff : (u8)rng_next(r);
	memcpy(image + FX_FOP, &fop, 2);
	memcpy(image + FX_FIP, &fip, 8);
	memcpy(image + FX_FDP, &fdp, 8);
	for (unsigned n = 0; n < 8; n++) {
		if (mmx) {
			rng_fill(r, image + FX_ST + 16 * n, 8);
			memset(image + FX_ST + 16 * n + 8, 0xff, 2);
		} else {
			x87_value(r, image + FX_ST + 16 * n);
		}
	}
}

void rng_fpu(struct rng *r, u8 *image, bool mmx)
{
	u64 have = fpu_host_components();
	u32 mxcsr = 0x1f80;

	memset(image, 0, ORACLE_FPU_SIZE);
	x87_state(r, image, mmx);
	if (rng_percent(r, 60))
		mxcsr = (u32)((rng_next(r) & 0xe07f) | 0x1f80);
	if (rng_percent(r, 12))
		mxcsr &= (u32) ~(rng_next(r) & 0x1f80);
	memcpy(image + FX_MXCSR, &mxcsr, 4);
	rng_fill(r, image + FX_XMM, 256);
	if (rng_percent(r, 50)) /* the same type of element everywhere */
		for (unsigned n = 0; n < 256; n += 64)
			rng_fill(r, image + FX_XMM + n, 64);
	if (have & XCR0_AVX)
		rng_fill(r, image + fpu_component_offset(2), 256);
	if (have & XCR0_AVX512) {
		rng_fill(r, image + fpu_component_offset(6), 512);
		for (unsigned n = 0; n < 1024; n += 256)
			rng_fill(r, image + fpu_component_offset(7) + n, 256);
		for (unsigned k = 0; k < 8; k++) {
			u64 m = rng_percent(r, 50) ? rng_next(r) : rng_value(r);

			memcpy(image + fpu_component_offset(5) + 8 * k, &m, 8);
		}
	}
	memcpy(image + XSTATE_HEADER, &have, 8);
}
