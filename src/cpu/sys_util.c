/*
 * Operand access for the shared semantics (cpu/sys.h): general registers as
 * the instruction names them, the ModRM r/m operand, and the instruction
 * pointer.
 */
#include "cpu/linear.h"
#include "cpu/seg.h"
#include "cpu/sys.h"

void sys_advance(struct vcpu *v, const struct dinsn *d)
{
	u64 rip = v->cpu.rip + d->len;

	if (d->mode == CODE_32)
		rip = (u32)rip;
	else if (d->mode == CODE_16)
		rip = (u16)rip;
	v->cpu.rip = rip;
}

/* Byte registers 4..7 mean AH..BH unless any REX prefix is there (SDM vol. 2, 2.2.1.2). */
static bool high_byte(const struct dinsn *d, unsigned n)
{
	return n >= 4 && n < 8 && !(d->prefixes & DI_REX);
}

u64 sys_reg_read(const struct vcpu *v, const struct dinsn *d, unsigned n, unsigned size)
{
	const u64 *gpr = v->cpu.gpr;

	switch (size) {
	case 1:
		if (high_byte(d, n))
			return (u8)(gpr[n - 4] >> 8);
		return (u8)gpr[n & 15];
	case 2:
		return (u16)gpr[n & 15];
	case 4:
		return (u32)gpr[n & 15];
	default:
		return gpr[n & 15];
	}
}

void sys_reg_write(struct vcpu *v, const struct dinsn *d, unsigned n, unsigned size, u64 val)
{
	u64 *gpr = v->cpu.gpr;

	switch (size) {
	case 1:
		if (high_byte(d, n))
			gpr[n - 4] = (gpr[n - 4] & ~0xff00ull) | (u64)(u8)val << 8;
		else
			gpr[n & 15] = (gpr[n & 15] & ~0xffull) | (u8)val;
		break;
	case 2:
		gpr[n & 15] = (gpr[n & 15] & ~0xffffull) | (u16)val;
		break;
	case 4:
		gpr[n & 15] = (u32)val;
		break;
	default:
		gpr[n & 15] = val;
		break;
	}
}

int sys_mem_linear(struct vcpu *v, const struct dinsn *d, unsigned len, int acc, gva_t *lin)
{
	return seg_linear(v, d->seg, dinsn_offset(v, d), len, acc, lin);
}

int sys_rm_read(struct vcpu *v, const struct dinsn *d, unsigned size, u64 *val)
{
	u64 x = 0;
	gva_t lin;

	if (!d->is_mem) {
		*val = sys_reg_read(v, d, d->rm, size);
		return 0;
	}
	if (sys_mem_linear(v, d, size, SEG_ACC_READ, &lin) || lin_read(v, lin, &x, size, LIN_CPL))
		return FAULT;
	*val = x;
	return 0;
}

int sys_rm_write(struct vcpu *v, const struct dinsn *d, unsigned size, u64 val)
{
	gva_t lin;

	if (!d->is_mem) {
		sys_reg_write(v, d, d->rm, size, val);
		return 0;
	}
	if (sys_mem_linear(v, d, size, SEG_ACC_WRITE, &lin))
		return FAULT;
	return lin_write(v, lin, &val, size, LIN_CPL);
}
