/*
 * Registers of the controller, and its life. Commands are in ahci_command.c.
 */
#include <stdlib.h>

#include "dev/storage/ahci_internal.h"
#include "replay/door.h"

/* Generic host control (AHCI 1.3.1, 3.1) */
enum { HBA_CAP = 0x00, HBA_GHC = 0x04, HBA_IS = 0x08, HBA_PI = 0x0c, HBA_VS = 0x10 };
#define GHC_HR BIT(0)
/* 64-bit addresses, NCQ, AHCI only, CLO, 1.5 Gbit/s, 32 slots, 6 ports */
#define CAP_VALUE (1u << 31 | 1u << 30 | 1u << 24 | 1u << 20 | 1u << 18 | (AHCI_SLOTS - 1) << 8 | (AHCI_PORTS - 1))
#define VS_VALUE 0x00010300u

/* Port registers (3.3) */
enum {
	PX_CLB = 0x00,
	PX_CLBU = 0x04,
	PX_FB = 0x08,
	PX_FBU = 0x0c,
	PX_IS = 0x10,
	PX_IE = 0x14,
	PX_CMD = 0x18,
	PX_TFD = 0x20,
	PX_SIG = 0x24,
	PX_SSTS = 0x28,
	PX_SCTL = 0x2c,
	PX_SERR = 0x30,
	PX_SACT = 0x34,
	PX_CI = 0x38,
};
#define PORTS_BASE 0x100u
#define PORT_LEN 0x80u
#define CMD_SUD BIT(1)
#define CMD_POD BIT(2)
#define CMD_CLO BIT(3)
#define CMD_FR BIT(14)
#define CMD_CR BIT(15)
#define SSTS_UP 0x113 /* device present, 1.5 Gbit/s, active */

#define ABAR_LEN 4096

static u32 port_is(const struct ahci_port *p)
{
	return p->is | (p->serr & SERR_X ? (u32)IS_PCS : 0);
}

static u32 pending_ports(const struct ahci *h)
{
	u32 v = 0;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (port_is(&h->port[i]) & h->port[i].ie)
			v |= 1u << i;
	return v;
}

void ahci_update_irq(struct ahci *h)
{
	pci_set_irq(&h->pci, (h->ghc & GHC_IE) && pending_ports(h));
}

/* ---- registers ---- */

static void reset_port(struct ahci_port *p)
{
	ahci_abort(p);
	p->clb = p->clbu = p->fb = p->fbu = 0;
	p->is = p->ie = p->cmd = p->sctl = p->serr = 0;
	ahci_link_up(p);
}

static void reset_hba(struct ahci *h)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		reset_port(&h->port[i]);
	h->ghc = GHC_AE;
}

static u32 port_ssts(const struct ahci_port *p)
{
	switch (p->sctl & 15) {
	case 1:
		return 0;
	case 4: /* the interface is off */
		return 4;
	default:
		return ahci_present(p) ? SSTS_UP : 0;
	}
}

static u32 port_cmd(const struct ahci_port *p)
{
	return (u32)(p->cmd | CMD_SUD | CMD_POD | (p->cmd & PORT_FRE ? CMD_FR : 0) | (p->cmd & PORT_ST ? CMD_CR : 0));
}

static u32 read_port(const struct ahci_port *p, unsigned reg)
{
	switch (reg) {
	case PX_CLB:
		return p->clb;
	case PX_CLBU:
		return p->clbu;
	case PX_FB:
		return p->fb;
	case PX_FBU:
		return p->fbu;
	case PX_IS:
		return port_is(p);
	case PX_IE:
		return p->ie;
	case PX_CMD:
		return port_cmd(p);
	case PX_TFD:
		return p->tfd;
	case PX_SIG:
		return p->sig;
	case PX_SSTS:
		return port_ssts(p);
	case PX_SCTL:
		return p->sctl;
	case PX_SERR:
		return p->serr;
	case PX_SACT:
		return p->sact;
	case PX_CI:
		return p->issued;
	default:
		return 0;
	}
}

static void write_cmd(struct ahci_port *p, u32 val)
{
	if ((p->cmd & PORT_ST) && !(val & PORT_ST))
		ahci_abort(p);
	if (val & CMD_CLO)
		p->tfd &= ~(u32)(ATA_BSY | ATA_DRQ);
	p->cmd = val & PORT_CMD_WRITABLE;
}

/* DET: 1 holds the link in reset, going back to 0 brings it up. */
static void write_sctl(struct ahci_port *p, u32 val)
{
	unsigned before = p->sctl & 15, after = val & 15;

	p->sctl = val & 0xfff;
	if (before == after)
		return;
	if (after) {
		ahci_abort(p);
		p->tfd = TFD_NO_DEVICE;
		p->sig = SIG_NO_DEVICE;
		return;
	}
	ahci_link_up(p);
	if (ahci_present(p))
		p->serr |= SERR_X;
}

static void write_port(struct ahci_port *p, unsigned reg, u32 val)
{
	switch (reg) {
	case PX_CLB:
		p->clb = val & ~1023u;
		break;
	case PX_CLBU:
		p->clbu = val;
		break;
	case PX_FB:
		p->fb = val & ~255u;
		break;
	case PX_FBU:
		p->fbu = val;
		break;
	case PX_IS:
		p->is &= ~val;
		break;
	case PX_IE:
		p->ie = val & IS_ALL;
		break;
	case PX_CMD:
		write_cmd(p, val);
		break;
	case PX_SCTL:
		write_sctl(p, val);
		break;
	case PX_SERR:
		p->serr &= ~val;
		break;
	case PX_SACT:
		if (p->cmd & PORT_ST)
			p->sact |= val;
		break;
	case PX_CI:
		if (p->cmd & PORT_ST)
			p->issued |= val;
		break;
	}
}

static u64 abar_read(void *opaque, u64 off, unsigned size)
{
	const struct ahci *h = opaque;

	if (off >= PORTS_BASE && off < PORTS_BASE + AHCI_PORTS * PORT_LEN)
		return read_port(&h->port[(off - PORTS_BASE) / PORT_LEN], off % PORT_LEN);
	switch (off) {
	case HBA_CAP:
		return CAP_VALUE;
	case HBA_GHC:
		return h->ghc;
	case HBA_IS:
		return pending_ports(h);
	case HBA_PI:
		return (1u << AHCI_PORTS) - 1;
	case HBA_VS:
		return VS_VALUE;
	default:
		return 0;
	}
}

static void abar_write(void *opaque, u64 off, u64 val, unsigned size)
{
	struct ahci *h = opaque;

	if (off >= PORTS_BASE && off < PORTS_BASE + AHCI_PORTS * PORT_LEN)
		write_port(&h->port[(off - PORTS_BASE) / PORT_LEN], off % PORT_LEN, (u32)val);
	else if (off == HBA_GHC && (val & GHC_HR))
		reset_hba(h);
	else if (off == HBA_GHC)
		h->ghc = (u32)(GHC_AE | (val & GHC_IE));
	ahci_work(h);
}

static const struct io_ops abar_io = { abar_read, abar_write, 4, 4 };

static void on_source(void *opaque)
{
	ahci_work(opaque);
}

static void config_written(struct pci_dev *d, unsigned off, unsigned size)
{
	struct ahci *h = d->opaque;

	if (!h->loading && off <= PCI_COMMAND && off + size > PCI_COMMAND)
		ahci_work(h);
}

/* ---- the device ---- */

static void ahci_reset(struct device *d)
{
	struct ahci *h = (struct ahci *)d;

	reset_hba(h);
	for (unsigned i = 0; i < AHCI_PORTS; i++) {
		ata_reset(&h->port[i]);
		atapi_reset(&h->port[i]);
	}
	ahci_update_irq(h);
}

static void ahci_quiesce(struct device *d)
{
	struct ahci *h = (struct ahci *)d;
	u32 flying;

	do {
		ahci_work(h);
		flying = 0;
		for (unsigned i = 0; i < AHCI_PORTS; i++) {
			if (h->port[i].flying)
				block_drain(h->port[i].drive.image);
			flying += h->port[i].flying;
		}
	} while (flying);
}

static void ahci_free(struct ahci *h)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		free(h->port[i].slot);
	pthread_mutex_destroy(&h->lock);
	free(h);
}

static void ahci_destroy(struct device *d)
{
	struct ahci *h = (struct ahci *)d;

	for (unsigned i = 0; i < AHCI_PORTS; i++)
		ahci_abort(&h->port[i]);
	pci_remove(&h->pci);
	ahci_free(h);
}

static const struct device_ops ahci_ops = {
	.name = "ahci",
	.reset = ahci_reset,
	.quiesce = ahci_quiesce,
	.save = ahci_save,
	.check = ahci_check,
	.load = ahci_load,
	.destroy = ahci_destroy,
};

const struct disk_stats *ahci_stats(const struct device *d, unsigned port)
{
	return &((const struct ahci *)d)->port[port].stats;
}

static bool create_port(struct ahci *h, unsigned n, const struct ahci_drive *drive)
{
	struct ahci_port *p = &h->port[n];

	p->hba = h;
	p->index = n;
	p->drive = *drive;
	if (!ahci_present(p))
		return true;
	p->sectors = block_size(drive->image) / (drive->cdrom ? CD_SECTOR : SECTOR);
	if (drive->cdrom)
		p->sectors = MIN(p->sectors, UINT32_MAX);
	p->slot = calloc(AHCI_SLOTS, sizeof(*p->slot));
	if (!p->slot)
		return false;
	for (unsigned i = 0; i < AHCI_SLOTS; i++) {
		p->slot[i].port = p;
		p->slot[i].tag = (u8)i;
	}
	return true;
}

static void create_function(struct ahci *h)
{
	struct pci_dev *d = &h->pci;

	pci_init(d, 0x8086, 0x2922, 0x010601, 2, "ahci");
	d->config[0x90] = 0x40; /* MAP: AHCI mode */
	d->config[PCI_INTERRUPT_PIN] = 1;
	pci_bar_mmio(d, 5, ABAR_LEN, false, false, &abar_io, h, "ahci");
	d->config_written = config_written;
	d->opaque = h;
}

struct device *ahci_create(struct board *b, struct pci_bus *bus, const struct ahci_config *cfg)
{
	struct ahci *h = calloc(1, sizeof(*h));

	if (!h)
		return NULL;
	h->dev.ops = &ahci_ops;
	h->mem = b->mem;
	h->door = b->door;
	h->synchronous = door_mode(b->door) == DOOR_VIRTUAL;
	h->done_tail = &h->done;
	pthread_mutex_init(&h->lock, NULL);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		if (!create_port(h, i, &cfg->drive[i]))
			goto fail;
	create_function(h);
	if (pci_add(bus, &h->pci, PCI_DEVFN(31, 2)) < 0)
		goto fail;
	h->source = door_add_source(b->door, "ahci", on_source, h);
	if (h->source < 0) {
		pci_remove(&h->pci);
		goto fail;
	}
	board_attach(b, &h->dev);
	ahci_reset(&h->dev);
	return &h->dev;
fail:
	ahci_free(h);
	return NULL;
}
