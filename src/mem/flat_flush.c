/*
 * Flat translation tables: what is dropped when (SDM vol. 3, 4.10.4).
 *
 * A user set belongs to one PCID and outlives the loads of CR3 that allow it.
 * The kernel's sets are not tagged: whatever is not global in them goes with
 * each load. The listener hears of changes to what may be executed: it keeps
 * its knowledge by set, the empty one included, which so counts as the kernel's.
 */
#include "mem/flat_priv.h"

static struct flat *flat_of(struct vcpu *v)
{
	return v->mmu->flat;
}

/* ---- reports ---- */

static void clear_bits(u64 *map, bool *any)
{
	if (!*any)
		return;
	for (unsigned i = 0; i < FLAT_GIBS / 64; i++)
		map[i] = 0;
	*any = false;
}

static void call_listener(struct flat *f, u8 *base, gva_t lin, bool all)
{
	if (f->listener.exec_changed)
		f->listener.exec_changed(f->listener.opaque, base, lin, all);
}

static void forget_executable(struct flat_set *s)
{
	s->exec_nonglobal = false;
	clear_bits(s->exec_large, &s->any_exec_large);
}

static void report_all(struct flat *f, struct flat_set *s)
{
	forget_executable(s);
	call_listener(f, s->base, 0, true);
}

/* The page's size is not known: near one that was large, everything. */
static void report_page(struct flat *f, struct flat_set *s, gva_t lin)
{
	if (s->any_exec_large && flat_bit(s->exec_large, lin))
		report_all(f, s);
	else
		call_listener(f, s->base, lin & PAGE_MASK, false);
}

/* ---- dropping entries ---- */

static void drop_page(struct flat *f, struct table_page *p)
{
	const u64 absent = flat_absent(f, p->set, p->number);

	for (unsigned i = p->first; i < p->end; i++)
		p->slot[i] = absent;
	p->first = TABLE_ENTRIES;
	p->end = 0;
	p->marks = 0;
}

/* Every entry. The hints go stale, which note_write() and flat_protect() see. */
static void drop_set(struct flat *f, struct flat_set *s)
{
	while (s->list) {
		struct table_page *p = &f->page[s->list];

		drop_page(f, p);
		s->list = p->next;
		p->listed = p->listed_nonglobal = false;
	}
	s->list_nonglobal = 0;
	clear_bits(s->huge, &s->any_huge);
	f->stats.flushes++;
}

/* Pages of the table with an entry that is not global, and what else they hold. */
static void drop_nonglobal(struct flat *f, struct flat_set *s)
{
	while (s->list_nonglobal) {
		struct table_page *p = &f->page[s->list_nonglobal];

		drop_page(f, p);
		s->list_nonglobal = p->next_nonglobal;
		p->listed_nonglobal = false;
	}
}

static void drop_user_pages(struct flat *f, struct flat_set *s)
{
	for (unsigned i = s->list; i; i = f->page[i].next)
		if (f->page[i].marks & MARK_USER)
			drop_page(f, &f->page[i]);
}

static void drop_large(struct flat *f, unsigned set, u32 number, u32 count)
{
	for (unsigned kind = 0; kind < TABLE_KINDS; kind++) {
		for (u32 i = 0; i < count; i++) {
			struct table_page *p = flat_page(f, set, kind, number + i);

			if (p && (p->marks & MARK_LARGE))
				drop_page(f, p);
		}
	}
}

/* The page that holds `lin`, whatever its size: one entry; a table page for 2 MiB, two for 4 MiB; a GiB. */
static void drop_lin(struct flat *f, unsigned set, gva_t lin)
{
	struct flat_set *s = &f->set[set];
	const u32 index = flat_index(lin), number = index / TABLE_ENTRIES;

	for (unsigned kind = 0; kind < TABLE_KINDS; kind++) {
		struct table_page *p = flat_page(f, set, kind, number);

		if (p)
			p->slot[flat_slot(kind, index)] = flat_absent(f, set, number);
	}
	drop_large(f, set, number & ~1u, 2);
	if (s->any_huge && flat_bit(s->huge, lin))
		drop_large(f, set, number & ~511u, 512);
}

/* ---- address spaces ---- */

static unsigned present_pcid(const struct cpu *c)
{
	return c->cr4 & CR4_PCIDE ? c->cr3 & 0xfff : 0;
}

/* Number of the PCID's set, or FLAT_USERS. */
static unsigned find_pcid(const struct flat *f, unsigned pcid)
{
	unsigned n = 0;

	while (n < FLAT_USERS && (!f->set[n].used || f->set[n].pcid != pcid))
		n++;
	return n;
}

/* The set of the present PCID, if need be that of the one not used for longest. */
static void choose_user(struct vcpu *v)
{
	struct flat *f = flat_of(v);
	const unsigned pcid = present_pcid(&v->cpu);
	unsigned n = find_pcid(f, pcid);

	if (n == FLAT_USERS) {
		n = 0;
		for (unsigned i = 1; i < f->users; i++)
			if (f->set[i].stamp < f->set[n].stamp)
				n = i;
		if (f->set[n].used) {
			drop_set(f, &f->set[n]);
			f->set[n].has_global = false;
		}
		f->set[n].used = true;
		report_all(f, &f->set[n]);
		f->set[n].pcid = (u16)pcid;
	}
	f->set[n].stamp = ++f->clock;
	f->user = n;
}

void flat_choose_sets(struct vcpu *v)
{
	struct mmu_impl *m = mmu_impl(v);
	struct flat *f = m->mmu.flat;

	choose_user(v);
	m->flat_base_of[MMU_USER] = f->set[f->user].base;
	m->flat_base_of[MMU_KERNEL] = f->set[v->cpu.cr4 & CR4_SMAP ? SET_KERNEL : SET_KERNEL_AC].base;
	m->flat_base_of[MMU_KERNEL_AC] = f->set[SET_KERNEL_AC].base;
	m->flat_base_of[MMU_USER_ALIGN] = f->set[SET_EMPTY].base;
	m->mmu.flat_base = m->flat_base_of[m->mmu.index];
}

/* ---- flushes ---- */

void flat_flush_all(struct vcpu *v)
{
	struct flat *f = flat_of(v);

	for (unsigned n = 0; n < FLAT_SETS; n++) {
		drop_set(f, &f->set[n]);
		f->set[n].has_global = false;
		forget_executable(&f->set[n]);
	}
	call_listener(f, NULL, 0, true);
	flat_choose_sets(v);
}

void flat_flush_user(struct flat *f)
{
	for (unsigned n = 0; n < FLAT_USERS; n++)
		drop_set(f, &f->set[n]);
	drop_user_pages(f, &f->set[SET_KERNEL]);
	drop_user_pages(f, &f->set[SET_KERNEL_AC]);
}

/* What is not global in the sets without a tag. */
static void flush_untagged(struct flat *f)
{
	for (unsigned n = FLAT_USERS; n < FLAT_SETS; n++) {
		struct flat_set *s = &f->set[n];

		drop_nonglobal(f, s);
		if (s->exec_nonglobal)
			report_all(f, s);
	}
}

/* A PCID's global entries go as well, which is allowed. */
static void flush_user_set(struct flat *f, unsigned n)
{
	drop_set(f, &f->set[n]);
	report_all(f, &f->set[n]);
}

void flat_cr3_loaded(struct vcpu *v, bool keep)
{
	struct flat *f = flat_of(v);
	const unsigned old = find_pcid(f, present_pcid(&v->cpu));

	flat_choose_sets(v);
	if (old != FLAT_USERS && !keep)
		flush_user_set(f, old);
	flush_untagged(f);
}

void flat_flush_pcid(struct vcpu *v, unsigned pcid)
{
	struct flat *f = flat_of(v);
	const unsigned n = find_pcid(f, pcid);

	if (n != FLAT_USERS)
		flush_user_set(f, n);
	if (pcid == present_pcid(&v->cpu))
		flush_untagged(f);
}

static void flush_lin(struct flat *f, unsigned n, gva_t lin)
{
	drop_lin(f, n, lin);
	report_page(f, &f->set[n], lin);
}

void flat_flush_pcid_page(struct vcpu *v, unsigned pcid, gva_t lin)
{
	struct flat *f = flat_of(v);
	const unsigned n = find_pcid(f, pcid);

	if (n != FLAT_USERS)
		flush_lin(f, n, lin);
	f->stats.page_flushes++;
}

void flat_flush_page(struct vcpu *v, gva_t lin)
{
	struct flat *f = flat_of(v);

	for (unsigned n = 0; n < FLAT_SETS; n++)
		if (n >= FLAT_USERS || n == f->user || f->set[n].has_global)
			flush_lin(f, n, lin);
	f->stats.page_flushes++;
}

/* ---- code pages and tracks ---- */

void flat_drop_writes(struct flat *f)
{
	for (u32 i = 1; i <= f->pages; i++)
		if (f->page[i].kind == TABLE_WRITE)
			drop_page(f, &f->page[i]);
}

static void drop_writes(struct flat *f, struct table_page *p, unsigned first, unsigned end, const u8 *host)
{
	for (unsigned i = first; i < end; i++)
		if (flat_maps(p, i, host))
			p->slot[i] = flat_absent(f, p->set, p->number);
}

void flat_protect(struct flat *f, const u8 *host)
{
	struct frame_hint *h;

	if (!flat_in_ram(f, host))
		return;
	h = &f->hint[(u64)(host - f->ram) >> PAGE_SHIFT];
	if (h->at[0] & (u32)HINT_MORE) {
		for (u32 i = 1; i <= f->pages; i++)
			if (f->page[i].kind == TABLE_WRITE)
				drop_writes(f, &f->page[i], f->page[i].first, f->page[i].end, host);
	} else {
		for (unsigned i = 0; i < ARRAY_SIZE(h->at); i++) {
			unsigned slot = h->at[i] % TABLE_ENTRIES;

			if (h->at[i])
				drop_writes(f, &f->page[h->at[i] >> 9], slot, slot + 1, host);
		}
	}
	h->at[0] = h->at[1] = 0;
}
