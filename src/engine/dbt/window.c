/*
 * Windows: accesses that share one table lookup.
 *
 * Within a straight stretch of a block, accesses at constant distances from one
 * another are a group: fields of a structure, a frame, a run of pushes. The
 * first that is translated asks whether all their bytes lie in one page, looks
 * up the entry and keeps it in a slot of hot->window. The others find it there:
 *
 *     mov rcx, gs:[window + 8 * slot]
 *     test ecx, ecx ; jz               or jecxz, where the flags are wanted
 *     op [base + rcx + displacement + 1]
 *
 * A slot is written by the group's first access in the same pass through the
 * block, before the others look at it. It holds an absent entry if the lookup
 * found none or the bytes lie in two pages; then each access does its own
 * lookup out of line. Whoever does an instruction in C or fills an entry
 * makes all slots absent (run.c), for translated code goes on in the middle of
 * the block after that: slots never outlive a change of mappings or of write
 * permission, which only C makes. The entry of a group with a write is the
 * write entry, which serves reads as well.
 */
#include "engine/dbt/translate.h"
#include "isa/isa.h"

#include <string.h>

#define SPAN_MAX 256 /* bytes of a group: wide ones lie in two pages too often */
#define LOOP_STRIDE_MAX 256
#define FAR_AWAY (1ll << 30) /* offsets that are not looked at */

/* What is known of the registers: gpr[n] = (value `origin[n]`, whatever it is) + offset[n]. */
struct planner {
	struct tr *t;
	struct windows *to;
	u32 written; /* registers, by bit */
	u32 origin[16], origins;
	s64 offset[16];
	unsigned n;	  /* the instruction */
	unsigned segment; /* branches before it */
};

/* gpr[base] + gpr[index] * scale + disp */
struct place {
	u8 base, index, scale; /* index: REG_NONE */
	s64 disp;
};

static void forget(struct planner *p, unsigned g)
{
	p->written |= 1u << g;
	p->origin[g] = ++p->origins;
	p->offset[g] = 0;
}

static void forget_all(struct planner *p)
{
	for (unsigned g = 0; g < 16; g++)
		forget(p, g);
}

static bool is_far(s64 offset)
{
	return offset >= FAR_AWAY || offset <= -FAR_AWAY;
}

/* gpr[dst] = gpr[src] + distance */
static void derive(struct planner *p, unsigned dst, unsigned src, s64 distance)
{
	s64 offset = p->offset[src] + distance;

	if (is_far(distance) || is_far(offset)) {
		forget(p, dst);
		return;
	}
	p->written |= 1u << dst;
	p->origin[dst] = p->origin[src];
	p->offset[dst] = offset;
}

/* What a new window of the access would be. */
static struct window window_of(const struct planner *p, const struct place *at)
{
	struct window w = { .origin = p->origin[at->base], .segment = (u8)p->segment };
	s64 low = p->offset[at->base] + at->disp;

	if (at->index != REG_NONE) {
		w.index = p->origin[at->index];
		w.scale = at->scale;
		low += p->offset[at->index] * at->scale;
	}
	w.high = w.low = is_far(low) || is_far(at->disp) ? FAR_AWAY : (s32)low;
	return w;
}

/* May the access join? A write entry is asked for a read only if a write follows for certain. */
static bool joins(const struct window *w, const struct window *own, unsigned size, bool write)
{
	s32 low = MIN(w->low, own->low), high = MAX(w->high, own->low + (s32)size);

	return w->origin == own->origin && w->index == own->index && w->scale == own->scale && high - low <= SPAN_MAX &&
	       (!write || w->write || w->segment == own->segment);
}

static void plan_access(struct planner *p, enum window_use use, struct place at, unsigned size, bool write)
{
	struct windows *all = p->to;
	struct window own = window_of(p, &at), *found = NULL;

	if (own.low == FAR_AWAY)
		return;
	for (unsigned k = 0; k < all->n; k++) {
		struct window *w = &all->window[k];

		if (joins(w, &own, size, write) && (!found || w->write))
			found = w;
	}
	if (!found) {
		if (all->n == WINDOWS_MAX)
			return;
		found = &all->window[all->n++];
		*found = own;
	}
	found->low = MIN(found->low, own.low);
	found->high = MAX(found->high, own.low + (s32)size);
	found->write |= write;
	found->last = (u8)p->n;
	all->ref[p->n][use] = (struct window_ref){ .window = (u8)(found - all->window),
						   .base = at.base,
						   .index = at.index,
						   .indexed = at.index != REG_NONE,
						   .size = (u8)size,
						   .write = write,
						   .disp = (s32)at.disp,
						   .at = own.low };
}

static u32 written_registers(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	u32 all = 0;

	for (unsigned k = 0; k < z->operand_count; k++) {
		const ZydisDecodedOperand *o = &ops[k];
		ZydisRegister large;

		if (o->type != ZYDIS_OPERAND_TYPE_REGISTER || !(o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		large = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, o->reg.value);
		if (ZydisRegisterGetClass(large) == ZYDIS_REGCLASS_GPR64)
			all |= 1u << ZydisRegisterGetId(large);
	}
	return all;
}

void find_operand(struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	const ZydisDecodedOperand *m = NULL;
	bool one = true;

	g->writes = (u16)written_registers(z, ops);
	for (unsigned k = 0; k < z->operand_count; k++) {
		const ZydisDecodedOperand *o = &ops[k];

		if (o->type != ZYDIS_OPERAND_TYPE_MEMORY)
			continue;
		g->traits |= TRAIT_MEMORY;
		if (o->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
			continue;
		one &= !m && o->mem.type == ZYDIS_MEMOP_TYPE_MEM;
		m = o;
	}
	if (!m || !one || !m->size || m->size > 512)
		return;
	g->traits |= TRAIT_OPERAND;
	g->size = (u8)(m->size / 8);
	if (m->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		g->traits |= TRAIT_WRITES;
}

/* The operand that ModRM names, if its address has a base register. */
static void plan_operand(struct planner *p)
{
	const struct ginsn *g = p->t->g;
	const struct dinsn *d = &g->d;

	if (d->is_mem && d->has_modrm && d->addrsize == 8 && d->seg < SEG_FS && d->base < 16 &&
	    g->traits & TRAIT_OPERAND)
		plan_access(p, WINDOW_OPERAND, (struct place){ d->base, d->index, d->scale, d->disp }, g->size,
			    g->traits & TRAIT_WRITES);
}

static void forget_written(struct planner *p)
{
	for (u32 left = p->t->g->writes; left; left &= left - 1)
		forget(p, (unsigned)__builtin_ctz(left));
}

/* What an instruction is to the planner. */
enum plan_kind {
	PLAN_OTHER,
	PLAN_BARRIER, /* nothing is known behind it */
	PLAN_JCC,
	PLAN_PUSH, /* CALL as well */
	PLAN_POP,
	PLAN_FRAME, /* RET, LEAVE */
	PLAN_SUM    /* makes a register from another by adding a constant */
};

static bool is_jcc(const struct dinsn *d)
{
	return (d->map == 0 && d->opcode >= 0x70 && d->opcode <= 0x7f) ||
	       (d->map == 1 && d->opcode >= 0x80 && d->opcode <= 0x8f);
}

static bool is_call(const struct dinsn *d)
{
	return d->map == 0 && (d->opcode == 0xe8 || (d->opcode == 0xff && (d->reg & 7) == 2));
}

static enum plan_kind plan_kind(const struct ginsn *g)
{
	const struct dinsn *d = &g->d;
	unsigned op = d->opcode, sub = d->reg & 7;

	if ((g->method != METHOD_CORE && g->method != METHOD_HOST) ||
	    (g->traits & TRAIT_BRANCH && d->map != 0 && !is_jcc(d)))
		return PLAN_BARRIER;
	if (is_jcc(d))
		return PLAN_JCC;
	if (d->map != 0 || d->opsize != 8)
		return PLAN_OTHER;
	if ((op >= 0x50 && op <= 0x57) || op == 0x68 || op == 0x6a || is_call(d) || (op == 0xff && sub == 6))
		return PLAN_PUSH;
	if (op >= 0x58 && op <= 0x5f)
		return PLAN_POP;
	if (op == 0xc2 || op == 0xc3 || op == 0xc9)
		return PLAN_FRAME;
	if (op == 0x8d && d->is_mem && d->addrsize == 8 && d->base < 16 && d->index == REG_NONE)
		return PLAN_SUM;
	if (!d->is_mem && (op == 0x89 || op == 0x8b || ((op == 0x81 || op == 0x83) && (sub == 0 || sub == 5)) ||
			   (op == 0xff && sub < 2)))
		return PLAN_SUM;
	return PLAN_OTHER;
}

void find_plan(struct ginsn *g)
{
	const struct dinsn *d = &g->d;
	unsigned op = d->opcode;

	g->plan = plan_kind(g);
	if (is_call(d) || is_jcc(d))
		g->traits |= TRAIT_CUTS;
	if ((leaves_block(d) && !is_call(d)) || (d->map == 0 && (op == 0xe9 || op == 0xeb || op == 0xc2 || op == 0xc3 ||
								 (op == 0xff && (d->reg & 7) == 4))))
		g->traits |= TRAIT_ENDS;
}

static void plan_pop(struct planner *p)
{
	const struct dinsn *d = p->t->d;
	s64 offset = p->offset[REG_RSP];
	u32 origin = p->origin[REG_RSP];

	plan_access(p, WINDOW_STACK, (struct place){ REG_RSP, REG_NONE, 0, 0 }, 8, false);
	forget_written(p); /* RSP as well, hidden or not */
	if (d->opcode != 0x5c || (d->prefixes & DI_REX && d->bytes[d->len - 2] & 1)) {
		p->origin[REG_RSP] = origin;
		p->offset[REG_RSP] = offset;
		derive(p, REG_RSP, REG_RSP, 8);
	}
}

static void plan_sum(struct planner *p)
{
	const struct dinsn *d = p->t->d;
	unsigned sub = d->reg & 7;

	switch (d->opcode) {
	case 0x8d:
		derive(p, d->reg, d->base, d->disp);
		break;
	case 0x89:
		derive(p, d->rm, d->reg, 0);
		break;
	case 0x8b:
		derive(p, d->reg, d->rm, 0);
		break;
	case 0xff:
		derive(p, d->rm, d->rm, sub ? -1 : 1);
		break;
	default:
		derive(p, d->rm, d->rm, sub ? 0 - (s64)d->imm : (s64)d->imm);
		break;
	}
}

/* A branch to the block's start? */
static void find_loop(const struct planner *p)
{
	struct tr *t = p->t;
	u64 next = t->b->lin + t->ginsn_at[p->n + 1];

	if (next + t->d->imm != t->b->lin || t->loop.n || p->n >= LOOP_INSNS)
		return;
	t->loop.n = p->n + 1;
	t->loop.end = next;
}

static void plan_insn(struct planner *p)
{
	const struct ginsn *g = p->t->g;

	switch ((enum plan_kind)g->plan) {
	case PLAN_BARRIER:
		forget_all(p);
		return;
	case PLAN_JCC:
		p->segment++;
		if ((s64)g->d.imm < 0) { /* what follows a loop does not run as often as the loop */
			find_loop(p);
			forget_all(p);
		}
		return;
	case PLAN_PUSH:
		if (g->d.opcode == 0xff)
			plan_operand(p);
		plan_access(p, WINDOW_STACK, (struct place){ REG_RSP, REG_NONE, 0, -8 }, 8, true);
		derive(p, REG_RSP, REG_RSP, -8);
		break;
	case PLAN_POP:
		plan_pop(p);
		break;
	case PLAN_FRAME:
		plan_access(p, WINDOW_STACK, (struct place){ g->d.opcode == 0xc9 ? REG_RBP : REG_RSP, REG_NONE, 0, 0 },
			    8, false);
		forget_written(p);
		break;
	case PLAN_SUM:
		plan_sum(p);
		break;
	case PLAN_OTHER:
		plan_operand(p);
		forget_written(p);
		break;
	}
	if (g->traits & TRAIT_BRANCH)
		forget_all(p);
}

/* Does the block end behind this instruction, at `next`? As emit_block() has it. */
static bool ends_here(const struct planner *p, u64 next)
{
	u32 traits = p->t->g->traits;

	return traits & TRAIT_ENDS || (traits & TRAIT_CUTS && p->n >= CUT_INSNS) || is_cut(p->t, next);
}

/* May the instruction be in the second copy of a loop? */
static bool may_loop(const struct planner *p)
{
	const struct tr *t = p->t;
	const struct ginsn *g = t->g;
	u64 next = t->b->lin + t->ginsn_at[p->n + 1];

	if (!(g->traits & TRAIT_AWARE))
		return false;
	if (!(g->traits & TRAIT_BRANCH))
		return true;
	return g->plan == PLAN_JCC && (s64)g->d.imm >= 0 && next + g->d.imm >= t->loop.end;
}

/* Which register held value `origin` at the loop's head? */
static unsigned register_of(const u32 *head, u32 origin)
{
	for (unsigned g = 0; g < 16; g++)
		if (head[g] == origin)
			return g;
	return REG_NONE;
}

/* What moves by a constant each time round; false: nothing worth it. */
static bool find_strides(struct planner *p, const u32 *head)
{
	struct loop *l = &p->t->loop;
	unsigned slots = 0;

	for (unsigned k = 0; k < l->windows.n; k++) {
		struct window *w = &l->windows.window[k];
		unsigned base = register_of(head, w->origin), index = REG_NONE;
		s64 stride;

		w->slot = WINDOW_NONE;
		if (base == REG_NONE || p->origin[base] != head[base])
			continue;
		stride = p->offset[base];
		if (w->index) {
			index = register_of(head, w->index);
			if (index == REG_NONE || p->origin[index] != head[index])
				continue;
			stride += p->offset[index] * w->scale;
		}
		if (stride > LOOP_STRIDE_MAX || stride < -LOOP_STRIDE_MAX || slots == LOOP_SLOTS)
			continue;
		w->slot = (u8)slots++;
		l->stride[k] = (s32)stride;
		l->base[k] = (u8)base;
		l->index[k] = (u8)index;
		l->folded[k] = w->index && w->scale == 1 && !(p->written >> base & 1);
	}
	for (unsigned g = 0; g < 16; g++) {
		if (p->origin[g] != head[g] || !p->offset[g] || home[g] == HOME_MEMORY || is_far(p->offset[g]))
			continue;
		l->counter = g;
		l->step = (s32)p->offset[g];
		return slots;
	}
	return false;
}

/* The next instruction, which was decoded. */
static void begin_insn(struct planner *p)
{
	struct tr *t = p->t;

	p->to->ref[p->n][WINDOW_OPERAND].window = p->to->ref[p->n][WINDOW_STACK].window = WINDOW_NONE;
	t->g = &t->ginsn[p->n];
	t->d = &t->g->d;
}

/* The loop once more, by itself. */
static void plan_loop(struct tr *t)
{
	struct loop *l = &t->loop;
	struct planner p = { .t = t, .to = &l->windows };
	u32 head[16];

	l->windows.n = 0;
	forget_all(&p);
	memcpy(head, p.origin, sizeof(head));
	p.written = 0;
	for (; p.n + 1 < l->n; p.n++) {
		begin_insn(&p);
		if (!may_loop(&p))
			return;
		plan_insn(&p);
	}
	begin_insn(&p);
	l->usable = find_strides(&p, head);
	for (unsigned n = 0; n < l->n; n++)
		for (unsigned use = 0; use < 2; use++) {
			const struct window_ref *r = &l->windows.ref[n][use];

			if (r->window != WINDOW_NONE && r->indexed &&
			    (r->base != l->base[r->window] || home[r->index] == HOME_MEMORY))
				l->folded[r->window] = false;
		}
}

void plan_windows(struct tr *t)
{
	struct planner p = { .t = t, .to = &t->windows };

	t->windows.n = t->planned = t->loop.n = 0;
	t->loop.fast = t->loop.usable = false;
	t->loop.branch = NULL;
	if (t->narrow || t->steps_only || t->x->single)
		return;
	forget_all(&p);
	while (p.n < BLOCK_INSNS && t->ginsn_at[p.n] < t->avail && decode_next(t, p.n) == DECODE_OK) {
		begin_insn(&p);
		t->planned = p.n + 1;
		plan_insn(&p);
		p.n++;
		if (ends_here(&p, t->b->lin + t->ginsn_at[p.n]))
			break;
	}
	if (t->loop.n)
		plan_loop(t);
}

static unsigned free_slot(const struct tr *t, unsigned n)
{
	unsigned busy = 0;

	for (unsigned k = 0; k < t->windows.n; k++)
		if (t->windows.window[k].open && t->windows.window[k].last >= n)
			busy |= 1u << t->windows.window[k].slot;
	return (unsigned)__builtin_ctz(~busy);
}

static u32 slot_off(const struct window *w)
{
	return HOT(window) + 8u * w->slot;
}

static unsigned window_stub(struct tr *t, const struct window_ref *r, unsigned lin, s32 disp)
{
	unsigned stub = new_stub(t, STUB_WINDOW, r->write ? LEAVE_MISS_W : LEAVE_MISS_R, t->insn);

	t->stub[stub].reg = (u8)lin;
	t->stub[stub].disp = disp;
	t->stub[stub].size = r->size;
	t->stub[stub].write = r->write;
	t->stub[stub].slot = WINDOW_NONE;
	return stub;
}

void emit_window_address(struct tr *t, const struct window_ref *r, s32 back)
{
	const struct dinsn *d = t->d;
	struct dinsn moved = *d;

	if (!r->indexed) {
		lea(&t->e, H_R14, read_reg(t, r->base, H_R14), r->disp - back);
		return;
	}
	moved.disp -= back;
	t->d = &moved;
	emit_address(t, true, H_R14);
	t->d = d;
}

/* The Z flag, if all of the group lies in one page. What is one operand, used again, is usually aligned. */
static void emit_page_test(struct emit *e, unsigned lin, unsigned span, unsigned size)
{
	if (span != size || span > 16 || (span & (span - 1)))
		put_cross_test(e, lin, span);
	else
		put_align_test(e, lin, span);
}

/* The first access of the group: RCX = the entry for all of them. */
static void open_window(struct tr *t, struct window *w, const struct window_ref *r, unsigned *lin, s32 *disp)
{
	struct emit *e = &t->e;
	unsigned stub;

	flags_clobber(t);
	*disp = r->at - w->low;
	if (!r->indexed && *disp == r->disp && home[r->base] != HOME_MEMORY) {
		*lin = home[r->base];
	} else {
		emit_window_address(t, r, *disp);
		*lin = H_R14;
	}
	stub = window_stub(t, r, *lin, *disp);
	t->stub[stub].slot = w->slot;
	if (w->high - w->low > 1) {
		emit_page_test(e, *lin, (unsigned)(w->high - w->low), r->size);
		long_branch(t, 5, stub);
	}
	put_lookup(e, *lin, w->write);
	store_gs(e, H_RCX, slot_off(w));
	op_rr(e, false, 0x85, H_RCX, H_RCX);
	long_branch(t, 4, stub);
	t->stub[stub].resume = e->p;
	w->open = true;
}

static void use_window(struct tr *t, enum window_use use, const struct window *w, const struct window_ref *r,
		       unsigned *lin, s32 *disp)
{
	struct emit *e = &t->e;
	/* More is likely to follow what uses the stack, and at last a return, which wants the flags saved. */
	bool clobber = t->clobber && (t->flags != FLAGS_HOST || t->recipe.kind != RECIPE_NONE || use == WINDOW_STACK);
	unsigned stub;

	*lin = H_R14;
	*disp = 0;
	if (r->indexed) {
		emit_window_address(t, r, 0);
	} else {
		*lin = read_reg(t, r->base, H_R14);
		*disp = r->disp;
	}
	if (clobber)
		flags_clobber(t);
	stub = window_stub(t, r, *lin, *disp);
	load_gs(e, H_RCX, slot_off(w));
	if (clobber) {
		op_rr(e, false, 0x85, H_RCX, H_RCX);
		long_branch(t, 4, stub);
	} else {
		short_branch(t, true, stub);
	}
	t->stub[stub].resume = e->p;
}

bool emit_window(struct tr *t, enum window_use use, unsigned *lin, s32 *disp)
{
	unsigned n = t->insn - t->b->first;
	struct note *note = note_of(t);
	const struct window_ref *r;
	struct window *w;

	if (t->loop.fast)
		return emit_loop_window(t, use, lin, disp);
	if (n >= t->planned || t->windows.ref[n][use].window == WINDOW_NONE)
		return false;
	r = &t->windows.ref[n][use];
	w = &t->windows.window[r->window];
	if (!w->open) {
		if (!t->clobber || w->last <= n)
			return false;
		w->slot = (u8)free_slot(t, n);
		if (w->slot >= WINDOW_SLOTS)
			return false;
	}
	islands(t, 100, true);
	if (note->accesses < ARRAY_SIZE(note->access))
		note->access[note->accesses++] = (u8)(r->size | (r->write ? NOTE_WRITE : 0));
	if (w->open) {
		note->shares = true;
		use_window(t, use, w, r, lin, disp);
	} else {
		note->opens = true;
		open_window(t, w, r, lin, disp);
	}
	if (r->write)
		insn_of(t, t->insn)->stores = r->size;
	return true;
}

static u8 *put_jecxz(struct emit *e)
{
	put(e, 0x67);
	put(e, 0xe3);
	put(e, 0);
	return e->p - 1;
}

static void land(struct emit *e, u8 *at)
{
	if (!e->overflow)
		*at = (u8)(e->p - (at + 1));
}

/* Out of line, for one access whose window is not there. Clobbers no flags. */
void emit_window_stub(struct tr *t, const struct stub *s)
{
	struct emit *e = &t->e;
	unsigned log = 32u - (unsigned)__builtin_clz(s->size) - !(s->size & (s->size - 1));
	u8 *edge = NULL, *look, *absent;
	const u8 *found;

	if (s->slot != WINDOW_NONE)
		mov_gs_imm32(e, HOT(window) + 8u * s->slot, 0);
	if (s->reg != H_R14 || s->disp)
		lea(e, H_R14, s->reg, s->disp);
	if (s->size > 1) {
		op_rm(e, false, 0x8d, H_RCX, H_R14, (s32)(1u << log) - 1);
		pext_gs(e, H_RCX, H_RCX, HOT(cross_mask) + 4 * log);
		edge = put_jecxz(e);
	}
	look = e->p;
	put_lookup(e, H_R14, s->write);
	absent = put_jecxz(e);
	found = e->p + e->to_rx;
	if (s->reg == H_R14 && s->disp)
		lea(e, H_R14, H_R14, -s->disp);
	jump(e, 0xe9, s->resume + e->to_rx);
	if (edge) { /* across a page's end, or at its very start? */
		land(e, edge);
		pext_gs(e, H_RCX, H_R14, HOT(offset_mask));
		put_bytes(e, (const u8[]){ 0x67, 0xe3 }, 2);
		put(e, (u8)(look - (e->p + 1)));
		emit_leave(t, s, LEAVE_STEP);
	}
	land(e, absent);
	if (s->write) {
		lea(e, H_RCX, H_R14, s->size - 1);
		jump(e, 0xe8, t->x->sh->code_store);
		put_bytes(e, (const u8[]){ 0x67, 0xe3, 5 }, 3);
		jump(e, 0xe9, found);
	}
	mov_gs_fix(e, HOT(resume), FIX_CODE, code_offset(t, found - e->to_rx));
	emit_leave(t, s, s->reason);
}
