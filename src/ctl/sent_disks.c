#include "ctl/sent_disks.h"

#include <stdlib.h>
#include <string.h>

#include "state/migration.h"

/* ---- life ---- */

static int add(struct sent_disks *s, struct block *image, const char *id, struct error *e)
{
	struct sent_disk *d = &s->disk[s->count++];
	u64 end;

	*d = (struct sent_disk){ .image = image, .id = id };
	d->words = block_track_words(image);
	d->size = block_size(image);
	d->granules = calloc(d->words, sizeof(*d->granules));
	if (!d->granules)
		return error_set(e, "not enough host memory");
	d->track = block_track_start(image, NULL, NULL, e);
	if (!d->track)
		return -1;
	/* what may hold something but zeros; what it gets while this looks is noted by the track */
	for (u64 at = block_next_data(image, 0, &end); at < d->size; at = block_next_data(image, end, &end))
		for (u64 g = at / BLOCK_GRANULE; g < (end + BLOCK_GRANULE - 1) / BLOCK_GRANULE; g++)
			d->granules[g / 64] |= BIT(g % 64);
	return 0;
}

int sent_disks_start(struct sent_disks *s, struct machine *m, struct error *e)
{
	const struct machine_config *cfg = machine_config(m);

	s->count = 0;
	for (unsigned i = 0; i < cfg->disks; i++)
		if (!cfg->disk[i].image.readonly && add(s, machine_disk_image(m, i), cfg->disk[i].id, e))
			return -1;
	return 0;
}

void sent_disks_stop(struct sent_disks *s)
{
	for (unsigned i = 0; i < s->count; i++) {
		block_track_stop(s->disk[i].track);
		free(s->disk[i].granules);
	}
	s->count = 0;
}

/* ---- what has changed ---- */

u64 sent_disks_left(const struct sent_disks *s)
{
	u64 granules = 0;

	for (unsigned i = 0; i < s->count; i++)
		for (u64 w = 0; w < s->disk[i].words; w++)
			granules += (u64)__builtin_popcountll(s->disk[i].granules[w]);
	return granules * BLOCK_GRANULE;
}

u64 sent_disks_harvest(struct sent_disks *s)
{
	for (unsigned i = 0; i < s->count; i++)
		block_track_harvest(s->disk[i].track, s->disk[i].granules, true);
	return sent_disks_left(s);
}

u64 take_next_bit(u64 *map, u64 words, u64 from)
{
	for (u64 w = from / 64; w < words; w++) {
		u64 bits = map[w] & (w == from / 64 ? ~0ull << from % 64 : ~0ull);

		if (!bits)
			continue;
		map[w] &= ~(bits & -bits);
		return w * 64 + (u64)__builtin_ctzll(bits);
	}
	return words * 64;
}

u64 sent_disk_next(struct sent_disk *d, u64 from)
{
	return take_next_bit(d->granules, d->words, from);
}

/* ---- on their way ---- */

u32 sent_disk_bytes(const struct sent_disk *d, u64 granule)
{
	return (u32)MIN((u64)BLOCK_GRANULE, d->size - granule * BLOCK_GRANULE);
}

int sent_disk_read(const struct sent_disk *d, u64 granule, u8 *to, struct error *e)
{
	int rc = block_read_now(d->image, granule * BLOCK_GRANULE, to, sent_disk_bytes(d, granule));

	return rc ? error_errno(e, rc, "disk '%s' of the machine cannot be read", d->id) : 0;
}

int sent_disk_put(struct channel *ch, unsigned number, u64 offset, const u8 *p, u32 n, unsigned ms)
{
	bool zeros = !p[0] && !memcmp(p, p + 1, n - 1);
	struct encoder *out = channel_begin(ch, zeros ? MIGRATION_DISK_ZERO : MIGRATION_DISK);

	enc_u32(out, number);
	enc_u64(out, offset);
	if (zeros)
		enc_u64(out, n);
	else
		enc_bytes(out, p, n);
	return channel_send(ch, ms);
}

int sent_disks_send(struct sent_disks *s, struct channel *ch, unsigned ms,
		    int (*each)(void *opaque, u64 bytes, struct error *e), void *opaque, struct error *e)
{
	u8 *p = s->count ? malloc(BLOCK_GRANULE) : NULL;
	int r = s->count && !p ? error_set(e, "not enough host memory") : 0;

	for (unsigned i = 0; i < s->count && !r; i++) {
		struct sent_disk *d = &s->disk[i];

		for (u64 g = sent_disk_next(d, 0); g < d->words * 64 && !r; g = sent_disk_next(d, g)) {
			r = sent_disk_read(d, g, p, e);
			if (!r && sent_disk_put(ch, i, g * BLOCK_GRANULE, p, sent_disk_bytes(d, g), ms))
				r = error_set(e, "%s", ch->why.text);
			if (!r && each)
				r = each(opaque, sent_disk_bytes(d, g), e);
		}
	}
	free(p);
	return r;
}
