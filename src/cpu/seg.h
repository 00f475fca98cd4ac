/*
 * Segmentation (SDM vol. 3, chapters 3 and 5): logical to linear addresses,
 * descriptor loads. Shared by all engines.
 */
#ifndef ECTYPE_CPU_SEG_H
#define ECTYPE_CPU_SEG_H

#include "cpu/vcpu.h"

enum seg_access { SEG_ACC_READ, SEG_ACC_WRITE, SEG_ACC_EXEC };

/*
 * Linear address of `len` bytes (1..4096) at `seg`:`off` for `acc`. Checks
 * type, limit (expand-down too), unusable segments and canonical form as the
 * current mode demands; #SS for SS, #GP otherwise, error code 0. `off` must
 * already be truncated to the address size. Wraps at 4 GiB outside 64-bit mode.
 */
int must_check seg_linear(struct vcpu *v, enum seg_reg seg, u64 off, unsigned len, enum seg_access acc, gva_t *lin);

/* Offset of the memory operand of `d`, truncated to its address size.
 * REG_RIP counts from v->cpu.rip + d->len: rip must be that of `d`. */
u64 dinsn_offset(const struct vcpu *v, const struct dinsn *d);

/* Load a data or stack segment register (not CS) as MOV does: SDM vol. 2 MOV. */
int must_check seg_load(struct vcpu *v, enum seg_reg seg, u16 sel);
/* Real and virtual-8086 mode load; never faults. */
void seg_load_real(struct cpu *c, enum seg_reg seg, u16 sel);

/* Descriptor as read from a table. */
struct descriptor {
	u32 lo, hi;
	u64 base; /* with the upper half for 16-byte system descriptors, if read so */
	u32 limit;
	u32 attr;
	gva_t addr; /* where it is */
};
/* Fetch the descriptor of `sel` (GDT or LDT by TI). Raises `vec`(sel) when it
 * is beyond the table. `wide` reads 16 bytes (system descriptors, long mode). */
int must_check seg_fetch(struct vcpu *v, u16 sel, bool wide, enum exception vec, struct descriptor *d);

#endif
