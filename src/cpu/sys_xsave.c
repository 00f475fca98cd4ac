/*
 * The XSAVE family, XGETBV and XSETBV (SDM vol. 1, chapter 13).
 *
 * A save is first laid out as a list of pieces (offset in the area, length,
 * source), every piece is probed, then all are written: a fault changes
 * nothing. A restore reads all it needs into a buffer, checks it, and only
 * then touches the state. The init optimisation is done (mandatory for XSAVEC
 * and XSAVES), the modified optimisation, which is optional, is not.
 */
#include "cpu/cpuid.h"
#include "cpu/linear.h"
#include "cpu/seg.h"
#include "cpu/sys.h"
#include "cpu/xstate.h"

#define CHUNK 1024 /* bytes a linear access: the largest component */

struct pieces {
	unsigned n;
	struct piece {
		u16 off, len;
		const void *src;
	} p[12];
};

static void piece_add(struct pieces *l, unsigned off, unsigned len, const void *src)
{
	if (!len)
		return;
	l->p[l->n++] = (struct piece){ .off = (u16)off, .len = (u16)len, .src = src };
}

static int write_pieces(struct vcpu *v, gva_t area, const struct pieces *l)
{
	for (unsigned i = 0; i < l->n; i++)
		if (lin_probe_write(v, lin_operand(&v->cpu, area + l->p[i].off), l->p[i].len, LIN_CPL))
			return FAULT;
	for (unsigned i = 0; i < l->n; i++) {
		const struct piece *p = &l->p[i];

		for (unsigned done = 0; done < p->len; done += CHUNK) {
			unsigned n = MIN(CHUNK, p->len - done);

			if (lin_write(v, lin_operand(&v->cpu, area + p->off + done), (const u8 *)p->src + done, n,
				      LIN_CPL))
				return FAULT;
		}
	}
	return 0;
}

static int read_chunks(struct vcpu *v, gva_t from, void *dst, unsigned len)
{
	for (unsigned done = 0; done < len; done += CHUNK)
		if (lin_read(v, lin_operand(&v->cpu, from + done), (u8 *)dst + done, MIN(CHUNK, len - done), LIN_CPL))
			return FAULT;
	return 0;
}

/* Checks every instruction of the family makes, and the area's address. */
static int area_address(struct vcpu *v, const struct dinsn *d, unsigned len, enum seg_access acc, gva_t *area)
{
	if (v->cpu.cr0 & CR0_TS)
		return fault_nm(v);
	if (sys_mem_linear(v, d, len, acc, area))
		return FAULT;
	if (*area & 63)
		return fault_gp(v, 0);
	return 0;
}

static bool xsave_enabled(const struct vcpu *v)
{
	return v->model->xsave && (v->cpu.cr4 & CR4_OSXSAVE);
}

static u64 edx_eax(const struct cpu *c)
{
	return c->gpr[REG_RDX] << 32 | (u32)c->gpr[REG_RAX];
}

/* 64-bit operand size: 64-bit FIP and FDP. */
static bool wide_form(const struct dinsn *d)
{
	return d->mode == CODE_64 && d->opsize == 8;
}

/* Length of component `i` that the current mode moves: the upper registers
 * exist in 64-bit mode only. */
static unsigned mode_size(unsigned i, bool mode64)
{
	unsigned size = xstate_size(i);

	if (mode64 || i == 5 || i == XSTATE_PKRU)
		return size;
	return i == 7 ? 0 : size / 2;
}

static bool image_has(unsigned i)
{
	return fpu_host_components() & BIT(i);
}

enum xsave_kind { KIND_XSAVE, KIND_XSAVEOPT, KIND_COMPACT };

static int do_save(struct vcpu *v, const struct dinsn *d, u64 features, enum xsave_kind kind)
{
	struct cpu *c = &v->cpu;
	u64 rfbm = features & edx_eax(c), in_use, save, header[2], pkru;
	bool mode64 = cpu_64bit(c), compact = kind == KIND_COMPACT;
	struct pieces l;
	u8 head[24];
	u32 mxcsr[2];
	gva_t area;

	if (area_address(v, d, compact ? xstate_compact_size(rfbm) : xstate_standard_size(rfbm), SEG_ACC_WRITE, &area))
		return FAULT;
	fpu_park(v);
	in_use = xstate_in_use(c, mode64);
	mxcsr[0] = xstate_mxcsr(c);
	mxcsr[1] = v->model->mxcsr_mask;
	if (compact && mxcsr[0] != MXCSR_INIT)
		in_use |= XCR0_SSE; /* MXCSR belongs to component 1 in this format */
	save = kind == KIND_XSAVE ? rfbm : rfbm & in_use;
	pkru = c->pkru;
	l.n = 0; /* no initialiser: compilers turn it into a call of memset */

	if (save & XCR0_X87) {
		xstate_store_x87_head(c, wide_form(d), head);
		piece_add(&l, 0, 24, head);
		piece_add(&l, FX_ST, 128, c->fpu + FX_ST);
	}
	if (compact ? save & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX))
		piece_add(&l, FX_MXCSR, 8, mxcsr);
	if (save & XCR0_SSE)
		piece_add(&l, FX_XMM, mode64 ? 256 : 128, c->fpu + FX_XMM);
	for (unsigned i = 2; i <= XSTATE_PKRU; i++) {
		unsigned off = compact ? xstate_compact_offset(rfbm, i) : xstate_offset(i);

		if (!(save & BIT(i)))
			continue;
		if (i == XSTATE_PKRU)
			piece_add(&l, off, 8, &pkru);
		else if (image_has(i))
			piece_add(&l, off, mode_size(i, mode64), c->fpu + fpu_component_offset(i));
	}

	header[0] = rfbm & in_use;
	header[1] = rfbm | XCOMP_COMPACT;
	if (!compact) {
		u64 old;

		if (lin_read(v, lin_operand(&v->cpu, area + XSTATE_HEADER), &old, 8, LIN_CPL))
			return FAULT;
		header[0] |= old & ~rfbm;
	}
	piece_add(&l, XSTATE_HEADER, compact ? 16 : 8, header);
	if (write_pieces(v, area, &l))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_xsave(struct vcpu *v, const struct dinsn *d)
{
	if (!xsave_enabled(v))
		return fault_ud(v);
	return do_save(v, d, v->cpu.xcr0, KIND_XSAVE);
}

int sys_xsaveopt(struct vcpu *v, const struct dinsn *d)
{
	if (!xsave_enabled(v) || !v->model->xsaveopt)
		return fault_ud(v);
	return do_save(v, d, v->cpu.xcr0, KIND_XSAVEOPT);
}

int sys_xsavec(struct vcpu *v, const struct dinsn *d)
{
	if (!xsave_enabled(v) || !v->model->xsavec)
		return fault_ud(v);
	return do_save(v, d, v->cpu.xcr0, KIND_COMPACT);
}

int sys_xsaves(struct vcpu *v, const struct dinsn *d)
{
	if (!xsave_enabled(v) || !v->model->xsaves)
		return fault_ud(v);
	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	return do_save(v, d, v->cpu.xcr0 | v->cpu.xss, KIND_COMPACT);
}

/* Header checks of 13.8.1 (standard), 13.8.2 and 13.12 (compacted form). */
static bool header_valid(const u64 h[8], u64 features, bool compact)
{
	if (!compact)
		return !(h[0] & ~features) && !h[1] && !h[2];
	if ((h[1] & ~XCOMP_COMPACT & ~features) || (h[0] & ~(h[1] & ~XCOMP_COMPACT)))
		return false;
	for (unsigned i = 2; i < 8; i++)
		if (h[i])
			return false;
	return true;
}

/* Where the restored bytes wait until nothing can fault any more. */
struct incoming {
	u8 legacy[416]; /* up to the end of XMM15 */
	u8 ext[10][1024];
	u32 mxcsr;
	u32 pkru;
};

/* Read what components `load` of the area hold. */
static int read_components(struct vcpu *v, gva_t area, u64 xcomp, u64 load, bool read_mxcsr, struct incoming *in)
{
	bool mode64 = cpu_64bit(&v->cpu);

	if (load & XCR0_X87) {
		if (read_chunks(v, area, in->legacy, 24) || read_chunks(v, area + FX_ST, in->legacy + FX_ST, 128))
			return FAULT;
	}
	if (read_mxcsr && lin_read(v, lin_operand(&v->cpu, area + FX_MXCSR), &in->mxcsr, 4, LIN_CPL))
		return FAULT;
	if ((load & XCR0_SSE) && read_chunks(v, area + FX_XMM, in->legacy + FX_XMM, mode64 ? 256 : 128))
		return FAULT;
	for (unsigned i = 2; i <= XSTATE_PKRU; i++) {
		unsigned off = xcomp ? xstate_compact_offset(xcomp, i) : xstate_offset(i);

		if (!(load & BIT(i)))
			continue;
		if (i == XSTATE_PKRU) {
			if (lin_read(v, lin_operand(&v->cpu, area + off), &in->pkru, 4, LIN_CPL))
				return FAULT;
		} else if (read_chunks(v, area + off, in->ext[i], mode_size(i, mode64))) {
			return FAULT;
		}
	}
	return 0;
}

static void commit_components(struct cpu *c, u64 load, bool wide, const struct incoming *in)
{
	bool mode64 = cpu_64bit(c);

	if (load & XCR0_X87) {
		xstate_load_x87_head(c, wide, in->legacy);
		xstate_load_st(c, in->legacy + FX_ST);
	}
	if (load & XCR0_SSE)
		copy_words(c->fpu + FX_XMM, in->legacy + FX_XMM, mode64 ? 256 : 128);
	for (unsigned i = 2; i <= 7; i++)
		if ((load & BIT(i)) && image_has(i))
			copy_words(c->fpu + fpu_component_offset(i), in->ext[i], mode_size(i, mode64));
	if (load & XCR0_PKRU)
		c->pkru = in->pkru;
}

static int do_restore(struct vcpu *v, const struct dinsn *d, u64 features, bool supervisor)
{
	struct cpu *c = &v->cpu;
	u64 rfbm = features & edx_eax(c), h[8], load;
	struct incoming in; /* not initialised: 10 KiB, and only what was read is used */
	bool compact, touch_mxcsr;
	gva_t area;

	if (area_address(v, d, XSTATE_EXTENDED, SEG_ACC_READ, &area))
		return FAULT;
	if (read_chunks(v, area + XSTATE_HEADER, h, 64))
		return FAULT;
	compact = h[1] & XCOMP_COMPACT;
	if ((compact && !v->model->xsavec) || (supervisor && !compact))
		return fault_gp(v, 0);
	if (!header_valid(h, features, compact))
		return fault_gp(v, 0);
	load = rfbm & h[0];
	if (area_address(v, d, compact ? xstate_compact_size(h[1]) : xstate_standard_size(load), SEG_ACC_READ, &area))
		return FAULT;

	/* The standard form takes MXCSR with SSE or AVX whatever XSTATE_BV says. */
	in.mxcsr = MXCSR_INIT;
	touch_mxcsr = compact ? rfbm & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
	fpu_park(v);
	if (read_components(v, area, compact ? h[1] : 0, load, compact ? load & XCR0_SSE : touch_mxcsr, &in))
		return FAULT;
	if (touch_mxcsr && (in.mxcsr & ~v->model->mxcsr_mask))
		return fault_gp(v, 0);

	xstate_init_components(c, rfbm & ~load, cpu_64bit(c));
	commit_components(c, load, wide_form(d), &in);
	if (touch_mxcsr)
		__builtin_memcpy(c->fpu + FX_MXCSR, &in.mxcsr, 4);
	if (rfbm & XCR0_PKRU)
		mmu_mode_changed(v);
	sys_advance(v, d);
	return 0;
}

int sys_xrstor(struct vcpu *v, const struct dinsn *d)
{
	if (!xsave_enabled(v))
		return fault_ud(v);
	return do_restore(v, d, v->cpu.xcr0, false);
}

int sys_xrstors(struct vcpu *v, const struct dinsn *d)
{
	if (!xsave_enabled(v) || !v->model->xsaves)
		return fault_ud(v);
	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	return do_restore(v, d, v->cpu.xcr0 | v->cpu.xss, true);
}

int sys_xgetbv(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 val = c->xcr0;

	if (!xsave_enabled(v))
		return fault_ud(v);
	if ((u32)c->gpr[REG_RCX] > (v->model->xgetbv1 ? 1 : 0))
		return fault_gp(v, 0);
	if ((u32)c->gpr[REG_RCX] == 1) {
		fpu_park(v);
		val = xstate_in_use(c, cpu_64bit(c));
		if (xstate_mxcsr(c) != MXCSR_INIT)
			val |= XCR0_SSE;
		val &= c->xcr0;
	}
	c->gpr[REG_RAX] = (u32)val;
	c->gpr[REG_RDX] = val >> 32;
	sys_advance(v, d);
	return 0;
}

/* Combinations XCR0 may hold (13.3). */
static bool xcr0_valid(const struct cpu_model *m, u64 val)
{
	if ((val & ~m->xcr0_supported) || !(val & XCR0_X87))
		return false;
	if ((val & XCR0_AVX) && !(val & XCR0_SSE))
		return false;
	if (val & XCR0_AVX512)
		return (val & XCR0_AVX512) == XCR0_AVX512 && (val & XCR0_AVX);
	return true;
}

int sys_xsetbv(struct vcpu *v, const struct dinsn *d)
{
	u64 val = edx_eax(&v->cpu);

	if (!xsave_enabled(v))
		return fault_ud(v);
	if (cpu_cpl(&v->cpu) || (u32)v->cpu.gpr[REG_RCX] != 0 || !xcr0_valid(v->model, val))
		return fault_gp(v, 0);
	v->cpu.xcr0 = val;
	sys_advance(v, d);
	return 0;
}
