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
	put_restore_flags(&t->e, HOT(flags));
}

/* `op` (ALU number) of ECX or RCX with what the recipe's source is. */
static void put_alu(struct emit *e, const struct recipe *r, unsigned op)
{
	unsigned wide = r->size > 1;

	if (r->size == 2)
		put(e, 0x66);
	if (r->src != RECIPE_IMM) {
		unsigned reg = home[r->src];

		put(e, 0x40 | (r->size == 8) << 3 | (reg >> 3) << 2); /* SIL and the like want REX */
		put(e, op << 3 | wide);
		put(e, 0xc0 | (reg & 7) << 3 | H_RCX);
		return;
	}
	if (r->size == 8)
		put(e, 0x48);
	put(e, 0x80 | wide);
	put(e, 0xc0 | op << 3 | H_RCX);
	for (unsigned k = 0; k < MIN(r->size, 4u); k++)
		put(e, ((u32)r->imm >> 8 * k) & 0xff);
}

/* Set the host's flags again; clobbers RCX. */
static void regenerate(struct tr *t)
{
	const struct recipe *r = &t->recipe;
	struct emit *e = &t->e;

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
		if (r->size == 2)
			put(e, 0x66);
		op_rr(e, r->size == 8, r->size > 1 ? 0x85 : 0x84, H_RCX, H_RCX);
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
	struct tinsn *i = insn_of(t, t->insn);

	if (t->flags != FLAGS_LOST) {
		i->flags = t->flags == FLAGS_SAVED ? TINSN_SAVED : TINSN_HOST;
		return;
	}
	if (t->recipe_at < 0) {
		if (t->recipes_n == MIN(t->b->recipes_max, BLOCK_RECIPES_MAX)) {
			t->failed = true;
			return;
		}
		t->recipe_at = (s32)t->recipes_n;
		t->at.recipes[t->recipes_n++] = t->recipe;
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

/* The number of a general register, but for AH, CH, DH, BH. */
static int low_gpr(const ZydisDecodedOperand *o)
{
	int id;

	if (o->type != ZYDIS_OPERAND_TYPE_REGISTER)
		return -1;
	switch (ZydisRegisterGetClass(o->reg.value)) {
	case ZYDIS_REGCLASS_GPR8:
		id = ZydisRegisterGetId(o->reg.value); /* AL CL DL BL AH CH DH BH SPL .. in Zydis' order */
		return id < 4 ? id : id < 8 ? -1 : id - 4;
	case ZYDIS_REGCLASS_GPR16:
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

/* Is `c` an instruction that sets all flags from registers and cannot leave? */
static bool only_sets_flags(const u8 *c)
{
	bool rex = (c[0] & 0xf0) == 0x40;
	unsigned op = c[rex], modrm = c[rex + 1u], sub = modrm >> 3 & 7;

	switch (op) {
	case 0x3c: /* of the accumulator with an immediate */
	case 0x3d:
	case 0xa8:
	case 0xa9:
		return true;
	case 0x84: /* neither AH nor what wants REX */
		return !rex && (modrm & 0xe4) == 0xc0;
	case 0x01:
	case 0x03:
	case 0x09:
	case 0x0b:
	case 0x21:
	case 0x23:
	case 0x29:
	case 0x2b:
	case 0x31:
	case 0x33:
	case 0x39:
	case 0x3b:
	case 0x85:
		return modrm >= 0xc0;
	case 0x81:
	case 0x83:
		return modrm >= 0xc0 && sub != 2 && sub != 3; /* ADC, SBB */
	default:
		return false;
	}
}

/* Does nobody see the flags behind this instruction? */
static bool flags_die(const struct tr *t)
{
	u64 next = t->lin + t->d->len;

	return t->next_here && !t->narrow && !t->steps_only && !(t->g->traits & TRAIT_BRANCH) && !is_cut(t, next) &&
	       only_sets_flags(t->code + (next - t->b->lin));
}

bool flags_prepare(struct tr *t, bool aware)
{
	const struct ginsn *g = t->g;
	struct recipe *r = &t->recipe;
	bool all, needs;

	t->dying = false;
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
		t->dying = flags_die(t);
		if (!t->dying) {
			flags_to_host(t);
			r->kind = RECIPE_NONE;
		}
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
	dst = low_gpr(&ops[0]);
	src = low_gpr(&ops[1]);
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

void flags_opening(struct tr *t, unsigned stubs)
{
	unsigned how = note_of(t)->how;

	if (!t->aware || t->stubs_n != stubs || (how != HOW_HOST && how != HOW_NOP && how != HOW_LEA)) {
		t->opening = false;
	} else if (t->g->traits & TRAIT_FLAGS) {
		t->opening = false;
		t->unseen = t->g->traits & TRAIT_SETS_ALL;
	}
}

void flags_done(struct tr *t)
{
	if (t->dying) { /* the recipe's registers have changed */
		t->flags = FLAGS_HOST;
		t->recipe.kind = RECIPE_NONE;
	}
	if (!(t->g->traits & TRAIT_MODIFIES))
		return;
	t->flags = FLAGS_HOST;
	make_recipe(t);
}
