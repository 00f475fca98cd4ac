/* What KVM_RUN comes back for. */
#include "engine/kvm/kvm.h"

#include <string.h>

#include "cpu/bus.h"
#include "cpu/msr.h"

/* ---- ports ---- */

static void port_exit(struct vcpu *v)
{
	struct kvm_run *run = kvm_of(v)->run;
	u8 *data = (u8 *)run + run->io.data_offset;
	unsigned size = run->io.size;

	for (u32 i = 0; i < run->io.count; i++, data += size) {
		u32 val = 0;

		if (run->io.direction == KVM_EXIT_IO_IN) {
			val = port_read(v->ports, run->io.port, size);
			memcpy(data, &val, size);
		} else {
			memcpy(&val, data, size);
			port_write(v->ports, run->io.port, val, size);
		}
	}
}

/* ---- memory ---- */

static unsigned piece(gpa_t at, unsigned left)
{
	unsigned size = 8;

	while (size > left || (at & (size - 1)))
		size /= 2;
	return size;
}

/* As the software MMU does it: in naturally aligned pieces, each to what is mapped there. */
static void mmio_exit(struct vcpu *v)
{
	struct kvm_run *run = kvm_of(v)->run;
	unsigned len = MIN(run->mmio.len, 8u);
	u8 *data = run->mmio.data;

	for (unsigned i = 0, n; i < len; i += n) {
		gpa_t gpa = run->mmio.phys_addr + i;
		struct page_target t;
		u64 val = 0;

		n = piece(gpa, len - i);
		memory_page(v->mem, gpa, &t);
		if (!t.mmio) {
			if (run->mmio.is_write)
				memory_write(v->mem, gpa, data + i, n);
			else
				memory_read(v->mem, gpa, data + i, n);
		} else if (run->mmio.is_write) {
			memcpy(&val, data + i, n);
			region_mmio_write(t.mmio, t.mmio_off + (gpa & ~PAGE_MASK), val, n);
		} else {
			val = region_mmio_read(t.mmio, t.mmio_off + (gpa & ~PAGE_MASK), n);
			memcpy(data + i, &val, n);
		}
	}
}

/* ---- MSRs ---- */

static void msr_exit(struct vcpu *v, bool write)
{
	struct kvm_run *run = kvm_of(v)->run;
	u32 msr = run->msr.index;
	u64 val = run->msr.data;

	/* Denied by KVM itself: the value is not legal. */
	run->msr.error = kvm_msr_inside(v, msr);
	if (run->msr.error)
		return;
	/* CPUID, which loads it, does not come out; who reads it has asked CPUID. */
	if (msr == MSR_BIOS_SIGN_ID && !write)
		v->cpu.bios_sign_id = MICROCODE_REVISION << 32;
	if (write) {
		run->msr.error = cpu_wrmsr(v, msr, val) ? 1 : 0;
		if (!run->msr.error)
			kvm_msr_written(v, msr);
	} else {
		run->msr.error = cpu_rdmsr(v, msr, &val) ? 1 : 0;
		run->msr.data = val;
	}
}

/* ---- the rest ---- */

static void halt_exit(struct vcpu *v)
{
	kvm_export(v);
	v->cpu.activity = ACT_HALTED;
}

static void shutdown_exit(struct vcpu *v)
{
	kvm_export(v);
	v->cpu.activity = ACT_SHUTDOWN;
	v->cpu.shadow = SHADOW_NONE;
	v->hooks->triple_fault(v->machine, v->index);
}

static enum kvm_next debug_exit(struct vcpu *v)
{
	kvm_export(v);
	if (kvm_debug_hit(v))
		return NEXT_LEAVE_DEBUG;
	return NEXT_RUN;
}

enum kvm_next kvm_handle_exit(struct vcpu *v)
{
	struct kvm_vcpu *x = kvm_of(v);

	switch (x->run->exit_reason) {
	case KVM_EXIT_IO:
		x->count[COUNT_PIO]++;
		x->incomplete = true;
		port_exit(v);
		return NEXT_RUN;
	case KVM_EXIT_MMIO:
		x->count[COUNT_MMIO]++;
		x->incomplete = true;
		mmio_exit(v);
		return NEXT_RUN;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		x->count[COUNT_MSR]++;
		x->incomplete = true;
		msr_exit(v, x->run->exit_reason == KVM_EXIT_X86_WRMSR);
		return NEXT_RUN;
	case KVM_EXIT_HLT:
		x->count[COUNT_HALT]++;
		halt_exit(v);
		return NEXT_RUN;
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		x->count[COUNT_WINDOW]++;
		return NEXT_RUN;
	case KVM_EXIT_SET_TPR: /* run() compares CR8 after every exit */
		x->count[COUNT_TPR]++;
		return NEXT_RUN;
	case KVM_EXIT_IOAPIC_EOI:
		x->count[COUNT_EOI]++;
		v->hooks->apic_eoi(v->machine, v->index, x->run->eoi.vector);
		return NEXT_RUN;
	case KVM_EXIT_INTR:
		x->count[COUNT_SIGNAL]++;
		return NEXT_RUN;
	case KVM_EXIT_DEBUG:
		x->count[COUNT_DEBUG]++;
		return debug_exit(v);
	case KVM_EXIT_SHUTDOWN:
		x->count[COUNT_SHUTDOWN]++;
		shutdown_exit(v);
		return NEXT_RUN;
	default:
		/* Internal errors, above all of emulation, failed entries, and what later kernels may add. */
		x->count[COUNT_OTHER]++;
		return NEXT_REFERENCE;
	}
}
