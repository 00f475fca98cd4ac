/* The controller's saved state. */
#include "dev/storage/ahci_internal.h"
#include "replay/door.h"

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
	    (p->cmd & ~PORT_CMD_WRITABLE) || (p->sctl & ~0xfffu) || (p->serr & ~SERR_X) || p->tfd > 0xffff)
		return false;
	if ((p->accepted & ~p->sact) || (!there && p->accepted) || (p->log_lba >> 48) || p->log_tag >= AHCI_SLOTS)
		return false;
	if (!(p->cmd & PORT_ST) && (p->issued || p->accepted))
		return false;
	return (mode >= 0x20 && mode <= 0x22) || (mode >= 0x40 && mode <= 0x45);
}

void ahci_save(const struct device *d, struct encoder *e)
{
	const struct ahci *h = (const struct ahci *)d;

	enc_begin(e, d->ops->name, 1);
	pci_dev_save(&h->pci, e);
	enc_u32(e, h->ghc);
	for (unsigned i = 0; i < AHCI_PORTS; i++)
		save_port(&h->port[i], e);
	enc_end(e);
}

int ahci_check(const struct device *d, struct decoder *in)
{
	const struct ahci *h = (const struct ahci *)d;
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i) || i.version != 1 || !pci_dev_check(&h->pci, &i) ||
	    (dec_u32(&i) & ~GHC_IE) != GHC_AE)
		return -1;
	for (unsigned n = 0; n < AHCI_PORTS; n++) {
		struct ahci_port p = { 0 };

		load_port(&p, &i);
		if (!sound_port(&p, ahci_present(&h->port[n])))
			return -1;
	}
	return dec_done(&i) ? 0 : -1;
}

void ahci_load(struct device *d, struct decoder *in)
{
	struct ahci *h = (struct ahci *)d;
	struct decoder i;

	if (!dec_begin(in, d->ops->name, &i))
		return;
	for (unsigned n = 0; n < AHCI_PORTS; n++)
		ahci_abort(&h->port[n]);
	h->loading = true;
	pci_dev_load(&h->pci, &i);
	h->ghc = dec_u32(&i);
	for (unsigned n = 0; n < AHCI_PORTS; n++)
		load_port(&h->port[n], &i);
	h->loading = false;
	door_signal(h->door, h->source);
}
