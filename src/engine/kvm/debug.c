/*
 * A debugger's breakpoints and watchpoints, in the processor's debug registers
 * (KVM_SET_GUEST_DEBUG; the guest's own are out of force meanwhile). Four
 * aligned pieces of 1, 2, 4 or 8 bytes: where that is not enough, or reads are
 * to be told from writes, or this KVM does not stop there (probe.c), the
 * reference engine runs the guest.
 */
#include "engine/kvm/kvm.h"

#include "cpu/flow.h"

#define DEBUG_REGISTERS 4

struct piece {
	u64 addr;
	u8 len, rw;
	const struct debug_point *of;
};

/* How many pieces the points take; at most DEBUG_REGISTERS of them in `out`. A number above that: impossible. */
static unsigned pieces(const struct vcpu *v, struct piece *out)
{
	unsigned n = 0;

	for (unsigned i = 0; i < v->debug.count; i++) {
		const struct debug_point *p = &v->debug.point[i];
		u64 at = p->addr, left = p->kind ? p->len : 1;

		/* the processor knows no watchpoint for reads alone */
		if (p->kind == 2 || !(kvm_debug_means() & (p->kind ? KVM_DEBUG_DATA : KVM_DEBUG_EXECUTION)))
			return DEBUG_REGISTERS + 1;
		while (left) {
			u8 len = p->kind ? 8 : 1;

			while (len > left || (at & (len - 1u)))
				len /= 2;
			if (n == DEBUG_REGISTERS)
				return n + 1;
			out[n++] = (struct piece){ at, len, p->kind, p };
			at += len;
			left -= len;
		}
	}
	return n;
}

bool kvm_debug_possible(const struct vcpu *v)
{
	struct piece p[DEBUG_REGISTERS];

	if (!v->debug.count)
		return true;
	/* The guest's own breakpoints must go on working. */
	return !(v->cpu.dr[7] & DR7_ENABLED) && pieces(v, p) <= DEBUG_REGISTERS;
}

void kvm_debug_set(struct vcpu *v)
{
	static const u8 len_code[9] = { [1] = 0, [2] = 1, [4] = 3, [8] = 2 };
	struct kvm_guest_debug g = { .control = 0 };
	struct piece p[DEBUG_REGISTERS];
	unsigned n = pieces(v, p);

	if (!n && !kvm_of(v)->debug_control)
		return;
	if (n)
		g.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	g.arch.debugreg[7] = n ? 0x600 : 0; /* GE, and bit 10 that is always set */
	for (unsigned i = 0; i < n; i++) {
		/* kinds: 0 execution, 1 write, 3 access; as R/W has them */
		g.arch.debugreg[i] = p[i].addr;
		g.arch.debugreg[7] |=
		    2ull << (2 * i) | (u64)p[i].rw << (16 + 4 * i) | (u64)len_code[p[i].len] << (18 + 4 * i);
	}
	kvm_ioctl(kvm_of(v)->fd, KVM_SET_GUEST_DEBUG, &g);
	kvm_of(v)->debug_control = g.control;
}

bool kvm_debug_here(const struct vcpu *v)
{
	const struct cpu *c = &v->cpu;
	u64 lin = cpu_64bit(c) ? c->rip : (u32)(c->seg[SEG_CS].base + c->rip);

	for (unsigned i = 0; i < v->debug.count; i++)
		if (v->debug.point[i].kind == 0 && v->debug.point[i].addr == lin)
			return true;
	return false;
}

bool kvm_debug_hit(struct vcpu *v)
{
	const struct kvm_debug_exit_arch *d = &kvm_of(v)->run->debug.arch;
	struct piece p[DEBUG_REGISTERS];
	unsigned n = pieces(v, p);

	if (n > DEBUG_REGISTERS)
		n = 0;
	/* All of the guest's debug exceptions come out as long as the debugger has points: a step of its own goes back.
	 */
	if (d->exception == EXC_DB && (d->dr6 & DR6_BS))
		v->cpu.pending_db |= DR6_BS;
	for (unsigned i = 0; i < n; i++) {
		if (!(d->dr6 & BIT(i)))
			continue;
		if (p[i].of->kind) {
			v->debug.hit_addr = p[i].of->addr;
			v->debug.hit_kind = p[i].of->kind;
		}
		return true;
	}
	return false;
}
