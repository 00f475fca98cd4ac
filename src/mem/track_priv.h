/* Inside of tracks, for who writes to RAM. Private to src/mem. */
#ifndef ECTYPE_MEM_TRACK_PRIV_H
#define ECTYPE_MEM_TRACK_PRIV_H

#include "mem/physmem_priv.h"
#include "mem/track.h"

struct track {
	struct memory *m;
	track_hook *before;
	void *opaque;
	u64 *noted; /* a bit a frame; written under the lock of the set */
};

/* All tracks of a machine's RAM. Made with the first, and kept: who has found it may look at any time. */
struct track_set {
	u32 lock;
	unsigned count;
	u64 frames;
	/* A bit a frame: every track has noted it, so that it may be written without more ado. */
	u64 *open;
	struct track *track[TRACKS_MAX];
	struct track_stats stats;
};

/* General registers only; held for a page's copy at the longest. */
void track_lock(struct track_set *s);
void track_unlock(struct track_set *s);
/* With the lock: `frame` is noted in every track, after its hook. */
void track_note_locked(struct track_set *s, u64 frame);
void track_note_slow(struct memory *m, const u8 *host, u64 len);

static inline bool track_bit(const u64 *map, u64 frame)
{
	return __atomic_load_n(&map[frame / 64], __ATOMIC_ACQUIRE) & BIT(frame % 64);
}

/* Has a write to the frame at `host` to be noted first? */
static inline bool track_pending(const struct memory *m, const u8 *host)
{
	const struct track_set *s = __atomic_load_n(&m->tracks, __ATOMIC_ACQUIRE);
	u64 frame;

	if (likely(!s))
		return false;
	frame = (u64)(host - m->ram) >> PAGE_SHIFT;
	return frame < s->frames && !track_bit(s->open, frame);
}

/* [host, host + len) is going to be written, or was. `len` is not 0; what is not RAM of memory_create() is left out. */
static inline void track_write(struct memory *m, const u8 *host, u64 len)
{
	if (unlikely(__atomic_load_n(&m->tracks, __ATOMIC_RELAXED) != NULL))
		track_note_slow(m, host, len);
}

#endif
