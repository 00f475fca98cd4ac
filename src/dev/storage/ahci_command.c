/*
 * Command slots and FISes.
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
#include <string.h>

#include "base/log.h"
#include "dev/storage/ahci_internal.h"
#include "replay/door.h"

/* FISes (SATA 3.0, 10.3) and where they are received (AHCI, 4.2.1) */
enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO_SETUP = 0x5f, FIS_SET_BITS = 0xa1 };
enum { RX_PIO_SETUP = 0x20, RX_D2H = 0x40, RX_SET_BITS = 0x58 };
#define FIS_I 0x40
#define FIS_D 0x20

#define HEADER_LEN 32

static u64 of_halves(u32 low, u32 high)
{
	return (u64)high << 32 | low;
}

static bool master(const struct ahci *h)
{
	return pci_get16(&h->pci, PCI_COMMAND) & PCI_COMMAND_MASTER;
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
	if ((p->cmd & PORT_FRE) && master(p->hba) && !ahci_put(p->hba, of_halves(p->fb, p->fbu) + at, fis, n))
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
	p->stats.others += !s->steps;
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
	s->steps = true;
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

/* Whatever became of a read, it may have written to code. */
static void arrived(struct ahci_slot *s)
{
	if (s->block.op == BLOCK_READ)
		ahci_arrived(s);
}

/* A step is over; where an error has stopped the port meanwhile nobody waits for the command any more. */
static void step(struct ahci_slot *s)
{
	struct ahci_port *p = s->port;

	p->flying--;
	arrived(s);
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
	s->pio = s->to_guest = s->fua = s->queued = s->steps = false;
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
	/* after load: what was accepted must not have become something else */
	if (!queued && (p->accepted & 1u << n)) {
		bus_error(p);
		return false;
	}
	if (queued ? p->started & ~p->accepted : p->started)
		return false;
	start(s, fis);
	return true;
}

static void run_port(struct ahci_port *p)
{
	u32 todo;

	if (!ahci_present(p) || !master(p->hba))
		return;
	while ((p->cmd & PORT_ST) && !p->halted && (todo = (p->issued | p->accepted) & ~p->started))
		if (!fetch(p, (unsigned)__builtin_ctz(todo)))
			return;
}

void ahci_work(struct ahci *h)
{
	struct ahci_slot *s, *next;

	pthread_mutex_lock(&h->lock);
	h->inside = true;
	pthread_mutex_unlock(&h->lock);
	do {
		for (unsigned i = 0; i < AHCI_PORTS; i++)
			run_port(&h->port[i]);
		for (unsigned i = 0; i < AHCI_PORTS; i++)
			if (h->port[i].flying)
				block_poll(h->port[i].drive.image);
		s = take_done(h);
		for (struct ahci_slot *at = s; at; at = next) {
			next = at->next;
			step(at);
		}
	} while (s);
	ahci_update_irq(h);
}

/* ---- stopping and resetting ---- */

/* Takes the slots of `p` off the list of done ones. */
static void forget_done(struct ahci_port *p)
{
	struct ahci *h = p->hba;
	struct ahci_slot **at = &h->done;

	pthread_mutex_lock(&h->lock);
	while (*at) {
		if ((*at)->port == p) {
			arrived(*at);
			*at = (*at)->next;
		} else {
			at = &(*at)->next;
		}
	}
	h->done_tail = at;
	pthread_mutex_unlock(&h->lock);
}

void ahci_abort(struct ahci_port *p)
{
	if (p->flying) {
		block_drain(p->drive.image);
		forget_done(p);
	}
	p->flying = p->started = 0;
	p->issued = p->accepted = p->sact = 0;
	p->halted = false;
}

void ahci_link_up(struct ahci_port *p)
{
	p->srst = false;
	p->tfd = TFD_NO_DEVICE;
	p->sig = SIG_NO_DEVICE;
	if (ahci_present(p))
		post_signature(p);
}
