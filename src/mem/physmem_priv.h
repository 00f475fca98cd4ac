/*
 * Inside of the guest-physical map, shared by its two halves: physmem.c looks
 * up and copies (guest vector state may be live), physmem_map.c changes the
 * map (ordinary C). Private to src/mem.
 */
#ifndef ECTYPE_MEM_PHYSMEM_PRIV_H
#define ECTYPE_MEM_PHYSMEM_PRIV_H

#include "mem/physmem.h"

struct region {
	struct memory *mem;
	gpa_t gpa;
	u64 len;     /* may run past 2^64: a BAR is where the guest put it; the rest is not decoded */
	u64 max_len; /* what `host` spans; no limit for MMIO */
	u8 kind;     /* enum region_kind */
	bool visible;
	int prio;
	u64 seq;   /* order of creation: the later wins among equal priorities */
	u8 *host;  /* RAM and ROM: address of the first byte */
	u8 *flags; /* RAM and ROM: PAGE_* of the first frame */
	bool own_flags;
	const struct io_ops *ops;
	void *opaque;
	char name[32];
};

/* The flat view: disjoint, ascending; a hole is where there is none. */
struct flat_range {
	gpa_t first, last; /* inclusive */
	uintptr_t addend;  /* RAM and ROM: host address minus guest-physical address */
	gpa_t base;	   /* of the region */
	u8 *flags;	   /* of the region's first frame */
	struct region *region;
	u8 kind;
};

#define LISTENER_MAX 136 /* two a processor, and some */

struct memory {
	u8 *ram;
	u64 ram_size;
	/* Reservation around RAM, see physmem_place.c: its offset and length in every window; 0 if there is none.
	 * The hole is its first 4 GiB. */
	u64 place_off, place_len;
	int fd;			 /* of MEMORY_SHARED, else -1 */
	int pagemap_fd;		 /* says which pages of private RAM the host has provided; -1: nobody does */
	unsigned flags;		 /* MEMORY_* */
	struct missing *missing; /* mem/missing.h; NULL: all is there */
	u64 *filed;		 /* a bit a frame: it is mapped from a file; NULL: none is */
	u32 file_pieces;
	u8 *frame_flags;
	struct track_set *tracks; /* mem/track.h; NULL: nobody tracks */
	struct track_set *track_kept;
	struct flat_range *range;
	u32 range_count, range_cap;
	u32 hint; /* range of the last lookup that found RAM */
	struct region **region;
	u32 region_count, region_cap;
	struct region *spare; /* removed regions, kept because a dispatch may still hold one; linked by opaque */
	u64 next_seq;
	/* Dispatches by address: stands for pages that hold more than one target. Offset is the address. */
	struct region mixed;
	struct memory_listener listener[LISTENER_MAX];
	u32 listeners;
	struct memory_stats stats;
	struct world *world;
	u64 world_stops; /* for changes of the map */
	struct io_guard guard;
	unsigned depth; /* of dispatches to devices that access memory themselves */
};

/* First range that ends at or behind `gpa`, or NULL. */
const struct flat_range *flat_search(struct memory *m, gpa_t gpa);

/* Range that holds `gpa`, or NULL in a hole. */
static inline const struct flat_range *flat_find(struct memory *m, gpa_t gpa)
{
	u32 hint = __atomic_load_n(&m->hint, __ATOMIC_RELAXED);
	const struct flat_range *r = &m->range[hint];

	if (likely(hint < m->range_count && gpa >= r->first && gpa <= r->last))
		return r;
	r = flat_search(m, gpa);
	return r && r->first <= gpa ? r : NULL;
}

static inline u8 *flat_host(const struct flat_range *r, gpa_t gpa)
{
	return (u8 *)(r->addend + gpa);
}

static inline u8 *flat_flags(const struct flat_range *r, gpa_t gpa)
{
	return &r->flags[(gpa - r->base) >> PAGE_SHIFT];
}

extern const struct io_ops memory_mixed_ops;

/*
 * Host addresses of 47 bits have 8 windows of 16 TiB. Placed RAM lies in one
 * of them; in the other seven the same offsets, with a guard behind, are
 * reserved without access, and so is a hole of 4 GiB and a guard in all eight.
 */
#define PLACE_WINDOW_BITS 44
#define PLACE_WINDOWS 8
#define PLACE_OFF_LAST (13 * 1024 * GiB) /* offsets up to here */
#define PLACE_GUARD (64 * KiB)		 /* the longest access */
/* Map RAM so (memory_map_host_ram()), and set m->ram. False, with nothing mapped, if the address space has no room. */
bool memory_place(struct memory *m);
/* Is there room for the smallest RAM? Reserves nothing for good. */
bool memory_place_possible(void);
void memory_unplace(struct memory *m);

/* ---- physmem_ram.c ---- */

/* Maps RAM of m's kind at `at`, over what is there (NULL: anywhere). MAP_FAILED with errno. */
void *memory_map_host_ram(const struct memory *m, void *at);
void memory_free_ram(struct memory *m);

/* ---- missing.c ---- */

/* The memory goes. */
void missing_forget(struct missing *s);

/* ---- track_user.c ---- */

void track_free_set(struct memory *m);

/*
 * Copies between guest RAM and the monitor. Sizes 1, 2, 4 and 8 are one host
 * access on the guest's side, so that an aligned one is atomic to other
 * processors and devices as on hardware. Own loops: libc's memcpy uses vector
 * registers.
 */
typedef u16 __attribute__((aligned(1), may_alias)) u16_any;
typedef u32 __attribute__((aligned(1), may_alias)) u32_any;
typedef u64 __attribute__((aligned(1), may_alias)) u64_any;

static inline void copy_rep(void *to, const void *from, u64 n)
{
	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

static inline void copy_words(void *to, const void *from, u64 n)
{
	for (u64 i = 0; i < n; i += 8)
		*(volatile u64_any *)((u8 *)to + i) = *(const volatile u64_any *)((const u8 *)from + i);
}

static inline void guest_copy(void *to, const void *from, u64 n)
{
	switch (n) {
	case 1:
		*(volatile u8 *)to = *(const volatile u8 *)from;
		break;
	case 2:
		*(volatile u16_any *)to = *(const volatile u16_any *)from;
		break;
	case 4:
		*(volatile u32_any *)to = *(const volatile u32_any *)from;
		break;
	case 8:
		*(volatile u64_any *)to = *(const volatile u64_any *)from;
		break;
	case 16:
	case 32:
	case 64:
		copy_words(to, from, n);
		break;
	default:
		copy_rep(to, from, n);
	}
}

/* Largest naturally aligned piece, at most 8 bytes, of `len` bytes at `at`. */
static inline unsigned natural_piece(u64 at, u64 len)
{
	unsigned size = 8;

	while (size > len || (at & (size - 1)))
		size /= 2;
	return size;
}

static inline u64 size_mask(unsigned size)
{
	return size >= 8 ? ~0ull : (1ull << (8 * size)) - 1;
}

#endif
