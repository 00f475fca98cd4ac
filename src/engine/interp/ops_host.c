/*
 * Running thunks: what must hold before the host executes a guest's
 * user-level instruction, its memory operand, and what to make of a fault.
 */
#include "engine/interp/ops.h"
#include "engine/interp/thunk.h"
#include "engine/interp/vector.h"
#include "engine/stop.h"
#include "cpu/xstate.h"

/*
 * thunk_call: saves what the C ABI wants saved, keeps the stack pointer where
 * the signal handler finds it, and calls. A fault inside resumes at
 * thunk_fault_exit with RAX = 1 + trap number and the stack pointer restored.
 */
__asm__(".text\n.p2align 4\n.globl thunk_call\n.type thunk_call, @function\nthunk_call:\n\t"
	"push %rbx\n\tpush %rbp\n\tpush %r12\n\tpush %r13\n\tpush %r14\n\tpush %r15\n\t"
	"mov %rsp, (%rcx)\n\t"
	"call *%rdx\n\t"
	"xor %eax, %eax\n"
	".globl thunk_fault_exit\nthunk_fault_exit:\n\t"
	"pop %r15\n\tpop %r14\n\tpop %r13\n\tpop %r12\n\tpop %rbp\n\tpop %rbx\n\tret\n"
	".size thunk_call, . - thunk_call\n");

/* The unit is not enabled: #UD or #NM as SDM vol. 2 orders them (EM and the
 * OS-support bits give #UD, TS gives #NM; for x87 both give #NM). */
int interp_unit_fault(struct vcpu *v, unsigned need)
{
	const struct cpu *c = &v->cpu;
	bool em = c->cr0 & CR0_EM;

	switch (need) {
	case FPU_X87:
	case FPU_WAIT:
		return fault_nm(v);
	case FPU_MMX:
		return em ? fault_ud(v) : fault_nm(v);
	case FPU_SSE:
		return em || !(c->cr4 & CR4_OSFXSR) ? fault_ud(v) : fault_nm(v);
	default: {
		u64 want = XCR0_SSE | XCR0_AVX | (need == FPU_AVX512 ? XCR0_AVX512 : 0);

		if (!(c->cr4 & CR4_OSXSAVE) || (c->xcr0 & want) != want || !(c->cr0 & CR0_PE) || (c->rflags & FL_VM))
			return fault_ud(v);
		return fault_nm(v);
	}
	}
}

/* A trap of the host inside a thunk is the guest's own. */
static int host_fault(struct vcpu *v, int trap)
{
	switch (trap) {
	case EXC_DE:
	case EXC_MF:
		return fault_raise(v, (enum exception)trap, false, 0, 0);
	case EXC_XM:
		return v->cpu.cr4 & CR4_OSXMMEXCPT ? fault_raise(v, EXC_XM, false, 0, 0) : fault_ud(v);
	case EXC_GP:
	case EXC_AC:
		return fault_gp(v, 0);
	default:
		return fault_ud(v);
	}
}

static int call_thunk(struct vcpu *v, const struct insn *i, void *mem)
{
	int r = thunk_call(v, mem, i->thunk->code, &hot(v)->thunk_sp);

	if (unlikely(r)) {
		/* The kernel saved and restored the vector registers around the signal. */
		return host_fault(v, r - 1);
	}
	return 0;
}

/* The live x87 status word. */
static u16 fpu_status(void)
{
	u16 fsw;

	__asm__ volatile("fnstsw %0" : "=a"(fsw));
	return fsw;
}

static u64 opmask(struct vcpu *v, unsigned k)
{
	const u8 *p;
	u64 m = 0;

	fpu_park(v);
	p = v->cpu.fpu + fpu_component_offset(5) + 8 * k;
	for (unsigned n = 0; n < 8; n++)
		m |= (u64)p[n] << (8 * n);
	return m;
}

/* Which bytes of the operand does a masked instruction access? */
static u64 active_bytes(struct vcpu *v, const struct thunk *t)
{
	u64 mask = opmask(v, t->mask_reg), bytes = 0;
	unsigned count = t->mem_size / t->element, active = 0;
	u64 one = BIT(t->element) - 1;

	for (unsigned n = 0; n < t->elements; n++) {
		if (!(mask >> n & 1))
			continue;
		bytes |= one << ((t->packed ? active : n) % count * t->element);
		active++;
	}
	return bytes;
}

/* Element by element, so that what is masked off is neither read nor checked. */
static int masked_transfer(struct vcpu *v, const struct insn *i, gva_t lin, u8 *buf, u64 bytes, bool write)
{
	const struct thunk *t = i->thunk;
	gva_t first, last;

	if (interp_masked_canonical(v, i, lin, bytes, &first, &last))
		return FAULT;
	for (unsigned at = 0; at < t->mem_size; at += t->element) {
		gva_t to = lin_operand(&v->cpu, lin + at);

		if (!(bytes >> at & 1))
			continue;
		if (write ? mmu_write(v, to, buf + at, t->element) : mmu_read(v, to, buf + at, t->element))
			return FAULT;
	}
	return 0;
}

/* An x87 store whose operand cannot be written: an unmasked exception other
 * than precision comes first, and then nothing is stored. Returns whether. */
static bool x87_store_excepted(struct vcpu *v, const struct insn *i, u8 *buf)
{
	u64 before[FX_XMM / 8];
	u16 fcw, fsw;

	fpu_park(v);
	copy_words(before, v->cpu.fpu, sizeof(before));
	fpu_load(v);
	if (!call_thunk(v, i, buf)) {
		__asm__ volatile("fnstcw %0" : "=m"(fcw));
		fsw = fpu_status();
		if (fsw & ~fcw & 0x1f)
			return true;
	}
	fpu_park(v);
	copy_words(v->cpu.fpu, before, sizeof(before));
	return false;
}

/* The operand cannot be written; what had to come before that? 0: the
 * instruction retires all the same. */
static int store_fault(struct vcpu *v, const struct insn *i, gva_t lin, u8 *buf)
{
	struct fault f = v->fault;

	if (i->thunk->x87 == X87_SET) {
		if (x87_store_excepted(v, i, buf))
			return 0;
		/* The 80-bit forms store 8 bytes, then 2. */
		if (i->thunk->mem_size == 10 && !lin_probe_write(v, lin, 8, LIN_CPL) && mmu_write(v, lin, buf, 8))
			return FAULT;
		v->fault = f;
		return FAULT;
	}
	if (i->fpu == FPU_MMX) { /* MOVQ m, mm: TOP is 0 already */
		fpu_park(v);
		vector_clear_top(&v->cpu);
	}
	if (i->thunk->converts) { /* VCVTPS2PH has set MXCSR, or found an unmasked exception */
		fpu_load(v);
		if (!call_thunk(v, i, buf))
			v->fault = f;
	}
	return FAULT;
}

static int masked_store_denied(struct vcpu *v, const struct insn *i, gva_t lin, u64 bytes)
{
	const struct thunk *t = i->thunk;

	/* a single element is one plain store */
	if (!t->whole && !(bytes && t->elements == 1))
		return interp_probe_masked(v, i, lin, bytes);
	if (interp_stack_canonical(v, i, lin, t->mem_size))
		return FAULT;
	return lin_probe_write(v, lin, t->mem_size, LIN_CPL);
}

static int masked_operand(struct vcpu *v, const struct insn *i, gva_t lin)
{
	const struct thunk *t = i->thunk;
	u8 *buf = interp_of(v)->bounce; /* aligned: with nothing active no alignment is asked for */
	u64 bytes = active_bytes(v, t);

	if (bytes && t->align && (lin & (t->align - 1u)))
		return fault_gp(v, 0);
	for (unsigned n = 0; n < t->mem_size; n++)
		buf[n] = 0;
	if (t->mem & THUNK_WRITE) {
		if (masked_store_denied(v, i, lin, bytes))
			return store_fault(v, i, lin, buf);
	} else if (masked_transfer(v, i, lin, buf, bytes, false)) {
		return FAULT;
	}
	fpu_load(v);
	if (call_thunk(v, i, buf))
		return FAULT;
	return t->mem & THUNK_WRITE ? masked_transfer(v, i, lin, buf, bytes, true) : 0;
}

/* The operand is not simply one piece of writable or readable RAM. */
static int bounced_operand(struct vcpu *v, const struct insn *i, gva_t lin)
{
	const struct thunk *t = i->thunk;
	u8 *buf = interp_of(v)->bounce + (lin & 63); /* keeps alignment faults what they are */

	sync_icount(v, i);
	if (t->waits && (fpu_status() & FSW_ES))
		return fault_raise(v, EXC_MF, false, 0, 0);
	if (t->mask_reg)
		return masked_operand(v, i, lin);
	if (t->align && (lin & (t->align - 1u)))
		return fault_gp(v, 0);
	if (interp_stack_canonical(v, i, lin, t->mem_size))
		return t->mem & THUNK_WRITE ? store_fault(v, i, lin, buf) : FAULT;
	if ((t->mem & THUNK_WRITE) && lin_probe_write(v, lin, t->mem_size, LIN_CPL))
		return store_fault(v, i, lin, buf);
	/* An x87 store with an unmasked exception leaves the operand alone. */
	if (((t->mem & THUNK_READ) || t->x87) && mmu_read(v, lin, buf, t->mem_size))
		return FAULT;
	if (i->fpu)
		fpu_load(v);
	if (call_thunk(v, i, buf))
		return FAULT;
	if ((t->mem & THUNK_WRITE) && mmu_write(v, lin, buf, t->mem_size))
		return FAULT;
	return 0;
}

/* Is all of an operand that may be written RAM? */
static bool in_ram(struct vcpu *v, gva_t lin, unsigned size)
{
	gva_t last = lin_operand(&v->cpu, lin + size - 1);
	struct xlat a, b;

	return !mmu_translate(v, lin, MMU_WRITE, v->mmu->index, &a) && a.host &&
	       !mmu_translate(v, last, MMU_WRITE, v->mmu->index, &b) && b.host;
}

/*
 * A locked access that is not simply one of the host: it lies in two pages, or
 * in one with code, or nobody has written there yet. Nobody else accesses RAM
 * while it is done. Devices may not be waited for then: they are no better off
 * without a lock.
 */
static int locked_operand(struct vcpu *v, const struct insn *i, gva_t lin)
{
	const struct thunk *t = i->thunk;
	int r;

	if (!world_of(v) || (t->align && (lin & (t->align - 1u))) || !in_ram(v, lin, t->mem_size))
		return bounced_operand(v, i, lin);
	stop_others(v);
	if (in_ram(v, lin, t->mem_size)) {
		r = bounced_operand(v, i, lin);
		let_others_go(v);
		return r;
	}
	let_others_go(v); /* the page was taken away while others were waited for */
	return bounced_operand(v, i, lin);
}

static int host_with_memory(struct vcpu *v, const struct insn *i)
{
	const struct thunk *t = i->thunk;
	const struct tlb_entry *e;
	gva_t lin;
	int r;

	if (interp_ea(v, i, t->mem_size, t->mem & THUNK_WRITE))
		return FAULT;
	lin = hot(v)->tmp[7];
	e = tlb_slot(hot(v)->tlb, lin);
	if (likely(TLB_HIT(e, lin, t->mem & THUNK_WRITE ? MMU_WRITE : MMU_READ, t->mem_size)))
		return call_thunk(v, i, (void *)(lin + e->addend));
	r = i->thunk->locked ? locked_operand(v, i, lin) : bounced_operand(v, i, lin);
	if (!r && v->event)
		break_after(v, i);
	return r;
}

/* FIP moves with every instruction, FOP and FDP with unmasked exceptions only
 * (CPUID.7.0:EBX[6], SDM vol. 1, 8.1.8 and 8.1.9). i->imm: the FOP. */
static void record_x87_pointers(struct vcpu *v, const struct insn *i)
{
	u64 rip = v->cpu.rip + i->off, fip = hot(v)->mode == BLOCK_64 ? rip : (u32)rip, fdp;
	u16 fop;

	if (i->thunk->x87 == X87_CLEAR) {
		fpu_set_pointers(&v->cpu, 0, 0, 0);
		return;
	}
	__builtin_memcpy(&fop, v->cpu.fpu + FX_FOP, 2);
	__builtin_memcpy(&fdp, v->cpu.fpu + FX_FDP, 8);
	if (fpu_status() & FSW_ES) {
		fop = (u16)i->imm;
		fdp = i->thunk->mem ? hot(v)->tmp[6] : fdp;
	}
	fpu_set_pointers(&v->cpu, fop, fip, fdp);
}

static int run_host(struct vcpu *v, const struct insn *i)
{
	const struct thunk *t = i->thunk;

	interp_of(v)->thunk_runs++;
	if (i->fpu != FPU_NONE) {
		if (unlikely(!(hot(v)->fpu_ok >> i->fpu & 1)))
			return interp_unit_fault(v, i->fpu);
		fpu_load(v);
	}
	if (t->mem ? host_with_memory(v, i) : call_thunk(v, i, NULL))
		return FAULT;
	if (t->x87)
		record_x87_pointers(v, i);
	return 0;
}

static OP(host)
{
	if (run_host(v, i))
		return interp_fault(v, i);
	NEXT;
}
const op_fn op_host = host;

/*
 * BT, BTS, BTR, BTC on memory with a register offset reach beyond the operand:
 * the bit string is addressed in units of the operand size (SDM vol. 2, BT).
 * i->src: the offset register. Only CF changes.
 */
static OP(bit_mem)
{
	const struct dinsn *d = i->d;
	unsigned bits = d->opsize * 8u;
	s64 offset = d->opsize == 2 ? (s16)R16(i->src) : d->opsize == 4 ? (s32)R32(i->src) : (s64)R64(i->src);
	s64 unit = offset >> (d->opsize == 2 ? 4 : d->opsize == 4 ? 5 : 6);
	u64 ea = R64(i->base) + (R64(i->index) << i->shift) + (u64)i->disp + (u64)(unit * d->opsize);
	bool write = d->opcode != 0xa3, stop = false;
	u64 val, mask = BIT((u64)offset & (bits - 1));
	gva_t lin;

	ea = i->addrsize == 8 ? ea : i->addrsize == 4 ? (u32)ea : (u16)ea;
	hot(v)->tmp[6] = ea;
	if (interp_segment(v, i, d->opsize, write))
		return interp_fault(v, i);
	lin = hot(v)->tmp[7];
	if (d->prefixes & DI_LOCK)
		stop = world_of(v) && in_ram(v, lin, d->opsize);
	if (stop && stop_others(v) && !in_ram(v, lin, d->opsize)) {
		let_others_go(v);
		stop = false;
	}
	if (write ? interp_rmw(v, i, lin, d->opsize) : interp_load(v, i, lin, d->opsize))
		goto fault;
	val = hot(v)->tmp[0];
	if (write) {
		hot(v)->tmp[1] = d->opcode == 0xab ? val | mask : d->opcode == 0xb3 ? val & ~mask : val ^ mask;
		if (interp_store(v, i, lin, d->opsize))
			goto fault;
	}
	if (stop)
		let_others_go(v);
	hot(v)->flags = (u16)((hot(v)->flags & ~0x100) | (val & mask ? 0x100 : 0));
	NEXT;
fault:
	if (stop)
		let_others_go(v);
	return interp_fault(v, i);
}
const op_fn op_bit_mem = bit_mem;
