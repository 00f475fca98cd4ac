/*
 * Writing RAM of a snapshot, as it comes: frames in order, those of zeros left
 * out. With a base each frame is compared with what the base has there.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/new_file.h"
#include "cli/snapshot_ram.h"

struct ram_out {
	int fd;
	bool packed;
	u64 size, next; /* of RAM, bytes; the frame behind all that came */
	u64 bytes;	/* written, if plain */
	const struct ram_chain *base;
	struct ram_reader *reader; /* of base */
	struct ram_index index;
	struct ram_packer *packer; /* NULL: plain */
	u8 before[RAM_GROUP_BYTES];
};

static int failed(const struct ram_out *o, struct error *e)
{
	return error_errno(e, errno, "cannot write %s", ram_out_name(o));
}

const char *ram_out_name(const struct ram_out *o)
{
	return o->packed ? SNAPSHOT_RAM_PACKED : SNAPSHOT_RAM;
}

struct ram_out *ram_out_create(int dir, int level, const struct ram_chain *base, struct error *e)
{
	struct ram_out *o = calloc(1, sizeof(*o));

	if (!o) {
		error_set(e, "not enough memory");
		return NULL;
	}
	o->base = base;
	o->packed = o->index.packed = level > 0;
	o->fd = openat(dir, ram_out_name(o), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (o->fd < 0) {
		failed(o, e);
		goto fail;
	}
	if (base && !(o->reader = ram_reader_open(base))) {
		error_set(e, "not enough memory");
		goto fail;
	}
	if (!o->packed || (o->packer = ram_packer_create(o->fd, level, &o->index, e)))
		return o;
fail:
	ram_out_free(o);
	return NULL;
}

void ram_out_free(struct ram_out *o)
{
	if (!o)
		return;
	ram_packer_free(o->packer);
	ram_reader_close(o->reader);
	ram_index_free(&o->index);
	if (o->fd >= 0)
		close(o->fd);
	free(o);
}

int ram_out_size(struct ram_out *o, u64 size, struct error *e)
{
	if (size % PAGE_SIZE || size / PAGE_SIZE / RAM_GROUP_FRAMES > UINT32_MAX || o->next)
		return error_set(e, "the machine sent a size of its memory that cannot be");
	if (o->base && o->base->size != size)
		return error_set(e,
				 "the base %s is of a machine with %llu MiB of memory, this one has %llu: give another "
				 "one, or none",
				 o->base->level[0].path, (unsigned long long)(o->base->size / MiB),
				 (unsigned long long)(size / MiB));
	o->size = size;
	return !o->packed && ftruncate(o->fd, (off_t)size) ? failed(o, e) : 0;
}

/* ---- frames ---- */

static int write_plain(struct ram_out *o, u64 frame, const u8 *data, u64 n, struct error *e)
{
	o->bytes += n * PAGE_SIZE;
	return write_all_at(o->fd, data, n * PAGE_SIZE, frame * PAGE_SIZE) ? failed(o, e) : 0;
}

/* `n` frames that the file gets; `data` NULL: zeros. */
static int put(struct ram_out *o, u64 frame, const u8 *data, u64 n, struct error *e)
{
	struct ram_group *g;

	for (u64 i = 0; o->packer && i < n; i++)
		if (ram_packer_add(o->packer, frame + i, data ? data + i * PAGE_SIZE : NULL))
			return failed(o, e);
	for (u64 i = 0; !o->packer && o->base && i < n; i++) {
		g = ram_index_add(&o->index, (u32)((frame + i) / RAM_GROUP_FRAMES));
		if (!g)
			return error_set(e, "not enough memory");
		g->frames |= BIT((frame + i) % RAM_GROUP_FRAMES);
	}
	/* zeros are holes */
	return o->packer || !data ? 0 : write_plain(o, frame, data, n, e);
}

/* All from o->next up to `frame` is zeros: what the base has there is not. */
static int zeros_until(struct ram_out *o, u64 frame, struct error *e)
{
	u64 at = o->next, n;

	o->next = frame;
	while (o->base && (at = ram_reader_next(o->reader, at)) < frame) {
		n = MIN(RAM_GROUP_FRAMES - at % RAM_GROUP_FRAMES, frame - at);
		if (ram_reader_get(o->reader, at, n, o->before, e))
			return -1;
		for (u64 i = 0; i < n; i++)
			if (!ram_page_zero(o->before + i * PAGE_SIZE) && put(o, at + i, NULL, 1, e))
				return -1;
		at += n;
	}
	return 0;
}

/* `n` frames of one group: those that are not what the base has. */
static int put_changed(struct ram_out *o, u64 frame, const u8 *data, u64 n, struct error *e)
{
	u64 run;

	if (ram_reader_get(o->reader, frame, n, o->before, e))
		return -1;
	for (u64 i = 0; i < n; i += MAX(run, 1ull)) {
		run = 0;
		while (i + run < n &&
		       memcmp(data + (i + run) * PAGE_SIZE, o->before + (i + run) * PAGE_SIZE, PAGE_SIZE) != 0)
			run++;
		if (run && put(o, frame + i, data + i * PAGE_SIZE, run, e))
			return -1;
	}
	return 0;
}

int ram_out_take(struct ram_out *o, u64 at, const u8 *data, u64 n, struct error *e)
{
	u64 frame = at / PAGE_SIZE, end = frame + n / PAGE_SIZE, part;

	if (frame < o->next)
		return error_set(e, "the machine sent its memory in disorder");
	if (zeros_until(o, frame, e))
		return -1;
	o->next = end;
	for (; frame < end; frame += part, data += part * PAGE_SIZE) {
		part = o->base ? MIN(RAM_GROUP_FRAMES - frame % RAM_GROUP_FRAMES, end - frame) : end - frame;
		if (o->base ? put_changed(o, frame, data, part, e) : put(o, frame, data, part, e))
			return -1;
	}
	return 0;
}

int ram_out_finish(struct ram_out *o, struct error *e)
{
	if (zeros_until(o, o->size / PAGE_SIZE, e))
		return -1;
	if (o->packer && ram_packer_finish(o->packer))
		return failed(o, e);
	return 0;
}

int ram_out_flush(struct ram_out *o, struct error *e)
{
	return fsync(o->fd) ? failed(o, e) : 0;
}

const struct ram_index *ram_out_index(const struct ram_out *o)
{
	return o->base || o->packed ? &o->index : NULL;
}

u64 ram_out_bytes(const struct ram_out *o)
{
	return o->packer ? ram_packer_bytes(o->packer) : o->bytes;
}
