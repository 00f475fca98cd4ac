/* Guest memory as the debugger sees it, and the page tables as text. */
#include <stdio.h>
#include <string.h>

#include "gdb/stub.h"

/* Calls move() for the pieces of [addr, addr + n) that lie within a page. */
static size_t each_page(const struct gdb_target *t, struct vcpu *v, bool physical, u64 addr, u8 *buf, size_t n,
			bool write)
{
	size_t done = 0;

	while (done < n) {
		u64 a = addr + done;
		size_t part = MIN(n - done, (size_t)(PAGE_SIZE - (a & ~PAGE_MASK)));
		gpa_t gpa = a;

		if (!physical && !t->ops->translate(t->opaque, v, a, &gpa))
			break;
		if (write ? t->ops->phys_write(t->opaque, gpa, buf + done, part)
			  : t->ops->phys_read(t->opaque, gpa, buf + done, part))
			break;
		done += part;
	}
	return done;
}

size_t gdb_mem_read(const struct gdb_target *t, struct vcpu *v, bool physical, u64 addr, u8 *dst, size_t n)
{
	return each_page(t, v, physical, addr, dst, n, false);
}

size_t gdb_mem_write(const struct gdb_target *t, struct vcpu *v, bool physical, u64 addr, const u8 *src, size_t n)
{
	return each_page(t, v, physical, addr, (u8 *)src, n, true);
}

/*
 * Listing of the page tables. A hostile guest's tables can point to each
 * other in circles: the walk stops after so many table pages and lines.
 */
#define WALK_TABLES 16384u
#define WALK_LINES 10000u

struct walk {
	const struct gdb_target *t;
	gdb_line_fn line;
	void *opaque;
	bool each;
	unsigned tables, lines;
	unsigned entry_size; /* bytes: 4 or 8 */
	unsigned va_bits;
	bool pse; /* 4 MiB pages in 32-bit paging */
	bool nx, pae3;
	/* the range being gathered */
	u64 start, next, gpa;
	unsigned rights;
	bool open;
};

#define PTE_P BIT(0)
#define PTE_W BIT(1)
#define PTE_U BIT(2)
#define PTE_A BIT(5)
#define PTE_D BIT(6)
#define PTE_PS BIT(7)
#define PTE_G BIT(8)
#define PTE_NX BIT(63)
#define RIGHT_W 1u
#define RIGHT_U 2u
#define RIGHT_X 4u

static void put_line(struct walk *w, const char *text)
{
	if (w->lines < WALK_LINES)
		w->line(w->opaque, text);
	else if (w->lines == WALK_LINES)
		w->line(w->opaque, "(more follows)");
	w->lines++;
}

static u64 canonical(const struct walk *w, u64 va)
{
	return w->va_bits > 32 ? (u64)((s64)(va << (64 - w->va_bits)) >> (64 - w->va_bits)) : va;
}

static void flush_range(struct walk *w)
{
	char text[160];

	if (!w->open)
		return;
	w->open = false;
	snprintf(text, sizeof(text), "%016llx-%016llx %016llx %c%c%c", (unsigned long long)canonical(w, w->start),
		 (unsigned long long)canonical(w, w->next - 1), (unsigned long long)(w->next - w->start),
		 w->rights & RIGHT_U ? 'u' : '-', w->rights & RIGHT_W ? 'w' : '-', w->rights & RIGHT_X ? 'x' : '-');
	put_line(w, text);
}

static void leaf(struct walk *w, u64 va, u64 size, u64 gpa, u64 pte, unsigned rights)
{
	char text[160];

	if (w->each) {
		snprintf(text, sizeof(text), "%016llx -> %016llx %6lluK %c%c%c%c%c%c",
			 (unsigned long long)canonical(w, va), (unsigned long long)gpa,
			 (unsigned long long)(size >> 10), rights & RIGHT_U ? 'u' : '-', rights & RIGHT_W ? 'w' : '-',
			 rights & RIGHT_X ? 'x' : '-', pte & PTE_A ? 'a' : '-', pte & PTE_D ? 'd' : '-',
			 pte & PTE_G ? 'g' : '-');
		put_line(w, text);
		return;
	}
	if (w->open && w->next == va && w->rights == rights) {
		w->next = va + size;
		return;
	}
	flush_range(w);
	w->open = true;
	w->start = va;
	w->next = va + size;
	w->rights = rights;
}

/* `level`: 1 for a page table. `shift`: of the addresses an entry maps. */
static void walk_table(struct walk *w, gpa_t table, unsigned level, u64 va, unsigned rights)
{
	u8 page[PAGE_SIZE];
	unsigned bits = w->entry_size == 8 ? 9 : 10;
	unsigned shift = PAGE_SHIFT + bits * (level - 1);
	unsigned count = w->pae3 && level == 3 ? 4 : 1u << bits;

	if (w->lines > WALK_LINES || w->tables++ >= WALK_TABLES)
		return;
	if (w->t->ops->phys_read(w->t->opaque, table, page, count * w->entry_size))
		return;
	for (unsigned i = 0; i < count && w->lines <= WALK_LINES; i++) {
		u64 pte = 0, addr, size = 1ull << shift, at = va + ((u64)i << shift);
		unsigned r = rights;
		bool top3 = w->pae3 && level == 3;

		memcpy(&pte, page + i * w->entry_size, w->entry_size);
		if (!(pte & PTE_P))
			continue;
		if (!top3) /* a PDPTE of PAE paging has no rights */
			r &= (pte & PTE_W ? RIGHT_W : 0) | (pte & PTE_U ? RIGHT_U : 0) |
			     (w->nx && w->entry_size == 8 && (pte & PTE_NX) ? 0 : RIGHT_X);
		addr = pte & (w->entry_size == 8 ? 0x000ffffffffff000ull : 0xfffff000ull);
		if (level == 1)
			leaf(w, at, size, addr, pte, r);
		else if ((pte & PTE_PS) && !top3 && level <= 3 && (w->entry_size == 8 || w->pse))
			leaf(w, at, size, addr & ~(size - 1), pte, r);
		else
			walk_table(w, addr, level - 1, at, r);
	}
}

void gdb_list_mappings(const struct gdb_target *t, struct vcpu *v, bool each, gdb_line_fn line, void *opaque)
{
	const struct cpu *c = &v->cpu;
	struct walk w = { .t = t, .line = line, .opaque = opaque, .each = each, .entry_size = 8, .va_bits = 32 };
	gpa_t root = c->cr3 & 0x000ffffffffff000ull;
	unsigned level;

	if (!(c->cr0 & CR0_PG)) {
		line(opaque, "paging is off");
		return;
	}
	w.nx = c->efer & EFER_NXE;
	if (cpu_long_mode(c)) {
		level = c->cr4 & CR4_LA57 ? 5 : 4;
		w.va_bits = c->cr4 & CR4_LA57 ? 57 : 48;
	} else if (c->cr4 & CR4_PAE) {
		level = 3;
		w.pae3 = true;
		root = c->cr3 & 0xffffffe0ull;
	} else {
		level = 2;
		w.entry_size = 4;
		w.pse = c->cr4 & CR4_PSE;
		root = c->cr3 & 0xfffff000ull;
	}
	walk_table(&w, root, level, 0, RIGHT_W | RIGHT_U | RIGHT_X);
	flush_range(&w);
	if (w.tables > WALK_TABLES)
		line(opaque, "(stopped: too many table pages)");
}
