/*
 * Configuration space is plain bytes with masks: `wmask` says which bits the
 * guest may change, `w1c` which it clears by writing ones. So BAR sizing needs no
 * code: the low bits of a BAR are simply not writable. After every write that
 * touches the command register or a BAR the mappings are recomputed from the
 * bytes; a BAR is decoded when its space is enabled and its address is neither
 * zero nor the all-ones pattern of sizing.
 *
 * The two access mechanisms (PCI Local Bus 3.0, 3.2.2.3.2 and PCI Express 3.0,
 * 7.2.2) end in pci_config_read() and pci_config_write().
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "dev/pci/pci.h"

#define CONFIG_ADDRESS 0xcf8
#define CONFIG_ENABLE 0x80000000u
#define RESET_CPU 0x04 /* reset control register, CF9h */
#define ADDRESS_BITS 46

struct pci_bus {
	struct memory *mem;
	struct portmap *ports;
	void (*request)(void *machine, enum board_request r, int value);
	void *machine;
	pci_intx_fn intx;
	void *opaque;
	struct pci_dev *devs[256];
	u32 asserted[PCI_LINES]; /* how many pins hold each line */
	u32 address;
	u8 reset_control;
	struct region *ecam;
};

u16 pci_get16(const struct pci_dev *d, unsigned off)
{
	return d->config[off] | d->config[off + 1] << 8;
}

u32 pci_get32(const struct pci_dev *d, unsigned off)
{
	return pci_get16(d, off) | (u32)pci_get16(d, off + 2) << 16;
}

static void put(u8 *p, u64 v, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		p[i] = v >> 8 * i;
}

void pci_put16(struct pci_dev *d, unsigned off, u16 v)
{
	put(d->config + off, v, 2);
}

void pci_put32(struct pci_dev *d, unsigned off, u32 v)
{
	put(d->config + off, v, 4);
}

void pci_init(struct pci_dev *d, u16 vendor, u16 device, u32 class_code, u8 revision, const char *name)
{
	memset(d, 0, sizeof(*d));
	d->name = name;
	pci_put16(d, PCI_VENDOR_ID, vendor);
	pci_put16(d, PCI_DEVICE_ID, device);
	d->config[PCI_REVISION] = revision;
	put(d->config + PCI_CLASS, class_code, 3);
	put(d->wmask + PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE,
	    2);
	d->w1c[PCI_STATUS + 1] = 0xf9; /* parity, aborts, system error */
	d->wmask[0x0c] = 0xff;	       /* cache line size */
	d->wmask[PCI_INTERRUPT_LINE] = 0xff;
}

static void set_bar_masks(struct pci_dev *d, unsigned n, u32 flags)
{
	const struct pci_bar *bar = &d->bars[n];
	u64 mask = ~(bar->size - 1);
	unsigned off = PCI_BAR0 + 4 * n;

	pci_put32(d, off, flags);
	put(d->wmask + off, mask & (bar->io ? 0xffffffffu : UINT64_MAX), bar->is64 ? 8 : 4);
}

void pci_bar_mmio(struct pci_dev *d, unsigned n, u64 size, bool is64, bool prefetch, const struct io_ops *ops,
		  void *opaque, const char *name)
{
	assert(n + is64 < PCI_BARS && size >= 16 && !(size & (size - 1)) && size <= BIT(40));
	d->bars[n] = (struct pci_bar){ .size = size, .is64 = is64, .prefetch = prefetch };
	d->bars[n].ops = ops;
	d->bars[n].opaque = opaque;
	d->bars[n].name = name;
	set_bar_masks(d, n, (is64 ? 4 : 0) | (prefetch ? 8 : 0));
}

void pci_bar_io(struct pci_dev *d, unsigned n, u32 size, const struct io_ops *ops, void *opaque, const char *name)
{
	assert(n < PCI_BARS && size >= 4 && size <= 256 && !(size & (size - 1)));
	d->bars[n] = (struct pci_bar){ .size = size, .io = true, .ops = ops, .opaque = opaque, .name = name };
	set_bar_masks(d, n, 1);
}

unsigned pci_add_cap(struct pci_dev *d, u8 id, unsigned len)
{
	unsigned off = d->cap_end ? d->cap_end : 0x40;

	assert(len >= 2 && off + len <= 0x100);
	d->config[d->cap_last ? d->cap_last + 1 : PCI_CAPABILITIES] = off;
	d->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	d->config[off] = id;
	d->cap_last = off;
	d->cap_end = MIN((off + len + 3) & ~3u, 0xff);
	return off;
}

/* Where a BAR should be, false if nowhere. */
static bool bar_target(const struct pci_dev *d, unsigned n, u64 *addr)
{
	const struct pci_bar *bar = &d->bars[n];
	u16 command = pci_get16(d, PCI_COMMAND);
	u64 a = pci_get32(d, PCI_BAR0 + 4 * n), last;

	if (!(command & (bar->io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY)))
		return false;
	if (bar->is64)
		a |= (u64)pci_get32(d, PCI_BAR0 + 4 * n + 4) << 32;
	a &= ~(bar->size - 1) & ~(bar->io ? 3ull : 15ull);
	last = a + bar->size - 1;
	*addr = a;
	if (a == 0 || last < a)
		return false;
	if (bar->io)
		return last <= 0xffff;
	return bar->is64 ? last < BIT(ADDRESS_BITS) && last != UINT32_MAX : last < UINT32_MAX;
}

static void map_bar(struct pci_dev *d, unsigned n)
{
	struct pci_bar *bar = &d->bars[n];
	struct pci_bus *bus = d->bus;
	u64 addr = 0;
	bool want = bar_target(d, n, &addr);

	if (want == bar->mapped && (!want || addr == bar->addr))
		return;
	if (bar->io) {
		if (bar->mapped)
			portmap_remove(bus->ports, (u16)bar->addr, bar->opaque);
		if (want)
			want = portmap_add(bus->ports, (u16)addr, bar->size, bar->ops, bar->opaque, bar->name) >= 0;
	} else {
		region_set(bus->mem, bar->region, want ? addr : bar->addr, want);
	}
	bar->mapped = want;
	if (want)
		bar->addr = addr;
}

static void map_bars(struct pci_dev *d)
{
	for (unsigned n = 0; n < PCI_BARS; n++)
		if (d->bars[n].size)
			map_bar(d, n);
}

/* INTx of slot s, pin p (1: INTA#) is wired to line (s + p - 1) mod 8; the pins of a line are ORed. */
static unsigned line(const struct pci_dev *d)
{
	return ((d->devfn >> 3) + d->config[PCI_INTERRUPT_PIN] - 1) & (PCI_LINES - 1);
}

static void drive_line(struct pci_dev *d, bool level)
{
	struct pci_bus *bus = d->bus;
	unsigned pirq = line(d);

	if (level ? bus->asserted[pirq]++ == 0 : --bus->asserted[pirq] == 0)
		bus->intx(bus->opaque, pirq, level);
}

static bool intx_visible(const struct pci_dev *d)
{
	return d->intx && !(pci_get16(d, PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE);
}

void pci_set_irq(struct pci_dev *d, bool level)
{
	bool before = intx_visible(d);

	d->intx = level;
	if (level)
		d->config[PCI_STATUS] |= PCI_STATUS_INTX;
	else
		d->config[PCI_STATUS] &= ~PCI_STATUS_INTX;
	if (before != intx_visible(d))
		drive_line(d, !before);
}

static struct pci_dev *find(struct pci_bus *bus, unsigned bdf)
{
	return bdf < 256 ? bus->devs[bdf] : NULL;
}

u32 pci_config_read(struct pci_bus *bus, unsigned bdf, unsigned off, unsigned size)
{
	struct pci_dev *d = find(bus, bdf);
	u32 v = 0;

	if (!d || size > 4 || off > PCI_CONFIG_SIZE - size)
		return ~0u;
	if (d->config_read)
		d->config_read(d, off, size);
	for (unsigned i = 0; i < size; i++)
		v |= (u32)d->config[off + i] << 8 * i;
	return v;
}

void pci_config_write(struct pci_bus *bus, unsigned bdf, unsigned off, u32 val, unsigned size)
{
	struct pci_dev *d = find(bus, bdf);
	bool before;

	if (!d || size > 4 || off > PCI_CONFIG_SIZE - size)
		return;
	before = intx_visible(d);
	for (unsigned i = 0; i < size; i++) {
		u8 v = val >> 8 * i, *c = &d->config[off + i], m = d->wmask[off + i];

		*c = ((*c & ~m) | (v & m)) & ~(v & d->w1c[off + i]);
	}
	if (before != intx_visible(d))
		drive_line(d, !before);
	if (off < PCI_BAR0 + 4 * PCI_BARS && off + size > PCI_COMMAND)
		map_bars(d);
	if (d->config_written)
		d->config_written(d, off, size);
}

/* Mechanism #1. Byte 1 of CONFIG_ADDRESS is the reset control register for accesses narrower than 4. */
static u64 cf8_read(void *opaque, u64 off, unsigned size)
{
	struct pci_bus *bus = opaque;

	if (off == 0 && size == 4)
		return bus->address;
	if (off == 1 && size == 1)
		return bus->reset_control;
	if (off < 4 || !(bus->address & CONFIG_ENABLE) || (off & 3) + size > 4)
		return ~0ull;
	return pci_config_read(bus, bus->address >> 8 & 0xffff, (bus->address & 0xfc) + (off & 3), size);
}

static void reset_control_write(struct pci_bus *bus, u8 val)
{
	bool rise = (val & RESET_CPU) && !(bus->reset_control & RESET_CPU);

	bus->reset_control = val & 0x0e;
	if (rise)
		bus->request(bus->machine, BOARD_RESET, 0);
}

static void cf8_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct pci_bus *bus = opaque;

	if (off == 0 && size == 4)
		bus->address = (u32)val & 0x80fffffcu;
	else if (off == 1 && size == 1)
		reset_control_write(bus, val);
	else if (off >= 4 && (bus->address & CONFIG_ENABLE) && (off & 3) + size <= 4)
		pci_config_write(bus, bus->address >> 8 & 0xffff, (bus->address & 0xfc) + (off & 3), val, size);
}

static u64 ecam_read(void *opaque, u64 off, unsigned size)
{
	return pci_config_read(opaque, off >> 12 & 0xffff, off & 0xfff, size);
}

static void ecam_write(void *opaque, u64 off, u64 val, unsigned size)
{
	pci_config_write(opaque, off >> 12 & 0xffff, off & 0xfff, val, size);
}

static const struct io_ops cf8_io = { cf8_read, cf8_write, 1, 4 };
static const struct io_ops ecam_io = { ecam_read, ecam_write, 1, 4 };

void pci_bus_set_ecam(struct pci_bus *bus, gpa_t base, u64 len, bool enabled)
{
	region_set_len(bus->mem, bus->ecam, len);
	region_set(bus->mem, bus->ecam, base, enabled);
}

unsigned pci_free_slot(const struct pci_bus *bus)
{
	for (unsigned slot = 1; slot < 31; slot++)
		if (!bus->devs[PCI_DEVFN(slot, 0)])
			return slot;
	return 0;
}

int pci_add(struct pci_bus *bus, struct pci_dev *d, u8 devfn)
{
	if (bus->devs[devfn])
		return -1;
	for (unsigned n = 0; n < PCI_BARS; n++) {
		struct pci_bar *bar = &d->bars[n];

		if (!bar->size || bar->io)
			continue;
		bar->region = memory_map_mmio(bus->mem, 0, bar->size, bar->ops, bar->opaque, PCI_MMIO_PRIO, bar->name);
		if (!bar->region) {
			while (n--)
				if (d->bars[n].region)
					region_remove(bus->mem, d->bars[n].region);
			return -1;
		}
		region_set(bus->mem, bar->region, 0, false);
	}
	d->bus = bus;
	d->devfn = devfn;
	memcpy(d->initial, d->config, sizeof(d->initial));
	bus->devs[devfn] = d;
	return 0;
}

void pci_remove(struct pci_dev *d)
{
	struct pci_bus *bus = d->bus;

	if (!bus)
		return;
	pci_set_irq(d, false);
	for (unsigned n = 0; n < PCI_BARS; n++) {
		struct pci_bar *bar = &d->bars[n];

		if (bar->region)
			region_remove(bus->mem, bar->region);
		else if (bar->mapped)
			portmap_remove(bus->ports, (u16)bar->addr, bar->opaque);
		bar->region = NULL;
		bar->mapped = false;
	}
	bus->devs[d->devfn] = NULL;
	d->bus = NULL;
}

void pci_bus_reset(struct pci_bus *bus)
{
	bus->address = 0;
	bus->reset_control = 0;
	for (unsigned i = 0; i < 256; i++) {
		struct pci_dev *d = bus->devs[i];

		if (!d)
			continue;
		pci_set_irq(d, false);
		memcpy(d->config, d->initial, sizeof(d->config));
		map_bars(d);
		if (d->config_written)
			d->config_written(d, 0, PCI_CONFIG_SIZE);
	}
}

void pci_bus_save(const struct pci_bus *bus, struct encoder *e)
{
	enc_u32(e, bus->address);
	enc_u8(e, bus->reset_control);
}

bool pci_bus_check(struct decoder *d)
{
	u32 address = dec_u32(d);
	u8 reset = dec_u8(d);

	return !d->failed && !(address & ~0x80fffffcu) && !(reset & ~0x0eu);
}

void pci_bus_load(struct pci_bus *bus, struct decoder *d)
{
	bus->address = dec_u32(d);
	bus->reset_control = dec_u8(d);
}

void pci_dev_save(const struct pci_dev *d, struct encoder *e)
{
	enc_bytes(e, d->config, sizeof(d->config));
	enc_bool(e, d->intx);
}

bool pci_dev_check(const struct pci_dev *d, struct decoder *in)
{
	bool sound = true;

	for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++) {
		u8 fixed = ~(d->wmask[i] | d->w1c[i]);

		if (i == PCI_STATUS)
			fixed &= ~PCI_STATUS_INTX;
		if ((dec_u8(in) ^ d->initial[i]) & fixed)
			sound = false;
	}
	dec_bool(in);
	return sound && !in->failed;
}

void pci_dev_load(struct pci_dev *d, struct decoder *in)
{
	bool before = intx_visible(d);

	dec_bytes(in, d->config, sizeof(d->config));
	d->intx = dec_bool(in);
	/* Lines are counted here, but whoever listens loads its own view of them. */
	if (before != intx_visible(d))
		d->bus->asserted[line(d)] += before ? -1 : 1;
	map_bars(d);
	if (d->config_written)
		d->config_written(d, 0, PCI_CONFIG_SIZE);
}

struct pci_bus *pci_bus_create(struct board *b, pci_intx_fn intx, void *opaque)
{
	struct pci_bus *bus = calloc(1, sizeof(*bus));

	if (!bus)
		return NULL;
	bus->mem = b->mem;
	bus->ports = b->ports;
	bus->request = b->request;
	bus->machine = b->machine;
	bus->intx = intx;
	bus->opaque = opaque;
	bus->ecam = memory_map_mmio(b->mem, 0, 256 * MiB, &ecam_io, bus, PCI_MMIO_PRIO, "ecam");
	if (!bus->ecam) {
		free(bus);
		return NULL;
	}
	region_set(b->mem, bus->ecam, 0, false);
	portmap_add(b->ports, CONFIG_ADDRESS, 8, &cf8_io, bus, "pci-config");
	return bus;
}

void pci_bus_destroy(struct pci_bus *bus)
{
	for (unsigned i = 0; i < 256; i++)
		if (bus->devs[i])
			pci_remove(bus->devs[i]);
	portmap_remove(bus->ports, CONFIG_ADDRESS, bus);
	region_remove(bus->mem, bus->ecam);
	free(bus);
}
