/* The disks in a snapshot: which files they are. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/snapshot.h"

int snapshot_file_identity(const char *path, u64 *size, u64 *written)
{
	struct stat st;

	if (stat(path, &st))
		return -1;
	snapshot_stat_identity(&st, size, written);
	return 0;
}

void snapshot_disks_write(const struct snapshot_disks *s, struct encoder *e)
{
	enc_u32(e, s->count);
	for (unsigned i = 0; i < s->count; i++) {
		const struct snapshot_disk *d = &s->disk[i];

		enc_u8(e, (u8)strlen(d->id));
		enc_bytes(e, d->id, strlen(d->id));
		enc_u16(e, (u16)strlen(d->path));
		enc_bytes(e, d->path, strlen(d->path));
		enc_u8(e, d->format == BLOCK_FORMAT_QCOW2 ? 2 : 1);
		enc_bool(e, d->writable);
		enc_u64(e, d->size);
		enc_u64(e, d->written);
	}
}

static bool get_text(struct decoder *d, char *out, size_t size, size_t n)
{
	if (!n || n >= size)
		return false;
	dec_bytes(d, out, n);
	out[n] = 0;
	return strlen(out) == n;
}

static bool read_disk(struct snapshot_disk *s, struct decoder *d)
{
	if (!get_text(d, s->id, sizeof(s->id), dec_u8(d)) || !get_text(d, s->path, sizeof(s->path), dec_u16(d)))
		return false;
	s->format = dec_u8(d) == 2 ? BLOCK_FORMAT_QCOW2 : BLOCK_FORMAT_RAW;
	s->writable = dec_bool(d);
	s->size = dec_u64(d);
	s->written = dec_u64(d);
	/* nothing between the directory and the whole file system */
	return !d->failed &&
	       (s->path[0] == '/' || (!strchr(s->path, '/') && strcmp(s->path, ".") && strcmp(s->path, "..")));
}

int snapshot_disks_read(struct snapshot_disks *s, struct decoder d)
{
	u32 count = dec_u32(&d);

	if (count > MACHINE_DISKS_MAX)
		return -1;
	for (s->count = 0; s->count < count; s->count++)
		if (!read_disk(&s->disk[s->count], &d))
			return -1;
	return dec_done(&d) ? 0 : -1;
}
