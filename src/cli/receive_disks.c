#include "cli/receive_disks.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "backend/block/track.h"
#include "cli/new_file.h"
#include "state/migration.h"

#define DISK_MAX (1024 * 1024 * GiB)
#define FLUSH_BYTES (64 * MiB) /* written meanwhile: what the last flush finds, and how long one takes, is bounded */

/* ---- what comes ---- */

int disk_piece_read(const struct stream_section *s, const u64 *size, unsigned disks, struct disk_piece *out)
{
	struct decoder d = stream_decoder(s);
	bool zeros = !strcmp(s->name, MIGRATION_DISK_ZERO);

	if (!zeros && strcmp(s->name, MIGRATION_DISK))
		return 0;
	out->disk = dec_u32(&d);
	out->offset = dec_u64(&d);
	out->n = zeros ? dec_u64(&d) : d.len - d.pos;
	out->data = zeros ? NULL : d.data + d.pos;
	if (d.failed || (zeros && !dec_done(&d)) || out->disk >= disks || out->offset % BLOCK_GRANULE ||
	    out->offset >= size[out->disk] || out->n != MIN((u64)BLOCK_GRANULE, size[out->disk] - out->offset))
		return -1;
	return 1;
}

static bool read_size(struct received_disks *d, unsigned n, struct decoder *in)
{
	u8 len = dec_u8(in);

	dec_bytes(in, d->id[n], len);
	d->id[n][len] = 0;
	d->size[n] = dec_u64(in);
	d->image[n] = NULL;
	d->fd[n] = -1;
	return !in->failed && d->size[n] && !(d->size[n] % BLOCK_SECTOR) && d->size[n] <= DISK_MAX;
}

int received_disks_read(struct received_disks *d, const struct stream *offer)
{
	const struct stream_section *s = stream_find(offer, MIGRATION_DISKS);
	struct decoder in;
	u32 count;

	d->count = 0;
	d->unflushed = 0;
	if (!s)
		return 0;
	in = stream_decoder(s);
	count = dec_u32(&in);
	if (count > MACHINE_DISKS_MAX)
		return -1;
	for (unsigned i = 0; i < count; i++)
		if (!read_size(d, i, &in))
			return -1;
	d->count = count;
	return dec_done(&in) ? 0 : -1;
}

/* ---- files ---- */

int received_disks_place(struct received_disks *d, unsigned n, int fd, const char *path, struct error *e)
{
	d->fd[n] = fd;
	if (ftruncate(fd, (off_t)d->size[n]) || fsync(fd))
		return error_errno(e, errno, "cannot make %s for the copy of disk '%s'", path, d->id[n]);
	sync_parent(path);
	return 0;
}

int received_disks_open(struct received_disks *d, unsigned n, const char *path, struct error *e)
{
	const struct block_config image = { .path = path, .format = BLOCK_FORMAT_RAW, .threads = true };

	d->image[n] = block_open(&image, e);
	return d->image[n] ? 0 : -1;
}

int received_disks_flush(struct received_disks *d, struct error *e)
{
	for (unsigned i = 0; i < d->count; i++)
		if (d->fd[i] >= 0 && fdatasync(d->fd[i]))
			return error_errno(e, errno, "the copy of disk '%s' cannot be written", d->id[i]);
	d->unflushed = 0;
	return 0;
}

int received_disks_close(struct received_disks *d, struct error *e)
{
	int r = received_disks_flush(d, e);

	for (unsigned i = 0; i < d->count; i++) {
		int rc = block_close(d->image[i]);

		d->image[i] = NULL;
		if (d->fd[i] >= 0)
			close(d->fd[i]);
		d->fd[i] = -1;
		if (rc && !r)
			r = error_errno(e, rc, "the copy of disk '%s' cannot be written", d->id[i]);
	}
	return r;
}

int received_disks_take(struct received_disks *d, const struct stream_section *s, struct error *e)
{
	static const u8 zeros[BLOCK_GRANULE];
	struct disk_piece p;
	int r = disk_piece_read(s, d->size, d->count, &p);

	if (r < 0 || (r && !d->image[p.disk]))
		return error_set(e, "what the source sends of disks is not sound");
	if (!r)
		return 0;
	r = block_write_now(d->image[p.disk], p.offset, p.data ? p.data : zeros, p.n);
	if (r)
		return error_errno(e, r, "the copy of disk '%s' cannot be written", d->id[p.disk]);
	d->unflushed += p.n;
	return d->unflushed >= FLUSH_BYTES && received_disks_flush(d, e) ? -1 : 1;
}
