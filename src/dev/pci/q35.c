/*
 * Host bridge of the Intel 3 Series chipset (82Q35 MCH data sheet, document
 * 316966) and the LPC bridge of the ICH9 (82801I, document 316972), as far as
 * firmware and kernels look: PCIEXBAR, PAM, PMBASE and ACPI_CNTL, PIRQ routing.
 * Other registers they write only store. System management mode is not
 * offered; SMRAM and ESMRAMC store.
 *
 * A PAM segment has a read-enable and a write-enable bit. For each state but
 * "neither" there is a region over the segment: RAM, RAM seen as ROM, and, for
 * write-only shadowing, handlers that read the ROM beneath and write RAM.
 */
#include <stdlib.h>
#include <string.h>

#include "dev/chipset/acpi_pm.h"
#include "dev/pci/q35.h"

#define MCH_PCIEXBAR 0x60
#define MCH_PAM0 0x90
#define MCH_SMRAM 0x9d
#define MCH_ESMRAMC 0x9e

#define LPC_PMBASE 0x40
#define LPC_ACPI_CNTL 0x44
#define LPC_ACPI_EN 0x80
#define LPC_PIRQA 0x60
#define LPC_PIRQE 0x68
#define LPC_ROUTE_OFF 0x80
#define LPC_RCBA 0xf0

#define PAM_SEGMENTS 13
#define PAM_READ 1
#define PAM_WRITE 2
#define PAM_LOW 0xc0000u

struct pam {
	struct q35 *q;
	u32 base, len;
	struct region *view[4]; /* by PAM_READ | PAM_WRITE; [0] is NULL */
};

struct q35 {
	struct device dev;
	struct q35_config cfg;
	struct memory *mem;
	struct pci_bus *bus;
	struct pci_dev mch, lpc;
	struct pam pam[PAM_SEGMENTS];
	bool pirq[PCI_LINES];
};

static u64 shadow_read(void *opaque, u64 off, unsigned size)
{
	const struct pam *s = opaque;
	const u8 *rom = s->q->cfg.low_rom;
	u64 v = 0;

	if (!rom || off + size > s->len)
		return ~0ull;
	memcpy(&v, rom + s->base - PAM_LOW + off, size);
	return v;
}

static void shadow_write(void *opaque, u64 off, u64 val, unsigned size)
{
	const struct pam *s = opaque;

	if (off + size <= s->len)
		memcpy(memory_ram(s->q->mem) + s->base + off, &val, size);
}

static const struct io_ops shadow_io = { shadow_read, shadow_write, 1, 8 };

static bool pam_create(struct q35 *q)
{
	int prio = q->cfg.pam_prio;

	if (memory_ram_size(q->mem) < MiB)
		return false;
	for (unsigned i = 0; i < PAM_SEGMENTS; i++) {
		struct pam *s = &q->pam[i];

		s->q = q;
		s->base = i ? PAM_LOW + (i - 1) * 0x4000 : 0xf0000;
		s->len = i ? 0x4000 : 0x10000;
		s->view[PAM_READ] = memory_map_host(q->mem, s->base, memory_ram(q->mem) + s->base, s->len, REGION_ROM,
						    prio, "pam-read");
		s->view[PAM_WRITE] = memory_map_mmio(q->mem, s->base, s->len, &shadow_io, s, prio, "pam-write");
		s->view[PAM_READ | PAM_WRITE] = memory_map_ram(q->mem, s->base, s->base, s->len, prio, "pam");
		for (unsigned v = 1; v < 4; v++) {
			if (!s->view[v])
				return false;
			region_set(q->mem, s->view[v], s->base, false);
		}
	}
	return true;
}

static unsigned pam_state(const struct q35 *q, unsigned i)
{
	if (i == 0)
		return q->mch.config[MCH_PAM0] >> 4 & 3;
	return q->mch.config[MCH_PAM0 + 1 + (i - 1) / 2] >> ((i - 1) & 1 ? 4 : 0) & 3;
}

static void pam_update(struct q35 *q)
{
	for (unsigned i = 0; q->cfg.pam && i < PAM_SEGMENTS; i++)
		for (unsigned v = 1; v < 4; v++)
			region_set(q->mem, q->pam[i].view[v], q->pam[i].base, v == pam_state(q, i));
}

static void ecam_update(struct q35 *q)
{
	static const u64 lengths[4] = { 256 * MiB, 128 * MiB, 64 * MiB, 0 };
	u64 reg = pci_get32(&q->mch, MCH_PCIEXBAR) | (u64)pci_get32(&q->mch, MCH_PCIEXBAR + 4) << 32;
	u64 len = lengths[reg >> 1 & 3];
	bool on = (reg & 1) && len;

	if (!len)
		len = 256 * MiB;
	pci_bus_set_ecam(q->bus, reg & ~(len - 1), len, on);
}

static bool touches(unsigned off, unsigned size, unsigned reg, unsigned len)
{
	return off < reg + len && off + size > reg;
}

static void mch_written(struct pci_dev *d, unsigned off, unsigned size)
{
	struct q35 *q = d->opaque;

	if (touches(off, size, MCH_PCIEXBAR, 8))
		ecam_update(q);
	if (touches(off, size, MCH_PAM0, 7))
		pam_update(q);
}

static bool pic_level(const struct q35 *q, unsigned n)
{
	for (unsigned i = 0; i < PCI_LINES; i++)
		if (q->pirq[i] && q->lpc.config[i < 4 ? LPC_PIRQA + i : LPC_PIRQE + i - 4] == n)
			return true;
	return false;
}

/* Inputs 0, 1, 2, 8 and 13 cannot be routed to (ICH9 data sheet, 13.1.10). */
static void route_pic(struct q35 *q)
{
	for (unsigned n = 3; n < 16; n++)
		if (n != 8 && n != 13)
			irq_set(&q->cfg.pic[n], pic_level(q, n));
}

static void intx(void *opaque, unsigned pirq, bool level)
{
	struct q35 *q = opaque;

	q->pirq[pirq] = level;
	irq_set(&q->cfg.gsi[pirq], level);
	route_pic(q);
}

static void lpc_written(struct pci_dev *d, unsigned off, unsigned size)
{
	struct q35 *q = d->opaque;

	if (q->cfg.pm && touches(off, size, LPC_PMBASE, 5))
		acpi_pm_set_base(q->cfg.pm, pci_get16(d, LPC_PMBASE) & 0xff80, d->config[LPC_ACPI_CNTL] & LPC_ACPI_EN);
	if (touches(off, size, LPC_PIRQA, 4) || touches(off, size, LPC_PIRQE, 4))
		route_pic(q);
}

static void store(struct pci_dev *d, unsigned off, unsigned len)
{
	memset(d->wmask + off, 0xff, len);
}

static void mch_init(struct q35 *q)
{
	struct pci_dev *d = &q->mch;

	pci_init(d, 0x8086, 0x29c0, 0x060000, 2, "mch");
	pci_put16(d, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_put16(d, PCI_STATUS, 0x0090);
	d->wmask[MCH_PCIEXBAR] = 0x07;
	d->wmask[MCH_PCIEXBAR + 3] = 0xfc; /* bits 31-26 of the base; which count depends on the length */
	d->wmask[MCH_PCIEXBAR + 4] = 0x0f;
	if (q->cfg.ecam_base) {
		pci_put32(d, MCH_PCIEXBAR, (u32)q->cfg.ecam_base | 1);
		pci_put32(d, MCH_PCIEXBAR + 4, q->cfg.ecam_base >> 32);
	}
	d->wmask[MCH_PAM0] = 0x30;
	memset(d->wmask + MCH_PAM0 + 1, 0x33, 6);
	d->config[MCH_SMRAM] = 0x02;
	d->wmask[MCH_SMRAM] = 0x78;
	d->wmask[MCH_ESMRAMC] = 0x87;
	store(d, 0x40, 0x20); /* EPBAR, MCHBAR */
	store(d, 0x68, 8);    /* DMIBAR */
	store(d, 0xa0, 0x10); /* TOM, TOUUD, BSM, TSEGMB */
	store(d, 0xb0, 4);    /* TOLUD */
	d->config_written = mch_written;
	d->opaque = q;
}

static void lpc_init(struct q35 *q)
{
	struct pci_dev *d = &q->lpc;

	pci_init(d, 0x8086, 0x2918, 0x060100, 2, "lpc");
	d->config[PCI_HEADER_TYPE] = 0x80; /* the slot has further functions */
	pci_put16(d, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_put16(d, PCI_STATUS, 0x0200);
	/* hardwired: the bridge always decodes */
	memset(d->wmask + PCI_COMMAND, 0, 2);
	pci_put32(d, LPC_PMBASE, ICH9_PM_BASE | 1);
	d->wmask[LPC_PMBASE] = 0x80;
	d->wmask[LPC_PMBASE + 1] = 0xff;
	d->config[LPC_ACPI_CNTL] = LPC_ACPI_EN;
	d->wmask[LPC_ACPI_CNTL] = 0x87;
	store(d, 0x48, 5); /* GPIO base and control */
	memset(d->config + LPC_PIRQA, LPC_ROUTE_OFF, 4);
	memset(d->config + LPC_PIRQE, LPC_ROUTE_OFF, 4);
	memset(d->wmask + LPC_PIRQA, 0x8f, 4);
	memset(d->wmask + LPC_PIRQE, 0x8f, 4);
	d->config[0x64] = 0x10;
	d->wmask[0x64] = 0xdf; /* SERIRQ */
	store(d, 0x80, 0x1c);  /* I/O decode ranges */
	store(d, 0xa0, 0x10);  /* GEN_PMCON and friends */
	d->wmask[LPC_RCBA] = 0x01;
	d->wmask[LPC_RCBA + 1] = 0xc0;
	d->wmask[LPC_RCBA + 2] = d->wmask[LPC_RCBA + 3] = 0xff;
	d->config_written = lpc_written;
	d->opaque = q;
}

static void q35_reset(struct device *d)
{
	pci_bus_reset(((struct q35 *)d)->bus);
}

static void q35_save(const struct device *d, struct encoder *e)
{
	const struct q35 *q = (const struct q35 *)d;

	enc_begin(e, d->ops->name, 1);
	pci_bus_save(q->bus, e);
	pci_dev_save(&q->mch, e);
	pci_dev_save(&q->lpc, e);
	for (unsigned i = 0; i < PCI_LINES; i++) {
		enc_bool(e, q->pirq[i]);
		enc_bool(e, q->cfg.gsi[i].level);
	}
	for (unsigned i = 0; i < 16; i++)
		enc_bool(e, q->cfg.pic[i].level);
	enc_end(e);
}

static int q35_check(const struct device *d, struct decoder *in)
{
	const struct q35 *q = (const struct q35 *)d;
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1)
		return -1;
	if (!pci_bus_check(&i) || !pci_dev_check(&q->mch, &i) || !pci_dev_check(&q->lpc, &i))
		return -1;
	for (unsigned n = 0; n < 2 * PCI_LINES + 16; n++)
		dec_bool(&i);
	return dec_done(&i) ? 0 : -1;
}

static void q35_load(struct device *d, struct decoder *in)
{
	struct q35 *q = (struct q35 *)d;
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i))
		return;
	pci_bus_load(q->bus, &i);
	pci_dev_load(&q->mch, &i);
	pci_dev_load(&q->lpc, &i);
	for (unsigned n = 0; n < PCI_LINES; n++) {
		q->pirq[n] = dec_bool(&i);
		q->cfg.gsi[n].level = dec_bool(&i);
	}
	for (unsigned n = 0; n < 16; n++)
		q->cfg.pic[n].level = dec_bool(&i);
}

static void q35_destroy(struct device *d)
{
	struct q35 *q = (struct q35 *)d;

	if (q->bus)
		pci_bus_destroy(q->bus);
	for (unsigned i = 0; i < PAM_SEGMENTS; i++)
		for (unsigned v = 1; v < 4; v++)
			if (q->pam[i].view[v])
				region_remove(q->mem, q->pam[i].view[v]);
	free(q);
}

static const struct device_ops q35_ops = {
	.name = "q35",
	.reset = q35_reset,
	.save = q35_save,
	.check = q35_check,
	.load = q35_load,
	.destroy = q35_destroy,
};

struct pci_bus *q35_bus(struct device *d)
{
	return ((struct q35 *)d)->bus;
}

struct device *q35_create(struct board *b, const struct q35_config *cfg)
{
	struct q35 *q = calloc(1, sizeof(*q));

	if (!q)
		return NULL;
	q->dev.ops = &q35_ops;
	q->cfg = *cfg;
	q->mem = b->mem;
	mch_init(q);
	lpc_init(q);
	q->bus = pci_bus_create(b, intx, q);
	if (!q->bus || (cfg->pam && !pam_create(q)) || pci_add(q->bus, &q->mch, PCI_DEVFN(0, 0)) < 0 ||
	    pci_add(q->bus, &q->lpc, PCI_DEVFN(31, 0)) < 0) {
		q35_destroy(&q->dev);
		return NULL;
	}
	board_attach(b, &q->dev);
	q35_reset(&q->dev);
	return &q->dev;
}
