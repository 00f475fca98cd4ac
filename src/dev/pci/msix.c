/*
 * A vector's message leaves at once if nothing masks it; otherwise its pending
 * bit is set, and whatever opens the way again (the entry's mask bit, the
 * function's mask bit, MSI-X Enable, bus mastering) sends what is pending.
 */
#include "dev/pci/msix.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CONTROL 2 /* Message Control, in the capability */
#define CONTROL_MASK_ALL 0x4000u
#define CONTROL_ENABLE 0x8000u
#define ENTRY_MASKED 1u

static unsigned words(const struct msix *x)
{
	return (x->vectors + 63) / 64;
}

int msix_init(struct msix *x, struct board *b, struct pci_dev *d, unsigned vectors, unsigned bar, u32 table, u32 pba)
{
	assert(vectors && vectors <= MSIX_VECTORS_MAX && bar < PCI_BARS && !((table | pba) & 7));
	*x = (struct msix){ 0 };
	if (!b->msi)
		return -1;
	x->table = calloc(vectors, sizeof(*x->table));
	x->pending = calloc((vectors + 63) / 64, sizeof(*x->pending));
	if (!x->table || !x->pending) {
		msix_free(x);
		return -1;
	}
	x->pci = d;
	x->send = b->msi;
	x->machine = b->machine;
	x->vectors = vectors;
	x->cap = pci_add_cap(d, PCI_CAP_MSIX, 12);
	pci_put16(d, x->cap + CONTROL, vectors - 1);
	pci_put32(d, x->cap + 4, table | bar);
	pci_put32(d, x->cap + 8, pba | bar);
	d->wmask[x->cap + CONTROL + 1] = (CONTROL_ENABLE | CONTROL_MASK_ALL) >> 8;
	msix_reset(x);
	return 0;
}

void msix_free(struct msix *x)
{
	free(x->table);
	free(x->pending);
	*x = (struct msix){ 0 };
}

void msix_reset(struct msix *x)
{
	for (unsigned i = 0; i < x->vectors; i++)
		x->table[i] = (struct msix_entry){ .control = ENTRY_MASKED };
	for (unsigned i = 0; i < words(x); i++)
		x->pending[i] = 0;
}

bool msix_enabled(const struct msix *x)
{
	return x->vectors && (pci_get16(x->pci, x->cap + CONTROL) & CONTROL_ENABLE);
}

/* Messages are writes to memory, so bus mastering must be on (6.8.1.3). */
static bool can_send(const struct msix *x)
{
	return (pci_get16(x->pci, x->cap + CONTROL) & (CONTROL_ENABLE | CONTROL_MASK_ALL)) == CONTROL_ENABLE &&
	       (pci_get16(x->pci, PCI_COMMAND) & PCI_COMMAND_MASTER);
}

static void flush(struct msix *x, unsigned vector)
{
	const struct msix_entry *t = &x->table[vector];

	if (!(x->pending[vector / 64] & BIT(vector % 64)) || (t->control & ENTRY_MASKED) || !can_send(x))
		return;
	x->pending[vector / 64] &= ~BIT(vector % 64);
	x->send(x->machine, (u64)t->addr_hi << 32 | t->addr_lo, t->data);
}

void msix_notify(struct msix *x, unsigned vector)
{
	if (vector >= x->vectors || !msix_enabled(x))
		return;
	x->pending[vector / 64] |= BIT(vector % 64);
	flush(x, vector);
}

void msix_config_written(struct msix *x)
{
	for (unsigned i = 0; i < words(x); i++)
		for (u64 bits = x->pending[i]; bits; bits &= bits - 1)
			flush(x, i * 64 + __builtin_ctzll(bits));
}

u32 msix_table_read(const struct msix *x, u32 off, unsigned size)
{
	u32 v = 0;

	if (size == 4 && !(off & 3) && off / MSIX_ENTRY_SIZE < x->vectors)
		memcpy(&v, (const u8 *)x->table + off, sizeof(v));
	return v;
}

void msix_table_write(struct msix *x, u32 off, u32 val, unsigned size)
{
	struct msix_entry *t;

	if (size != 4 || (off & 3) || off / MSIX_ENTRY_SIZE >= x->vectors)
		return;
	t = &x->table[off / MSIX_ENTRY_SIZE];
	switch (off % MSIX_ENTRY_SIZE) {
	case 0:
		t->addr_lo = val & ~3u;
		break;
	case 4:
		t->addr_hi = val;
		break;
	case 8:
		t->data = val;
		break;
	case 12:
		t->control = val & ENTRY_MASKED;
		flush(x, off / MSIX_ENTRY_SIZE);
		break;
	}
}

u32 msix_pba_read(const struct msix *x, u32 off, unsigned size)
{
	if (size != 4 || (off & 3) || off / 8 >= words(x))
		return 0;
	return x->pending[off / 8] >> (off & 4 ? 32 : 0);
}

void msix_save(const struct msix *x, struct encoder *e)
{
	for (unsigned i = 0; i < x->vectors; i++) {
		enc_u32(e, x->table[i].addr_lo);
		enc_u32(e, x->table[i].addr_hi);
		enc_u32(e, x->table[i].data);
		enc_u32(e, x->table[i].control);
	}
	for (unsigned i = 0; i < words(x); i++)
		enc_u64(e, x->pending[i]);
}

bool msix_check(const struct msix *x, struct decoder *in)
{
	bool sound = true;

	for (unsigned i = 0; i < x->vectors; i++) {
		sound &= !(dec_u32(in) & 3);
		dec_u32(in);
		dec_u32(in);
		sound &= !(dec_u32(in) & ~ENTRY_MASKED);
	}
	for (unsigned i = 0; i < words(x); i++) {
		unsigned bits = MIN(x->vectors - i * 64, 64);

		sound &= !(dec_u64(in) & (bits == 64 ? 0 : ~0ull << bits));
	}
	return sound && !in->failed;
}

void msix_load(struct msix *x, struct decoder *in)
{
	for (unsigned i = 0; i < x->vectors; i++) {
		x->table[i].addr_lo = dec_u32(in);
		x->table[i].addr_hi = dec_u32(in);
		x->table[i].data = dec_u32(in);
		x->table[i].control = dec_u32(in);
	}
	for (unsigned i = 0; i < words(x); i++)
		x->pending[i] = dec_u64(in);
}
