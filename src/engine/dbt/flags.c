/*
 * Where the guest's status flags are.
 *
 * Memory accesses are checked with TEST and Jcc, which clobber the host's
 * flags. An exception must find the guest's exact flags all the same, dead or
 * not. So the translator knows at each instruction where they are:
 *
 *   FLAGS_HOST   in the host's flags
 *   FLAGS_SAVED  in hot->flags
 *   FLAGS_LOST   nowhere, but the registers of the instruction that set them
 *                still hold what it takes to set them again (struct recipe)
 *
 * Before a check flags in the host are given up if there is a recipe, else
 * saved. Recipes cost nothing as long as nobody asks; saving is LAHF, SETO and
 * a store, about a third of a cycle. What reads flags, or writes only some of
 * them, has them put back first, and checks its own access by other means.
 */
#include "engine/dbt/translate.h"

#include "cpu/cpu.h"

static void save(struct tr *t)
{
	struct emit *e = &t->e;

	put_chunk(e, 0xc0900f9fc18948, 7); /* mov rcx, rax ; lahf ; seto al */
	put_chunk(e, 0x896665, 3);
	put_gs_operand(e, H_RAX, HOT(flags));
	mov_rr(e, H_RAX, H_RCX);
}

void emit_save_flags(struct tr *t)
{
	save(t);
}

void emit_restore_flags(struct tr *t)
{
	struct emit *e = &t->e;

	mov_rr(e, H_RCX, H_RAX);
	put_bytes(e, (const u8[]){ 0x65, 0x0f, 0xb7 }, 3); /* movzx eax, word gs:[flags] */
	put_gs_operand(e, H_RAX, HOT(flags));
	put_bytes(e, (const u8[]){ 0x04, 0x7f, 0x9e }, 3); /* add al, 127 ; sahf */
	mov_rr(e, H_RAX, H_RCX);
}

/* `op` (ALU number) of ECX or RCX with what the recipe's source is. */
static void put_alu(struct emit *e, const struct recipe *r, unsigned op)
{
	bool w = r->size == 8;

	if (r->src != RECIPE_IMM) {
		op_rr(e, w, op << 3 | 1, home[r->src], H_RCX);
		return;
	}
	if (w)
		put(e, 0x48);
	put(e, 0x81);
	put(e, 0xc0 | op << 3 | H_RCX);
	put32(e, (u32)r->imm);
}

/* Set the host's flags again; clobbers RCX. */
static void regenerate(struct tr *t)
{
	const struct recipe *r = &t->recipe;
	struct emit *e = &t->e;
	bool w = r->size == 8;

	mov_rr(e, H_RCX, home[r->dst]);
	switch ((enum recipe_kind)r->kind) {
	case RECIPE_ADD:
		put_alu(e, r, 5);
		put_alu(e, r, 0);
		break;
	case RECIPE_SUB:
		put_alu(e, r, 0);
		put_alu(e, r, 5);
		break;
	case RECIPE_CMP:
		put_alu(e, r, 7);
		break;
	case RECIPE_TEST:
		put_alu(e, r, 4);
		break;
	default: /* RECIPE_LOGIC */
		op_rr(e, w, 0x85, H_RCX, H_RCX);
		break;
	}
}

void flags_to_host(struct tr *t)
{
	if (t->flags == FLAGS_SAVED)
		emit_restore_flags(t);
	else if (t->flags == FLAGS_LOST)
		regenerate(t);
	t->flags = FLAGS_HOST;
}

void flags_to_memory(struct tr *t)
{
	if (t->flags == FLAGS_SAVED)
		return;
	flags_to_host(t);
	save(t);
	t->flags = FLAGS_SAVED;
	t->recipe.kind = RECIPE_NONE;
}

void flags_clobber(struct tr *t)
{
	if (t->flags == FLAGS_HOST && t->recipe.kind != RECIPE_NONE) {
		t->flags = FLAGS_LOST;
	} else if (t->flags == FLAGS_HOST) {
		save(t);
		t->flags = FLAGS_SAVED;
	}
	note_flags(t);
}

/* What C finds at the present instruction. */
void note_flags(struct tr *t)
{
	struct dbt *x = t->x;
	struct tinsn *i = &x->insns[t->insn];

	if (t->flags != FLAGS_LOST) {
		i->flags = t->flags == FLAGS_SAVED ? TINSN_SAVED : TINSN_HOST;
		return;
	}
	if (t->recipe_at < 0) {
		if (x->recipes_n == x->recipes_max || x->recipes_n - t->b->recipes >= 250) {
			t->failed = true;
			return;
		}
		t->recipe_at = (s32)(x->recipes_n - t->b->recipes);
		x->recipes[x->recipes_n++] = t->recipe;
	}
	i->flags = (u8)(TINSN_RECIPE + t->recipe_at);
}

static u32 status(ZyanU32 flags)
{
	return flags & (u32)FL_STATUS;
}

/* Does the host set all status flags whatever they were before? */
static bool sets_all(unsigned mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
		return true;
	default:
		return false;
	}
}

static int full_gpr(const ZydisDecodedOperand *o)
{
	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return -1;
	switch (ZydisRegisterGetClass(o->reg.value)) {
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return ZydisRegisterGetId(o->reg.value);
	default:
		return -1;
	}
}

static bool writes_gpr(const struct ginsn *g, unsigned n)
{
	return g->writes >> n & 1;
}

bool flags_prepare(struct tr *t, bool aware)
{
	const struct ginsn *g = t->g;
	struct recipe *r = &t->recipe;
	bool all, needs;

	if (!aware) { /* as others expect it, even where nothing was decoded */
		flags_to_host(t);
		r->kind = RECIPE_NONE;
		note_flags(t);
		return false;
	}
	all = g->traits & TRAIT_SETS_ALL;
	needs = g->traits & TRAIT_FLAGS && !all;
	if (needs)
		flags_to_host(t);
	if (!all && r->kind != RECIPE_NONE &&
	    (writes_gpr(g, r->dst) || (r->src != RECIPE_IMM && writes_gpr(g, r->src)))) {
		flags_to_host(t);
		r->kind = RECIPE_NONE;
	}
	note_flags(t);
	return !needs;
}

static enum recipe_kind recipe_kind(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ADD:
		return RECIPE_ADD;
	case ZYDIS_MNEMONIC_SUB:
		return RECIPE_SUB;
	case ZYDIS_MNEMONIC_CMP:
		return RECIPE_CMP;
	case ZYDIS_MNEMONIC_TEST:
		return RECIPE_TEST;
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
		return RECIPE_LOGIC;
	default:
		return RECIPE_NONE;
	}
}

/* How the flags it sets can be set again, but for the immediate. */
static struct recipe recipe_of(const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	struct recipe none = { .kind = RECIPE_NONE };
	struct recipe r = { .kind = (u8)recipe_kind(z->mnemonic), .src = RECIPE_IMM };
	int dst, src;

	if (r.kind == RECIPE_NONE)
		return none;
	dst = full_gpr(&ops[0]);
	src = full_gpr(&ops[1]);
	if (dst < 0 || home[dst] == HOME_MEMORY)
		return none;
	r.dst = (u8)dst;
	r.size = (u8)(ops[0].size / 8);
	if (src >= 0) {
		r.src = (u8)src;
		if (home[src] == HOME_MEMORY || (src == dst && (r.kind == RECIPE_ADD || r.kind == RECIPE_SUB)))
			return none;
	} else if (ops[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		return none;
	}
	return r;
}

void find_flags_use(struct ginsn *g, const ZydisDecodedInstruction *z, const ZydisDecodedOperand *ops)
{
	const ZydisAccessedFlags *f = z->cpu_flags;

	if (sets_all(z->mnemonic))
		g->traits |= TRAIT_SETS_ALL;
	if (f && status(f->tested | f->modified | f->set_0 | f->set_1 | f->undefined))
		g->traits |= TRAIT_FLAGS;
	if (f && status(f->modified | f->set_0 | f->set_1 | f->undefined))
		g->traits |= TRAIT_MODIFIES;
	g->recipe = recipe_of(z, ops);
}

/* The instruction just emitted set the flags. */
static void make_recipe(struct tr *t)
{
	struct recipe *r = &t->recipe;

	*r = t->g->recipe;
	t->recipe_at = -1;
	if (r->kind == RECIPE_NONE)
		return;
	if (r->src == RECIPE_IMM) {
		if (!fits32((s64)t->d->imm) && r->size == 8)
			r->kind = RECIPE_NONE;
		r->imm = (s32)t->d->imm;
	}
	if (r->kind == RECIPE_LOGIC)
		r->src = RECIPE_IMM;
}

void flags_done(struct tr *t)
{
	if (!(t->g->traits & TRAIT_MODIFIES))
		return;
	t->flags = FLAGS_HOST;
	make_recipe(t);
}
