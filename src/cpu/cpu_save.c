/*
 * The processor in a state stream, version 1. Every field is written in the
 * order of `visit` below; the vector state follows component by component:
 *
 *   fpu := fcw(u16) fsw(u16) ftw(u8) fop(u16) fip(u64) fdp(u64) mxcsr(u32)
 *          8 * st(10 bytes) xmm(256 bytes)
 *          mask(u64) { component bytes, for each bit 2..7 of mask }
 *
 * `mask` names the extended components that are not in their initial state,
 * so a machine that never used AVX-512 can be restored where there is none.
 * Nothing depends on the host's offsets or on its XSTATE_BV.
 *
 * One walker serves all three: with `c` set and `d` NULL it writes, with both
 * it reads, so the orders cannot drift apart; a check reads into a scratch
 * processor and validates that.
 */
#include <stdlib.h>
#include <string.h>

#include "cpu/save.h"
#include "cpu/xstate.h"

#define CPU_VERSION 1
#define SEG_ATTR_KNOWN 0x1f0ffu

struct walk {
	struct encoder *e; /* writing */
	struct decoder *d; /* reading */
};

static void w8(struct walk *w, u8 *p)
{
	if (w->e)
		enc_u8(w->e, *p);
	else
		*p = dec_u8(w->d);
}
static void w16(struct walk *w, u16 *p)
{
	if (w->e)
		enc_u16(w->e, *p);
	else
		*p = dec_u16(w->d);
}
static void w32(struct walk *w, u32 *p)
{
	if (w->e)
		enc_u32(w->e, *p);
	else
		*p = dec_u32(w->d);
}
static void w64(struct walk *w, u64 *p)
{
	if (w->e)
		enc_u64(w->e, *p);
	else
		*p = dec_u64(w->d);
}
static void wbool(struct walk *w, bool *p)
{
	if (w->e)
		enc_bool(w->e, *p);
	else
		*p = dec_bool(w->d);
}
static void wbytes(struct walk *w, void *p, size_t n)
{
	if (w->e)
		enc_bytes(w->e, p, n);
	else
		dec_bytes(w->d, p, n);
}
static void w64s(struct walk *w, u64 *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		w64(w, &p[i]);
}

static void walk_segment(struct walk *w, struct segment *s)
{
	w16(w, &s->sel);
	w32(w, &s->attr);
	w32(w, &s->limit);
	w64(w, &s->base);
}

static void walk_registers(struct walk *w, struct cpu *c)
{
	w64s(w, c->gpr, 16);
	w64(w, &c->rip);
	w64(w, &c->rflags);
	for (unsigned i = 0; i < SEG_COUNT; i++)
		walk_segment(w, &c->seg[i]);
	walk_segment(w, &c->ldtr);
	walk_segment(w, &c->tr);
	w64(w, &c->gdtr.base);
	w16(w, &c->gdtr.limit);
	w64(w, &c->idtr.base);
	w16(w, &c->idtr.limit);
	w64(w, &c->cr0);
	w64(w, &c->cr2);
	w64(w, &c->cr3);
	w64(w, &c->cr4);
	w64(w, &c->xcr0);
	w64(w, &c->efer);
	w64s(w, c->dr, 8);
	w32(w, &c->pkru);
}

static void walk_msrs(struct walk *w, struct cpu *c)
{
	u64 *const single[] = {
		&c->star,
		&c->lstar,
		&c->cstar,
		&c->sfmask,
		&c->kernel_gs_base,
		&c->sysenter_cs,
		&c->sysenter_esp,
		&c->sysenter_eip,
		&c->pat,
		&c->misc_enable,
		&c->spec_ctrl,
		&c->tsc_aux,
		&c->debugctl,
		&c->xss,
		&c->pkrs,
		&c->feature_control,
		&c->platform_info,
		&c->tsc_offset,
		&c->tsc_adjust,
		&c->mtrr_def_type,
		&c->mcg_status,
		&c->mcg_ctl,
		&c->bios_sign_id,
		&c->perf_global_ctrl,
	};

	for (unsigned i = 0; i < ARRAY_SIZE(single); i++)
		w64(w, single[i]);
	w64s(w, c->mtrr_fixed, ARRAY_SIZE(c->mtrr_fixed));
	w64s(w, c->mtrr_base, MTRR_VAR_COUNT);
	w64s(w, c->mtrr_mask, MTRR_VAR_COUNT);
	w64s(w, c->mc_ctl, ARRAY_SIZE(c->mc_ctl));
	w64s(w, c->mc_status, ARRAY_SIZE(c->mc_status));
	w64s(w, c->mc_addr, ARRAY_SIZE(c->mc_addr));
	w64s(w, c->mc_misc, ARRAY_SIZE(c->mc_misc));
	w8(w, &c->activity);
	w8(w, &c->shadow);
	wbool(w, &c->nmi_blocked);
	wbool(w, &c->nmi_pending);
	w64(w, &c->pending_db);
}

#define EXTENDED_IN_IMAGE (XCR0_AVX | XCR0_AVX512)

/* Returns the extended components present; more than the host has are read
 * over (and refused by the check). */
static u64 walk_fpu(struct walk *w, struct cpu *c)
{
	u64 mask = w->e ? xstate_in_use(c, true) & EXTENDED_IN_IMAGE : 0;
	u8 *img = c->fpu;

	w16(w, (u16 *)(img + FX_FCW));
	w16(w, (u16 *)(img + FX_FSW));
	w8(w, img + FX_FTW);
	w16(w, (u16 *)(img + FX_FOP));
	w64(w, (u64 *)(img + FX_FIP));
	w64(w, (u64 *)(img + FX_FDP));
	w32(w, (u32 *)(img + FX_MXCSR));
	for (unsigned i = 0; i < 8; i++)
		wbytes(w, img + FX_ST + 16 * i, 10);
	wbytes(w, img + FX_XMM, 256);
	w64(w, &mask);
	for (unsigned i = 2; i <= 7; i++)
		if ((mask & EXTENDED_IN_IMAGE) & BIT(i))
			wbytes(w, img + fpu_component_offset(i), xstate_size(i));
	return mask;
}

static u64 walk_all(struct walk *w, struct cpu *c)
{
	walk_registers(w, c);
	walk_msrs(w, c);
	return walk_fpu(w, c);
}

void cpu_save(const struct cpu *c, struct encoder *e)
{
	struct walk w = { .e = e };

	enc_begin(e, "cpu", CPU_VERSION);
	walk_all(&w, (struct cpu *)c); /* only read when writing a stream */
	enc_end(e);
}

static bool segments_sound(const struct cpu *c)
{
	for (unsigned i = 0; i < SEG_COUNT; i++)
		if (c->seg[i].attr & ~SEG_ATTR_KNOWN)
			return false;
	return !((c->ldtr.attr | c->tr.attr) & ~SEG_ATTR_KNOWN);
}

/* What MXCSR bits the host can load. */
static u32 host_mxcsr_mask(void)
{
	_Alignas(16) u8 area[512] = { 0 };
	u32 mask;

	__asm__ volatile("fxsave64 %0" : "+m"(area));
	memcpy(&mask, area + FX_MXCSR_MASK, 4);
	return mask ? mask : 0xffbf;
}

static bool sound(const struct cpu *c, u64 mask)
{
	bool paging = c->cr0 & CR0_PG, lma = c->efer & EFER_LMA;

	if (!(c->rflags & FL_FIXED1) || c->rflags >> 22 || c->cr0 >> 32 || (paging && !(c->cr0 & CR0_PE)))
		return false;
	if (lma != (paging && (c->efer & EFER_LME)) || (lma && !(c->cr4 & CR4_PAE)))
		return false;
	if (c->activity > ACT_WAIT_FOR_SIPI || c->shadow > SHADOW_MOV_SS || !segments_sound(c))
		return false;
	if (c->xcr0 & ~(u64)XSTATE_ALL || !(c->xcr0 & XCR0_X87) || c->dr[6] >> 32 || c->dr[7] >> 32)
		return false;
	return !(mask & ~(EXTENDED_IN_IMAGE & fpu_host_components())) && !(xstate_mxcsr(c) & ~host_mxcsr_mask());
}

/* Bits that no instruction could have set. */
static bool within(const struct cpu *c, const struct cpu_model *m)
{
	return !(c->cr4 & ~m->cr4_supported) && !(c->efer & ~(m->efer_supported | EFER_LMA)) &&
	       !(c->xcr0 & ~(m->xcr0_supported | XCR0_X87)) && !(c->xss & ~m->xss_supported) &&
	       !(xstate_mxcsr(c) & ~m->mxcsr_mask) && !(c->cr3 & ~(BIT(m->phys_bits) - 1));
}

int cpu_check(struct decoder *d, const struct cpu_model *model)
{
	struct decoder in;
	struct walk w = { .d = &in };
	struct cpu *c;
	u64 mask;
	int r = -1;

	if (!dec_begin(d, "cpu", &in) || in.version != CPU_VERSION)
		return -1;
	c = aligned_alloc(_Alignof(struct cpu), sizeof(*c));
	if (!c)
		return -1;
	memset(c, 0, sizeof(*c));
	mask = walk_all(&w, c);
	if (dec_done(&in) && sound(c, mask) && (!model || within(c, model)))
		r = 0;
	free(c);
	return r;
}

void cpu_load(struct cpu *c, struct decoder *d)
{
	u64 mask = fpu_host_components();
	struct decoder in;
	struct walk w = { .d = &in };

	if (!dec_begin(d, "cpu", &in))
		return; /* not after a check */
	memset(c, 0, sizeof(*c));
	walk_all(&w, c);
	memcpy(c->fpu + XSTATE_HEADER, &mask, 8);
}
