/* The index of RAM in a snapshot: which frames it has, and where. */
#include <stdlib.h>
#include <zstd.h>

#include "cli/snapshot_ram.h"

#define GROUP_BYTES 12u	 /* of an entry */
#define PACKED_BYTES 12u /* that it has besides, if packed */
#define HEAD_BYTES 5u

u32 ram_group_packed_max(void)
{
	return (u32)ZSTD_compressBound(RAM_GROUP_BYTES);
}

void ram_index_write(const struct ram_index *x, struct encoder *e)
{
	enc_bool(e, x->packed);
	enc_u32(e, x->count);
	for (u32 i = 0; i < x->count; i++) {
		const struct ram_group *g = &x->group[i];

		enc_u32(e, g->number);
		enc_u64(e, g->frames);
		if (!x->packed)
			continue;
		enc_u32(e, g->len);
		enc_u64(e, g->sum);
	}
}

/* Frames of group `number` that a machine of `frames` has. */
static u64 frames_there(u32 number, u64 frames)
{
	u64 left = (u64)number * RAM_GROUP_FRAMES >= frames ? 0 : frames - (u64)number * RAM_GROUP_FRAMES;

	return left >= RAM_GROUP_FRAMES ? UINT64_MAX : BIT(left) - 1;
}

static bool read_group(struct ram_index *x, struct decoder *d, u64 frames)
{
	struct ram_group *g = &x->group[x->count];
	const struct ram_group *before = x->count ? g - 1 : NULL;

	g->number = dec_u32(d);
	g->frames = dec_u64(d);
	g->len = x->packed ? dec_u32(d) : 0;
	g->sum = x->packed ? dec_u64(d) : 0;
	g->at = before ? before->at + before->len : 0;
	x->count++;
	return g->frames && !(g->frames & ~frames_there(g->number, frames)) &&
	       (!before || g->number > before->number) && (!x->packed || (g->len && g->len <= ram_group_packed_max()));
}

int ram_index_read(struct ram_index *x, struct decoder d, u64 ram_size, u64 file_size)
{
	u64 each, count;

	*x = (struct ram_index){ .packed = dec_bool(&d) };
	count = dec_u32(&d);
	each = GROUP_BYTES + (x->packed ? PACKED_BYTES : 0);
	/* first of all, so that what is allocated is no more than some times what came */
	if (d.failed || d.len - d.pos != count * each)
		return -1;
	x->group = calloc(count + 1, sizeof(*x->group));
	x->room = (u32)count + 1;
	while (x->group && x->count < count)
		if (!read_group(x, &d, ram_size / PAGE_SIZE))
			goto bad;
	if (!x->group || !dec_done(&d))
		goto bad;
	if (!x->packed)
		return 0;
	if ((count ? x->group[count - 1].at + x->group[count - 1].len : 0) == file_size)
		return 0;
bad:
	ram_index_free(x);
	return -1;
}

void ram_index_free(struct ram_index *x)
{
	free(x->group);
	*x = (struct ram_index){ 0 };
}

const struct ram_group *ram_index_find(const struct ram_index *x, u32 number)
{
	u32 low = 0, high = x->count;

	while (low < high) {
		u32 mid = low + (high - low) / 2;

		if (x->group[mid].number < number)
			low = mid + 1;
		else
			high = mid;
	}
	return low < x->count && x->group[low].number == number ? &x->group[low] : NULL;
}

struct ram_group *ram_index_add(struct ram_index *x, u32 number)
{
	if (x->count && x->group[x->count - 1].number == number)
		return &x->group[x->count - 1];
	if (x->count == x->room) {
		u32 room = x->room ? 2 * x->room : 64;
		struct ram_group *more = realloc(x->group, room * sizeof(*more));

		if (!more)
			return NULL;
		x->group = more;
		x->room = room;
	}
	x->group[x->count] = (struct ram_group){ .number = number };
	return &x->group[x->count++];
}
