/* The parked x87 and vector state: what is in use, initial values, and the
 * x87 part of the legacy area in its several forms (see xstate.h). */
#include "cpu/xstate.h"

static bool words_zero(const void *p, unsigned bytes)
{
	const u64 *w = p;

	for (unsigned i = 0; i < bytes / 8; i++)
		if (w[i])
			return false;
	return true;
}

static u16 get16(const u8 *p)
{
	u16 v;

	__builtin_memcpy(&v, p, 2);
	return v;
}

static bool x87_initial(const u8 *img)
{
	/* FTW is the abridged form: 0 is all empty. FOP, FIP and FDP count. */
	return get16(img + FX_FCW) == FCW_INIT && !get16(img + FX_FSW) && !get16(img + FX_FTW) &&
	       !get16(img + FX_FOP) && words_zero(img + FX_FIP, 16) && words_zero(img + FX_ST, 128);
}

u64 xstate_in_use(const struct cpu *c, bool mode64)
{
	const u8 *img = c->fpu;
	u64 host = fpu_host_components();
	u64 use = 0;

	if (!x87_initial(img))
		use |= XCR0_X87;
	if (!words_zero(img + FX_XMM, mode64 ? 256 : 128))
		use |= XCR0_SSE;
	for (unsigned i = 2; i <= 7; i++) {
		unsigned size = xstate_size(i);

		if (!(host & BIT(i)) || !size || (i == 7 && !mode64))
			continue;
		if (!mode64 && i != 5)
			size /= 2;
		if (!words_zero(img + fpu_component_offset(i), size))
			use |= BIT(i);
	}
	if (c->pkru)
		use |= XCR0_PKRU;
	return use;
}

u16 xstate_fsw_summary(u16 fsw, u16 fcw)
{
	fsw &= (u16) ~(FSW_ES | FSW_B);
	if (fsw & ~fcw & 0x3f)
		fsw |= FSW_ES | FSW_B;
	return fsw;
}

void xstate_store_x87_head(const struct cpu *c, bool wide, u8 out[24])
{
	copy_words(out, c->fpu, 24);
	out[5] = 0;
	if (!wide) {
		__builtin_memset(out + FX_FIP + 4, 0, 4);
		__builtin_memset(out + FX_FDP + 4, 0, 4);
	}
}

/* The image holds the data registers in stack order: where TOP moves without
 * them they change places. */
static void turn_stack(struct cpu *c, unsigned new_top)
{
	unsigned by = new_top - (c->fpu[FX_FSW + 1] >> 3 & 7);
	u8 old[128];

	if (!(by & 7))
		return;
	copy_words(old, c->fpu + FX_ST, 128);
	for (unsigned i = 0; i < 8; i++)
		copy_words(c->fpu + FX_ST + 16 * i, old + 16 * ((i + by) & 7), 16);
}

void xstate_load_x87_head(struct cpu *c, bool wide, const u8 in[24])
{
	u8 *img = c->fpu;
	/* Bit 6 is stuck at one, 7 and 13-15 at zero; bit 12 (infinity) is kept. */
	u16 fcw = (get16(in + FX_FCW) & 0x1f7f) | 0x40;
	u16 fsw = xstate_fsw_summary(get16(in + FX_FSW), fcw);
	u16 fop = get16(in + FX_FOP) & 0x7ff;
	s64 fip;

	turn_stack(c, fsw >> 11 & 7);
	__builtin_memcpy(&fip, in + FX_FIP, 8);
	fip = (s64)((u64)fip << 7) >> 7; /* has the bits of the widest linear address; FDP has all 64 */
	__builtin_memcpy(img + FX_FIP, &fip, 8);
	copy_words(img + FX_FDP, in + FX_FDP, 8);
	if (!wide) {
		__builtin_memset(img + FX_FIP + 4, 0, 4);
		__builtin_memset(img + FX_FDP + 4, 0, 4);
	}
	__builtin_memcpy(img + FX_FCW, &fcw, 2);
	__builtin_memcpy(img + FX_FSW, &fsw, 2);
	img[FX_FTW] = in[FX_FTW];
	img[FX_FTW + 1] = 0;
	__builtin_memcpy(img + FX_FOP, &fop, 2);
}

void xstate_load_st(struct cpu *c, const u8 *in)
{
	for (unsigned i = 0; i < 8; i++) {
		u64 lo, hi;

		__builtin_memcpy(&lo, in + 16 * i, 8);
		__builtin_memcpy(&hi, in + 16 * i + 8, 8);
		hi &= 0xffff;
		__builtin_memcpy(c->fpu + FX_ST + 16 * i, &lo, 8);
		__builtin_memcpy(c->fpu + FX_ST + 16 * i + 8, &hi, 8);
	}
}

void xstate_fninit(struct cpu *c)
{
	turn_stack(c, 0);
	zero_words(c->fpu, 24);
	c->fpu[FX_FCW] = FCW_INIT & 0xff;
	c->fpu[FX_FCW + 1] = FCW_INIT >> 8;
}

void xstate_init_components(struct cpu *c, u64 mask, bool mode64)
{
	if (mask & XCR0_X87) {
		xstate_fninit(c);
		zero_words(c->fpu + FX_ST, 128);
	}
	if (mask & XCR0_SSE)
		zero_words(c->fpu + FX_XMM, mode64 ? 256 : 128);
	for (unsigned i = 2; i <= 7; i++) {
		unsigned size = xstate_size(i);

		if (!(mask & BIT(i)) || !size || (i == 7 && !mode64))
			continue;
		if (!mode64 && i != 5)
			size /= 2;
		zero_words(c->fpu + fpu_component_offset(i), size);
	}
	if (mask & XCR0_PKRU)
		c->pkru = 0;
}
