/*
 * RAM of a snapshot and its bases into a new machine. Frames come in runs of
 * one owner, the topmost snapshot that has them. Long runs of plain files are
 * mapped, the others read; groups that are compressed are unpacked by a thread
 * for each processor.
 *
 * A mapping costs some microseconds, and the host has a bound on them; a frame
 * that is read costs a microsecond, and memory. So a run has to be MAP_FRAMES
 * long to be mapped, more if there are more than MAPS_MAX such runs.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "base/thread.h"
#include "cli/snapshot_ram.h"

#define MAP_FRAMES 16u
#define MAPS_MAX 1024u
#define THREADS_MAX 64u
#define NOBODY 0xffu

struct load {
	const struct ram_chain *c;
	struct memory *m;
	u8 *ram;
	u64 frames;
	bool eager;
	u8 *owner;    /* of each frame: the level; NULL: all are of level 0 */
	u64 shortest; /* run that is mapped, frames */
	/* unpacking: groups are taken one after the other */
	pthread_mutex_t lock;
	unsigned level;
	u32 group;
	bool failed;
	struct error e;
};

/* ---- who has what ---- */

static int find_owners(struct load *l, struct error *e)
{
	const struct ram_level *last = &l->c->level[l->c->levels - 1];

	l->owner = malloc(l->frames);
	if (!l->owner)
		return error_set(e, "not enough memory");
	memset(l->owner, last->indexed ? (int)NOBODY : (int)(l->c->levels - 1), l->frames);
	for (unsigned i = l->c->levels; i--;) {
		const struct ram_index *x = &l->c->level[i].index;

		for (u32 k = 0; k < x->count; k++)
			for (u64 left = x->group[k].frames; left; left &= left - 1)
				l->owner[(u64)x->group[k].number * RAM_GROUP_FRAMES + (u64)__builtin_ctzll(left)] =
				    (u8)i;
	}
	return 0;
}

static u64 run_of(const struct load *l, u64 frame)
{
	const u8 *o = l->owner;
	u64 end = frame + 1;

	while (end < l->frames && o[end] == o[frame]) {
		/* eight at once, as long as these are equal to those before */
		while (end + 8 <= l->frames && end - frame >= 8 && !memcmp(o + end, o + end - 8, 8))
			end += 8;
		end += end < l->frames && o[end] == o[frame];
	}
	return end - frame;
}

/* Is what `frame` holds in a plain file other than that which is mapped from end to end? */
static bool in_pieces(const struct load *l, u64 frame)
{
	const struct ram_level *of = l->owner[frame] == NOBODY ? NULL : &l->c->level[l->owner[frame]];

	return of && !of->index.packed && (l->eager || of->indexed);
}

static void choose_shortest(struct load *l)
{
	u32 count[64] = { 0 }, sum = 0; /* runs of 2^i to 2^(i + 1) - 1 frames */
	unsigned i = 64;
	u64 n;

	for (u64 at = 0; at < l->frames; at += n) {
		n = run_of(l, at);
		count[63 - __builtin_clzll(n)] += in_pieces(l, at);
	}
	while (i && (sum += count[i - 1]) <= MAPS_MAX)
		i--;
	l->shortest = l->eager ? UINT64_MAX : MAX((u64)MAP_FRAMES, BIT(MIN(i, 63u)));
}

/* ---- plain files ---- */

static int read_piece(const struct load *l, const struct ram_level *of, u64 at, u64 end, struct error *e)
{
	while (at < end) {
		ssize_t got = pread(of->fd, l->ram + at, end - at, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return error_errno(e, got ? errno : EIO, "cannot read the RAM of snapshot %s", of->path);
		at += (u64)got;
	}
	return 0;
}

/* Holes are left out where RAM is zeros anyway. */
static int read_run(const struct load *l, const struct ram_level *of, u64 at, u64 end, struct error *e)
{
	while (l->eager && at < end) {
		off_t data = lseek(of->fd, (off_t)at, SEEK_DATA), hole;

		if ((data < 0 && errno == ENXIO) || data >= (off_t)end)
			return 0;
		if (data < 0)
			break; /* a file system that knows no holes */
		hole = lseek(of->fd, data, SEEK_HOLE);
		if (hole <= data || hole > (off_t)end)
			hole = (off_t)end;
		if (read_piece(l, of, (u64)data, (u64)hole, e))
			return -1;
		at = (u64)hole;
	}
	return at < end ? read_piece(l, of, at, end, e) : 0;
}

static int load_runs(const struct load *l, struct error *e)
{
	u64 n;

	for (u64 at = 0; at < l->frames; at += n) {
		const struct ram_level *of = &l->c->level[l->owner[at] == NOBODY ? 0 : l->owner[at]];
		u64 off = at * PAGE_SIZE;
		int ret;

		n = run_of(l, at);
		if (!in_pieces(l, at))
			continue;
		ret = n >= l->shortest ? memory_map_file(l->m, off, of->fd, off, n * PAGE_SIZE, e)
				       : read_run(l, of, off, off + n * PAGE_SIZE, e);
		if (ret)
			return -1;
	}
	return 0;
}

/* ---- compressed ones ---- */

/* The next group that somebody needs; false: there is none, or something failed. */
static bool take_group(struct load *l, unsigned *level, const struct ram_group **g)
{
	bool found = false;

	pthread_mutex_lock(&l->lock);
	while (!found && !l->failed && l->level < l->c->levels) {
		const struct ram_level *of = &l->c->level[l->level];

		if (!of->index.packed || l->group == of->index.count) {
			l->level++;
			l->group = 0;
			continue;
		}
		*g = &of->index.group[l->group++];
		*level = l->level;
		found = true;
	}
	pthread_mutex_unlock(&l->lock);
	return found;
}

static bool needed(const struct load *l, unsigned level, const struct ram_group *g)
{
	for (u64 left = g->frames; left; left &= left - 1)
		if (l->owner[(u64)g->number * RAM_GROUP_FRAMES + (u64)__builtin_ctzll(left)] == level)
			return true;
	return false;
}

static void place(const struct load *l, unsigned level, const struct ram_group *g, const u8 *from)
{
	for (u64 left = g->frames; left; left &= left - 1, from += PAGE_SIZE) {
		u64 frame = (u64)g->number * RAM_GROUP_FRAMES + (u64)__builtin_ctzll(left);

		if (l->owner[frame] == level && !(l->c->levels == 1 && ram_page_zero(from)))
			memcpy(l->ram + frame * PAGE_SIZE, from, PAGE_SIZE);
	}
}

static void *unpack(void *opaque)
{
	struct load *l = opaque;
	ZSTD_DCtx *dctx = ZSTD_createDCtx();
	u8 *packed = malloc(ram_group_packed_max()), *raw = malloc(RAM_GROUP_BYTES);
	const struct ram_group *g;
	unsigned level;
	struct error e;

	while (take_group(l, &level, &g)) {
		int ret = 0;

		if (!dctx || !packed || !raw)
			ret = error_set(&e, "not enough memory");
		else if (needed(l, level, g))
			ret = ram_group_unpack(&l->c->level[level], g, dctx, packed, raw, &e);
		if (ret) {
			pthread_mutex_lock(&l->lock);
			l->failed = true;
			l->e = e;
			pthread_mutex_unlock(&l->lock);
		} else if (needed(l, level, g)) {
			place(l, level, g, raw);
		}
	}
	ZSTD_freeDCtx(dctx);
	free(packed);
	free(raw);
	return NULL;
}

static int unpack_all(struct load *l, struct error *e)
{
	pthread_t thread[THREADS_MAX];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned n = 0, wanted = (unsigned)MIN(MAX(cpus, 1l), (long)THREADS_MAX);

	while (n + 1 < wanted && !thread_start(&thread[n], unpack, l))
		n++;
	unpack(l);
	while (n)
		pthread_join(thread[--n], NULL);
	if (l->failed)
		*e = l->e;
	return l->failed ? -1 : 0;
}

/* ---- all of it ---- */

static int check_sum(const struct load *l, struct error *e)
{
	struct ram_sum sum = { 0 };
	u64 end, size = l->c->size;

	for (u64 at = memory_next_data(l->m, 0, &end); at < size; at = memory_next_data(l->m, end, &end))
		for (; at < end; at += PAGE_SIZE)
			if (!ram_page_zero(l->ram + at))
				ram_sum_add(&sum, at / PAGE_SIZE, l->ram + at);
	if (sum.pages == l->c->sum.pages && sum.sum == l->c->sum.sum)
		return 0;
	return error_set(e, "the RAM of snapshot %s%s is damaged: its checksum is wrong", l->c->level[0].path,
			 l->c->levels > 1 ? ", or that of a base," : "");
}

static bool any_packed(const struct ram_chain *c)
{
	for (unsigned i = 0; i < c->levels; i++)
		if (c->level[i].index.packed)
			return true;
	return false;
}

static int load(struct load *l, struct error *e)
{
	const struct ram_level *last = &l->c->level[l->c->levels - 1];

	if (!l->eager && !last->indexed && memory_map_file(l->m, 0, last->fd, 0, l->c->size, e))
		return -1;
	if (!l->eager && !l->c->level[0].indexed)
		return 0;
	if (find_owners(l, e))
		return -1;
	choose_shortest(l);
	if (load_runs(l, e) || (any_packed(l->c) && unpack_all(l, e)))
		return -1;
	return l->eager ? check_sum(l, e) : 0;
}

int ram_chain_load(const struct ram_chain *c, struct memory *m, bool eager, struct error *e)
{
	struct load l = { .c = c, .m = m, .ram = memory_ram(m), .frames = c->size / PAGE_SIZE, .eager = eager };
	int ret;

	if (memory_ram_size(m) != c->size)
		return error_set(e, "the RAM of the snapshot is not of the machine's size");
	pthread_mutex_init(&l.lock, NULL);
	ret = load(&l, e);
	pthread_mutex_destroy(&l.lock);
	free(l.owner);
	return ret;
}
