/*
 * The small instructions of processor control: time, halting, caches and
 * TLBs, protection keys, segment bases, random numbers.
 */
#include "cpu/cpuid.h"
#include "cpu/linear.h"
#include "cpu/seg.h"
#include "cpu/sys.h"

static void set_edx_eax(struct cpu *c, u64 val)
{
	c->gpr[REG_RAX] = (u32)val;
	c->gpr[REG_RDX] = val >> 32;
}

/* Privileged instructions with no effect here but moving on. */
static int privileged_nop(struct vcpu *v, const struct dinsn *d)
{
	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	sys_advance(v, d);
	return 0;
}

static int tsc_allowed(struct vcpu *v)
{
	return (v->cpu.cr4 & CR4_TSD) && cpu_cpl(&v->cpu) ? fault_gp(v, 0) : 0;
}

int sys_rdtsc(struct vcpu *v, const struct dinsn *d)
{
	if (tsc_allowed(v))
		return FAULT;
	set_edx_eax(&v->cpu, vcpu_tsc(v));
	sys_advance(v, d);
	return 0;
}

int sys_rdtscp(struct vcpu *v, const struct dinsn *d)
{
	if (!v->model->rdtscp)
		return fault_ud(v);
	if (tsc_allowed(v))
		return FAULT;
	set_edx_eax(&v->cpu, vcpu_tsc(v));
	v->cpu.gpr[REG_RCX] = (u32)v->cpu.tsc_aux;
	sys_advance(v, d);
	return 0;
}

/* CPUID leaf 0AH reports no counter: every index is invalid. */
int sys_rdpmc(struct vcpu *v, const struct dinsn *d)
{
	return fault_gp(v, 0);
}

int sys_rdpid(struct vcpu *v, const struct dinsn *d)
{
	if (!v->model->rdpid)
		return fault_ud(v);
	sys_reg_write(v, d, d->rm, d->mode == CODE_64 ? 8 : 4, (u32)v->cpu.tsc_aux);
	sys_advance(v, d);
	return 0;
}

int sys_hlt(struct vcpu *v, const struct dinsn *d)
{
	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	sys_advance(v, d);
	/* A kick that came before is as good as an interrupt. */
	if (unlikely(v->kicked))
		v->kicked = false;
	else
		v->cpu.activity = ACT_HALTED;
	return 0;
}

/* It waits for another processor: let that go on. */
int sys_pause(struct vcpu *v, const struct dinsn *d)
{
	sys_advance(v, d);
	if (v->hooks && v->hooks->pause) {
		fpu_park(v);
		v->hooks->pause(v->machine, v->index);
	}
	return 0;
}

/* Guest memory is coherent and has no cache of ours to write back. */
int sys_invd(struct vcpu *v, const struct dinsn *d)
{
	return privileged_nop(v, d);
}
int sys_wbinvd(struct vcpu *v, const struct dinsn *d)
{
	return privileged_nop(v, d);
}

int sys_invlpg(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 off;

	if (!d->is_mem)
		return fault_ud(v);
	if (cpu_cpl(c))
		return fault_gp(v, 0);
	/* No limit, type or canonical check: a bad address invalidates nothing. */
	off = dinsn_offset(v, d);
	if (d->mode == CODE_64) {
		if (d->seg == SEG_FS || d->seg == SEG_GS)
			off += c->seg[d->seg].base;
	} else {
		off = (u32)(off + c->seg[d->seg].base);
	}
	if (lin_canonical(c, off))
		mmu_flush_page(v, off);
	sys_advance(v, d);
	return 0;
}

enum invpcid_type { INVPCID_ADDRESS, INVPCID_CONTEXT, INVPCID_ALL_GLOBAL, INVPCID_ALL };

int sys_invpcid(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	unsigned size = d->mode == CODE_64 ? 8 : 4;
	u64 type, desc[2];
	gva_t lin;

	if (!v->model->invpcid || !d->is_mem)
		return fault_ud(v);
	if (cpu_cpl(c))
		return fault_gp(v, 0);
	type = sys_reg_read(v, d, d->reg, size);
	if (sys_mem_linear(v, d, 16, SEG_ACC_READ, &lin) || lin_read(v, lin, desc, 16, LIN_CPL))
		return FAULT;
	if (type > INVPCID_ALL || desc[0] >> 12)
		return fault_gp(v, 0);
	if (type <= INVPCID_CONTEXT && !(c->cr4 & CR4_PCIDE) && desc[0])
		return fault_gp(v, 0);
	if (type == INVPCID_ADDRESS && !lin_canonical(c, desc[1]))
		return fault_gp(v, 0);
	if (type == INVPCID_ADDRESS)
		mmu_flush_pcid_page(v, (unsigned)desc[0], desc[1]);
	else if (type == INVPCID_CONTEXT)
		mmu_flush_pcid(v, (unsigned)desc[0]);
	else
		mmu_flush_all(v); /* more than type 3 asks: allowed (4.10.4.1) */
	sys_advance(v, d);
	return 0;
}

/* MONITOR and MWAIT are in no model today; if one offers them, MWAIT ends at
 * once, which the manual allows for any reason. */
int sys_monitor(struct vcpu *v, const struct dinsn *d)
{
	u64 off = sys_reg_read(v, d, REG_RAX, d->addrsize);
	gva_t lin;
	u8 byte;

	if (!v->model->monitor || cpu_cpl(&v->cpu))
		return fault_ud(v);
	if ((u32)v->cpu.gpr[REG_RCX])
		return fault_gp(v, 0);
	if (seg_linear(v, d->seg, off, 1, SEG_ACC_READ, &lin) || lin_read(v, lin, &byte, 1, LIN_CPL))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_mwait(struct vcpu *v, const struct dinsn *d)
{
	if (!v->model->monitor || cpu_cpl(&v->cpu))
		return fault_ud(v);
	if ((u32)v->cpu.gpr[REG_RCX])
		return fault_gp(v, 0);
	sys_advance(v, d);
	return 0;
}

int sys_rdpkru(struct vcpu *v, const struct dinsn *d)
{
	if (!(v->cpu.cr4 & CR4_PKE))
		return fault_ud(v);
	if ((u32)v->cpu.gpr[REG_RCX])
		return fault_gp(v, 0);
	set_edx_eax(&v->cpu, v->cpu.pkru);
	sys_advance(v, d);
	return 0;
}

int sys_wrpkru(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;

	if (!(c->cr4 & CR4_PKE))
		return fault_ud(v);
	if ((u32)c->gpr[REG_RCX] || (u32)c->gpr[REG_RDX])
		return fault_gp(v, 0);
	c->pkru = (u32)c->gpr[REG_RAX];
	mmu_mode_changed(v);
	sys_advance(v, d);
	return 0;
}

static int set_ac(struct vcpu *v, const struct dinsn *d, u64 ac)
{
	if (!v->model->smap || cpu_cpl(&v->cpu))
		return fault_ud(v);
	v->cpu.rflags = (v->cpu.rflags & ~FL_AC) | ac;
	mmu_mode_changed(v);
	sys_advance(v, d);
	return 0;
}

int sys_clac(struct vcpu *v, const struct dinsn *d)
{
	return set_ac(v, d, 0);
}
int sys_stac(struct vcpu *v, const struct dinsn *d)
{
	return set_ac(v, d, FL_AC);
}

int sys_swapgs(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u64 base = c->seg[SEG_GS].base;

	if (!cpu_64bit(c))
		return fault_ud(v);
	if (cpu_cpl(c))
		return fault_gp(v, 0);
	c->seg[SEG_GS].base = c->kernel_gs_base;
	c->kernel_gs_base = base;
	sys_advance(v, d);
	return 0;
}

static bool fsgsbase_enabled(const struct vcpu *v)
{
	return cpu_64bit(&v->cpu) && (v->cpu.cr4 & CR4_FSGSBASE);
}

static int read_base(struct vcpu *v, const struct dinsn *d, enum seg_reg seg)
{
	if (!fsgsbase_enabled(v))
		return fault_ud(v);
	sys_reg_write(v, d, d->rm, d->opsize == 8 ? 8 : 4, v->cpu.seg[seg].base);
	sys_advance(v, d);
	return 0;
}

static int write_base(struct vcpu *v, const struct dinsn *d, enum seg_reg seg)
{
	u64 base;

	if (!fsgsbase_enabled(v))
		return fault_ud(v);
	base = sys_reg_read(v, d, d->rm, d->opsize == 8 ? 8 : 4);
	if (!lin_canonical(&v->cpu, base))
		return fault_gp(v, 0);
	v->cpu.seg[seg].base = base;
	sys_advance(v, d);
	return 0;
}

int sys_rdfsbase(struct vcpu *v, const struct dinsn *d)
{
	return read_base(v, d, SEG_FS);
}
int sys_rdgsbase(struct vcpu *v, const struct dinsn *d)
{
	return read_base(v, d, SEG_GS);
}
int sys_wrfsbase(struct vcpu *v, const struct dinsn *d)
{
	return write_base(v, d, SEG_FS);
}
int sys_wrgsbase(struct vcpu *v, const struct dinsn *d)
{
	return write_base(v, d, SEG_GS);
}

static int random_value(struct vcpu *v, const struct dinsn *d)
{
	u64 val = 0;

	fpu_park(v);
	v->hooks->random(v->machine, &val, d->opsize);
	sys_reg_write(v, d, d->rm, d->opsize, val);
	v->cpu.rflags = (v->cpu.rflags & ~FL_STATUS) | FL_CF;
	sys_advance(v, d);
	return 0;
}

int sys_rdrand(struct vcpu *v, const struct dinsn *d)
{
	return v->model->rdrand ? random_value(v, d) : fault_ud(v);
}

int sys_rdseed(struct vcpu *v, const struct dinsn *d)
{
	return v->model->rdseed ? random_value(v, d) : fault_ud(v);
}

int sys_ud(struct vcpu *v, const struct dinsn *d)
{
	return fault_ud(v);
}
