#include "ctl/checkpoint.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ctl/limits.h"
#include "ctl/sent_disks.h"
#include "machine/state.h"
#include "mem/track.h"
#include "state/migration.h"
#include "state/protection.h"
#include "state/ram.h"

#define COPIES_MAX (CHECKPOINT_ROOM / PAGE_SIZE)
#define GRANULES_MAX ((unsigned)(CHECKPOINT_ROOM / BLOCK_GRANULE))
#define WARM (16 * MiB)	    /* of the room that is kept between checkpoints */
#define STATE_BLOCK 256u    /* state is compared in such pieces */
#define STATE_GAP_MAX 1024u /* equal bytes that are sent along between two that differ */

/* Frames that lie together, copied aside. */
struct copy {
	u64 offset, n;	/* in RAM, bytes */
	const u8 *data; /* NULL: zeros, which need no room */
};

/* A granule of a disk, copied aside. */
struct granule {
	unsigned disk;
	u64 offset;
	u32 n;
	const u8 *data;
};

struct checkpoint {
	struct machine *m;
	struct memory *mem;
	struct track *track;
	u64 words;
	u64 *frames; /* bitmap: changed, and not sent nor copied */
	u8 *room;    /* CHECKPOINT_ROOM */
	struct copy *copy;
	u64 copies, used, dirty;
	struct sent_disks disks;
	struct granule granule[GRANULES_MAX];
	unsigned granules;
	struct encoder state, sent_state;
};

/* ---- life ---- */

/* What may hold something but zeros. */
static void note_data(struct checkpoint *c)
{
	u64 size = memory_ram_size(c->mem), end;

	for (u64 at = memory_next_data(c->mem, 0, &end); at < size; at = memory_next_data(c->mem, end, &end))
		for (u64 f = at / PAGE_SIZE; f < (end + PAGE_SIZE - 1) / PAGE_SIZE; f++)
			c->frames[f / 64] |= BIT(f % 64);
}

static void free_checkpoint(struct checkpoint *c)
{
	sent_disks_stop(&c->disks);
	if (c->room && c->room != MAP_FAILED)
		munmap(c->room, CHECKPOINT_ROOM);
	free(c->frames);
	free(c->copy);
	enc_free(&c->state);
	enc_free(&c->sent_state);
	free(c);
}

struct checkpoint *checkpoint_create(struct machine *m, struct error *e)
{
	struct checkpoint *c = calloc(1, sizeof(*c));

	if (!c) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	c->m = m;
	c->mem = machine_memory(m);
	c->words = track_words(c->mem);
	c->frames = calloc(c->words, sizeof(*c->frames));
	c->copy = malloc(COPIES_MAX * sizeof(*c->copy));
	c->room =
	    mmap(NULL, CHECKPOINT_ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (!c->frames || !c->copy || c->room == MAP_FAILED)
		error_set(e, "not enough host memory");
	else if (!sent_disks_start(&c->disks, m, e))
		c->track = track_start(c->mem, NULL, NULL, e);
	if (!c->track) {
		free_checkpoint(c);
		return NULL;
	}
	note_data(c);
	return c;
}

static void stop_track(void *opaque)
{
	struct checkpoint *c = opaque;

	track_stop(c->track);
	c->track = NULL;
}

void checkpoint_destroy(struct checkpoint *c)
{
	if (!c)
		return;
	/* a machine that has ended takes its tracks with it */
	machine_call_within(c->m, stop_track, c, CTL_ORDER_MS);
	free_checkpoint(c);
}

/* ---- what has changed ---- */

u64 checkpoint_collect(struct checkpoint *c)
{
	u64 frames = 0;

	track_harvest(c->track, c->frames, true);
	for (u64 i = 0; i < c->words; i++)
		frames += (u64)__builtin_popcountll(c->frames[i]);
	return frames * PAGE_SIZE + sent_disks_harvest(&c->disks);
}

static u64 next_frame(struct checkpoint *c, u64 from)
{
	return take_next_bit(c->frames, c->words, from);
}

/* ---- RAM on its way ---- */

/* Frames that are sent in order: those that lie together go together. */
struct frames {
	struct channel *ch;
	unsigned ms;
	bool open, zeros; /* what has begun: zeros, or data in the channel's section */
	u64 start, end;
	struct encoder *out;
};

static int frames_flush(struct frames *f)
{
	if (!f->open)
		return 0;
	f->open = false;
	if (f->zeros) {
		f->out = channel_begin(f->ch, MIGRATION_ZERO);
		enc_u64(f->out, f->start);
		enc_u64(f->out, f->end - f->start);
	}
	return channel_send(f->ch, f->ms);
}

/* `page` does not change any more. */
static int frames_add(struct frames *f, u64 offset, const u8 *page)
{
	bool zeros = ram_page_zero(page);

	if (f->open && (f->zeros != zeros || f->end != offset || (!zeros && f->end - f->start >= MIGRATION_PIECE)) &&
	    frames_flush(f))
		return -1;
	if (!f->open) {
		f->open = true;
		f->zeros = zeros;
		f->start = offset;
		if (!zeros) {
			f->out = channel_begin(f->ch, RAM_DATA);
			enc_u64(f->out, offset);
		}
	}
	if (!zeros)
		enc_bytes(f->out, page, PAGE_SIZE);
	f->end = offset + PAGE_SIZE;
	return 0;
}

/* What the bitmap has, from RAM itself. */
static int send_frames(struct checkpoint *c, struct channel *ch, unsigned ms)
{
	struct frames f = { .ch = ch, .ms = ms };
	const u8 *ram = memory_ram(c->mem);
	u8 page[PAGE_SIZE];

	for (u64 n = next_frame(c, 0); n < c->words * 64; n = next_frame(c, n)) {
		/* the guest may write to it meanwhile */
		memcpy(page, ram + n * PAGE_SIZE, PAGE_SIZE);
		if (frames_add(&f, n * PAGE_SIZE, page))
			return -1;
	}
	return frames_flush(&f);
}

int checkpoint_send_live(struct checkpoint *c, struct channel *ch, unsigned ms, struct error *e)
{
	if (send_frames(c, ch, ms))
		return error_set(e, "%s", ch->why.text);
	return sent_disks_send(&c->disks, ch, ms, NULL, NULL, e);
}

/* ---- a checkpoint ---- */

static void copy_frame(struct checkpoint *c, u64 offset)
{
	const u8 *page = (const u8 *)memory_ram(c->mem) + offset;
	struct copy *last = c->copies ? &c->copy[c->copies - 1] : NULL;
	bool zeros = ram_page_zero(page);

	if (!last || last->offset + last->n != offset || zeros != !last->data) {
		last = &c->copy[c->copies++];
		*last = (struct copy){ .offset = offset, .data = zeros ? NULL : c->room + c->used };
	}
	last->n += PAGE_SIZE;
	if (zeros)
		return;
	memcpy(c->room + c->used, page, PAGE_SIZE);
	c->used += PAGE_SIZE;
}

static void copy_frames(struct checkpoint *c)
{
	u64 n = 0;

	while (c->used <= CHECKPOINT_ROOM - PAGE_SIZE && c->copies < COPIES_MAX) {
		n = next_frame(c, n);
		if (n >= c->words * 64)
			return;
		copy_frame(c, n * PAGE_SIZE);
	}
}

/* The machine is held: what is read is of that moment. */
static int copy_granules(struct checkpoint *c, struct error *e)
{
	for (unsigned i = 0; i < c->disks.count; i++) {
		struct sent_disk *d = &c->disks.disk[i];
		u64 g = 0;

		while (c->used <= CHECKPOINT_ROOM - BLOCK_GRANULE && c->granules < GRANULES_MAX) {
			u8 *to = c->room + c->used;

			g = sent_disk_next(d, g);
			if (g >= d->words * 64)
				break;
			if (sent_disk_read(d, g, to, e))
				return -1;
			c->granule[c->granules++] = (struct granule){ i, g * BLOCK_GRANULE, sent_disk_bytes(d, g), to };
			c->used += BLOCK_GRANULE;
		}
	}
	return 0;
}

static int send_copy(const struct copy *k, struct channel *ch, unsigned ms)
{
	struct encoder *out;

	if (!k->data) {
		out = channel_begin(ch, MIGRATION_ZERO);
		enc_u64(out, k->offset);
		enc_u64(out, k->n);
		return channel_send(ch, ms);
	}
	for (u64 at = 0; at < k->n; at += MIGRATION_PIECE) {
		out = channel_begin(ch, RAM_DATA);
		enc_u64(out, k->offset + at);
		enc_bytes(out, k->data + at, MIN(k->n - at, (u64)MIGRATION_PIECE));
		if (channel_send(ch, ms))
			return -1;
	}
	return 0;
}

static int save_state(struct checkpoint *c, struct error *e)
{
	struct stream_writer w;

	c->state.len = 0;
	stream_begin(&w, &c->state);
	machine_save(c->m, &w);
	stream_finish(&w);
	if (c->state.failed || c->state.len > PROTECTION_STATE_MAX)
		return error_set(e, "not enough host memory for the state of the machine");
	return 0;
}

int checkpoint_take(struct checkpoint *c, struct error *e)
{
	c->copies = c->used = c->granules = 0;
	if (machine_quiesce_devices(c->m, e))
		return -1;
	c->dirty = checkpoint_collect(c);
	if (save_state(c, e))
		return -1;
	if (copy_granules(c, e))
		return -1;
	copy_frames(c);
	return 0;
}

u64 checkpoint_dirty(const struct checkpoint *c)
{
	return c->dirty;
}

bool checkpoint_fits(const struct checkpoint *c)
{
	for (u64 i = 0; i < c->words; i++)
		if (c->frames[i])
			return false;
	return !sent_disks_left(&c->disks);
}

/* Is block `at` other than it was sent last time? */
static bool state_differs(const struct checkpoint *c, size_t at)
{
	size_t n = MIN(c->state.len - at, (size_t)STATE_BLOCK);

	return at + n > c->sent_state.len || memcmp(c->state.data + at, c->sent_state.data + at, n);
}

/* Pieces of the state that differ from what the peer has. */
static int send_state(struct checkpoint *c, struct channel *ch, unsigned ms)
{
	size_t at = 0, end, last;

	while (at < c->state.len) {
		struct encoder *out;

		if (!state_differs(c, at)) {
			at += STATE_BLOCK;
			continue;
		}
		for (last = end = at;
		     end < c->state.len && end - at < PROTECTION_PIECE - STATE_BLOCK && end - last <= STATE_GAP_MAX;
		     end += STATE_BLOCK)
			if (state_differs(c, end))
				last = end;
		end = MIN(last + STATE_BLOCK, c->state.len);
		out = channel_begin(ch, PROTECTION_STATE);
		enc_u64(out, at);
		enc_bytes(out, c->state.data + at, end - at);
		if (channel_send(ch, ms))
			return -1;
		at = end;
	}
	return 0;
}

int checkpoint_send(struct checkpoint *c, struct channel *ch, unsigned ms, struct error *e)
{
	struct encoder was;

	for (u64 i = 0; i < c->copies; i++)
		if (send_copy(&c->copy[i], ch, ms))
			return error_set(e, "%s", ch->why.text);
	for (unsigned i = 0; i < c->granules; i++) {
		const struct granule *g = &c->granule[i];

		if (sent_disk_put(ch, g->disk, g->offset, g->data, g->n, ms))
			return error_set(e, "%s", ch->why.text);
	}
	if (sent_disks_send(&c->disks, ch, ms, NULL, NULL, e))
		return -1;
	if (send_frames(c, ch, ms) || send_state(c, ch, ms))
		return error_set(e, "%s", ch->why.text);
	was = c->sent_state;
	c->sent_state = c->state;
	c->state = was;
	if (c->used > WARM)
		madvise(c->room + WARM, CHECKPOINT_ROOM - WARM, MADV_DONTNEED);
	c->copies = c->used = c->granules = 0;
	return 0;
}

u64 checkpoint_state_bytes(const struct checkpoint *c)
{
	return c->sent_state.len;
}
