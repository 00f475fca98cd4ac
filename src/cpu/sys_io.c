/*
 * IN, OUT, INS, OUTS (SDM vol. 1, chapter 19; vol. 2). The string forms do
 * one iteration a call, so that interrupts are taken between iterations.
 */
#include "cpu/bus.h"
#include "cpu/event.h"
#include "cpu/linear.h"
#include "cpu/seg.h"
#include "cpu/sys.h"

/* Operand size of all eight forms: bit 0 of the opcode chooses byte or word,
 * and there are no 64-bit ports. */
static unsigned io_size(const struct dinsn *d)
{
	if (!(d->opcode & 1))
		return 1;
	return d->opsize == 2 ? 2 : 4;
}

/* Opcodes E4-E7 have an immediate port, EC-EF take DX. */
static u16 io_port(const struct vcpu *v, const struct dinsn *d)
{
	return d->opcode & 8 ? (u16)v->cpu.gpr[REG_RDX] : (u8)d->imm;
}

int sys_in(struct vcpu *v, const struct dinsn *d)
{
	unsigned size = io_size(d);
	u16 port = io_port(v, d);

	if (cpu_io_allowed(v, port, size))
		return FAULT;
	fpu_park(v);
	sys_reg_write(v, d, REG_RAX, size, port_read(v->ports, port, size));
	cpu_io_breakpoint(v, port, size);
	sys_advance(v, d);
	return 0;
}

int sys_out(struct vcpu *v, const struct dinsn *d)
{
	unsigned size = io_size(d);
	u16 port = io_port(v, d);

	if (cpu_io_allowed(v, port, size))
		return FAULT;
	fpu_park(v);
	port_write(v->ports, port, (u32)sys_reg_read(v, d, REG_RAX, size), size);
	cpu_io_breakpoint(v, port, size);
	sys_advance(v, d);
	return 0;
}

static bool repeated(const struct dinsn *d)
{
	return d->prefixes & (DI_REP | DI_REPNE);
}

/* The count of a repeated form is already zero: nothing is done. */
static bool string_spent(const struct vcpu *v, const struct dinsn *d)
{
	return repeated(d) && !sys_reg_read(v, d, REG_RCX, d->addrsize);
}

/* After an iteration: move the index, count down, and leave when done. */
static void string_step(struct vcpu *v, const struct dinsn *d, unsigned index, unsigned size)
{
	u64 at = sys_reg_read(v, d, index, d->addrsize), count;

	sys_reg_write(v, d, index, d->addrsize, v->cpu.rflags & FL_DF ? at - size : at + size);
	if (repeated(d)) {
		count = sys_reg_read(v, d, REG_RCX, d->addrsize) - 1;
		sys_reg_write(v, d, REG_RCX, d->addrsize, count);
		/* By the register: `count` may carry bits above the address size. */
		if (sys_reg_read(v, d, REG_RCX, d->addrsize))
			return;
	}
	sys_advance(v, d);
}

int sys_ins(struct vcpu *v, const struct dinsn *d)
{
	u16 port = (u16)v->cpu.gpr[REG_RDX];
	unsigned size = io_size(d);
	gva_t lin;
	u32 val;

	if (cpu_io_allowed(v, port, size))
		return FAULT;
	if (string_spent(v, d)) {
		sys_advance(v, d);
		return 0;
	}
	if (seg_linear(v, SEG_ES, sys_reg_read(v, d, REG_RDI, d->addrsize), size, SEG_ACC_WRITE, &lin))
		return FAULT;
	/* Reading a port has effects: no fault may come after it. */
	if (lin_probe_write(v, lin, size, LIN_CPL))
		return FAULT;
	fpu_park(v);
	val = port_read(v->ports, port, size);
	if (lin_write(v, lin, &val, size, LIN_CPL))
		return FAULT;
	cpu_io_breakpoint(v, port, size);
	string_step(v, d, REG_RDI, size);
	return 0;
}

int sys_outs(struct vcpu *v, const struct dinsn *d)
{
	u16 port = (u16)v->cpu.gpr[REG_RDX];
	unsigned size = io_size(d);
	gva_t lin;
	u32 val = 0;

	if (cpu_io_allowed(v, port, size))
		return FAULT;
	if (string_spent(v, d)) {
		sys_advance(v, d);
		return 0;
	}
	if (seg_linear(v, d->seg, sys_reg_read(v, d, REG_RSI, d->addrsize), size, SEG_ACC_READ, &lin))
		return FAULT;
	if (lin_read(v, lin, &val, size, LIN_CPL))
		return FAULT;
	fpu_park(v);
	port_write(v->ports, port, val, size);
	cpu_io_breakpoint(v, port, size);
	string_step(v, d, REG_RSI, size);
	return 0;
}
