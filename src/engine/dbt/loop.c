/*
 * Loops that access memory at constant strides, translated a second time.
 *
 * The loop goes from the block's start to a backward branch, in a straight
 * line but for branches that leave it. What it accesses at an address that
 * changes by a constant each time round (0 as well), window.c has collected in
 * windows. Behind the block comes this:
 *
 *     warm:  the branch of the first copy leads here
 *            goes round in the first copy until the loop has run some times
 *     set:   for each window: its bytes lie in one page, the page has an entry;
 *            hot->loop[slot] = entry, and how often may it move on in the page?
 *            hot->loop_limit = what a register that counts will be then
 *     head:  cmp counter, gs:[loop_limit] ; je set
 *            the loop, whose accesses through windows check nothing:
 *            mov rcx, gs:[loop + 8 * slot] ; op [base + rcx + displacement + 1]
 *
 * Where that does not work out, as where a window crosses a page's end, it goes
 * round in the first copy. An entry stays valid while translated code runs:
 * only C changes mappings, and C never comes back into the second copy
 * (KIND_LOOP; a miss there is LEAVE_STEP). A safepoint needs to be looked at
 * only at `set`: what follows is bounded. The stride is bounded so that a
 * mispredicted `je` stays within the guard behind RAM.
 */
#include "engine/dbt/translate.h"

#define WARM 4	       /* times round in the first copy */
#define WORTHWHILE 4   /* times round in the second */
#define LEFT_MAX 1023u /* the same, between safepoints */

bool is_loop_branch(const struct tr *t)
{
	return t->loop.usable && t->lin + t->d->len == t->loop.end;
}

void put_loop_branch(struct tr *t)
{
	struct emit *e = &t->e;

	t->loop.branch = e->p;
	put32(e, 0);
	mov_gs_imm32(e, HOT(loop_warm), WARM);
	t->loop.after = e->p;
	t->loop.recipe = t->recipe;
	t->loop.recipe_at = t->recipe_at;
}

static void land_at(struct emit *e, u8 *rel, const u8 *target)
{
	s32 distance = (s32)(target - (rel + 4));

	if (!e->overflow)
		__builtin_memcpy(rel, &distance, 4);
}

/* Jcc to code not yet made; returns its rel32. */
static u8 *put_jcc(struct emit *e, unsigned cc)
{
	put(e, 0x0f);
	put(e, 0x80 | cc);
	put32(e, 0);
	return e->p - 4;
}

/* `op` R14D, imm32, of the group 81H. */
static void put_r14d_imm(struct emit *e, unsigned op, u32 imm)
{
	put_bytes(e, (const u8[]){ 0x41, 0x81 }, 2);
	put(e, 0xc0 | op << 3 | (H_R14 & 7));
	put32(e, imm);
}

static unsigned log2_up(u32 n)
{
	return n > 1 ? 32u - (unsigned)__builtin_clz(n - 1) : 0;
}

/* R14 = the window's address in the page: at most hot->loop_left moves. *fail: rel32 of a branch. */
static void put_moves(struct emit *e, s32 stride, unsigned span, u8 **fail)
{
	put_r14d_imm(e, 4, 0xfff); /* and */
	if (stride >= 0) {
		put_r14d_imm(e, 5, (u32)PAGE_SIZE - span);	   /* sub */
		put_bytes(e, (const u8[]){ 0x41, 0xf7, 0xde }, 3); /* neg r14d */
		*fail = put_jcc(e, 8);
	} else {
		put_r14d_imm(e, 7, (u32)PAGE_SIZE - span); /* cmp */
		*fail = put_jcc(e, 7);
	}
	if (!stride)
		return;
	put_bytes(e, (const u8[]){ 0x41, 0xc1, 0xee }, 3); /* shr r14d */
	put(e, log2_up((u32)(stride < 0 ? -stride : stride)));
	op_gs(e, false, 0x8b, H_RCX, HOT(loop_left));
	op_rr(e, false, 0x39, H_R14, H_RCX);			 /* cmp ecx, r14d */
	put_bytes(e, (const u8[]){ 0x41, 0x0f, 0x47, 0xce }, 4); /* cmova ecx, r14d */
	op_gs(e, false, 0x89, H_RCX, HOT(loop_left));
}

/* The slot of window `k`. `fail`: two branches. */
static void put_slot(struct tr *t, unsigned k, u8 **fail)
{
	const struct loop *l = &t->loop;
	const struct window *w = &l->windows.window[k];
	struct dinsn at = { .base = l->base[k], .index = l->index[k], .scale = w->scale, .disp = w->low };
	const struct dinsn *d = t->d;
	struct emit *e = &t->e;

	t->d = &at;
	emit_address(t, true, H_R14);
	t->d = d;
	put_lookup(e, H_R14, w->write);
	op_rr(e, false, 0x85, H_RCX, H_RCX);
	fail[0] = put_jcc(e, 4);
	if (l->folded[k] && home[l->base[k]] != HOME_MEMORY)
		op_rr(e, true, 0x01, home[l->base[k]], H_RCX);
	else if (l->folded[k])
		op_gs(e, true, 0x03, H_RCX, gpr_off(l->base[k]));
	store_gs(e, H_RCX, HOT(loop) + 8u * w->slot);
	put_moves(e, l->stride[k], (unsigned)(w->high - w->low), &fail[1]);
}

/* From `warm` to the end of `set`; execution falls through into the loop. */
static void put_set(struct tr *t)
{
	struct loop *l = &t->loop;
	struct emit *e = &t->e;
	u8 *fail[2 * LOOP_SLOTS + 2], *round, *set;
	unsigned fails = 0, counter = home[l->counter];
	enum flag_state flags;

	op_gs(e, false, 0x8b, H_RCX, HOT(loop_warm));
	op_rm(e, false, 0x8d, H_RCX, H_RCX, -1);
	op_gs(e, false, 0x89, H_RCX, HOT(loop_warm));
	align_link(t, 4);
	put_bytes(e, (const u8[]){ 0x67, 0xe3, 5 }, 3); /* jecxz over the jump */
	round = e->p;
	emit_exit(t, t->b->lin);
	flags_clobber(t);
	flags = t->flags;
	set = e->p;
	op_gs(e, false, 0x8b, H_RCX, (u32)offsetof(struct vcpu, go));
	op_rr(e, false, 0x85, H_RCX, H_RCX);
	fail[fails++] = put_jcc(e, 4);
	mov_gs_imm32(e, HOT(loop_left), LEFT_MAX);
	for (unsigned k = 0; k < l->windows.n; k++)
		if (l->windows.window[k].slot != WINDOW_NONE) {
			put_slot(t, k, &fail[fails]);
			fails += 2;
		}
	op_gs(e, false, 0x8b, H_RCX, HOT(loop_left));
	put_bytes(e, (const u8[]){ 0x83, 0xf9, WORTHWHILE - 1 }, 3); /* cmp ecx */
	fail[fails++] = put_jcc(e, 2);
	put_bytes(e, (const u8[]){ 0x4c, 0x69, 0xf1 }, 3); /* imul r14, rcx, imm32 */
	put32(e, (u32)l->step);
	op_rmx(e, true, 0x8d, H_R14, H_R14, counter, 0, l->step);
	store_gs(e, H_R14, HOT(loop_limit));
	put(e, 0xeb); /* over the failure */
	put(e, 0);
	l->head = e->p;
	for (unsigned k = 0; k < fails; k++)
		land_at(e, fail[k], e->p);
	mov_gs_imm32(e, HOT(loop_warm), WARM);
	flags_to_host(t);
	put(e, 0xe9);
	put32(e, (u32)(round - (e->p + 4)));
	if (!e->overflow)
		l->head[-1] = (u8)(e->p - l->head);
	l->head = e->p;
	t->flags = flags;
	op_gs(e, true, 0x3b, counter, HOT(loop_limit));
	put(e, 0x0f); /* je */
	put(e, 0x84);
	put32(e, (u32)(set - (e->p + 4)));
}

bool emit_loop_window(struct tr *t, enum window_use use, unsigned *lin, s32 *disp)
{
	const struct windows *all = &t->loop.windows;
	const struct window_ref *r = &all->ref[t->insn - t->loop.first][use];
	struct note *note = note_of(t);

	if (r->window == WINDOW_NONE || all->window[r->window].slot == WINDOW_NONE)
		return false;
	*disp = r->disp;
	if (t->loop.folded[r->window]) {
		*lin = home[r->index];
	} else if (r->indexed) {
		emit_window_address(t, r, 0);
		*lin = H_R14;
		*disp = 0;
	} else {
		*lin = read_reg(t, r->base, H_R14);
	}
	load_gs(&t->e, H_RCX, HOT(loop) + 8u * all->window[r->window].slot);
	if (note->accesses < ARRAY_SIZE(note->access))
		note->access[note->accesses++] = (u8)(r->size | (r->write ? NOTE_WRITE : 0));
	note->shares = true;
	if (r->write)
		insn_of(t, t->insn)->stores = r->size;
	return true;
}

/* The flags are in the host; at the head they are where flags_clobber() put them. */
void emit_loop_branch(struct tr *t)
{
	const struct loop *l = &t->loop;
	struct emit *e = &t->e;
	unsigned cc = t->d->opcode & 15;

	if (t->recipe.kind != l->recipe.kind) {
		t->failed = true; /* cannot be: the same code made both */
	} else if (t->recipe.kind != RECIPE_NONE) {
		put(e, 0x0f);
		put(e, 0x80 | cc);
		put32(e, (u32)(l->head - (e->p + 4)));
	} else {
		u8 *out = put_jcc(e, cc ^ 1);

		emit_save_flags(t);
		put(e, 0xe9);
		put32(e, (u32)(l->head - (e->p + 4)));
		land_at(e, out, e->p);
	}
	mov_gs_imm32(e, HOT(loop_warm), 1); /* the next time it will run as long */
	put(e, 0xe9);
	put32(e, (u32)(l->after - (e->p + 4)));
	islands(t, 0, false);
}

/* Is there room, and was each instruction of the first copy translated? */
static bool can_repeat(const struct tr *t)
{
	const struct loop *l = &t->loop;

	for (unsigned k = 0; k < l->n; k++)
		if (t->note[k].how == HOW_STEP)
			return false;
	return t->insn + l->n <= t->insn_end && t->stubs_n + 8 * l->n + 8 < STUBS_MAX &&
	       t->e.end - t->e.p > HOST_BYTES_MAX / 2;
}

unsigned emit_second_copy(struct tr *t)
{
	struct loop *l = &t->loop;
	bool ends, cut = true;
	unsigned n;

	if (!l->usable || !l->branch || t->failed)
		return 0;
	land_at(&t->e, l->branch, t->e.p);
	t->flags = FLAGS_HOST;
	t->recipe = l->recipe;
	t->recipe_at = l->recipe_at;
	if (!can_repeat(t)) {
		emit_exit(t, t->b->lin);
		return 0;
	}
	l->first = t->insn;
	t->next_here = false;
	put_set(t);
	if (t->x->counted)
		flags_to_host(t);
	l->fast = true;
	for (n = 0; n < l->n && !t->failed; n++) {
		t->g = &t->ginsn[n];
		t->d = &t->g->d;
		t->lin = t->b->lin + t->ginsn_at[n];
		islands(t, 110, true);
		new_insn(t, t->d->len);
		insn_of(t, t->insn)->kind = KIND_LOOP;
		if (cut)
			begin_segment(t);
		emit_insn(t, &ends, &cut);
		t->insn++;
		if (cut)
			t->segment = t->insn;
	}
	l->fast = false;
	return n;
}
