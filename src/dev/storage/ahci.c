/*
 * Registers, command slots and FISes of the controller.
 *
 * A command is started when its bit in PxCI is set and the port runs; a drive
 * works on any number of queued commands at once, or on one other. What the
 * backend has done comes back by a list, as with virtio-blk: `done` comes on
 * any thread and appends; the vCPU thread takes the list behind a register
 * write that started commands, or because the door's source was signalled.
 *
 * Everything in guest memory is copied once, then checked. FISes go to RAM
 * only, so that the controller cannot be made to write its own registers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "dev/storage/ahci_internal.h"
#include "replay/door.h"

/* Generic host control (AHCI 1.3.1, 3.1) */
enum { HBA_CAP = 0x00, HBA_GHC = 0x04, HBA_IS = 0x08, HBA_PI = 0x0c, HBA_VS = 0x10 };
#define GHC_HR BIT(0)
#define GHC_IE BIT(1)
#define GHC_AE BIT(31)
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
#define CMD_ST BIT(0)
#define CMD_SUD BIT(1)
#define CMD_POD BIT(2)
#define CMD_CLO BIT(3)
#define CMD_FRE BIT(4)
#define CMD_FR BIT(14)
#define CMD_CR BIT(15)
#define CMD_ATAPI BIT(24)
#define CMD_WRITABLE (CMD_ST | CMD_FRE | CMD_ATAPI)
#define IS_DHRS BIT(0)
#define IS_PSS BIT(1)
#define IS_SDBS BIT(3)
#define IS_PCS BIT(6) /* follows SERR.DIAG.X */
#define IS_HBFS BIT(29)
#define IS_TFES BIT(30)
#define IS_ALL 0xfdc000ffu
#define SERR_X BIT(26)
#define SSTS_UP 0x113 /* device present, 1.5 Gbit/s, active */

/* FISes (SATA 3.0, 10.3) and where they are received (AHCI, 4.2.1) */
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO_SETUP = 0x5f, FIS_SET_BITS = 0xa1 };
enum { RX_PIO_SETUP = 0x20, RX_D2H = 0x40, RX_SET_BITS = 0x58 };
#define FIS_I 0x40
#define FIS_D 0x20

#define HEADER_LEN 32
#define ABAR_LEN 4096
#define NO_DEVICE 0xffffffffu

static u64 of_halves(u32 low, u32 high)
{
	return (u64)high << 32 | low;
}

static bool present(const struct ahci_port *p)
{
	return p->drive.image;
}

static bool master(const struct ahci *h)
{
	return pci_get16(&h->pci, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

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

static void update_irq(struct ahci *h)
{
	pci_set_irq(&h->pci, (h->ghc & GHC_IE) && pending_ports(h));
}

void ahci_log_error(struct ahci_port *p, const char *what, int error)
{
	p->stats.errors++;
	if (p->logged != error)
		log_error("ahci", "%s: %s: %s", p->drive.name ? p->drive.name : "drive", what, strerror(error));
	p->logged = error;
}

/* ---- FISes to the host ---- */

static void post(struct ahci_port *p, unsigned at, const u8 *fis, unsigned n)
{
	if ((p->cmd & CMD_FRE) && master(p->hba) && !ahci_put(p->hba, of_halves(p->fb, p->fbu) + at, fis, n))
		p->is |= IS_HBFS;
}

static void put_regs(u8 *fis, const struct ata_regs *r)
{
	for (unsigned i = 0; i < 3; i++) {
		fis[4 + i] = (u8)(r->lba >> 8 * i);
		fis[8 + i] = (u8)(r->lba >> 8 * (i + 3));
	}
	fis[7] = r->device;
	fis[12] = (u8)r->count;
	fis[13] = (u8)(r->count >> 8);
}

static void post_d2h(struct ahci_port *p, const struct ata_regs *r, bool interrupt)
{
	u8 fis[20] = { FIS_D2H, interrupt ? FIS_I : 0, (u8)p->tfd, (u8)(p->tfd >> 8) };

	put_regs(fis, r);
	post(p, RX_D2H, fis, sizeof(fis));
	if (interrupt)
		p->is |= IS_DHRS;
}

static void post_pio_setup(struct ahci_port *p, const struct ahci_slot *s)
{
	u8 fis[20] = { FIS_PIO_SETUP, FIS_I | (s->to_guest ? FIS_D : 0), ATA_GOOD | ATA_DRQ };

	put_regs(fis, &s->out);
	fis[15] = (u8)p->tfd;
	fis[16] = (u8)s->moved;
	fis[17] = (u8)(s->moved >> 8);
	post(p, RX_PIO_SETUP, fis, sizeof(fis));
	p->is |= IS_PSS;
}

static void post_set_bits(struct ahci_port *p, u32 finished)
{
	u8 fis[8] = { FIS_SET_BITS, FIS_I, (u8)(p->tfd & 0x77), (u8)(p->tfd >> 8) };

	memcpy(fis + 4, &finished, 4);
	post(p, RX_SET_BITS, fis, sizeof(fis));
	p->is |= IS_SDBS;
}

void ahci_signature(const struct ahci_port *p, struct ata_regs *r)
{
	*r = (struct ata_regs){ .count = 1, .lba = p->drive.cdrom ? 0xeb1401 : 1 };
}

/* What a drive says after a reset. */
static void post_signature(struct ahci_port *p)
{
	struct ata_regs r;

	ahci_signature(p, &r);
	p->tfd = 1 << 8 | (p->drive.cdrom ? 0 : ATA_GOOD);
	p->sig = (u32)r.lba << 8 | r.count;
	post_d2h(p, &r, false);
}

/* ---- the end of commands ---- */

static void finish_queued(struct ahci_slot *s, u8 status, u8 error)
{
	struct ahci_port *p = s->port;
	u32 bit = 1u << s->tag;

	if (status & ATA_ERR) {
		p->log_tag = s->tag;
		p->log_status = status;
		p->log_error = error;
		p->log_lba = s->in.lba;
	} else {
		p->sact &= ~bit;
	}
	p->accepted &= ~bit;
	post_set_bits(p, status & ATA_ERR ? 0 : bit);
}

void ahci_finish(struct ahci_slot *s, u8 status, u8 error)
{
	struct ahci_port *p = s->port;
	u32 bit = 1u << s->tag, moved = s->moved;

	p->started &= ~bit;
	p->tfd = (u32)error << 8 | status;
	if (s->queued) {
		finish_queued(s, status, error);
	} else {
		/* an error leaves the bit for the host to see which command it was */
		if (!(status & ATA_ERR))
			p->issued &= ~bit;
		if (!ahci_put(p->hba, s->header + 4, &moved, 4))
			p->is |= IS_HBFS;
		if (s->pio && moved)
			post_pio_setup(p, s);
		post_d2h(p, &s->out, true);
	}
	if (status & ATA_ERR) {
		p->halted = true;
		p->is |= IS_TFES;
	}
}

/* ---- steps of the backend ---- */

/* Any thread. */
static void on_done(struct block_request *r, int error)
{
	struct ahci_slot *s = r->opaque;
	struct ahci *h = s->port->hba;
	bool signal;

	s->error = error;
	s->next = NULL;
	pthread_mutex_lock(&h->lock);
	*h->done_tail = s;
	h->done_tail = &s->next;
	signal = !h->inside;
	pthread_mutex_unlock(&h->lock);
	if (signal)
		door_signal(h->door, h->source);
}

void ahci_submit(struct ahci_slot *s, enum block_op op, u64 offset, u64 length)
{
	s->block = (struct block_request){
		.op = op,
		.offset = offset,
		.length = length,
		.iov = s->iov,
		.iov_n = s->pieces,
		.done = on_done,
		.opaque = s,
	};
	s->port->flying++;
	block_submit(s->port->drive.image, &s->block);
	if (s->port->hba->synchronous)
		block_drain(s->port->drive.image);
}

/* The whole list. An empty one ends the vCPU thread's look at it. */
static struct ahci_slot *take_done(struct ahci *h)
{
	struct ahci_slot *s;

	pthread_mutex_lock(&h->lock);
	s = h->done;
	h->done = NULL;
	h->done_tail = &h->done;
	h->inside = s;
	pthread_mutex_unlock(&h->lock);
	return s;
}

/* A step is over; where an error has stopped the port meanwhile nobody waits for the command any more. */
static void step(struct ahci_slot *s)
{
	struct ahci_port *p = s->port;

	p->flying--;
	if (p->halted)
		p->started &= ~(1u << s->tag);
	else if (p->drive.cdrom)
		atapi_step(s);
	else
		ata_step(s);
}

/* ---- the start of commands ---- */

static void decode_fis(const u8 *fis, struct ata_regs *r)
{
	*r = (struct ata_regs){
		.command = fis[2],
		.features = (u16)(fis[3] | fis[11] << 8),
		.device = fis[7],
		.count = (u16)(fis[12] | fis[13] << 8),
		.control = fis[15],
	};
	for (unsigned i = 0; i < 3; i++)
		r->lba |= (u64)fis[4 + i] << 8 * i | (u64)fis[8 + i] << 8 * (i + 3);
}

/* A FIS without the command bit: the device control register (SATA 3.0, 11.4). */
static void control(struct ahci_slot *s)
{
	struct ahci_port *p = s->port;
	bool srst = s->in.control & 4;

	p->issued &= ~(1u << s->tag);
	p->started &= ~(1u << s->tag);
	if (p->srst && !srst)
		post_signature(p);
	p->srst = srst;
}

static void start(struct ahci_slot *s, const u8 *fis)
{
	struct ahci_port *p = s->port;

	decode_fis(fis, &s->in);
	s->out = s->in;
	s->pio = s->to_guest = s->fua = s->queued = false;
	s->moved = 0;
	s->pieces = 0;
	p->started |= 1u << s->tag;
	if (!(fis[1] & 0x80)) {
		control(s);
		return;
	}
	p->tfd = ATA_BSY | ATA_GOOD;
	if (fis[1] & 15) { /* there is no port multiplier */
		ahci_finish(s, ATA_GOOD | ATA_ERR, ATA_ABRT);
		return;
	}
	if (!p->drive.cdrom && ata_is_queued(s->in.command)) {
		s->queued = true;
		p->issued &= ~(1u << s->tag);
		p->accepted |= 1u << s->tag;
		p->sact |= 1u << s->tag;
		p->tfd = ATA_GOOD;
	}
	if (p->drive.cdrom)
		atapi_start(s);
	else
		ata_start(s);
}

static void bus_error(struct ahci_port *p)
{
	p->is |= IS_HBFS;
	p->halted = true;
}

/* Reads slot `n` and starts its command; false if it has to wait. */
static bool fetch(struct ahci_port *p, unsigned n)
{
	struct ahci *h = p->hba;
	struct ahci_slot *s = &p->slot[n];
	u32 header[4];
	u8 fis[20];
	bool queued;

	s->header = of_halves(p->clb, p->clbu) + n * HEADER_LEN;
	if (!ahci_get(h, s->header, header, sizeof(header))) {
		bus_error(p);
		return false;
	}
	s->prds = (u16)(header[0] >> 16);
	s->table = of_halves(header[2] & ~127u, header[3]);
	/* at least the registers; of a packet the bytes that lie behind them */
	if ((header[0] & 31) < 5 || !ahci_get(h, s->table, fis, sizeof(fis)) || fis[0] != FIS_H2D ||
	    !ahci_get(h, s->table + 0x40, s->packet, sizeof(s->packet))) {
		bus_error(p);
		return false;
	}
	queued = !p->drive.cdrom && (fis[1] & 0x80) && ata_is_queued(fis[2]);
	if (queued ? p->started & ~p->accepted : p->started)
		return false;
	start(s, fis);
	return true;
}

static void run_port(struct ahci_port *p)
{
	u32 todo;

	if (!present(p) || !master(p->hba))
		return;
	while ((p->cmd & CMD_ST) && !p->halted && (todo = (p->issued | p->accepted) & ~p->started))
		if (!fetch(p, (unsigned)__builtin_ctz(todo)))
			return;
}

/* Starts what can be started and ends what is done, until there is nothing more of both. */
static void work(struct ahci *h)
{
	struct ahci_slot *s, *next;

	pthread_mutex_lock(&h->lock);
	h->inside = true;
	pthread_mutex_unlock(&h->lock);
	do {
		for (unsigned i = 0; i < AHCI_PORTS; i++)
			run_port(&h->port[i]);
		s = take_done(h);
		for (struct ahci_slot *at = s; at; at = next) {
			next = at->next;
			step(at);
		}
	} while (s);
	update_irq(h);
}

static void on_source(void *opaque)
{
	work(opaque);
}

/* ---- stopping and resetting ---- */

/* Takes the slots of `p` off the list of done ones. */
static void forget_done(struct ahci_port *p)
{
	struct ahci *h = p->hba;
	struct ahci_slot **at = &h->done;

	pthread_mutex_lock(&h->lock);
	while (*at) {
		if ((*at)->port == p)
			*at = (*at)->next;
		else
			at = &(*at)->next;
	}
	h->done_tail = at;
	pthread_mutex_unlock(&h->lock);
}

/* Guest memory is not touched any more when it returns. */
static void abort_commands(struct ahci_port *p)
{
	if (p->flying) {
		block_drain(p->drive.image);
		forget_done(p);
	}
	p->flying = p->started = 0;
	p->issued = p->accepted = p->sact = 0;
	p->halted = false;
}

/* The link comes up and the drive sends its signature, or there is none. */
static void link_up(struct ahci_port *p)
{
	p->srst = false;
	p->tfd = 0x7f;
	p->sig = NO_DEVICE;
	if (present(p))
		post_signature(p);
}

static void reset_port(struct ahci_port *p)
{
	abort_commands(p);
	p->clb = p->clbu = p->fb = p->fbu = 0;
	p->is = p->ie = p->cmd = p->sctl = p->serr = 0;
	link_up(p);
}

static void reset_hba(struct ahci *h)
{
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		reset_port(&h->port[i]);
	h->ghc = (u32)GHC_AE;
}

/* ---- registers ---- */

static u32 port_ssts(const struct ahci_port *p)
{
	switch (p->sctl & 15) {
	case 1:
		return 0;
	case 4: /* the interface is off */
		return 4;
	default:
		return present(p) ? SSTS_UP : 0;
	}
}

static u32 port_cmd(const struct ahci_port *p)
{
	return (u32)(p->cmd | CMD_SUD | CMD_POD | (p->cmd & CMD_FRE ? CMD_FR : 0) | (p->cmd & CMD_ST ? CMD_CR : 0));
}

static u32 port_read(const struct ahci_port *p, unsigned reg)
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
	if ((p->cmd & CMD_ST) && !(val & CMD_ST))
		abort_commands(p);
	if (val & CMD_CLO)
		p->tfd &= ~(u32)(ATA_BSY | ATA_DRQ);
	p->cmd = val & CMD_WRITABLE;
}

/* DET: 1 holds the link in reset, going back to 0 brings it up. */
static void write_sctl(struct ahci_port *p, u32 val)
{
	unsigned before = p->sctl & 15, after = val & 15;

	p->sctl = val & 0xfff;
	if (before == after)
		return;
	if (after) {
		abort_commands(p);
		p->tfd = 0x7f;
		p->sig = NO_DEVICE;
		return;
	}
	link_up(p);
	if (present(p))
		p->serr |= SERR_X;
}

static void port_write_reg(struct ahci_port *p, unsigned reg, u32 val)
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
		if (p->cmd & CMD_ST)
			p->sact |= val;
		break;
	case PX_CI:
		if (p->cmd & CMD_ST)
			p->issued |= val;
		break;
	}
}

static u64 abar_read(void *opaque, u64 off, unsigned size)
{
	const struct ahci *h = opaque;

	if (off >= PORTS_BASE && off < PORTS_BASE + AHCI_PORTS * PORT_LEN)
		return port_read(&h->port[(off - PORTS_BASE) / PORT_LEN], off % PORT_LEN);
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
		port_write_reg(&h->port[(off - PORTS_BASE) / PORT_LEN], off % PORT_LEN, (u32)val);
	else if (off == HBA_GHC && (val & GHC_HR))
		reset_hba(h);
	else if (off == HBA_GHC)
		h->ghc = (u32)(GHC_AE | (val & GHC_IE));
	work(h);
}

static const struct io_ops abar_io = { abar_read, abar_write, 4, 4 };

static void config_written(struct pci_dev *d, unsigned off, unsigned size)
{
	if (off <= PCI_COMMAND && off + size > PCI_COMMAND)
		work(d->opaque);
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
	update_irq(h);
}

static void ahci_quiesce(struct device *d)
{
	struct ahci *h = (struct ahci *)d;
	u32 flying;

	do {
		work(h);
		flying = 0;
		for (unsigned i = 0; i < AHCI_PORTS; i++) {
			if (h->port[i].flying)
				block_drain(h->port[i].drive.image);
			flying += h->port[i].flying;
		}
	} while (flying);
}

/* Commands that are being worked on are still in `issued` or `accepted`: whoever loads them starts them again. */
static void save_port(const struct ahci_port *p, struct encoder *e)
{
	const u32 regs[] = { p->clb, p->clbu, p->fb,   p->fbu,	p->is,	 p->ie,	    p->cmd,
			     p->tfd, p->sig,  p->sctl, p->serr, p->sact, p->issued, p->accepted };

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		enc_u32(e, regs[i]);
	enc_bool(e, p->halted);
	enc_bool(e, p->srst);
	enc_bool(e, p->write_cache);
	enc_u8(e, p->transfer_mode);
	enc_u8(e, p->log_tag);
	enc_u8(e, p->log_status);
	enc_u8(e, p->log_error);
	enc_u64(e, p->log_lba);
	enc_bool(e, p->tray_open);
	enc_bool(e, p->locked);
	enc_u8(e, p->sense_key);
	enc_u8(e, p->asc);
	enc_u8(e, p->ascq);
}

static void load_port(struct ahci_port *p, struct decoder *in)
{
	u32 *const regs[] = { &p->clb, &p->clbu, &p->fb,   &p->fbu,  &p->is,   &p->ie,	   &p->cmd,
			      &p->tfd, &p->sig,	 &p->sctl, &p->serr, &p->sact, &p->issued, &p->accepted };

	for (unsigned i = 0; i < ARRAY_SIZE(regs); i++)
		*regs[i] = dec_u32(in);
	p->halted = dec_bool(in);
	p->srst = dec_bool(in);
	p->write_cache = dec_bool(in);
	p->transfer_mode = dec_u8(in);
	p->log_tag = dec_u8(in);
	p->log_status = dec_u8(in);
	p->log_error = dec_u8(in);
	p->log_lba = dec_u64(in);
	p->tray_open = dec_bool(in);
	p->locked = dec_bool(in);
	p->sense_key = dec_u8(in);
	p->asc = dec_u8(in);
	p->ascq = dec_u8(in);
}

static bool sound_port(const struct ahci_port *p, bool there)
{
	u8 mode = p->transfer_mode;

	if ((p->clb & 1023) || (p->fb & 255) || (p->is & ~IS_ALL) || (p->ie & ~IS_ALL) ||
	    (p->cmd & ~(u32)CMD_WRITABLE) || (p->sctl & ~0xfffu) || (p->serr & ~(u32)SERR_X) || p->tfd > 0xffff)
		return false;
	if ((p->accepted & ~p->sact) || (!there && p->accepted) || (p->log_lba >> 48) || p->log_tag >= AHCI_SLOTS)
		return false;
	if (!(p->cmd & CMD_ST) && (p->issued || p->accepted))
		return false;
	return (mode >= 0x20 && mode <= 0x22) || (mode >= 0x40 && mode <= 0x45);
}

static void ahci_save(const struct device *d, struct encoder *e)
{
	const struct ahci *h = (const struct ahci *)d;

	enc_begin(e, d->ops->name, 1);
	pci_dev_save(&h->pci, e);
	enc_u32(e, h->ghc);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		save_port(&h->port[i], e);
	enc_end(e);
}

static int ahci_check(const struct device *d, struct decoder *in)
{
	const struct ahci *h = (const struct ahci *)d;
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1 || !pci_dev_check(&h->pci, &i) ||
	    (dec_u32(&i) & ~(u32)GHC_IE) != (u32)GHC_AE)
		return -1;
	for (unsigned n = 0; n < AHCI_PORTS; n++) {
		struct ahci_port p = { 0 };

		load_port(&p, &i);
		if (!sound_port(&p, present(&h->port[n])))
			return -1;
	}
	return dec_done(&i) ? 0 : -1;
}

static void ahci_load(struct device *d, struct decoder *in)
{
	struct ahci *h = (struct ahci *)d;
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i))
		return;
	for (unsigned n = 0; n < AHCI_PORTS; n++)
		abort_commands(&h->port[n]);
	pci_dev_load(&h->pci, &i);
	h->ghc = dec_u32(&i);
	for (unsigned n = 0; n < AHCI_PORTS; n++)
		load_port(&h->port[n], &i);
	door_signal(h->door, h->source);
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
		abort_commands(&h->port[i]);
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

const struct ahci_stats *ahci_stats(const struct device *d, unsigned port)
{
	return &((const struct ahci *)d)->port[port].stats;
}

static bool create_port(struct ahci *h, unsigned n, const struct ahci_drive *drive)
{
	struct ahci_port *p = &h->port[n];

	p->hba = h;
	p->index = n;
	p->drive = *drive;
	if (!present(p))
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
	h->source = door_add_source(b->door, "ahci", on_source, h);
	if (h->source < 0)
		goto fail;
	create_function(h);
	if (pci_add(bus, &h->pci, PCI_DEVFN(31, 2)) < 0)
		goto fail;
	board_attach(b, &h->dev);
	ahci_reset(&h->dev);
	return &h->dev;
fail:
	ahci_free(h);
	return NULL;
}
