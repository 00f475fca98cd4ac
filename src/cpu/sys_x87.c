/*
 * x87 state with the guest's own pointers: FXSAVE, FXRSTOR, FNSAVE, FRSTOR,
 * FNSTENV, FLDENV (SDM vol. 1, 8.1.10 and 10.5). The arithmetic runs on the
 * host; these store FIP and FDP, which the host would give as addresses of
 * the monitor's own code.
 */
#include "cpu/cpuid.h"
#include "cpu/linear.h"
#include "cpu/seg.h"
#include "cpu/sys.h"
#include "cpu/xstate.h"

#define FX_AREA 512

static u16 get16(const u8 *p)
{
	u16 v;

	__builtin_memcpy(&v, p, 2);
	return v;
}
static void put16(u8 *p, u16 v)
{
	__builtin_memcpy(p, &v, 2);
}
static void put32(u8 *p, u32 v)
{
	__builtin_memcpy(p, &v, 4);
}
static u32 get32(const u8 *p)
{
	u32 v;

	__builtin_memcpy(&v, p, 4);
	return v;
}

static int fx_address(struct vcpu *v, const struct dinsn *d, enum seg_access acc, gva_t *area)
{
	if (v->cpu.cr0 & CR0_EM)
		return fault_ud(v);
	if (v->cpu.cr0 & CR0_TS)
		return fault_nm(v);
	if (cpu_64bit(&v->cpu)) {
		if (sys_mem_linear(v, d, 1, acc, area))
			return FAULT;
		if (*area & 15)
			return fault_gp(v, 0);
	}
	if (sys_mem_linear(v, d, FX_AREA, acc, area))
		return FAULT;
	return *area & 15 ? fault_gp(v, 0) : 0;
}

static unsigned xmm_bytes(const struct cpu *c)
{
	/* Without OSFXSR the XMM part is not moved (implementation-dependent, vol. 2 FXSAVE). */
	if (!(c->cr4 & CR4_OSFXSR))
		return 0;
	return cpu_64bit(c) ? 256 : 128;
}

static int write_chunks(struct vcpu *v, gva_t to, const u8 *src, unsigned len)
{
	for (unsigned done = 0; done < len; done += 64)
		if (lin_write(v, lin_operand(&v->cpu, to + done), src + done, MIN(64, len - done), LIN_CPL))
			return FAULT;
	return 0;
}

static int read_chunks(struct vcpu *v, gva_t from, u8 *dst, unsigned len)
{
	for (unsigned done = 0; done < len; done += 64)
		if (lin_read(v, lin_operand(&v->cpu, from + done), dst + done, MIN(64, len - done), LIN_CPL))
			return FAULT;
	return 0;
}

int sys_fxsave(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u8 out[FX_AREA];
	unsigned xmm;
	u32 mxcsr;
	gva_t area;

	if (fx_address(v, d, SEG_ACC_WRITE, &area))
		return FAULT;
	/* Hardware looks at the last byte first. */
	if (lin_probe_write(v, lin_operand(c, area + FX_AREA - 1), 1, LIN_CPL) ||
	    lin_probe_write(v, area, FX_AREA, LIN_CPL))
		return FAULT;
	fpu_park(v);
	xmm = xmm_bytes(c);
	xstate_store_x87_head(c, d->mode == CODE_64 && d->opsize == 8, out);
	mxcsr = xmm ? xstate_mxcsr(c) : 0;
	put32(out + FX_MXCSR, mxcsr);
	put32(out + FX_MXCSR_MASK, xmm ? v->model->mxcsr_mask : 0);
	copy_words(out + FX_ST, c->fpu + FX_ST, 128);
	copy_words(out + FX_XMM, c->fpu + FX_XMM, 256);
	if (write_chunks(v, area, out, FX_XMM + xmm))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_fxrstor(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u8 in[FX_AREA];
	unsigned xmm;
	gva_t area;

	if (fx_address(v, d, SEG_ACC_READ, &area))
		return FAULT;
	if (lin_read(v, lin_operand(c, area + FX_AREA - 1), in, 1, LIN_CPL) || read_chunks(v, area, in, FX_AREA))
		return FAULT;
	xmm = xmm_bytes(c);
	if (xmm && (get32(in + FX_MXCSR) & ~v->model->mxcsr_mask))
		return fault_gp(v, 0);
	fpu_park(v);
	xstate_load_x87_head(c, d->mode == CODE_64 && d->opsize == 8, in);
	xstate_load_st(c, in + FX_ST);
	if (xmm) {
		put32(c->fpu + FX_MXCSR, get32(in + FX_MXCSR));
		copy_words(c->fpu + FX_XMM, in + FX_XMM, xmm);
	}
	sys_advance(v, d);
	return 0;
}

/* Full tag of one data register (8.1.7): 0 valid, 1 zero, 2 special. */
static unsigned st_tag(const u8 *st)
{
	u64 mant;
	u16 exp = get16(st + 8) & 0x7fff;

	__builtin_memcpy(&mant, st, 8);
	if (!exp && !mant)
		return 1;
	return exp == 0x7fff || !exp || !(mant >> 63) ? 2 : 0;
}

/* The abridged tag byte counts physical registers; ST0..ST7 in the image are
 * relative to TOP. */
static u16 full_tags(const struct cpu *c)
{
	unsigned top = get16(c->fpu + FX_FSW) >> 11 & 7;
	u16 tags = 0;

	for (unsigned phys = 0; phys < 8; phys++) {
		unsigned tag = 3;

		if (c->fpu[FX_FTW] & (1u << phys))
			tag = st_tag(c->fpu + FX_ST + 16 * ((phys - top) & 7));
		tags |= (u16)(tag << (2 * phys));
	}
	return tags;
}

static u8 abridged_tags(u16 tags)
{
	u8 out = 0;

	for (unsigned phys = 0; phys < 8; phys++)
		if ((tags >> (2 * phys) & 3) != 3)
			out |= (u8)(1u << phys);
	return out;
}

static bool env16(const struct dinsn *d)
{
	return d->opsize == 2;
}
static unsigned env_size(const struct dinsn *d)
{
	return env16(d) ? 14 : 28;
}
/* Real and virtual-8086 mode split the pointers and keep the opcode beside them. */
static bool env_real(const struct cpu *c)
{
	return cpu_real(c) || cpu_v86(c);
}

/* Figures 8-9 to 8-12. FCS and FDS read as zero (CPUID.7.EBX[13]). */
static void env_store(const struct vcpu *v, const struct dinsn *d, u8 out[28])
{
	const u8 *img = v->cpu.fpu;
	u16 fcw = get16(img + FX_FCW), fsw = get16(img + FX_FSW), ftw = full_tags(&v->cpu);
	u16 fop = get16(img + FX_FOP) & 0x7ff;
	u32 fip = get32(img + FX_FIP), fdp = get32(img + FX_FDP);
	bool real = env_real(&v->cpu);

	if (env16(d)) {
		put16(out, fcw);
		put16(out + 2, fsw);
		put16(out + 4, ftw);
		put16(out + 6, (u16)fip);
		put16(out + 8, real ? (u16)((fip >> 16 & 0xf) << 12 | fop) : 0);
		put16(out + 10, (u16)fdp);
		put16(out + 12, real ? (u16)((fdp >> 16 & 0xf) << 12) : 0);
		return;
	}
	put32(out, 0xffff0000u | fcw);
	put32(out + 4, 0xffff0000u | fsw);
	put32(out + 8, 0xffff0000u | ftw);
	if (real) {
		put32(out + 12, 0xffff0000u | (fip & 0xffff));
		put32(out + 16, (fip >> 16) << 12 | fop);
		put32(out + 20, 0xffff0000u | (fdp & 0xffff));
		put32(out + 24, (fdp >> 16) << 12);
	} else {
		put32(out + 12, fip);
		put32(out + 16, (u32)fop << 16);
		put32(out + 20, fdp);
		put32(out + 24, 0xffff0000u);
	}
}

static void env_load(struct vcpu *v, const struct dinsn *d, const u8 in[28])
{
	unsigned w = env16(d) ? 2 : 4;
	u16 fcw = get16(in), fsw = get16(in + w), ftw = get16(in + 2 * w), fop = 0;
	bool real = env_real(&v->cpu);
	u64 fip, fdp;
	u8 head[24];

	if (env16(d)) {
		u16 hi = get16(in + 8);

		fip = get16(in + 6) | (real ? (u64)(hi >> 12) << 16 : 0);
		fdp = get16(in + 10) | (real ? (u64)(get16(in + 12) >> 12) << 16 : 0);
		fop = real ? hi & 0x7ff : 0;
	} else if (real) {
		u32 hi = get32(in + 16);

		fip = get16(in + 12) | (u64)(hi >> 12 & 0xffff) << 16;
		fdp = get16(in + 20) | (u64)(get32(in + 24) >> 12 & 0xffff) << 16;
		fop = hi & 0x7ff;
	} else {
		fip = get32(in + 12);
		fdp = get32(in + 20);
		fop = get16(in + 18) & 0x7ff;
	}
	put16(head + FX_FCW, fcw);
	put16(head + FX_FSW, fsw);
	put16(head + FX_FTW, abridged_tags(ftw));
	put16(head + FX_FOP, fop);
	__builtin_memcpy(head + FX_FIP, &fip, 8);
	__builtin_memcpy(head + FX_FDP, &fdp, 8);
	xstate_load_x87_head(&v->cpu, true, head);
}

/* #NM and, for the waiting forms, a pending unmasked exception. With CR0.NE
 * clear it would be reported through FERR#, which this machine ties to IGNNE#. */
static int x87_check(struct vcpu *v, bool waiting)
{
	if (v->cpu.cr0 & (CR0_EM | CR0_TS))
		return fault_nm(v);
	fpu_park(v);
	if (waiting && (v->cpu.cr0 & CR0_NE) && (get16(v->cpu.fpu + FX_FSW) & FSW_ES))
		return fault_raise(v, EXC_MF, false, 0, 0);
	return 0;
}

/* Hardware accesses the first word of these areas, then looks at the last byte
 * before it touches what is between: that is what CR2 says. */
static int probe_ends(struct vcpu *v, const struct dinsn *d, gva_t at, unsigned len, bool write)
{
	unsigned first = env16(d) ? 2 : 4;
	gva_t end = lin_operand(&v->cpu, at + len - 1);
	u8 scratch[4];

	if (write)
		return lin_probe_write(v, at, first, LIN_CPL) || lin_probe_write(v, end, 1, LIN_CPL) ? FAULT : 0;
	return lin_read(v, at, scratch, first, LIN_CPL) || lin_read(v, end, scratch, 1, LIN_CPL) ? FAULT : 0;
}

/* Linear address of the area; only its first word is checked here. */
static int env_address(struct vcpu *v, const struct dinsn *d, unsigned len, bool write, gva_t *at)
{
	enum seg_access acc = write ? SEG_ACC_WRITE : SEG_ACC_READ;

	if (sys_mem_linear(v, d, cpu_64bit(&v->cpu) ? 1 : len, acc, at) || probe_ends(v, d, *at, len, write))
		return FAULT;
	return 0;
}

int sys_fnstenv(struct vcpu *v, const struct dinsn *d)
{
	u8 *img = v->cpu.fpu;
	u8 env[28];
	gva_t at;

	if (x87_check(v, false) || env_address(v, d, env_size(d), true, &at))
		return FAULT;
	env_store(v, d, env);
	if (lin_write(v, at, env, env_size(d), LIN_CPL))
		return FAULT;
	put16(img + FX_FCW, get16(img + FX_FCW) | 0x3f);
	put16(img + FX_FSW, xstate_fsw_summary(get16(img + FX_FSW), 0x3f));
	sys_advance(v, d);
	return 0;
}

int sys_fldenv(struct vcpu *v, const struct dinsn *d)
{
	u8 env[28];
	gva_t at;

	if (x87_check(v, true) || env_address(v, d, env_size(d), false, &at))
		return FAULT;
	if (lin_read(v, at, env, env_size(d), LIN_CPL))
		return FAULT;
	env_load(v, d, env);
	sys_advance(v, d);
	return 0;
}

int sys_fnsave(struct vcpu *v, const struct dinsn *d)
{
	unsigned env = env_size(d);
	u8 out[28 + 80];
	gva_t at;

	if (x87_check(v, false) || env_address(v, d, env + 80, true, &at))
		return FAULT;
	if (lin_probe_write(v, at, env + 80, LIN_CPL))
		return FAULT;
	env_store(v, d, out);
	for (unsigned i = 0; i < 8; i++)
		__builtin_memcpy(out + env + 10 * i, v->cpu.fpu + FX_ST + 16 * i, 10);
	if (write_chunks(v, at, out, env + 80))
		return FAULT;
	xstate_fninit(&v->cpu);
	sys_advance(v, d);
	return 0;
}

int sys_frstor(struct vcpu *v, const struct dinsn *d)
{
	unsigned env = env_size(d);
	u8 in[28 + 80], st[128];
	gva_t at;

	if (x87_check(v, true) || env_address(v, d, env + 80, false, &at))
		return FAULT;
	if (read_chunks(v, at, in, env + 80))
		return FAULT;
	env_load(v, d, in);
	for (unsigned i = 0; i < 8; i++)
		__builtin_memcpy(st + 16 * i, in + env + 10 * i, 10);
	xstate_load_st(&v->cpu, st);
	sys_advance(v, d);
	return 0;
}
