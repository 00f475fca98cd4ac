/*
 * Control and debug registers (SDM vol. 3, 2.5, 4.10.4, 17.2; vol. 2 MOV).
 *
 * A write is checked completely, then done, then the cached translations it
 * invalidates are dropped. What of the caches behind the mmu_ calls is not
 * tagged by PCID is dropped at every write to CR3 (bit 63 is a permission to
 * keep translations, not an order), except when it changes nothing.
 */
#include "cpu/bus.h"
#include "cpu/cpuid.h"
#include "cpu/event.h"
#include "cpu/linear.h"
#include "cpu/sys.h"

#define CR0_DEFINED (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR3_NO_FLUSH BIT(63)
#define DR6_FIXED1 0xffff0ff0ull /* includes BLD and RTM: neither is offered */
#define DR6_WRITABLE 0xe00full
#define DR6_BD BIT(13)
#define DR7_FIXED1 0x400ull
#define DR7_WRITABLE 0xffff23ffull
#define DR7_GD BIT(13)
#define PDPTE_P 1ull

/*
 * PAE paging outside IA-32e mode loads four PDPTEs, and faults if a present
 * one has reserved bits (SDM vol. 3, 4.4.1). The walker reads them again; here
 * they are checked only.
 */
static bool pdptes_valid(struct vcpu *v, u64 cr3)
{
	u64 reserved = ~((1ull << v->model->phys_bits) - 1) | 0x1e6;
	u64 pdpte[4];

	fpu_park(v);
	memory_read(v->mem, cr3 & 0xffffffe0, pdpte, sizeof(pdpte)); /* a hole reads as ones: refused below */
	for (unsigned i = 0; i < 4; i++)
		if ((pdpte[i] & PDPTE_P) && (pdpte[i] & reserved))
			return false;
	return true;
}

static bool pae_paging(const struct vcpu *v, u64 cr0, u64 cr4)
{
	return (cr0 & CR0_PG) && (cr4 & CR4_PAE) && !(v->cpu.efer & EFER_LME);
}

/* May CR0.PG go from 0 to 1 with EFER.LME set (9.8.5)? */
static bool long_mode_allowed(const struct cpu *c)
{
	unsigned tss = c->tr.attr & SEG_TYPE;
	bool tss16 = (c->tr.sel & ~3u) && !(c->tr.attr & SEG_UNUSABLE) && (tss == 1 || tss == 3);

	return (c->cr4 & CR4_PAE) && !(c->seg[SEG_CS].attr & SEG_L) && !tss16;
}

static int write_cr0(struct vcpu *v, u64 val)
{
	struct cpu *c = &v->cpu;
	u64 old = c->cr0, changed;

	if (val >> 32)
		return fault_gp(v, 0);
	val = (val & CR0_DEFINED) | CR0_ET;
	changed = old ^ val;
	if (((val & CR0_PG) && !(val & CR0_PE)) || ((val & CR0_NW) && !(val & CR0_CD)))
		return fault_gp(v, 0);
	if ((changed & CR0_PG) && (val & CR0_PG)) {
		if ((c->efer & EFER_LME) && !long_mode_allowed(c))
			return fault_gp(v, 0);
	} else if (changed & CR0_PG) {
		if (cpu_64bit(c) || (c->cr4 & CR4_PCIDE))
			return fault_gp(v, 0);
	}
	if ((changed & (CR0_PG | CR0_CD | CR0_NW)) && pae_paging(v, val, c->cr4) && !pdptes_valid(v, c->cr3))
		return fault_gp(v, 0);

	c->cr0 = val;
	if (changed & CR0_PG) {
		if ((val & CR0_PG) && (c->efer & EFER_LME))
			c->efer |= EFER_LMA;
		else
			c->efer &= ~EFER_LMA;
	}
	/* PG by 4.10.4.1; WP and PE because cached rights depend on them. */
	if (changed & (CR0_PG | CR0_WP | CR0_PE))
		mmu_flush_all(v);
	mmu_mode_changed(v);
	return 0;
}

static int write_cr3(struct vcpu *v, u64 val)
{
	struct cpu *c = &v->cpu;
	bool keep = false;

	if (cpu_long_mode(c)) {
		if (c->cr4 & CR4_PCIDE) {
			keep = val & CR3_NO_FLUSH;
			val &= ~CR3_NO_FLUSH;
		}
		if (val >> v->model->phys_bits)
			return fault_gp(v, 0);
	} else {
		/* Outside IA-32e mode only a 64-bit LOADALL-like path could have more. */
		val = (u32)val;
		if (pae_paging(v, c->cr0, c->cr4) && !pdptes_valid(v, val))
			return fault_gp(v, 0);
	}
	if (keep && val == c->cr3)
		return 0;
	c->cr3 = val;
	mmu_cr3_loaded(v, keep);
	return 0;
}

/* Bits whose change makes cached translations or rights wrong (4.10.4.1). */
#define CR4_FLUSH (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE)

static int write_cr4(struct vcpu *v, u64 val)
{
	struct cpu *c = &v->cpu;
	u64 changed = c->cr4 ^ val;

	if (val & ~v->model->cr4_supported)
		return fault_gp(v, 0);
	if (cpu_long_mode(c) && (!(val & CR4_PAE) || (changed & CR4_LA57)))
		return fault_gp(v, 0);
	if ((changed & CR4_PCIDE) && (val & CR4_PCIDE) && (!cpu_long_mode(c) || (c->cr3 & 0xfff)))
		return fault_gp(v, 0);
	if ((changed & (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)) && pae_paging(v, c->cr0, val) &&
	    !pdptes_valid(v, c->cr3))
		return fault_gp(v, 0);
	c->cr4 = val;
	if (changed & CR4_FLUSH)
		mmu_flush_all(v);
	mmu_mode_changed(v);
	return 0;
}

int cpu_write_cr(struct vcpu *v, unsigned cr, u64 val)
{
	switch (cr) {
	case 0:
		return write_cr0(v, val);
	case 2:
		v->cpu.cr2 = val;
		return 0;
	case 3:
		return write_cr3(v, val);
	case 4:
		return write_cr4(v, val);
	case 8:
		if (val > 15)
			return fault_gp(v, 0);
		fpu_park(v);
		v->hooks->cr8_write(v->machine, v->index, val);
		cpu_recheck_events(v);
		return 0;
	default:
		return fault_ud(v);
	}
}

u64 cpu_read_cr(struct vcpu *v, unsigned cr)
{
	switch (cr) {
	case 0:
		return v->cpu.cr0;
	case 2:
		return v->cpu.cr2;
	case 3:
		return v->cpu.cr3;
	case 4:
		return v->cpu.cr4;
	case 8:
		fpu_park(v);
		return v->hooks->cr8_read(v->machine, v->index);
	default:
		return 0;
	}
}

/* MOV to and from CR and DR ignore operand-size prefixes. */
static unsigned native_size(const struct dinsn *d)
{
	return d->mode == CODE_64 ? 8 : 4;
}

int sys_mov_cr(struct vcpu *v, const struct dinsn *d)
{
	unsigned cr = d->reg, size = native_size(d);

	if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && !(cr == 8 && d->mode == CODE_64))
		return fault_ud(v);
	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	if (d->opcode == 0x20)
		sys_reg_write(v, d, d->rm, size, cpu_read_cr(v, cr));
	else if (cpu_write_cr(v, cr, sys_reg_read(v, d, d->rm, size)))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

static int write_dr(struct vcpu *v, unsigned dr, u64 val)
{
	struct cpu *c = &v->cpu;
	u64 old = c->dr[dr], enabled = c->dr[7] & 0xff;

	if (dr >= 6 && val >> 32)
		return fault_gp(v, 0);
	if (dr == 6)
		val = (val & DR6_WRITABLE) | DR6_FIXED1;
	else if (dr == 7)
		val = (val & DR7_WRITABLE) | DR7_FIXED1;
	c->dr[dr] = val;
	/* Watched pages take the MMU's slow path: let it look again. */
	if (dr != 6 && val != old && (enabled | (c->dr[7] & 0xff)))
		mmu_flush_all(v);
	return 0;
}

int sys_mov_dr(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	unsigned dr = d->reg, size = native_size(d);

	if (dr > 7 || ((dr == 4 || dr == 5) && (c->cr4 & CR4_DE)))
		return fault_ud(v);
	if (cpu_cpl(c))
		return fault_gp(v, 0);
	if (dr == 4 || dr == 5)
		dr += 2;
	if (c->dr[7] & DR7_GD)
		return fault_raise(v, EXC_DB, false, 0, DR6_BD);
	if (d->opcode == 0x21)
		sys_reg_write(v, d, d->rm, size, c->dr[dr]);
	else if (write_dr(v, dr, sys_reg_read(v, d, d->rm, size)))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_clts(struct vcpu *v, const struct dinsn *d)
{
	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	v->cpu.cr0 &= ~CR0_TS;
	mmu_mode_changed(v);
	sys_advance(v, d);
	return 0;
}

int sys_lmsw(struct vcpu *v, const struct dinsn *d)
{
	u64 val, mask = CR0_MP | CR0_EM | CR0_TS;

	if (cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	if (sys_rm_read(v, d, 2, &val))
		return FAULT;
	/* PE can be set but not cleared. */
	if (cpu_write_cr(v, 0, (v->cpu.cr0 & ~mask) | (val & (mask | CR0_PE))))
		return FAULT;
	sys_advance(v, d);
	return 0;
}

int sys_smsw(struct vcpu *v, const struct dinsn *d)
{
	if ((v->cpu.cr4 & CR4_UMIP) && cpu_cpl(&v->cpu))
		return fault_gp(v, 0);
	if (sys_rm_write(v, d, d->is_mem ? 2 : d->opsize, v->cpu.cr0))
		return FAULT;
	sys_advance(v, d);
	return 0;
}
