/*
 * Flat translation tables: their pages and entries, filling, misses.
 *
 * A table is reserved without access; a page of it gets memory, initialised to
 * absent entries, when it is first read (flat_table_fault) or filled. Pages
 * never go back one by one: at FLAT_PAGES_MAX all do.
 *
 * System calls are made in place, because the guest's vector state may be live
 * and because a signal handler comes here.
 */
#include "mem/flat.h"

#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/host_syscall.h"
#include "mem/flat_priv.h"
#include "mem/track_priv.h"

#define NEIGHBOURS 8 /* entries of a guest page table looked at on each side of a miss */

/* ---- table pages ---- */

static void fill_words(u64 *to, u64 n, u64 val)
{
	__asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(val) : "memory");
}

static void give_back(u8 *at)
{
	/* Neither can fail for lack of areas or memory: areas only merge. */
	host_syscall3(SYS_mprotect, at, FLAT_TABLE_SIZE, PROT_NONE);
	host_syscall3(SYS_madvise, at, FLAT_TABLE_SIZE, MADV_DONTNEED);
}

/* All tables as they were at first. Hints are by page, so they go too. */
static void reset(struct flat *f)
{
	bool touched[FLAT_SETS][TABLE_KINDS] = { { false } };

	for (u32 i = 1; i <= f->pages; i++) {
		const struct table_page *p = &f->page[i];

		f->set[p->set].map[p->kind][p->number] = 0;
		touched[p->set][p->kind] = true;
	}
	for (unsigned n = 0; n < FLAT_SETS; n++) {
		struct flat_set *s = &f->set[n];

		s->list = s->list_nonglobal = 0;
		if (touched[n][TABLE_READ])
			give_back(s->base + FLAT_R_DISP);
		if (touched[n][TABLE_WRITE])
			give_back(s->base + FLAT_W_DISP - FLAT_TABLE_SIZE);
	}
	host_syscall3(SYS_madvise, f->hint, f->hint_size, MADV_DONTNEED);
	f->pages = 0;
	f->stats.table_pages = 0;
	f->stats.resets++;
}

/* Memory for a table page that has none. NULL if the host has none to give. */
static struct table_page *touch(struct flat *f, unsigned set, enum table_kind kind, u32 number)
{
	struct flat_set *s = &f->set[set];
	u64 *slot = flat_page_address(s, kind, number);
	struct table_page *p;

	if (f->pages == f->pages_max)
		reset(f);
	if (host_syscall3(SYS_mprotect, slot, PAGE_SIZE, PROT_READ | PROT_WRITE)) {
		reset(f);
		if (host_syscall3(SYS_mprotect, slot, PAGE_SIZE, PROT_READ | PROT_WRITE))
			return NULL;
	}
	fill_words(slot, TABLE_ENTRIES, flat_absent(f, set, number));
	p = &f->page[++f->pages];
	p->slot = slot;
	p->number = number;
	p->set = (u8)set;
	p->kind = kind;
	p->marks = 0;
	p->listed = p->listed_nonglobal = false;
	p->first = TABLE_ENTRIES;
	p->end = 0;
	s->map[kind][number] = (u16)f->pages;
	f->stats.table_pages++;
	return p;
}

bool flat_table_fault(struct flat *f, const void *addr)
{
	const u64 off = (u64)((const u8 *)addr - f->tables);
	const unsigned set = off / FLAT_SPAN < FLAT_SETS ? flat_set_number(f, (unsigned)(off / FLAT_SPAN)) : FLAT_SETS;
	const u64 in = off % FLAT_SPAN;
	enum table_kind kind;
	u32 number;

	if (set >= FLAT_SETS)
		return false;
	if (in < FLAT_TABLE_SIZE) {
		kind = TABLE_WRITE;
		number = (u32)((FLAT_TABLE_SIZE - 1 - in) >> PAGE_SHIFT);
	} else if (in >= FLAT_SPAN - FLAT_TABLE_SIZE) {
		kind = TABLE_READ;
		number = (u32)((in - (FLAT_SPAN - FLAT_TABLE_SIZE)) >> PAGE_SHIFT);
	} else {
		return false;
	}
	return !flat_page(f, set, kind, number) && touch(f, set, kind, number);
}

/* ---- entries ---- */

/* The table page for new entries with `marks`, put on the lists of its set. */
static struct table_page *page_to_fill(struct flat *f, unsigned set, enum table_kind kind, u32 number, unsigned marks)
{
	struct flat_set *s = &f->set[set];
	struct table_page *p = flat_page(f, set, kind, number);

	if (unlikely(!p)) {
		p = touch(f, set, kind, number);
		if (!p)
			return NULL;
	}
	if (!p->listed) {
		p->listed = true;
		p->next = s->list;
		s->list = (u16)(p - f->page);
	}
	if ((marks & MARK_NONGLOBAL) && !p->listed_nonglobal) {
		p->listed_nonglobal = true;
		p->next_nonglobal = s->list_nonglobal;
		s->list_nonglobal = (u16)(p - f->page);
	}
	p->marks |= (u8)marks;
	return p;
}

static void note_write(struct flat *f, const struct table_page *p, unsigned slot, const u8 *host)
{
	struct frame_hint *h = &f->hint[(u64)(host - f->ram) >> PAGE_SHIFT];
	const u32 here = (u32)(p - f->page) << 9 | slot;

	for (unsigned i = 0; i < ARRAY_SIZE(h->at); i++) {
		u32 at = h->at[i] & ~(u32)HINT_MORE;

		if (at == here)
			return;
		if (!at || !flat_maps(&f->page[at >> 9], at % TABLE_ENTRIES, host)) {
			h->at[i] = (h->at[i] & (u32)HINT_MORE) | here;
			return;
		}
	}
	h->at[0] |= (u32)HINT_MORE;
}

static void put(struct flat *f, struct table_page *p, u32 index, gva_t page, u8 *host)
{
	const unsigned slot = flat_slot(p->kind, index);

	p->slot[slot] = (uintptr_t)host - page - 1;
	p->first = (u16)MIN(p->first, slot);
	p->end = (u16)MAX(p->end, slot + 1);
	if (p->kind == TABLE_WRITE)
		note_write(f, p, slot, host);
	f->stats.fills++;
}

/* The entry of one page: host page `host`, or absent if NULL. */
static void set_entry(struct flat *f, unsigned set, enum table_kind kind, gva_t page, u8 *host, unsigned marks)
{
	const u32 index = flat_index(page), number = index / TABLE_ENTRIES;
	struct table_page *p;

	if (host) {
		p = page_to_fill(f, set, kind, number, marks);
		if (p)
			put(f, p, index, page, host);
		return;
	}
	p = flat_page(f, set, kind, number);
	if (p)
		p->slot[flat_slot(kind, index)] = flat_absent(f, set, number);
}

/* Where data accesses with the rights of `index` look. */
static unsigned data_set(const struct flat *f, const struct mmu_impl *m, enum mmu_index index)
{
	if (index == MMU_USER)
		return f->user;
	/* Without SMAP the kernel's mode is that of EFLAGS.AC set. */
	return index == MMU_KERNEL && m->flat_base_of[MMU_KERNEL] == f->set[SET_KERNEL].base ? SET_KERNEL
											     : SET_KERNEL_AC;
}

static unsigned walk_marks(const struct walk *w)
{
	return (w->shift > PAGE_SHIFT ? MARK_LARGE : 0) | (w->global ? 0 : MARK_NONGLOBAL) | (w->user ? MARK_USER : 0);
}

static void note_executable(struct flat_set *s, gva_t page, const struct walk *w)
{
	if (w->global)
		s->has_global = true;
	else
		s->exec_nonglobal = true;
	if (w->shift > PAGE_SHIFT) {
		flat_set_bit(s->exec_large, page);
		s->any_exec_large = true;
	}
}

static void fill_page(struct flat *f, unsigned set, gva_t page, u8 *host, const struct walk *w, unsigned allowed)
{
	struct flat_set *s = &f->set[set];
	const unsigned marks = walk_marks(w);

	if (!flat_in_ram(f, host))
		allowed = 0;
	if (w->global)
		s->has_global = true;
	if (w->shift > 22) {
		flat_set_bit(s->huge, page);
		s->any_huge = true;
	}
	set_entry(f, set, TABLE_READ, page, allowed & FLAT_READ ? host : NULL, marks);
	set_entry(f, set, TABLE_WRITE, page, allowed & FLAT_WRITE ? host : NULL, marks);
}

void flat_fill(struct vcpu *v, enum mmu_index index, gva_t page, u8 *host, const struct walk *w, unsigned allowed)
{
	struct flat *f = v->mmu->flat;
	const unsigned set = index == MMU_USER_ALIGN ? SET_EMPTY : data_set(f, mmu_impl(v), index);

	if (allowed & FLAT_EXEC)
		note_executable(&f->set[set], page, w);
	if (set != SET_EMPTY)
		fill_page(f, set, page, host, w, allowed);
}

/* ---- misses ---- */

static bool write_allowed(const struct cpu *c, const struct walk *w, enum mmu_index index)
{
	return w->dirty && !mmu_denied(c, w, MMU_WRITE, index);
}

/* The present entries around the one that `w` ended in. */
static void fill_neighbours(struct vcpu *v, unsigned set, enum mmu_index index, gva_t page, const struct walk *w)
{
	struct mmu_impl *m = mmu_impl(v);
	struct flat *f = m->mmu.flat;
	const struct walk_step *leaf = &w->step[w->steps - 1];
	const unsigned size = w->wide ? 8 : 4, count = (unsigned)PAGE_SIZE / size;
	const unsigned at = flat_index(page) % count;
	const unsigned first = at > NEIGHBOURS ? at - NEIGHBOURS : 0, last = MIN(at + NEIGHBOURS, count - 1);
	struct page_target table, t;

	if (!memory_page(v->mem, leaf->gpa & PAGE_MASK, &table) || !table.host)
		return;
	for (unsigned i = first; i <= last; i++) {
		const void *e = table.host + i * size;
		const gva_t near = page + ((gva_t)i - at) * PAGE_SIZE;
		unsigned allowed = 0;
		struct walk n;

		if (i == at)
			continue;
		if (!mmu_walk_neighbour(v, w,
					w->wide ? __atomic_load_n((const u64 *)e, __ATOMIC_RELAXED)
						: __atomic_load_n((const u32 *)e, __ATOMIC_RELAXED),
					&n))
			continue;
		if (!memory_page(v->mem, n.frame, &t) || !t.host || !t.writable)
			continue;
		if (!mmu_denied(&v->cpu, &n, MMU_READ, index))
			allowed |= FLAT_READ;
		if (!(*t.flags & PAGE_CODE) && !track_pending(v->mem, t.host) && write_allowed(&v->cpu, &n, index))
			allowed |= FLAT_WRITE;
		if (!allowed)
			continue;
		if (n.user)
			m->keys |= (u16)BIT(n.key);
		fill_page(f, set, near, t.host, &n, allowed);
		f->stats.neighbours++;
	}
}

/* The rest of the 2 MiB around `page` of a large page, as far as it lies in the same piece of RAM. */
static void fill_large(struct vcpu *v, unsigned set, enum mmu_index index, gva_t page, const struct walk *w)
{
	struct flat *f = v->mmu->flat;
	const struct flat_range *r = flat_find(v->mem, w->frame);
	const u32 index0 = flat_index(page) & ~(TABLE_ENTRIES - 1), number = index0 / TABLE_ENTRIES;
	const gva_t lin0 = page & ~(2 * MiB - 1);
	const gpa_t gpa0 = w->frame - (page - lin0);
	const unsigned marks = walk_marks(w);
	unsigned first, end;
	struct table_page *p;

	if (!r || r->kind != REGION_RAM || !flat_in_ram(f, flat_host(r, w->frame)))
		return;
	first = r->first > gpa0 ? (unsigned)((r->first - gpa0 + PAGE_SIZE - 1) >> PAGE_SHIFT) : 0;
	end = r->last - gpa0 < 2 * MiB ? (unsigned)((r->last + 1 - gpa0) >> PAGE_SHIFT) : TABLE_ENTRIES;
	if (!mmu_denied(&v->cpu, w, MMU_READ, index)) {
		p = page_to_fill(f, set, TABLE_READ, number, marks);
		for (unsigned i = first; p && i < end; i++)
			put(f, p, index0 + i, lin0 + i * PAGE_SIZE, flat_host(r, gpa0 + i * PAGE_SIZE));
	}
	if (write_allowed(&v->cpu, w, index)) {
		p = page_to_fill(f, set, TABLE_WRITE, number, marks);
		for (unsigned i = first; p && i < end; i++)
			if (!(*flat_flags(r, gpa0 + i * PAGE_SIZE) & PAGE_CODE) &&
			    !track_pending(v->mem, flat_host(r, gpa0 + i * PAGE_SIZE)))
				put(f, p, index0 + i, lin0 + i * PAGE_SIZE, flat_host(r, gpa0 + i * PAGE_SIZE));
	}
	f->stats.neighbours += end - first - 1;
}

static bool has_entry(struct flat *f, unsigned set, enum table_kind kind, gva_t page, const u8 *host)
{
	const u32 index = flat_index(page);
	const struct table_page *p = flat_page(f, set, kind, index / TABLE_ENTRIES);

	return p && p->slot[flat_slot(kind, index)] == (uintptr_t)host - page - 1;
}

enum flat_result flat_miss(struct vcpu *v, gva_t lin, enum mmu_access acc)
{
	struct flat *f = v->mmu->flat;
	const enum mmu_index index = v->mmu->index;
	const enum table_kind kind = acc == MMU_WRITE ? TABLE_WRITE : TABLE_READ;
	u64 resets = f->stats.resets;
	struct place p;
	struct walk w;
	unsigned set;
	gva_t page;

	f->stats.misses++;
	if (mmu_locate(v, lin, acc, index, &p, &w))
		return FLAT_FAULT;
	/* The write entry's table page can have cost the read entry. */
	if (unlikely(f->stats.resets != resets) && mmu_locate(v, lin, acc, index, &p, &w))
		return FLAT_FAULT;
	if (index == MMU_USER_ALIGN || !p.x.host)
		return FLAT_SLOW;
	page = (cpu_long_mode(&v->cpu) ? lin : (u32)lin) & PAGE_MASK;
	set = data_set(f, mmu_impl(v), index);
	if (!has_entry(f, set, kind, page, p.x.host - (p.x.gpa & ~PAGE_MASK)))
		return FLAT_SLOW;
	/* Around a frame's first write since it was armed others mostly wait for theirs. */
	if (mmu_watching(v) || p.noted)
		return FLAT_FILLED;
	resets = f->stats.resets;
	/* With paging off linear addresses are physical ones: as good as a large page. */
	if (!w.steps || w.shift > PAGE_SHIFT)
		fill_large(v, set, index, page, &w);
	else
		fill_neighbours(v, set, index, page, &w);
	if (likely(f->stats.resets == resets))
		return FLAT_FILLED;
	/* Table pages of others have cost the entry itself. */
	if (mmu_locate(v, lin, acc, index, &p, &w))
		return FLAT_FAULT;
	return p.x.host && has_entry(f, set, kind, page, p.x.host - (p.x.gpa & ~PAGE_MASK)) ? FLAT_FILLED : FLAT_SLOW;
}

bool flat_code_target(struct vcpu *v, gva_t lin, gpa_t *gpa, u8 **host)
{
	const enum mmu_index index = v->mmu->index;
	struct place p;
	struct walk w;

	if (index == MMU_USER_ALIGN || mmu_watching(v) || mmu_locate(v, lin, MMU_WRITE, index, &p, &w))
		return false;
	*gpa = p.x.gpa;
	*host = p.x.host;
	return p.x.host && !p.rom && flat_in_ram(v->mmu->flat, p.x.host) && (*p.flags & PAGE_CODE);
}
