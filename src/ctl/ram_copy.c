#include "ctl/ram_copy.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ctl/limits.h"
#include "mem/track.h"

struct piece {
	u64 start, end;
};

struct ram_copy {
	struct machine *m;
	const u8 *ram;
	u64 size;
	/* what may have held something at the moment, in order: the guest may give memory back afterwards */
	struct piece *piece;
	size_t pieces, room, next;
	struct track *track; /* NULL: the machine is held */
	u8 *saved;	     /* as large as RAM: frames as they were before they were written */
};

static bool find_pieces(struct ram_copy *c)
{
	struct memory *mem = machine_memory(c->m);
	u64 end;

	for (u64 at = memory_next_data(mem, 0, &end); at < c->size; at = memory_next_data(mem, end, &end)) {
		if (c->pieces == c->room) {
			size_t room = c->room ? 2 * c->room : 256;
			struct piece *more = realloc(c->piece, room * sizeof(*more));

			if (!more)
				return false;
			c->piece = more;
			c->room = room;
		}
		c->piece[c->pieces++] = (struct piece){ at, end };
	}
	return true;
}

static void start_track(struct ram_copy *c)
{
	struct error e;
	u8 *saved;

	if (!strcmp(machine_engine_name(c->m), engine_kvm.name))
		return;
	saved = mmap(NULL, c->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (saved == MAP_FAILED)
		return;
	c->track = track_start(machine_memory(c->m), track_copy_out, saved, &e);
	if (c->track)
		c->saved = saved;
	else
		munmap(saved, c->size);
}

struct ram_copy *ram_copy_start(struct machine *m)
{
	struct ram_copy *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	c->m = m;
	c->ram = memory_ram(machine_memory(m));
	c->size = memory_ram_size(machine_memory(m));
	if (!find_pieces(c)) {
		free(c->piece);
		free(c);
		return NULL;
	}
	start_track(c);
	return c;
}

bool ram_copy_background(const struct ram_copy *c)
{
	return c->track;
}

u64 ram_copy_next(struct ram_copy *c, u64 at)
{
	while (c->next < c->pieces && at >= c->piece[c->next].end)
		c->next++;
	return c->next < c->pieces ? MAX(at, c->piece[c->next].start) : c->size;
}

void ram_copy_read(struct ram_copy *c, u64 at, u8 page[PAGE_SIZE])
{
	memcpy(page, c->ram + at, PAGE_SIZE);
	/* written in between: what was there before is in the other place */
	if (c->track && !track_claim(c->track, at / PAGE_SIZE))
		memcpy(page, c->saved + at, PAGE_SIZE);
}

static void stop_track(void *opaque)
{
	struct ram_copy *c = opaque;

	track_stop(c->track);
	c->track = NULL;
}

void ram_copy_end(struct ram_copy *c)
{
	if (!c)
		return;
	/* a machine that has ended takes its tracks with it; one that does not answer may still copy to `saved` */
	if (c->track && !machine_call_within(c->m, stop_track, c, CTL_ORDER_MS))
		c->saved = NULL;
	if (c->saved)
		munmap(c->saved, c->size);
	free(c->piece);
	free(c);
}
