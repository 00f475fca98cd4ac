/*
 * CPUID (SDM vol. 2): the model's table, corrected by what follows the
 * processor's state: OSXSAVE, OSPKE, APIC enable and identity, the size of
 * the current XSAVE area, SYSCALL (Intel shows it in 64-bit mode only).
 */
#include "cpu/cpuid.h"
#include "cpu/msr.h"
#include "cpu/sys.h"
#include "cpu/xstate.h"

enum { EAX, EBX, ECX, EDX };

#define HYPERVISOR_BASE 0x40000000u
#define EXTENDED_BASE 0x80000000u
#define APIC_BASE_ENABLE BIT(11)

static const struct cpuid_entry *find(const struct cpu_model *m, u32 leaf, u32 subleaf)
{
	for (unsigned i = 0; i < m->entries; i++)
		if (m->entry[i].leaf == leaf && (!m->entry[i].has_subleaf || m->entry[i].subleaf == subleaf))
			return &m->entry[i];
	return NULL;
}

static u32 highest(const struct cpu_model *m, u32 base)
{
	const struct cpuid_entry *e = find(m, base, 0);

	return e ? e->eax : 0;
}

static bool apic_enabled(struct vcpu *v)
{
	u64 base;

	if (!v->hooks) /* a debugger or a test asks before the machine is wired */
		return true;
	fpu_park(v);
	return v->hooks->apic_msr_read(v->machine, v->index, MSR_APIC_BASE, &base) || (base & APIC_BASE_ENABLE);
}

static void follow_state(struct vcpu *v, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpu *c = &v->cpu;

	switch (leaf) {
	case 1:
		out[EBX] |= v->index << 24;
		if (c->cr4 & CR4_OSXSAVE)
			out[ECX] |= 1u << 27;
		if (!apic_enabled(v))
			out[EDX] &= ~(1u << 9);
		break;
	case 7:
		if (subleaf == 0 && (c->cr4 & CR4_PKE))
			out[ECX] |= 1u << 4;
		break;
	case 0xb:
	case 0x1f: /* levels beyond the last echo the sub-leaf number */
		out[ECX] |= subleaf & 0xff;
		out[EDX] = v->index;
		break;
	case 0xd:
		if (subleaf == 0 && v->model->xsave)
			out[EBX] = xstate_standard_size(c->xcr0);
		else if (subleaf == 1 && v->model->xsaves)
			out[EBX] = xstate_compact_size(c->xcr0 | c->xss);
		break;
	case EXTENDED_BASE + 1:
		if (!cpu_64bit(c))
			out[EDX] &= ~(1u << 11);
		break;
	default:
		break;
	}
}

void cpu_cpuid(struct vcpu *v, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpu_model *m = v->model;
	const struct cpuid_entry *e;

	/* Beyond the last basic or extended leaf Intel processors answer with
	 * the last basic one. The hypervisor range is ours and reads as zero. */
	if (leaf >= EXTENDED_BASE ? leaf > highest(m, EXTENDED_BASE)
				  : leaf > highest(m, 0) && leaf >> 28 != HYPERVISOR_BASE >> 28)
		leaf = highest(m, 0);
	e = find(m, leaf, subleaf);
	out[EAX] = e ? e->eax : 0;
	out[EBX] = e ? e->ebx : 0;
	out[ECX] = e ? e->ecx : 0;
	out[EDX] = e ? e->edx : 0;
	follow_state(v, leaf, subleaf, out);
}

int sys_cpuid(struct vcpu *v, const struct dinsn *d)
{
	struct cpu *c = &v->cpu;
	u32 leaf = (u32)c->gpr[REG_RAX], out[4];

	cpu_cpuid(v, leaf, (u32)c->gpr[REG_RCX], out);
	/* CPUID leaf 1 loads the microcode revision (vol. 3, 10.11.7.1). */
	if (leaf == 1)
		c->bios_sign_id = MICROCODE_REVISION << 32;
	c->gpr[REG_RAX] = out[EAX];
	c->gpr[REG_RBX] = out[EBX];
	c->gpr[REG_RCX] = out[ECX];
	c->gpr[REG_RDX] = out[EDX];
	sys_advance(v, d);
	return 0;
}
