/* The guest's memory as commands describe it: physical region descriptors (AHCI 1.3.1, 4.2.3). */
#include <string.h>

#include "dev/storage/ahci_internal.h"

#define TABLE_PRDT 0x80
#define PRD_LEN 16
#define PRD_BYTES 0x3fffffu

struct prd {
	u64 addr;
	u32 reserved, flags;
};

bool ahci_get(struct ahci *h, gpa_t gpa, void *to, u32 n)
{
	const void *p = memory_ptr(h->mem, gpa, n, false);

	if (p)
		memcpy(to, p, n);
	return p;
}

bool ahci_put(struct ahci *h, gpa_t gpa, const void *from, u32 n)
{
	void *p = memory_ptr(h->mem, gpa, n, true);

	if (!p)
		return false;
	memcpy(p, from, n);
	memory_notify_written(h->mem, gpa, n);
	return true;
}

static bool get_prd(struct ahci_slot *s, unsigned i, gpa_t *gpa, u32 *len)
{
	struct prd d;

	_Static_assert(sizeof(d) == PRD_LEN, "as the guest lays it out");
	if (!ahci_get(s->port->hba, s->table + TABLE_PRDT + (u64)i * PRD_LEN, &d, PRD_LEN))
		return false;
	*gpa = d.addr & ~1ull;
	*len = ((d.flags & PRD_BYTES) | 1) + 1; /* bit 0 of the count is always one */
	return true;
}

u32 ahci_room(struct ahci_slot *s, u32 max)
{
	u32 total = 0, len;
	gpa_t gpa;

	for (unsigned i = 0; i < s->prds && total < max && get_prd(s, i, &gpa, &len); i++)
		total += MIN(len, max - total);
	return total;
}

/* Bytes from `gpa` that are one piece of host memory, at most `len`; 0 if `gpa` is not RAM. */
static u32 contiguous(struct ahci_slot *s, gpa_t gpa, u32 len)
{
	struct memory *m = s->port->hba->mem;
	u32 good = 0, bad = len;

	if (memory_ptr(m, gpa, len, s->to_guest))
		return len;
	while (bad - good > 1) {
		u32 mid = good + (bad - good) / 2;

		if (memory_ptr(m, gpa, mid, s->to_guest))
			good = mid;
		else
			bad = mid;
	}
	return good;
}

static bool map_range(struct ahci_slot *s, gpa_t gpa, u32 len)
{
	while (len) {
		u32 part = contiguous(s, gpa, len);

		if (!part || s->pieces == AHCI_PIECES)
			return false;
		s->gpa[s->pieces] = gpa;
		s->iov[s->pieces++] = (struct iovec){ memory_ptr(s->port->hba->mem, gpa, part, s->to_guest), part };
		gpa += part;
		len -= part;
	}
	return true;
}

bool ahci_map(struct ahci_slot *s, u32 bytes)
{
	u32 len;
	gpa_t gpa;

	s->pieces = 0;
	for (unsigned i = 0; bytes; i++) {
		if (i == s->prds || !get_prd(s, i, &gpa, &len))
			return false;
		len = MIN(len, bytes);
		if (!map_range(s, gpa, len))
			return false;
		bytes -= len;
	}
	return true;
}

void ahci_copy_in(struct ahci_slot *s, const void *from, u32 n)
{
	const u8 *p = from;

	for (unsigned i = 0; i < s->pieces && n; i++) {
		u32 part = (u32)MIN(s->iov[i].iov_len, n);

		memcpy(s->iov[i].iov_base, p, part);
		memory_notify_written(s->port->hba->mem, s->gpa[i], part);
		p += part;
		n -= part;
	}
}

void ahci_copy_out(struct ahci_slot *s, void *to, u32 n)
{
	u8 *p = to;

	for (unsigned i = 0; i < s->pieces && n; i++) {
		u32 part = (u32)MIN(s->iov[i].iov_len, n);

		memcpy(p, s->iov[i].iov_base, part);
		p += part;
		n -= part;
	}
}

void ahci_arrived(struct ahci_slot *s)
{
	for (unsigned i = 0; i < s->pieces; i++)
		memory_notify_written(s->port->hba->mem, s->gpa[i], (unsigned)s->iov[i].iov_len);
}
