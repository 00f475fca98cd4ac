/* The guest's debug registers (SDM vol. 3, 18.2) and the single-step trap. */
#include "cpu/flow.h"

enum dr7_rw { DR7_EXEC = 0, DR7_WRITE = 1, DR7_IO = 2, DR7_ACCESS = 3 };

static unsigned point_rw(u64 dr7, unsigned i)
{
	return (dr7 >> (16 + i * 4)) & 3;
}
static unsigned point_len(u64 dr7, unsigned i)
{
	static const u8 len[4] = { 1, 2, 8, 4 };

	return len[(dr7 >> (18 + i * 4)) & 3];
}

void cpu_data_breakpoint(struct vcpu *v, gva_t addr, unsigned len, bool write)
{
	const struct cpu *c = &v->cpu;
	u64 dr7 = c->dr[7], hit = 0;
	unsigned i;

	for (i = 0; i < 4; i++) {
		unsigned rw = point_rw(dr7, i), plen = point_len(dr7, i);
		u64 start = c->dr[i] & ~(u64)(plen - 1);

		if (!(dr7 & (3ull << (i * 2))) || !(rw == DR7_ACCESS || (rw == DR7_WRITE && write)))
			continue;
		if (addr - start < plen || start - addr < len)
			hit |= BIT(i);
	}
	if (hit) {
		v->cpu.pending_db |= hit;
		vcpu_raise(v, EV_TRAP);
	}
}

int cpu_insn_breakpoint(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;
	u64 dr7 = c->dr[7], hit = 0, lin = c->rip;
	unsigned i;

	if (!(dr7 & DR7_ENABLED) || (c->rflags & FL_RF))
		return 0;
	if (!cpu_64bit(c))
		lin = (u32)(c->seg[SEG_CS].base + lin);
	for (i = 0; i < 4; i++) {
		if ((dr7 & (3ull << (i * 2))) && point_rw(dr7, i) == DR7_EXEC && c->dr[i] == lin)
			hit |= BIT(i);
	}
	return hit ? fault_raise(v, EXC_DB, false, 0, hit) : 0;
}

void cpu_single_step_done(struct vcpu *v)
{
	if (v->step_suppressed)
		v->step_suppressed = false;
	else
		v->cpu.pending_db |= DR6_BS;
	vcpu_raise(v, EV_TRAP);
}
