/*
 * Memory accesses of the reference engine that miss the TLB, and effective
 * addresses through segments that are not flat.
 */
#include "engine/interp/ops.h"

/* Stubs with C arguments that preserve all registers but RAX, see SLOW_CALL. */
#define STUB(name)                                                                                                     \
	__asm__(                                                                                                       \
	    ".text\n.p2align 4\n.type " #name "_stub, @function\n" #name "_stub:\n\t"                                  \
	    "push %rdi\n\tpush %rsi\n\tpush %rdx\n\tpush %rcx\n\tpush %r8\n\tpush %r9\n\tpush %r10\n\tpush %r11\n\t"   \
	    "push %rbp\n\tmov %rsp, %rbp\n\tand $-16, %rsp\n\tcall " #name "\n\tmov %rbp, %rsp\n\tpop %rbp\n\t"        \
	    "pop %r11\n\tpop %r10\n\tpop %r9\n\tpop %r8\n\tpop %rcx\n\tpop %rdx\n\tpop %rsi\n\tpop %rdi\n\tret\n"      \
	    ".globl " #name "_stub\n.size " #name "_stub, . - " #name "_stub\n")
STUB(interp_load);
STUB(interp_rmw);
STUB(interp_store);
STUB(interp_ea);

void sync_icount(struct vcpu *v, const struct insn *i)
{
	v->icount = hot(v)->icount_end - (u64)hot(v)->budget - i->left - 1;
}

/* Non-canonical addresses through SS raise #SS, not #GP (SDM vol. 3, 6.15). */
int interp_stack_canonical(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size)
{
	if (i->seg == SEG_SS && (!lin_canonical(&v->cpu, lin) || !lin_canonical(&v->cpu, lin + size - 1)))
		return fault_ss(v, 0);
	return 0;
}

int interp_masked_canonical(struct vcpu *v, const struct insn *i, gva_t lin, u64 active, gva_t *first, gva_t *last)
{
	*first = lin_operand(&v->cpu, lin + (unsigned)__builtin_ctzll(active | BIT(63)));
	*last = lin_operand(&v->cpu, lin + 63 - (unsigned)__builtin_clzll(active | 1));
	if (!active)
		return 0;
	if (interp_stack_canonical(v, i, *first, 1) || interp_stack_canonical(v, i, *last, 1))
		return FAULT;
	return lin_canonical(&v->cpu, *first) && lin_canonical(&v->cpu, *last) ? 0 : fault_gp(v, 0);
}

int interp_probe_masked(struct vcpu *v, const struct insn *i, gva_t lin, u64 active)
{
	gva_t first, last;

	if (interp_masked_canonical(v, i, lin, active, &first, &last))
		return FAULT;
	if (!active)
		return 0;
	if (lin_probe_write(v, first, 1, LIN_CPL))
		return FAULT;
	return (first ^ last) & PAGE_MASK ? lin_probe_write(v, last, 1, LIN_CPL) : 0;
}

int interp_load(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size)
{
	sync_icount(v, i);
	hot(v)->tmp[0] = 0;
	if (interp_stack_canonical(v, i, lin, size) || mmu_read(v, lin, hot(v)->tmp, size))
		return FAULT;
	if (v->event)
		break_after(v, i);
	return 0;
}

int interp_rmw(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size)
{
	sync_icount(v, i);
	hot(v)->tmp[0] = 0;
	if (interp_stack_canonical(v, i, lin, size) || lin_probe_write(v, lin, size, LIN_CPL) ||
	    mmu_read(v, lin, hot(v)->tmp, size))
		return FAULT;
	if (v->event)
		break_after(v, i);
	return 0;
}

int interp_store(struct vcpu *v, const struct insn *i, gva_t lin, unsigned size)
{
	sync_icount(v, i);
	if (interp_stack_canonical(v, i, lin, size) || mmu_write(v, lin, &hot(v)->tmp[1], size))
		return FAULT;
	if (v->event)
		break_after(v, i);
	return 0;
}

int interp_ea(struct vcpu *v, const struct insn *i, unsigned size, unsigned write)
{
	u64 off = ea_fast(v, i);

	if (i->fn == op_xlat)
		off += (u8)v->cpu.gpr[REG_RAX];
	if (i->addrsize == 4)
		off = (u32)off;
	else if (i->addrsize == 2)
		off = (u16)off;
	hot(v)->tmp[6] = off;
	return interp_segment(v, i, size, write);
}

int interp_segment(struct vcpu *v, const struct insn *i, unsigned size, unsigned write)
{
	const struct interp_hot *h = hot(v);
	u64 off = h->tmp[6];
	gva_t lin;

	if (h->flat & (1u << (i->seg + (write ? 8 : 0)))) {
		lin = off;
	} else if (h->mode == BLOCK_64) {
		lin = off + (i->seg >= SEG_FS ? v->cpu.seg[i->seg].base : 0);
	} else {
		if (seg_linear(v, i->seg, off, size, write ? SEG_ACC_WRITE : SEG_ACC_READ, &lin))
			return FAULT;
	}
	hot(v)->tmp[7] = lin;
	return 0;
}
