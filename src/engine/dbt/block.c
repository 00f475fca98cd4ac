/*
 * Blocks: where their code and records are put, and what becomes of those that
 * do not fit.
 *
 * A block is translated in its place, or, where processors run at once, without
 * the lock as a draft: as if it lay at the beginning of an empty cache, in memory
 * of the processor's own. What depends on where it is is noted as for clones, so
 * dbt_publish() has only to copy it.
 */
#include "engine/dbt/translate.h"

#include <string.h>

#define DRAFT_FIXES 8192 /* bytes; a block has some hundred */

struct dbt_draft {
	struct tblock b;
	unsigned fixes_n;
	u8 guest[BLOCK_INSNS * 15]; /* what was translated */
	struct tinsn insns[BLOCK_RECORDS];
	struct texit exits[BLOCK_EXITS_MAX];
	struct recipe recipes[BLOCK_RECIPES_MAX];
	struct tsys sys[BLOCK_INSNS];
	u8 fixes[DRAFT_FIXES];
	/* Trampolines are told by their address: the first bytes stand for them and are not touched. */
	_Alignas(64) u8 code[TRAMPOLINES_SIZE + HOST_BYTES_MAX];
};
const size_t dbt_draft_size = sizeof(struct dbt_draft);

enum manner {
	WITH_ENTRIES = 1 << 0,
	STEPS_ONLY = 1 << 1, /* each instruction is left to the reference engine */
	DRAFT = 1 << 2,
};

const size_t dbt_tr_size = sizeof(struct tr);

static struct placement place_in_cache(struct dbt_shared *sh, const struct tblock *b)
{
	return (struct placement){ .rw = sh->rw,
				   .insns = &sh->insns[b->first],
				   .exits = &sh->exits[b->exits],
				   .sys = &sh->sys[b->sys],
				   .recipes = &sh->recipes[b->recipes],
				   .fixes = sh->fixes + sh->fixes_n,
				   .fixes_end = sh->fixes + sh->fixes_max };
}

static struct placement place_of_draft(struct dbt_draft *d)
{
	return (struct placement){ .rw = d->code,
				   .insns = d->insns,
				   .exits = d->exits,
				   .sys = d->sys,
				   .recipes = d->recipes,
				   .fixes = d->fixes,
				   .fixes_end = d->fixes + sizeof(d->fixes) };
}

static bool watched(const struct dbt *x)
{
	return unlikely(x->trace & TRACE_BLOCKS) || unlikely(x->sh->perf != NULL);
}

static void begin(struct tr *t, struct vcpu *v, struct tblock *b, const struct placement *at, enum manner how)
{
	struct dbt *x = dbt_of(v);
	unsigned off = b->lin & ~PAGE_MASK;

	memset(t, 0, offsetof(struct tr, stub));
	t->steps_only = how & STEPS_ONLY;
	t->draft = how & DRAFT;
	t->v = v;
	t->x = x;
	t->b = b;
	t->at = *at;
	t->narrow = x->key & KEY_32;
	t->word = t->narrow ? 4 : 8;
	t->insn = b->first;
	t->insn_end = b->first + b->insns_max;
	t->start = at->rw + b->host;
	t->e = (struct emit){ .p = at->rw + b->body, .end = at->rw + b->host_max, .to_rx = x->sh->rx - at->rw };
	t->recipe_at = -1;
	t->code = b->page->host + off;
	t->avail = (unsigned)PAGE_SIZE - off;
	t->cuts = x->sh->cut;
	if (x->sh->parallel) {
		t->avail = MIN(t->avail, (unsigned)sizeof(t->copy));
		t->code = memcpy(t->copy, t->code, t->avail);
		for (unsigned k = 0; k < CUTS; k++)
			t->cuts_copy[k] = __atomic_load_n(&x->sh->cut[k], __ATOMIC_RELAXED);
		t->cuts = t->cuts_copy;
	}
	/* what watches translations is to see each; the code at the entries is not translated again */
	if (t->draft || ((how & WITH_ENTRIES) && !t->narrow && !watched(x)))
		t->e.fixes = &t->fixes;
	fixes_begin(&t->fixes, at->fixes, at->fixes_end, t->start, x->sh->rx);
	b->fixes_n = 0;
	b->fpu = b->calls = b->crosses = false;
	b->tail_len = 0;
	b->page2 = NULL;
}

/* From b->body on; `b` says what it may fill. */
static bool translate(struct tr *t, struct vcpu *v, struct tblock *b, const struct placement *at, u32 id,
		      enum manner how)
{
	struct dbt *x = dbt_of(v);

	begin(t, v, b, at, how);
	t->id = id;
	if (how & WITH_ENTRIES) {
		b->saved = !t->steps_only && begins_with_access(t);
		emit_entries(t);
	} else {
		t->flags = b->saved ? FLAGS_SAVED : FLAGS_HOST;
		if (b->saved && t->steps_only)
			flags_to_host(t);
	}
	t->opening = !b->saved && !x->counted && !t->steps_only;
	b->n = (u16)emit_block(t);
	b->n += (u16)emit_second_copy(t);
	while (t->e.p - (at->rw + b->body) < 10 && !t->e.overflow)
		put(&t->e, 0x90); /* room for what dead blocks become */
	b->stubs = (u16)(t->e.p - t->start);
	if (t->failed) /* a stub may name a record that there was no room for */
		return false;
	emit_stubs(t);
	if (t->failed || t->e.overflow)
		return false;
	b->host_end = code_offset(t, t->e.p);
	dbt_entry_saved(at->rw, b, t->unseen);
	if (t->e.fixes && !t->fixes.none && !t->narrow && !b->crosses)
		b->fixes_n = (u16)(t->fixes.at - t->fixes.first);
	x->stats.translations++;
	x->stats.insns += b->n;
	x->stats.guest_bytes += b->bytes;
	x->stats.host_bytes += b->host_end - b->host;
	if (watched(x))
		dbt_trace_block(t);
	return true;
}

/* In the place of its former code; false: it does not fit. */
static bool translate_again(struct vcpu *v, struct tblock *b)
{
	struct dbt_shared *sh = dbt_of(v)->sh;
	struct placement at = place_in_cache(sh, b);

	b->fixes = sh->fixes_n;
	if (translate(dbt_of(v)->tr, v, b, &at, (u32)(b - sh->blocks), 0))
		return true;
	dbt_forget_exits(sh, b);
	return false;
}

/* What it fills is its own. Code that changed once will change again: room to grow. */
static void set_apart(const struct tr *t, struct tblock *b, bool grows)
{
	u32 size = b->host_end - b->host;

	b->host_max = (b->host_end + (grows ? size / 4 : 0) + 15) & ~15u;
	b->insns_max = (u16)(b->n + (grows ? b->n / 4u + 1 : 0));
	b->exits_max = (u16)(t->exits_n + (grows ? 2 : 0));
	b->sys_max = (u16)t->sys_n;
	b->recipes_max = (u16)(t->recipes_n + (grows ? 2 : 0));
}

static void take(struct dbt_shared *sh, const struct tr *t, const struct tblock *b)
{
	for (u32 k = t->exits_n; k < b->exits_max; k++)
		sh->exits[b->exits + k].patch = 0;
	sh->exits_n = b->exits + b->exits_max;
	sh->sys_n = b->sys + b->sys_max;
	sh->recipes_n = b->recipes + b->recipes_max;
	sh->fixes_n = b->fixes + b->fixes_n;
	dbt_take_records(sh, b);
}

/* With its entries, or (`how` says so) those it has been given. */
static bool translate_whole(struct tr *t, struct vcpu *v, struct tblock *b, const struct placement *at, u32 id,
			    enum manner how)
{
	const struct tblock begin = *b;

	if (translate(t, v, b, at, id, how))
		return true;
	if (t->draft && t->crosses)
		return false;
	*b = begin;
	return translate(t, v, b, at, id, how | STEPS_ONLY); /* short branches can get out of reach in odd code */
}

/* A new one, which takes over the entries of `old`. */
static struct tblock *translate_new(struct vcpu *v, struct tpage *p, gva_t lin, const struct tblock *old)
{
	struct dbt_shared *sh = dbt_of(v)->sh;
	struct tblock *b = &sh->blocks[sh->blocks_n];
	struct tr *t = dbt_of(v)->tr;
	struct placement at;

	*b = (struct tblock){ .lin = lin,
			      .page = p,
			      .first = sh->insns_n,
			      .exits = sh->exits_n,
			      .sys = sh->sys_n,
			      .recipes = sh->recipes_n,
			      .fixes = sh->fixes_n,
			      .host = sh->used,
			      .body = sh->used,
			      .host_max = sh->used + HOST_BYTES_MAX,
			      .insns_max = BLOCK_RECORDS,
			      .exits_max = BLOCK_EXITS_MAX,
			      .sys_max = BLOCK_INSNS,
			      .recipes_max = BLOCK_RECIPES_MAX };
	if (old) {
		b->saved = old->saved;
		b->door = old->door;
		b->entry = old->entry;
		b->entry_saved = old->entry_saved;
		b->entry_page = old->entry_page;
		b->entry_indirect = old->entry_indirect;
	}
	at = place_in_cache(sh, b);
	if (!translate_whole(t, v, b, &at, sh->blocks_n, old ? 0 : WITH_ENTRIES))
		return NULL;
	set_apart(t, b, old);
	take(sh, t, b);
	return b;
}

struct tblock *dbt_translate(struct vcpu *v, struct tpage *p, gva_t lin, struct tblock *old)
{
	struct dbt *x = dbt_of(v);
	u64 began = __builtin_ia32_rdtsc();
	struct tblock *b = old && translate_again(v, old) ? old : translate_new(v, p, lin, old);

	x->stats.translate_cycles += __builtin_ia32_rdtsc() - began;
	return b;
}

/* ---- drafts ---- */

static bool draft(struct vcpu *v, struct dbt_draft *d)
{
	struct placement at = place_of_draft(d);
	struct tr *t = dbt_of(v)->tr;

	if (!translate_whole(t, v, &d->b, &at, 0, WITH_ENTRIES | DRAFT) || t->fixes.full)
		return false;
	d->fixes_n = (unsigned)(t->fixes.at - t->fixes.first);
	memcpy(d->guest, t->copy, d->b.bytes);
	set_apart(t, &d->b, false);
	return true;
}

bool dbt_draft(struct vcpu *v, struct tpage *p, gva_t lin)
{
	struct dbt *x = dbt_of(v);
	u64 began = __builtin_ia32_rdtsc();
	bool done;

	if (watched(x))
		return false;
	x->draft->b = (struct tblock){ .lin = lin,
				       .page = p,
				       .host = TRAMPOLINES_SIZE,
				       .body = TRAMPOLINES_SIZE,
				       .host_max = sizeof(x->draft->code),
				       .insns_max = BLOCK_RECORDS,
				       .exits_max = BLOCK_EXITS_MAX,
				       .sys_max = BLOCK_INSNS,
				       .recipes_max = BLOCK_RECIPES_MAX };
	done = draft(v, x->draft);
	x->stats.translate_cycles += __builtin_ia32_rdtsc() - began;
	return done;
}

struct tblock *dbt_publish(struct dbt *x, struct tpage *p)
{
	struct dbt_draft *d = x->draft;
	struct placement at = place_of_draft(d);

	if (memcmp(d->guest, p->host + (d->b.lin & ~PAGE_MASK), d->b.bytes) != 0)
		return NULL;
	return dbt_copy_block(x, &d->b, &at, d->fixes_n, p, d->b.lin);
}
