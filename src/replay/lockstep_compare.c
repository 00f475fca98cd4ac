/*
 * Comparing two machines. The state stream is a few kilobytes and compared
 * after every slice; RAM costs what memcmp() costs over the pages that were
 * ever touched, and is compared more rarely.
 */
#include <string.h>

#include "replay/lockstep_internal.h"

/* ---- RAM: pieces that may hold data ---- */

static bool zero(const u8 *p, u64 n)
{
	return !n || (!p[0] && !memcmp(p, p + 1, n - 1));
}

/* [pos, pos + n) of RAM; data[i]: side i has data there, else zeros. */
static bool same(u8 *const ram[2], const bool data[2], u64 pos, u64 n)
{
	if (data[0] && data[1])
		return !memcmp(ram[0] + pos, ram[1] + pos, n);
	return zero(ram[data[1]] + pos, n);
}

static u64 first_page(u8 *const ram[2], const bool data[2], u64 pos, u64 end)
{
	if (same(ram, data, pos, end - pos))
		return UINT64_MAX;
	while (same(ram, data, pos, PAGE_SIZE))
		pos += PAGE_SIZE;
	return pos;
}

u64 pair_ram_differs(const struct pair *p, u64 from)
{
	u64 size = memory_ram_size(machine_memory(p->s[0].m)), at[2] = { 0, 0 }, stop[2] = { 0, 0 };
	u8 *ram[2];

	for (unsigned i = 0; i < 2; i++)
		ram[i] = memory_ram(machine_memory(p->s[i].m));
	while (from < size) {
		u64 pos, end = size;
		bool data[2];

		/* of each side the piece that holds `from`, or the next */
		for (unsigned i = 0; i < 2; i++)
			if (stop[i] <= from)
				at[i] = memory_next_data(machine_memory(p->s[i].m), from, &stop[i]);
		pos = MAX(MIN(at[0], at[1]), from);

		if (pos == size)
			break;
		for (unsigned i = 0; i < 2; i++) {
			data[i] = at[i] <= pos;
			end = MIN(end, data[i] ? stop[i] : at[i]);
		}
		u64 found = first_page(ram, data, pos, end);

		if (found != UINT64_MAX)
			return found;
		from = end;
	}
	return UINT64_MAX;
}

/* ---- the rest ---- */

static bool serial_differs(const struct pair *p)
{
	const u8 *text[2];
	size_t n[2];

	if (!p->s[0].serial)
		return false;
	for (unsigned i = 0; i < 2; i++)
		text[i] = chr_memory_data(p->s[i].serial, &n[i]);
	return n[0] != n[1] || (n[0] > p->serial_seen &&
				memcmp(text[0] + p->serial_seen, text[1] + p->serial_seen, n[0] - p->serial_seen));
}

static bool ends_differ(const struct pair *p)
{
	const struct side *a = &p->s[0], *b = &p->s[1];

	return side_icount(a) != side_icount(b) || a->r.end != b->r.end || a->r.exit_code != b->r.exit_code;
}

int pair_differs(struct pair *p, bool ram)
{
	const struct encoder *a = &p->s[0].state, *b = &p->s[1].state;

	for (unsigned i = 0; i < 2; i++) {
		struct encoder *e = &p->s[i].state;

		e->len = 0;
		machine_save_state(p->s[i].m, e);
		if (e->failed)
			return -1;
	}
	return ends_differ(p) || a->len != b->len || memcmp(a->data, b->data, a->len) || serial_differs(p) ||
	       (ram && pair_ram_differs(p, 0) != UINT64_MAX);
}
