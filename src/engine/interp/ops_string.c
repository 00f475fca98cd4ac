/*
 * String instructions. A repeated one counts as one instruction; between
 * iterations it can be left for events with its registers exact and start
 * again. Whole runs inside a page of RAM are done by the host's own REP.
 */
#include "engine/interp/ops.h"

#define RCX v->cpu.gpr[REG_RCX]

enum { STRING_DONE = 0, STRING_AGAIN = 1 }; /* or FAULT */

static u64 truncate_to(u64 x, unsigned size)
{
	return size == 8 ? x : size == 4 ? (u32)x : (u16)x;
}
/* Index and count registers: 32-bit writes clear the upper half, 16-bit ones keep the rest. */
static void set_reg(struct vcpu *v, const struct insn *i, unsigned r, u64 val)
{
	if (i->addrsize == 2)
		*(any_u16 *)&v->cpu.gpr[r] = (u16)val;
	else
		v->cpu.gpr[r] = truncate_to(val, i->addrsize);
}
static void add_reg(struct vcpu *v, const struct insn *i, unsigned r, s64 by)
{
	set_reg(v, i, r, v->cpu.gpr[r] + (u64)by);
}

static int string_lin(struct vcpu *v, unsigned seg, u64 off, unsigned size, bool write, gva_t *lin)
{
	const struct interp_hot *h = hot(v);

	if (h->flat & (1u << (seg + (write ? 8 : 0)))) {
		*lin = off;
		return 0;
	}
	if (h->mode == BLOCK_64) {
		*lin = off + v->cpu.seg[seg].base;
		return 0;
	}
	return seg_linear(v, seg, off, size, write ? SEG_ACC_WRITE : SEG_ACC_READ, lin);
}

/* Host pointer to as many elements as lie in this page, *n at most; NULL: slow.
 * A TLB miss is walked here: source and destination may share a TLB slot, and
 * then every element would miss (a 50 MB copy took 4 s). */
static u8 *run_in_page(struct vcpu *v, gva_t lin, enum mmu_access acc, unsigned size, u64 *n)
{
	const struct tlb_entry *e = tlb_slot(hot(v)->tlb, lin);
	u64 fit = (PAGE_SIZE - (lin & ~PAGE_MASK)) / size;
	struct xlat x;

	if (!fit)
		return NULL;
	if (TLB_HIT(e, lin, acc, size)) {
		*n = MIN(*n, fit);
		return (u8 *)(lin + e->addend);
	}
	/* A fault, a device, a code or watched page: the slow path finds it again, in its own order. */
	if (v->debug.count || v->mmu->index == MMU_USER_ALIGN || mmu_translate(v, lin, acc, v->mmu->index, &x) ||
	    !x.host || !x.writable)
		return NULL;
	*n = MIN(*n, fit);
	return x.host;
}

static bool may_run(const struct vcpu *v, const struct insn *i, unsigned seg)
{
	const struct interp_hot *h = hot((struct vcpu *)(uintptr_t)v);

	return !(v->cpu.rflags & FL_DF) && !h->careful &&
	       (h->mode == BLOCK_64 || (h->flat >> SEG_ES & 0x101) == 0x101) &&
	       (h->mode == BLOCK_64 || (h->flat >> seg & 1)) && i->addrsize >= 4;
}

static void host_movs(u8 *dst, const u8 *src, u64 n, unsigned size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	case 2:
		__asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	case 4:
		__asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	default:
		__asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
		break;
	}
}
static void host_stos(u8 *dst, u64 a, u64 n, unsigned size)
{
	switch (size) {
	case 1:
		__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(a) : "memory");
		break;
	case 2:
		__asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(a) : "memory");
		break;
	case 4:
		__asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(a) : "memory");
		break;
	default:
		__asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(a) : "memory");
		break;
	}
}

/* CMP a, b of `size` bytes: the host's flags. */
static u16 compare(u64 a, u64 b, unsigned size)
{
	u16 f;

	switch (size) {
	case 1:
		__asm__("cmpb %b2, %b1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc");
		break;
	case 2:
		__asm__("cmpw %w2, %w1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc");
		break;
	case 4:
		__asm__("cmpl %k2, %k1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc");
		break;
	default:
		__asm__("cmpq %2, %1\n\tlahf\n\tseto %%al" : "=&a"(f) : "r"(a), "r"(b) : "cc");
		break;
	}
	return f;
}

static int read_element(struct vcpu *v, unsigned seg, u64 off, unsigned size, u64 *val)
{
	gva_t lin;

	*val = 0;
	if (string_lin(v, seg, off, size, false, &lin))
		return FAULT;
	return mmu_read(v, lin, val, size);
}

/* Up to `n` iterations; *done says how many. */
static int movs(struct vcpu *v, const struct insn *i, u64 n, u64 *done)
{
	u64 so = truncate_to(v->cpu.gpr[REG_RSI], i->addrsize), dof = truncate_to(v->cpu.gpr[REG_RDI], i->addrsize);
	s64 step = v->cpu.rflags & FL_DF ? -(s64)i->size : i->size;
	gva_t sl, dl;
	u64 val = 0;
	u8 *s, *d;

	if (string_lin(v, i->seg, so, i->size, false, &sl))
		return FAULT;
	if (string_lin(v, SEG_ES, dof, i->size, true, &dl))
		return FAULT;
	if (may_run(v, i, i->seg) && (s = run_in_page(v, sl, MMU_READ, i->size, &n)) &&
	    (d = run_in_page(v, dl, MMU_WRITE, i->size, &n))) {
		host_movs(d, s, n, i->size);
		*done = n;
	} else {
		if (mmu_read(v, sl, &val, i->size) || mmu_write(v, dl, &val, i->size))
			return FAULT;
		*done = 1;
	}
	add_reg(v, i, REG_RSI, step * (s64)*done);
	add_reg(v, i, REG_RDI, step * (s64)*done);
	return 0;
}

static int stos(struct vcpu *v, const struct insn *i, u64 n, u64 *done)
{
	u64 off = truncate_to(v->cpu.gpr[REG_RDI], i->addrsize);
	s64 step = v->cpu.rflags & FL_DF ? -(s64)i->size : i->size;
	gva_t lin;
	u8 *d;

	if (string_lin(v, SEG_ES, off, i->size, true, &lin))
		return FAULT;
	if (may_run(v, i, SEG_ES) && (d = run_in_page(v, lin, MMU_WRITE, i->size, &n))) {
		host_stos(d, v->cpu.gpr[REG_RAX], n, i->size);
		*done = n;
	} else {
		if (mmu_write(v, lin, &v->cpu.gpr[REG_RAX], i->size))
			return FAULT;
		*done = 1;
	}
	add_reg(v, i, REG_RDI, step * (s64)*done);
	return 0;
}

static int lods(struct vcpu *v, const struct insn *i, u64 n, u64 *done)
{
	s64 step = v->cpu.rflags & FL_DF ? -(s64)i->size : i->size;
	u64 val;

	if (read_element(v, i->seg, truncate_to(v->cpu.gpr[REG_RSI], i->addrsize), i->size, &val))
		return FAULT;
	switch (i->size) {
	case 1:
		R8(0) = (u8)val;
		break;
	case 2:
		R16(0) = (u16)val;
		break;
	default:
		v->cpu.gpr[REG_RAX] = val;
		break;
	}
	add_reg(v, i, REG_RSI, step);
	*done = 1;
	return 0;
}

/* SCAS and CMPS stop where the comparison says so; *done counts the deciding one. */
static bool stops(const struct vcpu *v, const struct insn *i)
{
	bool zf = hot((struct vcpu *)(uintptr_t)v)->flags & 0x4000;

	return (i->cond == 1 && !zf) || (i->cond == 2 && zf);
}

static u64 element_at(const u8 *p, unsigned size)
{
	return size == 1 ? *p : size == 2 ? *(const any_u16 *)p : size == 4 ? *(const any_u32 *)p : *(const any_u64 *)p;
}

static int scas(struct vcpu *v, const struct insn *i, u64 n, u64 *done)
{
	u64 off = truncate_to(v->cpu.gpr[REG_RDI], i->addrsize), val, k = 0;
	s64 step = v->cpu.rflags & FL_DF ? -(s64)i->size : i->size;
	const u8 *p = NULL;
	gva_t lin;

	if (string_lin(v, SEG_ES, off, i->size, false, &lin))
		return FAULT;
	if (may_run(v, i, SEG_ES))
		p = run_in_page(v, lin, MMU_READ, i->size, &n);
	if (p) {
		do {
			hot(v)->flags = compare(v->cpu.gpr[REG_RAX], element_at(p + k * i->size, i->size), i->size);
		} while (++k < n && !stops(v, i));
	} else {
		val = 0;
		if (mmu_read(v, lin, &val, i->size))
			return FAULT;
		hot(v)->flags = compare(v->cpu.gpr[REG_RAX], val, i->size);
		k = 1;
	}
	add_reg(v, i, REG_RDI, step * (s64)k);
	*done = k;
	return 0;
}

static int cmps(struct vcpu *v, const struct insn *i, u64 n, u64 *done)
{
	u64 so = truncate_to(v->cpu.gpr[REG_RSI], i->addrsize), dof = truncate_to(v->cpu.gpr[REG_RDI], i->addrsize);
	s64 step = v->cpu.rflags & FL_DF ? -(s64)i->size : i->size;
	u64 a = 0, b = 0, k = 0;
	const u8 *s, *d;
	gva_t sl, dl;

	if (string_lin(v, i->seg, so, i->size, false, &sl) || string_lin(v, SEG_ES, dof, i->size, false, &dl))
		return FAULT;
	if (may_run(v, i, i->seg) && (s = run_in_page(v, sl, MMU_READ, i->size, &n)) &&
	    (d = run_in_page(v, dl, MMU_READ, i->size, &n))) {
		do {
			hot(v)->flags = compare(element_at(s + k * i->size, i->size),
						element_at(d + k * i->size, i->size), i->size);
		} while (++k < n && !stops(v, i));
	} else {
		/* hardware finds a fault of the second operand first */
		if (mmu_read(v, dl, &b, i->size) || mmu_read(v, sl, &a, i->size))
			return FAULT;
		hot(v)->flags = compare(a, b, i->size);
		k = 1;
	}
	add_reg(v, i, REG_RSI, step * (s64)k);
	add_reg(v, i, REG_RDI, step * (s64)k);
	*done = k;
	return 0;
}

typedef int (*string_fn)(struct vcpu *v, const struct insn *i, u64 n, u64 *done);

/* With 32-bit addresses a repeated instruction that does nothing, or faults,
 * still zero-extends RCX, MOVS and STOS their index registers too. */
static void zero_extend(struct vcpu *v, const struct insn *i, string_fn fn)
{
	if (i->addrsize != 4)
		return;
	add_reg(v, i, REG_RCX, 0);
	if (fn == movs)
		add_reg(v, i, REG_RSI, 0);
	if (fn == movs || fn == stos)
		add_reg(v, i, REG_RDI, 0);
}

static int repeat(struct vcpu *v, const struct insn *i, string_fn fn)
{
	bool compares = fn == scas || fn == cmps, single = hot(v)->careful && (v->cpu.rflags & FL_TF);
	u16 flags = hot(v)->flags;
	u64 done, count;

	sync_icount(v, i);
	if (!i->cond) {
		if (fn(v, i, 1, &done))
			return FAULT;
		if (v->event)
			break_after(v, i);
		return STRING_DONE;
	}
	for (;;) {
		count = truncate_to(RCX, i->addrsize);
		if (!count) {
			zero_extend(v, i, fn);
			return STRING_DONE;
		}
		if (fn(v, i, single ? 1 : count, &done)) {
			hot(v)->flags = flags; /* those it began with (SDM vol. 2, REP) */
			zero_extend(v, i, fn);
			return FAULT;
		}
		set_reg(v, i, REG_RCX, RCX - done);
		if (compares && stops(v, i))
			break;
		if (truncate_to(RCX, i->addrsize) == 0)
			break;
		if (single)
			cpu_single_step_done(v);
		if (v->event)
			return STRING_AGAIN;
	}
	if (v->event)
		break_after(v, i);
	return STRING_DONE;
}

#define STRING(name)                                                                                                   \
	static OP(name##_op)                                                                                           \
	{                                                                                                              \
		int r = repeat(v, i, name);                                                                            \
		if (unlikely(r))                                                                                       \
			return r < 0 ? interp_fault(v, i) : interp_leave(v, i);                                        \
		NEXT;                                                                                                  \
	}
STRING(movs)
STRING(stos)
STRING(lods)
STRING(scas)
STRING(cmps)
const op_fn string_ops[5] = { movs_op, stos_op, lods_op, scas_op, cmps_op };
