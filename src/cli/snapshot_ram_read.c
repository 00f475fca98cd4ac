/* Reading RAM of a snapshot and its bases, frame by frame, without holding it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "cli/snapshot_ram.h"

struct ram_reader {
	const struct ram_chain *c;
	ZSTD_DCtx *dctx;
	u8 *packed;
	/* the group that was unpacked last, of each level: what is read lies together */
	struct {
		const struct ram_group *is;
		u8 *frames;
	} last[RAM_CHAIN_MAX];
};

void ram_chain_close(struct ram_chain *c)
{
	for (unsigned i = 0; i < c->levels; i++) {
		struct ram_level *l = &c->level[i];

		if (l->fd >= 0)
			close(l->fd);
		ram_index_free(&l->index);
		free(l->path);
	}
	c->levels = 0;
}

struct ram_reader *ram_reader_open(const struct ram_chain *c)
{
	struct ram_reader *r = calloc(1, sizeof(*r));

	if (!r)
		return NULL;
	r->c = c;
	r->dctx = ZSTD_createDCtx();
	r->packed = malloc(ram_group_packed_max());
	if (r->dctx && r->packed)
		return r;
	ram_reader_close(r);
	return NULL;
}

void ram_reader_close(struct ram_reader *r)
{
	if (!r)
		return;
	ZSTD_freeDCtx(r->dctx);
	free(r->packed);
	for (unsigned i = 0; i < RAM_CHAIN_MAX; i++)
		free(r->last[i].frames);
	free(r);
}

/* ---- where something is ---- */

static u64 next_in_index(const struct ram_index *x, u64 frame, u64 none)
{
	u32 low = 0, high = x->count;

	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (x->group[mid].number < frame / RAM_GROUP_FRAMES)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < x->count; low++) {
		const struct ram_group *g = &x->group[low];
		u64 first = (u64)g->number * RAM_GROUP_FRAMES;
		u64 left = frame > first ? g->frames >> (frame - first) << (frame - first) : g->frames;

		if (left)
			return first + (u64)__builtin_ctzll(left);
	}
	return none;
}

u64 ram_reader_next(const struct ram_reader *r, u64 frame)
{
	u64 frames = r->c->size / PAGE_SIZE, next = frames;

	for (unsigned i = 0; i < r->c->levels && next > frame; i++) {
		const struct ram_level *l = &r->c->level[i];
		off_t at = l->indexed ? 0 : lseek(l->fd, (off_t)(frame * PAGE_SIZE), SEEK_DATA);

		if (l->indexed)
			next = MIN(next, next_in_index(&l->index, frame, frames));
		else if (at >= 0)
			next = MIN(next, (u64)at / PAGE_SIZE);
		else if (errno != ENXIO)
			next = frame; /* a file system that knows no holes */
	}
	return next;
}

/* The level that has `frame`, and in *n for how many frames from there on, at most *n before; *g: its group. */
static const struct ram_level *find_level(const struct ram_chain *c, u64 frame, u64 *n, const struct ram_group **g)
{
	u64 bit = frame % RAM_GROUP_FRAMES, others = 0;

	*g = NULL;
	*n = MIN(*n, RAM_GROUP_FRAMES - bit);
	for (unsigned i = 0; i < c->levels; i++) {
		const struct ram_level *l = &c->level[i];
		u64 mine, not_mine;

		*g = l->indexed ? ram_index_find(&l->index, (u32)(frame / RAM_GROUP_FRAMES)) : NULL;
		mine = l->indexed ? (*g ? (*g)->frames : 0) : UINT64_MAX;
		if (!(mine >> bit & 1)) {
			others |= mine;
			continue;
		}
		not_mine = (~mine | others) >> bit;
		if (not_mine)
			*n = MIN(*n, (u64)__builtin_ctzll(not_mine));
		return l;
	}
	*n = 1; /* nobody: zeros */
	return NULL;
}

/* ---- reading ---- */

static int read_file(const struct ram_level *l, u64 at, u64 n, u8 *to, struct error *e)
{
	while (n) {
		ssize_t got = pread(l->fd, to, n, (off_t)at);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return error_errno(e, got ? errno : EIO, "cannot read the RAM of snapshot %s", l->path);
		to += got;
		at += (u64)got;
		n -= (u64)got;
	}
	return 0;
}

int ram_group_unpack(const struct ram_level *l, const struct ram_group *g, void *dctx, u8 *packed, u8 *to,
		     struct error *e)
{
	size_t want = (size_t)__builtin_popcountll(g->frames) * PAGE_SIZE, got;

	if (read_file(l, g->at, g->len, packed, e))
		return -1;
	if (XXH3_64bits_withSeed(packed, g->len, g->number) != g->sum)
		return error_set(e, "%s/%s is damaged: a checksum is wrong", l->path, SNAPSHOT_RAM_PACKED);
	got = ZSTD_decompressDCtx(dctx, to, want, packed, g->len);
	if (ZSTD_isError(got) || got != want)
		return error_set(e, "%s/%s is damaged: it cannot be decompressed", l->path, SNAPSHOT_RAM_PACKED);
	return 0;
}

static int get_packed(struct ram_reader *r, const struct ram_level *l, const struct ram_group *g, u64 frame, u64 n,
		      u8 *to, struct error *e)
{
	u64 before = g->frames & (BIT(frame % RAM_GROUP_FRAMES) - 1);
	unsigned level = (unsigned)(l - r->c->level);
	u8 **frames = &r->last[level].frames;

	if (!*frames && !(*frames = malloc(RAM_GROUP_BYTES)))
		return error_set(e, "not enough memory");
	if (r->last[level].is != g) {
		r->last[level].is = NULL;
		if (ram_group_unpack(l, g, r->dctx, r->packed, *frames, e))
			return -1;
		r->last[level].is = g;
	}
	memcpy(to, *frames + (size_t)__builtin_popcountll(before) * PAGE_SIZE, n * PAGE_SIZE);
	return 0;
}

int ram_reader_get(struct ram_reader *r, u64 frame, u64 n, u8 *to, struct error *e)
{
	u64 run;

	for (; n; frame += run, n -= run, to += run * PAGE_SIZE) {
		const struct ram_group *g;
		const struct ram_level *l;
		int ret = 0;

		run = n;
		l = find_level(r->c, frame, &run, &g);
		if (!l)
			memset(to, 0, run * PAGE_SIZE);
		else if (g && l->index.packed)
			ret = get_packed(r, l, g, frame, run, to, e);
		else
			ret = read_file(l, frame * PAGE_SIZE, run * PAGE_SIZE, to, e);
		if (ret)
			return -1;
	}
	return 0;
}

int ram_chain_check(const struct ram_chain *c, struct error *e)
{
	struct ram_reader *r = ram_reader_open(c);
	u8 *buf = malloc(RAM_GROUP_BYTES);
	u64 frames = c->size / PAGE_SIZE, n;
	struct ram_sum sum = { 0 };
	int ret = r && buf ? 0 : error_set(e, "not enough memory");

	for (u64 at = 0; !ret && (at = ram_reader_next(r, at)) < frames; at += n) {
		n = MIN(RAM_GROUP_FRAMES - at % RAM_GROUP_FRAMES, frames - at);
		ret = ram_reader_get(r, at, n, buf, e);
		for (u64 i = 0; !ret && i < n; i++)
			if (!ram_page_zero(buf + i * PAGE_SIZE))
				ram_sum_add(&sum, at + i, buf + i * PAGE_SIZE);
	}
	if (!ret && (sum.pages != c->sum.pages || sum.sum != c->sum.sum))
		ret = error_set(e, "the RAM of snapshot %s%s is damaged: its checksum is wrong", c->level[0].path,
				c->levels > 1 ? ", or that of a base," : "");
	ram_reader_close(r);
	free(buf);
	return ret;
}
