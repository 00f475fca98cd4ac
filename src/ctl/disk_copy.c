#include "ctl/disk_copy.h"

#include <stdlib.h>
#include <string.h>

#include "backend/block/copy.h"
#include "state/disk.h"
#include "state/stream.h"

struct disk {
	const char *id;
	struct block_copy *copy;
	struct ram_sum sum;
	bool above;	    /* backing files that the client has */
	u64 zero_at, zeros; /* bytes to be told of together */
	bool done;
};

struct disk_copies {
	struct disk disk[MACHINE_DISKS_MAX];
	unsigned count;
	u8 piece[BLOCK_COPY_PIECE];
};

static void describe(struct stream_writer *w, unsigned number, const struct disk *d, u64 size)
{
	stream_section_begin(w, DISK_SIZE, STREAM_REQUIRED);
	enc_u8(w->to, (u8)number);
	enc_u8(w->to, (u8)strlen(d->id));
	enc_bytes(w->to, d->id, strlen(d->id));
	enc_u64(w->to, size);
	if (d->above)
		enc_u8(w->to, 1);
	stream_section_end(w);
}

/* Is the disk what the client takes it for? Else all of it is copied. */
static const struct block_file *find_backing(const struct disk_backings *backing, const char *id, struct block *b)
{
	for (unsigned i = 0; i < backing->count; i++) {
		const struct disk_backing *d = &backing->disk[i];

		if (!strcmp(d->id, id) && block_builds_on(b, d->file, d->files))
			return &d->file[0];
	}
	return NULL;
}

struct disk_copies *disk_copies_start(struct machine *m, const struct disk_backings *backing, struct stream_writer *w,
				      struct error *e)
{
	const struct machine_config *cfg = machine_config(m);
	struct disk_copies *c = calloc(1, sizeof(*c));
	struct error inner;

	if (!c) {
		error_set(e, "not enough host memory");
		return NULL;
	}
	for (unsigned i = 0; i < cfg->disks; i++) {
		struct block *b = machine_disk_image(m, i);
		struct disk *d = &c->disk[c->count];
		const struct block_file *below;

		if (cfg->disk[i].image.readonly)
			continue;
		d->id = cfg->disk[i].id;
		below = find_backing(backing, d->id, b);
		d->above = below;
		d->copy = block_copy_start(b, below, &inner);
		if (!d->copy) {
			error_set(e, "disk '%s': %s", d->id, inner.text);
			disk_copies_end(c);
			return NULL;
		}
		describe(w, c->count++, d, block_size(b));
	}
	return c;
}

bool disk_copies_urgent(struct disk_copies *c)
{
	bool urgent = false;

	for (unsigned i = 0; i < c->count && !urgent; i++)
		urgent = !c->disk[i].done && block_copy_urgent(c->disk[i].copy);
	return urgent;
}

/* Blocks that are not zeros, as many as lie together, are a section. */
static void add_piece(struct disk_copies *c, unsigned number, struct stream_writer *w, u64 offset, u64 n)
{
	bool open = false;

	for (u64 at = 0; at < n; at += DISK_BLOCK) {
		u64 len = MIN(n - at, DISK_BLOCK);
		bool zero = disk_block_zero(c->piece + at, len);

		if (open && zero)
			stream_section_end(w);
		if (!open && !zero) {
			stream_section_begin(w, DISK_DATA, STREAM_REQUIRED);
			enc_u8(w->to, (u8)number);
			enc_u64(w->to, offset + at);
		}
		open = !zero;
		if (!open)
			continue;
		enc_bytes(w->to, c->piece + at, len);
		disk_sum_add(&c->disk[number].sum, offset + at, c->piece + at, len);
	}
	if (open)
		stream_section_end(w);
}

static void add_zeros(struct disk *d, unsigned number, struct stream_writer *w)
{
	if (!d->zeros)
		return;
	stream_section_begin(w, DISK_ZERO, STREAM_REQUIRED);
	enc_u8(w->to, (u8)number);
	enc_u64(w->to, d->zero_at);
	enc_u64(w->to, d->zeros);
	stream_section_end(w);
	d->zeros = 0;
}

/* Zeros hide what is below: they are content like any other, but for the room they take. */
static void add_above(struct disk_copies *c, unsigned number, struct stream_writer *w, u64 offset, u64 n)
{
	struct disk *d = &c->disk[number];

	if (disk_block_zero(c->piece, n)) {
		if (offset != d->zero_at + d->zeros) {
			add_zeros(d, number, w);
			d->zero_at = offset;
		}
		d->zeros += n;
		return;
	}
	stream_section_begin(w, DISK_DATA, STREAM_REQUIRED);
	enc_u8(w->to, (u8)number);
	enc_u64(w->to, offset);
	enc_bytes(w->to, c->piece, n);
	stream_section_end(w);
	for (u64 at = 0; at < n; at += DISK_BLOCK)
		disk_sum_add(&d->sum, offset + at, c->piece + at, MIN(n - at, DISK_BLOCK));
}

static void add_sum(struct disk *d, unsigned number, struct stream_writer *w)
{
	add_zeros(d, number, w);
	stream_section_begin(w, DISK_SUM, STREAM_REQUIRED);
	enc_u8(w->to, (u8)number);
	enc_u64(w->to, d->sum.pages);
	enc_u64(w->to, d->sum.sum);
	stream_section_end(w);
	d->done = true;
}

/* The disk whose turn it is: an urgent one; else the first that is not done; NULL: none. */
static struct disk *choose(struct disk_copies *c)
{
	struct disk *found = NULL;

	for (unsigned i = c->count; i--;) {
		struct disk *d = &c->disk[i];

		if (!d->done && block_copy_urgent(d->copy))
			return d;
		if (!d->done)
			found = d;
	}
	return found;
}

/* There is something to be sent all the same. */
static void add_nothing(unsigned number, struct stream_writer *w)
{
	stream_section_begin(w, DISK_DATA, STREAM_REQUIRED);
	enc_u8(w->to, (u8)number);
	enc_u64(w->to, 0);
	stream_section_end(w);
}

int disk_copies_add(struct disk_copies *c, struct stream_writer *w, u64 bytes, struct error *e)
{
	size_t start = w->to->len;
	struct error inner;
	struct disk *d;

	for (u64 done = 0, offset, n; done < bytes && (d = choose(c)); done += n) {
		unsigned number = (unsigned)(d - c->disk);
		int ret = block_copy_next(d->copy, &offset, c->piece, &n, &inner);

		if (ret < 0)
			return error_set(e, "disk '%s': %s", d->id, inner.text);
		if (!ret) {
			add_sum(d, number, w);
			n = 0;
		} else if (!n) {
			n = bytes;
		} else if (d->above) {
			add_above(c, number, w, offset, n);
		} else {
			add_piece(c, number, w, offset, n);
		}
		if (done + n >= bytes && w->to->len == start)
			add_nothing(number, w);
	}
	return choose(c) != NULL;
}

void disk_copies_end(struct disk_copies *c)
{
	if (!c)
		return;
	for (unsigned i = 0; i < c->count; i++)
		block_copy_end(c->disk[i].copy);
	free(c);
}
