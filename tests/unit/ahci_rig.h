/*
 * An AHCI driver for tests, on dev_rig.h and block_fake.h: port 0 has a disk,
 * port 1 a CD-ROM drive, port 3 a readonly disk. Structures of port n lie in
 * guest RAM from ARIG_LIST(n) on, data from ARIG_DATA on.
 */
#ifndef ECTYPE_TESTS_AHCI_RIG_H
#define ECTYPE_TESTS_AHCI_RIG_H

#include "dev_rig.h"

#include "block_fake.h"
#include "dev/pci/q35.h"
#include "dev/storage/ahci.h"

#define ARIG_BAR 0xe0000000u
#define ARIG_DEVFN PCI_DEVFN(31, 2)
#define ARIG_LINE (16 + 7) /* of INTA# in slot 31, in r->level[] */

enum { HBA_GHC = 4, HBA_IS = 8 };
enum {
	CLB = 0x00,
	CLBU = 0x04,
	FB = 0x08,
	FBU = 0x0c,
	IS = 0x10,
	IE = 0x14,
	CMD = 0x18,
	TFD = 0x20,
	SIG = 0x24,
	SSTS = 0x28
};
enum { SCTL = 0x2c, SERR = 0x30, SACT = 0x34, CI = 0x38 };
#define CMD_ST 1u
#define CMD_FRE 0x10u
#define IS_DHRS 1u
#define IS_PSS 2u
#define IS_SDBS 8u
#define IS_PCS 0x40u
#define IS_HBFS 0x20000000u
#define IS_TFES 0x40000000u

#define ARIG_LIST(n) (0x10000u + (n)*0x10000u)
#define ARIG_FIS(n) (ARIG_LIST(n) + 0x400)
#define ARIG_TABLE(n, slot) (ARIG_LIST(n) + 0x1000 + (slot)*0x400u)
#define ARIG_DATA 0x100000u

#define ARIG_DISK 0
#define ARIG_CD 1
#define ARIG_READONLY 3
#define ARIG_SECTORS 1024u /* of 512 bytes */
#define ARIG_CD_SECTORS 64u

struct arig {
	struct pci_bus *bus;
	struct device *dev;
	struct block *image[AHCI_PORTS];
};

static inline struct arig *arig(struct rig *r)
{
	return r->extra;
}

static inline u8 *arig_ptr(struct rig *r, gpa_t a)
{
	return memory_ram(r->board.mem) + a;
}

static inline u32 arig_read(struct rig *r, unsigned off)
{
	u32 v = 0;

	memory_read(r->board.mem, ARIG_BAR + off, &v, 4);
	return v;
}
static inline void arig_write(struct rig *r, unsigned off, u32 v)
{
	memory_write(r->board.mem, ARIG_BAR + off, &v, 4);
}
static inline u32 arig_get(struct rig *r, unsigned port, unsigned reg)
{
	return arig_read(r, 0x100 + port * 0x80 + reg);
}
static inline void arig_set(struct rig *r, unsigned port, unsigned reg, u32 v)
{
	arig_write(r, 0x100 + port * 0x80 + reg, v);
}

/* The BAR, interrupts, and each port running. */
static inline void arig_start(struct rig *r)
{
	pci_config_write(arig(r)->bus, ARIG_DEVFN, PCI_BAR0 + 20, ARIG_BAR, 4);
	pci_config_write(arig(r)->bus, ARIG_DEVFN, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	arig_write(r, HBA_GHC, 0x80000002);
	for (unsigned n = 0; n < AHCI_PORTS; n++) {
		arig_set(r, n, CLB, ARIG_LIST(n));
		arig_set(r, n, CLBU, 0);
		arig_set(r, n, FB, ARIG_FIS(n));
		arig_set(r, n, FBU, 0);
		arig_set(r, n, CMD, CMD_FRE);
		arig_set(r, n, SERR, ~0u);
		arig_set(r, n, IS, ~0u);
		arig_set(r, n, IE, ~0u);
		arig_set(r, n, CMD, CMD_FRE | CMD_ST);
	}
}

static inline struct device *arig_init(struct rig *r)
{
	struct q35_config q35 = { .ecam_base = 0xb0000000 };
	struct ahci_config cfg = { 0 };
	struct arig *a = calloc(1, sizeof(*a));

	for (unsigned i = 0; i < PCI_LINES; i++)
		q35.gsi[i] = rig_irq(r, 16 + i);
	for (unsigned i = 0; i < 16; i++)
		q35.pic[i] = rig_irq(r, i);
	r->extra = a;
	a->bus = q35_bus(q35_create(&r->board, &q35));
	a->image[ARIG_DISK] = fake_image(ARIG_SECTORS * 512, true);
	a->image[ARIG_CD] = fake_image(ARIG_CD_SECTORS * 2048 + 512, true);
	a->image[ARIG_READONLY] = fake_image(ARIG_SECTORS * 512, true);
	a->image[ARIG_CD]->readonly = a->image[ARIG_READONLY]->readonly = true;
	for (unsigned n = 0; n < AHCI_PORTS; n++)
		cfg.drive[n] = (struct ahci_drive){ .image = a->image[n], .cdrom = n == ARIG_CD, .name = "drive" };
	cfg.drive[ARIG_DISK].serial = "serial";
	a->dev = ahci_create(&r->board, a->bus, &cfg);
	assert(a->dev);
	arig_start(r);
	return a->dev;
}

/* For rig_roundtrip(), which knows no images: they are freed by arig_free_images() once it is over. */
static struct block *arig_left[64];
static unsigned arig_left_n;

static inline struct device *arig_make(struct rig *r)
{
	struct device *d = arig_init(r);

	for (unsigned n = 0; n < AHCI_PORTS; n++)
		if (arig(r)->image[n])
			arig_left[arig_left_n++] = arig(r)->image[n];
	return d;
}

static inline void arig_free_images(void)
{
	while (arig_left_n)
		fake_free(arig_left[--arig_left_n]);
}

static inline struct rig *arig_create(enum door_mode mode)
{
	struct rig *r = rig_create();

	if (mode == DOOR_REAL) {
		door_destroy(r->board.door);
		r->board.door = door_create(DOOR_REAL, 0);
	}
	arig_init(r);
	return r;
}

static inline void arig_destroy(struct rig *r)
{
	struct arig a = *arig(r);

	rig_destroy(r);
	for (unsigned n = 0; n < AHCI_PORTS; n++)
		if (a.image[n])
			fake_free(a.image[n]);
}

/* A command FIS and its header; the PRD table stays. */
struct arig_command {
	u8 command, device, features;
	u16 count;
	u64 lba;
	const u8 *packet; /* 12 bytes */
	u8 packet_len;
};

static inline void arig_prd(struct rig *r, unsigned port, unsigned slot, unsigned i, u64 gpa, u32 bytes)
{
	u32 d[4] = { (u32)gpa, (u32)(gpa >> 32), 0, bytes - 1 };

	memcpy(arig_ptr(r, ARIG_TABLE(port, slot) + 0x80 + 16 * i), d, sizeof(d));
}

static inline void arig_prepare(struct rig *r, unsigned port, unsigned slot, const struct arig_command *c,
				unsigned prds)
{
	u8 *fis = arig_ptr(r, ARIG_TABLE(port, slot));
	u32 header[8] = { 5 | prds << 16, 0, ARIG_TABLE(port, slot) };
	const u8 f[20] = { 0x27,
			   0x80,
			   c->command,
			   c->features,
			   (u8)c->lba,
			   (u8)(c->lba >> 8),
			   (u8)(c->lba >> 16),
			   c->device,
			   (u8)(c->lba >> 24),
			   (u8)(c->lba >> 32),
			   (u8)(c->lba >> 40),
			   0,
			   (u8)c->count,
			   (u8)(c->count >> 8) };

	memset(fis, 0, 0x80);
	memcpy(fis, f, sizeof(f));
	if (c->packet)
		memcpy(fis + 0x40, c->packet, c->packet_len);
	memcpy(arig_ptr(r, ARIG_LIST(port) + 32 * slot), header, sizeof(header));
}

static inline u32 arig_moved(struct rig *r, unsigned port, unsigned slot)
{
	u32 v;

	memcpy(&v, arig_ptr(r, ARIG_LIST(port) + 32 * slot + 4), 4);
	return v;
}

#endif
