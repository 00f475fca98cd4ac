/*
 * ATAPI CD-ROM drives: a read-only drive with one track of data (SPC-3, MMC-5).
 * The image is the disc; the tray can be opened and closed by the guest.
 */
#include <string.h>

#include "dev/storage/ahci_internal.h"

#define LEAD_OUT 0xaa
#define READ_MAX 65536u /* sectors in one command: who stops the port waits for it */

enum {
	CMD_DEVICE_RESET = 0x08,
	CMD_PACKET = 0xa0,
	CMD_IDENTIFY_PACKET = 0xa1,
	CMD_IDENTIFY = 0xec,
	CMD_READ_SECTORS = 0x20,
};

enum {
	TEST_UNIT_READY = 0x00,
	REQUEST_SENSE = 0x03,
	INQUIRY = 0x12,
	MODE_SENSE_6 = 0x1a,
	START_STOP_UNIT = 0x1b,
	PREVENT_REMOVAL = 0x1e,
	READ_CAPACITY = 0x25,
	READ_10 = 0x28,
	SEEK_10 = 0x2b,
	VERIFY_10 = 0x2f,
	SYNCHRONIZE_CACHE = 0x35,
	READ_TOC = 0x43,
	GET_CONFIGURATION = 0x46,
	GET_EVENT_STATUS = 0x4a,
	READ_DISC_INFORMATION = 0x51,
	READ_TRACK_INFORMATION = 0x52,
	MODE_SENSE_10 = 0x5a,
	READ_12 = 0xa8,
	SET_CD_SPEED = 0xbb,
	MECHANISM_STATUS = 0xbd,
};

/* Sense key, additional sense code and qualifier */
#define NO_SENSE 0, 0, 0
#define NO_MEDIUM 0x2, 0x3a, 0x02 /* tray open */
#define READ_ERROR 0x3, 0x11, 0x00
#define BAD_COMMAND 0x5, 0x20, 0x00
#define BAD_ADDRESS 0x5, 0x21, 0x00
#define BAD_FIELD 0x5, 0x24, 0x00
#define REMOVAL_PREVENTED 0x5, 0x53, 0x02

static void put_be(u8 *p, u32 v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		p[i] = (u8)(v >> 8 * (n - 1 - i));
}

static u32 get_be(const u8 *p, unsigned n)
{
	u32 v = 0;

	for (unsigned i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

void atapi_reset(struct ahci_port *p)
{
	p->tray_open = p->locked = false;
	p->sense_key = p->asc = p->ascq = 0;
}

/* The interrupt reason register is the low byte of the count: command complete, to the host. */
static void good(struct ahci_slot *s)
{
	s->out.count = 3;
	ahci_finish(s, ATA_GOOD, 0);
}

static void sense(struct ahci_port *p, u8 key, u8 asc, u8 ascq)
{
	p->sense_key = key;
	p->asc = asc;
	p->ascq = ascq;
}

static void check(struct ahci_slot *s, u8 key, u8 asc, u8 ascq)
{
	sense(s->port, key, asc, ascq);
	s->out.count = 3;
	ahci_finish(s, ATA_GOOD | ATA_ERR, (u8)(key << 4 | (key == 5 ? ATA_ABRT : 0)));
}

/* What the host wants of `n` bytes, at most `allocated`. */
static void reply(struct ahci_slot *s, const u8 *data, u32 n, u32 allocated)
{
	u32 room;

	s->to_guest = true;
	n = MIN(n, allocated);
	room = ahci_room(s, n);
	if (!ahci_map(s, room)) {
		check(s, BAD_FIELD);
		return;
	}
	ahci_copy_in(s, data, room);
	s->moved = room;
	good(s);
}

/* ---- commands without a disc ---- */

static void request_sense(struct ahci_slot *s)
{
	const struct ahci_port *p = s->port;
	u8 b[18] = { 0x70, 0, p->sense_key, [7] = 10, [12] = p->asc, p->ascq };

	sense(s->port, NO_SENSE);
	reply(s, b, sizeof(b), s->packet[4]);
}

static void inquiry(struct ahci_slot *s)
{
	static const u8 b[36] = { 0x05, 0x80, 0x05, 0x32, 31,  0,   0,	 0,   'E', 'C', 'T', 'Y',
				  'P',	'E',  ' ',  ' ',  'C', 'D', '-', 'R', 'O', 'M', ' ', ' ',
				  ' ',	' ',  ' ',  ' ',  ' ', ' ', ' ', ' ', '1', '.', '0', ' ' };

	if (s->packet[1] & 1) /* vital product data */
		check(s, BAD_FIELD);
	else
		reply(s, b, sizeof(b), get_be(s->packet + 3, 2));
}

static void start_stop(struct ahci_slot *s)
{
	struct ahci_port *p = s->port;

	if ((s->packet[4] & 3) == 2 && p->locked) {
		check(s, REMOVAL_PREVENTED);
		return;
	}
	if (s->packet[4] & 2) /* LoEj: start closes, stop opens */
		p->tray_open = !(s->packet[4] & 1);
	good(s);
}

/* MMC-5, 6.6: feature descriptors. A drive without a disc has no current profile. */
static void get_configuration(struct ahci_slot *s)
{
	bool disc = !s->port->tray_open;
	u8 b[8 + 12 + 12 + 8 + 8] = { [7] = disc ? 0x08 : 0 }, *f = b + 8;
	u32 first = get_be(s->packet + 2, 2);
	unsigned type = s->packet[1] & 3;

	if (type == 3) {
		check(s, BAD_FIELD);
		return;
	}
	if (type == 2 ? first == 0 : first == 0) { /* profile list: CD-ROM */
		const u8 d[] = { 0, 0, 0x03, 4, 0, 0x08, disc, 0 };

		memcpy(f, d, sizeof(d));
		f += sizeof(d);
	}
	if (type == 2 ? first == 1 : first <= 1) { /* core: ATAPI */
		const u8 d[] = { 0, 1, 0x07, 8, 0, 0, 0, 2, 0, 0, 0, 0 };

		memcpy(f, d, sizeof(d));
		f += sizeof(d);
	}
	if (type == 2 ? first == 3 : first <= 3) { /* removable medium: tray, eject, lock */
		const u8 d[] = { 0, 3, 0x03, 4, 0x29, 0, 0, 0 };

		memcpy(f, d, sizeof(d));
		f += sizeof(d);
	}
	if ((type == 2 ? first == 0x1e : first <= 0x1e) && (disc || type != 1)) { /* CD read */
		const u8 d[] = { 0, 0x1e, 0x08 | disc, 4, 0, 0, 0, 0 };

		memcpy(f, d, sizeof(d));
		f += sizeof(d);
	}
	put_be(b, (u32)(f - b - 4), 4);
	reply(s, b, (u32)(f - b), get_be(s->packet + 7, 2));
}

static void get_event_status(struct ahci_slot *s)
{
	const struct ahci_port *p = s->port;
	u8 b[8] = { 0, 6, 4, 0x10, 0, p->tray_open ? 1 : 2 }; /* media class: no event, what there is */

	if (!(s->packet[1] & 1)) {
		check(s, BAD_FIELD); /* asynchronous */
		return;
	}
	if (!(s->packet[4] & 0x10)) {
		static const u8 none[4] = { 0, 2, 0x80, 0x10 };

		reply(s, none, sizeof(none), get_be(s->packet + 7, 2));
		return;
	}
	reply(s, b, sizeof(b), get_be(s->packet + 7, 2));
}

/* Page 2Ah, capabilities (MMC-3), and 01h, error recovery. */
static unsigned mode_pages(const struct ahci_port *p, unsigned page, u8 *to)
{
	static const u8 recovery[8] = { 0x01, 6, 0, 5 };
	u8 caps[22] = { 0x2a, 20, 0x3b, 0, 0x70, 0, 0x29 | (p->locked ? 2 : 0), 0, 0x02, 0xc2, 0, 2, 0, 0, 0x02, 0xc2 };
	unsigned n = 0;

	if (page == 0x01 || page == 0x3f) {
		memcpy(to, recovery, sizeof(recovery));
		n += sizeof(recovery);
	}
	if (page == 0x2a || page == 0x3f) {
		memcpy(to + n, caps, sizeof(caps));
		n += sizeof(caps);
	}
	return n;
}

static void mode_sense(struct ahci_slot *s, bool ten)
{
	unsigned head = ten ? 8 : 4, n;
	u8 b[64] = { 0 };

	if ((s->packet[2] >> 6) == 3) { /* saved values */
		check(s, BAD_FIELD);
		return;
	}
	n = mode_pages(s->port, s->packet[2] & 0x3f, b + head);
	if (!n) {
		check(s, BAD_FIELD);
		return;
	}
	if (ten)
		put_be(b, head + n - 2, 2);
	else
		b[0] = (u8)(head + n - 1);
	reply(s, b, head + n, ten ? get_be(s->packet + 7, 2) : s->packet[4]);
}

static void mechanism_status(struct ahci_slot *s)
{
	const u8 b[8] = { 0, s->port->tray_open ? 0x10 : 0, [5] = 1 };

	reply(s, b, sizeof(b), get_be(s->packet + 8, 2));
}

/* ---- commands with a disc ---- */

static void put_address(u8 *p, u32 lba, bool msf)
{
	if (!msf) {
		put_be(p, lba, 4);
		return;
	}
	lba += 150;
	p[0] = 0;
	p[1] = (u8)MIN(lba / 75 / 60, 255);
	p[2] = (u8)(lba / 75 % 60);
	p[3] = (u8)(lba % 75);
}

static void read_toc(struct ahci_slot *s)
{
	u32 sectors = (u32)s->port->sectors;
	unsigned format = s->packet[2] & 15, first = s->packet[6], n = 4;
	bool msf = s->packet[1] & 2;
	u8 b[20] = { 0, 0, 1, 1 };

	if (!format)
		format = s->packet[9] >> 6; /* as old drivers ask */
	if (format > 1 || (!format && first > 1 && first != LEAD_OUT)) {
		check(s, BAD_FIELD);
		return;
	}
	if (format == 1 || first <= 1) { /* data track 1; with format 1 the first of the last session */
		b[n + 1] = 0x14;
		b[n + 2] = 1;
		put_address(b + n + 4, 0, msf);
		n += 8;
	}
	if (!format) {
		b[n + 1] = 0x14;
		b[n + 2] = LEAD_OUT;
		put_address(b + n + 4, sectors, msf);
		n += 8;
	}
	put_be(b, n - 2, 2);
	reply(s, b, n, get_be(s->packet + 7, 2));
}

static void read_capacity(struct ahci_slot *s)
{
	u8 b[8];

	put_be(b, (u32)s->port->sectors - 1, 4);
	put_be(b + 4, CD_SECTOR, 4);
	reply(s, b, sizeof(b), sizeof(b));
}

static void read_disc_information(struct ahci_slot *s)
{
	u8 b[34] = { 0, 32, 0x0e, 1, 1, 1, 1, 0x20 }; /* complete, one session, one track */

	memset(b + 16, 0xff, 8);
	reply(s, b, sizeof(b), get_be(s->packet + 7, 2));
}

static void read_track_information(struct ahci_slot *s)
{
	u8 b[28] = { 0, 26, 1, 1, 0, 0x04, 0x01 };

	put_be(b + 24, (u32)s->port->sectors, 4);
	reply(s, b, sizeof(b), get_be(s->packet + 7, 2));
}

static void read_sectors(struct ahci_slot *s, u32 lba, u32 n)
{
	if (n > s->port->sectors || lba > s->port->sectors - n) {
		check(s, BAD_ADDRESS);
		return;
	}
	if (!n) {
		good(s);
		return;
	}
	s->to_guest = true;
	if (n > READ_MAX || !ahci_map(s, n * CD_SECTOR)) {
		check(s, BAD_FIELD);
		return;
	}
	ahci_submit(s, BLOCK_READ, (u64)lba * CD_SECTOR, (u64)n * CD_SECTOR);
}

static void with_disc(struct ahci_slot *s)
{
	const u8 *c = s->packet;

	if (s->port->tray_open) {
		check(s, NO_MEDIUM);
		return;
	}
	switch (c[0]) {
	case READ_CAPACITY:
		read_capacity(s);
		break;
	case READ_10:
		read_sectors(s, get_be(c + 2, 4), get_be(c + 7, 2));
		break;
	case READ_12:
		read_sectors(s, get_be(c + 2, 4), get_be(c + 6, 4));
		break;
	case READ_TOC:
		read_toc(s);
		break;
	case READ_DISC_INFORMATION:
		read_disc_information(s);
		break;
	case READ_TRACK_INFORMATION:
		read_track_information(s);
		break;
	case SEEK_10:
		if (get_be(c + 2, 4) >= s->port->sectors)
			check(s, BAD_ADDRESS);
		else
			good(s);
		break;
	default: /* TEST UNIT READY, VERIFY */
		good(s);
	}
}

static void packet(struct ahci_slot *s)
{
	s->pio = !(s->in.features & 1);
	switch (s->packet[0]) {
	case REQUEST_SENSE:
		request_sense(s);
		return;
	case INQUIRY:
		inquiry(s);
		return;
	case START_STOP_UNIT:
		start_stop(s);
		return;
	case PREVENT_REMOVAL:
		s->port->locked = s->packet[4] & 1;
		good(s);
		return;
	case GET_CONFIGURATION:
		get_configuration(s);
		return;
	case GET_EVENT_STATUS:
		get_event_status(s);
		return;
	case MODE_SENSE_6:
	case MODE_SENSE_10:
		mode_sense(s, s->packet[0] == MODE_SENSE_10);
		return;
	case MECHANISM_STATUS:
		mechanism_status(s);
		return;
	case SYNCHRONIZE_CACHE:
	case SET_CD_SPEED:
		good(s);
		return;
	case TEST_UNIT_READY:
	case READ_CAPACITY:
	case READ_10:
	case READ_12:
	case READ_TOC:
	case READ_DISC_INFORMATION:
	case READ_TRACK_INFORMATION:
	case SEEK_10:
	case VERIFY_10:
		with_disc(s);
		return;
	default:
		check(s, BAD_COMMAND);
	}
}

/* ---- ATA commands of a packet device ---- */

static void identify_packet(struct ahci_slot *s)
{
	const struct ahci_port *p = s->port;
	bool udma = (p->transfer_mode & 0xf8) == 0x40;
	bool mwdma = (p->transfer_mode & 0xf8) == 0x20;
	char serial[AHCI_SERIAL_LEN + 1];
	u8 w[512] = { 0 };

	ata_put16(w, 0, 0x85c0); /* CD-ROM, removable, 12-byte packets, data at once */
	ata_serial(p, serial);
	ata_text(w + 2 * 10, 20, serial);
	ata_text(w + 2 * 23, 8, "1.0");
	ata_text(w + 2 * 27, 40, "Ectype CD-ROM");
	ata_put16(w, 49, 0x0b00); /* DMA, LBA, IORDY */
	ata_put16(w, 53, 0x0006);
	ata_put16(w, 63, 0x07 | (mwdma ? 0x100u << (p->transfer_mode & 7) : 0));
	ata_put16(w, 64, 0x03);
	for (unsigned i = 65; i <= 68; i++)
		ata_put16(w, i, 120);
	ata_put16(w, 76, 0x0002); /* 1.5 Gbit/s */
	ata_put16(w, 80, 0x01f0);
	ata_put16(w, 82, 0x4210); /* NOP, DEVICE RESET, PACKET */
	ata_put16(w, 83, 0x4000);
	ata_put16(w, 84, 0x4000);
	ata_put16(w, 85, 0x4210);
	ata_put16(w, 87, 0x4000);
	ata_put16(w, 88, 0x3f | (udma ? 0x100u << (p->transfer_mode & 7) : 0));
	ata_reply_pio(s, w, sizeof(w));
}

void atapi_start(struct ahci_slot *s)
{
	switch (s->in.command) {
	case CMD_PACKET:
		packet(s);
		return;
	case CMD_IDENTIFY_PACKET:
		identify_packet(s);
		return;
	case CMD_DEVICE_RESET:
		ahci_signature(s->port, &s->out);
		ahci_finish(s, 0, 1);
		return;
	case CMD_IDENTIFY: /* aborted with the signature: so the host knows what this is (ATA8-ACS, 7.16.5) */
	case CMD_READ_SECTORS:
		ahci_signature(s->port, &s->out);
		break;
	default:
		if (ata_common(s))
			return;
	}
	ahci_finish(s, ATA_DRDY | ATA_ERR, ATA_ABRT);
}

void atapi_step(struct ahci_slot *s)
{
	struct disk_stats *st = &s->port->stats;

	if (s->error) {
		ahci_log_error(s->port, "read", s->error);
		check(s, READ_ERROR);
		return;
	}
	if (s->block.op == BLOCK_READ) {
		s->moved = (u32)s->block.length;
		st->reads++;
		st->read_bytes += s->block.length;
	}
	good(s);
}
