/*
 * Memory operands: effective address, the check that the access does not
 * cross a page, the table lookup (mem/flat.h), and code out of line.
 *
 * No host instruction here touches the flags. PEXT extracts the bits of
 * lin + size - 1 that are zero just behind a page's end; JECXZ branches on it.
 * The bits are zero as well for an access at a page's very start: the code out
 * of line tells the two apart.
 */
#include "engine/dbt/translate.h"

const u8 home[16] = {
	0, H_R12, 2, 3, H_R13, 5, 6, 7, 8, 9, 10, HOME_MEMORY, 11, HOME_MEMORY, HOME_MEMORY, HOME_MEMORY
};

unsigned read_reg(struct tr *t, unsigned g, unsigned temp)
{
	if (home[g] != HOME_MEMORY)
		return home[g];
	load_gs(&t->e, temp, gpr_off(g));
	return temp;
}

unsigned new_stub(struct tr *t, enum stub_kind kind, enum leave_reason reason, u32 info)
{
	if (t->stubs_n == STUBS_MAX) {
		t->failed = true;
		return 0;
	}
	if (t->loop.fast && (reason == LEAVE_MISS_R || reason == LEAVE_MISS_W))
		reason = LEAVE_STEP; /* C must not come back into the loop */
	t->stub[t->stubs_n] =
	    (struct stub){ .saved = t->flags != FLAGS_HOST, .kind = (u8)kind, .reason = (u8)reason, .info = info };
	return t->stubs_n++;
}

static void add_ref(struct tr *t, unsigned stub, u8 *at)
{
	struct stub *s = &t->stub[stub];

	if (!s->refs[0])
		s->refs[0] = at;
	else if (!s->refs[1])
		s->refs[1] = at;
	else
		t->failed = true;
}

void land_branches(struct tr *t, unsigned room, bool inline_code)
{
	struct emit *e = &t->e;
	unsigned bytes = t->pending_n * 5 + 2;

	if ((inline_code && (unsigned)(e->p - t->pending[0].at) + room + bytes < 127))
		return;
	if (inline_code) {
		put(e, 0xeb);
		put(e, t->pending_n * 5);
	}
	for (unsigned k = 0; k < t->pending_n; k++) {
		s64 d = e->p - (t->pending[k].at + 1);

		if (d > 127)
			t->failed = true;
		if (t->pending[k].at < e->end)
			*t->pending[k].at = (u8)d;
		put(e, 0xe9);
		add_ref(t, t->pending[k].stub, e->p);
		put32(e, 0);
	}
	t->pending_n = 0;
}

void short_branch(struct tr *t, bool narrow, unsigned stub)
{
	struct emit *e = &t->e;

	if (t->pending_n == ARRAY_SIZE(t->pending))
		islands(t, 127, true);
	if (narrow)
		put(e, 0x67);
	put(e, 0xe3);
	t->pending[t->pending_n].at = e->p;
	t->pending[t->pending_n++].stub = (u16)stub;
	put(e, 0);
}

void long_branch(struct tr *t, unsigned cc, unsigned stub)
{
	add_ref(t, stub, t->e.p + 2);
	put_chunk(&t->e, 0x0f | (0x80 | cc) << 8, 6);
}

void put_info(struct emit *e, enum leave_reason reason, u32 info)
{
	put(e, 0xb9); /* mov ecx, info */
	note_fix(e, reason == LEAVE_LINK ? FIX_EXIT : reason == LEAVE_SYS ? FIX_SYS : FIX_INSN);
	put32(e, info);
}

void emit_leave(struct tr *t, const struct stub *s, unsigned reason)
{
	put_info(&t->e, reason, s->info);
	jump(&t->e, 0xe9, s->saved ? t->x->sh->leave_saved[reason] : t->x->sh->leave[reason]);
}

void leave_unless_zero(struct tr *t, enum leave_reason reason, u32 info)
{
	struct emit *e = &t->e;

	put(e, 0xe3); /* jrcxz over what follows */
	put(e, 10 + t->pending_n * 5);
	put_info(e, reason, info);
	jump(e, 0xe9, t->flags == FLAGS_HOST ? t->x->sh->leave[reason] : t->x->sh->leave_saved[reason]);
	islands(t, 0, false);
}

/* test ch, 10H on (lin + size - 1) ^ lin: does the access cross a page? */
void put_cross_test(struct emit *e, unsigned lin, unsigned size)
{
	op_rm(e, false, 0x8d, H_RCX, lin, (s32)size - 1);
	op_rr(e, false, 0x31, lin, H_RCX);
	put_bytes(e, (const u8[]){ 0xf6, 0xc5, 0x10 }, 3);
}

void put_align_test(struct emit *e, unsigned lin, unsigned size)
{
	/* test lin, size - 1 */
	put_chunk(e, 0x40 | lin >> 3 | 0xf6 << 8 | (0xc0 | (lin & 7)) << 16 | (u64)(size - 1) << 24, 4);
}

/* The page may hold code elsewhere than in the store's lines. */
static void try_code_store(struct tr *t, const struct stub *s)
{
	struct emit *e = &t->e;

	lea(e, H_RCX, H_R14, s->size - 1);
	jump(e, 0xe8, t->x->sh->code_store);
	put_bytes(e, (const u8[]){ 0x67, 0xe3, 5 }, 3);
	jump(e, 0xe9, s->resume + e->to_rx);
}

static void emit_stub(struct tr *t, struct stub *s)
{
	struct emit *e = &t->e;
	u8 *at = e->p;

	for (unsigned k = 0; k < ARRAY_SIZE(s->refs); k++) {
		if (s->refs[k]) {
			s32 rel = (s32)(at - (s->refs[k] + 4));

			if (!e->overflow)
				__builtin_memcpy(s->refs[k], &rel, 4);
		}
	}
	switch ((enum stub_kind)s->kind) {
	case STUB_ALIGN: /* not aligned, but does it cross a page? */
		put_cross_test(e, s->reg, s->size);
		put_bytes(e, (const u8[]){ 0x74, 10 }, 2);
		emit_leave(t, s, LEAVE_STEP);
		jump(e, 0xe9, s->resume + e->to_rx);
		break;
	case STUB_CROSS: /* zero offset: not a crossing */
		pext_gs(e, H_RCX, s->reg, HOT(offset_mask));
		put_bytes(e, (const u8[]){ 0x67, 0xe3, 10 }, 3);
		emit_leave(t, s, LEAVE_STEP);
		jump(e, 0xe9, s->resume + e->to_rx);
		break;
	case STUB_JUMP:
		jump(e, 0xe9, s->resume + e->to_rx);
		break;
	case STUB_LIMIT:
		emit_limit_check(t, s);
		jump(e, 0xe9, s->resume + e->to_rx);
		break;
	case STUB_WINDOW:
		emit_window_stub(t, s);
		break;
	case STUB_MISS:
	case STUB_STORE:
		if (s->reg != H_R14)
			mov_rr(e, H_R14, s->reg);
		if (s->kind == STUB_STORE)
			try_code_store(t, s);
		/* fall through */
	case STUB_LEAVE:
		if (s->resume)
			mov_gs_fix(e, HOT(resume), FIX_CODE, code_offset(t, s->resume));
		/* fall through */
	case STUB_LINK:
		if (s->kind == STUB_LINK)
			exit_of(t, s->info)->stub = (u16)(code_offset(t, e->p) - exit_of(t, s->info)->patch);
		if (s->kind == STUB_LINK && !s->saved) { /* to another page: with the flags saved */
			emit_save_flags(t);
			align_link(t, 1);
			exit_of(t, s->info)->far = (u16)(code_offset(t, e->p + 1) - exit_of(t, s->info)->patch);
			put_bytes(e, (const u8[]){ 0xe9, 0, 0, 0, 0 }, 5);
			s->saved = true;
		}
		emit_leave(t, s, s->reason);
		break;
	}
}

void emit_stubs(struct tr *t)
{
	islands(t, 0, false);
	for (unsigned k = 0; k < t->stubs_n; k++)
		if (t->stub[k].refs[0])
			emit_stub(t, &t->stub[k]);
}

/* dst = base + index * scale + disp, from registers whose homes may be memory. */
static void sum(struct tr *t, const struct dinsn *d, bool w, unsigned dst)
{
	struct emit *e = &t->e;
	unsigned scale = d->scale == 8 ? 3 : d->scale == 4 ? 2 : d->scale == 2 ? 1 : 0;
	unsigned base, index;

	if (d->base == REG_RIP || (d->base == REG_NONE && d->index == REG_NONE)) {
		u64 a = (u64)d->disp + (d->base == REG_RIP ? t->lin + d->len : 0);

		t->known = w ? a : (u32)a;
		if (d->base == REG_RIP)
			mov_lin(e, dst, t->known);
		else
			mov_imm(e, dst, t->known);
		t->known_at = e->p;
		return;
	}
	if (d->index == REG_NONE) {
		base = read_reg(t, d->base, H_R14);
		op_rm(e, w, 0x8d, dst, base, (s32)d->disp);
		return;
	}
	index = read_reg(t, d->index, H_RCX);
	if (d->base == REG_NONE) { /* [index * scale + disp32] */
		unsigned rex = 0x40 | w << 3 | (dst >> 3) << 2 | (index >> 3) << 1;

		put(e, rex);
		put(e, 0x8d);
		put(e, (dst & 7) << 3 | 4);
		put(e, scale << 6 | (index & 7) << 3 | 5);
		put32(e, (u32)d->disp);
		return;
	}
	base = read_reg(t, d->base, H_R14);
	op_rmx(e, w, 0x8d, dst, base, index, scale, (s32)d->disp);
}

void emit_address(struct tr *t, bool w, unsigned dst)
{
	sum(t, t->d, w, dst);
	t->known_at = NULL;
}

static u32 seg_base(unsigned seg)
{
	return (u32)(offsetof(struct cpu, seg) + seg * sizeof(struct segment) + offsetof(struct segment, base));
}

unsigned emit_ea(struct tr *t)
{
	const struct dinsn *d = t->d;
	bool w = d->addrsize == 8;

	if (w && d->seg < SEG_FS && d->base < 16 && d->index == REG_NONE && !d->disp && home[d->base] != HOME_MEMORY)
		return home[d->base];
	if (w && d->seg >= SEG_FS && d->base != REG_RIP && d->index == REG_NONE && fits32(d->disp)) {
		unsigned base = d->base == REG_NONE ? H_RCX : read_reg(t, d->base, H_RCX);

		load_gs(&t->e, H_R14, seg_base(d->seg));
		if (d->base != REG_NONE)
			op_rmx(&t->e, true, 0x8d, H_R14, H_R14, base, 0, (s32)d->disp);
		else
			lea(&t->e, H_R14, H_R14, (s32)d->disp);
		return H_R14;
	}
	sum(t, d, w, H_R14);
	if (d->addrsize == 2)
		put_bytes(&t->e, (const u8[]){ 0x45, 0x0f, 0xb7, 0xf6 }, 4); /* movzx r14d, r14w */
	if (d->seg >= SEG_FS && t->narrow) {
		emit_legacy_base(t);
	} else if (d->seg >= SEG_FS) {
		load_gs(&t->e, H_RCX, seg_base(d->seg));
		op_rmx(&t->e, true, 0x8d, H_R14, H_R14, H_RCX, 0, 0);
	}
	return H_R14;
}

static void emit_cross_check(struct tr *t, unsigned lin, unsigned size)
{
	struct emit *e = &t->e;
	unsigned log = 31u - (unsigned)__builtin_clz(size), stub;

	if (size & (size - 1))
		log++; /* 10 bytes of x87: as if they were 16 */
	stub = new_stub(t, STUB_CROSS, LEAVE_STEP, t->insn);
	op_rm(e, false, 0x8d, H_RCX, lin, (s32)(1u << log) - 1);
	pext_gs(e, H_RCX, H_RCX, HOT(cross_mask) + 4 * log);
	short_branch(t, true, stub);
	t->stub[stub].reg = (u8)lin;
	t->stub[stub].resume = e->p;
}

/* The same where the flags may be clobbered: aligned accesses do not cross. */
static void emit_clobbering_check(struct tr *t, unsigned lin, unsigned size)
{
	struct emit *e = &t->e;
	unsigned stub;

	if (size > 16 || ((size & (size - 1)) && size != 10)) { /* often not aligned */
		put_cross_test(e, lin, size);
		long_branch(t, 5, new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn));
		return;
	}
	stub = new_stub(t, STUB_ALIGN, LEAVE_STEP, t->insn);
	put_align_test(e, lin, size == 10 ? 16 : size);
	long_branch(t, 5, stub);
	t->stub[stub].reg = (u8)lin;
	t->stub[stub].size = (u8)size;
	t->stub[stub].resume = e->p;
}

void put_lookup(struct emit *e, unsigned lin, bool write)
{
	if (write || lin == H_R13) {
		pext64_gs(e, H_RCX, lin, HOT(page_bits));
	} else { /* one micro-operation more, one cycle less: others may wait for what is read */
		rorx(e, H_RCX, lin, 12);
		put_chunk(e, 0xc989, 2); /* mov ecx, ecx */
	}
	if (write)
		put_chunk(e, 0xd1f748, 3); /* not rcx */
	put_chunk(e, 0xcf8c8b49, 4);	   /* mov rcx, [r15 + rcx*8 + disp32] */
	put32(e, (u32)(write ? FLAT_W_DISP : FLAT_R_DISP));
}

enum access { ACCESS_ONE, ACCESS_PAGE, ACCESS_MASKED };

static void emit_lookup(struct tr *t, unsigned lin, unsigned size, bool write, enum access kind)
{
	struct emit *e = &t->e;
	struct note *n = note_of(t);
	bool known = lin == H_R14 && t->known_at == e->p;
	bool crosses = size > 1 && !t->ea_aligned && !(known && (t->known & ~PAGE_MASK) + size <= PAGE_SIZE); /* may */
	bool fill = kind != ACCESS_MASKED;
	unsigned stub;

	if (n->accesses < ARRAY_SIZE(n->access))
		n->access[n->accesses++] = (u8)(size | (write ? NOTE_WRITE : 0));
	islands(t, 100, true);
	if (t->clobber) {
		flags_clobber(t);
		if (crosses)
			emit_clobbering_check(t, lin, size);
	} else {
		if (crosses)
			emit_cross_check(t, lin, size);
	}
	if (known && t->known < 4 * GiB) {
		s32 index = (s32)(t->known >> PAGE_SHIFT);

		op_rm(e, true, 0x8b, H_RCX, H_R15, write ? FLAT_W_DISP - 8 * (index + 1) : FLAT_R_DISP + 8 * index);
	} else {
		put_lookup(e, lin, write);
	}
	if (fill)
		stub = new_stub(t, write && kind == ACCESS_ONE ? STUB_STORE : STUB_MISS,
				write ? LEAVE_MISS_W : LEAVE_MISS_R, t->insn);
	else
		stub = new_stub(t, STUB_LEAVE, LEAVE_STEP, t->insn);
	if (t->clobber) {
		op_rr(e, false, 0x85, H_RCX, H_RCX); /* test ecx, ecx ; jz */
		long_branch(t, 4, stub);
	} else {
		short_branch(t, true, stub);
	}
	t->stub[stub].reg = (u8)lin;
	t->stub[stub].size = (u8)size;
	if (write)
		insn_of(t, t->insn)->stores = (u8)(size | (kind == ACCESS_PAGE ? STORES_RUN : 0));
	t->stub[stub].resume = fill ? e->p : NULL;
}

void emit_access(struct tr *t, unsigned lin, unsigned size, bool write)
{
	emit_lookup(t, lin, size, write, ACCESS_ONE);
}

void emit_page_access(struct tr *t, unsigned lin, unsigned size, bool write)
{
	emit_lookup(t, lin, size, write, ACCESS_PAGE);
}

void emit_masked_access(struct tr *t, unsigned lin, unsigned size, bool write)
{
	emit_lookup(t, lin, size, write, ACCESS_MASKED);
}

void op_operand(struct emit *e, bool w, unsigned op, unsigned reg, unsigned lin)
{
	op_rmx(e, w, op, reg, lin, H_RCX, 0, 1);
}
