/*
 * The software MMU: translation, TLB, and access to guest-linear memory.
 *
 *   fast path   tag compare in the table of the access's privilege (engines
 *               do this inline; the lin_* functions do it here)
 *   locate()    walk, rights, accessed and dirty bits, fill
 *   transfer    RAM, code page, ROM, MMIO
 *
 * A write tag is given only where a plain store by the engine is all there is
 * to do: the walk allows it, D is set, the frame is RAM, holds no decoded code,
 * every track of it has noted a write (mem/track.h), and no breakpoint watches
 * the page. Read tags are withheld from pages with a
 * read watch and from MMIO.
 */
#include "mem/mmu.h"

#include "cpu/event.h"
#include "mem/flat_priv.h"
#include "mem/mmu_priv.h"
#include "mem/track_priv.h"

/* ---- flushes ---- */

static void drop_slot(struct mmu_impl *m, unsigned index, unsigned slot)
{
	struct tlb_entry *e = &m->mmu.tlb[index][slot];
	const u64 bit = BIT(slot % 64);

	e->tag[MMU_READ] = e->tag[MMU_WRITE] = e->tag[MMU_EXEC] = TLB_NONE;
	m->filled[index][slot / 64] &= ~bit;
	m->global[index][slot / 64] &= ~bit;
	m->large[index][slot / 64] &= ~bit;
}

static void drop_all(struct mmu_impl *m, bool keep_global)
{
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++) {
		for (unsigned k = 0; k < TLB_WORDS; k++) {
			u64 word = m->filled[i][k] & ~(keep_global ? m->global[i][k] : 0);

			for (; word; word &= word - 1)
				drop_slot(m, i, k * 64 + (unsigned)__builtin_ctzll(word));
		}
	}
	m->mmu.gen++;
}

void mmu_flush_all(struct vcpu *v)
{
	struct mmu_impl *m = mmu_impl(v);

	if (!m)
		return;
	drop_all(m, false);
	m->keys = 0;
	m->mmu.flushes++;
	if (m->mmu.flat)
		flat_flush_all(v);
}

void mmu_invalidate(struct vcpu *v)
{
	mmu_flush_all(v);
}

void mmu_cr3_loaded(struct vcpu *v, bool keep)
{
	struct mmu_impl *m = mmu_impl(v);

	if (!m)
		return;
	drop_all(m, true);
	m->mmu.flushes++;
	if (m->mmu.flat)
		flat_cr3_loaded(v, keep);
}

/* The PCID that the TLB's own entries belong to, global ones apart. */
static bool current_pcid(const struct vcpu *v, unsigned pcid)
{
	return pcid == (v->cpu.cr4 & CR4_PCIDE ? v->cpu.cr3 & 0xfff : 0);
}

void mmu_flush_pcid(struct vcpu *v, unsigned pcid)
{
	struct mmu_impl *m = mmu_impl(v);

	if (!m)
		return;
	if (current_pcid(v, pcid))
		drop_all(m, true);
	m->mmu.flushes++;
	if (m->mmu.flat)
		flat_flush_pcid(v, pcid);
}

void mmu_flush_pcid_page(struct vcpu *v, unsigned pcid, gva_t lin)
{
	struct mmu_impl *m = mmu_impl(v);

	if (!m)
		return;
	if (current_pcid(v, pcid)) {
		mmu_flush_page(v, lin);
		return;
	}
	m->mmu.page_flushes++;
	if (m->mmu.flat)
		flat_flush_pcid_page(v, pcid, lin);
}

/* An entry of `e` (any tag), or TLB_NONE. */
static u64 entry_page(const struct tlb_entry *e)
{
	for (unsigned a = 0; a < ARRAY_SIZE(e->tag); a++)
		if (e->tag[a] != TLB_NONE)
			return e->tag[a];
	return TLB_NONE;
}

/*
 * INVLPG drops the whole page that holds `lin`, whatever its size when it was
 * cached (SDM vol. 3, 4.10.4.1). Sizes are not kept: entries from large pages
 * in the same GiB go too, which covers every size and costs only refills.
 */
void mmu_flush_page(struct vcpu *v, gva_t lin)
{
	struct mmu_impl *m = mmu_impl(v);
	const unsigned slot = tlb_index(lin);

	if (!m)
		return;
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++) {
		if (entry_page(&m->mmu.tlb[i][slot]) == (lin & PAGE_MASK))
			drop_slot(m, i, slot);
		for (unsigned k = 0; k < TLB_WORDS; k++) {
			for (u64 word = m->large[i][k]; word; word &= word - 1) {
				unsigned n = k * 64 + (unsigned)__builtin_ctzll(word);

				if (!((entry_page(&m->mmu.tlb[i][n]) ^ lin) >> 30))
					drop_slot(m, i, n);
			}
		}
	}
	m->mmu.gen++;
	m->mmu.page_flushes++;
	if (m->mmu.flat)
		flat_flush_page(v, lin);
}

static void protect(struct mmu_impl *m, const u8 *host)
{
	if (m->mmu.flat)
		flat_protect(m->mmu.flat, host);
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++) {
		for (unsigned k = 0; k < TLB_WORDS; k++) {
			for (u64 word = m->filled[i][k]; word; word &= word - 1) {
				struct tlb_entry *e = &m->mmu.tlb[i][k * 64 + (unsigned)__builtin_ctzll(word)];

				if (e->tag[MMU_WRITE] != TLB_NONE && e->tag[MMU_WRITE] + e->addend == (uintptr_t)host)
					e->tag[MMU_WRITE] = TLB_NONE;
			}
		}
	}
}

void mmu_protect_frame(struct vcpu *v, gpa_t gpa)
{
	const struct vcpu_group *g = v->group;
	struct page_target t;

	if (!v->mmu || !memory_page(v->mem, gpa, &t) || !t.host)
		return;
	if (!g)
		protect(mmu_impl(v), t.host);
	for (unsigned n = 0; g && n < g->count; n++)
		if (g->vcpu[n]->mmu)
			protect(mmu_impl(g->vcpu[n]), t.host);
}

void mmu_drop_writes(struct vcpu *v)
{
	struct mmu_impl *m = mmu_impl(v);

	if (!m)
		return;
	for (unsigned i = 0; i < MMU_INDEX_COUNT; i++)
		for (unsigned k = 0; k < TLB_WORDS; k++)
			for (u64 word = m->filled[i][k]; word; word &= word - 1)
				m->mmu.tlb[i][k * 64 + (unsigned)__builtin_ctzll(word)].tag[MMU_WRITE] = TLB_NONE;
	if (m->mmu.flat)
		flat_drop_writes(m->mmu.flat);
	m->mmu.gen++; /* engines that let stores through by themselves look at it */
}

/*
 * Entries hold rights as checked when they were filled. Whatever bears on the
 * check and has no flush of its own in the architecture is compared here; CPL,
 * EFLAGS.AC and implicit accesses only choose among the tables.
 */
void mmu_mode_changed(struct vcpu *v)
{
	struct mmu_impl *m = mmu_impl(v);
	const struct cpu *c = &v->cpu;
	u64 rights;

	if (!m)
		return;
	rights = (c->cr0 & (CR0_PG | CR0_WP)) | (c->efer & (EFER_NXE | EFER_LMA)) |
		 (c->cr4 & (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_SMEP | CR4_SMAP | CR4_PKE)) << 32;
	if (unlikely(rights != m->rights)) {
		m->rights = rights;
		mmu_flush_all(v);
	}
	if (unlikely(c->pkru != m->pkru)) {
		u32 changed = c->pkru ^ m->pkru;

		m->pkru = c->pkru;
		for (unsigned key = 0; key < 16; key++) {
			if ((m->keys & BIT(key)) && (changed >> (2 * key)) & 3) {
				/* Keys bear on data accesses to user pages only. */
				drop_all(m, false);
				m->keys = 0;
				m->mmu.flushes++;
				if (m->mmu.flat)
					flat_flush_user(m->mmu.flat);
				break;
			}
		}
	}
	if (cpu_cpl(c) == 3)
		m->mmu.index = (c->rflags & FL_AC) && (c->cr0 & CR0_AM) ? MMU_USER_ALIGN : MMU_USER;
	else
		/* Without SMAP the two kernel tables would hold the same. */
		m->mmu.index = (c->rflags & FL_AC) && (c->cr4 & CR4_SMAP) ? MMU_KERNEL_AC : MMU_KERNEL;
	m->mmu.current = m->mmu.tlb[m->mmu.index];
	m->mmu.flat_base = m->flat_base_of[m->mmu.index];
}

enum mmu_index mmu_kernel_mode(struct vcpu *v, bool ac, struct tlb_entry **table, u8 **base)
{
	struct mmu_impl *m = mmu_impl(v);
	const enum mmu_index index = ac && (v->cpu.cr4 & CR4_SMAP) ? MMU_KERNEL_AC : MMU_KERNEL;

	*table = m->mmu.tlb[index];
	*base = m->flat_base_of[index];
	return index;
}

/* ---- breakpoints ---- */

static bool overlap(u64 a, u64 alen, u64 b, u64 blen)
{
	return a - b < blen || b - a < alen;
}

#define WATCH_READ BIT(MMU_READ)
#define WATCH_WRITE BIT(MMU_WRITE)

/* Kinds of access that some breakpoint waits for in the page at `page`. */
static unsigned page_watch(const struct vcpu *v, gva_t page)
{
	const struct cpu *c = &v->cpu;
	unsigned watch = 0;

	if (likely(!mmu_watching(v)))
		return 0;
	for (unsigned i = 0; i < 4; i++) {
		unsigned rw = (c->dr[7] >> (16 + 4 * i)) & 3;

		/* Breakpoint ranges are aligned and so never cross a page (SDM vol. 3, 17.2.5). */
		if (!((c->dr[7] >> (2 * i)) & 3) || (c->dr[i] & PAGE_MASK) != page)
			continue;
		if (rw == 1)
			watch |= WATCH_WRITE;
		else if (rw == 3)
			watch |= WATCH_READ | WATCH_WRITE;
	}
	for (unsigned i = 0; i < v->debug.count; i++) {
		const struct debug_point *p = &v->debug.point[i];

		if (p->kind == 0 || !overlap(p->addr, p->len, page, PAGE_SIZE))
			continue;
		watch |= (p->kind & 2 ? WATCH_READ : 0) | (p->kind & 1 ? WATCH_WRITE : 0);
	}
	return watch;
}

/* After an explicit access: does it meet a breakpoint? */
static void after_access(struct vcpu *v, gva_t lin, unsigned len, bool write)
{
	const u8 kind = write ? 1 : 2; /* bit of debug_point.kind: 1 write, 2 read, 3 both */

	if (v->cpu.dr[7] & 0xff)
		cpu_data_breakpoint(v, lin, len, write);
	for (unsigned i = 0; i < v->debug.count; i++) {
		const struct debug_point *p = &v->debug.point[i];

		if ((p->kind & kind) && overlap(p->addr, p->len, lin, len)) {
			v->debug.hit_addr = p->addr;
			v->debug.hit_kind = p->kind;
			vcpu_raise(v, EV_KICK);
			return;
		}
	}
}

/* ---- translation ---- */

static void fill(struct vcpu *v, enum mmu_index index, gva_t page, const struct walk *w, const struct place *p,
		 unsigned watch)
{
	struct mmu_impl *m = mmu_impl(v);
	const struct cpu *c = &v->cpu;
	const unsigned slot = tlb_index(page);
	const u64 bit = BIT(slot % 64);
	const bool align = index == MMU_USER_ALIGN;
	struct tlb_entry *e = &m->mmu.tlb[index][slot];
	bool read, write, exec;

	read = !align && !(watch & WATCH_READ) && !mmu_denied(c, w, MMU_READ, index);
	write = !align && p->x.writable && w->dirty && !mmu_denied(c, w, MMU_WRITE, index);
	exec = !mmu_denied(c, w, MMU_EXEC, index);
	e->tag[MMU_READ] = read ? page : TLB_NONE;
	e->tag[MMU_WRITE] = write ? page : TLB_NONE;
	e->tag[MMU_EXEC] = exec ? page : TLB_NONE;
	e->addend = (uintptr_t)p->x.host - (page | (p->x.gpa & ~PAGE_MASK));
	m->filled[index][slot / 64] |= bit;
	m->global[index][slot / 64] &= ~bit;
	m->large[index][slot / 64] &= ~bit;
	if (w->global)
		m->global[index][slot / 64] |= bit;
	if (w->large)
		m->large[index][slot / 64] |= bit;
	if (w->user)
		m->keys |= (u16)BIT(w->key);
	m->mmu.fills++;
	if (m->mmu.flat)
		flat_fill(v, index, page, (u8 *)(page + e->addend), w,
			  (read ? FLAT_READ : 0) | (write ? FLAT_WRITE : 0) | (exec ? FLAT_EXEC : 0));
}

static int page_fault(struct vcpu *v, u32 error, gva_t lin)
{
	return fault_raise(v, EXC_PF, true, error, lin);
}

/* Walk, check and mark: 0 with `w` filled, or FAULT. */
static int translate(struct vcpu *v, gva_t *lin, enum mmu_access acc, enum mmu_index index, struct walk *w)
{
	const struct cpu *c = &v->cpu;

	if (cpu_long_mode(c)) {
		if (unlikely(!lin_canonical(c, *lin)))
			return fault_gp(v, 0);
	} else {
		*lin &= 0xffffffff;
	}
	if (!(c->cr0 & CR0_PG)) {
		w->frame = *lin & PAGE_MASK;
		w->user = w->writable = w->dirty = true;
		w->no_exec = w->global = w->large = false;
		w->key = 0;
		w->shift = PAGE_SHIFT;
		w->steps = 0;
		return 0;
	}
	do {
		enum walk_end end = mmu_walk(v, *lin, w);
		u32 error;

		if (unlikely(end != WALK_MAPPED)) {
			error = mmu_error_kind(c, acc, index) | (end == WALK_RESERVED ? PF_P | PF_RSVD : 0);
			return page_fault(v, error, *lin);
		}
		error = mmu_denied(c, w, acc, index);
		if (unlikely(error))
			return page_fault(v, error, *lin);
	} while (unlikely(!mmu_walk_mark(v, w, acc == MMU_WRITE)));
	return 0;
}

/* Data accesses under alignment checking have user rights and their entries. */
static enum mmu_index data_index(enum mmu_index index)
{
	return index == MMU_USER_ALIGN ? MMU_USER : index;
}

int mmu_locate(struct vcpu *v, gva_t lin, enum mmu_access acc, enum mmu_index index, struct place *p, struct walk *w)
{
	struct page_target t;
	unsigned watch;

	if (translate(v, &lin, acc, index, w))
		return FAULT;
	memory_page(v->mem, w->frame, &t);
	watch = page_watch(v, lin & PAGE_MASK);
	p->x.gpa = w->frame | (lin & ~PAGE_MASK);
	p->x.host = t.host ? t.host + (lin & ~PAGE_MASK) : NULL;
	p->x.mmio = t.mmio;
	p->x.mmio_off = t.mmio_off + (lin & ~PAGE_MASK);
	p->noted = acc == MMU_WRITE && t.writable && track_pending(v->mem, t.host);
	if (unlikely(p->noted))
		track_write(v->mem, t.host, PAGE_SIZE);
	p->x.writable =
	    t.writable && !(*t.flags & PAGE_CODE) && !(watch & WATCH_WRITE) && !track_pending(v->mem, t.host);
	p->rom = t.host && !t.writable;
	p->flags = t.flags;
	if (t.host)
		fill(v, acc == MMU_EXEC ? index : data_index(index), lin & PAGE_MASK, w, p, watch);
	return 0;
}

static int locate(struct vcpu *v, gva_t lin, enum mmu_access acc, enum mmu_index index, struct place *p)
{
	struct walk w;

	return mmu_locate(v, lin, acc, index, p, &w);
}

int mmu_translate(struct vcpu *v, gva_t lin, enum mmu_access acc, enum mmu_index index, struct xlat *x)
{
	struct place p;

	if (locate(v, lin, acc, index, &p))
		return FAULT;
	*x = p.x;
	return 0;
}

bool mmu_debug_translate(struct vcpu *v, gva_t lin, gpa_t *gpa)
{
	const struct cpu *c = &v->cpu;
	struct walk w;

	if (!cpu_long_mode(c))
		lin &= 0xffffffff;
	else if (!lin_canonical(c, lin))
		return false;
	if (!(c->cr0 & CR0_PG)) {
		*gpa = lin;
		return true;
	}
	if (mmu_walk(v, lin, &w) != WALK_MAPPED)
		return false;
	*gpa = w.frame | (lin & ~PAGE_MASK);
	return true;
}

bool mmu_is_text(struct vcpu *v, gva_t lin, gpa_t *gpa)
{
	const struct cpu *c = &v->cpu;
	struct walk w;

	if (!(c->cr0 & CR0_PG) || (cpu_long_mode(c) ? !lin_canonical(c, lin) : lin > 0xffffffff))
		return false;
	if (mmu_walk(v, lin, &w) != WALK_MAPPED || w.writable || mmu_denied(c, &w, MMU_EXEC, v->mmu->index))
		return false;
	*gpa = w.frame;
	return true;
}

/* ---- transfers: within one page ---- */

static void mmio_load(struct vcpu *v, const struct xlat *x, u8 *to, unsigned len)
{
	fpu_park(v);
	for (unsigned i = 0; i < len;) {
		unsigned n = natural_piece(x->gpa + i, len - i);
		u64 val = region_mmio_read(x->mmio, x->mmio_off + i, n);

		guest_copy(to + i, &val, n);
		i += n;
	}
}

static void mmio_store(struct vcpu *v, const struct xlat *x, const u8 *from, unsigned len)
{
	fpu_park(v);
	for (unsigned i = 0; i < len;) {
		unsigned n = natural_piece(x->gpa + i, len - i);
		u64 val = 0;

		guest_copy(&val, from + i, n);
		region_mmio_write(x->mmio, x->mmio_off + i, val, n);
		i += n;
	}
}

static void load(struct vcpu *v, const struct place *p, void *to, unsigned len)
{
	if (likely(p->x.host))
		guest_copy(to, p->x.host, len);
	else if (p->x.mmio)
		mmio_load(v, &p->x, to, len);
	else
		for (unsigned i = 0; i < len; i++)
			((volatile u8 *)to)[i] = 0xff;
}

static void store(struct vcpu *v, const struct place *p, const void *from, unsigned len)
{
	if (p->rom)
		return;
	if (likely(p->x.host)) {
		guest_copy(p->x.host, from, len);
		if (*p->flags & PAGE_CODE)
			memory_notify_written(v->mem, p->x.gpa, len);
	} else if (p->x.mmio) {
		mmio_store(v, &p->x, from, len);
	}
}

/* ---- accesses ---- */

/* The address behind the page of `lin`: linear addresses wrap at 4 GiB outside
 * 64-bit mode, except where long mode reads descriptor tables above it. */
static gva_t next_page(const struct vcpu *v, gva_t lin)
{
	gva_t next = (lin & PAGE_MASK) + PAGE_SIZE;

	return !cpu_64bit(&v->cpu) && lin <= 0xffffffff ? next & 0xffffffff : next;
}

static struct tlb_entry *hit(struct vcpu *v, gva_t lin, unsigned len, enum mmu_access acc, enum mmu_index index)
{
	struct tlb_entry *e = tlb_slot(mmu_impl(v)->mmu.tlb[data_index(index)], lin);

	return likely(e->tag[acc] == ((lin + len - 1) & PAGE_MASK)) ? e : NULL;
}

/* Both pages of an access (the second only if it crosses) before anything is transferred. */
static int locate_both(struct vcpu *v, gva_t lin, unsigned len, unsigned *first, enum mmu_access acc,
		       enum mmu_index index, struct place p[2])
{
	*first = (unsigned)MIN((u64)len, PAGE_SIZE - (lin & ~PAGE_MASK));
	/* Before any page fault: the address of every byte is canonical. */
	if (*first != len && !lin_canonical(&v->cpu, next_page(v, lin)))
		return fault_gp(v, 0);
	if (locate(v, lin, acc, index, &p[0]))
		return FAULT;
	return *first == len ? 0 : locate(v, next_page(v, lin), acc, index, &p[1]);
}

/* 1..4096 bytes. */
static int read_some(struct vcpu *v, gva_t lin, void *dst, unsigned len, enum mmu_index index)
{
	struct tlb_entry *e = hit(v, lin, len, MMU_READ, index);
	struct place p[2];
	unsigned first;

	if (e) {
		guest_copy(dst, (u8 *)(lin + e->addend), len);
		return 0;
	}
	if (locate_both(v, lin, len, &first, MMU_READ, index, p))
		return FAULT;
	load(v, &p[0], dst, first);
	if (first < len)
		load(v, &p[1], (u8 *)dst + first, len - first);
	return 0;
}

static int write_some(struct vcpu *v, gva_t lin, const void *src, unsigned len, enum mmu_index index)
{
	struct tlb_entry *e = hit(v, lin, len, MMU_WRITE, index);
	struct place p[2];
	unsigned first;

	if (e) {
		guest_copy((u8 *)(lin + e->addend), src, len);
		return 0;
	}
	if (locate_both(v, lin, len, &first, MMU_WRITE, index, p))
		return FAULT;
	store(v, &p[0], src, first);
	if (first < len)
		store(v, &p[1], (const u8 *)src + first, len - first);
	return 0;
}

/* Alignment that an access of `len` bytes must have (SDM vol. 3, table 6-7); 1: none. */
static unsigned alignment(unsigned len)
{
	switch (len) {
	case 2:
	case 4:
	case 8:
	case 16:
		return len;
	case 10:
		return 8;
	default:
		return 1;
	}
}

static int align_check(struct vcpu *v, gva_t lin, unsigned len, enum mmu_index index)
{
	if (likely(index != MMU_USER_ALIGN) || !(lin & (alignment(len) - 1)))
		return 0;
	return fault_raise(v, EXC_AC, true, 0, 0);
}

int mmu_read(struct vcpu *v, gva_t lin, void *dst, unsigned len)
{
	const enum mmu_index index = v->mmu->index;

	if (align_check(v, lin, len, index) || read_some(v, lin, dst, len, index))
		return FAULT;
	if (mmu_watching(v))
		after_access(v, lin, len, false);
	return 0;
}

int mmu_write(struct vcpu *v, gva_t lin, const void *src, unsigned len)
{
	const enum mmu_index index = v->mmu->index;

	if (align_check(v, lin, len, index) || write_some(v, lin, src, len, index))
		return FAULT;
	if (mmu_watching(v))
		after_access(v, lin, len, true);
	return 0;
}

/* ---- cpu/linear.h ---- */

static enum mmu_index how_index(const struct vcpu *v, enum lin_how how)
{
	switch (how) {
	case LIN_SUPERVISOR:
		return MMU_KERNEL;
	case LIN_USER:
		return MMU_USER;
	default:
		return v->mmu->index;
	}
}

static int probe(struct vcpu *v, gva_t lin, unsigned len, enum mmu_access acc, enum mmu_index index)
{
	if ((lin & ~PAGE_MASK) + len > PAGE_SIZE && !lin_canonical(&v->cpu, next_page(v, lin)))
		return fault_gp(v, 0);
	while (len) {
		unsigned n = (unsigned)MIN((u64)len, PAGE_SIZE - (lin & ~PAGE_MASK));
		struct place p;

		if (!hit(v, lin, n, acc, index) && locate(v, lin, acc, index, &p))
			return FAULT;
		lin = next_page(v, lin);
		len -= n;
	}
	return 0;
}

int lin_probe_write(struct vcpu *v, gva_t lin, unsigned len, enum lin_how how)
{
	return probe(v, lin, len, MMU_WRITE, how_index(v, how));
}

int lin_probe_read(struct vcpu *v, gva_t lin, unsigned len, enum lin_how how)
{
	return probe(v, lin, len, MMU_READ, how_index(v, how));
}

int lin_read(struct vcpu *v, gva_t lin, void *dst, unsigned len, enum lin_how how)
{
	const enum mmu_index index = how_index(v, how);
	const gva_t from = lin;
	u8 *to = dst;

	if (how == LIN_CPL && align_check(v, lin, len, index))
		return FAULT;
	if (unlikely(len > PAGE_SIZE) && probe(v, lin, len, MMU_READ, index))
		return FAULT;
	for (unsigned left = len; left;) {
		unsigned n = left <= PAGE_SIZE ? left : (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));

		if (read_some(v, lin, to, n, index))
			return FAULT;
		to += n;
		lin = next_page(v, lin);
		left -= n;
	}
	if (mmu_watching(v) && how != LIN_SUPERVISOR)
		after_access(v, from, len, false);
	return 0;
}

int lin_write(struct vcpu *v, gva_t lin, const void *src, unsigned len, enum lin_how how)
{
	const enum mmu_index index = how_index(v, how);
	const u8 *from = src;
	const gva_t to = lin;

	if (how == LIN_CPL && align_check(v, lin, len, index))
		return FAULT;
	if (unlikely(len > PAGE_SIZE) && probe(v, lin, len, MMU_WRITE, index))
		return FAULT;
	for (unsigned left = len; left;) {
		unsigned n = left <= PAGE_SIZE ? left : (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK));

		if (write_some(v, lin, from, n, index))
			return FAULT;
		from += n;
		lin = next_page(v, lin);
		left -= n;
	}
	if (mmu_watching(v) && how != LIN_SUPERVISOR)
		after_access(v, to, len, true);
	return 0;
}

/* byte = (byte & keep) | set, in one locked step where it is RAM. */
static int update8(struct vcpu *v, gva_t lin, u8 keep, u8 set, enum mmu_index index)
{
	struct place p;
	u8 old, val;

	if (locate(v, lin, MMU_WRITE, index, &p))
		return FAULT;
	if (!p.x.host || p.rom) {
		load(v, &p, &old, 1);
		val = (old & keep) | set;
		store(v, &p, &val, 1);
		return 0;
	}
	old = __atomic_load_n(p.x.host, __ATOMIC_RELAXED);
	do {
		val = (old & keep) | set;
	} while (!__atomic_compare_exchange_n(p.x.host, &old, val, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
	if (*p.flags & PAGE_CODE)
		memory_notify_written(v->mem, p.x.gpa, 1);
	return 0;
}

int lin_or8(struct vcpu *v, gva_t lin, u8 bits, enum lin_how how)
{
	return update8(v, lin, 0xff, bits, how_index(v, how));
}

int lin_and8(struct vcpu *v, gva_t lin, u8 bits, enum lin_how how)
{
	return update8(v, lin, bits, 0, how_index(v, how));
}
