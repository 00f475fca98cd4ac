/* The SATA controller over images in memory: a driver as AHCI 1.3.1 has it, and one that breaks what rules it likes. */
#include <endian.h>
#include <errno.h>
#include <pthread.h>

#include "ahci_rig.h"
#include <cmocka.h>

enum {
	READ_DMA_EXT = 0x25,
	WRITE_DMA_EXT = 0x35,
	READ_SECTORS_EXT = 0x24,
	READ_FPDMA = 0x60,
	WRITE_FPDMA = 0x61,
	READ_LOG = 0x2f,
	TRIM = 0x06,
	PACKET = 0xa0,
	IDENTIFY_PACKET = 0xa1,
	FLUSH_EXT = 0xea,
	IDENTIFY = 0xec,
	SET_FEATURES = 0xef,
};
enum { GOOD = 0x50, BAD = 0x51, ABRT = 4, IDNF = 0x10, UNC = 0x40 };

static void restart(struct rig *r, unsigned port)
{
	arig_set(r, port, CMD, CMD_FRE);
	arig_set(r, port, IS, ~0u);
	arig_set(r, port, CMD, CMD_FRE | CMD_ST);
}

/* One command in slot 0 with `bytes` of data at ARIG_DATA; the task file, whose error is cleared up. */
static u32 command(struct rig *r, unsigned port, const struct arig_command *c, u32 bytes)
{
	u32 tfd;

	if (bytes)
		arig_prd(r, port, 0, 0, ARIG_DATA, bytes);
	arig_prepare(r, port, 0, c, bytes ? 1 : 0);
	arig_set(r, port, IS, ~0u);
	arig_set(r, port, CI, 1);
	door_deliver(r->board.door, 0);
	tfd = arig_get(r, port, TFD);
	if (tfd & 1) {
		assert_true(arig_get(r, port, IS) & IS_TFES);
		assert_int_equal(arig_get(r, port, CI), 1);
		restart(r, port);
	} else {
		assert_true(arig_get(r, port, IS) & IS_DHRS);
		assert_int_equal(arig_get(r, port, CI), 0);
	}
	assert_int_equal(tfd & 0x80, 0);
	return tfd;
}

static u32 rw(struct rig *r, unsigned port, u8 cmd, u64 lba, u16 n, u32 bytes)
{
	const struct arig_command c = { .command = cmd, .device = 0x40, .lba = lba, .count = n };

	return command(r, port, &c, bytes);
}

static u32 packet(struct rig *r, const u8 *cdb, u32 bytes)
{
	const struct arig_command c = { .command = PACKET, .features = 1, .packet = cdb, .packet_len = 12 };

	memset(arig_ptr(r, ARIG_DATA), 0xee, 4096);
	return command(r, ARIG_CD, &c, bytes);
}

/* Key, code and qualifier of the last error, as a number. */
static u32 sense(struct rig *r)
{
	const u8 *d = arig_ptr(r, ARIG_DATA);

	assert_int_equal(packet(r, (u8[12]){ 0x03, 0, 0, 0, 18 }, 18), GOOD);
	assert_int_equal(d[0], 0x70);
	return d[2] << 16 | d[12] << 8 | d[13];
}

/* ---- registers ---- */

static void registers(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);

	assert_int_equal(arig_read(r, 0) & 0x1f, AHCI_PORTS - 1);
	assert_int_equal(arig_read(r, 0x0c), 0x3f);
	assert_int_equal(arig_read(r, 0x10), 0x00010300);
	assert_int_equal(arig_get(r, ARIG_DISK, SSTS), 0x113);
	assert_int_equal(arig_get(r, ARIG_DISK, SIG), 0x00000101);
	assert_int_equal(arig_get(r, ARIG_CD, SIG), 0xeb140101);
	assert_int_equal(arig_get(r, 2, SSTS), 0);
	assert_int_equal(arig_get(r, 2, SIG), 0xffffffff);
	assert_int_equal(arig_get(r, 2, TFD), 0x7f);
	/* a reset of the link is announced, and says again what is there */
	memset(arig_ptr(r, ARIG_FIS(0)), 0, 256);
	arig_set(r, 0, CMD, CMD_FRE);
	arig_set(r, 0, SCTL, 0x301);
	assert_int_equal(arig_get(r, 0, SSTS), 0);
	assert_int_equal(arig_get(r, 0, SIG), 0xffffffff);
	arig_set(r, 0, SCTL, 0x300);
	assert_int_equal(arig_get(r, 0, SSTS), 0x113);
	assert_int_equal(arig_get(r, 0, SIG), 0x00000101);
	assert_int_equal(arig_ptr(r, ARIG_FIS(0) + 0x40)[0], 0x34);
	assert_true(arig_get(r, 0, IS) & IS_PCS);
	assert_true(r->level[ARIG_LINE]);
	assert_int_equal(arig_read(r, HBA_IS), 1);
	arig_set(r, 0, SERR, ~0u);
	assert_false(r->level[ARIG_LINE]);
	/* an empty port does not run */
	arig_set(r, 2, CI, 1);
	assert_int_equal(arig_get(r, 2, CI), 1);
	arig_write(r, HBA_GHC, 0x80000001);
	assert_int_equal(arig_read(r, HBA_GHC), 0x80000000);
	assert_int_equal(arig_get(r, 2, CI), 0);
	assert_int_equal(arig_get(r, 0, CMD) & (CMD_ST | CMD_FRE), 0);
	arig_destroy(r);
}

static void soft_reset(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const struct arig_command c = { 0 };

	for (unsigned port = 0; port < 2; port++) {
		for (unsigned srst = 1; srst < 2; srst--) {
			arig_prepare(r, port, 0, &c, 0);
			arig_ptr(r, ARIG_TABLE(port, 0))[1] = 0; /* not a command: the control register */
			arig_ptr(r, ARIG_TABLE(port, 0))[15] = (u8)(srst << 2);
			arig_set(r, port, CI, 1);
			assert_int_equal(arig_get(r, port, CI), 0);
		}
		assert_int_equal(arig_ptr(r, ARIG_FIS(port) + 0x40)[5], port == ARIG_CD ? 0x14 : 0);
		assert_int_equal(arig_ptr(r, ARIG_FIS(port) + 0x40)[6], port == ARIG_CD ? 0xeb : 0);
	}
	arig_destroy(r);
}

/* ---- disks ---- */

static void identify(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const u8 *d = arig_ptr(r, ARIG_DATA);
	u8 sum = 0;

	assert_int_equal(rw(r, 0, IDENTIFY, 0, 0, 512), GOOD);
	assert_int_equal(arig_moved(r, 0, 0), 512);
	assert_int_equal(arig_ptr(r, ARIG_FIS(0) + 0x20)[0], 0x5f);
	assert_memory_equal(d + 20, "es", 2); /* "serial": the first character is the high byte */
	assert_int_equal(le32toh(*(const u32 *)(d + 120)), ARIG_SECTORS);
	assert_int_equal(le32toh(*(const u32 *)(d + 200)), ARIG_SECTORS);
	for (unsigned i = 0; i < 512; i++)
		sum += d[i];
	assert_int_equal(sum, 0);
	/* less room than data: what fits */
	assert_int_equal(rw(r, 0, IDENTIFY, 0, 0, 64), GOOD);
	assert_int_equal(arig_moved(r, 0, 0), 64);
	/* a CD-ROM drive refuses, with its signature */
	assert_int_equal(rw(r, ARIG_CD, IDENTIFY, 0, 0, 512) & 0xff01, ABRT << 8 | 1);
	assert_int_equal(arig_ptr(r, ARIG_FIS(ARIG_CD) + 0x40)[6], 0xeb);
	assert_int_equal(rw(r, ARIG_CD, IDENTIFY_PACKET, 0, 0, 512), GOOD);
	assert_int_equal(d[1], 0x85);
	arig_destroy(r);
}

static void transfers(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	struct block *b = arig(r)->image[0];
	u8 *d = arig_ptr(r, ARIG_DATA);

	assert_int_equal(rw(r, 0, READ_DMA_EXT, 5, 2, 1024), GOOD);
	assert_memory_equal(d, b->data + 5 * 512, 1024);
	assert_int_equal(arig_moved(r, 0, 0), 1024);
	assert_true(r->level[ARIG_LINE]);
	arig_set(r, 0, IS, ~0u);
	assert_false(r->level[ARIG_LINE]);
	assert_int_equal(rw(r, 0, READ_SECTORS_EXT, ARIG_SECTORS - 1, 1, 512), GOOD);
	assert_memory_equal(d, b->data + (ARIG_SECTORS - 1) * 512, 512);
	memset(d, 0x77, 1024);
	assert_int_equal(rw(r, 0, WRITE_DMA_EXT, 100, 2, 1024), GOOD);
	assert_memory_equal(b->data + 100 * 512, d, 1024);
	/* 28 bits: the device register has four more; a count of 0 is 256 */
	assert_int_equal(rw(r, 0, 0xc8, 7, 0, 256 * 512), GOOD);
	assert_memory_equal(d, b->data + 7 * 512, 256 * 512);
	assert_int_equal(rw(r, 0, FLUSH_EXT, 0, 0, 0), GOOD);
	assert_int_equal(b->ops[b->submitted - 1], 'f');
	/* without a write cache each write is flushed */
	assert_int_equal(command(r, 0, &(struct arig_command){ .command = SET_FEATURES, .features = 0x82 }, 0), GOOD);
	assert_int_equal(rw(r, 0, WRITE_DMA_EXT, 0, 1, 512), GOOD);
	assert_int_equal(b->ops[b->submitted - 1], 'f');
	/* beyond the end, no LBA, unknown, more than the table describes */
	assert_int_equal(rw(r, 0, READ_DMA_EXT, ARIG_SECTORS - 1, 2, 1024), IDNF << 8 | BAD);
	assert_int_equal(rw(r, 0, READ_DMA_EXT, (1ull << 48) - 1, 1, 512), IDNF << 8 | BAD);
	assert_int_equal(rw(r, 0, READ_DMA_EXT, 0, 0, 512), IDNF << 8 | BAD);
	assert_int_equal(command(r, 0, &(struct arig_command){ .command = READ_DMA_EXT, .count = 1 }, 512),
			 IDNF << 8 | BAD);
	assert_int_equal(rw(r, 0, 0x00, 0, 0, 0), ABRT << 8 | BAD);
	assert_int_equal(rw(r, 0, 0xb0, 0, 0, 0), ABRT << 8 | BAD);
	assert_int_equal(rw(r, 0, READ_DMA_EXT, 0, 3, 1024), ABRT << 8 | BAD);
	/* the host's errors */
	b->error = EIO;
	assert_int_equal(rw(r, 0, READ_DMA_EXT, 0, 1, 512), UNC << 8 | BAD);
	assert_int_equal(rw(r, 0, WRITE_DMA_EXT, 0, 1, 512), ABRT << 8 | BAD);
	b->error = 0;
	assert_int_equal(ahci_stats(arig(r)->dev, 0)->errors, 2);
	assert_int_equal(rw(r, 0, READ_DMA_EXT, 0, 1, 512), GOOD);
	arig_destroy(r);
}

/* Pieces that are not whole sectors, in the middle of a page and apart. */
static void scattered(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const struct arig_command c = { .command = READ_DMA_EXT, .device = 0x40, .count = 4 };
	u8 got[2048];

	for (unsigned i = 0; i < 8; i++)
		arig_prd(r, 0, 0, i, ARIG_DATA + 0x1002 * (7 - i), 256);
	arig_prepare(r, 0, 0, &c, 8);
	arig_set(r, 0, CI, 1);
	for (unsigned i = 0; i < 8; i++)
		memcpy(got + 256 * i, arig_ptr(r, ARIG_DATA + 0x1002 * (7 - i)), 256);
	assert_memory_equal(got, arig(r)->image[0]->data, sizeof(got));
	arig_destroy(r);
}

static void readonly_disk(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);

	assert_int_equal(rw(r, ARIG_READONLY, READ_DMA_EXT, 0, 1, 512), GOOD);
	assert_int_equal(rw(r, ARIG_READONLY, WRITE_DMA_EXT, 0, 1, 512), ABRT << 8 | BAD);
	arig_prd(r, ARIG_READONLY, 0, 0, ARIG_DATA, 512);
	memset(arig_ptr(r, ARIG_DATA), 1, 512);
	assert_int_equal(
	    command(r, ARIG_READONLY, &(struct arig_command){ .command = TRIM, .features = 1, .count = 1 }, 512),
	    ABRT << 8 | BAD);
	assert_int_equal(arig(r)->image[ARIG_READONLY]->submitted, 1);
	arig_destroy(r);
}

static void trim(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const struct arig_command c = { .command = TRIM, .features = 1, .count = 1 };
	struct block *b = arig(r)->image[0];
	u64 range[64] = { htole64(10 | 2ull << 48), 0, htole64(20 | 1ull << 48) };

	memcpy(arig_ptr(r, ARIG_DATA), range, sizeof(range));
	assert_int_equal(command(r, 0, &c, 512), GOOD);
	assert_int_equal(ahci_stats(arig(r)->dev, 0)->discards, 2);
	assert_int_equal(b->data[10 * 512], 0);
	assert_int_equal(b->data[20 * 512 + 511], 0);
	/* one range beyond the end: none is done */
	range[2] = htole64((ARIG_SECTORS - 1) | 2ull << 48);
	memcpy(arig_ptr(r, ARIG_DATA), range, sizeof(range));
	assert_int_equal(command(r, 0, &c, 512), IDNF << 8 | BAD);
	assert_int_equal(ahci_stats(arig(r)->dev, 0)->discards, 2);
	assert_int_equal(command(r, 0, &(struct arig_command){ .command = TRIM, .features = 1, .count = 9 }, 512 * 9),
			 ABRT << 8 | BAD);
	arig_destroy(r);
}

/* ---- many at once ---- */

/* A queued command of one sector: its count is in the features. */
static void queue(struct rig *r, unsigned slot, u8 cmd, u64 lba)
{
	const struct arig_command c = {
		.command = cmd, .device = 0x40, .features = 1, .count = (u16)(slot << 3), .lba = lba
	};

	arig_prd(r, 0, slot, 0, ARIG_DATA + 512 * slot, 512);
	arig_prepare(r, 0, slot, &c, 1);
	arig_set(r, 0, SACT, 1u << slot);
	arig_set(r, 0, CI, 1u << slot);
}

static void queued(void **state)
{
	struct rig *r = arig_create(DOOR_REAL);
	struct block *b = arig(r)->image[0];

	b->wait = true;
	for (unsigned i = 0; i < 32; i++)
		queue(r, i, READ_FPDMA, i * 3);
	assert_int_equal(b->count, 32);
	assert_int_equal(arig_get(r, 0, CI), 0);
	assert_int_equal(arig_get(r, 0, SACT), 0xffffffff);
	/* the last ones first */
	fake_run(b, 8);
	assert_int_equal(arig_get(r, 0, SACT), 0xffffffff);
	door_deliver(r->board.door, 0);
	assert_int_equal(arig_get(r, 0, SACT), 0x00ffffff);
	assert_true(arig_get(r, 0, IS) & IS_SDBS);
	fake_run(b, 24);
	door_deliver(r->board.door, 0);
	assert_int_equal(arig_get(r, 0, SACT), 0);
	for (unsigned i = 0; i < 32; i++)
		assert_memory_equal(arig_ptr(r, ARIG_DATA + 512 * i), b->data + i * 3 * 512, 512);
	/* what the host has finished is found when there is more to start */
	queue(r, 0, READ_FPDMA, 7);
	b->ready = 1;
	queue(r, 1, READ_FPDMA, 8);
	assert_int_equal(arig_get(r, 0, SACT), 2); /* before the new one is started */
	assert_false(door_pending(r->board.door));
	b->ready = 1;
	queue(r, 2, READ_FPDMA, 9);
	fake_run(b, 1);
	door_deliver(r->board.door, 0);
	assert_int_equal(arig_get(r, 0, SACT), 0);
	/* one that is not queued waits for those that are */
	queue(r, 0, READ_FPDMA, 0);
	arig_prepare(r, 0, 1, &(struct arig_command){ .command = FLUSH_EXT }, 0);
	arig_set(r, 0, CI, 2);
	assert_int_equal(b->count, 1);
	fake_run(b, 1);
	door_deliver(r->board.door, 0);
	assert_int_equal(b->count, 1);
	assert_int_equal(b->ops[b->submitted - 1], 'f');
	fake_run(b, 1);
	door_deliver(r->board.door, 0);
	assert_int_equal(arig_get(r, 0, CI), 0);
	arig_destroy(r);
}

static void queued_error(void **state)
{
	struct rig *r = arig_create(DOOR_REAL);
	struct block *b = arig(r)->image[0];
	const u8 *page = arig_ptr(r, ARIG_DATA);

	b->wait = true;
	queue(r, 3, READ_FPDMA, 30);
	queue(r, 9, READ_FPDMA, 90);
	queue(r, 5, WRITE_FPDMA, ARIG_SECTORS); /* beyond the end */
	assert_true(arig_get(r, 0, IS) & IS_TFES);
	assert_int_equal(arig_get(r, 0, TFD), IDNF << 8 | BAD);
	queue(r, 6, READ_FPDMA, 0); /* the port has stopped */
	assert_int_equal(b->count, 2);
	fake_run(b, 2);
	door_deliver(r->board.door, 0);
	assert_int_equal(arig_get(r, 0, SACT), 1u << 3 | 1u << 9 | 1u << 5 | 1u << 6);
	restart(r, 0);
	assert_int_equal(arig_get(r, 0, SACT), 0);
	b->wait = false;
	assert_int_equal(rw(r, 0, READ_LOG, 0x10, 1, 512), GOOD);
	assert_int_equal(page[0], 5);
	assert_int_equal(page[2], BAD);
	assert_int_equal(page[3], IDNF);
	assert_int_equal(page[4] | page[5] << 8, ARIG_SECTORS);
	/* a queued command must name its slot */
	arig_prepare(r, 0, 2, &(struct arig_command){ .command = READ_FPDMA, .device = 0x40, .features = 1 }, 1);
	arig_set(r, 0, CI, 4);
	assert_int_equal(arig_get(r, 0, TFD), ABRT << 8 | BAD);
	arig_destroy(r);
}

static void *run_all(void *b)
{
	fake_run(b, 100);
	return NULL;
}

/* What stops a port waits for the backend; nothing is written to the guest or told to it later. */
static void stopped(void **state)
{
	for (unsigned how = 0; how < 4; how++) {
		struct rig *r = arig_create(DOOR_REAL);
		struct block *b = arig(r)->image[0];
		pthread_t t;

		b->wait = true;
		for (unsigned i = 0; i < 8; i++)
			queue(r, i, READ_FPDMA, i);
		if (how == 0) {
			arig_set(r, 0, CMD, CMD_FRE);
		} else if (how == 1) {
			arig_write(r, HBA_GHC, 0x80000001);
		} else if (how == 2) {
			arig_set(r, 0, SCTL, 1);
		} else {
			pthread_create(&t, NULL, run_all, b);
			pthread_join(t, NULL);
			arig(r)->dev->ops->reset(arig(r)->dev);
		}
		assert_int_equal(b->count, 0);
		assert_int_equal(arig_get(r, 0, SACT), 0);
		arig_set(r, 0, IS, ~0u);
		door_deliver(r->board.door, 0);
		assert_int_equal(arig_get(r, 0, IS) & ~IS_PCS, 0);
		arig_destroy(r);
	}
}

/* ---- CD-ROM ---- */

static void cd_reads(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	struct block *b = arig(r)->image[ARIG_CD];
	const u8 *d = arig_ptr(r, ARIG_DATA);

	assert_int_equal(packet(r, (u8[12]){ 0x00 }, 0), GOOD);
	assert_int_equal(packet(r, (u8[12]){ 0x12, 0, 0, 0, 36 }, 36), GOOD);
	assert_int_equal(d[0], 5);
	assert_int_equal(d[1], 0x80);
	assert_int_equal(packet(r, (u8[12]){ 0x12, 0, 0, 0, 8 }, 36), GOOD);
	assert_int_equal(arig_moved(r, ARIG_CD, 0), 8);
	assert_int_equal(d[8], 0xee);
	assert_int_equal(packet(r, (u8[12]){ 0x25 }, 8), GOOD);
	assert_memory_equal(d, ((u8[8]){ 0, 0, 0, ARIG_CD_SECTORS - 1, 0, 0, 8, 0 }), 8);
	assert_int_equal(packet(r, (u8[12]){ 0x28, 0, 0, 0, 0, 3, 0, 0, 2 }, 4096), GOOD);
	assert_memory_equal(d, b->data + 3 * 2048, 4096);
	assert_int_equal(packet(r, (u8[12]){ 0xa8, 0, 0, 0, 0, 63, 0, 0, 0, 1 }, 2048), GOOD);
	assert_memory_equal(d, b->data + 63 * 2048, 2048);
	assert_int_equal(packet(r, (u8[12]){ 0x28 }, 0), GOOD); /* of nothing */
	/* errors have their sense, once */
	assert_int_equal(packet(r, (u8[12]){ 0x28, 0, 0, 0, 0, 63, 0, 0, 2 }, 4096) & 1, 1);
	assert_int_equal(sense(r), 0x052100);
	assert_int_equal(sense(r), 0);
	assert_int_equal(packet(r, (u8[12]){ 0x28, 0, 0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff }, 4096) & 1, 1);
	assert_int_equal(sense(r), 0x052100);
	assert_int_equal(packet(r, (u8[12]){ 0x28, 0, 0, 0, 0, 0, 0, 0, 2 }, 2048) & 1, 1);
	assert_int_equal(sense(r), 0x052400); /* less room than data */
	assert_int_equal(packet(r, (u8[12]){ 0x2a, 0, 0, 0, 0, 0, 0, 0, 1 }, 2048) & 1, 1);
	assert_int_equal(sense(r), 0x052000); /* writing is unknown */
	b->error = EIO;
	assert_int_equal(packet(r, (u8[12]){ 0x28, 0, 0, 0, 0, 0, 0, 0, 1 }, 2048) & 1, 1);
	b->error = 0;
	assert_int_equal(sense(r), 0x031100);
	arig_destroy(r);
}

static void cd_tables(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const u8 *d = arig_ptr(r, ARIG_DATA);

	assert_int_equal(packet(r, (u8[12]){ 0x43, 0, 0, 0, 0, 0, 0, 0, 255 }, 256), GOOD);
	assert_memory_equal(d, ((u8[20]){ 0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 0, 64 }), 20);
	assert_int_equal(packet(r, (u8[12]){ 0x43, 2, 0, 0, 0, 0, 0xaa, 0, 255 }, 256), GOOD);
	assert_memory_equal(d, ((u8[12]){ 0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 2, 64 }), 12);
	assert_int_equal(packet(r, (u8[12]){ 0x43, 0, 0, 0, 0, 0, 7, 0, 255 }, 256) & 1, 1);
	assert_int_equal(packet(r, (u8[12]){ 0x46, 0, 0, 0, 0, 0, 0, 0, 255 }, 256), GOOD);
	assert_int_equal(d[7], 0x08);
	assert_int_equal(d[3] + 4u, arig_moved(r, ARIG_CD, 0));
	assert_int_equal(packet(r, (u8[12]){ 0x46, 2, 0, 0x1e, 0, 0, 0, 0, 255 }, 256), GOOD);
	assert_int_equal(arig_moved(r, ARIG_CD, 0), 16);
	assert_int_equal(packet(r, (u8[12]){ 0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 255 }, 256), GOOD);
	assert_int_equal(d[8], 0x2a);
	assert_int_equal(packet(r, (u8[12]){ 0x1a, 0, 0x3f, 0, 255 }, 256), GOOD);
	assert_int_equal(d[0] + 1u, arig_moved(r, ARIG_CD, 0));
	assert_int_equal(packet(r, (u8[12]){ 0x5a, 0, 0x0e, 0, 0, 0, 0, 0, 255 }, 256) & 1, 1);
	for (unsigned op = 0; op < 256; op++) /* each ends */
		packet(r, (u8[12]){ (u8)op, 1, 0x2a, 3, 4, 5, 6, 7, 8, 9, 10, 11 }, 4096);
	arig_destroy(r);
}

static void cd_tray(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	u8 open[12] = { 0x1b, 0, 0, 0, 2 }, close[12] = { 0x1b, 0, 0, 0, 3 }, lock[12] = { 0x1e, 0, 0, 0, 1 };
	u8 unlock[12] = { 0x1e }, status[12] = { 0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8 };
	const u8 *d = arig_ptr(r, ARIG_DATA);

	assert_int_equal(packet(r, lock, 0), GOOD);
	assert_int_equal(packet(r, open, 0) & 1, 1);
	assert_int_equal(sense(r), 0x055302);
	assert_int_equal(packet(r, unlock, 0), GOOD);
	assert_int_equal(packet(r, open, 0), GOOD);
	assert_int_equal(packet(r, (u8[12]){ 0x00 }, 0) & 1, 1);
	assert_int_equal(sense(r), 0x023a02);
	assert_int_equal(packet(r, status, 8), GOOD);
	assert_int_equal(d[5], 1);
	assert_int_equal(packet(r, close, 0), GOOD);
	assert_int_equal(packet(r, status, 8), GOOD);
	assert_int_equal(d[5], 2);
	assert_int_equal(packet(r, (u8[12]){ 0x00 }, 0), GOOD);
	arig_destroy(r);
}

/* ---- broken drivers ---- */

static void not_ram(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const struct arig_command c = { .command = READ_DMA_EXT, .device = 0x40, .count = 1 };
	u32 far[8] = { 5, 0, 0xe0000000 };

	/* the list, a table, data, the received FISes; also where the controller itself is */
	arig_set(r, 0, CLB, ARIG_BAR);
	arig_set(r, 0, CI, 1);
	assert_true(arig_get(r, 0, IS) & IS_HBFS);
	arig_set(r, 0, CLB, ARIG_LIST(0));
	restart(r, 0);
	memcpy(arig_ptr(r, ARIG_LIST(0)), far, sizeof(far));
	arig_set(r, 0, CI, 1);
	assert_true(arig_get(r, 0, IS) & IS_HBFS);
	restart(r, 0);
	for (unsigned i = 0; i < 3; i++) {
		arig_prd(r, 0, 0, 0, (u64[]){ ARIG_BAR, 2 * MiB - 256, ~1ull }[i], 512);
		arig_prepare(r, 0, 0, &c, 1);
		arig_set(r, 0, CI, 1);
		assert_int_equal(arig_get(r, 0, TFD), ABRT << 8 | BAD);
		restart(r, 0);
	}
	arig_set(r, 0, FB, ARIG_BAR);
	assert_int_equal(rw(r, 0, READ_DMA_EXT, 0, 1, 512), GOOD);
	arig_set(r, 0, FB, ARIG_FIS(0));
	/* not a FIS of a command; too short */
	arig_prepare(r, 0, 0, &c, 1);
	arig_ptr(r, ARIG_TABLE(0, 0))[0] = 0x34;
	arig_set(r, 0, CI, 1);
	assert_true(arig_get(r, 0, IS) & IS_HBFS);
	restart(r, 0);
	arig_prepare(r, 0, 0, &c, 1);
	arig_ptr(r, ARIG_LIST(0))[0] = 4;
	arig_set(r, 0, CI, 1);
	assert_true(arig_get(r, 0, IS) & IS_HBFS);
	restart(r, 0);
	assert_int_equal(rw(r, 0, READ_DMA_EXT, 0, 1, 512), GOOD);
	arig_destroy(r);
}

/* A function that is no bus master touches no memory. */
static void no_master(void **state)
{
	struct rig *r = arig_create(DOOR_VIRTUAL);
	const struct arig_command c = { .command = FLUSH_EXT };

	pci_config_write(arig(r)->bus, ARIG_DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
	arig_prepare(r, 0, 0, &c, 0);
	arig_set(r, 0, CI, 1);
	assert_int_equal(arig_get(r, 0, CI), 1);
	pci_config_write(arig(r)->bus, ARIG_DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	assert_int_equal(arig_get(r, 0, CI), 0);
	assert_int_equal(arig(r)->image[0]->submitted, 1);
	arig_destroy(r);
}

/* ---- records ---- */

static void poke(struct rig *r, struct device *d)
{
	arig_start(r);
	rw(r, 0, READ_DMA_EXT, 9, 2, 1024);
	command(r, 0, &(struct arig_command){ .command = SET_FEATURES, .features = 3, .count = 0x42 }, 0);
	queue(r, 4, WRITE_FPDMA, 7);
	packet(r, (u8[12]){ 0x1e, 0, 0, 0, 1 }, 0);
	packet(r, (u8[12]){ 0x2a }, 0);
	arig_set(r, 0, SCTL, 0x310);
}

static void roundtrip(void **state)
{
	rig_roundtrip(arig_make, poke);
	arig_free_images();
}

static struct rig *loaded(struct rig *from)
{
	struct encoder e = rig_save(arig(from)->dev);
	struct rig *to = arig_create(DOOR_REAL);

	memcpy(arig_ptr(to, 0), arig_ptr(from, 0), 2 * MiB);
	assert_int_equal(rig_check(arig(to)->dev, e.data, e.len), 0);
	arig(to)->image[0]->wait = true;
	rig_load(arig(to)->dev, e.data, e.len);
	enc_free(&e);
	return to;
}

/* Commands in flight are started again by who loads them, and not before the machine runs. */
static void in_flight(void **state)
{
	struct rig *a = arig_create(DOOR_REAL), *b;
	struct block *i = arig(a)->image[0];

	i->wait = true;
	for (unsigned n = 0; n < 5; n++)
		queue(a, n, READ_FPDMA, 10 * n);
	b = loaded(a);
	assert_int_equal(arig(b)->image[0]->count, 0);
	door_deliver(b->board.door, 0);
	assert_int_equal(arig(b)->image[0]->count, 5);
	fake_run(arig(b)->image[0], 5);
	door_deliver(b->board.door, 0);
	assert_int_equal(arig_get(b, 0, SACT), 0);
	for (unsigned n = 0; n < 5; n++)
		assert_memory_equal(arig_ptr(b, ARIG_DATA + 512 * n), i->data + 10 * n * 512, 512);
	arig_destroy(b);
	/* the guest has made something else of one meanwhile */
	arig_prepare(a, 0, 2, &(struct arig_command){ .command = FLUSH_EXT }, 0);
	b = loaded(a);
	door_deliver(b->board.door, 0);
	assert_true(arig_get(b, 0, IS) & IS_HBFS);
	arig_destroy(b);
	fake_run(i, 5);
	arig_destroy(a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(registers), cmocka_unit_test(soft_reset), cmocka_unit_test(identify),
		cmocka_unit_test(transfers), cmocka_unit_test(scattered),  cmocka_unit_test(readonly_disk),
		cmocka_unit_test(trim),	     cmocka_unit_test(queued),	   cmocka_unit_test(queued_error),
		cmocka_unit_test(stopped),   cmocka_unit_test(cd_reads),   cmocka_unit_test(cd_tables),
		cmocka_unit_test(cd_tray),   cmocka_unit_test(not_ram),	   cmocka_unit_test(no_master),
		cmocka_unit_test(roundtrip), cmocka_unit_test(in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
