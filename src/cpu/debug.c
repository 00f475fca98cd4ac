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

/* Enabled points whose R/W field is in `kinds` (bit per enum dr7_rw) and that
 * overlap [addr, addr + len): a trap after the instruction. */
static void trap_if_hit(struct vcpu *v, u64 addr, unsigned len, unsigned kinds)
{
	const struct cpu *c = &v->cpu;
	u64 dr7 = c->dr[7], hit = 0;

	for (unsigned i = 0; i < 4; i++) {
		unsigned plen = point_len(dr7, i);
		u64 start = c->dr[i] & ~(u64)(plen - 1);

		if (!(dr7 & (3ull << (i * 2))) || !(kinds >> point_rw(dr7, i) & 1))
			continue;
		if (addr - start < plen || start - addr < len)
			hit |= BIT(i);
	}
	if (hit) {
		v->cpu.pending_db |= hit;
		vcpu_raise(v, EV_TRAP);
	}
}

void cpu_data_breakpoint(struct vcpu *v, gva_t addr, unsigned len, bool write)
{
	trap_if_hit(v, addr, len, 1u << DR7_ACCESS | (write ? 1u << DR7_WRITE : 0));
}

void cpu_io_breakpoint(struct vcpu *v, u16 port, unsigned len)
{
	if (unlikely(v->cpu.dr[7] & DR7_ENABLED) && (v->cpu.cr4 & CR4_DE))
		trap_if_hit(v, port, len, 1u << DR7_IO);
}

int cpu_insn_breakpoint(struct vcpu *v)
{
	const struct cpu *c = &v->cpu;
	u64 dr7 = c->dr[7], hit = 0, lin = c->rip;
	unsigned i;

	if (!(dr7 & DR7_ENABLED) || (c->rflags & FL_RF) || c->shadow == SHADOW_MOV_SS)
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
