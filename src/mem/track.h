/*
 * Which frames of RAM are written: for snapshots of a running machine, which
 * save a frame before it changes, and for migration, which sends again what
 * has changed.
 *
 * A *track* is one user's view. From track_start() on the first write to each
 * frame is noted in it: by processors of the software engines, page walks that
 * set accessed and dirty bits, devices, loaders, the debugger, memory_discard().
 * Frames are numbered by offset in RAM: frame n is memory_ram() + n * 4 KiB. A
 * frame may be noted that was not written, never the reverse:
 *
 *  - A frame is noted before it is written by whoever writes through the MMU,
 *    memory_write() and memory_discard(); a range of which somebody asks a
 *    pointer to write (memory_ptr()) is noted then, and once more by
 *    memory_notify_written(). So a transfer in flight while its frames are
 *    harvested is noted again when it ends. But a track with a hook is started
 *    with no transfer in flight: pause the devices first (device_ops.quiesce).
 *  - Guest code that runs in KVM is not seen here. The engine reports what KVM
 *    logged when a track is harvested (memory_listener.track_collect): the hook
 *    comes too late, a track with one is not for KVM.
 *  - Writes of other processes (vhost-user devices) are not seen:
 *    track_start() refuses where RAM is shared with such.
 *
 * Not armed, all this costs one load and a branch in slow paths. Armed, the
 * first write to each frame takes the MMU's slow path, later ones none.
 *
 * track_start(), track_stop() and track_harvest() are for the vCPU thread, or
 * who holds the machine's lock (machine_call()): they stop the world. The
 * other functions may be called by any thread while the track lasts.
 */
#ifndef ECTYPE_MEM_TRACK_H
#define ECTYPE_MEM_TRACK_H

#include "base/error.h"
#include "base/types.h"

struct memory;
struct track; /* handle */

#define TRACKS_MAX 4u

/*
 * Called before the first write to frame `frame`, whose 4 KiB at `page` still hold what they held; nobody writes to
 * the frame before it has returned. Once for each time the frame is armed, by any thread, one call at a time. It runs
 * while guest vector state may be live: general registers only (compiled so: src/mem), no library call, short; it
 * copies the page and returns. It is called for frames all the same when there is no more room for copies: then it
 * has to note that itself.
 */
typedef void track_hook(void *opaque, u64 frame, const u8 *page);

/* Words of 64 bits that a bitmap of all frames has: bit n % 64 of word n / 64 is frame n. */
u64 track_words(const struct memory *m);

/* Arms all frames. `before` may be NULL. NULL with *e: out of memory, TRACKS_MAX tracks are there, RAM is shared. */
struct track *track_start(struct memory *m, track_hook *before, void *opaque, struct error *e);
/* The handle is gone, as it is with memory_destroy(). NULL is allowed. */
void track_stop(struct track *t);

/*
 * The frames noted since they were armed last are OR-ed into `bitmap` (track_words(); NULL: not wanted), and with
 * `rearm` armed again, all at one time: no write falls in between. Returns how many.
 */
u64 track_harvest(struct track *t, u64 *bitmap, bool rearm);

/* A hook: copies the page into `area`, which is as large as RAM (anonymous memory costs only what is used), at its
 * offset in RAM. With track_claim() that is all a snapshot of a running machine needs. */
track_hook track_copy_out;

/* How many are noted now. */
u64 track_noted_count(const struct track *t);
/* Was the frame written since it was armed? True at the latest when a write to it can be seen. */
bool track_noted(const struct track *t, u64 frame);

/*
 * For who has copied an armed frame himself and needs the hook no more: true if it was not noted until now, so that
 * the copy is what the frame held when it was armed; it counts as noted from now on. False: the hook was called
 * before, and has returned, and the copy is worth nothing.
 */
bool track_claim(struct track *t, u64 frame);

/* Notes frames [first, first + n) in every track: for engines whose guest writes unseen, and for who writes to RAM by
 * other ways than those above. Frames beyond RAM are left out. General registers only. */
void track_note(struct memory *m, u64 first, u64 n);
/* Is there any track? An engine that is attached has to know. */
bool track_any(const struct memory *m);

struct track_stats {
	u64 noted;    /* frames, each time */
	u64 harvests; /* and starts */
	u64 stop_ns;  /* host time the world stood still for those, together, without the wait for it to stop */
};
struct track_stats track_stats(const struct memory *m);

#endif
