/*
 * The guest-physical map: RAM in one piece, ROM, aliases and MMIO.
 *
 * The map is a sorted table of regions; where regions overlap the one with
 * the higher priority wins. Lookups go through a flat view rebuilt when the
 * map changes.
 */
#ifndef ECTYPE_MEM_PHYSMEM_H
#define ECTYPE_MEM_PHYSMEM_H

#include "base/error.h"
#include "base/types.h"

/* Handlers of an MMIO or port region. `off` counts from the region's start.
 * The dispatcher splits accesses larger than max_size and widens none; an
 * access outside [min_size, max_size] after splitting, or beyond the region,
 * reads as all ones and writes nothing. Handlers so never see a bad size. */
struct io_ops {
	u64 (*read)(void *opaque, u64 off, unsigned size);
	void (*write)(void *opaque, u64 off, u64 val, unsigned size);
	u8 min_size, max_size; /* 1, 2, 4 or 8 */
};

/* Held while handlers run; may be taken again by its holder. */
struct io_guard {
	void (*lock)(void *opaque);
	void (*unlock)(void *opaque);
	void *opaque;
};
static inline void guard_lock(const struct io_guard *g)
{
	if (unlikely(g->lock))
		g->lock(g->opaque);
}
static inline void guard_unlock(const struct io_guard *g)
{
	if (unlikely(g->lock))
		g->unlock(g->opaque);
}

enum region_kind {
	REGION_RAM, /* host memory, readable and writable */
	REGION_ROM, /* host memory, writes ignored */
	REGION_MMIO,
};

struct region; /* handle */
struct memory;

/* Flags of a RAM page frame, for software engines. */
#define PAGE_CODE_INTERP 1u
#define PAGE_CODE_DBT 2u
#define PAGE_STORES 4u /* a processor may store to the frame all the same (engine-internal use) */
#define PAGE_CODE 3u   /* an engine holds decoded code of it: writes take the slow path */

/* Clears them in every frame, as an engine goes. */
void memory_clear_flags(struct memory *m, u8 flags);

/* Where a guest-physical page leads. */
struct page_target {
	u8 *host;	     /* host address of the page, NULL for MMIO and holes */
	bool writable;	     /* false: ROM */
	struct region *mmio; /* NULL for RAM, ROM and holes */
	u64 mmio_off;	     /* offset of the page within the region */
	u8 *flags;	     /* PAGE_* of the frame; NULL for MMIO and holes */
};

#define MEMORY_SHARED 1u    /* other processes map RAM too (vhost-user): in a memfd. Else it is anonymous memory */
#define MEMORY_MERGEABLE 2u /* the host may merge equal pages with those of other machines (KSM); not with SHARED */

/* RAM of `size` bytes (multiple of 4 KiB), mapped once, linearly. `flags`: MEMORY_*; memory_create() has none.
 * Nothing is mapped into the guest yet: memory_map_ram() does. */
struct memory *memory_create(u64 size, struct error *e);
struct memory *memory_create_as(u64 size, unsigned flags, struct error *e);
void memory_destroy(struct memory *m);

u8 *memory_ram(struct memory *m); /* host address of RAM offset 0 */
u64 memory_ram_size(const struct memory *m);
int memory_ram_fd(const struct memory *m); /* of MEMORY_SHARED, else -1 */

/*
 * The first piece of RAM at offset `from` or behind it that may hold anything but zeros, as far as the host knows
 * without reading it: returns its offset and in *end where it ends; the size of RAM if there is none. Pages, in order;
 * a piece may be cut in two. Reading what lies between makes the host provide it.
 */
u64 memory_next_data(const struct memory *m, u64 from, u64 *end);

/*
 * Maps [off, off + len) of the file `fd` over RAM [ram_off, ram_off + len), copy-on-write: read when it is touched, and
 * never written back. All multiples of 4 KiB; RAM is not MEMORY_SHARED, no track has been started (mem/track.h) and no
 * processor runs. The file has to keep its length: it is checked here, and a page that is cut off later ends the
 * process with one line (memory_file_lost()). `fd` can be closed afterwards. 0, or -1 with *e: that part of RAM is as
 * it was, or zeros if it was the host that refused.
 */
int memory_map_file(struct memory *m, u64 ram_off, int fd, u64 off, u64 len, struct error *e);
/*
 * All of RAM becomes what is at `area`: as many bytes of private anonymous memory, one mapping of the caller's, moved
 * and not copied. The same conditions. memory_area() makes such a mapping, of zeros and in huge pages if the host has
 * them; NULL with *e. 0; or -1 with *e, and nothing was changed.
 */
int memory_adopt(struct memory *m, void *area, struct error *e);
void *memory_area(u64 size, struct error *e);
/* Async-signal-safe, for who handles SIGBUS: is `addr` in RAM of a machine of this process that has pages of a file? */
bool memory_file_lost(const void *addr);

/* Map `len` bytes of RAM at offset `ram_off` to guest-physical `gpa`. All three map functions return NULL on
 * lack of memory. Of equal priorities the region mapped later wins. */
struct region *memory_map_ram(struct memory *m, gpa_t gpa, u64 ram_off, u64 len, int prio, const char *name);
/* Map host memory the caller owns and keeps alive (ROM images); page-aligned. */
struct region *memory_map_host(struct memory *m, gpa_t gpa, void *host, u64 len, enum region_kind kind, int prio,
			       const char *name);
struct region *memory_map_mmio(struct memory *m, gpa_t gpa, u64 len, const struct io_ops *ops, void *opaque, int prio,
			       const char *name);
/* Move, resize, show and hide: PCI BARs, ECAM, APIC base, PAM. */
void region_set(struct memory *m, struct region *r, gpa_t gpa, bool visible);
void region_set_len(struct memory *m, struct region *r, u64 len);
void region_remove(struct memory *m, struct region *r);

/* Told after the map changed or before a code page is written; set by the
 * engine layer. `page_written`: physical write of [gpa, gpa+len) to a page
 * with PAGE_CODE, called after the bytes were written; it may run while guest
 * vector state is live (general registers only), and one frame can be written
 * under another address than it was decoded at (aliases): page_target.flags
 * and .host identify it. */
struct memory_listener {
	void (*map_changed)(void *opaque);
	void (*page_written)(void *opaque, gpa_t gpa, unsigned len);
	void *opaque;
	/*
	 * Tracks (mem/track.h), the world stopped; NULL: does nothing. `track_armed`: frames were armed, so what lets
	 * a processor write without the MMU's slow path has to go; `on` is false when the last track ended.
	 * `track_collect`: before a harvest: report what a guest wrote unseen since the last time by track_note().
	 */
	void (*track_armed)(void *opaque, bool on);
	void (*track_collect)(void *opaque);
};
void memory_add_listener(struct memory *m, const struct memory_listener *l);
void memory_remove_listener(struct memory *m, void *opaque);
/* For writers that bypass memory_write (the MMU's slow path). */
void memory_notify_written(struct memory *m, gpa_t gpa, unsigned len);

/* Processors that run at once look the map up without a lock: who changes it stops their world. NULL: none do. */
struct world;
void memory_set_world(struct memory *m, struct world *w);
u64 memory_map_stops(const struct memory *m); /* how often */

/* Look up the page of `gpa`. False for a hole (host and mmio NULL). */
bool memory_page(struct memory *m, gpa_t gpa, struct page_target *t);

/* Access by device and loader: any length, crosses regions. MMIO is
 * dispatched in naturally aligned pieces of at most 8 bytes; holes read as all
 * ones. Writes to PAGE_CODE pages notify. Returns 0, or -1 if any part was a
 * hole or ROM (the rest is done all the same). */
int memory_read(struct memory *m, gpa_t gpa, void *dst, u64 len);
int memory_write(struct memory *m, gpa_t gpa, const void *src, u64 len);
/* Host pointer to [gpa, gpa+len) if it is contiguous RAM (or ROM when
 * !write), else NULL. Writers must call memory_notify_written afterwards. */
void *memory_ptr(struct memory *m, gpa_t gpa, u64 len, bool write);

/*
 * Gives the host's pages of RAM [gpa, gpa+len) back: they read as zeros from then on, and cost no host memory until
 * they are touched again. Whole pages of RAM that are one piece of memory_ptr(), else -1 and nothing changes.
 * PAGE_CODE pages notify. Not while vector state is live.
 */
int memory_discard(struct memory *m, gpa_t gpa, u64 len);

/* Of the handlers of MMIO regions; without, they are called as they are. */
void memory_set_guard(struct memory *m, const struct io_guard *g);

/* Dispatch one MMIO access (size 1 2 4 8; must not cross a page). The caller has parked the vector state. */
u64 region_mmio_read(struct region *r, u64 off, unsigned size);
void region_mmio_write(struct region *r, u64 off, u64 val, unsigned size);

/* What backs a range of guest-physical addresses: disjoint, ascending, one entry a region's visible piece. */
struct memory_range {
	gpa_t first, last; /* inclusive */
	u8 *host;	   /* of `first`; NULL for MMIO */
	enum region_kind kind;
};
/* Fills up to `max` of them, returns how many there are. Valid until the map changes. */
unsigned memory_ranges(const struct memory *m, struct memory_range *out, unsigned max);

/* Counts for --stats. */
struct memory_stats {
	u64 mmio_reads, mmio_writes;
};
const struct memory_stats *memory_stats(const struct memory *m);
/* Write the map, one region a line, for `info mtree`-like output. */
void memory_dump(struct memory *m, void (*line)(void *, const char *), void *opaque);

#endif
