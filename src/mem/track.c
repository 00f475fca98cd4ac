/*
 * Tracks of written frames, the side of the writers: note, with the hook, and
 * only then let anybody write. Runs while guest vector state may be live.
 *
 * Whoever is about to write looks at the frame's bit in `open` without a lock.
 * Clear, he takes the lock, under which each track that has not noted the frame
 * hears of it, sets its bit, and at last the one in `open`. So whoever finds
 * that set knows that all hooks have returned. Bits are cleared only by
 * track_harvest(), the world stopped (track_user.c).
 */
#include <sys/syscall.h>

#include "base/host_syscall.h"
#include "mem/track_priv.h"

#define SPINS 200 /* then the holder may not be running at all */

void track_lock(struct track_set *s)
{
	for (unsigned n = 0; __atomic_exchange_n(&s->lock, 1, __ATOMIC_ACQUIRE); n++) {
		if (n < SPINS)
			__builtin_ia32_pause();
		else
			host_syscall3(SYS_sched_yield, NULL, 0, 0);
	}
}

void track_unlock(struct track_set *s)
{
	__atomic_store_n(&s->lock, 0, __ATOMIC_RELEASE);
}

static void set_bit(u64 *map, u64 frame)
{
	__atomic_store_n(&map[frame / 64], map[frame / 64] | BIT(frame % 64), __ATOMIC_RELEASE);
}

static void note_in(struct track_set *s, struct track *t, u64 frame)
{
	if (track_bit(t->noted, frame))
		return;
	if (t->before)
		t->before(t->opaque, frame, t->m->ram + (frame << PAGE_SHIFT));
	set_bit(t->noted, frame);
	s->stats.noted++;
}

void track_note_locked(struct track_set *s, u64 frame)
{
	for (unsigned i = 0; i < s->count; i++)
		note_in(s, s->track[i], frame);
	set_bit(s->open, frame);
}

static void note_frames(struct track_set *s, u64 first, u64 n)
{
	for (u64 frame = first; frame < s->frames && frame - first < n; frame++) {
		if (track_bit(s->open, frame))
			continue;
		track_lock(s);
		if (s->count)
			track_note_locked(s, frame);
		track_unlock(s);
	}
}

void track_note_slow(struct memory *m, const u8 *host, u64 len)
{
	struct track_set *s = __atomic_load_n(&m->tracks, __ATOMIC_ACQUIRE);
	const u64 off = (u64)(host - m->ram);

	if (s && off < m->ram_size)
		note_frames(s, off >> PAGE_SHIFT, ((off & ~PAGE_MASK) + len + ~PAGE_MASK) >> PAGE_SHIFT);
}

void track_note(struct memory *m, u64 first, u64 n)
{
	struct track_set *s = __atomic_load_n(&m->tracks, __ATOMIC_ACQUIRE);

	if (s)
		note_frames(s, first, n);
}

bool track_any(const struct memory *m)
{
	return __atomic_load_n(&m->tracks, __ATOMIC_ACQUIRE);
}

bool track_noted(const struct track *t, u64 frame)
{
	return frame < t->m->ram_size >> PAGE_SHIFT && track_bit(t->noted, frame);
}

bool track_claim(struct track *t, u64 frame)
{
	struct track_set *s = t->m->tracks;
	bool open = true, first;

	if (frame >= s->frames)
		return false;
	track_lock(s);
	first = !track_bit(t->noted, frame);
	if (first)
		set_bit(t->noted, frame);
	for (unsigned i = 0; i < s->count; i++)
		open = open && track_bit(s->track[i]->noted, frame);
	if (open)
		set_bit(s->open, frame);
	track_unlock(s);
	return first;
}

void track_copy_out(void *area, u64 frame, const u8 *page)
{
	copy_rep((u8 *)area + (frame << PAGE_SHIFT), page, PAGE_SIZE);
}
