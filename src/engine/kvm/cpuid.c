/* CPUID: our model's table is KVM's, and what KVM supports limits the model. */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>

#define ENTRIES_MAX 512

int kvm_read_limits(int fd, struct cpu_limits *l, u64 *xcr0)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + ENTRIES_MAX * sizeof(c->entries[0]));

	if (!c)
		return -1;
	c->nent = ENTRIES_MAX;
	if (kvm_ioctl(fd, KVM_GET_SUPPORTED_CPUID, c)) {
		free(c);
		return -1;
	}
	*xcr0 = XCR0_X87 | XCR0_SSE;
	for (unsigned i = 0; i < c->nent; i++) {
		const struct kvm_cpuid_entry2 *k = &c->entries[i];
		const u32 regs[4] = { k->eax, k->ebx, k->ecx, k->edx };

		cpu_limits_add(l, k->function, k->index, regs);
		if (k->function == 0xd && k->index == 0)
			*xcr0 |= k->eax | (u64)k->edx << 32;
		if (k->function == 0x80000008u)
			l->phys_bits = k->eax & 0xff;
	}
	free(c);
	return 0;
}

/*
 * KVM itself keeps up what follows the processor's state (OSXSAVE, OSPKE, the
 * APIC's enable bit, sizes of XSAVE areas, SYSCALL outside 64-bit mode), as
 * cpu_cpuid() does; the identity of the processor is part of the table.
 */
int kvm_set_cpuid(struct vcpu *v, struct error *e)
{
	const struct cpu_model *m = v->model;
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + m->entries * sizeof(c->entries[0]));
	int r;

	if (!c)
		return error_set(e, "engine kvm: out of memory");
	for (unsigned i = 0; i < m->entries; i++) {
		const struct cpuid_entry *s = &m->entry[i];
		struct kvm_cpuid_entry2 *k = &c->entries[c->nent];
		u32 out[4];

		/* KVM answers for further levels as processors do: CL is the sub-leaf */
		if ((s->leaf == 0xb || s->leaf == 0x1f) && !s->has_subleaf)
			continue;
		c->nent++;
		cpu_cpuid(v, s->leaf, s->subleaf, out);
		*k = (struct kvm_cpuid_entry2){ .function = s->leaf,
						.index = s->subleaf,
						.flags = s->has_subleaf ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
						.eax = out[0],
						.ebx = out[1],
						.ecx = out[2],
						.edx = out[3] };
		if (s->leaf == 0x80000001u)
			k->edx |= s->edx & (1u << 11);
	}
	r = kvm_ioctl(kvm_of(v)->fd, KVM_SET_CPUID2, c);
	free(c);
	return r ? error_errno(e, errno, "engine kvm: KVM does not take the CPU model's CPUID") : 0;
}
