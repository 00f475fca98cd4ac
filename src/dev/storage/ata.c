/*
 * ATA disks (ATA8-ACS): the commands that firmware, GRUB and systems use.
 * Features that IDENTIFY DEVICE does not name are aborted.
 */
#include <stdio.h>
#include <string.h>

#include "dev/storage/ahci_internal.h"

#define MULTIPLE_MAX 16
#define LOG_NCQ_ERROR 0x10

enum {
	CMD_NOP = 0x00,
	CMD_DATA_SET_MANAGEMENT = 0x06,
	CMD_RECALIBRATE = 0x10,
	CMD_READ_SECTORS = 0x20,
	CMD_READ_SECTORS_EXT = 0x24,
	CMD_READ_DMA_EXT = 0x25,
	CMD_READ_MULTIPLE_EXT = 0x29,
	CMD_READ_LOG_EXT = 0x2f,
	CMD_WRITE_SECTORS = 0x30,
	CMD_WRITE_SECTORS_EXT = 0x34,
	CMD_WRITE_DMA_EXT = 0x35,
	CMD_WRITE_MULTIPLE_EXT = 0x39,
	CMD_READ_VERIFY = 0x40,
	CMD_READ_VERIFY_EXT = 0x42,
	CMD_READ_FPDMA = 0x60,
	CMD_WRITE_FPDMA = 0x61,
	CMD_SEEK = 0x70,
	CMD_DIAGNOSTIC = 0x90,
	CMD_INIT_PARAMETERS = 0x91,
	CMD_READ_MULTIPLE = 0xc4,
	CMD_WRITE_MULTIPLE = 0xc5,
	CMD_SET_MULTIPLE = 0xc6,
	CMD_READ_DMA = 0xc8,
	CMD_WRITE_DMA = 0xca,
	CMD_STANDBY_IMMEDIATE = 0xe0,
	CMD_SLEEP = 0xe6,
	CMD_CHECK_POWER = 0xe5,
	CMD_FLUSH = 0xe7,
	CMD_FLUSH_EXT = 0xea,
	CMD_IDENTIFY = 0xec,
	CMD_SET_FEATURES = 0xef,
};

void ata_reset(struct ahci_port *p)
{
	p->write_cache = true;
	p->transfer_mode = 0x45; /* UDMA 5 */
	p->log_tag = p->log_status = p->log_error = 0;
	p->log_lba = 0;
}

bool ata_is_queued(u8 command)
{
	return command == CMD_READ_FPDMA || command == CMD_WRITE_FPDMA;
}

static void done(struct ahci_slot *s)
{
	ahci_finish(s, ATA_GOOD, 0);
}

static void fail(struct ahci_slot *s, u8 error)
{
	ahci_finish(s, ATA_GOOD | ATA_ERR, error);
}

void ata_reply_pio(struct ahci_slot *s, const void *data, u32 n)
{
	s->pio = s->to_guest = true;
	n = ahci_room(s, n) & ~1u;
	if (!ahci_map(s, n)) {
		fail(s, ATA_ABRT);
		return;
	}
	ahci_copy_in(s, data, n);
	s->moved = n;
	done(s);
}

/* ---- identification ---- */

void ata_text(u8 *to, unsigned len, const char *text)
{
	for (unsigned i = 0; i < len; i++)
		to[i ^ 1] = *text ? (u8)*text++ : ' ';
}

void ata_serial(const struct ahci_port *p, char *to)
{
	if (p->drive.serial)
		snprintf(to, AHCI_SERIAL_LEN + 1, "%s", p->drive.serial);
	else
		snprintf(to, AHCI_SERIAL_LEN + 1, "ectype-%u", p->index);
}

static void put_capacity(const struct ahci_port *p, u8 *w)
{
	u64 chs = p->sectors / (16 * 63), lba28 = MIN(p->sectors, 0xfffffffull);

	chs = MIN(chs, 16383);
	ata_put16(w, 1, (u32)chs);
	ata_put16(w, 3, 16);
	ata_put16(w, 6, 63);
	ata_put16(w, 54, (u32)chs);
	ata_put16(w, 55, 16);
	ata_put16(w, 56, 63);
	ata_put16(w, 57, (u32)(chs * 16 * 63));
	ata_put16(w, 58, (u32)(chs * 16 * 63 >> 16));
	ata_put16(w, 60, (u32)lba28);
	ata_put16(w, 61, (u32)(lba28 >> 16));
	for (unsigned i = 0; i < 4; i++)
		ata_put16(w, 100 + i, (u32)(p->sectors >> 16 * i));
}

/* ATA8-ACS, 7.16 */
static void identify(struct ahci_slot *s)
{
	const struct ahci_port *p = s->port;
	bool udma = (p->transfer_mode & 0xf8) == 0x40;
	bool mwdma = (p->transfer_mode & 0xf8) == 0x20;
	char serial[AHCI_SERIAL_LEN + 1];
	u8 w[512] = { 0 }, sum = 0xa5;

	ata_put16(w, 0, 0x0040); /* a fixed ATA device */
	put_capacity(p, w);
	ata_serial(p, serial);
	ata_text(w + 2 * 10, 20, serial);
	ata_text(w + 2 * 23, 8, "1.0");
	ata_text(w + 2 * 27, 40, "Ectype disk");
	ata_put16(w, 47, 0x8000 | MULTIPLE_MAX);
	ata_put16(w, 49, 0x0f00); /* IORDY, LBA, DMA */
	ata_put16(w, 50, 0x4000);
	ata_put16(w, 53, 0x0007); /* words 54-58, 64-70, 88 are valid */
	ata_put16(w, 59, 0x0100 | MULTIPLE_MAX);
	ata_put16(w, 63, 0x07 | (mwdma ? 0x100u << (p->transfer_mode & 7) : 0));
	ata_put16(w, 64, 0x03); /* PIO 3 and 4 */
	for (unsigned i = 65; i <= 68; i++)
		ata_put16(w, i, 120); /* cycle times, ns */
	ata_put16(w, 75, AHCI_SLOTS - 1);
	ata_put16(w, 76, 0x0102); /* NCQ, 1.5 Gbit/s */
	ata_put16(w, 80, 0x01f0); /* ATA/ATAPI-4 to ATA8-ACS */
	ata_put16(w, 82, 0x4060); /* NOP, look-ahead, write cache */
	ata_put16(w, 83, 0x7400); /* FLUSH CACHE, FLUSH CACHE EXT, 48-bit addresses */
	ata_put16(w, 84, 0x4020); /* general purpose logging */
	ata_put16(w, 85, 0x4040 | (p->write_cache ? 0x20 : 0));
	ata_put16(w, 86, 0x3400);
	ata_put16(w, 87, 0x4020);
	ata_put16(w, 88, 0x3f | (udma ? 0x100u << (p->transfer_mode & 7) : 0));
	ata_put16(w, 105, TRIM_BLOCKS);
	ata_put16(w, 106, 0x6003); /* 8 logical sectors a physical one */
	ata_put16(w, 119, 0x4000);
	ata_put16(w, 120, 0x4000);
	ata_put16(w, 169, 0x0001); /* TRIM */
	ata_put16(w, 217, 0x0001); /* does not rotate */
	w[510] = 0xa5;
	for (unsigned i = 0; i < 510; i++)
		sum += w[i];
	w[511] = (u8)-sum;
	ata_reply_pio(s, w, sizeof(w));
}

/* Logs 00h (directory) and 10h (the failed NCQ command). */
static void read_log(struct ahci_slot *s)
{
	const struct ahci_port *p = s->port;
	u8 page[512] = { 0 }, sum = 0, which = s->in.lba & 0xff;

	if (s->in.count != 1 || (s->in.lba >> 8 & 0xff) || (s->in.lba >> 32 & 0xff) ||
	    (which && which != LOG_NCQ_ERROR)) {
		fail(s, ATA_ABRT);
		return;
	}
	if (!which) {
		ata_put16(page, 0, 1);
		ata_put16(page, LOG_NCQ_ERROR, 1);
	} else {
		page[0] = p->log_tag;
		page[2] = p->log_status;
		page[3] = p->log_error;
		for (unsigned i = 0; i < 6; i++)
			page[i < 3 ? 4 + i : 8 + i - 3] = (u8)(p->log_lba >> 8 * i);
		page[7] = 0x40;
		for (unsigned i = 0; i < 511; i++)
			sum += page[i];
		page[511] = (u8)-sum;
	}
	ata_reply_pio(s, page, sizeof(page));
}

/* ---- data ---- */

/* First sector and number of them: 28 bits, 48 bits, or those of a queued command. CHS is not supported. */
static bool decode_range(struct ahci_slot *s, bool ext, u64 *lba, u32 *n)
{
	if (!(s->in.device & 0x40))
		return false;
	if (s->queued) {
		*lba = s->in.lba;
		*n = s->in.features ? s->in.features : 65536;
	} else if (ext) {
		*lba = s->in.lba;
		*n = s->in.count ? s->in.count : 65536;
	} else {
		*lba = (s->in.lba & 0xffffff) | (u64)(s->in.device & 15) << 24;
		*n = (s->in.count & 0xff) ? s->in.count & 0xff : 256;
	}
	return *n <= s->port->sectors && *lba <= s->port->sectors - *n;
}

static void transfer(struct ahci_slot *s, bool ext, bool write, bool pio)
{
	u64 lba;
	u32 n;

	if (!decode_range(s, ext, &lba, &n)) {
		fail(s, ATA_IDNF);
		return;
	}
	if (write && block_readonly(s->port->drive.image)) {
		fail(s, ATA_ABRT);
		return;
	}
	s->pio = pio;
	s->to_guest = !write;
	s->fua = write && (!s->port->write_cache || (s->queued && (s->in.device & 0x80)));
	if (!ahci_map(s, n * SECTOR)) {
		fail(s, ATA_ABRT);
		return;
	}
	ahci_submit(s, write ? BLOCK_WRITE : BLOCK_READ, lba * SECTOR, (u64)n * SECTOR);
}

static void verify(struct ahci_slot *s, bool ext)
{
	u64 lba;
	u32 n;

	if (decode_range(s, ext, &lba, &n))
		done(s);
	else
		fail(s, ATA_IDNF);
}

static void queued(struct ahci_slot *s, bool write)
{
	if ((s->in.count >> 3 & 31) != s->tag)
		fail(s, ATA_ABRT);
	else
		transfer(s, true, write, false);
}

/* ---- TRIM (ATA8-ACS-2, 7.10) ---- */

static u64 trim_range(const struct ahci_slot *s, unsigned at, u32 *n)
{
	u64 v;

	memcpy(&v, s->trim + at, 8);
	*n = (u32)(v >> 48);
	return v & (BIT(48) - 1);
}

static void trim_next(struct ahci_slot *s)
{
	u32 n;

	while (s->trim_at < s->trim_len) {
		u64 lba = trim_range(s, s->trim_at, &n);

		s->trim_at += 8;
		if (!n)
			continue;
		ahci_submit(s, BLOCK_DISCARD, lba * SECTOR, (u64)n * SECTOR);
		return;
	}
	done(s);
}

static void trim(struct ahci_slot *s)
{
	u32 n;

	if (s->in.features != 1 || !s->in.count || s->in.count > TRIM_BLOCKS || block_readonly(s->port->drive.image)) {
		fail(s, ATA_ABRT);
		return;
	}
	s->trim_at = 0;
	s->trim_len = s->in.count * 512u;
	s->to_guest = false;
	if (!ahci_map(s, s->trim_len)) {
		fail(s, ATA_ABRT);
		return;
	}
	ahci_copy_out(s, s->trim, s->trim_len);
	s->moved = s->trim_len;
	for (unsigned at = 0; at < s->trim_len; at += 8) {
		u64 lba = trim_range(s, at, &n);

		if (n && (n > s->port->sectors || lba > s->port->sectors - n)) {
			fail(s, ATA_IDNF);
			return;
		}
	}
	trim_next(s);
}

/* ---- the rest ---- */

static void set_features(struct ahci_slot *s)
{
	struct ahci_port *p = s->port;
	u8 mode = (u8)s->in.count;

	switch (s->in.features & 0xff) {
	case 0x02:
		p->write_cache = true;
		break;
	case 0x82: /* what is in it goes out first */
		p->write_cache = false;
		ahci_submit(s, BLOCK_FLUSH, 0, 0);
		return;
	case 0x03: /* PIO default, PIO 3 and 4, multiword DMA 0 to 2, UDMA 0 to 5 */
		if (mode > 1 && !(mode >= 8 && mode <= 0x0c) && !(mode >= 0x20 && mode <= 0x22) &&
		    !(mode >= 0x40 && mode <= 0x45)) {
			fail(s, ATA_ABRT);
			return;
		}
		if (mode >= 0x20)
			p->transfer_mode = mode;
		break;
	case 0x55: /* look-ahead: means nothing here */
	case 0xaa:
	case 0x66: /* defaults over a soft reset */
	case 0xcc:
		break;
	default:
		fail(s, ATA_ABRT);
		return;
	}
	done(s);
}

bool ata_common(struct ahci_slot *s)
{
	switch (s->in.command) {
	case CMD_SET_FEATURES:
		set_features(s);
		return true;
	case CMD_STANDBY_IMMEDIATE ... CMD_STANDBY_IMMEDIATE + 3:
	case CMD_SLEEP:
		done(s);
		return true;
	case CMD_CHECK_POWER:
		s->out.count = 0xff; /* active */
		done(s);
		return true;
	case CMD_DIAGNOSTIC:
		ahci_signature(s->port, &s->out);
		ahci_finish(s, s->port->drive.cdrom ? 0 : ATA_GOOD, 1);
		return true;
	}
	return false;
}

static bool start_data(struct ahci_slot *s)
{
	switch (s->in.command) {
	case CMD_READ_DMA:
		transfer(s, false, false, false);
		return true;
	case CMD_READ_DMA_EXT:
		transfer(s, true, false, false);
		return true;
	case CMD_READ_SECTORS:
	case CMD_READ_SECTORS + 1:
	case CMD_READ_MULTIPLE:
		transfer(s, false, false, true);
		return true;
	case CMD_READ_SECTORS_EXT:
	case CMD_READ_MULTIPLE_EXT:
		transfer(s, true, false, true);
		return true;
	case CMD_WRITE_DMA:
		transfer(s, false, true, false);
		return true;
	case CMD_WRITE_DMA_EXT:
		transfer(s, true, true, false);
		return true;
	case CMD_WRITE_SECTORS:
	case CMD_WRITE_SECTORS + 1:
	case CMD_WRITE_MULTIPLE:
		transfer(s, false, true, true);
		return true;
	case CMD_WRITE_SECTORS_EXT:
	case CMD_WRITE_MULTIPLE_EXT:
		transfer(s, true, true, true);
		return true;
	case CMD_READ_FPDMA:
	case CMD_WRITE_FPDMA:
		queued(s, s->in.command == CMD_WRITE_FPDMA);
		return true;
	}
	return false;
}

void ata_start(struct ahci_slot *s)
{
	if (ata_common(s) || start_data(s))
		return;
	switch (s->in.command) {
	case CMD_IDENTIFY:
		identify(s);
		break;
	case CMD_READ_LOG_EXT:
		read_log(s);
		break;
	case CMD_FLUSH:
	case CMD_FLUSH_EXT:
		ahci_submit(s, BLOCK_FLUSH, 0, 0);
		break;
	case CMD_DATA_SET_MANAGEMENT:
		trim(s);
		break;
	case CMD_READ_VERIFY:
	case CMD_READ_VERIFY + 1:
		verify(s, false);
		break;
	case CMD_READ_VERIFY_EXT:
		verify(s, true);
		break;
	case CMD_SET_MULTIPLE:
		if ((s->in.count & 0xff) > MULTIPLE_MAX || (s->in.count & (s->in.count - 1) & 0xff))
			fail(s, ATA_ABRT);
		else
			done(s);
		break;
	case CMD_RECALIBRATE ... CMD_RECALIBRATE + 15:
	case CMD_SEEK:
	case CMD_INIT_PARAMETERS:
		done(s);
		break;
	default: /* NOP too */
		fail(s, ATA_ABRT);
	}
}

/* What the backend did is over. */
void ata_step(struct ahci_slot *s)
{
	struct disk_stats *st = &s->port->stats;
	enum block_op op = s->block.op;

	if (s->error) {
		ahci_log_error(s->port, op == BLOCK_READ ? "read" : op == BLOCK_WRITE ? "write" : "command", s->error);
		/* discarding is a hint */
		if (op != BLOCK_DISCARD) {
			fail(s, op == BLOCK_READ ? ATA_UNC : ATA_ABRT);
			return;
		}
	}
	switch (op) {
	case BLOCK_READ:
		s->moved = (u32)s->block.length;
		st->reads++;
		st->read_bytes += s->block.length;
		done(s);
		break;
	case BLOCK_WRITE:
		s->moved = (u32)s->block.length;
		st->writes++;
		st->written_bytes += s->block.length;
		if (s->fua)
			ahci_submit(s, BLOCK_FLUSH, 0, 0);
		else
			done(s);
		break;
	case BLOCK_DISCARD:
		st->discards++;
		trim_next(s);
		break;
	default:
		st->flushes++;
		done(s);
	}
}
