/*
 * Inside of the flat tables, shared by flat.c (entries), flat_flush.c and
 * flat_create.c; mmu.c calls what is declared at the end. Private to src/mem.
 */
#ifndef ECTYPE_MEM_FLAT_PRIV_H
#define ECTYPE_MEM_FLAT_PRIV_H

#include "mem/flat.h"
#include "mem/mmu_priv.h"

/* Sets by number: user address spaces, then these. */
#define FLAT_USERS 8
enum { SET_KERNEL = FLAT_USERS, SET_KERNEL_AC, SET_EMPTY, FLAT_SETS };

/* One set: write table, 2 GiB with the base in the middle, read table. */
#define FLAT_TABLE_SIZE (32 * GiB)
#define FLAT_BELOW (FLAT_TABLE_SIZE + FLAT_R_DISP)
#define FLAT_SPAN (2 * FLAT_BELOW)

#define TABLE_ENTRIES 512u     /* of one 4 KiB page of a table: 2 MiB of linear addresses */
#define TABLE_PAGES_BITS 23    /* log2 of the pages of one table */
#define FLAT_PAGES_MAX 8192u   /* table pages in use; each can cost two areas of vm.max_map_count (65530) ... */
#define FLAT_PAGES_ALL 24576u  /* ... so all processors together have no more than these */
#define FLAT_GIBS (1u << 14)   /* GiBs that bits 43:12 tell apart */
#define LIN_BITS (BIT(44) - 1) /* the part of a linear address that selects an entry, and the offset */

enum table_kind { TABLE_READ, TABLE_WRITE, TABLE_KINDS };

/* What the entries of a table page may come from. */
#define MARK_LARGE BIT(0)     /* pages larger than 4 KiB */
#define MARK_NONGLOBAL BIT(1) /* non-global pages */
#define MARK_USER BIT(2)      /* user pages */

/* A table page that has memory. Slots count from its lowest address. */
struct table_page {
	u64 *slot;
	u32 number; /* lin[43:21] */
	u8 set, kind, marks;
	bool listed, listed_nonglobal;
	u16 first, end; /* slots outside [first, end) are absent */
	u16 next, next_nonglobal;
};

struct flat_set {
	u8 *base;
	u16 *map[TABLE_KINDS]; /* by number: index of the table_page; 0: none */
	u16 list;	       /* pages that may have entries */
	u16 list_nonglobal;    /* those of them with MARK_NONGLOBAL */
	/* User sets: whose they are. */
	bool used;
	u16 pcid;
	u64 stamp; /* larger: used later */
	bool has_global;
	/* Since exec_changed last said `all`: something was executable here of a page that is not global. */
	bool exec_nonglobal;
	/* GiBs in which entries came from 1 GiB pages, and in which something executable came from a large page. */
	bool any_huge, any_exec_large;
	u64 huge[FLAT_GIBS / 64], exec_large[FLAT_GIBS / 64];
};

/*
 * Where the write entries of a RAM frame are: index of the table_page << 9 |
 * slot, 0 for none. A location may be out of date. HINT_MORE in the first:
 * there may be others.
 */
#define HINT_MORE BIT(31)
struct frame_hint {
	u32 at[2];
};

struct flat {
	struct flat_listener listener;
	u8 *tables; /* the first set's lowest address */
	u8 *ram;
	u64 ram_size;
	u32 hole_high;	/* bits 43:32 of the hole's address */
	unsigned user;	/* the present address space's set */
	unsigned users; /* user sets that there are */
	u32 pages_max;
	u64 clock; /* of stamps */
	struct frame_hint *hint;
	u32 pages;
	struct table_page page[FLAT_PAGES_MAX + 1];
	struct flat_set set[FLAT_SETS];
	struct flat_stats stats;
	/* what flat_create() mapped */
	void *tables_map, *map_map;
	u64 hint_size;
};
static inline u64 flat_tables_map_size(const struct flat *f)
{
	return (f->users + FLAT_SETS - FLAT_USERS) * FLAT_SPAN + GiB;
}
static inline u64 flat_map_map_size(const struct flat *f)
{
	return (u64)(f->users + FLAT_SETS - FLAT_USERS) * TABLE_KINDS << (TABLE_PAGES_BITS + 1);
}
/* Number of the set that lies at place `n`: with fewer user sets their numbers have a gap. */
static inline unsigned flat_set_number(const struct flat *f, unsigned n)
{
	return n < f->users ? n : n + FLAT_USERS - f->users;
}

static inline u32 flat_index(gva_t lin)
{
	return (u32)(lin >> PAGE_SHIFT);
}

static inline unsigned flat_slot(enum table_kind kind, u32 index)
{
	unsigned at = index % TABLE_ENTRIES;

	return kind == TABLE_READ ? at : TABLE_ENTRIES - 1 - at;
}

static inline u64 *flat_page_address(const struct flat_set *s, enum table_kind kind, u32 number)
{
	if (kind == TABLE_READ)
		return (u64 *)(s->base + FLAT_R_DISP + (u64)number * PAGE_SIZE);
	return (u64 *)(s->base + FLAT_W_DISP - ((u64)number + 1) * PAGE_SIZE);
}

/* The table page that holds the entry, if it has memory. */
static inline struct table_page *flat_page(struct flat *f, unsigned set, enum table_kind kind, u32 number)
{
	u16 id = f->set[set].map[kind][number];

	return id ? &f->page[id] : NULL;
}

/*
 * The absent value for one table page: a multiple of 4 GiB that leads into the
 * hole. In the kernel's sets it takes the upper half to the lower one, so that
 * no address of the host's kernel comes out; the lower half is then not canonical.
 */
static inline u64 flat_absent(const struct flat *f, unsigned set, u32 number)
{
	u64 high = f->hole_high - (u64)(number >> 11);

	if (set == SET_KERNEL || set == SET_KERNEL_AC)
		high += BIT(47 - 32);
	return high << 32;
}

static inline bool flat_present(u64 entry)
{
	return (u32)entry;
}

/* Does the entry at `slot` of `p` lead to the host page `host`? */
static inline bool flat_maps(const struct table_page *p, unsigned slot, const u8 *host)
{
	u64 lin = ((u64)p->number * TABLE_ENTRIES + flat_slot(p->kind, slot)) << PAGE_SHIFT;
	u64 entry = p->slot[slot];

	return flat_present(entry) && !((entry + 1 + lin - (uintptr_t)host) & LIN_BITS);
}

static inline bool flat_in_ram(const struct flat *f, const u8 *host)
{
	return (u64)(host - f->ram) < f->ram_size;
}

static inline bool flat_bit(const u64 *map, gva_t lin)
{
	unsigned gib = (lin >> 30) % FLAT_GIBS;

	return map[gib / 64] & BIT(gib % 64);
}

static inline void flat_set_bit(u64 *map, gva_t lin)
{
	unsigned gib = (lin >> 30) % FLAT_GIBS;

	map[gib / 64] |= BIT(gib % 64);
}

/* ---- flat.c ---- */

#define FLAT_READ BIT(MMU_READ)
#define FLAT_WRITE BIT(MMU_WRITE)
#define FLAT_EXEC BIT(MMU_EXEC)
/* The MMU found `page` at `host` with the rights of `index`: set its entries
 * as far as `allowed`, and note what may be cached of executable pages. */
void flat_fill(struct vcpu *v, enum mmu_index index, gva_t page, u8 *host, const struct walk *w, unsigned allowed);

/* ---- flat_flush.c: the flushes of cpu/linear.h ---- */

void flat_flush_all(struct vcpu *v);
void flat_flush_user(struct flat *f); /* data entries of user pages: protection keys changed */
void flat_cr3_loaded(struct vcpu *v, bool keep);
void flat_flush_pcid(struct vcpu *v, unsigned pcid);
void flat_flush_pcid_page(struct vcpu *v, unsigned pcid, gva_t lin);
void flat_flush_page(struct vcpu *v, gva_t lin);
/* RAM at `host` became a code page: its write entries go. */
void flat_protect(struct flat *f, const u8 *host);
/* All write entries go. */
void flat_drop_writes(struct flat *f);

/* CR3, CR4 or the sets changed: which set each mode has. */
void flat_choose_sets(struct vcpu *v);

#endif
