/*
 * Comparing two machines. The state stream is a few kilobytes and compared
 * after every slice; RAM costs what memcmp() costs over the pages that were
 * ever touched, and is compared more rarely.
 */
#include <string.h>
#include <unistd.h>

#include "replay/lockstep_internal.h"

/* ---- RAM: extents of the memfd that hold data ---- */

static u64 seek(int fd, u64 pos, int whence, u64 size)
{
	off_t at = lseek(fd, (off_t)pos, whence);

	return at < 0 || (u64)at > size ? size : (u64)at;
}

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
	u64 size = memory_ram_size(machine_memory(p->s[0].m));
	u8 *ram[2];
	int fd[2];

	for (unsigned i = 0; i < 2; i++) {
		ram[i] = memory_ram(machine_memory(p->s[i].m));
		fd[i] = memory_ram_fd(machine_memory(p->s[i].m));
	}
	while (from < size) {
		u64 at[2] = { seek(fd[0], from, SEEK_DATA, size), seek(fd[1], from, SEEK_DATA, size) };
		u64 pos = MIN(at[0], at[1]), end = size;
		bool data[2];

		if (pos == size)
			break;
		for (unsigned i = 0; i < 2; i++) {
			data[i] = at[i] == pos;
			end = MIN(end, data[i] ? seek(fd[i], pos, SEEK_HOLE, size) : at[i]);
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
